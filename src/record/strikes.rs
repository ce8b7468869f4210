//! Strikes and answers: how often steps failed in a row under one key, and what probes answered right after a build. Knows no
//! policy: what they mean is decided elsewhere.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId, Key};
use crate::failure::FailureClass;
use crate::label::NodeLabel;
use crate::record::error::RecordError;
use crate::record::result::ResultRecord;
use crate::record::state::{State, bytes32, parsed};

/// How many strikes stay known.
const KEPT_STRIKES: i64 = 50_000;

/// Step failures in a row under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strikes {
    /// The key.
    pub key: Key,
    /// The node that failed last under it.
    pub node: NodeLabel,
    /// How many.
    pub count: u32,
    /// When the last settled.
    pub at: Timestamp,
}

/// What a probe answered right after the build of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// The image it was run in.
    pub image: ImageId,
    /// Digest of the probe's text.
    pub probe: Digest,
    /// Its stdout.
    pub answer: String,
}

fn strikes_of(row: &Row<'_>) -> rusqlite::Result<Strikes> {
    Ok(Strikes { key: Key::from_bytes(bytes32(row, 0)?), node: parsed(row, 1)?, count: row.get(2)?, at: Timestamp(row.get(3)?) })
}

/// Counts a result: a step failure is a strike, a success ends the row, anything else is none.
pub(crate) fn count_strike(connection: &Connection, result: &ResultRecord) -> rusqlite::Result<()> {
    if result.verdict.is_good() {
        connection.prepare_cached("DELETE FROM strikes WHERE key = ?1")?.execute([result.key.as_bytes()])?;
    } else if result.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::Step) {
        connection
            .prepare_cached(
                "INSERT INTO strikes (key, node, count, at) VALUES (?1, ?2, 1, ?3)
                 ON CONFLICT (key) DO UPDATE SET node = excluded.node, count = count + 1, at = excluded.at",
            )?
            .execute(params![result.key.as_bytes(), result.node.to_string(), result.at.0])?;
    }
    Ok(())
}

/// Takes strikes from another machine, unless what is known here is newer, or the key has succeeded here.
pub(crate) fn take_strikes(connection: &Connection, strikes: &Strikes) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO strikes (key, node, count, at)
             SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM current WHERE key = ?1 AND verdict <> 'failed')
             ON CONFLICT (key) DO UPDATE SET node = excluded.node, count = excluded.count, at = excluded.at WHERE excluded.at > at",
        )?
        .execute(params![strikes.key.as_bytes(), strikes.node.to_string(), strikes.count, strikes.at.0])?;
    Ok(())
}

/// Keeps answers; the last one for an image and a probe stays.
pub(crate) fn write_answers(connection: &Connection, answers: &[AnswerRecord]) -> rusqlite::Result<()> {
    for answer in answers {
        connection.prepare_cached("INSERT OR REPLACE INTO answers (image, probe, answer) VALUES (?1, ?2, ?3)")?.execute(params![
            answer.image.0.as_bytes(),
            answer.probe.as_bytes(),
            answer.answer
        ])?;
    }
    Ok(())
}

/// Forgets the oldest strikes, and answers of images that no result and no name has.
pub(crate) fn forget_strikes_and_answers(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM strikes WHERE key NOT IN (SELECT key FROM strikes ORDER BY at DESC LIMIT ?1)", [KEPT_STRIKES])?;
    connection.execute(
        "DELETE FROM answers WHERE image NOT IN (SELECT image FROM results WHERE image IS NOT NULL UNION SELECT image FROM names)",
        [],
    )?;
    Ok(())
}

pub(crate) fn all_strikes(connection: &Connection) -> rusqlite::Result<Vec<Strikes>> {
    connection.prepare("SELECT key, node, count, at FROM strikes ORDER BY key")?.query_map([], strikes_of)?.collect()
}

