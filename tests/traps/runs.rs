//! Runs: what is recorded when, what ends how, and that every step ends once.

use std::sync::Arc;
use std::time::Duration;

use igraph::engine::fake::Call;
use igraph::event::{Event, Outcome};
use igraph::failure::Failure;
use igraph::graph::Depth;

use crate::house::{House, How};

fn pair(one: &str, two: &str) -> House {
    let house = House::new();
    house.package(r#"Image(name: "1", tests: [":smoke"], dockerfile: "one"), Image(name: "2", tests: [":smoke"], dockerfile: "two")"#);
    house.write("p/one", one);
    house.write("p/two", two);
    house
}

#[test]
fn failed_steps_recorded_as_done() {
    let house = pair("FROM scratch\nRUN exit 3\n", "FROM scratch\nRUN true\n");
    let ran = house.run(Depth::Test);
    assert_eq!(ran.of("//p:1"), "failed: exit 3 at RUN exit 3 (p/one:2)");
    assert_eq!(ran.of("//p:1[test/smoke]"), "skipped: //p:1");
    let again = house.run(Depth::Test);
    assert!(again.of("//p:1").starts_with("failed: exit 3"));
    assert!(again.reasons("//p:1")[0].starts_with("failed in run "), "{:?}", again.reasons("//p:1"));
    assert_eq!(again.of("//p:2[test/smoke]"), "fresh");
}

#[test]
fn records_only_when_all_succeed() {
    let house = pair("FROM scratch\nRUN true\n", "FROM scratch\nRUN exit 1\n");
    house.run(Depth::Test);
    let ran = house.run(Depth::Test);
    assert_eq!((ran.of("//p:1").as_str(), ran.of("//p:1[test/smoke]").as_str()), ("fresh", "fresh"));
    assert!(ran.of("//p:2").starts_with("failed"));
}

#[test]
fn ctrl_c_ends_every_step_once_and_keeps_what_was_done() {
    let house = pair("FROM scratch\nRUN true\n", "FROM {host}/p:1\nRUN sleep 600\n");
    let how = How { jobs: Some(1), ..How::default() };
    let cancel = how.cancel.clone();
    let how = How {
        on_attempt: Some(Arc::new(move |step| {
            if step == "//p:2" {
                cancel.cancel();
            }
        })),
        ..how
    };
    let ran = house.run_of(Depth::Push, &["//..."], &how);
    assert!(ran.end.stopped);
    assert_eq!(ran.of("//p:1"), "ran");
    assert_eq!((ran.of("//p:2").as_str(), ran.of("//p:2[test/smoke]").as_str()), ("cancelled", "cancelled"));
    assert!(ran.terminal().values().all(|times| *times == 1), "{:?}", ran.terminal());
    assert_eq!(ran.terminal().len(), ran.end.steps.len());
    house.write("p/two", "FROM {host}/p:1\nRUN sleep 0\n");
    let next = house.run(Depth::Push);
    assert_eq!((next.of("//p:1").as_str(), next.of("//p:2").as_str()), ("fresh", "ran"));
    assert_eq!(next.reasons("//p:2"), ["no result yet"], "a cancelled step was recorded");
}

#[test]
fn the_first_failure_stops_the_rest_where_that_is_asked_for() {
    let house = pair("FROM scratch\nRUN exit 1\n", "FROM scratch\nRUN true\n");
    let ran = house.run_of(Depth::Push, &["//..."], &How { jobs: Some(1), fail_fast: true, ..How::default() });
    assert!(ran.end.stopped && ran.of("//p:1").starts_with("failed"));
    assert_eq!(ran.of("//p:2"), "cancelled");
    assert!(ran.terminal().values().all(|times| *times == 1), "{:?}", ran.terminal());
}

#[test]
fn going_back_is_a_hit() {
    let house = pair("FROM scratch\nRUN date\n", "FROM {host}/p:1\nRUN true\n");
    let first = house.run(Depth::Push);
    let (one, two, manifest) = (first.image("//p:1"), first.image("//p:2"), house.named("p", "2"));
    house.write("p/one", "FROM scratch\nRUN date 2\n");
    assert_ne!(house.run(Depth::Push).image("//p:2"), two);
    assert_ne!(house.named("p", "2"), manifest);
    house.write("p/one", "FROM scratch\nRUN date\n");
    let back = house.run(Depth::Push);
    assert_eq!((back.image("//p:1"), back.image("//p:2"), back.built()), (one, two, Vec::new()));
    assert!(!back.calls.iter().any(|call| matches!(call, Call::Test { .. })), "{:?}", back.calls);
    assert_eq!(house.named("p", "2"), manifest);
    let warned =
        back.events.iter().any(|event| matches!(event, Event::Warning { message, .. } if message.contains("goes back to the image of")));
    assert!(warned, "that a name goes back was not said");
    assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0]);
}

