//! All that execution touches, handed in: graph, past, engine, registry, clock, listeners. And what a job is and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::materials::Presence;
use super::recording::Unrecorded;
use super::spool::Spool;
use crate::access::SecretSource;
use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::component::Component;
use crate::digest::{ImageId, Key};
use crate::engine::Engine;
use crate::event::{Event, Outcome, Sink};
use crate::failure::Failure;
use crate::graph::{Body, Graph, NodeIndex};
use crate::label::NodeLabel;
use crate::lock::LockFile;
use crate::plan::{Decision, Planner, Value};
use crate::platform::Platform;
use crate::reason::{Reason, reasons_of_step};
use crate::record::State;
use crate::reference::Reference;
use crate::registry::Client;
use crate::spec::{self, Catalogue, RetryPolicy};

/// Makes the engine when it is first needed: a run that does nothing never calls it.
pub type EngineFactory<'a> = dyn Fn() -> Result<Arc<dyn Engine>, Failure> + Send + Sync + 'a;

/// The engine, made when first needed.
pub struct LazyEngine<'a> {
    make: Box<EngineFactory<'a>>,
    made: OnceLock<Result<Arc<dyn Engine>, Failure>>,
}

impl<'a> LazyEngine<'a> {
    /// With how it is made.
    pub fn new(make: Box<EngineFactory<'a>>) -> Self {
        Self { make, made: OnceLock::new() }
    }

    /// The engine.
    ///
    /// # Errors
    /// Infra, where there is none; always the same.
    pub fn engine(&self) -> Result<&Arc<dyn Engine>, Failure> {
        self.made.get_or_init(|| (self.make)()).as_ref().map_err(Clone::clone)
    }

    /// Whether it was ever needed.
    pub fn is_made(&self) -> bool {
        self.made.get().is_some()
    }
}

/// Stops single nodes of a run from outside, and lets a run end early: nothing new starts, what runs goes on.
#[derive(Debug, Default)]
pub struct Stops {
    drains: AtomicBool,
    running: Mutex<BTreeMap<NodeLabel, Cancel>>,
}

impl Stops {
    /// Starts nothing new.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::SeqCst);
    }

    /// Whether nothing new may start.
    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    /// The nodes that run.
    pub fn running(&self) -> BTreeSet<NodeLabel> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Stops a node, where it runs.
    pub fn stop(&self, node: &NodeLabel) {
        if let Some(cancel) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(node) {
            cancel.cancel();
        }
    }

    /// A node begins: what stops it, or all.
    pub(super) fn begin(&self, node: &NodeLabel, all: &Cancel) -> Cancel {
        let cancel = all.child();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone(), cancel.clone());
        cancel
    }

    /// A node has ended.
    pub(super) fn end(&self, node: &NodeLabel) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}

/// What the user wants of execution.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes that run at once.
    pub jobs: usize,
    /// The first failure stops the rest.
    pub fail_fast: bool,
    /// `--retries`.
    pub retries: Option<u32>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// Ask engine and registries whether recorded results are there.
    pub verify: bool,
    /// The lock may not change.
    pub locked: bool,
}

/// All that execution touches.
pub struct World<'a> {
    /// Workspace root.
    pub root: &'a Path,
    /// What was declared.
    pub catalogue: &'a Catalogue,
    /// What is to be done.
    pub graph: &'a Graph<'a>,
    /// Who decides.
    pub planner: &'a Planner<'a>,
    /// What has been decided before anything ran, in the graph's order.
    pub plan: &'a [(NodeIndex, Decision)],
    /// The records.
    pub state: &'a State,
    /// `igraph.lock`.
    pub lock: &'a LockFile,
    /// The engine.
    pub engine: &'a LazyEngine<'a>,
    /// The registries.
    pub registry: &'a Client,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Who listens.
    pub sink: &'a dyn Sink,
    /// The run's id.
    pub run: &'a str,
    /// How long nodes took last time, in milliseconds.
    pub durations: &'a BTreeMap<NodeLabel, u64>,
    /// Stops the run.
    pub cancel: &'a Cancel,
    /// Stops single nodes.
    pub stops: &'a Stops,
    /// Environment variables that build files name, read when they are used.
    pub environment: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// Proxies for RUN steps.
    pub proxies: &'a BTreeMap<String, String>,
    /// The user's wishes.
    pub options: Options,
    /// What execution keeps during a run.
    pub held: Held,
}

