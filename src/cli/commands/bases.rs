//! `outdated` and `update`: what moved in the registries since `igraph.lock`, and moving the lock there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cli::args::{Outdated, Update, World};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::program::Context;
use crate::cli::workbench::Workbench;
use crate::clock::Clock;
use crate::event::NodeKind;
use crate::execute::retry::next_wait;
use crate::failure::Failure;
use crate::graph::{BaseSource, Body, Depth, Graph, NodeIndex};
use crate::label::NodeLabel;
use crate::lock::{LockEntry, LockFile, LockedBase};
use crate::pattern::Selection;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Client, ResolvedBase};

/// A registry base of the catalogue, and what stands on it.
struct Found {
    reference: Reference,
    platform: Platform,
    /// The nodes that stand on it.
    above: BTreeSet<NodeIndex>,
    images: usize,
    tests: usize,
    names: usize,
}

/// What a registry says about a base.
#[derive(Clone)]
enum Verdict {
    /// The platform's manifest is the locked one.
    Same,
    /// It is another.
    Moved { old: LockedBase, new: ResolvedBase },
    /// It is not in the lock yet.
    New(ResolvedBase),
}

/// Shows what moved.
pub fn outdated(args: &Outdated, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let lock = bench.lock()?;
    let bases = bases(&bench, &lock, &args.what)?;
    let verdicts = ask_all(&bench, &bases, &lock)?;
    let mut failures = Vec::new();
    let mut moved = 0;
    for (base, verdict) in bases.iter().zip(verdicts) {
        let name = name_of(base);
        match verdict {
            Ok(Verdict::Same) => {
                if context.global.verbose {
                    context.printer.line(format_args!("{name}\tunchanged"))?;
                }
            }
            Ok(Verdict::Moved { old, new }) => {
                moved += 1;
                context.printer.line(format_args!(
                    "{name}\tmoved {} → {}\tlocked {}\t{}",
                    old.manifest.short(),
                    new.manifest.short(),
                    old.time.to_rfc3339(),
                    radius(base)
                ))?;
            }
            Ok(Verdict::New(new)) => {
                moved += 1;
                context.printer.line(format_args!("{name}\tnot locked yet: {}\t\t{}", new.manifest.short(), radius(base)))?;
            }
            Err(failure) => failures.push((name, failure)),
        }
    }
    if moved == 0 && failures.is_empty() {
        context.printer.say(format_args!("igraph: {}, none has moved", count(bases.len())));
    }
    report(&failures, context)
}

/// Moves the lock.
pub fn update(args: &Update, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let clock = crate::cli::clock::system();
    let _writer = if args.dry_run { None } else { Some(bench.writer(args.no_wait, clock.as_ref())?) };
    let lock = bench.lock()?;
    let bases = bases(&bench, &lock, &args.what)?;
    let verdicts = ask_all(&bench, &bases, &lock)?;
    let mut failures = Vec::new();
    let mut moved = 0;
    let mut entries = Vec::new();
    for (base, verdict) in bases.iter().zip(verdicts) {
        let name = name_of(base);
        let (old, new) = match verdict {
            Ok(Verdict::Same) => continue,
            Ok(Verdict::Moved { old, new }) => (Some(old), new),
            Ok(Verdict::New(new)) => (None, new),
            Err(failure) => {
                failures.push((name, failure));
                continue;
            }
        };
        moved += 1;
        let from = old.map_or_else(|| "nothing".to_owned(), |old| old.manifest.short());
        context.printer.line(format_args!("{name}\t{from} → {}\t{}", new.manifest.short(), radius(base)))?;
        entries.push(LockEntry {
            reference: base.reference.clone(),
            platform: base.platform.clone(),
            base: LockedBase { index: new.index, manifest: new.manifest, config: new.image_id, time: clock.now() },
        });
    }
    if !args.dry_run && !entries.is_empty() {
        lock.insert(entries).map_err(|source| Error::Write { path: bench.root().join(crate::lock::LOCK_FILE), source })?;
    }
    let what = if args.dry_run { "would be moved" } else { "moved" };
    context.printer.say(format_args!("igraph: {moved} of {} {what} in {}", count(bases.len()), crate::lock::LOCK_FILE));
    report(&failures, context)
}

