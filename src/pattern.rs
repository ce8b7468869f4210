//! Patterns of the command line: `//p:n`, `//p:`, `//p:4.*`, `//p/...`, `//...`, the same without `//` relative to the
//! current folder, and steps in brackets. Knows which labels there are when it is told, and no build file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::label::{Label, LabelError, Name, NodeLabel, Package};
use crate::problem::{Problem, nearest};
use crate::reference::Reference;

/// Where relative patterns start. Both paths are relative to the workspace root, `/`-separated, without `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// The folder that holds the packages.
    pub packages: String,
    /// The current folder.
    pub current: String,
}

impl Here {
    /// The workspace root.
    pub fn root(packages: &str) -> Self {
        Self { packages: packages.to_owned(), current: String::new() }
    }
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Package or name are none.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// Neither a name nor `...`.
    #[error("`{text}` names no image")]
    NoName { text: String },
    /// A `*` in the package.
    #[error("`{text}`: `*` stands for a part of a name, not of a package")]
    Wildcard { text: String },
    /// A base's label.
    #[error("`{text}` is an image outside of the workspace")]
    Outside { text: String },
    /// A relative path that leaves the packages.
    #[error("`{text}` lies outside of `{packages}`, which holds the packages")]
    Beside { text: String, packages: String },
    /// Something in brackets that is no step, or after more than one image.
    #[error("`{text}`: in brackets stands `test/NAME`, `tag/NAME` or `push/NAME`")]
    Step { text: String },
}

impl PatternError {
    /// What to write instead, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Label(error) => error.hint(),
            Self::NoName { text } => {
                let path = text.trim_end_matches('/');
                Some(match path {
                    "" | "." => "write `...` for all from here on, `:` for all of this package".to_owned(),
                    _ if path.ends_with("..") => format!("write `{path}/...` for all from there on"),
                    _ => format!(
                        "write `:{path}` for an image of this package, `{path}:` for all of a package, `{path}/...` for all below it"
                    ),
                })
            }
            Self::Wildcard { text } => {
                let package = text.split(':').next().unwrap_or("").split('*').next().unwrap_or("").trim_end_matches('/');
                Some(format!("write `{package}/...` for all packages below"))
            }
            Self::Outside { .. } => Some("`igraph why` knows such images; there is nothing to build or push".to_owned()),
            Self::Beside { .. } => Some("write it from the root, like `//debian/jessie:4.2.1`".to_owned()),
            Self::Step { text } => {
                let entry = text.split('[').next().unwrap_or_default();
                Some(format!("`igraph targets --steps {entry}` lists them"))
            }
        }
    }
}

/// A step in a pattern: one of the nodes that hang on an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// `[test/NAME]`.
    Test(Name),
    /// `[tag/NAME]`.
    Tag(Arc<str>),
    /// `[push/NAME]`.
    Push(Arc<str>),
}

