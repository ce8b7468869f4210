//! Which daemon: a flag or workspace value, DOCKER_HOST, DOCKER_CONTEXT, the current docker context, the default socket, in the
//! order of Docker's own client. Reads the files of the docker config folder; reads no environment and connects to nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::digest::Digest;

/// Where a daemon without any setting listens.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Where the choice is made from.
#[derive(Clone, Copy, Debug)]
pub struct EndpointInputs<'a> {
    /// The workspace's or the flag's `docker=URL`; wins over all else.
    pub explicit: Option<&'a str>,
    /// The environment: DOCKER_HOST, DOCKER_CONTEXT, DOCKER_CERT_PATH, DOCKER_TLS_VERIFY and DOCKER_TLS are looked up.
    pub environment: &'a BTreeMap<String, String>,
    /// DOCKER_CONFIG, or `.docker` in the home folder.
    pub config_folder: Option<&'a Path>,
}

/// A daemon's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port; an IPv6 host without brackets.
    Tcp { host: String, port: u16 },
    /// `docker system dial-stdio` on another machine, through the `ssh` program.
    Ssh { destination: String, user: Option<String>, port: Option<u16>, socket: Option<String> },
}

/// Key material of a TLS connection, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the daemon's certificate; the system's authorities when `None`.
    pub authority: Option<PathBuf>,
    /// Certificate and key that igraph shows.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A daemon to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// TLS, for tcp.
    pub tls: Option<TlsFiles>,
    /// As it was written, like `unix:///var/run/docker.sock`.
    pub url: String,
    /// What said so, like `DOCKER_HOST` or "docker context `lab`".
    pub origin: String,
}

/// Why no endpoint can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text is no endpoint.
    #[error("`{url}` ({origin}) is no endpoint of a Docker daemon: {problem}")]
    Url {
        /// As written.
        url: String,
        /// What said so.
        origin: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A context that does not exist, or a file of it that can't be read.
    #[error("docker context `{name}` ({origin}) can't be read: {source}")]
    Context {
        /// Its name.
        name: String,
        /// What named it.
        origin: String,
        /// Why.
        source: std::io::Error,
    },
    /// A context that asks for less safety than igraph offers.
    #[error("docker context `{name}` skips the check of the daemon's certificate, igraph does not")]
    Unverified {
        /// Its name.
        name: String,
    },
    /// The config file is no JSON.
    #[error("`{path}` can't be read: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

impl EndpointError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Url { .. } => Some("write unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST"),
            Self::Context { .. } => Some("`docker context ls` lists what there is; DOCKER_HOST names a daemon directly"),
            Self::Unverified { .. } => Some("put the daemon's CA into the context"),
            Self::Config { .. } => None,
        }
    }
}

/// Chooses the daemon as Docker's own client does: explicit, DOCKER_HOST, DOCKER_CONTEXT, `currentContext` of config.json, the default socket.
///
/// # Errors
/// Where what was found is no endpoint, or a named context can't be read.
pub fn choose_endpoint(inputs: EndpointInputs<'_>) -> Result<Endpoint, EndpointError> {
    let variable = |name: &str| inputs.environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let tls = || {
        (variable("DOCKER_TLS_VERIFY").is_some() || variable("DOCKER_TLS").is_some()).then(|| {
            let folder = variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| inputs.config_folder.map(Path::to_path_buf));
            tls_files(&folder.unwrap_or_default())
        })
    };
    if let Some(url) = inputs.explicit.filter(|url| !url.is_empty()) {
        return parse_endpoint(url, "asked for", tls());
    }
    if let Some(url) = variable("DOCKER_HOST") {
        return parse_endpoint(url, "DOCKER_HOST", tls());
    }
    let current = match variable("DOCKER_CONTEXT") {
        Some(name) => Some((name.to_owned(), "DOCKER_CONTEXT".to_owned())),
        None => current_context(inputs.config_folder)?,
    };
    if let Some((name, origin)) = current.filter(|(name, _)| name != "default") {
        let folder = inputs.config_folder.unwrap_or(Path::new("")).join("contexts");
        return read_context(&folder, &name, &origin);
    }
    parse_endpoint(&format!("unix://{DEFAULT_SOCKET}"), "the default socket", None)
}

fn tls_files(folder: &Path) -> TlsFiles {
    let present = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    TlsFiles { authority: present("ca.pem"), identity: present("cert.pem").zip(present("key.pem")) }
}

fn current_context(folder: Option<&Path>) -> Result<Option<(String, String)>, EndpointError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        #[serde(default)]
        current_context: String,
    }
    let Some(path) = folder.map(|folder| folder.join("config.json")) else { return Ok(None) };
    let config = |problem: String| EndpointError::Config { path: path.clone(), problem };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(config(error.to_string())),
    };
    let read: Config = serde_json::from_slice(&bytes).map_err(|error| config(error.to_string()))?;
    Ok(Some(read.current_context).filter(|name| !name.is_empty()).map(|name| (name, format!("currentContext in {}", path.display()))))
}

