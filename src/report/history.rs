//! A whole run as data: every node with its attempts and its ending, folded from the events, live or recorded.
//! Knows no form in which it is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fold::Fold;
use super::tail::Tail;
use crate::clock::Timestamp;
use crate::digest::ImageId;
use crate::event::{Counts, Event, NodeKind, Outcome};
use crate::failure::Failure;
use crate::label::NodeLabel;
use crate::reason::Reason;

/// How many last lines of a failed attempt are kept.
const FAILED_LINES: usize = 100;

/// What a run began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Began {
    /// Its id.
    pub run: String,
    /// When.
    pub at: Timestamp,
    /// The version of igraph.
    pub igraph: String,
    /// Like `push`.
    pub verb: String,
    /// What it was asked for.
    pub patterns: Vec<String>,
    /// What built.
    pub engine: String,
    /// All nodes planned.
    pub scope: Counts,
    /// What `--reason` said.
    pub reason: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Its exit code.
    pub exit_code: u8,
    /// What stopped it.
    pub stopped_by: Option<String>,
}

/// One attempt of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptHistory {
    /// From 1.
    pub attempt: u32,
    /// When it began.
    pub at: Timestamp,
    /// When it ended; `None` while it runs, or where the run was killed.
    pub until: Option<Timestamp>,
    /// Its log within the run's folder.
    pub log: String,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// How long the next one waited, in milliseconds.
    pub delay_ms: Option<u64>,
    /// The last lines of a failed attempt; empty for recorded runs, where the log has them.
    pub tail: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHistory {
    /// What it is.
    pub kind: NodeKind,
    /// Why it ran.
    pub reasons: Vec<Reason>,
    /// What it depends on.
    pub needs: Vec<NodeLabel>,
    /// When it left the queue; `None` where it never did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// Its attempts, first to last.
    pub attempts: Vec<AttemptHistory>,
    /// Its ending; `None` where the run was killed before.
    pub outcome: Option<Outcome>,
    /// The image it is, tests or names.
    pub image: Option<ImageId>,
}

impl NodeHistory {
    /// The attempts that failed before the last.
    pub fn earlier_failures(&self) -> impl Iterator<Item = (&AttemptHistory, &Failure)> {
        let before = self.attempts.len().saturating_sub(1);
        self.attempts.iter().take(before).filter_map(|attempt| Some((attempt, attempt.failure.as_ref()?)))
    }
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// How it began; `None` before it did.
    pub began: Option<Began>,
    /// Every node that was mentioned.
    pub nodes: BTreeMap<NodeLabel, NodeHistory>,
    /// Warnings, with their node.
    pub warnings: Vec<(Option<NodeLabel>, String)>,
    /// How it ended; `None` while it runs, or where it was killed.
    pub ended: Option<Ended>,
    tails: BTreeMap<NodeLabel, Tail>,
}

impl History {
    /// The history that these events tell.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut history = Self::default();
        events.into_iter().for_each(|event| history.apply(event));
        history
    }

    /// Nodes that left the queue, in the order in which they did.
    pub fn in_order(&self) -> Vec<(&NodeLabel, &NodeHistory)> {
        let mut nodes: Vec<_> = self.nodes.iter().filter(|(_, node)| node.started.is_some()).collect();
        nodes.sort_by(|left, right| (left.1.started, left.0).cmp(&(right.1.started, right.0)));
        nodes
    }

    /// The chain of nodes that made the run as long as it was, first to last, each with the time it waited after what it
    /// needed was there: back from the node that ended last, always to the need that ended last.
    pub fn critical_path(&self) -> Vec<(&NodeLabel, &NodeHistory, Duration)> {
        let ran = |(label, node): (&NodeLabel, _)| {
            let node: &NodeHistory = node;
            let (label, _) = self.nodes.get_key_value(label)?;
            Some((node.finished?, node.started?, label))
        };
        let mut path = Vec::new();
        let mut next = self.nodes.iter().filter_map(ran).max_by(|left, right| (left.0, right.2).cmp(&(right.0, left.2)));
        while let Some((_, started, label)) = next {
            let Some(node) = self.nodes.get(label) else { break };
            let needs = node.needs.iter().filter_map(|need| ran((need, self.nodes.get(need)?)));
            // a need that ended after its dependant began is none: records of a damaged run must not lead in circles
            next = needs.filter(|need| need.0 <= started && need.1 < started).max_by_key(|need| need.0);
            let ready = next.map(|need| need.0).or(self.began.as_ref().map(|began| began.at)).unwrap_or(started);
            path.push((label, node, started.since(ready)));
        }
        path.reverse();
        path
    }

    fn node(&mut self, label: &NodeLabel, kind: NodeKind) -> &mut NodeHistory {
        self.nodes.entry(label.clone()).or_insert_with(|| NodeHistory {
            kind,
            reasons: Vec::new(),
            needs: Vec::new(),
            started: None,
            finished: None,
            duration_ms: 0,
            attempts: Vec::new(),
            outcome: None,
            image: None,
        })
    }
}

