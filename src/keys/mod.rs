//! Keys.

pub mod files;
