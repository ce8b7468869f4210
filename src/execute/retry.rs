//! Whether a failed attempt is followed by another, and after how long. Pure: chance and time are handed in.

use std::time::Duration;

use crate::failure::{Failure, FailureClass, Retry};
use crate::spec::RetryPolicy;

/// The wait before the next attempt, or `None` when `failure`, of the `attempt`th attempt (from 1), is the last word.
/// A test's step failures are tried again too (`step_too`), so that a flaky one is seen as such.
/// `chance` in `0.0..1.0` spreads waits over half to all of the delay.
pub fn next_wait(policy: &RetryPolicy, attempt: u32, failure: &Failure, step_too: bool, chance: f64) -> Option<Duration> {
    if attempt > policy.max {
        return None;
    }
    let backoff = || {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = (policy.delay.as_secs_f64() * policy.backoff.powi(exponent)).min(policy.max_delay.as_secs_f64());
        Duration::from_secs_f64(seconds * (0.5 + chance.clamp(0.0, 1.0) / 2.0))
    };
    match (failure.class, failure.retry) {
        (FailureClass::Stopped, _) => None,
        (FailureClass::Step, _) => step_too.then(backoff),
        (FailureClass::Infra, Retry::Never) => None,
        (FailureClass::Infra, Retry::After(wait)) => (wait <= policy.max_wait).then(|| wait.max(backoff())),
        (FailureClass::Infra, Retry::Backoff) => Some(backoff()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_by_class() {
        let policy = RetryPolicy::default();
        let wait = |attempt, failure: Failure, step_too| next_wait(&policy, attempt, &failure, step_too, 1.0).map(|wait| wait.as_secs());
        let after = |seconds| Failure::infra("429").retry(Retry::After(Duration::from_secs(seconds)));
        assert_eq!(wait(1, Failure::infra("reset"), false), Some(2));
        assert_eq!(wait(3, Failure::infra("reset"), false), Some(8));
        assert_eq!(wait(4, Failure::infra("reset"), false), None);
        assert_eq!(wait(1, after(30), false), Some(30));
        assert_eq!(wait(1, after(6 * 3600), false), None);
        assert_eq!(wait(1, Failure::step("exit 1"), false), None);
        assert_eq!(wait(1, Failure::step("exit 1"), true), Some(2));
        assert_eq!(wait(1, Failure::infra("disk full").retry(Retry::Never), false), None);
        assert_eq!(wait(1, Failure::stopped(), true), None);
        assert_eq!(next_wait(&policy, 1, &Failure::infra("x"), false, 0.0), Some(Duration::from_secs(1)));
        assert_eq!(next_wait(&RetryPolicy { max: 99, ..policy }, 60, &Failure::infra("x"), false, 1.0), Some(Duration::from_secs(60)));
    }
}
