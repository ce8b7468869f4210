//! The merged view of stacked layers, read past the kernel: what overlayfs would show, without a mount. Knows no image and no tar.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::engine::embedded::files;

/// How many links may be followed on the way to one path.
const MOST_LINKS: usize = 255;

/// Folders stacked on each other, top first.
#[derive(Clone, Debug)]
pub(in crate::engine::embedded) struct View {
    layers: Vec<PathBuf>,
}

/// Something in a view.
#[derive(Clone, Debug)]
pub(in crate::engine::embedded) struct Spot {
    /// Where its topmost form lies.
    pub path: PathBuf,
    /// The stat of that.
    pub metadata: Metadata,
    /// For a directory: all that make it up, top first.
    folders: Vec<PathBuf>,
}

impl Spot {
    pub fn is_folder(&self) -> bool {
        self.metadata.is_dir()
    }
}

/// A path without links, and what is there.
#[derive(Clone, Debug)]
pub(in crate::engine::embedded) struct Located {
    /// From the root, without leading slash; empty for the root.
    pub path: PathBuf,
    /// `None` where the last part, or what is above it, does not exist.
    pub spot: Option<Spot>,
}

impl View {
    /// Of folders, top first; with none at all it is an empty root.
    pub fn new(layers: Vec<PathBuf>) -> Self {
        Self { layers }
    }

    /// The same with one more on top.
    pub fn below(&self, top: &Path) -> Self {
        let mut layers = vec![top.to_owned()];
        layers.extend(self.layers.iter().cloned());
        Self { layers }
    }

    /// The root; `None` where there is no layer.
    pub fn root(&self) -> io::Result<Option<Spot>> {
        match self.layers.first() {
            None => Ok(None),
            Some(path) => Ok(Some(Spot { path: path.clone(), metadata: path.symlink_metadata()?, folders: self.layers.clone() })),
        }
    }

    /// What `name` is in a folder of a view.
    pub fn child(folder: &Spot, name: &OsStr) -> io::Result<Option<Spot>> {
        let mut found: Option<Spot> = None;
        for layer in &folder.folders {
            let path = layer.join(name);
            let Some(metadata) = files::stat(&path)? else { continue };
            if files::is_whiteout(&path, &metadata)? {
                break;
            }
            match &mut found {
                Some(spot) if metadata.is_dir() => spot.folders.push(path.clone()),
                Some(_) => break,
                None => {
                    let folders = if metadata.is_dir() { vec![path.clone()] } else { Vec::new() };
                    let is_folder = metadata.is_dir();
                    found = Some(Spot { path: path.clone(), metadata, folders });
                    if !is_folder {
                        break;
                    }
                }
            }
            if folder.folders.len() > 1 && files::is_opaque(&path)? {
                break;
            }
        }
        Ok(found)
    }

    /// Names in a folder of a view, sorted by bytes.
    pub fn names(folder: &Spot) -> io::Result<Vec<OsString>> {
        if let [only] = &folder.folders[..] {
            let mut names = files::names(only)?;
            let mut problem = None;
            let hidden = |path: PathBuf| files::is_whiteout(&path, &path.symlink_metadata()?);
            names.retain(|name| match hidden(only.join(name)) {
                Ok(hidden) => !hidden,
                Err(error) => {
                    problem = Some(error);
                    false
                }
            });
            return problem.map_or(Ok(names), Err);
        }
        let mut all = std::collections::BTreeMap::new();
        for layer in &folder.folders {
            for name in files::names(layer)? {
                let path = layer.join(&name);
                let hidden = files::is_whiteout(&path, &path.symlink_metadata()?)?;
                all.entry(name.into_vec()).or_insert(!hidden);
            }
        }
        Ok(all.into_iter().filter(|(_, shown)| *shown).map(|(name, _)| OsString::from_vec(name)).collect())
    }

    /// Follows `path` from the root, links inside the root; the last part too where `follow`. What does not exist is taken as
    /// written.
    pub fn locate(&self, path: &Path, follow: bool) -> io::Result<Located> {
        let Some(root) = self.root()? else { return Ok(Located { path: clean(path), spot: None }) };
        let child = |folder: &Spot, name: &OsStr| if folder.is_folder() { Self::child(folder, name) } else { Ok(None) };
        let link = |spot: &Spot| spot.metadata.is_symlink().then(|| std::fs::read_link(&spot.path)).transpose();
        let (path, spot) = walk(root, path, follow, child, link)?;
        Ok(Located { path, spot })
    }

