//! Decides about one node from the settled results of the nodes it depends on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::decision::{Decision, PlannerOptions, Value, Values, levels};
use super::kept::{Kept, Traces};
use super::past::{NameScope, Past, PastResult};
use super::tested::{NotTested, PassedTest, Tested};
use crate::clock::Day;
use crate::component::{Component, KEY_SCHEMA, key_of, key_of_parts, schema_of};
use crate::digest::Key;
use crate::dockerfile::{Configs, ImageUse};
use crate::graph::{BaseNode, BaseSource, Body, GateNode, Graph, ImageNode, NamesNode, Node, NodeIndex, SUBJECT, StandIn, TestNode};
use crate::image::ImageConfig;
use crate::keys::{self, KeyError, Keys, Own, Shared};
use crate::label::NodeLabel;
use crate::reason::Reason;
use crate::reference::Reference;

/// Decides about the nodes of one graph.
pub struct Planner<'a> {
    /// The graph.
    pub graph: &'a Graph<'a>,
    /// What keys share.
    pub keys: Keys<'a>,
    /// The past.
    pub past: &'a dyn Past,
    /// The user's wishes.
    pub options: PlannerOptions,
    kept: Kept,
    shared: Shared,
    /// Results of this run: another node with the same key shares them.
    results: Mutex<BTreeMap<Key, PastResult>>,
    /// Results that this run made necessary again: needed, and nowhere to be had.
    lost: Mutex<BTreeMap<NodeIndex, String>>,
}

