//! Bases of this machine: tars, layouts, and commands that make tars.

use std::path::PathBuf;

use crate::registry::Registry;
use crate::support::skip;
use crate::world::*;

fn with_base(from: &str) -> World {
    let world = World::new("registry: \"reg.corp\"");
    world.write("images/base/BUILD.ron", &format!("Package(rules: [Base(name: \"sid\", provides: [\"debian:sid\"], from: {from})])"));
    world.image("a", "debian:sid", "");
    world
}

/// With a program `make` that is given `{out}`.
fn with_command(program: &str) -> World {
    let world = with_base("Command([\"./make\", \"{out}\"]), inputs: [\"make\", \"list\"]");
    world.write_program("images/base/make", program);
    world.write("images/base/list", "sid\n");
    world.write("images/base/note", "not listed\n");
    world
}

/// Makes a tar of the list, and notes that it ran.
const MAKE: &str = "#!/bin/sh\nset -e\necho made >> ../../runs\necho to stdout\necho to stderr >&2\n\
                    tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 -cf \"$1\" list\n";

fn runs(world: &World) -> usize {
    std::fs::read_to_string(world.path("runs")).unwrap_or_default().lines().count()
}

fn base_image(world: &World) -> String {
    let out = world.igraph(&["why", "//base:sid", "--engine", "fake"]).expect(0).out;
    out.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned()
}

/// What igraph keeps of bases.
fn kept(world: &World) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(world.path("igraph-out/bases"))
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn a_tar_plain_or_packed_is_the_same_base() {
    let world = with_base("Rootfs(\"../../root.tar\")");
    let tar = tar_of("etc/word", "one");
    std::fs::write(world.path("root.tar"), &tar).unwrap();
    let ran = world.verb(&["test"]).expect(0);
    assert_eq!((ran.labels("BASE"), ran.labels("BUILD")), (vec!["//base:sid".to_owned()], vec!["//a:1".to_owned()]));
    let plain = base_image(&world);
    world.verb(&["test"]).expect(0).says("nothing to do");
    // packed, the file is another and the image the same: nothing above it runs
    let mut packed = Vec::new();
    igraph::registry::pack(&mut tar.as_slice(), &mut packed).unwrap();
    std::fs::write(world.path("root.tar"), &packed).unwrap();
    let ran = world.verb(&["test"]).expect(0);
    assert_eq!((ran.labels("BASE").len(), ran.labels("BUILD").len(), base_image(&world)), (1, 0, plain.clone()));
    std::fs::write(world.path("root.tar"), tar_of("etc/word", "two")).unwrap();
    let ran = world.verb(&["test"]).expect(0).says("//base:sid");
    assert_eq!(ran.labels("BUILD"), ["//a:1"]);
    assert!(base_image(&world) != plain && world.lock().is_none());
    std::fs::write(world.path("root.tar"), "not a tar").unwrap();
    world.verb(&["test"]).expect(1).says("it is no tar");
    std::fs::remove_file(world.path("root.tar")).unwrap();
    world.verb(&["test"]).expect(2).says("root.tar");
}

