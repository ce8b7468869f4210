//! How `outdated` and `update` show a survey: a line for each thing that moves or waits, or a JSON document.

use serde::Serialize;

use super::error::Error;
use super::program::Context;
use super::survey::{BaseFinding, BaseVerdict, NodeFinding, NodeVerdict, Probing, Radius, Survey};
use crate::digest::Digest;
use crate::event::NodeKind;
use crate::failure::Failure;
use crate::label::{Label, NodeLabel};
use crate::lock::Policy;
use crate::platform::Platform;
use crate::spec::render_duration;

/// The document of `--json`; docs/ci.md describes it.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    at: String,
    /// Of `update`: whether the lock was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<bool>,
    bases: Vec<BaseRow<'a>>,
    nodes: Vec<NodeRow<'a>>,
    /// All that is to be done again, each thing once.
    total: RadiusRow<'a>,
}

#[derive(Serialize)]
struct BaseRow<'a> {
    reference: String,
    platform: &'a Platform,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
    #[serde(flatten)]
    radius: RadiusRow<'a>,
}

#[derive(Serialize)]
struct NodeRow<'a> {
    label: &'a Label,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// `same`, `otherwise`, `first`, `nothing` or `stale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    came: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    went: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
    #[serde(flatten)]
    radius: RadiusRow<'a>,
}

#[derive(Serialize)]
struct RadiusRow<'a> {
    images: Vec<&'a NodeLabel>,
    tests: Vec<&'a NodeLabel>,
    names: Vec<&'a str>,
    last_ms: u64,
}

impl<'a> From<&'a Radius> for RadiusRow<'a> {
    fn from(radius: &'a Radius) -> Self {
        Self {
            images: radius.images.iter().collect(),
            tests: radius.tests.iter().collect(),
            names: radius.names.iter().map(String::as_str).collect(),
            last_ms: radius.last_ms(),
        }
    }
}

/// Prints the document; `written` is for `update`.
pub fn json(survey: &Survey, written: Option<bool>, context: &Context<'_>) -> Result<(), Error> {
    let total = survey.radius();
    let document = Document {
        schema: if written.is_some() { "igraph.update" } else { "igraph.outdated" },
        version: 1,
        at: survey.at.to_rfc3339(),
        written,
        bases: survey.bases.iter().map(base_row).collect(),
        nodes: survey.nodes.iter().map(node_row).collect(),
        total: RadiusRow::from(&total),
    };
    context.printer.document(|out| {
        serde_json::to_writer_pretty(&mut *out, &document)?;
        writeln!(out)
    })
}

fn base_row(base: &BaseFinding) -> BaseRow<'_> {
    let mut row = BaseRow {
        reference: base.reference.to_string(),
        platform: &base.platform,
        state: "unchanged",
        locked: base.locked.as_ref().map(|locked| locked.manifest),
        locked_at: base.locked.as_ref().map(|locked| locked.time.to_rfc3339()),
        now: None,
        first_seen: None,
        counts_at: None,
        until: None,
        failure: None,
        radius: RadiusRow::from(&base.radius),
    };
    match &base.verdict {
        Ok(BaseVerdict::Same { .. }) => row.now = row.locked,
        Ok(BaseVerdict::Moved { new, seen }) => {
            (row.state, row.now, row.first_seen) = ("moved", Some(new.manifest), seen.map(|seen| seen.to_rfc3339()));
        }
        Ok(BaseVerdict::Settling { new, candidate, until }) => {
            (row.state, row.now) = ("settling", Some(new.manifest));
            (row.first_seen, row.counts_at) = (Some(candidate.seen.to_rfc3339()), Some(until.to_rfc3339()));
        }
        Ok(BaseVerdict::New(new)) => (row.state, row.now) = ("new", Some(new.manifest)),
        Ok(BaseVerdict::Ended(day)) => (row.state, row.until) = ("ended", Some(day.to_string())),
        Err(failure) => (row.state, row.failure) = ("failed", Some(failure)),
    }
    row
}

fn node_row(node: &NodeFinding) -> NodeRow<'_> {
    let mut row = NodeRow {
        label: &node.label,
        state: "fresh",
        policy: None,
        since: node.renewal.map(|renewal| renewal.at.to_rfc3339()),
        expires: None,
        until: node.freshness.until.map(|day| day.to_string()),
        probe: node.probed.as_ref().map(|probed| match probed {
            Probing::Same => "same",
            Probing::Otherwise { .. } => "otherwise",
            Probing::First(_) => "first",
            Probing::Nothing(_) => "nothing",
            Probing::Stale => "stale",
        }),
        came: None,
        went: None,
        failure: None,
        radius: RadiusRow::from(&node.radius),
    };
    if let Some(Probing::Otherwise { came, went }) = &node.probed {
        (row.came, row.went) = (Some(came.as_slice()), Some(went.as_slice()));
    }
    match &node.verdict {
        Ok(NodeVerdict::Counted(since)) => (row.state, row.since) = ("counted", Some(since.to_rfc3339())),
        Ok(NodeVerdict::Fresh(expires)) => row.expires = expires.map(|expires| expires.to_rfc3339()),
        Ok(NodeVerdict::Due { policy, since }) => {
            (row.state, row.policy, row.since) = ("due", Some(policy.to_string()), since.map(|since| since.to_rfc3339()));
        }
        Ok(NodeVerdict::Ended(_)) => row.state = "ended",
        Err(failure) => (row.state, row.failure) = ("failed", Some(failure)),
    }
    row
}

