//! Equal files of unpacked layers share their blocks.
//!
//! Where the file system can, by reflink: whatever the files are called, and unnoticeably. Elsewhere by hard link, which shows
//! in a file's count of links and in its inode; so only files of one path are linked, since a container sees one of them at a time,
//! and never those below `etc` and `var`, where programs look at the count (cron refuses a crontab with two).
//!
//! A layer's tree is written anew beside it, all but the new links being links to the old files, and exchanged with it in one
//! step: a crash leaves the old tree or the new one. Nobody else uses the store meanwhile, as for a collection. What is shared is
//! compared byte by byte before, and keeps its own owner, mode, times and attributes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, futimens, ioctl_ficlone, renameat_with, statvfs};
use rustix::io::Errno;
use serde::Serialize;

use super::layers::read_toc;
use super::linked::{attributes, give_meta};
use super::remove::remove_tree;
use super::{Store, StoreError, list};
use crate::layer::{KindRef, Toc, times};
use crate::oci::Digest;

/// Files of one block or less have no block to share.
const MIN_BYTES: u64 = 4096;

/// A path that is longer than this is not reached from the root of the file system (PATH_MAX is 4096); its layer stays as it is.
const MAX_PATH_BYTES: usize = 3800;

/// How much of two files is compared at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// Folders whose files are not hard linked: programs that look at the count of links have their files there.
const COUNTED: [&[u8]; 2] = [b"etc/", b"var/"];

/// What sharing came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DedupApplied {
    /// Unpacked layers that were looked at.
    pub layers: u64,
    /// Their files that are long enough to share a block.
    pub files: u64,
    /// Files that share their blocks by reflink now.
    pub cloned: u64,
    /// Files that are hard links now.
    pub linked: u64,
    /// Equal files that were one before.
    pub already: u64,
    /// What the files took that share now, bytes on disk.
    pub shared_bytes: u64,
    /// How much more is free on the file system than before, bytes (statvfs(3)). What others write or remove there meanwhile
    /// counts, too.
    pub freed_bytes: i64,
}

/// How equal files come to share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Reflink,
    HardLink,
}

/// An unpacked layer.
struct Tree {
    dir: PathBuf,
    toc: Arc<Toc>,
}

/// A file by its layer's place and its own in the table.
type FileAt = (usize, usize);

impl Store {
    /// Lets equal files of unpacked layers share their blocks. Waits until nobody else uses the store, as [`Store::prune`]. An end
    /// that `cancel` asks for comes between two layers.
    pub fn dedup(
        &mut self,
        on_wait: &dyn Fn(),
        cancel: &AtomicBool,
    ) -> Result<DedupApplied, StoreError> {
        self.alone(on_wait, |store| store.share(cancel))
    }

