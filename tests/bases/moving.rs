//! The world moves under real engines and a real registry: a tag under a watch, the nightly form, the old lock, an index that moves for
//! another platform; what policies renew really runs again.

use igraph::cancel::Cancel;
use igraph::image::ImageSource;

use crate::real::DockerRegistry;
use crate::support::{Dockerd, RootfsImage, skip};
use crate::watching::Watching;
use crate::world::*;

fn run(world: &World, engine: &str, arguments: &[&str]) -> Ran {
    ran(world.command(&[arguments, &["--engine", engine, "--console", "plain"]].concat()).output().unwrap())
}

fn plain(world: &World, arguments: &[&str]) -> Ran {
    ran(world.command(arguments).output().unwrap())
}

/// `a` and its child `b` stand on one base, `c` on another.
fn catalogue(registry: &DockerRegistry, shell: &RootfsImage) -> World {
    let world = World::new(&format!("registry: \"{}\"", registry.host));
    for base in ["os/shell:1", "os/other:1"] {
        registry.put(base, shell.config(), shell.layer_bytes());
    }
    for (package, from) in
        [("a", format!("{}/os/shell:1", registry.host)), ("b", "a:1".to_owned()), ("c", format!("{}/os/other:1", registry.host))]
    {
        world.image(package, &from, "aliases: [\"x\"]");
        world.write(&format!("images/{package}/Dockerfile"), &format!("FROM {from}\nRUN echo $WORD {package} > /word\n"));
    }
    world
}

