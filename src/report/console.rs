//! The plain console: a line for each node that ended, in DESIGN §10's form, a header and a summary. Knows events, no
//! clock and no terminal: colour and width are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use super::board::{Board, Running, done_verb, seconds};
use super::fold::Fold;
use super::line::{Line, Lines, Tone};
use super::tail::clean;
use super::tally::{Tally, nodes, nothing_to_do, plan_text};
use crate::clock::Timestamp;
use crate::event::{Event, NodeKind, Outcome};
use crate::failure::Failure;
use crate::label::NodeLabel;
use crate::reason::Reason;

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Failures and warnings, and the summary where there is one.
    Quiet,
    /// What ran.
    #[default]
    Normal,
    /// Cached passes, every reason, every skipped node as well.
    Verbose,
}

/// Whose output is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logs {
    /// The last lines of what failed.
    #[default]
    Errors,
    /// All of every attempt, when it has ended.
    All,
    /// None.
    None,
    /// Each line as it comes.
    Stream,
}

/// How a console shows things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// How much.
    pub verbosity: Verbosity,
    /// Whose output.
    pub logs: Logs,
    /// In colour.
    pub color: bool,
    /// Columns to cut lines to; `None` leaves them whole.
    pub width: Option<usize>,
}

/// How many last lines of a failed attempt are shown.
const ERROR_LINES: usize = 20;
/// How many nodes skipped for one cause, or blocked for one reason, are listed.
const LISTED: usize = 8;
/// When a running node is first told of, and the longest silence after that.
const FIRST_SIGN: Duration = Duration::from_secs(10);
const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// Alike things of which only the first are listed.
#[derive(Clone, Debug, Default)]
struct Alike {
    listed: usize,
    more: usize,
    note: String,
    first: String,
}

/// The plain console.
#[derive(Debug)]
pub struct Console<W> {
    out: W,
    options: ConsoleOptions,
    lines: Lines,
    tally: Tally,
    board: Board,
    /// The header, while nothing has happened that makes it worth showing.
    header: Option<String>,
    /// The line of a run that has nothing to do.
    nothing: Option<String>,
    /// When each running node is told of next, by its running time.
    next_sign: BTreeMap<NodeLabel, Duration>,
    groups: BTreeMap<String, Alike>,
    waits: BTreeSet<(String, u32)>,
    /// By the label that failed, or by the group of its failure.
    skipped: BTreeMap<String, Alike>,
    grouped: BTreeMap<NodeLabel, String>,
    blocked: BTreeMap<String, Alike>,
    blocked_nodes: BTreeSet<NodeLabel>,
}

impl<W: Write + Send> Console<W> {
    /// A console that writes to `out`. Errors of `out` are ignored: a run does not end because nobody reads.
    pub fn new(out: W, options: ConsoleOptions) -> Self {
        let max_lines = if options.logs == Logs::All { usize::MAX } else { ERROR_LINES };
        Self {
            out,
            options,
            lines: Lines::new(options.color, options.width),
            tally: Tally::default(),
            board: Board::new(max_lines),
            header: None,
            nothing: None,
            next_sign: BTreeMap::new(),
            groups: BTreeMap::new(),
            waits: BTreeSet::new(),
            skipped: BTreeMap::new(),
            grouped: BTreeMap::new(),
            blocked: BTreeMap::new(),
            blocked_nodes: BTreeSet::new(),
        }
    }

