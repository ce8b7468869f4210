//! A workspace on disk, and an igraph that watches it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for any machine: what has not come by then does not come.
pub const NEVER: Duration = Duration::from_secs(60);

pub struct World {
    pub folder: tempfile::TempDir,
}

pub const PACKAGE: &str = r#"Package(tests: [":smoke"], rules: [
    Test(name: "smoke", run: ["true"]),
    Image(name: "one", dockerfile: "one/Dockerfile"),
    Image(name: "two", dockerfile: "two/Dockerfile"),
])
"#;

impl World {
    pub fn new() -> Self {
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

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn igraph(&self, arguments: &[&str]) -> Command {
        igraph(self.folder.path(), arguments)
    }

    /// stdout of a fresh process.
    pub fn cold(&self, arguments: &[&str]) -> String {
        let output = self.igraph(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + if output.status.code() == Some(2) { "broken\n" } else { "" }
    }

    pub fn runs(&self) -> usize {
        self.cold(&["log", "list"]).lines().count().saturating_sub(1)
    }

    pub fn watch(&self, arguments: &[&str]) -> Watching {
        self.watch_with(arguments, &[])
    }

    pub fn watch_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Watching {
        let mut command = self.igraph(arguments);
        command.envs(environment.iter().copied());
        Self::stay(command)
    }

    /// An igraph that watches, by this command.
    pub fn stay(mut command: Command) -> Watching {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let watching =
            Watching { out: lines(child.stdout.take().unwrap()), err: lines(child.stderr.take().unwrap()), child, seen: Vec::new() };
        watching.after("watching")
    }
}

pub fn igraph(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
    command.current_dir(folder).args(arguments).args(["--engine", "fake"].iter().filter(|_| arguments[0] != "log"));
    command.env_clear().env("IGRAPH_TEST_ENGINE", "fake").env("HOME", folder);
    command
}

pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
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

pub struct Watching {
    pub child: Child,
    pub out: Receiver<String>,
    pub err: Receiver<String>,
    pub seen: Vec<String>,
}

impl Watching {
    /// Waits for a line on stderr that has `text`; what came before is in `seen`.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> Vec<String> {
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

    /// What it says within this time.
    pub fn within(&mut self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        let mut said = Vec::new();
        while let Ok(line) = self.err.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            said.push(line);
        }
        said
    }

    pub fn after(mut self, text: &str) -> Self {
        self.until(text);
        self
    }

    /// Ctrl-C; returns the exit code and what it said last.
    pub fn stop(mut self) -> (Option<i32>, Vec<String>) {
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

pub fn eventually(so: impl Fn() -> bool) {
    let until = Instant::now() + NEVER;
    while !so() {
        assert!(Instant::now() < until, "it did not come to that");
        std::thread::yield_now();
    }
}
