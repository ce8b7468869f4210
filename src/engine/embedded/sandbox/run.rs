//! The parent's side of a sandbox: starts the child, hands output on line by line, watches cancel and time, and clears away what the
//! mounts needed. One loop, so that output and the ends of programs keep their order.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::host::Host;
use super::placed;
use super::spec::{ARGUMENT, Root, Spec, Told, What, receive, send};
use crate::engine::Attempt;
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::{copies, view::View};
use crate::event::Stream;
use crate::failure::{Failure, Retry};

/// How often cancel is looked at, milliseconds.
const TICK: u16 = 20;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum Ended {
    /// Exit code; 128 and the signal's number where one ended it.
    Code(i64),
    /// It could not be executed: an errno.
    NotRun(i32),
}

/// How a sandbox ended: of each program that was started, how.
#[derive(Debug, Default)]
pub(in crate::engine::embedded) struct Ran {
    pub ended: Vec<Ended>,
}

/// What is told of a running sandbox.
pub(in crate::engine::embedded) trait Listener {
    /// The program of that index starts.
    fn started(&mut self, index: usize);
    /// A line of its output.
    fn line(&mut self, stream: Stream, line: &str);
}

/// Runs a sandbox to its end. `upper` is the absolute path of the spec's upper folder.
///
/// # Errors
/// Stopped, out of time, or infra where the sandbox can't be made.
pub(in crate::engine::embedded) fn run(
    host: &Host,
    spec: &Spec,
    upper: &Path,
    attempt: &Attempt<'_>,
    listener: &mut dyn Listener,
) -> Result<Ran, Failure> {
    let ran = match host.root {
        Root::Overlay => start(&host.runner, spec, upper, attempt, listener),
        Root::Copied | Root::Chroot => on_copy(host, spec, upper, attempt, listener),
    };
    ran.inspect_err(|_| host.forget())
}

/// Runs a sandbox on a copy of its layers. What it changes comes to the upper folder as if overlayfs had been there.
fn on_copy(host: &Host, spec: &Spec, upper: &Path, attempt: &Attempt<'_>, listener: &mut dyn Listener) -> Result<Ran, Failure> {
    let copying = |error| disk("copying the layers")(error);
    let absolute = |folders: &[String]| View::new(folders.iter().map(|folder| spec.layers.join(folder)).collect());
    let view = absolute(&spec.lower);
    let root = spec.layers.join(&spec.merged);
    std::fs::create_dir(&root).map_err(copying)?;
    let root = root.canonicalize().map_err(copying)?;
    copies::copy(&view, &root).map_err(copying)?;
    // of what is thrown away nobody asks what became of it
    let copied = if spec.throwaway { None } else { Some(copies::Copied::remember(&root).map_err(copying)?) };
    let mut spec = Spec { root: host.root, ..spec.clone() };
    for mount in &mut spec.mounts {
        if let What::Stack { lower, at, folder, .. } = &mount.what {
            let to = spec.layers.join(folder).join("copy");
            if !copies::copy_path(&absolute(lower), Path::new(at), &to).map_err(copying)? {
                return Err(Failure::step(format!("`{at}` for the mount at `{}` is not there", mount.target)));
            }
            mount.what = What::Host(to);
        }
    }
    let placement = match host.root {
        Root::Chroot => Some(placed::place(&spec, &root, &root.with_file_name("aside")).map_err(|(what, errno)| cannot(&what, errno))?),
        Root::Overlay | Root::Copied => None,
    };
    let ran = start(&host.runner, &spec, &root, attempt, listener);
    if let Some(placement) = placement {
        placement.take_out().map_err(copying)?;
    }
    let ran = ran?;
    if let Some(copied) = copied {
        copied.changes(&view, upper).map_err(disk("reading what a step changed"))?;
    }
    files::remove(&root).map_err(copying)?;
    Ok(ran)
}

