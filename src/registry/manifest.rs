//! Manifests and indexes as data, read from anyone and written one way (image-spec, manifest.md and image-index.md;
//! Docker's "Image Manifest Version 2, Schema 2"). Asks no registry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{Compression, ImageConfig, LayerBlob};
use crate::platform::Platform;

/// Media type of the manifests igraph writes.
pub const MEDIA_TYPE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const MEDIA_TYPE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_TYPE_DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const MEDIA_TYPE_DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MEDIA_TYPE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// All four, so that every client sees the digest that a tag really has.
pub(super) const ACCEPT: [&str; 4] = [MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST, MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST];

/// Longest manifest or index that is read (distribution-spec, "Pushing Manifests", asks registries for no more).
pub(super) const MANIFEST_LIMIT: usize = 4 << 20;
/// Longest config that is read.
pub(super) const CONFIG_LIMIT: u64 = 16 << 20;

/// A blob or manifest by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Length of its bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde_json::Value>,
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub descriptor: Descriptor,
    /// `None` where the index does not tell, or tells what no image runs on (attestations).
    pub platform: Option<Platform>,
    /// Whether it tells a platform at all.
    pub has_platform: bool,
    /// `org.opencontainers.image.ref.name`.
    pub name: Option<String>,
}

/// What bytes under a manifest's address are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Index(Vec<IndexEntry>),
    Image { config: Descriptor, layers: Vec<(Descriptor, Compression)> },
}

fn descriptor(raw: &RawDescriptor) -> Result<Descriptor, String> {
    let digest = raw.digest.parse().map_err(|error| format!("{error}; igraph reads sha256 only"))?;
    Ok(Descriptor { media_type: raw.media_type.clone().unwrap_or_default(), digest, size: raw.size })
}

fn compression(media_type: &str) -> Result<Compression, String> {
    if media_type.contains("foreign") || media_type.contains("nondistributable") {
        return Err(format!("it has a layer that may only be had elsewhere (`{media_type}`)"));
    }
    match media_type {
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Zstd),
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        other => Err(format!("it is no container image: a layer has the type `{other}`")),
    }
}

/// Reads a manifest or index. The error is the end of a sentence that begins with its name: "it is …".
pub(super) fn parse(bytes: &[u8]) -> Result<Document, String> {
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|error| format!("its manifest is not readable: {error}"))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err("its manifest is Docker's schema 1, which names no image config; push it again with Docker 1.10 or later".into());
    }
    if let Some(media_type) = raw.media_type.as_deref().filter(|own| !own.is_empty() && !ACCEPT.contains(own)) {
        return Err(format!("it is no container image: its manifest has the type `{media_type}`"));
    }
    match (raw.config, raw.layers, raw.manifests) {
        // one reader would take it for an image and the next for an index (image-spec, CVE-2021-41190)
        (_, Some(_), Some(_)) | (Some(_), _, Some(_)) => Err("its manifest is an index and an image at once".into()),
        (None, None, Some(manifests)) => manifests.iter().map(entry).collect::<Result<_, _>>().map(Document::Index),
        (Some(config), Some(layers), None) => {
            let layers = layers.iter().map(|raw| {
                let own = descriptor(raw)?;
                let packed = compression(&own.media_type)?;
                Ok((own, packed))
            });
            Ok(Document::Image { config: descriptor(&config)?, layers: layers.collect::<Result<_, String>>()? })
        }
        _ => Err("its manifest has neither layers nor manifests".into()),
    }
}

fn entry(raw: &RawDescriptor) -> Result<IndexEntry, String> {
    let platform = raw.platform.as_ref().and_then(|platform| {
        let text = match platform.variant.as_deref().filter(|variant| !variant.is_empty()) {
            Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
            None => format!("{}/{}", platform.os, platform.architecture),
        };
        text.parse::<Platform>().ok().filter(|platform| platform.os() != "unknown")
    });
    let name = raw.annotations.as_ref().and_then(|all| all.get("org.opencontainers.image.ref.name").cloned());
    Ok(IndexEntry { descriptor: descriptor(raw)?, platform, has_platform: raw.platform.is_some(), name })
}

/// How well `offered` runs on `wanted`: 0 is exact, lower variants are further away, `None` does not run.
pub(super) fn fitness(offered: &Platform, wanted: &Platform) -> Option<u32> {
    if offered == wanted {
        return Some(0);
    }
    if (offered.os(), offered.architecture()) != (wanted.os(), wanted.architecture()) {
        return None;
    }
    // the variant left out is the oldest: v1 of amd64, v8 of arm64
    let level = |platform: &Platform| match (platform.variant(), platform.architecture()) {
        (Some(variant), _) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        (None, "amd64") => Some(1),
        (None, "arm64") => Some(8),
        (None, _) => None,
    };
    level(wanted)?.checked_sub(level(offered)?)
}

/// The entries that fit `platform` best; several when the index names one platform more than once.
pub(super) fn select<'a>(entries: &'a [IndexEntry], platform: &Platform) -> Vec<&'a IndexEntry> {
    let fit = |entry: &IndexEntry| entry.platform.as_ref().and_then(|offered| fitness(offered, platform));
    let best = entries.iter().filter_map(fit).min();
    entries.iter().filter(|entry| best.is_some() && fit(entry) == best).collect()
}

