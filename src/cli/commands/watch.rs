//! `build` and `test`, once or with `--watch`: a loop of cycles, each a look at all that counts and, where that finds work, a run.
//! Knows when to look; what a look means is the planner's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::verb::{self, Session, Summary};
use crate::cli::args::{Verb, Watched};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::plan_view;
use crate::cli::program::Context;
use crate::cli::reporting::Reporting;
use crate::cli::workbench::{OUT, Workbench};
use crate::clock::Clock;
use crate::digest::Key;
use crate::engine::Engine;
use crate::execute::{EngineFactory, Stops};
use crate::failure::{Failure, FailureClass};
use crate::graph::{Body, Depth, Graph, GraphOptions, NodeIndex};
use crate::keys::{FileDigests, Keys};
use crate::label::NodeLabel;
use crate::lock::{LOCK_FILE, LockFile};
use crate::pattern::{Here, Selection};
use crate::plan::{Decision, Planner, PlannerOptions, Records};
use crate::platform::Platform;
use crate::problem::Problem;
use crate::record::State;
use crate::report;
use crate::spec::{Catalogue, LoadedFile, TestForm};
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
    watch.run()
}

/// What wakes the loop.
enum Wake {
    /// Something happened on the disk.
    Disk(Message),
    /// The cycle's run has ended.
    Done,
    /// A signal came.
    Stopped,
}

/// The engine of all cycles, with what was asked for when it was made.
type KeptEngine = Mutex<Option<(String, Arc<dyn Engine>)>>;

struct Watch<'a> {
    verb: &'static str,
    depth: Depth,
    args: &'a Verb,
    context: &'a Context<'a>,
    clock: Arc<dyn Clock>,
    /// The last workspace that could be loaded.
    catalogue: Arc<Catalogue>,
    here: Here,
    selection: Selection,
    watcher: Watcher,
    sender: Sender<Wake>,
    wakes: Receiver<Wake>,
    engine: KeptEngine,
    debounce: Debounce,
    /// What has changed and was not looked at yet.
    pending: Changes,
    /// Keys that failed while it watched: they are tried again when something of them changes.
    failed: BTreeMap<Key, String>,
    /// The last problem that was told, so that it is told once.
    told: Option<String>,
    /// The lock as igraph left it.
    lock: Option<Vec<u8>>,
    /// What the last whole evaluation relied on.
    interest: Interest,
    /// The last plan that was shown.
    shown: Option<Vec<u8>>,
    /// How often bases are asked after, and when next.
    bases: Option<(Duration, Duration)>,
}

/// One evaluation.
struct Look<'l> {
    planner: &'l Planner<'l>,
    plan: &'l [(NodeIndex, Decision)],
    lock: &'l LockFile,
    digests: &'l FileDigests,
}

