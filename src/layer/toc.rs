//! A layer's table of contents: every entry, sorted, in one block of bytes that is the file too.
//!
//! ```text
//! "strata-toc\0" version:u8     12 bytes
//! count:u64                     how many entries
//! offset:u64 × count            where each record starts, from the start of the file
//! records, each:
//!   path:bytes kind:u8 mode:u16 uid:u32 gid:u32 mtime:i64 xattr-count:u32 (name:bytes value:bytes)*
//!   file 0: size:u64 · file with content 1: size:u64 sha256:32 · directory 2: flags:u8 (1 opaque, 2 implied)
//!   symlink 3, hard link 4: target:bytes · char 5, block 6: major:u32 minor:u32 · fifo 7 · whiteout 8
//! ```
//!
//! Numbers are little-endian, `bytes` is a u32 length and that many bytes. Paths ascend strictly in [`path_order`], and the
//! parent of every entry is an entry and a directory (only the root itself may be missing). Loading checks all of this once;
//! after that no look-up allocates or can fail.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::entry::{is_below, parent, path_order};
use super::record::{Cursor, EntryRef, KindRef};
use super::records::Records;
use super::{Entry, LayerError};

const MAGIC: &[u8; 12] = b"strata-toc\0\x01";

/// Where the offsets start: after the magic and the count.
const TABLE_AT: usize = MAGIC.len() + 8;

/// A layer's entries in [`path_order`]. Cheap to load, immutable, meant to be shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Toc {
    bytes: Vec<u8>,
    count: usize,
}

impl Toc {
    /// A table of what these entries leave behind when they are applied one after another: a later entry replaces an earlier
    /// one of its path, and what is no directory removes what was below. A whiteout removes nothing of its own layer: beside
    /// an entry of the same path it vanishes, and makes a directory opaque. Missing parents become implied directories.
    pub fn from_entries(entries: Vec<Entry>) -> Toc {
        entries.into_iter().collect()
    }

    /// The table of these records, which are in order and start there.
    pub(super) fn of_records(mut bytes: Vec<u8>, starts: &[usize]) -> Toc {
        let (count, length) = (starts.len(), bytes.len());
        let head = TABLE_AT + count * 8;
        // Not by another block of bytes: a large one is moved by its pages, and is never there twice.
        bytes.reserve_exact(head);
        bytes.resize(length + head, 0);
        bytes.copy_within(..length, head);
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[MAGIC.len()..TABLE_AT].copy_from_slice(&(count as u64).to_le_bytes());
        let slots = bytes[TABLE_AT..head].chunks_exact_mut(8);
        for (slot, start) in slots.zip(starts) {
            slot.copy_from_slice(&((head + start) as u64).to_le_bytes());
        }
        Toc { bytes, count }
    }

