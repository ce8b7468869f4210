//! A registry in this process that misbehaves on demand: enough of the distribution specification to push, mount and
//! pull, a token service, TLS, and rules that answer wrongly, break off or forget. Records every request.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use igraph::digest::Digest;

/// What is done instead of the right thing.
#[derive(Clone, Debug)]
pub enum Action {
    /// Answers this, without looking at the request.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// Cuts the connection before an answer.
    Reset,
    /// Sends this many bytes of the right answer's body, then cuts.
    Truncate(usize),
    /// Reads this many bytes of the request's body, keeps them as an upload's, then cuts.
    CutUpload(usize),
    /// The right answer with one byte of the body flipped.
    Corrupt,
    /// The right answer without a header.
    Without(&'static str),
    /// The right answer, then the connection is closed without a word.
    CloseAfter,
    /// Ignores `Range`.
    WholeForRange,
    /// Does the right thing, then cuts the connection before an answer.
    ResetAfter,
}

/// A rule for requests whose method and path (with query) fit.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Like `HEAD`; empty fits all.
    pub method: &'static str,
    /// Part of path and query.
    pub path: &'static str,
    /// Fitting requests that are let pass first.
    pub skip: usize,
    /// How many are treated.
    pub times: usize,
    /// How.
    pub action: Action,
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub method: String,
    /// With query.
    pub path: String,
    /// Zero when the connection was cut.
    pub status: u16,
    /// Bytes of the request's body that were read.
    pub body: usize,
    pub headers: BTreeMap<String, String>,
}

/// A tag that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub repository: String,
    pub tag: String,
    /// Of the manifest.
    pub manifest: Digest,
    /// Digest of the manifest's config: the image id.
    pub image: Digest,
}

/// How it wants to be asked.
#[derive(Clone, Debug, Default)]
pub enum Guard {
    /// By anyone.
    #[default]
    Open,
    /// With `Basic` credentials.
    Basic { username: String, password: String },
    /// With tokens, which go to anyone (`None`: pulls only) or to this account.
    Token { account: Option<(String, String)>, may_push: bool },
}

#[derive(Default)]
struct Store {
    guard: Guard,
    rules: Vec<Rule>,
    requests: Vec<Recorded>,
    moves: Vec<Move>,
    refuse_mounts: bool,
    blobs: BTreeMap<(String, Digest), Vec<u8>>,
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    tokens: BTreeMap<String, BTreeSet<String>>,
    serial: usize,
}

/// The registry; it stops when dropped.
pub struct Registry {
    host: String,
    scheme: &'static str,
    store: Arc<Mutex<Store>>,
    stopped: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Registry {
    /// Plain http on a free port of loopback.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// https with this certificate chain and key, for `localhost`.
    pub fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(Some(config))
    }

