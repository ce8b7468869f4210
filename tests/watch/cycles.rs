//! What people do to files, and what comes of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use crate::house::{PACKAGE, World, eventually};

#[test]
fn fail_edit_pass() {
    let world = World::new();
    let mut watching = world.watch(&["test", "--watch", "-v"]);
    assert!(watching.seen.iter().any(|line| line.contains("Summary")), "{:#?}", watching.seen);
    assert_eq!(world.runs(), 1);

    // a failing step: it is said, and the watch goes on
    world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /src\nRUN exit 3\n");
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("igraph: images/app/one/Dockerfile changed") && said.contains("FAIL"), "{said}");
    assert!(said.contains("//app:two") && !said.contains("PASS"), "what stands on it is skipped: {said}");
    assert_eq!(world.runs(), 2);

    // the same content again: nothing runs, though its last run failed
    world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /src\nRUN exit 3\n");
    watching.until("nothing to do");
    // an edit of something else runs that alone
    world.write("images/app/two/file", "changed while one fails");
    watching.until("nothing to do");
    assert_eq!(world.runs(), 2);

    world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /src\nRUN echo fixed\n");
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("2 built") && said.contains("2 passed"), "{said}");
    assert_eq!(world.runs(), 3);
    let log = world.cold(&["log", "what-ran"]);
    assert!(log.contains("images/app/one/Dockerfile changed"), "{log}");
    let events = fs::read_dir(world.path("igraph-out/log")).unwrap().map(|run| run.unwrap().path().join("events.jsonl"));
    let mut opened: Vec<String> = events.map(|path| fs::read_to_string(path).unwrap().lines().nth(1).unwrap().to_owned()).collect();
    opened.sort();
    let told = opened.iter().filter(|line| line.contains(r#""reason":"images/app/one/Dockerfile changed""#)).count();
    assert_eq!(told, 2, "{opened:#?}");

    let (code, _) = watching.stop();
    assert_eq!(code, Some(130));
    assert!(world.igraph(&["test", "--check"]).status().unwrap().success(), "a fresh process finds nothing to do");
}

#[test]
fn every_way_to_change_a_file() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch", "-v"]);
    let mut edit = |what: &str, ran: bool, edit: &dyn Fn(&World)| {
        let before = world.runs();
        edit(&world);
        let said = watching.until(if ran { "Summary" } else { "nothing to do" }).join("\n");
        assert_eq!(world.runs(), before + usize::from(ran), "{what}: {said}");
        assert!(world.igraph(&["build", "--check"]).status().unwrap().success(), "{what}: {}", world.cold(&["build", "-n"]));
    };
    edit("content", true, &|world| world.write("images/app/one/src/a", "other"));
    edit("a touch", false, &|world| {
        drop(fs::File::options().append(true).open(world.path("images/app/one/src/a")).unwrap().set_modified(std::time::SystemTime::now()))
    });
    edit("save by rename", true, &|world| {
        world.write("images/app/one/src/.a.swp", "saved");
        fs::rename(world.path("images/app/one/src/.a.swp"), world.path("images/app/one/src/a")).unwrap();
    });
    edit("a new file", true, &|world| world.write("images/app/one/src/deep/new", "new"));
    edit("a removed one, which was so before", false, &|world| fs::remove_file(world.path("images/app/one/src/deep/new")).unwrap());
    edit("an executable bit", true, &|world| {
        fs::set_permissions(world.path("images/app/one/src/a"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    edit("another mode", false, &|world| {
        fs::set_permissions(world.path("images/app/one/src/a"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    edit("an ignore file", true, &|world| world.write("images/app/one/.dockerignore", "src/deep\n"));
    edit("what is ignored", false, &|world| {
        world.write("images/app/one/src/deep/b", "ignored");
        // the folder is not followed any more, so that something has to wake it
        world.write("images/app/one/src/a.tmp", "");
        fs::remove_file(world.path("images/app/one/src/a.tmp")).unwrap();
    });
    edit("the ignore file goes", true, &|world| fs::remove_file(world.path("images/app/one/.dockerignore")).unwrap());
    edit("a wildcard's match", true, &|world| world.write("images/app/two/my.conf", "x"));
    edit("a folder moved in", true, &|world| {
        world.write("images/app/aside/x/y/z", "z");
        fs::rename(world.path("images/app/aside"), world.path("images/app/one/src/moved")).unwrap();
    });
    edit("a file in a folder that was moved in", true, &|world| world.write("images/app/one/src/moved/x/y/z", "zz"));
    edit("a folder in another's place", true, &|world| {
        fs::rename(world.path("images/app/one/src/moved"), world.path("images/old")).unwrap();
        world.write("images/app/one/src/moved/x/y/z", "zzz");
    });
    edit("a file there", true, &|world| world.write("images/app/one/src/moved/x/y/z", "zzzz"));
    edit("a linked Dockerfile", true, &|world| {
        world.write("shared/Dockerfile", "FROM base:1\nCOPY src /src\nRUN echo linked\n");
        fs::remove_file(world.path("images/app/one/Dockerfile")).unwrap();
        symlink("../../../shared/Dockerfile", world.path("images/app/one/Dockerfile")).unwrap();
    });
    edit("what the link leads to", true, &|world| world.write("shared/Dockerfile", "FROM base:1\nCOPY src /src\nRUN echo again\n"));
    edit("a new image", true, &|world| {
        world.write("images/app/three/Dockerfile", "FROM app:two\n");
        world
            .write("images/app/BUILD.ron", &PACKAGE.replace("\n])", "\n    Image(name: \"three\", dockerfile: \"three/Dockerfile\"),\n])"));
    });
    edit("a new package", true, &|world| {
        world.write("new/BUILD.ron", "Package(rules: [Image(name: \"n\", untested: \"x\")])\n");
        world.write("new/Dockerfile", "FROM app:one\nCOPY f /\n");
        world.write("new/f", "f");
        fs::rename(world.path("new"), world.path("images/new")).unwrap();
    });
    edit("a file of the new package", true, &|world| world.write("images/new/f", "ff"));
    edit("a package goes", false, &|world| fs::rename(world.path("images/new"), world.path("gone")).unwrap());
    drop(watching);
}

#[test]
fn a_broken_build_file_is_told_and_the_last_good_one_stays() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch", "-v"]);
    world.write("images/app/BUILD.ron", "Package(rules: [");
    watching.until("images/app/BUILD.ron:");
    world.write("images/app/two/file", "edited meanwhile");
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("1 built"), "{said}");
    world.write("images/app/BUILD.ron", PACKAGE);
    watching.until("nothing to do");
    world.write("images/app/one/Dockerfile", "FORM base:1\n");
    watching.until("images/app/one/Dockerfile:1");
    world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /\n");
    watching.until("Summary");
    assert_eq!(watching.stop().0, Some(130));
}

#[test]
fn a_change_to_a_running_node_stops_it_and_others_wait() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch", "-v", "-j1"]);
    world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /src\nRUN sleep 3000\n");
    watching.until("Dockerfile changed");
    // it runs when its attempt has a log
    let running = || fs::read_dir(world.path("igraph-out/log")).unwrap().count() == 2;
    eventually(|| running() && world.cold(&["log", "show", "//app:one"]).contains("try 1"));
    // what is touched, and what does not run, does not stop it
    world.write("images/app/one/src/a", "a");
    world.write("images/app/two/file", "waits");
    let said = watching.within(Duration::from_millis(500));
    assert!(!said.iter().any(|line| line.contains("STOP") || line.contains("Summary")), "{said:?}");
    world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /src\nRUN echo short\n");
    let said = watching.until("2 built").join("\n");
    assert!(said.contains("STOP") || said.contains("cancelled"), "{said}");
    assert_eq!(watching.stop().0, Some(130));
}

#[test]
fn ctrl_c_while_it_runs_ends_it_too() {
    let world = World::new();
    world.write("images/app/one/Dockerfile", "FROM base:1\nRUN sleep 3000\n");
    let mut child = world.igraph(&["build", "--watch"]).stderr(Stdio::piped()).spawn().unwrap();
    eventually(|| world.cold(&["log", "show", "//app:one"]).contains("try 1"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_lock_is_free_between_cycles_and_results_of_others_count() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch", "-v"]);
    // another igraph would wait for ever, were the lock held
    assert!(world.igraph(&["test", "--no-wait"]).status().unwrap().success());
    let runs = world.runs();
    // nobody told the watching one of this edit before another igraph had built it
    world.write("images/app/two/file", "by another");
    let status = world.igraph(&["build"]).status().unwrap();
    assert!(status.success());
    world.write("images/app/two/mark.conf", "");
    watching.until("mark.conf");
    eventually(|| world.igraph(&["build", "--check"]).stdout(Stdio::null()).status().unwrap().success());
    assert!(world.runs() > runs);
}

#[test]
fn polling_does_the_same() {
    let world = World::new();
    let mut watching = world.watch_with(&["build", "--watch", "-v"], &[("IGRAPH_TEST_WATCH", "poll")]);
    assert!(watching.seen.last().unwrap().contains("looking every second"), "{:?}", watching.seen);
    world.write("images/app/two/file", "polled");
    watching.until("images/app/two/file changed");
    watching.until("Summary");
    assert_eq!(watching.stop().0, Some(130));
}

#[test]
fn what_can_not_be_watched_is_refused() {
    let world = World::new();
    for arguments in [&["build", "--watch", "@-"][..], &["build", "--watch", "--force"], &["build", "--bases", "1m"], &["tag", "--watch"]] {
        let output = world.igraph(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
