//! The laws, tried on workspaces made at random: nothing untested is named, every step ends once, the second run does nothing; and
//! keys that are the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use igraph::digest::Digest;
use igraph::event::{Event, NodeKind, Outcome};
use igraph::failure::Failure;
use igraph::graph::Depth;
use igraph::label::NodeLabel;
use igraph::record::Verdict;
use proptest::prelude::*;

use crate::house::{House, How, Ran, copy};
use crate::registry::{Action, Registry, Rule};

#[test]
fn keys_are_the_same_in_another_folder_under_another_umask() {
    let registry = Arc::new(Registry::start());
    let house = House::beside(registry.clone(), "one");
    house.base("base", "1", "base", "");
    house.package(
        r#"Image(name: "1", tests: [":smoke", ":deep"], args: {"V": "1"}), Test(name: "deep", dockerfile: "deep/Dockerfile"),
           Base(name: "b", provides: ["made:1"], from: Command(["./make", "{out}"]), inputs: ["make"])"#,
    );
    house.write(
        "p/make",
        "#!/bin/sh\nset -eu\ncd \"$TMPDIR\"\necho x > file\ntar --sort=name --mtime=@0 --owner=0 --group=0 -cf \"$1\" file\n",
    );
    house.write("p/Dockerfile", "FROM {host}/base:1 AS x\nFROM made:1\nARG V\nCOPY app /app\nCOPY --from=x /salt /salt\n");
    house.write("p/deep/Dockerfile", "COPY t /t\nRUN /t\n");
    house.write("p/deep/t", "1");
    for name in ["z", "a", "m/n"] {
        house.write(&format!("p/app/{name}"), name);
    }
    let mode = |house: &House, path: &str, mode| {
        std::fs::set_permissions(house.path(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&house, "p/make", 0o755);
    house.run(Depth::Push);

    let other = House::beside(registry, "another name, with a longer path");
    copy(&house.root, &other.root);
    for path in ["p/app/a", "p/app/z", "p/deep/t"] {
        mode(&other, path, 0o600);
        let file = std::fs::File::options().write(true).open(other.path(path)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    for folder in ["p", "p/app", "p/app/m"] {
        mode(&other, folder, 0o700);
    }
    mode(&other, "p/make", 0o700);
    other.run_of(Depth::Push, &["//..."], &How { jobs: Some(1), ..How::default() });
    for step in ["//p:b", "//p:1", "//p:1[test/smoke]", "//p:1[test/deep]", "//p:1[push/1]"] {
        let (key, components) = house.key(step);
        assert_eq!((key, components.clone()), other.key(step), "{step}");
        let paths = [house.root.to_str().unwrap(), "/tmp"];
        assert!(!components.iter().any(|(name, value)| paths.iter().any(|path| name.contains(path) || value.contains(path))));
    }
}

/// L4, for the whole program: neither who asks, nor when and where, nor what is set, is in a key.
#[test]
fn keys_know_nothing_of_who_asks() {
    let house = House::image("FROM scratch\nARG V=1\nCOPY f /f\nRUN x\n");
    house.write("p/f", "f");
    // tempfile's folders are their owner's alone
    std::fs::set_permissions(house.root.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let keys = |words: &[&str], variables: &[(&str, &str)]| {
        let igraph = [env!("CARGO_BIN_EXE_igraph"), "-C", house.root.to_str().unwrap(), "targets", "--show-key", "//..."];
        let argv = [words, &igraph].concat();
        let mut command = std::process::Command::new(argv[0]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let output = command.args(&argv[1..]).env_clear().env("PATH", path).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{argv:?} {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = keys(&[], &[]);
    assert!(plain.ends_with(" //p:1\n") && plain.chars().take(64).all(|digit| digit.is_ascii_hexdigit()), "{plain}");
    let variables = [
        ("LC_ALL", "de_DE.UTF-8"),
        ("TZ", "Pacific/Apia"),
        ("HOME", "/nowhere"),
        ("USER", "somebody"),
        ("HOSTNAME", "elsewhere"),
        ("HTTP_PROXY", "http://proxy:1"),
        ("https_proxy", "http://proxy:2"),
        ("DOCKER_HOST", "tcp://127.0.0.1:1"),
        ("SOURCE_DATE_EPOCH", "1"),
        ("V", "2"),
        ("CI", "1"),
    ];
    assert_eq!(keys(&[], &variables), plain);
    assert_eq!(keys(&["sh", "-c", "umask 077; exec \"$@\"", "sh"], &[]), plain);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(keys(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], &[]), plain);
        assert_eq!(keys(&["unshare", "--uts", "sh", "-c", "hostname elsewhere; exec \"$@\"", "sh"], &[]), plain);
    }
}

/// An image of a random catalogue.
#[derive(Clone, Debug)]
struct Shape {
    /// Images before it that it starts from, or copies from.
    parents: BTreeSet<usize>,
    /// Its RUN can't be repeated.
    dated: bool,
    /// Its tests, of three.
    tests: BTreeSet<usize>,
    aliases: usize,
}

/// What happens before a run.
#[derive(Clone, Debug)]
enum Change {
    Edit(usize, u8),
    /// A test's command, by its exit code.
    Test(usize, u8),
    /// The next attempts of this image fail.
    Fail(usize, bool),
    FailTest(usize, usize),
    /// The engine has none of its images any more.
    Prune,
    /// The registry answers some writes of names with an error.
    Refuse(usize),
    /// It resets connections.
    Reset,
    Cancel(usize),
    FailFast,
    Force,
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    (2_usize..7).prop_flat_map(|len| {
        (0..len)
            .map(|at| {
                (
                    proptest::collection::btree_set(0..at.max(1), 0..3.min(at + 1)),
                    any::<bool>(),
                    proptest::collection::btree_set(0_usize..3, 1..3),
                    0_usize..3,
                )
                    .prop_map(move |(parents, dated, tests, aliases)| Shape {
                        parents: parents.into_iter().filter(|parent| *parent < at).collect(),
                        dated,
                        tests,
                        aliases,
                    })
            })
            .collect::<Vec<_>>()
    })
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = prop_oneof![
        4 => (0_usize..7, 0_u8..3).prop_map(|(at, text)| Change::Edit(at, text)),
        2 => (0_usize..3, prop_oneof![Just(0_u8), Just(1), Just(2)]).prop_map(|(test, code)| Change::Test(test, code)),
        2 => (0_usize..7, any::<bool>()).prop_map(|(at, infra)| Change::Fail(at, infra)),
        2 => (0_usize..7, 0_usize..3).prop_map(|(at, test)| Change::FailTest(at, test)),
        1 => Just(Change::Prune),
        1 => (0_usize..6).prop_map(Change::Refuse),
        1 => Just(Change::Reset),
        1 => (0_usize..12).prop_map(Change::Cancel),
        1 => Just(Change::FailFast),
        1 => Just(Change::Force),
    ];
    proptest::collection::vec(proptest::collection::vec(change, 0..4), 1..5)
}

struct Catalogue<'a> {
    house: &'a House,
    shapes: &'a [Shape],
    texts: Vec<u8>,
    tests: [u8; 3],
    runs: Vec<String>,
}

impl Catalogue<'_> {
    fn write(&self) {
        let mut rules: Vec<String> = self
            .tests
            .iter()
            .enumerate()
            // what a test says is in its key, whether it passes or not
            .map(|(at, code)| format!(r#"Test(name: "t{at}", run: ["test {at} && exit {}", "state {code}"])"#, u8::from(*code == 1)))
            .collect();
        for (at, shape) in self.shapes.iter().enumerate() {
            let tests: Vec<String> = shape.tests.iter().map(|test| format!("\":t{test}\"")).collect();
            let aliases: Vec<String> = (0..shape.aliases).map(|alias| format!("\"a{at}-{alias}\"")).collect();
            rules.push(format!(
                r#"Image(name: "i{at}", dockerfile: "i{at}", tests: [{}], aliases: [{}])"#,
                tests.join(", "),
                aliases.join(", ")
            ));
            let mut parents = shape.parents.iter();
            let from = parents.next().map_or("scratch".to_owned(), |parent| format!("{{host}}/p:i{parent}"));
            let copies: String = parents.map(|parent| format!("COPY --from={{host}}/p:i{parent} /x /x\n")).collect();
            let run = if shape.dated { "date" } else { "make" };
            self.house.write(&format!("p/i{at}"), &format!("FROM {from}\n{copies}RUN {run} {at} {}\n", self.texts[at]));
        }
        self.house.write("p/BUILD.ron", &format!("Package(rules: [{}])", rules.join(", ")));
    }

    /// The tags of an image.
    fn tags(&self, at: usize) -> Vec<String> {
        std::iter::once(format!("i{at}")).chain((0..self.shapes[at].aliases).map(|alias| format!("a{at}-{alias}"))).collect()
    }

    /// What the tags of all images point at.
    fn named(&self) -> BTreeMap<String, Digest> {
        let tags = (0..self.shapes.len()).flat_map(|at| self.tags(at));
        tags.filter_map(|tag| self.house.named("p", &tag).map(|manifest| (tag, manifest))).collect()
    }

    /// L1: every name that the last run moved points at an image for which the tests that it needs had passed, as they are defined now;
    /// in the registry and locally.
    fn check_names(&self, before: &BTreeMap<String, Digest>) {
        let state = self.house.state();
        // by image and test: the commands that passed
        let mut passed: BTreeMap<(Digest, String), String> = BTreeMap::new();
        for result in self.runs.iter().flat_map(|run| state.results_of_run(run).unwrap()) {
            if let (NodeKind::Test, true, Some(image)) = (result.kind, result.verdict != Verdict::Failed, &result.image) {
                let commands = result.components.iter().filter(|part| part.name.starts_with("command "));
                passed.entry((image.id.0, result.node.to_string())).or_default().extend(commands.map(|part| format!("{} ", part.value)));
            }
        }
        let check = |at: usize, name: &str, image: Digest| {
            for test in &self.shapes[at].tests {
                let (step, state) = (format!("//p:i{at}[test/t{test}]"), format!("state {}\"", self.tests[*test]));
                let commands = passed.get(&(image, step.clone())).cloned().unwrap_or_default();
                assert!(commands.contains(&state), "{name} is {image}, for which {step} has not passed with `{state}: {commands}");
            }
        };
        let now = self.named();
        for at in 0..self.shapes.len() {
            for tag in self.tags(at) {
                let Some(manifest) = now.get(&tag).filter(|manifest| before.get(&tag) != Some(manifest)) else { continue };
                let bytes = self.house.registry.manifest_bytes("p", *manifest).unwrap();
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                check(at, &tag, value["config"]["digest"].as_str().unwrap().parse().unwrap());
            }
        }
        let last = self.runs.last().unwrap();
        for result in state.results_of_run(last).unwrap() {
            if let (NodeKind::Tag, NodeLabel::Tag(label, written), Some(image)) = (result.kind, &result.node, &result.image) {
                let at = label.name.as_str().trim_start_matches('i').parse().unwrap();
                check(at, &format!("local {written}"), image.id.0);
            }
        }
    }
}

/// L7 and L8: what ran, or did not, says why, and every attempt has a log of its own and its end.
fn check_told(ran: &Ran) {
    let (mut logs, mut attempts, mut failed) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for event in &ran.events {
        match event {
            Event::AttemptStarted { node, log, .. } => {
                assert!(logs.insert(log.clone()), "two attempts in {log}");
                *attempts.entry(node.clone()).or_insert(0) += 1;
            }
            Event::AttemptFailed { node, failure, .. } => {
                assert!(!failure.message.is_empty());
                *failed.entry(node.clone()).or_insert(0) += 1;
            }
            Event::NodeFinished { node, outcome, reasons, attempts: told, .. } => {
                match outcome {
                    Outcome::Succeeded { .. } | Outcome::Flaky { .. } | Outcome::Failed { .. } => {
                        assert!(!reasons.is_empty(), "{node} {outcome:?} for no reason");
                    }
                    Outcome::Skipped { .. } | Outcome::Blocked { .. } | Outcome::Cancelled | Outcome::Fresh => {}
                }
                let (begun, broken) = (attempts.get(node).copied().unwrap_or(0), failed.get(node).copied().unwrap_or(0));
                // names are moved as a group, whose attempts are those of its first
                if matches!(node, NodeLabel::Entry(_) | NodeLabel::Test(..)) {
                    let passed = u32::from(matches!(outcome, Outcome::Succeeded { .. } | Outcome::Flaky { .. }));
                    // one that finds what it stands on gone has a log, and is no try of the step
                    assert!(*told <= begun, "{node} {outcome:?}: {told} of {begun}");
                    assert!(broken + passed <= begun.max(passed), "{node} {outcome:?}: {broken} of {begun}");
                    assert!(!matches!(outcome, Outcome::Failed { .. }) || broken >= (*told).min(1), "{node}: {broken} of {told}");
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_name_moves_to_an_untested_image_and_every_step_ends_once(shapes in shapes(), rounds in changes()) {
        let house = House::new();
        let mut catalogue = Catalogue { house: &house, shapes: &shapes, texts: vec![0; shapes.len()], tests: [0; 3], runs: Vec::new() };
        for changes in rounds {
            let mut how = How::default();
            for change in changes {
                match change {
                    Change::Edit(at, text) => catalogue.texts[at % shapes.len()] = text,
                    Change::Test(test, code) => catalogue.tests[test] = code,
                    Change::Fail(at, infra) => {
                        let failure = if infra { Failure::infra("reset") } else { Failure::step("exit 1") };
                        house.engine.fail(&format!("p-i{}", at % shapes.len()), [failure]);
                    }
                    Change::FailTest(at, test) => house.engine.fail(&format!("p-i{}-t{test}", at % shapes.len()), [Failure::step("exit 9")]),
                    Change::Prune => house.engine.holds().into_iter().for_each(|image| house.engine.lose(image)),
                    Change::Refuse(skip) => {
                        let action = Action::Answer { status: 500, headers: Vec::new(), body: String::new() };
                        house.registry.rule(Rule { method: "PUT", path: "/manifests/", skip, times: 2, action });
                    }
                    Change::Reset => house.registry.rule(Rule { method: "", path: "/blobs/", skip: 2, times: 1, action: Action::Reset }),
                    Change::Cancel(after) => {
                        let (cancel, left) = (how.cancel.clone(), std::sync::atomic::AtomicUsize::new(after));
                        how.on_attempt = Some(Arc::new(move |_| {
                            if left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                                cancel.cancel();
                            }
                        }));
                    }
                    Change::FailFast => how.fail_fast = true,
                    Change::Force => how.force = true,
                }
            }
            catalogue.write();
            let before = catalogue.named();
            let ran = house.run_of(Depth::Push, &["//..."], &how);
            check_told(&ran);
            let terminal = ran.terminal();
            prop_assert!(terminal.values().all(|times| *times == 1), "{:?}", terminal);
            prop_assert_eq!(terminal.len(), ran.end.steps.len());
            catalogue.runs.push(ran.run);
            catalogue.check_names(&before);
        }
        // once nothing fails any more, all is named; and then there is nothing to do
        catalogue.tests = [2; 3];
        catalogue.write();
        for _ in 0..3 {
            let before = catalogue.named();
            catalogue.runs.push(house.run(Depth::Push).run);
            catalogue.check_names(&before);
        }
        // L2: all names of an image are one manifest
        let named = catalogue.named();
        for at in 0..shapes.len() {
            let manifests: BTreeSet<Option<&Digest>> = catalogue.tags(at).iter().map(|tag| named.get(tag)).collect();
            prop_assert!(manifests.len() == 1 && !manifests.contains(&None), "i{}: {:?}", at, named);
        }
        // L3
        house.registry.take_requests();
        let last = house.run(Depth::Push);
        prop_assert_eq!(last.not_fresh(), Vec::<String>::new());
        prop_assert!(last.calls.is_empty() && house.registry.take_requests().is_empty(), "{:?}", last.calls);
    }
}