    fn listen(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (host, scheme) = match tls {
            Some(_) => (format!("localhost:{port}"), "https"),
            None => (format!("127.0.0.1:{port}"), "http"),
        };
        let (store, stopped, connections) = <(Arc<Mutex<Store>>, Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let registry =
            Self { host: host.clone(), scheme, store: store.clone(), stopped: stopped.clone(), connections: connections.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                let serving = Serving { host: host.clone(), scheme, store: store.clone() };
                let tls = tls.clone();
                std::thread::spawn(move || match tls {
                    None => {
                        let cutter = stream.try_clone().unwrap();
                        serving.serve(stream, &cutter);
                    }
                    Some(config) => {
                        let cutter = stream.try_clone().unwrap();
                        let session = rustls::ServerConnection::new(config).unwrap();
                        serving.serve(rustls::StreamOwned::new(session, stream), &cutter);
                    }
                });
            }
        });
        registry
    }

    /// Like `127.0.0.1:40123`.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn guard(&self, guard: Guard) {
        self.store().guard = guard;
    }

    /// Forgets all tokens it gave.
    pub fn revoke_tokens(&self) {
        self.store().tokens.clear();
    }

    pub fn rule(&self, rule: Rule) {
        self.store().rules.push(rule);
    }

    /// The next fitting request gets `action`.
    pub fn once(&self, method: &'static str, path: &'static str, action: Action) {
        self.rule(Rule { method, path, skip: 0, times: 1, action });
    }

    /// Behaves from now on.
    pub fn clear_rules(&self) {
        self.store().rules.clear();
    }

    /// All tags that were written since the last call, in order.
    pub fn take_moves(&self) -> Vec<Move> {
        std::mem::take(&mut self.store().moves)
    }

    /// How many requests there were since the last [`Self::take_requests`].
    pub fn requests(&self) -> usize {
        self.store().requests.len()
    }

    /// How many tags were written since the last [`Self::take_moves`].
    pub fn moves(&self) -> usize {
        self.store().moves.len()
    }

    /// All tags, with what each points at.
    pub fn names(&self) -> BTreeMap<String, Digest> {
        let store = self.store();
        let tags = store.manifests.iter().filter(|((_, name), _)| !name.contains(':'));
        tags.map(|((repository, name), (_, bytes))| (format!("{repository}:{name}"), Digest::of(bytes))).collect()
    }

    /// Answers mounts with 202 and an open upload.
    pub fn refuse_mounts(&self) {
        self.store().refuse_mounts = true;
    }

    pub fn add_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.store().blobs.insert((repository.into(), digest), bytes.to_vec());
        digest
    }

    pub fn blob_bytes(&self, repository: &str, digest: Digest) -> Option<Vec<u8>> {
        self.store().blobs.get(&(repository.into(), digest)).cloned()
    }

    pub fn remove_blob(&self, repository: &str, digest: Digest) {
        self.store().blobs.remove(&(repository.into(), digest));
    }

    /// Puts a manifest under its digest and `name`.
    pub fn add_manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut store = self.store();
        for name in [name.to_owned(), digest.to_string()] {
            store.manifests.insert((repository.into(), name), (media_type.into(), bytes.to_vec()));
        }
        digest
    }

    /// The bytes of a manifest.
    pub fn manifest_bytes(&self, repository: &str, digest: Digest) -> Option<Vec<u8>> {
        self.store().manifests.get(&(repository.into(), digest.to_string())).map(|(_, bytes)| bytes.clone())
    }

    /// Forgets a manifest under one name or digest.
    pub fn remove_manifest(&self, repository: &str, name: &str) {
        self.store().manifests.remove(&(repository.into(), name.into()));
    }

    /// What a name points at.
    pub fn named(&self, repository: &str, name: &str) -> Option<Digest> {
        self.store().manifests.get(&(repository.into(), name.into())).map(|(_, bytes)| Digest::of(bytes))
    }

    pub fn has_blob(&self, repository: &str, digest: Digest) -> bool {
        self.store().blobs.contains_key(&(repository.into(), digest))
    }

    /// Uploads that were opened and neither finished nor cancelled.
    pub fn open_uploads(&self) -> usize {
        self.store().uploads.len()
    }

    /// All requests since the last call.
    pub fn take_requests(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.store().requests)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Like `http`.
    pub fn scheme(&self) -> &str {
        self.scheme
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.host.replace("localhost", "127.0.0.1"));
    }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    target: String,
    headers: BTreeMap<String, String>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"scripted"}}]}}"#);
        Self::new(status).with("Content-Type", "application/json").body(body.as_bytes())
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
}

struct Serving {
    host: String,
    scheme: &'static str,
    store: Arc<Mutex<Store>>,
}

