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
    /// The group is through: all names written, or left as they were. What an earlier group, cut short, had to do with them is over
    /// too.
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
                let names = "DELETE FROM journal_names WHERE name IN (SELECT name FROM journal_names WHERE journal = ?1)";
                connection.prepare_cached(names)?.execute([group.0])?;
                let groups = "DELETE FROM journal WHERE id = ?1 OR (id < ?1 AND id NOT IN (SELECT journal FROM journal_names))";
                connection.prepare_cached(groups)?.execute([group.0])?;
            }
        }
    }
    Ok(())
}

impl State {
    /// Writes a group down; durable when it returns, so before the first of its names is written.
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
        assert_eq!(state.journal().unwrap(), [(id, group.clone())]);
        // the next run takes over one name of the group that a kill cut short, then the other
        let mut rest = group.clone();
        let first = state.journal_open(&JournalGroup { names: vec![group.names.remove(0)], ..group.clone() }).unwrap();
        rest.names.remove(0);
        state.journal_apply(&[JournalStep::Close { group: first }]).unwrap();
        assert_eq!(state.journal().unwrap(), [(id, rest)]);
        let second = state.journal_open(&group).unwrap();
        state.journal_apply(&[JournalStep::Close { group: second }]).unwrap();
        assert_eq!(state.journal().unwrap(), []);
    }
}
