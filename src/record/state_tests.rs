//! The state as its users see it: what was committed is there, whatever lies in its place is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use super::samples::{World, components, image, key, label, platform, result};
use super::*;
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::image::EngineImage;
use crate::reason::Reason;

fn node() -> crate::label::NodeLabel {
    label("//debian/jessie:4.2.1")
}

#[test]
fn a_settled_node_is_read_back_in_full() {
    let world = World::new();
    let record = ResultRecord {
        image: Some(EngineImage { handle: "sha256:of-the-store".into(), platform: "linux/arm/v7".parse().unwrap(), ..image("v1") }),
        manifest: Some(Digest::of(b"manifest")),
        verdict: Verdict::Flaky,
        failure: Some(Failure::infra("reset").hint("wait").exit_code(7)),
        reasons: vec![Reason::InputChanged { path: "ü".into(), old: "a".into(), new: "b".into() }],
        ..result("//debian/jessie:4.2.1", "v1", 10)
    };
    let attempt = |number, delay_ms: Option<u64>| AttemptRecord {
        number,
        at: Timestamp(3),
        duration_ms: 5,
        log: format!("a.{number}.log"),
        failure: delay_ms.map(|_| Failure::infra("reset")),
        delay_ms,
    };
    let settlement = Settlement {
        attempts: vec![attempt(1, Some(2000)), attempt(2, None)],
        facts: Facts { names: vec![samples::name("a/b:1", "v1")], ..Facts::default() },
        ..Settlement::new(record.clone())
    };
    world.state().commit(&settlement).unwrap();
    for state in [world.state(), State::open_read_only(&world.folder()).unwrap()] {
        assert_eq!(state.result(&record.key).unwrap().as_ref(), Some(&record));
        assert_eq!(state.latest(&node(), &platform()).unwrap().as_ref(), Some(&record));
        assert_eq!(state.attempts(&record).unwrap(), settlement.attempts);
        assert_eq!(state.names().unwrap(), settlement.facts.names);
        assert_eq!(state.components(&record.key).unwrap(), Some(components("v1")));
        assert_eq!(state.results_of_run("7f3k").unwrap(), std::slice::from_ref(&record));
        assert_eq!(state.durations().unwrap().get(&node()), Some(&12_400));
        let known = state.durations_of([node(), "//never:seen".parse().unwrap()]).unwrap();
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [(node(), 12_400)]);
        let summary = Summary { verdict: Verdict::Flaky, image: Some(image("v1").id), manifest: record.manifest };
        assert_eq!(state.results_for_keys(&[key("v0"), record.key, record.key]).unwrap(), [None, Some(summary), Some(summary)]);
        assert_eq!(state.latest(&node(), &"linux/arm64".parse().unwrap()).unwrap(), None);
    }
}

#[test]
fn going_back_to_earlier_inputs_is_a_hit_and_the_newest_result_is_the_last_committed() {
    let world = World::new();
    let state = world.state();
    let failed = ResultRecord { verdict: Verdict::Failed, image: None, ..result("//debian/jessie:4.2.1", "v3", 5) };
    // the clock is set back between them
    let records = [result("//debian/jessie:4.2.1", "v1", 30), result("//debian/jessie:4.2.1", "v2", 20), failed];
    state.commit_all(&records.clone().map(Settlement::new)).unwrap();
    let verdicts = state.results_for_keys(&records.each_ref().map(|record| record.key)).unwrap();
    assert_eq!(verdicts.map_verdicts(), [Some(Verdict::Succeeded), Some(Verdict::Succeeded), Some(Verdict::Failed)]);
    assert_eq!(state.latest(&node(), &platform()).unwrap().unwrap().key, key("v3"));
    assert_eq!(state.latest_success(&node(), &platform()).unwrap().unwrap().key, key("v2"));
    assert_eq!(state.latest_images().unwrap(), [(node_key(node(), platform()), image("v2").id)].into(), "all of them at once");

    // a forced run that fails takes the key's verdict back
    state.commit(&Settlement::new(ResultRecord { verdict: Verdict::Failed, ..records[0].clone() })).unwrap();
    assert_eq!(state.result(&key("v1")).unwrap().unwrap().verdict, Verdict::Failed);
}

trait MapVerdicts {
    fn map_verdicts(&self) -> Vec<Option<Verdict>>;
}

impl MapVerdicts for Vec<Option<Summary>> {
    fn map_verdicts(&self) -> Vec<Option<Verdict>> {
        self.iter().map(|summary| summary.map(|summary| summary.verdict)).collect()
    }
}

#[test]
fn a_commit_that_fails_leaves_nothing_of_itself() {
    let world = World::new();
    let state = world.state();
    let attempt = AttemptRecord { number: 1, at: Timestamp(0), duration_ms: 0, log: String::new(), failure: None, delay_ms: None };
    let twice = Settlement {
        attempts: vec![attempt.clone(), attempt],
        facts: Facts { names: vec![samples::name("a/b:1", "v1")], ..Facts::default() },
        ..Settlement::new(result("//a:1", "v1", 1))
    };
    state.commit_all(&[Settlement::new(result("//a:0", "v0", 1)), twice]).unwrap_err();
    assert_eq!(state.results_for_keys(&[key("v0"), key("v1")]).unwrap(), [None, None]);
    assert_eq!((state.names().unwrap(), state.components(&key("v1")).unwrap()), (Vec::new(), None));
}

