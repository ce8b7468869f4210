//! ADD of a tar, plain or packed with gzip, bzip2, xz or zstd: unpacked into the destination as it is read, links there followed inside that
//! destination as Docker does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use nix::sys::stat::SFlag;

use super::place::Destination;
use super::tree::{Kind, Node, Tree};
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::entries::{Entries, Entry, EntryKind};
use crate::engine::embedded::layer::view::clean;
use crate::failure::Failure;

/// The most memory that a packed archive may ask for. The largest dictionary that `xz` takes by itself (`-9`) needs 65 MiB.
const MOST_MEMORY: u64 = 256 << 20;

/// Unpacks what is a tar into the folder `to`; `false` where it is none.
///
/// # Errors
/// Of the disk; a step failure for a tar that is broken or leads out of its folder.
pub(super) fn try_node(writer: &mut Destination<'_>, tree: &Tree<'_>, node: &Node, to: &Path) -> Result<bool, Failure> {
    if node.kind().map_err(disk("an archive"))? != Kind::File {
        return Ok(false);
    }
    let mut file = tempfile::tempfile().map_err(disk("an archive"))?;
    tree.copy_content(node, &mut file)?;
    file.seek(SeekFrom::Start(0)).map_err(disk("an archive"))?;
    try_file(writer, file, to)
}

/// The same for a file that lies on disk.
///
/// # Errors
/// As [`try_node`].
pub(super) fn try_file(writer: &mut Destination<'_>, mut file: File, to: &Path) -> Result<bool, Failure> {
    if !reader(&file).and_then(first_block).is_ok_and(|block| is_tar(&block)) {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(0)).map_err(disk("an archive"))?;
    unpack(writer, reader(&file).map_err(disk("an archive"))?, to)?;
    Ok(true)
}

/// What the file holds, unpacked. Streams that follow each other are read as one; memory is bounded.
fn reader(file: &File) -> io::Result<Box<dyn Read + '_>> {
    let mut magic = [0; 6];
    let length = file.read_at(&mut magic, 0)?;
    let packed = io::BufReader::with_capacity(256 << 10, file);
    Ok(match &magic[..length] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(packed)),
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(packed)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MOST_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(XzDecoder::new_stream(packed, stream))
        }
        // a frame, or one to be skipped (RFC 8878, 3.1); its window is 128 MiB at most
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        _ => Box::new(packed),
    })
}

fn first_block(mut reader: impl Read) -> io::Result<[u8; 512]> {
    let mut block = [0; 512];
    reader.read_exact(&mut block)?;
    Ok(block)
}

fn is_tar(block: &[u8; 512]) -> bool {
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    header.cksum().is_ok_and(|own| own == sum)
}

/// The disk's errors have a number, those of a broken archive have none.
fn broken(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(_) => disk("unpacking an archive")(error),
        None => Failure::step(format!("the archive is broken: {error}")),
    }
}

/// The folder is the root for all that the archive holds, links included. What it holds keeps the owner and the mode that it comes with,
/// whatever `--chown` and `--chmod` say.
fn unpack(writer: &mut Destination<'_>, tar: impl Read, to: &Path) -> Result<(), Failure> {
    writer.folder(to)?;
    let writer = &mut writer.as_it_comes();
    let mut entries = Entries::new(tar);
    let mut made: BTreeMap<PathBuf, i64> = BTreeMap::new();
    while let Some(entry) = entries.next(&mut ()).map_err(broken)? {
        let path = Path::new(&entry.path);
        if path.components().any(|part| part.as_os_str() == "..") {
            return Err(Failure::step(format!("`{}` in the archive leads out of it", path.display())));
        }
        let path = clean(path);
        let Some(name) = path.file_name() else { continue };
        let at = to.join(writer.locate_below(to, path.parent().unwrap_or(Path::new("")))?).join(name);
        take(writer, &entry, &at, to, entries.content(), &mut made)?;
    }
    for (path, mtime) in made {
        // what is made within a folder changes its time
        let _ = files::set_mtime(&path, mtime);
    }
    Ok(())
}

