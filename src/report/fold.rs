//! What every report is: a fold over events. Knows how events reach folds from many threads, not what folds make of them.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::event::{Event, Sink};

/// A report in the making.
pub trait Fold: Send {
    /// Takes the next event.
    fn apply(&mut self, event: &Event);

    /// It is `now`; called now and then by whoever has a clock, so that long silences can be filled.
    fn tick(&mut self, _now: Timestamp) {}
}

impl<F: Fold + ?Sized> Fold for Box<F> {
    fn apply(&mut self, event: &Event) {
        (**self).apply(event);
    }

    fn tick(&mut self, now: Timestamp) {
        (**self).tick(now);
    }
}

/// A fold that many threads feed.
#[derive(Debug, Default)]
pub struct Shared<F: ?Sized>(Mutex<F>);

impl<F: Fold> Shared<F> {
    /// Wraps a fold.
    pub fn new(fold: F) -> Self {
        Self(Mutex::new(fold))
    }

    /// Lets go of it.
    pub fn into_inner(self) -> F {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Fold + ?Sized> Shared<F> {
    /// Works on the fold while no event comes in.
    pub fn with<T>(&self, work: impl FnOnce(&mut F) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Fold + ?Sized> Sink for Shared<F> {
    fn emit(&self, event: &Event) {
        self.with(|fold| fold.apply(event));
    }
}

/// Tells several listeners, in order.
#[derive(Clone, Default)]
pub struct Fan(pub Vec<Arc<dyn Sink>>);

impl Sink for Fan {
    fn emit(&self, event: &Event) {
        for sink in &self.0 {
            sink.emit(event);
        }
    }
}
