//! `igraph.lock`: which image each base from a registry resolves to, made to be read in a diff. Knows the file, no
//! registry and no clock.
//!
//! RON, one entry of a few lines for each reference and platform, sorted; the same lock is always the same bytes:
//!
//! ```ron
//! // made by igraph, moved by `igraph update`; commit it
//! Lock(version: 1, bases: [
//!     (
//!         reference: "docker.io/library/debian:bookworm",
//!         platform: "linux/amd64",
//!         index: "sha256:…",
//!         manifest: "sha256:…",
//!         config: "sha256:…",
//!         time: "2026-11-23T18:27:00Z",
//!     ),
//! ])
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::digest::{Digest, ImageId};
use crate::platform::Platform;
use crate::problem::{Problem, Source};
use crate::reference::Reference;

/// The name of the file, at the workspace root.
pub const LOCK_FILE: &str = "igraph.lock";

/// The version that is written.
const VERSION: u32 = 1;

const HEADER: &str = "// made by igraph, moved by `igraph update`; commit it\n";

/// What a reference resolves to for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedBase {
    /// Digest of the image index, where the reference points at one.
    pub index: Option<Digest>,
    /// Digest of the platform's manifest: what keys see.
    pub manifest: Digest,
    /// The image id.
    pub config: ImageId,
    /// When it was resolved; to the second in the file.
    pub time: Timestamp,
}

/// A parsed lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    bases: BTreeMap<(Reference, Platform), LockedBase>,
}

/// How one base differs between two locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockChange {
    /// Only the newer has it.
    Added(LockedBase),
    /// Only the older has it.
    Removed(LockedBase),
    /// It resolves to something else.
    Moved { old: LockedBase, new: LockedBase },
}

/// Of a lock of any version.
#[derive(Deserialize)]
#[serde(rename = "Lock")]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
#[serde(rename = "Lock", deny_unknown_fields)]
struct FileV1 {
    #[expect(dead_code, reason = "read as `Head` before")]
    version: u32,
    bases: Vec<BaseV1>,
}

#[derive(Deserialize)]
#[serde(rename = "base", deny_unknown_fields)]
struct BaseV1 {
    reference: Reference,
    platform: Platform,
    #[serde(default)]
    index: Option<Digest>,
    manifest: Digest,
    config: ImageId,
    time: String,
}

impl Lock {
    /// Reads a lock from the text of `path`.
    ///
    /// # Errors
    /// Where the text is no lock of a version known here, has the marks of an unfinished merge, or an entry twice.
    pub fn parse(text: &str, path: &str) -> Result<Self, Vec<Problem>> {
        let source = Arc::new(Source { path: path.to_owned(), text: text.to_owned() });
        let conflicts = conflicts(&source);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        let fail = |error: ron::error::SpannedError| vec![syntax_problem(&source, &error)];
        let head: Head = options.from_str(text).map_err(fail)?;
        if head.version != VERSION {
            return Err(vec![version_problem(&source, head.version)]);
        }
        let file: FileV1 = options.from_str(text).map_err(fail)?;
        let mut lock = Self::default();
        let mut problems = Vec::new();
        let mut places = text.match_indices("reference").map(|(at, _)| at);
        for entry in file.bases {
            let place = places.next().unwrap_or(0);
            let Some(time) = Timestamp::parse_rfc3339(&entry.time) else {
                let problem = Problem::new(format!("`{}` is no time", entry.time)).hint("write it like `2026-11-23T18:27:00Z`");
                problems.push(at_text(problem, &source, place, &entry.time));
                continue;
            };
            let base = LockedBase { index: entry.index, manifest: entry.manifest, config: entry.config, time };
            let key = (entry.reference, entry.platform);
            if lock.bases.contains_key(&key) {
                let problem = Problem::new(format!("`{}` for {} is locked twice", key.0, key.1));
                problems
                    .push(at_text(problem, &source, place, &key.0.to_string()).hint("remove one, and let `igraph update` resolve it anew"));
                continue;
            }
            lock.bases.insert(key, base);
        }
        if problems.is_empty() { Ok(lock) } else { Err(problems) }
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("{HEADER}Lock(version: {VERSION}, bases: [\n");
        for ((reference, platform), base) in &self.bases {
            let index = base.index.map(|index| format!("        index: \"{index}\",\n")).unwrap_or_default();
            // writing to a String can't fail
            let _ = write!(
                text,
                "    (\n        reference: \"{reference}\",\n        platform: \"{platform}\",\n{index}        manifest: \"{}\",\n        config: \"{}\",\n        time: \"{}\",\n    ),\n",
                base.manifest,
                base.config,
                base.time.to_rfc3339(),
            );
        }
        text.push_str("])\n");
        text
    }

