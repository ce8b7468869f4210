//! What of a context a build can read, before anybody has looked at the files: paths, wildcards, and why all of it, where unsure.

use super::glob::has_wildcard;
use crate::problem::Place;
use crate::stamp::Stamp;

/// What a context entry is, normalised: the exec bit is all of its mode that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A regular file.
    File { executable: bool },
    /// A folder.
    Folder,
    /// A symbolic link and its text.
    Link { target: String },
}

/// A path of the context that an instruction can read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextEntry {
    /// Relative to the context root, `/`-separated, no `.` or `..`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// The stat it was listed with; no part of any key.
    pub stamp: Stamp,
}

/// A context entry with what the key saw of it. Who reads other bytes than these later fails (`PATH changed while it was read`),
/// and never goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextInput {
    /// What and where.
    pub entry: ContextEntry,
    /// BLAKE3 of a file's content; `None` for folders and links.
    pub content: Option<[u8; 32]>,
}

/// Exactly what of the context the needed stages can read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextUse {
    /// The sources, in order of the instructions.
    pub sources: Vec<ContextSource>,
    /// The whole context counts, and why: like `# syntax=corp/frontend:1 is not understood`.
    pub whole: Option<String>,
}

impl ContextUse {
    /// Whether nothing of the context is read.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.whole.is_none()
    }
}

/// One source of one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextSource {
    /// Cleaned and relative to the context root, `""` for the root itself; a pattern of Go's `filepath.Match` where `wildcard`.
    pub path: String,
    /// Whether the path is matched as a pattern.
    pub wildcard: bool,
    /// COPY --parents with wildcards: of what is below the path only what matches this pattern of the ignore file's kind, relative to it.
    pub include: Option<String>,
    /// `--exclude` patterns, of the ignore file's kind, relative to the source where it is a folder.
    pub exclude: Vec<String>,
    /// `COPY`, `ADD` or `RUN --mount`, for messages.
    pub instruction: &'static str,
    /// The source as written.
    pub place: Place,
}

/// A path without `.`, `..`, doubled and outer slashes, as seen from the root: `""` is the root, and nothing is above it.
pub(super) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl ContextSource {
    /// A source of COPY or ADD.
    pub(super) fn of_copy(text: &str, parents: bool, exclude: Vec<String>, instruction: &'static str, place: Place) -> Self {
        let (path, include) = match text.split_once("/./") {
            _ if !parents => (text, None),
            Some((path, pattern)) => (path, Some(clean(pattern))),
            None => ("", Some(clean(text))),
        };
        let path = clean(path);
        match include.filter(|pattern| !pattern.is_empty()) {
            // without wildcards it is just a path that must be there
            Some(pattern) if !has_wildcard(&path) && !has_wildcard(&pattern) => {
                let path = clean(&format!("{path}/{pattern}"));
                // exclude patterns are relative to what stands before the pattern: nothing is left out here
                Self { path, wildcard: false, include: None, exclude: Vec::new(), instruction, place }
            }
            include => Self { wildcard: has_wildcard(&path), path, include, exclude, instruction, place },
        }
    }

    /// The source of a bind mount.
    pub(super) fn of_mount(source: &str, place: Place) -> Self {
        Self { path: clean(source), wildcard: false, include: None, exclude: Vec::new(), instruction: "RUN --mount", place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, expected) in [(".", ""), ("/a//b/", "a/b"), ("../../x", "x"), ("a/../b/./c", "b/c"), ("", "")] {
            assert_eq!(clean(path), expected);
        }
    }
}