impl<'a> Planner<'a> {
    /// A planner that has looked at nothing yet.
    pub fn new(graph: &'a Graph<'a>, keys: Keys<'a>, past: &'a dyn Past, options: PlannerOptions) -> Self {
        Self {
            graph,
            keys,
            past,
            kept: Kept::new(graph.len(), options.compared),
            options,
            shared: Shared::default(),
            results: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Decides about all nodes, in order, without running any: by position in [`Graph::order`].
    pub fn plan(&self) -> Vec<(NodeIndex, Decision)> {
        let mut decided: Vec<Option<Decision>> = Vec::new();
        decided.resize_with(self.graph.len(), || None);
        for level in levels(self.graph) {
            let lookup = |index: NodeIndex| match &decided[index.index()] {
                Some(Decision::Fresh(value)) => Some(value.clone()),
                _ => None,
            };
            let decide = |index: &NodeIndex| {
                let decision = self.decide(*index, &lookup);
                if matches!(decision, Decision::Fresh(_)) {
                    self.kept.let_go(*index);
                }
                (*index, decision)
            };
            let decisions: Vec<(NodeIndex, Decision)> = level.par_iter().map(decide).collect();
            for (index, decision) in decisions {
                decided[index.index()] = Some(decision);
            }
        }
        let mut plan = Vec::with_capacity(decided.len());
        plan.extend(self.graph.order().iter().filter_map(|index| decided[index.index()].take().map(|decision| (*index, decision))));
        plan
    }

    /// Marks a result as needed by `needed_by` and nowhere to be had: the node has to run.
    pub fn lose(&self, node: NodeIndex, needed_by: String) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(node, needed_by);
    }

    /// A node of this run has settled so.
    pub fn settled(&self, result: PastResult) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).insert(result.key, result);
    }

    fn result(&self, key: Key) -> Option<PastResult> {
        let own = self.results.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        own.or_else(|| self.past.result(key))
    }

    /// The node has run: what was lost is there again.
    pub fn regained(&self, node: NodeIndex) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// Whether a result was lost in this run, and is not made again yet.
    pub fn is_lost(&self, node: NodeIndex) -> bool {
        self.lost(node).is_some()
    }

    /// A node's own components and files, once they could be had; of one that is fresh only its [`Self::traces`] are kept.
    pub fn own(&self, node: NodeIndex) -> Option<Arc<Own>> {
        self.kept.own(node)
    }

    /// What is known of a node's own components and files, once they could be had.
    pub fn traces(&self, node: NodeIndex) -> Option<Arc<Traces>> {
        self.kept.traces(node)
    }

    /// The key and all components of a step, from the settled values of what it depends on; `None` while those are not known.
    pub fn explain(&self, index: NodeIndex, step: &NodeLabel, values: &Values<'_>) -> Option<(Key, Vec<Component>)> {
        let node = self.graph.node(index);
        let mut components = match &node.body {
            Body::Base(base) => match self.keys.local_base(base, &node.platform) {
                Ok(Some(own)) => self.stamped(node, own).components,
                _ => match values(index) {
                    Some(Value::Base { content, .. }) => vec![keys::dependency(&node.owner, true, None, &content)],
                    _ => return None,
                },
            },
            Body::Image(image) => {
                let own = self.image_own(index, node, image, values).ok()?;
                own.with(self.dependencies(node, &own, &image.parents, values).ok()?)
            }
            Body::Test(test) => {
                let own = self
                    .own_of(index, &subject_and(test), values, |configs| self.keys.test(test, &node.platform, configs, &self.shared))
                    .ok()?;
                let Some(Value::Image { image: subject, .. }) = values(test.subject) else { return None };
                let dependencies = self.dependencies(node, &own, &test.parents, values).ok()?;
                own.with(dependencies.into_iter().chain([Component::new("subject", subject.to_string())]))
            }
            Body::Gate(_) => return None,
            Body::Tags(names) | Body::Pushes(names) => {
                let (NodeLabel::Tag(_, written) | NodeLabel::Push(_, written)) = step else { return None };
                let name = names.names.iter().find(|name| name.written == *written)?;
                self.name_key(&name.reference, &self.tested(names, values).ok()?).1
            }
        };
        Some((key_of(&mut components), components))
    }

    /// Decides about one node.
    pub fn decide(&self, index: NodeIndex, values: &Values<'_>) -> Decision {
        let node = self.graph.node(index);
        match &node.body {
            Body::Base(base) => self.base(index, node, base),
            Body::Image(image) => self.image(index, node, image, values),
            Body::Test(test) => self.test(index, node, test, values),
            Body::Gate(gate) => self.gate(gate, values),
            Body::Tags(names) => self.names(index, names, NameScope::Local, values),
            Body::Pushes(names) => self.names(index, names, NameScope::Registry, values),
        }
    }

    fn base(&self, index: NodeIndex, node: &Node<'_>, base: &BaseNode<'_>) -> Decision {
        let stand_in = matches!(base.source, BaseSource::StandIn(_));
        match &base.source {
            BaseSource::Registry(reference) => match self.past.locked(reference, &node.platform) {
                None => self.run(index, vec![Reason::NeverBuilt], None),
                Some(_) if self.forced(index).is_some() || self.lost(index).is_some() => self.run(index, Vec::new(), None),
                Some(locked) if self.past.config(locked.config).is_none() => {
                    self.run(index, vec![Reason::ConfigNotHere { reference: reference.familiar() }], None)
                }
                Some(locked) => Decision::Fresh(Value::Base {
                    content: locked.manifest.to_string(),
                    image: locked.config,
                    manifest: Some((reference.clone(), locked.manifest)),
                    stand_in: false,
                }),
            },
            BaseSource::StandIn(StandIn::Registry(reference)) => {
                self.run(index, vec![Reason::StandsIn { reference: node.owner.to_string(), by: reference.familiar() }], None)
            }
            BaseSource::Entry | BaseSource::StandIn(_) => {
                let own = match self.keys.local_base(base, &node.platform) {
                    Ok(Some(own)) => self.kept.keep(index, self.stamped(node, own)),
                    Ok(None) => return Decision::Blocked("a base without a source".to_owned()),
                    Err(problems) => return Decision::Broken(problems),
                };
                self.by_key(index, node, &own, Vec::new(), None, move |past| {
                    past.image.map(|image| Value::Base { content: image.to_string(), image, manifest: None, stand_in })
                })
            }
        }
    }

    fn image(&self, index: NodeIndex, node: &Node<'_>, image: &ImageNode<'_>, values: &Values<'_>) -> Decision {
        let stand_in = self.stands_on_stand_in(image.parents.values(), values);
        let value = move |past: &PastResult| past.image.map(|image| Value::Image { image, stand_in });
        let ended = self.ended(index);
        let own = match self.image_own(index, node, image, values) {
            Ok(own) => own,
            Err(decision) => match (*decision, ended) {
                // whatever has become of its files
                (Decision::Run { .. } | Decision::Broken(_), Some(day)) => return self.stays(index, node, day, None, value),
                (decision, _) => return decision,
            },
        };
        let path = Some(image.dockerfile.path.as_str());
        let dependencies = match self.dependencies(node, &own, &image.parents, values) {
            Ok(dependencies) => dependencies,
            Err(waits) if ended.is_some() => return Decision::Maybe(waits),
            Err(waits) => return self.changed_alone(index, node, &own, path).unwrap_or(Decision::Maybe(waits)),
        };
        self.by_key(index, node, &own, dependencies, path, value)
    }

    fn test(&self, index: NodeIndex, node: &Node<'_>, test: &TestNode<'_>, values: &Values<'_>) -> Decision {
        let own =
            match self.own_of(index, &subject_and(test), values, |configs| self.keys.test(test, &node.platform, configs, &self.shared)) {
                Ok(own) => own,
                Err(decision) => return *decision,
            };
        let Some(Value::Image { image: subject, .. }) = values(test.subject) else {
            return self.changed_alone(index, node, &own, None).unwrap_or_else(|| Decision::Maybe(self.when(test.subject)));
        };
        let mut dependencies = match self.dependencies(node, &own, &test.parents, values) {
            Ok(dependencies) => dependencies,
            Err(waits) => return Decision::Maybe(waits),
        };
        dependencies.push(Component::new("subject", subject.to_string()));
        let label = node.label();
        self.by_key(index, node, &own, dependencies, None, move |past| {
            // the key holds the subject; a record that says otherwise is none
            past.image.filter(|image| *image == subject)?;
            PassedTest::from_record(label, past.key, subject, past.good).map(Value::Test)
        })
    }

    fn gate(&self, gate: &GateNode, values: &Values<'_>) -> Decision {
        for needed in gate.parents.iter().chain([&gate.image]) {
            if values(*needed).is_none() {
                return Decision::Maybe(self.when(*needed));
            }
        }
        let mut passed = Vec::new();
        for test in &gate.tests {
            match values(*test) {
                Some(Value::Test(test)) => passed.push(test),
                _ => return Decision::Maybe(self.when(*test)),
            }
        }
        Decision::Fresh(Value::Gate(passed))
    }

    fn names(&self, index: NodeIndex, names: &NamesNode, scope: NameScope, values: &Values<'_>) -> Decision {
        if matches!(&self.graph.node(names.gate).body, Body::Gate(gate) if gate.tests.is_empty()) && self.untested(names).is_none() {
            return Decision::Blocked(NotTested::NoTests.to_string());
        }
        let (Some(Value::Image { stand_in, .. }), Some(_)) = (values(names.image), values(names.gate)) else {
            return Decision::Maybe(self.when(names.image));
        };
        if stand_in || self.tested_on_stand_in(names, values) {
            return Decision::Blocked("it is made from a stand-in base (--base), and such images are never named".to_owned());
        }
        let tested = match self.tested(names, values) {
            Ok(tested) => tested,
            Err(not) => return Decision::Blocked(not.to_string()),
        };
        let mut reasons = Vec::new();
        for name in &names.names {
            let (key, _) = self.name_key(&name.reference, &tested);
            let past = self.past.name(scope, &name.reference);
            match past {
                Some(past) if past.key == key && !past.in_flight => {}
                Some(past) if past.key == key => {
                    reasons.push(Reason::NameInDoubt { written: name.written.to_string(), name: name.reference.familiar() });
                }
                past => reasons.push(Reason::NameMoves {
                    written: name.written.to_string(),
                    name: name.reference.familiar(),
                    old: past.map(|past| past.image.to_string()),
                    new: tested.image().to_string(),
                }),
            }
        }
        if reasons.is_empty() && self.forced(index).is_none() {
            return Decision::Fresh(Value::Names);
        }
        self.run(index, reasons, None)
    }

    /// Whether a test of the image took something from a stand-in.
    fn tested_on_stand_in(&self, names: &NamesNode, values: &Values<'_>) -> bool {
        let Body::Gate(gate) = &self.graph.node(names.gate).body else { return false };
        gate.tests.iter().any(|test| match &self.graph.node(*test).body {
            Body::Test(test) => self.stands_on_stand_in(test.parents.values(), values),
            _ => false,
        })
    }

    /// What a `maybe` waits for.
    fn when(&self, index: NodeIndex) -> String {
        format!("when {} is settled", self.graph.node(index).label())
    }

    /// The evidence that a node's names need.
    ///
    /// # Errors
    /// Where its tests have not all passed for the image as it is now.
    pub fn tested(&self, names: &NamesNode, values: &Values<'_>) -> Result<Tested, NotTested> {
        let required: Vec<NodeLabel> = match &self.graph.node(names.gate).body {
            Body::Gate(gate) => gate.tests.iter().map(|test| self.graph.node(*test).label()).collect(),
            _ => Vec::new(),
        };
        let missing =
            || NotTested::Missing { test: required.first().cloned().unwrap_or_else(|| self.graph.node(names.image).owner.clone()) };
        match (values(names.image), values(names.gate)) {
            (Some(Value::Image { image, .. }), Some(Value::Gate(passed))) => {
                Tested::judge(image, &required, passed, self.untested(names).as_deref())
            }
            _ => Err(missing()),
        }
    }

    /// The key of one name of a tested image.
    pub fn name_key(&self, name: &Reference, tested: &Tested) -> (Key, Vec<Component>) {
        let tests = tested.passed().iter().map(|test| (test.test(), test.key()));
        let mut components = keys::names_components(name, tested.image(), tests, tested.untested());
        (key_of(&mut components), components)
    }

    fn untested(&self, names: &NamesNode) -> Option<String> {
        match &self.graph.node(names.image).body {
            Body::Image(image) => image.spec.untested.as_deref().map(str::to_owned),
            _ => None,
        }
    }

    /// The decision about a node whose full list of components is known: its own, and those of what it stands on.
    fn by_key(
        &self,
        index: NodeIndex,
        node: &Node<'_>,
        own: &Own,
        dependencies: Vec<Component>,
        dockerfile: Option<&str>,
        value: impl FnOnce(&PastResult) -> Option<Value>,
    ) -> Decision {
        let key = key_of_parts(own.components.iter().chain(&dependencies));
        let past = self.result(key);
        if let Some(day) = self.ended(index) {
            return self.stays(index, node, day, past.filter(|past| past.good), value);
        }
        // few run: only their components are put together
        let all = || {
            let mut components = own.with(dependencies);
            components.sort();
            components
        };
        if self.forced(index).is_some() || self.lost(index).is_some() {
            return self.run(index, Vec::new(), Some((key, all())));
        }
        let good = past.as_ref().is_some_and(|past| past.good);
        let named = node.owner.entry().is_some_and(|label| self.options.named.contains(label));
        if let Some(why) = self.options.held.get(&key).filter(|_| !good && !named) {
            return Decision::Blocked(why.clone());
        }
        match past {
            Some(past) if past.good => match value(&past) {
                Some(value) => Decision::Fresh(value),
                None => self.run(index, vec![Reason::NeverBuilt], Some((key, all()))),
            },
            Some(past) => {
                let decision = self.run(index, vec![Reason::LastRunFailed { run: past.run }], Some((key, all())));
                match decision {
                    // a step that got nothing and said nothing may be in the engine's cache (apt's ignored mirrors)
                    Decision::Run { reasons, key, .. } if past.infra => Decision::Run { reasons, key, no_cache: true },
                    decision => decision,
                }
            }
            None => {
                let components = all();
                let reasons = self.reasons(node, &components, dockerfile);
                self.run(index, reasons, Some((key, components)))
            }
        }
    }

    /// The last day of what has a node rebuilt, where that is over.
    pub fn ended(&self, index: NodeIndex) -> Option<Day> {
        let until = match &self.graph.node(index).body {
            Body::Image(image) => image.spec.freshness.until,
            Body::Base(base) => base.entry.and_then(|entry| entry.freshness.until),
            _ => None,
        };
        until.filter(|day| self.options.now >= day.end())
    }

    /// The decision about a node past its last day: the result of its inputs, else its newest, else none.
    fn stays(
        &self,
        index: NodeIndex,
        node: &Node<'_>,
        day: Day,
        past: Option<PastResult>,
        value: impl FnOnce(&PastResult) -> Option<Value>,
    ) -> Decision {
        if let Some(Reason::NeededNowhere { needed_by }) = self.lost(index) {
            return Decision::Blocked(format!(
                "needed by {needed_by} and nowhere to be had; since {day} it is never built again (`until`)"
            ));
        }
        let past = past.or_else(|| self.past.latest_good(&node.label(), &node.platform));
        match past.and_then(|past| value(&past)) {
            Some(value) => Decision::Fresh(value),
            None => Decision::Blocked(format!("since {day} it is never built again (`until`), and no result of it is recorded here")),
        }
    }

    /// An image's own components.
    fn image_own(&self, index: NodeIndex, node: &Node<'_>, image: &ImageNode<'_>, values: &Values<'_>) -> Result<Arc<Own>, Box<Decision>> {
        self.own_of(index, &image.parents, values, |configs| {
            self.keys.image(image, &node.platform, configs).map(|own| self.stamped(node, own))
        })
    }

    /// With the stamp of the last renewal.
    fn stamped(&self, node: &Node<'_>, mut own: Own) -> Own {
        own.components.extend(node.owner.entry().and_then(|label| self.past.stamp(label)));
        own
    }

    /// Whether what an engine has cached of a node's instructions may be of before a renewal.
    fn renewed(&self, index: NodeIndex) -> bool {
        let node = self.graph.node(index);
        let stamp = match &node.body {
            Body::Image(image) => self.past.stamp(&image.label),
            _ => None,
        };
        stamp.is_some_and(|stamp| !self.past.made_here(&node.label(), &node.platform, &stamp))
    }

    /// Whether a node that runs uses no instruction cache: a cache would answer for what was to be renewed.
    pub fn uses_no_cache(&self, index: NodeIndex) -> bool {
        self.options.no_cache || self.forced(index).is_some() || self.renewed(index)
    }

    /// Why components differ from those of the node's newest result.
    fn reasons(&self, node: &Node<'_>, components: &[Component], dockerfile: Option<&str>) -> Vec<Reason> {
        match self.past.latest(&node.label(), &node.platform) {
            Some((past, old)) => {
                let reasons = keys::reasons(&old, components, dockerfile);
                match schema_of(past.key, &old) {
                    Some(schema) if reasons.is_empty() => vec![Reason::KeySchema { old: schema, new: KEY_SCHEMA }],
                    _ => reasons,
                }
            }
            None => vec![Reason::NeverBuilt],
        }
    }

    /// Before its dependencies are settled, a node surely runs if its own components are in no result that it has.
    fn changed_alone(&self, index: NodeIndex, node: &Node<'_>, own: &Own, dockerfile: Option<&str>) -> Option<Decision> {
        if self.forced(index).is_some() || self.lost(index).is_some() {
            return Some(self.run(index, Vec::new(), None));
        }
        let Some((_, old)) = self.past.latest(&node.label(), &node.platform) else {
            return Some(self.run(index, vec![Reason::NeverBuilt], None));
        };
        let old: Vec<Component> = own_components(&old).cloned().collect();
        let reasons = keys::reasons(&old, &own.components, dockerfile);
        // what went back to what it once was may be a hit again
        let mut sorted = own.components.clone();
        sorted.sort();
        let changed = !reasons.is_empty() && !self.past.had(&node.label(), &node.platform, &sorted);
        changed.then(|| self.run(index, reasons, None))
    }

    fn forced(&self, index: NodeIndex) -> Option<Reason> {
        self.options.forced.contains(&index).then(|| Reason::Forced { reason: self.options.reason.clone() })
    }

    fn lost(&self, index: NodeIndex) -> Option<Reason> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(&index).map(|needed_by| Reason::NeededNowhere { needed_by: needed_by.clone() })
    }

    fn run(&self, index: NodeIndex, reasons: Vec<Reason>, key: Option<(Key, Vec<Component>)>) -> Decision {
        let forced = self.forced(index);
        let no_cache = self.uses_no_cache(index);
        let reasons = forced.into_iter().chain(self.lost(index)).chain(reasons).collect();
        Decision::Run { reasons, key, no_cache }
    }

    /// The components of what a node stands on, or what they wait for. What the graph took for a parent, and is none under the configs
    /// as they are now, counts for nothing.
    fn dependencies(
        &self,
        node: &Node<'_>,
        own: &Own,
        parents: &BTreeMap<String, NodeIndex>,
        values: &Values<'_>,
    ) -> Result<Vec<Component>, String> {
        let mut components: Vec<Component> = Vec::new();
        for parent in used(own, parents).values() {
            let Node { owner, platform, .. } = self.graph.node(*parent);
            let other = Some(platform).filter(|platform| **platform != node.platform);
            match values(*parent) {
                Some(Value::Base { content, .. }) => components.push(keys::dependency(owner, true, other, &content)),
                Some(Value::Image { image, .. }) => components.push(keys::dependency(owner, false, None, &image.to_string())),
                _ => return Err(self.when(*parent)),
            }
        }
        components.sort();
        components.dedup();
        Ok(components)
    }

    fn stands_on_stand_in<'n>(&self, mut parents: impl Iterator<Item = &'n NodeIndex>, values: &Values<'_>) -> bool {
        parents.any(|parent| matches!(values(*parent), Some(Value::Base { stand_in: true, .. } | Value::Image { stand_in: true, .. })))
    }

    /// The node's own components, computed once the configs they need are known.
    fn own_of(
        &self,
        index: NodeIndex,
        parents: &BTreeMap<String, NodeIndex>,
        values: &Values<'_>,
        compute: impl FnOnce(&dyn Configs) -> Result<Own, KeyError>,
    ) -> Result<Arc<Own>, Box<Decision>> {
        if let Some(own) = self.own(index) {
            return Ok(own);
        }
        let configs = SettledConfigs { parents, values, past: self.past };
        match compute(&configs) {
            Ok(own) => {
                let all = own.resolved.iter().flat_map(|resolved| &resolved.references);
                if let Some(unknown) = all.map(ImageUse::key).find(|used| !parents.contains_key(used)) {
                    let reason = format!("its base brings `{unknown}` (ONBUILD), which was not known when the run began: run again");
                    return Err(Box::new(Decision::Blocked(reason)));
                }
                // a config can be known and still be that of an earlier result: kept only when all parents are settled
                let settled = parents.values().all(|parent| values(*parent).is_some());
                Ok(if settled { self.kept.keep(index, own) } else { Arc::new(own) })
            }
            Err(KeyError::Problems(problems)) => Err(Box::new(Decision::Broken(problems))),
            Err(KeyError::ConfigUnknown(references)) => {
                let owners: Vec<String> = references
                    .iter()
                    .filter_map(|text| parents.get(text))
                    .map(|parent| self.graph.node(*parent).owner.to_string())
                    .collect();
                let unsettled = parents.values().copied().find(|parent| values(*parent).is_none());
                let never = self.past.latest(&self.graph.node(index).label(), &self.graph.node(index).platform).is_none();
                Err(Box::new(match (never, unsettled) {
                    (true, _) => self.run(index, vec![Reason::NeverBuilt], None),
                    (false, Some(parent)) => Decision::Maybe(self.when(parent)),
                    (false, None) => Decision::Maybe(format!("config of {} not here", owners.join(", "))),
                }))
            }
        }
    }

    /// Keeps only traces of a node that is settled: of thousands that run few run at a time.
    pub fn let_go(&self, index: NodeIndex) {
        self.kept.let_go(index);
    }

    /// Forgets what was computed of a node, since what it stands on has changed.
    pub fn forget(&self, index: NodeIndex) {
        self.kept.forget(index);
        self.shared.clear();
    }
}

