//! A folder of the host as a tree: the build context, a named context, a checkout, an unpacked archive.
//!
//! The folder is read in place and read once: names and metadata in one walk, contents when a step asks for them. What a
//! content hashed to in an earlier build counts as long as device, inode, size, mtime and ctime are the same. What others
//! remove while the walk looks at it was never there, and a store that lies in the folder is no part of it: the build writes to it.

use std::collections::HashMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use crate::dockerfile::ignore::{Ignore, State};
use crate::layer::{Entry, FileStamp, Kind, KindRef, Meta, Source, Toc, TocBuilder};
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
    /// The devices that files are on.
    devices: Vec<u64>,
    /// Files with several names.
    links: HashMap<usize, (u64, u64)>,
    /// Whose hashes are kept from build to build, by this name.
    known_as: Option<String>,
    /// Whether this build hashed something that is to be kept.
    news: AtomicBool,
}

/// A regular file, in 64 bytes: its stamp without the size, which the table has, and its content.
struct Seen {
    /// The place of its device. `None` for a file that its stamp does not vouch for, and that is hashed in each build: it had just
    /// changed, its times do not fit, or it is on one device too many.
    device: Option<u8>,
    inode: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    /// The SHA-256 of its content.
    content: OnceLock<[u8; 32]>,
}

impl Folder {
    /// Reads the names and metadata below `path` that `ignore` lets through. Owners are 0:0 and attributes none: whose
    /// files they are on the host says nothing about the image. A directory that is `store` is left out.
    pub(super) fn walk(
        path: &Path,
        ignore: Option<&Ignore>,
        store: Option<&Path>,
        hashes: Option<FileHashes>,
    ) -> Result<(Folder, Toc), BuildError> {
        let failed = |source: Errno| BuildError::Context {
            path: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let store = store.and_then(|path| {
            rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::INO).ok()
        });
        let mut walk = Walk {
            ignore,
            store: store.map(|stat| (device(&stat), stat.stx_ino)),
            now_ns: i128::try_from(now.as_nanos()).unwrap_or(i128::MAX),
            table: TocBuilder::default(),
            files: Vec::new(),
            devices: Vec::new(),
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
            devices,
            links,
            ..
        } = walk;
        let mut folder = Folder {
            path: path.to_owned(),
            root: Arc::new(root),
            files,
            devices,
            links,
            known_as: None,
            news: AtomicBool::new(false),
        };
        let toc = table.into_toc();
        if let Some(hashes) = hashes {
            let stamps = folder.by_inode();
            hashes.recall(folder.stamped(&toc, &stamps), |seen, sha256| {
                // Nobody else has it yet.
                let _first = seen.content.set(sha256);
            })?;
            folder.known_as = Some(hashes.into_context());
        }
        Ok((folder, toc))
    }

    // The places of the files that their stamps vouch for, as these ascend.
    fn by_inode(&self) -> Vec<u32> {
        let vouched = |(at, seen): (usize, &Option<Seen>)| {
            let device = seen.as_ref()?.device;
            // No folder that fits into memory has four billion files.
            device.and(u32::try_from(at).ok())
        };
        let mut places: Vec<u32> = self.files.iter().enumerate().filter_map(vouched).collect();
        places.sort_unstable_by_key(|at| {
            let seen = self.files[*at as usize].as_ref();
            seen.map(|seen| {
                (
                    seen.device.map(|d| self.devices[usize::from(d)]),
                    seen.inode,
                )
            })
        });
        places
    }

