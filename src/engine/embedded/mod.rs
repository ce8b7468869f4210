//! The embedded engine: builds images and runs tests by itself, with the kernel's namespaces and overlayfs, and keeps what it made in a
//! store of its own. No daemon.

mod bring;
mod build;
mod engine;
mod files;
mod layer;
mod refuse;
mod sandbox;
mod store;
mod tests;

pub use engine::{EmbeddedEngine, EmbeddedOptions};
pub use sandbox::{enter as enter_sandbox, enter_user_namespace, gains_from_user_namespace};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    pub use super::build::fuzz::config;
    pub use super::layer::fuzz::{layer, tar};
}
