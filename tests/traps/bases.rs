//! Bases and parents: which image a reference means, and what of it counts.

use igraph::engine::fake::Call;
use igraph::graph::{Depth, StandIn};
use igraph::platform::Platform;

use crate::house::{House, How};

fn relock(house: &House) {
    std::fs::remove_file(house.path("igraph.lock")).unwrap();
}

#[test]
fn only_the_last_stages_from() {
    let house = House::new();
    house.base("tools", "1", "tools", "");
    house.base("base", "1", "base", "");
    house.package(r#"Image(name: "1", tests: [":smoke"])"#);
    house.write(
        "p/Dockerfile",
        "FROM {host}/tools:1 AS tools\nFROM {host}/base:1\nCOPY --from=tools /x /x\nCOPY --from={host}/copied:1 /y /y\n",
    );
    house.base("copied", "1", "copied", "");
    assert_eq!(house.run(Depth::Test).of("//p:1"), "ran");
    for base in ["tools", "base", "copied"] {
        house.base(base, "1", "another", "");
        assert_eq!(house.run(Depth::Test).not_fresh(), [""; 0], "an ordinary run asked the registry");
        relock(&house);
        let reasons = house.run(Depth::Test).reasons("//p:1");
        assert!(reasons.len() == 1 && reasons[0].contains(&format!("//{base}:1 moved: ")), "{reasons:?}");
    }
}

#[test]
fn the_index_digest_of_a_base_with_many_platforms() {
    let host = Platform::host();
    let house = House::image("FROM {host}/base:1\nRUN true\n");
    house.index("base", "1", &[(host.architecture(), "ours"), ("s390x", "one")]);
    assert_eq!(house.run(Depth::Test).of("//p:1"), "ran");
    house.index("base", "1", &[(host.architecture(), "ours"), ("s390x", "two")]);
    relock(&house);
    let ran = house.run(Depth::Test);
    assert_eq!(ran.of("//p:1"), "fresh", "another architecture landed, and this one was built again");
    house.index("base", "1", &[(host.architecture(), "new"), ("s390x", "two")]);
    relock(&house);
    assert_eq!(house.run(Depth::Test).of("//p:1"), "ran");
}

#[test]
fn a_tag_resolved_again_at_build_time() {
    let house = House::image("FROM {host}/base:1\nRUN true\n");
    let old = house.base("base", "1", "old", "");
    house.run(Depth::Test);
    let held = house.key("//p:1").1;
    assert!(held.iter().any(|(name, value)| name.starts_with("base ") && *value == old.to_string()), "{held:?}");
    // the tag moves, and the base is gone from the engine: what is built on is what the key says
    house.base("base", "1", "new", "");
    for image in house.engine.holds() {
        house.engine.lose(image);
    }
    house.write("p/Dockerfile", "FROM {host}/base:1\nRUN false || true\n");
    house.registry.take_requests();
    let ran = house.run(Depth::Test);
    assert_eq!(ran.of("//p:1"), "ran");
    let asked: Vec<String> = house.registry.take_requests().into_iter().map(|request| request.path).collect();
    assert!(asked.contains(&format!("/v2/base/manifests/{old}")) && !asked.contains(&"/v2/base/manifests/1".to_owned()), "{asked:?}");
}

#[test]
fn base_names_without_their_paths() {
    let house = House::new();
    house.base("a/base", "1", "a", "");
    house.base("b/base", "1", "b", "");
    house.package(r#"Image(name: "1", tests: [":smoke"], args: {"REPO": "a"}), Image(name: "2", tests: [":smoke"], args: {"REPO": "b"})"#);
    house.write("p/Dockerfile", "ARG REPO\nFROM {host}/$REPO/base:1\nRUN true\n");
    house.run(Depth::Test);
    house.base("b/base", "1", "b2", "");
    relock(&house);
    let ran = house.run(Depth::Test);
    assert_eq!((ran.of("//p:1").as_str(), ran.of("//p:2").as_str()), ("fresh", "ran"));
}

#[test]
fn platform_left_out_for_one_architecture() {
    let host = Platform::host();
    let house = House::new();
    house.index("base", "1", &[(host.architecture(), "ours"), ("s390x", "theirs")]);
    house.package(r#"Image(name: "1", tests: [":smoke"]), Image(name: "2", tests: [":smoke"], platform: "linux/s390x")"#);
    house.write("p/Dockerfile", "FROM {host}/base:1\nRUN true\n");
    let ran = house.run(Depth::Test);
    assert_eq!((ran.of("//p:1").as_str(), ran.of("//p:2").as_str()), ("ran", "ran"), "{:?}", ran.not_fresh());
    let base = |step| house.key(step).1.into_iter().find(|(name, _)| name.starts_with("base ")).unwrap().1;
    assert_eq!(base("//p:1"), house.named("base", "ours").unwrap().to_string());
    assert_eq!(base("//p:2"), house.named("base", "theirs").unwrap().to_string());
    assert_eq!(house.run(Depth::Test).not_fresh(), [""; 0]);
}

#[test]
fn one_dockerfile_that_takes_from_two_platforms() {
    let host = Platform::host();
    let house = House::new();
    house.index("base", "1", &[(host.architecture(), "ours"), ("s390x", "theirs")]);
    house.package(r#"Image(name: "1", tests: [":smoke"], platform: "linux/s390x")"#);
    house.write("p/Dockerfile", "FROM --platform=$BUILDPLATFORM {host}/base:1 AS build\nFROM {host}/base:1\nCOPY --from=build /x /x\n");
    assert_eq!(house.run(Depth::Test).of("//p:1"), "ran");
    let parts = house.key("//p:1").1;
    let value = |wanted: &dyn Fn(&str) -> bool| parts.iter().find(|(name, _)| wanted(name)).map(|(_, value)| value.clone());
    let ours = value(&|name| name.starts_with("base ") && name.ends_with(&format!(" for {host}")));
    let theirs = value(&|name| name.starts_with("base ") && name.ends_with("//base:1"));
    assert_eq!(ours, house.named("base", "ours").map(|digest| digest.to_string()), "{parts:?}");
    assert_eq!(theirs, house.named("base", "theirs").map(|digest| digest.to_string()), "{parts:?}");
}

const FAMILY: &str = r#"
    Image(name: "left", dockerfile: "left", untested: "x"), Image(name: "right", dockerfile: "right", untested: "x"),
    Image(name: "child", dockerfile: "child", tests: [":smoke"])"#;

fn family() -> House {
    let house = House::new();
    house.package(FAMILY);
    house.write("p/left", "FROM scratch\nRUN left\n");
    house.write("p/right", "FROM scratch\nRUN date\n");
    house.write("p/child", "FROM {host}/p:left\nCOPY --from={host}/p:right /x /x\n");
    house
}

#[test]
fn staleness_walked_along_one_branch_only() {
    let house = family();
    house.run(Depth::Test);
    for (edited, text) in [("left", "FROM scratch\nRUN left 2\n"), ("right", "FROM scratch\nRUN date 2\n")] {
        house.write(&format!("p/{edited}"), text);
        let plan = house.plan(Depth::Test, &["//..."]).unwrap();
        assert_eq!(plan["//p:child"], format!("maybe: when //p:{edited} is settled"));
        let ran = house.run(Depth::Test);
        assert_eq!(ran.built(), [format!("p-{edited}"), "p-child".to_owned()]);
        let reasons = ran.reasons("//p:child");
        assert!(reasons.len() == 1 && reasons[0].starts_with(&format!("//p:{edited} changed: ")), "{reasons:?}");
    }
}

#[test]
fn a_fresh_parent_that_is_not_reproducible_rebuilt_by_the_way() {
    let house = family();
    let right = house.run(Depth::Push).image("//p:right");
    house.write("p/child", "FROM {host}/p:left\nCOPY --from={host}/p:right /x /y\n");
    assert_eq!(house.run(Depth::Push).built(), ["p-child"]);
    // and where the engine has it no more, it is fetched by the digest it was pushed under
    house.engine.lose(right);
    house.write("p/child", "FROM {host}/p:left\nCOPY --from={host}/p:right /x /z\n");
    let ran = house.run(Depth::Push);
    assert_eq!((ran.built(), ran.image("//p:right")), (vec!["p-child".to_owned()], right));
    assert!(ran.calls.iter().any(|call| matches!(call, Call::Load { id, .. } if *id == right)), "{:?}", ran.calls);
}

#[test]
fn a_parent_that_is_nowhere_is_built_again_and_what_stands_on_it_follows() {
    let house = family();
    let first = house.run(Depth::Push);
    let (right, host) = (first.image("//p:right"), house.registry.host().to_owned());
    let location = house.state().locations(right).unwrap().remove(0);
    assert_eq!(location.host, host);
    house.engine.lose(right);
    for name in ["right".to_owned(), location.manifest.to_string()] {
        house.registry.remove_manifest("p", &name);
    }
    house.write("p/child", "FROM {host}/p:left\nCOPY --from={host}/p:right /x /z\n");
    let ran = house.run(Depth::Push);
    assert_eq!(ran.built(), ["p-right", "p-child"]);
    assert_eq!(ran.reasons("//p:right"), ["needed by //p:child and nowhere to be had"]);
    assert_ne!(ran.image("//p:right"), right);
    assert!(ran.terminal().values().all(|times| *times == 1), "{:?}", ran.terminal());
    assert_eq!(house.state().locations(right).unwrap(), []);
    assert_eq!(house.run(Depth::Push).not_fresh(), [""; 0]);
}

#[test]
fn a_registry_that_is_down_is_no_reason_to_build_a_parent_again() {
    let house = family();
    let right = house.run(Depth::Push).image("//p:right");
    house.engine.lose(right);
    let answer = crate::registry::Action::Answer { status: 503, headers: Vec::new(), body: String::new() };
    house.registry.rule(crate::registry::Rule { method: "GET", path: "/manifests/", skip: 0, times: 1000, action: answer });
    house.write("p/child", "FROM {host}/p:left\nCOPY --from={host}/p:right /x /z\n");
    let ran = house.run(Depth::Build);
    assert!(ran.of("//p:child").starts_with("failed: "), "{:?}", ran.not_fresh());
    assert_eq!((ran.of("//p:right").as_str(), ran.built()), ("fresh", Vec::new()));
}

#[test]
fn a_locally_rebuilt_parent_passed_over_for_the_registrys() {
    let house = family();
    house.run(Depth::Push);
    let pushed = house.named("p", "left").unwrap();
    house.write("p/left", "FROM scratch\nRUN another\n");
    let ran = house.run(Depth::Build);
    assert_eq!(house.named("p", "left"), Some(pushed));
    let parts = house.key("//p:child").1;
    assert!(parts.contains(&("parent //p:left".to_owned(), ran.image("//p:left").to_string())), "{parts:?}");
}

#[test]
fn locked_adds_nothing_to_the_lock() {
    let house = House::image("FROM {host}/base:1\nRUN true\n");
    house.base("base", "1", "base", "");
    let ran = house.run_of(Depth::Build, &["//..."], &How { locked: true, ..How::default() });
    assert!(ran.not_fresh()[1].contains("--locked forbids adding it"), "{:?}", ran.not_fresh());
    assert!(!house.path("igraph.lock").exists());
    // what was resolved stays resolved though the run fails
    house.write("p/Dockerfile", "FROM {host}/base:1\nRUN exit 1\n");
    assert!(house.run(Depth::Build).of("//p:1").starts_with("failed"));
    assert!(house.path("igraph.lock").exists());
}

#[test]
fn what_stands_in_for_a_base_taints_all_that_is_made_from_it() {
    let house = House::new();
    house.base("base", "1", "base", "");
    house.base("mirror", "1", "mirror", "");
    house.package(
        r#"Image(name: "1", tests: [":smoke"]), Image(name: "2", tests: [":smoke"], dockerfile: "two"),
           Image(name: "3", tests: [":smoke"], dockerfile: "three"), Test(name: "deep", dockerfile: "test"),
           Image(name: "4", tests: [":deep"], dockerfile: "three")"#,
    );
    house.write("p/Dockerfile", "FROM {host}/base:1\nRUN true\n");
    house.write("p/two", "FROM {host}/p:1 AS x\nFROM scratch\nCOPY --from=x /a /a\n");
    house.write("p/three", "FROM scratch\nRUN true\n");
    house.write("p/test", "FROM {host}/base:1 AS tool\nFROM subject\nCOPY --from=tool /t /t\nRUN /t\n");
    let stand_in = StandIn::Registry(format!("{}/mirror:1", house.registry.host()).parse().unwrap());
    let reference = format!("{}/base:1", house.registry.host()).parse().unwrap();
    let how = How { stand_ins: [(reference, stand_in)].into(), ..How::default() };
    let ran = house.run_of(Depth::Push, &["//..."], &how);
    let named = |ran: &crate::house::Ran, tag: &str| ran.of(&format!("//p:{tag}[push/{tag}]"));
    for tag in ["1", "2", "4"] {
        assert!(named(&ran, tag).starts_with("blocked: it is made from a stand-in base"), "{tag}: {}", named(&ran, tag));
        assert_eq!(house.named("p", tag), None);
    }
    assert_eq!(named(&ran, "3"), "ran");
    assert!(!house.path("igraph.lock").exists());
    // the real base is another key
    let real = house.run(Depth::Push);
    assert_eq!((real.of("//p:1").as_str(), named(&real, "1").as_str(), named(&real, "4").as_str()), ("ran", "ran", "ran"));
}

#[test]
fn a_base_command_counts_with_its_folder_and_sees_nothing_else() {
    let house = House::new();
    let base = |name: &str| {
        format!(
            r#"Package(rules: [Base(name: "b", provides: ["{name}:1"], from: Command(["./make", "{{out}}"])),
               Image(name: "1", untested: "x")])"#
        )
    };
    let make = |word: &str| {
        format!(
            "#!/bin/sh\nset -eu\ncd \"$TMPDIR\"\nprintf {word} > file\nenv | grep -c CARGO > count || true\ntar --sort=name --mtime=@0 --owner=0 --group=0 -cf \"$1\" file count\n"
        )
    };
    for name in ["a", "b"] {
        house.write(&format!("p/{name}/BUILD.ron"), &base(name));
        house.write(&format!("p/{name}/Dockerfile"), &format!("FROM {name}:1\nRUN true\n"));
        house.write(&format!("p/{name}/make"), &make(name));
        std::fs::set_permissions(house.path(&format!("p/{name}/make")), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let ran = house.run(Depth::Build);
    assert_eq!((ran.of("//p/a:b").as_str(), ran.of("//p/b:b").as_str()), ("ran", "ran"), "{:?}", ran.not_fresh());
    assert_ne!(ran.image("//p/a:b"), ran.image("//p/b:b"), "the same words in another folder are another program");
    let tar = house.path(&format!("igraph-out/bases/{}.tar", ran.image("//p/a:b").0.hex()));
    let mut archive = tar::Archive::new(std::fs::File::open(&tar).unwrap());
    let count = archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap().ends_with("count")).unwrap();
    assert_eq!(std::io::read_to_string(count).unwrap().trim(), "0", "the command saw this process's environment");
    let left: Vec<_> = std::fs::read_dir(house.path("igraph-out/bases")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().ends_with(".tar")), "{left:?}");
    assert_eq!(house.run(Depth::Build).not_fresh(), [""; 0]);
}

#[test]
fn many_that_miss_one_parent_at_once() {
    let house = House::new();
    let children: String = (0..8).map(|at| format!(r#"Image(name: "c{at}", tests: [":smoke"], dockerfile: "c{at}"),"#)).collect();
    house.package(&format!(r#"Image(name: "parent", tests: [":smoke"], dockerfile: "parent"), {children}"#));
    house.write("p/parent", "FROM scratch\nRUN date\n");
    let write = |word: &str| (0..8).for_each(|at| house.write(&format!("p/c{at}"), &format!("FROM {{host}}/p:parent\nRUN {word} {at}\n")));
    write("one");
    let parent = house.run(Depth::Tag).image("//p:parent");
    house.engine.lose(parent);
    write("two");
    house.engine.delay("p-parent", std::time::Duration::from_millis(20));
    let ran = house.run_of(Depth::Tag, &["//..."], &How { jobs: Some(8), ..How::default() });
    assert_eq!(ran.built().iter().filter(|slug| *slug == "p-parent").count(), 1, "{:?}", ran.built());
    assert!(ran.not_fresh().iter().all(|step| step.ends_with(" ran")), "{:?}", ran.not_fresh());
    assert!(ran.terminal().values().all(|times| *times == 1), "{:?}", ran.terminal());
    assert_eq!(house.run(Depth::Tag).not_fresh(), [""; 0]);
}
