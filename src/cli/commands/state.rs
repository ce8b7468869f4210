//! `state save`, `state load`, `clean`, `gc`, `root`: the records as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::cli::args;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::program::Context;
use crate::cli::workbench::{self, Workbench};
use crate::digest::Key;
use crate::engine::Limits;
use crate::graph::{Depth, NodeIndex};
use crate::plan::{Decision, PlannerOptions};
use crate::record::{State, Wait};

/// Prints the workspace's root folder.
pub fn root(context: &Context<'_>) -> Result<Exit, Error> {
    context.printer.line(workbench::root(context.environment)?.display())?;
    Ok(Exit::Done)
}

/// Writes the records to a file.
pub fn save(file: &Path, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let state = bench.state_read_only()?;
    state.save(file)?;
    context.printer.say(format_args!("igraph: saved to {}", file.display()));
    Ok(Exit::Done)
}

/// Takes the records of a file in.
pub fn load(file: &Path, no_wait: bool, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let clock = context.clock();
    let _writer = bench.writer(no_wait, clock.as_ref())?;
    let state = bench.state()?;
    let loaded = state.load(file)?;
    context.printer.say(format_args!("igraph: {} results loaded, {} of them new here", loaded.results, loaded.taken));
    Ok(Exit::Done)
}

/// Removes `igraph-out`.
pub fn clean(args: &args::Clean, context: &Context<'_>) -> Result<Exit, Error> {
    let root = workbench::root(context.environment)?;
    let folder = crate::record::StateFolder::new(root.join(workbench::OUT));
    if !folder.path().exists() {
        context.printer.say("igraph: nothing to clean");
        return Ok(Exit::Done);
    }
    if folder.path().join(workbench::STORE).exists() {
        // an ordinary user's store holds files of its subordinate ids
        workbench::enter_user_namespace()?;
    }
    let clock = context.clock();
    let wait = if args.no_wait { Wait::No } else { Wait::Yes };
    let _writer = workbench::writer_lock(&folder, wait, clock.as_ref(), context)?;
    crate::record::remove_tree(folder.path()).map_err(|source| Error::Write { path: folder.path().to_owned(), source })?;
    context.printer.say(format_args!("igraph: removed {}", folder.path().display()));
    Ok(Exit::Done)
}

/// Removes what no record needs.
pub fn gc(args: &args::Gc, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let world = args::World { engine: args.engine.clone(), ..args::World::default() };
    bench.enter(&world)?;
    let clock = context.clock();
    let limits = Limits { age: args.max_age, size: args.max_size };
    if limits != Limits::default() && !bench.engine_identity(&world).starts_with("embedded ") {
        let message = "`--max-age` and `--max-size` are limits of the embedded engine's store".to_owned();
        return Err(Error::Usage { message, hint: Some("a Docker Engine has its own: `docker builder prune`".to_owned()) });
    }
    let _writer = bench.writer(args.no_wait, clock.as_ref())?;
    let state = bench.state()?;
    let live = live(&bench, &state, &world)?;
    let forgotten = state.forget(crate::record::KEPT_RESULTS, &live, args.dry_run)?;
    let word = if args.dry_run { "would remove" } else { "removed" };
    context.printer.say(format_args!("igraph: {word} {} old results", forgotten.results));
    let kept: BTreeSet<_> = forgotten.needed.iter().copied().collect();
    let bases = bases(&bench, &kept, args.dry_run)?;
    if bases > 0 {
        context.printer.say(format_args!("igraph: {word} {bases} root filesystems of bases"));
    }
    match bench.engine(&world, "gc") {
        Ok(engine) => {
            let collected = engine.collect(&kept, &limits, args.dry_run).map_err(Error::Failure)?;
            let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
            let left = collected.left.map(|left| format!("; {} MB stay", megabytes(left))).unwrap_or_default();
            let cached = match collected.left {
                Some(_) => format!("{} layers and folders of its caches", collected.cached),
                None => format!("{} containers", collected.containers),
            };
            context.printer.say(format_args!(
                "igraph: {word} {} images and {cached} from {}, {} MB{left}",
                collected.images,
                engine.description(),
                megabytes(collected.bytes)
            ));
            if let (Some(left), Some(most)) = (collected.left, limits.size)
                && left > most
            {
                context.printer.warn(format_args!("results and names need {} MB of the store, more than --max-size", megabytes(left)));
            }
            if !args.dry_run {
                let gone: BTreeSet<_> = state.claims()?.difference(&kept).copied().collect();
                state.release_claims(&gone)?;
            }
        }
        Err(failure) => context.printer.warn(format_args!("the engine was left as it is: {failure}")),
    }
    Ok(Exit::Done)
}

/// The keys under which the present inputs have a result, whichever engine builds them.
fn live(bench: &Workbench<'_>, state: &State, world: &args::World) -> Result<Vec<Key>, Error> {
    let lock = bench.lock()?;
    let grounds = Grounds::read(bench, state, &lock, world, None)?;
    let graph = grounds.graph(&bench.everything(), Depth::Push)?;
    let mut live = BTreeSet::new();
    for engine in bench.engine_identities(world) {
        let planner = grounds.planner_for(engine, &graph, PlannerOptions::default());
        let plan: BTreeMap<NodeIndex, Decision> = planner.plan().into_iter().collect();
        let values = |index: NodeIndex| match plan.get(&index) {
            Some(Decision::Fresh(value)) => Some(value.clone()),
            _ => None,
        };
        for index in plan.keys() {
            for (step, _) in graph.node(*index).steps() {
                live.extend(planner.explain(*index, &step, &values).map(|(key, _)| key));
            }
        }
    }
    Ok(live.into_iter().collect())
}

/// Removes tars of bases that no kept result needs, and folders that killed runs left.
fn bases(bench: &Workbench<'_>, kept: &BTreeSet<crate::digest::ImageId>, dry_run: bool) -> Result<usize, Error> {
    let folder = bench.folder.bases();
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(0) };
    let needed: BTreeSet<String> = kept.iter().map(|image| format!("{}.tar", image.0.hex())).collect();
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if needed.contains(&name) {
            continue;
        }
        removed += 1;
        if !dry_run {
            crate::record::remove_tree(&entry.path()).map_err(|source| Error::Write { path: entry.path(), source })?;
        }
    }
    Ok(removed)
}
