//! Images: config bytes by id, who claims them, and the names that point at them. Knows no layer but by its diff id.

use std::collections::BTreeSet;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::folder::Store;
use crate::digest::{Digest, ImageId};
use crate::engine::embedded::files::{self, disk};
use crate::failure::Failure;
use crate::image::{EngineImage, ImageConfig};
use crate::platform::Platform;
use crate::reference::Reference;

/// Why an image is kept for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum Claim {
    /// Until a collection finds that no record needs it.
    Kept,
    /// Until it is discarded.
    Throwaway,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Named {
    name: String,
    pub image: ImageId,
}

impl Store {
    fn image_path(&self, id: ImageId) -> std::path::PathBuf {
        self.root.join("images").join(id.0.hex())
    }

    fn claim_path(&self, owner: &OsString, id: ImageId) -> std::path::PathBuf {
        self.root.join("claims").join(owner).join(id.0.hex())
    }

    fn own_claim(&self, id: ImageId) -> std::path::PathBuf {
        self.root.join("claims").join(&self.owner).join(id.0.hex())
    }

    /// The config of an image; `None` where it is not here, or not as it was.
    pub fn image(&self, id: ImageId) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.image_path(id)).ok()?;
        (Digest::of(&bytes) == id.0).then_some(bytes)
    }

    /// The image, if it is here with all its layers; from then on this owner claims it.
    ///
    /// # Errors
    /// Of the disk.
    pub fn find(&self, id: ImageId) -> Result<Option<EngineImage>, Failure> {
        let Some(bytes) = self.image(id) else { return Ok(None) };
        let Ok(config) = ImageConfig::parse(&bytes) else { return Ok(None) };
        if self.layer_names(&config.diff_ids).is_none() {
            return Ok(None);
        }
        if !self.own_claim(id).exists() {
            self.claim(id, Claim::Kept)?;
        }
        Ok(Some(EngineImage { id, handle: id.to_string(), platform: platform_of(&bytes) }))
    }

    fn claim(&self, id: ImageId, claim: Claim) -> Result<(), Failure> {
        let _changing = self.changing()?;
        let path = self.own_claim(id);
        let bytes: &[u8] = match (std::fs::read(&path).ok().as_deref(), claim) {
            (Some(b"kept"), _) | (Some(_), Claim::Throwaway) => return Ok(()),
            (_, Claim::Kept) => b"kept",
            (None, Claim::Throwaway) => b"throwaway",
        };
        self.unmark(&Self::image_mark(&self.owner, id))?;
        self.put(&path, bytes)
    }

    /// Says that an image and an owner's claim to it are on the disk.
    fn image_mark(owner: &str, id: ImageId) -> String {
        format!("{owner}.{}", id.0.hex())
    }

    /// Keeps an image whose layers are here, and brings all of it to the disk that is not there already.
    ///
    /// # Errors
    /// Of the disk.
    pub fn keep(&self, config: &[u8], claim: Claim) -> Result<EngineImage, Failure> {
        let id = ImageId(Digest::of(config));
        let parsed = ImageConfig::parse(config).map_err(|error| Failure::step(format!("the image's config can't be read: {error}")))?;
        let mark = Self::image_mark(&self.owner, id);
        if self.image(id).is_none() {
            for owner in files::names(&self.root.join("claims")).map_err(disk("the store"))? {
                self.unmark(&Self::image_mark(&owner.to_string_lossy(), id))?;
            }
            self.put(&self.image_path(id), config)?;
        }
        self.claim(id, claim)?;
        // a throwaway is in no record
        if claim == Claim::Kept {
            let mut marks = self.marks_of(&parsed.diff_ids)?;
            marks.insert(mark);
            self.settle(&marks)?;
        }
        Ok(EngineImage { id, handle: id.to_string(), platform: platform_of(config) })
    }

    /// Lets go of an image if it is only a throwaway. Its layers stay until the store is collected.
    ///
    /// # Errors
    /// Of the disk.
    pub fn discard(&self, id: ImageId) -> Result<(), Failure> {
        let _changing = self.changing()?;
        if std::fs::read(self.own_claim(id)).is_ok_and(|claim| claim == b"throwaway") {
            self.release(&OsString::from(&self.owner), id)?;
        }
        Ok(())
    }

    /// Removes a claim, and the image when it was the last.
    pub(super) fn release(&self, owner: &OsString, id: ImageId) -> Result<(), Failure> {
        let gone = |error: std::io::Error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
        self.unmark(&Self::image_mark(&owner.to_string_lossy(), id))?;
        std::fs::remove_file(self.claim_path(owner, id)).or_else(gone).map_err(disk("letting go of an image"))?;
        let owners = files::names(&self.root.join("claims")).map_err(disk("the store"))?;
        if owners.iter().any(|owner| self.claim_path(owner, id).exists()) {
            return Ok(());
        }
        std::fs::remove_file(self.image_path(id)).or_else(gone).map_err(disk("letting go of an image"))
    }

    /// Whether another owner claims an image.
    pub(super) fn claimed_by_another(&self, id: ImageId) -> bool {
        let owners = files::names(&self.root.join("claims")).unwrap_or_default();
        owners.iter().any(|owner| *owner != *self.owner && self.claim_path(owner, id).exists())
    }

    /// Ids in a folder whose files are named after them.
    pub(super) fn ids(&self, folder: &str) -> Result<BTreeSet<ImageId>, Failure> {
        let names = files::names(&self.root.join(folder)).map_err(disk("the store"))?;
        Ok(names.iter().filter_map(|name| format!("sha256:{}", name.to_str()?).parse().ok()).collect())
    }

    fn name_path(&self, name: &Reference) -> std::path::PathBuf {
        self.root.join("names").join(blake3::hash(name.to_string().as_bytes()).to_hex().as_str())
    }

    /// Makes a name point at an image.
    ///
    /// # Errors
    /// Of the disk.
    pub fn name(&self, name: &Reference, image: ImageId) -> Result<(), Failure> {
        let named = Named { name: name.to_string(), image };
        let bytes = serde_json::to_vec(&named).map_err(|error| Failure::infra(error.to_string()))?;
        self.put(&self.name_path(name), &bytes)?;
        self.sync()
    }

    /// What a name points at.
    pub fn named(&self, name: &Reference) -> Option<ImageId> {
        let named: Named = serde_json::from_slice(&std::fs::read(self.name_path(name)).ok()?).ok()?;
        (named.name == name.to_string()).then_some(named.image)
    }

    /// Every image that a name points at.
    pub(super) fn all_named(&self) -> Result<BTreeSet<ImageId>, Failure> {
        let folder = self.root.join("names");
        let names = files::names(&folder).map_err(disk("the store"))?;
        let read = |name| serde_json::from_slice::<Named>(&std::fs::read(folder.join(name)).ok()?).ok();
        Ok(names.into_iter().filter_map(read).map(|named| named.image).collect())
    }
}

/// What an image runs on, by its config.
fn platform_of(config: &[u8]) -> Platform {
    #[derive(Deserialize)]
    struct Outer {
        os: Option<String>,
        architecture: Option<String>,
        variant: Option<String>,
    }
    let read = || {
        let outer: Outer = serde_json::from_slice(config).ok()?;
        let variant = outer.variant.filter(|variant| !variant.is_empty()).map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", outer.os?, outer.architecture?).parse().ok()
    };
    read().unwrap_or_else(Platform::host)
}
