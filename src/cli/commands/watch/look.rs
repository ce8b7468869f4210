//! One look of a watching igraph: evaluates what is in scope, and tells what that relied on. Knows no events.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::reach::{Owner, Scope};
use crate::cli::args::Verb;
use crate::cli::commands::verb;
use crate::cli::error::Error;
use crate::cli::grounds::Grounds;
use crate::cli::workbench::{OUT, Workbench};
use crate::digest::Key;
use crate::graph::{Body, Depth, NodeIndex};
use crate::keys::FileDigests;
use crate::label::NodeLabel;
use crate::lock::LockFile;
use crate::pattern::Selection;
use crate::plan::{Decision, Planner, PlannerOptions, Records};
use crate::platform::Platform;
use crate::problem::Problem;
use crate::record::State;
use crate::spec::{Catalogue, TestForm};
use crate::watch::Links;

/// One evaluation.
pub(super) struct Look<'l> {
    pub(super) planner: &'l Planner<'l>,
    pub(super) plan: &'l [(NodeIndex, Decision)],
    pub(super) lock: &'l LockFile,
    pub(super) digests: &'l FileDigests,
}

/// Digests of the own components of nodes: what files and build files make of them.
pub(super) type Owns = BTreeMap<(NodeLabel, Platform), Key>;

/// All that an evaluation needs besides the workspace and the records.
pub(super) struct Planning<'a> {
    pub(super) args: &'a Verb,
    pub(super) depth: Depth,
    /// What the patterns mean.
    pub(super) selection: Selection,
    /// What of it is looked at.
    pub(super) scope: Scope,
    pub(super) held: BTreeMap<Key, String>,
    pub(super) digests: Arc<FileDigests>,
}

impl Planning<'_> {
    /// Evaluates what is in scope, and hands it to `then`.
    pub(super) fn evaluate<T>(
        &self,
        bench: &Workbench<'_>,
        state: &State,
        then: impl FnOnce(&Look<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lock = bench.lock()?;
        let (records, selection) = match &self.scope {
            Scope::Everything => (Records::read(state, &lock)?, self.selection.clone()),
            Scope::Only(labels) => (Records::when_asked(state, &lock), Selection { labels: labels.clone(), ..Selection::default() }),
        };
        let grounds = Grounds::of(bench, records, self.digests.clone(), &self.args.world, self.args.registry.as_ref())?;
        let graph = grounds.graph(&selection, self.depth)?;
        if self.args.plan.locked {
            verb::all_locked(&graph, &lock)?;
        }
        let held = self.held.clone();
        let options = PlannerOptions { no_cache: self.args.running.no_cache, held, compared: true, ..PlannerOptions::default() };
        let planner = grounds.planner(&graph, options);
        let plan = planner.plan();
        then(&Look { planner: &planner, plan: &plan, lock: &lock, digests: &self.digests })
    }
}

