//! The commit of a step: what it made becomes a layer of the store, in the background while the next step runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use crate::layer::{
    Changes, Compression, DiffOptions, Earlier, KindRef, Materialise, PackOptions, Packed, Root,
};
use crate::oci::{ChainId, Descriptor, DiffId, Digest};
use crate::plan::graph::VertexId;
use crate::store::{KeyLock, LastLayer, LayerId, Place, Prehashed, Record, Remark, StoreError};

use super::engine::{Engine, Layers, chain, make_layer_dir, now, open_dir};
use super::snapshot::{Committed, Snapshot};
use super::{BuildError, footguns, strays};

/// From how many files on it pays to look for what is unchanged since the last build.
const MANY_FILES: usize = 32;

/// From how many bytes on it does.
const MANY_BYTES: u64 = 1 << 20;

/// What to do about a vertex that was not in the cache.
pub(super) enum Made {
    /// Files are in a directory; what changed is to be found in it.
    Upper { dir: PathBuf },
    /// The layer's entries are known.
    Changes(Changes),
}

impl Engine<'_> {
    /// Publishes what steps stood on when it was committed.
    pub(super) fn publish_late(&self) -> Result<(), BuildError> {
        let mut late = self.late.lock().expect("no holder of this lock panics");
        for (dir, toc, diff_id) in late.drain(..) {
            strays::remove(&strays::find(&dir, &toc)?)?;
            self.store.publish_layer(&dir, toc, &diff_id)?;
        }
        Ok(())
    }

    /// Packs what a step made. Files that later steps need are there when this returns; the rest goes on in the background.
    pub(super) fn commit<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        id: VertexId,
        made: Made,
        below: &Layers,
        record: PendingRecord,
    ) -> Result<Arc<Snapshot>, BuildError> {
        let created = now();
        let below = below.clone();
        match made {
            Made::Upper { dir } => {
                let upper = Arc::new(open_dir(&dir)?);
                let snapshot = Snapshot::active(Some(upper.clone()));
                let shared = snapshot.clone();
                scope.spawn(move || {
                    shared.commit(|| {
                        let lower = self.stack(&below)?;
                        let options = DiffOptions {
                            ownership: self.store.tree_options().ownership,
                            ..DiffOptions::default()
                        };
                        let changes = crate::layer::diff(&upper, &lower, &options)?;
                        let record = record.unless_small(&changes);
                        let earlier = self.earlier(&record, false)?;
                        let packed = self.pack(changes, None, earlier, self.form(id))?;
                        let record = self.look(id, record, &packed.0)?;
                        let files = Files::Upper(dir);
                        self.publish(packed, files, &below, created, record, &shared)
                    });
                });
                Ok(snapshot)
            }
            Made::Changes(changes) if self.needs_files.contains(&id) => {
                let dir = self.work.directory("layer")?.join("fs");
                make_layer_dir(&dir)?;
                let record = record.unless_small(&changes);
                let earlier = self.earlier(&record, true)?;
                let packed = self.pack(changes, Some(&dir), earlier, self.form(id))?;
                let record = self.look(id, record, &packed.0)?;
                let snapshot = Snapshot::active(Some(Arc::new(open_dir(&dir)?)));
                let files = Files::Written(dir);
                snapshot.commit(|| self.publish(packed, files, &below, created, record, &snapshot));
                snapshot.wait()?;
                Ok(snapshot)
            }
            Made::Changes(mut changes) => {
                let snapshot = Snapshot::active(None);
                snapshot.set_toc(changes.toc());
                let shared = snapshot.clone();
                scope.spawn(move || {
                    shared.commit(|| {
                        let record = record.unless_small(&changes);
                        let earlier = self.earlier(&record, false)?;
                        let packed = self.pack(changes, None, earlier, Form::Blob)?;
                        let record = self.look(id, record, &packed.0)?;
                        self.publish(packed, Files::None, &below, created, record, &shared)
                    });
                });
                Ok(snapshot)
            }
        }
    }

    fn pack(
        &self,
        changes: Changes,
        materialise: Option<&std::path::Path>,
        mut earlier: Earlier,
        form: Form,
    ) -> Result<(Packed, Option<Prehashed>), BuildError> {
        // A step that waits for its files goes first; packing waits for nobody, so every turn ends.
        let _turn = materialise.is_none().then(|| self.packing.take());
        let mut ingest = match form {
            Form::Blob => Some(self.store.ingest_prehashed()?),
            Form::Unpacked => None,
        };
        if let Some(blob) = &ingest {
            let reader = blob.file().try_clone().map_err(|source| BuildError::Host {
                action: "open",
                path: self.store.root().to_owned(),
                source,
            })?;
            earlier.set_twins(self.twins.clone(), reader);
        }
        let options = PackOptions {
            compression: match form {
                Form::Blob => self.request.image.compression,
                Form::Unpacked => Compression::None,
            },
            ..PackOptions::default()
        };
        let target = materialise.map(|dir| self.target(dir)).transpose()?;
        let out = WhileWanted {
            inner: Out(ingest.as_mut()),
            cancel: self.cancel,
        };
        let needles = self.needles.as_ref();
        let packed =
            crate::layer::pack_after(changes, out, &options, target.as_ref(), earlier, needles);
        if self.cancel.load(Ordering::Relaxed) {
            return Err(BuildError::Canceled);
        }
        Ok((packed?, ingest))
    }

    // What the layer of a step is kept as that has files.
    fn form(&self, id: VertexId) -> Form {
        match self.in_outputs.contains(&id) {
            true => Form::Blob,
            false => Form::Unpacked,
        }
    }

    /// The blob of a layer. One that no output has had yet is packed now, from its files; the bytes are those of a layer that was
    /// packed at once.
    pub(super) fn blob_of(&self, committed: &Committed) -> Result<Descriptor, BuildError> {
        if let Some(blob) = &committed.blob {
            return Ok(blob.clone());
        }
        let diff_id = committed.diff_id;
        let compression = self.request.image.compression;
        let mut known = self.store.blobs_of(&diff_id)?.into_iter();
        let blob = match known.find(|blob| blob.media_type == compression.media_type()) {
            Some(blob) => blob,
            None => self.pack_unpacked(&diff_id, compression)?,
        };
        if let Some(key) = &committed.key {
            self.store.cache_packed(key, &blob)?;
        }
        Ok(blob)
    }

    fn pack_unpacked(
        &self,
        diff_id: &DiffId,
        compression: Compression,
    ) -> Result<Descriptor, BuildError> {
        let layer = self.store.layer(&LayerId::Diff(*diff_id))?;
        let layer = layer.ok_or(StoreError::MissingLayer(*diff_id))?;
        let root = Root::new(Arc::new(open_dir(layer.fs())?));
        let options = PackOptions {
            compression,
            ..PackOptions::default()
        };
        let mut ingest = self.store.ingest_prehashed()?;
        let out = WhileWanted {
            inner: &mut ingest,
            cancel: self.cancel,
        };
        let packed = crate::layer::pack_tree(&*layer.toc()?, &root, out, &options);
        if self.cancel.load(Ordering::Relaxed) {
            return Err(BuildError::Canceled);
        }
        let damaged = |source| BuildError::DamagedLayer {
            layer: *diff_id,
            source,
        };
        let packed = packed.map_err(|e| damaged(Some(Box::new(e))))?;
        if packed.diff_id != *diff_id {
            return Err(damaged(None));
        }
        ingest.commit_as(packed.digest, packed.size_bytes)?;
        let blob = Descriptor::new(packed.media_type, packed.digest, packed.size_bytes);
        self.store.add_blob_of(diff_id, &blob)?;
        Ok(blob)
    }

    // Looks at what was packed. Nothing of it is in the store yet.
    fn look(
        &self,
        id: VertexId,
        mut record: PendingRecord,
        packed: &Packed,
    ) -> Result<PendingRecord, BuildError> {
        for remark in footguns::of_leaks(&packed.leaks) {
            self.remark(id, remark, &mut record.remarks)?;
        }
        Ok(record)
    }

    // What the step's last layer may give to this one; `tree` if files are to be written.
    fn earlier(&self, record: &PendingRecord, tree: bool) -> Result<Earlier, BuildError> {
        let mut earlier = Earlier::default();
        let Some(step) = &record.last else {
            return Ok(earlier);
        };
        let Some(last) = self.store.last_layer(step)? else {
            return Ok(earlier);
        };
        if let Some(blob) = last.blob.filter(|blob| self.store.has_blob(blob)) {
            earlier.set_blocks(self.store.open_blob(&blob)?, last.blocks);
        }
        let layer = match tree {
            true => self.store.layer(&LayerId::Diff(last.diff_id))?,
            false => None,
        };
        if let Some(layer) = layer {
            let root = Root::new(Arc::new(open_dir(layer.fs())?));
            let set = layer.open_toc().and_then(|toc| earlier.set_tree(root, toc));
            set.map_err(|source| BuildError::Host {
                action: "read the table of",
                path: layer.fs().to_owned(),
                source,
            })?;
        }
        Ok(earlier)
    }

    /// Writes changes as files below `dir`, an overlay lower directory.
    pub(super) fn materialise(
        &self,
        changes: Changes,
        dir: &std::path::Path,
    ) -> Result<(), BuildError> {
        let options = PackOptions {
            compression: Compression::None,
            ..PackOptions::default()
        };
        crate::layer::pack(changes, std::io::sink(), &options, Some(&self.target(dir)?))?;
        Ok(())
    }

    fn target(&self, dir: &std::path::Path) -> Result<Materialise, BuildError> {
        let root = Root::open(dir).map_err(|source| BuildError::Host {
            action: "open",
            path: dir.to_owned(),
            source,
        })?;
        let tree = self.store.tree_options();
        Ok(Materialise { root, tree })
    }

    fn publish(
        &self,
        (packed, ingest): (Packed, Option<Prehashed>),
        files: Files,
        below: &Layers,
        created: i64,
        record: PendingRecord,
        snapshot: &Snapshot,
    ) -> Result<Committed, BuildError> {
        let blob = match ingest {
            Some(ingest) => {
                ingest.commit_as(packed.digest, packed.size_bytes)?;
                Some(Descriptor::new(
                    packed.media_type.clone(),
                    packed.digest,
                    packed.size_bytes,
                ))
            }
            None => None,
        };
        let diff_id = packed.diff_id;
        let toc = packed.toc;
        match files {
            // Its files are all there is of it, so they must be in the store before the record is.
            Files::Upper(dir) if blob.is_none() && !strays::find(&dir, &toc)?.is_empty() => {
                self.store.publish_linked(&dir, toc.clone(), &diff_id)?;
            }
            Files::Upper(dir) if !strays::find(&dir, &toc)?.is_empty() => {
                self.store.put_toc(&diff_id, toc.clone())?;
                let mut late = self.late.lock().expect("no holder of this lock panics");
                late.push((dir, toc.clone(), diff_id));
            }
            Files::Upper(dir) | Files::Written(dir) => {
                // If the layer was there already, a running step may still stand on ours: it stays until the build's end.
                self.store.publish_layer(&dir, toc.clone(), &diff_id)?;
            }
            Files::None => self.store.put_toc(&diff_id, toc.clone())?,
        }
        snapshot.set_toc(toc);
        if let Some(blob) = &blob {
            self.store.add_blob_of(&diff_id, blob)?;
        }
        let below = chain(below)?;
        let chain = below.map_or(ChainId(diff_id.0), |b| b.push(diff_id));
        let PendingRecord {
            key,
            labels,
            linked,
            step,
            place,
            copied_to,
            lock,
            last,
            remarks,
        } = record;
        if let Some(last) = last {
            let made = LastLayer {
                diff_id,
                blob: blob.clone(),
                blocks: packed.blocks,
            };
            self.store.set_last_layer(&last, &made)?;
        }
        self.store.cache_put(&Record {
            key,
            diff_id,
            below: if linked { None } else { below },
            blob: blob.clone(),
            created,
            inputs: labels,
            step,
            place: Some(place),
            copied_to,
            remarks,
        })?;
        drop(lock);
        Ok(Committed {
            diff_id,
            chain,
            below,
            blob,
            key: Some(key),
            created,
            image: None,
        })
    }
}

