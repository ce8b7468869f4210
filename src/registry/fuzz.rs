//! What must hold of manifests and indexes whatever their bytes: for fuzzers and the smoke run (`crate::fuzz`). Panics where it does not.

use super::manifest::{Document, config_platform, fitness, image_manifest, layer_blobs, parse, platforms, select};
use crate::digest::Digest;
use crate::image::{ImageConfig, LayerBlob};
use crate::platform::Platform;

/// A manifest or an index, and behind a NUL a config. What is written of a manifest reads as the same and is written the same again; an
/// index gives the nearest platform and no other.
pub fn manifest(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0);
    let (document, config) = at.map_or((data, &b"{}"[..]), |at| (&data[..at], &data[at + 1..]));
    config_platform(config);
    let entries = match parse(document) {
        Err(message) => return assert!(!message.is_empty()),
        Ok(Document::Index(entries)) => entries,
        Ok(Document::Image { layers, .. }) => {
            let blobs = layer_blobs(&layers, config);
            if let (Ok(blobs), Ok(config)) = (&blobs, ImageConfig::parse(config)) {
                let diff_ids: Vec<Digest> = blobs.iter().map(|blob| blob.diff_id).collect();
                assert_eq!(diff_ids, config.diff_ids);
            }
            let kept: Vec<LayerBlob> = layers
                .iter()
                .map(|(layer, compression)| LayerBlob {
                    diff_id: layer.digest,
                    digest: layer.digest,
                    size: layer.size,
                    compression: *compression,
                })
                .collect();
            let written = image_manifest(config, &kept);
            let Ok(Document::Image { config: read, layers: again }) = parse(&written) else { panic!("what is written does not read") };
            assert_eq!((read.digest, read.size), (Digest::of(config), config.len() as u64));
            let of = |layers: &[(super::Descriptor, _)]| -> Vec<_> {
                layers.iter().map(|(layer, compression)| (layer.digest, layer.size, *compression)).collect()
            };
            assert_eq!(of(&layers), of(&again));
            assert_eq!(image_manifest(config, &kept), written);
            return;
        }
    };
    platforms(&entries);
    for wanted in ["linux/amd64", "linux/amd64/v3", "linux/arm/v7", "linux/arm64", "windows/amd64"] {
        let wanted: Platform = wanted.parse().unwrap_or_else(|_| Platform::host());
        let distance = |platform: Option<&Platform>| platform.and_then(|offered| fitness(offered, &wanted));
        let selected = select(&entries, &wanted);
        let best = selected.first().and_then(|entry| distance(entry.platform.as_ref()));
        for entry in &entries {
            let own = distance(entry.platform.as_ref());
            let is_selected = selected.contains(&entry);
            assert_eq!(is_selected, own.is_some() && own == best, "{wanted}: {entry:?}");
            assert!(own.is_none() || best <= own, "{wanted}: a nearer one was passed over");
        }
    }
    for entry in &entries {
        if let Some(platform) = &entry.platform {
            assert_eq!(platform.to_string().parse().as_ref(), Ok(platform), "a platform that is written reads as another");
        }
    }
}
