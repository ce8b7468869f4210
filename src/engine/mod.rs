//! Engines: what builds images and runs tests. An engine knows no graph, no label and no record.

pub mod api;
pub mod classify;
pub mod docker;
pub mod fake;

pub use api::*;
