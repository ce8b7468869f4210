//! What a Dockerfile comes to for one target, one set of arguments and one platform: the data, and what is asked for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ContextUse, Instruction, Mount, MountKind, Span};
use crate::image::ImageConfig;
use crate::platform::Platform;
use crate::problem::Source;

/// What a Dockerfile is resolved for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Name or index of the stage; the last one when `None`.
    pub target: Option<&'a str>,
    /// Build arguments.
    pub args: &'a BTreeMap<String, String>,
    /// TARGETPLATFORM.
    pub platform: &'a Platform,
    /// BUILDPLATFORM.
    pub build_platform: &'a Platform,
}

/// Configs of the images that stages start from.
pub trait Configs {
    /// The config of an image by its [`ImageUse::key`]; `None` when it is not known (yet).
    fn config(&self, image: &str) -> Option<Arc<ImageConfig>>;
}

/// Knows no config.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoConfigs;

impl Configs for NoConfigs {
    fn config(&self, _reference: &str) -> Option<Arc<ImageConfig>> {
        None
    }
}

/// A Dockerfile resolved for one target, one set of arguments, one platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Indices of the needed stages, ascending; the last is the target.
    pub stages: Vec<usize>,
    /// The needed stages, in the same order, every word expanded.
    pub steps: Vec<ResolvedStage>,
    /// Every image reference of needed stages, each (text, platform) once, in order of first use.
    pub references: Vec<ImageUse>,
    /// Keys of the images of FROM whose config was not known: their ENV and ONBUILD might matter.
    pub configs_needed: Vec<String>,
    /// What of the context can be read.
    pub context: ContextUse,
    /// The args that an ARG of needed stages or a used global ARG declares, with the value after expansion (of the last declaration);
    /// `None` where it has none. For keys: what is passed to a builder is what was requested, or defaults would leak between stages.
    pub args: BTreeMap<String, Option<String>>,
    /// Requested, but declared nowhere.
    pub unused_args: Vec<String>,
    /// Secrets that RUN mounts, by first use.
    pub secrets: Vec<Secret>,
    /// ssh agents that RUN mounts, by first use.
    pub ssh: Vec<Ssh>,
    /// What a builder must know to run it, with the place of the first use.
    pub features: Vec<(Feature, Span)>,
    /// What a generated text puts elsewhere.
    pub(super) replacements: Vec<Replacement>,
}

/// A word of the source that names an image, or a stage by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacement {
    pub span: Span,
    pub target: FromTarget,
}

/// A needed stage, expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedStage {
    /// Its index in the file.
    pub index: usize,
    /// What it starts from.
    pub base: FromTarget,
    /// The platform it is built for.
    pub platform: Platform,
    /// The base's ONBUILD triggers, then its own instructions.
    pub steps: Vec<Step>,
}

/// One instruction as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The instruction, expanded where BuildKit expands; bodies of COPY and ADD heredocs too. Where nothing had to be expanded, the
    /// very one of the Dockerfile.
    pub instruction: Arc<Instruction>,
    /// The text that the instruction's spans point into: the Dockerfile, or an ONBUILD trigger of a base image.
    pub source: Arc<Source>,
    /// It runs because the stage's base says so in ONBUILD.
    pub trigger: bool,
    /// Stages that it reads from, by place of `--from` or `from=` in the instruction: COPY has one at most, RUN one for each mount.
    pub from: Vec<Option<FromTarget>>,
    /// Mounts of RUN, expanded and read.
    pub mounts: Vec<Mount>,
    /// The whole environment that RUN sees: the base's ENV, ENV and ARG, the later one winning. Empty for other instructions.
    pub environment: Environment,
}

/// Names and values, in order of their first setting; shared by the steps between which nothing changes.
pub type Environment = Arc<[(String, String)]>;

/// Where `--from` or `from=` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromTarget {
    /// Nothing.
    Scratch,
    /// A stage, by its index in the file.
    Stage(usize),
    /// An image, by its [`ImageUse::key`].
    Image(String),
}

/// A use of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// Expanded, as a user would write it.
    pub text: String,
    /// Platform it is wanted for, where another than the request's.
    pub platform: Option<Platform>,
    /// Where it is used.
    pub kind: UseKind,
    /// Place of its first use.
    pub span: Span,
    /// Only in an ONBUILD trigger of a base image, so that no generated text can replace it.
    pub in_base: bool,
}

/// Between the text and the platform of a key; no reference has a space.
const FOR: &str = " for ";

impl ImageUse {
    /// What tells images of one Dockerfile apart: the text, and ` for PLATFORM` behind it where that is another than the request's.
    pub fn key(&self) -> String {
        Self::key_of(&self.text, self.platform.as_ref())
    }

    /// The key of a text and the platform that it is wanted for, where another than the request's.
    pub fn key_of(text: &str, platform: Option<&Platform>) -> String {
        platform.map_or_else(|| text.to_owned(), |platform| format!("{text}{FOR}{platform}"))
    }

    /// The text and the platform in a key.
    pub fn of_key(key: &str) -> (&str, Option<Platform>) {
        key.split_once(FOR).map_or((key, None), |(text, platform)| (text, platform.parse().ok()))
    }
}

/// Where an image is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UseKind {
    /// FROM.
    From,
    /// COPY --from.
    CopyFrom,
    /// RUN --mount=from=.
    MountFrom,
}

/// A secret that RUN mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: String,
    /// The step fails without it.
    pub required: bool,
    /// The mount.
    pub span: Span,
}

/// An ssh agent that RUN mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Its id.
    pub id: String,
    /// The step fails without it.
    pub required: bool,
    /// The mount.
    pub span: Span,
}

/// What a builder must know beyond the classic instructions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Heredocs.
    Heredoc,
    /// COPY or ADD --link.
    Link,
    /// COPY or ADD --chmod.
    CopyChmod,
    /// COPY or ADD --chmod with a symbolic mode.
    SymbolicChmod,
    /// ADD --checksum.
    AddChecksum,
    /// ADD --keep-git-dir.
    KeepGitDir,
    /// ADD --unpack.
    Unpack,
    /// COPY or ADD --exclude.
    Exclude,
    /// COPY --parents.
    Parents,
    /// RUN --mount.
    Mount(MountKind),
    /// RUN --mount=type=secret,env=.
    SecretEnv,
    /// RUN --network.
    RunNetwork,
    /// RUN --security.
    RunSecurity,
    /// RUN --device.
    RunDevice,
    /// HEALTHCHECK --start-interval.
    StartInterval,
    /// A `# syntax=` other than docker/dockerfile:1.
    CustomFrontend(String),
    /// ADD of a URL.
    AddUrl,
    /// ADD of a Git repository.
    AddGit,
    /// ONBUILD in the target, so that its config keeps triggers.
    OnBuild,
    /// FROM --platform of another platform than the request's.
    Platform,
    /// `${…}` with `#`, `%` or `/`.
    PatternExpansion,
}
