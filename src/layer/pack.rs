//! Changes to a blob, in one pass: they are read, put into a tar and, if that is wanted, a tree; the blob is made of
//! [`super::blocks`] meanwhile. Nothing in the bytes depends on threads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::blocks::{Blocks, Expected, Stop, write};
use super::changes::Table;
use super::error::text;
use super::leaks::{Leak, Needles};
use super::look::Found;
use super::pipe::Sum;
use super::reuse::{BlockTable, Earlier};
use super::root::open_file_read;
use super::tar::{TRAILER_BYTES, padding_bytes, write_header};
use super::tree::Tree;
use super::{
    Change, Changes, Compression, Entry, FileStamp, Kind, KindRef, LayerError, Note, Root, Source,
    Toc, TreeOptions,
};
use crate::oci::{DiffId, Digest, MediaType};

/// How a layer is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PackOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// How many threads compress; 0 for one a core. The bytes do not depend on it.
    pub threads: usize,
    /// What becomes of times.
    pub times: Times,
}

/// What becomes of the modification times of a layer's entries, seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Times {
    /// They stay.
    #[default]
    Keep,
    /// Later ones become this.
    AtMost(i64),
    /// All become this.
    Exactly(i64),
}

impl Times {
    /// What becomes of one.
    pub fn of(self, mtime: i64) -> i64 {
        match self {
            Times::Keep => mtime,
            Times::AtMost(latest) => mtime.min(latest),
            Times::Exactly(time) => time,
        }
    }
}

/// A tree to be written while the changes are packed, so that each file is read once.
#[derive(Clone, Debug)]
pub struct Materialise {
    /// The directory; what is in it stays unless it is in the way.
    pub root: Root,
    /// How the tree is written.
    pub tree: TreeOptions,
}

/// What was packed. The blob is written but not synced.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// The digest of the blob.
    pub digest: Digest,
    /// The blob's length.
    pub size_bytes: u64,
    /// Its length uncompressed.
    pub unpacked_size_bytes: u64,
    /// What the layer holds, with the digests of all contents.
    pub toc: Arc<Toc>,
    /// What the blob is.
    pub media_type: MediaType,
    /// What could not be had in the tree.
    pub notes: Vec<Note>,
    /// The blob's blocks, for a later layer that is nearly the same.
    pub blocks: BlockTable,
    /// Secrets that were found, in the order of the entries.
    pub leaks: Vec<Leak>,
}

/// Packs `changes`, in any order and each path once, into `blob`; with `materialise` also writes them as a tree.
///
/// `Ok` means that the whole blob was written and flushed, and the tree too. After an error both hold a part.
pub fn pack(
    changes: impl Into<Changes>,
    blob: impl Write + Send,
    options: &PackOptions,
    materialise: Option<&Materialise>,
) -> Result<Packed, LayerError> {
    pack_after(
        changes,
        blob,
        options,
        materialise,
        Earlier::default(),
        None,
    )
}

/// As [`pack()`], with the same result; what `earlier` has already is taken from there, and `needles` are looked for in names
/// and contents on the way.
///
/// A file whose entry tells the digest of its content, and which turns out to have another, is an error: what was taken by
/// that digest would be wrong. It turns out by hashing; a file with the stamp that it had when it was hashed, before and after
/// its bytes are taken, is believed. (What a program writes through a mapping that it wrote to before leaves no new stamp.)
pub fn pack_after(
    changes: impl Into<Changes>,
    blob: impl Write + Send,
    options: &PackOptions,
    materialise: Option<&Materialise>,
    earlier: Earlier,
    needles: Option<&Needles>,
) -> Result<Packed, LayerError> {
    let mut changes = changes.into();
    if needles.is_some() {
        // All contents are to be looked at.
        changes.forget_stamps();
    }
    let (sources, earlier_tree) = earlier.split(options.compression);
    let tree = materialise.map(|m| Tree::of_changes(&m.root, m.tree));
    let mut tree = tree.transpose()?;
    if let (Some(tree), Some(earlier)) = (&mut tree, earlier_tree) {
        tree.take_from(earlier);
    }
    let mut vouched = Vec::new();
    let written = write(blob, options, &sources, needles, |blocks| {
        if options.compression != Compression::None {
            blocks.identify();
        }
        pack_all(&mut changes, options, blocks, tree.as_mut(), &mut vouched)
    })?;
    let mut table = changes.table;
    set_contents(&mut table, &vouched, written.contents)?;
    let notes = match tree {
        Some(tree) => tree.finish(Vec::new())?.1,
        None => Vec::new(),
    };
    let leaks = needles.map_or_else(Vec::new, |n| leaks(n, &table, &written.found));
    Ok(Packed {
        leaks,
        diff_id: written.diff_id,
        digest: written.digest,
        size_bytes: written.size_bytes,
        unpacked_size_bytes: written.unpacked_size_bytes,
        toc: table.into_toc(),
        media_type: options.compression.media_type(),
        notes,
        blocks: BlockTable::new(options.compression, written.blocks),
    })
}

