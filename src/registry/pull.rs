//! What registries hold: manifests, the image that a reference means on a platform, and images to be read. Moves nothing.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{ACCEPT as ACCEPT_HEADER, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use super::auth::Scope;
use super::client::{Client, Inner};
use super::download::{BlobReader, Download, falls_through};
use super::fault::{Fault, Result as FaultResult};
use super::manifest::{
    ACCEPT, CONFIG_LIMIT, Descriptor, Document, MANIFEST_LIMIT, config_platform, fitness, layer_blobs, parse, platforms, select,
};
use super::transport::{Call, Reply};
use crate::cancel::Cancel;
use crate::digest::{Digest, ImageId};
use crate::failure::{Failure, FailureClass, Retry};
use crate::image::{Compression, ImageSource, LayerBlob};
use crate::platform::Platform;
use crate::reference::Reference;

/// A manifest or index, exactly as the registry gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its `Content-Type`.
    pub media_type: String,
    /// The digest of `bytes`, checked against the reference's and the registry's where they tell one.
    pub digest: Digest,
}

/// What an outside reference means on one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedBase {
    /// As asked.
    pub reference: Reference,
    /// The index it went through, if any.
    pub index: Option<Digest>,
    /// The platform's own manifest.
    pub manifest: Digest,
    /// That manifest's media type.
    pub media_type: String,
    /// What the image is for: the platform asked for, or a lower variant.
    pub platform: Platform,
    /// Its image id.
    pub image_id: ImageId,
    /// Its config, verified.
    pub config: Vec<u8>,
    /// Its layers, base first.
    pub layers: Vec<LayerBlob>,
}

/// An image in a registry, ready to be read.
pub struct RemoteImage {
    inner: Arc<Inner>,
    sources: Vec<Reference>,
    config: Vec<u8>,
    layers: Vec<LayerBlob>,
    manifest: Digest,
    cancel: Cancel,
}

impl RemoteImage {
    /// The digest of its manifest.
    pub fn manifest(&self) -> Digest {
        self.manifest
    }
}

impl ImageSource for RemoteImage {
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn is_remote(&self) -> bool {
        true
    }

    /// The reader takes a broken stream up again, and blocks: read it outside asynchronous code. Its errors carry a
    /// [`Failure`] that [`super::failure_of`] takes out.
    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        let layer = self.layers.get(index).ok_or_else(|| Failure::infra(format!("the image has no layer {index}")).retry(Retry::Never))?;
        let download = Download::new(self.inner.clone(), self.sources.clone(), layer.digest, layer.size);
        Ok(Box::new(BlobReader::open(download, self.cancel.clone())?))
    }
}

impl Client {
    /// What a name points at in its own registry, no mirror asked; `None` where it does not exist. One HEAD, and a GET
    /// only where the registry tells no digest (distribution-spec, "Checking if content exists in the registry").
    pub fn head_manifest(&self, reference: &Reference, cancel: &Cancel) -> Result<Option<Descriptor>, Failure> {
        self.block(cancel, self.inner.head(reference, Scope::pull(reference.repository())))
    }

    /// What an outside name points at, mirrors asked first; `None` where nobody has it.
    pub fn head_base(&self, reference: &Reference, cancel: &Cancel) -> Result<Option<Descriptor>, Failure> {
        self.block(cancel, async {
            let found = self.inner.first_source(reference, |source| async move {
                let found = self.inner.head(&source, Scope::pull(source.repository())).await?;
                found.ok_or_else(|| missing(&source))
            });
            match found.await {
                Err(fault) if fault.is_status(StatusCode::NOT_FOUND) => Ok(None),
                found => found.map(Some),
            }
        })
    }

    /// The manifest or index under a name or digest in its own registry, verified.
    pub fn manifest(&self, reference: &Reference, cancel: &Cancel) -> Result<Manifest, Failure> {
        self.block(cancel, self.inner.manifest(reference, Scope::pull(reference.repository())))
    }

    /// Resolves an outside reference for a platform; mirrors are asked first, in order, and their failures fall through.
    ///
    /// # Errors
    /// Infra where nobody answers; a step failure where it does not exist, there is no image for the platform (the message lists
    /// what there is) or what is there is none that can be used.
    pub fn resolve(&self, reference: &Reference, platform: &Platform, cancel: &Cancel) -> Result<ResolvedBase, Failure> {
        let resolved = self.inner.first_source(reference, |source| self.inner.clone().resolve(reference, source, platform));
        self.block(cancel, async { resolved.await.map_err(asked_for) })
    }

