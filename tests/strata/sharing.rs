//! `dedup --apply`: what it frees, on each file system, and that nothing else changes: killed, beside others, and without root.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::lab::{Lab, Running, files, labs, said, succeed};

/// Files that the two images have in common, and how long each is.
const FILES: usize = 240;
const FILE_BYTES: usize = 128 << 10;

/// How far the freed bytes may be from what the files took: blocks of metadata, and what the file system writes for itself.
const GRANULARITY_BYTES: i64 = 2 << 20;

/// A file system of its own in a file, mounted until this is dropped.
struct Mounted {
    folder: PathBuf,
}

impl Mounted {
    /// Makes one of this kind for the lab, which has its store there then. `None`, and a word why, where the kernel or the machine has
    /// no such thing.
    fn new(lab: &mut Lab, kind: &str) -> Option<Mounted> {
        let folder = lab.beside(&format!("mnt-{kind}"));
        let image = folder.with_extension("image");
        let file = std::fs::File::create(&image).expect("make a file");
        file.set_len(1 << 30).expect("make it long");
        let force = if kind == "ext4" { "-F" } else { "-f" };
        let made = Command::new(format!("mkfs.{kind}"))
            .arg("-q")
            .arg(force)
            .arg(&image)
            .output();
        let made = made.unwrap_or_else(|e| panic!("mkfs.{kind}: {e}; tests/run.sh installs it"));
        assert!(made.status.success(), "mkfs.{kind}: {}", said(&made));
        let mounted = Command::new("mount")
            .args(["-t", kind, "-o", "loop"])
            .args([&image, &folder])
            .output()
            .expect("start mount");
        if !mounted.status.success() {
            // There is no other way to have one: said, so that nobody takes it for tested.
            let why = said(&mounted);
            writeln!(std::io::stderr(), "NOT TESTED on {kind}: {why}").expect("standard error");
            return None;
        }
        if let Some(user) = &lab.user {
            user.own(&folder).expect("give the folder away");
        }
        lab.root = folder.join("store");
        Some(Mounted { folder })
    }

    /// What is free when everything is written.
    fn free_bytes(&self) -> i64 {
        let dir = std::fs::File::open(&self.folder).expect("it is mounted");
        rustix::fs::syncfs(&dir).expect("flush it");
        let space = rustix::fs::statvfs(&self.folder).expect("measure it");
        i64::try_from(space.f_bfree * space.f_frsize).expect("less than 8 EiB")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let lazily = Command::new("umount").arg("-l").arg(&self.folder).status();
            assert!(lazily.is_ok(), "start umount");
        }
    }
}

/// Bytes that no other number gives, and that do not compress to nothing.
fn content(number: usize, length: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[1]
    };
    (0..length).map(|_| next()).collect()
}

