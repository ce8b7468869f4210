//! What the planner keeps of each node's own components and files: all of it where the node may run, traces where it is fresh, since
//! there are thousands of those and few run. Knows no decisions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::component::key_of;
use crate::digest::Key;
use crate::graph::NodeIndex;
use crate::keys::{Own, Watched};

/// What is left of a node's own components and files when nothing needs them any more.
pub struct Traces {
    /// Digest of the components: whether two looks saw the same.
    pub own: Key,
    files: Arc<[Watched]>,
    more: Box<[Watched]>,
}

impl Traces {
    fn of(own: &Own) -> Self {
        Self { own: key_of(&mut own.components.clone()), files: own.inputs.watched.clone(), more: own.more.clone().into() }
    }

    /// All paths that the answer relied on.
    pub fn watched(&self) -> impl Iterator<Item = &Watched> {
        self.files.iter().chain(&self.more)
    }
}

enum Entry {
    Whole(Arc<Own>),
    Traces(Arc<Traces>),
}

/// By node.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<NodeIndex, Entry>>);

impl Kept {
    /// All of it, where it is kept whole.
    pub(super) fn own(&self, node: NodeIndex) -> Option<Arc<Own>> {
        match self.entries().get(&node)? {
            Entry::Whole(own) => Some(own.clone()),
            Entry::Traces(_) => None,
        }
    }

    /// What is known.
    pub(super) fn traces(&self, node: NodeIndex) -> Option<Arc<Traces>> {
        match self.entries().get(&node)? {
            Entry::Whole(own) => Some(Arc::new(Traces::of(own))),
            Entry::Traces(traces) => Some(traces.clone()),
        }
    }

    /// Keeps all of it.
    pub(super) fn keep(&self, node: NodeIndex, own: Own) -> Arc<Own> {
        let own = Arc::new(own);
        self.entries().insert(node, Entry::Whole(own.clone()));
        own
    }

    /// Keeps traces alone.
    pub(super) fn let_go(&self, node: NodeIndex) {
        if let Some(own) = self.own(node) {
            let traces = Arc::new(Traces::of(&own));
            self.entries().insert(node, Entry::Traces(traces));
        }
    }

    /// Keeps nothing.
    pub(super) fn forget(&self, node: NodeIndex) {
        self.entries().remove(&node);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<NodeIndex, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
