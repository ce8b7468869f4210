//! Moves names: only to an image that is [`Tested`], each name read before it is written and after, journaled as a group.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::attempts::{self, Terms, millis, record_failure};
use super::builds::LostNode;
use super::tested::Tested;
use super::upload::{Published, Upload, tested_image};
use super::world::{Job, JobEnd, Lookup, StepEnd, World};
use crate::digest::{Digest, ImageId};
use crate::event::{NodeKind, Outcome, Stream};
use crate::failure::Failure;
use crate::graph::{ImageName, NamesNode, NodeIndex};
use crate::image::EngineImage;
use crate::label::NodeLabel;
use crate::plan::{NameScope, Value};
use crate::reason::reasons_of_step;
use crate::record::{Facts, JournalGroup, JournalName, JournalStep, NameRecord, ResultRecord, Settlement, Verdict};
use crate::reference::Reference;
use crate::registry::{NameOutcome, move_name};

/// Points local names at the image.
pub(super) fn tag(world: &World<'_>, index: NodeIndex, names: &NamesNode, job: &Job, lookup: &Lookup<'_>) -> JobEnd {
    let tested = match world.planner.tested(names, lookup) {
        Ok(tested) => tested,
        Err(not) => return JobEnd::blocked(not.to_string()).because(&job.reasons),
    };
    let label = world.graph.node(index).label();
    let stale = stale(world, index, names, NameScope::Local, job);
    let lost = LostNode::default();
    let attempts = attempts::attempt(world, &label, &terms(world), |attempt, _| {
        let image = tested_image(world, names, &tested, attempt, &lost)?;
        let engine = world.engine.engine()?;
        for name in &stale {
            engine.tag(&image, &name.reference)?;
            attempt.output.line(Stream::Engine, &format!("{} is {}", name.reference.familiar(), image.id));
        }
        let settlements: Vec<Settlement> =
            stale.iter().map(|name| settlement(world, index, name, &tested, NameScope::Local, None, job)).collect();
        world.state.commit_all(&settlements).map_err(|error| record_failure(&error))
    });
    if let Some(node) = lost.take() {
        return JobEnd::lost(node);
    }
    let moved = attempts.result.is_ok().then_some(Outcome::Succeeded { image: Some(tested.image()), changed: true });
    let ended_as = |name: &ImageName| moved.clone().filter(|_| stale.iter().any(|stale| stale.written == name.written));
    let end = end_of(world, index, names, NameScope::Local, &attempts.result, &stale, ended_as);
    super::builds::ended(end, job, &attempts)
}

/// Publishes the image and points registry names at it.
pub(super) fn push(world: &World<'_>, index: NodeIndex, names: &NamesNode, job: &Job, lookup: &Lookup<'_>) -> JobEnd {
    let tested = match world.planner.tested(names, lookup) {
        Ok(tested) => tested,
        Err(not) => return JobEnd::blocked(not.to_string()).because(&job.reasons),
    };
    let label = world.graph.node(index).label();
    let stale = stale(world, index, names, NameScope::Registry, job);
    let lost = LostNode::default();
    let ended = Mutex::default();
    let attempts = attempts::attempt(world, &label, &terms(world), |attempt, _| {
        let upload = Upload { world, names, tested: &tested, lookup, lost: &lost, attempt };
        Publication { upload, index, stale: &stale, job, ended: &ended }.publish()
    });
    if let Some(node) = lost.take() {
        return JobEnd::lost(node);
    }
    let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    let end = end_of(world, index, names, NameScope::Registry, &attempts.result, &stale, |name| ended.get(&name.reference).cloned());
    super::builds::ended(end, job, &attempts)
}

/// The names that have a reason to move; all of them where the reasons are not those of single names.
fn stale<'n>(world: &World<'_>, index: NodeIndex, names: &'n NamesNode, scope: NameScope, job: &Job) -> Vec<&'n ImageName> {
    let has_reason = |name: &&ImageName| !reasons_of_step(&job.reasons, &step_label(world, index, name, scope)).is_empty();
    let stale: Vec<&ImageName> = names.names.iter().filter(has_reason).collect();
    if stale.is_empty() { names.names.iter().collect() } else { stale }
}

