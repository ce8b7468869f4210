//! What people and machines read: folds over events, and rendered problems. Never reaches into execution or an engine.

pub mod diagnostics;
