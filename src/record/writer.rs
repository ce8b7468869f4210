//! One writer at a time: a flock on `igraph-out/lock`, which the kernel frees whatever happens to its holder.
//! Knows who holds it; readers never come here.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::clock::{Clock, Timestamp};
use crate::record::error::RecordError;
use crate::record::folder::StateFolder;

/// Who holds the lock. Written into the lock file for people; the lock itself is the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// Process id on that host.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// The command line, like `igraph push //debian/...`.
    pub command: String,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("one that has not said who it is");
        }
        write!(f, "`{}`, process {} on {}, since {}", self.command, self.pid, self.host, self.since.to_rfc3339())
    }
}

/// What to do when another holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it is free.
    Yes,
    /// Fail with [`RecordError::Held`].
    No,
}

/// How often a waiting writer looks.
const POLL: Duration = Duration::from_millis(50);

/// The right to write, held until dropped.
#[derive(Debug)]
pub struct WriterLock {
    _lock: Flock<File>,
}

impl WriterLock {
    /// Takes the lock for `me`. When another holds it, `on_wait` is called once with who that is, and then, with
    /// [`Wait::Yes`], the lock is tried again until it is free or `cancel` is cancelled.
    ///
    /// # Errors
    /// Held by another, stopped while waiting, no locks on this file system, or the file can't be written.
    pub fn acquire(
        folder: &StateFolder,
        me: &Holder,
        wait: Wait,
        clock: &dyn Clock,
        cancel: &Cancel,
        on_wait: impl FnOnce(&Holder),
    ) -> Result<Self, RecordError> {
        folder.create()?;
        let path = folder.lock();
        let io = |source| RecordError::io("write", &path, source);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        let mut on_wait = Some(on_wait);
        let mut lock = loop {
            let error = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((back, error)) => {
                    file = back;
                    error
                }
            };
            match error {
                Errno::EINTR => continue,
                Errno::EWOULDBLOCK => {}
                error => return Err(refused(&path, error)),
            }
            let holder = read_holder(&mut file);
            if wait == Wait::No {
                return Err(RecordError::Held { holder });
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait(&holder);
            }
            if !clock.sleep(POLL, cancel) {
                return Err(RecordError::WaitStopped { holder });
            }
        };
        let text = serde_json::to_vec(me).map_err(|error| io(error.into()))?;
        lock.set_len(0).and_then(|()| lock.seek(SeekFrom::Start(0))).and_then(|_| lock.write_all(&text)).map_err(io)?;
        Ok(Self { _lock: lock })
    }
}

fn refused(path: &Path, error: Errno) -> RecordError {
    match error {
        Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL => {
            RecordError::NoLocks { path: path.to_owned(), reason: error.desc().to_lowercase() }
        }
        error => RecordError::io("lock", path, error.into()),
    }
}

/// The holder as the file has it; the default when it is just being written.
fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn holder(command: &str) -> Holder {
        Holder { pid: 41, host: "ci-3".into(), command: command.into(), since: Timestamp(1_795_459_620_000) }
    }

    #[test]
    fn one_writer_at_a_time_and_the_second_learns_who() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::new(temp.path().join("igraph-out"));
        let (clock, cancel) = (ManualClock::new(Timestamp(0)), Cancel::new());
        let acquire = |command: &str, wait| WriterLock::acquire(&folder, &holder(command), wait, &clock, &cancel, |_| {});

        let first = acquire("igraph push", Wait::No).unwrap();
        let error = acquire("igraph build", Wait::No).unwrap_err();
        assert_eq!(error.to_string(), "another igraph is at work here: `igraph push`, process 41 on ci-3, since 2026-11-23T18:47:00Z");
        drop(first);
        acquire("igraph build", Wait::No).unwrap();
    }

    #[test]
    fn a_waiting_writer_says_once_for_whom_and_goes_on_or_stops() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::new(temp.path().join("igraph-out"));
        let (clock, cancel) = (ManualClock::new(Timestamp(0)), Cancel::new());
        let held =
            std::sync::Mutex::new(Some(WriterLock::acquire(&folder, &holder("igraph push"), Wait::No, &clock, &cancel, |_| {}).unwrap()));
        let mut told = Vec::new();
        let second = WriterLock::acquire(&folder, &holder("igraph build"), Wait::Yes, &clock, &cancel, |other| {
            told.push(other.command.clone());
            held.lock().unwrap().take();
        })
        .unwrap();
        assert_eq!(told, ["igraph push"]);

        cancel.cancel();
        let error = WriterLock::acquire(&folder, &holder("igraph test"), Wait::Yes, &clock, &cancel, |_| {}).unwrap_err();
        assert!(matches!(&error, RecordError::WaitStopped { holder } if holder.command == "igraph build"), "{error}");
        drop(second);
    }

    #[test]
    fn a_file_system_without_locks_is_refused() {
        for errno in [Errno::ENOLCK, Errno::EOPNOTSUPP] {
            let error = refused(Path::new("igraph-out/lock"), errno);
            assert!(matches!(error, RecordError::NoLocks { .. }) && error.hint().is_some(), "{error}");
        }
    }
}