/// Makes a sandbox in which nothing runs; what failed, and an errno.
///
/// # Errors
/// Infra, where the program can't be started.
pub(super) fn try_out(runner: &Path, spec: &Spec) -> Result<Option<(String, i32)>, Failure> {
    let start = |error: io::Error| Failure::infra(format!("the sandbox can't be started: {error}")).retry(Retry::Never);
    let (mut socket, theirs) = UnixStream::pair().map_err(start)?;
    let mut child = spawn(runner, theirs).map_err(start)?;
    let told = send(&mut socket, spec).and_then(|()| receive::<Told>(&mut socket));
    drop(socket);
    let ended = child.wait().map_err(start)?;
    match told {
        Ok(Told::Ready(_)) => Ok(None),
        Ok(Told::Broken(what, errno)) => Ok(Some((what, errno))),
        _ => Err(Failure::infra(format!("the program of the sandbox `{}` ended with {ended}", runner.display())).retry(Retry::Never)),
    }
}

fn spawn(runner: &Path, socket: UnixStream) -> io::Result<Child> {
    let mut command = Command::new(runner);
    // a process that lives for moments has no use for huge pages, and would clear some at its start
    command
        .arg(ARGUMENT)
        .env_clear()
        .env("MIMALLOC_ALLOW_THP", "0")
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/");
    command.spawn()
}

fn cannot(what: &str, errno: i32) -> Failure {
    let failure = Failure::infra(format!("the sandbox can't {what}: {}", io::Error::from_raw_os_error(errno)));
    match errno {
        libc::EPERM | libc::ENOSYS | libc::EINVAL => failure.retry(Retry::Never).hint("`igraph doctor` tells what is missing"),
        _ => failure,
    }
}

/// Runs a sandbox whose root is there, or can be mounted. Mount points that were made for it are removed from the folder `root`.
fn start(runner: &Path, spec: &Spec, root: &Path, attempt: &Attempt<'_>, listener: &mut dyn Listener) -> Result<Ran, Failure> {
    if attempt.cancel.is_cancelled() {
        return Err(Failure::stopped());
    }
    let start = |error: io::Error| Failure::infra(format!("the sandbox can't be started: {error}"));
    let (mut socket, theirs) = UnixStream::pair().map_err(start)?;
    let mut child = spawn(runner, theirs).map_err(start)?;
    let mut pipes = Pipes::of(&mut child).map_err(start)?;
    send(&mut socket, spec).map_err(start)?;
    let mut sandbox = Sandbox { socket: Some(socket), ran: Ran::default(), stubs: Vec::new(), running: false };
    let result = sandbox.watch(spec, &mut pipes, attempt, listener);
    // the child ends all that runs in it when the socket closes
    sandbox.socket = None;
    let reaped = child.wait();
    pipes.drain(listener);
    pipes.finish(listener);
    for stub in sandbox.stubs.iter().rev() {
        remove_stub(&root.join(stub));
    }
    result?;
    reaped.map_err(|error| Failure::infra(format!("the sandbox: {error}")))?;
    Ok(sandbox.ran)
}

struct Sandbox {
    socket: Option<UnixStream>,
    ran: Ran,
    stubs: Vec<PathBuf>,
    running: bool,
}

