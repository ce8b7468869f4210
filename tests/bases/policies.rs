//! Freshness policies: stamps in the lock, moved by `update` alone, while the clock is set ahead from outside.

use crate::registry::Registry;
use crate::world::*;

/// The names of the builds that the engine was asked for, with `no cache` where it was to use none.
fn builds(world: &World) -> Vec<String> {
    let calls = world.engine_calls();
    let build = |line: &str| -> Option<String> {
        let slug = line.split_once(" Build ")?.1.split("slug: \"").nth(1)?.split('"').next()?.to_owned();
        Some(if line.contains("no_cache: true") { format!("{slug} no cache") } else { slug })
    };
    calls.lines().filter_map(build).collect()
}

fn untimed(text: &str) -> String {
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap();
    time.replace_all(text, "TIME").into_owned()
}

#[test]
fn refresh_renews_what_is_old_enough_and_nothing_before() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    let from = format!("{}/os:1", registry.host());
    world.image("a", &from, "");
    world.image("b", "a:1", "");
    world.image("c", &from, "");
    world.verb(&["test"]).expect(0);

    // a new policy does nothing by itself, nor at the first update
    world.image("a", &from, "refresh: \"7d\"");
    world.verb(&["test"]).expect(0).says("nothing to do");
    let why = || untimed(&world.igraph(&["why", "//a:1", "--engine", "fake"]).expect(0).out);
    assert!(why().ends_with("  refresh 7d: `igraph update` begins to count its age\n"), "{}", why());
    world.set_clock("2d");
    let ran = world.igraph(&["update"]).expect(0).says("0 of 1 base moved, 0 of 1 node with a policy renewed in igraph.lock");
    assert_eq!(ran.out, "");
    ran.says("the age of 1 node with a policy is counted from now on");
    let counted = world.lock().unwrap();
    assert!(counted.contains("(label: \"//a:1\", since: \""), "{counted}");
    assert!(why().ends_with("  refresh 7d: counted from TIME, due TIME\n"), "{}", why());
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    assert_eq!(world.igraph(&["update"]).expect(0).out, "");
    assert_eq!(world.lock().unwrap(), counted);

    // a week after its build, an ordinary run does nothing, and `outdated` tells
    world.set_clock("7d1h");
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    let ran = world.igraph(&["outdated"]).expect(0).says("0 of 1 base have moved, 1 of 1 node with a policy due; to be done again");
    assert_eq!(untimed(&ran.out), "//a:1\trefresh 7d\tsince TIME\t2 images, 2 tests, 2 names\n");
    assert_eq!(world.lock().unwrap(), counted);
    world.igraph(&["update", "--dry-run"]).expect(0).says("1 of 1 node with a policy would be renewed");
    assert_eq!(world.lock().unwrap(), counted);
    // what was not named is not renewed
    world.igraph(&["update", "//c:1"]).expect(0).says("0 of 1 base moved in igraph.lock");
    assert_eq!(world.lock().unwrap(), counted);

    world.igraph(&["update", "//b:1"]).expect(0).says("1 of 1 node with a policy renewed");
    let renewed = world.lock().unwrap();
    assert!(renewed.contains("(label: \"//a:1\", renewed: \"") && renewed.contains("policy: \"refresh\""), "{renewed}");
    let ran = world.verb(&["test", "--locked", "-n"]).expect(0);
    assert!(untimed(&ran.out).contains("run //a:1          refresh renewed at TIME\n"), "{}", ran.out);
    assert!(
        why().contains("//a:1 would run\n  refresh renewed at TIME\n  refresh 7d: renewed at TIME by refresh, due TIME\n"),
        "{}",
        why()
    );

    // it runs without instruction cache; since it comes out the same here, nothing above it does
    let ran = world.verb(&["test", "--locked"]).expect(0);
    assert_eq!((ran.labels("BUILD"), builds(&world)), (vec!["//a:1".to_owned()], vec!["a-1 no cache".to_owned()]));
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    assert!(why().contains("because refresh renewed at TIME"), "{}", why());
    assert_eq!(world.igraph(&["update"]).expect(0).out, "");

    // an edit under the same stamp may use what the engine cached since
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make a\nRUN more\n"));
    world.verb(&["build", "--locked", "//a:1"]).expect(0);
    assert_eq!(builds(&world), ["a-1"]);

    // the old lock brings the old result back, without a build
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make a\n"));
    world.write("igraph.lock", &counted);
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    // and a policy that is removed takes no stamp with it
    world.write("igraph.lock", &renewed);
    world.image("a", &from, "");
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    assert!(why().ends_with("  renewed at TIME by refresh\n"), "{}", why());
}

