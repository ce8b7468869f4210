//! Records how nodes ended, beside the slots: a node that waits for the disk holds up no other, and those that end while the disk is
//! at work share one transaction. Only what is recorded is told to the main loop. Knows no engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender};

use super::attempts::record_failure;
use super::world::{JobEnd, World};
use crate::failure::Retry;
use crate::graph::NodeIndex;
use crate::plan::PastResult;
use crate::record::Settlement;

/// What a node that ended leaves in the record.
#[derive(Clone, Debug)]
pub(super) struct Unrecorded {
    /// All of it.
    pub settlement: Settlement,
    /// What plans know of it from then on.
    pub settled: PastResult,
}

/// How a node ended; or the panic of whoever worked on it.
pub(super) type Ended = (NodeIndex, std::thread::Result<JobEnd>);

/// Records what comes in, until nothing can come any more.
pub(super) fn run(world: &World<'_>, ends: &Receiver<(NodeIndex, JobEnd)>, recorded: &Sender<Ended>) {
    while let Ok(first) = ends.recv() {
        let mut batch: Vec<(NodeIndex, JobEnd)> = std::iter::once(first).chain(ends.try_iter()).collect();
        let indexes: Vec<NodeIndex> = batch.iter().map(|(index, _)| *index).collect();
        let written = catch_unwind(AssertUnwindSafe(|| record(world, &mut batch)));
        // the receiver outlives all that is sent
        match written {
            Ok(()) => batch.into_iter().for_each(|(index, end)| drop(recorded.send((index, Ok(end))))),
            Err(panic) => drop(recorded.send((indexes[0], Err(panic)))),
        }
    }
}

/// Records a batch in one transaction; where that fails, each node alone, since only one may be at fault.
fn record(world: &World<'_>, batch: &mut [(NodeIndex, JobEnd)]) {
    let unrecorded: Vec<Unrecorded> = batch.iter_mut().filter_map(|(_, end)| end.record.take()).map(|record| *record).collect();
    let (settlements, settled): (Vec<_>, Vec<_>) = unrecorded.into_iter().map(|record| (record.settlement, record.settled)).unzip();
    let commit =
        |settlements: &[Settlement]| world.state.commit_all(settlements).map_err(|error| record_failure(&error).retry(Retry::Never));
    let together = commit(&settlements);
    for (((_, end), settlement), settled) in batch.iter_mut().zip(&settlements).zip(settled) {
        let written = match &together {
            Err(_) if settlements.len() > 1 => commit(std::slice::from_ref(settlement)),
            other => other.clone(),
        };
        match written {
            Ok(()) => world.planner.settled(settled),
            // a failure of its own is the better word
            Err(failure) if end.value.is_some() => *end = JobEnd::failed(failure).like(end),
            Err(_) => {}
        }
    }
}
