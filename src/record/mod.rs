//! What outlives a run, all of it below `igraph-out/`: results per key, names, blobs, the journal, runs and their logs, and the
//! witness of a no-op. Knows the vocabulary; decides nothing, and knows no graph, no engine and no registry.
//!
//! | file | does |
//! |---|---|
//! | `error` | every way it fails, with hints |
//! | `folder` | where things lie below `igraph-out/`; file writing that is whole or not at all |
//! | `writer` | one writer at a time: the flock |
//! | `schema` | the tables, their version, migrations |
//! | `state` | `state.db`, opened to write or only to read |
//! | `result` | results per key and per node |
//! | `components` | the stored form of a key's components |
//! | `facts` | names, locations, blobs, configs, claims |
//! | `settle` | one transaction per node |
//! | `publishing` | bytes of manifests and configs, what others left at names |
//! | `journal` | groups of names in flight |
//! | `collect` | forgetting what is old |
//! | `travel` | `state save` and `state load` |
//! | `runs`, `recorder` | the log folder: reading it back, writing it |
//! | `snapshot` | the witness that nothing a settled evaluation read has changed |

mod collect;
mod components;
mod error;
mod facts;
mod folder;
mod journal;
mod publishing;
mod recorder;
mod result;
mod runs;
mod schema;
mod settle;
mod snapshot;
mod state;
mod strikes;
mod travel;
mod writer;

#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod state_tests;

pub use collect::{Forgotten, KEPT_RESULTS};
pub use error::RecordError;
pub use facts::{BlobPlace, Facts, Location, NameRecord, NameScope, StoredConfig};
pub use folder::{StateFolder, remove_tree};
pub use journal::{JournalGroup, JournalId, JournalName, JournalStep};
pub use recorder::Recorder;
pub use result::{ResultRecord, Summary, Verdict, node_key};
pub use runs::{KEPT_RUNS, RunLog, RunSummary, log_name};
pub use settle::{AttemptRecord, Settlement};
pub use snapshot::{Difference, Snapshot, SnapshotDraft, Validity, Written};
pub use state::{State, StateIdentity};
pub use strikes::{AnswerRecord, Strikes};
pub use travel::{Loaded, VERSION as TRAVEL_VERSION};
pub use writer::{Holder, Wait, WriterLock};
