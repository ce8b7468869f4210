//! What every engine does, in one suite: the same cases against the fake and against a real Docker daemon with both its builders.
//! Where no daemon can run, its cases say so on stderr; IGRAPH_NO_SKIP makes that a failure.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use igraph::cancel::Cancel;
use igraph::digest::{Digest, ImageId, Key};
use igraph::dockerfile::{self, Configs, Dockerfile, EntryKind, Ignore, Resolved};
use igraph::engine::docker::{Builder, DockerEngine, DockerOptions, EndpointInputs, choose_endpoint};
use igraph::engine::embedded::{EmbeddedEngine, EmbeddedOptions};
use igraph::engine::fake::FakeEngine;
use igraph::engine::{Attempt, BuildRequest, ContextInput, Engine, ExportSink, Limits, Network, Output, SecretSource, TestRequest};
use igraph::event::Stream;
use igraph::failure::{Failure, FailureClass, Retry};
use igraph::folder::Folder;
use igraph::image::{EngineImage, ImageConfig, ImageSource};
use igraph::platform::Platform;
use igraph::problem::Source;
use igraph::reference::Reference;
use support::{Dockerd, OrdinaryUser, RootfsImage};

fn base_source() -> &'static RootfsImage {
    static SOURCE: OnceLock<RootfsImage> = OnceLock::new();
    SOURCE.get_or_init(|| RootfsImage::with_shell(&["ssh-add"], &["PATH=/usr/bin:/bin", "BASE=yes"]))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fake,
    Embedded,
    BuildKit,
    Classic,
}

#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl Output for Kept {
    fn line(&self, stream: Stream, line: &str) {
        self.0.lock().unwrap().push(format!("{stream:?} {line}"));
    }
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

/// One engine with the base in it, and a folder for a context.
struct World {
    kind: Kind,
    name: String,
    engine: Box<dyn Engine>,
    base: EngineImage,
    platform: Platform,
    context: tempfile::TempDir,
    output: Arc<Kept>,
    cancel: Cancel,
    timeout: Option<Duration>,
    _scratch: tempfile::TempDir,
    daemon: Option<Arc<Dockerd>>,
}

fn docker(daemon: &Dockerd, builder: Builder, owner: &str, run: &str, scratch: &Path) -> DockerEngine {
    let environment = BTreeMap::from([("DOCKER_HOST".to_owned(), daemon.url())]);
    let endpoint = choose_endpoint(EndpointInputs { explicit: None, environment: &environment, config_folder: None }).unwrap();
    DockerEngine::connect(DockerOptions {
        endpoint,
        builder,
        owner: owner.into(),
        run: run.into(),
        scratch: scratch.into(),
        environment: Arc::new(|name| (name == "IGRAPH_TEST_TOKEN").then(|| "tops3cret".to_owned())),
    })
    .unwrap()
}

/// The program that sandboxes execute; another user may not reach the one that was compiled.
fn runner() -> PathBuf {
    std::env::var_os("IGRAPH_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_igraph").into()).into()
}

/// `None`, said loudly, where this process may not make namespaces.
fn embedded(test: &str, store: &Path, owner: &str) -> Option<EmbeddedEngine> {
    if !nix::unistd::geteuid().is_root() {
        support::skip(test, "the embedded engine needs root here");
        return None;
    }
    let options = EmbeddedOptions {
        store: store.to_owned(),
        runner: runner(),
        owner: owner.into(),
        environment: Arc::new(|name| (name == "IGRAPH_TEST_TOKEN").then(|| "tops3cret".to_owned())),
        afresh: false,
    };
    Some(EmbeddedEngine::open(options).unwrap())
}

impl World {
    fn new(kind: Kind, name: &str) -> Option<Self> {
        let scratch = tempfile::tempdir().unwrap();
        // a workspace of its own for each case: collecting in one must not touch another's images
        let owner = owner_of(kind, name);
        let (engine, daemon): (Box<dyn Engine>, _) = match kind {
            Kind::Fake => (Box::new(FakeEngine::new()), None),
            Kind::Embedded => (Box::new(embedded(name, &scratch.path().join("store"), &owner)?), None),
            Kind::BuildKit | Kind::Classic => {
                let daemon = Dockerd::shared(name)?;
                let builder = if kind == Kind::BuildKit { Builder::BuildKit } else { Builder::Classic };
                (Box::new(docker(&daemon, builder, &owner, "run1", scratch.path())), Some(daemon))
            }
        };
        let platform = Platform::host();
        let (output, cancel) = (Arc::new(Kept::default()), Cancel::new());
        let attempt = Attempt { cancel: &cancel, output: &*output, timeout: None };
        let base = engine.load(base_source(), &platform, "base", &attempt).unwrap();
        let context = tempfile::tempdir().unwrap();
        let name = name.to_owned();
        Some(Self { kind, name, engine, base, platform, context, output, cancel, timeout: None, _scratch: scratch, daemon })
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt { cancel: &self.cancel, output: &*self.output, timeout: self.timeout }
    }

