//! The loop of a watching igraph: waits for changes, finds out what they may touch, looks at that, and has it run. Knows when to look;
//! what a look means is the planner's.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::Scope as Threads;
use std::time::Duration;

use super::asking::Asking;
use super::look::{Look, Planning, different, dockerfiles};
use super::reach::{Reach, Scope};
use crate::cli::args::{Verb, Watched};
use crate::cli::commands::verb::{self, Summary};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::plan_view;
use crate::cli::program::Context;
use crate::cli::reporting::Reporting;
use crate::cli::survey::Survey;
use crate::cli::workbench::{OUT, Workbench};
use crate::clock::Clock;
use crate::digest::Key;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::graph::Depth;
use crate::keys::FileDigests;
use crate::label::NodeLabel;
use crate::lock::LOCK_FILE;
use crate::pattern::{Here, Selection};
use crate::record::StateIdentity;
use crate::report;
use crate::spec::{BUILD_FILE, Catalogue, LoadedFile, lists_the_same};
use crate::stamp::Stamp;
use crate::watch::{Changes, Debounce, Interest, Limit, Message, POLL, Watcher};

/// Runs `build` or `test`.
pub fn run(verb: &'static str, depth: Depth, args: &Watched, context: &Context<'_>) -> Result<Exit, Error> {
    if !args.watch.watch {
        return verb::run(verb, depth, &args.verb, context);
    }
    if args.verb.selection.patterns.iter().chain(&args.verb.exclude).any(|pattern| pattern == "@-") {
        let hint = Some("put the patterns in a file, and say @FILE".to_owned());
        return Err(Error::Usage { message: "--watch reads patterns again and again, and stdin can be read once".to_owned(), hint });
    }
    Reporting::check(&args.verb.output)?;
    let mut watch = Watch::begin(verb, depth, &args.verb, args.watch.ask_bases, context)?;
    std::thread::scope(|threads| watch.run(threads))
}

/// What wakes the loop.
pub(super) enum Wake {
    /// Something happened on the disk.
    Disk(Message),
    /// The cycle's run has ended.
    Done,
    /// The registries have answered.
    Bases(Result<Survey, Error>),
    /// A signal came.
    Stopped,
}

/// The engine of all cycles, with what was asked for when it was made.
pub(super) type KeptEngine = Mutex<Option<(String, Arc<dyn Engine>)>>;

pub(super) struct Watch<'a> {
    pub(super) verb: &'static str,
    pub(super) depth: Depth,
    pub(super) args: &'a Verb,
    pub(super) context: &'a Context<'a>,
    pub(super) clock: Arc<dyn Clock>,
    /// The last workspace that could be loaded.
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) here: Here,
    pub(super) selection: Selection,
    pub(super) watcher: Watcher,
    pub(super) sender: Sender<Wake>,
    wakes: Receiver<Wake>,
    pub(super) engine: Arc<KeptEngine>,
    pub(super) debounce: Debounce,
    /// What has changed and was not looked at yet.
    pub(super) pending: Changes,
    /// What is not settled since it was last looked at: it is broken, or its run was stopped, or it failed for reasons outside.
    unsettled: Scope,
    /// Whom a change may touch.
    reach: Reach,
    /// The records as they were when everything but what is unsettled was; another igraph makes them others.
    pub(super) seen: Option<StateIdentity>,
    digests: Arc<FileDigests>,
    /// Keys that failed while it watched: they are tried again when something of them changes.
    pub(super) failed: BTreeMap<Key, String>,
    /// The last problem that was told, so that it is told once.
    told: Option<String>,
    /// The lock as igraph left it, where nothing was looked at since.
    pub(super) lock: Option<Option<Vec<u8>>>,
    /// What the last whole evaluation relied on.
    interest: Interest,
    /// The last plan that was shown.
    shown: Option<Vec<u8>>,
    /// With `--bases`.
    pub(super) asking: Option<Asking>,
}

