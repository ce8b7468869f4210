//! The whole program on a small real catalogue, with a real Docker Engine and a real registry: what the issue calls shown to work.

mod catalogue;
#[path = "../support/docker_registry.rs"]
mod docker_registry;
mod edits;
mod machines;
mod names;
#[path = "../support/proxy.rs"]
mod proxy;
mod recipes;
mod repairs;
mod site;
mod stops;
#[path = "../support/mod.rs"]
mod support;