impl Step {
    /// The node that this step of `entry` is.
    pub fn of(&self, entry: &Label) -> NodeLabel {
        match self {
            Self::Test(name) => NodeLabel::Test(entry.clone(), name.clone()),
            Self::Tag(name) => NodeLabel::Tag(entry.clone(), name.clone()),
            Self::Push(name) => NodeLabel::Push(entry.clone(), name.clone()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    All,
    One(Name),
    /// With at least one `*`.
    Like(String),
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    package: Package,
    below: bool,
    names: Names,
    step: Option<Step>,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The patterns in a file or on stdin (`@file`, `@-`): one a line, without empty lines and those that begin with `#`.
pub fn pattern_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Says what is wrong with the text; [`PatternError::hint`] what to write.
    pub fn parse(text: &str, here: &Here) -> Result<Self, PatternError> {
        let (entry, step) = match text.split_once('[') {
            None => (text, None),
            Some((entry, step)) => (entry, Some(parse_step(step).ok_or_else(|| PatternError::Step { text: text.to_owned() })?)),
        };
        let (absolute, rest) = match entry.find("//") {
            Some(0) => (true, &entry[2..]),
            // a relative path with an empty segment is no base's label: that has a host before its `//`
            Some(_) if Reference::from_cell(entry).is_some() => return Err(PatternError::Outside { text: text.to_owned() }),
            _ => (false, entry),
        };
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        let (path, below) = match path.strip_suffix("...") {
            Some("") => ("", true),
            Some(path) if path.ends_with('/') => (path.strip_suffix('/').unwrap_or(path), true),
            _ => (path, false),
        };
        if path.contains('*') {
            return Err(PatternError::Wildcard { text: text.to_owned() });
        }
        if name.is_none() && !below {
            let text = text.to_owned();
            if absolute {
                Package::parse(path.trim_end_matches('/'))?;
            }
            return Err(if absolute { LabelError::NoName { text }.into() } else { PatternError::NoName { text } });
        }
        let package = if absolute { Package::parse(path)? } else { relative_package(path, below, here, text)? };
        let names = match name {
            None | Some("") => Names::All,
            Some(name) if name.contains('*') => {
                // each part between stars has to be able to stand in a name
                Name::parse(&format!("x{}", name.replace('*', ""))).map_err(|error| match error {
                    LabelError::Character { character, what, .. } => LabelError::Character { text: name.to_owned(), character, what },
                    other => other,
                })?;
                Names::Like(name.to_owned())
            }
            Some(name) => Names::One(Name::parse(name)?),
        };
        Ok(Self { text: text.to_owned(), package, below, names, step })
    }

    /// What no pattern at all means: `...`, all from here on.
    ///
    /// # Errors
    /// Where the current folder lies beside the packages.
    pub fn all_from(here: &Here) -> Result<Self, PatternError> {
        Self::parse("...", here)
    }

    /// The label, if the pattern is one.
    pub fn exact(&self) -> Option<Label> {
        match &self.names {
            Names::One(name) if !self.below => Some(Label { package: self.package.clone(), name: name.clone() }),
            _ => None,
        }
    }

    /// Whether `label` is meant. `manual` entries are the caller's matter.
    pub fn matches(&self, label: &Label) -> bool {
        let package = if self.below { label.package.is_within(&self.package) } else { label.package == self.package };
        package
            && match &self.names {
                Names::All => true,
                Names::One(name) => *name == label.name,
                Names::Like(pattern) => like(pattern, label.name.as_str()),
            }
    }
}

/// Whether `text` is `pattern` with something, or nothing, in the place of each `*`.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn parse_step(text: &str) -> Option<Step> {
    let (kind, name) = text.strip_suffix(']')?.split_once('/')?;
    match kind {
        _ if name.is_empty() => None,
        "test" => Name::parse(name).ok().map(Step::Test),
        "tag" => Some(Step::Tag(name.into())),
        "push" => Some(Step::Push(name.into())),
        _ => None,
    }
}

/// The package that `path` means here.
fn relative_package(path: &str, below: bool, here: &Here, text: &str) -> Result<Package, PatternError> {
    let beside = || PatternError::Beside { text: text.to_owned(), packages: here.packages.clone() };
    let mut full: Vec<&str> = here.current.split('/').filter(|segment| !segment.is_empty()).collect();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                full.pop().ok_or_else(beside)?;
            }
            segment => full.push(segment),
        }
    }
    let packages: Vec<&str> = here.packages.split('/').filter(|segment| !segment.is_empty()).collect();
    if let Some(package) = full.strip_prefix(&packages[..]) {
        return Ok(Package::parse(&package.join("/"))?);
    }
    if packages.starts_with(&full) && below {
        return Ok(Package::parse("")?);
    }
    // at the root people think of packages, not of the folder that holds them
    let above = here.current.is_empty() || format!("{}/", here.packages).starts_with(&format!("{}/", here.current));
    if above && !path.is_empty() && !path.split('/').any(|segment| segment == "..") {
        return Ok(Package::parse(path.trim_start_matches("./").trim_end_matches('/'))?);
    }
    Err(beside())
}

/// Whether patterns reach an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Any pattern does.
    Usual,
    /// Its exact label only.
    Manual,
}

/// What patterns mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Entries that are meant as a whole.
    pub labels: BTreeSet<Label>,
    /// Of other entries, the steps that are meant. Whether an entry has such a step is not known here.
    pub steps: BTreeSet<NodeLabel>,
    /// Entries that were named by their very label.
    pub named: BTreeSet<Label>,
    /// Where patterns mean less than they seem to.
    pub warnings: Vec<String>,
}

