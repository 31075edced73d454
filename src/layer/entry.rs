//! One path of a layer: what it is, and where its bytes are while the layer is being made.

use std::cmp::Ordering;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::FileStamp;
use crate::oci::Digest;

/// A path of a layer with everything but its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Relative and clean; the root is empty. For a whiteout, the path that is removed (no `.wh.` in it).
    pub path: Vec<u8>,
    /// Permissions, owner, time, attributes.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

/// What every entry has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// The low 12 bits: permissions, set-id, sticky.
    pub mode: u32,
    /// Owner, as the image's users see it.
    pub uid: u32,
    /// Group, as the image's users see it.
    pub gid: u32,
    /// Whole seconds since 1970, UTC.
    pub mtime: i64,
    /// Extended attributes that belong to the image, sorted by name; in layers that strata makes only `security.capability`
    /// (in its second form, without a root id).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its length.
        size_bytes: u64,
        /// The SHA-256 of its content; known in a finished table of contents.
        content: Option<Digest>,
    },
    /// A directory.
    Directory {
        /// Whether it hides what lower layers have in it (opaque OCI whiteout, overlay opaque directory).
        opaque: bool,
        /// Whether the layer has no header for it: it was made as a parent, and leans on the layers below.
        implied: bool,
    },
    /// A symbolic link; the target is whatever bytes it holds.
    Symlink {
        /// Its target, as is.
        target: Vec<u8>,
    },
    /// Another name of a file of the same layer (or, in layers of others, of one below).
    HardLink {
        /// The path of the first name, clean.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// The path is gone, with everything in it.
    Whiteout,
}

/// An entry and where its content is.
#[derive(Clone, Debug)]
pub struct Change {
    /// What the layer will say.
    pub entry: Entry,
    /// A regular file's bytes; [`Source::None`] for anything else.
    pub source: Source,
}

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub enum Source {
    /// There are none.
    None,
    /// A file below a directory; the path is resolved without following links and without leaving `root`.
    File {
        /// The directory.
        root: Arc<OwnedFd>,
        /// The path below it.
        path: Vec<u8>,
        /// The stamp that the file had when it was hashed to what the entry tells, if that [is not racy](FileStamp::is_racy): a file
        /// that has it before and after it is read is not hashed again.
        stamp: Option<FileStamp>,
    },
    /// In memory.
    Bytes(Arc<[u8]>),
}

/// The order of tables and tars: by components, so that a directory is followed by all that is in it.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let shared = shared_bytes(a, b);
    // A slash sorts before every other byte, and an end before a slash; everything else compares as bytes.
    let key = |path: &[u8]| match path.get(shared) {
        None => 0,
        Some(b'/') => 1,
        Some(c) => u16::from(*c) + 2,
    };
    key(a).cmp(&key(b))
}

/// How many bytes two paths begin with in common; eight at a time, for sorting a layer calls this most of all.
fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    let (mut words, mut others) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut shared = 0;
    while let (Some(x), Some(y)) = (words.next(), others.next()) {
        if x != y {
            break;
        }
        shared += 8;
    }
    let rest = a[shared..].iter().zip(&b[shared..]);
    shared + rest.take_while(|(x, y)| x == y).count()
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// The part after the last slash.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|c| *c == b'/').next().unwrap_or_default()
    }

    /// The directory it is in; `None` for the root.
    pub fn parent(&self) -> Option<&[u8]> {
        parent(&self.path)
    }
}

/// The directory a path is in; `None` for the root.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(
        path.iter()
            .rposition(|c| *c == b'/')
            .map_or(&[], |at| &path[..at]),
    )
}

/// Goes one part down.
pub(crate) fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// Whether `path` is somewhere in the directory `dir`.
pub(crate) fn is_below(dir: &[u8], path: &[u8]) -> bool {
    if dir.is_empty() {
        return !path.is_empty();
    }
    path.len() > dir.len() && path[dir.len()] == b'/' && path.starts_with(dir)
}

/// Adds the parts of a path, or of a link's target, to those that are still to go: the next one is at the end.
pub(crate) fn push_parts(todo: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.split(|c| *c == b'/');
    let real = parts.filter(|p| !p.is_empty() && *p != b".");
    let at = todo.len();
    todo.extend(real.map(<[u8]>::to_vec));
    todo[at..].reverse();
}

#[cfg(test)]
impl Entry {
    /// What is said of `path` where only its kind counts.
    pub(super) fn bare(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            meta: Meta::default(),
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_followed_by_its_content() {
        let mut paths: Vec<&[u8]> =
            vec![b"a-b", b"a/b", b"a", b"", b"a/b/c", b"a!", b"b", b"a/b-c"];
        paths.sort_by(|a, b| path_order(a, b));
        let want: Vec<&[u8]> = vec![b"", b"a", b"a/b", b"a/b/c", b"a/b-c", b"a!", b"a-b", b"b"];
        assert_eq!(paths, want);
    }
}
