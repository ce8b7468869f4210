//! The survey behind `outdated` and `update`: what registries and policies say of what is in the lock, and what stands on it.
//! Writes nothing: a verdict that asks for a change of the lock is carried out by [`Survey::apply`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::args::World;
use super::error::Error;
use super::grounds::Grounds;
use super::workbench::Workbench;
use crate::clock::{Clock, Day, Timestamp};
use crate::event::{Event, Sink};
use crate::execute::retry::next_wait;
use crate::execute::{self, EngineFactory, Held, LazyEngine, Options, Stops};
use crate::failure::Failure;
use crate::graph::{BaseSource, Body, Depth, Graph, NodeIndex};
use crate::label::{Label, NodeLabel};
use crate::lock::{self, Age, Candidate, Lock, LockFile, LockedBase, Policy, Renewal, Settling};
use crate::pattern::Selection;
use crate::plan::{Decision, PlannerOptions, Value};
use crate::platform::Platform;
use crate::record::{AnswerRecord, State};
use crate::reference::Reference;
use crate::registry::{Client, ResolvedBase};
use crate::spec::Freshness;

/// References that are asked after at once.
const AT_ONCE: usize = 8;

/// What stands on something: all that would be done again if it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Radius {
    /// Images.
    pub images: BTreeSet<NodeLabel>,
    /// Their tests.
    pub tests: BTreeSet<NodeLabel>,
    /// Their names in registries.
    pub names: BTreeSet<String>,
    /// How long each of these took last time, in milliseconds, where that is known; names by their first.
    pub durations: BTreeMap<NodeLabel, u64>,
}

impl Radius {
    /// How long all of it took last time, in milliseconds: one after the other.
    pub fn last_ms(&self) -> u64 {
        self.durations.values().sum()
    }

    /// Adds another's.
    pub fn extend(&mut self, other: &Self) {
        self.images.extend(other.images.iter().cloned());
        self.tests.extend(other.tests.iter().cloned());
        self.names.extend(other.names.iter().cloned());
        self.durations.extend(other.durations.iter().map(|(label, last)| (label.clone(), *last)));
    }

    fn add(&mut self, graph: &Graph<'_>, index: NodeIndex, durations: &BTreeMap<NodeLabel, u64>) {
        let node = graph.node(index);
        let label = node.label();
        match &node.body {
            Body::Image(_) => drop(self.images.insert(label.clone())),
            Body::Test(_) => drop(self.tests.insert(label.clone())),
            Body::Pushes(names) => self.names.extend(names.names.iter().map(|name| name.reference.familiar())),
            Body::Base(_) => {}
            Body::Gate(_) | Body::Tags(_) => return,
        }
        if let Some(last) = durations.get(&label) {
            self.durations.insert(label, *last);
        }
    }
}

/// What a registry says about a base.
#[derive(Clone, Debug)]
pub enum BaseVerdict {
    /// The platform's manifest is the locked one.
    Same {
        /// The lock knows a candidate that has gone again.
        withdrawn: bool,
    },
    /// It is another, and counts.
    Moved { new: ResolvedBase, seen: Option<Timestamp> },
    /// It is another, and has yet to stand a while.
    Settling { new: ResolvedBase, candidate: Candidate, until: Timestamp },
    /// It is not in the lock yet.
    New(ResolvedBase),
    /// Its last day is over: it was not asked after.
    Ended(Day),
}

/// A base from a registry.
pub struct BaseFinding {
    pub reference: Reference,
    pub platform: Platform,
    /// As the lock has it.
    pub locked: Option<LockedBase>,
    pub radius: Radius,
    pub verdict: Result<BaseVerdict, Failure>,
}

/// What the policies of a node say.
#[derive(Clone, Debug)]
pub enum NodeVerdict {
    /// Its age is counted from then on; the lock does not know that yet.
    Counted(Timestamp),
    /// Nothing is due before that moment, where one is set.
    Fresh(Option<Timestamp>),
    /// It is to be renewed.
    Due { policy: Policy, since: Option<Timestamp> },
    /// Its last day is over: it stays as it is.
    Ended(Day),
}

/// An image, or a base that is made here, with a freshness policy.
pub struct NodeFinding {
    pub label: Label,
    pub freshness: Freshness,
    /// As the lock has it.
    pub renewal: Option<Renewal>,
    pub radius: Radius,
    pub verdict: Result<NodeVerdict, Failure>,
    /// What its probe came to, where it was run.
    pub probed: Option<Probing>,
    /// When its newest result was made.
    built: Option<Timestamp>,
    index: NodeIndex,
}

