//! Diffs of real overlays, and of what overlays leave behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;
use crate::layer::tar::WhiteoutNames;
use crate::layer::{
    Compression, Devices, PackOptions, Toc, TreeOptions, UnpackOptions, Whiteouts, pack, unpack,
};

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let ended = unmount(&self.0, UnmountFlags::DETACH);
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// A home with lower directories, an upper one and a place to mount them.
struct World(tempfile::TempDir);

impl World {
    fn new() -> World {
        let home = tempfile::tempdir().unwrap();
        for name in ["base", "upper", "work", "merged", "next", "again"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        World(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mount(&self, lower: &[&str], upper: bool) -> Mounted {
        let lower: Vec<String> = lower
            .iter()
            .map(|l| self.path(l).to_str().unwrap().into())
            .collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if upper {
            let path = |n| self.path(n).to_str().unwrap().to_owned();
            options += &format!(",upperdir={},workdir={}", path("upper"), path("work"));
        }
        let at = self.path("merged");
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "overlay",
            &at,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Mounted(at)
    }

    fn root(&self, name: &str) -> Root {
        Root::open(&self.path(name)).unwrap()
    }

    /// The table of a directory as it is.
    fn toc(&self, name: &str) -> Toc {
        let changes = diff(
            self.root(name).fd(),
            &Stack::default(),
            &DiffOptions::default(),
        );
        let packed = pack(changes.unwrap(), io::sink(), &plain(), None);
        Arc::unwrap_or_clone(packed.unwrap().toc)
    }

    fn diff(&self, lower: &Stack) -> Vec<Change> {
        let changes = diff(self.root("upper").fd(), lower, &DiffOptions::default());
        changes.unwrap().iter().collect()
    }
}

fn plain() -> PackOptions {
    PackOptions {
        compression: Compression::None,
        ..PackOptions::default()
    }
}

fn base(at: &Path) {
    for dir in ["etc", "usr/bin", "var/lib/a", "var/lib/b", "same"] {
        fs::create_dir_all(at.join(dir)).unwrap();
    }
    for file in [
        "etc/passwd",
        "etc/group",
        "usr/bin/sh",
        "var/lib/a/1",
        "var/lib/a/2",
        "var/lib/b/1",
        "same/f",
        "same/g",
    ] {
        fs::write(at.join(file), file).unwrap();
    }
    fs::hard_link(at.join("usr/bin/sh"), at.join("usr/bin/dash")).unwrap();
    symlink("usr/bin", at.join("bin")).unwrap();
}

/// Path, type and mode, owner, time, and size or target, of all below a directory.
fn snapshot(at: &Path, from: &Path, all: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(at)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.file_type() {
            t if t.is_file() => format!("{:?}", fs::read(&path).unwrap()),
            t if t.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        let name = path.strip_prefix(from).unwrap().display();
        all.push(format!(
            "{name} {:o} {}:{} {} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime()
        ));
        if meta.is_dir() {
            snapshot(&path, from, all);
        }
    }
}

fn names(changes: &[Change]) -> Vec<String> {
    let mark = |c: &Change| match &c.entry.kind {
        Kind::Whiteout => "-",
        Kind::HardLink { .. } => "=",
        Kind::Directory { .. } => "/",
        _ => "",
    };
    changes
        .iter()
        .map(|c| format!("{}{}", String::from_utf8_lossy(&c.entry.path), mark(c)))
        .collect()
}

#[test]
fn the_layer_of_a_real_overlay_gives_its_view_again() {
    let world = World::new();
    base(&world.path("base"));
    let lower = Stack::new(vec![Arc::new(world.toc("base"))]);
    let merged = world.path("merged");
    let mut want = Vec::new();
    {
        let _mounted = world.mount(&["base"], true);
        let times = |path: &str| {
            let meta = fs::metadata(merged.join(path)).unwrap();
            let kept = std::time::UNIX_EPOCH + std::time::Duration::from_secs(meta.mtime() as u64);
            fs::File::options()
                .write(true)
                .open(merged.join(path))
                .unwrap()
                .set_modified(kept)
                .unwrap();
        };
        fs::write(merged.join("etc/passwd"), "changed").unwrap();
        fs::remove_file(merged.join("etc/group")).unwrap();
        fs::remove_dir_all(merged.join("var/lib/a")).unwrap();
        fs::create_dir(merged.join("var/lib/a")).unwrap();
        fs::write(merged.join("var/lib/a/2"), "new").unwrap();
        fs::remove_dir_all(merged.join("var/lib/b")).unwrap();
        fs::write(merged.join("var/lib/b"), "a file now").unwrap();
        fs::remove_file(merged.join("bin")).unwrap();
        fs::create_dir(merged.join("bin")).unwrap();
        fs::write(merged.join("bin/x"), "x").unwrap();
        fs::hard_link(merged.join("bin/x"), merged.join("bin/y")).unwrap();
        fs::set_permissions(merged.join("bin/x"), fs::Permissions::from_mode(0o4755)).unwrap();
        // Copied up and put back as it was.
        times("same/f");
        // Another name of a file below: both names are of one file from now on.
        fs::hard_link(merged.join("same/g"), merged.join("etc/g")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(merged.join("socket")).unwrap());
        snapshot(&merged, &merged, &mut want);
    }
    want.retain(|line| !line.starts_with("socket"));
    let changes = world.diff(&lower);
    assert_eq!(
        names(&changes),
        [
            "bin/",
            "bin/x",
            "bin/y=",
            "etc/",
            "etc/g",
            "etc/group-",
            "etc/passwd",
            "same/",
            "same/g=",
            "var/",
            "var/lib/",
            "var/lib/a/",
            "var/lib/a/1-",
            "var/lib/a/2",
            "var/lib/b"
        ]
    );
    let mut blob = Vec::new();
    let packed = pack(changes, &mut blob, &PackOptions::default(), None).unwrap();
    let options = UnpackOptions {
        tree: TreeOptions {
            ownership: Ownership::Real,
            whiteouts: Whiteouts::OverlayTrusted,
            devices: Devices::Create,
        },
        names: WhiteoutNames::Oci,
        limit_bytes: 1 << 30,
        below: None,
    };
    let unpacked = unpack(&blob[..], &world.root("next"), &options).unwrap();
    assert_eq!(unpacked.toc, *packed.toc);
    let mut stack = lower.clone();
    stack.push(Arc::new(unpacked.toc));
    let mut got = Vec::new();
    {
        let _mounted = world.mount(&["next", "base"], false);
        snapshot(&merged, &merged, &mut got);
    }
    assert_eq!(got, want);
    // The tables say together what the kernel shows.
    let walked: Vec<String> = stack
        .walk(b"")
        .skip(1)
        .map(|f| String::from_utf8(f.entry.path).unwrap())
        .collect();
    let mut shown: Vec<String> = got
        .iter()
        .map(|l| l.split(' ').next().unwrap().to_owned())
        .collect();
    shown.sort_by(|a, b| crate::layer::entry::path_order(a.as_bytes(), b.as_bytes()));
    assert_eq!(walked, shown);
    // And applied one after the other they are a plain tree of the same files.
    let apply = UnpackOptions {
        tree: TreeOptions {
            whiteouts: Whiteouts::Apply,
            ..options.tree
        },
        ..options
    };
    let again = world.root("again");
    let mut first = Vec::new();
    let base = diff(
        world.root("base").fd(),
        &Stack::default(),
        &DiffOptions::default(),
    )
    .unwrap();
    pack(base, &mut first, &plain(), None).unwrap();
    unpack(&first[..], &again, &apply).unwrap();
    unpack(&blob[..], &again, &apply).unwrap();
    let mut plain = Vec::new();
    snapshot(&world.path("again"), &world.path("again"), &mut plain);
    assert_eq!(plain, want);
}

#[test]
fn a_directory_moved_into_an_opaque_one_hides_all_of_it() {
    let world = World::new();
    fs::create_dir_all(world.path("base/d/sub")).unwrap();
    fs::write(world.path("base/d/sub/old"), "").unwrap();
    let lower = Stack::new(vec![Arc::new(world.toc("base"))]);
    {
        let _mounted = world.mount(&["base"], true);
        fs::remove_dir_all(world.path("merged/d")).unwrap();
        fs::create_dir_all(world.path("merged/d/sub")).unwrap();
    }
    assert_eq!(names(&world.diff(&lower)), ["d/", "d/sub/", "d/sub/old-"]);
}

#[test]
fn what_is_left_out() {
    let world = World::new();
    base(&world.path("base"));
    let lower = Stack::new(vec![Arc::new(world.toc("base"))]);
    {
        let _mounted = world.mount(&["base"], true);
        fs::write(world.path("merged/etc/hosts"), "stub").unwrap();
        fs::create_dir_all(world.path("merged/run/secrets/x")).unwrap();
        // Made and removed again: the whiteout hides nothing.
        fs::write(world.path("merged/same/tmp"), "").unwrap();
        fs::remove_file(world.path("merged/same/tmp")).unwrap();
    }
    let stubs = |path: &[u8]| path == b"etc/hosts" || path == b"run";
    let options = DiffOptions {
        exclude: &stubs,
        ownership: Ownership::Real,
    };
    let changes = diff(world.root("upper").fd(), &lower, &options).unwrap();
    let changes: Vec<Change> = changes.iter().collect();
    // The directories that were written to have a new time, or may have.
    assert!(names(&changes).iter().all(|n| n == "etc/" || n == "same/"));
    let node = rustix::fs::CWD;
    let dev = rustix::fs::makedev(0, 0);
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(
        node,
        world.path("upper/none"),
        FileType::CharacterDevice,
        mode,
        dev,
    )
    .unwrap();
    assert!(!names(&world.diff(&lower)).contains(&"none-".to_owned()));
}

#[test]
fn directories_in_which_nothing_is_left_go() {
    let world = World::new();
    for dir in ["tmp/deep/er", "mode", "written", "hidden/sub", "gone/sub"] {
        fs::create_dir_all(world.path("base").join(dir)).unwrap();
    }
    fs::write(world.path("base/hidden/sub/old"), "").unwrap();
    let lower = Stack::new(vec![Arc::new(world.toc("base"))]);
    {
        let merged = world.path("merged");
        let _mounted = world.mount(&["base"], true);
        let touch = |dir: &str| {
            fs::write(merged.join(dir).join("file"), "").unwrap();
            fs::remove_file(merged.join(dir).join("file")).unwrap();
        };
        for dir in ["tmp/deep/er", "mode", "written"] {
            touch(dir);
        }
        fs::set_permissions(merged.join("mode"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(merged.join("written/new"), "").unwrap();
        fs::create_dir(merged.join("new")).unwrap();
        fs::remove_dir(merged.join("gone/sub")).unwrap();
        // What was in it is gone, though it looks as it did.
        fs::remove_dir_all(merged.join("hidden")).unwrap();
        fs::create_dir_all(merged.join("hidden/sub")).unwrap();
    }
    let upper = world.path("upper");
    let entries = || world.diff(&lower).into_iter().map(|change| change.entry);
    let changes: Vec<Entry> = entries().collect();
    let time = || fs::metadata(&upper).unwrap().modified().unwrap();
    let before = time();
    assert!(upper.join("tmp/deep/er").exists());
    remove_unchanged_directories(world.root("upper").fd(), &lower, Ownership::Real).unwrap();
    assert_eq!(time(), before);
    let dir = fs::File::open(&upper).unwrap();
    let left = super::names(dir.as_fd()).unwrap();
    let left: Vec<_> = left
        .iter()
        .map(|name| str::from_utf8(name).unwrap())
        .collect();
    assert_eq!(left, ["gone", "hidden", "mode", "new", "written"]);
    assert!(upper.join("hidden/sub").exists());
    assert!(entries().eq(changes));
}

#[test]
fn nothing_changed_is_an_empty_layer() {
    let world = World::new();
    base(&world.path("upper"));
    let lower = Stack::new(vec![Arc::new(world.toc("upper"))]);
    let changes = world.diff(&lower);
    assert_eq!(names(&changes), [""; 0]);
    let packed = pack(changes, io::sink(), &plain(), None).unwrap();
    // The diffID that other builders give the empty layer.
    assert_eq!(
        packed.diff_id.to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
}

#[test]
fn capabilities_lose_the_namespace() {
    let third = [&[1, 0, 0, 3][..], &[7; 16], &[0xe9, 3, 0, 0]].concat();
    let second = [&[1, 0, 0, 2][..], &[7; 16]].concat();
    assert_eq!(second_form(third), second);
    assert_eq!(second_form(second.clone()), second);
}

#[test]
fn capabilities_are_kept_and_nothing_else() {
    let world = World::new();
    let path = world.path("upper/f");
    fs::write(&path, "").unwrap();
    let value = [&[1, 0, 0, 2][..], &[0; 16]].concat();
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&path, CAPABILITY, &value, none).unwrap();
    rustix::fs::setxattr(&path, "user.other", b"x", none).unwrap();
    let changes = world.diff(&Stack::default());
    assert_eq!(changes[0].entry.meta.xattrs, [(CAPABILITY.into(), value)]);
}