    /// The bytes of a file at `path`, links followed; `None` where there is none.
    pub fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match self.locate(Path::new(path), true)?.spot {
            Some(spot) if spot.metadata.is_file() => std::fs::read(&spot.path).map(Some),
            _ => Ok(None),
        }
    }
}

/// Follows a path through any tree: `child` finds a name in a folder, `link` says where a link leads.
pub(in crate::engine::embedded) fn walk<N>(
    root: N,
    path: &Path,
    follow: bool,
    child: impl Fn(&N, &OsStr) -> io::Result<Option<N>>,
    link: impl Fn(&N) -> io::Result<Option<PathBuf>>,
) -> io::Result<(PathBuf, Option<N>)> {
    let mut pending = parts(path.as_os_str());
    let mut current = PathBuf::new();
    let mut stack = vec![root];
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == ".." {
            if current.pop() && stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let Some(folder) = stack.last() else { break };
        let Some(node) = child(folder, &part)? else {
            // nothing there: the rest can't hold links
            current.push(&part);
            while let Some(part) = pending.pop() {
                if part == ".." {
                    current.pop();
                } else {
                    current.push(part);
                }
            }
            return Ok((current, None));
        };
        if (follow || !pending.is_empty())
            && let Some(target) = link(&node)?
        {
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::other(format!("too many links on the way to `{}`", path.display())));
            }
            if target.is_absolute() {
                current = PathBuf::new();
                stack.truncate(1);
            }
            pending.extend(parts(target.as_os_str()));
            continue;
        }
        current.push(part);
        stack.push(node);
    }
    Ok((current, stack.pop()))
}

/// The parts of a path, last first.
fn parts(path: &OsStr) -> Vec<OsString> {
    let parts = path.as_bytes().split(|byte| *byte == b'/').rev();
    parts.filter(|part| !part.is_empty() && *part != b".").map(|part| OsStr::from_bytes(part).to_owned()).collect()
}

/// A path as seen from the root, without `.`, `..`, and outer slashes.
pub(in crate::engine::embedded) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in parts(path.as_os_str()).into_iter().rev() {
        if part == ".." {
            cleaned.pop();
        } else {
            cleaned.push(part);
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn layers_merge_as_overlayfs_does() {
        let folder = tempfile::tempdir().unwrap();
        let (low, top) = (folder.path().join("low"), folder.path().join("top"));
        fs::create_dir_all(low.join("d/e")).unwrap();
        fs::write(low.join("d/a"), "low").unwrap();
        fs::write(low.join("f"), "low").unwrap();
        std::os::unix::fs::symlink("/d", low.join("l")).unwrap();
        std::os::unix::fs::symlink("../../../l/e", low.join("d/up")).unwrap();
        std::os::unix::fs::symlink("loop", low.join("loop")).unwrap();
        fs::create_dir_all(top.join("d")).unwrap();
        fs::write(top.join("d/b"), "top").unwrap();
        let view = View::new(vec![top.clone(), low]);
        let located = view.locate(Path::new("/l/a"), true).unwrap();
        assert_eq!((located.path, located.spot.is_some()), ("d/a".into(), true));
        assert_eq!(view.locate(Path::new("d/up"), true).unwrap().path, Path::new("d/e"));
        assert_eq!(view.locate(Path::new("d/up"), false).unwrap().path, Path::new("d/up"));
        let missing = view.locate(Path::new("l/new/../../../x/y"), true).unwrap();
        assert_eq!((missing.path, missing.spot.is_none()), ("x/y".into(), true));
        assert!(view.locate(Path::new("loop"), true).is_err());
        let d = view.locate(Path::new("d"), true).unwrap().spot.unwrap();
        assert_eq!(View::names(&d).unwrap(), ["a", "b", "e", "up"]);
        if files::make_whiteout(&top.join("f")).is_ok() {
            assert!(view.locate(Path::new("f"), true).unwrap().spot.is_none());
            files::set_opaque(&top.join("d")).unwrap();
            let d = view.locate(Path::new("d"), true).unwrap().spot.unwrap();
            assert_eq!(View::names(&d).unwrap(), ["b"]);
        }
    }
}
