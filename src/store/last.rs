//! What a step made the last time, whatever went into it: where the next making of it finds parts that are still the same.
//!
//! A hint and no result: nothing is found by it that is not checked, and without it the same bytes come out, later.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{LayerId, Store, StoreError};
use crate::layer::BlockTable;
use crate::oci::{Descriptor, DiffId, Digest};

/// The last layer that a step made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// Its blob, if it has one.
    pub blob: Option<Descriptor>,
    /// The blocks of the blob.
    pub blocks: BlockTable,
}

impl Store {
    fn last_path(&self, step: &Digest) -> PathBuf {
        self.root().join("cache/steps").join(step.hex())
    }

    /// What a step made last; `step` is anything that tells steps apart. Its blob may be gone.
    pub fn last_layer(&self, step: &Digest) -> Result<Option<LastLayer>, StoreError> {
        read(&self.last_path(step))
    }

    /// Remembers what a step made.
    pub fn set_last_layer(&self, step: &Digest, last: &LastLayer) -> Result<(), StoreError> {
        let path = self.last_path(step);
        let bytes = serde_json::to_vec(last).expect("no field of it fails to serialise");
        if let Some(dir) = path.parent()
            && !dir.exists()
        {
            // A store that an earlier strata made.
            std::fs::create_dir_all(dir).map_err(StoreError::file("create", dir))?;
        }
        self.replace_unflushed(&path, &bytes)
    }

    /// The hints about layers that `live` does not have by name: of no use any more.
    pub(super) fn stale_last_layers(
        &self,
        live: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.root().join("cache/steps");
        let mut stale = Vec::new();
        if !dir.exists() {
            return Ok(stale);
        }
        for path in super::list(&dir)? {
            let last = read(&path)?;
            if !last.is_some_and(|last| live(&LayerId::Diff(last.diff_id).file_name())) {
                stale.push(path);
            }
        }
        Ok(stale)
    }
}

/// A hint; `None` if it is not there or not whole.
fn read(path: &std::path::Path) -> Result<Option<LastLayer>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::file("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::super::{PruneOptions, StoreOptions};
    use super::*;

    #[test]
    fn hints_go_with_their_layers() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        std::fs::remove_dir_all(dir.path().join("cache/steps")).unwrap();
        let made = record(&store, "a");
        store.cache_put(&made).unwrap();
        let last = LastLayer {
            diff_id: made.diff_id,
            blob: made.blob.clone(),
            blocks: BlockTable::default(),
        };
        let step = Digest::of(b"COPY . .");
        assert_eq!(store.last_layer(&step).unwrap(), None);
        store.set_last_layer(&step, &last).unwrap();
        assert_eq!(store.last_layer(&step).unwrap(), Some(last));
        let prune = |store: &mut Store, build_cache| {
            let options = PruneOptions {
                build_cache,
                ..PruneOptions::default()
            };
            store.prune(&options, &|| ()).unwrap();
        };
        prune(&mut store, false);
        assert!(store.last_layer(&step).unwrap().is_some());
        std::fs::write(store.last_path(&Digest::of(b"torn")), b"{\"diff").unwrap();
        prune(&mut store, true);
        let left = super::super::list(&dir.path().join("cache/steps")).unwrap();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}
