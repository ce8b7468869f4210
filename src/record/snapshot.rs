//! The snapshot: the witness that nothing has changed of all that a settled evaluation looked at, so that the evaluation
//! need not be done again. It knows stamps of paths and of the state, and no meaning of either.
//!
//! It says *valid* only when every path has the very stamp it had, folders too (so that their listings hold), every path
//! that was missing is missing, and the state is as it was. It is never written while one of these stamps is so young that
//! a later change could leave it as it is (DESIGN §5, last paragraph).
//!
//! A file: [`MAGIC`], the version, the BLAKE3 of all that follows; the state's stamps; counts of entries and of absent
//! paths, length of the paths, length of the payload; one [`ENTRY`] per path; one offset per absent path; the paths, each
//! ended by a zero byte; the payload. Numbers are little-endian. It is read into memory, not mapped: a file cut short under
//! a map would kill the process.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::fstatat;
use nix::sys::statfs::fstatfs;

use crate::record::error::RecordError;
use crate::record::folder::{StateFolder, replace};
use crate::record::state::StateIdentity;
use crate::stamp::{Stamp, is_coarse};

const MAGIC: &[u8; 8] = b"igrwitn\n";
const VERSION: u32 = 1;
/// Magic, version, checksum.
const HEAD: usize = 8 + 4 + 32;
/// A stamp: device, inode, size, modified, changed, mode.
const STAMP: usize = 5 * 8 + 4;
/// A stamp and the offset of its path.
const ENTRY: usize = STAMP + 4;
/// Entries that a thread takes at once.
const CHUNK: usize = 256;
/// Snapshots that are kept: one per scope, the newest.
const KEPT: usize = 32;

/// What an evaluation relies on, gathered while it runs. Every stamp is of a stat made *before* the content, link or
/// listing it stands for was read.
#[derive(Debug)]
pub struct SnapshotDraft {
    since: i64,
    state: StateIdentity,
    entries: BTreeMap<String, Stamp>,
    absent: Vec<String>,
    torn: Option<String>,
}

/// What has become of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there, and holds from now on.
    Yes,
    /// Nothing was written: this path, or the state, changed a moment ago or since.
    Unsettled {
        /// Which; empty for the state.
        path: String,
    },
}

/// A snapshot, read.
#[derive(Debug)]
pub struct Snapshot {
    bytes: Vec<u8>,
    entries: usize,
    absent: usize,
    /// Where entries, absent offsets, paths and payload begin.
    starts: [usize; 4],
}

/// The first thing that is not as it was, in the order of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The root can't be opened.
    Root,
    /// The state was written to.
    State,
    /// A path is another file, has other times, or is gone.
    Changed(String),
    /// A path that was missing is there, or can't be looked for.
    Appeared(String),
}

/// Whether the evaluation holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity<'a> {
    /// It does, and this was its payload.
    Valid(&'a [u8]),
    /// It has to be done again.
    Invalid(Difference),
}

impl SnapshotDraft {
    /// Begins a draft, before anything is read, the state included; `since` is [`crate::stamp::coarse_clock`] just now.
    pub fn begin(folder: &StateFolder, since: i64) -> Self {
        Self { since, state: StateIdentity::of(folder), entries: BTreeMap::new(), absent: Vec::new(), torn: None }
    }

    /// Relies on `path`, relative to the root (which is `.`), being the file, folder or link that has `stamp`.
    pub fn relies_on(&mut self, path: impl Into<String>, stamp: Stamp) {
        let path = path.into();
        match self.entries.get(&path) {
            // it changed while the evaluation ran
            Some(other) if *other != stamp => self.torn = Some(path),
            _ => {
                self.entries.insert(path, stamp);
            }
        }
    }

    /// Relies on there being nothing at `path`.
    pub fn relies_on_absence(&mut self, path: impl Into<String>) {
        self.absent.push(path.into());
    }