    /// Where it writes.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// What runs.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What has ended.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn verbose(&self) -> bool {
        self.options.verbosity == Verbosity::Verbose
    }

    fn quiet(&self) -> bool {
        self.options.verbosity == Verbosity::Quiet
    }

    fn write(&mut self, text: &str) {
        let header = self.header.take().unwrap_or_default();
        let _closed = self.out.write_all(format!("{header}{text}").as_bytes()).and_then(|()| self.out.flush());
    }

    fn put(&mut self, line: &Line<'_>) {
        let text = self.lines.line(line);
        self.write(&text);
    }

    fn run_started(&mut self, event: &Event) {
        let Event::RunStarted { run, igraph, scope, stale, maybe, .. } = event else { return };
        if self.quiet() {
            return;
        }
        let note = format!("{igraph}  run {run}  {}", plan_text(scope, stale, maybe));
        let line = Line { verb: "igraph", tone: Tone::Plain, time: None, label: "", note: &note, may_cut: true };
        let header = self.lines.line(&line);
        self.header = Some(header);
        if nodes(stale) + nodes(maybe) + stale.bases + maybe.bases == 0 {
            self.nothing = Some(nothing_to_do(scope));
        } else {
            self.write("");
        }
    }

    fn attempt_failed(&mut self, node: &NodeLabel, at: Timestamp, attempt: u32, failure: &Failure, delay: u64) {
        if self.quiet() {
            return;
        }
        let first_of_group = failure.group.as_ref().is_none_or(|group| self.waits.insert((group.clone(), attempt)));
        if first_of_group || self.verbose() {
            let running = self.board.node(node);
            let of = running.map_or(0, |running| running.of);
            let time = running.map(|running| milliseconds(at.since(running.attempt_since)));
            let note = format!("{}: {}; again in {}", try_text(attempt, of), clean(&failure.message), seconds(delay));
            self.put(&Line { verb: "RETRY", tone: Tone::Warn, time, label: &node.to_string(), note: &note, may_cut: true });
        }
        if self.options.logs == Logs::All
            && let Some(running) = self.board.node(node).cloned()
        {
            self.output(node, &running);
        }
    }

    /// The output that was kept of a node.
    fn output(&mut self, node: &NodeLabel, running: &Running) {
        let mut text = String::new();
        if running.tail.dropped() > 0 {
            let before = format!("… {} more lines before these: igraph log show {node}", running.tail.dropped());
            text.push_str(&self.lines.below("|", &before));
        }
        for line in running.tail.lines() {
            text.push_str(&self.lines.below("|", line));
        }
        if !text.is_empty() {
            self.write(&text);
        }
    }

    fn node_finished(&mut self, event: &Event, ended: Option<&Running>) {
        let Event::NodeFinished { node, kind, outcome, reasons, attempts, duration_ms, .. } = event else { return };
        self.tally.add(*kind, outcome);
        self.next_sign.remove(node);
        let label = node.to_string();
        let of = ended.map_or(0, |running| running.of);
        let mut line = Line { verb: "", tone: Tone::Good, time: Some(*duration_ms), label: &label, note: "", may_cut: true };
        match outcome {
            Outcome::Fresh => {
                if self.verbose() {
                    let (verb, note) = if *kind == NodeKind::Test { ("PASS", "cached") } else { ("FRESH", "") };
                    self.put(&Line { verb, note, tone: Tone::Dim, time: None, ..line });
                }
            }
            Outcome::Succeeded { changed, .. } if !self.quiet() => {
                let mut note = main_reason(reasons);
                if *attempts > 1 {
                    note = join(note, &try_text(*attempts, of));
                }
                if !changed {
                    note =
                        join(note, if matches!(kind, NodeKind::Tag | NodeKind::Push) { "already right" } else { "same image as before" });
                }
                line.verb = done_verb(*kind);
                self.put(&Line { note: &note, ..line });
                self.all_reasons(reasons);
                self.output_of_good(node, ended);
            }
            Outcome::Flaky { failures } if !self.quiet() => {
                let why = failures.last().map_or_else(String::new, |failure| format!(": {}", clean(&failure.message)));
                let note = format!("{} (flaky{why})", try_text(*attempts, of));
                line.verb = done_verb(*kind);
                self.put(&Line { note: &note, tone: Tone::Warn, ..line });
                self.all_reasons(reasons);
                self.output_of_good(node, ended);
            }
            Outcome::Succeeded { .. } | Outcome::Flaky { .. } => {}
            Outcome::Failed { failure } => self.failed(node, line, failure, *attempts, ended),
            Outcome::Skipped { cause } => self.skipped(line, cause),
            Outcome::Blocked { reason } => self.blocked(node, line, reason),
            Outcome::Cancelled => {
                if (ended.is_some() && !self.quiet()) || self.verbose() {
                    let (time, note) = if ended.is_some() { (line.time, "stopped") } else { (None, "not started") };
                    self.put(&Line { verb: "STOP", tone: Tone::Warn, time, note, ..line });
                }
            }
        }
    }

    fn all_reasons(&mut self, reasons: &[Reason]) {
        if self.verbose() && reasons.len() > 1 {
            let text: String = reasons.iter().map(|reason| self.lines.below("-", &reason.to_string())).collect();
            self.write(&text);
        }
    }

    fn output_of_good(&mut self, node: &NodeLabel, ended: Option<&Running>) {
        if let (Logs::All, Some(running)) = (self.options.logs, ended) {
            self.output(node, running);
        }
    }

    fn failed(&mut self, node: &NodeLabel, line: Line<'_>, failure: &Failure, attempts: u32, ended: Option<&Running>) {
        let mut message = clean(&failure.message);
        if attempts > 1 {
            message.push_str(&format!(" (after {attempts} tries)"));
        }
        let mut first_of_group = true;
        if let Some(name) = &failure.group {
            self.grouped.insert(node.clone(), name.clone());
            let group = self.groups.entry(name.clone()).or_default();
            first_of_group = group.listed == 0;
            if first_of_group || self.options.verbosity == Verbosity::Verbose {
                group.listed += 1;
            } else {
                group.more += 1;
                return;
            }
            if first_of_group {
                (group.first, group.note) = (node.to_string(), clean(&failure.message));
            }
        }
        self.put(&Line { verb: "FAIL", tone: Tone::Bad, note: &message, may_cut: false, ..line });
        if let (Logs::Errors | Logs::All, Some(running)) = (self.options.logs, ended) {
            self.output(node, running);
        }
        if let (Some(hint), true) = (&failure.hint, first_of_group) {
            let hint = self.lines.below("hint:", &clean(hint));
            self.write(&hint);
        }
    }

    fn skipped(&mut self, line: Line<'_>, cause: &NodeLabel) {
        let word = if self.blocked_nodes.contains(cause) { "blocked" } else { "failed" };
        let note = format!("{cause} {word}");
        let (key, all) = match self.grouped.get(cause).and_then(|group| self.groups.get_key_value(group)) {
            Some((group, alike)) => (group.clone(), format!("{} and others failed", alike.first)),
            None => (cause.to_string(), note.clone()),
        };
        self.skipped.entry(key.clone()).or_default().note = all;
        if self.may_list(|console| console.skipped.get_mut(&key)) {
            self.put(&Line { verb: "SKIP", tone: Tone::Warn, time: None, note: &note, ..line });
        }
    }

    fn blocked(&mut self, node: &NodeLabel, line: Line<'_>, reason: &str) {
        self.blocked_nodes.insert(node.clone());
        let note = clean(reason);
        self.blocked.entry(note.clone()).or_default().note.clone_from(&note);
        if self.may_list(|console| console.blocked.get_mut(&note)) {
            self.put(&Line { verb: "BLOCK", tone: Tone::Warn, time: None, note: &note, ..line });
        }
    }

    /// Counts one more of the alike things; says whether it is to be listed.
    fn may_list(&mut self, alike: impl FnOnce(&mut Self) -> Option<&mut Alike>) -> bool {
        let (verbose, quiet) = (self.verbose(), self.quiet());
        let Some(alike) = alike(self) else { return false };
        let list = verbose || (!quiet && alike.listed < LISTED);
        if list {
            alike.listed += 1;
        } else {
            alike.more += 1;
        }
        list
    }

    /// What was not listed, by the number.
    fn more(&mut self) {
        let mut text = String::new();
        let groups = self.groups.values().map(|alike| ("FAIL", Tone::Bad, alike, format!("{} more like {}", alike.more, alike.first)));
        let skipped = self.skipped.values().map(|alike| ("SKIP", Tone::Warn, alike, format!("{} more", alike.more)));
        let blocked = self.blocked.values().map(|alike| ("BLOCK", Tone::Warn, alike, format!("{} more", alike.more)));
        let quiet = self.options.verbosity == Verbosity::Quiet;
        let mut lines = self.lines.clone();
        for (verb, tone, alike, label) in groups.chain(skipped).chain(blocked) {
            if alike.more > 0 && !(quiet && verb != "FAIL") {
                text.push_str(&lines.line(&Line { verb, tone, time: None, label: &label, note: &alike.note, may_cut: verb != "FAIL" }));
            }
        }
        if !text.is_empty() {
            self.write(&text);
        }
    }

    fn run_finished(&mut self, duration: u64, exit_code: u8, stopped_by: Option<&str>) {
        if let Some(nothing) = self.nothing.take()
            && exit_code == 0
            && self.tally.all_fresh()
        {
            // cached passes may have been listed already, the header with them
            self.header = None;
            self.write(&format!("{nothing}\n"));
            return;
        }
        self.more();
        if self.quiet() && exit_code == 0 {
            return;
        }
        let (verb, note) = match stopped_by {
            Some(by) => ("Stopped", format!("by {by} · {}", self.tally.summary())),
            None => ("Summary", self.tally.summary()),
        };
        let tone = if exit_code == 0 { Tone::Good } else { Tone::Bad };
        self.put(&Line { verb, tone, time: Some(duration), label: "", note: &note, may_cut: false });
    }
}

