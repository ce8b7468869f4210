//! The seam between execution and whatever builds: one small trait with plain data. Calls block;
//! an engine that is asynchronous inside keeps its own runtime. Contract: tests/engine_contract.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::access::{Network, SecretSource};
use crate::cancel::Cancel;
use crate::digest::{Digest, ImageId, Key};
pub use crate::dockerfile::ContextInput;
use crate::dockerfile::{Dockerfile, Resolved};
use crate::event::Stream;
use crate::failure::Failure;
use crate::image::{EngineImage, ImageConfig, ImageSource};
use crate::platform::Platform;
use crate::problem::Problem;
pub use crate::scrub::Scrub;

/// What keys know of an engine: its kind, and an integer of ours that rises when results would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineIdentity {
    /// `docker`, `embedded` or `fake`.
    pub kind: &'static str,
    /// Rises when the same request would give another result.
    pub results_version: u32,
}

/// Where the output of an attempt goes.
pub trait Output: Send + Sync {
    /// One line, without its end.
    fn line(&self, stream: Stream, line: &str);
    /// Work of known length: bytes or items done, of so many.
    fn progress(&self, what: &str, done: u64, total: Option<u64>);
}

/// What every call that may take long is given.
pub struct Attempt<'a> {
    /// Stops the call, which then fails with [`crate::failure::FailureClass::Stopped`].
    pub cancel: &'a Cancel,
    /// Takes output lines.
    pub output: &'a dyn Output,
    /// After this long the call is stopped and fails as a step: `timed out after 5m`.
    pub timeout: Option<Duration>,
}

/// An image to build. Everything outside is already resolved: the engine asks no registry.
pub struct BuildRequest<'a> {
    /// Short name of the node for people and content tags, `[a-z0-9._-]+`, like `debian-jessie-4.2.1`.
    pub slug: &'a str,
    /// The node's key; with the slug it makes a content tag that is unique.
    pub key: Key,
    /// The parsed Dockerfile.
    pub dockerfile: &'a Dockerfile,
    /// Its resolution for target, arguments and platform, with the configs of bases known: what is needed, and from where.
    pub resolved: &'a Resolved,
    /// The image for each reference of `resolved.references`, by its key.
    pub references: &'a BTreeMap<String, EngineImage>,
    /// Root of the context.
    pub context_root: &'a Path,
    /// Exactly the context entries that count, sorted by path, with the digests that the key saw.
    pub context: &'a [ContextInput],
    /// Build arguments to pass.
    pub args: &'a BTreeMap<String, String>,
    /// What to build for.
    pub platform: &'a Platform,
    /// Network of RUN.
    pub network: Network,
    /// By id.
    pub secrets: &'a BTreeMap<String, SecretSource>,
    /// ssh agents: id to socket path.
    pub ssh: &'a BTreeMap<String, PathBuf>,
    /// SOURCE_DATE_EPOCH, seconds.
    pub epoch: i64,
    /// Use no instruction cache (forced, renewed, retried).
    pub no_cache: bool,
    /// HTTP(S)_PROXY and friends for RUN steps; never in a key.
    pub proxies: &'a BTreeMap<String, String>,
    /// Leave no content tag behind: a test's throwaway image.
    pub throwaway: bool,
    /// Files that are left out of the layers of RUN steps, which see them all the same.
    pub scrub: &'a BTreeSet<Scrub>,
}

/// Commands to run on an image in one throwaway root, in order; the first that fails ends it.
pub struct TestRequest<'a> {
    /// Short name for people.
    pub slug: &'a str,
    /// What is tested.
    pub subject: &'a EngineImage,
    /// argv of each command; `run` strings come as `["/bin/sh", "-ec", text]`. The image's ENTRYPOINT is ignored.
    pub commands: &'a [Vec<String>],
    /// Added to the image's environment.
    pub env: &'a BTreeMap<String, String>,
    /// Network of the commands.
    pub network: Network,
    /// Proxies, as in a build.
    pub proxies: &'a BTreeMap<String, String>,
}

/// What an engine lacks on this machine to work better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What is missing.
    pub lacks: String,
    /// The command that mends it.
    pub command: String,
}

/// Takes what [`Engine::export`] reads. Order is the engine's; each image's config comes once, each wanted layer once.
pub trait ExportSink {
    /// The exact bytes of an image's config.
    fn config(&mut self, id: ImageId, bytes: &[u8]) -> Result<(), Failure>;
    /// The uncompressed tar of a layer.
    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure>;
}

/// One packed form of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedForm<'a> {
    /// Which layer.
    pub diff_id: Digest,
    /// Names the way of packing, `[a-z0-9-]+`: of the same name come the same bytes.
    pub packing: &'a str,
}