#[test]
fn a_plan_does_not_say_run_of_what_may_be_a_hit() {
    let house = pair("FROM scratch\nRUN true\n", "FROM scratch\nCOPY --from={host}/p:1 /a /a\n");
    house.run(Depth::Test);
    let first = "FROM scratch\nCOPY --from={host}/p:1 /a /a\n";
    house.write("p/two", "FROM scratch\nCOPY --from={host}/p:1 /a /b\n");
    house.run(Depth::Test);
    house.write("p/one", "FROM scratch\nRUN another\n");
    house.write("p/two", first);
    assert_eq!(house.plan(Depth::Test, &["//..."]).unwrap()["//p:2"], "maybe: when //p:1 is settled");
    house.write("p/two", "FROM scratch\nCOPY --from={host}/p:1 /a /c\n");
    assert_eq!(house.plan(Depth::Test, &["//..."]).unwrap()["//p:2"], "run: p/two changed");
}

#[test]
fn a_rebuild_that_gives_the_same_ends_there() {
    let house = House::new();
    house.package(
        r#"Base(name: "b", provides: ["made:1"], from: Command(["./make", "{out}"]), inputs: ["make", "note"]), Image(name: "1", tests: [":smoke"])"#,
    );
    house.write(
        "p/make",
        "#!/bin/sh\nset -eu\ncd \"$TMPDIR\"\necho x > file\ntar --sort=name --mtime=@0 --owner=0 --group=0 -cf \"$1\" file\n",
    );
    std::fs::set_permissions(house.path("p/make"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    house.write("p/note", "1");
    house.write("p/Dockerfile", "FROM made:1\nRUN true\n");
    house.run(Depth::Test);
    house.write("p/note", "2");
    let plan = house.plan(Depth::Test, &["//..."]).unwrap();
    assert_eq!((plan["//p:b"].as_str(), plan["//p:1"].as_str()), ("run: p/note changed", "maybe: when //p:b is settled"));
    assert_eq!(house.run(Depth::Test).not_fresh(), ["//p:b ran"]);
}

#[test]
fn a_run_after_an_infra_failure_trusts_no_instruction_cache() {
    let house = pair("FROM scratch\nRUN apt-get update\n", "FROM scratch\nRUN true\n");
    let ignored = || Failure::infra("`W: Some index files failed to download` at RUN apt-get update");
    house.engine.fail("p-1", [ignored(), ignored()]);
    assert!(house.run(Depth::Build).of("//p:1").starts_with("failed: `W: Some index files"));
    let ran = house.run(Depth::Build);
    let cached: Vec<bool> = ran
        .calls
        .iter()
        .filter_map(|call| match call {
            Call::Build { no_cache, .. } => Some(*no_cache),
            _ => None,
        })
        .collect();
    assert_eq!((ran.of("//p:1").as_str(), cached), ("ran", vec![true]));
}

#[test]
fn a_step_that_failed_by_itself_keeps_the_cache() {
    let house = pair("FROM scratch\nRUN exit 1\n", "FROM scratch\nRUN true\n");
    house.run(Depth::Build);
    let ran = house.run(Depth::Build);
    assert!(ran.calls.iter().any(|call| matches!(call, Call::Build { no_cache: false, .. })), "{:?}", ran.calls);
}

#[test]
fn two_images_of_one_key_are_one_build() {
    let house = House::new();
    house.package(r#"Image(name: "1", tests: [":smoke"]), Image(name: "2", tests: [":smoke"]), Image(name: "3", tests: [":smoke"])"#);
    house.write("p/Dockerfile", "FROM scratch\nRUN date\n");
    let ran = house.run(Depth::Push);
    assert_eq!(ran.built().len(), 1);
    assert_eq!((ran.image("//p:1"), ran.image("//p:2")), (ran.image("//p:3"), ran.image("//p:3")));
    assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0]);
    // one by one, as well
    house.write("p/Dockerfile", "FROM scratch\nRUN date 2\n");
    assert_eq!(house.run_of(Depth::Push, &["//..."], &How { jobs: Some(1), ..How::default() }).built().len(), 1);
    assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0]);
}

