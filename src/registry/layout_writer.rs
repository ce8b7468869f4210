//! Writes images into an OCI image layout folder (image-spec, image-layout.md). The same images in the same order of names give the
//! same bytes. What is there stays; a layout is never seen half written: blobs first, the index last, each by rename.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::manifest::{MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST, image_manifest};
use super::pack::pack_as;
use crate::digest::Digest;
use crate::failure::{Failure, Retry};
use crate::image::{Compression, LayerBlob};
use crate::platform::Platform;

/// Says in the index what an image is called (image-spec, annotations.md).
const NAME: &str = "org.opencontainers.image.ref.name";

/// A layout being written.
pub struct LayoutWriter {
    folder: PathBuf,
    /// The entries of its index.
    entries: Vec<Value>,
}

impl LayoutWriter {
    /// Makes the folder a layout, or goes on with the one that it is.
    ///
    /// # Errors
    /// A step failure where the folder holds something else; infra for the disk.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let io = |error| writing(folder, &error);
        std::fs::create_dir_all(folder).map_err(io)?;
        let marker = folder.join("oci-layout");
        let index = folder.join("index.json");
        if !marker.exists() {
            if std::fs::read_dir(folder).map_err(io)?.next().is_some() {
                let failure = Failure::step(format!("`{}` is not empty, and no OCI layout", folder.display()));
                return Err(failure.hint("name another folder, or empty this one"));
            }
            std::fs::create_dir_all(folder.join("blobs/sha256")).map_err(io)?;
            replace(&index, &index_of(&[])?)?;
            // a folder without it is none yet
            replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let damaged = |what: String| Failure::step(format!("the OCI layout `{}`: its `index.json` {what}", folder.display()));
        let bytes = std::fs::read(&index).map_err(|error| damaged(format!("can't be read: {error}")))?;
        let read: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is no JSON: {error}")))?;
        let entries = read["manifests"].as_array().cloned().ok_or_else(|| damaged("has no `manifests`".to_owned()))?;
        Ok(Self { folder: folder.to_owned(), entries })
    }

    /// Packs a layer, whose tar comes from the reader, into a blob.
    ///
    /// # Errors
    /// Of reader and disk.
    pub fn layer(&self, tar: &mut dyn Read, compression: Compression) -> Result<LayerBlob, Failure> {
        let blobs = self.folder.join("blobs/sha256");
        let mut file = scratch(&blobs)?;
        let packed = pack_as(compression, tar, &mut file).map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => writing(&blobs, &error),
        })?;
        keep(file, &blobs.join(packed.digest.hex()))?;
        Ok(LayerBlob { diff_id: packed.diff_id, digest: packed.digest, size: packed.size, compression })
    }

    /// Takes over a layer that is packed already: the bytes of `file`, verified before.
    ///
    /// # Errors
    /// Of the disk.
    pub fn take(&self, file: &Path, layer: &LayerBlob) -> Result<(), Failure> {
        let blobs = self.folder.join("blobs/sha256");
        let mut new = scratch(&blobs)?;
        let copied = File::open(file).and_then(|mut file| std::io::copy(&mut file, &mut new)).map_err(|error| writing(&blobs, &error))?;
        if copied != layer.size {
            return Err(Failure::infra(format!("layer `{}` has {copied} bytes, not {}", layer.digest, layer.size)));
        }
        keep(new, &blobs.join(layer.digest.hex()))
    }

    /// Adds an image whose layers are here, under a name or none, in place of what had that name. Returns its manifest's digest.
    ///
    /// # Errors
    /// Of the disk.
    pub fn image(&mut self, config: &[u8], layers: &[LayerBlob], platform: &Platform, name: Option<&str>) -> Result<Digest, Failure> {
        let manifest = image_manifest(config, layers);
        let digest = Digest::of(&manifest);
        for bytes in [config, &manifest] {
            replace(&self.folder.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes)?;
        }
        let mut entry = json!({
            "mediaType": MEDIA_TYPE_MANIFEST,
            "digest": digest.to_string(),
            "size": manifest.len(),
            "platform": {"architecture": platform.architecture(), "os": platform.os()},
        });
        if let Some(variant) = platform.variant() {
            entry["platform"]["variant"] = json!(variant);
        }
        if let Some(name) = name {
            entry["annotations"] = json!({NAME: name});
        }
        let known_as = |entry: &Value| entry["annotations"][NAME].as_str().map(str::to_owned);
        let same = |other: &Value| match (name, known_as(other)) {
            (Some(name), Some(other)) => name == other,
            (None, None) => other["digest"] == entry["digest"],
            _ => false,
        };
        self.entries.retain(|other| !same(other));
        self.entries.push(entry);
        self.entries.sort_by_key(|entry| (known_as(entry), entry["digest"].as_str().map(str::to_owned)));
        replace(&self.folder.join("index.json"), &index_of(&self.entries)?)?;
        Ok(digest)
    }
}

