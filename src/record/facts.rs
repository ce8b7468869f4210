//! What is known besides results: names written, where images and blobs lie, configs of bases, images made on an engine.
//! Facts about the world outside: true when learned, checked by whoever relies on them.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId, Key};
use crate::image::{Compression, ImageConfig};
use crate::label::NodeLabel;
use crate::record::error::RecordError;
use crate::record::publishing::write_documents;
use crate::record::state::{State, bytes32, json, parsed, signed, to_json, unsigned};
use crate::record::strikes::{AnswerRecord, write_answers};
use crate::reference::Reference;

/// Where a name lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameScope {
    /// In the engine here.
    Local,
    /// In a registry.
    Registry,
}

impl NameScope {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Registry => "registry",
        }
    }
}

/// A name as igraph last wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// Where.
    pub scope: NameScope,
    /// The name, with its tag.
    pub name: Reference,
    /// What it was pointed at.
    pub image: ImageId,
    /// The manifest it was pointed at; `None` for a local name.
    pub manifest: Option<Digest>,
    /// Key of the node that wrote it.
    pub key: Key,
    /// That node.
    pub node: NodeLabel,
    /// The run.
    pub run: String,
    /// When.
    pub at: Timestamp,
}

/// Where an image can be had by digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// Which image.
    pub image: ImageId,
    /// The registry's host.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// The manifest it was pushed or pulled under.
    pub manifest: Digest,
}

impl Location {
    /// The image by digest there.
    pub fn reference(&self) -> Option<Reference> {
        let repository: Reference = format!("{}/{}", self.host, self.repository).parse().ok()?;
        Some(repository.with_digest(self.manifest))
    }
}

/// Where a layer lies, packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPlace {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The registry's host.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// Digest of the packed bytes.
    pub digest: Digest,
    /// Their length in bytes.
    pub size: u64,
    /// How they are packed.
    pub compression: Compression,
}

/// Things learned, to be recorded in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Names that were written and read back.
    pub names: Vec<NameRecord>,
    /// Where images lie.
    pub locations: Vec<Location>,
    /// Where layers lie.
    pub blobs: Vec<BlobPlace>,
    /// Configs of images by their digest, i.e. image id.
    pub configs: Vec<(Digest, ImageConfig)>,
    /// Exact bytes of manifests and configs that were published, by digest.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// Images that igraph made on an engine it does not own, and may remove there.
    pub claims: Vec<ImageId>,
    /// What probes answered right after builds.
    pub answers: Vec<AnswerRecord>,
}

/// A config that was learned, as it is written.
pub struct StoredConfig(Box<str>);

impl StoredConfig {
    /// Reads it; `None` where it is none.
    pub fn read(&self) -> Option<ImageConfig> {
        serde_json::from_str(&self.0).ok()
    }
}

struct StoredCompression(Compression);

impl FromStr for StoredCompression {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_value(text.into()).map(Self)
    }
}

fn compression_word(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    }
}

/// Records `facts`; what was known of the same name, place or digest gives way.
pub(crate) fn write_facts(connection: &Connection, facts: &Facts) -> rusqlite::Result<()> {
    for name in &facts.names {
        if name.scope == NameScope::Registry {
            // igraph has the name again: the next who moves it is reported
            connection.prepare_cached("DELETE FROM foreign_moves WHERE name = ?1")?.execute([name.name.to_string()])?;
        }
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO names (scope, name, image, manifest, key, node, run, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                name.scope.word(),
                name.name.to_string(),
                name.image.0.as_bytes(),
                name.manifest.as_ref().map(Digest::as_bytes),
                name.key.as_bytes(),
                name.node.to_string(),
                name.run,
                name.at.0,
            ])?;
    }
    for location in &facts.locations {
        connection
            .prepare_cached("INSERT OR IGNORE INTO locations (image, host, repository, manifest) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![location.image.0.as_bytes(), location.host, location.repository, location.manifest.as_bytes()])?;
    }
    for blob in &facts.blobs {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO blobs (diff_id, host, repository, digest, size, compression) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                blob.diff_id.as_bytes(),
                blob.host,
                blob.repository,
                blob.digest.as_bytes(),
                signed(blob.size),
                compression_word(blob.compression),
            ])?;
    }
    for (digest, config) in &facts.configs {
        connection
            .prepare_cached("INSERT OR REPLACE INTO configs (digest, config) VALUES (?1, ?2)")?
            .execute(params![digest.as_bytes(), to_json(config)?])?;
    }
    write_documents(connection, &facts.documents)?;
    write_answers(connection, &facts.answers)?;
    for image in &facts.claims {
        connection.prepare_cached("INSERT OR IGNORE INTO claims (image) VALUES (?1)")?.execute([image.0.as_bytes()])?;
    }
    Ok(())
}

