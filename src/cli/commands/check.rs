//! `check`: loads and validates everything, and needs no engine.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::args::{Check, World};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::program::Context;
use crate::cli::workbench::Workbench;
use crate::clock::{Day, Timestamp};
use crate::graph::Depth;
use crate::plan::{Decision, PlannerOptions};
use crate::problem::Problem;
use crate::spec::{Catalogue, Tls};

/// Checks.
pub fn run(args: &Check, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let state = bench.state_read_only()?;
    let lock = bench.lock()?;
    let grounds = Grounds::read(&bench, &state, &lock, &World::default(), None)?;
    let scope = if args.selection.patterns.is_empty() { bench.everything() } else { bench.select(&args.selection.patterns, &[])? };
    let graph = grounds.graph(&scope, Depth::Push)?;
    let planner = grounds.planner(&graph, PlannerOptions::default());
    let mut problems = Vec::new();
    for (_, decision) in planner.plan() {
        if let Decision::Broken(found) = decision {
            problems.extend(found);
        }
    }
    problems.dedup();
    let workspace = &bench.catalogue.workspace;
    for (host, settings) in &workspace.registries {
        if let Tls::Ca(path) = &settings.tls
            && !bench.root().join(path).is_file()
        {
            let message = format!("the certificate `{}` of {host} is not there", path.display());
            problems.push(Problem { message, places: vec![workspace.origin.field("registries")], hint: None });
        }
    }
    if !problems.is_empty() {
        return Err(Error::Problems(problems));
    }
    let catalogue = &bench.catalogue;
    let untested = catalogue.images.values().filter(|image| image.untested.is_some()).count();
    let bare: Vec<String> = catalogue
        .images
        .iter()
        .filter(|(_, image)| image.tests.is_empty() && image.untested.is_none())
        .map(|(label, _)| label.to_string())
        .collect();
    let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    let now = context.clock().now();
    context.printer.say(format_args!(
        "igraph: {}, {}, {} in {}: no problem found{}",
        count(catalogue.images.len(), "image"),
        count(catalogue.tests.len(), "test"),
        count(catalogue.bases.len(), "base"),
        count(catalogue.packages.len(), "package"),
        if untested == 0 { String::new() } else { format!("; {} declared untested", count(untested, "image")) }
    ));
    let listed = |labels: &[String]| {
        let more = if labels.len() > 5 { format!(" and {} more", labels.len() - 5) } else { String::new() };
        format!("{}{more}", labels.iter().take(5).cloned().collect::<Vec<_>>().join(", "))
    };
    let (over, soon) = last_days(catalogue, now);
    for (day, labels) in &soon {
        context.printer.warn(format_args!("{day} is the last day of {}: {}", entries(labels.len()), listed(labels)));
    }
    if !soon.is_empty() {
        context.printer.hint("after its `until` an entry is kept and tested, and never built again; move the day where that is too early");
    }
    if over > 0 {
        context.printer.say(format_args!("igraph: {} past `until`: kept and tested, never built again", entries(over)));
    }
    if !bare.is_empty() {
        let images = count(bare.len(), "image");
        context.printer.warn(format_args!("{images} can be built but not tagged or pushed, since no test applies: {}", listed(&bare)));
        context.printer.hint("add a test, or say `untested: \"why\"`");
    }
    Ok(Exit::Done)
}

/// How long before its last day an entry is warned of.
const WARNING: Duration = Duration::from_secs(30 * 86_400);

/// How many entries are past their last day, and which will be within 30 days, by day.
fn last_days(catalogue: &Catalogue, now: Timestamp) -> (usize, BTreeMap<Day, Vec<String>>) {
    let images = catalogue.images.iter().map(|(label, image)| (label, &image.freshness));
    let bases = catalogue.bases.iter().map(|(label, base)| (label, &base.freshness));
    let (mut over, mut soon) = (0, BTreeMap::<Day, Vec<String>>::new());
    for (label, day) in images.chain(bases).filter_map(|(label, freshness)| Some((label, freshness.until?))) {
        if now >= day.end() {
            over += 1;
        } else if now.after(WARNING) >= day.end() {
            soon.entry(day).or_default().push(label.to_string());
        }
    }
    (over, soon)
}

fn entries(number: usize) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}
