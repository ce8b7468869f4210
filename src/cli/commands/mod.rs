//! The commands, one file each. A command takes its arguments and the [`Context`](super::Context), and says how it ended.

pub mod completions;
pub mod help;
