//! Bases of a registry: resolved once, locked, and moved only by `update`.

use crate::registry::Registry;
use crate::world::*;

/// Two bases; `a` and its child `b` stand on the first, `c` on the second.
fn catalogue(registry: &Registry) -> World {
    let world = World::new(&format!("registry: \"{}\"", registry.host()));
    let host = registry.host();
    publish(registry, "os/one", "1", "first");
    publish(registry, "os/two", "1", "second");
    world.image("a", &format!("{host}/os/one:1"), "aliases: [\"x\", \"y\"]");
    world.image("b", "a:1", "");
    world.image("c", &format!("{host}/os/two:1"), "");
    world
}

fn tidy(text: &str, registry: &Registry) -> String {
    let times = |line: &str| match line.find("time: \"").or_else(|| line.find("locked 2")) {
        Some(at) => {
            let start = line[at..].find('2').unwrap() + at;
            format!("{}TIME{}", &line[..start], &line[start + "2026-11-23T18:27:00Z".len()..])
        }
        None => line.to_owned(),
    };
    let text = text.replace(registry.host(), "REG").replace(host_architecture(), "ARCH");
    text.lines().map(times).collect::<Vec<_>>().join("\n")
}

fn digests(text: String, words: &[(&str, &str)]) -> String {
    words.iter().fold(text, |text, (repository, word)| {
        let digest = manifest_of(host_architecture(), word);
        text.replace(&digest.to_string(), &format!("MANIFEST {repository} {word}")).replace(&digest.short(), &format!("<{word}>"))
    })
}

