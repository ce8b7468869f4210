//! An image as text: layers are applied in memory by the rules of the image-spec, and what differs from the base is told, line by line.
//! Written for the tests alone, so that what igraph packs is read by something else. Knows no builder.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use igraph::digest::Digest;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    /// As `ls` shows it: `-`, `d`, `l`, `c`, `b`, `p`.
    kind: char,
    mode: u32,
    owner: (u64, u64),
    /// Content, or link target, or device.
    what: String,
    attributes: BTreeMap<String, String>,
    /// Of a file with several names: what they have in common.
    inode: usize,
}

/// The files of an image.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, File>,
    inodes: usize,
}

/// An image whose layers were read.
#[derive(Clone, Debug)]
pub struct Image {
    pub config: Value,
    /// For each layer, whether it holds anything.
    filled: Vec<bool>,
    tree: Tree,
}

fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= 200 => format!("{text:?}"),
        _ => format!("{} bytes {}", bytes.len(), &Digest::of(bytes).to_string()[7..23]),
    }
}

impl Tree {
    fn remove(&mut self, path: &str) {
        self.files.remove(path);
        let below = format!("{path}/");
        self.files.retain(|other, _| !other.starts_with(&below));
    }

    /// Whether the layer changed anything but times.
    fn apply(&mut self, tar: &mut dyn Read) -> bool {
        let before = self.clone();
        let mut archive = tar::Archive::new(tar);
        let mut own: BTreeSet<String> = BTreeSet::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let path = format!("/{}", path.trim_start_matches("./").trim_matches('/'));
            let mut attributes = BTreeMap::new();
            for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
                let extension = extension.unwrap();
                if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    attributes.insert(name.to_owned(), content(extension.value_bytes()));
                }
            }
            if path == "/" {
                continue;
            }
            let (parent, name) = path.rsplit_once('/').unwrap();
            if name == ".wh..wh..opq" {
                let below = format!("{parent}/");
                self.files.retain(|other, _| !other.starts_with(&below) || own.contains(other));
                continue;
            }
            if let Some(name) = name.strip_prefix(".wh.") {
                self.remove(&format!("{parent}/{name}"));
                continue;
            }
            let header = entry.header().clone();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let target = || String::from_utf8(entry.link_name_bytes().unwrap().into_owned()).unwrap();
            let device = || format!("{} {}", header.device_major().unwrap().unwrap(), header.device_minor().unwrap().unwrap());
            let (kind, what) = match header.entry_type() {
                tar::EntryType::Directory => ('d', String::new()),
                tar::EntryType::Symlink => ('l', target()),
                tar::EntryType::Char => ('c', device()),
                tar::EntryType::Block => ('b', device()),
                tar::EntryType::Fifo => ('p', String::new()),
                tar::EntryType::Link => {
                    let first = format!("/{}", target().trim_start_matches("./").trim_start_matches('/'));
                    let file = self.files.get(&first).unwrap_or_else(|| panic!("{path} is a hard link to {first}, which is not there"));
                    let file = file.clone();
                    self.remove(&path);
                    own.insert(path.clone());
                    self.files.insert(path, file);
                    continue;
                }
                _ => ('-', content(&bytes)),
            };
            if kind != 'd' {
                self.remove(&path);
            }
            self.inodes += 1;
            let owner = (header.uid().unwrap(), header.gid().unwrap());
            let mode = if kind == 'l' { 0o777 } else { header.mode().unwrap() & 0o7777 };
            own.insert(path.clone());
            self.files.insert(path, File { kind, mode, owner, what, attributes, inode: self.inodes });
        }
        !self.changes(&before).is_empty()
    }

    /// What is other than in `base`, by path.
    fn changes(&self, base: &Self) -> Vec<String> {
        let mut lines = BTreeMap::new();
        let mut first: BTreeMap<usize, &String> = BTreeMap::new();
        for (path, file) in &self.files {
            let twin = first.get(&file.inode).copied();
            first.entry(file.inode).or_insert(path);
            let known = base.files.get(path).is_some_and(|other| File { inode: file.inode, ..other.clone() } == *file);
            if known {
                continue;
            }
            let File { kind, mode, owner: (uid, gid), what, attributes, .. } = file;
            let mut line = match twin {
                Some(twin) => format!("{path} = {twin}"),
                None if *kind == 'l' => format!("{path} -> {what} {uid}:{gid}"),
                None => format!("{path} {kind} {mode:o} {uid}:{gid} {what}"),
            };
            for (name, value) in attributes.iter().filter(|_| twin.is_none()) {
                line.push_str(&format!(" {name}={value}"));
            }
            lines.insert(path, line.trim_end().to_owned());
        }
        for path in base.files.keys().filter(|path| !self.files.contains_key(*path)) {
            let parent = path.rsplit_once('/').unwrap().0;
            if parent.is_empty() || self.files.contains_key(parent) {
                lines.insert(path, format!("{path} is gone"));
            }
        }
        lines.into_values().collect()
    }
}

