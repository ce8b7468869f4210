//! Brings in the images that a step needs: from the engine, else by id from where they were pushed or pulled, else from the
//! local source of a base. What is nowhere is lost: its node has to run again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::attempts::record_failure;
use super::bases;
use super::world::{Lookup, World};
use crate::digest::ImageId;
use crate::engine::Attempt;
use crate::event::Stream;
use crate::failure::{Failure, FailureClass};
use crate::graph::{Body, ImageName, NodeIndex};
use crate::image::EngineImage;
use crate::plan::{Decision, Value};
use crate::reason::Reason;

/// Images known to be in the engine, each behind a lock of its own, so that two steps that need one bring it in once.
#[derive(Default)]
pub(super) struct Presence(Mutex<HashMap<ImageId, Arc<Mutex<Option<EngineImage>>>>>);

impl Presence {
    fn slot(&self, id: ImageId) -> Arc<Mutex<Option<EngineImage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    /// An image that was just built.
    pub fn built(&self, image: &EngineImage) {
        *self.slot(image.id).lock().unwrap_or_else(PoisonError::into_inner) = Some(image.clone());
    }
}

/// Why an image is not there.
pub(super) enum Missing {
    /// Its node has to run again.
    Lost(NodeIndex),
    /// Asking or bringing it in failed.
    Failed(Failure),
}

impl From<Failure> for Missing {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl World<'_> {
    /// The image of a settled base or image node, in the engine.
    pub(super) fn image_of(&self, index: NodeIndex, values: &Lookup<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Missing> {
        let value = values(index);
        let (Some(Value::Image { image: id, .. }) | Some(Value::Base { image: id, .. })) = &value else {
            return Err(Missing::Lost(index));
        };
        let slot = self.held.presence.slot(*id);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = slot.as_ref() {
            return Ok(image.clone());
        }
        let engine = self.engine.engine()?;
        let image = match engine.find(*id)? {
            Some(image) => image,
            None => self.restore(index, *id, value.as_ref(), attempt)?,
        };
        *slot = Some(image.clone());
        Ok(image)
    }

    fn restore(&self, index: NodeIndex, id: ImageId, value: Option<&Value>, attempt: &Attempt<'_>) -> Result<EngineImage, Missing> {
        let node = self.graph.node(index);
        let engine = self.engine.engine()?;
        let slug = slug(&node.owner.to_string());
        if let Body::Base(base) = &node.body {
            if let Some(source) = bases::local_source(self, base, &node.platform, id) {
                attempt.output.line(Stream::Engine, &format!("bringing in {} from this machine", node.owner));
                return Ok(engine.load(source.as_ref(), &node.platform, &slug, attempt)?);
            }
            if let Some(Value::Base { manifest: Some((reference, digest)), .. }) = value {
                attempt.output.line(Stream::Engine, &format!("pulling {} at {digest}", reference.familiar()));
                let source = self.registry.image(&reference.with_digest(*digest), self.cancel)?;
                return Ok(engine.load(&source, &node.platform, &slug, attempt)?);
            }
        }
        let places = self.state.locations(id).map_err(|error| record_failure(&error))?;
        let mut last: Option<Failure> = None;
        for place in places {
            let Some(reference) = place.reference() else { continue };
            attempt.output.line(Stream::Engine, &format!("{} is not in the engine: pulling {reference}", node.owner));
            match self.registry.image(&reference, self.cancel).and_then(|source| engine.load(&source, &node.platform, &slug, attempt)) {
                Ok(image) => return Ok(image),
                Err(failure) if failure.class == FailureClass::Stopped => return Err(failure.into()),
                Err(failure) => {
                    attempt.output.line(Stream::Engine, &failure.message);
                    last = Some(failure);
                }
            }
        }
        // a registry that can't be reached just now is no reason to build something else in its place
        match last {
            Some(failure) if failure.class == FailureClass::Infra && failure.retry != crate::failure::Retry::Never => Err(failure.into()),
            _ => Err(Missing::Lost(index)),
        }
    }

    /// With `--verify`: whether what the record says is there, asked of engine or registry.
    pub(super) fn verified(&self, index: NodeIndex, value: Value) -> Decision {
        let rerun = |reasons: Vec<Reason>| Decision::Run { reasons, key: None, no_cache: false };
        let moved = |name: &ImageName| Reason::NotThere { what: name.reference.familiar(), written: Some(name.written.to_string()) };
        let node = self.graph.node(index);
        let missing = match (&node.body, &value) {
            (Body::Image(_), Value::Image { image, .. }) => {
                let held = self.engine.engine().and_then(|engine| engine.find(*image));
                let elsewhere = self.state.locations(*image).is_ok_and(|places| {
                    places.iter().any(|place| {
                        place
                            .reference()
                            .is_some_and(|reference| matches!(self.registry.head_manifest(&reference, self.cancel), Ok(Some(_))))
                    })
                });
                matches!(held, Ok(None)) && !elsewhere
            }
            (Body::Tags(names), _) => {
                let gone = names.names.iter().filter(|name| {
                    let held = self.engine.engine().and_then(|engine| engine.named(&name.reference));
                    let expected = self.planner.past.name(crate::plan::NameScope::Local, &name.reference).map(|past| past.image);
                    matches!(held, Ok(held) if held != expected)
                });
                let reasons: Vec<Reason> = gone.map(moved).collect();
                return if reasons.is_empty() { Decision::Fresh(value) } else { rerun(reasons) };
            }
            (Body::Pushes(names), _) => {
                let gone = names.names.iter().filter(|name| {
                    let expected = self.state.pushed(&name.reference).ok().flatten();
                    matches!(self.registry.head_manifest(&name.reference, self.cancel), Ok(found) if found.as_ref().map(|found| found.digest) != expected)
                });
                let reasons: Vec<Reason> = gone.map(moved).collect();
                return if reasons.is_empty() { Decision::Fresh(value) } else { rerun(reasons) };
            }
            _ => false,
        };
        if !missing {
            return Decision::Fresh(value);
        }
        self.planner.lose(index, "--verify".to_owned());
        let lookup = |_: NodeIndex| None;
        match self.planner.decide(index, &lookup) {
            Decision::Run { reasons, key, no_cache } => Decision::Run { reasons, key, no_cache },
            _ => rerun(vec![Reason::NotThere { what: node.owner.to_string(), written: None }]),
        }
    }
}

/// A text as engines and file names take it: `[a-z0-9._-]+`.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for character in text.trim_start_matches('/').chars() {
        let character = character.to_ascii_lowercase();
        let plain = character.is_ascii_alphanumeric() || "._".contains(character);
        if plain || !slug.ends_with('-') {
            slug.push(if plain { character } else { '-' });
        }
    }
    let trimmed = slug.trim_matches(['-', '.', '_']);
    // a tag of Docker allows no two dots in a row, and 128 characters
    let mut short: String = trimmed.chars().take(60).collect();
    while short.contains("..") {
        short = short.replace("..", ".");
    }
    if short.is_empty() { "image".to_owned() } else { short }
}
