//! Tries to make the cache give a digest of what is no longer there.

use std::fs::{self, FileTimes};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

struct World {
    temp: TempDir,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("context")).unwrap();
        Self { temp }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("context")
    }

    fn folder(&self) -> Folder {
        Folder::open(self.root())
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.root().join(path), content).unwrap();
    }

    /// The entry as a listing would give it now.
    fn entry(&self, path: &str) -> ContextEntry {
        let metadata = fs::symlink_metadata(self.root().join(path)).unwrap();
        let stamp = Stamp::of(&metadata);
        let kind = if metadata.is_dir() {
            EntryKind::Folder
        } else if metadata.is_symlink() {
            EntryKind::Link { target: fs::read_link(self.root().join(path)).unwrap().to_str().unwrap().into() }
        } else {
            EntryKind::File { executable: stamp.mode & 0o111 != 0 }
        };
        ContextEntry { path: path.into(), kind, stamp }
    }

    fn load(&self) -> FileDigests {
        FileDigests::load(self.temp.path().join("file-digests"))
    }

    fn digest(&self, digests: &FileDigests, path: &str) -> [u8; 32] {
        digests.digest(&self.folder(), "", vec![self.entry(path)]).unwrap()[0].content.unwrap()
    }
}

fn of(content: &str) -> [u8; 32] {
    *blake3::hash(content.as_bytes()).as_bytes()
}

fn settle() {
    let start = coarse_clock();
    while coarse_clock() < start + 25_000_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Puts a record into a cache that claims another content for the file as it is: told, it shows that the cache answered.
fn plant(world: &World, path: &str) -> FileDigests {
    let digests = world.load();
    let stamp = world.entry(path).stamp;
    digests.fresh.lock().unwrap().insert((stamp.device, stamp.inode), (stamp, of("planted")));
    digests.unsaved.store(true, Ordering::Relaxed);
    digests.save().unwrap();
    world.load()
}

#[test]
fn a_settled_file_is_read_once() {
    let world = World::new();
    world.write("a", "one");
    fs::create_dir(world.root().join("folder")).unwrap();
    symlink("a", world.root().join("link")).unwrap();
    settle();
    let digests = world.load();
    let entries = ["link", "a", "folder"].map(|path| world.entry(path));
    let inputs = digests.digest(&world.folder(), "", entries.to_vec()).unwrap();
    assert_eq!(inputs.iter().map(|input| input.entry.clone()).collect::<Vec<_>>(), entries);
    assert_eq!(inputs.iter().map(|input| input.content).collect::<Vec<_>>(), [None, Some(of("one")), None]);
    assert_eq!(digests.len(), 1);
    digests.save().unwrap();

    assert_eq!(world.load().len(), 1);
    assert_eq!(world.digest(&world.load(), "a"), of("one"));
    // the cache does answer: what was planted comes back
    assert_eq!(world.digest(&plant(&world, "a"), "a"), of("planted"));
}

#[test]
fn a_file_that_was_replaced_or_rewritten_is_read_again() {
    type Change = fn(&Path);
    let cases: [(&str, Change); 4] = [
        ("rewritten with the same size and its old time", |path| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, "two").unwrap();
            File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        }),
        ("replaced by a file of the same size and time", |path| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            let beside = path.with_extension("new");
            fs::write(&beside, "two").unwrap();
            File::options().write(true).open(&beside).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
            fs::rename(beside, path).unwrap();
        }),
        ("removed and made anew, perhaps in the same inode", |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, "two").unwrap();
        }),
        ("rewritten in place", |path| fs::write(path, "two").unwrap()),
    ];
    for (case, change) in cases {
        let world = World::new();
        world.write("a", "one");
        settle();
        let digests = world.load();
        assert_eq!(world.digest(&digests, "a"), of("one"));
        change(&world.root().join("a"));
        assert_eq!(world.digest(&digests, "a"), of("two"), "{case}, in the same process");
        digests.save().unwrap();
        assert_eq!(world.digest(&world.load(), "a"), of("two"), "{case}, in the next");
    }
}