#[test]
fn a_renewal_that_failed_is_done_without_cache_until_it_is_done() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    let from = format!("{}/os:1", registry.host());
    world.image("a", &from, "refresh: \"7d\"");
    world.verb(&["build"]).expect(0);
    world.set_clock("8d");
    world.igraph(&["update"]).expect(0);
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make a\nRUN exit 3\n"));
    world.verb(&["build"]).expect(1);
    assert_eq!(builds(&world), ["a-1 no cache"]);
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make a\nRUN exit 0\n"));
    world.verb(&["build"]).expect(0);
    assert_eq!(builds(&world), ["a-1 no cache"], "the cache may hold what is older than the renewal");
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make a\n"));
    world.verb(&["build"]).expect(0);
    assert_eq!(builds(&world), ["a-1"]);

    // on another machine the engine's cache may be older than the stamp, whatever the records say
    world.igraph(&["state", "save", "records"]).expect(0);
    std::fs::remove_dir_all(world.path("igraph-out")).unwrap();
    world.igraph(&["state", "load", "records"]).expect(0);
    world.verb(&["build"]).expect(0).says("nothing to do");
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make a\nRUN b\n"));
    world.verb(&["build"]).expect(0);
    assert_eq!(builds(&world), ["a-1 no cache"]);
}

