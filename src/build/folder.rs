//! A folder of the host as a tree: the build context, a named context, a checkout, an unpacked archive.
//!
//! The folder is read in place and read once: names and metadata in one walk, contents when a step asks for them. What a
//! content hashed to in an earlier build counts as long as device, inode, size, mtime and ctime are the same.

use std::collections::HashMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};

use crate::dockerfile::ignore::{Ignore, State};
use crate::layer::{Entry, Kind, Meta, Toc};
use crate::oci::{Digest, Hasher};
use crate::store::{FileHashes, FileStamp, Store, StoreError};

use super::BuildError;

/// What a file to be hashed is read in: larger pieces are no faster, smaller ones cost calls.
const READ_BYTES: usize = 256 * 1024;

/// A folder that was walked.
pub(super) struct Folder {
    path: PathBuf,
    root: Arc<OwnedFd>,
    files: HashMap<Vec<u8>, FileStamp>,
    links: HashMap<Vec<u8>, (u64, u64)>,
    hashes: Option<FileHashes>,
}

impl Folder {
    /// Reads the names and metadata below `path` that `ignore` lets through. Owners are 0:0 and attributes none: whose
    /// files they are on the host says nothing about the image.
    pub(super) fn walk(
        path: &Path,
        ignore: Option<&Ignore>,
        hashes: Option<FileHashes>,
    ) -> Result<(Folder, Toc), BuildError> {
        let failed = |source: rustix::io::Errno| BuildError::Context {
            path: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let mut walk = Walk {
            ignore,
            entries: Vec::new(),
            files: HashMap::new(),
            links: HashMap::new(),
        };
        let top = stat(&root, c"").map_err(failed)?;
        walk.entries.push(entry_of(
            Vec::new(),
            &top,
            Kind::Directory {
                opaque: false,
                implied: false,
            },
        ));
        walk.directory(&root, &mut Vec::new(), &State::default())
            .map_err(|(at, source)| BuildError::Context {
                path: path.join(lossy(&at)),
                source: source.into(),
            })?;
        let Walk {
            entries,
            files,
            links,
            ..
        } = walk;
        let folder = Folder {
            path: path.to_owned(),
            root: Arc::new(root),
            files,
            links,
            hashes,
        };
        Ok((folder, Toc::from_entries(entries)))
    }

    /// The folder's descriptor.
    pub(super) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Which inode a file with several names is.
    pub(super) fn link(&self, path: &[u8]) -> Option<(u64, u64)> {
        self.links.get(path).copied()
    }

    /// What a file's content hashes to.
    pub(super) fn digest(&self, path: &[u8]) -> Result<Digest, BuildError> {
        let known = self.hashes.as_ref().zip(self.files.get(path));
        if let Some(digest) = known.and_then(|(hashes, stamp)| hashes.get(stamp)) {
            return Ok(digest);
        }
        let before = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let failed = |source: std::io::Error| BuildError::Context {
            path: self.path.join(lossy(path)),
            source,
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&*self.root, path, flags, Mode::empty())
            .map_err(|e| failed(e.into()))?;
        let digest = hash_file(&mut std::fs::File::from(file)).map_err(failed)?;
        if let Some((hashes, stamp)) = known {
            hashes.put(
                *stamp,
                digest,
                i128::try_from(before.as_nanos()).unwrap_or(i128::MAX),
            );
        }
        Ok(digest)
    }

    /// Keeps what was hashed for the next build.
    pub(super) fn save_hashes(&self, store: &Store) -> Result<(), StoreError> {
        self.hashes
            .as_ref()
            .map_or(Ok(()), |hashes| hashes.save(store))
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn hash_file(file: &mut std::fs::File) -> std::io::Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

struct Walk<'a> {
    ignore: Option<&'a Ignore>,
    entries: Vec<Entry>,
    files: HashMap<Vec<u8>, FileStamp>,
    links: HashMap<Vec<u8>, (u64, u64)>,
}

type WalkError = (Vec<u8>, rustix::io::Errno);

impl Walk<'_> {
    // `rules`: which of them matched the directory or one above it.
    fn directory(
        &mut self,
        dir: &OwnedFd,
        path: &mut Vec<u8>,
        rules: &State,
    ) -> Result<(), WalkError> {
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        let mut listing = RawDir::new(dir, &mut buffer);
        while let Some(item) = listing.next() {
            let item = item.map_err(|e| (path.clone(), e))?;
            let name = item.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let done = self.member(dir, &name, path, rules);
            path.truncate(length);
            done?;
        }
        Ok(())
    }

    fn member(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: &mut Vec<u8>,
        rules: &State,
    ) -> Result<(), WalkError> {
        let ignore = self.ignore;
        let (excluded, rules) = ignore.map_or_else(Default::default, |i| i.verdict(path, rules));
        if excluded && !ignore.is_some_and(|i| i.may_reinclude_below(path)) {
            return Ok(());
        }
        let stat = stat(dir, name).map_err(|e| (path.clone(), e))?;
        let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            FileType::Directory => {
                let at = self.entries.len();
                self.entries.push(entry_of(
                    path.clone(),
                    &stat,
                    Kind::Directory {
                        opaque: false,
                        implied: false,
                    },
                ));
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(dir, name, flags, Mode::empty())
                    .map_err(|e| (path.clone(), e))?;
                self.directory(&inner, path, &rules)?;
                // An excluded directory is there only for what was brought back in it.
                if excluded && self.entries.len() == at + 1 {
                    self.entries.pop();
                }
                return Ok(());
            }
            _ if excluded => return Ok(()),
            FileType::RegularFile => {
                if let Some(stamp) = stamp(&stat) {
                    self.files.insert(path.clone(), stamp);
                }
                if stat.stx_nlink > 1 {
                    self.links
                        .insert(path.clone(), (device(&stat), stat.stx_ino));
                }
                Kind::File {
                    size_bytes: stat.stx_size,
                    content: None,
                }
            }
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| (path.clone(), e))?;
                Kind::Symlink {
                    target: target.into_bytes(),
                }
            }
            FileType::CharacterDevice => Kind::CharDevice {
                major: stat.stx_rdev_major,
                minor: stat.stx_rdev_minor,
            },
            FileType::BlockDevice => Kind::BlockDevice {
                major: stat.stx_rdev_major,
                minor: stat.stx_rdev_minor,
            },
            FileType::Fifo => Kind::Fifo,
            // A socket means nothing in an image.
            _ => return Ok(()),
        };
        self.entries.push(entry_of(path.clone(), &stat, kind));
        Ok(())
    }
}

