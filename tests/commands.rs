//! Each command from outside, in a workspace that the pretended engine builds: what it prints, where, and how it ends.

#[path = "support/registry.rs"]
mod registry;
#[path = "support/world.rs"]
mod world;

use registry::Registry;
use world::World;

/// Everything at once: a failing image, what stands on it, a flaky test is not among it.
fn failing() -> World {
    let world = World::new();
    world.write("images/app/Dockerfile", "FROM scratch\nCOPY greeting /greeting\nRUN true\n");
    world.write("images/app/two/Dockerfile", "FROM app:1\nCOPY more /more\nRUN exit 3\n");
    world.write("images/app/three/Dockerfile", "FROM app:2\n");
    world.write(
        "images/app/BUILD.ron",
        "Package(tests: [\":smoke\"], rules: [\n    Test(name: \"smoke\", run: [\"true\"]),\n    Test(name: \"bad\", run: [\"exit 9\"], retries: 0),\n    \
         Image(name: \"1\", aliases: [\"latest\"], tests: [\":bad\"]),\n    Image(name: \"2\", dockerfile: \"two/Dockerfile\"),\n    \
         Image(name: \"3\", dockerfile: \"three/Dockerfile\"),\n])\n",
    );
    world
}

#[test]
fn targets() {
    let world = World::new();
    world.say("listing").run("targets").run("targets --steps").run("targets //app:2 --steps --json").run("targets --show-key");
    world.say("what is stale").run("targets --stale --engine fake").run("build --engine fake //app:1").run("targets --stale --engine fake");
    world
        .run("targets --stale --steps --json --engine fake //app:1")
        .run("targets --show-key --engine fake")
        .run("targets --stale --steps --show-key --engine fake //app:1");
    world.write("images/app/greeting", "changed\n").run("targets --stale --engine fake").run("targets --stale --json --engine fake");
    insta::assert_snapshot!(world.told());
}

#[test]
fn affected() {
    let world = World::new();
    world
        .write("images/app/README.md", "read me\n")
        .write("images/other/BUILD.ron", "Package(rules: [Image(name: \"x\", untested: \"a trial\")])\n");
    world
        .write("images/other/Dockerfile", "FROM scratch\nCOPY tree /tree\n")
        .write("images/other/tree/a", "a")
        .write("list", "images/app/two/more\n");
    for (what, paths) in [
        ("a file that is copied", "images/app/greeting\n"),
        ("one of a child", "images/app/two/more\n"),
        ("one that nothing reads", "images/app/README.md\n"),
        ("a Dockerfile", "images/app/two/Dockerfile\n"),
        ("a build file", "images/other/BUILD.ron\n"),
        ("the workspace's", "BUILD.ron\n"),
        ("one that is gone", "images/other/tree/gone\n"),
        ("one that is renamed: git tells the old name and the new one", "images/other/tree/old\nimages/other/tree/a\n"),
        ("a folder that is gone with its files", "images/other/tree/deep/gone\n"),
        ("a new package, gone again", "images/gone/BUILD.ron\n"),
        ("outside of the workspace", "../elsewhere\n/etc/passwd\n"),
        ("none", ""),
    ] {
        world.say(what).run_with("targets --affected @-", paths);
    }
    world.say("with steps, of some, from a file, as JSON").run("targets --affected @list --steps").run("targets --affected @list //other:");
    world.run("targets --affected @list --json");
    insta::assert_snapshot!(world.told());
}

/// `git diff --name-only … | igraph targets --affected @- | igraph test @-`
#[test]
fn a_pull_request() {
    let world = World::new();
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        command
            .args(["-c", "user.name=x", "-c", "user.email=x@y", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(world.root());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    world.write(".gitignore", "igraph-out\njunit.xml\n");
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "all"]);
    let request = |what: &str| {
        git(&["add", "-A"]);
        git(&["commit", "-q", "--allow-empty", "-m", what]);
        let changed = git(&["diff", "--no-renames", "--name-only", "--relative", "HEAD~1"]);
        world.say(what).run_with("targets --affected @-", &changed);
        let (_, affected, _) = world.ran_with("targets --affected @-", &changed);
        world.run_with("test --engine fake @- --junit junit.xml", &affected);
        assert!(std::fs::read_to_string(world.path("junit.xml")).unwrap().contains("<testsuites"), "{what}");
    };
    request("nothing");
    world.write("README.md", "of no image\n");
    request("a file that no image reads");
    world.write("images/app/two/more", "other\n");
    request("a file of one image");
    world
        .remove("images/app/greeting")
        .write("images/app/hello", "hello\n")
        .write("images/app/Dockerfile", "FROM scratch\nCOPY hello /greeting\nRUN true\n");
    request("a file that is renamed, with the instruction that copies it");
    world
        .write("images/app/Dockerfile", "FROM scratch\nCOPY tree /tree\n")
        .write("images/app/tree/a", "a")
        .write("images/app/tree/deep/b", "b");
    world.write("images/app/test/Dockerfile", "COPY data /data\nRUN true\n").write("images/app/test/data", "1");
    world.write(
        "images/app/BUILD.ron",
        "Package(rules: [\n    Test(name: \"t\", dockerfile: \"test/Dockerfile\"),\n    Image(name: \"1\", tests: [\":t\"]),\n    \
         Image(name: \"2\", dockerfile: \"two/Dockerfile\", extra_inputs: [\"extra/*\"], untested: \"a trial\"),\n])\n",
    );
    world.write("images/app/extra/x", "x");
    request("a folder, a test Dockerfile, and a file that counts though nothing reads it");
    git(&["mv", "images/app/tree/deep/b", "b"]);
    request("a file that is moved away, and its folder with it");
    world.write("images/app/test/data", "2");
    let changed = "images/app/test/data\n";
    world
        .say("what a test copies: the test is affected, and without steps the image is listed for it")
        .run_with("targets --affected @- --steps", changed)
        .run_with("targets --affected @-", changed);
    world
        .say("the same without records")
        .run("clean")
        .run_with("targets --affected @- --steps", changed)
        .run_with("targets --affected @-", "images/app/extra/x\n");
    world.write("images/app/tree/\u{e9}", "").run_with("targets --affected @-", "\"images/app/tree/\\303\\251\"\n");
    insta::assert_snapshot!(world.told());
}

