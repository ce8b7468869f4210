//! Paths of build files: relative to the package's folder, never out of the workspace, not even through a symbolic
//! link. Knows no field, and does not mind what is missing: that is told by who reads it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::model::Glob;

/// Why a path can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No text.
    #[error("a path is not empty")]
    Empty,
    /// Begins with `/`.
    #[error("`{path}` is absolute; a path is relative to the package's folder")]
    Absolute { path: String },
    /// More `..` than folders.
    #[error("`{path}` leaves the workspace")]
    Leaves { path: String },
    /// A link on the way points out of it.
    #[error("`{path}` leaves the workspace: `{link}` is a symbolic link to `{target}`")]
    LinkLeaves { path: String, link: String, target: String },
    /// Links that point at each other.
    #[error("`{path}` can't be followed: `{link}` is a symbolic link in a loop")]
    Loop { path: String, link: String },
    /// A NUL.
    #[error("a path has no NUL character")]
    Nul,
}

impl PathError {
    /// The same, said of the whole text that `path` is a part of.
    fn of(self, text: &str) -> Self {
        let path = text.to_owned();
        match self {
            Self::Leaves { .. } => Self::Leaves { path },
            Self::LinkLeaves { link, target, .. } => Self::LinkLeaves { path, link, target },
            Self::Loop { link, .. } => Self::Loop { path, link },
            Self::Empty | Self::Absolute { .. } | Self::Nul => self,
        }
    }
}

/// Joins `text` to `folder`, both `/`-separated, and takes `.`, `..` and empty segments out.
///
/// # Errors
/// Where the text is empty, absolute, or leaves the workspace.
pub fn join(folder: &str, text: &str) -> Result<Arc<str>, PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if text.starts_with('/') {
        return Err(PathError::Absolute { path: text.to_owned() });
    }
    if text.contains('\0') {
        return Err(PathError::Nul);
    }
    let mut path = folder.to_owned();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." if path.is_empty() => return Err(PathError::Leaves { path: text.to_owned() }),
            ".." => path.truncate(path.rfind('/').unwrap_or(0)),
            _ => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(segment);
            }
        }
    }
    Ok(path.into())
}

/// The folder that `path` lies in; of the root: the root.
pub fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

#[derive(Clone)]
enum Verdict {
    Inside,
    Leaves { link: String, target: String },
    Loop { link: String },
}

/// The workspace's folder and what is known of links in it.
pub struct Paths {
    root: PathBuf,
    real_root: PathBuf,
    seen: Mutex<HashMap<Box<str>, Verdict>>,
    listed: HashSet<Arc<str>>,
    links: HashSet<Arc<str>>,
}

impl Paths {
    /// Of the workspace at `root`.
    ///
    /// # Errors
    /// Where the root can't be found.
    pub fn new(root: &Path) -> io::Result<Self> {
        let real_root = root.canonicalize()?;
        Ok(Self { root: root.to_owned(), real_root, seen: Mutex::default(), listed: HashSet::new(), links: HashSet::new() })
    }

    /// Takes over what a search for packages saw, so that most paths need no look at the disk: all links in the folders
    /// `listed`, none of which was reached through a link.
    pub fn learn(&mut self, listed: impl IntoIterator<Item = Arc<str>>, links: impl IntoIterator<Item = Arc<str>>) {
        self.listed.extend(listed);
        self.links.extend(links);
    }

    /// Joins `text` to `folder` and follows the links on the way; the result is relative to the workspace.
    ///
    /// # Errors
    /// As [`join`], and where a link leaves the workspace or runs in a loop.
    pub fn resolve(&self, folder: &str, text: &str) -> Result<Arc<str>, PathError> {
        let path = join(folder, text)?;
        self.follow(&path, text)?;
        Ok(path)
    }

    /// As [`Self::resolve`], of a pattern.
    ///
    /// # Errors
    /// As there, of the part without wildcards.
    pub fn resolve_glob(&self, folder: &str, text: &str) -> Result<Glob, PathError> {
        let literal = text.find(['*', '?', '[']).unwrap_or(text.len());
        let (start, pattern) = match text[..literal].rfind('/') {
            Some(at) if literal < text.len() => (&text[..at], &text[at + 1..]),
            None if literal < text.len() => (".", text),
            _ => {
                let path = self.resolve(folder, text)?;
                let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("**");
                return Ok(Glob { folder: parent(&path).into(), pattern: name.into() });
            }
        };
        if text.starts_with('/') {
            return Err(PathError::Absolute { path: text.to_owned() });
        }
        if pattern.split('/').any(|segment| segment == "..") {
            return Err(PathError::Leaves { path: text.to_owned() });
        }
        let folder = self.resolve(folder, start).map_err(|error| error.of(text))?;
        Ok(Glob { folder, pattern: pattern.into() })
    }