#[test]
fn a_young_file_is_not_kept() {
    let world = World::new();
    world.write("a", "one");
    let stamp = world.entry("a").stamp;
    let kept = |clock: i64| {
        let digests = FileDigests::load_with(world.temp.path().join("none"), move || clock);
        assert_eq!(world.digest(&digests, "a"), of("one"));
        !digests.is_empty()
    };
    assert!(!kept(stamp.latest()));
    assert!(!kept(stamp.latest() + 19_999_999));
    assert!(kept(stamp.latest() + 20_000_000));
    // the clock was set back after the file was written
    assert!(!kept(stamp.latest() - 3_600_000_000_000));
    // a time of the future never settles
    let future = std::time::SystemTime::now() + Duration::from_secs(3600);
    File::options().write(true).open(world.root().join("a")).unwrap().set_times(FileTimes::new().set_modified(future)).unwrap();
    assert!(!kept(coarse_clock() + 60_000_000_000));
}

#[test]
fn a_file_written_to_while_it_is_read_is_never_kept_with_another_content() {
    // the clock is asked before each read: a write right then is one within the reader's window
    let world = World::new();
    world.write("a", "one");
    settle();
    let (path, reads) = (world.root().join("a"), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&reads);
    let digests = FileDigests::load_with(world.temp.path().join("file-digests"), move || {
        let clock = coarse_clock();
        fs::write(&path, format!("write {}", counter.fetch_add(1, Ordering::Relaxed))).unwrap();
        clock
    });
    let entry = world.entry("a");
    let inputs = digests.digest(&world.folder(), "", vec![entry.clone()]).unwrap();
    assert_eq!(inputs[0].content, Some(of("write 0")));
    assert_eq!(inputs[0].entry.stamp, world.entry("a").stamp, "the stamp is of the content that was read");
    assert_ne!(inputs[0].entry.stamp, entry.stamp);
    assert!(digests.is_empty(), "it was kept, though young");
}

#[test]
fn a_file_that_changes_between_the_stats_is_read_again_and_in_the_end_a_problem() {
    type Write = fn(&Path);
    let writes: [(&str, Write); 3] = [
        ("longer", |path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap()),
        ("as long", |path| File::options().write(true).open(path).unwrap().write_all(b"two").unwrap()),
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(1).unwrap()),
    ];
    for (case, write) in writes {
        let world = World::new();
        world.write("a", "one");
        settle();
        // a clock far ahead: only the two stats can tell
        let digests = FileDigests::load_with(world.temp.path().join("none"), || i64::MAX);
        let (entry, path, reads) = (world.entry("a"), world.root().join("a"), AtomicU64::new(0));
        let disturbed = |times: u64| {
            reads.store(0, Ordering::Relaxed);
            let (reads, path) = (&reads, &path);
            move |file: &mut File, size: u64| {
                let read = hash(file, size);
                if reads.fetch_add(1, Ordering::Relaxed) < times {
                    settle();
                    write(path);
                }
                read
            }
        };
        let read = digests.read(&world.folder(), &entry, disturbed(1)).unwrap();
        assert_eq!((read.stamp, read.digest), (world.entry("a").stamp, of(&fs::read_to_string(&path).unwrap())), "{case}");
        assert_eq!((reads.load(Ordering::Relaxed), read.settled), (2, true), "{case}");

        let failure = digests.read(&world.folder(), &entry, disturbed(u64::MAX)).unwrap_err();
        assert_eq!(reads.load(Ordering::Relaxed), READS as u64, "{case}");
        assert_eq!(failure.problem("images/a", "a").message, "`images/a/a` changed while it was read");
    }
}