/// Finds the entries that `patterns` mean, less those that `excluded` mean.
///
/// # Errors
/// Each pattern that matches nothing, with the nearest label; each exclusion that names a step.
pub fn resolve(patterns: &[Pattern], excluded: &[Pattern], entries: &BTreeMap<Label, Visibility>) -> Result<Selection, Vec<Problem>> {
    let mut selection = Selection { named: patterns.iter().filter_map(Pattern::exact).collect(), ..Selection::default() };
    let mut problems = Vec::new();
    let mut away = BTreeSet::new();
    for pattern in excluded {
        let found = matching(pattern, entries);
        if pattern.step.is_some() {
            problems.push(Problem::new(format!("`{pattern}` can't be excluded: only whole images can")));
        } else if found.is_empty() {
            problems.push(nothing_matches(pattern, entries));
        }
        away.extend(found.into_iter().map(|(label, _)| label.clone()));
    }
    for pattern in patterns {
        let found = matching(pattern, entries);
        if found.is_empty() {
            problems.push(nothing_matches(pattern, entries));
            continue;
        }
        let exact = pattern.exact().is_some();
        let mut reached =
            found.iter().filter(|(_, visibility)| exact || *visibility == Visibility::Usual).map(|(label, _)| *label).peekable();
        if reached.peek().is_none() {
            selection.warnings.push(only_manual(pattern, &found));
        }
        for label in reached.filter(|label| !away.contains(label)) {
            match &pattern.step {
                None => drop(selection.labels.insert(label.clone())),
                Some(step) => drop(selection.steps.insert(step.of(label))),
            }
        }
    }
    let labels = &selection.labels;
    selection.steps.retain(|step| step.entry().is_none_or(|label| !labels.contains(label)));
    if !problems.is_empty() {
        return Err(problems);
    }
    let none = selection.labels.is_empty() && selection.steps.is_empty();
    if none && !away.is_empty() && selection.warnings.is_empty() {
        selection.warnings.push("all that the patterns match is excluded".to_owned());
    }
    Ok(selection)
}

fn matching<'a>(pattern: &Pattern, entries: &'a BTreeMap<Label, Visibility>) -> Vec<(&'a Label, Visibility)> {
    match pattern.exact() {
        Some(label) => entries.get_key_value(&label).map(|(label, visibility)| (label, *visibility)).into_iter().collect(),
        None => entries.iter().filter(|(label, _)| pattern.matches(label)).map(|(label, visibility)| (label, *visibility)).collect(),
    }
}

fn only_manual(pattern: &Pattern, found: &[(&Label, Visibility)]) -> String {
    let first = found.first().map(|(label, _)| label.to_string()).unwrap_or_default();
    match found.len() {
        1 => format!("`{pattern}` matches only {first}, which is manual: name it exactly"),
        count => format!("`{pattern}` matches only manual images ({count}, the first is {first}): name them exactly"),
    }
}

fn nothing_matches(pattern: &Pattern, entries: &BTreeMap<Label, Visibility>) -> Problem {
    let problem = Problem::new(format!("`{pattern}` matches nothing"));
    if entries.is_empty() {
        return problem.hint("this workspace has no images");
    }
    let here: Vec<&Label> = entries.keys().filter(|label| label.package == pattern.package).collect();
    if let (Some(first), Some(last), Names::One(_) | Names::Like(_)) = (here.first(), here.last(), &pattern.names) {
        let wrong = match &pattern.names {
            Names::One(name) => name.as_str(),
            Names::Like(like) => like,
            Names::All => "",
        };
        return match nearest(wrong, here.iter().map(|label| label.name.as_str())) {
            Some(near) => problem.hint(format!("did you mean `{}:{near}`?", pattern.package)),
            None if here.len() == 1 => problem.hint(format!("{} has only `{}`", pattern.package, first.name)),
            None => problem.hint(format!("{} has {} images, from `{}` to `{}`", pattern.package, here.len(), first.name, last.name)),
        };
    }
    let packages: BTreeSet<&str> = entries.keys().map(|label| label.package.as_str()).collect();
    let ending = pattern.text.rfind([':', '.']).map_or("", |_| match (&pattern.names, pattern.below) {
        (_, true) => "/...",
        (Names::All, false) => ":",
        _ => "",
    });
    match nearest(pattern.package.as_str(), packages.iter().copied()) {
        Some(near) if ending.is_empty() => {
            let (_, name) = pattern.text.split_once(':').unwrap_or(("", ""));
            problem.hint(format!("did you mean `//{near}:{name}`?"))
        }
        Some(near) => problem.hint(format!("did you mean `//{near}{ending}`?")),
        None => problem.hint("`igraph targets //...` lists what there is"),
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
