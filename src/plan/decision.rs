//! What a plan says, as data: decisions, and the values that settled nodes hand to those that stand on them.

use std::collections::{BTreeMap, BTreeSet};

use super::tested::PassedTest;
use crate::clock::Timestamp;
use crate::component::Component;
use crate::digest::{Digest, ImageId, Key};
use crate::graph::{Graph, NodeIndex};
use crate::label::{Label, NodeLabel};
use crate::problem::Problem;
use crate::reason::{Reason, reasons_of_step};
use crate::reference::Reference;

/// What a node came to: all that its dependants' keys and steps need.
#[derive(Clone, Debug)]
pub enum Value {
    /// A base.
    Base {
        /// What keys hold of it: the manifest digest, or the image id of a local one.
        content: String,
        /// Its image id.
        image: ImageId,
        /// Where to fetch it by digest, where it lies in a registry.
        manifest: Option<(Reference, Digest)>,
        /// Something stands in for the real one.
        stand_in: bool,
    },
    /// An image.
    Image {
        /// Its id.
        image: ImageId,
        /// It is made from a stand-in base.
        stand_in: bool,
    },
    /// A passed test.
    Test(PassedTest),
    /// A gate, with the passed tests of its image.
    Gate(Vec<PassedTest>),
    /// Names that point where they should.
    Names,
}

/// What is to be done about a node.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Nothing: a recorded result holds.
    Fresh(Value),
    /// It has to run.
    Run {
        /// Why.
        reasons: Vec<Reason>,
        /// Its key, where its dependencies are settled. Names have one each, in order, that are stale or not.
        key: Option<(Key, Vec<Component>)>,
        /// Use no instruction cache.
        no_cache: bool,
    },
    /// It may have to run; what that waits for, as a clause: `when //p:1 is settled`.
    Maybe(String),
    /// It can't run, and why.
    Blocked(String),
    /// Its definition or files are broken.
    Broken(Vec<Problem>),
}

impl Decision {
    /// Whether a node runs, but not this step of it: a name that points where it should, while another name of the image moves.
    pub fn spares(&self, step: &NodeLabel) -> bool {
        match (self, step) {
            (Self::Run { reasons, .. }, NodeLabel::Tag(..) | NodeLabel::Push(..)) => {
                !reasons.is_empty() && reasons_of_step(reasons, step).is_empty()
            }
            _ => false,
        }
    }
}

/// What the user wants of this run.
#[derive(Clone, Debug, Default)]
pub struct PlannerOptions {
    /// Nodes that run whatever the record says.
    pub forced: BTreeSet<NodeIndex>,
    /// `--reason`.
    pub reason: Option<String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// When this is planned: what is past its `until` is kept as it is.
    pub now: Timestamp,
    /// Keys that are not tried now, though their last result is a failure, and why.
    pub held: BTreeMap<Key, String>,
    /// Entries that are tried for all that: the user named them.
    pub named: BTreeSet<Label>,
    /// Whether what nodes are made of is compared with a later look.
    pub compared: bool,
}

/// Looks up the settled value of a node; `None` while it is not settled.
pub type Values<'v> = dyn Fn(NodeIndex) -> Option<Value> + Sync + 'v;

/// Nodes by the length of the longest path below them: those of one level depend on none of each other.
pub(super) fn levels(graph: &Graph<'_>) -> Vec<Vec<NodeIndex>> {
    let mut level_of = vec![0; graph.len()];
    let mut levels: Vec<Vec<NodeIndex>> = Vec::new();
    for index in graph.order() {
        let level = graph.dependencies(*index).iter().map(|needed| level_of[needed.index()]).max().map_or(0, |below: usize| below + 1);
        level_of[index.index()] = level;
        if levels.len() == level {
            levels.push(Vec::new());
        }
        levels[level].push(*index);
    }
    levels
}