/// What the probe of a node came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probing {
    /// The answer of right after the build.
    Same,
    /// Another: the lines that came, and those that went.
    Otherwise { came: Vec<String>, went: Vec<String> },
    /// The first: later ones are compared with it.
    First(AnswerRecord),
    /// None, and why.
    Nothing(String),
    /// Its image is not the one that its inputs ask for: it is built anyway.
    Stale,
}

/// What was found.
pub struct Survey {
    /// When.
    pub at: Timestamp,
    /// Sorted by reference and platform.
    pub bases: Vec<BaseFinding>,
    /// Sorted by label.
    pub nodes: Vec<NodeFinding>,
}

impl BaseFinding {
    /// Like `debian:bookworm (linux/amd64)`.
    pub fn name(&self) -> String {
        format!("{} ({})", self.reference.familiar(), self.platform)
    }

    /// Whether what stands on it is to be built again.
    pub fn moves(&self) -> bool {
        matches!(self.verdict, Ok(BaseVerdict::Moved { .. } | BaseVerdict::New(_)))
    }
}

impl NodeFinding {
    /// Whether it is to be built again.
    pub fn moves(&self) -> bool {
        matches!(self.verdict, Ok(NodeVerdict::Due { .. }))
    }
}

impl Survey {
    /// All that could not be asked, with what it was.
    pub fn failures(&self) -> Vec<(String, Failure)> {
        let bases = self.bases.iter().filter_map(|base| Some((base.name(), base.verdict.as_ref().err()?.clone())));
        let nodes = self.nodes.iter().filter_map(|node| Some((node.label.to_string(), node.verdict.as_ref().err()?.clone())));
        bases.chain(nodes).collect()
    }

    /// All that is to be built again.
    pub fn radius(&self) -> Radius {
        let mut radius = Radius::default();
        self.bases.iter().filter(|base| base.moves()).for_each(|base| radius.extend(&base.radius));
        self.nodes.iter().filter(|node| node.moves()).for_each(|node| radius.extend(&node.radius));
        radius
    }

    /// Whether the lock would change.
    pub fn changes(&self) -> bool {
        let base = |base: &BaseFinding| match &base.verdict {
            Ok(BaseVerdict::Moved { .. } | BaseVerdict::New(_)) => true,
            Ok(BaseVerdict::Same { withdrawn }) => *withdrawn,
            Ok(BaseVerdict::Settling { candidate, .. }) => {
                base.locked.as_ref().is_none_or(|locked| locked.candidate.as_ref() != Some(candidate))
            }
            Ok(BaseVerdict::Ended(_)) | Err(_) => false,
        };
        self.bases.iter().any(base)
            || self.nodes.iter().any(|node| matches!(node.verdict, Ok(NodeVerdict::Counted(_) | NodeVerdict::Due { .. })))
    }

    /// The answers that later ones are to be compared with.
    pub fn baselines(&self) -> Vec<AnswerRecord> {
        let first = |node: &NodeFinding| if let Some(Probing::First(answer)) = &node.probed { Some(answer.clone()) } else { None };
        self.nodes.iter().filter_map(first).collect()
    }

    /// Makes the lock say what was found.
    pub fn apply(&self, lock: &mut Lock) {
        for base in &self.bases {
            let entry = match (&base.verdict, &base.locked) {
                (Ok(BaseVerdict::Moved { new, .. } | BaseVerdict::New(new)), _) => {
                    LockedBase { index: new.index, manifest: new.manifest, config: new.image_id, time: self.at, candidate: None }
                }
                (Ok(BaseVerdict::Settling { candidate, .. }), Some(locked)) => {
                    LockedBase { candidate: Some(candidate.clone()), ..locked.clone() }
                }
                (Ok(BaseVerdict::Same { withdrawn: true }), Some(locked)) => LockedBase { candidate: None, ..locked.clone() },
                _ => continue,
            };
            lock.insert(base.reference.clone(), base.platform.clone(), entry);
        }
        for node in &self.nodes {
            let renewal = match &node.verdict {
                Ok(NodeVerdict::Counted(since)) => Renewal { at: *since, policy: None },
                Ok(NodeVerdict::Due { policy, .. }) => Renewal { at: self.at, policy: Some(*policy) },
                _ => continue,
            };
            lock.renew(node.label.clone(), renewal);
        }
    }
}

