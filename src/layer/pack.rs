//! Changes to a blob, in one pass.
//!
//! ```text
//! changes ► read, tar ─┬► diffID
//!      └► tree         ├► digests of contents
//!                      └► compress (several threads) ─► in order: digest, write
//! ```
//!
//! Each column is a thread. The tar bytes are cut into blocks, which are shared and not copied; a fixed number of them bounds
//! the memory. Nothing in the bytes depends on the threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::compress::{BLOCK_BYTES, Encoder};
use super::entry::path_order;
use super::error::text;
use super::pipe::{Buffer, Piece, Pool, hash_contents, hash_stream};
use super::reuse::{Block, BlockTable, Earlier, EarlierBlocks, Identity};
use super::root::open_file_read;
use super::tar::{TRAILER_BYTES, padding_bytes, write_header};
use super::tree::Tree;
use super::unpack::join;
use super::{Change, Compression, Entry, Kind, LayerError, Note, Root, Source, Toc, TreeOptions};
use crate::oci::{DiffId, Digest, Hasher, MediaType};

/// Blocks beside those that the compressors hold: one is filled, one is hashed twice, two are written, two wait.
const SPARE_BLOCKS: usize = 6;

/// How a layer is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PackOptions {
    /// How the blob is compressed.
    pub compression: Compression,
    /// How many threads compress; 0 for one a core. The bytes do not depend on it.
    pub threads: usize,
    /// Later times become this one, seconds since 1970.
    pub clamp_mtime: Option<i64>,
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
    pub toc: Toc,
    /// What the blob is.
    pub media_type: MediaType,
    /// What could not be had in the tree.
    pub notes: Vec<Note>,
    /// The blob's blocks, for a later layer that is nearly the same.
    pub blocks: BlockTable,
}

/// Packs `changes`, in any order and each path once, into `blob`; with `materialise` also writes them as a tree.
///
/// `Ok` means that the whole blob was written and flushed, and the tree too. After an error both hold a part.
pub fn pack(
    changes: Vec<Change>,
    blob: impl Write + Send,
    options: &PackOptions,
    materialise: Option<&Materialise>,
) -> Result<Packed, LayerError> {
    pack_after(changes, blob, options, materialise, Earlier::default())
}

/// As [`pack()`], with the same result; what `earlier` has already is taken from there.
///
/// A file whose entry tells the digest of its content, and which turns out to have another, is an error: what was taken by
/// that digest would be wrong.
pub fn pack_after(
    mut changes: Vec<Change>,
    blob: impl Write + Send,
    options: &PackOptions,
    materialise: Option<&Materialise>,
    earlier: Earlier,
) -> Result<Packed, LayerError> {
    changes.sort_by(|a, b| path_order(&a.entry.path, &b.entry.path));
    let (earlier_blocks, earlier_tree) = earlier.split();
    let earlier_blocks = earlier_blocks.filter(|e| e.suits(options.compression));
    let tree = materialise.map(|m| Tree::new(&m.root, m.tree, None));
    let mut tree = tree.transpose()?;
    if let (Some(tree), Some(earlier)) = (&mut tree, earlier_tree) {
        tree.take_from(earlier);
    }
    let written = write(blob, options, earlier_blocks.as_ref(), |blocks| {
        blocks.identify();
        pack_all(changes, options, blocks, tree.as_mut())
    })?;
    check_contents(&written)?;
    let notes = match tree {
        Some(tree) => tree.finish(written.contents.clone())?.1,
        None => Vec::new(),
    };
    Ok(Packed {
        diff_id: written.diff_id,
        digest: written.digest,
        size_bytes: written.size_bytes,
        unpacked_size_bytes: written.unpacked_size_bytes,
        blocks: BlockTable::new(options.compression, written.blocks),
        toc: table(written.entries, written.contents),
        media_type: options.compression.media_type(),
        notes,
    })
}

/// Fails if a file has not the content that its entry promised.
fn check_contents(written: &Written) -> Result<(), LayerError> {
    let files = written.entries.iter().filter_map(|e| match e.kind {
        Kind::File {
            size_bytes,
            content,
        } => Some((&e.path, size_bytes, content)),
        _ => None,
    });
    for ((path, expected_bytes, promised), content) in files.zip(&written.contents) {
        if promised.is_some_and(|promised| promised != *content) {
            return Err(LayerError::Changed {
                path: text(path),
                expected_bytes,
            });
        }
    }
    Ok(())
}

