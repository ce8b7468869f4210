//! One package's build file, from its text to drafts of all its entries. Knows no other build file.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::fields::{Fields, Schema, Sink, describe};
use super::freshness::FRESHNESS;
use super::model::{PackageSpec, RetryPolicy, Span};
use super::names::names_host;
use super::paths::Paths;
use super::rules::{Defaults, Draft, RULES, has_tag, read_reference, read_rule, read_tests, report_rule};
use super::settings::{SETTINGS, Scope, Settings};
use super::tree::{Call, Kind, Node, read_tree};
use crate::label::{Label, Name, Package};
use crate::problem::{Problem, Source};
use crate::reference::Reference;

const PACKAGE: Schema = Schema {
    rule: "Package",
    groups: &[
        &[
            ("rules", "a list of rules, like `[Image(name: \"4.2.1\")]`"),
            ("repository", "a string, like `\"nodesource/jessie\"`"),
            ("tests", "a list of strings, like `[\":smoke\", \"//tests:node\"]`"),
        ],
        SETTINGS,
        FRESHNESS,
    ],
};

/// A package's entries before they are checked against all others.
pub struct PackageDraft {
    pub package: Package,
    pub spec: PackageSpec,
    /// The tests of all its images.
    pub tests: Vec<(Label, Span)>,
    /// For those of its images that have no tests.
    pub untested: Option<(Arc<str>, Span)>,
    pub entries: Vec<Draft>,
    /// Whether there may be more entries, which could not be read.
    pub incomplete: bool,
    pub problems: Vec<Problem>,
}

/// Reads the build file `source` of `package` in `folder`.
pub fn read_package(package: Package, folder: Arc<str>, source: Arc<Source>, paths: &Paths, retries: RetryPolicy) -> PackageDraft {
    let mut draft = PackageDraft {
        spec: PackageSpec { folder: folder.clone(), repository: package.as_str().into(), source: source.clone() },
        package: package.clone(),
        tests: Vec::new(),
        untested: None,
        entries: Vec::new(),
        incomplete: true,
        problems: Vec::new(),
    };
    let mut sink = Sink::new(&source);
    if let Some(node) = read_tree(&source, &mut sink.problems) {
        let scope = Scope { package: &package, folder: &folder, paths, retries };
        read_file(&node, &scope, &mut draft, &mut sink);
    }
    draft.problems = sink.problems;
    draft
}

fn read_file(node: &Node<'_>, scope: &Scope<'_>, draft: &mut PackageDraft, sink: &mut Sink<'_>) {
    let Some((call, word)) = read_head(node, sink) else { return };
    let fields = Fields::of(call, word, &PACKAGE, sink);
    let nodes = fields.list("rules", sink).unwrap_or_default();
    let has_images = nodes.iter().any(|node| matches!(&node.kind, Kind::Call(Call { name: Some(("Image", _)), .. })));
    let repository = read_repository(&fields, scope.package, has_images, sink);
    if let Some((written, _)) = &repository {
        draft.spec.repository = written.clone();
    }
    let defaults = Defaults {
        settings: Settings::take(&fields, scope, sink),
        places: fields.places().collect(),
        tests: read_tests(&fields, scope, sink),
        repository,
    };
    let source = sink.source;
    let entries: Vec<(Option<Draft>, Vec<Problem>)> = nodes
        .par_iter()
        .with_min_len(32)
        .map(|node| {
            let mut sink = Sink::new(source);
            (read_rule(node, &defaults, scope, &mut sink), sink.problems)
        })
        .collect();
    let mut names: HashMap<Name, Span> = HashMap::with_capacity(entries.len());
    draft.incomplete = entries.iter().any(|(entry, _)| entry.is_none()) || fields.find("rules").is_none() && fields.key("rules").is_some();
    for (entry, mut problems) in entries {
        sink.problems.append(&mut problems);
        let Some(entry) = entry else { continue };
        if let Some(first) = names.get(&entry.name) {
            let message = format!("the name `{}` is used twice in {}", entry.name, scope.package);
            sink.report_twice(entry.span, *first, message, "first here");
            continue;
        }
        names.insert(entry.name.clone(), entry.span);
        draft.entries.push(entry);
    }
    draft.untested = defaults.settings.untested.zip(fields.find("untested").map(|node| node.span));
    draft.tests = defaults.tests;
}

/// The `Package(…)` of a build file.
fn read_head<'n, 's>(node: &'n Node<'s>, sink: &mut Sink<'_>) -> Option<(&'n Call<'s>, Span)> {
    let Kind::Call(call @ Call { name: Some((rule, word)), .. }) = &node.kind else {
        if !matches!(node.kind, Kind::Broken) {
            let problem = Problem::new("a build file holds one `Package(…)`");
            sink.problems.push(problem.at_with(sink.source, node.span.range(), describe(node)));
        }
        return None;
    };
    match *rule {
        "Package" => return Some((call, *word)),
        "Workspace" => sink.report_hint(
            *word,
            "a workspace can't lie within another",
            "this is a package of the workspace above: write `Package(…)`, or move the folder out of it",
        ),
        rule if RULES.contains(&rule) => {
            sink.report_hint(*word, "a build file holds one `Package(…)`", format!("write `Package(rules: [{rule}(…)])`"));
        }
        _ => report_rule(rule, *word, &["Package"], sink),
    }
    None
}

/// The repository as written and as parsed. Of a package without images no default is asked for.
fn read_repository(fields: &Fields<'_, '_>, package: &Package, has_images: bool, sink: &mut Sink<'_>) -> Option<(Arc<str>, Reference)> {
    if fields.key("repository").is_none() {
        if !has_images {
            return None;
        }
        let path = package.as_str();
        return match path.parse::<Reference>() {
            Ok(reference) if !names_host(path, &reference) && reference.digest().is_none() => Some((path.into(), reference)),
            _ => {
                let message = format!("the path of {package} is no repository");
                sink.report_hint(fields.word, message, "give the package one, like `repository: \"team/app\"`");
                None
            }
        };
    }
    let (text, span) = fields.text("repository", sink)?;
    match read_reference(text, span, sink)? {
        reference if reference.digest().is_some() || has_tag(text) => {
            sink.report_hint(span, "a repository has no tag and no digest", "the tags are the names and aliases of its images");
            None
        }
        reference => Some((text.into(), reference)),
    }
}
