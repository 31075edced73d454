//! Small layers' directories made one, for overlays of many.
//!
//! Every directory of an overlay costs each mount of it, and each name that is looked up. What is merged is plain: where an upper
//! layer has anything but a newer version of what a lower one has, the directories stay apart.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat, utimensat};

use super::StoreError;
use super::linked::{attributes, copy_file, give_meta};
use crate::layer::times;

/// How many entries a small layer has at most: making one again takes as long as mounting a directory more, so a merged directory
/// pays for itself within a few steps.
const SMALL_ENTRIES: usize = 8;

/// How many bytes its files have at most.
const SMALL_BYTES: u64 = 64 << 10;

/// Whether an unpacked layer is small and plain enough to be merged with others.
pub fn is_small_layer(layer: &Path) -> Result<bool, StoreError> {
    let (mut entries, mut bytes) = (0, 0);
    let mut dirs = vec![layer.to_owned()];
    while let Some(dir) = dirs.pop() {
        if is_opaque(&dir)? {
            return Ok(false);
        }
        for member in fs::read_dir(&dir).map_err(StoreError::file("read", &dir))? {
            let path = member.map_err(StoreError::file("read", &dir))?.path();
            let meta = fs::symlink_metadata(&path).map_err(StoreError::file("stat", &path))?;
            let kind = meta.file_type();
            entries += 1;
            if kind.is_file() {
                bytes += meta.len();
            }
            let plain = kind.is_dir() || kind.is_symlink() || is_whiteout(&meta) || {
                // Of several names of a file, the merged directory would make several files.
                kind.is_file() && meta.nlink() == 1
            };
            if !plain || entries > SMALL_ENTRIES || bytes > SMALL_BYTES {
                return Ok(false);
            }
            if kind.is_dir() {
                dirs.push(path);
            }
        }
    }
    Ok(true)
}

