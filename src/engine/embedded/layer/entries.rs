//! Reads a tar entry by entry and loses no byte of it: ustar, PAX and GNU's long names and sparse files. Knows no file system.
//! Limits hold against archives made to fill a disk.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

const BLOCK: u64 = 512;
/// A PAX or GNU extension is never longer.
const LONGEST_EXTENSION: u64 = 4 << 20;
/// Entries of one archive.
const MOST_ENTRIES: u64 = 4_000_000;
/// Bytes of all files of one archive, holes counted.
const MOST_BYTES: u64 = 512 << 30;

/// Who is told what the tar's own bytes are.
pub(in crate::engine::embedded) trait Tee {
    /// Bytes that belong to no file.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Tee for () {
    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) enum EntryKind {
    File,
    Folder,
    Symlink(OsString),
    HardLink(OsString),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Pipe,
    /// What is no file at all.
    Other,
}

/// A piece of a file in the archive: where it belongs, and how long it is.
pub(in crate::engine::embedded) type Piece = (u64, u64);

/// An entry's head.
#[derive(Clone, Debug)]
pub(in crate::engine::embedded) struct Entry {
    pub path: OsString,
    pub kind: EntryKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub attributes: Vec<(OsString, Vec<u8>)>,
    /// Length of the file, holes included.
    pub size: u64,
    /// The bytes that follow in the archive, in order.
    pub pieces: Vec<Piece>,
}

/// The archive.
pub(in crate::engine::embedded) struct Entries<R> {
    reader: R,
    /// Bytes of padding behind the entry before.
    padding: u64,
    entries: u64,
    /// How many there may be.
    pub most: u64,
    bytes: u64,
    /// PAX records that hold for all entries that follow.
    globals: Arc<BTreeMap<String, Vec<u8>>>,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the tar is broken: {what}"))
}

