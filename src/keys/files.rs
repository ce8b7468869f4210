//! The cache of file digests: BLAKE3 of a file's content, kept under what a stat tells of it. Knows files and stamps; what
//! counts in a key is decided elsewhere.
//!
//! The rule (DESIGN §5): a file is fstat'ed before and after it is read, and its digest kept only if both agree and lie long
//! enough before the coarse clock as it was before the read; otherwise a later change could leave the stamp as it is. What
//! a writer does through a shared memory map shows in no stamp until the kernel writes it back: nobody who trusts stamps
//! can see that.
//!
//! The file is a cache: whatever is wrong with it, it counts as empty. [`MAGIC`], the version, the BLAKE3 of all that
//! follows, then records of [`RECORD`] bytes sorted by device and inode: device, inode, size, modified, changed, digest, and
//! how many saves ago it was last asked for. Numbers are little-endian.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::statfs::fstatfs;
use rayon::prelude::*;

use crate::dockerfile::{ContextEntry, ContextInput, EntryKind};
use crate::folder::{Folder, read_file, stamp_of};
use crate::problem::Problem;
use crate::stamp::{Stamp, coarse_clock, is_coarse};

const MAGIC: &[u8; 8] = b"igrfiles";
const VERSION: u32 = 1;
/// Magic, version, checksum.
const HEAD: usize = 8 + 4 + 32;
/// Five numbers, a digest, an age.
const RECORD: usize = 5 * 8 + 32 + 4;
/// A record that so many saves have not seen is dropped.
const FORGOTTEN_AFTER: u32 = 50;
/// How often a file that changes under the reader is read again.
const READS: usize = 3;
/// Files from this size on are hashed by all threads.
const LARGE: u64 = 4 << 20;

/// Device and inode.
type Identity = (u64, u64);

