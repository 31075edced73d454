//! A tar cut into blocks, and what makes a blob of them.
//!
//! ```text
//! Blocks ─┬► diffID
//!         ├► digests of contents ┬ if that says what the block is
//!         └──────────────────────┴► compress (several threads) ─► in order: digest, write
//! ```
//!
//! Each of these is a thread. They start with the second block: a layer of less is done where it was made, since the threads
//! would cost more than their work. Blocks are shared and not copied; a fixed number of them bounds the memory.
//!
//! Where a block ends depends on the tar alone, and as little as can be on what came before: a large file begins one, and
//! among small files the name of an entry decides. So what has not changed since an earlier layer comes in the same blocks, and
//! [`super::reuse`] has them compressed, and, up to the first that has changed, hashed; and a large file comes in the blocks that it
//! has in another layer, which [`super::twins`] has compressed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::compress::{BLOCK_BYTES, Encoder};
use super::leaks::Needles;
use super::look::{Found, Look, Looker, Parts, look};
use super::pipe::{Buffer, Pool, Sum};
use super::reuse::{Block, EarlierBlocks, Identity, Kept, Sources};
use super::tar::{OPAQUE, field};
use super::twins::{BlobTwins, Finder};
use super::unpack::join;
use super::{LayerError, PackOptions};
use crate::oci::{DiffId, Digest, HashState, Hasher};

/// Blocks beside those that the compressors hold: one is filled, one is hashed twice, one is written, two wait.
const SPARE_BLOCKS: usize = 5;

/// From here on the name of an entry may end a block: less would compress badly. Another value gives other blobs.
const LEAST_BYTES: usize = BLOCK_BYTES / 2;

/// One name in so many ends a block. Another value gives other blobs.
const CUT_BY: u32 = 16;

/// How many there are for this process, asked once: it takes reading what control groups allow.
static CORES: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

/// A blob that was made of blocks.
pub(super) struct Written {
    pub(super) diff_id: DiffId,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) unpacked_size_bytes: u64,
    /// Of the contents that were hashed.
    pub(super) contents: Vec<Sum>,
    pub(super) blocks: Vec<Block>,
    /// In which content which secret is.
    pub(super) found: Vec<Found>,
}

/// What a content hashes to, before it was read.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// Nobody knows.
    Unknown,
    /// This, which is to be seen.
    Promised(Digest),
    /// This. It is not hashed again.
    Vouched(Digest),
}

