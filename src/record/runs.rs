//! Runs: their ids, and reading back what `log/<run>/` holds. Knows the recorded form of events, not what they mean.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{self, Counts, Event};
use crate::label::NodeLabel;
use crate::problem::nearest;
use crate::record::error::RecordError;
use crate::record::folder::StateFolder;
use crate::record::state::State;

/// How many runs keep their logs.
pub const KEPT_RUNS: usize = 50;

/// The event stream within a run's folder.
pub(crate) const EVENTS: &str = "events.jsonl";

/// Crockford's base 32: no letter that is taken for a digit.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The first line of an event stream.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) schema: String,
    pub(crate) version: u32,
}

impl State {
    /// Begins a run: gives it an id that no other has, like `7f3k`, makes its log folder, and drops the logs of the oldest.
    ///
    /// # Errors
    /// Of the database, or where the folder can't be made.
    pub fn begin_run(&self, at: Timestamp, verb: &str) -> Result<String, RecordError> {
        let logs = self.folder().logs();
        fs::create_dir_all(&logs).map_err(|source| RecordError::io("create", &logs, source))?;
        // of a run that was lost with the power nothing is recorded
        let id = self.write_ahead(|transaction| {
            let mut count: u64 = 0;
            loop {
                let id = run_id(at, count);
                count += 1;
                let taken: bool =
                    transaction.prepare_cached("SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1)")?.query_row([&id], |row| row.get(0))?;
                // the folder may be there though the database was deleted
                if !taken && !self.folder().run(&id).exists() {
                    transaction.prepare_cached("INSERT INTO runs (id, at, verb) VALUES (?1, ?2, ?3)")?.execute(params![id, at.0, verb])?;
                    return Ok(id);
                }
            }
        })?;
        let folder = self.folder().run(&id);
        fs::create_dir(&folder).map_err(|source| RecordError::io("create", &folder, source))?;
        prune(&logs, &id);
        Ok(id)
    }
}

/// A short id; five digits when the shorter ones seem used up.
fn run_id(at: Timestamp, count: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&at.0.to_le_bytes()).update(&count.to_le_bytes());
    let length = if count < 16 { 4 } else { 5 };
    hasher.finalize().as_bytes()[..length].iter().map(|byte| char::from(DIGITS[usize::from(byte & 31)])).collect()
}

/// Removes the folders of all but the newest runs. What can't be removed stays: it is tried again by the next run.
fn prune(logs: &Path, current: &str) {
    let Ok(entries) = fs::read_dir(logs) else { return };
    let mut runs: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name() != current)
        .filter_map(|entry| Some((entry.metadata().ok().filter(|data| data.is_dir())?.modified().ok()?, entry.path())))
        .collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in runs.into_iter().skip(KEPT_RUNS - 1) {
        let _ = fs::remove_dir_all(path);
    }
}

/// The file name of an attempt's log within its run's folder: readable, and another for every node and attempt.
pub fn log_name(node: &NodeLabel, attempt: u32) -> String {
    let text = node.to_string();
    let mut slug = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' => slug.push(letter),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(150);
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("{}-{}.{attempt}.log", slug.trim_matches(['-', '.']), &hash[..6])
}

/// What `log list` shows of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// Like `push`.
    pub verb: String,
    /// What it was asked for.
    pub patterns: Vec<String>,
    /// What `--reason` said, or what a watch saw change.
    pub reason: Option<String>,
    /// All nodes planned.
    pub scope: Counts,
    /// Those known to run when it began.
    pub stale: Counts,
    /// Exit code and milliseconds; `None` while it runs, and for ever when it was killed.
    pub end: Option<(u8, u64)>,
}

/// The log folder of one run, to be read.
#[derive(Clone, Debug)]
pub struct RunLog {
    id: String,
    folder: PathBuf,
}

