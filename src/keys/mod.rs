//! Keys: what counts of a node, as named components. Knows no record; key and explanation come from one traversal.

mod files;
mod inputs;
mod node;
mod reasons;

pub use files::FileDigests;
pub use inputs::{Inputs, Shared, Watched};
pub use node::{KeyError, Keys, Own, command_folder, dependency, names_components, stamp};
pub use reasons::reasons;
