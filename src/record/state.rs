//! `state.db`: opened by the one writer, or by any reader; what a row's columns become. Knows SQLite, not what is recorded.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::config::DbConfig;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior};
use serde::de::DeserializeOwned;

use crate::record::error::RecordError;
use crate::record::folder::StateFolder;
use crate::record::schema::{self, Found};
use crate::stamp::Stamp;

/// The database of a workspace. Safe to share among threads; each call is a transaction of its own.
#[derive(Debug)]
pub struct State {
    connection: Mutex<Connection>,
    folder: StateFolder,
    path: PathBuf,
}

impl State {
    /// Opens the database to write, making folder and tables where they are missing and bringing an older version up to
    /// date. The caller holds the [`crate::record::WriterLock`].
    ///
    /// # Errors
    /// Of a newer version, damaged, not ours, or not to be written. Nothing is deleted.
    pub fn open(folder: &StateFolder) -> Result<Self, RecordError> {
        folder.create()?;
        let path = folder.database();
        let fail = |source| RecordError::database(&path, source);
        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let from = match schema::inspect(&connection).map_err(fail)? {
            Found::Empty => 0,
            found => version_of(&path, found)?,
        };
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(fail)?;
        if mode != "wal" {
            return Err(RecordError::NoLocks { path, reason: format!("SQLite offers only journal mode `{mode}`") });
        }
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;").map_err(fail)?;
        if from < schema::VERSION {
            schema::migrate(&mut connection, from).map_err(fail)?;
        }
        Ok(Self { connection: Mutex::new(connection), folder: folder.clone(), path })
    }

    /// Opens the database to read; never waits for a writer and writes nothing. Where there is none, all is empty; an older version is
    /// brought up to date in memory.
    ///
    /// # Errors
    /// Of a newer version, damaged, not ours, or not to be read.
    pub fn open_read_only(folder: &StateFolder) -> Result<Self, RecordError> {
        let path = folder.database();
        let wrap = |connection| Self { connection: Mutex::new(connection), folder: folder.clone(), path: path.clone() };
        let fail = |source| RecordError::database(&path, source);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > 0 => {}
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(RecordError::io("read", &path, error)),
            _ => {
                let mut connection = Connection::open_in_memory().map_err(fail)?;
                schema::migrate(&mut connection, 0).map_err(fail)?;
                connection.execute_batch("PRAGMA query_only = ON").map_err(fail)?;
                return Ok(wrap(connection));
            }
        }
        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut found = schema::inspect(&connection);
        if is_unopenable(&found) && !has_log(&path) {
            // a folder where no shared memory file can be made: with no write-ahead log, the file alone is whole
            connection = connect_immutable(&path)?;
            found = schema::inspect(&connection);
        }
        let from = match found.map_err(fail)? {
            Found::Empty => 0,
            found => version_of(&path, found)?,
        };
        if from < schema::VERSION {
            connection = newer_copy(&connection, from).map_err(fail)?;
        }
        Ok(wrap(connection))
    }

    /// The folder it lies in.
    pub fn folder(&self) -> &StateFolder {
        &self.folder
    }

    /// The database file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs queries; what they see is one state of the database.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, RecordError> {
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(|source| RecordError::database(&self.path, source))?;
        work(&transaction).map_err(|source| RecordError::database(&self.path, source))
    }

    /// Runs one transaction: all of `work`, durable, or none of it.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, RecordError> {
        self.transact(true, |transaction| work(transaction).map_err(|source| RecordError::database(&self.path, source)))
    }

    /// As [`State::write`], but durable only with the next transaction that is: for what nothing durable relies on yet.
    pub(crate) fn write_ahead<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, RecordError> {
        let mut connection = self.connection();
        let fail = |source| RecordError::database(&self.path, source);
        // the log is whole without this; only its end may be missing after the power has failed
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
        let written = within(&mut connection, &self.path, true, |transaction| work(transaction).map_err(fail));
        connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
        written
    }

    /// Runs one transaction whose work may fail for other reasons too; without `keep` it is only tried.
    pub(crate) fn transact<T>(&self, keep: bool, work: impl FnOnce(&Transaction<'_>) -> Result<T, RecordError>) -> Result<T, RecordError> {
        within(&mut self.connection(), &self.path, keep, work)
    }

    /// Gives free pages back to the file system.
    pub(crate) fn shrink(&self) -> Result<(), RecordError> {
        self.connection()
            .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")
            .map_err(|source| RecordError::database(&self.path, source))
    }
}

