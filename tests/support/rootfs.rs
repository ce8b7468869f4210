//! A small image out of this machine's own programs: a shell and a few tools with the libraries they need. No network, no registry.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use igraph::digest::Digest;
use igraph::failure::Failure;
use igraph::image::{Compression, ImageSource, LayerBlob};

const PROGRAMS: &[&str] =
    &["sh", "cat", "ls", "mkdir", "sleep", "env", "id", "stat", "grep", "cp", "mv", "rm", "touch", "chmod", "find", "readlink", "date"];

/// An image of one or more layers, in memory.
pub struct RootfsImage {
    config: Vec<u8>,
    layers: Vec<LayerBlob>,
    bytes: Vec<Vec<u8>>,
}

impl RootfsImage {
    /// A shell and tools; `environment` goes into the config.
    pub fn with_shell(extra: &[&str], environment: &[&str]) -> Self {
        let mut files: BTreeSet<PathBuf> = BTreeSet::new();
        for name in PROGRAMS.iter().chain(extra) {
            let Some(program) = ["/usr/bin", "/bin"].iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists()) else {
                continue;
            };
            files.extend(libraries(&program));
            files.insert(program);
        }
        let mut builder = tar::Builder::new(Vec::new());
        for folder in ["bin", "usr", "usr/bin", "lib", "lib64", "usr/lib", "tmp", "etc", "proc", "sys", "dev", "root"] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
            header.set_size(0);
            builder.append_data(&mut header, folder, std::io::empty()).unwrap();
        }
        let mut put = |path: &str, bytes: &[u8], mode: u32| {
            let mut header = tar::Header::new_ustar();
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path.trim_start_matches('/'), bytes).unwrap();
        };
        put("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", 0o644);
        put("etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644);
        for file in &files {
            let bytes = std::fs::read(file).unwrap();
            let path = file.to_str().unwrap();
            put(path, &bytes, 0o755);
            if let Some(name) = path.strip_prefix("/usr/bin/") {
                put(&format!("bin/{name}"), &bytes, 0o755);
            }
        }
        Self::of_layers(vec![builder.into_inner().unwrap()], environment)
    }

    /// Layers as given, base first.
    pub fn of_layers(bytes: Vec<Vec<u8>>, environment: &[&str]) -> Self {
        let layers: Vec<LayerBlob> = bytes
            .iter()
            .map(|bytes| {
                let digest = Digest::of(bytes);
                LayerBlob { diff_id: digest, digest, size: bytes.len() as u64, compression: Compression::None }
            })
            .collect();
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "created": "1980-01-01T00:00:00Z",
            "config": {"Env": environment, "Cmd": ["/bin/sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| serde_json::json!({"created": "1980-01-01T00:00:00Z"})).collect::<Vec<_>>(),
        });
        Self { config: serde_json::to_vec(&config).unwrap(), layers, bytes }
    }

    /// A config and its layers, base first.
    pub fn of_parts(config: Vec<u8>, bytes: Vec<Vec<u8>>) -> Self {
        Self { config, ..Self::of_layers(bytes, &[]) }
    }

    /// The uncompressed layers.
    pub fn layer_bytes(&self) -> &[Vec<u8>] {
        &self.bytes
    }
}

impl ImageSource for RootfsImage {
    fn config(&self) -> &[u8] {
        &self.config
    }

    fn layers(&self) -> &[LayerBlob] {
        &self.layers
    }

    fn open_layer(&self, index: usize) -> Result<Box<dyn Read + Send + '_>, Failure> {
        Ok(Box::new(Cursor::new(&self.bytes[index])))
    }
}

fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}