    fn real(&self) -> bool {
        self.kind != Kind::Fake
    }

    fn lines(&self) -> Vec<String> {
        self.output.0.lock().unwrap().clone()
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.context.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn build(&self, text: &str) -> Result<EngineImage, Failure> {
        self.build_with(text, |_| {})
    }

    fn build_with(&self, text: &str, change: impl FnOnce(&mut Asked)) -> Result<EngineImage, Failure> {
        let mut asked = Asked { references: BTreeMap::from([("base".to_owned(), self.base.clone())]), ..Asked::default() };
        change(&mut asked);
        let source = Arc::new(Source { path: "images/x/Dockerfile".into(), text: text.into() });
        let dockerfile = dockerfile::parse(&source).unwrap();
        let resolved = self.resolve(&dockerfile, &asked);
        let mut context = self.inputs(&resolved);
        (asked.tamper)(&mut context);
        let key = Key::from_bytes(*blake3::hash(format!("{} {text} {:?}", self.name, asked.args).as_bytes()).as_bytes());
        let request = BuildRequest {
            slug: "contract",
            key,
            dockerfile: &dockerfile,
            resolved: &resolved,
            references: &asked.references,
            context_root: self.context.path(),
            context: &context,
            args: &asked.args,
            platform: &self.platform,
            network: Network::Host,
            secrets: &asked.secrets,
            ssh: &asked.ssh,
            epoch: 315_532_800,
            no_cache: asked.no_cache,
            proxies: &asked.proxies,
            throwaway: asked.throwaway,
            scrub: &Default::default(),
        };
        self.engine.build(&request, &self.attempt())
    }

    fn resolve(&self, dockerfile: &Dockerfile, asked: &Asked) -> Resolved {
        struct Known<'a>(&'a World, &'a Asked);
        impl Configs for Known<'_> {
            fn config(&self, reference: &str) -> Option<Arc<ImageConfig>> {
                let image = self.1.references.get(reference)?;
                Some(Arc::new(self.0.engine.config(image).unwrap()))
            }
        }
        let request = dockerfile::Request { target: None, args: &asked.args, platform: &self.platform, build_platform: &self.platform };
        dockerfile.resolve(&request, &Known(self, asked)).unwrap()
    }

    fn inputs(&self, resolved: &Resolved) -> Vec<ContextInput> {
        let listing = dockerfile::list_context(&Folder::open(self.context.path()), &resolved.context, &Ignore::default()).unwrap();
        let read = |entry: dockerfile::ContextEntry| {
            let content = matches!(entry.kind, EntryKind::File { .. })
                .then(|| *blake3::hash(&std::fs::read(self.context.path().join(&entry.path)).unwrap()).as_bytes());
            ContextInput { entry, content }
        };
        listing.entries.into_iter().map(read).collect()
    }

    fn test(&self, image: &EngineImage, commands: &[&[&str]]) -> Result<(), Failure> {
        let commands: Vec<Vec<String>> = commands.iter().map(|argv| argv.iter().map(|word| (*word).to_owned()).collect()).collect();
        let env = BTreeMap::from([("IGRAPH_NAME".to_owned(), "4.2.1".to_owned())]);
        let request = TestRequest {
            slug: "contract",
            subject: image,
            commands: &commands,
            env: &env,
            network: Network::None,
            proxies: &BTreeMap::new(),
        };
        self.engine.test(&request, &self.attempt())
    }

    fn sh(&self, image: &EngineImage, text: &str) -> Result<(), Failure> {
        self.test(image, &[&["/bin/sh", "-ec", text]])
    }

