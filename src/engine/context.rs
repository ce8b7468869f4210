//! The context as an engine gets it: exactly the entries that count, normalised as the key saw them, contents checked against the
//! key while they are read. Knows files and tar, no engine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::dockerfile::EntryKind;
use crate::engine::ContextInput;
use crate::failure::Failure;

const CHUNK: usize = 64 * 1024;

/// What an entry is to a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Item {
    /// A file, with the BLAKE3 that the key saw.
    File { executable: bool, content: [u8; 32] },
    /// A folder, listed or the parent of something listed.
    Folder,
    /// A link and its text.
    Link { target: String },
}

/// A context ready to be sent, in component order: a folder before what is in it.
#[derive(Clone, Debug)]
pub(in crate::engine) struct ContextFiles {
    root: PathBuf,
    items: Vec<(String, Item)>,
    epoch: i64,
}

/// Why a file can't be sent.
#[derive(Debug)]
pub(in crate::engine) enum ReadError {
    /// The file is not what the key saw.
    Changed(String),
    /// Whoever takes the bytes took no more.
    Stopped(io::Error),
}

impl ReadError {
    /// As a failure: another attempt sees the new content, under a new key.
    pub(in crate::engine) fn failure(self) -> Failure {
        match self {
            Self::Changed(path) => Failure::overtaken(&path),
            Self::Stopped(error) => Failure::infra(format!("the context could not be sent: {error}")),
        }
    }
}

impl ContextFiles {
    /// Takes the inputs of a request; adds the folders between them.
    pub(in crate::engine) fn new(root: &Path, inputs: &[ContextInput], epoch: i64) -> Self {
        let mut items: BTreeMap<Vec<&str>, Item> = BTreeMap::new();
        for input in inputs {
            let components: Vec<&str> = input.entry.path.split('/').filter(|part| !part.is_empty()).collect();
            for length in 1..components.len() {
                items.entry(components[..length].to_vec()).or_insert(Item::Folder);
            }
            let item = match &input.entry.kind {
                // a file without a digest can match no content, and so is never sent
                EntryKind::File { executable } => Item::File { executable: *executable, content: input.content.unwrap_or_default() },
                EntryKind::Folder => Item::Folder,
                EntryKind::Link { target } => Item::Link { target: target.clone() },
            };
            if !components.is_empty() {
                items.insert(components, item);
            }
        }
        let items = items.into_iter().map(|(components, item)| (components.join("/"), item)).collect();
        Self { root: root.to_path_buf(), items, epoch }
    }

    /// Paths and what they are, in component order.
    pub(in crate::engine) fn items(&self) -> &[(String, Item)] {
        &self.items
    }

    /// Whether a path is among them.
    pub(in crate::engine) fn has(&self, path: &str) -> bool {
        self.items.iter().any(|(known, _)| known == path)
    }

    /// Modification time of everything, seconds.
    pub(in crate::engine) fn epoch(&self) -> i64 {
        self.epoch
    }

