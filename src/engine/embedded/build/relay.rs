//! An ssh agent as a step sees it: a socket with the owner and the mode that the mount asks for, whose connections go to the agent's
//! own. The agent's socket itself stays as it is.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::embedded::files::{self, disk};
use crate::failure::Failure;

/// A socket that relays; gone with it.
pub(super) struct Relay {
    path: PathBuf,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// Listens at `path`, which is new.
    ///
    /// # Errors
    /// Of the disk.
    pub fn start(agent: &Path, path: &Path, (uid, gid): (u32, u32), mode: u32) -> Result<Self, Failure> {
        // the path of a socket has at most 107 bytes, and a store may lie deep
        let folder = path.parent().unwrap_or(path);
        let folder = std::fs::File::open(folder).map_err(disk("an ssh mount"))?;
        let name = path.file_name().unwrap_or_default();
        let short = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&folder).to_string()).join(name);
        let listener = UnixListener::bind(&short).map_err(disk("an ssh mount"))?;
        files::set_owner(path, uid, gid).and_then(|()| files::set_mode(path, mode)).map_err(disk("an ssh mount"))?;
        let (agent, over) = (agent.to_owned(), Arc::new(AtomicBool::new(false)));
        let relay = Self { path: path.to_owned(), over: over.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(to) = UnixStream::connect(&agent) {
                    join(stream, to);
                }
            }
        });
        Ok(relay)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // wakes the listener; where that fails, its folder is going, and the thread ends with the process
        if let Ok(folder) = std::fs::File::open(self.path.parent().unwrap_or(&self.path)) {
            let name = self.path.file_name().unwrap_or_default();
            let short = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&folder).to_string()).join(name);
            drop(UnixStream::connect(short));
        }
    }
}

/// Copies both ways until both sides are done.
fn join(left: UnixStream, right: UnixStream) {
    let copy = |from: &UnixStream, to: &UnixStream| {
        let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
        std::thread::spawn(move || {
            // a side that goes away ends its direction
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    };
    copy(&left, &right);
    copy(&right, &left);
}
