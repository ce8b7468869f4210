//! The files that count for a node: listed by the Dockerfile room, digested through the cache. Remembers every stat
//! that the answer relies on, so that a later run can tell that nothing moved.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::FileDigests;
use crate::component::Component;
use crate::dockerfile::{self, ContextInput, ContextSource, ContextUse, EntryKind, Ignore, Listing};
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
    /// All that was looked at.
    pub watched: Arc<[Watched]>,
}

/// Inputs that several nodes have in common, looked at once: thousands of images may be tested by one Dockerfile. Holds for one
/// look at everything, and not longer.
#[derive(Default)]
pub struct Shared(Mutex<HashMap<Asked, Vec<(ContextUse, Inputs)>>>);

/// A context's folder, and the Dockerfile it is of.
type Asked = (String, String);

impl Shared {
    /// As [`context`], by its answer to the same question where there is one.
    pub(super) fn context(
        &self,
        root: &Path,
        folder: &str,
        dockerfile: &str,
        uses: &ContextUse,
        digests: &FileDigests,
    ) -> Result<Inputs, Vec<Problem>> {
        let asked = (folder.to_owned(), dockerfile.to_owned());
        let known = || {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&asked)?.iter().find(|(other, _)| other == uses).map(|(_, inputs)| inputs.clone())
        };
        if let Some(inputs) = known() {
            return Ok(inputs);
        }
        let inputs = context(root, folder, Some(dockerfile), uses, digests)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(asked).or_default().push((uses.clone(), inputs.clone()));
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

/// Lists and digests what of the context `folder` (relative to `root`) counts for the Dockerfile at `dockerfile`; without one,
/// nothing is ignored.
///
/// # Errors
/// What of it is missing, unreadable or no file.
pub(super) fn context(
    root: &Path,
    folder: &str,
    dockerfile: Option<&str>,
    uses: &ContextUse,
    digests: &FileDigests,
) -> Result<Inputs, Vec<Problem>> {
    if uses.is_empty() {
        return Ok(Inputs::default());
    }
    let context_root = root.join(folder);
    let listing = list(root, folder, dockerfile, uses)?;
    let context = digests.digest(&context_root, folder, &listing.entries)?;
    // an ignore file may lie beside a Dockerfile that is outside of the context; then its path is whole
    let shown = |path: &str| match Path::new(path).strip_prefix(root) {
        Ok(inside) => inside.to_string_lossy().into_owned(),
        Err(_) if path.starts_with('/') => path.to_owned(),
        Err(_) => join(folder, path),
    };
    let mut watched: Vec<Watched> = context.iter().map(|input| (join(folder, &input.entry.path), Some(input.entry.stamp))).collect();
    watched.extend(listing.folders.iter().chain(&listing.ignore_file).map(|(path, stamp)| (shown(path), Some(*stamp))));
    watched.extend(listing.missing.iter().map(|path| (shown(path), None)));
    Ok(Inputs { context: context.into(), watched: watched.into() })
}

/// Lists what of the context `folder` counts for the Dockerfile at `dockerfile`, without reading it.
///
/// # Errors
/// What of it is missing or no file.
pub(super) fn list(root: &Path, folder: &str, dockerfile: Option<&str>, uses: &ContextUse) -> Result<Listing, Vec<Problem>> {
    let context_root = root.join(folder);
    let ignore = match dockerfile {
        Some(path) => Ignore::load(&context_root, &root.join(path)).map_err(|problem| vec![problem.below(folder)])?,
        None => Ignore::empty(),
    };
    dockerfile::list_context(&context_root, uses, &ignore)
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
    context(root, "", None, &ContextUse { sources: globs.iter().map(source).collect(), whole: None }, digests)
}

/// A file, or all below a folder; absolute, or relative to `root`.
///
/// # Errors
/// What can't be read.
pub(super) fn tree(root: &Path, path: &str, place: &Place, digests: &FileDigests) -> Result<Inputs, Vec<Problem>> {
    if root.join(path).is_dir() {
        let whole = ContextUse { sources: Vec::new(), whole: Some("all of it counts".to_owned()) };
        return context(root, path, None, &whole, digests);
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
    context(root, folder, None, &ContextUse { sources: vec![source], whole: None }, digests)
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
