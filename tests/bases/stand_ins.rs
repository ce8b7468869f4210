//! `--base`: something stands in for a base for one run, and nothing that is made from it is ever named.

use crate::registry::Registry;
use crate::world::*;

fn catalogue(registry: &Registry) -> (World, String) {
    let world = World::new(&format!("registry: \"{}\"", registry.host()));
    publish(registry, "os", "1", "real");
    let base = format!("{}/os:1", registry.host());
    world.image("a", &base, "");
    world.image("b", "a:1", "");
    std::fs::write(world.path("root.tar"), tar_of("etc/word", "stand-in")).unwrap();
    (world, base)
}

#[test]
fn a_tar_stands_in_for_a_base() {
    let registry = Registry::start();
    let (world, base) = catalogue(&registry);
    world.verb(&["push"]).expect(0);
    let lock = world.lock();
    let named = registry.named("a", "1").unwrap();
    asked(&registry);

    let given = format!("{base}=rootfs:root.tar");
    let why = world.igraph(&["why", "//b:1", "--engine", "fake", "--base", &given]).expect(0).out;
    assert!(why.contains("root.tar stands in for") && why.contains("(--base)"), "{why}");
    let ran = world.verb(&["test", "--base", &given]).expect(0);
    assert_eq!((ran.labels("BUILD"), ran.labels("PASS").len()), (vec!["//a:1".to_owned(), "//b:1".to_owned()], 2));
    // it is in the key: the same again is fresh, another tar is not
    world.verb(&["test", "--base", &given]).expect(0).says("nothing to do");
    std::fs::write(world.path("root.tar"), tar_of("etc/word", "another")).unwrap();
    assert_eq!(world.verb(&["build", "--base", &given]).expect(0).labels("BUILD").len(), 2);

    for verb in ["tag", "push"] {
        let ran = world.verb(&[verb, "--base", &given]).expect(5);
        ran.says("it is made from a stand-in base (--base), and such images are never named");
    }
    assert_eq!((world.lock(), registry.named("a", "1").unwrap()), (lock, named));
    assert_eq!(asked(&registry).iter().filter(|line| line.starts_with("PUT")).count(), 0);
    // without it all is as it was
    world.verb(&["push"]).expect(0).says("nothing to do");
}

#[test]
fn a_layout_stands_in_for_a_base() {
    let registry = Registry::start();
    let (world, base) = catalogue(&registry);
    let id = world.layout(&registry, "laid out");
    let given = format!("{base}=oci:layout");
    world.verb(&["test", "--base", &given]).expect(0);
    let manifest = world.igraph(&["why", "--manifest", "//a:1", "--engine", "fake", "--base", &given]).expect(0).out;
    assert!(manifest.contains(&format!(" = {id}")), "{manifest}");
    world.verb(&["tag", "--base", &given]).expect(5);
    assert!(world.lock().is_none() && !asked(&registry).iter().any(|line| line.contains("/os/")));
}

#[test]
fn another_reference_stands_in_for_a_base() {
    let registry = Registry::start();
    let (world, base) = catalogue(&registry);
    publish(&registry, "os", "trial", "trial");
    let given = format!("{base}={}/os:trial", registry.host());
    let ran = world.verb(&["test", "--base", &given]).expect(0);
    assert_eq!(ran.labels("BUILD").len(), 2);
    assert_eq!(world.lock(), None, "what stands in is not locked");
    world.verb(&["push", "--base", &given]).expect(5).says("never named");
    // --locked has nothing against it: it asks for no entry
    world.verb(&["test", "--locked", "--base", &given]).expect(0);
    let why = world.igraph(&["why", "//a:1[push/1]", "--engine", "fake", "--base", &given]).expect(0).out;
    assert!(why.contains("stands in for"), "{why}");
    assert_eq!(world.verb(&["push"]).expect(0).labels("BUILD").len(), 2);
}

#[test]
fn a_stand_in_for_an_entry_goes_by_what_it_provides() {
    let registry = Registry::start();
    let (world, _) = catalogue(&registry);
    world.write_program("images/base/make", "#!/bin/sh\nexit 9\n");
    world.write(
        "images/base/BUILD.ron",
        "Package(rules: [Base(name: \"sid\", provides: [\"debian:sid\"], from: Command([\"./make\", \"{out}\"]), inputs: [\"make\"])])",
    );
    world.image("a", "debian:sid", "");
    world.verb(&["build", "//a:1"]).expect(1).says("exit 9");
    world.verb(&["test", "//a:1", "--base", "debian:sid=rootfs:root.tar"]).expect(0);
    world.verb(&["tag", "//a:1", "--base", "docker.io/library/debian:sid=rootfs:root.tar"]).expect(5);
}

#[test]
fn what_stands_for_nothing_is_refused() {
    let registry = Registry::start();
    let (world, base) = catalogue(&registry);
    let slip = base.replace("/os:1", "/os:l");
    let ran = world.verb(&["push", "--base", &format!("{slip}=rootfs:root.tar")]).expect(2);
    ran.says(&format!("nothing that was selected stands on `{slip}`")).says(&format!("did you mean `{base}`?"));
    world.verb(&["build", "--base", &format!("{base}=rootfs:gone.tar")]).expect(2).says("gone.tar");
    std::fs::write(world.path("root.tar"), "no tar").unwrap();
    world.verb(&["build", "--base", &format!("{base}=rootfs:root.tar")]).expect(1).says("it is no tar");
}
