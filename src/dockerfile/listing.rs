//! Lists what of a context can be read, by Docker's rules: wildcards, `.dockerignore`, links resolved inside the root.
//! Stats each path once and reads no file.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;

use super::context::clean;
use super::glob::{PathPattern, has_wildcard};
use super::{ContextEntry, ContextSource, ContextUse, EntryKind, Ignore};
use crate::folder::Folder;
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

/// Lists what `use_` reads of the context `root`.
///
/// # Errors
/// Sources that are not there (or excluded), link loops, sockets and the like, folders that can't be read, names that are no
/// UTF-8: each with the instruction that wants it.
pub fn list_context(root: &Folder, use_: &ContextUse, ignore: &Ignore) -> Result<Listing, Vec<Problem>> {
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
        // of the folder by its path, which may be a link
        match std::fs::symlink_metadata(root.path()) {
            Ok(metadata) => lister.walk("", Stamp::of(&metadata), &Filter::default(), &|problem| problem),
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
    root: &'a Folder,
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
        self.root.path().join(relative)
    }

    fn add(&mut self, path: &str, kind: EntryKind, stamp: Stamp) {
        let entry = ContextEntry { path: path.to_owned(), kind, stamp };
        self.entries.insert(path.to_owned(), entry);
    }

    /// Follows `path` to what is no link, inside the root; links on the way count as entries.
    fn locate(&mut self, path: &str) -> Result<(String, Stamp), Lost> {
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
            let stamp = self.root.stamp(&next).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Lost::Missing { at: next.clone() },
                _ => Lost::Other(error),
            })?;
            if stamp.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Lost::Loop);
                }
                if self.ignore.excludes(&next) {
                    return Err(Lost::Excluded { at: next });
                }
                let target = self.link(&next, stamp).map_err(Lost::Other)?;
                if target.starts_with('/') {
                    current.clear();
                }
                pending.extend(target.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned));
                continue;
            }
            if stamp.is_dir() {
                self.real.insert(next.clone());
            } else if !pending.is_empty() {
                return Err(Lost::Missing { at: next });
            }
            current = next;
            found = Some(stamp);
        }
        match found {
            Some(stamp) => Ok((current, stamp)),
            // the root, or a path that ends in `..`
            None => self.root.stamp(&current).map(|stamp| (current, stamp)).map_err(Lost::Other),
        }
    }

    /// Adds a link, and says where it leads.
    fn link(&mut self, path: &str, stamp: Stamp) -> io::Result<String> {
        let target = std::fs::read_link(self.path(path))?;
        let target = target.into_os_string().into_string().map_err(|_| io::Error::other("the target of the link is no UTF-8"))?;
        self.add(path, EntryKind::Link { target: target.clone() }, stamp);
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
                Ok((path, stamp)) => self.take(&source.path, &path, stamp, source, &filter, &at_source),
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
        let (start, stamp) = match self.locate(&base) {
            Ok(found) => found,
            Err(lost) => return self.lost(&source.path, lost, source),
        };
        if !stamp.is_dir() {
            return self.lost(&source.path, Lost::Missing { at: base }, source);
        }
        if !start.is_empty() {
            // a daemon looks for it though nothing in it may match
            self.add(&start, EntryKind::Folder, stamp);
        }
        let mut folders = vec![(start, stamp)];
        for (number, pattern) in patterns.iter().enumerate() {
            let last = number + 1 == patterns.len();
            for (folder, stamp) in std::mem::take(&mut folders) {
                for (name, stamp) in self.children(&folder, stamp, at_source) {
                    let path = below(&folder, &name);
                    if !pattern.matches(&name) || (self.ignore.excludes(&path) && !self.ignore.may_reinclude_below(&path)) {
                        continue;
                    }
                    if !last {
                        folders.extend(stamp.is_dir().then_some((path, stamp)));
                    } else if stamp.is_symlink() {
                        match self.locate(&path) {
                            Ok((end, stamp)) => self.take(&path, &end, stamp, source, filter, at_source),
                            Err(lost) => self.lost(&path, lost, source),
                        }
                    } else {
                        self.take(&path, &path, stamp, source, filter, at_source);
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
        stamp: Stamp,
        source: &ContextSource,
        filter: &Filter,
        at_source: &dyn Fn(Problem) -> Problem,
    ) {
        if !path.is_empty() && self.ignore.excludes(path) && !(stamp.is_dir() && self.ignore.may_reinclude_below(path)) {
            return self.lost(written, Lost::Excluded { at: path.to_owned() }, source);
        }
        if stamp.is_dir() {
            self.walk(path, stamp, filter, at_source);
        } else {
            self.leaf(path, stamp, at_source);
        }
    }

    /// Adds what is no folder.
    fn leaf(&mut self, path: &str, stamp: Stamp, at_source: &dyn Fn(Problem) -> Problem) {
        if stamp.is_file() {
            self.add(path, EntryKind::File { executable: stamp.mode & 0o100 != 0 }, stamp);
        } else if stamp.is_symlink() {
            if let Err(error) = self.link(path, stamp) {
                self.problems.push(at_source(Problem::new(format!("the link `{path}` can't be read: {}", because(&error)))));
            }
        } else {
            let what = match stamp.kind() {
                libc::S_IFSOCK => "a socket",
                libc::S_IFIFO => "a pipe",
                _ => "a device",
            };
            let problem = Problem::new(format!("`{path}` in the context is {what}; only files, folders and links can be copied"));
            self.problems.push(at_source(problem.hint("exclude it with `.dockerignore`")));
        }
    }

    /// Everything in a folder, sorted by name, with its stat.
    fn children(&mut self, folder: &str, stamp: Stamp, at_source: &dyn Fn(Problem) -> Problem) -> Vec<(String, Stamp)> {
        self.folders.insert(folder.to_owned(), stamp);
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
            children.into_iter().map(|(name, entry)| Ok((name, Stamp::of(&entry.metadata()?)))).collect::<io::Result<Vec<_>>>()
        });
        read.unwrap_or_else(|error| {
            let shown = if folder.is_empty() { "the context".to_owned() } else { format!("folder `{folder}` of the context") };
            self.problems.push(at_source(Problem::new(format!("{shown} can't be read: {}", because(&error)))));
            Vec::new()
        })
    }

    /// Takes a folder and all below it that is not left out.
    fn walk(&mut self, top: &str, stamp: Stamp, filter: &Filter, at_source: &dyn Fn(Problem) -> Problem) {
        let whole = filter.exclude.is_empty() && filter.include.is_none();
        if whole && !self.walked.insert(top.to_owned()) {
            return;
        }
        if !top.is_empty() {
            self.add(top, EntryKind::Folder, stamp);
        }
        let mut folders = vec![(top.to_owned(), stamp)];
        while let Some((folder, stamp)) = folders.pop() {
            for (name, stamp) in self.children(&folder, stamp, at_source) {
                let path = below(&folder, &name);
                let inner = if top.is_empty() { path.as_str() } else { &path[top.len() + 1..] };
                let ignored = self.ignore.excludes(&path);
                let excluded = filter.exclude.excludes(inner);
                let included = filter.include.as_ref().is_none_or(|include| include.excludes(inner));
                let taken = !ignored && !excluded && included;
                if !stamp.is_dir() {
                    if taken {
                        self.leaf(&path, stamp, at_source);
                    }
                    continue;
                }
                if taken {
                    self.add(&path, EntryKind::Folder, stamp);
                }
                let slashed = format!("{inner}/");
                let reachable = included || filter.literal.starts_with(&slashed) || slashed.starts_with(&filter.literal);
                let skipped = (ignored && !self.ignore.may_reinclude_below(&path))
                    || (excluded && !filter.exclude.may_reinclude_below(inner))
                    || !reachable;
                if !skipped {
                    folders.push((path, stamp));
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
