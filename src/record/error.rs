//! Every way in which the record fails, as situations with facts and hints. Knows no table.

use std::io;
use std::path::{Path, PathBuf};

use crate::record::writer::Holder;

/// What went wrong with `igraph-out/`.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{}`: {}", path.display(), plain(source))]
    Io {
        /// Like `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No space, or no quota, is left.
    #[error("the disk is full: `{}` cannot be written", path.display())]
    DiskFull {
        /// What was written.
        path: PathBuf,
    },
    /// The folder or its file system can't be written.
    #[error("`{}` cannot be written: {reason}", path.display())]
    ReadOnly {
        /// What was to be written.
        path: PathBuf,
        /// Like `permission denied`.
        reason: String,
    },
    /// Written by a newer igraph.
    #[error("`{}` has version {found}, and this igraph knows versions up to {known}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that can be read.
        known: i64,
    },
    /// The database is damaged, or something else lies in its place.
    #[error("`{}` is damaged: {detail}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another program uses the database.
    #[error("`{}` is in use by another program", path.display())]
    Busy {
        /// Which file.
        path: PathBuf,
    },
    /// Another igraph writes, and waiting was not wanted.
    #[error("another igraph is at work here: {holder}")]
    Held {
        /// Who.
        holder: Holder,
    },
    /// The wait for another igraph was stopped.
    #[error("stopped while waiting for another igraph: {holder}")]
    WaitStopped {
        /// Who.
        holder: Holder,
    },
    /// The file system knows no locks.
    #[error("`{}` lies on a file system without working locks ({reason})", path.display())]
    NoLocks {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Something else from the database.
    #[error("`{}`: {source}", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A file given to `state load` that `state save` did not write.
    #[error("`{}` is no saved state", path.display())]
    NoSavedState {
        /// Which file.
        path: PathBuf,
    },
    /// A file given to `state load` that is not what was saved.
    #[error("the saved state `{}` is damaged: {detail}", path.display())]
    DamagedSave {
        /// Which file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// There is no run of that id.
    #[error("there is no log of a run `{id}`")]
    NoRun {
        /// What was asked for.
        id: String,
        /// A run with an id like it.
        nearest: Option<String>,
    },
}

impl RecordError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::DiskFull { .. } => "free some space, or run `igraph gc`, and run again: what was recorded before is safe".into(),
            Self::ReadOnly { path, .. } if !path.iter().any(|part| part == "igraph-out") => return None,
            Self::ReadOnly { .. } => {
                "igraph keeps its records in `igraph-out` at the workspace root and has to be able to write there".into()
            }
            Self::Newer { .. } => "use the newer igraph; with this one, move the file away first (results are then computed anew)".into(),
            Self::Damaged { path, .. } => format!(
                "nothing was deleted; move `{}` away, or load a saved state: verdicts are then computed anew, images stay",
                path.display()
            ),
            Self::Busy { .. } => "close the other program and run again".into(),
            Self::Held { .. } => "without `--no-wait`, igraph waits for it to end".into(),
            Self::NoLocks { .. } => "two igraphs at once would not see each other there; keep the workspace on a local disk".into(),
            Self::NoSavedState { .. } => "write one with `igraph state save FILE`".into(),
            Self::DamagedSave { .. } => {
                "nothing was loaded: take a whole copy, or go without; what it held is then built and tested anew".into()
            }
            Self::NoRun { nearest: Some(nearest), .. } => format!("did you mean `{nearest}`? `igraph log list` shows all"),
            Self::NoRun { nearest: None, .. } => "`igraph log list` shows all; the newest 50 are kept".into(),
            Self::Io { .. } | Self::WaitStopped { .. } | Self::Database { .. } => return None,
        })
    }

    /// Sorts a system error into its situation.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if action != "read" => {
                Self::ReadOnly { path, reason: plain(&source) }
            }
            _ => Self::Io { action, path, source },
        }
    }

    /// Sorts an error of SQLite into its situation.
    pub(crate) fn database(path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let path = path.to_owned();
        let detail = source.to_string();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            // SQLite says no more than that of a disk without room for its shared memory
            Some(ErrorCode::SystemIoFailure) if is_full(&path) => Self::DiskFull { path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path, reason: "permission denied, or a read-only file system".into() },
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged { path, detail },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => match source {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..) => Self::Damaged { path, detail },
                source => Self::Database { path, source },
            },
        }
    }
}

/// Whether the file system has no room for even a page of a database and what belongs to it.
fn is_full(path: &Path) -> bool {
    const ROOM: u64 = 64 * 1024;
    let folder = path.parent().unwrap_or(path);
    nix::sys::statvfs::statvfs(folder).is_ok_and(|stat| stat.blocks_available() * stat.fragment_size() < ROOM)
}

/// A system error without its number: `no space left on device`.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
