//! Content by its digest.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::work::Work;
use super::{KeyLock, Store, StoreError};
use crate::image::{VerifyError, read_verified};
use crate::oci::{Algorithm, Descriptor, Digest, Hasher, MediaType};

/// The longest document (manifest, index, configuration) that is read into memory. Registries stop at 4 MiB for manifests;
/// configurations of images with long histories can be longer.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 32 << 20;

/// A blob that is in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blob {
    /// What it is called.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A blob being written, hashed on the way. Dropped without [`Ingest::commit`], it is gone.
pub struct Ingest {
    pending: Pending,
    algorithm: Algorithm,
    hasher: Hasher,
    size: u64,
}

/// A blob being written by someone who hashes it too (layer::pack does): a plain file until it is committed.
#[derive(Debug)]
pub struct Prehashed(Pending);

#[derive(Debug)]
struct Pending {
    store: Store,
    path: PathBuf,
    file: File,
    // Keeps the directory of `path`.
    _work: Arc<Work>,
    published: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished blob");
        }
    }
}

impl Pending {
    /// Gives the bytes their name. The file holds `size` bytes that hash to `digest`.
    fn publish(mut self, digest: Digest, size: u64) -> Result<Blob, StoreError> {
        let blob = Blob { digest, size };
        let path = self.store.blob_path(&digest);
        if has(&path, size) {
            return Ok(blob);
        }
        // Also over a file of another length: what a power loss left of it before anything named it.
        let rename = || std::fs::rename(&self.path, &path);
        let renamed = match rename() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_parent(&path)?;
                rename()
            }
            result => result,
        };
        renamed.map_err(StoreError::file("write", &path))?;
        self.published = true;
        Ok(blob)
    }
}

fn make_parent(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(StoreError::file("create", parent))
}

fn has(path: &Path, size: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == size)
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.pending.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ingest {
    /// `Ok` means: what was written is in the store under its digest, and, if something was `expected`, is that.
    pub fn commit(self, expected: Option<&Descriptor>) -> Result<Blob, StoreError> {
        let actual = self.hasher.finish();
        if let Some(expected) = expected {
            if self.size != expected.size {
                return Err(VerifyError::Size {
                    digest: expected.digest,
                    expected: expected.size,
                    actual: self.size,
                }
                .into());
            }
            // Digests of two algorithms cannot be compared; `ingest_as` hashes with the one that is expected.
            debug_assert_eq!(self.algorithm, expected.digest.algorithm());
            if actual != expected.digest {
                return Err(VerifyError::Digest {
                    expected: expected.digest,
                    actual,
                }
                .into());
            }
        }
        self.pending.publish(actual, self.size)
    }
}

impl Write for Prehashed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Prehashed {
    /// `Ok` means: what was written is in the store as `digest`, which the caller computed from the same bytes.
    pub fn commit_as(self, digest: Digest, size: u64) -> Result<Blob, StoreError> {
        let path = &self.0.path;
        let written = self.0.file.metadata();
        let written = written.map_err(StoreError::file("stat", path))?.len();
        if written != size {
            return Err(VerifyError::Size {
                digest,
                expected: size,
                actual: written,
            }
            .into());
        }
        self.0.publish(digest, size)
    }

    /// The file, for those who write to it by other means than `Write` (copy_file_range, several threads).
    pub fn file(&self) -> &File {
        &self.0.file
    }
}

