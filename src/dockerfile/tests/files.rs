//! Listing real folders: what counts, what is followed, what is refused.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use super::{parsed, resolve_with, shown};
use crate::dockerfile::{EntryKind, Ignore, Listing, NoConfigs, list_context};
use crate::folder::Folder;
use crate::problem::{Problem, Source};

/// Files `path` or `path = text`, folders `path/`, links `path -> target`, executables `path*`.
fn world(entries: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for entry in entries {
        let (path, target) = entry.split_once(" -> ").map_or((*entry, None), |(path, target)| (path, Some(target)));
        let (path, text) = path.split_once(" = ").unwrap_or((path, "text"));
        let full = root.path().join(path.trim_end_matches('*'));
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, &full).unwrap(),
            None if path.ends_with('/') => std::fs::create_dir_all(&full).unwrap(),
            None => std::fs::write(&full, text).unwrap(),
        }
        if path.ends_with('*') {
            std::fs::set_permissions(&full, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
    root
}

fn list_in(root: &Path, instructions: &str, ignore: &str) -> Result<Listing, Vec<Problem>> {
    let dockerfile = parsed(&format!("FROM scratch\n{instructions}\n"));
    let resolved = resolve_with(&dockerfile, None, &[], &NoConfigs).unwrap();
    let ignore = Ignore::parse(&Arc::new(Source { path: ".dockerignore".into(), text: ignore.into() })).unwrap();
    list_context(&Folder::open(root), &resolved.context, &ignore)
}

fn names(listing: &Listing) -> Vec<String> {
    let entry = |entry: &crate::dockerfile::ContextEntry| match &entry.kind {
        EntryKind::File { executable: false } => entry.path.clone(),
        EntryKind::File { executable: true } => format!("{}*", entry.path),
        EntryKind::Folder => format!("{}/", entry.path),
        EntryKind::Link { target } => format!("{} -> {target}", entry.path),
    };
    listing.entries.iter().map(entry).collect()
}

#[test]
fn what_counts() {
    let root = world(&[
        "a",
        "run.sh*",
        "b.txt",
        "c.txt",
        "d/e",
        "d/f/g.md",
        "d/f/h",
        "d/empty/",
        "link -> d/e",
        "folder -> d",
        "up -> ../../../a",
        "abs -> /d/e",
        "in/inner -> ../nowhere",
        "x/1/y/z",
        "x/2/y/z",
        "x/2/w",
        "[odd]",
    ]);
    for (instructions, ignore, expected) in [
        ("COPY a /", "", &["a"][..]),
        ("COPY a run.sh ./a /", "", &["a", "run.sh*"]),
        ("COPY *.txt /", "", &["b.txt", "c.txt"]),
        ("COPY none*.txt a /", "", &["a"]),
        ("COPY d /", "", &["d/", "d/e", "d/empty/", "d/f/", "d/f/g.md", "d/f/h"]),
        ("COPY d/f/ /", "", &["d/f/", "d/f/g.md", "d/f/h"]),
        ("COPY d/*/*.md /", "", &["d/", "d/f/g.md"]),
        ("COPY d/none* /", "", &["d/"]),
        ("COPY x/*/y /", "", &["x/", "x/1/y/", "x/1/y/z", "x/2/y/", "x/2/y/z"]),
        ("COPY link /", "", &["d/e", "link -> d/e"]),
        ("COPY folder/f/h /", "", &["d/f/h", "folder -> d"]),
        ("COPY folder /", "d/f\nd/empty", &["d/", "d/e", "folder -> d"]),
        // links lead nowhere but into the context
        ("COPY up abs /", "", &["a", "abs -> /d/e", "d/e", "up -> ../../../a"]),
        // a link below a folder is copied as it is
        ("COPY in /", "", &["in/", "in/inner -> ../nowhere"]),
        ("COPY ../../a /", "", &["a"]),
        ("COPY [[]odd] /", "", &["[odd]"]),
        ("COPY d /", "**/f/*\n!**/h", &["d/", "d/e", "d/empty/", "d/f/", "d/f/h"]),
        ("COPY d /", "d\n!d/f/h", &["d/", "d/f/h"]),
        ("COPY --exclude=f --exclude=e d /", "", &["d/", "d/empty/"]),
        ("COPY --exclude=f/* --exclude=!f/h d /", "", &["d/", "d/e", "d/empty/", "d/f/", "d/f/h"]),
        ("COPY --parents x/*/y/z /", "", &["x/1/y/z", "x/2/y/z"]),
        ("COPY --parents x/./**/w /", "", &["x/", "x/2/w"]),
        ("COPY --parents d/./f d/e /", "", &["d/e", "d/f/", "d/f/g.md", "d/f/h"]),
        ("RUN --mount=type=bind,source=d/f,target=/f true", "", &["d/f/", "d/f/g.md", "d/f/h"]),
        ("RUN true", "", &[]),
    ] {
        let listing = list_in(root.path(), instructions, ignore).unwrap_or_else(|problems| panic!("{instructions}: {}", shown(&problems)));
        assert_eq!(names(&listing), expected, "{instructions} | {ignore}");
    }
    let all = list_in(root.path(), "COPY . /", "x\nd\nin\n*.txt").unwrap();
    assert_eq!(names(&all), ["[odd]", "a", "abs -> /d/e", "folder -> d", "link -> d/e", "run.sh*", "up -> ../../../a"]);
    assert_eq!(all.folders.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), [""]);
    let wild = list_in(root.path(), "COPY x/*/y /", "").unwrap();
    assert_eq!(wild.folders.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["x", "x/1", "x/1/y", "x/2", "x/2/y"]);
    assert!(list_in(root.path(), "COPY a d/e /", "").unwrap().folders.is_empty());
}

