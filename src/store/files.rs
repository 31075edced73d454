//! What the contents of files hash to, vouched for by their stat: a context's files are read once, not in every build.

use std::path::PathBuf;

use super::{Store, StoreError};
use crate::layer::FileStamp;
use crate::oci::Digest;

/// The first bytes of a file: a name and a version.
const MAGIC: &[u8; 8] = b"strhash\x01";

/// Bytes of an entry: device, inode, size, mtime, ctime (8 each), SHA-256.
const ENTRY: usize = 5 * 8 + 32;

/// Bytes after the entries: a checksum of all before.
const TAIL: usize = 8;

/// The most entries a file holds: 36 MB on disk, read in a few milliseconds. Beyond it, files that the last build did not
/// look at are forgotten.
const MAX_ENTRIES: usize = 500_000;

/// The known hashes of one context, as they were when it was loaded.
#[derive(Debug)]
pub struct FileHashes {
    context: String,
    path: PathBuf,
    /// Entries as in the file, sorted by device and inode.
    old: Vec<u8>,
}

// A stamp as an entry holds it.
fn words(stamp: &FileStamp) -> [u64; 5] {
    [
        stamp.device,
        stamp.inode,
        stamp.size,
        stamp.mtime_ns.cast_unsigned(),
        stamp.ctime_ns.cast_unsigned(),
    ]
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let part = &bytes[at..at + 8];
    u64::from_le_bytes(part.try_into().expect("the slice has eight bytes"))
}

/// Against torn files, not against attackers: who can write here can write the store.
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0x9e37_79b9_7f4a_7c15u64;
    let mut mix = |w: u64| {
        let wide = u128::from(sum ^ w) * 0xd6e8_feb8_6659_fd93_u128;
        let bytes = wide.to_le_bytes();
        sum = word(&bytes, 0) ^ word(&bytes, 8).rotate_left(29) ^ w;
    };
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    chunks.for_each(|c| mix(word(c, 0)));
    rest.iter().for_each(|b| mix(u64::from(*b)));
    mix(bytes.len() as u64);
    sum
}

/// The entries of a file; none if it is not whole.
fn parse(mut bytes: Vec<u8>) -> Vec<u8> {
    let overhead = MAGIC.len() + TAIL;
    let fits = bytes.len() >= overhead && (bytes.len() - overhead).is_multiple_of(ENTRY);
    if !fits || !bytes.starts_with(MAGIC) {
        return Vec::new();
    }
    let end = bytes.len() - TAIL;
    if checksum(&bytes[..end]) != word(&bytes, end) {
        return Vec::new();
    }
    bytes.truncate(end);
    bytes.drain(..MAGIC.len());
    bytes
}

impl FileHashes {
    /// The hashes known for a context; `context` is anything that identifies it (its absolute path).
    pub fn load(store: &Store, context: &str) -> Result<FileHashes, StoreError> {
        let name = Digest::of(context.as_bytes()).hex();
        let path = store.root().join("cache/files").join(name);
        let old = match std::fs::read(&path) {
            Ok(bytes) => parse(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(StoreError::file("read", &path)(e)),
        };
        Ok(FileHashes {
            context: context.to_owned(),
            path,
            old,
        })
    }

    /// What identifies the context.
    pub fn into_context(self) -> String {
        self.context
    }

    fn entry(&self, at: usize) -> &[u8] {
        &self.old[at * ENTRY..(at + 1) * ENTRY]
    }

    /// The SHA-256 of an unchanged file's content.
    pub fn get(&self, stamp: &FileStamp) -> Option<[u8; 32]> {
        let wanted = (stamp.device, stamp.inode);
        let (mut low, mut high) = (0, self.old.len() / ENTRY);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(middle);
            match inode(entry).cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let words = words(stamp);
                    let same = (0..5).all(|i| word(entry, i * 8) == words[i]);
                    let sum = entry[40..].try_into();
                    return same.then(|| sum.expect("an entry ends in 32 bytes"));
                }
            }
        }
        None
    }

    /// Writes what is known now, beside what was known of other files. The stamps were taken before the files were read and were
    /// the same after, and none of them [is racy](FileStamp::is_racy). A power loss may lose the file, and cannot tear it
    /// unnoticed. Of two builds at a time the last one's count.
    pub fn save(
        self,
        store: &Store,
        known: impl IntoIterator<Item = (FileStamp, [u8; 32])>,
    ) -> Result<(), StoreError> {
        self.save_bounded(store, known, MAX_ENTRIES)
    }

    fn save_bounded(
        self,
        store: &Store,
        known: impl IntoIterator<Item = (FileStamp, [u8; 32])>,
        limit: usize,
    ) -> Result<(), StoreError> {
        let mut entries: Vec<[u8; ENTRY]> = Vec::new();
        for (stamp, sum) in known.into_iter().take(limit) {
            let mut entry = [0; ENTRY];
            for (i, word) in words(&stamp).into_iter().enumerate() {
                entry[i * 8..i * 8 + 8].copy_from_slice(&word.to_le_bytes());
            }
            entry[40..].copy_from_slice(&sum);
            entries.push(entry);
        }
        entries.sort_unstable_by_key(|entry| inode(entry));
        // Names of one file say the same of it.
        entries.dedup_by_key(|entry| inode(entry));
        // Both are sorted: one goes through them side by side. Of what was known before, so much stays as there is room for.
        let mut room = limit - entries.len();
        let mut old = self.old.chunks_exact(ENTRY).peekable();
        let mut new = entries.iter().peekable();
        let mut bytes = MAGIC.to_vec();
        bytes.reserve_exact((entries.len() + self.old.len() / ENTRY) * ENTRY + TAIL);
        loop {
            let first = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(old), Some(new)) => inode(old).cmp(&inode(*new)),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            if first.is_le() {
                let entry = old.next().unwrap_or_default();
                if first.is_lt() && room > 0 {
                    room -= 1;
                    bytes.extend_from_slice(entry);
                }
            } else if let Some(entry) = new.next() {
                bytes.extend_from_slice(entry);
            }
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        store.replace_unflushed(&self.path, &bytes)
    }
}