    /// The image under a manifest digest, or under a name that is no index: config read and verified, layers ready.
    /// `cancel` also ends the readers of its layers.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn image(&self, reference: &Reference, cancel: &Cancel) -> Result<RemoteImage, Failure> {
        let (manifest, config, layers) = self.block(cancel, async {
            let found = self.inner.first_source(reference, |source| async move {
                let manifest = self.inner.manifest(&source, Scope::pull(source.repository())).await?;
                match parse(&manifest.bytes).map_err(|problem| unusable(reference, &problem))? {
                    Document::Index(_) => Err(unusable(reference, "it is an index of several images, not one image")),
                    Document::Image { config, layers } => {
                        let (config, layers) = self.inner.clone().read_config(reference, &source, &config, &layers).await?;
                        Ok((manifest.digest, config, layers))
                    }
                }
            });
            found.await.map_err(asked_for)
        })?;
        Ok(RemoteImage {
            inner: self.inner.clone(),
            sources: self.inner.sources(reference)?,
            config,
            layers,
            manifest,
            cancel: cancel.clone(),
        })
    }

    /// A resolved base, ready to be read; asks nothing before a layer is opened.
    pub fn base_image(&self, base: &ResolvedBase, cancel: &Cancel) -> Result<RemoteImage, Failure> {
        Ok(RemoteImage {
            inner: self.inner.clone(),
            sources: self.inner.sources(&base.reference)?,
            config: base.config.clone(),
            layers: base.layers.clone(),
            manifest: base.manifest,
            cancel: cancel.clone(),
        })
    }
}

fn missing(reference: &Reference) -> Fault {
    Fault {
        kind: super::fault::Kind::Status(StatusCode::NOT_FOUND),
        codes: vec!["MANIFEST_UNKNOWN".into()],
        failure: Failure::infra(format!("`{reference}` does not exist")).retry(Retry::Never).into(),
    }
}

fn unusable(reference: &Reference, problem: &str) -> Fault {
    Fault::other(Failure::step(format!("`{reference}` cannot be used: {problem}")))
}

/// An image that someone asks for and nobody has: the user's to mend, no registry's fault.
fn asked_for(mut fault: Fault) -> Fault {
    if fault.is_status(StatusCode::NOT_FOUND) {
        fault.failure.class = FailureClass::Step;
    }
    fault
}

impl Inner {
    /// The repository of `reference` on each mirror of its host, then itself.
    pub(super) fn sources(&self, reference: &Reference) -> FaultResult<Vec<Reference>> {
        let mut sources = Vec::new();
        for mirror in self.transport.pools().mirrors(reference.host()) {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let moved = reference.moved_to(host, prefix.trim_end_matches('/'));
            sources.push(moved.map_err(|error| Fault::never(format!("mirror `{mirror}` of `{}`: {error}", reference.host())))?);
        }
        sources.push(reference.clone());
        Ok(sources)
    }

    /// The first source's success; the failure is the host's own, with those of the mirrors as a hint.
    async fn first_source<T, F: Future<Output = FaultResult<T>>>(
        &self,
        reference: &Reference,
        mut ask: impl FnMut(Reference) -> F,
    ) -> FaultResult<T> {
        let mut sources = self.sources(reference)?;
        let own = sources.pop().unwrap_or_else(|| reference.clone());
        let mut passed = Vec::new();
        for mirror in sources {
            match ask(mirror).await {
                Err(fault) if falls_through(&fault) => passed.push(fault.failure.message),
                outcome => return outcome,
            }
        }
        ask(own).await.map_err(|mut fault| {
            if !passed.is_empty() {
                let mirrors = format!("its mirrors failed too: {}", passed.join("; "));
                fault.failure.hint = Some(fault.failure.hint.map_or(mirrors.clone(), |hint| format!("{hint}; {mirrors}")));
            }
            fault
        })
    }

