//! What ADD fetches from: an HTTP server and a Git daemon on loopback, with contents that never change. The repositories are behind
//! both, by HTTP at `/git/` as most servers have them, and at `/plain/` as files. Knows no builder.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
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
        let folder = tempfile::tempdir().unwrap();
        repositories(folder.path());
        let root = folder.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let root = root.clone();
                std::thread::spawn(move || drop(answer(stream, &root)));
            }
        });
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
            .expect("git-daemon");
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

fn answer(stream: TcpStream, repositories: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        header.clear();
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(path) = path.strip_prefix("/git") {
        let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body)?;
        let said = backend(repositories, (method, path, query), &headers, &body);
        return reader.into_inner().write_all(&said);
    }
    let plain = path.strip_prefix("/plain/").and_then(|path| std::fs::read(repositories.join(path)).ok());
    let name = path.rsplit('/').next().unwrap_or_default();
    let (status, body): (&str, &[u8]) = match (path, fixture::archive(name)) {
        ("/moved", _) => ("302 Found\r\nLocation: /file.txt", b""),
        ("/named", _) => ("200 OK\r\nContent-Disposition: attachment; filename=\"other.txt\"", b"named\n"),
        ("/file.txt" | "/file", _) => ("200 OK\r\nLast-Modified: Mon, 02 Jan 1984 03:04:05 GMT", b"served\n"),
        (_, Some(bytes)) => ("200 OK", bytes),
        _ => match &plain {
            Some(bytes) => ("200 OK", bytes),
            None => ("404 Not Found", b""),
        },
    };
    let mut stream = reader.into_inner();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(if method == "HEAD" { b"" } else { body })
}

/// What git's own server says to a request, as a whole answer.
fn backend(root: &Path, (method, path, query): (&str, &str, &str), headers: &BTreeMap<String, String>, body: &[u8]) -> Vec<u8> {
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("REQUEST_METHOD", method);
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("CONTENT_LENGTH", body.len().to_string());
    for (header, variable) in
        [("content-type", "CONTENT_TYPE"), ("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "GIT_PROTOCOL")]
    {
        command.envs(headers.get(header).map(|value| (variable, value)));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("git, of scripts/setup test");
    child.stdin.take().unwrap().write_all(body).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    let head = said.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(said.len(), |at| at + 2);
    let (head, rest) = (String::from_utf8_lossy(&said[..head]).into_owned(), said.get(head + 2..).unwrap_or_default());
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let length = rest.len();
    [format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n").as_bytes(), rest].concat()
}

/// `repo.git`: two commits, a branch and a tag. `whole.git`, of which `part.git` is a submodule. The same ids everywhere.
fn repositories(folder: &Path) {
    let script = r#"set -eu
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        export GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'
        umask 022
        bare() {
            git clone -q --bare . "../$1.git"
            git -C "../$1.git" config uploadpack.allowAnySHA1InWant true
            git -C "../$1.git" update-server-info
        }
        git init -q -b main "$1/repo"
        cd "$1/repo"
        mkdir sub; echo one >one.txt; echo two >sub/two.txt; echo '#!/bin/sh' >run.sh; chmod +x run.sh; ln -s one.txt link
        git add .; git commit -q -m first; git tag v1; git tag -a -m annotated v1-annotated
        git checkout -q -b side; echo side >side.txt; git add .; git commit -q -m side
        git checkout -q main; echo main >main.txt; git add .; git commit -q -m second
        bare repo
        git init -q -b main ../part
        cd ../part
        mkdir inner; echo part >part.txt; echo inner >inner/inner.txt; git add .; git commit -q -m part
        bare part
        git init -q -b main ../whole
        cd ../whole
        echo whole >whole.txt
        printf '[submodule "part"]\n\tpath = lib/part\n\turl = ../part.git\n' >.gitmodules
        git add .; git update-index --add --cacheinfo "160000,$(git -C ../part rev-parse HEAD),lib/part"; git commit -q -m whole
        bare whole"#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(folder).status().unwrap();
    assert!(status.success());
}