fn read_context(folder: &Path, name: &str, origin: &str) -> Result<Endpoint, EndpointError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        endpoints: BTreeMap<String, MetaEndpoint>,
    }
    #[derive(Deserialize)]
    struct MetaEndpoint {
        #[serde(rename = "Host", default)]
        host: String,
        #[serde(rename = "SkipTLSVerify", default)]
        skip_tls_verify: bool,
    }
    let fail = |source| EndpointError::Context { name: name.to_owned(), origin: origin.to_owned(), source };
    let id = Digest::of(name.as_bytes()).hex();
    let bytes = std::fs::read(folder.join("meta").join(&id).join("meta.json")).map_err(fail)?;
    let meta: Meta = serde_json::from_slice(&bytes).map_err(|error| fail(error.into()))?;
    let endpoint = meta.endpoints.get("docker").ok_or_else(|| fail(std::io::Error::other("it has no docker endpoint")))?;
    if endpoint.skip_tls_verify {
        return Err(EndpointError::Unverified { name: name.to_owned() });
    }
    let tls = folder.join("tls").join(&id).join("docker");
    let files = tls_files(&tls);
    let tls = (files.authority.is_some() || files.identity.is_some()).then_some(files);
    let host = if endpoint.host.is_empty() { format!("unix://{DEFAULT_SOCKET}") } else { endpoint.host.clone() };
    parse_endpoint(&host, &format!("docker context `{name}`"), tls)
}