const NAME_COLUMNS: &str = "scope, name, image, manifest, key, node, run, at";

fn name_of(row: &Row<'_>) -> rusqlite::Result<NameRecord> {
    let scope: String = row.get(0)?;
    Ok(NameRecord {
        scope: if scope == NameScope::Local.word() { NameScope::Local } else { NameScope::Registry },
        name: parsed(row, 1)?,
        image: ImageId(Digest::from_bytes(bytes32(row, 2)?)),
        manifest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
        key: Key::from_bytes(bytes32(row, 4)?),
        node: parsed(row, 5)?,
        run: row.get(6)?,
        at: Timestamp(row.get(7)?),
    })
}

fn location_of(row: &Row<'_>) -> rusqlite::Result<Location> {
    Ok(Location {
        image: ImageId(Digest::from_bytes(bytes32(row, 0)?)),
        host: row.get(1)?,
        repository: row.get(2)?,
        manifest: Digest::from_bytes(bytes32(row, 3)?),
    })
}

fn blob_of(row: &Row<'_>) -> rusqlite::Result<BlobPlace> {
    Ok(BlobPlace {
        diff_id: Digest::from_bytes(bytes32(row, 0)?),
        host: row.get(1)?,
        repository: row.get(2)?,
        digest: Digest::from_bytes(bytes32(row, 3)?),
        size: unsigned(row, 4)?,
        compression: parsed::<StoredCompression>(row, 5)?.0,
    })
}

const BLOB_COLUMNS: &str = "diff_id, host, repository, digest, size, compression";

impl State {
    /// Records what was learned outside of any node's settling.
    ///
    /// # Errors
    /// Of the database; then nothing of it is recorded.
    pub fn learn(&self, facts: &Facts) -> Result<(), RecordError> {
        self.write(|transaction| write_facts(transaction, facts))
    }

    /// All names igraph wrote, by scope and name.
    ///
    /// # Errors
    /// Of the database.
    pub fn names(&self) -> Result<Vec<NameRecord>, RecordError> {
        self.read(|connection| {
            connection.prepare(&format!("SELECT {NAME_COLUMNS} FROM names ORDER BY scope, name"))?.query_map([], name_of)?.collect()
        })
    }