impl Image {
    /// `layer` opens a layer by its place and diff id.
    pub fn read(config: &[u8], mut layer: impl FnMut(usize, Digest) -> Box<dyn Read>) -> Self {
        let config: Value = serde_json::from_slice(config).unwrap();
        let mut tree = Tree::default();
        let mut filled = Vec::new();
        for (index, diff_id) in config["rootfs"]["diff_ids"].as_array().into_iter().flatten().enumerate() {
            let diff_id: Digest = diff_id.as_str().unwrap().parse().unwrap();
            filled.push(tree.apply(&mut *layer(index, diff_id)));
        }
        Self { config, filled, tree }
    }

    /// Where it differs from `base`: the config, the history, the files.
    pub fn lines(&self, base: &Self) -> Vec<String> {
        const FIELDS: [&str; 13] = [
            "User",
            "Env",
            "Entrypoint",
            "Cmd",
            "WorkingDir",
            "ExposedPorts",
            "Volumes",
            "Labels",
            "StopSignal",
            "Healthcheck",
            "Shell",
            "OnBuild",
            "ArgsEscaped",
        ];
        let mut lines = Vec::new();
        for field in FIELDS {
            let (ours, theirs) = (plain(&self.config["config"][field]), plain(&base.config["config"][field]));
            if ours != theirs {
                lines.push(format!("{field} {ours}"));
            }
        }
        for field in ["os", "architecture", "variant", "author"] {
            let (ours, theirs) = (plain(&self.config[field]), plain(&base.config[field]));
            if ours != theirs {
                lines.push(format!("{field} {ours}"));
            }
        }
        let count = base.config["history"].as_array().map_or(0, Vec::len);
        let mut layers = self.filled.iter();
        for (index, entry) in self.config["history"].as_array().into_iter().flatten().enumerate() {
            // a layer without anything in it is as good as none
            let empty = entry["empty_layer"].as_bool().unwrap_or(false) || !layers.next().copied().unwrap_or(false);
            let own = index >= count || base.config["history"][index] != *entry;
            if own {
                let by = entry["created_by"].as_str().unwrap_or_default();
                let by = by.strip_suffix(" # buildkit").unwrap_or(by);
                // dockerd shows a Go structure, of which the test is a part
                let by = match by.strip_prefix("HEALTHCHECK &{").and_then(|rest| rest.split_once("] ")) {
                    Some((test, _)) => format!("HEALTHCHECK {test}]"),
                    None => by.to_owned(),
                };
                lines.push(format!("history {} {by:?}", if empty { "." } else { "+" }));
            }
        }
        lines.extend(self.tree.changes(&base.tree));
        lines
    }
}

/// A value without what says nothing: empty lists and maps, `false`.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Object(map) if map.is_empty() => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Bool(false) => Value::Null,
        Value::Object(map) => {
            // buildah signs what it makes
            let map = map.iter().filter(|(name, _)| *name != "io.buildah.version").map(|(name, value)| (name.clone(), value.clone()));
            let map: serde_json::Map<_, _> = map.collect();
            if map.is_empty() { Value::Null } else { Value::Object(map) }
        }
        other => other.clone(),
    }
}