/// A blob as it came out of the threads.
pub(super) struct Written {
    pub(super) diff_id: DiffId,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) unpacked_size_bytes: u64,
    entries: Vec<Entry>,
    contents: Vec<Digest>,
    blocks: Vec<Block>,
}

/// Runs the threads that take the blocks which `produce` fills.
pub(super) fn write(
    blob: impl Write + Send,
    options: &PackOptions,
    earlier: Option<&EarlierBlocks>,
    produce: impl FnOnce(&mut Blocks) -> Result<Vec<Entry>, Stop>,
) -> Result<Written, LayerError> {
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let pool = Pool::new(threads + SPARE_BLOCKS, BLOCK_BYTES);
    let encoders: io::Result<Vec<Option<Encoder>>> = (0..threads)
        .map(|_| Encoder::new(options.compression))
        .collect();
    let encoders: Vec<Encoder> = encoders
        .map_err(LayerError::Output)?
        .into_iter()
        .flatten()
        .collect();
    let plain = encoders.is_empty();
    thread::scope(|scope| {
        let (diff_out, diff_in) = channel();
        let (piece_out, piece_in) = channel();
        let (done_out, done_in) = channel();
        let blocks_out = if plain {
            Out::Plain(done_out)
        } else {
            let (work_out, work_in) = sync_channel(threads + SPARE_BLOCKS);
            // Each worker owns a share, so that the queue is gone when the last of them is.
            let work_in = Arc::new(Mutex::new(work_in));
            for encoder in encoders {
                let (work_in, done_out) = (Arc::clone(&work_in), done_out.clone());
                scope.spawn(move || compress(encoder, earlier, &work_in, &done_out));
            }
            // The writer waits for the last of those who could send.
            drop(done_out);
            Out::Compressed(work_out)
        };
        let diff = scope.spawn(move || hash_stream(&diff_in));
        let contents = scope.spawn(move || hash_contents(&piece_in));
        let writer = scope.spawn(move || write_blob(blob, &done_in, !plain));
        let mut blocks = Blocks {
            current: pool.take(),
            pool,
            parts: Vec::new(),
            number: 0,
            identity: None,
            diff: diff_out,
            contents: piece_out,
            out: blocks_out,
        };
        let packed = produce(&mut blocks);
        // Everything that the threads wait for ends here.
        drop(blocks);
        let written = join(writer);
        let (diff_id, unpacked_size_bytes) = join(diff);
        let contents = join(contents);
        let entries = match packed {
            Ok(entries) => entries,
            Err(Stop::Failed(e)) => return Err(*e),
            Err(Stop::NobodyReads) => {
                let why = written.err();
                let why = why.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
                return Err(LayerError::Output(why));
            }
        };
        let (digest, size_bytes, blocks) = written.map_err(LayerError::Output)?;
        Ok(Written {
            diff_id: DiffId(diff_id),
            digest: digest.unwrap_or(diff_id),
            size_bytes,
            unpacked_size_bytes,
            entries,
            contents,
            blocks,
        })
    })
}

/// The table of what was packed; `contents` are in the order of the files.
fn table(mut entries: Vec<Entry>, contents: Vec<Digest>) -> Toc {
    let mut sums = contents.into_iter();
    for entry in &mut entries {
        if let Kind::File { content, .. } = &mut entry.kind {
            *content = sums.next();
        }
    }
    Toc::from_entries(entries)
}

/// Why packing stopped early.
pub(super) enum Stop {
    Failed(Box<LayerError>),
    /// The writer has failed and knows why.
    NobodyReads,
}

impl From<LayerError> for Stop {
    fn from(error: LayerError) -> Stop {
        Stop::Failed(Box::new(error))
    }
}

