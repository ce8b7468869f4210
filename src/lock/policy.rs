//! What freshness policies say, decided from the lock and the time: pure, and moved by nobody but `igraph update`.

use std::fmt;
use std::time::Duration;

use super::{Candidate, Renewal};
use crate::clock::Timestamp;
use crate::digest::Digest;

/// A policy that renews a node's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Its age.
    Refresh,
    /// The answer of a command that was run in its image.
    Probe,
}

impl Policy {
    /// The policy of that name.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Refresh, Self::Probe].into_iter().find(|policy| policy.to_string() == word)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refresh => "refresh",
            Self::Probe => "probe",
        })
    }
}

/// What `refresh` says about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Nothing is counted yet: from this moment on.
    Begins(Timestamp),
    /// Fresh until that moment.
    Fresh(Timestamp),
    /// Expired; what it is of.
    Expired(Timestamp),
}

/// Whether what was renewed at `renewal`, or never yet and built at `built`, has expired. A node that was never counted is as old as its
/// build, where that is known: so a policy that is new renews at its first turn, and nothing before.
pub fn age(refresh: Duration, renewal: Option<&Renewal>, built: Option<Timestamp>, now: Timestamp) -> Age {
    let Some(since) = renewal.map(|renewal| renewal.at).or(built) else { return Age::Begins(now) };
    let expires = since.after(refresh);
    match (now >= expires, renewal) {
        (true, _) => Age::Expired(since),
        (false, None) => Age::Begins(since),
        (false, Some(_)) => Age::Fresh(expires),
    }
}

/// What `settle` says about a base that has moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settling {
    /// It has stood long enough.
    Moves,
    /// It waits until that moment, as this candidate.
    Waits {
        /// What the lock is to keep.
        candidate: Candidate,
        /// When it counts.
        until: Timestamp,
    },
}

/// Whether `manifest`, which a reference points at `now`, has stood for `settle`; `candidate` is what the lock knows.
pub fn settling(settle: Duration, candidate: Option<&Candidate>, manifest: Digest, now: Timestamp) -> Settling {
    let candidate = candidate.filter(|known| known.manifest == manifest).cloned().unwrap_or(Candidate { manifest, seen: now });
    let until = candidate.seen.after(settle);
    if now >= until { Settling::Moves } else { Settling::Waits { candidate, until } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(number: u32) -> Timestamp {
        Timestamp(0).after(DAY * number)
    }

    #[test]
    fn a_node_expires_when_it_is_as_old_as_its_policy_says() {
        let counted = |at| Some(Renewal { at, policy: None });
        let renewed = |at| Some(Renewal { at, policy: Some(Policy::Refresh) });
        for (renewal, built, now, expected) in [
            (None, None, day(9), Age::Begins(day(9))),
            // a new policy counts from the build, and renews at once what is older
            (None, Some(day(5)), day(9), Age::Begins(day(5))),
            (None, Some(day(2)), day(9), Age::Expired(day(2))),
            (counted(day(5)), Some(day(8)), day(9), Age::Fresh(day(12))),
            (counted(day(2)), None, day(9), Age::Expired(day(2))),
            (renewed(day(5)), None, day(11), Age::Fresh(day(12))),
            (renewed(day(5)), Some(day(11)), day(12), Age::Expired(day(5))),
            // a clock that was set back renews nothing
            (renewed(day(5)), None, day(1), Age::Fresh(day(12))),
        ] {
            assert_eq!(age(DAY * 7, renewal.as_ref(), built, now), expected, "{renewal:?} {built:?} {now:?}");
        }
    }

    #[test]
    fn a_moved_base_counts_once_it_has_stood_long_enough() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let seen = |manifest, number| Candidate { manifest, seen: day(number) };
        let waits = |candidate: Candidate| Settling::Waits { until: candidate.seen.after(DAY * 2), candidate };
        for (candidate, now, expected) in [
            (None, 5, waits(seen(one, 5))),
            (Some(seen(one, 4)), 5, waits(seen(one, 4))),
            (Some(seen(one, 3)), 5, Settling::Moves),
            // what moved on meanwhile begins anew
            (Some(seen(other, 1)), 5, waits(seen(one, 5))),
        ] {
            assert_eq!(settling(DAY * 2, candidate.as_ref(), one, day(now)), expected, "{candidate:?}");
        }
        assert_eq!(settling(Duration::ZERO, None, one, day(1)), Settling::Moves);
    }
}