    // The files at these places with their stamps.
    fn stamped<'f>(
        &'f self,
        toc: &'f Toc,
        places: &'f [u32],
    ) -> impl Iterator<Item = (FileStamp, &'f Seen)> + Clone {
        places.iter().filter_map(|at| {
            let at = *at as usize;
            let seen = self.files.get(at)?.as_ref()?;
            let KindRef::File { size_bytes, .. } = toc.at(at).kind else {
                return None;
            };
            Some((self.stamp_of(seen, size_bytes)?, seen))
        })
    }

    // The stamp of a file of so many bytes, if it vouches for the content.
    fn stamp_of(&self, seen: &Seen, size_bytes: u64) -> Option<FileStamp> {
        Some(FileStamp {
            device: self.devices[usize::from(seen.device?)],
            inode: seen.inode,
            size: size_bytes,
            mtime_ns: seen.mtime_ns,
            ctime_ns: seen.ctime_ns,
        })
    }

    /// Where the bytes of a file are, of which there were `size_bytes`, and what vouches for them if they were hashed.
    pub(super) fn source(&self, at: Option<usize>, path: &[u8], size_bytes: u64) -> Source {
        let seen = at.and_then(|at| self.files.get(at)?.as_ref());
        let hashed = seen.filter(|seen| seen.content.get().is_some());
        // For a small file that is not asked.
        let asked = hashed.filter(|_| size_bytes >= VOUCHED_BYTES);
        Source::File {
            root: Arc::clone(&self.root),
            path: path.to_vec(),
            stamp: asked.and_then(|seen| self.stamp_of(seen, size_bytes)),
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
            return Ok(Digest::from_sha256(*content));
        }
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
        if seen.device.is_some() {
            self.news.store(true, Ordering::Relaxed);
        }
        // Whoever was first: the steps of a build see one content.
        Ok(Digest::from_sha256(*seen.content.get_or_init(|| sha256)))
    }

    /// Keeps what was hashed for the next build; `toc` is the table of the folder.
    pub(super) fn save_hashes(&self, toc: &Toc, store: &Store) -> Result<(), StoreError> {
        let Some(context) = &self.known_as else {
            return Ok(());
        };
        if !self.news.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let places = self.by_inode();
        let known = self.stamped(toc, &places);
        let known = known.filter_map(|(stamp, seen)| Some((stamp, *seen.content.get()?)));
        FileHashes::load(store, context)?.save(store, known)
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
    /// Device and inode of the store's directory.
    store: Option<(u64, u64)>,
    /// When it began, nanoseconds since 1970: what is hashed, is hashed later.
    now_ns: i128,
    table: TocBuilder,
    files: Vec<Option<Seen>>,
    devices: Vec<u64>,
    links: HashMap<usize, (u64, u64)>,
}

type WalkError = (Vec<u8>, Errno);

impl Walk<'_> {
    fn put(&mut self, entry: Entry) {
        self.table.push(&entry);
        self.files.resize_with(self.table.len(), || None);
    }

    fn seen(&mut self, stat: &Statx) -> Seen {
        let stamp = stamp(stat).filter(|stamp| !stamp.is_racy(self.now_ns));
        Seen {
            device: stamp.and_then(|stamp| self.device(stamp.device)),
            inode: stat.stx_ino,
            mtime_ns: stamp.map_or(0, |stamp| stamp.mtime_ns),
            ctime_ns: stamp.map_or(0, |stamp| stamp.ctime_ns),
            content: OnceLock::new(),
        }
    }

    // The place of a device; most folders have one.
    fn device(&mut self, device: u64) -> Option<u8> {
        let known = self.devices.iter().position(|known| *known == device);
        let place = known.unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        u8::try_from(place).ok()
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
            let item = match item {
                // The directory was removed.
                Err(Errno::NOENT) => break,
                item => item.map_err(|e| (path.clone(), e))?,
            };
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
        let unless_gone = |path: &[u8], errno| match errno {
            Errno::NOENT => Ok(()),
            errno => Err((path.to_vec(), errno)),
        };
        let stat = match stat(dir, name) {
            Ok(stat) => stat,
            Err(errno) => return unless_gone(path, errno),
        };
        let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            FileType::Directory if self.store == Some((device(&stat), stat.stx_ino)) => {
                return Ok(());
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                    Ok(inner) => inner,
                    Err(errno) => return unless_gone(path, errno),
                };
                let at = self.table.len();
                self.put(entry_of(
                    path.clone(),
                    &stat,
                    Kind::Directory {
                        opaque: false,
                        implied: false,
                    },
                ));
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
                let seen = self.seen(&stat);
                self.files.push(Some(seen));
                if stat.stx_nlink > 1 {
                    let inode = (device(&stat), stat.stx_ino);
                    self.links.insert(self.table.len(), inode);
                }
                Kind::File {
                    size_bytes: stat.stx_size,
                    content: None,
                }
            }
            FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => Kind::Symlink {
                    target: target.into_bytes(),
                },
                Err(errno) => return unless_gone(path, errno),
            },
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