/// Digests of the own components of nodes: what files and build files make of them.
type Owns = BTreeMap<(NodeLabel, Platform), Key>;

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
            engine: Mutex::default(),
            debounce: Debounce::default(),
            pending: Changes::default(),
            failed: BTreeMap::new(),
            told: None,
            lock: None,
            interest: Interest::default(),
            shown: None,
            bases: bases.map(|every| (every, clock.monotonic() + every)),
            clock,
        })
    }

    fn run(&mut self) -> Result<Exit, Error> {
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
            if self.pending.is_empty() && !self.wait() {
                return Ok(self.context.signals.first().map_or(Exit::Done, Exit::Signal));
            }
        }
    }

    /// Tells a problem once, however often it is met.
    fn tell(&mut self, error: &Error) {
        let text = format!("{error:?}");
        if self.told.as_ref() != Some(&text) {
            self.context.printer.error(error);
            if let Some(hint) = error.hint() {
                self.context.printer.hint(hint);
            }
            self.told = Some(text);
        }
    }

    /// Waits until something has changed and a burst of events is over; false when it was stopped.
    fn wait(&mut self) -> bool {
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
            if let Some((every, next)) = self.bases
                && now >= next
            {
                self.bases = Some((every, now + every));
                self.ask_bases();
                if !self.pending.is_empty() {
                    return true;
                }
                continue;
            }
            let until_bases = self.bases.map(|(_, next)| next.saturating_sub(now));
            let poll = self.watcher.polls().then_some(POLL);
            let left = [self.debounce.left(now), until_bases, poll].into_iter().flatten().min();
            self.take(left);
        }
    }

    /// Whether what is pending is more than igraph's own writing of the lock.
    fn is_news(&self) -> bool {
        let only_lock = !self.pending.overflow && self.pending.paths.len() == 1 && self.pending.paths.contains(LOCK_FILE);
        !only_lock || std::fs::read(self.catalogue.root.join(LOCK_FILE)).ok() != self.lock
    }

    /// Takes one wake into the pending changes; true when the cycle's run has ended.
    fn take(&mut self, timeout: Option<Duration>) -> bool {
        let wake = match timeout {
            None => self.wakes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => self.wakes.recv_timeout(timeout),
        };
        let changes = match wake {
            Ok(Wake::Disk(message)) => self.watcher.take(message),
            Ok(Wake::Done) => return true,
            Ok(Wake::Stopped) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => self.watcher.poll(),
        };
        if !changes.is_empty() {
            self.pending.extend(changes);
            self.debounce.push(self.clock.monotonic());
        }
        false
    }

    /// Asks the registries after the bases of what is watched; what moved is in the lock afterwards, and pending.
    fn ask_bases(&mut self) {
        let bench = self.bench(self.context);
        match super::bases::renew(&bench, &self.selection, &self.clock) {
            Ok(moved) => self.pending.paths.extend(moved),
            Err(error) => self.tell(&error),
        }
    }

    fn bench<'c>(&self, context: &'c Context<'c>) -> Workbench<'c> {
        Workbench::of(context, self.catalogue.clone(), self.here.clone())
    }

    /// The workspace anew, where a build file or a folder searched for them has changed.
    fn loaded(&self, changes: &Changes) -> Result<Option<(Arc<Catalogue>, Here, Selection)>, Error> {
        let root = &self.catalogue.root;
        let moved = |file: &LoadedFile| root.join(&*file.path).metadata().ok().map(|metadata| Stamp::of(&metadata)) != Some(file.stamp);
        let named = changes.paths.iter().any(|path| path.ends_with("BUILD.ron"));
        if !changes.overflow && !named && !self.catalogue.files.iter().any(moved) {
            return Ok(None);
        }
        let bench = Workbench::load(self.context)?;
        let selection = bench.select(&self.args.selection.patterns, &self.args.exclude)?;
        Ok(Some((bench.catalogue, bench.here, selection)))
    }

    /// Takes the workspace anew. A broken one leaves the last good one in place.
    fn reload(&mut self, changes: &Changes) -> Result<(), Error> {
        if let Some((catalogue, here, selection)) = self.loaded(changes)? {
            (self.catalogue, self.here, self.selection) = (catalogue, here, selection);
        }
        Ok(())
    }

    /// How to evaluate now.
    fn planning(&self) -> Planning<'a> {
        Planning { args: self.args, depth: self.depth, selection: self.selection.clone(), held: self.failed.clone() }
    }

    /// Looks at everything, follows what that relies on, and looks again until nothing new has to be followed.
    fn look<T>(&mut self, whole: bool, mut then: impl FnMut(&Look<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut whole = whole;
        loop {
            let context = self.context;
            let bench = self.bench(context);
            let mut interest = self.roots();
            let state = bench.state_read_only()?;
            let result = self.planning().evaluate(&bench, &state, |look| {
                look.interest(bench.root(), &mut interest);
                let broken = look.broken();
                let answer = if broken.is_empty() { then(look) } else { Err(Error::Problems(broken)) };
                if bench.folder.path().is_dir() {
                    look.digests.save().map_err(|source| Error::Write { path: bench.folder.file_digests(), source })?;
                }
                answer
            });
            match &result {
                Ok(_) => self.interest = interest.clone(),
                // what is broken need not be of an image that was matched
                Err(_) => interest.merge(self.interest.clone(), dockerfiles(&self.catalogue)),
            }
            let (new, limit) = self.watcher.follow(&interest, whole);
            warn_of(limit.as_ref(), self.context);
            whole = false;
            if !new {
                return result;
            }
        }
    }

    /// What counts even where nothing can be evaluated.
    fn roots(&self) -> Interest {
        let mut interest = Interest::default();
        interest.add(self.catalogue.files.iter().map(|file| file.path.to_string()));
        interest.add([LOCK_FILE.to_owned()]);
        let images = self.selection.labels.iter().chain(self.selection.steps.iter().filter_map(NodeLabel::entry));
        for image in images.filter_map(|label| self.catalogue.images.get(label)) {
            interest.add([image.dockerfile.to_string()]);
        }
        interest
    }

    /// Looks, and where there is something to do, runs.
    fn cycle(&mut self, changes: &Changes, first: bool) -> Result<(), Error> {
        self.debounce.reset();
        let broken = self.reload(changes).err();
        if self.selection.labels.is_empty() && self.selection.steps.is_empty() {
            return broken.map_or(Ok(()), Err);
        }
        let (args, context, verb) = (self.args, self.context, self.verb);
        if args.plan.dry_run {
            let text = self.look(changes.overflow, |look| plan_view::text(look.planner, look.plan, args, context))?;
            if self.shown.as_ref() != Some(&text) {
                context.printer.document(|out| out.write_all(&text))?;
                self.shown = Some(text);
            }
            if broken.is_none() {
                self.told = None;
            }
            return broken.map_or(Ok(()), Err);
        }
        // what failed for reasons outside is tried again with every change
        self.failed.retain(|_, held| !held.is_empty());
        let (work, scope, tests) = self.look(changes.overflow, |look| {
            let summary = Summary::of(look.planner.graph, look.plan);
            Ok((look.has_work(), summary.scope, verb::has_tests(look.planner.graph)))
        })?;
        match broken {
            Some(error) => self.tell(&error),
            None => self.told = None,
        }
        if first && verb == "test" && !tests {
            context.printer.warn("no test applies to what the patterns match");
        }
        if !work {
            if first && !context.global.quiet {
                context.printer.say(report::nothing_to_do(&scope));
            } else if context.global.verbose {
                context.printer.say(format_args!("igraph: {}: nothing to do", changes.describe()));
            }
            return Ok(());
        }
        let reason = (!first).then(|| changes.describe());
        if let Some(reason) = reason.as_ref().filter(|_| !context.global.quiet) {
            context.printer.say(format_args!("igraph: {reason}"));
        }
        let before = self.execute(reason);
        self.lock = std::fs::read(self.catalogue.root.join(LOCK_FILE)).ok();
        if !self.is_news() {
            self.pending = Changes::default();
        }
        let before = before?;
        // what was read only while it ran is followed from now on; whether it changed meanwhile nobody has told
        let after = self.look(false, |look| Ok(look.owns()))?;
        for label in different(&before, &after) {
            self.pending.paths.insert(format!("input of {label}"));
        }
        Ok(())
    }

    /// One run, of a plan that is made anew when igraph has the lock: another igraph may have done some of it. The lock is held
    /// meanwhile, and no longer.
    fn execute(&mut self, reason: Option<String>) -> Result<Owns, Error> {
        let cancel = self.context.cancel.child();
        let context = Context { cancel: &cancel, ..*self.context };
        let bench = self.bench(&context);
        let _writer = bench.writer(false, self.clock.as_ref())?;
        let state = bench.state()?;
        let engine = std::mem::take(&mut self.engine);
        let process = format!("{}-{}", std::process::id(), self.clock.now().0);
        let make: Box<EngineFactory<'_>> = {
            let (engine, bench, args, process) = (&engine, &bench, self.args, &process);
            Box::new(move || kept_engine(engine, bench, args, process))
        };
        let stops = Stops::default();
        let ran = self.planning().evaluate(&bench, &state, |look| {
            let summary = Summary::of(look.planner.graph, look.plan);
            let session = Session {
                bench: &bench,
                args: self.args,
                verb: self.verb,
                depth: self.depth,
                state: &state,
                digests: look.digests,
                planner: look.planner,
                plan: look.plan,
                clock: self.clock.clone(),
                engine: make.as_ref(),
                stops: &stops,
                reason,
            };
            let (_, run) = std::thread::scope(|scope| {
                let done = Done(self.sender.clone());
                let running = scope.spawn(|| {
                    let _done = done;
                    session.run(&summary, look.lock)
                });
                self.attend(look, &stops);
                running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            Ok((run, look.owns()))
        });
        drop(make);
        self.engine = engine;
        let (run, owns) = ran?;
        for result in state.results_of_run(&run)? {
            if let (false, Some(failure)) = (result.verdict.is_good(), &result.failure) {
                let held = match failure.class {
                    FailureClass::Step => format!("it failed in run {run}, and nothing of it has changed since"),
                    FailureClass::Infra | FailureClass::Stopped => String::new(),
                };
                self.failed.insert(result.key, held);
            }
        }
        Ok(owns)
    }

    /// Takes events while a run goes on. A change to a node that runs stops it; a change to any makes the run end early, since the
    /// next one plans anew.
    fn attend(&mut self, running: &Look<'_>, stops: &Stops) {
        loop {
            let left = self.debounce.left(self.clock.monotonic());
            if left.is_some_and(|left| left.is_zero()) {
                self.debounce.reset();
                // what is broken is told when the run has ended
                if let Ok(now) = self.owns_now() {
                    let different = different(&running.owns(), &now);
                    for label in stops.running().intersection(&different) {
                        stops.stop(label);
                    }
                    if !different.is_empty() {
                        stops.drain();
                    }
                }
                continue;
            }
            let poll = self.watcher.polls().then_some(POLL);
            if self.take(left.into_iter().chain(poll).min()) {
                return;
            }
        }
    }

    /// What files and build files make of the nodes now.
    fn owns_now(&self) -> Result<Owns, Error> {
        let (catalogue, here, selection) = match self.loaded(&self.pending)? {
            Some(loaded) => loaded,
            None => (self.catalogue.clone(), self.here.clone(), self.selection.clone()),
        };
        let bench = Workbench::of(self.context, catalogue, here);
        let state = bench.state_read_only()?;
        Planning { selection, ..self.planning() }.evaluate(&bench, &state, |look| Ok(look.owns()))
    }
}

/// Tells the loop that a run has ended, however it does.
struct Done(Sender<Wake>);

impl Drop for Done {
    fn drop(&mut self) {
        // the loop waits for it, so it is there
        let _ = self.0.send(Wake::Done);
    }
}

/// All that an evaluation needs besides the workspace and the records.
struct Planning<'a> {
    args: &'a Verb,
    depth: Depth,
    selection: Selection,
    held: BTreeMap<Key, String>,
}

