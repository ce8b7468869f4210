//! `targets`: lists nodes, with their steps, what is stale, what a change affects, which names are orphans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component as PathPart, Path, PathBuf};

use serde::Serialize;

use crate::cli::args::Targets;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::plan_view;
use crate::cli::program::Context;
use crate::cli::values::PathList;
use crate::cli::workbench::{self, Workbench};
use crate::event::NodeKind;
use crate::graph::{Body, Depth, Graph, NodeIndex};
use crate::label::{Label, NodeLabel};
use crate::plan::{Decision, Planner, PlannerOptions, Value};
use crate::record::NameScope;
use crate::spec::{Destination, TestForm};

#[derive(Serialize)]
struct Target {
    label: NodeLabel,
    kind: NodeKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<crate::reason::Reason>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needs: Vec<NodeLabel>,
}

#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'static str,
    version: u32,
    targets: &'a [T],
}

/// Lists.
pub fn run(args: &Targets, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    if args.orphans {
        return orphans(args, &bench);
    }
    let selected = bench.select(&args.selection.patterns, &[])?;
    let plain = !args.steps && !args.stale && args.affected.is_none() && !args.show_key && !args.json;
    if plain {
        return selected.labels.iter().try_for_each(|label| context.printer.line(label)).map(|()| Exit::Done);
    }
    let state = bench.state_read_only()?;
    let lock = bench.lock()?;
    let grounds = Grounds::read(&bench, &state, &lock, &args.world, None)?;
    // whatever stands on a changed node is affected, wherever the selection ends
    let scope = if args.affected.is_some() { bench.everything() } else { selected.clone() };
    let graph = grounds.graph(&scope, Depth::Push)?;
    let planner = grounds.planner(&graph, PlannerOptions::default());
    let affected = match &args.affected {
        Some(list) => Some(affected(&read_paths(list)?, &bench, &graph, &planner)),
        None => None,
    };
    let plan = if args.stale || args.show_key { planner.plan() } else { Vec::new() };
    let targets = collect(args, &graph, &planner, &plan, &selected.labels, affected.as_ref());
    if args.json {
        let document = Document { schema: "igraph.targets", version: 1, targets: &targets };
        context.printer.document(|out| {
            serde_json::to_writer_pretty(&mut *out, &document)?;
            writeln!(out)
        })?;
        return Ok(Exit::Done);
    }
    for target in &targets {
        match &target.key {
            Some(key) => context.printer.line(format_args!("{key} {}", target.label))?,
            None if args.show_key => context.printer.line(format_args!("{:64} {}", "-", target.label))?,
            None => context.printer.line(&target.label)?,
        }
    }
    Ok(Exit::Done)
}

fn collect(
    args: &Targets,
    graph: &Graph<'_>,
    planner: &Planner<'_>,
    plan: &[(NodeIndex, Decision)],
    selected: &BTreeSet<Label>,
    affected: Option<&BTreeSet<NodeIndex>>,
) -> Vec<Target> {
    let decisions: BTreeMap<NodeIndex, &Decision> = plan.iter().map(|(index, decision)| (*index, decision)).collect();
    let values = |index: NodeIndex| -> Option<Value> {
        match decisions.get(&index) {
            Some(Decision::Fresh(value)) => Some(value.clone()),
            _ => None,
        }
    };
    // an image is listed for its tests, where steps are not: `igraph test` then runs them
    let affected = affected.map(|affected| {
        let mut listed = affected.clone();
        let tests = affected.iter().filter_map(|index| match &graph.node(*index).body {
            Body::Test(test) if !args.steps => Some(test.subject),
            _ => None,
        });
        listed.extend(tests);
        listed
    });
    let planned: BTreeMap<NodeLabel, plan_view::PlannedStep> =
        plan_view::steps(planner, plan).into_iter().map(|step| (step.label.clone(), step)).collect();
    let mut targets = Vec::new();
    for index in graph.order() {
        let node = graph.node(*index);
        let matched = node.owner.entry().is_some_and(|label| selected.contains(label));
        if !matched || affected.as_ref().is_some_and(|affected| !affected.contains(index)) {
            continue;
        }
        if !args.steps && !matches!(node.body, Body::Image(_)) {
            continue;
        }
        for (label, kind) in node.steps() {
            let step = planned.get(&label);
            if args.stale && step.is_none_or(|step| step.decision == "fresh") {
                continue;
            }
            let key = if args.show_key { planner.explain(*index, &label, &values).map(|(key, _)| key.to_string()) } else { None };
            targets.push(Target {
                key,
                kind,
                decision: step.map(|step| step.decision),
                reasons: step.map(|step| step.reasons.clone()).unwrap_or_default(),
                needs: graph.dependencies(*index).iter().flat_map(|needed| graph.node(*needed).steps()).map(|(label, _)| label).collect(),
                label,
            });
        }
    }
    targets.sort_by(|a, b| a.label.cmp(&b.label));
    targets
}