impl Sandbox {
    fn watch(&mut self, spec: &Spec, pipes: &mut Pipes, attempt: &Attempt<'_>, listener: &mut dyn Listener) -> Result<(), Failure> {
        let begin = Instant::now();
        loop {
            if attempt.cancel.is_cancelled() {
                return Err(Failure::stopped());
            }
            if let Some(limit) = attempt.timeout.filter(|limit| begin.elapsed() >= *limit) {
                return Err(crate::engine::words::timed_out(limit));
            }
            let left = attempt.timeout.map(|limit| limit.saturating_sub(begin.elapsed()) + Duration::from_millis(1));
            let wait = left.and_then(|left| u16::try_from(left.as_millis()).ok()).map_or(TICK, |left| left.min(TICK));
            let Some(socket) = &mut self.socket else { return Ok(()) };
            let told = {
                let mut waiting = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                waiting.extend(pipes.open().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
                match poll(&mut waiting, PollTimeout::from(wait)) {
                    Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                    Ok(_) => {}
                    Err(error) => return Err(Failure::infra(format!("the sandbox: {error}"))),
                }
                waiting[0].any().unwrap_or(true)
            };
            // what a program wrote before its end is in the pipes by then
            pipes.drain(listener);
            if !told {
                continue;
            }
            let message = match receive::<Told>(socket) {
                Ok(message) => message,
                Err(_) => return Err(Failure::infra("the sandbox ended before it said how")),
            };
            if !self.take(message, spec)? {
                return Ok(());
            }
            pipes.finish(listener);
            if !self.running && self.ran.ended.len() < spec.programs.len() {
                listener.started(self.ran.ended.len());
                self.running = true;
                if let Some(socket) = &mut self.socket {
                    socket.write_all(b"g").map_err(|error| Failure::infra(format!("the sandbox: {error}")))?;
                }
            }
        }
    }

    /// Takes a message; `false` where it was the last.
    fn take(&mut self, message: Told, spec: &Spec) -> Result<bool, Failure> {
        let ended = match message {
            Told::Ready(stubs) => {
                self.stubs = stubs;
                return Ok(!spec.programs.is_empty());
            }
            Told::Broken(what, errno) => return Err(cannot(&what, errno)),
            Told::NotRun(errno) => Ended::NotRun(errno),
            Told::Exited(code) => Ended::Code(code.into()),
            Told::Killed(signal) => Ended::Code(128 + i64::from(signal)),
        };
        self.running = false;
        self.ran.ended.push(ended);
        Ok(ended == Ended::Code(0) && self.ran.ended.len() < spec.programs.len())
    }
}

/// Removes a mount point that was made for a mount, if nothing was put there; the folder it is in keeps its time.
pub(super) fn remove_stub(path: &Path) {
    let Some(parent) = path.parent() else { return };
    let before = parent.symlink_metadata();
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(path),
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => std::fs::remove_file(path),
        _ => return,
    };
    if let (Ok(()), Ok(before)) = (removed, before) {
        use std::os::unix::fs::MetadataExt;
        let _ = files::set_mtime(parent, before.mtime());
    }
}

/// Longest line; a longer one is told in pieces.
const LONGEST: usize = 64 << 10;

struct Pipe<R> {
    reader: Option<R>,
    stream: Stream,
    line: Vec<u8>,
}

impl<R: Read + AsFd> Pipe<R> {
    fn drain(&mut self, listener: &mut dyn Listener) {
        let mut buffer = vec![0; 32 << 10];
        while let Some(reader) = &mut self.reader {
            match reader.read(&mut buffer) {
                Ok(0) => self.reader = None,
                Ok(count) => self.take(&buffer[..count], listener),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.reader = None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], listener: &mut dyn Listener) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > LONGEST {
                self.finish(listener);
            }
        }
    }

    fn finish(&mut self, listener: &mut dyn Listener) {
        if self.line.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
        listener.line(self.stream, text.trim_end_matches('\r'));
    }
}

struct Pipes {
    out: Pipe<std::process::ChildStdout>,
    err: Pipe<std::process::ChildStderr>,
}

impl Pipes {
    fn of(child: &mut Child) -> io::Result<Self> {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        for fd in [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            out: Pipe { reader: out, stream: Stream::Stdout, line: Vec::new() },
            err: Pipe { reader: err, stream: Stream::Stderr, line: Vec::new() },
        })
    }

    fn open(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        [self.out.reader.as_ref().map(AsFd::as_fd), self.err.reader.as_ref().map(AsFd::as_fd)].into_iter().flatten()
    }

    fn drain(&mut self, listener: &mut dyn Listener) {
        self.out.drain(listener);
        self.err.drain(listener);
    }

    /// Tells what has no line end.
    fn finish(&mut self, listener: &mut dyn Listener) {
        self.out.finish(listener);
        self.err.finish(listener);
    }
}