    /// The table as it is kept in a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// The same without a copy.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads what [`Toc::to_bytes`] gave. Arbitrary bytes are an error, never a panic, here or later.
    pub fn parse(bytes: Vec<u8>) -> Result<Toc, LayerError> {
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(LayerError::Toc("not one, or of another version"));
        }
        let short = LayerError::Toc("truncated");
        let Some(count) = Cursor::at(&bytes, MAGIC.len()).u64() else {
            return Err(short);
        };
        let end_of_table = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(8)?.checked_add(TABLE_AT))
            .filter(|end| *end <= bytes.len());
        let (Some(mut at), Ok(count)) = (end_of_table, usize::try_from(count)) else {
            return Err(short);
        };
        let toc = Toc { bytes, count };
        let mut before: Option<EntryRef> = None;
        let mut above: Vec<&[u8]> = Vec::new();
        for index in 0..count {
            if toc.offset(index) != Some(at) {
                return Err(LayerError::Toc("its index does not match its records"));
            }
            let mut cursor = Cursor::at(&toc.bytes, at);
            let entry = cursor
                .entry()
                .ok_or(LayerError::Toc("a malformed record"))?;
            if !is_clean(entry.path) {
                return Err(LayerError::Toc("a malformed record"));
            }
            if before.is_some_and(|b| path_order(b.path, entry.path) != Ordering::Less) {
                return Err(LayerError::Toc("its entries are not in order"));
            }
            while above.last().is_some_and(|d| !is_below(d, entry.path)) {
                above.pop();
            }
            let dir = parent(entry.path).unwrap_or_default();
            if !dir.is_empty() && above.last() != Some(&dir) {
                return Err(LayerError::Toc("an entry without its directory"));
            }
            if entry.is_dir() {
                above.push(entry.path);
            }
            before = Some(entry);
            at = cursor.at;
        }
        if at != toc.bytes.len() {
            return Err(LayerError::Toc("bytes after the last record"));
        }
        Ok(toc)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + DoubleEndedIterator + '_ {
        self.refs().map(|e| e.to_entry())
    }

    /// All entries, in order, borrowed.
    pub fn refs(&self) -> impl ExactSizeIterator<Item = EntryRef<'_>> + DoubleEndedIterator + '_ {
        (0..self.count).map(|at| self.at(at))
    }

    /// What the layer says about `path` itself.
    pub fn get(&self, path: &[u8]) -> Option<Entry> {
        self.find(path).map(|e| e.to_entry())
    }

    /// As [`Toc::get`], borrowed.
    pub fn find(&self, path: &[u8]) -> Option<EntryRef<'_>> {
        self.index_in(path, 0..self.count).map(|at| self.at(at))
    }

    /// What the layer has directly in `dir`, in order; whiteouts included.
    pub fn children(&self, dir: &[u8]) -> impl Iterator<Item = Entry> + '_ {
        let mut at = self.content_of(dir);
        std::iter::from_fn(move || {
            let entry = (!at.is_empty()).then(|| self.at(at.start))?;
            at.start = self.end_of(at.start, at.end);
            Some(entry.to_entry())
        })
    }

    /// `path` and everything below it, in order.
    pub fn subtree(&self, path: &[u8]) -> impl Iterator<Item = Entry> + '_ {
        let itself = self.index_in(path, 0..self.count);
        let mut range = self.content_of(path);
        range.start = itself.unwrap_or(range.start);
        range.map(|at| self.at(at).to_entry())
    }

    /// Whether the layer means different things above different layers: it holds an entry whose directory it has no header
    /// for, or a hard link to a file that it does not hold.
    pub fn leans_on_lower(&self) -> bool {
        self.refs().any(|e| match e.kind {
            KindRef::Directory { implied, .. } => implied && !e.path.is_empty(),
            KindRef::HardLink { target } => self.find(target).is_none(),
            _ => false,
        })
    }

    /// Where the content of directory `dir` is.
    pub(crate) fn content_of(&self, dir: &[u8]) -> Range<usize> {
        let all = 0..self.count;
        if dir.is_empty() {
            let root = self.index_in(b"", all.clone()).is_some();
            return usize::from(root)..self.count;
        }
        match self.index_in(dir, all) {
            Some(at) => at + 1..self.end_of(at, self.count),
            None => 0..0,
        }
    }

    /// The entry at `index`, which is below [`Toc::len`].
    pub(crate) fn at(&self, index: usize) -> EntryRef<'_> {
        let at = self.offset(index);
        at.and_then(|at| Cursor::at(&self.bytes, at).entry())
            .expect("every record was written or checked by this type")
    }

    /// The place of `path` within `range`.
    pub(crate) fn index_in(&self, path: &[u8], range: Range<usize>) -> Option<usize> {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match path_order(self.path_at(middle), path) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The end of the subtree that starts at `index`; galloping, because most subtrees are small.
    pub(crate) fn end_of(&self, index: usize, limit: usize) -> usize {
        let top = self.path_at(index);
        let inside = |at: usize| is_below(top, self.path_at(at));
        let mut step = 1;
        let mut low = index + 1;
        while low < limit && inside((low + step - 1).min(limit - 1)) {
            low = (low + step).min(limit);
            step *= 2;
        }
        let mut high = (low + step).min(limit);
        while low < high {
            let middle = low + (high - low) / 2;
            if inside(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn offset(&self, index: usize) -> Option<usize> {
        let value = Cursor::at(&self.bytes, TABLE_AT + index * 8).u64()?;
        usize::try_from(value).ok()
    }

    fn path_at(&self, index: usize) -> &[u8] {
        let at = self.offset(index);
        at.and_then(|at| Cursor::at(&self.bytes, at).bytes())
            .expect("every record was written or checked by this type")
    }
}

/// The entries of a table in a file, one after another: for whoever goes through a large one once and has no room for it.
#[derive(Debug)]
pub(super) struct TocReader {
    starts: BufReader<At>,
    records: BufReader<At>,
    /// Entries that were not read.
    left: u64,
    /// Where the next record starts.
    at: u64,
    end: u64,
    record: Vec<u8>,
}

/// A file that is read from a place of its own.
#[derive(Debug)]
struct At {
    file: Arc<File>,
    at: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl TocReader {
    /// The most one record may take: a path, a target and the attributes of one file are far less.
    const MAX_RECORD_BYTES: u64 = 1 << 20;

    pub(super) fn new(file: File) -> io::Result<TocReader> {
        let end = file.metadata()?.len();
        let file = Arc::new(file);
        let from = |at| {
            let file = Arc::clone(&file);
            BufReader::with_capacity(64 << 10, At { file, at })
        };
        let mut starts = from(0);
        let mut magic = [0; MAGIC.len()];
        starts.read_exact(&mut magic)?;
        let left = number(&mut starts)?;
        if &magic != MAGIC {
            return Err(malformed());
        }
        // The start of the first record is known without the table.
        let at = (left.checked_mul(8))
            .and_then(|bytes| bytes.checked_add(TABLE_AT as u64))
            .filter(|at| *at <= end)
            .ok_or_else(malformed)?;
        if left > 0 && number(&mut starts)? != at {
            return Err(malformed());
        }
        Ok(TocReader {
            starts,
            records: from(at),
            left,
            at,
            end,
            record: Vec::new(),
        })
    }

    /// The next entry. What is no table ends in an error or in entries out of order.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let next = match self.left {
            0 => self.end,
            _ => number(&mut self.starts)?,
        };
        let length = next.checked_sub(self.at);
        let length = length.filter(|bytes| *bytes <= TocReader::MAX_RECORD_BYTES);
        let length = length.and_then(|bytes| usize::try_from(bytes).ok());
        self.record.resize(length.ok_or_else(malformed)?, 0);
        self.records.read_exact(&mut self.record)?;
        self.at = next;
        let entry = Cursor::at(&self.record, 0).entry();
        Ok(Some(entry.ok_or_else(malformed)?.to_entry()))
    }
}

fn number(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl FromIterator<Entry> for Toc {
    /// As [`Toc::from_entries`], of entries that need not be there all at once.
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Toc {
        let mut records = Records::default();
        entries.into_iter().for_each(|entry| records.push(&entry));
        records.into_toc()
    }
}

impl fmt::Debug for Toc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.refs()).finish()
    }
}

