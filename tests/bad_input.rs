//! What a user gets for each mistake: the exact message, on which stream, with which exit code. A scene is a workspace with one thing
//! wrong in it.

#[path = "support/world.rs"]
mod world;

use world::{World, is_root, open_way};

/// Runs scenes, each in a world of its own, and joins what they tell.
type Scene<'a> = (&'a str, &'a dyn Fn(&mut World));

fn scenes(scenes: &[Scene<'_>]) -> String {
    let mut told = String::new();
    for (title, scene) in scenes {
        let mut world = World::new();
        world.say(title);
        scene(&mut world);
        told.push_str(&world.told());
    }
    told
}

/// Says on stderr that a scene was left out; with IGRAPH_NO_SKIP it is a failure.
fn skip(scene: &str, why: &str) {
    use std::io::Write;
    assert!(std::env::var_os("IGRAPH_NO_SKIP").is_none(), "{scene}: {why}");
    drop(writeln!(std::io::stderr(), "SKIPPED {scene}: {why}"));
}

/// A scene in which one file has another text, and `check` says what it thinks of that.
macro_rules! broken {
    ($($title:literal: $path:literal = $text:expr;)*) => {
        scenes(&[$(($title, &|world: &mut World| { world.write($path, $text); world.run("check"); })),*])
    };
}

#[test]
fn build_files() {
    let told = broken! {
        "a bracket is missing": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\",\n    Image(name: \"2\"),\n])\n";
        "a quote is missing": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1),\n])\n";
        "a comma is missing": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\" dockerfile: \"Dockerfile\"),\n])\n";
        "an unknown field": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\", dokcerfile: \"x\"),\n])\n";
        "an unknown rule": "images/app/BUILD.ron" = "Package(rules: [\n    Imgae(name: \"1\"),\n])\n";
        "a value of another kind": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: 1),\n])\n";
        "a name is missing": "images/app/BUILD.ron" = "Package(rules: [\n    Image(dockerfile: \"Dockerfile\"),\n])\n";
        "no tag": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"one two\"),\n])\n";
        "one name twice": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\"),\n    Image(name: \"1\"),\n])\n";
        "a field twice": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\", args: {\"A\": \"1\", \"A\": \"2\"}),\n])\n";
        "a test that is nowhere": "images/app/BUILD.ron" = "Package(tests: [\":smoek\"], rules: [\n    Test(name: \"smoke\", run: [\"true\"]),\n    Image(name: \"1\"),\n])\n";
        "a test in two forms": "images/app/BUILD.ron" = "Package(rules: [\n    Test(name: \"smoke\", run: [\"true\"], exec: [[\"true\"]]),\n])\n";
        "one name claimed twice": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\", aliases: [\"latest\"]),\n    Image(name: \"2\", aliases: [\"docker.io/library/app\"]),\n])\n";
        "a field of a later day": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\", scrub: true),\n])\n";
        "a path that leaves the workspace": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\", context: \"../../..\"),\n])\n";
        "an absolute path": "images/app/BUILD.ron" = "Package(rules: [\n    Image(name: \"1\", dockerfile: \"/etc/passwd\"),\n])\n";
        "several mistakes in several files": "images/lib/BUILD.ron" = "Package(test: [\":a\"], rules: [\n    Image(nam: \"1\", jobs: 3),\n    Test(name: \"a\", run: \"true\"),\n])\n";
        "no text": "images/app/BUILD.ron" = b"Package(rules: [ // \xff\xfe\n])\n";
        "an empty file": "images/app/BUILD.ron" = "";
        "the root is no workspace": "BUILD.ron" = "Package(rules: [])\n";
        "the packages are not there": "BUILD.ron" = "Workspace(packages: \"imgaes\")\n";
        "an unknown field of the workspace": "BUILD.ron" = "Workspace(packages: \"images\", job: 3)\n";
        "another engine": "BUILD.ron" = "Workspace(packages: \"images\", engine: Podman)\n";
        "no registry": "BUILD.ron" = "Workspace(packages: \"images\", registry: \"https://reg.corp\")\n";
        "no jobs": "BUILD.ron" = "Workspace(packages: \"images\", jobs: 0)\n";
        "no duration": "BUILD.ron" = "Workspace(packages: \"images\", retries: (delay: \"soon\"))\n";
        "a certificate that is not there": "BUILD.ron" = "Workspace(packages: \"images\", registries: {\"reg.corp\": (tls: Ca(\"ca.pem\"))})\n";
    };
    insta::assert_snapshot!(told);
}

