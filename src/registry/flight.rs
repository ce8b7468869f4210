//! Layers on their way into a registry: two images that share one send it once. The second waits until the first has it there, and
//! mounts it. Knows no requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::KnownBlob;
use crate::digest::Digest;

/// A place for one layer in one registry: where it lies since this client brought it there.
pub(super) type Place = Arc<Mutex<Option<KnownBlob>>>;

/// The places by host and diff id.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<(String, Digest), Place>>);

impl Flights {
    /// The place of a layer in a registry. Who holds its lock brings the layer there, or knows that it is.
    pub fn place(&self, host: &str, diff_id: Digest) -> Place {
        locked(&self.0).entry((host.to_owned(), diff_id)).or_default().clone()
    }
}

/// What a lock holds; a thread that died while it held it has left it as it was.
pub(super) fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
