//! What an earlier layer left that a later one takes instead of making it again: compressed blocks, the hash of a tar that begins
//! as it did, and files of its tree.
//!
//! All are taken by what they hold and never by a guess. A block is known by a digest over the bytes of its headers and the
//! digests of the contents in it, so that it is recognised before it is compressed; of a content whose digest comes out
//! only while it is packed, it is the digest up to where the block ends. A file is known by its whole entry, content included. The
//! result has the same bytes as one that was made from nothing. What layers of one build take from each other is in
//! [`super::twins`].

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{AtFlags, linkat};
use serde::{Deserialize, Serialize};

use super::compress::{BLOCK_BYTES, COMPRESSORS};
use super::entry::{parent, path_order};
use super::toc::TocReader;
use super::twins::{BlobTwins, Twins};
use super::{Compression, Entry, Kind, Root};
use crate::oci::{Digest, HashState, Hasher};

/// The compressed blocks of a blob, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BlockTable {
    /// What made them. Blocks of another maker may hold the same and have other bytes.
    maker: String,
    blocks: Vec<Block>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Block {
    /// What it holds; `None` where nobody asked.
    pub(super) identity: Option<Digest>,
    /// Compressed.
    pub(super) size_bytes: u32,
    /// Of the compressed bytes: against files that a power loss tore. Who could do worse could write the store.
    pub(super) crc32: u32,
    /// Where the diffID's hash is after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Kept>,
}

/// A state of a hash as it is kept: nothing would show that it is not what it was, so a checksum does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    state: Vec<u8>,
    crc32: u32,
}

impl Kept {
    pub(super) fn of(state: &HashState) -> Kept {
        let state = state.to_bytes();
        Kept {
            crc32: libdeflater::crc32(&state),
            state: state.to_vec(),
        }
    }

    fn get(&self) -> Option<HashState> {
        let whole = libdeflater::crc32(&self.state) == self.crc32;
        HashState::from_bytes(&self.state).filter(|_| whole)
    }
}

impl BlockTable {
    pub(super) fn new(compression: Compression, blocks: Vec<Block>) -> BlockTable {
        BlockTable {
            maker: maker(compression),
            blocks,
        }
    }

    /// How many blocks of the other table are in this one too.
    #[cfg(test)]
    pub(super) fn shared(&self, other: &BlockTable) -> usize {
        let known: Vec<_> = self.blocks.iter().map(|b| b.identity).collect();
        let blocks = other.blocks.iter();
        blocks
            .filter(|b| b.identity.is_some() && known.contains(&b.identity))
            .count()
    }
}

fn maker(compression: Compression) -> String {
    format!("{compression:?} {BLOCK_BYTES} {COMPRESSORS}")
}

/// What a layer may be made from: an earlier one, and those of the same build.
#[derive(Debug, Default)]
pub struct Earlier {
    blocks: Option<EarlierBlocks>,
    tree: Option<EarlierTree>,
    twins: Option<(Arc<Twins>, File)>,
}

impl Earlier {
    /// Takes blocks from `blob`, which `table` is about.
    pub fn set_blocks(&mut self, blob: File, table: BlockTable) {
        let mut by_identity = HashMap::new();
        let mut states = Vec::new();
        let mut at = 0;
        for block in &table.blocks {
            let state = block.after.as_ref().and_then(Kept::get);
            states.push(block.identity.zip(state));
            if let Some(identity) = block.identity {
                by_identity.insert(identity, (at, block.size_bytes, block.crc32));
            }
            at += u64::from(block.size_bytes);
        }
        self.blocks = Some(EarlierBlocks {
            blob,
            maker: table.maker,
            by_identity,
            states,
        });
    }

    /// Takes files from `root`, an unpacked layer that is never written to and is kept by the same rules as the tree to be
    /// written; the table in `toc` says what is in it. They get another name in the new tree. An error says that there is no
    /// such table.
    pub fn set_tree(&mut self, root: Root, toc: File) -> io::Result<()> {
        let mut toc = TocReader::new(toc)?;
        self.tree = Some(EarlierTree {
            root,
            next: toc.next_entry()?,
            toc,
            here: None,
        });
        Ok(())
    }

    /// Takes blocks from layers of the same build, and has those of the blob being made for the others; `blob` reads it.
    pub fn set_twins(&mut self, twins: Arc<Twins>, blob: File) {
        self.twins = Some((twins, blob));
    }