    /// What the daemon has, asked past igraph.
    fn docker_cli(&self, arguments: &[&str]) -> Vec<String> {
        let Some(daemon) = &self.daemon else { return Vec::new() };
        let output = std::process::Command::new("docker").arg("--host").arg(daemon.url()).args(arguments).output().unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

type Tamper = Box<dyn FnOnce(&mut Vec<ContextInput>)>;

struct Asked {
    references: BTreeMap<String, EngineImage>,
    args: BTreeMap<String, String>,
    secrets: BTreeMap<String, SecretSource>,
    ssh: BTreeMap<String, PathBuf>,
    proxies: BTreeMap<String, String>,
    no_cache: bool,
    throwaway: bool,
    tamper: Tamper,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            references: BTreeMap::new(),
            args: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            proxies: BTreeMap::new(),
            no_cache: false,
            throwaway: false,
            tamper: Box::new(|_| {}),
        }
    }
}

macro_rules! contract {
    ($($(#[$note:meta])* $name:ident: $body:expr;)*) => {$(
        mod $name {
            use super::*;

            fn case(kind: Kind) {
                let body: fn(World) = $body;
                if let Some(world) = World::new(kind, stringify!($name)) {
                    body(world);
                }
            }

            #[test]
            fn fake() {
                case(Kind::Fake);
            }

            #[test]
            fn embedded() {
                case(Kind::Embedded);
            }

            #[test]
            fn buildkit() {
                case(Kind::BuildKit);
            }

            #[test]
            fn classic() {
                case(Kind::Classic);
            }
        }
    )*};
}

#[derive(Default)]
struct Exported {
    configs: BTreeMap<ImageId, Vec<u8>>,
    layers: BTreeMap<Digest, Vec<u8>>,
}

impl ExportSink for Exported {
    fn config(&mut self, id: ImageId, bytes: &[u8]) -> Result<(), Failure> {
        assert!(self.configs.insert(id, bytes.to_vec()).is_none(), "a config comes once");
        Ok(())
    }

    fn layer(&mut self, diff_id: Digest, tar: &mut dyn Read) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).map_err(|error| Failure::infra(error.to_string()))?;
        assert!(self.layers.insert(diff_id, bytes).is_none(), "a layer comes once");
        Ok(())
    }
}

