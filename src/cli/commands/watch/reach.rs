//! Which images a change on the disk may touch, so that a watching igraph looks at those alone. Knows what the last looks relied on;
//! where it can't tell, it says so, and everything is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::label::{Label, NodeLabel};

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All that was selected.
    Everything,
    /// These images, and what they stand on.
    Only(BTreeSet<Label>),
}

impl Scope {
    /// Nothing at all.
    pub(super) fn nothing() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// This and that.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut labels), Self::Only(more)) => {
                labels.extend(more);
                Self::Only(labels)
            }
            _ => Self::Everything,
        }
    }
}

/// What a look learned of one image with its tests, or of one base.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// Whether it is an image of the workspace.
    pub(super) image: bool,
    /// What it relied on: files, listed folders, paths where nothing is. Relative to the root.
    pub(super) paths: Vec<Arc<str>>,
    /// What it stands on.
    pub(super) needs: Vec<Arc<NodeLabel>>,
}

/// What the looks so far have learned.
#[derive(Debug, Default)]
pub(super) struct Reach {
    owners: BTreeMap<Arc<NodeLabel>, Owner>,
    /// Whom a path is an input of.
    readers: BTreeMap<Arc<str>, Vec<Arc<NodeLabel>>>,
}

impl Reach {
    /// Takes over what a look has found; `whole` where it was at everything.
    pub(super) fn learn(&mut self, found: BTreeMap<Arc<NodeLabel>, Owner>, whole: bool) {
        if whole {
            *self = Self::default();
        }
        for (label, owner) in found {
            for path in self.owners.get(&label).map(|old| &old.paths).into_iter().flatten() {
                if let Some(readers) = self.readers.get_mut(path) {
                    readers.retain(|reader| *reader != label);
                }
            }
            for path in &owner.paths {
                match self.readers.get_mut(path) {
                    Some(readers) => readers.push(label.clone()),
                    None => drop(self.readers.insert(path.clone(), vec![label.clone()])),
                }
            }
            self.owners.insert(label, owner);
        }
    }

    /// What these relied on when they were last looked at.
    pub(super) fn paths_of(&self, owners: &[Arc<NodeLabel>]) -> impl Iterator<Item = Arc<str>> {
        owners.iter().filter_map(|label| self.owners.get(label)).flat_map(|owner| owner.paths.iter().cloned())
    }

    /// The images that changes at these paths may touch, with all that stand on them; everything where a path is nobody's.
    pub(super) fn touched<'p>(&self, changed: impl IntoIterator<Item = &'p String>) -> Scope {
        let mut touched: BTreeSet<&NodeLabel> = BTreeSet::new();
        for path in changed {
            if path == "." {
                return Scope::Everything;
            }
            let before = touched.len();
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let mut known = false;
            for readers in [&**path, folder].iter().filter_map(|path| self.readers.get(*path)) {
                known |= !readers.is_empty();
                touched.extend(readers.iter().map(|reader| &**reader));
            }
            // a folder that was moved takes with it what lies in it
            let below = format!("{path}/");
            let inside =
                self.readers.range::<str, _>((Bound::Included(&*below), Bound::Unbounded)).take_while(|(path, _)| path.starts_with(&below));
            touched.extend(inside.flat_map(|(_, readers)| readers).map(|reader| &**reader));
            if !known && touched.len() == before {
                return Scope::Everything;
            }
        }
        self.with_dependants(touched)
    }

    fn with_dependants(&self, touched: BTreeSet<&NodeLabel>) -> Scope {
        let mut above: BTreeMap<&NodeLabel, Vec<&NodeLabel>> = BTreeMap::new();
        for (label, owner) in &self.owners {
            for needed in &owner.needs {
                above.entry(&**needed).or_default().push(label);
            }
        }
        let mut all = touched.clone();
        let mut next: Vec<&NodeLabel> = touched.into_iter().collect();
        while let Some(label) = next.pop() {
            next.extend(above.get(label).into_iter().flatten().filter(|dependant| all.insert(dependant)));
        }
        let images = all.into_iter().filter(|label| self.owners.get(*label).is_some_and(|owner| owner.image));
        let labels: BTreeSet<Label> = images.filter_map(|label| label.entry().cloned()).collect();
        if labels.is_empty() { Scope::Everything } else { Scope::Only(labels) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach() -> Reach {
        let owner = |image: bool, paths: &[&str], needs: &[&str]| Owner {
            image,
            paths: paths.iter().map(|path| (*path).into()).collect(),
            needs: needs.iter().map(|label| Arc::new(label.parse().unwrap())).collect(),
        };
        let mut reach = Reach::default();
        let found = [
            ("//base:b", owner(false, &["base/b.tar"], &[])),
            ("//p:1", owner(true, &["p/1/Dockerfile", "p/1/src", "p/1/src/a", "p/test/Dockerfile"], &["//base:b"])),
            ("//p:2", owner(true, &["p/2/Dockerfile", "p/test/Dockerfile"], &["//p:1"])),
            ("//p:3", owner(true, &["p/3/Dockerfile", "p/3/.dockerignore"], &["//base:b"])),
        ];
        reach.learn(found.into_iter().map(|(label, owner)| (Arc::new(label.parse().unwrap()), owner)).collect(), true);
        reach
    }

    fn touched(reach: &Reach, paths: &[&str]) -> String {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        match reach.touched(&paths) {
            Scope::Everything => "everything".to_owned(),
            Scope::Only(labels) => labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn a_change_touches_who_read_it_and_who_stands_on_that() {
        let reach = reach();
        for (paths, expected) in [
            (&["p/2/Dockerfile"][..], "//p:2"),
            (&["p/1/src/a"], "//p:1 //p:2"),
            (&["p/1/src/new"], "//p:1 //p:2"),
            (&["p/3/.dockerignore"], "//p:3"),
            (&["p/test/Dockerfile"], "//p:1 //p:2"),
            (&["base/b.tar"], "//p:1 //p:2 //p:3"),
            (&["p/3"], "//p:3"),
            (&["p/2/Dockerfile", "p/3"], "//p:2 //p:3"),
            (&["."], "everything"),
            (&["p/2/Dockerfile", "elsewhere"], "everything"),
            (&["p/30"], "everything"),
        ] {
            assert_eq!(touched(&reach, paths), expected, "{paths:?}");
        }
    }

    #[test]
    fn a_later_look_takes_the_place_of_an_earlier_one() {
        let mut reach = reach();
        let now = Owner { image: true, paths: vec!["p/2/Other".into()], needs: Vec::new() };
        reach.learn([(Arc::new("//p:2".parse().unwrap()), now)].into(), false);
        assert_eq!(touched(&reach, &["p/2/Dockerfile"]), "everything");
        assert_eq!(touched(&reach, &["p/2/Other"]), "//p:2");
        assert_eq!(touched(&reach, &["p/1/src/a"]), "//p:1", "it stands on that no more");
        assert_eq!(touched(&reach, &["p/test/Dockerfile"]), "//p:1");
    }
}
