//! The system call filter: what only an administrator of the machine needs is refused as if the kernel did not allow it, whatever
//! rights a program may come to. A list of what is forbidden, not of what is allowed: new calls of programs keep working.

use std::io;

/// Offsets in `seccomp_data` (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// Calls of the x32 ABI have this bit.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// As a kernel says it that was built without a network.
const NO_FAMILY: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Namespaces that a program may not make.
const NAMESPACES: u32 = (libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWUSER) as u32
    | (libc::CLONE_NEWPID | libc::CLONE_NEWNET) as u32;

/// Refused on every architecture.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

fn op(code: u32, k: u32, yes: usize, no: usize) -> libc::sock_filter {
    let jump = |length: usize| u8::try_from(length).unwrap_or(u8::MAX);
    libc::sock_filter { code: code as u16, jt: jump(yes), jf: jump(no), k }
}

/// The program for the kernel's classic BPF machine.
fn program() -> Vec<libc::sock_filter> {
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let answer = |with| op(libc::BPF_RET | libc::BPF_K, with, 0, 0);
    let equals = |number, yes, no| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, yes, no);
    // another architecture's calls have other numbers: programs for it still run, without the capabilities these calls need
    let mut program = vec![load(ARCHITECTURE), equals(NATIVE, 1, 0), answer(ALLOW), load(NUMBER)];
    #[cfg(target_arch = "x86_64")]
    program.extend([op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, X32, 0, 1), answer(UNKNOWN)]);
    for number in FORBIDDEN {
        program.extend([equals(*number as u32, 0, 1), answer(REFUSE)]);
    }
    // the C library falls back to clone, whose flags can be looked at
    program.extend([equals(libc::SYS_clone3 as u32, 0, 1), answer(UNKNOWN)]);
    program.extend([
        equals(libc::SYS_clone as u32, 0, 3),
        load(ARGUMENT),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, NAMESPACES, 0, 1),
        answer(REFUSE),
        answer(ALLOW),
    ]);
    program
}

/// Installs the filter for this process and all it starts. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// What the kernel says.
pub(super) fn install() -> io::Result<()> {
    set(program())
}

/// Lets this process and all it starts make no socket but local ones: what stands in for a network of its own where none can be made.
/// Programs can gain no rights by being executed then (sudo, su): without CAP_SYS_ADMIN there is no filter otherwise.
///
/// # Errors
/// What the kernel says.
pub(super) fn forbid_networks() -> io::Result<()> {
    // SAFETY: plain numbers
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let answer = |with| op(libc::BPF_RET | libc::BPF_K, with, 0, 0);
    let equals = |number, yes, no| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, yes, no);
    // programs of another architecture have another way to make sockets, and so don't run
    let mut filter = vec![load(ARCHITECTURE), equals(NATIVE, 1, 0), answer(REFUSE), load(NUMBER)];
    #[cfg(target_arch = "x86_64")]
    filter.extend([op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, X32, 0, 1), answer(UNKNOWN)]);
    for number in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        filter.extend([equals(number as u32, 0, 1), answer(REFUSE)]);
    }
    filter.extend([equals(libc::SYS_socket as u32, 0, 3), load(ARGUMENT), equals(libc::AF_UNIX as u32, 1, 0), answer(NO_FAMILY)]);
    filter.push(answer(ALLOW));
    set(filter)
}

fn set(mut filter: Vec<libc::sock_filter>) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the program lives as long as the call, which copies it
    let code = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
