//! An OCI image layout folder as an image (image-spec, image-layout.md). Blobs are found by digest alone, so no path in
//! the layout is ever followed, and every byte is verified. Knows no registry.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::failure::Failure;
use crate::image::{Compression, ImageSource, LayerBlob};
use crate::platform::Platform;
use crate::registry::fault::into_io;
use crate::registry::manifest::{
    CONFIG_LIMIT, Descriptor, Document, IndexEntry, MANIFEST_LIMIT, config_platform, fitness, layer_blobs, parse, platforms, select,
};

const DEEPEST: usize = 4;

/// An image in an OCI layout folder.
#[derive(Debug)]
pub struct OciLayout {
    folder: PathBuf,
    manifest: Digest,
    config: Vec<u8>,
    layers: Vec<LayerBlob>,
}

impl OciLayout {
    /// Opens the layout's image for `platform`; config and manifests are read and verified, layers when they are read.
    ///
    /// # Errors
    /// A step failure where the folder is no layout, holds no image or several for the platform, or is damaged.
    pub fn open(folder: &Path, platform: &Platform) -> Result<Self, Failure> {
        let shown = folder.display();
        let problem = |problem: &str| Failure::step(format!("OCI layout `{shown}`: {problem}"));
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let marker = read_file(&folder.join("oci-layout"), 1 << 10).map_err(|error| problem(&error))?;
        let marker: Marker = serde_json::from_slice(&marker).map_err(|error| problem(&format!("`oci-layout` is not readable: {error}")))?;
        if marker.image_layout_version.split('.').next() != Some("1") {
            return Err(problem(&format!("it has version `{}`, igraph reads 1.0.0", marker.image_layout_version)));
        }
        let index = read_file(&folder.join("index.json"), MANIFEST_LIMIT as u64).map_err(|error| problem(&error))?;
        let entries = match parse(&index).map_err(|said| problem(&said))? {
            Document::Index(entries) => entries,
            Document::Image { .. } => return Err(problem("`index.json` is a manifest, not an index")),
        };
        let mut found = Vec::new();
        let mut offered = Vec::new();
        gather(folder, &entries, platform, DEEPEST, &mut found, &mut offered).map_err(|error| problem(&error))?;
        found.sort_by_key(|candidate| (candidate.distance, candidate.manifest.digest));
        found.dedup_by_key(|candidate| candidate.manifest.digest);
        let best = found.first().map(|candidate| candidate.distance);
        found.retain(|candidate| Some(candidate.distance) == best);
        let mut candidates = found.into_iter();
        let Some(chosen) = candidates.next() else {
            let there_is = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            return Err(problem(&format!("it has no image for {platform}; there is: {there_is}")));
        };
        let others: Vec<Candidate> = candidates.collect();
        if !others.is_empty() {
            let names = std::iter::once(&chosen).chain(&others).map(|candidate| match &candidate.name {
                Some(name) => format!("`{name}`"),
                None => candidate.manifest.digest.short(),
            });
            let mut names: Vec<String> = names.collect();
            names.sort();
            return Err(problem(&format!("it has {} images for {platform}: {}", names.len(), names.join(", ")))
                .hint("make a layout of one of them: `skopeo copy oci:DIR:NAME oci:DIR2`"));
        }
        let layers = layer_blobs(&chosen.layers, &chosen.config).map_err(|said| problem(&said))?;
        Ok(Self { folder: folder.to_owned(), manifest: chosen.manifest.digest, config: chosen.config, layers })
    }

    /// The digest of the image's manifest.
    pub fn manifest(&self) -> Digest {
        self.manifest
    }
}

impl ImageSource for OciLayout {
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        let layer = self.layers.get(index).ok_or_else(|| Failure::step(format!("the image has no layer {index}")))?;
        let path = blob_path(&self.folder, layer.digest);
        let file = File::open(&path).map_err(|error| Failure::step(format!("cannot read `{}`: {error}", path.display())))?;
        Ok(Box::new(Verified::new(file, layer.digest, layer.size, path)))
    }
}

