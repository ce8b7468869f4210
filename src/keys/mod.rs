//! Placeholder facade.
