//! Changes to a blob, in one pass: they are read, put into a tar and, if that is wanted, a tree; the blob is made of
//! [`super::blocks`] meanwhile. Nothing in the bytes depends on threads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::blocks::{Blocks, Expected, Stop, write};
use super::error::text;
use super::leaks::{Leak, Needles};
use super::look::Found;
use super::pipe::Sum;
use super::records::Records;
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
    pub toc: Toc,
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
    let (earlier_blocks, earlier_tree) = earlier.split();
    let earlier_blocks = earlier_blocks.filter(|e| e.suits(options.compression));
    let tree = materialise.map(|m| Tree::of_changes(&m.root, m.tree));
    let mut tree = tree.transpose()?;
    if let (Some(tree), Some(earlier)) = (&mut tree, earlier_tree) {
        tree.take_from(earlier);
    }
    let mut vouched = Vec::new();
    let written = write(blob, options, earlier_blocks.as_ref(), needles, |blocks| {
        if options.compression != Compression::None {
            blocks.identify();
        }
        pack_all(&mut changes, options, blocks, tree.as_mut(), &mut vouched)
    })?;
    let mut records = changes.records;
    set_contents(&mut records, &vouched, written.contents)?;
    let notes = match tree {
        Some(tree) => tree.finish(Vec::new())?.1,
        None => Vec::new(),
    };
    let leaks = needles.map_or_else(Vec::new, |n| leaks(n, &records, &written.found));
    Ok(Packed {
        leaks,
        diff_id: written.diff_id,
        digest: written.digest,
        size_bytes: written.size_bytes,
        unpacked_size_bytes: written.unpacked_size_bytes,
        toc: records.into_toc(),
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
fn set_contents(
    records: &mut Records,
    vouched: &[usize],
    hashed: Vec<Sum>,
) -> Result<(), LayerError> {
    let (mut vouched, mut hashed) = (vouched.iter().peekable(), hashed.into_iter());
    for at in 0..records.len() {
        let entry = records.at(at);
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
        records.set_content(at, &content);
    }
    Ok(())
}

/// What was found, by the files' paths.
fn leaks(needles: &Needles, records: &Records, found: &[Found]) -> Vec<Leak> {
    let entries = records.iter().map(|entry| entry.to_entry());
    let mut leaks: Vec<Leak> = entries.flat_map(|entry| needles.in_names(&entry)).collect();
    let is_file = |at: &usize| matches!(records.at(*at).kind, KindRef::File { .. });
    let files: Vec<usize> = (0..records.len()).filter(is_file).collect();
    leaks.extend(found.iter().map(|(content, secret, form)| {
        // A path that holds a secret is not shown.
        let path = records.at(files[*content]).path;
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
            changes.records.set_mtime(at, mtime);
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
        let spare = blocks.spare()?;
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
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::super::compress::BLOCK_BYTES;
    use super::*;
    use crate::layer::{Entry, Meta};

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

    fn noise(n: usize) -> Vec<u8> {
        (0..n).map(|at| ((at * at) >> 7).to_le_bytes()[0]).collect()
    }

    /// Files around the size of a block, and many small ones.
    fn changes() -> Vec<Change> {
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
            ..PackOptions::default()
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
    fn a_small_layer_is_made_without_threads() {
        for compression in [Compression::None, Compression::default()] {
            let options = PackOptions {
                compression,
                ..PackOptions::default()
            };
            let mut blob = Vec::new();
            let small = vec![bytes("a", b"1"), bytes("b", b""), bytes("c", &[7; 70_000])];
            let packed = pack(small, &mut blob, &options, None).unwrap();
            assert_eq!(packed.digest, Digest::of(&blob));
            let mut tar = Vec::new();
            let mut decoder = crate::layer::Decoder::new(&blob[..], 1 << 20).unwrap();
            decoder.read_to_end(&mut tar).unwrap();
            assert_eq!(packed.diff_id, DiffId(Digest::of(&tar)));
            assert_eq!(packed.unpacked_size_bytes, tar.len() as u64);
            let sums: Vec<_> = packed.toc.entries().map(|e| e.kind).collect();
            for (kind, content) in sums.iter().zip([&b"1"[..], b"", &[7; 70_000]]) {
                let size_bytes = content.len() as u64;
                let content = Some(Digest::of(content));
                assert_eq!(
                    *kind,
                    Kind::File {
                        size_bytes,
                        content
                    }
                );
            }
        }
    }

    #[test]
    fn packing_anew_makes_the_same_blob() {
        let (_, tar) = packed(Compression::None, 1);
        for compression in [Compression::default(), Compression::zstd(None).unwrap()] {
            let (direct, blob) = packed(compression, 1);
            let options = PackOptions {
                compression,
                ..PackOptions::default()
            };
            for times in [Times::Keep, Times::AtMost(100)] {
                let options = PackOptions { times, ..options };
                let mut anew = Vec::new();
                let repacked = crate::layer::repack(&tar[..], &mut anew, &options, u64::MAX);
                assert_eq!(repacked.unwrap().digest, direct.digest);
                assert!(anew == blob);
            }
        }
    }

    #[test]
    fn an_unpacked_layer_makes_the_same_blob() {
        let dir = tempfile::tempdir().unwrap();
        let target = Materialise {
            root: Root::open(dir.path()).unwrap(),
            // What an ordinary user's tree has least of: owners are attributes, devices are missing.
            tree: TreeOptions {
                ownership: crate::layer::Ownership::Xattr,
                whiteouts: crate::layer::Whiteouts::OverlayUser,
                devices: crate::layer::Devices::Skip,
            },
        };
        let other = |path: &str, kind| {
            let mut change = bytes(path, b"");
            change.entry.kind = kind;
            change.entry.meta.uid = 70_000;
            change.source = Source::None;
            change
        };
        let directory = |opaque| Kind::Directory {
            opaque,
            implied: false,
        };
        let all = || {
            let mut all = changes();
            all.extend([
                other("dir", directory(false)),
                bytes("dir/file", b"x"),
                bytes("implied/file", b"y"),
                other("opaque", directory(true)),
                other("opaque/gone", Kind::Whiteout),
                other("device", Kind::CharDevice { major: 1, minor: 3 }),
                other("pipe", Kind::Fifo),
                other(
                    "link",
                    Kind::Symlink {
                        target: b"dir/file".to_vec(),
                    },
                ),
                other(
                    "second",
                    Kind::HardLink {
                        target: b"dir/file".to_vec(),
                    },
                ),
            ]);
            all[3].entry.meta.xattrs = vec![(b"security.capability".to_vec(), vec![1; 20])];
            all
        };
        for compression in [
            Compression::None,
            Compression::default(),
            Compression::zstd(None).unwrap(),
        ] {
            let options = PackOptions {
                compression,
                ..PackOptions::default()
            };
            let (mut at_once, mut late) = (Vec::new(), Vec::new());
            let first = pack(all(), &mut at_once, &options, Some(&target)).unwrap();
            let root = Root::open(dir.path()).unwrap();
            let again = pack_tree(&first.toc, &root, &mut late, &options).unwrap();
            assert!(at_once == late && first.diff_id == again.diff_id);
            assert_eq!(first.toc, again.toc);
            std::fs::write(dir.path().join("dir/file"), b"z").unwrap();
            let error = pack_tree(&first.toc, &root, io::sink(), &options).unwrap_err();
            assert!(matches!(error, LayerError::Changed { path, .. } if path == "dir/file"));
        }
    }

    #[test]
    fn blocks_do_not_depend_on_what_is_before_them() {
        let gzip = Compression::default();
        let options = PackOptions {
            compression: gzip,
            ..PackOptions::default()
        };
        let mut blob = tempfile::tempfile().unwrap();
        let before = pack(changes(), &mut blob, &options, None).unwrap();
        // A small file that comes first, and a byte more at the end of a large one.
        let change = || {
            let mut changes = changes();
            changes.push(bytes("a-new-file", &[1; 5000]));
            for change in &mut changes {
                if change.entry.path == b"large-5000000" {
                    *change = bytes("large-5000000", &[&noise(5_000_000)[..], b"x"].concat());
                }
            }
            changes
        };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        let mut earlier = Earlier::default();
        earlier.set_blocks(blob, before.blocks.clone());
        let packed = pack_after(change(), &mut with, &options, None, earlier, None).unwrap();
        pack(change(), &mut without, &options, None).unwrap();
        assert!(with == without);
        // Four whole blocks of the largest file, and the first of each that is as large as a block.
        assert!(before.blocks.shared(&packed.blocks) >= 6);
    }

    #[test]
    fn a_content_that_nobody_knew_is_shared_up_to_where_it_changes() {
        let options = PackOptions::default();
        let content = noise(6 * BLOCK_BYTES);
        let mut blob = tempfile::tempfile().unwrap();
        let before = pack(vec![bytes("f", &content)], &mut blob, &options, None).unwrap();
        for (changed, shared) in [(None, 8), (Some(0), 2), (Some(3 * BLOCK_BYTES), 5)] {
            let mut content = content.clone();
            changed.into_iter().for_each(|at| content[at] ^= 1);
            let (mut with, mut without) = (Vec::new(), Vec::new());
            let mut earlier = Earlier::default();
            earlier.set_blocks(blob.try_clone().unwrap(), before.blocks.clone());
            let change = || vec![bytes("f", &content)];
            let packed = pack_after(change(), &mut with, &options, None, earlier, None).unwrap();
            pack(change(), &mut without, &options, None).unwrap();
            assert!(with == without);
            // The header and the trailer are blocks of their own.
            assert_eq!(before.blocks.shared(&packed.blocks), shared, "{changed:?}");
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
            stamp: None,
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
            stamp: None,
        };
        let result = pack(
            vec![file("f", 1, gone)],
            io::sink(),
            &PackOptions::default(),
            None,
        );
        assert!(matches!(result, Err(LayerError::File { .. })));
    }

    fn stamp_of(path: &Path) -> FileStamp {
        FileStamp::of(&std::fs::metadata(path).unwrap()).unwrap()
    }

    /// Gives the file's last byte another value and its old time, until that leaves a trace.
    fn change_in_secret(path: &Path) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (stamp, times) = (stamp_of(path), file.metadata().unwrap());
        let last = times.len() - 1;
        let mut byte = [0];
        file.read_exact_at(&mut byte, last).unwrap();
        while stamp_of(path) == stamp {
            file.write_all_at(&[byte[0] ^ 1], last).unwrap();
            file.set_modified(times.modified().unwrap()).unwrap();
        }
        assert_eq!(stamp_of(path).mtime_ns, stamp.mtime_ns);
    }

    /// A file of the host that was hashed when it held `content`.
    fn hashed(path: &Path, content: &[u8], stamp: Option<FileStamp>) -> Change {
        let root = Root::open(path.parent().unwrap()).unwrap();
        let source = Source::File {
            root: Arc::clone(root.fd()),
            path: b"f".to_vec(),
            stamp,
        };
        let mut change = file("f", content.len() as u64, source);
        change.entry.kind = Kind::File {
            size_bytes: content.len() as u64,
            content: Some(Digest::of(content)),
        };
        change
    }

    #[test]
    fn a_file_is_believed_by_its_stamp_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        std::fs::write(&path, b"secret").unwrap();
        let stamp = stamp_of(&path);
        let outcome = |needles: Option<&Needles>| {
            // Another content than was promised: nobody hashed it if nobody minds.
            let mut changes = vec![hashed(&path, b"Secret", Some(stamp))];
            changes.push(bytes("g", b"not hashed before"));
            let (options, earlier) = (PackOptions::default(), Earlier::default());
            pack_after(changes, io::sink(), &options, None, earlier, needles)
        };
        let packed = outcome(None).unwrap();
        for (name, content) in [("f", &b"Secret"[..]), ("g", b"not hashed before")] {
            let kind = Kind::File {
                size_bytes: content.len() as u64,
                content: Some(Digest::of(content)),
            };
            assert_eq!(packed.toc.get(name.as_bytes()).unwrap().kind, kind);
        }
        let changed =
            |packed| matches!(packed, Err(LayerError::Changed { path, .. }) if path == "f");
        // Who looks for secrets sees every byte.
        let secret = ("token".to_owned(), b"a long secret, not there".to_vec());
        let (needles, _) = Needles::new([secret]);
        assert!(changed(outcome(needles.as_ref())));
        change_in_secret(&path);
        assert!(changed(outcome(None)));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_named() {
        struct Changing<'a>(Option<&'a Path>);
        impl Write for Changing<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.take().into_iter().for_each(change_in_secret);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        let options = PackOptions {
            threads: 1,
            ..PackOptions::default()
        };
        // The reader waits for blocks to be written, so it is not at the end when the first one is.
        let content = noise(20 * BLOCK_BYTES);
        for compression in [Compression::None, Compression::default()] {
            let options = PackOptions {
                compression,
                ..options
            };
            for stamped in [false, true] {
                std::fs::write(&path, &content).unwrap();
                let stamp = stamped.then(|| stamp_of(&path));
                let changes = vec![hashed(&path, &content, stamp)];
                let result = pack(changes.clone(), io::sink(), &options, None);
                assert!(result.is_ok());
                let result = pack(changes, Changing(Some(&path)), &options, None);
                assert!(matches!(result, Err(LayerError::Changed { path, .. }) if path == "f"));
            }
        }
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
            times: Times::AtMost(50),
            ..PackOptions::default()
        };
        let packed = pack(vec![bytes("f", b"x")], io::sink(), &options, None).unwrap();
        assert_eq!(packed.toc.get(b"f").unwrap().meta.mtime, 50);
    }
}
