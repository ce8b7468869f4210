//! What `igraph log` shows of recorded runs. Knows events and, through a closure, the attempts' logs; not where they lie.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::board::{done_verb, seconds};
use super::fold::Fold;
use super::history::{History, NodeHistory};
use super::line::{Line, Lines, Tone};
use super::tail::{Tail, clean};
use crate::clock::Timestamp;
use crate::event::{Counts, Event, Outcome, Stream};
use crate::label::NodeLabel;

/// Reads an attempt's log by the name that its event gives; `None` where it is gone.
pub type ReadLog<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// How many last lines of a failed attempt `log what-failed` shows.
const FAILED_LINES: usize = 20;

/// A line of `log list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// The run's id.
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// Like `push`.
    pub verb: String,
    /// What it was asked for.
    pub patterns: Vec<String>,
    /// What `--reason` said, or what a watch saw change.
    pub reason: Option<String>,
    /// What was known to run.
    pub stale: Counts,
    /// Exit code and milliseconds; `None` while it runs, and for ever when it was killed.
    pub end: Option<(u8, u64)>,
}

/// Writes a line for each run, as they come.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_list(rows: &[RunRow], mut out: impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let table: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let (took, exit) = match row.end {
                Some((code, duration)) => (seconds(duration), code.to_string()),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let stale = [(row.stale.bases, "base"), (row.stale.images, "image"), (row.stale.tests, "test"), (row.stale.tags, "tag")]
                .into_iter()
                .chain([(row.stale.pushes, "push")])
                .filter(|(number, _)| *number > 0)
                .map(|(number, word)| super::tally::plural(number, word))
                .collect::<Vec<_>>()
                .join(", ");
            let what = [row.verb.clone()].into_iter().chain(row.patterns.iter().cloned()).collect::<Vec<_>>().join(" ");
            let what = if stale.is_empty() { what } else { format!("{what}  ({stale})") };
            let what = row.reason.as_ref().map_or_else(|| what.clone(), |reason| format!("{what}  {reason}"));
            [row.id.clone(), row.at.to_rfc3339(), took, exit, what]
        })
        .collect();
    let header = ["RUN", "STARTED", "TOOK", "EXIT", "WHAT"].map(str::to_owned);
    let width = |column: usize| table.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (id, at, took) = (width(0), width(1), width(2));
    for row in [&header].into_iter().chain(&table) {
        writeln!(out, "{:<id$}  {:<at$}  {:>took$}  {:>4}  {}", row[0], row[1], row[2], row[3], row[4])?;
    }
    out.flush()
}

/// What the step itself said: the recorder's own lines, which begin with `igraph: `, left out.
fn said(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| !line.starts_with("igraph: "))
}

/// Tells a recorded run to a fold again, with the output that the attempts' logs kept.
pub fn replay(events: &[Event], logs: &ReadLog<'_>, fold: &mut dyn Fold) {
    let mut names: BTreeMap<&NodeLabel, &str> = BTreeMap::new();
    for event in events {
        match event {
            Event::AttemptStarted { node, log, .. } => {
                names.insert(node, log);
            }
            // the output belongs before the ending that it explains
            Event::AttemptFailed { node, .. } | Event::NodeFinished { node, .. } => {
                for line in said(&names.remove(node).and_then(logs).unwrap_or_default()) {
                    fold.apply(&Event::Output { node: node.clone(), stream: Stream::Stdout, line: line.to_owned() });
                }
            }
            _ => {}
        }
        fold.apply(event);
    }
}

/// Writes the logs of the attempts of these nodes, or of one attempt of each, under a heading each.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_attempts(
    history: &History,
    nodes: &[NodeLabel],
    only: Option<u32>,
    logs: &ReadLog<'_>,
    mut out: impl Write,
) -> io::Result<()> {
    for (label, node) in nodes.iter().filter_map(|label| history.nodes.get_key_value(label)) {
        for attempt in node.attempts.iter().filter(|attempt| only.is_none_or(|only| only == attempt.attempt)) {
            let ended = match (&attempt.failure, attempt.until) {
                (Some(failure), _) => failure.message.clone(),
                (None, Some(_)) => "passed".to_owned(),
                (None, None) => "did not end".to_owned(),
            };
            writeln!(out, "== {label} try {}, {}: {}", attempt.attempt, attempt.at.to_rfc3339(), clean(&ended))?;
            match logs(&attempt.log) {
                Some(log) => {
                    out.write_all(log.as_bytes())?;
                    if !log.is_empty() && !log.ends_with('\n') {
                        writeln!(out)?;
                    }
                }
                None => writeln!(out, "(the log is gone)")?,
            }
        }
    }
    out.flush()
}

