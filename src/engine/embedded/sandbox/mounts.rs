//! The mounts of a sandbox: the root put together, /dev, /sys, what the step asks for, and the move into it. Paths within the root
//! are opened so that no link leads out of it.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};

use super::child::{Broken, broken};
use super::spec::{Mount, Root, Spec, What};
use crate::engine::embedded::files;

const NONE: Option<&str> = None;
/// How many links may be followed on the way to a mount's target.
const MOST_LINKS: usize = 40;

/// Device nodes of a sandbox: name, major, minor.
pub(super) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links beside them.
pub(super) const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// Mounts everything and goes inside; returns what had to be made for it, relative to the root.
pub(super) fn mount_all(spec: &Spec) -> Result<Vec<PathBuf>, Broken> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(broken("make mounts private"))?;
    nix::unistd::chdir(&spec.layers).map_err(broken("enter the store"))?;
    mount(Some("memory"), spec.memory.as_str(), Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
        .map_err(broken("mount memory"))?;
    let root = match spec.root {
        Root::Overlay => {
            // a folder that no disk has to make and to remove
            let root = Path::new(&spec.memory).join("root");
            std::fs::create_dir(&root).map_err(broken("make the root"))?;
            overlay(&spec.lower, Some((&spec.upper, &spec.work)), &root)?;
            root
        }
        Root::Copied | Root::Chroot => {
            mount(Some(spec.merged.as_str()), spec.merged.as_str(), NONE, MsFlags::MS_BIND, NONE).map_err(broken("bind the root"))?;
            PathBuf::from(&spec.merged)
        }
    };
    let mut inside = Inside::open_root(&root)?;
    let proc = inside.target(Path::new("/proc"), true)?;
    if !files::is_machine_root() {
        // within a user namespace a new /proc may be mounted only beside one that shows as much
        mount(Some("/proc"), &*own(&proc), NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).map_err(broken("bind /proc"))?;
    }
    let dev = inside.target(Path::new("/dev"), true)?;
    devices(&dev)?;
    let sys = inside.target(Path::new("/sys"), true)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if mount(Some("sysfs"), &*own(&sys), Some("sysfs"), quiet | MsFlags::MS_RDONLY, NONE).is_err() {
        // a user namespace may mount one only of a network of its own
        mount(Some("/sys"), &*own(&sys), NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).map_err(broken("bind /sys"))?;
        let path = inside.path(Path::new("/sys"))?;
        read_only(Path::new(&path)).map_err(broken("make /sys read-only"))?;
    }
    mask(&format!("{}/firmware", inside.path(Path::new("/sys"))?));
    for (number, wanted) in spec.mounts.iter().enumerate() {
        inside.mount(wanted, number, spec)?;
    }
    nix::unistd::chdir(&*own(&inside.root)).map_err(broken("enter the root"))?;
    match nix::unistd::pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).map_err(broken("leave the old root"))?,
        // the filter of a container that may mount, but not this; or a root that is no mount
        Err(Errno::EPERM | Errno::EINVAL | Errno::ENOSYS) => {
            mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(broken("move the root"))?;
            nix::unistd::chroot(".").map_err(broken("change the root"))?;
        }
        Err(errno) => return Err(broken("change the root")(errno)),
    }
    nix::unistd::chdir("/").map_err(broken("enter the root"))?;
    Ok(inside.stubs)
}

/// Whether parts of this process's /proc are hidden, as in a container: the kernel then lets a user namespace mount no whole one, and
/// what is here has to do.
pub(super) fn proc_is_covered() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    !files::is_machine_root() && points.any(|point| point.starts_with("/proc/") && point != "/proc/sys/fs/binfmt_misc")
}

/// What the kernel calls an open descriptor: a path for calls that take none.
fn own(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn link_of(fd: &impl AsRawFd) -> PathBuf {
    std::fs::read_link(own(fd)).unwrap_or_default()
}

fn overlay(lower: &[String], upper: Option<(&str, &str)>, target: &Path) -> Result<(), Broken> {
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = upper {
        options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
    }
    options.push_str(if files::is_machine_root() { ",redirect_dir=off,index=off,metacopy=off,xino=off" } else { ",userxattr,xino=off" });
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str())).map_err(broken("mount the layers"))
}