#[test]
fn without_a_database_a_reader_sees_nothing_and_makes_nothing() {
    let world = World::new();
    let state = State::open_read_only(&world.folder()).unwrap();
    assert_eq!(state.results_for_keys(&[key("v1")]).unwrap(), [None]);
    assert!(matches!(state.learn(&Facts { claims: vec![image("x").id], ..Facts::default() }).unwrap_err(), RecordError::ReadOnly { .. }));
    assert!(!world.folder().path().exists());
}

#[test]
fn readers_see_commits_of_a_writer_that_is_still_at_work_and_never_wait() {
    let world = World::new();
    let writer = world.state();
    writer.commit(&Settlement::new(result("//a:1", "v1", 1))).unwrap();
    let reader = State::open_read_only(&world.folder()).unwrap();
    writer
        .write(|_| {
            assert!(reader.result(&key("v1")).unwrap().is_some());
            Ok(())
        })
        .unwrap();
    writer.commit(&Settlement::new(result("//a:1", "v2", 2))).unwrap();
    assert!(reader.result(&key("v2")).unwrap().is_some());
    assert!(matches!(reader.commit(&Settlement::new(result("//a:1", "v3", 2))).unwrap_err(), RecordError::ReadOnly { .. }));
}

const FOLDER: &str = "IGRAPH_TEST_READ_ONLY_FOLDER";

#[test]
#[ignore = "the process without rights of `a_folder_that_may_not_be_written_is_read_all_the_same`"]
fn reader_without_rights() {
    let Some(path) = std::env::var_os(FOLDER) else { return };
    let folder = StateFolder::new(std::path::PathBuf::from(path));
    assert!(State::open_read_only(&folder).unwrap().result(&key("v1")).unwrap().is_some());
    let written = State::open(&folder).and_then(|state| state.learn(&Facts::default())).unwrap_err();
    assert!(matches!(written, RecordError::ReadOnly { .. }), "{written}");
    let (clock, cancel) = (crate::clock::ManualClock::new(Timestamp(0)), crate::cancel::Cancel::new());
    let locked = WriterLock::acquire(&folder, &Holder::default(), Wait::No, &clock, &cancel, |_| {}).unwrap_err();
    assert!(matches!(locked, RecordError::ReadOnly { .. }), "{locked}");
    let made = StateFolder::new(folder.path().join("new")).create().unwrap_err();
    assert!(matches!(made, RecordError::ReadOnly { .. }), "{made}");
}

