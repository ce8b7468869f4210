//! Small things about files that the standard library lacks: owners, modes, times, extended attributes, devices. Knows no image.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::failure::{Failure, Retry};

/// An attribute of an empty file that stands for what the kernel does not let this process make: `c` or `b`, and the device's number.
const STAND_IN: &str = "user.igraph.stand-in";

/// Whether this process is root of the machine, and not of a user namespace or of a container without rights over mounts: what it may
/// make, and how overlayfs marks things for it.
pub(super) fn is_machine_root() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    const SYS_ADMIN: u64 = 1 << 21;
    *IS.get_or_init(|| {
        // the number that the first user namespace has (PROC_USER_INIT_INO); maps say nothing, as another may have the same
        let first = std::fs::read_link("/proc/self/ns/user").is_ok_and(|link| link == Path::new("user:[4026531837]"));
        first && capabilities() & SYS_ADMIN != 0
    })
}

/// The capabilities that are in effect, as capability.h numbers them.
pub(super) fn capabilities() -> u64 {
    // header and data of version 3, as capget(2) lays them out: effective, permitted and inheritable, twice
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [0_u32; 6];
    // SAFETY: both live as long as the call and are of the size that version 3 has
    let code = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if code < 0 { 0 } else { u64::from(data[0]) | u64::from(data[3]) << 32 }
}

/// What overlayfs marks a directory with that hides all below it.
fn opaque_mark() -> &'static str {
    if is_machine_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" }
}

/// Turns an error of the disk into a failure.
pub(super) fn disk(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let failure = Failure::infra(format!("{what}: {error}"));
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => failure.retry(Retry::Never).group("disk"),
            Some(libc::EROFS | libc::EACCES | libc::EPERM) => failure.retry(Retry::Never),
            _ => failure,
        }
    }
}

/// Whether it is a hole in the layers below.
pub(super) fn is_whiteout(path: &Path, metadata: &Metadata) -> io::Result<bool> {
    Ok(device(path, metadata)? == Some((libc::S_IFCHR, 0)))
}

/// Kind and number of a device, or of what stands for one; `None` for anything else.
pub(super) fn device(path: &Path, metadata: &Metadata) -> io::Result<Option<(u32, u64)>> {
    let kind = metadata.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        return Ok(Some((metadata.mode() & libc::S_IFMT, metadata.rdev())));
    }
    if !kind.is_file() || metadata.len() > 0 {
        return Ok(None);
    }
    let value = match xattr::get(path, STAND_IN) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => None,
        other => other?,
    };
    let parsed = value.as_deref().and_then(|value| {
        let text = std::str::from_utf8(value).ok()?;
        let (kind, number) = text.split_at_checked(1)?;
        let kind = if kind == "c" { libc::S_IFCHR } else { libc::S_IFBLK };
        Some((kind, number.parse().ok()?))
    });
    Ok(parsed)
}

/// Whether a directory hides what layers below have in it.
pub(super) fn is_opaque(path: &Path) -> io::Result<bool> {
    match xattr::get(path, opaque_mark()) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        value => Ok(value?.is_some_and(|value| value == b"y")),
    }
}

/// Hides what layers below have in a directory.
pub(super) fn set_opaque(path: &Path) -> io::Result<()> {
    xattr::set(path, opaque_mark(), b"y")
}

/// Makes a whiteout.
pub(super) fn make_whiteout(path: &Path) -> io::Result<()> {
    make_device(path, SFlag::S_IFCHR, 0, 0)
}

/// Makes a device node, or what stands for it where this process may make none; or a pipe.
pub(super) fn make_device(path: &Path, kind: SFlag, mode: u32, device: u64) -> io::Result<()> {
    let letter = match kind {
        SFlag::S_IFCHR => 'c',
        SFlag::S_IFBLK => 'b',
        _ => ' ',
    };
    match mknodat(AT_FDCWD, path, kind, Mode::from_bits_truncate(mode & 0o7777), device) {
        Err(nix::errno::Errno::EPERM) if letter != ' ' => {
            std::fs::File::create_new(path)?;
            xattr::set(path, STAND_IN, format!("{letter}{device}").as_bytes())?;
            set_mode(path, mode)
        }
        other => Ok(other?),
    }
}

