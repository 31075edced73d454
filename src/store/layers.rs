//! Unpacked layers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Store, StoreError};
use crate::oci::{ChainId, DiffId};

/// What an unpacked layer is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LayerId {
    /// By its own content: it looks the same on any stack.
    Diff(DiffId),
    /// By all its stack: it leans on the layers below it.
    Chain(ChainId),
}

/// An unpacked layer; it stays as it is while the store is open.
#[derive(Debug)]
pub struct Layer {
    id: LayerId,
    fs: PathBuf,
}

impl Layer {
    /// What it is known by.
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// The directory that is an overlay's lower.
    pub fn fs(&self) -> &Path {
        &self.fs
    }
}

impl Store {
    fn layer_dir(&self, id: &LayerId) -> PathBuf {
        let name = match id {
            LayerId::Diff(diff) => diff.0.hex(),
            LayerId::Chain(chain) => format!("chain-{}", chain.0.hex()),
        };
        self.root().join("layers").join(name)
    }

    /// The unpacked layer, if it is there.
    pub fn layer(&self, id: &LayerId) -> Result<Option<Arc<Layer>>, StoreError> {
        let fs = self.layer_dir(id).join("fs");
        Ok(fs.is_dir().then(|| Arc::new(Layer { id: *id, fs })))
    }
}