#[test]
fn a_package_has_policies_for_its_images_and_a_command_runs_again() {
    let world = World::new("");
    world.write("images/a/Dockerfile", "FROM corp/made:1\nRUN make\n");
    world.write("images/a/Two", "FROM corp/made:1\nRUN make two\n");
    world.write_program("images/a/make", "#!/bin/sh\ndate +%N > made\ntar -cf \"$1\" made\n");
    world.write(
        "images/a/BUILD.ron",
        "Package(refresh: \"7d\", rules: [\n    Image(name: \"1\"), Image(name: \"2\", dockerfile: \"Two\", refresh: \"30d\"),\n    \
         Base(name: \"made\", provides: [\"corp/made:1\"], from: Command([\"./make\", \"{out}\"]), refresh: \"1d\"),\n])",
    );
    let ran = world.verb(&["build"]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1", "//a:2"]);
    world.set_clock("2d");
    let ran = world.igraph(&["outdated", "-v"]).expect(0);
    assert_eq!(
        untimed(&ran.out),
        "//a:1\trefresh 7d\tcounted from TIME\t1 image, 0 tests, 1 name\n\
         //a:2\trefresh 30d\tcounted from TIME\t1 image, 0 tests, 1 name\n\
         //a:made\trefresh 1d\tsince TIME\t2 images, 0 tests, 2 names\n"
    );
    world.igraph(&["update"]).expect(0).says("1 of 3 nodes with a policy renewed").says("the age of 2 nodes");
    let ran = world.verb(&["build", "--locked"]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1", "//a:2"], "{}", ran.err);
    let why = world.igraph(&["why", "//a:made", "--engine", "fake"]).expect(0).out;
    assert!(untimed(&why).contains("because refresh renewed at TIME"), "{why}");
    let why = world.igraph(&["why", "//a:1", "--engine", "fake"]).expect(0).out;
    assert!(why.contains("because base //a:made moved:"), "{why}");
    world.verb(&["build", "--locked"]).expect(0).says("nothing to do");
}

#[test]
fn what_is_past_its_last_day_is_kept_and_tested_and_never_built_again() {
    let registry = Registry::start();
    let world = World::new(&format!("registry: \"{}\"", registry.host()));
    publish(&registry, "os", "1", "x");
    let from = format!("{}/os:1", registry.host());
    let last = |ahead: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let days = i64::try_from(now / 86_400).unwrap() + ahead;
        igraph::clock::Timestamp(days * 86_400_000).to_rfc3339()[..10].to_owned()
    };
    let until = last(40);
    world.image("a", &from, &format!("refresh: \"7d\", until: \"{until}\""));
    world.image("b", "a:1", "");
    world.image("n", &from, "");
    world.verb(&["push", "//a:1", "//b:1"]).expect(0);
    let check = || world.igraph(&["check"]).expect(0).err;
    assert!(!check().contains("last day"), "{}", check());
    world.set_clock("12d");
    assert!(check().contains(&format!("warning: {until} is the last day of 1 entry: //a:1\n")), "{}", check());
    let why = |label: &str| world.igraph(&["why", label, "--engine", "fake"]).expect(0).out;
    assert!(why("//a:1").ends_with(&format!("  until {until}: the last day it is built\n")), "{}", why("//a:1"));
    // on its last day it is still built
    world.set_clock("40d");
    world.verb(&["test", "-n"]).expect(0);
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make new\n"));
    world.verb(&["push", "//a:1"]).expect(0).says("1 built");

    world.set_clock("41d");
    assert!(check().contains("1 entry past `until`: kept and tested, never built again") && !check().contains("last day"), "{}", check());
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make newer\n"));
    world.verb(&["test", "//a:1"]).expect(0).says("nothing to do");
    world.verb(&["build", "//a:1", "--force"]).expect(0).says("not even with --force: //a:1\nhint: move the day").says("nothing to do");
    assert!(why("//a:1").contains(&format!("until {until}: over: it is kept and tested, and never built again")), "{}", why("//a:1"));
    world.verb(&["build", "--force", "--reason", "shellshock", "//a:1"]).expect(0);
    assert_eq!(builds(&world), Vec::<String>::new());
    // files that are gone do not matter either, nor a base that moves, nor its age
    world.write("images/a/Dockerfile", &format!("FROM {from}\nCOPY gone /\n"));
    world.verb(&["test", "//a:1"]).expect(0).says("nothing to do");
    publish(&registry, "os", "1", "y");
    world.igraph(&["update"]).expect(0).says("1 of 1 base moved, 0 of 1 node with a policy renewed");
    world.verb(&["test", "//a:1"]).expect(0).says("0 built");
    // a test of it that is new runs on what is kept
    let file = world.read("images/a/BUILD.ron").replace("run: [\"true\"]", "run: [\"true\", \"true\"]");
    world.write("images/a/BUILD.ron", &file);
    let ran = world.verb(&["test", "//a:1"]).expect(0);
    assert_eq!((ran.labels("PASS"), builds(&world)), (vec!["//a:1[test/t]".to_owned()], Vec::new()));

    // where nothing is known of it, it is blocked, and says what to do
    std::fs::remove_dir_all(world.path("igraph-out")).unwrap();
    let ran = world.verb(&["build", "//a:1", "//n:1"]).expect(1);
    assert_eq!(ran.labels("BUILD"), ["//n:1"]);
    ran.says(&format!("since {until} it is never built again (`until`), and no result of it is recorded here"));
    // and a day that is moved ends that
    world.image("a", &from, &format!("until: \"{}\"", last(99)));
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN make\n"));
    world.verb(&["build", "//a:1"]).expect(0).says("1 built");
}

#[test]
fn a_moved_base_settles_before_it_counts() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    publish(&registry, "other", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "settle: \"6h\"");
    world.image("b", "corp/other:1", "");
    let declared = format!(
        "Package(rules: [Base(name: \"other\", provides: [\"corp/other:1\"], from: Registry(\"{}/other:1\"), settle: \"1d\")])",
        registry.host()
    );
    world.write("images/base/BUILD.ron", &declared);
    world.verb(&["test"]).expect(0);
    let first = world.lock().unwrap();
    assert!(!first.contains("candidate"), "what is locked first waits for nothing: {first}");
    publish(&registry, "os", "1", "y");
    publish(&registry, "other", "1", "y");
    let ran = world.igraph(&["outdated"]).expect(0).says("2 bases, none has moved");
    let rows: Vec<Vec<String>> = rows(&untimed(&ran.out));
    let settling =
        format!("settling {} → {}", manifest_of(host_architecture(), "x").short(), manifest_of(host_architecture(), "y").short());
    assert_eq!(rows.len(), 2, "{}", ran.out);
    assert!(rows.iter().all(|row| row[1] == settling && row[2] == "first seen TIME, counts at TIME"), "{}", ran.out);
    assert_eq!(world.lock().unwrap(), first);

    // seen and waited for: the candidate is in the lock, and nothing is built
    world.igraph(&["update"]).expect(0).says("0 of 2 bases moved");
    assert_eq!(world.lock().unwrap().matches("candidate: (manifest: ").count(), 2);
    let why = world.igraph(&["why", "//base:other", "--engine", "fake"]).expect(0).out;
    let why = untimed(&why);
    assert!(
        why.contains("  settle 1d: ")
            && why.contains(&format!("moved to {}, first seen there TIME", manifest_of(host_architecture(), "y"))),
        "{why}"
    );
    world.verb(&["test", "--locked"]).expect(0).says("nothing to do");
    let seen = world.lock().unwrap();
    world.set_clock("5h");
    world.igraph(&["update"]).expect(0).says("0 of 2 bases moved");
    assert_eq!(world.lock().unwrap(), seen, "it is still the same candidate");

    // what moves on begins anew, and what goes back is no candidate any more
    publish(&registry, "os", "1", "z");
    publish(&registry, "other", "1", "x");
    world.set_clock("7h");
    world.igraph(&["update"]).expect(0).says("0 of 2 bases moved");
    assert_eq!(world.lock().unwrap().matches("candidate: (manifest: ").count(), 1);
    world.set_clock("13h30m");
    world.igraph(&["update"]).expect(0).says("1 of 2 bases moved");
    let moved = world.lock().unwrap();
    assert!(moved.contains(&manifest_of(host_architecture(), "z").to_string()) && !moved.contains("candidate"), "{moved}");
    let ran = world.verb(&["test", "--locked"]).expect(0);
    assert_eq!(ran.labels("BUILD"), ["//a:1"]);
    // a base that moved and has no such policy counts at once
    world.write("images/base/BUILD.ron", &declared.replace(", settle: \"1d\"", ""));
    publish(&registry, "other", "1", "w");
    world.igraph(&["update"]).expect(0).says("1 of 2 bases moved");
}

