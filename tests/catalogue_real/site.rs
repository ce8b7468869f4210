//! Where the tests play: a daemon and a registry, each behind a proxy that counts, and igraph run as a user runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use igraph::cancel::Cancel;
use igraph::clock::{ManualClock, Timestamp};
use igraph::digest::{Digest, ImageId};
use igraph::event::{Event, Outcome};
use igraph::image::ImageSource;
use igraph::registry::{Client, ClientConfig, NoCredentials};

use super::catalogue::Workspace;
use super::docker_registry::DockerRegistry;
use super::proxy::{Asked, Proxy};
use super::support::{Dockerd, skip};

/// Daemon, registry, proxies, and a folder for workspaces.
pub struct Site {
    pub dockerd: Option<Arc<Dockerd>>,
    pub registry: Option<DockerRegistry>,
    pub engine: Proxy,
    pub front: Proxy,
    /// The registry's address as igraph knows it.
    pub host: String,
    socket: PathBuf,
    pub folder: tempfile::TempDir,
}

/// How igraph ended.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Site {
    /// With the daemon of this process, or one of its own.
    pub fn start(test: &str, own_daemon: bool) -> Option<Self> {
        let dockerd = if own_daemon { Self::daemon(test)? } else { Dockerd::shared(test)? };
        let registry = DockerRegistry::start(test, None)?;
        // short: the path of a socket has at most 107 bytes
        let folder = tempfile::Builder::new().prefix("ig-real-").tempdir_in("/tmp").unwrap();
        let socket = folder.path().join("docker.sock");
        let engine = Proxy::unix(&socket, &dockerd.socket());
        let (front, host) = Proxy::tcp(&registry.host);
        Some(Self { dockerd: Some(dockerd), registry: Some(registry), engine, front, host, socket, folder })
    }

    /// A fresh daemon.
    pub fn daemon(test: &str) -> Option<Arc<Dockerd>> {
        match Dockerd::start() {
            Ok(daemon) => Some(Arc::new(daemon)),
            Err(why) => {
                skip(test, &why);
                None
            }
        }
    }

    /// Goes on with an empty daemon.
    pub fn change_daemon(&mut self, dockerd: Arc<Dockerd>) {
        self.socket = self.folder.path().join(format!("docker-{}.sock", self.socket.as_os_str().len()));
        self.engine = Proxy::unix(&self.socket, &dockerd.socket());
        self.dockerd = Some(dockerd);
    }

    /// The catalogue, with its base in the registry; nothing of it is built.
    pub fn catalogue(&self) -> Workspace {
        let bases = Workspace::of_bases(&self.folder.path().join("bases"), &self.host);
        self.igraph(&bases.root, &["push", "//..."]).done();
        self.calls();
        Workspace::of_catalogue(&self.folder.path().join("one"), &self.host)
    }

    /// The program, to be run in a folder.
    pub fn command(&self, root: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.args(arguments);
        self.prepare(root, command)
    }

    /// A script, to be run by bash in a folder, with igraph and git at hand.
    pub fn shell(&self, root: &Path, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]);
        let mut command = self.prepare(root, command);
        let program = Path::new(env!("CARGO_BIN_EXE_igraph")).parent().unwrap();
        command.env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default()));
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "igraph").env(format!("GIT_{who}_EMAIL"), "igraph@localhost");
        }
        command
    }

    fn prepare(&self, root: &Path, mut command: Command) -> Command {
        command.current_dir(root).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path().join("home"));
        command.env("TOKEN", "tell-nobody");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command
    }

    /// Runs it.
    pub fn igraph(&self, root: &Path, arguments: &[&str]) -> Ran {
        Ran::of(self.command(root, arguments).output().unwrap())
    }

    /// Runs it for its events.
    pub fn events(&self, root: &Path, arguments: &[&str]) -> Ran {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.igraph(root, &all)
    }

    /// How often engine and registry were asked since the last call.
    pub fn calls(&self) -> (usize, usize) {
        (self.engine.take().len(), self.front.take().len())
    }

    /// Digest of the manifest that a name has in the registry, and the image id that manifest names.
    pub fn published(&self, name: &str) -> Option<(Digest, ImageId)> {
        let registry = self.registry.as_ref().unwrap();
        let client = Client::new(ClientConfig::new(Box::new(NoCredentials), Arc::new(ManualClock::new(Timestamp(0))))).unwrap();
        let (reference, cancel) = (registry.reference(name), Cancel::new());
        let head = client.head_manifest(&reference, &cancel).unwrap()?;
        let image = client.image(&reference.with_digest(head.digest), &cancel).unwrap();
        Some((head.digest, ImageId(Digest::of(image.config()))))
    }

    /// All names of these in the registry, with their manifests.
    pub fn names<'n>(&self, names: &[&'n str]) -> BTreeMap<&'n str, Digest> {
        names.iter().filter_map(|name| Some((*name, self.published(name)?.0))).collect()
    }

    /// Takes a tag out of the registry, behind everybody's back.
    pub fn delete_remote(&self, repository: &str, tag: &str) {
        let files = self.registry.as_ref().unwrap().files();
        std::fs::remove_dir_all(files.join("repositories").join(repository).join("_manifests/tags").join(tag)).unwrap();
    }

    /// What the daemon itself answers: status and JSON.
    pub fn docker(&self, method: &str, path: &str) -> (u16, serde_json::Value) {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.dockerd.as_ref().unwrap().socket()).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// The id of a local image.
    pub fn local(&self, name: &str) -> Option<String> {
        let (status, image) = self.docker("GET", &format!("/images/{name}/json"));
        (status == 200).then(|| image["Id"].as_str().unwrap().to_owned())
    }

    /// Every tag in the daemon.
    pub fn local_tags(&self) -> BTreeSet<String> {
        let (_, images) = self.docker("GET", "/images/json");
        let tags = images.as_array().unwrap().iter().flat_map(|image| image["RepoTags"].as_array().cloned().unwrap_or_default());
        tags.map(|tag| tag.as_str().unwrap().to_owned()).collect()
    }

    /// Containers in the daemon, running or not.
    pub fn containers(&self) -> usize {
        self.docker("GET", "/containers/json?all=1").1.as_array().unwrap().len()
    }

    /// Removes every image and the build cache.
    pub fn forget_images(&self) {
        let (_, images) = self.docker("GET", "/images/json?all=1");
        for image in images.as_array().unwrap() {
            self.docker("DELETE", &format!("/images/{}?force=1", image["Id"].as_str().unwrap()));
        }
        assert_eq!(self.docker("POST", "/build/prune?all=1").0, 200);
        let (_, images) = self.docker("GET", "/images/json?all=1");
        assert_eq!(images.as_array().unwrap().len(), 0, "{images}");
    }
}