impl Expected {
    fn digest(&self) -> Option<&Digest> {
        match self {
            Expected::Unknown => None,
            Expected::Promised(digest) | Expected::Vouched(digest) => Some(digest),
        }
    }
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

/// Makes a blob of the blocks that `produce` fills.
pub(super) fn write(
    blob: impl Write + Send,
    options: &PackOptions,
    sources: &Sources,
    needles: Option<&Needles>,
    produce: impl FnOnce(&mut Blocks) -> Result<(), Stop>,
) -> Result<Written, LayerError> {
    let threads = match options.threads {
        0 => *CORES,
        n => n,
    };
    let outs = Outs::default();
    thread::scope(|scope| {
        let (blob, line) = (RefCell::new(Some(blob)), Cell::new(None));
        let start = || {
            let mut coders = Vec::new();
            for _ in 0..threads {
                let encoder = Encoder::new(options.compression)?;
                let outs = &outs;
                coders.extend(encoder.map(|encoder| Coder {
                    encoder,
                    earlier: sources.earlier.as_ref(),
                    twins: sources.twins.as_ref().map(BlobTwins::finder),
                    outs,
                }));
            }
            let blob = blob.take().expect("threads start once");
            let (pipe, threads) = start(scope, coders, blob, (&outs, needles, sources));
            line.set(Some(threads));
            Ok(pipe)
        };
        let pool = Pool::new(threads + SPARE_BLOCKS, BLOCK_BYTES);
        let mut blocks = Blocks {
            current: pool.take(),
            pool,
            parts: Vec::new(),
            number: 0,
            identity: None,
            pipe: None,
            start: &start,
        };
        let packed = produce(&mut blocks);
        let Blocks {
            current,
            parts,
            identity,
            pipe,
            ..
        } = blocks;
        // All that the threads wait for ends here.
        drop(pipe);
        match (line.take(), blob.take()) {
            (Some(line), _) => line.end(packed),
            (None, Some(blob)) => alone(
                (current, parts, identity),
                blob,
                options,
                (&outs, needles),
                packed,
            ),
            (None, None) => Err(LayerError::Output(io::ErrorKind::BrokenPipe.into())),
        }
    })
}

/// Makes a blob of one block.
fn alone(
    (block, parts, mut identity): (Buffer, Parts, Option<Identity>),
    mut blob: impl Write,
    options: &PackOptions,
    (outs, needles): (&Outs, Option<&Needles>),
    packed: Result<(), Stop>,
) -> Result<Written, LayerError> {
    match packed {
        Ok(()) => {}
        Err(Stop::Failed(e)) => return Err(*e),
        Err(Stop::NobodyReads) => {
            return Err(LayerError::Output(io::ErrorKind::BrokenPipe.into()));
        }
    }
    let block = Arc::new(block);
    let mut looker = Looker::new(needles);
    looker.see(&block, &parts, identity.as_mut());
    let (contents, found) = looker.finish();
    let diff_id = Digest::of(&block);
    let unpacked_size_bytes = block.len() as u64;
    let encoder = Encoder::new(options.compression).map_err(LayerError::Output)?;
    let hash = encoder.is_some();
    // Looking for so little would take longer than making it.
    let coder = encoder.map(|encoder| Coder {
        encoder,
        earlier: None,
        twins: None,
        outs,
    });
    let (sender, done) = channel();
    let identity = identity.map(Identity::finish);
    let coded = coder
        .map(|mut coder| coder.encode(&block, identity))
        .transpose();
    if !block.is_empty() {
        let _sent = sender.send(Done {
            number: 0,
            coded,
            block,
        });
    }
    drop(sender);
    let blob = write_blob(&mut blob, &done, hash, outs, None).map_err(LayerError::Output)?;
    Ok(Written {
        diff_id: DiffId(diff_id),
        digest: blob.digest.unwrap_or(diff_id),
        size_bytes: blob.size_bytes,
        unpacked_size_bytes,
        contents,
        blocks: blob.blocks,
        found,
    })
}

/// What is known of a tar.
struct Tar {
    digest: Digest,
    size_bytes: u64,
    /// Where its hash was after each block.
    states: Vec<Option<HashState>>,
}

/// Hashes a tar, block by block; the blocks that it has in common with the start of an earlier one need not be hashed.
fn hash_tar(
    blocks: &Receiver<(Arc<Buffer>, Option<Digest>)>,
    mut earlier: Option<&EarlierBlocks>,
) -> Tar {
    let (mut hasher, mut size_bytes, mut states) = (Hasher::sha256(), 0, Vec::new());
    for (block, identity) in blocks {
        size_bytes += block.len() as u64;
        let same = earlier.zip(identity);
        let same =
            same.and_then(|(earlier, identity)| earlier.state_after(states.len(), &identity));
        if let Some(state) = same {
            hasher = Hasher::resume(&state);
        } else {
            earlier = None;
            hasher.update(&block);
        }
        states.push(hasher.state());
    }
    Tar {
        digest: hasher.finish(),
        size_bytes,
        states,
    }
}

/// The threads.
struct Line<'scope> {
    diff: ScopedJoinHandle<'scope, Tar>,
    contents: ScopedJoinHandle<'scope, (Vec<Sum>, Vec<Found>)>,
    writer: ScopedJoinHandle<'scope, io::Result<Blob>>,
}

/// Where full blocks go.
struct Pipe {
    diff: Sender<(Arc<Buffer>, Option<Digest>)>,
    contents: Sender<Look>,
    out: Out,
}

enum Out {
    Plain(Sender<Done>),
    Compressed(SyncSender<Filled>),
}

/// A block to be compressed: its number, its bytes, and what it is.
pub(super) type Filled = (u64, Arc<Buffer>, Option<Digest>);

/// A block as it is to be written: compressed, or as it is. The buffer is held until then, so that the pool bounds both.
struct Done {
    number: u64,
    coded: io::Result<Option<Coded>>,
    block: Arc<Buffer>,
}

fn start<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    coders: Vec<Coder<'env>>,
    blob: impl Write + Send + 'scope,
    (outs, needles, sources): (&'env Outs, Option<&'env Needles>, &'env Sources),
) -> (Pipe, Line<'scope>) {
    let (diff, diff_in) = channel();
    let (contents, look_in) = channel();
    let (done_out, done_in) = channel();
    let hash = !coders.is_empty();
    let out = if hash {
        let (work_out, work_in) = sync_channel::<Filled>(coders.len() + SPARE_BLOCKS);
        // Each worker owns a share, so that the queue is gone when the last of them is.
        let work_in = Arc::new(Mutex::new(work_in));
        for coder in coders {
            let (work_in, done_out) = (Arc::clone(&work_in), done_out.clone());
            scope.spawn(move || compress(coder, &work_in, &done_out));
        }
        // The writer waits for the last of those who could send.
        drop(done_out);
        Out::Compressed(work_out)
    } else {
        Out::Plain(done_out)
    };
    let work = match &out {
        Out::Compressed(work) => Some(work.clone()),
        Out::Plain(_) => None,
    };
    let line = Line {
        diff: scope.spawn(move || hash_tar(&diff_in, sources.earlier.as_ref())),
        contents: scope.spawn(move || look(&look_in, needles, work)),
        writer: scope.spawn(move || write_blob(blob, &done_in, hash, outs, sources.twins.as_ref())),
    };
    let pipe = Pipe {
        diff,
        contents,
        out,
    };
    (pipe, line)
}

