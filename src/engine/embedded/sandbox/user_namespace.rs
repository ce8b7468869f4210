//! A user namespace for igraph as a whole: within, an ordinary user is root over the ids that `/etc/subuid` and `/etc/subgid` give it,
//! and so unpacks, mounts, compares and removes as root does. igraph executes itself once more to enter one, while it has one thread.
//! Knows no image and no store.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::engine::Advice;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, User, fork, getegid, geteuid, setresgid, setresuid};

/// First argument of a process that enters a user namespace and becomes the program named next.
pub(super) const ARGUMENT: &str = "__igraph-user-namespace";

/// So many ids an image may use; a range that holds fewer fails at the first file that has another owner.
const IDS: u64 = 65_536;

/// Capabilities by number (capability.h) that let a process give a user namespace any ids of its own.
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

/// How the ids of a user namespace are said to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ids {
    /// By the programs of the package `uidmap`, with these ranges besides the user's own id.
    Subordinate { uids: Vec<Range>, gids: Vec<Range> },
    /// By this process itself: each id stays what it is.
    Same,
}

/// Ids from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    pub start: u64,
    pub count: u64,
}

/// The ids that a user namespace of this user would have, or all that is missing for one.
fn ids() -> Result<Ids, Vec<Advice>> {
    let mut missing = kernel();
    if geteuid().is_root() {
        // a container's root: it has all ids that there are
        let needed = SETUID | SETGID;
        if crate::engine::embedded::files::capabilities() & needed != needed {
            missing.push(Advice { lacks: "the capabilities SETUID and SETGID".into(), command: "start the container with them".into() });
        }
        return if missing.is_empty() { Ok(Ids::Same) } else { Err(missing) };
    }
    let (uid, gid) = (geteuid(), getegid());
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    if ["newuidmap", "newgidmap"].iter().any(|program| find(program).is_none()) {
        let what = "the programs newuidmap and newgidmap, which let an ordinary user have more than one id";
        missing.push(Advice { lacks: what.into(), command: "sudo apt-get install uidmap".into() });
    }
    let ranges = |path: &str, own: u32| ranges(&std::fs::read_to_string(path).unwrap_or_default(), &name, uid.as_raw(), own);
    let (uids, gids) = (ranges("/etc/subuid", uid.as_raw()), ranges("/etc/subgid", gid.as_raw()));
    for (path, flag, found) in [("/etc/subuid", "uids", &uids), ("/etc/subgid", "gids", &gids)] {
        let count = found.iter().map(|range| range.count).sum::<u64>();
        if count + 1 < IDS {
            let what = match count {
                0 => format!("a range for `{name}` in {path}"),
                count => format!("more than the {count} ids that {path} gives `{name}`: images use {IDS}"),
            };
            missing.push(Advice { lacks: what, command: format!("sudo usermod --add-sub{flag} 100000-165535 {name}") });
        }
    }
    if missing.is_empty() { Ok(Ids::Subordinate { uids, gids }) } else { Err(missing) }
}

/// All that is missing for this user to have a user namespace with ids enough.
pub(super) fn missing() -> Vec<Advice> {
    ids().err().unwrap_or_default()
}

/// Whether this process is in a user namespace that maps ids, as igraph makes one for an ordinary user.
pub(super) fn is_own() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let mut fields = map.split_whitespace();
        fields.next() == Some("0") && fields.next() != Some("0")
    })
}

/// What the kernel's settings keep from an ordinary user.
fn kernel() -> Vec<Advice> {
    let says = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let settings = [
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000", "user namespaces (their number is limited to 0)"),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
            "user namespaces for ordinary users (the kernel is set to refuse them)",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
            "rights within user namespaces for ordinary users (AppArmor takes them away)",
        ),
    ];
    let restricted = |path: &str| geteuid().is_root() && !path.starts_with("/proc/sys/user/");
    let broken = settings.into_iter().filter(|(path, value, ..)| says(path, value) && !restricted(path));
    broken.map(|(_, _, setting, what)| Advice { lacks: what.into(), command: format!("sudo sysctl -w {setting}") }).collect()
}

/// The ranges that a file in the form of `/etc/subuid` gives a user, its own id left out.
fn ranges(text: &str, name: &str, uid: u32, own: u32) -> Vec<Range> {
    let line = |line: &str| {
        let mut fields = line.trim().splitn(3, ':');
        let (who, start, count) = (fields.next()?, fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        let mine = who == name || who == uid.to_string();
        let holds_own = (start..start.saturating_add(count)).contains(&own.into());
        (mine && count > 0 && !holds_own).then_some(Range { start, count })
    };
    text.lines().filter_map(line).collect()
}

fn find(program: &str) -> Option<PathBuf> {
    // what may give ids is not looked for in a PATH that anyone can set
    ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin", "/run/wrappers/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
}

/// Executes `program` with `arguments` in a user namespace, in place of this process; returns only where that fails.
///
/// # Errors
/// Always.
pub fn enter_user_namespace(program: &Path, arguments: &[OsString]) -> io::Error {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ARGUMENT).arg(program).args(arguments).exec()
}

