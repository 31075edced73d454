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

use super::pipe::{Buffer, Piece, Pool, hash_contents, hash_stream};
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
    let blobs = Pool::new(QUEUE + 2, BUFFER_BYTES);
    let tars = Pool::new(QUEUE * 2 + 3, BUFFER_BYTES);
    thread::scope(|scope| {
        let (blob_out, blob_in) = sync_channel(QUEUE);
        let (diff_out, diff_in) = sync_channel(QUEUE);
        let (tar_out, tar_in) = sync_channel(QUEUE);
        let (piece_out, piece_in) = sync_channel(QUEUE);
        let limit_bytes = options.limit_bytes;
        let feed = scope.spawn(move || feed(input, &blobs, &blob_out));
        scope.spawn(move || inflate(blob_in, limit_bytes, &tars, &diff_out, &tar_out));
        let diff = scope.spawn(move || hash_stream(&diff_in));
        let contents = scope.spawn(move || hash_contents(&piece_in));
        let source = Source::new(tar_in, piece_out);
        // The source is dropped when this returns, which ends the other threads one after another.
        let written = write_tree(tree, TarReader::new(source, options.names), limit_bytes);
        let contents = join(contents);
        let (digest, size_bytes) = join(feed);
        let (diff_id, unpacked_size_bytes) = join(diff);
        let (toc, notes) = written?.finish(contents)?;
        Ok(Unpacked {
            diff_id: DiffId(diff_id),
            digest,
            size_bytes,
            unpacked_size_bytes,
            toc,
            notes,
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
        match input.read(buffer.spare()) {
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
struct Source {
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
                    write_file(
                        &file,
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

fn content_size(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size_bytes, .. } => size_bytes,
        _ => 0,
    }
}

fn write_file(
    mut file: &File,
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
                file.write_all(bytes).map_err(failed)?;
                let count = bytes.len();
                tar.inner_mut().mark(count);
                tar.consume(count);
                ends_in_hole = false;
            }
            Data::Hole(count) => {
                let left = holes_left.checked_sub(count);
                *holes_left = left.ok_or(LayerError::Limit { limit_bytes })?;
                let step = i64::try_from(count).map_err(|_| LayerError::Limit { limit_bytes })?;
                file.seek(SeekFrom::Current(step)).map_err(failed)?;
                tar.inner_mut().send();
                tar.inner_mut().piece(Piece::Zeros(count));
                ends_in_hole = true;
            }
            Data::End => break,
        }
    }
    if ends_in_hole {
        file.set_len(size_bytes).map_err(failed)?;
        tar.inner_mut().piece(Piece::End);
    } else {
        tar.inner_mut().end();
    }
    Ok(())
}

/// The decompressor's limit comes through readers, as the inside of an I/O error.
fn unwrap_limit(error: LayerError) -> LayerError {
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
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::layer::{
        Change, Compression, Devices, DiffOptions, Materialise, Meta, Ownership, PackOptions,
        Source as Bytes, Whiteouts, diff, pack,
    };

    fn options(whiteouts: Whiteouts) -> UnpackOptions<'static> {
        UnpackOptions {
            tree: TreeOptions {
                ownership: Ownership::Real,
                whiteouts,
                devices: Devices::Create,
            },
            names: WhiteoutNames::Oci,
            limit_bytes: 1 << 30,
            below: None,
        }
    }

    fn change(path: &str, kind: Kind, content: &[u8]) -> Change {
        let mode = if matches!(kind, Kind::Directory { .. }) {
            0o755
        } else {
            0o644
        };
        let source = match kind {
            Kind::File { .. } => Bytes::Bytes(content.into()),
            _ => Bytes::None,
        };
        let meta = Meta {
            mode,
            mtime: 1_700_000_000,
            ..Meta::default()
        };
        Change {
            entry: Entry {
                path: path.into(),
                meta,
                kind,
            },
            source,
        }
    }

    fn file(path: &str, content: &[u8]) -> Change {
        let size_bytes = content.len() as u64;
        change(
            path,
            Kind::File {
                size_bytes,
                content: None,
            },
            content,
        )
    }

    fn dir(path: &str) -> Change {
        change(
            path,
            Kind::Directory {
                opaque: false,
                implied: false,
            },
            b"",
        )
    }

    fn link(path: &str, target: &str) -> Change {
        change(
            path,
            Kind::Symlink {
                target: target.into(),
            },
            b"",
        )
    }

    fn hard(path: &str, target: &str) -> Change {
        change(
            path,
            Kind::HardLink {
                target: target.into(),
            },
            b"",
        )
    }

    fn gone(path: &str) -> Change {
        change(path, Kind::Whiteout, b"")
    }

    /// A tar of these, in this order: what `pack` would not make.
    fn raw(changes: &[Change]) -> Vec<u8> {
        let mut out = Vec::new();
        for Change { entry, source } in changes {
            crate::layer::tar::write_header(&mut out, entry).unwrap();
            if let Bytes::Bytes(bytes) = source {
                out.extend_from_slice(bytes);
                out.resize(
                    out.len() + crate::layer::tar::padding_bytes(bytes.len() as u64),
                    0,
                );
            }
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    /// A directory to unpack into, beside files that must not change.
    struct World {
        home: tempfile::TempDir,
        root: Root,
    }

    impl World {
        fn new() -> World {
            let home = tempfile::tempdir().unwrap();
            std::fs::create_dir(home.path().join("root")).unwrap();
            std::fs::create_dir(home.path().join("outside")).unwrap();
            std::fs::write(home.path().join("outside/canary"), "alive").unwrap();
            let root = Root::open(&home.path().join("root")).unwrap();
            World { home, root }
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.home.path().join("root").join(path)
        }

        fn unpack(&self, bytes: &[u8], whiteouts: Whiteouts) -> Result<Unpacked, LayerError> {
            let result = unpack(bytes, &self.root, &options(whiteouts));
            self.check();
            result
        }

        fn check(&self) {
            let mut names: Vec<_> = std::fs::read_dir(self.home.path())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            names.sort();
            assert_eq!(names, ["outside", "root"]);
            let canary = self.home.path().join("outside/canary");
            assert_eq!(std::fs::read(&canary).unwrap(), b"alive");
            let meta = std::fs::metadata(&canary).unwrap();
            assert_eq!((meta.nlink(), meta.mode() & 0o7777), (1, 0o644));
            assert_eq!(
                std::fs::read_dir(self.home.path().join("outside"))
                    .unwrap()
                    .count(),
                1
            );
        }

        fn list(&self) -> Vec<String> {
            let mut all = Vec::new();
            list(&self.path(""), "", &mut all);
            all
        }
    }

    fn list(at: &Path, name: &str, all: &mut Vec<String>) {
        let mut names: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap()).collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let kind = entry.file_type().unwrap();
            let path = format!("{name}{}", entry.file_name().to_string_lossy());
            if kind.is_dir() {
                all.push(format!("{path}/"));
                list(&entry.path(), &format!("{path}/"), all);
            } else {
                all.push(path + if kind.is_char_device() { " (char)" } else { "" });
            }
        }
    }

    #[test]
    fn nothing_gets_outside() {
        let outside = |w: &World| w.home.path().join("outside").to_str().unwrap().to_owned();
        type Case = fn(&str) -> Vec<Change>;
        let cases: [(&str, Case, bool); 16] = [
            (
                "write through an absolute link",
                |o| vec![link("l", o), file("l/x", b"x")],
                true,
            ),
            (
                "write through a relative link",
                |_| vec![link("l", "../outside"), file("l/x", b"x")],
                true,
            ),
            (
                "write over a link",
                |o| vec![link("l", &format!("{o}/canary")), file("l", b"x")],
                true,
            ),
            (
                "chain of links",
                |_| {
                    vec![
                        link("a", ".."),
                        link("b", "a/outside"),
                        file("b/canary", b"x"),
                    ]
                },
                true,
            ),
            (
                "directory over a link",
                |o| vec![link("l", o), dir("l"), file("l/canary", b"x")],
                true,
            ),
            (
                "directory becomes a link",
                |o| {
                    vec![
                        dir("d"),
                        file("d/x", b""),
                        link("d", o),
                        file("d/canary", b"x"),
                    ]
                },
                true,
            ),
            (
                "hard link to what a link points at",
                |o| {
                    vec![
                        link("l", &format!("{o}/canary")),
                        hard("h", "l"),
                        file("h", b"x"),
                    ]
                },
                true,
            ),
            (
                "hard link through a link",
                |o| vec![link("l", o), hard("h", "l/canary")],
                false,
            ),
            (
                "hard link to itself",
                |_| vec![file("h", b"x"), hard("h", "h")],
                false,
            ),
            ("hard link to nothing", |_| vec![hard("h", "none")], false),
            (
                "whiteout of a name in a link",
                |o| vec![link("l", o), gone("l/canary")],
                true,
            ),
            ("whiteout and link", |o| vec![link("l", o), gone("l")], true),
            ("loop", |_| vec![link("l", "l"), file("l/x", b"x")], false),
            (
                "through a file",
                |_| vec![file("f", b"x"), file("f/x", b"x")],
                false,
            ),
            (
                "link to the root",
                |_| vec![link("l", "/"), file("l/x", b"x"), gone("l/y")],
                true,
            ),
            (
                "link far up",
                |_| {
                    vec![
                        link("l", "../../../../../../../.."),
                        file("l/outside/canary", b"x"),
                    ]
                },
                true,
            ),
        ];
        for (name, case, fine) in cases {
            for whiteouts in [Whiteouts::OverlayTrusted, Whiteouts::Apply] {
                let world = World::new();
                let result = world.unpack(&raw(&case(&outside(&world))), whiteouts);
                assert_eq!(result.is_ok(), fine, "{name}: {result:?}");
            }
        }
    }

    #[test]
    fn later_layers_cannot_get_outside_either() {
        let world = World::new();
        let outside = world.home.path().join("outside");
        world
            .unpack(
                &raw(&[link("l", outside.to_str().unwrap()), dir("d")]),
                Whiteouts::Apply,
            )
            .unwrap();
        symlink(&outside, world.path("d/l")).unwrap();
        world
            .unpack(
                &raw(&[gone("l/canary"), file("d/l/x", b"x"), gone("d"), gone("l")]),
                Whiteouts::Apply,
            )
            .unwrap();
        assert!(!world.path("l").is_symlink());
    }

    #[test]
    fn links_of_the_layer_are_followed_inside() {
        let world = World::new();
        let layer = raw(&[
            dir("usr"),
            dir("usr/bin"),
            link("bin", "usr/bin"),
            file("bin/sh", b"sh"),
            hard("bin/bash", "bin/sh"),
        ]);
        let unpacked = world.unpack(&layer, Whiteouts::OverlayTrusted).unwrap();
        assert_eq!(
            world.list(),
            ["bin", "usr/", "usr/bin/", "usr/bin/bash", "usr/bin/sh"]
        );
        let kind = unpacked.toc.get(b"usr/bin/bash").unwrap().kind;
        assert_eq!(
            kind,
            Kind::HardLink {
                target: b"usr/bin/sh".to_vec()
            }
        );
    }

    #[test]
    fn whiteouts_become_what_overlayfs_takes() {
        let world = World::new();
        let layer = raw(&[
            dir("a"),
            gone("a/x"),
            file("a/.wh..wh..opq", b""),
            gone("b"),
            dir("b"),
            gone("c"),
            file("c/y", b""),
            gone("d"),
            file("d", b""),
            file("e", b""),
            gone("e"),
        ]);
        let unpacked = world.unpack(&layer, Whiteouts::OverlayTrusted).unwrap();
        assert_eq!(
            world.list(),
            ["a/", "a/x (char)", "b/", "c/", "c/y", "d", "e"]
        );
        for (path, want) in [("a", true), ("b", true), ("c", true)] {
            let opaque = Kind::Directory {
                opaque: want,
                implied: path == "c",
            };
            assert_eq!(
                unpacked.toc.get(path.as_bytes()).unwrap().kind,
                opaque,
                "{path}"
            );
            let mut value = [0; 4];
            let length =
                rustix::fs::getxattr(world.path(path), "trusted.overlay.opaque", &mut value);
            assert_eq!((length, value[0]), (Ok(1), b'y'), "{path}");
        }
    }

    #[test]
    fn whiteouts_can_be_applied() {
        let world = World::new();
        let lower = raw(&[
            dir("a"),
            file("a/old", b""),
            dir("a/sub"),
            file("a/sub/old", b""),
            dir("b"),
            file("b/old", b""),
            file("c", b""),
            dir("d"),
            file("d/old", b""),
            file("keep", b""),
        ]);
        world.unpack(&lower, Whiteouts::Apply).unwrap();
        let upper = raw(&[
            dir("a"),
            dir("a/sub"),
            file("a/sub/new", b""),
            file("a/.wh..wh..opq", b""),
            gone("b"),
            gone("c"),
            file("d/new", b""),
            gone("d"),
            gone("none"),
            file("keep", b"2"),
            gone("keep"),
        ]);
        world.unpack(&upper, Whiteouts::Apply).unwrap();
        assert_eq!(
            world.list(),
            ["a/", "a/sub/", "a/sub/new", "d/", "d/new", "keep"]
        );
        assert_eq!(std::fs::read(world.path("keep")).unwrap(), b"2");
    }

    #[test]
    fn what_leans_on_lower_layers() {
        let below = World::new();
        let mut private = dir("srv");
        private.entry.meta.mode = 0o700;
        let lower = raw(&[
            private,
            file("srv/f", b"lower"),
            dir("usr"),
            dir("usr/lib"),
            link("lib", "usr/lib"),
        ]);
        let lower = below.unpack(&lower, Whiteouts::OverlayTrusted).unwrap().toc;
        let layer = raw(&[
            file("srv/new", b""),
            file("lib/x", b""),
            hard("srv/g", "srv/f"),
        ]);
        let alone = World::new();
        let error = alone.unpack(&layer, Whiteouts::OverlayTrusted).unwrap_err();
        assert!(matches!(error, LayerError::LinkTarget { .. }));
        let stack = Stack::new(vec![Arc::new(lower)]);
        let world = World::new();
        let roots = [below.root.clone()];
        let options = UnpackOptions {
            below: Some(Below {
                stack: &stack,
                roots: &roots,
            }),
            ..options(Whiteouts::OverlayTrusted)
        };
        let unpacked = unpack(&layer[..], &world.root, &options).unwrap();
        assert_eq!(
            world.list(),
            ["srv/", "srv/g", "srv/new", "usr/", "usr/lib/", "usr/lib/x"]
        );
        assert_eq!(std::fs::read(world.path("srv/g")).unwrap(), b"lower");
        assert_eq!(
            std::fs::metadata(world.path("srv"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o700
        );
        assert!(unpacked.toc.leans_on_lower());
    }

    #[test]
    fn attributes_that_steer_are_left_out() {
        let world = World::new();
        let mut steering = dir("d");
        steering.entry.meta.xattrs = vec![
            (b"trusted.overlay.redirect".to_vec(), b"/x".to_vec()),
            (b"user.fine".to_vec(), b"\n=".to_vec()),
            (b"user.strata.owner".to_vec(), b"0:0".to_vec()),
        ];
        let unpacked = world
            .unpack(&raw(&[steering]), Whiteouts::OverlayTrusted)
            .unwrap();
        let mut names = [0u8; 200];
        let length = rustix::fs::listxattr(world.path("d"), &mut names).unwrap();
        assert_eq!(&names[..length], b"user.fine\0");
        assert_eq!(unpacked.notes.len(), 2);
        assert_eq!(unpacked.toc.get(b"d").unwrap().meta.xattrs.len(), 1);
    }

    #[test]
    fn owners_of_a_single_id_are_kept_in_attributes() {
        let world = World::new();
        let mut owned = file("f", b"x");
        (owned.entry.meta.uid, owned.entry.meta.gid) = (33, 44);
        let mut options = options(Whiteouts::OverlayUser);
        options.tree.ownership = Ownership::Xattr;
        let layer = raw(&[owned.clone(), link("l", "f")]);
        unpack(&layer[..], &world.root, &options).unwrap();
        assert_eq!(
            std::fs::metadata(world.path("f")).unwrap().uid(),
            rustix::process::geteuid().as_raw()
        );
        let read = DiffOptions {
            ownership: Ownership::Xattr,
            ..DiffOptions::default()
        };
        let changes = diff(world.root.fd(), &Stack::default(), &read).unwrap();
        assert_eq!(changes[0].entry, owned.entry);
        assert_eq!((changes[1].entry.meta.uid, changes.len()), (0, 2));
    }

    #[test]
    fn limits_and_damage() {
        let big = raw(&[file("f", &vec![0; 3 << 20])]);
        let mut limited = options(Whiteouts::Apply);
        limited.limit_bytes = 1 << 20;
        let world = World::new();
        let error = unpack(&big[..], &world.root, &limited).unwrap_err();
        assert!(matches!(error, LayerError::Limit { .. }), "{error:?}");
        for cut in [1, 511, 700, 1 << 20, (3 << 20) + 511] {
            let world = World::new();
            let error = world.unpack(&big[..cut], Whiteouts::Apply).unwrap_err();
            assert!(matches!(error, LayerError::Archive { .. }), "{error:?}");
        }
        let mut blob = Vec::new();
        pack(
            vec![file("f", &[1; 5000])],
            &mut blob,
            &PackOptions::default(),
            None,
        )
        .unwrap();
        for cut in [10, blob.len() / 2, blob.len() - 1] {
            let error = World::new()
                .unpack(&blob[..cut], Whiteouts::Apply)
                .unwrap_err();
            assert!(matches!(error, LayerError::Input { .. }), "{error:?}");
        }
    }

    #[test]
    fn digests_are_those_of_all_bytes() {
        let mut blob = Vec::new();
        let packed = pack(
            vec![dir("d"), file("d/f", b"abc")],
            &mut blob,
            &PackOptions::default(),
            None,
        )
        .unwrap();
        let world = World::new();
        let unpacked = world.unpack(&blob, Whiteouts::OverlayTrusted).unwrap();
        assert_eq!(unpacked.digest, Digest::of(&blob));
        assert_eq!(
            (unpacked.digest, unpacked.size_bytes),
            (packed.digest, packed.size_bytes)
        );
        assert_eq!(
            (unpacked.diff_id, &unpacked.toc),
            (packed.diff_id, &packed.toc)
        );
        // Padding after the end of an archive counts too.
        let mut padded = raw(&[file("f", b"abc")]);
        padded.resize(10240, 0);
        let unpacked = World::new()
            .unpack(&padded, Whiteouts::OverlayTrusted)
            .unwrap();
        assert_eq!(unpacked.diff_id.0, Digest::of(&padded));
        assert_eq!(unpacked.digest, unpacked.diff_id.0);
    }

    #[test]
    fn sparse_files_come_out_whole() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        let made = File::create(&path).unwrap();
        made.set_len(2 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&made, b"data", 1 << 20).unwrap();
        let tar = std::process::Command::new("tar")
            .args(["-S", "-cf", "-", "-C", home.path().to_str().unwrap(), "s"])
            .output()
            .unwrap();
        let world = World::new();
        let unpacked = world.unpack(&tar.stdout, Whiteouts::Apply).unwrap();
        let want = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::read(world.path("s")).unwrap(), want);
        let entry = unpacked.toc.get(b"s").unwrap();
        assert_eq!(
            entry.kind,
            Kind::File {
                size_bytes: 2 << 20,
                content: Some(Digest::of(&want))
            }
        );
    }

    prop_compose! {
        fn any_change(at: usize)(
            choice in 0u8..8,
            mode in 0u32..0o10000,
            ids in (0u32..1 << 31, 0u32..1 << 31),
            mtime in -(1i64 << 31)..1 << 33,
            name in prop::collection::vec((1u8..).prop_filter("a name", |b| *b != b'/' && *b != b'.'), 1..120),
            target in prop::collection::vec(1u8.., 1..200),
            content in prop::collection::vec(any::<u8>(), 0..3000),
        ) -> Change {
            let size_bytes = content.len() as u64;
            let kind = match choice {
                0..=2 => Kind::File { size_bytes, content: Some(Digest::of(&content)) },
                3 => Kind::Directory { opaque: false, implied: false },
                4 => Kind::Symlink { target },
                5 => Kind::CharDevice { major: 1, minor: 3 },
                6 => Kind::Fifo,
                _ => Kind::BlockDevice { major: 7, minor: ids.0 & 0xff },
            };
            let source = if choice <= 2 { Bytes::Bytes(content.into()) } else { Bytes::None };
            let mode = if choice == 4 { 0o777 } else { mode };
            let path = [format!("{at}-").into_bytes(), name].concat();
            Change { entry: Entry { path, meta: Meta { mode, uid: ids.0, gid: ids.1, mtime, xattrs: vec![] }, kind }, source }
        }
    }

    /// Changes below each other, where the one before is a directory.
    fn any_tree() -> impl Strategy<Value = Vec<Change>> {
        let flat: Vec<_> = (0..8).map(any_change).collect();
        (flat, prop::collection::vec(any::<bool>(), 8)).prop_map(|(mut all, nest)| {
            for at in 1..all.len() {
                if nest[at] && all[at - 1].entry.is_dir() {
                    let name = std::mem::take(&mut all[at].entry.path);
                    all[at].entry.path = [all[at - 1].entry.path.as_slice(), b"/", &name].concat();
                }
            }
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn unpack_of_pack_is_the_tree(tree in any_tree(), which in 0usize..3) {
            let compression = [Compression::None, Compression::default(), Compression::zstd(None).unwrap()][which];
            let pack_options = PackOptions { compression, threads: 2, clamp_mtime: None };
            let (one, two) = (World::new(), World::new());
            let place = Materialise { root: two.root.clone(), tree: options(Whiteouts::OverlayTrusted).tree };
            let mut blob = Vec::new();
            let packed = pack(tree.clone(), &mut blob, &pack_options, Some(&place)).unwrap();
            let unpacked = one.unpack(&blob, Whiteouts::OverlayTrusted).unwrap();
            prop_assert_eq!(&unpacked.toc, &packed.toc);
            prop_assert_eq!(unpacked.diff_id, packed.diff_id);
            let mut want: Vec<Entry> = tree.into_iter().map(|c| c.entry).collect();
            want.sort_by(|a, b| crate::layer::entry::path_order(&a.path, &b.path));
            prop_assert_eq!(packed.toc.entries().collect::<Vec<_>>(), want);
            // What is on disk, read back, packs to the same bytes; from either tree.
            for world in [one, two] {
                let changes = diff(world.root.fd(), &Stack::default(), &DiffOptions::default()).unwrap();
                let again = pack(changes, io::sink(), &pack_options, None).unwrap();
                prop_assert_eq!(again.digest, packed.digest);
            }
        }

        #[test]
        fn damaged_archives_stay_inside(
            tree in any_tree(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = raw(&tree);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = World::new().unpack(&bytes, Whiteouts::Apply);
        }
    }
}
