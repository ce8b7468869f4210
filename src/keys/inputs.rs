//! The files that count for a node: listed by the Dockerfile room, digested through the cache. Remembers every stat
//! that the answer relies on, so that a later run can tell that nothing moved.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::FileDigests;
use crate::component::Component;
use crate::dockerfile::{self, ContextInput, ContextSource, ContextUse, EntryKind, Ignore, Listing};
use crate::folder::Folder;
use crate::problem::{Place, Problem};
use crate::spec::Glob;
use crate::stamp::Stamp;

/// A path relative to the workspace root that an answer relies on: its stat, or that it is not there.
pub type Watched = (String, Option<Stamp>);

/// The digested inputs of a node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Context entries, sorted by path.
    pub context: Arc<[ContextInput]>,
    /// The context's folder.
    folder: Arc<str>,
    /// What else was looked at: folders, ignore files.
    besides: Arc<[Watched]>,
}

impl Inputs {
    /// All that was looked at.
    pub fn watched(&self) -> impl Iterator<Item = Watched> {
        let entries = self.context.iter().map(|input| (join(&self.folder, &input.entry.path), Some(input.entry.stamp)));
        entries.chain(self.besides.iter().cloned())
    }
}

/// Inputs that several nodes have in common, looked at once: thousands of images may be tested by one Dockerfile. Holds for one
/// look at everything, and not longer.
#[derive(Default)]
pub struct Shared(Mutex<HashMap<String, Vec<Answer>>>);

/// A context's folder, what is read of it, and what that came to: by the Dockerfile.
type Answer = (String, ContextUse, Inputs);

impl Shared {
    /// The answer to the same question, where there is one.
    pub(super) fn known(&self, folder: &str, dockerfile: &str, uses: &ContextUse) -> Option<Inputs> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(dockerfile)?.iter().find(|(other, used, _)| other == folder && used == uses).map(|(.., inputs)| inputs.clone())
    }

    /// As [`context`], and kept.
    pub(super) fn context(
        &self,
        root: &Path,
        (folder, opened): (&str, &Folder),
        dockerfile: &str,
        uses: &ContextUse,
        digests: &FileDigests,
    ) -> Result<Inputs, Vec<Problem>> {
        let inputs = context(root, (folder, opened), Some(dockerfile), uses, digests)?;
        let answer = (folder.to_owned(), uses.clone(), inputs.clone());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(dockerfile.to_owned()).or_default().push(answer);
        Ok(inputs)
    }

    /// Forgets everything: the disk may have changed.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Joins workspace-relative paths; either may be empty.
pub(super) fn join(folder: &str, path: &str) -> String {
    match (folder.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => folder.to_owned(),
        _ => format!("{folder}/{path}"),
    }
}

/// Lists and digests what of the context `folder` (relative to `root`, and open) counts for the Dockerfile at `dockerfile`; without one,
/// nothing is ignored.
///
/// # Errors
/// What of it is missing, unreadable or no file.
pub(super) fn context(
    root: &Path,
    (folder, opened): (&str, &Folder),
    dockerfile: Option<&str>,
    uses: &ContextUse,
    digests: &FileDigests,
) -> Result<Inputs, Vec<Problem>> {
    if uses.is_empty() {
        return Ok(Inputs::default());
    }
    let listing = list(root, (folder, opened), dockerfile, uses)?;
    let context = digests.digest(opened, folder, listing.entries)?;
    // an ignore file may lie beside a Dockerfile that is outside of the context; then its path is whole
    let shown = |path: &str| match Path::new(path).strip_prefix(root) {
        Ok(inside) => inside.to_string_lossy().into_owned(),
        Err(_) if path.starts_with('/') => path.to_owned(),
        Err(_) => join(folder, path),
    };
    let there = listing.folders.iter().chain(&listing.ignore_file).map(|(path, stamp)| (shown(path), Some(*stamp)));
    let besides = there.chain(listing.missing.iter().map(|path| (shown(path), None))).collect();
    Ok(Inputs { context: context.into(), folder: folder.into(), besides })
}

/// Lists what of the context `folder` counts for the Dockerfile at `dockerfile`, without reading it.
///
/// # Errors
/// What of it is missing or no file.
pub(super) fn list(
    root: &Path,
    (folder, opened): (&str, &Folder),
    dockerfile: Option<&str>,
    uses: &ContextUse,
) -> Result<Listing, Vec<Problem>> {
    let ignore = match dockerfile {
        Some(path) => Ignore::load(opened, &root.join(path)).map_err(|problem| vec![problem.below(folder)])?,
        None => Ignore::empty(),
    };
    dockerfile::list_context(opened, uses, &ignore)
}

/// Lists and digests what the patterns of a build file match; `place` is where they are written.
///
/// # Errors
/// A pattern that matches nothing, and what can't be read.
pub(super) fn globs(root: &Path, globs: &[Glob], place: &Place, digests: &FileDigests) -> Result<Inputs, Vec<Problem>> {
    let source = |glob: &Glob| {
        let wild = glob.pattern.contains(['*', '?', '[']);
        ContextSource {
            path: if wild { glob.folder.to_string() } else { join(&glob.folder, &glob.pattern) },
            wildcard: false,
            include: wild.then(|| glob.pattern.to_string()),
            exclude: Vec::new(),
            instruction: "inputs",
            place: place.clone(),
        }
    };
    context(root, ("", &Folder::open(root)), None, &ContextUse { sources: globs.iter().map(source).collect(), whole: None }, digests)
}

/// A file, or all below a folder; absolute, or relative to `root`.
///
/// # Errors
/// What can't be read.
pub(super) fn tree(root: &Path, path: &str, place: &Place, digests: &FileDigests) -> Result<Inputs, Vec<Problem>> {
    if root.join(path).is_dir() {
        let whole = ContextUse { sources: Vec::new(), whole: Some("all of it counts".to_owned()) };
        return context(root, (path, &Folder::open(root.join(path))), None, &whole, digests);
    }
    let (folder, name) = match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(split) => split,
        None => ("", path),
    };
    let source = ContextSource {
        path: name.to_owned(),
        wildcard: false,
        include: None,
        exclude: Vec::new(),
        instruction: "base",
        place: place.clone(),
    };
    let opened = Folder::open(root.join(folder));
    context(root, (folder, &opened), None, &ContextUse { sources: vec![source], whole: None }, digests)
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
