//! What a loaded workspace is: every entry with all defaults filled in and every path resolved. Knows no RON
//! and reads nothing; paths are relative to the workspace root, `/`-separated, without `.` and `..`, empty for
//! the root itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::claims::Claims;
use super::names::{ImageName, Registry};
use crate::access::{Network, SecretSource};
use crate::clock::Day;
use crate::image::Compression;
use crate::label::{Label, Package};
use crate::platform::Platform;
use crate::problem::{Place, Source};
use crate::reference::Reference;
use crate::scrub::Scrub;
use crate::stamp::Stamp;

/// Byte offsets into a build file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Of the first byte.
    pub start: u32,
    /// After the last byte.
    pub end: u32,
}

impl Span {
    /// As a range of a text.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where an entry is written, so that a later stage can point at the word that is wrong.
#[derive(Clone, Debug)]
pub struct Origin {
    pub(super) source: Arc<Source>,
    pub(super) name: Span,
    pub(super) fields: Box<[(&'static str, Span)]>,
}

impl Origin {
    /// The build file.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The value of the entry's name (of a `Workspace`: the word `Workspace`).
    pub fn name(&self) -> Place {
        Place { source: self.source.clone(), span: self.name.range(), note: None }
    }

    /// Whether `field` is written, in the entry or among its package's defaults.
    pub fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| *name == field)
    }

    /// The value of `field` where it is written, in the entry or among its package's defaults; else the name.
    pub fn field(&self, field: &str) -> Place {
        let span = self.fields.iter().find(|(name, _)| *name == field).map_or(self.name, |(_, span)| *span);
        Place { source: self.source.clone(), span: span.range(), note: None }
    }
}

/// A loaded and checked workspace. Whoever holds one knows: names are unique, no name is claimed twice, every
/// test that an image lists exists, no path leaves the workspace. Whether files exist is not looked at.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// The workspace's folder, as it was given.
    pub root: PathBuf,
    /// The root's `Workspace`.
    pub workspace: Workspace,
    /// All packages.
    pub packages: BTreeMap<Package, PackageSpec>,
    /// All `Image` entries.
    pub images: BTreeMap<Label, Image>,
    /// All `Test` entries.
    pub tests: BTreeMap<Label, Test>,
    /// All `Base` entries.
    pub bases: BTreeMap<Label, Base>,
    /// Which entry a reference belongs to.
    pub claims: Claims,
    /// What was read to load this: every build file and every folder searched for them, sorted by path. As long as
    /// none of these stamps changes, loading again gives the same.
    pub files: Vec<LoadedFile>,
}

/// A build file that was read, or a folder that was listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadedFile {
    /// Relative to the workspace root; empty for the root itself.
    pub path: Arc<str>,
    /// Its stat, taken before it was read.
    pub stamp: Stamp,
}

/// The root's `Workspace(…)`.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The folder that packages lie in or below.
    pub packages: Arc<str>,
    /// Where names without a host are pushed.
    pub registry: Registry,
    /// Settings by registry host.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// What builds.
    pub engine: EngineChoice,
    /// SOURCE_DATE_EPOCH, seconds.
    pub epoch: i64,
    /// How many nodes run at a time; `None`: as many as the machine has processors for.
    pub jobs: Option<usize>,
    /// For all entries that say nothing else.
    pub retries: RetryPolicy,
    /// How layers are packed that igraph packs.
    pub compression: Compression,
    /// Where it is written.
    pub origin: Origin,
}

/// How a registry is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Whether and how the connection is protected.
    pub tls: Tls,
    /// Registries to ask first, in order, when reading.
    pub mirrors: Vec<Registry>,
}

/// Protection of connections to a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// https; plain http on loopback.
    #[default]
    Default,
    /// https, and this PEM file's certificates count besides the system's: absolute, or relative to the workspace root.
    Ca(PathBuf),
    /// Plain http.
    Off,
}

/// Which engine builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// igraph's own.
    Embedded,
    /// Docker Engine; `host` as in `DOCKER_HOST`, `None`: where the environment and Docker's contexts say.
    Docker { host: Option<Arc<str>> },
}

/// How infra failures are tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Further attempts after the first.
    pub max: u32,
    /// Before the second attempt.
    pub delay: Duration,
    /// Each further delay is this many times the one before; at least 1.
    pub backoff: f64,
    /// No delay is longer.
    pub max_delay: Duration,
    /// A registry that asks for a longer wait ends the attempt at once.
    pub max_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max: 3, delay: Duration::from_secs(2), backoff: 2.0, max_delay: Duration::from_secs(60), max_wait: Duration::from_secs(600) }
    }
}

/// How long a result stands though its inputs stay the same; what is left out never ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// It is renewed when it is this old.
    pub refresh: Option<Duration>,
    /// It is renewed when this shell text, run in its image, answers otherwise than right after its build.
    pub probe: Option<Arc<str>>,
    /// A base that moves counts once it has stood this long. Of an image: the bases from registries that it names itself.
    pub settle: Option<Duration>,
    /// After this day it is kept as it is.
    pub until: Option<Day>,
}

