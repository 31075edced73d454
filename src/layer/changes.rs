//! What a layer is to be made of: its entries as the table that they will be, and where the bytes of files are.
//!
//! A hundred thousand changes take a tenth of the memory of as many [`Change`]s: paths are held once, and sources by what
//! they have in common.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::entry::path_order;
use super::records::Records;
use super::{Change, Entry, EntryRef, FileStamp, Source, Toc};
use crate::oci::Digest;

/// Changes, in the order of their paths, each path once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub(super) table: Table,
    /// For each entry, its place in `origins`.
    sources: Vec<u32>,
    origins: Vec<Origin>,
    /// Of the few files that have one, by their places.
    stamps: Vec<(usize, FileStamp)>,
}

/// The entries of changes.
#[derive(Clone, Debug)]
pub(super) enum Table {
    /// There may be more, and what contents hash to may still come.
    Open(Records),
    /// All is known, and others have the table too.
    Whole(Arc<Toc>),
}

impl Default for Table {
    fn default() -> Table {
        Table::Open(Records::default())
    }
}

impl Table {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Table::Open(records) => records.len(),
            Table::Whole(toc) => toc.len(),
        }
    }

    /// The entry at `index`, which is below [`Table::len`].
    pub(super) fn at(&self, index: usize) -> EntryRef<'_> {
        match self {
            Table::Open(records) => records.at(index),
            Table::Whole(toc) => toc.at(index),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        (0..self.len()).map(|at| self.at(at))
    }

    /// Says what the content of the file at `index` hashes to, if there is room for it.
    pub(super) fn set_content(&mut self, index: usize, digest: &Digest) {
        if let Table::Open(records) = self {
            records.set_content(index, digest);
        }
    }

    /// Gives the entry at `index` another time.
    pub(super) fn set_mtime(&mut self, index: usize, mtime: i64) {
        self.records().set_mtime(index, mtime);
    }

    /// The table of contents.
    pub(super) fn into_toc(self) -> Arc<Toc> {
        match self {
            Table::Open(records) => Arc::new(records.into_toc()),
            Table::Whole(toc) => toc,
        }
    }

    // The entries, to be changed: whoever else has the table keeps it as it is.
    fn records(&mut self) -> &mut Records {
        if let Table::Whole(toc) = self {
            let mut records = Records::default();
            toc.entries().for_each(|entry| records.push(&entry));
            *self = Table::Open(records);
        }
        match self {
            Table::Open(records) => records,
            Table::Whole(_) => unreachable!("it was opened above"),
        }
    }
}

/// Where the bytes of some entries are.
#[derive(Clone, Debug)]
enum Origin {
    None,
    Bytes(Arc<[u8]>),
    /// At `prefix` and what follows the first `skip` bytes of the entry's path, below a directory.
    Below {
        root: Arc<OwnedFd>,
        prefix: Vec<u8>,
        skip: usize,
    },
}

impl Origin {
    fn of(entry: &Entry, source: Source) -> Origin {
        match source {
            Source::None => Origin::None,
            Source::Bytes(bytes) => Origin::Bytes(bytes),
            Source::File { root, path, .. } => {
                let pairs = entry.path.iter().rev().zip(path.iter().rev());
                let shared = pairs.take_while(|(a, b)| a == b).count();
                Origin::Below {
                    root,
                    prefix: path[..path.len() - shared].to_vec(),
                    skip: entry.path.len() - shared,
                }
            }
        }
    }

    fn source(&self, path: &[u8], stamp: Option<FileStamp>) -> Source {
        match self {
            Origin::None => Source::None,
            Origin::Bytes(bytes) => Source::Bytes(Arc::clone(bytes)),
            Origin::Below { root, prefix, skip } => Source::File {
                root: Arc::clone(root),
                path: [prefix, &path[*skip..]].concat(),
                stamp,
            },
        }
    }

    // Whether this is where `source` is.
    fn is(&self, entry: &Entry, source: &Source) -> bool {
        match (self, source) {
            (Origin::None, Source::None) => true,
            (
                Origin::Below { root, prefix, skip },
                Source::File {
                    root: other, path, ..
                },
            ) => {
                let rest = entry.path.get(*skip..);
                Arc::ptr_eq(root, other) && path.strip_prefix(&prefix[..]) == rest && rest.is_some()
            }
            _ => false,
        }
    }
}

impl Changes {
    /// Adds a change; its path comes after those that are there.
    pub fn push(&mut self, change: Change) {
        let Change { entry, source } = change;
        if let Source::File {
            stamp: Some(stamp), ..
        } = &source
        {
            self.stamps.push((self.len(), *stamp));
        }
        self.table.records().push_open(&entry);
        // The last ones: files and directories take turns.
        let mut known = self.origins.iter().rev().take(4);
        let place = known.position(|origin| origin.is(&entry, &source));
        let place = match place {
            Some(from_end) => self.origins.len() - 1 - from_end,
            None => {
                self.origins.push(Origin::of(&entry, source));
                self.origins.len() - 1
            }
        };
        // Four billion sources would need some hundred GB before.
        self.sources.push(u32::try_from(place).unwrap_or(u32::MAX));
    }