/// Digests of files. Safe to share among threads.
pub struct FileDigests {
    path: PathBuf,
    stored: Vec<u8>,
    seen: Vec<AtomicBool>,
    fresh: Mutex<HashMap<Identity, (Stamp, [u8; 32])>>,
    /// Whether something was added that is not saved.
    unsaved: AtomicBool,
    /// By device, whether its stamps are coarse.
    coarse: Mutex<HashMap<u64, bool>>,
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl FileDigests {
    /// The cache at `path`; empty where there is none, or none that is whole and of this version.
    pub fn load(path: impl Into<PathBuf>) -> Self {
        Self::load_with(path, coarse_clock)
    }

    /// As [`Self::load`], with another clock than the kernel's (nanoseconds since the Unix epoch).
    pub fn load_with(path: impl Into<PathBuf>, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let path = path.into();
        let mut stored = std::fs::read(&path).unwrap_or_default();
        if !is_whole(&stored) {
            stored.clear();
        }
        let count = stored.len().saturating_sub(HEAD) / RECORD;
        Self {
            path,
            stored,
            seen: (0..count).map(|_| AtomicBool::new(false)).collect(),
            fresh: Mutex::default(),
            unsaved: AtomicBool::new(false),
            coarse: Mutex::default(),
            clock: Box::new(clock),
        }
    }

    /// The entries with the digests of their files' content, in the same order. `root` is the context's root, and `shown`
    /// how people know it (relative to the workspace, empty for its root). A file's stamp becomes that of the very content
    /// that was digested.
    ///
    /// # Errors
    /// A problem for each file that can't be read, is no such file any more, or changes while it is read.
    pub fn digest(&self, root: &Folder, shown: &str, entries: Vec<ContextEntry>) -> Result<Vec<ContextInput>, Vec<Problem>> {
        let mut inputs: Vec<ContextInput> = entries.into_iter().map(|entry| ContextInput { content: self.stored(&entry), entry }).collect();
        self.recall(&mut inputs);
        let unknown = |input: &&mut ContextInput| matches!(input.entry.kind, EntryKind::File { .. }) && input.content.is_none();
        let missing: Vec<&mut ContextInput> = inputs.iter_mut().filter(unknown).collect();
        let read = |input: &mut ContextInput| match self.read(root, &input.entry, hash) {
            Ok(read) => {
                input.entry.stamp = read.stamp;
                input.content = Some(read.digest);
                Ok(read)
            }
            Err(failure) => Err(failure.problem(shown, &input.entry.path)),
        };
        // a thread is not worth waking for a few small files: there are other nodes to look at
        let bytes: u64 = missing.iter().map(|input| input.entry.stamp.size).sum();
        let results: Vec<Result<Digested, Problem>> = match bytes < LARGE {
            true => missing.into_iter().map(read).collect(),
            false => missing.into_par_iter().map(read).collect(),
        };
        let mut problems = Vec::new();
        let mut kept = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Ok(read) => kept.extend(read.settled.then_some(read)),
                Err(problem) => problems.push(problem),
            }
        }
        if !kept.is_empty() {
            let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            fresh.extend(kept.into_iter().map(|read| ((read.stamp.device, read.stamp.inode), (read.stamp, read.digest))));
            self.unsaved.store(true, Ordering::Relaxed);
        }
        if problems.is_empty() { Ok(inputs) } else { Err(problems) }
    }

    /// The digests that this process has read before.
    fn recall(&self, inputs: &mut [ContextInput]) {
        let unknown = |input: &&mut ContextInput| matches!(input.entry.kind, EntryKind::File { .. }) && input.content.is_none();
        let mut missing = inputs.iter_mut().filter(unknown).peekable();
        if missing.peek().is_none() {
            return;
        }
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        for input in missing {
            let stamp = input.entry.stamp;
            let known = fresh.get(&(stamp.device, stamp.inode)).filter(|(known, _)| same_content(known, &stamp));
            input.content = known.map(|(_, digest)| *digest);
        }
    }

    /// Writes the cache, whole or not at all, if anything was added.
    ///
    /// # Errors
    /// Where it can't be written. Nothing depends on it but speed.
    pub fn save(&self) -> io::Result<()> {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut records: BTreeMap<Identity, [u8; RECORD]> = BTreeMap::new();
        for (index, seen) in self.seen.iter().enumerate() {
            let mut record = [0; RECORD];
            record.copy_from_slice(self.record(index));
            let unseen = if seen.load(Ordering::Relaxed) { 0 } else { age(&record).saturating_add(1) };
            if unseen <= FORGOTTEN_AFTER {
                record[RECORD - 4..].copy_from_slice(&unseen.to_le_bytes());
                records.insert(identity(&record), record);
            }
        }
        for (key, (stamp, digest)) in fresh.iter() {
            records.insert(*key, pack(stamp, digest));
        }
        let mut bytes = vec![0; HEAD];
        records.values().for_each(|record| bytes.extend_from_slice(record));
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let checksum = blake3::hash(&bytes[HEAD..]);
        bytes[12..HEAD].copy_from_slice(checksum.as_bytes());
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".igraph-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
        file.write_all(&bytes)?;
        file.persist(&self.path).map_err(|error| error.error).map(drop)
    }

    /// How many digests are stored or new.
    pub fn len(&self) -> usize {
        self.seen.len() + self.fresh.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn record(&self, index: usize) -> &[u8] {
        &self.stored[HEAD + index * RECORD..HEAD + (index + 1) * RECORD]
    }

    fn stored(&self, entry: &ContextEntry) -> Option<[u8; 32]> {
        if !matches!(entry.kind, EntryKind::File { .. }) {
            return None;
        }
        let key = (entry.stamp.device, entry.stamp.inode);
        let (mut low, mut high) = (0, self.seen.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match identity(self.record(middle)).cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let record = self.record(middle);
                    if record[..40] == pack(&entry.stamp, &[0; 32])[..40] {
                        self.seen[middle].store(true, Ordering::Relaxed);
                        let mut digest = [0; 32];
                        digest.copy_from_slice(&record[40..72]);
                        return Some(digest);
                    }
                    return None;
                }
            }
        }
        None
    }

    /// Reads a file by `hash`, which gives digest and length, until it held still meanwhile.
    fn read(
        &self,
        root: &Folder,
        entry: &ContextEntry,
        hash: impl Fn(&mut File, u64) -> io::Result<([u8; 32], u64)>,
    ) -> Result<Digested, Failure> {
        for _ in 0..READS {
            let clock = (self.clock)();
            // neither a link nor a pipe put there since the listing may lead astray or block
            let mut file = match root.open_file(&entry.path) {
                Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(Failure::Another),
                opened => opened.map_err(Failure::Unreadable)?,
            };
            let before = stamp_of(&file).map_err(Failure::Unreadable)?;
            if !before.is_file() || (entry.kind != EntryKind::File { executable: before.mode & 0o100 != 0 }) {
                return Err(Failure::Another);
            }
            let (digest, length) = hash(&mut file, before.size).map_err(Failure::Unreadable)?;
            let after = stamp_of(&file).map_err(Failure::Unreadable)?;
            if before == after && length == before.size {
                let settled = before.is_settled(clock, self.is_coarse(before.device, &file));
                return Ok(Digested { stamp: before, digest, settled });
            }
        }
        Err(Failure::Changing)
    }

    fn is_coarse(&self, device: u64, file: &File) -> bool {
        let mut devices = self.coarse.lock().unwrap_or_else(PoisonError::into_inner);
        // what can't be asked counts as coarse
        *devices.entry(device).or_insert_with(|| fstatfs(file).map_or(true, |system| is_coarse(&system)))
    }
}