#[test]
fn a_flaky_test_is_said_to_be_one_and_passes() {
    let house = pair("FROM scratch\nRUN true\n", "FROM scratch\nRUN true\nRUN true\n");
    house.engine.fail("p-1-smoke", [Failure::infra("connection reset by peer")]);
    let ran = house.run(Depth::Push);
    assert_eq!((ran.of("//p:1[test/smoke]").as_str(), ran.of("//p:1[push/1]").as_str()), ("flaky", "ran"));
}

#[test]
fn a_test_that_fails_by_itself_is_tried_again_where_that_is_asked_for() {
    let house = pair("FROM scratch\nRUN true\n", "FROM scratch\nRUN true\nRUN true\n");
    house.engine.fail("p-1-smoke", [Failure::step("exit 1")]);
    assert_eq!(house.run(Depth::Test).of("//p:1[test/smoke]"), "failed: exit 1");
    house.engine.fail("p-1-smoke", [Failure::step("exit 1")]);
    let ran = house.run_of(Depth::Test, &["//..."], &How { retries: Some(1), ..How::default() });
    assert_eq!(ran.of("//p:1[test/smoke]"), "flaky");
    house.package(r#"Test(name: "own", run: ["exit 0"], retries: 1), Image(name: "1", dockerfile: "one", tests: [":own"])"#);
    house.engine.fail("p-1-own", [Failure::step("exit 1")]);
    assert_eq!(house.run(Depth::Test).of("//p:1[test/own]"), "flaky");
}

#[test]
fn verify_finds_what_is_gone_and_says_nothing_where_it_cannot_ask() {
    let house = pair("FROM scratch\nRUN true\n", "FROM {host}/p:1\nRUN true\n");
    let one = house.run(Depth::Build).image("//p:1");
    let verify = How { verify: true, ..How::default() };
    assert_eq!(house.run_of(Depth::Build, &["//..."], &verify).not_fresh(), [""; 0]);
    house.engine.lose(one);
    let ran = house.run_of(Depth::Build, &["//..."], &verify);
    assert_eq!(ran.not_fresh(), ["//p:1 ran"]);
    house.run(Depth::Push);
    let answer = crate::registry::Action::Answer { status: 503, headers: Vec::new(), body: String::new() };
    house.registry.rule(crate::registry::Rule { method: "HEAD", path: "/manifests/", skip: 0, times: 1000, action: answer });
    let ran = house.run_of(Depth::Push, &["//..."], &verify);
    assert!(ran.of("//p:1[push/1]").starts_with("failed: "), "{:?}", ran.not_fresh());
}

#[test]
fn what_runs_together_ends_once_whatever_fails() {
    let house = pair("FROM scratch\nRUN true\n", "FROM scratch\nCOPY --from={host}/p:1 /a /a\n");
    house.engine.delay("p-1", Duration::from_millis(5));
    house.engine.fail("p-1", [Failure::step("exit 1")]);
    let ran = house.run(Depth::Push);
    assert!(ran.terminal().values().all(|times| *times == 1), "{:?}", ran.terminal());
    let finished = ran.events.iter().filter(|event| matches!(event, Event::NodeFinished { .. })).count();
    assert_eq!(finished, ran.end.steps.len());
    for (label, _, outcome, _) in &ran.end.steps {
        assert!(!matches!(outcome, Outcome::Fresh | Outcome::Succeeded { .. }), "{label} {outcome:?}");
    }
}
