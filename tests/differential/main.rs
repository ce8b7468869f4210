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
    let cases = cases::load();
    let Some(mut world) = builder::World::new("differential") else { return };
    let records: BTreeMap<By, Record> = By::ALL.into_iter().map(|by| (by, records::load(by))).collect();
    let only = std::env::var("IGRAPH_CASES").ok();
    let mut problems = Vec::new();
    for case in &cases {
        let ours = world.build(case);
        if only.as_ref().is_some_and(|only| !case.name.contains(only.as_str())) {
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
    let cases = cases::load();
    let Some(mut first) = builder::World::new("differential") else { return };
    let Some(mut second) = builder::World::new("differential") else { return };
    let ids = |world: &mut builder::World| -> BTreeMap<String, Option<String>> {
        cases.iter().filter(|case| !case.time).map(|case| (case.name.clone(), world.image_id(case))).collect()
    };
    let (first, second) = (ids(&mut first), ids(&mut second));
    let differ: Vec<&String> = first.iter().filter(|(name, id)| second.get(*name) != Some(id)).map(|(name, _)| name).collect();
    assert!(differ.is_empty(), "{differ:?}");
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

/// The references build everything afresh; with IGRAPH_REFERENCES=record what they say becomes the record.
#[test]
#[ignore = "makes a trixie root and runs dockerd and buildah in it: minutes, and root"]
fn the_records_are_what_the_references_say() {
    let cases = cases::load();
    let builders: Vec<By> = match std::env::var("IGRAPH_REFERENCES_BUILDERS") {
        Ok(names) => [By::Dockerd, By::Buildah].into_iter().filter(|by| names.split(' ').any(|name| name == by.name())).collect(),
        Err(_) => vec![By::Dockerd, By::Buildah],
    };
    let found = references::run(&cases, &builders);
    for by in builders {
        let record: Record =
            found[&by].iter().filter(|(name, _)| cases.iter().any(|case| case.name == **name && !case.time)).map(clone).collect();
        if std::env::var("IGRAPH_REFERENCES").is_ok_and(|mode| mode == "record") {
            records::save(by, &found.version(by), &record);
            continue;
        }
        let known = records::load(by);
        let differ: Vec<String> = record
            .iter()
            .filter(|(name, outcome)| known.get(*name).is_none_or(|known| !known.is_same(outcome)))
            .map(|(name, outcome)| format!("{name}, by {by}, is now\n{outcome}"))
            .collect();
        report(&differ, cases.len());
        assert_eq!(known.len(), record.len());
    }
}

fn clone((name, outcome): (&String, &Outcome)) -> (String, Outcome) {
    (name.clone(), outcome.clone())
}
