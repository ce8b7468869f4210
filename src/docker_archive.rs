//! An image as the archive of `docker save`, as every daemon loads it. The same image and names give the same bytes. Knows no daemon.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde::Serialize;

use crate::failure::Failure;
use crate::image::{ImageSource, LayerBlob};

/// Is told bytes done, of so many, and may stop the writing.
pub type Progress<'a> = dyn FnMut(u64, u64) -> Result<(), Failure> + 'a;

fn sending(error: io::Error) -> Failure {
    Failure::infra(format!("the image could not be sent: {error}"))
}

/// Writes the archive; layers go in as they are packed. `names` are those that a daemon gives the image when it loads it.
///
/// # Errors
/// Of the source, of the writer, and what `progress` says.
pub fn write(source: &dyn ImageSource, names: &[String], writer: impl Write, progress: &mut Progress<'_>) -> Result<(), Failure> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Manifest<'a> {
        config: String,
        repo_tags: &'a [String],
        layers: Vec<String>,
    }
    let total: u64 = source.layers().iter().map(|layer| layer.size).sum();
    let mut builder = tar::Builder::new(writer);
    let header = |size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(size);
        header
    };
    let path = |layer: &LayerBlob| format!("{}.tar", layer.diff_id.hex());
    let config = format!("{}.json", source.image_id().0.hex());
    let bytes = source.config();
    builder.append_data(&mut header(bytes.len() as u64), &config, bytes).map_err(sending)?;
    let mut sent = BTreeSet::new();
    let mut done = 0;
    for (index, layer) in source.layers().iter().enumerate() {
        done += layer.size;
        if !sent.insert(layer.diff_id) {
            continue;
        }
        let mut reader = Watched { inner: source.open_layer(index)?, read: 0, failure: None, before: done - layer.size, total, progress };
        let appended = builder.append_data(&mut header(layer.size), path(layer), &mut reader);
        if let Err(error) = appended {
            return Err(reader.failure.unwrap_or_else(|| sending(error)));
        }
        if reader.read != layer.size {
            return Err(Failure::infra(format!("layer `{}` has {} bytes, not {}", layer.digest, reader.read, layer.size)));
        }
    }
    let manifest = [Manifest { config, repo_tags: names, layers: source.layers().iter().map(path).collect() }];
    let manifest = serde_json::to_vec(&manifest).map_err(|error| Failure::infra(error.to_string()))?;
    builder.append_data(&mut header(manifest.len() as u64), "manifest.json", manifest.as_slice()).map_err(sending)?;
    builder.into_inner().and_then(|mut writer| writer.flush()).map_err(sending)
}

/// Tells progress, and keeps what the reader said went wrong.
struct Watched<'a, 'p, R> {
    inner: R,
    read: u64,
    failure: Option<Failure>,
    before: u64,
    total: u64,
    progress: &'a mut Progress<'p>,
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(failure) = (self.progress)(self.before + self.read, self.total) {
            self.failure = Some(failure);
            return Err(io::Error::other("stopped"));
        }
        match self.inner.read(buffer) {
            Ok(count) => {
                self.read += count as u64;
                Ok(count)
            }
            Err(error) => {
                self.failure = Some(Failure::infra(format!("a layer could not be read: {error}")));
                Err(error)
            }
        }
    }
}
