//! Where things lie below `igraph-out/`, and how a file is replaced whole or not at all. Knows no content.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::record::error::RecordError;

/// The folder `igraph-out` of a workspace. A value, not a promise: it may not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// The folder at `path`, as it is or will be.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the folder with its place for root filesystems and layers, and the `.gitignore` by which git passes it over, where they
    /// are missing.
    ///
    /// # Errors
    /// Where they can't be written.
    pub fn create(&self) -> Result<(), RecordError> {
        let make = |path: &Path| fs::create_dir_all(path).map_err(|source| RecordError::io("create", path, source));
        make(&self.path)?;
        let ignore = self.path.join(".gitignore");
        if !ignore.exists() {
            replace(&ignore, b"*\n")?;
        }
        make(&self.bases())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.path.join("state.db")
    }

    /// What the one writer holds.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The folder with one folder per run.
    pub fn logs(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The folder of one run's logs.
    pub fn run(&self, id: &str) -> PathBuf {
        self.path.join("log").join(id)
    }

    /// The cache of file digests.
    pub fn file_digests(&self) -> PathBuf {
        self.path.join("file-digests")
    }

    /// Root filesystems that commands made, and layers on their way to a registry.
    pub fn bases(&self) -> PathBuf {
        self.path.join("bases")
    }

    /// Witnesses of a no-op.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshot")
    }
}

/// Writes `bytes` beside `path`, then renames: readers see the old file or the new, never a part.
/// Not synced: for what may be lost with the power, but not torn.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    write_beside(path, bytes, false)
}

/// As [`replace`], and durable when it returns.
pub(crate) fn replace_durably(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    write_beside(path, bytes, true)
}

fn write_beside(path: &Path, bytes: &[u8], durable: bool) -> Result<(), RecordError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |source| RecordError::io("write", path, source);
    // a temporary file is private otherwise; this one follows the umask
    let readable = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".igraph-").permissions(readable).tempfile_in(folder).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    if durable {
        file.as_file().sync_all().map_err(fail)?;
    }
    file.persist(path).map_err(|error| fail(error.error))?;
    if durable {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    }
    Ok(())
}

/// Removes a file or a folder with all below it, but never what another file system is mounted on: that stays, and is an error.
///
/// # Errors
/// Where something can't be removed; nothing at all is no error.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let (path, mounts) = (path.canonicalize()?, mount_points());
            if mounts.contains(&path) { Err(mounted(&path)) } else { remove_folder(&path, &mounts) }
        }
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_folder(path: &Path, mounts: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let device = path.symlink_metadata()?.dev();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.path();
        let metadata = entry.symlink_metadata()?;
        // a folder bound to another place is of the same device; one mounted a moment ago is not in the list
        if mounts.contains(&entry) || metadata.dev() != device {
            return Err(mounted(&entry));
        }
        if metadata.is_dir() { remove_folder(&entry, mounts)? } else { std::fs::remove_file(&entry)? }
    }
    std::fs::remove_dir(path)
}

fn mounted(path: &Path) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ResourceBusy, format!("`{}` is a mount point: unmount it first", path.display()))
}

/// Where something is mounted, as this process sees it (proc_pid_mountinfo(5)).
fn mount_points() -> BTreeSet<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// Undoes the octal escapes of blanks and the like.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_hides_itself_from_git() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::new(temp.path().join("igraph-out"));
        folder.create().unwrap();
        folder.create().unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(".gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("file"), "").unwrap();
        let error = StateFolder::new(temp.path().join("file/igraph-out")).create().unwrap_err();
        assert!(error.to_string().contains("file/igraph-out`: not a directory"), "{error}");
    }
}
