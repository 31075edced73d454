//! Entries on their way into a table of contents: encoded as they come, a hundred bytes each and no allocation of its own.
//!
//! A layer of a hundred thousand files is held once, as the table that it will be: whoever makes one puts entries here, fills
//! in what the contents hash to when that is known, and takes the table. In order, that is a matter of writing its head.

use std::cmp::Ordering;

use super::entry::{is_below, parent, path_order};
use super::pipe::Sum;
use super::record::{Content, Cursor, EntryRef, KindRef, put_entry};
use super::toc::Toc;
use super::{Entry, Kind, Meta};
use crate::oci::{Algorithm, Digest};

/// Entries in the order in which they came.
#[derive(Clone, Default)]
pub struct Records {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// The directories above the last entry, by their places.
    above: Vec<usize>,
    /// Whether a table may have them in another order, or other ones.
    unordered: bool,
    /// How many contents are still to come.
    open: usize,
}

impl Records {
    /// Adds an entry as it is.
    pub fn push(&mut self, entry: &Entry) {
        self.put(entry, Content::AsItIs);
    }

    /// Adds an entry; if it is a file of which that is not known, there is room for what its content hashes to.
    pub(super) fn push_open(&mut self, entry: &Entry) {
        let unknown = matches!(entry.kind, Kind::File { content: None, .. });
        self.open += usize::from(unknown);
        self.put(entry, Content::MayCome);
    }

    fn put(&mut self, entry: &Entry, content: Content) {
        if !self.unordered {
            self.unordered = !self.follows(&entry.path);
        }
        let at = self.starts.len();
        self.starts.push(self.bytes.len());
        put_entry(&mut self.bytes, entry, content);
        if entry.is_dir() && !self.unordered {
            self.above.push(at);
        }
    }

    // Whether a table may have this path after the last one.
    fn follows(&mut self, path: &[u8]) -> bool {
        let last = self.len().checked_sub(1).map(|at| self.at(at).path);
        if last.is_some_and(|last| path_order(last, path) != Ordering::Less) {
            return false;
        }
        while let Some(dir) = self.above.last()
            && !is_below(self.at(*dir).path, path)
        {
            self.above.pop();
        }
        let dir = parent(path).unwrap_or_default();
        dir.is_empty() || self.above.last().is_some_and(|at| self.at(*at).path == dir)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The entry at `index`, which is below [`Records::len`].
    pub(super) fn at(&self, index: usize) -> EntryRef<'_> {
        Cursor::at(&self.bytes, self.starts[index])
            .entry_or_open()
            .expect("every record was written by this type")
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        (0..self.len()).map(|at| self.at(at))
    }