impl Planning<'_> {
    /// Evaluates everything, and hands it to `then`.
    fn evaluate<T>(&self, bench: &Workbench<'_>, state: &State, then: impl FnOnce(&Look<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let lock = bench.lock()?;
        let digests = bench.digests();
        let records = Records::read(state, &lock)?;
        let stand_ins = bench.stand_ins(&self.args.world);
        let destination = bench.destination(self.args.registry.as_ref())?;
        let options = GraphOptions { depth: self.depth, stand_ins: &stand_ins, destination: &destination, platform: &bench.platform };
        let graph = Graph::build(&bench.catalogue, &self.selection, &options, &records).map_err(Error::Problems)?;
        bench.check_stand_ins(&graph, &stand_ins)?;
        if self.args.plan.locked {
            verb::all_locked(&graph, &lock)?;
        }
        let keys = Keys {
            root: bench.root(),
            digests: &digests,
            engine: bench.engine_identity(&self.args.world),
            epoch: bench.catalogue.workspace.epoch,
            build_platform: &bench.platform,
        };
        let held = self.held.clone();
        let options = PlannerOptions { no_cache: self.args.running.no_cache, held, now: bench.context.clock().now(), ..Default::default() };
        let planner = Planner::new(&graph, keys, &records, options);
        let plan = planner.plan();
        then(&Look { planner: &planner, plan: &plan, lock: &lock, digests: &digests })
    }
}

