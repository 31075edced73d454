//! Blocks that hold the same as one that was compressed already for another layer of the same build, or elsewhere in the same
//! layer: a file that was copied, moved, or given another owner or mode by a later step, one that several folders have.
//!
//! A checksum says which block could be the same, and decompressing that one whether it is. So the result has the bytes that
//! compressing would have made, and nothing that a file may hold makes two blocks one that are not.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Compression;
use super::compress::{BLOCK_BYTES, BlockDecoder};

/// Of how many blobs blocks are known: each is an open file.
const MOST_BLOBS: usize = 64;

/// The compressed blocks of the layers of a build.
#[derive(Debug)]
pub struct Twins {
    compression: Compression,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the CRC-32 of what they hold. The first one stays.
    blocks: HashMap<u32, Place>,
    blobs: usize,
}

/// Where a compressed block is.
#[derive(Clone, Debug)]
struct Place {
    blob: Arc<File>,
    at: u64,
    size: usize,
}

impl Twins {
    /// For blocks that are compressed so.
    pub fn new(compression: Compression) -> Twins {
        Twins {
            compression,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a blob that is being made, which `blob` reads; `None` where they are compressed in another way.
    pub(super) fn with(
        self: &Arc<Self>,
        compression: Compression,
        blob: Arc<File>,
    ) -> Option<BlobTwins> {
        (self.compression == compression).then(|| BlobTwins {
            twins: Arc::clone(self),
            blob,
            is_known: AtomicBool::new(false),
        })
    }
}

/// All that is known while one blob is made.
#[derive(Debug)]
pub(super) struct BlobTwins {
    twins: Arc<Twins>,
    blob: Arc<File>,
    /// Whether blocks of it are known.
    is_known: AtomicBool,
}

impl BlobTwins {
    /// What a block is found by. Smaller ones than the largest are not worth it.
    pub(super) fn mark(block: &[u8]) -> Option<u32> {
        (block.len() == BLOCK_BYTES).then(|| libdeflater::crc32(block))
    }

    /// Says that the blob being made has the block with this mark in this place now.
    pub(super) fn add(&self, mark: u32, at: u64, size: usize) {
        let mut known = self.twins.known();
        let is_new = !self.is_known.load(Ordering::Relaxed);
        if is_new && known.blobs == MOST_BLOBS {
            return;
        }
        if let Entry::Vacant(place) = known.blocks.entry(mark) {
            place.insert(Place {
                blob: Arc::clone(&self.blob),
                at,
                size,
            });
            known.blobs += usize::from(is_new);
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    fn place(&self, mark: u32) -> Option<Place> {
        self.twins.known().blocks.get(&mark).cloned()
    }

    /// Looks for blocks, on a thread of its own.
    pub(super) fn finder(&self) -> Finder<'_> {
        Finder {
            twins: self,
            decoder: None,
            plain: Vec::new(),
        }
    }
}

/// Finds blocks.
pub(super) struct Finder<'a> {
    twins: &'a BlobTwins,
    decoder: Option<BlockDecoder>,
    plain: Vec<u8>,
}

impl Finder<'_> {
    /// Puts the compressed bytes of a block that holds the same as `block` into `out`, from its start, and says how many they are.
    pub(super) fn get(&mut self, mark: u32, block: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let Place { blob, at, size } = self.twins.place(mark)?;
        if out.len() < size {
            out.resize(size, 0);
        }
        // What cannot be read, or does not decompress, is no twin: then the block is compressed.
        blob.read_exact_at(&mut out[..size], at).ok()?;
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(BlockDecoder::new(self.twins.twins.compression).ok()??),
        };
        self.plain.resize(BLOCK_BYTES, 0);
        let length = decoder.decode(&out[..size], &mut self.plain)?;
        (self.plain[..length] == *block).then_some(size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;
    use crate::layer::{
        Change, Earlier, Entry as LayerEntry, Kind, Meta, PackOptions, Packed, Source, pack,
        pack_after,
    };

    /// What no block has twice.
    fn content(seed: u32, blocks: usize) -> Vec<u8> {
        let words = (0..).map(|n: u32| (n / 3).wrapping_mul(seed | 1).to_le_bytes()[1] & 15);
        words.take(blocks * BLOCK_BYTES).collect()
    }

    fn file(path: &str, mode: u32, content: &[u8]) -> Change {
        Change {
            entry: LayerEntry {
                path: path.into(),
                meta: Meta {
                    mode,
                    ..Meta::default()
                },
                kind: Kind::File {
                    size_bytes: content.len() as u64,
                    content: None,
                },
            },
            source: Source::Bytes(content.into()),
        }
    }

    fn made(twins: &Arc<Twins>, changes: Vec<Change>, options: &PackOptions) -> (Packed, Vec<u8>) {
        let mut blob = tempfile::tempfile().unwrap();
        let mut earlier = Earlier::default();
        earlier.set_twins(Arc::clone(twins), blob.try_clone().unwrap());
        let packed = pack_after(changes, &blob, options, None, earlier, None).unwrap();
        let mut bytes = Vec::new();
        blob.rewind().unwrap();
        blob.read_to_end(&mut bytes).unwrap();
        (packed, bytes)
    }

    fn compressions() -> [Compression; 2] {
        [Compression::default(), Compression::zstd(None).unwrap()]
    }

    #[test]
    fn a_layer_has_the_same_bytes_with_them_as_without() {
        let (one, two) = (content(7, 3), content(1_000_003, 2));
        let both = [&two[..], &one[..]].concat();
        let layers = [
            vec![file("a", 0o644, &one), file("b", 0o644, &two)],
            vec![file("a", 0o700, &one), file("c", 0o644, &both)],
            vec![file("d", 0o644, &both[100..])],
        ];
        for compression in compressions() {
            for threads in [1, 3] {
                let options = PackOptions {
                    compression,
                    threads,
                    ..PackOptions::default()
                };
                let twins = Arc::new(Twins::new(compression));
                for layer in &layers {
                    let mut plain = Vec::new();
                    let alone = pack(layer.clone(), &mut plain, &options, None).unwrap();
                    let (packed, bytes) = made(&twins, layer.clone(), &options);
                    assert!(bytes == plain);
                    assert_eq!(packed.digest, alone.digest);
                    assert_eq!(packed.diff_id, alone.diff_id);
                }
            }
        }
    }

    /// A known block in these bytes, to be found by the mark of `like`.
    fn planted(compression: Compression, like: &[u8], coded: &[u8]) -> Arc<Twins> {
        let twins = Arc::new(Twins::new(compression));
        let mut blob = tempfile::tempfile().unwrap();
        blob.write_all(b"other bytes").unwrap();
        blob.write_all(coded).unwrap();
        let known = twins.with(compression, Arc::new(blob)).unwrap();
        known.add(BlobTwins::mark(like).unwrap(), 11, coded.len());
        twins
    }

    fn level(level: i64) -> PackOptions {
        PackOptions {
            compression: Compression::gzip(Some(level)).unwrap(),
            ..PackOptions::default()
        }
    }

    /// One block in the bytes of a level.
    fn coded(block: &[u8], with: i64) -> Vec<u8> {
        let mut out = Vec::new();
        let encoder = crate::layer::compress::Encoder::new(level(with).compression).unwrap();
        let size = encoder.unwrap().encode(block, &mut out).unwrap();
        out.truncate(size);
        out
    }

    #[test]
    fn a_block_that_holds_the_same_is_taken() {
        let block = content(7, 1);
        let usual = coded(&block, 2);
        // Bytes that the usual level does not make tell where they are from.
        let other = coded(&block, 9);
        assert_ne!(usual, other);
        let options = level(2);
        let twins = planted(options.compression, &block, &other);
        let (_, bytes) = made(&twins, vec![file("a", 0o644, &block)], &options);
        assert!(memchr::memmem::find(&bytes, &other).is_some());
        assert!(memchr::memmem::find(&bytes, &usual).is_none());
    }

    #[test]
    fn one_that_only_has_the_same_checksum_or_is_damaged_is_not() {
        let block = content(7, 1);
        let usual = coded(&block, 2);
        let mut torn = coded(&block, 9);
        torn.truncate(1_000);
        let longer = coded(&content(7, 2), 9);
        for planted_bytes in [coded(&content(9, 1), 9), torn, longer, Vec::new()] {
            let options = level(2);
            let twins = planted(options.compression, &block, &planted_bytes);
            let (_, bytes) = made(&twins, vec![file("a", 0o644, &block)], &options);
            assert!(memchr::memmem::find(&bytes, &usual).is_some());
        }
    }

    #[test]
    fn those_of_another_compression_are_not_looked_for() {
        let block = content(7, 1);
        let other = coded(&block, 9);
        let twins = planted(level(9).compression, &block, &other);
        let (_, bytes) = made(&twins, vec![file("a", 0o644, &block)], &level(2));
        assert!(memchr::memmem::find(&bytes, &other).is_none());
    }

    #[test]
    fn of_many_blobs_the_first_are_known() {
        let twins = Arc::new(Twins::new(Compression::default()));
        for blob in 0..100 {
            let file = Arc::new(tempfile::tempfile().unwrap());
            let known = twins.with(Compression::default(), file).unwrap();
            known.add(2 * blob, 0, 1);
            known.add(2 * blob + 1, 1, 1);
        }
        assert_eq!(twins.known().blocks.len(), 2 * MOST_BLOBS);
    }
}
