//! Execution: queue, slots, attempts, retry, cancel. Knows no console and no argument; decides with the plan's own code.

mod attempts;
mod bases;
mod builds;
pub mod leftovers;
mod materials;
mod names;
mod probes;
pub mod queue;
mod recording;
pub mod retry;
mod run;
mod spool;
mod tests_of;
mod upload;
mod world;

pub use crate::plan::tested;
pub use builds::rebuild;
pub use probes::{Probed, probe, probe_digest};
pub use run::{RunEnd, run};
pub use spool::{find_packed, keep_packed};
pub use world::{EngineFactory, Held, LazyEngine, Options, Stops, World};