#[test]
fn a_base_is_resolved_once_and_locked() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    let ran = world.verb(&["test"]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1", "//b:1", "//c:1"]);
    // the manifest and its config tell all; layers come when the engine needs them
    let mut manifests: Vec<String> = asked(&registry).into_iter().filter(|line| line.contains("/manifests/1")).collect();
    manifests.sort();
    assert_eq!(manifests, ["GET /v2/os/one/manifests/1", "GET /v2/os/two/manifests/1"].map(str::to_owned));
    let lock = digests(tidy(&world.lock().unwrap(), &registry), &[("one", "first"), ("two", "second")]);
    let lock = lock.lines().filter(|line| !line.contains("config:")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(lock, @r#"
    // made by igraph, moved by `igraph update`; commit it
    Lock(version: 1, bases: [
        (
            reference: "REG/os/one:1",
            platform: "linux/ARCH",
            manifest: "MANIFEST one first",
            time: "TIME",
        ),
        (
            reference: "REG/os/two:1",
            platform: "linux/ARCH",
            manifest: "MANIFEST two second",
            time: "TIME",
        ),
    ])
    "#);
    // a second run, and one after the tag has moved, ask nothing
    for _ in 0..2 {
        world.verb(&["test"]).expect(0).says("nothing to do (3 images, 3 tests fresh)");
        assert_eq!((asked(&registry), world.engine_calls()), (Vec::new(), String::new()));
        publish(&registry, "os/one", "1", "newer");
    }
}

#[test]
fn what_moved_is_told_and_moved_and_rebuilds_what_stands_on_it() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    world.verb(&["push"]).expect(0);
    let pushed = registry.named("a", "x").unwrap();
    asked(&registry);
    world.igraph(&["outdated"]).expect(0).says("2 bases, none has moved");
    let mut heads = asked(&registry);
    heads.sort();
    assert_eq!(heads, ["HEAD /v2/os/one/manifests/1", "HEAD /v2/os/two/manifests/1"]);

    publish(&registry, "os/one", "1", "newer");
    let before = world.lock().unwrap();
    let words = [("one", "first"), ("one", "newer"), ("two", "second")];
    let ran = world.igraph(&["outdated"]).expect(0);
    insta::assert_snapshot!(digests(tidy(&ran.out, &registry), &words), @"REG/os/one:1 (linux/ARCH)	moved <first> → <newer>	locked TIME	2 images, 2 tests, 4 names");
    let ran = world.igraph(&["update", "--dry-run"]).expect(0).says("1 of 2 bases would be moved in igraph.lock");
    insta::assert_snapshot!(digests(tidy(&ran.out, &registry), &words), @"REG/os/one:1 (linux/ARCH)	moved <first> → <newer>	locked TIME	2 images, 2 tests, 4 names");
    assert_eq!(world.lock().unwrap(), before);
    world.verb(&["test"]).expect(0).says("nothing to do");

    world.igraph(&["update"]).expect(0).says("1 of 2 bases moved in igraph.lock");
    let after = world.lock().unwrap();
    assert!(after != before && after.contains(&manifest_of(host_architecture(), "newer").to_string()));
    asked(&registry);
    let why = world.igraph(&["why", "//a:1", "--engine", "fake"]).expect(0).out;
    // the new config is not here yet, so only what must run is known
    assert!(why.contains("may run") || why.contains("would run"), "{why}");
    let ran = world.verb(&["push"]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1", "//b:1"]);
    assert_eq!(ran.labels("PASS"), ["//a:1[test/t]", "//b:1[test/t]"]);
    let said = digests(tidy(&ran.err, &registry), &words);
    assert!(said.contains("base REG//os/one:1 moved: <first> → <newer>"), "{said}");
    assert!(!asked(&registry).iter().any(|line| line.contains("os/two") || line.ends_with("os/one/manifests/1")));
    world.verb(&["push"]).expect(0).says("nothing to do");

    // going back is a hit: names go back without a build, and igraph says so
    std::fs::write(world.path("igraph.lock"), before).unwrap();
    let ran = world.verb(&["push"]).expect(0);
    assert_eq!((ran.labels("BUILD"), ran.labels("PASS")), (Vec::<String>::new(), Vec::<String>::new()));
    assert_eq!(ran.labels("PUSH"), ["//a:1[push/1]", "//a:1[push/x]", "//a:1[push/y]", "//b:1[push/1]"]);
    assert!(!world.engine_calls().contains("Build"), "{}", world.engine_calls());
    assert_eq!(registry.named("a", "x").unwrap(), pushed);
    let log = world.igraph(&["log", "show", "last", "//a:1[push/1]"]).expect(0).out;
    assert!(log.contains("goes back to the image of") || ran.err.contains("goes back to the image of"), "{log}{}", ran.err);
}

#[test]
fn update_takes_bases_and_patterns() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    world.verb(&["build"]).expect(0);
    let (one, two) = (format!("{}/os/one:1", registry.host()), format!("{}//os/two:1", registry.host()));
    let move_both = |word: &str| {
        publish(&registry, "os/one", "1", word);
        publish(&registry, "os/two", "1", word);
        asked(&registry);
    };
    let moved = |arguments: &[&str]| -> Vec<String> {
        let ran = world.igraph(&[&["update"], arguments].concat()).expect(0);
        rows(&ran.out).iter().map(|row| row[0].split('/').nth(2).unwrap().split(' ').next().unwrap().to_owned()).collect()
    };
    move_both("2");
    assert_eq!(moved(&[&one]), ["one:1"]);
    assert!(!asked(&registry).iter().any(|line| line.contains("os/two")));
    assert_eq!(moved(&[&two]), ["two:1"]);
    move_both("3");
    // a child means the base at its bottom
    assert_eq!(moved(&["//b/..."]), ["one:1"]);
    assert_eq!(moved(&["//c:1", "//b:1"]), ["two:1"]);
    world.igraph(&["update", "//nobody:1"]).expect(2).says("//nobody:1");
    world.igraph(&["update", "reg.corp/no/such:1"]).expect(2);
}

#[test]
fn bases_are_nodes_in_the_cell_of_their_registry() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    let label = format!("{}//os/one:1", registry.host());
    let why = |arguments: &[&str]| world.igraph(&[&["why"], arguments, &["--engine", "fake"]].concat());
    let ran = why(&[&label]).expect(0);
    assert_eq!(tidy(&ran.out, &registry), "REG//os/one:1 would run\n  no result yet");
    world.verb(&["build"]).expect(0);
    let ran = why(&[&label]).expect(0);
    assert_eq!(digests(tidy(&ran.out, &registry), &[("one", "first")]), "REG//os/one:1 is fresh: MANIFEST one first");
    let ran = why(&["--manifest", "//a:1"]).expect(0);
    let line = ran.out.lines().find(|line| line.contains(" base ")).unwrap().trim();
    assert_eq!(digests(tidy(line, &registry), &[("one", "first")]), "base REG//os/one:1 = MANIFEST one first");
    why(&[&label.replace("one", "oen")]).expect(2).says(&format!("did you mean `{label}`?"));
    let ran = world.igraph(&["targets", "--json", "--steps", "--engine", "fake"]).expect(0);
    assert!(ran.out.contains(&format!("\"{label}\"")), "{}", ran.out);

    // an entry that stands for the reference is its node
    world.write(
        "images/base/BUILD.ron",
        &format!("Package(rules: [Base(name: \"one\", provides: [\"corp/one:1\"], from: Registry(\"{}/os/one:1\"))])", registry.host()),
    );
    world.image("a", "corp/one:1", "");
    asked(&registry);
    let ran = why(&["docker.io//corp/one:1"]).expect(0);
    assert_eq!(digests(ran.out, &[("one", "first")]), "//base:one is fresh: MANIFEST one first\n");
    let ran = world.verb(&["build"]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1"]);
    assert!(!asked(&registry).iter().any(|line| line.ends_with("manifests/1")), "the lock knew it");
    world.igraph(&["update", "//base:one"]).expect(0).says("0 of 1 base moved");
    world.igraph(&["update", "corp/one:1"]).expect(0).says("0 of 1 base moved");
}

#[test]
fn two_nodes_of_one_reference_resolve_it_once() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    world.write(
        "images/base/BUILD.ron",
        &format!("Package(rules: [Base(name: \"one\", provides: [\"corp/one:1\"], from: Registry(\"{}/os/one:1\"))])", registry.host()),
    );
    world.image("c", "corp/one:1", "");
    world.verb(&["build"]).expect(0);
    let resolved = asked(&registry).into_iter().filter(|line| line.ends_with("one/manifests/1")).count();
    assert_eq!(resolved, 1);
    publish(&registry, "os/one", "1", "newer");
    let ran = world.igraph(&["outdated"]).expect(0);
    // both nodes' images, each once
    assert!(ran.out.trim_end().ends_with("3 images, 3 tests, 5 names"), "{}", ran.out);
}

