//! `log`: recorded runs, shown again.

use crate::cli::args::Log;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::values::RunSelector;
use crate::cli::workbench::{self, OUT};
use crate::record::{RunLog, StateFolder};

/// Shows.
pub fn run(args: &Log, context: &Context<'_>) -> Result<Exit, Error> {
    let folder = StateFolder::new(workbench::root(context.environment)?.join(OUT));
    match args {
        Log::List => {
            let runs = RunLog::list(&folder)?;
            if runs.is_empty() {
                context.printer.say("igraph: no run is recorded yet");
            }
            for run in runs {
                context.printer.line(format_args!("{}", run.id))?;
            }
        }
        _ => {}
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
            hint: Some("`igraph log list` shows all; the newest 50 are kept".to_owned()),
        }),
    }
}
