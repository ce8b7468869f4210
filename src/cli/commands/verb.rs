//! `build`, `test`, `tag` and `push`: select, plan, run, report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::access::SecretSource;
use crate::cli::args::Verb;
use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::outcome;
use crate::cli::program::Context;
use crate::cli::reporting::{self, Reporting};
use crate::cli::witness::Witness;
use crate::cli::workbench::Workbench;
use crate::clock::{Clock, Timestamp};
use crate::digest::{ImageId, Key};
use crate::dockerfile::Resolved;
use crate::event::{Event, NodeKind, Outcome, Sink};
use crate::execute::{self, EngineFactory, LazyEngine, Options, Stops, World};
use crate::failure::Failure;
use crate::graph::{BaseSource, Body, Depth, Graph, NodeIndex};
use crate::keys::FileDigests;
use crate::label::NodeLabel;
use crate::lock::{LOCK_FILE, LockFile};
use crate::plan::{Decision, Planner, PlannerOptions, Value, held_until};
use crate::problem::Problem;
use crate::record::{Recorder, State};
use crate::reference::Reference;
use crate::registry::Client;
use crate::report;

/// Runs one of the verbs.
pub fn run(verb: &'static str, depth: Depth, args: &Verb, context: &Context<'_>) -> Result<Exit, Error> {
    let witness = Witness::of(verb, args, context);
    if let Some(line) = witness.as_ref().and_then(Witness::holds) {
        return nothing_to_do(&line, context);
    }
    Reporting::check(&args.output)?;
    let bench = Workbench::load(context)?;
    let dry = args.plan.dry_run || args.plan.check;
    if !dry {
        bench.enter(&args.world)?;
    }
    let selection = bench.select(&args.selection.patterns, &args.exclude)?;
    let clock = context.clock();
    if selection.labels.is_empty() && selection.steps.is_empty() {
        // who asked for a report gets an empty one: a runner fails where there is none
        if !dry && Reporting::is_wanted(&args.output) {
            let nothing = Summary { nothing: true, scope: Default::default(), stale: Default::default(), maybe: Default::default() };
            let began =
                nothing.began(verb, args, String::new(), clock.now(), &bench.engine_identity(&args.world), args.plan.reason.clone());
            reporting::tell_fresh(&args.output, context, clock, began, std::iter::empty())?;
        }
        return Ok(Exit::Done);
    }
    // who only looks waits for nobody
    let writer = if dry { None } else { Some(bench.writer(args.running.no_wait, clock.as_ref())?) };
    let state = if dry { bench.state_read_only()? } else { bench.state()? };
    let lock = bench.lock()?;
    let grounds = Grounds::read(&bench, &state, &lock, &args.world, args.registry.as_ref())?;
    let graph = grounds.graph(&selection, depth)?;
    if args.plan.locked {
        all_locked(&graph, &lock)?;
    }
    if verb == "test" && !has_tests(&graph) {
        context.printer.warn("no test applies to what the patterns match");
        return Ok(Exit::NoTests);
    }
    let forced = if args.plan.force { forced(&graph, depth) } else { BTreeSet::new() };
    let (reason, no_cache) = (args.plan.reason.clone(), args.running.no_cache);
    let held = if args.running.backoff { held(&state, clock.now())? } else { Default::default() };
    let named = selection.named.clone();
    let planning = PlannerOptions { forced, reason, no_cache, held, named, ..Default::default() };
    let planner = grounds.planner(&graph, planning);
    let plan = planner.plan();
    let broken: Vec<_> = plan
        .iter()
        .filter_map(|(_, decision)| if let Decision::Broken(problems) = decision { Some(problems.clone()) } else { None })
        .flatten()
        .collect();
    if !broken.is_empty() {
        return Err(Error::Problems(broken));
    }
    warn_of_kept(&planner, &plan, context);
    if dry {
        let stale = crate::cli::plan_view::show(&planner, &plan, args, context)?;
        leave((plan, planner));
        leave((graph, bench.catalogue.clone()));
        return Ok(if args.plan.check && stale { Exit::ImageFailed } else { Exit::Done });
    }
    if depth == Depth::Push {
        for warning in execute::leftovers::before(&state, &bench.catalogue, &graph)? {
            context.printer.warn(warning);
        }
    }
    let summary = Summary::of(&graph, &plan);
    if summary.nothing && !args.plan.verify {
        grounds.digests.save().map_err(|source| Error::Write { path: bench.folder.file_digests(), source })?;
        let line = report::nothing_to_do(&summary.scope);
        if Reporting::is_wanted(&args.output) {
            let began = summary.began(verb, args, String::new(), clock.now(), &planner.keys.engine, args.plan.reason.clone());
            reporting::tell_fresh(&args.output, context, clock, began, fresh_steps(&graph, &plan))?;
        }
        // closing the records may write, and only what is settled is kept
        let kept = witness.filter(|_| selection.warnings.is_empty()).map(|witness| (witness, planner, plan));
        drop(writer);
        if let Some((witness, planner, plan)) = kept {
            witness.keep(&line, &bench, &planner, &plan);
            leave((plan, planner));
        }
        leave((graph, bench.catalogue.clone()));
        return nothing_to_do(&line, context);
    }
    let process = format!("{}-{}", std::process::id(), clock.now().0);
    let engine = || bench.engine(&args.world, &process).inspect(|engine| bench.say_how(engine.as_ref()));
    let (stops, reason) = (Stops::default(), args.plan.reason.clone());
    let session = Session {
        bench: &bench,
        args,
        verb,
        depth,
        state: &state,
        digests: &grounds.digests,
        planner: &planner,
        plan: &plan,
        clock,
        engine: &engine,
        stops: &stops,
        reason,
    };
    let (exit, _) = session.run(&summary, &lock)?;
    drop(writer);
    leave((plan, planner));
    leave((graph, bench.catalogue.clone()));
    Ok(exit)
}