fn kind_of(label: &NodeLabel) -> NodeKind {
    match label {
        NodeLabel::Outside(_) => NodeKind::Base,
        NodeLabel::Entry(_) => NodeKind::Image,
        NodeLabel::Test(..) => NodeKind::Test,
        NodeLabel::Tag(..) => NodeKind::Tag,
        NodeLabel::Push(..) => NodeKind::Push,
    }
}

impl Fold for History {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, at, igraph, verb, patterns, engine, scope, reason, .. } => {
                self.began = Some(Began {
                    run: run.clone(),
                    at: *at,
                    igraph: igraph.clone(),
                    verb: verb.clone(),
                    patterns: patterns.clone(),
                    engine: engine.clone(),
                    scope: *scope,
                    reason: reason.clone(),
                });
            }
            Event::Warning { node, message, .. } => self.warnings.push((node.clone(), message.clone())),
            Event::NodeStarted { at, node, kind, reasons, needs } => {
                let history = self.node(node, *kind);
                history.started = Some(*at);
                history.kind = *kind;
                history.reasons.clone_from(reasons);
                history.needs.clone_from(needs);
            }
            Event::AttemptStarted { at, node, attempt, log, .. } => {
                self.tails.insert(node.clone(), Tail::new(FAILED_LINES));
                let history = self.node(node, kind_of(node));
                history.started.get_or_insert(*at);
                let log = log.clone();
                let attempt =
                    AttemptHistory { attempt: *attempt, at: *at, until: None, log, failure: None, delay_ms: None, tail: Vec::new() };
                history.attempts.push(attempt);
            }
            Event::Output { node, line, .. } => {
                if let Some(tail) = self.tails.get_mut(node) {
                    tail.push(line);
                }
            }
            Event::Progress { .. } => {}
            Event::AttemptFailed { at, node, failure, delay_ms, .. } => {
                let tail = self.tails.remove(node);
                if let Some(attempt) = self.node(node, kind_of(node)).attempts.last_mut() {
                    attempt.until = Some(*at);
                    attempt.failure = Some(failure.clone());
                    attempt.delay_ms = *delay_ms;
                    attempt.tail = tail.map(|tail| tail.lines().map(str::to_owned).collect()).unwrap_or_default();
                }
            }
            Event::NodeFinished { at, node, kind, outcome, reasons, duration_ms, image, .. } => {
                self.tails.remove(node);
                let history = self.node(node, *kind);
                history.kind = *kind;
                history.finished = Some(*at);
                history.duration_ms = *duration_ms;
                history.outcome = Some(outcome.clone());
                history.reasons.clone_from(reasons);
                history.image = image.or(match outcome {
                    Outcome::Succeeded { image, .. } => *image,
                    _ => None,
                });
                if let Some(attempt) = history.attempts.last_mut() {
                    attempt.until.get_or_insert(*at);
                }
            }
            Event::RunFinished { at, duration_ms, exit_code, stopped_by } => {
                let stopped_by = stopped_by.clone();
                self.ended = Some(Ended { at: *at, duration_ms: *duration_ms, exit_code: *exit_code, stopped_by });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Counts;
    use crate::report::script::{Script, good, label, mixed};

    #[test]
    fn attempts_and_tails_are_kept() {
        let history = History::of(&mixed().events);
        let flaky = &history.nodes[&label("//debian/jessie:4.2.1[test/http]")];
        assert_eq!(flaky.attempts.len(), 2);
        assert_eq!((flaky.attempts[0].tail.as_slice(), flaky.attempts[0].delay_ms), (&["curl: (56) reset".to_owned()][..], Some(900)));
        assert!(flaky.attempts[1].failure.is_none() && flaky.attempts[1].until.is_some());
        assert_eq!(flaky.earlier_failures().count(), 1);
        assert!(history.tails.is_empty());
        assert_eq!(history.nodes.len(), 7);
    }

    #[test]
    fn the_critical_path_follows_the_need_that_ended_last() {
        let counts = Counts { images: 4, ..Counts::default() };
        let script = Script::new("build", counts, counts, Counts::default())
            .start("//a:base", &[])
            .start("//a:quick", &[])
            .wait(1000)
            .end("//a:quick", good(), &[], 1, 1000)
            .wait(4000)
            .end("//a:base", good(), &[], 1, 5000)
            .wait(500)
            .start_after("//a:top", &[], &["//a:base", "//a:quick", "//a:unknown"])
            .wait(2000)
            .end("//a:top", good(), &[], 1, 2000)
            .end("//a:other", Outcome::Fresh, &[], 0, 0)
            .finish(0, None);
        let history = History::of(&script.events);
        let path: Vec<_> = history.critical_path().into_iter().map(|(label, _, wait)| (label.to_string(), wait.as_millis())).collect();
        assert_eq!(path, [("//a:base".to_owned(), 0), ("//a:top".to_owned(), 500)]);
        assert!(History::default().critical_path().is_empty());
    }

    #[test]
    fn needs_in_a_circle_end() {
        let script = Script::new("build", Counts::default(), Counts::default(), Counts::default())
            .start_after("//a:1", &[], &["//a:2", "//a:1"])
            .start_after("//a:2", &[], &["//a:1"])
            .end("//a:1", good(), &[], 1, 0)
            .end("//a:2", good(), &[], 1, 0);
        assert_eq!(History::of(&script.events).critical_path().len(), 1);
    }
}
