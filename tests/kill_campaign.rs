//! `kill -9` at random moments of a push of fifty images, again and again: the next run finishes, no name ever pointed to an image that
//! fails its tests as they are defined then, none is left half-moved unseen.
//!
//! IGRAPH_KILL_ROUNDS is the number of kills (6), IGRAPH_KILL_SEED repeats a campaign.

#[path = "support/docker_registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod docker_registry;
#[path = "support/proxy.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod proxy;
#[path = "support/registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod registry;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use docker_registry::DockerRegistry;
use igraph::cancel::Cancel;
use igraph::clock::{ManualClock, Timestamp};
use igraph::digest::Digest;
use igraph::image::ImageSource as _;
use igraph::record::{State, StateFolder};
use igraph::reference::Reference;
use igraph::registry::{Client, ClientConfig, NoCredentials};
use proxy::{Asked, Proxy};
use registry::Registry;
use support::{Dockerd, RootfsImage};

/// What the tests of all images look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Definition {
    Good,
    Even,
}

/// What the one file of an image says: whose it is, a number, and whether it passes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content(String);

impl Content {
    fn passes(&self, definition: Definition) -> bool {
        match definition {
            Definition::Good => self.0.contains(" good"),
            Definition::Even => self.0.contains(" good even"),
        }
    }

    fn is_of(&self, image: usize) -> bool {
        self.0.starts_with(&format!("image {image} "))
    }
}

/// Where the names go.
enum Hub {
    /// In this process: every tag that was ever written is known.
    Scripted(Registry),
    /// The real program, behind what counts its requests; and what each name pointed at when it was looked at last.
    Real { _registry: DockerRegistry, front: Proxy, host: String, known: BTreeMap<String, Digest> },
}

impl Hub {
    fn real(registry: DockerRegistry) -> Self {
        let (front, host) = Proxy::tcp(&registry.host);
        Self::Real { _registry: registry, front, host, known: BTreeMap::new() }
    }

    fn host(&self) -> &str {
        match self {
            Self::Scripted(registry) => registry.host(),
            Self::Real { host, .. } => host,
        }
    }

    /// Requests since they were forgotten, and those that write a name.
    fn asked(&self) -> (usize, usize) {
        match self {
            Self::Scripted(registry) => (registry.requests(), registry.moves()),
            Self::Real { front, .. } => {
                let names = |asked: &Asked| asked.method == "PUT" && asked.path.contains("/manifests/") && !asked.path.contains("sha256:");
                (front.count(|_| true), front.count(names))
            }
        }
    }

    fn forget_requests(&self) {
        match self {
            Self::Scripted(registry) => drop(registry.take_requests()),
            Self::Real { front, .. } => drop(front.take()),
        }
    }
}

/// A workspace, its registry and daemon, and what the files say just now.
struct World {
    folder: tempfile::TempDir,
    daemon: Arc<Dockerd>,
    hub: Hub,
    client: Client,
    random: fastrand::Rng,
    contents: Vec<Content>,
    /// All that an image ever was, to go back to.
    past: Vec<Vec<Content>>,
    definition: Definition,
    serial: usize,
    /// By manifest.
    seen: Mutex<BTreeMap<Digest, Content>>,
    /// How long a run took that was not killed.
    usual: Duration,
    tally: Tally,
}

#[derive(Default, Debug)]
struct Tally {
    kills: usize,
    /// Runs that had ended before they were to be killed.
    too_late: usize,
    /// Kills that left names in the journal.
    in_flight: usize,
    /// Kills that left an image's names at different manifests.
    half_moved: usize,
    moves: usize,
    failing: usize,
}

