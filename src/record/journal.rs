//! The journal: groups of names that are being moved. A group that is still here after a kill may be half-moved.
//! Knows what was to be written, not what a registry has.

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::label::NodeLabel;
use crate::record::error::RecordError;
use crate::record::state::{State, bytes32, parsed};
use crate::reference::Reference;

/// A group in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(i64);

/// The names of one image, to be moved together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalGroup {
    /// The image's entry.
    pub node: NodeLabel,
    /// What the names are pointed at.
    pub image: ImageId,
    /// The manifest they are pointed at; `None` for local names.
    pub manifest: Option<Digest>,
    /// The run that moves them.
    pub run: String,
    /// When it began.
    pub at: Timestamp,
    /// The names, in the order in which they are written.
    pub names: Vec<JournalName>,
}

/// A name of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalName {
    /// The name, with its tag.
    pub name: Reference,
    /// The node that writes it.
    pub node: NodeLabel,
    /// What it pointed at when it was read before.
    pub before: Option<Digest>,
    /// Whether it is known to be written.
    pub written: bool,
}

/// A change of the journal, recorded with the node that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalStep {
    /// A name was written.
    Written {
        /// Its group.
        group: JournalId,
        /// Which.
        name: Reference,
    },
    /// The group is through: all names written, or left as they were. What older groups, which a kill left behind, say of the same
    /// names is over too.
    Close {
        /// Which.
        group: JournalId,
    },
}

/// Applies steps in order.
pub(crate) fn write_steps(connection: &Connection, steps: &[JournalStep]) -> rusqlite::Result<()> {
    for step in steps {
        match step {
            JournalStep::Written { group, name } => {
                connection
                    .prepare_cached("UPDATE journal_names SET written = 1 WHERE journal = ?1 AND name = ?2")?
                    .execute(params![group.0, name.to_string()])?;
            }
            JournalStep::Close { group } => {
                connection
                    .prepare_cached(
                        "DELETE FROM journal_names WHERE journal < ?1 AND name IN (SELECT name FROM journal_names WHERE journal = ?1)",
                    )?
                    .execute([group.0])?;
                connection.prepare_cached("DELETE FROM journal_names WHERE journal = ?1")?.execute([group.0])?;
                connection.prepare_cached("DELETE FROM journal WHERE id = ?1")?.execute([group.0])?;
                drop_empty(connection, Some(*group))?;
            }
        }
    }
    Ok(())
}

/// Removes groups without names, of those older than `before` where it is given.
fn drop_empty(connection: &Connection, before: Option<JournalId>) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM journal WHERE id < ?1 AND id NOT IN (SELECT journal FROM journal_names)")?
        .execute([before.map_or(i64::MAX, |group| group.0)])
        .map(drop)
}

