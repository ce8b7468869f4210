//! What tests share: a daemon of their own, and an image to start from that needs no network.

pub mod dockerd;
pub mod rootfs;

pub use dockerd::Dockerd;
pub use rootfs::RootfsImage;