fn parse_endpoint(url: &str, origin: &str, tls: Option<TlsFiles>) -> Result<Endpoint, EndpointError> {
    let fail = |problem| EndpointError::Url { url: url.to_owned(), origin: origin.to_owned(), problem };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| fail("it needs a scheme, like unix:// or tcp://"))?;
    let mut tls = tls.filter(|_| matches!(scheme, "tcp" | "http" | "https"));
    if scheme == "https" && tls.is_none() {
        tls = Some(TlsFiles { authority: None, identity: None });
    }
    let address = match scheme {
        "unix" if rest.is_empty() => Address::Unix(DEFAULT_SOCKET.into()),
        "unix" if rest.starts_with('/') => Address::Unix(rest.into()),
        "unix" => return Err(fail("the path of a socket is absolute")),
        "tcp" | "http" | "https" => {
            let authority = rest.trim_end_matches('/');
            if authority.contains('/') {
                return Err(fail("a path after the host is not supported"));
            }
            let (host, port) = host_and_port(authority).ok_or_else(|| fail("it is no HOST:PORT"))?;
            let default = if tls.is_some() { 2376 } else { 2375 };
            Address::Tcp { host, port: port.unwrap_or(default) }
        }
        "ssh" => {
            let (authority, socket) = match rest.split_once('/') {
                Some((authority, socket)) => {
                    (authority, Some(socket).filter(|socket| !socket.is_empty()).map(|socket| format!("/{socket}")))
                }
                None => (rest, None),
            };
            let (user, authority) = match authority.rsplit_once('@') {
                Some((user, authority)) => (Some(user), authority),
                None => (None, authority),
            };
            if user.is_some_and(|user| user.contains(':')) {
                return Err(fail("a password has no place in it"));
            }
            let (host, port) = host_and_port(authority).ok_or_else(|| fail("it is no USER@HOST:PORT"))?;
            if host.starts_with('-') || user.is_some_and(|user| user.starts_with('-')) {
                return Err(fail("a host does not begin with `-`"));
            }
            Address::Ssh { destination: host, user: user.map(str::to_owned), port, socket }
        }
        _ => return Err(fail("the schemes are unix, tcp, http, https and ssh")),
    };
    Ok(Endpoint { address, tls, url: url.to_owned(), origin: origin.to_owned() })
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            Some(_) => return None,
            None => (text, Some("")),
        },
    };
    let port = match port? {
        "" => None,
        port => Some(port.parse().ok()?),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(explicit: Option<&str>, environment: &[(&str, &str)], folder: &Path) -> Result<Endpoint, EndpointError> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        choose_endpoint(EndpointInputs { explicit, environment: &environment, config_folder: Some(folder) })
    }

    fn context(folder: &Path, name: &str, meta: &str) -> PathBuf {
        let id = Digest::of(name.as_bytes()).hex();
        let path = folder.join("contexts/meta").join(&id);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("meta.json"), meta).unwrap();
        folder.join("contexts/tls").join(id).join("docker")
    }

    #[test]
    fn the_order_is_that_of_dockers_client() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let origin = |explicit, environment: &[(&str, &str)]| {
            let endpoint = choose(explicit, environment, folder).unwrap();
            format!("{} from {}", endpoint.url, endpoint.origin)
        };
        assert_eq!(origin(None, &[]), "unix:///var/run/docker.sock from the default socket");
        context(folder, "lab", r#"{"Name":"lab","Endpoints":{"docker":{"Host":"tcp://lab:1234","SkipTLSVerify":false}}}"#);
        context(folder, "other", r#"{"Name":"other","Endpoints":{"docker":{"Host":"ssh://me@other"}}}"#);
        std::fs::write(folder.join("config.json"), r#"{"auths":{},"currentContext":"lab"}"#).unwrap();
        assert_eq!(origin(None, &[]), "tcp://lab:1234 from docker context `lab`");
        assert_eq!(origin(None, &[("DOCKER_CONTEXT", "other")]), "ssh://me@other from docker context `other`");
        assert_eq!(origin(None, &[("DOCKER_CONTEXT", "default")]), "unix:///var/run/docker.sock from the default socket");
        assert_eq!(origin(None, &[("DOCKER_CONTEXT", "other"), ("DOCKER_HOST", "unix:///x")]), "unix:///x from DOCKER_HOST");
        assert_eq!(origin(Some("tcp://a"), &[("DOCKER_HOST", "unix:///x")]), "tcp://a from asked for");
        assert!(matches!(choose(None, &[("DOCKER_CONTEXT", "gone")], folder), Err(EndpointError::Context { .. })));
        std::fs::write(folder.join("config.json"), "{").unwrap();
        assert!(matches!(choose(None, &[], folder), Err(EndpointError::Config { .. })));
    }

    #[test]
    fn addresses() {
        let folder = Path::new("/nonexistent");
        let address = |url: &str| choose(Some(url), &[], folder).map(|endpoint| endpoint.address);
        assert_eq!(address("unix:///run/d.sock").unwrap(), Address::Unix("/run/d.sock".into()));
        assert_eq!(address("tcp://h").unwrap(), Address::Tcp { host: "h".into(), port: 2375 });
        assert_eq!(address("https://h/").unwrap(), Address::Tcp { host: "h".into(), port: 2376 });
        assert_eq!(address("tcp://[::1]:99").unwrap(), Address::Tcp { host: "::1".into(), port: 99 });
        let ssh = Address::Ssh { destination: "h".into(), user: Some("me".into()), port: Some(22), socket: Some("/run/d.sock".into()) };
        assert_eq!(address("ssh://me@h:22/run/d.sock").unwrap(), ssh);
        for (url, message) in [
            ("x", "`x` (asked for) is no endpoint of a Docker daemon: it needs a scheme, like unix:// or tcp://"),
            ("unix://x", "`unix://x` (asked for) is no endpoint of a Docker daemon: the path of a socket is absolute"),
            ("npipe://x", "`npipe://x` (asked for) is no endpoint of a Docker daemon: the schemes are unix, tcp, http, https and ssh"),
            ("tcp://h:x", "`tcp://h:x` (asked for) is no endpoint of a Docker daemon: it is no HOST:PORT"),
            (
                "ssh://-oProxyCommand=x",
                "`ssh://-oProxyCommand=x` (asked for) is no endpoint of a Docker daemon: a host does not begin with `-`",
            ),
        ] {
            assert_eq!(address(url).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn tls_material() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let here = TlsFiles { authority: Some(folder.join("ca.pem")), identity: Some((folder.join("cert.pem"), folder.join("key.pem"))) };
        let tls = |environment: &[(&str, &str)]| choose(Some("tcp://h"), environment, folder).unwrap();
        assert_eq!(tls(&[]).tls, None);
        let verified = tls(&[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", folder.to_str().unwrap())]);
        assert_eq!((verified.tls, verified.address), (Some(here.clone()), Address::Tcp { host: "h".into(), port: 2376 }));
        assert_eq!(tls(&[("DOCKER_TLS_VERIFY", "1")]).tls, Some(here));

        let material = context(folder, "lab", r#"{"Endpoints":{"docker":{"Host":"tcp://lab:1"}}}"#);
        std::fs::create_dir_all(&material).unwrap();
        std::fs::write(material.join("ca.pem"), "").unwrap();
        let lab = choose(None, &[("DOCKER_CONTEXT", "lab")], folder).unwrap();
        assert_eq!(lab.tls, Some(TlsFiles { authority: Some(material.join("ca.pem")), identity: None }));
        context(folder, "loose", r#"{"Endpoints":{"docker":{"Host":"tcp://lab:1","SkipTLSVerify":true}}}"#);
        assert!(matches!(choose(None, &[("DOCKER_CONTEXT", "loose")], folder), Err(EndpointError::Unverified { .. })));
    }
}
