//! A workspace with every rule and field, loaded from real files: what the catalogue says of it.

use std::fs;
use std::path::Path;

use igraph::label::Label;
use igraph::spec::{Catalogue, Destination, Registry, load};

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const FILES: &[(&str, &str)] = &[
    (
        "BUILD.ron",
        r#"
Workspace(
    packages: "images",
    registry: "reg.corp:5000/team",
    registries: {
        "reg.corp:5000": (tls: Ca("ca.pem"), mirrors: ["mirror.corp"]),
        "old.corp": (tls: Off),
        "other.corp": (tls: Ca("/etc/ssl/other.pem")),
    },
    engine: Docker(host: "unix:///var/run/docker.sock"),
    epoch: 1_000,
    jobs: 4,
    retries: (max: 2, delay: "1s", backoff: 1.5, max_delay: "30s", max_wait: "5m"),
)
"#,
    ),
    (
        "images/debian/jessie/BUILD.ron",
        r#"
#![enable(implicit_some)]
// a comment
Package(
    repository: "nodesource/jessie",
    tests: [":smoke", "//tests:node"],
    args: {"VERSION": "0", "FLAVOUR": "slim"},
    timeout: Some("30m"),
    rules: [
        Test(name: "smoke", run: ["node --version | grep -Fx v$IGRAPH_NAME"], env: {"A": "\u{e9}\"\\"}),
        Test(name: "addons", dockerfile: "tests/addons/Dockerfile", args: {"X": "1"}, network: "none", retries: 0),
        Image(
            name: "4.2.1",
            dockerfile: "node/4.2.1/Dockerfile",
            args: {"VERSION": "4.2.1"},
            aliases: ["4", "4.2", "argon", "nodesource/node:argon", "ghcr.io/nodesource/node:4"],
            tests: [":addons", ":smoke"],
            platform: "linux/s390x",
            network: "host",
            secrets: {"npm": Env("NPM_TOKEN"), "key": File("key"), "far": File("/run/far")},
            ssh: ["default"],
            extra_inputs: ["../../shared/**/*.sh", "probe"],
            retries: (max: 5),
            manual: true,
        ),
        Image(name: "4.10", target: None, context: ".", timeout: "1m", /* still */ ssh: {"deploy": Env("DEPLOY")}),
        Image(name: "4.9", context: "../..", target: "runtime"),
    ],
)
"#,
    ),
    (
        "images/base/BUILD.ron",
        r##"
Package(untested: "a parent", rules: [
    Base(name: "bookworm", provides: ["debian:bookworm"], from: Command(["./bootstrap", "bookworm", "{out}"]), inputs: ["bootstrap"], env: {"M": r#"a"b\"#}),
    Base(name: "jessie", provides: ["debian:jessie"], from: Registry("docker.io/library/debian:jessie"), platform: "linux/amd64"),
    Base(name: "busybox", provides: ["busybox:1", "busybox"], from: Rootfs("busybox.tar")),
    Base(name: "layout", provides: ["layout"], from: OciLayout("../dir")),
    Image(name: "x"),
])
"##,
    ),
    (
        "images/tests/BUILD.ron",
        r#"Package(rules: [Test(name: "node", exec: [["/usr/bin/node", "--version"]], timeout: "1m30s", platform: "linux/amd64")])"#,
    ),
    ("images/.hidden/BUILD.ron", "Nonsense("),
    ("images/igraph-out/BUILD.ron", "Nonsense("),
    ("images/debian/Dockerfile", ""),
];

fn loaded() -> (tempfile::TempDir, Catalogue) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), FILES);
    let catalogue = load(folder.path()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    (folder, catalogue)
}

fn label(text: &str) -> Label {
    Label::parse(text, None).unwrap()
}

#[test]
fn everything_is_there_with_its_defaults() {
    use std::fmt::Write;
    let (_folder, catalogue) = loaded();
    let mut shown = String::new();
    let workspace = &catalogue.workspace;
    writeln!(
        shown,
        "{} {} {:?} {:?} {} {:?}\n{:?}",
        workspace.packages, workspace.registry, workspace.registries, workspace.engine, workspace.epoch, workspace.jobs, workspace.retries
    )
    .unwrap();
    for (package, spec) in &catalogue.packages {
        writeln!(shown, "{package} {} {}", spec.folder, spec.repository).unwrap();
    }
    for (label, image) in &catalogue.images {
        let names: Vec<&str> = image.names.iter().map(|name| &*name.written).collect();
        writeln!(
            shown,
            "{label} {} in {:?} target {:?} args {:?} for {} network {:?}\n  secrets {:?} ssh {:?} extra {:?}\n  tests {:?} untested {:?} names {names:?} timeout {:?} max {} manual {}",
            image.dockerfile, image.context, image.target, image.args, image.platform, image.network, image.secrets, image.ssh,
            image.extra_inputs, image.tests, image.untested, image.timeout, image.retries.max, image.manual,
        )
        .unwrap();
    }
    for (label, test) in &catalogue.tests {
        writeln!(shown, "{label} {:?} {:?} {:?} {:?} max {}", test.form, test.network, test.platform, test.timeout, test.retries.max)
            .unwrap();
    }
    for (label, base) in &catalogue.bases {
        let provides: Vec<String> = base.provides.iter().map(|name| name.reference.to_string()).collect();
        writeln!(shown, "{label} {provides:?} {:?}", base.from).unwrap();
    }
    for file in &catalogue.files {
        writeln!(shown, "read {:?}", file.path).unwrap();
    }
    let shown = shown.replace(&igraph::platform::Platform::host().to_string(), "HOST");
    insta::assert_snapshot!(shown);
}

