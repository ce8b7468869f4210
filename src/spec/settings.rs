//! The fields that an `Image` may leave to its `Package`, and those that several rules share. Knows one build file,
//! no other entry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Field, Fields, Schema, Sink, describe, wrong_type};
use super::freshness::freshness;
use super::model::{Freshness, Glob, RetryPolicy, Span};
use super::paths::{PathError, Paths};
use super::tree::{Call, Kind, Node};
use crate::access::{Network, SecretSource};
use crate::label::Package;
use crate::platform::Platform;
use crate::problem::{Problem, nearest};
use crate::scrub::Scrub;

/// What an `Image` says, and a `Package` for those of its images that don't.
pub const SETTINGS: &[Field] = &[
    ("dockerfile", "a string, like `\"node/Dockerfile\"`"),
    ("context", "a string, like `\".\"`"),
    ("target", "a string, like `\"runtime\"`"),
    ("args", "a map of strings, like `{\"VERSION\": \"4.2.1\"}`"),
    ("platform", "a string, like `\"linux/amd64\"`"),
    ("network", "a string: `\"default\"`, `\"host\"` or `\"none\"`"),
    ("secrets", "a map, like `{\"npm\": Env(\"NPM_TOKEN\")}` or `{\"npm\": File(\"npmrc\")}`"),
    ("ssh", "a list of strings, like `[\"default\"]`, or a map, like `{\"deploy\": Env(\"DEPLOY_SOCK\")}`"),
    ("extra_inputs", "a list of strings, like `[\"scripts/**\"]`"),
    ("untested", "a string that says why, like `\"only a parent of others\"`"),
    ("timeout", "a duration in a string, like `\"30m\"`"),
    ("retries", "a whole number, like `2`, or the full form, like `(max: 2, delay: \"2s\")`"),
    ("manual", "`true` or `false`"),
    ("scrub", "a list of known sets of files, like `[Debian]`"),
];

const RETRIES: Schema = Schema {
    rule: "retries",
    groups: &[&[
        ("max", "a whole number, like `3`"),
        ("delay", "a duration in a string, like `\"2s\"`"),
        ("backoff", "a number, like `2.0`"),
        ("max_delay", "a duration in a string, like `\"1m\"`"),
        ("max_wait", "a duration in a string, like `\"10m\"`"),
    ]],
};

/// The most retries that make sense.
const MOST_RETRIES: i64 = 100;

/// Where a build file lies.
pub struct Scope<'a> {
    /// Its package.
    pub package: &'a Package,
    /// Its folder.
    pub folder: &'a str,
    /// The workspace's folder.
    pub paths: &'a Paths,
    /// The workspace's policy.
    pub retries: RetryPolicy,
}

/// A retry policy of which some may be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct RetryChange {
    max: Option<u32>,
    delay: Option<Duration>,
    backoff: Option<f64>,
    max_delay: Option<Duration>,
    max_wait: Option<Duration>,
}

impl RetryChange {
    /// `policy` with what is said here.
    pub fn on(&self, policy: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max: self.max.unwrap_or(policy.max),
            delay: self.delay.unwrap_or(policy.delay),
            backoff: self.backoff.unwrap_or(policy.backoff),
            max_delay: self.max_delay.unwrap_or(policy.max_delay),
            max_wait: self.max_wait.unwrap_or(policy.max_wait),
        }
    }
}

/// Texts by text.
pub type Texts = BTreeMap<Arc<str>, Arc<str>>;

/// What was written of [`SETTINGS`].
#[derive(Default)]
pub struct Settings {
    pub dockerfile: Option<Arc<str>>,
    pub context: Option<Arc<str>>,
    pub target: Option<Arc<str>>,
    pub args: Texts,
    pub platform: Option<Platform>,
    pub network: Option<Network>,
    pub secrets: Option<BTreeMap<Arc<str>, SecretSource>>,
    pub ssh: Option<BTreeMap<Arc<str>, SecretSource>>,
    pub extra_inputs: Option<Vec<Glob>>,
    pub untested: Option<Arc<str>>,
    pub timeout: Option<Duration>,
    pub retries: RetryChange,
    pub manual: Option<bool>,
    pub freshness: Freshness,
    pub scrub: Option<BTreeSet<Scrub>>,
}

