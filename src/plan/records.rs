//! The past, read from `state.db` and `igraph.lock`: what thousands of nodes ask is read at once, the rest when asked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::past::{LockedBase, NameScope, Past, PastName, PastResult};
use crate::component::Component;
use crate::digest::{Digest, ImageId, Key};
use crate::failure::FailureClass;
use crate::graph::KnownConfigs;
use crate::image::ImageConfig;
use crate::keys;
use crate::label::{Label, NodeLabel};
use crate::lock::LockFile;
use crate::platform::Platform;
use crate::record::{RecordError, State, StoredConfig, Summary, node_key};
use crate::reference::Reference;

/// What was last known of an owner's config.
type OwnerConfigs = HashMap<(NodeLabel, Platform), Option<Arc<ImageConfig>>>;

/// What is asked for one by one as long as few do, and read at once when many have: then a transaction for each would take longer than
/// all else that is done for them.
struct Many<T> {
    asked: AtomicUsize,
    /// How many are few.
    few: usize,
    all: OnceLock<T>,
}

impl<T> Many<T> {
    /// Where so many results are recorded that reading all takes as long as asking for a part of them.
    fn of(results: usize) -> Self {
        Self { asked: AtomicUsize::new(0), few: 64 + results / 64, all: OnceLock::new() }
    }

    /// All of it, where many have asked.
    fn all(&self, read: impl FnOnce() -> T) -> Option<&T> {
        let many = self.asked.fetch_add(1, Ordering::Relaxed) >= self.few;
        if many { Some(self.all.get_or_init(read)) } else { self.all.get() }
    }
}

/// The past of one workspace.
pub struct Records<'a> {
    state: &'a State,
    lock: &'a LockFile,
    /// All, or `None` where each is asked for.
    results: Option<HashMap<Key, Summary>>,
    names: HashMap<(NameScope, Reference), PastName>,
    /// The image of the newest result that holds of every node that has one, by its [`node_key`].
    images: Many<HashMap<String, ImageId>>,
    /// The configs that nobody has asked for yet.
    stored: Many<Mutex<HashMap<Digest, StoredConfig>>>,
    configs: Mutex<HashMap<ImageId, Arc<ImageConfig>>>,
    owners: Mutex<OwnerConfigs>,
    /// Images made on the engine here, once asked for.
    claims: OnceLock<BTreeSet<ImageId>>,
}

impl<'a> Records<'a> {
    /// Reads the newest result of every key, and all names.
    ///
    /// # Errors
    /// Of the database.
    pub fn read(state: &'a State, lock: &'a LockFile) -> Result<Self, RecordError> {
        let journal = state.journal()?.into_iter().flat_map(|(_, group)| group.names).map(|name| name.name);
        let in_flight: HashSet<Reference> = journal.chain(state.moved_by_others()?).collect();
        let names = state.names()?.into_iter().map(|name| {
            let in_flight = name.scope == NameScope::Registry && in_flight.contains(&name.name);
            ((name.scope, name.name), PastName { key: name.key, image: name.image, in_flight })
        });
        Ok(Self { results: Some(state.summaries()?), names: names.collect(), ..Self::when_asked(state, lock) })
    }

    /// Reads nothing yet: for plans of few nodes, and of no names.
    pub fn when_asked(state: &'a State, lock: &'a LockFile) -> Self {
        let results = state.results_written().unwrap_or_default();
        Self {
            state,
            lock,
            results: None,
            names: HashMap::new(),
            images: Many::of(results),
            stored: Many::of(results),
            configs: Mutex::default(),
            owners: Mutex::default(),
            claims: OnceLock::new(),
        }
    }

    /// A config that is recorded.
    fn recorded(&self, image: ImageId) -> Option<ImageConfig> {
        let stored = self.stored.all(|| Mutex::new(self.state.configs().unwrap_or_default()));
        let stored = stored.and_then(|all| all.lock().unwrap_or_else(PoisonError::into_inner).remove(&image.0));
        match stored {
            Some(stored) => stored.read(),
            None => self.state.config(image.0).ok().flatten(),
        }
    }
}