#[test]
fn dockerfiles() {
    let told = broken! {
        "an unknown instruction": "images/app/Dockerfile" = "FROM scratch\nCOYP greeting /\n";
        "an unknown flag": "images/app/Dockerfile" = "FROM scratch\nCOPY --form=x greeting /\n";
        "an empty file": "images/app/Dockerfile" = "# nothing\n";
        "no FROM": "images/app/Dockerfile" = "RUN true\n";
        "a file that is not there, with a near name": "images/app/Dockerfile" = "FROM scratch\nCOPY greting /greeting\n";
        "files that are not there": "images/app/Dockerfile" = "FROM scratch\nCOPY a b c/*.txt /greeting/\n";
        "a source outside the context": "images/app/two/Dockerfile" = "FROM app:1\nCOPY ../greeting /\n";
        "a stage that is not there": "images/app/Dockerfile" = "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /x /x\n";
        "a reference that is none": "images/app/Dockerfile" = "FROM Debian:jessie\n";
        "an argument that is not set": "images/app/Dockerfile" = "ARG TAG\nFROM debian:$TAG\n";
        "a heredoc without end": "images/app/Dockerfile" = "FROM scratch\nRUN <<EOF\ntrue\n";
        "words that are too few": "images/app/Dockerfile" = "FROM scratch\nCOPY greeting\n";
        "a bad option of a mount": "images/app/Dockerfile" = "FROM scratch\nRUN --mount=type=bnid,target=/x true\n";
        "a secret that the build file does not give": "images/app/Dockerfile" = "FROM scratch\nRUN --mount=type=secret,id=npm,required true\n";
        "an agent that the build file does not give": "images/app/Dockerfile" = "FROM scratch\nRUN --mount=type=ssh,required=true true\n";
        "no text": "images/app/Dockerfile" = b"FROM scratch\nLABEL a=\xff\n";
        "nothing is left by .dockerignore": "images/app/.dockerignore" = "gree*\n";
        "a bad pattern in .dockerignore": "images/app/.dockerignore" = "[a-\n";
    };
    insta::assert_snapshot!(told);
}

