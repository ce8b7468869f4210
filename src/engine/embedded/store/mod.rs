//! What the engine keeps: images, unpacked layers, names, the instruction cache, packed layers. Shared by processes; nothing in it is trusted that
//! may not have reached the disk. Knows no Dockerfile.

mod collect;
mod folder;
mod images;
mod layers;
mod packed;

pub(super) use folder::{Store, Work};
pub(super) use images::Claim;
