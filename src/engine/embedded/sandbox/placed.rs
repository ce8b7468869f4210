//! What stands in for mounts where none can be made: devices, files and folders are put into the copied root itself before a step, and
//! taken out after it. Nothing of it is read-only. Knows no image.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;

use super::child::Broken;
use super::mounts::{DEVICES, Inside, LINKS, real_within};
use super::spec::{Spec, What};
use crate::engine::embedded::files;

/// What was put somewhere.
struct Placed {
    /// Its real path.
    at: PathBuf,
    /// Where what lay there before waits.
    aside: Option<PathBuf>,
    /// Where it goes back to; otherwise it is removed.
    back: Option<PathBuf>,
}

/// All that was put into a root. It is taken out when this is dropped, too.
pub(super) struct Placement {
    placed: Vec<Placed>,
    /// Made for it, relative to the root.
    stubs: Vec<PathBuf>,
    root: PathBuf,
}

/// Puts into `root` what the sandbox mounts; `aside` is a folder of the same file system that does not exist yet.
pub(super) fn place(spec: &Spec, root: &Path, aside: &Path) -> Result<Placement, Broken> {
    let mut inside = Inside::open_root(root)?;
    let mut placement = Placement { placed: Vec::new(), stubs: Vec::new(), root: root.to_owned() };
    let put = put_all(spec, aside, &mut inside, &mut placement);
    placement.stubs = std::mem::take(&mut inside.stubs);
    put.map(|()| placement)
}

fn put_all(spec: &Spec, aside: &Path, inside: &mut Inside, placement: &mut Placement) -> Result<(), Broken> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| (what, error.raw_os_error().unwrap_or(libc::EIO))
    };
    std::fs::create_dir(aside).map_err(failed("make a folder"))?;
    for name in crate::engine::embedded::layer::copies::OWN {
        inside.real_target(&Path::new("/").join(name), true)?;
    }
    let dev = inside.real_target(Path::new("/dev"), true)?;
    devices(&dev).map_err(failed("make devices"))?;
    for (number, mount) in spec.mounts.iter().enumerate() {
        let what = format!("put something at `{}`", mount.target);
        let source = match &mount.what {
            What::Host(path) => Some(path.clone()),
            What::Within(folder, at) => Some(real_within(folder, at, &mount.target)?),
            What::Memory(_) | What::Content { .. } | What::Stack { .. } => None,
        };
        let is_folder = match &mount.what {
            What::Memory(_) => true,
            What::Content { .. } => false,
            What::Host(_) | What::Within(..) => source.as_ref().is_some_and(|path| path.is_dir()),
            What::Stack { .. } => return Err((format!("{what}: it was not copied"), libc::EINVAL)),
        };
        let at = inside.real_target(Path::new(&mount.target), is_folder)?;
        let (before, folder) = (aside.join(number.to_string()), at.parent().unwrap_or(&placement.root).to_owned());
        let times = folder.symlink_metadata().map_err(failed(&what))?;
        std::fs::rename(&at, &before).map_err(failed(&what))?;
        placement.placed.push(Placed { at: at.clone(), aside: Some(before), back: None });
        let put = match &mount.what {
            What::Memory(_) => std::fs::create_dir(&at).and_then(|()| files::set_mode(&at, 0o1777)),
            What::Content { bytes, mode, uid, gid } => {
                std::fs::write(&at, bytes).and_then(|()| files::set_owner(&at, *uid, *gid)).and_then(|()| files::set_mode(&at, *mode))
            }
            What::Host(_) | What::Within(..) | What::Stack { .. } => source.map_or(Ok(()), |path| {
                std::fs::rename(&path, &at).map(|()| {
                    if let Some(placed) = placement.placed.last_mut() {
                        placed.back = Some(path);
                    }
                })
            }),
        };
        put.map_err(failed(&what))?;
        super::mounts::restore_times(&folder, &times);
    }
    Ok(())
}

/// What a /dev has that is a plain folder.
fn devices(dev: &Path) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        files::make_device(&path, SFlag::S_IFCHR, 0o666, libc::makedev(major, minor))?;
        files::set_mode(&path, 0o666)?;
    }
    for (name, target) in LINKS {
        symlink(target, dev.join(name))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        std::fs::create_dir(dev.join(name))?;
        files::set_mode(&dev.join(name), mode)?;
    }
    Ok(())
}

impl Placement {
    /// Takes all out again, last first.
    ///
    /// # Errors
    /// Of the disk.
    pub fn take_out(mut self) -> io::Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> io::Result<()> {
        for placed in std::mem::take(&mut self.placed).into_iter().rev() {
            let folder = placed.at.parent().unwrap_or(&self.root).to_owned();
            let before = files::stat(&folder)?;
            match &placed.back {
                Some(back) => std::fs::rename(&placed.at, back)?,
                None => files::remove(&placed.at)?,
            }
            if let Some(aside) = &placed.aside {
                std::fs::rename(aside, &placed.at)?;
            }
            if let Some(before) = before {
                super::mounts::restore_times(&folder, &before);
            }
        }
        for name in crate::engine::embedded::layer::copies::OWN {
            let path = self.root.join(name);
            for name in files::names(&path).unwrap_or_default() {
                files::remove(&path.join(name))?;
            }
        }
        for stub in std::mem::take(&mut self.stubs).iter().rev() {
            super::run::remove_stub(&self.root.join(stub));
        }
        Ok(())
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        // caches go back whatever happened
        let _ = self.undo();
    }
}
