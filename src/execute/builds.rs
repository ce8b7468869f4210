//! Builds an image: brings in what it stands on, hands the engine what the key saw, records what came out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::attempts::{self, Attempts, Terms, millis, record_failure};
use super::materials::{Missing, slug};
use super::probes;
use super::recording::Unrecorded;
use super::world::{Job, JobEnd, Lookup, World};
use crate::access::SecretSource;
use crate::component::Component;
use crate::digest::Key;
use crate::dockerfile::Resolved;
use crate::engine::{Attempt, BuildRequest, Engine};
use crate::event::{NodeKind, Outcome};
use crate::failure::{Failure, FailureClass, Retry};
use crate::graph::{Body, ImageNode, NodeIndex};
use crate::image::EngineImage;
use crate::keys::Own;
use crate::plan::{Decision, PastResult, Value, used};
use crate::record::{Facts, ResultRecord, Settlement, Verdict};
use crate::spec;

/// Carries a lost node out of an attempt.
#[derive(Default)]
pub(super) struct LostNode(Mutex<Option<NodeIndex>>);

impl LostNode {
    /// Turns a missing image into a failure that ends the attempts, and keeps which node is lost.
    pub fn keep(&self, missing: Missing) -> Failure {
        match missing {
            Missing::Failed(failure) => failure,
            Missing::Lost(index) => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
                Failure::stopped()
            }
        }
    }

    /// The node.
    pub fn take(&self) -> Option<NodeIndex> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A job's key and components; where they could not be had before, the configs they wait for are fetched now.
///
/// # Errors
/// The end of the job, when it needs not run, or cannot.
pub(super) fn keyed(
    world: &World<'_>,
    index: NodeIndex,
    parents: &BTreeMap<String, NodeIndex>,
    job: &Job,
    lookup: &Lookup<'_>,
) -> Result<(Key, Vec<Component>), Box<JobEnd>> {
    if let Some(key) = &job.key {
        return Ok(key.clone());
    }
    let lost = LostNode::default();
    let label = world.graph.node(index).label();
    let terms = Terms { policy: world.policy(&world.catalogue.workspace.retries), step_too: false, timeout: None };
    let fetched = attempts::attempt(world, &label, &terms, |attempt, _| {
        for parent in parents.values() {
            let image = world.image_of(*parent, lookup, attempt).map_err(|missing| lost.keep(missing))?;
            let known = world.state.config(image.id.0).map_err(|error| record_failure(&error))?;
            if known.is_none() {
                let config = world.engine.engine()?.config(&image)?;
                let facts = Facts { configs: vec![(image.id.0, config)], ..Facts::default() };
                world.state.learn(&facts).map_err(|error| record_failure(&error))?;
            }
        }
        Ok(())
    });
    if let Some(node) = lost.take() {
        return Err(Box::new(JobEnd::lost(node)));
    }
    fetched.result.map_err(|failure| Box::new(JobEnd::failed(failure)))?;
    match world.planner.decide(index, lookup) {
        Decision::Fresh(value) => Err(Box::new(JobEnd::fresh(value))),
        Decision::Run { key: Some(key), .. } => Ok(key),
        Decision::Blocked(reason) => Err(Box::new(JobEnd::blocked(reason))),
        Decision::Broken(problems) => {
            let messages: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
            Err(Box::new(JobEnd::failed(Failure::step(messages.join("; ")))))
        }
        Decision::Run { .. } | Decision::Maybe(_) => {
            Err(Box::new(JobEnd::failed(Failure::infra(format!("the key of {label} can't be had")))))
        }
    }
}

/// The images for the references of a Dockerfile.
pub(super) fn references(
    world: &World<'_>,
    parents: &BTreeMap<String, NodeIndex>,
    lookup: &Lookup<'_>,
    attempt: &Attempt<'_>,
    lost: &LostNode,
) -> Result<BTreeMap<String, EngineImage>, Failure> {
    let mut found = BTreeMap::new();
    for (text, parent) in parents {
        let image = world.image_of(*parent, lookup, attempt).map_err(|missing| lost.keep(missing))?;
        found.insert(text.clone(), image);
    }
    Ok(found)
}

