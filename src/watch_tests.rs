use std::fs;

use notify::event::{AccessKind, CreateKind, DataChange, Flag, RenameMode};

use super::*;

fn world() -> (tempfile::TempDir, Watcher) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("images/a/src")).unwrap();
    fs::create_dir_all(root.join("igraph-out")).unwrap();
    fs::write(root.join("images/a/Dockerfile"), "FROM x").unwrap();
    let (mut watcher, limit) = Watcher::new(root, &root.join("igraph-out"), |_| {}, false);
    assert_eq!(limit, None);
    let mut interest = Interest::default();
    interest.add(["images/a/Dockerfile", "images/a/src", "images/a/missing/.dockerignore"].map(str::to_owned));
    assert_eq!(watcher.follow(&interest, false), (true, None));
    (folder, watcher)
}

fn event(kind: EventKind, path: PathBuf) -> Message {
    Ok(notify::Event::new(kind).add_path(path))
}

const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

#[test]
fn only_what_was_relied_on_counts() {
    let (folder, mut watcher) = world();
    let mut paths =
        |kind: EventKind, path: &str| -> Vec<String> { watcher.take(event(kind, folder.path().join(path))).paths.into_iter().collect() };
    assert_eq!(paths(WRITE, "images/a/Dockerfile"), ["images/a/Dockerfile"]);
    assert_eq!(paths(EventKind::Create(CreateKind::File), "images/a/src/new"), ["images/a/src/new"]);
    assert_eq!(paths(EventKind::Create(CreateKind::Folder), "images/a/missing"), ["images/a/missing"], "above what is missing");
    assert_eq!(paths(EventKind::Modify(ModifyKind::Name(RenameMode::From)), "images"), ["images"], "above what was read");
    for (kind, path) in [
        (WRITE, "images/a/README"),
        (EventKind::Access(AccessKind::Any), "images/a/Dockerfile"),
        (WRITE, "igraph-out/state.db-wal"),
        (EventKind::Create(CreateKind::File), ".igraph-x1"),
        (WRITE, "notes"),
    ] {
        assert!(paths(kind, path).is_empty(), "{kind:?} {path}");
    }
}

#[test]
fn in_a_folder_that_was_searched_only_folders_and_links_count() {
    let (folder, mut watcher) = world();
    let root = folder.path();
    let mut interest = Interest::default();
    interest.search(["images".to_owned(), "images/a".to_owned()]);
    interest.add(["images/BUILD.ron".to_owned()]);
    watcher.follow(&interest, false);
    fs::create_dir(root.join("images/b")).unwrap();
    fs::write(root.join("images/notes"), "").unwrap();
    std::os::unix::fs::symlink("b", root.join("images/link")).unwrap();
    for (path, counts) in [
        ("images/b", true),
        ("images/link", true),
        ("images/notes", false),
        ("images/BUILD.ron", true),
        ("images/a", true),
        ("images/gone", false),
    ] {
        assert_eq!(!watcher.take(event(EventKind::Create(CreateKind::Any), root.join(path))).is_empty(), counts, "{path}");
    }
}

#[test]
fn a_folder_that_went_is_followed_anew() {
    let (folder, mut watcher) = world();
    let mut interest = Interest::default();
    interest.add(["images/a/Dockerfile", "images/a/src", "images/a/missing/.dockerignore"].map(str::to_owned));
    assert_eq!(watcher.follow(&interest, false), (false, None), "all of it was followed");
    watcher.take(event(EventKind::Modify(ModifyKind::Name(RenameMode::From)), folder.path().join("images/a")));
    assert_eq!(watcher.follow(&interest, false), (true, None));
    assert_eq!(watcher.follow(&interest, true), (true, None), "after an overflow");
    let folders = watcher.folders();
    watcher.follow(&Interest::default(), false);
    assert!(watcher.folders() < folders && watcher.told.is_empty(), "nothing that is not needed");
}

#[test]
fn what_a_link_leads_to_is_followed_where_it_lies() {
    let (folder, mut watcher) = world();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("real"), "").unwrap();
    std::os::unix::fs::symlink(outside.path().join("real"), folder.path().join("images/a/link")).unwrap();
    let mut interest = Interest::default();
    interest.add(["images/a/link".to_owned()]);
    watcher.follow(&interest, false);
    let real = outside.path().canonicalize().unwrap().join("real");
    assert_eq!(watcher.take(event(WRITE, real.clone())).paths, [real.to_string_lossy().into_owned()].into());
}

#[test]
fn links_are_followed_to_where_nothing_is_yet() {
    let (folder, _) = world();
    let root = folder.path().canonicalize().unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
    link("../a/nowhere", "images/to-nowhere");
    link("a", "images/b");
    link("b/src", "images/c");
    link("around", "images/around");
    let mut links = Links::new(&root);
    for (path, expected) in [
        ("images/a/Dockerfile", None),
        ("images/a/missing", None),
        ("images/to-nowhere", None),
        ("images/b/Dockerfile", Some("images/a/Dockerfile")),
        ("images/b/missing", Some("images/a/missing")),
        ("images/c", Some("images/a/src")),
        ("images/c/new", Some("images/a/src/new")),
        ("images/around", None),
    ] {
        assert_eq!(links.elsewhere(path).as_deref(), expected, "{path}");
    }
    std::fs::remove_file(root.join("images/to-nowhere")).unwrap();
    link("a/nowhere", "images/to-nowhere");
    assert_eq!(Links::new(&root).elsewhere("images/to-nowhere").as_deref(), Some("images/a/nowhere"));
}