contract! {
    context_arrives_as_the_key_saw_it: |world| {
        world.write("app/run", "#!/bin/sh\n");
        world.write("app/data", "data\n");
        world.write(".dockerignore", "app\n*\n");
        let mode = |path: &str, mode| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(world.context.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("app", 0o700);
        mode("app/run", 0o711);
        mode("app/data", 0o600);
        std::os::unix::fs::symlink("data", world.context.path().join("app/link")).unwrap();
        if world.kind == Kind::Classic {
            // see the engine's reason: its daemon reads the file once more
            let failure = world.build("FROM base\nCOPY . /ctx/\n").unwrap_err();
            assert!(failure.message.contains(".dockerignore"), "{failure:?}");
            std::fs::remove_file(world.context.path().join(".dockerignore")).unwrap();
        }
        let image = world.build("FROM base\nCOPY . /ctx/\nCOPY app /app\n").unwrap();
        let expected = if world.kind == Kind::Classic { "app" } else { ".dockerignore app" };
        world.sh(&image, &format!("test \"$(ls -A /ctx | while read f; do printf '%s ' $f; done)\" = '{expected} '")).unwrap();
        world.sh(&image, "test \"$(stat -c '%a %u %g %Y' /app/run /app/data)\" = '755 0 0 315532800\n644 0 0 315532800'").unwrap();
        world.sh(&image, "test \"$(stat -c '%a %F' /ctx/app)\" = '755 directory' && test $(readlink /app/link) = data").unwrap();
        world.sh(&image, "test \"$(cat /app/data)\" = data").unwrap();
    };

    args_and_stages: |world| {
        world.write("in", "content");
        let text = "ARG WHAT=none\nFROM base AS one\nARG WHAT\nCOPY in /in\nRUN echo \"$WHAT\" > /what\n\
                    FROM base AS unused\nRUN exit 9\nFROM base\nCOPY --from=one /in /what /got/\n";
        let with = |value: &str| world.build_with(text, |asked| drop(asked.args.insert("WHAT".into(), value.into()))).unwrap();
        let (first, second) = (with("4.2.1"), with("4.2.2"));
        assert_ne!(first.id, second.id);
        world.sh(&first, "test $(cat /got/what) = 4.2.1 && test $(cat /got/in) = content && test ! -e /what").unwrap();
        world.sh(&second, "test $(cat /got/what) = 4.2.2").unwrap();
        assert_eq!(first.platform, world.platform);
    };

    config_of_a_result: |world| {
        let image = world.build("FROM base\nENV A=1 B=\"two words\"\nWORKDIR /w\nUSER user\nONBUILD RUN echo hi\n").unwrap();
        let config = world.engine.config(&image).unwrap();
        assert_eq!(config.env, ["PATH=/usr/bin:/bin", "BASE=yes", "A=1", "B=two words"]);
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/w", "user"));
        assert_eq!(config.on_build, ["RUN echo hi"]);
        assert!(config.diff_ids.starts_with(&world.engine.config(&world.base).unwrap().diff_ids));
        // and a child runs the trigger
        let child = world.build_with("FROM parent\n", |asked| drop(asked.references.insert("parent".into(), image.clone()))).unwrap();
        assert_ne!(child.id, image.id);
        assert_eq!(world.engine.config(&child).unwrap().on_build, Vec::<String>::new());
    };

    a_failing_step_has_code_and_line: |world| {
        let text = "FROM base\n# a comment\nENV X=1\nRUN echo fine\nRUN echo before && \\\n    exit 42\nRUN echo never\n";
        let failure = world.build(text).unwrap_err();
        assert_eq!((failure.class, failure.exit_code), (FailureClass::Step, Some(42)));
        let place = failure.message.strip_prefix("exit 42 at RUN echo before && ").unwrap_or_else(|| panic!("{failure:?}"));
        assert!(place.trim_start().starts_with("exit 42 (images/x/Dockerfile:5)"), "{failure:?}");
        if world.real() {
            let lines = world.lines();
            assert!(lines.iter().any(|line| line.ends_with("before")), "{lines:#?}");
            assert!(!lines.iter().any(|line| line.ends_with("never") && line.starts_with("Stdout")), "{lines:#?}");
        }
        // nothing of it is kept under a name
        assert!(!world.docker_cli(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).iter().any(|name| name.contains("afailing")
            && name.contains("igraph/contract:")));
    };

    apt_that_ignored_its_indexes: |world| {
        if !world.real() {
            return;
        }
        let update = "mark='W: Some index' && echo \"$mark files failed to download. They have been ignored, or old ones used instead.\"";
        // the second stands on the same step: it runs anew, whatever the engine's cache has. The classic builder can't be told to forget
        let classic = world.kind == Kind::Classic;
        for (number, behind) in ["", "RUN echo no package; exit 100\n"].into_iter().enumerate() {
            let number = if classic { number } else { 0 };
            let failure = world.build(&format!("FROM base\nRUN : {number} && {update}\n{behind}")).unwrap_err();
            assert_eq!((failure.class, failure.retry), (FailureClass::Infra, Retry::Backoff), "{failure:?}");
            let told = failure.message.contains("apt went on without its indexes") && failure.message.contains("(images/x/Dockerfile:2)");
            assert!(told, "{failure:?}");
        }
        // a step that failed by itself is told by its own log
        let failure = world.build("FROM base\nRUN echo fine\nRUN exit 100\n").unwrap_err();
        assert_eq!(failure.class, FailureClass::Step, "{failure:?}");
    };

    an_onbuild_step_fails_with_its_from: |world| {
        let parent = world.build("FROM base\nONBUILD RUN exit 6\n").unwrap();
        let failure = world
            .build_with("FROM base AS other\nFROM parent\nRUN echo x\n", |asked| drop(asked.references.insert("parent".into(), parent.clone())))
            .unwrap_err();
        assert_eq!(failure.exit_code, Some(6));
        if matches!(world.kind, Kind::BuildKit | Kind::Embedded) {
            assert!(failure.message.ends_with("at ONBUILD RUN exit 6 (images/x/Dockerfile:2)"), "{failure:?}");
        }
    };

    a_changed_file_is_not_built: |world| {
        world.write("f", "as the key saw it");
        let failure = world
            .build_with("FROM base\nCOPY f /f\n", |asked| {
                asked.tamper = Box::new(|inputs| inputs[0].content = Some(*blake3::hash(b"something else").as_bytes()));
            })
            .unwrap_err();
        assert_eq!((failure.class, failure.message.as_str()), (FailureClass::Infra, "`f` changed while it was read"));
        world.build("FROM base\nCOPY f /f\n").unwrap();
    };

    no_cache_runs_again: |world| {
        let text = "FROM base\nRUN date +%N > /when\n";
        let build = |no_cache| world.build_with(text, |asked| asked.no_cache = no_cache).unwrap();
        let first = build(false);
        assert_eq!(build(false).id, first.id);
        let forced = build(true);
        assert_ne!(forced.id, first.id);
        // and what is cached from then on is that
        assert_eq!(build(false).id, forced.id);
    };

    no_cache_runs_every_step: |world| {
        if !world.real() {
            return;
        }
        let text = "FROM base\nRUN date +%N > /one\nRUN date +%N > /two\n";
        let build = |no_cache| world.build_with(text, |asked| asked.no_cache = no_cache).unwrap();
        let read = |image: &EngineImage| {
            world.sh(image, "cat /one /two").unwrap();
            let lines = world.lines();
            lines[lines.len() - 2..].to_vec()
        };
        let first = read(&build(false));
        let second = read(&build(true));
        assert!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
    };

    stdout_of_a_test_is_told_from_stderr: |world| {
        if !world.real() {
            return;
        }
        let image = world.build("FROM base\nRUN true\n").unwrap();
        world.sh(&image, "echo answer; echo noise >&2; printf 'no end'").unwrap();
        let lines = world.lines();
        for line in ["Stdout answer", "Stderr noise", "Stdout no end"] {
            assert!(lines.iter().any(|said| said == line), "`{line}` is missing in {lines:?}");
        }
    };

    cancel_stops_it: |world| {
        let cancel = world.cancel.clone();
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            cancel.cancel();
        });
        let started = Instant::now();
        let failure = world.build("FROM base\nRUN sleep 4711\n").unwrap_err();
        assert_eq!(failure.class, FailureClass::Stopped);
        assert!(started.elapsed() < Duration::from_secs(60));
        canceller.join().unwrap();
        assert_no_process("4711");
        // cancelled before it begins: nothing is begun
        assert_eq!(world.sh(&world.base, "true").unwrap_err().class, FailureClass::Stopped);
    };

    timeouts_are_step_failures: |mut world| {
        world.timeout = Some(Duration::from_millis(1500));
        let seconds = ["4713", "4714", "4712", "4715"][world.kind as usize];
        for failure in [
            world.build(&format!("FROM base\nRUN sleep {seconds}\n")).unwrap_err(),
            world.sh(&world.base, &format!("sleep {seconds}")).unwrap_err(),
        ] {
            assert_eq!(failure.class, FailureClass::Step);
            assert!(failure.message.starts_with("timed out after 1"), "{failure:?}");
        }
        assert_no_process(seconds);
        assert_eq!(world.docker_cli(&["ps", "-aq", "--filter", &format!("label=igraph.owner={}", owner(&world))]), Vec::<String>::new());
    };

    tests_pass_and_fail: |world| {
        world.sh(&world.base, "echo out; echo err >&2; test $IGRAPH_NAME = 4.2.1; test $BASE = yes").unwrap();
        if world.real() {
            let lines = world.lines();
            for line in ["Stdout out", "Stderr err"] {
                assert!(lines.iter().any(|seen| seen == line), "{lines:#?}");
            }
        }
        let failure = world.sh(&world.base, "exit 3").unwrap_err();
        assert_eq!((failure.class, failure.exit_code, failure.message.as_str()), (FailureClass::Step, Some(3), "exit 3 at exit 3"));
        if world.real() {
            let failure = world.test(&world.base, &[&["/no/such"]]).unwrap_err();
            assert_eq!((failure.class, failure.message.as_str()), (FailureClass::Step, "`/no/such` can't be run in the image: no such file or directory"));
            let failure = world.sh(&world.base, "set -e; false; true").unwrap_err();
            assert_eq!(failure.exit_code, Some(1));
        }
    };

    tests_share_one_throwaway_root: |world| {
        let image = world.build("FROM base\nWORKDIR /w\nUSER user\nENTRYPOINT [\"/bin/false\"]\nCMD [\"nonsense\"]\n").unwrap();
        let sh = |text: &'static str| ["/bin/sh", "-ec", text];
        world.test(&image, &[&sh("test $(id -u) = 1000; test $PWD = /w; echo kept > /tmp/f"), &sh("test $(cat /tmp/f) = kept")]).unwrap();
        world.test(&image, &[&["/bin/touch", "/tmp/g"], &["/bin/ls", "/tmp/g"]]).unwrap();
        let failure = world.test(&image, &[&sh("touch /tmp/h"), &sh("exit 5"), &sh("exit 6")]).unwrap_err();
        assert_eq!((failure.exit_code, failure.message.as_str()), (Some(5), "exit 5 at exit 5"));
        if world.real() {
            // nothing of any of them is there afterwards
            world.sh(&image, "test ! -e /tmp/f; test ! -e /tmp/g; test ! -e /tmp/h").unwrap();
            let own = format!("label=igraph.owner={}", owner(&world));
            assert_eq!(world.docker_cli(&["ps", "-aq", "--filter", &own]), Vec::<String>::new());
            assert_eq!(world.docker_cli(&["images", "-aq", "--filter", &own]), Vec::<String>::new());
        }
    };

    a_throwaway_leaves_no_name: |world| {
        let image = world.build_with("FROM base\nRUN echo test > /t\n", |asked| asked.throwaway = true).unwrap();
        world.engine.discard(&image).unwrap();
        assert_eq!(world.engine.find(image.id).unwrap(), None);
        let mark = format!("igraph/throwaway:{}-", owner(&world));
        assert!(!world.docker_cli(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).iter().any(|name| name.starts_with(&mark)));
        // one that changes nothing is the subject itself, which stays
        let same = world.build_with("FROM base\n", |asked| asked.throwaway = true).unwrap();
        world.engine.discard(&same).unwrap();
        assert!(world.engine.find(world.base.id).unwrap().is_some());
    };

    layers_come_back_byte_for_byte: |world| {
        let mut top = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_mtime(1);
        header.set_size(5 << 20);
        top.append_data(&mut header, "big", std::io::repeat(world.kind as u8).take(5 << 20)).unwrap();
        let source = RootfsImage::of_layers(vec![base_source().layer_bytes()[0].clone(), top.into_inner().unwrap()], &["A=b"]);
        let loaded = world.engine.load(&source, &world.platform, "two layers", &world.attempt()).unwrap();
        assert_eq!(loaded.id, source.image_id());
        let child = world.build_with("FROM two\nRUN echo x > /x\n", |asked| drop(asked.references.insert("two".into(), loaded.clone()))).unwrap();
        let ids = world.engine.config(&child).unwrap().diff_ids;
        assert_eq!(ids.len(), 3);
        let wanted: BTreeSet<Digest> = [ids[1], ids[2]].into();
        for _ in 0..2 {
            let mut exported = Exported::default();
            world.engine.export(&[child.clone(), loaded.clone()], &wanted, &mut exported, &world.attempt()).unwrap();
            assert_eq!(exported.configs.keys().copied().collect::<BTreeSet<_>>(), [child.id, loaded.id].into());
            assert!(exported.configs.iter().all(|(id, bytes)| ImageId(Digest::of(bytes)) == *id));
            assert_eq!(exported.configs[&loaded.id], source.config());
            assert_eq!(exported.layers.keys().copied().collect::<BTreeSet<_>>(), wanted);
            assert!(exported.layers.iter().all(|(diff_id, bytes)| Digest::of(bytes) == *diff_id));
            assert!(exported.layers[&ids[1]] == source.layer_bytes()[1]);
        }
    };

    names_point_where_they_are_put: |world| {
        let name: Reference = format!("127.0.0.1:5000/contract/{}:4.2", owner(&world)).parse().unwrap();
        assert_eq!(world.engine.named(&name).unwrap(), None);
        world.engine.tag(&world.base, &name).unwrap();
        assert_eq!(world.engine.named(&name).unwrap(), Some(world.base.id));
        let other = world.build("FROM base\nENV OTHER=1\n").unwrap();
        world.engine.tag(&other, &name).unwrap();
        assert_eq!(world.engine.named(&name).unwrap(), Some(other.id));
        assert_eq!(world.engine.find(other.id).unwrap(), Some(other));
        assert_eq!(world.engine.find(ImageId(Digest::of(b"nothing"))).unwrap(), None);
    };

    collecting_keeps_what_is_kept: |world| {
        let keep = world.build("FROM base\nENV KEEP=1\n").unwrap();
        let drop_it = world.build(&format!("FROM base\nENV DROP={}\n", owner(&world))).unwrap();
        let throwaway = world.build_with(&format!("FROM base\nENV THROW={}\n", owner(&world)), |asked| asked.throwaway = true).unwrap();
        let kept = BTreeSet::from([keep.id, world.base.id]);
        let would = world.engine.collect(&kept, &Limits::default(), true).unwrap();
        assert_eq!(would.images, 2);
        assert!(world.engine.find(drop_it.id).unwrap().is_some());
        assert_eq!(world.engine.collect(&kept, &Limits::default(), false).unwrap().images, 2);
        assert!(world.engine.find(keep.id).unwrap().is_some() && world.engine.find(world.base.id).unwrap().is_some());
        assert_eq!(world.engine.find(throwaway.id).unwrap(), None);
        assert_eq!(world.engine.find(drop_it.id).unwrap(), None);
        assert_eq!(world.engine.collect(&kept, &Limits::default(), false).unwrap().images, 0);
    };
}

