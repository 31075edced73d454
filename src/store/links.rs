//! What is known about layers and blobs beyond their bytes: which blobs hold a layer, which repositories have a blob.
//!
//! Hints: a wrong or lost one costs time, and a power loss may take the latest.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lock::{self, Hold};
use super::{Store, StoreError};
use crate::oci::{Descriptor, DiffId, Digest};

/// How many repositories are remembered for a blob; the newest ones stay. A mount is tried from one or two.
const MAX_ORIGINS: usize = 16;

impl Store {
    /// The blobs in the store that hold a layer, each another compression of the same bytes.
    pub fn blobs_of(&self, layer: &DiffId) -> Result<Vec<Descriptor>, StoreError> {
        let path = self.root().join("cache/blobs").join(layer.0.hex());
        let mut blobs: Vec<Descriptor> = read(&path)?;
        blobs.retain(|b| self.has_blob(b));
        Ok(blobs)
    }

    /// Remembers that a blob holds a layer. The caller has seen that it does.
    pub fn add_blob_of(&self, layer: &DiffId, blob: &Descriptor) -> Result<(), StoreError> {
        let path = self.root().join("cache/blobs").join(layer.0.hex());
        self.add(&path, |blobs: &mut Vec<Descriptor>| {
            if blobs.iter().any(|b| b.digest == blob.digest) {
                return false;
            }
            blobs.push(blob.clone());
            true
        })
    }

    /// The repositories (`HOST/REPOSITORY`) a blob was pulled from or pushed to, newest last.
    pub fn origins(&self, blob: &Digest) -> Result<Vec<String>, StoreError> {
        read(&self.root().join("cache/origins").join(blob.hex()))
    }

    /// Remembers that a repository has a blob.
    pub fn add_origin(&self, blob: &Digest, repository: &str) -> Result<(), StoreError> {
        let path = self.root().join("cache/origins").join(blob.hex());
        self.add(&path, |origins: &mut Vec<String>| {
            if origins.iter().any(|o| o == repository) {
                return false;
            }
            origins.push(repository.to_owned());
            if origins.len() > MAX_ORIGINS {
                origins.remove(0);
            }
            true
        })
    }

    fn add<T: Serialize + DeserializeOwned>(
        &self,
        path: &Path,
        change: impl Fn(&mut Vec<T>) -> bool,
    ) -> Result<(), StoreError> {
        // Mostly it is known already, which needs no lock to see.
        if !change(&mut read(path)?) {
            return Ok(());
        }
        let lock_path = self.root().join("locks/links");
        let guard = lock::open(&lock_path)?;
        lock::take(&guard, Hold::Exclusive, &lock_path)?;
        let mut values = read(path)?;
        if change(&mut values) {
            let bytes = serde_json::to_vec(&values).expect("strings and descriptors serialise");
            self.replace_unflushed(path, &bytes)?;
        }
        Ok(())
    }
}

/// What the file says; nothing if it is not there or not whole.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(StoreError::file("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;
    use crate::oci::MediaType;

    #[test]
    fn links_add_up_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let layer = DiffId(Digest::of(b"layer"));
        let gone = Descriptor::of(MediaType::OciLayer, b"not in the store");
        let blob = store.put_bytes(MediaType::OciLayerGzip, b"blob").unwrap();
        for blob in [&gone, &blob, &blob] {
            store.add_blob_of(&layer, blob).unwrap();
        }
        assert_eq!(store.blobs_of(&layer).unwrap(), std::slice::from_ref(&blob));
        for i in 0..20 {
            let repository = format!("localhost/r{i}");
            store.add_origin(&blob.digest, &repository).unwrap();
            store.add_origin(&blob.digest, &repository).unwrap();
        }
        let origins = store.origins(&blob.digest).unwrap();
        assert_eq!(origins.len(), MAX_ORIGINS);
        assert_eq!(origins.last().map(String::as_str), Some("localhost/r19"));
    }
}
