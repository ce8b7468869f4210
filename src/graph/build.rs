//! Builds the graph of what a selection needs: reads Dockerfiles, turns references into edges, finds cycles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use petgraph::graph::DiGraph;
use rayon::prelude::*;

use super::node::*;
use crate::dockerfile::{self, Configs, Dockerfile, ImageUse, Request, UseKind};
use crate::label::{Label, Name, NodeLabel};
use crate::pattern::Selection;
use crate::platform::Platform;
use crate::problem::{Place, Problem, Source, nearest};
use crate::reference::Reference;
use crate::spec::{self, Catalogue, Destination};
use crate::stamp::Stamp;

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
    nodes: DiGraph<Node<'c>, (), u32>,
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
            nodes: DiGraph::default(),
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

struct Builder<'c, 'a> {
    catalogue: &'c Catalogue,
    selection: &'a Selection,
    options: &'a GraphOptions<'a>,
    configs: &'a dyn KnownConfigs,
    nodes: DiGraph<Node<'c>, (), u32>,
    by_owner: HashMap<NodeLabel, NodeIndex>,
    bases: HashMap<(NodeLabel, Platform), NodeIndex>,
    problems: Vec<Problem>,
    /// Test Dockerfiles by their rule: many images share one.
    test_files: Mutex<BTreeMap<Label, DockerfileRead>>,
}

/// What a Dockerfile refers to: by key, whose it is, the platform wanted, and where it stands.
type References = Vec<(String, Target, Platform, std::ops::Range<usize>)>;

/// An image whose Dockerfile is read, with its tests.
struct Read<'c> {
    dockerfile: DockerfileRead,
    references: References,
    tests: Vec<TestRead<'c>>,
}

/// A test as it applies to one image.
struct TestRead<'c> {
    name: Name,
    spec: &'c spec::Test,
    dockerfile: Option<DockerfileRead>,
    references: References,
}

#[derive(Clone, PartialEq, Eq)]
enum Target {
    Entry(Label),
    Outside(Reference),
    Subject,
}

impl Target {
    fn owner(&self) -> Option<NodeLabel> {
        match self {
            Self::Entry(label) => Some(NodeLabel::Entry(label.clone())),
            Self::Outside(reference) => Some(NodeLabel::Outside(reference.clone())),
            Self::Subject => None,
        }
    }
}

