//! A registry that misbehaves, and what the client did: one table, request by request.

#[path = "support/registry.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod registry;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use igraph::cancel::Cancel;
use igraph::clock::{ManualClock, Timestamp};
use igraph::digest::Digest;
use igraph::failure::{Failure, FailureClass, Retry};
use igraph::image::{Compression, ImageSource, LayerBlob};
use igraph::reference::Reference;
use igraph::registry::{
    Client, ClientConfig, Credential, Credentials, HostConfig, KnownBlob, LayerProvider, PackedLayer, Proxies, failure_of, image_manifest,
    move_name, no_progress, upload_image, verify_published,
};
use registry::{Action, Guard, Registry, Rule};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Accounts(Option<Credential>);

impl Credentials for Accounts {
    fn for_host(&self, _: &str) -> Result<Option<Credential>, String> {
        Ok(self.0.clone())
    }
}

fn account() -> Option<Credential> {
    Some(Credential::Basic { username: "igraph".into(), password: "secret".into() })
}

fn guard(may_push: bool) -> Guard {
    Guard::Token { account: Some(("igraph".into(), "secret".into())), may_push }
}

/// Two registries, a client, and the table that is written.
struct World {
    registry: Registry,
    other: Registry,
    clock: Arc<ManualClock>,
    client: Client,
    cancel: Cancel,
    folder: tempfile::TempDir,
    table: String,
}

fn layer() -> Vec<u8> {
    static LAYER: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..200_000_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761)).to_le_bytes()).collect());
    LAYER.clone()
}

fn config() -> Vec<u8> {
    format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[]}}"#, Digest::of(&layer()))
        .into_bytes()
}

fn manifest() -> Vec<u8> {
    let digest = Digest::of(&layer());
    let size = layer().len() as u64;
    image_manifest(&config(), &[LayerBlob { diff_id: digest, digest, size, compression: Compression::None }])
}

impl World {
    fn new(account: Option<Credential>) -> Self {
        Self::with(account, BTreeMap::new(), |_, _| Vec::new())
    }

    fn with(account: Option<Credential>, hosts: BTreeMap<String, HostConfig>, mirrors: impl Fn(&str, &str) -> Vec<String>) -> Self {
        let (registry, other) = (Registry::start(), Registry::start());
        let clock = Arc::new(ManualClock::new(Timestamp::parse_rfc3339("2026-11-23T12:00:00Z").unwrap()));
        let mut config = ClientConfig { hosts, ..ClientConfig::new(Box::new(Accounts(account)), clock.clone()) };
        let mirrors = mirrors(registry.host(), other.host());
        if !mirrors.is_empty() {
            config.hosts.insert(registry.host().into(), HostConfig { mirrors, ..HostConfig::default() });
        }
        let client = Client::new(config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { registry, other, clock, client, cancel: Cancel::new(), folder, table: String::new() }
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.registry.host()).parse().unwrap()
    }

    /// Puts the image there, under `tag`.
    fn fill(registry: &Registry, repository: &str, tag: &str) {
        registry.add_blob(repository, &layer());
        registry.add_blob(repository, &config());
        registry.add_manifest(repository, tag, MANIFEST, &manifest());
    }

    fn tidy(&self, text: &str) -> String {
        let mut text = text.replace(self.registry.host(), "REG").replace(self.other.host(), "OTHER");
        for (bytes, name) in [(layer(), "LAYER"), (config(), "CONFIG"), (manifest(), "MANIFEST")] {
            let digest = Digest::of(&bytes);
            text = text.replace(&format!("sha256%3A{}", digest.hex()), name);
            text = text.replace(&digest.to_string(), name).replace(&digest.short(), name);
        }
        text
    }

