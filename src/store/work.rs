//! Directories for what is being written: one owner each, gone with it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::lock::{self, Hold};
use super::remove::{Freed, remove_tree};
use super::{Store, StoreError, Usage, locked};

/// Tells the work directories of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory `work/<name>/` of this process alone. Removed on drop; after a crash, by the next process that opens the store:
/// the directory itself is locked while its owner lives. Keeps the store in use.
#[derive(Debug)]
pub struct Work {
    path: PathBuf,
    next: AtomicU64,
    // Closed, and with it unlocked, after the directory is removed.
    _lock: File,
    _usage: Arc<Usage>,
}

impl Work {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it that nobody else is given; nothing is there yet.
    pub fn unique(&self, label: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{label}.{number}"))
    }

    /// A new directory in it, mode 0700.
    pub fn directory(&self, label: &str) -> Result<PathBuf, StoreError> {
        let path = self.unique(label);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::file("create", &path))?;
        Ok(path)
    }

    /// A new file in it.
    pub fn file(&self, label: &str) -> Result<(File, PathBuf), StoreError> {
        let path = self.unique(label);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .map_err(StoreError::file("create", &path))?;
        Ok((file, path))
    }

    /// Removes it now and says what cannot be removed, which `Drop` can only log.
    pub fn close(self) -> Result<(), StoreError> {
        remove_tree(&self.path).map(|_| ())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, "cannot remove a work directory");
        }
    }
}

impl Store {
    /// A work directory of this process.
    pub fn work(&self) -> Result<Work, StoreError> {
        let base = self.root().join("work");
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                // Of a dead process that had the same id (or lives in another PID namespace).
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(StoreError::file("create", &path)(e)),
            }
            // Between its creation and its lock, another process may take it for a dead one's and remove it: once it is
            // locked, see whether it is still there.
            let Some(lock) = try_own(&path)? else {
                continue;
            };
            return Ok(Work {
                path,
                next: AtomicU64::new(0),
                _lock: lock,
                _usage: self.usage(),
            });
        }
    }

    /// The work directory that small writes of this process share.
    pub(super) fn scratch(&self) -> Result<Arc<Work>, StoreError> {
        let mut slot = locked(&self.inner.scratch);
        if let Some(work) = &*slot {
            return Ok(Arc::clone(work));
        }
        let work = Arc::new(self.work()?);
        *slot = Some(Arc::clone(&work));
        Ok(work)
    }
}

/// Opens a directory to lock it; `None` if it is gone.
pub(super) fn open_directory(path: &Path) -> Result<Option<File>, StoreError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flag_bits(OFlags::DIRECTORY | OFlags::NOFOLLOW))
        .open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::file("open", path)(e)),
    }
}

/// Locks a work directory if it has no owner; `None` if it has one or is gone.
fn try_own(path: &Path) -> Result<Option<File>, StoreError> {
    let Some(file) = open_directory(path)? else {
        return Ok(None);
    };
    if !lock::try_take(&file, Hold::Exclusive, path)? {
        return Ok(None);
    }
    let ours = file.metadata().map_err(StoreError::file("stat", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.ino() == ours.ino() => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::file("stat", path)(e)),
    }
}

fn flag_bits(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Removes the work directories whose owners are dead. One that cannot be removed is left, and logged: it must not keep
/// anyone from using the store.
pub(super) fn reap(base: &Path) -> Result<Freed, StoreError> {
    let mut freed = Freed::default();
    let entries = std::fs::read_dir(base).map_err(StoreError::file("read", base))?;
    for entry in entries {
        let entry = entry.map_err(StoreError::file("read", base))?;
        let path = entry.path();
        let is_dir = entry
            .file_type()
            .map_err(StoreError::file("stat", &path))?
            .is_dir();
        let owned = if is_dir { try_own(&path)? } else { None };
        if is_dir && owned.is_none() {
            continue;
        }
        match remove_tree(&path) {
            Ok(more) => freed += more,
            Err(error) => tracing::warn!(%error, "cannot remove a dead work directory"),
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;

    #[test]
    fn work_lives_as_long_as_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let work = store.work().unwrap();
        let sub = work.directory("upper").unwrap();
        std::fs::write(sub.join("x"), b"x").unwrap();
        let dead = dir.path().join("work/dead");
        std::fs::create_dir_all(dead.join("x/y")).unwrap();
        std::fs::write(dir.path().join("work/stray"), b"x").unwrap();

        let other = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert!(sub.join("x").exists(), "a living owner's work is left");
        assert!(!dead.exists() && !dir.path().join("work/stray").exists());
        let path = work.path().to_owned();
        drop(work);
        assert!(!path.exists());
        drop((store, other));
    }

    #[test]
    fn making_and_reaping_race_without_loss() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let work = store.work().unwrap();
                        let (_, path) = work.file("x").unwrap();
                        assert!(path.exists());
                    }
                });
                scope.spawn(|| {
                    for _ in 0..50 {
                        reap(&dir.path().join("work")).unwrap();
                    }
                });
            }
        });
    }
}