/// Packs the layer that `toc` tells, whose files' contents are below `root`: an unpacked layer. All else is taken from the table,
/// so it does not matter what the tree could not have (owners, devices) or has besides. The bytes are those that [`pack()`] made
/// when it made the table.
///
/// A file that has not the content that the table says is an error; whether table and tree are the layer that was asked for, the
/// diffID says.
pub fn pack_tree(
    toc: &Toc,
    root: &Root,
    blob: impl Write + Send,
    options: &PackOptions,
) -> Result<Packed, LayerError> {
    let change = |entry: Entry| Change {
        source: match entry.kind {
            Kind::File { .. } => Source::File {
                root: Arc::clone(root.fd()),
                path: entry.path.clone(),
                stamp: None,
            },
            _ => Source::None,
        },
        entry,
    };
    pack(
        toc.entries().map(change).collect::<Changes>(),
        blob,
        options,
        None,
    )
}

/// Gives the files, in their order, what their contents were hashed to; those at the places `vouched` were not hashed. Fails if a file
/// has not the content that its entry promised.
fn set_contents(table: &mut Table, vouched: &[usize], hashed: Vec<Sum>) -> Result<(), LayerError> {
    let (mut vouched, mut hashed) = (vouched.iter().peekable(), hashed.into_iter());
    for at in 0..table.len() {
        let entry = table.at(at);
        let KindRef::File {
            size_bytes,
            content: promised,
        } = entry.kind
        else {
            continue;
        };
        if vouched.next_if_eq(&&at).is_some() {
            continue;
        }
        let Some(content) = hashed.next().map(Digest::from_sha256) else {
            break;
        };
        if promised.is_some_and(|promised| promised != content) {
            return Err(changed(entry.path, size_bytes));
        }
        table.set_content(at, &content);
    }
    Ok(())
}

/// What was found, by the files' paths.
fn leaks(needles: &Needles, table: &Table, found: &[Found]) -> Vec<Leak> {
    let entries = table.iter().map(|entry| entry.to_entry());
    let mut leaks: Vec<Leak> = entries.flat_map(|entry| needles.in_names(&entry)).collect();
    let is_file = |at: &usize| matches!(table.at(*at).kind, KindRef::File { .. });
    let files: Vec<usize> = (0..table.len()).filter(is_file).collect();
    leaks.extend(found.iter().map(|(content, secret, form)| {
        // A path that holds a secret is not shown.
        let path = table.at(files[*content]).path;
        Leak {
            secret: needles.name(*secret).to_owned(),
            form: *form,
            path: needles.find(path).is_empty().then(|| path.to_vec()),
        }
    }));
    leaks.dedup();
    leaks
}