/// Gives up what nobody needs any more, right before the process ends: the kernel takes all of it back at once, which taking it apart
/// piece by piece does not.
fn leave<T>(value: T) {
    std::mem::forget(value);
}

fn nothing_to_do(line: &str, context: &Context<'_>) -> Result<Exit, Error> {
    if !context.global.quiet {
        context.printer.say(line);
    }
    Ok(Exit::Done)
}

/// The steps of a plan in which all is fresh, each with the image it is, tests or names.
fn fresh_steps<'p>(
    graph: &'p Graph<'_>,
    plan: &'p [(NodeIndex, Decision)],
) -> impl Iterator<Item = (NodeLabel, NodeKind, Option<ImageId>)> + use<'p> {
    let image = |(index, decision): &(NodeIndex, Decision)| match decision {
        Decision::Fresh(Value::Image { image, .. } | Value::Base { image, .. }) => Some((graph.node(*index).label(), *image)),
        _ => None,
    };
    let images: BTreeMap<NodeLabel, ImageId> = plan.iter().filter_map(image).collect();
    plan.iter().flat_map(|(index, _)| graph.node(*index).steps()).map(move |(label, kind)| {
        let owner = label.entry().map_or_else(|| label.clone(), |entry| NodeLabel::Entry(entry.clone()));
        let image = images.get(&owner).copied();
        (label, kind, image)
    })
}

/// With `--locked`: every base of a registry is in the lock. All that are not are told together.
pub fn all_locked(graph: &Graph<'_>, lock: &LockFile) -> Result<(), Error> {
    let missing = |index: &NodeIndex| {
        let node = graph.node(*index);
        let Body::Base(base) = &node.body else { return None };
        let BaseSource::Registry(reference) = &base.source else { return None };
        if lock.entry(reference, &node.platform).is_some() {
            return None;
        }
        let message = format!("{} for {} is not in {LOCK_FILE}, and `--locked` forbids adding it", reference.familiar(), node.platform);
        let hint = format!("run `igraph update {}`, and commit {LOCK_FILE}", reference.familiar());
        Some(Problem { message, places: vec![base.place.clone()], hint: Some(hint) })
    };
    let problems: Vec<Problem> = graph.order().iter().filter_map(missing).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Problems(problems)) }
}

/// Whether any test applies to what was matched.
pub fn has_tests(graph: &Graph<'_>) -> bool {
    graph.order().iter().any(|index| {
        let node = graph.node(*index);
        matches!(node.body, Body::Test(_)) && node.owner.entry().is_some_and(|label| graph.is_selected(label))
    })
}