    /// Writes down what was asked since the last time, and how it ended.
    fn say(&mut self, what: &str, outcome: Result<String, Failure>) {
        writeln!(self.table, "{what}").unwrap();
        for (place, registry) in [("", &self.registry), ("OTHER ", &self.other)] {
            for seen in registry.take_requests() {
                let status = if seen.status == 0 { "cut".to_owned() } else { seen.status.to_string() };
                let mut more = String::new();
                if seen.body > 0 && seen.method != "POST" {
                    write!(more, " {} bytes", seen.body).unwrap();
                }
                for header in ["range", "content-range"] {
                    if let Some(value) = seen.headers.get(header) {
                        write!(more, " {header}: {value}").unwrap();
                    }
                }
                if let Some(value) = seen.headers.get("authorization") {
                    let shown = if value.starts_with("Bearer") { value } else { "Basic" };
                    write!(more, " [{shown}]").unwrap();
                }
                let path = self.tidy(&seen.path);
                writeln!(self.table, "    {place}{} {path}{more} -> {status}", seen.method).unwrap();
            }
        }
        let text = match outcome {
            Ok(text) => self.tidy(&text),
            Err(failure) => {
                let class = match failure.class {
                    FailureClass::Infra => "infra",
                    FailureClass::Step => "step",
                    FailureClass::Stopped => "stopped",
                };
                let retry = match failure.retry {
                    Retry::Backoff => "backoff".to_owned(),
                    Retry::After(wait) => format!("after {} s", wait.as_secs()),
                    Retry::Never => "never".to_owned(),
                };
                let mut text = format!("{class}, {retry}: {}", self.tidy(&failure.message));
                for (name, value) in [("hint", &failure.hint), ("group", &failure.group)] {
                    if let Some(value) = value {
                        write!(text, "\n     {name}: {}", self.tidy(value)).unwrap();
                    }
                }
                text
            }
        };
        writeln!(self.table, "  = {text}").unwrap();
    }

    fn head(&mut self, what: &str) {
        let outcome = self.client.head_manifest(&self.reference("a/b:1"), &self.cancel);
        self.say(what, outcome.map(|found| found.map_or("nothing".into(), |found| found.digest.to_string())));
    }

    fn pull(&mut self, what: &str) {
        let outcome = self.client.resolve(&self.reference("a/b:1"), &"linux/amd64".parse().unwrap(), &self.cancel).and_then(|base| {
            let image = self.client.base_image(&base, &self.cancel)?;
            let mut bytes = Vec::new();
            image.open_layer(0)?.read_to_end(&mut bytes).map_err(failure_of)?;
            assert!(bytes == layer());
            Ok(format!("image {}, {} bytes of layer", base.image_id, bytes.len()))
        });
        self.say(what, outcome);
    }

    fn push(&mut self, what: &str, known: &[&str]) {
        let known = known.iter().map(|place| place.replace("REG", self.registry.host()).replace("OTHER", self.other.host()));
        let provider = Provider { folder: self.folder.path().to_owned(), known: known.map(|place| place.parse().unwrap()).collect() };
        let target = self.reference("team/app");
        let ids = [Digest::of(&layer())];
        let outcome = upload_image(&self.client, &target, &config(), &ids, &provider, &self.cancel, &no_progress);
        let outcome = outcome.map(|up| {
            assert_eq!(self.registry.named("team/app", &up.manifest_digest.to_string()), Some(up.manifest_digest));
            let open = self.registry.open_uploads();
            let (up, id) = (&up, up.manifest_digest);
            format!("{id}: {} uploaded, {} mounted, {} present, {open} uploads left open", up.uploaded, up.mounted, up.present)
        });
        self.say(what, outcome);
    }

    fn name(&mut self, what: &str, expected: Option<Digest>) {
        let outcome =
            move_name(&self.client, &self.reference("team/app:1"), &manifest(), MANIFEST, &expected.into_iter().collect(), &self.cancel);
        self.say(what, outcome.map(|outcome| format!("{outcome:?}")));
    }

    fn prove(&mut self, what: &str, repository: &str) {
        let outcome = self.client.prove_push(&self.reference(repository), &self.cancel);
        self.say(what, outcome.map(|()| "may push".into()));
    }
}

struct Provider {
    folder: PathBuf,
    known: Vec<Reference>,
}

