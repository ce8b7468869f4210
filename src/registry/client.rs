//! The blocking face of the room: a client owns a small runtime, and each call blocks on it until it is done or
//! cancelled. What the calls do stands in `pull`, `upload`, `publish` and `names`.

use std::future::Future;
use std::sync::Arc;

use super::config::ClientConfig;
use super::fault::{self, Fault};
use super::flight::Flights;
use super::transport::Transport;
use crate::cancel::Cancel;
use crate::failure::{Failure, Retry};

/// Speaks to registries. Clones share connections, tokens and breakers. Its methods block and so must not be called
/// from asynchronous code.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub transport: Transport,
    /// Layers that this client has brought somewhere, or is bringing.
    pub flights: Flights,
    /// `None` only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // the last owner may be a task of this very runtime, which could not wait for itself
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// A client that has spoken to nobody yet.
    ///
    /// # Errors
    /// Where the system gives no threads.
    pub fn new(config: ClientConfig) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("igraph-registry")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Failure::infra(format!("cannot start the registry client: {error}")).retry(Retry::Never))?;
        Ok(Self { inner: Arc::new(Inner { transport: Transport::new(config), flights: Flights::default(), runtime: Some(runtime) }) })
    }

    pub(super) fn block<T>(&self, cancel: &Cancel, work: impl Future<Output = fault::Result<T>>) -> Result<T, Failure> {
        self.inner.block(cancel, work).map_err(Failure::from)
    }
}

impl Inner {
    /// Runs `work` to its end, or until `cancel` is cancelled.
    pub(super) fn block<T>(&self, cancel: &Cancel, work: impl Future<Output = fault::Result<T>>) -> fault::Result<T> {
        let Some(runtime) = &self.runtime else { return Err(stopped()) };
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(stopped()),
                outcome = work => outcome,
            }
        })
    }
}

fn stopped() -> Fault {
    Fault::other(Failure::stopped())
}
