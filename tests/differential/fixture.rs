//! What cases start from: a base image of busybox with files of every kind, and one context that all cases share. Knows no builder.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::read::GzEncoder;
use igraph::digest::Digest;
use serde_json::json;

use super::cases::Case;

const APPLETS: &str = "sh cat ls mkdir rmdir sleep env id stat grep cp mv rm touch chmod chown find readlink date echo printf test true \
    false ln mkfifo mknod wc sort head tail sed tr cut tee dd seq basename dirname pwd realpath mount umount ps kill hostname od awk ifconfig \
    sha256sum whoami expr xargs df";

/// Something in a tar.
enum Entry<'a> {
    Folder,
    File(&'a [u8]),
    Link(&'a str),
    Hard(&'a str),
    Pipe,
    Device(u32, u32),
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn put(&mut self, path: &str, mode: u32, owner: u64, entry: &Entry<'_>) -> &mut Self {
        self.put_with(path, mode, owner, &[], entry)
    }

    fn put_with(&mut self, path: &str, mode: u32, owner: u64, attributes: &[(&str, &[u8])], entry: &Entry<'_>) -> &mut Self {
        let names: Vec<(String, &[u8])> = attributes.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)).collect();
        if !names.is_empty() {
            self.0.append_pax_extensions(names.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(300_000_000);
        header.set_size(0);
        let append = |builder: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, kind, bytes: &[u8]| {
            header.set_entry_type(kind);
            builder.append_data(&mut header, path, Cursor::new(bytes)).unwrap();
        };
        match entry {
            Entry::Folder => append(&mut self.0, header, tar::EntryType::Directory, b""),
            Entry::File(bytes) => {
                header.set_size(bytes.len() as u64);
                append(&mut self.0, header, tar::EntryType::Regular, bytes);
            }
            Entry::Link(target) | Entry::Hard(target) => {
                header.set_entry_type(if matches!(entry, Entry::Link(_)) { tar::EntryType::Symlink } else { tar::EntryType::Link });
                self.0.append_link(&mut header, path, target).unwrap();
            }
            Entry::Pipe => append(&mut self.0, header, tar::EntryType::Fifo, b""),
            Entry::Device(major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                append(&mut self.0, header, tar::EntryType::Char, b"");
            }
        }
        self
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// CAP_NET_RAW, permitted and effective, as the kernel stores it.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The one layer of the base.
pub fn base_layer() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let busybox = fs::read("/bin/busybox").expect("the package busybox-static: scripts/setup test");
        let mut tar = Tar::new();
        for folder in ["bin", "dev", "etc", "home", "opt", "proc", "sys", "usr", "usr/bin", "var"] {
            tar.put(folder, 0o755, 0, &Entry::Folder);
        }
        tar.put("root", 0o700, 0, &Entry::Folder).put("tmp", 0o1777, 0, &Entry::Folder).put("home/app", 0o750, 1000, &Entry::Folder);
        tar.put("bin/busybox", 0o755, 0, &Entry::File(&busybox));
        for applet in APPLETS.split_whitespace() {
            tar.put(&format!("bin/{applet}"), 0o777, 0, &Entry::Link("busybox"));
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nnumber:x:1500:1500::/:/bin/sh\n42:x:4242:4242::/:/bin/sh\n";
        let group = "root:x:0:\napp:x:1001:\nstaff:x:50:app\naudio:x:29:app,number\nnumber:x:1500:\n";
        tar.put("etc/passwd", 0o644, 0, &Entry::File(passwd.as_bytes())).put("etc/group", 0o644, 0, &Entry::File(group.as_bytes()));
        tar.put("srv", 0o2775, 50, &Entry::Folder);
        tar.put("srv/file", 0o640, 50, &Entry::File(b"file\n")).put("srv/setuid", 0o4755, 0, &Entry::File(b"setuid\n"));
        tar.put("srv/hard1", 0o644, 0, &Entry::File(b"hard\n")).put("srv/hard2", 0o644, 0, &Entry::Hard("srv/hard1"));
        tar.put_with("srv/capable", 0o755, 0, &[("security.capability", CAPABILITY)], &Entry::File(b"capable\n"));
        tar.put("srv/pipe", 0o600, 0, &Entry::Pipe).put("srv/null", 0o666, 0, &Entry::Device(1, 3));
        tar.put("srv/sub", 0o700, 1000, &Entry::Folder).put("srv/sub/inner", 0o600, 1000, &Entry::File(b"inner\n"));
        tar.put("srv/dangling", 0o777, 0, &Entry::Link("nowhere")).put("srv/to-file", 0o777, 0, &Entry::Link("file"));
        tar.put("full", 0o755, 0, &Entry::Folder).put("full/a", 0o644, 0, &Entry::File(b"a\n")).put("full/b", 0o644, 0, &Entry::File(b"b\n"));
        tar.put("full/deep", 0o755, 0, &Entry::Folder).put("full/deep/c", 0o644, 0, &Entry::File(b"c\n"));
        tar.put("to-full", 0o777, 0, &Entry::Link("full")).put("abs-full", 0o777, 0, &Entry::Link("/full"));
        tar.put("outward", 0o777, 0, &Entry::Link("../../../opt")).put("loop", 0o777, 0, &Entry::Link("loop"));
        tar.finish()
    })
}

/// The base's config.
pub fn base_config() -> Vec<u8> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "1980-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", "BASE=yes"], "Cmd": ["/bin/sh"], "Labels": {"base": "yes"},
        },
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(base_layer())]},
        "history": [{"created": "1980-01-01T00:00:00Z", "created_by": "the base"}],
    });
    serde_json::to_vec(&config).unwrap()
}

