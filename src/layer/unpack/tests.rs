//! Hostile layers stay inside, and what is packed comes out again.

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
        let length = rustix::fs::getxattr(world.path(path), "trusted.overlay.opaque", &mut value);
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
        dir("bare"),
        file("bare/old", b""),
        dir("d"),
        file("d/old", b""),
        file("keep", b""),
    ]);
    world.unpack(&lower, Whiteouts::Apply).unwrap();
    let upper = raw(&[
        file("bare/.wh..wh..opq", b""),
        file("bare/new", b""),
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
        [
            "a/",
            "a/sub/",
            "a/sub/new",
            "bare/",
            "bare/new",
            "d/",
            "d/new",
            "keep"
        ]
    );
    assert_eq!(std::fs::read(world.path("keep")).unwrap(), b"2");
}

#[test]
fn no_directory_has_the_time_of_unpacking() {
    let old = |path: &str| {
        let mut old = dir(path);
        old.entry.meta.mtime = 1_600_000_000;
        old
    };
    let lower = [
        file("implied/deep/f", b""),
        old("old"),
        file("old/f", b""),
        old("emptied"),
        old("emptied/sub"),
        old("opaque"),
        file("opaque/f", b""),
        old("linked"),
        link("link", "linked"),
        old("again"),
        file("again/f", b""),
        file("bare/f", b""),
        old("told"),
    ];
    let upper = [
        file("implied/other/f", b""),
        file("old/made/deep/f", b""),
        file("old/f", b"2"),
        file("emptied/sub/f", b""),
        gone("emptied/sub"),
        file("opaque/.wh..wh..opq", b""),
        file("link/f", b""),
        gone("again"),
        file("again/g", b""),
        gone("bare/f"),
        file("told/f", b""),
        dir("told"),
    ];
    let world = World::new();
    for layer in [&lower[..], &upper] {
        world.unpack(&raw(layer), Whiteouts::Apply).unwrap();
    }
    for (path, want) in [
        ("implied", 0),
        ("implied/deep", 0),
        ("implied/other", 0),
        ("old", 1_600_000_000),
        ("old/made", 0),
        ("old/made/deep", 0),
        ("emptied", 1_600_000_000),
        ("emptied/sub", 1_600_000_000),
        ("opaque", 1_600_000_000),
        ("linked", 1_600_000_000),
        ("again", 0),
        ("bare", 0),
        ("told", 1_700_000_000),
    ] {
        let meta = std::fs::metadata(world.path(path)).expect(path);
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (want, 0), "{path}");
    }
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
    assert_eq!(changes.get(0).entry, owned.entry);
    assert_eq!((changes.get(1).entry.meta.uid, changes.len()), (0, 2));
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
        (packed.diff_id, &*packed.toc)
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
        let pack_options = PackOptions { compression, threads: 2, ..PackOptions::default() };
        let (one, two) = (World::new(), World::new());
        let place = Materialise { root: two.root.clone(), tree: options(Whiteouts::OverlayTrusted).tree };
        let mut blob = Vec::new();
        let packed = pack(tree.clone(), &mut blob, &pack_options, Some(&place)).unwrap();
        let unpacked = one.unpack(&blob, Whiteouts::OverlayTrusted).unwrap();
        prop_assert_eq!(&unpacked.toc, &*packed.toc);
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
