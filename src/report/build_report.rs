//! The build report: one JSON document about a run, every node with its ending, reasons, attempts and image. Knows a run's
//! history. The form has a name and a version; additions keep the version.

use std::io::{self, Write};

use serde::Serialize;

use super::history::{AttemptHistory, History, NodeHistory};
use crate::digest::ImageId;
use crate::event::{Counts, NodeKind, Outcome};
use crate::failure::{Failure, FailureClass};
use crate::label::NodeLabel;
use crate::reason::Reason;

/// Name of the form.
pub const REPORT_SCHEMA: &str = "igraph.build-report";
/// Version of the form.
pub const REPORT_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    run: Option<&'a str>,
    igraph: Option<&'a str>,
    verb: Option<&'a str>,
    patterns: &'a [String],
    engine: Option<&'a str>,
    reason: Option<&'a str>,
    started: Option<String>,
    finished: Option<String>,
    duration_ms: Option<u64>,
    exit_code: Option<u8>,
    stopped_by: Option<&'a str>,
    scope: Counts,
    nodes: Vec<Node<'a>>,
    warnings: Vec<Warning<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    label: &'a NodeLabel,
    kind: NodeKind,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageId>,
    /// Whether it made something new; only where it ran and succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    /// Whose failure it was skipped for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a NodeLabel>,
    /// What blocks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView<'a>>,
    duration_ms: u64,
    reasons: Vec<ReasonView<'a>>,
    attempts: Vec<Attempt<'a>>,
}

#[derive(Serialize)]
struct ReasonView<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    text: String,
}

#[derive(Serialize)]
struct FailureView<'a> {
    class: FailureClass,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
}

#[derive(Serialize)]
struct Attempt<'a> {
    attempt: u32,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    log: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

#[derive(Serialize)]
struct Warning<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a NodeLabel>,
    message: &'a str,
}

/// Writes the report of a run, nodes sorted by label.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_build_report(history: &History, mut out: impl Write) -> io::Result<()> {
    let began = history.began.as_ref();
    let ended = history.ended.as_ref();
    let document = Document {
        schema: REPORT_SCHEMA,
        version: REPORT_VERSION,
        // a run that had nothing to do has no id: it is not recorded
        run: began.map(|began| began.run.as_str()).filter(|run| !run.is_empty()),
        igraph: began.map(|began| began.igraph.as_str()),
        verb: began.map(|began| began.verb.as_str()),
        patterns: began.map_or(&[], |began| began.patterns.as_slice()),
        engine: began.map(|began| began.engine.as_str()),
        reason: began.and_then(|began| began.reason.as_deref()),
        started: began.map(|began| began.at.to_rfc3339()),
        finished: ended.map(|ended| ended.at.to_rfc3339()),
        duration_ms: ended.map(|ended| ended.duration_ms),
        exit_code: ended.map(|ended| ended.exit_code),
        stopped_by: ended.and_then(|ended| ended.stopped_by.as_deref()),
        scope: began.map(|began| began.scope).unwrap_or_default(),
        nodes: history.nodes.iter().map(|(label, node)| view(label, node)).collect(),
        warnings: history.warnings.iter().map(|(label, message)| Warning { label: label.as_ref(), message }).collect(),
    };
    serde_json::to_writer_pretty(&mut out, &document)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn view<'a>(label: &'a NodeLabel, node: &'a NodeHistory) -> Node<'a> {
    let reasons = node.reasons.iter().map(|reason| ReasonView { reason, text: reason.to_string() }).collect();
    let mut view = Node {
        label,
        kind: node.kind,
        // every planned node gets an ending; only in a run that was killed has one none
        outcome: "unknown",
        image: node.image,
        changed: None,
        cause: None,
        blocked_by: None,
        failure: None,
        duration_ms: node.duration_ms,
        reasons,
        attempts: node.attempts.iter().map(attempt).collect(),
    };
    match &node.outcome {
        None => {}
        Some(Outcome::Fresh) => view.outcome = "fresh",
        Some(Outcome::Succeeded { changed, .. }) => (view.outcome, view.changed) = ("succeeded", Some(*changed)),
        Some(Outcome::Flaky { .. }) => view.outcome = "flaky",
        Some(Outcome::Failed { failure }) => (view.outcome, view.failure) = ("failed", Some(failure_view(failure))),
        Some(Outcome::Skipped { cause }) => (view.outcome, view.cause) = ("skipped", Some(cause)),
        Some(Outcome::Blocked { reason }) => (view.outcome, view.blocked_by) = ("blocked", Some(reason.as_str())),
        Some(Outcome::Cancelled) => view.outcome = "cancelled",
    }
    view
}

fn attempt(attempt: &AttemptHistory) -> Attempt<'_> {
    Attempt {
        attempt: attempt.attempt,
        started: attempt.at.to_rfc3339(),
        duration_ms: attempt.until.and_then(|until| u64::try_from(until.since(attempt.at).as_millis()).ok()),
        log: &attempt.log,
        failure: attempt.failure.as_ref().map(failure_view),
        delay_ms: attempt.delay_ms,
    }
}

fn failure_view(failure: &Failure) -> FailureView<'_> {
    FailureView {
        class: failure.class,
        message: &failure.message,
        hint: failure.hint.as_deref(),
        exit_code: failure.exit_code,
        group: failure.group.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::script::mixed;

    #[test]
    fn a_mixed_run() {
        let mut out = Vec::new();
        write_build_report(&History::of(&mixed().events), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("{\n  \"schema\": \"igraph.build-report\",\n  \"version\": 1,\n"));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_outcome_has_a_word() {
        let words = ["fresh", "succeeded", "flaky", "failed", "skipped", "blocked", "cancelled"];
        let outcomes = [
            Outcome::Fresh,
            Outcome::Succeeded { image: None, changed: true },
            Outcome::Flaky { failures: vec![] },
            Outcome::Failed { failure: Failure::step("x") },
            Outcome::Skipped { cause: "//a:b".parse().unwrap() },
            Outcome::Blocked { reason: "r".into() },
            Outcome::Cancelled,
        ];
        for (outcome, word) in outcomes.into_iter().zip(words) {
            // the words are those of the event stream
            assert_eq!(serde_json::to_value(&outcome).unwrap()["outcome"], word);
            let script = crate::report::script::Script::new("build", Counts::default(), Counts::default(), Counts::default());
            let history = History::of(&script.end("//x:1", outcome, &[], 1, 1).events);
            let mut out = Vec::new();
            write_build_report(&history, &mut out).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(value["nodes"][0]["outcome"], word);
        }
    }
}
