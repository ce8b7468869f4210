//! Layers on their way out of the engine: exported in batches, packed once, kept until the run ends. Knows no registry.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::digest::{Digest, ImageId};
use crate::engine::{Attempt, Engine, ExportSink};
use crate::failure::Failure;
use crate::image::{Compression, EngineImage, ImageSource};
use crate::registry::{PackedLayer, pack_as};

/// Where and how layers are packed.
pub(super) struct Packing<'a> {
    pub folder: &'a std::path::Path,
    pub compression: Compression,
}

/// The layers and configs that were taken out of the engine in this run.
#[derive(Default)]
pub(super) struct Spool(Mutex<Held>);

#[derive(Default)]
struct Held {
    folder: Option<tempfile::TempDir>,
    layers: BTreeMap<Digest, PackedLayer>,
    configs: BTreeMap<ImageId, Vec<u8>>,
}

impl Held {
    fn file(&mut self, parent: &std::path::Path, diff_id: Digest) -> Result<PathBuf, Failure> {
        if self.folder.is_none() {
            // nothing else may have needed it yet
            let made = std::fs::create_dir_all(parent).and_then(|()| tempfile::Builder::new().prefix("layers-").tempdir_in(parent));
            self.folder = Some(made.map_err(|error| super::attempts::disk_failure(&error, "the folder of packed layers"))?);
        }
        let folder = self.folder.as_ref().map(|folder| folder.path().to_owned()).unwrap_or_default();
        Ok(folder.join(diff_id.hex()))
    }
}

impl Spool {
    /// Has the config of `image` and those of its layers that are `wanted`, exporting them with those of the `others` that wait
    /// for the same if they are not held yet, packed as `packing` says. One export runs at a time: who waits finds what it needs afterwards.
    pub fn fetch(
        &self,
        packing: &Packing<'_>,
        engine: &dyn Engine,
        image: &EngineImage,
        wanted: &BTreeSet<Digest>,
        others: impl FnOnce() -> Vec<(EngineImage, BTreeSet<Digest>)>,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let complete = |held: &Held| held.configs.contains_key(&image.id) && wanted.iter().all(|layer| held.layers.contains_key(layer));
        if complete(&held) {
            return Ok(());
        }
        let mut images = vec![image.clone()];
        let mut layers = wanted.clone();
        for (other, more) in others() {
            if other.id != image.id && !held.configs.contains_key(&other.id) {
                images.push(other);
                layers.extend(more);
            }
        }
        layers.retain(|layer| !held.layers.contains_key(layer));
        let mut sink = Sink { held: &mut held, packing };
        engine.export(&images, &layers, &mut sink, attempt)?;
        if complete(&held) { Ok(()) } else { Err(Failure::infra(format!("the engine did not export all of {}", image.id))) }
    }

    /// Packs one layer of a base from its local source.
    pub fn fetch_from(&self, packing: &Packing<'_>, source: &dyn ImageSource, wanted: &BTreeSet<Digest>) -> Result<(), Failure> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (position, layer) in source.layers().iter().enumerate() {
            if wanted.contains(&layer.diff_id) && !held.layers.contains_key(&layer.diff_id) {
                let packed = source.open_layer(position)?;
                let mut reader: Box<dyn Read> = match layer.compression {
                    Compression::None => packed,
                    Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
                    Compression::Zstd => {
                        let unpacked = zstd::stream::read::Decoder::new(packed);
                        Box::new(unpacked.map_err(|error| super::attempts::disk_failure(&error, "a packed layer"))?)
                    }
                };
                Sink { held: &mut held, packing }.layer(layer.diff_id, &mut reader)?;
            }
        }
        Ok(())
    }

    /// A packed layer that was fetched.
    pub fn layer(&self, diff_id: Digest) -> Option<PackedLayer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).layers.get(&diff_id).cloned()
    }

    /// The config of an image that was fetched.
    pub fn config(&self, image: ImageId) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).configs.get(&image).cloned()
    }
}

struct Sink<'a> {
    held: &'a mut Held,
    packing: &'a Packing<'a>,
}

impl ExportSink for Sink<'_> {
    fn config(&mut self, id: ImageId, bytes: &[u8]) -> Result<(), Failure> {
        if ImageId(Digest::of(bytes)) != id {
            return Err(Failure::infra(format!("the engine's config of {id} has other bytes")));
        }
        self.held.configs.insert(id, bytes.to_vec());
        Ok(())
    }

    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure> {
        let path = self.held.file(self.packing.folder, diff_id)?;
        let spilled = |error: std::io::Error| super::attempts::disk_failure(&error, "a packed layer");
        let mut file = std::fs::File::create(&path).map_err(&spilled)?;
        let packed = pack_as(self.packing.compression, tar, &mut file).map_err(&spilled)?;
        if packed.diff_id != diff_id {
            return Err(Failure::infra(format!("the engine's layer {diff_id} has other bytes")));
        }
        let layer = PackedLayer { path, digest: packed.digest, size: packed.size, compression: self.packing.compression };
        self.held.layers.insert(diff_id, layer);
        Ok(())
    }
}