    fn share(&self, cancel: &AtomicBool) -> Result<DedupApplied, StoreError> {
        let way = self.way()?;
        let mut applied = DedupApplied::default();
        let mut trees = Vec::new();
        for dir in list(&self.root().join("layers"))? {
            if !dir.join("fs").is_dir() || !self.is_sound(&dir)? {
                continue;
            }
            let Some(toc) = read_toc(&dir.join("toc"))? else {
                continue;
            };
            let root = dir.as_os_str().len();
            let longest = toc.refs().map(|e| e.path.len()).max().unwrap_or(0);
            if root + longest < MAX_PATH_BYTES {
                trees.push(Tree { dir, toc });
            }
        }
        applied.layers = trees.len() as u64;
        let sources = sources(&trees, way, &mut applied);
        let before = self.free_bytes()?;
        for (at, tree) in trees.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            let mut wanted: HashMap<&[u8], PathBuf> = HashMap::new();
            for (to, from) in sources.iter().filter(|(to, _)| to.0 == at) {
                let donor = &trees[from.0];
                let path = OsStr::from_bytes(donor.toc.at(from.1).path);
                wanted.insert(tree.toc.at(to.1).path, donor.dir.join("fs").join(path));
            }
            self.rewrite(tree, wanted, way, &mut applied)?;
        }
        self.barrier()?;
        applied.freed_bytes = self.free_bytes()?.saturating_sub(before);
        Ok(applied)
    }

    /// What the file system can do.
    fn way(&self) -> Result<Way, StoreError> {
        let work = self.scratch()?;
        let (one, one_path) = work.file("one")?;
        let (other, other_path) = work.file("other")?;
        fs::write(&one_path, [7; 8192]).map_err(StoreError::file("write", &one_path))?;
        let cloned = ioctl_ficlone(&other, &one);
        for path in [&one_path, &other_path] {
            fs::remove_file(path).map_err(StoreError::file("remove", path))?;
        }
        match cloned {
            Ok(()) => Ok(Way::Reflink),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
                Ok(Way::HardLink)
            }
            Err(errno) => Err(StoreError::call("clone", &other_path)(errno)),
        }
    }

    fn free_bytes(&self) -> Result<i64, StoreError> {
        let root = self.root();
        let dir = File::open(root).map_err(StoreError::file("open", root))?;
        // What is freed counts when it is written down.
        rustix::fs::syncfs(&dir).map_err(StoreError::call("flush", root))?;
        let space = statvfs(root).map_err(StoreError::call("measure", root))?;
        Ok(i64::try_from(space.f_bfree.saturating_mul(space.f_frsize)).unwrap_or(i64::MAX))
    }

    /// Writes a layer's tree anew, with the blocks of others where `wanted` says so, and puts it in place.
    fn rewrite(
        &self,
        tree: &Tree,
        mut wanted: HashMap<&[u8], PathBuf>,
        way: Way,
        applied: &mut DedupApplied,
    ) -> Result<(), StoreError> {
        let old = tree.dir.join("fs");
        // First without writing anything: most of the time there is nothing to do.
        let mut equal: HashMap<Vec<u8>, PathBuf> = HashMap::new();
        for (path, donor) in wanted.drain() {
            let own = old.join(OsStr::from_bytes(path));
            let (Some(mine), Some(theirs)) = (stat(&own)?, stat(&donor)?) else {
                // The table says more than there is: nothing to be done about it here.
                continue;
            };
            if (mine.dev(), mine.ino()) == (theirs.dev(), theirs.ino()) {
                applied.already += 1;
                continue;
            }
            let links = way == Way::HardLink;
            // A file with other names in its layer would lose them.
            if mine.nlink() != 1 || links && !same_meta(&own, &mine, &donor, &theirs)? {
                continue;
            }
            if same_bytes(&own, &donor)? {
                equal.insert(path.to_vec(), donor);
            }
        }
        if equal.is_empty() {
            return Ok(());
        }
        let work = self.scratch()?;
        let staging = work.directory("layer")?;
        let fs = staging.join("fs");
        let mut rewriting = Rewriting {
            way,
            equal,
            applied: *applied,
        };
        rewriting.directory(&old, &fs, &mut Vec::new())?;
        // The mark first: with it, a tree that a power loss tears does not count.
        self.mark(&tree.dir, &tree.dir)?;
        let root = File::open(&fs).map_err(StoreError::file("open", &fs))?;
        let meta = root.metadata().map_err(StoreError::file("stat", &fs))?;
        renameat_with(CWD, &fs, CWD, &old, RenameFlags::EXCHANGE)
            .map_err(StoreError::call("publish", &old))?;
        // XFS counts an exchange as a change of the directories.
        futimens(&root, &times(&meta)).map_err(StoreError::call("set the time of", &old))?;
        remove_tree(&staging)?;
        *applied = rewriting.applied;
        Ok(())
    }
}

/// For each file that is to share, the one that it shares with: of equal files the first that has no other names.
fn sources(trees: &[Tree], way: Way, applied: &mut DedupApplied) -> Vec<(FileAt, FileAt)> {
    let mut first: HashMap<(Digest, &[u8]), FileAt> = HashMap::new();
    let mut pairs = Vec::new();
    for (layer, tree) in trees.iter().enumerate() {
        let named_twice: HashSet<&[u8]> = tree
            .toc
            .refs()
            .filter_map(|e| match e.kind {
                KindRef::HardLink { target } => Some(target),
                _ => None,
            })
            .collect();
        for (index, entry) in tree.toc.refs().enumerate() {
            let KindRef::File {
                size_bytes,
                content: Some(content),
            } = entry.kind
            else {
                continue;
            };
            if size_bytes < MIN_BYTES || named_twice.contains(entry.path) {
                continue;
            }
            applied.files += 1;
            let path: &[u8] = match way {
                Way::Reflink => b"",
                Way::HardLink if COUNTED.iter().any(|c| entry.path.starts_with(c)) => continue,
                Way::HardLink => entry.path,
            };
            match first.entry((content, path)) {
                std::collections::hash_map::Entry::Occupied(there) => {
                    pairs.push(((layer, index), *there.get()));
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert((layer, index));
                }
            }
        }
    }
    pairs
}