pub(crate) fn all_answers(connection: &Connection) -> rusqlite::Result<Vec<AnswerRecord>> {
    let of = |row: &Row<'_>| {
        Ok(AnswerRecord {
            image: ImageId(Digest::from_bytes(bytes32(row, 0)?)),
            probe: Digest::from_bytes(bytes32(row, 1)?),
            answer: row.get(2)?,
        })
    };
    connection.prepare("SELECT image, probe, answer FROM answers ORDER BY image, probe")?.query_map([], of)?.collect()
}

impl State {
    /// All strikes, by key.
    ///
    /// # Errors
    /// Of the database.
    pub fn strikes(&self) -> Result<HashMap<Key, Strikes>, RecordError> {
        Ok(self.read(all_strikes)?.into_iter().map(|strikes| (strikes.key, strikes)).collect())
    }

    /// What a probe answered right after the build of an image.
    ///
    /// # Errors
    /// Of the database.
    pub fn answer(&self, image: ImageId, probe: Digest) -> Result<Option<String>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT answer FROM answers WHERE image = ?1 AND probe = ?2")?
                .query_row(params![image.0.as_bytes(), probe.as_bytes()], |row| row.get(0))
                .optional()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::record::samples::{World, image, key, result};
    use crate::record::{Facts, Settlement, Verdict};

    #[test]
    fn step_failures_in_a_row_are_counted_and_travel() {
        let world = World::new();
        let state = world.state();
        let failed = |at: i64, failure: Failure| {
            let record = ResultRecord { verdict: Verdict::Failed, image: None, failure: Some(failure), ..result("//a:1", "bad", at) };
            state.commit(&Settlement::new(record)).unwrap();
        };
        let counted = |state: &State| state.strikes().unwrap().get(&key("bad")).map(|strikes| (strikes.count, strikes.at.0));
        failed(10, Failure::step("exit 1"));
        failed(20, Failure::infra("reset"));
        assert_eq!(counted(&state), Some((1, 10)), "an infra failure is no strike, and ends no row");
        failed(30, Failure::step("exit 1"));
        assert_eq!(counted(&state), Some((2, 30)));
        state.forget(1, &[], false).unwrap();
        assert_eq!(counted(&state), Some((2, 30)), "whatever results are forgotten");

        let file = world.root().join("records");
        state.save(&file).unwrap();
        let other = World::new();
        other.state().load(&file).unwrap();
        assert_eq!(counted(&other.state()), Some((2, 30)));
        other.state().commit(&Settlement::new(result("//a:1", "bad", 40))).unwrap();
        assert_eq!(counted(&other.state()), None, "a success ends the row");
        other.state().load(&file).unwrap();
        assert_eq!(counted(&other.state()), None);
    }

    #[test]
    fn answers_are_kept_as_long_as_their_image_and_travel() {
        let world = World::new();
        let state = world.state();
        let answer = |name: &str, text: &str| AnswerRecord { image: image(name).id, probe: Digest::of(b"probe"), answer: text.to_owned() };
        state.commit(&Settlement::new(result("//a:1", "v1", 1))).unwrap();
        let made = state.result(&key("v1")).unwrap().unwrap().image.unwrap().id;
        let kept = AnswerRecord { image: made, ..answer("v1", "openssl\n") };
        state.learn(&Facts { answers: vec![kept, answer("gone", "x")], ..Facts::default() }).unwrap();
        assert_eq!(state.answer(image("gone").id, Digest::of(b"probe")).unwrap(), Some("x".to_owned()));
        state.forget(5, &[], false).unwrap();
        assert_eq!(state.answer(image("gone").id, Digest::of(b"probe")).unwrap(), None);
        let file = world.root().join("records");
        state.save(&file).unwrap();
        let other = World::new();
        other.state().load(&file).unwrap();
        assert_eq!(other.state().answer(made, Digest::of(b"probe")).unwrap(), Some("openssl\n".to_owned()));
        assert_eq!(other.state().answer(made, Digest::of(b"other probe")).unwrap(), None);
    }
}