/// A copy in memory, brought up to date from version `from`.
fn newer_copy(older: &Connection, from: i64) -> rusqlite::Result<Connection> {
    const PAGES: std::ffi::c_int = 4096;
    let mut copy = Connection::open_in_memory()?;
    Backup::new(older, &mut copy)?.run_to_completion(PAGES, Duration::from_millis(1), None)?;
    schema::migrate(&mut copy, from)?;
    copy.execute_batch("PRAGMA query_only = ON")?;
    Ok(copy)
}

fn within<T>(
    connection: &mut Connection,
    path: &Path,
    keep: bool,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, RecordError>,
) -> Result<T, RecordError> {
    let fail = |source| RecordError::database(path, source);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let value = work(&transaction)?;
    if keep {
        transaction.commit().map_err(fail)?;
    }
    Ok(value)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, RecordError> {
    open_with(path, path, access)
}

fn connect_immutable(path: &Path) -> Result<Connection, RecordError> {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(*byte)),
            byte => {
                // writing to a string cannot fail
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri.push_str("?immutable=1");
    open_with(path, Path::new(&uri), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
}

fn open_with(path: &Path, name: &Path, access: OpenFlags) -> Result<Connection, RecordError> {
    let connection =
        Connection::open_with_flags(name, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(|source| match fs::File::open(path) {
            // SQLite says no more than that it can't; the system says why
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => RecordError::io("open", path, error),
            _ => RecordError::database(path, source),
        })?;
    connection.set_prepared_statement_cache_capacity(64);
    // otherwise a cached statement is prepared again for every value it is asked with
    let stable = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true);
    stable.map_err(|source| RecordError::database(path, source))?;
    Ok(connection)
}

fn is_unopenable<T>(result: &rusqlite::Result<T>) -> bool {
    use rusqlite::ErrorCode;
    result
        .as_ref()
        .err()
        .and_then(rusqlite::Error::sqlite_error_code)
        .is_some_and(|code| matches!(code, ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure))
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn has_log(path: &Path) -> bool {
    fs::metadata(log_of(path)).is_ok_and(|metadata| metadata.len() > 0)
}

fn version_of(path: &Path, found: Found) -> Result<i64, RecordError> {
    match found {
        Found::Version(found) if found > schema::VERSION => {
            Err(RecordError::Newer { path: path.to_owned(), found, known: schema::VERSION })
        }
        Found::Version(version) if version > 0 => Ok(version),
        Found::Version(_) | Found::Empty | Found::Foreign => {
            Err(RecordError::Damaged { path: path.to_owned(), detail: "it is a database of another program".into() })
        }
    }
}

/// Which state the database is in, told by two stats: every commit and every checkpoint changes one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateIdentity {
    pub(crate) database: Option<Stamp>,
    pub(crate) log: Option<Stamp>,
}

impl StateIdentity {
    /// As it is now. Files that can't be looked at count as missing.
    pub fn of(folder: &StateFolder) -> Self {
        let path = folder.database();
        let stamp =
            |path: &Path| fs::symlink_metadata(path).ok().filter(|metadata| metadata.len() > 0).map(|metadata| Stamp::of(&metadata));
        // an empty write-ahead log comes and goes with whoever opens the database, and says nothing
        Self { database: stamp(&path), log: stamp(&log_of(&path)) }
    }
}

fn unreadable(index: usize, kind: Type, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, kind, Box::new(error))
}

/// A column whose text parses as `T`.
pub(crate) fn parsed<T>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(index)?.as_str().map_err(|error| unreadable(index, Type::Text, error))?;
    text.parse().map_err(|error| unreadable(index, Type::Text, error))
}

/// A column that is NULL, or whose text is the JSON of a `T`.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<T>> {
    let text = row.get_ref(index)?.as_str_or_null().map_err(|error| unreadable(index, Type::Text, error))?;
    text.map(serde_json::from_str).transpose().map_err(|error| unreadable(index, Type::Text, error))
}

/// The JSON of `value`.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// A column of 32 bytes.
pub(crate) fn bytes32(row: &Row<'_>, index: usize) -> rusqlite::Result<[u8; 32]> {
    row.get(index)
}

/// An unsigned number as SQLite keeps numbers.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The other way.
pub(crate) fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}
