//! Decisions: for every node fresh, run, maybe or blocked, each with its reason. Pure but for reading the inputs that count:
//! asks no engine and no registry. Execution decides with the same code when a node is popped.

mod backoff;
mod decide;
mod decision;
mod kept;
mod past;
mod records;
pub mod tested;

pub use backoff::held_until;
pub use decide::Planner;
pub(crate) use decide::{subject_and, used};
pub use decision::{Decision, PlannerOptions, Value, Values};
pub use kept::Traces;
pub use past::{LockedBase, NameScope, Past, PastName, PastResult};
pub use records::Records;
