//! What tests share: a daemon of their own, and an image to start from that needs no network.

pub mod daemonless;
pub mod dockerd;
pub mod ordinary_user;
pub mod rootfs;

pub use dockerd::Dockerd;
pub use ordinary_user::OrdinaryUser;
pub use rootfs::RootfsImage;

/// Says on stderr that a test did not run, past the harness's capture: a skip is to be seen. With IGRAPH_NO_SKIP it is a failure.
pub fn skip(test: &str, why: &str) {
    use std::io::Write;
    assert!(std::env::var_os("IGRAPH_NO_SKIP").is_none(), "{test}: {why}");
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: {why}"));
}

// each test file uses a part
const _: () = {
    let _ = (Dockerd::shared, Dockerd::start, Dockerd::start_at, Dockerd::start_here, Dockerd::socket, Dockerd::url, Dockerd::log);
    let _ = (RootfsImage::of_layers, RootfsImage::with_shell, RootfsImage::of_parts, RootfsImage::layer_bytes);
    let _ = (OrdinaryUser::new, OrdinaryUser::home, OrdinaryUser::own, OrdinaryUser::program, OrdinaryUser::command);
    let _ = skip;
};