impl Look<'_> {
    /// Problems of definitions and files.
    pub(super) fn broken(&self) -> Vec<Problem> {
        let problems = |decision: &Decision| if let Decision::Broken(problems) = decision { problems.clone() } else { Vec::new() };
        self.plan.iter().flat_map(|(_, decision)| problems(decision)).collect()
    }

    /// Whether anything would run that does not wait for something that is held back.
    pub(super) fn has_work(&self) -> bool {
        let mut doomed: BTreeSet<NodeIndex> = BTreeSet::new();
        for (index, decision) in self.plan {
            let graph = self.planner.graph;
            if matches!(decision, Decision::Blocked(_)) || graph.dependencies(*index).iter().any(|needed| doomed.contains(needed)) {
                doomed.insert(*index);
            } else if matches!(decision, Decision::Run { .. } | Decision::Maybe(_)) && !graph.node(*index).steps().is_empty() {
                return true;
            }
        }
        false
    }

    /// What runs, or may.
    pub(super) fn to_run(&self) -> Vec<(NodeLabel, Platform)> {
        let may_run = self.plan.iter().filter(|(_, decision)| matches!(decision, Decision::Run { .. } | Decision::Maybe(_)));
        let nodes = may_run.map(|(index, _)| self.planner.graph.node(*index));
        nodes.map(|node| (node.label(), node.platform.clone())).collect()
    }

    /// What files and build files make of each node, as far as that is known.
    pub(super) fn owns(&self) -> Owns {
        let own = |(index, _): &(NodeIndex, Decision)| {
            let traces = self.planner.traces(*index)?;
            let node = self.planner.graph.node(*index);
            Some(((node.label(), node.platform.clone()), traces.own?))
        };
        self.plan.iter().filter_map(own).collect()
    }

    /// What each image, with its tests, and each base relied on. Of a node whose inputs are not known yet that is its whole context.
    pub(super) fn owners(&self, root: &Path) -> BTreeMap<Arc<NodeLabel>, Owner> {
        let mut owners: BTreeMap<Arc<NodeLabel>, Owner> = BTreeMap::new();
        let mut labels: HashMap<&NodeLabel, Arc<NodeLabel>> = HashMap::new();
        let mut shared: HashSet<Arc<str>> = HashSet::new();
        let mut links = Links::new(root);
        let graph = self.planner.graph;
        for (index, _) in self.plan {
            let node = graph.node(*index);
            let mut label = |owner| labels.entry(owner).or_insert_with(|| Arc::new(owner.clone())).clone();
            let owner = owners.entry(label(&node.owner)).or_default();
            let needs = graph.dependencies(*index).into_iter().map(|needed| &graph.node(needed).owner);
            owner.needs.extend(needs.filter(|needed| **needed != node.owner).map(label));
            owner.image |= matches!(node.body, Body::Image(_));
            for path in self.paths(*index, root) {
                for path in links.elsewhere(&path).into_iter().chain([path]) {
                    let path: Arc<str> = path.into();
                    let path = shared.get(&path).cloned().unwrap_or(path);
                    shared.insert(path.clone());
                    owner.paths.push(path);
                }
            }
        }
        for owner in owners.values_mut() {
            owner.paths.sort_unstable();
            owner.paths.dedup();
            owner.paths.shrink_to_fit();
            owner.needs.sort_unstable();
            owner.needs.dedup();
            owner.needs.shrink_to_fit();
        }
        owners
    }

    fn paths(&self, index: NodeIndex, root: &Path) -> Vec<String> {
        let traces = self.planner.traces(index);
        let mut paths: Vec<String> = traces.iter().flat_map(|traces| traces.watched()).map(|(path, _)| path).collect();
        let (read, context) = match &self.planner.graph.node(index).body {
            Body::Image(image) => (Some(&image.dockerfile), &image.spec.context),
            Body::Test(test) => match &test.spec.form {
                TestForm::Dockerfile { context, .. } => (test.dockerfile.as_ref(), context),
                TestForm::Run { .. } | TestForm::Exec { .. } => return paths,
            },
            Body::Base(_) | Body::Gate(_) | Body::Tags(_) | Body::Pushes(_) => return paths,
        };
        paths.extend(read.map(|read| read.path.clone()));
        if traces.is_none() {
            paths.extend(tree(root, context));
        }
        paths
    }
}

/// The Dockerfiles of all images and tests.
pub(super) fn dockerfiles(catalogue: &Catalogue) -> Vec<String> {
    let of_tests = catalogue.tests.values().filter_map(|test| match &test.form {
        TestForm::Dockerfile { dockerfile, .. } => Some(dockerfile.to_string()),
        TestForm::Run { .. } | TestForm::Exec { .. } => None,
    });
    catalogue.images.values().map(|image| image.dockerfile.to_string()).chain(of_tests).collect()
}

/// A folder and all below it, igraph's own and hidden folders left out; relative to the root.
fn tree(root: &Path, folder: &str) -> Vec<String> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let folder = found[next].clone();
        next += 1;
        for entry in std::fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != OUT && !name.starts_with('.') {
                found.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    found
}

/// The nodes of both whose own components differ.
pub(super) fn different(before: &Owns, after: &Owns) -> BTreeSet<NodeLabel> {
    let differ = before.iter().filter(|(node, own)| after.get(*node).is_some_and(|now| now != *own));
    differ.map(|((label, _), _)| label.clone()).collect()
}
