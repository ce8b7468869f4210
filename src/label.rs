//! Labels: packages, names, and the nodes they stand for. Knows spelling, not what exists.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::reference::Reference;
use crate::text::{debug_as_display, text_serde};

/// Why a text is no label, package or name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A character that the grammar has no place for.
    #[error("`{text}`: character `{character}` is not allowed in a {what}")]
    Character {
        /// The whole text.
        text: String,
        /// The first wrong character.
        character: char,
        /// `package` or `name`.
        what: &'static str,
    },
    /// A package segment that is empty, `.` or `..`.
    #[error("`{text}`: a package has no empty, `.` or `..` segment")]
    Segment {
        /// The whole text.
        text: String,
    },
    /// A name that is empty, too long, or starts with `.` or `-`.
    #[error("`{text}`: a name is a Docker tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`")]
    Name {
        /// The whole text.
        text: String,
    },
    /// No `//`.
    #[error("`{text}`: a label begins with `//`, like `//debian/jessie:4.2.1`")]
    NoRoot {
        /// The whole text.
        text: String,
    },
    /// A package without a name.
    #[error("`{text}` names a package, not an image: names are versions here, so there is no default one")]
    NoName {
        /// The whole text.
        text: String,
    },
    /// Something in brackets that is no step.
    #[error("`{text}`: in brackets stands `test/NAME`, `tag/NAME` or `push/NAME`")]
    Step {
        /// The whole text.
        text: String,
    },
}

impl LabelError {
    /// What to write instead, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoName { text } => {
                Some(format!("write `{text}:VERSION` for one image, `{text}:` for all of the package, `{text}/...` for all below it"))
            }
            Self::NoRoot { text } => Some(format!("did you mean `//{}`?", text.trim_start_matches('/'))),
            _ => None,
        }
    }
}

/// A package: the path of its folder below the packages root, with `/`; empty for that root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package(Arc<str>);

impl Package {
    /// Parses a path like `debian/jessie`.
    ///
    /// # Errors
    /// Where a segment is empty, `.` or `..`, or has a character other than `A-Z a-z 0-9 . _ - + = ~ @`.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        if !text.is_empty() {
            for segment in text.split('/') {
                if matches!(segment, "" | "." | "..") {
                    return Err(LabelError::Segment { text: text.to_owned() });
                }
                if let Some(character) = segment.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-+=~@".contains(*c)) {
                    return Err(LabelError::Character { text: text.to_owned(), character, what: "package" });
                }
            }
        }
        Ok(Self(text.into()))
    }

    /// The path, without `//`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `parent` or below it.
    pub fn is_within(&self, parent: &Self) -> bool {
        parent.0.is_empty() || self.0.strip_prefix(&*parent.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "//{}", self.0)
    }
}

debug_as_display!(Package);

/// The name of an entry: the Docker tag grammar (distribution-spec, "pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// Where the text is no Docker tag.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        if let Some(character) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c)) {
            return Err(LabelError::Character { text: text.to_owned(), character, what: "name" });
        }
        if text.is_empty() || text.len() > 128 || text.starts_with(['.', '-']) {
            return Err(LabelError::Name { text: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

debug_as_display!(Name);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        natural_cmp(&self.0, &other.0)
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Orders texts so that runs of digits compare as numbers: `4.9` before `4.10`. Equal only for equal texts.
pub fn natural_cmp(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (None, None) => return a.cmp(b),
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let digits = |text: &[u8]| text.iter().take_while(|c| c.is_ascii_digit()).count();
                let (m, n) = (digits(left), digits(right));
                let trim = |run: &[u8]| run.iter().take_while(|c| **c == b'0').count();
                let (p, q) = (&left[trim(&left[..m])..m], &right[trim(&right[..n])..n]);
                let order = p.len().cmp(&q.len()).then_with(|| p.cmp(q));
                if order != Ordering::Equal {
                    return order;
                }
                (left, right) = (&left[m..], &right[n..]);
            }
            (Some(x), Some(y)) if x == y => (left, right) = (&left[1..], &right[1..]),
            (Some(x), Some(y)) => return x.cmp(y),
        }
    }
}

/// An entry of a build file: `//debian/jessie:4.2.1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Where it is declared.
    pub package: Package,
    /// What it is called there.
    pub name: Name,
}

