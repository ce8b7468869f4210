//! File events become change sets: which folders are followed, which of their events count, when a burst of them is over.
//! Knows paths and events, and neither build files nor what a change means: that the keys decide.
//!
//! A folder is followed for its own entries alone. Followed are the folders that were listed, those that hold a file that was
//! read or looked for, and all above them up to the root, so that a folder that is moved away or into place is noticed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::stamp::Stamp;

/// How long nothing may happen before a burst of events is over.
pub const DEBOUNCE: Duration = Duration::from_millis(50);

/// A burst that does not end is taken up after this long.
const LONGEST: Duration = Duration::from_secs(1);

/// How often polling looks.
pub const POLL: Duration = Duration::from_secs(1);

/// What has changed since the last time it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Paths, relative to the root where they lie in it.
    pub paths: BTreeSet<String>,
    /// Events were lost: anything may have changed.
    pub overflow: bool,
}

impl Changes {
    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.overflow
    }

    /// Adds later ones.
    pub fn extend(&mut self, later: Self) {
        self.paths.extend(later.paths);
        self.overflow |= later.overflow;
    }

    /// In words, like `a/Dockerfile changed` or `5 paths changed: a, b, c and 2 more`.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 3;
        let some: Vec<&str> = self.paths.iter().take(SHOWN).map(String::as_str).collect();
        match self.paths.len() {
            _ if self.overflow => "more changed than the kernel could tell: everything was checked".to_owned(),
            0 => "nothing changed".to_owned(),
            1 => format!("{} changed", some[0]),
            count if count <= SHOWN => format!("{count} paths changed: {}", some.join(", ")),
            count => format!("{count} paths changed: {} and {} more", some.join(", "), count - SHOWN),
        }
    }
}

/// When a burst of events is over. Moments are those of one monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debounce(Option<(Duration, Duration)>);

impl Debounce {
    /// An event came.
    pub fn push(&mut self, now: Duration) {
        let first = self.0.map_or(now, |(first, _)| first);
        self.0 = Some((first, now));
    }

    /// How long to wait until the burst is over; zero when it is, `None` without one.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let (first, last) = self.0?;
        Some((last + DEBOUNCE).min(first + LONGEST).saturating_sub(now))
    }

    /// The burst is taken up.
    pub fn reset(&mut self) {
        self.0 = None;
    }
}

/// What an evaluation relies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Paths that were read, listed, or looked for in vain; relative to the root, or absolute.
    paths: BTreeSet<Arc<str>>,
    /// Folders that were searched for folders: other files in them do not count.
    searched: BTreeSet<String>,
}

impl Interest {
    /// Relies on these too.
    pub fn add<P: Into<Arc<str>>>(&mut self, paths: impl IntoIterator<Item = P>) {
        self.paths.extend(paths.into_iter().map(Into::into));
    }

    /// Relies on which folders and links there are in these folders.
    pub fn search(&mut self, folders: impl IntoIterator<Item = String>) {
        self.searched.extend(folders);
    }

    /// Relies on all that `other` does, and on these.
    pub fn merge(&mut self, other: Self, paths: impl IntoIterator<Item = String>) {
        self.searched.extend(other.searched);
        self.paths.extend(other.paths);
        self.add(paths);
    }
}

/// Absolute paths that count, and the folders that tell of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Followed {
    /// Paths whose every event counts.
    exact: BTreeSet<PathBuf>,
    /// Folders whose entries all count.
    listed: BTreeSet<PathBuf>,
    /// Folders of whose entries only folders and links count.
    searched: BTreeSet<PathBuf>,
    /// Folders to be told of.
    folders: BTreeSet<PathBuf>,
}

/// Finds where paths really lie. Remembers folders, so that it holds for one look.
pub struct Links<'r> {
    root: &'r Path,
    folders: HashMap<PathBuf, Option<PathBuf>>,
}

/// How many links a path may lead through.
const LINKS: usize = 40;

impl<'r> Links<'r> {
    /// Knows nothing yet.
    pub fn new(root: &'r Path) -> Self {
        Self { root, folders: HashMap::new() }
    }

    /// Where a path relative to the root, or an absolute one, leads to, as [`Changes`] has it; `None` where it leads to itself. What is
    /// not there has a place too, where its folder is there.
    pub fn elsewhere(&mut self, path: &str) -> Option<String> {
        let real = self.real(&whole(self.root, path))?;
        Some(shown(self.root, &real))
    }

    fn real(&mut self, whole: &Path) -> Option<PathBuf> {
        let mut path = whole.to_owned();
        for _ in 0..LINKS {
            let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return path.canonicalize().ok() };
            let folder = self.folder(above)?;
            path = folder.join(name);
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_symlink() => path = folder.join(path.read_link().ok()?),
                _ => return (path != whole).then_some(path),
            }
        }
        None
    }

    fn folder(&mut self, folder: &Path) -> Option<PathBuf> {
        if let Some(known) = self.folders.get(folder) {
            return known.clone();
        }
        let real = folder.canonicalize().ok();
        self.folders.insert(folder.to_owned(), real.clone());
        real
    }
}

