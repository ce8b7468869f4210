//! The run as a Chrome trace ("Trace Event Format", object form): a lane for each slot, a bar for each attempt and each wait
//! between attempts. Knows a run's history.

use std::io::{self, Write};

use serde::Serialize;

use super::history::History;
use crate::clock::Timestamp;
use crate::event::NodeKind;
use crate::label::NodeLabel;

/// Name of the form: igraph's, around the trace's own.
pub const TRACE_SCHEMA: &str = "igraph.trace";
/// Version of the form.
pub const TRACE_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    #[serde(rename = "displayTimeUnit")]
    display_time_unit: &'static str,
    #[serde(rename = "traceEvents")]
    trace_events: Vec<Bar<'a>>,
}

/// A complete event: `X`; times in microseconds since the run began.
#[derive(Serialize)]
struct Bar<'a> {
    name: String,
    cat: NodeKind,
    ph: &'static str,
    ts: u64,
    dur: u64,
    pid: u32,
    tid: usize,
    args: Args<'a>,
}

#[derive(Serialize)]
struct Args<'a> {
    label: &'a NodeLabel,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a str>,
}

/// Writes the trace of a run. Nodes that never started are not in it.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_trace(history: &History, mut out: impl Write) -> io::Result<()> {
    let zero = history.began.as_ref().map_or(Timestamp(0), |began| began.at);
    let last = history.ended.as_ref().map(|ended| ended.at);
    let micros = |from: Timestamp, to: Timestamp| u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX);
    let mut lanes: Vec<Timestamp> = Vec::new();
    let mut trace_events = Vec::new();
    for (label, node) in history.in_order() {
        let Some(started) = node.started else { continue };
        let newest = node.attempts.last().map(|attempt| attempt.until.unwrap_or(attempt.at));
        let finished = node.finished.or(last).or(newest).unwrap_or(started);
        let lane = lanes.iter().position(|free| *free <= started).unwrap_or(lanes.len());
        if lane == lanes.len() {
            lanes.push(finished);
        }
        lanes[lane] = finished;
        let reasons: Vec<String> = node.reasons.iter().map(ToString::to_string).collect();
        let bar = |name: String, from, to, failure| Bar {
            name,
            cat: node.kind,
            ph: "X",
            ts: micros(zero, from),
            dur: micros(from, to),
            pid: 1,
            tid: lane + 1,
            args: Args { label, reasons: Vec::new(), failure },
        };
        let mut whole = bar(label.to_string(), started, finished, None);
        whole.args.reasons = reasons;
        trace_events.push(whole);
        for attempt in &node.attempts {
            let until = attempt.until.unwrap_or(finished);
            let failure = attempt.failure.as_ref().map(|failure| failure.message.as_str());
            trace_events.push(bar(format!("try {}", attempt.attempt), attempt.at, until, failure));
            if let Some(delay) = attempt.delay_ms {
                let next = until.after(std::time::Duration::from_millis(delay)).min(finished);
                trace_events.push(bar("wait".to_owned(), until, next, None));
            }
        }
    }
    let document = Document { schema: TRACE_SCHEMA, version: TRACE_VERSION, display_time_unit: "ms", trace_events };
    serde_json::to_writer(&mut out, &document)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::script::mixed;

    #[test]
    fn bars_of_one_lane_lie_within_or_beside_each_other() {
        let mut out = Vec::new();
        write_trace(&History::of(&mixed().events), &mut out).unwrap();
        assert!(out.starts_with(b"{\"schema\":\"igraph.trace\",\"version\":1,"));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let bars = value["traceEvents"].as_array().unwrap();
        let line = |bar: &serde_json::Value| format!("{} {} {}+{}", bar["tid"], bar["name"].as_str().unwrap(), bar["ts"], bar["dur"]);
        insta::assert_snapshot!(bars.iter().map(line).collect::<Vec<_>>().join("\n"), @r#"
        1 //debian/jessie:4.2.1 0+12400000
        1 try 1 0+12400000
        2 //ubuntu/trusty:0.12 0+44000000
        2 try 1 0+44000000
        1 //debian/jessie:4.2.1[test/http] 12400000+2900000
        1 try 1 12400000+1000000
        1 wait 13400000+900000
        1 try 2 14300000+1000000
        "#);
        let range = |bar: &serde_json::Value| (bar["tid"].as_u64(), bar["ts"].as_u64().unwrap(), bar["dur"].as_u64().unwrap());
        for (left, right) in bars.iter().flat_map(|left| bars.iter().map(move |right| (range(left), range(right)))) {
            let within = |a: (Option<u64>, u64, u64), b: (Option<u64>, u64, u64)| a.1 >= b.1 && a.1 + a.2 <= b.1 + b.2;
            let apart = left.1 + left.2 <= right.1 || right.1 + right.2 <= left.1;
            assert!(left.0 != right.0 || apart || within(left, right) || within(right, left), "{left:?} {right:?}");
        }
    }
}