impl Look<'_> {
    /// Problems of definitions and files.
    fn broken(&self) -> Vec<Problem> {
        let problems = |decision: &Decision| if let Decision::Broken(problems) = decision { problems.clone() } else { Vec::new() };
        self.plan.iter().flat_map(|(_, decision)| problems(decision)).collect()
    }

    /// Whether anything would run that does not wait for something that is held back.
    fn has_work(&self) -> bool {
        let mut doomed: BTreeSet<NodeIndex> = BTreeSet::new();
        for (index, decision) in self.plan {
            let graph = self.planner.graph;
            if matches!(decision, Decision::Blocked(_)) || graph.dependencies(*index).iter().any(|needed| doomed.contains(needed)) {
                doomed.insert(*index);
            } else if matches!(decision, Decision::Run { .. } | Decision::Maybe(_)) && !graph.node(*index).steps().is_empty() {
                return true;
            }
        }
        false
    }

    /// What files and build files make of each node, as far as that is known.
    fn owns(&self) -> Owns {
        let own = |(index, _): &(NodeIndex, Decision)| {
            let traces = self.planner.traces(*index)?;
            let node = self.planner.graph.node(*index);
            Some(((node.label(), node.platform.clone()), traces.own))
        };
        self.plan.iter().filter_map(own).collect()
    }

    /// All paths that the evaluation relied on. Of a node whose inputs are not known yet, its whole context.
    fn interest(&self, root: &Path, interest: &mut Interest) {
        for (index, _) in self.plan {
            let traces = self.planner.traces(*index);
            if let Some(traces) = &traces {
                interest.add(traces.watched().map(|(path, _)| path.clone()));
            }
            let (read, context) = match &self.planner.graph.node(*index).body {
                Body::Image(image) => (Some(&image.dockerfile), &image.spec.context),
                Body::Test(test) => match &test.spec.form {
                    TestForm::Dockerfile { context, .. } => (test.dockerfile.as_ref(), context),
                    TestForm::Run { .. } | TestForm::Exec { .. } => continue,
                },
                Body::Base(_) | Body::Gate(_) | Body::Tags(_) | Body::Pushes(_) => continue,
            };
            if let Some(read) = read {
                interest.add([read.path.clone()]);
            }
            if traces.is_none() {
                interest.add(tree(root, context));
            }
        }
    }
}