impl Followed {
    /// Looks at the disk for which paths are folders, and where links lead; adds to what is followed.
    fn add_all(&mut self, root: &Path, interest: &Interest) {
        let mut links = Links::new(root);
        let mut climbed = HashSet::new();
        for path in &interest.paths {
            let whole = whole(root, path);
            // what a link leads to is told of where that lies
            for path in links.real(&whole).into_iter().chain([whole]) {
                if path.is_dir() {
                    self.listed.insert(path.clone());
                }
                self.add(root, &path, &mut climbed);
            }
        }
        for path in &interest.searched {
            let whole = whole(root, path);
            self.add(root, &whole, &mut climbed);
            self.searched.insert(whole);
        }
    }

    fn extend(&mut self, more: Self) {
        self.exact.extend(more.exact);
        self.listed.extend(more.listed);
        self.searched.extend(more.searched);
        self.folders.extend(more.folders);
    }

    /// `climbed` are the folders from which everything above is followed already.
    fn add(&mut self, root: &Path, whole: &Path, climbed: &mut HashSet<PathBuf>) {
        if whole.is_dir() {
            self.folders.insert(whole.to_owned());
        }
        self.exact.insert(whole.to_owned());
        for above in whole.ancestors().skip(1) {
            if !climbed.insert(above.to_owned()) {
                break;
            }
            let inside = above.starts_with(root);
            let there = above.is_dir();
            if there {
                self.folders.insert(above.to_owned());
            }
            if above == root || (!inside && there) {
                break;
            }
            if inside {
                self.exact.insert(above.to_owned());
            }
        }
    }

    /// Whether an event at `path` may change an evaluation.
    fn counts(&self, path: &Path) -> bool {
        let Some(folder) = path.parent() else { return true };
        let leads_on = || path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir() || metadata.is_symlink());
        self.exact.contains(path) || self.listed.contains(folder) || (self.searched.contains(folder) && leads_on())
    }
}

/// What a message says that came from whoever looks at the disk.
pub type Message = notify::Result<notify::Event>;

/// How the disk is looked at.
enum Source {
    Kernel(RecommendedWatcher),
    /// The last stamps of all that is followed.
    Poll(BTreeMap<PathBuf, Option<Stamp>>),
}

/// Follows what evaluations rely on.
pub struct Watcher {
    root: PathBuf,
    /// The folder of igraph's own files: its events never count.
    own: PathBuf,
    source: Source,
    followed: Followed,
    /// Folders that the kernel tells of.
    told: BTreeSet<PathBuf>,
    /// Some of them moved or went since, and may be back in another's place.
    moved: bool,
}

/// Why the disk is polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the kernel, or the library that asks it, said.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

const WATCHES: &str = "sysctl fs.inotify.max_user_watches=524288 lets the kernel follow more folders";
const INSTANCES: &str = "sysctl fs.inotify.max_user_instances=1024 lets more programs follow folders";

impl Limit {
    fn of(error: &notify::Error) -> Self {
        let hint = match &error.kind {
            notify::ErrorKind::MaxFilesWatch => Some(WATCHES),
            notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::ENOSPC) => Some(WATCHES),
            notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => Some(INSTANCES),
            _ => None,
        };
        let reason = match &error.kind {
            notify::ErrorKind::MaxFilesWatch => "the kernel follows no more folders for this user".to_owned(),
            _ => error.to_string(),
        };
        Self { reason, hint }
    }
}

impl Watcher {
    /// Follows nothing yet; messages go to `tell`. `own` is the folder of igraph's own files. Where the kernel's way can't be had the
    /// disk is polled.
    pub fn new(root: &Path, own: &Path, tell: impl Fn(Message) + Send + 'static, poll: bool) -> (Self, Option<Limit>) {
        let (source, limit) = if poll {
            (Source::Poll(BTreeMap::new()), None)
        } else {
            match notify::recommended_watcher(tell) {
                Ok(watcher) => (Source::Kernel(watcher), None),
                Err(error) => (Source::Poll(BTreeMap::new()), Some(Limit::of(&error))),
            }
        };
        let (root, own) = (root.to_owned(), own.to_owned());
        (Self { root, own, source, followed: Followed::default(), told: BTreeSet::new(), moved: false }, limit)
    }

    /// Whether [`Self::poll`] has to be asked now and then.
    pub fn polls(&self) -> bool {
        matches!(self.source, Source::Poll(_))
    }

    /// How many folders are followed.
    pub fn folders(&self) -> usize {
        self.followed.folders.len()
    }

