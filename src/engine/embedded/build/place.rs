//! Where COPY and ADD write to: a folder that becomes a layer, seen together with the layers below it. Knows no instruction.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;

use super::mode::Chmod;
use super::tree::{Kind, Node, Tree};
use crate::dockerfile::Ignore;
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::view::{Located, Spot, View, walk};
use crate::failure::Failure;

/// A layer being written.
pub(super) struct Destination<'a> {
    upper: PathBuf,
    view: View,
    epoch: i64,
    /// `--chown`.
    owner: Option<(u32, u32)>,
    /// `--chmod`.
    chmod: Option<&'a Chmod>,
    /// First path of each file with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Destination<'a> {
    /// Of the folder `upper`, which exists, above `lower`.
    pub fn new(upper: &Path, lower: &View, epoch: i64, owner: Option<(u32, u32)>, chmod: Option<&'a Chmod>) -> Self {
        Self { upper: upper.to_owned(), view: lower.below(upper), epoch, owner, chmod, links: HashMap::new() }
    }

    /// What a path leads to, links followed.
    pub fn locate(&self, path: &Path, follow: bool) -> Result<Located, Failure> {
        self.view.locate(path, follow).map_err(disk(format!("`{}`", path.display())))
    }

    /// What `path` leads to below the folder `to`, which is a root for the links on the way; relative to it.
    ///
    /// # Errors
    /// A step failure where a link on the way leads to nothing.
    pub fn locate_below(&self, to: &Path, path: &Path) -> Result<PathBuf, Failure> {
        let reading = |error| disk(format!("`/{}`", to.join(path).display()))(error);
        let Some(root) = self.locate(to, false)?.spot else { return Ok(path.to_owned()) };
        let child = |folder: &Spot, name: &std::ffi::OsStr| if folder.is_folder() { View::child(folder, name) } else { Ok(None) };
        let link = |spot: &Spot| spot.metadata.is_symlink().then(|| std::fs::read_link(&spot.path)).transpose();
        let mut walked = PathBuf::new();
        for part in path.components() {
            walked.push(part);
            let is_link =
                walk(root.clone(), &walked, false, child, link).map_err(reading)?.1.is_some_and(|spot| spot.metadata.is_symlink());
            if is_link && walk(root.clone(), &walked, true, child, link).map_err(reading)?.1.is_none() {
                return Err(Failure::step(format!("`{}` in the archive is a link that leads to nothing", walked.display())));
            }
        }
        Ok(walk(root, path, true, child, link).map_err(reading)?.0)
    }

    /// Makes sure that a folder is there to write in; `path` holds no links. Folders that are not there are made.
    pub fn folder(&mut self, path: &Path) -> Result<PathBuf, Failure> {
        let writing = |error| disk(format!("`/{}`", path.display()))(error);
        let mut real = self.upper.clone();
        let mut walked = PathBuf::new();
        for part in path.components() {
            real.push(part);
            walked.push(part);
            if files::stat(&real).map_err(writing)?.is_some_and(|metadata| metadata.is_dir()) {
                continue;
            }
            match self.locate(&walked, false)?.spot {
                Some(spot) if spot.is_folder() => {
                    std::fs::create_dir(&real)
                        .and_then(|()| files::copy_folder_metadata(&real, &spot.metadata, &spot.path))
                        .map_err(writing)?;
                }
                Some(_) => return Err(Failure::step(format!("`/{}` is no folder", walked.display()))),
                None => {
                    let (uid, gid) = self.owner.unwrap_or((0, 0));
                    let make = || {
                        std::fs::create_dir(&real)?;
                        files::set_owner(&real, uid, gid)?;
                        files::set_mode(&real, 0o755)?;
                        files::set_mtime(&real, self.epoch)
                    };
                    make().map_err(writing)?;
                }
            }
        }
        Ok(real)
    }

    /// Copies a node to `to`, which holds no links: a folder's content into the folder there, anything else in place of what is there.
    /// `inner` is its path relative to what was named, for `exclude`.
    pub fn copy(&mut self, tree: &Tree<'_>, node: &Node, to: &Path, inner: &str, exclude: &Ignore) -> Result<(), Failure> {
        let reading = |error| disk(format!("copying to `/{}`", to.display()))(error);
        let kind = node.kind().map_err(reading)?;
        if kind != Kind::Folder {
            return self.copy_leaf(tree, node, &kind, to);
        }
        let existing = self.locate(to, false)?.spot;
        match existing {
            // a folder within what is copied takes what its source has, the one that was named does not
            Some(spot) if spot.is_folder() => {
                let real = self.folder(to)?;
                if !inner.is_empty() {
                    self.dress(node, &real, true).map_err(reading)?;
                }
            }
            Some(_) => return Err(Failure::step(format!("a folder can't be copied over `/{}`, which is none", to.display()))),
            None => {
                let real = self.folder(to)?;
                self.dress(node, &real, true).map_err(reading)?;
            }
        }
        for name in tree.names(node).map_err(reading)? {
            let Some(child) = tree.child(node, &name).map_err(reading)? else { continue };
            let shown = name.to_string_lossy();
            let inner = if inner.is_empty() { shown.into_owned() } else { format!("{inner}/{shown}") };
            if exclude.excludes(&inner) && !(child.is_folder() && exclude.may_reinclude_below(&inner)) {
                continue;
            }
            self.copy(tree, &child, &to.join(&name), &inner, exclude)?;
        }
        Ok(())
    }

    /// Makes room for something that is no folder; its real path.
    pub fn clear(&mut self, to: &Path) -> Result<PathBuf, Failure> {
        if self.locate(to, false)?.spot.is_some_and(|spot| spot.is_folder()) {
            return Err(Failure::step(format!("a file can't be copied over the folder `/{}`", to.display())));
        }
        self.replace(to)
    }

    /// Makes room for something, whatever is there; its real path.
    pub fn replace(&mut self, to: &Path) -> Result<PathBuf, Failure> {
        let Some(name) = to.file_name() else { return Err(Failure::step("a file can't be copied over the root")) };
        let real = self.folder(to.parent().unwrap_or(Path::new("")))?.join(name);
        files::remove(&real).map_err(disk(format!("`/{}`", to.display())))?;
        Ok(real)
    }

    fn copy_leaf(&mut self, tree: &Tree<'_>, node: &Node, kind: &Kind, to: &Path) -> Result<(), Failure> {
        if *kind == Kind::Socket {
            return Ok(());
        }
        let writing = |error| disk(format!("`/{}`", to.display()))(error);
        let real = self.clear(to)?;
        if let Some(inode) = node.linked() {
            match self.links.get(&inode) {
                Some(first) if first.symlink_metadata().is_ok() => return std::fs::hard_link(first, &real).map_err(writing),
                _ => drop(self.links.insert(inode, real.clone())),
            }
        }
        match kind {
            Kind::File => {
                let mut file = File::create_new(&real).map_err(writing)?;
                tree.copy_content(node, &mut file)?;
            }
            Kind::Link(target) => std::os::unix::fs::symlink(target, &real).map_err(writing)?,
            Kind::Device(bits, device) => {
                files::make_device(&real, SFlag::from_bits_truncate(*bits), node.mode(), *device).map_err(writing)?;
            }
            Kind::Folder | Kind::Socket => {}
        }
        self.dress(node, &real, !matches!(kind, Kind::Link(_))).map_err(writing)
    }

    fn dress(&self, node: &Node, real: &Path, has_mode: bool) -> std::io::Result<()> {
        let (uid, gid) = self.owner.unwrap_or_else(|| node.owner());
        files::set_owner(real, uid, gid)?;
        if has_mode {
            let mode = self.chmod.map_or(node.mode(), |chmod| chmod.apply(node.mode(), node.is_folder()));
            files::set_mode(real, mode)?;
        }
        files::set_attributes(real, &node.attributes()?)?;
        files::set_mtime(real, node.mtime(self.epoch))
    }

    /// Writes a new file.
    pub fn write(&mut self, to: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let writing = |error| disk(format!("`/{}`", to.display()))(error);
        let real = self.clear(to)?;
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let write = || {
            std::fs::write(&real, bytes)?;
            files::set_owner(&real, uid, gid)?;
            files::set_mode(&real, self.chmod.map_or(mode, |chmod| chmod.apply(mode, false)))?;
            files::set_mtime(&real, self.epoch)
        };
        write().map_err(writing)
    }

    /// The same layer, for files that keep the owner and the mode they come with.
    pub fn as_it_comes(&self) -> Self {
        Self { upper: self.upper.clone(), view: self.view.clone(), epoch: self.epoch, owner: None, chmod: None, links: HashMap::new() }
    }

    /// What comes next has no hard links to what came before.
    pub fn forget_links(&mut self) {
        self.links.clear();
    }

    /// Gives folders that COPY `--parents` makes on the way what their sources have.
    pub fn parents(&mut self, on_the_way: &[(PathBuf, Node)]) -> Result<(), Failure> {
        for (path, node) in on_the_way {
            if self.locate(path, false)?.spot.is_none() {
                let real = self.folder(path)?;
                self.dress(node, &real, true).map_err(disk(format!("`/{}`", path.display())))?;
            }
        }
        Ok(())
    }
}

/// Makes the folder of a new layer, dressed as the root below it.
///
/// # Errors
/// Of the disk.
pub(in crate::engine::embedded) fn new_upper(path: &Path, lower: &View) -> Result<(), Failure> {
    let make = || -> std::io::Result<()> {
        std::fs::create_dir(path)?;
        files::set_mode(path, 0o755)?;
        match lower.root()? {
            Some(Spot { metadata, path: like, .. }) => {
                files::copy_folder_metadata(path, &metadata, &like)?;
                files::set_mtime(path, metadata.mtime())
            }
            None => Ok(()),
        }
    };
    make().map_err(disk("a layer"))
}

/// The name of a file in a folder, as text.
pub(super) fn named(folder: &Path, name: &OsString) -> PathBuf {
    if name.is_empty() { folder.to_owned() } else { folder.join(name) }
}
