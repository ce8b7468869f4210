//! Platforms as OCI names them: os, architecture and variant (image-spec, image-index.md "platform").

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::text::text_serde;

/// An operating system, architecture and optional variant, normalised as containerd does
/// (`x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` is `arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: Word,
    architecture: Word,
    variant: Option<Word>,
}

/// Of the platforms that there are, borrowed: each node of a graph has one.
type Word = Cow<'static, str>;

fn word(text: &str) -> Word {
    const KNOWN: &[&str] =
        &["linux", "windows", "amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "v2", "v3", "v4", "v5", "v6", "v7", "v8"];
    KNOWN.iter().find(|known| **known == text).map_or_else(|| Cow::Owned(text.to_owned()), |known| Cow::Borrowed(*known))
}

/// The text is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no platform; write it as `linux/amd64` or `linux/arm/v7`")]
pub struct ParsePlatformError {
    text: String,
}

impl Platform {
    /// The platform this program was compiled for, with `linux` as the os of its containers.
    pub fn host() -> Self {
        Self::normalised("linux", std::env::consts::ARCH, None)
    }

    fn normalised(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", Some(variant)) => ("amd64", Some(variant)),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64" | "arm64", Some(variant)) => ("arm64", Some(variant)),
            ("armhf", None) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", None) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("i386" | "x86", None) => ("386", None),
            (other, variant) => (other, variant),
        };
        Self { os: word(os), architecture: word(architecture), variant: variant.map(word) }
    }

    /// Like `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Like `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Like `v7`.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParsePlatformError { text: text.to_owned() };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let valid = |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        if !parts.iter().all(valid) {
            return Err(fail());
        }
        match parts[..] {
            ["linux" | "windows" | "darwin" | "freebsd"] => Ok(Self::normalised(parts[0], std::env::consts::ARCH, None)),
            [os, architecture] => Ok(Self::normalised(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, Some(variant))),
            _ => Err(fail()),
        }
    }
}

text_serde!(Platform, str::parse::<Platform>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_containerd_does() {
        for (written, expected) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(written.parse::<Platform>().unwrap().to_string(), expected);
        }
        assert!("linux//v7".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
    }
}
