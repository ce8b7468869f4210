//! Blobs and manifests on their way out: proving the account, mounting, uploading with resumption, putting manifests
//! (distribution-spec, "Push"). Knows no image and no name's history.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use tokio::io::AsyncSeekExt as _;

use super::auth::Scope;
use super::client::{Client, Inner};
use super::download::{Download, RESUMES};
use super::fault::{Fault, Kind, Result as FaultResult};
use super::transport::{Call, IDLE_TIMEOUT, Payload, Reply};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::reference::Reference;

/// Takes progress as `(what, bytes done, bytes in all)`. Called a few times a second while bytes move.
pub type Progress<'a> = &'a (dyn Fn(&str, u64, Option<u64>) + Sync);

/// Progress that nobody watches.
pub fn no_progress(_: &str, _: u64, _: Option<u64>) {}

/// An upload the registry has opened and that takes bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenedUpload {
    url: Url,
}

/// What became of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MountOutcome {
    /// The blob is in the target now; no bytes moved.
    Mounted,
    /// Refused; the registry opened an upload instead, and the blob goes there.
    UploadOpened(OpenedUpload),
    /// Refused without opening an upload: the account may not read the source.
    Refused,
}

/// Where the bytes of a blob come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum BlobFrom<'a> {
    /// Memory.
    Bytes(&'a [u8]),
    /// A file that does not change meanwhile.
    File(&'a Path),
    /// Another repository, byte for byte.
    Repository(&'a Reference),
}

const TICK: Duration = Duration::from_millis(200);
/// A registry may hash a large blob before it answers its last byte.
const LAST_ANSWER: Duration = Duration::from_secs(900);

impl Client {
    /// Opens an upload in `repository` and cancels it: shows within one request that the account may push there.
    ///
    /// # Errors
    /// A refused account is [`crate::failure::Retry::Never`] in the group `credentials HOST/REPOSITORY`.
    pub fn prove_push(&self, repository: &Reference, cancel: &Cancel) -> Result<(), Failure> {
        self.block(cancel, async {
            let upload = self.inner.open_upload(repository).await?;
            self.inner.cancel_upload(repository, &upload).await;
            Ok(())
        })
    }

    /// The size of a blob, `None` where the repository does not have it.
    pub fn has_blob(&self, repository: &Reference, digest: Digest, cancel: &Cancel) -> Result<Option<u64>, Failure> {
        self.block(cancel, self.inner.has_blob(repository, digest))
    }

    /// Puts a manifest under the reference's tag, or its digest. All blobs must be in the repository.
    pub fn put_manifest(&self, reference: &Reference, bytes: &[u8], media_type: &str, cancel: &Cancel) -> Result<(), Failure> {
        self.block(cancel, self.inner.put_manifest(reference, bytes, media_type))
    }
}

impl Inner {
    pub(super) async fn open_upload(&self, repository: &Reference) -> FaultResult<OpenedUpload> {
        let doing = format!("open an upload in `{}`", repository.name());
        let url = self.transport.pools().url(repository.host(), &format!("{}/blobs/uploads/", repository.repository()))?;
        let scope = Scope::push(repository.repository());
        let reply = self.transport.send(&Call::new(Method::POST, repository.host(), url, scope, &doing)).await?;
        take_upload(reply, &doing).await
    }

    /// Cancels an upload that is not needed. The registry forgets it anyway after a while, so trouble is no matter.
    pub(super) async fn cancel_upload(&self, repository: &Reference, upload: &OpenedUpload) {
        let doing = "cancel an upload";
        let scope = Scope::push(repository.repository());
        let mut call = Call::new(Method::DELETE, repository.host(), upload.url.clone(), scope, doing);
        // many registries let an account push that may not delete
        call.trips = false;
        if let Ok(reply) = self.transport.send(&call).await {
            let _ = reply.finish(doing).await;
        }
    }

    pub(super) async fn has_blob(&self, repository: &Reference, digest: Digest) -> FaultResult<Option<u64>> {
        let doing = format!("look for blob {} in `{}`", digest.short(), repository.name());
        let url = self.transport.pools().url(repository.host(), &format!("{}/blobs/{digest}", repository.repository()))?;
        // asked on the way to a push: one token does for both
        let scope = Scope::push(repository.repository());
        let reply = self.transport.send(&Call::new(Method::HEAD, repository.host(), url, scope, &doing)).await?;
        match reply.status {
            StatusCode::OK => {
                let size = reply.header("content-length").and_then(|text| text.parse().ok()).unwrap_or_default();
                reply.finish(&doing).await.map(|()| Some(size))
            }
            StatusCode::NOT_FOUND => reply.finish(&doing).await.map(|()| None),
            _ => Err(reply.into_fault(&doing).await),
        }
    }

    /// Asks the registry to take a blob over from another of its repositories.
    pub(super) async fn mount_blob(&self, target: &Reference, digest: Digest, from: &Reference) -> FaultResult<MountOutcome> {
        let doing = format!("mount blob {} of `{}` in `{}`", digest.short(), from.repository(), target.name());
        let mut url = self.transport.pools().url(target.host(), &format!("{}/blobs/uploads/", target.repository()))?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from.repository());
        let scope = Scope::mount(target.repository(), from.repository());
        let mut call = Call::new(Method::POST, target.host(), url, scope, &doing);
        // that the source is not ours says nothing about the target
        call.trips = false;
        match self.transport.send(&call).await {
            Ok(reply) if reply.status == StatusCode::CREATED => reply.finish(&doing).await.map(|()| MountOutcome::Mounted),
            Ok(reply) if reply.status == StatusCode::ACCEPTED => take_upload(reply, &doing).await.map(MountOutcome::UploadOpened),
            // some registries know no mount and say so in their own way; the upload tells what is really wrong
            Ok(reply) if reply.status.is_client_error() => reply.finish(&doing).await.map(|()| MountOutcome::Refused),
            Ok(reply) => Err(reply.into_fault(&doing).await),
            Err(fault) if matches!(fault.kind, Kind::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => Ok(MountOutcome::Refused),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn put_manifest(&self, reference: &Reference, bytes: &[u8], media_type: &str) -> FaultResult<()> {
        let digest = Digest::of(bytes);
        let doing = format!("put manifest {} at `{reference}`", digest.short());
        let tail = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let url = self.transport.pools().url(reference.host(), &format!("{}/manifests/{tail}", reference.repository()))?;
        let content_type = HeaderValue::from_str(media_type).map_err(|_| Fault::never(format!("{doing}: `{media_type}` is no type")))?;
        let call = Call::new(Method::PUT, reference.host(), url, Scope::push(reference.repository()), &doing)
            .header(CONTENT_TYPE, content_type)
            .body(Payload::Bytes(Bytes::copy_from_slice(bytes)));
        let reply = self.transport.send(&call).await?;
        if !matches!(reply.status, StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
            return Err(reply.into_fault(&doing).await);
        }
        let told = reply.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        reply.finish(&doing).await?;
        match told {
            Some(told) if told != digest => Err(Fault::never(format!("{doing}: the registry stored it as {told}"))),
            _ => Ok(()),
        }
    }

    /// Makes sure that a blob's bytes can be had, before anything is told to the target.
    pub(super) async fn open_source(self: &Arc<Self>, digest: Digest, size: u64, from: BlobFrom<'_>) -> FaultResult<Source> {
        let bytes = match from {
            BlobFrom::Bytes(bytes) => Place::Memory(Bytes::copy_from_slice(bytes)),
            BlobFrom::Repository(repository) => {
                let mut download = Download::new(self.clone(), self.sources(repository)?, digest, size);
                let first = download.next().await?;
                let begun = Arc::new(Mutex::new(first.map(|piece| (piece, download))));
                Place::Repository { inner: self.clone(), repository: repository.clone(), begun }
            }
            BlobFrom::File(path) => match std::fs::metadata(path) {
                // a body shorter than announced would hang the connection
                Ok(metadata) if metadata.len() == size => Place::File(path.to_owned()),
                Ok(metadata) => return Err(Fault::never(format!("`{}` has {} bytes, not {size}", path.display(), metadata.len()))),
                Err(error) => return Err(Fault::other(Failure::infra(format!("cannot read `{}`: {error}", path.display())))),
            },
        };
        Ok(Source { digest, size, bytes })
    }

    /// Uploads a blob, into `opened` when a mount left one. A broken upload is taken up where the registry says it broke,
    /// or from its start, a few times. Returns the bytes that were sent.
    pub(super) async fn push_blob(
        self: &Arc<Self>,
        target: &Reference,
        source: Source,
        opened: Option<OpenedUpload>,
        progress: Progress<'_>,
    ) -> FaultResult<u64> {
        let pushing = Pushing {
            inner: self,
            target,
            doing: format!("upload blob {} to `{}`", source.digest.short(), target.name()),
            source,
            sent: Arc::default(),
            trouble: Arc::default(),
            progress,
        };
        pushing.run(opened).await?;
        Ok(pushing.sent.load(Ordering::Relaxed))
    }
}

async fn take_upload(reply: Reply, doing: &str) -> FaultResult<OpenedUpload> {
    if reply.status != StatusCode::ACCEPTED {
        return Err(reply.into_fault(doing).await);
    }
    let url = reply.location().ok_or_else(|| Fault::never(format!("{doing}: the registry opened it without a `Location`")))?;
    reply.finish(doing).await?;
    Ok(OpenedUpload { url })
}

/// A blob whose bytes can be had, from any offset, as often as needed.
pub(super) struct Source {
    digest: Digest,
    size: u64,
    bytes: Place,
}

#[derive(Clone)]
enum Place {
    Memory(Bytes),
    File(PathBuf),
    /// `begun` is the download that showed the blob to be there; the first reader goes on with it.
    Repository {
        inner: Arc<Inner>,
        repository: Reference,
        begun: Arc<Mutex<Option<(Bytes, Download)>>>,
    },
}

impl Place {
    fn open(&self, digest: Digest, size: u64, offset: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
        match self.clone() {
            Self::Memory(bytes) => {
                let rest = bytes.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())..);
                futures_util::stream::once(async { Ok(rest) }).boxed()
            }
            Self::File(path) => futures_util::stream::once(async move {
                let mut file = tokio::fs::File::open(&path).await?;
                file.seek(std::io::SeekFrom::Start(offset)).await?;
                Ok::<_, std::io::Error>(tokio_util::io::ReaderStream::with_capacity(file, 256 << 10))
            })
            .try_flatten()
            .boxed(),
            Self::Repository { inner, repository, begun } => {
                match begun.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|_| offset == 0) {
                    Some((piece, download)) => futures_util::stream::once(async { Ok(piece) }).chain(download.into_stream(0)).boxed(),
                    None => {
                        let sources = inner.sources(&repository).unwrap_or_else(|_| vec![repository]);
                        Download::new(inner, sources, digest, size).into_stream(offset)
                    }
                }
            }
        }
    }
}

/// One blob on its way out.
struct Pushing<'a> {
    inner: &'a Arc<Inner>,
    target: &'a Reference,
    source: Source,
    doing: String,
    /// All bytes handed to connections, those of broken ones too.
    sent: Arc<AtomicU64>,
    /// What went wrong on the reading side, which the connection only sees as a broken body.
    trouble: Arc<Mutex<Option<Failure>>>,
    progress: Progress<'a>,
}

