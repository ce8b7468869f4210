//! The whole program pushes to registries that misbehave: one table of what it said, how it ended, and what it asked.

#[path = "support/registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod registry;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use base64::Engine as _;
use igraph::clock::Timestamp;
use igraph::digest::Digest;
use regex::Regex;
use registry::{Action, Guard, Registry, Rule};

/// Two registries and a workspace: `//app:1` and `//app:2` go to the first, `//lib:1` to the second.
struct World {
    folder: tempfile::TempDir,
    one: Registry,
    two: Registry,
    table: String,
}

/// How a run ended.
struct Ran {
    code: i32,
    said: String,
    engine: Vec<String>,
}

/// The image entries of //app: name and aliases.
const APP: [(&str, &[&str]); 2] = [("1", &["latest", "team/other:1"]), ("2", &["team/other:2"])];

/// What was written down is shown when a test ends early.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            drop(writeln!(std::io::stderr(), "{}", self.table));
        }
    }
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), one: Registry::start(), two: Registry::start(), table: String::new() };
        world.write("home/.docker/config.json", "{}");
        world.write(
            "work/BUILD.ron",
            &format!(
                r#"Workspace(packages: "images", registry: "{}", retries: (max: 2, delay: "1ms", backoff: 1.0, max_delay: "1ms"))"#,
                world.one.host()
            ),
        );
        world.app(&APP);
        let lib = r#"Package(repository: "HOST/team/lib", tests: [":t"], rules: [
            Test(name: "t", run: ["true"]), Image(name: "1", dockerfile: "1/Dockerfile", aliases: ["stable"])])"#;
        world.write("work/images/lib/BUILD.ron", &lib.replace("HOST", world.two.host()));
        for image in ["app/1", "app/2", "lib/1"] {
            world.write(&format!("work/images/{image}/Dockerfile"), "FROM scratch\nCOPY content /\n");
            world.write(&format!("work/images/{image}/content"), image);
        }
        world
    }

    /// A new one, whose table goes on with this one's.
    fn next(mut self) -> Self {
        let mut next = Self::new();
        next.table = std::mem::take(&mut self.table);
        next
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The entries of //app.
    fn app(&self, images: &[(&str, &[&str])]) {
        let mut rules = String::from("Test(name: \"t\", run: [\"true\"]),");
        for (name, aliases) in images {
            write!(rules, "Image(name: {name:?}, dockerfile: \"{name}/Dockerfile\", aliases: {aliases:?}),").unwrap();
        }
        self.write("work/images/app/BUILD.ron", &format!("Package(repository: \"team/app\", tests: [\":t\"], rules: [{rules}])"));
    }

    fn account(&self, password: &str) {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("igraph:{password}"));
        let hosts = [&self.one, &self.two].map(|registry| format!("\"{}\": {{\"auth\": \"{auth}\"}}", registry.host())).join(", ");
        self.write("home/.docker/config.json", &format!("{{\"auths\": {{{hosts}}}}}"));
    }

    fn push(&self, arguments: &[&str]) -> Ran {
        self.verb("push", arguments)
    }

    fn verb(&self, verb: &str, arguments: &[&str]) -> Ran {
        // how long steps took decides what starts first, and a table wants one order
        let records = self.folder.path().join("work/igraph-out/state.db");
        if records.exists() {
            rusqlite::Connection::open(records).unwrap().execute("DELETE FROM durations", []).unwrap();
        }
        let log = self.folder.path().join("engine.log");
        let _ = std::fs::remove_file(&log);
        let output = Command::new(env!("CARGO_BIN_EXE_igraph"))
            .args(["-C", &self.folder.path().join("work").to_string_lossy(), verb, "--engine", "fake", "-j1"])
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path().join("home"))
            .env("IGRAPH_TEST_ENGINE", "fake")
            .env("IGRAPH_FAKE_LOG", &log)
            .output()
            .unwrap();
        assert!(output.stdout.is_empty());
        let calls = std::fs::read_to_string(&log).unwrap_or_default();
        let call = |line: &str| line.split_once(' ').unwrap().1.split([' ', '(']).next().unwrap().to_owned();
        Ran {
            code: output.status.code().unwrap(),
            said: String::from_utf8(output.stderr).unwrap(),
            engine: calls.lines().map(call).collect(),
        }
    }

    /// Pushes, and writes down what happened.
    fn pushes(&mut self, title: &str, arguments: &[&str]) -> Ran {
        let ran = self.push(arguments);
        writeln!(self.table, "{title}: exit {}", ran.code).unwrap();
        for line in self.normal(&ran.said).lines() {
            writeln!(self.table, "    {}", line.trim_end()).unwrap();
        }
        let engine = counted(ran.engine.iter().cloned());
        writeln!(self.table, "  engine: {engine}").unwrap();
        for (name, registry) in [("one", &self.one), ("two", &self.two)] {
            let asked = counted(registry.take_requests().iter().map(|request| {
                let path = request.path.split('?').next().unwrap();
                let kind = match path {
                    path if request.path.contains("?mount=") => "mount".to_owned() + &path[..0],
                    path if path.contains("/blobs/uploads/") => "upload".to_owned(),
                    path if path.contains("/blobs/") => "blob".to_owned(),
                    path if path.contains("/manifests/sha256:") => "manifest".to_owned(),
                    path if path.contains("/manifests/") => "name".to_owned(),
                    path => path.to_owned(),
                };
                format!("{} {kind} {}", request.method, if request.status == 0 { "cut".into() } else { request.status.to_string() })
            }));
            writeln!(self.table, "  {name}: {asked}").unwrap();
        }
        self.table.push('\n');
        ran
    }

    /// Without what differs between runs: hosts, digests, times.
    fn normal(&self, text: &str) -> String {
        let mut text = text.replace(self.one.host(), "one").replace(self.two.host(), "two");
        for (pattern, with) in [
            (r"sha256:[0-9a-f]{64}", "sha256:…"),
            (r"(blob|manifest) [0-9a-f]{12}\b", "$1 …"),
            (r"\[ *[0-9.]+(ms|s)\]", "[…]"),
            (r"run \w{4,} ", "run … "),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
            (r"igraph \d+\.\d+\.\d+", "igraph …"),
            (r"\b\d\d:\d\d(:\d\d)? UTC", "TIME"),
        ] {
            text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let of = |host: &str, registry: &Registry| registry.names().into_keys().map(|name| format!("{host}/{name}")).collect::<Vec<_>>();
        [of("one", &self.one), of("two", &self.two)].concat()
    }

    fn snapshot(self, name: &str) {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(name, self.table) });
    }
}

