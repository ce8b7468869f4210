//! `--watch --bases`: a base that moves while igraph watches.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use crate::registry::{Action, Registry, Rule};
use crate::world::{World, publish};

pub struct Watching {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Watching {
    /// Starts it.
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let mut child = world.command(arguments).env("IGRAPH_TEST_ENGINE", "fake").stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said }
    }

    /// `test --watch` with the engine that pretends, when it has begun to wait.
    fn test(world: &World, more: &[&str]) -> Self {
        let arguments = ["test", "--watch", "-v", "--engine", "fake", "--console", "plain"];
        let mut watching = Self::start(world, &[&arguments, more].concat());
        watching.until("watching");
        watching
    }

    /// Ctrl-C; the exit code.
    fn stop(mut self) -> Option<i32> {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap()), nix::sys::signal::Signal::SIGINT).unwrap();
        self.child.wait().unwrap().code()
    }

    /// All up to the line with `text`.
    pub fn until(&mut self, text: &str) -> String {
        let mut said = String::new();
        for line in self.said.by_ref().map_while(Result::ok) {
            said.push_str(&line);
            said.push('\n');
            if line.contains(text) {
                return said;
            }
        }
        panic!("it ended without `{text}`:\n{said}");
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_base_that_moves_while_it_watches_brings_exactly_its_dependants() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    publish(&registry, "other", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "");
    world.image("b", "a:1", "");
    world.image("c", &format!("{}/other:1", registry.host()), "");
    let mut watching = Watching::start(&world, &["test", "--watch", "--bases", "2s", "-v", "--engine", "fake", "--console", "plain"]);
    let first = watching.until("watching");
    assert!(first.contains("3 built"), "{first}");
    let before = world.lock().unwrap();

    let moved = publish(&registry, "os", "1", "y");
    watching.until(&format!("base {}/os:1 changed", registry.host()));
    let said = watching.until("Summary");
    for part in ["2 built", "2 passed", "moved: "] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    assert!(!said.contains("BUILD [    0.0s] //c:1"), "{said}");
    let after = world.lock().unwrap();
    assert!(after != before && after.contains(&moved.to_string()), "{after}");
}

#[test]
fn what_a_probe_answers_otherwise_is_renewed_while_it_watches() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    world.write("upgrades", "");
    world.image("a", &format!("{}/os:1", registry.host()), &format!("probe: \"answer {}\"", world.path("upgrades").display()));
    world.image("b", "a:1", "");
    world.image("c", &format!("{}/os:1", registry.host()), "");
    let mut watching = Watching::test(&world, &["--bases", "1s"]);
    world.write("upgrades", "openssl\n");
    watching.until("igraph: freshness stamp of //a:1 changed");
    let said = watching.until("Summary");
    // the renewed one is built without cache, what stands on it where that makes another image
    assert!(said.contains("probe renewed at") && said.contains("1 built") && !said.contains("] //c:1"), "{said}");
    assert!(world.lock().unwrap().contains("policy: \"probe\""));
    assert_eq!(watching.stop(), Some(130));
}

#[test]
fn edits_run_while_a_registry_lets_it_wait() {
    let (registry, world) = (Registry::start(), World::new(""));
    world.write("BUILD.ron", "Workspace(packages: \"images\", retries: (max: 1, max_wait: \"1h\"))");
    publish(&registry, "os", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "");
    let mut watching = Watching::test(&world, &["--bases", "1s"]);
    let action = Action::Answer { status: 429, headers: vec![("Retry-After".to_owned(), "1800".to_owned())], body: String::new() };
    registry.rule(Rule { method: "HEAD", path: "", skip: 0, times: usize::MAX, action });
    watching.until("again in 1800");
    let began = Instant::now();
    world.image("a", &format!("{}/os:1", registry.host()), "args: {}");
    world.write("images/a/Dockerfile", &format!("FROM {}/os:1\nRUN make other\n", registry.host()));
    let said = watching.until("Summary");
    assert!(said.contains("1 built"), "{said}");
    // and so does its end
    assert_eq!(watching.stop(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(600), "{:?}", began.elapsed());
}

#[test]
fn a_lock_that_goes_is_made_anew() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "");
    world.verb(&["test"]).expect(0);
    let mut watching = Watching::test(&world, &[]);
    std::fs::remove_file(world.path("igraph.lock")).unwrap();
    watching.until("igraph: igraph.lock changed");
    watching.until("Summary");
    world.verb(&["test", "--check", "--locked"]).expect(0);
}

#[test]
fn a_hint_is_given_once() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "");
    // what the base is like is known, so that the engine is asked before anything runs
    world.verb(&["test"]).expect(0);
    let mut watching = Watching::start(&world, &["test", "--watch", "--engine", "docker=unix:///nowhere"]);
    let said = watching.until("watching");
    assert_eq!((said.matches("error: ").count(), said.matches("hint: ").count()), (1, 1), "{said}");
}