impl Store {
    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.root().join("blobs");
        path.push(digest.algorithm().name());
        path.push(digest.hex());
        path
    }

    /// Whether the blob is there, whole: it has its length.
    pub fn has_blob(&self, descriptor: &Descriptor) -> bool {
        has(&self.blob_path(&descriptor.digest), descriptor.size)
    }

    /// The blob's file, unverified: it was verified when it was written, [`Store::check`] does it again.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<File, StoreError> {
        self.open_digest(&descriptor.digest)
    }

    pub(super) fn open_digest(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob(*digest),
            _ => StoreError::file("open", &path)(error),
        })
    }

    /// The bytes of a document. `Ok` means: they are the described bytes.
    pub fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        if descriptor.size > MAX_DOCUMENT_BYTES {
            return Err(StoreError::TooLong {
                digest: descriptor.digest,
                size_bytes: descriptor.size,
                limit_bytes: MAX_DOCUMENT_BYTES,
            });
        }
        let file = self.open_blob(descriptor)?;
        read_verified(file, descriptor).map_err(|error| self.read_error(&descriptor.digest, error))
    }

    /// A verifying reader's error, as the store's.
    pub(super) fn read_error(&self, digest: &Digest, error: io::Error) -> StoreError {
        match error
            .get_ref()
            .and_then(|e| e.downcast_ref::<VerifyError>())
        {
            Some(verify) => verify.clone().into(),
            None => StoreError::file("read", self.blob_path(digest))(error),
        }
    }

    /// The error of a stream that comes from elsewhere, as the store's.
    pub(super) fn incoming_error(error: io::Error) -> StoreError {
        match error
            .get_ref()
            .and_then(|e| e.downcast_ref::<VerifyError>())
        {
            Some(verify) => verify.clone().into(),
            None => StoreError::Incoming(error),
        }
    }

    /// The right to bring a blob from elsewhere, so that it comes once: by one process, and by one thread of it. Waits while
    /// another has it, after a call of `on_wait`, or until `cancelled`; whoever gets it looks whether the blob is there now.
    pub fn blob_lock(
        &self,
        digest: &Digest,
        cancelled: &AtomicBool,
        on_wait: &dyn Fn(),
    ) -> Result<KeyLock, StoreError> {
        let path = self.key_lock_path("blob", &digest.hex());
        KeyLock::take_or_tell(path, cancelled, "a blob that another brings", on_wait)
    }

    /// Starts to write a blob, by SHA-256.
    pub fn ingest(&self) -> Result<Ingest, StoreError> {
        self.ingest_as(Algorithm::Sha256)
    }

    /// Starts to write a blob that is known by another algorithm.
    pub fn ingest_as(&self, algorithm: Algorithm) -> Result<Ingest, StoreError> {
        Ok(Ingest {
            pending: self.pending()?,
            algorithm,
            hasher: Hasher::new(algorithm),
            size: 0,
        })
    }

    /// Starts to write a blob whose digest the caller computes.
    pub fn ingest_prehashed(&self) -> Result<Prehashed, StoreError> {
        Ok(Prehashed(self.pending()?))
    }

    fn pending(&self) -> Result<Pending, StoreError> {
        let work = self.scratch()?;
        let (file, path) = work.file("blob")?;
        Ok(Pending {
            store: self.clone(),
            path,
            file,
            _work: work,
            published: false,
        })
    }

    /// Stores a document. `Ok` means: it is there under the digest of the descriptor.
    pub fn put_bytes(&self, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor, StoreError> {
        let descriptor = Descriptor::of(media_type, bytes);
        if !self.has_blob(&descriptor) {
            let mut pending = self.pending()?;
            let written = pending.file.write_all(bytes);
            written.map_err(StoreError::file("write", &pending.path))?;
            pending.publish(descriptor.digest, descriptor.size)?;
        }
        Ok(descriptor)
    }

    /// Stores the described blob from a stream. `Ok` means: it is there, every byte verified.
    pub fn put_stream(
        &self,
        descriptor: &Descriptor,
        mut stream: impl Read,
    ) -> Result<Blob, StoreError> {
        let mut ingest = self.ingest_as(descriptor.digest.algorithm())?;
        // One byte more than expected shows that there is more, and no stream can fill the disk.
        let mut limited = (&mut stream).take(descriptor.size.saturating_add(1));
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match limited.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Self::incoming_error(e)),
            };
            let written = ingest.write_all(&buffer[..n]);
            written.map_err(StoreError::file("write", &ingest.pending.path))?;
        }
        ingest.commit(Some(descriptor))
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_is_committed_is_there_and_nothing_else() {
        let (_dir, store) = store();
        let descriptor = store.put_bytes(MediaType::OciLayer, b"content").unwrap();
        assert!(store.has_blob(&descriptor));
        assert_eq!(store.read_blob(&descriptor).unwrap(), b"content");
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(b"con").unwrap();
        ingest.write_all(b"tent").unwrap();
        assert_eq!(
            ingest.commit(Some(&descriptor)).unwrap().digest,
            descriptor.digest
        );
        drop(store.ingest().unwrap());
        let scratch = store.scratch().unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn wrong_bytes_are_refused_in_every_way() {
        let (_dir, store) = store();
        let right = Descriptor::of(MediaType::OciLayer, b"right");
        for wrong in [&b"wrong"[..], b"righ", b"right!", b""] {
            let error = store.put_stream(&right, wrong).unwrap_err();
            assert!(matches!(error, StoreError::Verify(_)), "{error:?}");
            let mut prehashed = store.ingest_prehashed().unwrap();
            prehashed.write_all(wrong).unwrap();
            let size = wrong.len() as u64 + 1;
            assert!(prehashed.commit_as(right.digest, size).is_err());
        }
        assert!(!store.has_blob(&right));
        assert!(matches!(
            store.read_blob(&right).unwrap_err(),
            StoreError::MissingBlob(d) if d == right.digest
        ));
    }

    #[test]
    fn a_torn_blob_is_absent_and_replaced() {
        let (_dir, store) = store();
        let descriptor = store.put_bytes(MediaType::OciLayer, b"content").unwrap();
        std::fs::write(store.blob_path(&descriptor.digest), b"").unwrap();
        assert!(!store.has_blob(&descriptor));
        store.put_bytes(MediaType::OciLayer, b"content").unwrap();
        assert_eq!(store.read_blob(&descriptor).unwrap(), b"content");
        std::fs::write(store.blob_path(&descriptor.digest), b"CONTENT").unwrap();
        assert!(matches!(
            store.read_blob(&descriptor),
            Err(StoreError::Verify(_))
        ));
    }

    #[test]
    fn sha512_has_its_own_directory() {
        let (_dir, store) = store();
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"content");
        let descriptor = Descriptor::new(MediaType::OciLayer, hasher.finish(), 7);
        store.put_stream(&descriptor, &b"content"[..]).unwrap();
        assert_eq!(store.read_blob(&descriptor).unwrap(), b"content");
    }
}