/// Makes `new` a directory that stands for the directories of small layers, **bottom first**, in an overlay. Their files are copied,
/// so that they have one name as before. `Ok(false)` means that it cannot stand for them, and is to be thrown away.
pub fn merge_layers(layers: &[PathBuf], new: &Path) -> Result<bool, StoreError> {
    make_dir(new)?;
    for layer in layers {
        if !add(layer, new)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn add(from: &Path, to: &Path) -> Result<bool, StoreError> {
    for member in fs::read_dir(from).map_err(StoreError::file("read", from))? {
        let name = member.map_err(StoreError::file("read", from))?.file_name();
        let (from, to) = (from.join(&name), to.join(&name));
        let meta = fs::symlink_metadata(&from).map_err(StoreError::file("stat", &from))?;
        let there = match fs::symlink_metadata(&to) {
            Ok(there) => Some(there),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(StoreError::file("stat", &to)(e)),
        };
        match (meta.is_dir(), there.map(|there| there.is_dir())) {
            // One on top of the other hides more than itself.
            (true, Some(false)) | (false, Some(true)) => return Ok(false),
            (true, None) => make_dir(&to)?,
            (true, Some(true)) | (false, None) => {}
            (false, Some(false)) => {
                fs::remove_file(&to).map_err(StoreError::file("remove", &to))?;
            }
        }
        if meta.is_dir() {
            if !add(&from, &to)? {
                return Ok(false);
            }
        } else if is_whiteout(&meta) {
            fs::hard_link(&from, &to).map_err(StoreError::file("link", &to))?;
        } else if meta.is_symlink() {
            link_anew(&from, &to, &meta)?;
        } else if meta.is_file() {
            copy_file(&from, &to, &meta)?;
        } else {
            return Ok(false);
        }
    }
    // A directory is as its topmost layer has it, and it is plain where that has all attributes of those below.
    let (old, new) = (attributes(from)?, attributes(to)?);
    let gone = |(name, _): &(Vec<u8>, Vec<u8>)| old.iter().all(|(other, _)| other != name);
    if new.iter().any(gone) {
        return Ok(false);
    }
    let meta = fs::symlink_metadata(from).map_err(StoreError::file("stat", from))?;
    let dir = File::open(to).map_err(StoreError::file("open", to))?;
    give_meta(from, &meta, &dir, to)?;
    Ok(true)
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(StoreError::file("create", path))
}

fn link_anew(from: &Path, to: &Path, meta: &Metadata) -> Result<(), StoreError> {
    let target = fs::read_link(from).map_err(StoreError::file("read", from))?;
    std::os::unix::fs::symlink(target, to).map_err(StoreError::file("create", to))?;
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(StoreError::call("set the owner of", to))?;
    utimensat(CWD, to, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(StoreError::call("set the time of", to))
}

fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Whether a directory hides what is below it.
fn is_opaque(dir: &Path) -> Result<bool, StoreError> {
    let all = attributes(dir)?;
    Ok(all
        .iter()
        .any(|(name, _)| name.ends_with(b".overlay.opaque")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Makes layers by shell scripts; whether each is small, whether they can be merged, and what `find` says of the result.
    fn merged(scripts: &[&str]) -> (Vec<bool>, bool, String) {
        let home = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..scripts.len())
            .map(|at| home.path().join(at.to_string()))
            .collect();
        for (layer, script) in layers.iter().zip(scripts) {
            fs::create_dir(layer).unwrap();
            let done = Command::new("sh")
                .args(["-ec", script])
                .current_dir(layer)
                .status();
            assert!(done.unwrap().success(), "{script}");
        }
        let small = layers.iter().map(|layer| is_small_layer(layer).unwrap());
        let small = small.collect();
        let new = home.path().join("new");
        let fits = merge_layers(&layers, &new).unwrap();
        let found = Command::new("find")
            .args([".", "-mindepth", "1", "-printf"])
            .arg("%P %y %m %n %s %l %TY\\n")
            .current_dir(&new)
            .output()
            .unwrap();
        let mut lines: Vec<_> = str::from_utf8(&found.stdout).unwrap().lines().collect();
        lines.sort_unstable();
        (small, fits, lines.join("\n"))
    }

    #[test]
    fn the_topmost_version_counts() {
        let (small, fits, found) = merged(&[
            "mkdir -m 755 d; echo 1 >d/a; echo 12 >d/b; ln -s x l; touch -d 2001-01-01 d/a d/b d; touch -hd 2003-01-01 l",
            "mkdir -m 711 d; echo 123 >d/a; chmod 640 d/a; ln -s yy m; touch -d 2002-01-01 d/a d; touch -hd 2004-01-01 m",
        ]);
        assert_eq!((small, fits), (vec![true, true], true));
        // A directory's size is the file system's.
        let found: Vec<_> = found
            .lines()
            .filter(|line| !line.starts_with("d d"))
            .collect();
        assert_eq!(
            found,
            [
                "d/a f 640 1 4  2002",
                "d/b f 644 1 3  2001",
                "l l 777 1 1 x 2003",
                "m l 777 1 2 yy 2004"
            ]
        );
    }

    #[test]
    fn what_hides_more_than_itself_stays_apart() {
        for (below, above) in [
            ("mkdir d; echo 1 >d/a", "echo 1 >d"),
            ("echo 1 >d", "mkdir d"),
            ("ln -s / d", "mkdir d"),
        ] {
            assert!(!merged(&[below, above]).1, "{below}; {above}");
        }
    }

    #[test]
    fn what_is_not_small() {
        for (script, small) in [
            ("", true),
            ("for i in 1 2 3 4 5 6 7 8; do echo >$i; done", true),
            ("for i in 1 2 3 4 5 6 7 8 9; do echo >$i; done", false),
            ("mkdir -p 1/2/3/4/5/6/7/8/9", false),
            ("head -c 65536 /dev/zero >f", true),
            ("head -c 65537 /dev/zero >f", false),
            ("echo >a; ln a b", false),
            ("mkfifo p", false),
        ] {
            assert_eq!(merged(&[script]).0, [small], "{script}");
        }
    }
}