/// Builds.
pub(super) fn run(world: &World<'_>, index: NodeIndex, image: &ImageNode<'_>, job: &Job, lookup: &Lookup<'_>) -> JobEnd {
    let (key, components) = match keyed(world, index, &image.parents, job, lookup) {
        Ok(keyed) => keyed,
        Err(end) => return end.because(&job.reasons),
    };
    let node = world.graph.node(index);
    let (label, spec) = (node.label(), image.spec);
    let Some(own) = world.planner.own(index) else { return JobEnd::failed(Failure::infra("its inputs are not known")) };
    let Some(resolved) = own.resolved.clone() else { return JobEnd::failed(Failure::infra("its Dockerfile is not known")) };
    let lost = LostNode::default();
    let terms = Terms { policy: world.policy(&spec.retries), step_too: false, timeout: spec.timeout.or(world.options.timeout) };
    let attempts = attempts::attempt(world, &label, &terms, |attempt, number| {
        let how = How { key, no_cache: job.no_cache || number > 1, throwaway: false };
        let built = build(world, index, image, &own, &resolved, &how, lookup, &lost, attempt)?;
        let config = world.engine.engine()?.config(&built)?;
        let answers = probes::baseline(world, index, spec.freshness.probe.as_deref(), &built, attempt);
        Ok((built, config, answers))
    });
    if let Some(node) = lost.take() {
        return JobEnd::lost(node);
    }
    if let Err(failure) = &attempts.result
        && failure.is_overtaken()
    {
        return ended(JobEnd::overtaken(failure.clone()), job, &attempts);
    }
    let before = world.state.latest_success(&label, &node.platform).ok().flatten().and_then(|result| result.image).map(|image| image.id);
    let (made, facts, stand_in) = match &attempts.result {
        Ok((built, config, answers)) => {
            world.held.presence.built(built);
            let (configs, answers) = (vec![(built.id.0, config.clone())], answers.clone());
            let facts = Facts { configs, claims: vec![built.id], answers, ..Facts::default() };
            (Some(built.clone()), facts, stands_in(image, lookup))
        }
        Err(_) => (None, Facts::default(), false),
    };
    let record =
        unrecorded(world, index, NodeKind::Image, Recorded { key, components, image: made.clone(), job, attempts: &attempts, facts });
    let end = match (&attempts.result, made) {
        (Ok(_), Some(made)) => JobEnd::done(
            Outcome::Succeeded { image: Some(made.id), changed: before != Some(made.id) },
            Some(Value::Image { image: made.id, stand_in }),
        ),
        (Err(failure), _) => JobEnd::failed(failure.clone()),
        (Ok(_), None) => JobEnd::failed(Failure::infra("an image without an id")),
    };
    ended(JobEnd { record, ..end }, job, &attempts)
}

/// What of a build is not the image's own.
struct How {
    key: Key,
    no_cache: bool,
    throwaway: bool,
}

/// One try at building.
#[expect(clippy::too_many_arguments, reason = "what a build is made from comes from the plan, the world and the attempt")]
fn build(
    world: &World<'_>,
    index: NodeIndex,
    image: &ImageNode<'_>,
    own: &Own,
    resolved: &Resolved,
    how: &How,
    lookup: &Lookup<'_>,
    lost: &LostNode,
    attempt: &Attempt<'_>,
) -> Result<EngineImage, Failure> {
    let (node, spec) = (world.graph.node(index), image.spec);
    let engine = world.engine.engine()?;
    refuse(engine.as_ref(), image, resolved)?;
    let references = references(world, &used(own, &image.parents), lookup, attempt, lost)?;
    engine.build(
        &BuildRequest {
            slug: &slug(&node.owner.to_string()),
            key: how.key,
            dockerfile: &image.dockerfile.parsed,
            resolved,
            references: &references,
            context_root: &world.root.join(&*spec.context),
            context: &own.inputs.context,
            args: &spec::image_arguments(spec),
            platform: &node.platform,
            network: spec.network,
            secrets: &world.secrets(spec),
            ssh: &agents(world, spec),
            epoch: world.catalogue.workspace.epoch,
            no_cache: how.no_cache,
            proxies: world.proxies,
            throwaway: how.throwaway,
            scrub: &spec.scrub,
        },
        attempt,
    )
}

