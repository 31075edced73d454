//! What the contents of files hash to, vouched for by their stat: a context's files are read once, not in every build.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use super::{Store, StoreError};
use crate::layer::FileStamp;
use crate::oci::Digest;

/// The first bytes of a file: a name and a version.
const MAGIC: &[u8; 8] = b"strhash\x01";

/// Bytes of an entry: device, inode, size, mtime, ctime (8 each), SHA-256.
const ENTRY: usize = 5 * 8 + 32;

type Entry = [u8; ENTRY];

/// Bytes after the entries: a checksum of all before.
const TAIL: usize = 8;

/// The most entries a file holds: 36 MB on disk, read in some ten milliseconds. Beyond it, files that the last build did not
/// look at are forgotten.
const MAX_ENTRIES: usize = 500_000;

/// What of a file is read or written at once: fewer calls, still in the cache of a core.
const BUFFER_BYTES: usize = 64 << 10;

/// The known hashes of one context, as they were when it was looked for. They stay in their file: one goes through them beside
/// the files of the context, in the order of both.
#[derive(Debug)]
pub struct FileHashes {
    context: String,
    path: PathBuf,
    /// None if there is none, or it is not whole.
    file: Option<File>,
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
struct Checksum {
    sum: u64,
    size_bytes: u64,
}

impl Checksum {
    fn new() -> Checksum {
        let sum = 0x9e37_79b9_7f4a_7c15;
        Checksum { sum, size_bytes: 0 }
    }

    fn mix(&mut self, w: u64) {
        let wide = u128::from(self.sum ^ w) * 0xd6e8_feb8_6659_fd93_u128;
        let bytes = wide.to_le_bytes();
        self.sum = word(&bytes, 0) ^ word(&bytes, 8).rotate_left(29) ^ w;
    }

    /// Adds whole words.
    fn add(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len().is_multiple_of(8));
        bytes.chunks_exact(8).for_each(|c| self.mix(word(c, 0)));
        self.size_bytes += bytes.len() as u64;
    }

    fn finish(mut self) -> u64 {
        self.mix(self.size_bytes);
        self.sum
    }
}

/// The entries of a file, one after another.
struct Entries<'a> {
    input: BufReader<&'a File>,
    left: u64,
}

impl Entries<'_> {
    /// From the start of a file on; `None` if it cannot be one.
    fn of(mut file: &File) -> io::Result<Option<Entries<'_>>> {
        let size_bytes = file.metadata()?.len();
        file.rewind()?;
        let mut input = BufReader::with_capacity(BUFFER_BYTES, file);
        let Some(entries_bytes) = size_bytes.checked_sub((MAGIC.len() + TAIL) as u64) else {
            return Ok(None);
        };
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        let fits = entries_bytes.is_multiple_of(ENTRY as u64) && magic == *MAGIC;
        let left = entries_bytes / ENTRY as u64;
        Ok(fits.then_some(Entries { input, left }))
    }

    fn next(&mut self) -> io::Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut entry = [0; ENTRY];
        self.input.read_exact(&mut entry)?;
        Ok(Some(entry))
    }
}

/// Whether a file was written to its end, and is as it was written.
fn is_whole(file: &File) -> io::Result<bool> {
    let Some(mut entries) = Entries::of(file)? else {
        return Ok(false);
    };
    let mut sum = Checksum::new();
    sum.add(MAGIC);
    while let Some(entry) = entries.next()? {
        sum.add(&entry);
    }
    let mut tail = [0; TAIL];
    entries.input.read_exact(&mut tail)?;
    Ok(sum.finish() == word(&tail, 0))
}

impl FileHashes {
    /// The hashes known for a context; `context` is anything that identifies it (its absolute path).
    pub fn load(store: &Store, context: &str) -> Result<FileHashes, StoreError> {
        let name = Digest::of(context.as_bytes()).hex();
        let path = store.root().join("cache/files").join(name);
        let file = match File::open(&path) {
            Ok(file) => {
                let whole = is_whole(&file).map_err(StoreError::file("read", &path))?;
                whole.then_some(file)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(StoreError::file("read", &path)(e)),
        };
        Ok(FileHashes {
            context: context.to_owned(),
            path,
            file,
        })
    }

    /// What identifies the context.
    pub fn into_context(self) -> String {
        self.context
    }

    fn entries(&self) -> io::Result<Option<Entries<'_>>> {
        let entries = self.file.as_ref().map(Entries::of);
        Ok(entries.transpose()?.flatten())
    }

    /// Gives `found` the SHA-256 of each unchanged file's content, with what comes beside its stamp. The stamps ascend by device
    /// and inode.
    pub fn recall<T>(
        &self,
        stamps: impl IntoIterator<Item = (FileStamp, T)>,
        mut found: impl FnMut(T, [u8; 32]),
    ) -> Result<(), StoreError> {
        let failed = |e| StoreError::file("read", &self.path)(e);
        let Some(mut known) = self.entries().map_err(failed)? else {
            return Ok(());
        };
        let mut next = known.next().map_err(failed)?;
        for (stamp, what) in stamps {
            while next.is_some_and(|entry| inode(&entry) < place(&stamp)) {
                next = known.next().map_err(failed)?;
            }
            let Some(entry) = &next else {
                return Ok(());
            };
            let words = words(&stamp);
            if (0..5).all(|i| word(entry, i * 8) == words[i]) {
                let sum = entry[40..].try_into();
                found(what, sum.expect("an entry ends in 32 bytes"));
            }
        }
        Ok(())
    }

