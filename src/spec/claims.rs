//! Whose reference is it: which entry of the workspace a `FROM` means. Knows names, no Dockerfile.
//!
//! A reference is an entry's where, after normalisation, it is one of its names as written in the build file, the
//! same name at the workspace's registry, or something that a `Base` provides. A staging registry changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::model::{Catalogue, Image, Origin, Span};
use super::names::{Destination, ImageName, Registry};
use crate::label::Label;
use crate::problem::{Problem, Source};
use crate::reference::Reference;

/// All references that belong to entries.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    by_reference: HashMap<Reference, Claim>,
}

#[derive(Clone, Debug)]
struct Claim {
    label: Label,
    source: Arc<Source>,
    span: Span,
}

impl Claims {
    /// The `Image` or `Base` that `reference` means; `None`: an outside base, as every reference with a digest is.
    /// No reference has two owners: a workspace where one had could not be loaded.
    pub fn owner(&self, reference: &Reference) -> Option<&Label> {
        if reference.digest().is_some() {
            return None;
        }
        self.by_reference.get(reference).map(|claim| &claim.label)
    }

    /// Makes room for the names of so many more entries as workspaces have.
    pub(super) fn reserve(&mut self, names: usize) {
        self.by_reference.reserve(names);
    }

    /// How many references have an owner.
    pub fn len(&self) -> usize {
        self.by_reference.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.by_reference.is_empty()
    }

    /// Gives `reference` to an entry, unless another has it, or this one has it by another name.
    fn add(&mut self, reference: &Reference, label: &Label, origin: &Origin, name: &ImageName) -> Option<Problem> {
        use std::collections::hash_map::Entry;
        match self.by_reference.entry(reference.clone()) {
            Entry::Vacant(slot) => {
                slot.insert(Claim { label: label.clone(), source: origin.source.clone(), span: name.span });
                None
            }
            Entry::Occupied(slot) => Some(double_claim(reference, label, origin, name, slot.get())),
        }
    }

    /// Gives an image all its names.
    pub(super) fn add_image(&mut self, label: &Label, image: &Image, registry: &Registry, problems: &mut Vec<Problem>) {
        // at Docker Hub itself the name as written and the one pushed are the same
        let is_hub = *registry == Registry::hub();
        let workspace = Destination::Workspace(registry.clone());
        for name in &image.names {
            if let Some(problem) = self.add(&name.reference, label, &image.origin, name) {
                problems.push(problem);
                continue;
            }
            if is_hub {
                continue;
            }
            match image.destination(name, &workspace) {
                Ok(pushed) if pushed != name.reference => problems.extend(self.add(&pushed, label, &image.origin, name)),
                Ok(_) => {}
                Err(error) => problems.push(Problem::new(error.to_string()).at(&image.origin.source, name.span.range())),
            }
        }
    }

    /// Gives a base all that it provides.
    pub(super) fn add_base(&mut self, label: &Label, provides: &[ImageName], origin: &Origin, problems: &mut Vec<Problem>) {
        for name in provides {
            problems.extend(self.add(&name.reference, label, origin, name));
        }
    }
}

fn double_claim(reference: &Reference, label: &Label, origin: &Origin, name: &ImageName, first: &Claim) -> Problem {
    let shown = reference.familiar();
    let (message, note) = if first.label == *label {
        (format!("{label} has the name `{shown}` twice"), "first here".to_owned())
    } else {
        (format!("`{shown}` is claimed by two entries"), format!("{} claims it here", first.label))
    };
    let problem = Problem::new(message);
    let problem = if first.label == *label {
        problem.at(&origin.source, name.span.range())
    } else {
        problem.at_with(&origin.source, name.span.range(), format!("{label} claims it here"))
    };
    problem.at_with(&first.source, first.span.range(), note)
}

impl Catalogue {
    /// What is wrong with pushing all names to a staging registry: two that differ only in their host become one there,
    /// and a name may get too long. Sorted by place.
    pub fn check_staging(&self, registry: &Registry) -> Vec<Problem> {
        let to = Destination::Staging(registry.clone());
        let mut claims = Claims::default();
        let mut problems = Vec::new();
        for (label, image) in &self.images {
            for name in &image.names {
                match image.destination(name, &to) {
                    Ok(reference) => problems.extend(claims.add(&reference, label, &image.origin, name)),
                    Err(error) => problems.push(Problem::new(error.to_string()).at(&image.origin.source, name.span.range())),
                }
            }
        }
        super::load::sort_problems(&mut problems);
        problems
    }
}
