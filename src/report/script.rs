//! Scripted event streams for tests: a run told in few words, with a clock that only moves when told to.

use super::fold::Fold;
use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::event::{Counts, Event, NodeKind, Outcome, Stream};
use crate::failure::Failure;
use crate::label::NodeLabel;
use crate::reason::Reason;

/// 2026-11-23T18:27:00Z.
pub const START: Timestamp = Timestamp(1_795_458_420_000);

/// Makes events.
pub struct Script {
    pub events: Vec<Event>,
    now: Timestamp,
}

pub fn label(text: &str) -> NodeLabel {
    text.parse().unwrap()
}

pub fn image(text: &str) -> ImageId {
    ImageId(Digest::of(text.as_bytes()))
}

pub fn changed(path: &str) -> Reason {
    Reason::InputChanged { path: path.into(), old: "a".into(), new: "b".into() }
}

pub fn good() -> Outcome {
    Outcome::Succeeded { image: None, changed: true }
}

fn kind(node: &NodeLabel) -> NodeKind {
    match node {
        NodeLabel::Outside(_) => NodeKind::Base,
        NodeLabel::Entry(_) => NodeKind::Image,
        NodeLabel::Test(..) => NodeKind::Test,
        NodeLabel::Tag(..) => NodeKind::Tag,
        NodeLabel::Push(..) => NodeKind::Push,
    }
}

impl Script {
    pub fn new(verb: &str, scope: Counts, stale: Counts, maybe: Counts) -> Self {
        let started = Event::RunStarted {
            run: "7f3k".into(),
            at: START,
            igraph: "0.1.0".into(),
            verb: verb.into(),
            patterns: vec!["//...".into()],
            engine: "fake".into(),
            scope,
            stale,
            maybe,
            reason: None,
        };
        Self { events: vec![started], now: START }
    }

