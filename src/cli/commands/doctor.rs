//! `doctor`: what works on this machine, and what to install where it doesn't.

use std::sync::Arc;

use crate::cli::args::{Doctor, World};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::values::EngineChoice;
use crate::cli::workbench::{self, Workbench};
use crate::engine::Engine;
use crate::failure::Failure;

/// A program that parts of igraph or of the sample catalogue call.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("mmdebstrap", "makes Debian root filesystems for bases", "apt-get install mmdebstrap"),
    ("unshare", "gives the commands of bases namespaces of their own", "apt-get install util-linux"),
    ("git", "lists what a pull request changes, for `targets --affected`", "apt-get install git"),
];

/// Looks around.
pub fn run(args: &Doctor, context: &Context<'_>) -> Result<Exit, Error> {
    let printer = context.printer;
    let mut good = true;
    match Workbench::load(context) {
        Ok(bench) => {
            let world = World { engine: args.engine.clone(), ..World::default() };
            bench.enter(&world)?;
            printer.line(format_args!("ok       workspace {}", bench.root().display()))?;
            good &= tell(bench.examined_engine(&world, "doctor", true), context)?;
            match bench.folder.create().and_then(|()| crate::record::State::open(&bench.folder).map(drop)) {
                Ok(()) => printer.line(format_args!("ok       records in {}", bench.folder.path().display()))?,
                Err(error) => {
                    good = false;
                    printer.line(format_args!("missing  records: {error}"))?;
                }
            }
        }
        Err(error) => {
            good = false;
            printer.line(format_args!("missing  workspace: {error}"))?;
            let host = match &args.engine {
                Some(EngineChoice::Docker(host)) => host.as_deref(),
                _ => None,
            };
            tell(workbench::connect(context.environment, host, "doctor".to_owned(), "doctor", std::env::temp_dir()), context)?;
        }
    }
    for (program, purpose, install) in PROGRAMS {
        match found(program, context) {
            Some(path) => printer.line(format_args!("ok       {program} ({path}): {purpose}"))?,
            None => printer.line(format_args!("missing  {program}: {purpose}; {install}"))?,
        }
    }
    Ok(if good { Exit::Done } else { Exit::Infra })
}

/// Says whether the engine answers.
fn tell(engine: Result<Arc<dyn Engine>, Failure>, context: &Context<'_>) -> Result<bool, Error> {
    let printer = context.printer;
    match &engine {
        Ok(engine) => {
            printer.line(format_args!("ok       engine {}", engine.description()))?;
            for advice in engine.advice() {
                printer.line(format_args!("better   with {}", advice.lacks))?;
                printer.line(format_args!("         {}", advice.command))?;
            }
        }
        Err(failure) => {
            printer.line(format_args!("missing  engine: {failure}"))?;
            if let Some(hint) = &failure.hint {
                printer.line(format_args!("         {hint}"))?;
            }
        }
    }
    Ok(engine.is_ok())
}

fn found(program: &str, context: &Context<'_>) -> Option<String> {
    let folders = context.environment.path.as_ref()?;
    std::env::split_paths(folders).map(|folder| folder.join(program)).find(|path| path.is_file()).map(|path| path.display().to_string())
}
