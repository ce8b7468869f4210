//! BuildKit's session: what the daemon asks back for during a build, over one connection of its own. Serves the generated
//! Dockerfile, the context, secrets and ssh agents, and nothing else. Knows gRPC and fsutil's protocol, no build.
//!
//! bollard's own session offers neither files nor secrets next to the classic build call, and its gRPC driver holds the context in
//! memory and serves only the agent of SSH_AUTH_SOCK; `docker build` has always worked the way this file does.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bollard::fsutil::types::packet::PacketType;
use bollard::fsutil::types::{Packet, Stat};
use bollard::health::health_check_response::ServingStatus;
use bollard::health::health_server::{Health, HealthServer};
use bollard::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use bollard::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard::moby::filesync::packet::file_sync_server::{FileSync, FileSyncServer};
use bollard::moby::sshforward::v1::ssh_server::{Ssh, SshServer};
use bollard::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::Empty;
use hyper::{Request as HttpRequest, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::transport::{Dialer, io_error};
use crate::engine::SecretSource;
use crate::engine::context::{ContextFiles, Item, ReadError};
use crate::failure::Failure;

/// Name of the generated Dockerfile within the folder that only it is in.
pub(super) const DOCKERFILE: &str = "Dockerfile";

/// Looks an environment variable up.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a session serves.
pub(super) struct Served {
    /// Text of the Dockerfile.
    pub dockerfile: String,
    /// The context.
    pub context: Arc<ContextFiles>,
    /// Secrets by id; read when asked for.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Agent sockets by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Where secrets from the environment come from.
    pub environment: Environment,
}

/// An open session; dropping it ends it.
pub(super) struct Session {
    problem: Arc<Mutex<Option<Failure>>>,
    _end: oneshot::Sender<()>,
}

impl Session {
    /// What went wrong on this side, which the daemon only knows as a failed transfer.
    pub(super) fn problem(&self) -> Option<Failure> {
        self.problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Opens a session named `id`.
///
/// # Errors
/// Where the daemon can't be reached or offers no sessions.
pub(super) async fn open_session(dialer: &Dialer, api: &str, id: &str, served: Served) -> io::Result<Session> {
    let request = HttpRequest::post(format!("/{api}/session"))
        .header("Connection", "Upgrade")
        .header("Upgrade", "h2c")
        .header("X-Docker-Expose-Session-Uuid", id)
        .header("X-Docker-Expose-Session-Name", "igraph")
        // never a name that another build shares: the daemon would take a file of equal size and time for unchanged
        .header("X-Docker-Expose-Session-Sharedkey", id)
        .header("X-Docker-Expose-Session-Grpc-Method", "/grpc.health.v1.Health/Check")
        .header("X-Docker-Expose-Session-Grpc-Method", "/moby.filesync.v1.FileSync/DiffCopy")
        .header("X-Docker-Expose-Session-Grpc-Method", "/moby.buildkit.secrets.v1.Secrets/GetSecret")
        .header("X-Docker-Expose-Session-Grpc-Method", "/moby.sshforward.v1.SSH/CheckAgent")
        .header("X-Docker-Expose-Session-Grpc-Method", "/moby.sshforward.v1.SSH/ForwardAgent")
        .version(Version::HTTP_11)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = dialer.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(io::Error::other(format!("the daemon opens no session: {}", response.status())));
    }
    let stream = Connection(TokioIo::new(hyper::upgrade::on(response).await.map_err(io_error)?));

    let problem = Arc::new(Mutex::new(None));
    let files = Files { dockerfile: Arc::new(served.dockerfile), context: served.context, problem: problem.clone() };
    let secrets = SecretStore { secrets: served.secrets, environment: served.environment };
    let router = tonic::transport::Server::builder()
        .add_service(HealthServer::new(Alive))
        .add_service(FileSyncServer::new(files))
        .add_service(SecretsServer::new(secrets))
        .add_service(SshServer::new(Agents(served.ssh)));
    let (end, ended) = oneshot::channel::<()>();
    let incoming = futures_util::stream::iter([Ok::<_, io::Error>(stream)]).chain(futures_util::stream::pending());
    tokio::spawn(async move {
        // the daemon's side sees a broken session as a failed build, which says more than an error here
        drop(router.serve_with_incoming_shutdown(incoming, async { drop(ended.await) }).await);
    });
    Ok(Session { problem, _end: end })
}

struct Connection(TokioIo<hyper::upgrade::Upgraded>);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The daemon asks every few seconds and ends a session that does not answer.
struct Alive;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Alive {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("one service, one health"))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with Check"))
    }
}

