//! The nodes of the graph, as data. Knows what a node is made from, not whether it is fresh.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dockerfile::Dockerfile;
use crate::event::NodeKind;
use crate::label::{Label, Name, NodeLabel};
use crate::platform::Platform;
use crate::problem::Place;
use crate::reference::Reference;
use crate::spec;
use crate::stamp::Stamp;

/// Index of a node in its graph.
pub type NodeIndex = petgraph::graph::NodeIndex<u32>;

/// A Dockerfile as read for the graph.
#[derive(Clone)]
pub struct DockerfileRead {
    /// Relative to the workspace root.
    pub path: String,
    /// Its stat at the time.
    pub stamp: Stamp,
    /// Parsed.
    pub parsed: Arc<Dockerfile>,
}

/// An image or base that stands in for a base for one run (`--base REF=SOURCE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// A rootfs tar.
    Rootfs(std::path::PathBuf),
    /// An OCI layout.
    OciLayout(std::path::PathBuf),
    /// Another reference.
    Registry(Reference),
}

/// Where a base comes from.
#[derive(Clone, Debug)]
pub enum BaseSource {
    /// A registry.
    Registry(Reference),
    /// What the entry says: it is of another kind than `Registry`.
    Entry,
    /// What the user put in its place for this run.
    StandIn(StandIn),
}

/// An outside image.
#[derive(Clone)]
pub struct BaseNode<'c> {
    /// Where it comes from.
    pub source: BaseSource,
    /// The entry that declares it, if one does.
    pub entry: Option<&'c spec::Base>,
    /// Where it is first referred to.
    pub place: Place,
}

/// An image to build.
#[derive(Clone)]
pub struct ImageNode<'c> {
    /// Its label.
    pub label: Label,
    /// Its definition.
    pub spec: &'c spec::Image,
    /// Its Dockerfile.
    pub dockerfile: DockerfileRead,
    /// The node of each image that its Dockerfile refers to, by key.
    pub parents: BTreeMap<String, NodeIndex>,
}

/// A test of an image.
#[derive(Clone)]
pub struct TestNode<'c> {
    /// Its name.
    pub name: Name,
    /// Its definition.
    pub spec: &'c spec::Test,
    /// The image it runs on.
    pub subject: NodeIndex,
    /// That image's label.
    pub image_label: Label,
    /// That image's definition.
    pub image: &'c spec::Image,
    /// Its Dockerfile, in that form.
    pub dockerfile: Option<DockerfileRead>,
    /// The node of each further reference of its Dockerfile.
    pub parents: BTreeMap<String, NodeIndex>,
}

/// Where all tests of an image and of its ancestors in the workspace meet: what names wait for. Not a step a user sees.
#[derive(Clone)]
pub struct GateNode {
    /// The image.
    pub image: NodeIndex,
    /// Its tests.
    pub tests: Vec<NodeIndex>,
    /// The gates of its parents.
    pub parents: Vec<NodeIndex>,
}

/// A name of an image: as written, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// As in the step's label: an alias as written, the own name's tag.
    pub written: Arc<str>,
    /// The full name.
    pub reference: Reference,
}

/// The names of an image, its own first, that move together.
#[derive(Clone)]
pub struct NamesNode {
    /// The image.
    pub image: NodeIndex,
    /// Its gate.
    pub gate: NodeIndex,
    /// In the order in which they are moved.
    pub names: Vec<ImageName>,
}

/// What a node is.
#[derive(Clone)]
pub enum Body<'c> {
    /// An outside image.
    Base(BaseNode<'c>),
    /// An image to build.
    Image(ImageNode<'c>),
    /// A test of one.
    Test(TestNode<'c>),
    /// All its tests together.
    Gate(GateNode),
    /// Its local names.
    Tags(NamesNode),
    /// Its registry names.
    Pushes(NamesNode),
}

/// A node of the graph.
#[derive(Clone)]
pub struct Node<'c> {
    /// The entry it belongs to, or the outside reference.
    pub owner: NodeLabel,
    /// What its image runs on.
    pub platform: Platform,
    /// What it is.
    pub body: Body<'c>,
}

impl Node<'_> {
    /// The labels of the steps it stands for, with their kind: one, but for names; none for a gate.
    pub fn steps(&self) -> Vec<(NodeLabel, NodeKind)> {
        let entry = || self.owner.entry().cloned();
        match &self.body {
            Body::Base(_) => vec![(self.owner.clone(), NodeKind::Base)],
            Body::Image(_) => vec![(self.owner.clone(), NodeKind::Image)],
            Body::Test(test) => entry().map(|label| (NodeLabel::Test(label, test.name.clone()), NodeKind::Test)).into_iter().collect(),
            Body::Gate(_) => Vec::new(),
            Body::Tags(names) => named(entry(), &names.names, NodeLabel::Tag, NodeKind::Tag),
            Body::Pushes(names) => named(entry(), &names.names, NodeLabel::Push, NodeKind::Push),
        }
    }

    /// The label of its first step; a gate's is its image's.
    pub fn label(&self) -> NodeLabel {
        self.steps().into_iter().next().map_or_else(|| self.owner.clone(), |(label, _)| label)
    }
}

fn named(entry: Option<Label>, names: &[ImageName], step: fn(Label, Arc<str>) -> NodeLabel, kind: NodeKind) -> Vec<(NodeLabel, NodeKind)> {
    entry.map_or_else(Vec::new, |label| names.iter().map(|name| (step(label.clone(), name.written.clone()), kind)).collect())
}
