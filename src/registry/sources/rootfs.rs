//! A tar of a root filesystem as an image of one layer, with one deterministic config. Knows no registry; looks at no
//! entry of the tar but the first, to see that it is one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::layout::Verified;
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::image::{Compression, ImageSource, LayerBlob};
use crate::platform::Platform;

/// A rootfs tar, plain or packed with gzip or zstd. The layer is the file as it is; the diff id is the digest of the tar inside.
#[derive(Debug)]
pub struct RootfsTar {
    path: PathBuf,
    config: Vec<u8>,
    layers: [LayerBlob; 1],
}

/// Field order is that of the struct, and so the image id depends on the four values alone.
#[derive(Serialize)]
struct Config<'a> {
    created: &'a str,
    architecture: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
    os: &'a str,
    config: RunConfig,
    rootfs: RootFs,
    history: [History<'a>; 1],
}

/// What Docker gives an image that says no PATH.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Serialize)]
struct RunConfig {
    #[serde(rename = "Env")]
    env: [&'static str; 1],
}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: [Digest; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'static str,
}

impl RootfsTar {
    /// Reads the tar once to hash it. `epoch` (SOURCE_DATE_EPOCH, seconds) is the image's time of creation.
    ///
    /// # Errors
    /// A step failure where the file can't be read or is no tar, plain or packed with gzip or zstd.
    pub fn open(path: &Path, platform: &Platform, epoch: i64) -> Result<Self, Failure> {
        let problem = |problem: &str| Failure::step(format!("rootfs `{}`: {problem}", path.display()));
        let read = |error: std::io::Error| problem(&format!("cannot be read: {error}"));
        let mut magic = Vec::new();
        File::open(path).and_then(|file| file.take(6).read_to_end(&mut magic)).map_err(read)?;
        let compression = match magic.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(packed_otherwise(path, "xz", "xz -dk")),
            [b'B', b'Z', b'h', ..] => return Err(packed_otherwise(path, "bzip2", "bzip2 -dk")),
            _ => Compression::None,
        };
        let file = File::open(path).map_err(read)?;
        let mut outer = Hashing::new(file);
        let (diff_id, is_tar) = match compression {
            Compression::Gzip | Compression::Zstd => {
                let packing = if compression == Compression::Gzip { "gzip" } else { "zstd" };
                let mut inner = Hashing::new(compression.unpacked(&mut outer).map_err(read)?);
                let is_tar = drain(&mut inner).map_err(|error| problem(&format!("its {packing} is broken: {error}")))?;
                let diff_id = inner.digest();
                drop(inner);
                // what may stand behind the last member belongs to the file, too
                drain(&mut outer).map_err(read)?;
                (diff_id, is_tar)
            }
            Compression::None => {
                let is_tar = drain(&mut outer).map_err(read)?;
                (outer.digest(), is_tar)
            }
        };
        if !is_tar {
            return Err(problem("it is no tar"));
        }
        let config = Self::config_of(diff_id, platform, epoch).map_err(|error| problem(&error.to_string()))?;
        let layer = LayerBlob { diff_id, digest: outer.digest(), size: outer.length, compression };
        Ok(Self { path: path.to_owned(), config, layers: [layer] })
    }