/// Device and inode of an entry.
fn inode(entry: &[u8]) -> (u64, u64) {
    (word(entry, 0), word(entry, 8))
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn stamp(inode: u64) -> FileStamp {
        FileStamp {
            device: 7,
            inode,
            size: inode * 3,
            mtime_ns: 1_700_000_000 * SECOND + 5,
            ctime_ns: 1_700_000_001 * SECOND + 6,
        }
    }

    fn digest(inode: u64) -> [u8; 32] {
        let digest = Digest::of(&inode.to_le_bytes());
        digest.bytes().try_into().unwrap()
    }

    #[test]
    fn known_files_are_found_and_changed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let load = || FileHashes::load(&store, "/context").unwrap();
        assert_eq!(load().get(&stamp(17)), None);
        let all = (0..5000).rev().map(|i| (stamp(i), digest(i)));
        load().save(&store, all).unwrap();
        let hashes = load();
        for i in 0..5000 {
            assert_eq!(hashes.get(&stamp(i)), Some(digest(i)));
        }
        let base = stamp(17);
        for changed in [
            FileStamp { device: 8, ..base },
            FileStamp {
                inode: 5001,
                ..base
            },
            FileStamp { size: 1, ..base },
            FileStamp {
                mtime_ns: 1,
                ..base
            },
            FileStamp {
                ctime_ns: 1,
                ..base
            },
        ] {
            assert_eq!(hashes.get(&changed), None, "{changed:?}");
        }
        let known = [4_999, 6_000].map(|i| (stamp(i), digest(i)));
        let changed = (FileStamp { size: 1, ..base }, digest(1));
        let known = known.into_iter().chain([changed, changed]);
        hashes.save_bounded(&store, known, 100).unwrap();
        let hashes = load();
        assert_eq!(hashes.old.len(), 100 * ENTRY);
        assert_eq!(hashes.get(&FileStamp { size: 1, ..base }), Some(digest(1)));
        assert_eq!(hashes.get(&base), None);
        for (i, there) in [
            (0, true),
            (96, true),
            (97, true),
            (98, false),
            (4_999, true),
            (6_000, true),
        ] {
            assert_eq!(hashes.get(&stamp(i)).is_some(), there, "{i}");
        }
        let other = FileHashes::load(&store, "/other").unwrap();
        assert_eq!(other.get(&stamp(17)), None);
    }

    #[test]
    fn torn_files_vouch_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let hashes = FileHashes::load(&store, "c").unwrap();
        let path = hashes.path.clone();
        let all = (0..10).map(|i| (stamp(i), digest(i)));
        hashes.save(&store, all).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(parse(whole.clone()).len(), 10 * ENTRY);
        for at in 0..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 0x40;
            assert!(parse(torn).is_empty(), "{at}");
            assert!(parse(whole[..at].to_vec()).is_empty(), "{at}");
        }
        assert!(parse(vec![0; whole.len()]).is_empty());
    }
}
