//! The recorder: a sink that writes the event stream and one log per attempt into the run's folder. Each event and each
//! output line is written at once, so that a kill loses nothing that was emitted. Knows nothing of consoles.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::event::{self, Event, Outcome, Sink};
use crate::failure::Failure;
use crate::label::NodeLabel;
use crate::record::error::RecordError;
use crate::record::folder::StateFolder;
use crate::record::runs::{EVENTS, Header};

/// Writes what a run emits.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    events: File,
    /// The log of the attempt that each running node is at.
    logs: HashMap<NodeLabel, (PathBuf, File)>,
    failed: Option<RecordError>,
}

impl Recorder {
    /// A recorder into the folder of `run`, which [`crate::record::State::begin_run`] made.
    ///
    /// # Errors
    /// Where the stream can't be begun.
    pub fn begin(folder: &StateFolder, run: &str) -> Result<Self, RecordError> {
        let folder = folder.run(run);
        let path = folder.join(EVENTS);
        let fail = |source| RecordError::io("write", &path, source);
        let mut events = create(&path)?;
        let header = Header { schema: event::SCHEMA.into(), version: event::VERSION };
        write_json(&mut events, &header).map_err(fail)?;
        Ok(Self { folder, open: Mutex::new(Open { events, logs: HashMap::new(), failed: None }) })
    }

    /// Ends the recording. Events that came after the first failure are lost; the run itself was not disturbed.
    ///
    /// # Errors
    /// The first that came up while writing.
    pub fn finish(&self) -> Result<(), RecordError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.logs.clear();
        open.failed.take().map_or(Ok(()), Err)
    }
}

impl Sink for Recorder {
    fn emit(&self, event: &Event) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.failed.is_none()
            && let Err(error) = open.write(&self.folder, event)
        {
            open.failed = Some(error);
        }
    }
}

impl Open {
    fn write(&mut self, folder: &Path, event: &Event) -> Result<(), RecordError> {
        match event {
            Event::Output { node, line, .. } => return self.say(node, line),
            Event::Progress { .. } => return Ok(()),
            Event::AttemptStarted { node, attempt, log, at, .. } => {
                let path = folder.join(Path::new(log).file_name().unwrap_or_default());
                let file = create(&path)?;
                self.logs.insert(node.clone(), (path, file));
                self.say(node, &format!("igraph: {node}, attempt {attempt}, {}", at.to_rfc3339()))?;
            }
            Event::AttemptFailed { node, failure, delay_ms, .. } => {
                self.say_failure(node, failure)?;
                if let Some(delay) = delay_ms {
                    self.say(node, &format!("igraph: next attempt in {}", seconds(*delay)))?;
                }
                self.logs.remove(node);
            }
            Event::NodeFinished { node, outcome, duration_ms, .. } => {
                match outcome {
                    Outcome::Failed { failure } => self.say_failure(node, failure)?,
                    Outcome::Cancelled => self.say(node, "igraph: stopped")?,
                    _ => self.say(node, &format!("igraph: done after {}", seconds(*duration_ms)))?,
                }
                self.logs.remove(node);
            }
            Event::RunStarted { .. } | Event::Warning { .. } | Event::NodeStarted { .. } | Event::RunFinished { .. } => {}
        }
        write_json(&mut self.events, event).map_err(|source| RecordError::io("write", &folder.join(EVENTS), source))
    }

    /// Adds a line to the log of the node's running attempt; without one there is nothing to add it to.
    fn say(&mut self, node: &NodeLabel, line: &str) -> Result<(), RecordError> {
        let Some((path, file)) = self.logs.get_mut(node) else { return Ok(()) };
        let mut text = String::with_capacity(line.len() + 1);
        text.push_str(line);
        text.push('\n');
        file.write_all(text.as_bytes()).map_err(|source| RecordError::io("write", path, source))
    }

    fn say_failure(&mut self, node: &NodeLabel, failure: &Failure) -> Result<(), RecordError> {
        self.say(node, &format!("igraph: failed: {failure}"))?;
        failure.hint.as_ref().map_or(Ok(()), |hint| self.say(node, &format!("igraph: {hint}")))
    }
}

