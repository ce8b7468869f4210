//! `log`: recorded runs, shown again.

use crate::cli::args::Log;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::values::RunSelector;
use crate::cli::workbench::{self, OUT};
use crate::label::NodeLabel;
use crate::record::{RunLog, RunSummary, StateFolder};
use crate::report::{
    Console, ConsoleOptions, History, RunRow, Verbosity, replay, write_attempts, write_critical_path, write_list, write_trace,
    write_what_failed, write_what_ran,
};

/// Shows.
pub fn run(args: &Log, context: &Context<'_>) -> Result<Exit, Error> {
    let folder = StateFolder::new(workbench::root(context.environment)?.join(OUT));
    let printer = context.printer;
    let color = context.environment.color(context.environment.terminals.stdout);
    match args {
        Log::List => {
            let mut rows: Vec<RunRow> = RunLog::list(&folder)?.into_iter().map(row).collect();
            rows.reverse();
            if rows.is_empty() {
                printer.say("igraph: no run is recorded yet");
            }
            printer.document(|out| write_list(&rows, out))?;
        }
        Log::Show { what, attempt } => show(what, *attempt, color, &folder, context)?,
        Log::WhatRan(which) => {
            let history = History::of(&choose(&which.run, &folder)?.events()?);
            printer.document(|out| write_what_ran(&history, color, out))?;
        }
        Log::WhatFailed(which) => {
            let run = choose(&which.run, &folder)?;
            let history = History::of(&run.events()?);
            if !history.nodes.values().any(|node| matches!(node.outcome, Some(crate::event::Outcome::Failed { .. }))) {
                printer.say(format_args!("igraph: nothing failed in run {}", run.id()));
            }
            printer.document(|out| write_what_failed(&history, color, &|log| text(&run, log), out))?;
        }
        Log::CriticalPath(which) => {
            let history = History::of(&choose(&which.run, &folder)?.events()?);
            printer.document(|out| write_critical_path(&history, color, out))?;
        }
        Log::Trace(which) => {
            let history = History::of(&choose(&which.run, &folder)?.events()?);
            printer.document(|out| write_trace(&history, out))?;
        }
    }
    Ok(Exit::Done)
}

/// The run that is meant.
pub fn choose(selector: &RunSelector, folder: &StateFolder) -> Result<RunLog, Error> {
    let runs = RunLog::list(folder)?;
    let ids: Vec<&str> = runs.iter().map(|run| run.id.as_str()).collect();
    match selector.choose(&ids) {
        Some(id) => Ok(RunLog::open(folder, id)?),
        None => Err(Error::Usage {
            message: if ids.is_empty() { "no run is recorded yet".to_owned() } else { format!("there is no run `{selector}`") },
            hint: (!ids.is_empty()).then(|| "`igraph log list` shows all; the newest 50 are kept".to_owned()),
        }),
    }
}

/// The console of a run, or the logs of the nodes that are named.
fn show(what: &[String], attempt: Option<u32>, color: bool, folder: &StateFolder, context: &Context<'_>) -> Result<(), Error> {
    let mut selector = RunSelector::default();
    let mut labels: Vec<NodeLabel> = Vec::new();
    for (place, word) in what.iter().enumerate() {
        if place == 0 && RunSelector::is_run(word) {
            selector = word.parse().map_err(|error: crate::cli::values::ValueError| usage(error.to_string()))?;
        } else {
            labels.push(word.parse::<NodeLabel>()?);
        }
    }
    let run = choose(&selector, folder)?;
    let events = run.events()?;
    let logs = |log: &str| text(&run, log);
    if labels.is_empty() {
        let verbosity = if context.global.verbose { Verbosity::Verbose } else { Verbosity::Normal };
        let mut console = Console::new(Vec::new(), ConsoleOptions { verbosity, color, ..ConsoleOptions::default() });
        replay(&events, &logs, &mut console);
        return context.printer.document(|out| out.write_all(console.out()));
    }
    let history = History::of(&events);
    if let Some(label) = labels.iter().find(|label| history.nodes.get(label).is_none_or(|node| node.attempts.is_empty())) {
        let message = format!("{label} did not run in run {}", run.id());
        return Err(Error::Usage { message, hint: Some(format!("`igraph log what-ran {}` lists what did", run.id())) });
    }
    if let Some((label, attempts)) = attempt.and_then(|number| {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let mut attempts = labels.iter().filter_map(|label| Some((label, history.nodes.get(label)?.attempts.len())));
        attempts.find(|(_, attempts)| number == 0 || number > *attempts)
    }) {
        let message = format!("{label} has no such attempt in run {}: it was tried {attempts} times", run.id());
        let message = message.replace(" 1 times", " once");
        return Err(usage(message));
    }
    context.printer.document(|out| write_attempts(&history, &labels, attempt, &logs, out))
}

fn usage(message: String) -> Error {
    Error::Usage { message, hint: None }
}

/// An attempt's log as text; output that is no UTF-8 is shown as far as it is.
fn text(run: &RunLog, log: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&run.attempt(log).ok()?).into_owned())
}

fn row(run: RunSummary) -> RunRow {
    RunRow { id: run.id, at: run.at, verb: run.verb, patterns: run.patterns, reason: run.reason, stale: run.stale, end: run.end }
}