impl World {
    fn new(daemon: Arc<Dockerd>, hub: Hub, images: usize, random: fastrand::Rng) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            client: Client::new(ClientConfig::new(Box::new(NoCredentials), clock)).unwrap(),
            daemon,
            hub,
            random,
            contents: Vec::new(),
            past: vec![Vec::new(); images],
            definition: Definition::Good,
            serial: 0,
            seen: Mutex::default(),
            usual: Duration::from_secs(2),
            tally: Tally::default(),
        };
        world.write("home/.keep", "");
        world.write(
            "work/BUILD.ron",
            &format!(
                "Workspace(packages: \"images\", registry: \"{}\", engine: Docker, jobs: 4, retries: (max: 3, delay: \"50ms\"))",
                world.hub.host()
            ),
        );
        world.write(
            "work/images/base/BUILD.ron",
            r#"Package(rules: [Base(name: "root", provides: ["kills:1"], from: Rootfs("base.tar"))])"#,
        );
        let rootfs = RootfsImage::with_shell(&[], &[]);
        std::fs::write(world.folder.path().join("work/images/base/base.tar"), &rootfs.layer_bytes()[0]).unwrap();
        for image in 0..images {
            world.write(&format!("work/images/app/{image}/Dockerfile"), "FROM kills:1\nCOPY content /content\n");
            let content = world.invent(image);
            world.contents.push(content);
        }
        world.save();
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn invent(&mut self, image: usize) -> Content {
        self.serial += 1;
        if self.random.u8(..) < 40
            && let Some(old) = self.random.choice(&self.past[image])
        {
            return old.clone();
        }
        let verdict = match self.random.u8(..20) {
            0..3 => "bad",
            3..6 => "good odd",
            _ => "good even",
        };
        let content = Content(format!("image {image} number {} {verdict}\n", self.serial));
        self.past[image].push(content.clone());
        content
    }

    /// Writes the files as `contents` and `definition` say.
    fn save(&self) {
        let wanted = match self.definition {
            Definition::Good => "good",
            Definition::Even => "good even",
        };
        let mut rules = format!("Test(name: \"t\", run: [\"grep -q '{wanted}' /content\"]),\n");
        for (image, content) in self.contents.iter().enumerate() {
            let path = format!("work/images/app/{image}/content");
            if std::fs::read_to_string(self.path(&path)).unwrap_or_default() != content.0 {
                self.write(&path, &content.0);
            }
            let [own, alias, elsewhere] = names(image);
            writeln!(rules, "Image(name: {own:?}, dockerfile: \"{image}/Dockerfile\", aliases: [{alias:?}, {elsewhere:?}]),").unwrap();
        }
        self.write("work/images/app/BUILD.ron", &format!("Package(repository: \"team/app\", tests: [\":t\"], rules: [{rules}])"));
    }

    /// Changes some images, now and then all or the tests.
    fn change(&mut self, some: usize) {
        let all = self.random.u8(..) < 12;
        for image in 0..self.contents.len() {
            if all || self.random.usize(..self.contents.len()) < some {
                self.contents[image] = self.invent(image);
            }
        }
        if self.random.u8(..) < 40 {
            self.definition = if self.definition == Definition::Good { Definition::Even } else { Definition::Good };
        }
        self.save();
    }

    fn igraph(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command
            .args(["-C", &self.path("work").to_string_lossy()])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("DOCKER_HOST", self.daemon.url())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts a push and kills it: after a random time, or after so many requests or names written.
    fn push_and_kill(&mut self) {
        enum When {
            Time(Duration),
            Requests(usize),
            Names(usize),
        }
        let when = match self.random.u8(..4) {
            0 => When::Requests(self.random.usize(1..100)),
            1 | 2 => When::Names(self.random.usize(1..10)),
            _ => When::Time(self.usual.mul_f64(self.random.f64())),
        };
        self.hub.forget_requests();
        let mut child = self.igraph(&["push", "-q"]).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let start = Instant::now();
        // of a real registry the requests are counted when they are sent, of the scripted one when they are answered
        let due = || match when {
            When::Time(time) => start.elapsed() >= time,
            When::Requests(count) => self.hub.asked().0 >= count,
            When::Names(count) => self.hub.asked().1 >= count,
        };
        let ended = loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if due() {
                break false;
            }
            std::thread::sleep(Duration::from_micros(300));
        };
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = child.wait();
        self.tally.kills += usize::from(!ended);
        self.tally.too_late += usize::from(ended);
        self.settle();
        self.tally.in_flight += usize::from(!self.journal().is_empty());
        self.check_history();
        let half = (0..self.contents.len()).filter(|image| self.named(*image).into_iter().collect::<BTreeSet<_>>().len() > 1).count();
        self.tally.half_moved += usize::from(half > 0);
    }

    /// Waits until the registry has dealt with all that the killed run had sent.
    fn settle(&self) {
        let mut seen = None;
        while seen != Some(self.hub.asked()) {
            seen = Some(self.hub.asked());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Every name that was written since the last look was written to an image of its own, as its files are now, that passes.
    fn check_history(&mut self) {
        let prefix = format!("{}/", self.hub.host());
        for (name, manifest) in self.moves() {
            self.tally.moves += 1;
            let image = (0..self.contents.len()).find(|image| self.references(*image).contains(&format!("{prefix}{name}")));
            let image = image.unwrap_or_else(|| panic!("`{name}` is nobody's"));
            let content = self.content(name.split(':').next().unwrap(), manifest);
            assert!(
                content.passes(self.definition),
                "`{name}` was moved to an image that fails its tests ({:?}): {}",
                self.definition,
                content.0
            );
            assert_eq!(content, self.contents[image], "`{name}` was moved to something its files do not say");
        }
    }

    /// The names that were written since the last look, without host, and the manifest each got. A real registry is asked: a name that was
    /// written twice in between counts once.
    fn moves(&mut self) -> Vec<(String, Digest)> {
        self.hub.forget_requests();
        let names: Vec<(String, Option<Digest>)> = match &self.hub {
            Hub::Scripted(registry) => {
                return registry
                    .take_moves()
                    .into_iter()
                    .map(|moved| (format!("{}:{}", moved.repository, moved.tag), moved.manifest))
                    .collect();
            }
            Hub::Real { .. } => {
                let of = |image: usize| self.references(image).into_iter().zip(self.named(image));
                (0..self.contents.len()).flat_map(of).collect()
            }
        };
        let Hub::Real { known, host, .. } = &mut self.hub else { unreachable!("the scripted one has answered") };
        let mut moves = Vec::new();
        for (name, manifest) in names {
            let Some(manifest) = manifest else {
                assert!(!known.contains_key(&name), "`{name}` was removed");
                continue;
            };
            if known.insert(name.clone(), manifest) != Some(manifest) {
                moves.push((name[host.len() + 1..].to_owned(), manifest));
            }
        }
        moves
    }

    /// What the image under a manifest says.
    fn content(&self, repository: &str, manifest: Digest) -> Content {
        if let Some(content) = self.seen.lock().unwrap().get(&manifest) {
            return content.clone();
        }
        let reference: Reference = format!("{}/{repository}@{manifest}", self.hub.host()).parse().unwrap();
        let image = self.client.image(&reference, &Cancel::new()).unwrap();
        assert_eq!(image.layers().len(), 2);
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(image.open_layer(1).unwrap()));
        let mut text = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap() == Path::new("content") {
                entry.read_to_string(&mut text).unwrap();
            }
        }
        let content = Content(text);
        self.seen.lock().unwrap().insert(manifest, content.clone());
        content
    }

    fn references(&self, image: usize) -> [String; 3] {
        let [own, alias, elsewhere] = names(image);
        let host = self.hub.host();
        [format!("{host}/team/app:{own}"), format!("{host}/team/app:{alias}"), format!("{host}/{elsewhere}")]
    }

    /// What an image's names point at.
    fn named(&self, image: usize) -> Vec<Option<Digest>> {
        let head = |name: &String| self.client.head_manifest(&name.parse().unwrap(), &Cancel::new()).unwrap().map(|found| found.digest);
        self.references(image).iter().map(head).collect()
    }

    /// Names in flight, as the records have them.
    fn journal(&self) -> BTreeSet<String> {
        let state = State::open_read_only(&StateFolder::new(self.path("work/igraph-out"))).unwrap();
        let groups = state.journal().unwrap();
        groups.into_iter().flat_map(|(_, group)| group.names).map(|name| name.name.to_string()).collect()
    }

    /// Runs to the end; every name of an image that passes is where it should be, and of the others none is half-moved in silence.
    fn finish(&mut self) {
        let start = Instant::now();
        let output = self.igraph(&["push"]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if !said.contains("nothing to do") {
            self.usual = (self.usual + start.elapsed()) / 2;
        }
        self.check_history();
        let failing: BTreeSet<usize> = (0..self.contents.len()).filter(|image| !self.contents[*image].passes(self.definition)).collect();
        self.tally.failing += failing.len();
        assert_eq!(output.status.code(), Some(if failing.is_empty() { 0 } else { 3 }), "{said}");
        for image in 0..self.contents.len() {
            let named = self.named(image);
            let manifests: BTreeSet<Digest> = named.iter().flatten().copied().collect();
            for manifest in &manifests {
                assert!(self.content("team/app", *manifest).is_of(image), "{image} is named as another");
            }
            if failing.contains(&image) {
                let names = self.references(image);
                let half = named.iter().collect::<BTreeSet<_>>().len() > 1;
                let told = said.lines().any(|line| line.contains("half-moved") && line.contains(&names[0]));
                assert!(!half || told, "{names:?} are half-moved, and nothing was said of it:\n{said}");
                continue;
            }
            assert_eq!((named.iter().flatten().count(), manifests.len()), (3, 1), "names of {image} differ: {named:?}\n{said}");
            let manifest = *manifests.first().unwrap();
            assert_eq!(self.content("team/app", manifest), self.contents[image], "{image} is not what its files say");
        }
        let doubtful: BTreeSet<String> = failing.iter().flat_map(|image| self.references(*image)).collect();
        let journal = self.journal();
        assert!(journal.is_subset(&doubtful), "left in the journal: {:?}", journal.difference(&doubtful));
        let database = rusqlite::Connection::open(self.path("work/igraph-out/state.db")).unwrap();
        let integrity: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(integrity, "ok");
    }

    /// Where all images pass, another run does nothing at all, and nothing is left lying about.
    fn close(&mut self) {
        self.definition = Definition::Good;
        for image in 0..self.contents.len() {
            if !self.contents[image].passes(Definition::Good) {
                self.serial += 1;
                self.contents[image] = Content(format!("image {image} number {} good even\n", self.serial));
            }
        }
        self.save();
        self.finish();
        assert_eq!(self.journal(), BTreeSet::new());
        self.hub.forget_requests();
        let again = self.igraph(&["push"]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(again.status.success() && said.starts_with("igraph: nothing to do") && said.lines().count() == 1, "{said}");
        assert_eq!(self.hub.asked(), (0, 0));
        let gc = self.igraph(&["gc"]).stderr(Stdio::piped()).output().unwrap();
        assert!(gc.status.success(), "{}", String::from_utf8_lossy(&gc.stderr));
        assert_eq!(self.containers(), serde_json::json!([]), "containers of dead runs are left");
        let left: Vec<String> = std::fs::read_dir(self.path("work/igraph-out/bases"))
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        assert!(!left.iter().any(|name| name.starts_with("layers-")), "layers of dead runs are left: {left:?}");
    }

    fn containers(&self) -> serde_json::Value {
        let mut stream = std::os::unix::net::UnixStream::connect(self.daemon.socket()).unwrap();
        stream.write_all(b"GET /containers/json?all=1 HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// An image's own name, an alias beside it, and one in another repository.
fn names(image: usize) -> [String; 3] {
    [format!("1.{image}"), format!("v{image}"), format!("team/mirror:1.{image}")]
}

/// Shows what a campaign was when it ends early.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("the campaign again: IGRAPH_KILL_SEED={}", self.0));
        }
    }
}

/// Past the harness's capture: a campaign of an hour is to be seen.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn campaign(title: &str, hub: Hub, images: usize, kills: usize, some: usize) {
    let seed = number("IGRAPH_KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    let _told = Told(seed);
    let Some(daemon) = Dockerd::shared(title) else { return };
    let start = Instant::now();
    let mut world = World::new(daemon, hub, images, fastrand::Rng::with_seed(seed));
    // the first push of all is killed too
    while world.tally.kills < kills {
        world.push_and_kill();
        // what a run left is met by other files, as often as not
        if world.random.bool() {
            world.change(some);
        }
        if world.random.u8(..) < 190 || world.tally.kills == kills {
            world.finish();
            world.change(some);
        }
        if number("IGRAPH_KILL_ROUNDS").is_some() {
            say(&format!("{title}: {:?} after {} s", world.tally, start.elapsed().as_secs()));
        }
    }
    world.close();
    say(&format!("{title}: {images} images, seed {seed}, {} s: {:?}", start.elapsed().as_secs(), world.tally));
}

fn kills() -> usize {
    number("IGRAPH_KILL_ROUNDS").map_or(6, |count| usize::try_from(count).unwrap())
}

/// One campaign at a time.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn fifty_images() {
    // both count the containers of one daemon
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    campaign("fifty_images", Hub::Scripted(Registry::start()), 50, kills(), 6);
}

#[test]
fn against_a_real_registry() {
    // both count the containers of one daemon
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(registry) = DockerRegistry::start("against_a_real_registry", None) else { return };
    campaign("against_a_real_registry", Hub::real(registry), 10, kills().div_ceil(5), 4);
}