#[test]
fn what_is_refused() {
    let root = world(&["start.sh", "d/e", "loop -> loop", "dangling -> gone", "secret", "ping -> pong", "pong -> ping"]);
    nix::unistd::mkfifo(&root.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let rows = [
        ("COPY strat.sh /", ""),
        ("COPY d/f /", ""),
        ("COPY start.sh/x /", ""),
        ("COPY nowhere/x /", ""),
        ("COPY nowhere/* /", ""),
        ("COPY secret /", "secret"),
        ("COPY d /", "d"),
        ("COPY d/e /", "d"),
        ("COPY loop /", ""),
        ("COPY ping /", ""),
        ("COPY dangling /", ""),
        ("COPY dangling /", "gone"),
        ("COPY ../outside /", ""),
        ("COPY pipe /", ""),
        ("COPY . /", "loop"),
        ("ADD a[ /", ""),
        ("RUN --mount=source=nothing,target=/x true", ""),
        ("COPY nope-a nope-b /", ""),
    ];
    let shown: Vec<String> = rows
        .iter()
        .map(|(instructions, ignore)| match list_in(root.path(), instructions, ignore) {
            Ok(listing) => format!("--- {instructions} | {ignore}\n{}", names(&listing).join(" ")),
            Err(problems) => format!("--- {instructions} | {ignore}\n{}", shown(&problems)),
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let root = world(&["a"]);
    std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"x\xff")), "").unwrap();
    assert!(list_in(root.path(), "COPY a /", "").is_ok());
    insta::assert_snapshot!(shown(&list_in(root.path(), "COPY . /", "").unwrap_err()));
}

#[test]
fn an_uncertain_build_counts_everything() {
    let root = world(&["a", "d/e", "skipped"]);
    let dockerfile = parsed("# syntax=corp/x:1\nFROM scratch\nCOPY missing /\n");
    let resolved = resolve_with(&dockerfile, None, &[], &NoConfigs).unwrap();
    let ignore = Ignore::parse(&Arc::new(Source { path: ".dockerignore".into(), text: "skipped".into() })).unwrap();
    assert_eq!(names(&list_context(&Folder::open(root.path()), &resolved.context, &ignore).unwrap()), ["a", "d/", "d/e"]);
}