    /// Follows what `interest` needs, and nothing else. True where something is followed now that was not before: what changed there
    /// meanwhile nobody has told. With `whole` nothing is taken as followed before.
    pub fn follow(&mut self, interest: &Interest, whole: bool) -> (bool, Option<Limit>) {
        let mut followed = Followed::default();
        followed.add_all(&self.root, interest);
        self.take_over(followed, whole)
    }

    /// Follows what `interest` needs too.
    pub fn follow_more(&mut self, interest: &Interest) -> (bool, Option<Limit>) {
        let mut more = Followed::default();
        more.add_all(&self.root, interest);
        let told = more.folders.iter().all(|folder| self.told.contains(folder));
        if told && !self.moved && !self.polls() {
            self.followed.extend(more);
            return (false, None);
        }
        let mut followed = std::mem::take(&mut self.followed);
        followed.extend(more);
        // of what went since, the folders above tell
        followed.folders.retain(|folder| self.told.contains(folder) || folder.is_dir());
        self.take_over(followed, false)
    }

    fn take_over(&mut self, followed: Followed, whole: bool) -> (bool, Option<Limit>) {
        self.moved = false;
        let mut limit = None;
        let mut new = false;
        if let Source::Kernel(watcher) = &mut self.source {
            let gone: Vec<PathBuf> = if whole {
                std::mem::take(&mut self.told).into_iter().collect()
            } else {
                self.told.difference(&followed.folders).cloned().collect()
            };
            for folder in gone {
                // a folder that is gone is followed no more anyway
                let _ = watcher.unwatch(&folder);
                self.told.remove(&folder);
            }
            for folder in &followed.folders {
                if self.told.contains(folder) {
                    continue;
                }
                match watcher.watch(folder, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        new = true;
                        self.told.insert(folder.clone());
                    }
                    // it went meanwhile: whoever holds it tells of that
                    Err(error) if is_gone(&error) => new = true,
                    Err(error) => {
                        limit = Some(Limit::of(&error));
                        break;
                    }
                }
            }
        }
        self.followed = followed;
        if limit.is_some() {
            self.source = Source::Poll(BTreeMap::new());
            self.told.clear();
        }
        if let Source::Poll(known) = &mut self.source {
            let paths = self.followed.exact.iter().chain(&self.followed.listed);
            let mut stamps: BTreeMap<PathBuf, Option<Stamp>> = BTreeMap::new();
            for path in paths {
                // what was known keeps its old stamp, so that a change since the last look is still found
                let stamp = known.get(path).copied();
                new |= stamp.is_none();
                stamps.insert(path.clone(), stamp.unwrap_or_else(|| look(path)));
            }
            *known = stamps;
        }
        (new, limit)
    }

    /// Looks at all that is followed, where the kernel does not tell.
    pub fn poll(&mut self) -> Changes {
        let mut changes = Changes::default();
        let Source::Poll(known) = &mut self.source else { return changes };
        for (path, stamp) in known.iter_mut() {
            let now = look(path);
            if now != *stamp {
                *stamp = now;
                changes.paths.insert(shown(&self.root, path));
            }
        }
        changes
    }

    /// What a message means. A folder that moved or went is followed no more, so that the next [`Self::follow`] begins anew with it.
    pub fn take(&mut self, message: Message) -> Changes {
        let mut changes = Changes::default();
        let event = match message {
            Ok(event) => event,
            Err(_) => {
                changes.overflow = true;
                return changes;
            }
        };
        if event.need_rescan() {
            changes.overflow = true;
            return changes;
        }
        if matches!(event.kind, EventKind::Access(_)) {
            return changes;
        }
        for path in &event.paths {
            if path.starts_with(&self.own) || path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".igraph-")) {
                continue;
            }
            if matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
                self.forget(path);
            }
            if self.followed.counts(path) {
                changes.paths.insert(shown(&self.root, path));
            }
        }
        changes
    }

    fn forget(&mut self, path: &Path) {
        let Source::Kernel(watcher) = &mut self.source else { return };
        let below: Vec<PathBuf> = self.told.iter().filter(|folder| folder.starts_with(path)).cloned().collect();
        self.moved |= !below.is_empty();
        for folder in below {
            let _ = watcher.unwatch(&folder);
            self.told.remove(&folder);
        }
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)),
        _ => false,
    }
}

fn whole(root: &Path, path: &str) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(path) }
}

fn look(path: &Path) -> Option<Stamp> {
    path.symlink_metadata().ok().map(|metadata| Stamp::of(&metadata))
}

fn shown(root: &Path, path: &Path) -> String {
    let short = path.strip_prefix(root).unwrap_or(path);
    if short.as_os_str().is_empty() { ".".to_owned() } else { short.to_string_lossy().into_owned() }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
