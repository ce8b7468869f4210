//! What this machine and this user let the engine do: how steps are kept apart, and what their root is made of. Tried when the engine is
//! opened, the best first; that the best works is remembered beside the store as long as all is as it was. Knows no image.

use std::path::{Path, PathBuf};

use super::run::try_out;
use super::spec::{Root, Spec};
use super::user_namespace;
use crate::engine::Advice;
use crate::engine::embedded::files::{self, disk};
use crate::failure::{Failure, Retry};

/// Capabilities by number (capability.h): chown, dac_override, fowner, setgid, setuid, sys_chroot.
const FOR_CHROOT: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 18;
const SYS_ADMIN: u64 = 1 << 21;

/// Says in a store what its layers can be used for; beside them.
const FORM: &str = "form";

/// Says in a store under which circumstances the best way was found to work.
const TRIED: &str = "tried";

/// How steps run here.
#[derive(Clone, Debug)]
pub(in crate::engine::embedded) struct Host {
    /// The program that sandboxes execute.
    pub runner: PathBuf,
    /// What their root is.
    pub root: Root,
    /// Why it is not better, if it is not the best.
    pub lacks: Vec<Advice>,
    /// Where it is remembered.
    tried: PathBuf,
}

impl Host {
    /// What was found out before, where that still holds.
    ///
    /// # Errors
    /// Infra, never retried, where the store is of another kind.
    pub fn remembered(runner: &Path, store: &Path) -> Result<Option<Self>, Failure> {
        let (tried, now) = (store.join(TRIED), circumstances(store));
        if now.is_none() || std::fs::read_to_string(&tried).ok() != now {
            return Ok(None);
        }
        claim(store, form(Root::Overlay))?;
        Ok(Some(Self { runner: runner.to_owned(), root: Root::Overlay, lacks: Vec::new(), tried }))
    }

    /// Finds out what works with the store at `store`; `work` is an empty folder in it.
    ///
    /// # Errors
    /// Infra, never retried, where nothing works, or the store is of another kind.
    pub fn find(runner: PathBuf, store: &Path, work: &Path) -> Result<Self, Failure> {
        let (root, lacks) = find(&runner, store, work)?;
        claim(store, form(root))?;
        let host = Self { runner, root, lacks, tried: store.join(TRIED) };
        match circumstances(store).filter(|_| root == Root::Overlay) {
            // where it can't be written, it is tried again each time
            Some(now) => drop(std::fs::write(&host.tried, now)),
            None => host.forget(),
        }
        Ok(host)
    }

    /// A sandbox could not be made, or did not end as it should: what works is found out anew the next time.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.tried);
    }

    /// In a few words.
    pub fn describe(&self) -> String {
        let who = match (files::is_machine_root(), user_namespace::is_own()) {
            (true, _) => "as root",
            (false, true) => "as an ordinary user with subordinate ids",
            (false, false) => "as root of a container",
        };
        match self.root {
            Root::Overlay => format!("{who}, in namespaces over overlayfs"),
            Root::Copied => format!("{who}, in namespaces on copies of the layers"),
            Root::Chroot => {
                format!("{who}, by chroot on copies of the layers: without namespaces steps are not kept from igraph or each other")
            }
        }
    }
}

/// What the layers of a store are made for.
fn form(root: Root) -> &'static str {
    match root {
        Root::Overlay if files::is_machine_root() => "overlay",
        Root::Overlay => "overlay of a user namespace",
        Root::Copied | Root::Chroot => "copies",
    }
}

/// What decides what a process may do, as far as the kernel tells: the machine's start, namespaces, user, rights, filter, profile, and the
/// file system of the store.
fn circumstances(store: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut text = format!("{} {}\n", env!("CARGO_PKG_VERSION"), boot.trim());
    for namespace in ["user", "mnt", "pid", "net"] {
        text.push_str(&format!("{}\n", std::fs::read_link(format!("/proc/self/ns/{namespace}")).ok()?.display()));
    }
    for line in status.lines().filter(|line| ["Uid", "Gid", "Cap", "NoNewPrivs", "Seccomp"].iter().any(|name| line.starts_with(name))) {
        text.push_str(line);
        text.push('\n');
    }
    let profile = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    text.push_str(&format!("{}\n{}\n", profile.trim_end_matches('\0').trim(), store.metadata().ok()?.dev()));
    Some(text)
}