fn owner(world: &World) -> String {
    owner_of(world.kind, &world.name)
}

/// With the process in it: a daemon that is not the tests' own keeps what earlier ones left.
fn owner_of(kind: Kind, name: &str) -> String {
    format!("{kind:?}{name}{}", std::process::id()).to_lowercase().replace('_', "")
}

/// The same cases of the embedded engine, in a user namespace of a user without rights.
#[test]
fn an_ordinary_user_with_subordinate_ids_gets_the_same() {
    let Some(user) = OrdinaryUser::new("an_ordinary_user_with_subordinate_ids_gets_the_same", 65_536) else { return };
    let program = user.program(&runner());
    let this = user.program(&std::env::current_exe().unwrap());
    let mut command = user.command(&program);
    command.arg("__igraph-user-namespace").arg(this).args(["embedded", "--test-threads", "2"]);
    let output = command.env("IGRAPH_TEST_PROGRAM", &program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let passed = text.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed >= 15), "{text}");
}

/// The daemon stops what it runs soon after the request is gone.
fn assert_no_process(mark: &str) {
    let running = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).collect::<Vec<_>>() == [&b"sleep"[..], mark.as_bytes(), b""]
        })
    };
    for _ in 0..200 {
        if !running() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("`sleep {mark}` still runs");
}

