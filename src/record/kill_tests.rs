//! SIGKILL at random moments: what was acknowledged is there, and nothing is torn. The writer is this test binary again.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::samples::{World, components, key, label, result};
use super::*;
use crate::cancel::Cancel;
use crate::clock::{ManualClock, Timestamp};
use crate::digest::{Digest, ImageId};

const FOLDER: &str = "IGRAPH_TEST_STATE_FOLDER";

fn group(number: i64) -> JournalGroup {
    let name = |text: &str| JournalName { name: text.parse().unwrap(), node: label("//a:1[push/1]"), before: None, written: false };
    JournalGroup {
        node: label("//a:1"),
        image: ImageId(Digest::of(&number.to_le_bytes())),
        manifest: None,
        run: "7f3k".into(),
        at: Timestamp(number),
        names: vec![name("a:1"), name("a:2")],
    }
}

#[test]
#[ignore = "the process that `a_killed_writer_loses_nothing_that_it_acknowledged` kills"]
fn writer_to_be_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = StateFolder::new(PathBuf::from(folder));
    let clock = ManualClock::new(Timestamp(0));
    let me = Holder { pid: std::process::id(), ..Holder::default() };
    let _lock = WriterLock::acquire(&folder, &me, Wait::No, &clock, &Cancel::new(), |_| {}).unwrap();
    let state = State::open(&folder).unwrap();
    let first = state.latest(&label("//a:1"), &samples::platform()).unwrap().map_or(0, |last| last.at.0 + 1);
    let mut acknowledge = std::io::stdout().lock();
    for number in first.. {
        let id = state.journal_open(&group(number)).unwrap();
        let attempt =
            AttemptRecord { number: 1, at: Timestamp(number), duration_ms: 1, log: "a.1.log".into(), failure: None, delay_ms: None };
        let settlement = Settlement {
            attempts: vec![attempt],
            facts: Facts { names: vec![samples::name("a:1", &number.to_string())], ..Facts::default() },
            journal: vec![JournalStep::Written { group: id, name: "a:1".parse().unwrap() }, JournalStep::Close { group: id }],
            ..Settlement::new(result("//a:1", &number.to_string(), number))
        };
        state.commit(&settlement).unwrap();
        writeln!(acknowledge, "done {number}").unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    let world = World::new();
    let mut total = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "record::kill_tests::writer_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, world.folder().path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // once it is at work, at another moment of its transaction in every round
        let first = lines.by_ref().find(|line| line.starts_with("done ")).expect("the writer never began");
        std::thread::sleep(Duration::from_micros(700 * round + 137));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = lines.filter(|line| line.starts_with("done ")).last().unwrap_or(first);
        let acknowledged: i64 = last["done ".len()..].parse().unwrap();

        let (clock, me) = (ManualClock::new(Timestamp(0)), Holder::default());
        let _lock = WriterLock::acquire(&world.folder(), &me, Wait::No, &clock, &Cancel::new(), |_| {}).expect("the lock is free");
        let state = world.state();
        let latest = state.latest(&label("//a:1"), &samples::platform()).unwrap().unwrap();
        assert!((acknowledged..=acknowledged + 1).contains(&latest.at.0), "{} recorded, {acknowledged} acknowledged", latest.at.0);
        for number in total..=latest.at.0 {
            let record = state.result(&key(&number.to_string())).unwrap().expect("acknowledged, and gone");
            assert_eq!(record.components, components(&number.to_string()));
            assert_eq!(state.attempts(&record).unwrap().len(), 1);
        }
        total = latest.at.0 + 1;
        // name and journal moved with the result, not before and not after
        let name = state.name(NameScope::Registry, &"a:1".parse().unwrap()).unwrap().unwrap();
        assert_eq!(name.key, latest.key);
        let journal = state.journal().unwrap();
        assert!(journal.iter().all(|(_, open)| *open == group(open.at.0)), "{journal:?}");
        let last_opened: Vec<_> = journal.iter().filter(|(_, open)| open.at.0 == latest.at.0 + 1).collect();
        assert!(last_opened.len() <= 1 && journal.iter().all(|(_, open)| open.at.0 <= latest.at.0 + 1));
        state.journal_apply(&journal.iter().map(|(group, _)| JournalStep::Close { group: *group }).collect::<Vec<_>>()).unwrap();
        let sound: String = state.read(|connection| connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))).unwrap();
        assert_eq!(sound, "ok");
    }
}