/// A tree being written anew.
struct Rewriting {
    way: Way,
    /// By path in the layer, where equal bytes are.
    equal: HashMap<Vec<u8>, PathBuf>,
    applied: DedupApplied,
}

impl Rewriting {
    fn directory(&mut self, old: &Path, new: &Path, path: &mut Vec<u8>) -> Result<(), StoreError> {
        DirBuilder::new()
            .mode(0o700)
            .create(new)
            .map_err(StoreError::file("create", new))?;
        for member in fs::read_dir(old).map_err(StoreError::file("read", old))? {
            let member = member.map_err(StoreError::file("read", old))?;
            let name = member.file_name();
            let (from, to) = (old.join(&name), new.join(&name));
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let kind = member
                .file_type()
                .map_err(StoreError::file("stat", &from))?;
            if kind.is_dir() {
                self.directory(&from, &to, path)?;
            } else {
                match self.equal.remove(path.as_slice()) {
                    Some(donor) => self.file(&from, &donor, &to)?,
                    None => fs::hard_link(&from, &to).map_err(StoreError::file("link", &to))?,
                }
            }
            path.truncate(length);
        }
        let meta = fs::symlink_metadata(old).map_err(StoreError::file("stat", old))?;
        let dir = File::open(new).map_err(StoreError::file("open", new))?;
        give_meta(old, &meta, &dir, new)
    }

    fn file(&mut self, own: &Path, donor: &Path, to: &Path) -> Result<(), StoreError> {
        let meta = fs::symlink_metadata(own).map_err(StoreError::file("stat", own))?;
        let taken = meta.blocks() * 512;
        match self.way {
            Way::HardLink => match fs::hard_link(donor, to) {
                Ok(()) => self.applied.linked += 1,
                // There are as many links as there can be: it stays a file of its own.
                Err(e) if e.raw_os_error() == Some(Errno::MLINK.raw_os_error()) => {
                    return fs::hard_link(own, to).map_err(StoreError::file("link", to));
                }
                Err(e) => return Err(StoreError::file("link", to)(e)),
            },
            Way::Reflink => {
                let from = File::open(donor).map_err(StoreError::file("open", donor))?;
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(to)
                    .map_err(StoreError::file("create", to))?;
                ioctl_ficlone(&file, &from).map_err(StoreError::call("clone", to))?;
                give_meta(own, &meta, &file, to)?;
                self.applied.cloned += 1;
            }
        }
        self.applied.shared_bytes += taken;
        Ok(())
    }
}

/// What is at a path, if anything is.
fn stat(path: &Path) -> Result<Option<Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta).filter(Metadata::is_file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::file("stat", path)(e)),
    }
}

