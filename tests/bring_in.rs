//! What the embedded engine brings in: layers packed in every way, several at once where they come over a network, and nothing of an
//! image whose bytes are not what its config says.

#[path = "support/registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod registry;
mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use igraph::cancel::Cancel;
use igraph::digest::{Digest, Key};
use igraph::engine::embedded::{EmbeddedEngine, EmbeddedOptions};
use igraph::engine::{Attempt, Engine, Limits, Output};
use igraph::event::Stream;
use igraph::failure::Failure;
use igraph::image::{Compression, ImageSource, LayerBlob};
use igraph::registry::{MEDIA_TYPE_MANIFEST, image_manifest, pack_as};
use registry::Registry;
use support::daemonless::{Daemonless, ended};
use support::{RootfsImage, skip};

struct Silent;

impl Output for Silent {
    fn line(&self, _: Stream, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

fn engine(test: &str, folder: &tempfile::TempDir) -> Option<EmbeddedEngine> {
    if !nix::unistd::geteuid().is_root() {
        skip(test, "the embedded engine needs root here");
        return None;
    }
    let store = folder.path().join("store");
    let environment = Arc::new(|_: &str| None);
    Some(
        EmbeddedEngine::open(EmbeddedOptions {
            store,
            runner: env!("CARGO_BIN_EXE_igraph").into(),
            owner: "t".into(),
            environment,
            afresh: false,
        })
        .unwrap(),
    )
}

fn layer(path: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, path, content).unwrap();
    builder.into_inner().unwrap()
}

/// Layers over a slow network: the first one ends only when `wanted` of them are on their way.
struct Slow {
    config: Vec<u8>,
    layers: Vec<LayerBlob>,
    bytes: Vec<Vec<u8>>,
    wanted: usize,
    open: Mutex<usize>,
    opened: Condvar,
    most: AtomicUsize,
}

impl Slow {
    fn new(tars: &[Vec<u8>], packed: &[Compression], wanted: usize) -> Self {
        let plain = RootfsImage::of_layers(tars.to_vec(), &[]);
        let mut bytes = Vec::new();
        let mut layers = Vec::new();
        for (tar, compression) in tars.iter().zip(packed.iter().cycle()) {
            let mut out = Vec::new();
            let packed = pack_as(*compression, &mut tar.as_slice(), &mut out).unwrap();
            layers.push(LayerBlob { diff_id: packed.diff_id, digest: packed.digest, size: packed.size, compression: *compression });
            bytes.push(out);
        }
        let config = plain.config().to_vec();
        Self { config, layers, bytes, wanted, open: Mutex::new(0), opened: Condvar::new(), most: AtomicUsize::new(0) }
    }
}

struct Waiting<'a> {
    source: &'a Slow,
    rest: &'a [u8],
}

impl Read for Waiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let open = self.source.open.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (_open, late) = self.source.opened.wait_timeout_while(open, patience, |open| *open < self.source.wanted).unwrap();
        assert!(!late.timed_out(), "the other layers do not come");
        self.rest.read(buffer)
    }
}

impl ImageSource for Slow {
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        let mut open = self.open.lock().unwrap();
        *open += 1;
        self.most.fetch_max(*open, Ordering::Relaxed);
        self.opened.notify_all();
        Ok(Box::new(Waiting { source: self, rest: &self.bytes[index] }))
    }
}

#[test]
fn layers_come_together_and_are_stacked_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let Some(engine) = engine("layers_come_together", &folder) else { return };
    let tars: Vec<Vec<u8>> = (0..6).map(|number| layer("which", format!("layer {number}").as_bytes())).collect();
    let source = Slow::new(&tars, &[Compression::Gzip, Compression::Zstd, Compression::None], 4);
    let cancel = Cancel::new();
    let attempt = Attempt { cancel: &cancel, output: &Silent, timeout: None };
    let platform = igraph::platform::Platform::host();
    let image = engine.load(&source, &platform, "x", &attempt).unwrap();
    assert_eq!(image.id, source.image_id());
    assert_eq!(source.most.load(Ordering::Relaxed), 6);
    // again, nothing is asked for
    *source.open.lock().unwrap() = 0;
    engine.load(&source, &platform, "x", &attempt).unwrap();
    assert_eq!(*source.open.lock().unwrap(), 0);
}

