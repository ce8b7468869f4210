//! The engine itself: the seam's calls, handed to the rooms that do them.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::build::Environment;
use super::files::{Hashing, disk};
use super::refuse;
use super::sandbox::{Host, Root};
use super::store::{Claim, Store};
use super::{bring, build, tests};
use crate::digest::{Digest, ImageId, Key};
use crate::dockerfile::{Dockerfile, Resolved};
use crate::engine::{Advice, Attempt, BuildRequest, Collected, Engine, EngineIdentity, ExportSink, Limits, PackedLayers, TestRequest};
use crate::failure::Failure;
use crate::image::{EngineImage, ImageConfig, ImageSource};
use crate::platform::Platform;
use crate::problem::Problem;
use crate::reference::Reference;

/// Rises when the same request would give another result.
const RESULTS_VERSION: u32 = 3;

/// What an engine is made with.
pub struct EmbeddedOptions {
    /// Folder of the store, absolute; made where it is not there.
    pub store: PathBuf,
    /// The program that sandboxes re-execute: igraph itself.
    pub runner: PathBuf,
    /// Whose images are igraph's to collect: short, `[a-z0-9]+`, the same for all runs of a workspace and for no other.
    pub owner: String,
    /// Where secrets from the environment come from.
    pub environment: Environment,
    /// Find out what works here, whatever is remembered of it.
    pub afresh: bool,
}

/// The embedded engine behind the seam.
pub struct EmbeddedEngine {
    store: Store,
    host: Host,
    environment: Environment,
}

impl EmbeddedEngine {
    /// What keys know of it.
    pub const IDENTITY: EngineIdentity = EngineIdentity { kind: "embedded", results_version: RESULTS_VERSION };

    /// Opens the store.
    ///
    /// # Errors
    /// Infra, never retried, where the store can't be used, or this process may not make namespaces and mounts.
    pub fn open(options: EmbeddedOptions) -> Result<Self, Failure> {
        let EmbeddedOptions { store, runner, owner, environment, afresh } = options;
        let store = Store::open(&store, &owner)?;
        let remembered = if afresh { None } else { Host::remembered(&runner, store.root())? };
        let host = match remembered {
            Some(host) => host,
            None => {
                // who opens the store at the same time clears what nobody uses
                let _lease = store.lease()?;
                let work = store.work()?;
                Host::find(runner, store.root(), work.path())?
            }
        };
        Ok(Self { store, host, environment })
    }

    fn diff_ids(&self, image: &EngineImage) -> Result<(Vec<u8>, Vec<Digest>), Failure> {
        let gone = || Failure::infra(format!("the image {} is not in the store any more", image.id.0.short()));
        let bytes = self.store.image(image.id).ok_or_else(gone)?;
        let config = parsed(&bytes)?;
        Ok((bytes, config.diff_ids))
    }
}

fn parsed(bytes: &[u8]) -> Result<ImageConfig, Failure> {
    ImageConfig::parse(bytes).map_err(|error| Failure::step(format!("the image's config can't be read: {error}")))
}

impl Engine for EmbeddedEngine {
    fn identity(&self) -> EngineIdentity {
        Self::IDENTITY
    }

    fn description(&self) -> String {
        format!("embedded, {}, store {}", self.host.describe(), self.store.root().display())
    }

    fn advice(&self) -> Vec<Advice> {
        self.host.lacks.clone()
    }

    fn refusals(&self, dockerfile: &Dockerfile, resolved: &Resolved, _: bool) -> Vec<Problem> {
        refuse::refusals(dockerfile, resolved, self.host.root == Root::Chroot)
    }

    fn find(&self, id: ImageId) -> Result<Option<EngineImage>, Failure> {
        let _lease = self.store.lease()?;
        self.store.find(id)
    }

    fn load(&self, source: &dyn ImageSource, _: &Platform, _: &str, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        let _lease = self.store.lease()?;
        if let Some(image) = self.store.find(source.image_id())? {
            return Ok(image);
        }
        let diff_ids = parsed(source.config())?.diff_ids;
        if diff_ids.len() != source.layers().len() {
            return Err(Failure::step("the image's config and manifest disagree on the number of layers"));
        }
        bring::layers(&self.store, source, &diff_ids, attempt)?;
        self.store.keep(source.config(), Claim::Kept)
    }

    fn remembered(&self, key: &Key) -> Option<Digest> {
        self.store.cached(&build::rootfs_key(key), &[]).flatten()
    }

    fn remember(&self, key: &Key, layer: Digest) {
        let _ = self.store.cache(&build::rootfs_key(key), Some(layer));
    }

    fn config(&self, image: &EngineImage) -> Result<ImageConfig, Failure> {
        parsed(&self.diff_ids(image)?.0)
    }

    fn build(&self, request: &BuildRequest<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        build::build(&self.store, &self.host, &self.environment, request, attempt)
    }

    fn test(&self, request: &TestRequest<'_>, attempt: &Attempt<'_>) -> Result<(), Failure> {
        tests::test(&self.store, &self.host, request, attempt)
    }

    fn tag(&self, image: &EngineImage, name: &Reference) -> Result<(), Failure> {
        let _lease = self.store.lease()?;
        self.diff_ids(image)?;
        self.store.name(name, image.id)
    }

    fn named(&self, name: &Reference) -> Result<Option<ImageId>, Failure> {
        Ok(self.store.named(name))
    }

    fn export(
        &self,
        images: &[EngineImage],
        wanted: &BTreeSet<Digest>,
        sink: &mut dyn ExportSink,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure> {
        let _lease = self.store.lease()?;
        let (mut configs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for image in images {
            let (bytes, diff_ids) = self.diff_ids(image)?;
            if configs.insert(image.id) {
                sink.config(image.id, &bytes)?;
            }
            for length in 1..=diff_ids.len() {
                let diff_id = diff_ids[length - 1];
                if !wanted.contains(&diff_id) || !layers.insert(diff_id) {
                    continue;
                }
                if attempt.cancel.is_cancelled() {
                    return Err(Failure::stopped());
                }
                let mut tar = Hashing::new(self.store.open_layer(&diff_ids[..length])?);
                let given = sink.layer(diff_id, &mut tar);
                let rest = io::copy(&mut tar, &mut io::sink()).map_err(disk("a layer"));
                let sound = tar.digest() == diff_id;
                if rest.is_err() || !sound {
                    self.store.drop_layer(&diff_ids[..length]);
                    let message = format!("layer {} in the store was damaged, and is dropped", diff_id.short());
                    return Err(Failure::infra(message).hint("the next attempt brings it in or builds it again"));
                }
                given?;
            }
        }
        Ok(())
    }

    fn packed_layers(&self) -> Option<&dyn PackedLayers> {
        Some(&self.store)
    }

    fn discard(&self, image: &EngineImage) -> Result<(), Failure> {
        self.store.discard(image.id)
    }

    fn collect(&self, keep: &BTreeSet<ImageId>, limits: &Limits, dry_run: bool) -> Result<Collected, Failure> {
        self.store.collect(keep, limits, dry_run)
    }
}