    /// What of it is good for blobs that are compressed so, and the tree.
    pub(super) fn split(self, compression: Compression) -> (Sources, Option<EarlierTree>) {
        let twins = self.twins;
        let sources = Sources {
            earlier: self.blocks.filter(|blocks| blocks.suits(compression)),
            twins: twins.and_then(|(twins, blob)| twins.with(compression, Arc::new(blob))),
        };
        (sources, self.tree)
    }
}

/// Where compressed blocks may be had.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) earlier: Option<EarlierBlocks>,
    pub(super) twins: Option<BlobTwins>,
}

/// The blob of an earlier layer.
#[derive(Debug)]
pub(super) struct EarlierBlocks {
    blob: File,
    maker: String,
    by_identity: HashMap<Digest, (u64, u32, u32)>,
    /// What the blocks are, in their order, and where the diffID's hash is after each.
    states: Vec<Option<(Digest, HashState)>>,
}

impl EarlierBlocks {
    /// Whether the blocks are as `compression` would make them now.
    fn suits(&self, compression: Compression) -> bool {
        self.maker == maker(compression)
    }

    /// Where the hash of the tar is after the block that is in this place (from 0), if that one is there and all before are the same.
    pub(super) fn state_after(&self, place: usize, identity: &Digest) -> Option<HashState> {
        let (known, state) = (*self.states.get(place)?)?;
        (known == *identity).then_some(state)
    }

    /// Puts the compressed bytes of a block into `out`, from its start, and says how many they are; `None` if they are not there,
    /// or not whole.
    pub(super) fn get(&self, identity: &Digest, out: &mut Vec<u8>) -> Option<usize> {
        let (at, size_bytes, crc32) = *self.by_identity.get(identity)?;
        let size = usize::try_from(size_bytes).ok()?;
        if out.len() < size {
            out.resize(size, 0);
        }
        self.blob.read_exact_at(&mut out[..size], at).ok()?;
        (libdeflater::crc32(&out[..size]) == crc32).then_some(size)
    }
}

/// The tree of an earlier layer.
#[derive(Debug)]
pub(super) struct EarlierTree {
    root: Root,
    toc: TocReader,
    /// The entry that was read last.
    next: Option<Entry>,
    /// The directory that was looked into last.
    here: Option<(Vec<u8>, OwnedFd)>,
}

impl EarlierTree {
    /// Gives the same file of the earlier tree the name `name` in `dir`; entries come in order. Anything but `Ok(true)` means
    /// that it has to be written: there is none, or the file system does not want to (as with too many links).
    pub(super) fn link(&mut self, entry: &Entry, dir: &OwnedFd, name: &[u8]) -> io::Result<bool> {
        let known = matches!(
            entry.kind,
            Kind::File {
                content: Some(_),
                ..
            }
        );
        while let Some(next) = &self.next
            && path_order(&next.path, &entry.path).is_lt()
        {
            // What cannot be read on is at its end.
            self.next = None;
            self.next = self.toc.next_entry()?;
        }
        if !known || self.next.as_ref() != Some(entry) {
            return Ok(false);
        }
        let above = parent(&entry.path).unwrap_or_default();
        if self.here.as_ref().is_none_or(|(path, _)| path != above) {
            self.here = Some((above.to_vec(), self.root.open_dir(above)?));
        }
        let Some((_, from)) = &self.here else {
            return Ok(false);
        };
        linkat(from, name, dir, name, AtFlags::empty())?;
        Ok(true)
    }
}

/// The identity of a block that is being filled.
#[derive(Default)]
pub(super) struct Identity {
    hasher: Option<Hasher>,
    unknown: bool,
}

/// What comes next in an identity, where that is not a stretch of headers: none is as long.
mod mark {
    pub(super) const CONTENT: [u8; 8] = u64::MAX.to_le_bytes();
    pub(super) const UNKNOWN: [u8; 8] = (u64::MAX - 1).to_le_bytes();
    pub(super) const HASHED: [u8; 8] = (u64::MAX - 2).to_le_bytes();
}

