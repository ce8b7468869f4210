//! What decisions are made from: records, lock, digests of files, stand-ins for bases, where names go; and the graph and planner over
//! them, the same for every command. Decides nothing.

use std::sync::Arc;

use super::args;
use super::error::Error;
use super::values::RegistryTarget;
use super::workbench::Workbench;
use crate::graph::{Depth, Graph, GraphOptions, StandIns};
use crate::keys::{FileDigests, Keys};
use crate::lock::LockFile;
use crate::pattern::Selection;
use crate::plan::{Planner, PlannerOptions, Records};
use crate::record::State;
use crate::spec::Destination;

/// The grounds of one evaluation.
pub struct Grounds<'a> {
    bench: &'a Workbench<'a>,
    records: Records<'a>,
    /// The cache of file digests.
    pub digests: Arc<FileDigests>,
    stand_ins: StandIns,
    destination: Destination,
    engine: String,
}

impl<'a> Grounds<'a> {
    /// Reads them.
    ///
    /// # Errors
    /// Of the records, and for a `--registry` that clashes with what build files claim.
    pub fn read(
        bench: &'a Workbench<'a>,
        state: &'a State,
        lock: &'a LockFile,
        world: &args::World,
        registry: Option<&RegistryTarget>,
    ) -> Result<Self, Error> {
        Self::of(bench, Records::read(state, lock)?, Arc::new(bench.digests()), world, registry)
    }

    /// Those over records and digests that are at hand.
    ///
    /// # Errors
    /// For a `--registry` that clashes with what build files claim.
    pub fn of(
        bench: &'a Workbench<'a>,
        records: Records<'a>,
        digests: Arc<FileDigests>,
        world: &args::World,
        registry: Option<&RegistryTarget>,
    ) -> Result<Self, Error> {
        let destination = bench.destination(registry)?;
        Ok(Self { bench, records, digests, stand_ins: bench.stand_ins(world), destination, engine: bench.engine_identity(world) })
    }

    /// The nodes of a selection, with all that they stand on.
    ///
    /// # Errors
    /// Problems of Dockerfiles and cycles; a `--base` for what is no base of these.
    pub fn graph(&self, selection: &Selection, depth: Depth) -> Result<Graph<'_>, Error> {
        let options = GraphOptions { depth, stand_ins: &self.stand_ins, destination: &self.destination, platform: &self.bench.platform };
        let graph = Graph::build(&self.bench.catalogue, selection, &options, &self.records).map_err(Error::Problems)?;
        self.bench.check_stand_ins(&graph, &self.stand_ins)?;
        Ok(graph)
    }

    /// What decides about the nodes of such a graph.
    pub fn planner<'g>(&'g self, graph: &'g Graph<'g>, options: PlannerOptions) -> Planner<'g> {
        self.planner_for(self.engine.clone(), graph, options)
    }

    /// As if that engine were asked for.
    pub fn planner_for<'g>(&'g self, engine: String, graph: &'g Graph<'g>, options: PlannerOptions) -> Planner<'g> {
        let keys = Keys {
            root: self.bench.root(),
            digests: &self.digests,
            engine,
            epoch: self.bench.catalogue.workspace.epoch,
            build_platform: &self.bench.platform,
        };
        let now = self.bench.context.clock().now();
        Planner::new(graph, keys, &self.records, PlannerOptions { now, ..options })
    }
}
