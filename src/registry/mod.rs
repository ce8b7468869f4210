//! Registries: pull, push, resolve, names; and what packs and reads layers on the way. Knows no graph, no record
//! and no policy: one call is one attempt, and `execute` decides whether another follows.
//!
//! The client is igraph's own and not `oci-client`, because that one hides `Retry-After` and the rate-limit headers,
//! asks for a token on the target only when a blob is mounted (Hub and others want `pull` on the source too), makes an
//! error of a refused mount (202, the upload is open), and panics when a registry answers a push by digest without
//! `Location`. All of it is what this room is for (distribution-spec v1.1, "Endpoints").
//!
//! | file | does |
//! |---|---|
//! | `config` | hosts, proxies, observers: what a client is made from |
//! | `credentials` | accounts from the Docker config and its helpers |
//! | `auth` | challenges, tokens, breakers |
//! | `fault` | what an answer or a broken connection means as a `Failure` |
//! | `pool` | where hosts are, schemes, CAs, proxies, kept connections |
//! | `transport` | one request: accounts, redirects, waits, counting |
//! | `client` | the blocking face and its runtime |
//! | `pull` | manifests, resolving, images to read |
//! | `download`, `upload` | blobs, each way, resumed when the stream breaks |
//! | `publish` | an image into a repository; `names` moves names |
//! | `manifest` | manifests and indexes as data; the one igraph writes |
//! | `pack` | the layer compressor |
//! | `sources` | OCI layouts and rootfs tars as images |
//! | `layout_writer` | images into an OCI layout |

mod auth;
mod client;
mod config;
mod credentials;
mod download;
mod fault;
mod flight;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod layout_writer;
mod manifest;
mod names;
mod pack;
mod pool;
mod publish;
mod pull;
mod sources;
mod transport;
mod upload;

pub use client::Client;
pub use config::{ClientConfig, HostConfig, Observer, Proxies, RequestSeen};
pub use credentials::{Credential, Credentials, DockerConfigCredentials, NoCredentials};
pub use fault::failure_of;
pub use layout_writer::LayoutWriter;
pub use manifest::{Descriptor, MEDIA_TYPE_MANIFEST, image_manifest};
pub use names::{NameOutcome, move_name, verify_published};
pub use pack::{MEMBER, Packed, pack, pack_as, packing};
pub use publish::{KnownBlob, LayerProvider, PackedLayer, Uploaded, upload_image};
pub use pull::{Manifest, RemoteImage, ResolvedBase};
pub use sources::{OciLayout, RootfsTar};
pub use upload::{Progress, no_progress};
