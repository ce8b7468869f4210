//! Reading configs and layers out of a daemon's archive of images, as a stream. Knows the legacy layout (`<id>/layer.tar`, up to
//! Docker 24) and the OCI one (`blobs/sha256/…`, packed where the daemon keeps images in containerd); knows no registry.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Seek, SeekFrom, Write};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::Request;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::engine::{DockerEngine, infra_text, lock};
use super::transport::io_error;
use crate::digest::{Digest, ImageId};
use crate::engine::{Attempt, ExportSink};
use crate::failure::Failure;
use crate::image::{Compression, EngineImage};

/// Configs and manifests are smaller; a layer that is too is read into memory and told apart by its digest.
const SMALL: u64 = 4 << 20;
/// Layers up to this size never touch the disk.
const IN_MEMORY: usize = 1 << 20;

impl DockerEngine {
    pub(super) fn export_images(
        &self,
        images: &[EngineImage],
        wanted: &BTreeSet<Digest>,
        sink: &mut dyn ExportSink,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure> {
        if images.is_empty() {
            return Ok(());
        }
        let handles: Vec<&str> = images.iter().map(|image| image.handle.as_str()).collect();
        let mut configs: BTreeSet<ImageId> = images.iter().map(|image| image.id).collect();
        let mut layers = wanted.clone();
        let mut known = lock(&self.legacy_layers).clone();
        let read = self.with_archive(&handles, Some(attempt), |reader| {
            let mut archive = Archive { known: &mut known, scratch: &self.options.scratch };
            archive.read(
                reader,
                &mut |found| match found {
                    Found::Small(digest, bytes) => {
                        if configs.remove(&ImageId(digest)) {
                            sink.config(ImageId(digest), bytes)?;
                        }
                        if layers.remove(&digest) {
                            sink.layer(digest, &mut &*bytes)?;
                        }
                        Ok(())
                    }
                    Found::Layer(digest, tar) => {
                        if layers.remove(&digest) {
                            sink.layer(digest, tar)?;
                        }
                        Ok(())
                    }
                },
                &|digest| wanted.contains(&digest),
            )
        });
        lock(&self.legacy_layers).extend(known);
        read?;
        if let Some(missing) = configs.first() {
            return Err(Failure::infra(format!("the docker daemon's archive lacks the config `{missing}`")));
        }
        if let Some(missing) = layers.first() {
            return Err(Failure::infra(format!("the docker daemon's archive lacks the layer `{missing}`")));
        }
        Ok(())
    }

    /// Reads the archive of the images as it comes. The body arrives on the engine's threads, `read` runs on this one.
    fn with_archive<T>(
        &self,
        handles: &[&str],
        attempt: Option<&Attempt<'_>>,
        read: impl FnOnce(&mut ArchiveReader<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, Failure>>(16);
        let task = self.runtime.spawn(stream_archive(self.dialer.clone(), self.api.clone(), handles.join("&names="), sender));
        let timeout = attempt.and_then(|attempt| attempt.timeout);
        let stop = attempt.map(|attempt| {
            let (cancel, abort) = (attempt.cancel.clone(), task.abort_handle());
            self.runtime.spawn(async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = async { match timeout { Some(timeout) => tokio::time::sleep(timeout).await, None => std::future::pending().await } } => {}
                }
                abort.abort();
            })
        });
        let mut reader = ArchiveReader { receiver, piece: Bytes::new(), read: 0, failure: None, attempt };
        let result = read(&mut reader);
        let stopped = stop.is_some_and(|stop| {
            let over = stop.is_finished();
            stop.abort();
            over
        });
        task.abort();
        match result {
            Err(_) if attempt.is_some_and(|attempt| attempt.cancel.is_cancelled()) => Err(Failure::stopped()),
            Err(_) if stopped => Err(crate::engine::words::timed_out(timeout.unwrap_or_default())),
            Err(failure) => Err(reader.failure.take().unwrap_or(failure)),
            Ok(value) => Ok(value),
        }
    }