/// The end of a job that moves names: each has its own, those that were right stay fresh.
fn end_of(
    world: &World<'_>,
    index: NodeIndex,
    names: &NamesNode,
    scope: NameScope,
    result: &Result<(), Failure>,
    stale: &[&ImageName],
    ended_as: impl Fn(&ImageName) -> Option<Outcome>,
) -> JobEnd {
    let whole = match result {
        Ok(()) => JobEnd::done(Outcome::Succeeded { image: None, changed: true }, Some(Value::Names)),
        Err(failure) => JobEnd::failed(failure.clone()),
    };
    let outcome_of = |name: &ImageName| match ended_as(name) {
        Some(outcome) => outcome,
        None if result.is_ok() || stale.iter().all(|stale| stale.written != name.written) => Outcome::Fresh,
        None => whole.outcome.clone(),
    };
    let steps: Vec<StepEnd> =
        names.names.iter().map(|name| StepEnd { label: step_label(world, index, name, scope), outcome: outcome_of(name) }).collect();
    match steps.iter().find(|step| !step.outcome.is_good()).map(|step| step.outcome.clone()) {
        Some(failed) if result.is_ok() => JobEnd { steps, ..JobEnd::done(failed, None) },
        _ => JobEnd { steps, ..whole },
    }
}

fn terms(world: &World<'_>) -> Terms {
    Terms { policy: world.policy(&world.catalogue.workspace.retries), step_too: false, timeout: world.options.timeout }
}

/// The record of a name that points where it should.
fn settlement(
    world: &World<'_>,
    index: NodeIndex,
    name: &ImageName,
    tested: &Tested,
    scope: NameScope,
    manifest: Option<Digest>,
    job: &Job,
) -> Settlement {
    let node = world.graph.node(index);
    let (key, components) = world.planner.name_key(&name.reference, tested);
    let label = step_label(world, index, name, scope);
    let (run, at) = (world.run.to_owned(), world.clock.now());
    let image = tested.image();
    let record = NameRecord { scope, name: name.reference.clone(), image, manifest, key, node: label.clone(), run: run.clone(), at };
    let result = ResultRecord {
        key,
        node: label,
        platform: node.platform.clone(),
        kind: if scope == NameScope::Local { NodeKind::Tag } else { NodeKind::Push },
        verdict: Verdict::Succeeded,
        image: Some(EngineImage { id: image, handle: String::new(), platform: node.platform.clone() }),
        manifest,
        components,
        run,
        at,
        duration_ms: 0,
        attempts: 1,
        failure: None,
        reasons: job.reasons.clone(),
    };
    Settlement { result, attempts: Vec::new(), facts: Facts { names: vec![record], ..Facts::default() }, journal: Vec::new() }
}

fn step_label(world: &World<'_>, index: NodeIndex, name: &ImageName, scope: NameScope) -> NodeLabel {
    let owner = world.graph.node(index).owner.clone();
    match (owner.entry(), scope) {
        (Some(label), NameScope::Local) => NodeLabel::Tag(label.clone(), name.written.clone()),
        (Some(label), NameScope::Registry) => NodeLabel::Push(label.clone(), name.written.clone()),
        (None, _) => owner,
    }
}

/// What came of moving a group of names.
enum Moves {
    /// Each was tried.
    Done,
    /// The repository has lost blobs of the image.
    BlobsLost(Reference),
}

/// One try at publishing one image under its names.
struct Publication<'a> {
    upload: Upload<'a>,
    index: NodeIndex,
    /// Those to move.
    stale: &'a [&'a ImageName],
    job: &'a Job,
    /// How names ended, in earlier attempts too: none is tried again.
    ended: &'a Mutex<BTreeMap<Reference, Outcome>>,
}