/// Asks after the bases that a selection stands on, and moves the lock where they have moved; returns those, sorted. What could not be
/// asked is told as a warning.
pub fn renew(bench: &Workbench<'_>, selection: &Selection, clock: &dyn Clock) -> Result<Vec<String>, Error> {
    let context = bench.context;
    let lock = bench.lock()?;
    let found = found(bench, &lock, selection, &[])?;
    let mut entries = Vec::new();
    for (base, verdict) in found.iter().zip(ask_all(bench, &found, &lock)?) {
        match verdict {
            Ok(Verdict::Moved { new, .. }) => entries.push(LockEntry {
                reference: base.reference.clone(),
                platform: base.platform.clone(),
                base: LockedBase { index: new.index, manifest: new.manifest, config: new.image_id, time: clock.now() },
            }),
            // what is not in the lock yet is resolved by the next run
            Ok(Verdict::Same | Verdict::New(_)) => {}
            Err(failure) => context.printer.warn(format_args!("{}: {}", name_of(base), failure.message)),
        }
    }
    let moved: Vec<String> = entries.iter().map(|entry| entry.reference.familiar()).collect();
    if !entries.is_empty() {
        let _writer = bench.writer(false, clock)?;
        // read again: another igraph may have added to it
        let written = bench.lock()?.insert(entries);
        written.map_err(|source| Error::Write { path: bench.root().join(crate::lock::LOCK_FILE), source })?;
    }
    Ok(moved)
}

/// Tells what could not be asked, each trouble once.
fn report(failures: &[(String, Failure)], context: &Context<'_>) -> Result<Exit, Error> {
    let mut told: Vec<(&Failure, Vec<&str>)> = Vec::new();
    for (name, failure) in failures {
        match told.iter_mut().find(|(other, _)| other.group.is_some() && other.group == failure.group) {
            Some((_, names)) => names.push(name),
            None => told.push((failure, vec![name])),
        }
    }
    for (failure, names) in told {
        let message = format!("{}: {}", names.join(", "), failure.message);
        context.printer.error(&Error::Failure(Failure { message, ..failure.clone() }));
    }
    Ok(Exit::of_failures(failures.iter().map(|(_, failure)| (NodeKind::Base, failure))))
}

fn count(bases: usize) -> String {
    format!("{bases} base{}", if bases == 1 { "" } else { "s" })
}

fn name_of(base: &Found) -> String {
    format!("{} ({})", base.reference.familiar(), base.platform)
}

fn radius(base: &Found) -> String {
    format!("{} images, {} tests, {} names", base.images, base.tests, base.names)
}

/// The registry bases that the catalogue uses, sorted; `what` are references, labels of `Base` entries, or patterns of images.
fn bases(bench: &Workbench<'_>, lock: &LockFile, what: &[String]) -> Result<Vec<Found>, Error> {
    found(bench, lock, &bench.everything(), what)
}

fn found(bench: &Workbench<'_>, lock: &LockFile, selection: &Selection, what: &[String]) -> Result<Vec<Found>, Error> {
    let state = bench.state_read_only()?;
    let grounds = Grounds::read(bench, &state, lock, &World::default(), None)?;
    let graph = grounds.graph(selection, Depth::Push)?;
    let wanted = wanted(bench, &graph, what)?;
    let mut found: BTreeMap<(Reference, Platform), Found> = BTreeMap::new();
    for index in graph.order() {
        let node = graph.node(*index);
        let Body::Base(base) = &node.body else { continue };
        let BaseSource::Registry(reference) = &base.source else { continue };
        // a digest moves nowhere; what it means for a platform is locked all the same
        let settled = reference.digest().is_some() && lock.entry(reference, &node.platform).is_some();
        if settled || wanted.as_ref().is_some_and(|wanted| !wanted.contains(index)) {
            continue;
        }
        let counted = found.entry((reference.clone(), node.platform.clone())).or_insert_with(|| Found {
            reference: reference.clone(),
            platform: node.platform.clone(),
            above: BTreeSet::new(),
            images: 0,
            tests: 0,
            names: 0,
        });
        for above in reach(&graph, *index, Graph::dependants) {
            if !counted.above.insert(above) {
                continue;
            }
            match &graph.node(above).body {
                Body::Image(_) => counted.images += 1,
                Body::Test(_) => counted.tests += 1,
                Body::Pushes(names) => counted.names += names.names.len(),
                _ => {}
            }
        }
    }
    Ok(found.into_values().collect())
}

fn reach<'g>(graph: &Graph<'g>, from: NodeIndex, next: fn(&Graph<'g>, NodeIndex) -> Vec<NodeIndex>) -> BTreeSet<NodeIndex> {
    let mut reached = BTreeSet::new();
    let mut todo = next(graph, from);
    while let Some(index) = todo.pop() {
        if reached.insert(index) {
            todo.extend(next(graph, index));
        }
    }
    reached
}

