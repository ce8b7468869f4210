//! Dockerfiles built by the embedded engine, held against what the reference builders made of them: dockerd's BuildKit and buildah.
//!
//! tests/data/differential: `cases/` holds the Dockerfiles, `dockerd.txt` and `buildah.txt` what these builders made of them,
//! `by-hand.txt` what should come out where neither can tell. docs/testing.md says how the records are made and checked.

#[path = "../support/mod.rs"]
mod support;

mod builder;
mod cases;
mod fixture;
mod image;
mod records;
mod references;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cases::{By, Case};
use records::{Outcome, Record};

/// Shown at most, so that one mistake does not fill a terminal.
const SHOWN: usize = 40;

fn report(problems: &[String], of: usize) {
    assert!(
        problems.is_empty(),
        "{} of {of} cases differ\n\n{}",
        problems.len(),
        problems
            .iter()
            .take(if std::env::var_os("IGRAPH_CASES").is_some() { usize::MAX } else { SHOWN })
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
}

/// What speaks against what igraph made of a case; empty where all is well.
fn judge(case: &Case, ours: &Outcome, records: &BTreeMap<By, Record>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut agree = 0;
    for (by, record) in records {
        let (differs, unknown) = (case.differs.get(by), case.unknown.contains(by));
        match record.get(&case.name) {
            None if *by == By::Hand || unknown || record.is_empty() => {}
            None => problems.push(format!("there is no record by {by}: make one, see docs/testing.md")),
            Some(outcome) if unknown => {
                if outcome.is_ok() {
                    problems.push(format!("{by} knows it after all: take the `unknown {by}` away"));
                }
            }
            Some(expected) => match (ours.against(expected, *by), differs) {
                (None, None) => agree += 1,
                (None, Some(why)) => problems.push(format!("{by} does not differ any more, as `{why}` says")),
                (Some(_), Some(_)) => {}
                (Some(difference), None) => problems.push(format!("against {by}:\n{difference}")),
            },
        }
    }
    if agree == 0 && problems.is_empty() {
        problems.push(format!("nothing says what should come out; igraph made:\n{ours}"));
    }
    if let (Some(expected), Outcome::Failed(message)) = (&case.fails, ours)
        && !message.contains(expected)
    {
        problems.push(format!("it should fail with `{expected}`, not with `{message}`"));
    }
    if case.fails.is_some() == ours.is_ok() {
        problems.push(format!("whether it fails is not what the case says: {ours}"));
    }
    problems
}

#[test]
fn igraph_builds_what_the_references_built() {
    let cases = chosen(cases::load());
    let Some(mut world) = builder::World::new("differential") else { return };
    let records: BTreeMap<By, Record> = By::ALL.into_iter().map(|by| (by, records::load(by))).collect();
    let only = std::env::var("IGRAPH_CASES").ok();
    let mut problems = Vec::new();
    for case in &cases {
        let ours = world.build(case);
        if only.as_ref().is_some_and(|only| !is_named(case, only)) {
            continue;
        }
        for problem in judge(case, &ours, &records) {
            problems.push(format!("{}\n{}\n{problem}\n", case.name, case.dockerfile.trim_end()));
        }
    }
    report(&problems, cases.len());
    if only.is_none() {
        let names: BTreeSet<&String> = cases.iter().map(|case| &case.name).collect();
        let gone: Vec<&String> = records.values().flat_map(Record::keys).filter(|name| !names.contains(name)).collect();
        assert!(gone.is_empty(), "records of cases that are not there: {gone:?}");
    }
}

/// Two builds of everything give the same images, byte for byte.
#[test]
fn a_second_build_gives_the_same_images() {
    let cases = chosen(cases::load());
    let Some((mut first, mut second)) = two_worlds() else { return };
    let ids = |world: &mut builder::World| -> BTreeMap<String, Option<String>> {
        cases.iter().filter(|case| !case.time).map(|case| (case.name.clone(), world.image_id(case))).collect()
    };
    let (first, second) = (ids(&mut first), ids(&mut second));
    let differ: Vec<&String> = first.iter().filter(|(name, id)| second.get(*name) != Some(id)).map(|(name, _)| name).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

/// Two stores, and the same addresses to fetch from.
fn two_worlds() -> Option<(builder::World, builder::World)> {
    let servers = Arc::new(servers::Servers::start());
    Some((builder::World::beside("differential", &servers)?, builder::World::beside("differential", &servers)?))
}

/// Nothing of the machine or the moment is in a kept `.git`, nor in those of submodules.
#[test]
fn a_kept_git_dir_is_the_same_again() {
    let Some((mut first, mut second)) = two_worlds() else { return };
    let dockerfile = "FROM base\nADD --keep-git-dir=true git://GIT/whole.git /x\n".to_owned();
    let case = Case { name: "kept".into(), dockerfile, ..Case::default() };
    let lines = first.build(&case).to_string();
    assert!(lines.contains("/x/.git/index ") && lines.contains("/x/.git/modules/part/index "), "{lines}");
    // times are in whole seconds
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(lines, second.build(&case).to_string());
    assert_eq!(first.image_id(&case).unwrap(), second.image_id(&case).unwrap());
}

/// docs/dockerfile-differences.md names every reason that a case gives, and no other.
#[test]
fn every_difference_is_told() {
    let page = std::fs::read_to_string("docs/dockerfile-differences.md").unwrap();
    let told: BTreeSet<String> = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    let cases = cases::load();
    let given: BTreeSet<String> = cases.iter().flat_map(|case| case.differs.values().cloned()).collect();
    assert_eq!(told, given);
    assert!(cases.len() >= 150, "{} cases", cases.len());
}

/// The references build everything afresh, or what IGRAPH_CASES names; with IGRAPH_REFERENCES=record what they say becomes the record.
#[test]
#[ignore = "makes a trixie root and runs dockerd and buildah in it: minutes, and root"]
fn the_records_are_what_the_references_say() {
    let cases = chosen(cases::load());
    let builders: Vec<By> = match std::env::var("IGRAPH_REFERENCES_BUILDERS") {
        Ok(names) => [By::Dockerd, By::Buildah].into_iter().filter(|by| names.split(' ').any(|name| name == by.name())).collect(),
        Err(_) => vec![By::Dockerd, By::Buildah],
    };
    let found = references::run(&cases, &builders);
    for by in builders {
        let record: Record =
            found[&by].iter().filter(|(name, _)| cases.iter().any(|case| case.name == **name && !case.time)).map(clone).collect();
        let all = std::env::var_os("IGRAPH_CASES").is_none();
        let mut known = records::load(by);
        if std::env::var("IGRAPH_REFERENCES").is_ok_and(|mode| mode == "record") {
            if all {
                known.clear();
            }
            known.extend(record);
            records::save(by, &found.version(by), &known);
            continue;
        }
        let differ: Vec<String> = record
            .iter()
            .filter(|(name, outcome)| known.get(*name).is_none_or(|known| known.against(outcome, by).is_some()))
            .map(|(name, outcome)| format!("{name}, by {by}, is now\n{outcome}"))
            .collect();
        report(&differ, cases.len());
        assert!(!all || known.len() == record.len(), "{} cases in the record, {} now", known.len(), record.len());
    }
}

/// Whether one of the words of IGRAPH_CASES is in a case's name.
fn is_named(case: &Case, only: &str) -> bool {
    only.split_whitespace().any(|word| case.name.contains(word))
}

/// Those that IGRAPH_CASES names, and what they start from.
fn chosen(cases: Vec<Case>) -> Vec<Case> {
    let Ok(only) = std::env::var("IGRAPH_CASES") else { return cases };
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    // a parent stands before what starts from it
    for case in cases.iter().rev() {
        if is_named(case, &only) || wanted.contains(&case.name) {
            wanted.insert(case.name.clone());
            wanted.extend(case.parents().map(str::to_owned));
        }
    }
    cases.into_iter().filter(|case| wanted.contains(&case.name)).collect()
}

fn clone((name, outcome): (&String, &Outcome)) -> (String, Outcome) {
    (name.clone(), outcome.clone())
}
