//! A folder of the host as a tree: the build context, a named context, a checkout, an unpacked archive.
//!
//! The folder is read in place and read once: names and metadata in one walk, contents when a step asks for them. What a
//! content hashed to in an earlier build counts as long as device, inode, size, mtime and ctime are the same.

use std::collections::HashMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};

use crate::dockerfile::ignore::{Ignore, State};
use crate::layer::{Entry, FileStamp, Kind, Meta, Source, Toc, TocBuilder};
use crate::oci::{Digest, Hasher};
use crate::store::{FileHashes, Store, StoreError};

use super::BuildError;

/// What a file to be hashed is read in: larger pieces are no faster, smaller ones cost calls.
const READ_BYTES: usize = 256 * 1024;

/// From how many bytes on a file's stamp is asked whether it is still what was hashed: hashing less takes little longer than asking,
/// and stamps take memory.
const VOUCHED_BYTES: u64 = 32 << 10;

/// A folder that was walked. Its files go by their places in the table of its entries.
pub(super) struct Folder {
    path: PathBuf,
    root: Arc<OwnedFd>,
    files: Vec<Option<Seen>>,
    /// Files with several names.
    links: HashMap<usize, (u64, u64)>,
    /// Whose hashes are kept from build to build, by this name.
    known_as: Option<String>,
}

/// A regular file.
struct Seen {
    /// `None` for times that do not fit: such a file is hashed in each build.
    stamp: Option<FileStamp>,
    content: OnceLock<Content>,
}

impl Seen {
    // The stamp, if it vouches for the content being what it was hashed to. For a small file that is not asked.
    fn voucher(&self) -> Option<FileStamp> {
        let sound = |content: &Content| content.origin != Origin::Racy;
        let stamp = self.stamp.filter(|stamp| stamp.size >= VOUCHED_BYTES);
        stamp.filter(|_| self.content.get().is_some_and(sound))
    }
}

/// What a file's content hashes to.
#[derive(Clone, Copy)]
struct Content {
    sha256: [u8; 32],
    origin: Origin,
}

/// Where a hash is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// An earlier build: the stamp vouches for it.
    Known,
    /// This build, and the stamp will vouch for it.
    New,
    /// This build, of a file that had just changed.
    Racy,
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
            table: TocBuilder::default(),
            files: Vec::new(),
            links: HashMap::new(),
        };
        let top = stat(&root, c"").map_err(failed)?;
        walk.put(entry_of(
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
            table,
            files,
            links,
            ..
        } = walk;
        if let Some(hashes) = &hashes {
            recall(hashes, &files);
        }
        let folder = Folder {
            path: path.to_owned(),
            root: Arc::new(root),
            files,
            links,
            known_as: hashes.map(FileHashes::into_context),
        };
        Ok((folder, table.into_toc()))
    }

    /// Where the bytes of a file are, and what vouches for them if they were hashed.
    pub(super) fn source(&self, at: Option<usize>, path: &[u8]) -> Source {
        let seen = at.and_then(|at| self.files.get(at)?.as_ref());
        Source::File {
            root: Arc::clone(&self.root),
            path: path.to_vec(),
            stamp: seen.and_then(Seen::voucher),
        }
    }

    /// Which inode a file with several names is.
    pub(super) fn link(&self, at: usize) -> Option<(u64, u64)> {
        self.links.get(&at).copied()
    }

    /// What the content of a file hashes to: the one at place `at`, whose path is `path`. It is read once.
    pub(super) fn digest(&self, at: usize, path: &[u8]) -> Result<Digest, BuildError> {
        let seen = self.files.get(at).and_then(Option::as_ref);
        if let Some(content) = seen.and_then(|seen| seen.content.get()) {
            return Ok(Digest::from_sha256(content.sha256));
        }
        let before = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let before_ns = i128::try_from(before.as_nanos()).unwrap_or(i128::MAX);
        let failed = |source: std::io::Error| BuildError::Context {
            path: self.path.join(lossy(path)),
            source,
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&*self.root, path, flags, Mode::empty())
            .map_err(|e| failed(e.into()))?;
        let digest = hash_file(&mut std::fs::File::from(file)).map_err(failed)?;
        let (Some(seen), Ok(sha256)) = (seen, digest.bytes().try_into()) else {
            return Ok(digest);
        };
        let racy = (seen.stamp).is_none_or(|stamp| stamp.is_racy(before_ns));
        let origin = if racy { Origin::Racy } else { Origin::New };
        // Whoever was first: the steps of a build see one content.
        let content = seen.content.get_or_init(|| Content { sha256, origin });
        Ok(Digest::from_sha256(content.sha256))
    }

    /// Keeps what was hashed for the next build.
    pub(super) fn save_hashes(&self, store: &Store) -> Result<(), StoreError> {
        let Some(context) = &self.known_as else {
            return Ok(());
        };
        let seen = self.files.iter().flatten();
        let contents = seen.filter_map(|seen| Some((seen.stamp?, seen.content.get()?)));
        if !contents.clone().any(|(_, c)| c.origin == Origin::New) {
            return Ok(());
        }
        let sound = contents.filter(|(_, content)| content.origin != Origin::Racy);
        let known = sound.map(|(stamp, content)| (stamp, content.sha256));
        FileHashes::load(store, context)?.save(store, known)
    }
}