impl Past for Records<'_> {
    fn result(&self, key: Key) -> Option<PastResult> {
        let asked;
        let summary = match &self.results {
            Some(all) => all.get(&key)?,
            None => {
                asked = self.state.results_for_keys(&[key]).ok()?.pop()??;
                &asked
            }
        };
        let good = summary.verdict.is_good();
        // the run is told only of failures
        let failed = if good { None } else { self.state.result(&key).ok().flatten() };
        let infra = failed.as_ref().and_then(|result| result.failure.as_ref()).is_some_and(|failure| failure.class == FailureClass::Infra);
        Some(PastResult { key, good, image: summary.image, run: failed.map(|result| result.run).unwrap_or_default(), infra })
    }

    fn latest(&self, label: &NodeLabel, platform: &Platform) -> Option<(PastResult, Vec<Component>)> {
        let result = self.state.latest(label, platform).ok().flatten()?;
        let infra = result.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::Infra);
        let (good, image) = (result.verdict.is_good(), result.image.map(|image| image.id));
        let past = PastResult { key: result.key, good, image, run: result.run, infra };
        Some((past, result.components))
    }

    fn latest_good(&self, label: &NodeLabel, platform: &Platform) -> Option<PastResult> {
        let result = self.state.latest_success(label, platform).ok().flatten()?;
        let image = result.image.map(|image| image.id);
        Some(PastResult { key: result.key, good: true, image, run: result.run, infra: false })
    }

    fn made_here(&self, label: &NodeLabel, platform: &Platform, component: &Component) -> bool {
        let Some(result) = self.state.latest_success(label, platform).ok().flatten() else { return false };
        let claims = self.claims.get_or_init(|| self.state.claims().unwrap_or_default());
        result.components.contains(component) && result.image.is_some_and(|image| claims.contains(&image.id))
    }

    fn stamp(&self, label: &Label) -> Option<Component> {
        let renewal = self.lock.renewal(label)?;
        Some(keys::stamp(renewal.at, &renewal.policy?.to_string()))
    }

    fn had(&self, label: &NodeLabel, platform: &Platform, own: &[Component]) -> bool {
        let kept = self.state.components_of(label, platform).unwrap_or_default();
        kept.iter().any(|components| super::decide::own_components(components).eq(own))
    }

    fn name(&self, scope: NameScope, name: &Reference) -> Option<PastName> {
        self.names.get(&(scope, name.clone())).cloned()
    }

    fn config(&self, image: ImageId) -> Option<Arc<ImageConfig>> {
        if let Some(config) = self.configs.lock().unwrap_or_else(PoisonError::into_inner).get(&image) {
            return Some(config.clone());
        }
        let config = Arc::new(self.recorded(image)?);
        self.configs.lock().unwrap_or_else(PoisonError::into_inner).insert(image, config.clone());
        Some(config)
    }

    fn locked(&self, reference: &Reference, platform: &Platform) -> Option<LockedBase> {
        self.lock.entry(reference, platform).map(|entry| LockedBase { manifest: entry.manifest, config: entry.config })
    }
}

impl KnownConfigs for Records<'_> {
    fn known(&self, owner: &NodeLabel, platform: &Platform) -> Option<Arc<ImageConfig>> {
        if !matches!(owner, NodeLabel::Outside(_))
            && let Some(images) = self.images.all(|| self.state.latest_images().unwrap_or_default())
        {
            return self.config(*images.get(&node_key(owner, platform))?);
        }
        let asked = (owner.clone(), platform.clone());
        if let Some(config) = self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&asked) {
            return config.clone();
        }
        let image = match owner {
            NodeLabel::Outside(reference) => self.locked(reference, platform).map(|locked| locked.config),
            _ => self.state.latest_success(owner, platform).ok().flatten().and_then(|result| result.image).map(|image| image.id),
        };
        let config = image.and_then(|image| self.config(image));
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(asked, config.clone());
        config
    }
}