impl Freshness {
    /// These policies, and those of `package` where nothing is said.
    pub fn or(self, package: &Self) -> Self {
        Self {
            refresh: self.refresh.or(package.refresh),
            probe: self.probe.or_else(|| package.probe.clone()),
            settle: self.settle.or(package.settle),
            until: self.until.or(package.until),
        }
    }
}

/// A folder with a build file.
#[derive(Clone, Debug)]
pub struct PackageSpec {
    /// Its folder.
    pub folder: Arc<str>,
    /// The repository of its images, as written, without a tag; default: the package's path.
    pub repository: Arc<str>,
    /// Its build file.
    pub source: Arc<Source>,
}

/// An `Image` entry.
#[derive(Clone, Debug)]
pub struct Image {
    /// Path of the Dockerfile.
    pub dockerfile: Arc<str>,
    /// Path of the context's folder.
    pub context: Arc<str>,
    /// The stage to build; `None`: the last.
    pub target: Option<Arc<str>>,
    /// Build arguments, the package's and its own.
    pub args: BTreeMap<Arc<str>, Arc<str>>,
    /// What to build for; default: this machine's.
    pub platform: Platform,
    /// Network of RUN.
    pub network: Network,
    /// By id. File paths are absolute or relative to the workspace root.
    pub secrets: BTreeMap<Arc<str>, SecretSource>,
    /// ssh agents by id: the variable that holds the socket's path, or that path.
    pub ssh: BTreeMap<Arc<str>, SecretSource>,
    /// Files that count though no instruction reads them.
    pub extra_inputs: Vec<Glob>,
    /// The package's tests, then its own, each once; no two have the same name.
    pub tests: Vec<Label>,
    /// Why it needs no test; only where `tests` is empty.
    pub untested: Option<Arc<str>>,
    /// `repository:name` first, then the aliases in the order written.
    pub names: Vec<ImageName>,
    /// The package's repository as written.
    pub repository: Arc<str>,
    /// An attempt that takes longer fails.
    pub timeout: Option<Duration>,
    /// How infra failures are tried again.
    pub retries: RetryPolicy,
    /// Only its exact label matches it.
    pub manual: bool,
    /// When it is renewed though nothing has changed.
    pub freshness: Freshness,
    /// Files that are left out of the layers of its RUN steps.
    pub scrub: BTreeSet<Scrub>,
    /// Where it is written.
    pub origin: Origin,
}

/// A `Test` entry.
#[derive(Clone, Debug)]
pub struct Test {
    /// What it does.
    pub form: TestForm,
    /// Network of its commands or RUN steps.
    pub network: Network,
    /// What its subject must be for; `None`: whatever the subject is for.
    pub platform: Option<Platform>,
    /// An attempt that takes longer fails.
    pub timeout: Option<Duration>,
    /// How infra failures are tried again.
    pub retries: RetryPolicy,
    /// Where it is written.
    pub origin: Origin,
}

/// The three forms of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestForm {
    /// Shell texts, each run by `/bin/sh -ec`, in order.
    Run { commands: Vec<Arc<str>>, env: BTreeMap<Arc<str>, Arc<str>> },
    /// argv lists, each with at least the program, in order.
    Exec { commands: Vec<Vec<Arc<str>>>, env: BTreeMap<Arc<str>, Arc<str>> },
    /// A build on top of the subject.
    Dockerfile { dockerfile: Arc<str>, context: Arc<str>, args: BTreeMap<Arc<str>, Arc<str>> },
}

/// A `Base` entry.
#[derive(Clone, Debug)]
pub struct Base {
    /// The references that mean this base, in the order written, with their places.
    pub provides: Vec<ImageName>,
    /// What it is made from.
    pub from: BaseFrom,
    /// What it is for, where it says so.
    pub platform: Option<Platform>,
    /// When it is renewed though nothing has changed.
    pub freshness: Freshness,
    /// Where it is written.
    pub origin: Origin,
}

impl Base {
    /// The platform it is taken for where `wanted` is asked for. Registries and layouts may hold images for many platforms; a tar or a
    /// command that says nothing is for this machine's.
    pub fn platform_for(&self, wanted: &Platform) -> Platform {
        match (&self.platform, &self.from) {
            (Some(own), _) => own.clone(),
            (None, BaseFrom::Registry(_) | BaseFrom::OciLayout(_)) => wanted.clone(),
            (None, BaseFrom::Rootfs(_) | BaseFrom::Command { .. }) => Platform::host(),
        }
    }
}

/// What a base is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseFrom {
    /// An image of a registry.
    Registry(Reference),
    /// Path of a root filesystem's tar.
    Rootfs(Arc<str>),
    /// Path of an OCI image layout's folder.
    OciLayout(Arc<str>),
    /// A program that writes such a tar to the path that stands for `{out}`, run in the package's folder.
    Command { argv: Vec<Arc<str>>, inputs: Vec<Glob>, env: BTreeMap<Arc<str>, Arc<str>> },
}

/// A pattern for input files: `pattern` is matched below `folder`; `*` and `?` within a path segment, `**` over any
/// number of them, `[a-z]` for one character. A folder that matches counts with all below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob {
    /// The part before the first segment with a wildcard, or before the last segment.
    pub folder: Arc<str>,
    /// The rest; never empty.
    pub pattern: Arc<str>,
}
