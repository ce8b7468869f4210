//! The registry room against the real `docker-registry` on loopback, and skopeo where it is installed.
//! Says so when it has to skip.

#[path = "support/docker_registry.rs"]
mod docker_registry;
#[path = "../benches/measure.rs"]
mod measure;
mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use docker_registry::DockerRegistry;
use igraph::cancel::Cancel;
use igraph::clock::{ManualClock, Timestamp};
use igraph::digest::{Digest, ImageId};
use igraph::failure::{Failure, Retry};
use igraph::image::{Compression, ImageSource};
use igraph::reference::Reference;
use igraph::registry::{
    Client, ClientConfig, Credential, Credentials, KnownBlob, LayerProvider, NameOutcome, NoCredentials, Observer, PackedLayer,
    RequestSeen, move_name, no_progress, pack, upload_image, verify_published,
};
use support::daemonless::Daemonless;

/// Credentials `igraph:secret`, made once with bcrypt at its lowest cost.
const HTPASSWD: &str = include_str!("support/htpasswd");

// other test files and benches use it
const _: () = {
    let _ = (DockerRegistry::files, measure::medians, measure::ratio);
};

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn request(&self, seen: &RequestSeen<'_>) {
        self.0.lock().unwrap().push(format!("{} {:?}", seen.method, seen.status.unwrap_or(0)));
    }
}

impl Seen {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Account(&'static str);

impl Credentials for Account {
    fn for_host(&self, _: &str) -> Result<Option<Credential>, String> {
        Ok(Some(Credential::Basic { username: "igraph".into(), password: self.0.into() }))
    }
}

fn client(credentials: impl Credentials + 'static) -> (Client, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    let config = ClientConfig { observer: Some(seen.clone()), ..ClientConfig::new(Box::new(credentials), clock) };
    (Client::new(config).unwrap(), seen)
}

/// Layers packed into a folder, and what is known of where they lie.
struct World {
    folder: tempfile::TempDir,
    layers: Vec<Vec<u8>>,
    known: Mutex<Vec<(Digest, KnownBlob)>>,
    packings: Mutex<usize>,
}

impl World {
    fn new() -> Self {
        let layer = |name: &str, length: usize| {
            let mut builder = tar::Builder::new(Vec::new());
            let content: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            let mut header = tar::Header::new_ustar();
            header.set_size(length as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_slice()).unwrap();
            builder.into_inner().unwrap()
        };
        Self {
            folder: tempfile::tempdir().unwrap(),
            layers: vec![layer("etc/base", 6 << 20), layer("etc/top", 3000)],
            known: Mutex::default(),
            packings: Mutex::default(),
        }
    }

    fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| Digest::of(layer)).collect()
    }

    fn config(&self) -> Vec<u8> {
        let ids: Vec<String> = self.diff_ids().iter().map(|id| format!("\"{id}\"")).collect();
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[]}}"#,
            ids.join(",")
        )
        .into_bytes()
    }
}

impl LayerProvider for World {
    fn known(&self, diff_id: Digest) -> Vec<KnownBlob> {
        self.known.lock().unwrap().iter().filter(|(own, _)| *own == diff_id).map(|(_, blob)| blob.clone()).collect()
    }

    fn packed(&self, diff_id: Digest) -> Result<PackedLayer, Failure> {
        *self.packings.lock().unwrap() += 1;
        let layer = self.layers.iter().find(|layer| Digest::of(layer) == diff_id).unwrap();
        let path: PathBuf = self.folder.path().join(diff_id.hex());
        let packed = pack(&mut layer.as_slice(), &mut std::fs::File::create(&path).unwrap()).unwrap();
        Ok(PackedLayer { path, digest: packed.digest, size: packed.size, compression: Compression::Gzip })
    }
}

