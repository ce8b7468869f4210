//! What a stat tells of a file: enough to say that it has not changed since. Knows no content.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::FileStat;
use nix::sys::statfs::Statfs;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How much later a change must come than a stamp to be sure to give another one.
const FINE: i64 = 20_000_000;

/// The same where stamps are coarse, or another machine's clock makes them.
const COARSE: i64 = 2_000_000_000;

/// File systems (`statfs.f_type`) whose stamps are coarse, or made by a server or a daemon: FAT, exFAT, HFS, HFS+, NFS,
/// SMB and CIFS, 9p, Ceph, AFS, FUSE (virtiofs too), GFS2, OCFS2.
const COARSE_SYSTEMS: &[u64] = &[
    0x4d44,
    0x2011_bab0,
    0x4244,
    0x482b,
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6573_5546,
    0x0116_1970,
    0x7461_636f,
];

/// Identity, size and times of a file. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of the content.
    pub modified: i64,
    /// Last change of content or inode.
    pub changed: i64,
}

impl Stamp {
    /// Of a stat.
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            mode: metadata.mode(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The same of a raw stat.
    #[expect(clippy::unnecessary_cast, reason = "the fields of a stat have other widths on other architectures")]
    pub fn of_stat(stat: &FileStat) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            size: stat.st_size as u64,
            modified: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// The type among the mode's bits, like `libc::S_IFDIR`.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is of a folder.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Whether it is of a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }

    /// Whether it is of a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }

    /// The later of both times.
    pub fn latest(&self) -> i64 {
        self.modified.max(self.changed)
    }

    /// Whether any change made after the moment `since` of [`coarse_clock`] would show as another stamp. Said of a stamp
    /// that was taken after `since`: false means that the file may change again without a trace.
    pub fn is_settled(&self, since: i64, coarse: bool) -> bool {
        // whole seconds in both times: so are all stamps of that file system, as far as one can tell
        let whole = self.modified % 1_000_000_000 == 0 && self.changed % 1_000_000_000 == 0;
        let margin = if coarse || whole { COARSE } else { FINE };
        self.latest().saturating_add(margin) <= since
    }
}

/// Whether stamps of that file system need the longer wait.
pub fn is_coarse(system: &Statfs) -> bool {
    // the type's width differs between architectures; the numbers fit 32 bits
    let number = system.filesystem_type().0 as u64 & 0xffff_ffff;
    COARSE_SYSTEMS.contains(&number)
}

/// The clock that the kernel stamps files with (CLOCK_REALTIME_COARSE), in nanoseconds since the Unix epoch. The one clock
/// that is not injected as [`crate::clock::Clock`]: what uses it takes a function instead.
pub fn coarse_clock() -> i64 {
    // a clock that cannot be read says that nothing has settled
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE)
        .map_or(i64::MIN, |now| now.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_settles_with_time_and_later_where_stamps_are_coarse() {
        let stamp = |modified, changed| Stamp { device: 1, inode: 1, mode: 0, size: 0, modified, changed };
        let second = 1_000_000_000;
        let (fine, whole) = (stamp(5 * second + 3, 7 * second + 1), stamp(5 * second, 7 * second));
        for (stamp, since, coarse, expected) in [
            (fine, 7 * second + 1 + FINE, false, true),
            (fine, 7 * second + FINE, false, false),
            (fine, 7 * second + 1 + FINE, true, false),
            (fine, 9 * second + 1, true, true),
            (whole, 8 * second, false, false),
            (whole, 9 * second, false, true),
            // a stamp of the future, a clock that was set back, a clock that cannot be read
            (stamp(99 * second + 1, 1), 9 * second, false, false),
            (fine, second, false, false),
            (fine, i64::MIN, false, false),
        ] {
            assert_eq!(stamp.is_settled(since, coarse), expected, "{stamp:?} {since} {coarse}");
        }
    }

    #[test]
    fn the_coarse_clock_is_the_one_of_files() {
        let before = coarse_clock();
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        assert!(stamp.changed >= before && !stamp.is_settled(before, false), "{stamp:?} {before}");
    }
}
