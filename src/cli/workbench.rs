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
use crate::engine::docker::{self, Builder, DockerEngine, DockerOptions};
use crate::engine::embedded::{self, EmbeddedEngine, EmbeddedOptions};
use crate::engine::fake::FakeEngine;
use crate::engine::{Engine, EngineIdentity};
use crate::failure::{Failure, Retry};
use crate::graph::{Body, Graph, StandIn, StandIns};
use crate::keys::FileDigests;
use crate::label::NodeLabel;
use crate::lock::LockFile;
use crate::pattern::{self, Here, Pattern, Selection, Visibility};
use crate::platform::Platform;
use crate::problem::nearest;
use crate::record::{Holder, State, StateFolder, Wait, WriterLock};
use crate::reference::Reference;
use crate::registry::{Client, ClientConfig, DockerConfigCredentials, HostConfig, Observer};
use crate::spec::{self, Catalogue, Destination, Tls};

/// Name of the folder of records at the workspace root.
pub const OUT: &str = "igraph-out";
/// The embedded engine's store in it.
pub const STORE: &str = "store";

/// A loaded workspace.
pub struct Workbench<'a> {
    pub context: &'a Context<'a>,
    pub catalogue: Arc<Catalogue>,
    pub folder: StateFolder,
    pub platform: Platform,
    /// Where relative patterns start.
    pub here: Here,
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
        let catalogue = Arc::new(spec::load(&root).map_err(Error::Problems)?);
        let here = here(context.environment, &catalogue)?;
        Ok(Self { context, folder: StateFolder::new(root.join(OUT)), platform: Platform::host(), here, catalogue })
    }

    /// A workspace that is loaded already.
    pub fn of(context: &'a Context<'a>, catalogue: Arc<Catalogue>, here: Here) -> Self {
        Self { context, folder: StateFolder::new(catalogue.root.join(OUT)), platform: Platform::host(), here, catalogue }
    }

    /// The workspace root.
    pub fn root(&self) -> &Path {
        &self.catalogue.root
    }

    /// Resolves patterns, `@file` and `@-` among them, over all images.
    pub fn select(&self, patterns: &[String], exclude: &[String]) -> Result<Selection, Error> {
        let implied = patterns.is_empty();
        let patterns = match implied {
            true => vec![Pattern::all_from(&self.here).map_err(|_| self.nothing_here())?],
            false => self.patterns(patterns)?,
        };
        let entries = self
            .catalogue
            .images
            .iter()
            .map(|(label, image)| (label.clone(), if image.manual { Visibility::Manual } else { Visibility::Usual }));
        let entries = entries.collect();
        if implied && !self.catalogue.images.keys().any(|label| patterns[0].matches(label)) && !self.catalogue.images.is_empty() {
            return Err(self.nothing_here());
        }
        let selection = pattern::resolve(&patterns, &self.patterns(exclude)?, &entries).map_err(Error::Problems)?;
        for warning in &selection.warnings {
            self.context.printer.warn(warning);
        }
        if patterns.is_empty() && !self.context.global.quiet {
            self.context.printer.say("igraph: nothing to do (no pattern was given)");
        }
        Ok(selection)
    }

    /// No pattern was given, and the current folder holds no image.
    fn nothing_here(&self) -> Error {
        let inside = self.here.current.strip_prefix(&*self.here.packages).map(|rest| rest.trim_start_matches('/'));
        let above = inside.and_then(|path| {
            let packages = self.catalogue.images.keys().map(|label| label.package.as_str());
            packages
                .filter(|package| path.strip_prefix(package).is_some_and(|rest| rest.starts_with('/')))
                .max_by_key(|package| package.len())
        });
        let hint = match above {
            Some(package) => format!("write `//{package}:` for the package above, or `//...` for everything"),
            None => "write `//...` for everything".to_owned(),
        };
        Error::Usage { message: format!("there is no image in `{}` or below it", self.here.current), hint: Some(hint) }
    }

    /// Parses patterns; `@FILE` and `@-` stand for the lines there.
    fn patterns(&self, texts: &[String]) -> Result<Vec<Pattern>, Error> {
        let mut patterns = Vec::new();
        for text in texts {
            match text.strip_prefix('@') {
                None => patterns.push(Pattern::parse(text, &self.here).map_err(Error::Pattern)?),
                Some(path) => {
                    for line in pattern::pattern_lines(&read_list(path)?) {
                        patterns.push(Pattern::parse(line, &self.here).map_err(Error::Pattern)?);
                    }
                }
            }
        }
        Ok(patterns)
    }

    /// Every image, manual ones too.
    pub fn everything(&self) -> Selection {
        Selection { labels: self.catalogue.images.keys().cloned().collect(), ..Selection::default() }
    }

    /// The right to write records; waits for another igraph, and says for whom.
    pub fn writer(&self, no_wait: bool, clock: &dyn Clock) -> Result<WriterLock, Error> {
        self.folder.create()?;
        let wait = if no_wait { Wait::No } else { Wait::Yes };
        writer_lock(&self.folder, wait, clock, self.context)
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
        LockFile::read(self.root()).map_err(Error::Problems)
    }

    /// The cache of file digests.
    pub fn digests(&self) -> FileDigests {
        FileDigests::load(self.folder.file_digests())
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
            credentials: Box::new(DockerConfigCredentials::new(environment.docker_config.clone().unwrap_or_default())),
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

    /// Every `--base` stands for a base that is there: a slip would let the real one through.
    pub fn check_stand_ins(&self, graph: &Graph<'_>, given: &StandIns) -> Result<(), Error> {
        let mut bases: BTreeSet<String> = BTreeSet::new();
        let mut used: BTreeSet<&Reference> = BTreeSet::new();
        for index in graph.order() {
            let node = graph.node(*index);
            let Body::Base(base) = &node.body else { continue };
            let provided = base.entry.iter().flat_map(|entry| entry.provides.iter().map(|name| &name.reference));
            let from = match (base.entry.map(|entry| &entry.from), &node.owner) {
                (Some(spec::BaseFrom::Registry(reference)), _) | (None, NodeLabel::Outside(reference)) => Some(reference),
                _ => None,
            };
            for reference in provided.chain(from) {
                bases.insert(reference.familiar());
                used.extend(given.get_key_value(reference).map(|(reference, _)| reference));
            }
        }
        let Some(stray) = given.keys().find(|reference| !used.contains(reference)) else { return Ok(()) };
        let name = stray.familiar();
        if let Some(label) = self.catalogue.claims.owner(stray).filter(|label| self.catalogue.images.contains_key(label)) {
            let message = format!("`--base {name}=…`: `{name}` is {label} of this workspace, and no base");
            return Err(Error::Usage { message, hint: Some("only what comes from outside can be replaced".to_owned()) });
        }
        let hint = match nearest(&name, bases.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if bases.is_empty() => "no image that was selected starts from a base".to_owned(),
            None => format!("the bases here are {}", bases.into_iter().collect::<Vec<_>>().join(", ")),
        };
        Err(Error::Usage { message: format!("`--base {name}=…`: nothing that was selected stands on `{name}`"), hint: Some(hint) })
    }

    /// The engine's kind and results version, for keys: known without asking it.
    pub fn engine_identity(&self, world: &args::World) -> String {
        in_words(&match choice(self, world) {
            Choice::Docker(_) => DockerEngine::IDENTITY,
            Choice::Embedded => EmbeddedEngine::IDENTITY,
            Choice::Fake => FakeEngine::IDENTITY,
        })
    }

    /// That of every engine whose results the records may hold, and of the one chosen.
    pub fn engine_identities(&self, world: &args::World) -> BTreeSet<String> {
        let real = [DockerEngine::IDENTITY, EmbeddedEngine::IDENTITY];
        real.iter().map(in_words).chain([self.engine_identity(world)]).collect()
    }

    /// Whose content tags are this workspace's on a daemon that others use too.
    pub fn owner(&self) -> String {
        let root = self.root().canonicalize().unwrap_or_else(|_| self.root().to_owned());
        blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex()[..12].to_owned()
    }

    /// Where the embedded engine is asked for and this user has rights enough only in a user namespace, executes this program again in
    /// one, with the same arguments. To be called before anything is read from stdin or written.
    ///
    /// # Errors
    /// Where that was tried and failed.
    pub fn enter(&self, world: &args::World) -> Result<(), Error> {
        if matches!(choice(self, world), Choice::Embedded) { enter_user_namespace() } else { Ok(()) }
    }

    /// Says how the engine works here, where it could work better.
    pub fn say_how(&self, engine: &dyn Engine) {
        if !engine.advice().is_empty() && !self.context.global.quiet {
            self.context.printer.warn(format_args!("engine {}; `igraph doctor` tells what would be better", engine.description()));
        }
    }

    /// Connects to the engine, for a run where there is one.
    pub fn engine(&self, world: &args::World, run: &str) -> Result<Arc<dyn Engine>, Failure> {
        self.examined_engine(world, run, false)
    }

    /// As [`Workbench::engine`]; `afresh` finds out what works here, whatever an earlier run has found.
    pub fn examined_engine(&self, world: &args::World, run: &str, afresh: bool) -> Result<Arc<dyn Engine>, Failure> {
        match choice(self, world) {
            Choice::Docker(host) => {
                let environment = self.context.environment;
                let owner = self.owner();
                connect(environment, host.as_deref(), owner, run, self.folder.bases())
            }
            Choice::Embedded => {
                let own = self.root().join(OUT).join(STORE);
                let store = self.context.environment.store.clone().unwrap_or(own);
                let absolute = std::path::absolute(&store)
                    .map_err(|error| Failure::infra(format!("the store `{}`: {error}", store.display())).retry(Retry::Never))?;
                Ok(Arc::new(EmbeddedEngine::open(EmbeddedOptions {
                    store: absolute,
                    runner: PathBuf::from("/proc/self/exe"),
                    owner: self.owner(),
                    environment: Arc::new(super::environment::secret),
                    afresh,
                })?))
            }
            Choice::Fake => {
                let fake = FakeEngine::new();
                if let Some(path) = &self.context.environment.fake_log {
                    fake.log_to(path.clone());
                }
                Ok(Arc::new(fake))
            }
        }
    }
}

