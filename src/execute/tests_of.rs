//! Runs a test on an image, in a throwaway root or as throwaway layers.

use super::attempts::{self, Terms};
use super::builds::{self, LostNode, Recorded, ended, keyed, unrecorded};
use super::materials::slug;
use super::world::{Job, JobEnd, Lookup, World};
use crate::engine::{Attempt, BuildRequest, TestRequest};
use crate::event::{NodeKind, Outcome};
use crate::failure::Failure;
use crate::graph::{NodeIndex, TestNode};
use crate::image::EngineImage;
use crate::plan::{Value, subject_and};
use crate::record::Facts;
use crate::spec;

/// Tests.
pub(super) fn run(world: &World<'_>, index: NodeIndex, test: &TestNode<'_>, job: &Job, lookup: &Lookup<'_>) -> JobEnd {
    let parents = subject_and(test);
    let (key, components) = match keyed(world, index, &parents, job, lookup) {
        Ok(keyed) => keyed,
        Err(end) => return end.because(&job.reasons),
    };
    let label = world.graph.node(index).label();
    let lost = LostNode::default();
    let terms = Terms {
        policy: world.policy(&test.spec.retries),
        step_too: test.spec.origin.has("retries") || world.options.retries.is_some(),
        timeout: test.spec.timeout.or(world.options.timeout),
    };
    let attempts = attempts::attempt(world, &label, &terms, |attempt, _| {
        let subject = world.image_of(test.subject, lookup, attempt).map_err(|missing| lost.keep(missing))?;
        match &test.dockerfile {
            None => commands(world, test, &subject, attempt)?,
            Some(_) => {
                let references = builds::references(world, &parents, lookup, attempt, &lost)?;
                layers(world, index, test, key, &references, attempt)?;
            }
        }
        Ok(subject)
    });
    if let Some(node) = lost.take() {
        return JobEnd::lost(node);
    }
    if let Err(failure) = &attempts.result
        && failure.is_overtaken()
    {
        return ended(JobEnd::overtaken(failure.clone()), job, &attempts);
    }
    let subject = attempts.result.as_ref().ok().cloned().or_else(|| match lookup(test.subject) {
        Some(Value::Image { image, .. }) => {
            Some(EngineImage { id: image, handle: String::new(), platform: world.graph.node(index).platform.clone() })
        }
        _ => None,
    });
    let record = unrecorded(
        world,
        index,
        NodeKind::Test,
        Recorded { key, components, image: subject, job, attempts: &attempts, facts: Facts::default() },
    );
    let end = match &attempts.result {
        Err(failure) => JobEnd::failed(failure.clone()),
        Ok(subject) => {
            let failures = attempts.earlier_failures();
            let outcome = if failures.is_empty() { Outcome::Succeeded { image: None, changed: true } } else { Outcome::Flaky { failures } };
            let passed = crate::execute::tested::PassedTest::from_record(label, key, subject.id, true);
            passed.map_or_else(
                || JobEnd::failed(Failure::infra("a passed test that did not pass")),
                |passed| JobEnd::done(outcome, Some(Value::Test(passed))),
            )
        }
    };
    ended(JobEnd { record, ..end }, job, &attempts)
}

fn commands(world: &World<'_>, test: &TestNode<'_>, subject: &EngineImage, attempt: &Attempt<'_>) -> Result<(), Failure> {
    let request = TestRequest {
        slug: &slug(&format!("{}-{}", test.image_label, test.name)),
        subject,
        commands: &spec::test_commands(&test.spec.form),
        env: &spec::test_environment(test.spec, &test.image_label, test.image),
        network: test.spec.network,
        proxies: world.proxies,
    };
    world.engine.engine()?.test(&request, attempt)
}

fn layers(
    world: &World<'_>,
    index: NodeIndex,
    test: &TestNode<'_>,
    key: crate::digest::Key,
    references: &std::collections::BTreeMap<String, EngineImage>,
    attempt: &Attempt<'_>,
) -> Result<(), Failure> {
    let (Some(read), Some(own), crate::spec::TestForm::Dockerfile { context, .. }) =
        (&test.dockerfile, world.planner.own(index), &test.spec.form)
    else {
        return Err(Failure::infra("its Dockerfile is not known"));
    };
    let Some(resolved) = own.resolved.clone() else { return Err(Failure::infra("its Dockerfile is not known")) };
    let engine = world.engine.engine()?;
    let made = engine.build(
        &BuildRequest {
            slug: &slug(&format!("{}-{}", test.image_label, test.name)),
            key,
            dockerfile: &read.parsed,
            resolved: &resolved,
            references,
            context_root: &world.root.join(&**context),
            context: &own.inputs.context,
            args: &spec::test_arguments(test.spec, &test.image_label, test.image),
            platform: &world.graph.node(index).platform,
            network: test.spec.network,
            secrets: &Default::default(),
            ssh: &Default::default(),
            epoch: world.catalogue.workspace.epoch,
            // what has to run really runs: a daemon's cache would answer for a test that never did
            no_cache: true,
            proxies: world.proxies,
            throwaway: true,
            scrub: &Default::default(),
        },
        attempt,
    )?;
    engine.discard(&made)
}