impl LayerProvider for Provider {
    fn known(&self, _: Digest) -> Vec<KnownBlob> {
        let blob = |repository: &Reference| KnownBlob {
            repository: repository.clone(),
            digest: Digest::of(&layer()),
            size: layer().len() as u64,
            compression: Compression::None,
        };
        self.known.iter().map(blob).collect()
    }

    fn packed(&self, diff_id: Digest) -> Result<PackedLayer, Failure> {
        let path = self.folder.join("layer");
        std::fs::write(&path, layer()).unwrap();
        Ok(PackedLayer { path, digest: diff_id, size: layer().len() as u64, compression: Compression::None })
    }
}

fn answer(status: u16, headers: &[(&str, &str)], code: &str) -> Action {
    Action::Answer {
        status,
        headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        body: format!(r#"{{"errors":[{{"code":"{code}","message":"scripted"}}]}}"#),
    }
}

fn times(method: &'static str, path: &'static str, skip: usize, times: usize, action: Action) -> Rule {
    Rule { method, path, skip, times, action }
}

#[test]
fn busy_registries() {
    let mut table = String::new();
    let mut run = |action: Action, what: &str| {
        let mut world = World::new(None);
        World::fill(&world.registry, "a/b", "1");
        world.registry.once("HEAD", "/manifests/1", action);
        world.head(what);
        world.head("  and the next call");
        table.push_str(&world.table);
    };
    run(answer(429, &[("Retry-After", "7")], "TOOMANYREQUESTS"), "429, Retry-After of 7 s");
    run(answer(503, &[("Retry-After", "Mon, 23 Nov 2026 12:01:40 GMT")], "UNAVAILABLE"), "503, Retry-After as a date");
    run(answer(429, &[], "TOOMANYREQUESTS"), "429 alone");
    run(answer(500, &[], "UNKNOWN"), "500");
    run(answer(400, &[], "NAME_INVALID"), "400");
    run(Action::Reset, "a reset of a first connection");
    run(Action::Without("Docker-Content-Digest"), "no Docker-Content-Digest");

    let mut world = World::new(None);
    World::fill(&world.registry, "a/b", "1");
    World::fill(&world.other, "a/b", "1");
    world.registry.once("GET", "/manifests/1", answer(429, &[("Retry-After", "21600")], "TOOMANYREQUESTS"));
    world.pull("429, Retry-After of six hours");
    world.head("  and another call to that host");
    let elsewhere: Reference = format!("{}/a/b:1", world.other.host()).parse().unwrap();
    let outcome = world.client.head_manifest(&elsewhere, &world.cancel);
    world.say("  while other hosts go on", outcome.map(|found| found.unwrap().digest.to_string()));
    world.clock.advance(Duration::from_secs(21_601));
    world.head("  and after that time");
    table.push_str(&world.table);
    insta::assert_snapshot!(table);
}

#[test]
fn kept_connections() {
    let mut world = World::new(None);
    World::fill(&world.registry, "a/b", "1");
    world.head("a first request");
    world.registry.once("HEAD", "", Action::Reset);
    world.head("a reset of a kept connection");
    world.registry.once("HEAD", "", Action::CloseAfter);
    world.head("the registry closes after its answer");
    world.head("  and the next call");
    world.registry.rule(times("HEAD", "", 0, 2, Action::Reset));
    world.head("two resets");
    insta::assert_snapshot!(world.table);

    let world = World::new(None);
    World::fill(&world.registry, "team/app", "0");
    let move_to = |tag: &str| {
        let name = world.reference(&format!("team/app:{tag}"));
        move_name(&world.client, &name, &manifest(), MANIFEST, &std::collections::BTreeSet::new(), &world.cancel).unwrap();
    };
    (1..20).for_each(|tag| move_to(&tag.to_string()));
    assert_eq!(world.registry.take_requests().len(), 19 * 3);
    // a request may start before the pool has its connection back, so not always exactly one
    assert!(world.registry.connections() < 10, "{} connections", world.registry.connections());
}

#[test]
fn broken_downloads() {
    let mut table = String::new();
    let mut run = |what: &str, rules: &[Rule]| {
        let mut world = World::new(None);
        World::fill(&world.registry, "a/b", "1");
        rules.iter().for_each(|rule| world.registry.rule(rule.clone()));
        world.pull(what);
        table.push_str(&world.table);
    };
    let blobs = "/blobs/";
    run("all well", &[]);
    run("the layer breaks off", &[times("GET", blobs, 1, 1, Action::Truncate(300_000))]);
    run(
        "the layer breaks off, and ranges are ignored",
        &[times("GET", blobs, 1, 1, Action::Truncate(300_000)), times("GET", blobs, 0, 1, Action::WholeForRange)],
    );
    run("the layer breaks off again and again", &[times("GET", blobs, 1, 9, Action::Truncate(100))]);
    run("the layer is not what it should be", &[times("GET", blobs, 1, 1, Action::Corrupt)]);
    run("the config is not what it should be", &[times("GET", blobs, 0, 1, Action::Corrupt)]);
    run("the manifest is not what it should be", &[times("GET", "/manifests/", 0, 1, Action::Corrupt)]);
    run("the layer is gone", &[times("GET", blobs, 1, 1, answer(404, &[], "BLOB_UNKNOWN"))]);
    insta::assert_snapshot!(table);
}

#[test]
fn broken_uploads() {
    let mut table = String::new();
    let mut run = |what: &str, known: &[&str], prepare: &dyn Fn(&World)| {
        let mut world = World::new(None);
        World::fill(&world.registry, "near/base", "1");
        World::fill(&world.other, "far/base", "1");
        prepare(&world);
        world.push(what, known);
        table.push_str(&world.table);
    };
    let uploads = "/uploads/upload-";
    run("all from files", &[], &|_| {});
    run("mounted", &["REG/near/base"], &|_| {});
    run("mount answered with 202: byte for byte into the upload it opened", &["REG/near/base"], &|world| world.registry.refuse_mounts());
    run("mount answered with 405", &["REG/near/base"], &|world| world.registry.once("POST", "mount=", answer(405, &[], "UNSUPPORTED")));
    run("the mount's source lost the blob", &["REG/near/base"], &|world| {
        world.registry.remove_blob("near/base", Digest::of(&layer()));
    });
    run("from another registry", &["OTHER/far/base"], &|_| {});
    run("from another registry, which breaks off", &["OTHER/far/base"], &|world| {
        world.other.once("GET", "/blobs/", Action::Truncate(300_000));
    });
    run("from another registry, which sends other bytes", &["OTHER/far/base"], &|world| {
        world.other.once("GET", "/blobs/", Action::Corrupt);
    });
    run("the upload is cut, and its registry knows how far it got", &[], &|world| {
        world.registry.once("PUT", uploads, Action::CutUpload(300_000));
    });
    run("the upload is cut, and forgotten", &[], &|world| {
        world.registry.once("PUT", uploads, Action::CutUpload(300_000));
        world.registry.once("GET", uploads, answer(404, &[], "BLOB_UPLOAD_UNKNOWN"));
    });
    run("the upload is cut again and again", &[], &|world| {
        world.registry.rule(times("PUT", uploads, 0, 9, Action::CutUpload(0)));
    });
    run("the upload is lost between", &[], &|world| world.registry.once("PUT", uploads, answer(404, &[], "BLOB_UPLOAD_UNKNOWN")));
    run("the upload's digest is refused twice", &[], &|world| {
        world.registry.rule(times("PUT", uploads, 0, 2, answer(400, &[], "DIGEST_INVALID")));
    });
    run("500 in the middle", &[], &|world| world.registry.once("PUT", uploads, answer(500, &[], "UNKNOWN")));
    run("the manifest misses a blob", &[], &|world| world.registry.once("PUT", "/manifests/", answer(400, &[], "MANIFEST_BLOB_UNKNOWN")));
    run("the manifest is refused", &[], &|world| world.registry.once("PUT", "/manifests/", answer(400, &[], "MANIFEST_INVALID")));
    run("all there, known to be", &["REG/team/app"], &|world| World::fill(&world.registry, "team/app", "0"));
    run("said to be there, and gone", &["REG/team/app"], &|_| {});
    insta::assert_snapshot!(table);
}

#[test]
fn accounts() {
    let mut world = World::new(account());
    World::fill(&world.registry, "team/app", "0");
    World::fill(&world.registry, "near/base", "1");
    world.registry.guard(guard(true));
    world.name("a name, with tokens: one token for all", None);
    world.registry.revoke_tokens();
    world.prove("the token is refused meanwhile: one other is fetched", "team/app");
    world.clock.advance(Duration::from_secs(400));
    world.prove("the token has expired: it is not even tried", "team/app");
    world.registry.remove_blob("team/app", Digest::of(&layer()));
    world.push("a mount asks for both repositories", &["REG/near/base"]);
    let mut table = world.table;

    let mut world = World::new(account());
    world.registry.guard(guard(false));
    world.prove("an account that may not push", "team/app");
    world.prove("  is not tried again", "team/app");
    world.prove("  and other repositories are asked for themselves", "team/other");
    world.name("  reading is another matter, but names need both", None);
    world.head("  and pulls go on");
    table.push_str(&world.table);

    let mut world = World::new(Some(Credential::Basic { username: "igraph".into(), password: "wrong".into() }));
    world.registry.guard(guard(true));
    world.prove("a wrong password, at the token service", "team/app");
    world.prove("  is not tried again", "team/app");
    table.push_str(&world.table);

    let mut world = World::new(Some(Credential::IdentityToken("secret".into())));
    world.registry.guard(guard(true));
    world.prove("an identity token", "team/app");
    table.push_str(&world.table);

    let mut world = World::new(None);
    world.registry.guard(Guard::Basic { username: "igraph".into(), password: "secret".into() });
    world.prove("no account where one is needed", "team/app");
    table.push_str(&world.table);

    let mut world = World::new(account());
    world.registry.guard(Guard::Basic { username: "igraph".into(), password: "secret".into() });
    world.prove("basic", "team/app");
    world.registry.once("POST", "", answer(403, &[], "DENIED"));
    world.prove("403", "team/app");
    world.prove("  is not tried again", "team/app");
    table.push_str(&world.table);

    let mut world = World::new(account());
    World::fill(&world.registry, "a/b", "1");
    World::fill(&world.other, "elsewhere", "1");
    world.registry.guard(guard(true));
    let target = format!("http://{}/v2/elsewhere/blobs/{}", world.other.host(), Digest::of(&layer()));
    world.registry.rule(times("GET", "/blobs/", 1, 1, answer(307, &[("Location", &target)], "")));
    world.pull("a redirect to another host goes without the account");
    world.registry.rule(times("GET", "/blobs/", 0, 99, answer(302, &[("Location", "/v2/a/b/blobs/again")], "")));
    world.pull("redirects without end");
    table.push_str(&world.table);
    insta::assert_snapshot!(table);
}

#[test]
fn names() {
    let mut world = World::new(None);
    World::fill(&world.registry, "team/app", "0");
    world.name("a new name", None);
    world.name("there already", None);
    let foreign = world.registry.add_manifest("team/app", "1", MANIFEST, b"{}");
    world.name("moved by somebody else", Some(Digest::of(&manifest())));
    world.name("moved by us", Some(foreign));
    world.registry.add_manifest("team/app", "1", MANIFEST, b"{}");
    world.name("whatever is there gives way", None);
    let name = world.reference("team/app:1");
    let (digest, id) = (Digest::of(&manifest()), igraph::digest::ImageId(Digest::of(&config())));
    let other = igraph::digest::ImageId(Digest::of(b"other"));
    for (what, digest, id) in [("read back", digest, id), ("another manifest", foreign, id), ("another image", digest, other)] {
        let outcome = verify_published(&world.client, &name, digest, id, &world.cancel).map(|()| "as tested".to_owned());
        world.say(what, outcome);
    }
    insta::assert_snapshot!(world.table);
}

#[test]
fn mirrors() {
    let mut table = String::new();
    let mut run = |what: &str, mirrors: &dyn Fn(&str) -> Vec<String>, prepare: &dyn Fn(&World)| {
        let mut world = World::with(None, BTreeMap::new(), |_, other| mirrors(other));
        World::fill(&world.registry, "a/b", "1");
        World::fill(&world.other, "a/b", "1");
        World::fill(&world.other, "hub/a/b", "1");
        prepare(&world);
        world.pull(what);
        table.push_str(&world.table);
    };
    let one = |other: &str| vec![other.to_owned()];
    run("a mirror is asked first", &one, &|_| {});
    run("a mirror with a prefix", &|other| vec![format!("{other}/hub")], &|_| {});
    run("a mirror that lacks it", &|other| vec![format!("{other}/none")], &|_| {});
    run("a mirror that loses the layer later", &one, &|world| {
        world.other.rule(times("GET", "/blobs/", 1, 9, answer(404, &[], "BLOB_UNKNOWN")));
    });
    run("a mirror that is busy for hours", &one, &|world| {
        world.other.rule(times("GET", "", 0, 9, answer(429, &[("Retry-After", "21600")], "TOOMANYREQUESTS")));
    });
    run("a mirror that is not there", &|_| vec!["127.0.0.1:1".to_owned()], &|_| {});
    run("all fail", &one, &|world| {
        world.other.rule(times("GET", "", 0, 9, answer(500, &[], "UNKNOWN")));
        world.registry.rule(times("GET", "", 0, 9, answer(502, &[], "UNKNOWN")));
    });
    insta::assert_snapshot!(table);
}

#[test]
fn what_a_reference_can_be() {
    let mut world = World::new(None);
    World::fill(&world.registry, "a/b", "plain");
    let entry = |digest: Digest, architecture: &str| {
        format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
    };
    let image = Digest::of(&manifest());
    let index = |entries: &[String]| format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(","));
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let cases = [
        ("an index", index(&[entry(Digest::of(b"arm"), "arm64"), entry(image, "amd64"), entry(Digest::of(b"?"), "unknown")])),
        ("an index without the platform", index(&[entry(image, "s390x"), entry(image, "arm64")])),
        ("an index of indexes", index(&[entry(Digest::of(index(&[entry(image, "amd64")]).as_bytes()), "amd64")])),
        ("schema 1", r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}"#.to_owned()),
        ("foreign layers", String::from_utf8(manifest()).unwrap().replace("application/vnd.oci.image.layer.v1.tar", foreign)),
        ("fewer layers than its config says", {
            let mut value: serde_json::Value = serde_json::from_slice(&manifest()).unwrap();
            value["layers"] = serde_json::Value::Array(Vec::new());
            value.to_string()
        }),
        ("no image at all", "hello".to_owned()),
    ];
    world.registry.add_manifest("a/b", "inner", INDEX, index(&[entry(image, "amd64")]).as_bytes());
    for (what, bytes) in cases {
        world.registry.add_manifest("a/b", "1", INDEX, bytes.as_bytes());
        let outcome = world.client.resolve(&world.reference("a/b:1"), &"linux/amd64".parse().unwrap(), &world.cancel);
        let tell = |base: igraph::registry::ResolvedBase| {
            format!("{} through an index: {}, image {}, {}", base.manifest, base.index.is_some(), base.image_id, base.platform)
        };
        world.say(what, outcome.map(tell));
    }
    let outcome = world.client.resolve(&world.reference("a/b:none"), &"linux/amd64".parse().unwrap(), &world.cancel);
    world.say("nothing", outcome.map(|base| base.manifest.to_string()));
    let cancel = Cancel::new();
    cancel.cancel();
    let outcome = world.client.head_manifest(&world.reference("a/b:1"), &cancel);
    world.say("cancelled before", outcome.map(|_| String::new()));
    insta::assert_snapshot!(world.table);
}

