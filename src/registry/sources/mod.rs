//! Images that lie in files: OCI layouts and rootfs tars. Knows no registry.

mod layout;
mod rootfs;

pub use layout::OciLayout;
pub use rootfs::RootfsTar;
