//! Finding and reading build files on disk. Knows where they lie, not what they say.
//!
//! Folders whose name begins with `.`, `igraph-out`, and symbolic links to folders are not searched.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::dir::{Dir, Type};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};

use super::model::LoadedFile;
use super::tree::first_word;
use crate::problem::{Problem, Source};
use crate::stamp::Stamp;

/// The name of a build file.
pub const BUILD_FILE: &str = "BUILD.ron";

const OUTPUT_FOLDER: &str = "igraph-out";

/// No build file is larger, in bytes.
const LARGEST: u64 = 256 << 20;

/// The nearest folder at or above `start` whose build file is a `Workspace`. `start` is absolute.
///
/// # Errors
/// Where there is none, or a build file on the way can't be read.
pub fn find_root(start: &Path) -> Result<PathBuf, Vec<Problem>> {
    let mut nearest_package = None;
    for folder in start.ancestors() {
        let path = folder.join(BUILD_FILE);
        match read_file(&path, &path.display().to_string()) {
            Ok((_, source)) if first_word(&source) == Some("Workspace") => return Ok(folder.to_owned()),
            Ok(_) => {
                nearest_package.get_or_insert(path);
            }
            Err(ReadError::Missing) => {}
            Err(ReadError::Problem(problem)) => return Err(vec![problem]),
        }
    }
    let problem = Problem::new(format!(
        "no workspace here: neither `{}` nor a folder above it has a `{BUILD_FILE}` with a `Workspace(…)`",
        start.display()
    ));
    Err(vec![match nearest_package {
        Some(path) => problem.hint(format!(
            "`{}` is not one; write `Workspace()` into a `{BUILD_FILE}` in the folder that holds all packages",
            path.display()
        )),
        None => problem.hint(format!("write `Workspace()` into a `{BUILD_FILE}` in the folder that holds all packages")),
    }])
}

/// Why a build file can't be had.
pub enum ReadError {
    /// There is none.
    Missing,
    /// It is there.
    Problem(Problem),
}

/// Reads a build file that people know as `shown`, and its stamp before that.
pub fn read_file(path: &Path, shown: &str) -> Result<(Stamp, Arc<Source>), ReadError> {
    let fail = |error: &io::Error| ReadError::Problem(Problem::new(format!("can't read `{shown}`: {}", plain_error(error))));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Err(ReadError::Missing),
        Err(error) => return Err(fail(&error)),
    };
    let metadata = file.metadata().map_err(|error| fail(&error))?;
    if !metadata.is_file() {
        return Err(ReadError::Problem(Problem::new(format!("`{shown}` is not a regular file"))));
    }
    if metadata.len() > LARGEST {
        return Err(ReadError::Problem(Problem::new(format!("`{shown}` is larger than {} MiB", LARGEST >> 20))));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| fail(&error))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok((Stamp::of(&metadata), Arc::new(Source { path: shown.to_owned(), text }))),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let source = Arc::new(Source { path: shown.to_owned(), text });
            let end = source.text.ceil_char_boundary(at + 1);
            Err(ReadError::Problem(Problem::new("this is not UTF-8").at(&source, at..end).hint("save the file as UTF-8")))
        }
    }
}

/// An I/O error in lower case and without its number.
fn plain_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// What a search found.
#[derive(Default)]
pub struct Found {
    /// Build files, with the folder they lie in, sorted.
    pub packages: Vec<(Arc<str>, Arc<Source>)>,
    /// Everything that was listed or read, sorted.
    pub files: Vec<LoadedFile>,
    /// The symbolic links in the folders that were listed.
    pub links: Vec<Arc<str>>,
    /// What could not be.
    pub problems: Vec<Problem>,
}

/// Searches the folder `packages` of the workspace at `root`; `None` where there is no such folder. The root's own build file is no package.
pub fn find_packages(root: &Path, packages: &str) -> Option<Found> {
    if !root.join(packages).is_dir() {
        return None;
    }
    let found = Mutex::new(Found::default());
    rayon::scope(|scope| visit(scope, root, None, packages.into(), &found));
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.packages.sort_by(|a, b| a.0.cmp(&b.0));
    found.files.sort();
    Some(found)
}

