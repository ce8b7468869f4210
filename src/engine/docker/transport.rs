//! How a daemon is reached: one HTTP/1.1 connection a request, over a unix socket, tcp, TLS or ssh. Knows HTTP, not Docker's API.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::endpoint::{Address, Endpoint, TlsFiles};

const CONNECT: Duration = Duration::from_secs(30);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Opens connections to one daemon.
#[derive(Clone)]
pub(super) struct Dialer {
    address: Address,
    tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    /// For an endpoint; reads its key material.
    pub(super) fn new(endpoint: &Endpoint) -> io::Result<Self> {
        let tls = match (&endpoint.tls, &endpoint.address) {
            (Some(files), Address::Tcp { host, .. }) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Some((tokio_rustls::TlsConnector::from(Arc::new(client_config(files)?)), name))
            }
            _ => None,
        };
        Ok(Self { address: endpoint.address.clone(), tls })
    }

    async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
        match &self.address {
            Address::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            Address::Tcp { host, port } => {
                let stream = tokio::net::TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match &self.tls {
                    Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
                    None => Ok(Box::new(stream)),
                }
            }
            Address::Ssh { destination, user, port, socket } => {
                let mut command = tokio::process::Command::new("ssh");
                command.args(["-o", "ConnectTimeout=30", "-o", "BatchMode=yes", "-T"]);
                if let Some(user) = user {
                    command.args(["-l", user]);
                }
                if let Some(port) = port {
                    command.args(["-p", &port.to_string()]);
                }
                command.args(["--", destination, "docker"]);
                if let Some(socket) = socket {
                    command.args(["--host", &format!("unix://{socket}")]);
                }
                command.args(["system", "dial-stdio"]);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
                let mut child =
                    command.spawn().map_err(|error| io::Error::new(error.kind(), format!("the program `ssh` can't be run: {error}")))?;
                let (Some(output), Some(input)) = (child.stdout.take(), child.stdin.take()) else {
                    return Err(io::Error::other("`ssh` has no pipes"));
                };
                Ok(Box::new(SshPipe { child, io: tokio::io::join(output, input), answered: false, last_words: None }))
            }
        }
    }

    /// Sends one request over a connection of its own. Where the answer switches protocols, `hyper::upgrade::on` gives the stream.
    pub(super) async fn send<B>(&self, mut request: Request<B>) -> io::Result<Response<Incoming>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let stream = tokio::time::timeout(CONNECT, self.dial())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not answer"))??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io_error)?;
        // ends when the answer was read, when sender and answer are dropped, or when the connection breaks
        let connection = tokio::spawn(connection.with_upgrades());
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>().map_err(io::Error::other)?;
        *request.uri_mut() = path;
        request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
        match sender.send_request(request).await {
            Ok(response) => Ok(response),
            // the connection knows why
            Err(error) => match tokio::time::timeout(Duration::from_secs(3), connection).await {
                Ok(Ok(Err(cause))) => Err(io_error(cause)),
                _ => Err(io_error(error)),
            },
        }
    }
}

/// The innermost cause says what happened; hyper's own text only that something did.
pub(super) fn io_error(error: hyper::Error) -> io::Error {
    let mut cause: &dyn StdError = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    match cause.downcast_ref::<io::Error>() {
        Some(inner) => io::Error::new(inner.kind(), text),
        None => io::Error::other(if error.is_incomplete_message() { "the daemon closed the connection".to_owned() } else { text }),
    }
}

fn client_config(files: &TlsFiles) -> io::Result<rustls::ClientConfig> {
    let named = |path: &std::path::Path, error: &dyn std::fmt::Display| io::Error::other(format!("`{}`: {error}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    match &files.authority {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| named(path, &error))? {
                roots.add(certificate.map_err(|error| named(path, &error))?).map_err(|error| named(path, &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    match &files.identity {
        Some((certificate, key)) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(certificate).map_err(|error| named(certificate, &error))?.collect();
            let chain = chain.map_err(|error| named(certificate, &error))?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| named(key, &error))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// `ssh` as a stream. Where it ends without a byte, its own words are the error, of whatever is tried then.
struct SshPipe {
    child: tokio::process::Child,
    io: tokio::io::Join<tokio::process::ChildStdout, tokio::process::ChildStdin>,
    answered: bool,
    last_words: Option<LastWords>,
}

enum LastWords {
    Awaited(Pin<Box<dyn Future<Output = String> + Send>>),
    Said(String),
}

impl SshPipe {
    /// Why it ended.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let stderr = if self.last_words.is_none() { self.child.stderr.take() } else { None };
        let words = self.last_words.get_or_insert_with(|| LastWords::Awaited(Box::pin(last_line(stderr))));
        if let LastWords::Awaited(awaited) = words {
            match awaited.as_mut().poll(context) {
                Poll::Ready(line) => *words = LastWords::Said(line),
                Poll::Pending => return Poll::Pending,
            }
        }
        let LastWords::Said(line) = words else { return Poll::Pending };
        Poll::Ready(io::Error::other(format!("ssh: {line}")))
    }
}

async fn last_line(stderr: Option<tokio::process::ChildStderr>) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = stderr {
        // a control master that ssh left behind may hold it open
        drop(tokio::time::timeout(Duration::from_secs(2), stderr.take(64 * 1024).read_to_end(&mut text)).await);
    }
    String::from_utf8_lossy(&text).trim().lines().last().unwrap_or("it ended without a word").to_owned()
}

impl AsyncRead for SshPipe {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.last_words.is_none() {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut self.io).poll_read(context, buffer);
            let ended = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
            self.answered |= buffer.filled().len() > before;
            if !ended || self.answered {
                return polled;
            }
        }
        self.poll_end(context).map(Err)
    }
}

impl AsyncWrite for SshPipe {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.last_words.is_none() {
            let polled = Pin::new(&mut self.io).poll_write(context, bytes);
            let ended = matches!(&polled, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe);
            if !ended || self.answered {
                return polled;
            }
        }
        self.poll_end(context).map(Err)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
