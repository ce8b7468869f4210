//! Unpacked layers by diff id: finding, taking in, giving out byte for byte. A layer with folders that it does not spell out takes
//! them over from those below, and so is kept by its chain; all others are shared whatever they lie on. Knows no image.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::folder::{Store, Work};
use crate::digest::Digest;
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::diff;
use crate::engine::embedded::layer::split::SplitReader;
use crate::engine::embedded::layer::unpack::unpack;
use crate::engine::embedded::layer::view::View;
use crate::failure::Failure;

/// What is known of a layer.
#[derive(Debug, Serialize, Deserialize)]
struct Info {
    diff_id: Digest,
    /// Length of the tar.
    size: u64,
    /// The start of the machine that wrote it.
    boot: String,
}

/// A layer made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct Made {
    /// Digest of its tar.
    pub diff_id: Digest,
}

/// What a layer's folder holds: the files, the tar around them, files that later entries of the same tar replaced, what is known.
const PARTS: [&str; 4] = ["fs", "split", "moved", "info.json"];

/// Short, since the paths of all layers of an image have to fit a page; the whole digest stands in the layer's info.
fn short(digest: &Digest) -> String {
    digest.hex()[..20].to_owned()
}

/// The chain that ends in the last diff id (image-spec, config.md "Layer ChainID", but over all at once).
fn chain(diff_ids: &[Digest]) -> Digest {
    let mut hasher = Sha256::new();
    for diff_id in diff_ids {
        hasher.update(diff_id.as_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}

fn chain_name(diff_ids: &[Digest]) -> String {
    format!("c{}", &chain(diff_ids).hex()[..19])
}

impl Store {
    /// Folder of layers.
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The diff id of the layer of that name.
    pub(super) fn diff_id(&self, name: &str) -> Option<Digest> {
        self.info(name).map(|info| info.diff_id)
    }

    fn info(&self, name: &str) -> Option<Info> {
        let bytes = std::fs::read(self.layers().join(name).join("info.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The name of the topmost of these layers, if it is here and can be trusted.
    pub(super) fn layer(&self, diff_ids: &[Digest]) -> Option<String> {
        let diff_id = diff_ids.last()?;
        [short(diff_id), chain_name(diff_ids)]
            .into_iter()
            .find(|name| self.info(name).is_some_and(|info| info.diff_id == *diff_id && self.trusts(name, &info.boot)))
    }

    /// The names of all these layers, base first; `None` where one is missing.
    pub(super) fn layer_names(&self, diff_ids: &[Digest]) -> Option<Vec<String>> {
        (1..=diff_ids.len()).map(|length| self.layer(&diff_ids[..length])).collect()
    }

    /// Whether the topmost of these layers is here.
    pub fn has_layer(&self, diff_ids: &[Digest]) -> bool {
        self.layer(diff_ids).is_some()
    }

    /// Roots of the layers relative to [`Store::layers`], top first. One that comes twice stands only where it is topmost: it says
    /// there again all that it said further down, and overlayfs takes no folder twice.
    ///
    /// # Errors
    /// Infra, where one is gone.
    pub fn stack(&self, diff_ids: &[Digest]) -> Result<Vec<String>, Failure> {
        let names = self.layer_names(diff_ids).ok_or_else(|| Failure::infra("a layer of the image is not in the store any more"))?;
        let mut seen = BTreeSet::new();
        Ok(names.into_iter().rev().filter(|name| seen.insert(name.clone())).map(|name| format!("{name}/fs")).collect())
    }

    /// What these layers make together.
    ///
    /// # Errors
    /// As [`Store::stack`].
    pub fn view(&self, diff_ids: &[Digest]) -> Result<View, Failure> {
        let layers = self.layers();
        Ok(View::new(self.stack(diff_ids)?.into_iter().map(|root| layers.join(root)).collect()))
    }

    /// Unpacks the tar that goes on top of `below`.
    ///
    /// # Errors
    /// A step failure where the tar is broken, infra for reader and disk, and where it is not the layer expected.
    pub fn take_layer(&self, below: &[Digest], diff_id: Digest, tar: impl Read) -> Result<(), Failure> {
        let work = self.work()?;
        let root = work.path().join("fs");
        std::fs::create_dir(&root).map_err(disk("a layer"))?;
        let view = self.view(below)?;
        let unpacked = unpack(tar, &root, &work.path().join("split"), &work.path().join("moved"), &view).map_err(|error| {
            // a reader's own failure is the better word
            match error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()) {
                Some(failure) => failure.clone(),
                None if error.kind() == io::ErrorKind::InvalidData => Failure::step(error.to_string()),
                None => disk("unpacking a layer")(error),
            }
        })?;
        if unpacked.diff_id != diff_id {
            return Err(Failure::infra(format!("layer {} came as {}", diff_id.short(), unpacked.diff_id.short())));
        }
        let mut all = below.to_vec();
        all.push(diff_id);
        let name = if unpacked.implied { chain_name(&all) } else { short(&diff_id) };
        self.put_layer(work, &name, diff_id, unpacked.size)
    }

    /// Makes a layer of what `work`'s folder `fs` changes of the layers `lower`; `None` where it changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub fn make_layer(&self, work: Work, lower: &View, epoch: i64) -> Result<Option<Made>, Failure> {
        let root = work.path().join("fs");
        let changes = diff::changes(&root, lower, epoch).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => Failure::step(error.to_string()),
            _ => disk("reading what a step changed")(error),
        })?;
        if changes.is_empty() {
            return Ok(None);
        }
        let written = diff::write(&changes, &root, epoch, &work.path().join("split"));
        let (diff_id, size) = written.map_err(disk("packing what a step changed"))?;
        self.put_layer(work, &short(&diff_id), diff_id, size)?;
        Ok(Some(Made { diff_id }))
    }

    fn put_layer(&self, work: Work, name: &str, diff_id: Digest, size: u64) -> Result<(), Failure> {
        let info = Info { diff_id, size, boot: self.boot.clone() };
        let bytes = serde_json::to_vec(&info).map_err(|error| Failure::infra(error.to_string()))?;
        std::fs::write(work.path().join("info.json"), bytes).map_err(disk("a layer"))?;
        let place = self.layers().join(name);
        let _changing = self.changing()?;
        match self.info(name) {
            Some(info) if info.diff_id == diff_id && self.trusts(name, &info.boot) => return Ok(()),
            // damaged, or not known to have reached the disk before a restart
            _ if place.exists() => {
                self.unmark(name)?;
                let trash = self.work()?;
                std::fs::rename(&place, trash.path().join("old")).map_err(disk("a layer"))?;
            }
            _ => {}
        }
        for name in files::names(work.path()).map_err(disk("a layer"))? {
            if !PARTS.iter().any(|part| *part == name) {
                files::remove(&work.path().join(name)).map_err(disk("a layer"))?;
            }
        }
        std::fs::rename(work.path(), &place).map_err(disk("a layer"))
    }

    /// The tar of the topmost of these layers, byte for byte; who reads compares the digest.
    ///
    /// # Errors
    /// Infra, where it is not here.
    pub fn open_layer(&self, diff_ids: &[Digest]) -> Result<SplitReader, Failure> {
        let gone = || Failure::infra("a layer of the image is not in the store any more");
        let folder = self.layers().join(self.layer(diff_ids).ok_or_else(gone)?);
        SplitReader::open(&folder.join("split"), &folder.join("fs"), &folder.join("moved")).map_err(disk("a layer"))
    }

    /// Drops the topmost of these layers, which was found damaged.
    pub fn drop_layer(&self, diff_ids: &[Digest]) {
        if let (Ok(_changing), Some(name)) = (self.changing(), self.layer(diff_ids)) {
            let _ = self.remove_layer(&name);
        }
    }

    pub(super) fn remove_layer(&self, name: &str) -> Result<(), Failure> {
        self.unmark(name)?;
        let trash = self.work()?;
        std::fs::rename(self.layers().join(name), trash.path().join("old")).map_err(disk("removing a layer"))
    }

    /// Bytes of a layer's tar, which is about what it takes on disk.
    pub(super) fn layer_size(&self, name: &str) -> u64 {
        self.info(name).map_or(0, |info| info.size)
    }

    /// Which layer the instruction of that key made; the inner `None` says that it changed nothing. Only where the layer is here.
    pub fn cached(&self, key: &blake3::Hash, below: &[Digest]) -> Option<Option<Digest>> {
        let path = self.root.join("cache").join(key.to_hex().as_str());
        let layer: Option<Digest> = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        if let Some(diff_id) = layer {
            let mut all = below.to_vec();
            all.push(diff_id);
            if !self.has_layer(&all) {
                return None;
            }
        }
        touch(&path);
        Some(layer)
    }

    /// Remembers what an instruction made.
    ///
    /// # Errors
    /// Of the disk.
    pub fn cache(&self, key: &blake3::Hash, layer: Option<Digest>) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(&layer).map_err(|error| Failure::infra(error.to_string()))?;
        self.put(&self.root.join("cache").join(key.to_hex().as_str()), &bytes)
    }

    /// The marks of these layers when they are on the disk: their names.
    ///
    /// # Errors
    /// Infra, where one is gone.
    pub(super) fn marks_of(&self, diff_ids: &[Digest]) -> Result<BTreeSet<String>, Failure> {
        let gone = || Failure::infra("a layer of the image is not in the store any more");
        Ok(self.layer_names(diff_ids).ok_or_else(gone)?.into_iter().collect())
    }
}

/// Says that a file was of use; collecting takes the oldest.
pub(super) fn touch(path: &Path) {
    use nix::sys::stat::utimes;
    use nix::sys::time::TimeVal;
    // no more than a hint
    if let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME) {
        let now = TimeVal::new(now.tv_sec(), 0);
        let _ = utimes(path, &now, &now);
    }
}
