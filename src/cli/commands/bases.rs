//! `outdated` and `update`: what moved in the registries and what policies renew since `igraph.lock`, and moving the lock there.

use std::sync::Arc;

use crate::cli::args::{Outdated, Update, World};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::survey::{BaseVerdict, Look, NodeVerdict, Probes, Survey, survey};
use crate::cli::survey_view;
use crate::cli::workbench::Workbench;
use crate::clock::Clock;
use crate::lock::{LOCK_FILE, LockFile};
use crate::pattern::Selection;
use crate::record::{Facts, State};

/// Shows what moved.
pub fn outdated(args: &Outdated, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let engine = World { engine: args.engine.clone(), ..World::default() };
    let probes = args.probe && has_probes(&bench);
    if probes {
        bench.enter(&engine)?;
    }
    let survey = all_of(&bench, &args.what, probes.then_some(&engine), &bench.lock()?, &bench.state_read_only()?)?;
    if args.json {
        survey_view::json(&survey, None, context)?;
        return Ok(survey_view::failures(&survey, context));
    }
    survey_view::text(&survey, context)?;
    let (moved, due) = moved(&survey);
    if moved + due > 0 {
        let radius = survey_view::radius_text(&survey.radius());
        context.printer.say(format_args!("igraph: {}; to be done again: {radius}", what_of(&survey, "has moved", "have moved", "due")));
    } else if survey.failures().is_empty() {
        let nodes = match survey.nodes.len() {
            0 => String::new(),
            number => format!("; {}, none is due", nodes(number)),
        };
        context.printer.say(format_args!("igraph: {}, none has moved{nodes}", bases(survey.bases.len())));
    }
    Ok(survey_view::failures(&survey, context))
}

/// Moves the lock.
pub fn update(args: &Update, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let engine = World { engine: args.engine.clone(), ..World::default() };
    let probes = has_probes(&bench);
    if probes {
        bench.enter(&engine)?;
    }
    let clock = context.clock();
    let _writer = if args.dry_run { None } else { Some(bench.writer(args.no_wait, clock.as_ref())?) };
    let lock = bench.lock()?;
    let state = if args.dry_run { bench.state_read_only()? } else { bench.state()? };
    let survey = all_of(&bench, &args.what, probes.then_some(&engine), &lock, &state)?;
    if !args.dry_run && !survey.baselines().is_empty() {
        state.learn(&Facts { answers: survey.baselines(), ..Facts::default() })?;
    }
    let write = !args.dry_run && survey.changes();
    if write {
        apply(&survey, &lock, &bench)?;
    }
    if args.json {
        survey_view::json(&survey, Some(write), context)?;
        return Ok(survey_view::failures(&survey, context));
    }
    survey_view::text(&survey, context)?;
    let would = if args.dry_run { "would be " } else { "" };
    let what = what_of(&survey, &format!("{would}moved"), &format!("{would}moved"), &format!("{would}renewed"));
    let (moved, due) = moved(&survey);
    let radius = if moved + due > 0 { format!(": {}", survey_view::radius_text(&survey.radius())) } else { String::new() };
    context.printer.say(format_args!("igraph: {what} in {LOCK_FILE}{radius}"));
    let counted = survey.nodes.iter().filter(|node| matches!(node.verdict, Ok(NodeVerdict::Counted(_)))).count();
    if counted > 0 {
        context.printer.say(format_args!("igraph: the age of {} is counted from now on; nothing of that is done again", nodes(counted)));
    }
    Ok(survey_view::failures(&survey, context))
}

fn apply(survey: &Survey, lock: &LockFile, bench: &Workbench<'_>) -> Result<(), Error> {
    let written = lock.change(|lock| survey.apply(lock));
    written.map_err(|source| Error::Write { path: bench.root().join(LOCK_FILE), source })
}

/// What registries and policies say of the whole workspace, or of `what` of it; probes are run by an engine where one is given.
fn all_of(bench: &Workbench<'_>, what: &[String], engine: Option<&World>, lock: &LockFile, state: &State) -> Result<Survey, Error> {
    let clock = bench.context.clock();
    let process = format!("{}-{}", std::process::id(), clock.now().0);
    let make = || bench.engine(engine.unwrap_or(&World::default()), &process);
    let probes = engine.map(|world| Probes { world, engine: &make });
    survey(&Look { bench, selection: &bench.everything(), what, clock, probes }, lock, state)
}

/// What registries and policies say of what a watch stands on. Takes as long as registries and probes do, and writes nothing.
pub fn ask(bench: &Workbench<'_>, selection: &Selection, probes: Probes<'_>, clock: &Arc<dyn Clock>) -> Result<Survey, Error> {
    let look = Look { bench, selection, what: &[], clock: clock.clone(), probes: Some(probes) };
    let mut found = survey(&look, &bench.lock()?, &bench.state_read_only()?)?;
    // what is not in the lock yet is resolved by the next run
    found.bases.retain(|base| !matches!(base.verdict, Ok(BaseVerdict::New(_))));
    Ok(found)
}

/// Moves the lock as was found; returns what moved, sorted.
pub fn renew(found: &Survey, bench: &Workbench<'_>, clock: &dyn Clock) -> Result<Vec<String>, Error> {
    let answers = found.baselines();
    if found.changes() || !answers.is_empty() {
        let _writer = bench.writer(false, clock)?;
        if !answers.is_empty() {
            bench.state()?.learn(&Facts { answers, ..Facts::default() })?;
        }
        if found.changes() {
            // read again: another igraph may have added to it
            apply(found, &bench.lock()?, bench)?;
        }
    }
    let bases = found.bases.iter().filter(|base| base.moves()).map(|base| format!("base {}", base.reference.familiar()));
    let nodes = found.nodes.iter().filter(|node| node.moves()).map(|node| format!("freshness stamp of {}", node.label));
    Ok(bases.chain(nodes).collect())
}

/// Whether any entry has a probe.
fn has_probes(bench: &Workbench<'_>) -> bool {
    let images = bench.catalogue.images.values().map(|image| &image.freshness);
    images.chain(bench.catalogue.bases.values().map(|base| &base.freshness)).any(|freshness| freshness.probe.is_some())
}

/// How many bases and nodes move.
fn moved(survey: &Survey) -> (usize, usize) {
    (survey.bases.iter().filter(|base| base.moves()).count(), survey.nodes.iter().filter(|node| node.moves()).count())
}

/// `2 of 10 bases moved, 3 of 40 nodes renewed`.
fn what_of(survey: &Survey, one: &str, several: &str, renewed: &str) -> String {
    let (moved, due) = moved(survey);
    let mut text = format!("{moved} of {} {}", bases(survey.bases.len()), if moved == 1 { one } else { several });
    if !survey.nodes.is_empty() {
        text.push_str(&format!(", {due} of {} {renewed}", nodes(survey.nodes.len())));
    }
    text
}

fn bases(number: usize) -> String {
    format!("{number} base{}", if number == 1 { "" } else { "s" })
}

fn nodes(number: usize) -> String {
    format!("{number} node{} with a policy", if number == 1 { "" } else { "s" })
}
