//! The root's build file: `Workspace(…)`. Knows no package.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::fields::{Fields, Schema, Sink, describe, wrong_type};
use super::model::{EngineChoice, Origin, RegistrySettings, RetryPolicy, Span, Tls, Workspace};
use super::names::Registry;
use super::paths::Paths;
use super::rules::report_rule;
use super::settings::{Scope, path, resolve, retries};
use super::tree::{Call, Kind, Node, read_tree};
use crate::image::Compression;
use crate::label::Package;
use crate::problem::{Problem, Source, nearest};

const WORKSPACE: Schema = Schema {
    rule: "Workspace",
    groups: &[&[
        ("packages", "a string, like `\"images\"`"),
        ("registry", "a string, like `\"docker.io\"`"),
        ("registries", "a map, like `{\"reg.corp:5000\": (tls: Off)}`"),
        ("engine", "`Embedded`, `Docker` or `Docker(host: \"unix:///var/run/docker.sock\")`"),
        ("epoch", "a whole number of seconds, like `315532800`"),
        ("jobs", "a whole number, like `4`"),
        ("compression", "`Gzip` or `Zstd`"),
        ("retries", "a whole number, like `3`, or the full form, like `(max: 3, delay: \"2s\")`"),
    ]],
};

const REGISTRY: Schema = Schema {
    rule: "registries",
    groups: &[&[("tls", "`Off` or `Ca(\"ca.pem\")`"), ("mirrors", "a list of strings, like `[\"mirror.corp\"]`")]],
};

const ENGINE: Schema = Schema { rule: "Docker", groups: &[&[("host", "a string, like `\"unix:///var/run/docker.sock\"`")]] };

/// 1980-01-01, the first day that a zip archive can say.
const EPOCH: i64 = 315_532_800;

/// The last second of the year 9999.
const LATEST_EPOCH: i64 = 253_402_300_799;

/// Reads the root's build file. `None` where it is no `Workspace(…)` at all.
pub fn read_workspace(source: &Arc<Source>, paths: &Paths, problems: &mut Vec<Problem>) -> Option<Workspace> {
    let mut sink = Sink::new(source);
    let workspace = read_tree(source, &mut sink.problems).and_then(|node| read_root(&node, paths, &mut sink));
    problems.append(&mut sink.problems);
    workspace
}

fn read_root(node: &Node<'_>, paths: &Paths, sink: &mut Sink<'_>) -> Option<Workspace> {
    let (call, word) = match &node.kind {
        Kind::Call(call @ Call { name: Some(("Workspace", word)), .. }) => (call, *word),
        Kind::Call(Call { name: Some((rule, word)), .. }) => {
            report_rule(rule, *word, &["Workspace"], sink);
            return None;
        }
        _ => {
            let problem = Problem::new("the root's build file holds one `Workspace(…)`");
            sink.problems.push(problem.at_with(sink.source, node.span.range(), describe(node)));
            return None;
        }
    };
    let root = Package::parse("").ok()?;
    let policy = RetryPolicy::default();
    let scope = Scope { package: &root, folder: "", paths, retries: policy };
    let fields = Fields::of(call, word, &WORKSPACE, sink);
    Some(Workspace {
        packages: path(&fields, "packages", &scope, sink).unwrap_or_else(|| "images".into()),
        registry: fields.text("registry", sink).and_then(|(text, span)| registry(text, span, sink)).unwrap_or_else(Registry::hub),
        registries: registries(&fields, &scope, sink),
        engine: engine(&fields, sink),
        epoch: fields.whole("epoch", 0, LATEST_EPOCH, sink).unwrap_or(EPOCH),
        jobs: fields.whole("jobs", 1, 4096, sink).and_then(|jobs| usize::try_from(jobs).ok()),
        retries: retries(&fields, policy, sink).on(policy),
        compression: compression(&fields, sink),
        origin: Origin { source: sink.source.clone(), name: word, fields: fields.places().collect() },
    })
}

fn registry(text: &str, span: Span, sink: &mut Sink<'_>) -> Option<Registry> {
    Registry::parse(text).map_err(|error| sink.report_hint(span, error.to_string(), error.hint())).ok()
}

