//! A proxy in front of an HTTP/1.1 server on TCP or a unix socket that keeps what was asked: method, path and the bytes of each body.
//! Passes answers on unread, and after an upgrade everything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A request that went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Like `PUT`.
    pub method: String,
    /// With query.
    pub path: String,
    /// Bytes of the body.
    pub body: u64,
}

/// The proxy; it listens until the process ends.
pub struct Proxy {
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A connection of either kind.
trait Wire: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn end(&self, how: Shutdown);
}

impl Wire for TcpStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn end(&self, how: Shutdown) {
        drop(self.shutdown(how));
    }
}

impl Wire for UnixStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn end(&self, how: Shutdown) {
        drop(self.shutdown(how));
    }
}

impl Proxy {
    /// In front of `host:port`; returns the address to use instead.
    pub fn tcp(to: &str) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (proxy, to) = (Self { asked: Arc::default() }, to.to_owned());
        let asked = proxy.asked.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(&to) {
                    drop((client.set_nodelay(true), server.set_nodelay(true)));
                    pass(client, server, &asked);
                }
            }
        });
        (proxy, host)
    }

    /// In front of the socket `to`, at the socket `at`.
    pub fn unix(at: &Path, to: &Path) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let (proxy, to) = (Self { asked: Arc::default() }, to.to_owned());
        let asked = proxy.asked.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = UnixStream::connect(&to) {
                    pass(client, server, &asked);
                }
            }
        });
        proxy
    }

    /// How many such requests there were since the last `take`.
    pub fn count(&self, such: impl Fn(&Asked) -> bool) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|asked| such(asked)).count()
    }

    /// What was asked since the last call.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// not every test file counts
const _: fn(&Proxy) -> usize = |proxy| proxy.count(|_| true);

fn pass<W: Wire>(client: W, server: W, asked: &Arc<Mutex<Vec<Asked>>>) {
    let (mut answers, mut back) = (server.twin().unwrap(), client.twin().unwrap());
    std::thread::spawn(move || {
        drop(io::copy(&mut answers, &mut back));
        back.end(Shutdown::Both);
    });
    let asked = asked.clone();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(client);
        let mut server = server;
        while let Ok(true) = one_request(&mut reader, &mut server, &asked) {}
        server.end(Shutdown::Write);
    });
}

/// Passes one request on; false where the connection ended, or has become another protocol's and that has ended.
fn one_request(reader: &mut impl BufRead, server: &mut impl Write, asked: &Mutex<Vec<Asked>>) -> io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(false);
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let at = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(Asked { method, path, body: 0 });
        asked.len() - 1
    };
    let count = |bytes: u64| {
        // the list may have been taken in between
        if let Some(one) = asked.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            one.body += bytes;
        }
    };
    server.write_all(&head)?;
    let header = |name: &str| {
        text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    if header("upgrade").is_some() {
        io::copy(reader, server)?;
        return Ok(false);
    }
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            server.write_all(line.as_bytes())?;
            let size = u64::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16).map_err(io::Error::other)?;
            count(size);
            // the line break behind it too; no trailers are sent
            copy(reader, server, size + 2)?;
            if size == 0 {
                return Ok(true);
            }
        }
    }
    let length: u64 = header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    count(length);
    copy(reader, server, length)?;
    Ok(true)
}

fn copy(reader: &mut impl BufRead, server: &mut impl Write, length: u64) -> io::Result<()> {
    let copied = io::copy(&mut reader.take(length), server)?;
    server.flush()?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
