//! Moves names: only to an image that is [`Tested`], each name read before it is written and after, journaled as a group.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::attempts::{self, Terms, millis, record_failure};
use super::bases;
use super::builds::LostNode;
use super::materials::Missing;
use super::tested::Tested;
use super::world::{Job, JobEnd, Lookup, StepEnd, World};
use crate::digest::{Digest, ImageId};
use crate::engine::Attempt;
use crate::event::{NodeKind, Outcome, Stream};
use crate::failure::Failure;
use crate::graph::{Body, ImageName, NamesNode, NodeIndex};
use crate::image::EngineImage;
use crate::label::NodeLabel;
use crate::plan::{NameScope, Value};
use crate::reason::reasons_of_step;
use crate::record::{BlobPlace, Facts, JournalGroup, JournalName, JournalStep, Location, NameRecord, ResultRecord, Settlement, Verdict};
use crate::reference::Reference;
use crate::registry::{KnownBlob, LayerProvider, NameOutcome, PackedLayer, move_name, upload_image, verify_published};

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
        let image = image_of(world, names, &tested, attempt, &lost)?;
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
        let publication =
            Publication { world, index, names, stale: &stale, tested: &tested, lookup, lost: &lost, attempt, job, ended: &ended };
        publication.publish()
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

/// The very image that was tested: what its node has come to since does not count.
fn image_of(world: &World<'_>, names: &NamesNode, tested: &Tested, attempt: &Attempt<'_>, lost: &LostNode) -> Result<EngineImage, Failure> {
    world.image_with(names.image, tested.image(), None, attempt).map_err(|missing: Missing| lost.keep(missing))
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

/// A manifest as it lies in a repository.
#[derive(Clone)]
struct Published {
    digest: Digest,
    bytes: Vec<u8>,
    media_type: String,
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
    world: &'a World<'a>,
    index: NodeIndex,
    names: &'a NamesNode,
    /// Those to move.
    stale: &'a [&'a ImageName],
    tested: &'a Tested,
    lookup: &'a Lookup<'a>,
    lost: &'a LostNode,
    attempt: &'a Attempt<'a>,
    job: &'a Job,
    /// How names ended, in earlier attempts too: none is tried again.
    ended: &'a Mutex<BTreeMap<Reference, Outcome>>,
}

