//! The named components of a key: what a key is made of, kept beside it. Knows no meaning of the names.

use serde::{Deserialize, Serialize};

use crate::digest::Key;

/// Rises when keys are computed in another way.
pub const KEY_SCHEMA: u32 = 1;

/// One named input of a key. Names are like `base docker.io/library/debian:jessie`, `file node/4.2.1/start.sh`, `arg VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Component {
    /// What it is; unique within a key.
    pub name: String,
    /// Its value as text: a digest, a setting.
    pub value: String,
}

impl Component {
    /// A component.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// The key of `components`: BLAKE3 over the schema and the sorted list, every text prefixed by its length (u64, little-endian).
/// Sorts the list in place, so that what is kept is what was hashed.
pub fn key_of(components: &mut [Component]) -> Key {
    components.sort();
    key_under(KEY_SCHEMA, components.iter())
}

/// The same of components wherever they lie, in any order.
pub fn key_of_parts<'c>(components: impl Iterator<Item = &'c Component>) -> Key {
    let mut parts: Vec<&Component> = components.collect();
    parts.sort_unstable();
    key_under(KEY_SCHEMA, parts.into_iter())
}

/// The schema that `key` was made under from the sorted `components`, if it is one up to this one.
pub fn schema_of(key: Key, components: &[Component]) -> Option<u32> {
    (0..=KEY_SCHEMA).rev().find(|schema| key_under(*schema, components.iter()) == key)
}

fn key_under<'c>(schema: u32, components: impl Iterator<Item = &'c Component>) -> Key {
    // one piece is hashed faster than many
    let mut bytes = Vec::with_capacity(4096);
    bytes.extend_from_slice(&schema.to_le_bytes());
    for component in components {
        for text in [&component.name, &component.value] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    Key::from_bytes(blake3::derive_key("igraph 2026 key of a node", &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_count_and_boundaries_do() {
        let key = |pairs: &[(&str, &str)]| key_of(&mut pairs.iter().map(|(name, value)| Component::new(*name, *value)).collect::<Vec<_>>());
        assert_eq!(key(&[("a", "1"), ("b", "2")]), key(&[("b", "2"), ("a", "1")]));
        assert_ne!(key(&[("a", "1b")]), key(&[("a1", "b")]));
        assert_ne!(key(&[]), key(&[("", "")]));
        let parts = ["b", "a"].map(|name| Component::new(name, "1"));
        assert_eq!(key_of_parts(parts.iter()), key(&[("a", "1"), ("b", "1")]));
    }
}
