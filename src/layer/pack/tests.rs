//! Changes to blobs: the same bytes however they are made, and every file that is not what it was named.

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
    let changed = |packed| matches!(packed, Err(LayerError::Changed { path, .. }) if path == "f");
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