    /// The config of a root filesystem whose tar has this digest.
    ///
    /// # Errors
    /// None that is known: writing JSON to memory.
    pub fn config_of(diff_id: Digest, platform: &Platform, epoch: i64) -> serde_json::Result<Vec<u8>> {
        let created = Timestamp(epoch.saturating_mul(1000)).to_rfc3339();
        serde_json::to_vec(&Config {
            created: &created,
            architecture: platform.architecture(),
            variant: platform.variant(),
            os: platform.os(),
            config: RunConfig { env: [DEFAULT_PATH] },
            rootfs: RootFs { r#type: "layers", diff_ids: [diff_id] },
            history: [History { created: &created, created_by: "igraph rootfs" }],
        })
    }

    /// The same bytes, which now lie at `path`.
    pub fn moved(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }
}

fn packed_otherwise(path: &Path, format: &str, command: &str) -> Failure {
    Failure::step(format!(
        "rootfs `{}`: it is packed with {format}; igraph reads tars that are plain or packed with gzip or zstd",
        path.display()
    ))
    .hint(format!("unpack it: `{command} {}`", path.display()))
}

struct Hashing<R> {
    reader: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    fn new(reader: R) -> Self {
        Self { reader, hasher: Sha256::new(), length: 0 }
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

/// Reads to the end; says whether it begins as a tar does.
fn drain(reader: &mut dyn Read) -> std::io::Result<bool> {
    let mut header = tar::Header::new_old();
    let mut first = Vec::with_capacity(512);
    (&mut *reader).take(512).read_to_end(&mut first)?;
    let whole = first.len() == 512;
    if whole {
        header.as_mut_bytes().copy_from_slice(&first);
    }
    let mut buffer = vec![0; 256 << 10];
    while reader.read(&mut buffer)? > 0 {}
    Ok(whole && (is_checked(&header) || first.iter().all(|byte| *byte == 0)))
}

/// Whether a header's checksum is right: the sum of its bytes, those of the checksum taken as spaces.
fn is_checked(header: &tar::Header) -> bool {
    let sum: u32 =
        header.as_bytes().iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    header.cksum().is_ok_and(|own| own == sum)
}

impl ImageSource for RootfsTar {
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        let layer = self.layers.get(index).ok_or_else(|| Failure::step(format!("the image has no layer {index}")))?;
        let cannot = |error| Failure::step(format!("rootfs `{}`: cannot be read: {error}", self.path.display()));
        let file = File::open(&self.path).map_err(cannot)?;
        Ok(Box::new(Verified::new(file, layer.digest, layer.size, self.path.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::pack;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(folder: &Path, bytes: &[u8]) -> Result<RootfsTar, Failure> {
        let path = folder.join("rootfs.tar");
        std::fs::write(&path, bytes).unwrap();
        RootfsTar::open(&path, &"linux/arm/v7".parse().unwrap(), 315_532_800)
    }

    #[test]
    fn packed_or_not_it_is_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let plain = tar_of(&[("etc/hostname", b"x")]);
        let mut packed = Vec::new();
        pack(&mut plain.as_slice(), &mut packed).unwrap();
        let rootfs = open(folder.path(), &plain).unwrap();
        let id = rootfs.image_id();
        assert_eq!(
            rootfs.layers()[0],
            LayerBlob { diff_id: Digest::of(&plain), digest: Digest::of(&plain), size: plain.len() as u64, compression: Compression::None }
        );
        let config = String::from_utf8(rootfs.config().to_vec()).unwrap().replace(&Digest::of(&plain).to_string(), "DIFF");
        insta::assert_snapshot!(config, @r#"{"created":"1980-01-01T00:00:00Z","architecture":"arm","variant":"v7","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},"rootfs":{"type":"layers","diff_ids":["DIFF"]},"history":[{"created":"1980-01-01T00:00:00Z","created_by":"igraph rootfs"}]}"#);
        let zstd = zstd::stream::encode_all(plain.as_slice(), 3).unwrap();
        for (packed, compression) in [(packed, Compression::Gzip), (zstd, Compression::Zstd)] {
            let rootfs = open(folder.path(), &packed).unwrap();
            assert_eq!(rootfs.image_id(), id);
            let layer = &rootfs.layers()[0];
            assert_eq!((layer.digest, layer.size, layer.compression), (Digest::of(&packed), packed.len() as u64, compression));
            let mut back = Vec::new();
            rootfs.open_layer(0).unwrap().read_to_end(&mut back).unwrap();
            assert_eq!(back, packed);
        }
    }

    #[test]
    fn what_is_no_tar_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut broken = Vec::new();
        pack(&mut tar_of(&[("a", b"b")]).as_slice(), &mut broken).unwrap();
        broken.truncate(broken.len() - 3);
        for (bytes, said) in [
            (b"hello".to_vec(), "no tar"),
            (vec![b'x'; 2048], "no tar"),
            (Vec::new(), "no tar"),
            (broken, "gzip is broken"),
            (b"\xfd7zXZ\0more".to_vec(), "packed with xz"),
            (b"\x28\xb5\x2f\xfdmore".to_vec(), "zstd is broken"),
            (b"BZh9".to_vec(), "packed with bzip2"),
        ] {
            let message = open(folder.path(), &bytes).unwrap_err().message;
            assert!(message.contains(said), "{message}");
        }
        assert!(open(folder.path(), &tar_of(&[])).is_ok());
        assert!(RootfsTar::open(&folder.path().join("none"), &Platform::host(), 0).unwrap_err().message.contains("cannot be read"));
    }

    #[test]
    fn a_file_changed_since_fails_when_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let rootfs = open(folder.path(), &tar_of(&[("a", b"b")])).unwrap();
        std::fs::write(folder.path().join("rootfs.tar"), tar_of(&[("a", b"c")])).unwrap();
        assert!(std::io::copy(&mut rootfs.open_layer(0).unwrap(), &mut std::io::sink()).is_err());
    }
}
