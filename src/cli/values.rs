//! Values of arguments as types: parsed once, here, with a message that says what to write instead. Knows no command.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::reference::Reference;
use crate::spec::{DOCKER_URLS, is_docker_url, parse_duration};

/// Why a value is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// `--base` without `=`.
    #[error("write REF=SOURCE, like `debian:jessie=rootfs:jessie.tar`")]
    NoSource,
    /// A source that is of no kind.
    #[error("`{0}` is no source: write rootfs:FILE, oci:DIR or an image reference")]
    Source(String),
    /// A path that is missing after its prefix.
    #[error("a path must follow `{0}`")]
    NoPath(&'static str),
    /// No reference.
    #[error("{0}")]
    Reference(#[from] crate::reference::ParseReferenceError),
    /// A reference with a digest can't be replaced.
    #[error("`{0}` has a digest: it can stand for nothing else")]
    Pinned(String),
    /// No registry host.
    #[error("`{0}` is no registry: a host has a dot or a port, or is `localhost`; for a namespace of Docker Hub write `docker.io/{0}`")]
    Registry(String),
    /// A URL where a host should be.
    #[error("`{0}` is no registry: write HOST[:PORT][/PREFIX] without a scheme; plain http is `tls: Off` in the workspace's `registries`")]
    RegistryUrl(String),
    /// A host and prefix in which something can't stand.
    #[error("`{0}` is no registry: write HOST[:PORT][/PREFIX], the prefix in lower case")]
    RegistryText(String),
    /// No number.
    #[error("write a whole number from {least} to {most}")]
    Number { least: u32, most: u32 },
    /// An engine that is not there.
    #[error("there is no engine `{0}`: write `docker`, `docker=URL` or `embedded`")]
    Engine(String),
    /// An address that is none of a daemon.
    #[error("`{0}` is no address of a Docker daemon: write {DOCKER_URLS}")]
    DockerUrl(String),
    /// No place for an image.
    #[error("`{0}` is no destination: write oci:DIR, docker-archive:FILE or docker:")]
    ExportTarget(String),
    /// No list of paths.
    #[error("write `@-` to read paths from stdin, or `@FILE`")]
    PathList,
    /// No run.
    #[error("`{0}` is no run: write an id as `igraph log list` shows it, `last`, or `last~N` for the Nth before it")]
    Run(String),
    /// No size.
    #[error("`{0}` is no size: write a whole number and its unit, like 500MB or 20GB")]
    Size(String),
    /// No duration.
    #[error("`{0}` is no duration: write a whole number and its unit, like 500ms, 30s, 5m or 1h30m")]
    Duration(String),
}

/// `--base REF=SOURCE`: what stands in for a base in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// The base, as Dockerfiles name it.
    pub base: Reference,
    /// What to use instead.
    pub source: StandInSource,
}

/// Where a stand-in comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandInSource {
    /// `rootfs:FILE`: a tar of a root file system.
    Rootfs(PathBuf),
    /// `oci:DIR`: an OCI layout.
    OciLayout(PathBuf),
    /// Another reference.
    Reference(Reference),
}

impl FromStr for StandIn {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (base, source) = text.split_once('=').ok_or(ValueError::NoSource)?;
        let base: Reference = base.parse()?;
        if base.digest().is_some() {
            return Err(ValueError::Pinned(base.familiar()));
        }
        let path = |prefix, path: &str| if path.is_empty() { Err(ValueError::NoPath(prefix)) } else { Ok(PathBuf::from(path)) };
        let source = if let Some(file) = source.strip_prefix("rootfs:") {
            StandInSource::Rootfs(path("rootfs:", file)?)
        } else if let Some(folder) = source.strip_prefix("oci:") {
            StandInSource::OciLayout(path("oci:", folder)?)
        } else {
            StandInSource::Reference(source.parse().map_err(|_| ValueError::Source(source.to_owned()))?)
        };
        Ok(Self { base, source })
    }
}

/// `--registry HOST[/PREFIX]`: where names without a host are pushed in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryTarget {
    /// Like `docker.io` or `127.0.0.1:5000`.
    pub host: String,
    /// Put before every repository path; may be empty.
    pub prefix: String,
}

impl FromStr for RegistryTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_end_matches('/');
        let path = if prefix.is_empty() { "repository".to_owned() } else { format!("{prefix}/repository") };
        let host_like = host == "localhost" || host.contains(['.', ':']);
        if text.contains("://") {
            return Err(ValueError::RegistryUrl(text.to_owned()));
        }
        match format!("{host}/{path}").parse::<Reference>() {
            Ok(reference) if host_like => Ok(Self { host: reference.host().to_owned(), prefix: prefix.to_owned() }),
            Err(_) if host_like => Err(ValueError::RegistryText(text.to_owned())),
            _ => Err(ValueError::Registry(text.to_owned())),
        }
    }
}