/// Bytes of a packed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBlob {
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// A packed layer that an engine keeps.
pub struct KeptLayer {
    /// The file, to be read only.
    pub path: PathBuf,
    /// What is in it, verified.
    pub blob: PackedBlob,
    /// The file stays as long as this.
    pub hold: Box<dyn Send + Sync>,
}

/// Where an engine keeps layers as they left, so that none is packed twice.
pub trait PackedLayers {
    /// A layer that was kept; `None` where there is none, or its bytes are not what they were.
    ///
    /// # Errors
    /// Of the disk.
    fn find(&self, form: PackedForm<'_>) -> Result<Option<KeptLayer>, Failure>;

    /// Keeps what `pack` writes.
    ///
    /// # Errors
    /// What `pack` says, and of the disk.
    fn keep(&self, form: PackedForm<'_>, pack: &mut dyn FnMut(&mut File) -> Result<PackedBlob, Failure>) -> Result<KeptLayer, Failure>;
}

/// How much of what no record needs may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What was of no use for so long goes; `None`: as long as the engine thinks right.
    pub age: Option<Duration>,
    /// All that the engine keeps should take no more bytes than this; what was of no use for longest goes first.
    pub size: Option<u64>,
}

/// What an engine keeps, and what was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Content tags, images or layers removed.
    pub images: usize,
    /// Containers removed.
    pub containers: usize,
    /// Bytes freed, as far as the engine says.
    pub bytes: u64,
    /// Layers and folders of the engine's own caches removed.
    pub cached: usize,
    /// Bytes that stay, where the engine knows.
    pub left: Option<u64>,
}

/// A builder of images and runner of tests.
pub trait Engine: Send + Sync {
    /// For keys.
    fn identity(&self) -> EngineIdentity;

    /// For records and people: like `docker 20.10.24 at unix:///var/run/docker.sock (overlay2, BuildKit)`.
    fn description(&self) -> String;

    /// What would make it better here; empty where it has all that it uses.
    fn advice(&self) -> Vec<Advice> {
        Vec::new()
    }

    /// What of this build the engine can't do, with the line and the way out; asked before anything runs.
    fn refusals(&self, dockerfile: &Dockerfile, resolved: &Resolved, secrets_or_ssh: bool) -> Vec<Problem>;

    /// Whether it holds that image; asks for no more than presence.
    fn find(&self, id: ImageId) -> Result<Option<EngineImage>, Failure>;

    /// Brings an image in, if it is not there already. `slug` names it for people.
    fn load(&self, source: &dyn ImageSource, platform: &Platform, slug: &str, attempt: &Attempt<'_>) -> Result<EngineImage, Failure>;

    /// The layer that a root file system with this key was found to be, where the engine was told and holds it: measuring it again is
    /// work that a cache saves, as with instructions.
    fn remembered(&self, _: &Key) -> Option<Digest> {
        None
    }

    /// Tells which layer a root file system with this key is. What can't be kept is measured again.
    fn remember(&self, _: &Key, _layer: Digest) {}

    /// The config of an image it holds.
    fn config(&self, image: &EngineImage) -> Result<ImageConfig, Failure>;

    /// Builds.
    fn build(&self, request: &BuildRequest<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Failure>;

    /// Runs commands on an image and throws what they did away.
    fn test(&self, request: &TestRequest<'_>, attempt: &Attempt<'_>) -> Result<(), Failure>;

    /// Makes the local name point at the image; names are the engine's familiar ones.
    fn tag(&self, image: &EngineImage, name: &crate::reference::Reference) -> Result<(), Failure>;

    /// What a local name points at.
    fn named(&self, name: &crate::reference::Reference) -> Result<Option<ImageId>, Failure>;

    /// Reads configs and those layers of the images that are wanted; layers that several share are read once.
    fn export(
        &self,
        images: &[EngineImage],
        wanted: &BTreeSet<Digest>,
        sink: &mut dyn ExportSink,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure>;

    /// Where it keeps packed layers, if it does.
    fn packed_layers(&self) -> Option<&dyn PackedLayers> {
        None
    }

    /// Lets go of a throwaway image.
    fn discard(&self, image: &EngineImage) -> Result<(), Failure>;

    /// Removes what igraph made here and no record needs: content tags whose image is not in `keep`, containers of dead runs, and
    /// what is beyond the limits of caches that are the engine's own.
    fn collect(&self, keep: &BTreeSet<ImageId>, limits: &Limits, dry_run: bool) -> Result<Collected, Failure>;
}
