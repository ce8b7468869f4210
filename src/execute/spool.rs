//! Layers on their way out of the engine: exported in batches, packed once, kept by the engine if it does, else until the run ends.
//! Knows no registry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::digest::{Digest, ImageId};
use crate::engine::{Attempt, Engine, ExportSink, KeptLayer, PackedBlob, PackedForm, PackedLayers};
use crate::event::Stream;
use crate::failure::Failure;
use crate::image::{Compression, EngineImage, ImageSource};
use crate::registry::{PackedLayer, pack_as, packing};

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
    /// Keep the files that the engine has in its keeping.
    holds: Vec<Box<dyn Send + Sync>>,
}

/// Packs a layer into `file`.
fn pack_into(file: &mut File, compression: Compression, diff_id: Digest, tar: &mut dyn Read) -> Result<PackedBlob, Failure> {
    let packed = pack_as(compression, tar, file).map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => super::attempts::disk_failure(&error, "a packed layer"),
    })?;
    if packed.diff_id != diff_id {
        return Err(Failure::infra(format!("the engine's layer {diff_id} has other bytes")));
    }
    Ok(PackedBlob { digest: packed.digest, size: packed.size })
}

/// A layer that the engine keeps packed.
///
/// # Errors
/// Of the disk.
pub fn find_packed(engine: &dyn Engine, diff_id: Digest, compression: Compression) -> Result<Option<KeptLayer>, Failure> {
    match (engine.packed_layers(), packing(compression)) {
        (Some(kept), Some(packing)) => kept.find(PackedForm { diff_id, packing }),
        _ => Ok(None),
    }
}

/// Packs a layer into the engine's keeping; `None`, with nothing read, where it keeps none.
///
/// # Errors
/// Of the reader and the disk.
pub fn keep_packed(
    kept: Option<&dyn PackedLayers>,
    diff_id: Digest,
    compression: Compression,
    tar: &mut dyn Read,
) -> Result<Option<KeptLayer>, Failure> {
    let (Some(kept), Some(packing)) = (kept, packing(compression)) else { return Ok(None) };
    kept.keep(PackedForm { diff_id, packing }, &mut |file| pack_into(file, compression, diff_id, tar)).map(Some)
}

/// Says, of an engine that keeps packed layers, how many are ready to leave, and how much of that was work.
fn tell(engine: &dyn Engine, attempt: &Attempt<'_>, all: usize, packed: usize) {
    if all > 0 && engine.packed_layers().is_some() {
        attempt.output.line(Stream::Engine, &format!("layers packed: {packed}, packed before: {}", all - packed));
    }
}

impl Held {
    fn hold(&mut self, diff_id: Digest, compression: Compression, kept: KeptLayer) {
        let KeptLayer { path, blob, hold } = kept;
        self.layers.insert(diff_id, PackedLayer { path, digest: blob.digest, size: blob.size, compression });
        self.holds.push(hold);
    }

    /// Takes of those layers what the engine keeps packed; the others stay.
    fn take_kept(&mut self, engine: &dyn Engine, packing: &Packing<'_>, layers: &mut BTreeSet<Digest>) -> Result<(), Failure> {
        for diff_id in layers.clone() {
            if let Some(kept) = find_packed(engine, diff_id, packing.compression)? {
                self.hold(diff_id, packing.compression, kept);
                layers.remove(&diff_id);
            }
        }
        Ok(())
    }

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
        let all = layers.len();
        held.take_kept(engine, packing, &mut layers)?;
        let mut sink = Sink { held: &mut held, packing, kept: engine.packed_layers() };
        engine.export(&images, &layers, &mut sink, attempt)?;
        tell(engine, attempt, all, layers.len());
        if complete(&held) { Ok(()) } else { Err(Failure::infra(format!("the engine did not export all of {}", image.id))) }
    }

    /// Packs layers of a base from its local source.
    pub fn fetch_from(
        &self,
        packing: &Packing<'_>,
        engine: &dyn Engine,
        source: &dyn ImageSource,
        wanted: &BTreeSet<Digest>,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted: BTreeSet<Digest> = wanted.iter().filter(|layer| !held.layers.contains_key(layer)).copied().collect();
        let all = wanted.len();
        held.take_kept(engine, packing, &mut wanted)?;
        tell(engine, attempt, all, wanted.len());
        for (position, layer) in source.layers().iter().enumerate() {
            if wanted.contains(&layer.diff_id) && !held.layers.contains_key(&layer.diff_id) {
                let unpacked = layer.compression.unpacked(source.open_layer(position)?);
                let mut reader = unpacked.map_err(|error| super::attempts::disk_failure(&error, "a packed layer"))?;
                Sink { held: &mut held, packing, kept: engine.packed_layers() }.layer(layer.diff_id, &mut reader)?;
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
    kept: Option<&'a dyn PackedLayers>,
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
        let compression = self.packing.compression;
        if let Some(kept) = keep_packed(self.kept, diff_id, compression, tar)? {
            self.held.hold(diff_id, compression, kept);
            return Ok(());
        }
        let path = self.held.file(self.packing.folder, diff_id)?;
        let mut file = File::create(&path).map_err(|error| super::attempts::disk_failure(&error, "a packed layer"))?;
        let PackedBlob { digest, size } = pack_into(&mut file, compression, diff_id, tar)?;
        self.held.layers.insert(diff_id, PackedLayer { path, digest, size, compression });
        Ok(())
    }
}