/// What to look at, and how.
pub struct Look<'a> {
    pub bench: &'a Workbench<'a>,
    pub selection: &'a Selection,
    /// Narrows it: references, labels of entries, or patterns of images.
    pub what: &'a [String],
    pub clock: Arc<dyn Clock>,
    /// Probes are run too.
    pub probes: Option<Probes<'a>>,
}

/// Where probes are run.
#[derive(Clone, Copy)]
pub struct Probes<'a> {
    /// The engine that was asked for, and what stands in for bases.
    pub world: &'a World,
    /// How it is made, if any probe has to be run.
    pub engine: &'a EngineFactory<'a>,
}

/// A base or a node that is to be looked at.
struct Wanted {
    radius: Radius,
    /// How long a moved digest has to stand.
    settle: Option<std::time::Duration>,
    until: Option<Day>,
}

/// Looks at all bases that the selection stands on and at all nodes with a policy.
///
/// # Errors
/// Of the workspace and the records; what could not be asked is a verdict.
pub fn survey(look: &Look<'_>, lock: &LockFile, state: &State) -> Result<Survey, Error> {
    let (bench, selection, what, clock) = (look.bench, look.selection, look.what, &look.clock);
    let world = look.probes.map(|probes| probes.world.clone()).unwrap_or_default();
    let grounds = Grounds::read(bench, state, lock, &world, None)?;
    let graph = grounds.graph(selection, Depth::Push)?;
    let wanted = wanted(bench, &graph, what)?;
    let is_wanted = |index: NodeIndex| wanted.as_ref().is_none_or(|wanted| wanted.contains(&index));
    let durations = state.durations()?;
    let at = clock.now();
    let bases = ask_all(bench, bases(&graph, lock, &durations, at, is_wanted), lock, clock)?;
    let mut nodes = nodes(&graph, lock, state, &durations, at, is_wanted)?;
    if let Some(probes) = look.probes {
        probe_all(look, probes.engine, lock, state, (&grounds, &graph), &mut nodes)?;
    }
    Ok(Survey { at, bases, nodes })
}

/// The registry bases of the graph, sorted, with what stands on each.
fn bases(
    graph: &Graph<'_>,
    lock: &LockFile,
    durations: &BTreeMap<NodeLabel, u64>,
    now: Timestamp,
    is_wanted: impl Fn(NodeIndex) -> bool,
) -> BTreeMap<(Reference, Platform), Wanted> {
    let mut found: BTreeMap<(Reference, Platform), Wanted> = BTreeMap::new();
    for index in graph.order() {
        let node = graph.node(*index);
        let Body::Base(base) = &node.body else { continue };
        let BaseSource::Registry(reference) = &base.source else { continue };
        // a digest moves nowhere; what it means for a platform is locked all the same
        let settled = reference.digest().is_some() && lock.entry(reference, &node.platform).is_some();
        if settled || !is_wanted(*index) {
            continue;
        }
        let wanted = found.entry((reference.clone(), node.platform.clone())).or_insert_with(|| Wanted {
            radius: Radius::default(),
            settle: None,
            until: None,
        });
        for above in above(graph, *index, now) {
            wanted.radius.add(graph, above, durations);
        }
        let own = base.entry.map(|entry| &entry.freshness);
        let users = graph.dependants(*index).into_iter().filter_map(|above| match &graph.node(above).body {
            Body::Image(image) => image.spec.freshness.settle,
            _ => None,
        });
        wanted.settle = wanted.settle.max(own.and_then(|own| own.settle).or_else(|| users.max()));
        wanted.until = wanted.until.or(own.and_then(|own| own.until));
    }
    found
}

