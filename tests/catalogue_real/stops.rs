//! Runs that are stopped, and two at once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use igraph::event::{Event, NodeKind, Outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::catalogue::Workspace;
use super::site::{Ran, Site};

/// A run whose image or test does not end by itself; returns when that has begun.
struct Endless {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
    out: std::thread::JoinHandle<String>,
    seen: String,
}

impl Endless {
    fn start(site: &Site, workspace: &Workspace, verb: &str, sleeps: &str) -> Self {
        let mut command = site.command(&workspace.root, &[verb, "//...", "--json", "--console", "plain", "--logs", "stream", "-j", "1"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut endless = Self { child, said, out, seen: String::new() };
        endless.until("it has begun");
        // the shell has said so before it starts the next program
        while !runs(sleeps) {
            assert!(endless.child.try_wait().unwrap().is_none(), "it ended:\n{}", endless.seen);
            std::thread::sleep(Duration::from_millis(20));
        }
        endless
    }

    fn until(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert_ne!(self.said.read_line(&mut self.seen).unwrap(), 0, "it ended:\n{}", self.seen);
        }
    }

    fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    }

    fn end(mut self) -> Ran {
        self.said.read_to_string(&mut self.seen).unwrap();
        Ran { code: self.child.wait().unwrap().code(), out: self.out.join().unwrap(), err: self.seen }
    }
}

/// Whether a process with this argument runs on this machine.
fn runs(argument: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    })
}

/// Every node ended, once, and nothing came after the end of the run.
fn closed(ran: &Ran) -> BTreeMap<String, Outcome> {
    let (mut ended, mut last) = (BTreeMap::new(), false);
    let mut scope = None;
    for event in ran.stream() {
        assert!(!last, "{event:?} after the end");
        match event {
            Event::RunStarted { scope: all, .. } => scope = Some(all),
            Event::NodeFinished { node, kind, outcome, .. } if kind != NodeKind::Base => {
                assert_eq!(ended.insert(node.to_string(), outcome), None, "{node} ended twice");
            }
            Event::RunFinished { exit_code, stopped_by, .. } => {
                assert_eq!((exit_code, stopped_by.as_deref()), (130, Some("signal 2")));
                last = true;
            }
            _ => {}
        }
    }
    let scope = scope.unwrap();
    assert!(last);
    assert_eq!(ended.len(), scope.images + scope.tests + scope.tags + scope.pushes, "{ended:?}");
    ended
}

#[test]
fn interrupted_while_it_builds() {
    let Some(site) = Site::start("interrupted_while_it_builds", false) else { return };
    let one = site.catalogue();
    one.edit("images/app/1-dev/Dockerfile", "COPY dev", "RUN echo it has begun; sleep 86401\nCOPY dev");
    let run = Endless::start(&site, &one, "push", "86401");
    run.interrupt();
    let ran = run.end().code(130);
    let ended = closed(&ran);
    assert_eq!((&ended["//app:1"].is_good(), &ended["//app:1-dev"]), (&true, &Outcome::Cancelled), "{}", ran.err);
    assert_eq!(ended["//app:1-full[push/full]"], Outcome::Cancelled);
    // the daemon ends the step when it hears of it
    while runs("86401") {
        std::thread::sleep(Duration::from_millis(20));
    }
    // what was done before is not done again
    one.edit("images/app/1-dev/Dockerfile", "; sleep 86401", "");
    let next = site.events(&one.root, &["push", "//..."]).done();
    assert!(!next.story().contains("//app:1 done") && next.story().contains("//app:1-dev done"), "{}", next.story());
}

#[test]
fn interrupted_while_it_tests() {
    let Some(site) = Site::start("interrupted_while_it_tests", true) else { return };
    let one = site.catalogue();
    one.edit("images/app/BUILD.ron", "\"test -s /app/full\"", "\"echo it has begun; sleep 86402\"");
    let run = Endless::start(&site, &one, "test", "86402");
    assert_eq!(site.containers(), 1);
    run.interrupt();
    let ran = run.end().code(130);
    assert_eq!(closed(&ran)["//app:1-full[test/full]"], Outcome::Cancelled);
    assert_eq!((site.containers(), runs("86402")), (0, false));
    one.edit("images/app/BUILD.ron", "; sleep 86402", "");
    let next = site.events(&one.root, &["test", "//app:1-full"]).done();
    assert!(!next.story().contains("//app:1-full done") && next.story().contains("//app:1-full[test/full] done"), "{}", next.story());
}

#[test]
fn two_at_once() {
    let Some(site) = Site::start("two_at_once", false) else { return };
    let one = site.catalogue();
    one.edit("images/app/1/Dockerfile", "COPY hello", "RUN echo it has begun; sleep 86403\nCOPY hello");
    let first = Endless::start(&site, &one, "build", "86403");
    let refused = site.igraph(&one.root, &["build", "//app:2", "--no-wait"]).code(10);
    assert!(refused.err.contains(&format!("{}", first.child.id())), "{}", refused.err);
    // who only looks waits for nobody
    site.igraph(&one.root, &["build", "//app:2", "-n"]).done();
    site.igraph(&one.root, &["targets"]).done();
    site.igraph(&one.root, &["log", "list"]).done();

    let mut second = site.command(&one.root, &["build", "//app:2"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(second.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("waiting for another igraph") && line.contains(&format!("{}", first.child.id())), "{line}");
    first.interrupt();
    first.end().code(130);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(second.wait().unwrap().success() && rest.contains("1 built"), "{rest}");
}
