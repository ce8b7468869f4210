//! Engines: what builds images and runs tests. An engine knows no graph, no label and no record.

pub mod api;
pub mod classify;
mod context;
pub mod docker;
pub mod embedded;
pub mod fake;
mod words;

pub use api::*;
#[cfg(any(test, fuzzing))]
pub(crate) use embedded::fuzz;