#[test]
fn loading_twice_asks_for_no_layer() {
    [Kind::Embedded, Kind::BuildKit].into_iter().for_each(loads_twice);
}

fn loads_twice(kind: Kind) {
    struct Sealed(RootfsImage);
    impl ImageSource for Sealed {
        fn config(&self) -> &[u8] {
            self.0.config()
        }
        fn layers(&self) -> &[igraph::image::LayerBlob] {
            self.0.layers()
        }
        fn open_layer(&self, _: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
            Err(Failure::infra("opened"))
        }
    }
    let Some(world) = World::new(kind, "loading_twice_asks_for_no_layer") else { return };
    let again = Sealed(RootfsImage::of_layers(base_source().layer_bytes().to_vec(), &["PATH=/usr/bin:/bin", "BASE=yes"]));
    let loaded = world.engine.load(&again, &world.platform, "again", &world.attempt()).unwrap();
    assert_eq!(loaded, world.base);
    // and where one must be opened, what the source says is the failure
    let mut layers = base_source().layer_bytes().to_vec();
    layers.push(vec![0; 1024]);
    let other = Sealed(RootfsImage::of_layers(layers, &["OTHER=1"]));
    assert_eq!(world.engine.load(&other, &world.platform, "other", &world.attempt()).unwrap_err().message, "opened");
}

