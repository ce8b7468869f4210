//! Building: stages and their instructions, each on the layers of those before it.

mod archive;
mod caches;
mod config;
mod copy;
mod download;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod git;
mod key;
mod mode;
mod place;
mod relay;
mod run;
mod stage;
mod tree;
mod users;

pub(super) use git::git_is_here;
pub(super) use key::rootfs_key;
pub(super) use place::new_upper;
pub(super) use run::{Log, explained, failed, lent, not_run, spec};
pub(super) use stage::Environment;
pub(super) use users::user;

use super::sandbox::Host;
use super::store::{Claim, Store};
use crate::engine::{Attempt, BuildRequest};
use crate::failure::Failure;
use crate::image::EngineImage;

/// Builds an image and keeps it.
///
/// # Errors
/// As [`crate::engine::Engine::build`].
pub(super) fn build(
    store: &Store,
    host: &Host,
    environment: &Environment,
    request: &BuildRequest<'_>,
    attempt: &Attempt<'_>,
) -> Result<EngineImage, Failure> {
    let _lease = store.lease()?;
    let built = stage::Builder::new(store, host, environment, request, attempt).build()?;
    let claim = if request.throwaway { Claim::Throwaway } else { Claim::Kept };
    match built {
        Ok(config) => store.keep(&config, claim),
        Err(base) => store.find(base)?.ok_or_else(|| Failure::infra("the base is not in the store any more")),
    }
}
