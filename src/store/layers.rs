//! Unpacked layers and their tables of contents.
//!
//! A layer that was written since the file system was last flushed counts only within the boot that wrote it: its file `boot`
//! says which, and [`Store::barrier`] takes that away. So a power loss cannot leave a layer with holes that looks whole, and
//! nothing is flushed only because a layer was unpacked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::linked::copy_by_links;
use super::remove::remove_tree;
use super::{KeyLock, Store, StoreError, locked};
use crate::layer::Toc;
use crate::oci::{ChainId, DiffId};

/// How much of tables of contents is kept in memory: those of a large image, and not those of a large store.
const MAX_HELD_BYTES: usize = 32 << 20;

/// What an unpacked layer is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LayerId {
    /// By its own content: it looks the same on any stack.
    Diff(DiffId),
    /// By all its stack: it leans on the layers below it.
    Chain(ChainId),
}

impl LayerId {
    /// What the layer `diff_id` is known by on top of `below`.
    pub fn of(toc: &Toc, diff_id: DiffId, below: Option<ChainId>) -> LayerId {
        if toc.leans_on_lower() {
            LayerId::Chain(chain(diff_id, below))
        } else {
            LayerId::Diff(diff_id)
        }
    }

    pub(super) fn file_name(&self) -> String {
        match self {
            LayerId::Diff(diff) => diff.0.hex(),
            // The chainID of a single layer is its diffID: the two must not meet.
            LayerId::Chain(chain) => format!("{CHAIN}{}", chain.0.hex()),
        }
    }
}

/// Before the digits of a chainID.
pub(super) const CHAIN: &str = "chain-";

pub(super) fn chain(diff_id: DiffId, below: Option<ChainId>) -> ChainId {
    below.map_or(ChainId(diff_id.0), |below| below.push(diff_id))
}

/// An unpacked layer. It stays as it is while the store is open.
#[derive(Debug)]
pub struct Layer {
    id: LayerId,
    fs: PathBuf,
    toc: OnceLock<Arc<Toc>>,
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

    /// The file of its table of contents.
    pub fn open_toc(&self) -> io::Result<std::fs::File> {
        std::fs::File::open(self.fs.with_file_name("toc"))
    }

    /// Its table of contents, read when it is first asked for.
    pub fn toc(&self) -> Result<Arc<Toc>, StoreError> {
        if let Some(toc) = self.toc.get() {
            return Ok(Arc::clone(toc));
        }
        let path = self.fs.with_file_name("toc");
        let toc = read_toc(&path)?.ok_or_else(|| {
            StoreError::file("open", &path)(io::Error::from(io::ErrorKind::NotFound))
        })?;
        Ok(Arc::clone(self.toc.get_or_init(|| toc)))
    }
}