impl<R: Read> Entries<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, padding: 0, entries: 0, most: MOST_ENTRIES, bytes: 0, globals: Arc::default() }
    }

    /// The entry's bytes; exactly those of its pieces are to be read before [`Self::next`].
    pub fn content(&mut self) -> &mut R {
        &mut self.reader
    }

    fn block(&mut self, tee: &mut dyn Tee) -> io::Result<Option<[u8; BLOCK as usize]>> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(broken("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        tee.raw(&block)?;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64, tee: &mut dyn Tee) -> io::Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
            return Err(broken("an extension is too long"));
        }
        let mut bytes = Vec::new();
        (&mut self.reader).take(size.next_multiple_of(BLOCK)).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size.next_multiple_of(BLOCK) {
            return Err(broken("it ends within an extension"));
        }
        tee.raw(&bytes)?;
        bytes.truncate(usize::try_from(size).map_err(io::Error::other)?);
        Ok(bytes)
    }

    /// The next entry; what follows the last one is read to its end.
    pub fn next(&mut self, tee: &mut dyn Tee) -> io::Result<Option<Entry>> {
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        let (mut long_name, mut long_link) = (None, None);
        if self.padding > 0 {
            let mut padding = vec![0; usize::try_from(self.padding).map_err(io::Error::other)?];
            self.reader.read_exact(&mut padding).map_err(|_| broken("it ends within a file"))?;
            tee.raw(&padding)?;
            self.padding = 0;
        }
        loop {
            let Some(block) = self.block(tee)? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                self.rest(tee)?;
                return Ok(None);
            }
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&block);
            let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
            if header.cksum().map_err(|_| broken("a header has no checksum"))? != sum {
                return Err(broken("a header's checksum is wrong"));
            }
            let size = numeric(&block[124..136])?;
            let kind = header.entry_type();
            match kind.as_byte() {
                b'x' => pax = records(&self.extension(size, tee)?)?,
                b'g' => {
                    let found = records(&self.extension(size, tee)?)?;
                    let globals = Arc::make_mut(&mut self.globals);
                    globals.extend(found);
                    if globals.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>() > LONGEST_EXTENSION {
                        return Err(broken("its extensions are too long"));
                    }
                }
                b'L' => long_name = Some(text(self.extension(size, tee)?)),
                b'K' => long_link = Some(text(self.extension(size, tee)?)),
                _ => {
                    self.entries += 1;
                    if self.entries > self.most {
                        return Err(broken("it has too many entries"));
                    }
                    return self.entry(&header, &pax, long_name, long_link, tee).map(Some);
                }
            }
        }
    }

    fn rest(&mut self, tee: &mut dyn Tee) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => tee.raw(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        pax: &[(String, Vec<u8>)],
        long_name: Option<OsString>,
        long_link: Option<OsString>,
        tee: &mut dyn Tee,
    ) -> io::Result<Entry> {
        let globals = self.globals.clone();
        let last = |key: &str| match pax.iter().rev().find(|(name, _)| name == key) {
            Some((_, value)) => Some(value.as_slice()),
            None => globals.get(key).map(Vec::as_slice),
        };
        let number = |key: &str| last(key).and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.parse::<u64>().ok());
        let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let path = last("GNU.sparse.name").or_else(|| last("path")).map(os).or(long_name);
        let path = path.unwrap_or_else(|| os(&header.path_bytes()));
        let link = || {
            let named = last("linkpath").map(os).or_else(|| long_link.clone());
            named.unwrap_or_else(|| header.link_name_bytes().map(|name| os(&name)).unwrap_or_default())
        };
        let narrow = |number: u64| u32::try_from(number).map_err(|_| broken("an owner or a device is out of range"));
        let block = header.as_bytes();
        let device = || -> io::Result<(u32, u32)> { Ok((narrow(numeric(&block[329..337])?)?, narrow(numeric(&block[337..345])?)?)) };
        let mtime = match last("mtime").and_then(|value| std::str::from_utf8(value).ok()) {
            Some(text) => text.split('.').next().unwrap_or("").parse().map_err(|_| broken("a time is no number"))?,
            None => i64::try_from(numeric(&block[136..148])?).unwrap_or(i64::MAX),
        };
        // the last one counts
        let attributes: BTreeMap<OsString, Vec<u8>> = globals
            .iter()
            .chain(pax.iter().map(|(key, value)| (key, value)))
            .filter_map(|(key, value)| Some((OsString::from(key.strip_prefix("SCHILY.xattr.")?), value.clone())))
            .collect();
        let mut stored = number("size").map_or_else(|| numeric(&block[124..136]), Ok)?;
        let byte = header.entry_type().as_byte();
        let kind = match byte {
            // before ustar a folder was a file whose name ends in a slash
            0 if path.as_bytes().ends_with(b"/") => EntryKind::Folder,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice(major, minor))?,
            b'5' => EntryKind::Folder,
            b'6' => EntryKind::Pipe,
            _ => EntryKind::Other,
        };
        // only files have content; some writers give a link the size of what it leads to
        if !matches!(kind, EntryKind::File | EntryKind::Other) {
            stored = 0;
        }
        let uid = number("uid").map_or_else(|| numeric(&block[108..116]), Ok)?;
        let gid = number("gid").map_or_else(|| numeric(&block[116..124]), Ok)?;
        let mode = narrow(numeric(&block[100..108])? & 0o7777)?;
        let mut size = number("GNU.sparse.realsize").or_else(|| number("GNU.sparse.size")).unwrap_or(stored);
        let mut pieces = vec![(0, stored)];
        let whole = stored.checked_next_multiple_of(BLOCK).ok_or_else(|| broken("a file is too large"))?;
        let padding = whole - stored;
        if byte == b'S' {
            (size, pieces) = self.old_sparse(header, tee)?;
        } else if number("GNU.sparse.major") == Some(1) {
            let (map, read) = self.sparse_map(stored, tee)?;
            pieces = map;
            stored = stored.checked_sub(read).ok_or_else(|| broken("a sparse map is longer than its file"))?;
        } else if let Some(map) = last("GNU.sparse.map") {
            let numbers =
                std::str::from_utf8(map).ok().and_then(|map| map.split(',').map(|n| n.parse().ok()).collect::<Option<Vec<u64>>>());
            pieces = numbers
                .ok_or_else(|| broken("a sparse map is no list of numbers"))?
                .chunks_exact(2)
                .map(|pair| (pair[0], pair[1]))
                .collect();
        } else if number("GNU.sparse.numblocks").is_some() {
            // PAX sparse 0.0 says the same keys again and again
            let all = |key: &str| -> Option<Vec<u64>> {
                let values = pax.iter().filter(|(name, _)| name == key);
                values.map(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok()).collect()
            };
            let found = all("GNU.sparse.offset").zip(all("GNU.sparse.numbytes"));
            let (offsets, lengths) = found.ok_or_else(|| broken("a sparse map is no list of numbers"))?;
            pieces = offsets.into_iter().zip(lengths).collect();
        }
        let total = pieces.iter().try_fold(0_u64, |sum, (_, length)| sum.checked_add(*length));
        let inside = pieces.iter().all(|(offset, length)| offset.checked_add(*length).is_some_and(|end| end <= size));
        if total != Some(stored) || !inside {
            return Err(broken("a sparse file's map does not fit it"));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_BYTES {
            return Err(broken("its files are too large"));
        }
        self.padding = padding;
        Ok(Entry {
            path,
            kind,
            mode,
            uid: narrow(uid)?,
            gid: narrow(gid)?,
            mtime,
            attributes: attributes.into_iter().collect(),
            size,
            pieces,
        })
    }

    fn old_sparse(&mut self, header: &tar::Header, tee: &mut dyn Tee) -> io::Result<(u64, Vec<Piece>)> {
        let gnu = header.as_gnu().ok_or_else(|| broken("a sparse file outside a GNU tar"))?;
        let size = gnu.real_size()?;
        let mut pieces = Vec::new();
        let mut take = |sparse: &tar::GnuSparseHeader| -> io::Result<()> {
            if !sparse.is_empty() {
                pieces.push((sparse.offset()?, sparse.length()?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut take)?;
        let mut extended = gnu.is_extended();
        let mut read = 0;
        while extended {
            read += BLOCK;
            if read > LONGEST_EXTENSION {
                return Err(broken("a sparse map has no end"));
            }
            let block = self.block(tee)?.ok_or_else(|| broken("it ends within a sparse map"))?;
            let mut more = tar::GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(&block);
            more.sparse.iter().try_for_each(&mut take)?;
            extended = more.is_extended();
        }
        Ok((size, pieces))
    }

    /// PAX sparse 1.0: the map stands before the content, in blocks of its own: how many pieces, and two numbers for each, a line each.
    fn sparse_map(&mut self, stored: u64, tee: &mut dyn Tee) -> io::Result<(Vec<Piece>, u64)> {
        let (mut numbers, mut line, mut read) = (Vec::<u64>::new(), Vec::new(), 0);
        loop {
            if read >= stored || read > LONGEST_EXTENSION {
                return Err(broken("a sparse map has no end"));
            }
            let block = self.block(tee)?.ok_or_else(|| broken("it ends within a sparse map"))?;
            read += BLOCK;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = std::str::from_utf8(&line).ok().and_then(|text| text.parse().ok());
                numbers.push(number.ok_or_else(|| broken("a sparse map is no list of numbers"))?);
                line.clear();
                // what pads the last block is no number
                if (numbers.len() as u64 - 1) / 2 == numbers[0] && numbers.len() % 2 == 1 {
                    return Ok((numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), read));
                }
            }
        }
    }
}

