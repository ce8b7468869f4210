//! The run of a cycle, and what is done about changes while it goes on.

use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};

use super::cycles::{KeptEngine, Wake, Watch};
use super::look::{Look, Owns, Planning, different};
use super::reach::Scope;
use crate::cli::args::Verb;
use crate::cli::commands::verb::{Session, Summary};
use crate::cli::error::Error;
use crate::cli::program::Context;
use crate::cli::workbench::Workbench;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::execute::{EngineFactory, Stops};
use crate::failure::{Failure, FailureClass};
use crate::record::StateIdentity;
use crate::watch::POLL;

impl Watch<'_> {
    /// One run, of a plan that is made anew when igraph has the lock: another igraph may have done some of it. The lock is held
    /// meanwhile, and no longer.
    pub(super) fn execute(&mut self, scope: &Scope, reason: Option<String>) -> Result<Owns, Error> {
        let cancel = self.context.cancel.child();
        let context = Context { cancel: &cancel, ..*self.context };
        let bench = self.bench(&context);
        let _writer = bench.writer(false, self.clock.as_ref())?;
        // whatever another igraph has done while this one waited is in the next look
        let alone = self.seen == Some(StateIdentity::of(&bench.folder));
        self.seen = None;
        let state = bench.state()?;
        let engine = self.engine.clone();
        let process = process(self.clock.as_ref());
        let make: Box<EngineFactory<'_>> = {
            let (engine, bench, args, process) = (&engine, &bench, self.args, &process);
            Box::new(move || kept_engine(engine, bench, args, process))
        };
        let stops = Stops::default();
        let ran = self.planning(scope.clone()).evaluate(&bench, &state, |look| {
            let summary = Summary::of(look.planner.graph, look.plan);
            let session = Session {
                bench: &bench,
                args: self.args,
                verb: self.verb,
                depth: self.depth,
                state: &state,
                digests: look.digests,
                planner: look.planner,
                plan: look.plan,
                clock: self.clock.clone(),
                engine: make.as_ref(),
                stops: &stops,
                reason,
            };
            let (_, run) = std::thread::scope(|scope| {
                let done = Done(self.sender.clone());
                let running = scope.spawn(|| {
                    let _done = done;
                    session.run(&summary, look.lock)
                });
                self.attend(look, &stops);
                running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            let lock = self.lock_now();
            // otherwise somebody else has changed it meanwhile
            self.lock = look.lock.is_on_disk().then_some(lock);
            Ok((run, look.owns(), look.to_run()))
        });
        let (run, owns, to_run) = ran?;
        for (label, platform) in to_run {
            let result = state.latest(&label, &platform)?.filter(|result| result.run == run && !result.verdict.is_good());
            if let Some((result, failure)) = result.as_ref().and_then(|result| Some((result, result.failure.as_ref()?))) {
                let held = match failure.class {
                    FailureClass::Step => format!("it failed in run {run}, and nothing of it has changed since"),
                    FailureClass::Infra | FailureClass::Stopped => String::new(),
                };
                self.failed.insert(result.key, held);
            }
        }
        drop(state);
        self.seen = alone.then(|| StateIdentity::of(&bench.folder));
        Ok(owns)
    }

    /// Takes events while a run goes on. A change to a node that runs stops it; a change to any of the run's makes that end early, since
    /// the next one plans anew.
    fn attend(&mut self, running: &Look<'_>, stops: &Stops) {
        loop {
            let left = self.debounce.left(self.clock.monotonic());
            if left.is_some_and(|left| left.is_zero()) {
                self.debounce.reset();
                // the run itself adds to the lock
                if self.is_only_lock() && running.lock.is_on_disk() {
                    continue;
                }
                // what is broken is told when the run has ended
                if let Ok(now) = self.owns_now() {
                    let different = different(&running.owns(), &now);
                    for label in stops.running().intersection(&different) {
                        stops.stop(label);
                    }
                    if !different.is_empty() {
                        stops.drain();
                    }
                }
                continue;
            }
            let poll = self.watcher.polls().then_some(POLL);
            if self.take(left.into_iter().chain(poll).min()) {
                return;
            }
        }
    }

    /// What files and build files make of the nodes now.
    fn owns_now(&self) -> Result<Owns, Error> {
        let (catalogue, here, planning) = match self.loaded(&self.pending)? {
            Some((catalogue, here, selection)) => (catalogue, here, Planning { selection, ..self.planning(Scope::Everything) }),
            None => (self.catalogue.clone(), self.here.clone(), self.planning(self.touched(&self.pending))),
        };
        let bench = Workbench::of(self.context, catalogue, here);
        let state = bench.state_read_only()?;
        planning.evaluate(&bench, &state, |look| Ok(look.owns()))
    }
}

/// Tells the loop that a run has ended, however it does.
struct Done(Sender<Wake>);

impl Drop for Done {
    fn drop(&mut self) {
        // the loop waits for it, so it is there
        let _ = self.0.send(Wake::Done);
    }
}

/// What an engine that is made now calls this process.
pub(super) fn process(clock: &dyn Clock) -> String {
    format!("{}-{}", std::process::id(), clock.now().0)
}

/// The engine of the cycles before, if it is still the one that is asked for.
pub(super) fn kept_engine(kept: &KeptEngine, bench: &Workbench<'_>, args: &Verb, process: &str) -> Result<Arc<dyn Engine>, Failure> {
    let asked = format!("{:?} {:?}", args.world.engine, bench.catalogue.workspace.engine);
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, engine)) = kept.as_ref().filter(|(known, _)| *known == asked) {
        return Ok(engine.clone());
    }
    let engine = bench.engine(&args.world, process)?;
    bench.say_how(engine.as_ref());
    *kept = Some((asked, engine.clone()));
    Ok(engine)
}
