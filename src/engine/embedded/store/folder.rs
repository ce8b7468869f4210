//! The store's folder: what lies where, who uses it, what of it is on the disk for good. Knows no image.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use crate::engine::embedded::files::{self, disk};
use crate::failure::{Failure, Retry};

/// Rises when an older igraph could not read what a newer one wrote.
const VERSION: &str = "1\n";

const FOLDERS: [&str; 10] = ["layers", "images", "claims", "names", "cache", "synced", "work", "caches", "packed", "blobs"];

/// A store. Every piece is made under `work` and renamed into place whole.
pub(in crate::engine::embedded) struct Store {
    pub(super) root: PathBuf,
    /// Whose claims on images this process writes.
    pub(super) owner: String,
    /// Tells this start of the machine from others: what was not synced before a restart is not trusted.
    pub(super) boot: String,
    count: AtomicU64,
    /// The folder, open since before anything was written: what fails to reach the disk is told through it.
    folder: File,
    turns: Mutex<Turns>,
    turned: Condvar,
}

/// How often all that was written was brought to the disk.
#[derive(Debug, Default)]
struct Turns {
    begun: u64,
    ended: u64,
    /// The last that failed, and an errno.
    failed: Option<(u64, i32)>,
}

/// Keeps others from collecting while something is being made.
pub(in crate::engine::embedded) struct Lease(#[expect(dead_code, reason = "the lock goes when it is dropped")] Flock<File>);

/// A folder for something unfinished; goes with all in it when dropped.
pub(in crate::engine::embedded) struct Work {
    path: PathBuf,
}

impl Work {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // what stays is found by the next who has the store for itself
        let _ = files::remove(&self.path);
    }
}

impl Store {
    /// Opens the store at `root`, an absolute path; makes it where it is not there.
    ///
    /// # Errors
    /// Infra, never retried, where it can't be made, or a newer igraph made it.
    pub fn open(root: &Path, owner: &str) -> Result<Self, Failure> {
        let cannot = |error: io::Error| disk(format!("the store `{}`", root.display()))(error).retry(Retry::Never);
        for folder in FOLDERS {
            std::fs::create_dir_all(root.join(folder)).map_err(cannot)?;
        }
        std::fs::create_dir_all(root.join("claims").join(owner)).map_err(cannot)?;
        let version = root.join("version");
        match std::fs::read_to_string(&version) {
            Ok(text) if text == VERSION => {}
            // made a moment before the power failed
            Ok(text) if text.is_empty() => std::fs::write(&version, VERSION).map_err(cannot)?,
            Ok(text) => {
                let message = format!("the store `{}` has version {}, this igraph reads {}", root.display(), text.trim(), VERSION.trim());
                return Err(Failure::infra(message).retry(Retry::Never).hint("remove the folder, or say another one with IGRAPH_STORE"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::write(&version, VERSION).map_err(cannot)?,
            Err(error) => return Err(cannot(error)),
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default();
        let folder = File::open(root).map_err(cannot)?;
        let store = Self {
            root: root.to_owned(),
            owner: owner.to_owned(),
            boot,
            count: AtomicU64::new(0),
            folder,
            turns: Mutex::default(),
            turned: Condvar::new(),
        };
        // left by a process that was killed
        if !files::names(&root.join("work")).map_err(cannot)?.is_empty()
            && let Some(_alone) = store.alone()?
        {
            store.clear_work();
        }
        Ok(store)
    }

    /// Whose claims it writes.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn clear_work(&self) {
        for name in files::names(&self.root.join("work")).unwrap_or_default() {
            let _ = files::remove(&self.root.join("work").join(name));
        }
    }

    fn lock(&self, name: &str, kind: FlockArg) -> Result<Option<Flock<File>>, Failure> {
        let path = self.root.join(name);
        let cannot = |error: io::Error| disk(format!("lock `{}`", path.display()))(error);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
        match Flock::lock(file, kind) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(cannot(error.into())),
        }
    }

    /// The right to use what is in it; waits while another process collects.
    pub fn lease(&self) -> Result<Lease, Failure> {
        let lock = self.lock("use.lock", FlockArg::LockShared)?;
        lock.map(Lease).ok_or_else(|| Failure::infra("the store is locked"))
    }

    /// The store for this process alone; `None` where another uses it.
    pub(super) fn alone(&self) -> Result<Option<Lease>, Failure> {
        Ok(self.lock("use.lock", FlockArg::LockExclusiveNonblock)?.map(Lease))
    }

    /// The right to change claims and to replace layers; held for moments.
    pub(super) fn changing(&self) -> Result<Lease, Failure> {
        let lock = self.lock("change.lock", FlockArg::LockExclusive)?;
        lock.map(Lease).ok_or_else(|| Failure::infra("the store is locked"))
    }

    /// A new empty folder for something unfinished.
    pub fn work(&self) -> Result<Work, Failure> {
        loop {
            let name = format!("{}-{}-{:08x}", std::process::id(), self.count.fetch_add(1, Ordering::Relaxed), fastrand::u32(..));
            let path = self.root.join("work").join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Work { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(disk("a work folder")(error)),
            }
        }
    }

    /// A file without a name: it goes with this process.
    pub fn scratch(&self) -> Result<File, Failure> {
        tempfile::tempfile_in(self.root.join("work")).map_err(disk("a scratch file"))
    }

    /// Writes a small file whole or not at all.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let work = self.work()?;
        let new = work.path().join("new");
        let cannot = |error| disk(format!("`{}`", path.display()))(error);
        std::fs::write(&new, bytes).map_err(cannot)?;
        std::fs::rename(&new, path).map_err(cannot)
    }

    /// Whether what was marked with `boot` can be trusted.
    pub(super) fn trusts(&self, name: &str, boot: &str) -> bool {
        (!self.boot.is_empty() && boot == self.boot) || self.mark(name).exists()
    }

    /// What says that something is on the disk.
    fn mark(&self, name: &str) -> PathBuf {
        self.root.join("synced").join(name)
    }

    /// What is about to be written anew is no longer known to be on the disk.
    pub(super) fn unmark(&self, name: &str) -> Result<(), Failure> {
        match std::fs::remove_file(self.mark(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("the store")(error)),
            _ => Ok(()),
        }
    }

    /// Brings what these marks stand for to the disk, with all that was written before, and then remembers that it is there. Where
    /// all of it was there before, nothing is done.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn settle(&self, marks: &BTreeSet<String>) -> Result<(), Failure> {
        let new: Vec<PathBuf> = marks.iter().map(|name| self.mark(name)).filter(|mark| !mark.exists()).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for mark in new {
            File::create(mark).map_err(disk("the store"))?;
        }
        let folder = File::open(self.root.join("synced")).map_err(disk("the store"))?;
        folder.sync_all().map_err(disk("writing the store to the disk"))
    }

