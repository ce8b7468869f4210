//! Results: what a node made under a key, asked by key or by node. Knows no plan: what a result means is decided elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::component::Component;
use crate::digest::{Digest, ImageId, Key};
use crate::event::NodeKind;
use crate::failure::Failure;
use crate::image::EngineImage;
use crate::label::NodeLabel;
use crate::platform::Platform;
use crate::reason::Reason;
use crate::record::components;
use crate::record::error::RecordError;
use crate::record::state::{State, bytes32, json, parsed, unsigned};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// At the first attempt, or at a later one after infra failures.
    Succeeded,
    /// A test that passed only after it had failed.
    Flaky,
    /// All attempts used.
    Failed,
}

impl Verdict {
    /// Whether the result holds.
    pub fn is_good(self) -> bool {
        self != Self::Failed
    }

    fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Flaky => "flaky",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A stored word that this igraph does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {what}")]
pub struct UnknownWord {
    word: String,
    what: &'static str,
}

impl FromStr for Verdict {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Succeeded, Self::Flaky, Self::Failed]
            .into_iter()
            .find(|verdict| verdict.word() == text)
            .ok_or_else(|| UnknownWord { word: text.to_owned(), what: "verdict" })
    }
}

const KINDS: [(NodeKind, &str); 5] =
    [(NodeKind::Base, "base"), (NodeKind::Image, "image"), (NodeKind::Test, "test"), (NodeKind::Tag, "tag"), (NodeKind::Push, "push")];

/// The stored word for a kind.
pub(crate) fn kind_word(kind: NodeKind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("image", |(_, word)| word)
}

struct StoredKind(NodeKind);

impl FromStr for StoredKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = KINDS.iter().find(|(_, word)| *word == text);
        found.map(|(kind, _)| Self(*kind)).ok_or_else(|| UnknownWord { word: text.to_owned(), what: "kind of node" })
    }
}

/// A result in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The key it was made under.
    pub key: Key,
    /// The node that made it. Another node with the same key shares it.
    pub node: NodeLabel,
    /// What for.
    pub platform: Platform,
    /// What the node is.
    pub kind: NodeKind,
    /// How it ended.
    pub verdict: Verdict,
    /// The image made, resolved, or named.
    pub image: Option<EngineImage>,
    /// The manifest pushed, pulled or named, where there is one.
    pub manifest: Option<Digest>,
    /// What the key was made of, sorted.
    pub components: Vec<Component>,
    /// The run that made it.
    pub run: String,
    /// When it settled.
    pub at: Timestamp,
    /// From first attempt to settling, in milliseconds.
    pub duration_ms: u64,
    /// How many attempts it took.
    pub attempts: u32,
    /// Why it failed, where it did.
    pub failure: Option<Failure>,
    /// Why it ran.
    pub reasons: Vec<Reason>,
}

/// As much of a key's newest result as planning needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How it ended.
    pub verdict: Verdict,
    /// The image made, resolved, or named.
    pub image: Option<ImageId>,
    /// The manifest pushed, pulled or named.
    pub manifest: Option<Digest>,
}

/// The columns that [`record_of`] reads, of `results` as `r`.
const COLUMNS: &str = "r.key, r.node, r.platform, r.kind, r.verdict, r.image, r.handle, r.image_platform, r.manifest, r.run, r.at, \
     r.duration_ms, r.attempts, r.failure, r.reasons, (SELECT list FROM components c WHERE c.key = r.key)";

fn record_of(row: &Row<'_>) -> rusqlite::Result<ResultRecord> {
    let platform: Platform = parsed(row, 2)?;
    let image = match row.get::<_, Option<[u8; 32]>>(5)? {
        None => None,
        Some(id) => {
            let id = ImageId(Digest::from_bytes(id));
            let own: Option<String> = row.get(7)?;
            Some(EngineImage {
                id,
                handle: row.get::<_, Option<String>>(6)?.unwrap_or_else(|| id.to_string()),
                platform: if own.is_some() { parsed(row, 7)? } else { platform.clone() },
            })
        }
    };
    let list: Option<Vec<u8>> = row.get(15)?;
    Ok(ResultRecord {
        key: Key::from_bytes(bytes32(row, 0)?),
        node: parsed(row, 1)?,
        platform,
        kind: parsed::<StoredKind>(row, 3)?.0,
        verdict: parsed(row, 4)?,
        image,
        manifest: row.get::<_, Option<[u8; 32]>>(8)?.map(Digest::from_bytes),
        components: list
            .map_or(Ok(Vec::new()), |list| components::decode(&list))
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(15, Type::Blob, Box::new(error)))?,
        run: row.get(9)?,
        at: Timestamp(row.get(10)?),
        duration_ms: unsigned(row, 11)?,
        attempts: row.get(12)?,
        failure: json(row, 13)?,
        reasons: json(row, 14)?.unwrap_or_default(),
    })
}

