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
use crate::failure::{Failure, FailureClass, Retry};
use crate::graph::{Body, ImageName, NodeIndex};
use crate::image::{EngineImage, ImageSource};
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
        self.image_with(index, *id, value.as_ref(), attempt)
    }

    /// The image `id` of a node, in the engine, whatever the node has come to since.
    pub(super) fn image_with(
        &self,
        index: NodeIndex,
        id: ImageId,
        value: Option<&Value>,
        attempt: &Attempt<'_>,
    ) -> Result<EngineImage, Missing> {
        let slot = self.held.presence.slot(id);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = slot.as_ref() {
            return Ok(image.clone());
        }
        let engine = self.engine.engine()?;
        let image = match engine.find(id)? {
            Some(image) => image,
            None => self.restore(index, id, value, attempt)?,
        };
        if image.id != id {
            return Err(Failure::infra(format!("the engine has {} where {id} was wanted", image.id)).into());
        }
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
        let mut down: Option<Failure> = None;
        for place in places {
            let Some(reference) = place.reference() else { continue };
            attempt.output.line(Stream::Engine, &format!("{} is not in the engine: pulling {reference}", node.owner));
            let source = match self.registry.image(&reference, self.cancel) {
                Ok(source) => source,
                Err(failure) if failure.class == FailureClass::Stopped => return Err(failure.into()),
                Err(failure) => {
                    attempt.output.line(Stream::Engine, &failure.message);
                    let asked = failure.retry == Retry::Never;
                    // what a registry surely has no more is not looked for there again
                    if asked && matches!(self.registry.head_manifest(&reference, self.cancel), Ok(None)) {
                        self.state.forget_location(&place).map_err(|error| record_failure(&error))?;
                    } else if !asked {
                        down = Some(failure);
                    }
                    continue;
                }
            };
            if source.image_id() != id {
                attempt.output.line(Stream::Engine, &format!("{reference} is {}, not {id}", source.image_id()));
                continue;
            }
            return Ok(engine.load(&source, &node.platform, &slug, attempt)?);
        }
        // a registry that can't be reached just now is no reason to build something else in its place
        match down {
            Some(failure) => Err(failure.into()),
            None => Err(Missing::Lost(index)),
        }
    }

    /// With `--verify`: whether what the record says is there, asked of engine or registry.
    ///
    /// # Errors
    /// Where neither can be asked: then nothing is known, and nothing said.
    pub(super) fn verified(&self, index: NodeIndex, value: Value, values: &Lookup<'_>) -> Result<Decision, Failure> {
        let node = self.graph.node(index);
        let mut missing = Vec::new();
        match (&node.body, &value) {
            (Body::Image(_), Value::Image { image, .. }) if !self.is_somewhere(*image)? => {
                self.planner.lose(index, "--verify".to_owned());
                return Ok(self.planner.decide(index, values));
            }
            (Body::Tags(names), _) => {
                for name in &names.names {
                    let held = self.engine.engine()?.named(&name.reference)?;
                    let expected = self.planner.past.name(crate::plan::NameScope::Local, &name.reference).map(|past| past.image);
                    missing.extend((held != expected).then_some(name));
                }
            }
            (Body::Pushes(names), _) => {
                for name in &names.names {
                    let expected = self.state.pushed(&name.reference).map_err(|error| record_failure(&error))?;
                    let found = self.registry.head_manifest(&name.reference, self.cancel)?.map(|found| found.digest);
                    missing.extend((found != expected).then_some(name));
                }
            }
            _ => {}
        }
        if missing.is_empty() {
            return Ok(Decision::Fresh(value));
        }
        let gone = |name: &ImageName| Reason::NotThere { what: name.reference.familiar(), written: Some(name.written.to_string()) };
        Ok(Decision::Run { reasons: missing.into_iter().map(gone).collect(), key: None, no_cache: false })
    }

    /// Whether the engine, or a registry that it was pushed to or pulled from, has the image.
    fn is_somewhere(&self, image: ImageId) -> Result<bool, Failure> {
        if self.engine.engine()?.find(image)?.is_some() {
            return Ok(true);
        }
        for place in self.state.locations(image).map_err(|error| record_failure(&error))? {
            let Some(reference) = place.reference() else { continue };
            if self.registry.head_manifest(&reference, self.cancel)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
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
