//! One image into one repository: every layer by the cheapest way there is, then the config, then the manifest by its
//! digest (DESIGN §7). Moves no name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::client::{Client, Inner};
use super::download::falls_through;
use super::fault::{Fault, Result as FaultResult};
use super::flight::locked;
use super::manifest::{MEDIA_TYPE_MANIFEST, image_manifest};
use super::upload::{BlobFrom, MountOutcome, OpenedUpload, Progress, Source};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::image::{Compression, LayerBlob};
use crate::reference::Reference;

/// A blob that lies in a registry, as the table of known blobs has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBlob {
    /// Where; tag and digest of the reference do not count.
    pub repository: Reference,
    /// Digest of the packed bytes.
    pub digest: Digest,
    /// Their length.
    pub size: u64,
    /// How they are packed.
    pub compression: Compression,
}

/// A layer packed into a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedLayer {
    /// The file; it stays until the upload is over.
    pub path: PathBuf,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Their length.
    pub size: u64,
    /// How they are packed.
    pub compression: Compression,
}

/// Where layers can be had.
pub trait LayerProvider {
    /// Where a layer is known to lie, the likeliest first. Not asked about again in one upload.
    fn known(&self, diff_id: Digest) -> Vec<KnownBlob>;

    /// The layer as a file, made now if need be. Only asked when no known blob can be had.
    fn packed(&self, diff_id: Digest) -> Result<PackedLayer, Failure>;

    /// Whether a blob that another image brought will do for this one's layer of the same diff id.
    fn fits(&self, _blob: Digest) -> bool {
        true
    }
}

/// What an upload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Digest of the manifest, which is in the repository now.
    pub manifest_digest: Digest,
    /// Its bytes, to be put under names.
    pub manifest_bytes: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
    /// Where each layer lies now, by diff id, base first.
    pub blobs: Vec<(Digest, KnownBlob)>,
    /// Bytes of blobs that were sent; manifests are not counted.
    pub bytes_sent: u64,
    /// Blobs that were mounted from another repository.
    pub mounted: usize,
    /// Blobs that were in the repository already.
    pub present: usize,
    /// Blobs that were uploaded, the config among them.
    pub uploaded: usize,
}

/// Brings one image into `target` (its tag and digest do not count): blobs by mount, from another registry byte for byte,
/// or from the provider's files; then the manifest under its digest. What is there already is not sent again.
///
/// # Errors
/// Of the registry, or of the provider.
pub fn upload_image(
    client: &Client,
    target: &Reference,
    config: &[u8],
    diff_ids: &[Digest],
    provider: &dyn LayerProvider,
    cancel: &Cancel,
    progress: Progress<'_>,
) -> Result<Uploaded, Failure> {
    let publishing = Publishing { inner: &client.inner, target, provider, cancel, progress };
    publishing.run(config, diff_ids).map_err(Failure::from)
}

/// Blocks step by step and not as a whole: the provider may start engines and clients of its own.
struct Publishing<'a> {
    inner: &'a Arc<Inner>,
    cancel: &'a Cancel,
    target: &'a Reference,
    provider: &'a dyn LayerProvider,
    progress: Progress<'a>,
}

#[derive(Default)]
struct Tally {
    bytes_sent: u64,
    mounted: usize,
    present: usize,
    uploaded: usize,
}

