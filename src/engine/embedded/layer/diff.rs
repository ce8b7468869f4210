//! What a layer's folder changes of those below it, and the one tar that says so: sorted, clamped, by final state alone, so that two
//! ways to the same files give the same bytes. Knows no store.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::split::SplitWriter;
use super::view::{Spot, View};
use crate::digest::Digest;
use crate::engine::embedded::files;

/// How the name of an entry begins that says what is gone (image-spec, layer.md "Whiteouts").
pub(super) const HIDDEN: &[u8] = b".wh.";
const CHUNK: usize = 256 << 10;
/// What twelve bytes of octal digits hold.
const OCTAL_LIMIT: u64 = 0o777_7777_7777;
const OCTAL_ID: u32 = 0o777_7777;

/// What an upper folder changes.
#[derive(Debug, Default)]
pub(in crate::engine::embedded) struct Changes {
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Something to be there; for a hard link, the path that comes first.
    Made(Metadata, Option<PathBuf>),
    /// Something of a layer below to be gone.
    Gone,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Finds what `upper` changes of `lower`, and makes it what the layer will say: times not above `epoch`, whole seconds.
///
/// # Errors
/// Of the disk; `InvalidInput` for a name that means something else in a layer.
pub(in crate::engine::embedded) fn changes(upper: &Path, lower: &View, epoch: i64) -> io::Result<Changes> {
    let mut walk = Walk { upper, epoch, items: Vec::new(), links: HashMap::new() };
    walk.folder(Path::new(""), lower.root()?.as_ref(), false)?;
    Ok(Changes { items: walk.items })
}

struct Walk<'a> {
    upper: &'a Path,
    epoch: i64,
    items: Vec<Item>,
    links: HashMap<u64, PathBuf>,
}

impl Walk<'_> {
    /// `hidden`: nothing of `lower` shows through. A folder made in an opaque one carries no mark of its own.
    fn folder(&mut self, folder: &Path, lower: Option<&Spot>, hidden: bool) -> io::Result<()> {
        let lower = lower.filter(|spot| spot.is_folder());
        let here = self.upper.join(folder);
        let mut names = files::names(&here)?;
        let hidden = hidden || lower.is_some() && folder != Path::new("") && files::is_opaque(&here)?;
        if let Some(lower) = lower.filter(|_| hidden) {
            // by final state: everything below it that is not in it any more is gone by name
            names.extend(View::names(lower)?);
            names.sort_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
            names.dedup();
        }
        for name in names {
            let path = folder.join(&name);
            let below = lower.map(|lower| View::child(lower, &name)).transpose()?.flatten();
            match files::stat(&self.upper.join(&path))? {
                None => self.items.push(Item { path, what: What::Gone }),
                Some(metadata) if files::is_whiteout(&self.upper.join(&path), &metadata)? => {
                    if below.is_some() {
                        self.items.push(Item { path, what: What::Gone });
                    }
                }
                Some(_) if name.as_bytes().starts_with(HIDDEN) => {
                    let message =
                        format!("`/{}` can't be in an image: a name that begins with `.wh.` says that something is gone", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
                }
                Some(metadata) => self.entry(path, metadata, below, hidden)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, metadata: Metadata, below: Option<Spot>, hidden: bool) -> io::Result<()> {
        if metadata.file_type().is_socket() {
            return Ok(());
        }
        let real = self.upper.join(&path);
        // overlayfs copies a file up when it is opened to be written, whether it then is or not
        if let Some(spot) = below.as_ref().filter(|_| !metadata.is_dir() && metadata.nlink() == 1)
            && same_file(&metadata, &real, spot, self.epoch)?
        {
            return files::set_mtime(&real, spot.metadata.mtime());
        }
        let metadata = if metadata.mtime() > self.epoch || metadata.mtime_nsec() != 0 {
            files::set_mtime(&real, metadata.mtime().min(self.epoch))?;
            real.symlink_metadata()?
        } else {
            metadata
        };
        if metadata.is_dir() {
            let at = self.items.len();
            let below = below.filter(Spot::is_folder);
            let same = match &below {
                Some(spot) => same_folder(&metadata, &real, spot)?,
                None => false,
            };
            self.items.push(Item { path: path.clone(), what: What::Made(metadata, None) });
            self.folder(&path, below.as_ref(), hidden)?;
            if same && self.items.len() == at + 1 {
                self.items.pop();
            }
            return Ok(());
        }
        let mut first = None;
        if metadata.nlink() > 1 {
            match self.links.get(&metadata.ino()) {
                Some(path) => first = Some(path.clone()),
                None => drop(self.links.insert(metadata.ino(), path.clone())),
            }
        }
        self.items.push(Item { path, what: What::Made(metadata, first) });
        Ok(())
    }
}

/// Whether a file, link or device is what it was below: what the layer would say, not how it came about.
fn same_file(metadata: &Metadata, path: &Path, spot: &Spot, epoch: i64) -> io::Result<bool> {
    let of = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid(), metadata.len());
    let before = spot.metadata.mtime();
    let untouched = (metadata.mtime(), metadata.mtime_nsec()) == (before, spot.metadata.mtime_nsec());
    if of(metadata) != of(&spot.metadata) || !untouched && metadata.mtime().min(epoch) != before {
        return Ok(false);
    }
    if files::device(path, metadata)? != files::device(&spot.path, &spot.metadata)?
        || files::attributes(path)? != files::attributes(&spot.path)?
    {
        return Ok(false);
    }
    if metadata.is_symlink() {
        return Ok(std::fs::read_link(path)? == std::fs::read_link(&spot.path)?);
    }
    if metadata.is_file() { same_content(path, &spot.path) } else { Ok(true) }
}

/// Whether two files of one length hold the same bytes.
fn same_content(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let count = left.read(&mut ours)?;
        if count == 0 {
            return Ok(true);
        }
        if right.read_exact(&mut theirs[..count]).is_err() || ours[..count] != theirs[..count] {
            return Ok(false);
        }
    }
}

