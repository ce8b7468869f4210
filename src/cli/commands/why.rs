//! `why`: whether a node would run now, and for which reasons; or why it ran.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::args::Why;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::grounds::Grounds;
use crate::cli::program::Context;
use crate::cli::workbench::Workbench;
use crate::clock::Timestamp;
use crate::component::Component;
use crate::event::Event;
use crate::execute::probe_digest;
use crate::graph::{BaseNode, BaseSource, Body, Depth, Graph, NodeIndex, StandIn};
use crate::keys;
use crate::label::{Label, NodeLabel};
use crate::lock::{LockFile, Renewal};
use crate::pattern::{Pattern, Selection};
use crate::plan::{Decision, Planner, PlannerOptions, Value};
use crate::reason::{Reason, reasons_of_step};
use crate::record::{RunLog, State};
use crate::spec::{Freshness, render_duration};

/// Explains.
pub fn run(args: &Why, context: &Context<'_>) -> Result<Exit, Error> {
    let bench = Workbench::load(context)?;
    let label = match parse_label(&args.label, &bench)? {
        // a reference that an entry stands for is that entry's node
        NodeLabel::Outside(reference) => match bench.catalogue.claims.owner(&reference) {
            Some(entry) => NodeLabel::Entry(entry.clone()),
            None => NodeLabel::Outside(reference),
        },
        label => label,
    };
    let state = bench.state_read_only()?;
    if let Some(run) = &args.run {
        return explain_run(&label, &super::log::choose(run, state.folder())?, context);
    }
    let selected = match label.entry() {
        Some(entry) if bench.catalogue.images.contains_key(entry) => {
            Selection { labels: BTreeSet::from([entry.clone()]), ..Selection::default() }
        }
        Some(entry) if !bench.catalogue.bases.contains_key(entry) => return Err(unknown(entry, &bench)),
        // a base is reached from every image
        _ => bench.everything(),
    };
    let lock = bench.lock()?;
    let grounds = Grounds::read(&bench, &state, &lock, &args.world, None)?;
    let graph = grounds.graph(&selected, Depth::Push)?;
    let planner = grounds.planner(&graph, PlannerOptions::default());
    let plan: BTreeMap<NodeIndex, Decision> = planner.plan().into_iter().collect();
    let is_it = |index: &NodeIndex| graph.node(*index).steps().iter().any(|(step, _)| *step == label);
    let found: Vec<NodeIndex> = graph.order().iter().copied().filter(is_it).collect();
    if found.is_empty() {
        return Err(Error::Usage { message: format!("there is no {label}"), hint: Some(steps_hint(&graph, &label)) });
    }
    let values = |index: NodeIndex| match plan.get(&index) {
        Some(Decision::Fresh(value)) => Some(value.clone()),
        _ => None,
    };
    // a base may be there for several platforms
    for index in &found {
        if found.len() > 1 {
            context.printer.line(format_args!("for {}:", graph.node(*index).platform))?;
        }
        let explanation = Explanation { context, planner: &planner, state: &state, lock: &lock, label: &label, index: *index };
        match (plan.get(index), &args.vs) {
            _ if args.manifest => explanation.manifest(&values)?,
            (_, Some(run)) => explanation.versus(&super::log::choose(run, state.folder())?, &values)?,
            (Some(decision), None) => explanation.decision(decision)?,
            (None, None) => Exit::Done,
        };
    }
    Ok(Exit::Done)
}

/// A label, or one relative to the current directory.
pub fn parse_label(text: &str, bench: &Workbench<'_>) -> Result<NodeLabel, Error> {
    if text.contains("//") {
        return text.parse().map_err(Error::Label);
    }
    let (entry, step) = text.split_once('[').map_or((text, None), |(entry, step)| (entry, Some(step)));
    let pattern = Pattern::parse(entry, &bench.here).map_err(Error::Pattern)?;
    let Some(label) = pattern.exact() else {
        return Err(Error::Usage {
            message: format!("`{text}` is no label of one node"),
            hint: Some("write it like //debian/jessie:4.2.1".to_owned()),
        });
    };
    match step {
        Some(step) => format!("{label}[{step}").parse().map_err(Error::Label),
        None => Ok(NodeLabel::Entry(label.clone())),
    }
}