fn stat(dir: impl AsFd, name: &std::ffi::CStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)
}

fn entry_of(path: Vec<u8>, stat: &Statx, kind: Kind) -> Entry {
    let meta = Meta {
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: 0,
        gid: 0,
        mtime: stat.stx_mtime.tv_sec,
        xattrs: Vec::new(),
    };
    Entry { path, meta, kind }
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

// None for times that do not fit: such a file is hashed anew in each build.
fn stamp(stat: &Statx) -> Option<FileStamp> {
    let nanoseconds = |t: rustix::fs::StatxTimestamp| {
        t.tv_sec
            .checked_mul(1_000_000_000)?
            .checked_add(i64::from(t.tv_nsec))
    };
    Some(FileStamp {
        device: device(stat),
        inode: stat.stx_ino,
        size: stat.stx_size,
        mtime_ns: nanoseconds(stat.stx_mtime)?,
        ctime_ns: nanoseconds(stat.stx_ctime)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ignore_rules_leave() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/keep", "a/other", "a/deep/keep", "b/x", "c"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        for (rules, want) in [
            ("", "a a/deep a/deep/keep a/keep a/other b b/x c"),
            ("a", "b b/x c"),
            ("a\n!a/keep", "a a/keep b b/x c"),
            ("a\n!a/deep", "a a/deep a/deep/keep b b/x c"),
            // A directory in which nothing is brought back is not there.
            ("*\n!a/missing", ""),
            ("*\n!**/keep", "a a/deep a/deep/keep a/keep"),
            ("**/keep", "a a/deep a/other b b/x c"),
        ] {
            let ignore = Ignore::parse(rules).unwrap();
            let (_, toc) = Folder::walk(dir.path(), Some(&ignore), None).unwrap();
            let paths: Vec<String> = toc.entries().map(|e| lossy(&e.path)).collect();
            assert_eq!(paths.join(" ").trim(), want, "{rules:?}");
        }
    }

    #[test]
    fn owners_are_root_and_names_of_one_file_share_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::chown(dir.path().join("a"), Some(5), Some(6)).unwrap();
        let (folder, toc) = Folder::walk(dir.path(), None, None).unwrap();
        let meta = toc.get(b"a").unwrap().meta;
        assert_eq!((meta.uid, meta.gid), (0, 0));
        assert!(folder.link(b"a").is_some());
        assert_eq!(folder.link(b"a"), folder.link(b"b"));
        assert_eq!(folder.digest(b"b").unwrap(), Digest::of(b"x"));
        assert!(folder.digest(b"missing").is_err());
    }
}
