//! `--watch --bases`: a base that moves while igraph watches.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};

use crate::registry::Registry;
use crate::world::{World, publish};

pub struct Watching {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Watching {
    /// Starts it.
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let mut child = world.command(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said }
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
    let mut command = world.command(&["test", "--watch", "--bases", "2s", "-v", "--engine", "fake", "--console", "plain"]);
    let mut child = command.env("IGRAPH_TEST_ENGINE", "fake").stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut watching = Watching { child, said };
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
