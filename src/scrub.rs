//! Files that differ between two runs of the same command for no reason of the image's: what may be left out of layers. Knows no engine.

use std::fmt;
use std::str::FromStr;

/// A known set of such files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scrub {
    /// Logs and caches of apt, dpkg and ldconfig, which hold times.
    Debian,
}

/// The word is no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such set")]
pub struct NoScrub;

impl Scrub {
    /// All there are.
    pub const ALL: [Self; 1] = [Self::Debian];

    /// The files, without leading slash.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Debian => &[
                "var/cache/apt/pkgcache.bin",
                "var/cache/apt/srcpkgcache.bin",
                "var/cache/ldconfig/aux-cache",
                "var/log/alternatives.log",
                "var/log/apt/history.log",
                "var/log/apt/term.log",
                "var/log/dpkg.log",
            ],
        }
    }
}

impl fmt::Display for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian",
        })
    }
}

impl FromStr for Scrub {
    type Err = NoScrub;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scrub| scrub.to_string() == text).ok_or(NoScrub)
    }
}