/// Closes with a reset, as a crashed peer does.
fn reset(stream: &TcpStream) {
    use std::os::fd::AsRawFd as _;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is open and the option's value outlives the call
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

impl Serving {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: impl Read + Write, cutter: &TcpStream) {
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().is_ok_and(|bytes| bytes.first() == Some(&0x16)) {
            // a TLS hello where plain http is spoken: answered as web servers do
            let _ = stream.get_mut().write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
            return;
        }
        while let Some(request) = read_head(&mut stream) {
            let action = self.action(&request);
            let length: usize = request.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
            let wanted = if let Some(Action::CutUpload(bytes)) = action { bytes.min(length) } else { length };
            let mut body = vec![0; wanted];
            if matches!(action, Some(Action::Reset)) || stream.read_exact(&mut body).is_err() {
                self.record(&request, 0, 0);
                return reset(cutter);
            }
            if let Some(Action::CutUpload(_)) = action {
                if let Some((_, upload)) = request.path.rsplit_once('/')
                    && let Some(kept) = self.store().uploads.get_mut(upload)
                {
                    kept.extend_from_slice(&body);
                }
                self.record(&request, 0, body.len());
                return reset(cutter);
            }
            let mut answer = match &action {
                Some(Action::Answer { status, headers, body }) => {
                    let mut answer = Answer::new(*status).body(body.as_bytes());
                    answer.headers.clone_from(headers);
                    answer
                }
                _ => self.answer(&request, &body, matches!(action, Some(Action::WholeForRange))),
            };
            match &action {
                Some(Action::Corrupt) => answer.body[0] ^= 1,
                Some(Action::Without(header)) => answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(header)),
                _ => {}
            }
            if matches!(action, Some(Action::ResetAfter)) {
                self.record(&request, 0, body.len());
                return reset(cutter);
            }
            self.record(&request, answer.status, body.len());
            let sent = match action {
                Some(Action::Truncate(bytes)) => Some(bytes.min(answer.body.len())),
                _ => None,
            };
            if write_answer(stream.get_mut(), &request.method, &answer, sent).is_err() {
                return;
            }
            match action {
                Some(Action::Truncate(_)) => return,
                Some(Action::CloseAfter) => {
                    let _ = cutter.shutdown(std::net::Shutdown::Both);
                    return;
                }
                _ => {}
            }
        }
    }

    fn action(&self, request: &Request) -> Option<Action> {
        let mut store = self.store();
        for rule in &mut store.rules {
            let fits = (rule.method.is_empty() || rule.method == request.method) && request.target.contains(rule.path);
            if !fits || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.action.clone());
        }
        None
    }

    fn record(&self, request: &Request, status: u16, body: usize) {
        self.store().requests.push(Recorded {
            method: request.method.clone(),
            path: request.target.clone(),
            status,
            body,
            headers: request.headers.clone(),
        });
    }

    fn answer(&self, request: &Request, body: &[u8], whole_for_range: bool) -> Answer {
        if request.path == "/token" {
            return self.token(request, body);
        }
        let Some(rest) = request.path.strip_prefix("/v2/") else { return Answer::error(404, "UNSUPPORTED") };
        let Some((repository, kind, name)) = ["/manifests/", "/blobs/uploads/", "/blobs/"]
            .iter()
            .find_map(|kind| rest.rsplit_once(kind).map(|(repository, name)| (repository.to_owned(), *kind, name.to_owned())))
        else {
            return Answer::error(404, "NAME_UNKNOWN");
        };
        if let Some(refusal) = self.refusal(request, &repository) {
            return refusal;
        }
        match kind {
            "/manifests/" => self.manifest(request, &repository, &name, body),
            "/blobs/" => self.blob(request, &repository, &name, whole_for_range),
            _ => self.upload(request, &repository, &name, body),
        }
    }

    fn refusal(&self, request: &Request, repository: &str) -> Option<Answer> {
        let store = self.store();
        let header = request.headers.get("authorization").cloned().unwrap_or_default();
        let action = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
        match &store.guard {
            Guard::Open => None,
            Guard::Basic { username, password } => {
                use base64::Engine as _;
                let right = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                (header != format!("Basic {right}"))
                    .then(|| Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", r#"Basic realm="test""#))
            }
            Guard::Token { .. } => {
                let mut needed = BTreeSet::from([format!("{repository}:{action}")]);
                if let Some(from) = request.query.get("from") {
                    needed.insert(format!("{from}:pull"));
                }
                let held = header.strip_prefix("Bearer ").and_then(|token| store.tokens.get(token));
                let challenge = format!(
                    r#"Bearer realm="{}://{}/token",service="test",scope="repository:{repository}:{action}""#,
                    self.scheme, self.host
                );
                (!held.is_some_and(|held| needed.is_subset(held)))
                    .then(|| Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
            }
        }
    }

    fn token(&self, request: &Request, body: &[u8]) -> Answer {
        use base64::Engine as _;
        let mut store = self.store();
        let Guard::Token { account, may_push } = store.guard.clone() else { return Answer::error(404, "UNSUPPORTED") };
        let form: BTreeMap<String, String> = pairs(std::str::from_utf8(body).unwrap()).collect();
        let mut known = account.is_none();
        if let Some((username, password)) = &account {
            let right = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
            let header = request.headers.get("authorization").cloned().unwrap_or_default();
            known = header == format!("Basic {right}") || form.get("refresh_token") == Some(password);
            if !known && !header.is_empty() {
                return Answer::error(401, "UNAUTHORIZED");
            }
        }
        let scopes: Vec<String> = match form.get("scope") {
            Some(words) => words.split(' ').map(str::to_owned).collect(),
            None => pairs(request.target.split_once('?').map_or("", |(_, query)| query))
                .filter(|(name, _)| name == "scope")
                .map(|(_, value)| value)
                .collect(),
        };
        let granted = scopes.iter().flat_map(|scope| {
            let (name, actions) = scope.strip_prefix("repository:").unwrap().rsplit_once(':').unwrap();
            actions.split(',').map(|action| format!("{name}:{action}")).collect::<Vec<_>>()
        });
        let granted = granted.filter(|scope| scope.ends_with(":pull") || (known && may_push)).collect();
        store.serial += 1;
        let token = format!("token-{}", store.serial);
        store.tokens.insert(token.clone(), granted);
        Answer::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#).as_bytes())
    }

    fn manifest(&self, request: &Request, repository: &str, name: &str, body: &[u8]) -> Answer {
        let mut store = self.store();
        if request.method == "PUT" {
            let value: serde_json::Value = serde_json::from_slice(body).unwrap();
            let blobs = value["layers"].as_array().into_iter().flatten().chain(std::iter::once(&value["config"]));
            for blob in blobs {
                let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
                if !store.blobs.contains_key(&(repository.into(), digest)) {
                    return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
                }
            }
            let digest = Digest::of(body);
            if !name.contains(':') {
                let image = value["config"]["digest"].as_str().unwrap().parse().unwrap();
                store.moves.push(Move { repository: repository.into(), tag: name.into(), manifest: digest, image });
            }
            let media_type = request.headers["content-type"].clone();
            for name in [name.to_owned(), digest.to_string()] {
                store.manifests.insert((repository.into(), name), (media_type.clone(), body.to_vec()));
            }
            return Answer::new(201).with("Docker-Content-Digest", digest.to_string());
        }
        match store.manifests.get(&(repository.into(), name.into())) {
            Some((media_type, bytes)) => {
                Answer::new(200).with("Content-Type", media_type).with("Docker-Content-Digest", Digest::of(bytes).to_string()).body(bytes)
            }
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn blob(&self, request: &Request, repository: &str, name: &str, whole_for_range: bool) -> Answer {
        let store = self.store();
        let Some(bytes) = name.parse().ok().and_then(|digest| store.blobs.get(&(repository.to_owned(), digest))) else {
            return Answer::error(404, "BLOB_UNKNOWN");
        };
        let range = request.headers.get("range").filter(|_| !whole_for_range);
        match range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()) {
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Answer::new(206).with("Content-Range", range).body(&bytes[start..])
            }
            None => Answer::new(200).body(bytes),
        }
    }

    fn upload(&self, request: &Request, repository: &str, id: &str, body: &[u8]) -> Answer {
        let mut store = self.store();
        let at = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (request.query.get("mount"), request.query.get("from")) {
                let digest: Digest = digest.parse().unwrap();
                let found = store.blobs.get(&(from.clone(), digest)).cloned();
                if let Some(bytes) = found.filter(|_| !store.refuse_mounts) {
                    store.blobs.insert((repository.into(), digest), bytes);
                    return Answer::new(201).with("Location", format!("/v2/{repository}/blobs/{digest}"));
                }
            }
            store.serial += 1;
            let id = format!("upload-{}", store.serial);
            store.uploads.insert(id.clone(), Vec::new());
            return Answer::new(202).with("Location", at(&id)).with("Range", "0-0");
        }
        let Some(kept) = store.uploads.get_mut(id) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
        match request.method.as_str() {
            "GET" => Answer::new(204).with("Location", at(id)).with("Range", format!("0-{}", kept.len().saturating_sub(1))),
            "DELETE" => {
                store.uploads.remove(id);
                Answer::new(204)
            }
            "PATCH" => {
                let start = request.headers.get("content-range").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
                if start.is_some_and(|start| start != kept.len()) {
                    return Answer::error(416, "BLOB_UPLOAD_INVALID");
                }
                kept.extend_from_slice(body);
                let last = kept.len() - 1;
                Answer::new(202).with("Location", at(id)).with("Range", format!("0-{last}"))
            }
            "PUT" => {
                // a whole body where there are bytes already is a new start
                let mut bytes = if request.headers.get("content-length").is_some_and(|length| length != "0") {
                    kept.clear();
                    Vec::new()
                } else {
                    kept.clone()
                };
                bytes.extend_from_slice(body);
                let digest: Digest = request.query["digest"].parse().unwrap();
                if Digest::of(&bytes) != digest {
                    return Answer::error(400, "DIGEST_INVALID");
                }
                store.uploads.remove(id);
                store.blobs.insert((repository.into(), digest), bytes);
                Answer::new(201).with("Location", format!("/v2/{repository}/blobs/{digest}"))
            }
            _ => Answer::error(405, "UNSUPPORTED"),
        }
    }
}

fn read_head(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    // a proxy is asked for whole URLs
    let local = target.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or(&target);
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Some(Request { method, path: decode(path), query: pairs(query).collect(), target: target.clone(), headers })
}

/// Writes the head with the right length, and `sent` bytes of the body.
fn write_answer(stream: &mut impl Write, method: &str, answer: &Answer, sent: Option<usize>) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if method != "HEAD" {
        bytes.extend_from_slice(&answer.body[..sent.unwrap_or(answer.body.len())]);
    }
    stream.write_all(&bytes)?;
    stream.flush()
}
