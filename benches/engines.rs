//! What the embedded engine costs against the others: dockerd with BuildKit (through igraph's own Docker engine, so that all but the
//! engine is the same), buildah, skopeo, runc, and a bare `unshare`. Whole processes but for the start of a test, alternated, medians and
//! ratios of one run. A dockerd and registries of its own. Knows the command line, and of the library the engine alone.
//!
//! `cargo bench --bench engines -- [--rounds 5] [--rootfs TAR] [steps images test start push pull memory]`

#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

#[path = "../tests/support/docker_registry.rs"]
mod docker_registry;
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use docker_registry::DockerRegistry;
use igraph::cancel::Cancel;
use igraph::digest::Digest;
use igraph::engine::embedded::{EmbeddedEngine, EmbeddedOptions};
use igraph::engine::{Attempt, Engine, Network, Output, TestRequest};
use igraph::event::Stream;
use igraph::image::ImageSource;
use igraph::platform::Platform;
use igraph::registry::{RootfsTar, image_manifest};
use measure::{Cost, median, ratio, run};
use support::Dockerd;

// each bench uses a part
const _: () = {
    let _ = (measure::medians, DockerRegistry::reference);
};

type Result<T> = std::result::Result<T, String>;

const PARTS: [&str; 7] = ["steps", "images", "test", "start", "push", "pull", "memory"];
/// Images of the catalogue that is built cold.
const IMAGES: usize = 100;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut rounds, mut rootfs, mut parts) = (5, None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(5),
            "--rootfs" => rootfs = arguments.next().map(PathBuf::from),
            part if PARTS.contains(&part) => parts.push(argument),
            _ => {
                println!("engines: there are --rounds N, --rootfs TAR, and {}", PARTS.join(", "));
                return ExitCode::FAILURE;
            }
        }
    }
    let chosen = |part: &str| parts.is_empty() || parts.iter().any(|chosen| chosen == part);
    let measured = || -> Result<()> {
        let world = World::new(rootfs)?;
        type Part = fn(&World, usize) -> Result<()>;
        let all: [Part; 7] = [steps, images, test, start, push, pull, memory];
        PARTS.iter().zip(all).filter(|(name, _)| chosen(name)).try_for_each(|(_, part)| part(&world, rounds))
    };
    match measured() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("engines: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A root file system, a daemon, and folders.
struct World {
    home: tempfile::TempDir,
    rootfs: PathBuf,
    dockerd: Dockerd,
}

impl World {
    fn new(rootfs: Option<PathBuf>) -> Result<Self> {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(text)?;
        let rootfs = match rootfs {
            Some(path) => fs::canonicalize(&path).map_err(|error| format!("`{}`: {error}", path.display()))?,
            None => {
                let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bookworm.tar");
                if !path.exists() {
                    let made = path.with_extension("part.tar");
                    run(Command::new("mmdebstrap").args(["--variant=minbase", "--skip=output/dev", "bookworm"]).arg(&made))?;
                    fs::rename(&made, &path).map_err(text)?;
                }
                path
            }
        };
        let size = fs::metadata(&rootfs).map_err(text)?.len() >> 20;
        println!("root file system: {size} MiB");
        Ok(Self { home, rootfs, dockerd: Dockerd::start_here()? })
    }

    /// A workspace with the root file system as `debian:bookworm` and images of these rules in package `x`.
    fn workspace(&self, name: &str, rules: &str) -> Result<Workspace<'_>> {
        let root = self.home.path().join(name);
        fs::create_dir_all(root.join("images/base")).map_err(text)?;
        fs::create_dir_all(root.join("images/x")).map_err(text)?;
        fs::write(root.join("BUILD.ron"), "Workspace(packages: \"images\", registry: \"127.0.0.1:1\")\n").map_err(text)?;
        fs::hard_link(&self.rootfs, root.join("images/base/rootfs.tar"))
            .or_else(|_| fs::copy(&self.rootfs, root.join("images/base/rootfs.tar")).map(drop))
            .map_err(text)?;
        let base = "Package(rules: [Base(name: \"b\", provides: [\"debian:bookworm\"], from: Rootfs(\"rootfs.tar\"))])\n";
        fs::write(root.join("images/base/BUILD.ron"), base).map_err(text)?;
        let workspace = Workspace { world: self, store: root.join("store"), root };
        workspace.rules(rules)?;
        Ok(workspace)
    }

    fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.dockerd.url());
        command
    }

    /// buildah or skopeo, with a storage of their own.
    fn containers(&self, program: &str) -> Result<Command> {
        let home = self.home.path().join("containers");
        fs::create_dir_all(&home).map_err(text)?;
        let write = |name: &str, text: String| fs::write(home.join(name), text);
        let storage = format!("[storage]\ndriver = \"overlay\"\nrunroot = \"{0}/run\"\ngraphroot = \"{0}/graph\"\n", home.display());
        write("storage.conf", storage).map_err(text)?;
        write("containers.conf", "[containers]\ndefault_ulimits = []\n".into()).map_err(text)?;
        let mut command = Command::new(program);
        command.env("CONTAINERS_STORAGE_CONF", home.join("storage.conf")).env("CONTAINERS_CONF", home.join("containers.conf"));
        command.env("XDG_DATA_HOME", &home).env("HOME", &home);
        Ok(command)
    }

    /// buildah's image of the root file system.
    fn buildah_base(&self) -> Result<()> {
        if run(self.containers("buildah")?.args(["inspect", "--type", "image", "localhost/base"])).is_ok() {
            return Ok(());
        }
        run(self.containers("buildah")?.args(["from", "--name", "base", "scratch"]))?;
        run(self.containers("buildah")?.args(["add", "base"]).arg(&self.rootfs).arg("/"))?;
        run(self.containers("buildah")?.args(["commit", "-q", "base", "localhost/base"])).map(drop)
    }
}

