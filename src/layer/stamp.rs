//! What tells that a file holds what it held when it was hashed, without reading it; and its times, to be put back.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Timespec, Timestamps};

/// How long before it was hashed a file must have changed last for its times to vouch for it: a write that comes within
/// one tick of the file system's clock after the hashing leaves the same times. File systems that keep only seconds (or two,
/// as FAT does) show it by their times; the others' ticks are 10 ms at most.
const TICK_NS: (i128, i128) = (2_000_000_000, 100_000_000);

/// When a file was read and changed last.
pub(crate) fn times(meta: &Metadata) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    }
}

/// What tells that a file is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileStamp {
    /// Of the file system.
    pub device: u64,
    /// Of the file.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Nanoseconds since 1970; programs cannot set it.
    pub ctime_ns: i64,
}

impl FileStamp {
    /// The stamp of a file that was looked at; `None` for times that do not fit.
    pub fn of(meta: &Metadata) -> Option<FileStamp> {
        let ns = |s: i64, ns: i64| s.checked_mul(1_000_000_000)?.checked_add(ns);
        Some(FileStamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec())?,
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec())?,
        })
    }

    /// Whether a file hashed from `now_ns` (nanoseconds since 1970) on can have changed after that without a trace in its stamp.
    pub fn is_racy(&self, now_ns: i128) -> bool {
        let coarse = self.ctime_ns % 1_000_000_000 == 0 && self.mtime_ns % 1_000_000_000 == 0;
        let tick = if coarse { TICK_NS.0 } else { TICK_NS.1 };
        i128::from(self.mtime_ns.max(self.ctime_ns)) + tick > now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    const STAMP: FileStamp = FileStamp {
        device: 7,
        inode: 1,
        size: 3,
        mtime_ns: 1_700_000_000 * SECOND + 5,
        ctime_ns: 1_700_000_001 * SECOND + 6,
    };

    #[test]
    fn files_that_just_changed_are_not_vouched_for() {
        for (mtime, ctime, now, racy) in [
            (10 * SECOND, 10 * SECOND, 11 * SECOND, true),
            (10 * SECOND, 10 * SECOND, 12 * SECOND, false),
            (
                10 * SECOND + 1,
                10 * SECOND + 1,
                10 * SECOND + 50_000_000,
                true,
            ),
            (10 * SECOND + 1, 10 * SECOND + 1, 11 * SECOND, false),
            (5 * SECOND, 11 * SECOND + 1, 11 * SECOND + 2, true),
            // A time in the future vouches for nothing.
            (90 * SECOND, 10 * SECOND, 50 * SECOND, true),
        ] {
            let stamp = FileStamp {
                mtime_ns: mtime,
                ctime_ns: ctime,
                ..STAMP
            };
            assert_eq!(
                stamp.is_racy(i128::from(now)),
                racy,
                "{mtime} {ctime} {now}"
            );
        }
    }
}
