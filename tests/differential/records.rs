//! What came out of a case, as text: from a builder, or from a record. A record is one file for each builder, of sections
//! `=== name`, the first line `ok` or `failed`, then the image: its config where it differs from the base's, its files likewise.
//! Lines `# …` before the first say why, in what was written by hand.

use std::collections::BTreeMap;
use std::fmt;

use super::cases::By;

/// What buildah makes to mount files of its own on, and leaves.
const STUBS: [&str; 6] = [
    "/etc/hostname - 755 0:0 \"\"",
    "/etc/hosts - 755 0:0 \"\"",
    "/etc/resolv.conf - 755 0:0 \"\"",
    "/run d 755 0:0",
    "/run/buildkit d 755 0:0",
    "/run/secrets d 755 0:0",
];

/// By the name of the case.
pub type Record = BTreeMap<String, Outcome>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lines of its image.
    Built(Vec<String>),
    /// What it said, for people.
    Failed(String),
}

impl Outcome {
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Built(_))
    }

    /// How it differs from what `by` made, where that is to be compared; what is said of a failure changes from run to run.
    pub fn against(&self, expected: &Self, by: By) -> Option<String> {
        match (self, expected) {
            (Self::Failed(_), Self::Failed(_)) => None,
            (Self::Built(ours), Self::Built(theirs)) => {
                // buildah writes a history of its own, knows nothing of a field that only Windows reads, and leaves what it mounts on
                let own = |line: &str| line.starts_with("history") || line.starts_with("ArgsEscaped") || STUBS.contains(&line);
                let counts = |line: &&String| by != By::Buildah || !own(line);
                let (ours, theirs): (Vec<_>, Vec<_>) = (ours.iter().filter(counts).collect(), theirs.iter().filter(counts).collect());
                if ours == theirs {
                    return None;
                }
                let missing = theirs.iter().filter(|line| !ours.contains(line)).map(|line| format!("  - {line}"));
                let more = ours.iter().filter(|line| !theirs.contains(line)).map(|line| format!("  + {line}"));
                let lines: Vec<String> = missing.chain(more).collect();
                Some(if lines.is_empty() { "  the order of the history".into() } else { lines.join("\n") })
            }
            _ => Some(format!("  - {}\n  + {}", expected.first_line(), self.first_line())),
        }
    }

    fn first_line(&self) -> String {
        match self {
            Self::Built(_) => "it is built".into(),
            Self::Failed(message) => format!("it fails: {message}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built(lines) => {
                formatter.write_str("ok")?;
                lines.iter().try_for_each(|line| write!(formatter, "\n{line}"))
            }
            Self::Failed(message) => write!(formatter, "failed {message}"),
        }
    }
}

fn path(by: By) -> String {
    format!("tests/data/differential/{by}.txt")
}

pub fn load(by: By) -> Record {
    let text = std::fs::read_to_string(path(by)).unwrap_or_default();
    let sections = text.split("\n=== ").skip(1);
    let section = |section: &str| {
        let (name, rest) = section.split_once('\n').unwrap_or((section, ""));
        let mut rest = rest.trim_end_matches('\n');
        while let Some((_, next)) = rest.strip_prefix("# ").and_then(|rest| rest.split_once('\n')) {
            rest = next;
        }
        let outcome = match rest.strip_prefix("failed ") {
            Some(message) => Outcome::Failed(message.into()),
            None => Outcome::Built(rest.lines().skip(1).map(str::to_owned).collect()),
        };
        (name.to_owned(), outcome)
    };
    sections.map(section).collect()
}

pub fn save(by: By, version: &str, record: &Record) {
    let mut text = format!("Made by {by} {version}; not to be edited. docs/testing.md says how it is made and checked.\n");
    for (name, outcome) in record {
        text.push_str(&format!("\n=== {name}\n{outcome}\n"));
    }
    std::fs::write(path(by), text).unwrap();
}