/// A root file system as a tar: a shell, the common files below `usr/data`, and files with every kind of metadata. `extra` makes it
/// another layer.
fn rootfs(extra: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put =
        |path: &str, bytes: &[u8], mode: u32, owner: u64, xattr: Option<(&str, &[u8])>| {
            if let Some(pair) = xattr {
                tar.append_pax_extensions([pair]).expect("an attribute");
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(mode);
            header.set_uid(owner);
            header.set_gid(owner * 2);
            header.set_mtime(1_000_000_000 + u64::from(mode));
            tar.append_data(&mut header, path, bytes).expect("a file");
        };
    let busybox = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"));
    let busybox = busybox.expect("busybox; tests/run.sh installs it");
    put("bin/busybox", &busybox, 0o755, 0, None);
    put("bin/sh", &busybox, 0o755, 0, None);
    put("bin/true", &busybox, 0o755, 0, None);
    for number in 0..FILES {
        let bytes = content(number, FILE_BYTES);
        put(
            &format!("usr/data/{}/{number}", number % 7),
            &bytes,
            0o644,
            0,
            None,
        );
    }
    let odd = content(9999, 70_000);
    let note = ("SCHILY.xattr.user.note", &b"kept"[..]);
    put("usr/odd/owned", &odd, 0o640, 7, None);
    put("usr/odd/set-id", &odd, 0o4711, 0, None);
    put("usr/odd/noted", &odd, 0o600, 3, Some(note));
    put("usr/odd/empty", b"", 0o400, 0, None);
    put("usr/odd/a name\n\u{1b}", &odd, 0o444, 0, None);
    put("etc/counted", &odd, 0o644, 0, None);
    put("usr/extra", extra.as_bytes(), 0o644, 0, None);
    tar.into_inner().expect("in memory")
}

/// Two images with the same files in layers of their own, unpacked.
fn two_images(lab: &Lab) {
    for name in ["one", "two"] {
        let path = lab.folder.join(format!("{name}.tar"));
        std::fs::write(&path, rootfs(name)).expect("write a tar");
        lab.ok(&["import", "-t", name, &path.to_string_lossy()]);
        lab.write(name, &format!("FROM {name}\nRUN true\n"));
        lab.ok(&["build", "-q", "-f", name, "-t", &format!("{name}-run"), "."]);
    }
}

/// All that there is to know of a path but its inode, its count of links, and when its inode changed.
type State = (
    u32,
    u32,
    u32,
    i64,
    i64,
    u64,
    Vec<u8>,
    Vec<(Vec<u8>, Vec<u8>)>,
);

/// What the unpacked layers hold.
fn state(lab: &Lab) -> BTreeMap<PathBuf, State> {
    let layers = lab.root.join("layers");
    let mut all = BTreeMap::new();
    for path in files(&layers) {
        let whole = layers.join(&path);
        let meta = std::fs::symlink_metadata(&whole).expect("it was listed");
        let kind = meta.file_type();
        let content = match () {
            () if kind.is_file() => {
                crate::image::sha256(&std::fs::read(&whole).expect("read it")).into_bytes()
            }
            () if kind.is_symlink() => {
                let target = std::fs::read_link(&whole).expect("read it");
                target.as_os_str().as_bytes().to_vec()
            }
            () => Vec::new(),
        };
        // The store's own marks may come and go.
        if path.components().count() == 2 && path.file_name().is_some_and(|n| n == "boot") {
            continue;
        }
        let device = if kind.is_char_device() || kind.is_block_device() {
            meta.rdev()
        } else {
            0
        };
        let inside = path.components().any(|part| part.as_os_str() == "fs");
        let (seconds, nanoseconds) = if inside {
            (meta.mtime(), meta.mtime_nsec())
        } else {
            (0, 0)
        };
        let state = (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            seconds,
            nanoseconds,
            device,
            content,
            attributes(&whole),
        );
        all.insert(path, state);
    }
    assert!(
        all.len() > 2 * FILES,
        "the layers are unpacked: {}",
        all.len()
    );
    all
}

/// Asserts that nothing changed; of what did, the first is told.
#[track_caller]
fn assert_same(before: &BTreeMap<PathBuf, State>, after: &BTreeMap<PathBuf, State>, when: &str) {
    for (path, state) in before {
        assert_eq!(after.get(path), Some(state), "{when}: {}", path.display());
    }
    let new: Vec<_> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert!(new.is_empty(), "{when}: {new:?}");
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).expect("list attributes");
    let names = names[..length]
        .split(|c| *c == 0)
        .filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("read one");
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    all.sort();
    all
}