#[test]
fn what_is_no_such_file_any_more_is_a_problem_that_names_it() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    for path in ["gone", "link", "exec", "fine", "folder", "pipe"] {
        world.write(path, path);
    }
    let entries = ["exec", "fine", "folder", "gone", "link", "pipe"].map(|path| world.entry(path));
    let root = world.root();
    for path in ["gone", "link", "folder", "pipe"] {
        fs::remove_file(root.join(path)).unwrap();
    }
    symlink("fine", root.join("link")).unwrap();
    fs::create_dir(root.join("folder")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::set_permissions(root.join("exec"), Permissions::from_mode(0o755)).unwrap();
    let problems = world.load().digest(&world.folder(), "images/a", entries.to_vec()).unwrap_err();
    insta::assert_snapshot!(problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n"), @r"
    `images/a/exec` changed while it was read
    `images/a/folder` changed while it was read
    `images/a/gone` cannot be read: no such file or directory
    `images/a/link` changed while it was read
    `images/a/pipe` changed while it was read
    ");
}

#[test]
fn a_damaged_cache_counts_as_empty() {
    let world = World::new();
    world.write("a", "one");
    plant(&world, "a");
    let path = world.temp.path().join("file-digests");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(world.load().is_empty(), "cut at {length}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(&path, flipped).unwrap();
        assert!(world.load().is_empty(), "flipped at {at}");
    }
    assert_eq!(world.digest(&world.load(), "a"), of("one"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let digests = world.load();
    settle();
    assert_eq!(world.digest(&digests, "a"), of("one"));
    digests.save().unwrap_err();
}

#[test]
fn the_stored_form_of_version_1_is_read() {
    let stamp = Stamp { device: 1, inode: 2, mode: 0o100644, size: 3, modified: 4, changed: 5 };
    let mut bytes = b"igrfiles\x01\0\0\0".to_vec();
    let record = [
        &1u64.to_le_bytes()[..],
        &2u64.to_le_bytes(),
        &3u64.to_le_bytes(),
        &4i64.to_le_bytes(),
        &5i64.to_le_bytes(),
        &of("one"),
        &7u32.to_le_bytes(),
    ]
    .concat();
    bytes.extend_from_slice(blake3::hash(&record).as_bytes());
    bytes.extend_from_slice(&record);
    let world = World::new();
    fs::write(world.temp.path().join("file-digests"), bytes).unwrap();
    let entry = |stamp| ContextEntry { path: "a".into(), kind: EntryKind::File { executable: false }, stamp };
    assert_eq!(world.load().stored(&entry(stamp)), Some(of("one")));
    for other in [Stamp { size: 4, ..stamp }, Stamp { modified: 5, ..stamp }, Stamp { changed: 6, ..stamp }, Stamp { inode: 3, ..stamp }] {
        assert_eq!(world.load().stored(&entry(other)), None);
    }
}

#[test]
fn what_nobody_asks_for_is_forgotten_in_time() {
    let world = World::new();
    for path in ["asked", "forgotten"] {
        world.write(path, path);
    }
    let clock = Arc::new(AtomicI64::new(coarse_clock() + 60_000_000_000));
    let load = || {
        let clock = Arc::clone(&clock);
        FileDigests::load_with(world.temp.path().join("file-digests"), move || clock.load(Ordering::Relaxed))
    };
    let digests = load();
    world.digest(&digests, "asked");
    world.digest(&digests, "forgotten");
    digests.save().unwrap();
    for round in 0..=FORGOTTEN_AFTER {
        assert_eq!(load().len(), 2 + usize::from(round > 0), "{round}");
        // something new each time, or nothing is written
        world.write("new", &round.to_string());
        let digests = load();
        world.digest(&digests, "asked");
        world.digest(&digests, "new");
        digests.save().unwrap();
    }
    let last = load();
    assert_eq!((last.stored(&world.entry("forgotten")), last.stored(&world.entry("asked"))), (None, Some(of("asked"))));
}

#[test]
fn threads_share_a_cache_and_large_files_are_hashed_whole() {
    let world = World::new();
    let large = "0123456789abcdef".repeat((LARGE as usize + 12345) / 16);
    for number in 0..100 {
        world.write(&number.to_string(), &number.to_string());
    }
    world.write("large", &large);
    settle();
    let digests = world.load();
    let entries: Vec<_> = (0..100).map(|number| world.entry(&number.to_string())).chain([world.entry("large")]).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let inputs = digests.digest(&world.folder(), "", entries.to_vec()).unwrap();
                for (number, input) in inputs[..100].iter().enumerate() {
                    assert_eq!(input.content, Some(of(&number.to_string())));
                }
                assert_eq!(inputs[100].content, Some(of(&large)));
            });
        }
    });
    assert_eq!(digests.len(), 101);
}