impl RunLog {
    /// The logs of run `id`; `last` is the newest.
    ///
    /// # Errors
    /// Where there is no such run, or its logs were dropped.
    pub fn open(folder: &StateFolder, id: &str) -> Result<Self, RecordError> {
        let plain = !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric());
        if plain && id != "last" && folder.run(id).join(EVENTS).is_file() {
            return Ok(Self { id: id.to_owned(), folder: folder.run(id) });
        }
        let runs = Self::list(folder)?;
        match runs.first() {
            Some(newest) if id == "last" => Ok(Self { id: newest.id.clone(), folder: folder.run(&newest.id) }),
            _ => {
                let nearest = nearest(id, runs.iter().map(|run| run.id.as_str())).map(str::to_owned);
                Err(RecordError::NoRun { id: id.to_owned(), nearest })
            }
        }
    }

    /// All runs with logs, newest first. A run that was killed before it wrote down its start is left out.
    ///
    /// # Errors
    /// Where the folder is there and can't be read.
    pub fn list(folder: &StateFolder) -> Result<Vec<RunSummary>, RecordError> {
        let logs = folder.logs();
        let entries = match fs::read_dir(&logs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RecordError::io("read", &logs, error)),
        };
        let mut runs: Vec<_> = entries.flatten().filter_map(|entry| summary(&entry.path())).collect();
        runs.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.id.cmp(&b.id)));
        Ok(runs)
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// All its events in order. A last line cut short by a kill is left out, and so are events that only a newer igraph knows.
    ///
    /// # Errors
    /// Where the stream can't be read, is of a newer version, or is damaged before its end.
    pub fn events(&self) -> Result<Vec<Event>, RecordError> {
        let path = self.folder.join(EVENTS);
        let text = fs::read(&path).map_err(|source| RecordError::io("read", &path, source))?;
        let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        lines.pop(); // empty, or cut short
        let damaged = |number: usize| RecordError::Damaged { path: path.clone(), detail: format!("line {number} is no event") };
        let Some((first, rest)) = lines.split_first() else { return Ok(Vec::new()) };
        check_header(first, &path)?;
        let mut events = Vec::with_capacity(rest.len());
        for (index, line) in rest.iter().enumerate() {
            match serde_json::from_slice(line) {
                Ok(event) => events.push(event),
                // after a power cut the file may end in anything
                Err(_) if index + 1 == rest.len() => {}
                Err(_) if is_object(line) => {}
                Err(_) => return Err(damaged(index + 2)),
            }
        }
        Ok(events)
    }

    /// The bytes of an attempt's log, by the name that its event gives.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn attempt(&self, log: &str) -> Result<Vec<u8>, RecordError> {
        let path = self.path_of(log);
        fs::read(&path).map_err(|source| RecordError::io("read", &path, source))
    }

    /// Where an attempt's log lies. Always within the run's folder.
    pub fn path_of(&self, log: &str) -> PathBuf {
        self.folder.join(Path::new(log).file_name().unwrap_or_default())
    }
}

fn is_object(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|value| value.get("event").is_some())
}

fn check_header(line: &[u8], path: &Path) -> Result<(), RecordError> {
    let header: Header = serde_json::from_slice(line)
        .map_err(|_| RecordError::Damaged { path: path.to_owned(), detail: "its first line names no schema".into() })?;
    if header.schema != event::SCHEMA {
        return Err(RecordError::Damaged { path: path.to_owned(), detail: format!("its schema is `{}`", header.schema) });
    }
    if header.version > event::VERSION {
        return Err(RecordError::Newer { path: path.to_owned(), found: header.version.into(), known: event::VERSION.into() });
    }
    Ok(())
}

/// Reads no more than the first two lines and the last.
fn summary(folder: &Path) -> Option<RunSummary> {
    let path = folder.join(EVENTS);
    let mut file = BufReader::new(File::open(&path).ok()?);
    let mut line = Vec::new();
    file.read_until(b'\n', &mut line).ok()?;
    check_header(&line, &path).ok()?;
    line.clear();
    file.read_until(b'\n', &mut line).ok()?;
    let whole = line.strip_suffix(b"\n")?;
    let Event::RunStarted { run, at, verb, patterns, scope, stale, reason, .. } = serde_json::from_slice(whole).ok()? else { return None };
    let mut file = file.into_inner();
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let last = tail.strip_suffix(b"\n").and_then(|tail| tail.rsplit(|byte| *byte == b'\n').next()).unwrap_or_default();
    let end = match serde_json::from_slice(last) {
        Ok(Event::RunFinished { exit_code, duration_ms, .. }) => Some((exit_code, duration_ms)),
        _ => None,
    };
    (folder.file_name()?.to_str()? == run).then_some(RunSummary { id: run, at, verb, patterns, reason, scope, stale, end })
}
