//! The engine itself: connecting, what the daemon is, waiting with cancel and timeout. Knows no build, no container.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::runtime::Runtime;

use super::endpoint::Endpoint;
use super::session::Environment;
use super::transport::Dialer;
use crate::access::Network;
use crate::digest::{Digest, ImageId};
use crate::dockerfile::{Dockerfile, Resolved};
use crate::engine::words::timed_out;
use crate::engine::{Attempt, BuildRequest, Collected, Engine, EngineIdentity, ExportSink, Limits, TestRequest};
use crate::failure::{Failure, Retry};
use crate::image::{EngineImage, ImageConfig, ImageSource};
use crate::platform::Platform;
use crate::problem::Problem;
use crate::reference::Reference;

/// Rises when the same request would give another result.
const RESULTS_VERSION: u32 = 1;

/// Longest wait for an answer to a small question.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which of a daemon's builders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Builder {
    /// BuildKit where the daemon has it.
    #[default]
    Auto,
    /// BuildKit; connecting fails where there is none.
    BuildKit,
    /// The classic builder.
    Classic,
}

/// What an engine is made with.
pub struct DockerOptions {
    /// The daemon.
    pub endpoint: Endpoint,
    /// Its builder.
    pub builder: Builder,
    /// Whose content tags and containers are igraph's to remove: short, `[a-z0-9]+`, the same for all runs of a workspace and for no other.
    pub owner: String,
    /// The run; containers carry it in the label `igraph.run`.
    pub run: String,
    /// Folder for what is too big for memory while layers are read; exists.
    pub scratch: PathBuf,
    /// Where secrets from the environment come from.
    pub environment: Environment,
}

/// What the daemon is.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Like `20.10.24`.
    pub version: String,
    /// Major and minor of it.
    pub number: (u32, u32),
    /// What it runs on.
    pub platform: Platform,
    /// Storage driver or snapshotter.
    pub store: String,
    /// Whether images lie in containerd, where the daemon's id is not the config's digest.
    pub containerd: bool,
    /// Whether builds go through BuildKit.
    pub buildkit: bool,
    /// Whether there is the network that containers get by default (dockerd's `--bridge none` leaves it out).
    pub bridge: bool,
}

/// Docker Engine behind the seam.
pub struct DockerEngine {
    pub(super) runtime: Runtime,
    pub(super) docker: Docker,
    pub(super) dialer: Dialer,
    /// Like `v1.41`.
    pub(super) api: String,
    pub(super) facts: Facts,
    pub(super) options: DockerOptions,
    /// Config bytes by handle; handles are content digests, so an entry never ages.
    pub(super) configs: Mutex<HashMap<String, (ImageId, Vec<u8>)>>,
    /// Diff ids by what archives call layers: legacy ids and packed blobs' digests, which are content hashes too.
    pub(super) legacy_layers: Mutex<HashMap<String, Digest>>,
}

impl DockerEngine {
    /// What keys know of it, connected or not.
    pub const IDENTITY: EngineIdentity = EngineIdentity { kind: "docker", results_version: RESULTS_VERSION };

    /// Connects, negotiates the API version and looks what the daemon is.
    ///
    /// # Errors
    /// Infra, never retried, where nothing answers or it is no Docker daemon: the message says where igraph looked.
    pub fn connect(options: DockerOptions) -> Result<Self, Failure> {
        let unreachable = |error: String| no_daemon(&options.endpoint, &error);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("igraph-docker")
            .enable_all()
            .build()
            .map_err(|error| unreachable(error.to_string()))?;
        let dialer = Dialer::new(&options.endpoint).map_err(|error| unreachable(error.to_string()))?;
        let (docker, api, facts) = runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, greet(&dialer, options.builder)).await;
            answer.unwrap_or_else(|_| Err("it does not answer".to_owned())).map_err(unreachable)
        })?;
        Ok(Self { runtime, docker, dialer, api, facts, options, configs: Mutex::default(), legacy_layers: Mutex::default() })
    }

    /// Runs `work` until it is done, cancelled or out of time. Dropping the work closes its connections, which stops the daemon's side.
    pub(super) fn run<T>(&self, attempt: &Attempt<'_>, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let timeout = async {
                match attempt.timeout {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = attempt.cancel.cancelled() => Err(Failure::stopped()),
                done = work => done,
                () = timeout => Err(timed_out(attempt.timeout.unwrap_or_default())),
            }
        })
    }

    /// A network as the daemon calls it. Where it has no bridge, the default is the host's network: BuildKit would refuse to
    /// build at all, and containers would have none.
    pub(super) fn network_mode(&self, network: Network) -> &'static str {
        match network {
            Network::Default if self.facts.bridge => "default",
            Network::Default | Network::Host => "host",
            Network::None => "none",
        }
    }

    /// Asks something small.
    pub(super) fn ask<T>(&self, what: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, work).await;
            answer.unwrap_or_else(|_| Err(Failure::infra(format!("{what}: the docker daemon does not answer"))))
        })
    }
}

