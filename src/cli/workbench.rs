//! What most commands start from: the workspace, what of it was selected, the records, the lock, and how registries and engines are
//! reached. Opens as little as the command needs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args;
use super::environment::Environment;
use super::error::Error;
use super::program::Context;
use super::values::{EngineChoice, StandInSource};
use crate::clock::Clock;
use crate::engine::Engine;
use crate::engine::docker;
use crate::failure::Failure;
use crate::graph::{StandIn, StandIns};
use crate::keys::FileDigests;
use crate::label::{Label, Package};
use crate::lock::LockFile;
use crate::pattern::{self, Selection};
use crate::platform::Platform;
use crate::record::{State, StateFolder, Wait, WriterLock};
use crate::registry::{Client, ClientConfig, DockerConfigCredentials, HostConfig, Observer};
use crate::spec::{self, Catalogue, Destination, Tls};

/// Name of the folder of records at the workspace root.
pub const OUT: &str = "igraph-out";

/// A loaded workspace.
pub struct Workbench<'a> {
    pub context: &'a Context<'a>,
    pub catalogue: Catalogue,
    pub folder: StateFolder,
    pub platform: Platform,
    /// The package of the current directory, where it is one or above some.
    pub here: Option<Package>,
}

/// The workspace root above the current directory.
pub fn root(environment: &Environment) -> Result<PathBuf, Error> {
    let start = environment.current_dir.as_deref().unwrap_or_else(|| Path::new("."));
    spec::find_root(start).map_err(Error::Problems)
}

impl<'a> Workbench<'a> {
    /// Loads the workspace around the current directory.
    pub fn load(context: &'a Context<'a>) -> Result<Self, Error> {
        let root = root(context.environment)?;
        let catalogue = spec::load(&root).map_err(Error::Problems)?;
        let here = here(context.environment, &catalogue);
        Ok(Self { context, folder: StateFolder::new(root.join(OUT)), platform: Platform::host(), here, catalogue })
    }

    /// The workspace root.
    pub fn root(&self) -> &Path {
        &self.catalogue.root
    }

    /// Resolves patterns, `@file` and `@-` among them, over all images.
    pub fn select(&self, patterns: &[String], exclude: &[String]) -> Result<Selection, Error> {
        let patterns = read_lists(patterns)?;
        let exclude = read_lists(exclude)?;
        let patterns = if patterns.is_empty() { vec!["...".to_owned()] } else { patterns };
        let images = self.catalogue.images.iter().map(|(label, image)| (label, image.manual));
        let selection = pattern::resolve(&patterns, &exclude, images, self.here.as_ref()).map_err(Error::Pattern)?;
        for warning in &selection.warnings {
            self.context.printer.warn(warning);
        }
        Ok(selection)
    }

    /// The right to write records; waits for another igraph, and says for whom.
    pub fn writer(&self, no_wait: bool, clock: &dyn Clock) -> Result<WriterLock, Error> {
        self.folder.create()?;
        let wait = if no_wait { Wait::No } else { Wait::Yes };
        let command: Vec<String> = std::env::args().collect();
        let printer = self.context.printer;
        Ok(WriterLock::acquire(&self.folder, &command.join(" "), wait, clock, self.context.cancel, |holder| {
            printer.say(format_args!("igraph: waiting for another igraph: {holder}"));
        })?)
    }

    /// The records, to write.
    pub fn state(&self) -> Result<State, Error> {
        self.folder.create()?;
        Ok(State::open(&self.folder)?)
    }

    /// The records, only to read.
    pub fn state_read_only(&self) -> Result<State, Error> {
        Ok(State::open_read_only(&self.folder)?)
    }

    /// `igraph.lock`.
    pub fn lock(&self) -> Result<LockFile, Error> {
        LockFile::read(&self.root().join(crate::lock::FILE_NAME)).map_err(Error::Problems)
    }

    /// The cache of file digests.
    pub fn digests(&self) -> FileDigests {
        FileDigests::load(&self.folder.file_digests())
    }