fn read_paths(list: &PathList) -> Result<Vec<String>, Error> {
    let text = match list {
        PathList::Stdin => workbench::read_list("-")?,
        PathList::File(path) => workbench::read_list(&path.to_string_lossy())?,
    };
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(unquoted).collect())
}

/// A path as git prints it: in quotes, with escapes, where it has characters that git finds unusual.
fn unquoted(line: &str) -> String {
    let Some(inner) = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return line.to_owned() };
    let mut bytes = Vec::new();
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(first @ b'0'..=b'3') => {
                let digits = [first, rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                bytes.push(digits.iter().fold(0, |sum: u8, digit| sum.wrapping_mul(8).wrapping_add(digit.wrapping_sub(b'0'))));
            }
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'r') => bytes.push(b'\r'),
            Some(other) => bytes.push(other),
            None => {}
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The nodes that have one of the paths among their inputs, and all that stands on them. A path that is gone counts for every node
/// that looks into the folder it was in; a build file counts for its package, the root's for all.
fn affected(paths: &[String], bench: &Workbench<'_>, graph: &Graph<'_>, planner: &Planner<'_>) -> BTreeSet<NodeIndex> {
    let current = bench.context.environment.current_dir.clone().unwrap_or_default();
    let root = bench.root().canonicalize().unwrap_or_else(|_| bench.root().to_owned());
    let current = current.canonicalize().unwrap_or(current);
    let changed: BTreeSet<String> = paths.iter().filter_map(|path| relative(&root, &current.join(path))).collect();
    let gone: BTreeSet<&str> = changed.iter().filter_map(|path| gone_from(&root, path)).collect();
    let _ = planner.plan();
    let mut found: Vec<NodeIndex> =
        graph.order().iter().copied().filter(|index| touches(graph, planner, *index, &changed, &gone)).collect();
    let mut affected: BTreeSet<NodeIndex> = found.iter().copied().collect();
    while let Some(index) = found.pop() {
        for dependant in graph.dependants(index) {
            if affected.insert(dependant) {
                found.push(dependant);
            }
        }
    }
    affected
}

fn touches(graph: &Graph<'_>, planner: &Planner<'_>, index: NodeIndex, changed: &BTreeSet<String>, gone_from: &BTreeSet<&str>) -> bool {
    let node = graph.node(index);
    let build_files = match &node.body {
        Body::Image(image) => vec![image.spec.origin.source().path.clone()],
        Body::Test(test) => vec![test.spec.origin.source().path.clone()],
        Body::Base(base) => base.entry.iter().map(|entry| entry.origin.source().path.clone()).collect(),
        _ => Vec::new(),
    };
    if changed.contains(crate::spec::BUILD_FILE) || build_files.iter().any(|path| changed.contains(path)) {
        return true;
    }
    if matches!(&node.body, Body::Base(_)) && changed.contains(crate::lock::LOCK_FILE) {
        return true;
    }
    let dockerfile = match &node.body {
        Body::Image(image) => Some(&image.dockerfile.path),
        Body::Test(test) => test.dockerfile.as_ref().map(|read| &read.path),
        _ => None,
    };
    if dockerfile.is_some_and(|path| changed.contains(path)) {
        return true;
    }
    let Some(traces) = planner.traces(index) else {
        // its inputs can't be told without the config of its base: whatever lies in its context counts
        let folders: Vec<&str> = match &node.body {
            Body::Image(image) => {
                let extra = image.spec.extra_inputs.iter().map(|glob| &*glob.folder);
                extra.chain([&*image.spec.context]).collect()
            }
            Body::Test(test) => match &test.spec.form {
                TestForm::Dockerfile { context, .. } => vec![context],
                TestForm::Run { .. } | TestForm::Exec { .. } => Vec::new(),
            },
            _ => Vec::new(),
        };
        return changed.iter().any(|path| folders.iter().any(|folder| within(path, folder)));
    };
    traces.watched().any(|(path, stamp)| changed.contains(&path) || (stamp.is_some() && gone_from.contains(path.as_str())))
}

