//! Blobs on their way here: every byte counted and hashed, and a broken stream taken up where it broke. Knows digests,
//! not what the blobs are.

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{self, BoxStream};
use reqwest::header::{HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};

use super::auth::Scope;
use super::client::Inner;
use super::fault::{Fault, Kind, Result, into_io};
use super::transport::{Call, Reply};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::reference::Reference;

/// How often one download, or one upload, is taken up again.
pub(super) const RESUMES: u32 = 3;

/// One blob that is being read.
pub(super) struct Download {
    inner: Arc<Inner>,
    /// Repositories that may have it, the first asked first.
    sources: Vec<Reference>,
    digest: Digest,
    size: u64,
    offset: u64,
    hasher: Sha256,
    reply: Option<Reply>,
    /// Bytes that come again because the host answered a range with the whole.
    skip: u64,
    resumes: u32,
}

impl Download {
    pub(super) fn new(inner: Arc<Inner>, sources: Vec<Reference>, digest: Digest, size: u64) -> Self {
        Self { inner, sources, digest, size, offset: 0, hasher: Sha256::new(), reply: None, skip: 0, resumes: 0 }
    }

    /// Starts anew at `offset`, for an upload that goes on there. What lies before is read and hashed again.
    pub(super) fn into_stream(self, offset: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
        let pieces = stream::try_unfold((self, offset), |(mut download, mut skip)| async move {
            while let Some(mut piece) = download.next().await.map_err(|fault| into_io(*fault.failure))? {
                let dropped = skip.min(piece.len() as u64);
                piece.advance(usize::try_from(dropped).unwrap_or(usize::MAX));
                skip -= dropped;
                if !piece.is_empty() {
                    return Ok(Some((piece, (download, skip))));
                }
            }
            Ok(None)
        });
        Box::pin(pieces)
    }

    /// The next piece; `None` once size and digest have been found right.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let doing = format!("read blob {} of `{}`", self.digest.short(), self.sources.last().map(Reference::name).unwrap_or_default());
        loop {
            if self.offset == self.size {
                return self.verify(&doing).map(|()| None);
            }
            let outcome = match &mut self.reply {
                Some(reply) => reply.chunk(&doing).await,
                None => {
                    self.reply = Some(self.open(&doing).await?);
                    continue;
                }
            };
            match outcome {
                Ok(Some(mut piece)) => {
                    let dropped = self.skip.min(piece.len() as u64);
                    piece.advance(usize::try_from(dropped).unwrap_or(usize::MAX));
                    self.skip -= dropped;
                    if piece.is_empty() {
                        continue;
                    }
                    self.offset += piece.len() as u64;
                    if self.offset > self.size {
                        return Err(Fault::never(format!("{doing}: it is longer than the {} bytes of its descriptor", self.size)));
                    }
                    self.hasher.update(&piece);
                    return Ok(Some(piece));
                }
                broken => {
                    self.reply = None;
                    self.resumes += 1;
                    if self.resumes > RESUMES {
                        let ended = || Fault::broken(format!("{doing}: it ends after {} of {} bytes", self.offset, self.size));
                        return Err(broken.err().unwrap_or_else(ended));
                    }
                }
            }
        }
    }

    fn verify(&mut self, doing: &str) -> Result<()> {
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found == self.digest {
            return Ok(());
        }
        Err(Fault::other(Failure::infra(format!("{doing}: its bytes hash to {found}"))))
    }

    /// Asks for the rest, at the first source that gives it.
    async fn open(&mut self, doing: &str) -> Result<Reply> {
        let mut last = None;
        for source in self.sources.clone() {
            match self.open_at(&source, doing).await {
                Ok(reply) => return Ok(reply),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(|| Fault::never(format!("{doing}: nobody has it"))))
    }

    async fn open_at(&mut self, source: &Reference, doing: &str) -> Result<Reply> {
        let url = self.inner.transport.pools().url(source.host(), &format!("{}/blobs/{}", source.repository(), self.digest))?;
        let mut call = Call::new(Method::GET, source.host(), url, Scope::pull(source.repository()), doing);
        if self.offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.offset));
            call = call.header(RANGE, range.map_err(|_| Fault::never(doing))?);
        }
        let reply = self.inner.transport.send(&call).await?;
        self.skip = match reply.status {
            StatusCode::OK => self.offset,
            StatusCode::PARTIAL_CONTENT if self.offset > 0 => 0,
            _ => return Err(reply.into_fault(doing).await),
        };
        Ok(reply)
    }

    /// The whole blob, which is not longer than `limit`.
    pub(super) async fn whole(mut self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Fault::never(format!("blob {} has {} bytes, more than {limit}", self.digest.short(), self.size)));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.size).unwrap_or_default());
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// A blob as a reader. At its end it fails when size or digest differ; its errors carry a [`Failure`].
pub(super) struct BlobReader {
    download: Download,
    cancel: Cancel,
    piece: Bytes,
    done: bool,
}

impl BlobReader {
    /// Opens the blob, so that one that can't be had fails here.
    pub(super) fn open(mut download: Download, cancel: Cancel) -> Result<Self> {
        let inner = download.inner.clone();
        let first = inner.block(&cancel, download.next())?;
        let done = first.is_none();
        Ok(Self { download, cancel, piece: first.unwrap_or_default(), done })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.piece.is_empty() && !self.done && !buffer.is_empty() {
            let inner = self.download.inner.clone();
            match inner.block(&self.cancel, self.download.next()).map_err(|fault| into_io(*fault.failure))? {
                Some(piece) => self.piece = piece,
                None => self.done = true,
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Whether a fault of a source lets another source be asked: all but a cancelled call.
pub(super) fn falls_through(fault: &Fault) -> bool {
    fault.kind != Kind::Other || fault.failure.class != crate::failure::FailureClass::Stopped
}