/// The nodes with a policy of their own, sorted, with what their policies say.
fn nodes(
    graph: &Graph<'_>,
    lock: &LockFile,
    state: &State,
    durations: &BTreeMap<NodeLabel, u64>,
    now: Timestamp,
    is_wanted: impl Fn(NodeIndex) -> bool,
) -> Result<Vec<NodeFinding>, Error> {
    let mut found: BTreeMap<Label, NodeFinding> = BTreeMap::new();
    for index in graph.order().iter().copied().filter(|index| is_wanted(*index)) {
        let node = graph.node(index);
        let freshness = match &node.body {
            Body::Image(image) => &image.spec.freshness,
            Body::Base(base) if matches!(base.source, BaseSource::Entry) => match base.entry {
                Some(entry) => &entry.freshness,
                None => continue,
            },
            _ => continue,
        };
        let Some(label) = node.owner.entry() else { continue };
        if freshness.refresh.is_none() && freshness.probe.is_none() && freshness.until.is_none() {
            continue;
        }
        let renewal = lock.renewal(label);
        let built = state.latest_success(&node.label(), &node.platform)?.map(|result| result.at);
        let verdict = match (freshness.until.filter(|day| now >= day.end()), freshness.refresh) {
            (Some(day), _) => NodeVerdict::Ended(day),
            (None, None) => NodeVerdict::Fresh(None),
            (None, Some(refresh)) => match lock::age(refresh, renewal.as_ref(), built, now) {
                Age::Begins(since) => NodeVerdict::Counted(since),
                Age::Fresh(until) => NodeVerdict::Fresh(Some(until)),
                Age::Expired(since) => NodeVerdict::Due { policy: Policy::Refresh, since: Some(since) },
            },
        };
        let mut radius = Radius::default();
        for above in above(graph, index, now).into_iter().chain([index]) {
            radius.add(graph, above, durations);
        }
        let (label, freshness) = (label.clone(), freshness.clone());
        let finding = NodeFinding { label: label.clone(), freshness, renewal, radius, verdict: Ok(verdict), probed: None, built, index };
        found.insert(label, finding);
    }
    Ok(found.into_values().collect())
}

/// Runs the probes of all nodes whose image is the current one, in it, and compares the answers with those of right after the build.
fn probe_all(
    look: &Look<'_>,
    engine: &EngineFactory<'_>,
    lock: &LockFile,
    state: &State,
    (grounds, graph): (&Grounds<'_>, &Graph<'_>),
    nodes: &mut [NodeFinding],
) -> Result<(), Error> {
    if !nodes.iter().any(is_asked) {
        return Ok(());
    }
    let bench = look.bench;
    let context = bench.context;
    let planner = grounds.planner(graph, PlannerOptions::default());
    let plan = planner.plan();
    let fresh = |(index, decision): &'_ (NodeIndex, Decision)| match decision {
        Decision::Fresh(value) => Some((*index, value.clone())),
        _ => None,
    };
    let values: BTreeMap<NodeIndex, Value> = plan.iter().filter_map(fresh).collect();
    let now = look.clock.now();
    let lazy = LazyEngine::new(Box::new(engine));
    let (client, durations) = (bench.client(look.clock.clone(), None)?, BTreeMap::new());
    let (stops, lookup) = (Stops::default(), super::environment::secret);
    let processors = || std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    let jobs = bench.catalogue.workspace.jobs.unwrap_or_else(processors).max(1);
    let world = execute::World {
        root: bench.root(),
        catalogue: &bench.catalogue,
        graph,
        planner: &planner,
        plan: &plan,
        state,
        lock,
        engine: &lazy,
        registry: &client,
        clock: look.clock.as_ref(),
        sink: &Nobody,
        run: "",
        durations: &durations,
        cancel: context.cancel,
        stops: &stops,
        environment: &lookup,
        proxies: &context.environment.proxies,
        options: Options { jobs, fail_fast: false, retries: None, timeout: None, verify: false, locked: false },
        held: Held::new(now),
    };
    let todo: Mutex<Vec<&mut NodeFinding>> = Mutex::new(nodes.iter_mut().rev().filter(|node| is_asked(node)).collect());
    let next = || todo.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(node) = next() {
                    match values.get(&node.index) {
                        Some(value) => probe_one(&world, value, node),
                        None => node.probed = Some(Probing::Stale),
                    }
                }
            });
        }
    });
    Ok(())
}

/// Whether its probe is run: it has one, and nothing else renews it.
fn is_asked(node: &NodeFinding) -> bool {
    node.freshness.probe.is_some() && matches!(node.verdict, Ok(NodeVerdict::Fresh(_) | NodeVerdict::Counted(_)))
}

