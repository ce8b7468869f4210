//! Image references, normalised as Docker does (distribution/reference): `debian` is
//! `docker.io/library/debian:latest`. Knows spelling, not what a registry holds.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::digest::Digest;
use crate::text::{debug_as_display, text_serde};

const HUB: &str = "docker.io";

/// A normalised reference: host, repository path, and a tag, a digest or both. Never neither:
/// a text without both gets the tag `latest`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: Arc<str>,
    repository: Arc<str>,
    tag: Option<Arc<str>>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no image reference: {problem}")]
pub struct ParseReferenceError {
    text: String,
    problem: &'static str,
}

impl Reference {
    /// Like `docker.io` or `127.0.0.1:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path within the host, like `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Host and repository, like `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The same repository at `tag`, without a digest.
    ///
    /// # Errors
    /// Where `tag` is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if !valid_tag(tag) {
            return Err(ParseReferenceError { text: tag.to_owned(), problem: TAG_PROBLEM });
        }
        Ok(Self { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// The same repository at `digest`, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository path (below `prefix`, when not empty), tag and digest on another host.
    ///
    /// # Errors
    /// Where host and path make no reference.
    pub fn moved_to(&self, host: &str, prefix: &str) -> Result<Self, ParseReferenceError> {
        let repository = if prefix.is_empty() { self.repository.clone() } else { format!("{prefix}/{}", self.repository).into() };
        let moved = Self { host: host.into(), repository, ..self.clone() };
        moved.to_string().parse()
    }

    /// As people write it: without `docker.io/` and `library/` where that still means the same, with the tag always.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else { return full };
        match (rest.strip_prefix("library/"), rest.split_once('/')) {
            (Some(name), _) if !name.contains('/') => name.to_owned(),
            // it would be taken for a host
            (_, Some((first, _))) if is_host(first) => full,
            _ => rest.to_owned(),
        }
    }

    /// As a label: the host is the cell, `docker.io//library/debian:jessie`.
    pub fn to_cell(&self) -> String {
        self.to_string().replacen('/', "//", 1)
    }

    /// Reads what [`Self::to_cell`] writes.
    pub fn from_cell(text: &str) -> Option<Self> {
        let (host, rest) = text.split_once("//")?;
        let reference: Self = format!("{host}/{rest}").parse().ok()?;
        (&*reference.host == host).then_some(reference)
    }
}

/// Whether what stands before the first slash is a host and no part of a path.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase())
}

const TAG_PROBLEM: &str = "a tag is 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`";

fn valid_tag(tag: &str) -> bool {
    crate::label::Name::parse(tag).is_ok()
}

fn valid_segment(segment: &str) -> bool {
    // [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = segment.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric) || !bytes.last().copied().is_some_and(alphanumeric) {
        return false;
    }
    let mut rest = segment;
    while let Some(start) = rest.find(|c: char| !alphanumeric(c as u8) || !c.is_ascii()) {
        let separator = rest[start..].split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).next().unwrap_or("");
        if !(matches!(separator, "." | "_" | "__") || separator.bytes().all(|c| c == b'-')) {
            return false;
        }
        rest = &rest[start + separator.len()..];
    }
    true
}

fn valid_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_fits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()));
    let name_fits = match name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.bytes().all(|c| c.is_ascii_hexdigit() || c == b':') && !inner.is_empty(),
        None => name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        }),
    };
    port_fits && name_fits
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |problem| ParseReferenceError { text: text.to_owned(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| fail("after `@` stands `sha256:` and 64 hex digits"))?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if name.is_empty() {
            return Err(fail("it is empty"));
        }
        if text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(fail("64 hex digits are an image id"));
        }
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(fail(TAG_PROBLEM));
        }
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path),
            _ => (HUB, name),
        };
        let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { HUB } else { host };
        if !valid_host(host) {
            return Err(fail("the host is not valid"));
        }
        let repository = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(fail("a repository is lower case"));
        }
        if !repository.split('/').all(valid_segment) {
            return Err(fail("a repository is segments of `a-z 0-9` with single `.`, `_`, `__` or `-` between"));
        }
        if host.len() + 1 + repository.len() > 255 {
            return Err(fail("the name is longer than 255 characters"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".into()),
            (tag, _) => tag.map(Into::into),
        };
        Ok(Self { host: host.into(), repository: repository.into(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

debug_as_display!(Reference);

text_serde!(Reference, str::parse::<Reference>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_docker_does() {
        for (written, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:jessie", "docker.io/library/debian:jessie", "debian:jessie"),
            ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("nodesource/node:4", "docker.io/nodesource/node:4", "nodesource/node:4"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b_c__d-e--f.g:1", "127.0.0.1:5000/a/b_c__d-e--f.g:1", "127.0.0.1:5000/a/b_c__d-e--f.g:1"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1", "[::1]:5000/a:1"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/localhost/a", "docker.io/localhost/a:latest", "docker.io/localhost/a:latest"),
        ] {
            let reference: Reference = written.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar), "{written}");
            assert_eq!(Reference::from_cell(&reference.to_cell()), Some(reference));
        }
        assert!("a".repeat(64).parse::<Reference>().is_err(), "docker takes it for an image id");
        let digest = Digest::of(b"");
        assert_eq!(format!("debian@{digest}").parse::<Reference>().unwrap().tag(), None);
    }

    #[test]
    fn refuses_what_docker_refuses() {
        for text in ["", ":x", "Debian", "a..b", "a/-b", "a:b:c/d:", "a@sha256:1", "a__ _b", "é", "a/", "a//b", "a___b", "_a", "a:-x"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