    /// What `reference` resolves to for `platform`.
    pub fn find(&self, reference: &Reference, platform: &Platform) -> Option<&LockedBase> {
        // the map's key is a pair of owned values
        self.bases.get(&(reference.clone(), platform.clone()))
    }

    /// Sets what `reference` resolves to for `platform`; returns what it was.
    pub fn insert(&mut self, reference: Reference, platform: Platform, base: LockedBase) -> Option<LockedBase> {
        self.bases.insert((reference, platform), base)
    }

    /// Forgets a base; returns what it was.
    pub fn remove(&mut self, reference: &Reference, platform: &Platform) -> Option<LockedBase> {
        self.bases.remove(&(reference.clone(), platform.clone()))
    }

    /// All bases, sorted.
    pub fn bases(&self) -> impl Iterator<Item = (&Reference, &Platform, &LockedBase)> {
        self.bases.iter().map(|((reference, platform), base)| (reference, platform, base))
    }

    /// How many bases it has.
    pub fn len(&self) -> usize {
        self.bases.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// What `newer` does differently, sorted. A base whose time alone differs has not changed.
    pub fn changes(&self, newer: &Self) -> Vec<(Reference, Platform, LockChange)> {
        let same = |old: &LockedBase, new: &LockedBase| LockedBase { time: new.time, ..old.clone() } == *new;
        let keys: std::collections::BTreeSet<_> = self.bases.keys().chain(newer.bases.keys()).collect();
        keys.into_iter()
            .filter_map(|key| {
                let change = match (self.bases.get(key), newer.bases.get(key)) {
                    (Some(old), Some(new)) if same(old, new) => return None,
                    (Some(old), Some(new)) => LockChange::Moved { old: old.clone(), new: new.clone() },
                    (None, Some(new)) => LockChange::Added(new.clone()),
                    (Some(old), None) => LockChange::Removed(old.clone()),
                    (None, None) => return None,
                };
                Some((key.0.clone(), key.1.clone(), change))
            })
            .collect()
    }

    /// Reads the lock at `path`, which people know as `shown`; a file that is not there is an empty lock.
    ///
    /// # Errors
    /// As [`Self::parse`], and where the file can't be read.
    pub fn load(path: &Path, shown: &str) -> Result<Self, Vec<Problem>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, shown),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(vec![Problem::new(format!("can't read `{shown}`: {error}"))]),
        }
    }

    /// Writes the lock to `path`: whoever reads it, and whatever happens meanwhile, sees the old one or this one whole.
    /// Durable when it returns.
    ///
    /// # Errors
    /// Where the folder can't be written to; the old file is then as it was.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, self.render().as_bytes())
    }
}

/// Replaces the file at `path` by `bytes` as a whole, durably; a new file gets the mode that the umask leaves of 0666,
/// an old one keeps its own.
///
/// # Errors
/// Where the folder can't be written to.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // through a link, so that the link stays one
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".igraph-").permissions(new).tempfile_in(folder)?;
    if let Ok(old) = fs::metadata(&path) {
        file.as_file().set_permissions(old.permissions())?;
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

fn version_problem(source: &Arc<Source>, version: u32) -> Problem {
    let problem = Problem::new(format!("this lock has version {version}, and this igraph reads version {VERSION}"));
    at_text(problem, source, source.text.find("version").unwrap_or(0), &version.to_string())
        .hint("a newer igraph wrote it: use that, or restore an older lock")
}

/// Points at the first place from `start` on where `text` stands.
fn at_text(problem: Problem, source: &Arc<Source>, start: usize, text: &str) -> Problem {
    match source.text[start..].find(text) {
        Some(at) => problem.at(source, start + at..start + at + text.len()),
        None => problem.at(source, start..start),
    }
}

/// The marks that git and its like leave in a file.
fn conflicts(source: &Arc<Source>) -> Vec<Problem> {
    let mut at = 0;
    for line in source.text.split_inclusive('\n') {
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") || line.trim_end() == "=======" {
            let problem = Problem::new("this lock holds an unfinished merge").at(source, at..at + line.trim_end().len());
            return vec![problem.hint("take either side whole, then `igraph update` what should be newer")];
        }
        at += line.len();
    }
    Vec::new()
}