fn pack_all(
    changes: &mut Changes,
    options: &PackOptions,
    blocks: &mut Blocks,
    mut tree: Option<&mut Tree>,
    vouched: &mut Vec<usize>,
) -> Result<(), Stop> {
    let mut header = Vec::new();
    for at in 0..changes.len() {
        let Change { mut entry, source } = changes.get(at);
        let mtime = options.times.of(entry.meta.mtime);
        if mtime != entry.meta.mtime {
            entry.meta.mtime = mtime;
            changes.table.set_mtime(at, mtime);
        }
        header.clear();
        write_header(&mut header, &entry)?;
        blocks.header(&header)?;
        let file = match &mut tree {
            Some(tree) => tree.put(entry.clone())?,
            None => None,
        };
        if let Kind::File {
            size_bytes,
            content,
        } = entry.kind
        {
            let what = (
                size_bytes,
                content.map_or(Expected::Unknown, Expected::Promised),
            );
            let expected = put_content(blocks, &entry.path, &source, what, file.as_ref())?;
            if matches!(expected, Expected::Vouched(_)) {
                vouched.push(at);
            }
        }
        if let (Some(tree), Some(file)) = (&mut tree, &file) {
            tree.finish_file(file)?;
        }
    }
    blocks.write(&[0; TRAILER_BYTES])?;
    blocks.end()
}

/// A file's content and padding; also into `copy`. Says what its content is known to hash to now.
fn put_content(
    blocks: &mut Blocks,
    path: &[u8],
    source: &Source,
    (size_bytes, mut expected): (u64, Expected),
    copy: Option<&File>,
) -> Result<Expected, Stop> {
    blocks.begin(size_bytes)?;
    match source {
        Source::File {
            root,
            path: at,
            stamp,
        } => {
            let file = open_file_read(root, at).map_err(|e| LayerError::file("open", at, e))?;
            let now = || file.metadata().map(|meta| FileStamp::of(&meta));
            let now = || now().map_err(|e| LayerError::file("look at", at, e));
            if let (Expected::Promised(digest), Some(_)) = (expected, stamp)
                && now()? == *stamp
            {
                expected = Expected::Vouched(digest);
            }
            stream(blocks, path, &file, (size_bytes, expected), copy)?;
            if matches!(expected, Expected::Vouched(_)) && now()? != *stamp {
                return Err(changed(path, size_bytes).into());
            }
        }
        Source::Bytes(bytes) => stream(blocks, path, &bytes[..], (size_bytes, expected), copy)?,
        Source::None => stream(blocks, path, io::empty(), (size_bytes, expected), copy)?,
    }
    blocks.write(&[0; 512][..padding_bytes(size_bytes)])?;
    Ok(expected)
}

fn changed(path: &[u8], expected_bytes: u64) -> LayerError {
    LayerError::Changed {
        path: text(path),
        expected_bytes,
    }
}

fn stream(
    blocks: &mut Blocks,
    path: &[u8],
    mut input: impl Read,
    (size_bytes, content): (u64, Expected),
    copy: Option<&File>,
) -> Result<(), Stop> {
    let changed = || changed(path, size_bytes);
    let mut left = size_bytes;
    // Whether the input has said that it is at its end: by giving less than was asked for.
    let mut ended = false;
    while left > 0 {
        // One byte more than there should be, where there is room: it tells a file that grows without another call.
        let wanted = usize::try_from(left).map_or(usize::MAX, |n| n.saturating_add(1));
        let spare = blocks.spare(wanted)?;
        let room = spare.len().min(wanted);
        let count = match input.read(&mut spare[..room]) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(LayerError::file("read", path, e).into()),
        };
        if count == 0 || count as u64 > left {
            return Err(changed().into());
        }
        if let Some(mut copy) = copy {
            let written = copy.write_all(&spare[..count]);
            written.map_err(|e| LayerError::file("write", path, e))?;
        }
        let offset = size_bytes - left;
        left -= count as u64;
        ended = left == 0 && count < room;
        blocks.filled(content, offset, count, left == 0);
    }
    if size_bytes == 0 {
        blocks.filled(content, 0, 0, true);
    }
    let mut more = [0];
    while !ended {
        match input.read(&mut more) {
            Ok(0) => ended = true,
            Ok(_) => return Err(changed().into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(LayerError::file("read", path, e).into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