fn pack_all(
    changes: Vec<Change>,
    options: &PackOptions,
    blocks: &mut Blocks,
    mut tree: Option<&mut Tree>,
) -> Result<Vec<Entry>, Stop> {
    let mut entries = Vec::with_capacity(changes.len());
    let mut header = Vec::new();
    for Change { mut entry, source } in changes {
        if let Some(latest) = options.clamp_mtime {
            entry.meta.mtime = entry.meta.mtime.min(latest);
        }
        header.clear();
        write_header(&mut header, &entry)?;
        blocks.write(&header)?;
        let file = match &mut tree {
            Some(tree) => tree.put(entry.clone())?,
            None => None,
        };
        if let Kind::File {
            size_bytes,
            content,
        } = entry.kind
        {
            blocks.content(&entry.path, &source, (size_bytes, content), file.as_ref())?;
        }
        if let (Some(tree), Some(file)) = (&mut tree, &file) {
            tree.finish_file(file)?;
        }
        entries.push(entry);
    }
    blocks.write(&[0; TRAILER_BYTES])?;
    blocks.send()?;
    Ok(entries)
}

/// Where full blocks go.
enum Out {
    Plain(Sender<Done>),
    Compressed(SyncSender<Filled>),
}

/// A block to be compressed: its number, its bytes, and what they are if that is known.
type Filled = (u64, Arc<Buffer>, Option<Digest>);

/// A block as it is to be written: compressed, or as it is. The buffer is held until then, so that the pool bounds both.
struct Done {
    number: u64,
    encoded: io::Result<Option<Vec<u8>>>,
    block: Arc<Buffer>,
    identity: Option<Digest>,
}

/// Cuts the tar into blocks and hands them on.
pub(super) struct Blocks {
    pool: Arc<Pool>,
    current: Buffer,
    /// What of the current block is content of files.
    parts: Vec<(Range<usize>, bool)>,
    number: u64,
    /// What the current block is; `None` where nobody asks.
    identity: Option<Identity>,
    diff: Sender<Arc<Buffer>>,
    contents: Sender<Piece>,
    out: Out,
}

