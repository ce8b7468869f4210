//! What a client is made from: hosts, proxies, accounts, a clock, an observer. Reads no environment: values are handed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::Credentials;
use crate::clock::Clock;

/// How one host is spoken to. A host without an entry is https with the system's CAs; loopback is plain http.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Plain http (`tls: Off`).
    pub plain_http: bool,
    /// PEM certificates to trust besides the system's. On a loopback host they also switch https on.
    pub ca: Option<Vec<u8>>,
    /// Hosts, like `mirror.corp` or `mirror.corp/hub` (a prefix for its repositories), that are asked first when an
    /// image is pulled from this host. Nothing is pushed to a mirror.
    pub mirrors: Vec<String>,
}

/// Proxy settings as the usual environment variables spell them; loopback hosts are never proxied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `NO_PROXY`.
    pub no_proxy: Option<String>,
}

/// One request that was sent, told when its answer has been read or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSeen<'a> {
    /// Like `HEAD`.
    pub method: &'a str,
    /// Host and port it was sent to.
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Status of the answer; `None` when none came.
    pub status: Option<u16>,
    /// Bytes of the request's body that were handed to the connection.
    pub sent: u64,
    /// Bytes of the answer's body that were read.
    pub received: u64,
}

/// Sees every request, token services and redirects included. Called from many threads; must not block for long.
pub trait Observer: Send + Sync {
    /// Takes one.
    fn request(&self, seen: &RequestSeen<'_>);
}

/// All a client needs.
pub struct ClientConfig {
    /// By host as references spell it, like `reg.corp:5000`.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Where accounts come from.
    pub credentials: Box<dyn Credentials>,
    /// `User-Agent`.
    pub user_agent: String,
    /// A `Retry-After` longer than this ends the attempt, and all later ones to that host, at once.
    pub max_wait: Duration,
    /// For token expiry and `Retry-After`.
    pub clock: Arc<dyn Clock>,
    /// Sees the requests.
    pub observer: Option<Arc<dyn Observer>>,
    /// Proxies.
    pub proxies: Proxies,
}

impl ClientConfig {
    /// No special hosts, no proxies, no observer, `max_wait` of ten minutes.
    pub fn new(credentials: Box<dyn Credentials>, clock: Arc<dyn Clock>) -> Self {
        Self {
            hosts: BTreeMap::new(),
            credentials,
            user_agent: concat!("igraph/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_wait: Duration::from_secs(600),
            clock,
            observer: None,
            proxies: Proxies::default(),
        }
    }
}

/// Whether `host` (with or without a port) is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["reg.corp", "127.0.0.1.nip.io", "localhost.corp:5000", "10.0.0.1", "[fe80::1]:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
