//! The system's clock: the only place that reads time. Knows nothing of what it is for.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};
use std::thread::Thread;
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
        let end = Instant::now() + wait;
        let waker = Arc::new(Sleeper(std::thread::current())).into();
        let mut cancelled = pin!(cancel.cancelled());
        loop {
            if cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return false;
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                _ => return true,
            }
        }
    }
}

/// A thread that sleeps until it is woken.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
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

    #[test]
    fn a_cancelled_sleeper_is_woken() {
        let (clock, cancel) = (system(Duration::ZERO), Cancel::new());
        let (sleeping, stop) = (clock.clone(), cancel.clone());
        let sleeper = std::thread::spawn(move || sleeping.sleep(Duration::from_secs(3600), &stop));
        std::thread::sleep(Duration::from_millis(20));
        cancel.cancel();
        assert!(!sleeper.join().unwrap());
        assert!(clock.monotonic() < Duration::from_secs(60));
    }
}
