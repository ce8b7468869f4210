//! The names of an image, as written and as they are pushed. Knows the registry of a workspace or a staging run,
//! not what stands in it.

use std::fmt;
use std::sync::Arc;

use super::model::{Image, Span};
use crate::reference::{ParseReferenceError, Reference};

/// A registry and perhaps a path below it: `docker.io`, `reg.corp:5000/staging`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry {
    host: String,
    prefix: String,
}

/// The text is no registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no registry: it begins with a host that has a `.` or a port, or is `localhost`")]
pub struct ParseRegistryError {
    text: String,
}

impl ParseRegistryError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        "write it like `docker.io`, `reg.corp:5000` or `reg.corp:5000/staging`".to_owned()
    }
}

impl Registry {
    /// Parses `HOST[/PREFIX]`.
    ///
    /// # Errors
    /// Where the text does not begin with a host, or the rest is no repository path.
    pub fn parse(text: &str) -> Result<Self, ParseRegistryError> {
        let fail = || ParseRegistryError { text: text.to_owned() };
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        // two segments more, so that the parser adds no `library/`
        let probe: Reference = format!("{trimmed}/a/b:c").parse().map_err(|_| fail())?;
        let (host, prefix) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        if !names_host(trimmed, &probe) || probe.tag() != Some("c") {
            return Err(fail());
        }
        Ok(Self { host: if probe.host() == HUB { HUB.to_owned() } else { host.to_owned() }, prefix: prefix.to_owned() })
    }

    /// Docker Hub.
    pub fn hub() -> Self {
        Self { host: HUB.to_owned(), prefix: String::new() }
    }

    /// Like `reg.corp:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Like `staging`; empty where there is none.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

const HUB: &str = "docker.io";

/// Whether `text`, which `reference` was parsed from, names its host itself.
pub(super) fn names_host(text: &str, reference: &Reference) -> bool {
    reference.host() != HUB || matches!(text.split('/').next(), Some(HUB | "index.docker.io" | "registry-1.docker.io"))
}

/// One name of an image, or one reference that a base provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// As written in the build file, and in step labels (`[push/4.2]`): a tag of the package's repository, or a full
    /// name, which has a `:`. An image's own name is its tag.
    pub written: Arc<str>,
    /// What it means, normalised; of a tag: in the repository as written.
    pub reference: Reference,
    /// Where it is written.
    pub span: Span,
}

/// Where names go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Names that have a host go there, all others to this registry.
    Workspace(Registry),
    /// All names go to this registry, whatever host they have: a staging run.
    Staging(Registry),
}

impl Image {
    /// The reference that `name` is pushed as. The repository path stays as written; a name that says `docker.io`
    /// or no host keeps or drops Docker Hub's `library/` as the destination demands.
    ///
    /// # Errors
    /// Where registry and repository together make no reference: longer than 255 characters.
    pub fn destination(&self, name: &ImageName, to: &Destination) -> Result<Reference, ParseReferenceError> {
        let full;
        let text = if name.written.contains(':') {
            &*name.written
        } else {
            full = format!("{}:{}", self.repository, name.written);
            &full
        };
        let hosted = names_host(text, &name.reference);
        let registry = match to {
            Destination::Workspace(_) if hosted => return Ok(name.reference.clone()),
            Destination::Workspace(registry) | Destination::Staging(registry) => registry,
        };
        if registry.prefix.is_empty() && registry.host == name.reference.host() {
            return Ok(name.reference.clone());
        }
        let path = match text.split_once('/') {
            Some((_, path)) if hosted => path,
            _ => text,
        };
        format!("{registry}/{path}").parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_hosts_with_a_path() {
        for (text, host, prefix) in [
            ("docker.io", "docker.io", ""),
            ("index.docker.io/team", "docker.io", "team"),
            ("reg.corp:5000/a/b/", "reg.corp:5000", "a/b"),
            ("localhost", "localhost", ""),
            ("[::1]:5000", "[::1]:5000", ""),
        ] {
            let registry = Registry::parse(text).unwrap();
            assert_eq!((registry.host(), registry.prefix()), (host, prefix), "{text}");
        }
        for text in ["", "nodesource", "reg.corp/UP", "reg.corp//a", "https://reg.corp", "reg.corp:5000:1", "reg.corp/a:1", "reg.corp/a@b"]
        {
            assert!(Registry::parse(text).is_err(), "{text}");
        }
    }
}
