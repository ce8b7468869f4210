//! What publishing needs besides facts: exact bytes of manifests and configs, what others left at a name, how old an image is.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::label::NodeLabel;
use crate::platform::Platform;
use crate::record::error::RecordError;
use crate::record::facts::NameScope;
use crate::record::state::{State, bytes32, parsed};
use crate::reference::Reference;

/// Keeps exact bytes by their digest.
pub(crate) fn write_documents(connection: &Connection, documents: &[(Digest, Vec<u8>)]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR IGNORE INTO documents (digest, bytes) VALUES (?1, ?2)")?;
    documents.iter().try_for_each(|(digest, bytes)| statement.execute(params![digest.as_bytes(), bytes]).map(drop))
}

impl State {
    /// The exact bytes of a manifest or config, where they were kept.
    ///
    /// # Errors
    /// Of the database.
    pub fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT bytes FROM documents WHERE digest = ?1")?
                .query_row([digest.as_bytes()], |row| row.get(0))
                .optional()
        })
    }

    /// The manifest that igraph last wrote at a registry name.
    ///
    /// # Errors
    /// Of the database.
    pub fn pushed(&self, name: &Reference) -> Result<Option<Digest>, RecordError> {
        Ok(self.name(NameScope::Registry, name)?.and_then(|record| record.manifest))
    }

    /// What may stand at a registry name without anybody but igraph having moved it: what igraph last wrote there, what a group in
    /// the journal was to write, and what was reported as someone else's before. Empty for a name igraph never wrote.
    ///
    /// # Errors
    /// Of the database.
    pub fn expected_at(&self, name: &Reference) -> Result<BTreeSet<Digest>, RecordError> {
        let Some(written) = self.pushed(name)? else { return Ok(BTreeSet::new()) };
        let more = self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT manifest FROM foreign_moves WHERE name = ?1 UNION SELECT j.manifest FROM journal j \
                     JOIN journal_names n ON n.journal = j.id WHERE n.name = ?1 AND j.manifest IS NOT NULL",
                )?
                .query_map([name.to_string()], |row| Ok(Digest::from_bytes(bytes32(row, 0)?)))?
                .collect::<rusqlite::Result<BTreeSet<_>>>()
        })?;
        Ok(more.into_iter().chain([written]).collect())
    }

    /// Remembers that someone else's manifest was found at a name and reported, so that the next run may move the name.
    ///
    /// # Errors
    /// Of the database.
    pub fn saw_foreign(&self, name: &Reference, found: Digest) -> Result<(), RecordError> {
        self.write(|transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO foreign_moves (name, manifest) VALUES (?1, ?2)")?
                .execute(params![name.to_string(), found.as_bytes()])
                .map(drop)
        })
    }

    /// Names that were last found at something igraph did not record there, and not moved since.
    ///
    /// # Errors
    /// Of the database.
    pub fn moved_by_others(&self) -> Result<Vec<Reference>, RecordError> {
        self.read(|connection| connection.prepare("SELECT name FROM foreign_moves")?.query_map([], |row| parsed(row, 0))?.collect())
    }

    /// When a node first made that image.
    ///
    /// # Errors
    /// Of the database.
    pub fn built_at(&self, node: &NodeLabel, platform: &Platform, image: ImageId) -> Result<Option<Timestamp>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT min(at) FROM results WHERE node = ?1 AND platform = ?2 AND image = ?3")?
                .query_row(params![node.to_string(), platform.to_string(), image.0.as_bytes()], |row| row.get::<_, Option<i64>>(0))
        })
        .map(|at| at.map(Timestamp))
    }
}