// None for times that do not fit.
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
            let (_, toc) = Folder::walk(dir.path(), Some(&ignore), None, None).unwrap();
            let paths: Vec<String> = toc.entries().map(|e| lossy(&e.path)).collect();
            assert_eq!(paths.join(" ").trim(), want, "{rules:?}");
        }
    }

    #[test]
    fn a_store_in_it_is_no_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("a/store");
        for path in [&store, &dir.path().join("b")] {
            std::fs::create_dir_all(path.join("store")).unwrap();
            std::fs::write(path.join("c"), "").unwrap();
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("a/store", &link).unwrap();
        let paths = |root: &Path, store: &Path| {
            let (_, toc) = Folder::walk(root, None, Some(store), None).unwrap();
            let paths: Vec<String> = toc.entries().map(|e| lossy(&e.path)).collect();
            paths.join(" ").trim().to_owned()
        };
        assert_eq!(paths(dir.path(), &store), "a b b/c b/store link");
        assert_eq!(paths(dir.path(), &link), "a b b/c b/store link");
        // A context that the store holds, as a checkout, has all its files.
        assert_eq!(paths(&store, dir.path()), "c store");
        assert_eq!(paths(&store, &store), "c store");
    }

    #[test]
    fn what_is_removed_meanwhile_was_never_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("z"), "").unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let a = dir.path().join("a");
                while !done.load(Ordering::Relaxed) {
                    std::fs::create_dir_all(a.join("b")).unwrap();
                    std::fs::write(a.join("b/c"), "").unwrap();
                    std::os::unix::fs::symlink("c", a.join("b/d")).unwrap();
                    std::fs::remove_dir_all(&a).unwrap();
                }
            });
            let sound = (0..2000).all(|_| {
                let walked = Folder::walk(dir.path(), None, None, None);
                walked.is_ok_and(|(_, toc)| toc.get(b"z").is_some())
            });
            done.store(true, Ordering::Relaxed);
            assert!(sound);
        });
    }

    #[test]
    fn what_vouches_for_a_content() {
        let dir = tempfile::tempdir().unwrap();
        let (large, small) = (VOUCHED_BYTES, VOUCHED_BYTES - 1);
        for (device, hashed, size_bytes, vouches) in [
            (Some(0), true, large, true),
            (Some(0), false, large, false),
            (Some(0), true, small, false),
            (None, true, large, false),
        ] {
            let (mut folder, _) = Folder::walk(dir.path(), None, None, None).unwrap();
            let seen = Seen {
                device,
                inode: 2,
                mtime_ns: 3,
                ctime_ns: 4,
                content: OnceLock::new(),
            };
            if hashed {
                seen.content.get_or_init(|| [7; 32]);
            }
            (folder.devices, folder.files) = (vec![1], vec![Some(seen)]);
            let stamp = FileStamp {
                device: 1,
                inode: 2,
                size: size_bytes,
                mtime_ns: 3,
                ctime_ns: 4,
            };
            let Source::File { stamp: found, .. } = folder.source(Some(0), b"a", size_bytes) else {
                panic!()
            };
            assert_eq!(found, vouches.then_some(stamp));
        }
    }

    #[test]
    fn a_file_takes_64_bytes() {
        assert_eq!(size_of::<Option<Seen>>(), 64);
    }

    #[test]
    fn owners_are_root_and_names_of_one_file_share_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::chown(dir.path().join("a"), Some(5), Some(6)).unwrap();
        let (folder, toc) = Folder::walk(dir.path(), None, None, None).unwrap();
        let meta = toc.get(b"a").unwrap().meta;
        assert_eq!((meta.uid, meta.gid), (0, 0));
        // After the root.
        assert!(folder.link(1).is_some());
        assert_eq!(folder.link(1), folder.link(2));
        assert_eq!(folder.digest(2, b"b").unwrap(), Digest::of(b"x"));
        assert!(folder.digest(3, b"missing").is_err());
    }
}