/// Sets the owner, of a link itself.
pub(super) fn set_owner(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|error| match error.raw_os_error() {
        // no id of this user namespace
        Some(libc::EINVAL) => {
            let message = format!(
                "the owner {uid}:{gid} of `{}` is beyond the subordinate ids of this user: give it more in /etc/subuid and /etc/subgid",
                path.file_name().unwrap_or_default().to_string_lossy()
            );
            io::Error::new(io::ErrorKind::InvalidInput, message)
        }
        _ => error,
    })
}

/// Sets the mode; not for links, which have none.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777))
}

/// Sets both times to a whole second, of a link itself.
pub(super) fn set_mtime(path: &Path, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

/// Extended attributes that belong to a file wherever it goes: not overlayfs's own, not the host's labels. Sorted.
pub(super) fn attributes(path: &Path) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names.filter(|name| travels(name)) {
        if let Some(value) = xattr::get(path, &name)? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether an attribute is part of an image.
pub(super) fn travels(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let own = name.starts_with(b"user.overlay.") || name.starts_with(b"user.igraph.");
    name == b"security.capability" || name.starts_with(b"user.") && !own
}

/// Sets attributes; what the file system or the file's kind does not take is left out.
pub(super) fn set_attributes(path: &Path, attributes: &[(OsString, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in attributes {
        match xattr::set(path, name, value) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Gives `path` owner, mode, time and attributes of the directory that `like` describes.
pub(super) fn copy_folder_metadata(path: &Path, like: &Metadata, like_path: &Path) -> io::Result<()> {
    set_owner(path, like.uid(), like.gid())?;
    set_mode(path, like.mode())?;
    set_attributes(path, &attributes(like_path)?)?;
    set_mtime(path, like.mtime())
}

/// The entries of a directory, sorted by bytes.
pub(super) fn names(path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
    Ok(names)
}

/// `None` where there is nothing.
pub(super) fn stat(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes on the disk of a tree.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let Some(metadata) = stat(path)? else { return Ok(0) };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return Ok(own);
    }
    names(path)?.into_iter().try_fold(own, |sum, name| Ok(sum + size(&path.join(name))?))
}

/// Removes whatever is at `path`. Stops at a mount, be it of the same file system.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let Some(metadata) = stat(path)? else { return Ok(()) };
    if !metadata.is_dir() {
        return std::fs::remove_file(path);
    }
    if is_mount(path)? {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("`{}` is a mount point: unmount it first", path.display())));
    }
    for name in names(path)? {
        let path = path.join(name);
        if path.symlink_metadata()?.is_dir() { remove(&path)? } else { std::fs::remove_file(&path)? }
    }
    std::fs::remove_dir(path)
}

/// Whether something is mounted at a folder, as the kernel says it (statx(2)).
fn is_mount(path: &Path) -> io::Result<bool> {
    let text = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain numbers, for which zero is a value
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path ends in zero, and both live as long as the call
    let code = unsafe { libc::statx(libc::AT_FDCWD, text.as_ptr(), flags, 0, &raw mut found) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    let root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    if found.stx_attributes_mask & root != 0 {
        return Ok(found.stx_attributes & root != 0);
    }
    // before Linux 5.8
    let (own, above) = (path.symlink_metadata()?, path.parent().map(Path::symlink_metadata).transpose()?);
    Ok(above.is_some_and(|above| above.dev() != own.dev()))
}

/// Hashes what goes through.
pub(super) struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R> Hashing<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, hasher: Sha256::new() }
    }

    /// Of all that was read.
    pub fn digest(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: io::Read> io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
