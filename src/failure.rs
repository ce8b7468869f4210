//! How a step fails: its class decides what happens next. Knows no engine and no policy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose fault it is, and so whether another attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The user's RUN, test or Dockerfile failed: another attempt would fail alike.
    Step,
    /// Engine, network, registry or disk: another attempt may pass.
    Infra,
    /// Cancelled by the user, or out of time because the run ends.
    Stopped,
}

/// Whether an infra failure may be attempted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// After the policy's delay.
    Backoff,
    /// Not before this long has passed (Retry-After).
    After(Duration),
    /// Never: disk full, credentials refused, no daemon.
    Never,
}

const OVERTAKEN: &str = "files that change";

/// One failed attempt, as an engine or the registry client tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub class: FailureClass,
    /// Whether again.
    pub retry: Retry,
    /// One line for people, like `exit 100 at RUN apt-get update (Dockerfile:7)`.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Exit code of the user's command, where there was one.
    pub exit_code: Option<i64>,
    /// Failures of the same trouble carry the same word, so that a hundred are shown as one:
    /// like `credentials reg.corp/team/app` or `disk`.
    pub group: Option<String>,
}

impl Failure {
    /// The user's step failed.
    pub fn step(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Step, retry: Retry::Never, message: message.into(), hint: None, exit_code: None, group: None }
    }

    /// Something around it failed; may be attempted again.
    pub fn infra(message: impl Into<String>) -> Self {
        Self { class: FailureClass::Infra, retry: Retry::Backoff, message: message.into(), hint: None, exit_code: None, group: None }
    }

    /// The run was stopped.
    pub fn stopped() -> Self {
        Self { class: FailureClass::Stopped, retry: Retry::Never, message: "stopped".into(), hint: None, exit_code: None, group: None }
    }

    /// A file of the context is not what the key saw: another attempt needs another key.
    pub fn overtaken(path: &str) -> Self {
        Self::infra(format!("`{path}` changed while it was read"))
            .retry(Retry::Never)
            .hint("run again once nothing writes to it")
            .group(OVERTAKEN)
    }

    /// Whether it is [`Self::overtaken`].
    pub fn is_overtaken(&self) -> bool {
        self.group.as_deref() == Some(OVERTAKEN)
    }

    /// Sets whether it may be attempted again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the exit code of the user's command.
    pub fn exit_code(mut self, code: i64) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// Sets the word under which alike failures are shown as one.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
