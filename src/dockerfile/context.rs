//! What of a context a build can read, before anybody has looked at the files: paths, wildcards, and why all of it, where unsure.

use super::Span;
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
    /// Cleaned and relative to the context root, `""` for the root itself; `*`, `?` and `[…]` where `wildcard`.
    pub path: String,
    /// Whether the path is matched as a pattern (Go `filepath.Match`; with `--parents` `**` too).
    pub wildcard: bool,
    /// `--exclude` patterns of the instruction, expanded, as in `.dockerignore`, relative to the source's folder.
    pub exclude: Vec<String>,
    /// `--parents`: the folders above are copied too, and the exclude patterns are relative to the context root.
    pub parents: bool,
    /// `COPY`, `ADD` or `RUN --mount`, for messages.
    pub instruction: &'static str,
    /// The source as written.
    pub span: Span,
}