    /// Brings all that was written before to the disk. Those that come while the disk is at work share its next turn.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // the turn that is under way may have begun before what the caller wrote
        let wanted = turns.begun + 1;
        while turns.ended < wanted {
            if turns.begun > turns.ended {
                turns = self.turned.wait(turns).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            turns.begun += 1;
            drop(turns);
            let synced = self.sync_now();
            turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.ended = turns.begun;
            if let Err(error) = synced {
                turns.failed = Some((turns.ended, error.raw_os_error().unwrap_or(libc::EIO)));
            }
            self.turned.notify_all();
        }
        match turns.failed {
            // the kernel tells of what it could not write only once: it may have been anybody's
            Some((turn, errno)) if turn >= wanted => Err(disk("writing the store to the disk")(io::Error::from_raw_os_error(errno))),
            _ => Ok(()),
        }
    }

    fn sync_now(&self) -> io::Result<()> {
        // SAFETY: syncfs takes any open descriptor and touches no memory of ours
        if unsafe { libc::syncfs(self.folder.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::embedded::store::Claim;

    fn turns(store: &Store) -> (u64, u64) {
        let turns = store.turns.lock().unwrap();
        (turns.begun, turns.ended)
    }

    #[test]
    fn what_is_on_the_disk_is_not_brought_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "one").unwrap();
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        store.keep(config, Claim::Throwaway).unwrap();
        assert_eq!(turns(&store), (0, 0), "a throwaway is in no record");
        let id = store.keep(config, Claim::Kept).unwrap().id;
        store.keep(config, Claim::Kept).unwrap();
        assert_eq!(turns(&store), (1, 1));
        // another process of the same owner finds it as it is; another owner has a claim of its own
        let again = Store::open(folder.path(), "one").unwrap();
        again.keep(config, Claim::Kept).unwrap();
        let other = Store::open(folder.path(), "two").unwrap();
        other.keep(config, Claim::Kept).unwrap();
        assert_eq!((turns(&again), turns(&other)), ((0, 0), (1, 1)));
        // what was let go of, was damaged, or was never said to be there is written again
        store.release(&"one".into(), id).unwrap();
        store.keep(config, Claim::Kept).unwrap();
        assert_eq!(turns(&store), (2, 2));
        std::fs::write(folder.path().join("images").join(id.0.hex()), "{}").unwrap();
        store.keep(config, Claim::Kept).unwrap();
        assert_eq!(turns(&store), (3, 3));
        std::fs::remove_file(folder.path().join("claims/one").join(id.0.hex())).unwrap();
        store.keep(config, Claim::Kept).unwrap();
        assert_eq!(turns(&store), (4, 4));
        for mark in files::names(&folder.path().join("synced")).unwrap() {
            std::fs::remove_file(folder.path().join("synced").join(mark)).unwrap();
        }
        store.keep(config, Claim::Kept).unwrap();
        assert_eq!(turns(&store), (5, 5));
    }

    #[test]
    fn a_store_that_lost_its_version_with_the_power_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", VERSION] {
            std::fs::write(folder.path().join("version"), text).unwrap();
            drop(Store::open(folder.path(), "one").unwrap());
            assert_eq!(std::fs::read_to_string(folder.path().join("version")).unwrap(), VERSION);
        }
        std::fs::write(folder.path().join("version"), "2\n").unwrap();
        assert!(Store::open(folder.path(), "one").is_err());
    }

    #[test]
    fn a_turn_that_was_under_way_is_not_enough_and_a_failed_one_is_everybodys() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "one").unwrap();
        store.turns.lock().unwrap().begun = 1;
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| store.sync())).collect();
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(turns(&store), (1, 0), "one at a time");
            store.turns.lock().unwrap().ended = 1;
            store.turned.notify_all();
            waiting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
        let (begun, ended) = turns(&store);
        assert!((2..=5).contains(&begun) && ended == begun, "{begun}");
        // of a turn that failed all hear that waited for it, whoever took it
        store.turns.lock().unwrap().failed = Some((begun + 1, libc::ENOSPC));
        assert_eq!(store.sync().unwrap_err().group.as_deref(), Some("disk"));
        store.sync().unwrap();
    }
}
