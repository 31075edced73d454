//! Directories for `RUN --mount=type=cache`.
//!
//! `mounts/<SHA-256 of the id>/`: `id` (the id as text), `<n>/` (a directory that builds see), `<n>.lock` (held while one sees
//! it; its mtime is the last use). There is more than one `<n>` only where two builds wanted one cache at once and not to share.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use super::lock::{self, Hold, KeyLock};
use super::{Store, StoreError, Usage};
use crate::oci::Digest;

/// What happens when two steps use one cache at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Both see the same directory.
    Shared,
    /// The second gets another directory.
    Private,
    /// The second waits.
    Locked,
}

/// A cache directory in use.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    _lock: File,
    _usage: Arc<Usage>,
}

impl CacheMount {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name among all directories of caches, for [`Store::cache_mount_again`].
    pub fn name(&self) -> String {
        let part = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name).unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        format!("{}/{}", part(self.path.parent()), part(Some(&self.path)))
    }
}

impl Store {
    /// The directory of the cache `id`, any text. `fill` gives a new, empty one its owner, mode and first content; what it
    /// leaves appears at once or, if it fails, not at all. Waiting ends when `cancelled`.
    pub fn cache_mount(
        &self,
        id: &str,
        sharing: Sharing,
        fill: &dyn Fn(&Path) -> io::Result<()>,
        cancelled: &AtomicBool,
    ) -> Result<CacheMount, StoreError> {
        let base = self
            .root()
            .join("mounts")
            .join(Digest::of(id.as_bytes()).hex());
        match DirBuilder::new().mode(0o700).create(&base) {
            Ok(()) => self.replace_unflushed(&base.join("id"), id.as_bytes())?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::file("create", &base)(e)),
        }
        let hold = match sharing {
            Sharing::Shared => Hold::Shared,
            Sharing::Private | Sharing::Locked => Hold::Exclusive,
        };
        for number in 0u32.. {
            let lock_path = base.join(format!("{number}.lock"));
            let file = lock::open(&lock_path)?;
            if sharing == Sharing::Locked {
                lock::take_unless(&file, hold, &lock_path, cancelled, "a locked cache mount")?;
            } else if !lock::try_take(&file, hold, &lock_path)? {
                continue;
            }
            file.set_modified(SystemTime::now())
                .map_err(StoreError::file("touch", &lock_path))?;
            let path = base.join(number.to_string());
            self.fill_cache(&path, fill, cancelled)?;
            return Ok(CacheMount {
                path,
                _lock: file,
                _usage: self.usage(),
            });
        }
        unreachable!("fewer than 2^32 builds run at a time")
    }

    /// A cache directory that was in use before, to be read beside others. `None`: it is gone, or a step has it for itself.
    pub fn cache_mount_again(&self, name: &str) -> Result<Option<CacheMount>, StoreError> {
        let Some((id, number)) = name.split_once('/') else {
            return Ok(None);
        };
        let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        let path = self.root().join("mounts").join(id).join(number);
        if !is_name(id) || !is_name(number) || !path.exists() {
            return Ok(None);
        }
        let lock_path = path.with_extension("lock");
        let lock = lock::open(&lock_path)?;
        if !lock::try_take(&lock, Hold::Shared, &lock_path)? {
            return Ok(None);
        }
        Ok(Some(CacheMount {
            path,
            _lock: lock,
            _usage: self.usage(),
        }))
    }

    /// Makes the directory at `path` if it is not there. One sharer at a time does: a rename replaces an empty directory without
    /// an error, and with it the one that another sharer has opened already.
    fn fill_cache(
        &self,
        path: &Path,
        fill: &dyn Fn(&Path) -> io::Result<()>,
        cancelled: &AtomicBool,
    ) -> Result<(), StoreError> {
        if path.exists() {
            return Ok(());
        }
        let filling = path.with_extension("filling");
        let _alone = KeyLock::take(filling, cancelled, "a cache mount that is being filled")?;
        if path.exists() {
            return Ok(());
        }
        let staging = self.scratch()?.directory("cache")?;
        fill(&staging).map_err(StoreError::file("fill the cache mount", path))?;
        std::fs::rename(&staging, path).map_err(StoreError::file("create", path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn mount(store: &Store, id: &str, sharing: Sharing) -> Result<CacheMount, StoreError> {
        let fill = |dir: &Path| {
            std::fs::write(dir.join("first"), b"1")?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o750))
        };
        // Whoever would have to wait for one that is held gives up. A lock that was let go is held on for a moment where another test
        // starts a process just then, which has its descriptor until it is another program.
        let mut mounted = store.cache_mount(id, sharing, &fill, &AtomicBool::new(true));
        for _ in 0..20 {
            if !matches!(mounted, Err(StoreError::Cancelled(_))) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            mounted = store.cache_mount(id, sharing, &fill, &AtomicBool::new(true));
        }
        mounted
    }

    #[test]
    fn sharing_table() {
        use Sharing::*;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        for (first, second, want) in [
            (Shared, Shared, Some(true)),
            (Shared, Private, Some(false)),
            (Shared, Locked, None),
            (Private, Shared, Some(false)),
            (Private, Private, Some(false)),
            (Locked, Shared, Some(false)),
            (Locked, Locked, None),
        ] {
            let held = mount(&store, "go/../../x", first).unwrap();
            let same = mount(&store, "go/../../x", second).map(|m| m.path == held.path);
            assert_eq!(same.ok(), want, "{first:?} {second:?}");
        }
        let held = mount(&store, "go/../../x", Locked).unwrap();
        assert!(store.cache_mount_again(&held.name()).unwrap().is_none());
        drop(held);
        let again = mount(&store, "go/../../x", Shared).unwrap();
        let beside = store.cache_mount_again(&again.name()).unwrap();
        assert_eq!(beside.unwrap().path, again.path);
        for none in ["", "x", "../locks", "0/../../blobs", "ab/0"] {
            assert!(store.cache_mount_again(none).unwrap().is_none(), "{none}");
        }
        drop(again);
        let again = mount(&store, "go/../../x", Private).unwrap();
        assert!(again.path().ends_with("0") && again.path().starts_with(dir.path()));
        assert_ne!(mount(&store, "other", Shared).unwrap().path, again.path);
        let mode = std::fs::metadata(again.path()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o750);
    }

    #[test]
    fn content_stays_and_a_failed_start_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let never = AtomicBool::new(false);
        let fail = |_: &Path| Err(io::Error::other("no"));
        assert!(
            store
                .cache_mount("id", Sharing::Shared, &fail, &never)
                .is_err()
        );
        let path = mount(&store, "id", Sharing::Shared).unwrap().path;
        assert!(path.join("first").exists());
        std::fs::write(path.join("second"), b"2").unwrap();
        std::fs::remove_file(path.join("first")).unwrap();
        let path = mount(&store, "id", Sharing::Locked).unwrap().path;
        assert!(path.join("second").exists() && !path.join("first").exists());
    }

    /// Sharers that begin at once see one directory, though each finds none and an empty one can be renamed over.
    #[test]
    fn sharers_that_begin_together_share() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let slow = |_: &Path| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            Ok(())
        };
        let never = AtomicBool::new(false);
        let begin = std::sync::Barrier::new(4);
        let inode = || {
            begin.wait();
            let mount = store.cache_mount("id", Sharing::Shared, &slow, &never);
            std::fs::metadata(mount.unwrap().path()).unwrap().ino()
        };
        let seen: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(inode)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|ino| *ino == seen[0]), "{seen:?}");
        let mount = store
            .cache_mount("id", Sharing::Shared, &slow, &never)
            .unwrap();
        assert_eq!(std::fs::metadata(mount.path()).unwrap().ino(), seen[0]);
        assert!(!mount.path().with_extension("filling").exists());
    }
}
