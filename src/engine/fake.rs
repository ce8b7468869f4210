//! A scripted engine in memory for tests: no daemon, no network, results that depend on the request alone. Stricter than the real
//! ones: what a caller may not do panics here, with the words of the seam's contract.
//!
//! Of commands it understands four: `exit N` ends with that code, `sleep N` waits N seconds, `date` makes a result that no second
//! run gives again, `answer FILE` in a test says the lines of a file of this machine; all others succeed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::{Digest, ImageId, Key};
use crate::dockerfile::{Command, CommandLine, Dockerfile, FromTarget, Resolved, ResolvedStage};
use crate::engine::{Attempt, BuildRequest, Collected, Engine, EngineIdentity, ExportSink, Limits, TestRequest};
use crate::event::Stream;
use crate::failure::Failure;
use crate::image::{Compression, EngineImage, ImageConfig, ImageSource};
use crate::platform::Platform;
use crate::problem::{Place, Problem};
use crate::reference::Reference;

/// One call, as the engine saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Engine::find`].
    Find(ImageId),
    /// [`Engine::load`].
    Load { slug: String, id: ImageId },
    /// [`Engine::config`].
    Config(ImageId),
    /// [`Engine::build`].
    Build { slug: String, key: Key, no_cache: bool, throwaway: bool },
    /// [`Engine::test`].
    Test { slug: String, subject: ImageId },
    /// [`Engine::tag`].
    Tag { name: String, id: ImageId },
    /// [`Engine::named`].
    Named(String),
    /// [`Engine::export`].
    Export { images: Vec<ImageId>, layers: usize },
    /// [`Engine::discard`].
    Discard(ImageId),
    /// [`Engine::collect`].
    Collect { keep: usize, dry_run: bool },
}

/// Diff ids and tars, base first.
type Layers = Vec<(Digest, Arc<Vec<u8>>)>;

#[derive(Clone)]
struct Stored {
    config: Vec<u8>,
    layers: Layers,
    platform: Platform,
    throwaway: bool,
}

#[derive(Default)]
struct State {
    images: BTreeMap<ImageId, Stored>,
    names: BTreeMap<Reference, ImageId>,
    cache: HashMap<Digest, ImageId>,
    calls: Vec<Call>,
    failures: BTreeMap<String, VecDeque<Failure>>,
    delays: BTreeMap<String, Duration>,
    salt: u64,
    running: usize,
    most: usize,
    log: Option<PathBuf>,
}

impl State {
    fn called(&mut self, call: Call) {
        if let Some(path) = &self.log {
            let now =
                nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() * 1_000_000_000 + now.tv_nsec());
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            // a log that can't be written is missed by the test that reads it
            let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{now} {call:?}\n").as_bytes()));
        }
        self.calls.push(call);
    }
}

/// The engine. Clones share everything.
#[derive(Clone, Default)]
pub struct FakeEngine {
    state: Arc<Mutex<State>>,
}

impl FakeEngine {
    /// What keys know of it.
    pub const IDENTITY: EngineIdentity = EngineIdentity { kind: "fake", results_version: 1 };

    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next loads, builds or tests of that slug fail so, one each, in order.
    pub fn fail(&self, slug: &str, failures: impl IntoIterator<Item = Failure>) {
        self.state().failures.entry(slug.to_owned()).or_default().extend(failures);
    }

    /// Every build or test of that slug takes so long; cancel and timeout still count.
    pub fn delay(&self, slug: &str, by: Duration) {
        self.state().delays.insert(slug.to_owned(), by);
    }

    /// The image is gone, its names too, as if someone had pruned the daemon; and with it what the instruction cache knew.
    pub fn lose(&self, id: ImageId) {
        let mut state = self.state();
        state.images.remove(&id);
        state.names.retain(|_, named| *named != id);
        state.cache.retain(|_, cached| *cached != id);
    }

