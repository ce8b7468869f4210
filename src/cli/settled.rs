//! One image of the workspace whose result holds for its present inputs: what `export` and `verify` start from. Runs nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::args;
use super::commands::why;
use super::error::Error;
use super::grounds::Grounds;
use super::workbench::Workbench;
use crate::digest::ImageId;
use crate::graph::{Body, Depth, NamesNode, NodeIndex};
use crate::label::{Label, NodeLabel};
use crate::lock::LockFile;
use crate::pattern::Selection;
use crate::plan::{Decision, Planner, PlannerOptions, Value};
use crate::record::State;

/// The image, in its plan.
pub struct Settled<'a> {
    pub label: &'a Label,
    pub index: NodeIndex,
    pub image: ImageId,
    pub planner: &'a Planner<'a>,
    pub lock: &'a LockFile,
    /// The values of all that is settled.
    pub values: &'a (dyn Fn(NodeIndex) -> Option<Value> + Sync),
    stands_in: bool,
}

impl Settled<'_> {
    /// Its names, own first, where its tests have passed; never for what stands on a base of one run.
    pub fn names(&self) -> Option<&NamesNode> {
        let graph = self.planner.graph;
        let names = graph.order().iter().find_map(|other| match &graph.node(*other).body {
            Body::Tags(names) if names.image == self.index && !self.stands_in => Some(names),
            _ => None,
        })?;
        let tested = self.planner.tested(names, self.values);
        tested.is_ok_and(|tested| tested.image() == self.image).then_some(names)
    }
}

/// Finds the image of a label and hands it on.
///
/// # Errors
/// Where the label is none, or has no result for its present inputs.
pub fn with<R>(
    bench: &Workbench<'_>,
    state: &State,
    label: &str,
    world: &args::World,
    then: impl FnOnce(&Settled<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    let NodeLabel::Entry(label) = why::parse_label(label, bench)? else {
        let message = format!("`{label}` is no image of this workspace");
        return Err(Error::Usage { message, hint: Some("write its label, like //debian/jessie:4.2.1".to_owned()) });
    };
    if !bench.catalogue.images.contains_key(&label) {
        return Err(why::unknown(&label, bench));
    }
    let lock = bench.lock()?;
    let grounds = Grounds::read(bench, state, &lock, world, None)?;
    let selected = Selection { labels: BTreeSet::from([label.clone()]), ..Selection::default() };
    let graph = grounds.graph(&selected, Depth::Tag)?;
    let planner = grounds.planner(&graph, PlannerOptions::default());
    let plan: BTreeMap<NodeIndex, Decision> = planner.plan().into_iter().collect();
    let values = |index: NodeIndex| match plan.get(&index) {
        Some(Decision::Fresh(value)) => Some(value.clone()),
        _ => None,
    };
    let is_it = |index: &&NodeIndex| {
        let node = graph.node(**index);
        matches!(node.body, Body::Image(_)) && node.owner.entry() == Some(&label)
    };
    let index = *graph.order().iter().find(is_it).ok_or_else(|| why::unknown(&label, bench))?;
    match plan.get(&index) {
        Some(Decision::Fresh(Value::Image { image, stand_in })) => {
            then(&Settled { label: &label, index, image: *image, planner: &planner, lock: &lock, values: &values, stands_in: *stand_in })
        }
        Some(Decision::Broken(problems)) => Err(Error::Problems(problems.clone())),
        _ => {
            let hint = Some(format!("`igraph test {label}` makes one; `igraph why {label}` tells what has changed"));
            Err(Error::Usage { message: format!("there is no image of {label} for its present inputs"), hint })
        }
    }
}