impl fmt::Display for RegistryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// `--engine`: what builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Docker Engine, at this address where one is given.
    Docker(Option<String>),
    /// igraph's own, without a daemon.
    Embedded,
    /// The engine of igraph's own tests; there is none unless the environment says so.
    Fake,
}

impl FromStr for EngineChoice {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "docker" => Ok(Self::Docker(None)),
            None if text == "embedded" => Ok(Self::Embedded),
            None if text == "fake" => Ok(Self::Fake),
            Some(("docker", url)) => docker_url(url).map(|url| Self::Docker(Some(url))),
            _ => Err(ValueError::Engine(text.to_owned())),
        }
    }
}

/// Where an image is exported to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportTarget {
    /// `oci:DIR`: an OCI image layout.
    OciLayout(PathBuf),
    /// `docker-archive:FILE`: what `docker load` reads.
    DockerArchive(PathBuf),
    /// `docker:` or `docker:URL`: a Docker Engine.
    Docker(Option<String>),
}

impl FromStr for ExportTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = |prefix, path: &str| if path.is_empty() { Err(ValueError::NoPath(prefix)) } else { Ok(PathBuf::from(path)) };
        match text.split_once(':') {
            Some(("oci", folder)) => path("oci:", folder).map(Self::OciLayout),
            Some(("docker-archive", file)) => path("docker-archive:", file).map(Self::DockerArchive),
            Some(("docker", "")) => Ok(Self::Docker(None)),
            Some(("docker", url)) => docker_url(url).map(|url| Self::Docker(Some(url))),
            _ => Err(ValueError::ExportTarget(text.to_owned())),
        }
    }
}

impl fmt::Display for ExportTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OciLayout(path) => write!(f, "oci:{}", path.display()),
            Self::DockerArchive(path) => write!(f, "docker-archive:{}", path.display()),
            Self::Docker(url) => write!(f, "docker:{}", url.as_deref().unwrap_or_default()),
        }
    }
}

/// The address of a Docker daemon.
fn docker_url(url: &str) -> Result<String, ValueError> {
    if is_docker_url(url) { Ok(url.to_owned()) } else { Err(ValueError::DockerUrl(url.to_owned())) }
}

/// `@-` or `@FILE`: where a list of paths, one a line, comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathList {
    /// stdin.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl FromStr for PathList {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some("-") => Ok(Self::Stdin),
            Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(ValueError::PathList),
        }
    }
}

/// `PATH` or `-`: where a document goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// stdout.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdout } else { Self::File(text.into()) })
    }
}

/// A recorded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunSelector {
    /// `last` and `last~N`: so many runs before the newest.
    Back(usize),
    /// An id, or the only beginning of one.
    Id(String),
}

impl Default for RunSelector {
    fn default() -> Self {
        Self::Back(0)
    }
}

impl RunSelector {
    /// Whether a positional argument means a run and not a label.
    pub fn is_run(text: &str) -> bool {
        !text.contains(['/', ':'])
    }

    /// The run that is meant, of `ids` in order of time, newest first. `None` where there is none or more than one.
    pub fn choose<'a>(&self, ids: &[&'a str]) -> Option<&'a str> {
        match self {
            Self::Back(back) => ids.get(*back).copied(),
            Self::Id(id) => {
                let mut starting = ids.iter().filter(|candidate| candidate.starts_with(id.as_str()));
                match (ids.iter().find(|candidate| *candidate == id), starting.next(), starting.next()) {
                    (Some(exact), ..) => Some(exact),
                    (None, Some(only), None) => Some(only),
                    _ => None,
                }
            }
        }
    }
}

impl FromStr for RunSelector {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ValueError::Run(text.to_owned());
        match text.strip_prefix("last") {
            Some("") => Ok(Self::Back(0)),
            Some(rest) if rest.starts_with('~') => rest[1..].parse().map(Self::Back).map_err(|_| fail()),
            _ if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') => {
                Ok(Self::Id(text.to_owned()))
            }
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for RunSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back(0) => f.write_str("last"),
            Self::Back(back) => write!(f, "last~{back}"),
            Self::Id(id) => f.write_str(id),
        }
    }
}

/// `--jobs`: from 1 to 4096.
///
/// # Errors
/// Where the text is no such number.
pub fn parse_jobs(text: &str) -> Result<NonZeroUsize, ValueError> {
    let jobs = text.parse().ok().filter(|jobs: &NonZeroUsize| jobs.get() <= 4096);
    jobs.ok_or(ValueError::Number { least: 1, most: 4096 })
}

/// `--retries` and `--attempt`: a number that is not large.
///
/// # Errors
/// Where the text is no such number.
pub fn parse_count(text: &str) -> Result<u32, ValueError> {
    text.parse().ok().filter(|count| *count <= 1000).ok_or(ValueError::Number { least: 0, most: 1000 })
}

