//! The layer compressor: gzip or zstd whose bytes depend on the content alone, not on read sizes, threads or memory. Knows no tar.
//!
//! The input is cut every [`MEMBER`] bytes and each piece becomes a gzip member (RFC 1952, 2.2) or a zstd frame (RFC 8878, 3) of its
//! own: both simply follow each other. Each is compressed at one level, several at a time. Streaming encoders won't do: the bytes of
//! flate2 depend on how much each `write` hands over.

use std::io::{Read, Write};

use libdeflater::{CompressionLvl, Compressor};
use rayon::iter::{IntoParallelRefMutIterator as _, ParallelIterator as _};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::image::Compression;

/// Bytes of input per gzip member or zstd frame. Another value means other digests for the same layers.
pub const MEMBER: usize = 4 << 20;
const GZIP_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// Members in memory at a time, at most.
const WIDEST: usize = 8;

/// Names the bytes that packing makes: the same layer and the same name are the same bytes. `None` where nothing is packed.
#[must_use]
pub fn packing(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip-1"),
        Compression::Zstd => Some("zstd-1"),
    }
}

/// What packing a layer found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of what was read.
    pub diff_id: Digest,
    /// Digest of what was written.
    pub digest: Digest,
    /// Bytes written.
    pub size: u64,
}

enum Codec {
    /// What is packed already, or is to stay as it is.
    Plain,
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

struct Member {
    codec: Codec,
    input: Vec<u8>,
    output: Vec<u8>,
    failed: bool,
}

impl Member {
    fn new(compression: Compression) -> std::io::Result<Self> {
        let codec = match compression {
            Compression::None => Codec::Plain,
            Compression::Gzip => {
                let level = CompressionLvl::new(GZIP_LEVEL).map_err(|_| std::io::Error::other("libdeflate has no such level"))?;
                Codec::Gzip(Compressor::new(level))
            }
            Compression::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(false)?;
                compressor.include_contentsize(true)?;
                Codec::Zstd(compressor)
            }
        };
        Ok(Self { codec, input: Vec::new(), output: Vec::new(), failed: false })
    }

    /// Reads a whole piece's input, or what is left; says whether there may be more.
    fn fill(&mut self, reader: &mut dyn Read) -> std::io::Result<bool> {
        self.input.clear();
        reader.take(MEMBER as u64).read_to_end(&mut self.input)?;
        Ok(self.input.len() == MEMBER)
    }

    fn compress(&mut self) {
        match &mut self.codec {
            Codec::Plain => std::mem::swap(&mut self.input, &mut self.output),
            Codec::Gzip(compressor) => {
                self.output.resize(compressor.gzip_compress_bound(self.input.len()), 0);
                match compressor.gzip_compress(&self.input, &mut self.output) {
                    Ok(length) => self.output.truncate(length),
                    Err(_) => self.failed = true,
                }
            }
            Codec::Zstd(compressor) => {
                self.output.resize(zstd::zstd_safe::compress_bound(self.input.len()), 0);
                match compressor.compress_to_buffer(&self.input, &mut self.output) {
                    Ok(length) => self.output.truncate(length),
                    Err(_) => self.failed = true,
                }
            }
        }
    }
}

/// [`pack_as`] with gzip, which every registry and engine reads.
///
/// # Errors
/// Of reader and writer.
pub fn pack(reader: &mut dyn Read, writer: &mut dyn Write) -> std::io::Result<Packed> {
    pack_as(Compression::Gzip, reader, writer)
}