#[test]
fn a_layer_that_is_not_what_the_config_says_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(engine) = engine("a_layer_that_is_not", &folder) else { return };
    let tars: Vec<Vec<u8>> = (0..3).map(|number| layer("which", format!("layer {number}").as_bytes())).collect();
    let mut source = Slow::new(&tars, &[Compression::Zstd], 1);
    source.bytes[1] = zstd::stream::encode_all(layer("which", b"another").as_slice(), 1).unwrap();
    let cancel = Cancel::new();
    let attempt = Attempt { cancel: &cancel, output: &Silent, timeout: None };
    let failure = engine.load(&source, &igraph::platform::Platform::host(), "x", &attempt).unwrap_err();
    let (wanted, came) = (source.layers[1].diff_id, Digest::of(&layer("which", b"another")));
    assert_eq!(failure.message, format!("layer {} came as {}", wanted.short(), came.short()));
    assert_eq!(engine.find(source.image_id()).unwrap(), None);
}

#[test]
fn a_root_file_system_is_remembered_as_long_as_its_layer_is_here() {
    let folder = tempfile::tempdir().unwrap();
    let Some(engine) = engine("a_root_file_system_is_remembered", &folder) else { return };
    let source = Slow::new(&[layer("which", b"it")], &[Compression::None], 1);
    let (key, other) = (Key::from_bytes([1; 32]), Key::from_bytes([2; 32]));
    let diff_id = source.layers[0].diff_id;
    engine.remember(&key, diff_id);
    assert_eq!(engine.remembered(&key), None, "it was measured, and not brought in");
    let cancel = Cancel::new();
    let attempt = Attempt { cancel: &cancel, output: &Silent, timeout: None };
    engine.load(&source, &igraph::platform::Platform::host(), "x", &attempt).unwrap();
    assert_eq!((engine.remembered(&key), engine.remembered(&other)), (Some(diff_id), None));
    engine.collect(&BTreeSet::new(), &Limits { size: Some(0), ..Limits::default() }, false).unwrap();
    assert_eq!((engine.remembered(&key), engine.find(source.image_id()).unwrap()), (None, None));
}

/// Records are gone, the store stays: what comes out is the same, and another tar is another base.
#[test]
fn without_records_a_base_is_still_what_its_tar_is() {
    let Some(world) = Daemonless::new("without_records_a_base") else { return };
    let store = world.path("store");
    let id = || {
        let mut command = world.command("build --show-output //app:1");
        command.env("IGRAPH_STORE", &store);
        let out = ended(command).with(0).out;
        std::fs::remove_dir_all(world.path("w/igraph-out")).unwrap();
        out
    };
    let ids = [id(), id(), id()];
    assert!(ids.iter().all(|id| *id == ids[0] && id.contains("sha256:")), "{ids:?}");
    let tar = world.path("w/images/base/shell.tar");
    let plain = std::fs::read(&tar).unwrap();
    std::fs::write(&tar, [plain.as_slice(), &[0; 1024]].concat()).unwrap();
    let others = [id(), id()];
    assert!(others[0] == others[1] && others[0] != ids[0], "{others:?}");
    std::fs::write(&tar, plain).unwrap();
    assert_eq!(id(), ids[0]);
}