    async fn ask_manifest(&self, method: Method, reference: &Reference, scope: Scope, doing: &str) -> FaultResult<Option<Reply>> {
        let tail = reference.digest().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), |digest| digest.to_string());
        let url = self.transport.pools().url(reference.host(), &format!("{}/manifests/{tail}", reference.repository()))?;
        let accept = HeaderValue::from_str(&ACCEPT.join(", ")).map_err(|_| Fault::never(doing))?;
        let call = Call::new(method, reference.host(), url, scope, doing).header(ACCEPT_HEADER, accept);
        let reply = self.transport.send(&call).await?;
        match reply.status {
            StatusCode::OK => Ok(Some(reply)),
            StatusCode::NOT_FOUND => reply.finish(doing).await.map(|()| None),
            _ => Err(reply.into_fault(doing).await),
        }
    }

    pub(super) async fn head(&self, reference: &Reference, scope: Scope) -> FaultResult<Option<Descriptor>> {
        let doing = format!("look up `{reference}`");
        let Some(reply) = self.ask_manifest(Method::HEAD, reference, scope.clone(), &doing).await? else { return Ok(None) };
        let digest = reply.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let size = reply.header(CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        let media_type = reply.header(CONTENT_TYPE.as_str()).map(str::to_owned);
        reply.finish(&doing).await?;
        if let (Some(digest), Some(size), Some(media_type)) = (digest, size, media_type) {
            return Ok(Some(Descriptor { media_type, digest, size }));
        }
        match self.manifest(reference, scope).await {
            Ok(Manifest { bytes, media_type, digest }) => Ok(Some(Descriptor { media_type, digest, size: bytes.len() as u64 })),
            Err(fault) if fault.is_status(StatusCode::NOT_FOUND) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn manifest(&self, reference: &Reference, scope: Scope) -> FaultResult<Manifest> {
        let doing = format!("read manifest of `{reference}`");
        let reply = self.ask_manifest(Method::GET, reference, scope, &doing).await?.ok_or_else(|| missing(reference))?;
        let told = reply.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let media_type = reply.header(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        let bytes = reply.bytes(MANIFEST_LIMIT, &doing).await?;
        let digest = Digest::of(&bytes);
        match reference.digest().or(told) {
            // a proxy that cuts bodies short does this too: another attempt may pass
            Some(expected) if expected != digest => {
                Err(Fault::other(Failure::infra(format!("{doing}: its bytes hash to {digest}, not to {expected}"))))
            }
            _ => Ok(Manifest { bytes, media_type, digest }),
        }
    }

    async fn resolve(self: Arc<Self>, asked: &Reference, source: Reference, platform: &Platform) -> FaultResult<ResolvedBase> {
        let scope = Scope::pull(source.repository());
        let first = self.manifest(&source, scope.clone()).await?;
        let (index, manifest) = match parse(&first.bytes).map_err(|problem| unusable(asked, &problem))? {
            Document::Image { .. } => (None, first),
            Document::Index(entries) => {
                let Some(entry) = select(&entries, platform).into_iter().next() else {
                    return Err(not_for(asked, platform, &platforms(&entries)));
                };
                (Some(first.digest), self.manifest(&source.with_digest(entry.descriptor.digest), scope).await?)
            }
        };
        let Document::Image { config, layers } = parse(&manifest.bytes).map_err(|problem| unusable(asked, &problem))? else {
            return Err(unusable(asked, "its index names another index"));
        };
        let image_id = ImageId(config.digest);
        let (config, layers) = self.read_config(asked, &source, &config, &layers).await?;
        let offered = config_platform(&config).ok_or_else(|| unusable(asked, "its config names no platform"))?;
        // an index has said what its images are for, and configs of old ones leave the variant out
        if index.is_none() && fitness(&offered, platform).is_none() {
            return Err(not_for(asked, platform, &offered.to_string()));
        }
        let (reference, media_type) = (asked.clone(), manifest.media_type);
        Ok(ResolvedBase { reference, index, manifest: manifest.digest, media_type, platform: offered, image_id, config, layers })
    }

    /// The config's bytes, verified, and the layers with their diff ids.
    async fn read_config(
        self: Arc<Self>,
        asked: &Reference,
        source: &Reference,
        config: &Descriptor,
        layers: &[(Descriptor, Compression)],
    ) -> FaultResult<(Vec<u8>, Vec<LayerBlob>)> {
        let bytes = Download::new(self, vec![source.clone()], config.digest, config.size).whole(CONFIG_LIMIT).await?;
        let layers = layer_blobs(layers, &bytes).map_err(|problem| unusable(asked, &problem))?;
        Ok((bytes, layers))
    }
}

fn not_for(reference: &Reference, platform: &Platform, there_is: &str) -> Fault {
    Fault::other(
        Failure::step(format!("`{reference}` has no image for {platform}; there is: {there_is}"))
            .hint("set `platform` where this base is used, or take another base"),
    )
}