/// A workspace, and a store of its own outside what igraph keeps there.
struct Workspace<'a> {
    world: &'a World,
    root: PathBuf,
    store: PathBuf,
}

impl Workspace<'_> {
    fn rules(&self, rules: &str) -> Result<()> {
        fs::write(self.root.join("images/x/BUILD.ron"), format!("Package(repository: \"bench/x\", rules: [\n{rules}])\n")).map_err(text)
    }

    fn file(&self, path: &str, content: &str) -> Result<()> {
        let path = self.root.join("images/x").join(path);
        fs::create_dir_all(path.parent().unwrap_or(&self.root)).map_err(text)?;
        fs::write(path, content).map_err(text)
    }

    fn igraph(&self, engine: &str, arguments: &[&str]) -> Result<Cost> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.root);
        command.env("IGRAPH_STORE", &self.store).arg("-C").arg(&self.root).args(arguments);
        match engine {
            "docker" => command.arg("--engine").arg(format!("docker={}", self.world.dockerd.url())),
            engine => command.args(["--engine", engine]),
        };
        run(&mut command)
    }

    /// Forgets what igraph knows; what the engine holds stays.
    fn forget(&self) -> Result<()> {
        match fs::remove_dir_all(self.root.join("igraph-out")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(text(error)),
            _ => Ok(()),
        }
    }
}

fn shown(time: Duration) -> String {
    format!("{:>9.1} ms", time.as_secs_f64() * 1e3)
}

/// A table: the first row is igraph's, the others are so many times slower.
fn table(title: &str, rows: &[(&str, Vec<Duration>)]) {
    println!("\n{title}");
    let own = median(rows[0].1.iter().copied());
    for (name, times) in rows {
        let time = median(times.iter().copied());
        println!("  {name:<44} {}   {:>6.2}× igraph", shown(time), ratio(time, own));
    }
}

fn image(name: &str, dockerfile: &str) -> String {
    format!("    Image(name: \"{name}\", dockerfile: \"{dockerfile}\", context: \"{name}\", untested: \"a measurement\"),\n")
}

