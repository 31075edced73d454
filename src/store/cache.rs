//! The build cache: which layer a step made, by the key of everything that went into it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{KeyLock, LayerId, PathBytes, Store, StoreError};
use crate::oci::{ChainId, Descriptor, DiffId, Digest};

/// The version of a record. One of another version is a miss.
const VERSION: u32 = 1;

/// Something to know of a layer whenever it is used: told again when it comes from the cache. No part of a secret is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Remark {
    /// What is wrong, by its name.
    pub rule: String,
    /// About what: a name, a path as written, a secret's id.
    pub subject: String,
    /// Where in the layer; empty if that is not the question.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
}

/// What a step made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The digest of everything that decides the result.
    pub key: Digest,
    /// The layer it made.
    pub diff_id: DiffId,
    /// The stack it was made on; the result counts on no other. `None` for the bottom layer, and for one that does not look
    /// below (`COPY --link`).
    #[serde(default)]
    pub below: Option<ChainId>,
    /// The layer as it is pushed; `None` while it is only unpacked: no image has it yet.
    pub blob: Option<Descriptor>,
    /// When it was made, seconds since 1970, UTC.
    pub created: i64,
    /// What went into the key: label and value, in the key's order.
    pub inputs: Vec<(String, String)>,
    /// The instruction, as people know it.
    pub step: String,
    /// What to know of the layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
    /// Where it stood. Explanations look for it there; no result depends on it.
    #[serde(default)]
    pub place: Option<Place>,
    /// Of a COPY or an ADD: where it put each of its sources. For reports; no result depends on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copied_to: Vec<PathBytes>,
}

/// Where a step stood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Which Dockerfile and context it was built from: a digest of what they are called.
    pub build: Digest,
    /// The stage.
    pub stage: String,
    /// How many steps of the stage that make layers came before it.
    pub position: usize,
    /// The platform it was built for.
    pub platform: String,
    /// What it stood on: the instruction, or the base image and its digest; `None` for nothing.
    #[serde(default)]
    pub below: Option<String>,
    /// The names of the build arguments that were declared there.
    #[serde(default)]
    pub arguments: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<R> {
    version: u32,
    #[serde(flatten)]
    record: R,
}

impl Store {
    fn record_path(&self, key: &Digest) -> PathBuf {
        self.root().join("cache/records").join(key.hex())
    }

    /// A file that is there as long as some record has the layer, so that removing an image need not read every record.
    pub(super) fn cached_layer_path(&self, layer: &DiffId) -> PathBuf {
        self.root().join("cache/layers").join(layer.0.hex())
    }

    /// The result of a step, if it is there: a record that is torn, of another version, or whose layer is gone is a miss.
    pub fn cache_get(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        let path = self.record_path(key);
        let Some(record) = read_record(&path)? else {
            return Ok(None);
        };
        if record.key != *key || !self.has_result(&record)? {
            return Ok(None);
        }
        // When it was last of use, for a collection that keeps the newest.
        let file = std::fs::File::open(&path).map_err(StoreError::file("open", &path))?;
        file.set_modified(SystemTime::now())
            .map_err(StoreError::file("touch", &path))?;
        Ok(Some(record))
    }

    /// Whether what a record promises is there.
    pub(super) fn has_result(&self, record: &Record) -> Result<bool, StoreError> {
        match &record.blob {
            Some(blob) => Ok(self.has_blob(blob)),
            None => Ok(self.layer(&LayerId::Diff(record.diff_id))?.is_some()),
        }
    }

    /// Remembers the result of a step. `Ok` means: other processes find it; after a power loss it is there whole or not at all.
    pub fn cache_put(&self, record: &Record) -> Result<(), StoreError> {
        let mark = self.cached_layer_path(&record.diff_id);
        // Before the record: a mark too many keeps a layer until the next collection, one too few loses it.
        std::fs::File::create(&mark).map_err(StoreError::file("create", &mark))?;
        let record = Versioned {
            version: VERSION,
            record,
        };
        let bytes = serde_json::to_vec(&record).expect("no field of a record fails to serialise");
        self.replace_unflushed(&self.record_path(&record.record.key), &bytes)
    }

    /// Says that the result of `key`, which was only unpacked, is in `blob`, too. `Ok` means: nothing, or that the record, if it is
    /// still there, keeps the blob.
    pub fn cache_packed(&self, key: &Digest, blob: &Descriptor) -> Result<(), StoreError> {
        let path = self.record_path(key);
        let Some(record) = read_record(&path)?.filter(|r| r.blob.is_none()) else {
            return Ok(());
        };
        self.cache_put(&Record {
            blob: Some(blob.clone()),
            ..record
        })
    }

