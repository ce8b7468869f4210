//! What COPY reads from: the context as the key saw it, or stacked layers; one walk for both. Knows no destination.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::dockerfile::{PathPattern, has_wildcard};
use crate::engine::context::{ContextFiles, Item};
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::view::{Spot, View, clean, walk};
use crate::failure::Failure;

/// A tree to copy from.
pub(super) enum Tree<'a> {
    Layers(View),
    Context(&'a Context),
}

/// The context, indexed.
pub(super) struct Context {
    files: ContextFiles,
    items: BTreeMap<String, Item>,
    names: BTreeMap<String, BTreeSet<String>>,
}

impl Context {
    pub fn new(files: ContextFiles) -> Self {
        let items: BTreeMap<String, Item> = files.items().iter().cloned().collect();
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in items.keys() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            names.entry(folder.to_owned()).or_default().insert(name.to_owned());
        }
        Self { files, items, names }
    }
}

/// Something in a tree.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Spot(Spot),
    Item(String, Item),
}

/// What a node is, to be made somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link(PathBuf),
    /// Mode bits of its kind, and the device.
    Device(u32, u64),
    /// What can't be copied.
    Socket,
}

impl Node {
    pub fn kind(&self) -> io::Result<Kind> {
        Ok(match self {
            Self::Item(_, Item::File { .. }) => Kind::File,
            Self::Item(_, Item::Folder) => Kind::Folder,
            Self::Item(_, Item::Link { target }) => Kind::Link(target.into()),
            Self::Spot(spot) => {
                let kind = spot.metadata.file_type();
                if let Some((bits, device)) = files::device(&spot.path, &spot.metadata)? {
                    return Ok(Kind::Device(bits, device));
                }
                match () {
                    () if kind.is_dir() => Kind::Folder,
                    () if kind.is_symlink() => Kind::Link(std::fs::read_link(&spot.path)?),
                    () if kind.is_file() => Kind::File,
                    () if kind.is_socket() => Kind::Socket,
                    () => Kind::Device(spot.metadata.mode() & libc::S_IFMT, spot.metadata.rdev()),
                }
            }
        })
    }

    pub fn is_folder(&self) -> bool {
        match self {
            Self::Item(_, item) => *item == Item::Folder,
            Self::Spot(spot) => spot.is_folder(),
        }
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        match self {
            Self::Item(_, Item::File { executable: false, .. }) => 0o644,
            Self::Item(..) => 0o755,
            Self::Spot(spot) => spot.metadata.mode() & 0o7777,
        }
    }

    /// uid and gid.
    pub fn owner(&self) -> (u32, u32) {
        match self {
            Self::Item(..) => (0, 0),
            Self::Spot(spot) => (spot.metadata.uid(), spot.metadata.gid()),
        }
    }

    /// Seconds.
    pub fn mtime(&self, epoch: i64) -> i64 {
        match self {
            Self::Item(..) => epoch,
            Self::Spot(spot) => spot.metadata.mtime().min(epoch),
        }
    }

    /// Device and inode of a file that has other names.
    pub fn linked(&self) -> Option<(u64, u64)> {
        match self {
            Self::Spot(spot) if spot.metadata.nlink() > 1 && !spot.is_folder() => Some((spot.metadata.dev(), spot.metadata.ino())),
            _ => None,
        }
    }

    /// Extended attributes.
    pub fn attributes(&self) -> io::Result<Vec<(OsString, Vec<u8>)>> {
        match self {
            Self::Item(..) => Ok(Vec::new()),
            Self::Spot(spot) => files::attributes(&spot.path),
        }
    }
}

