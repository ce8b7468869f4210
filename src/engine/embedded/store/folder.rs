//! The store's folder: what lies where, who uses it, what of it is on the disk for good. Knows no image.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
            Ok(text) => {
                let message = format!("the store `{}` has version {}, this igraph reads {}", root.display(), text.trim(), VERSION.trim());
                return Err(Failure::infra(message).retry(Retry::Never).hint("remove the folder, or say another one with IGRAPH_STORE"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::write(&version, VERSION).map_err(cannot)?,
            Err(error) => return Err(cannot(error)),
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default();
        let store = Self { root: root.to_owned(), owner: owner.to_owned(), boot, count: AtomicU64::new(0) };
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
        (!self.boot.is_empty() && boot == self.boot) || self.root.join("synced").join(name).exists()
    }

    /// Brings all that was written before to the disk, and then remembers that these layers are there.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn sync(&self, layers: &BTreeSet<String>) -> Result<(), Failure> {
        let synced = self.root.join("synced");
        let new: Vec<&String> = layers.iter().filter(|name| !synced.join(name).exists()).collect();
        let folder = File::open(&synced).map_err(disk("the store"))?;
        // SAFETY: syncfs takes any open descriptor and touches no memory of ours
        if unsafe { libc::syncfs(folder.as_raw_fd()) } != 0 {
            return Err(disk("writing the store to the disk")(io::Error::last_os_error()));
        }
        if new.is_empty() {
            return Ok(());
        }
        for name in new {
            File::create(synced.join(name)).map_err(disk("the store"))?;
        }
        folder.sync_all().map_err(disk("writing the store to the disk"))
    }
}