    /// The registry client.
    pub fn client(&self, clock: Arc<dyn Clock>, observer: Option<Arc<dyn Observer>>) -> Result<Client, Error> {
        let workspace = &self.catalogue.workspace;
        let mut hosts = BTreeMap::new();
        for (host, settings) in &workspace.registries {
            let ca = match &settings.tls {
                Tls::Ca(path) => {
                    let path = self.root().join(path);
                    Some(std::fs::read(&path).map_err(|source| Error::Read { path, source })?)
                }
                Tls::Default | Tls::Off => None,
            };
            let mirrors = settings.mirrors.iter().map(ToString::to_string).collect();
            hosts.insert(host.clone(), HostConfig { plain_http: settings.tls == Tls::Off, ca, mirrors });
        }
        let environment = self.context.environment;
        Ok(Client::new(ClientConfig {
            hosts,
            credentials: Box::new(DockerConfigCredentials::new(environment.docker_config_dir())),
            user_agent: concat!("igraph/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_wait: workspace.retries.max_wait,
            clock,
            observer,
            proxies: environment.registry_proxies(),
        })?)
    }

    /// Where names are pushed.
    pub fn destination(&self, registry: Option<&super::values::RegistryTarget>) -> Result<Destination, Error> {
        let Some(target) = registry else { return Ok(Destination::Workspace(self.catalogue.workspace.registry.clone())) };
        let registry = spec::Registry::parse(&target.to_string())
            .map_err(|error| Error::Usage { hint: Some(error.hint()), message: error.to_string() })?;
        let problems = self.catalogue.check_staging(&registry);
        if problems.is_empty() { Ok(Destination::Staging(registry)) } else { Err(Error::Problems(problems)) }
    }

    /// `--base`.
    pub fn stand_ins(&self, world: &args::World) -> StandIns {
        let here = self.context.environment.current_dir.clone().unwrap_or_default();
        world
            .bases
            .iter()
            .map(|given| {
                let source = match &given.source {
                    StandInSource::Rootfs(path) => StandIn::Rootfs(here.join(path)),
                    StandInSource::OciLayout(path) => StandIn::OciLayout(here.join(path)),
                    StandInSource::Reference(reference) => StandIn::Registry(reference.clone()),
                };
                (given.base.clone(), source)
            })
            .collect()
    }

    /// The engine's kind and results version, for keys: known without asking it.
    pub fn engine_identity(&self, world: &args::World) -> String {
        let identity = match choice(self, world) {
            Choice::Docker(_) => docker::IDENTITY,
            Choice::Fake => crate::engine::fake::IDENTITY,
        };
        format!("{} {}", identity.kind, identity.results_version)
    }

    /// Connects to the engine.
    pub fn engine(&self, world: &args::World) -> Result<Arc<dyn Engine>, Failure> {
        match choice(self, world) {
            Choice::Docker(host) => {
                let environment = self.context.environment;
                Ok(Arc::new(docker::DockerEngine::connect(&environment.docker(host.as_deref()))?))
            }
            Choice::Fake => Ok(Arc::new(crate::engine::fake::FakeEngine::from_environment(self.context.environment)?)),
        }
    }
}

enum Choice {
    Docker(Option<String>),
    Fake,
}

fn choice(bench: &Workbench<'_>, world: &args::World) -> Choice {
    if bench.context.environment.fake_engine.is_some() {
        return Choice::Fake;
    }
    match (&world.engine, &bench.catalogue.workspace.engine) {
        (Some(EngineChoice::Docker(Some(host))), _) => Choice::Docker(Some(host.clone())),
        (_, spec::EngineChoice::Docker { host }) => Choice::Docker(host.as_deref().map(str::to_owned)),
        (_, spec::EngineChoice::Embedded) => Choice::Docker(None),
    }
}

/// The package of the current directory: relative patterns start there.
fn here(environment: &Environment, catalogue: &Catalogue) -> Option<Package> {
    let current = environment.current_dir.as_ref()?.canonicalize().ok()?;
    let packages = catalogue.root.join(&*catalogue.workspace.packages).canonicalize().ok()?;
    match current.strip_prefix(&packages) {
        Ok(inside) => Package::parse(&inside.to_string_lossy()).ok(),
        // at or above the packages' root, all packages are below
        Err(_) => Package::parse("").ok(),
    }
}

/// Replaces `@FILE` and `@-` by the lines there.
fn read_lists(patterns: &[String]) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for pattern in patterns {
        match pattern.strip_prefix('@') {
            None => all.push(pattern.clone()),
            Some(path) => {
                let text = read_list(path)?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                let before = all.len();
                all.extend(lines.map(str::to_owned));
                if all.len() == before {
                    // an empty list selects nothing, not everything
                    all.push(pattern::NOTHING.to_owned());
                }
            }
        }
    }
    Ok(all)
}

/// The text at a path, or of stdin for `-`.
pub fn read_list(path: &str) -> Result<String, Error> {
    let fail = |source| Error::Read { path: path.into(), source };
    if path == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(fail)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(fail)
}

/// The labels of images, of a selection that names steps too.
pub fn images(selection: &Selection) -> BTreeSet<Label> {
    selection.labels.iter().cloned().collect()
}
