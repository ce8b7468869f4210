//! The files that count for a node: listed by the Dockerfile room, digested through the cache. Remembers every stat
//! that the answer relies on, so that a later run can tell that nothing moved.

use std::path::Path;

use super::files::FileDigests;
use crate::component::Component;
use crate::dockerfile::{self, ContextInput, ContextSource, ContextUse, EntryKind, Ignore};
use crate::problem::{Place, Problem};
use crate::spec::Glob;
use crate::stamp::Stamp;

/// A path relative to the workspace root that an answer relies on: its stat, or that it is not there.
pub type Watched = (String, Option<Stamp>);

/// The digested inputs of a node.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Context entries, sorted by path.
    pub context: Vec<ContextInput>,
    /// All that was looked at.
    pub watched: Vec<Watched>,
}

/// Joins workspace-relative paths; either may be empty.
pub(super) fn join(folder: &str, path: &str) -> String {
    match (folder.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => folder.to_owned(),
        _ => format!("{folder}/{path}"),
    }
}

fn stat(root: &Path, path: &str) -> Watched {
    (path.to_owned(), std::fs::symlink_metadata(root.join(path)).ok().map(|metadata| Stamp::of(&metadata)))
}

/// Lists and digests what of the context `folder` (relative to `root`) counts for the Dockerfile at `dockerfile`; without one,
/// nothing is ignored.
///
/// # Errors
/// What of it is missing, unreadable or no file.
pub(super) fn context(root: &Path, folder: &str, dockerfile: &str, uses: &ContextUse, digests: &FileDigests) -> Result<Inputs, Vec<Problem>> {
    if uses.is_empty() {
        return Ok(Inputs::default());
    }
    let mut watched = Vec::new();
    let mut ignore = Ignore::empty();
    let candidates = if dockerfile.is_empty() { Vec::new() } else { vec![format!("{dockerfile}.dockerignore"), join(folder, ".dockerignore")] };
    for candidate in candidates {
        let seen = stat(root, &candidate);
        let there = seen.1.is_some();
        watched.push(seen);
        if there {
            let text = std::fs::read(root.join(&candidate)).map_err(|error| vec![Problem::new(format!("`{candidate}` can't be read: {error}"))])?;
            ignore = Ignore::parse(&String::from_utf8_lossy(&text)).map_err(|error| vec![Problem::new(format!("`{candidate}`: {error}"))])?;
            break;
        }
    }
    let context_root = root.join(folder);
    let listing = dockerfile::list_context(&context_root, uses, &ignore)?;
    let context = digests.digest(&context_root, &listing.entries)?;
    watched.extend(listing.entries.iter().map(|entry| (join(folder, &entry.path), Some(entry.stamp))));
    watched.extend(listing.folders.iter().chain(&listing.parents).map(|(path, stamp)| (join(folder, path), Some(*stamp))));
    Ok(Inputs { context, watched })
}

/// Lists and digests what the patterns of a build file match; `place` is where they are written.
///
/// # Errors
/// A pattern that matches nothing, and what can't be read.
pub(super) fn globs(root: &Path, globs: &[Glob], place: &Place, digests: &FileDigests) -> Result<Inputs, Vec<Problem>> {
    let sources = globs.iter().map(|glob| ContextSource {
        path: join(&glob.folder, &glob.pattern),
        wildcard: glob.pattern.contains(['*', '?', '[']),
        exclude: Vec::new(),
        parents: true,
        instruction: "inputs",
        span: 0..0,
    });
    let uses = ContextUse { sources: sources.collect(), whole: None };
    context(root, "", "", &uses, digests).map_err(|problems| {
        problems.into_iter().map(|problem| Problem { places: vec![place.clone()], ..problem }).collect()
    })
}

/// A file, or all below a folder; absolute, or relative to `root`.
///
/// # Errors
/// What can't be read.
pub(super) fn tree(root: &Path, path: &str, digests: &FileDigests) -> Result<Inputs, Vec<Problem>> {
    if root.join(path).is_dir() {
        let whole = ContextUse { sources: Vec::new(), whole: Some("all of it counts".to_owned()) };
        return context(root, path, "", &whole, digests);
    }
    let (folder, name) = match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(split) => split,
        None => ("", path),
    };
    let source = ContextSource { path: name.to_owned(), wildcard: false, exclude: Vec::new(), parents: false, instruction: "base", span: 0..0 };
    context(root, folder, "", &ContextUse { sources: vec![source], whole: None }, digests)
}

/// One component for each input: like `file node/start.sh` = `755 <blake3>`.
pub(super) fn components(prefix: &str, inputs: &[ContextInput]) -> impl Iterator<Item = Component> {
    inputs.iter().map(move |input| {
        let value = match (&input.entry.kind, input.content) {
            (EntryKind::File { executable }, Some(content)) => {
                format!("{} {}", if *executable { "755" } else { "644" }, blake3::Hash::from_bytes(content).to_hex())
            }
            (EntryKind::File { .. }, None) | (EntryKind::Folder, _) => "folder".to_owned(),
            (EntryKind::Link { target }, _) => format!("link {target}"),
        };
        Component::new(format!("{prefix} {}", input.entry.path), value)
    })
}