    pub fn push(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    pub fn wait(mut self, milliseconds: i64) -> Self {
        self.now.0 += milliseconds;
        self
    }

    pub fn warn(self, node: Option<&str>, message: &str) -> Self {
        let at = self.now;
        self.push(Event::Warning { at, node: node.map(label), message: message.into() })
    }

    pub fn start(self, node: &str, reasons: &[Reason]) -> Self {
        self.start_after(node, reasons, &[])
    }

    pub fn start_after(self, node: &str, reasons: &[Reason], needs: &[&str]) -> Self {
        let (at, node) = (self.now, label(node));
        let needs = needs.iter().map(|need| label(need)).collect();
        self.push(Event::NodeStarted { at, kind: kind(&node), node, reasons: reasons.to_vec(), needs })
    }

    pub fn attempt(self, node: &str, attempt: u32, of: u32) -> Self {
        let at = self.now;
        let log = format!("{}-{attempt}.log", node.trim_start_matches('/').replace(['/', ':', '[', ']'], "-"));
        self.push(Event::AttemptStarted { at, node: label(node), attempt, of, log })
    }

    pub fn output(self, node: &str, lines: &[&str]) -> Self {
        let line = |line: &&str| Event::Output { node: label(node), stream: Stream::Stdout, line: (*line).into() };
        lines.iter().map(line).fold(self, Self::push)
    }

    pub fn attempt_failed(self, node: &str, attempt: u32, failure: &Failure, delay_ms: Option<u64>) -> Self {
        let at = self.now;
        self.push(Event::AttemptFailed { at, node: label(node), attempt, failure: failure.clone(), delay_ms })
    }

    pub fn end(self, node: &str, outcome: Outcome, reasons: &[Reason], attempts: u32, duration_ms: u64) -> Self {
        let (at, node) = (self.now, label(node));
        let image = node.entry().filter(|_| outcome.is_good()).map(|entry| image(&entry.to_string()));
        let outcome = match outcome {
            Outcome::Succeeded { changed, .. } if matches!(node, NodeLabel::Entry(_)) => Outcome::Succeeded { image, changed },
            other => other,
        };
        let (kind, reasons) = (kind(&node), reasons.to_vec());
        self.push(Event::NodeFinished { at, node, kind, outcome, reasons, attempts, duration_ms, image })
    }

    /// Start, one attempt, success.
    pub fn whole(self, node: &str, reasons: &[Reason], duration_ms: u64) -> Self {
        let wait = i64::try_from(duration_ms).unwrap();
        self.start(node, reasons).attempt(node, 1, 4).wait(wait).end(node, good(), reasons, 1, duration_ms)
    }

    /// Start, one attempt, failure.
    pub fn fails(self, node: &str, failure: &Failure, duration_ms: u64) -> Self {
        let wait = i64::try_from(duration_ms).unwrap();
        let started = self.start(node, &[Reason::NeverBuilt]).attempt(node, 1, 4).wait(wait).attempt_failed(node, 1, failure, None);
        started.end(node, Outcome::Failed { failure: failure.clone() }, &[Reason::NeverBuilt], 1, duration_ms)
    }

    pub fn skip(self, node: &str, cause: &str) -> Self {
        self.end(node, Outcome::Skipped { cause: label(cause) }, &[], 0, 0)
    }

    pub fn finish(self, exit_code: u8, stopped_by: Option<&str>) -> Self {
        let (at, duration_ms) = (self.now, u64::try_from(self.now.0 - START.0).unwrap());
        self.push(Event::RunFinished { at, duration_ms, exit_code, stopped_by: stopped_by.map(str::to_owned) })
    }

    pub fn tell(&self, fold: &mut dyn Fold) {
        self.events.iter().for_each(|event| fold.apply(event));
    }
}

/// The run of DESIGN §10's example, shortened.
pub fn mixed() -> Script {
    let counts = |images, tests| Counts { images, tests, ..Counts::default() };
    let http = "//debian/jessie:4.2.1[test/http]";
    let reset = Failure::step("connection reset").exit_code(7);
    let broken = Failure::step("exit 100 at RUN apt-get update (Dockerfile:7)").exit_code(100);
    Script::new("test", counts(3, 4), counts(2, 2), counts(0, 1))
        .start("//debian/jessie:4.2.1", &[changed("node/4.2.1/Dockerfile")])
        .attempt("//debian/jessie:4.2.1", 1, 4)
        .start("//ubuntu/trusty:0.12", &[Reason::NeverBuilt])
        .attempt("//ubuntu/trusty:0.12", 1, 4)
        .end("//debian/wheezy:4.2.1", Outcome::Fresh, &[], 0, 0)
        .end("//debian/wheezy:4.2.1[test/http]", Outcome::Fresh, &[], 0, 0)
        .end("//debian/wheezy:4.2.1[test/smoke]", Outcome::Fresh, &[], 0, 0)
        .output("//ubuntu/trusty:0.12", &["Get:1 trusty", "Err:2 trusty", "\x1b[31mE: Failed to fetch\x1b[0m <x> & y", ""])
        .wait(12_400)
        .end("//debian/jessie:4.2.1", good(), &[changed("node/4.2.1/Dockerfile"), changed("start.sh")], 1, 12_400)
        .start_after(http, &[Reason::NeverBuilt], &["//debian/jessie:4.2.1"])
        .attempt(http, 1, 3)
        .output(http, &["curl: (56) reset"])
        .wait(1_000)
        .attempt_failed(http, 1, &reset, Some(900))
        .wait(900)
        .attempt(http, 2, 3)
        .output(http, &["ok"])
        .wait(1_000)
        .end(http, Outcome::Flaky { failures: vec![reset] }, &[Reason::NeverBuilt], 2, 2_900)
        .wait(28_700)
        .attempt_failed("//ubuntu/trusty:0.12", 1, &broken, None)
        .end("//ubuntu/trusty:0.12", Outcome::Failed { failure: broken }, &[Reason::NeverBuilt], 1, 44_000)
        .skip("//ubuntu/trusty:0.12[test/http]", "//ubuntu/trusty:0.12")
        .finish(1, None)
}
