//! Images as plain data between rooms: configs, layers, and where their bytes can be read.
//! Knows no registry and no engine.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::failure::Failure;
use crate::platform::Platform;

/// The parts of an image config that decide what a build on top of it means (image-spec, config.md;
/// `on_build` and `shell` are Docker's extensions).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `KEY=value` in order.
    pub env: Vec<String>,
    /// User, as in USER.
    pub user: String,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// SHELL, or empty for the default.
    pub shell: Vec<String>,
    /// ONBUILD triggers, as written after ONBUILD.
    pub on_build: Vec<String>,
    /// diff ids, base first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads the parts from the bytes of an image config.
    ///
    /// # Errors
    /// Where the bytes are no image config.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Inner {
            env: Option<Vec<String>>,
            user: Option<String>,
            working_dir: Option<String>,
            shell: Option<Vec<String>>,
            on_build: Option<Vec<String>>,
        }
        #[derive(Deserialize)]
        struct RootFs {
            #[serde(default)]
            diff_ids: Vec<Digest>,
        }
        #[derive(Deserialize)]
        struct Outer {
            config: Option<Inner>,
            rootfs: RootFs,
        }
        let outer: Outer = serde_json::from_slice(bytes)?;
        let inner = outer.config.unwrap_or_default();
        Ok(Self {
            env: inner.env.unwrap_or_default(),
            user: inner.user.unwrap_or_default(),
            working_dir: inner.working_dir.unwrap_or_default(),
            shell: inner.shell.unwrap_or_default(),
            on_build: inner.on_build.unwrap_or_default(),
            diff_ids: outer.rootfs.diff_ids,
        })
    }
}

/// How a layer's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar: blob digest and diff id are the same.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Reads what was packed that way.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn unpacked<'a>(self, packed: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
        let packed = std::io::BufReader::with_capacity(256 << 10, packed);
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        })
    }
}

/// One layer of an image that lies somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerBlob {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the bytes that [`ImageSource::open_layer`] gives.
    pub digest: Digest,
    /// Their length in bytes.
    pub size: u64,
    /// How they are packed.
    pub compression: Compression,
}

/// An image whose bytes can be read: in a registry, an OCI layout, or made from a rootfs tar.
pub trait ImageSource: Send + Sync {
    /// The exact bytes of the config; its digest is the image id.
    fn config(&self) -> &[u8];

    /// The layers, base first, as many as the config has diff ids.
    fn layers(&self) -> &[LayerBlob];

    /// The bytes of layer `index`. The reader verifies them: at their end it fails when the digest differs.
    ///
    /// # Errors
    /// Infra, where they can't be had.
    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure>;

    /// Whether its layers come over a network, and several at once come sooner.
    fn is_remote(&self) -> bool {
        false
    }

    /// The image id.
    fn image_id(&self) -> ImageId {
        ImageId(Digest::of(self.config()))
    }
}

/// An image as an engine holds it: the identity that keys and records use, and what the engine itself calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EngineImage {
    /// Identity: the digest of the image config.
    pub id: ImageId,
    /// What the engine calls it. On Docker's containerd store that is another digest.
    pub handle: String,
    /// What it runs on.
    pub platform: Platform,
}