    /// Adds a line for each call to a file: monotonic nanoseconds, and the call.
    pub fn log_to(&self, path: PathBuf) {
        self.state().log = Some(path);
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    /// The most builds and tests that ever ran at once.
    pub fn most_at_once(&self) -> usize {
        self.state().most
    }

    /// Ids of the images it holds.
    pub fn holds(&self) -> BTreeSet<ImageId> {
        self.state().images.keys().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something that takes time: scripted failures first, then delays and `sleep`.
    fn work<T>(
        &self,
        slug: &str,
        attempt: &Attempt<'_>,
        work: impl FnOnce(&mut dyn FnMut(Duration) -> Result<(), Failure>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let (scripted, delay) = {
            let mut state = self.state();
            state.running += 1;
            state.most = state.most.max(state.running);
            (state.failures.get_mut(slug).and_then(VecDeque::pop_front), state.delays.get(slug).copied())
        };
        let mut wait = |wanted: Duration| {
            let until = Instant::now() + wanted;
            loop {
                if attempt.cancel.is_cancelled() {
                    return Err(Failure::stopped());
                }
                if let Some(timeout) = attempt.timeout.filter(|timeout| started.elapsed() >= *timeout) {
                    return Err(Failure::step(format!("timed out after {}", readable(timeout))));
                }
                if Instant::now() >= until {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        let result = wait(delay.unwrap_or_default()).and_then(|()| match scripted {
            Some(failure) => Err(failure),
            None => work(&mut wait),
        });
        self.state().running -= 1;
        result
    }

    fn stored(&self, image: &EngineImage) -> Stored {
        assert_eq!(image.handle, handle(image.id), "an engine is called with a handle that it gave");
        let stored = self.state().images.get(&image.id).cloned();
        #[expect(clippy::panic, reason = "strict by design: callers look an image up before they use it")]
        stored.unwrap_or_else(|| panic!("image `{}` is used, but this engine does not hold it", image.id))
    }

    fn store(&self, stored: Stored) -> EngineImage {
        let id = ImageId(Digest::of(&stored.config));
        let platform = stored.platform.clone();
        let mut state = self.state();
        let throwaway = stored.throwaway && state.images.get(&id).is_none_or(|known| known.throwaway);
        state.images.insert(id, Stored { throwaway, ..stored });
        EngineImage { id, handle: handle(id), platform }
    }
}

fn handle(id: ImageId) -> String {
    format!("fake:{}", id.0.hex())
}

fn readable(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// What a command does here: waits, then ends.
fn interpret(text: &str, wait: &mut dyn FnMut(Duration) -> Result<(), Failure>) -> Result<i64, Failure> {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || ";&|()".contains(c)).filter(|word| !word.is_empty()).collect();
    for pair in words.windows(2) {
        match (pair[0].rsplit('/').next(), pair[1].parse::<u32>()) {
            (Some("sleep"), Ok(seconds)) => wait(Duration::from_secs(seconds.into()))?,
            (Some("exit"), Ok(code)) => return Ok(code.into()),
            _ => {}
        }
    }
    Ok(0)
}

fn text_of(line: &CommandLine) -> String {
    match line {
        CommandLine::Shell(text) => text.clone(),
        CommandLine::Exec(argv) => argv.join(" "),
    }
}

fn check_request(request: &BuildRequest<'_>) {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    assert!(!request.slug.is_empty() && request.slug.chars().all(valid), "a slug is `[a-z0-9._-]+`, not `{}`", request.slug);
    let paths: Vec<&str> = request.context.iter().map(|input| input.entry.path.as_str()).collect();
    assert!(paths.windows(2).all(|pair| pair[0] < pair[1]), "the context is sorted by path, each path once: {paths:?}");
    for reference in &request.resolved.references {
        assert!(
            reference.in_base || request.references.contains_key(&reference.key()),
            "every reference is resolved before a build: `{}` is not among {:?}",
            reference.text,
            request.references.keys()
        );
    }
    for secret in &request.resolved.secrets {
        assert!(!secret.required || request.secrets.contains_key(&secret.id), "secret `{}` is required and not given", secret.id);
    }
}

fn read_context(request: &BuildRequest<'_>) -> Result<(), Failure> {
    for input in request.context {
        let Some(content) = input.content else { continue };
        let bytes = std::fs::read(request.context_root.join(&input.entry.path)).unwrap_or_default();
        if blake3::hash(&bytes).as_bytes() != &content {
            return Err(Failure::overtaken(&input.entry.path));
        }
    }
    Ok(())
}

impl FakeEngine {
    fn run_steps(
        &self,
        request: &BuildRequest<'_>,
        attempt: &Attempt<'_>,
        wait: &mut dyn FnMut(Duration) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for step in request.resolved.steps.iter().flat_map(|stage| &stage.steps) {
            let Command::Run(run) = &step.instruction.command else { continue };
            let text = text_of(&run.line);
            attempt.output.line(Stream::Engine, &format!("RUN {text}"));
            let code = interpret(&text, wait)?;
            if code != 0 {
                let place = Place { source: step.source.clone(), span: step.instruction.span.clone(), note: None };
                let message = format!("exit {code} at RUN {text} ({}:{})", place.source.path, place.line_column().0);
                return Err(Failure::step(message).exit_code(code));
            }
        }
        Ok(())
    }

    /// Config and layers below a stage's own.
    fn base_of(&self, request: &BuildRequest<'_>, stage: &ResolvedStage) -> (ImageConfig, Layers) {
        match &stage.base {
            FromTarget::Scratch => (ImageConfig::default(), Vec::new()),
            FromTarget::Image(text) => {
                let stored = self.stored(&request.references[text]);
                let mut config = ImageConfig::parse(&stored.config).unwrap_or_default();
                config.on_build.clear();
                (config, stored.layers)
            }
            FromTarget::Stage(index) => match request.resolved.steps.iter().find(|stage| stage.index == *index) {
                Some(below) => {
                    let (mut config, layers) = self.base_of(request, below);
                    apply(&mut config, below);
                    (config, layers)
                }
                None => (ImageConfig::default(), Vec::new()),
            },
        }
    }
}

/// What a stage's instructions do to a config.
fn apply(config: &mut ImageConfig, stage: &ResolvedStage) {
    for step in &stage.steps {
        match &step.instruction.command {
            Command::Env(pairs) => {
                for pair in pairs {
                    let prefix = format!("{}=", pair.key.value);
                    config.env.retain(|variable| !variable.starts_with(&prefix));
                    config.env.push(format!("{prefix}{}", pair.value.value));
                }
            }
            Command::User(user) => config.user.clone_from(&user.value),
            Command::Workdir(folder) if folder.value.starts_with('/') => config.working_dir.clone_from(&folder.value),
            Command::Workdir(folder) => config.working_dir = format!("{}/{}", config.working_dir.trim_end_matches('/'), folder.value),
            Command::Shell(argv) => config.shell.clone_from(argv),
            Command::OnBuild(trigger) => config.on_build.push(trigger.text.clone()),
            _ => {}
        }
    }
}

fn config_bytes(config: &ImageConfig, platform: &Platform) -> Vec<u8> {
    let value = serde_json::json!({
        "architecture": platform.architecture(), "os": platform.os(), "variant": platform.variant(),
        "config": {
            "Env": config.env, "User": config.user, "WorkingDir": config.working_dir, "Shell": config.shell, "OnBuild": config.on_build,
        },
        "rootfs": {"type": "layers", "diff_ids": config.diff_ids},
    });
    value.to_string().into_bytes()
}

fn layer_tar(text: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    let mut builder = tar::Builder::new(Vec::new());
    // memory takes every write
    drop(builder.append_data(&mut header, "fake", text.as_bytes()));
    builder.into_inner().unwrap_or_default()
}

impl Engine for FakeEngine {
    fn identity(&self) -> EngineIdentity {
        Self::IDENTITY
    }

    fn description(&self) -> String {
        "fake engine".to_owned()
    }

    fn refusals(&self, _: &Dockerfile, _: &Resolved, _: bool) -> Vec<Problem> {
        Vec::new()
    }

    fn find(&self, id: ImageId) -> Result<Option<EngineImage>, Failure> {
        let mut state = self.state();
        state.called(Call::Find(id));
        Ok(state.images.get(&id).map(|stored| EngineImage { id, handle: handle(id), platform: stored.platform.clone() }))
    }

    /// # Panics
    /// Where the image is there already: callers look first.
    fn load(&self, source: &dyn ImageSource, platform: &Platform, slug: &str, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        let id = source.image_id();
        {
            let mut state = self.state();
            state.called(Call::Load { slug: slug.to_owned(), id });
            assert!(!state.images.contains_key(&id), "image `{id}` is loaded, but this engine holds it");
        }
        self.work(slug, attempt, |_| {
            let mut layers = Vec::new();
            for (index, layer) in source.layers().iter().enumerate() {
                let mut packed = source.open_layer(index)?;
                let mut bytes = Vec::new();
                let read = match layer.compression {
                    Compression::None => packed.read_to_end(&mut bytes),
                    Compression::Gzip => std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(packed), &mut bytes),
                    Compression::Zstd => return Err(Failure::step("the fake engine reads no zstd")),
                };
                read.map_err(|error| Failure::infra(format!("a layer could not be read: {error}")))?;
                if Digest::of(&bytes) != layer.diff_id {
                    return Err(Failure::infra(format!("layer `{}` has another diff id", layer.digest)));
                }
                layers.push((layer.diff_id, Arc::new(bytes)));
            }
            Ok(self.store(Stored { config: source.config().to_vec(), layers, platform: platform.clone(), throwaway: false }))
        })
    }

    fn config(&self, image: &EngineImage) -> Result<ImageConfig, Failure> {
        self.state().called(Call::Config(image.id));
        ImageConfig::parse(&self.stored(image).config).map_err(|error| Failure::infra(error.to_string()))
    }

    /// # Panics
    /// Where the request breaks the seam's contract.
    fn build(&self, request: &BuildRequest<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        let (slug, key) = (request.slug.to_owned(), request.key);
        self.state().called(Call::Build { slug, key, no_cache: request.no_cache, throwaway: request.throwaway });
        check_request(request);
        let parents: BTreeMap<&String, ImageId> = request.references.iter().map(|(text, image)| (text, image.id)).collect();
        for image in request.references.values() {
            self.stored(image);
        }
        self.work(request.slug, attempt, |wait| {
            let replace = |text: &str| parents.get(&text.to_owned()).map_or_else(|| text.to_owned(), ToString::to_string);
            let context: Vec<_> = request.context.iter().map(|input| (&input.entry.path, &input.entry.kind, input.content)).collect();
            let recipe = format!(
                "{}\n{context:?}\n{:?}\n{} {:?} {} {:?} {:?}",
                request.resolved.generate(request.dockerfile, &replace),
                request.resolved.args,
                request.platform,
                request.network,
                request.epoch,
                request.secrets.keys(),
                request.ssh.keys(),
            );
            let recipe_digest = Digest::of(recipe.as_bytes());
            let cached = self.state().cache.get(&recipe_digest).copied().filter(|_| !request.no_cache);
            let known = cached.and_then(|id| self.state().images.get(&id).cloned());
            if let Some(known) = known {
                return Ok(self.store(Stored { throwaway: request.throwaway, ..known }));
            }
            read_context(request)?;
            self.run_steps(request, attempt, wait)?;
            #[expect(clippy::panic, reason = "strict by design: a resolution has the target's stage")]
            let target = request.resolved.steps.last().unwrap_or_else(|| panic!("a resolution without stages"));
            let (mut config, mut layers) = self.base_of(request, target);
            apply(&mut config, target);
            let dated = |step: &crate::dockerfile::Step| matches!(&step.instruction.command, Command::Run(run) if text_of(&run.line).contains("date"));
            let salt = if request.resolved.steps.iter().flat_map(|stage| &stage.steps).any(dated) {
                let mut state = self.state();
                state.salt += 1;
                state.salt
            } else {
                0
            };
            let tar = layer_tar(&format!("{recipe}\n{salt}"));
            layers.push((Digest::of(&tar), Arc::new(tar)));
            config.diff_ids = layers.iter().map(|(diff_id, _)| *diff_id).collect();
            let config = config_bytes(&config, request.platform);
            let image = self.store(Stored { config, layers, platform: request.platform.clone(), throwaway: request.throwaway });
            self.state().cache.insert(recipe_digest, image.id);
            Ok(image)
        })
    }

    /// # Panics
    /// Where it does not hold the subject, or there is no command.
    fn test(&self, request: &TestRequest<'_>, attempt: &Attempt<'_>) -> Result<(), Failure> {
        self.state().called(Call::Test { slug: request.slug.to_owned(), subject: request.subject.id });
        self.stored(request.subject);
        assert!(
            !request.commands.is_empty() && request.commands.iter().all(|argv| !argv.is_empty()),
            "a test has commands, and each an argv"
        );
        self.work(request.slug, attempt, |wait| {
            for argv in request.commands {
                let text = match argv.as_slice() {
                    [sh, flag, text] if sh == "/bin/sh" && flag == "-ec" => text.clone(),
                    argv => argv.join(" "),
                };
                attempt.output.line(Stream::Stdout, &text);
                if let Some(path) = text.split_whitespace().skip_while(|word| *word != "answer").nth(1) {
                    let said = std::fs::read_to_string(path).unwrap_or_default();
                    said.lines().for_each(|line| attempt.output.line(Stream::Stdout, line));
                }
                let code = interpret(&text, wait)?;
                if code != 0 {
                    return Err(Failure::step(format!("exit {code} at {text}")).exit_code(code));
                }
            }
            Ok(())
        })
    }

    /// # Panics
    /// Where the name has no tag or the image is not held.
    fn tag(&self, image: &EngineImage, name: &Reference) -> Result<(), Failure> {
        assert!(name.tag().is_some() && name.digest().is_none(), "a local name has a tag and no digest: `{name}`");
        assert!(!self.stored(image).throwaway, "a throwaway image is named `{name}`");
        let mut state = self.state();
        state.called(Call::Tag { name: name.to_string(), id: image.id });
        state.names.insert(name.clone(), image.id);
        Ok(())
    }

    fn named(&self, name: &Reference) -> Result<Option<ImageId>, Failure> {
        let mut state = self.state();
        state.called(Call::Named(name.to_string()));
        Ok(state.names.get(name).copied())
    }

    /// # Panics
    /// Where an image is not held, or a layer is wanted that none of them has.
    fn export(
        &self,
        images: &[EngineImage],
        wanted: &BTreeSet<Digest>,
        sink: &mut dyn ExportSink,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure> {
        let ids = images.iter().map(|image| image.id).collect();
        self.state().called(Call::Export { images: ids, layers: wanted.len() });
        let mut left = wanted.clone();
        let mut seen = BTreeSet::new();
        for image in images {
            if attempt.cancel.is_cancelled() {
                return Err(Failure::stopped());
            }
            let stored = self.stored(image);
            if seen.insert(image.id) {
                sink.config(image.id, &stored.config)?;
            }
            for (diff_id, bytes) in &stored.layers {
                if left.remove(diff_id) {
                    sink.layer(*diff_id, &mut bytes.as_slice())?;
                }
            }
        }
        assert!(left.is_empty(), "layers are wanted that no image has: {left:?}");
        Ok(())
    }

    fn discard(&self, image: &EngineImage) -> Result<(), Failure> {
        let mut state = self.state();
        state.called(Call::Discard(image.id));
        if state.images.get(&image.id).is_some_and(|stored| stored.throwaway) {
            state.images.remove(&image.id);
        }
        Ok(())
    }

    fn collect(&self, keep: &BTreeSet<ImageId>, _: &Limits, dry_run: bool) -> Result<Collected, Failure> {
        let mut state = self.state();
        state.called(Call::Collect { keep: keep.len(), dry_run });
        let dead = |id: &ImageId, stored: &Stored| stored.throwaway || !keep.contains(id);
        let gone: Vec<ImageId> = state.images.iter().filter(|(id, stored)| dead(id, stored)).map(|(id, _)| *id).collect();
        if !dry_run {
            // a name keeps its image; only what igraph made for itself goes
            let named: BTreeSet<ImageId> = state.names.values().copied().collect();
            state.images.retain(|id, _| named.contains(id) || !gone.contains(id));
        }
        Ok(Collected { images: gone.len(), ..Collected::default() })
    }
}
