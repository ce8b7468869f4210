//! ADD of a URL: one file, fetched over http or https, checked where a checksum is given.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::engine::Attempt;
use crate::engine::embedded::files::disk;
use crate::failure::{Failure, Retry};

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fetches `url` to the new file `to`; the name that the file has in a folder.
///
/// # Errors
/// Infra where the server does not answer or says to come again, a step failure where it has no such file or another one.
pub(super) fn download(
    url: &str,
    checksum: Option<&str>,
    to: &Path,
    proxies: &BTreeMap<String, String>,
    attempt: &Attempt<'_>,
) -> Result<String, Failure> {
    let wanted: Option<Digest> = match checksum {
        Some(text) => Some(text.parse().map_err(|error| Failure::step(format!("`--checksum`: {error}")))?),
        None => None,
    };
    let parsed = reqwest::Url::parse(url).map_err(|error| Failure::step(format!("`{url}` is no URL: {error}")))?;
    let name = parsed.path().rsplit('/').next().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(Failure::step(format!("`{url}` names no file")).hint("write a destination that is a file's"));
    }
    let network = |error: reqwest::Error| Failure::infra(format!("`{url}` can't be fetched: {}", innermost(&error)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(disk("a download"))?;
    // an error only tells that the process has a provider already
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().connect_timeout(PATIENCE).read_timeout(PATIENCE).no_proxy();
    let excepted = || proxies.get("NO_PROXY").or(proxies.get("no_proxy")).and_then(|hosts| reqwest::NoProxy::from_string(hosts));
    for (names, make) in [
        (["HTTP_PROXY", "http_proxy"], reqwest::Proxy::http as fn(String) -> reqwest::Result<reqwest::Proxy>),
        (["HTTPS_PROXY", "https_proxy"], reqwest::Proxy::https),
    ] {
        if let Some(proxy) = names.iter().find_map(|name| proxies.get(*name)) {
            builder = builder.proxy(make(proxy.clone()).map_err(network)?.no_proxy(excepted()));
        }
    }
    let client = builder.build().map_err(network)?;
    let fetch = async {
        let mut response = client.get(parsed).send().await.map_err(network)?;
        let status = response.status();
        if !status.is_success() {
            let message = format!("`{url}` can't be fetched: the server says {status}");
            let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            return Err(if again { Failure::infra(message).retry(Retry::Backoff) } else { Failure::step(message) });
        }
        let mut file = File::create_new(to).map_err(disk("a download"))?;
        let mut hasher = Sha256::new();
        let (mut done, total) = (0, response.content_length());
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            file.write_all(&chunk).map_err(disk("a download"))?;
            hasher.update(&chunk);
            done += chunk.len() as u64;
            attempt.output.progress(&format!("download {name}"), done, total);
        }
        Ok(Digest::from_bytes(hasher.finalize().into()))
    };
    let found = runtime.block_on(async {
        tokio::select! {
            () = attempt.cancel.cancelled() => Err(Failure::stopped()),
            found = fetch => found,
        }
    })?;
    match wanted {
        Some(wanted) if wanted != found => Err(Failure::step(format!("`{url}` is {found}, not {wanted} as `--checksum` says"))),
        _ => Ok(name),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