    /// Writes what is known now, beside what was known of other files. The stamps ascend by device and inode, were taken before
    /// the files were read, and none of them [is racy](FileStamp::is_racy). A power loss may lose the file, and cannot tear it
    /// unnoticed. Of two builds at a time the last one's count.
    pub fn save(
        self,
        store: &Store,
        known: impl Iterator<Item = (FileStamp, [u8; 32])> + Clone,
    ) -> Result<(), StoreError> {
        self.save_bounded(store, known, MAX_ENTRIES)
    }

    fn save_bounded(
        self,
        store: &Store,
        known: impl Iterator<Item = (FileStamp, [u8; 32])> + Clone,
        limit: usize,
    ) -> Result<(), StoreError> {
        store.replace_unflushed_by(&self.path, |file, temporary| {
            let written = self.write(file, once_each(known).take(limit), limit);
            written.map_err(StoreError::file("write", temporary))
        })
    }

    // Both are in order: one goes through them side by side. Of what was known before, so much stays as there is room for.
    fn write(
        &self,
        file: &mut File,
        new: impl Iterator<Item = (FileStamp, [u8; 32])> + Clone,
        limit: usize,
    ) -> io::Result<()> {
        let mut room = limit - new.clone().count();
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut sum = Checksum::new();
        let mut put = |bytes: &[u8]| {
            sum.add(bytes);
            out.write_all(bytes)
        };
        put(MAGIC)?;
        let mut old = self.entries()?;
        let mut read = || old.as_mut().map_or(Ok(None), Entries::next);
        let mut next = read()?;
        for (stamp, sum) in new {
            while let Some(entry) = next.filter(|entry| inode(entry) <= place(&stamp)) {
                if room > 0 && inode(&entry) < place(&stamp) {
                    room -= 1;
                    put(&entry)?;
                }
                next = read()?;
            }
            let mut entry = [0; ENTRY];
            for (i, word) in words(&stamp).into_iter().enumerate() {
                entry[i * 8..i * 8 + 8].copy_from_slice(&word.to_le_bytes());
            }
            entry[40..].copy_from_slice(&sum);
            put(&entry)?;
        }
        while let Some(entry) = next.filter(|_| room > 0) {
            room -= 1;
            put(&entry)?;
            next = read()?;
        }
        out.write_all(&sum.finish().to_le_bytes())?;
        out.flush()
    }
}

// Of names of one file, which say the same of it, the first.
fn once_each(
    known: impl Iterator<Item = (FileStamp, [u8; 32])> + Clone,
) -> impl Iterator<Item = (FileStamp, [u8; 32])> + Clone {
    let mut last = None;
    known.filter(move |(stamp, _)| last.replace(place(stamp)) != Some(place(stamp)))
}

// Device and inode of a stamp.
fn place(stamp: &FileStamp) -> (u64, u64) {
    (stamp.device, stamp.inode)
}

/// Device and inode of an entry.
fn inode(entry: &Entry) -> (u64, u64) {
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

    fn get(hashes: &FileHashes, stamp: &FileStamp) -> Option<[u8; 32]> {
        let mut found = None;
        let recalled = hashes.recall([(*stamp, ())], |(), sum| found = Some(sum));
        recalled.unwrap();
        found
    }

    #[test]
    fn known_files_are_found_and_changed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let load = || FileHashes::load(&store, "/context").unwrap();
        assert_eq!(get(&load(), &stamp(17)), None);
        let all = (0..5000).map(|i| (stamp(i), digest(i)));
        load().save(&store, all).unwrap();
        let hashes = load();
        let (mut found, mut next) = (0, 0);
        // Names of one file ask for it one after another.
        let wanted = (0..6000).flat_map(|i| [(stamp(i), i), (stamp(i), i)]);
        let recalled = hashes.recall(wanted, |i, sum| {
            assert_eq!((i, sum), (next / 2, digest(i)));
            (found, next) = (found + 1, next + 1);
        });
        recalled.unwrap();
        assert_eq!(found, 10_000);
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
            assert_eq!(get(&hashes, &changed), None, "{changed:?}");
        }
        let known = [4_999, 6_000].map(|i| (stamp(i), digest(i)));
        let changed = (FileStamp { size: 1, ..base }, digest(1));
        let known = [changed, changed].into_iter().chain(known);
        hashes.save_bounded(&store, known, 100).unwrap();
        let hashes = load();
        assert_eq!(hashes.entries().unwrap().unwrap().left, 100);
        let now = FileStamp { size: 1, ..base };
        assert_eq!(get(&hashes, &now), Some(digest(1)));
        assert_eq!(get(&hashes, &base), None);
        for (i, there) in [
            (0, true),
            (96, true),
            (97, true),
            (98, false),
            (4_999, true),
            (6_000, true),
        ] {
            assert_eq!(get(&hashes, &stamp(i)).is_some(), there, "{i}");
        }
        let other = FileHashes::load(&store, "/other").unwrap();
        assert_eq!(get(&other, &stamp(17)), None);
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
        let left = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let hashes = FileHashes::load(&store, "c").unwrap();
            hashes.entries().unwrap().map(|entries| entries.left)
        };
        assert_eq!(left(&whole), Some(10));
        for at in 0..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 0x40;
            assert_eq!(left(&torn), None, "{at}");
            assert_eq!(left(&whole[..at]), None, "{at}");
        }
        assert_eq!(left(&vec![0; whole.len()]), None);
    }
}