fn syntax_problem(source: &Arc<Source>, error: &ron::error::SpannedError) -> Problem {
    let offset = |position: &ron::error::Position| {
        let line: usize = source.text.split_inclusive('\n').take(position.line.saturating_sub(1)).map(str::len).sum();
        let column: usize = source.text[line..].chars().take(position.col.saturating_sub(1)).map(char::len_utf8).sum();
        line + column
    };
    let (start, end) = (offset(&error.span.start), offset(&error.span.end));
    let code = error.code.to_string();
    let mut letters = code.chars();
    let code: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    Problem::new(format!("this lock can't be read: {code}"))
        .at(source, start.min(end)..end)
        .hint("restore it, or remove it and let igraph resolve all bases anew")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::report::diagnostics::render_problems;

    const V1: &str = include_str!("../tests/data/igraph-v1.lock");

    fn base(word: &str) -> LockedBase {
        let digest = |part: &str| Digest::of(format!("{word} {part}").as_bytes());
        LockedBase { index: None, manifest: digest("manifest"), config: ImageId(digest("config")), time: Timestamp(1_795_458_420_000) }
    }

    fn key(reference: &str, platform: &str) -> (Reference, Platform) {
        (reference.parse().unwrap(), platform.parse().unwrap())
    }

    #[test]
    fn version_1_is_read_and_written_back() {
        let lock = Lock::parse(V1, "igraph.lock").unwrap();
        assert_eq!(lock.render(), V1);
        let (reference, platform) = key("debian:bookworm", "linux/amd64");
        let found = lock.find(&reference, &platform).unwrap();
        assert_eq!(found.time.to_rfc3339(), "2026-11-23T18:27:00Z");
        assert_eq!(found.index, Some(Digest::of(b"index")));
        assert_eq!(lock.find(&reference, &"linux/s390x".parse().unwrap()), None);
        let order: Vec<String> = lock.bases().map(|(reference, platform, _)| format!("{reference} {platform}")).collect();
        assert_eq!(
            order,
            [
                "docker.io/library/debian:bookworm linux/amd64",
                "docker.io/library/debian:bookworm linux/arm64",
                "reg.corp:5000/team/app:1 linux/amd64"
            ]
        );
    }

    #[test]
    fn changes_are_what_resolves_otherwise() {
        let mut old = Lock::default();
        for word in ["gone", "moved", "same"] {
            let (reference, platform) = key(word, "linux/amd64");
            assert_eq!(old.insert(reference, platform, base(word)), None);
        }
        let mut new = old.clone();
        let (reference, platform) = key("gone", "linux/amd64");
        assert_eq!(new.remove(&reference, &platform), Some(base("gone")));
        for (word, what) in [("moved", "elsewhere"), ("new", "new")] {
            let (reference, platform) = key(word, "linux/amd64");
            new.insert(reference, platform, base(what));
        }
        let (reference, platform) = key("same", "linux/amd64");
        new.insert(reference, platform, LockedBase { time: Timestamp(0), ..base("same") });
        let changes: Vec<(String, LockChange)> =
            old.changes(&new).into_iter().map(|(reference, _, change)| (reference.familiar(), change)).collect();
        assert_eq!(
            changes,
            [
                ("gone:latest".to_owned(), LockChange::Removed(base("gone"))),
                ("moved:latest".to_owned(), LockChange::Moved { old: base("moved"), new: base("elsewhere") }),
                ("new:latest".to_owned(), LockChange::Added(base("new"))),
            ]
        );
        assert_eq!(old.changes(&old), []);
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        assert_eq!(Lock::load(&path, LOCK_FILE), Ok(Lock::default()));
        let mut lock = Lock::default();
        for (reference, platform) in
            [key("a", "linux/amd64"), key("a:1@sha256:0000000000000000000000000000000000000000000000000000000000000000", "linux/arm/v7")]
        {
            lock.insert(reference, platform, base("a"));
        }
        lock.save(&path).unwrap();
        assert_eq!(Lock::load(&path, LOCK_FILE), Ok(lock.clone()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Lock::default().save(&link).unwrap();
        assert_eq!(Lock::load(&path, LOCK_FILE), Ok(Lock::default()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        assert!(lock.save(&folder.path().join("no/such/folder")).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Lock::load(&path, LOCK_FILE).is_err());
    }

    #[test]
    fn broken_locks_are_refused() {
        let said = |text: &str| render_problems(&Lock::parse(text, "igraph.lock").unwrap_err(), false);
        let entry = &V1[V1.find("    (").unwrap()..=V1.find("    ),").unwrap() + 6];
        let with = |from: &str, to: &str| V1.replacen(from, to, 1);
        insta::assert_snapshot!(said("// later\nLock(version: 2, nodes: {\"x\": Some((a: [1]))}, more: New(1))"), @r#"
        error: this lock has version 2, and this igraph reads version 1
         --> igraph.lock:2:15
          |
        2 | Lock(version: 2, nodes: {"x": Some((a: [1]))}, more: New(1))
          |               ^
          |
          = help: a newer igraph wrote it: use that, or restore an older lock
        "#);
        insta::assert_snapshot!(said(&with("    (", &format!("<<<<<<< ours\n{entry}=======\n{entry}>>>>>>> theirs\n    ("))), @r"
        error: this lock holds an unfinished merge
         --> igraph.lock:3:1
          |
        3 | <<<<<<< ours
          | ^^^^^^^^^^^^
          |
          = help: take either side whole, then `igraph update` what should be newer
        ");
        insta::assert_snapshot!(said(&with("    (", &format!("{entry}    ("))), @r#"
        error: `docker.io/library/debian:bookworm` for linux/amd64 is locked twice
          --> igraph.lock:12:21
           |
        12 |         reference: "docker.io/library/debian:bookworm",
           |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           |
           = help: remove one, and let `igraph update` resolve it anew
        "#);
        insta::assert_snapshot!(said(&with("2026-11-23T18:27:00Z", "yesterday")), @r#"
        error: `yesterday` is no time
         --> igraph.lock:9:16
          |
        9 |         time: "yesterday",
          |                ^^^^^^^^^
          |
          = help: write it like `2026-11-23T18:27:00Z`
        "#);
        insta::assert_snapshot!(said(&with("manifest: \"sha256:", "manifest: \"md5:")), @r#"
        error: this lock can't be read: `md5:34e8b041d8e3fa4ded03a26b45817d3064b24c406d270dc4976362c6ae271875` is no digest: it must begin with `sha256:`
         --> igraph.lock:7:20
          |
        7 |         manifest: "md5:34e8b041d8e3fa4ded03a26b45817d3064b24c406d270dc4976362c6ae271875",
          |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: restore it, or remove it and let igraph resolve all bases anew
        "#);
        insta::assert_snapshot!(said(&with("platform", "plattform")), @r#"
        error: this lock can't be read: unexpected field named `plattform` in `base`, expected one of `reference`, `platform`, `index`, `manifest`, `config`, or `time` instead
         --> igraph.lock:5:9
          |
        5 |         plattform: "linux/amd64",
          |         ^^^^^^^^^
          |
          = help: restore it, or remove it and let igraph resolve all bases anew
        "#);
        insta::assert_snapshot!(said(&V1[..V1.len() / 2]), @r#"
        error: this lock can't be read: expected end of string
          --> igraph.lock:14:16
           |
        14 |         index: "sha256:
           |                ^
           |
           = help: restore it, or remove it and let igraph resolve all bases anew
        "#);
        insta::assert_snapshot!(said(""), @r"
        error: this lock can't be read: expected opening `(` for struct `Lock`
         --> igraph.lock:1:1
          |
        1 |
          | ^
          |
          = help: restore it, or remove it and let igraph resolve all bases anew
        ");
    }
}