    fn open(&self, path: &str) -> Result<(File, u64), ReadError> {
        let changed = |_| ReadError::Changed(path.to_owned());
        let file =
            File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.root.join(path)).map_err(changed)?;
        let metadata = file.metadata().map_err(changed)?;
        if !metadata.is_file() {
            return Err(ReadError::Changed(path.to_owned()));
        }
        Ok((file, metadata.len()))
    }

    /// Length of a file now; a wrong one shows when it is read.
    pub(in crate::engine) fn size(&self, path: &str) -> Result<u64, ReadError> {
        self.open(path).map(|(_, size)| size)
    }

    /// Hands a file's bytes to `take`, exactly `size` of them, and checks them against the key.
    ///
    /// # Errors
    /// Where they are others, or more or fewer. What was handed out by then is not to be used.
    pub(in crate::engine) fn read(
        &self,
        path: &str,
        content: &[u8; 32],
        size: u64,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ReadError> {
        let changed = || ReadError::Changed(path.to_owned());
        let (mut file, _) = self.open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK];
        let mut left = size;
        loop {
            let count = match file.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(changed()),
            };
            if count == 0 {
                break;
            }
            left = left.checked_sub(count as u64).ok_or_else(changed)?;
            hasher.update(&buffer[..count]);
            take(&buffer[..count]).map_err(ReadError::Stopped)?;
        }
        if left != 0 || hasher.finalize().as_bytes() != content {
            return Err(changed());
        }
        Ok(())
    }

    /// Writes the context as a tar, after `extra` files.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(in crate::engine) fn write_tar(&self, writer: impl Write, extra: &[(&str, &[u8])]) -> Result<(), ReadError> {
        let mut builder = tar::Builder::new(writer);
        let header = |kind: tar::EntryType, mode: u32, size: u64| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(size);
            header.set_mtime(u64::try_from(self.epoch).unwrap_or(0));
            header.set_uid(0);
            header.set_gid(0);
            header
        };
        for (path, bytes) in extra {
            builder
                .append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len() as u64), path, *bytes)
                .map_err(ReadError::Stopped)?;
        }
        for (path, item) in &self.items {
            match item {
                Item::Folder => {
                    let mut header = header(tar::EntryType::Directory, 0o755, 0);
                    builder.append_data(&mut header, format!("{path}/"), io::empty()).map_err(ReadError::Stopped)?;
                }
                Item::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    builder.append_link(&mut header, path, target).map_err(ReadError::Stopped)?;
                }
                Item::File { executable, content } => {
                    let size = self.size(path)?;
                    let mut header = header(tar::EntryType::Regular, if *executable { 0o755 } else { 0o644 }, size);
                    // append_data pulls, read pushes: the header goes out alone, then the bytes and their padding
                    let mut head = Vec::new();
                    {
                        let mut small = tar::Builder::new(&mut head);
                        small.append_data(&mut header, path, io::empty()).map_err(ReadError::Stopped)?;
                    }
                    // the end-of-archive blocks that the small builder wrote
                    head.truncate(head.len() - 1024);
                    let writer = builder.get_mut();
                    writer.write_all(&head).map_err(ReadError::Stopped)?;
                    self.read(path, content, size, |bytes| writer.write_all(bytes))?;
                    let padding = (512 - size % 512) % 512;
                    writer.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)]).map_err(ReadError::Stopped)?;
                }
            }
        }
        builder.into_inner().and_then(|mut writer| writer.flush()).map_err(ReadError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::ContextEntry;
    use crate::stamp::Stamp;

    fn input(root: &Path, path: &str, kind: EntryKind, content: Option<&str>) -> ContextInput {
        if let Some(content) = content {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), content).unwrap();
        }
        let content = content.map(|content| *blake3::hash(content.as_bytes()).as_bytes());
        let stamp = Stamp::of(&std::fs::metadata(root).unwrap());
        ContextInput { entry: ContextEntry { path: path.into(), kind, stamp }, content }
    }

    #[test]
    fn the_tar_is_what_the_key_saw() {
        let root = tempfile::tempdir().unwrap();
        let long = format!("d/{}", "n".repeat(150));
        let inputs = [
            input(root.path(), "a.b/f", EntryKind::File { executable: false }, Some("b")),
            input(root.path(), "a/run", EntryKind::File { executable: true }, Some("#!")),
            input(root.path(), "a/to", EntryKind::Link { target: "run".into() }, None),
            input(root.path(), &long, EntryKind::File { executable: false }, Some(&"x".repeat(70_000))),
        ];
        let files = ContextFiles::new(root.path(), &inputs, 315_532_800);
        let mut bytes = Vec::new();
        files.write_tar(&mut bytes, &[("Extra", b"e")]).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 315_532_800);
            let path = entry.path().unwrap().to_string_lossy().replace(&"n".repeat(150), "nnn");
            seen.push(format!("{path} {:o} {:?} {}", header.mode().unwrap(), header.entry_type(), text.len()));
        }
        assert_eq!(
            seen,
            [
                "Extra 644 Regular 1",
                "a/ 755 Directory 0",
                "a/run 755 Regular 2",
                "a/to 777 Symlink 0",
                "a.b/ 755 Directory 0",
                "a.b/f 644 Regular 1",
                "d/ 755 Directory 0",
                "d/nnn 644 Regular 70000",
            ]
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        for (now, what) in [("new", "same length"), ("longer than it was", "longer"), ("", "shorter")] {
            let root = tempfile::tempdir().unwrap();
            let inputs = [input(root.path(), "f", EntryKind::File { executable: false }, Some("old"))];
            let files = ContextFiles::new(root.path(), &inputs, 0);
            std::fs::write(root.path().join("f"), now).unwrap();
            let failure = files.write_tar(io::sink(), &[]).unwrap_err().failure();
            assert_eq!(failure.message, "`f` changed while it was read", "{what}");
        }
        let root = tempfile::tempdir().unwrap();
        let inputs = [input(root.path(), "f", EntryKind::File { executable: false }, Some("old"))];
        let files = ContextFiles::new(root.path(), &inputs, 0);
        std::fs::rename(root.path().join("f"), root.path().join("g")).unwrap();
        std::os::unix::fs::symlink("g", root.path().join("f")).unwrap();
        assert!(matches!(files.write_tar(io::sink(), &[]), Err(ReadError::Changed(_))));
    }
}
