//! Forgetting: only the newest results of each node stay, and what only the others needed goes with them.
//! Tells which images are still needed; removing the rest is the engine's.

use std::collections::BTreeSet;

use rusqlite::{Transaction, params};

use crate::digest::{Digest, ImageId, Key};
use crate::record::error::RecordError;
use crate::record::state::{State, bytes32};
use crate::record::strikes::forget_strikes_and_answers;

/// How many results of a node stay, of those that hold and of those that failed.
pub const KEPT_RESULTS: usize = 5;

/// How many places of blobs stay. One forgotten costs a question to a registry, or an upload.
const KEPT_BLOBS: i64 = 50_000;

/// How many runs stay known by id.
const KEPT_IDS: i64 = 10_000;

/// What was forgotten, and what is still needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Results dropped.
    pub results: usize,
    /// Places of images and blobs dropped.
    pub places: usize,
    /// Images of the results kept, of names igraph wrote, and of groups in flight.
    pub needed: BTreeSet<ImageId>,
}

impl State {
    /// Drops all but the newest `keep` results of each node, though never one under a key of `live` or of an image that has a
    /// name, and gives the space back. A dry run changes nothing and tells what would be.
    ///
    /// # Errors
    /// Of the database; then nothing is dropped.
    pub fn forget(&self, keep: usize, live: &[Key], dry_run: bool) -> Result<Forgotten, RecordError> {
        let forgotten = self.transact(!dry_run, |transaction| {
            forget(transaction, keep, live).map_err(|source| RecordError::database(self.path(), source))
        })?;
        if !dry_run {
            self.shrink()?;
        }
        Ok(forgotten)
    }
}

