//! ADD of a tar: unpacked into the destination, links there followed inside that destination as Docker does. Knows gzip by itself; for other
//! packings it needs the program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::read::MultiGzDecoder;
use nix::sys::stat::SFlag;

use super::place::Destination;
use super::tree::{Kind, Node, Tree};
use crate::engine::embedded::files::{self, disk};
use crate::engine::embedded::layer::entries::{Entries, Entry, EntryKind};
use crate::engine::embedded::layer::view::clean;
use crate::failure::Failure;

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
    let mut magic = [0; 6];
    let length = file.read_at(&mut magic, 0).map_err(disk("an archive"))?;
    let program = match &magic[..length] {
        [0x1f, 0x8b, ..] => {
            let first = first_block(MultiGzDecoder::new(&file));
            if !first.is_ok_and(|block| is_tar(&block)) {
                return Ok(false);
            }
            file.seek(SeekFrom::Start(0)).map_err(disk("an archive"))?;
            unpack(writer, MultiGzDecoder::new(io::BufReader::new(file)), to)?;
            return Ok(true);
        }
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => {
            let first = first_block(&file);
            if !first.is_ok_and(|block| is_tar(&block)) {
                return Ok(false);
            }
            file.seek(SeekFrom::Start(0)).map_err(disk("an archive"))?;
            unpack(writer, io::BufReader::new(file), to)?;
            return Ok(true);
        }
    };
    let mut plain = tempfile::tempfile().map_err(disk("an archive"))?;
    let out = plain.try_clone().map_err(disk("an archive"))?;
    let ran = Command::new(program).arg("-dc").stdin(file).stdout(Stdio::from(out)).stderr(Stdio::null()).status();
    match ran {
        Ok(status) if status.success() => {}
        // no archive after all
        Ok(_) => return Ok(false),
        Err(error) => {
            let failure = Failure::step(format!("the archive is packed with {program}, which can't be run here: {error}"));
            return Err(failure.hint(format!("install `{program}`, or write `--unpack=false`")));
        }
    }
    plain.seek(SeekFrom::Start(0)).map_err(disk("an archive"))?;
    if !first_block(&plain).is_ok_and(|block| is_tar(&block)) {
        return Ok(false);
    }
    plain.seek(SeekFrom::Start(0)).map_err(disk("an archive"))?;
    unpack(writer, io::BufReader::new(plain), to)?;
    Ok(true)
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

fn broken(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidData { Failure::step(error.to_string()) } else { disk("unpacking an archive")(error) }
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