fn devices(dev: &OwnedFd) -> Result<(), Broken> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME;
    mount(Some("tmpfs"), &*own(dev), Some("tmpfs"), flags, Some("mode=755,size=65536k")).map_err(broken("mount /dev"))?;
    // the descriptor shows what was there before; by its path it is the new one
    let path = link_of(dev);
    let at = |name: &str| path.join(name);
    for (name, major, minor) in DEVICES {
        let made = mknodat(nix::fcntl::AT_FDCWD, &at(name), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), libc::makedev(major, minor));
        if made.is_err() {
            std::fs::File::create(at(name)).map_err(broken("make a device"))?;
            mount(Some(&Path::new("/dev").join(name)), &at(name), NONE, MsFlags::MS_BIND, NONE).map_err(broken("bind a device"))?;
        }
    }
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, at(name)).map_err(broken("make a link in /dev"))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        std::fs::create_dir(at(name)).map_err(broken("make a folder in /dev"))?;
    }
    let (nosuid, nodev, noexec) = (MsFlags::MS_NOSUID, MsFlags::MS_NODEV, MsFlags::MS_NOEXEC);
    let options = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount(Some("devpts"), &at("pts"), Some("devpts"), nosuid | noexec, options).map_err(broken("mount /dev/pts"))?;
    let options = Some("mode=1777,size=65536k");
    mount(Some("shm"), &at("shm"), Some("tmpfs"), nosuid | nodev | noexec, options).map_err(broken("mount /dev/shm"))?;
    // not every kernel has it, and hardly anything uses it
    let _ = mount(Some("mqueue"), &at("mqueue"), Some("mqueue"), nosuid | nodev | noexec, NONE);
    Ok(())
}

/// Hides a folder behind an empty one, or a file behind /dev/null; what is not there needs no hiding.
pub(super) fn mask(path: &str) {
    if mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE) == Err(Errno::ENOTDIR) {
        let _ = mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY | MsFlags::MS_NOSUID, Some("size=0"));
    }
}

/// Makes the mount at `path` and those below it read-only. What else they forbid stays: a user namespace could not take it away.
fn read_only(path: &Path) -> std::io::Result<()> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        namespace: u64,
    }
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, clear: 0, propagation: 0, namespace: 0 };
    let text = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let (flags, size) = (libc::AT_RECURSIVE, size_of::<Attributes>());
    // SAFETY: path and attributes live as long as the call and are laid out as mount_setattr(2) wants them
    let code = unsafe { libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, text.as_ptr(), flags, &raw const attributes, size) };
    if code < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes what is at `path` read-only.
pub(super) fn freeze(path: &str) {
    if mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).is_ok() {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let _ = mount(NONE, path, NONE, flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, NONE);
    }
}

/// Opens what a path leads to within a folder, which no link leaves.
fn within(folder: &Path, at: &str, target: &str) -> Result<OwnedFd, Broken> {
    let what = || format!("open `{at}` for the mount at `{target}`");
    let root = nix::fcntl::open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(broken(what()))?;
    openat2(&root, if at.is_empty() { "." } else { at }, in_root(OFlag::O_PATH)).map_err(broken(what()))
}

/// As [`within`], its real path.
pub(super) fn real_within(folder: &Path, at: &str, target: &str) -> Result<PathBuf, Broken> {
    within(folder, at, target).map(|fd| link_of(&fd))
}

/// A root seen from outside: no path in it leads out of it.
pub(super) struct Inside {
    root: OwnedFd,
    base: PathBuf,
    /// What had to be made, relative to the root.
    pub stubs: Vec<PathBuf>,
}