struct Candidate {
    manifest: Descriptor,
    name: Option<String>,
    distance: u32,
    config: Vec<u8>,
    layers: Vec<(Descriptor, Compression)>,
}

/// All images of an index and the indexes in it that run on `platform`; `offered` takes the platforms of the others.
fn gather(
    folder: &Path,
    entries: &[IndexEntry],
    platform: &Platform,
    depth: usize,
    found: &mut Vec<Candidate>,
    offered: &mut Vec<String>,
) -> Result<(), String> {
    // an index that tells platforms decides by them, before anything else is opened
    let named = entries.iter().any(|entry| entry.platform.is_some());
    let chosen: Vec<&IndexEntry> =
        if named { select(entries, platform) } else { entries.iter().filter(|entry| !entry.has_platform).collect() };
    if named && chosen.is_empty() {
        offered.push(platforms(entries));
    }
    for entry in chosen {
        let bytes = read_blob(folder, entry.descriptor.digest, MANIFEST_LIMIT as u64)?;
        match parse(&bytes).map_err(|problem| format!("{}: {problem}", entry.descriptor.digest.short()))? {
            Document::Index(_) if depth == 0 => return Err(format!("its indexes are nested more than {DEEPEST} deep")),
            Document::Index(inner) => gather(folder, &inner, platform, depth - 1, found, offered)?,
            Document::Image { config, layers } => {
                let config = read_blob(folder, config.digest, CONFIG_LIMIT)?;
                let own = entry.platform.clone().or_else(|| config_platform(&config));
                match own.as_ref().and_then(|own| fitness(own, platform)) {
                    Some(distance) => {
                        let (manifest, name) = (entry.descriptor.clone(), entry.name.clone());
                        found.push(Candidate { manifest, name, distance, config, layers });
                    }
                    None => offered.push(own.map_or_else(|| "unknown".to_owned(), |own| own.to_string())),
                }
            }
        }
    }
    Ok(())
}

fn blob_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join("blobs").join("sha256").join(digest.hex())
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > limit => Err(format!("`{name}` is longer than {limit} bytes")),
        Ok(bytes) => Ok(bytes),
        Err::<_, std::io::Error>(error) => Err(format!("cannot read `{name}`: {error}")),
    }
}

fn read_blob(folder: &Path, digest: Digest, limit: u64) -> Result<Vec<u8>, String> {
    let bytes = read_file(&blob_path(folder, digest), limit)?;
    let found = Digest::of(&bytes);
    if found == digest { Ok(bytes) } else { Err(format!("blob {digest} is damaged: its bytes hash to {found}")) }
}

/// A file that must have this size and digest; the error comes at its end.
pub(super) struct Verified {
    file: File,
    digest: Digest,
    left: u64,
    hasher: Sha256,
    path: PathBuf,
}

