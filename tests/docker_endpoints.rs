//! The ways to a Docker daemon that are not a unix socket: tcp with TLS both ways, and ssh.

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use igraph::cancel::Cancel;
use igraph::engine::docker::{Builder, DockerEngine, DockerOptions, EndpointInputs, choose_endpoint};
use igraph::engine::{Attempt, Engine, Network, Output, TestRequest};
use igraph::event::Stream;
use igraph::failure::{Failure, Retry};
use igraph::platform::Platform;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use support::{Dockerd, RootfsImage};

struct Quiet;

impl Output for Quiet {
    fn line(&self, _: Stream, _: &str) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>) {}
}

fn connect(environment: &[(&str, &str)], scratch: &Path) -> Result<DockerEngine, Failure> {
    let environment: BTreeMap<String, String> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let endpoint = choose_endpoint(EndpointInputs { explicit: None, environment: &environment, config_folder: None }).unwrap();
    DockerEngine::connect(DockerOptions {
        endpoint,
        builder: Builder::Auto,
        owner: "endpoints".into(),
        run: "run1".into(),
        scratch: scratch.into(),
        environment: Arc::new(|_| None),
    })
}

/// A load and a container: streams in both directions, and a connection that changes protocol.
fn use_it(engine: &DockerEngine) {
    let cancel = Cancel::new();
    let attempt = Attempt { cancel: &cancel, output: &Quiet, timeout: None };
    let base = engine.load(&RootfsImage::with_shell(&[], &["PATH=/bin"]), &Platform::host(), "endpoints", &attempt).unwrap();
    let commands = [vec!["/bin/sh".to_owned(), "-ec".to_owned(), "exit 7".to_owned()]];
    let request = TestRequest {
        slug: "x",
        subject: &base,
        commands: &commands,
        env: &BTreeMap::new(),
        network: Network::None,
        proxies: &BTreeMap::new(),
    };
    assert_eq!(engine.test(&request, &attempt).unwrap_err().exit_code, Some(7));
}

fn write_keys(folder: &Path) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    for (name, usage) in [("server", ExtendedKeyUsagePurpose::ServerAuth), ("", ExtendedKeyUsagePurpose::ClientAuth)] {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.extended_key_usages = vec![usage];
        let signed = parameters.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}cert.pem")), signed.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}key.pem")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn tcp_with_tls_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    write_keys(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let arguments = [
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", path("ca.pem")),
        format!("--tlscert={}", path("servercert.pem")),
        format!("--tlskey={}", path("serverkey.pem")),
    ];
    let _daemon = match Dockerd::start_at(listener, &arguments) {
        Ok(daemon) => daemon,
        Err(why) => return support::skip("tcp_with_tls_both_ways", &why),
    };
    let url = format!("tcp://127.0.0.1:{port}");
    let certificates = folder.path().to_str().unwrap();
    let with_keys = [("DOCKER_HOST", url.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", certificates)];
    let engine = connect(&with_keys, folder.path()).unwrap();
    assert!(engine.description().contains(&url), "{}", engine.description());
    use_it(&engine);

    // without TLS, and with another authority, the reason is said
    let plain = connect(&[("DOCKER_HOST", &url)], folder.path()).err().unwrap();
    assert!(plain.retry == Retry::Never && plain.message.contains("HTTP request to an HTTPS server"), "{plain:?}");
    let other = tempfile::tempdir().unwrap();
    write_keys(other.path());
    let foreign = [("DOCKER_HOST", url.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", other.path().to_str().unwrap())];
    let refused = connect(&foreign, folder.path()).err().unwrap();
    assert!(refused.message.contains("invalid peer certificate"), "{refused:?}");
}

/// `ssh` is a stand-in here, which runs the remote command on this machine as ssh would on the other.
#[test]
fn ssh_to_another_machine() {
    const CHILD: &str = "IGRAPH_TEST_SSH_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let folder = tempfile::tempdir().unwrap();
        use_it(&connect(&[("DOCKER_HOST", &std::env::var("IGRAPH_TEST_SSH_URL").unwrap())], folder.path()).unwrap());
        let refused = connect(&[("DOCKER_HOST", "ssh://nobody@refuse")], folder.path()).err().unwrap();
        assert!(refused.message.contains("ssh: Permission denied (publickey)."), "{refused:?}");
        return;
    }
    let Some(daemon) = Dockerd::shared("ssh_to_another_machine") else { return };
    let folder = tempfile::tempdir().unwrap();
    let stand_in = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = refuse ] && { echo 'Permission denied (publickey).' >&2; exit 255; }\n\
                    shift 2\nexec \"$@\"\n";
    let program = folder.path().join("ssh");
    std::fs::write(&program, stand_in).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ssh_to_another_machine", "--nocapture"])
        .env("PATH", path)
        .env(CHILD, "1")
        .env("IGRAPH_TEST_SSH_URL", format!("ssh://me@elsewhere:2222{}", daemon.socket().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