/// What `dedup --apply` says.
fn apply(lab: &Lab) -> serde_json::Value {
    let text = lab.ok(&["dedup", "--apply", "--format", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn it_frees_what_it_says_and_changes_nothing() {
    if !rustix::process::geteuid().is_root() {
        writeln!(std::io::stderr(), "NOT TESTED: mounting needs root").expect("standard error");
        return;
    }
    for kind in ["ext4", "xfs", "btrfs"] {
        for mut lab in labs() {
            let Some(mounted) = Mounted::new(&mut lab, kind) else {
                continue;
            };
            two_images(&lab);
            let (before, images) = (state(&lab), lab.images());
            let free_before = mounted.free_bytes();
            let report = apply(&lab);
            let freed = mounted.free_bytes() - free_before;
            assert_same(&before, &state(&lab), kind);
            assert_eq!(lab.images(), images);
            lab.assert_sound();
            let number = |name: &str| report[name].as_i64().expect("a number");
            assert!(
                (number("freed_bytes") - freed).abs() <= GRANULARITY_BYTES,
                "{kind}: freed {freed}, and it says {report}"
            );
            assert!(
                (number("shared_bytes") - freed).abs() <= GRANULARITY_BYTES,
                "{kind}: freed {freed}, and it says {report}"
            );
            let common = i64::try_from(FILES * FILE_BYTES).expect("it is small");
            assert!(
                freed >= common - GRANULARITY_BYTES,
                "{kind}: {freed} of {common}"
            );
            let (linked, cloned) = (number("linked"), number("cloned"));
            let files = i64::try_from(FILES).expect("it is small");
            match kind {
                "ext4" => assert!(linked >= files && cloned == 0, "{report}"),
                _ => assert!(cloned >= files && linked == 0, "{kind}: {report}"),
            }
            // The images run and build as before.
            lab.ok(&["run", "one-run", "true"]);
            lab.write("again", "FROM two\nRUN true && sh -c true\n");
            lab.ok(&["build", "-q", "-f", "again", "."]);
            lab.assert_sound();
        }
    }
}

#[test]
fn killed_at_any_point() {
    for lab in labs() {
        two_images(&lab);
        let before = state(&lab);
        let work = lab.root.join("work");
        // So many files of the new tree are there when it is killed. None: at once; too many: after the trees were exchanged, or not
        // at all if it was quicker.
        for count in [0, 1, 40, FILES, FILES + 20, usize::MAX] {
            let mut running = Running::start(lab.strata(&["dedup", "--apply"]));
            let mut most = 0;
            loop {
                let now = files(&work).len();
                // The old tree, put aside, grows smaller.
                if now >= count || now < most && count == usize::MAX {
                    break;
                }
                most = most.max(now);
                if running
                    .child
                    .try_wait()
                    .expect("it was started here")
                    .is_some()
                {
                    break;
                }
            }
            if running
                .child
                .try_wait()
                .expect("it was started here")
                .is_none()
            {
                running.signal(Signal::KILL);
            }
            running.wait();
            lab.assert_sound();
            assert_same(&before, &state(&lab), &format!("killed at {count}"));
        }
        let report = apply(&lab);
        let shared = ["linked", "cloned", "already"].map(|name| report[name].as_u64().unwrap_or(0));
        assert!(shared.iter().sum::<u64>() >= FILES as u64, "{report}");
        assert_same(&before, &state(&lab), "in the end");
        lab.assert_sound();
    }
}

#[test]
fn beside_builds_that_run() {
    for lab in labs() {
        two_images(&lab);
        // A build that waits for its base; whoever shares files waits for it.
        lab.write(
            "Dockerfile",
            "FROM @REG@/whiteout AS base\nFROM one\nCOPY --from=base / /base\nRUN true\n",
        );
        lab.registry.hold("GET", "/blobs/");
        let mut build = Running::start(lab.strata(&["build", "-t", "app", "."]));
        lab.registry.wait_held();
        let mut sharing = Running::start(lab.strata(&["dedup", "--apply"]));
        sharing.hear("waiting for other strata processes");
        let before = state(&lab);
        lab.registry.release();
        assert!(build.wait().success(), "{}", build.heard());
        assert!(sharing.wait().success(), "{}", sharing.heard());
        let after = state(&lab);
        assert!(
            before
                .iter()
                .all(|(path, state)| after.get(path) == Some(state))
        );
        lab.assert_sound();
        // Many at once: each sees whole layers, or waits.
        let commands: Vec<Running> = (0..9)
            .map(|number| match number % 3 {
                0 => Running::start(lab.strata(&["dedup", "--apply"])),
                _ => {
                    let name = format!("file-{number}");
                    let base = ["one", "two"][number % 2];
                    lab.write(&name, &format!("FROM {base}\nRUN busybox cat /usr/data/*/* >/all && busybox rm /usr/data/1/1 && echo {number} >/n\n"));
                    let tag = format!("many-{number}");
                    Running::start(lab.strata(&["build", "-q", "-f", &name, "-t", &tag, "."]))
                }
            })
            .collect();
        for mut command in commands {
            assert!(command.wait().success(), "{}", command.heard());
        }
        let after = state(&lab);
        assert!(
            before
                .iter()
                .all(|(path, state)| after.get(path) == Some(state))
        );
        lab.assert_sound();
        let sum = |image: &str| {
            succeed(&mut lab.strata(&[
                "run",
                image,
                "sh",
                "-c",
                "busybox cat /all | busybox md5sum",
            ]))
        };
        assert_eq!(sum("many-1"), sum("many-2"));
    }
}
