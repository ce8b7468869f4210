//! A workspace in a temp dir, and the program run in it from outside: every command becomes a paragraph of a transcript with its two
//! streams and its exit code, in which whatever differs between two runs has a name instead.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use regex::Regex;

/// A hermetic workspace: one package `app` of images from scratch, a test, and no engine but the pretended one.
pub struct World {
    folder: tempfile::TempDir,
    /// Below the root, where commands are run.
    pub current: String,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// The uid to run as, of those that root may become.
    pub uid: Option<u32>,
    transcript: RefCell<String>,
}

const FILES: &[(&str, &str)] = &[
    ("BUILD.ron", "Workspace(packages: \"images\", registry: \"127.0.0.1:1\", retries: 0, jobs: 1)\n"),
    (
        "images/app/BUILD.ron",
        "Package(\n    tests: [\":smoke\"],\n    rules: [\n        Test(name: \"smoke\", run: [\"true\"]),\n        \
         Image(name: \"1\", aliases: [\"latest\"]),\n        Image(name: \"2\", dockerfile: \"two/Dockerfile\"),\n    ],\n)\n",
    ),
    ("images/app/Dockerfile", "FROM scratch\nCOPY greeting /greeting\nRUN true\n"),
    ("images/app/greeting", "hello\n"),
    ("images/app/two/Dockerfile", "FROM app:1\nCOPY more /more\n"),
    ("images/app/two/more", "more\n"),
];

/// What differs between two runs, and what is shown for it.
static CHANGING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\[ *[0-9.]+s\]", "[   TIME]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIMESTAMP"),
        (r"\brun [a-z0-9]{4}\b", "run RUNN"),
        (r"\b[0-9a-f]{64}\b", "HASH"),
        (r"\b[0-9a-f]{12}\b", "HEX"),
        (r"(?m)^[a-z0-9]{4}  TIMESTAMP +[0-9.]+s", "RUNN  TIMESTAMP  TIME"),
        (r"\d+ of \d+ bytes", "N of N bytes"),
        (r"what-ran [a-z0-9]{4}\b", "what-ran RUNN"),
        (r" +after waiting [0-9.]+s", ""),
        (r"process \d+ on [^,]+,", "process PID on HOST,"),
        (r"`/[^ ]*/igraph ", "`igraph "),
        (r"\b[0-9.]+s of the run's [0-9.]+s", "TIME of the run's TIME"),
        (r"the run's [0-9.]+s", "the run's TIME"),
        (r"layers-[A-Za-z0-9]{6}", "layers-RANDOM"),
        (r"again in [0-9.]+s", "again in SECONDS"),
    ]
    .into_iter()
    .map(|(pattern, shown)| (Regex::new(pattern).unwrap(), shown))
    .collect()
});

impl World {
    /// The workspace as it is when all is well.
    pub fn new() -> Self {
        let world = Self::empty();
        for (path, text) in FILES {
            world.write(path, text);
        }
        world
    }

    /// A folder with nothing in it.
    pub fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            current: String::new(),
            environment: Vec::new(),
            uid: None,
            transcript: RefCell::default(),
        }
    }

    /// The workspace root.
    pub fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    /// A path below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// Replaces the rules of the package.
    pub fn rules(&self, rules: &str) -> &Self {
        self.write("images/app/BUILD.ron", format!("Package(rules: [\n    {rules}\n])\n"))
    }

    /// A symbolic link.
    pub fn link(&self, path: &str, target: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
        self
    }

    /// Removes a file or a tree.
    pub fn remove(&self, path: &str) -> &Self {
        let path = self.path(path);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        self
    }

    /// Sets a mode.
    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// The command, ready to run; words are separated by spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.args(line.split_whitespace()).env_clear().current_dir(self.path(&self.current));
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.path("home")).env("IGRAPH_TEST_ENGINE", "fake");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(uid) = self.uid {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Starts a command and leaves it running.
    pub fn start(&self, line: &str) -> Child {
        self.command(line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command and writes what happened down.
    pub fn run(&self, line: &str) -> &Self {
        self.run_with(line, "")
    }

    /// The same, with something on stdin.
    pub fn run_with(&self, line: &str, input: &str) -> &Self {
        let (code, out, err) = self.ran_with(line, input);
        let mut shown = format!("$ igraph {line}\n");
        if !input.is_empty() {
            shown.push_str(&input.lines().map(|line| format!("< {line}\n")).collect::<String>());
        }
        for (mark, text) in [("", &out), ("! ", &err)] {
            shown.push_str(&text.lines().map(|line| format!("{mark}{line}").trim_end().to_owned() + "\n").collect::<String>());
        }
        self.transcript.borrow_mut().push_str(&format!("{shown}[exit {code}]\n"));
        self
    }

    /// Exit code, stdout and stderr, with what changes named.
    pub fn ran(&self, line: &str) -> (i32, String, String) {
        self.ran_with(line, "")
    }

    /// The same, with something on stdin.
    pub fn ran_with(&self, line: &str, input: &str) -> (i32, String, String) {
        let mut child = self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // who does not read its stdin closes it
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let show = |bytes: &[u8]| self.steady(&String::from_utf8_lossy(bytes));
        (output.status.code().unwrap_or(-1), show(&output.stdout), show(&output.stderr))
    }

    /// A text in which whatever differs between two runs has a name.
    pub fn steady(&self, text: &str) -> String {
        let mut text = text.replace(self.root().to_str().unwrap(), "/w");
        for (pattern, shown) in CHANGING.iter() {
            text = pattern.replace_all(&text, *shown).into_owned();
        }
        sorted_steps(&text)
    }

    /// A title above what follows.
    pub fn say(&self, title: &str) -> &Self {
        self.transcript.borrow_mut().push_str(&format!("\n# {title}\n"));
        self
    }

    /// All that was written down.
    pub fn told(&self) -> String {
        self.transcript.borrow().clone()
    }
}

/// Lines of steps that end one after the other, each with what stands below it, in the order of their labels: which of two that wait
/// goes first depends on how long they took before.
fn sorted_steps(text: &str) -> String {
    static STEP: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^ {4,}[A-Z]{3,5} (\[ +TIME\]| {9,}) *[^ ]*//").unwrap());
    let mut done = String::new();
    let mut steps: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        if STEP.is_match(line) {
            steps.push(line.to_owned());
        } else if let (Some(step), true) = (steps.last_mut(), line.starts_with("           ")) {
            step.push_str(line);
        } else {
            steps.sort_by_key(|step| step.find("//").map(|at| step[at..].to_owned()));
            done.extend(steps.drain(..));
            done.push_str(line);
        }
    }
    steps.sort_by_key(|step| step.find("//").map(|at| step[at..].to_owned()));
    done.extend(steps);
    done
}

/// Whether this process may become another user and mount.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Lets every user walk to a path.
pub fn open_way(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for folder in path.ancestors().take_while(|folder| folder.starts_with(std::env::temp_dir())) {
        let mode = std::fs::metadata(folder).unwrap().permissions().mode();
        if mode & 0o005 != 0o005 && folder != std::env::temp_dir() {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode | 0o055)).unwrap();
        }
    }
}