#[test]
fn what_is_found_is_a_document_too() {
    let registry = Registry::start();
    let world = World::new(&format!("registry: \"{}\"", registry.host()));
    publish(&registry, "os", "1", "x");
    publish(&registry, "gone", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "refresh: \"7d\", aliases: [\"x\"]");
    world.write("images/a/Dockerfile", &format!("FROM {}/os:1\nRUN sleep 1\n", registry.host()));
    world.image("b", "a:1", "until: \"2001-01-01\"");
    world.image("c", &format!("{}/gone:1", registry.host()), "");
    world.verb(&["push", "//a:1", "//c:1"]).expect(0);
    publish(&registry, "os", "1", "y");
    registry.rule(crate::registry::Rule {
        method: "",
        path: "gone",
        skip: 0,
        times: usize::MAX,
        action: crate::registry::Action::Answer { status: 404, headers: Vec::new(), body: String::new() },
    });
    world.set_clock("8d");
    for (arguments, schema, written) in [
        (&["outdated", "--json"][..], "igraph.outdated", None),
        (&["update", "--dry-run", "--json"], "igraph.update", Some(false)),
        (&["update", "--json"], "igraph.update", Some(true)),
    ] {
        let ran = world.igraph(arguments);
        let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&document["schema"], &document["version"]), (&schema.into(), &1.into()), "{document:#}");
        assert_eq!(document["written"].as_bool(), written);
        let bases = document["bases"].as_array().unwrap();
        let base = |word: &str| bases.iter().find(|base| base["reference"].as_str().unwrap().contains(word)).unwrap();
        let (os, gone) = (base("/os:"), base("/gone:"));
        assert_eq!((&os["state"], &gone["state"]), (&"moved".into(), &"failed".into()), "{document:#}");
        assert_eq!(os["locked"], manifest_of(host_architecture(), "x").to_string());
        assert_eq!(os["now"], manifest_of(host_architecture(), "y").to_string());
        assert_eq!(os["images"], serde_json::json!(["//a:1"]), "what is kept is not built again");
        assert_eq!(os["tests"], serde_json::json!(["//a:1[test/t]"]));
        assert_eq!(os["names"].as_array().unwrap().len(), 2, "{os:#}");
        assert!(os["last_ms"].as_u64().unwrap() >= 1000, "a build that slept a second: {os:#}");
        assert!(gone["failure"]["message"].as_str().is_some(), "{gone:#}");
        let nodes: Vec<(&str, &str)> = document["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| (node["label"].as_str().unwrap(), node["state"].as_str().unwrap()))
            .collect();
        assert_eq!(nodes, [("//a:1", "due"), ("//b:1", "ended")]);
        assert_eq!(document["total"]["images"], serde_json::json!(["//a:1"]), "each once");
        assert_eq!(ran.code, 1, "{}", ran.err);
    }
}