impl State {
    /// Writes a group down; durable when it returns, so before the first of its names is written. Where an older group was to write
    /// the same manifest at the same name, the new one says it all.
    ///
    /// # Errors
    /// Of the database.
    pub fn journal_open(&self, group: &JournalGroup) -> Result<JournalId, RecordError> {
        self.write(|transaction| {
            transaction.prepare_cached("INSERT INTO journal (node, image, manifest, run, at) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                params![
                    group.node.to_string(),
                    group.image.0.as_bytes(),
                    group.manifest.as_ref().map(Digest::as_bytes),
                    group.run,
                    group.at.0
                ],
            )?;
            let id = transaction.last_insert_rowid();
            let mut older = transaction.prepare_cached(
                "DELETE FROM journal_names WHERE name = ?1 AND journal IN (SELECT id FROM journal WHERE id < ?2 AND manifest IS ?3)",
            )?;
            for name in &group.names {
                older.execute(params![name.name.to_string(), id, group.manifest.as_ref().map(Digest::as_bytes)])?;
            }
            drop_empty(transaction, Some(JournalId(id)))?;
            let mut statement = transaction.prepare_cached(
                "INSERT INTO journal_names (journal, position, name, node, before, written) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for (name, position) in group.names.iter().zip(0i64..) {
                statement.execute(params![
                    id,
                    position,
                    name.name.to_string(),
                    name.node.to_string(),
                    name.before.as_ref().map(Digest::as_bytes),
                    name.written
                ])?;
            }
            Ok(JournalId(id))
        })
    }

    /// Applies steps outside of any node's settling.
    ///
    /// # Errors
    /// Of the database; then none is applied.
    pub fn journal_apply(&self, steps: &[JournalStep]) -> Result<(), RecordError> {
        self.write(|transaction| write_steps(transaction, steps))
    }

    /// Takes names out of groups, since no entry claims them any more. What a group may have written there is remembered as reported, so
    /// that an entry that claims the name again may move it.
    ///
    /// # Errors
    /// Of the database; then all stay.
    pub fn journal_drop(&self, names: &[(JournalId, Reference)]) -> Result<(), RecordError> {
        self.write(|transaction| {
            for (group, name) in names {
                let name = name.to_string();
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO foreign_moves (name, manifest) SELECT ?1, manifest FROM journal \
                         WHERE id = ?2 AND manifest IS NOT NULL",
                    )?
                    .execute(params![name, group.0])?;
                transaction
                    .prepare_cached("DELETE FROM journal_names WHERE journal = ?1 AND name = ?2")?
                    .execute(params![group.0, name])?;
            }
            drop_empty(transaction, None)
        })
    }

    /// The groups in flight, oldest first. When no run is: those that a kill left behind.
    ///
    /// # Errors
    /// Of the database.
    pub fn journal(&self) -> Result<Vec<(JournalId, JournalGroup)>, RecordError> {
        self.read(|connection| {
            let mut names =
                connection.prepare("SELECT name, node, before, written FROM journal_names WHERE journal = ?1 ORDER BY position")?;
            connection
                .prepare("SELECT id, node, image, manifest, run, at FROM journal ORDER BY id")?
                .query_map([], |row| {
                    let id = row.get(0)?;
                    let names = names.query_map([id], |row| {
                        Ok(JournalName {
                            name: parsed(row, 0)?,
                            node: parsed(row, 1)?,
                            before: row.get::<_, Option<[u8; 32]>>(2)?.map(Digest::from_bytes),
                            written: row.get(3)?,
                        })
                    })?;
                    let group = JournalGroup {
                        node: parsed(row, 1)?,
                        image: ImageId(Digest::from_bytes(bytes32(row, 2)?)),
                        manifest: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest::from_bytes),
                        run: row.get(4)?,
                        at: Timestamp(row.get(5)?),
                        names: names.collect::<Result<_, _>>()?,
                    };
                    Ok((JournalId(id), group))
                })?
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::record::samples::{World, label};

    #[test]
    fn a_group_stays_until_it_is_closed_and_remembers_what_was_written() {
        let world = World::new();
        let state = world.state();
        let name = |text: &str| JournalName {
            name: text.parse().unwrap(),
            node: label(&format!("//a:1[push/{text}]")),
            before: Some(Digest::of(b"before")),
            written: false,
        };
        let mut group = JournalGroup {
            node: label("//a:1"),
            image: ImageId(Digest::of(b"image")),
            manifest: Some(Digest::of(b"manifest")),
            run: "7f3k".into(),
            at: Timestamp(5),
            names: vec![name("z/own:1"), name("a/alias:1")],
        };
        let id = state.journal_open(&group).unwrap();
        let other = state.journal_open(&JournalGroup { names: Vec::new(), manifest: None, ..group.clone() }).unwrap();
        state
            .journal_apply(&[JournalStep::Written { group: id, name: "z/own:1".parse().unwrap() }, JournalStep::Close { group: other }])
            .unwrap();

        drop(state);
        let state = world.state();
        group.names[0].written = true;
        assert_eq!(state.journal().unwrap(), [(id, group)]);
        state.journal_apply(&[JournalStep::Close { group: id }]).unwrap();
        assert_eq!(state.journal().unwrap(), []);
    }

    #[test]
    fn what_a_kill_left_is_over_when_a_later_group_of_the_same_names_is() {
        let world = World::new();
        let state = world.state();
        let group = |manifest: &[u8], names: &[&str]| JournalGroup {
            node: label("//a:1"),
            image: ImageId(Digest::of(manifest)),
            manifest: Some(Digest::of(manifest)),
            run: "7f3k".into(),
            at: Timestamp(5),
            names: names
                .iter()
                .map(|name| JournalName {
                    name: name.parse().unwrap(),
                    node: label(&format!("//a:1[push/{name}]")),
                    before: None,
                    written: false,
                })
                .collect(),
        };
        let left = || -> Vec<(ImageId, Vec<String>)> {
            let groups = state.journal().unwrap();
            groups.into_iter().map(|(_, group)| (group.image, group.names.iter().map(|name| name.name.to_string()).collect())).collect()
        };
        let image = |manifest: &[u8]| ImageId(Digest::of(manifest));
        let named = |names: &[&str]| names.iter().map(|name| name.parse::<Reference>().unwrap().to_string()).collect::<Vec<_>>();

        let record = |name: &str| crate::record::NameRecord {
            scope: crate::record::NameScope::Registry,
            name: name.parse().unwrap(),
            image: image(b"zero"),
            manifest: Some(Digest::of(b"zero")),
            key: crate::digest::Key::from_bytes([0; 32]),
            node: label("//a:1[push/1]"),
            run: "7f3k".into(),
            at: Timestamp(4),
        };
        let names = ["r/a:1", "r/a:3"].map(record).to_vec();
        state.learn(&crate::record::Facts { names, ..Default::default() }).unwrap();
        let expected = |name: &str, manifests: &[&[u8]]| {
            let manifests: BTreeSet<Digest> = manifests.iter().map(|manifest| Digest::of(manifest)).collect();
            assert_eq!(state.expected_at(&name.parse().unwrap()).unwrap(), manifests);
        };

        // two killed runs: the second says again what the first said of one name
        state.journal_open(&group(b"one", &["r/a:1", "r/a:2", "r/a:3"])).unwrap();
        state.journal_open(&group(b"one", &["r/a:1"])).unwrap();
        assert_eq!(left(), [(image(b"one"), named(&["r/a:2", "r/a:3"])), (image(b"one"), named(&["r/a:1"]))]);
        // while another manifest is on its way, both may be there
        let two = state.journal_open(&group(b"two", &["r/a:1", "r/a:2"])).unwrap();
        assert_eq!(left().len(), 3);
        expected("r/a:1", &[b"zero", b"one", b"two"]);
        // never recorded: whatever is there gives way
        expected("r/a:2", &[]);
        state.journal_apply(&[JournalStep::Close { group: two }]).unwrap();
        let all = state.journal().unwrap();
        assert_eq!(left(), [(image(b"one"), named(&["r/a:3"]))]);
        // nobody claims the last any more: it is dropped, and what may stand there is no surprise later
        state.journal_drop(&[(all[0].0, all[0].1.names[0].name.clone())]).unwrap();
        assert_eq!(left(), []);
        expected("r/a:3", &[b"zero", b"one"]);
    }
}