#[test]
fn files_and_links() {
    let told = scenes(&[
        ("no Dockerfile", &|world| {
            world.remove("images/app/Dockerfile");
            world.run("check");
        }),
        ("the Dockerfile is near", &|world| {
            world.rules("Image(name: \"1\", dockerfile: \"tow/Dockerfile\")").run("check");
        }),
        ("the Dockerfile is a folder", &|world| {
            world.rules("Image(name: \"1\", dockerfile: \"two\")").run("check");
        }),
        ("no context", &|world| {
            world.rules("Image(name: \"1\", context: \"nowhere\")").run("check");
        }),
        ("no stage of that name", &|world| {
            world.write("images/app/Dockerfile", "FROM scratch AS runtime\n");
            world.rules("Image(name: \"1\", target: \"runtmie\")").run("check");
        }),
        ("a Dockerfile by way of a link that leaves the workspace", &|world| {
            world.remove("images/app/Dockerfile").link("images/app/Dockerfile", "/etc/passwd");
            world.run("check");
        }),
        ("a package by way of a link that leaves the workspace", &|world| {
            world.link("images/far", "/etc");
            world.rules("Image(name: \"1\", context: \"../far\", dockerfile: \"Dockerfile\")").run("check");
        }),
        ("a file of the context by way of a link that leaves it", &|world| {
            world.remove("images/app/greeting").link("images/app/greeting", "/etc/passwd");
            world.run("check").run("build //app:1 --engine fake");
        }),
        ("a link in a circle, copied by name", &|world| {
            world.remove("images/app/greeting").link("images/app/greeting", "greeting");
            world.run("check");
        }),
        ("a link in a circle below a folder that is copied", &|world| {
            world
                .write("images/app/Dockerfile", "FROM scratch\nCOPY tree /tree\n")
                .write("images/app/tree/a", "a")
                .link("images/app/tree/up", "..");
            world.link("images/app/tree/self", "self").run("check").run("build //app:1 --engine fake");
        }),
        ("a link in a circle among the packages", &|world| {
            world.link("images/app/again", "..").link("images/round", "round").run("check");
        }),
        ("a socket and a pipe in the context", &|world| {
            nix::unistd::mkfifo(&world.path("images/app/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            world.write("images/app/Dockerfile", "FROM scratch\nCOPY pipe /pipe\n").run("check");
        }),
        ("a name that is no UTF-8", &|world| {
            use std::os::unix::ffi::OsStrExt;
            std::fs::write(world.path("images/app/two").join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
            world.write("images/app/two/Dockerfile", "FROM app:1\nCOPY . /x\n").run("check");
        }),
        ("the build file is a folder", &|world| {
            world.remove("images/app/BUILD.ron");
            std::fs::create_dir(world.path("images/app/BUILD.ron")).unwrap();
            world.run("check");
        }),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn graphs() {
    let told = scenes(&[
        ("a circle of two", &|world| {
            world.write("images/app/Dockerfile", "FROM scratch\nCOPY --from=app:2 /x /x\n").run("check").run("build //app:1 --engine fake");
        }),
        ("a circle of one", &|world| {
            world.write("images/app/Dockerfile", "FROM app:latest\n").run("targets --steps");
        }),
        ("a test Dockerfile that ends elsewhere", &|world| {
            world.write("images/app/test/Dockerfile", "FROM scratch AS other\nFROM scratch\nRUN true\n");
            world.rules("Test(name: \"t\", dockerfile: \"test/Dockerfile\"), Image(name: \"1\", tests: [\":t\"])").run("check");
        }),
        ("two tests of one name on one image", &|world| {
            world.write("images/lib/BUILD.ron", "Package(rules: [Test(name: \"smoke\", run: [\"true\"])])");
            world.rules("Test(name: \"smoke\", run: [\"true\"]), Image(name: \"1\", tests: [\":smoke\", \"//lib:smoke\"])").run("check");
        }),
        ("no test at all", &|world| {
            world.rules("Image(name: \"1\")").run("check").run("test --engine fake").run("tag --engine fake").run("tag --engine fake");
            world.run("push -n --engine fake").run("build --engine fake");
        }),
        ("the name of a base that nobody has", &|world| {
            world.write("images/app/Dockerfile", "FROM 127.0.0.1:1/nobody/base:1\n").run("check").run("build //app:1 --engine fake");
            world.run("build //app:1 --engine fake --locked");
        }),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn labels_and_patterns() {
    let told = scenes(&[("labels and patterns", &|world| {
        world.rules("Image(name: \"4.2.1\"), Image(name: \"4.10\"), Image(name: \"old\", manual: true)");
        world
            .write("images/app/deep/BUILD.ron", "Package(rules: [Image(name: \"m\", manual: true)])")
            .write("images/app/deep/Dockerfile", "FROM scratch\n");
        for line in [
            "//app",
            "app",
            "//ap:4.2.1",
            "//app:4.2.2",
            "//app:9.*",
            "//nothing/...",
            "//app/deep/...",
            "//app:old",
            "//app:[x",
            "//app:4.2.1[test/x]",
            "@nowhere",
            "//app:4.2.1 --exclude //app:*",
            "//app:4.2.1 --exclude //app:x",
            "../../..",
            "///",
            "",
            ":",
            "//app/:x",
            "//App:1",
        ] {
            world.run(&format!("build -n {line}"));
        }
        world.run_with("build -n @-", "//app:4.10\n# comment\n//app:x\n");
        world.run_with("build -n @-", "");
        for line in [
            "why //app",
            "why app:4.2.1",
            "why //app:4.2",
            "why //app:4.2.1[test/smoke]",
            "why docker.io//library/debain:jessie",
            "log show //app:4.2.1",
        ] {
            world.run(line);
        }
        world.current = "images/app".to_owned();
        world.run("targets").run("targets :4.10").run("targets deep:m").run("targets ...").run("targets ../app:4.10");
        world.current = "home".to_owned();
        std::fs::create_dir(world.path("home")).unwrap();
        world.run("targets");
    })]);
    insta::assert_snapshot!(told);
}

#[test]
fn arguments() {
    let told = scenes(&[("flags", &|world| {
        for line in [
            "build --engine podman",
            "build --engine docker=/var/run/docker.sock",
            "build --base debian",
            "build --base debian=./x.tar",
            "build --base app:1=scratch2 --engine fake //app:1",
            "build --base debian:1=rootfs:nowhere.tar --engine fake -n",
            "push --registry staging -n",
            "push --registry https://reg.corp -n",
            "build --timeout 5",
            "build --timeout 0s",
            "build -j 0",
            "build --reason why",
            "build -r many",
            "build --junit /nowhere/x.xml --engine fake",
            "build --build-report /nowhere/x.json --engine fake",
            "targets --affected x",
            "targets --stale --orphans",
            "log show last~x",
            "log show nope",
            "why //app:1 --run last",
            "log what-ran zzzz",
            "state load nowhere",
            "state save /nowhere/x",
            "completions tcsh",
            "-C nowhere check",
            "help elefant",
            "update nonsense",
            "outdated //app:9",
            "build --force --exclude //...",
        ] {
            world.run(line);
        }
    })]);
    insta::assert_snapshot!(told);
}

#[test]
fn no_workspace() {
    let world = World::empty();
    world.say("no workspace");
    for line in ["check", "build", "root", "log list", "clean", "gc", "state save x"] {
        world.run(line);
    }
    insta::assert_snapshot!(world.told());
}

/// What the machine refuses. As root only: another user is needed who may not read, and a disk that can be full.
#[test]
fn the_machine() {
    if !is_root() {
        return skip("the_machine", "only root becomes another user and mounts a small disk");
    }
    let nobody = |world: &mut World| {
        open_way(&world.root());
        world.uid = Some(65534);
    };
    let told = scenes(&[
        ("a Dockerfile that may not be read", &|world| {
            world.mode("images/app/Dockerfile", 0o600);
            nobody(world);
            world.run("check");
        }),
        ("a file of the context that may not be read", &|world| {
            world.mode("images/app/greeting", 0o600);
            nobody(world);
            world.run("check");
        }),
        ("a folder of the context that may not be read", &|world| {
            world
                .write("images/app/tree/a", "a")
                .mode("images/app/tree", 0o700)
                .write("images/app/Dockerfile", "FROM scratch\nCOPY tree /tree\n");
            nobody(world);
            world.run("check");
        }),
        ("a package that may not be read", &|world| {
            world.mode("images/app", 0o700);
            nobody(world);
            world.run("check");
        }),
        ("a build file that may not be read", &|world| {
            world.mode("images/app/BUILD.ron", 0o600);
            nobody(world);
            world.run("check");
        }),
        ("a workspace that may not be written", &|world| {
            nobody(world);
            world
                .run("check")
                .run("targets --stale")
                .run("test -n --engine fake")
                .run("build --engine fake")
                .run("log list")
                .run("state save x")
                .run("clean");
        }),
        ("records that may not be read", &|world| {
            world.run("build --engine fake");
            world.mode("igraph-out", 0o700);
            nobody(world);
            world.run("targets --stale").run("build --engine fake").run("log list");
        }),
    ]);
    insta::assert_snapshot!(told);
}

/// A file system of so many bytes, gone when dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mounted(at: std::path::PathBuf, size: &str) -> Result<Self, nix::Error> {
        std::fs::create_dir_all(&at).unwrap();
        let options = format!("size={size}");
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk() {
    if !is_root() {
        return skip("a_full_disk", "only root mounts a small disk");
    }
    let world = World::new();
    let _disk = match Disk::mounted(world.path("igraph-out"), "256k") {
        Ok(disk) => disk,
        Err(error) => return skip("a_full_disk", &format!("no tmpfs can be mounted here: {error}")),
    };
    // what is left holds no database
    world.write("igraph-out/ballast", vec![0_u8; 230 * 1024]);
    world.say("a full disk").run("build --engine fake").run("test --engine fake").remove("igraph-out/ballast");
    insta::assert_snapshot!(world.told());
}

#[test]
fn records() {
    let told = scenes(&[
        ("a database that is none", &|world| {
            world
                .run("build --engine fake //app:1")
                .write("igraph-out/state.db", "no database at all, but long enough to look like a header of one, which it is not");
            world.run("build --engine fake //app:1").run("targets --stale").run("log list").run("why //app:1");
        }),
        ("a database with a hole in it", &|world| {
            world.run("build --engine fake //app:1");
            let path = world.path("igraph-out/state.db");
            let mut bytes = std::fs::read(&path).unwrap();
            let length = bytes.len();
            bytes[4096..length.min(40960)].fill(0xa5);
            std::fs::write(path, bytes).unwrap();
            world.run("build --engine fake //app:2");
        }),
        ("a database of a newer igraph", &|world| {
            world.run("build --engine fake //app:1");
            rusqlite::Connection::open(world.path("igraph-out/state.db")).unwrap().pragma_update(None, "user_version", 9999).unwrap();
            world.run("build --engine fake //app:2").run("targets --stale");
        }),
        ("igraph-out is a file", &|world| {
            world.write("igraph-out", "").run("build --engine fake").run("log list").run("targets --stale");
        }),
        ("a saved state that is none", &|world| {
            world.write("x", "nothing").run("state load x").run("state load nowhere").run("state load images");
        }),
        ("a saved state that was cut", &|world| {
            world.run("build --engine fake //app:1").run("state save x");
            let path = world.path("x");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
            world.run("state load x");
        }),
        ("a lock that is no RON", &|world| {
            world.write("igraph.lock", "Lock(version: 1, bases: [").run("check").run("build --engine fake");
        }),
        ("a lock with the marks of a merge", &|world| {
            world
                .write("igraph.lock", "<<<<<<< HEAD\nLock(version: 1, bases: [])\n=======\nLock(version: 1, bases: [])\n>>>>>>> other\n")
                .run("check");
        }),
        ("a lock of a newer igraph", &|world| {
            world.write("igraph.lock", "Lock(version: 99, bases: [])\n").run("check");
        }),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn two_at_once() {
    let world = World::new();
    world.write("images/app/Dockerfile", "FROM scratch\nRUN sleep 600\n");
    let mut first = world.start("build --engine fake //app:1");
    // it holds the lock once it has said what it will do
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(first.stderr.as_mut().unwrap()), &mut line).unwrap();
    world
        .say("two at once")
        .run("build --no-wait --engine fake")
        .run("clean --no-wait")
        .run("gc --no-wait --engine fake")
        .run("state load --no-wait x");
    world.run("update --no-wait").run("targets").run("build -n --engine fake //app:1");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first.id().cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(143));
    world.run("log what-failed").run("log list");
    insta::assert_snapshot!(world.told());
}

#[test]
fn engines_and_registries() {
    let told = scenes(&[
        ("no daemon", &|world| {
            world.run("build --engine docker=unix:///nowhere/docker.sock").run("build --engine docker=tcp://127.0.0.1:1");
            world.environment.push(("DOCKER_HOST".to_owned(), "unix:///nowhere/else.sock".to_owned()));
            world.run("build --engine docker").run("gc --engine docker");
            world.environment = vec![("DOCKER_CONTEXT".to_owned(), "nope".to_owned())];
            world.run("build --engine docker");
        }),
        ("no registry", &|world| {
            world.run("push --engine fake //app:1").run("push --engine fake //app:1").run("test --engine fake //app:1");
            world.write("images/app/Dockerfile", "FROM 127.0.0.1:1/nobody/base:1\n").run("update").run("outdated");
        }),
        ("a base command that fails, writes nothing, or can't be started", &|world| {
            world.write("images/base/fails", "#!/bin/sh\necho no mirror today >&2\nexit 7\n").mode("images/base/fails", 0o755);
            world.write("images/base/plain", "#!/bin/sh\n");
            world.write(
                "images/base/BUILD.ron",
                "Package(rules: [\n    Base(name: \"a\", provides: [\"a:1\"], from: Command([\"./fails\", \"{out}\"]), inputs: [\"fails\"]),\n    \
                 Base(name: \"b\", provides: [\"b:1\"], from: Command([\"true\", \"{out}\"])),\n    \
                 Base(name: \"c\", provides: [\"c:1\"], from: Command([\"no-such-program\", \"{out}\"])),\n    \
                 Base(name: \"d\", provides: [\"d:1\"], from: Command([\"./plain\", \"{out}\"])),\n    \
                 Base(name: \"e\", provides: [\"e:1\"], from: Command([\"sh\", \"-c\", \"echo x > $0\", \"{out}\"])),\n    \
                 Base(name: \"f\", provides: [\"f:1\"], from: Rootfs(\"nowhere.tar\")),\n])\n",
            );
            let mut probe = std::process::Command::new("unshare");
            let works = probe.args(["--mount", "--pid", "--fork", "true"]).status().is_ok_and(|status| status.success());
            assert!(works || std::env::var_os("IGRAPH_NO_SKIP").is_none(), "commands of bases get no namespaces here");
            for name in ["a", "b", "c", "d", "e", "f"] {
                world.write("images/app/Dockerfile", format!("FROM {name}:1\n")).run("build --engine fake //app:1");
            }
            world.run("check");
        }),
        ("a base command without {out}", &|world| {
            world
                .write("images/base/BUILD.ron", "Package(rules: [Base(name: \"a\", provides: [\"a:1\"], from: Command([\"true\"]))])\n")
                .run("check");
        }),
        ("stand-ins", &|world| {
            world.write("images/app/Dockerfile", "FROM debian:jessie\n");
            world
                .run("build --engine fake //app:1 --base debian:jessie=rootfs:nowhere.tar")
                .run("build --engine fake //app:1 --base debian:jesie=rootfs:x.tar -n");
            world
                .run("build --engine fake //app:1 --base app:1=debian:jessie")
                .run("build --engine fake //app:1 --base debian:jessie=oci:images")
                .write("x.tar", "no tar");
            world.run("build --engine fake //app:1 --base debian:jessie=rootfs:x.tar");
        }),
        ("secrets that are not there", &|world| {
            world
                .write("images/app/Dockerfile", "FROM scratch\nRUN --mount=type=secret,id=a,required=true --mount=type=secret,id=b true\n");
            world
                .rules("Image(name: \"1\", secrets: {\"a\": File(\"nowhere\"), \"b\": Env(\"NOT_SET\")})")
                .run("check")
                .run("build --engine docker=unix:///nowhere");
        }),
    ]);
    insta::assert_snapshot!(told);
}