    /// All records that can be read, in the order in which they were last of use: what an explanation of a miss compares with.
    pub fn cache_records(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for path in super::list(&self.root().join("cache/records"))? {
            let Some(record) = read_record(&path)? else {
                continue;
            };
            // One that another process has just replaced counts as used now.
            let used = std::fs::metadata(&path).and_then(|meta| meta.modified());
            records.push((used.unwrap_or_else(|_| SystemTime::now()), record));
        }
        records.sort_by_key(|(used, record)| (*used, record.key));
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// Whether there is a record of `key` whose result is gone.
    pub fn cache_is_hollow(&self, key: &Digest) -> Result<bool, StoreError> {
        match read_record(&self.record_path(key))? {
            Some(record) => Ok(!self.has_result(&record)?),
            None => Ok(false),
        }
    }

    /// When a collection last took records away; `None` if none ever did.
    pub fn pruned(&self) -> Result<Option<SystemTime>, StoreError> {
        let path = self.pruned_path();
        match std::fs::metadata(&path).and_then(|meta| meta.modified()) {
            Ok(when) => Ok(Some(when)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::file("stat", &path)(e)),
        }
    }

    /// Notes that records are being taken away.
    pub(super) fn note_pruning(&self) -> Result<(), StoreError> {
        let path = self.pruned_path();
        let file = std::fs::File::create(&path).map_err(StoreError::file("create", &path))?;
        file.set_modified(SystemTime::now())
            .map_err(StoreError::file("touch", &path))
    }

    fn pruned_path(&self) -> PathBuf {
        self.root().join("cache/pruned")
    }

    /// The right to make the result of `key`: waits for another process (or thread) that is making it, or until `cancelled`.
    /// Look into the cache again once it is taken.
    pub fn cache_lock(&self, key: &Digest, cancelled: &AtomicBool) -> Result<KeyLock, StoreError> {
        let path = self.key_lock_path("key", &key.hex());
        KeyLock::take(path, cancelled, "the same step in another build")
    }

    /// Replaces a file that may be lost, but not torn, by a power loss: whole for every process of this boot.
    pub(super) fn replace_unflushed(
        &self,
        path: &std::path::Path,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.replace_unflushed_by(path, |file, temporary| {
            let written = file.write_all(bytes);
            written.map_err(StoreError::file("write", temporary))
        })
    }

    /// The same by what `write` puts into a file, whose path it is told too.
    pub(super) fn replace_unflushed_by(
        &self,
        path: &std::path::Path,
        write: impl FnOnce(&mut std::fs::File, &std::path::Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let work = self.scratch()?;
        let (mut file, temporary) = work.file("file")?;
        write(&mut file, &temporary)?;
        std::fs::rename(&temporary, path).map_err(StoreError::file("write", path))
    }
}

/// A record; `None` if it is not there or not whole.
pub(super) fn read_record(path: &std::path::Path) -> Result<Option<Record>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::file("read", path)(e)),
    };
    let record = serde_json::from_slice::<Versioned<Record>>(&bytes).ok();
    Ok(record.filter(|r| r.version == VERSION).map(|r| r.record))
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::super::testing::record;
    use super::*;

    #[test]
    fn hits_and_misses() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let record = record(&store, "a");
        assert_eq!(store.cache_get(&record.key).unwrap(), None);
        store.cache_put(&record).unwrap();
        assert_eq!(
            store.cache_get(&record.key).unwrap().as_ref(),
            Some(&record)
        );
        assert_eq!(
            store.cache_records().unwrap(),
            std::slice::from_ref(&record)
        );
        let path = store.record_path(&record.key);
        let whole = std::fs::read(&path).unwrap();
        for torn in [&b""[..], &whole[..whole.len() / 2], &vec![0; whole.len()]] {
            std::fs::write(&path, torn).unwrap();
            assert_eq!(store.cache_get(&record.key).unwrap(), None);
        }
        let text = String::from_utf8(whole.clone()).unwrap();
        std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        assert_eq!(store.cache_get(&record.key).unwrap(), None);
        std::fs::write(&path, &whole).unwrap();
        assert!(store.cache_get(&record.key).unwrap().is_some());
        std::fs::remove_file(store.blob_path(&record.diff_id.0)).unwrap();
        assert_eq!(store.cache_get(&record.key).unwrap(), None);
    }

    #[test]
    fn one_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
                    let key = Digest::of(b"key of a");
                    let never = AtomicBool::new(false);
                    let _lock = store.cache_lock(&key, &never).unwrap();
                    if store.cache_get(&key).unwrap().is_none() {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        store.cache_put(&record(&store, "a")).unwrap();
                    }
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