struct SecretStore {
    secrets: BTreeMap<String, SecretSource>,
    environment: Environment,
}

#[tonic::async_trait]
impl Secrets for SecretStore {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let missing = |why: &str| Status::not_found(format!("secret `{id}` {why}"));
        let data = match self.secrets.get(&id).ok_or_else(|| missing("is not declared"))? {
            SecretSource::Env(name) => {
                (self.environment)(name).ok_or_else(|| missing(&format!("comes from ${name}, which is not set")))?.into_bytes()
            }
            SecretSource::File(path) => {
                tokio::fs::read(path).await.map_err(|error| missing(&format!("comes from `{}`: {error}", path.display())))?
            }
        };
        Ok(Response::new(GetSecretResponse { data }))
    }
}

struct Agents(BTreeMap<String, PathBuf>);

impl Agents {
    fn socket(&self, id: &str) -> Result<&PathBuf, Status> {
        let id = if id.is_empty() { "default" } else { id };
        self.0.get(id).ok_or_else(|| Status::not_found(format!("ssh agent `{id}` is not declared")))
    }
}

#[tonic::async_trait]
impl Ssh for Agents {
    type ForwardAgentStream = Answers<BytesMessage>;

    async fn check_agent(&self, request: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        self.socket(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(&self, request: Request<Streaming<BytesMessage>>) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get("buildkit.ssh.id").and_then(|id| id.to_str().ok()).unwrap_or("default").to_owned();
        let socket = self.socket(&id)?;
        let stream = tokio::net::UnixStream::connect(socket)
            .await
            .map_err(|error| Status::unavailable(format!("ssh agent `{id}` at `{}`: {error}", socket.display())))?;
        let (mut output, mut input) = stream.into_split();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if input.write_all(&message.data).await.is_err() {
                    break;
                }
            }
        });
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = output.read(&mut buffer).await {
                if sender.send(Ok(BytesMessage { data: buffer[..count].to_vec() })).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(answers(receiver)))
    }
}

fn answers<T: Send + 'static>(mut receiver: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

/// The two folders a BuildKit frontend reads: one with only the Dockerfile, and the context.
struct Files {
    dockerfile: Arc<String>,
    context: Arc<ContextFiles>,
    problem: Arc<Mutex<Option<Failure>>>,
}

#[derive(Clone)]
enum Folder {
    Dockerfile(Arc<String>),
    Context(Arc<ContextFiles>),
}

