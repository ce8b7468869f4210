//! Tries to make a snapshot say *valid* when something has changed.

use std::fs::{FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;
use crate::record::Settlement;
use crate::record::samples::{World, result};
use crate::stamp::coarse_clock;

const SCOPE: [u8; 32] = [7; 32];

/// A workspace with a settled state, and files that all have settled.
fn world() -> World {
    let world = World::new();
    world.state().commit(&Settlement::new(result("//a:1", "v1", 1))).unwrap();
    let root = world.root();
    for folder in ["a/sub", "b/sub"] {
        fs::create_dir_all(root.join(folder)).unwrap();
        fs::write(root.join(folder).join("file"), "same size").unwrap();
    }
    fs::write(root.join("a/other"), "other").unwrap();
    symlink("sub/file", root.join("a/link")).unwrap();
    settle();
    world
}

/// Waits until the kernel's clock is past what counts as young.
fn settle() {
    let start = coarse_clock();
    while coarse_clock() < start + 25_000_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

const PATHS: [&str; 8] = [".", "a", "a/link", "a/other", "a/sub", "a/sub/file", "b/sub", "b/sub/file"];

fn draft(world: &World, since: i64) -> SnapshotDraft {
    let mut draft = SnapshotDraft::begin(&world.folder(), since);
    for path in PATHS {
        draft.relies_on(path, Stamp::of(&fs::symlink_metadata(world.root().join(path)).unwrap()));
    }
    draft.relies_on_absence("a/absent");
    draft.relies_on_absence("a/other/below-a-file");
    draft.relies_on_absence("no/folder/either");
    draft
}

fn written(world: &World) -> Snapshot {
    let written = draft(world, coarse_clock()).write(&world.folder(), world.root(), &SCOPE, b"718 images").unwrap();
    assert_eq!(written, Written::Yes);
    Snapshot::read(&world.folder(), &SCOPE).unwrap()
}

#[test]
fn what_has_not_changed_is_valid_and_gives_the_payload() {
    let world = world();
    let snapshot = written(&world);
    assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Valid(b"718 images"));
    // readers and idle writers change nothing
    drop(crate::record::State::open_read_only(&world.folder()).unwrap());
    drop(world.state());
    assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Valid(b"718 images"));
    assert!(Snapshot::read(&world.folder(), &[8; 32]).is_none(), "another scope");
}