impl Identity {
    /// Bytes of the tar that are no file's content.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.put(&[&(bytes.len() as u64).to_le_bytes(), bytes]);
    }

    /// `count` bytes from `offset` on of a content; one that nobody knows is to be [told of](Identity::hashed).
    pub(super) fn content(&mut self, content: Option<&Digest>, offset: u64, count: u64) {
        let (offset, count) = (offset.to_le_bytes(), count.to_le_bytes());
        match content {
            Some(content) => self.put(&[&mark::CONTENT, content.bytes(), &offset, &count]),
            None => {
                self.unknown = true;
                self.put(&[&mark::UNKNOWN, &offset, &count]);
            }
        }
    }

    /// What a content in the block hashes to, from its start up to its last byte that is in the block.
    pub(super) fn hashed(&mut self, so_far: &Digest) {
        self.put(&[&mark::HASHED, so_far.bytes()]);
    }

    fn put(&mut self, parts: &[&[u8]]) {
        let hasher = self.hasher.get_or_insert_with(Hasher::sha256);
        parts.iter().for_each(|part| hasher.update(part));
    }

    /// Whether nothing is to be told any more.
    pub(super) fn is_known(&self) -> bool {
        !self.unknown
    }

    /// The digest of it all.
    pub(super) fn finish(self) -> Digest {
        self.hasher.unwrap_or_else(Hasher::sha256).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::layer::{
        Change, Devices, LayerError, Materialise, Meta, Ownership, PackOptions, Packed, Source,
        TreeOptions, Whiteouts, pack, pack_after,
    };

    const FILES: usize = 1_200;

    fn file(path: String, content: Vec<u8>) -> Change {
        let kind = Kind::File {
            size_bytes: content.len() as u64,
            content: Some(Digest::of(&content)),
        };
        let meta = Meta {
            mode: 0o644,
            mtime: 100,
            ..Meta::default()
        };
        Change {
            entry: Entry {
                path: path.into_bytes(),
                meta,
                kind,
            },
            source: Source::Bytes(content.into()),
        }
    }

    /// A block of small files and one file of more than two; `changed` are other than before.
    fn changes(changed: &[usize]) -> Vec<Change> {
        let small = (0..FILES).map(|at| {
            let word = if changed.contains(&at) { "new" } else { "old" };
            file(format!("f{at:05}"), format!("{word} {at}\n").into_bytes())
        });
        let large = (0..2_500_000u32).map(|at| at.to_le_bytes()[usize::from(at % 3 == 0)]);
        small
            .chain([file("large".to_owned(), large.collect())])
            .collect()
    }

    struct Made {
        packed: Packed,
        blob: Vec<u8>,
        dir: tempfile::TempDir,
    }

    fn made(changes: Vec<Change>, compression: Compression, earlier: Option<&Made>) -> Made {
        let dir = tempfile::tempdir().unwrap();
        let target = Materialise {
            root: Root::open(dir.path()).unwrap(),
            tree: TreeOptions {
                ownership: Ownership::Xattr,
                whiteouts: Whiteouts::OverlayUser,
                devices: Devices::Skip,
            },
        };
        let options = PackOptions {
            compression,
            ..PackOptions::default()
        };
        let mut reuse = Earlier::default();
        if let Some(earlier) = earlier {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&earlier.blob).unwrap();
            reuse.set_blocks(file, earlier.packed.blocks.clone());
            let root = Root::open(earlier.dir.path()).unwrap();
            let mut toc = tempfile::tempfile().unwrap();
            toc.write_all(earlier.packed.toc.as_bytes()).unwrap();
            reuse.set_tree(root, toc).unwrap();
        }
        let mut blob = Vec::new();
        let packed = pack_after(changes, &mut blob, &options, Some(&target), reuse, None).unwrap();
        Made { packed, blob, dir }
    }

    fn inode(made: &Made, path: &str) -> u64 {
        std::fs::metadata(made.dir.path().join(path)).unwrap().ino()
    }

    // How many blocks of `new` are in `old` too.
    fn shared(old: &Packed, new: &Packed) -> usize {
        let known: Vec<_> = old.blocks.blocks.iter().map(|b| b.identity).collect();
        let blocks = new.blocks.blocks.iter();
        blocks.filter(|b| known.contains(&b.identity)).count()
    }

    #[test]
    fn the_result_is_as_if_made_from_nothing() {
        for compression in [
            Compression::None,
            Compression::gzip(None).unwrap(),
            Compression::zstd(None).unwrap(),
        ] {
            let old = made(changes(&[]), compression, None);
            for changed in [&[][..], &[7], &[0, FILES - 1]] {
                let fresh = made(changes(changed), compression, None);
                let again = made(changes(changed), compression, Some(&old));
                assert_eq!(again.blob, fresh.blob, "{compression:?} {changed:?}");
                assert_eq!(again.packed.toc, fresh.packed.toc);
                assert_eq!(again.packed.blocks, fresh.packed.blocks);
                assert_eq!(again.packed.diff_id, fresh.packed.diff_id);
                for at in [0, 7, 8] {
                    let name = format!("f{at:05}");
                    let linked = inode(&old, &name) == inode(&again, &name);
                    assert_eq!(linked, !changed.contains(&at), "{name} {changed:?}");
                    let content = std::fs::read(again.dir.path().join(&name)).unwrap();
                    assert_eq!(content.starts_with(b"new"), changed.contains(&at));
                }
                let blocks = again.packed.blocks.blocks.len();
                if compression != Compression::None {
                    assert!(blocks >= 4 && shared(&old.packed, &again.packed) >= blocks - 2);
                }
            }
        }
    }

    #[test]
    fn what_is_torn_or_of_another_maker_is_made_again() {
        let gzip = Compression::gzip(None).unwrap();
        let fresh = made(changes(&[9]), gzip, None);
        let mut torn = made(changes(&[]), gzip, None);
        let middle = torn.blob.len() / 2;
        torn.blob[middle] ^= 1;
        torn.blob.truncate(middle + 10);
        let other = made(changes(&[]), Compression::gzip(Some(1)).unwrap(), None);
        for earlier in [&torn, &other] {
            let again = made(changes(&[9]), gzip, Some(earlier));
            assert_eq!(again.blob, fresh.blob);
        }
    }

    #[test]
    fn what_a_tar_begins_with_is_not_hashed_again() {
        let gzip = Compression::gzip(None).unwrap();
        let fresh = made(changes(&[]), gzip, None);
        let states = fresh.packed.blocks.blocks.iter().map(|b| &b.after);
        let states: Vec<_> = states.cloned().collect();
        assert!(states.len() >= 4 && states.iter().all(Option::is_some));
        let first = states[0].clone().unwrap();
        let torn = Kept {
            crc32: first.crc32 ^ 1,
            ..first.clone()
        };
        // One that is another block's shows in the result, if it was gone on from.
        for (at, kept, used) in [
            (0, states[1].clone(), false),
            (states.len() - 1, Some(first), true),
            (states.len() - 1, None, false),
            (1, Some(torn), false),
        ] {
            let mut odd = made(changes(&[]), gzip, None);
            odd.packed.blocks.blocks[at].after = kept;
            let again = made(changes(&[]), gzip, Some(&odd));
            assert_eq!(again.packed.diff_id != fresh.packed.diff_id, used, "{at}");
            assert_eq!(again.blob, fresh.blob);
        }
        // The first block is another one: all is hashed.
        let mut odd = made(changes(&[]), gzip, None);
        let last = states.len() - 1;
        odd.packed.blocks.blocks[last].after = states[0].clone();
        let changed = made(changes(&[0]), gzip, Some(&odd));
        let fresh = made(changes(&[0]), gzip, None);
        assert_eq!(changed.packed.diff_id, fresh.packed.diff_id);
    }

    #[test]
    fn metadata_counts() {
        let old = made(changes(&[]), Compression::None, None);
        let mut touched = changes(&[]);
        touched[3].entry.meta.mtime = 101;
        touched[4].entry.meta.mode = 0o755;
        let new = made(touched, Compression::None, Some(&old));
        for (at, linked) in [(2, true), (3, false), (4, false), (5, true)] {
            let name = format!("f{at:05}");
            assert_eq!(inode(&old, &name) == inode(&new, &name), linked, "{name}");
        }
        let meta = |made: &Made| std::fs::metadata(made.dir.path().join("f00003")).unwrap();
        assert_eq!((meta(&old).mtime(), meta(&new).mtime()), (100, 101));
    }

    #[test]
    fn a_content_that_is_not_what_was_promised_is_an_error() {
        let mut changes = changes(&[]);
        changes[5].source = Source::Bytes((*b"odd 5\n").into());
        let error = pack(changes, std::io::sink(), &PackOptions::default(), None).unwrap_err();
        assert!(matches!(error, LayerError::Changed { path, .. } if path == "f00005"));
    }
}
