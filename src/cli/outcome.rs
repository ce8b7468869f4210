//! The exit code of a finished run, from how its steps ended.

use super::exit::Exit;
use crate::event::{NodeKind, Outcome};
use crate::execute::RunEnd;
use crate::failure::Failure;

/// The code. What was blocked counts as a failure of its kind; what was skipped is told by its cause.
pub fn exit_of(end: &RunEnd) -> Exit {
    let mut failures: Vec<(NodeKind, Failure)> = Vec::new();
    for (_, kind, outcome, _) in &end.steps {
        match outcome {
            Outcome::Failed { failure } => failures.push((*kind, failure.clone())),
            Outcome::Blocked { reason } => failures.push((*kind, Failure::step(reason.clone()))),
            Outcome::Fresh | Outcome::Succeeded { .. } | Outcome::Flaky { .. } | Outcome::Skipped { .. } | Outcome::Cancelled => {}
        }
    }
    Exit::of_failures(failures.iter().map(|(kind, failure)| (*kind, failure)))
}
