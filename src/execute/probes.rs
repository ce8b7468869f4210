//! Probes: a shell text that is run in an image, whose stdout is an answer. Right after a build it is the baseline that later
//! answers are compared with; who compares is `update`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::materials::{Missing, slug};
use super::world::World;
use crate::access::Network;
use crate::digest::Digest;
use crate::engine::{Attempt, Output, TestRequest};
use crate::event::Stream;
use crate::failure::{Failure, FailureClass};
use crate::graph::{Body, NodeIndex};
use crate::image::EngineImage;
use crate::plan::Value;
use crate::record::AnswerRecord;

/// What running a probe came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Its stdout.
    Answer(String),
    /// None: it did not exit with 0.
    Nothing(String),
}

/// Keeps stdout, and hands all on.
struct Heard<'a> {
    next: &'a dyn Output,
    answer: Mutex<String>,
}

impl Output for Heard<'_> {
    fn line(&self, stream: Stream, line: &str) {
        if stream == Stream::Stdout {
            let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
            answer.push_str(line);
            answer.push('\n');
        }
        self.next.line(stream, line);
    }

    fn progress(&self, what: &str, done: u64, total: Option<u64>) {
        self.next.progress(what, done, total);
    }
}

/// What names a probe in the record.
pub fn probe_digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// Runs a probe in an image that the engine holds.
///
/// # Errors
/// Of the engine; a probe that fails is no error, but no answer.
fn ask(world: &World<'_>, index: NodeIndex, text: &str, subject: &EngineImage, attempt: &Attempt<'_>) -> Result<Probed, Failure> {
    let node = world.graph.node(index);
    let network = match &node.body {
        Body::Image(image) => image.spec.network,
        _ => Network::default(),
    };
    let heard = Heard { next: attempt.output, answer: Mutex::default() };
    let request = TestRequest {
        slug: &slug(&format!("{}-probe", node.owner)),
        subject,
        commands: &[vec!["/bin/sh".to_owned(), "-ec".to_owned(), text.to_owned()]],
        env: &BTreeMap::new(),
        network,
        proxies: world.proxies,
    };
    let listening = Attempt { cancel: attempt.cancel, output: &heard, timeout: attempt.timeout };
    match world.engine.engine()?.test(&request, &listening) {
        Ok(()) => Ok(Probed::Answer(heard.answer.into_inner().unwrap_or_else(PoisonError::into_inner))),
        Err(failure) if failure.class == FailureClass::Step => Ok(Probed::Nothing(failure.message)),
        Err(failure) => Err(failure),
    }
}

/// The baseline of an image that was just built, for the record; a probe that gives none fails no build.
pub(super) fn baseline(
    world: &World<'_>,
    index: NodeIndex,
    probe: Option<&str>,
    built: &EngineImage,
    attempt: &Attempt<'_>,
) -> Vec<AnswerRecord> {
    let Some(text) = probe else { return Vec::new() };
    attempt.output.line(Stream::Engine, "asking its probe, to compare later answers with");
    match ask(world, index, text, built, attempt) {
        Ok(Probed::Answer(answer)) => vec![AnswerRecord { image: built.id, probe: probe_digest(text), answer }],
        Ok(Probed::Nothing(message)) => {
            attempt.output.line(Stream::Engine, &format!("no answer: {message}"));
            Vec::new()
        }
        Err(failure) => {
            attempt.output.line(Stream::Engine, &format!("no answer: {}", failure.message));
            Vec::new()
        }
    }
}

/// Runs the probe of a node whose result is settled, in its image.
///
/// # Errors
/// Where the image or the engine can't be had.
pub fn probe(world: &World<'_>, index: NodeIndex, value: &Value, text: &str) -> Result<Probed, Failure> {
    let (Value::Image { image, .. } | Value::Base { image, .. }) = value else { return Err(Failure::infra("only images have a probe")) };
    let attempt = Attempt { cancel: world.cancel, output: &Silent, timeout: world.options.timeout };
    let subject = world.image_with(index, *image, Some(value), &attempt).map_err(|missing| match missing {
        Missing::Failed(failure) => failure,
        Missing::Lost(_) => Failure::step(format!("its image {image} is nowhere to be had, so its probe can't be run")),
    })?;
    ask(world, index, text, &subject, &attempt)
}

struct Silent;

impl Output for Silent {
    fn line(&self, _: Stream, _: &str) {}

    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}
