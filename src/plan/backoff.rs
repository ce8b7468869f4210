//! Backoff: how long a step that failed is left alone under the same key. Pure.

use std::time::Duration;

use crate::clock::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Until when what failed `count` times in a row under one key, at last at `at`, is held back: an hour after the first time, two after
/// the second, and twice as long each time, up to a week.
pub fn held_until(count: u32, at: Timestamp) -> Timestamp {
    let wait = match count {
        0 => Duration::ZERO,
        count => HOUR.saturating_mul(1_u32.checked_shl(count - 1).unwrap_or(u32::MAX)),
    };
    at.after(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_week() {
        let hours = |count| held_until(count, Timestamp(0)).0 / 3_600_000;
        assert_eq!([0, 1, 2, 3, 8, 9, 32, 33, u32::MAX].map(hours), [0, 1, 2, 4, 128, 168, 168, 168, 168]);
    }
}
