//! A blob to a tree, in one pass.
//!
//! ```text
//! input ► read, digest ─► decompress ─┬► diffID
//!                                     └► tar ─┬► files
//!                                             └► digests of contents
//! ```
//!
//! Each column is a thread; a few buffers between them bound the memory.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::pipe::{Buffer, Piece, Pool, Sum, hash_contents, hash_stream};
use super::tar::{Data, Member, TarReader, WhiteoutNames};
use super::tree::Tree;
use super::{Decoder, Entry, Kind, LayerError, Note, Root, Stack, Toc, TreeOptions};
use crate::oci::{DiffId, Digest, Hasher};

/// What goes from thread to thread at a time: it fits the caches of two cores.
const BUFFER_BYTES: usize = 256 << 10;

/// How many buffers may wait between two threads; with those in use, a few MiB.
const QUEUE: usize = 6;

/// How a layer is unpacked.
#[derive(Clone, Debug)]
pub struct UnpackOptions<'a> {
    /// How the tree is written.
    pub tree: TreeOptions,
    /// Whether names like `.wh.x` mean something.
    pub names: WhiteoutNames,
    /// The most that the layer may unpack to, holes of sparse files included, bytes.
    pub limit_bytes: u64,
    /// The layers below, for one that leans on them ([`Toc::leans_on_lower`]): missing parents look as they do there, and hard
    /// links to their files become copies.
    pub below: Option<Below<'a>>,
}

/// Layers that are unpacked already.
#[derive(Clone, Copy, Debug)]
pub struct Below<'a> {
    /// What they say.
    pub stack: &'a Stack,
    /// Their trees, in the order of the stack's layers.
    pub roots: &'a [Root],
}

/// What was unpacked. The files are written but not synced.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// The digest of the bytes as they were given.
    pub digest: Digest,
    /// How many bytes were given.
    pub size_bytes: u64,
    /// How many they are uncompressed.
    pub unpacked_size_bytes: u64,
    /// What the layer holds, with the digests of all contents.
    pub toc: Toc,
    /// What could not be had.
    pub notes: Vec<Note>,
}

/// Unpacks the layer that `input` gives, compressed or not, into the directory `target`: empty for an overlay lower directory,
/// what earlier layers left for [`super::Whiteouts::Apply`].
///
/// `Ok` means that the input was read to its end and everything in it is in the tree. The caller compares the digests. After
/// an error the tree holds a part of the layer. Nothing outside of `target` is touched, whatever the input holds.
pub fn unpack(
    input: impl Read + Send,
    target: &Root,
    options: &UnpackOptions,
) -> Result<Unpacked, LayerError> {
    let tree = Tree::new(target, options.tree, options.below)?;
    let limit_bytes = options.limit_bytes;
    let passed = pass(input, options.names, limit_bytes, |tar| {
        write_tree(tree, tar, limit_bytes)
    })?;
    let (toc, notes) = passed.result.finish(passed.contents)?;
    Ok(Unpacked {
        diff_id: passed.diff_id,
        digest: passed.digest,
        size_bytes: passed.size_bytes,
        unpacked_size_bytes: passed.unpacked_size_bytes,
        toc,
        notes,
    })
}

/// What one pass over a blob came to.
pub(super) struct Passed<T> {
    /// What the reader of the tar gave.
    pub(super) result: T,
    /// The digests of the contents that it went through, in their order.
    pub(super) contents: Vec<Sum>,
    pub(super) diff_id: DiffId,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) unpacked_size_bytes: u64,
}

