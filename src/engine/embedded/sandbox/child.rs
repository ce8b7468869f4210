//! The child: single-threaded, so that it may fork. Makes the namespaces, then runs the programs one after the other, and ends all of
//! them when its parent lets go of the socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::mounts;
use super::process::{self, Failed};
use super::spec::{ARGUMENT, Program, Root, Spec, Told, receive, send};
use super::user_namespace;

/// Runs the child's part where the arguments say that this process is one; the program does nothing else then.
pub fn enter() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let argument = arguments.next()?;
    if argument == user_namespace::ARGUMENT {
        return Some(user_namespace::enter(arguments));
    }
    if argument != ARGUMENT {
        return None;
    }
    let code = match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // the parent is gone, or will see that we are
        Err(_) => ExitCode::FAILURE,
    };
    Some(code)
}

/// What went wrong, with the errno.
pub(super) type Broken = (String, i32);

/// Names what failed.
pub(super) fn broken<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Broken {
    let what = what.into();
    move |error| (what, error.into().raw_os_error().unwrap_or(libc::EIO))
}

fn serve() -> io::Result<()> {
    let mut socket = take_socket()?;
    let spec: Spec = receive(&mut socket)?;
    let proc_is_covered = mounts::proc_is_covered();
    let stubs = match prepare(&spec) {
        Ok(stubs) => stubs,
        Err((what, errno)) => return send(&mut socket, &Told::Broken(what, errno)),
    };
    send(&mut socket, &Told::Ready(stubs))?;
    for program in &spec.programs {
        if !go_ahead(&mut socket)? {
            return Ok(());
        }
        let told = run(program, &spec, &socket)?;
        if spec.root == Root::Chroot {
            end_all()?;
        } else if !proc_is_covered {
            // of a namespace that is gone, with all that lies on it; the next program has its own
            let _ = nix::mount::umount2("/proc", nix::mount::MntFlags::MNT_DETACH);
        }
        let Some(told) = told else { return Ok(()) };
        let well = matches!(told, Told::Exited(0));
        send(&mut socket, &told)?;
        if !well {
            break;
        }
    }
    Ok(())
}

/// The socket comes as standard input; programs get none.
fn take_socket() -> io::Result<UnixStream> {
    // SAFETY: descriptor 0 is open, and nothing else in this process owns it
    let stdin = unsafe { OwnedFd::from_raw_fd(0) };
    let socket = UnixStream::from(stdin.try_clone()?);
    drop(stdin);
    let null = OwnedFd::from(File::open("/dev/null")?);
    if null.as_raw_fd() == 0 {
        // programs are to find it open
        nix::fcntl::fcntl(&null, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        std::mem::forget(null);
    } else {
        // SAFETY: both are open or unused descriptors of this process
        if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(socket)
}

fn prepare(spec: &Spec) -> Result<Vec<std::path::PathBuf>, Broken> {
    if spec.root == Root::Chroot {
        // what the program leaves behind comes to this process, which ends it
        // SAFETY: a plain call with numbers
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } < 0 {
            return Err(broken("look after orphans")(io::Error::last_os_error()));
        }
        return Ok(Vec::new());
    }
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    if spec.isolated {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(broken("make namespaces"))?;
    nix::unistd::sethostname(super::spec::HOSTNAME).map_err(broken("set the host name"))?;
    if spec.isolated {
        match loopback() {
            // a container that may make namespaces but not set up networks: then there is not even a loopback
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            other => other.map_err(broken("bring up loopback"))?,
        }
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let stubs = mounts::mount_all(spec)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(stubs)
}

/// A network of its own begins with its loopback down.
fn loopback() -> io::Result<()> {
    // SAFETY: plain calls on a descriptor made here; the request is a whole, zeroed structure with the name's end inside
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits until the parent wants the next program; `false` when it lets go.
fn go_ahead(socket: &mut UnixStream) -> io::Result<bool> {
    let mut byte = [0];
    Ok(io::Read::read(socket, &mut byte)? == 1)
}

/// Runs one program to its end; `None` when the parent let go, and all of it was killed.
fn run(program: &Program, spec: &Spec, socket: &UnixStream) -> io::Result<Option<Told>> {
    let (mut reader, writer) = io::pipe()?;
    let namespace = if spec.root == Root::Chroot { 0 } else { libc::CLONE_NEWPID };
    // SAFETY: this process has one thread, so the child may go on as after fork(); with no stack given it shares none
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(namespace | libc::SIGCHLD), 0, 0, 0, 0) };
    if pid < 0 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Ok(Some(Told::Broken("make a process".into(), errno)));
    }
    if pid == 0 {
        drop(reader);
        let failed = process::become_program(program, spec);
        let _ = send(&mut &writer, &failed);
        // SAFETY: ends the process without running anything of its parent's
        unsafe { libc::_exit(127) };
    }
    drop(writer);
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    let killed = !ends(pid, socket)?;
    if killed {
        // it may have ended by itself meanwhile
        let _ = kill(pid, Signal::SIGKILL);
    }
    let status = loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    if killed {
        return Ok(None);
    }
    if let Ok(failed) = receive::<Failed>(&mut reader) {
        return Ok(Some(match failed {
            Failed::Exec(errno) => Told::NotRun(errno),
            Failed::Before(what, errno) => Told::Broken(what, errno),
        }));
    }
    Ok(Some(match status {
        WaitStatus::Exited(_, code) => Told::Exited(code),
        WaitStatus::Signaled(_, signal, _) => Told::Killed(signal as i32),
        other => Told::Broken(format!("wait for a process: {other:?}"), 0),
    }))
}

/// Ends every process that came of this one and waits for it: without a pid namespace the kernel does not.
fn end_all() -> io::Result<()> {
    let own = std::process::id();
    loop {
        let parents = parents()?;
        let of_own = |pid: u32| {
            let mut pid = pid;
            // a process that ends meanwhile leaves a gap in the chain; the next round finds its children at this process
            for _ in 0..parents.len() {
                match parents.get(&pid) {
                    Some(parent) if *parent == own => return true,
                    Some(parent) => pid = *parent,
                    None => return false,
                }
            }
            false
        };
        for pid in parents.keys().copied().filter(|pid| of_own(*pid)) {
            let _ = kill(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?), Signal::SIGKILL);
        }
        match waitpid(None, None) {
            Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The parent of each process that can be seen (proc_pid_stat(5)).
fn parents() -> io::Result<std::collections::BTreeMap<u32, u32>> {
    let of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name may hold blanks and brackets
        text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| Some((pid, of(pid)?))).collect())
}

/// Waits for the end of a process; `false` when the parent lets go before.
fn ends(pid: Pid, socket: &UnixStream) -> io::Result<bool> {
    // SAFETY: a plain call; the descriptor is ours
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: just opened
    let process = unsafe { OwnedFd::from_raw_fd(fd) };
    loop {
        use std::os::fd::AsFd;
        let mut waiting = [PollFd::new(process.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => drop(other?),
        }
        let woken = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        if woken(&waiting[0]) {
            return Ok(true);
        }
        if woken(&waiting[1]) {
            return Ok(false);
        }
    }
}