fn take(
    writer: &mut Destination<'_>,
    entry: &Entry,
    at: &Path,
    to: &Path,
    content: &mut impl Read,
    made: &mut BTreeMap<PathBuf, i64>,
) -> Result<(), Failure> {
    let writing = |error| disk(format!("`/{}`", at.display()))(error);
    let real = match &entry.kind {
        EntryKind::Folder => {
            let real = if writer.locate(at, false)?.spot.is_some_and(|spot| !spot.is_folder()) {
                let real = writer.replace(at)?;
                std::fs::create_dir(&real).map_err(writing)?;
                real
            } else {
                writer.folder(at)?
            };
            made.insert(real.clone(), entry.mtime);
            real
        }
        EntryKind::Other => {
            let length = entry.pieces.iter().map(|(_, length)| length).sum();
            io::copy(&mut content.take(length), &mut io::sink()).map_err(broken)?;
            return Ok(());
        }
        _ => writer.replace(at)?,
    };
    match &entry.kind {
        EntryKind::File => {
            let mut file = File::create_new(&real).map_err(writing)?;
            file.set_len(entry.size).map_err(writing)?;
            for (offset, length) in &entry.pieces {
                file.seek(SeekFrom::Start(*offset)).map_err(writing)?;
                if io::copy(&mut content.take(*length), &mut file).map_err(broken)? != *length {
                    return Err(Failure::step("the archive is cut short"));
                }
            }
        }
        EntryKind::Symlink(target) => std::os::unix::fs::symlink(target, &real).map_err(writing)?,
        EntryKind::HardLink(target) => {
            let target = to.join(clean(Path::new(target)));
            let located = writer.locate(&target, false)?;
            let spot = located.spot.filter(|spot| !spot.is_folder());
            let spot = spot.ok_or_else(|| Failure::step(format!("`{}` in the archive is a hard link to nothing", at.display())))?;
            return std::fs::hard_link(&spot.path, &real).map_err(writing);
        }
        EntryKind::CharDevice(major, minor) => {
            files::make_device(&real, SFlag::S_IFCHR, entry.mode, libc::makedev(*major, *minor)).map_err(writing)?;
        }
        EntryKind::BlockDevice(major, minor) => {
            files::make_device(&real, SFlag::S_IFBLK, entry.mode, libc::makedev(*major, *minor)).map_err(writing)?;
        }
        EntryKind::Pipe => files::make_device(&real, SFlag::S_IFIFO, entry.mode, 0).map_err(writing)?,
        EntryKind::Folder | EntryKind::Other => {}
    }
    let dress = || {
        files::set_owner(&real, entry.uid, entry.gid)?;
        if !matches!(entry.kind, EntryKind::Symlink(_)) {
            files::set_mode(&real, entry.mode)?;
        }
        let attributes: Vec<_> = entry.attributes.iter().filter(|(name, _)| files::travels(name)).cloned().collect();
        files::set_attributes(&real, &attributes)?;
        files::set_mtime(&real, entry.mtime)
    };
    dress().map_err(writing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::embedded::layer::view::View;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let own = tempfile::tempfile().unwrap().metadata().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(own.uid().into());
            header.set_gid(own.gid().into());
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn all(mut reader: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    type Pack = fn(&[u8]) -> Vec<u8>;

    const PACKINGS: [(&str, Pack); 4] = [
        ("gzip", |bytes| all(flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()))),
        ("bzip2", |bytes| all(bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast()))),
        ("xz", |bytes| all(liblzma::read::XzEncoder::new(bytes, 1))),
        ("zstd", |bytes| zstd::stream::encode_all(bytes, 1).unwrap()),
    ];

    /// What adding these bytes comes to, and the folder that they go to.
    fn added(bytes: &[u8]) -> (Result<bool, Failure>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut writer = Destination::new(folder.path(), &View::new(Vec::new()), 0, Some((own(&folder).0, own(&folder).1)), None);
        (try_file(&mut writer, file, Path::new("")), folder)
    }

    fn own(folder: &tempfile::TempDir) -> (u32, u32) {
        let metadata = folder.path().metadata().unwrap();
        (metadata.uid(), metadata.gid())
    }

    #[test]
    fn every_packing_is_unpacked_and_streams_follow_each_other() {
        let long = vec![7; 3 << 20];
        let tar = tar_of(&[("a/one", b"1"), ("long", &long)]);
        for (name, pack) in PACKINGS {
            let whole = pack(&tar);
            let parts: Vec<u8> = tar.chunks(1 << 20).flat_map(pack).collect();
            for bytes in [whole, parts] {
                let (done, folder) = added(&bytes);
                assert!(done.unwrap(), "{name}");
                assert_eq!(std::fs::read(folder.path().join("a/one")).unwrap(), b"1", "{name}");
                assert!(std::fs::read(folder.path().join("long")).unwrap() == long, "{name}");
            }
            // what is no tar is left as it is
            assert!(!added(&pack(&[b'x'; 2048])).0.unwrap(), "{name}");
        }
        let mut skipped = vec![0x53, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        skipped.extend(PACKINGS[3].1(&tar));
        assert!(added(&skipped).0.unwrap());
    }

    #[test]
    fn what_breaks_on_the_way_is_an_error_of_the_archive() {
        let mut noise = vec![0_u8; 1 << 20];
        let mut state = 1_u64;
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        let tar = tar_of(&[("first", b"1"), ("noise", &noise)]);
        for (name, pack) in PACKINGS {
            let parts: Vec<Vec<u8>> = tar.chunks(64 << 10).map(pack).collect();
            let (mut damaged, middle) = (parts.concat(), parts[..parts.len() / 2].concat().len());
            damaged[middle..middle + 16].fill(0x55);
            let short = parts.concat()[..middle - 40].to_vec();
            for bytes in [damaged, short] {
                let failure = added(&bytes).0.expect_err(name);
                assert_eq!(failure.class, crate::failure::FailureClass::Step, "{name}: {failure}");
            }
        }
    }

    #[test]
    fn xz_may_not_ask_for_all_memory() {
        let small = PACKINGS[2].1(&tar_of(&[("a", b"1")]));
        // the dictionary's size is one byte of the first block's header (xz file format, 3.1 and 5.3.1), which a sum ends; 36 is a GiB
        let (at, end) = (12, 12 + (usize::from(small[12]) + 1) * 4);
        let mut large = small.clone();
        large[at + 4] = 36;
        let mut sum = flate2::Crc::new();
        sum.update(&large[at..end - 4]);
        large[end - 4..end].copy_from_slice(&sum.sum().to_le_bytes());
        for (bytes, works) in [(small, true), (large, false)] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            match reader(&file).and_then(first_block) {
                Ok(_) => assert!(works),
                Err(error) => assert!(!works && error.to_string().contains("memory"), "{error}"),
            }
        }
    }
}
