//! What ADD fetches from: an HTTP server and a Git daemon on loopback, with contents that never change. Knows no builder.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::fixture;

pub struct Servers {
    /// `127.0.0.1:PORT` of the HTTP server.
    pub http: String,
    /// The same of the Git daemon.
    pub git: String,
    daemon: Child,
    _folder: tempfile::TempDir,
}

impl Servers {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || drop(answer(stream)));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        repository(&folder.path().join("repo.git"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // `git daemon` would be its parent, and die alone
        let programs = Command::new("git").arg("--exec-path").output().expect("git, of scripts/setup test").stdout;
        let daemon = Command::new(Path::new(String::from_utf8(programs).unwrap().trim()).join("git-daemon"))
            .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("git, of scripts/setup test");
        let git = format!("127.0.0.1:{port}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&git).is_err() {
            assert!(Instant::now() < deadline, "git daemon does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { http, git, daemon, _folder: folder }
    }

    /// A text of a case with the addresses in it.
    pub fn fill(&self, text: &str) -> String {
        text.replace("SERVER", &self.http).replace("GIT", &self.git)
    }

    /// The reverse, for a record.
    pub fn hide(&self, text: &str) -> String {
        text.replace(&self.http, "SERVER").replace(&self.git, "GIT")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let (status, body): (&str, &[u8]) = match (path, fixture::archive(name)) {
        ("/moved", _) => ("302 Found\r\nLocation: /file.txt", b""),
        ("/named", _) => ("200 OK\r\nContent-Disposition: attachment; filename=\"other.txt\"", b"named\n"),
        ("/file.txt" | "/file", _) => ("200 OK\r\nLast-Modified: Mon, 02 Jan 1984 03:04:05 GMT", b"served\n"),
        (_, Some(bytes)) => ("200 OK", bytes),
        _ => ("404 Not Found", b""),
    };
    let mut stream = reader.into_inner();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(if method == "HEAD" { b"" } else { body })
}

/// Two commits, a branch and a tag; the same ids everywhere.
fn repository(bare: &Path) {
    let script = r#"set -eu
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        export GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'
        umask 022
        git init -q -b main "$1.work"
        cd "$1.work"
        mkdir sub; echo one >one.txt; echo two >sub/two.txt; echo '#!/bin/sh' >run.sh; chmod +x run.sh; ln -s one.txt link
        git add .; git commit -q -m first; git tag v1
        git checkout -q -b side; echo side >side.txt; git add .; git commit -q -m side
        git checkout -q main; echo main >main.txt; git add .; git commit -q -m second
        git clone -q --bare . "$1"
        git -C "$1" config uploadpack.allowAnySHA1InWant true"#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(bare).status().unwrap();
    assert!(status.success());
}
