//! Mirrors, certificates, rate limits, and registries that are down.

use std::sync::Arc;

use crate::registry::{Action, Registry, Rule};
use crate::world::*;

fn answer(status: u16, headers: &[(&str, &str)]) -> Action {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Action::Answer { status, headers, body: String::new() }
}

fn always(path: &'static str, action: Action) -> Rule {
    Rule { method: "", path, skip: 0, times: usize::MAX, action }
}

fn key(world: &World) -> String {
    let ran = world.igraph(&["why", "--manifest", "//a:1", "--engine", "fake"]).expect(0);
    ran.out.lines().next().unwrap().to_owned()
}

#[test]
fn a_mirror_of_docker_hub_is_asked_and_pulled_from() {
    let mirror = Registry::start();
    publish(&mirror, "hub/library/debian", "jessie", "x");
    let world = World::new(&format!("registries: {{\"docker.io\": (mirrors: [\"{}/hub\"])}}", mirror.host()));
    world.image("a", "debian:jessie", "");
    world.verb(&["test"]).expect(0);
    let asked = asked(&mirror);
    assert!(asked.contains(&"GET /v2/hub/library/debian/manifests/jessie".to_owned()), "{asked:?}");
    assert!(asked.iter().filter(|line| line.contains("/hub/library/debian/blobs/")).count() >= 2, "config and layer: {asked:?}");
    let lock = world.lock().unwrap();
    assert!(lock.contains("reference: \"docker.io/library/debian:jessie\"") && !lock.contains(mirror.host()), "{lock}");
    world.igraph(&["outdated"]).expect(0).says("none has moved");
    let why = world.igraph(&["why", "docker.io//library/debian:jessie", "--engine", "fake"]).expect(0);
    assert!(why.out.starts_with("docker.io//library/debian:jessie is fresh"), "{}", why.out);
}

#[test]
fn a_mirror_that_fails_is_passed_over_and_is_in_no_key() {
    let (own, mirror) = (Registry::start(), Registry::start());
    publish(&own, "os", "1", "x");
    publish(&mirror, "hub/os", "1", "x");
    let catalogue = |mirrored: bool| {
        let mirrors =
            if mirrored { format!("registries: {{\"{}\": (mirrors: [\"{}/hub\"])}}", own.host(), mirror.host()) } else { String::new() };
        let world = World::new(&mirrors);
        world.image("a", &format!("{}/os:1", own.host()), "");
        world
    };
    let plain = catalogue(false);
    plain.verb(&["build"]).expect(0);
    asked(&own);
    let mirrored = catalogue(true);
    mirrored.verb(&["build"]).expect(0);
    assert_eq!(asked(&own), Vec::<String>::new());
    assert_eq!(key(&mirrored), key(&plain));
    for action in [answer(500, &[]), answer(401, &[]), answer(404, &[]), Action::Reset, answer(429, &[("Retry-After", "21600")])] {
        mirror.rule(always("", action.clone()));
        let world = catalogue(true);
        world.verb(&["build"]).expect(0);
        assert_eq!(key(&world), key(&plain), "{action:?}");
        world.igraph(&["outdated"]).expect(0).says("none has moved");
    }
}

#[test]
fn a_private_ca_and_plain_http() {
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
    let secure = Registry::start_tls(Arc::new(server));
    publish(&secure, "os", "1", "x");
    let world = World::new(&format!("registries: {{\"{}\": (tls: Ca(\"ca.pem\"))}}", secure.host()));
    world.image("a", &format!("{}/os:1", secure.host()), "");
    world.verb(&["build"]).expect(2).says("ca.pem");
    world.write("ca.pem", &ca_pem);
    world.verb(&["build"]).expect(0);

    let plain = Registry::start();
    publish(&plain, "os", "1", "x");
    let host = plain.host().replace("127.0.0.1", "localhost");
    for (tls, code) in [("tls: Off", 0), ("tls: Ca(\"ca.pem\")", 10)] {
        let world = World::new(&format!("registries: {{\"{host}\": ({tls})}}"));
        world.write("ca.pem", &ca_pem);
        world.image("a", &format!("{host}/os:1"), "");
        let ran = world.verb(&["build"]).expect(code);
        if code != 0 {
            ran.says("does not speak TLS").says("tls: Off");
        }
    }
}

/// Two bases in one registry, one in another.
fn two_registries() -> (Registry, Registry, World) {
    let (busy, other) = (Registry::start(), Registry::start());
    let world = World::new("");
    for (package, registry, name) in [("a", &busy, "one"), ("b", &busy, "two"), ("c", &other, "three")] {
        publish(registry, name, "1", "x");
        world.image(package, &format!("{}/{name}:1", registry.host()), "");
    }
    world.verb(&["build"]).expect(0);
    publish(&other, "three", "1", "y");
    (busy, other, world)
}

#[test]
fn a_short_rate_limit_is_waited_for() {
    let (busy, _other, world) = two_registries();
    busy.once("HEAD", "one/manifests", answer(429, &[("Retry-After", "1")]));
    let ran = world.igraph(&["outdated"]).expect(0).says("429 Too Many Requests");
    assert_eq!(rows(&ran.out).len(), 1);
}

#[test]
fn a_long_rate_limit_is_told_once_and_the_others_go_on() {
    let (busy, _other, world) = two_registries();
    busy.rule(always("", answer(429, &[("Retry-After", "21600")])));
    for command in ["outdated", "update"] {
        let ran = world.igraph(&[command]).expect(10);
        assert_eq!(ran.err.matches("it takes no requests before").count(), 1, "{}", ran.err);
        let ran = ran.says("other registries are not affected").says("one:1 (linux/").says("two:1 (linux/");
        assert_eq!(rows(&ran.out).len(), 1, "{}", ran.out);
    }
    assert!(world.lock().unwrap().contains(&manifest_of(host_architecture(), "y").to_string()));
    // an ordinary build asks nobody but for what moved
    assert_eq!(world.verb(&["build"]).expect(0).labels("BUILD"), ["//c:1"]);
}

#[test]
fn a_registry_that_is_down_stops_no_other() {
    let (busy, _other, world) = two_registries();
    let host = busy.host().to_owned();
    drop(busy);
    let ran = world.igraph(&["outdated"]).expect(10).says(&format!("`{host}`"));
    assert_eq!(rows(&ran.out).len(), 1);
    // what is known needs nobody, what is not fails alone, with a way out
    world.verb(&["build", "//a:1"]).expect(0).says("nothing to do");
    world.image("d", &format!("{host}/four:1"), "");
    world.verb(&["build"]).expect(10).says(&format!("try `--base {host}/four:1=rootfs:FILE`"));
}

#[test]
fn what_is_not_there_is_the_users_to_mend() {
    let registry = Registry::start();
    let world = World::new("");
    let old = publish(&registry, "os", "1", "x");
    world.image("a", &format!("{}/os:2", registry.host()), "");
    world.verb(&["build"]).expect(1).says("does not exist").silent_about("rootfs:FILE");
    registry.add_manifest(
        "os",
        "2",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        b"{\"schemaVersion\": 1, \"name\": \"os\"}",
    );
    world.verb(&["build"]).expect(1).says("cannot be used");
    // a locked digest that its registry has lost
    let world = World::new("");
    world.image("a", &format!("{}/os:1", registry.host()), "");
    world.igraph(&["update"]).expect(0);
    registry.rule(Rule { method: "GET", path: "manifests/sha256", skip: 0, times: usize::MAX, action: answer(404, &[]) });
    world.verb(&["build"]).expect(1).says(&old.to_string()).says(&format!("igraph update {}/os:1", registry.host()));
}