    /// One name as igraph last wrote it.
    ///
    /// # Errors
    /// Of the database.
    pub fn name(&self, scope: NameScope, name: &Reference) -> Result<Option<NameRecord>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {NAME_COLUMNS} FROM names WHERE scope = ?1 AND name = ?2"))?
                .query_row([scope.word(), &name.to_string()], name_of)
                .optional()
        })
    }

    /// Where an image can be had, by host and repository.
    ///
    /// # Errors
    /// Of the database.
    pub fn locations(&self, image: ImageId) -> Result<Vec<Location>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT image, host, repository, manifest FROM locations WHERE image = ?1 ORDER BY host, repository, manifest",
                )?
                .query_map([image.0.as_bytes()], location_of)?
                .collect()
        })
    }

    /// Forgets that an image is somewhere: the registry said it is not.
    ///
    /// # Errors
    /// Of the database.
    pub fn forget_location(&self, location: &Location) -> Result<(), RecordError> {
        self.write(|transaction| {
            transaction
                .prepare_cached("DELETE FROM locations WHERE image = ?1 AND host = ?2 AND repository = ?3 AND manifest = ?4")?
                .execute(params![location.image.0.as_bytes(), location.host, location.repository, location.manifest.as_bytes()])
                .map(drop)
        })
    }

    /// Where a layer lies, the place learned last first.
    ///
    /// # Errors
    /// Of the database.
    pub fn blobs(&self, diff_id: Digest) -> Result<Vec<BlobPlace>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {BLOB_COLUMNS} FROM blobs WHERE diff_id = ?1 ORDER BY seq DESC"))?
                .query_map([diff_id.as_bytes()], blob_of)?
                .collect()
        })
    }

    /// Forgets that a blob is somewhere: the registry said it is not.
    ///
    /// # Errors
    /// Of the database.
    pub fn forget_blob(&self, place: &BlobPlace) -> Result<(), RecordError> {
        self.write(|transaction| {
            transaction
                .prepare_cached("DELETE FROM blobs WHERE diff_id = ?1 AND host = ?2 AND repository = ?3 AND digest = ?4")?
                .execute(params![place.diff_id.as_bytes(), place.host, place.repository, place.digest.as_bytes()])
                .map(drop)
        })
    }

    /// The config with that digest, where one was learned.
    ///
    /// # Errors
    /// Of the database.
    pub fn config(&self, digest: Digest) -> Result<Option<ImageConfig>, RecordError> {
        self.read(|connection| {
            let config = connection
                .prepare_cached("SELECT config FROM configs WHERE digest = ?1")?
                .query_row([digest.as_bytes()], |row| json(row, 0))
                .optional()?;
            Ok(config.flatten())
        })
    }

    /// All configs that were learned, as they are written: of thousands few are asked for.
    ///
    /// # Errors
    /// Of the database.
    pub fn configs(&self) -> Result<HashMap<Digest, StoredConfig>, RecordError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT digest, config FROM configs")?;
            let stored = |row: &Row<'_>| -> rusqlite::Result<_> {
                Ok((Digest::from_bytes(bytes32(row, 0)?), StoredConfig(row.get_ref(1)?.as_str()?.into())))
            };
            statement.query_map([], stored)?.collect()
        })
    }

    /// Images that igraph made on an engine it does not own.
    ///
    /// # Errors
    /// Of the database.
    pub fn claims(&self) -> Result<BTreeSet<ImageId>, RecordError> {
        self.read(|connection| {
            connection
                .prepare("SELECT image FROM claims")?
                .query_map([], |row| Ok(ImageId(Digest::from_bytes(bytes32(row, 0)?))))?
                .collect()
        })
    }

    /// Gives up claims: the images were removed.
    ///
    /// # Errors
    /// Of the database.
    pub fn release_claims(&self, images: &BTreeSet<ImageId>) -> Result<(), RecordError> {
        self.write(|transaction| {
            let mut statement = transaction.prepare_cached("DELETE FROM claims WHERE image = ?1")?;
            images.iter().try_for_each(|image| statement.execute([image.0.as_bytes()]).map(drop))
        })
    }
}

