//! Collecting: images that no record needs, then layers that no image and no cache entry needs, then the caches themselves, what was
//! of no use for longest first, until age and size are within their limits. Of what is younger than the age, packed layers go first: they
//! are the cheapest to make again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder::Store;
use super::packed::PackedPiece;
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
    /// A packed layer, with its size.
    Packed(PathBuf, u64),
}

impl Saver {
    /// What removing it alone frees.
    fn own_size(&self) -> u64 {
        match self {
            Self::Mount(_, size) | Self::Packed(_, size) => *size,
            Self::Instruction(_) => 0,
        }
    }
}

struct Piece {
    /// When it was last of use, seconds.
    used: i64,
    path: PathBuf,
    saver: Saver,
}

/// When the file that says so was last touched, seconds.
fn last_use(path: &Path) -> Result<i64, Failure> {
    files::stat(path).map(|found| found.map_or(0, |metadata| metadata.mtime())).map_err(disk("the store"))
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
        let diff_ids = sizes.keys().filter(|name| !dropped.contains(name)).filter_map(|name| self.diff_id(name)).collect();
        pieces.extend(self.packed_savers(&diff_ids)?);
        total += pieces.iter().map(|piece| piece.saver.own_size()).sum::<u64>();
        collected.bytes = dropped.iter().map(|name| sizes[*name]).sum();
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec());
        let oldest = now.saturating_sub(i64::try_from(limits.age.unwrap_or(CACHE_AGE).as_secs()).unwrap_or(i64::MAX));
        pieces.sort_by_cached_key(|piece| {
            let young = piece.used >= oldest;
            (young, young && !matches!(piece.saver, Saver::Packed(..)), piece.used, piece.path.clone())
        });
        for piece in pieces {
            if piece.used >= oldest && limits.size.is_none_or(|most| total <= most) {
                break;
            }
            let freed = match &piece.saver {
                Saver::Mount(_, size) | Saver::Packed(_, size) => {
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
        match &piece.saver {
            Saver::Mount(folder, _) => {
                let trash = self.work()?;
                std::fs::rename(folder, trash.path().join("old")).map_err(removing)?;
            }
            // first what says that it is there
            Saver::Packed(blob, _) => return files::remove(&piece.path).and_then(|()| files::remove(blob)).map_err(removing),
            Saver::Instruction(_) => {}
        }
        files::remove(&piece.path).map_err(removing)
    }

    /// Packed layers; those whose layer is not in `diff_ids` are of no use any more.
    fn packed_savers(&self, diff_ids: &BTreeSet<Digest>) -> Result<Vec<Piece>, Failure> {
        let saver = |piece: PackedPiece| {
            let of_use = piece.diff_id.is_some_and(|diff_id| diff_ids.contains(&diff_id));
            let used = if of_use { last_use(&piece.record)? } else { i64::MIN };
            Ok(Piece { used, path: piece.record, saver: Saver::Packed(piece.blob, piece.size) })
        };
        self.packed_pieces()?.into_iter().map(saver).collect()
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
        let cache = self.root.join("cache");
        for name in files::names(&cache).map_err(disk("the store"))? {
            let path = cache.join(name);
            let made = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Option<Digest>>(&bytes).ok());
            let layer = made.flatten().and_then(|diff_id| self.layer(&[diff_id]));
            pieces.push(Piece { used: last_use(&path)?, path, saver: Saver::Instruction(layer) });
        }
        let mounts = self.root.join("caches");
        for name in files::names(&mounts).map_err(disk("the store"))? {
            let folder = mounts.join(&name);
            if folder.is_dir() {
                let mark = mounts.join(format!("{}.used", name.to_string_lossy()));
                let size = files::size(&folder).map_err(disk("the store"))?;
                pieces.push(Piece { used: last_use(&mark)?, path: mark, saver: Saver::Mount(folder, size) });
            }
        }
        Ok(pieces)
    }
}