/// A file that was read.
#[derive(Debug)]
struct Digested {
    stamp: Stamp,
    digest: [u8; 32],
    /// Whether any later change will show in its stamp.
    settled: bool,
}

/// Why a file has no digest.
#[derive(Debug)]
enum Failure {
    Unreadable(io::Error),
    /// A link, a folder, or a file of another exec bit is there.
    Another,
    Changing,
}

impl Failure {
    fn problem(self, shown: &str, path: &str) -> Problem {
        let path = if shown.is_empty() { path.to_owned() } else { format!("{shown}/{path}") };
        match self {
            Self::Unreadable(error) => {
                let text = error.to_string();
                let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
                Problem::new(format!("`{path}` cannot be read: {text}"))
                    .hint("it counts as an input; if it should not, name it in .dockerignore")
            }
            Self::Another | Self::Changing => {
                Problem::new(format!("`{path}` changed while it was read")).hint("run again once nothing writes to it")
            }
        }
    }
}

/// Content and length of the rest of `file`, which is about `size` bytes long.
fn hash(file: &mut File, size: u64) -> io::Result<([u8; 32], u64)> {
    thread_local! {
        /// What a small file holds: the same memory for all of them.
        static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    if size < LARGE {
        return BYTES.with_borrow_mut(|bytes| {
            read_file(file, size, bytes)?;
            Ok((*blake3::hash(bytes).as_bytes(), bytes.len() as u64))
        });
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; LARGE as usize];
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok((*hasher.finalize().as_bytes(), length));
        }
        hasher.update_rayon(&buffer[..filled]);
        length += filled as u64;
    }
}

fn same_content(a: &Stamp, b: &Stamp) -> bool {
    (a.size, a.modified, a.changed) == (b.size, b.modified, b.changed)
}

fn pack(stamp: &Stamp, digest: &[u8; 32]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    for (at, number) in [stamp.device, stamp.inode, stamp.size, stamp.modified as u64, stamp.changed as u64].into_iter().enumerate() {
        record[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
    }
    record[40..72].copy_from_slice(digest);
    record
}

fn number(record: &[u8], index: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&record[index * 8..index * 8 + 8]);
    u64::from_le_bytes(eight)
}

fn identity(record: &[u8]) -> Identity {
    (number(record, 0), number(record, 1))
}

fn age(record: &[u8; RECORD]) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&record[RECORD - 4..]);
    u32::from_le_bytes(four)
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() >= HEAD
        && (bytes.len() - HEAD).is_multiple_of(RECORD)
        && bytes[..8] == MAGIC[..]
        && bytes[8..12] == VERSION.to_le_bytes()
        && bytes[12..HEAD] == *blake3::hash(&bytes[HEAD..]).as_bytes()
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