fn probe_one(world: &execute::World<'_>, value: &Value, node: &mut NodeFinding) {
    let Some(text) = node.freshness.probe.clone() else { return };
    let (Value::Image { image, .. } | Value::Base { image, .. }) = value else { return };
    let digest = execute::probe_digest(&text);
    let answered = execute::probe(world, node.index, value, &text).and_then(|probed| {
        let before = world.state.answer(*image, digest).map_err(|error| Failure::infra(error.to_string()))?;
        Ok(match (probed, before) {
            (execute::Probed::Nothing(message), _) => Probing::Nothing(message),
            (execute::Probed::Answer(answer), None) => Probing::First(AnswerRecord { image: *image, probe: digest, answer }),
            (execute::Probed::Answer(answer), Some(before)) if answer == before => Probing::Same,
            (execute::Probed::Answer(answer), Some(before)) => {
                let (now, then): (BTreeSet<&str>, BTreeSet<&str>) = (answer.lines().collect(), before.lines().collect());
                let lines = |lines: Vec<&&str>| lines.into_iter().map(|line| (*line).to_owned()).collect();
                Probing::Otherwise { came: lines(now.difference(&then).collect()), went: lines(then.difference(&now).collect()) }
            }
        })
    });
    match answered {
        Ok(probing) => {
            if matches!(probing, Probing::Otherwise { .. }) {
                node.verdict = Ok(NodeVerdict::Due { policy: Policy::Probe, since: node.built });
            }
            node.probed = Some(probing);
        }
        Err(failure) => node.verdict = Err(failure),
    }
}

/// Nobody listens to a probe.
struct Nobody;

impl Sink for Nobody {
    fn emit(&self, _: &Event) {}
}

fn reach<'g>(graph: &Graph<'g>, from: NodeIndex, next: impl Fn(&Graph<'g>, NodeIndex) -> Vec<NodeIndex>) -> BTreeSet<NodeIndex> {
    let mut reached = BTreeSet::new();
    let mut todo = next(graph, from);
    while let Some(index) = todo.pop() {
        if reached.insert(index) {
            todo.extend(next(graph, index));
        }
    }
    reached
}

/// What would be done again if the node changed; what is past its last day is not, nor is what stands on that alone.
fn above(graph: &Graph<'_>, from: NodeIndex, now: Timestamp) -> BTreeSet<NodeIndex> {
    let ended = |index: &NodeIndex| {
        let image = match &graph.node(*index).body {
            Body::Gate(gate) => gate.image,
            Body::Tags(names) | Body::Pushes(names) => names.image,
            Body::Base(_) | Body::Image(_) | Body::Test(_) => *index,
        };
        matches!(&graph.node(image).body, Body::Image(image) if image.spec.freshness.until.is_some_and(|day| now >= day.end()))
    };
    reach(graph, from, |graph, index| graph.dependants(index).into_iter().filter(|above| !ended(above)).collect())
}

/// The nodes that `what` means; `None`: all.
fn wanted(bench: &Workbench<'_>, graph: &Graph<'_>, what: &[String]) -> Result<Option<BTreeSet<NodeIndex>>, Error> {
    if what.is_empty() {
        return Ok(None);
    }
    let mut wanted = BTreeSet::new();
    let mut patterns = Vec::new();
    for text in what {
        let mut owners: BTreeSet<NodeLabel> = BTreeSet::new();
        if let Ok(label) = text.parse::<NodeLabel>() {
            owners.insert(label);
        }
        if let Ok(reference) = text.parse::<Reference>() {
            owners.extend(bench.catalogue.claims.owner(&reference).cloned().map(NodeLabel::Entry));
            owners.insert(NodeLabel::Outside(reference));
        }
        // a base has a node for each platform
        let is_base = |index: &&NodeIndex| {
            let node = graph.node(**index);
            matches!(node.body, Body::Base(_)) && owners.contains(&node.owner)
        };
        let found: Vec<NodeIndex> = graph.order().iter().filter(is_base).copied().collect();
        if found.is_empty() {
            patterns.push(text.clone());
        }
        wanted.extend(found);
    }
    if !patterns.is_empty() {
        for label in bench.select(&patterns, &[])?.labels {
            if let Some(index) = graph.find(&NodeLabel::Entry(label)) {
                wanted.insert(index);
                wanted.extend(reach(graph, index, Graph::dependencies));
            }
        }
    }
    Ok(Some(wanted))
}

