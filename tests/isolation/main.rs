//! The embedded engine in three places: as root of a machine, as a user without rights, and as root of an ordinary container. The same
//! workspace gives the same image ids in all of them. Where a place is not to be had, the tests say so; IGRAPH_NO_SKIP makes that a
//! failure.

#[path = "../support/mod.rs"]
mod support;

mod places;
mod same;
mod walls;