fn find(runner: &Path, store: &Path, work: &Path) -> Result<(Root, Vec<Advice>), Failure> {
    let capabilities = files::capabilities();
    let mut lacks = Vec::new();
    if capabilities & SYS_ADMIN != 0 {
        for root in [Root::Overlay, Root::Copied] {
            if root == Root::Overlay && form_of(store).as_deref() == Some("copies") {
                continue;
            }
            match attempt(runner, root, work)? {
                None => return Ok((root, lacks)),
                Some((what, errno)) => lacks.push(explain(root, &what, errno, store)),
            }
        }
    } else if nix::unistd::geteuid().is_root() {
        lacks.push(Advice {
            lacks: "namespaces: this container has no CAP_SYS_ADMIN, and its filter forbids user namespaces".into(),
            command: "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined …, or --privileged".into(),
        });
    }
    if nix::unistd::geteuid().is_root() && capabilities & FOR_CHROOT == FOR_CHROOT {
        return Ok((Root::Chroot, lacks));
    }
    lacks.extend(user_namespace::missing());
    let what = lacks.iter().map(|missing| missing.lacks.as_str()).collect::<Vec<_>>().join("; ");
    let commands = lacks.iter().map(|missing| missing.command.as_str()).collect::<Vec<_>>().join(" && ");
    let failure = match what.is_empty() {
        true => Failure::infra("the embedded engine needs root, or a user namespace, which could not be entered"),
        false => Failure::infra(format!("the embedded engine needs root or subordinate ids. Missing: {what}")),
    };
    let ways = "run igraph as root, or use `--engine docker`";
    Err(failure.retry(Retry::Never).hint(if commands.is_empty() { ways.to_owned() } else { format!("{commands}; or {ways}") }))
}

/// Tries a sandbox in which nothing runs; what failed, and an errno.
fn attempt(runner: &Path, root: Root, work: &Path) -> Result<Option<(String, i32)>, Failure> {
    let folders = ["lower", "upper", "work", "merged", "memory"];
    for name in folders {
        let path = work.join(name);
        files::remove(&path).and_then(|()| std::fs::create_dir(&path)).map_err(disk("the store"))?;
    }
    let [lower, upper, over, merged, memory] = folders.map(str::to_owned);
    let spec = Spec { layers: work.to_owned(), lower: vec![lower], upper, work: over, merged, memory, root, ..Spec::default() };
    try_out(runner, &spec)
}

fn explain(root: Root, what: &str, errno: i32, store: &Path) -> Advice {
    let error = std::io::Error::from_raw_os_error(errno);
    let lacks = match root {
        Root::Overlay => format!("overlayfs over the store `{}`: can't {what}: {error}", store.display()),
        Root::Copied | Root::Chroot => format!("namespaces: can't {what}: {error}"),
    };
    Advice { lacks, command: "put the store on ext4, xfs or tmpfs: IGRAPH_STORE=/path (in a container, a volume)".into() }
}

fn form_of(store: &Path) -> Option<String> {
    // an empty one was made a moment before the power failed
    std::fs::read_to_string(store.join(FORM)).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Layers that were unpacked for one way are wrong for another: marks and owners differ.
fn claim(store: &Path, form: &str) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let hint = "run igraph as who made it, name another with IGRAPH_STORE, or remove it with `igraph clean`";
    let refuse = |why: String| Failure::infra(format!("the store `{}` {why}", store.display())).retry(Retry::Never).hint(hint);
    let owner = store.symlink_metadata().map_err(disk("the store"))?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(refuse("belongs to another user".into()));
    }
    let used = std::fs::read_dir(store.join("layers")).is_ok_and(|mut entries| entries.next().is_some());
    // before there were others, all were of that form
    match form_of(store).or_else(|| used.then(|| "overlay".to_owned())) {
        Some(known) if known == form => Ok(()),
        Some(known) => Err(refuse(format!("was made for {known}, and only {form} works here"))),
        None => std::fs::write(store.join(FORM), form).map_err(disk("the store")),
    }
}
