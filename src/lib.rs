//! igraph builds, tests, aliases and pushes a catalogue of container images: only what changed, and exactly what was tested.
//!
//! The library never touches the terminal, the environment or the clock by itself; the thin binary in
//! `main.rs` hands them in. Rooms by stage, data flows one way:
//! `BUILD.ron → spec → graph → keys → plan → execute → record → report`.

pub mod access;
pub mod cancel;
pub mod clock;
pub mod component;
pub mod digest;
pub mod docker_archive;
pub mod event;
pub mod failure;
pub mod folder;
pub mod image;
pub mod label;
pub mod pattern;
pub mod platform;
pub mod problem;
pub mod reason;
pub mod reference;
pub mod scrub;
pub mod stamp;
mod text;

pub mod dockerfile;
pub mod engine;
pub mod execute;
pub mod graph;
pub mod keys;
pub mod lock;
pub mod plan;
pub mod record;
pub mod registry;
pub mod report;
pub mod spec;
pub mod watch;

pub mod cli;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