    /// Whether a file lies at a path relative to the workspace, or an absolute one.
    pub fn is_file(&self, path: &Path) -> bool {
        self.root.join(path).is_file()
    }

    fn follow(&self, path: &str, written: &str) -> Result<(), PathError> {
        match self.verdict(path) {
            Verdict::Inside => Ok(()),
            Verdict::Leaves { link, target } => Err(PathError::LinkLeaves { path: written.to_owned(), link, target }),
            Verdict::Loop { link } => Err(PathError::Loop { path: written.to_owned(), link }),
        }
    }

    fn verdict(&self, path: &str) -> Verdict {
        if path.is_empty() || (self.listed.contains(parent(path)) && !self.links.contains(path)) {
            return Verdict::Inside;
        }
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(verdict) = known {
            return verdict;
        }
        let verdict = match self.verdict(parent(path)) {
            Verdict::Inside => self.look(path),
            outside => outside,
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(path.into(), verdict.clone());
        verdict
    }

    /// Of a path whose folder is inside.
    fn look(&self, path: &str) -> Verdict {
        let full = self.root.join(path);
        if !full.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return Verdict::Inside;
        }
        match full.canonicalize() {
            Ok(real) if real.starts_with(&self.real_root) => Verdict::Inside,
            Ok(_) => {
                let target = full.read_link().map(|target| target.display().to_string()).unwrap_or_default();
                Verdict::Leaves { link: path.to_owned(), target }
            }
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Verdict::Loop { link: path.to_owned() },
            // dangling: missing like any other file
            Err(_) => Verdict::Inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn joins_lexically() {
        for (folder, text, expected) in [
            ("images/a", "Dockerfile", "images/a/Dockerfile"),
            ("images/a", "./x//y/", "images/a/x/y"),
            ("images/a", "../../z", "z"),
            ("images/a", "../..", ""),
            ("", ".", ""),
        ] {
            assert_eq!(&*join(folder, text).unwrap(), expected);
        }
        assert!(matches!(join("a", "../../b"), Err(PathError::Leaves { .. })));
        assert!(matches!(join("a", "/b"), Err(PathError::Absolute { .. })));
        assert_eq!(join("a", ""), Err(PathError::Empty));
    }

    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("w");
        std::fs::create_dir_all(root.join("in/side")).unwrap();
        symlink("in/side", root.join("good")).unwrap();
        symlink("..", root.join("out")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        let paths = Paths::new(&root).unwrap();
        assert!(paths.resolve("", "good/x").is_ok());
        assert!(paths.resolve("", "dangling").is_ok());
        assert!(paths.resolve("in", "missing/x").is_ok());
        for _ in 0..2 {
            let error = paths.resolve("in", "../out/x").unwrap_err();
            assert_eq!(error.to_string(), "`../out/x` leaves the workspace: `out` is a symbolic link to `..`");
        }
        assert_eq!(paths.resolve("", "loop/x").unwrap_err().to_string(), "`loop/x` can't be followed: `loop` is a symbolic link in a loop");
    }

    #[test]
    fn globs_split_before_the_first_wildcard() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path()).unwrap();
        for (text, expected) in [
            ("*.sh", ("p", "*.sh")),
            ("../shared/**/x", ("shared", "**/x")),
            ("a/b", ("p/a", "b")),
            ("..", ("", "**")),
            ("a/x?.d/b", ("p/a", "x?.d/b")),
        ] {
            let glob = paths.resolve_glob("p", text).unwrap();
            assert_eq!((&*glob.folder, &*glob.pattern), expected, "{text}");
        }
        assert!(paths.resolve_glob("p", "*/../../x").is_err());
        assert!(paths.resolve_glob("p", "/*").is_err());
        assert!(paths.resolve_glob("p", "../../*").is_err());
    }
}