#[test]
fn locked_forbids_what_the_lock_does_not_say() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    let ran = world.verb(&["test", "--locked"]).expect(2);
    insta::assert_snapshot!(tidy(&ran.err, &registry), @r#"
    error: REG/os/one:1 for linux/ARCH is not in igraph.lock, and `--locked` forbids adding it
     --> images/a/Dockerfile:1:6
      |
    1 | FROM REG/os/one:1
      |      ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = hint: run `igraph update REG/os/one:1`, and commit igraph.lock

    error: REG/os/two:1 for linux/ARCH is not in igraph.lock, and `--locked` forbids adding it
     --> images/c/Dockerfile:1:6
      |
    1 | FROM REG/os/two:1
      |      ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = hint: run `igraph update REG/os/two:1`, and commit igraph.lock
    "#);
    assert_eq!((asked(&registry), world.lock(), world.engine_calls()), (Vec::new(), None, String::new()));
    assert!(!exists(&world.path("igraph-out/log")));
    world.igraph(&["update"]).expect(0).says("2 of 2 bases moved");
    let lock = world.lock();
    world.verb(&["test", "--locked"]).expect(0);
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    assert_eq!(world.lock(), lock);
}

#[test]
fn a_digest_is_locked_like_a_tag() {
    let registry = Registry::start();
    let world = World::new("");
    let digest = publish_index(&registry, "os", "1", &[("amd64", "x"), ("arm64", "x")]);
    world.image("a", &format!("{}/os@{digest}", registry.host()), "");
    world.verb(&["build", "--locked"]).expect(2);
    world.igraph(&["update"]).expect(0).says("1 of 1 base moved");
    world.verb(&["build", "--locked"]).expect(0);
    asked(&registry);
    world.igraph(&["outdated"]).expect(0).says("0 bases, none has moved");
    assert_eq!(asked(&registry), Vec::<String>::new());
}

#[test]
fn a_lock_that_is_no_lock_is_told() {
    let registry = Registry::start();
    let world = catalogue(&registry);
    world.verb(&["build"]).expect(0);
    let good = world.lock().unwrap();
    for (bad, said) in [
        (good.replace("version: 1", "version: 7"), "this lock has version 7, and this igraph reads version 1"),
        (good.replacen("    (\n", "<<<<<<< HEAD\n    (\n", 1), "this lock holds an unfinished merge"),
        (good.replacen("sha256:", "sha255:", 1), "this lock can't be read"),
        (good.replacen("platform", "platfrom", 1), "this lock can't be read"),
    ] {
        world.write("igraph.lock", &bad);
        for command in [&["build", "--engine", "fake"][..], &["outdated"], &["update"], &["why", "//a:1"]] {
            world.igraph(command).expect(2).says(said).says("igraph.lock:");
        }
        assert_eq!(world.lock().unwrap(), bad);
    }
}
