//! What publishing costs: moving one name of an image that is in a registry, against the same three requests on one kept connection;
//! and fifty images on one base out of a Docker Engine, in bytes. A real docker-registry, a real dockerd, both on this machine and
//! started here; between them and igraph stands what counts. Knows the command line only.
//!
//! `cargo bench --bench publish -- [--rounds 15]`

#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use measure::{median, medians, ratio, run};

const IMAGES: usize = 50;
/// MiB of the base: twelve files of random bytes, which no packing makes smaller.
const BASE_MIB: usize = 120;
/// Names that are moved in one run, to tell what one costs from what a run costs.
const NAMES: usize = 60;

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 15,
        ["--rounds", number] => number.parse().unwrap_or(15),
        _ => {
            println!("publish: there is `--rounds N`");
            return ExitCode::FAILURE;
        }
    };
    let daemon = support::Dockerd::start().map_err(|error| format!("{error}\nhint: scripts/setup test"));
    match daemon.and_then(|daemon| one_name(rounds, &daemon).and_then(|()| fifty_images(&daemon))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("publish: {error}");
            ExitCode::FAILURE
        }
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// A docker-registry on loopback that logs every request.
struct Registry {
    child: Child,
    host: String,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir().map_err(text)?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(text)?.port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}/data\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.path().display()
        );
        let path = folder.path().join("config.yml");
        let log = folder.path().join("log");
        fs::write(&path, config).map_err(text)?;
        let out = fs::File::create(&log).map_err(text)?;
        let errors = out.try_clone().map_err(text)?;
        let child = Command::new("docker-registry").arg("serve").arg(&path).stdout(out).stderr(errors).spawn();
        let child = child.map_err(|error| format!("`docker-registry`: {error}\nhint: scripts/setup test"))?;
        let registry = Self { child, host: format!("127.0.0.1:{port}"), log, _folder: folder };
        while TcpStream::connect(&registry.host).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// The requests it has answered, like `PUT /v2/a/manifests/1`.
    fn requests(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.log).map_err(text)?;
        Ok(log.lines().filter_map(|line| line.split('"').nth(1)?.strip_suffix(" HTTP/1.1").map(str::to_owned)).collect())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What went through a wire, in bytes.
#[derive(Default)]
struct Meter {
    up: AtomicU64,
    down: AtomicU64,
}

