//! Time, injected: the core never reads a clock, it is handed one. Tests move theirs by hand.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment moved later by `by`, to the millisecond.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC, to the second, like `2026-11-23T18:27:00Z`.
    pub fn to_rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000))
            .ok()
            .and_then(|moment| moment.format(&Rfc3339).ok())
            .unwrap_or_else(|| format!("@{}ms", self.0))
    }

    /// Parses RFC 3339; `None` when the text is no such moment.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Self)
    }
}

/// A day of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(time::Date);

impl Day {
    /// Parses a day like `2027-06-30`; `None` when the text is no day.
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339).ok()?;
        (text.len() == 10).then(|| Self(moment.date()))
    }

    /// The first moment after it.
    pub fn end(self) -> Timestamp {
        let midnight = self.0.midnight().assume_utc().unix_timestamp();
        Timestamp(midnight.saturating_add(86_400).saturating_mul(1000))
    }
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0.year(), u8::from(self.0.month()), self.0.day())
    }
}

/// Where moments and waits come from.
pub trait Clock: Send + Sync {
    /// The wall clock's moment.
    fn now(&self) -> Timestamp;
    /// Time since some fixed start, for durations; never goes back.
    fn monotonic(&self) -> Duration;
    /// Blocks for `wait` or until `cancel` is cancelled; returns whether the whole wait passed.
    fn sleep(&self, wait: Duration, cancel: &crate::cancel::Cancel) -> bool;
}

/// A clock that stands still until a test moves it; a sleep moves it by the wait and returns at once.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves wall and monotonic time forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = (now.0.after(by), now.1 + by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }

    fn sleep(&self, wait: Duration, cancel: &crate::cancel::Cancel) -> bool {
        self.advance(wait);
        !cancel.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        let day = Day::parse("2027-06-30").unwrap();
        assert_eq!((day.to_string().as_str(), day.end().to_rfc3339().as_str()), ("2027-06-30", "2027-07-01T00:00:00Z"));
        for text in ["", "2027-6-30", "2027-02-29", "30.06.2027", "2027-06-30T00:00:00Z", "2027-06-300", "tomorrow"] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }
}
