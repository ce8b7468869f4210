//! The flags of instructions: which there are, what they take, and what is wrong with those written. Knows no meaning.

use std::sync::Arc;

use super::raw::Raw;
use super::text::Mapped;
use super::{Span, Spanned};
use crate::problem::{Problem, Source, nearest};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// A text, once.
    Text,
    /// A text each time.
    Texts,
    /// `true`, `false` or nothing, which is `true`.
    Bool,
}

/// The flags of one instruction, by name.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<(&'static str, Mapped, bool)>);

impl Flags {
    /// Holds the flags of `raw` against those that `keyword` knows.
    pub fn read(source: &Arc<Source>, raw: &Raw, known: &[(&'static str, Takes)]) -> Result<Self, Problem> {
        let keyword = raw.keyword.as_str().to_ascii_uppercase();
        let mut flags = Self::default();
        for flag in &raw.flags {
            let bare = flag.slice(2.min(flag.as_str().len())..flag.as_str().len());
            let (name, value) = bare.split_once('=').map_or((bare.clone(), None), |(name, value)| (name, Some(value)));
            let fail = |message: String| Problem::new(message).at(source, flag.span());
            let Some((known_name, takes)) = known.iter().find(|(known, _)| *known == name.as_str()) else {
                let names = known.iter().map(|(name, _)| *name);
                let hint = match nearest(name.as_str(), names.clone()) {
                    Some(near) => format!("did you mean `--{near}`?"),
                    None if known.is_empty() => format!("`{keyword}` takes no flags; a `--` of its own ends them"),
                    None => format!("`{keyword}` takes {}", names.map(|name| format!("`--{name}`")).collect::<Vec<_>>().join(", ")),
                };
                return Err(fail(format!("unknown flag `--{}` of `{keyword}`", name.as_str())).hint(hint));
            };
            if *takes != Takes::Texts && flags.0.iter().any(|(seen, ..)| seen == known_name) {
                return Err(fail(format!("flag `--{known_name}` is given twice")));
            }
            match (takes, value) {
                (Takes::Bool, None) => flags.0.push((known_name, bare, true)),
                (Takes::Bool, Some(value)) => match value.as_str().to_ascii_lowercase().as_str() {
                    "true" => flags.0.push((known_name, value, true)),
                    "false" => flags.0.push((known_name, value, false)),
                    _ => return Err(fail(format!("flag `--{known_name}` is `true` or `false`, not `{}`", value.as_str()))),
                },
                (_, Some(value)) => flags.0.push((known_name, value, true)),
                (_, None) => {
                    return Err(fail(format!("flag `--{known_name}` needs a value")).hint(format!("write `--{known_name}=…`")));
                }
            }
        }
        Ok(flags)
    }

    fn find(&self, name: &str) -> Option<&(&'static str, Mapped, bool)> {
        self.0.iter().find(|(known, ..)| *known == name)
    }

    /// The value of a text flag; an empty one counts as not given.
    pub fn text(&self, name: &str) -> Option<Spanned> {
        self.find(name).filter(|(_, value, _)| !value.is_empty()).map(|(_, value, _)| spanned(value))
    }

    /// All values of a flag that may come often.
    pub fn texts(&self, name: &'static str) -> impl Iterator<Item = &Mapped> {
        self.0.iter().filter(move |(known, ..)| *known == name).map(|(_, value, _)| value)
    }

    /// Whether a flag was given, and how.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.find(name).map(|(_, _, value)| *value)
    }

    /// Place of a flag.
    pub fn span(&self, name: &str) -> Option<Span> {
        self.find(name).map(|(_, value, _)| value.span())
    }
}

/// A text with its place.
pub(super) fn spanned(text: &Mapped) -> Spanned {
    Spanned { value: text.as_str().to_owned(), span: text.span() }
}