fn index_of(entries: &[Value]) -> Result<Vec<u8>, Failure> {
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": entries});
    serde_json::to_vec(&index).map_err(|error| Failure::infra(error.to_string()))
}

fn writing(path: &Path, error: &std::io::Error) -> Failure {
    Failure::infra(format!("cannot write `{}`: {error}", path.display())).retry(Retry::Never)
}

/// A file beside those that it may become, open to all as others are.
fn scratch(folder: &Path) -> Result<tempfile::NamedTempFile, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".igraph-").permissions(std::fs::Permissions::from_mode(0o666));
    builder.tempfile_in(folder).map_err(|error| writing(folder, &error))
}

fn keep(file: tempfile::NamedTempFile, path: &Path) -> Result<(), Failure> {
    file.as_file().sync_all().map_err(|error| writing(path, &error))?;
    let kept: File = file.persist(path).map_err(|error| writing(path, &error.error))?;
    drop(kept);
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = scratch(path.parent().unwrap_or(path))?;
    file.write_all(bytes).map_err(|error| writing(path, &error))?;
    keep(file, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageSource;
    use crate::registry::OciLayout;

    fn config(layer: &LayerBlob) -> String {
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, layer.diff_id)
    }

    #[test]
    fn what_is_written_is_read_and_names_replace_each_other() {
        let world = tempfile::tempdir().unwrap();
        let platform: Platform = "linux/amd64".parse().unwrap();
        let folder = world.path().join("deep/layout");
        let mut writer = LayoutWriter::open(&folder).unwrap();
        let layer = writer.layer(&mut b"a layer".as_slice(), Compression::Gzip).unwrap();
        let digest = writer.image(config(&layer).as_bytes(), std::slice::from_ref(&layer), &platform, Some("team/app:1")).unwrap();
        let read = OciLayout::open(&folder, &platform).unwrap();
        assert_eq!((read.manifest(), read.layers()), (digest, std::slice::from_ref(&layer)));
        let first = std::fs::read(folder.join("index.json")).unwrap();

        // another layout of the same image is the same, byte for byte
        let again = world.path().join("again");
        let mut writer = LayoutWriter::open(&again).unwrap();
        let layer = writer.layer(&mut b"a layer".as_slice(), Compression::Gzip).unwrap();
        writer.image(config(&layer).as_bytes(), std::slice::from_ref(&layer), &platform, Some("team/app:1")).unwrap();
        assert_eq!(std::fs::read(again.join("index.json")).unwrap(), first);

        // a second image joins it, and a name moves
        let mut writer = LayoutWriter::open(&folder).unwrap();
        let other = writer.layer(&mut b"another layer".as_slice(), Compression::Gzip).unwrap();
        writer.image(config(&other).as_bytes(), std::slice::from_ref(&other), &platform, Some("team/app:2")).unwrap();
        let moved = writer.image(config(&other).as_bytes(), std::slice::from_ref(&other), &platform, Some("team/app:1")).unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
        let shown: Vec<_> =
            index["manifests"].as_array().unwrap().iter().map(|entry| (&entry["annotations"][NAME], &entry["digest"])).collect();
        let moved = Value::from(moved.to_string());
        assert_eq!(shown, [(&Value::from("team/app:1"), &moved), (&Value::from("team/app:2"), &moved)]);
        let left =
            std::fs::read_dir(folder.join("blobs/sha256")).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        assert!(left.into_iter().all(|name| name.len() == 64));
    }

    #[test]
    fn other_folders_are_left_alone() {
        let world = tempfile::tempdir().unwrap();
        std::fs::write(world.path().join("mine"), "").unwrap();
        let failure = LayoutWriter::open(world.path()).err().unwrap();
        assert!(failure.message.ends_with("is not empty, and no OCI layout"), "{failure}");
        std::fs::write(world.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(world.path().join("index.json"), "[]").unwrap();
        assert!(LayoutWriter::open(world.path()).err().unwrap().message.ends_with("has no `manifests`"));
    }
}
