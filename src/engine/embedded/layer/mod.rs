//! Layers as folders and as tars: the merged view of several, what one changes of those below, packing and unpacking.

pub(super) mod copies;
pub(super) mod diff;
pub(super) mod entries;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
pub(super) mod split;
pub(super) mod unpack;
pub(super) mod view;