/// Locks that are made when first asked for.
type Turns<Key> = Mutex<BTreeMap<Key, Arc<Mutex<()>>>>;

/// What execution keeps during a run.
pub struct Held {
    /// Images that were found or brought in, by id.
    pub(super) presence: Presence,
    /// Layers on their way out of the engine.
    pub(super) spool: Spool,
    /// Held while a reference is resolved for a platform.
    resolving: Turns<(Reference, Platform)>,
    /// Whose turn it is to publish, by repository.
    repositories: Turns<String>,
    /// How many attempts each step has made, so that each has a log of its own.
    pub(super) attempts: Mutex<BTreeMap<NodeLabel, u32>>,
    /// Randomness for waits: the state of a small generator.
    chance: Mutex<u64>,
}

impl Held {
    /// Nothing yet; the moment makes waits differ between runs.
    pub fn new(now: crate::clock::Timestamp) -> Self {
        Self {
            presence: Presence::default(),
            spool: Spool::default(),
            resolving: Mutex::default(),
            repositories: Mutex::default(),
            attempts: Mutex::default(),
            chance: Mutex::new(now.0.unsigned_abs()),
        }
    }

    /// What is locked while `reference` is resolved for `platform`.
    pub(super) fn resolving(&self, reference: &Reference, platform: &Platform) -> Arc<Mutex<()>> {
        let mut slots = self.resolving.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((reference.clone(), platform.clone())).or_default().clone()
    }

    /// Held by who publishes into a repository.
    pub(super) fn repository(&self, name: &str) -> Arc<Mutex<()>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }

    /// The number of a step's next attempt, from 1.
    pub(super) fn next_attempt(&self, step: &NodeLabel) -> u32 {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let number = attempts.entry(step.clone()).or_default();
        *number += 1;
        *number
    }
}

/// A node that has to run.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Why.
    pub reasons: Vec<Reason>,
    /// Its key.
    pub key: Option<(Key, Vec<Component>)>,
    /// Use no instruction cache.
    pub no_cache: bool,
}

/// How one step of a node ended, where a node stands for several.
#[derive(Clone, Debug)]
pub(super) struct StepEnd {
    /// Which.
    pub label: NodeLabel,
    /// How.
    pub outcome: Outcome,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub(super) struct JobEnd {
    /// Of all its steps that `steps` does not name.
    pub outcome: Outcome,
    /// What dependants need of it; `None` when they can't go on.
    pub value: Option<Value>,
    /// Of single steps.
    pub steps: Vec<StepEnd>,
    /// Why it ran.
    pub reasons: Vec<Reason>,
    /// How many attempts it took.
    pub attempts: u32,
    /// How long it ran.
    pub duration_ms: u64,
    /// A node whose result it needs and nobody has.
    pub lost: Option<NodeIndex>,
    /// Its files changed while they were read: it is to be decided about again, under another key.
    pub overtaken: bool,
    /// What is to be recorded of it before anybody hears of it.
    pub record: Option<Box<Unrecorded>>,
}

/// Looks up settled values.
pub(super) type Lookup<'v> = dyn Fn(NodeIndex) -> Option<Value> + Sync + 'v;

impl World<'_> {
    /// Tells the listeners.
    pub(super) fn emit(&self, event: &Event) {
        self.sink.emit(event);
    }

    /// Warns.
    pub(super) fn warn(&self, node: Option<NodeLabel>, message: String) {
        self.emit(&Event::Warning { at: self.clock.now(), node, message });
    }

