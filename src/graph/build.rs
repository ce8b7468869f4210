//! Builds the graph of what a selection needs: reads Dockerfiles, turns references into edges, finds cycles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use super::node::*;
use super::read::{Read, References, Target};
use super::walk::{self, Nodes};
use crate::label::{Label, Name, NodeLabel};
use crate::pattern::Selection;
use crate::platform::Platform;
use crate::problem::{Place, Problem, Source};
use crate::reference::Reference;
use crate::spec::{self, Catalogue, Destination};

/// How far the graph goes above the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Images only.
    Build,
    /// And their tests.
    Test,
    /// And their local names.
    Tag,
    /// And their registry names.
    Push,
}

/// References that something else stands in for, for one run.
pub type StandIns = BTreeMap<Reference, StandIn>;

/// What shapes the graph besides the catalogue.
pub struct GraphOptions<'a> {
    /// How far up.
    pub depth: Depth,
    /// `--base`.
    pub stand_ins: &'a StandIns,
    /// Where names are pushed.
    pub destination: &'a Destination,
    /// What this program runs on: BUILDPLATFORM.
    pub platform: &'a Platform,
}

/// The nodes that a selection needs, and what each needs: edges go from a node to what it depends on.
pub struct Graph<'c> {
    nodes: Nodes<'c>,
    order: Vec<NodeIndex>,
    by_owner: HashMap<NodeLabel, NodeIndex>,
    selected: BTreeSet<Label>,
}

impl<'c> Graph<'c> {
    /// Builds the graph of what is `selected` and all it needs.
    ///
    /// # Errors
    /// Every unreadable or broken Dockerfile, every cycle, and steps that an image does not have.
    pub fn build(
        catalogue: &'c Catalogue,
        selected: &Selection,
        options: &GraphOptions<'_>,
        configs: &dyn KnownConfigs,
    ) -> Result<Self, Vec<Problem>> {
        Builder {
            catalogue,
            selection: selected,
            options,
            configs,
            nodes: Nodes::default(),
            by_owner: HashMap::new(),
            bases: HashMap::new(),
            problems: Vec::new(),
            test_files: Mutex::default(),
        }
        .build()
    }

    /// The node.
    pub fn node(&self, index: NodeIndex) -> &Node<'c> {
        &self.nodes[index]
    }

    /// Number of nodes, gates among them.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes, each after what it depends on; among equals by label.
    pub fn order(&self) -> &[NodeIndex] {
        &self.order
    }

    /// What a node depends on, sorted.
    pub fn dependencies(&self, index: NodeIndex) -> Vec<NodeIndex> {
        let mut found: Vec<_> = self.nodes.neighbors(index).collect();
        found.sort_unstable();
        found
    }

    /// What depends on a node, sorted.
    pub fn dependants(&self, index: NodeIndex) -> Vec<NodeIndex> {
        let mut found: Vec<_> = self.nodes.neighbors_directed(index, petgraph::Direction::Incoming).collect();
        found.sort_unstable();
        found
    }

    /// The image node of an owner, or the first of its base nodes: a base has one for each platform.
    pub fn find(&self, owner: &NodeLabel) -> Option<NodeIndex> {
        self.by_owner.get(owner).copied()
    }

    /// Whether the image itself was selected, and not only needed.
    pub fn is_selected(&self, label: &Label) -> bool {
        self.selected.contains(label)
    }
}

/// What is known of images' configs while the graph is made: their ONBUILD triggers can add edges.
pub trait KnownConfigs: Sync {
    /// The config that the base or image had when it was last seen.
    fn known(&self, owner: &NodeLabel, platform: &Platform) -> Option<Arc<crate::image::ImageConfig>>;
}

pub(super) struct Builder<'c, 'a> {
    pub(super) catalogue: &'c Catalogue,
    pub(super) selection: &'a Selection,
    pub(super) options: &'a GraphOptions<'a>,
    pub(super) configs: &'a dyn KnownConfigs,
    pub(super) nodes: Nodes<'c>,
    pub(super) by_owner: HashMap<NodeLabel, NodeIndex>,
    pub(super) bases: HashMap<(NodeLabel, Platform), NodeIndex>,
    pub(super) problems: Vec<Problem>,
    /// Test Dockerfiles by their rule: many images share one.
    pub(super) test_files: Mutex<BTreeMap<Label, DockerfileRead>>,
}

