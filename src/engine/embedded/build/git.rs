//! ADD of a Git repository: one commit, checked out by the program `git` into a folder. Knows no image.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::stage::Builder;
use crate::dockerfile::AddFlags;
use crate::engine::classify::classify;
use crate::engine::embedded::files::{self, disk};
use crate::failure::{Failure, FailureClass};

/// Whether the program can be run.
pub(in crate::engine::embedded) fn git_is_here() -> bool {
    let ran = Command::new("git").arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// `URL#REFERENCE:FOLDER`, all but the URL may be empty.
fn parts(source: &str) -> (&str, &str, &str) {
    let (url, fragment) = source.split_once('#').unwrap_or((source, ""));
    let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
    (url, reference, folder)
}

/// Whether a checksum is a commit's, as long as it goes.
fn is_start_of(checksum: &str, commit: &str) -> bool {
    !checksum.is_empty() && commit.starts_with(&checksum.to_ascii_lowercase())
}

/// What was checked out.
pub(super) struct Checkout {
    /// The commit.
    pub commit: String,
    /// The folder that was asked for.
    pub folder: PathBuf,
}

impl Builder<'_> {
    /// Checks `source` out into the new folder `to`; the flags are those of its ADD.
    ///
    /// # Errors
    /// Infra where the server can't be reached, a step failure where it has no such thing, or another commit than `--checksum` says.
    pub(super) fn checkout(&self, source: &str, flags: &AddFlags, to: &Path) -> Result<Checkout, Failure> {
        let (url, reference, folder) = parts(source);
        std::fs::create_dir(to).map_err(disk("a Git repository"))?;
        let wanted = if reference.is_empty() { "HEAD" } else { reference };
        self.git(to, source, &["init", "--quiet", "."])?;
        // addresses of submodules may start from it
        self.git(to, source, &["remote", "add", "--", "origin", url])?;
        // a server that can't give one commit alone gives all
        let commit = if self.git(to, source, &["fetch", "--quiet", "--depth=1", "--no-tags", "--", url, wanted]).is_ok() {
            self.commit(to, source, "FETCH_HEAD")?
        } else {
            self.left()?;
            let heads = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/remotes/origin/HEAD"];
            let fetch = ["fetch", "--quiet", "--", url];
            self.git(to, source, &fetch.into_iter().chain(heads).collect::<Vec<_>>())?;
            let branch = wanted.strip_prefix("refs/heads/").unwrap_or(wanted);
            let names = [format!("refs/remotes/origin/{branch}"), format!("refs/tags/{wanted}"), wanted.to_owned()];
            let found = names.iter().find_map(|name| self.commit(to, source, name).ok());
            found.ok_or_else(|| Failure::step(format!("`{url}` has no `{wanted}`")))?
        };
        self.git(to, source, &["checkout", "--quiet", "--force", "--detach", &commit])?;
        if let Some(checksum) = flags.checksum.as_ref().map(|text| text.value.as_str()).filter(|text| !is_start_of(text, &commit)) {
            return Err(Failure::step(format!("the checksum of `{source}` is not `{checksum}`: its commit is {commit}")));
        }
        if to.join(".gitmodules").exists() {
            let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
            if self.git(to, source, &[&update[..], &["--depth=1"]].concat()).is_err() {
                self.left()?;
                self.git(to, source, &update)?;
            }
        }
        let inside = to.join(folder.trim_matches('/'));
        let is_inside = inside.canonicalize().is_ok_and(|path| to.canonicalize().is_ok_and(|root| path.starts_with(root)));
        if !is_inside || !inside.is_dir() {
            return Err(Failure::step(format!("`{url}` has no folder `{folder}` at `{wanted}`")));
        }
        if flags.keep_git_dir {
            self.settle(to, source)?;
        }
        tidy(to, !flags.keep_git_dir).map_err(disk("a Git repository"))?;
        Ok(Checkout { commit, folder: inside })
    }

    /// The id of the commit that a name or a tag leads to.
    fn commit(&self, folder: &Path, source: &str, name: &str) -> Result<String, Failure> {
        let id = self.git(folder, source, &["rev-parse", "--quiet", "--verify", &format!("{name}^{{commit}}")])?;
        Ok(id.trim().to_owned())
    }

    /// Takes out of `.git`, and of those of submodules, what tells of this machine and this moment: an index knows times and inodes.
    fn settle(&self, folder: &Path, source: &str) -> Result<(), Failure> {
        const SETTLE: &str = r#"dir=$(git rev-parse --git-dir) && rm -f "$dir/index" "$dir/FETCH_HEAD" && git read-tree HEAD"#;
        self.git(folder, source, &["-c", &format!("alias.settle=!{SETTLE}"), "settle"])?;
        self.git(folder, source, &["submodule", "--quiet", "foreach", "--recursive", SETTLE]).map(drop)
    }

    /// Runs git; its output. It asks nobody, and no settings but the repository's count.
    fn git(&self, folder: &Path, source: &str, arguments: &[&str]) -> Result<String, Failure> {
        let log = tempfile::tempfile().map_err(disk("a Git repository"))?;
        let out = tempfile::tempfile().map_err(disk("a Git repository"))?;
        let of = |file: &std::fs::File| file.try_clone().map(Stdio::from).map_err(disk("a Git repository"));
        let mut command = Command::new("git");
        command.args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=never", "-c", "safe.directory=*"]);
        command.args(["-c", "core.logAllRefUpdates=false"]).args(arguments);
        command.current_dir(folder).stdin(Stdio::null()).stdout(of(&out)?).stderr(of(&log)?);
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG_PARAMETERS", "GIT_ASKPASS", "SSH_ASKPASS"] {
            command.env_remove(name);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        // no templates of this machine
        command.env("GIT_TEMPLATE_DIR", "").env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        command.envs(crate::engine::words::proxy_variables(self.request.proxies));
        if let Some(agent) = self.request.ssh.get("default") {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let mut child = command.spawn().map_err(disk("`git` can't be run"))?;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(disk("git"))? {
                break status;
            }
            if let Err(failure) = self.left() {
                // it is waited for, so that nothing writes to the folder any more
                let _ = child.kill();
                let _ = child.wait();
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let text = |mut file: std::fs::File| -> std::io::Result<String> {
            use std::io::{Read, Seek};
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        if status.success() {
            return text(out).map_err(disk("git"));
        }
        let said = text(log).map_err(disk("git"))?;
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("git failed").trim();
        let message = format!("`{source}` can't be fetched: {last}");
        Err(match classify(said.lines(), Some(128), "").class {
            FailureClass::Infra => Failure::infra(message),
            _ => Failure::step(message),
        })
    }
}

/// Modes as a commit has them, whatever the umask; what git keeps for itself goes.
fn tidy(path: &Path, drop_git_dir: bool) -> std::io::Result<()> {
    for name in files::names(path)? {
        let path = path.join(&name);
        let metadata = path.symlink_metadata()?;
        if name == ".git" && drop_git_dir {
            files::remove(&path)?;
        } else if metadata.is_dir() {
            files::set_mode(&path, 0o755)?;
            tidy(&path, drop_git_dir)?;
        } else if metadata.is_file() {
            let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0;
            files::set_mode(&path, if executable { 0o755 } else { 0o644 })?;
        }
    }
    files::set_mode(path, 0o755)
}

#[cfg(test)]
mod tests {
    use super::{is_start_of, parts};

    #[test]
    fn a_source_has_three_parts() {
        assert_eq!(parts("https://h/a.git"), ("https://h/a.git", "", ""));
        assert_eq!(parts("https://h/a.git#v1"), ("https://h/a.git", "v1", ""));
        assert_eq!(parts("git@h:a/b.git#v1:sub/dir"), ("git@h:a/b.git", "v1", "sub/dir"));
        assert_eq!(parts("git@h:a/b.git#:sub"), ("git@h:a/b.git", "", "sub"));
    }

    #[test]
    fn a_checksum_is_a_commit_or_its_start() {
        let commit = "818a4ddf0d6ebce5715b263879a11a69cf0a8617";
        for (checksum, is) in [
            (commit, true),
            ("8", true),
            ("818A4DDF", true),
            ("", false),
            ("18a", false),
            ("818a4ddf0d6ebce5715b263879a11a69cf0a86170", false),
        ] {
            assert_eq!(is_start_of(checksum, commit), is, "{checksum}");
        }
    }
}