    /// Lets nothing vouch for contents.
    pub(super) fn forget_stamps(&mut self) {
        self.stamps.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.table.iter()
    }

    /// One change, whose place is below [`Changes::len`].
    pub fn get(&self, at: usize) -> Change {
        let entry = self.table.at(at).to_entry();
        let origin = self.origins.get(self.sources[at] as usize);
        let stamp = self.stamps.binary_search_by_key(&at, |(place, _)| *place);
        let stamp = stamp.ok().map(|found| self.stamps[found].1);
        let source = origin.map_or(Source::None, |origin| origin.source(&entry.path, stamp));
        Change { entry, source }
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Change> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The table of contents as far as it is known. One that is known to the end is not copied: the changes have it from then on.
    pub fn toc(&mut self) -> Arc<Toc> {
        match &mut self.table {
            Table::Open(records) if !records.is_settled() => Arc::new(records.clone().into_toc()),
            table => {
                let toc = std::mem::take(table).into_toc();
                *table = Table::Whole(Arc::clone(&toc));
                toc
            }
        }
    }
}

impl From<Vec<Change>> for Changes {
    fn from(mut list: Vec<Change>) -> Changes {
        list.sort_by(|a, b| path_order(&a.entry.path, &b.entry.path));
        list.into_iter().collect()
    }
}

impl FromIterator<Change> for Changes {
    /// Changes that come in order.
    fn from_iter<T: IntoIterator<Item = Change>>(list: T) -> Changes {
        let mut changes = Changes::default();
        list.into_iter().for_each(|change| changes.push(change));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Kind, Meta};

    fn root() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/").unwrap().into())
    }

    fn change(path: &str, source: Source) -> Change {
        let entry = Entry {
            path: path.into(),
            meta: Meta::default(),
            kind: Kind::File {
                size_bytes: 1,
                content: None,
            },
        };
        Change { entry, source }
    }

    // Of all changes, where their bytes are.
    fn sources(changes: &Changes) -> Vec<String> {
        let shown = changes.iter().map(|change| match change.source {
            Source::None => "none".to_owned(),
            Source::Bytes(bytes) => format!("{bytes:?}"),
            Source::File { path, .. } => String::from_utf8(path).unwrap(),
        });
        shown.collect()
    }

    #[test]
    fn sources_come_back_as_they_were() {
        let (one, two) = (root(), root());
        let file = |root: &Arc<OwnedFd>, path: &str| Source::File {
            root: Arc::clone(root),
            path: path.into(),
            stamp: None,
        };
        let list = vec![
            change("app/a", file(&one, "a")),
            change("app/a/b", file(&one, "a/b")),
            change("app/b", file(&two, "b")),
            change("app/c", file(&one, "other")),
            change("app/cc", file(&one, "c")),
            change("app/d", Source::None),
            change("app/e", Source::Bytes((*b"x").into())),
            change("app/f", file(&one, "f")),
            change("g", file(&one, "src/g")),
            change("h", file(&one, "h")),
        ];
        let changes = Changes::from(list);
        let want = [
            "a", "a/b", "b", "other", "c", "none", "[120]", "f", "src/g", "h",
        ];
        assert_eq!(sources(&changes), want);
    }

    #[test]
    fn a_table_that_is_known_is_there_once() {
        let mut changes = Changes::from(vec![change("a", Source::None)]);
        let early = changes.toc();
        // What a content hashes to may still come.
        changes.table.set_content(0, &Digest::of(b"x"));
        let toc = changes.toc();
        assert_ne!(early, toc);
        assert!(Arc::ptr_eq(&toc, &changes.toc()));
        assert_eq!(changes.get(0).entry, toc.get(b"a").unwrap());
        // Others do not see what becomes of it.
        changes.table.set_mtime(0, 7);
        changes.push(change("b", Source::None));
        assert_eq!((changes.len(), toc.len()), (2, 1));
        let mtimes = |mut all: Changes| all.toc().get(b"a").unwrap().meta.mtime;
        assert_eq!((toc.get(b"a").unwrap().meta.mtime, mtimes(changes)), (0, 7));
    }

    fn stamp(inode: u64) -> FileStamp {
        FileStamp {
            device: 1,
            inode,
            size: 2,
            mtime_ns: 3,
            ctime_ns: 4,
        }
    }

    #[test]
    fn what_has_its_source_in_common_says_it_once() {
        let root = root();
        let files = (0..1000).map(|at| {
            let source = Source::File {
                root: Arc::clone(&root),
                path: format!("from/{at:04}").into(),
                stamp: (at % 2 == 1).then_some(stamp(at)),
            };
            change(&format!("to/{at:04}"), source)
        });
        let changes: Changes = files.collect();
        assert_eq!(changes.origins.len(), 1);
        assert_eq!(sources(&changes)[999], "from/0999");
        for (at, change) in changes.iter().enumerate() {
            let Source::File { stamp: found, .. } = change.source else {
                panic!()
            };
            assert_eq!(found, (at % 2 == 1).then_some(stamp(at as u64)));
        }
    }
}
