//! Unpacks a layer's tar into a folder of its own, as overlayfs wants it below others: whiteouts as devices, opaque folders marked.
//! Nothing is ever written outside that folder, whatever the tar says. Knows no store.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat2};
use nix::sys::stat::SFlag;

use super::diff::HIDDEN;
use super::entries::{Entries, Entry, EntryKind, Tee};
use super::split::{SplitWriter, inside};
use super::view::View;
use crate::digest::Digest;
use crate::engine::embedded::files;

/// Deepest path that is unpacked.
const DEEPEST: usize = 1024;
const CHUNK: usize = 256 << 10;

/// What unpacking found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct Unpacked {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Its length.
    pub size: u64,
    /// Some folder had no entry and was taken over from the layers below: the result belongs to those, too.
    pub implied: bool,
}

impl Tee for SplitWriter {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        SplitWriter::raw(self, bytes)
    }
}

/// Unpacks `tar` into `root`, which is empty; the index goes to `split`, files that later entries replace to `moved`.
///
/// # Errors
/// Of the reader and the disk; `InvalidData` for tars that can't be or lead out of the root.
pub(in crate::engine::embedded) fn unpack(tar: impl Read, root: &Path, split: &Path, moved: &Path, below: &View) -> io::Result<Unpacked> {
    let mut split = SplitWriter::create(split)?;
    let mut entries = Entries::new(tar);
    let mut unpacker = Unpacker {
        root: root.to_owned(),
        fd: File::open(root)?,
        moved: moved.to_owned(),
        below,
        files: HashMap::new(),
        count: 0,
        implied: false,
        times: Vec::new(),
        buffer: vec![0; CHUNK],
    };
    if let Some(spot) = below.root()? {
        files::copy_folder_metadata(root, &spot.metadata, &spot.path)?;
    }
    while let Some(entry) = entries.next(&mut split)? {
        unpacker.take(&entry, entries.content(), &mut split)?;
    }
    // what is made within a folder changes its time
    for (path, mtime) in unpacker.times.iter().rev() {
        if files::stat(path)?.is_some_and(|metadata| metadata.is_dir()) {
            files::set_mtime(path, *mtime)?;
        }
    }
    let implied = unpacker.implied;
    let (diff_id, size) = split.finish()?;
    Ok(Unpacked { diff_id, size, implied })
}

