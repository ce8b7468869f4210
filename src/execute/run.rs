//! The main loop: pops ready nodes, decides, hands what must run to slots, records how each ended.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::queue::{Queue, State};
use super::recording::{self, Ended};
use super::world::{Job, JobEnd, StepEnd, World};
use super::{bases, builds, names, tests_of};
use crate::digest::{ImageId, Key};
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

/// How often a node whose files change while they are read is decided about again within a run.
const CHANGES: u32 = 3;

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
    draining: bool,
    /// Popped nodes that are to be decided about again.
    again: Vec<NodeIndex>,
    /// How often that happened because a node's files changed.
    changes: BTreeMap<NodeIndex, u32>,
    /// Nodes that have done their work and are being recorded.
    recording: BTreeSet<NodeIndex>,
    /// The keys that jobs run under.
    keys: BTreeMap<NodeIndex, Key>,
    /// Popped nodes that wait for a job with the same key, whose result is theirs.
    parked: BTreeMap<Key, Vec<NodeIndex>>,
    /// Ends of nodes that stood on something that was put back meanwhile.
    overtaken: BTreeMap<NodeIndex, JobEnd>,
    /// Nodes whose steps have had their terminal events.
    announced: BTreeSet<NodeIndex>,
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
        draining: false,
        again: Vec::new(),
        changes: BTreeMap::new(),
        recording: BTreeSet::new(),
        keys: BTreeMap::new(),
        parked: BTreeMap::new(),
        overtaken: BTreeMap::new(),
        announced: BTreeSet::new(),
    };
    let (give, given) = mpsc::channel::<(NodeIndex, Job)>();
    let given = Mutex::new(given);
    std::thread::scope(|scope| {
        // the slots end when nothing can be given any more
        let give = give;
        let (sender, receiver) = mpsc::channel::<Ended>();
        // a slot does many jobs: what a job leaves would keep the memory of a thread of its own
        let (mut slots, mut taken) = (0, 0);
        let (unrecorded, records) = mpsc::channel::<(NodeIndex, JobEnd)>();
        let recorded = sender.clone();
        scope.spawn(move || recording::run(world, &records, &recorded));
        loop {
            while state.busy() < world.options.jobs.max(1) && !state.stopping() {
                let Some(index) = state.next() else { break };
                let Some(job) = state.decide(index) else { continue };
                taken += 1;
                if taken > slots {
                    slots += 1;
                    let (sender, given, values) = (sender.clone(), &given, state.values);
                    scope.spawn(move || {
                        let next = || given.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        while let Ok((index, job)) = next() {
                            // a panic that is told nobody would be waited for without end
                            let end = catch_unwind(AssertUnwindSafe(|| perform(world, index, &job, values)));
                            // the receiver outlives every job
                            let _ = sender.send((index, end));
                        }
                    });
                }
                // the other end outlives the slots
                let _ = give.send((index, job));
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
                Ok((index, Ok(end))) if end.record.is_some() => {
                    taken -= 1;
                    state.drain_after(&end);
                    state.recording.insert(index);
                    // who records ends after this loop
                    let _ = unrecorded.send((index, end));
                }
                Ok((index, Ok(end))) => {
                    // one that comes from its slot, with nothing to record
                    if !state.recording.remove(&index) {
                        taken -= 1;
                    }
                    state.settle(index, end);
                }
                Ok((_, Err(panic))) => {
                    world.cancel.cancel();
                    resume_unwind(panic);
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
    /// Slots that are taken. Where there is only one, who is being recorded keeps it: what comes next does not depend on the disk.
    fn busy(&self) -> usize {
        let recording = if self.world.options.jobs > 1 { self.recording.len() } else { 0 };
        self.queue.running() - self.again.len() - recording - self.parked.values().map(Vec::len).sum::<usize>()
    }

    /// The next node to decide about.
    fn next(&mut self) -> Option<NodeIndex> {
        self.again.pop().or_else(|| self.queue.pop().map(|at| self.nodes[at]))
    }

    fn stopping(&self) -> bool {
        self.draining || self.world.cancel.is_cancelled() || self.world.stops.drains()
    }

    /// Decides about a popped node: the job to run, or `None` when it has ended already.
    fn decide(&mut self, index: NodeIndex) -> Option<Job> {
        let values = self.values;
        let lookup = |index: NodeIndex| values.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned();
        let decision = self.world.decide(index, self.planned(index), &lookup);
        let before = self.overtaken.remove(&index);
        let end = match decision {
            Err(failure) => JobEnd::failed(failure),
            Ok(decision) => match decision {
                Decision::Run { reasons, key, no_cache } => {
                    if let Some((key, _)) = &key {
                        if self.keys.values().any(|running| running == key) {
                            self.parked.entry(*key).or_default().push(index);
                            return None;
                        }
                        self.keys.insert(index, *key);
                    }
                    for (node, kind) in self.world.graph.node(index).steps().into_iter().take(1) {
                        let needs = self.world.needs(index);
                        self.world.emit(&Event::NodeStarted { at: self.world.clock.now(), node, kind, reasons: reasons.clone(), needs });
                    }
                    return Some(Job { reasons, key, no_cache });
                }
                // it ran in this very run, and what it stood on came out the same
                Decision::Fresh(value) => match before {
                    Some(end) => JobEnd { value: Some(value), ..end },
                    None => JobEnd::fresh(value),
                },
                Decision::Blocked(reason) => JobEnd::blocked(reason),
                // what it waits for is settled, so only a config is missing: the job fetches it first
                Decision::Maybe(_) => {
                    return Some(Job { reasons: Vec::new(), key: None, no_cache: self.world.planner.uses_no_cache(index) });
                }
                Decision::Broken(problems) => {
                    let message: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
                    JobEnd::failed(Failure::step(message.join("; ")))
                }
            },
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

    /// After some ends nothing new starts.
    fn drain_after(&mut self, end: &JobEnd) {
        self.draining |= end.disk_full() || (self.world.options.fail_fast && end.is_failure());
    }

    /// Takes the end of a node into queue and values.
    fn settle(&mut self, index: NodeIndex, end: JobEnd) {
        let at = self.position[&index];
        if let Some(waiting) = self.keys.remove(&index).and_then(|key| self.parked.remove(&key)) {
            self.again.extend(waiting);
        }
        if end.overtaken {
            let changes = self.changes.entry(index).or_default();
            *changes += 1;
            if *changes <= CHANGES {
                self.world.planner.forget(index);
                self.again.push(index);
                return;
            }
        }
        // it stood on something that was put back since, or another step has told of the loss before: it waits for what comes of that
        if (end.value.is_some() || end.lost.is_some()) && self.queue.is_overtaken(at) {
            if end.value.is_some() {
                self.overtaken.insert(index, end);
            }
            self.put_back(index);
            return;
        }
        if let Some(lost) = end.lost {
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
            self.values.write().unwrap_or_else(PoisonError::into_inner).insert(index, value.clone());
            self.world.planner.regained(index);
            self.world.planner.let_go(index);
        }
        self.drain_after(&end);
        if !end.is_fresh() {
            self.announce(index, &end);
        }
        let good = end.value.is_some();
        let failure_causes = end.clone();
        self.ends.insert(index, end);
        for (skipped, _) in self.queue.finish(at, good) {
            let skipped = self.nodes[skipped];
            let skipped_end = match failure_causes.outcome {
                Outcome::Cancelled => JobEnd::cancelled(),
                _ => JobEnd::skipped(self.world.cause(index, &failure_causes)),
            };
            self.announce(skipped, &skipped_end);
            self.ends.insert(skipped, skipped_end);
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

    /// The terminal events of a node's steps, once: what runs again because its ground vanished has had them.
    fn announce(&mut self, index: NodeIndex, end: &JobEnd) {
        if self.announced.insert(index) {
            self.world.announce(index, end);
            return;
        }
        let label = self.world.graph.node(index).label();
        let how = if end.value.is_some() { "and went well" } else { "and did not go well" };
        self.world.warn(Some(label.clone()), format!("{label} ran again, since the image it stood on had vanished, {how}"));
    }

    /// Nothing new starts: all that waits ends as cancelled.
    fn stop(&mut self) {
        for index in std::mem::take(&mut self.again) {
            self.settle(index, JobEnd::cancelled());
        }
        for at in self.queue.stop() {
            let index = self.nodes[at];
            let end = JobEnd::cancelled();
            self.announce(index, &end);
            self.ends.insert(index, end);
        }
    }

    fn finish(mut self) -> RunEnd {
        let stopped = self.stopping();
        let mut steps = Vec::new();
        for index in std::mem::take(&mut self.nodes) {
            let Some(end) = self.ends.remove(&index) else { continue };
            if end.is_fresh() && self.announced.insert(index) {
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
        Self {
            outcome,
            value,
            steps: Vec::new(),
            reasons: Vec::new(),
            attempts: 0,
            duration_ms: 0,
            lost: None,
            overtaken: false,
            record: None,
        }
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

    /// Its files are no more what its key saw.
    pub(super) fn overtaken(failure: Failure) -> Self {
        Self { overtaken: true, ..Self::failed(failure) }
    }

    fn skipped(cause: NodeLabel) -> Self {
        Self::simple(Outcome::Skipped { cause }, None)
    }

    fn cancelled() -> Self {
        Self::simple(Outcome::Cancelled, None)
    }

    /// With the attempts, reasons and time of another end of the same job.
    pub(super) fn like(self, other: &Self) -> Self {
        Self { reasons: other.reasons.clone(), attempts: other.attempts, duration_ms: other.duration_ms, ..self }
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