// What is known from earlier builds.
fn recall(hashes: &FileHashes, files: &[Option<Seen>]) {
    for seen in files.iter().flatten() {
        if let Some(sha256) = seen.stamp.as_ref().and_then(|stamp| hashes.get(stamp)) {
            let origin = Origin::Known;
            // Nobody else has it yet.
            let _first = seen.content.set(Content { sha256, origin });
        }
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
    table: TocBuilder,
    files: Vec<Option<Seen>>,
    links: HashMap<usize, (u64, u64)>,
}

type WalkError = (Vec<u8>, rustix::io::Errno);

impl Walk<'_> {
    fn put(&mut self, entry: Entry) {
        self.table.push(&entry);
        self.files.resize_with(self.table.len(), || None);
    }

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
                let at = self.table.len();
                self.put(entry_of(
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
                if excluded && self.table.len() == at + 1 {
                    self.table.pop();
                    self.files.truncate(at);
                }
                return Ok(());
            }
            _ if excluded => return Ok(()),
            FileType::RegularFile => {
                self.files.push(Some(Seen {
                    stamp: stamp(&stat),
                    content: OnceLock::new(),
                }));
                if stat.stx_nlink > 1 {
                    let inode = (device(&stat), stat.stx_ino);
                    self.links.insert(self.table.len(), inode);
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
        self.put(entry_of(path.clone(), &stat, kind));
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
    fn what_vouches_for_a_content() {
        let stamp = FileStamp {
            device: 1,
            inode: 2,
            size: VOUCHED_BYTES,
            mtime_ns: 3,
            ctime_ns: 4,
        };
        let small = FileStamp {
            size: VOUCHED_BYTES - 1,
            ..stamp
        };
        for (stamp, origin, vouches) in [
            (Some(stamp), Some(Origin::New), true),
            (Some(stamp), Some(Origin::Known), true),
            (Some(stamp), Some(Origin::Racy), false),
            (Some(stamp), None, false),
            (Some(small), Some(Origin::New), false),
            (None, Some(Origin::New), false),
        ] {
            let content = OnceLock::new();
            if let Some(origin) = origin {
                let sha256 = [7; 32];
                content.get_or_init(|| Content { sha256, origin });
            }
            let voucher = Seen { stamp, content }.voucher();
            assert_eq!(voucher, stamp.filter(|_| vouches));
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
        // After the root.
        assert!(folder.link(1).is_some());
        assert_eq!(folder.link(1), folder.link(2));
        assert_eq!(folder.digest(2, b"b").unwrap(), Digest::of(b"x"));
        assert!(folder.digest(3, b"missing").is_err());
    }
}