impl Blocks {
    /// Tells the blocks by what they hold from here on.
    fn identify(&mut self) {
        if matches!(self.out, Out::Compressed(_)) {
            self.identity = Some(Identity::default());
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let spare = self.spare()?;
            let count = spare.len().min(bytes.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            self.current.advance(count);
            if let Some(identity) = &mut self.identity {
                identity.bytes(&bytes[..count]);
            }
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Room in the current block, never none.
    fn spare(&mut self) -> Result<&mut [u8], Stop> {
        if self.current.is_full() {
            self.send()?;
        }
        Ok(self.current.spare())
    }

    pub(super) fn send(&mut self) -> Result<(), Stop> {
        let parts = std::mem::take(&mut self.parts);
        if self.current.is_empty() {
            return Ok(());
        }
        let next = self.pool.take();
        let block = Arc::new(std::mem::replace(&mut self.current, next));
        let number = self.number;
        self.number += 1;
        let gone = |_| Stop::NobodyReads;
        if !parts.is_empty() {
            let piece = Piece::Parts(Arc::clone(&block), parts);
            self.contents.send(piece).map_err(|_| Stop::NobodyReads)?;
        }
        self.diff.send(Arc::clone(&block)).map_err(gone)?;
        let identity = self.identity.as_mut().and_then(Identity::take);
        let sent = match &self.out {
            Out::Plain(out) => {
                let encoded = Ok(None);
                let done = Done {
                    number,
                    encoded,
                    block,
                    identity,
                };
                out.send(done).is_ok()
            }
            Out::Compressed(out) => out.send((number, block, identity)).is_ok(),
        };
        if sent { Ok(()) } else { Err(Stop::NobodyReads) }
    }

    /// A file's content and padding; also into `copy`.
    fn content(
        &mut self,
        path: &[u8],
        source: &Source,
        (size_bytes, content): (u64, Option<Digest>),
        copy: Option<&File>,
    ) -> Result<(), Stop> {
        let file = (size_bytes, content);
        match source {
            Source::File { root, path: at } => {
                let input =
                    open_file_read(root, at).map_err(|e| LayerError::file("open", at, e))?;
                self.stream(path, input, file, copy)?;
            }
            Source::Bytes(bytes) => self.stream(path, &bytes[..], file, copy)?,
            Source::None => self.stream(path, io::empty(), file, copy)?,
        }
        self.write(&[0; 512][..padding_bytes(size_bytes)])
    }

    fn stream(
        &mut self,
        path: &[u8],
        mut input: impl Read,
        (size_bytes, content): (u64, Option<Digest>),
        copy: Option<&File>,
    ) -> Result<(), Stop> {
        let changed = || LayerError::Changed {
            path: text(path),
            expected_bytes: size_bytes,
        };
        let mut left = size_bytes;
        // Whether the input has said that it is at its end: by giving less than was asked for.
        let mut ended = false;
        while left > 0 {
            let spare = self.spare()?;
            // One byte more than there should be, where there is room: it tells a file that grows without another call.
            let wanted = usize::try_from(left).map_or(usize::MAX, |n| n.saturating_add(1));
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
            if let Some(identity) = &mut self.identity {
                identity.content(content.as_ref(), size_bytes - left, count as u64);
            }
            left -= count as u64;
            ended = left == 0 && count < room;
            let start = self.current.len();
            self.current.advance(count);
            self.parts.push((start..start + count, left == 0));
        }
        if size_bytes == 0 {
            let here = self.current.len();
            self.parts.push((here..here, true));
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
}

/// A worker: compresses blocks until there are no more, or nobody wants them.
fn compress(
    mut encoder: Encoder,
    earlier: Option<&EarlierBlocks>,
    work: &Mutex<Receiver<Filled>>,
    done: &Sender<Done>,
) {
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, block, identity)) = next else {
            return;
        };
        let made = earlier.zip(identity.as_ref());
        let encoded = match made.and_then(|(earlier, identity)| earlier.get(identity)) {
            Some(bytes) => Ok(Some(bytes)),
            None => {
                let mut out = Vec::new();
                encoder.encode(&block, &mut out).map(|()| Some(out))
            }
        };
        let encoded = Done {
            number,
            encoded,
            block,
            identity,
        };
        if done.send(encoded).is_err() {
            return;
        }
    }
}

/// Writes blocks in their order; gives their digest if asked to, how many bytes they are, and those that were compressed.
fn write_blob(
    mut blob: impl Write,
    done: &Receiver<Done>,
    hash: bool,
) -> io::Result<(Option<Digest>, u64, Vec<Block>)> {
    let mut blocks = Vec::new();
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    let mut size_bytes = 0;
    let mut hasher = hash.then(Hasher::sha256);
    for done in done {
        waiting.insert(done.number, (done.encoded?, done.block, done.identity));
        while let Some((encoded, block, identity)) = waiting.remove(&next) {
            if let Some(bytes) = &encoded {
                blocks.push(Block {
                    identity,
                    size_bytes: u32::try_from(bytes.len()).map_err(io::Error::other)?,
                    crc32: libdeflater::crc32(bytes),
                });
            }
            let bytes: &[u8] = encoded.as_deref().unwrap_or(&block);
            blob.write_all(bytes)?;
            if let Some(hasher) = &mut hasher {
                hasher.update(bytes);
            }
            size_bytes += bytes.len() as u64;
            next += 1;
        }
    }
    blob.flush()?;
    Ok((hasher.map(Hasher::finish), size_bytes, blocks))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::layer::Meta;

    fn file(path: &str, size_bytes: u64, source: Source) -> Change {
        let kind = Kind::File {
            size_bytes,
            content: None,
        };
        let entry = Entry {
            path: path.into(),
            meta: Meta {
                mode: 0o644,
                mtime: 100,
                ..Meta::default()
            },
            kind,
        };
        Change { entry, source }
    }

    fn bytes(path: &str, content: &[u8]) -> Change {
        file(path, content.len() as u64, Source::Bytes(content.into()))
    }

    /// Files around the size of a block, and many small ones.
    fn changes() -> Vec<Change> {
        let noise =
            |n: usize| -> Vec<u8> { (0..n).map(|at| ((at * at) >> 7).to_le_bytes()[0]).collect() };
        let sizes = [
            0,
            1,
            511,
            512,
            513,
            BLOCK_BYTES - 512,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            5_000_000,
        ];
        let large = sizes
            .iter()
            .map(|n| bytes(&format!("large-{n}"), &noise(*n)));
        let small = (0..500).map(|n| bytes(&format!("small-{n}"), &noise(n)));
        large.chain(small).collect()
    }

    fn packed(compression: Compression, threads: usize) -> (Packed, Vec<u8>) {
        let options = PackOptions {
            compression,
            threads,
            clamp_mtime: None,
        };
        let mut blob = Vec::new();
        (pack(changes(), &mut blob, &options, None).unwrap(), blob)
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_order() {
        for compression in [
            Compression::None,
            Compression::default(),
            Compression::zstd(None).unwrap(),
        ] {
            let (one, blob) = packed(compression, 1);
            assert_eq!(one.digest, Digest::of(&blob));
            assert_eq!(one.size_bytes, blob.len() as u64);
            for threads in [2, 5, 0] {
                let (more, other) = packed(compression, threads);
                assert_eq!((more.digest, more.diff_id), (one.digest, one.diff_id));
                assert!(other == blob);
            }
            let mut reversed = changes();
            reversed.reverse();
            let options = PackOptions {
                compression,
                ..PackOptions::default()
            };
            assert_eq!(
                pack(reversed, io::sink(), &options, None).unwrap().digest,
                one.digest
            );
        }
    }

    #[test]
    fn contents_are_hashed_right_across_blocks() {
        let (packed, _) = packed(Compression::None, 1);
        for change in changes() {
            let Source::Bytes(content) = &change.source else {
                panic!()
            };
            let found = packed.toc.get(&change.entry.path).unwrap();
            let size_bytes = content.len() as u64;
            let content = Some(Digest::of(content));
            assert_eq!(
                found.kind,
                Kind::File {
                    size_bytes,
                    content
                }
            );
        }
    }

    #[test]
    fn other_tools_read_the_blobs() {
        let (plain, tar) = packed(Compression::None, 1);
        assert_eq!(plain.digest, plain.diff_id.0);
        for (compression, tool) in [
            (Compression::default(), "gzip"),
            (Compression::zstd(None).unwrap(), "zstd"),
        ] {
            let (_, blob) = packed(compression, 2);
            let home = tempfile::tempdir().unwrap();
            std::fs::write(home.path().join("blob"), blob).unwrap();
            let input = File::open(home.path().join("blob")).unwrap();
            let out = Command::new(tool)
                .arg("-dc")
                .stdin(input)
                .stderr(Stdio::inherit())
                .output()
                .unwrap();
            assert!(out.status.success() && out.stdout == tar, "{tool}");
        }
        let mut listed = 0;
        let mut reader = ::tar::Archive::new(&tar[..]);
        for entry in reader.entries().unwrap() {
            assert!(entry.unwrap().header().entry_type().is_file());
            listed += 1;
        }
        assert_eq!(listed, changes().len());
    }

    #[test]
    fn a_file_that_changes_is_named() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("f"), [7; 1000]).unwrap();
        let root = Root::open(home.path()).unwrap();
        let source = Source::File {
            root: Arc::clone(root.fd()),
            path: b"f".to_vec(),
        };
        for (size, fine) in [(1000, true), (999, false), (1001, false), (0, false)] {
            let result = pack(
                vec![file("f", size, source.clone())],
                io::sink(),
                &PackOptions::default(),
                None,
            );
            match result {
                Ok(_) => assert!(fine),
                Err(LayerError::Changed { path, .. }) => assert!(!fine && path == "f"),
                Err(other) => panic!("{other:?}"),
            }
        }
        let gone = Source::File {
            root: Arc::clone(root.fd()),
            path: b"none".to_vec(),
        };
        let result = pack(
            vec![file("f", 1, gone)],
            io::sink(),
            &PackOptions::default(),
            None,
        );
        assert!(matches!(result, Err(LayerError::File { .. })));
    }

    #[test]
    fn a_blob_that_cannot_be_written_is_an_error() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(bytes.len())
                    .ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for compression in [Compression::None, Compression::default()] {
            for room in [0, 100_000] {
                let options = PackOptions {
                    compression,
                    ..PackOptions::default()
                };
                let result = pack(changes(), Full(room), &options, None);
                match result {
                    Err(LayerError::Output(e)) => assert_eq!(e.kind(), io::ErrorKind::StorageFull),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn times_can_be_clamped() {
        let options = PackOptions {
            clamp_mtime: Some(50),
            ..PackOptions::default()
        };
        let packed = pack(vec![bytes("f", b"x")], io::sink(), &options, None).unwrap();
        assert_eq!(packed.toc.get(b"f").unwrap().meta.mtime, 50);
    }
}
