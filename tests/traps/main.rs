//! The traps that other builders fell into (DESIGN §5), each as a small workspace, an edit, and what has to run: with the engine in
//! memory and a registry in this process, through the same code as the commands.

mod bases;
mod house;
mod keys;
mod laws;
mod names;
mod runs;
mod witness;

#[path = "../support/registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod registry;
