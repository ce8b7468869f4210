//! Has one tested image in the repositories that its names need: one manifest for all, each layer from where it lies, taken out of the
//! engine only where it lies nowhere. Moves no name.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::attempts::record_failure;
use super::bases;
use super::builds::LostNode;
use super::materials::Missing;
use super::spool::Packing;
use super::tested::Tested;
use super::world::{Lookup, World};
use crate::digest::{Digest, ImageId};
use crate::engine::{Attempt, Engine};
use crate::event::Stream;
use crate::failure::Failure;
use crate::graph::{Body, NamesNode};
use crate::image::EngineImage;
use crate::plan::Value;
use crate::record::{BlobPlace, Facts, Location};
use crate::reference::Reference;
use crate::registry::{KnownBlob, LayerProvider, PackedLayer, upload_image, verify_published};

/// A manifest as it lies in a repository.
#[derive(Clone)]
pub(super) struct Published {
    pub digest: Digest,
    pub bytes: Vec<u8>,
    pub media_type: String,
}

/// The very image that was tested: what its node has come to since does not count.
pub(super) fn tested_image(
    world: &World<'_>,
    names: &NamesNode,
    tested: &Tested,
    attempt: &Attempt<'_>,
    lost: &LostNode,
) -> Result<EngineImage, Failure> {
    world.image_with(names.image, tested.image(), None, attempt).map_err(|missing: Missing| lost.keep(missing))
}

/// One try at having an image where its names are.
pub(super) struct Upload<'a> {
    pub world: &'a World<'a>,
    pub names: &'a NamesNode,
    pub tested: &'a Tested,
    pub lookup: &'a Lookup<'a>,
    pub lost: &'a LostNode,
    pub attempt: &'a Attempt<'a>,
}

impl Upload<'_> {
    /// Forgets that the image and its layers lie in a repository.
    pub fn forget(&self, repository: &Reference) -> Result<(), Failure> {
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
    pub fn repository(&self, repository: &Reference) -> Result<Published, Failure> {
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
        let provider = Provider { upload: self, image, blobs: self.blobs_of(image)?, diff_ids: &parsed.diff_ids };
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
        let held = self.tested_image()?;
        let folder = self.world.state.folder().bases();
        let unknown = self.unknown_layers(image)?;
        let engine = self.world.engine.engine()?;
        let local = self.local_layers(engine.as_ref(), &unknown, &folder)?;
        let wanted: BTreeSet<Digest> = unknown.difference(&local).copied().collect();
        let others = || self.others();
        self.world.held.spool.fetch(&self.packing(&folder), engine.as_ref(), &held, &wanted, others, self.attempt)
    }

    fn packing<'f>(&self, folder: &'f std::path::Path) -> Packing<'f> {
        Packing { folder, compression: self.world.catalogue.workspace.compression }
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
    fn local_layers(&self, engine: &dyn Engine, unknown: &BTreeSet<Digest>, folder: &std::path::Path) -> Result<BTreeSet<Digest>, Failure> {
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
                self.world.held.spool.fetch_from(&self.packing(folder), engine, source.as_ref(), &shared, self.attempt)?;
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

    fn tested_image(&self) -> Result<EngineImage, Failure> {
        tested_image(self.world, self.names, self.tested, self.attempt, self.lost)
    }
}

/// Where the layers of one image are.
struct Provider<'a> {
    upload: &'a Upload<'a>,
    image: ImageId,
    /// Only these blobs will do, where the image has a manifest already.
    blobs: Option<BTreeSet<Digest>>,
    diff_ids: &'a [Digest],
}

impl LayerProvider for Provider<'_> {
    fn known(&self, diff_id: Digest) -> Vec<KnownBlob> {
        let places = self.upload.world.state.blobs(diff_id).unwrap_or_default();
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
        if let Some(layer) = self.upload.world.held.spool.layer(diff_id) {
            return Ok(layer);
        }
        self.upload.export(self.image)?;
        if let Some(layer) = self.upload.world.held.spool.layer(diff_id) {
            return Ok(layer);
        }
        // the record knew a place for it that has it no more: then this layer alone is taken out
        let world = self.upload.world;
        let held = self.upload.tested_image()?;
        let engine = world.engine.engine()?;
        let wanted: BTreeSet<Digest> = self.diff_ids.iter().copied().filter(|layer| *layer == diff_id).collect();
        world.held.spool.fetch(
            &self.upload.packing(&world.state.folder().bases()),
            engine.as_ref(),
            &held,
            &wanted,
            Vec::new,
            self.upload.attempt,
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