#[test]
fn a_tag_that_moves_under_a_watch_then_nightly_then_back() {
    let name = "a_tag_that_moves_under_a_watch_then_nightly_then_back";
    let Some(registry) = DockerRegistry::start(name) else { return };
    if !is_root() {
        return skip(name, "it is not root, and this test's engine needs it");
    }
    let shell = RootfsImage::with_shell(&[], &["WORD=first"]);
    let world = catalogue(&registry, &shell);
    let move_to = |word: &str| {
        let newer = RootfsImage::of_layers(shell.layer_bytes().to_vec(), &[&format!("WORD={word}")]);
        registry.put("os/shell:1", newer.config(), newer.layer_bytes())
    };
    let words = || ["a:1", "a:x", "b:1", "c:1"].map(|name| registry.image(name).1["config"]["Env"][0].as_str().unwrap().to_owned());
    run(&world, "embedded", &["push", "//..."]).expect(0);
    assert_eq!(words(), ["WORD=first"; 4]);
    let first = world.lock().unwrap();

    let mut watching =
        Watching::start(&world, &["test", "--watch", "--bases", "2s", "-v", "--engine", "embedded", "--console", "plain", "//..."]);
    watching.until("watching");
    let second = move_to("second");
    watching.until(&format!("base {}/os/shell:1 changed", registry.host));
    let said = watching.until("Summary");
    assert!(said.contains("2 built") && said.contains("tests: 2 passed") && !said.contains("BUILD [    0.0s] //c:1"), "{said}");
    drop(watching);
    assert!(world.lock().unwrap().contains(&second.to_string()));
    assert_eq!(words(), ["WORD=first"; 4], "a watch tests, and names nothing");

    // nightly: what the watch has built and tested is only named
    plain(&world, &["update"]).expect(0).says("0 of 2 bases moved");
    let ran = run(&world, "embedded", &["push", "--locked", "//..."]).expect(0);
    assert_eq!((ran.labels("BUILD"), ran.labels("PUSH").len()), (Vec::new(), 4));
    assert_eq!(words(), ["WORD=second", "WORD=second", "WORD=second", "WORD=first"]);
    // and what moved since is built, tested and named
    move_to("third");
    plain(&world, &["update"]).expect(0).says("1 of 2 bases moved");
    let ran = run(&world, "embedded", &["push", "--locked", "//..."]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1", "//b:1"]);
    assert_eq!(ran.labels("PASS"), ["//a:1[test/t]", "//b:1[test/t]"]);
    assert_eq!(ran.labels("PUSH"), ["//a:1[push/1]", "//a:1[push/x]", "//b:1[push/1]", "//b:1[push/x]"]);
    assert_eq!(words(), ["WORD=third", "WORD=third", "WORD=third", "WORD=first"]);

    // the lock of the first day: the names go back without a build, and igraph says so
    world.write("igraph.lock", &first);
    let ran = run(&world, "embedded", &["push", "--locked", "//..."]).expect(0);
    assert_eq!((ran.labels("BUILD"), ran.labels("PASS"), ran.labels("PUSH").len()), (Vec::new(), Vec::new(), 4));
    ran.says("goes back to the image of");
    assert_eq!(words(), ["WORD=first"; 4]);
}

#[test]
fn an_index_that_moves_for_another_platform_moves_nothing() {
    let name = "an_index_that_moves_for_another_platform_moves_nothing";
    let Some(registry) = DockerRegistry::start(name) else { return };
    let world = World::new(&format!("registry: \"{}\"", registry.host));
    let publish = |other: &str| {
        let mut entries = Vec::new();
        for (architecture, word) in [(host_architecture(), "same"), (other_architecture(), other)] {
            let layer = tar_of("word", word);
            let config = serde_json::json!({
                "architecture": architecture, "os": "linux", "config": {}, "history": [{}],
                "rootfs": {"type": "layers", "diff_ids": [igraph::digest::Digest::of(&layer)]},
            });
            let digest = registry.put(&format!("multi:{architecture}"), &serde_json::to_vec(&config).unwrap(), &[layer]);
            let bytes = registry.client.manifest(&registry.reference("multi:1").with_digest(digest), &Cancel::new()).unwrap().bytes;
            let platform = serde_json::json!({"os": "linux", "architecture": architecture});
            entries.push(serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": bytes.len(), "platform": platform}));
        }
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        registry.name("multi:1", &serde_json::to_vec(&index).unwrap(), INDEX);
    };
    publish("one");
    world.write("images/app/Dockerfile", &format!("FROM {}/multi:1\nENV A=1\n", registry.host));
    world.write("images/app/BUILD.ron", "Package(rules: [Image(name: \"1\", untested: \"no shell\")])");
    world.verb(&["push"]).expect(0);
    let lock = world.lock();
    publish("two");
    world.igraph(&["outdated"]).expect(0).says("1 base, none has moved");
    world.igraph(&["update"]).expect(0).says("0 of 1 base moved");
    assert_eq!(world.lock(), lock);
    world.verb(&["push", "--locked"]).expect(0).says("nothing to do");
}

#[test]
fn what_policies_renew_really_runs_again_on_both_engines() {
    let name = "what_policies_renew_really_runs_again_on_both_engines";
    let (Some(daemon), Some(registry)) = (Dockerd::shared(name), DockerRegistry::start(name)) else { return };
    let docker = format!("docker={}", daemon.url());
    let shell = RootfsImage::with_shell(&[], &[]);
    registry.put("os/shell:1", shell.config(), shell.layer_bytes());
    let from = format!("{}/os/shell:1", registry.host);
    for engine in [docker.as_str(), "embedded"] {
        if engine == "embedded" && !is_root() {
            return skip(name, "it is not root, and the embedded engine's part of this test needs it");
        }
        let world = World::new("");
        world.image("old", &from, "refresh: \"7d\"");
        world.image("same", &from, "probe: \"cat /when\"");
        world.image("moves", &from, "probe: \"date +%N\"");
        world.image("silent", &from, "probe: \"echo x; exit 3\"");
        for package in ["old", "same", "moves", "silent"] {
            world
                .write(&format!("images/{package}/Dockerfile"), &format!("FROM {from}\nRUN echo {package} > /who\nRUN date +%N > /when\n"));
        }
        let images = || -> Vec<String> {
            let ran = run(&world, engine, &["build", "--show-output"]).expect(0);
            ran.out.lines().map(str::to_owned).collect()
        };
        let first = images();
        assert_eq!(first.len(), 4, "{first:?}");
        assert_eq!(images(), first);
        world.set_clock("8d");
        let told = plain(&world, &["outdated"]).expect(0).out;
        assert_eq!(rows(&told).iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["//old:1"], "probes are not run unasked");
        let told = plain(&world, &["outdated", "--probe", "--engine", engine]).expect(0).out;
        let told: Vec<Vec<String>> = rows(&told);
        assert_eq!(told.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["//moves:1", "//old:1", "//silent:1"], "{told:?}");
        assert!(told[0][1].starts_with("probe: +") && told[2][1] == "probe gives no answer", "{told:?}");
        plain(&world, &["update", "--engine", engine]).expect(0).says("2 of 4 nodes with a policy renewed");
        let lock = world.lock().unwrap();
        assert!(
            lock.contains("//moves:1\", renewed: ") && lock.contains("policy: \"probe\"") && lock.contains("policy: \"refresh\""),
            "{lock}"
        );
        let second = images();
        let differ: Vec<bool> = first.iter().zip(&second).map(|(one, other)| one != other).collect();
        // moves, old, same, silent
        assert_eq!(differ, [true, true, false, false], "{first:?} {second:?}");
        assert_eq!(images(), second);
    }
}