/// With `--backoff`: the keys that are left alone for now, and why.
fn held(state: &State, now: Timestamp) -> Result<BTreeMap<Key, String>, Error> {
    let held = state.strikes()?.into_values().filter_map(|strikes| {
        let until = held_until(strikes.count, strikes.at);
        let why = format!(
            "failed {} with the same inputs, last as {}; held back until {} (--backoff)",
            times(strikes.count),
            strikes.node,
            until.to_rfc3339()
        );
        (now < until).then_some((strikes.key, why))
    });
    Ok(held.collect())
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// How often a step has to fail with the same inputs to be told of in the summary.
const STRIKES: u32 = 3;

/// The nodes that `--force` means: the topmost steps of what was matched, not what is below them.
fn forced(graph: &Graph<'_>, depth: Depth) -> BTreeSet<NodeIndex> {
    graph
        .order()
        .iter()
        .copied()
        .filter(|index| {
            let node = graph.node(*index);
            let matched = node.owner.entry().is_some_and(|label| graph.is_selected(label));
            matched
                && match &node.body {
                    Body::Image(_) => depth == Depth::Build,
                    Body::Test(_) => depth == Depth::Test,
                    Body::Tags(_) => depth == Depth::Tag,
                    Body::Pushes(_) => depth == Depth::Push,
                    Body::Base(_) | Body::Gate(_) => false,
                }
        })
        .collect()
}

/// Says which of what was forced is not built all the same: its last day is over.
fn warn_of_kept(planner: &Planner<'_>, plan: &[(NodeIndex, Decision)], context: &Context<'_>) {
    let kept = plan.iter().filter(|(index, decision)| planner.options.forced.contains(index) && matches!(decision, Decision::Fresh(_)));
    let labels: Vec<String> = kept.map(|(index, _)| planner.graph.node(*index).label().to_string()).collect();
    if !labels.is_empty() {
        context.printer.warn(format_args!("past the last day, so never built again, not even with --force: {}", labels.join(", ")));
        context.printer.hint("move the day of `until` where that is too early");
    }
}

/// What a plan comes to.
pub struct Summary {
    /// Every step is fresh.
    pub nothing: bool,
    /// All steps.
    pub scope: crate::event::Counts,
    /// Those that surely run.
    pub stale: crate::event::Counts,
    /// Those that may.
    pub maybe: crate::event::Counts,
}

impl Summary {
    /// Of a plan.
    pub fn of(graph: &Graph<'_>, plan: &[(NodeIndex, Decision)]) -> Self {
        let mut summary = Self { nothing: true, scope: Default::default(), stale: Default::default(), maybe: Default::default() };
        for (index, decision) in plan {
            for (step, kind) in graph.node(*index).steps() {
                *summary.scope.of(kind) += 1;
                match decision {
                    // of an image's names, those that are right stay
                    Decision::Run { .. } if decision.spares(&step) => {}
                    Decision::Fresh(_) | Decision::Blocked(_) | Decision::Broken(_) => {}
                    Decision::Run { .. } => *summary.stale.of(kind) += 1,
                    Decision::Maybe(_) => *summary.maybe.of(kind) += 1,
                }
                summary.nothing &= matches!(decision, Decision::Fresh(_));
            }
        }
        summary
    }

    /// The event that a run begins with; `run` is empty where nothing is recorded.
    fn began(&self, verb: &str, args: &Verb, run: String, at: Timestamp, engine: &str, reason: Option<String>) -> Event {
        Event::RunStarted {
            run,
            at,
            igraph: env!("CARGO_PKG_VERSION").to_owned(),
            verb: verb.to_owned(),
            patterns: args.selection.patterns.clone(),
            engine: engine.to_owned(),
            scope: self.scope,
            stale: self.stale,
            maybe: self.maybe,
            reason,
        }
    }
}

/// A run that has something to do.
pub struct Session<'a> {
    pub bench: &'a Workbench<'a>,
    pub args: &'a Verb,
    pub verb: &'static str,
    pub depth: Depth,
    pub state: &'a State,
    pub digests: &'a FileDigests,
    pub planner: &'a Planner<'a>,
    pub plan: &'a [(NodeIndex, Decision)],
    pub clock: Arc<dyn Clock>,
    pub engine: &'a EngineFactory<'a>,
    pub stops: &'a Stops,
    /// Why, for the record.
    pub reason: Option<String>,
}