#[test]
fn zstd_goes_out_and_comes_in() {
    let Some(world) = Daemonless::new("zstd_goes_out") else { return };
    let workspace = std::fs::read_to_string(world.path("w/BUILD.ron")).unwrap();
    world.igraph("build //app:1").with(0);
    let id = world.id("//app:1");
    world.write("w/BUILD.ron", workspace.replace("Workspace(", "Workspace(compression: Zstd, "));
    world.igraph("build //app:1").with(0).says("nothing to do");
    world.igraph("export //app:1 oci:images/base/layout").with(0);
    let index = std::fs::read_to_string(world.path("w/images/base/layout/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let manifest = std::fs::read_to_string(world.path("w/images/base/layout/blobs/sha256").join(manifest)).unwrap();
    assert_eq!(manifest.matches("tar+zstd").count(), 3, "{manifest}");
    let base = "Package(rules: [Base(name: \"back\", provides: [\"back:1\"], from: OciLayout(\"layout\"))])\n";
    world.write("w/images/base/BUILD.ron", base).write("w/images/app/Dockerfile", "FROM back:1\nRUN cat /said /deep/link\n");
    std::fs::remove_dir_all(world.path("w/igraph-out")).unwrap();
    world.igraph("test //app:1").with(0);
    // the step changed nothing but the config: all layers are those that went out
    let again = world.igraph("verify //app:1").with(0);
    assert!(again.err.contains("3 layers"), "{} {id}", again.err);
    world.write("w/BUILD.ron", workspace.replace("Workspace(", "Workspace(compression: Brotli, "));
    world.igraph("check").with(2).says("`compression` is `Gzip` or `Zstd`");
}

/// Puts an image of the layers there, each packed in its way; its manifest.
fn publish(registry: &Registry, repository: &str, architecture: &str, tars: &[Vec<u8>], packed: &[Compression]) -> Vec<u8> {
    let source = Slow::new(tars, packed, 0);
    let mut config: serde_json::Value = serde_json::from_slice(&source.config).unwrap();
    config["architecture"] = architecture.into();
    let config = serde_json::to_vec(&config).unwrap();
    registry.add_blob(repository, &config);
    for bytes in &source.bytes {
        registry.add_blob(repository, bytes);
    }
    let manifest = image_manifest(&config, &source.layers);
    registry.add_manifest(repository, &Digest::of(&manifest).to_string(), MEDIA_TYPE_MANIFEST, &manifest);
    manifest
}

/// An index under `name`, of the images for this machine and for another; the other's digest.
fn publish_index(
    registry: &Registry,
    (repository, name): (&str, &str),
    tars: &[Vec<u8>],
    other: &[Vec<u8>],
    packed: &[Compression],
) -> Digest {
    let (own_architecture, other_architecture) = if cfg!(target_arch = "aarch64") { ("arm64", "amd64") } else { ("amd64", "arm64") };
    let foreign = publish(registry, repository, other_architecture, other, packed);
    let own = publish(registry, repository, own_architecture, tars, packed);
    let entry = |manifest: &[u8], architecture: &str| {
        serde_json::json!({
            "mediaType": MEDIA_TYPE_MANIFEST, "digest": Digest::of(manifest), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&foreign, other_architecture), entry(&own, own_architecture)],
    });
    registry.add_manifest(repository, name, "application/vnd.oci.image.index.v1+json", &serde_json::to_vec(&index).unwrap());
    Digest::of(&foreign)
}

/// FROM and COPY `--from` of indexes whose layers are packed in every way, and the same packed otherwise: the same image.
#[test]
fn indexes_are_built_on_and_copied_from() {
    let Some(world) = Daemonless::new("indexes_are_built_on") else { return };
    let shell = RootfsImage::with_shell(&[], &[]).layer_bytes()[0].clone();
    let mut ids = Vec::new();
    for packed in [&[Compression::Zstd][..], &[Compression::Gzip, Compression::Zstd, Compression::None], &[Compression::Gzip]] {
        let registry = Registry::start();
        let host = registry.host().to_owned();
        let tars = [shell.clone(), layer("which", b"mine"), layer("also", b"also")];
        let other = [layer("which", b"foreign")];
        let foreign = [
            publish_index(&registry, ("os/shell", "1"), &tars, &other, packed),
            publish_index(&registry, ("os/data", "1"), &tars[1..], &other, packed),
        ];
        let dockerfile = format!("FROM {host}/os/shell:1\nCOPY --from={host}/os/data:1 /which /copied\nRUN cat /which /copied > /both\n");
        world.write("w/images/app/Dockerfile", dockerfile);
        let rules =
            "Package(rules: [Image(name: \"1\", tests: [\":both\"]), Test(name: \"both\", run: [\"test $(cat /both) = minemine\"])])";
        world.write("w/images/app/BUILD.ron", rules);
        drop(std::fs::remove_dir_all(world.path("w/igraph-out")));
        world.igraph("test //app:1").with(0);
        ids.push(world.id("//app:1"));
        let asked: Vec<String> = registry.take_requests().into_iter().map(|seen| seen.path).collect();
        assert!(asked.iter().all(|path| foreign.iter().all(|digest| !path.contains(&digest.to_string()))), "{asked:#?}");
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}