fn summary_of(row: &Row<'_>) -> rusqlite::Result<Summary> {
    Ok(Summary {
        verdict: parsed(row, 0)?,
        image: row.get::<_, Option<[u8; 32]>>(1)?.map(|id| ImageId(Digest::from_bytes(id))),
        manifest: row.get::<_, Option<[u8; 32]>>(2)?.map(Digest::from_bytes),
    })
}

/// A node and its platform, as [`State::latest_images`] has them.
pub fn node_key(node: impl fmt::Display, platform: impl fmt::Display) -> String {
    format!("{node} {platform}")
}

impl State {
    /// The newest result under each key, in the order asked; `None` where there is none.
    ///
    /// # Errors
    /// Of the database.
    pub fn results_for_keys(&self, keys: &[Key]) -> Result<Vec<Option<Summary>>, RecordError> {
        self.read(|connection| {
            let mut found = vec![None; keys.len()];
            // in the order of the table, each page is read once
            let mut order: Vec<usize> = (0..keys.len()).collect();
            order.sort_unstable_by_key(|index| &keys[*index]);
            let mut statement = connection.prepare_cached("SELECT verdict, image, manifest FROM current WHERE key = ?1")?;
            for index in order {
                found[index] = statement.query_row([keys[index].as_bytes()], summary_of).optional()?;
            }
            Ok(found)
        })
    }