fn refuse(path: &OsStr, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{}` in the layer {why}", path.to_string_lossy()))
}

struct Unpacker<'a> {
    root: PathBuf,
    fd: File,
    moved: PathBuf,
    below: &'a View,
    /// Number of each file with content, by inode.
    files: HashMap<u64, u32>,
    count: u32,
    implied: bool,
    times: Vec<(PathBuf, i64)>,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    /// The parts of a path; those that lead upwards are refused.
    fn parts<'p>(&self, path: &'p OsStr) -> io::Result<Vec<&'p OsStr>> {
        let parts: Vec<&OsStr> =
            path.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(OsStr::from_bytes).collect();
        if parts.iter().any(|part| *part == "..") {
            return Err(refuse(path, "leads out of it"));
        }
        if parts.len() > DEEPEST {
            return Err(refuse(path, "lies too deep"));
        }
        Ok(parts)
    }

    /// The real path of the folder of `parts` within the root; makes what is not there.
    fn folder(&mut self, path: &OsStr, parts: &[&OsStr]) -> io::Result<PathBuf> {
        if parts.is_empty() {
            return Ok(self.root.clone());
        }
        let mut length = parts.len();
        let mut open = loop {
            let relative: PathBuf = parts[..length].iter().collect();
            if length == 0 {
                break self.fd.try_clone()?.into();
            }
            match openat2(&self.fd, &relative, inside(OFlag::O_PATH | OFlag::O_DIRECTORY)) {
                Ok(fd) => break fd,
                Err(nix::errno::Errno::ENOENT) => length -= 1,
                // a whiteout of the same layer, or a file: the folder takes its place
                Err(nix::errno::Errno::ENOTDIR) => {
                    length -= 1;
                    let parent: PathBuf = parts[..length].iter().collect();
                    let parent = if length == 0 {
                        self.root.clone()
                    } else {
                        match openat2(&self.fd, &parent, inside(OFlag::O_PATH | OFlag::O_DIRECTORY)) {
                            Ok(fd) => real_path(&fd)?,
                            Err(_) => continue,
                        }
                    };
                    let file = parent.join(parts[length]);
                    match files::stat(&file)? {
                        Some(metadata) if files::is_whiteout(&file, &metadata)? => {
                            std::fs::remove_file(&file)?;
                            std::fs::create_dir(&file)?;
                            files::set_opaque(&file)?;
                            length += 1;
                        }
                        _ => return Err(refuse(path, "lies in what is no folder")),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        let mut real = real_path(&open)?;
        if !real.starts_with(&self.root) {
            return Err(refuse(path, "leads out of it"));
        }
        for (at, part) in parts.iter().enumerate().skip(length) {
            real.push(part);
            std::fs::create_dir(&real).map_err(|error| refuse(path, &format!("lies in a folder that can't be made: {error}")))?;
            files::set_mode(&real, 0o755)?;
            self.implied = true;
            let whole: PathBuf = parts[..=at].iter().collect();
            if let Some(spot) = self.below.locate(&whole, false)?.spot.filter(super::view::Spot::is_folder) {
                files::copy_folder_metadata(&real, &spot.metadata, &spot.path)?;
                self.times.push((real.clone(), spot.metadata.mtime()));
            }
            open = openat2(&open, *part, inside(OFlag::O_PATH | OFlag::O_DIRECTORY))?;
        }
        Ok(real)
    }

    fn take(&mut self, entry: &Entry, content: &mut impl Read, split: &mut SplitWriter) -> io::Result<()> {
        let parts = self.parts(&entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            if entry.kind == EntryKind::Folder {
                let root = self.root.clone();
                self.dress(entry, &root)?;
            }
            return Ok(());
        };
        let reserved = |part: &OsStr| part.as_bytes().starts_with(HIDDEN);
        if let Some(part) = above.iter().find(|part| reserved(part)) {
            // AUFS kept its own files in such folders; no other folder has such a name (image-spec, layer.md "Whiteouts")
            if part.as_bytes().starts_with(b".wh..wh.") {
                return self.skip(entry, content, split);
            }
            return Err(refuse(&entry.path, "lies in a folder whose name says that something is gone"));
        }
        let folder = self.folder(&entry.path, above)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(HIDDEN) {
            self.skip(entry, content, split)?;
            return self.whiteout(entry, &folder, OsStr::from_bytes(hidden));
        }
        let path = folder.join(name);
        let before = files::stat(&path)?;
        let was_hidden = before.as_ref().map(|metadata| files::is_whiteout(&path, metadata)).transpose()?.unwrap_or(false);
        match (&entry.kind, &before) {
            (EntryKind::Folder, Some(metadata)) if metadata.is_dir() => return self.dress(entry, &path),
            (EntryKind::Other, _) => return self.skip(entry, content, split),
            (_, Some(_)) => self.displace(&path)?,
            (_, None) => {}
        }
        match &entry.kind {
            EntryKind::Folder => {
                std::fs::create_dir(&path)?;
                if was_hidden {
                    files::set_opaque(&path)?;
                }
            }
            EntryKind::File => self.file(entry, content, &path, split)?,
            EntryKind::Symlink(target) => std::os::unix::fs::symlink(target, &path)?,
            EntryKind::HardLink(target) => {
                let to = self.parts(target)?;
                let (name, above) = to.split_last().ok_or_else(|| refuse(&entry.path, "is a hard link to the root"))?;
                let target = self.folder(target, above)?.join(name);
                if files::stat(&target)?.is_none_or(|metadata| metadata.is_dir()) {
                    return Err(refuse(&entry.path, "is a hard link to what is not in the layer"));
                }
                // nothing else: the inode is dressed already
                return std::fs::hard_link(&target, &path);
            }
            EntryKind::CharDevice(0, 0) => return Err(refuse(&entry.path, "is a device that means a hole")),
            EntryKind::CharDevice(major, minor) => self.device(entry, &path, SFlag::S_IFCHR, (*major, *minor))?,
            EntryKind::BlockDevice(major, minor) => self.device(entry, &path, SFlag::S_IFBLK, (*major, *minor))?,
            EntryKind::Pipe => self.device(entry, &path, SFlag::S_IFIFO, (0, 0))?,
            EntryKind::Other => {}
        }
        self.dress(entry, &path)
    }

    fn device(&self, entry: &Entry, path: &Path, kind: SFlag, (major, minor): (u32, u32)) -> io::Result<()> {
        files::make_device(path, kind, entry.mode, libc::makedev(major, minor))
    }

    /// Owner, mode, attributes and time.
    fn dress(&mut self, entry: &Entry, path: &Path) -> io::Result<()> {
        files::set_owner(path, entry.uid, entry.gid)?;
        if !matches!(entry.kind, EntryKind::Symlink(_)) {
            files::set_mode(path, entry.mode)?;
        }
        let attributes: Vec<(OsString, Vec<u8>)> = entry.attributes.iter().filter(|(name, _)| files::travels(name)).cloned().collect();
        files::set_attributes(path, &attributes)?;
        if entry.kind == EntryKind::Folder {
            self.times.push((path.to_owned(), entry.mtime));
        }
        files::set_mtime(path, entry.mtime)
    }

    fn whiteout(&mut self, entry: &Entry, folder: &Path, name: &OsStr) -> io::Result<()> {
        if name == ".wh..opq" {
            return files::set_opaque(folder);
        }
        // other marks of AUFS mean nothing in an image
        if name.as_bytes().starts_with(b".wh.") {
            return Ok(());
        }
        if name.is_empty() || name == "." || name == ".." {
            return Err(refuse(&entry.path, "hides no name"));
        }
        let path = folder.join(name);
        match files::stat(&path)? {
            None => files::make_whiteout(&path),
            // it is about what lies below: what this layer itself brings stays
            Some(metadata) if metadata.is_dir() => files::set_opaque(&path),
            Some(_) => Ok(()),
        }
    }

    /// Content of what is no file of the layer is kept in the index.
    fn skip(&mut self, entry: &Entry, content: &mut impl Read, split: &mut SplitWriter) -> io::Result<()> {
        let mut left: u64 = entry.pieces.iter().map(|(_, length)| length).sum();
        if !matches!(entry.kind, EntryKind::File | EntryKind::Other) {
            left = 0;
        }
        while left > 0 {
            let want = usize::try_from(left.min(CHUNK as u64)).map_err(io::Error::other)?;
            content.read_exact(&mut self.buffer[..want])?;
            split.raw(&self.buffer[..want])?;
            left -= want as u64;
        }
        Ok(())
    }

    fn file(&mut self, entry: &Entry, content: &mut impl Read, path: &Path, split: &mut SplitWriter) -> io::Result<()> {
        let mut file = File::create_new(path)?;
        let relative = path.strip_prefix(&self.root).map_err(io::Error::other)?.to_owned();
        let sparse = entry.pieces != [(0, entry.size)];
        if sparse {
            file.set_len(entry.size)?;
        }
        let number = self.count;
        self.count += 1;
        for (offset, length) in entry.pieces.iter().filter(|(_, length)| *length > 0) {
            split.data(number, &relative, *offset, *length)?;
            let mut done = 0;
            while done < *length {
                let want = usize::try_from((length - done).min(CHUNK as u64)).map_err(io::Error::other)?;
                let buffer = &mut self.buffer[..want];
                content.read_exact(buffer).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => refuse(&entry.path, "is cut short"),
                    _ => error,
                })?;
                split.hash(buffer);
                if sparse {
                    file.write_all_at(buffer, offset + done)?
                } else {
                    file.write_all(buffer)?
                }
                done += want as u64;
            }
        }
        if entry.size > 0 {
            self.files.insert(file.metadata()?.ino(), number);
        }
        Ok(())
    }

    /// Takes what is at `path` away, for what a later entry puts there; contents that the index needs are kept.
    fn displace(&mut self, path: &Path) -> io::Result<()> {
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            for name in files::names(path)? {
                self.displace(&path.join(name))?;
            }
            return std::fs::remove_dir(path);
        }
        match self.files.get(&metadata.ino()) {
            Some(number) if metadata.is_file() => {
                std::fs::create_dir_all(&self.moved)?;
                std::fs::rename(path, self.moved.join(number.to_string()))
            }
            _ => std::fs::remove_file(path),
        }
    }
}

fn real_path(fd: &impl AsRawFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::EntryType::{self, Block, Char, Directory, Fifo, Link, Regular, Symlink};

    /// Entries by kind, path, link or content.
    type Asked<'a> = (EntryType, &'a str, &'a str);

    fn archive(entries: &[Asked<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, path, text) in entries {
            let is_link = matches!(kind, Link | Symlink);
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_mtime(1);
            header.set_uid(nix::unistd::geteuid().as_raw().into());
            header.set_gid(nix::unistd::getegid().as_raw().into());
            header.set_size(if is_link { 0 } else { text.len() as u64 });
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            // as an attacker would: past what the library allows
            let block = header.as_mut_bytes();
            block[..path.len()].copy_from_slice(path.as_bytes());
            if is_link {
                block[157..157 + text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            bytes.extend(header.as_bytes());
            if !is_link {
                bytes.extend(text.as_bytes());
                bytes.resize(bytes.len().next_multiple_of(512), 0);
            }
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// A folder with the root and, beside it, what must stay as it is.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("root")).unwrap();
            std::fs::create_dir(folder.path().join("outside")).unwrap();
            std::fs::write(folder.path().join("outside/secret"), "untouched").unwrap();
            Self(folder)
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn unpack(&self, tar: impl Read) -> Result<Unpacked, String> {
            let none = View::new(Vec::new());
            let unpacked = unpack(tar, &self.path("root"), &self.path("split"), &self.path("moved"), &none);
            let outside: Vec<_> = files::names(&self.path("outside")).unwrap();
            assert_eq!(outside, ["secret"], "nothing is written outside the root");
            let secret = self.path("outside/secret");
            assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
            assert_eq!(secret.symlink_metadata().unwrap().nlink(), 1, "nothing links out of the root");
            unpacked.map_err(|error| error.to_string())
        }
    }

    #[test]
    fn what_leads_upwards_is_refused() {
        for (path, link) in [("../outside/new", ""), ("a/../../outside/new", ""), ("/../outside/new", ""), ("a", "../outside/secret")] {
            let kind = if link.is_empty() { Regular } else { Link };
            let refused = World::new().unpack(&archive(&[(kind, path, link)])[..]).unwrap_err();
            assert!(refused.contains("leads out of it"), "{path}: {refused}");
        }
    }

    #[test]
    fn links_are_followed_inside_the_root_alone() {
        let world = World::new();
        let outside = world.path("outside").display().to_string();
        let deep = "../../../../../../../../../../../../tmp";
        let refused = world.unpack(&archive(&[(Symlink, "out", &outside), (Regular, "out/new", "x")])[..]);
        assert!(refused.is_err() || !world.path("outside/new").exists());
        // a link that goes up and up ends at the root
        let world = World::new();
        world.unpack(&archive(&[(Directory, "tmp", ""), (Symlink, "up", deep), (Regular, "up/in", "x")])[..]).unwrap();
        assert_eq!(std::fs::read_to_string(world.path("root/tmp/in")).unwrap(), "x");
        // and one to all of the machine is one to all of the root
        let world = World::new();
        world.unpack(&archive(&[(Directory, "etc", ""), (Symlink, "all", "/"), (Regular, "all/etc/passwd", "x")])[..]).unwrap();
        assert_eq!(std::fs::read_to_string(world.path("root/etc/passwd")).unwrap(), "x");
    }

    #[test]
    fn a_file_over_a_link_takes_its_place() {
        let world = World::new();
        let secret = world.path("outside/secret").display().to_string();
        world.unpack(&archive(&[(Symlink, "f", &secret), (Regular, "f", "new")])[..]).unwrap();
        assert!(world.path("root/f").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_hard_link_through_a_link_stays_inside() {
        let world = World::new();
        let outside = world.path("outside").display().to_string();
        let refused = world.unpack(&archive(&[(Symlink, "out", &outside), (Link, "got", "out/secret")])[..]).unwrap_err();
        assert!(!world.path("root/got").exists(), "{refused}");
        // a hard link to a link is that link, not what it leads to
        let world = World::new();
        let secret = world.path("outside/secret").display().to_string();
        world.unpack(&archive(&[(Symlink, "l", &secret), (Link, "got", "l")])[..]).unwrap();
        assert!(world.path("root/got").symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn whiteouts_hide_and_never_remove_outside() {
        for name in [".wh..", ".wh...", "d/.wh."] {
            let refused = World::new().unpack(&archive(&[(Directory, "d", ""), (Regular, name, "")])[..]).unwrap_err();
            assert!(refused.contains("hides no name"), "{name}: {refused}");
        }
        let world = World::new();
        let outside = world.path("outside").display().to_string();
        let _ = world.unpack(&archive(&[(Symlink, "out", &outside), (Regular, "out/.wh.secret", "")])[..]);
    }

    #[test]
    fn devices_are_devices_or_stand_for_them() {
        let world = World::new();
        world.unpack(&archive(&[(Char, "c", ""), (Block, "b", ""), (Fifo, "p", "")])[..]).unwrap();
        let device = |name: &str| {
            let path = world.path("root").join(name);
            files::device(&path, &path.symlink_metadata().unwrap()).unwrap()
        };
        assert_eq!(device("c"), Some((libc::S_IFCHR, libc::makedev(1, 3))));
        assert_eq!(device("b"), Some((libc::S_IFBLK, libc::makedev(1, 3))));
        assert_eq!(device("p"), None);
    }

    #[test]
    fn bombs_are_refused() {
        // depth
        let mut entries = Vec::new();
        let name = "d/".repeat(DEEPEST + 1);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(name.len() as u64);
        header.set_cksum();
        entries.extend(header.as_bytes());
        entries.extend(name.as_bytes());
        entries.resize(entries.len().next_multiple_of(512), 0);
        entries.extend(archive(&[(Directory, "d", "")]));
        assert!(World::new().unpack(&entries[..]).unwrap_err().contains("lies too deep"));
        // size: what is announced is enough
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..4].copy_from_slice(b"huge");
        header.set_size(600 << 30);
        header.set_cksum();
        assert!(World::new().unpack(&header.as_bytes()[..]).unwrap_err().contains("its files are too large"));
        // number
        let tar = archive(&[(Regular, "a", ""), (Regular, "b", ""), (Regular, "c", "")]);
        let mut entries = Entries::new(&tar[..]);
        entries.most = 2;
        let read: Vec<_> = (0..3).map(|_| entries.next(&mut ()).map(|entry| entry.is_some())).collect();
        assert!(matches!(&read[..], [Ok(true), Ok(true), Err(_)]), "{read:?}");
    }
}