impl Publication<'_> {
    fn publish(&self) -> Result<(), Failure> {
        for _ in 0..2 {
            let mut published: BTreeMap<String, Published> = BTreeMap::new();
            for name in &self.upload.names.names {
                let repository = name.reference.name();
                if let Entry::Vacant(place) = published.entry(repository) {
                    place.insert(self.upload.repository(&name.reference)?);
                }
            }
            let manifests: BTreeSet<Digest> = published.values().map(|manifest| manifest.digest).collect();
            if manifests.len() > 1 {
                // blobs that are packed otherwise can't be had any more: then all repositories get the same anew
                self.say("the image lies in its repositories under different manifests: publishing it anew");
                self.upload.names.names.iter().try_for_each(|name| self.upload.forget(&name.reference))?;
                continue;
            }
            match self.move_names(&published)? {
                Moves::Done => return Ok(()),
                Moves::BlobsLost(repository) => {
                    self.say(&format!("{} has lost blobs of this image: uploading them again", repository.name()));
                    self.upload.forget(&repository)?;
                }
            }
        }
        Err(Failure::infra(format!(
            "blobs of {} vanish from its repositories, or it can't be packed alike for all",
            self.upload.tested.image()
        )))
    }

    fn move_names(&self, published: &BTreeMap<String, Published>) -> Result<Moves, Failure> {
        let world = self.upload.world;
        let mut group = Vec::new();
        for name in &self.upload.names.names {
            let written = world.state.pushed(&name.reference).map_err(|error| record_failure(&error))?;
            // all names are one manifest, whatever became of those that were right
            let elsewhere = written != published.get(&name.reference.name()).map(|manifest| manifest.digest);
            if elsewhere || self.stale.iter().any(|stale| stale.written == name.written) {
                group.push((name, elsewhere));
            }
        }
        let names = group.iter().map(|(name, _)| JournalName {
            name: name.reference.clone(),
            node: step_label(world, self.index, name, NameScope::Registry),
            before: world.state.pushed(&name.reference).ok().flatten(),
            written: false,
        });
        let journal = JournalGroup {
            node: world.graph.node(self.index).owner.clone(),
            image: self.upload.tested.image(),
            manifest: published.values().next().map(|manifest| manifest.digest),
            run: world.run.to_owned(),
            at: world.clock.now(),
            names: names.collect(),
        };
        let journal = world.state.journal_open(&journal).map_err(|error| record_failure(&error))?;
        for (name, elsewhere) in group {
            let before = self.ended.lock().unwrap_or_else(PoisonError::into_inner).get(&name.reference).map(Outcome::is_good);
            if before == Some(false) || (before == Some(true) && !elsewhere) {
                continue;
            }
            let Some(manifest) = published.get(&name.reference.name()) else { continue };
            let start = world.clock.monotonic();
            let Some(outcome) = self.move_one(name, manifest)? else { return Ok(Moves::BlobsLost(name.reference.clone())) };
            if outcome.is_good() {
                let mut settled =
                    settlement(world, self.index, name, self.upload.tested, NameScope::Registry, Some(manifest.digest), self.job);
                settled.result.duration_ms = millis(world.clock.monotonic().saturating_sub(start));
                settled.journal = vec![JournalStep::Written { group: journal, name: name.reference.clone() }];
                world.state.commit(&settled).map_err(|error| record_failure(&error))?;
            }
            self.ended.lock().unwrap_or_else(PoisonError::into_inner).insert(name.reference.clone(), outcome);
        }
        world.state.journal_apply(&[JournalStep::Close { group: journal }]).map_err(|error| record_failure(&error))?;
        Ok(Moves::Done)
    }

    /// `None` where the repository has lost blobs of the manifest.
    fn move_one(&self, name: &ImageName, manifest: &Published) -> Result<Option<Outcome>, Failure> {
        let world = self.upload.world;
        let past = world.state.name(NameScope::Registry, &name.reference).map_err(|error| record_failure(&error))?;
        let expected = world.state.expected_at(&name.reference).map_err(|error| record_failure(&error))?;
        let moved = move_name(world.registry, &name.reference, &manifest.bytes, &manifest.media_type, &expected, world.cancel)?;
        let image = self.upload.tested.image();
        match moved {
            NameOutcome::AlreadyThere => {
                self.say(&format!("{} is {} already", name.reference, manifest.digest));
                Ok(Some(Outcome::Succeeded { image: Some(image), changed: false }))
            }
            NameOutcome::Moved { from } => {
                let from = from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
                self.say(&format!("{}: {from} → {}", name.reference, manifest.digest));
                if let Some(past) = past.filter(|past| past.image != image)
                    && let Some(at) = self.older_than(past.image)
                {
                    let label = step_label(world, self.index, name, NameScope::Registry);
                    world.warn(Some(label), format!("{} goes back to the image of {}", name.reference.familiar(), at.to_rfc3339()));
                }
                Ok(Some(Outcome::Succeeded { image: Some(image), changed: true }))
            }
            NameOutcome::ForeignMove { expected, found } => {
                if let Some(found) = found {
                    world.state.saw_foreign(&name.reference, found).map_err(|error| record_failure(&error))?;
                }
                let written = past.and_then(|past| past.manifest).filter(|_| expected != manifest.digest).unwrap_or(expected);
                let there = found.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
                // nothing around it failed, so trying again by itself would be wrong: a person has to look
                let failure =
                    Failure::step(format!("{} was moved by someone else: igraph left it at {written}, found {there}", name.reference))
                        .hint("nothing was written there; the next push moves it to the tested image");
                Ok(Some(Outcome::Failed { failure }))
            }
            NameOutcome::BlobsLost => Ok(None),
        }
    }

    /// When this image was built, if the same entry made `last` later: the name goes back.
    fn older_than(&self, last: ImageId) -> Option<crate::clock::Timestamp> {
        let node = self.upload.world.graph.node(self.upload.names.image);
        let built = |image| self.upload.world.state.built_at(&node.label(), &node.platform, image).ok().flatten();
        let (built, last) = (built(self.upload.tested.image())?, built(last)?);
        (built < last).then_some(built)
    }

    fn say(&self, line: &str) {
        self.upload.attempt.output.line(Stream::Engine, line);
    }
}