/// Packs what `reader` gives into `writer`. Holds a few members in memory, however long the input.
///
/// # Errors
/// Of reader and writer.
pub fn pack_as(compression: Compression, reader: &mut dyn Read, writer: &mut dyn Write) -> std::io::Result<Packed> {
    let width = rayon::current_num_threads().clamp(1, WIDEST);
    let mut members = (0..width).map(|_| Member::new(compression)).collect::<std::io::Result<Vec<_>>>()?;
    let (mut plain, mut packed, mut size) = (Sha256::new(), Sha256::new(), 0);
    let mut more = true;
    while more {
        let mut filled = 0;
        while more && filled < width {
            let member = &mut members[filled];
            more = member.fill(reader)?;
            // an empty member only where there is nothing else: cuts at the very end make none
            if member.input.is_empty() && (size > 0 || filled > 0) {
                break;
            }
            plain.update(&member.input);
            filled += 1;
        }
        members[..filled].par_iter_mut().for_each(Member::compress);
        for member in &members[..filled] {
            if member.failed {
                return Err(std::io::Error::other("a compressor found its own bound too small"));
            }
            packed.update(&member.output);
            writer.write_all(&member.output)?;
            size += member.output.len() as u64;
        }
    }
    Ok(Packed { diff_id: Digest::from_bytes(plain.finalize().into()), digest: Digest::from_bytes(packed.finalize().into()), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compressible and not, the same on every machine.
    fn content(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 3 {
                0 => bytes.extend_from_slice(&state.to_le_bytes()),
                _ => bytes.extend_from_slice(b"usr/share/doc/"),
            }
        }
        bytes.truncate(length);
        bytes
    }

    /// Gives at most `self.1` bytes a read.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = self.1.min(buffer.len());
            self.0.read(&mut buffer[..length])
        }
    }

    fn packed(bytes: &[u8], step: usize, threads: usize) -> (Packed, Vec<u8>) {
        packed_as(Compression::Gzip, bytes, step, threads)
    }

    fn packed_as(compression: Compression, bytes: &[u8], step: usize, threads: usize) -> (Packed, Vec<u8>) {
        let mut out = Vec::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| pack_as(compression, &mut Trickle(bytes, step), &mut out)).unwrap();
        (found, out)
    }

    #[test]
    fn zstd_depends_on_nothing_but_the_content_and_is_read_back() {
        for length in [0, 1, MEMBER - 1, MEMBER, 2 * MEMBER + 12_345] {
            let bytes = content(length);
            let (first, out) = packed_as(Compression::Zstd, &bytes, usize::MAX, 1);
            for (step, threads) in [(65_537, 2), (7_777, 9)] {
                assert_eq!(packed_as(Compression::Zstd, &bytes, step, threads).0, first, "{step} bytes a read, {threads} threads");
            }
            assert_eq!((first.diff_id, first.digest, first.size), (Digest::of(&bytes), Digest::of(&out), out.len() as u64));
            assert!(zstd::stream::decode_all(out.as_slice()).unwrap() == bytes, "{length} bytes");
            let (plain, out) = packed_as(Compression::None, &bytes, 7_777, 2);
            assert!(out == bytes && plain.digest == plain.diff_id);
        }
        let known = content(MEMBER + 1);
        insta::assert_snapshot!(packed_as(Compression::Zstd, &known, usize::MAX, 2).0.digest, @"sha256:49f347c9d31de19728f913c30c2a9451c4536371f629a6e727fad76a44d11ba5");
    }

    #[test]
    fn bytes_depend_on_nothing_but_the_content() {
        let bytes = content(2 * MEMBER + 12_345);
        let (first, _) = packed(&bytes, usize::MAX, 1);
        for (step, threads) in [(4096, 1), (65_537, 2), (usize::MAX, 2), (1 << 20, 5), (7_777, 9)] {
            assert_eq!(packed(&bytes, step, threads).0, first, "{step} bytes a read, {threads} threads");
        }
        assert_eq!(first.diff_id, Digest::of(&bytes));
    }

    #[test]
    fn digests_are_pinned() {
        // another libdeflate may write other bytes: then this is a change of every layer pushed, worth a decision and another name
        assert_eq!((packing(Compression::Gzip), packing(Compression::Zstd)), (Some("gzip-1"), Some("zstd-1")));
        let digests: Vec<String> = [0, 1, MEMBER, MEMBER + 1]
            .iter()
            .map(|length| packed(&content(*length), usize::MAX, 2).0)
            .map(|found| format!("{} {}", found.digest, found.size))
            .collect();
        insta::assert_snapshot!(digests.join("\n"), @r"
        sha256:30e6fa98fb48c2b132824d1ac5e2243c0be9e9082ff32598d34d7687ca7f6c7f 23
        sha256:687c8dc6f8b6de4ae372e350e3c85b8e2b5ee0872c99471efcdd922248359e97 24
        sha256:6e0eec126d4404cfc1e6c43064f8cb0a6774b515407d489d7b9cd7ffce38ee1b 1131622
        sha256:ceec7bfe9beaf4f2497a70a83f3074402c53f9df144157f2bc5ad6484033d2c0 1131646
        ");
    }

    #[test]
    fn readers_of_gzip_read_it() {
        for length in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, 2 * MEMBER] {
            let bytes = content(length);
            let (found, out) = packed(&bytes, usize::MAX, 2);
            assert_eq!((found.digest, found.size), (Digest::of(&out), out.len() as u64));
            let mut back = Vec::new();
            flate2::read::MultiGzDecoder::new(out.as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length} bytes");
            let members = length.div_ceil(MEMBER).max(1);
            let headers = out.windows(10).filter(|window| *window == &out[..10]).count();
            assert_eq!(headers, members, "{length} bytes");
        }
    }

    #[test]
    fn errors_of_the_reader_come_through() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("no more"))
            }
        }
        assert_eq!(pack(&mut Broken, &mut std::io::sink()).unwrap_err().to_string(), "no more");
    }
}