/// What a step's layer is kept as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A blob, and the files if somebody reads them.
    Blob,
    /// The files alone: it is in no output. [`Engine::blob_of`] makes the blob where a later build has it in one.
    Unpacked,
}

/// Where a blob is written, if one is.
struct Out<'a>(Option<&'a mut Prehashed>);

impl std::io::Write for Out<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        match &mut self.0 {
            Some(blob) => blob.write(data),
            None => Ok(data.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.0 {
            Some(blob) => blob.flush(),
            None => Ok(()),
        }
    }
}

/// Where a layer's files are.
enum Files {
    /// In the upper directory of an overlay, which may hold more than the layer.
    Upper(PathBuf),
    /// In a directory that was written as the layer says.
    Written(PathBuf),
    /// Nowhere: nobody needs them.
    None,
}

/// A blob being written until the user ends the build. The failure of another step is no reason: what a step made is good
/// for the next build.
struct WhileWanted<'a, W> {
    inner: W,
    cancel: &'a AtomicBool,
}

impl<W: std::io::Write> std::io::Write for WhileWanted<'_, W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("build canceled"));
        }
        self.inner.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A record whose layer is still being packed. The lock is held until the record is there.
pub(super) struct PendingRecord {
    pub(super) key: Digest,
    pub(super) labels: Vec<(String, String)>,
    pub(super) linked: bool,
    pub(super) step: String,
    pub(super) place: Place,
    pub(super) copied_to: Vec<crate::store::PathBytes>,
    pub(super) lock: Option<KeyLock>,
    /// What to know of the layer.
    pub(super) remarks: Vec<Remark>,
    /// What tells the step from others whatever it reads, if the result may be made from its last one.
    pub(super) last: Option<Digest>,
}

impl PendingRecord {
    // For a small layer, looking for its last one takes longer than making it.
    fn unless_small(mut self, changes: &Changes) -> PendingRecord {
        let sizes = changes.entries().map(|entry| match entry.kind {
            KindRef::File { size_bytes, .. } => size_bytes,
            _ => 0,
        });
        if changes.len() < MANY_FILES && sizes.sum::<u64>() < MANY_BYTES {
            self.last = None;
        }
        self
    }
}