impl<'c> Builder<'c, '_> {
    fn build(mut self) -> Result<Graph<'c>, Vec<Problem>> {
        let entries = self.selection.steps.iter().filter_map(NodeLabel::entry).cloned();
        let selected: BTreeSet<Label> = self.selection.labels.iter().cloned().chain(entries).collect();
        let images = self.read_images(&selected);
        // image, gate and names: to grow by and by would touch twice the memory
        let tests: usize = images.values().map(|read| read.tests.len()).sum();
        let others = if self.options.depth >= Depth::Tag { 4 } else { 2 };
        self.nodes.reserve_nodes(others * images.len() + tests);
        self.by_owner.reserve(images.len());
        self.add_owners(&images);
        self.link_images(&images);
        if self.problems.is_empty() {
            self.find_cycles(&images);
        }
        if self.problems.is_empty() && self.options.depth >= Depth::Test {
            self.add_tests(&images);
        }
        if self.problems.is_empty() && self.options.depth >= Depth::Test {
            self.add_gates_and_names(&images, &selected);
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        self.check_steps(&images)?;
        let order = walk::topological(&self.nodes);
        Ok(Graph { nodes: self.nodes, order, by_owner: self.by_owner, selected })
    }

    /// Adds a node for every image that was read, and for every base referred to.
    fn add_owners(&mut self, images: &BTreeMap<Label, Read<'c>>) {
        for (label, read) in images {
            let Some(spec) = self.catalogue.images.get(label) else { continue };
            let node = Node {
                owner: NodeLabel::Entry(label.clone()),
                platform: spec.platform.clone(),
                body: Body::Image(ImageNode { label: label.clone(), spec, dockerfile: read.dockerfile.clone(), parents: BTreeMap::new() }),
            };
            let owner = node.owner.clone();
            let index = self.nodes.add_node(node);
            self.by_owner.insert(owner, index);
        }
        for read in images.values() {
            for (_, target, platform, span) in &read.references {
                self.add_base(target, platform, read.dockerfile.parsed.source(), span);
            }
        }
    }

    /// The node of a target, added when it is a base that is not there yet.
    fn add_base(&mut self, target: &Target, wanted: &Platform, source: &Arc<Source>, span: &std::ops::Range<usize>) -> Option<NodeIndex> {
        let owner = target.owner()?;
        if let Target::Entry(label) = target
            && self.catalogue.images.contains_key(label)
        {
            return self.by_owner.get(&owner).copied();
        }
        let platform = match target {
            Target::Entry(label) => self.catalogue.bases.get(label)?.platform_for(wanted),
            _ => wanted.clone(),
        };
        let key = (owner, platform);
        if let Some(index) = self.bases.get(&key) {
            return Some(*index);
        }
        let place = Place { source: source.clone(), span: span.clone(), note: None };
        let (entry, source) = match target {
            Target::Outside(reference) => (None, BaseSource::Registry(reference.clone())),
            Target::Entry(label) => {
                let entry = self.catalogue.bases.get(label)?;
                let source = match &entry.from {
                    spec::BaseFrom::Registry(reference) => BaseSource::Registry(reference.clone()),
                    _ => BaseSource::Entry,
                };
                (Some(entry), source)
            }
            Target::Subject => return None,
        };
        let mut stood_for: Vec<&Reference> = entry.iter().flat_map(|entry| entry.provides.iter().map(|name| &name.reference)).collect();
        if let BaseSource::Registry(reference) = &source {
            stood_for.push(reference);
        }
        let stand_in = stood_for.iter().find_map(|reference| self.options.stand_ins.get(*reference));
        let source = stand_in.map_or(source, |stand_in| BaseSource::StandIn(stand_in.clone()));
        let (owner, platform) = key.clone();
        let index = self.nodes.add_node(Node { owner, platform, body: Body::Base(BaseNode { source, entry, place }) });
        self.by_owner.entry(key.0.clone()).or_insert(index);
        self.bases.insert(key, index);
        Some(index)
    }

    fn link_images(&mut self, images: &BTreeMap<Label, Read<'c>>) {
        for (label, read) in images {
            let Some(from) = self.by_owner.get(&NodeLabel::Entry(label.clone())).copied() else { continue };
            let parents = self.link(from, read.dockerfile.parsed.source(), &read.references);
            if let Body::Image(image) = &mut self.nodes[from].body {
                image.parents = parents;
            }
        }
    }

    fn link(&mut self, from: NodeIndex, source: &Arc<Source>, references: &References) -> BTreeMap<String, NodeIndex> {
        let mut parents = BTreeMap::new();
        for (key, target, platform, span) in references {
            match (self.add_base(target, platform, source, span), target) {
                (Some(to), _) => {
                    self.nodes.update_edge(from, to, ());
                    parents.insert(key.clone(), to);
                }
                (None, Target::Entry(label)) if self.problems.is_empty() => self
                    .problems
                    .push(Problem::new(format!("`{key}` is {label}, which is neither image nor base")).at(source, span.clone())),
                (None, _) => {}
            }
        }
        parents
    }

    /// Every cycle as the path that closes it, pointing at the references along it.
    fn find_cycles(&mut self, images: &BTreeMap<Label, Read<'c>>) {
        for component in petgraph::algo::tarjan_scc(&self.nodes) {
            let looped = component.len() > 1 || self.nodes.contains_edge(component[0], component[0]);
            if !looped {
                continue;
            }
            let inside: BTreeSet<NodeIndex> = component.iter().copied().collect();
            let Some(start) = component.iter().copied().min_by_key(|index| self.nodes[*index].owner.clone()) else { continue };
            let path = walk::shortest_cycle(&self.nodes, start, &inside);
            let names: Vec<String> = path.iter().chain(path.first()).map(|index| self.nodes[*index].owner.to_string()).collect();
            let mut problem = Problem::new(format!("these images need each other: {}", names.join(" → ")));
            for (position, index) in path.iter().enumerate() {
                let next = &self.nodes[path[(position + 1) % path.len()]].owner;
                let read = self.nodes[*index].owner.entry().and_then(|label| images.get(label));
                if let Some((read, (.., span))) = read.and_then(|read| {
                    read.references.iter().find(|(_, target, ..)| target.owner().as_ref() == Some(next)).map(|found| (read, found))
                }) {
                    problem = problem.at_with(read.dockerfile.parsed.source(), span.clone(), format!("this is {next}"));
                }
            }
            self.problems.push(problem.hint("one of them must start from another image"));
        }
    }

    fn add_tests(&mut self, images: &BTreeMap<Label, Read<'c>>) {
        for (label, read) in images {
            let owner = NodeLabel::Entry(label.clone());
            let (Some(subject), Some(image)) = (self.by_owner.get(&owner).copied(), self.catalogue.images.get(label)) else { continue };
            for test in &read.tests {
                let fits = test.spec.platform.as_ref().is_none_or(|own| *own == image.platform);
                if !fits || !self.wants_test(label, &test.name) {
                    continue;
                }
                let body = Body::Test(TestNode {
                    name: test.name.clone(),
                    spec: test.spec,
                    subject,
                    image_label: label.clone(),
                    image,
                    dockerfile: test.dockerfile.clone(),
                    parents: BTreeMap::new(),
                });
                let index = self.nodes.add_node(Node { owner: owner.clone(), platform: self.nodes[subject].platform.clone(), body });
                self.nodes.update_edge(index, subject, ());
                let Some(dockerfile) = &test.dockerfile else { continue };
                let parents = self.link(index, dockerfile.parsed.source(), &test.references);
                if let Body::Test(node) = &mut self.nodes[index].body {
                    node.parents = parents;
                }
            }
        }
    }

    /// The steps that were asked for of an image that was not asked for as a whole.
    fn steps_of<'s>(&'s self, label: &'s Label) -> Option<impl Iterator<Item = &'s NodeLabel>> {
        let mut steps = self.selection.steps.iter().filter(move |step| step.entry() == Some(label)).peekable();
        (!self.selection.labels.contains(label) && steps.peek().is_some()).then_some(steps)
    }

    /// All tests of an image, but where single ones were asked for; for a name every test counts, of its image and of what that
    /// stands on.
    fn wants_test(&self, label: &Label, test: &Name) -> bool {
        let named = |step: &NodeLabel| matches!(step, NodeLabel::Tag(..) | NodeLabel::Push(..));
        if self.options.depth >= Depth::Tag && (!self.selection.labels.is_empty() || self.selection.steps.iter().any(named)) {
            return true;
        }
        self.steps_of(label).is_none_or(|mut steps| {
            steps.any(|step| match step {
                NodeLabel::Test(_, wanted) => wanted == test,
                _ => true,
            })
        })
    }

    fn wants_name(&self, owner: &NodeLabel, written: &str, pushed: bool) -> bool {
        owner.entry().and_then(|label| self.steps_of(label)).is_none_or(|mut steps| {
            steps.any(|step| match step {
                NodeLabel::Tag(_, wanted) => !pushed && **wanted == *written,
                NodeLabel::Push(_, wanted) => **wanted == *written,
                _ => false,
            })
        })
    }

    /// Every step asked for is one that its image has.
    fn check_steps(&self, images: &BTreeMap<Label, Read<'c>>) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        for step in &self.selection.steps {
            let Some((label, image)) = step.entry().and_then(|label| Some((label, self.catalogue.images.get(label)?))) else { continue };
            let has = match step {
                NodeLabel::Test(_, name) => image.tests.iter().any(|test| test.name == *name),
                NodeLabel::Tag(_, name) | NodeLabel::Push(_, name) => image.names.iter().any(|own| own.written == *name),
                NodeLabel::Entry(_) | NodeLabel::Outside(_) => images.contains_key(label),
            };
            if !has {
                let tests = image.tests.iter().map(|test| format!("test/{}", test.name));
                let names = image.names.iter().flat_map(|name| [format!("tag/{}", name.written), format!("push/{}", name.written)]);
                let all: Vec<String> = tests.chain(names).collect();
                problems.push(Problem::new(format!("there is no {step}")).hint(format!("{label} has {}", all.join(", "))));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A gate for every image, then the names of the selected ones.
    fn add_gates_and_names(&mut self, images: &BTreeMap<Label, Read<'c>>, selected: &BTreeSet<Label>) {
        let mut gates: HashMap<NodeIndex, NodeIndex> = HashMap::new();
        for image in walk::topological(&self.nodes) {
            let Body::Image(body) = &self.nodes[image].body else { continue };
            let parents: BTreeSet<NodeIndex> = body.parents.values().filter_map(|parent| gates.get(parent).copied()).collect();
            let mut tests: Vec<NodeIndex> = self
                .nodes
                .neighbors_directed(image, petgraph::Direction::Incoming)
                .filter(|index| matches!(&self.nodes[*index].body, Body::Test(test) if test.subject == image))
                .collect();
            tests.sort_unstable();
            let body = Body::Gate(GateNode { image, tests: tests.clone(), parents: parents.iter().copied().collect() });
            let node = Node { owner: self.nodes[image].owner.clone(), platform: self.nodes[image].platform.clone(), body };
            let gate = self.nodes.add_node(node);
            for needed in tests.into_iter().chain(parents).chain([image]) {
                self.nodes.update_edge(gate, needed, ());
            }
            gates.insert(image, gate);
        }
        if self.options.depth < Depth::Tag {
            return;
        }
        for label in selected.iter().filter(|label| images.contains_key(*label)) {
            let Some(image) = self.by_owner.get(&NodeLabel::Entry(label.clone())).copied() else { continue };
            let (Some(gate), Some(spec)) = (gates.get(&image).copied(), self.catalogue.images.get(label)) else { continue };
            self.add_names(image, gate, spec, None, Body::Tags);
            if self.options.depth >= Depth::Push {
                self.add_names(image, gate, spec, Some(self.options.destination), Body::Pushes);
            }
        }
    }

    fn add_names(
        &mut self,
        image: NodeIndex,
        gate: NodeIndex,
        spec: &spec::Image,
        to: Option<&Destination>,
        body: fn(NamesNode) -> Body<'c>,
    ) {
        let owner = self.nodes[image].owner.clone();
        let mut names = Vec::new();
        for name in &spec.names {
            if !self.wants_name(&owner, &name.written, to.is_some()) {
                continue;
            }
            match to.map_or(Ok(name.reference.clone()), |to| spec.destination(name, to)) {
                Ok(reference) => names.push(ImageName { written: name.written.clone(), reference }),
                Err(error) => self.problems.push(Problem::new(error.to_string()).at(spec.origin.source(), name.span.range())),
            }
        }
        if names.is_empty() {
            return;
        }
        let node = Node { owner, platform: self.nodes[image].platform.clone(), body: body(NamesNode { image, gate, names }) };
        let index = self.nodes.add_node(node);
        self.nodes.update_edge(index, image, ());
        self.nodes.update_edge(index, gate, ());
    }
}

/// The reference that stands for the image under test in a test's Dockerfile.
pub const SUBJECT: &str = "subject";