fn registries(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> BTreeMap<String, RegistrySettings> {
    let mut found = BTreeMap::new();
    for (key, span, node) in fields.map("registries", sink).unwrap_or_default() {
        let Some(host) = registry(key, span, sink) else { continue };
        if !host.prefix().is_empty() {
            sink.report_hint(span, format!("`{key}` has a path; settings are for a host"), format!("write `\"{}\"`", host.host()));
            continue;
        }
        let settings = match &node.kind {
            Kind::Call(call) if call.name.is_none() => {
                let fields = Fields::of(call, node.span, &REGISTRY, sink);
                let mirrors = fields.texts("mirrors", sink).unwrap_or_default();
                RegistrySettings {
                    tls: tls(&fields, scope, sink),
                    mirrors: mirrors.into_iter().filter_map(|(text, span)| registry(text, span, sink)).collect(),
                }
            }
            Kind::Broken => continue,
            _ => {
                wrong_type(key, "a group, like `(tls: Off, mirrors: [\"mirror.corp\"])`", node, sink);
                continue;
            }
        };
        found.insert(host.host().to_owned(), settings);
    }
    found
}

fn tls(fields: &Fields<'_, '_>, scope: &Scope<'_>, sink: &mut Sink<'_>) -> Tls {
    let Some(node) = fields.find("tls") else { return Tls::Default };
    match &node.kind {
        Kind::Word("Off") => return Tls::Off,
        Kind::Call(Call { name: Some(("Ca", _)), items }) => {
            if let [item] = &items[..]
                && let (None, Kind::Text(text)) = (item.name, &item.value.kind)
            {
                // certificates belong to the machine: they may lie anywhere on it
                let path = match text.starts_with('/') {
                    true => Some(PathBuf::from(&**text)),
                    false => resolve(text, "Ca", item.value.span, scope, sink).map(|path| PathBuf::from(&*path)),
                };
                let Some(path) = path else { return Tls::Default };
                return Tls::Ca(path);
            }
            let node = items.first().map_or(node, |item| &item.value);
            wrong_type("Ca", "a string, like `\"ca.pem\"`", node, sink);
            return Tls::Default;
        }
        _ => {}
    }
    fields.wrong("tls", node, sink);
    Tls::Default
}

/// How layers are packed on their way out.
fn compression(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Compression {
    let Some(node) = fields.find("compression") else { return Compression::Gzip };
    match &node.kind {
        Kind::Word("Gzip") | Kind::Broken => Compression::Gzip,
        Kind::Word("Zstd") => Compression::Zstd,
        _ => {
            fields.wrong("compression", node, sink);
            Compression::Gzip
        }
    }
}

/// How the addresses of Docker daemons look.
pub const DOCKER_URLS: &str = "unix:///PATH, tcp://HOST:PORT, http://HOST:PORT, https://HOST:PORT or ssh://USER@HOST";

/// Whether it looks like one; the engine parses it.
pub fn is_docker_url(text: &str) -> bool {
    let known = |scheme: &str| matches!(scheme, "unix" | "tcp" | "http" | "https" | "ssh");
    text.split_once("://").is_some_and(|(scheme, rest)| known(scheme) && !rest.is_empty())
}

fn engine(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> EngineChoice {
    let docker = EngineChoice::Docker { host: None };
    let Some(node) = fields.find("engine") else { return EngineChoice::Embedded };
    let (name, span) = match &node.kind {
        Kind::Word(name) => (*name, node.span),
        Kind::Call(Call { name: Some((name, span)), .. }) => (*name, *span),
        _ => {
            fields.wrong("engine", node, sink);
            return docker;
        }
    };
    if name == "Embedded" && matches!(node.kind, Kind::Word(_)) {
        return EngineChoice::Embedded;
    }
    if name != "Docker" {
        let problem = sink.at(span, format!("there is no engine `{name}`"));
        let near = nearest(&name.to_lowercase(), ["docker", "embedded"]);
        let hint = match near {
            Some("docker") => "did you mean `Docker`?",
            Some(_) => "did you mean `Embedded`?",
            None => "write `Embedded` or `Docker`",
        };
        sink.problems.push(problem.hint(hint));
        return docker;
    }
    match &node.kind {
        Kind::Call(call) => {
            let fields = Fields::of(call, span, &ENGINE, sink);
            let host = fields.filled("host", sink).filter(|(host, span)| {
                let known = is_docker_url(host);
                if !known {
                    let hint = format!("write {DOCKER_URLS}");
                    sink.report_hint(*span, format!("`{host}` is no address of a Docker daemon"), hint);
                }
                known
            });
            EngineChoice::Docker { host: host.map(|(text, _)| text.into()) }
        }
        _ => docker,
    }
}
