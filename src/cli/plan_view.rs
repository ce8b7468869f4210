//! What `--dry-run` shows: each step that would run, or may, with its reasons; as text or JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::args::Verb;
use super::error::Error;
use super::program::Context;
use crate::event::NodeKind;
use crate::graph::NodeIndex;
use crate::label::NodeLabel;
use crate::plan::{Decision, Planner};
use crate::reason::{Reason, reasons_of_step};

/// One step of a plan.
#[derive(Debug, Serialize)]
pub struct PlannedStep {
    pub label: NodeLabel,
    pub kind: NodeKind,
    /// `fresh`, `run`, `maybe` or `blocked`.
    pub decision: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// What a `maybe` waits for, or why it is blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    steps: &'a [PlannedStep],
}

/// All steps of a plan, in its order.
pub fn steps(planner: &Planner<'_>, plan: &[(NodeIndex, Decision)]) -> Vec<PlannedStep> {
    let mut steps = Vec::with_capacity(plan.len());
    for (index, decision) in plan {
        for (label, kind) in planner.graph.node(*index).steps() {
            let (word, reasons, detail) = match decision {
                Decision::Fresh(_) => ("fresh", Vec::new(), None),
                Decision::Run { .. } if decision.spares(&label) => ("fresh", Vec::new(), None),
                Decision::Run { reasons, .. } => ("run", reasons_of_step(reasons, &label), None),
                Decision::Maybe(waits) => ("maybe", Vec::new(), Some(waits.clone())),
                Decision::Blocked(reason) => ("blocked", Vec::new(), Some(reason.clone())),
                Decision::Broken(problems) => ("blocked", Vec::new(), problems.first().map(|problem| problem.message.clone())),
            };
            steps.push(PlannedStep { label, kind, decision: word, reasons, detail });
        }
    }
    steps
}

/// What [`show`] writes to stdout.
pub fn text(planner: &Planner<'_>, plan: &[(NodeIndex, Decision)], args: &Verb, context: &Context<'_>) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    write(&steps(planner, plan), args, context, &mut text).map_err(Error::stdout)?;
    Ok(text)
}

fn write(steps: &[PlannedStep], args: &Verb, context: &Context<'_>, out: &mut dyn Write) -> io::Result<()> {
    if args.output.json {
        serde_json::to_writer_pretty(&mut *out, &Document { schema: "igraph.plan", version: 1, steps })?;
        return writeln!(out);
    }
    let width = steps.iter().filter(|step| step.decision != "fresh").map(|step| step.label.to_string().len()).max().unwrap_or(0).min(60);
    for step in steps.iter().filter(|step| step.decision != "fresh" || context.global.verbose) {
        let notes: Vec<String> = step.reasons.iter().map(ToString::to_string).collect();
        let note = match &step.detail {
            Some(detail) => detail.clone(),
            None => notes.join("; "),
        };
        writeln!(out, "{}", format!("{:>7} {:width$}  {note}", step.decision, step.label.to_string()).trim_end())?;
    }
    Ok(())
}

/// Shows a plan; returns whether anything would run.
pub fn show(planner: &Planner<'_>, plan: &[(NodeIndex, Decision)], args: &Verb, context: &Context<'_>) -> Result<bool, Error> {
    let steps = steps(planner, plan);
    let stale = steps.iter().any(|step| step.decision != "fresh");
    context.printer.document(|out| write(&steps, args, context, out))?;
    if args.output.json {
        return Ok(stale);
    }
    let count = |word| steps.iter().filter(|step| step.decision == word).count();
    context.printer.say(format_args!(
        "igraph: {} to run, {} may run, {} blocked, {} fresh",
        count("run"),
        count("maybe"),
        count("blocked"),
        count("fresh")
    ));
    Ok(stale)
}