#[test]
fn a_reference_belongs_to_whoever_claims_it() {
    let (_folder, catalogue) = loaded();
    let digest = format!("debian:jessie@{}", igraph::digest::Digest::of(b""));
    for (reference, owner) in [
        ("debian:jessie", Some("//base:jessie")),
        ("docker.io/library/debian:jessie", Some("//base:jessie")),
        ("busybox", Some("//base:busybox")),
        ("busybox:latest", Some("//base:busybox")),
        ("nodesource/jessie:4.2.1", Some("//debian/jessie:4.2.1")),
        ("index.docker.io/nodesource/jessie:4.2", Some("//debian/jessie:4.2.1")),
        ("nodesource/node:argon", Some("//debian/jessie:4.2.1")),
        ("ghcr.io/nodesource/node:4", Some("//debian/jessie:4.2.1")),
        ("reg.corp:5000/team/nodesource/jessie:4", Some("//debian/jessie:4.2.1")),
        ("base:x", Some("//base:x")),
        ("reg.corp:5000/team/base:x", Some("//base:x")),
        ("reg.corp:5000/nodesource/jessie:4", None),
        ("nodesource/jessie", None),
        ("debian", None),
        (digest.as_str(), None),
    ] {
        assert_eq!(catalogue.claims.owner(&reference.parse().unwrap()), owner.map(label).as_ref(), "{reference}");
    }
}

#[test]
fn names_go_where_they_say_or_where_the_workspace_says() {
    let (_folder, catalogue) = loaded();
    let image = &catalogue.images[&label("//debian/jessie:4.2.1")];
    let to =
        |to: &Destination| -> Vec<String> { image.names.iter().map(|name| image.destination(name, to).unwrap().to_string()).collect() };
    assert_eq!(
        to(&Destination::Workspace(catalogue.workspace.registry.clone())),
        [
            "reg.corp:5000/team/nodesource/jessie:4.2.1",
            "reg.corp:5000/team/nodesource/jessie:4",
            "reg.corp:5000/team/nodesource/jessie:4.2",
            "reg.corp:5000/team/nodesource/jessie:argon",
            "reg.corp:5000/team/nodesource/node:argon",
            "ghcr.io/nodesource/node:4",
        ]
    );
    let staging = Registry::parse("127.0.0.1:5000/try").unwrap();
    assert_eq!(
        to(&Destination::Staging(staging.clone())),
        [
            "127.0.0.1:5000/try/nodesource/jessie:4.2.1",
            "127.0.0.1:5000/try/nodesource/jessie:4",
            "127.0.0.1:5000/try/nodesource/jessie:4.2",
            "127.0.0.1:5000/try/nodesource/jessie:argon",
            "127.0.0.1:5000/try/nodesource/node:argon",
            "127.0.0.1:5000/try/nodesource/node:4",
        ]
    );
    assert_eq!(catalogue.check_staging(&staging), []);
    let bare = &catalogue.images[&label("//base:x")];
    for (to, expected) in [
        (Destination::Workspace(Registry::hub()), "docker.io/library/base:x"),
        (Destination::Workspace(Registry::parse("docker.io/team").unwrap()), "docker.io/team/base:x"),
        (Destination::Staging(staging), "127.0.0.1:5000/try/base:x"),
    ] {
        assert_eq!(bare.destination(&bare.names[0], &to).unwrap().to_string(), expected);
    }
}

#[test]
fn later_stages_can_point_at_a_field() {
    let (_folder, catalogue) = loaded();
    let image = &catalogue.images[&label("//debian/jessie:4.10")];
    let text = |field: &str| {
        let place = image.origin.field(field);
        place.source.text[place.span].to_owned()
    };
    assert_eq!(
        (text("context"), text("tests"), text("network")),
        ("\".\"".into(), "[\":smoke\", \"//tests:node\"]".into(), "\"4.10\"".into())
    );
    assert_eq!(image.origin.name().line_column(), (26, 21));
}
