//! The real `docker-registry` on loopback, its files in a folder that is removed with it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use igraph::reference::Reference;

/// A running registry.
pub struct DockerRegistry {
    child: Child,
    /// `127.0.0.1:PORT`
    pub host: String,
    folder: tempfile::TempDir,
}

impl DockerRegistry {
    /// `None`, said aloud, where the program is not installed. With `accounts`, the text of a htpasswd file, it asks for one.
    pub fn start(test: &str, accounts: Option<&str>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = folder.path().display();
        let auth = match accounts {
            Some(accounts) => {
                std::fs::write(folder.path().join("htpasswd"), accounts).unwrap();
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n")
            }
            None => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}"
        );
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let started = Command::new("docker-registry")
            .args(["serve", &folder.path().join("config.yml").to_string_lossy()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                super::support::skip(test, "`docker-registry` is not installed");
                return None;
            }
            Err(error) => panic!("docker-registry: {error}"),
        };
        let mut registry = Self { child, host: format!("127.0.0.1:{port}"), folder };
        while std::net::TcpStream::connect(&registry.host).is_err() {
            assert!(registry.child.try_wait().unwrap().is_none(), "docker-registry ended at once");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(registry)
    }

    /// A reference in it.
    pub fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    /// Where it keeps its files.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("data/docker/registry/v2")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