impl Verified {
    pub(super) fn new(file: File, digest: Digest, size: u64, path: PathBuf) -> Self {
        Self { file, digest, left: size, hasher: Sha256::new(), path }
    }
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.file.read(buffer)?;
        let damaged = |what: &str| Err(into_io(Failure::step(format!("`{}` is damaged: {what}", self.path.display()))));
        if length == 0 {
            let found = Digest::from_bytes(self.hasher.clone().finalize().into());
            return if self.left == 0 && found == self.digest { Ok(0) } else { damaged(&format!("its bytes hash to {found}")) };
        }
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => return damaged("it is longer than its descriptor says"),
        }
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::image_manifest;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
            std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
            Self { folder }
        }

        fn blob(&self, bytes: &[u8]) -> Digest {
            let digest = Digest::of(bytes);
            std::fs::write(blob_path(self.folder.path(), digest), bytes).unwrap();
            digest
        }

        /// An image of one layer of these bytes: its manifest's digest.
        fn image(&self, architecture: &str, layer: &[u8]) -> Digest {
            let digest = self.blob(layer);
            let config =
                format!(r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
            self.blob(config.as_bytes());
            let layer = LayerBlob { diff_id: digest, digest, size: layer.len() as u64, compression: Compression::None };
            self.blob(&image_manifest(config.as_bytes(), &[layer]))
        }

        fn index(entries: &[(Digest, &str)]) -> String {
            let entries: Vec<String> =
                entries.iter().map(|(digest, more)| format!(r#"{{"mediaType":"x","digest":"{digest}","size":1{more}}}"#)).collect();
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
        }

        fn open(&self, index: &str) -> Result<OciLayout, Failure> {
            std::fs::write(self.folder.path().join("index.json"), index).unwrap();
            OciLayout::open(self.folder.path(), &"linux/amd64".parse().unwrap())
        }

        fn message(&self, index: &str) -> String {
            self.open(index).unwrap_err().message.replace(&*self.folder.path().to_string_lossy(), "DIR")
        }
    }

    const AMD: &str = r#","platform":{"os":"linux","architecture":"amd64"}"#;
    const ARM: &str = r#","platform":{"os":"linux","architecture":"arm64"}"#;

    #[test]
    fn the_image_for_the_platform_is_found() {
        let world = World::new();
        let (amd, arm) = (world.image("amd64", b"amd"), world.image("arm64", b"arm"));
        let nested = world.blob(World::index(&[(amd, AMD), (arm, ARM)]).as_bytes());
        for index in [
            World::index(&[(amd, "")]),
            World::index(&[(arm, ""), (amd, "")]),
            World::index(&[(arm, ARM), (amd, AMD)]),
            World::index(&[(nested, "")]),
            World::index(&[(amd, AMD), (amd, AMD)]),
        ] {
            let layout = world.open(&index).unwrap();
            assert_eq!(layout.manifest(), amd, "{index}");
            let mut bytes = Vec::new();
            layout.open_layer(0).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"amd");
            assert!(layout.open_layer(1).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let world = World::new();
        let (amd, other, arm) = (world.image("amd64", b"amd"), world.image("amd64", b"other"), world.image("arm64", b"arm"));
        let named = |name: &str| format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#);
        assert_eq!(
            world.message(&World::index(&[(amd, &named("b")), (other, &named("a"))])),
            "OCI layout `DIR`: it has 2 images for linux/amd64: `a`, `b`"
        );
        assert_eq!(world.message(&World::index(&[(arm, "")])), "OCI layout `DIR`: it has no image for linux/amd64; there is: linux/arm64");
        assert_eq!(world.message(&World::index(&[])), "OCI layout `DIR`: it has no image for linux/amd64; there is: none");
        let mut looped = World::index(&[(amd, "")]);
        for _ in 0..6 {
            looped = World::index(&[(world.blob(looped.as_bytes()), "")]);
        }
        assert_eq!(world.message(&looped), "OCI layout `DIR`: its indexes are nested more than 4 deep");
        let outside = World::index(&[(amd, "")]).replace("sha256:", "sha256:../../");
        assert!(world.message(&outside).contains("is no digest"), "{outside}");
        let gone = Digest::of(b"gone");
        assert!(world.message(&World::index(&[(gone, "")])).contains(&format!("cannot read `{}`", gone.hex())));
        std::fs::write(blob_path(world.folder.path(), amd), b"{}").unwrap();
        assert!(world.message(&World::index(&[(amd, "")])).contains("is damaged"));
        std::fs::remove_file(world.folder.path().join("oci-layout")).unwrap();
        assert!(world.message("{}").contains("cannot read `oci-layout`"));
    }

    #[test]
    fn a_damaged_layer_fails_at_its_end() {
        for damage in [b"amX".as_slice(), b"am", b"amdd", b""] {
            let world = World::new();
            let amd = world.image("amd64", b"amd");
            let layout = world.open(&World::index(&[(amd, "")])).unwrap();
            std::fs::write(blob_path(world.folder.path(), Digest::of(b"amd")), damage).unwrap();
            let error = std::io::copy(&mut layout.open_layer(0).unwrap(), &mut std::io::sink()).unwrap_err();
            assert!(crate::registry::failure_of(error).message.contains("is damaged"));
        }
    }
}
