//! An image for a daemon that can't read zstd: its layers so packed are unpacked into files. Knows no daemon.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::digest::Digest;
use crate::engine::Attempt;
use crate::failure::{Failure, Retry};
use crate::image::{Compression, ImageSource, LayerBlob};

/// The image, with no layer in zstd.
pub(super) struct Plain<'a> {
    source: &'a dyn ImageSource,
    layers: Vec<LayerBlob>,
    files: BTreeMap<usize, NamedTempFile>,
}

impl<'a> Plain<'a> {
    /// Unpacks into files in `scratch`, which go with it.
    ///
    /// # Errors
    /// Of the source and the disk.
    pub fn of(source: &'a dyn ImageSource, scratch: &Path, attempt: &Attempt<'_>) -> Result<Self, Failure> {
        let mut plain = Self { source, layers: source.layers().to_vec(), files: BTreeMap::new() };
        for (index, layer) in plain.layers.iter_mut().enumerate().filter(|(_, layer)| layer.compression == Compression::Zstd) {
            let writing =
                |error: io::Error| Failure::infra(format!("cannot write to `{}`: {error}", scratch.display())).retry(Retry::Never);
            let reading = |error| Failure::infra(format!("layer `{}` can't be unpacked: {error}", layer.digest));
            let mut file = NamedTempFile::new_in(scratch).map_err(writing)?;
            let mut unpacked = layer.compression.unpacked(source.open_layer(index)?).map_err(reading)?;
            let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
            loop {
                if attempt.cancel.is_cancelled() {
                    return Err(Failure::stopped());
                }
                let count = unpacked.read(&mut buffer).map_err(reading)?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                size += count as u64;
                file.write_all(&buffer[..count]).map_err(writing)?;
            }
            let digest = Digest::from_bytes(hasher.finalize().into());
            if digest != layer.diff_id {
                return Err(Failure::infra(format!("layer {} came as {}", layer.diff_id.short(), digest.short())));
            }
            *layer = LayerBlob { diff_id: digest, digest, size, compression: Compression::None };
            plain.files.insert(index, file);
        }
        Ok(plain)
    }
}

impl ImageSource for Plain<'_> {
    fn config(&self) -> &[u8] {
        self.source.config()
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        match self.files.get(&index) {
            Some(file) => file.reopen().map(|file| Box::new(file) as _).map_err(|error| Failure::infra(format!("a layer: {error}"))),
            None => self.source.open_layer(index),
        }
    }
}
