//! A root without overlayfs: a copy of the merged layers to run in, and afterwards what became different of it, laid out as overlayfs
//! would have left its upper folder. Nothing is shared with the layers: what a step writes must never reach them. Knows no store.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use super::view::{Spot, View};
use crate::engine::embedded::files;

/// Folders that a sandbox fills by itself: their content is not copied, and what becomes of it is no change.
pub(in crate::engine::embedded) const OWN: [&str; 3] = ["dev", "proc", "sys"];

/// Which file was at a path, and when its inode last changed: no program can set that time.
type Mark = (u64, i64, i64);

/// A copy, as it was before anything ran in it.
pub(in crate::engine::embedded) struct Copied {
    root: PathBuf,
    marks: HashMap<PathBuf, Mark>,
}

fn mark(metadata: &Metadata) -> Mark {
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

/// Copies all that `view` shows to the folder `root`, which exists and is empty.
///
/// # Errors
/// Of the disk.
pub(in crate::engine::embedded) fn copy(view: &View, root: &Path) -> io::Result<()> {
    let Some(spot) = view.root()? else { return Ok(()) };
    copy_tree(&spot, root, Path::new(""))
}

/// Copies what a path of `view` leads to, to `to`, which does not exist; `false` where there is nothing.
///
/// # Errors
/// Of the disk.
pub(in crate::engine::embedded) fn copy_path(view: &View, path: &Path, to: &Path) -> io::Result<bool> {
    let Some(spot) = view.locate(path, true)?.spot else { return Ok(false) };
    if spot.is_folder() {
        std::fs::create_dir(to)?;
        // below a root, the names of its own folders mean nothing
        copy_tree(&spot, to, Path::new("/"))?;
    } else {
        copy_leaf(&spot.path, &spot.metadata, to)?;
    }
    Ok(true)
}

/// So many files are copied at once, at the most: what is known of them waits in memory.
const AT_ONCE: usize = 4096;

/// What a walk finds, and does in an order in which folders keep their times.
#[derive(Default)]
struct Copying {
    /// Files, on their way to where they are copied: by several threads.
    leaves: Vec<(Spot, PathBuf)>,
    /// First path of each file with several names, and the others.
    first: HashMap<(u64, u64), PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    /// Folders, inner after outer.
    folders: Vec<(Spot, PathBuf)>,
}

fn copy_tree(folder: &Spot, to: &Path, relative: &Path) -> io::Result<()> {
    let mut copying = Copying::default();
    copying.walk(folder, to, relative)?;
    copying.copy_leaves()?;
    for (first, to) in &copying.links {
        std::fs::hard_link(first, to)?;
    }
    copying.folders.iter().rev().try_for_each(|(spot, to)| files::copy_folder_metadata(to, &spot.metadata, &spot.path))
}

impl Copying {
    fn walk(&mut self, folder: &Spot, to: &Path, relative: &Path) -> io::Result<()> {
        self.folders.push((folder.clone(), to.to_owned()));
        if OWN.iter().any(|own| relative == Path::new(own)) {
            return Ok(());
        }
        for name in View::names(folder)? {
            let Some(spot) = View::child(folder, &name)? else { continue };
            let to = to.join(&name);
            if spot.is_folder() {
                std::fs::create_dir(&to)?;
                self.walk(&spot, &to, &relative.join(&name))?;
                continue;
            }
            if spot.metadata.nlink() > 1 {
                let inode = (spot.metadata.dev(), spot.metadata.ino());
                if let Some(first) = self.first.get(&inode) {
                    self.links.push((first.clone(), to));
                    continue;
                }
                self.first.insert(inode, to.clone());
            }
            self.leaves.push((spot, to));
            if self.leaves.len() == AT_ONCE {
                self.copy_leaves()?;
            }
        }
        Ok(())
    }

    fn copy_leaves(&mut self) -> io::Result<()> {
        let leaves = std::mem::take(&mut self.leaves);
        leaves.into_par_iter().try_for_each(|(spot, to)| copy_leaf(&spot.path, &spot.metadata, &to))
    }
}

fn copy_leaf(from: &Path, metadata: &Metadata, to: &Path) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from)?, to)?;
    } else if let Some((bits, device)) = files::device(from, metadata)? {
        files::make_device(to, SFlag::from_bits_truncate(bits), metadata.mode(), device)?;
    } else if kind.is_fifo() {
        files::make_device(to, SFlag::S_IFIFO, metadata.mode(), 0)?;
    } else {
        copy_content(from, to)?;
    }
    dress(to, from, metadata)
}

