//! The lock's text. Knows the format and its versions, no file and no meaning.
//!
//! RON, one entry of a few lines for each reference and platform, and for each node whose freshness a policy looks after,
//! sorted; the same lock is always the same bytes:
//!
//! ```ron
//! // made by igraph, moved by `igraph update`; commit it
//! Lock(version: 1, bases: [
//!     (
//!         reference: "docker.io/library/debian:bookworm",
//!         platform: "linux/amd64",
//!         index: "sha256:…",
//!         manifest: "sha256:…",
//!         config: "sha256:…",
//!         time: "2026-11-23T18:27:00Z",
//!         candidate: (manifest: "sha256:…", seen: "2026-11-24T02:00:00Z"),
//!     ),
//! ], nodes: [
//!     (label: "//debian/jessie:4.2.1", since: "2026-11-20T02:00:00Z"),
//!     (label: "//debian/wheezy:4.2.1", renewed: "2026-11-23T02:00:00Z", policy: "refresh"),
//! ])
//! ```
//!
//! `candidate` is what the reference has moved to and has yet to stand as long as `settle` says. Of a node, `since` is when
//! its age began to be counted, which is in no key; `renewed` is its stamp, which is. Both came later and may be missing.

use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;

use super::{Candidate, Lock, LockedBase, Policy, Renewal};
use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::label::Label;
use crate::platform::Platform;
use crate::problem::{Problem, Source};
use crate::reference::Reference;

/// The version that is written.
const VERSION: u32 = 1;

const HEADER: &str = "// made by igraph, moved by `igraph update`; commit it\n";

/// Of a lock of any version.
#[derive(Deserialize)]
#[serde(rename = "Lock")]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
#[serde(rename = "Lock", deny_unknown_fields)]
struct FileV1 {
    #[expect(dead_code, reason = "read as `Head` before")]
    version: u32,
    bases: Vec<BaseV1>,
    #[serde(default)]
    nodes: Vec<NodeV1>,
}

#[derive(Deserialize)]
#[serde(rename = "base", deny_unknown_fields)]
struct BaseV1 {
    reference: Reference,
    platform: Platform,
    #[serde(default)]
    index: Option<Digest>,
    manifest: Digest,
    config: ImageId,
    time: String,
    #[serde(default)]
    candidate: Option<CandidateV1>,
}

#[derive(Deserialize)]
#[serde(rename = "candidate", deny_unknown_fields)]
struct CandidateV1 {
    manifest: Digest,
    seen: String,
}

#[derive(Deserialize)]
#[serde(rename = "node", deny_unknown_fields)]
struct NodeV1 {
    label: Label,
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    renewed: Option<String>,
    #[serde(default)]
    policy: Option<String>,
}

impl Lock {
    /// Reads a lock from the text of `path`.
    ///
    /// # Errors
    /// Where the text is no lock of a version known here, has the marks of an unfinished merge, or an entry twice.
    pub fn parse(text: &str, path: &str) -> Result<Self, Vec<Problem>> {
        let source = Arc::new(Source { path: path.to_owned(), text: text.to_owned() });
        let conflicts = conflicts(&source);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        let fail = |error: ron::error::SpannedError| vec![syntax_problem(&source, &error)];
        let head: Head = options.from_str(text).map_err(fail)?;
        if head.version != VERSION {
            return Err(vec![version_problem(&source, head.version)]);
        }
        let file: FileV1 = options.from_str(text).map_err(fail)?;
        let mut reading = Reading { source: &source, lock: Self::default(), problems: Vec::new() };
        let mut places = text.match_indices("reference").map(|(at, _)| at);
        for entry in file.bases {
            reading.base(entry, places.next().unwrap_or(0));
        }
        let mut places = text.match_indices("label").map(|(at, _)| at);
        for entry in file.nodes {
            reading.node(entry, places.next().unwrap_or(0));
        }
        if reading.problems.is_empty() { Ok(reading.lock) } else { Err(reading.problems) }
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = format!("{HEADER}Lock(version: {VERSION}, bases: [\n");
        // writing to a String can't fail
        for ((reference, platform), base) in &self.bases {
            let index = base.index.map(|index| format!("        index: \"{index}\",\n")).unwrap_or_default();
            let candidate = base.candidate.as_ref().map(|candidate| {
                format!("        candidate: (manifest: \"{}\", seen: \"{}\"),\n", candidate.manifest, candidate.seen.to_rfc3339())
            });
            let _ = write!(
                text,
                "    (\n        reference: \"{reference}\",\n        platform: \"{platform}\",\n{index}        manifest: \"{}\",\n        config: \"{}\",\n        time: \"{}\",\n{}    ),\n",
                base.manifest,
                base.config,
                base.time.to_rfc3339(),
                candidate.unwrap_or_default(),
            );
        }
        if !self.nodes.is_empty() {
            text.push_str("], nodes: [\n");
        }
        for (label, renewal) in &self.nodes {
            let at = renewal.at.to_rfc3339();
            let _ = match renewal.policy {
                None => writeln!(text, "    (label: \"{label}\", since: \"{at}\"),"),
                Some(policy) => writeln!(text, "    (label: \"{label}\", renewed: \"{at}\", policy: \"{policy}\"),"),
            };
        }
        text.push_str("])\n");
        text
    }
}