#[test]
fn why() {
    let world = World::new();
    world.write("images/app/Dockerfile", "FROM scratch\nARG FLAVOUR=plain\nCOPY greeting /greeting\nRUN echo $FLAVOUR\n");
    world
        .say("before anything ran")
        .run("why //app:1 --engine fake")
        .run("why //app:2 --engine fake")
        .run("why //app:2[test/smoke] --engine fake")
        .run("why //app:2 --manifest --engine fake");
    world.run("why //app:1 --manifest --engine fake").run("why //app:1 --run last").run("test --engine fake");
    world
        .say("fresh")
        .run("why //app:1 --engine fake")
        .run("why app:2 --engine fake")
        .run("why //app:2[test/smoke] --engine fake")
        .run("why //app:2[tag/2] --engine fake");
    world
        .run("why //app:2 --manifest --engine fake")
        .run("why //app:2[test/smoke] --manifest --engine fake")
        .run("why //app:2[test/smoke] --run last")
        .run("why //app:1 --vs last --engine fake");
    world
        .write("images/app/greeting", "changed\n")
        .write("images/app/Dockerfile", "FROM scratch\nARG FLAVOUR=odd\nCOPY greeting /greeting\nRUN echo $FLAVOUR again\n");
    world
        .say("changed")
        .run("why //app:1 --engine fake")
        .run("why //app:2 --engine fake")
        .run("why //app:1 --vs last --engine fake")
        .run("why //app:2 --vs last --engine fake");
    world.run("why //app:1[test/smoke] --run nope").run("why //app:9 --engine fake").run("why //app:1[tag/3] --engine fake");
    insta::assert_snapshot!(world.told());
}

#[test]
fn logs_of_a_run_that_fails() {
    let world = failing();
    world.say("a run").run("test --engine fake -j 1");
    for line in [
        "log list",
        "log what-ran",
        "log what-failed",
        "log show",
        "log show -v",
        "log show //app:2",
        "log show last //app:1[test/bad]",
        "log show //app:2 --attempt 2",
        "log show //app:2 --attempt 1",
        "log show //app:3",
        "log critical-path",
        "why //app:2 --run last",
        "why //app:3 --run last",
        "why //app:2 --engine fake",
        "why //app:1[test/bad] --engine fake",
    ] {
        world.run(line);
    }
    let (code, trace, _) = world.ran("log trace");
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    assert!(code == 0 && trace["traceEvents"].as_array().is_some_and(|events| !events.is_empty()), "{trace}");
    world
        .say("again")
        .run("test --engine fake -j 1 -q")
        .run("log list")
        .run("log what-ran last~1")
        .run("tag --engine fake -n")
        .run("test --engine fake --check");
    insta::assert_snapshot!(world.told());
}

#[test]
fn what_is_shown_and_where() {
    let world = World::new();
    world.say("documents").run("build --engine fake --show-output").run("build --engine fake --show-output");
    let (code, events, err) = world.ran("test --engine fake --json");
    assert_eq!((code, err.contains("PASS")), (0, true), "{err}");
    for line in events.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    world.run("test --engine fake --junit out.xml --build-report -");
    let junit = std::fs::read_to_string(world.path("out.xml")).unwrap();
    assert!(junit.contains("<testsuites") && junit.matches("<testcase").count() == 2, "{junit}");
    world.run("build --engine fake --build-report report.json --force --reason because //app:2 -q");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(world.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], "igraph.build-report", "{report}");
    world
        .run("build --engine fake --force //app:2 --logs all")
        .run("build --engine fake --force //app:2 --logs stream --console plain")
        .run("build --engine fake --force //app:2 --console none");
    world
        .run("build --engine fake -n --json //app:2")
        .run("build --engine fake --check //app:2")
        .run("tag -n --engine fake //app:2 -v")
        .run("build --engine fake -v");
    insta::assert_snapshot!(world.told());
    // on no terminal, and with NO_COLOR, nothing is coloured
    let (_, out, err) = world.ran("build --engine fake --force");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let world = World::new();
    assert_eq!(world.ran("build --engine fake").0, 0);
    for line in [
        "targets --steps --json",
        "log list",
        "log show",
        "check -v",
        "build --engine fake --show-output",
        "why //app:1 --manifest --engine fake",
        "build --engine fake --force --json",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.command(line).stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panic") && !err.contains("error"), "{line}: {err}");
        let expected = if line == "check -v" { 0 } else { 141 };
        assert_eq!(output.status.code(), Some(expected), "{line}: {err}");
    }
}

