//! The cases as igraph's embedded engine builds them, in one store. Knows no reference.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use igraph::cancel::Cancel;
use igraph::digest::{Digest, ImageId, Key};
use igraph::dockerfile::{self, Configs, EntryKind, Ignore};
use igraph::engine::embedded::{EmbeddedEngine, EmbeddedOptions};
use igraph::engine::{Attempt, BuildRequest, ContextInput, Engine, ExportSink, Network, Output, SecretSource};
use igraph::event::Stream;
use igraph::failure::Failure;
use igraph::folder::Folder;
use igraph::image::{EngineImage, ImageConfig};
use igraph::platform::Platform;
use igraph::problem::Source;

use super::cases::Case;
use super::fixture;
use super::image::Image;
use super::records::Outcome;
use super::servers::Servers;
use super::support::{self, RootfsImage};

struct Silent;

impl Output for Silent {
    fn line(&self, _: Stream, line: &str) {
        if std::env::var_os("IGRAPH_CASES").is_some() {
            drop(std::io::Write::write_all(&mut std::io::stderr(), format!("  {line}\n").as_bytes()));
        }
    }
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

/// An ssh agent without keys; ended when it goes.
pub struct Agent(Child);

impl Agent {
    pub fn start(socket: &Path) -> Self {
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let agent = Self(child.expect("ssh-agent, of scripts/setup test"));
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[derive(Default)]
struct Exported {
    config: Vec<u8>,
    layers: BTreeMap<Digest, Vec<u8>>,
}

impl ExportSink for Exported {
    fn config(&mut self, _: ImageId, bytes: &[u8]) -> Result<(), Failure> {
        self.config = bytes.to_vec();
        Ok(())
    }

    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).map_err(|error| Failure::infra(error.to_string()))?;
        self.layers.insert(diff_id, bytes);
        Ok(())
    }
}

pub struct World {
    engine: EmbeddedEngine,
    images: BTreeMap<String, EngineImage>,
    base: Image,
    servers: Arc<Servers>,
    scratch: tempfile::TempDir,
    socket: PathBuf,
    _agent: Agent,
}

struct Known<'a>(&'a World);

impl Configs for Known<'_> {
    fn config(&self, reference: &str) -> Option<Arc<ImageConfig>> {
        let image = self.0.images.get(reference)?;
        Some(Arc::new(self.0.engine.config(image).unwrap()))
    }
}

/// The base, as both sides describe against it.
pub fn base() -> Image {
    Image::read(&fixture::base_config(), |_, _| Box::new(Cursor::new(fixture::base_layer())))
}

impl World {
    /// `None`, said loudly, where this process may not make namespaces.
    pub fn new(test: &str) -> Option<Self> {
        Self::beside(test, &Arc::new(Servers::start()))
    }