pub fn unknown(label: &Label, bench: &Workbench<'_>) -> Error {
    let known: Vec<String> = bench.catalogue.images.keys().chain(bench.catalogue.bases.keys()).map(ToString::to_string).collect();
    let nearest =
        crate::problem::nearest(&label.to_string(), known.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
    Error::Usage { message: format!("there is no {label}"), hint: nearest }
}

/// What was probably meant by a label that is none.
fn steps_hint(graph: &Graph<'_>, label: &NodeLabel) -> String {
    if label.entry().is_none() {
        let bases = graph.order().iter().map(|index| &graph.node(*index).owner).filter(|owner| owner.entry().is_none());
        let bases: BTreeSet<String> = bases.map(ToString::to_string).collect();
        let near = crate::problem::nearest(&label.to_string(), bases.iter().map(String::as_str));
        return match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if bases.is_empty() => "no image starts from one".to_owned(),
            None => format!("the bases here are {}", bases.into_iter().collect::<Vec<_>>().join(", ")),
        };
    }
    let steps: Vec<String> = graph
        .order()
        .iter()
        .flat_map(|index| graph.node(*index).steps())
        .filter(|(step, _)| step.entry() == label.entry())
        .map(|(step, _)| step.to_string())
        .collect();
    format!("its steps are {}", steps.join(", "))
}

fn explain_run(label: &NodeLabel, run: &RunLog, context: &Context<'_>) -> Result<Exit, Error> {
    let events = run.events()?;
    let ended = events.iter().find_map(|event| match event {
        Event::NodeFinished { node, outcome, reasons, .. } if node == label => Some((outcome, reasons)),
        _ => None,
    });
    let started = events.iter().find_map(|event| match event {
        Event::NodeStarted { node, reasons, .. } if node == label => Some(reasons),
        _ => None,
    });
    let Some((outcome, reasons)) = ended else {
        return Err(Error::Usage {
            message: format!("{label} was not part of run {}", run.id()),
            hint: Some("`igraph log what-ran` lists what was".to_owned()),
        });
    };
    context.printer.line(format_args!("{label} in run {}: {}", run.id(), words(outcome)))?;
    let reasons = if reasons.is_empty() { started.unwrap_or(reasons) } else { reasons };
    for reason in reasons {
        context.printer.line(format_args!("  {}", full(reason)))?;
    }
    Ok(Exit::Done)
}

fn words(outcome: &crate::event::Outcome) -> String {
    use crate::event::Outcome;
    match outcome {
        Outcome::Fresh => "fresh, nothing was done".to_owned(),
        Outcome::Succeeded { changed: false, .. } => "ran, with the same result as before".to_owned(),
        Outcome::Succeeded { .. } => "ran".to_owned(),
        Outcome::Flaky { failures } => format!("passed after {} failed attempts (flaky)", failures.len()),
        Outcome::Failed { failure } => format!("failed: {failure}"),
        Outcome::Skipped { cause } => format!("skipped, because {cause} failed"),
        Outcome::Blocked { reason } => format!("blocked: {reason}"),
        Outcome::Cancelled => "cancelled".to_owned(),
    }
}

/// A reason with old and new values in full.
fn full(reason: &Reason) -> String {
    match reason {
        Reason::InputChanged { path, old, new } => format!("{path} changed: {old} → {new}"),
        Reason::BaseMoved { reference, old, new } => format!("base {reference} moved: {old} → {new}"),
        Reason::DependencyChanged { label, old, new } => {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
            format!("{label} changed: {} → {}", shown(old), shown(new))
        }
        Reason::TestChanged { old, new } => format!("test definition changed: {old} → {new}"),
        other => other.to_string(),
    }
}

struct Explanation<'a> {
    context: &'a Context<'a>,
    planner: &'a Planner<'a>,
    state: &'a State,
    lock: &'a LockFile,
    label: &'a NodeLabel,
    index: NodeIndex,
}

