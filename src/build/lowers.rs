//! What a RUN stands on: a directory for each layer below, and one for many of them where they are small.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::{is_small_layer, merge_layers};

use super::BuildError;
use super::engine::{Engine, open_dir};
use super::run::{by_descriptor, place};
use super::snapshot::Snapshot;

/// How many small layers, one on the other, become one directory: a step then stands on as many directories, and one more for each
/// so many steps, so that the hundredth costs what the tenth does.
const MERGED: usize = 16;

/// Layers of which it is known what they are on disk, for as long as the build takes.
#[derive(Default)]
pub(super) struct Lowers(Mutex<Known>);

#[derive(Default)]
struct Known {
    small: HashMap<Same, bool>,
    /// `None` where they stay apart.
    merged: HashMap<Vec<Same>, Option<Arc<OwnedFd>>>,
}

/// A layer as itself: two that hold the same are two. Held, so that nothing else gets its address.
#[derive(Clone)]
struct Same(Arc<Snapshot>);

impl PartialEq for Same {
    fn eq(&self, other: &Same) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Engine<'_> {
    /// The directories that show the files of a stack, bottom first.
    pub(super) fn lowers(&self, below: &[Arc<Snapshot>]) -> Result<Vec<Arc<OwnedFd>>, BuildError> {
        let directories = self.directories(below)?;
        if directories.len() <= MERGED {
            return Ok(directories);
        }
        let mut known = self.lowers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lowers = Vec::new();
        // From where on small layers follow each other.
        let mut start = 0;
        for at in 0..directories.len() {
            if !known.is_small(&below[at], &directories[at])? {
                lowers.extend_from_slice(&directories[start..=at]);
                start = at + 1;
            } else if at + 1 - start == MERGED {
                let range = start..at + 1;
                let merged = self.merged(
                    &mut known,
                    &below[range.clone()],
                    &directories[range.clone()],
                )?;
                match merged {
                    Some(merged) => lowers.push(merged),
                    None => lowers.extend_from_slice(&directories[range]),
                }
                start = at + 1;
            }
        }
        lowers.extend_from_slice(&directories[start..]);
        Ok(lowers)
    }

    fn merged(
        &self,
        known: &mut Known,
        layers: &[Arc<Snapshot>],
        directories: &[Arc<OwnedFd>],
    ) -> Result<Option<Arc<OwnedFd>>, BuildError> {
        let layers: Vec<Same> = layers.iter().cloned().map(Same).collect();
        if let Some(merged) = known.merged.get(&layers) {
            return Ok(merged.clone());
        }
        let new = self.work.unique("merged");
        let merged = match merge_layers(&by_descriptor(directories), &new)? {
            true => Some(Arc::new(open_dir(&new)?)),
            false => None,
        };
        known.merged.insert(layers, merged.clone());
        Ok(merged)
    }
}

impl Known {
    fn is_small(
        &mut self,
        layer: &Arc<Snapshot>,
        directory: &Arc<OwnedFd>,
    ) -> Result<bool, BuildError> {
        let layer = Same(Arc::clone(layer));
        if let Some(small) = self.small.get(&layer) {
            return Ok(*small);
        }
        let small = is_small_layer(&place(directory))?;
        self.small.insert(layer, small);
        Ok(small)
    }
}