/// The nearest folder above a path that is gone; `None` for one that is there.
fn gone_from<'p>(root: &Path, path: &'p str) -> Option<&'p str> {
    let there = |path: &str| root.join(path).symlink_metadata().is_ok();
    if there(path) {
        return None;
    }
    let mut folder = parent(path);
    while !folder.is_empty() && !there(folder) {
        folder = parent(folder);
    }
    Some(folder)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn within(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// A path relative to the root, without looking at it: it may be gone.
fn relative(root: &Path, path: &Path) -> Option<String> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            PathPart::CurDir => {}
            PathPart::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean.strip_prefix(root).ok().map(|inside| inside.to_string_lossy().into_owned())
}

#[derive(Serialize)]
struct Orphan {
    name: String,
    scope: NameScope,
    image: String,
    written_by: NodeLabel,
}

/// Names that igraph once wrote and no entry claims any more.
fn orphans(args: &Targets, bench: &Workbench<'_>) -> Result<Exit, Error> {
    let state = bench.state_read_only()?;
    let destination = Destination::Workspace(bench.catalogue.workspace.registry.clone());
    let mut claimed = BTreeSet::new();
    for image in bench.catalogue.images.values() {
        for name in &image.names {
            claimed.insert((NameScope::Local, name.reference.clone()));
            if let Ok(reference) = image.destination(name, &destination) {
                claimed.insert((NameScope::Registry, reference));
            }
        }
    }
    // a staging run's names belong to entries that still exist, under another host
    let steps: BTreeSet<NodeLabel> = bench
        .catalogue
        .images
        .iter()
        .flat_map(|(label, image)| image.names.iter().map(|name| NodeLabel::Push(label.clone(), name.written.clone())))
        .collect();
    let orphans: Vec<Orphan> = state
        .names()?
        .into_iter()
        .filter(|name| {
            let staged = name.scope == NameScope::Registry && steps.contains(&name.node);
            !staged && !claimed.contains(&(name.scope, name.name.clone()))
        })
        .map(|name| Orphan { name: name.name.to_string(), scope: name.scope, image: name.image.to_string(), written_by: name.node })
        .collect();
    let printer = bench.context.printer;
    if args.json {
        let document = Document { schema: "igraph.orphans", version: 1, targets: &orphans };
        printer.document(|out| {
            serde_json::to_writer_pretty(&mut *out, &document)?;
            writeln!(out)
        })?;
        return Ok(Exit::Done);
    }
    for orphan in &orphans {
        let place = if orphan.scope == NameScope::Local { "local" } else { "registry" };
        printer.line(format_args!("{}\t{place}\t{}", orphan.name, orphan.written_by))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_git_quotes_them() {
        for (line, path) in [
            ("a/b c", "a/b c"),
            (r#""a/\303\251""#, "a/é"),
            (r#""tab\tquote\"back\\slash""#, "tab\tquote\"back\\slash"),
            (r#""\1""#, "\u{40}"),
        ] {
            assert_eq!(unquoted(line), path, "{line}");
        }
    }
}
