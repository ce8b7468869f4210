//! What a watching igraph does not do, and what it does where the kernel gives out.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::house::{Watching, World, eventually};

/// Longer than a debounce and a look.
const A_WHILE: Duration = Duration::from_millis(700);

fn touch(path: &Path) {
    fs::File::options().append(true).open(path).unwrap().set_modified(SystemTime::now()).unwrap();
}

#[test]
fn a_touch_prints_nothing_and_own_files_raise_no_cycle() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch"]);
    for path in ["images/app/one/src/a", "images/app/one/Dockerfile", "images/app/BUILD.ron", "images/base/base.tar"] {
        touch(&world.path(path));
        let said = watching.within(A_WHILE);
        assert!(said.is_empty(), "{path}: {said:?}");
    }
    drop(watching);
    // with --verbose each cycle says something: a run's own records, logs and digests raise none
    let mut watching = world.watch(&["build", "--watch", "-v"]);
    world.write("images/app/two/file", "other");
    watching.until("Summary");
    let said = watching.within(A_WHILE);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_burst_is_one_cycle() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch"]);
    for number in 0..10 {
        world.write("images/app/two/file", &number.to_string());
        world.write("images/app/one/src/a", &number.to_string());
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("2 paths changed: images/app/one/src/a, images/app/two/file"), "{said}");
    let said = watching.within(A_WHILE);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn only_what_the_patterns_need_is_followed() {
    let world = World::new();
    let mut watching = world.watch(&["build", "//app:one", "--watch", "-v"]);
    world.write("images/app/two/file", "nobody asked");
    let said = watching.within(A_WHILE);
    assert!(said.is_empty(), "{said:?}");
    world.write("images/app/one/src/a", "asked");
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("1 built"), "{said}");
}

#[test]
fn a_run_is_of_what_an_edit_touches_alone() {
    let world = World::new();
    let mut watching = world.watch(&["test", "--watch"]);
    world.write("images/app/two/file", "edited");
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("//app:two ") && !said.contains("//app:one "), "{said}");
    // its parent counts, and is fresh
    assert!(said.contains("2 images, 2 tests: 1 to build, 1 maybe"), "{said}");
    // who stands on it runs too
    world.write("images/app/one/src/a", "edited");
    let said = watching.until("Summary").join("\n");
    assert!(said.contains("//app:two ") && said.contains("//app:one "), "{said}");
}

fn signal(watching: &Watching, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(watching.child.id()).unwrap()), signal).unwrap();
}

#[test]
fn lost_events_mean_a_full_check_that_is_told() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch"]);
    signal(&watching, Signal::SIGSTOP);
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // equal events in a row are one, so they take turns; nobody who is stopped reads them
    for round in 0..queue / 4 + 100 {
        for path in ["images/app/one/src/a", "images/app/one/src/deep/b"] {
            fs::write(world.path(path), round.to_string()).unwrap();
        }
    }
    // told by nobody any more
    world.write("images/app/two/file", "lost");
    signal(&watching, Signal::SIGCONT);
    // what the queue did hold may come first
    watching.until("more changed than the kernel could tell: everything was checked");
    eventually(|| world.igraph(&["build", "--check"]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
}

#[test]
fn an_idle_one_takes_no_time() {
    let world = World::new();
    let mut watching = world.watch(&["build", "--watch"]);
    watching.within(A_WHILE);
    let stat = format!("/proc/{}/stat", watching.child.id());
    // user and system time, in ticks of 10 ms
    let ticks = || -> u64 {
        let stat = fs::read_to_string(&stat).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    };
    let before = ticks();
    watching.within(Duration::from_secs(3));
    assert!(ticks() - before <= 1, "{} ticks in 3 s", ticks() - before);
}

/// An igraph in a user namespace of its own, in which the kernel's limits are these.
fn limited(world: &World, limit: &str) -> Watching {
    let igraph = world.igraph(&["build", "--watch"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &format!("{limit}; exec \"$@\""), "sh"]);
    command.arg(igraph.get_program()).args(igraph.get_args()).current_dir(world.folder.path());
    command.env_clear().env("IGRAPH_TEST_ENGINE", "fake").env("HOME", world.folder.path()).env("PATH", "/usr/bin:/bin");
    World::stay(command)
}

#[test]
fn where_the_kernel_gives_out_the_disk_is_polled() {
    for (limit, sysctl) in [
        ("echo 3 > /proc/sys/user/max_inotify_watches", "sysctl fs.inotify.max_user_watches="),
        ("echo 0 > /proc/sys/user/max_inotify_instances", "sysctl fs.inotify.max_user_instances="),
    ] {
        let world = World::new();
        let mut watching = limited(&world, limit);
        let said = watching.seen.join("\n");
        assert!(said.contains(sysctl) && said.contains("files are looked at every second instead"), "{said}");
        assert!(said.contains("looking every second"), "{said}");
        for round in 0..2 {
            world.write("images/app/two/file", &format!("polled {round}"));
            let said = watching.until("Summary").join("\n");
            // the second edit may come before the first cycle is over
            let named = said.contains("images/app/two/file changed") || said.contains("input of //app:two changed");
            assert!(named && said.contains("1 built"), "{said}");
        }
        assert_eq!(watching.stop().0, Some(130));
    }
}
