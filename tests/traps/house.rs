//! A small workspace with all that igraph touches: a registry in this process, an engine in memory that outlives a run, and the
//! same calls that the commands make. Says of each run what every step came to, and why.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use igraph::cancel::Cancel;
use igraph::clock::{ManualClock, Timestamp};
use igraph::digest::{Digest, ImageId};
use igraph::engine::Engine;
use igraph::engine::fake::{Call, FakeEngine};
use igraph::event::{Event, Outcome, Sink};
use igraph::execute::{self, Held, LazyEngine, Options, RunEnd, World};
use igraph::graph::{Depth, Graph, GraphOptions, StandIns};
use igraph::image::{Compression, LayerBlob};
use igraph::keys::{FileDigests, Keys};
use igraph::label::NodeLabel;
use igraph::lock::LockFile;
use igraph::pattern::{self, Here, Pattern, Selection, Visibility};
use igraph::plan::{Decision, Planner, PlannerOptions, Records, Value};
use igraph::platform::Platform;
use igraph::record::{State, StateFolder};
use igraph::registry::{Client, ClientConfig, NoCredentials, Proxies, image_manifest};
use igraph::spec::{self, Catalogue, Destination};

use crate::registry::Registry;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Told of each attempt that begins, before anything of it is done.
pub type OnAttempt = Arc<dyn Fn(&str) + Send + Sync>;

/// How a run is made.
#[derive(Clone, Default)]
pub struct How {
    pub stand_ins: StandIns,
    pub force: bool,
    pub verify: bool,
    pub locked: bool,
    pub fail_fast: bool,
    pub jobs: Option<usize>,
    pub retries: Option<u32>,
    pub cancel: Cancel,
    /// See [`OnAttempt`].
    pub on_attempt: Option<OnAttempt>,
}

pub struct House {
    pub root: PathBuf,
    pub engine: FakeEngine,
    pub registry: Arc<Registry>,
    pub clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

/// What a run came to.
pub struct Ran {
    /// Its id.
    pub run: String,
    pub end: RunEnd,
    pub events: Vec<Event>,
    pub calls: Vec<Call>,
}

struct Listener<'a> {
    events: Mutex<Vec<Event>>,
    how: &'a How,
}

impl Sink for Listener<'_> {
    fn emit(&self, event: &Event) {
        if let (Event::AttemptStarted { node, .. }, Some(tell)) = (event, &self.how.on_attempt) {
            tell(&node.to_string());
        }
        self.events.lock().unwrap().push(event.clone());
    }
}

impl House {
    /// An empty workspace; `{host}` in files stands for the registry.
    pub fn new() -> Self {
        Self::beside(Arc::new(Registry::start()), "workspace")
    }