impl Publication<'_> {
    fn publish(&self) -> Result<(), Failure> {
        for _ in 0..2 {
            let mut published: BTreeMap<String, Published> = BTreeMap::new();
            for name in &self.names.names {
                let repository = name.reference.name();
                if let Entry::Vacant(place) = published.entry(repository) {
                    place.insert(self.repository(&name.reference)?);
                }
            }
            let manifests: BTreeSet<Digest> = published.values().map(|manifest| manifest.digest).collect();
            if manifests.len() > 1 {
                // blobs that are packed otherwise can't be had any more: then all repositories get the same anew
                self.say("the image lies in its repositories under different manifests: publishing it anew");
                self.names.names.iter().try_for_each(|name| self.forget(&name.reference))?;
                continue;
            }
            match self.move_names(&published)? {
                Moves::Done => return Ok(()),
                Moves::BlobsLost(repository) => {
                    self.say(&format!("{} has lost blobs of this image: uploading them again", repository.name()));
                    self.forget(&repository)?;
                }
            }
        }
        Err(Failure::infra(format!("blobs of {} vanish from its repositories, or it can't be packed alike for all", self.tested.image())))
    }

    /// Forgets that the image and its layers lie in a repository.
    fn forget(&self, repository: &Reference) -> Result<(), Failure> {
        let (state, image) = (self.world.state, self.tested.image());
        let fail = |error| record_failure(&error);
        let is_here = |host: &str, path: &str| host == repository.host() && path == repository.repository();
        for place in state.locations(image).map_err(fail)?.iter().filter(|place| is_here(&place.host, &place.repository)) {
            state.forget_location(place).map_err(fail)?;
        }
        for diff_id in state.config(image.0).map_err(fail)?.unwrap_or_default().diff_ids {
            for place in state.blobs(diff_id).map_err(fail)?.iter().filter(|place| is_here(&place.host, &place.repository)) {
                state.forget_blob(place).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Has the image's manifest and all its blobs in the repository.
    fn repository(&self, repository: &Reference) -> Result<Published, Failure> {
        // one at a time: the next finds the layers that both need
        let turn = self.world.held.repository(&repository.name());
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let image = self.tested.image();
        if let Some(known) = self.known(repository, image)? {
            return Ok(known);
        }
        let config = self.config(image)?;
        let parsed = crate::image::ImageConfig::parse(&config)
            .map_err(|error| Failure::infra(format!("the config of {image} can't be read: {error}")))?;
        let provider = Provider { publication: self, image, blobs: self.blobs_of(image)?, diff_ids: &parsed.diff_ids };
        let uploaded = upload_image(
            self.world.registry,
            repository,
            &config,
            &parsed.diff_ids,
            &provider,
            self.world.cancel,
            &|what, done, total| {
                self.attempt.output.progress(what, done, total);
            },
        )?;
        verify_published(
            self.world.registry,
            &repository.with_digest(uploaded.manifest_digest),
            uploaded.manifest_digest,
            image,
            self.world.cancel,
        )?;
        let sent = format!(
            "{}: manifest {}, {} bytes sent, {} layers mounted",
            repository.name(),
            uploaded.manifest_digest,
            uploaded.bytes_sent,
            uploaded.mounted
        );
        self.attempt.output.line(Stream::Engine, &sent);
        let (host, path) = (repository.host().to_owned(), repository.repository().to_owned());
        let blobs = uploaded.blobs.iter().map(|(diff_id, blob)| BlobPlace {
            diff_id: *diff_id,
            host: host.clone(),
            repository: path.clone(),
            digest: blob.digest,
            size: blob.size,
            compression: blob.compression,
        });
        let facts = Facts {
            blobs: blobs.collect(),
            locations: vec![Location { image, host: host.clone(), repository: path.clone(), manifest: uploaded.manifest_digest }],
            documents: vec![(uploaded.manifest_digest, uploaded.manifest_bytes.clone()), (image.0, config)],
            ..Facts::default()
        };
        self.world.state.learn(&facts).map_err(|error| record_failure(&error))?;
        Ok(Published { digest: uploaded.manifest_digest, bytes: uploaded.manifest_bytes, media_type: uploaded.media_type.to_owned() })
    }

    /// The manifest under which the image lies in the repository, as far as the record knows.
    fn known(&self, repository: &Reference, image: ImageId) -> Result<Option<Published>, Failure> {
        let places = self.world.state.locations(image).map_err(|error| record_failure(&error))?;
        for place in places.iter().filter(|place| place.host == repository.host() && place.repository == repository.repository()) {
            if let Some(bytes) = self.world.state.document(&place.manifest).map_err(|error| record_failure(&error))? {
                let media_type = media_type(&bytes);
                return Ok(Some(Published { digest: place.manifest, bytes, media_type }));
            }
        }
        Ok(None)
    }

    /// The blobs of the manifest that the image has somewhere already: all its names are to be that one manifest.
    fn blobs_of(&self, image: ImageId) -> Result<Option<BTreeSet<Digest>>, Failure> {
        let places = self.world.state.locations(image).map_err(|error| record_failure(&error))?;
        for place in places {
            if let Some(bytes) = self.world.state.document(&place.manifest).map_err(|error| record_failure(&error))? {
                return Ok(Some(layer_digests(&bytes)));
            }
        }
        Ok(None)
    }

    /// The exact bytes of the image's config.
    fn config(&self, image: ImageId) -> Result<Vec<u8>, Failure> {
        if let Some(bytes) = self.world.held.spool.config(image) {
            return Ok(bytes);
        }
        if let Some(bytes) = self.world.state.document(&image.0).map_err(|error| record_failure(&error))? {
            return Ok(bytes);
        }
        self.export(image)?;
        self.world.held.spool.config(image).ok_or_else(|| Failure::infra(format!("the engine did not export the config of {image}")))
    }

    /// Takes config and unknown layers of the image out of the engine, with those of the other images that wait to be pushed.
    fn export(&self, image: ImageId) -> Result<(), Failure> {
        let held = image_of(self.world, self.names, self.tested, self.attempt, self.lost)?;
        let folder = self.world.state.folder().bases();
        let unknown = self.unknown_layers(image)?;
        let local = self.local_layers(&unknown, &folder)?;
        let wanted: BTreeSet<Digest> = unknown.difference(&local).copied().collect();
        let others = || self.others();
        let engine = self.world.engine.engine()?;
        self.world.held.spool.fetch(
            &folder,
            self.world.catalogue.workspace.compression,
            engine.as_ref(),
            &held,
            &wanted,
            others,
            self.attempt,
        )
    }

    /// Layers of the image that lie in no registry that igraph knows, and are not fetched yet.
    fn unknown_layers(&self, image: ImageId) -> Result<BTreeSet<Digest>, Failure> {
        let config = self.world.state.config(image.0).map_err(|error| record_failure(&error))?.unwrap_or_default();
        let mut unknown = BTreeSet::new();
        for diff_id in config.diff_ids {
            let places = self.world.state.blobs(diff_id).map_err(|error| record_failure(&error))?;
            if places.is_empty() {
                unknown.insert(diff_id);
            }
        }
        Ok(unknown)
    }

    /// Packs those layers that a local base has on this machine; returns them.
    fn local_layers(&self, unknown: &BTreeSet<Digest>, folder: &std::path::Path) -> Result<BTreeSet<Digest>, Failure> {
        let mut found = BTreeSet::new();
        for index in self.world.graph.order() {
            let node = self.world.graph.node(*index);
            let (Body::Base(base), Some(Value::Base { image, manifest: None, .. })) = (&node.body, (self.lookup)(*index)) else { continue };
            let config = self.world.state.config(image.0).map_err(|error| record_failure(&error))?.unwrap_or_default();
            let shared: BTreeSet<Digest> = config.diff_ids.iter().copied().filter(|layer| unknown.contains(layer)).collect();
            if shared.is_empty() {
                continue;
            }
            if shared.iter().all(|layer| self.world.held.spool.layer(*layer).is_some()) {
                found.extend(shared);
            } else if let Some(source) = bases::local_source(self.world, base, &node.platform, image) {
                self.world.held.spool.fetch_from(folder, self.world.catalogue.workspace.compression, source.as_ref(), &shared)?;
                found.extend(shared);
            }
        }
        Ok(found)
    }

    /// Images of other names that could be exported along: settled, tested, and in the engine.
    fn others(&self) -> Vec<(EngineImage, BTreeSet<Digest>)> {
        let mut others = Vec::new();
        for index in self.world.graph.order() {
            let Body::Pushes(names) = &self.world.graph.node(*index).body else { continue };
            let (Some(Value::Image { image, .. }), Some(_), None) =
                ((self.lookup)(names.image), (self.lookup)(names.gate), (self.lookup)(*index))
            else {
                continue;
            };
            let published = self.world.state.locations(image).is_ok_and(|places| !places.is_empty());
            let (false, Ok(unknown)) = (published, self.unknown_layers(image)) else { continue };
            let held = self.world.engine.engine().and_then(|engine| engine.find(image));
            if let Ok(Some(held)) = held {
                others.push((held, unknown));
            }
        }
        others
    }

    fn move_names(&self, published: &BTreeMap<String, Published>) -> Result<Moves, Failure> {
        let world = self.world;
        let mut group = Vec::new();
        for name in &self.names.names {
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
            image: self.tested.image(),
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
                let mut settled = settlement(world, self.index, name, self.tested, NameScope::Registry, Some(manifest.digest), self.job);
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
        let world = self.world;
        let past = world.state.name(NameScope::Registry, &name.reference).map_err(|error| record_failure(&error))?;
        let expected = world.state.expected_at(&name.reference).map_err(|error| record_failure(&error))?;
        let moved = move_name(world.registry, &name.reference, &manifest.bytes, &manifest.media_type, &expected, world.cancel)?;
        let image = self.tested.image();
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
        let node = self.world.graph.node(self.names.image);
        let built = |image| self.world.state.built_at(&node.label(), &node.platform, image).ok().flatten();
        let (built, last) = (built(self.tested.image())?, built(last)?);
        (built < last).then_some(built)
    }

    fn say(&self, line: &str) {
        self.attempt.output.line(Stream::Engine, line);
    }
}

/// Where the layers of one image are.
struct Provider<'a> {
    publication: &'a Publication<'a>,
    image: ImageId,
    /// Only these blobs will do, where the image has a manifest already.
    blobs: Option<BTreeSet<Digest>>,
    diff_ids: &'a [Digest],
}

impl LayerProvider for Provider<'_> {
    fn known(&self, diff_id: Digest) -> Vec<KnownBlob> {
        let places = self.publication.world.state.blobs(diff_id).unwrap_or_default();
        places
            .into_iter()
            .filter(|place| self.fits(place.digest))
            .filter_map(|place| {
                let repository: Reference = format!("{}/{}", place.host, place.repository).parse().ok()?;
                Some(KnownBlob { repository, digest: place.digest, size: place.size, compression: place.compression })
            })
            .collect()
    }

    fn fits(&self, blob: Digest) -> bool {
        self.blobs.as_ref().is_none_or(|blobs| blobs.contains(&blob))
    }

    fn packed(&self, diff_id: Digest) -> Result<PackedLayer, Failure> {
        if let Some(layer) = self.publication.world.held.spool.layer(diff_id) {
            return Ok(layer);
        }
        self.publication.export(self.image)?;
        if let Some(layer) = self.publication.world.held.spool.layer(diff_id) {
            return Ok(layer);
        }
        // the record knew a place for it that has it no more: then this layer alone is taken out
        let world = self.publication.world;
        let held = image_of(world, self.publication.names, self.publication.tested, self.publication.attempt, self.publication.lost)?;
        let engine = world.engine.engine()?;
        let wanted: BTreeSet<Digest> = self.diff_ids.iter().copied().filter(|layer| *layer == diff_id).collect();
        world.held.spool.fetch(
            &world.state.folder().bases(),
            world.catalogue.workspace.compression,
            engine.as_ref(),
            &held,
            &wanted,
            Vec::new,
            self.publication.attempt,
        )?;
        world.held.spool.layer(diff_id).ok_or_else(|| Failure::infra(format!("layer {diff_id} can't be had")))
    }
}

#[derive(serde::Deserialize)]
struct ManifestParts {
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    #[serde(default)]
    layers: Vec<LayerPart>,
}

#[derive(serde::Deserialize)]
struct LayerPart {
    digest: Digest,
}

fn media_type(manifest: &[u8]) -> String {
    let parts: Option<ManifestParts> = serde_json::from_slice(manifest).ok();
    parts.and_then(|parts| parts.media_type).unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned())
}

fn layer_digests(manifest: &[u8]) -> BTreeSet<Digest> {
    let parts: Option<ManifestParts> = serde_json::from_slice(manifest).ok();
    parts.map(|parts| parts.layers.into_iter().map(|layer| layer.digest).collect()).unwrap_or_default()
}