/// Asks the registries, each reference once, several at a time.
fn ask_all(
    bench: &Workbench<'_>,
    bases: BTreeMap<(Reference, Platform), Wanted>,
    lock: &LockFile,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<BaseFinding>, Error> {
    let client = bench.client(clock.clone(), None)?;
    let asking = Asking { bench, client, clock: clock.as_ref(), lock };
    let bases: Vec<((Reference, Platform), Wanted)> = bases.into_iter().collect();
    // sorted, so that the platforms of one reference stand together
    let groups: Vec<&[((Reference, Platform), Wanted)]> = bases.chunk_by(|one, other| one.0.0 == other.0.0).collect();
    let next = AtomicUsize::new(0);
    let answers: Mutex<BTreeMap<usize, Vec<Result<BaseVerdict, Failure>>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..groups.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some((at, group)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, groups.get(at)?))) {
                    let answer = asking.ask(group);
                    answers.lock().unwrap_or_else(PoisonError::into_inner).insert(at, answer);
                }
            });
        }
    });
    let verdicts = answers.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().flatten();
    let found = bases.into_iter().zip(verdicts).map(|(((reference, platform), wanted), verdict)| {
        let locked = lock.entry(&reference, &platform);
        BaseFinding { reference, platform, locked, radius: wanted.radius, verdict }
    });
    Ok(found.collect())
}

struct Asking<'a> {
    bench: &'a Workbench<'a>,
    client: Client,
    clock: &'a dyn Clock,
    lock: &'a LockFile,
}

impl Asking<'_> {
    /// What became of one reference, for each of its platforms: one HEAD tells of all for which nothing moved.
    fn ask(&self, bases: &[((Reference, Platform), Wanted)]) -> Vec<Result<BaseVerdict, Failure>> {
        let Some(((reference, _), _)) = bases.first() else { return Vec::new() };
        let cancel = self.bench.context.cancel;
        let now = self.clock.now();
        let entries: Vec<Option<LockedBase>> = bases.iter().map(|((_, platform), _)| self.lock.entry(reference, platform)).collect();
        let ended = |wanted: &Wanted, entry: &Option<LockedBase>| wanted.until.filter(|day| now >= day.end() && entry.is_some());
        let asked = bases.iter().zip(&entries).any(|((_, wanted), entry)| entry.is_some() && ended(wanted, entry).is_none());
        let head = if asked {
            match self.patiently(reference, || self.client.head_base(reference, cancel)) {
                Ok(head) => head.map(|head| head.digest),
                Err(failure) => return vec![Err(failure); bases.len()],
            }
        } else {
            None
        };
        let ask = |(((_, platform), wanted), locked): (&((Reference, Platform), Wanted), Option<LockedBase>)| {
            if let Some(day) = ended(wanted, &locked) {
                return Ok(BaseVerdict::Ended(day));
            }
            let same = |locked: &LockedBase| Ok(BaseVerdict::Same { withdrawn: locked.candidate.is_some() });
            // neither the index nor the manifest has moved
            if let Some(locked) = locked.as_ref().filter(|entry| head.is_some() && (head == entry.index || head == Some(entry.manifest))) {
                return same(locked);
            }
            let new = self.patiently(reference, || self.client.resolve(reference, platform, cancel))?;
            let Some(locked) = locked else { return Ok(BaseVerdict::New(new)) };
            if locked.manifest == new.manifest {
                return same(&locked);
            }
            let seen = locked.candidate.as_ref().filter(|candidate| candidate.manifest == new.manifest).map(|candidate| candidate.seen);
            Ok(match wanted.settle.map(|settle| lock::settling(settle, locked.candidate.as_ref(), new.manifest, now)) {
                None | Some(Settling::Moves) => BaseVerdict::Moved { new, seen },
                Some(Settling::Waits { candidate, until }) => BaseVerdict::Settling { new, candidate, until },
            })
        };
        bases.iter().zip(entries).map(ask).collect()
    }

    /// Asks again as the workspace's `retries` allow.
    fn patiently<T>(&self, reference: &Reference, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let context = self.bench.context;
        let mut attempt = 1;
        loop {
            let failure = match ask() {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let policy = &self.bench.catalogue.workspace.retries;
            let Some(wait) = next_wait(policy, attempt, &failure, false, fastrand::f64()) else { return Err(failure) };
            if !context.global.quiet {
                let (name, wait) = (reference.familiar(), wait.as_secs_f64());
                context.printer.say(format_args!("igraph: {name}: {}; again in {wait:.1}s", failure.message));
            }
            if !self.clock.sleep(wait, context.cancel) {
                return Err(Failure::stopped());
            }
            attempt += 1;
        }
    }
}
