//! From a fresh process, the first of its pid namespace, to the program: /proc, session, limits, filter, capabilities, user.

use std::ffi::CString;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

use super::mounts::{freeze, mask};
use super::seccomp;
use super::spec::{Program, Root, Spec};

/// Why a process never became the program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failed {
    /// The program can't be executed.
    Exec(i32),
    /// Something before that.
    Before(String, i32),
}

/// What Docker gives a container, by number (capability.h): chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const CAPABILITIES: u64 = 0xa804_25fb;
const MOST_CAPABILITIES: u32 = 64;

const MASKED: [&str; 8] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
];
const FROZEN: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Becomes the program; returns only when that fails.
pub(super) fn become_program(program: &Program, spec: &Spec) -> Failed {
    match prepare(program, spec) {
        Ok(candidates) => exec(program, &candidates),
        Err((what, errno)) => Failed::Before(what.into(), errno),
    }
}

type Step = (&'static str, i32);

fn step<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Step {
    move |error| (what, error.into().raw_os_error().unwrap_or(libc::EIO))
}

fn checked(code: libc::c_int, what: &'static str) -> Result<(), Step> {
    if code < 0 { Err(step(what)(io::Error::last_os_error())) } else { Ok(()) }
}

fn prepare(program: &Program, spec: &Spec) -> Result<Vec<CString>, Step> {
    // SAFETY: plain calls with numbers
    unsafe {
        // the parent kills by itself; this is for when it was killed
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), "tie the process to igraph")?;
        // the child's allocator does without, the program need not
        checked(libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0), "allow huge pages")?;
    }
    setsid().map_err(step("start a session"))?;
    // what a container has less of is not to be had
    let allowed = CAPABILITIES & crate::engine::embedded::files::capabilities();
    if spec.root == Root::Chroot {
        nix::unistd::chroot(&spec.layers.join(&spec.merged)).map_err(step("change the root"))?;
        chdir("/").map_err(step("enter the root"))?;
    } else {
        proc()?;
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives as long as the call; the others take numbers
    unsafe {
        checked(libc::setrlimit(libc::RLIMIT_CORE, &none), "forbid core dumps")?;
        checked(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities")?;
    }
    reset_signals();
    // before capabilities go: without them it could be installed only together with no_new_privs, which would break sudo
    if spec.root != Root::Chroot {
        seccomp::install().map_err(step("install the system call filter"))?;
    } else if spec.isolated {
        seccomp::forbid_networks().map_err(step("forbid networks"))?;
    }
    for capability in (0..MOST_CAPABILITIES).filter(|number| CAPABILITIES >> number & 1 == 0) {
        // SAFETY: plain numbers; EINVAL is beyond the last capability of this kernel
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(step("drop capabilities")(error));
        }
    }
    let groups: Vec<Gid> = program.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(step("set groups"))?;
    let (uid, gid) = (Uid::from_raw(program.uid), Gid::from_raw(program.gid));
    setresgid(gid, gid, gid).map_err(step("set the group"))?;
    if program.uid == 0 {
        limit_capabilities(allowed).map_err(step("drop capabilities"))?;
    }
    enter_folder(program)?;
    setresuid(uid, uid, uid).map_err(step("set the user"))?;
    // SAFETY: plain numbers; closes on exec whatever else is open
    unsafe {
        checked(libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int), "close descriptors")?;
        // changing the user has undone it
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), "tie the process to igraph")?;
    }
    Ok(candidates(program))
}

/// The /proc of this process's own pid namespace, with what is nobody's business hidden.
fn proc() -> Result<(), Step> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(Some("proc"), "/proc", Some("proc"), quiet, None::<&str>);
    // where parts of /proc are hidden, as in a container, no whole one may be mounted: what was bound there before must do
    if mounted.is_err() && !std::path::Path::new("/proc/self").exists() {
        mounted.map_err(step("mount /proc"))?;
    }
    MASKED.iter().for_each(|path| mask(path));
    FROZEN.iter().for_each(|path| freeze(path));
    Ok(())
}

/// As runc: with the user's rights after the root's have failed to.
fn enter_folder(program: &Program) -> Result<(), Step> {
    chdir(program.folder.as_str()).map_err(step("enter the working directory"))
}

fn reset_signals() {
    for signal in Signal::iterator() {
        // SAFETY: the default handler is no function of ours; SIGKILL and SIGSTOP refuse, rightly
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn limit_capabilities(allowed: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |bits: u64| {
        let bits = (bits & 0xffff_ffff) as u32;
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let data = [half(allowed), half(allowed >> 32)];
    // SAFETY: header and two data records are laid out as capset(2) of version 3 wants them
    let code = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where the program may be: as written with a slash, else in each folder of the program's own PATH.
fn candidates(program: &Program) -> Vec<CString> {
    let Some(name) = program.argv.first() else { return Vec::new() };
    if name.contains('/') {
        return CString::new(name.as_str()).into_iter().collect();
    }
    let path = program.environment.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value.as_str());
    path.split(':').filter_map(|folder| CString::new(format!("{}/{name}", if folder.is_empty() { "." } else { folder })).ok()).collect()
}

fn exec(program: &Program, candidates: &[CString]) -> Failed {
    let strings = |texts: Vec<String>| texts.into_iter().map(|text| CString::new(text).ok()).collect::<Option<Vec<_>>>();
    let environment = program.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (Some(argv), Some(environment)) = (strings(program.argv.clone()), strings(environment)) else {
        return Failed::Exec(libc::EINVAL);
    };
    let mut errno = libc::ENOENT;
    for candidate in candidates {
        let Err(error) = nix::unistd::execve(candidate, &argv, &environment);
        // a later folder may have one that can be run; the better reason is kept
        if !matches!(error, nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) || candidates.len() == 1 {
            errno = error as i32;
        }
    }
    Failed::Exec(errno)
}