#[test]
fn secrets_reach_the_step_and_nothing_else() {
    [Kind::Embedded, Kind::BuildKit].into_iter().for_each(secrets_stay);
}

fn secrets_stay(kind: Kind) {
    let Some(world) = World::new(kind, "secrets_reach_the_step_and_nothing_else") else { return };
    let file = world.context.path().join("outside");
    std::fs::write(&file, "fr0mfile").unwrap();
    let text = "FROM base\nRUN --mount=type=secret,id=npm --mount=type=secret,id=file,target=/s \\\n    \
                test $(cat /run/secrets/npm | wc_c) = 9\n";
    let text = text.replace("$(cat /run/secrets/npm | wc_c) = 9", "\"$(stat -c %s /run/secrets/npm /s)\" = \"$(printf '9\\n8')\"");
    let image = world
        .build_with(&text, |asked| {
            asked.secrets.insert("npm".into(), SecretSource::Env("IGRAPH_TEST_TOKEN".into()));
            asked.secrets.insert("file".into(), SecretSource::File(file.clone()));
        })
        .unwrap();
    let history = world.docker_cli(&["history", "--no-trunc", &image.handle]).join("\n");
    let config = world.docker_cli(&["inspect", &image.handle]).join("\n");
    let mut exported = Exported::default();
    let wanted = world.engine.config(&image).unwrap().diff_ids.into_iter().collect();
    world.engine.export(&[image], &wanted, &mut exported, &world.attempt()).unwrap();
    let log = world.lines().join("\n");
    let daemon = world.daemon.as_ref().map(|daemon| daemon.log()).unwrap_or_default();
    for secret in ["tops3cret", "fr0mfile"] {
        for (what, text) in [("history", &history), ("config", &config), ("log", &log), ("daemon's log", &daemon)] {
            assert!(!text.contains(secret), "{secret} is in the {what}");
        }
        let found = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!exported.layers.values().chain(exported.configs.values()).any(|bytes| found(bytes)), "{secret} is in the image");
    }
    let missing = world.build("FROM base\nRUN --mount=type=secret,id=gone,required cat /run/secrets/gone\n").unwrap_err();
    assert!(missing.message.contains("gone") && missing.class == FailureClass::Step, "{missing:?}");
}

