//! Cancellation: one token, asked by blocking code and awaited by engines. Knows nothing of why.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled once and stays so. Clones share the state; a child is cancelled with its
/// parent, not the other way round.
#[derive(Clone, Debug, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// A token of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled when this one is, or alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Cancels this token and its children.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it is cancelled; for code that runs inside an engine's or client's runtime.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}
