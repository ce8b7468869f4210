//! `outdated` and `update`: what moved in the registries since `igraph.lock`, and moving the lock there.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::args::{Outdated, Update};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::program::Context;
use crate::cli::workbench::Workbench;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::graph::{BaseSource, Body, Depth, Graph, GraphOptions, NodeIndex};
use crate::label::NodeLabel;
use crate::lock::{LockEntry, LockFile, LockedBase};
use crate::pattern::Selection;
use crate::plan::Records;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Client, ResolvedBase};
use crate::spec::Destination;

/// A registry base of the catalogue, and what stands on it.
struct Found {
    reference: Reference,
    platform: Platform,
    images: usize,
    tests: usize,
    names: usize,
}

/// What a registry says about a base.
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
    let client = bench.client(crate::cli::clock::system(), None)?;
    let verdicts = ask_all(&client, &bases, &lock, context);
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
        context.printer.say(format_args!("igraph: {} bases, none has moved", bases.len()));
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
    let client = bench.client(clock.clone(), None)?;
    let verdicts = ask_all(&client, &bases, &lock, context);
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
    context.printer.say(format_args!("igraph: {moved} of {} bases {what} in {}", bases.len(), crate::lock::LOCK_FILE));
    report(&failures, context)
}

/// Asks after the bases that a selection stands on, and moves the lock where they have moved; returns those, sorted. What could not be
/// asked is told as a warning.
pub fn renew(bench: &Workbench<'_>, selection: &Selection, clock: &dyn Clock) -> Result<Vec<String>, Error> {
    let context = bench.context;
    let lock = bench.lock()?;
    let found = found(bench, &lock, selection, &[])?;
    let client = bench.client(crate::cli::clock::system(), None)?;
    let mut entries = Vec::new();
    for (base, verdict) in found.iter().zip(ask_all(&client, &found, &lock, context)) {
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

fn report(failures: &[(String, Failure)], context: &Context<'_>) -> Result<Exit, Error> {
    for (name, failure) in failures {
        context.printer.error(&Error::Failure(Failure { message: format!("{name}: {}", failure.message), ..failure.clone() }));
    }
    Ok(if failures.is_empty() { Exit::Done } else { Exit::Infra })
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
    let records = Records::read(&state, lock)?;
    let stand_ins = Default::default();
    let destination = Destination::Workspace(bench.catalogue.workspace.registry.clone());
    let options = GraphOptions { depth: Depth::Push, stand_ins: &stand_ins, destination: &destination, platform: &bench.platform };
    let graph = Graph::build(&bench.catalogue, selection, &options, &records).map_err(Error::Problems)?;
    let wanted = wanted(bench, &graph, what)?;
    let mut found: BTreeMap<(Reference, Platform), Found> = BTreeMap::new();
    for index in graph.order() {
        let node = graph.node(*index);
        let Body::Base(base) = &node.body else { continue };
        let BaseSource::Registry(reference) = &base.source else { continue };
        if reference.digest().is_some() || wanted.as_ref().is_some_and(|wanted| !wanted.contains(index)) {
            continue;
        }
        let mut counted = Found { reference: reference.clone(), platform: node.platform.clone(), images: 0, tests: 0, names: 0 };
        for above in reach(&graph, *index, Graph::dependants) {
            match &graph.node(above).body {
                Body::Image(_) => counted.images += 1,
                Body::Test(_) => counted.tests += 1,
                Body::Pushes(names) => counted.names += names.names.len(),
                _ => {}
            }
        }
        found.insert((reference.clone(), node.platform.clone()), counted);
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
        let reference: Option<NodeLabel> = text.parse::<Reference>().ok().map(NodeLabel::Outside);
        let label: Option<NodeLabel> = text.parse().ok();
        let base = [label, reference].into_iter().flatten().find_map(|owner| {
            let index = graph.find(&owner)?;
            matches!(graph.node(index).body, Body::Base(_)).then_some(index)
        });
        let provided = text.parse::<Reference>().ok().and_then(|reference| bench.catalogue.claims.owner(&reference).cloned());
        let provided = provided.and_then(|label| graph.find(&NodeLabel::Entry(label)));
        match base.or(provided.filter(|index| matches!(graph.node(*index).body, Body::Base(_)))) {
            Some(index) => {
                wanted.insert(index);
            }
            None => patterns.push(text.clone()),
        }
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

/// Asks the registries, each reference once, several at a time.
fn ask_all(client: &Client, bases: &[Found], lock: &LockFile, context: &Context<'_>) -> Vec<Result<Verdict, Failure>> {
    let ask = |base: &Found| ask(client, base, lock, context);
    std::thread::scope(|scope| {
        let chunks = bases.chunks(bases.len().div_ceil(8).max(1));
        let threads: Vec<_> = chunks.map(|chunk| scope.spawn(move || chunk.iter().map(ask).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

fn ask(client: &Client, base: &Found, lock: &LockFile, context: &Context<'_>) -> Result<Verdict, Failure> {
    let locked = lock.entry(&base.reference, &base.platform);
    if let Some(entry) = &locked {
        let head = client.head_base(&base.reference, context.cancel)?;
        // neither the index nor the manifest has moved
        if head.is_some_and(|head| Some(head.digest) == entry.index || head.digest == entry.manifest) {
            return Ok(Verdict::Same);
        }
    }
    let now = client.resolve(&base.reference, &base.platform, context.cancel)?;
    Ok(match locked {
        None => Verdict::New(now),
        Some(old) if old.manifest == now.manifest => Verdict::Same,
        Some(old) => Verdict::Moved { old, new: now },
    })
}
