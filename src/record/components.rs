//! The stored form of a key's components: small, since every key ever built has one. Knows nothing of their meaning.
//!
//! Version 1: the byte 1, the number of components, then each: how many bytes its name shares with the one before, the
//! rest of the name, and its value: `0` and a text, `1` and the 32 bytes of a `sha256:` digest, or `2` and the 32 bytes
//! of 64 hex digits. Numbers and lengths are LEB128.

use crate::component::Component;
use crate::digest::{Digest, Key};

const VERSION: u8 = 1;
const TEXT: u8 = 0;
const SHA256: u8 = 1;
const HEX: u8 = 2;

/// The stored bytes do not follow the form above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored list of components is damaged")]
pub(crate) struct DamagedComponents;

/// Packs components; smallest when they are sorted.
pub(crate) fn encode(components: &[Component]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_number(&mut bytes, components.len());
    let mut previous: &[u8] = &[];
    for component in components {
        let name = component.name.as_bytes();
        let shared = previous.iter().zip(name).take_while(|(a, b)| a == b).count();
        put_number(&mut bytes, shared);
        put_text(&mut bytes, &name[shared..]);
        if let Ok(digest) = component.value.parse::<Digest>() {
            bytes.push(SHA256);
            bytes.extend_from_slice(digest.as_bytes());
        } else if let Ok(hash) = component.value.parse::<Key>() {
            bytes.push(HEX);
            bytes.extend_from_slice(hash.as_bytes());
        } else {
            bytes.push(TEXT);
            put_text(&mut bytes, component.value.as_bytes());
        }
        previous = name;
    }
    bytes
}

/// Unpacks what [`encode`] made.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Component>, DamagedComponents> {
    let mut rest = bytes.strip_prefix(&[VERSION]).ok_or(DamagedComponents)?;
    let count = take_number(&mut rest)?;
    // each takes four bytes at least: a wrong count must not reserve the world
    let mut components: Vec<Component> = Vec::with_capacity(count.min(rest.len() / 4));
    for _ in 0..count {
        let shared = take_number(&mut rest)?;
        let previous = components.last().map_or(&[][..], |component| component.name.as_bytes());
        let mut name = previous.get(..shared).ok_or(DamagedComponents)?.to_vec();
        let length = take_number(&mut rest)?;
        name.extend_from_slice(take(&mut rest, length)?);
        let value = match take(&mut rest, 1)?[0] {
            TEXT => {
                let length = take_number(&mut rest)?;
                String::from_utf8(take(&mut rest, length)?.to_vec()).map_err(|_| DamagedComponents)?
            }
            SHA256 => Digest::from_bytes(take_32(&mut rest)?).to_string(),
            HEX => Key::from_bytes(take_32(&mut rest)?).to_string(),
            _ => return Err(DamagedComponents),
        };
        components.push(Component { name: String::from_utf8(name).map_err(|_| DamagedComponents)?, value });
    }
    if rest.is_empty() { Ok(components) } else { Err(DamagedComponents) }
}

fn put_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len());
    bytes.extend_from_slice(text);
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], DamagedComponents> {
    let (taken, left) = rest.split_at_checked(length).ok_or(DamagedComponents)?;
    *rest = left;
    Ok(taken)
}

fn take_32(rest: &mut &[u8]) -> Result<[u8; 32], DamagedComponents> {
    take(rest, 32)?.try_into().map_err(|_| DamagedComponents)
}

fn take_number(rest: &mut &[u8]) -> Result<usize, DamagedComponents> {
    let mut number = 0usize;
    for shift in (0..u64::BITS - 7).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(DamagedComponents)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component() -> impl Strategy<Value = Component> {
        let value = prop_oneof![
            "\\PC{0,20}",
            any::<[u8; 32]>().prop_map(|b| Digest::from_bytes(b).to_string()),
            any::<[u8; 32]>().prop_map(|b| Key::from_bytes(b).to_string())
        ];
        ("(file|arg|base)? ?\\PC{0,12}", value).prop_map(|(name, value)| Component { name, value })
    }

    proptest! {
        #[test]
        fn round_trips(components in prop::collection::vec(component(), 0..30)) {
            prop_assert_eq!(decode(&encode(&components)), Ok(components));
        }

        #[test]
        fn a_cut_or_flipped_list_never_panics_and_a_cut_one_is_seen(components in prop::collection::vec(component(), 1..10), at: prop::sample::Index, to: u8) {
            let bytes = encode(&components);
            prop_assert_eq!(decode(&bytes[..at.index(bytes.len())]), Err(DamagedComponents));
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] = to;
            let _ = decode(&flipped);
        }
    }

    #[test]
    fn the_stored_form_of_version_1_is_read() {
        let stored = b"\x01\x02\x00\x06file a\x00\x02hi\x05\x01b\x00\x00";
        let components = vec![Component::new("file a", "hi"), Component::new("file b", "")];
        assert_eq!(decode(stored), Ok(components.clone()));
        assert_eq!(encode(&components), stored);
    }
}
