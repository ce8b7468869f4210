//! Reports: pure folds over the event stream, and problems rendered for people. They know events and the vocabulary, never
//! execution or an engine.

mod board;
mod console;
pub mod diagnostics;
mod fold;
mod line;
mod live;
#[cfg(test)]
mod script;
mod tail;
mod tally;

pub use board::{Board, Running};
pub use console::{Console, ConsoleOptions, Logs, Verbosity};
pub use fold::{Fan, Fold, Shared};
pub use live::Live;
pub use tally::{Tally, nothing_to_do, plan_text};
