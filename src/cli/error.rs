//! What ends a command early: each situation with its exit code and hint. Knows no way to print itself but as one line.

use std::io;
use std::path::PathBuf;

use super::exit::Exit;
use crate::failure::{Failure, FailureClass};
use crate::label::LabelError;
use crate::pattern::PatternError;
use crate::problem::Problem;
use crate::record::RecordError;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader of stdout has gone.
    #[error("the reader of the output has gone")]
    ClosedPipe,
    /// stdout could not be written.
    #[error("cannot write to stdout: {0}")]
    Stdout(#[source] io::Error),
    /// A file that was asked for could not be written.
    #[error("cannot write `{path}`: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that an argument names could not be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `-C` names no folder.
    #[error("cannot change to `{path}`: {source}", path = path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An argument is no label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// `help` knows no such word.
    #[error("there is no topic or command `{topic}`")]
    Topic {
        /// What was asked.
        topic: String,
        /// The nearest there is.
        nearest: Option<String>,
    },
    /// An argument is wrong in a way that only the workspace shows.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// Engine, registry or disk.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// Build files, Dockerfiles, labels or the lock are wrong.
    #[error("{}", problems_in_short(.0))]
    Problems(Vec<Problem>),
    /// An argument is no pattern.
    #[error(transparent)]
    Pattern(PatternError),
    /// The records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Registries refuse to be written to.
    #[error("{} repositories can't be written", .0.len())]
    Credentials(Vec<Failure>),
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::ClosedPipe => Exit::CLOSED_PIPE,
            Self::Read { .. } | Self::Directory { .. } | Self::Label(_) | Self::Topic { .. } | Self::Usage { .. } => Exit::Usage,
            Self::Stdout(_) | Self::Write { .. } => Exit::Infra,
            Self::Failure(failure) => match failure.class {
                FailureClass::Step => Exit::ImageFailed,
                FailureClass::Infra | FailureClass::Stopped => Exit::Infra,
            },
            Self::Problems(_) | Self::Pattern(_) => Exit::Usage,
            // a file that is not there, or is none of ours, is a slip and not the machine's fault
            Self::Record(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Exit::Usage,
            Self::Record(RecordError::NoSavedState { .. } | RecordError::DamagedSave { .. } | RecordError::NoRun { .. }) => Exit::Usage,
            Self::Record(_) => Exit::Infra,
            Self::Credentials(_) => Exit::NameFailed,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Label(error) => error.hint(),
            Self::Topic { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::Topic { nearest: None, .. } => Some("`igraph help` lists the topics and commands".to_owned()),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Failure(failure) => failure.hint.clone(),
            Self::Pattern(error) => error.hint(),
            Self::Record(error) => error.hint(),
            Self::ClosedPipe
            | Self::Stdout(_)
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::Directory { .. }
            | Self::Problems(_)
            | Self::Credentials(_) => None,
        }
    }

    /// A failed write to stdout.
    pub fn stdout(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe { Self::ClosedPipe } else { Self::Stdout(source) }
    }
}

fn problems_in_short(problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
}
