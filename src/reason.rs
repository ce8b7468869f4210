//! Why a node runs, or does not: every decision as data with old and new values. Decides nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::label::NodeLabel;

/// Why a node has to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Reason {
    /// No result is recorded for this node at all.
    NeverBuilt,
    /// An input file has other content, kind or mode than in the last result.
    InputChanged { path: String, old: String, new: String },
    /// An input file is new.
    InputAdded { path: String },
    /// An input file is gone.
    InputRemoved { path: String },
    /// The instructions that count have changed.
    DockerfileChanged { path: String },
    /// A base resolves to something else.
    BaseMoved { reference: String, old: String, new: String },
    /// A build argument, or one of an entry's fields that count, has another value.
    ArgumentChanged { name: String, old: Option<String>, new: Option<String> },
    /// A parent, or a test's subject, is another image.
    DependencyChanged { label: String, old: Option<String>, new: Option<String> },
    /// The definition of a test has changed.
    TestChanged { old: String, new: String },
    /// The tests that a name needs are others.
    TestsChanged { added: Vec<String>, removed: Vec<String> },
    /// The last attempt under this key failed.
    LastRunFailed { run: String },
    /// A freshness policy renewed its stamp.
    PolicyRenewed { policy: String, stamp: String },
    /// The config of a base, which may hold ENV and ONBUILD, is not recorded here.
    ConfigNotHere { reference: String },
    /// Something stands in for a base in this run.
    StandsIn { reference: String, by: String },
    /// The user asked for it.
    Forced { reason: Option<String> },
    /// Its result is needed by something that runs and can be had nowhere.
    NeededNowhere { needed_by: String },
    /// `--verify` did not find it where the record says; `written` where it is a name of an image, as its entry writes it.
    NotThere {
        what: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        written: Option<String>,
    },
    /// The name points elsewhere, or nowhere, as far as the record knows.
    NameMoves { written: String, name: String, old: Option<String>, new: String },
    /// A run was killed while it moved the name, or someone else moved it since.
    NameInDoubt { written: String, name: String },
    /// igraph computes keys in another way now.
    KeySchema { old: u32, new: u32 },
    /// The engine, or how igraph uses it, is another.
    EngineChanged { old: String, new: String },
}

/// The reasons of one step of a node: the names of an image move together, and each step is told only of its own name.
pub fn reasons_of_step(reasons: &[Reason], label: &NodeLabel) -> Vec<Reason> {
    let (NodeLabel::Tag(_, written) | NodeLabel::Push(_, written)) = label else { return reasons.to_vec() };
    let own = |reason: &&Reason| match reason {
        Reason::NameMoves { written: other, .. }
        | Reason::NameInDoubt { written: other, .. }
        | Reason::NotThere { written: Some(other), .. } => **other == **written,
        _ => true,
    };
    reasons.iter().filter(own).cloned().collect()
}

fn short(value: &str) -> &str {
    match value.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 => &hex[..12],
        _ if value.len() == 64 && value.bytes().all(|c| c.is_ascii_hexdigit()) => &value[..12],
        _ => value,
    }
}

struct Shown<'a>(&'a Option<String>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().map_or("nothing", short))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("no result yet"),
            Self::InputChanged { path, .. } => write!(f, "{path} changed"),
            Self::InputAdded { path } => write!(f, "{path} added"),
            Self::InputRemoved { path } => write!(f, "{path} removed"),
            Self::DockerfileChanged { path } => write!(f, "{path} changed"),
            Self::BaseMoved { reference, old, new } => write!(f, "base {reference} moved: {} → {}", short(old), short(new)),
            Self::ArgumentChanged { name, old, new } => write!(f, "{name} changed: {} → {}", Shown(old), Shown(new)),
            Self::DependencyChanged { label, old, new } => write!(f, "{label} changed: {} → {}", Shown(old), Shown(new)),
            Self::TestChanged { .. } => f.write_str("test definition changed"),
            Self::TestsChanged { added, removed } => {
                f.write_str("tests changed:")?;
                added.iter().try_for_each(|test| write!(f, " +{test}"))?;
                removed.iter().try_for_each(|test| write!(f, " -{test}"))
            }
            Self::LastRunFailed { run } => write!(f, "failed in run {run}"),
            Self::PolicyRenewed { policy, stamp } => write!(f, "{policy} renewed at {stamp}"),
            Self::ConfigNotHere { reference } => write!(f, "config of {reference} not here"),
            Self::StandsIn { reference, by } => write!(f, "{by} stands in for {reference}"),
            Self::Forced { reason: None } => f.write_str("forced"),
            Self::Forced { reason: Some(reason) } => write!(f, "forced: {reason}"),
            Self::NeededNowhere { needed_by } => write!(f, "needed by {needed_by} and nowhere to be had"),
            Self::NotThere { what, .. } => write!(f, "{what} is not where it was put"),
            Self::NameMoves { name, old, new, .. } => write!(f, "{name}: {} → {}", Shown(old), short(new)),
            Self::NameInDoubt { name, .. } => write!(f, "{name} may point elsewhere by now"),
            Self::KeySchema { old, new } => write!(f, "key schema {old} → {new}"),
            Self::EngineChanged { old, new } => write!(f, "engine {old} → {new}"),
        }
    }
}