/// The platforms of an index for people, sorted: `linux/amd64, linux/arm64`.
pub(super) fn platforms(entries: &[IndexEntry]) -> String {
    let mut all: Vec<String> = entries.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect();
    all.sort();
    all.dedup();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// The platform an image config says it is for.
pub(super) fn config_platform(config: &[u8]) -> Option<Platform> {
    let raw: RawPlatform = serde_json::from_slice(config).ok()?;
    let variant = raw.variant.filter(|variant| !variant.is_empty()).map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", raw.os, raw.architecture).parse().ok()
}

/// The layers with their diff ids. The error is the end of a sentence: "its config …".
pub(super) fn layer_blobs(layers: &[(Descriptor, Compression)], config: &[u8]) -> Result<Vec<LayerBlob>, String> {
    let config = ImageConfig::parse(config).map_err(|error| format!("its config is not readable: {error}"))?;
    if config.diff_ids.len() != layers.len() {
        return Err(format!("its config names {} layers and its manifest {}", config.diff_ids.len(), layers.len()));
    }
    let blobs = layers.iter().zip(config.diff_ids).map(|((blob, compression), diff_id)| LayerBlob {
        diff_id,
        digest: blob.digest,
        size: blob.size,
        compression: *compression,
    });
    Ok(blobs.collect())
}

/// The bytes of the manifest of an image: config of `config` bytes and these layers, base first. Same input, same bytes:
/// the order of fields is that of the structs here and no setting changes it.
pub fn image_manifest(config: &[u8], layers: &[LayerBlob]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Written {
        schema_version: u32,
        media_type: &'static str,
        config: Descriptor,
        layers: Vec<Descriptor>,
    }
    let media_type = |compression| match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let written = Written {
        schema_version: 2,
        media_type: MEDIA_TYPE_MANIFEST,
        config: Descriptor { media_type: MEDIA_TYPE_CONFIG.into(), digest: Digest::of(config), size: config.len() as u64 },
        layers: layers
            .iter()
            .map(|layer| Descriptor { media_type: media_type(layer.compression).into(), digest: layer.digest, size: layer.size })
            .collect(),
    };
    // texts and numbers only: this cannot fail
    serde_json::to_vec(&written).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Vec<IndexEntry> {
        let entries: Vec<String> = platforms
            .iter()
            .map(|platform| {
                let (os, rest) = platform.split_once('/').unwrap();
                let (architecture, variant) = rest.split_once('/').unwrap_or((rest, ""));
                format!(
                    r#"{{"mediaType":"{MEDIA_TYPE_MANIFEST}","digest":"{}","size":3,"platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}}}"#,
                    Digest::of(platform.as_bytes())
                )
            })
            .collect();
        match parse(format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).as_bytes()).unwrap() {
            Document::Index(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_nearest_platform_is_selected() {
        let all = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8", "linux/386", "unknown/unknown", "linux/amd64/v3"];
        for (wanted, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/amd64/v2", Some("linux/amd64")),
            ("linux/amd64/v4", Some("linux/amd64/v3")),
            ("linux/arm64", Some("linux/arm64/v8")),
            ("linux/arm/v6", Some("linux/arm/v5")),
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/s390x", None),
            ("windows/amd64", None),
        ] {
            let entries = index(&all);
            let selected = select(&entries, &wanted.parse().unwrap());
            let expected: Vec<Digest> = expected.map(|text| Digest::of(text.as_bytes())).into_iter().collect();
            assert_eq!(selected.iter().map(|entry| entry.descriptor.digest).collect::<Vec<_>>(), expected, "{wanted}");
        }
        assert_eq!(platforms(&index(&all)), "linux/386, linux/amd64, linux/amd64/v3, linux/arm/v5, linux/arm/v7, linux/arm64");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let digest = Digest::of(b"");
        let layer = |media_type: &str| {
            let part = |media_type: &str| format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1}}"#);
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, part(MEDIA_TYPE_CONFIG), part(media_type))
        };
        for (text, said) in [
            (r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#.to_owned(), "schema 1"),
            (r#"{"schemaVersion":2,"mediaType":"application/x"}"#.to_owned(), "type `application/x`"),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(), "at once"),
            (r#"{"schemaVersion":2}"#.to_owned(), "neither"),
            ("<html>".to_owned(), "not readable"),
            (layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "elsewhere"),
            (layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip"), "no container image"),
            (layer("application/vnd.oci.image.layer.v1.tar").replace("sha256:", "sha512:"), "sha256 only"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn the_written_manifest_is_pinned() {
        let layer = LayerBlob { diff_id: Digest::of(b"d"), digest: Digest::of(b"l"), size: 7, compression: Compression::Gzip };
        let bytes = image_manifest(b"{}", &[layer]);
        insta::assert_snapshot!(String::from_utf8(bytes.clone()).unwrap(), @r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:acac86c0e609ca906f632b0e2dacccb2b77d22b0621f20ebece1a4835b93f6f0","size":7}]}"#);
        assert!(matches!(parse(&bytes), Ok(Document::Image { layers, .. }) if layers.len() == 1));
    }
}