impl<W: Write + Send> Fold for Console<W> {
    fn apply(&mut self, event: &Event) {
        let ended = self.board.apply(event);
        match event {
            Event::RunStarted { .. } => self.run_started(event),
            Event::Warning { node, message, .. } => {
                let label = node.as_ref().map(NodeLabel::to_string).unwrap_or_default();
                self.put(&Line { verb: "WARN", tone: Tone::Warn, time: None, label: &label, note: &clean(message), may_cut: false });
            }
            Event::Output { node, line, .. } if self.options.logs == Logs::Stream => {
                self.write(&format!("{}\n", format!("{node} | {}", clean(line)).trim_end()));
            }
            Event::AttemptFailed { at, node, attempt, failure, delay_ms: Some(delay) } => {
                self.attempt_failed(node, *at, *attempt, failure, *delay);
            }
            Event::NodeFinished { .. } => self.node_finished(event, ended.as_ref()),
            Event::RunFinished { duration_ms, exit_code, stopped_by, .. } => {
                self.run_finished(*duration_ms, *exit_code, stopped_by.as_deref());
            }
            Event::NodeStarted { .. }
            | Event::AttemptStarted { .. }
            | Event::Output { .. }
            | Event::Progress { .. }
            | Event::AttemptFailed { .. } => {}
        }
    }

    /// A sign of life of every node that has run for ten seconds, then at growing intervals.
    fn tick(&mut self, now: Timestamp) {
        if self.quiet() {
            return;
        }
        let mut due = Vec::new();
        for (label, running, age) in self.board.by_age(now) {
            let next = self.next_sign.entry(label.clone()).or_insert(FIRST_SIGN);
            if age >= *next {
                while *next <= age {
                    *next += (*next).min(LONGEST_SILENCE);
                }
                due.push((running.doing(), milliseconds(age), label.to_string(), running.activity.clone()));
            }
        }
        for (doing, age, label, activity) in due {
            self.put(&Line { verb: doing, tone: Tone::Dim, time: Some(age), label: &label, note: &activity, may_cut: true });
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn try_text(attempt: u32, of: u32) -> String {
    if of > 0 { format!("try {attempt} of {of}") } else { format!("try {attempt}") }
}

fn main_reason(reasons: &[Reason]) -> String {
    match reasons {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (+{} more)", rest.len()),
    }
}

fn join(note: String, more: &str) -> String {
    if note.is_empty() { more.to_owned() } else { format!("{note}, {more}") }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