#[test]
fn where_one_is() {
    let mut world = World::new();
    world
        .say("from elsewhere")
        .run("-C images/app targets")
        .run("-C images/app/two targets")
        .run("-C images targets app:1")
        .run("root")
        .run("-C images/app/two root")
        .run("-C images/app build -n --engine fake :1");
    world.current = "images/app".to_owned();
    world
        .say("in images/app")
        .run("targets")
        .run("targets :1")
        .run("targets ...")
        .run("build -n --engine fake :2")
        .run("why :1 --engine fake")
        .run_with("targets --affected @-", "greeting\n../app/two/more\n");
    world
        .write("patterns", "# mine\n//app:1\n\n:2\n")
        .write("images/app/patterns", ":1\n")
        .run("targets @patterns")
        .run("build -n --engine fake ... --exclude :1");
    world.current = "images/app/two".to_owned();
    world.say("in a folder of no package").run("targets").run("build -n --engine fake");
    insta::assert_snapshot!(world.told());
}

#[test]
fn state_clean_and_gc() {
    let world = World::new();
    world.say("nothing yet").run("log list").run("clean").run("state save s").run("gc --engine fake -n");
    world.run("test --engine fake").run("state save s").run("clean").run("clean").run("targets --stale --engine fake");
    world.run("state load s").run("state load s").run("test --engine fake").run("gc --engine fake -n").run("gc --engine fake");
    world.run("doctor --engine fake");
    insta::assert_snapshot!(world.told());
}

#[test]
fn names_in_a_registry() {
    let registry = Registry::start();
    let world = World::new();
    world.write("BUILD.ron", format!("Workspace(packages: \"images\", registry: \"{}\", retries: 0, jobs: 1)\n", registry.host()));
    let told = |world: &World| world.told().replace(registry.host(), "REGISTRY");
    world.say("push").run("push --engine fake //app:1").run("push --engine fake //app:1");
    registry.take_requests();
    world.run("push --engine fake //app:1");
    assert!(registry.take_requests().is_empty(), "a push of nothing asks nobody");
    world.say("an alias is given up").write(
        "images/app/BUILD.ron",
        "Package(tests: [\":smoke\"], rules: [Test(name: \"smoke\", run: [\"true\"]), Image(name: \"1\")])\n",
    );
    world.run("targets --orphans").run("targets --orphans --json");
    world.say("staging").run(&format!("push --engine fake //app:1 --registry {}/staging", registry.host())).run("targets --orphans");
    world.say("why a name").run("why //app:1[push/1] --engine fake").run("why //app:1[push/1] --manifest --engine fake");
    insta::assert_snapshot!(told(&world));
}

#[test]
fn a_base_from_a_registry() {
    let registry = Registry::start();
    let world = World::new();
    world.write("BUILD.ron", format!("Workspace(packages: \"images\", registry: \"{}\", retries: 0, jobs: 1)\n", registry.host()));
    let give = |text: &str| {
        let platform = igraph::platform::Platform::host();
        let layer = format!("layer {text}");
        let diff_id = registry.add_blob("base", layer.as_bytes());
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#,
            platform.architecture()
        );
        let id = registry.add_blob("base", config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{id}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{diff_id}","size":{}}}]}}"#,
            config.len(),
            layer.len()
        );
        registry.add_manifest("base", "1", "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    };
    give("one");
    world.write("images/app/Dockerfile", format!("FROM {}/base:1\nCOPY greeting /greeting\n", registry.host()));
    let base = format!("{}//base:1", registry.host());
    world.say("cold").run("build --locked --engine fake //app:1").run("outdated").run("update -n").run("build --engine fake //app:1");
    world
        .say("locked")
        .run("build --locked --engine fake")
        .run("outdated")
        .run("outdated -v")
        .run(&format!("why {base} --engine fake"))
        .run(&format!("why {base} --manifest --engine fake"));
    give("two");
    world
        .say("moved")
        .run("outdated")
        .run("build -n --engine fake")
        .run("update -n")
        .run(&format!("update {}/base:1", registry.host()))
        .run("why //app:1 --engine fake")
        .run("why //app:2 --engine fake");
    world.run("build --engine fake").run("update").run(&format!("why {base} --engine fake")).run("outdated //app:2");
    insta::assert_snapshot!(world.told().replace(registry.host(), "REGISTRY"));
}
