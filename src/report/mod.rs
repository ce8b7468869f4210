//! Reports: pure folds over the event stream, and problems rendered for people. They know events and the vocabulary, never
//! execution or an engine.

mod board;
mod build_report;
mod console;
mod data;
pub mod diagnostics;
mod fold;
mod history;
mod junit;
mod line;
mod live;
mod log;
#[cfg(test)]
pub(crate) mod script;
mod tail;
mod tally;
mod trace;

pub use board::{Board, Running};
pub use build_report::{REPORT_SCHEMA, REPORT_VERSION, write_build_report};
pub use console::{Console, ConsoleOptions, Logs, Verbosity};
pub use data::{JsonLines, write_show_output};
pub use fold::{Fan, Fold, Shared};
pub use history::{AttemptHistory, Began, Ended, History, NodeHistory};
pub use junit::write_junit;
pub use live::Live;
pub use log::{RunRow, replay, write_attempts, write_critical_path, write_list, write_what_failed, write_what_ran};
pub use tally::{Tally, nothing_to_do, plan_text};
pub use trace::{TRACE_SCHEMA, TRACE_VERSION, write_trace};