impl<'c> Builder<'c, '_> {
    fn build(mut self) -> Result<Graph<'c>, Vec<Problem>> {
        let entries = self.selection.steps.iter().filter_map(NodeLabel::entry).cloned();
        let selected: BTreeSet<Label> = self.selection.labels.iter().cloned().chain(entries).collect();
        let images = self.read_images(&selected);
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
        let order = topological(&self.nodes);
        Ok(Graph { nodes: self.nodes, order, by_owner: self.by_owner, selected })
    }

    /// Reads the Dockerfiles of the selected images and, wave by wave, of the images those refer to.
    fn read_images(&mut self, selected: &BTreeSet<Label>) -> BTreeMap<Label, Read<'c>> {
        let mut images: BTreeMap<Label, Read<'c>> = BTreeMap::new();
        let mut wave: Vec<Label> = selected.iter().cloned().collect();
        let mut seen: BTreeSet<Label> = selected.clone();
        while !wave.is_empty() {
            let read: Vec<_> = wave.par_iter().map(|label| self.read_image(label)).collect();
            let mut next = BTreeSet::new();
            for (label, read) in wave.into_iter().zip(read) {
                match read {
                    Ok(read) => {
                        let tested = read.tests.iter().flat_map(|test| &test.references);
                        for (_, target, ..) in read.references.iter().chain(tested) {
                            if let Target::Entry(parent) = target
                                && self.catalogue.images.contains_key(parent)
                                && seen.insert(parent.clone())
                            {
                                next.insert(parent.clone());
                            }
                        }
                        images.insert(label, read);
                    }
                    Err(problems) => self.problems.extend(problems),
                }
            }
            wave = next.into_iter().collect();
        }
        images
    }

    fn read_image(&self, label: &Label) -> Result<Read<'c>, Vec<Problem>> {
        let Some(image) = self.catalogue.images.get(label) else {
            return Err(vec![Problem::new(format!("{label} is no image"))]);
        };
        let dockerfile = read_dockerfile(&self.catalogue.root, &image.dockerfile, &image.origin.field("dockerfile"), dockerfile::parse)?;
        let platform = &image.platform;
        let references = self.references(&dockerfile.parsed, image.target.as_deref(), &spec::image_arguments(image), platform)?;
        let mut tests = Vec::new();
        if self.options.depth >= Depth::Test {
            for test in &image.tests {
                tests.push(self.read_test(test, label, image)?);
            }
        }
        Ok(Read { dockerfile, references, tests })
    }

    fn read_test(&self, label: &Label, image_label: &Label, image: &spec::Image) -> Result<TestRead<'c>, Vec<Problem>> {
        let Some(spec) = self.catalogue.tests.get(label) else {
            return Err(vec![Problem::new(format!("{label} is no test"))]);
        };
        let spec::TestForm::Dockerfile { dockerfile, .. } = &spec.form else {
            return Ok(TestRead { name: label.name.clone(), spec, dockerfile: None, references: Vec::new() });
        };
        let known = self.test_files.lock().unwrap_or_else(PoisonError::into_inner).get(label).cloned();
        let dockerfile = match known {
            Some(read) => read,
            None => {
                let read = read_dockerfile(&self.catalogue.root, dockerfile, &spec.origin.field("dockerfile"), dockerfile::parse_test)?;
                self.test_files.lock().unwrap_or_else(PoisonError::into_inner).insert(label.clone(), read.clone());
                read
            }
        };
        let args = spec::test_arguments(spec, image_label, image);
        let references = self.references(&dockerfile.parsed, None, &args, &image.platform)?;
        Ok(TestRead { name: label.name.clone(), spec, dockerfile: Some(dockerfile), references })
    }

    fn references(
        &self,
        dockerfile: &Dockerfile,
        target: Option<&str>,
        args: &BTreeMap<String, String>,
        platform: &Platform,
    ) -> Result<References, Vec<Problem>> {
        let configs = ByText { builder: self, platform };
        let request = Request { target, args, platform, build_platform: self.options.platform };
        let resolved = dockerfile.resolve(&request, &configs)?;
        let mut found = References::new();
        let mut problems = Vec::new();
        for reference in &resolved.references {
            let wanted = reference.platform.as_ref().unwrap_or(platform);
            match self.target(&reference.text).and_then(|target| self.check_platform(reference, target, wanted)) {
                Ok(target) => found.push((reference.key(), target, wanted.clone(), reference.span.clone())),
                Err(problem) => {
                    let written = dockerfile.source().text.get(reference.span.clone()).unwrap_or_default();
                    let problem = match problem.hint {
                        None if written.contains('$') => {
                            problem.hint(format!("`{written}` became that: give its arguments values, with `ARG NAME=…` or in `args`"))
                        }
                        None if self.target(&written.to_lowercase()).is_ok() => {
                            problem.hint(format!("did you mean `{}`?", written.to_lowercase()))
                        }
                        _ => problem,
                    };
                    problems.push(problem.at(dockerfile.source(), reference.span.clone()));
                }
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    /// Whose reference is it? (DESIGN §2)
    fn target(&self, text: &str) -> Result<Target, Problem> {
        if text == SUBJECT {
            return Ok(Target::Subject);
        }
        let reference: Reference = text.parse().map_err(|error: crate::reference::ParseReferenceError| Problem::new(error.to_string()))?;
        Ok(match self.catalogue.claims.owner(&reference) {
            None => Target::Outside(reference),
            Some(label) => Target::Entry(label.clone()),
        })
    }

    /// A stage starts from an image for its own platform.
    fn check_platform(&self, reference: &ImageUse, target: Target, wanted: &Platform) -> Result<Target, Problem> {
        let own = match &target {
            Target::Entry(label) => match (self.catalogue.images.get(label), self.catalogue.bases.get(label)) {
                (Some(image), _) => image.platform.clone(),
                (None, Some(base)) => base.platform_for(wanted),
                (None, None) => return Ok(target),
            },
            Target::Outside(_) | Target::Subject => return Ok(target),
        };
        if reference.kind != UseKind::From || (own.os(), own.architecture()) == (wanted.os(), wanted.architecture()) {
            return Ok(target);
        }
        let is = target.owner().map(|owner| owner.to_string()).unwrap_or_default();
        Err(Problem::new(format!("`{}` is {is}, which is for {own}, and is wanted for {wanted} here", reference.text))
            .hint(format!("set `platform` of one of the two, or write `FROM --platform={own}`")))
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
            let path = self.shortest_cycle(start, &inside);
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

    fn shortest_cycle(&self, start: NodeIndex, inside: &BTreeSet<NodeIndex>) -> Vec<NodeIndex> {
        let mut came_from: HashMap<NodeIndex, NodeIndex> = HashMap::new();
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            let mut next: Vec<NodeIndex> = self.nodes.neighbors(at).filter(|index| inside.contains(index)).collect();
            next.sort_by_key(|index| self.nodes[*index].owner.clone());
            for to in next {
                if to == start {
                    let mut path = vec![at];
                    while let Some(before) = came_from.get(path.last().unwrap_or(&at)) {
                        path.push(*before);
                    }
                    path.reverse();
                    return path;
                }
                if to != start && !came_from.contains_key(&to) {
                    came_from.insert(to, at);
                    queue.push_back(to);
                }
            }
        }
        vec![start]
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

    /// All tests of an image, but where single ones were asked for; for a name every test counts.
    fn wants_test(&self, label: &Label, test: &Name) -> bool {
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
        for image in topological(&self.nodes) {
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

struct ByText<'a> {
    builder: &'a Builder<'a, 'a>,
    platform: &'a Platform,
}

impl Configs for ByText<'_> {
    fn config(&self, image: &str) -> Option<Arc<crate::image::ImageConfig>> {
        let (text, other) = ImageUse::of_key(image);
        let wanted = other.as_ref().unwrap_or(self.platform);
        let catalogue = self.builder.catalogue;
        match self.builder.target(text).ok()? {
            Target::Entry(label) => match catalogue.bases.get(&label) {
                Some(base) => {
                    let owner = match &base.from {
                        spec::BaseFrom::Registry(reference) => NodeLabel::Outside(reference.clone()),
                        _ => NodeLabel::Entry(label),
                    };
                    self.builder.configs.known(&owner, &base.platform_for(wanted))
                }
                None => {
                    let platform = &catalogue.images.get(&label)?.platform;
                    self.builder.configs.known(&NodeLabel::Entry(label.clone()), platform)
                }
            },
            target => self.builder.configs.known(&target.owner()?, wanted),
        }
    }
}

fn topological(nodes: &DiGraph<Node<'_>, (), u32>) -> Vec<NodeIndex> {
    // petgraph sorts dependants first, since edges go to dependencies
    let mut order = petgraph::algo::toposort(nodes, None).unwrap_or_default();
    order.reverse();
    order
}

/// What was probably meant by the path of a Dockerfile that is not there: one nearby, by its path from the same folder.
fn near_dockerfile(root: &Path, path: &str) -> Option<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (above, last) = folder.rsplit_once('/').unwrap_or(("", folder));
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let beside: Vec<String> = names(folder).into_iter().filter(|near| root.join(folder).join(near).is_file()).collect();
    let folders: Vec<String> = names(above).into_iter().filter(|near| root.join(above).join(near).join(name).is_file()).collect();
    let join = |parts: [&str; 2]| parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let near = nearest(name, beside.iter().map(String::as_str)).map(|near| join([folder, near]));
    let near = near.or_else(|| nearest(last, folders.iter().map(String::as_str)).map(|near| join([&join([above, near]), name])));
    Some(near.map_or_else(|| "write it, or say where it lies: `dockerfile: \"…\"`".to_owned(), |near| format!("did you mean `{near}`?")))
}

fn read_dockerfile(
    root: &Path,
    path: &str,
    place: &Place,
    parse: fn(&Arc<Source>) -> Result<Dockerfile, Vec<Problem>>,
) -> Result<DockerfileRead, Vec<Problem>> {
    let full = root.join(path);
    let fail = |error: &std::io::Error| {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file `{path}`"),
            std::io::ErrorKind::PermissionDenied => format!("`{path}` can't be read: permission denied"),
            _ => format!("`{path}` can't be read: {error}"),
        };
        let hint = (error.kind() == std::io::ErrorKind::NotFound).then(|| near_dockerfile(root, path)).flatten();
        vec![Problem { message, places: vec![place.clone()], hint }]
    };
    let metadata = std::fs::metadata(&full).map_err(|error| fail(&error))?;
    if metadata.is_dir() {
        let hint = full.join("Dockerfile").is_file().then(|| format!("did you mean `{path}/Dockerfile`?"));
        return Err(vec![Problem { message: format!("`{path}` is a folder, not a Dockerfile"), places: vec![place.clone()], hint }]);
    }
    let bytes = std::fs::read(&full).map_err(|error| fail(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        vec![Problem {
            message: format!("`{path}` is not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            places: vec![place.clone()],
            hint: None,
        }]
    })?;
    let source = Arc::new(Source { path: path.to_owned(), text });
    let parsed = parse(&source)?;
    Ok(DockerfileRead { path: path.to_owned(), stamp: Stamp::of(&metadata), parsed: Arc::new(parsed) })
}