#[test]
fn tls_with_a_private_ca() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(ca, &ca_key);
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let registry = Registry::start_tls(Arc::new(server));
    World::fill(&registry, "a/b", "1");
    let name: Reference = format!("{}/a/b:1", registry.host()).parse().unwrap();
    let ask = |ca: &str| {
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let mut config = ClientConfig::new(Box::new(Accounts(None)), clock);
        config.hosts.insert(registry.host().into(), HostConfig { ca: Some(ca.as_bytes().to_vec()), ..HostConfig::default() });
        Client::new(config).unwrap().head_manifest(&name, &Cancel::new())
    };
    assert_eq!(ask(&ca_pem).unwrap().unwrap().digest, Digest::of(&manifest()));

    let stranger_key = rcgen::KeyPair::generate().unwrap();
    let mut stranger = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    stranger.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let failure = ask(&stranger.self_signed(&stranger_key).unwrap().pem()).unwrap_err();
    assert_eq!(failure.retry, Retry::Never);
    assert!(failure.message.contains("is not trusted"), "{failure}");
    assert!(failure.hint.as_deref().unwrap().contains("tls: Ca("), "{failure:?}");

    // a plain registry that is taken for a TLS one
    let plain = Registry::start();
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    let mut config = ClientConfig::new(Box::new(Accounts(None)), clock);
    config.hosts.insert(plain.host().into(), HostConfig { ca: Some(ca_pem.into_bytes()), ..HostConfig::default() });
    let name: Reference = format!("{}/a/b:1", plain.host()).parse().unwrap();
    let failure = Client::new(config).unwrap().head_manifest(&name, &Cancel::new()).unwrap_err();
    assert!(failure.hint.as_deref().unwrap_or_default().contains("tls: Off"), "{failure:?}");
}

