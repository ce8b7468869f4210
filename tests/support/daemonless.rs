//! A workspace of images on a shell, built by the embedded engine: what tests of its store, exports and ids share.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use igraph::digest::ImageId;

use super::RootfsImage;

/// A workspace in a folder of its own.
pub struct Daemonless {
    folder: tempfile::TempDir,
}

/// How igraph ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// It ended with this code.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    /// It said this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "no `{text}` in:\n{}", self.err);
        self
    }
}

const RULES: &str = r#"Package(repository: "team/app", tests: [":smoke"], rules: [
    Test(name: "smoke", run: ["! test -e /broken"]),
    Image(name: "1", aliases: ["latest", "other:one"]),
    Image(name: "2", dockerfile: "Dockerfile.2"),
    Image(name: "broken", dockerfile: "Dockerfile.broken"),
])
"#;

impl Daemonless {
    /// `None`, said loudly, where the embedded engine can't run.
    pub fn new(test: &str) -> Option<Self> {
        Self::below(test, &std::env::temp_dir())
    }

    /// The same, in a new folder below another one.
    pub fn below(test: &str, parent: &Path) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            super::skip(test, "the embedded engine needs root");
            return None;
        }
        let world = Self { folder: tempfile::Builder::new().prefix("ig-less-").tempdir_in(parent).unwrap() };
        world.write("w/BUILD.ron", "Workspace(packages: \"images\", registry: \"127.0.0.1:1\", retries: 0)\n");
        world.write(
            "w/images/base/BUILD.ron",
            "Package(rules: [Base(name: \"shell\", provides: [\"shell:1\"], from: Rootfs(\"shell.tar\"))])\n",
        );
        world.write(
            "w/images/base/shell.tar",
            &RootfsImage::with_shell(&["setfattr", "ln", "dd", "test"], &["PATH=/usr/bin:/bin"]).layer_bytes()[0],
        );
        world.write("w/images/app/BUILD.ron", RULES);
        world.write(
            "w/images/app/Dockerfile",
            "FROM shell:1\nCOPY greeting /greeting\nRUN cat /greeting > /said && mkdir -p /deep/er && ln -s ../said /deep/link\n",
        );
        world.write("w/images/app/greeting", "hello\n");
        world.write("w/images/app/Dockerfile.2", "FROM team/app:1\nRUN echo two > /two && rm /greeting\n");
        world.write("w/images/app/Dockerfile.broken", "FROM team/app:1\nRUN touch /broken\n");
        Some(world)
    }

    /// A path in the folder; the workspace is `w`.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        self
    }

    /// igraph in a workspace, ready to run; words are separated by spaces.
    pub fn command_in(&self, root: &Path, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.current_dir(root).args(line.split_whitespace()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.path("home"));
        command
    }

    /// igraph in `w`, ready to run.
    pub fn command(&self, line: &str) -> Command {
        self.command_in(&self.path("w"), line)
    }

    /// The id that `build --show-output` tells of an image.
    pub fn id(&self, label: &str) -> ImageId {
        let out = self.igraph(&format!("build --show-output {label}")).with(0).out;
        let line = out.lines().find(|line| line.starts_with(&format!("{label}\t"))).unwrap_or_else(|| panic!("{out}"));
        line.split('\t').next_back().unwrap().parse().unwrap()
    }

    /// Runs it in `w`.
    pub fn igraph(&self, line: &str) -> Ended {
        ended(self.command(line))
    }

    /// Runs it in another workspace.
    pub fn igraph_in(&self, root: &Path, line: &str) -> Ended {
        ended(self.command_in(root, line))
    }
}

/// Runs a command to its end.
pub fn ended(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

// each test file uses a part
const _: () = {
    let _ = (
        Daemonless::new,
        Daemonless::below,
        Daemonless::id,
        Daemonless::path,
        Daemonless::command,
        Daemonless::igraph,
        Daemonless::igraph_in,
    );
    let _ = (Ended::with, Ended::says, ended);
};
