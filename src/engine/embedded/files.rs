//! Small things about files that the standard library lacks: owners, modes, times, extended attributes, devices. Knows no image.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknodat, utimensat};
use nix::sys::time::TimeSpec;

use crate::failure::{Failure, Retry};

/// What overlayfs marks a directory with that hides all below it.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

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

/// Whether overlayfs takes it for a hole in the layers below.
pub(super) fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Whether a directory hides what layers below have in it.
pub(super) fn is_opaque(path: &Path) -> io::Result<bool> {
    Ok(xattr::get(path, OPAQUE)?.is_some_and(|value| value == b"y"))
}

/// Hides what layers below have in a directory.
pub(super) fn set_opaque(path: &Path) -> io::Result<()> {
    xattr::set(path, OPAQUE, b"y")
}

/// Makes a whiteout.
pub(super) fn make_whiteout(path: &Path) -> io::Result<()> {
    make_device(path, SFlag::S_IFCHR, 0, 0)
}

/// Makes a device node or a pipe.
pub(super) fn make_device(path: &Path, kind: SFlag, mode: u32, device: u64) -> io::Result<()> {
    mknodat(AT_FDCWD, path, kind, Mode::from_bits_truncate(mode & 0o7777), device)?;
    Ok(())
}

/// Sets the owner, of a link itself.
pub(super) fn set_owner(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
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
    name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
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

/// Removes whatever is at `path`, mounts excepted.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let Some(metadata) = stat(path)? else { return Ok(()) };
    if !metadata.is_dir() {
        return std::fs::remove_file(path);
    }
    for name in names(path)? {
        let path = path.join(name);
        let inner = path.symlink_metadata()?;
        if inner.is_dir() && inner.dev() != metadata.dev() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("`{}` is a mount point: unmount it first", path.display())));
        }
        if inner.is_dir() { remove(&path)? } else { std::fs::remove_file(&path)? }
    }
    std::fs::remove_dir(path)
}
