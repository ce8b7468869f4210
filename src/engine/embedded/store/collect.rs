//! Collecting: images that no record needs, then layers that no image and no cache entry needs, then the caches themselves, what was
//! of no use for longest first, until age and size are within their limits.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder::Store;
use crate::digest::{Digest, ImageId};
use crate::engine::embedded::files::{self, disk};
use crate::engine::{Collected, Limits};
use crate::failure::{Failure, Retry};
use crate::image::ImageConfig;

/// How long an instruction's layer is kept for its own sake after it was last of use.
const CACHE_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Something that is kept only to save work.
enum Saver {
    /// An entry of the instruction cache, and the layer that it names.
    Instruction(Option<String>),
    /// The folder of a cache mount, with its size.
    Mount(PathBuf, u64),
}

struct Piece {
    /// When it was last of use, seconds.
    used: i64,
    path: PathBuf,
    saver: Saver,
}

impl Store {
    /// Removes what this owner claims and `keep` does not name, what then nobody needs, and what of the caches is beyond the limits.
    /// What an image needs that a name or a record keeps is never removed.
    ///
    /// # Errors
    /// Infra where another process uses the store; of the disk.
    pub fn collect(&self, keep: &BTreeSet<ImageId>, limits: &Limits, dry_run: bool) -> Result<Collected, Failure> {
        let Some(_alone) = self.alone()? else {
            let message = format!("the store `{}` is in use by another igraph", self.root.display());
            return Err(Failure::infra(message).retry(Retry::Never).hint("try again when it is done"));
        };
        let _changing = self.changing()?;
        let named = self.all_named()?;
        let claimed = self.ids(&format!("claims/{}", self.owner))?;
        let gone: BTreeSet<ImageId> = claimed.difference(keep).copied().filter(|id| !named.contains(id)).collect();
        let mut collected = Collected { images: gone.len(), ..Collected::default() };
        let mut left = gone.clone();
        if !dry_run {
            self.clear_work();
            for id in &gone {
                self.release(&self.owner.clone().into(), *id)?;
            }
            // another owner may claim them still
            left.clear();
        }
        let sizes = self.sizes()?;
        let mut needed: BTreeMap<String, usize> = self.needed_by_images(&left)?.into_iter().map(|name| (name, 1)).collect();
        let mut pieces = self.pieces()?;
        for piece in &pieces {
            if let Saver::Instruction(Some(layer)) = &piece.saver {
                *needed.entry(layer.clone()).or_default() += 1;
            }
        }
        let mut dropped: BTreeSet<&String> = sizes.keys().filter(|name| !needed.contains_key(*name)).collect();
        let mut total: u64 = sizes.iter().filter(|(name, _)| !dropped.contains(name)).map(|(_, size)| size).sum();
        total += pieces.iter().map(|piece| if let Saver::Mount(_, size) = piece.saver { size } else { 0 }).sum::<u64>();
        collected.bytes = dropped.iter().map(|name| sizes[*name]).sum();
        pieces.sort_by(|one, other| (one.used, &one.path).cmp(&(other.used, &other.path)));
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec());
        let oldest = now.saturating_sub(i64::try_from(limits.age.unwrap_or(CACHE_AGE).as_secs()).unwrap_or(i64::MAX));
        for piece in pieces {
            if piece.used >= oldest && limits.size.is_none_or(|most| total <= most) {
                break;
            }
            let freed = match &piece.saver {
                Saver::Mount(_, size) => {
                    collected.cached += 1;
                    *size
                }
                Saver::Instruction(layer) => {
                    let layer = layer.as_ref().and_then(|layer| sizes.get_key_value(layer));
                    let count = layer.and_then(|(name, _)| needed.get_mut(name));
                    let last = count.is_some_and(|count| {
                        *count -= 1;
                        *count == 0
                    });
                    let (name, size) = match layer.filter(|_| last) {
                        Some((name, size)) => (Some(name), *size),
                        None => (None, 0),
                    };
                    collected.cached += usize::from(last);
                    dropped.extend(name);
                    size
                }
            };
            total -= freed;
            collected.bytes += freed;
            if !dry_run {
                self.drop_piece(&piece)?;
            }
        }
        if !dry_run {
            for name in dropped {
                self.remove_layer(name)?;
            }
        }
        collected.left = Some(total);
        Ok(collected)
    }

    fn drop_piece(&self, piece: &Piece) -> Result<(), Failure> {
        let removing = |error| disk(format!("removing `{}`", piece.path.display()))(error);
        if let Saver::Mount(folder, _) = &piece.saver {
            let trash = self.work()?;
            std::fs::rename(folder, trash.path().join("old")).map_err(removing)?;
        }
        files::remove(&piece.path).map_err(removing)
    }

    /// All layers, with what each takes.
    fn sizes(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let names = files::names(&self.layers()).map_err(disk("the store"))?;
        Ok(names.iter().filter_map(|name| name.to_str()).map(|name| (name.to_owned(), self.layer_size(name))).collect())
    }

    /// Names of layers that an image but `gone` needs.
    fn needed_by_images(&self, gone: &BTreeSet<ImageId>) -> Result<BTreeSet<String>, Failure> {
        let mut needed = BTreeSet::new();
        let elsewhere = |id: &ImageId| self.claimed_by_another(*id);
        for id in self.ids("images")?.iter().filter(|id| !gone.contains(id) || elsewhere(id)) {
            if let Some(config) = self.image(*id).and_then(|bytes| ImageConfig::parse(&bytes).ok()) {
                let lengths = 1..=config.diff_ids.len();
                needed.extend(lengths.filter_map(|length| self.layer(&config.diff_ids[..length])));
            }
        }
        Ok(needed)
    }

    /// What is kept only to save work.
    fn pieces(&self) -> Result<Vec<Piece>, Failure> {
        let mut pieces = Vec::new();
        let used = |path: &Path| files::stat(path).map(|found| found.map_or(0, |metadata| metadata.mtime())).map_err(disk("the store"));
        let cache = self.root.join("cache");
        for name in files::names(&cache).map_err(disk("the store"))? {
            let path = cache.join(name);
            let made = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Option<Digest>>(&bytes).ok());
            let layer = made.flatten().and_then(|diff_id| self.layer(&[diff_id]));
            pieces.push(Piece { used: used(&path)?, path, saver: Saver::Instruction(layer) });
        }
        let mounts = self.root.join("caches");
        for name in files::names(&mounts).map_err(disk("the store"))? {
            let folder = mounts.join(&name);
            if folder.is_dir() {
                let mark = mounts.join(format!("{}.used", name.to_string_lossy()));
                let size = files::size(&folder).map_err(disk("the store"))?;
                pieces.push(Piece { used: used(&mark)?, path: mark, saver: Saver::Mount(folder, size) });
            }
        }
        Ok(pieces)
    }
}