impl Label {
    /// Parses `//p:n`, or `:n` and `n` forms relative to `here` when given.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str, here: Option<&Package>) -> Result<Self, LabelError> {
        let (package, name) = match (text.strip_prefix("//"), here) {
            (Some(rest), _) => {
                let (package, name) = rest.split_once(':').ok_or_else(|| LabelError::NoName { text: text.to_owned() })?;
                (Package::parse(package)?, name)
            }
            (None, Some(here)) if text.starts_with(':') => (here.clone(), &text[1..]),
            _ => return Err(LabelError::NoRoot { text: text.to_owned() }),
        };
        if name.is_empty() {
            return Err(LabelError::Name { text: text.to_owned() });
        }
        Ok(Self { package, name: Name::parse(name)? })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.package, self.name)
    }
}

debug_as_display!(Label);

/// The label of any node of the graph. Ordered by image first, then its steps in the order test, tag, push.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeLabel {
    /// `docker.io//library/debian:jessie`: a base outside the workspace; the registry is the cell.
    Outside(Reference),
    /// `//debian/jessie:4.2.1`: an `Image` entry, or a `Base` entry.
    Entry(Label),
    /// `//debian/jessie:4.2.1[test/smoke]`.
    Test(Label, Name),
    /// `//debian/jessie:4.2.1[tag/4.2]`; the name as written in BUILD.ron.
    Tag(Label, Arc<str>),
    /// `//debian/jessie:4.2.1[push/4.2]`; the name as written in BUILD.ron.
    Push(Label, Arc<str>),
}

impl NodeLabel {
    /// The entry whose node, or whose step, this is; `None` for an outside base.
    pub fn entry(&self) -> Option<&Label> {
        match self {
            Self::Outside(_) => None,
            Self::Entry(label) | Self::Test(label, _) | Self::Tag(label, _) | Self::Push(label, _) => Some(label),
        }
    }
}

impl fmt::Display for NodeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(reference) => f.write_str(&reference.to_cell()),
            Self::Entry(label) => write!(f, "{label}"),
            Self::Test(label, name) => write!(f, "{label}[test/{name}]"),
            Self::Tag(label, name) => write!(f, "{label}[tag/{name}]"),
            Self::Push(label, name) => write!(f, "{label}[push/{name}]"),
        }
    }
}

debug_as_display!(NodeLabel);

impl FromStr for NodeLabel {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let step = || LabelError::Step { text: text.to_owned() };
        match text.find("//") {
            Some(0) => {}
            Some(_) => return Reference::from_cell(text).map(Self::Outside).ok_or_else(step),
            None => return Err(LabelError::NoRoot { text: text.to_owned() }),
        }
        let Some((entry, rest)) = text.split_once('[') else {
            return Label::parse(text, None).map(Self::Entry);
        };
        let label = Label::parse(entry, None)?;
        let (kind, name) = rest.strip_suffix(']').and_then(|inner| inner.split_once('/')).ok_or_else(step)?;
        if name.is_empty() {
            return Err(step());
        }
        match kind {
            "test" => Ok(Self::Test(label, Name::parse(name)?)),
            "tag" => Ok(Self::Tag(label, name.into())),
            "push" => Ok(Self::Push(label, name.into())),
            _ => Err(step()),
        }
    }
}

text_serde!(Name, Name::parse);
text_serde!(Label, |text: &str| Label::parse(text, None));
text_serde!(NodeLabel, str::parse::<NodeLabel>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_round_trip() {
        for text in [
            "//debian/jessie:4.2.1",
            "//:x",
            "//debian/jessie:4.2.1[test/smoke]",
            "//debian/jessie:4.2.1[tag/4.2]",
            "//debian/jessie:4.2.1[push/nodesource/node:argon]",
            "docker.io//library/debian:jessie",
            "reg.corp:5000//team/app:1",
        ] {
            assert_eq!(text.parse::<NodeLabel>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_labels_say_what_is_wrong() {
        let message = |text: &str| text.parse::<NodeLabel>().unwrap_err().to_string();
        assert_eq!(
            message("//debian/jessie"),
            "`//debian/jessie` names a package, not an image: names are versions here, so there is no default one"
        );
        assert_eq!(message("//a b:c"), "`a b`: character ` ` is not allowed in a package");
        assert_eq!(message("//a:c[run/x]"), "`//a:c[run/x]`: in brackets stands `test/NAME`, `tag/NAME` or `push/NAME`");
        assert_eq!(message("a:c"), "`a:c`: a label begins with `//`, like `//debian/jessie:4.2.1`");
        assert_eq!(message("//a/../b:c"), "`a/../b`: a package has no empty, `.` or `..` segment");
    }

    #[test]
    fn names_order_naturally() {
        let mut names: Vec<Name> = ["4.10", "4.9", "04.9", "argon", "4"].iter().map(|text| Name::parse(text).unwrap()).collect();
        names.sort();
        assert_eq!(format!("{names:?}"), "[4, 04.9, 4.9, 4.10, argon]");
    }
}