/// As [`Workbench::enter`], whatever engine is asked for.
///
/// # Errors
/// Where it was tried and failed.
pub fn enter_user_namespace() -> Result<(), Error> {
    if !embedded::gains_from_user_namespace() {
        return Ok(());
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let error = embedded::enter_user_namespace(Path::new("/proc/self/exe"), &arguments);
    Err(Error::Failure(Failure::infra(format!("a user namespace can't be entered: {error}")).retry(Retry::Never)))
}

/// Connects to a Docker Engine.
pub fn connect(
    environment: &Environment,
    host: Option<&str>,
    owner: String,
    run: &str,
    scratch: PathBuf,
) -> Result<Arc<dyn Engine>, Failure> {
    let endpoint = docker::choose_endpoint(docker::EndpointInputs {
        explicit: host,
        environment: &environment.docker_variables(),
        config_folder: environment.docker_config.as_deref(),
    })
    .map_err(|error| {
        let failure = Failure::infra(error.to_string()).retry(Retry::Never);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    Ok(Arc::new(DockerEngine::connect(DockerOptions {
        endpoint,
        builder: Builder::Auto,
        owner,
        run: run.to_owned(),
        scratch,
        environment: Arc::new(super::environment::secret),
    })?))
}

/// Kind and results version, as keys hold them.
fn in_words(identity: &EngineIdentity) -> String {
    format!("{} {}", identity.kind, identity.results_version)
}

enum Choice {
    Docker(Option<String>),
    Embedded,
    Fake,
}

fn choice(bench: &Workbench<'_>, world: &args::World) -> Choice {
    match (&world.engine, &bench.catalogue.workspace.engine) {
        (Some(EngineChoice::Fake), _) => Choice::Fake,
        (Some(EngineChoice::Embedded), _) => Choice::Embedded,
        (Some(EngineChoice::Docker(Some(host))), _) => Choice::Docker(Some(host.clone())),
        (_, spec::EngineChoice::Docker { host }) => Choice::Docker(host.as_deref().map(str::to_owned)),
        (Some(EngineChoice::Docker(None)), spec::EngineChoice::Embedded) => Choice::Docker(None),
        (None, spec::EngineChoice::Embedded) => Choice::Embedded,
    }
}

/// The right to write records; waits for another igraph, and says for whom.
pub fn writer_lock(folder: &StateFolder, wait: Wait, clock: &dyn Clock, context: &Context<'_>) -> Result<WriterLock, Error> {
    let command: Vec<String> = std::env::args().collect();
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let me = Holder { pid: std::process::id(), host, command: command.join(" "), since: clock.now() };
    Ok(WriterLock::acquire(folder, &me, wait, clock, context.cancel, |holder| {
        context.printer.say(format_args!("igraph: waiting for another igraph: {holder}"));
    })?)
}

/// Where relative patterns start: the current directory, relative to the workspace root.
fn here(environment: &Environment, catalogue: &Catalogue) -> Result<Here, Error> {
    let mut here = Here::root(&catalogue.workspace.packages);
    let (Some(current), Ok(root)) = (&environment.current_dir, catalogue.root.canonicalize()) else { return Ok(here) };
    let current = current.canonicalize().map_err(|source| Error::Directory { path: current.clone(), source })?;
    if let Ok(inside) = current.strip_prefix(&root) {
        here.current = inside.to_string_lossy().into_owned();
    }
    Ok(here)
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