/// Writes a line for each node that ran, in the order in which they started, and all its reasons.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_what_ran(history: &History, color: bool, mut out: impl Write) -> io::Result<()> {
    let mut lines = Lines::new(color, None);
    for (label, node) in history.in_order() {
        let (label, reasons) = (label.to_string(), node.reasons.iter().map(ToString::to_string).collect::<Vec<_>>());
        let note = if reasons.len() == 1 { reasons[0].as_str() } else { "" };
        out.write_all(lines.line(&line(node, &label, note)).as_bytes())?;
        if reasons.len() > 1 {
            for reason in &reasons {
                out.write_all(lines.below("-", reason).as_bytes())?;
            }
        }
    }
    out.flush()
}

/// Writes each node that failed: its failure, the last lines of its last attempt, the hint, and what was skipped for it.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_what_failed(history: &History, color: bool, logs: &ReadLog<'_>, mut out: impl Write) -> io::Result<()> {
    let mut lines = Lines::new(color, None);
    for (label, node) in &history.nodes {
        let Some(Outcome::Failed { failure }) = &node.outcome else { continue };
        out.write_all(lines.line(&line(node, &label.to_string(), &clean(&failure.message))).as_bytes())?;
        if let Some(attempt) = node.attempts.last() {
            let mut tail = Tail::new(FAILED_LINES);
            said(&logs(&attempt.log).unwrap_or_default()).for_each(|line| tail.push(line));
            if tail.dropped() > 0 {
                let before = format!("… {} more lines before these: igraph log show {label}", tail.dropped());
                out.write_all(lines.below("|", &before).as_bytes())?;
            }
            for line in tail.lines() {
                out.write_all(lines.below("|", line).as_bytes())?;
            }
        }
        if let Some(hint) = &failure.hint {
            out.write_all(lines.below("hint:", &clean(hint)).as_bytes())?;
        }
        let caused = |other: &&NodeHistory| matches!(&other.outcome, Some(Outcome::Skipped { cause }) if cause == label);
        let skipped = history.nodes.values().filter(caused).count();
        if skipped > 0 {
            out.write_all(lines.below("-", &format!("{} skipped for it", super::tally::plural(skipped, "node"))).as_bytes())?;
        }
    }
    out.flush()
}

/// Writes the critical path: each node with its time, and how long it waited for a free slot, then the sum.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_critical_path(history: &History, color: bool, mut out: impl Write) -> io::Result<()> {
    let mut lines = Lines::new(color, None);
    let path = history.critical_path();
    let mut sum = 0_u64;
    for (label, node, wait) in &path {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        sum = sum.saturating_add(node.duration_ms).saturating_add(wait);
        let note = if wait >= 100 { format!("after waiting {}", seconds(wait)) } else { String::new() };
        out.write_all(lines.line(&line(node, &label.to_string(), &note)).as_bytes())?;
    }
    if let (Some(ended), false) = (&history.ended, path.is_empty()) {
        let note = format!("of the run's {}, in {}", seconds(ended.duration_ms), super::tally::plural(path.len(), "node"));
        let total = Line { verb: "Path", tone: Tone::Plain, time: Some(sum), label: "", note: &note, may_cut: false };
        out.write_all(lines.line(&total).as_bytes())?;
    }
    out.flush()
}