impl Line<'_> {
    fn end(self, packed: Result<(), Stop>) -> Result<Written, LayerError> {
        let written = join(self.writer);
        let tar = join(self.diff);
        let (contents, found) = join(self.contents);
        match packed {
            Ok(()) => {}
            Err(Stop::Failed(e)) => return Err(*e),
            Err(Stop::NobodyReads) => {
                let why = written.err();
                let why = why.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
                return Err(LayerError::Output(why));
            }
        }
        let mut blob = written.map_err(LayerError::Output)?;
        for (block, after) in blob.blocks.iter_mut().zip(&tar.states) {
            block.after = after.as_ref().map(Kept::of);
        }
        Ok(Written {
            diff_id: DiffId(tar.digest),
            digest: blob.digest.unwrap_or(tar.digest),
            size_bytes: blob.size_bytes,
            unpacked_size_bytes: tar.size_bytes,
            contents,
            blocks: blob.blocks,
            found,
        })
    }
}

/// Cuts the tar into blocks and hands them on.
pub(super) struct Blocks<'a> {
    pool: Arc<Pool>,
    current: Buffer,
    /// What of the current block is content of files.
    parts: Parts,
    number: u64,
    /// What the current block is; `None` where nobody asks.
    identity: Option<Identity>,
    pipe: Option<Pipe>,
    start: &'a dyn Fn() -> io::Result<Pipe>,
}

impl Blocks<'_> {
    /// Tells the blocks by what they hold from here on.
    pub(super) fn identify(&mut self) {
        self.identity = Some(Identity::default());
    }

    /// An entry begins with these headers.
    pub(super) fn header(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.current.len() >= LEAST_BYTES && cuts(bytes) {
            self.send()?;
        }
        self.write(bytes)
    }

    /// A content of so many bytes begins.
    pub(super) fn begin(&mut self, size_bytes: u64) -> Result<(), Stop> {
        if size_bytes >= BLOCK_BYTES as u64 {
            self.send()?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let spare = self.spare(bytes.len())?;
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

    /// Room in the current block, never none: for `wanted` bytes, or all there is. (What a block is told by depends on how it was
    /// filled, so that must not depend on the buffer.)
    pub(super) fn spare(&mut self, wanted: usize) -> Result<&mut [u8], Stop> {
        if self.current.is_full() {
            self.send()?;
        }
        Ok(self.current.spare(wanted))
    }

    /// Says that [`Blocks::spare`] begins with `count` bytes from `offset` on of a content now, and whether it ends with them.
    pub(super) fn filled(&mut self, content: Expected, offset: u64, count: usize, last: bool) {
        if let Some(identity) = &mut self.identity {
            identity.content(content.digest(), offset, count as u64);
        }
        let start = self.current.len();
        self.current.advance(count);
        if !matches!(content, Expected::Vouched(_)) {
            self.parts.push((start..start + count, last));
        }
    }

    /// Says that all was given.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        match self.pipe {
            Some(_) => self.send(),
            None => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), Stop> {
        if self.current.is_empty() {
            return Ok(());
        }
        let pipe = match &mut self.pipe {
            Some(pipe) => pipe,
            none => none.insert((self.start)().map_err(LayerError::Output)?),
        };
        let parts = std::mem::take(&mut self.parts);
        let identity = self.identity.as_mut().map(std::mem::take);
        let next = self.pool.take();
        let block = Arc::new(std::mem::replace(&mut self.current, next));
        let number = self.number;
        self.number += 1;
        // What is not known yet, those who look at the contents tell, and hand the block on.
        let waits = identity.as_ref().is_some_and(|known| !known.is_known());
        let (identity, then) = match waits {
            true => (None, identity.map(|identity| (number, identity))),
            false => (identity.map(Identity::finish), None),
        };
        let tar = (Arc::clone(&block), identity);
        pipe.diff.send(tar).map_err(|_| Stop::NobodyReads)?;
        if waits || !parts.is_empty() {
            let block = Arc::clone(&block);
            let look = Look { block, parts, then };
            pipe.contents.send(look).map_err(|_| Stop::NobodyReads)?;
        }
        let coded = Ok(None);
        let sent = match &pipe.out {
            Out::Plain(out) => {
                let done = Done {
                    number,
                    coded,
                    block,
                };
                out.send(done).is_ok()
            }
            Out::Compressed(_) if waits => true,
            Out::Compressed(out) => out.send((number, block, identity)).is_ok(),
        };
        if sent { Ok(()) } else { Err(Stop::NobodyReads) }
    }
}

