//! Bases by the whole program: registries, layouts, tars and commands; the lock, `outdated`, `update`; what stands in for them.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod registry;

mod faults;
mod local;
mod lock;
mod moving;
mod platforms;
mod policies;
mod real;
mod stand_ins;
mod watching;
mod world;