    /// The newest result under every key.
    ///
    /// # Errors
    /// Of the database.
    pub fn summaries(&self) -> Result<HashMap<Key, Summary>, RecordError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT verdict, image, manifest, key FROM current")?;
            let rows = statement.query_map([], |row| Ok((Key::from_bytes(bytes32(row, 3)?), summary_of(row)?)))?;
            rows.collect()
        })
    }

    /// The newest result under `key`, in full.
    ///
    /// # Errors
    /// Of the database.
    pub fn result(&self, key: &Key) -> Result<Option<ResultRecord>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM results r JOIN current ON current.seq = r.seq WHERE current.key = ?1"))?
                .query_row([key.as_bytes()], record_of)
                .optional()
        })
    }

    /// The node's newest result, good or bad.
    ///
    /// # Errors
    /// Of the database.
    pub fn latest(&self, node: &NodeLabel, platform: &Platform) -> Result<Option<ResultRecord>, RecordError> {
        self.newest(node, platform, "")
    }

    /// The node's newest result that holds.
    ///
    /// # Errors
    /// Of the database.
    pub fn latest_success(&self, node: &NodeLabel, platform: &Platform) -> Result<Option<ResultRecord>, RecordError> {
        self.newest(node, platform, "AND r.verdict <> 'failed'")
    }

    fn newest(&self, node: &NodeLabel, platform: &Platform, filter: &str) -> Result<Option<ResultRecord>, RecordError> {
        let query = format!(
            "SELECT {COLUMNS} FROM results r WHERE r.node = ?1 AND r.platform = ?2 {filter} ORDER BY r.rank DESC, r.seq DESC LIMIT 1"
        );
        self.read(|connection| connection.prepare_cached(&query)?.query_row([node.to_string(), platform.to_string()], record_of).optional())
    }

    /// About how many results are recorded, without counting them.
    ///
    /// # Errors
    /// Of the database.
    pub fn results_written(&self) -> Result<usize, RecordError> {
        self.read(|connection| {
            let newest: Option<i64> = connection.query_row("SELECT max(seq) FROM results", [], |row| row.get(0))?;
            Ok(newest.and_then(|newest| usize::try_from(newest).ok()).unwrap_or_default())
        })
    }

    /// The image of the newest result that holds of every base and image that has one. The node and its platform are in the key as
    /// [`node_key`] writes them.
    ///
    /// # Errors
    /// Of the database.
    pub fn latest_images(&self) -> Result<HashMap<String, ImageId>, RecordError> {
        self.read(|connection| {
            // in the order of the table, which is read once; the newest of a node is found here
            let mut statement = connection.prepare_cached(
                "SELECT node, platform, rank, seq, image FROM results WHERE kind IN ('base', 'image') AND verdict <> 'failed'",
            )?;
            let mut rows = statement.query([])?;
            let mut newest: HashMap<String, ((i64, i64), Option<ImageId>)> = HashMap::new();
            while let Some(row) = rows.next()? {
                let key = node_key(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
                let age: (i64, i64) = (row.get(2)?, row.get(3)?);
                if newest.get(&key).is_none_or(|(known, _)| *known < age) {
                    newest.insert(key, (age, row.get::<_, Option<[u8; 32]>>(4)?.map(|id| ImageId(Digest::from_bytes(id)))));
                }
            }
            Ok(newest.into_iter().filter_map(|(key, (_, image))| Some((key, image?))).collect())
        })
    }

    /// All results of a run, in the order in which they settled.
    ///
    /// # Errors
    /// Of the database.
    pub fn results_of_run(&self, run: &str) -> Result<Vec<ResultRecord>, RecordError> {
        self.read(|connection| {
            connection
                .prepare(&format!("SELECT {COLUMNS} FROM results r WHERE r.run = ?1 ORDER BY r.seq"))?
                .query_map([run], record_of)?
                .collect()
        })
    }

    /// The components that `key` was made of; `None` for a key never recorded.
    ///
    /// # Errors
    /// Of the database.
    pub fn components(&self, key: &Key) -> Result<Option<Vec<Component>>, RecordError> {
        self.read(|connection| {
            let list: Option<Vec<u8>> = connection
                .prepare_cached("SELECT list FROM components WHERE key = ?1")?
                .query_row([key.as_bytes()], |row| row.get(0))
                .optional()?;
            list.map(|list| components::decode(&list))
                .transpose()
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error)))
        })
    }

    /// The components of each result of a node that holds, newest first.
    ///
    /// # Errors
    /// Of the database.
    pub fn components_of(&self, node: &NodeLabel, platform: &Platform) -> Result<Vec<Vec<Component>>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT c.list FROM results r JOIN components c ON c.key = r.key \
                     WHERE r.node = ?1 AND r.platform = ?2 AND r.verdict <> 'failed' GROUP BY r.key ORDER BY max(r.rank) DESC",
                )?
                .query_map([node.to_string(), platform.to_string()], |row| {
                    let list: Vec<u8> = row.get(0)?;
                    components::decode(&list).map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error)))
                })?
                .collect()
        })
    }

    /// How long these nodes took when they last succeeded, in milliseconds, as far as that is known.
    ///
    /// # Errors
    /// Of the database.
    pub fn durations_of(&self, nodes: impl IntoIterator<Item = NodeLabel>) -> Result<BTreeMap<NodeLabel, u64>, RecordError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT duration_ms FROM durations WHERE node = ?1")?;
            let mut found = BTreeMap::new();
            for node in nodes {
                if let Some(duration) = statement.query_row([node.to_string()], |row| unsigned(row, 0)).optional()? {
                    found.insert(node, duration);
                }
            }
            Ok(found)
        })
    }

    /// How long each node took when it last succeeded, in milliseconds.
    ///
    /// # Errors
    /// Of the database.
    pub fn durations(&self) -> Result<BTreeMap<NodeLabel, u64>, RecordError> {
        self.read(|connection| {
            connection
                .prepare("SELECT node, duration_ms FROM durations")?
                .query_map([], |row| Ok((parsed(row, 0)?, unsigned(row, 1)?)))?
                .collect()
        })
    }
}

/// Calls `take` with every result of `verdict`s that hold, oldest first.
pub(crate) fn each_good_result(
    connection: &Connection,
    mut take: impl FnMut(ResultRecord) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare(&format!("SELECT {COLUMNS} FROM results r WHERE r.verdict <> 'failed' ORDER BY r.rank, r.seq"))?;
    let mut rows = statement.query(params![])?;
    while let Some(row) = rows.next()? {
        take(record_of(row)?)?;
    }
    Ok(())
}
