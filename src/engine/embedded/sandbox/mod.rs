//! Running commands apart from the machine: a child that re-executes igraph makes namespaces and mounts, and in them each command as
//! the first process of a pid namespace. Knows no image: a stack of folders is the root, and one above takes what is written.

mod child;
mod mounts;
mod process;
mod run;
mod seccomp;
mod spec;
mod user_namespace;

pub use child::enter;
pub(super) use run::{Ended, Listener, run};
pub(super) use spec::{Mount, Program, Spec, What};
pub use user_namespace::{Missing, enter_user_namespace, gains_from_user_namespace, missing};
