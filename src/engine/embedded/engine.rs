//! The engine itself: the seam's calls, handed to the rooms that do them.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::build::Environment;
use super::files::disk;
use super::refuse;
use super::sandbox::{Host, Root};
use super::store::{Claim, Store};
use super::{bring, build, tests};
use crate::digest::{Digest, ImageId};
use crate::dockerfile::{Dockerfile, Resolved};
use crate::engine::{Advice, Attempt, BuildRequest, Collected, Engine, EngineIdentity, ExportSink, Limits, TestRequest};
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
        let EmbeddedOptions { store, runner, owner, environment } = options;
        let store = Store::open(&store, &owner)?;
        // who opens the store at the same time clears what nobody uses
        let lease = store.lease()?;
        let work = store.work()?;
        let host = Host::find(runner, store.root(), work.path())?;
        drop((work, lease));
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

/// Hashes what goes through.
struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
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
                let mut tar = Hashing { reader: self.store.open_layer(&diff_ids[..length])?, hasher: Sha256::new() };
                let given = sink.layer(diff_id, &mut tar);
                let rest = io::copy(&mut tar, &mut io::sink()).map_err(disk("a layer"));
                let sound = Digest::from_bytes(tar.hasher.finalize().into()) == diff_id;
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

    fn discard(&self, image: &EngineImage) -> Result<(), Failure> {
        self.store.discard(image.id)
    }

    fn collect(&self, keep: &BTreeSet<ImageId>, limits: &Limits, dry_run: bool) -> Result<Collected, Failure> {
        self.store.collect(keep, limits, dry_run)
    }
}