/// Reads a blob to its end, each column of the picture above on its own thread; `read` has the tar.
pub(super) fn pass<T>(
    input: impl Read + Send,
    names: WhiteoutNames,
    limit_bytes: u64,
    read: impl FnOnce(TarReader<Source>) -> Result<T, LayerError>,
) -> Result<Passed<T>, LayerError> {
    let blobs = Pool::new(QUEUE + 2, BUFFER_BYTES);
    let tars = Pool::new(QUEUE * 2 + 3, BUFFER_BYTES);
    thread::scope(|scope| {
        let (blob_out, blob_in) = sync_channel(QUEUE);
        let (diff_out, diff_in) = sync_channel(QUEUE);
        let (tar_out, tar_in) = sync_channel(QUEUE);
        let (piece_out, piece_in) = sync_channel(QUEUE);
        let feed = scope.spawn(move || feed(input, &blobs, &blob_out));
        scope.spawn(move || inflate(blob_in, limit_bytes, &tars, &diff_out, &tar_out));
        let diff = scope.spawn(move || hash_stream(&diff_in));
        let contents = scope.spawn(move || hash_contents(&piece_in));
        let source = Source::new(tar_in, piece_out);
        // The source is dropped when this returns, which ends the other threads one after another.
        let result = read(TarReader::new(source, names));
        let contents = join(contents);
        let (digest, size_bytes) = join(feed);
        let (diff_id, unpacked_size_bytes) = join(diff);
        Ok(Passed {
            result: result?,
            contents,
            diff_id: DiffId(diff_id),
            digest,
            size_bytes,
            unpacked_size_bytes,
        })
    })
}