#[test]
fn a_folder_that_may_not_be_written_is_read_all_the_same() {
    use std::os::unix::process::CommandExt;
    let world = World::new();
    world.state().commit(&Settlement::new(result("//a:1", "v1", 1))).unwrap();
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(world.root(), 0o755);
    mode(&world.folder().database(), 0o444);
    mode(world.folder().path(), 0o555);
    let mut child = std::process::Command::new("/proc/self/exe");
    child.args(["--exact", "record::state_tests::reader_without_rights", "--ignored"]).env(FOLDER, world.folder().path());
    if nix::unistd::geteuid().is_root() {
        child.uid(65534).gid(65534);
    }
    let output = child.output().unwrap();
    mode(world.folder().path(), 0o755);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_newer_a_damaged_and_a_foreign_database_are_told_and_left_alone() {
    let world = World::new();
    let path = world.folder().database();
    world.state().commit(&Settlement::new(result("//a:1", "v1", 1))).unwrap();
    let whole = fs::read(&path).unwrap();

    Connection::open(&path).unwrap().pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    let newer = fs::read(&path).unwrap();
    let mut scribbled = whole.clone();
    scribbled[100..4096].fill(0x5a);
    let foreign_path = world.root().join("foreign");
    Connection::open(&foreign_path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let cases = [
        ("newer", newer, "has version 3, and this igraph knows versions up to 2"),
        ("scribbled", scribbled, "is damaged: database disk image is malformed"),
        ("text", b"hello, I am no database, though long enough".repeat(200), "is damaged: file is not a database"),
        ("foreign", fs::read(foreign_path).unwrap(), "is damaged: it is a database of another program"),
        ("cut", whole[..whole.len() / 2].to_vec(), "is damaged: database disk image is malformed"),
    ];
    for (case, bytes, expected) in cases {
        fs::write(&path, &bytes).unwrap();
        for open in [State::open, State::open_read_only] {
            let error = open(&world.folder()).and_then(|state| state.result(&key("v1"))).unwrap_err();
            assert!(error.to_string().ends_with(expected), "{case}: {error}");
            assert!(error.hint().is_some(), "{case}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "{case}: the file was changed");
        }
    }
}

#[test]
fn the_stored_state_of_version_1_is_read() {
    // written by the first igraph that had a state, dumped as SQL
    let world = World::new();
    world.folder().create().unwrap();
    let path = world.folder().database();
    let database = Connection::open(&path).unwrap();
    database.execute_batch(include_str!("../../tests/data/record/state-v1.sql")).unwrap();
    let before = fs::read(&path).unwrap();
    // who only reads needs nobody to bring it up to date, and leaves it as it is
    for open in [State::open_read_only, State::open] {
        assert_eq!(fs::read(&path).unwrap(), before);
        let state = open(&world.folder()).unwrap();
        let record = state.result(&key("v1")).unwrap().unwrap();
        assert_eq!(record, ResultRecord { reasons: vec![Reason::NeverBuilt], ..result("//debian/jessie:4.2.1", "v1", 10) });
        assert_eq!(state.names().unwrap(), [samples::name("nodesource/jessie:4.2", "v1")]);
        assert_eq!(state.blobs(Digest::of(b"layer")).unwrap(), [samples::blob("layer", "docker.io")]);
        assert_eq!(state.locations(image("v1").id).unwrap(), [samples::location("v1", "docker.io")]);
        assert!(state.strikes().unwrap().is_empty(), "a table of version 2");
    }
}

#[test]
fn an_older_state_with_a_log_or_nothing_but_its_mode_is_read() {
    let world = World::new();
    world.folder().create().unwrap();
    let path = world.folder().database();
    let database = Connection::open(&path).unwrap();
    let set_wal = || database.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(set_wal(), "wal");
    // an igraph was killed before it made the tables
    assert!(State::open_read_only(&world.folder()).unwrap().strikes().unwrap().is_empty());
    database.execute_batch(include_str!("../../tests/data/record/state-v1.sql")).unwrap();
    set_wal();
    let logged = |path: &Path| fs::metadata(path.with_extension("db-wal")).unwrap().len();
    assert!(logged(&path) > 0, "it is all in the log");
    let state = State::open_read_only(&world.folder()).unwrap();
    assert!(state.result(&key("v1")).unwrap().is_some());
    let error = state.commit(&Settlement::new(result("//a:1", "v2", 1))).unwrap_err();
    assert!(matches!(error, RecordError::ReadOnly { .. }), "{error}");
}

#[test]
fn a_stored_word_from_elsewhere_is_damage_not_a_panic() {
    let world = World::new();
    world.state().commit(&Settlement::new(result("//a:1", "v1", 1))).unwrap();
    Connection::open(world.folder().database()).unwrap().execute("UPDATE results SET kind = 'moon'", []).unwrap();
    let error = world.state().result(&key("v1")).unwrap_err();
    assert!(matches!(error, RecordError::Damaged { .. }), "{error}");
}

#[test]
fn a_database_that_may_not_grow_is_a_full_disk() {
    let world = World::new();
    let state = world.state();
    state.read(|connection| connection.execute_batch("PRAGMA max_page_count = 40")).unwrap();
    let error = (0..2000)
        .map(|number| state.commit(&Settlement::new(result("//a:1", &number.to_string(), number))))
        .find_map(Result::err)
        .expect("it grew");
    assert!(matches!(error, RecordError::DiskFull { .. }) && error.hint().is_some(), "{error}");
    assert!(state.result(&key("0")).unwrap().is_some());
}

#[test]
fn many_threads_commit_and_none_is_lost() {
    let world = World::new();
    let state = world.state();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let state = &state;
            scope.spawn(move || {
                for number in 0..20 {
                    state.commit(&Settlement::new(result(&format!("//a:{thread}"), &format!("{thread} {number}"), number))).unwrap();
                }
            });
        }
    });
    let keys: Vec<_> = (0..4).flat_map(|thread| (0..20).map(move |number| key(&format!("{thread} {number}")))).collect();
    assert!(state.results_for_keys(&keys).unwrap().iter().all(Option::is_some));
}

#[test]
fn many_keys_are_answered_in_the_order_asked() {
    let world = World::new();
    let state = world.state();
    let inputs: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    state.commit_all(&inputs.iter().map(|input| Settlement::new(result("//a:1", input, 1))).collect::<Vec<_>>()).unwrap();
    // every third key is unknown, every fifth is asked for twice, in no order
    let asked: Vec<(crate::digest::Key, Option<crate::digest::ImageId>)> = (0..600)
        .map(|number| (number * 7919) % 400)
        .map(|number| (number % 3 == 0, if number % 5 == 0 { 5 } else { number % 300 }.to_string()))
        .map(|(unknown, input)| if unknown { (key(&format!("no {input}")), None) } else { (key(&input), Some(image(&input).id)) })
        .collect();
    for size in [1, 600] {
        for chunk in asked.chunks(size) {
            let keys: Vec<_> = chunk.iter().map(|(key, _)| *key).collect();
            let found: Vec<_> =
                state.results_for_keys(&keys).unwrap().into_iter().map(|found| found.and_then(|found| found.image)).collect();
            assert_eq!(found, chunk.iter().map(|(_, image)| *image).collect::<Vec<_>>());
        }
    }
}
