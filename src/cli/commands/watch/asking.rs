//! `--watch --bases`: registries are asked and probes run beside the loop, which carries out what came of it between cycles.

use std::collections::BTreeSet;
use std::thread::Scope as Threads;
use std::time::Duration;

use super::cycles::{Wake, Watch};
use super::running::{kept_engine, process};
use crate::cli::commands::bases;
use crate::cli::error::Error;
use crate::cli::survey::{Probes, Survey};
use crate::cli::workbench::Workbench;

/// When bases are asked after, and what came of it. Moments are those of one monotonic clock.
pub(super) struct Asking {
    every: Duration,
    /// When next; `None` while somebody is asking.
    next: Option<Duration>,
    began: Duration,
    /// To be carried out between cycles.
    found: Option<Result<Survey, Error>>,
    /// What could not be asked the last time, so that it is told once.
    unasked: BTreeSet<String>,
}

impl Asking {
    /// Asks for the first time when `every` is over.
    pub(super) fn new(every: Duration, now: Duration) -> Self {
        Self { every, next: Some(now + every), began: now, found: None, unasked: BTreeSet::new() }
    }

    /// How long it is until somebody has to ask.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        self.next.map(|next| next.saturating_sub(now))
    }

    fn begin(&mut self, now: Duration) {
        (self.began, self.next) = (now, None);
    }

    /// The registries have answered.
    pub(super) fn answered(&mut self, found: Result<Survey, Error>) {
        (self.next, self.found) = (Some(self.began + self.every), Some(found));
    }

    /// What is to be carried out.
    pub(super) fn answer(&mut self) -> Option<Result<Survey, Error>> {
        self.found.take()
    }

    /// What of this could be asked the last time.
    fn news(&mut self, unasked: BTreeSet<String>) -> Vec<String> {
        let before = std::mem::replace(&mut self.unasked, unasked);
        self.unasked.difference(&before).cloned().collect()
    }
}

impl<'a> Watch<'a> {
    /// Asks the registries after the bases of what is watched, and runs its probes, while everything else goes on.
    pub(super) fn ask_bases<'s>(&mut self, threads: &'s Threads<'s, '_>)
    where
        'a: 's,
    {
        let now = self.clock.monotonic();
        if let Some(asking) = &mut self.asking {
            asking.begin(now);
        }
        let (context, args, sender) = (self.context, self.args, self.sender.clone());
        let (catalogue, here, selection) = (self.catalogue.clone(), self.here.clone(), self.selection.clone());
        let (clock, engine) = (self.clock.clone(), self.engine.clone());
        threads.spawn(move || {
            let bench = Workbench::of(context, catalogue, here);
            let process = process(clock.as_ref());
            let make = || kept_engine(&engine, &bench, args, &process);
            let found = bases::ask(&bench, &selection, Probes { world: &args.world, engine: &make }, &clock);
            // where the loop has ended nobody wants to know
            let _ = sender.send(Wake::Bases(found));
        });
    }

    /// Moves the lock as the registries have answered; what moved is pending then.
    pub(super) fn renew(&mut self, found: Result<Survey, Error>) {
        let moved = found.and_then(|found| {
            let unasked = found.failures().into_iter().map(|(name, failure)| format!("{name}: {}", failure.message)).collect();
            let news = self.asking.as_mut().map(|asking| asking.news(unasked));
            news.into_iter().flatten().for_each(|trouble| self.context.printer.warn(trouble));
            bases::renew(&found, &self.bench(self.context), self.clock.as_ref())
        });
        match moved {
            Ok(moved) => self.pending.paths.extend(moved),
            Err(error) => self.tell(&error),
        }
    }
}