impl Pushing<'_> {
    async fn run(&self, opened: Option<OpenedUpload>) -> FaultResult<()> {
        let (mut place, mut offset) = (opened, 0);
        let (mut resumes, mut digest_refused) = (0, false);
        loop {
            let upload = match place.take() {
                Some(upload) => upload,
                None => self.inner.open_upload(self.target).await?,
            };
            let Err(fault) = self.send_from(&upload, offset).await else { return Ok(()) };
            if let Some(trouble) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(Fault::other(trouble));
            }
            offset = 0;
            let broke = fault.kind == Kind::Broken;
            if broke && resumes < RESUMES {
                // the last answer may be all that was lost
                if self.inner.has_blob(self.target, self.source.digest).await?.is_some() {
                    return Ok(());
                }
                if let Some((upload, received)) = self.status(&upload).await {
                    (place, offset) = (Some(upload), received);
                }
            } else if fault.has_code("DIGEST_INVALID") && !digest_refused {
                digest_refused = true;
            } else if !(fault.has_code("BLOB_UPLOAD_UNKNOWN") || fault.is_status(StatusCode::RANGE_NOT_SATISFIABLE)) || resumes >= RESUMES {
                return Err(fault);
            }
            resumes += 1;
        }
    }

    /// How far the registry has got with an upload that broke; `None` where it does not know.
    async fn status(&self, upload: &OpenedUpload) -> Option<(OpenedUpload, u64)> {
        let scope = Scope::push(self.target.repository());
        let call = Call::new(Method::GET, self.target.host(), upload.url.clone(), scope, &self.doing);
        let reply = self.inner.transport.send(&call).await.ok()?;
        let received = reply.header("range").and_then(|range| range.rsplit('-').next()?.parse::<u64>().ok()).map(|last| last + 1);
        let url = reply.location().unwrap_or_else(|| upload.url.clone());
        let known = reply.status == StatusCode::NO_CONTENT;
        reply.finish(&self.doing).await.ok()?;
        let received = received.filter(|received| known && *received > 1 && *received <= self.source.size)?;
        Some((OpenedUpload { url }, received))
    }

    /// Everything from `offset` on, and the end of the upload.
    async fn send_from(&self, upload: &OpenedUpload, offset: u64) -> FaultResult<()> {
        if offset == 0 {
            return self.close(upload, self.payload(0)).await;
        }
        if offset == self.source.size {
            return self.close(upload, Payload::Empty).await;
        }
        let range = HeaderValue::from_str(&format!("{offset}-{}", self.source.size - 1)).map_err(|_| Fault::never(&self.doing))?;
        let call = self.call(Method::PATCH, upload.url.clone(), self.payload(offset)).header(CONTENT_RANGE, range);
        let reply = self.watch(&call, offset).await?;
        let upload = take_upload(reply, &self.doing).await?;
        self.close(&upload, Payload::Empty).await
    }

    async fn close(&self, upload: &OpenedUpload, body: Payload) -> FaultResult<()> {
        let mut url = upload.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.source.digest.to_string());
        let reply = self.watch(&self.call(Method::PUT, url, body), 0).await?;
        match reply.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => reply.finish(&self.doing).await,
            _ => Err(reply.into_fault(&self.doing).await),
        }
    }

    fn call(&self, method: Method, url: Url, body: Payload) -> Call<'_> {
        Call::new(method, self.target.host(), url, Scope::push(self.target.repository()), &self.doing)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .body(body)
    }

    fn payload(&self, offset: u64) -> Payload {
        let (digest, size, bytes) = (self.source.digest, self.source.size, self.source.bytes.clone());
        let (sent, trouble) = (self.sent.clone(), self.trouble.clone());
        let open = move || {
            let (sent, trouble) = (sent.clone(), trouble.clone());
            let pieces = bytes.open(digest, size, offset).inspect_ok(move |piece| {
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            });
            let pieces = pieces.map_err(move |error| {
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(super::fault::failure_of(error));
                std::io::Error::other("its source failed")
            });
            pieces.boxed()
        };
        Payload::Stream { length: size - offset, open: Arc::new(open) }
    }

    /// Sends, tells progress, and gives up when nothing moves any more.
    async fn watch(&self, call: &Call<'_>, offset: u64) -> FaultResult<Reply> {
        let before = self.sent.load(Ordering::Relaxed);
        let mut sending = std::pin::pin!(self.inner.transport.send(call));
        let (mut last, mut still) = (before, Duration::ZERO);
        loop {
            if let Ok(outcome) = tokio::time::timeout(TICK, &mut sending).await {
                return outcome;
            }
            let now = self.sent.load(Ordering::Relaxed);
            let done = offset.saturating_add(now - before).min(self.source.size);
            (self.progress)(&self.source.digest.short(), done, Some(self.source.size));
            still = if now == last { still + TICK } else { Duration::ZERO };
            last = now;
            let patience = if done < self.source.size { IDLE_TIMEOUT } else { LAST_ANSWER };
            if still > patience {
                return Err(Fault {
                    kind: Kind::Broken,
                    codes: Vec::new(),
                    failure: Failure::infra(format!("{}: no byte moved for {} s", self.doing, still.as_secs())).into(),
                });
            }
        }
    }
}