fn line<'a>(node: &NodeHistory, label: &'a str, note: &'a str) -> Line<'a> {
    let (verb, tone) = match &node.outcome {
        None => ("LOST", Tone::Warn),
        Some(Outcome::Fresh) => ("FRESH", Tone::Dim),
        Some(Outcome::Succeeded { .. }) => (done_verb(node.kind), Tone::Good),
        Some(Outcome::Flaky { .. }) => (done_verb(node.kind), Tone::Warn),
        Some(Outcome::Failed { .. }) => ("FAIL", Tone::Bad),
        Some(Outcome::Skipped { .. }) => ("SKIP", Tone::Warn),
        Some(Outcome::Blocked { .. }) => ("BLOCK", Tone::Warn),
        Some(Outcome::Cancelled) => ("STOP", Tone::Warn),
    };
    Line { verb, tone, time: Some(node.duration_ms), label, note, may_cut: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::console::{Console, ConsoleOptions};
    use crate::report::script::{START, label, mixed};

    fn recorded() -> Vec<Event> {
        mixed().events.into_iter().filter(|event| !matches!(event, Event::Output { .. } | Event::Progress { .. })).collect()
    }

    fn log(name: &str) -> Option<String> {
        match name {
            "ubuntu-trusty-0.12-1.log" => {
                Some((0..30).map(|line| format!("line {line}\n")).chain(["igraph: failed: exit 100\n".to_owned()]).collect())
            }
            "debian-jessie-4.2.1-test-http--1.log" => Some("curl: (56) reset".into()),
            "debian-jessie-4.2.1-test-http--2.log" => Some("ok\n".into()),
            _ => None,
        }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_list() {
        let row = |id: &str, patterns: &[&str], images, end: Option<(u8, u64)>| RunRow {
            id: id.into(),
            at: START,
            verb: "test".into(),
            patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
            reason: end.is_none().then(|| "shellshock".to_owned()),
            stale: Counts { images, tests: 2, ..Counts::default() },
            end,
        };
        let rows = [row("7f3k", &["//a/...", "//b:1"], 1, Some((0, 61_200))), row("7f3km", &[], 12, None)];
        insta::assert_snapshot!(text(|out| write_list(&rows, out)), @r#"
        RUN    STARTED                TOOK  EXIT  WHAT
        7f3k   2026-11-23T18:27:00Z  61.2s     0  test //a/... //b:1  (1 image, 2 tests)
        7f3km  2026-11-23T18:27:00Z      -     -  test  (12 images, 2 tests)  shellshock
        "#);
        assert_eq!(text(|out| write_list(&[], out)), "");
    }

    #[test]
    fn what_ran_failed_and_took_long() {
        let history = History::of(&recorded());
        insta::assert_snapshot!(text(|out| write_what_ran(&history, false, out)), @r#"
        BUILD [   12.4s] //debian/jessie:4.2.1
              - node/4.2.1/Dockerfile changed
              - start.sh changed
         FAIL [   44.0s] //ubuntu/trusty:0.12                no result yet
         PASS [    2.9s] //debian/jessie:4.2.1[test/http]    no result yet
        "#);
        insta::assert_snapshot!(text(|out| write_what_failed(&history, false, &log, out)), @r#"
        FAIL [   44.0s] //ubuntu/trusty:0.12                exit 100 at RUN apt-get update (Dockerfile:7)
             | … 10 more lines before these: igraph log show //ubuntu/trusty:0.12
             | line 10
             | line 11
             | line 12
             | line 13
             | line 14
             | line 15
             | line 16
             | line 17
             | line 18
             | line 19
             | line 20
             | line 21
             | line 22
             | line 23
             | line 24
             | line 25
             | line 26
             | line 27
             | line 28
             | line 29
             - 1 node skipped for it
        "#);
        insta::assert_snapshot!(text(|out| write_critical_path(&history, false, out)), @r#"
        FAIL [   44.0s] //ubuntu/trusty:0.12
        Path [   44.0s] of the run's 44.0s, in 1 node
        "#);
    }

    #[test]
    fn logs_of_attempts() {
        let history = History::of(&recorded());
        let nodes = [label("//debian/jessie:4.2.1[test/http]"), label("//debian/jessie:4.2.1"), label("//not:there")];
        insta::assert_snapshot!(text(|out| write_attempts(&history, &nodes, None, &log, out)), @r#"
        == //debian/jessie:4.2.1[test/http] try 1, 2026-11-23T18:27:12Z: connection reset
        curl: (56) reset
        == //debian/jessie:4.2.1[test/http] try 2, 2026-11-23T18:27:14Z: passed
        ok
        == //debian/jessie:4.2.1 try 1, 2026-11-23T18:27:00Z: passed
        (the log is gone)
        "#);
        assert!(!text(|out| write_attempts(&history, &nodes, Some(2), &log, out)).contains("curl"));
    }

    #[test]
    fn a_replay_is_what_was_seen() {
        let seen = |tell: &dyn Fn(&mut dyn Fold)| {
            let mut console = Console::new(Vec::new(), ConsoleOptions::default());
            tell(&mut console);
            String::from_utf8(std::mem::take(console.out())).unwrap()
        };
        let output = |events: &[Event], node: &str| -> String {
            let lines = events.iter().filter_map(|event| match event {
                Event::Output { node: of, line, .. } if *of == label(node) => Some(format!("{line}\n")),
                _ => None,
            });
            lines.collect()
        };
        let live = mixed();
        let logs = |name: &str| name.starts_with("ubuntu").then(|| output(&live.events, "//ubuntu/trusty:0.12"));
        assert_eq!(seen(&|fold| replay(&recorded(), &logs, fold)), seen(&|fold| live.tell(fold)));
    }
}
