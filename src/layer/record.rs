//! One entry of a table of contents, as bytes; the format is at the head of [`super::Toc`]'s file.

use super::{Entry, Kind, Meta};
use crate::oci::{Algorithm, Digest};

/// An entry as it lies in a table; nothing is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// As [`Entry::path`].
    pub path: &'a [u8],
    /// As [`Meta::mode`].
    pub mode: u32,
    /// As [`Meta::uid`].
    pub uid: u32,
    /// As [`Meta::gid`].
    pub gid: u32,
    /// As [`Meta::mtime`].
    pub mtime: i64,
    /// As [`Entry::kind`].
    pub kind: KindRef<'a>,
    xattrs: &'a [u8],
}

/// As [`Kind`], borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KindRef<'a> {
    /// As [`Kind::File`].
    File {
        /// Its length.
        size_bytes: u64,
        /// The SHA-256 of its content.
        content: Option<Digest>,
    },
    /// As [`Kind::Directory`].
    Directory {
        /// Whether it hides what is below.
        opaque: bool,
        /// Whether the layer has no header for it.
        implied: bool,
    },
    /// As [`Kind::Symlink`].
    Symlink {
        /// Its target.
        target: &'a [u8],
    },
    /// As [`Kind::HardLink`].
    HardLink {
        /// Its first name.
        target: &'a [u8],
    },
    /// As [`Kind::CharDevice`].
    CharDevice {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// As [`Kind::BlockDevice`].
    BlockDevice {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// As [`Kind::Fifo`].
    Fifo,
    /// As [`Kind::Whiteout`].
    Whiteout,
}

impl<'a> EntryRef<'a> {
    /// A copy that stands alone.
    pub fn to_entry(&self) -> Entry {
        Entry {
            path: self.path.to_vec(),
            meta: self.meta(),
            kind: self.kind.to_kind(),
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> Meta {
        let pair = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: self.xattrs().map(pair).collect(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, KindRef::Directory { .. })
    }

    /// The part after the last slash.
    pub fn name(&self) -> &'a [u8] {
        self.path.rsplit(|c| *c == b'/').next().unwrap_or_default()
    }

    /// The extended attributes, sorted by name.
    pub fn xattrs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut cursor = Cursor::at(self.xattrs, 0);
        std::iter::from_fn(move || cursor.bytes().zip(cursor.bytes()))
    }

    /// The value of one extended attribute.
    pub fn xattr(&self, name: &[u8]) -> Option<&'a [u8]> {
        let found = self.xattrs().find(|(n, _)| *n == name);
        found.map(|(_, value)| value)
    }
}

impl KindRef<'_> {
    /// A copy that stands alone.
    pub fn to_kind(&self) -> Kind {
        match *self {
            KindRef::File {
                size_bytes,
                content,
            } => Kind::File {
                size_bytes,
                content,
            },
            KindRef::Directory { opaque, implied } => Kind::Directory { opaque, implied },
            KindRef::Symlink { target } => Kind::Symlink {
                target: target.to_vec(),
            },
            KindRef::HardLink { target } => Kind::HardLink {
                target: target.to_vec(),
            },
            KindRef::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            KindRef::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            KindRef::Fifo => Kind::Fifo,
            KindRef::Whiteout => Kind::Whiteout,
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // What a file system holds is far shorter; cutting keeps the table well-formed even then.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes[..length as usize]);
}

/// What a record says about a content that is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// That it is not.
    AsItIs,
    /// That it may come: there is room for it. No table that is kept has such a record.
    MayCome,
}

/// The kind of a file with room for what its content hashes to.
const OPEN: u8 = 255;

pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry, content: Content) {
    put_bytes(out, &entry.path);
    let to_come = content == Content::MayCome;
    let tag = match &entry.kind {
        Kind::File { content, .. } => match sha256_of(content) {
            None if to_come => OPEN,
            sum => u8::from(sum.is_some()),
        },
        Kind::Directory { .. } => 2,
        Kind::Symlink { .. } => 3,
        Kind::HardLink { .. } => 4,
        Kind::CharDevice { .. } => 5,
        Kind::BlockDevice { .. } => 6,
        Kind::Fifo => 7,
        Kind::Whiteout => 8,
    };
    out.push(tag);
    let meta = &entry.meta;
    out.extend_from_slice(&(meta.mode & 0o7777).to_le_bytes()[..2]);
    out.extend_from_slice(&meta.uid.to_le_bytes());
    out.extend_from_slice(&meta.gid.to_le_bytes());
    out.extend_from_slice(&meta.mtime.to_le_bytes());
    let xattr_count = u32::try_from(meta.xattrs.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&xattr_count.to_le_bytes());
    for (name, value) in meta.xattrs.iter().take(xattr_count as usize) {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    match &entry.kind {
        Kind::File {
            size_bytes,
            content,
        } => {
            out.extend_from_slice(&size_bytes.to_le_bytes());
            let room: &[u8] = if to_come { &[0; 32] } else { &[] };
            out.extend_from_slice(sha256_of(content).unwrap_or(room));
        }
        Kind::Directory { opaque, implied } => {
            out.push(u8::from(*opaque) | u8::from(*implied) << 1)
        }
        Kind::Symlink { target } | Kind::HardLink { target } => put_bytes(out, target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        Kind::Fifo | Kind::Whiteout => {}
    }
}

fn sha256_of(content: &Option<Digest>) -> Option<&[u8]> {
    let digest = content.as_ref()?;
    (digest.algorithm() == Algorithm::Sha256).then(|| digest.bytes())
}

/// Reads numbers and strings off a block of bytes; `None` past its end.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    /// How far it went.
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn at(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let part = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(part)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// A record of a table.
    pub(super) fn entry(&mut self) -> Option<EntryRef<'a>> {
        self.record(false)
    }

    /// Whether the next record has room for a content.
    pub(super) fn lacks_content(mut self) -> bool {
        self.bytes().is_some() && self.array() == Some([OPEN])
    }

    /// Puts a content into the room that `record` has for it, at its end.
    pub(super) fn close(record: &mut [u8], digest: &Digest) {
        let mut cursor = Cursor::at(record, 0);
        if cursor.bytes().is_some() {
            let tag = cursor.at;
            let sum = digest.bytes();
            let room = record.len() - sum.len();
            record[tag] = 1;
            record[room..].copy_from_slice(sum);
        }
    }

    /// Gives a record another time.
    pub(super) fn set_mtime(record: &mut [u8], mtime: i64) {
        let mut cursor = Cursor::at(record, 0);
        if cursor.bytes().is_some() {
            // After kind, mode, user and group.
            let at = cursor.at + 1 + 2 + 4 + 4;
            record[at..at + 8].copy_from_slice(&mtime.to_le_bytes());
        }
    }

    /// A record, with or without room for a content.
    pub(super) fn entry_or_open(&mut self) -> Option<EntryRef<'a>> {
        self.record(true)
    }

    fn record(&mut self, open: bool) -> Option<EntryRef<'a>> {
        let path = self.bytes()?;
        let [tag] = self.array()?;
        let mode = u32::from(u16::from_le_bytes(self.array()?));
        let (uid, gid) = (self.u32()?, self.u32()?);
        let mtime = i64::from_le_bytes(self.array()?);
        let xattr_count = self.u32()?;
        let xattrs_at = self.at;
        for _ in 0..xattr_count {
            self.bytes()?;
            self.bytes()?;
        }
        let xattrs = &self.bytes[xattrs_at..self.at];
        let kind = match tag {
            0 | 1 => KindRef::File {
                size_bytes: self.u64()?,
                content: match tag {
                    0 => None,
                    _ => Some(Digest::from_sha256(self.array()?)),
                },
            },
            OPEN if open => {
                let size_bytes = self.u64()?;
                self.take(32)?;
                KindRef::File {
                    size_bytes,
                    content: None,
                }
            }
            2 => {
                let [flags] = self.array()?;
                KindRef::Directory {
                    opaque: flags & 1 != 0,
                    implied: flags & 2 != 0,
                }
            }
            3 => KindRef::Symlink {
                target: self.bytes()?,
            },
            4 => KindRef::HardLink {
                target: self.bytes()?,
            },
            5 => KindRef::CharDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            6 => KindRef::BlockDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            7 => KindRef::Fifo,
            8 => KindRef::Whiteout,
            _ => return None,
        };
        Some(EntryRef {
            path,
            mode,
            uid,
            gid,
            mtime,
            kind,
            xattrs,
        })
    }
}
