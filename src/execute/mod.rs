//! Execution: queue, slots, attempts, retry, cancel. Knows no console.

pub mod queue;
pub mod retry;
pub mod tested;
