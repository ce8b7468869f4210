//! The board: which nodes run right now, since when, and what they last said. Knows no console.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tail::{Tail, clean};
use crate::clock::Timestamp;
use crate::event::{Event, NodeKind};
use crate::label::NodeLabel;

/// A node at work.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it is; unknown until it is said.
    pub kind: Option<NodeKind>,
    /// When it started.
    pub since: Timestamp,
    /// The attempt at work, from 1.
    pub attempt: u32,
    /// How many there may be; 0 where that is not known.
    pub of: u32,
    /// When that attempt started.
    pub attempt_since: Timestamp,
    /// Its output.
    pub tail: Tail,
    /// The newest thing it said: an output line, progress, or that it waits.
    pub activity: String,
}

impl Running {
    /// What is being done to a node of this kind, in one word.
    pub fn doing(&self) -> &'static str {
        match self.kind {
            Some(NodeKind::Base) => "fetching",
            Some(NodeKind::Image) => "building",
            Some(NodeKind::Test) => "testing",
            Some(NodeKind::Tag) => "tagging",
            Some(NodeKind::Push) => "pushing",
            None => "running",
        }
    }
}

/// All nodes at work, by label.
#[derive(Clone, Debug)]
pub struct Board {
    nodes: BTreeMap<NodeLabel, Running>,
    max_lines: usize,
}

impl Board {
    /// Nobody at work; keeps `max_lines` lines of output of each.
    pub fn new(max_lines: usize) -> Self {
        Self { nodes: BTreeMap::new(), max_lines }
    }

    /// Takes the next event. A finished node is given back as it was at the end.
    pub fn apply(&mut self, event: &Event) -> Option<Running> {
        match event {
            Event::NodeStarted { at, node, kind, .. } => self.entry(node, *at).kind = Some(*kind),
            Event::AttemptStarted { at, node, attempt, of, .. } => {
                let running = self.entry(node, *at);
                (running.attempt, running.of, running.attempt_since) = (*attempt, *of, *at);
                running.tail.clear();
                running.activity.clear();
            }
            Event::Output { node, line, .. } => {
                if let Some(running) = self.nodes.get_mut(node) {
                    running.tail.push(line);
                    if let Some(last) = running.tail.last() {
                        running.activity = last.to_owned();
                    }
                }
            }
            Event::Progress { node, what, done, total } => {
                if let Some(running) = self.nodes.get_mut(node) {
                    running.activity = progress(&clean(what), *done, *total);
                }
            }
            Event::AttemptFailed { node, failure, delay_ms: Some(delay), .. } => {
                if let Some(running) = self.nodes.get_mut(node) {
                    running.activity = format!("waits {} after: {}", seconds(*delay), clean(&failure.message));
                }
            }
            Event::NodeFinished { node, .. } => return self.nodes.remove(node),
            Event::RunFinished { .. } => self.nodes.clear(),
            Event::RunStarted { .. } | Event::Warning { .. } | Event::AttemptFailed { .. } => {}
        }
        None
    }

    fn entry(&mut self, node: &NodeLabel, at: Timestamp) -> &mut Running {
        let max_lines = self.max_lines;
        self.nodes.entry(node.clone()).or_insert_with(|| Running {
            kind: None,
            since: at,
            attempt: 1,
            of: 0,
            attempt_since: at,
            tail: Tail::new(max_lines),
            activity: String::new(),
        })
    }

    /// The node, while it runs.
    pub fn node(&self, label: &NodeLabel) -> Option<&Running> {
        self.nodes.get(label)
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Those that run, longest first, with the time they have run at `now`.
    pub fn by_age(&self, now: Timestamp) -> Vec<(&NodeLabel, &Running, Duration)> {
        let mut nodes: Vec<_> = self.nodes.iter().map(|(label, running)| (label, running, now.since(running.since))).collect();
        nodes.sort_by(|left, right| right.2.cmp(&left.2).then_with(|| left.0.cmp(right.0)));
        nodes
    }
}

/// What a node of this kind is called when it went well.
pub(super) fn done_verb(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Base => "BASE",
        NodeKind::Image => "BUILD",
        NodeKind::Test => "PASS",
        NodeKind::Tag => "TAG",
        NodeKind::Push => "PUSH",
    }
}

/// `2.0s` of milliseconds.
pub(super) fn seconds(milliseconds: u64) -> String {
    let tenths = milliseconds.saturating_add(50) / 100;
    format!("{}.{}s", tenths / 10, tenths % 10)
}

/// `uploading layer 2 of 3 45% of 120 M`.
fn progress(what: &str, done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!("{what} {percent}% of {}", amount(total))
        }
        _ => format!("{what} {}", amount(done)),
    }
}

/// Bytes or items, in thousands where there are many: `950`, `12.3 M`.
fn amount(number: u64) -> String {
    let mut scaled = number;
    let mut below = 0;
    for unit in ["", " k", " M", " G", " T"] {
        if scaled < 1000 || unit == " T" {
            return if unit.is_empty() { number.to_string() } else { format!("{scaled}.{}{unit}", below / 100) };
        }
        (scaled, below) = (scaled / 1000, scaled % 1000);
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_words() {
        assert_eq!(progress("uploading", 54_000_000, Some(120_000_000)), "uploading 45% of 120.0 M");
        assert_eq!(progress("reading", 12_345, None), "reading 12.3 k");
        assert_eq!(progress("files", 7, Some(0)), "files 7");
        assert_eq!(amount(u64::MAX), "18446744.0 T");
        assert_eq!((seconds(1949), seconds(1950), seconds(0)), ("1.9s".into(), "2.0s".into(), "0.0s".into()));
    }
}