/// Prints a line of fields for each thing that moves or waits; all others with `--verbose`.
pub fn text(survey: &Survey, context: &Context<'_>) -> Result<(), Error> {
    let all = context.global.verbose;
    for base in &survey.bases {
        let name = base.name();
        let locked = base.locked.as_ref().map(|locked| locked.manifest.short()).unwrap_or_default();
        let since = base.locked.as_ref().map(|locked| locked.time.to_rfc3339()).unwrap_or_default();
        let what = match &base.verdict {
            Ok(BaseVerdict::Moved { new, seen }) => {
                let seen = seen.map(|seen| format!(", first seen {}", seen.to_rfc3339())).unwrap_or_default();
                format!("moved {locked} → {}\tlocked {since}{seen}", new.manifest.short())
            }
            Ok(BaseVerdict::Settling { new, candidate, until }) => {
                let (seen, until) = (candidate.seen.to_rfc3339(), until.to_rfc3339());
                format!("settling {locked} → {}\tfirst seen {seen}, counts at {until}", new.manifest.short())
            }
            Ok(BaseVerdict::New(new)) => format!("not locked yet: {}\t", new.manifest.short()),
            Ok(BaseVerdict::Same { .. }) if all => format!("unchanged {locked}\tlocked {since}"),
            Ok(BaseVerdict::Ended(day)) if all => format!("kept {locked}\tsince {day}"),
            Ok(BaseVerdict::Same { .. } | BaseVerdict::Ended(_)) | Err(_) => continue,
        };
        context.printer.line(format_args!("{name}\t{what}\t{}", radius_text(&base.radius)))?;
    }
    for node in &survey.nodes {
        let refresh = node.freshness.refresh.map(render_duration).unwrap_or_default();
        let what = match &node.verdict {
            Ok(NodeVerdict::Due { policy, since }) => {
                let since = since.map(|since| since.to_rfc3339()).unwrap_or_default();
                match policy {
                    Policy::Refresh => format!("refresh {refresh}\tsince {since}"),
                    Policy::Probe => format!("probe{}\tsince {since}", changes(node.probed.as_ref())),
                }
            }
            Ok(_) if matches!(node.probed, Some(Probing::Nothing(_))) => {
                let Some(Probing::Nothing(why)) = &node.probed else { continue };
                format!("probe gives no answer\t{why}")
            }
            Ok(_) if all && node.probed == Some(Probing::Stale) => "probe not run\tit is not built yet with its inputs".to_owned(),
            Ok(NodeVerdict::Counted(since)) if all => format!("refresh {refresh}\tcounted from {}", since.to_rfc3339()),
            Ok(NodeVerdict::Fresh(Some(until))) if all => format!("fresh\tuntil {}", until.to_rfc3339()),
            Ok(NodeVerdict::Fresh(None)) if all => "fresh\t".to_owned(),
            Ok(NodeVerdict::Ended(day)) if all => format!("kept\tsince {day}"),
            _ => continue,
        };
        context.printer.line(format_args!("{}\t{what}\t{}", node.label, radius_text(&node.radius)))?;
    }
    Ok(())
}

/// The first lines that came and went: `: +openssl [3.0.11], -curl and 3 more`.
fn changes(probed: Option<&Probing>) -> String {
    let Some(Probing::Otherwise { came, went }) = probed else { return String::new() };
    let all: Vec<String> = came.iter().map(|line| format!("+{line}")).chain(went.iter().map(|line| format!("-{line}"))).collect();
    let more = if all.len() > 3 { format!(" and {} more", all.len() - 3) } else { String::new() };
    format!(": {}{more}", all.iter().take(3).cloned().collect::<Vec<_>>().join(", "))
}

/// `12 images, 20 tests, 40 names, 14m last time`.
pub fn radius_text(radius: &Radius) -> String {
    let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    let last = match radius.last_ms() / 1000 {
        0 => String::new(),
        seconds => format!(", {} last time", render_duration(std::time::Duration::from_secs(seconds))),
    };
    format!("{}, {}, {}{last}", count(radius.images.len(), "image"), count(radius.tests.len(), "test"), count(radius.names.len(), "name"))
}

/// Tells what could not be asked, each trouble once.
pub fn failures(survey: &Survey, context: &Context<'_>) -> super::exit::Exit {
    let failures = survey.failures();
    let mut told: Vec<(&Failure, Vec<&str>)> = Vec::new();
    for (name, failure) in &failures {
        match told.iter_mut().find(|(other, _)| other.group.is_some() && other.group == failure.group) {
            Some((_, names)) => names.push(name),
            None => told.push((failure, vec![name])),
        }
    }
    for (failure, names) in told {
        let message = format!("{}: {}", names.join(", "), failure.message);
        context.printer.error(&Error::Failure(Failure { message, ..failure.clone() }));
    }
    super::exit::Exit::of_failures(failures.iter().map(|(_, failure)| (NodeKind::Base, failure)))
}
