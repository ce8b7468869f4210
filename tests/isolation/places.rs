//! Places where igraph can run, and a workspace to run it on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use super::support::{Dockerd, OrdinaryUser, RootfsImage};

/// Where igraph runs.
pub enum Place {
    Root(tempfile::TempDir),
    User(OrdinaryUser),
    /// With more arguments of `docker run`.
    Container(tempfile::TempDir, Arc<Dockerd>, &'static [&'static str]),
}

/// The name of the image that containers are made of, within a daemon of the tests' own.
const CONTAINER: &str = "igraph-test/shell";

pub fn igraph() -> PathBuf {
    env!("CARGO_BIN_EXE_igraph").into()
}

impl Place {
    pub fn root() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            super::support::skip("root", "this is not root");
            return None;
        }
        Some(Self::Root(tempfile::tempdir().unwrap()))
    }

    pub fn user(test: &str) -> Option<Self> {
        OrdinaryUser::new(test, 65_536).map(Self::User)
    }

    /// A container with Docker's default profile and capabilities, whose root is the daemon's overlayfs.
    pub fn container(test: &str, more: &'static [&'static str]) -> Option<Self> {
        let daemon = Dockerd::shared(test)?;
        let folder = tempfile::tempdir().unwrap();
        let tar = folder.path().join("image.tar");
        std::fs::write(&tar, &RootfsImage::with_shell(&["env"], &[]).layer_bytes()[0]).unwrap();
        let imported = Command::new("docker").args(["--host", &daemon.url(), "import"]).arg(&tar).arg(CONTAINER).output().unwrap();
        assert!(imported.status.success(), "{imported:?}");
        Some(Self::Container(folder, daemon, more))
    }

    /// Where the workspace lies, as the test sees it.
    pub fn workspace(&self) -> PathBuf {
        match self {
            Self::Root(folder) | Self::Container(folder, ..) => folder.path().join("workspace"),
            Self::User(user) => user.home().join("workspace"),
        }
    }

    /// A shell in the workspace; `igraph` is the program. A container gets a copy of the workspace, on its own root.
    pub fn shell(&self, script: &str) -> Output {
        self.command(script).output().unwrap()
    }

    pub fn command(&self, script: &str) -> Command {
        let mut command = match self {
            Self::Root(_) => {
                let mut command = Command::new("sh");
                command.args(["-c", script]).env("PATH", with_folder_of(&igraph()));
                command
            }
            Self::User(user) => {
                let program = user.program(&igraph());
                user.own(&self.workspace());
                let mut command = user.command(Path::new("sh"));
                let script = format!("cd {}; PATH={}; {script}", self.workspace().display(), with_folder_of(&program));
                command.args(["-c", &script]);
                command
            }
            Self::Container(_, daemon, more) => {
                let mut command = Command::new("docker");
                command.args(["--host", &daemon.url(), "run", "--rm", "--network", "none", "--volume", "/usr:/usr:ro"]).args(*more);
                for (from, to) in [(igraph(), "/igraph/igraph"), (self.workspace(), "/given")] {
                    command.args(["--volume", &format!("{}:{to}:ro", from.display())]);
                }
                let libraries = std::fs::read_dir("/usr/lib").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                let libraries: Vec<String> = libraries.filter(|name| name.ends_with("-linux-gnu")).collect();
                command.args(["--env", &format!("LD_LIBRARY_PATH=/usr/lib/{}", libraries.first().map_or("", String::as_str))]);
                command.args(["--env", "PATH=/igraph:/usr/sbin:/usr/bin:/bin"]);
                let script = format!("cp -R /given /root/workspace && cd /root/workspace && {script}");
                command.args([CONTAINER, "sh", "-c", &script]);
                command
            }
        };
        if let Self::Root(_) = self {
            command.current_dir(self.workspace());
        }
        command
    }
}

fn with_folder_of(program: &Path) -> String {
    format!("{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", program.parent().unwrap().display())
}

/// Writes a file of a workspace, and the folders above it.
pub fn write(workspace: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = workspace.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A workspace with the package `app`, over a base with a shell, a device, links and folders to change.
pub fn make_workspace(workspace: &Path, rules: &str, dockerfiles: &[(&str, &str)]) {
    write(workspace, "BUILD.ron", "Workspace(packages: \"images\", registry: \"127.0.0.1:1\", retries: 0, jobs: 2)\n");
    let base = "Package(rules: [Base(name: \"shell\", provides: [\"shell:1\"], from: Rootfs(\"shell.tar\"))])\n";
    write(workspace, "images/base/BUILD.ron", base);
    write(workspace, "images/base/shell.tar", base_tar());
    write(workspace, "images/app/BUILD.ron", format!("Package(rules: [\n{rules}\n])\n"));
    for (name, text) in dockerfiles {
        write(workspace, &format!("images/app/{name}/Dockerfile"), text);
        write(workspace, &format!("images/app/{name}/given"), "given\n");
    }
}

fn base_tar() -> Vec<u8> {
    let mut bytes =
        RootfsImage::with_shell(&["ln", "chown", "rmdir", "setsid", "bash", "unshare", "sort", "cut"], &[]).layer_bytes()[0].clone();
    // without the end, more can follow
    while bytes.ends_with(&[0; 512]) {
        bytes.truncate(bytes.len() - 512);
    }
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, (uid, gid): (u64, u64), content: &[u8], link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        // later than the epoch of igraph, as in real images
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder.append_data(&mut header, path, content).unwrap();
    };
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    for (path, mode, owner) in
        [("data", 0o755, (0, 0)), ("data/gone", 0o700, (7, 8)), ("data/dir", 0o2755, (1000, 1000)), ("data/dir/deep", 0o755, (0, 0))]
    {
        put(path, Directory, mode, owner, b"", "");
    }
    put("data/null", Char, 0o666, (0, 0), b"", "");
    put("data/one", Regular, 0o644, (0, 0), b"linked\n", "");
    put("data/two", Link, 0o644, (0, 0), b"", "data/one");
    put("data/gone/old", Regular, 0o644, (0, 0), b"old\n", "");
    put("data/dir/deep/file", Regular, 0o4755, (65_534, 65_534), b"file\n", "");
    put("data/link", Symlink, 0o777, (3, 4), b"", "dir/deep");
    bytes.extend(builder.into_inner().unwrap());
    bytes
}
