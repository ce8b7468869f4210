//! Settling: all that a node's end changes, in one transaction. What a node made is durable before it is told here.

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::record::components;
use crate::record::error::RecordError;
use crate::record::facts::{Facts, write_facts};
use crate::record::journal::{JournalStep, write_steps};
use crate::record::result::{ResultRecord, kind_word};
use crate::record::state::{State, json, signed, to_json, unsigned};
use crate::record::strikes::count_strike;

/// One try of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// 1, 2, …
    pub number: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Its log within the run's folder.
    pub log: String,
    /// Why it failed; `None` for the one that succeeded.
    pub failure: Option<Failure>,
    /// The wait after it, in milliseconds, when another followed.
    pub delay_ms: Option<u64>,
}

/// A settled node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Its result.
    pub result: ResultRecord,
    /// Each try.
    pub attempts: Vec<AttemptRecord>,
    /// What was learned.
    pub facts: Facts,
    /// What it means for names in flight.
    pub journal: Vec<JournalStep>,
}

impl Settlement {
    /// A result and nothing else.
    pub fn new(result: ResultRecord) -> Self {
        Self { result, attempts: Vec::new(), facts: Facts::default(), journal: Vec::new() }
    }
}

impl State {
    /// Records a settled node: all of it, durable when this returns, or nothing.
    ///
    /// # Errors
    /// Of the database.
    pub fn commit(&self, settlement: &Settlement) -> Result<(), RecordError> {
        self.commit_all(std::slice::from_ref(settlement))
    }

    /// Records nodes that settled together, in one transaction.
    ///
    /// # Errors
    /// Of the database.
    pub fn commit_all(&self, settlements: &[Settlement]) -> Result<(), RecordError> {
        self.write(|transaction| {
            for settlement in settlements {
                let last = last_rank(transaction, &settlement.result)?;
                // a clock that was set back must not make this result look older than the last
                let rank = settlement.result.at.0.max(last.map_or(i64::MIN, |last| last.saturating_add(1)));
                let seq = write_result(transaction, &settlement.result, rank)?;
                count_strike(transaction, &settlement.result)?;
                write_attempts(transaction, seq, &settlement.attempts)?;
                write_facts(transaction, &settlement.facts)?;
                write_steps(transaction, &settlement.journal)?;
            }
            Ok(())
        })
    }

    /// The attempts that a result took, first to last.
    ///
    /// # Errors
    /// Of the database.
    pub fn attempts(&self, result: &ResultRecord) -> Result<Vec<AttemptRecord>, RecordError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT number, at, duration_ms, log, failure, delay_ms FROM attempts WHERE seq = \
                     (SELECT seq FROM results WHERE node = ?1 AND platform = ?2 AND run = ?3 AND key = ?4 ORDER BY rank DESC LIMIT 1) \
                     ORDER BY number",
                )?
                .query_map(params![result.node.to_string(), result.platform.to_string(), result.run, result.key.as_bytes()], |row| {
                    let delay: Option<i64> = row.get(5)?;
                    Ok(AttemptRecord {
                        number: row.get(0)?,
                        at: Timestamp(row.get(1)?),
                        duration_ms: unsigned(row, 2)?,
                        log: row.get(3)?,
                        failure: json(row, 4)?,
                        delay_ms: delay.map(|_| unsigned(row, 5)).transpose()?,
                    })
                })?
                .collect()
        })
    }
}

fn last_rank(connection: &Connection, result: &ResultRecord) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT max(rank) FROM results WHERE node = ?1 AND platform = ?2")?
        .query_row([result.node.to_string(), result.platform.to_string()], |row| row.get(0))
}

/// When the newest result under the key settled.
pub(crate) fn settled_at(connection: &Connection, result: &ResultRecord) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached("SELECT r.at FROM current JOIN results r ON r.seq = current.seq WHERE current.key = ?1")?
        .query_row([result.key.as_bytes()], |row| row.get(0).map(Timestamp))
        .optional()
}

/// Adds a result, which becomes the newest of its key; returns its row.
pub(crate) fn write_result(connection: &Connection, result: &ResultRecord, rank: i64) -> rusqlite::Result<i64> {
    let image = result.image.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO results (key, node, platform, rank, kind, verdict, image, handle, image_platform, manifest, run, at, \
             duration_ms, attempts, failure, reasons) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            result.key.as_bytes(),
            result.node.to_string(),
            result.platform.to_string(),
            rank,
            kind_word(result.kind),
            result.verdict.to_string(),
            image.map(|image| image.id.0.as_bytes()),
            // mostly the id again
            image.map(|image| image.handle.clone()).filter(|handle| image.is_none_or(|image| *handle != image.id.to_string())),
            image.map(|image| &image.platform).filter(|platform| **platform != result.platform).map(ToString::to_string),
            result.manifest.as_ref().map(Digest::as_bytes),
            result.run,
            result.at.0,
            signed(result.duration_ms),
            result.attempts,
            result.failure.as_ref().map(to_json).transpose()?,
            to_json(&result.reasons)?,
        ])?;
    let seq = connection.last_insert_rowid();
    connection.prepare_cached("INSERT OR REPLACE INTO current (key, seq, verdict, image, manifest) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
        params![
            result.key.as_bytes(),
            seq,
            result.verdict.to_string(),
            image.map(|image| image.id.0.as_bytes()),
            result.manifest.as_ref().map(Digest::as_bytes),
        ],
    )?;
    connection
        .prepare_cached("INSERT OR IGNORE INTO components (key, list) VALUES (?1, ?2)")?
        .execute(params![result.key.as_bytes(), components::encode(&result.components)])?;
    if result.verdict.is_good() {
        connection
            .prepare_cached("INSERT OR REPLACE INTO durations (node, duration_ms) VALUES (?1, ?2)")?
            .execute(params![result.node.to_string(), signed(result.duration_ms)])?;
    }
    Ok(seq)
}

fn write_attempts(connection: &Connection, seq: i64, attempts: &[AttemptRecord]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO attempts (seq, number, at, duration_ms, log, failure, delay_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for attempt in attempts {
        statement.execute(params![
            seq,
            attempt.number,
            attempt.at.0,
            signed(attempt.duration_ms),
            attempt.log,
            attempt.failure.as_ref().map(to_json).transpose()?,
            attempt.delay_ms.map(signed),
        ])?;
    }
    Ok(())
}
