//! Bringing an image in, layer by layer: those behind the one that is being unpacked are fetched meanwhile where they come over a
//! network. Knows no registry.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::disk;
use super::store::Store;
use crate::digest::Digest;
use crate::engine::Attempt;
use crate::failure::Failure;
use crate::image::ImageSource;

/// Layers that are on their way at once, the one that is being unpacked among them.
const AT_ONCE: usize = 4;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Counts what is read, and stops when it is cancelled.
struct Watched<'a, R> {
    reader: R,
    done: u64,
    total: u64,
    what: String,
    attempt: &'a Attempt<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.attempt.cancel.is_cancelled() {
            return Err(io::Error::other(Failure::stopped()));
        }
        let count = self.reader.read(buffer)?;
        self.done += count as u64;
        self.attempt.output.progress(&self.what, self.done, Some(self.total));
        Ok(count)
    }
}

/// Brings in those layers that are not here. Whatever their order of arrival, each is unpacked on those below it, and held against its
/// diff id; what a source gives is verified by the source.
///
/// # Errors
/// Of the source, the disk, and where a layer is not what the config says.
pub(super) fn layers(store: &Store, source: &dyn ImageSource, diff_ids: &[Digest], attempt: &Attempt<'_>) -> Result<(), Failure> {
    let missing: Vec<usize> = (0..diff_ids.len()).filter(|index| !store.has_layer(&diff_ids[..=*index])).collect();
    let at_once = if source.is_remote() { AT_ONCE } else { 1 };
    let given_up = AtomicBool::new(false);
    let open = |index: usize| {
        let layer = &source.layers()[index];
        let what = format!("layer {}", layer.diff_id.short());
        source.open_layer(index).map(|reader| Watched { reader, done: 0, total: layer.size, what, attempt })
    };
    let fetch = |index: usize| -> Result<File, Failure> {
        let (mut reader, mut file) = (open(index)?, store.scratch()?);
        let mut buffer = vec![0; CHUNK];
        loop {
            if given_up.load(Ordering::Relaxed) {
                return Err(Failure::stopped());
            }
            match reader.read(&mut buffer).map_err(reading)? {
                0 => break,
                count => io::Write::write_all(&mut file, &buffer[..count]).map_err(disk("a layer"))?,
            }
        }
        file.rewind().map_err(disk("a layer"))?;
        Ok(file)
    };
    std::thread::scope(|scope| {
        let mut ahead = std::collections::VecDeque::new();
        let mut next = 1;
        for (position, &index) in missing.iter().enumerate() {
            while next < missing.len().min(position + at_once) {
                let index = missing[next];
                let fetch = &fetch;
                ahead.push_back(scope.spawn(move || fetch(index)));
                next += 1;
            }
            let fetched = if position > 0 { ahead.pop_front() } else { None };
            next = next.max(position + 2);
            let taken = (|| match fetched {
                Some(thread) => {
                    let file = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                    take(store, source, diff_ids, index, file)
                }
                None => take(store, source, diff_ids, index, open(index)?),
            })();
            if taken.is_err() {
                given_up.store(true, Ordering::Relaxed);
                return taken;
            }
        }
        Ok(())
    })
}

/// A reader's own failure is the better word.
fn reading(error: io::Error) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => disk("a layer")(error),
    }
}

fn take(store: &Store, source: &dyn ImageSource, diff_ids: &[Digest], index: usize, packed: impl Read) -> Result<(), Failure> {
    let unpacked = source.layers()[index].compression.unpacked(packed).map_err(disk("a layer"))?;
    store.take_layer(&diff_ids[..index], diff_ids[index], unpacked)
}