impl Publishing<'_> {
    fn block<T>(&self, work: impl Future<Output = FaultResult<T>>) -> FaultResult<T> {
        self.inner.block(self.cancel, work)
    }

    /// Whether the target has a blob; asked once for each.
    fn finds(&self, digest: Digest, absent: &mut BTreeSet<Digest>, tally: &mut Tally) -> FaultResult<bool> {
        if absent.contains(&digest) {
            return Ok(false);
        }
        let found = self.block(self.inner.has_blob(self.target, digest))?.is_some();
        if found {
            tally.present += 1;
        } else {
            absent.insert(digest);
        }
        Ok(found)
    }

    /// Sends a blob into the target.
    fn send(&self, source: Source, opened: Option<OpenedUpload>, tally: &mut Tally) -> FaultResult<()> {
        tally.bytes_sent += self.block(self.inner.push_blob(self.target, source, opened, self.progress))?;
        tally.uploaded += 1;
        Ok(())
    }

    fn run(&self, config: &[u8], diff_ids: &[Digest]) -> FaultResult<Uploaded> {
        let mut known: BTreeMap<Digest, Vec<KnownBlob>> = BTreeMap::new();
        for diff_id in diff_ids {
            known.entry(*diff_id).or_insert_with(|| self.provider.known(*diff_id));
        }
        if let Some(uploaded) = self.already_there(config, diff_ids, &known)? {
            return Ok(uploaded);
        }
        let mut tally = Tally::default();
        let mut placed: BTreeMap<Digest, KnownBlob> = BTreeMap::new();
        for (diff_id, candidates) in &known {
            placed.insert(*diff_id, self.place(*diff_id, candidates, &mut tally)?);
        }
        self.place_config(config, &mut tally)?;
        let mut uploaded = self.describe(config, diff_ids, &placed);
        let at = self.target.with_digest(uploaded.manifest_digest);
        self.block(self.inner.put_manifest(&at, &uploaded.manifest_bytes, uploaded.media_type))?;
        Tally { bytes_sent: uploaded.bytes_sent, mounted: uploaded.mounted, present: uploaded.present, uploaded: uploaded.uploaded } =
            tally;
        Ok(uploaded)
    }

    /// Where every layer is known to lie in the target, the manifest is known too, and one HEAD may be all.
    fn already_there(&self, config: &[u8], diff_ids: &[Digest], known: &BTreeMap<Digest, Vec<KnownBlob>>) -> FaultResult<Option<Uploaded>> {
        let here = |blobs: &Vec<KnownBlob>| blobs.iter().find(|blob| blob.repository.name() == self.target.name()).cloned();
        let placed = known.iter().map(|(diff_id, blobs)| Some((*diff_id, here(blobs)?))).collect::<Option<BTreeMap<_, _>>>();
        let Some(placed) = placed.filter(|placed| !placed.is_empty()) else { return Ok(None) };
        let mut uploaded = self.describe(config, diff_ids, &placed);
        uploaded.present = placed.len() + 1;
        let at = self.target.with_digest(uploaded.manifest_digest);
        let found = self.block(self.inner.head(&at, super::auth::Scope::push(self.target.repository())))?;
        Ok(found.filter(|found| found.digest == uploaded.manifest_digest).map(|_| uploaded))
    }

    fn describe(&self, config: &[u8], diff_ids: &[Digest], placed: &BTreeMap<Digest, KnownBlob>) -> Uploaded {
        let blobs: Vec<(Digest, KnownBlob)> =
            diff_ids.iter().filter_map(|diff_id| Some((*diff_id, placed.get(diff_id)?.clone()))).collect();
        let layers: Vec<LayerBlob> = blobs
            .iter()
            .map(|(diff_id, blob)| LayerBlob { diff_id: *diff_id, digest: blob.digest, size: blob.size, compression: blob.compression })
            .collect();
        let manifest_bytes = image_manifest(config, &layers);
        Uploaded {
            manifest_digest: Digest::of(&manifest_bytes),
            manifest_bytes,
            media_type: MEDIA_TYPE_MANIFEST,
            blobs,
            bytes_sent: 0,
            mounted: 0,
            present: 0,
            uploaded: 0,
        }
    }

    /// Sees to it that a layer is in the target. One that its registry is not known to have goes there once, however many images
    /// bring it at this time.
    fn place(&self, diff_id: Digest, candidates: &[KnownBlob], tally: &mut Tally) -> FaultResult<KnownBlob> {
        if candidates.iter().any(|blob| blob.repository.host() == self.target.host()) {
            return self.place_from(diff_id, candidates, tally);
        }
        let place = self.inner.flights.place(self.target.host(), diff_id);
        let mut placed = locked(&place);
        if let Some(blob) = placed.clone().filter(|blob| self.provider.fits(blob.digest)) {
            drop(placed);
            let candidates: Vec<KnownBlob> = [blob].into_iter().chain(candidates.iter().cloned()).collect();
            return self.place_from(diff_id, &candidates, tally);
        }
        let blob = self.place_from(diff_id, candidates, tally)?;
        *placed = Some(blob.clone());
        Ok(blob)
    }

    /// Brings a layer into the target from where it is known to lie, else from the provider.
    fn place_from(&self, diff_id: Digest, candidates: &[KnownBlob], tally: &mut Tally) -> FaultResult<KnownBlob> {
        let is_here = |blob: &&KnownBlob| blob.repository.name() == self.target.name();
        let is_near = |blob: &&KnownBlob| blob.repository.host() == self.target.host();
        let mut absent = BTreeSet::new();
        if let Some(blob) = candidates.iter().find(is_here)
            && self.finds(blob.digest, &mut absent, tally)?
        {
            return Ok(self.here(blob.digest, blob.size, blob.compression));
        }
        let elsewhere = || candidates.iter().filter(|blob| !is_here(blob));
        let mut opened = None;
        if let Some(blob) = elsewhere().find(is_near) {
            match self.block(self.inner.mount_blob(self.target, blob.digest, &blob.repository))? {
                MountOutcome::Mounted => {
                    tally.mounted += 1;
                    return Ok(self.here(blob.digest, blob.size, blob.compression));
                }
                MountOutcome::UploadOpened(upload) => {
                    absent.insert(blob.digest);
                    opened = Some(upload);
                }
                MountOutcome::Refused => {}
            }
        }
        for blob in elsewhere() {
            if self.finds(blob.digest, &mut absent, tally)? {
                self.abandon(opened.take())?;
                return Ok(self.here(blob.digest, blob.size, blob.compression));
            }
            match self.block(self.inner.open_source(blob.digest, blob.size, BlobFrom::Repository(&blob.repository))) {
                Ok(source) => {
                    self.send(source, opened.take(), tally)?;
                    return Ok(self.here(blob.digest, blob.size, blob.compression));
                }
                // lost, busy, or not ours to read; the layer can still be had from the engine
                Err(fault) if falls_through(&fault) => {}
                Err(fault) => return Err(fault),
            }
        }
        let packed = self.provider.packed(diff_id).map_err(Fault::other)?;
        if self.finds(packed.digest, &mut absent, tally)? {
            self.abandon(opened.take())?;
        } else {
            let source = self.block(self.inner.open_source(packed.digest, packed.size, BlobFrom::File(&packed.path)))?;
            self.send(source, opened.take(), tally)?;
        }
        Ok(self.here(packed.digest, packed.size, packed.compression))
    }

    fn abandon(&self, opened: Option<OpenedUpload>) -> FaultResult<()> {
        let Some(upload) = opened else { return Ok(()) };
        self.block(async {
            self.inner.cancel_upload(self.target, &upload).await;
            Ok(())
        })
    }

    fn place_config(&self, config: &[u8], tally: &mut Tally) -> FaultResult<()> {
        let digest = Digest::of(config);
        if self.finds(digest, &mut BTreeSet::new(), tally)? {
            return Ok(());
        }
        let source = self.block(self.inner.open_source(digest, config.len() as u64, BlobFrom::Bytes(config)))?;
        self.send(source, None, tally)
    }

    fn here(&self, digest: Digest, size: u64, compression: Compression) -> KnownBlob {
        KnownBlob { repository: repository_of(self.target), digest, size, compression }
    }
}

/// The repository alone, so that equal places compare equal.
fn repository_of(reference: &Reference) -> Reference {
    reference.with_tag("latest").unwrap_or_else(|_| reference.clone())
}
