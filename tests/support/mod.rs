//! What tests share: a daemon of their own, and an image to start from that needs no network.

#![expect(dead_code, unused_imports, reason = "each test file uses a part")]

mod dockerd;
mod rootfs;

pub use dockerd::Dockerd;
pub use rootfs::RootfsImage;