/// A number of a header: octal digits, or binary where the first bit is set; empty is 0, and below 0 is 0.
fn numeric(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        if field[0] & 0x40 != 0 {
            return Ok(0);
        }
        let first = u64::from(field[0] & 0x3f);
        let whole = field[1..].iter().try_fold(first, |sum, byte| Some(sum.checked_mul(256)? | u64::from(*byte)));
        return whole.ok_or_else(|| broken("a number is too large"));
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| broken("a number is none"))?.trim();
    if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 8).map_err(|_| broken("a number is none")) }
}

fn text(mut bytes: Vec<u8>) -> OsString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

/// The records of a PAX extension; values may hold any byte.
fn records(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let fail = || broken("an extension has no records");
        let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(fail)?;
        let length: usize = std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse().ok()).ok_or_else(fail)?;
        if length <= blank + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(fail());
        }
        let record = &rest[blank + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(fail)?;
        found.push((String::from_utf8_lossy(&record[..equals]).into_owned(), record[equals + 1..].to_vec()));
        rest = &rest[length..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use nix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::engine::embedded::layer::diff::record;

    /// A header with its content.
    fn part(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn first(tar: &[u8]) -> io::Result<Option<Entry>> {
        Entries::new(tar).next(&mut ())
    }

    #[test]
    fn sizes_and_maps_that_cannot_be_are_refused() {
        let sparse = b"22 GNU.sparse.major=1\n";
        for (tar, said) in [
            ([part(b'x', b"29 size=18446744073709551615\n"), part(b'0', b"")].concat(), "too large"),
            ([part(b'x', sparse), part(b'0', b"0\n")].concat(), "longer than its file"),
            ([part(b'x', sparse), part(b'0', b"1\nx\n")].concat(), "no list of numbers"),
            ([part(b'x', sparse), part(b'0', &[b'1'; 600])].concat(), "no end"),
        ] {
            let message = first(&tar).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }

    /// As long as they may be; each number was once looked for from the start.
    #[test]
    fn long_sparse_maps_take_their_length_in_time() {
        const COUNT: usize = 500_000;
        let used = || std::time::Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let mut map = format!("{COUNT}\n").into_bytes();
        map.extend(b"1\n0\n".repeat(COUNT));
        let list = record(b"GNU.sparse.map", "1,0,".repeat(COUNT).trim_end_matches(',').as_bytes());
        let (size, version) = (record(b"GNU.sparse.realsize", b"1"), record(b"GNU.sparse.major", b"1"));
        map.resize(map.len().next_multiple_of(512), 0);
        for tar in [
            [part(b'x', &[version, size.clone()].concat()), part(b'0', &map)].concat(),
            [part(b'x', &[size, list].concat()), part(b'0', b"")].concat(),
        ] {
            let before = used();
            assert_eq!(first(&tar).unwrap().unwrap().pieces, vec![(1, 0); COUNT]);
            assert!(used() - before < std::time::Duration::from_secs(10), "{:?}", used() - before);
        }
    }

    #[test]
    fn a_sparse_map_that_is_said_piece_by_piece() {
        let records: Vec<Vec<u8>> = [
            ("GNU.sparse.size", "900"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "0"),
            ("GNU.sparse.numbytes", "1"),
            ("GNU.sparse.offset", "700"),
            ("GNU.sparse.numbytes", "2"),
        ]
        .map(|(key, value)| record(key.as_bytes(), value.as_bytes()))
        .into();
        let entry = first(&[part(b'x', &records.concat()), part(b'0', b"abc")].concat()).unwrap().unwrap();
        assert_eq!((entry.size, entry.pieces), (900, vec![(0, 1), (700, 2)]));
        let broken = [part(b'x', &records[..5].concat()), part(b'0', b"abc")].concat();
        assert!(first(&broken).unwrap_err().to_string().contains("does not fit it"));
    }

    #[test]
    fn records_for_all_entries_do_not_pile_up() {
        let record = |number: usize| {
            let text = format!("comment{number}={}\n", "x".repeat(1 << 20));
            let length = text.len() + 8;
            part(b'g', format!("{length} {text}").as_bytes())
        };
        let same = [record(1).repeat(8), part(b'0', b"")].concat();
        assert!(first(&same).unwrap().is_some());
        let others: Vec<u8> = (0..8).flat_map(record).collect();
        assert!(first(&others).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn an_attribute_said_twice_is_the_last() {
        let tar = [
            part(b'g', b"25 SCHILY.xattr.user.a=z\n"),
            part(b'g', b"25 SCHILY.xattr.user.b=z\n"),
            part(b'x', b"25 SCHILY.xattr.user.a=y\n25 SCHILY.xattr.user.a=b\n"),
            part(b'0', b""),
        ];
        let entry = first(&tar.concat()).unwrap().unwrap();
        assert_eq!(entry.attributes, [("user.a".into(), b"b".to_vec()), ("user.b".into(), b"z".to_vec())]);
    }
}