#[test]
fn what_is_followed_grows_alone() {
    let (folder, mut watcher) = world();
    fs::create_dir_all(folder.path().join("images/b/src")).unwrap();
    let mut more = Interest::default();
    more.add(["images/b/src".to_owned()]);
    assert_eq!(watcher.follow_more(&more), (true, None));
    assert_eq!(watcher.follow_more(&more), (false, None));
    for path in ["images/b/src/new", "images/a/src/new"] {
        assert_eq!(watcher.take(event(WRITE, folder.path().join(path))).paths, [path.to_owned()].into());
    }
    // a folder that goes is followed no more, and followed anew where it comes back
    fs::remove_dir(folder.path().join("images/b/src")).unwrap();
    watcher.take(event(EventKind::Remove(notify::event::RemoveKind::Folder), folder.path().join("images/b/src")));
    assert_eq!(watcher.follow_more(&Interest::default()), (false, None));
    fs::create_dir(folder.path().join("images/b/src")).unwrap();
    assert_eq!(watcher.follow_more(&more), (true, None));
}

#[test]
fn lost_events_mean_that_anything_changed() {
    let (_folder, mut watcher) = world();
    let lost = watcher.take(Ok(notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    assert_eq!(lost, Changes { overflow: true, ..Changes::default() });
    assert!(watcher.take(Err(notify::Error::generic("x"))).overflow);
    assert_eq!(lost.describe(), "more changed than the kernel could tell: everything was checked");
}

#[test]
fn polling_finds_the_same() {
    let (folder, _) = world();
    let root = folder.path();
    let (mut watcher, limit) = Watcher::new(root, &root.join("igraph-out"), |_| {}, true);
    assert!(limit.is_none() && watcher.polls());
    let mut interest = Interest::default();
    interest.add(["images/a/Dockerfile", "images/a/src", "images/a/.dockerignore"].map(str::to_owned));
    assert_eq!(watcher.follow(&interest, false), (true, None));
    assert!(watcher.poll().is_empty());
    fs::write(root.join("images/a/Dockerfile"), "FROM other").unwrap();
    assert_eq!(watcher.follow(&interest, false), (false, None), "what changed since the last look is not lost by this");
    assert_eq!(watcher.poll().paths, ["images/a/Dockerfile".to_owned()].into());
    fs::write(root.join("images/a/.dockerignore"), "x").unwrap();
    fs::write(root.join("images/a/src/new"), "x").unwrap();
    let found = watcher.poll().paths;
    assert!(found.contains("images/a/.dockerignore") && found.contains("images/a/src"), "{found:?}");
}

#[test]
fn limits_come_with_their_sysctl() {
    let limit = Limit::of(&notify::Error::new(notify::ErrorKind::MaxFilesWatch));
    assert_eq!((limit.reason.as_str(), limit.hint), ("the kernel follows no more folders for this user", Some(WATCHES)));
    let io = |code| Limit::of(&notify::Error::io(std::io::Error::from_raw_os_error(code))).hint;
    assert_eq!((io(libc::ENOSPC), io(libc::EMFILE), io(libc::EACCES)), (Some(WATCHES), Some(INSTANCES), None));
}

#[test]
fn a_burst_ends_after_a_pause_or_after_a_second() {
    let at = Duration::from_millis;
    let mut debounce = Debounce::default();
    assert_eq!(debounce.left(at(0)), None);
    debounce.push(at(100));
    assert_eq!((debounce.left(at(100)), debounce.left(at(149)), debounce.left(at(150))), (Some(at(50)), Some(at(1)), Some(at(0))));
    for moment in (100..1090).step_by(10) {
        debounce.push(at(moment));
    }
    assert_eq!(debounce.left(at(1090)), Some(at(10)), "however long it lasts");
    debounce.reset();
    assert_eq!(debounce.left(at(2000)), None);
}

#[test]
fn words_for_changes() {
    let of = |paths: &[&str]| Changes { paths: paths.iter().map(|path| (*path).to_owned()).collect(), overflow: false };
    assert_eq!(of(&["a/Dockerfile"]).describe(), "a/Dockerfile changed");
    assert_eq!(of(&["b", "a"]).describe(), "2 paths changed: a, b");
    assert_eq!(of(&["a", "b", "c", "d", "e"]).describe(), "5 paths changed: a, b, c and 2 more");
    let mut both = of(&["a"]);
    both.extend(of(&["b"]));
    assert_eq!(both, of(&["a", "b"]));
    both.overflow = true;
    assert_eq!(both.describe(), "more changed than the kernel could tell: everything was checked");
}