#[test]
fn no_change_goes_unseen() {
    let changed = |path: &str| Difference::Changed(path.into());
    let appeared = |path: &str| Difference::Appeared(path.into());
    type Change = fn(&Path);
    let cases: [(&str, Change, Difference); 16] = [
        ("other content", |root| fs::write(root.join("a/other"), "OTHER").unwrap(), changed("a/other")),
        (
            "other content of the same size, with its old time",
            |root| {
                let path = root.join("a/sub/file");
                let old = fs::metadata(&path).unwrap();
                fs::write(&path, "SAME SIZE").unwrap();
                let times = FileTimes::new().set_modified(old.modified().unwrap()).set_accessed(old.accessed().unwrap());
                File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
                assert_eq!(Stamp::of(&fs::metadata(&path).unwrap()).modified, Stamp::of(&old).modified);
            },
            changed("a/sub/file"),
        ),
        ("the exec bit", |root| fs::set_permissions(root.join("a/other"), Permissions::from_mode(0o755)).unwrap(), changed("a/other")),
        ("a folder's mode", |root| fs::set_permissions(root.join("a/sub"), Permissions::from_mode(0o700)).unwrap(), changed("a/sub")),
        (
            "a file of the same content and time in its place",
            |root| {
                let (path, copy) = (root.join("a/other"), root.join("copy"));
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                fs::copy(&path, &copy).unwrap();
                File::options().write(true).open(&copy).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
                fs::rename(copy, path).unwrap();
            },
            changed("."),
        ),
        (
            "a folder moved over another",
            |root| {
                fs::rename(root.join("a/sub"), root.join("a/gone")).unwrap();
                fs::rename(root.join("b/sub"), root.join("a/sub")).unwrap();
                fs::remove_dir_all(root.join("a/gone")).unwrap();
            },
            changed("a"),
        ),
        (
            "two files swapped",
            |root| {
                fs::rename(root.join("a/sub/file"), root.join("a/sub/x")).unwrap();
                fs::rename(root.join("b/sub/file"), root.join("a/sub/file")).unwrap();
                fs::rename(root.join("a/sub/x"), root.join("b/sub/file")).unwrap();
            },
            changed("a/sub"),
        ),
        (
            "a link led elsewhere",
            |root| {
                fs::remove_file(root.join("a/link")).unwrap();
                symlink("../b/sub/file", root.join("a/link")).unwrap();
            },
            changed("a"),
        ),
        (
            "a link in place of its file",
            |root| {
                fs::rename(root.join("b/sub/file"), root.join("b/hidden")).unwrap();
                symlink("../hidden", root.join("b/sub/file")).unwrap();
            },
            changed("b/sub"),
        ),
        (
            "a link in place of a folder on the way, that was not looked at",
            |root| {
                fs::create_dir(root.join("b2")).unwrap();
                fs::create_dir(root.join("b2/sub")).unwrap();
                fs::write(root.join("b2/sub/file"), "same size").unwrap();
                fs::rename(root.join("b"), root.join("b1")).unwrap();
                symlink("b2", root.join("b")).unwrap();
            },
            changed("."),
        ),
        ("a new file", |root| fs::write(root.join("a/sub/new"), "").unwrap(), changed("a/sub")),
        ("a file gone", |root| fs::remove_file(root.join("b/sub/file")).unwrap(), changed("b/sub")),
        (
            "something where nothing was",
            |root| {
                fs::create_dir_all(root.join("no/folder/either")).unwrap();
            },
            changed("."),
        ),
        ("a dangling link where nothing was", |root| symlink("nowhere", root.join("a/absent")).unwrap(), changed("a")),
        ("a cut file", |root| File::options().write(true).open(root.join("a/other")).unwrap().set_len(1).unwrap(), changed("a/other")),
        ("an unreadable root", |root| fs::remove_dir_all(root.join("a")).unwrap(), changed(".")),
    ];
    for (case, change, expected) in cases {
        let world = world();
        let snapshot = written(&world);
        change(world.root());
        assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(expected), "{case}");
    }
    // absence is looked at for itself, not only through its folder
    for path in ["a/absent", "no"] {
        let world = world();
        let mut draft = SnapshotDraft::begin(&world.folder(), coarse_clock());
        draft.relies_on_absence(path);
        draft.write(&world.folder(), world.root(), &SCOPE, b"").unwrap();
        symlink("nowhere", world.root().join(path)).unwrap();
        let snapshot = Snapshot::read(&world.folder(), &SCOPE).unwrap();
        assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(appeared(path)));
    }
}

#[test]
fn each_path_is_looked_at_for_itself() {
    // folders are left out, so that only the path's own stamp can tell
    for (path, content) in [("a/sub/file", "SAME SIZE"), ("b/sub/file", "same size")] {
        let world = world();
        let mut draft = SnapshotDraft::begin(&world.folder(), coarse_clock());
        draft.relies_on(path, Stamp::of(&fs::symlink_metadata(world.root().join(path)).unwrap()));
        assert_eq!(draft.write(&world.folder(), world.root(), &SCOPE, b"").unwrap(), Written::Yes);
        let snapshot = Snapshot::read(&world.folder(), &SCOPE).unwrap();
        assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Valid(b""));
        let beside = world.root().join("beside");
        fs::write(&beside, content).unwrap();
        fs::rename(beside, world.root().join(path)).unwrap();
        assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(Difference::Changed(path.into())));
    }
}

#[test]
fn a_state_that_was_written_to_ends_it() {
    let world = world();
    let snapshot = written(&world);
    let state = world.state();
    state.commit(&Settlement::new(result("//a:1", "v2", 2))).unwrap();
    assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(Difference::State), "while the writer is at work");
    drop(state);
    assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(Difference::State), "after it");
    fs::remove_file(world.folder().database()).unwrap();
    assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(Difference::State), "with it");
}