/// Whether a folder that a search listed holds the same folders as then, the same build file or none, and no link: other files in it
/// are nobody's. `files` is what the search found.
pub fn lists_the_same(root: &Path, folder: &str, files: &[LoadedFile]) -> bool {
    let above = |path: &str| path.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
    let then: BTreeSet<&str> = files.iter().map(|file| &*file.path).filter(|path| !path.is_empty() && above(path) == folder).collect();
    let mut now = BTreeSet::new();
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return false };
    for entry in entries {
        let Ok((entry, kind)) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind))) else { return false };
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if kind.is_symlink() {
            return false;
        }
        if name == BUILD_FILE || (kind.is_dir() && !name.starts_with('.') && name != OUTPUT_FOLDER) {
            now.insert(below(folder, name));
        }
    }
    now.len() == then.len() && now.iter().all(|path| then.contains(&**path))
}

fn below(folder: &str, name: &str) -> Arc<str> {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}").into() }
}

/// A folder that is held open for what is looked up in it; `None` where that could not be done.
type Above = Option<Arc<OwnedFd>>;

fn visit<'s>(scope: &rayon::Scope<'s>, root: &'s Path, above: Above, folder: Arc<str>, found: &'s Mutex<Found>) {
    let mut here = Found::default();
    if let Err(error) = list(scope, root, above, &folder, found, &mut here) {
        here.problems.push(Problem::new(format!(
            "can't search `{}` for packages: {}",
            if folder.is_empty() { "." } else { &folder },
            plain_error(&error)
        )));
    }
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    found.packages.append(&mut here.packages);
    found.files.append(&mut here.files);
    found.links.append(&mut here.links);
    found.problems.append(&mut here.problems);
}

fn list<'s>(
    scope: &rayon::Scope<'s>,
    root: &'s Path,
    above: Above,
    folder: &Arc<str>,
    found: &'s Mutex<Found>,
    here: &mut Found,
) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let name = folder.rsplit('/').next().unwrap_or_default();
    let dir = match above {
        Some(above) => Dir::openat(above, name, flags, Mode::empty())?,
        None => Dir::open(&root.join(&**folder), flags, Mode::empty())?,
    };
    let stat = fstat(&dir)?;
    here.files.push(LoadedFile { path: folder.clone(), stamp: Stamp::of_stat(&stat) });
    // two links are of a folder that most likely holds no other; should it, that is found by its path
    let held: Above = if stat.st_nlink == 2 { None } else { dir.as_fd().try_clone_to_owned().ok().map(Arc::new) };
    for entry in dir {
        let entry = entry?;
        // a name that is no UTF-8 can be no package's, nor lead to one
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        let kind = match entry.file_type() {
            Some(kind) => kind,
            None => kind_of(&root.join(&*below(folder, name)))?,
        };
        if kind == Type::Symlink {
            here.links.push(below(folder, name));
        }
        if name == BUILD_FILE {
            if !folder.is_empty() {
                read_here(&root.join(&*below(folder, name)), folder, here);
            }
        } else if !name.starts_with('.') && name != OUTPUT_FOLDER && kind == Type::Directory {
            let (folder, above) = (below(folder, name), held.clone());
            scope.spawn(move |scope| visit(scope, root, above, folder, found));
        }
    }
    Ok(())
}

/// The type of a file where a listing does not tell it.
fn kind_of(path: &Path) -> io::Result<Type> {
    let stamp = Stamp::of(&fs::symlink_metadata(path)?);
    Ok(match () {
        () if stamp.is_dir() => Type::Directory,
        () if stamp.is_symlink() => Type::Symlink,
        () => Type::File,
    })
}

fn read_here(path: &Path, folder: &Arc<str>, here: &mut Found) {
    let shown = below(folder, BUILD_FILE);
    match read_file(path, &shown) {
        Ok((stamp, source)) => {
            here.files.push(LoadedFile { path: shown, stamp });
            here.packages.push((folder.clone(), source));
        }
        // removed since it was listed, or a link to nowhere
        Err(ReadError::Missing) => here.problems.push(Problem::new(format!("can't read `{shown}`: no such file"))),
        Err(ReadError::Problem(problem)) => here.problems.push(problem),
    }
}