    /// Takes the last entry away.
    pub fn pop(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.open -= usize::from(self.is_open(start));
            self.bytes.truncate(start);
            self.above.pop_if(|dir| *dir == self.starts.len());
        }
    }

    fn is_open(&self, start: usize) -> bool {
        Cursor::at(&self.bytes, start).lacks_content()
    }

    /// Says what the content of the file at `index` hashes to, if there is room for it.
    pub(super) fn set_content(&mut self, index: usize, digest: &Digest) {
        let start = self.starts[index];
        if digest.algorithm() != Algorithm::Sha256 || !self.is_open(start) {
            return;
        }
        self.open -= 1;
        let end = self.starts.get(index + 1).copied();
        let end = end.unwrap_or(self.bytes.len());
        Cursor::close(&mut self.bytes[start..end], digest);
    }

    /// Gives the files, in their order, what their contents hash to.
    pub(super) fn set_contents(&mut self, contents: impl IntoIterator<Item = Sum>) {
        let mut contents = contents.into_iter();
        for at in 0..self.len() {
            if matches!(self.at(at).kind, KindRef::File { .. })
                && let Some(content) = contents.next()
            {
                self.set_content(at, &Digest::from_sha256(content));
            }
        }
    }

    /// Gives the entry at `index` another time.
    pub(super) fn set_mtime(&mut self, index: usize, mtime: i64) {
        Cursor::set_mtime(&mut self.bytes[self.starts[index]..], mtime);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Whether these entries are in order, each path once, with all directories, and nothing is to come: the table has them as they are.
    pub(super) fn is_settled(&self) -> bool {
        !self.unordered && self.open == 0
    }

    /// The table of what these entries leave behind, as [`Toc::from_entries`] has it.
    pub fn into_toc(self) -> Toc {
        if !self.is_settled() {
            return self.settled().into_toc();
        }
        Toc::of_records(self.bytes, &self.starts)
    }

    // In order, each path once, with all directories, and without room for anything to come.
    fn settled(self) -> Records {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order
            .sort_unstable_by(|a, b| path_order(self.at(*a).path, self.at(*b).path).then(a.cmp(b)));
        let mut out = Records::default();
        // The chain of directories above the current path, each with the place in the sequence before which everything in it
        // was removed.
        let mut above: Vec<(&[u8], usize)> = Vec::new();
        let mut rest = order.into_iter().map(|at| (at, self.at(at))).peekable();
        while let Some((mut place, mut entry)) = rest.next() {
            let mut whiteout = entry.kind == KindRef::Whiteout;
            let covers = |e: &EntryRef| !e.is_dir() && e.kind != KindRef::Whiteout;
            let mut removed = if covers(&entry) { place + 1 } else { 0 };
            while let Some((next_place, next)) = rest.next_if(|(_, e)| e.path == entry.path) {
                if covers(&next) {
                    removed = next_place + 1;
                }
                let implied = matches!(next.kind, KindRef::Directory { implied: true, .. });
                if next.kind == KindRef::Whiteout {
                    whiteout = true;
                } else if !(implied && entry.is_dir()) {
                    (place, entry) = (next_place, next);
                }
            }
            while above
                .last()
                .is_some_and(|(dir, _)| !is_below(dir, entry.path))
            {
                above.pop();
            }
            let gone = above.last().map_or(0, |(_, before)| *before);
            if place < gone {
                continue;
            }
            // What comes first below something follows it at once: if that is no directory, something put one there since.
            let known = above.last().map(|(dir, _)| *dir);
            let last = out.len().checked_sub(1).map(|at| out.at(at));
            let bare = last.filter(|e| Some(e.path) == known && !e.is_dir());
            if let Some(covered) = bare {
                let directory = implied(covered.path, covered.kind == KindRef::Whiteout);
                out.pop();
                out.push(&directory);
            }
            let known = known.map_or(0, <[u8]>::len);
            let slashes = memchr::memchr_iter(b'/', entry.path).filter(|at| *at > known);
            for dir in slashes.map(|at| &entry.path[..at]) {
                above.push((dir, gone));
                out.push(&implied(dir, false));
            }
            above.push((entry.path, removed.max(gone)));
            let mut entry = entry.to_entry();
            if whiteout && let Kind::Directory { opaque, .. } = &mut entry.kind {
                *opaque = true;
            }
            out.push(&entry);
        }
        debug_assert!(!out.unordered, "a table is in order");
        out
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A directory that no header described.
fn implied(path: &[u8], opaque: bool) -> Entry {
    Entry {
        path: path.to_vec(),
        meta: Meta {
            mode: 0o755,
            ..Meta::default()
        },
        kind: Kind::Directory {
            opaque,
            implied: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let kind = Kind::File {
            size_bytes: 3,
            content: None,
        };
        Entry::bare(path, kind)
    }

    const DIRECTORY: Kind = Kind::Directory {
        opaque: false,
        implied: false,
    };

    #[test]
    fn contents_and_times_are_filled_in() {
        let mut records = Records::default();
        let xattrs = vec![(b"security.capability".to_vec(), vec![1, 2])];
        let mut with = file("d/b");
        with.meta.xattrs = xattrs.clone();
        for entry in [
            &Entry::bare("d", DIRECTORY),
            &file("d/a"),
            &with,
            &file("e"),
        ] {
            records.push_open(entry);
        }
        assert_eq!(records.open, 3);
        records.set_contents([b"a", b"b", b"c"].map(|text| Digest::of(text).sha256().unwrap()));
        records.set_mtime(2, 77);
        assert!(!records.unordered && records.open == 0);
        let toc = records.into_toc();
        let found = toc.get(b"d/b").unwrap();
        assert_eq!((found.meta.mtime, &found.meta.xattrs), (77, &xattrs));
        for (path, text) in [("d/a", b"a"), ("d/b", b"b"), ("e", b"c")] {
            let content = Some(Digest::of(text));
            let kind = Kind::File {
                size_bytes: 3,
                content,
            };
            assert_eq!(toc.get(path.as_bytes()).unwrap().kind, kind);
        }
        assert_eq!(Toc::parse(toc.to_bytes()).unwrap(), toc);
    }

    #[test]
    fn what_never_came_is_not_in_the_table() {
        let mut records = Records::default();
        records.push_open(&file("a"));
        records.push_open(&file("b"));
        records.set_content(1, &Digest::of(b"b"));
        records.push_open(&file("c"));
        records.pop();
        let toc = records.into_toc();
        assert_eq!(toc.len(), 2);
        assert_eq!(toc.get(b"a"), Some(file("a")));
        assert_eq!(Toc::parse(toc.to_bytes()).unwrap(), toc);
    }

    #[test]
    fn order_is_noticed() {
        for (paths, unordered) in [
            (&["a/", "a/b", "a!"][..], false),
            (&["a", "a/b"], true),
            (&["b", "a"], true),
            (&["a", "a"], true),
            (&["d/x"], true),
            (&["a/", "a/b/", "a/b/c", "a/d", "e"], false),
            (&["a/", "b/", "a/c"], true),
        ] {
            let mut records = Records::default();
            for path in paths {
                let name = path.trim_end_matches('/');
                let kind = if path.ends_with('/') {
                    DIRECTORY
                } else {
                    Kind::Fifo
                };
                records.push(&Entry::bare(name, kind));
            }
            assert_eq!(records.unordered, unordered, "{paths:?}");
        }
    }
}