/// Whether a path is relative, without `.`, `..`, empty parts and NUL; the root is.
fn is_clean(path: &[u8]) -> bool {
    path.is_empty()
        || path
            .split(|c| *c == b'/')
            .all(|part| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layer::record::{Content, put_entry};
    use crate::layer::{Kind, Meta};
    use crate::oci::Digest;

    fn file(path: &str) -> Entry {
        let kind = Kind::File {
            size_bytes: 1,
            content: Some(Digest::of(path.as_bytes())),
        };
        Entry::bare(path, kind)
    }

    fn dir(path: &str) -> Entry {
        let kind = Kind::Directory {
            opaque: false,
            implied: false,
        };
        Entry::bare(path, kind)
    }

    fn paths(toc: &Toc) -> Vec<String> {
        let text = |e: EntryRef| String::from_utf8_lossy(e.path).into_owned();
        toc.refs().map(text).collect()
    }

    // A table of just these, right or not.
    fn encode(entries: &[Entry]) -> Toc {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for entry in entries {
            starts.push(bytes.len());
            put_entry(&mut bytes, entry, Content::AsItIs);
        }
        Toc::of_records(bytes, &starts)
    }

    #[test]
    fn a_file_is_read_entry_by_entry() {
        let read = |bytes: &[u8]| -> io::Result<Vec<Entry>> {
            let mut file = tempfile::tempfile()?;
            std::io::Write::write_all(&mut file, bytes)?;
            let mut reader = TocReader::new(file)?;
            let mut entries = Vec::new();
            while let Some(entry) = reader.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        };
        for paths in [&[][..], &["a"], &["a", "a/b", "c"]] {
            let entries: Vec<Entry> = paths.iter().map(|path| dir(path)).collect();
            let whole = Toc::from_entries(entries.clone()).to_bytes();
            assert_eq!(read(&whole).unwrap(), entries);
            for end in 0..whole.len() {
                assert!(read(&whole[..end]).is_err(), "{end} of {}", whole.len());
            }
        }
        let mut huge = Toc::from_entries(vec![dir("a"), dir("b")]).to_bytes();
        huge[MAGIC.len() + 7] = 0xff;
        assert!(read(&huge).is_err());
    }

    #[test]
    fn what_is_applied_later_wins() {
        let toc = Toc::from_entries(vec![
            dir("d"),
            file("d/x"),
            file("d/sub/y"),
            file("d"),
            dir("d"),
            file("d/z"),
        ]);
        assert_eq!(paths(&toc), ["d", "d/z"]);
        let toc = Toc::from_entries(vec![file("a"), Entry::bare("a", Kind::Fifo)]);
        assert_eq!(toc.get(b"a").unwrap().kind, Kind::Fifo);
    }

    #[test]
    fn a_whiteout_beside_a_directory_makes_it_opaque() {
        let opaque = Kind::Directory {
            opaque: true,
            implied: false,
        };
        for order in [
            vec![Entry::bare("a", Kind::Whiteout), dir("a")],
            vec![dir("a"), Entry::bare("a", Kind::Whiteout)],
        ] {
            assert_eq!(Toc::from_entries(order).get(b"a").unwrap().kind, opaque);
        }
        let toc = Toc::from_entries(vec![Entry::bare("a", Kind::Whiteout), file("a/b")]);
        let implied_opaque = Kind::Directory {
            opaque: true,
            implied: true,
        };
        assert_eq!(toc.get(b"a").unwrap().kind, implied_opaque);
    }

    #[test]
    fn missing_parents_are_implied() {
        let toc = Toc::from_entries(vec![
            file("a/b/c/d"),
            dir("a/b"),
            file("a/b/c/e"),
            file("q"),
        ]);
        assert_eq!(
            paths(&toc),
            ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/e", "q"]
        );
        assert!(toc.leans_on_lower());
        assert!(!Toc::from_entries(vec![dir("a"), file("a/b"), file("c")]).leans_on_lower());
        let link = Kind::HardLink {
            target: b"elsewhere".to_vec(),
        };
        assert!(Toc::from_entries(vec![Entry::bare("l", link)]).leans_on_lower());
    }

    #[test]
    fn children_and_subtrees() {
        let toc = Toc::from_entries(vec![
            dir(""),
            dir("a"),
            dir("a/b"),
            file("a/b/c"),
            file("a/b-c"),
            file("a-b"),
            file("z"),
        ]);
        let names = |it: &mut dyn Iterator<Item = Entry>| -> Vec<String> {
            it.map(|e| String::from_utf8(e.path).unwrap()).collect()
        };
        assert_eq!(names(&mut toc.children(b"")), ["a", "a-b", "z"]);
        assert_eq!(names(&mut toc.children(b"a")), ["a/b", "a/b-c"]);
        assert_eq!(names(&mut toc.children(b"z")), [""; 0]);
        assert_eq!(names(&mut toc.children(b"none")), [""; 0]);
        assert_eq!(
            names(&mut toc.subtree(b"a")),
            ["a", "a/b", "a/b/c", "a/b-c"]
        );
        assert_eq!(toc.subtree(b"").count(), 7);
    }

    #[test]
    fn damaged_tables_are_refused() {
        let good = Toc::from_entries(vec![dir("a"), file("a/b"), file("c")]).to_bytes();
        assert!(Toc::parse(good.clone()).is_ok());
        for cut in 0..good.len() {
            assert!(Toc::parse(good[..cut].to_vec()).is_err(), "{cut}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(Toc::parse(longer).is_err());
        let unordered = encode(&[file("b"), file("a")]).bytes;
        assert!(Toc::parse(unordered).is_err());
        let orphan = encode(&[file("a/b")]).bytes;
        assert!(Toc::parse(orphan).is_err());
        let upwards = encode(&[file("..")]).bytes;
        assert!(Toc::parse(upwards).is_err());
    }

    prop_compose! {
        fn any_entry()(
            parts in prop::collection::vec("[a-c]{1,2}", 0..4),
            choice in 0u8..9,
            mode in 0u32..0o10000,
            ids in any::<(u32, u32)>(),
            mtime in any::<i64>(),
            xattrs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..5), prop::collection::vec(any::<u8>(), 0..5)), 0..3),
            target in prop::collection::vec(any::<u8>(), 0..9),
        ) -> Entry {
            let kind = match choice {
                0 => Kind::File { size_bytes: u64::from(ids.0), content: None },
                1 => Kind::File { size_bytes: 7, content: Some(Digest::of(&target)) },
                2 => Kind::Directory { opaque: mode & 1 == 0, implied: mode & 2 == 0 },
                3 => Kind::Symlink { target },
                4 => Kind::HardLink { target },
                5 => Kind::CharDevice { major: ids.0, minor: ids.1 },
                6 => Kind::BlockDevice { major: ids.0, minor: ids.1 },
                7 => Kind::Fifo,
                _ => Kind::Whiteout,
            };
            Entry { path: parts.join("/").into_bytes(), meta: Meta { mode, uid: ids.0, gid: ids.1, mtime, xattrs }, kind }
        }
    }

    proptest! {
        #[test]
        fn round_trip(entries in prop::collection::vec(any_entry(), 0..40)) {
            let toc = Toc::from_entries(entries);
            let back = Toc::parse(toc.to_bytes()).unwrap();
            prop_assert_eq!(&back, &toc);
            let again = Toc::from_entries(back.entries().collect());
            prop_assert_eq!(&again, &toc);
            for entry in toc.entries() {
                prop_assert_eq!(toc.get(&entry.path), Some(entry));
            }
        }

        #[test]
        fn distinct_entries_survive(mut entries in prop::collection::vec(any_entry(), 0..40)) {
            // Flat names, so that nothing covers anything.
            for (at, entry) in entries.iter_mut().enumerate() {
                entry.path = format!("{at:03}").into_bytes();
            }
            prop_assert_eq!(Toc::from_entries(entries.clone()).entries().collect::<Vec<_>>(), entries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200, flip in any::<u8>()) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(tail);
            let _ = Toc::parse(bytes);
            let mut bytes = Toc::from_entries(vec![dir("a"), file("a/b"), file("c")]).to_bytes();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(toc) = Toc::parse(bytes) {
                let _ = toc.entries().count() + toc.children(b"").count();
            }
        }
    }
}
