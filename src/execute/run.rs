//! The main loop: pops ready nodes, decides, hands what must run to slots, records how each ended.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::queue::{Queue, State};
use super::world::{Job, JobEnd, StepEnd, World};
use super::{bases, builds, names, tests_of};
use crate::digest::ImageId;
use crate::event::{Event, NodeKind, Outcome};
use crate::failure::{Failure, FailureClass};
use crate::graph::{Body, NodeIndex};
use crate::label::NodeLabel;
use crate::plan::{Decision, Value};
use crate::reason::Reason;

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct RunEnd {
    /// Every step with its outcome, in the graph's order.
    pub steps: Vec<(NodeLabel, NodeKind, Outcome, Option<ImageId>)>,
    /// The run was stopped before its end.
    pub stopped: bool,
}

/// How often one node's result may be lost within a run before that is called a failure.
const LOSSES: u32 = 2;

struct Loop<'a, 'w> {
    world: &'a World<'w>,
    values: &'a RwLock<BTreeMap<NodeIndex, Value>>,
    queue: Queue,
    nodes: Vec<NodeIndex>,
    position: BTreeMap<NodeIndex, usize>,
    ends: BTreeMap<NodeIndex, JobEnd>,
    losses: BTreeMap<NodeIndex, u32>,
    /// Counts starts and ends, so that it can be told which came first.
    moment: u64,
    started: BTreeMap<NodeIndex, u64>,
    settled: BTreeMap<NodeIndex, u64>,
    draining: bool,
}

/// Runs all nodes of the world's graph. Blocks until every node has reached its end.
pub fn run(world: &World<'_>) -> RunEnd {
    let nodes: Vec<NodeIndex> = world.graph.order().to_vec();
    let position: BTreeMap<NodeIndex, usize> = nodes.iter().enumerate().map(|(at, index)| (*index, at)).collect();
    let dependencies = nodes.iter().map(|index| world.graph.dependencies(*index).iter().map(|needed| position[needed]).collect()).collect();
    let weights: Vec<u64> = nodes.iter().map(|index| world.expected_ms(*index)).collect();
    let values = RwLock::new(BTreeMap::new());
    let mut state = Loop {
        world,
        values: &values,
        queue: Queue::new(dependencies, &weights),
        nodes,
        position,
        ends: BTreeMap::new(),
        losses: BTreeMap::new(),
        moment: 0,
        started: BTreeMap::new(),
        settled: BTreeMap::new(),
        draining: false,
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel::<(NodeIndex, std::thread::Result<JobEnd>)>();
        loop {
            while state.queue.running() < world.options.jobs.max(1) && !state.stopping() {
                let Some(at) = state.queue.pop() else { break };
                let index = state.nodes[at];
                if let Some(job) = state.decide(index) {
                    state.moment += 1;
                    state.started.insert(index, state.moment);
                    let sender = sender.clone();
                    let values = state.values;
                    scope.spawn(move || {
                        // a panic that is told nobody would be waited for without end
                        let end = std::panic::catch_unwind(AssertUnwindSafe(|| perform(world, index, &job, values)));
                        // the receiver outlives every job
                        let _ = sender.send((index, end));
                    });
                }
            }
            if state.stopping() {
                state.stop();
            }
            if state.queue.is_done() && state.queue.running() == 0 {
                break;
            }
            if state.queue.running() == 0 {
                continue;
            }
            // wakes up now and then, so that a cancelled run stops waiting nodes at once
            match receiver.recv_timeout(Duration::from_millis(200)) {
                Ok((index, Ok(end))) => state.settle(index, end),
                Ok((_, Err(panic))) => {
                    world.cancel.cancel();
                    std::panic::resume_unwind(panic);
                }
                Err(_) => continue,
            }
        }
    });
    state.finish()
}