impl Tree<'_> {
    /// The root; `None` for a tree without anything.
    pub fn root(&self) -> io::Result<Option<Node>> {
        match self {
            Self::Context(_) => Ok(Some(Node::Item(String::new(), Item::Folder))),
            // without layers there is a root all the same
            Self::Layers(view) => Ok(view.root()?.map(Node::Spot).or(Some(Node::Item(String::new(), Item::Folder)))),
        }
    }

    /// What `name` is in a folder.
    pub fn child(&self, folder: &Node, name: &OsStr) -> io::Result<Option<Node>> {
        match (self, folder) {
            (Self::Context(context), Node::Item(folder, Item::Folder)) => {
                let Some(name) = name.to_str() else { return Ok(None) };
                let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                Ok(context.items.get(&path).map(|item| Node::Item(path.clone(), item.clone())))
            }
            (Self::Layers(_), Node::Spot(spot)) if spot.is_folder() => Ok(View::child(spot, name)?.map(Node::Spot)),
            _ => Ok(None),
        }
    }

    /// Names in a folder, sorted.
    pub fn names(&self, folder: &Node) -> io::Result<Vec<OsString>> {
        match (self, folder) {
            (Self::Context(context), Node::Item(folder, _)) => {
                Ok(context.names.get(folder).into_iter().flatten().map(OsString::from).collect())
            }
            (_, Node::Spot(spot)) => View::names(spot),
            (Self::Layers(_), Node::Item(..)) => Ok(Vec::new()),
        }
    }

    /// What a path leads to, links followed inside the tree.
    pub fn locate(&self, path: &str, follow: bool) -> io::Result<Option<Node>> {
        let Some(root) = self.root()? else { return Ok(None) };
        let link = |node: &Node| match node.kind()? {
            Kind::Link(target) => Ok(Some(target)),
            _ => Ok(None),
        };
        Ok(walk(root, Path::new(path), follow, |folder, name| self.child(folder, name), link)?.1)
    }

    /// The nodes that a COPY source names, by the name that each has in a folder: one for a path, any number for a pattern.
    ///
    /// # Errors
    /// A step failure where a path is not there.
    pub fn find(&self, source: &str) -> Result<Vec<(OsString, Node)>, Failure> {
        let reading = |error| disk(format!("`{source}`"))(error);
        let path = clean(Path::new(source));
        if !has_wildcard(source) {
            let node = self.locate(&path.to_string_lossy(), true).map_err(reading)?;
            let node = node.ok_or_else(|| Failure::step(format!("`{source}` is not there")))?;
            return Ok(vec![(path.file_name().unwrap_or_default().to_owned(), node)]);
        }
        let bad = || Failure::step(format!("`{source}` is no pattern"));
        let text = path.to_str().ok_or_else(bad)?;
        let parts: Vec<&str> = text.split('/').collect();
        let plain = parts.iter().take_while(|part| !has_wildcard(part)).count();
        let Some(start) = self.locate(&parts[..plain].join("/"), true).map_err(reading)? else { return Ok(Vec::new()) };
        let mut found = vec![(PathBuf::from(parts[..plain].join("/")), start)];
        for part in &parts[plain..] {
            let pattern = PathPattern::parse(part).map_err(|_| bad())?;
            for (folder, node) in std::mem::take(&mut found) {
                for name in self.names(&node).map_err(reading)? {
                    if name.to_str().is_some_and(|name| pattern.matches(name))
                        && let Some(child) = self.child(&node, &name).map_err(reading)?
                    {
                        found.push((folder.join(&name), child));
                    }
                }
            }
        }
        let mut ends = Vec::new();
        for (path, node) in found {
            // a link that matches is followed, as one that is named
            let node = match node.kind().map_err(reading)? {
                Kind::Link(_) => {
                    let end = self.locate(&path.to_string_lossy(), true).map_err(reading)?;
                    end.ok_or_else(|| Failure::step(format!("`{}` leads to nothing", path.display())))?
                }
                _ => node,
            };
            ends.push((path.file_name().unwrap_or_default().to_owned(), node));
        }
        Ok(ends)
    }

    /// Copies a file's bytes.
    ///
    /// # Errors
    /// Of the disk; where a file of the context is not what the key saw.
    pub fn copy_content(&self, node: &Node, to: &mut File) -> Result<(), Failure> {
        match (self, node) {
            (Self::Context(context), Node::Item(path, Item::File { content, .. })) => {
                let size = context.files.size(path).map_err(crate::engine::context::ReadError::failure)?;
                context.files.read(path, content, size, |bytes| to.write_all(bytes)).map_err(|error| match error {
                    crate::engine::context::ReadError::Stopped(error) => disk(format!("copying `{path}`"))(error),
                    changed => changed.failure(),
                })
            }
            (_, Node::Spot(spot)) => {
                let mut copy = || io::copy(&mut File::open(&spot.path)?, to);
                copy().map(drop).map_err(disk(format!("copying `{}`", spot.path.display())))
            }
            _ => Err(Failure::infra("what is copied is no file")),
        }
    }

    /// Says what a node and all below it is, for the instruction cache; of layers only the context counts, they have ids.
    pub fn describe(&self, path: &str, node: &Node, hasher: &mut super::key::KeyHasher) {
        let (Self::Context(context), Node::Item(top, item)) = (self, node) else { return };
        hasher.text(path);
        hasher.text(&format!("{item:?}"));
        let inside = format!("{top}/");
        for (path, item) in context.items.range(if top.is_empty() { String::new() } else { inside.clone() }..) {
            if !top.is_empty() && !path.starts_with(&inside) {
                break;
            }
            hasher.text(path);
            hasher.text(&format!("{item:?}"));
        }
    }
}