    /// The same; addresses in what it builds are those of `servers`.
    pub fn beside(test: &str, servers: &Arc<Servers>) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            support::skip(test, "the embedded engine needs root here");
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            store: scratch.path().join("store"),
            runner: env!("CARGO_BIN_EXE_igraph").into(),
            owner: "differential".into(),
            environment: Arc::new(|_| None),
            afresh: false,
        };
        let engine = EmbeddedEngine::open(options).unwrap();
        let source = RootfsImage::of_parts(fixture::base_config(), vec![fixture::base_layer().to_vec()]);
        let attempt = Attempt { cancel: &Cancel::new(), output: &Silent, timeout: None };
        let image = engine.load(&source, &Platform::host(), "base", &attempt).unwrap();
        let images = BTreeMap::from([("base".to_owned(), image)]);
        let socket = scratch.path().join("agent");
        let agent = Agent::start(&socket);
        Some(Self { engine, images, base: base(), servers: servers.clone(), scratch, socket, _agent: agent })
    }

    /// Builds a case and tells what came out.
    pub fn build(&mut self, case: &Case) -> Outcome {
        match self.make(case) {
            Ok(image) => {
                let mut exported = Exported::default();
                let attempt = Attempt { cancel: &Cancel::new(), output: &Silent, timeout: None };
                let wanted = self.engine.config(&image).unwrap().diff_ids.into_iter().collect();
                self.engine.export(std::slice::from_ref(&image), &wanted, &mut exported, &attempt).unwrap();
                self.images.insert(format!("case/{}", case.name), image);
                let read = Image::read(&exported.config, |_, diff_id| Box::new(Cursor::new(exported.layers[&diff_id].clone())));
                Outcome::Built(read.lines(&self.base).iter().map(|line| self.servers.hide(line)).collect())
            }
            Err(message) => Outcome::Failed(self.servers.hide(&message)),
        }
    }

    /// Builds a case; the image's id, where it can be built.
    pub fn image_id(&mut self, case: &Case) -> Option<String> {
        let image = self.make(case).ok()?;
        self.images.insert(format!("case/{}", case.name), image.clone());
        Some(image.id.0.to_string())
    }

    fn make(&self, case: &Case) -> Result<EngineImage, String> {
        let folder = tempfile::tempdir_in(self.scratch.path()).unwrap();
        let context = folder.path();
        fixture::context(context, case);
        let text = self.servers.fill(&case.dockerfile);
        let source = Arc::new(Source { path: "Dockerfile".into(), text });
        let dockerfile = dockerfile::parse(&source)
            .map_err(|problems| problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; "))?;
        let platform = Platform::host();
        let request =
            dockerfile::Request { target: case.target.as_deref(), args: &case.args, platform: &platform, build_platform: &platform };
        let resolved = dockerfile
            .resolve(&request, &Known(self))
            .map_err(|problems| problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; "))?;
        if let [first, ..] = &self.engine.refusals(&dockerfile, &resolved, true)[..] {
            return Err(format!("refused: {}", first.message));
        }
        let context_folder = Folder::open(context);
        let ignore = Ignore::load(&context_folder, &context.join("Dockerfile")).map_err(|problem| problem.message)?;
        let listing = dockerfile::list_context(&context_folder, &resolved.context, &ignore).map_err(|error| format!("{error:?}"))?;
        let read = |entry: dockerfile::ContextEntry| {
            let content = matches!(entry.kind, EntryKind::File { .. })
                .then(|| *blake3::hash(&std::fs::read(context.join(&entry.path)).unwrap()).as_bytes());
            ContextInput { entry, content }
        };
        let inputs: Vec<ContextInput> = listing.entries.into_iter().map(read).collect();
        let secret = |(id, text): (&String, &String)| {
            let path = context.parent().unwrap().join(format!("secret-{}-{id}", case.name));
            std::fs::write(&path, text).unwrap();
            (id.clone(), SecretSource::File(path))
        };
        let secrets: BTreeMap<String, SecretSource> = case.secrets.iter().map(secret).collect();
        let ssh = if case.ssh { BTreeMap::from([("default".to_owned(), self.socket.clone())]) } else { BTreeMap::new() };
        let key = format!("{} {} {:?}", case.name, case.dockerfile, case.args);
        let request = BuildRequest {
            slug: "differential",
            key: Key::from_bytes(*blake3::hash(key.as_bytes()).as_bytes()),
            dockerfile: &dockerfile,
            resolved: &resolved,
            references: &self.images,
            context_root: context,
            context: &inputs,
            args: &case.args,
            platform: &platform,
            network: Network::Host,
            secrets: &secrets,
            ssh: &ssh,
            epoch: 315_532_800,
            scrub: &Default::default(),
            no_cache: false,
            proxies: &BTreeMap::new(),
            throwaway: false,
        };
        let attempt = Attempt { cancel: &Cancel::new(), output: &Silent, timeout: Some(std::time::Duration::from_secs(60)) };
        self.engine.build(&request, &attempt).map_err(|failure| failure.message)
    }
}
