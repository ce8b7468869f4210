//! Layers as they leave: packed once, kept by diff id and way of packing. The bytes lie in `blobs` under their own digest, `packed` says
//! which are whose. Nothing is given out whose digest was not read again; what is damaged is dropped. Knows no packing.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::folder::Store;
use super::layers::touch;
use crate::digest::Digest;
use crate::engine::embedded::files::{self, Hashing, disk};
use crate::engine::{KeptLayer, PackedBlob, PackedForm, PackedLayers};
use crate::failure::Failure;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    digest: Digest,
    size: u64,
}

/// A packed layer, as collecting sees it.
pub(super) struct PackedPiece {
    /// What says whose it is; for bytes that nothing names, these themselves.
    pub record: PathBuf,
    pub blob: PathBuf,
    pub size: u64,
    /// Of which layer; `None` where nothing says so.
    pub diff_id: Option<Digest>,
}

fn cannot(error: io::Error) -> Failure {
    disk("a packed layer")(error)
}

impl PackedLayers for Store {
    fn find(&self, form: PackedForm<'_>) -> Result<Option<KeptLayer>, Failure> {
        let lease = self.lease()?;
        let record = self.packed_record(form);
        let Ok(bytes) = std::fs::read(&record) else { return Ok(None) };
        let Ok(Record { digest, size }) = serde_json::from_slice(&bytes) else { return Ok(None) };
        let path = self.blob(digest);
        let sound = File::open(&path).and_then(|file| {
            let mut file = Hashing::new(file);
            let length = io::copy(&mut file, &mut io::sink())?;
            Ok(length == size && file.digest() == digest)
        });
        if !sound.unwrap_or(false) {
            let _changing = self.changing()?;
            for path in [&record, &path] {
                files::remove(path).map_err(cannot)?;
            }
            return Ok(None);
        }
        touch(&record);
        Ok(Some(KeptLayer { path, blob: PackedBlob { digest, size }, hold: Box::new(lease) }))
    }

    fn keep(&self, form: PackedForm<'_>, pack: &mut dyn FnMut(&mut File) -> Result<PackedBlob, Failure>) -> Result<KeptLayer, Failure> {
        let lease = self.lease()?;
        let work = self.work()?;
        let new = work.path().join("packed");
        let mut file = File::create_new(&new).map_err(cannot)?;
        let blob = pack(&mut file)?;
        file.sync_data().map_err(cannot)?;
        let path = self.blob(blob.digest);
        let bytes =
            serde_json::to_vec(&Record { digest: blob.digest, size: blob.size }).map_err(|error| Failure::infra(error.to_string()))?;
        let _changing = self.changing()?;
        std::fs::rename(&new, &path).map_err(cannot)?;
        File::open(self.root.join("blobs")).and_then(|folder| folder.sync_data()).map_err(cannot)?;
        self.put(&self.packed_record(form), &bytes)?;
        Ok(KeptLayer { path, blob, hold: Box::new(lease) })
    }
}

impl Store {
    fn packed_record(&self, form: PackedForm<'_>) -> PathBuf {
        self.root.join("packed").join(format!("{}.{}", form.diff_id.hex(), form.packing))
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// All that is kept packed, and bytes that nothing names.
    pub(super) fn packed_pieces(&self) -> Result<Vec<PackedPiece>, Failure> {
        let (records, blobs) = (self.root.join("packed"), self.root.join("blobs"));
        let mut pieces = Vec::new();
        let mut unnamed: std::collections::BTreeSet<_> = files::names(&blobs).map_err(cannot)?.into_iter().collect();
        for name in files::names(&records).map_err(cannot)? {
            let record = records.join(&name);
            let read = std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            // without a sound record there is nothing but the record itself
            let blob = read.as_ref().map_or_else(|| record.clone(), |read| self.blob(read.digest));
            let there = read.is_some_and(|read| unnamed.remove(std::ffi::OsStr::new(&read.digest.hex())));
            let diff_id = name.to_str().and_then(|name| format!("sha256:{}", name.split_once('.')?.0).parse().ok());
            pieces.push(PackedPiece { size: files::size(&blob).map_err(cannot)?, record, blob, diff_id: diff_id.filter(|_| there) });
        }
        for name in unnamed {
            let blob = blobs.join(name);
            pieces.push(PackedPiece { record: blob.clone(), size: files::size(&blob).map_err(cannot)?, blob, diff_id: None });
        }
        Ok(pieces)
    }
}