async fn greet(dialer: &Dialer, builder: Builder) -> Result<(Docker, String, Facts), String> {
    let text = |error: Error| error_text(&error);
    let transport = dialer.clone();
    let send = move |request: bollard::BollardRequest| {
        let dialer = transport.clone();
        async move { dialer.send(request).await.map_err(Error::from) }
    };
    // bollard's own timeout would end long builds and loads; attempts have theirs
    let day = 24 * 60 * 60;
    let docker = Docker::connect_with_custom_transport(send, Some("http://docker"), day, bollard::API_DEFAULT_VERSION).map_err(text)?;
    let docker = docker.negotiate_version().await.map_err(text)?;
    let api = docker.client_version();
    let version = docker.version().await.map_err(text)?;
    let info = docker.info().await.map_err(text)?;
    let os = info.os_type.unwrap_or_else(|| "linux".into());
    let architecture = version.arch.or(info.architecture).unwrap_or_default();
    let platform = format!("{os}/{architecture}").parse().unwrap_or_else(|_| Platform::host());
    let status = info.driver_status.unwrap_or_default();
    let containerd = status.iter().any(|pair| pair.iter().any(|word| word.starts_with("io.containerd.snapshotter")));
    let podman = version.components.unwrap_or_default().iter().any(|component| component.name.contains("Podman"));
    let has_buildkit = os == "linux" && !podman && (api.major_version, api.minor_version) >= (1, 39);
    if builder == Builder::BuildKit && !has_buildkit {
        return Err("it has no BuildKit, which was asked for".to_owned());
    }
    let version = version.version.unwrap_or_default();
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    let facts = Facts {
        number: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        version,
        platform,
        store: info.driver.unwrap_or_default(),
        containerd,
        buildkit: has_buildkit && builder != Builder::Classic,
        bridge: podman || docker.inspect_network("bridge", None).await.is_ok(),
    };
    Ok((docker, format!("v{}.{}", api.major_version, api.minor_version), facts))
}

fn no_daemon(endpoint: &Endpoint, error: &str) -> Failure {
    let message = format!(
        "no Docker daemon at `{}` ({}): {error}; looked at --engine docker=URL and the workspace's engine, DOCKER_HOST, DOCKER_CONTEXT, \
         the current docker context, then unix://{}",
        endpoint.url,
        endpoint.origin,
        super::endpoint::DEFAULT_SOCKET
    );
    let hint = "start one (as root: `dockerd &`, or `systemctl start docker`; on Debian `apt-get install docker.io` brings it), or name another \
                with DOCKER_HOST or --engine docker=URL; `igraph doctor` shows what works here";
    Failure::infra(message).retry(Retry::Never).hint(hint).group(format!("engine {}", endpoint.url))
}

/// What an error of bollard says, without its wrapping.
pub(super) fn error_text(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        Error::RequestTimeoutError => "it does not answer".to_owned(),
        other => other.to_string(),
    }
}

/// An error of the daemon that is nobody's step: infra, with a full disk told apart.
pub(super) fn daemon_failure(what: &str, error: &Error) -> Failure {
    infra_text(what, &error_text(error))
}

/// As [`daemon_failure`], from a text.
pub(super) fn infra_text(what: &str, text: &str) -> Failure {
    let failure = Failure::infra(format!("{what}: {text}"));
    if text.to_ascii_lowercase().contains("no space left on device") {
        return failure
            .retry(Retry::Never)
            .group("disk")
            .hint("make room where the daemon keeps its data; `igraph gc` removes what igraph left there");
    }
    failure
}