#[test]
fn proxies_are_used_and_loopback_is_not_proxied() {
    let (proxy, direct) = (Registry::start(), Registry::start());
    World::fill(&proxy, "a/b", "1");
    World::fill(&direct, "a/b", "1");
    let mut config = ClientConfig::new(Box::new(Accounts(None)), Arc::new(ManualClock::new(Timestamp(0))));
    for host in ["reg.test:8080", "excepted.test"] {
        config.hosts.insert(host.into(), HostConfig { plain_http: true, ..HostConfig::default() });
    }
    config.proxies = Proxies { http: Some(format!("http://{}", proxy.host())), https: None, no_proxy: Some("excepted.test".into()) };
    let client = Client::new(config).unwrap();
    let head = |host: &str| client.head_manifest(&format!("{host}/a/b:1").parse().unwrap(), &Cancel::new());
    assert!(head("reg.test:8080").unwrap().is_some());
    let seen = proxy.take_requests();
    assert_eq!((seen.len(), seen[0].path.as_str()), (1, "http://reg.test:8080/v2/a/b/manifests/1"));
    assert!(head(direct.host()).unwrap().is_some());
    assert!(head("excepted.test").is_err());
    assert_eq!(proxy.take_requests(), []);
}

#[test]
fn many_threads_fetch_one_token() {
    let world = World::new(account());
    World::fill(&world.registry, "team/app", "1");
    world.registry.guard(guard(true));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let (client, name, cancel) = (world.client.clone(), world.reference("team/app:1"), world.cancel.clone());
            scope.spawn(move || assert!(client.head_manifest(&name, &cancel).unwrap().is_some()));
        }
    });
    let seen = world.registry.take_requests();
    assert_eq!(seen.iter().filter(|seen| seen.path.starts_with("/token")).count(), 1);
    assert_eq!(seen.iter().filter(|seen| seen.status == 200 && seen.method == "HEAD").count(), 16);
}

#[test]
fn a_cancelled_download_stops() {
    let world = World::new(None);
    World::fill(&world.registry, "a/b", "1");
    let image = world.client.image(&world.reference("a/b:1").with_digest(Digest::of(&manifest())), &world.cancel).unwrap();
    let mut reader = image.open_layer(0).unwrap();
    let mut some = [0; 10];
    reader.read_exact(&mut some).unwrap();
    world.cancel.cancel();
    let failure = failure_of(std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err());
    assert_eq!(failure.class, FailureClass::Stopped);
}
