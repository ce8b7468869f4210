//! What planning is told of the past: results, names, configs, locked bases. As data, from record and lock.

use std::sync::Arc;

use crate::component::Component;
use crate::digest::{Digest, ImageId, Key};
use crate::image::ImageConfig;
use crate::label::{Label, NodeLabel};
use crate::platform::Platform;
use crate::reference::Reference;

pub use crate::record::NameScope;

/// A recorded result of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastResult {
    /// Under which key.
    pub key: Key,
    /// Whether it is a success (a flaky test is).
    pub good: bool,
    /// The image it made, or tested.
    pub image: Option<ImageId>,
    /// In which run.
    pub run: String,
    /// It failed for what was around it: what an engine cached meanwhile may be wrong.
    pub infra: bool,
}

/// Where igraph last put a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastName {
    /// Key of the name's node then.
    pub key: Key,
    /// The image it points at.
    pub image: ImageId,
    /// It may point elsewhere by now: a killed run was moving it, or someone else did.
    pub in_flight: bool,
}

/// A base as the lock has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedBase {
    /// Digest of the platform's manifest.
    pub manifest: Digest,
    /// Digest of its config: the image id.
    pub config: ImageId,
}

/// The past.
pub trait Past: Sync {
    /// The result under a key.
    fn result(&self, key: Key) -> Option<PastResult>;
    /// The newest result of a node, with the components of its key.
    fn latest(&self, label: &NodeLabel, platform: &Platform) -> Option<(PastResult, Vec<Component>)>;
    /// Whether some result of the node that holds was made from these components of its own, whatever it stood on.
    fn had(&self, label: &NodeLabel, platform: &Platform, own: &[Component]) -> bool;
    /// A name.
    fn name(&self, scope: NameScope, name: &Reference) -> Option<PastName>;
    /// The config of an image.
    fn config(&self, image: ImageId) -> Option<Arc<ImageConfig>>;
    /// The newest result of a node that holds.
    fn latest_good(&self, label: &NodeLabel, platform: &Platform) -> Option<PastResult>;
    /// Whether the newest result of a node that holds has that component, and was made on the engine here.
    fn made_here(&self, label: &NodeLabel, platform: &Platform, component: &Component) -> bool;
    /// When a policy last renewed an entry, and which, as a component of its key.
    fn stamp(&self, label: &Label) -> Option<Component>;
    /// A base.
    fn locked(&self, reference: &Reference, platform: &Platform) -> Option<LockedBase>;
}
