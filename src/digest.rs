//! Content identities: sha256 digests of the OCI world, image ids, and igraph's own BLAKE3 keys.
//! Knows their spelling, not what they were computed from.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::text::{debug_as_display, text_serde};

/// The text is no `sha256:` digest or no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {problem}")]
pub struct ParseDigestError {
    text: String,
    what: &'static str,
    problem: &'static str,
}

fn parse_hex(text: &str, what: &'static str, whole: &str) -> Result<[u8; 32], ParseDigestError> {
    let fail = |problem| ParseDigestError { text: whole.to_owned(), what, problem };
    if text.len() != 64 {
        return Err(fail("it needs 64 hex digits"));
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(fail("only 0-9 and a-f are digits")),
        }
    }
    Ok(bytes)
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    f.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

/// A sha256 digest as OCI spells it, `sha256:` and 64 hex digits (image-spec, descriptor.md).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps the 32 bytes of a finished sha256.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without `sha256:`.
    pub fn hex(&self) -> String {
        self.to_string()["sha256:".len()..].to_owned()
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(&self.0, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| ParseDigestError {
            text: text.to_owned(),
            what: "digest",
            problem: "it must begin with `sha256:`",
        })?;
        parse_hex(hex, "digest", text).map(Self)
    }
}

text_serde!(Digest, str::parse::<Digest>);
debug_as_display!(Digest);

/// The identity of an image: the digest of its config JSON, which pins every layer's diff id (image-spec, config.md "ImageID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub Digest);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ImageId {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

text_serde!(ImageId, str::parse::<ImageId>);
debug_as_display!(ImageId);

/// A node's key: BLAKE3 over its canonical list of components, 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Wraps the 32 bytes of a finished BLAKE3.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Key {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text, "key", text).map(Self)
    }
}

text_serde!(Key, str::parse::<Key>);
debug_as_display!(Key);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_round_trips_and_refuses() {
        let digest = Digest::of(b"{}");
        assert_eq!(digest.to_string(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert_eq!("md5:00".parse::<Digest>().unwrap_err().to_string(), "`md5:00` is no digest: it must begin with `sha256:`");
        assert!("sha256:44".parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "G".repeat(64)).parse::<Digest>().is_err());
    }
}
