//! What must hold of layers whatever the tar: for fuzzers and the smoke run (`crate::fuzz`). Panics where it does not.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::diff;
use super::entries::{Entries, EntryKind, Tee};
use super::split::SplitReader;
use super::unpack::{Unpacked, unpack};
use super::view::{Spot, View};
use crate::digest::Digest;
use crate::engine::embedded::files;

const BLOCK: usize = 512;
const EPOCH: i64 = 315_532_800;

/// Where headers stand by their own sizes they get the right sum: without it hardly any change would be looked at.
fn with_sums(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    let mut at = 0;
    while at + BLOCK <= tar.len() {
        let block = &mut tar[at..at + BLOCK];
        if block.iter().any(|byte| *byte != 0) {
            sum(block);
        }
        let digits = block[124..136].iter().take_while(|byte| (b'0'..b'8').contains(*byte));
        let size = digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        at = at.saturating_add(BLOCK).saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
    tar
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

struct Kept(Vec<u8>);

impl Tee for Kept {
    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The bytes of a tar. Reading ends, and loses no byte.
pub fn tar(data: &[u8]) {
    let tar = with_sums(data);
    let mut entries = Entries::new(tar.as_slice());
    let mut kept = Kept(Vec::new());
    loop {
        let entry = match entries.next(&mut kept) {
            Err(_) => return,
            Ok(None) => break,
            Ok(Some(entry)) => entry,
        };
        let length: u64 = entry.pieces.iter().map(|(_, length)| length).sum();
        assert!(entry.pieces.iter().all(|(offset, length)| offset + length <= entry.size), "a piece lies outside its file");
        assert!(matches!(entry.kind, EntryKind::File | EntryKind::Other) || length == 0, "what is no file has content");
        let before = kept.0.len();
        if entries.content().take(length).read_to_end(&mut kept.0).is_err() || (kept.0.len() - before) as u64 != length {
            return;
        }
    }
    assert_eq!(kept.0, tar, "reading loses bytes");
}

/// A tar from lines: kind, path, and what the kind needs. Paths and targets are written as in Rust, `@` is a folder outside.
///
/// `d PATH MODE`, `f PATH SIZE`, `s PATH SIZE OFFSET:LENGTH…` (sparse), `l PATH TARGET`, `h PATH TARGET`, `c|b PATH MAJOR MINOR`,
/// `p PATH`; before an entry `x KEY VALUE` (PAX), `g KEY VALUE` (PAX for all that follow), `o UID GID`, `t MTIME`.
fn tar_of(script: &str, outside: &Path) -> Vec<u8> {
    let mut tar = Vec::new();
    let (mut owner, mut mtime) = ((0, 0), 0);
    let mut records: Vec<u8> = Vec::new();
    for line in script.lines().take(64) {
        let line = line.replace('@', &outside.to_string_lossy());
        let words: Vec<&str> = line.split(' ').collect();
        let word = |at: usize| words.get(at).copied().unwrap_or("");
        let number = |at: usize| word(at).parse::<u64>().unwrap_or(0);
        match word(0) {
            "o" => owner = (number(1), number(2)),
            "t" => mtime = number(1),
            "x" => records.extend(diff::record(word(1).as_bytes(), word(2).as_bytes())),
            "g" => extension(&mut tar, b'g', &diff::record(word(1).as_bytes(), word(2).as_bytes())),
            kind @ ("d" | "f" | "s" | "l" | "h" | "c" | "b" | "p") => {
                let mut header = tar::Header::new_ustar();
                let size = number(2).min(2000);
                let mut content = vec![b'x'; usize::try_from(size).unwrap_or(0)];
                let (entry_type, mode) = match kind {
                    "d" => (b'5', u32::from_str_radix(word(2), 8).unwrap_or(0o755)),
                    "l" => (b'2', 0o777),
                    "h" => (b'1', 0o644),
                    "c" => (b'3', 0o600),
                    "b" => (b'4', 0o600),
                    "p" => (b'6', 0o600),
                    _ => (b'0', 0o644),
                };
                let mut stored = 0;
                if kind == "f" {
                    stored = size;
                }
                if kind == "s" {
                    let pieces: Vec<(u64, u64)> = words[3.min(words.len())..]
                        .iter()
                        .filter_map(|piece| piece.split_once(':'))
                        .map(|(offset, length)| (offset.parse().unwrap_or(0), length.parse().unwrap_or(0)))
                        .collect();
                    let map: Vec<String> = pieces.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
                    stored = pieces.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length)).min(4000);
                    content = vec![b's'; usize::try_from(stored).unwrap_or(0)];
                    // packed anew it is as large as it says, and held in memory here
                    records.extend(diff::record(b"GNU.sparse.size", number(2).min(64 << 20).to_string().as_bytes()));
                    records.extend(diff::record(b"GNU.sparse.map", map.join(",").as_bytes()));
                }
                if word(1).len() > 100 {
                    records.extend(diff::record(b"path", word(1).as_bytes()));
                }
                if !records.is_empty() {
                    extension(&mut tar, b'x', &std::mem::take(&mut records));
                }
                header.set_entry_type(tar::EntryType::new(entry_type));
                header.set_size(stored);
                header.set_mode(mode);
                header.set_uid(owner.0);
                header.set_gid(owner.1);
                header.set_mtime(mtime);
                if matches!(kind, "c" | "b") {
                    let _ = header.set_device_major(u32::try_from(number(2)).unwrap_or(0));
                    let _ = header.set_device_minor(u32::try_from(number(3)).unwrap_or(0));
                }
                let block = header.as_mut_bytes();
                let name = word(1).as_bytes();
                block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
                if matches!(kind, "l" | "h") {
                    let link = word(2).as_bytes();
                    block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
                }
                sum(block);
                tar.extend_from_slice(header.as_bytes());
                if stored > 0 {
                    tar.extend_from_slice(&content);
                    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
                }
            }
            _ => {}
        }
    }
    tar.extend_from_slice(&[0; 2 * BLOCK]);
    tar
}

fn extension(tar: &mut Vec<u8>, kind: u8, records: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(records.len() as u64);
    sum(header.as_mut_bytes());
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(records);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// What is known of one path: type and mode, owner, size, time, link target or content, attributes. Folders have no size and no time.
type Fact = (u32, u32, u32, u64, i64, u64, Vec<u8>, Vec<(std::ffi::OsString, Vec<u8>)>);

fn fact(path: &Path, metadata: &fs::Metadata) -> Fact {
    let folder = metadata.is_dir();
    let content = if metadata.is_symlink() {
        fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
    } else if metadata.is_file() && metadata.len() <= 1 << 20 {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let (size, mtime) = if folder { (0, 0) } else { (metadata.len(), metadata.mtime().min(EPOCH)) };
    let attributes = files::attributes(path).unwrap();
    (metadata.mode(), metadata.uid(), metadata.gid(), size, mtime, metadata.rdev(), content, attributes)
}

/// All there is below a folder of the disk.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Fact> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        found.insert(path.clone(), fact(&path, &metadata));
        if metadata.is_dir() {
            pending.extend(files::names(&path).unwrap().iter().map(|name| path.join(name)));
        }
    }
    found
}

/// The files of a layer, by their paths in it.
fn below_of(layer: &Path) -> BTreeMap<PathBuf, Fact> {
    let root = layer.join("fs");
    let mut found = snapshot(&root);
    // the root is no part of a layer
    found.remove(&root);
    found.into_iter().map(|(path, fact)| (path.strip_prefix(&root).unwrap().to_owned(), fact)).collect()
}

/// All there is in a view.
fn seen(view: &View) -> BTreeMap<PathBuf, Fact> {
    fn folder(spot: &Spot, path: &Path, found: &mut BTreeMap<PathBuf, Fact>) {
        for name in View::names(spot).unwrap() {
            let Some(child) = View::child(spot, &name).unwrap() else { panic!("`{}` is named and not there", name.display()) };
            let path = path.join(&name);
            found.insert(path.clone(), fact(&child.path, &child.metadata));
            if child.is_folder() {
                folder(&child, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    if let Some(root) = view.root().unwrap() {
        folder(&root, Path::new(""), &mut found);
    }
    found
}

fn read_back(at: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = SplitReader::open(&at.join("split"), &at.join("fs"), &at.join("moved")).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A folder to unpack in: in memory where that is possible.
fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Lines of [`tar_of`]. Nothing outside the root is touched; what was unpacked comes back byte for byte; and packed anew, by final state,
/// it unpacks to the same files and packs to the same bytes.
pub fn layer(data: &[u8]) {
    let Ok(script) = std::str::from_utf8(data) else { return };
    let base = temporary();
    let (outside, low) = (base.path().join("outside"), base.path().join("low"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    fs::create_dir_all(low.join("a/b")).unwrap();
    fs::write(low.join("a/b/c"), "low").unwrap();
    fs::write(low.join("a/d"), "low").unwrap();
    std::os::unix::fs::symlink("a", low.join("e")).unwrap();
    let (outside_before, low_before) = (snapshot(&outside), snapshot(&low));
    let below = View::new(vec![low.clone()]);
    let tar = tar_of(script, &outside);
    let one = base.path().join("one");
    let unpacked = unpack_at(&one, &tar, &below);
    let check = |names: &[&str]| {
        assert_eq!(snapshot(&outside), outside_before, "something outside was touched");
        assert_eq!(snapshot(&low), low_before, "the layer below was touched");
        for name in files::names(base.path()).unwrap() {
            assert!(names.iter().any(|known| *known == name), "`{}` was made outside", name.display());
        }
    };
    check(&["outside", "low", "one"]);
    let Ok(unpacked) = unpacked else { return };
    assert_eq!(unpacked.diff_id, Digest::of(&tar));
    assert_eq!(unpacked.size, tar.len() as u64);
    assert_eq!(read_back(&one), tar, "what was unpacked comes back as other bytes");
    let before = seen(&below.below(&one.join("fs")));
    let packed = pack_at(&one, &base.path().join("two"), &below);
    let two = base.path().join("three");
    let again = unpack_at(&two, &packed, &below).unwrap_or_else(|error| panic!("what was packed does not unpack: {error}"));
    assert_eq!(again.diff_id, Digest::of(&packed));
    assert_eq!(seen(&below.below(&two.join("fs"))), before, "packed and unpacked, other files");
    assert_eq!(below_of(&two), below_of(&one), "what was packed is not what it unpacks to");
    assert_eq!(pack_at(&two, &base.path().join("four"), &below), packed, "packed again, other bytes");
    check(&["outside", "low", "one", "two", "three", "four"]);
}

fn unpack_at(at: &Path, tar: &[u8], below: &View) -> std::io::Result<Unpacked> {
    let root = at.join("fs");
    fs::create_dir_all(&root).unwrap();
    let unpacked = unpack(tar, &root, &at.join("split"), &at.join("moved"), below);
    for name in files::names(at).unwrap() {
        assert!(["fs", "split", "moved"].iter().any(|known| OsStr::new(known) == name), "`{}` was made", name.display());
    }
    unpacked
}

fn pack_at(layer: &Path, to: &Path, below: &View) -> Vec<u8> {
    fs::create_dir(to).unwrap();
    let root = layer.join("fs");
    let changes = diff::changes(&root, below, EPOCH).unwrap();
    let (digest, _) = diff::write(&changes, &root, EPOCH, &to.join("split")).unwrap();
    let mut bytes = Vec::new();
    SplitReader::open(&to.join("split"), &root, &to.join("moved")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(Digest::of(&bytes), digest);
    bytes
}