    /// The config of what the daemon calls `handle`, out of its archive: for stores whose ids are manifests' digests.
    pub(super) async fn read_config(&self, handle: &str) -> Result<(ImageId, Vec<u8>), Failure> {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, Failure>>(16);
        let task = self.runtime.spawn(stream_archive(self.dialer.clone(), self.api.clone(), handle.to_owned(), sender));
        let root: Digest =
            handle.parse().map_err(|_| Failure::infra(format!("the docker daemon names an image `{handle}`, which is no digest")))?;
        let platform = self.facts.platform.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut reader = ArchiveReader { receiver, piece: Bytes::new(), read: 0, failure: None, attempt: None };
            let mut blobs: HashMap<Digest, Vec<u8>> = HashMap::new();
            let mut archive = tar::Archive::new(&mut reader);
            let broken = |error: io::Error| Failure::infra(format!("the docker daemon's archive: {error}"));
            for entry in archive.entries().map_err(broken)? {
                let mut entry = entry.map_err(broken)?;
                if entry.size() > SMALL || !entry.header().entry_type().is_file() {
                    continue;
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(broken)?;
                blobs.insert(Digest::of(&bytes), bytes);
                // blobs come in the order of their digests, so what is looked for may be complete long before the end
                if let Some(config) = config_below(&blobs, root, &platform, 3)
                    && let Some(bytes) = blobs.remove(&config)
                {
                    return Ok((ImageId(config), bytes));
                }
            }
            Err(Failure::infra(format!("the docker daemon's archive of `{root}` holds no config")))
        });
        let found = found.await.map_err(|error| Failure::infra(error.to_string()))?;
        task.abort();
        found
    }
}

/// Follows an index and a manifest to a config that is among `blobs`.
fn config_below(blobs: &HashMap<Digest, Vec<u8>>, from: Digest, platform: &crate::platform::Platform, depth: u8) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        manifests: Vec<Descriptor>,
        config: Option<Descriptor>,
    }
    #[derive(Deserialize)]
    struct Descriptor {
        digest: Digest,
        platform: Option<DescriptorPlatform>,
    }
    #[derive(Deserialize)]
    struct DescriptorPlatform {
        os: String,
        architecture: String,
    }
    let document: Document = serde_json::from_slice(blobs.get(&from)?).ok()?;
    if let Some(config) = document.config {
        return blobs.contains_key(&config.digest).then_some(config.digest);
    }
    let depth = depth.checked_sub(1)?;
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_none_or(|its| its.os == platform.os() && its.architecture == platform.architecture())
    };
    document.manifests.iter().filter(fits).find_map(|descriptor| config_below(blobs, descriptor.digest, platform, depth))
}

async fn stream_archive(dialer: super::transport::Dialer, api: String, names: String, sender: mpsc::Sender<Result<Bytes, Failure>>) {
    let fail = |text: String| infra_text("read images", &text);
    let work = async {
        let request = Request::get(format!("/{api}/images/get?names={names}")).body(Empty::<Bytes>::new());
        let response = dialer.send(request.map_err(|error| fail(error.to_string()))?).await.map_err(|error| fail(error.to_string()))?;
        if !response.status().is_success() {
            let body = response.into_body().collect().await.map_err(|error| fail(io_error(error).to_string()))?.to_bytes();
            return Err(fail(String::from_utf8_lossy(&body).trim().to_owned()));
        }
        let mut frames = BodyStream::new(response.into_body());
        while let Some(frame) = frames.next().await {
            let data = frame.map_err(|error| fail(io_error(error).to_string()))?.into_data();
            if let Ok(data) = data
                && sender.send(Ok(data)).await.is_err()
            {
                break;
            }
        }
        Ok(())
    };
    if let Err(failure) = work.await {
        drop(sender.send(Err(failure)).await);
    }
}

/// The body of an archive, on a thread that may block.
struct ArchiveReader<'a> {
    receiver: mpsc::Receiver<Result<Bytes, Failure>>,
    piece: Bytes,
    read: u64,
    failure: Option<Failure>,
    attempt: Option<&'a Attempt<'a>>,
}

