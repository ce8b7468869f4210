//! Edits at random.

#![expect(clippy::print_stderr, reason = "a random run says its seed")]

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::house::{NEVER, PACKAGE, World};

/// The next document on stdout, `None` when none comes within the time.
fn document(out: &Receiver<String>, within: Duration) -> Option<String> {
    let mut text = String::new();
    let mut first = true;
    loop {
        let line = if first { out.recv_timeout(within).ok()? } else { out.recv_timeout(NEVER).expect("the rest of a document") };
        first = false;
        let last = line == "}";
        text.push_str(&line);
        text.push('\n');
        if last {
            return Some(text);
        }
    }
}

/// How many edits, and which: IGRAPH_EDITS and IGRAPH_SEED.
fn campaign() -> (u64, u64) {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (edits, seed) = (number("IGRAPH_EDITS", 100), number("IGRAPH_SEED", 7));
    eprintln!("{edits} edits from seed {seed}");
    (edits, seed)
}

/// Edits at random, against an igraph that runs what they touch; after each a fresh process finds nothing left to do.
#[test]
fn random_edits_leave_a_fresh_process_nothing_to_do() {
    let (edits, seed) = campaign();
    let world = World::new();
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut watching = world.watch(&["test", "--watch", "-v"]);
    let mut history: VecDeque<String> = VecDeque::new();
    for number in 0..edits {
        history.push_back(edit(&world, &mut chance, number));
        if history.len() > 12 {
            history.pop_front();
        }
        // what is broken leaves with 2, and has nothing that could be done
        let settled = || world.igraph(&["test", "--check"]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code() != Some(1);
        let until = Instant::now() + NEVER;
        while !settled() {
            let said = watching.within(Duration::from_millis(1));
            assert!(Instant::now() < until, "edit {number} of seed {seed}: {history:#?}\n{said:#?}\n{}", world.cold(&["test", "-n"]));
        }
    }
    assert_eq!(watching.stop().0, Some(130));
}

/// Edits at random; after each the plan of the watching igraph is that of a fresh process.
#[test]
fn random_edits_plan_the_same_as_a_fresh_process() {
    let (edits, seed) = campaign();
    let world = World::new();
    assert!(world.igraph(&["test"]).stderr(Stdio::null()).status().unwrap().success());
    let mut chance = fastrand::Rng::with_seed(seed);
    let watching = world.watch(&["test", "--watch", "-n", "--json"]);
    let mut last = document(&watching.out, NEVER).unwrap();
    let mut history: VecDeque<String> = VecDeque::new();
    for number in 0..edits {
        let what = edit(&world, &mut chance, number);
        history.push_back(what);
        if history.len() > 12 {
            history.pop_front();
        }
        let cold = world.cold(&["test", "-n", "--json"]);
        // one that is broken prints no plan
        if cold == "broken\n" {
            continue;
        }
        let until = Instant::now() + NEVER;
        while last != cold {
            match document(&watching.out, until.saturating_duration_since(Instant::now())) {
                Some(next) => last = next,
                None => panic!("edit {number} of seed {seed}: {history:#?}\nwatching:\n{last}\ncold:\n{cold}"),
            }
        }
    }
    // nothing comes late
    while let Some(next) = document(&watching.out, Duration::from_millis(500)) {
        last = next;
    }
    let cold = world.cold(&["test", "-n", "--json"]);
    assert!(cold == "broken\n" || last == cold, "after all: {history:#?}\nwatching:\n{last}\ncold:\n{cold}");
    assert_eq!(watching.stop().0, Some(130));
}

fn edit(world: &World, chance: &mut fastrand::Rng, number: u64) -> String {
    const FILES: [&str; 9] = [
        "images/app/one/src/a",
        "images/app/one/src/deep/b",
        "images/app/one/src/new",
        "images/app/one/src/deep/down/c",
        "images/app/two/file",
        "images/app/two/x.conf",
        "images/app/two/y.conf",
        "images/app/one/unread",
        "images/base/base.tar",
    ];
    let text = format!("edit {number}");
    let file = FILES[chance.usize(..FILES.len())];
    let path = world.path(file);
    match chance.u32(..14) {
        0..=3 if !file.ends_with(".tar") => {
            world.write(file, &text);
            format!("write {file}")
        }
        4 if !file.ends_with(".tar") => {
            world.write("images/app/save.tmp", &text);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::rename(world.path("images/app/save.tmp"), &path).unwrap();
            format!("save {file} by rename")
        }
        5 if !file.ends_with(".tar") => {
            let _ = fs::remove_file(&path);
            format!("remove {file}")
        }
        6 => {
            let mode = if chance.bool() { 0o755 } else { 0o644 };
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
            format!("chmod {mode:o} {file}")
        }
        7 => {
            let ignored = ["src/deep\n", "**/new\n", "*.conf\n!x.conf\n", ""][chance.usize(..4)];
            let at = ["images/app/one/.dockerignore", "images/app/two/.dockerignore", "images/app/one/Dockerfile.dockerignore"]
                [chance.usize(..3)];
            if ignored.is_empty() {
                let _ = fs::remove_file(world.path(at));
            } else {
                world.write(at, ignored);
            }
            format!("{at} = {ignored:?}")
        }
        8 => {
            let (from, to) = (world.path("images/app/one/src/deep"), world.path("images/app/one/away"));
            let moved = if from.exists() && !to.exists() { fs::rename(&from, &to) } else { fs::rename(&to, &from) };
            format!("move src/deep: {moved:?}")
        }
        9 => {
            let instruction = ["RUN echo one", "RUN echo two", "ENV A=1", "ARG V\nRUN echo $V"][chance.usize(..4)];
            world.write("images/app/one/Dockerfile", &format!("FROM base:1\nCOPY src /src\n{instruction}\n"));
            format!("one/Dockerfile: {instruction:?}")
        }
        10 => {
            let what = chance.usize(..5);
            let package = match what {
                0 => PACKAGE.replace("])", "    Image(name: \"three\", dockerfile: \"one/Dockerfile\"),\n])"),
                1 => PACKAGE.replace("\"one/Dockerfile\"", "\"one/Dockerfile\", args: {\"V\": \"1\"}"),
                2 => PACKAGE.replace("\"true\"", "\"true || false\""),
                3 => "Package(rules: [".to_owned(),
                _ => PACKAGE.to_owned(),
            };
            world.write("images/app/BUILD.ron", &package);
            format!("BUILD.ron, form {what}")
        }
        11 => {
            let link = world.path("images/app/one/src/link");
            let _ = fs::remove_file(&link);
            let to = ["a", "deep/b", "nowhere"][chance.usize(..3)];
            symlink(to, link).unwrap();
            format!("link to {to}")
        }
        12 => {
            let (package, aside) = (world.path("images/app/one"), world.path("images/app/one.aside"));
            fs::rename(&package, &aside).unwrap();
            if chance.bool() {
                // a copy in its place, with other inodes
                Command::new("cp").arg("-r").args([&aside, &package]).status().unwrap();
                fs::remove_dir_all(&aside).unwrap();
                "one replaced by its copy".to_owned()
            } else {
                fs::rename(&aside, &package).unwrap();
                "one moved away and back".to_owned()
            }
        }
        _ => {
            if file.ends_with(".tar") {
                fs::write(&path, vec![0; 10_240 + 512 * chance.usize(..8)]).unwrap();
            }
            format!("{file} longer")
        }
    }
}