/// Whether a user namespace would make this process more than it is.
pub fn gains_from_user_namespace() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    crate::engine::embedded::files::capabilities() & SYS_ADMIN == 0 && ids().is_ok() && (!geteuid().is_root() || allowed())
}

/// Whether the kernel lets this process make one. A container's filter often does not.
fn allowed() -> bool {
    let mut probe = Command::new("/proc/self/exe");
    probe.args([ARGUMENT, "/proc/self/exe", ARGUMENT]).stderr(std::process::Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// The part of the process that was executed to enter one.
pub(super) fn enter(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = arguments.next() else { return ExitCode::SUCCESS };
    let arguments: Vec<OsString> = arguments.collect();
    let error = match become_root() {
        Ok(()) => {
            let mut command = Command::new(&program);
            let name = if program == "/proc/self/exe" { OsString::from("igraph") } else { program };
            command.arg0(name).args(arguments).exec()
        }
        Err(error) => error,
    };
    // nothing of igraph runs yet that could say it better
    let _ = writeln!(io::stderr(), "igraph: a user namespace can't be entered: {error}\n  hint: `igraph doctor` tells what is missing");
    ExitCode::from(10)
}

/// Makes the namespace; the programs that give it its ids are run by a child that stays outside.
fn become_root() -> io::Result<()> {
    let told = |missing: Vec<Advice>| io::Error::other(missing.into_iter().map(|one| one.lacks).collect::<Vec<_>>().join("; "));
    let ids = ids().map_err(told)?;
    let (uid, gid, pid) = (geteuid(), getegid(), std::process::id());
    let (mut reader, mut writer) = io::pipe()?;
    // SAFETY: this process has one thread
    let child = match unsafe { fork() }? {
        ForkResult::Child => {
            drop(writer);
            let mut byte = [0];
            // without the byte there is no namespace
            let given = reader.read_exact(&mut byte).and_then(|()| give(&ids, pid, uid, gid));
            if let Err(error) = &given {
                let _ = writeln!(io::stderr(), "igraph: {error}");
            }
            // SAFETY: ends the process without running anything of its parent's
            unsafe { libc::_exit(i32::from(given.is_err())) }
        }
        ForkResult::Parent { child } => child,
    };
    drop(reader);
    let made = unshare(CloneFlags::CLONE_NEWUSER);
    if made.is_ok() {
        writer.write_all(b"g")?;
    }
    drop(writer);
    let ended = loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    made?;
    if ended != WaitStatus::Exited(child, 0) {
        return Err(io::Error::other("it got no ids"));
    }
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    Ok(())
}

/// Gives the namespace of the process `pid` its ids.
fn give(ids: &Ids, pid: u32, uid: Uid, gid: Gid) -> io::Result<()> {
    match ids {
        Ids::Same => ["uid_map", "gid_map"].iter().try_for_each(|file| {
            let own = std::fs::read_to_string(format!("/proc/self/{file}"))?;
            let same: String = own
                .lines()
                .filter_map(|line| {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    Some(format!("{} {} {}\n", fields.first()?, fields.first()?, fields.get(2)?))
                })
                .collect();
            std::fs::write(format!("/proc/{pid}/{file}"), same)
        }),
        Ids::Subordinate { uids, gids } => {
            for (program, own, ranges) in [("newuidmap", uid.as_raw(), uids), ("newgidmap", gid.as_raw(), gids)] {
                let mut command = Command::new(find(program).ok_or_else(|| io::Error::other(format!("{program} is gone")))?);
                command.args([pid.to_string(), "0".into(), own.to_string(), "1".into()]);
                let mut next = 1;
                for range in ranges {
                    command.args([next, range.start, range.count].map(|number| number.to_string()));
                    next += range.count;
                }
                if !command.status()?.success() {
                    return Err(io::Error::other(format!("{program} refused")));
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_user() {
        let text = "other:100000:65536\nme:200000:1000\n# no line\n1000:300000:64536\nme:x:1\nme:900:200\nme:400000:0\n";
        let found = ranges(text, "me", 1000, 1000);
        assert_eq!(found, [Range { start: 200_000, count: 1000 }, Range { start: 300_000, count: 64_536 }]);
        assert_eq!(ranges(text, "nobody", 7, 7), []);
    }
}
