//! A Docker daemon for one test process, in a folder of its own, without a bridge: containers and builds get the host's network or none.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::{Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A running daemon. It is stopped, and its mounts and files removed, when the last handle goes.
pub struct Dockerd {
    child: Mutex<Child>,
    folder: tempfile::TempDir,
}

static SHARED: OnceLock<Mutex<Weak<Dockerd>>> = OnceLock::new();

impl Dockerd {
    /// The daemon of this process; started when nobody holds one. `None`, said on stderr, where none can run: not root, or no dockerd.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        match Self::start() {
            Ok(daemon) => {
                let daemon = Arc::new(daemon);
                *shared = Arc::downgrade(&daemon);
                Some(daemon)
            }
            Err(why) => {
                assert!(std::env::var_os("IGRAPH_NO_SKIP").is_none(), "{test}: {why}");
                // not through the capture of the test harness: a skip is to be seen
                drop(writeln!(std::io::stderr(), "SKIPPED {test}: {why}"));
                None
            }
        }
    }

    fn start() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("a Docker daemon needs root".into());
        }
        // short: the path of a socket has at most 107 bytes
        let folder = tempfile::Builder::new().prefix("ig-dockerd-").tempdir_in("/tmp").map_err(|error| error.to_string())?;
        let path = folder.path();
        let log = std::fs::File::create(path.join("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(path.join("data"))
            .arg("--exec-root")
            .arg(path.join("exec"))
            .arg("--pidfile")
            .arg(path.join("pid"))
            .arg("-H")
            .arg(format!("unix://{}", path.join("docker.sock").display()))
            .args(["--bridge", "none", "--iptables=false"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("the program `dockerd` can't be run: {error}"))?;
        let daemon = Self { child: Mutex::new(child), folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !daemon.answers() {
            let ended = daemon.child.lock().map_err(|error| error.to_string())?.try_wait().map_err(|error| error.to_string())?;
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
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return false };
        let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n");
        let mut answer = [0; 12];
        asked.is_ok() && std::io::Read::read_exact(&mut stream, &mut answer).is_ok() && answer.ends_with(b"200")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// As DOCKER_HOST has it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its log, for messages.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
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