/// Does the work of one node, in a slot of its own.
fn perform(world: &World<'_>, index: NodeIndex, job: &Job, values: &RwLock<BTreeMap<NodeIndex, Value>>) -> JobEnd {
    let lookup = |index: NodeIndex| values.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned();
    match &world.graph.node(index).body {
        Body::Base(base) => bases::run(world, index, base, job),
        Body::Image(image) => builds::run(world, index, image, job, &lookup),
        Body::Test(test) => tests_of::run(world, index, test, job, &lookup),
        Body::Tags(names) => names::tag(world, index, names, job, &lookup),
        Body::Pushes(names) => names::push(world, index, names, job, &lookup),
        Body::Gate(_) => JobEnd::failed(Failure::infra("a gate has nothing to run")),
    }
}

impl Loop<'_, '_> {
    fn stopping(&self) -> bool {
        self.draining || self.world.cancel.is_cancelled()
    }

    /// Decides about a popped node: the job to run, or `None` when it has ended already.
    fn decide(&mut self, index: NodeIndex) -> Option<Job> {
        let values = self.values;
        let lookup = |index: NodeIndex| values.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned();
        let end = match self.world.decide(index, self.planned(index), &lookup) {
            Decision::Run { reasons, key, no_cache } => {
                for (node, kind) in self.world.graph.node(index).steps().into_iter().take(1) {
                    let needs = self.world.needs(index);
                    self.world.emit(&Event::NodeStarted { at: self.world.clock.now(), node, kind, reasons: reasons.clone(), needs });
                }
                return Some(Job { reasons, key, no_cache });
            }
            Decision::Fresh(value) => JobEnd::fresh(value),
            Decision::Blocked(reason) => JobEnd::blocked(reason),
            // what it waits for is settled, so only a config is missing: the job fetches it first
            Decision::Maybe(_) => return Some(Job { reasons: Vec::new(), key: None, no_cache: self.world.planner.options.no_cache }),
            Decision::Broken(problems) => {
                let message: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
                JobEnd::failed(Failure::step(message.join("; ")))
            }
        };
        self.settle(index, end);
        None
    }

    /// What the plan has found of a node: it holds where nothing that the node stands on has run since.
    fn planned(&self, index: NodeIndex) -> Option<&Value> {
        let Decision::Fresh(value) = &self.world.plan[self.position[&index]].1 else { return None };
        let fresh = |needed: &NodeIndex| self.ends.get(needed).is_some_and(JobEnd::is_fresh);
        let holds = !self.world.planner.is_lost(index) && self.world.graph.dependencies(index).iter().all(fresh);
        holds.then_some(value)
    }

    /// Takes the end of a node into queue and values.
    fn settle(&mut self, index: NodeIndex, end: JobEnd) {
        let at = self.position[&index];
        if let Some(lost) = end.lost {
            if self.is_new(lost, index) {
                self.put_back(index);
                return;
            }
            let losses = self.losses.entry(lost).or_default();
            *losses += 1;
            if *losses <= LOSSES {
                self.reopen(lost, index);
                return;
            }
            let label = self.world.graph.node(lost).owner.to_string();
            self.settle(
                index,
                JobEnd { lost: None, ..JobEnd::failed(Failure::infra(format!("the image of {label} vanished again and again"))) },
            );
            return;
        }
        if let Some(value) = &end.value {
            self.moment += 1;
            self.settled.insert(index, self.moment);
            self.values.write().unwrap_or_else(PoisonError::into_inner).insert(index, value.clone());
            self.world.planner.regained(index);
        }
        if end.disk_full() || (self.world.options.fail_fast && end.is_failure()) {
            self.draining = true;
        }
        if !end.is_fresh() {
            self.world.announce(index, &end);
        }
        let good = end.value.is_some();
        let failure_causes = end.clone();
        self.ends.insert(index, end);
        for (skipped, _) in self.queue.finish(at, good) {
            let skipped = self.nodes[skipped];
            let cause = self.world.cause(index, &failure_causes);
            let skipped_end = JobEnd::skipped(cause);
            self.world.announce(skipped, &skipped_end);
            self.ends.insert(skipped, skipped_end);
        }
    }

    /// Whether another step has told of the loss before: the node is on its way again, or has ended since `asker` started.
    fn is_new(&self, lost: NodeIndex, asker: NodeIndex) -> bool {
        self.queue.state(self.position[&lost]) != State::Good || self.settled.get(&lost) > self.started.get(&asker)
    }

