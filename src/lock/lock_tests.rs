//! Tests of the lock: its text, its changes, its file.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::report::diagnostics::render_problems;

const V1: &str = include_str!("../../tests/data/igraph-v1.lock");

fn base(word: &str) -> LockedBase {
    let digest = |part: &str| Digest::of(format!("{word} {part}").as_bytes());
    LockedBase {
        index: None,
        manifest: digest("manifest"),
        config: ImageId(digest("config")),
        time: Timestamp(1_795_458_420_000),
        candidate: None,
    }
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
      = hint: a newer igraph wrote it: use that, or restore an older lock
    "#);
    insta::assert_snapshot!(said(&with("    (", &format!("<<<<<<< ours\n{entry}=======\n{entry}>>>>>>> theirs\n    ("))), @r"
    error: this lock holds an unfinished merge
     --> igraph.lock:3:1
      |
    3 | <<<<<<< ours
      | ^^^^^^^^^^^^
      |
      = hint: take either side whole, then `igraph update` what should be newer
    ");
    insta::assert_snapshot!(said(&with("    (", &format!("{entry}    ("))), @r#"
    error: `docker.io/library/debian:bookworm` for linux/amd64 is locked twice
      --> igraph.lock:12:21
       |
    12 |         reference: "docker.io/library/debian:bookworm",
       |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = hint: remove one, and let `igraph update` resolve it anew
    "#);
    insta::assert_snapshot!(said(&with("2026-11-23T18:27:00Z", "yesterday")), @r#"
    error: `yesterday` is no time
     --> igraph.lock:9:16
      |
    9 |         time: "yesterday",
      |                ^^^^^^^^^
      |
      = hint: write it like `2026-11-23T18:27:00Z`
    "#);
    insta::assert_snapshot!(said(&with("manifest: \"sha256:", "manifest: \"md5:")), @r#"
    error: this lock can't be read: `md5:34e8b041d8e3fa4ded03a26b45817d3064b24c406d270dc4976362c6ae271875` is no digest: it must begin with `sha256:`
     --> igraph.lock:7:20
      |
    7 |         manifest: "md5:34e8b041d8e3fa4ded03a26b45817d3064b24c406d270dc4976362c6ae271875",
      |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = hint: restore it, or remove it and let igraph resolve all bases anew
    "#);
    insta::assert_snapshot!(said(&with("platform", "plattform")), @r#"
    error: this lock can't be read: unexpected field named `plattform` in `base`, expected one of `reference`, `platform`, `index`, `manifest`, `config`, `time`, or `candidate` instead
     --> igraph.lock:5:9
      |
    5 |         plattform: "linux/amd64",
      |         ^^^^^^^^^
      |
      = hint: restore it, or remove it and let igraph resolve all bases anew
    "#);
    insta::assert_snapshot!(said(&V1[..V1.len() / 2]), @r#"
    error: this lock can't be read: expected end of string
      --> igraph.lock:14:16
       |
    14 |         index: "sha256:
       |                ^
       |
       = hint: restore it, or remove it and let igraph resolve all bases anew
    "#);
    insta::assert_snapshot!(said(""), @r"
    error: this lock can't be read: expected opening `(` for struct `Lock`
     --> igraph.lock:1:1
      |
    1 |
      | ^
      |
      = hint: restore it, or remove it and let igraph resolve all bases anew
    ");
}

#[test]
fn candidates_and_renewals_are_written_and_read() {
    let mut lock = Lock::parse(V1, "igraph.lock").unwrap();
    let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
    let (reference, platform) = key("debian:bookworm", "linux/amd64");
    let candidate = Candidate { manifest: Digest::of(b"newer"), seen: at("2026-11-24T02:00:00Z") };
    let old = lock.find(&reference, &platform).unwrap().clone();
    lock.insert(reference, platform, LockedBase { candidate: Some(candidate), ..old });
    lock.renew(Label::parse("//debian/jessie:4.2.1", None).unwrap(), Renewal { at: at("2026-11-20T02:00:00Z"), policy: None });
    lock.renew(Label::parse("//base:bookworm", None).unwrap(), Renewal { at: at("2026-11-23T02:00:00Z"), policy: Some(Policy::Refresh) });
    let text = lock.render();
    assert_eq!(Lock::parse(&text, "igraph.lock"), Ok(lock));
    let added: Vec<&str> = text.lines().filter(|line| !V1.contains(line)).collect();
    insta::assert_snapshot!(added.join("\n"), @r#"
            candidate: (manifest: "sha256:804f51f71254c4081e37e7c887073560f4a6fa6cdad202e9ac67e032c43ed1e1", seen: "2026-11-24T02:00:00Z"),
    ], nodes: [
        (label: "//base:bookworm", renewed: "2026-11-23T02:00:00Z", policy: "refresh"),
        (label: "//debian/jessie:4.2.1", since: "2026-11-20T02:00:00Z"),
    "#);
    let said = |from: &str, to: &str| render_problems(&Lock::parse(&text.replacen(from, to, 1), "igraph.lock").unwrap_err(), false);
    insta::assert_snapshot!(said("policy: \"refresh\"", "policy: \"settle\""), @r#"
    error: `settle` renews nothing
      --> igraph.lock:28:74
       |
    28 |     (label: "//base:bookworm", renewed: "2026-11-23T02:00:00Z", policy: "settle"),
       |                                                                          ^^^^^^
       |
       = hint: a stamp is made by `refresh` or `probe`
    "#);
    insta::assert_snapshot!(said(", policy: \"refresh\"", ""), @r#"
    error: //base:bookworm has neither `since` nor `renewed` with its `policy`, or both
      --> igraph.lock:28:14
       |
    28 |     (label: "//base:bookworm", renewed: "2026-11-23T02:00:00Z"),
       |              ^^^^^^^^^^^^^^^
       |
       = hint: remove the entry: `igraph update` then counts its age anew
    "#);
    insta::assert_snapshot!(said("//base:bookworm", "//debian/jessie:4.2.1"), @r#"
    error: //debian/jessie:4.2.1 is locked twice
      --> igraph.lock:29:14
       |
    29 |     (label: "//debian/jessie:4.2.1", since: "2026-11-20T02:00:00Z"),
       |              ^^^^^^^^^^^^^^^^^^^^^
       |
       = hint: keep the entry with the later time
    "#);
}