const ALL: [&str; 7] = [
    "one/team/app:1",
    "one/team/app:2",
    "one/team/app:latest",
    "one/team/other:1",
    "one/team/other:2",
    "two/team/lib:1",
    "two/team/lib:stable",
];

fn counted(lines: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    lines.for_each(|line| *counts.entry(line).or_default() += 1);
    if counts.is_empty() {
        return "nothing".to_owned();
    }
    counts.iter().map(|(line, count)| if *count == 1 { line.clone() } else { format!("{line} ×{count}") }).collect::<Vec<_>>().join(", ")
}

fn answer(status: u16, code: &str, headers: &[(&str, &str)]) -> Action {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"scripted"}}]}}"#);
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Action::Answer { status, headers, body }
}

fn always(method: &'static str, path: &'static str, skip: usize, action: Action) -> Rule {
    Rule { method, path, skip, times: usize::MAX, action }
}

#[test]
fn a_registry_that_behaves() {
    let mut world = World::new();
    assert_eq!(world.pushes("everything", &[]).code, 0);
    assert_eq!(world.names(), ALL);
    let again = world.pushes("again", &[]);
    assert_eq!((again.code, again.engine.len()), (0, 0));
    world.one.refuse_mounts();
    world.app(&[("1", &["latest", "team/third:1"]), ("2", &[])]);
    assert_eq!(world.pushes("mounts are answered with 202", &[]).code, 0);
    world.snapshot("a_registry_that_behaves");
}