#[test]
fn a_command_runs_when_something_that_counts_changed() {
    let world = with_command(MAKE);
    let ran = world.verb(&["test"]).expect(0);
    assert_eq!((ran.labels("BASE"), ran.labels("BUILD"), runs(&world)), (vec!["//base:sid".to_owned()], vec!["//a:1".to_owned()], 1));
    let log = world.igraph(&["log", "show", "last", "//base:sid"]).expect(0).out;
    assert!(log.contains("to stdout") && log.contains("to stderr"), "{log}");
    // nothing is left but the tar
    let first = base_image(&world);
    assert_eq!(kept(&world), [format!("{}.tar", first.trim_start_matches("sha256:"))]);
    // what does not count
    world.write("images/base/note", "changed\n");
    world.write("images/base/list", "sid\n");
    world.verb(&["test"]).expect(0).says("nothing to do");
    assert_eq!(runs(&world), 1);
    // what counts and comes out the same ends there
    world.write_program("images/base/make", &format!("{MAKE}# a comment\n"));
    let ran = world.verb(&["test"]).expect(0).says("images/base/make changed");
    assert_eq!((runs(&world), ran.labels("BUILD").len(), base_image(&world)), (2, 0, first.clone()));
    // what counts and comes out otherwise
    world.write("images/base/list", "sid sid\n");
    let ran = world.verb(&["test"]).expect(0).says("images/base/list changed");
    assert_eq!((runs(&world), ran.labels("BUILD").len()), (3, 1));
    // going back is a hit
    world.write("images/base/list", "sid\n");
    world.verb(&["test"]).expect(0).says("nothing to do");
    assert_eq!(runs(&world), 3);
    // words and environment count
    let build_file = world.read("images/base/BUILD.ron");
    world.write("images/base/BUILD.ron", &build_file.replace("\"{out}\"]", "\"{out}\", \"more\"]"));
    world.verb(&["test"]).expect(0);
    world.write("images/base/BUILD.ron", &build_file.replace("inputs:", "env: {\"LEVEL\": \"1\"}, inputs:"));
    let why = world.igraph(&["why", "//base:sid", "--engine", "fake"]).expect(0).out;
    assert!(why.contains("command changed:") && why.contains("env LEVEL changed: nothing → 1"), "{why}");
    world.verb(&["test"]).expect(0);
    assert_eq!(runs(&world), 5);
    let manifest = world.igraph(&["why", "--manifest", "//base:sid", "--engine", "fake"]).expect(0).out;
    assert!(!manifest.contains(world.path("").to_str().unwrap()), "no absolute path: {manifest}");
}

#[test]
fn what_a_command_made_is_brought_in_again_and_made_again_only_when_it_is_gone() {
    // the engine that pretends forgets all between two runs
    let world = with_command(MAKE);
    world.verb(&["build"]).expect(0);
    world.write("images/a/Dockerfile", "FROM debian:sid\nRUN make other\n");
    world.verb(&["build"]).expect(0);
    assert!(world.engine_calls().contains("Load"), "{}", world.engine_calls());
    assert_eq!(runs(&world), 1);
    for name in kept(&world) {
        std::fs::remove_file(world.path("igraph-out/bases").join(name)).unwrap();
    }
    world.write("images/a/Dockerfile", "FROM debian:sid\nRUN make another\n");
    let ran = world.verb(&["build"]).expect(0);
    assert_eq!((runs(&world), ran.labels("BASE"), ran.labels("BUILD")), (2, vec!["//base:sid".to_owned()], vec!["//a:1".to_owned()]));
}

#[test]
fn a_command_that_fails_is_shown() {
    for (program, code, said) in [
        ("#!/bin/sh\necho the reason >&2\nexit 7\n", 1, &["exit 7 of `./make {out}`", "the reason"][..]),
        ("#!/bin/sh\nkill -TERM $$\n", 1, &["exit 143 of"]),
        ("#!/bin/sh\ntrue\n", 1, &["ended well but wrote no {out}"]),
        ("#!/bin/sh\necho hello > \"$1\"\n", 1, &["it is no tar"]),
        ("#!/no/such/interpreter\n", 1, &["./make"]),
        ("#!/bin/sh\necho 'E: Failed to fetch http://mirror/x  Connection timed out'\nexit 100\n", 10, &["exit 100 of"]),
    ] {
        let world = with_command(program);
        let ran = world.verb(&["test", "--retries", "0"]).expect(code);
        for text in said {
            assert!(ran.err.contains(text), "{program}: `{text}` is missing in {}", ran.err);
        }
        assert_eq!(ran.labels("SKIP"), ["//a:1", "//a:1[test/t]"], "{}", ran.err);
        assert_eq!(kept(&world), Vec::<String>::new(), "{program}");
    }
}

