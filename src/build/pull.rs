//! The files of images: fetched and unpacked when the first step needs them, and shown as the step of their FROM.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::{Descriptor, Digest};
use crate::plan::ResolvedImage;
use crate::plan::graph::{Op, VertexId};
use crate::store::Layer;

use super::BuildError;
use super::engine::{Engine, open_dir};
use super::event::{EventKind, StepId};
use super::snapshot::{Committed, Snapshot};

/// How many blobs of an image are fetched at once: registries answer slowly, and few are large.
const FETCHED_AT_ONCE: usize = 4;

/// How many bytes come between two words about a transfer: enough for a bar to move, few enough to cost nothing.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A lock for each image by its manifest, so that steps which need it at once fetch it once.
#[derive(Default)]
pub(super) struct Pulls(Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>);

impl Pulls {
    fn of(&self, image: &ResolvedImage) -> Arc<Mutex<()>> {
        // The map is whole between any two statements, so a poisoned lock is a good lock.
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.entry(image.manifest.digest).or_default().clone()
    }
}

impl Engine<'_> {
    /// The directories of a stack's layers, each unpacked if it was not.
    pub(super) fn directories(
        &self,
        layers: &[Arc<Snapshot>],
    ) -> Result<Vec<Arc<OwnedFd>>, BuildError> {
        if let Some(last) = layers.iter().rposition(|layer| layer.fs().is_none()) {
            let mut wanted = Vec::with_capacity(last + 1);
            for snapshot in &layers[..=last] {
                wanted.push((snapshot.wait()?, snapshot.fs().is_some()));
            }
            let unpacked = self.unpack_layers(&wanted)?;
            for (snapshot, layer) in layers.iter().zip(unpacked) {
                if snapshot.fs().is_none() {
                    snapshot.set_toc(layer.toc()?);
                    snapshot.set_fs(Arc::new(open_dir(layer.fs())?));
                }
            }
        }
        Ok(layers.iter().filter_map(|layer| layer.fs()).collect())
    }

    // Layers, each with whether its files are known already.
    fn unpack_layers(
        &self,
        layers: &[(Arc<Committed>, bool)],
    ) -> Result<Vec<Arc<Layer>>, BuildError> {
        let missing = || {
            let mut missing = Vec::new();
            for (committed, known) in layers {
                let there = *known
                    || self
                        .store
                        .layer_on(&committed.diff_id, committed.below)?
                        .is_some();
                if !there {
                    missing.push(committed.clone());
                }
            }
            Ok(missing)
        };
        self.pulled(missing, true, || {
            let blobs: Vec<_> = layers
                .iter()
                .map(|(committed, _)| (committed.blob.clone(), committed.diff_id))
                .collect();
            Ok(self.store.unpack_stack(&blobs, &|_| ())?)
        })
    }

    /// Makes sure that the layers' blobs are in the store.
    pub(super) fn fetch_blobs(&self, layers: &[Arc<Committed>]) -> Result<(), BuildError> {
        let missing = || {
            let missing = layers.iter().filter(|c| self.lacks_blob(c));
            Ok(missing.cloned().collect())
        };
        self.pulled(missing, false, || Ok(()))
    }

    // Whether its blob is to be fetched.
    fn lacks_blob(&self, committed: &Committed) -> bool {
        let blob = committed.blob.as_ref();
        blob.is_some_and(|blob| !self.store.has_blob(blob))
    }

    // Fetches the blobs of what is missing, to be unpacked or not, then does `then`; shown as the image's step if there was something to do.
    fn pulled<T>(
        &self,
        missing: impl Fn() -> Result<Vec<Arc<Committed>>, BuildError>,
        unpack: bool,
        then: impl FnOnce() -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let before = missing()?;
        let Some((image, _)) = before.iter().find_map(|c| c.image.as_ref()) else {
            self.fetch(&before, unpack, None)?;
            return then();
        };
        let pull = self.pulls.of(image);
        let _one = pull.lock().unwrap_or_else(PoisonError::into_inner);
        // Another step may have been here.
        let missing = missing()?;
        let step = if missing.is_empty() {
            None
        } else {
            self.step_of(image)
        };
        if let Some((step, name)) = step {
            let name = name.to_owned();
            self.events.event(EventKind::Started { step, name });
        }
        let result = self
            .fetch(&missing, unpack, step.map(|(step, _)| step))
            .and_then(|()| then());
        if let Some((step, _)) = step {
            self.events.event(match &result {
                Ok(_) => EventKind::Finished {
                    step,
                    cached: false,
                },
                Err(e) if e.is_canceled() => EventKind::Canceled { step },
                Err(e) => EventKind::Failed {
                    step,
                    message: e.to_string(),
                },
            });
        }
        result
    }

    fn step_of(&self, image: &ResolvedImage) -> Option<(StepId, &str)> {
        let graph = self.request.graph;
        (0..graph.vertices.len()).find_map(|at| {
            let vertex = graph.vertex(VertexId(at));
            match &vertex.op {
                Op::Image(of) if of.manifest.digest == image.manifest.digest => {
                    Some((StepId(at), vertex.name.as_str()))
                }
                _ => None,
            }
        })
    }

    fn fetch(
        &self,
        layers: &[Arc<Committed>],
        unpack: bool,
        step: Option<StepId>,
    ) -> Result<(), BuildError> {
        let missing: Vec<_> = layers
            .iter()
            .filter_map(|c| {
                let blob = c.blob.as_ref();
                Some((c, blob.filter(|blob| !self.store.has_blob(blob))?))
            })
            .collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some((committed, blob)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.fetch_blob(committed, blob, unpack, step) {
                    // Nobody starts another.
                    next.store(missing.len(), Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..missing.len().min(FETCHED_AT_ONCE) {
                scope.spawn(work);
            }
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    fn fetch_blob(
        &self,
        committed: &Committed,
        blob: &Descriptor,
        unpack: bool,
        step: Option<StepId>,
    ) -> Result<(), BuildError> {
        let missing = |source| BuildError::Fetching {
            image: committed
                .image
                .as_ref()
                .map_or_else(|| "this build".to_owned(), |(i, _)| i.name.clone()),
            layer: blob.digest.to_string(),
            source,
        };
        let Some((image, index)) = &committed.image else {
            return Err(missing("its blob is gone from the store".into()));
        };
        let total_bytes = blob.size;
        let said = AtomicU64::new(0);
        let progress = |done_bytes: u64| {
            let Some(step) = step else { return };
            let before = said.load(Ordering::Relaxed);
            if done_bytes >= before + PROGRESS_BYTES || done_bytes == total_bytes {
                said.store(done_bytes, Ordering::Relaxed);
                self.events.event(EventKind::Progress {
                    step,
                    part: format!("sha256:{}", blob.digest.short()),
                    done_bytes,
                    total_bytes: Some(total_bytes),
                });
            }
        };
        self.fetch
            .layer(image, *index, unpack, &progress)
            .map_err(|source| {
                if self.cancel.load(Ordering::Relaxed) {
                    BuildError::Canceled
                } else {
                    missing(source)
                }
            })
    }
}
