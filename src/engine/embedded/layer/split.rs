//! A tar without the contents of its files: its own bytes in order, and which bytes of which unpacked file stand between them. With
//! it a layer that lies unpacked comes back byte for byte. Knows no tar.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// How paths of a layer are opened: links are resolved inside its root.
pub(in crate::engine::embedded) fn inside(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

const RAW: u8 = 0;
const DATA: u8 = 1;
/// A path or a run of raw bytes is never longer; what says so is damaged.
const LONGEST: u32 = 64 << 20;

/// Writes one, and hashes the tar as it would be.
pub(in crate::engine::embedded) struct SplitWriter {
    file: BufWriter<File>,
    raw: Vec<u8>,
    hasher: Sha256,
    size: u64,
}

impl SplitWriter {
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(64 << 10, File::create_new(path)?);
        Ok(Self { file, raw: Vec::new(), hasher: Sha256::new(), size: 0 })
    }

    /// Bytes of the tar itself.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.raw.extend_from_slice(bytes);
        if self.raw.len() > 1 << 20 { self.flush_raw() } else { Ok(()) }
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            let length = u32::try_from(self.raw.len()).map_err(io::Error::other)?;
            self.file.write_all(&[RAW])?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }

    /// Says that `length` bytes from `offset` of the file at `path` (relative to the layer's root) come next; [`Self::hash`] gets them.
    /// `file` numbers the files, so that one that a later entry replaces can be found elsewhere.
    pub fn data(&mut self, file: u32, path: &Path, offset: u64, length: u64) -> io::Result<()> {
        self.flush_raw()?;
        let path = path.as_os_str().as_bytes();
        self.file.write_all(&[DATA])?;
        self.file.write_all(&u32::try_from(path.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.file.write_all(path)?;
        self.file.write_all(&file.to_le_bytes())?;
        self.file.write_all(&offset.to_le_bytes())?;
        self.file.write_all(&length.to_le_bytes())
    }

    /// The bytes that [`Self::data`] announced.
    pub fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Digest and length of the tar.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.flush_raw()?;
        self.file.flush()?;
        Ok((Digest::from_bytes(self.hasher.finalize().into()), self.size))
    }
}

/// Reads the tar again. Its digest is to be compared by who reads: contents may have been damaged.
pub(in crate::engine::embedded) struct SplitReader {
    split: BufReader<File>,
    root: File,
    moved: PathBuf,
    part: Part,
}

enum Part {
    Raw(u64),
    Data(File, u64),
    End,
}

impl SplitReader {
    /// Of the layer whose index is `split`, unpacked at `root`, with replaced files by their number in `moved`.
    pub fn open(split: &Path, root: &Path, moved: &Path) -> io::Result<Self> {
        let split = BufReader::with_capacity(64 << 10, File::open(split)?);
        Ok(Self { split, root: File::open(root)?, moved: moved.to_owned(), part: Part::Raw(0) })
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.split.read_exact(&mut bytes)?;
        let number = u32::from_le_bytes(bytes);
        if number > LONGEST { Err(io::Error::other("the layer's index is damaged")) } else { Ok(number) }
    }

    fn next_part(&mut self) -> io::Result<Part> {
        let mut tag = [0];
        if self.split.read(&mut tag)? == 0 {
            return Ok(Part::End);
        }
        let length = self.number()?;
        if tag[0] == RAW {
            return Ok(Part::Raw(length.into()));
        }
        let mut path = vec![0; length as usize];
        self.split.read_exact(&mut path)?;
        let file = self.number()?;
        let mut numbers = [0; 16];
        self.split.read_exact(&mut numbers)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let mut file = match File::open(self.moved.join(file.to_string())) {
            Ok(file) => file,
            // links of the layer lead nowhere but into it
            Err(_) => File::from(openat2(&self.root, OsStr::from_bytes(&path), inside(OFlag::O_RDONLY))?),
        };
        file.seek(SeekFrom::Start(number(&numbers[..8])))?;
        Ok(Part::Data(file, number(&numbers[8..])))
    }
}

impl Read for SplitReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (count, left) = match &mut self.part {
                Part::End => return Ok(0),
                Part::Raw(0) | Part::Data(_, 0) => {
                    self.part = self.next_part()?;
                    continue;
                }
                Part::Raw(left) => ((&mut self.split).take(*left).read(buffer)?, left),
                Part::Data(file, left) => (file.take(*left).read(buffer)?, left),
            };
            if count == 0 && !buffer.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file of the layer is shorter than it was"));
            }
            *left -= count as u64;
            return Ok(count);
        }
    }
}
