//! The one stream of typed events that execution emits and every report is a fold over.
//! Knows nothing of consoles or files. Recorded as JSON lines; the first line is the schema.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::digest::ImageId;
use crate::failure::Failure;
use crate::label::NodeLabel;
use crate::reason::Reason;

/// Name of the recorded form; additions keep the version.
pub const SCHEMA: &str = "igraph.events";
/// Version of the recorded form.
pub const VERSION: u32 = 1;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// An outside image, or a `Base` entry.
    Base,
    /// An `Image` entry.
    Image,
    /// A test of an image.
    Test,
    /// A local name.
    Tag,
    /// A registry name.
    Push,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Base nodes.
    pub bases: usize,
    /// Image nodes.
    pub images: usize,
    /// Test nodes.
    pub tests: usize,
    /// Tag nodes.
    pub tags: usize,
    /// Push nodes.
    pub pushes: usize,
}

impl Counts {
    /// The field of `kind`.
    pub fn of(&mut self, kind: NodeKind) -> &mut usize {
        match kind {
            NodeKind::Base => &mut self.bases,
            NodeKind::Image => &mut self.images,
            NodeKind::Test => &mut self.tests,
            NodeKind::Tag => &mut self.tags,
            NodeKind::Push => &mut self.pushes,
        }
    }
}

/// What has become of a node. Every planned node gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// A recorded result holds; nothing was done. For a test: a cached pass.
    Fresh,
    /// It ran and succeeded. `changed` is false when the result is what it was before (early cutoff).
    Succeeded { image: Option<ImageId>, changed: bool },
    /// A test that passed only on a later attempt.
    Flaky { failures: Vec<Failure> },
    /// It ran and failed, all attempts used.
    Failed { failure: Failure },
    /// Not run, because something it depends on failed.
    Skipped { cause: NodeLabel },
    /// Not run, because something forbids it (no tests, a stand-in base, a foreign move …).
    Blocked { reason: String },
    /// Not run or not finished, because the run was stopped.
    Cancelled,
}

impl Outcome {
    /// Whether what depends on the node may go on.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Fresh | Self::Succeeded { .. } | Self::Flaky { .. })
    }
}

/// Where an output line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The step's standard output.
    Stdout,
    /// The step's standard error.
    Stderr,
    /// igraph or the engine about the step.
    Engine,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The first of a run. `scope` counts all planned nodes, `stale` those known to run, `maybe` those that may.
    RunStarted {
        run: String,
        at: Timestamp,
        igraph: String,
        verb: String,
        patterns: Vec<String>,
        engine: String,
        scope: Counts,
        stale: Counts,
        maybe: Counts,
        /// What `--reason` said.
        reason: Option<String>,
    },
    /// Something worth telling that ends nothing.
    Warning { at: Timestamp, node: Option<NodeLabel>, message: String },
    /// A node left the queue and has to run.
    NodeStarted {
        at: Timestamp,
        node: NodeLabel,
        kind: NodeKind,
        reasons: Vec<Reason>,
        /// What it directly depends on, so that the critical path can be told from the events alone.
        #[serde(default)]
        needs: Vec<NodeLabel>,
    },
    /// An attempt of a node begins; `log` is its file within the run's folder.
    AttemptStarted {
        at: Timestamp,
        node: NodeLabel,
        /// From 1.
        attempt: u32,
        /// How many there may be at most; 0 where that is not known.
        #[serde(default)]
        of: u32,
        log: String,
    },
    /// A line of output of a running attempt; never recorded, the attempt's log has it.
    Output { node: NodeLabel, stream: Stream, line: String },
    /// Work of known length within an attempt, in bytes or items; never recorded.
    Progress { node: NodeLabel, what: String, done: u64, total: Option<u64> },
    /// An attempt failed and another follows after `delay_ms`.
    AttemptFailed { at: Timestamp, node: NodeLabel, attempt: u32, failure: Failure, delay_ms: Option<u64> },
    /// The node's terminal event.
    NodeFinished {
        at: Timestamp,
        node: NodeLabel,
        kind: NodeKind,
        outcome: Outcome,
        reasons: Vec<Reason>,
        attempts: u32,
        duration_ms: u64,
        /// The image it is, tests or names, where that is known; for a fresh node too.
        #[serde(default)]
        image: Option<ImageId>,
    },
    /// The last of a run.
    RunFinished { at: Timestamp, duration_ms: u64, exit_code: u8, stopped_by: Option<String> },
}

/// Who listens. Called from many threads; must not block for long.
pub trait Sink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: &Event);
}
