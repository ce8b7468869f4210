//! Names: what they wait for, who else moves them, and what a killed run left.

use igraph::clock::Timestamp;
use igraph::digest::Digest;
use igraph::graph::Depth;
use igraph::record::{JournalGroup, JournalName};

use crate::house::{House, MANIFEST};

fn family() -> House {
    let house = House::new();
    house.write(
        "p/BUILD.ron",
        r#"Package(rules: [
            Test(name: "smoke", run: ["true"]), Test(name: "deep", run: ["true"]),
            Image(name: "parent", dockerfile: "parent", tests: [":smoke", ":deep"], aliases: ["old"]),
            Image(name: "child", dockerfile: "child", tests: [":smoke"], aliases: ["new", "{host}/elsewhere/child:1"]),
            Image(name: "other", dockerfile: "other", tests: [":smoke"]),
        ])"#,
    );
    house.write("p/parent", "FROM scratch\nRUN parent\n");
    house.write("p/child", "FROM {host}/p:parent\nRUN child\n");
    house.write("p/other", "FROM scratch\nRUN other\n");
    house
}

fn break_deep(house: &House, command: &str) {
    let text = std::fs::read_to_string(house.path("p/BUILD.ron")).unwrap();
    let start = text.find(r#"Test(name: "deep", run: [""#).unwrap() + r#"Test(name: "deep", run: [""#.len();
    let end = start + text[start..].find('"').unwrap();
    house.write("p/BUILD.ron", &format!("{}{command}{}", &text[..start], &text[end..]));
}

#[test]
fn a_failed_test_blocks_the_names_of_its_image_and_of_all_that_stands_on_it() {
    let house = family();
    assert_eq!(house.run(Depth::Push).of("//p:child[push/new]"), "ran");
    let before = house.named("p", "child");
    break_deep(&house, "exit 1");
    house.write("p/parent", "FROM scratch\nRUN parent 2\n");
    house.write("p/other", "FROM scratch\nRUN other 2\n");
    let ran = house.run(Depth::Push);
    assert_eq!((ran.of("//p:child").as_str(), ran.of("//p:child[test/smoke]").as_str()), ("ran", "ran"));
    for step in ["//p:parent[push/parent]", "//p:parent[tag/old]", "//p:child[push/child]", "//p:child[push/new]", "//p:child[tag/child]"] {
        assert_eq!(ran.of(step), "skipped: //p:parent[test/deep]", "{step}");
    }
    assert_eq!(ran.of("//p:other[push/other]"), "ran");
    assert_eq!(house.named("p", "child"), before);
    break_deep(&house, "true");
    assert_eq!(house.run(Depth::Push).of("//p:child[push/new]"), "ran");
    assert_ne!(house.named("p", "child"), before);
}

#[test]
fn a_name_asked_for_alone_waits_for_every_test_below() {
    let house = family();
    break_deep(&house, "exit 1");
    let ran = house.run_of(Depth::Push, &["//p:child[push/new]", "//p:parent[test/smoke]"], &Default::default());
    assert_eq!(ran.of("//p:child[push/new]"), "skipped: //p:parent[test/deep]");
    assert_eq!(house.named("p", "new"), None);
    // tests alone are what was asked for
    let ran = house.run_of(Depth::Test, &["//p:parent[test/smoke]"], &Default::default());
    assert_eq!(ran.of("//p:parent[test/deep]"), "no //p:parent[test/deep]");
}

#[test]
fn an_image_without_a_test_is_built_and_not_named() {
    let house = House::new();
    house.write("p/BUILD.ron", r#"Package(rules: [Image(name: "1"), Image(name: "2", untested: "empty")])"#);
    house.write("p/Dockerfile", "FROM scratch\nRUN true\n");
    let ran = house.run(Depth::Push);
    assert_eq!(ran.of("//p:1[push/1]"), "blocked: no test applies to it, and it does not say `untested: \"why\"`");
    assert_eq!(ran.image("//p:1"), ran.image("//p:2"));
    assert_eq!(ran.of("//p:2[push/2]"), "ran");
    assert_eq!(house.named("p", "1"), None);
}

#[test]
fn all_names_are_one_manifest_and_the_second_run_asks_nobody() {
    let house = family();
    house.run(Depth::Push);
    let child = house.named("p", "child");
    assert!(child.is_some());
    assert_eq!((house.named("p", "new"), house.named("elsewhere/child", "1")), (child, child));
    house.registry.take_requests();
    let ran = house.run(Depth::Push);
    assert_eq!((ran.not_fresh(), ran.calls.len(), house.registry.take_requests().len()), (Vec::new(), 0, 0));
}

#[test]
fn what_someone_else_moved_is_told_once_and_then_moved_back() {
    let house = family();
    house.run(Depth::Push);
    let (ours, foreign) = (house.named("p", "new"), b"{\"schemaVersion\":2}");
    for round in 0..2 {
        house.registry.add_manifest("p", "new", MANIFEST, foreign);
        let told = house.run_of(Depth::Push, &["//..."], &crate::house::How { verify: true, ..Default::default() });
        assert!(told.of("//p:child[push/new]").contains("was moved by someone else"), "round {round}: {:?}", told.not_fresh());
        assert_eq!(told.not_fresh().iter().filter(|step| step.contains("failed")).count(), 1);
        assert_eq!(house.named("p", "new"), Some(Digest::of(foreign)), "it was overwritten unasked");
        let next = house.run(Depth::Push);
        assert_eq!(next.not_fresh(), ["//p:child[push/new] ran"]);
        assert_eq!(house.named("p", "new"), ours);
        assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0], "round {round}");
    }
}

