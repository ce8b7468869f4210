//! Names that a killed run, or a failed push, may have left half-moved: what the journal still holds, and who sees to it.
//! Moves nothing; pushes that are planned finish their own groups.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Body, Graph};
use crate::label::NodeLabel;
use crate::record::{JournalGroup, JournalId, JournalName, RecordError, State};
use crate::reference::Reference;
use crate::spec::Catalogue;

/// Before a push: what was left that it will not finish, one warning each. Names that no entry claims any more are taken out of the
/// journal, since no push will ever come to them.
///
/// # Errors
/// Of the records.
pub fn before(state: &State, catalogue: &Catalogue, graph: &Graph<'_>) -> Result<Vec<String>, RecordError> {
    let planned = planned(graph);
    let claimed: BTreeSet<NodeLabel> = catalogue
        .images
        .iter()
        .flat_map(|(label, image)| image.names.iter().map(|name| NodeLabel::Push(label.clone(), name.written.clone())))
        .collect();
    let groups = state.journal()?;
    let left = |keep: &dyn Fn(&JournalName) -> bool| owners(&groups, |name| !planned.contains(&name.name) && keep(name));
    let outside = left(&|name| claimed.contains(&name.node));
    let mut warnings: Vec<String> = outside
        .into_iter()
        .map(|(owner, names)| {
            format!("an earlier run may have left {names} half-moved, outside of what is pushed now: push {owner} to finish")
        })
        .collect();
    let unclaimed = left(&|name| !claimed.contains(&name.node));
    warnings.extend(unclaimed.into_iter().map(|(owner, names)| {
        format!("an earlier run of {owner} may have left {names} half-moved, and no entry claims that any more: igraph leaves it as it is")
    }));
    let dropped: Vec<(JournalId, Reference)> = groups
        .iter()
        .flat_map(|(id, group)| group.names.iter().map(|name| (*id, name)))
        .filter(|(_, name)| !planned.contains(&name.name) && !claimed.contains(&name.node))
        .map(|(id, name)| (id, name.name.clone()))
        .collect();
    if !dropped.is_empty() {
        state.journal_drop(&dropped)?;
    }
    Ok(warnings)
}

/// After a push: what of its own names may still be half-moved, one warning for each image.
///
/// # Errors
/// Of the records.
pub fn after(state: &State, graph: &Graph<'_>) -> Result<Vec<(NodeLabel, String)>, RecordError> {
    let planned = planned(graph);
    let owners = owners(&state.journal()?, |name| planned.contains(&name.name));
    Ok(owners
        .into_iter()
        .map(|(owner, names)| (owner, format!("{names} may be half-moved; the next push that succeeds finishes")))
        .collect())
}

fn planned(graph: &Graph<'_>) -> BTreeSet<Reference> {
    let names = graph.order().iter().filter_map(|index| match &graph.node(*index).body {
        Body::Pushes(names) => Some(&names.names),
        _ => None,
    });
    names.flatten().map(|name| name.reference.clone()).collect()
}

/// The names that fit, as a text, by the image they were moved to.
fn owners(groups: &[(JournalId, JournalGroup)], fits: impl Fn(&JournalName) -> bool) -> BTreeMap<NodeLabel, String> {
    let mut owners: BTreeMap<NodeLabel, BTreeSet<String>> = BTreeMap::new();
    for (_, group) in groups {
        for name in group.names.iter().filter(|name| fits(name)) {
            owners.entry(group.node.clone()).or_default().insert(format!("`{}`", name.name));
        }
    }
    owners.into_iter().map(|(owner, names)| (owner, names.into_iter().collect::<Vec<_>>().join(", "))).collect()
}