    /// The terminal event of each step of a node.
    pub(super) fn announce(&self, index: NodeIndex, end: &JobEnd) {
        for (label, kind) in self.graph.node(index).steps() {
            let outcome = end.outcome_of(&label);
            let reasons = reasons_of_step(&end.reasons, &label);
            self.emit(&Event::NodeFinished {
                at: self.clock.now(),
                node: label,
                kind,
                outcome,
                reasons,
                attempts: end.attempts,
                duration_ms: end.duration_ms,
                image: end.image(),
            });
        }
    }

    /// The steps that a node directly stands on; a gate is what is below it.
    pub(super) fn needs(&self, index: NodeIndex) -> Vec<NodeLabel> {
        let mut needs = Vec::new();
        for needed in self.graph.dependencies(index) {
            match &self.graph.node(needed).body {
                Body::Gate(gate) => needs.extend(gate.tests.iter().map(|test| self.graph.node(*test).label())),
                _ => needs.push(self.graph.node(needed).label()),
            }
        }
        needs
    }

    /// The label to name as the cause when what stands on `index` is skipped: a gate's failing is that of a test below it.
    pub(super) fn cause(&self, index: NodeIndex, end: &JobEnd) -> NodeLabel {
        match &end.outcome {
            Outcome::Skipped { cause } => cause.clone(),
            _ => self.graph.node(index).label(),
        }
    }

    /// How long a node may take, in milliseconds: as long as last time, or a guess by kind.
    pub(super) fn expected_ms(&self, index: NodeIndex) -> u64 {
        let node = self.graph.node(index);
        let guess = match &node.body {
            Body::Image(_) => 10_000,
            Body::Base(_) | Body::Test(_) | Body::Pushes(_) => 2_000,
            Body::Gate(_) | Body::Tags(_) => 1,
        };
        match &node.body {
            Body::Gate(_) => guess,
            _ => self.durations.get(&node.label()).copied().unwrap_or(guess),
        }
    }

    /// Decides about a popped node, by what the plan has found where that holds; with `--verify`, a recorded result is asked after.
    ///
    /// # Errors
    /// Where that can't be asked.
    pub(super) fn decide(&self, index: NodeIndex, planned: Option<&Value>, values: &Lookup<'_>) -> Result<Decision, Failure> {
        let decision = planned.map_or_else(|| self.planner.decide(index, values), |value| Decision::Fresh(value.clone()));
        match decision {
            Decision::Fresh(value) if self.options.verify => self.verified(index, value, values),
            other => Ok(other),
        }
    }

    /// A retry policy with `--retries` over it.
    pub(super) fn policy(&self, own: &RetryPolicy) -> RetryPolicy {
        RetryPolicy { max: self.options.retries.unwrap_or(own.max), ..*own }
    }

    /// A number in `0.0..1.0`, another each time (splitmix64).
    pub(super) fn chance(&self) -> f64 {
        let mut state = self.held.chance.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Secrets of an image, with paths made whole.
    pub(super) fn secrets(&self, image: &spec::Image) -> BTreeMap<String, SecretSource> {
        image
            .secrets
            .iter()
            .map(|(id, source)| {
                let source = match source {
                    SecretSource::Env(name) => SecretSource::Env(name.clone()),
                    SecretSource::File(path) => SecretSource::File(self.root.join(path)),
                };
                (id.to_string(), source)
            })
            .collect()
    }
}

impl JobEnd {
    /// The image that the node is, tests or names.
    pub(super) fn image(&self) -> Option<ImageId> {
        match (&self.value, &self.outcome) {
            (Some(Value::Image { image, .. } | Value::Base { image, .. }), _) => Some(*image),
            (Some(Value::Test(passed)), _) => Some(passed.subject()),
            (_, Outcome::Succeeded { image, .. }) => *image,
            _ => None,
        }
    }
}