/// (a) Ten steps that do nothing, without a cache.
fn steps(world: &World, rounds: usize) -> Result<()> {
    let rules = image("ten", "ten/Dockerfile");
    let (own, docker) = (world.workspace("steps", &rules)?, world.workspace("steps-docker", &rules)?);
    let dockerfile = format!("FROM debian:bookworm\n{}", "RUN true\n".repeat(10));
    for workspace in [&own, &docker] {
        workspace.file("ten/Dockerfile", &dockerfile)?;
    }
    world.buildah_base()?;
    let context = world.home.path().join("steps-buildah");
    fs::create_dir_all(&context).map_err(text)?;
    fs::write(context.join("Dockerfile"), dockerfile.replace("debian:bookworm", "localhost/base")).map_err(text)?;
    let forced = ["build", "//x:ten", "--force", "--reason", "bench"];
    let unshare = || -> Result<Duration> {
        let start = Instant::now();
        (0..10).try_for_each(|_| bare_unshare().map(drop))?;
        Ok(start.elapsed())
    };
    let (mut own_times, mut docker_times, mut buildah_times, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    own.igraph("embedded", &forced[..2])?;
    docker.igraph("docker", &forced[..2])?;
    for _ in 0..rounds {
        own_times.push(own.igraph("embedded", &forced)?.wall);
        docker_times.push(docker.igraph("docker", &forced)?.wall);
        let mut buildah = world.containers("buildah")?;
        buildah.args(["bud", "-q", "--no-cache", "--layers", "--pull-never", "--network", "host", "--isolation", "chroot"]).arg(&context);
        buildah_times.push(run(&mut buildah)?.wall);
        bare.push(unshare()?);
    }
    table(
        "(a) 10 × RUN true, no cache",
        &[
            ("igraph, embedded", own_times),
            ("igraph, dockerd with BuildKit", docker_times),
            ("buildah bud --layers --isolation chroot", buildah_times),
            ("ten bare unshares", bare),
        ],
    );
    Ok(())
}

/// (b) A hundred small images, cold; (c) the same once more without igraph's records.
fn images(world: &World, rounds: usize) -> Result<()> {
    let rules: String = (0..IMAGES).map(|number| image(&number.to_string(), &format!("{number}/Dockerfile"))).collect();
    let (own, docker) = (world.workspace("images", &rules)?, world.workspace("images-docker", &rules)?);
    let write = |round: usize| -> Result<()> {
        for (workspace, number) in [&own, &docker].into_iter().flat_map(|workspace| (0..IMAGES).map(move |number| (workspace, number))) {
            let dockerfile = format!("FROM debian:bookworm\nRUN echo {round}-{number} >/own\nCOPY a b c /files/\n");
            workspace.file(&format!("{number}/Dockerfile"), &dockerfile)?;
            for name in ["a", "b", "c"] {
                workspace.file(&format!("{number}/{name}"), &format!("{round} {number} {name}\n").repeat(300))?;
            }
        }
        Ok(())
    };
    write(0)?;
    own.igraph("embedded", &["build", "//x:0"])?;
    docker.igraph("docker", &["build", "//x:0"])?;
    let (mut cold, mut cold_docker, mut cached, mut cached_docker) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds.min(3) {
        write(round)?;
        cold.push(own.igraph("embedded", &["build", "//x:"])?.wall);
        cold_docker.push(docker.igraph("docker", &["build", "//x:"])?.wall);
        own.forget()?;
        docker.forget()?;
        cached.push(own.igraph("embedded", &["build", "//x:"])?.wall);
        cached_docker.push(docker.igraph("docker", &["build", "//x:"])?.wall);
    }
    let names = ("igraph, embedded", "igraph, dockerd with BuildKit");
    table("(b) 100 small images, cold, all stored", &[(names.0, cold), (names.1, cold_docker)]);
    table("(c) the same without igraph's records", &[(names.0, cached), (names.1, cached_docker)]);
    Ok(())
}

/// (d) One test on an image that is built.
fn test(world: &World, rounds: usize) -> Result<()> {
    let rules = |round: usize| {
        format!(
            "    Image(name: \"one\", dockerfile: \"one/Dockerfile\", context: \"one\", tests: [\":t\"]),\n    Test(name: \"t\", run: [\"true {round}\"]),\n"
        )
    };
    let (own, docker) = (world.workspace("test", &rules(0))?, world.workspace("test-docker", &rules(0))?);
    for workspace in [&own, &docker] {
        workspace.file("one/Dockerfile", "FROM debian:bookworm\nRUN true >/made\n")?;
    }
    own.igraph("embedded", &["test", "//x:"])?;
    docker.igraph("docker", &["test", "//x:"])?;
    let (mut own_times, mut docker_times) = (Vec::new(), Vec::new());
    for round in 1..=rounds.max(10) {
        own.rules(&rules(round))?;
        docker.rules(&rules(round))?;
        own_times.push(own.igraph("embedded", &["test", "//x:"])?.wall);
        docker_times.push(docker.igraph("docker", &["test", "//x:"])?.wall);
    }
    table("(d) a throwaway test on a built image", &[("igraph, embedded", own_times), ("igraph, dockerd", docker_times)]);
    Ok(())
}

struct Quiet;

impl Output for Quiet {
    fn line(&self, _: Stream, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

fn bare_unshare() -> Result<Cost> {
    run(Command::new("unshare").args(["--mount", "--pid", "--uts", "--ipc", "--fork", "/bin/true"]))
}

/// How long a test takes to start, in the engine alone.
fn start(world: &World, rounds: usize) -> Result<()> {
    let store = world.home.path().join("start-store");
    let options = EmbeddedOptions {
        store: store.clone(),
        runner: env!("CARGO_BIN_EXE_igraph").into(),
        owner: "bench".into(),
        environment: std::sync::Arc::new(|_: &str| None),
        afresh: false,
    };
    let shown = |failure: igraph::failure::Failure| failure.message;
    let engine = EmbeddedEngine::open(options).map_err(shown)?;
    let platform = Platform::host();
    let rootfs = RootfsTar::open(&world.rootfs, &platform, 0).map_err(shown)?;
    let (cancel, quiet) = (Cancel::default(), Quiet);
    let attempt = Attempt { cancel: &cancel, output: &quiet, timeout: None };
    let subject = engine.load(&rootfs, &platform, "bench", &attempt).map_err(shown)?;
    let commands = [vec!["/bin/true".to_owned()]];
    let nothing = BTreeMap::new();
    let request =
        TestRequest { slug: "bench", subject: &subject, commands: &commands, env: &nothing, network: Network::Host, proxies: &nothing };
    let bundle = world.home.path().join("bundle");
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root).map_err(text)?;
    run(Command::new("tar").arg("-xf").arg(&world.rootfs).arg("-C").arg(&root))?;
    run(Command::new("runc").arg("spec").arg("--bundle").arg(&bundle))?;
    let config = fs::read_to_string(bundle.join("config.json")).map_err(text)?;
    let mut config: serde_json::Value = serde_json::from_str(&config).map_err(text)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = ["/bin/true"].as_slice().into();
    fs::write(bundle.join("config.json"), config.to_string()).map_err(text)?;
    let (mut own, mut bare, mut runc) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(20) {
        let begun = Instant::now();
        engine.test(&request, &attempt).map_err(shown)?;
        own.push(begun.elapsed());
        bare.push(bare_unshare()?.wall);
        runc.push(
            run(Command::new("runc").args(["run", "--bundle"]).arg(&bundle).arg(format!("bench-{}-{round}", std::process::id())))?.wall,
        );
    }
    let rows = [("igraph's engine, one test", own), ("unshare of the same namespaces", bare), ("runc run", runc)];
    table("the start of a test, without igraph around it", &rows);
    Ok(())
}

/// Bytes of the blobs in a registry.
fn stored(registry: &DockerRegistry) -> u64 {
    fn below(folder: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(folder) else { return 0 };
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => below(&entry.path()),
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            })
            .sum()
    }
    below(&registry.files().join("blobs"))
}