fn in_root(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

impl Inside {
    pub fn open_root(path: &Path) -> Result<Self, Broken> {
        let root = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let root = root.map_err(broken("open the root"))?;
        Ok(Self { base: link_of(&root), root, stubs: Vec::new() })
    }

    /// As [`Inside::target`], its real path.
    pub fn real_target(&mut self, path: &Path, folder: bool) -> Result<PathBuf, Broken> {
        self.target(path, folder).map(|fd| link_of(&fd))
    }

    fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        openat2(&self.root, relative, in_root(OFlag::O_PATH | flags))
    }

    fn path(&self, path: &Path) -> Result<String, Broken> {
        let fd = self.open(path, OFlag::empty()).map_err(broken(format!("open `{}`", path.display())))?;
        Ok(link_of(&fd).to_string_lossy().into_owned())
    }

    /// Opens a mount's target; makes it, and the folders to it, where they are not there. Links are followed inside the root, those
    /// that lead to nothing too.
    fn target(&mut self, path: &Path, folder: bool) -> Result<OwnedFd, Broken> {
        let what = || format!("make `{}`", path.display());
        let mut pending: Vec<OsString> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
        let mut current = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = pending.pop() {
            match part.as_bytes() {
                b"/" => {
                    current = PathBuf::from("/");
                    continue;
                }
                b"." => continue,
                b".." => {
                    current.pop();
                    continue;
                }
                _ => {}
            }
            let next = current.join(&part);
            match self.open(&next, OFlag::O_NOFOLLOW) {
                Ok(fd) => {
                    let link = nix::fcntl::readlinkat(&fd, "");
                    if let Ok(target) = link {
                        links += 1;
                        if links > MOST_LINKS {
                            return Err((what(), libc::ELOOP));
                        }
                        pending.extend(Path::new(&target).components().rev().map(|part| part.as_os_str().to_owned()));
                        continue;
                    }
                }
                Err(Errno::ENOENT) => self.stub(&current, &part, folder || !pending.is_empty()).map_err(broken(what()))?,
                Err(errno) => return Err(broken(what())(errno)),
            }
            current = next;
        }
        self.open(&current, OFlag::empty()).map_err(broken(what()))
    }

    /// Makes a mount point, and leaves the time of the folder it is in.
    fn stub(&mut self, parent: &Path, name: &OsStr, folder: bool) -> Result<(), Errno> {
        let fd = self.open(parent, OFlag::O_DIRECTORY)?;
        let path = link_of(&fd);
        let before = path.symlink_metadata().ok();
        if folder {
            mkdirat(&fd, name, Mode::from_bits_truncate(0o755))?;
        } else {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(&fd, name, flags, Mode::from_bits_truncate(0o644))?;
        }
        // whatever the umask of this process
        let _ = files::set_mode(&path.join(name), if folder { 0o755 } else { 0o644 });
        if let Some(before) = before {
            restore_times(&path, &before);
        }
        let relative = path.strip_prefix(&self.base).unwrap_or(Path::new("")).join(name);
        self.stubs.push(relative);
        Ok(())
    }

    fn mount(&mut self, wanted: &Mount, number: usize, spec: &Spec) -> Result<(), Broken> {
        let target = Path::new(&wanted.target);
        let what = || format!("mount `{}`", wanted.target);
        let source = match &wanted.what {
            What::Memory(size) => {
                let fd = self.target(target, true)?;
                let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
                let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                if wanted.read_only {
                    flags |= MsFlags::MS_RDONLY;
                }
                return mount(Some("tmpfs"), &*own(&fd), Some("tmpfs"), flags, Some(format!("mode=1777{size}").as_str()))
                    .map_err(broken(what()));
            }
            What::Host(path) => nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(broken(what()))?,
            What::Within(folder, at) => within(folder, at, &wanted.target)?,
            What::Content { bytes, mode, uid, gid } => {
                let path = Path::new(&spec.memory).join(number.to_string());
                let write = || -> std::io::Result<()> {
                    std::fs::File::create_new(&path)?.write_all(bytes)?;
                    files::set_owner(&path, *uid, *gid)?;
                    files::set_mode(&path, *mode)
                };
                write().map_err(broken(what()))?;
                nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(broken(what()))?
            }
            What::Stack { lower, upper, at, folder } => {
                overlay(lower, upper.as_ref().map(|(upper, work)| (upper.as_str(), work.as_str())), Path::new(folder))?;
                within(Path::new(folder), at, &wanted.target)?
            }
        };
        let is_folder = Path::new(&own(&source)).metadata().map_err(broken(what()))?.is_dir();
        let fd = self.target(target, is_folder)?;
        mount(Some(own(&source).as_str()), &*own(&fd), NONE, MsFlags::MS_BIND, NONE).map_err(broken(what()))?;
        if wanted.read_only {
            // what was just mounted lies at the path, not at the descriptor opened before
            let fd = self.open(&Path::new("/").join(link_of(&fd).strip_prefix(&self.base).unwrap_or(target)), OFlag::empty());
            let fd = fd.map_err(broken(what()))?;
            read_only(&link_of(&fd)).map_err(broken(what()))?;
        }
        Ok(())
    }
}

/// Gives a folder back the times that it had.
pub(super) fn restore_times(path: &Path, before: &std::fs::Metadata) {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let (accessed, modified) = (TimeSpec::new(before.atime(), before.atime_nsec()), TimeSpec::new(before.mtime(), before.mtime_nsec()));
    let _ = utimensat(nix::fcntl::AT_FDCWD, path, &accessed, &modified, UtimensatFlags::NoFollowSymlink);
}
