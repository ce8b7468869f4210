//! The keys of the instruction cache: everything that decides what an instruction makes of the layers below it.

/// Rises when the same instruction on the same layers would make another layer.
const VERSION: &str = "igraph instruction 2";

/// The key of bringing in a root file system, which is an instruction on nothing.
pub(in crate::engine::embedded) fn rootfs_key(key: &crate::digest::Key) -> blake3::Hash {
    let mut hasher = KeyHasher::new("rootfs");
    hasher.bytes(key.as_bytes());
    hasher.finish()
}

/// Hashes texts so that no two lists give the same bytes.
pub(super) struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    pub fn new(kind: &str) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.text(VERSION);
        hasher.text(kind);
        hasher
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn texts<'t>(&mut self, texts: impl ExactSizeIterator<Item = &'t str>) {
        self.0.update(&(texts.len() as u64).to_le_bytes());
        texts.for_each(|text| self.text(text));
    }

    pub fn layers(&mut self, diff_ids: &[crate::digest::Digest]) {
        self.0.update(&(diff_ids.len() as u64).to_le_bytes());
        diff_ids.iter().for_each(|diff_id| self.bytes(diff_id.as_bytes()));
    }

    pub fn finish(&self) -> blake3::Hash {
        self.0.finalize()
    }
}
