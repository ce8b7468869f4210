//! Running commands apart from the machine: a child that re-executes igraph makes namespaces and mounts, and in them each command as
//! the first process of a pid namespace. Knows no image: a stack of folders is the root, and one above takes what is written.

mod child;
mod host;
mod mounts;
mod placed;
mod process;
mod run;
mod seccomp;
mod spec;
mod user_namespace;

pub use child::enter;
pub(super) use host::Host;
pub(super) use run::{Ended, Listener, run};
pub(super) use spec::{Mount, Program, Root, Spec, What};
pub use user_namespace::{enter_user_namespace, gains_from_user_namespace};
