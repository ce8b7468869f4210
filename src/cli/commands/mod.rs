//! The commands, one file each. A command takes its arguments and the [`Context`](super::Context), and says how it ended.

pub mod bases;
pub mod check;
pub mod completions;
pub mod doctor;
pub mod export;
pub mod help;
pub mod log;
pub mod state;
pub mod targets;
pub mod verb;
pub mod verify;
pub mod watch;
pub mod why;
