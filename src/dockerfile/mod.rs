//! The Dockerfile language: parse, expand, stages, context inputs, `.dockerignore`. Knows no graph, key or engine.

use crate::stamp::Stamp;

/// A parsed Dockerfile.
pub struct Dockerfile {}

/// A Dockerfile resolved for one target, one set of arguments, one platform.
pub struct Resolved {}

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