#[test]
fn one_alias_is_three_requests() {
    let mut world = World::new();
    world.app(&[("1", &["latest", "lts"]), ("2", &[])]);
    assert_eq!(world.push(&[]).code, 0);
    world.app(&[("1", &["lts"]), ("2", &["latest"])]);
    // the local name first: this engine forgets its images between runs, and has the image brought in for it
    assert_eq!(world.verb("tag", &[]).code, 0);
    world.one.take_requests();
    world.two.take_requests();
    let ran = world.push(&[]);
    assert_eq!((ran.code, ran.engine.len()), (0, 0), "{}", ran.said);
    let asked: Vec<(String, String, u16)> =
        world.one.take_requests().into_iter().map(|request| (request.method, request.path, request.status)).collect();
    let name = || "/v2/team/app/manifests/latest".to_owned();
    assert_eq!(asked, [("HEAD".to_owned(), name(), 200), ("PUT".to_owned(), name(), 201), ("HEAD".to_owned(), name(), 200)]);
    assert_eq!(world.two.take_requests(), []);
    assert_eq!(world.one.named("team/app", "latest"), world.one.named("team/app", "2"));
    world.table = world.normal(&ran.said);
    world.snapshot("one_alias_is_three_requests");
}

#[test]
fn busy() {
    let mut world = World::new();
    world.one.once("PUT", "/manifests/latest", answer(429, "TOOMANYREQUESTS", &[("Retry-After", "1")]));
    assert_eq!(world.pushes("429, to wait a second", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.one.rule(always("", "", 0, answer(429, "TOOMANYREQUESTS", &[("Retry-After", "21600")])));
    let before = Timestamp(now());
    let ran = world.pushes("429, to wait six hours, from the first request on", &[]);
    assert_eq!((ran.code, world.names()), (10, vec!["two/team/lib:1".to_owned(), "two/team/lib:stable".to_owned()]));
    let told = Regex::new(r"no requests before (\S+Z)").unwrap().captures(&ran.said).map(|found| found[1].to_owned());
    let told = Timestamp::parse_rfc3339(&told.unwrap()).unwrap().since(before).as_secs();
    assert!((21_590..21_700).contains(&told), "{told}");
    world.one.clear_rules();
    assert_eq!(world.pushes("after that time", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.one.rule(always("PUT", "/manifests/", 0, answer(429, "TOOMANYREQUESTS", &[("Retry-After", "21600")])));
    assert_eq!(world.pushes("429, to wait six hours, in the middle of a push", &[]).code, 10);
    assert_eq!(world.names(), ALL[5..]);
    world.snapshot("busy");
}

fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn broken() {
    let mut world = World::new();
    world.one.rule(Rule { method: "PUT", path: "/blobs/uploads/", skip: 1, times: 2, action: answer(500, "UNKNOWN", &[]) });
    assert_eq!(world.pushes("500 at an upload, twice", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.one.once("PUT", "/manifests/sha256", Action::Reset);
    world.one.once("PUT", "/manifests/latest", Action::ResetAfter);
    assert_eq!(world.pushes("a reset before a manifest, and one after a name was written", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.one.once("GET", "/manifests/sha256", Action::Truncate(20));
    world.one.once("PUT", "/blobs/uploads/", Action::CutUpload(10));
    assert_eq!(world.pushes("a manifest truncated when read back, an upload cut", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.one.rule(always("", "", 12, Action::Reset));
    assert_eq!(world.pushes("gone in the middle of the first image", &[]).code, 10);
    assert_eq!(world.names(), ALL[5..]);
    world.one.clear_rules();
    assert_eq!(world.pushes("back again", &[]).code, 0);
    assert_eq!(world.names(), ALL);
    assert_eq!(world.pushes("and again", &[]).code, 0);

    let mut world = world.next();
    world.one.rule(always("PUT", "/team/other/manifests/1", 0, answer(500, "UNKNOWN", &[])));
    assert_eq!(world.pushes("500 at one name for good", &[]).code, 10);
    world.one.clear_rules();
    let rest = world.pushes("and then not", &[]);
    assert_eq!((rest.code, rest.engine.len()), (0, 0));
    assert_eq!(world.names(), ALL);
    world.snapshot("broken");
}

#[test]
fn what_a_failed_push_left() {
    let mut world = World::new();
    world.one.rule(always("PUT", "/team/other/manifests/1", 0, answer(500, "UNKNOWN", &[])));
    assert_eq!(world.push(&[]).code, 10);
    world.one.clear_rules();
    world.one.take_requests();
    world.two.take_requests();
    let asked = world.pushes("outside of what is pushed", &["//lib:1"]);
    assert!(asked.said.contains("push //app:1"), "{}", asked.said);
    world.app(&[("1", &["latest"]), ("2", &["team/other:2"])]);
    assert_eq!(world.pushes("a name that nobody claims any more", &["//lib:1"]).code, 0);
    assert_eq!(world.pushes("the names that are left", &[]).code, 0);
    assert_eq!(world.pushes("all is said", &[]).code, 0);

    // tests that fail since then: the names stay as they are, and that is said
    let mut world = world.next();
    world.one.rule(always("PUT", "/team/other/manifests/1", 0, answer(500, "UNKNOWN", &[])));
    assert_eq!(world.push(&[]).code, 10);
    world.one.clear_rules();
    world.one.take_requests();
    world.two.take_requests();
    world.write(
        "work/images/app/BUILD.ron",
        r#"Package(repository: "team/app", rules: [Test(name: "u", run: ["exit 1"]),
            Image(name: "1", dockerfile: "1/Dockerfile", aliases: ["latest", "team/other:1"], tests: [":u"])])"#,
    );
    assert_eq!(world.pushes("the image does not pass any more", &[]).code, 3);
    world.snapshot("what_a_failed_push_left");
}

#[test]
fn refused() {
    let mut world = World::new();
    world.one.guard(Guard::Basic { username: "igraph".into(), password: "secret".into() });
    let ran = world.pushes("no credentials", &[]);
    assert_eq!((ran.code, ran.engine.len(), world.names().len()), (5, 0, 0));
    world.account("guess");
    let ran = world.pushes("wrong credentials", &[]);
    assert_eq!((ran.code, ran.engine.len(), world.names().len()), (5, 0, 0));
    world.account("secret");
    world.one.once("PUT", "/manifests/latest", answer(401, "UNAUTHORIZED", &[("WWW-Authenticate", "Basic realm=\"test\"")]));
    let ran = world.pushes("right credentials, refused for good in the middle", &[]);
    assert_eq!(ran.code, 5);
    assert_eq!(world.pushes("and then not", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.account("secret");
    world.one.guard(Guard::Token { account: Some(("igraph".into(), "secret".into())), may_push: true });
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", world.one.host());
    world.one.once("PUT", "/manifests/latest", answer(401, "UNAUTHORIZED", &[("WWW-Authenticate", &challenge)]));
    assert_eq!(world.pushes("a token that expires in the middle", &[]).code, 0);
    assert_eq!(world.names(), ALL);

    let mut world = world.next();
    world.one.rule(always("", "/team/other/", 0, answer(403, "DENIED", &[])));
    let ran = world.pushes("403 for one repository of several", &[]);
    assert_eq!((ran.code, ran.engine.len()), (5, 0));

    let mut world = world.next();
    world.one.rule(always("PUT", "/team/other/manifests/", 0, answer(403, "DENIED", &[])));
    assert_eq!(world.pushes("403 for manifests of one repository only", &[]).code, 5);
    world.snapshot("refused");
}

#[test]
fn somebody_else_moves_a_name() {
    let mut world = World::new();
    assert_eq!(world.push(&[]).code, 0);
    let ours = world.one.named("team/app", "1").unwrap();
    let theirs = br#"{"schemaVersion":2,"config":{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}"#;
    let foreign = world.one.add_manifest("team/app", "latest", "application/vnd.oci.image.manifest.v1+json", theirs);
    world.write("work/images/app/1/content", "changed");
    world.one.take_requests();
    world.two.take_requests();
    let ran = world.pushes("an edit, and a name that someone else moved", &[]);
    assert_eq!(ran.code, 5);
    assert!(ran.said.contains(&foreign.to_string()) && ran.said.contains(&ours.to_string()), "{}", ran.said);
    assert_eq!(world.one.named("team/app", "latest"), Some(foreign));
    assert_ne!(world.one.named("team/app", "1"), Some(ours), "the other names of the image moved");
    assert_eq!(world.pushes("the next run", &[]).code, 0);
    assert_eq!(world.one.named("team/app", "latest"), world.one.named("team/app", "1"));
    assert_eq!(world.pushes("and the next", &[]).code, 0);

    // found by --verify, where nothing else is to do
    world.one.add_manifest("team/app", "latest", "application/vnd.oci.image.manifest.v1+json", theirs);
    assert_eq!(world.pushes("moved to the same again, and verified", &["--verify", "//app:1"]).code, 5);
    assert_eq!(world.one.named("team/app", "latest"), Some(foreign));
    assert_eq!(world.pushes("the run after that", &[]).code, 0);
    assert_eq!(world.one.named("team/app", "latest"), world.one.named("team/app", "1"));
    assert_eq!(world.pushes("and after that", &[]).code, 0);
    world.snapshot("somebody_else_moves_a_name");
}

#[test]
fn a_name_that_igraph_never_wrote_gives_way() {
    let world = World::new();
    let theirs = br#"{"schemaVersion":2,"config":{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}"#;
    world.one.add_manifest("team/app", "latest", "application/vnd.oci.image.manifest.v1+json", theirs);
    let ran = world.push(&[]);
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert_eq!(world.one.named("team/app", "latest"), world.one.named("team/app", "1"));
}

/// Digests of the layers and the config of what a name points at.
fn blobs(registry: &Registry, repository: &str, name: &str) -> Vec<Digest> {
    let host = registry.host();
    let url = format!("http://{host}/v2/{repository}/manifests/{name}");
    let answer = Command::new("curl").args(["-sf", &url]).output().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    layers.map(|blob| blob["digest"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn blobs_that_vanish() {
    let mut world = World::new();
    assert_eq!(world.push(&[]).code, 0);
    let lost = blobs(&world.one, "team/app", "1");
    world.one.take_requests();
    world.two.take_requests();

    lost.iter().for_each(|blob| world.one.remove_blob("team/app", *blob));
    world.app(&[("1", &["latest", "team/other:1", "new"]), ("2", &["team/other:2"])]);
    assert_eq!(world.pushes("a new name, and a repository that has lost the image", &[]).code, 0);
    assert_eq!(world.one.named("team/app", "new"), world.one.named("team/other", "1"));
    assert!(lost.iter().all(|blob| world.one.has_blob("team/app", *blob)));

    for repository in ["team/app", "team/other"] {
        lost.iter().for_each(|blob| world.one.remove_blob(repository, *blob));
    }
    world.app(&[("1", &["latest", "team/other:1", "new", "newer"]), ("2", &["team/other:2"])]);
    assert_eq!(world.pushes("another, and no repository has the image", &[]).code, 0);
    assert_eq!(world.one.named("team/app", "newer"), world.one.named("team/other", "1"));
    assert!(lost.iter().all(|blob| world.one.has_blob("team/app", *blob)));
    assert_eq!(world.pushes("again", &[]).code, 0);
    world.snapshot("blobs_that_vanish");
}
