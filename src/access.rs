//! What a build may reach beyond its context: network, secrets, ssh agents. Says where, never a value.

use std::fmt;
use std::path::PathBuf;

/// A secret or ssh agent that a build may mount; its value is read when used and kept out of keys and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The value of an environment variable.
    Env(String),
    /// The bytes of a file.
    File(PathBuf),
}

/// The network of RUN steps and of a test's commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// What the engine does by itself.
    #[default]
    Default,
    /// The host's.
    Host,
    /// None.
    None,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Host => "host",
            Self::None => "none",
        })
    }
}
