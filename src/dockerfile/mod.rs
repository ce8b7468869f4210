//! The Dockerfile language: parse, expand, stages, context inputs, `.dockerignore`. Knows no graph, key or engine.
//!
//! [`parse`] makes a [`Dockerfile`] with spans; [`Dockerfile::resolve`] decides for one target, one set of arguments and one
//! platform what is needed; [`list_context`] lists what of the context can be read; [`Resolved::generate`] writes the text for a daemon.

mod context;
mod instruction;
mod listing;
mod resolved;

pub use context::{ContextEntry, ContextSource, ContextUse, EntryKind};
pub use instruction::{
    AddFlags, ArgDeclaration, Command, CommandLine, Dockerfile, FileSource, Healthcheck, HealthcheckTest, Heredoc, ImageFrom, Instruction,
    Mount, MountKind, OnBuild, Pair, Run, Span, Spanned, Stage, Transfer,
};
pub use listing::Listing;
pub use resolved::{Configs, Feature, ImageUse, NoConfigs, Request, Resolved, ResolvedStage, Secret, Ssh, StageBase, Step, UseKind};