    /// Another workspace on the same registry, in a folder of that name.
    pub fn beside(registry: Arc<Registry>, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(name);
        std::fs::create_dir(&root).unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::parse_rfc3339("2026-11-23T12:00:00Z").unwrap()));
        let house = Self { root, engine: FakeEngine::new(), registry, clock, _folder: folder };
        house.write(
            "BUILD.ron",
            r#"Workspace(packages: ".", registry: "{host}", engine: Docker(), retries: (max: 1, delay: "1ms", max_delay: "1ms"))"#,
        );
        house
    }

    pub fn write(&self, path: &str, text: &str) {
        let full = self.root.join(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, text.replace("{host}", self.registry.host())).unwrap();
    }

    /// A package `p` of these rules, whose images are tested by `:smoke`.
    pub fn package(&self, rules: &str) {
        self.write("p/BUILD.ron", &format!(r#"Package(rules: [Test(name: "smoke", run: ["true"]), {rules}])"#));
    }

    /// One image `//p:1` of `p/Dockerfile`.
    pub fn image(dockerfile: &str) -> Self {
        let house = Self::new();
        house.package(r#"Image(name: "1", tests: [":smoke"])"#);
        house.write("p/Dockerfile", dockerfile);
        house
    }

    /// Puts an image into the registry; its config and layer hold `salt`, and `config` is merged into it.
    pub fn base(&self, repository: &str, tag: &str, salt: &str, config: &str) -> Digest {
        let (bytes, media_type) = self.base_manifest(repository, salt, config, Platform::host().architecture());
        self.registry.add_manifest(repository, tag, media_type, &bytes)
    }

    fn base_manifest(&self, repository: &str, salt: &str, config: &str, architecture: &str) -> (Vec<u8>, &'static str) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(salt.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "salt", salt.as_bytes()).unwrap();
        let layer = builder.into_inner().unwrap();
        let digest = self.registry.add_blob(repository, &layer);
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{{config}}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        self.registry.add_blob(repository, config.as_bytes());
        let size = layer.len() as u64;
        let layers = [LayerBlob { diff_id: digest, digest, size, compression: Compression::None }];
        (image_manifest(config.as_bytes(), &layers), MANIFEST)
    }

    /// Puts an index of images into the registry: architecture and salt of each. Returns the index digest.
    pub fn index(&self, repository: &str, tag: &str, images: &[(&str, &str)]) -> Digest {
        let entries: Vec<String> = images
            .iter()
            .map(|(architecture, salt)| {
                let (bytes, media_type) = self.base_manifest(repository, salt, "", architecture);
                let digest = self.registry.add_manifest(repository, salt, media_type, &bytes);
                let size = bytes.len();
                format!(
                    r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
                )
            })
            .collect();
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(","));
        self.registry.add_manifest(repository, tag, INDEX, index.as_bytes())
    }

    pub fn state(&self) -> State {
        State::open(&StateFolder::new(self.root.join("igraph-out"))).unwrap()
    }

    fn load(&self) -> Catalogue {
        match spec::load(&self.root) {
            Ok(catalogue) => catalogue,
            Err(problems) => panic!("{problems:#?}"),
        }
    }

    /// Plans, and hands the planner to `act`.
    fn planned<T>(
        &self,
        depth: Depth,
        patterns: &[&str],
        how: &How,
        act: impl FnOnce(&Catalogue, &State, &LockFile, &Planner<'_>, &Graph<'_>) -> T,
    ) -> Result<T, Vec<String>> {
        let words = |problems: Vec<igraph::problem::Problem>| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>();
        let catalogue = self.load();
        let (state, lock) = (self.state(), LockFile::read(&self.root).unwrap());
        let digests = FileDigests::load(self.root.join("igraph-out/files"));
        let records = Records::read(&state, &lock).unwrap();
        let here = Here::root(&catalogue.workspace.packages);
        let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern::parse(text, &here).unwrap()).collect();
        let entries = catalogue.images.keys().map(|label| (label.clone(), Visibility::Usual)).collect();
        let selection: Selection = pattern::resolve(&patterns, &[], &entries).map_err(words)?;
        let destination = Destination::Workspace(catalogue.workspace.registry.clone());
        let platform = Platform::host();
        let options = GraphOptions { depth, stand_ins: &how.stand_ins, destination: &destination, platform: &platform };
        let graph = Graph::build(&catalogue, &selection, &options, &records).map_err(words)?;
        let identity = FakeEngine::IDENTITY;
        let keys = Keys {
            root: &self.root,
            digests: &digests,
            engine: format!("{} {}", identity.kind, identity.results_version),
            epoch: catalogue.workspace.epoch,
            build_platform: &platform,
        };
        let forced = if how.force {
            graph.order().iter().copied().filter(|index| matches!(graph.node(*index).body, igraph::graph::Body::Image(_))).collect()
        } else {
            Default::default()
        };
        let planner = Planner::new(&graph, keys, &records, PlannerOptions { forced, ..PlannerOptions::default() });
        Ok(act(&catalogue, &state, &lock, &planner, &graph))
    }

    /// Every step with its decision in a few words, as `--dry-run` has it.
    pub fn plan(&self, depth: Depth, patterns: &[&str]) -> Result<BTreeMap<String, String>, Vec<String>> {
        self.planned(depth, patterns, &How::default(), |_, _, _, planner, graph| {
            let mut found = BTreeMap::new();
            let mut problems = Vec::new();
            for (index, decision) in planner.plan() {
                let words = match decision {
                    Decision::Fresh(_) => "fresh".to_owned(),
                    Decision::Run { reasons, .. } => {
                        format!("run: {}", reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
                    }
                    Decision::Maybe(when) => format!("maybe: {when}"),
                    Decision::Blocked(why) => format!("blocked: {why}"),
                    Decision::Broken(broken) => {
                        problems.extend(broken.into_iter().map(|problem| problem.message));
                        "broken".to_owned()
                    }
                };
                for (label, _) in graph.node(index).steps() {
                    found.insert(label.to_string(), words.clone());
                }
            }
            if problems.is_empty() { Ok(found) } else { Err(problems) }
        })?
    }

    /// The key of a step whose ground is settled, and all its components.
    pub fn key(&self, step: &str) -> (String, Vec<(String, String)>) {
        let found = self.planned(Depth::Push, &["//..."], &How::default(), |_, _, _, planner, graph| {
            let plan: BTreeMap<_, _> = planner.plan().into_iter().collect();
            let values = |index| match plan.get(&index) {
                Some(Decision::Fresh(value)) => Some(value.clone()),
                _ => None::<Value>,
            };
            let label: NodeLabel = step.parse().unwrap();
            let index = *graph.order().iter().find(|index| graph.node(**index).steps().iter().any(|(own, _)| *own == label)).unwrap();
            let (key, components) = planner.explain(index, &label, &values).unwrap_or_else(|| panic!("no key of {step}: {plan:?}"));
            (key.to_string(), components.into_iter().map(|part| (part.name, part.value)).collect())
        });
        found.unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    pub fn run(&self, depth: Depth) -> Ran {
        self.run_of(depth, &["//..."], &How::default())
    }

    pub fn run_of(&self, depth: Depth, patterns: &[&str], how: &How) -> Ran {
        self.engine.forget_calls();
        self.clock.advance(std::time::Duration::from_secs(60));
        let listener = Listener { events: Mutex::default(), how };
        let client = Client::new(ClientConfig {
            hosts: BTreeMap::new(),
            credentials: Box::new(NoCredentials),
            user_agent: "igraph/test".to_owned(),
            max_wait: std::time::Duration::from_secs(1),
            clock: self.clock.clone(),
            observer: None,
            proxies: Proxies::default(),
        })
        .unwrap();
        let engine = LazyEngine::new(Box::new(|| Ok(Arc::new(self.engine.clone()) as Arc<dyn Engine>)));
        let environment = |name: &str| std::env::var(name).ok();
        let end = self.planned(depth, patterns, how, |catalogue, state, lock, planner, graph| {
            let run = state.begin_run(igraph::clock::Clock::now(self.clock.as_ref()), "test").unwrap();
            let world = World {
                root: &self.root,
                catalogue,
                graph,
                planner,
                plan: &planner.plan(),
                state,
                lock,
                engine: &engine,
                registry: &client,
                clock: self.clock.as_ref(),
                sink: &listener,
                run: &run,
                durations: &BTreeMap::new(),
                cancel: &how.cancel,
                stops: &execute::Stops::default(),
                environment: &environment,
                proxies: &BTreeMap::new(),
                options: Options {
                    jobs: how.jobs.unwrap_or(4),
                    fail_fast: how.fail_fast,
                    retries: how.retries,
                    timeout: None,
                    verify: how.verify,
                    locked: how.locked,
                },
                held: Held::new(Timestamp(7)),
            };
            let end = execute::run(&world);
            (run, end)
        });
        let (run, end) = end.unwrap_or_else(|problems| panic!("{problems:?}"));
        Ran { run, end, events: listener.events.into_inner().unwrap(), calls: self.engine.calls() }
    }

    /// The manifest that a name of the registry points at.
    pub fn named(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.registry.named(repository, tag)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// One word for an outcome, with the cause where there is one.
pub fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Fresh => "fresh".into(),
        Outcome::Succeeded { .. } => "ran".into(),
        Outcome::Flaky { .. } => "flaky".into(),
        Outcome::Failed { failure } => format!("failed: {failure}"),
        Outcome::Skipped { cause } => format!("skipped: {cause}"),
        Outcome::Blocked { reason } => format!("blocked: {reason}"),
        Outcome::Cancelled => "cancelled".into(),
    }
}

impl Ran {
    pub fn of(&self, step: &str) -> String {
        let found = self.end.steps.iter().find(|(label, ..)| label.to_string() == step);
        found.map_or_else(|| format!("no {step}"), |(_, _, outcome, _)| word(outcome))
    }

    pub fn image(&self, step: &str) -> ImageId {
        let found = self.end.steps.iter().find(|(label, ..)| label.to_string() == step);
        found.and_then(|(.., image)| *image).unwrap_or_else(|| panic!("no image of {step}: {:?}", self.end.steps))
    }

    /// What ran, in the order of labels.
    pub fn not_fresh(&self) -> Vec<String> {
        let stale = self.end.steps.iter().filter(|(_, _, outcome, _)| *outcome != Outcome::Fresh);
        let mut found: Vec<String> = stale.map(|(label, _, outcome, _)| format!("{label} {}", word(outcome))).collect();
        found.sort();
        found
    }

    /// The reasons that a step's terminal event told.
    pub fn reasons(&self, step: &str) -> Vec<String> {
        let found = self.events.iter().find_map(|event| match event {
            Event::NodeFinished { node, reasons, .. } if node.to_string() == step => Some(reasons),
            _ => None,
        });
        found.map(|reasons| reasons.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    /// Slugs that were built, throwaways left out.
    pub fn built(&self) -> Vec<String> {
        self.calls
            .iter()
            .filter_map(|call| match call {
                Call::Build { slug, throwaway: false, .. } => Some(slug.clone()),
                _ => None,
            })
            .collect()
    }

    /// Terminal events by step.
    pub fn terminal(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in &self.events {
            if let Event::NodeFinished { node, .. } = event {
                *counts.entry(node.to_string()).or_default() += 1;
            }
        }
        counts
    }
}

/// Copies a workspace without its records.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name() == "igraph-out" {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
