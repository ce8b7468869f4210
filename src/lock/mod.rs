//! `igraph.lock`: which image each base from a registry resolves to, and when policies last renewed what; made to be read in a
//! diff. Knows the file, no registry and no clock.

mod policy;
mod text;

#[cfg(test)]
mod lock_tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::label::Label;
use crate::platform::Platform;
use crate::problem::Problem;
use crate::reference::Reference;

pub use policy::{Age, Policy, Settling, age, settling};

/// The name of the file, at the workspace root.
pub const LOCK_FILE: &str = "igraph.lock";

/// What a reference resolves to for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedBase {
    /// Digest of the image index, where the reference points at one.
    pub index: Option<Digest>,
    /// Digest of the platform's manifest: what keys see.
    pub manifest: Digest,
    /// The image id.
    pub config: ImageId,
    /// When it was resolved; to the second in the file.
    pub time: Timestamp,
    /// What the reference has moved to, and has yet to stand there for a while (`settle`).
    pub candidate: Option<Candidate>,
}

/// Another manifest that a reference points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Digest of the platform's manifest.
    pub manifest: Digest,
    /// When `igraph update` first saw it there.
    pub seen: Timestamp,
}

/// Since when a node counts as fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// To the second in the file.
    pub at: Timestamp,
    /// What renewed it then: the moment is a stamp, and part of the node's key. `None`: its age is counted from there.
    pub policy: Option<Policy>,
}

/// A parsed lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    bases: BTreeMap<(Reference, Platform), LockedBase>,
    nodes: BTreeMap<Label, Renewal>,
}

/// How one base differs between two locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockChange {
    /// Only the newer has it.
    Added(LockedBase),
    /// Only the older has it.
    Removed(LockedBase),
    /// It resolves to something else.
    Moved { old: LockedBase, new: LockedBase },
}

impl Lock {
    /// What `reference` resolves to for `platform`.
    pub fn find(&self, reference: &Reference, platform: &Platform) -> Option<&LockedBase> {
        // the map's key is a pair of owned values
        self.bases.get(&(reference.clone(), platform.clone()))
    }

    /// Sets what `reference` resolves to for `platform`; returns what it was.
    pub fn insert(&mut self, reference: Reference, platform: Platform, base: LockedBase) -> Option<LockedBase> {
        self.bases.insert((reference, platform), base)
    }

    /// Forgets a base; returns what it was.
    pub fn remove(&mut self, reference: &Reference, platform: &Platform) -> Option<LockedBase> {
        self.bases.remove(&(reference.clone(), platform.clone()))
    }

    /// All bases, sorted.
    pub fn bases(&self) -> impl Iterator<Item = (&Reference, &Platform, &LockedBase)> {
        self.bases.iter().map(|((reference, platform), base)| (reference, platform, base))
    }

    /// When a node was last renewed.
    pub fn renewal(&self, label: &Label) -> Option<&Renewal> {
        self.nodes.get(label)
    }

    /// Sets when a node was renewed; returns what it was.
    pub fn renew(&mut self, label: Label, renewal: Renewal) -> Option<Renewal> {
        self.nodes.insert(label, renewal)
    }

    /// How many bases it has.
    pub fn len(&self) -> usize {
        self.bases.len()
    }

    /// Whether it has neither bases nor nodes.
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty() && self.nodes.is_empty()
    }

    /// What `newer` does differently, sorted. A base of which only time or candidate differ has not changed.
    pub fn changes(&self, newer: &Self) -> Vec<(Reference, Platform, LockChange)> {
        let same =
            |old: &LockedBase, new: &LockedBase| LockedBase { time: new.time, candidate: new.candidate.clone(), ..old.clone() } == *new;
        let keys: std::collections::BTreeSet<_> = self.bases.keys().chain(newer.bases.keys()).collect();
        keys.into_iter()
            .filter_map(|key| {
                let change = match (self.bases.get(key), newer.bases.get(key)) {
                    (Some(old), Some(new)) if same(old, new) => return None,
                    (Some(old), Some(new)) => LockChange::Moved { old: old.clone(), new: new.clone() },
                    (None, Some(new)) => LockChange::Added(new.clone()),
                    (Some(old), None) => LockChange::Removed(old.clone()),
                    (None, None) => return None,
                };
                Some((key.0.clone(), key.1.clone(), change))
            })
            .collect()
    }

    /// Reads the lock at `path`, which people know as `shown`; a file that is not there is an empty lock.
    ///
    /// # Errors
    /// As [`Self::parse`], and where the file can't be read.
    pub fn load(path: &Path, shown: &str) -> Result<Self, Vec<Problem>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, shown),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(vec![Problem::new(format!("can't read `{shown}`: {error}"))]),
        }
    }

    /// Writes the lock to `path`: whoever reads it, and whatever happens meanwhile, sees the old one or this one whole.
    /// Durable when it returns.
    ///
    /// # Errors
    /// Where the folder can't be written to; the old file is then as it was.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, self.render().as_bytes())
    }
}

/// Replaces the file at `path` by `bytes` as a whole, durably; a new file gets the mode that the umask leaves of 0666,
/// an old one keeps its own.
///
/// # Errors
/// Where the folder can't be written to.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // through a link, so that the link stays one
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".igraph-").permissions(new).tempfile_in(folder)?;
    if let Ok(old) = fs::metadata(&path) {
        file.as_file().set_permissions(old.permissions())?;
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// A base to be written to the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockEntry {
    /// As Dockerfiles name it, normalised.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// What it is.
    pub base: LockedBase,
}

/// The lock of a workspace while igraph runs: read once, written whenever a base is added.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    lock: Mutex<Lock>,
}

impl LockFile {
    /// Reads the lock of the workspace at `root`; an empty one where there is none.
    ///
    /// # Errors
    /// As [`Lock::load`].
    pub fn read(root: &Path) -> Result<Self, Vec<Problem>> {
        let path = root.join(LOCK_FILE);
        let lock = Lock::load(&path, LOCK_FILE)?;
        Ok(Self { path, lock: Mutex::new(lock) })
    }

    /// A base, where it is in the lock.
    pub fn entry(&self, reference: &Reference, platform: &Platform) -> Option<LockedBase> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).find(reference, platform).cloned()
    }

    /// When a node was last renewed.
    pub fn renewal(&self, label: &Label) -> Option<Renewal> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).renewal(label).copied()
    }

    /// Whether the file says what this one has read or written last, and nobody else has changed it since.
    pub fn is_on_disk(&self) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Lock::load(&self.path, LOCK_FILE).is_ok_and(|now| now == *lock)
    }

    /// Adds or replaces bases, and writes the file.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn insert(&self, entries: impl IntoIterator<Item = LockEntry>) -> io::Result<()> {
        self.change(|lock| {
            for entry in entries {
                lock.insert(entry.reference, entry.platform, entry.base);
            }
        })
    }

    /// Changes the lock, and writes the file.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn change(&self, change: impl FnOnce(&mut Lock)) -> io::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lock);
        lock.save(&self.path)
    }
}