impl Read for ArchiveReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(failure)) => {
                    let text = failure.message.clone();
                    self.failure = Some(failure);
                    return Err(io::Error::other(text));
                }
                None => return Ok(0),
            }
            self.read += self.piece.len() as u64;
            if let Some(attempt) = self.attempt {
                attempt.output.progress("export", self.read, None);
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Something read from an archive.
enum Found<'a> {
    /// Something small, which may be a config or a layer.
    Small(Digest, &'a [u8]),
    /// A layer's tar.
    Layer(Digest, &'a mut dyn Read),
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Fills the buffer, or as much of it as there is.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// What is known while an archive is read.
struct Archive<'a> {
    /// Diff ids by legacy layer id, and by the digest of a packed blob.
    known: &'a mut HashMap<String, Digest>,
    scratch: &'a std::path::Path,
}

impl Archive<'_> {
    /// Hands out every small file and every layer that `wants` says yes to, each once. Where the name of an entry tells its digest
    /// and nobody wants it, it is skipped unread.
    fn read(
        &mut self,
        reader: &mut dyn Read,
        take: &mut dyn FnMut(Found<'_>) -> Result<(), Failure>,
        wants: &dyn Fn(Digest) -> bool,
    ) -> Result<(), Failure> {
        let broken = |error: io::Error| Failure::infra(format!("the docker daemon's archive: {error}"));
        let mut archive = tar::Archive::new(reader);
        let mut ended = false;
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            ended |= path == "manifest.json" || path == "index.json";
            // a shared layer comes once as a file, and as links to it elsewhere
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let legacy = path.strip_suffix("/layer.tar");
            let blob = path.strip_prefix("blobs/sha256/");
            let mut head = [0; 4];
            let length = read_full(&mut entry, &mut head).map_err(broken)?;
            let size = entry.size();
            let mut whole = head[..length].chain(&mut entry);
            let compression = match legacy {
                None if head.starts_with(&GZIP) => Compression::Gzip,
                None if head == ZSTD => Compression::Zstd,
                _ => Compression::None,
            };
            let packed = compression != Compression::None;
            if legacy.is_none() && !packed && size <= SMALL {
                let mut bytes = Vec::new();
                whole.read_to_end(&mut bytes).map_err(broken)?;
                take(Found::Small(Digest::of(&bytes), &bytes))?;
                continue;
            }
            let known = legacy.or(blob.filter(|_| packed)).and_then(|id| self.known.get(id).copied());
            match known.or_else(|| blob.filter(|_| !packed).and_then(|hex| format!("sha256:{hex}").parse().ok())) {
                Some(digest) if !wants(digest) => {}
                Some(digest) if known.is_none() => {
                    let mut verified = Verified { inner: &mut whole, hasher: Sha256::new(), digest };
                    take(Found::Layer(digest, &mut verified))?;
                }
                _ => {
                    // the digest shows at the end only
                    let (digest, mut file) = self.spool(&mut compression.unpacked(whole).map_err(broken)?)?;
                    if let Some(id) = legacy.or(blob) {
                        self.known.insert(id.to_owned(), digest);
                    }
                    if wants(digest) {
                        file.seek(SeekFrom::Start(0)).map_err(broken)?;
                        take(Found::Layer(digest, &mut file))?;
                    }
                }
            }
        }
        if ended { Ok(()) } else { Err(Failure::infra("the docker daemon's archive ends early")) }
    }

    fn spool(&self, reader: &mut dyn Read) -> Result<(Digest, tempfile::SpooledTempFile), Failure> {
        let mut file = tempfile::SpooledTempFile::new_in(IN_MEMORY, self.scratch);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = reader.read(&mut buffer).map_err(|error| Failure::infra(format!("the docker daemon's archive: {error}")))?;
            if count == 0 {
                return Ok((Digest::from_bytes(hasher.finalize().into()), file));
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(|error| infra_text("keep a layer while it is read", &error.to_string()))?;
        }
    }
}

/// Fails at the end when the bytes are not what the name said.
struct Verified<R> {
    inner: R,
    hasher: Sha256,
    digest: Digest,
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && Digest::from_bytes(self.hasher.clone().finalize().into()) != self.digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("blob `{}` has other bytes", self.digest)));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        for (path, target) in links {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, target).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(bytes: &[u8], wanted: &[&[u8]], known: &mut HashMap<String, Digest>) -> (Vec<String>, Result<(), Failure>) {
        let wanted: BTreeSet<Digest> = wanted.iter().map(|bytes| Digest::of(bytes)).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let mut take = |found: Found<'_>| {
            match found {
                Found::Small(digest, bytes) => {
                    assert_eq!(Digest::of(bytes), digest);
                    seen.push(format!("small {}", bytes.len()));
                }
                Found::Layer(digest, tar) => {
                    let mut bytes = Vec::new();
                    tar.read_to_end(&mut bytes).map_err(|error| Failure::infra(error.to_string()))?;
                    assert_eq!(Digest::of(&bytes), digest);
                    seen.push(format!("layer {}", bytes.len()));
                }
            }
            Ok(())
        };
        let result = Archive { known, scratch: folder.path() }.read(&mut &*bytes, &mut take, &|digest| wanted.contains(&digest));
        (seen, result)
    }

    #[test]
    fn legacy_layers_come_once_and_are_remembered() {
        let (one, two) = (vec![1; 3 << 20], vec![2; 10]);
        let bytes = archive(
            &[("aa/layer.tar", &one), ("bb/layer.tar", &two), ("cc.json", b"{}"), ("manifest.json", b"[]")],
            &[("dd/layer.tar", "../aa/layer.tar")],
        );
        let mut known = HashMap::new();
        assert_eq!(read(&bytes, &[&one], &mut known).0, ["layer 3145728", "small 2", "small 2"]);
        assert_eq!(known, HashMap::from([("aa".to_owned(), Digest::of(&one)), ("bb".to_owned(), Digest::of(&two))]));
        assert_eq!(read(&bytes, &[&two], &mut known).0, ["layer 10", "small 2", "small 2"]);
    }

    #[test]
    fn oci_blobs_are_checked() {
        let big = vec![3; 5 << 20];
        let name = format!("blobs/sha256/{}", Digest::of(&big).hex());
        let good = archive(&[(&name, &big), ("blobs/sha256/aa", b"{}"), ("index.json", b"{}")], &[]);
        assert_eq!(read(&good, &[&big], &mut HashMap::new()).0, ["layer 5242880", "small 2", "small 2"]);
        assert_eq!(read(&good, &[], &mut HashMap::new()).0, ["small 2", "small 2"]);
        let mut other = big.clone();
        other[7] = 0;
        let bad = archive(&[(&name, &other), ("index.json", b"{}")], &[]);
        assert!(read(&bad, &[&big], &mut HashMap::new()).1.unwrap_err().message.ends_with("has other bytes"));
        let short = archive(&[("aa/layer.tar", b"x")], &[]);
        assert_eq!(read(&short, &[], &mut HashMap::new()).1.unwrap_err().message, "the docker daemon's archive ends early");
    }

    #[test]
    fn packed_blobs_count_as_what_they_hold() {
        let tar = vec![9; 2 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        for packed in [gzip.finish().unwrap(), zstd::stream::encode_all(tar.as_slice(), 1).unwrap()] {
            let name = format!("blobs/sha256/{}", Digest::of(&packed).hex());
            let bytes = archive(&[(&name, &packed), ("index.json", b"{}")], &[]);
            let mut known = HashMap::new();
            assert_eq!(read(&bytes, &[&tar], &mut known).0, ["layer 2097152", "small 2"]);
            assert_eq!(known, HashMap::from([(Digest::of(&packed).hex(), Digest::of(&tar))]));
            assert_eq!(read(&bytes, &[&tar], &mut known).0, ["layer 2097152", "small 2"]);
            assert_eq!(read(&bytes, &[], &mut known).0, ["small 2"]);
        }
        let broken = archive(&[("blobs/sha256/00", &[0x28, 0xb5, 0x2f, 0xfd, 0])], &[]);
        assert!(read(&broken, &[], &mut HashMap::new()).1.is_err());
    }

    #[test]
    fn configs_are_found_below_an_index() {
        let platform = "linux/amd64".parse().unwrap();
        let config = b"{\"rootfs\":{}}".to_vec();
        let manifest = format!(r#"{{"config":{{"digest":"{}"}},"layers":[]}}"#, Digest::of(&config)).into_bytes();
        let attestation = Digest::of(b"attestation");
        let index = format!(
            r#"{{"manifests":[{{"digest":"{attestation}","platform":{{"os":"unknown","architecture":"unknown"}}}},
                {{"digest":"{}","platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
            Digest::of(&manifest)
        )
        .into_bytes();
        let root = Digest::of(&index);
        let mut blobs: HashMap<Digest, Vec<u8>> = [index, manifest].into_iter().map(|bytes| (Digest::of(&bytes), bytes)).collect();
        assert_eq!(config_below(&blobs, root, &platform, 3), None);
        blobs.insert(Digest::of(&config), config.clone());
        assert_eq!(config_below(&blobs, root, &platform, 3), Some(Digest::of(&config)));
    }
}
