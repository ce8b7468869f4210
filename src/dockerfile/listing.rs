//! Lists what of a context can be read, by Docker's rules: wildcards, `.dockerignore`, links resolved inside the root.

use super::ContextEntry;
use crate::stamp::Stamp;

/// What of a context counts, and all that the answer relies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What an instruction can read, sorted by path, each once.
    pub entries: Vec<ContextEntry>,
    /// Every folder whose listing was relied on, relative to the root (`""` is the root), sorted by path.
    pub folders: Vec<(String, Stamp)>,
    /// Every path on the way to an entry that decides where it leads without being an entry or such a folder, sorted by path.
    pub parents: Vec<(String, Stamp)>,
}