impl Session<'_> {
    /// Runs; returns the exit code and the run's id.
    pub fn run(&self, summary: &Summary, lock: &LockFile) -> Result<(Exit, String), Error> {
        let context = self.bench.context;
        let client = self.bench.client(self.clock.clone(), None)?;
        let (started, begin) = (self.clock.now(), self.clock.monotonic());
        let engine = LazyEngine::new(Box::new(|| (self.engine)()));
        self.refuse(&engine)?;
        if self.depth == Depth::Push && self.builds() {
            self.prove_credentials(&client)?;
        }
        let run = self.state.begin_run(started, self.verb)?;
        let recorder = Arc::new(Recorder::begin(self.state.folder(), &run)?);
        let reporting = Reporting::begin(&self.args.output, context, self.clock.clone(), recorder.clone());
        reporting.emit(&summary.began(self.verb, self.args, run.clone(), started, &self.planner.keys.engine, self.reason.clone()));
        let proxies = context.environment.proxies.clone();
        let lookup = environment::secret;
        let runs = self.plan.iter().filter(|(_, decision)| !matches!(decision, Decision::Fresh(_)));
        let durations = self.state.durations_of(runs.map(|(index, _)| self.planner.graph.node(*index).label()))?;
        let jobs = self.args.running.jobs.map(std::num::NonZeroUsize::get).or(self.bench.catalogue.workspace.jobs);
        let world = World {
            root: self.bench.root(),
            catalogue: &self.bench.catalogue,
            graph: self.planner.graph,
            planner: self.planner,
            plan: self.plan,
            state: self.state,
            lock,
            engine: &engine,
            registry: &client,
            clock: self.clock.as_ref(),
            sink: &reporting,
            run: &run,
            durations: &durations,
            cancel: context.cancel,
            stops: self.stops,
            environment: &lookup,
            proxies: &proxies,
            options: Options {
                jobs: jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get)),
                fail_fast: self.args.running.fail_fast,
                retries: self.args.running.retries,
                timeout: self.args.running.timeout,
                verify: self.args.plan.verify,
                locked: self.args.plan.locked,
            },
            held: execute::Held::new(self.clock.now()),
        };
        let end = execute::run(&world);
        if let Some(message) = self.struck(&end)? {
            reporting.emit(&Event::Warning { at: self.clock.now(), node: None, message });
        }
        if self.depth == Depth::Push {
            for (node, message) in execute::leftovers::after(self.state, self.planner.graph)? {
                reporting.emit(&Event::Warning { at: self.clock.now(), node: Some(node), message });
            }
        }
        self.digests.save().map_err(|source| Error::Write { path: self.bench.folder.file_digests(), source })?;
        let exit = match context.signals.first() {
            Some(number) => Exit::Signal(number),
            None => outcome::exit_of(&end),
        };
        let stopped_by = context.signals.first().map(|number| format!("signal {number}"));
        let duration_ms = u64::try_from(self.clock.monotonic().saturating_sub(begin).as_millis()).unwrap_or(u64::MAX);
        reporting.emit(&Event::RunFinished { at: self.clock.now(), duration_ms, exit_code: exit.code(), stopped_by });
        let told = reporting.finish(context.printer);
        recorder.finish()?;
        told?;
        Ok((exit, run))
    }

    /// What failed for the third time or more with the same inputs, or is held back for that.
    fn struck(&self, end: &execute::RunEnd) -> Result<Option<String>, Error> {
        let held = &self.planner.options.held;
        let failed: BTreeMap<&NodeLabel, &Outcome> = end.steps.iter().map(|(label, _, outcome, _)| (label, outcome)).collect();
        let began = self.planner.options.now;
        let mut struck: Vec<(NodeLabel, u32)> = Vec::new();
        for strikes in self.state.strikes()?.into_values().filter(|strikes| strikes.count >= STRIKES) {
            let now = match failed.get(&strikes.node) {
                Some(Outcome::Failed { .. }) => strikes.at >= began,
                Some(Outcome::Blocked { reason }) => held.get(&strikes.key) == Some(reason),
                _ => false,
            };
            if now {
                struck.push((strikes.node, strikes.count));
            }
        }
        struck.sort();
        let listed: Vec<String> = struck.iter().map(|(label, count)| format!("{label} ({})", times(*count))).collect();
        let hint = if self.args.running.backoff { "" } else { "; `--backoff` leaves such alone for a while" };
        Ok((!listed.is_empty()).then(|| format!("three strikes: failed again and again with the same inputs: {}{hint}", listed.join(", "))))
    }

    /// What the engine can't build is refused before anything runs.
    fn refuse(&self, engine: &LazyEngine<'_>) -> Result<(), Error> {
        let mut problems = Vec::new();
        for (index, decision) in self.plan {
            if !matches!(decision, Decision::Run { .. } | Decision::Maybe(_)) {
                continue;
            }
            if let (Body::Image(image), Some(own)) = (&self.planner.graph.node(*index).body, self.planner.own(*index)) {
                problems.extend(own.resolved.iter().flat_map(|resolved| self.missing_secrets(image.spec, resolved)));
                if !image.spec.scrub.is_empty() && self.planner.keys.engine.starts_with("docker ") {
                    let places = vec![image.spec.origin.field("scrub")];
                    let message = "Docker Engine makes its layers by itself, and leaves nothing out of them".to_owned();
                    problems.push(Problem { message, places, hint: Some("use `--engine embedded`".to_owned()) });
                }
            }
        }
        if !problems.is_empty() {
            return Err(Error::Problems(problems));
        }
        for (index, decision) in self.plan {
            if !matches!(decision, Decision::Run { .. } | Decision::Maybe(_)) {
                continue;
            }
            let parsed = match &self.planner.graph.node(*index).body {
                Body::Image(image) => &image.dockerfile.parsed,
                Body::Test(test) => match &test.dockerfile {
                    Some(read) => &read.parsed,
                    None => continue,
                },
                _ => continue,
            };
            if let Some(resolved) = self.planner.own(*index).and_then(|own| own.resolved.clone()) {
                let secrets = !resolved.secrets.is_empty() || !resolved.ssh.is_empty();
                problems.extend(engine.engine().map_err(Error::Failure)?.refusals(parsed, &resolved, secrets));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Problems(problems)) }
    }

    /// Secrets that instructions mount and whose source is not there: a build would go on without them, and no key would show it.
    fn missing_secrets(&self, image: &crate::spec::Image, resolved: &Resolved) -> Option<Problem> {
        let wanted: BTreeSet<&str> = resolved.secrets.iter().map(|secret| secret.id.as_str()).collect();
        let missing: Vec<String> = image
            .secrets
            .iter()
            .filter(|(id, _)| wanted.contains(&***id))
            .filter_map(|(id, source)| match source {
                SecretSource::Env(name) if environment::secret(name).is_none() => {
                    Some(format!("the secret `{id}` comes from the variable {name}, which is not set"))
                }
                SecretSource::File(path) if !self.bench.root().join(path).is_file() => {
                    Some(format!("the secret `{id}` comes from the file `{}`, which is not there", path.display()))
                }
                _ => None,
            })
            .collect();
        let place = image.origin.field("secrets");
        (!missing.is_empty()).then(|| Problem { message: missing.join("; "), places: vec![place], hint: None })
    }

    /// Whether anything comes before the names: otherwise moving them proves the credentials by itself.
    fn builds(&self) -> bool {
        self.plan.iter().any(|(index, decision)| {
            let name = matches!(self.planner.graph.node(*index).body, Body::Gate(_) | Body::Tags(_) | Body::Pushes(_));
            !name && matches!(decision, Decision::Run { .. } | Decision::Maybe(_))
        })
    }

    /// Opens and cancels an upload in every repository that may be written: a missing password shows now, not in an hour.
    fn prove_credentials(&self, client: &Client) -> Result<(), Error> {
        let mut repositories = std::collections::BTreeMap::new();
        for (index, decision) in self.plan {
            if let (Body::Pushes(names), Decision::Run { .. } | Decision::Maybe(_)) = (&self.planner.graph.node(*index).body, decision) {
                for name in &names.names {
                    repositories.entry(name.reference.name()).or_insert_with(|| name.reference.clone());
                }
            }
        }
        // what a host demands its first answer tells; the others then need not ask in vain
        let mut hosts = BTreeSet::new();
        let (first, others): (Vec<&Reference>, Vec<_>) = repositories.values().partition(|repository| hosts.insert(repository.host()));
        let failures = [first, others].into_iter().flat_map(|repositories| self.prove_each(client, &repositories));
        let refused: Vec<_> =
            failures.filter(|failure| failure.group.as_deref().is_some_and(|group| group.starts_with("credentials "))).collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(Error::Credentials(refused))
    }

    /// What fails where an upload is opened in each of these, a few at a time.
    fn prove_each(&self, client: &Client, repositories: &[&Reference]) -> Vec<Failure> {
        let cancel = self.bench.context.cancel;
        let prove = |chunk: &[&Reference]| chunk.iter().filter_map(|repository| client.prove_push(repository, cancel).err()).collect();
        std::thread::scope(|scope| {
            let chunks = repositories.chunks(repositories.len().div_ceil(8).max(1));
            let threads: Vec<_> = chunks.map(|chunk| scope.spawn(move || -> Vec<Failure> { prove(chunk) })).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        })
    }
}

/// The kind whose outcome a verb is about.
pub fn kind_of(depth: Depth) -> NodeKind {
    match depth {
        Depth::Build => NodeKind::Image,
        Depth::Test => NodeKind::Test,
        Depth::Tag => NodeKind::Tag,
        Depth::Push => NodeKind::Push,
    }
}
