//! The system's clock: the only place that reads time. Knows nothing of what it is for.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::cancel::Cancel;
use crate::clock::{Clock, Timestamp};

/// Wall clock and monotonic clock of this machine.
#[derive(Debug)]
struct SystemClock {
    start: Instant,
    ahead: Duration,
}

/// The system's clock, its wall `ahead` of the true time; its monotonic time begins now.
pub fn system(ahead: Duration) -> Arc<dyn Clock> {
    Arc::new(SystemClock { start: Instant::now(), ahead })
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let milliseconds = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let now = Timestamp(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => milliseconds(since),
            Err(before) => -milliseconds(before.duration()),
        });
        now.after(self.ahead)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, wait: Duration, cancel: &Cancel) -> bool {
        // short enough that Ctrl-C is not felt to hang
        const STEP: Duration = Duration::from_millis(25);
        let end = Instant::now() + wait;
        loop {
            if cancel.is_cancelled() {
                return false;
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(STEP)),
                _ => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_sleep_ends_and_a_whole_one_lasts() {
        let clock = system(Duration::ZERO);
        let before = clock.monotonic();
        assert!(clock.sleep(Duration::from_millis(30), &Cancel::new()));
        assert!(clock.monotonic() - before >= Duration::from_millis(30));
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(!clock.sleep(Duration::from_secs(86_400), &cancel));
        assert!(clock.now() > Timestamp(1_700_000_000_000));
    }
}