#[test]
fn a_command_that_leaves_a_program_behind_is_not_waited_for() {
    let world = with_command(&format!("{MAKE}sleep 1000 &\n"));
    world.verb(&["build"]).expect(0);
}

/// Waits for a file that a program in the background writes.
fn wait_for(path: &std::path::Path) {
    while !exists(path) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_killed_command_leaves_nothing_running_and_nothing_mounted() {
    if !is_root() {
        return skip("a_killed_command_leaves_nothing_running_and_nothing_mounted", "mounting needs root");
    }
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGKILL] {
        // a part of this very workspace, bound below TMPDIR: whoever cleans through it destroys it
        let world = with_command(
            "#!/bin/sh\nset -e\nmkdir \"$TMPDIR/mnt\"\nmount --bind \"$PWD/../../precious\" \"$TMPDIR/mnt\"\n\
             echo $TMPDIR > ../../started\nexec sleep 1000\n",
        );
        world.write("precious/file", "keep me");
        let mut command = world.command(&["build", "--engine", "fake"]);
        let mut child = command.env("IGRAPH_TEST_ENGINE", "fake").stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_for(&world.path("started"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        child.wait().unwrap();
        let work = world.path("igraph-out/bases");
        let work = work.to_str().unwrap();
        // the namespaces go with their last process, which the kernel ends right after igraph
        while uses(work) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains(work));
        world.write_program("images/base/make", MAKE);
        world.verb(&["build"]).expect(0);
        assert_eq!(world.read("precious/file"), "keep me");
        world.igraph(&["gc", "--engine", "fake"]).expect(0);
        assert!(kept(&world).iter().all(|name| name.ends_with(".tar")), "{:?}", kept(&world));
    }
}

/// Whether a process still has this text in its mounts.
fn uses(text: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let mounts = std::fs::read_to_string(entry.path().join("mounts")).unwrap_or_default();
        mounts.contains(text)
    })
}

/// A bind mount that is gone when the value is.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn cleaning_never_crosses_a_mount() {
    if !is_root() {
        return skip("cleaning_never_crosses_a_mount", "mounting needs root");
    }
    // what a command left behind where there are no namespaces: the same file system, bound within the work folder
    let world = with_command(MAKE);
    world.write("precious/file", "keep me");
    let manifest = world.igraph(&["why", "--manifest", "//base:sid", "--engine", "fake"]).expect(0).out;
    let key = manifest.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    let place = world.path(&format!("igraph-out/bases/work-{key}/mnt dir"));
    std::fs::create_dir_all(&place).unwrap();
    let none = None::<&str>;
    if let Err(error) = nix::mount::mount(Some(&world.path("precious")), &place, none, nix::mount::MsFlags::MS_BIND, none) {
        return skip("cleaning_never_crosses_a_mount", &format!("mounting is not allowed: {error}"));
    }
    let bound = Bound(place);
    world.verb(&["build"]).expect(10).says("is a mount point: unmount it first");
    world.igraph(&["gc", "--engine", "fake"]).expect(10).says("is a mount point");
    world.igraph(&["clean"]).expect(10).says("is a mount point");
    assert_eq!(world.read("precious/file"), "keep me");
    drop(bound);
    world.verb(&["build"]).expect(0);
    assert_eq!(world.read("precious/file"), "keep me");
}

#[test]
fn a_layout_is_a_base() {
    let registry = Registry::start();
    let world = with_base("OciLayout(\"../../layout\")");
    let layout = |word: &str| world.layout(&registry, word);
    let first = layout("one");
    world.verb(&["test"]).expect(0);
    assert_eq!(base_image(&world), first);
    world.verb(&["test"]).expect(0).says("nothing to do");
    let second = layout("two");
    assert_eq!(world.verb(&["test"]).expect(0).labels("BUILD"), ["//a:1"]);
    assert_eq!(base_image(&world), second);
    std::fs::write(world.path("layout/blobs/sha256").join(second.trim_start_matches("sha256:")), "{}").unwrap();
    world.verb(&["test"]).expect(1).says("is damaged");
}
