//! A user without rights, who has subordinate ids or none: root becomes one in a mount namespace of its own, in which the files that
//! say so lie over the machine's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const UID: u32 = 12_345;

/// The user, with a home of its own.
pub struct OrdinaryUser {
    folder: tempfile::TempDir,
}

/// Lays files over those of /etc, and becomes the user. The kernel's own namespace ends with the last process in it.
const BECOME: &str = r#"set -e
for file in passwd group subuid subgid; do
    [ -e "/etc/$file" ] || touch "/etc/$file"
    mount --bind "$1/etc/$file" "/etc/$file"
done
home=$1/home
cd "$home"
shift
exec setpriv --reuid=12345 --regid=12345 --clear-groups env HOME="$home" TMPDIR="$home" "$@""#;

impl OrdinaryUser {
    /// One whose `/etc/subuid` and `/etc/subgid` give it `ids` ids. `None`, said loudly, where this process may not become one.
    pub fn new(test: &str, ids: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            super::skip(test, "only root can become another user");
            return None;
        }
        if !Path::new("/usr/bin/newuidmap").exists() {
            super::skip(test, "the package `uidmap` is not installed");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("ig-user-").tempdir_in("/tmp").unwrap();
        let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        open(folder.path());
        for name in ["etc", "home", "bin"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            open(&folder.path().join(name));
        }
        let user = Self { folder };
        let etc = user.folder.path().join("etc");
        let more = |file: &str, line: &str| {
            let text = std::fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            std::fs::write(etc.join(file), format!("{text}igtest:x:{UID}:{line}\n")).unwrap();
        };
        more("passwd", &format!("{UID}::{}:/bin/sh", user.home().display()));
        more("group", "");
        for file in ["subuid", "subgid"] {
            let text = if ids == 0 { String::new() } else { format!("igtest:300000:{ids}\n") };
            std::fs::write(etc.join(file), text).unwrap();
        }
        user.own(&user.home());
        Some(user)
    }

    /// A folder that is the user's.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Gives the user a tree.
    pub fn own(&self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(UID), Some(UID)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            std::fs::read_dir(path).unwrap().for_each(|entry| self.own(&entry.unwrap().path()));
        }
    }

    /// A copy of a program where the user can reach it.
    pub fn program(&self, program: &Path) -> PathBuf {
        let copy = self.folder.path().join("bin").join(program.file_name().unwrap());
        if !copy.exists() {
            std::fs::copy(program, &copy).unwrap();
        }
        copy
    }

    /// A command of the user, in its home.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", BECOME, "sh"]).arg(self.folder.path()).arg(program);
        command
    }
}
