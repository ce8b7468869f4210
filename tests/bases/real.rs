//! A real daemon and a real registry: what is pulled, built on, pushed and brought back.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use igraph::cancel::Cancel;
use igraph::clock::{ManualClock, Timestamp};
use igraph::digest::Digest;
use igraph::failure::Failure;
use igraph::image::{Compression, ImageSource};
use igraph::reference::Reference;
use igraph::registry::{Client, ClientConfig, KnownBlob, LayerProvider, NoCredentials, PackedLayer, move_name, no_progress, upload_image};

use crate::support::{Dockerd, RootfsImage, skip};
use crate::world::*;

/// docker-registry on a free port of loopback.
pub struct DockerRegistry {
    child: Child,
    pub host: String,
    pub client: Client,
    folder: tempfile::TempDir,
}

impl DockerRegistry {
    /// `None`, said aloud, where it can't run.
    pub fn start(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = folder.path().display();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 127.0.0.1:{port}\n"
        );
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            skip(test, "`docker-registry` is not installed");
            return None;
        };
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let client = Client::new(ClientConfig::new(Box::new(NoCredentials), clock)).unwrap();
        let mut registry = Self { child, host: format!("127.0.0.1:{port}"), client, folder };
        while std::net::TcpStream::connect(&registry.host).is_err() {
            assert!(registry.child.try_wait().unwrap().is_none(), "docker-registry ended at once");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(registry)
    }

    pub fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    /// Puts an image there, its layers packed by another program than igraph's packer; returns the manifest's digest.
    pub fn put(&self, name: &str, config: &[u8], layers: &[Vec<u8>]) -> Digest {
        let mut packed = Vec::new();
        for layer in layers {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(layer).unwrap();
            let bytes = encoder.finish().unwrap();
            let path = self.folder.path().join(Digest::of(layer).hex());
            std::fs::write(&path, &bytes).unwrap();
            packed.push((Digest::of(layer), path, bytes));
        }
        let diff_ids: Vec<Digest> = packed.iter().map(|(diff_id, ..)| *diff_id).collect();
        let (reference, cancel) = (self.reference(name), Cancel::new());
        let uploaded = upload_image(&self.client, &reference, config, &diff_ids, &Packed(packed), &cancel, &no_progress).unwrap();
        self.name(name, &uploaded.manifest_bytes, MANIFEST);
        uploaded.manifest_digest
    }

    pub fn name(&self, name: &str, bytes: &[u8], media_type: &str) {
        move_name(&self.client, &self.reference(name), bytes, media_type, &BTreeSet::new(), &Cancel::new()).unwrap();
    }

    /// Digests of the packed layers under a name, base first, and the config.
    pub fn image(&self, name: &str) -> (Vec<Digest>, serde_json::Value) {
        let image = self.client.image(&self.reference(name), &Cancel::new()).unwrap();
        (image.layers().iter().map(|layer| layer.digest).collect(), serde_json::from_slice(image.config()).unwrap())
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Packed(Vec<(Digest, PathBuf, Vec<u8>)>);

impl LayerProvider for Packed {
    fn known(&self, _: Digest) -> Vec<KnownBlob> {
        Vec::new()
    }

    fn packed(&self, diff_id: Digest) -> Result<PackedLayer, Failure> {
        let (_, path, bytes) = self.0.iter().find(|(own, ..)| *own == diff_id).unwrap();
        Ok(PackedLayer { path: path.clone(), digest: Digest::of(bytes), size: bytes.len() as u64, compression: Compression::Gzip })
    }
}

fn engine(daemon: &Dockerd) -> String {
    format!("docker={}", daemon.url())
}

fn run(world: &World, daemon: &Dockerd, arguments: &[&str]) -> Ran {
    ran(world.command(&[arguments, &["--engine", &engine(daemon), "--console", "plain"]].concat()).output().unwrap())
}

#[test]
fn a_registry_base_is_pulled_built_on_and_pushed_byte_for_byte() {
    let name = "a_registry_base_is_pulled_built_on_and_pushed_byte_for_byte";
    let (Some(daemon), Some(registry)) = (Dockerd::shared(name), DockerRegistry::start(name)) else { return };
    let world = World::new(&format!("registry: \"{}\"", registry.host));
    let base = RootfsImage::with_shell(&[], &["WORD=first"]);
    registry.put("os/shell:1", base.config(), base.layer_bytes());
    let (base_layers, _) = registry.image("os/shell:1");
    let from = format!("{}/os/shell:1", registry.host);
    world.write("images/app/Dockerfile", &format!("FROM {from}\nRUN echo $WORD > /word\n"));
    world.write("images/app/file", "x");
    world.write(
        "images/app/BUILD.ron",
        "Package(repository: \"team/app\", rules: [Test(name: \"t\", run: [\"grep -q $WORD /word\"]), \
         Image(name: \"1\", tests: [\":t\"], aliases: [\"latest\"])])",
    );
    run(&world, &daemon, &["push"]).expect(0);
    let (first, config) = registry.image("team/app:1");
    assert_eq!(first[..base_layers.len()], base_layers[..], "the base's blobs as they are");
    assert_eq!(config["config"]["Env"][0], "WORD=first");
    run(&world, &daemon, &["push"]).expect(0).says("nothing to do");

    // the base moves: nothing notices before `update`
    let newer = RootfsImage::of_layers(base.layer_bytes().to_vec(), &["WORD=newer"]);
    let digest = registry.put("os/shell:1", newer.config(), newer.layer_bytes());
    run(&world, &daemon, &["push"]).expect(0).says("nothing to do");
    let before = world.lock().unwrap();
    assert_eq!(rows(&ran(world.command(&["outdated"]).output().unwrap()).expect(0).out).len(), 1);
    ran(world.command(&["update"]).output().unwrap()).expect(0).says("1 of 1 base moved");
    assert!(world.lock().unwrap().contains(&digest.to_string()));
    run(&world, &daemon, &["push", "--locked"]).expect(0).says(&format!("→ {}", digest.short()));
    assert_eq!(registry.image("team/app:latest").1["config"]["Env"][0], "WORD=newer");

    // a week back: names only, and it says so
    std::fs::write(world.path("igraph.lock"), before).unwrap();
    let ran = run(&world, &daemon, &["push", "-v"]).expect(0);
    assert_eq!(ran.labels("BUILD"), Vec::<String>::new());
    assert_eq!(ran.labels("PUSH").len(), 2);
    let ran = ran.says("team/app:1 goes back to the image of 2");
    assert_eq!(registry.image("team/app:1").0, first, "{}", ran.err);
}

#[test]
fn an_empty_daemon_gets_its_bases_back() {
    let name = "an_empty_daemon_gets_its_bases_back";
    let (Some(daemon), Some(registry)) = (Dockerd::shared(name), DockerRegistry::start(name)) else { return };
    let world = World::new(&format!("registry: \"{}\"", registry.host));
    let shell = RootfsImage::with_shell(&[], &[]);
    registry.put("os/shell:1", shell.config(), shell.layer_bytes());
    std::fs::write(world.path("root.tar"), &shell.layer_bytes()[0]).unwrap();
    world.write_program("images/base/make", "#!/bin/sh\nset -e\necho made >> ../../runs\ncp ../../root.tar \"$1\"\n");
    world.write(
        "images/base/BUILD.ron",
        "Package(rules: [
            Base(name: \"made\", provides: [\"made:1\"], from: Command([\"./make\", \"{out}\"]), inputs: [\"make\"]),
            Base(name: \"tar\", provides: [\"tar:1\"], from: Rootfs(\"../../root.tar\")),
            Base(name: \"layout\", provides: [\"layout:1\"], from: OciLayout(\"../../layout\")),
        ])",
    );
    let layout = format!("oci:{}:x", world.path("layout").display());
    let source = format!("docker://{}/os/shell:1", registry.host);
    match Command::new("skopeo").args(["copy", "--src-tls-verify=false", &source, &layout]).output() {
        Err(_) => return skip(name, "`skopeo` is not installed"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    let bases = ["made:1".to_owned(), "tar:1".to_owned(), "layout:1".to_owned(), format!("{}/os/shell:1", registry.host)];
    let write = |word: &str| {
        for (at, base) in bases.iter().enumerate() {
            world.image(&format!("p{at}"), base, "");
            world.write(&format!("images/p{at}/Dockerfile"), &format!("FROM {base}\nRUN echo {word} > /word\n"));
        }
    };
    write("one");
    assert_eq!(run(&world, &daemon, &["test"]).expect(0).labels("BUILD").len(), 4);
    run(&world, &daemon, &["test"]).expect(0).says("nothing to do");
    let empty = Dockerd::start().unwrap_or_else(|why| panic!("{why}"));
    run(&world, &empty, &["test"]).expect(0).says("nothing to do");
    write("two");
    let ran = run(&world, &empty, &["test"]).expect(0);
    assert_eq!((ran.labels("BUILD").len(), ran.labels("BASE")), (4, Vec::<String>::new()));
    assert_eq!(world.read("runs").lines().count(), 1);
    run(&world, &empty, &["push"]).expect(0);
    assert_eq!(registry.image("p0:1").1["rootfs"]["diff_ids"][0], Digest::of(&shell.layer_bytes()[0]).to_string());
}

#[test]
fn a_base_of_another_platform_is_loaded_and_built_on() {
    let name = "a_base_of_another_platform_is_loaded_and_built_on";
    let (Some(daemon), Some(registry)) = (Dockerd::shared(name), DockerRegistry::start(name)) else { return };
    let world = World::new(&format!("registry: \"{}\"", registry.host));
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let layer = tar_of("arch", architecture);
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {}, "history": [{}],
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
        });
        let digest = registry.put(&format!("multi:{architecture}"), &serde_json::to_vec(&config).unwrap(), &[layer]);
        let bytes = registry.client.manifest(&registry.reference("multi:1").with_digest(digest), &Cancel::new()).unwrap().bytes;
        let platform = serde_json::json!({"os": "linux", "architecture": architecture});
        entries.push(serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": bytes.len(), "platform": platform}));
    }
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    registry.name("multi:1", &serde_json::to_vec(&index).unwrap(), INDEX);
    let from = format!("{}/multi:1", registry.host);
    let other = other_architecture();
    world.write("images/app/file", "x");
    world.write(
        "images/app/Dockerfile",
        &format!("FROM --platform=$BUILDPLATFORM {from} AS build\nFROM {from}\nCOPY file /file\nCOPY --from=build /arch /build-arch\n"),
    );
    world.write(
        "images/app/BUILD.ron",
        &format!(
            "Package(rules: [Image(name: \"own\", untested: \"no shell\"), Image(name: \"other\", platform: \"linux/{other}\", untested: \"no shell\")])"
        ),
    );
    run(&world, &daemon, &["push"]).expect(0);
    for (tag, architecture) in [("own", host_architecture()), ("other", other)] {
        let (layers, config) = registry.image(&format!("app:{tag}"));
        assert_eq!(config["architecture"], architecture);
        assert_eq!(layers[0], registry.image(&format!("multi:{architecture}")).0[0], "{tag}");
        let image = registry.client.image(&registry.reference(&format!("app:{tag}")), &Cancel::new()).unwrap();
        assert_eq!(file_in(&image, Path::new("build-arch")).as_deref(), Some(host_architecture()));
    }
    run(&world, &daemon, &["push"]).expect(0).says("nothing to do");
}

/// The text of a file in some layer.
fn file_in(image: &dyn ImageSource, path: &Path) -> Option<String> {
    (0..image.layers().len()).rev().find_map(|index| {
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(image.open_layer(index).unwrap()));
        let mut found = archive.entries().unwrap().map(Result::unwrap).find(|entry| entry.path().unwrap() == path)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut found, &mut text).unwrap();
        Some(text)
    })
}