fn same_folder(metadata: &Metadata, path: &Path, spot: &Spot) -> io::Result<bool> {
    let of = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    // the time is no change: whatever is made in a folder sets it
    Ok(of(metadata) == of(&spot.metadata) && files::attributes(path)? == files::attributes(&spot.path)?)
}

/// Writes the tar as an index over `upper`; its digest and length.
///
/// # Errors
/// Of the disk, and for paths that no tar can hold.
pub(in crate::engine::embedded) fn write(changes: &Changes, upper: &Path, epoch: i64, split: &Path) -> io::Result<(Digest, u64)> {
    let mut writer = Writer { split: SplitWriter::create(split)?, upper, epoch, files: 0, buffer: vec![0; CHUNK] };
    for item in &changes.items {
        match &item.what {
            What::Gone => writer.whiteout(&item.path)?,
            What::Made(metadata, first) => writer.made(&item.path, metadata, first.as_deref())?,
        }
    }
    writer.split.raw(&[0; 1024])?;
    writer.split.finish()
}

struct Writer<'a> {
    split: SplitWriter,
    upper: &'a Path,
    epoch: i64,
    files: u32,
    buffer: Vec<u8>,
}

/// PAX records: `length key=value\n`, the length counting itself.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

impl Writer<'_> {
    fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        let mut name = OsStr::from_bytes(HIDDEN).to_owned();
        name.push(path.file_name().unwrap_or_default());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(u64::try_from(self.epoch).unwrap_or(0));
        self.head(header, path.with_file_name(name).as_os_str().as_bytes(), &[], Vec::new())
    }

    fn made(&mut self, path: &Path, metadata: &Metadata, first: Option<&Path>) -> io::Result<()> {
        let real = self.upper.join(path);
        let kind = metadata.file_type();
        let mut header = tar::Header::new_ustar();
        let mut pax = Vec::new();
        let mut link = Vec::new();
        let mut name = path.as_os_str().as_bytes().to_vec();
        let mut size = 0;
        let entry_type = if let Some(first) = first {
            link = first.as_os_str().as_bytes().to_vec();
            tar::EntryType::Link
        } else if metadata.is_dir() {
            name.push(b'/');
            tar::EntryType::Directory
        } else if kind.is_symlink() {
            link = std::fs::read_link(&real)?.into_os_string().into_encoded_bytes();
            tar::EntryType::Symlink
        } else if let Some((kind, device)) = files::device(&real, metadata)? {
            header.set_device_major(libc::major(device))?;
            header.set_device_minor(libc::minor(device))?;
            if kind == libc::S_IFCHR { tar::EntryType::Char } else { tar::EntryType::Block }
        } else if kind.is_fifo() {
            tar::EntryType::Fifo
        } else {
            size = metadata.len();
            tar::EntryType::Regular
        };
        header.set_entry_type(entry_type);
        header.set_mode(if kind.is_symlink() { 0o777 } else { metadata.mode() & 0o7777 });
        let mut number = |value: u64, limit: u64, key: &str| {
            if value > limit {
                pax.extend(record(key.as_bytes(), value.to_string().as_bytes()));
                return 0;
            }
            value
        };
        header.set_size(number(size, OCTAL_LIMIT, "size"));
        header.set_uid(number(metadata.uid().into(), OCTAL_ID.into(), "uid"));
        header.set_gid(number(metadata.gid().into(), OCTAL_ID.into(), "gid"));
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        if first.is_none() {
            for (name, value) in files::attributes(&real)? {
                let mut key = b"SCHILY.xattr.".to_vec();
                key.extend_from_slice(name.as_bytes());
                pax.extend(record(&key, &value));
            }
        }
        self.head(header, &name, &link, pax)?;
        if size > 0 { self.content(path, &real, size) } else { Ok(()) }
    }

    fn head(&mut self, mut header: tar::Header, name: &[u8], link: &[u8], mut pax: Vec<u8>) -> io::Result<()> {
        let fits = name.len() <= 100;
        if !fits && (!name.is_ascii() || header.set_path(OsStr::from_bytes(name)).is_err()) {
            pax.extend(record(b"path", name));
        }
        if link.len() > 100 {
            pax.extend(record(b"linkpath", link));
        }
        if !pax.is_empty() {
            let mut extension = tar::Header::new_ustar();
            extension.set_entry_type(tar::EntryType::XHeader);
            extension.set_mode(0o644);
            extension.set_uid(0);
            extension.set_gid(0);
            extension.set_size(pax.len() as u64);
            extension.set_mtime(u64::try_from(self.epoch).unwrap_or(0));
            extension.as_mut_bytes()[..10].copy_from_slice(b"PaxHeaders");
            extension.set_cksum();
            self.split.raw(extension.as_bytes())?;
            self.split.raw(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let block = header.as_mut_bytes();
        if fits || block[0] == 0 {
            let length = name.len().min(100);
            block[..length].copy_from_slice(&name[..length]);
        }
        let length = link.len().min(100);
        block[157..157 + length].copy_from_slice(&link[..length]);
        header.set_cksum();
        self.split.raw(header.as_bytes())
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let padding = usize::try_from(length.next_multiple_of(512) - length).map_err(io::Error::other)?;
        self.split.raw(&[0; 512][..padding])
    }

    fn content(&mut self, path: &Path, real: &Path, size: u64) -> io::Result<()> {
        self.split.data(self.files, path, 0, size)?;
        self.files += 1;
        let mut file = File::open(real)?;
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left.min(CHUNK as u64)).map_err(io::Error::other)?;
            let count = file.read(&mut self.buffer[..want])?;
            if count == 0 {
                return Err(io::Error::other(format!("`{}` is shorter than it was", path.display())));
            }
            self.split.hash(&self.buffer[..count]);
            left -= count as u64;
        }
        self.pad(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a layer such a name says that another is gone: whoever unpacks it would remove `x`.
    #[test]
    fn names_that_mean_something_else_in_a_layer_are_refused() {
        for path in [".wh.x", ".wh.", ".wh..wh..opq", "a/.wh.x", "a/.wh.b/c"] {
            let upper = tempfile::tempdir().unwrap();
            let file = upper.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            let refused = changes(upper.path(), &View::new(Vec::new()), 0).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{path}");
            assert!(refused.to_string().contains("can't be in an image"), "{path}: {refused}");
        }
        let upper = tempfile::tempdir().unwrap();
        for name in ["wh.x", ".wh", ".whx", "x.wh.x"] {
            std::fs::write(upper.path().join(name), "").unwrap();
        }
        assert_eq!(changes(upper.path(), &View::new(Vec::new()), 0).unwrap().items.len(), 4);
    }
}
