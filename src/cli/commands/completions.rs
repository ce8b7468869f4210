//! `igraph completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Args, Context, Error, Exit};

/// Prints the script.
///
/// # Errors
/// Where stdout can't be written.
pub fn run(shell: Shell, context: &Context<'_>) -> Result<Exit, Error> {
    // clap_complete panics where it can't write, so it writes to memory
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "igraph", &mut script);
    context.printer.document(|out| out.write_all(&script))?;
    Ok(Exit::Done)
}