/// Whether an entry with these headers begins a block, if it is time for one: by its name, whatever is before it.
fn cuts(header: &[u8]) -> bool {
    // FNV-1a over the field of the name: any even spread will do.
    let name = header.get(field::NAME).unwrap_or_default();
    let name = &name[..memchr::memchr(0, name).unwrap_or(name.len())];
    // It belongs to the header of its directory, where that has one.
    if name.is_empty() || name.ends_with(OPAQUE) {
        return false;
    }
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (hash >> 16).is_multiple_of(CUT_BY)
}

/// Buffers of compressed bytes that were written, for the next ones.
#[derive(Default)]
struct Outs(Mutex<Vec<Vec<u8>>>);

impl Outs {
    fn take(&self) -> Vec<u8> {
        let mut outs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outs.pop().unwrap_or_default()
    }

    fn put(&self, out: Vec<u8>) {
        let mut outs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outs.push(out);
    }
}

/// A compressed block: the first bytes of a buffer.
struct Coded {
    bytes: Vec<u8>,
    size: usize,
    identity: Option<Digest>,
    /// What a [twin](super::twins) is found by.
    mark: Option<u32>,
}

/// Compresses blocks, or takes them from where they are compressed already.
struct Coder<'a> {
    encoder: Encoder,
    earlier: Option<&'a EarlierBlocks>,
    twins: Option<Finder<'a>>,
    outs: &'a Outs,
}

impl Coder<'_> {
    fn encode(&mut self, block: &[u8], identity: Option<Digest>) -> io::Result<Coded> {
        let mut bytes = self.outs.take();
        let earlier = self.earlier.zip(identity.as_ref());
        let mut found = earlier.and_then(|(earlier, identity)| earlier.get(identity, &mut bytes));
        let twins = self.twins.as_mut();
        let twins = twins.and_then(|twins| Some((twins, BlobTwins::mark(block)?)));
        let mark = twins.as_ref().map(|(_, mark)| *mark);
        if let (None, Some((twins, mark))) = (found, twins) {
            found = twins.get(mark, block, &mut bytes);
        }
        let size = match found {
            Some(size) => size,
            None => self.encoder.encode(block, &mut bytes)?,
        };
        Ok(Coded {
            bytes,
            size,
            identity,
            mark,
        })
    }
}

/// A worker: compresses blocks until there are no more, or nobody wants them.
fn compress(mut coder: Coder<'_>, work: &Mutex<Receiver<Filled>>, done: &Sender<Done>) {
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, block, identity)) = next else {
            return;
        };
        let coded = coder.encode(&block, identity).map(Some);
        let sent = done.send(Done {
            number,
            coded,
            block,
        });
        if sent.is_err() {
            return;
        }
    }
}

/// What the writer knows of a blob.
struct Blob {
    digest: Option<Digest>,
    size_bytes: u64,
    blocks: Vec<Block>,
}

/// Writes blocks in their order, and hashes the blob if asked to.
fn write_blob(
    mut out: impl Write,
    done: &Receiver<Done>,
    hash: bool,
    outs: &Outs,
    twins: Option<&BlobTwins>,
) -> io::Result<Blob> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    let mut size_bytes = 0;
    let mut hasher = hash.then(Hasher::sha256);
    let mut blocks = Vec::new();
    for Done {
        number,
        coded,
        block,
    } in done
    {
        waiting.insert(number, (coded?, block));
        while let Some((coded, block)) = waiting.remove(&next) {
            let bytes = match &coded {
                Some(coded) => &coded.bytes[..coded.size],
                None => &block[..],
            };
            out.write_all(bytes)?;
            if let Some(hasher) = &mut hasher {
                hasher.update(bytes);
            }
            let at = size_bytes;
            size_bytes += bytes.len() as u64;
            next += 1;
            if let Some(coded) = coded {
                if let (Some(twins), Some(mark)) = (twins, coded.mark) {
                    twins.add(mark, at, coded.size);
                }
                blocks.push(Block {
                    identity: coded.identity,
                    size_bytes: u32::try_from(coded.size).map_err(io::Error::other)?,
                    crc32: libdeflater::crc32(&coded.bytes[..coded.size]),
                    after: None,
                });
                outs.put(coded.bytes);
            }
        }
    }
    out.flush()?;
    Ok(Blob {
        digest: hasher.map(Hasher::finish),
        size_bytes,
        blocks,
    })
}