impl<'a> Watch<'a> {
    fn begin(verb: &'static str, depth: Depth, args: &'a Verb, bases: Option<Duration>, context: &'a Context<'a>) -> Result<Self, Error> {
        let bench = Workbench::load(context)?;
        bench.enter(&args.world)?;
        let selection = bench.select(&args.selection.patterns, &args.exclude)?;
        let clock = context.clock();
        let (sender, wakes) = mpsc::channel();
        let tell = sender.clone();
        // the receiver lives as long as the watcher
        let tell = move |message| drop(tell.send(Wake::Disk(message)));
        let own = bench.root().join(OUT);
        let (watcher, limit) = Watcher::new(bench.root(), &own, tell, context.environment.poll);
        warn_of(limit.as_ref(), context);
        let (stopped, cancel) = (sender.clone(), context.cancel.clone());
        let wait = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(cancel.cancelled());
            }
            let _ = stopped.send(Wake::Stopped);
        };
        std::thread::Builder::new()
            .name("stopped".to_owned())
            .spawn(wait)
            .map_err(|error| Error::Failure(Failure::infra(format!("no thread can be started: {error}"))))?;
        Ok(Self {
            verb,
            depth,
            args,
            context,
            catalogue: bench.catalogue.clone(),
            here: bench.here.clone(),
            selection,
            watcher,
            sender,
            wakes,
            engine: Arc::default(),
            debounce: Debounce::default(),
            pending: Changes::default(),
            unsettled: Scope::Everything,
            reach: Reach::default(),
            seen: None,
            digests: Arc::new(bench.digests()),
            failed: BTreeMap::new(),
            told: None,
            lock: None,
            interest: Interest::default(),
            shown: None,
            asking: bases.map(|every| Asking::new(every, clock.monotonic())),
            clock,
        })
    }

    fn run<'s>(&mut self, threads: &'s Threads<'s, '_>) -> Result<Exit, Error>
    where
        'a: 's,
    {
        let mut first = true;
        loop {
            let changes = std::mem::take(&mut self.pending);
            match self.cycle(&changes, first) {
                Ok(()) => {}
                Err(Error::ClosedPipe) => return Err(Error::ClosedPipe),
                Err(error) => self.tell(&error),
            }
            if let Some(number) = self.context.signals.first() {
                return Ok(Exit::Signal(number));
            }
            if first {
                let how = if self.watcher.polls() { ", looking every second" } else { "" };
                let count = self.watcher.folders();
                self.context.printer.say(format_args!("igraph: watching {count} folders{how}; Ctrl-C ends it"));
            }
            first = false;
            if self.pending.is_empty() && !self.wait(threads) {
                return Ok(self.context.signals.first().map_or(Exit::Done, Exit::Signal));
            }
        }
    }

    /// Tells a problem once, however often it is met.
    pub(super) fn tell(&mut self, error: &Error) {
        let text = format!("{error:?}");
        if self.told.as_ref() != Some(&text) {
            self.context.printer.error(error);
            self.told = Some(text);
        }
    }

    /// Waits until something has changed and a burst of events is over; false when it was stopped.
    fn wait<'s>(&mut self, threads: &'s Threads<'s, '_>) -> bool
    where
        'a: 's,
    {
        loop {
            if self.context.cancel.is_cancelled() {
                return false;
            }
            let now = self.clock.monotonic();
            if self.debounce.left(now).is_some_and(|left| left.is_zero()) {
                self.debounce.reset();
                if self.is_news() {
                    return true;
                }
                self.pending = Changes::default();
                continue;
            }
            if let Some(found) = self.asking.as_mut().and_then(Asking::answer) {
                self.renew(found);
                if !self.pending.is_empty() {
                    return true;
                }
                continue;
            }
            let until_bases = self.asking.as_ref().and_then(|asking| asking.left(now));
            if until_bases.is_some_and(|left| left.is_zero()) {
                self.ask_bases(threads);
                continue;
            }
            let poll = self.watcher.polls().then_some(POLL);
            let left = [self.debounce.left(now), until_bases, poll].into_iter().flatten().min();
            self.take(left);
        }
    }

    /// Whether what is pending is more than igraph's own writing of the lock.
    fn is_news(&self) -> bool {
        !self.is_only_lock() || self.lock.as_ref().is_none_or(|left| *left != self.lock_now())
    }

    /// Whether nothing but the lock is pending.
    pub(super) fn is_only_lock(&self) -> bool {
        !self.pending.overflow && self.pending.paths.len() == 1 && self.pending.paths.contains(LOCK_FILE)
    }

    pub(super) fn lock_now(&self) -> Option<Vec<u8>> {
        std::fs::read(self.catalogue.root.join(LOCK_FILE)).ok()
    }

    /// Takes one wake into the pending changes; true when the cycle's run has ended.
    pub(super) fn take(&mut self, timeout: Option<Duration>) -> bool {
        let wake = match timeout {
            None => self.wakes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => self.wakes.recv_timeout(timeout),
        };
        let changes = match wake {
            Ok(Wake::Disk(message)) => self.watcher.take(message),
            Ok(Wake::Done) => return true,
            Ok(Wake::Bases(found)) => {
                if let Some(asking) = &mut self.asking {
                    asking.answered(found);
                }
                return false;
            }
            Ok(Wake::Stopped) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => self.watcher.poll(),
        };
        if !changes.is_empty() {
            self.pending.extend(changes);
            self.debounce.push(self.clock.monotonic());
        }
        false
    }

    pub(super) fn bench<'c>(&self, context: &'c Context<'c>) -> Workbench<'c> {
        Workbench::of(context, self.catalogue.clone(), self.here.clone())
    }

    /// The workspace anew, where a build file or a folder searched for them has changed.
    pub(super) fn loaded(&self, changes: &Changes) -> Result<Option<(Arc<Catalogue>, Here, Selection)>, Error> {
        if !changes.overflow && !self.is_other_workspace(changes) {
            return Ok(None);
        }
        let bench = Workbench::load(self.context)?;
        let selection = bench.select(&self.args.selection.patterns, &self.args.exclude)?;
        Ok(Some((bench.catalogue, bench.here, selection)))
    }

    /// Whether build files are others, or may lie elsewhere.
    fn is_other_workspace(&self, changes: &Changes) -> bool {
        let (root, files) = (&self.catalogue.root, &self.catalogue.files);
        let near = |file: &LoadedFile| {
            let lies_in =
                |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| folder.is_empty() || rest.starts_with('/'));
            let is_near = |path: &String| {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                *path == *file.path || *folder == *file.path || path == "." || lies_in(&file.path, path)
            };
            changes.paths.iter().any(is_near)
        };
        let moved = |file: &LoadedFile| match root.join(&*file.path).metadata() {
            Ok(metadata) if Stamp::of(&metadata) == file.stamp => false,
            Ok(metadata) if metadata.is_dir() => !lists_the_same(root, &file.path, files),
            _ => true,
        };
        let named = changes.paths.iter().any(|path| path.ends_with(BUILD_FILE));
        named || files.iter().any(|file| near(file) && moved(file))
    }

    /// Takes the workspace anew; true where it is. A broken one leaves the last good one in place.
    fn reload(&mut self, changes: &Changes) -> Result<bool, Error> {
        let Some((catalogue, here, selection)) = self.loaded(changes)? else { return Ok(false) };
        (self.catalogue, self.here, self.selection) = (catalogue, here, selection);
        Ok(true)
    }

    /// What the changes may touch.
    pub(super) fn touched(&self, changes: &Changes) -> Scope {
        // steps alone and stand-ins are checked against everything
        let plain = self.selection.steps.is_empty() && self.args.world.bases.is_empty();
        if changes.overflow || !plain { Scope::Everything } else { self.reach.touched(&changes.paths) }
    }

    /// How to evaluate now.
    pub(super) fn planning(&self, scope: Scope) -> Planning<'a> {
        Planning {
            args: self.args,
            depth: self.depth,
            selection: self.selection.clone(),
            scope,
            held: self.failed.clone(),
            digests: self.digests.clone(),
        }
    }

    /// Looks at what is in scope, follows what that relies on, and looks again until nothing new has to be followed.
    fn look<T>(&mut self, scope: &Scope, overflow: bool, mut then: impl FnMut(&Look<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut overflow = overflow;
        let whole = *scope == Scope::Everything;
        loop {
            let bench = self.bench(self.context);
            let mut interest = if whole { self.roots() } else { Interest::default() };
            if whole {
                // it is large, and learned anew
                self.reach = Reach::default();
            }
            let state = bench.state_read_only()?;
            let mut looked_at = Vec::new();
            let result = self.planning(scope.clone()).evaluate(&bench, &state, |look| {
                let owners = look.owners(bench.root());
                looked_at.extend(owners.keys().cloned());
                self.reach.learn(owners, whole);
                let broken = look.broken();
                if broken.is_empty() { then(look) } else { Err(Error::Problems(broken)) }
            });
            // an evaluation of everything takes most of the memory there is, and is gone by now
            interest.add(self.reach.paths_of(&looked_at));
            let (new, limit) = if whole {
                match &result {
                    Ok(_) => self.interest = interest.clone(),
                    // what is broken need not be of an image that was matched
                    Err(_) => interest.merge(self.interest.clone(), dockerfiles(&self.catalogue)),
                }
                self.watcher.follow(&interest, overflow)
            } else {
                self.watcher.follow_more(&interest)
            };
            warn_of(limit.as_ref(), self.context);
            overflow = false;
            if !new {
                return result;
            }
        }
    }

    /// Keeps the digests of what was read.
    fn save_digests(&self) -> Result<(), Error> {
        let folder = self.bench(self.context).folder;
        if !folder.path().is_dir() {
            return Ok(());
        }
        self.digests.save().map_err(|source| Error::Write { path: folder.file_digests(), source })
    }

    /// What counts even where nothing can be evaluated.
    fn roots(&self) -> Interest {
        let mut interest = Interest::default();
        let (files, folders): (Vec<_>, Vec<_>) = self.catalogue.files.iter().partition(|file| file.path.ends_with(BUILD_FILE));
        // in a folder without a build file one may appear
        let looked_for = folders
            .iter()
            .map(|folder| if folder.path.is_empty() { BUILD_FILE.to_owned() } else { format!("{}/{BUILD_FILE}", folder.path) });
        interest.add(files.iter().map(|file| file.path.to_string()).chain(looked_for).chain([LOCK_FILE.to_owned()]));
        interest.search(folders.iter().map(|folder| folder.path.to_string()));
        let images = self.selection.labels.iter().chain(self.selection.steps.iter().filter_map(NodeLabel::entry));
        for image in images.filter_map(|label| self.catalogue.images.get(label)) {
            interest.add([image.dockerfile.to_string()]);
        }
        interest
    }

    /// Looks, and where there is something to do, runs.
    fn cycle(&mut self, changes: &Changes, first: bool) -> Result<(), Error> {
        self.debounce.reset();
        self.lock = None;
        let records = StateIdentity::of(&self.bench(self.context).folder);
        let reloaded = self.reload(changes);
        let known = matches!(reloaded, Ok(false)) && self.seen == Some(records) && !self.args.plan.dry_run;
        let broken = reloaded.err();
        if self.selection.labels.is_empty() && self.selection.steps.is_empty() {
            return broken.map_or(Ok(()), Err);
        }
        let (args, context, verb) = (self.args, self.context, self.verb);
        if args.plan.dry_run {
            let text = self.look(&Scope::Everything, changes.overflow, |look| plan_view::text(look.planner, look.plan, args, context))?;
            if self.shown.as_ref() != Some(&text) {
                context.printer.document(|out| out.write_all(&text))?;
                self.shown = Some(text);
            }
            self.save_digests()?;
            if broken.is_none() {
                self.told = None;
            }
            return broken.map_or(Ok(()), Err);
        }
        // what failed for reasons outside is tried again with every change
        self.failed.retain(|_, held| !held.is_empty());
        let before = std::mem::replace(&mut self.unsettled, Scope::Everything);
        let scope = if known { self.touched(changes).and(before) } else { Scope::Everything };
        self.unsettled = scope.clone();
        let (work, counts, tests) = self.look(&scope, changes.overflow, |look| {
            let summary = Summary::of(look.planner.graph, look.plan);
            Ok((look.has_work(), summary.scope, verb::has_tests(look.planner.graph)))
        })?;
        self.seen = Some(records);
        match broken {
            Some(error) => self.tell(&error),
            None => self.told = None,
        }
        if first && verb == "test" && !tests {
            context.printer.warn("no test applies to what the patterns match");
        }
        if !work {
            if first && !context.global.quiet {
                context.printer.say(report::nothing_to_do(&counts));
            } else if changes.overflow && !context.global.quiet {
                context.printer.say(format_args!("igraph: {}, and there is nothing to do", changes.describe()));
            } else if context.global.verbose {
                context.printer.say(format_args!("igraph: {}: nothing to do", changes.describe()));
            }
            self.settle(false);
            return self.save_digests();
        }
        let reason = (!first).then(|| changes.describe());
        if let Some(reason) = reason.as_ref().filter(|_| !context.global.quiet) {
            context.printer.say(format_args!("igraph: {reason}"));
        }
        let before = self.execute(&scope, reason);
        if !self.is_news() {
            self.pending = Changes::default();
        }
        let before = before?;
        // what was read only while it ran is followed from now on; whether it changed meanwhile nobody has told
        let (after, left) = self.look(&scope, false, |look| Ok((look.owns(), look.has_work())))?;
        self.settle(left);
        // what was told of says more; all of it is unsettled
        if self.pending.is_empty() {
            self.pending.paths.extend(different(&before, &after).iter().map(|label| format!("input of {label}")));
        }
        Ok(())
    }

    /// What was in scope is settled, unless something is left to do of it, or has failed for reasons outside.
    fn settle(&mut self, left: bool) {
        if !left && !self.failed.values().any(String::is_empty) {
            self.unsettled = Scope::nothing();
        }
    }
}

fn warn_of(limit: Option<&Limit>, context: &Context<'_>) {
    if let Some(limit) = limit {
        context.printer.warn(format_args!("{}: files are looked at every second instead", limit.reason));
        if let Some(hint) = limit.hint {
            context.printer.hint(hint);
        }
    }
}