/// Owner, mode, attributes and time of the original.
fn dress(to: &Path, from: &Path, metadata: &Metadata) -> io::Result<()> {
    files::set_owner(to, metadata.uid(), metadata.gid())?;
    if !metadata.is_symlink() {
        files::set_mode(to, metadata.mode())?;
    }
    files::set_attributes(to, &files::attributes(from)?)?;
    files::set_mtime(to, metadata.mtime())
}

/// Copies bytes; where the file system can share them until one side writes, it does.
fn copy_content(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    // SAFETY: both descriptors are open; the call takes the second by value
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd()) } == 0 {
        return Ok(());
    }
    io::copy(&mut from, &mut to).map(drop)
}

impl Copied {
    /// Remembers how the copy at `root` is now.
    ///
    /// # Errors
    /// Of the disk.
    pub fn remember(root: &Path) -> io::Result<Self> {
        let mut marks = HashMap::new();
        remember(root, Path::new(""), &mut marks)?;
        // a change within the same tick of the file system's clock would not show
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(Self { root: root.to_owned(), marks })
    }

    /// Fills `upper`, which is there and empty, with what is now different from `view`: new and changed files moved, whiteouts for what is
    /// gone. The copy is of no use afterwards.
    ///
    /// # Errors
    /// Of the disk.
    pub fn changes(&self, view: &View, upper: &Path) -> io::Result<()> {
        let mut walk = Differences { copied: self, upper, moved: HashMap::new() };
        let lower = view.root()?;
        let above = Above { path: Path::new(""), metadata: self.root.symlink_metadata()?, outer: None };
        walk.folder(&above, lower.as_ref())?;
        walk.dress(&above)
    }
}

fn remember(folder: &Path, relative: &Path, marks: &mut HashMap<PathBuf, Mark>) -> io::Result<()> {
    for name in files::names(folder)? {
        let (path, relative) = (folder.join(&name), relative.join(&name));
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            remember(&path, &relative, marks)?;
        }
        marks.insert(relative, mark(&metadata));
    }
    Ok(())
}

struct Differences<'a> {
    copied: &'a Copied,
    upper: &'a Path,
    /// Where a file with several names went, by inode, with which file of the layers its first name was.
    moved: HashMap<u64, (PathBuf, Option<u64>)>,
}

/// A folder that is being looked at, as it was before anything was moved out of it.
struct Above<'a> {
    path: &'a Path,
    metadata: Metadata,
    outer: Option<&'a Above<'a>>,
}

