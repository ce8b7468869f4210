//! `check`: loads and validates everything, and needs no engine.

use crate::cli::args::{Check, World};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::program::Context;
use crate::cli::workbench::Workbench;
use crate::graph::Depth;
use crate::plan::{Decision, PlannerOptions};
use crate::problem::Problem;
use crate::spec::Tls;

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
    context.printer.say(format_args!(
        "igraph: {}, {}, {} in {}: no problem found{}",
        count(catalogue.images.len(), "image"),
        count(catalogue.tests.len(), "test"),
        count(catalogue.bases.len(), "base"),
        count(catalogue.packages.len(), "package"),
        if untested == 0 { String::new() } else { format!("; {} declared untested", count(untested, "image")) }
    ));
    if !bare.is_empty() {
        let some = bare.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let more = if bare.len() > 5 { format!(" and {} more", bare.len() - 5) } else { String::new() };
        context.printer.warn(format_args!(
            "{} can be built but not tagged or pushed, since no test applies: {some}{more}",
            count(bare.len(), "image")
        ));
        context.printer.hint("add a test, or say `untested: \"why\"`");
    }
    Ok(Exit::Done)
}
