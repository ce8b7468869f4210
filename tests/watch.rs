//! `--watch`: scripted and random edits against an igraph that stays, compared with fresh processes.

#![expect(clippy::print_stderr, reason = "a random run says its seed")]

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for any machine: what has not come by then does not come.
const NEVER: Duration = Duration::from_secs(60);

struct World {
    folder: tempfile::TempDir,
}

const PACKAGE: &str = r#"Package(tests: [":smoke"], rules: [
    Test(name: "smoke", run: ["true"]),
    Image(name: "one", dockerfile: "one/Dockerfile"),
    Image(name: "two", dockerfile: "two/Dockerfile"),
])
"#;

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.write("BUILD.ron", "Workspace(packages: \"images\")\n");
        world
            .write("images/base/BUILD.ron", "Package(rules: [Base(name: \"base\", provides: [\"base:1\"], from: Rootfs(\"base.tar\"))])\n");
        fs::write(world.path("images/base/base.tar"), [0; 10_240]).unwrap();
        world.write("images/app/BUILD.ron", PACKAGE);
        world.write("images/app/one/Dockerfile", "FROM base:1\nCOPY src /src\nRUN echo one\n");
        world.write("images/app/one/src/a", "a");
        world.write("images/app/one/src/deep/b", "b");
        world.write("images/app/two/Dockerfile", "FROM app:one\nCOPY file *.conf /\n");
        world.write("images/app/two/file", "file");
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn igraph(&self, arguments: &[&str]) -> Command {
        igraph(self.folder.path(), arguments)
    }

    /// stdout of a fresh process.
    fn cold(&self, arguments: &[&str]) -> String {
        let output = self.igraph(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + if output.status.code() == Some(2) { "broken\n" } else { "" }
    }

    fn runs(&self) -> usize {
        self.cold(&["log", "list"]).lines().count().saturating_sub(1)
    }

    fn watch(&self, arguments: &[&str]) -> Watching {
        self.watch_with(arguments, &[])
    }

    fn watch_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Watching {
        let mut command = self.igraph(arguments);
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let watching =
            Watching { out: lines(child.stdout.take().unwrap()), err: lines(child.stderr.take().unwrap()), child, seen: Vec::new() };
        watching.after("watching")
    }
}

fn igraph(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
    command.current_dir(folder).args(arguments).args(["--engine", "fake"].iter().filter(|_| arguments[0] != "log"));
    command.env_clear().env("IGRAPH_TEST_ENGINE", "fake").env("HOME", folder);
    command
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Watching {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
    seen: Vec<String>,
}

impl Watching {
    /// Waits for a line on stderr that has `text`; what came before is in `seen`.
    #[track_caller]
    fn until(&mut self, text: &str) -> Vec<String> {
        let until = Instant::now() + NEVER;
        let mut seen = Vec::new();
        loop {
            match self.err.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    seen.push(line.clone());
                    if line.contains(text) {
                        return seen;
                    }
                }
                Err(error) => panic!("no `{text}` ({error}) after:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn after(mut self, text: &str) -> Self {
        self.until(text);
        self
    }

    /// Ctrl-C; returns the exit code and what it said last.
    fn stop(mut self) -> (Option<i32>, Vec<String>) {
        let pid = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, self.err.iter().collect())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(so: impl Fn() -> bool) {
    let until = Instant::now() + NEVER;
    while !so() {
        assert!(Instant::now() < until, "it did not come to that");
        std::thread::yield_now();
    }
}

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

/// Edits at random; after each the plan of the watching igraph is that of a fresh process. IGRAPH_EDITS says how many, IGRAPH_SEED
/// which.
#[test]
fn random_edits_plan_the_same_as_a_fresh_process() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (edits, seed) = (number("IGRAPH_EDITS", 100), number("IGRAPH_SEED", 7));
    eprintln!("{edits} edits from seed {seed}");
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