/// A lock on its way out of its text.
struct Reading<'s> {
    source: &'s Arc<Source>,
    lock: Lock,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn time(&mut self, text: &str, place: usize) -> Option<Timestamp> {
        let time = Timestamp::parse_rfc3339(text);
        if time.is_none() {
            let problem = Problem::new(format!("`{text}` is no time")).hint("write it like `2026-11-23T18:27:00Z`");
            self.problems.push(at_text(problem, self.source, place, text));
        }
        time
    }

    fn base(&mut self, entry: BaseV1, place: usize) {
        let Some(time) = self.time(&entry.time, place) else { return };
        let candidate = match entry.candidate {
            None => None,
            Some(candidate) => {
                let Some(seen) = self.time(&candidate.seen, place) else { return };
                Some(Candidate { manifest: candidate.manifest, seen })
            }
        };
        let base = LockedBase { index: entry.index, manifest: entry.manifest, config: entry.config, time, candidate };
        let key = (entry.reference, entry.platform);
        if self.lock.bases.contains_key(&key) {
            let problem = Problem::new(format!("`{}` for {} is locked twice", key.0, key.1));
            let problem = at_text(problem, self.source, place, &key.0.to_string());
            self.problems.push(problem.hint("remove one, and let `igraph update` resolve it anew"));
            return;
        }
        self.lock.bases.insert(key, base);
    }

    fn node(&mut self, entry: NodeV1, place: usize) {
        let label = entry.label.to_string();
        let (text, policy) = match (&entry.since, &entry.renewed, &entry.policy) {
            (Some(since), None, None) => (since, None),
            (None, Some(renewed), Some(word)) => match Policy::parse(word) {
                Some(policy) => (renewed, Some(policy)),
                None => {
                    let problem = Problem::new(format!("`{word}` renews nothing")).hint("a stamp is made by `refresh` or `probe`");
                    self.problems.push(at_text(problem, self.source, place, word));
                    return;
                }
            },
            _ => {
                let problem = Problem::new(format!("{label} has neither `since` nor `renewed` with its `policy`, or both"));
                let problem = at_text(problem, self.source, place, &label);
                self.problems.push(problem.hint("remove the entry: `igraph update` then counts its age anew"));
                return;
            }
        };
        let Some(at) = self.time(text, place) else { return };
        if self.lock.nodes.insert(entry.label, Renewal { at, policy }).is_some() {
            let problem = Problem::new(format!("{label} is locked twice"));
            self.problems.push(at_text(problem, self.source, place, &label).hint("keep the entry with the later time"));
        }
    }
}

fn version_problem(source: &Arc<Source>, version: u32) -> Problem {
    let problem = Problem::new(format!("this lock has version {version}, and this igraph reads version {VERSION}"));
    at_text(problem, source, source.text.find("version").unwrap_or(0), &version.to_string())
        .hint("a newer igraph wrote it: use that, or restore an older lock")
}

/// Points at the first place from `start` on where `text` stands.
fn at_text(problem: Problem, source: &Arc<Source>, start: usize, text: &str) -> Problem {
    match source.text[start..].find(text) {
        Some(at) => problem.at(source, start + at..start + at + text.len()),
        None => problem.at(source, start..start),
    }
}

/// The marks that git and its like leave in a file.
fn conflicts(source: &Arc<Source>) -> Vec<Problem> {
    let mut at = 0;
    for line in source.text.split_inclusive('\n') {
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") || line.trim_end() == "=======" {
            let problem = Problem::new("this lock holds an unfinished merge").at(source, at..at + line.trim_end().len());
            return vec![problem.hint("take either side whole, then `igraph update` what should be newer")];
        }
        at += line.len();
    }
    Vec::new()
}

fn syntax_problem(source: &Arc<Source>, error: &ron::error::SpannedError) -> Problem {
    let offset = |position: &ron::error::Position| {
        let line: usize = source.text.split_inclusive('\n').take(position.line.saturating_sub(1)).map(str::len).sum();
        let column: usize = source.text[line..].chars().take(position.col.saturating_sub(1)).map(char::len_utf8).sum();
        line + column
    };
    let (start, end) = (offset(&error.span.start), offset(&error.span.end));
    let code = error.code.to_string();
    let mut letters = code.chars();
    let code: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    Problem::new(format!("this lock can't be read: {code}"))
        .at(source, start.min(end)..end)
        .hint("restore it, or remove it and let igraph resolve all bases anew")
}
