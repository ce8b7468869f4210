//! A workspace in a temporary folder, the program run in it against the engine that pretends, and images put into a scripted registry.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use igraph::digest::Digest;
use igraph::image::{Compression, LayerBlob};
use igraph::registry::image_manifest;

use crate::registry::Registry;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A workspace.
pub struct World {
    folder: tempfile::TempDir,
    /// How far the clock is set ahead, like `8d`.
    ahead: std::cell::RefCell<String>,
}

/// What the program said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The code, and both streams for people who read the failure.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "`{text}` is missing in:\n{}{}", self.err, self.out);
        self
    }

    pub fn silent_about(self, text: &str) -> Self {
        assert!(!self.err.contains(text), "`{text}` stands in:\n{}", self.err);
        self
    }

    /// The labels of the finished lines with this word, sorted.
    pub fn labels(&self, word: &str) -> Vec<String> {
        let mut labels: Vec<String> = self
            .err
            .lines()
            .filter(|line| line.trim_start().starts_with(&format!("{word} ")))
            .filter_map(|line| line.split_whitespace().find(|part| part.contains("//")).map(str::to_owned))
            .collect();
        labels.sort();
        labels
    }
}

impl World {
    /// With this Workspace rule; retries come at once.
    pub fn new(workspace: &str) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), ahead: Default::default() };
        let fields = if workspace.is_empty() { String::new() } else { format!("{workspace},") };
        world.write(
            "BUILD.ron",
            &format!("Workspace(packages: \"images\", {fields} retries: (max: 1, delay: \"10ms\", max_delay: \"10ms\", max_wait: \"5s\"))"),
        );
        world
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn write_program(&self, path: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.write(path, text);
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// One image in a package of its own: the name of the package is that of the image's only test's subject.
    pub fn image(&self, package: &str, from: &str, fields: &str) {
        self.write(&format!("images/{package}/Dockerfile"), &format!("FROM {from}\nRUN make {package}\n"));
        self.write(
            &format!("images/{package}/BUILD.ron"),
            &format!("Package(rules: [Test(name: \"t\", run: [\"true\"]), Image(name: \"1\", tests: [\":t\"], {fields})])"),
        );
    }

    /// Writes an image as the folder `layout`: its image id.
    pub fn layout(&self, registry: &Registry, word: &str) -> String {
        let blobs = self.path("layout/blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let manifest = add_image(registry, "x", host_architecture(), word);
        let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let digest = |value: &serde_json::Value| -> Digest { value["digest"].as_str().unwrap().parse().unwrap() };
        for digest in [digest(&parsed["config"]), digest(&parsed["layers"][0])] {
            std::fs::write(blobs.join(digest.hex()), registry.blob_bytes("x", digest).unwrap()).unwrap();
        }
        std::fs::write(blobs.join(Digest::of(&manifest).hex()), &manifest).unwrap();
        self.write("layout/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        let entry = serde_json::json!({"mediaType": MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len()});
        self.write("layout/index.json", &serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string());
        digest(&parsed["config"]).to_string()
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.args(arguments).env_clear().current_dir(self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.folder.path().join("home"));
        command.env("IGRAPH_TEST_AHEAD", &*self.ahead.borrow());
        command
    }

    /// Sets the clock of all later runs ahead of the true one.
    pub fn set_clock(&self, ahead: &str) {
        *self.ahead.borrow_mut() = ahead.to_owned();
    }

    /// Runs it with the engine that pretends, whose calls since the last run [`Self::engine_calls`] tells.
    pub fn igraph(&self, arguments: &[&str]) -> Ran {
        let log = self.path("engine.log");
        let _ = std::fs::remove_file(&log);
        ran(self.command(arguments).env("IGRAPH_TEST_ENGINE", "fake").env("IGRAPH_FAKE_LOG", log).output().unwrap())
    }

    /// A verb with the engine that pretends.
    pub fn verb(&self, arguments: &[&str]) -> Ran {
        self.igraph(&[arguments, &["--engine", "fake", "--console", "plain"]].concat())
    }

    /// The calls of the last run.
    pub fn engine_calls(&self) -> String {
        std::fs::read_to_string(self.path("engine.log")).unwrap_or_default()
    }

    /// Everything below the folder but igraph's own, so that "nothing changed" can be said.
    pub fn lock(&self) -> Option<String> {
        std::fs::read_to_string(self.path("igraph.lock")).ok()
    }
}

pub fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// A tar with one file.
pub fn tar_of(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

/// Puts an image of one layer into a repository under its digest: its manifest.
pub fn add_image(registry: &Registry, repository: &str, architecture: &str, word: &str) -> Vec<u8> {
    let tar = tar_of("etc/word", &format!("{architecture} {word}"));
    let mut packed = Vec::new();
    igraph::registry::pack(&mut tar.as_slice(), &mut packed).unwrap();
    let diff_id = Digest::of(&tar);
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "created": "2026-11-01T00:00:00Z",
        "config": {"Env": [format!("WORD={word}")]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2026-11-01T00:00:00Z"}],
    });
    let config = serde_json::to_vec(&config).unwrap();
    registry.add_blob(repository, &config);
    let digest = registry.add_blob(repository, &packed);
    let layer = LayerBlob { diff_id, digest, size: packed.len() as u64, compression: Compression::Gzip };
    let manifest = image_manifest(&config, &[layer]);
    let digest = Digest::of(&manifest);
    registry.add_manifest(repository, &digest.to_string(), MANIFEST, &manifest);
    manifest
}

/// Puts an image for this machine under a tag: its manifest's digest.
pub fn publish(registry: &Registry, repository: &str, tag: &str, word: &str) -> Digest {
    let manifest = add_image(registry, repository, host_architecture(), word);
    registry.add_manifest(repository, tag, MANIFEST, &manifest)
}

/// Puts an index under a tag: architecture and word of each image; the index's digest.
pub fn publish_index(registry: &Registry, repository: &str, tag: &str, images: &[(&str, &str)]) -> Digest {
    let entries: Vec<serde_json::Value> = images
        .iter()
        .map(|(architecture, word)| {
            let manifest = add_image(registry, repository, architecture, word);
            serde_json::json!({
                "mediaType": MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len(),
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    registry.add_manifest(repository, tag, INDEX, &serde_json::to_vec(&index).unwrap())
}

/// Digest of the manifest for an architecture and a word.
pub fn manifest_of(architecture: &str, word: &str) -> Digest {
    Digest::of(&add_image(&Registry::start(), "x", architecture, word))
}

pub fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Another than the host's.
pub fn other_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" }
}

/// Methods and paths since the last call, the probe of `/v2/` and the like left as they are.
pub fn asked(registry: &Registry) -> Vec<String> {
    registry.take_requests().into_iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
}

/// The first field of each line that has a tab.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
