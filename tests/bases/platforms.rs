//! Bases for several platforms: indexes, `platform` of images, `FROM --platform`.

use crate::registry::Registry;
use crate::world::*;

#[test]
fn an_index_that_moves_for_another_platform_has_not_moved() {
    let registry = Registry::start();
    let world = World::new("");
    let (own, other) = (host_architecture(), other_architecture());
    publish_index(&registry, "os", "1", &[(own, "1"), (other, "1")]);
    world.image("a", &format!("{}/os:1", registry.host()), "");
    world.verb(&["build"]).expect(0);
    let lock = world.lock().unwrap();
    assert!(lock.contains("        index: \"sha256:"), "{lock}");
    publish_index(&registry, "os", "1", &[(own, "1"), (other, "2")]);
    world.igraph(&["outdated"]).expect(0).says("1 base, none has moved");
    world.igraph(&["update"]).expect(0).says("0 of 1 base moved");
    assert_eq!(world.lock().unwrap(), lock);
    world.verb(&["build"]).expect(0).says("nothing to do");
    publish_index(&registry, "os", "1", &[(own, "2"), (other, "2")]);
    assert_eq!(rows(&world.igraph(&["outdated"]).expect(0).out).len(), 1);
}

#[test]
fn a_platform_that_is_not_there() {
    let registry = Registry::start();
    let world = World::new("");
    publish_index(&registry, "os", "1", &[("amd64", "1"), ("arm64", "1"), ("riscv64", "1")]);
    world.image("a", &format!("{}/os:1", registry.host()), "platform: \"linux/s390x\"");
    world.image("b", &format!("{}/os:1", registry.host()), "platform: \"linux/riscv64\"");
    let ran = world.verb(&["build"]).expect(1);
    let ran =
        ran.says(&format!("`{}/os:1` has no image for linux/s390x; there is: linux/amd64, linux/arm64, linux/riscv64", registry.host()));
    assert_eq!(ran.labels("BUILD"), ["//b:1"]);
    world.igraph(&["update"]).expect(1).says("has no image for linux/s390x");
}

#[test]
fn images_get_the_base_for_their_platform() {
    let registry = Registry::start();
    let world = World::new("");
    publish_index(&registry, "os", "1", &[("amd64", "x"), ("arm64", "x")]);
    let base = format!("{}/os:1", registry.host());
    world.image("amd", &base, "platform: \"linux/amd64\"");
    world.image("arm", &base, "platform: \"linux/arm64\"");
    let component = |label: &str| {
        let ran = world.igraph(&["why", "--manifest", label, "--engine", "fake"]).expect(0);
        ran.out.lines().filter(|line| line.contains(" base ")).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    world.verb(&["build"]).expect(0);
    let node = format!("{}//os:1", registry.host());
    assert_eq!(component("//amd:1"), [format!("base {node} = {}", manifest_of("amd64", "x"))]);
    assert_eq!(component("//arm:1"), [format!("base {node} = {}", manifest_of("arm64", "x"))]);
    assert_eq!(world.lock().unwrap().matches("reference:").count(), 2);
    let why = world.igraph(&["why", &node, "--engine", "fake"]).expect(0).out;
    assert!(why.contains("for linux/amd64:\n") && why.contains("for linux/arm64:\n"), "{why}");

    // one HEAD for both, and only what stands on the one that moved is rebuilt
    publish_index(&registry, "os", "1", &[("amd64", "x"), ("arm64", "y")]);
    asked(&registry);
    let out = rows(&world.igraph(&["outdated"]).expect(0).out);
    assert_eq!(out.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), [format!("{base} (linux/arm64)")]);
    assert_eq!(asked(&registry).iter().filter(|line| line.starts_with("HEAD")).count(), 1);
    world.igraph(&["update", &base]).expect(0).says("1 of 2 bases moved");
    assert_eq!(world.verb(&["build"]).expect(0).labels("BUILD"), ["//arm:1"]);
}

#[test]
fn a_stage_may_be_of_another_platform() {
    let registry = Registry::start();
    let world = World::new("");
    let (own, other) = (host_architecture(), other_architecture());
    publish_index(&registry, "os", "1", &[(own, "x"), (other, "x")]);
    let base = format!("{}/os:1", registry.host());
    // the way cross compilers are used: one reference, two platforms
    world.image("cross", &base, &format!("platform: \"linux/{other}\""));
    world.write(
        "images/cross/Dockerfile",
        &format!("FROM --platform=$BUILDPLATFORM {base} AS build\nRUN make\nFROM {base}\nCOPY --from=build /x /x\n"),
    );
    world.verb(&["build"]).expect(0);
    let manifest = world.igraph(&["why", "--manifest", "//cross:1", "--engine", "fake"]).expect(0).out;
    let node = format!("{}//os:1", registry.host());
    for line in
        [format!("  base {node} = {}\n", manifest_of(other, "x")), format!("  base {node} for linux/{own} = {}\n", manifest_of(own, "x"))]
    {
        assert!(manifest.contains(&line), "{line} is missing in {manifest}");
    }
    // either may move
    publish_index(&registry, "os", "1", &[(own, "y"), (other, "x")]);
    world.igraph(&["update"]).expect(0).says("1 of 2 bases moved");
    let ran = world.verb(&["build"]).expect(0);
    let short = |word| manifest_of(own, word).short();
    ran.says(&format!("base {node} for linux/{own} moved: {} → {}", short("x"), short("y")));
}

#[test]
fn an_entry_of_another_platform_is_no_start() {
    let registry = Registry::start();
    let world = World::new("");
    let (own, other) = (host_architecture(), other_architecture());
    publish_index(&registry, "os", "1", &[(own, "x"), (other, "x")]);
    world.image("base", &format!("{}/os:1", registry.host()), &format!("platform: \"linux/{other}\""));
    world.image("child", "base:1", "");
    let ran = world.verb(&["build", "//child:1"]).expect(2);
    ran.says(&format!("`base:1` is //base:1, which is for linux/{other}, and is wanted for linux/{own} here"))
        .says("images/child/Dockerfile:1:6")
        .says(&format!("hint: set `platform` of one of the two, or write `FROM --platform=linux/{other}`"));
    world.write("images/child/Dockerfile", &format!("FROM --platform=linux/{other} base:1\n"));
    world.verb(&["build", "//child:1"]).expect(0);
    // what is only copied from it may be of any
    world.write("images/child/Dockerfile", "FROM scratch\nCOPY --from=base:1 /data /data\n");
    world.verb(&["build", "//child:1"]).expect(0);
}