    /// Writes the snapshot of `scope` (a hash of all else that the evaluation depends on), unless something is not settled.
    /// The state is closed by now: closing may write.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn write(mut self, folder: &StateFolder, root: &Path, scope: &[u8; 32], payload: &[u8]) -> Result<Written, RecordError> {
        let unsettled = |path: &str| Ok(Written::Unsettled { path: path.to_owned() });
        if let Some(path) = &self.torn {
            return unsettled(path);
        }
        let mut devices: BTreeMap<u64, bool> = BTreeMap::new();
        let mut settled = |stamp: &Stamp, path: &Path| {
            let coarse = devices.entry(stamp.device).or_insert_with(|| lies_on_coarse(path));
            stamp.is_settled(self.since, *coarse)
        };
        let state = [self.state.database, self.state.log];
        if StateIdentity::of(folder) != self.state || !state.iter().flatten().all(|stamp| settled(stamp, folder.path())) {
            return unsettled("");
        }
        for (path, stamp) in &self.entries {
            if !settled(stamp, &root.join(path)) {
                return unsettled(path);
            }
        }
        self.absent.sort();
        self.absent.dedup();
        // a path that can't be named to the kernel can't be looked at either
        if let Some(path) = self.entries.keys().chain(&self.absent).find(|path| path.contains('\0')) {
            return unsettled(path);
        }
        let snapshots = folder.snapshots();
        fs::create_dir_all(&snapshots).map_err(|source| RecordError::io("create", &snapshots, source))?;
        replace(&file_of(folder, scope), &self.encode(payload))?;
        prune(&snapshots);
        Ok(Written::Yes)
    }

    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        for stamp in [self.state.database, self.state.log] {
            bytes.push(u8::from(stamp.is_some()));
            put_stamp(&mut bytes, &stamp.unwrap_or(NO_STAMP));
        }
        let paths: usize = self.entries.keys().chain(&self.absent).map(|path| path.len() + 1).sum();
        for number in [self.entries.len(), self.absent.len(), paths, payload.len()] {
            bytes.extend_from_slice(&(number as u64).to_le_bytes());
        }
        let mut offset = 0u32;
        let mut next = |path: &String| {
            let this = offset.to_le_bytes();
            offset += path.len() as u32 + 1;
            this
        };
        for (path, stamp) in &self.entries {
            put_stamp(&mut bytes, stamp);
            bytes.extend_from_slice(&next(path));
        }
        self.absent.iter().for_each(|path| bytes.extend_from_slice(&next(path)));
        for path in self.entries.keys().chain(&self.absent) {
            bytes.extend_from_slice(path.as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(payload);
        let checksum = blake3::hash(&bytes[HEAD..]);
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..HEAD].copy_from_slice(checksum.as_bytes());
        bytes
    }
}