#[test]
fn push_mount_name_and_pull_back() {
    let Some(registry) = DockerRegistry::start("registry_real", None) else { return };
    let (client, seen) = client(NoCredentials);
    let (world, cancel) = (World::new(), Cancel::new());
    let (config, id) = (world.config(), ImageId(Digest::of(&world.config())));
    let target = registry.reference("team/node");

    client.prove_push(&target, &cancel).unwrap();
    assert_eq!(seen.take(), ["POST 202", "DELETE 204"]);
    let first = upload_image(&client, &target, &config, &world.diff_ids(), &world, &cancel, &no_progress).unwrap();
    assert_eq!((first.uploaded, first.mounted, first.present, *world.packings.lock().unwrap()), (3, 0, 0, 2));
    seen.take();

    // a name: HEAD, PUT, HEAD; again: HEAD
    let name = registry.reference("team/node:4.2.1");
    let place = |name: &Reference, expected: &BTreeSet<Digest>| {
        move_name(&client, name, &first.manifest_bytes, first.media_type, expected, &cancel).unwrap()
    };
    assert_eq!(place(&name, &BTreeSet::new()), NameOutcome::Moved { from: None });
    assert_eq!(seen.take(), ["HEAD 404", "PUT 201", "HEAD 200"]);
    assert_eq!(place(&name, &BTreeSet::from([first.manifest_digest])), NameOutcome::AlreadyThere);
    assert_eq!(seen.take(), ["HEAD 200"]);
    verify_published(&client, &name, first.manifest_digest, id, &cancel).unwrap();

    // again, now that the blobs are known: one HEAD
    world.known.lock().unwrap().extend(first.blobs.clone());
    seen.take();
    let again = upload_image(&client, &target, &config, &world.diff_ids(), &world, &cancel, &no_progress).unwrap();
    assert_eq!((again.manifest_digest, again.bytes_sent), (first.manifest_digest, 0));
    assert_eq!(seen.take(), ["HEAD 200"]);

    // another repository: both layers are mounted, only the config goes over
    let other = registry.reference("other/alias:4");
    let mounted = upload_image(&client, &other, &config, &world.diff_ids(), &world, &cancel, &no_progress).unwrap();
    assert_eq!((mounted.mounted, mounted.uploaded, mounted.bytes_sent), (2, 1, config.len() as u64));
    assert_eq!(mounted.manifest_digest, first.manifest_digest);
    assert_eq!(place(&other, &BTreeSet::new()), NameOutcome::Moved { from: None });

    // another registry: streamed byte for byte, nothing packed
    let staging = DockerRegistry::start("registry_real", None).unwrap();
    let copied = upload_image(&client, &staging.reference("team/node"), &config, &world.diff_ids(), &world, &cancel, &no_progress).unwrap();
    assert_eq!((copied.manifest_digest, *world.packings.lock().unwrap()), (first.manifest_digest, 2));
    assert_eq!(copied.uploaded, 3);

    // somebody else moves the name
    let top = World { layers: vec![world.layers[1].clone()], ..World::new() };
    let foreign = upload_image(&client, &target, &top.config(), &top.diff_ids(), &top, &cancel, &no_progress).unwrap();
    assert_eq!(
        move_name(&client, &name, &foreign.manifest_bytes, foreign.media_type, &BTreeSet::new(), &cancel).unwrap(),
        NameOutcome::Moved { from: Some(first.manifest_digest) }
    );
    assert_eq!(
        place(&name, &BTreeSet::from([first.manifest_digest])),
        NameOutcome::ForeignMove { expected: first.manifest_digest, found: Some(foreign.manifest_digest) }
    );

    // and back again
    let platform = "linux/amd64".parse().unwrap();
    let base = client.resolve(&other, &platform, &cancel).unwrap();
    assert_eq!((base.manifest, base.image_id, base.index), (first.manifest_digest, id, None));
    let image = client.image(&other.with_digest(base.manifest), &cancel).unwrap();
    assert_eq!(image.config(), config);
    for (at, layer) in world.layers.iter().enumerate() {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(image.open_layer(at).unwrap()).read_to_end(&mut plain).unwrap();
        assert!(plain == *layer);
    }
    let wrong = client.resolve(&other, &"linux/s390x".parse().unwrap(), &cancel).unwrap_err();
    assert_eq!(wrong.message, format!("`{other}` has no image for linux/s390x; there is: linux/amd64"));
    inspect_with_skopeo(&other, first.manifest_digest, world.folder.path());
}

fn inspect_with_skopeo(name: &Reference, digest: Digest, folder: &Path) {
    let run = |arguments: &[&str]| Command::new("skopeo").args(arguments).output();
    match run(&["inspect", "--tls-verify=false", &format!("docker://{name}")]) {
        Err(_) => support::skip("registry_real", "`skopeo` is not installed; the image was not inspected"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains(&digest.to_string()), "{said}{}", String::from_utf8_lossy(&output.stderr));
            // into a layout, which reads every layer, and from there through our own reader
            let layout = folder.join("layout");
            let output =
                run(&["copy", "--src-tls-verify=false", &format!("docker://{name}"), &format!("oci:{}:x", layout.display())]).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let layout = igraph::registry::OciLayout::open(&layout, &"linux/amd64".parse().unwrap()).unwrap();
            assert_eq!(layout.manifest(), digest);
            std::io::copy(&mut layout.open_layer(0).unwrap(), &mut std::io::sink()).unwrap();
        }
    }
}