#[tonic::async_trait]
impl FileSync for Files {
    type DiffCopyStream = Answers<Packet>;
    type TarStreamStream = Answers<Packet>;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let name = request.metadata().get("dir-name").and_then(|name| name.to_str().ok()).unwrap_or_default();
        let folder = match name {
            "dockerfile" => Folder::Dockerfile(self.dockerfile.clone()),
            "context" => Folder::Context(self.context.clone()),
            other => return Err(Status::not_found(format!("no folder `{other}` here"))),
        };
        // include, exclude and followpaths in the metadata only narrow what is sent; all that is here counts, so all of it is sent
        let (sender, receiver) = mpsc::channel(64);
        let (wanted, mut wishes) = mpsc::unbounded_channel::<u32>();
        let mut incoming = request.into_inner();
        let answer = sender.clone();
        tokio::spawn(async move {
            while let Some(Ok(packet)) = incoming.next().await {
                match packet.r#type() {
                    PacketType::PacketReq => drop(wanted.send(packet.id)),
                    PacketType::PacketFin => {
                        drop(answer.send(Ok(of_type(PacketType::PacketFin))).await);
                        break;
                    }
                    _ => {}
                }
            }
        });
        let problem = self.problem.clone();
        tokio::task::spawn_blocking(move || {
            let stats = match folder.stats() {
                Ok(stats) => stats,
                Err(error) => return report(error, &sender, &problem),
            };
            let sizes: Vec<i64> = stats.iter().map(|stat| stat.size).collect();
            let serve = sender.clone();
            let reader = std::thread::spawn(move || {
                while let Some(id) = wishes.blocking_recv() {
                    if let Err(error) = folder.send(id, &sizes, &serve) {
                        return report(error, &serve, &problem);
                    }
                }
            });
            for stat in stats {
                if sender.blocking_send(Ok(Packet { stat: Some(stat), ..of_type(PacketType::PacketStat) })).is_err() {
                    return;
                }
            }
            drop(sender.blocking_send(Ok(of_type(PacketType::PacketStat))));
            drop(sender);
            drop(reader.join());
        });
        Ok(Response::new(answers(receiver)))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("ask with DiffCopy"))
    }
}

fn of_type(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), stat: None, id: 0, data: Vec::new() }
}

fn report(error: ReadError, sender: &mpsc::Sender<Result<Packet, Status>>, problem: &Mutex<Option<Failure>>) {
    if let ReadError::Changed(_) = &error {
        let failure = error.failure();
        let status = Status::aborted(failure.message.clone());
        problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(failure);
        drop(sender.blocking_send(Err(status)));
    }
}

// Go's os.FileMode, which fsutil speaks
const FOLDER: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

impl Folder {
    fn stats(&self) -> Result<Vec<Stat>, ReadError> {
        match self {
            // the ignore file beside the Dockerfile wins over the context's, which was applied already
            Self::Dockerfile(text) => Ok(vec![
                Stat { path: DOCKERFILE.into(), mode: 0o644, size: length(text), ..Stat::default() },
                Stat { path: format!("{DOCKERFILE}.dockerignore"), mode: 0o644, size: length(NOTHING_IGNORED), ..Stat::default() },
            ]),
            Self::Context(files) => {
                let stat = |(path, item): &(String, Item)| {
                    let (mode, linkname, size) = match item {
                        Item::Folder => (FOLDER | 0o755, String::new(), 0),
                        Item::Link { target } => (LINK | 0o777, target.clone(), length(target)),
                        Item::File { executable, .. } => {
                            (if *executable { 0o755 } else { 0o644 }, String::new(), i64::try_from(files.size(path)?).unwrap_or(i64::MAX))
                        }
                    };
                    let mod_time = files.epoch().saturating_mul(1_000_000_000);
                    Ok(Stat { path: path.clone(), mode, linkname, size, mod_time, ..Stat::default() })
                };
                files.items().iter().map(stat).collect()
            }
        }
    }

    fn send(&self, id: u32, sizes: &[i64], sender: &mpsc::Sender<Result<Packet, Status>>) -> Result<(), ReadError> {
        let data = |bytes: &[u8]| {
            let packet = Packet { id, data: bytes.to_vec(), ..of_type(PacketType::PacketData) };
            sender.blocking_send(Ok(packet)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        };
        let index = id as usize;
        match self {
            Self::Dockerfile(text) => {
                data(if index == 0 { text.as_bytes() } else { NOTHING_IGNORED.as_bytes() }).map_err(ReadError::Stopped)?;
            }
            Self::Context(files) => {
                if let Some((path, Item::File { content, .. })) = files.items().get(index) {
                    let size = sizes.get(index).and_then(|size| u64::try_from(*size).ok()).unwrap_or(0);
                    files.read(path, content, size, data)?;
                }
            }
        }
        data(&[]).map_err(ReadError::Stopped)
    }
}

const NOTHING_IGNORED: &str = "# the context holds only what counts\n";

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}
