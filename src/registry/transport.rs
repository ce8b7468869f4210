//! One request, and what it takes: the right connection, the account, redirects, waits, counting. Knows URLs and
//! scopes, not what is asked for. An attempt is single; only a kept connection that the other side had closed
//! meanwhile is replaced in silence.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};

use super::auth::{Authority, Challenge, Scope, Token, TokenAnswer, basic_header, parse_challenges, refused};
use super::config::{ClientConfig, Observer, RequestSeen};
use super::credentials::{Credential, Credentials};
use super::fault::{Fault, Result, answered, connection, retry_after, shown};
use super::pool::{Pools, authority_of};
use crate::clock::{Clock, Timestamp};
use crate::failure::{Failure, Retry};

/// How long an answer, or the next piece of one, may take.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const REDIRECTS: usize = 5;
const ERROR_BODY: usize = 64 << 10;

type Pieces = BoxStream<'static, std::io::Result<Bytes>>;

/// The body of a request, made anew for each time it is sent.
#[derive(Clone)]
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    Stream { length: u64, open: Arc<dyn Fn() -> Pieces + Send + Sync> },
}

/// A request to a registry.
pub(super) struct Call<'a> {
    /// As references spell it.
    pub host: &'a str,
    pub method: Method,
    pub url: Url,
    pub scope: Scope,
    pub headers: HeaderMap,
    pub body: Payload,
    /// For messages, like "read manifest of `reg.corp/a:1`".
    pub doing: &'a str,
    /// Whether a refused account trips the repository's breaker.
    pub trips: bool,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, host: &'a str, url: Url, scope: Scope, doing: &'a str) -> Self {
        Self { host, method, url, scope, headers: HeaderMap::new(), body: Payload::Empty, doing, trips: true }
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    pub(super) fn body(mut self, body: Payload) -> Self {
        self.body = body;
        self
    }
}

/// Tells the observer of one request when it is over.
struct Meter {
    observer: Option<Arc<dyn Observer>>,
    method: Method,
    url: Url,
    status: Option<u16>,
    sent: Arc<AtomicU64>,
    received: u64,
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(observer) = &self.observer {
            observer.request(&RequestSeen {
                method: self.method.as_str(),
                host: &authority_of(&self.url),
                path: self.url.path(),
                status: self.status,
                sent: self.sent.load(Ordering::Relaxed),
                received: self.received,
            });
        }
    }
}

/// An answer whose body may not have been read yet.
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where it came from, after redirects.
    pub url: Url,
    host: String,
    response: reqwest::Response,
    meter: Meter,
}

impl Reply {
    /// The next piece of the body, `None` at its end.
    pub(super) async fn chunk(&mut self, doing: &str) -> Result<Option<Bytes>> {
        let piece = match tokio::time::timeout(IDLE_TIMEOUT, self.response.chunk()).await {
            Err(_) => return Err(silent(doing, &self.host)),
            Ok(Err(error)) => return Err(connection(doing, &self.host, &error)),
            Ok(Ok(piece)) => piece,
        };
        self.meter.received += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }

    /// The whole body, refused when longer than `limit` bytes.
    pub(super) async fn bytes(mut self, limit: usize, doing: &str) -> Result<Bytes> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.chunk(doing).await? {
            if whole.len() + piece.len() > limit {
                return Err(Fault::never(format!("{doing}: the answer of `{}` is longer than {limit} bytes", self.host)));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads and drops a short body, so that the connection is kept.
    pub(super) async fn finish(self, doing: &str) -> Result<()> {
        self.bytes(1 << 20, doing).await.map(drop)
    }

    /// The fault that this answer is, when its status is none that was wanted.
    pub(super) async fn into_fault(self, doing: &str) -> Fault {
        let (host, status) = (self.host.clone(), self.status);
        // the status tells enough when its explanation cannot be read
        let body = self.bytes(ERROR_BODY, doing).await.unwrap_or_default();
        answered(doing, &host, status, &body, None)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `Location`, made absolute.
    pub(super) fn location(&self) -> Option<Url> {
        self.url.join(self.headers.get(LOCATION)?.to_str().ok()?).ok()
    }
}

fn silent(doing: &str, host: &str) -> Fault {
    Fault::broken(format!("{doing}: `{host}` was silent for {} s", IDLE_TIMEOUT.as_secs()))
}

fn same_origin(left: &Url, right: &Url) -> bool {
    left.scheme() == right.scheme() && left.host() == right.host() && left.port_or_known_default() == right.port_or_known_default()
}

/// Everything that requests share.
pub(super) struct Transport {
    pools: Pools,
    credentials: Arc<dyn Credentials>,
    max_wait: Duration,
    clock: Arc<dyn Clock>,
    observer: Option<Arc<dyn Observer>>,
    authority: Authority,
    /// Hosts that have answered, to which a kept connection may have gone stale.
    met: Mutex<HashSet<String>>,
    waits: Mutex<HashMap<String, (Timestamp, Failure)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    pub(super) fn new(config: ClientConfig) -> Self {
        Self {
            pools: Pools::new(config.hosts, config.proxies, config.user_agent),
            credentials: Arc::from(config.credentials),
            max_wait: config.max_wait,
            clock: config.clock,
            observer: config.observer,
            authority: Authority::default(),
            met: Mutex::default(),
            waits: Mutex::default(),
        }
    }

    /// Which hosts there are, and how they are reached.
    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Sends `call`, with the account the host asks for. Answers that another attempt may change (429, 5xx …) and
    /// refused accounts are faults; every other status is a reply.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Reply> {
        self.check_wait(call.host)?;
        if let Some(failure) = self.authority.tripped(call.host, &call.scope) {
            return Err(Fault::other(failure));
        }
        let mut account = self.authorize(call).await?;
        for round in 0.. {
            let reply = self.follow(call, account.as_ref()).await?;
            match reply.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let asked = parse_challenges(reply.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()));
                    let challenge = match reply.status {
                        StatusCode::UNAUTHORIZED => asked,
                        _ => account.as_ref().and_then(|_| self.authority.challenge(call.host)),
                    };
                    let fault = reply.into_fault(call.doing).await;
                    let Some(challenge) = challenge.filter(|_| round == 0) else {
                        return Err(self.refuse(call, &fault));
                    };
                    match self.renew(call, &challenge, account.as_ref()).await? {
                        Some(renewed) => account = Some(renewed),
                        None => return Err(self.refuse(call, &fault)),
                    }
                }
                status if matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error() => {
                    return Err(self.put_off(call, reply).await);
                }
                _ => return Ok(reply),
            }
        }
        unreachable!("the second refusal returns")
    }

    /// The answer to a request that may pass later: a fault, with the time to wait, if that is short enough.
    async fn put_off(&self, call: &Call<'_>, reply: Reply) -> Fault {
        let now = self.clock.now();
        let wait = retry_after(&reply.headers, now);
        let (host, status) = (reply.host.clone(), reply.status);
        let body = reply.bytes(ERROR_BODY, call.doing).await.unwrap_or_default();
        let mut fault = answered(call.doing, &host, status, &body, wait);
        if let Some(wait) = wait.filter(|wait| *wait > self.max_wait) {
            let until = now.after(wait);
            fault.failure.message.push_str(&format!("; it takes no requests before {}", until.to_rfc3339()));
            fault.failure.retry = Retry::Never;
            fault.failure.group = Some(format!("registry {}", call.host));
            fault.failure.hint = Some("run again after that time; other registries are not affected".into());
            lock(&self.waits).insert(call.host.to_owned(), (until, (*fault.failure).clone()));
        }
        fault
    }

    fn check_wait(&self, host: &str) -> Result<()> {
        let mut waits = lock(&self.waits);
        match waits.get(host) {
            Some((until, failure)) if self.clock.now() < *until => Err(Fault::other(failure.clone())),
            Some(_) => {
                waits.remove(host);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The failure of a refused account; trips the breaker.
    fn refuse(&self, call: &Call<'_>, fault: &Fault) -> Fault {
        let account = self.authority.credential(call.host).flatten();
        let said = match (&fault.codes[..], fault.kind) {
            ([], super::fault::Kind::Status(status)) => shown(status),
            (codes, _) => codes.join(", "),
        };
        let failure = refused(call.host, &call.scope, call.doing, &said, account.as_ref());
        if call.trips {
            self.authority.trip(call.host, &call.scope, failure.clone());
        }
        Fault { failure: failure.into(), ..fault.clone() }
    }

    /// What to send as `Authorization`, as far as the host has asked for it before.
    async fn authorize(&self, call: &Call<'_>) -> Result<Option<HeaderValue>> {
        match self.authority.challenge(call.host) {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.credential(call, false).await?.as_ref().and_then(basic)),
            Some(challenge) => self.token(call, &challenge, None).await.map(Some),
        }
    }

    /// Another `Authorization` after `used` was refused; `None` when there is no other.
    async fn renew(&self, call: &Call<'_>, challenge: &Challenge, used: Option<&HeaderValue>) -> Result<Option<HeaderValue>> {
        self.authority.set_challenge(call.host, challenge.clone());
        match challenge {
            Challenge::Basic => {
                let header = self.credential(call, used.is_some()).await?.as_ref().and_then(basic);
                Ok(header.filter(|header| used != Some(header)))
            }
            Challenge::Bearer { .. } => self.token(call, challenge, used).await.map(Some),
        }
    }

    /// The account for the call's host, asked for once, or `anew`.
    async fn credential(&self, call: &Call<'_>, anew: bool) -> Result<Option<Credential>> {
        if let Some(known) = self.authority.credential(call.host).filter(|_| !anew) {
            return Ok(known);
        }
        let (credentials, host) = (self.credentials.clone(), call.host.to_owned());
        // a helper is another program: it may take its time
        let asked = tokio::task::spawn_blocking(move || credentials.for_host(&host)).await;
        let credential = asked
            .unwrap_or_else(|_| Err("the credential source panicked".to_owned()))
            .map_err(|message| Fault::other(Failure::infra(message).retry(Retry::Never).group(format!("credentials {}", call.host))))?;
        self.authority.set_credential(call.host, credential.clone());
        Ok(credential)
    }

    /// A token for the call's scope that is not `refused`, from the cache or the token service.
    async fn token(&self, call: &Call<'_>, challenge: &Challenge, refused: Option<&HeaderValue>) -> Result<HeaderValue> {
        if refused.is_none()
            && let Some(header) = self.authority.pushing(call.host, &call.scope, self.clock.monotonic())
        {
            return Ok(header);
        }
        let slot = self.authority.slot(call.host, &call.scope);
        let mut held = slot.lock().await;
        if let Some(token) = &*held
            && token.expires > self.clock.monotonic()
            && refused != Some(&token.header)
        {
            return Ok(token.header.clone());
        }
        let credential = self.credential(call, refused.is_some()).await?;
        let token = self.fetch_token(call, challenge, credential.as_ref()).await?;
        Ok(held.insert(token).header.clone())
    }

    async fn fetch_token(&self, call: &Call<'_>, challenge: &Challenge, credential: Option<&Credential>) -> Result<Token> {
        let Challenge::Bearer { realm, service } = challenge else {
            return Err(Fault::never(format!("`{}` has no token service", call.host)));
        };
        let base = self.pools.url(call.host, "")?;
        let mut url = base.join(realm).map_err(|_| Fault::never(format!("`{}` names `{realm}` as its token service", call.host)))?;
        if url.scheme() != "https" && base.scheme() == "https" {
            return Err(Fault::never(format!("`{}` wants the account sent to `{url}` in clear text", call.host)));
        }
        let doing = format!("log in to `{}`", call.host);
        let mut request = Wire { method: Method::GET, headers: HeaderMap::new(), body: Payload::Empty, doing: &doing };
        let mut fields: Vec<(&str, &str)> = service.iter().map(|service| ("service", service.as_str())).collect();
        let scopes = call.scope.words().join(" ");
        match credential {
            Some(Credential::IdentityToken(token)) => {
                fields.extend([("grant_type", "refresh_token"), ("client_id", "igraph"), ("scope", &scopes), ("refresh_token", token)]);
                let mut form = base.clone();
                form.query_pairs_mut().clear().extend_pairs(fields);
                request.method = Method::POST;
                request.headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                request.body = Payload::Bytes(Bytes::from(form.query().unwrap_or_default().to_owned()));
            }
            _ => {
                fields.extend(call.scope.words().iter().map(|word| ("scope", word.as_str())));
                url.query_pairs_mut().extend_pairs(fields);
                if let Some(header) = credential.and_then(basic) {
                    request.headers.insert(AUTHORIZATION, header);
                }
            }
        }
        let reply = self.exchange(call.host, url, &request).await?;
        match reply.status {
            StatusCode::OK => {
                let body = reply.bytes(1 << 20, &doing).await?;
                let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
                answer
                    .and_then(|answer| answer.into_token(self.clock.monotonic()))
                    .ok_or_else(|| Fault::never(format!("{doing}: its token service answered without a token")))
            }
            status if matches!(status.as_u16(), 400 | 401 | 403) => {
                let fault = reply.into_fault(&doing).await;
                Err(self.refuse(call, &fault))
            }
            _ => Err(self.put_off(call, reply).await),
        }
    }

    /// Sends, and follows redirects of reads. Only the host itself is shown the account.
    async fn follow(&self, call: &Call<'_>, account: Option<&HeaderValue>) -> Result<Reply> {
        let home = self.pools.url(call.host, "")?;
        let mut url = call.url.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = call.headers.clone();
            if let Some(account) = account.filter(|_| same_origin(&url, &home)) {
                headers.insert(AUTHORIZATION, account.clone());
            }
            let wire = Wire { method: call.method.clone(), headers, body: call.body.clone(), doing: call.doing };
            let reply = self.exchange(call.host, url, &wire).await?;
            let follows = reply.status.is_redirection() && matches!(call.method, Method::GET | Method::HEAD);
            let Some(next) = reply.location().filter(|_| follows) else { return Ok(reply) };
            if next.scheme() != "https" && home.scheme() == "https" {
                return Err(Fault::never(format!("{}: `{}` redirects to `{next}` in clear text", call.doing, call.host)));
            }
            reply.finish(call.doing).await?;
            url = next;
        }
        Err(Fault::never(format!("{}: `{}` redirects more than {REDIRECTS} times", call.doing, call.host)))
    }

    /// One request on the wire; a second where the first met a kept connection that had been closed.
    async fn exchange(&self, host: &str, url: Url, wire: &Wire<'_>) -> Result<Reply> {
        let connections = self.pools.connections(&url)?;
        let authority = authority_of(&url);
        let mut may_be_stale = lock(&self.met).contains(&authority) && !matches!(wire.body, Payload::Stream { .. });
        loop {
            let mut meter = Meter {
                observer: self.observer.clone(),
                method: wire.method.clone(),
                url: url.clone(),
                status: None,
                sent: Arc::default(),
                received: 0,
            };
            let request = connections.request(wire.method.clone(), url.clone()).headers(wire.headers.clone());
            let (request, patient) = match &wire.body {
                Payload::Empty if matches!(wire.method, Method::GET | Method::HEAD) => (request, false),
                Payload::Empty => (request.header(CONTENT_LENGTH, 0), false),
                Payload::Bytes(bytes) => {
                    meter.sent.store(bytes.len() as u64, Ordering::Relaxed);
                    (request.body(bytes.clone()), false)
                }
                Payload::Stream { length, open } => {
                    let sent = meter.sent.clone();
                    let pieces = open().inspect(move |piece| {
                        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
                        sent.fetch_add(length, Ordering::Relaxed);
                    });
                    (request.header(CONTENT_LENGTH, *length).body(reqwest::Body::wrap_stream(pieces)), true)
                }
            };
            // whoever streams a body watches it move; everything else has its time
            let outcome = match patient {
                true => request.send().await,
                false => match tokio::time::timeout(IDLE_TIMEOUT, request.send()).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(silent(wire.doing, host)),
                },
            };
            match outcome {
                Ok(response) => {
                    meter.status = Some(response.status().as_u16());
                    lock(&self.met).insert(authority);
                    let (status, headers) = (response.status(), response.headers().clone());
                    return Ok(Reply { status, headers, url, host: host.to_owned(), response, meter });
                }
                Err(error) if may_be_stale && error.is_request() && !error.is_connect() && !error.is_timeout() => may_be_stale = false,
                Err(error) => return Err(connection(wire.doing, &authority, &error)),
            }
        }
    }
}

/// What goes over the wire once.
struct Wire<'a> {
    method: Method,
    headers: HeaderMap,
    body: Payload,
    doing: &'a str,
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    match credential {
        Credential::Basic { username, password } => basic_header(username, password),
        Credential::IdentityToken(_) => None,
    }
}
