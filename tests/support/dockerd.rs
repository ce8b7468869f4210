//! A Docker daemon for one test process, in a folder and a network namespace of its own, without a bridge: a daemon without one removes
//! the `docker0` of whatever other daemon runs in its namespace. Containers and builds get that empty network, or none.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::{Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Where this is set to a `unix://` address, the tests use that daemon instead of one of their own, so that other versions can be held
/// against them.
const OTHER: &str = "IGRAPH_TEST_DOCKER_HOST";

/// A running daemon. It is stopped, and its mounts and files removed, when the last handle goes.
pub struct Dockerd {
    child: Option<Mutex<Child>>,
    folder: tempfile::TempDir,
    socket: PathBuf,
}

static SHARED: OnceLock<Mutex<Weak<Dockerd>>> = OnceLock::new();

impl Dockerd {
    /// The daemon of this process; started when nobody holds one. `None`, said on stderr, where none can run: not root, or no dockerd.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let other = std::env::var(OTHER).ok().and_then(|url| url.strip_prefix("unix://").map(PathBuf::from));
        let started = match other {
            Some(socket) => tempfile::tempdir().map(|folder| Self { child: None, folder, socket }).map_err(|error| error.to_string()),
            None => Self::start(),
        };
        match started {
            Ok(daemon) => {
                let daemon = Arc::new(daemon);
                *shared = Arc::downgrade(&daemon);
                Some(daemon)
            }
            Err(why) => {
                super::skip(test, &why);
                None
            }
        }
    }

    /// A fresh daemon.
    pub fn start() -> Result<Self, String> {
        Self::spawn(&["--net"], r#"exec dockerd "$@" </dev/null"#, Stdio::null(), &[])
    }

    /// A fresh daemon in the network of this process, so that it reaches registries here: for benches. It removes the `docker0` of
    /// another daemon that runs here.
    pub fn start_here() -> Result<Self, String> {
        Self::spawn(&[], r#"exec dockerd "$@" </dev/null"#, Stdio::null(), &[])
    }

    /// A daemon that listens here too, with more arguments.
    pub fn start_at(listener: TcpListener, arguments: &[String]) -> Result<Self, String> {
        // as systemd hands a socket over; it stays one of this network
        let script = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec dockerd -H fd:// "$@" 3<&0 </dev/null"#;
        Self::spawn(&["--net"], script, OwnedFd::from(listener).into(), arguments)
    }

    /// `namespaces` are options of `unshare`.
    fn spawn(namespaces: &[&str], script: &str, input: Stdio, arguments: &[String]) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("a Docker daemon needs root".into());
        }
        // short: the path of a socket has at most 107 bytes
        let folder = tempfile::Builder::new().prefix("ig-dockerd-").tempdir_in("/tmp").map_err(|error| error.to_string())?;
        let path = folder.path();
        let log = std::fs::File::create(path.join("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", script, "sh", "--data-root"])
            .arg(path.join("data"))
            .arg("--exec-root")
            .arg(path.join("exec"))
            .arg("--pidfile")
            .arg(path.join("pid"))
            .arg("-H")
            .arg(format!("unix://{}", path.join("docker.sock").display()))
            .args(["--bridge", "none", "--iptables=false"])
            .args(arguments)
            .stdin(input)
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("the program `unshare` can't be run: {error}"))?;
        let socket = path.join("docker.sock");
        let daemon = Self { child: Some(Mutex::new(child)), folder, socket };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !daemon.answers() {
            let child = daemon.child.as_ref().and_then(|child| child.lock().ok());
            let ended = child.and_then(|mut child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(daemon.folder.path().join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(format!("dockerd does not start: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" | ")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return false };
        let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n");
        let mut answer = [0; 12];
        asked.is_ok() && std::io::Read::read_exact(&mut stream, &mut answer).is_ok() && answer.ends_with(b"200")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// As DOCKER_HOST has it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its log, for messages.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let child = child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                drop(child.kill());
                drop(child.wait());
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        unmount_below(self.folder.path());
    }
}

/// Lets go of what a daemon that was killed left mounted, deepest first.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = format!("{}/", folder.display());
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| point.starts_with(&prefix));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}