    /// A node that could not go on waits for what it needs; where that has failed, it is skipped.
    fn put_back(&mut self, index: NodeIndex) {
        self.world.planner.forget(index);
        if let Err(cause) = self.queue.put_back(self.position[&index]) {
            let cause = self.nodes[cause];
            let end = match self.ends.get(&cause) {
                Some(end) if !self.stopping() => JobEnd::skipped(self.world.cause(cause, end)),
                _ => JobEnd::cancelled(),
            };
            self.settle(index, end);
        }
    }

    /// A result that is needed is nowhere: its node, and what stands on it, go back to the start.
    fn reopen(&mut self, lost: NodeIndex, asker: NodeIndex) {
        let needed_by = self.world.graph.node(asker).label().to_string();
        self.world.planner.lose(lost, needed_by);
        let back: BTreeSet<usize> = self.queue.reopen(self.position[&lost], self.position[&asker]).into_iter().collect();
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        for at in back {
            let index = self.nodes[at];
            values.remove(&index);
            self.ends.remove(&index);
            self.world.planner.forget(index);
        }
        drop(values);
        if self.queue.state(self.position[&asker]) == State::Running {
            self.put_back(asker);
        }
    }

    /// Nothing new starts: all that waits ends as cancelled.
    fn stop(&mut self) {
        for at in self.queue.stop() {
            let index = self.nodes[at];
            let end = JobEnd::cancelled();
            self.world.announce(index, &end);
            self.ends.insert(index, end);
        }
    }

    fn finish(mut self) -> RunEnd {
        let stopped = self.stopping();
        let mut steps = Vec::new();
        for index in std::mem::take(&mut self.nodes) {
            let Some(end) = self.ends.remove(&index) else { continue };
            if end.is_fresh() {
                self.world.announce(index, &end);
            }
            steps.extend(self.world.graph.node(index).steps().into_iter().map(|(label, kind)| {
                let outcome = end.outcome_of(&label);
                (label, kind, outcome, end.image())
            }));
        }
        RunEnd { steps, stopped }
    }
}

impl JobEnd {
    fn simple(outcome: Outcome, value: Option<Value>) -> Self {
        Self { outcome, value, steps: Vec::new(), reasons: Vec::new(), attempts: 0, duration_ms: 0, lost: None }
    }

    /// A recorded result holds.
    pub(super) fn fresh(value: Value) -> Self {
        Self::simple(Outcome::Fresh, Some(value))
    }

    /// It ran and did what it should.
    pub(super) fn done(outcome: Outcome, value: Option<Value>) -> Self {
        Self::simple(outcome, value)
    }

    /// Something forbids it.
    pub(super) fn blocked(reason: String) -> Self {
        Self::simple(Outcome::Blocked { reason }, None)
    }

    /// It failed, or was stopped.
    pub(super) fn failed(failure: Failure) -> Self {
        let outcome = if failure.class == FailureClass::Stopped { Outcome::Cancelled } else { Outcome::Failed { failure } };
        Self::simple(outcome, None)
    }

    /// What it needs is nowhere to be had.
    pub(super) fn lost(node: NodeIndex) -> Self {
        Self { lost: Some(node), ..Self::simple(Outcome::Cancelled, None) }
    }

    fn skipped(cause: NodeLabel) -> Self {
        Self::simple(Outcome::Skipped { cause }, None)
    }

    fn cancelled() -> Self {
        Self::simple(Outcome::Cancelled, None)
    }

    /// Adds the reasons of the job.
    pub(super) fn because(mut self, reasons: &[Reason]) -> Self {
        self.reasons = reasons.to_vec();
        self
    }

    fn is_fresh(&self) -> bool {
        self.outcome == Outcome::Fresh
    }

    fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. } | Outcome::Blocked { .. })
    }

    fn disk_full(&self) -> bool {
        matches!(&self.outcome, Outcome::Failed { failure } if failure.group.as_deref() == Some("disk"))
    }

    /// The outcome of one of its steps.
    pub(super) fn outcome_of(&self, label: &NodeLabel) -> Outcome {
        self.steps.iter().find(|step: &&StepEnd| step.label == *label).map_or_else(|| self.outcome.clone(), |step| step.outcome.clone())
    }
}
