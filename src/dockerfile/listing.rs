//! Lists what of a context can be read, by Docker's rules: wildcards, `.dockerignore`, links resolved inside the root.
//! Stats each path once and reads no file.

use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::context::clean;
use super::glob::{PathPattern, has_wildcard};
use super::{ContextEntry, ContextSource, ContextUse, EntryKind, Ignore};
use crate::problem::{Problem, nearest};
use crate::stamp::Stamp;

/// What of a context counts, and all that the answer relies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What an instruction can read, sorted by path, each once; the root itself is none.
    pub entries: Vec<ContextEntry>,
    /// Every folder whose listing was relied on, relative to the root (`""` is the root), sorted by path.
    pub folders: Vec<(String, Stamp)>,
    /// The ignore file that was applied.
    pub ignore_file: Option<(String, Stamp)>,
    /// Ignore files that are not there and would have counted.
    pub missing: Vec<String>,
}

/// How many links may be followed on the way to one source.
const MOST_LINKS: usize = 255;

/// Lists what `use_` reads of the context at `root`.
///
/// # Errors
/// Sources that are not there (or excluded), link loops, sockets and the like, folders that can't be read, names that are no
/// UTF-8: each with the instruction that wants it.
pub fn list_context(root: &Path, use_: &ContextUse, ignore: &Ignore) -> Result<Listing, Vec<Problem>> {
    let mut lister = Lister {
        root,
        ignore,
        entries: BTreeMap::new(),
        folders: BTreeMap::new(),
        real: HashSet::new(),
        walked: HashSet::new(),
        problems: Vec::new(),
    };
    if use_.whole.is_some() {
        match std::fs::symlink_metadata(root) {
            Ok(metadata) => lister.walk("", &metadata, &Filter::default(), &|problem| problem),
            Err(error) => lister.problems.push(Problem::new(format!("the context can't be read: {}", because(&error)))),
        }
    } else {
        for source in &use_.sources {
            lister.source(source);
        }
    }
    if !lister.problems.is_empty() {
        return Err(lister.problems);
    }
    Ok(Listing {
        entries: lister.entries.into_values().collect(),
        folders: lister.folders.into_iter().collect(),
        ignore_file: ignore.file().cloned(),
        missing: ignore.missing().to_vec(),
    })
}

/// What an error means, without its number.
pub(super) fn because(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::NotFound => "it is not there".into(),
        _ => error.to_string(),
    }
}

/// Why a path leads nowhere.
enum Lost {
    /// Nothing of that name.
    Missing {
        at: String,
    },
    /// The ignore file excludes it.
    Excluded {
        at: String,
    },
    Loop,
    Other(io::Error),
}

/// What of a folder is left out.
#[derive(Default)]
struct Filter {
    /// Relative to the folder walked.
    exclude: Ignore,
    /// Only what matches, relative to the folder walked.
    include: Option<Ignore>,
    /// The start of `include` up to its first wildcard.
    literal: String,
}

struct Lister<'a> {
    root: &'a Path,
    ignore: &'a Ignore,
    entries: BTreeMap<String, ContextEntry>,
    folders: BTreeMap<String, Stamp>,
    /// Folders known to be no links.
    real: HashSet<String>,
    /// Folders taken whole.
    walked: HashSet<String>,
    problems: Vec<Problem>,
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