#[test]
fn accounts_are_asked_for_and_refused_once() {
    let Some(registry) = DockerRegistry::start("registry_real", Some(HTPASSWD)) else { return };
    let (cancel, target) = (Cancel::new(), registry.reference("team/node"));

    let (right, seen) = client(Account("secret"));
    right.prove_push(&target, &cancel).unwrap();
    assert_eq!(seen.take(), ["POST 401", "POST 202", "DELETE 204"]);
    let world = World::new();
    upload_image(&right, &target, &world.config(), &world.diff_ids(), &world, &cancel, &no_progress).unwrap();
    assert!(seen.take().iter().all(|line| !line.ends_with("401")));

    let (wrong, seen) = client(Account("guess"));
    let failure = wrong.prove_push(&target, &cancel).unwrap_err();
    assert_eq!((failure.retry, failure.group.clone()), (Retry::Never, Some(format!("credentials {}/team/node", registry.host))));
    assert_eq!(seen.take(), ["POST 401", "POST 401"]);
    assert_eq!(wrong.prove_push(&target, &cancel).unwrap_err(), failure);
    assert_eq!(seen.take(), [""; 0]);

    let (nobody, _) = client(NoCredentials);
    let failure = nobody.head_manifest(&registry.reference("team/node:1"), &cancel).unwrap_err();
    assert_eq!(failure.hint, Some(format!("`docker login {}`", registry.host)));
}

#[test]
fn gzip_reads_what_we_pack() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layer.gz");
    let layer = World::new().layers.swap_remove(0);
    pack(&mut layer.as_slice(), &mut std::fs::File::create(&path).unwrap()).unwrap();
    match Command::new("gzip").args(["-dc", &path.to_string_lossy()]).output() {
        Err(_) => support::skip("registry_real", "`gzip` is not installed; nothing was tested"),
        Ok(output) => assert!(output.status.success() && output.stdout == layer, "{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Passes connections on to a registry; the first that has carried so many bytes towards it is cut.
fn cutting_proxy(to: &str, after: usize) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (to, cut) = (to.to_owned(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = std::net::TcpStream::connect(&to).unwrap();
            let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let cut = cut.clone();
            std::thread::spawn(move || {
                let mut asked = client.try_clone().unwrap().take(after as u64);
                let _ = std::io::copy(&mut asked, &mut &server);
                if asked.limit() == 0 && !cut.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    let _ = (client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both));
                    return;
                }
                let _ = std::io::copy(&mut &client, &mut &server);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    host
}

#[test]
fn an_upload_that_is_cut_is_taken_up_again() {
    let Some(registry) = DockerRegistry::start("registry_real", None) else { return };
    let (client, seen) = client(NoCredentials);
    // noise, so that it stays long when packed
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    let world = World { layers: vec![noise.take(3 << 20).collect()], ..World::new() };
    let target: Reference = format!("{}/team/app:1", cutting_proxy(&registry.host, 1 << 20)).parse().unwrap();
    let cancel = Cancel::new();
    let uploaded = upload_image(&client, &target, &world.config(), &world.diff_ids(), &world, &cancel, &no_progress).unwrap();
    let seen = seen.take();
    assert!(seen.contains(&"PUT 0".to_owned()), "nothing was cut: {seen:?}");
    let direct = registry.reference("team/app").with_digest(uploaded.manifest_digest);
    let image = client.image(&direct, &cancel).unwrap();
    std::io::copy(&mut image.open_layer(0).unwrap(), &mut std::io::sink()).unwrap();
}

#[test]
fn a_larger_layer_takes_no_more_memory_to_push() {
    let test = "a_larger_layer_takes_no_more_memory";
    let (Some(world), Some(registry)) = (Daemonless::new(test), DockerRegistry::start(test, None)) else { return };
    world.write(
        "w/images/big/BUILD.ron",
        "Package(repository: \"team/big\", rules: [Image(name: \"1\", untested: \"it is only large\")])\n",
    );
    let peaks = [48, 192].map(|mib| {
        // what can't be packed leaves the packer as large as it came
        world.write("w/images/big/Dockerfile", format!("FROM shell:1\nRUN dd if=/dev/urandom of=/big bs=1M count={mib}\n"));
        world.igraph("build //big:1").with(0);
        let cost = measure::run(&mut world.command(&format!("push //big:1 --registry {}", registry.host))).unwrap();
        cost.peak_kib as f64 / 1024.0
    });
    assert!(peaks[1] < peaks[0] * 1.5, "{peaks:?}");
}
