//! The Dockerfile language: parse, expand, stages, context inputs, `.dockerignore`. Knows no graph, key or engine.
//!
//! [`parse`] makes a [`Dockerfile`] with spans; [`Dockerfile::resolve`] decides for one target, one set of arguments and one
//! platform what is needed; [`list_context`] lists what of the context can be read; [`Resolved::generate`] writes the text for a daemon.

mod check;
mod context;
mod expand;
mod features;
mod flags;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod generate;
mod glob;
mod heredoc;
mod ignore;
mod instruction;
mod lines;
mod listing;
mod mount;
mod parse;
mod raw;
mod resolve;
mod resolved;
mod text;
mod typed;
mod words;

#[cfg(test)]
mod tests;

pub use check::{SourceKind, source_kind};
pub use context::{ContextEntry, ContextInput, ContextSource, ContextUse, EntryKind};
pub use glob::{BadPattern, PathPattern, has_wildcard};
pub use ignore::Ignore;
pub use instruction::{
    AddFlags, ArgDeclaration, Command, CommandLine, Directives, Dockerfile, FileSource, Healthcheck, HealthcheckTest, Heredoc, ImageFrom,
    Instruction, Mount, MountFlag, MountKind, OnBuild, Pair, Run, Span, Spanned, Stage, Transfer,
};
pub use listing::{Listing, list_context};
pub use parse::{SUBJECT, parse, parse_test};
pub use resolve::is_proxy;
pub use resolved::{
    Configs, Environment, Feature, FromTarget, ImageUse, NoConfigs, Request, Resolved, ResolvedStage, Secret, Ssh, Step, UseKind,
};
