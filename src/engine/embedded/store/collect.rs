//! Collecting: images that no record needs, then layers that no image and no recent cache entry needs.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::folder::Store;
use crate::digest::{Digest, ImageId};
use crate::engine::Collected;
use crate::engine::embedded::files::{self, disk};
use crate::failure::{Failure, Retry};
use crate::image::ImageConfig;

/// How long an instruction's layer is kept for its own sake after it was last of use, seconds.
const CACHE_AGE: i64 = 14 * 24 * 60 * 60;

impl Store {
    /// Removes what this owner claims and `keep` does not name, and what then nobody needs.
    ///
    /// # Errors
    /// Infra where another process uses the store; of the disk.
    pub fn collect(&self, keep: &BTreeSet<ImageId>, dry_run: bool) -> Result<Collected, Failure> {
        let Some(_alone) = self.alone()? else {
            let message = format!("the store `{}` is in use by another igraph", self.root.display());
            return Err(Failure::infra(message).retry(Retry::Never).hint("try again when it is done"));
        };
        let _changing = self.changing()?;
        let named = self.all_named()?;
        let claimed = self.ids(&format!("claims/{}", self.owner))?;
        let gone: BTreeSet<ImageId> = claimed.difference(keep).copied().filter(|id| !named.contains(id)).collect();
        let mut collected = Collected { images: gone.len(), ..Collected::default() };
        if !dry_run {
            self.clear_work();
            for id in &gone {
                self.release(&self.owner.clone().into(), *id)?;
            }
        }
        let none = BTreeSet::new();
        let needed = self.needed(if dry_run { &gone } else { &none })?;
        for name in files::names(&self.layers()).map_err(disk("the store"))? {
            let Some(name) = name.to_str().filter(|name| !needed.contains(*name)) else { continue };
            collected.bytes += self.layer_size(name);
            if !dry_run {
                self.remove_layer(name)?;
            }
        }
        Ok(collected)
    }

    /// Names of layers that an image but `gone`, or a recent cache entry, needs.
    fn needed(&self, gone: &BTreeSet<ImageId>) -> Result<BTreeSet<String>, Failure> {
        let mut needed = BTreeSet::new();
        for id in self.ids("images")?.difference(gone) {
            if let Some(config) = self.image(*id).and_then(|bytes| ImageConfig::parse(&bytes).ok()) {
                let lengths = 1..=config.diff_ids.len();
                needed.extend(lengths.filter_map(|length| self.layer(&config.diff_ids[..length])));
            }
        }
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec());
        let cache = self.root.join("cache");
        for name in files::names(&cache).map_err(disk("the store"))? {
            let path = cache.join(name);
            let Some(metadata) = files::stat(&path).map_err(disk("the store"))? else { continue };
            if now - metadata.mtime() > CACHE_AGE {
                let _ = std::fs::remove_file(&path);
            } else if let Some(Some(layer)) =
                std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Option<Digest>>(&bytes).ok())
            {
                needed.extend(self.layer(&[layer]));
            }
        }
        Ok(needed)
    }
}
