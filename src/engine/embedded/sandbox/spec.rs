//! What the child is told, and what it tells: plain data, sent over the socket that is its standard input.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// First argument of the process that is the child.
pub(super) const ARGUMENT: &str = "__igraph-sandbox";

/// Host name within; always the same, as it may end up in files.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// What the root of a sandbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::embedded) enum Root {
    /// The layers under overlayfs, in namespaces.
    #[default]
    Overlay,
    /// A copy of the layers, in namespaces.
    Copied,
    /// A copy of the layers, without namespaces: by chroot, with what would be mounted put into the copy.
    Chroot,
}

/// A sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine::embedded) struct Spec {
    /// Where relative paths of folders start: so short that many fit a page.
    pub layers: PathBuf,
    /// Roots of the layers, top first, at least one.
    pub lower: Vec<String>,
    /// Takes what is written; relative, as are the next two.
    pub upper: String,
    /// overlayfs's own, empty, beside `upper`.
    pub work: String,
    /// Where a copy of the layers is put together; made when there is one.
    pub merged: String,
    /// An empty folder for what must not reach a disk.
    pub memory: String,
    /// What the root is; a copy lies in `merged` already.
    pub root: Root,
    /// Nothing of what is written is wanted.
    pub throwaway: bool,
    /// A network of its own, with nothing but loopback; by chroot none at all.
    pub isolated: bool,
    /// Mounted in this order.
    pub mounts: Vec<Mount>,
    /// Run one after the other; the first that fails is the last.
    pub programs: Vec<Program>,
}

/// A mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::engine::embedded) struct Mount {
    /// Absolute, within the root; made where it is not there, and removed afterwards.
    pub target: String,
    /// What is mounted.
    pub what: What,
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::engine::embedded) enum What {
    /// A file or folder of the machine.
    Host(PathBuf),
    /// A path within a folder of the machine; links lead nowhere but into it.
    Within(PathBuf, String),
    /// A path within stacked folders; what is written goes to the upper and work folders, if any.
    Stack { lower: Vec<String>, upper: Option<(String, String)>, at: String, folder: String },
    /// Memory, of so many bytes at most.
    Memory(Option<u64>),
    /// A file with this content, in memory.
    Content { bytes: Vec<u8>, mode: u32, uid: u32, gid: u32 },
}

/// A command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine::embedded) struct Program {
    pub argv: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    pub folder: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// All is mounted; these paths had to be made for it.
    Ready(Vec<PathBuf>),
    /// The program can't be executed: an errno.
    NotRun(i32),
    /// It exited.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
    /// The sandbox can't be made: what failed, and an errno.
    Broken(String, i32),
}

/// Sends one message.
pub(super) fn send(socket: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    socket.write_all(&length.to_le_bytes())?;
    socket.write_all(&bytes)
}

/// Receives one message.
pub(super) fn receive<T: for<'de> Deserialize<'de>>(socket: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