/// A thread's result; its panic becomes ours.
pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<T>) -> T {
    let result = thread.join();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

type Filled = io::Result<Arc<Buffer>>;

/// Fills a buffer; an empty one is the end.
fn fill(input: &mut impl Read, pool: &Arc<Pool>) -> io::Result<Buffer> {
    let mut buffer = pool.take();
    while !buffer.is_full() {
        match input.read(buffer.spare(usize::MAX)) {
            Ok(0) => break,
            Ok(count) => buffer.advance(count),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(buffer)
}

fn feed(mut input: impl Read, pool: &Arc<Pool>, out: &SyncSender<Filled>) -> (Digest, u64) {
    let mut hasher = Hasher::sha256();
    let mut size_bytes = 0;
    loop {
        let filled = fill(&mut input, pool).map(Arc::new);
        let last = match &filled {
            Ok(buffer) => {
                hasher.update(buffer);
                size_bytes += buffer.len() as u64;
                buffer.is_empty()
            }
            Err(_) => true,
        };
        // An error the other way is that nobody listens any more, and they know why.
        if out.send(filled).is_err() || last {
            return (hasher.finish(), size_bytes);
        }
    }
}

fn inflate(
    blob: Receiver<Filled>,
    limit_bytes: u64,
    pool: &Arc<Pool>,
    diff: &SyncSender<Arc<Buffer>>,
    tar: &SyncSender<Filled>,
) {
    let mut source = Blob {
        blob,
        current: None,
        at: 0,
    };
    let mut decoder = match Decoder::new(&mut source, limit_bytes) {
        Ok(decoder) => decoder,
        Err(e) => {
            // As in `feed`.
            let _gone = tar.send(Err(e));
            return;
        }
    };
    loop {
        let filled = fill(&mut decoder, pool).map(Arc::new);
        if let Ok(buffer) = &filled {
            if buffer.is_empty() {
                break;
            }
            if diff.send(Arc::clone(buffer)).is_err() {
                return;
            }
        }
        let failed = filled.is_err();
        if tar.send(filled).is_err() || failed {
            return;
        }
    }
    drop(decoder);
    // The digest is that of all bytes, also of those that the decompressor has no use for.
    if let Err(e) = io::copy(&mut source, &mut io::sink()) {
        let _gone = tar.send(Err(e));
    }
}

/// Reads the buffers of a blob.
struct Blob {
    blob: Receiver<Filled>,
    current: Option<Arc<Buffer>>,
    at: usize,
}

impl Read for Blob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.current.as_deref().map(|b| &b[self.at..]);
            if let Some(rest) = rest.filter(|r| !r.is_empty()) {
                let count = rest.len().min(out.len());
                out[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                return Ok(count);
            }
            match self.blob.recv() {
                Ok(next) => (self.current, self.at) = (Some(next?), 0),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// The uncompressed buffers, and what of them is the content of files.
pub(super) struct Source {
    tar: Receiver<Filled>,
    contents: SyncSender<Piece>,
    current: Option<Arc<Buffer>>,
    at: usize,
    parts: Vec<(Range<usize>, bool)>,
}

impl Source {
    fn new(tar: Receiver<Filled>, contents: SyncSender<Piece>) -> Source {
        Source {
            tar,
            contents,
            current: None,
            at: 0,
            parts: Vec::new(),
        }
    }

    /// Says that the next `count` bytes are content.
    fn mark(&mut self, count: usize) {
        self.parts.push((self.at..self.at + count, false));
    }

    /// Says that a content has ended.
    fn end(&mut self) {
        if let Some((_, last)) = self.parts.last_mut().filter(|(_, last)| !*last) {
            *last = true;
        } else {
            self.send();
            self.piece(Piece::End);
        }
    }

    fn send(&mut self) {
        if let Some(buffer) = self.current.as_ref().filter(|_| !self.parts.is_empty()) {
            let piece = Piece::Parts(Arc::clone(buffer), std::mem::take(&mut self.parts));
            self.piece(piece);
        }
    }

    fn piece(&self, piece: Piece) {
        let sent = self.contents.send(piece);
        debug_assert!(sent.is_ok(), "the hashing thread ends after this one");
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|b| self.at == b.len()) {
            self.send();
            self.current = None;
            self.at = 0;
            if let Ok(next) = self.tar.recv() {
                self.current = Some(next?);
            }
        }
        Ok(self.current.as_deref().map_or(&[], |b| &b[self.at..]))
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

fn write_tree<'a>(
    mut tree: Tree<'a>,
    mut tar: TarReader<Source>,
    limit_bytes: u64,
) -> Result<Tree<'a>, LayerError> {
    let mut holes_left = limit_bytes;
    while let Some(member) = tar.next_member().map_err(unwrap_limit)? {
        match member {
            Member::Opaque(dir) => tree.opaque(&dir)?,
            Member::Entry(entry) => {
                let path = entry.path.clone();
                let size_bytes = content_size(&entry);
                if let Some(file) = tree.put(entry)? {
                    content(
                        Some(&file),
                        &path,
                        size_bytes,
                        &mut tar,
                        &mut holes_left,
                        limit_bytes,
                    )?;
                    tree.finish_file(&file)?;
                }
            }
        }
    }
    tar.drain().map_err(unwrap_limit)?;
    Ok(tree)
}

pub(super) fn content_size(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size_bytes, .. } => size_bytes,
        _ => 0,
    }
}

/// Goes through the content of the member that was read last: it is hashed, and written to `file`, if any.
pub(super) fn content(
    mut file: Option<&File>,
    path: &[u8],
    size_bytes: u64,
    tar: &mut TarReader<Source>,
    holes_left: &mut u64,
    limit_bytes: u64,
) -> Result<(), LayerError> {
    let failed = |e| LayerError::file("write", path, e);
    let mut ends_in_hole = false;
    loop {
        match tar.data().map_err(unwrap_limit)? {
            Data::Bytes(bytes) => {
                if let Some(file) = &mut file {
                    file.write_all(bytes).map_err(failed)?;
                }
                let count = bytes.len();
                tar.inner_mut().mark(count);
                tar.consume(count);
                ends_in_hole = false;
            }
            Data::Hole(count) => {
                let left = holes_left.checked_sub(count);
                *holes_left = left.ok_or(LayerError::Limit { limit_bytes })?;
                let step = i64::try_from(count).map_err(|_| LayerError::Limit { limit_bytes })?;
                if let Some(file) = &mut file {
                    file.seek(SeekFrom::Current(step)).map_err(failed)?;
                }
                tar.inner_mut().send();
                tar.inner_mut().piece(Piece::Zeros(count));
                ends_in_hole = true;
            }
            Data::End => break,
        }
    }
    if ends_in_hole {
        if let Some(file) = file {
            file.set_len(size_bytes).map_err(failed)?;
        }
        tar.inner_mut().piece(Piece::End);
    } else {
        tar.inner_mut().end();
    }
    Ok(())
}

/// The decompressor's limit comes through readers, as the inside of an I/O error.
pub(super) fn unwrap_limit(error: LayerError) -> LayerError {
    match error {
        LayerError::Input {
            offset_bytes,
            source,
        } => match source.downcast::<LayerError>() {
            Ok(inner) => inner,
            Err(source) => LayerError::Input {
                offset_bytes,
                source,
            },
        },
        other => other,
    }
}

#[cfg(test)]
mod tests;