/// `--timeout`: whole numbers with units, one or several in a row.
///
/// # Errors
/// Where the text is none, or zero.
pub fn parse_timeout(text: &str) -> Result<Duration, ValueError> {
    match parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(ValueError::Duration(text.to_owned())),
    }
}

/// A size in bytes: a whole number, with `kB`, `MB`, `GB`, `TB` or `KiB`, `MiB`, `GiB`, `TiB` behind it or nothing.
///
/// # Errors
/// Where the text is none.
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let fail = || ValueError::Size(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| fail())?;
    let unit: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(fail()),
    };
    number.checked_mul(unit).ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<T: fmt::Debug, E: fmt::Display>(value: Result<T, E>) -> String {
        value.map_or_else(|error| format!("error: {error}"), |value| format!("{value:?}"))
    }

    #[test]
    fn stand_ins() {
        for (text, expected) in [
            ("debian:jessie=rootfs:a=b.tar", r#"StandIn { base: docker.io/library/debian:jessie, source: Rootfs("a=b.tar") }"#),
            ("debian=oci:dir", r#"StandIn { base: docker.io/library/debian:latest, source: OciLayout("dir") }"#),
            ("a:1=b:2", "StandIn { base: docker.io/library/a:1, source: Reference(docker.io/library/b:2) }"),
            ("debian", "error: write REF=SOURCE, like `debian:jessie=rootfs:jessie.tar`"),
            ("debian=rootfs:", "error: a path must follow `rootfs:`"),
            ("debian=../x.tar", "error: `../x.tar` is no source: write rootfs:FILE, oci:DIR or an image reference"),
        ] {
            assert_eq!(shown(text.parse::<StandIn>()), expected, "{text}");
        }
        let pinned = format!("a@{}=b", crate::digest::Digest::of(b""));
        assert!(matches!(pinned.parse::<StandIn>(), Err(ValueError::Pinned(_))));
    }

    #[test]
    fn registries() {
        for (text, host, prefix) in [
            ("docker.io", "docker.io", ""),
            ("docker.io/staging", "docker.io", "staging"),
            ("127.0.0.1:5000/a/b/", "127.0.0.1:5000", "a/b"),
            ("localhost", "localhost", ""),
        ] {
            assert_eq!(text.parse(), Ok(RegistryTarget { host: host.into(), prefix: prefix.into() }), "{text}");
        }
        for text in ["", "staging", "staging/x", "reg.corp/UP", "reg.corp/a//b", "https://reg.corp"] {
            assert!(text.parse::<RegistryTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("5B", 5), ("500MB", 500_000_000), ("2 GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "GB", "1.5GB", "-1", "3 apples", "99999999999TB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn export_targets() {
        for text in ["oci:dir", "docker-archive:x.tar", "docker:", "docker:tcp://h:1"] {
            assert_eq!(text.parse::<ExportTarget>().unwrap().to_string(), text);
        }
        for text in ["", "oci", "oci:", "docker", "docker:h", "docker-archive:", "dir:x"] {
            assert!(text.parse::<ExportTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn engines() {
        assert_eq!("docker".parse(), Ok(EngineChoice::Docker(None)));
        assert_eq!("embedded".parse(), Ok(EngineChoice::Embedded));
        assert_eq!("docker=tcp://h:1".parse(), Ok(EngineChoice::Docker(Some("tcp://h:1".into()))));
        assert_eq!("docker=ssh://me@h".parse(), Ok(EngineChoice::Docker(Some("ssh://me@h".into()))));
        for text in ["docker=", "docker=/var/run/docker.sock", "docker=unix://", "podman", ""] {
            assert!(text.parse::<EngineChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn runs() {
        let ids = ["aaaa", "7f4x", "7f3k"];
        for (text, chosen) in
            [("last", Some("aaaa")), ("last~2", Some("7f3k")), ("last~3", None), ("a", Some("aaaa")), ("7f", None), ("7f4x", Some("7f4x"))]
        {
            assert_eq!(text.parse::<RunSelector>().unwrap().choose(&ids), chosen, "{text}");
            assert_eq!(text.parse::<RunSelector>().unwrap().to_string(), text);
        }
        for text in ["", "last~", "last~x", "//a:b", "a b"] {
            assert!(text.parse::<RunSelector>().is_err(), "{text}");
        }
    }

    #[test]
    fn path_lists_and_destinations() {
        assert_eq!("@-".parse(), Ok(PathList::Stdin));
        assert_eq!("@x".parse(), Ok(PathList::File("x".into())));
        assert!("x".parse::<PathList>().is_err() && "@".parse::<PathList>().is_err());
        assert_eq!("-".parse(), Ok(Destination::Stdout));
        assert_eq!("./-".parse(), Ok(Destination::File("./-".into())));
    }

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout("1h30m"), Ok(Duration::from_secs(5400)));
        for text in ["", "5", "0s", "1.5s", "-1s", "5 m", "999999999999999999h"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }
}