/// Copies until the end, counting.
fn pump(mut from: impl Read, mut to: impl Write, count: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Stands before a registry, and counts; returns its host.
fn tcp_meter(host: &str, meter: &Arc<Meter>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    let own = listener.local_addr().map_err(text)?.to_string();
    let (host, meter) = (host.to_owned(), meter.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&host) else { continue };
            let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (up, down) = (meter.clone(), meter.clone());
            std::thread::spawn(move || {
                pump(from, &to, &up.up);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                pump(server, &client, &down.down);
                let _ = client.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    Ok(own)
}

/// Stands before a daemon, and counts; returns its socket.
fn unix_meter(socket: &Path, folder: &Path, meter: &Arc<Meter>) -> Result<PathBuf> {
    let own = folder.join("metered.sock");
    let listener = UnixListener::bind(&own).map_err(text)?;
    let (socket, meter) = (socket.to_owned(), meter.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = UnixStream::connect(&socket) else { continue };
            let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { continue };
            let (up, down) = (meter.clone(), meter.clone());
            std::thread::spawn(move || {
                pump(from, &to, &up.up);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                pump(server, &client, &down.down);
                let _ = client.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    Ok(own)
}

/// An `igraph` that sees no settings of who runs it.
fn igraph(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", root).arg("-C").arg(root);
    command
}

/// A tar of a root file system: one small file, and `mib` MiB that can't be packed.
fn rootfs(mib: usize) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, path, bytes)
    };
    add("etc/os-release", b"ID=bench\n")?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..mib / 10 {
        let mut bytes = Vec::with_capacity(10 << 20);
        while bytes.len() < 10 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        add(&format!("usr/data/{number:02}"), &bytes)?;
    }
    archive.into_inner()
}

/// Writes a workspace: a base, and images that add a file to it.
fn workspace(root: &Path, host: &str, base: &[u8], images: usize) -> io::Result<()> {
    fs::create_dir_all(root.join("images/base"))?;
    fs::create_dir_all(root.join("images/app"))?;
    fs::write(root.join("BUILD.ron"), format!("Workspace(packages: \"images\", registry: \"{host}\", engine: Docker)\n"))?;
    fs::write(root.join("images/base/base.tar"), base)?;
    let rule = "Base(name: \"base\", provides: [\"bench:1\"], from: Rootfs(\"base.tar\"))";
    fs::write(root.join("images/base/BUILD.ron"), format!("Package(rules: [{rule}])\n"))?;
    for image in 0..images {
        let folder = root.join(format!("images/app/{image}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("Dockerfile"), "FROM bench:1\nCOPY file /file\n")?;
        fs::write(folder.join("file"), format!("{image}\n").repeat(1000))?;
    }
    aliases(root, images, 0)
}

/// Declares the images, the first with so many aliases.
fn aliases(root: &Path, images: usize, aliases: usize) -> io::Result<()> {
    let mut rules = String::from("Package(repository: \"bench/app\", rules: [\n");
    for image in 0..images {
        let names: Vec<String> = (0..if image == 0 { aliases } else { 0 }).map(|alias| format!("\"a{alias}\"")).collect();
        let _ = writeln!(
            rules,
            "    Image(name: \"{image}\", dockerfile: \"{image}/Dockerfile\", untested: \"a measurement\", aliases: [{}]),",
            names.join(", ")
        );
    }
    rules.push_str("])\n");
    fs::write(root.join("images/app/BUILD.ron"), rules)
}

/// HTTP by hand, on one connection.
struct Kept {
    stream: io::BufReader<TcpStream>,
    host: String,
}

impl Kept {
    fn connect(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: io::BufReader::new(stream), host: host.to_owned() })
    }

    /// Sends a request, and returns status and body.
    fn ask(&mut self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> io::Result<(u16, Vec<u8>)> {
        use std::io::BufRead as _;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let (content, bytes) = body.map_or((String::new(), &[][..]), |(kind, bytes)| {
            (format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", bytes.len()), bytes)
        });
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: {kind}\r\n{content}\r\n", self.host).into_bytes();
        request.extend_from_slice(bytes);
        self.stream.get_mut().write_all(&request)?;
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(rest) = header.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap_or(0);
            }
        }
        let mut answer = vec![0; if method == "HEAD" { 0 } else { length }];
        self.stream.read_exact(&mut answer)?;
        Ok((status, answer))
    }
}

/// Moves names that are new to an image that is there: by igraph, and by hand.
fn one_name(rounds: usize, daemon: &support::Dockerd) -> Result<()> {
    let registry = Registry::start()?;
    let home = tempfile::tempdir().map_err(text)?;
    let root = home.path();
    workspace(root, &registry.host, &rootfs(0).map_err(text)?, 1).map_err(text)?;
    // each is a name in the engine too, which moves meanwhile
    let engine = format!("docker={}", daemon.url());
    let push = || run(igraph(root).args(["push", "//...", "--engine", &engine]));
    push()?;
    let mut kept = Kept::connect(&registry.host).map_err(text)?;
    let (status, manifest) = kept.ask("GET", "/v2/bench/app/manifests/0", None).map_err(text)?;
    if status != 200 {
        return Err(format!("the image is not in the registry: {status}"));
    }
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let (mut by_hand, mut one, mut many, mut nothing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // each name is new to the registry, by hand as by igraph
        let start = Instant::now();
        for name in 0..NAMES {
            let path = format!("/v2/bench/app/manifests/h{round}-{name}");
            for (method, body, expected) in [("HEAD", None, 404), ("PUT", Some((kind, &manifest[..])), 201), ("HEAD", None, 200)] {
                let (status, _) = kept.ask(method, &path, body).map_err(text)?;
                if status != expected {
                    return Err(format!("{method} {path}: {status}"));
                }
            }
        }
        by_hand.push(start.elapsed() / NAMES as u32);
        let before = registry.requests()?.len();
        rename(root, round, 1)?;
        one.push(push()?);
        let asked: Vec<String> = registry.requests()?.split_off(before).iter().map(|line| line[..4].trim().to_owned()).collect();
        if asked != ["HEAD", "PUT", "HEAD"] {
            return Err(format!("moving one name asked {asked:?}"));
        }
        nothing.push(push()?);
        rename(root, round, NAMES + 1)?;
        many.push(push()?);
    }
    let (by_hand, one, many, nothing) = (median(by_hand), medians(&one).wall, medians(&many).wall, medians(&nothing).wall);
    let each = many.saturating_sub(one) / NAMES as u32;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("\none name of an image that is in the registry: HEAD, PUT, HEAD and nothing else, counted");
    println!("  the same three on a kept connection {:>8.2} ms", ms(by_hand));
    println!("  igraph, each of {NAMES} more names        {:>8.2} ms   {:>5.2}×", ms(each), ratio(each, by_hand));
    println!("  igraph, the whole process, one name {:>8.2} ms   {:>5.2}×", ms(one), ratio(one, by_hand));
    println!("  igraph, the whole process, nothing  {:>8.2} ms", ms(nothing));
    Ok(())
}

/// Gives the image so many aliases that no round had before.
fn rename(root: &Path, round: usize, count: usize) -> Result<()> {
    let names: Vec<String> = (0..count).map(|alias| format!("\"r{round}-{alias}\"")).collect();
    let rule = format!("Image(name: \"0\", dockerfile: \"0/Dockerfile\", untested: \"a measurement\", aliases: [{}])", names.join(", "));
    fs::write(root.join("images/app/BUILD.ron"), format!("Package(repository: \"bench/app\", rules: [{rule}])\n")).map_err(text)
}

/// Publishes fifty images on one base out of a Docker Engine.
fn fifty_images(daemon: &support::Dockerd) -> Result<()> {
    let registry = Registry::start()?;
    let base = rootfs(BASE_MIB).map_err(text)?;
    println!("\n{IMAGES} images of 4 KiB on one base of {BASE_MIB} MiB, out of a Docker Engine into a docker-registry");
    println!("  base                     read from the engine   sent to the registry     time      CPU   memory");
    for from_registry in [false, true] {
        let home = tempfile::tempdir().map_err(text)?;
        let root = home.path();
        let (engine, sent) = (Arc::new(Meter::default()), Arc::new(Meter::default()));
        let host = tcp_meter(&registry.host, &sent)?;
        workspace(root, &host, &base, IMAGES).map_err(text)?;
        let what = if from_registry {
            // the base is pushed by another workspace, and pulled from where it lies then
            let rule = format!("Base(name: \"base\", provides: [\"bench:1\"], from: Registry(\"{host}/bench/base:1\"))");
            publish_base(&registry, &base, daemon)?;
            fs::write(root.join("images/base/BUILD.ron"), format!("Package(rules: [{rule}])\n")).map_err(text)?;
            "in the registry"
        } else {
            "a tar on this machine"
        };
        let socket = unix_meter(&daemon.socket(), root, &engine)?;
        let docker = format!("docker=unix://{}", socket.display());
        run(igraph(root).args(["build", "//...", "--engine", &docker]))?;
        let (read, pushed) = (engine.down.load(Ordering::Relaxed), sent.up.load(Ordering::Relaxed));
        let cost = run(igraph(root).args(["push", "//...", "--engine", &docker]))?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "  {what:<24} {:>16.1} MiB {:>18.1} MiB {:>6.1} s {:>6.1} s {:>4.0} MiB",
            mib(engine.down.load(Ordering::Relaxed) - read),
            mib(sent.up.load(Ordering::Relaxed) - pushed),
            cost.wall.as_secs_f64(),
            cost.cpu.as_secs_f64(),
            cost.peak_kib as f64 / 1024.0
        );
    }
    Ok(())
}

/// Has an image of the base's file system in the registry, as `bench/base:1`.
fn publish_base(registry: &Registry, base: &[u8], daemon: &support::Dockerd) -> Result<()> {
    let home = tempfile::tempdir().map_err(text)?;
    let root = home.path();
    workspace(root, &registry.host, base, 0).map_err(text)?;
    fs::create_dir_all(root.join("images/copy")).map_err(text)?;
    fs::write(root.join("images/copy/Dockerfile"), "FROM bench:1\nLABEL base=1\n").map_err(text)?;
    let rule = "Image(name: \"1\", untested: \"a measurement\")";
    fs::write(root.join("images/copy/BUILD.ron"), format!("Package(repository: \"bench/base\", rules: [{rule}])\n")).map_err(text)?;
    run(igraph(root).args(["push", "//...", "--engine", &format!("docker={}", daemon.url())])).map(drop)
}