impl Snapshot {
    /// The snapshot of `scope`; `None` where there is none, or none that is whole and of this version.
    pub fn read(folder: &StateFolder, scope: &[u8; 32]) -> Option<Self> {
        Self::parse(fs::read(file_of(folder, scope)).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let head = bytes.get(..HEAD)?;
        if head[..8] != MAGIC[..] || head[8..12] != VERSION.to_le_bytes() || head[12..] != *blake3::hash(&bytes[HEAD..]).as_bytes() {
            return None;
        }
        let counts = HEAD + 2 * (1 + STAMP);
        let count = |index: usize| {
            let at = counts + index * 8;
            usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
        };
        let (entries, absent, paths, payload) = (count(0)?, count(1)?, count(2)?, count(3)?);
        let first = counts + 4 * 8;
        let second = first.checked_add(entries.checked_mul(ENTRY)?)?;
        let third = second.checked_add(absent.checked_mul(4)?)?;
        let fourth = third.checked_add(paths)?;
        let whole = fourth.checked_add(payload)? == bytes.len();
        whole.then_some(Self { bytes, entries, absent, starts: [first, second, third, fourth] })
    }

    /// Looks at everything the snapshot relies on, with two threads; with the first difference it is done.
    pub fn validate(&self, folder: &StateFolder, root: &Path) -> Validity<'_> {
        if self.state() != StateIdentity::of(folder) {
            return Validity::Invalid(Difference::State);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(root) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(root) else {
            return Validity::Invalid(Difference::Root);
        };
        let (next, different) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        std::thread::scope(|scope| {
            if self.entries + self.absent > CHUNK {
                scope.spawn(|| self.look(&root, &next, &different));
            }
            self.look(&root, &next, &different);
        });
        match different.into_inner() {
            usize::MAX => Validity::Valid(&self.bytes[self.starts[3]..]),
            index if index < self.entries => Validity::Invalid(Difference::Changed(self.path(index).to_string_lossy().into_owned())),
            index => Validity::Invalid(Difference::Appeared(self.path(index).to_string_lossy().into_owned())),
        }
    }

    /// Takes chunk after chunk. The lowest index that differs is found whichever thread meets it: chunks are taken in
    /// order, and only those above a known difference are left out.
    fn look(&self, root: &File, next: &AtomicUsize, different: &AtomicUsize) {
        let total = self.entries + self.absent;
        loop {
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            if start >= total || start > different.load(Ordering::Relaxed) {
                return;
            }
            if let Some(index) = (start..total.min(start + CHUNK)).find(|index| !self.holds(root, *index)) {
                different.fetch_min(index, Ordering::Relaxed);
                return;
            }
        }
    }

    fn holds(&self, root: &File, index: usize) -> bool {
        let path = self.path(index);
        if path.is_empty() {
            return false;
        }
        let found = fstatat(root, path, AtFlags::AT_SYMLINK_NOFOLLOW);
        if index < self.entries {
            let start = self.starts[0] + index * ENTRY;
            found.is_ok_and(|found| Stamp::of_stat(&found) == take_stamp(&self.bytes[start..start + STAMP]))
        } else {
            matches!(found, Err(Errno::ENOENT | Errno::ENOTDIR))
        }
    }

    /// The path of an entry, or of an absent path after the last entry.
    fn path(&self, index: usize) -> &CStr {
        let at = match index.checked_sub(self.entries) {
            None => self.starts[0] + index * ENTRY + STAMP,
            Some(index) => self.starts[1] + index * 4,
        };
        let offset = u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]) as usize;
        let paths = &self.bytes[self.starts[2]..self.starts[3]];
        // the checksum holds, so this is never out of bounds; were it, an empty path is nothing that holds
        paths.get(offset..).and_then(|path| CStr::from_bytes_until_nul(path).ok()).unwrap_or_default()
    }

    fn state(&self) -> StateIdentity {
        let stamp = |at: usize| (self.bytes[at] == 1).then(|| take_stamp(&self.bytes[at + 1..at + 1 + STAMP]));
        StateIdentity { database: stamp(HEAD), log: stamp(HEAD + 1 + STAMP) }
    }
}

const NO_STAMP: Stamp = Stamp { device: 0, inode: 0, mode: 0, size: 0, modified: 0, changed: 0 };

fn put_stamp(bytes: &mut Vec<u8>, stamp: &Stamp) {
    for number in [stamp.device, stamp.inode, stamp.size, stamp.modified as u64, stamp.changed as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&stamp.mode.to_le_bytes());
}

/// Of [`STAMP`] bytes.
fn take_stamp(bytes: &[u8]) -> Stamp {
    let number = |index: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(eight)
    };
    let mut mode = [0; 4];
    mode.copy_from_slice(&bytes[40..44]);
    Stamp {
        device: number(0),
        inode: number(1),
        size: number(2),
        modified: number(3) as i64,
        changed: number(4) as i64,
        mode: u32::from_le_bytes(mode),
    }
}

/// Whether the file system of `path` itself, be it a link, has coarse stamps. What can't be asked counts as coarse.
fn lies_on_coarse(path: &Path) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    opened.ok().and_then(|file| fstatfs(&file).ok()).is_none_or(|system| is_coarse(&system))
}

fn file_of(folder: &StateFolder, scope: &[u8; 32]) -> PathBuf {
    folder.snapshots().join(&*blake3::Hash::from_bytes(*scope).to_hex().as_str()[..32].to_owned())
}

/// Removes the oldest snapshots, and what a kill left half-written.
fn prune(snapshots: &Path) {
    let Ok(entries) = fs::read_dir(snapshots) else { return };
    let mut files: Vec<_> = entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in files.into_iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