/// Builds among the calls of an engine.
pub fn builds(asked: &[Asked]) -> usize {
    asked.iter().filter(|one| one.method == "POST" && one.path.split('?').next().is_some_and(|path| path.ends_with("/build"))).count()
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It must have ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    /// It must have ended well.
    #[track_caller]
    pub fn done(self) -> Self {
        self.code(0)
    }

    /// It must have found nothing to do.
    #[track_caller]
    pub fn idle(self) {
        let ran = self.done();
        assert!(ran.err.contains("nothing to do") && ran.err.lines().count() == 1, "{}{}", ran.out, ran.err);
    }

    /// The events on stdout.
    pub fn stream(&self) -> Vec<Event> {
        // the first line names the schema
        self.out.lines().skip(1).map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// What became of each node that is not fresh, and why it ran: sorted lines, with ids of images cut out.
    pub fn story(&self) -> String {
        let mut lines = Vec::new();
        for event in self.stream() {
            let Event::NodeFinished { node, outcome, reasons, .. } = event else { continue };
            let word = match outcome {
                Outcome::Fresh => continue,
                Outcome::Succeeded { .. } => "done".to_owned(),
                Outcome::Flaky { .. } => "flaky".to_owned(),
                Outcome::Failed { failure } => format!("failed, {}", failure.message.lines().next().unwrap_or_default()),
                Outcome::Skipped { cause } => format!("skipped, {cause}"),
                Outcome::Blocked { reason } => format!("blocked, {reason}"),
                Outcome::Cancelled => "cancelled".to_owned(),
            };
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            let colon = if reasons.is_empty() { "" } else { ": " };
            lines.push(format!("{node} {word}{colon}{}", reasons.join("; ")));
        }
        lines.sort();
        plain(&lines.join("\n"))
    }

    /// Warnings, with ids and times cut out.
    pub fn warnings(&self) -> Vec<String> {
        let text = |event| match event {
            Event::Warning { message, .. } => Some(plain(&message)),
            _ => None,
        };
        let mut warnings: Vec<String> = self.stream().into_iter().filter_map(text).collect();
        warnings.sort();
        warnings
    }
}

/// Text without what differs from run to run: ids, ports, times.
pub fn plain(text: &str) -> String {
    let cut = |text: String, pattern: &str, by: &str| regex::Regex::new(pattern).unwrap().replace_all(&text, by).into_owned();
    let text = cut(text.to_owned(), r"127\.0\.0\.1:\d+", "REG");
    let text = cut(text, r"\b(sha256:)?[0-9a-f]{64}\b", "ID");
    let text = cut(text, r"\b[0-9a-f]{12}\b", "ID");
    let text = cut(text, r"in run [0-9a-z]{4}", "in run RUN");
    cut(text, r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME")
}