/// The parents of a test Dockerfile, its subject among them.
pub(crate) fn subject_and(test: &TestNode<'_>) -> BTreeMap<String, NodeIndex> {
    let mut parents = test.parents.clone();
    if test.dockerfile.is_some() {
        parents.insert(SUBJECT.to_owned(), test.subject);
    }
    parents
}

/// Those of the references' nodes that the Dockerfile really takes from.
pub(crate) fn used(own: &Own, parents: &BTreeMap<String, NodeIndex>) -> BTreeMap<String, NodeIndex> {
    let Some(resolved) = &own.resolved else { return parents.clone() };
    let used = resolved.references.iter().filter_map(|used| parents.get_key_value(&used.key()));
    used.map(|(key, index)| (key.clone(), *index)).collect()
}

/// The components that are a node's own, and not those of what it stands on.
pub(super) fn own_components(components: &[Component]) -> impl Iterator<Item = &Component> {
    components.iter().filter(|part| part.name != "subject" && !part.name.starts_with("base ") && !part.name.starts_with("parent "))
}

struct SettledConfigs<'a> {
    parents: &'a BTreeMap<String, NodeIndex>,
    values: &'a Values<'a>,
    past: &'a dyn Past,
}

impl Configs for SettledConfigs<'_> {
    fn config(&self, reference: &str) -> Option<Arc<ImageConfig>> {
        match (self.values)(*self.parents.get(reference)?)? {
            Value::Base { image, .. } | Value::Image { image, .. } => self.past.config(image),
            _ => None,
        }
    }
}