#[test]
fn what_a_kill_left_half_moved_is_finished_once() {
    let house = family();
    let ran = house.run(Depth::Push);
    let name = |text: &str| JournalName {
        name: format!("{}/p:{text}", house.registry.host()).parse().unwrap(),
        node: format!("//p:child[push/{text}]").parse().unwrap(),
        before: None,
        written: false,
    };
    let group = JournalGroup {
        node: "//p:child".parse().unwrap(),
        image: ran.image("//p:child"),
        manifest: Some(Digest::of(b"{\"schemaVersion\":2}")),
        run: "dead".to_owned(),
        at: Timestamp(1),
        names: vec![name("child"), name("new")],
    };
    house.state().journal_open(&group).unwrap();
    // the dead run had written one of them
    let ours = house.named("p", "child");
    house.registry.add_manifest("p", "new", MANIFEST, b"{\"schemaVersion\":2}");
    let next = house.run(Depth::Push);
    assert_eq!(
        (next.of("//p:child[push/child]").as_str(), next.of("//p:child[push/new]").as_str()),
        ("ran", "ran"),
        "{:?}",
        next.not_fresh()
    );
    assert_eq!((house.named("p", "child"), house.named("p", "new")), (ours, ours));
    assert_eq!(house.state().journal().unwrap(), []);
    assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0]);
}

#[test]
fn a_push_cut_short_and_taken_up_again_leaves_nothing_in_flight() {
    let house = family();
    // the first name moves, the second meets a registry that is down for a moment
    let answer = crate::registry::Action::Answer { status: 500, headers: Vec::new(), body: String::new() };
    house.registry.rule(crate::registry::Rule { method: "PUT", path: "/manifests/new", skip: 0, times: 1, action: answer });
    let ran = house.run(Depth::Push);
    assert_eq!(ran.of("//p:child[push/new]"), "ran", "{:?}", ran.not_fresh());
    assert_eq!(house.state().journal().unwrap(), []);
    assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0]);
}

#[test]
fn names_that_moved_before_a_push_failed_are_told_to_have_moved() {
    let house = family();
    let answer = crate::registry::Action::Answer { status: 403, headers: Vec::new(), body: String::new() };
    house.registry.rule(crate::registry::Rule { method: "PUT", path: "/manifests/new", skip: 0, times: 9, action: answer });
    let ran = house.run(Depth::Push);
    assert_eq!(ran.of("//p:child[push/child]"), "ran");
    assert!(ran.of("//p:child[push/new]").starts_with("failed"), "{:?}", ran.not_fresh());
    assert_eq!(house.named("p", "child"), house.named("p", "child").filter(|_| house.named("p", "new").is_none()));
}