fn forget(transaction: &Transaction<'_>, keep: usize, live: &[Key]) -> rusqlite::Result<Forgotten> {
    transaction.execute_batch("CREATE TEMP TABLE live (key BLOB PRIMARY KEY) WITHOUT ROWID")?;
    {
        let mut statement = transaction.prepare("INSERT OR IGNORE INTO temp.live (key) VALUES (?1)")?;
        live.iter().try_for_each(|key| statement.execute([key.as_bytes()]).map(drop))?;
    }
    let results = transaction.execute(
        "DELETE FROM results WHERE seq IN (
             SELECT seq FROM (
                 SELECT seq, row_number() OVER (PARTITION BY node, platform, verdict = 'failed' ORDER BY rank DESC, seq DESC) AS place
                 FROM results
             ) WHERE place > ?1
         ) AND seq NOT IN (SELECT seq FROM current WHERE key IN (SELECT key FROM temp.live))
         AND NOT (verdict <> 'failed' AND image IN (SELECT image FROM names UNION SELECT image FROM journal))",
        [i64::try_from(keep).unwrap_or(i64::MAX)],
    )?;
    // a key that another node's result still has is answered by that
    transaction.execute_batch(
        "DROP TABLE temp.live;
         DELETE FROM current WHERE seq NOT IN (SELECT seq FROM results);
         INSERT INTO current (key, seq, verdict, image, manifest)
             SELECT key, max(seq), verdict, image, manifest FROM results WHERE key NOT IN (SELECT key FROM current) GROUP BY key;
         DELETE FROM components WHERE key NOT IN (SELECT key FROM results);
         DELETE FROM attempts WHERE seq NOT IN (SELECT seq FROM results);
         DELETE FROM durations WHERE node NOT IN (SELECT node FROM results);",
    )?;
    forget_strikes_and_answers(transaction)?;
    transaction.execute("DELETE FROM runs WHERE id NOT IN (SELECT id FROM runs ORDER BY at DESC LIMIT ?1)", [KEPT_IDS])?;
    let needed: BTreeSet<ImageId> = transaction
        .prepare(
            "SELECT image FROM results WHERE image IS NOT NULL AND verdict <> 'failed'
             UNION SELECT image FROM names UNION SELECT image FROM journal",
        )?
        .query_map([], |row| Ok(ImageId(Digest::from_bytes(bytes32(row, 0)?))))?
        .collect::<Result<_, _>>()?;
    let places = transaction.execute(
        "DELETE FROM locations WHERE image NOT IN (
             SELECT image FROM results WHERE image IS NOT NULL AND verdict <> 'failed'
             UNION SELECT image FROM names UNION SELECT image FROM journal)",
        params![],
    )? + transaction.execute(
        "DELETE FROM documents WHERE digest NOT IN (
             SELECT manifest FROM locations UNION SELECT image FROM locations
             UNION SELECT manifest FROM names WHERE manifest IS NOT NULL UNION SELECT image FROM names)",
        params![],
    )? + transaction
        .execute("DELETE FROM blobs WHERE seq NOT IN (SELECT seq FROM blobs ORDER BY seq DESC LIMIT ?1)", [KEPT_BLOBS])?;
    Ok(Forgotten { results, places, needed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{self, World, image, key, label, platform, result};
    use crate::record::{Facts, ResultRecord, Settlement, Verdict};

    fn commit(state: &State, record: ResultRecord) {
        state.commit(&Settlement::new(record)).unwrap();
    }

    #[test]
    fn the_newest_results_and_what_names_and_keys_need_stay() {
        let world = World::new();
        let state = world.state();
        for number in 0..9 {
            commit(&state, result("//a:1", &format!("a{number}"), number));
        }
        // failures do not push good results out, and have a place of their own
        for number in 0..9 {
            commit(
                &state,
                ResultRecord { verdict: Verdict::Failed, image: None, ..result("//a:1", &format!("bad{number}"), 100 + number) },
            );
        }
        commit(&state, result("//b:1", "b", 1));
        state
            .learn(&Facts {
                names: vec![samples::name("a/b:1", "a0")],
                locations: ["a0", "a2", "a8"].map(|image| samples::location(image, "docker.io")).to_vec(),
                ..Facts::default()
            })
            .unwrap();

        let rehearsed = state.forget(KEPT_RESULTS, &[key("a1")], true).unwrap();
        assert!(state.result(&key("a2")).unwrap().is_some(), "a dry run dropped something");
        let forgotten = state.forget(KEPT_RESULTS, &[key("a1")], false).unwrap();
        assert_eq!(rehearsed, forgotten);
        assert_eq!((forgotten.results, forgotten.places), (2 + 4, 1));
        let needed = ["a0", "a1", "a4", "a5", "a6", "a7", "a8", "b"].map(|text| image(text).id);
        assert_eq!(forgotten.needed, BTreeSet::from(needed));
        assert_eq!((state.result(&key("a3")).unwrap(), state.components(&key("a3")).unwrap()), (None, None));
        assert_eq!(state.results_for_keys(&[key("a1"), key("a4"), key("bad3")]).unwrap().iter().flatten().count(), 2);
        assert_eq!(state.latest_success(&label("//a:1"), &platform()).unwrap().unwrap().key, key("a8"));
        assert_eq!(state.forget(KEPT_RESULTS, &[key("a1")], false).unwrap().results, 0);
    }

    #[test]
    fn a_key_that_two_nodes_share_is_kept_while_one_of_them_needs_it() {
        let world = World::new();
        let state = world.state();
        commit(&state, result("//b:1", "shared", 1));
        commit(&state, result("//a:1", "shared", 2));
        commit(&state, result("//a:1", "next", 3));
        assert_eq!(state.forget(1, &[], false).unwrap().results, 1);
        assert_eq!(state.result(&key("shared")).unwrap().unwrap().node, label("//b:1"));
        assert_eq!(state.results_for_keys(&[key("shared")]).unwrap()[0].unwrap().image, Some(image("shared").id));
    }

    #[test]
    fn the_file_shrinks() {
        let world = World::new();
        let state = world.state();
        let many: Vec<_> = (0..400).map(|number| Settlement::new(result("//a:1", &number.to_string(), number))).collect();
        state.commit_all(&many).unwrap();
        state.shrink().unwrap();
        let size = || std::fs::metadata(world.folder().database()).unwrap().len();
        let before = size();
        state.forget(KEPT_RESULTS, &[], false).unwrap();
        assert!(size() * 2 < before, "{} of {before}", size());
    }
}