fn wanted(bench: &Workbench<'_>, graph: &Graph<'_>, what: &[String]) -> Result<Option<BTreeSet<NodeIndex>>, Error> {
    if what.is_empty() {
        return Ok(None);
    }
    let mut wanted = BTreeSet::new();
    let mut patterns = Vec::new();
    for text in what {
        let mut owners: BTreeSet<NodeLabel> = BTreeSet::new();
        if let Ok(label) = text.parse::<NodeLabel>() {
            owners.insert(label);
        }
        if let Ok(reference) = text.parse::<Reference>() {
            owners.extend(bench.catalogue.claims.owner(&reference).cloned().map(NodeLabel::Entry));
            owners.insert(NodeLabel::Outside(reference));
        }
        // a base has a node for each platform
        let is_base = |index: &&NodeIndex| {
            let node = graph.node(**index);
            matches!(node.body, Body::Base(_)) && owners.contains(&node.owner)
        };
        let found: Vec<NodeIndex> = graph.order().iter().filter(is_base).copied().collect();
        if found.is_empty() {
            patterns.push(text.clone());
        }
        wanted.extend(found);
    }
    if !patterns.is_empty() {
        for label in bench.select(&patterns, &[])?.labels {
            if let Some(index) = graph.find(&NodeLabel::Entry(label)) {
                wanted.extend(reach(graph, index, Graph::dependencies));
            }
        }
    }
    Ok(Some(wanted))
}

/// Asks the registries, each reference once, several at a time: what became of each base.
fn ask_all(bench: &Workbench<'_>, bases: &[Found], lock: &LockFile) -> Result<Vec<Result<Verdict, Failure>>, Error> {
    let clock = crate::cli::clock::system();
    let client = bench.client(clock.clone(), None)?;
    let asking = Asking { bench, client, clock, lock };
    // sorted, so that the platforms of one reference stand together
    let groups: Vec<&[Found]> = bases.chunk_by(|one, other| one.reference == other.reference).collect();
    let next = AtomicUsize::new(0);
    let answers: Mutex<BTreeMap<usize, Vec<Result<Verdict, Failure>>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..groups.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some((at, group)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, groups.get(at)?))) {
                    let answer = asking.ask(group);
                    answers.lock().unwrap_or_else(PoisonError::into_inner).insert(at, answer);
                }
            });
        }
    });
    Ok(answers.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().flatten().collect())
}

/// References that are asked after at once.
const AT_ONCE: usize = 8;

struct Asking<'a> {
    bench: &'a Workbench<'a>,
    client: Client,
    clock: Arc<dyn Clock>,
    lock: &'a LockFile,
}

impl Asking<'_> {
    /// What became of one reference, for each of its platforms: one HEAD tells of all for which nothing moved.
    fn ask(&self, bases: &[Found]) -> Vec<Result<Verdict, Failure>> {
        let Some(reference) = bases.first().map(|base| &base.reference) else { return Vec::new() };
        let cancel = self.bench.context.cancel;
        let entries: Vec<Option<LockedBase>> = bases.iter().map(|base| self.lock.entry(reference, &base.platform)).collect();
        let head = if entries.iter().any(Option::is_some) {
            match self.patiently(reference, || self.client.head_base(reference, cancel)) {
                Ok(head) => head.map(|head| head.digest),
                Err(failure) => return vec![Err(failure); bases.len()],
            }
        } else {
            None
        };
        let ask = |(base, locked): (&Found, Option<LockedBase>)| {
            // neither the index nor the manifest has moved
            if locked.as_ref().is_some_and(|entry| head.is_some() && (head == entry.index || head == Some(entry.manifest))) {
                return Ok(Verdict::Same);
            }
            let now = self.patiently(reference, || self.client.resolve(reference, &base.platform, cancel))?;
            Ok(match locked {
                None => Verdict::New(now),
                Some(old) if old.manifest == now.manifest => Verdict::Same,
                Some(old) => Verdict::Moved { old, new: now },
            })
        };
        bases.iter().zip(entries).map(ask).collect()
    }

    /// Asks again as the workspace's `retries` allow.
    fn patiently<T>(&self, reference: &Reference, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let context = self.bench.context;
        let mut attempt = 1;
        loop {
            let failure = match ask() {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let policy = &self.bench.catalogue.workspace.retries;
            let Some(wait) = next_wait(policy, attempt, &failure, false, fastrand::f64()) else { return Err(failure) };
            if !context.global.quiet {
                let (name, wait) = (reference.familiar(), wait.as_secs_f64());
                context.printer.say(format_args!("igraph: {name}: {}; again in {wait:.1}s", failure.message));
            }
            if !self.clock.sleep(wait, context.cancel) {
                return Err(Failure::stopped());
            }
            attempt += 1;
        }
    }
}