/// Builds a settled image once more, without any cache, and records nothing. Who asked lets go of it with [`Engine::discard`].
///
/// # Errors
/// Of the build; infra where an image that it stands on is nowhere to be had.
pub fn rebuild(world: &World<'_>, index: NodeIndex, lookup: &Lookup<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
    let unknown = || Failure::infra("its Dockerfile is not known");
    let Body::Image(image) = &world.graph.node(index).body else { return Err(unknown()) };
    let label = world.graph.node(index).label();
    let no_key = || Failure::infra(format!("the key of {label} can't be had"));
    // of a fresh node the planner keeps traces alone, until it has to tell all
    let (key, _) = world.planner.explain(index, &label, lookup).ok_or_else(no_key)?;
    let own = world.planner.own(index).ok_or_else(unknown)?;
    let resolved = own.resolved.clone().ok_or_else(unknown)?;
    let lost = LostNode::default();
    let how = How { key, no_cache: true, throwaway: true };
    let built = build(world, index, image, &own, &resolved, &how, lookup, &lost, attempt);
    match lost.take() {
        Some(node) => Err(Failure::infra(format!("{} is in no engine and no registry any more", world.graph.node(node).label()))
            .retry(Retry::Never)
            .hint("`igraph build --verify` makes it again")),
        None => built,
    }
}

fn stands_in(image: &ImageNode<'_>, lookup: &Lookup<'_>) -> bool {
    image
        .parents
        .values()
        .any(|parent| matches!(lookup(*parent), Some(Value::Base { stand_in: true, .. } | Value::Image { stand_in: true, .. })))
}

fn agents(world: &World<'_>, spec: &crate::spec::Image) -> BTreeMap<String, PathBuf> {
    let path = |source: &SecretSource| match source {
        SecretSource::Env(name) => (world.environment)(name).map(PathBuf::from),
        SecretSource::File(path) => Some(world.root.join(path)),
    };
    spec.ssh.iter().filter_map(|(id, source)| path(source).map(|path| (id.to_string(), path))).collect()
}

/// What the engine can't build is the user's to change, not a matter of trying again.
fn refuse(engine: &dyn Engine, image: &ImageNode<'_>, resolved: &Resolved) -> Result<(), Failure> {
    let secrets = !resolved.secrets.is_empty() || !resolved.ssh.is_empty();
    match engine.refusals(&image.dockerfile.parsed, resolved, secrets).into_iter().next() {
        None => Ok(()),
        Some(problem) => {
            let failure = Failure::step(problem.message);
            Err(match problem.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            })
        }
    }
}

/// What a finished job leaves in the record.
pub(super) struct Recorded<'a, T> {
    pub key: Key,
    pub components: Vec<Component>,
    pub image: Option<EngineImage>,
    pub job: &'a Job,
    pub attempts: &'a Attempts<T>,
    pub facts: Facts,
}

/// What is to be recorded of a node that ended. Of a stopped one nothing: it did not end.
pub(super) fn unrecorded<T>(world: &World<'_>, index: NodeIndex, kind: NodeKind, recorded: Recorded<'_, T>) -> Option<Box<Unrecorded>> {
    let node = world.graph.node(index);
    let failure = recorded.attempts.result.as_ref().err();
    if failure.is_some_and(|failure| failure.class == FailureClass::Stopped) {
        return None;
    }
    let verdict = match (failure, recorded.attempts.count()) {
        (Some(_), _) => Verdict::Failed,
        (None, 1) => Verdict::Succeeded,
        (None, _) if kind == NodeKind::Test => Verdict::Flaky,
        (None, _) => Verdict::Succeeded,
    };
    let settled = PastResult {
        key: recorded.key,
        good: verdict.is_good(),
        image: recorded.image.as_ref().map(|image| image.id),
        run: world.run.to_owned(),
        infra: failure.is_some_and(|failure| failure.class == FailureClass::Infra),
    };
    let result = ResultRecord {
        key: recorded.key,
        node: node.label(),
        platform: node.platform.clone(),
        kind,
        verdict,
        image: recorded.image,
        manifest: None,
        components: recorded.components,
        run: world.run.to_owned(),
        at: world.clock.now(),
        duration_ms: millis(recorded.attempts.duration),
        attempts: recorded.attempts.count(),
        failure: failure.cloned(),
        reasons: recorded.job.reasons.clone(),
    };
    let settlement = Settlement { result, attempts: recorded.attempts.records.clone(), facts: recorded.facts, journal: Vec::new() };
    Some(Box::new(Unrecorded { settlement, settled }))
}

/// Adds what the attempts say to an end.
pub(super) fn ended<T>(end: JobEnd, job: &Job, attempts: &Attempts<T>) -> JobEnd {
    JobEnd { attempts: attempts.count(), duration_ms: millis(attempts.duration), ..end.because(&job.reasons) }
}