#[test]
fn a_probe_that_answers_otherwise_renews() {
    let registry = Registry::start();
    // the engine that pretends forgets all images when it ends
    let world = World::new(&format!("registry: \"{}\"", registry.host()));
    publish(&registry, "os", "1", "x");
    let from = format!("{}/os:1", registry.host());
    let (file, host) = (world.path("upgrades"), registry.host());
    let probe = format!("probe: \"answer {}\"", file.display());
    world.write("upgrades", "");
    world.image("a", &from, &probe);
    world.image("late", &from, "");
    world.verb(&["push"]).expect(0);
    let update = |arguments: &[&str]| world.igraph(&[arguments, &["--engine", "fake"]].concat());
    // an ordinary run asks no probe, and neither does `outdated` unasked
    world.write("upgrades", "openssl\ncurl\n");
    assert!(!world.verb(&["push"]).expect(0).says("nothing to do").err.contains("probe"));
    assert_eq!(world.igraph(&["outdated"]).expect(0).out, "");
    assert_eq!(world.engine_calls(), "");
    let told = update(&["outdated", "--probe"]).expect(0).out;
    assert_eq!(untimed(&told), "//a:1\tprobe: +curl, +openssl\tsince TIME\t1 image, 1 test, 1 name\n");
    update(&["update", "--dry-run"]).expect(0).says("1 of 1 node with a policy would be renewed");
    assert!(!world.lock().unwrap().contains("nodes:"));
    update(&["update"]).expect(0).says("1 of 1 node with a policy renewed");
    let why = untimed(&world.igraph(&["why", "//a:1", "--engine", "fake"]).expect(0).out);
    assert!(why.contains("//a:1 would run\n  probe renewed at TIME\n"), "{why}");
    // until it is built its image is not the current one, and is not asked
    update(&["update"]).expect(0).says("0 of 1 node with a policy renewed");
    world.verb(&["push", "--locked"]).expect(0);
    assert_eq!(builds(&world), ["a-1 no cache"]);
    // the answer of right after the build is the new baseline
    update(&["update"]).expect(0).says("0 of 1 node with a policy renewed");
    world.write("upgrades", "curl\n");
    let told = update(&["outdated", "--probe", "--json"]).expect(0).out;
    let document: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&document["nodes"][0]["state"], &document["nodes"][0]["probe"]), (&"due".into(), &"otherwise".into()), "{document:#}");
    assert_eq!(document["nodes"][0]["went"], serde_json::json!(["openssl"]));

    // a probe that fails gives no answer, and renews nothing
    world.write("upgrades", "openssl\ncurl\n");
    world.image("a", &from, &probe.replace("answer", "exit 7; answer"));
    let ran = update(&["update"]).expect(0).says("0 of 1 node with a policy renewed");
    assert!(ran.out.starts_with("//a:1\tprobe gives no answer\texit 7"), "{}", ran.out);
    // one that came after the build takes its first answer as the baseline
    world.image("a", &from, "");
    world.image("late", &from, &probe);
    update(&["update"]).expect(0).says("0 of 1 node with a policy renewed");
    update(&["update"]).expect(0).says("0 of 1 node with a policy renewed");
    world.write("upgrades", "more\n");
    update(&["update"]).expect(0).says("1 of 1 node with a policy renewed");
    assert!(world.lock().unwrap().contains("(label: \"//late:1\", renewed: "), "{host}");
}

