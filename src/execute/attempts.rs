//! Attempts of a step: each with its own log, output to the listeners, waits between. Knows policies, not what a step does.

use std::time::Duration;

use super::retry;
use super::world::World;
use crate::engine::{Attempt, Output};
use crate::event::{Event, Stream};
use crate::failure::{Failure, FailureClass};
use crate::label::NodeLabel;
use crate::record::{AttemptRecord, log_name};
use crate::spec::RetryPolicy;

/// How the attempts of a step ended.
pub(super) struct Attempts<T> {
    /// The result of the last.
    pub result: Result<T, Failure>,
    /// All of them, for the record.
    pub records: Vec<AttemptRecord>,
    /// Time from the first's start to the last's end, waits included.
    pub duration: Duration,
}

impl<T> Attempts<T> {
    /// How many.
    pub fn count(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(u32::MAX)
    }

    /// Failures before the last attempt.
    pub fn earlier_failures(&self) -> Vec<Failure> {
        let before = self.records.len().saturating_sub(1);
        self.records.iter().take(before).filter_map(|record| record.failure.clone()).collect()
    }
}

/// Sends what an attempt says to the listeners.
struct Tee<'a> {
    world: &'a World<'a>,
    label: &'a NodeLabel,
}

impl Output for Tee<'_> {
    fn line(&self, stream: Stream, line: &str) {
        self.world.emit(&Event::Output { node: self.label.clone(), stream, line: line.to_owned() });
    }

    fn progress(&self, what: &str, done: u64, total: Option<u64>) {
        self.world.emit(&Event::Progress { node: self.label.clone(), what: what.to_owned(), done, total });
    }
}

/// What a step is tried under.
pub(super) struct Terms {
    /// Repeats.
    pub policy: RetryPolicy,
    /// A step failure is tried again too.
    pub step_too: bool,
    /// Of each attempt.
    pub timeout: Option<Duration>,
}

/// Tries `step` until it passes, its failure is final, or the run is stopped. It is given the number of the attempt, from 1.
pub(super) fn attempt<T>(
    world: &World<'_>,
    label: &NodeLabel,
    terms: &Terms,
    step: impl Fn(&Attempt<'_>, u32) -> Result<T, Failure>,
) -> Attempts<T> {
    let start = world.clock.monotonic();
    let mut records = Vec::new();
    let mut number = 0;
    let cancel = world.stops.begin(label, world.cancel);
    loop {
        number += 1;
        let at = world.clock.now();
        let began = world.clock.monotonic();
        let attempt = world.held.next_attempt(label);
        let log = log_name(label, attempt);
        let of = attempt - number + terms.policy.max.saturating_add(1);
        world.emit(&Event::AttemptStarted { at, node: label.clone(), attempt, of, log: log.clone() });
        let result = step(&Attempt { cancel: &cancel, output: &Tee { world, label }, timeout: terms.timeout }, number);
        let failure = result.as_ref().err().cloned();
        let wait = failure.as_ref().and_then(|failure| retry::next_wait(&terms.policy, number, failure, terms.step_too, world.chance()));
        records.push(AttemptRecord {
            number: attempt,
            at,
            duration_ms: millis(world.clock.monotonic().saturating_sub(began)),
            log,
            failure: failure.clone(),
            delay_ms: wait.map(millis),
        });
        let result = match (failure, wait) {
            (Some(failure), Some(wait)) if !cancel.is_cancelled() => {
                let delay_ms = Some(millis(wait));
                world.emit(&Event::AttemptFailed { at: world.clock.now(), node: label.clone(), attempt, failure, delay_ms });
                if world.clock.sleep(wait, &cancel) {
                    continue;
                }
                Err(Failure::stopped())
            }
            (Some(failure), _) => {
                if failure.class != FailureClass::Stopped {
                    let (node, failure) = (label.clone(), failure.clone());
                    world.emit(&Event::AttemptFailed { at: world.clock.now(), node, attempt, failure, delay_ms: None });
                }
                result
            }
            (None, _) => result,
        };
        world.stops.end(label);
        return Attempts { result, records, duration: world.clock.monotonic().saturating_sub(start) };
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A record that can't be written is an infra failure; a full disk stops the run.
pub(super) fn record_failure(error: &crate::record::RecordError) -> Failure {
    let failure = Failure::infra(error.to_string()).retry(crate::failure::Retry::Never);
    let failure = match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    };
    if matches!(error, crate::record::RecordError::DiskFull { .. }) { failure.group("disk") } else { failure }
}

/// A file that can't be written; a full disk stops the run.
pub(super) fn disk_failure(error: &std::io::Error, what: &str) -> Failure {
    let failure = Failure::infra(format!("{what} can't be written: {error}"));
    if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return failure.retry(crate::failure::Retry::Never).group("disk");
    }
    failure
}