/// Whether two files are the same in everything that a link would make one.
fn same_meta(own: &Path, a: &Metadata, other: &Path, b: &Metadata) -> Result<bool, StoreError> {
    let of = |m: &Metadata| {
        (
            m.mode(),
            m.uid(),
            m.gid(),
            m.mtime(),
            m.mtime_nsec(),
            m.dev(),
        )
    };
    Ok(of(a) == of(b) && attributes(own)? == attributes(other)?)
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool, StoreError> {
    let mut a = File::open(one).map_err(StoreError::file("open", one))?;
    let mut b = File::open(other).map_err(StoreError::file("open", other))?;
    let (mut x, mut y) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let count = a.read(&mut x).map_err(StoreError::file("read", one))?;
        if count == 0 {
            let rest = b.read(&mut y).map_err(StoreError::file("read", other))?;
            return Ok(rest == 0);
        }
        match b.read_exact(&mut y[..count]) {
            Ok(()) if x[..count] == y[..count] => {}
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(StoreError::file("read", other)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::testing::store;
    use super::super::{CheckDepth, LayerId, StoreOptions};
    use super::*;
    use crate::layer::{Entry, Kind, Meta};
    use crate::oci::DiffId;

    /// An unpacked layer of files: path, content, mode. All times are the same.
    fn layer(store: &Store, label: &str, files: &[(&str, &str, u32)]) -> PathBuf {
        let work = store.work().unwrap();
        let fs = work.directory("layer").unwrap().join("fs");
        fs::create_dir(&fs).unwrap();
        let mut entries = Vec::new();
        for (path, text, mode) in files {
            let at = fs.join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            let content = text.repeat(3000);
            fs::write(&at, &content).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
            entries.push(Entry {
                path: path.as_bytes().to_vec(),
                meta: Meta {
                    mode: *mode,
                    mtime: 1000,
                    ..Meta::default()
                },
                kind: Kind::File {
                    size_bytes: content.len() as u64,
                    content: Some(Digest::of(content.as_bytes())),
                },
            });
        }
        settle(&fs);
        let toc = Arc::new(Toc::from_entries(entries));
        let id = DiffId(Digest::of(label.as_bytes()));
        store.publish_layer(&fs, toc, &id).unwrap();
        let layer = store.layer(&LayerId::Diff(id)).unwrap().unwrap();
        layer.fs().to_owned()
    }

    fn settle(path: &Path) {
        if path.is_dir() {
            for member in fs::read_dir(path).unwrap() {
                settle(&member.unwrap().path());
            }
        }
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    fn inode(path: &Path) -> (u64, u64) {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.ino(), meta.nlink())
    }

    #[test]
    fn equal_files_of_layers_share_their_blocks() {
        let (_dir, mut store) = store();
        let one = [
            ("usr/a", "same", 0o644),
            ("usr/b", "one!", 0o644),
            ("usr/mode", "mode", 0o644),
            ("etc/crontab", "cron", 0o644),
            ("usr/two", "twin", 0o644),
        ];
        let other = [
            ("usr/a", "same", 0o644),
            ("usr/b", "two!", 0o644),
            ("usr/mode", "mode", 0o755),
            ("etc/crontab", "cron", 0o644),
            ("usr/elsewhere", "twin", 0o644),
        ];
        let (a, b) = (layer(&store, "a", &one), layer(&store, "b", &other));
        fs::hard_link(b.join("usr/b"), b.join("usr/b2")).unwrap();
        settle(&b);
        let before: Vec<_> = other
            .iter()
            .map(|(path, ..)| fs::read(b.join(path)).unwrap())
            .collect();
        let dir_time = fs::metadata(b.join("usr")).unwrap().modified().unwrap();
        let (_, never) = (0, AtomicBool::new(false));
        let way = store.way().unwrap();
        let applied = store.dedup(&|| (), &never).unwrap();
        match way {
            Way::HardLink => {
                assert_eq!((applied.linked, applied.cloned), (1, 0), "{applied:?}");
                assert_eq!(inode(&a.join("usr/a")), inode(&b.join("usr/a")));
                assert_eq!(inode(&b.join("etc/crontab")).1, 1);
                assert_ne!(inode(&a.join("usr/mode")).0, inode(&b.join("usr/mode")).0);
            }
            Way::Reflink => assert_eq!((applied.linked, applied.cloned), (0, 4), "{applied:?}"),
        }
        assert_eq!(inode(&b.join("usr/b")), inode(&b.join("usr/b2")));
        for ((path, _, mode), content) in other.iter().zip(before) {
            let meta = fs::metadata(b.join(path)).unwrap();
            assert_eq!(fs::read(b.join(path)).unwrap(), content);
            assert_eq!(
                (meta.mode() & 0o7777, meta.mtime()),
                (*mode, 1000),
                "{path}"
            );
        }
        let after = fs::metadata(b.join("usr")).unwrap().modified().unwrap();
        assert_eq!(after, dir_time);
        assert_eq!(store.check(CheckDepth::Quick).unwrap().layers, 2);
        if way == Way::HardLink {
            let again = store.dedup(&|| (), &never).unwrap();
            assert_eq!((again.linked, again.already, again.shared_bytes), (0, 1, 0));
        }
    }

    #[test]
    fn what_differs_from_its_table_is_not_shared() {
        let (_dir, mut store) = store();
        let file = [("a", "same", 0o644)];
        let (a, b) = (layer(&store, "a", &file), layer(&store, "b", &file));
        let damaged = fs::read(b.join("a")).unwrap().len();
        fs::write(b.join("a"), vec![b'x'; damaged]).unwrap();
        settle(&b);
        let applied = store.dedup(&|| (), &AtomicBool::new(false)).unwrap();
        assert_eq!((applied.linked, applied.cloned), (0, 0));
        assert_ne!(
            fs::read(a.join("a")).unwrap(),
            fs::read(b.join("a")).unwrap()
        );
    }

    #[test]
    fn a_store_in_use_is_waited_for() {
        let (dir, mut store) = store();
        let other = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let clone = store.clone();
        assert!(matches!(
            store.dedup(&|| (), &AtomicBool::new(false)),
            Err(StoreError::InUse(_))
        ));
        drop((clone, other));
        assert!(store.dedup(&|| (), &AtomicBool::new(false)).is_ok());
    }
}