fn registry() -> Result<DockerRegistry> {
    DockerRegistry::start("bench", None).ok_or_else(|| "`docker-registry` is not here: scripts/setup test".to_owned())
}

/// (e) Packing and pushing a root file system into an empty registry.
fn push(world: &World, rounds: usize) -> Result<()> {
    let own = world.workspace("push", &image("app", "app/Dockerfile"))?;
    own.file("app/Dockerfile", "FROM debian:bookworm\nLABEL a=b\n")?;
    own.igraph("embedded", &["build", "//x:"])?;
    world.buildah_base()?;
    let layout = world.home.path().join("layout");
    write_layout(&layout, &world.rootfs)?;
    let (mut times, mut sizes) = ([Vec::new(), Vec::new(), Vec::new()], [0; 3]);
    for _ in 0..rounds {
        for peer in 0..3 {
            let registry = registry()?;
            // nothing is packed before
            for folder in ["packed", "blobs"] {
                let _ = fs::remove_dir_all(own.store.join(folder));
            }
            let cost = match peer {
                0 => own.igraph("embedded", &["push", "//x:", "--registry", &registry.host])?,
                1 => {
                    let mut skopeo = world.containers("skopeo")?;
                    skopeo.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]).arg(format!("oci:{}", layout.display()));
                    run(skopeo.arg(format!("docker://{}/bench/x:app", registry.host)))?
                }
                _ => {
                    let mut buildah = world.containers("buildah")?;
                    buildah.args(["push", "-q", "--tls-verify=false", "localhost/base"]);
                    run(buildah.arg(format!("docker://{}/bench/x:app", registry.host)))?
                }
            };
            times[peer].push(cost.wall);
            sizes[peer] = stored(&registry);
        }
    }
    let [own, skopeo, buildah] = times;
    let rows = [("igraph push", own), ("skopeo copy, OCI layout of the plain tar", skopeo), ("buildah push", buildah)];
    table("(e) pack, compress, push into an empty registry", &rows);
    let mib = |size: u64| size as f64 / f64::from(1 << 20);
    println!(
        "  stored: igraph {:.1} MiB, skopeo {:.1} MiB ({:+.1} %), buildah {:.1} MiB ({:+.1} %)",
        mib(sizes[0]),
        mib(sizes[1]),
        (sizes[0] as f64 / sizes[1] as f64 - 1.0) * 100.0,
        mib(sizes[2]),
        (sizes[0] as f64 / sizes[2] as f64 - 1.0) * 100.0,
    );
    Ok(())
}