impl Lister<'_> {
    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    fn add(&mut self, path: &str, kind: EntryKind, metadata: &Metadata) {
        let entry = ContextEntry { path: path.to_owned(), kind, stamp: Stamp::of(metadata) };
        self.entries.insert(path.to_owned(), entry);
    }

    /// Follows `path` to what is no link, inside the root; links on the way count as entries.
    fn locate(&mut self, path: &str) -> Result<(String, Metadata), Lost> {
        let mut pending: Vec<String> = path.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut current = String::new();
        let mut links = 0;
        let mut found = None;
        while let Some(part) = pending.pop() {
            found = None;
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    current.truncate(current.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = below(&current, &part);
            if !pending.is_empty() && self.real.contains(&next) {
                current = next;
                continue;
            }
            let metadata = std::fs::symlink_metadata(self.path(&next)).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Lost::Missing { at: next.clone() },
                _ => Lost::Other(error),
            })?;
            if metadata.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Lost::Loop);
                }
                if self.ignore.excludes(&next) {
                    return Err(Lost::Excluded { at: next });
                }
                let target = self.link(&next, &metadata).map_err(Lost::Other)?;
                if target.starts_with('/') {
                    current.clear();
                }
                pending.extend(target.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned));
                continue;
            }
            if metadata.is_dir() {
                self.real.insert(next.clone());
            } else if !pending.is_empty() {
                return Err(Lost::Missing { at: next });
            }
            current = next;
            found = Some(metadata);
        }
        match found {
            Some(metadata) => Ok((current, metadata)),
            // the root, or a path that ends in `..`
            None => std::fs::symlink_metadata(self.path(&current)).map(|metadata| (current, metadata)).map_err(Lost::Other),
        }
    }

    /// Adds a link, and says where it leads.
    fn link(&mut self, path: &str, metadata: &Metadata) -> io::Result<String> {
        let target = std::fs::read_link(self.path(path))?;
        let target = target.into_os_string().into_string().map_err(|_| io::Error::other("the target of the link is no UTF-8"))?;
        self.add(path, EntryKind::Link { target: target.clone() }, metadata);
        Ok(target)
    }

    fn source(&mut self, source: &ContextSource) {
        let at_source = |problem: Problem| Problem { places: vec![source.place.clone()], ..problem };
        let Some(exclude) = Ignore::of_patterns(&source.exclude) else {
            self.problems.push(at_source(Problem::new("`--exclude` holds a malformed pattern")));
            return;
        };
        let include = source.include.as_ref().map(|pattern| Ignore::of_patterns(std::slice::from_ref(pattern)));
        if matches!(include, Some(None)) {
            self.problems.push(at_source(Problem::new(format!("`{}` is no pattern", source.path))));
            return;
        }
        let start = source.include.as_deref().unwrap_or("");
        let literal = start[..start.find(['*', '?', '[', '\\']).unwrap_or(start.len())].to_owned();
        let filter = Filter { exclude, include: include.flatten(), literal };
        if source.wildcard {
            self.wildcard(source, &filter, &at_source);
        } else {
            match self.locate(&source.path) {
                Ok((path, metadata)) => self.take(&source.path, &path, &metadata, source, &filter, &at_source),
                Err(lost) => self.lost(&source.path, lost, source),
            }
        }
    }

    /// Takes every match; none is no error.
    fn wildcard(&mut self, source: &ContextSource, filter: &Filter, at_source: &dyn Fn(Problem) -> Problem) {
        let parts: Vec<&str> = source.path.split('/').collect();
        let plain = parts.iter().take_while(|part| !has_wildcard(part)).count();
        let Ok(patterns) = parts[plain..].iter().map(|part| PathPattern::parse(part)).collect::<Result<Vec<_>, _>>() else {
            self.problems.push(at_source(Problem::new(format!("`{}` is no pattern", source.path))));
            return;
        };
        let base = parts[..plain].join("/");
        let (start, metadata) = match self.locate(&base) {
            Ok(found) => found,
            Err(lost) => return self.lost(&source.path, lost, source),
        };
        if !metadata.is_dir() {
            return self.lost(&source.path, Lost::Missing { at: base }, source);
        }
        if !start.is_empty() {
            // a daemon looks for it though nothing in it may match
            self.add(&start, EntryKind::Folder, &metadata);
        }
        let mut folders = vec![(start, metadata)];
        for (number, pattern) in patterns.iter().enumerate() {
            let last = number + 1 == patterns.len();
            for (folder, stamp) in std::mem::take(&mut folders) {
                for (name, metadata) in self.children(&folder, &stamp, at_source) {
                    let path = below(&folder, &name);
                    if !pattern.matches(&name) || (self.ignore.excludes(&path) && !self.ignore.may_reinclude_below(&path)) {
                        continue;
                    }
                    if !last {
                        folders.extend(metadata.is_dir().then_some((path, metadata)));
                    } else if metadata.is_symlink() {
                        match self.locate(&path) {
                            Ok((end, metadata)) => self.take(&path, &end, &metadata, source, filter, at_source),
                            Err(lost) => self.lost(&path, lost, source),
                        }
                    } else {
                        self.take(&path, &path, &metadata, source, filter, at_source);
                    }
                }
            }
        }
    }

    /// Takes what a source led to.
    fn take(
        &mut self,
        written: &str,
        path: &str,
        metadata: &Metadata,
        source: &ContextSource,
        filter: &Filter,
        at_source: &dyn Fn(Problem) -> Problem,
    ) {
        if !path.is_empty() && self.ignore.excludes(path) && !(metadata.is_dir() && self.ignore.may_reinclude_below(path)) {
            return self.lost(written, Lost::Excluded { at: path.to_owned() }, source);
        }
        if metadata.is_dir() {
            self.walk(path, metadata, filter, at_source);
        } else {
            self.leaf(path, metadata, at_source);
        }
    }

    /// Adds what is no folder.
    fn leaf(&mut self, path: &str, metadata: &Metadata, at_source: &dyn Fn(Problem) -> Problem) {
        let kind = metadata.file_type();
        if kind.is_file() {
            self.add(path, EntryKind::File { executable: metadata.permissions().mode() & 0o100 != 0 }, metadata);
        } else if kind.is_symlink() {
            if let Err(error) = self.link(path, metadata) {
                self.problems.push(at_source(Problem::new(format!("the link `{path}` can't be read: {}", because(&error)))));
            }
        } else {
            let what = match () {
                () if kind.is_socket() => "a socket",
                () if kind.is_fifo() => "a pipe",
                () => "a device",
            };
            let problem = Problem::new(format!("`{path}` in the context is {what}; only files, folders and links can be copied"));
            self.problems.push(at_source(problem.hint("exclude it with `.dockerignore`")));
        }
    }

    /// Everything in a folder, sorted by name, with its stat.
    fn children(&mut self, folder: &str, metadata: &Metadata, at_source: &dyn Fn(Problem) -> Problem) -> Vec<(String, Metadata)> {
        self.folders.insert(folder.to_owned(), Stamp::of(metadata));
        let mut children = Vec::new();
        let read = std::fs::read_dir(self.path(folder)).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                match entry.file_name().into_string() {
                    Ok(name) => children.push((name, entry)),
                    Err(name) => {
                        let shown = below(folder, &name.to_string_lossy());
                        self.problems.push(at_source(Problem::new(format!("the name of `{shown}` in the context is no UTF-8"))));
                    }
                }
            }
            children.sort_by(|(left, _), (right, _)| left.cmp(right));
            children.into_iter().map(|(name, entry)| Ok((name, entry.metadata()?))).collect::<io::Result<Vec<_>>>()
        });
        read.unwrap_or_else(|error| {
            let shown = if folder.is_empty() { "the context".to_owned() } else { format!("folder `{folder}` of the context") };
            self.problems.push(at_source(Problem::new(format!("{shown} can't be read: {}", because(&error)))));
            Vec::new()
        })
    }

    /// Takes a folder and all below it that is not left out.
    fn walk(&mut self, top: &str, metadata: &Metadata, filter: &Filter, at_source: &dyn Fn(Problem) -> Problem) {
        let whole = filter.exclude.is_empty() && filter.include.is_none();
        if whole && !self.walked.insert(top.to_owned()) {
            return;
        }
        if !top.is_empty() {
            self.add(top, EntryKind::Folder, metadata);
        }
        let mut folders = vec![(top.to_owned(), metadata.clone())];
        while let Some((folder, metadata)) = folders.pop() {
            for (name, metadata) in self.children(&folder, &metadata, at_source) {
                let path = below(&folder, &name);
                let inner = if top.is_empty() { path.as_str() } else { &path[top.len() + 1..] };
                let ignored = self.ignore.excludes(&path);
                let excluded = filter.exclude.excludes(inner);
                let included = filter.include.as_ref().is_none_or(|include| include.excludes(inner));
                let taken = !ignored && !excluded && included;
                if !metadata.is_dir() {
                    if taken {
                        self.leaf(&path, &metadata, at_source);
                    }
                    continue;
                }
                if taken {
                    self.add(&path, EntryKind::Folder, &metadata);
                }
                let slashed = format!("{inner}/");
                let reachable = included || filter.literal.starts_with(&slashed) || slashed.starts_with(&filter.literal);
                let skipped = (ignored && !self.ignore.may_reinclude_below(&path))
                    || (excluded && !filter.exclude.may_reinclude_below(inner))
                    || !reachable;
                if !skipped {
                    folders.push((path, metadata));
                }
            }
        }
    }

    /// Tells why a source is not there.
    fn lost(&mut self, written: &str, lost: Lost, source: &ContextSource) {
        let shown = if written.is_empty() { "." } else { written };
        // what a build file names is a path and no source
        let (what, absent) = match source.instruction {
            "base" | "inputs" => (format!("`{shown}`"), "is not there"),
            instruction => (format!("`{instruction}` source `{shown}`"), "is not in the context"),
        };
        let (message, hint) = match lost {
            Lost::Excluded { at } => {
                let file = self.ignore.file().map_or(".dockerignore", |(path, _)| path.as_str());
                (format!("{what} {absent}"), Some(format!("`{file}` excludes `{at}`")))
            }
            Lost::Missing { at } if at != written => {
                let message = if written.starts_with(&format!("{at}/")) {
                    format!("{what} {absent}: there is no folder `{at}`")
                } else {
                    format!("{what} leads over a link to `{at}`, which {absent}")
                };
                (message, self.near(&at))
            }
            Lost::Missing { at } => (format!("{what} {absent}"), self.near(&at)),
            Lost::Loop => (format!("{what} is a link that leads to itself"), None),
            Lost::Other(error) => (format!("{what} can't be read: {}", because(&error)), None),
        };
        let outside = clean(written) != written || {
            let text = &source.place.source.text;
            text.get(source.place.span.clone()).is_some_and(|text| text.contains(".."))
        };
        let hint = hint.or_else(|| outside.then(|| "nothing outside the context can be copied".to_owned()));
        self.problems.push(Problem { message, places: vec![source.place.clone()], hint });
    }

    /// A hint with the nearest name beside a missing one.
    fn near(&self, path: &str) -> Option<String> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let names: Vec<String> =
            std::fs::read_dir(self.path(folder)).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let near = nearest(name, names.iter().map(String::as_str).filter(|near| !self.ignore.excludes(&below(folder, near))))?;
        Some(format!("did you mean `{}`?", below(folder, near)))
    }
}