impl Settings {
    /// Takes them out of the fields of an `Image` or `Package`.
    pub fn take(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Self {
        Self {
            dockerfile: path(fields, "dockerfile", scope, sink),
            context: path(fields, "context", scope, sink),
            target: fields.filled("target", sink).map(|(text, _)| text.into()),
            args: variables(fields, "args", sink),
            platform: platform(fields, sink),
            network: network(fields, sink),
            secrets: secrets(fields, scope, sink),
            ssh: agents(fields, scope, sink),
            extra_inputs: globs(fields, "extra_inputs", scope, sink),
            untested: fields.filled("untested", sink).map(|(text, _)| text.into()),
            timeout: timeout(fields, sink),
            retries: retries(fields, scope.retries, sink),
            manual: fields.boolean("manual", sink),
            freshness: freshness(fields, sink),
            scrub: scrub(fields, sink),
        }
    }
}

fn report_path(error: &PathError, field: &str, span: Span, sink: &mut Sink<'_>) {
    match error {
        PathError::Empty => sink.report_hint(span, format!("`{field}` is empty"), "the package's own folder is `\".\"`"),
        PathError::Leaves { .. } | PathError::LinkLeaves { .. } => {
            sink.report_hint(span, error.to_string(), "a path may leave its package, not the workspace: bring the file in");
        }
        PathError::Absolute { path } => {
            let hint = format!("write it like `{}`, or with `..` to leave the package", path.trim_start_matches('/'));
            sink.report_hint(span, error.to_string(), hint);
        }
        _ => sink.report(span, error.to_string()),
    }
}

/// A path within the workspace.
pub fn path(fields: &Fields<'_, '_>, name: &str, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<Arc<str>> {
    let (text, span) = fields.text(name, sink)?;
    resolve(text, name, span, scope, sink)
}

/// A path within the workspace, from its text.
pub fn resolve(text: &str, name: &str, span: Span, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<Arc<str>> {
    scope.paths.resolve(scope.folder, text).map_err(|error| report_path(&error, name, span, sink)).ok()
}

/// A list of patterns within the workspace.
pub fn globs(fields: &Fields<'_, '_>, name: &str, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<Vec<Glob>> {
    let texts = fields.texts(name, sink)?;
    let mut globs = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        match scope.paths.resolve_glob(scope.folder, text) {
            Ok(glob) => globs.push(glob),
            Err(error) => report_path(&error, name, span, sink),
        }
    }
    Some(globs)
}

/// A map of variables to strings.
pub fn variables(fields: &Fields<'_, '_>, name: &str, sink: &mut Sink<'_>) -> Texts {
    let mut texts = Texts::new();
    for (key, span, node) in fields.map(name, sink).unwrap_or_default() {
        if !is_variable(key) {
            sink.report(span, format!("`{key}` is no name of a variable: those are letters, digits and `_`, the first no digit"));
        }
        match &node.kind {
            Kind::Text(text) => {
                texts.insert(key.into(), (&**text).into());
            }
            Kind::Broken => {}
            _ => wrong_type(key, "a string, like all values of variables", node, sink),
        }
    }
    texts
}

fn is_variable(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit()) && !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// Sets of files to leave out of layers.
fn scrub(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<BTreeSet<Scrub>> {
    let mut found = BTreeSet::new();
    for node in fields.list("scrub", sink)? {
        match &node.kind {
            Kind::Broken => {}
            Kind::Word(word) => match word.parse() {
                Ok(scrub) => drop(found.insert(scrub)),
                Err(_) => {
                    let known: Vec<String> = Scrub::ALL.iter().map(ToString::to_string).collect();
                    let problem = sink.at(node.span, format!("`scrub` knows no files of `{word}`"));
                    sink.problems.push(problem.hint(format!("it is `[{}]`", known.join(", "))));
                }
            },
            _ => fields.wrong("scrub", node, sink),
        }
    }
    Some(found)
}

/// What to build or test for.
pub fn platform(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<Platform> {
    let (text, span) = fields.text("platform", sink)?;
    text.parse().map_err(|error: crate::platform::ParsePlatformError| sink.report(span, error.to_string())).ok()
}

/// Which network there is.
pub fn network(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<Network> {
    let (text, span) = fields.text("network", sink)?;
    match text {
        "default" => Some(Network::Default),
        "host" => Some(Network::Host),
        "none" => Some(Network::None),
        _ => {
            let problem = sink.at(span, format!("there is no network `{text}`"));
            let near = nearest(text, ["default", "host", "none"]);
            sink.problems.push(match near {
                Some(near) => problem.hint(format!("did you mean `\"{near}\"`?")),
                None => problem.hint("it is `\"default\"`, `\"host\"` or `\"none\"`"),
            });
            None
        }
    }
}

/// A time limit.
pub fn timeout(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let (duration, span) = fields.duration("timeout", sink)?;
    if duration.is_zero() {
        sink.report_hint(span, "`timeout` is zero, so every attempt would fail", "leave it out for no limit");
        return None;
    }
    Some(duration)
}

/// A number of retries, or the full form; `policy` is what it changes.
pub fn retries(fields: &Fields<'_, '_>, policy: RetryPolicy, sink: &mut Sink<'_>) -> RetryChange {
    let limit = |max: Option<i64>| max.and_then(|max| u32::try_from(max).ok());
    let Some(node) = fields.find("retries") else { return RetryChange::default() };
    match &node.kind {
        Kind::Number(_) => RetryChange { max: limit(fields.whole("retries", 0, MOST_RETRIES, sink)), ..RetryChange::default() },
        Kind::Call(call) if call.name.is_none() => {
            let fields = Fields::of(call, node.span, &RETRIES, sink);
            let duration = |name, sink: &mut Sink<'_>| fields.duration(name, sink).map(|(duration, _)| duration);
            let change = RetryChange {
                max: limit(fields.whole("max", 0, MOST_RETRIES, sink)),
                delay: duration("delay", sink),
                backoff: fields.number("backoff", 1.0, 100.0, sink),
                max_delay: duration("max_delay", sink),
                max_wait: duration("max_wait", sink),
            };
            let result = change.on(policy);
            if result.delay > result.max_delay {
                let written = fields.find("delay").or_else(|| fields.find("max_delay")).map_or(node.span, |node| node.span);
                sink.report(written, "`delay` is longer than `max_delay`");
            }
            change
        }
        _ => {
            fields.wrong("retries", node, sink);
            RetryChange::default()
        }
    }
}

/// `Env("NAME")` or `File("path")`.
fn source(node: &Node<'_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<SecretSource> {
    let wrong = |sink: &mut Sink<'_>| {
        sink.problems.push(Problem::new("a source is `Env(\"VARIABLE\")` or `File(\"path\")`").at_with(
            sink.source,
            node.span.range(),
            describe(node),
        ));
        None
    };
    let Kind::Call(Call { name: Some((name, _)), items }) = &node.kind else {
        return if matches!(node.kind, Kind::Broken) { None } else { wrong(sink) };
    };
    let [item] = &items[..] else { return wrong(sink) };
    let (Kind::Text(text), None) = (&item.value.kind, item.name) else { return wrong(sink) };
    match *name {
        "Env" if is_variable(text) => Some(SecretSource::Env(text.clone().into_owned())),
        "Env" => {
            sink.report(item.value.span, format!("`{text}` is no name of an environment variable"));
            None
        }
        // a secret is no input: it may lie anywhere on the machine
        "File" if text.starts_with('/') => Some(SecretSource::File(PathBuf::from(&**text))),
        "File" => resolve(text, "File", item.value.span, scope, sink).map(|path| SecretSource::File(PathBuf::from(&*path))),
        _ => wrong(sink),
    }
}

fn sources(fields: &Fields<'_, '_>, name: &str, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<BTreeMap<Arc<str>, SecretSource>> {
    let mut sources = BTreeMap::new();
    for (id, span, node) in fields.map(name, sink)? {
        check_id(id, name, span, sink);
        if let Some(source) = source(node, scope, sink) {
            sources.insert(id.into(), source);
        }
    }
    Some(sources)
}

fn check_id(id: &str, name: &str, span: Span, sink: &mut Sink<'_>) {
    if id.is_empty() || id.contains(|c: char| c.is_whitespace() || c.is_control() || ",=".contains(c)) {
        sink.report(span, format!("an id in `{name}` is not empty, and has no white space, `,` or `=`"));
    }
}

fn secrets(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<BTreeMap<Arc<str>, SecretSource>> {
    sources(fields, "secrets", scope, sink)
}

/// A list of ids means the agent of `SSH_AUTH_SOCK`; a map says which socket: `Env` its variable, `File` its path.
fn agents(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Option<BTreeMap<Arc<str>, SecretSource>> {
    if matches!(fields.find("ssh")?.kind, Kind::Map(_)) {
        return sources(fields, "ssh", scope, sink);
    }
    let ids = fields.texts("ssh", sink)?;
    for (id, span) in &ids {
        check_id(id, "ssh", *span, sink);
    }
    Some(ids.into_iter().map(|(id, _)| (id.into(), SecretSource::Env("SSH_AUTH_SOCK".to_owned()))).collect())
}