/// An OCI layout of one plain tar.
fn write_layout(layout: &Path, rootfs: &Path) -> Result<()> {
    let image = RootfsTar::open(rootfs, &Platform::host(), 0).map_err(|failure| failure.message)?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(text)?;
    fs::copy(rootfs, blobs.join(image.layers()[0].digest.hex())).map_err(text)?;
    let manifest = image_manifest(image.config(), image.layers());
    for bytes in [image.config(), &manifest] {
        fs::write(blobs.join(Digest::of(bytes).hex()), bytes).map_err(text)?;
    }
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").map_err(text)?;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": igraph::registry::MEDIA_TYPE_MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len()}]});
    fs::write(layout.join("index.json"), index.to_string()).map_err(text)
}

/// (f) Pulling and unpacking it.
fn pull(world: &World, rounds: usize) -> Result<()> {
    let pushed = world.workspace("pushed", &image("app", "app/Dockerfile"))?;
    pushed.file("app/Dockerfile", "FROM debian:bookworm\nLABEL a=b\n")?;
    let registry = registry()?;
    pushed.igraph("embedded", &["push", "//x:", "--registry", &registry.host])?;
    let name = format!("{}/bench/x:app", registry.host);
    let own = world.workspace("pull", &image("app", "app/Dockerfile"))?;
    own.file("app/Dockerfile", &format!("FROM {name}\nLABEL c=d\n"))?;
    let (mut own_times, mut docker_times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.forget()?;
        let _ = fs::remove_dir_all(&own.store);
        own_times.push(own.igraph("embedded", &["build", "//x:"])?.wall);
        // other parts leave the base's layers in the daemon
        run(world.docker().args(["image", "prune", "--all", "--force"]))?;
        docker_times.push(run(world.docker().args(["pull", "-q", &name]))?.wall);
    }
    let rows = [("igraph build of an image on it, store empty", own_times), ("docker pull", docker_times)];
    table("(f) pull and unpack", &rows);
    Ok(())
}

/// The most memory that a push has, at two sizes of the layer.
fn memory(world: &World, _: usize) -> Result<()> {
    println!("\nmemory of a push, by size of the layer");
    for mib in [170, 680] {
        let tar = world.home.path().join("layer.tar");
        let mut archive = tar::Builder::new(std::io::BufWriter::new(fs::File::create(&tar).map_err(text)?));
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for number in 0..mib / 10 {
            let mut bytes = Vec::with_capacity(10 << 20);
            while bytes.len() < 10 << 20 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // half of it packs
                bytes.extend_from_slice(&state.to_le_bytes());
                bytes.extend_from_slice(b"packable");
            }
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("data/{number}"), &bytes[..]).map_err(text)?;
        }
        archive.into_inner().and_then(|mut writer| writer.flush()).map_err(text)?;
        let workspace = world.workspace(&format!("memory-{mib}"), &image("app", "app/Dockerfile"))?;
        let base = workspace.root.join("images/base/rootfs.tar");
        fs::remove_file(&base).and_then(|()| fs::rename(&tar, &base)).map_err(text)?;
        workspace.file("app/Dockerfile", "FROM debian:bookworm\nLABEL a=b\n")?;
        workspace.igraph("embedded", &["build", "//x:"])?;
        let registry = registry()?;
        let cost = workspace.igraph("embedded", &["push", "//x:", "--registry", &registry.host])?;
        println!("  {mib:>4} MiB: {:>6.1} MiB at the most, {:.1} s", cost.peak_kib as f64 / 1024.0, cost.wall.as_secs_f64());
        fs::remove_dir_all(&workspace.root).map_err(text)?;
    }
    Ok(())
}
