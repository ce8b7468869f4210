//! Hosts and connections: where a host is, how it is spoken to, and the pools of kept connections. Knows no account.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;

use super::config::{HostConfig, Proxies, is_loopback};
use super::fault::{Fault, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// All hosts' pools. Each is made when first needed: reading the system's CAs takes a while.
pub(super) struct Pools {
    hosts: BTreeMap<String, HostConfig>,
    proxies: Proxies,
    user_agent: String,
    made: Mutex<HashMap<String, reqwest::Client>>,
}

/// Host and port of a URL, as `Host:` would have it.
pub(super) fn authority_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

const HUB: &str = "docker.io";
const HUB_SERVER: &str = "registry-1.docker.io";

impl Pools {
    pub(super) fn new(hosts: BTreeMap<String, HostConfig>, proxies: Proxies, user_agent: String) -> Self {
        // an error only tells that the process has a provider already
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { hosts, proxies, user_agent, made: Mutex::default() }
    }

    /// The mirrors of `host`, in order.
    pub(super) fn mirrors(&self, host: &str) -> &[String] {
        self.hosts.get(host).map_or(&[], |config| &config.mirrors)
    }

    /// `https://reg.corp:5000/v2/` and then `path`.
    pub(super) fn url(&self, host: &str, path: &str) -> Result<Url> {
        let config = self.hosts.get(host);
        let has_ca = config.is_some_and(|config| config.ca.is_some());
        let plain = config.is_some_and(|config| config.plain_http) || (is_loopback(host) && !has_ca);
        let scheme = if plain { "http" } else { "https" };
        let server = if host == HUB { HUB_SERVER } else { host };
        Url::parse(&format!("{scheme}://{server}/v2/{path}")).map_err(|error| Fault::never(format!("`{host}` is no host to ask: {error}")))
    }

    /// The pool that fits a URL: by scheme, by own CA, and loopback apart, since it is never proxied.
    pub(super) fn connections(&self, url: &Url) -> Result<reqwest::Client> {
        let authority = authority_of(url);
        let named = if authority == HUB_SERVER { HUB } else { &authority };
        let tls = url.scheme() == "https";
        let ca = self.hosts.get(named).and_then(|config| config.ca.as_deref()).filter(|_| tls);
        let local = is_loopback(&authority);
        let kind = format!("{tls} {local} {}", if ca.is_some() { named } else { "" });
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = made.get(&kind) {
            return Ok(pool.clone());
        }
        let pool = self.make(tls, ca, local).map_err(|error| {
            let mut fault = Fault::never(format!("cannot speak to `{authority}`: {}", innermost(&error)));
            if tls {
                fault.failure.hint =
                    Some("are the system's CA certificates (package `ca-certificates`) and those of `tls: Ca(…)` there?".into());
            }
            fault
        })?;
        made.insert(kind, pool.clone());
        Ok(pool)
    }

    fn make(&self, tls: bool, ca: Option<&[u8]>, local: bool) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy();
        builder = match (tls, ca) {
            (false, _) => builder.tls_certs_only([]),
            (true, Some(pem)) => builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem)?),
            (true, None) => builder,
        };
        if !local {
            let excepted = self.proxies.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
            if let Some(proxy) = &self.proxies.http {
                builder = builder.proxy(reqwest::Proxy::http(proxy)?.no_proxy(excepted.clone()));
            }
            if let Some(proxy) = &self.proxies.https {
                builder = builder.proxy(reqwest::Proxy::https(proxy)?.no_proxy(excepted));
            }
        }
        builder.build()
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_their_scheme() {
        let hosts = BTreeMap::from([
            ("plain.corp".to_owned(), HostConfig { plain_http: true, ..HostConfig::default() }),
            ("localhost:5001".to_owned(), HostConfig { ca: Some(Vec::new()), ..HostConfig::default() }),
        ]);
        let pools = Pools::new(hosts, Proxies::default(), "test".into());
        for (host, url) in [
            ("docker.io", "https://registry-1.docker.io/v2/x"),
            ("reg.corp:5000", "https://reg.corp:5000/v2/x"),
            ("plain.corp", "http://plain.corp/v2/x"),
            ("localhost:5000", "http://localhost:5000/v2/x"),
            ("localhost:5001", "https://localhost:5001/v2/x"),
            ("[::1]:5000", "http://[::1]:5000/v2/x"),
        ] {
            assert_eq!(pools.url(host, "x").unwrap().as_str(), url);
        }
    }
}