/// Appending: even if two should ever write to one file, no line is lost.
fn create(path: &Path) -> Result<File, RecordError> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|source| RecordError::io("write", path, source))
}

fn write_json<T: serde::Serialize>(file: &mut File, value: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{}s", milliseconds / 1000, milliseconds % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{Counts, NodeKind, Stream};
    use crate::reason::Reason;
    use crate::record::samples::{World, label};
    use crate::record::{KEPT_RUNS, RunLog, log_name};

    fn started(run: &str, at: i64) -> Event {
        Event::RunStarted {
            run: run.into(),
            at: Timestamp(at),
            igraph: "0.1.0".into(),
            verb: "test".into(),
            patterns: vec!["//...".into()],
            engine: "fake".into(),
            scope: Counts { images: 2, ..Counts::default() },
            stale: Counts { images: 1, ..Counts::default() },
            maybe: Counts::default(),
            reason: None,
        }
    }

    fn story(run: &str) -> Vec<Event> {
        let node = label("//debian/jessie:4.2.1[test/http]");
        let failure = Failure::infra("connection reset").hint("look at the proxy");
        let attempt =
            |attempt| Event::AttemptStarted { at: Timestamp(2), node: node.clone(), attempt, of: 3, log: log_name(&node, attempt) };
        let output = |line: &str| Event::Output { node: node.clone(), stream: Stream::Stderr, line: line.into() };
        vec![
            started(run, 1),
            Event::NodeStarted {
                at: Timestamp(1),
                node: node.clone(),
                kind: NodeKind::Test,
                reasons: vec![Reason::NeverBuilt],
                needs: vec![],
            },
            attempt(1),
            output("GET / ü"),
            Event::AttemptFailed { at: Timestamp(3), node: node.clone(), attempt: 1, failure: failure.clone(), delay_ms: Some(2000) },
            output("between attempts there is no log"),
            attempt(2),
            Event::Progress { node: node.clone(), what: "pull".into(), done: 1, total: None },
            output("200 OK"),
            Event::NodeFinished {
                at: Timestamp(9),
                node,
                kind: NodeKind::Test,
                outcome: Outcome::Flaky { failures: vec![failure] },
                reasons: vec![Reason::NeverBuilt],
                attempts: 2,
                duration_ms: 2_940,
                image: None,
            },
            Event::RunFinished { at: Timestamp(10), duration_ms: 9_000, exit_code: 0, stopped_by: None },
        ]
    }

    fn record(world: &World, at: i64) -> String {
        let run = world.state().begin_run(Timestamp(at), "test").unwrap();
        let recorder = Recorder::begin(&world.folder(), &run).unwrap();
        story(&run).iter().for_each(|event| recorder.emit(event));
        recorder.finish().unwrap();
        run
    }

    #[test]
    fn a_run_is_read_back_as_it_was_and_each_attempt_has_its_log() {
        let world = World::new();
        let run = record(&world, 5);
        let log = RunLog::open(&world.folder(), "last").unwrap();
        assert_eq!(log.id(), run);
        let recorded: Vec<_> =
            story(&run).into_iter().filter(|event| !matches!(event, Event::Output { .. } | Event::Progress { .. })).collect();
        assert_eq!(log.events().unwrap(), recorded);
        let attempt = |number| {
            let name = log_name(&label("//debian/jessie:4.2.1[test/http]"), number);
            String::from_utf8(log.attempt(&name).unwrap()).unwrap()
        };
        insta::assert_snapshot!(attempt(1), @r"
        igraph: //debian/jessie:4.2.1[test/http], attempt 1, 1970-01-01T00:00:00Z
        GET / ü
        igraph: failed: connection reset
        igraph: look at the proxy
        igraph: next attempt in 2.0s
        ");
        insta::assert_snapshot!(attempt(2), @r"
        igraph: //debian/jessie:4.2.1[test/http], attempt 2, 1970-01-01T00:00:00Z
        200 OK
        igraph: done after 2.9s
        ");
        let listed = RunLog::list(&world.folder()).unwrap();
        assert_eq!((listed.len(), listed[0].end, listed[0].verb.as_str()), (1, Some((0, 9_000)), "test"));
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_events_before_the_cut() {
        let world = World::new();
        let run = record(&world, 5);
        let path = world.folder().run(&run).join(EVENTS);
        let whole = fs::read(&path).unwrap();
        let log = RunLog::open(&world.folder(), &run).unwrap();
        let all = log.events().unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let complete = whole[..length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(log.events().unwrap(), all[..complete.saturating_sub(1)], "cut at {length}");
            let listed = RunLog::list(&world.folder()).unwrap();
            assert_eq!(listed.len(), usize::from(complete >= 2), "cut at {length}");
            assert!(listed.iter().all(|run| run.end.is_none()));
        }
    }

    #[test]
    fn newer_events_are_passed_over_newer_streams_and_damage_are_told() {
        let world = World::new();
        let run = record(&world, 5);
        let path = world.folder().run(&run).join(EVENTS);
        let whole = fs::read_to_string(&path).unwrap();
        let log = RunLog::open(&world.folder(), &run).unwrap();
        let all = log.events().unwrap();
        fs::write(&path, whole.replacen('\n', "\n{\"event\":\"moon-phase\",\"full\":true}\n", 1)).unwrap();
        assert_eq!(log.events().unwrap(), all);
        fs::write(&path, whole.replacen('\n', "\ngarbage\n", 1)).unwrap();
        assert!(log.events().unwrap_err().to_string().ends_with("is damaged: line 2 is no event"));
        fs::write(&path, whole.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
        assert!(matches!(log.events().unwrap_err(), RecordError::Newer { found: 2, known: 1, .. }));
    }

    #[test]
    fn run_ids_are_short_unique_and_only_the_newest_keep_their_logs() {
        let world = World::new();
        let state = world.state();
        let mut ids: Vec<_> = (0..KEPT_RUNS + 5).map(|_| state.begin_run(Timestamp(1), "build").unwrap()).collect();
        assert!(ids.iter().all(|id| matches!(id.len(), 4 | 5)), "{ids:?}");
        assert_eq!(fs::read_dir(world.folder().logs()).unwrap().count(), KEPT_RUNS);
        assert!(world.folder().run(ids.last().unwrap()).is_dir());
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), KEPT_RUNS + 5);
    }

    #[test]
    fn unknown_runs_are_told_and_no_path_leads_out() {
        let world = World::new();
        let run = record(&world, 5);
        let open = |id: &str| RunLog::open(&world.folder(), id);
        let mut wrong = run.clone();
        wrong.replace_range(3.., if run.ends_with('0') { "1" } else { "0" });
        assert_eq!(open(&wrong).unwrap_err().hint().unwrap(), format!("did you mean `{run}`? `igraph log list` shows all"));
        assert!(matches!(open("../log").unwrap_err(), RecordError::NoRun { nearest: None, .. }));
        assert_eq!(open(&run).unwrap().path_of("../../../etc/passwd"), world.folder().run(&run).join("passwd"));
    }

    #[test]
    fn names_of_logs_are_apart_for_labels_that_look_alike() {
        let names = ["//a/b:c", "//a-b:c", "//a:b-c", "//a:b[test/c]"].map(|text| log_name(&label(text), 1));
        insta::assert_snapshot!(names.join("\n"), @r"
        a-b-c-e1a043.1.log
        a-b-c-55f9fb.1.log
        a-b-c-ce4bb1.1.log
        a-b-test-c-f4f2eb.1.log
        ");
    }

    #[test]
    fn a_full_disk_is_told_at_the_end_and_disturbs_nobody() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let world = World::new();
        let run = world.state().begin_run(Timestamp(1), "build").unwrap();
        std::os::unix::fs::symlink(full, world.folder().run(&run).join("full.log")).unwrap();
        let recorder = Recorder::begin(&world.folder(), &run).unwrap();
        let node = label("//a:1");
        recorder.emit(&started(&run, 1));
        recorder.emit(&Event::AttemptStarted { at: Timestamp(1), node: node.clone(), attempt: 1, of: 1, log: "full.log".into() });
        recorder.emit(&Event::Output { node, stream: Stream::Stdout, line: "x".into() });
        assert!(matches!(recorder.finish().unwrap_err(), RecordError::DiskFull { path } if path.ends_with("full.log")));
    }
}
