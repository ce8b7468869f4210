//! The tables of `state.db`, their version and how an older one is brought up to date. Knows no Rust type.

use rusqlite::{Connection, TransactionBehavior};

/// Marks a SQLite file as ours (`PRAGMA application_id`): `igrh`.
pub(crate) const APPLICATION: i32 = 0x6967_7268;

/// The version of a database is the number of these that it has been through. Only ever appended to.
pub(crate) const MIGRATIONS: &[&str] = &[V1, V2];

/// The newest version, and the only one that is read.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Times are milliseconds since the Unix epoch, digests and keys 32 raw bytes, references and labels texts.
const V1: &str = "
    -- every settled node, newest highest: `rank` orders within a node, by time but never back
    CREATE TABLE results (
        seq INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        node TEXT NOT NULL,
        platform TEXT NOT NULL,
        rank INTEGER NOT NULL,
        kind TEXT NOT NULL,
        verdict TEXT NOT NULL,
        image BLOB,
        handle TEXT,
        image_platform TEXT,
        manifest BLOB,
        run TEXT NOT NULL,
        at INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        failure TEXT,
        reasons TEXT NOT NULL
    ) STRICT;
    CREATE INDEX results_by_node ON results (node, platform, rank);

    -- the newest result of a key, small, for asking thousands at once
    CREATE TABLE current (
        key BLOB PRIMARY KEY,
        seq INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        image BLOB,
        manifest BLOB
    ) STRICT, WITHOUT ROWID;

    -- what a key was made of; once per key, since the key is their hash
    CREATE TABLE components (key BLOB PRIMARY KEY, list BLOB NOT NULL) STRICT;

    CREATE TABLE attempts (
        seq INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL,
        log TEXT NOT NULL,
        failure TEXT,
        delay_ms INTEGER,
        PRIMARY KEY (seq, number)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE durations (node TEXT PRIMARY KEY, duration_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE runs (id TEXT PRIMARY KEY, at INTEGER NOT NULL, verb TEXT NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE names (
        scope TEXT NOT NULL,
        name TEXT NOT NULL,
        image BLOB NOT NULL,
        manifest BLOB,
        key BLOB NOT NULL,
        node TEXT NOT NULL,
        run TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (scope, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE locations (
        image BLOB NOT NULL,
        host TEXT NOT NULL,
        repository TEXT NOT NULL,
        manifest BLOB NOT NULL,
        PRIMARY KEY (image, host, repository, manifest)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE blobs (
        seq INTEGER PRIMARY KEY,
        diff_id BLOB NOT NULL,
        host TEXT NOT NULL,
        repository TEXT NOT NULL,
        digest BLOB NOT NULL,
        size INTEGER NOT NULL,
        compression TEXT NOT NULL,
        UNIQUE (diff_id, host, repository, digest)
    ) STRICT;

    CREATE TABLE configs (digest BLOB PRIMARY KEY, config TEXT NOT NULL) STRICT;

    -- exact bytes of the manifests and configs that were published
    CREATE TABLE documents (digest BLOB PRIMARY KEY, bytes BLOB NOT NULL) STRICT;

    -- what someone else left at a name that igraph wrote, once reported
    CREATE TABLE foreign_moves (name TEXT PRIMARY KEY, manifest BLOB NOT NULL) STRICT, WITHOUT ROWID;

    -- images that igraph made on an engine it does not own
    CREATE TABLE claims (image BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;

    -- groups of names that are being moved
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        node TEXT NOT NULL,
        image BLOB NOT NULL,
        manifest BLOB,
        run TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE journal_names (
        journal INTEGER NOT NULL,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        node TEXT NOT NULL,
        before BLOB,
        written INTEGER NOT NULL,
        PRIMARY KEY (journal, position)
    ) STRICT, WITHOUT ROWID;
";

/// Strikes under a key, and what probes answered right after a build.
const V2: &str = "
    -- step failures in a row under a key
    CREATE TABLE strikes (key BLOB PRIMARY KEY, node TEXT NOT NULL, count INTEGER NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;

    -- the stdout of a probe, by the digest of its text
    CREATE TABLE answers (
        image BLOB NOT NULL,
        probe BLOB NOT NULL,
        answer TEXT NOT NULL,
        PRIMARY KEY (image, probe)
    ) STRICT, WITHOUT ROWID;
";

/// What a database file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Empty: no table yet.
    Empty,
    /// Ours, of this version.
    Version(i64),
    /// Somebody else's.
    Foreign,
}

/// Tells what the database is.
pub(crate) fn inspect(connection: &Connection) -> rusqlite::Result<Found> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version, tables) {
        (APPLICATION, version, _) => Found::Version(version),
        (0, 0, 0) => Found::Empty,
        _ => Found::Foreign,
    })
}

/// Brings a database from version `from` (0 when empty) to [`VERSION`], in one transaction.
pub(crate) fn migrate(connection: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
