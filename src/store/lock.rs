//! Locks between processes: advisory (`flock`), on open files, gone when their holder is.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::StoreError;

/// How long a waiter sleeps between two looks at a lock: it starts with the first and doubles up to the second. `flock` can
/// not be interrupted by a flag, so waiting is looking; the second is what a cancelled or released wait can cost at most.
const POLL: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    Shared,
    Exclusive,
}

/// Opens a lock file, made if it is not there.
pub(super) fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(StoreError::file("open the lock", path))
}

/// Takes the lock if it can be had at once.
pub(super) fn try_take(file: &File, hold: Hold, path: &Path) -> Result<bool, StoreError> {
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        return match flock(file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(StoreError::call("lock", path)(errno)),
        };
    }
}

/// Takes the lock, however long it takes.
pub(super) fn take(file: &File, hold: Hold, path: &Path) -> Result<(), StoreError> {
    let operation = match hold {
        Hold::Shared => FlockOperation::LockShared,
        Hold::Exclusive => FlockOperation::LockExclusive,
    };
    loop {
        return match flock(file, operation) {
            Ok(()) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(StoreError::call("lock", path)(errno)),
        };
    }
}

/// Takes the lock, or gives up when `cancelled` becomes true.
pub(super) fn take_unless(
    file: &File,
    hold: Hold,
    path: &Path,
    cancelled: &AtomicBool,
    what: &'static str,
) -> Result<(), StoreError> {
    let mut pause = POLL.0;
    while !try_take(file, hold, path)? {
        if cancelled.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled(what));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL.1);
    }
    Ok(())
}

/// Lets the lock go; the file stays open.
pub(super) fn release(file: &File, path: &Path) -> Result<(), StoreError> {
    flock(file, FlockOperation::Unlock).map_err(StoreError::call("unlock", path))
}

/// The exclusive right to one key, while it lives. Its file is there only while someone holds or waits.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    file: Option<File>,
}

impl KeyLock {
    /// Waits for the lock at `path`, or until `cancelled`.
    pub(super) fn take(
        path: PathBuf,
        cancelled: &AtomicBool,
        what: &'static str,
    ) -> Result<KeyLock, StoreError> {
        KeyLock::take_or_tell(path, cancelled, what, &|| ())
    }

    /// The same; `on_wait` is called once if another holds it.
    pub(super) fn take_or_tell(
        path: PathBuf,
        cancelled: &AtomicBool,
        what: &'static str,
        on_wait: &dyn Fn(),
    ) -> Result<KeyLock, StoreError> {
        let mut told = false;
        loop {
            let file = open(&path)?;
            if !try_take(&file, Hold::Exclusive, &path)? {
                if !std::mem::replace(&mut told, true) {
                    on_wait();
                }
                take_unless(&file, Hold::Exclusive, &path, cancelled, what)?;
            }
            // The last holder removed the file before it let go: a lock on a removed file excludes nobody.
            let links = file.metadata().map_err(StoreError::file("stat", &path))?;
            if links.nlink() > 0 {
                return Ok(KeyLock {
                    path,
                    file: Some(file),
                });
            }
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed first and released (by closing) second; see `take`.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a lock file");
        }
        self.file.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn one_holder_at_a_time_and_no_file_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let inside = AtomicU32::new(0);
        let total = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let lock =
                            KeyLock::take(path.clone(), &AtomicBool::new(false), "a key").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        total.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::SeqCst), 160);
        assert!(!path.exists());
    }

    #[test]
    fn a_wait_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let _held = KeyLock::take(path.clone(), &AtomicBool::new(false), "a key").unwrap();
        let cancelled = AtomicBool::new(true);
        let error = KeyLock::take(path, &cancelled, "a key").unwrap_err();
        assert!(matches!(error, StoreError::Cancelled("a key")));
    }
}