#[test]
fn an_ssh_agent_reaches_the_step() {
    [Kind::Embedded, Kind::BuildKit].into_iter().for_each(agent_reached);
}

fn agent_reached(kind: Kind) {
    let Some(world) = World::new(kind, "an_ssh_agent_reaches_the_step") else { return };
    let socket = world.context.path().join("agent");
    let Ok(mut agent) =
        std::process::Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(std::process::Stdio::null()).spawn()
    else {
        support::skip("an_ssh_agent_reaches_the_step", "the program `ssh-agent` can't be run");
        return;
    };
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    // an agent without keys answers, and ssh-add ends with 1; without an agent it ends with 2
    let text = "FROM base\nRUN --mount=type=ssh,id=deploy ssh-add -l; test $? = 1\n";
    let built = world.build_with(text, |asked| drop(asked.ssh.insert("deploy".into(), socket.clone())));
    agent.kill().unwrap();
    agent.wait().unwrap();
    built.unwrap();
}

#[test]
fn the_classic_builder_refuses_secrets_before_anything_runs() {
    let Some(world) = World::new(Kind::Classic, "the_classic_builder_refuses_secrets") else { return };
    let source = Arc::new(Source { path: "Dockerfile".into(), text: "FROM base\nRUN --mount=type=secret,id=x true\n".into() });
    let dockerfile = dockerfile::parse(&source).unwrap();
    let resolved =
        world.resolve(&dockerfile, &Asked { references: BTreeMap::from([("base".into(), world.base.clone())]), ..Asked::default() });
    let refusals = world.engine.refusals(&dockerfile, &resolved, true);
    assert_eq!(refusals.len(), 1);
    assert!(refusals[0].message.contains("needs BuildKit") && refusals[0].places[0].line_column().0 == 2, "{refusals:?}");
}

#[test]
fn containers_of_dead_runs_are_collected() {
    let Some(world) = World::new(Kind::BuildKit, "containers_of_dead_runs_are_collected") else { return };
    let own = owner(&world);
    let foreign = format!("foreign{}", std::process::id());
    for (run, owner) in [("run0", own.as_str()), ("run1", own.as_str()), ("run0", foreign.as_str())] {
        let labels = [format!("igraph.run={run}"), format!("igraph.owner={owner}")];
        world.docker_cli(&["create", "--network", "none", "--label", &labels[0], "--label", &labels[1], &world.base.handle, "sleep", "1"]);
    }
    let kept = BTreeSet::from([world.base.id]);
    assert_eq!(world.engine.collect(&kept, &Limits::default(), true).unwrap().containers, 1);
    assert_eq!(world.engine.collect(&kept, &Limits::default(), false).unwrap().containers, 1);
    assert_eq!(world.docker_cli(&["ps", "-aq", "--filter", &format!("label=igraph.owner={foreign}")]).len(), 1);
    assert_eq!(world.docker_cli(&["ps", "-aq", "--filter", &format!("label=igraph.owner={own}")]).len(), 1);
}
