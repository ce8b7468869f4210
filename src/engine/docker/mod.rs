//! Docker Engine, through its API: builds with BuildKit or the classic builder, runs tests as containers, keeps images by content tags.

mod build;
mod cache;
mod containers;
mod endpoint;
mod engine;
mod export;
mod images;
mod plain;
mod progress;
mod refuse;
mod session;
mod steps;
mod transport;

pub use endpoint::{Address, DEFAULT_SOCKET, Endpoint, EndpointError, EndpointInputs, TlsFiles, choose_endpoint};
pub use engine::{Builder, DockerEngine, DockerOptions};
pub use session::Environment;