/// The base as `docker save` writes it.
pub fn base_archive() -> Vec<u8> {
    let config = base_config();
    let name = format!("{}.json", &Digest::of(&config).to_string()[7..]);
    let manifest = json!([{"Config": name, "RepoTags": ["base:latest"], "Layers": ["layer.tar"]}]);
    let mut tar = Tar::new();
    tar.put(&name, 0o644, 0, &Entry::File(&config)).put("layer.tar", 0o644, 0, &Entry::File(base_layer()));
    tar.put("manifest.json", 0o644, 0, &Entry::File(&serde_json::to_vec(&manifest).unwrap()));
    tar.finish()
}

fn plain_tar() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.put("t", 0o755, 0, &Entry::Folder).put("t/one", 0o644, 0, &Entry::File(b"one\n")).put("two", 0o600, 7, &Entry::File(b"two\n"));
    tar.finish()
}

/// Of every kind, with owners, modes and attributes.
fn rich_tar() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.put("./", 0o700, 9, &Entry::Folder).put("./r", 0o1750, 8, &Entry::Folder);
    tar.put("./r/setuid", 0o4711, 8, &Entry::File(b"setuid\n")).put("./r/link", 0o777, 8, &Entry::Link("setuid"));
    tar.put("./r/hard", 0o4711, 8, &Entry::Hard("./r/setuid")).put("./r/pipe", 0o620, 8, &Entry::Pipe);
    tar.put_with("./r/capable", 0o755, 0, &[("security.capability", CAPABILITY)], &Entry::File(b"capable\n"));
    tar.put("./implicit/folder/file", 0o644, 0, &Entry::File(b"implicit\n"));
    tar.put("full/a", 0o600, 3, &Entry::File(b"other\n")).put("./absolute", 0o777, 0, &Entry::Link("/etc"));
    tar.finish()
}

/// Leads out of where it is unpacked.
fn evil_tar() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.put("door", 0o777, 0, &Entry::Link("/opt")).put("door/in", 0o644, 0, &Entry::File(b"in\n"));
    tar.finish()
}

fn packed(mut reader: impl Read) -> Vec<u8> {
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    packed(GzEncoder::new(bytes, Compression::default()))
}

/// As the program does it: with a checksum.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::read::Encoder::new(bytes, 3).unwrap();
    encoder.include_checksum(true).unwrap();
    packed(encoder)
}

/// What a server of the test hands out, too.
pub fn archive(name: &str) -> Option<&'static [u8]> {
    static ARCHIVES: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    let archives = ARCHIVES.get_or_init(|| {
        let plain = plain_tar();
        vec![
            ("plain.tar.gz", gzip(&plain)),
            ("plain.tar.bz2", packed(bzip2::read::BzEncoder::new(plain.as_slice(), bzip2::Compression::best()))),
            ("plain.tar.xz", packed(liblzma::read::XzEncoder::new(plain.as_slice(), 6))),
            ("plain.tar.zst", zstd(&plain)),
            ("rich.tar", rich_tar()),
            ("evil.tar", evil_tar()),
            ("text.gz", gzip(b"text\n")),
            ("not.tar", b"not a tar\n".to_vec()),
            ("plain.tar", plain),
        ]
    });
    archives.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.as_slice())
}

/// The context of a case, in a folder that is there; owned by root, modes as igraph has them, whatever the umask.
pub fn context(root: &Path, case: &Case) {
    let folders = ["d", "d/sub", "d/sub/deep", "e", "empty", "tars"];
    let files = [
        ("a.txt", "a\n"),
        ("b.txt", "b\n"),
        ("c.md", "c\n"),
        ("run.sh", "#!/bin/sh\necho run\n"),
        ("empty.txt", ""),
        ("d/one.txt", "one\n"),
        ("d/two.md", "two\n"),
        ("d/.hidden", "hidden\n"),
        ("d/run.sh", "#!/bin/sh\necho d\n"),
        ("d/sub/three.txt", "three\n"),
        ("d/sub/deep/four.txt", "four\n"),
        ("d/sub/deep/five.md", "five\n"),
        ("e/one.txt", "other one\n"),
        ("e/six.txt", "six\n"),
        ("with space.txt", "space\n"),
        ("[x].txt", "brackets\n"),
        ("ünï.txt", "unicode\n"),
    ];
    let links = [
        ("l.txt", "a.txt"),
        ("ldir", "d"),
        ("abs", "/d/one.txt"),
        ("dangling", "nowhere"),
        ("up", "../../../a.txt"),
        ("d/to-one", "one.txt"),
        ("d/to-sub", "sub"),
        ("d/to-a", "../a.txt"),
    ];
    for folder in folders {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (path, text) in files {
        fs::write(root.join(path), text).unwrap();
    }
    for (path, target) in links {
        symlink(target, root.join(path)).unwrap();
    }
    for name in
        ["plain.tar", "plain.tar.gz", "plain.tar.bz2", "plain.tar.xz", "plain.tar.zst", "rich.tar", "evil.tar", "text.gz", "not.tar"]
    {
        fs::write(root.join("tars").join(name), archive(name).unwrap()).unwrap();
    }
    for (path, text) in &case.files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    normalise(root);
    for (path, mode) in &case.modes {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode)).unwrap();
    }
}

fn normalise(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_symlink() {
        return;
    }
    let executable = metadata.is_dir() || path.extension().is_some_and(|extension| extension == "sh");
    fs::set_permissions(path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 })).unwrap();
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| normalise(&entry.unwrap().path()));
    }
}