/// All locations, blobs and configs, sorted: what `state save` carries besides results and names.
pub(crate) fn all_places(connection: &Connection) -> rusqlite::Result<Facts> {
    let locations = connection
        .prepare("SELECT image, host, repository, manifest FROM locations ORDER BY image, host, repository, manifest")?
        .query_map([], location_of)?
        .collect::<Result<_, _>>()?;
    let blobs = connection
        .prepare(&format!("SELECT {BLOB_COLUMNS} FROM blobs ORDER BY diff_id, host, repository, digest"))?
        .query_map([], blob_of)?
        .collect::<Result<_, _>>()?;
    let configs = connection
        .prepare("SELECT digest, config FROM configs ORDER BY digest")?
        .query_map([], |row| Ok((Digest::from_bytes(bytes32(row, 0)?), json(row, 1)?.unwrap_or_default())))?
        .collect::<Result<_, _>>()?;
    let documents = connection
        .prepare("SELECT digest, bytes FROM documents ORDER BY digest")?
        .query_map([], |row| Ok((Digest::from_bytes(bytes32(row, 0)?), row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    Ok(Facts { locations, blobs, configs, documents, ..Facts::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{self, World};

    #[test]
    fn a_name_is_what_was_written_last_and_scopes_are_apart() {
        let world = World::new();
        let state = world.state();
        let name = |scope, image: &str| NameRecord { scope, ..samples::name("nodesource/jessie:4.2", image) };
        state.learn(&Facts { names: vec![name(NameScope::Registry, "old"), name(NameScope::Local, "local")], ..Facts::default() }).unwrap();
        state.learn(&Facts { names: vec![name(NameScope::Registry, "new")], ..Facts::default() }).unwrap();
        assert_eq!(state.names().unwrap(), [name(NameScope::Local, "local"), name(NameScope::Registry, "new")]);
        let reference = "nodesource/jessie:4.2".parse().unwrap();
        assert_eq!(state.name(NameScope::Registry, &reference).unwrap(), Some(name(NameScope::Registry, "new")));
        assert_eq!(state.name(NameScope::Registry, &"nodesource/jessie:4".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn configs_read_at_once_are_those_read_one_by_one() {
        let world = World::new();
        let state = world.state();
        let config = ImageConfig { env: vec!["A=ü".into()], ..ImageConfig::default() };
        let (known, unknown) = (Digest::of(b"known"), Digest::of(b"unknown"));
        state.learn(&Facts { configs: vec![(known, config.clone())], ..Facts::default() }).unwrap();
        let all = state.configs().unwrap();
        assert_eq!((all[&known].read(), state.config(known).unwrap()), (Some(config.clone()), Some(config)));
        assert_eq!((all.contains_key(&unknown), state.config(unknown).unwrap()), (false, None));
    }

    #[test]
    fn places_are_learned_once_and_forgotten_when_gone() {
        let world = World::new();
        let state = world.state();
        let (location, blob) = (samples::location("base", "reg.corp:5000"), samples::blob("layer", "reg.corp:5000"));
        let elsewhere = samples::blob("layer", "docker.io");
        let facts = Facts { locations: vec![location.clone()], blobs: vec![blob.clone(), elsewhere.clone()], ..Facts::default() };
        state.learn(&facts).unwrap();
        state.learn(&facts).unwrap();
        assert_eq!(state.locations(location.image).unwrap(), std::slice::from_ref(&location));
        assert_eq!(state.blobs(blob.diff_id).unwrap(), [elsewhere.clone(), blob.clone()]);
        state.forget_blob(&blob).unwrap();
        state.forget_location(&location).unwrap();
        assert_eq!(state.blobs(blob.diff_id).unwrap(), [elsewhere]);
        assert_eq!(state.locations(location.image).unwrap(), []);
    }

    #[test]
    fn configs_and_claims_are_kept() {
        let world = World::new();
        let state = world.state();
        let config = ImageConfig { on_build: vec!["COPY . /app".into()], env: vec!["A=ü".into()], ..ImageConfig::default() };
        let (digest, image) = (Digest::of(b"config"), ImageId(Digest::of(b"made")));
        state.learn(&Facts { configs: vec![(digest, config.clone())], claims: vec![image], ..Facts::default() }).unwrap();
        assert_eq!(state.config(digest).unwrap(), Some(config));
        assert_eq!(state.config(Digest::of(b"other")).unwrap(), None);
        assert_eq!(state.claims().unwrap(), BTreeSet::from([image]));
        state.release_claims(&BTreeSet::from([image])).unwrap();
        assert!(state.claims().unwrap().is_empty());
    }
}