impl Differences<'_> {
    /// Looks at what is in a folder; returns whether something of it went to the upper folder.
    fn folder(&mut self, above: &Above<'_>, lower: Option<&Spot>) -> io::Result<bool> {
        let mut names: BTreeSet<OsString> = files::names(&self.copied.root.join(above.path))?.into_iter().collect();
        if let Some(lower) = lower {
            names.extend(View::names(lower)?);
        }
        let mut changed = false;
        for name in names {
            let path = above.path.join(&name);
            if OWN.iter().any(|own| path == Path::new(own)) {
                continue;
            }
            let below = lower.map(|lower| View::child(lower, &name)).transpose()?.flatten();
            changed |= self.entry(&path, below, above)?;
        }
        Ok(changed)
    }

    fn entry(&mut self, path: &Path, below: Option<Spot>, above: &Above<'_>) -> io::Result<bool> {
        let (real, to) = (self.copied.root.join(path), self.upper.join(path));
        let Some(metadata) = files::stat(&real)? else {
            self.make_way(above)?;
            files::make_whiteout(&to)?;
            return Ok(true);
        };
        let untouched = below.is_some() && self.copied.marks.get(path) == Some(&mark(&metadata));
        if metadata.is_dir() {
            let here = Above { path, metadata, outer: Some(above) };
            let changed = self.folder(&here, below.as_ref().filter(|spot| spot.is_folder()))?;
            if changed || !untouched {
                self.make_way(&here)?;
                self.dress(&here)?;
            }
            return Ok(changed || !untouched);
        }
        if untouched || metadata.file_type().is_socket() {
            return Ok(false);
        }
        self.make_way(above)?;
        if metadata.nlink() > 1 {
            let was = below.as_ref().map(|spot| spot.metadata.ino());
            match self.moved.get(&metadata.ino()) {
                // names that were one file in the layers part when they are written to, as on overlayfs
                Some((first, before)) if was.is_some() && was == *before => {
                    copy_leaf(first, &first.symlink_metadata()?, &to)?;
                    return std::fs::remove_file(&real).map(|()| true);
                }
                Some(_) => {}
                None => drop(self.moved.insert(metadata.ino(), (to.clone(), was))),
            }
        }
        // the other names of a file that has several stay its names
        std::fs::rename(&real, &to)?;
        Ok(true)
    }

    /// Makes a folder and those above it in the upper folder.
    fn make_way(&self, folder: &Above<'_>) -> io::Result<()> {
        let to = self.upper.join(folder.path);
        if files::stat(&to)?.is_some() {
            return Ok(());
        }
        if let Some(outer) = folder.outer {
            self.make_way(outer)?;
        }
        std::fs::create_dir(&to)?;
        self.dress(folder)
    }

    /// Gives a folder in the upper folder what it has in the copy.
    fn dress(&self, folder: &Above<'_>) -> io::Result<()> {
        files::copy_folder_metadata(&self.upper.join(folder.path), &folder.metadata, &self.copied.root.join(folder.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// What an upper folder says, a line for each path.
    fn shown(upper: &Path) -> Vec<String> {
        fn walk(folder: &Path, top: &Path, lines: &mut Vec<String>) {
            for name in files::names(folder).unwrap() {
                let path = folder.join(name);
                let metadata = path.symlink_metadata().unwrap();
                let shown = path.strip_prefix(top).unwrap().display().to_string();
                if metadata.is_dir() {
                    lines.push(format!("{shown}/"));
                    walk(&path, top, lines);
                } else if files::is_whiteout(&path, &metadata).unwrap() {
                    lines.push(format!("{shown} gone"));
                } else {
                    lines.push(format!("{shown} {}", metadata.nlink()));
                }
            }
        }
        let mut lines = Vec::new();
        walk(upper, upper, &mut lines);
        lines
    }

    #[test]
    fn what_became_different_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [low, root, upper] = ["low", "root", "upper"].map(|name| folder.path().join(name));
        for path in ["low/d/e", "low/gone/x", "low/proc", "root", "upper"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        for name in ["d/same", "d/written", "d/e/deep", "file", "proc/hidden", "one"] {
            fs::write(low.join(name), name).unwrap();
        }
        fs::hard_link(low.join("one"), low.join("two")).unwrap();
        symlink("file", low.join("link")).unwrap();
        let view = View::new(vec![low.clone()]);
        copy(&view, &root).unwrap();
        assert!(!root.join("proc/hidden").exists());
        assert_eq!(root.join("one").symlink_metadata().unwrap().nlink(), 2);
        let copied = Copied::remember(&root).unwrap();
        copied.changes(&view, &upper).unwrap();
        assert_eq!(shown(&upper), [""; 0], "nothing ran, nothing changed");
        // what a step might do
        fs::write(root.join("d/written"), "another").unwrap();
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::write(root.join("proc/x"), "").unwrap();
        fs::remove_file(root.join("link")).unwrap();
        symlink("d", root.join("link")).unwrap();
        fs::write(root.join("new"), "").unwrap();
        fs::hard_link(root.join("new"), root.join("newer")).unwrap();
        files::set_mode(&root.join("one"), 0o600).unwrap();
        copied.changes(&view, &upper).unwrap();
        assert_eq!(shown(&upper), ["d/", "d/written 1", "gone gone", "link 1", "new 2", "newer 2", "one 1", "two 1"]);
        // and the layer below is what it was
        assert_eq!(fs::read_to_string(low.join("d/written")).unwrap(), "d/written");
        assert_ne!(low.join("one").symlink_metadata().unwrap().mode() & 0o777, 0o600);
    }
}