#[test]
fn what_failed_is_held_back_longer_each_time() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    let from = format!("{}/os:1", registry.host());
    world.image("a", &from, "");
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN exit 3\n"));
    world.image("b", "a:1", "");
    world.image("c", &from, "");
    let tried = |arguments: &[&str]| {
        let ran = world.verb(&[&["test", "--backoff"], arguments].concat()).expect(1);
        let tried = builds(&world).iter().any(|slug| slug == "a-1");
        (tried, ran.err)
    };
    assert!(tried(&[]).0, "the first time");
    for (clock, expected) in [("30m", false), ("61m", true), ("2h", false), ("3h2m", true), ("7h", false)] {
        world.set_clock(clock);
        assert_eq!(tried(&[]).0, expected, "{clock}");
    }
    let (_, said) = tried(&[]);
    assert!(untimed(&said).contains("failed 3 times with the same inputs, last as //a:1; held back until TIME (--backoff)"), "{said}");
    assert!(said.contains("three strikes: failed again and again with the same inputs: //a:1 (3 times)\n"), "{said}");
    // what stands on it is skipped for it, and the rest is done
    assert!(said.contains("//b:1") && world.verb(&["test", "--backoff", "//c:1"]).expect(0).err.contains("nothing to do"), "{said}");
    // without the flag, and by its very name, it is tried
    assert!(tried(&["//a:1"]).0);
    world.verb(&["test"]).expect(1).says("//a:1 (5 times); `--backoff` leaves such alone for a while");
    assert!(!tried(&["//a:*"]).0, "a pattern is no name");

    // it travels, and another machine holds it back too
    world.igraph(&["state", "save", "records"]).expect(0);
    std::fs::remove_dir_all(world.path("igraph-out")).unwrap();
    world.igraph(&["state", "load", "records"]).expect(0);
    assert!(!tried(&[]).0);
    // another key is another matter
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN exit 4\n"));
    assert!(tried(&[]).0);
    world.write("images/a/Dockerfile", &format!("FROM {from}\nRUN exit 0\n"));
    world.verb(&["test", "--backoff"]).expect(0).says("2 built").silent_about("strikes");
}

#[test]
fn the_reason_of_a_forced_run_is_kept() {
    let (registry, world) = (Registry::start(), World::new(""));
    publish(&registry, "os", "1", "x");
    world.image("a", &format!("{}/os:1", registry.host()), "");
    world.verb(&["build"]).expect(0);
    world.verb(&["build", "--force", "--reason", "shellshock", "//a:1"]).expect(0).says("forced: shellshock");
    assert_eq!(builds(&world), ["a-1 no cache"]);
    world.verb(&["build"]).expect(0).says("nothing to do");
    let said = |arguments: &[&str]| world.igraph(arguments).expect(0).out;
    assert!(said(&["why", "//a:1", "--engine", "fake"]).contains("because forced: shellshock"));
    assert!(said(&["why", "//a:1", "--run", "last"]).contains("forced: shellshock"));
    for log in ["list", "show", "what-ran"] {
        let shown = world.igraph(&["log", log]).expect(0);
        assert!(shown.out.contains("shellshock"), "log {log}:\n{}{}", shown.out, shown.err);
    }
}