/// The Dockerfiles of all images and tests.
fn dockerfiles(catalogue: &Catalogue) -> Vec<String> {
    let of_tests = catalogue.tests.values().filter_map(|test| match &test.form {
        TestForm::Dockerfile { dockerfile, .. } => Some(dockerfile.to_string()),
        TestForm::Run { .. } | TestForm::Exec { .. } => None,
    });
    catalogue.images.values().map(|image| image.dockerfile.to_string()).chain(of_tests).collect()
}

/// A folder and all below it, igraph's own and hidden folders left out; relative to the root.
fn tree(root: &Path, folder: &str) -> Vec<String> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let folder = found[next].clone();
        next += 1;
        for entry in std::fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != OUT && !name.starts_with('.') {
                found.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    found
}

/// The nodes of both whose own components differ.
fn different(before: &Owns, after: &Owns) -> BTreeSet<NodeLabel> {
    let differ = before.iter().filter(|(node, own)| after.get(*node).is_some_and(|now| now != *own));
    differ.map(|((label, _), _)| label.clone()).collect()
}

/// The engine of the cycles before, if it is still the one that is asked for.
fn kept_engine(kept: &KeptEngine, bench: &Workbench<'_>, args: &Verb, process: &str) -> Result<Arc<dyn Engine>, Failure> {
    let asked = format!("{:?} {:?}", args.world.engine, bench.catalogue.workspace.engine);
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, engine)) = kept.as_ref().filter(|(known, _)| *known == asked) {
        return Ok(engine.clone());
    }
    let engine = bench.engine(&args.world, process)?;
    *kept = Some((asked, engine.clone()));
    Ok(engine)
}

fn warn_of(limit: Option<&Limit>, context: &Context<'_>) {
    if let Some(limit) = limit {
        context.printer.warn(format_args!("{}: files are looked at every second instead", limit.reason));
        if let Some(hint) = limit.hint {
            context.printer.hint(hint);
        }
    }
}