/// The HTTP status of an error, where there is one.
pub(super) fn status_of(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Locks; a thread that panicked with the lock left only a cache.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine for DockerEngine {
    fn identity(&self) -> EngineIdentity {
        Self::IDENTITY
    }

    fn description(&self) -> String {
        let builder = if self.facts.buildkit { "BuildKit" } else { "classic builder" };
        let store = if self.facts.containerd { format!("containerd store, {}", self.facts.store) } else { self.facts.store.clone() };
        format!("docker {} at {} ({store}, {builder})", self.facts.version, self.options.endpoint.url)
    }

    fn refusals(&self, dockerfile: &Dockerfile, resolved: &Resolved, secrets_or_ssh: bool) -> Vec<Problem> {
        super::refuse::refusals(&self.facts, dockerfile, resolved, secrets_or_ssh)
    }

    fn find(&self, id: ImageId) -> Result<Option<EngineImage>, Failure> {
        self.find_image(id)
    }

    fn load(&self, source: &dyn ImageSource, platform: &Platform, slug: &str, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        self.load_image(source, platform, slug, attempt)
    }

    fn config(&self, image: &EngineImage) -> Result<ImageConfig, Failure> {
        self.image_config(image)
    }

    fn build(&self, request: &BuildRequest<'_>, attempt: &Attempt<'_>) -> Result<EngineImage, Failure> {
        self.build_request(request, attempt)
    }

    fn test(&self, request: &TestRequest<'_>, attempt: &Attempt<'_>) -> Result<(), Failure> {
        self.run_test(request, attempt)
    }

    fn tag(&self, image: &EngineImage, name: &Reference) -> Result<(), Failure> {
        self.tag_image(image, name)
    }

    fn named(&self, name: &Reference) -> Result<Option<ImageId>, Failure> {
        self.named_image(name)
    }

    fn export(
        &self,
        images: &[EngineImage],
        wanted: &BTreeSet<Digest>,
        sink: &mut dyn ExportSink,
        attempt: &Attempt<'_>,
    ) -> Result<(), Failure> {
        self.export_images(images, wanted, sink, attempt)
    }

    fn discard(&self, image: &EngineImage) -> Result<(), Failure> {
        self.discard_image(image)
    }

    fn collect(&self, keep: &BTreeSet<ImageId>, _: &Limits, dry_run: bool) -> Result<Collected, Failure> {
        self.collect_garbage(keep, dry_run)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn timeouts_read_as_they_are_written() {
        for (milliseconds, text) in [(300_000, "5m"), (90_000, "1m30s"), (2_000, "2s"), (1_500, "1.500s"), (250, "250ms")] {
            assert_eq!(timed_out(Duration::from_millis(milliseconds)).message, format!("timed out after {text}"));
        }
    }

    #[test]
    fn nothing_there_says_where_igraph_looked() {
        let folder = tempfile::tempdir().unwrap();
        let environment = BTreeMap::from([("DOCKER_HOST".to_owned(), format!("unix://{}/none.sock", folder.path().display()))]);
        let inputs = super::super::EndpointInputs { explicit: None, environment: &environment, config_folder: None };
        let failure = DockerEngine::connect(DockerOptions {
            endpoint: super::super::choose_endpoint(inputs).unwrap(),
            builder: Builder::Auto,
            owner: "t".into(),
            run: "t".into(),
            scratch: folder.path().into(),
            environment: std::sync::Arc::new(|_| None),
        })
        .err()
        .unwrap();
        let message = failure.message.replace(folder.path().to_str().unwrap(), "FOLDER");
        assert_eq!(
            message,
            "no Docker daemon at `unix://FOLDER/none.sock` (DOCKER_HOST): No such file or directory (os error 2); looked at --engine docker=URL \
             and the workspace's engine, DOCKER_HOST, DOCKER_CONTEXT, the current docker context, then unix:///var/run/docker.sock"
        );
        assert_eq!(failure.retry, Retry::Never);
        assert!(failure.hint.unwrap().contains("dockerd"));
    }
}