/// The table in a file, if there is one.
pub(super) fn read_toc(path: &Path) -> Result<Option<Arc<Toc>>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::file("read", path)(e)),
    };
    let toc = Toc::parse(bytes).map_err(|source| StoreError::Toc {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(Some(Arc::new(toc)))
}

impl Store {
    pub(super) fn layer_dir(&self, id: &LayerId) -> PathBuf {
        self.root().join("layers").join(id.file_name())
    }

    /// Whether what a layer's directory holds was written in this boot, or flushed.
    pub(super) fn is_sound(&self, dir: &Path) -> Result<bool, StoreError> {
        let path = dir.join("boot");
        match std::fs::read_to_string(&path) {
            Ok(boot) => Ok(self.inner.boot == boot),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(e) => Err(StoreError::file("read", &path)(e)),
        }
    }

    /// The unpacked layer, if it is there.
    pub fn layer(&self, id: &LayerId) -> Result<Option<Arc<Layer>>, StoreError> {
        // A table is held once, whoever asked for it first.
        let toc = match id {
            LayerId::Diff(diff_id) => locked(&self.inner.tocs).get(diff_id).cloned(),
            LayerId::Chain(_) => None,
        };
        if let Some(layer) = locked(&self.inner.layers).get(id) {
            if let Some(toc) = toc {
                layer.toc.get_or_init(|| toc);
            }
            return Ok(Some(Arc::clone(layer)));
        }
        let dir = self.layer_dir(id);
        let fs = dir.join("fs");
        match std::fs::symlink_metadata(&fs) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::file("stat", &fs)(e)),
        }
        if !self.is_sound(&dir)? {
            return Ok(None);
        }
        Ok(Some(self.remember(*id, fs, toc)))
    }

    fn remember(&self, id: LayerId, fs: PathBuf, toc: Option<Arc<Toc>>) -> Arc<Layer> {
        let layer = Layer {
            id,
            fs,
            toc: toc.map(OnceLock::from).unwrap_or_default(),
        };
        let mut layers = locked(&self.inner.layers);
        Arc::clone(layers.entry(id).or_insert_with(|| Arc::new(layer)))
    }

    /// The unpacked layer as it looks on top of `below`.
    pub fn layer_on(
        &self,
        diff_id: &DiffId,
        below: Option<ChainId>,
    ) -> Result<Option<Arc<Layer>>, StoreError> {
        if let Some(layer) = self.layer(&LayerId::Diff(*diff_id))? {
            return Ok(Some(layer));
        }
        self.layer(&LayerId::Chain(chain(*diff_id, below)))
    }

    /// A layer's table of contents, if it was ever made here; it outlives the unpacked layer.
    pub fn toc(&self, diff_id: &DiffId) -> Result<Option<Arc<Toc>>, StoreError> {
        if let Some(toc) = locked(&self.inner.tocs).get(diff_id) {
            return Ok(Some(Arc::clone(toc)));
        }
        let layer = LayerId::Diff(*diff_id);
        let held = locked(&self.inner.layers).get(&layer).map(Arc::clone);
        if let Some(toc) = held.as_ref().and_then(|layer| layer.toc.get()) {
            return Ok(Some(Arc::clone(toc)));
        }
        let dir = self.layer_dir(&layer);
        if !self.is_sound(&dir)? {
            return Ok(None);
        }
        let toc = read_toc(&dir.join("toc"))?;
        if let Some(toc) = &toc {
            let mut tocs = locked(&self.inner.tocs);
            let held: usize = tocs.values().map(|t| t.as_bytes().len()).sum();
            // Whoever goes through all images of a large store needs few of their tables at a time.
            if held + toc.as_bytes().len() > MAX_HELD_BYTES {
                tocs.clear();
            }
            tocs.insert(*diff_id, Arc::clone(toc));
        }
        Ok(toc)
    }

    /// Stores the table of a layer that is not unpacked. `Ok` means: [`Store::toc`] finds it.
    pub fn put_toc(&self, diff_id: &DiffId, toc: Arc<Toc>) -> Result<(), StoreError> {
        let _lock = self.layer_lock(diff_id)?;
        self.publish(LayerId::Diff(*diff_id), None, &toc)?;
        locked(&self.inner.tocs).insert(*diff_id, toc);
        Ok(())
    }

    /// Makes a directory that holds what layer `diff_id` changes (an overlay's upper directory, on the store's file system: in
    /// a [`super::Work`]) the unpacked layer, by a rename. If the layer is there already, the directory stays where it is and
    /// the layer that is there is the result. Either way it is never written to again.
    pub fn publish_layer(
        &self,
        dir: &Path,
        toc: Arc<Toc>,
        diff_id: &DiffId,
    ) -> Result<Arc<Layer>, StoreError> {
        let _lock = self.layer_lock(diff_id)?;
        self.publish_as(LayerId::Diff(*diff_id), diff_id, dir, toc)
    }

    /// The same of a directory that steps stand on and that has more than the layer: what the layer has is linked into a directory
    /// of its own, and `dir` stays as it is.
    pub fn publish_linked(
        &self,
        dir: &Path,
        toc: Arc<Toc>,
        diff_id: &DiffId,
    ) -> Result<Arc<Layer>, StoreError> {
        if let Some(layer) = self.layer(&LayerId::Diff(*diff_id))? {
            return Ok(layer);
        }
        let work = self.scratch()?;
        let staging = work.directory("layer")?;
        let fs = staging.join("fs");
        let layer =
            copy_by_links(dir, &fs, &toc).and_then(|()| self.publish_layer(&fs, toc, diff_id));
        remove_tree(&staging)?;
        layer
    }

    /// Puts a layer in place under `id`. The caller holds the lock of `diff_id`.
    pub(super) fn publish_as(
        &self,
        id: LayerId,
        diff_id: &DiffId,
        dir: &Path,
        toc: Arc<Toc>,
    ) -> Result<Arc<Layer>, StoreError> {
        let fs = self.publish(id, Some(dir), &toc)?;
        if id == LayerId::Diff(*diff_id) {
            locked(&self.inner.tocs).insert(*diff_id, Arc::clone(&toc));
        }
        Ok(self.remember(id, fs, Some(toc)))
    }

    /// One process at a time publishes a layer.
    pub(super) fn layer_lock(&self, diff_id: &DiffId) -> Result<KeyLock, StoreError> {
        let path = self.key_lock_path("layer", &diff_id.0.hex());
        KeyLock::take(path, &AtomicBool::new(false), "the same layer")
    }

    /// Puts a layer's files (if given) and table in place; gives the place of the files. The caller holds the layer's lock.
    pub(super) fn publish(
        &self,
        id: LayerId,
        fs: Option<&Path>,
        toc: &Toc,
    ) -> Result<PathBuf, StoreError> {
        let target = self.layer_dir(&id);
        let there = target.is_dir();
        let sound = there && self.is_sound(&target)?;
        let has_toc = sound && target.join("toc").exists();
        let target_fs = target.join("fs");
        if has_toc {
            let Some(fs) = fs.filter(|_| !target_fs.exists()) else {
                return Ok(target_fs);
            };
            // Only the table was there. The mark first: with it, files that a power loss tears do not count.
            self.mark(&target, &target)?;
            std::fs::rename(fs, &target_fs).map_err(StoreError::file("publish", &target_fs))?;
            return Ok(target_fs);
        }
        let work = self.scratch()?;
        let staging = work.directory("layer")?;
        let toc_path = staging.join("toc");
        std::fs::write(&toc_path, toc.as_bytes()).map_err(StoreError::file("write", &toc_path))?;
        self.mark(&staging, &target)?;
        if let Some(fs) = fs {
            let to = staging.join("fs");
            std::fs::rename(fs, &to).map_err(StoreError::file("publish", &to))?;
        }
        if there {
            // What an earlier boot left unfinished.
            renameat_with(CWD, &staging, CWD, &target, RenameFlags::EXCHANGE)
                .map_err(StoreError::call("publish", &target))?;
            remove_tree(&staging)?;
        } else {
            std::fs::rename(&staging, &target).map_err(StoreError::file("publish", &target))?;
        }
        Ok(target_fs)
    }

    /// Notes in `dir`, which is or will be `target`, that it is not flushed.
    pub(super) fn mark(&self, dir: &Path, target: &Path) -> Result<(), StoreError> {
        self.replace_unflushed(&dir.join("boot"), self.inner.boot.as_bytes())?;
        locked(&self.inner.unflushed).push(target.to_owned());
        Ok(())
    }

    /// Takes the marks away from the layers that were noted before a flush.
    pub(super) fn unmark(&self, flushed: &[PathBuf]) -> Result<(), StoreError> {
        for dir in flushed {
            let path = dir.join("boot");
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::file("remove", &path)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
