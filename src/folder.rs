//! A folder that is held open, so that what lies in it is looked up from there and not from the root of the file system each time, and
//! the reading of small files with as few calls as can be. Knows names and stamps, no meaning of any content.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};

use crate::stamp::Stamp;

/// A folder by its path, open where that could be done.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    file: Option<File>,
}

impl Folder {
    /// The folder at `path`. Where there is none, all that is asked of it fails as it would by its path.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path).ok();
        Self { path, file }
    }

    /// Whether it is there, and a folder.
    pub fn is_there(&self) -> bool {
        self.file.is_some()
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The stamp of what lies at `relative`, be it a link; empty for the folder itself.
    ///
    /// # Errors
    /// What the file system says.
    pub fn stamp(&self, relative: &str) -> io::Result<Stamp> {
        self.look(relative, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// The stamp of what a path leads to, over links.
    ///
    /// # Errors
    /// What the file system says.
    pub fn stamp_behind(&self, relative: &str) -> io::Result<Stamp> {
        self.look(relative, AtFlags::empty())
    }

    fn look(&self, relative: &str, flags: AtFlags) -> io::Result<Stamp> {
        let found = match &self.file {
            Some(file) => fstatat(file, if relative.is_empty() { "." } else { relative }, flags)?,
            None => fstatat(AT_FDCWD, &self.path.join(relative), flags)?,
        };
        Ok(Stamp::of_stat(&found))
    }

    /// Opens a file to read it, and nothing that leads astray or blocks: no link, no pipe.
    ///
    /// # Errors
    /// What the file system says; of a link that is ELOOP.
    pub fn open_file(&self, relative: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let opened = match &self.file {
            Some(file) => openat(file, relative, flags, Mode::empty())?,
            None => openat(AT_FDCWD, &self.path.join(relative), flags, Mode::empty())?,
        };
        Ok(opened.into())
    }
}

/// The stamp of an open file.
///
/// # Errors
/// What the file system says.
pub fn stamp_of(file: &File) -> io::Result<Stamp> {
    Ok(Stamp::of_stat(&fstat(file)?))
}

/// Reads the rest of a file that is about `size` bytes long into `bytes`, in place of what they were. Where it is exactly that long one
/// call does: a regular file gives less than was asked for only at its end.
///
/// # Errors
/// What the file system says.
pub fn read_file(mut file: &File, size: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let size = usize::try_from(size).unwrap_or(usize::MAX - 1);
    bytes.clear();
    bytes.resize(size + 1, 0);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if filled == size {
            break;
        }
    }
    let grown = filled > size;
    bytes.truncate(filled);
    if grown {
        file.read_to_end(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_looked_up_in_it_is_what_its_path_leads_to() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("context");
        assert!(!Folder::open(&path).is_there());
        assert_eq!(Folder::open(&path).stamp("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a"), "text").unwrap();
        symlink("a", path.join("link")).unwrap();
        let folder = Folder::open(&path);
        let stamp = |name: &str| Stamp::of(&path.join(name).symlink_metadata().unwrap());
        for name in ["", "a", "link"] {
            assert_eq!(folder.stamp(name).unwrap(), stamp(name), "{name}");
        }
        assert_eq!(folder.stamp_behind("link").unwrap(), stamp("a"));
        assert_eq!(stamp_of(&folder.open_file("a").unwrap()).unwrap(), stamp("a"));
        assert_eq!(folder.open_file("link").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(!Folder::open(path.join("a")).is_there(), "a file is no folder");
    }

    #[test]
    fn a_file_is_read_whole_whatever_its_size_was_said_to_be() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a");
        std::fs::write(&path, "0123456789").unwrap();
        let mut bytes = b"what was there before".to_vec();
        for size in [0, 9, 10, 11, 4096] {
            read_file(&File::open(&path).unwrap(), size, &mut bytes).unwrap();
            assert_eq!(bytes, b"0123456789", "{size}");
        }
    }
}