impl Explanation<'_> {
    fn decision(&self, decision: &Decision) -> Result<Exit, Error> {
        let printer = self.context.printer;
        let label = self.label;
        match decision {
            Decision::Fresh(value) => {
                printer.line(format_args!("{label} is fresh{}", shown(value)))?;
                let platform = &self.planner.graph.node(self.index).platform;
                if let Some(result) = self.state.latest(label, platform)? {
                    printer.line(format_args!("  last ran in run {} at {}", result.run, result.at.to_rfc3339()))?;
                    for reason in reasons_of_step(&result.reasons, label) {
                        printer.line(format_args!("  because {}", full(&reason)))?;
                    }
                }
            }
            Decision::Run { .. } if decision.spares(label) => printer.line(format_args!("{label} is fresh"))?,
            Decision::Run { reasons, .. } => {
                printer.line(format_args!("{label} would run"))?;
                for reason in reasons_of_step(reasons, label) {
                    printer.line(format_args!("  {}", full(&reason)))?;
                }
                self.instructions(decision)?;
            }
            Decision::Maybe(waits) => printer.line(format_args!("{label} may run: {waits}"))?,
            Decision::Blocked(reason) => printer.line(format_args!("{label} is blocked: {reason}"))?,
            Decision::Broken(problems) => return Err(Error::Problems(problems.clone())),
        }
        for (name, by) in self.stand_ins() {
            printer.line(format_args!("  {by} stands in for {name} (--base)"))?;
        }
        self.policies().into_iter().try_for_each(|line| printer.line(format_args!("  {line}")))?;
        Ok(Exit::Done)
    }

    /// What freshness policies say of the node, a line for each.
    fn policies(&self) -> Vec<String> {
        let node = self.planner.graph.node(self.index);
        let (freshness, source) = match &node.body {
            Body::Image(image) => (&image.spec.freshness, None),
            Body::Base(base) => match base.entry {
                Some(entry) => (&entry.freshness, Some(&base.source)),
                None => (&Freshness::default(), Some(&base.source)),
            },
            Body::Test(_) | Body::Gate(_) | Body::Tags(_) | Body::Pushes(_) => return Vec::new(),
        };
        let mut lines = Vec::new();
        let renewal = node.owner.entry().and_then(|label| self.lock.renewal(label));
        if let Some(refresh) = freshness.refresh {
            let due = |at: Timestamp| at.after(refresh).to_rfc3339();
            let said = match renewal {
                None => "`igraph update` begins to count its age".to_owned(),
                Some(Renewal { at, policy: None }) => format!("counted from {}, due {}", at.to_rfc3339(), due(at)),
                Some(Renewal { at, policy: Some(policy) }) => format!("renewed at {} by {policy}, due {}", at.to_rfc3339(), due(at)),
            };
            lines.push(format!("refresh {}: {said}", render_duration(refresh)));
        } else if let Some(Renewal { at, policy: Some(policy) }) = renewal {
            lines.push(format!("renewed at {} by {policy}", at.to_rfc3339()));
        }
        if let Some(probe) = &freshness.probe {
            let image = self.state.latest_success(self.label, &node.platform).ok().flatten().and_then(|result| result.image);
            let answer = image.and_then(|image| self.state.answer(image.id, probe_digest(probe)).ok().flatten());
            lines.push(match answer {
                Some(answer) => {
                    let count = answer.lines().count();
                    format!("probe: later answers are compared with {count} line{}", if count == 1 { "" } else { "s" })
                }
                None => "probe: no answer is recorded yet; `igraph update` takes the first".to_owned(),
            });
        }
        if let Some(settle) = freshness.settle {
            lines.push(format!("settle {}: a base that moves counts once it has stood so long", render_duration(settle)));
        }
        if let Some(BaseSource::Registry(reference)) = source
            && let Some(candidate) = self.lock.entry(reference, &node.platform).and_then(|locked| locked.candidate)
        {
            lines.push(format!("moved to {}, first seen there {}; not counted yet", candidate.manifest, candidate.seen.to_rfc3339()));
        }
        if let Some(until) = freshness.until {
            let over = self.planner.options.now >= until.end();
            let said = if over { "over: it is kept and tested, and never built again" } else { "the last day it is built" };
            lines.push(format!("until {until}: {said}"));
        }
        lines
    }

    /// What stands in for bases that the node is, or stands on.
    fn stand_ins(&self) -> BTreeMap<String, String> {
        let graph = self.planner.graph;
        let mut found = BTreeMap::new();
        let (mut todo, mut seen) = (vec![self.index], BTreeSet::from([self.index]));
        while let Some(index) = todo.pop() {
            let node = graph.node(index);
            if let Body::Base(BaseNode { source: BaseSource::StandIn(by), .. }) = &node.body {
                let by = match by {
                    StandIn::Rootfs(path) => format!("rootfs {}", path.display()),
                    StandIn::OciLayout(path) => format!("OCI layout {}", path.display()),
                    StandIn::Registry(reference) => reference.familiar(),
                };
                found.insert(node.owner.to_string(), by);
            }
            todo.extend(graph.dependencies(index).into_iter().filter(|below| seen.insert(*below)));
        }
        found
    }

    /// The instructions that changed, old and new.
    fn instructions(&self, decision: &Decision) -> Result<(), Error> {
        let Decision::Run { reasons, key: Some((_, new)), .. } = decision else { return Ok(()) };
        if !reasons.iter().any(|reason| matches!(reason, Reason::DockerfileChanged { .. })) {
            return Ok(());
        }
        let platform = &self.planner.graph.node(self.index).platform;
        let Some(old) = self.state.latest(self.label, platform)? else { return Ok(()) };
        self.differences(&old.components, new, |name| name.starts_with("instruction "))
    }

    fn differences(&self, old: &[Component], new: &[Component], wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        let map =
            |list: &[Component]| -> BTreeMap<String, String> { list.iter().map(|part| (part.name.clone(), part.value.clone())).collect() };
        let (old, new) = (map(old), map(new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).filter(|name| wanted(name)).collect();
        for name in names {
            let (before, after) = (old.get(name), new.get(name));
            if before != after {
                self.context.printer.line(format_args!("  {name}"))?;
                if let Some(before) = before {
                    self.context.printer.line(format_args!("    - {before}"))?;
                }
                if let Some(after) = after {
                    self.context.printer.line(format_args!("    + {after}"))?;
                }
            }
        }
        Ok(())
    }

    fn components(&self, values: &crate::plan::Values<'_>) -> Result<(String, Vec<Component>), Error> {
        let unknown = |detail: String| Error::Usage { message: format!("the key of {} is not known yet", self.label), hint: Some(detail) };
        match self.planner.explain(self.index, self.label, values) {
            Some((key, components)) => Ok((key.to_string(), components)),
            None => Err(unknown("it depends on nodes that have to run first; `igraph why` of those tells more".to_owned())),
        }
    }

    fn manifest(&self, values: &crate::plan::Values<'_>) -> Result<Exit, Error> {
        let (key, components) = self.components(values)?;
        self.context.printer.line(format_args!("{}  key {key}", self.label))?;
        self.context.printer.line(format_args!("  schema = {}", crate::component::KEY_SCHEMA))?;
        for part in components {
            self.context.printer.line(format_args!("  {} = {}", part.name, part.value))?;
        }
        Ok(Exit::Done)
    }

    fn versus(&self, run: &RunLog, values: &crate::plan::Values<'_>) -> Result<Exit, Error> {
        let (_, now) = self.components(values)?;
        let then = self.state.results_of_run(run.id())?.into_iter().find(|result| result.node == *self.label);
        let Some(then) = then else {
            return Err(Error::Usage {
                message: format!("{} did not run in run {}", self.label, run.id()),
                hint: Some(format!("`igraph log what-ran {}` lists what did", run.id())),
            });
        };
        if keys::reasons(&then.components, &now, None).is_empty() {
            self.context.printer.line(format_args!("{} has the same key now as in run {}", self.label, run.id()))?;
            return Ok(Exit::Done);
        }
        self.context.printer.line(format_args!("{}: run {} against now", self.label, run.id()))?;
        self.differences(&then.components, &now, |_| true)?;
        Ok(Exit::Done)
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Base { content, .. } => format!(": {content}"),
        Value::Image { image, .. } => format!(": image {image}"),
        Value::Test(passed) => format!(": passed for image {}", passed.subject()),
        Value::Gate(_) | Value::Names => String::new(),
    }
}
