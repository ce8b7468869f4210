//! Arguments, one file a command, exit codes, environment. May use everything; nothing uses it.

pub mod args;
pub mod clock;
pub mod commands;
pub mod environment;
mod error;
mod exit;
mod grounds;
mod outcome;
mod plan_view;
mod printer;
mod program;
mod reporting;
mod settled;
mod signals;
mod survey;
mod survey_view;
pub mod topics;
pub mod values;
mod witness;
mod workbench;

pub use args::Args;
pub use environment::Environment;
pub use error::Error;
pub use exit::Exit;
pub use printer::Printer;
pub use program::{Context, main, run};
