//! The graph: nodes and edges from BUILD.ron and the Dockerfiles themselves. Knows no key and no record.

mod build;
mod node;
mod read;
mod walk;

pub use build::{Depth, Graph, GraphOptions, KnownConfigs, SUBJECT, StandIns};
pub use node::*;