#[test]
fn what_is_young_or_changes_meanwhile_is_not_written() {
    let write = |world: &World, draft: SnapshotDraft| {
        let written = draft.write(&world.folder(), world.root(), &SCOPE, b"").unwrap();
        assert_eq!(written == Written::Yes, Snapshot::read(&world.folder(), &SCOPE).is_some());
        written
    };
    let unsettled = |path: &str| Written::Unsettled { path: path.into() };

    let world_ = world();
    fs::write(world_.root().join("b/sub/file"), "young").unwrap();
    assert_eq!(write(&world_, draft(&world_, coarse_clock())), unsettled("b/sub/file"));
    settle();
    // the clock was set back since the file was written
    assert_eq!(write(&world_, draft(&world_, coarse_clock() - 3_600_000_000_000)), unsettled(""));

    let world_ = world();
    let mut changing = draft(&world_, coarse_clock());
    fs::set_permissions(world_.root().join("a/other"), Permissions::from_mode(0o755)).unwrap();
    changing.relies_on("a/other", Stamp::of(&fs::metadata(world_.root().join("a/other")).unwrap()));
    assert_eq!(write(&world_, changing), unsettled("a/other"));

    let world_ = world();
    let meanwhile = draft(&world_, coarse_clock());
    world_.state().commit(&Settlement::new(result("//a:1", "v2", 2))).unwrap();
    assert_eq!(write(&world_, meanwhile), unsettled(""));

    let world_ = world();
    let mut strange = draft(&world_, coarse_clock());
    strange.relies_on_absence("a\0b");
    assert_eq!(write(&world_, strange), unsettled("a\0b"));
}

#[test]
fn a_damaged_file_is_no_snapshot() {
    let world = world();
    written(&world);
    let whole = fs::read(file_of(&world.folder(), &SCOPE)).unwrap();
    for length in 0..whole.len() {
        assert!(Snapshot::parse(whole[..length].to_vec()).is_none(), "cut at {length}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        assert!(Snapshot::parse(flipped).is_none(), "flipped at {at}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(Snapshot::parse(longer).is_none());
    // counts that lie under a right checksum lead nowhere
    let counts = HEAD + 2 * (1 + STAMP);
    for count in [0, 1, 2, 3] {
        let mut lying = whole.clone();
        lying[counts + count * 8..counts + count * 8 + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let checksum = blake3::hash(&lying[HEAD..]);
        lying[12..HEAD].copy_from_slice(checksum.as_bytes());
        assert!(Snapshot::parse(lying).is_none());
    }
}

#[test]
fn of_many_differences_the_first_is_told_whichever_thread_meets_it() {
    let world = world();
    let mut draft = SnapshotDraft::begin(&world.folder(), coarse_clock());
    let stamp = Stamp::of(&fs::symlink_metadata(world.root().join("a/other")).unwrap());
    for number in 0..5_000 {
        draft.relies_on(format!("{number:05}"), stamp);
    }
    for number in 0..5_000 {
        if number != 4_321 {
            fs::hard_link(world.root().join("a/other"), world.root().join(format!("{number:05}"))).unwrap();
        }
    }
    let stamp = Stamp::of(&fs::symlink_metadata(world.root().join("a/other")).unwrap());
    draft.entries.extend((0..5_000).map(|number| (format!("{number:05}"), stamp)));
    let bytes = draft.encode(b"");
    let snapshot = Snapshot::parse(bytes).unwrap();
    for _ in 0..50 {
        assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(Difference::Changed("04321".into())));
    }
    for number in [4_000, 2_999, 17] {
        fs::remove_file(world.root().join(format!("{number:05}"))).unwrap();
    }
    // every removal changed the stamp of all
    let stamp = Stamp::of(&fs::symlink_metadata(world.root().join("a/other")).unwrap());
    draft.entries.extend((0..5_000).map(|number| (format!("{number:05}"), stamp)));
    let snapshot = Snapshot::parse(draft.encode(b"")).unwrap();
    for _ in 0..50 {
        assert_eq!(snapshot.validate(&world.folder(), world.root()), Validity::Invalid(Difference::Changed("00017".into())));
    }
}

#[test]
fn only_the_newest_snapshots_stay() {
    let world = world();
    for scope in 0..KEPT as u8 + 3 {
        let draft = SnapshotDraft::begin(&world.folder(), coarse_clock());
        assert_eq!(draft.write(&world.folder(), world.root(), &[scope; 32], b"").unwrap(), Written::Yes);
    }
    assert_eq!(fs::read_dir(world.folder().snapshots()).unwrap().count(), KEPT);
    assert!(Snapshot::read(&world.folder(), &[KEPT as u8 + 2; 32]).is_some());
}
