//! What the planner keeps of each node's own components and files: all of it where the node may run, traces where it is fresh, since
//! there are thousands of those and few run. Knows no decisions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::component::key_of_parts;
use crate::digest::Key;
use crate::graph::NodeIndex;
use crate::keys::{Inputs, Own, Watched};

/// What is left of a node's own components and files when nothing needs them any more.
pub struct Traces {
    /// Digest of the components, where it was wanted: whether two looks saw the same.
    pub own: Option<Key>,
    inputs: Inputs,
    more: Box<[Watched]>,
}

impl Traces {
    fn of(own: &Own, compared: bool) -> Self {
        let digest = compared.then(|| key_of_parts(own.components.iter()));
        Self { own: digest, inputs: own.inputs.clone(), more: own.more.clone().into() }
    }

    /// All paths that the answer relied on.
    pub fn watched(&self) -> impl Iterator<Item = Watched> {
        self.inputs.watched().chain(self.more.iter().cloned())
    }
}

enum Entry {
    Whole(Arc<Own>),
    Traces(Arc<Traces>),
}

/// By node.
pub(super) struct Kept {
    /// A lock for each: all threads of a plan are in here all the time.
    entries: Vec<Mutex<Option<Entry>>>,
    /// Whether looks are compared.
    compared: bool,
}

impl Kept {
    /// Nothing yet, of so many nodes.
    pub(super) fn new(nodes: usize, compared: bool) -> Self {
        Self { entries: std::iter::repeat_with(Mutex::default).take(nodes).collect(), compared }
    }

    /// All of it, where it is kept whole.
    pub(super) fn own(&self, node: NodeIndex) -> Option<Arc<Own>> {
        match self.entry(node).as_ref()? {
            Entry::Whole(own) => Some(own.clone()),
            Entry::Traces(_) => None,
        }
    }

    /// What is known.
    pub(super) fn traces(&self, node: NodeIndex) -> Option<Arc<Traces>> {
        match self.entry(node).as_ref()? {
            Entry::Whole(own) => Some(Arc::new(Traces::of(own, self.compared))),
            Entry::Traces(traces) => Some(traces.clone()),
        }
    }

    /// Keeps all of it.
    pub(super) fn keep(&self, node: NodeIndex, own: Own) -> Arc<Own> {
        let own = Arc::new(own);
        *self.entry(node) = Some(Entry::Whole(own.clone()));
        own
    }

    /// Keeps traces alone.
    pub(super) fn let_go(&self, node: NodeIndex) {
        let mut entry = self.entry(node);
        let traces = match &*entry {
            Some(Entry::Whole(own)) => Traces::of(own, self.compared),
            Some(Entry::Traces(_)) | None => return,
        };
        *entry = Some(Entry::Traces(Arc::new(traces)));
    }

    /// Keeps nothing.
    pub(super) fn forget(&self, node: NodeIndex) {
        *self.entry(node) = None;
    }

    fn entry(&self, node: NodeIndex) -> MutexGuard<'_, Option<Entry>> {
        self.entries[node.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
