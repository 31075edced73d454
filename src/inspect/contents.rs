//! What the layers of an image hold, wherever the image is.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::instruction::instruction;
use super::{Documents, InspectError};
use crate::image::Source;
use crate::layer::tar::{TarReader, WhiteoutNames};
use crate::layer::{Decoder, LayerError, Scanned, Toc, scan};
use crate::oci::{Descriptor, DiffId};
use crate::store::{Made, Origin, Store};

/// The most one layer may unpack to, holes of sparse files included: as much as the store takes.
const MAX_UNPACKED_BYTES: u64 = 1 << 40;

/// How much of an inflated layer is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// How many layers are read at once. Each has four threads and some 6 MiB of buffers.
const READ_AT_ONCE: usize = 4;

/// An image with the tables of contents of its layers.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Its documents.
    pub documents: Documents,
    /// Its layers, bottom first.
    pub layers: Vec<LayerContents>,
    /// The Dockerfile and its base, where the image was built here.
    pub origin: Option<Origin>,
    /// How many bytes of layers were read (compressed) because no table of contents was at hand.
    pub read_bytes: u64,
}

/// A layer of an image.
#[derive(Clone, Debug)]
pub struct LayerContents {
    /// Its identity, uncompressed.
    pub diff_id: DiffId,
    /// Its blob.
    pub blob: Descriptor,
    /// What it holds.
    pub toc: Arc<Toc>,
    /// The history's `created_by`, as it is.
    pub created_by: Option<String>,
    /// The instruction, in the words of a Dockerfile.
    pub instruction: Option<String>,
    /// The lines and sources, where the image was built here.
    pub made: Option<Made>,
}

/// How contents are read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// A store that may know tables of contents, and that keeps those that are made.
    pub store: Option<&'a Store>,
    /// Set when the user wants an end of it.
    pub cancel: &'a AtomicBool,
}

impl Contents {
    /// Reads what the layers of `documents` hold. What the store has a table of is not read; other layers are read once from
    /// `source`, several at a time, and nothing of them is written but their tables, into the store.
    pub fn read(
        documents: Documents,
        source: &dyn Source,
        reading: Reading<'_>,
    ) -> Result<Contents, InspectError> {
        let diff_ids = documents.config.rootfs.diff_ids.clone();
        let blobs = documents.manifest.layers.clone();
        let lineage = match reading.store {
            Some(store) => store.lineage(&documents.descriptor.digest)?,
            None => None,
        };
        let lineage = lineage.unwrap_or_default();
        let mut made = lineage.layers.into_iter();
        let steps = documents.config.history.iter().filter(|h| !h.empty_layer);
        let mut steps = steps.map(|h| h.created_by.clone());
        let read_bytes = AtomicU64::new(0);
        let tocs = tables(&blobs, &diff_ids, source, reading, &read_bytes)?;
        let layers = blobs.into_iter().zip(diff_ids).zip(tocs);
        let layers = layers
            .map(|((blob, diff_id), toc)| {
                let created_by = steps.next().flatten().filter(|text| !text.is_empty());
                LayerContents {
                    diff_id,
                    blob,
                    toc,
                    instruction: created_by.as_deref().map(instruction),
                    created_by,
                    made: made.next().flatten(),
                }
            })
            .collect();
        Ok(Contents {
            documents,
            layers,
            origin: lineage.origin,
            read_bytes: read_bytes.into_inner(),
        })
    }

    /// The tables, bottom first.
    pub fn tocs(&self) -> Vec<Arc<Toc>> {
        self.layers.iter().map(|l| Arc::clone(&l.toc)).collect()
    }
}

/// The table of each layer.
fn tables(
    blobs: &[Descriptor],
    diff_ids: &[DiffId],
    source: &dyn Source,
    reading: Reading<'_>,
    read_bytes: &AtomicU64,
) -> Result<Vec<Arc<Toc>>, InspectError> {
    let mut tocs: Vec<Option<Arc<Toc>>> = Vec::with_capacity(blobs.len());
    for diff_id in diff_ids {
        tocs.push(match reading.store {
            Some(store) => store.toc(diff_id)?,
            None => None,
        });
    }
    let missing: Vec<usize> = (0..blobs.len()).filter(|at| tocs[*at].is_none()).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(missing.len()));
    let work = || {
        while let Some(at) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = read(&blobs[*at], &diff_ids[*at], source, reading, read_bytes);
            if result.is_err() {
                // Nobody starts another.
                next.store(missing.len(), Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((*at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..missing.len().min(READ_AT_ONCE) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    for (at, result) in results {
        tocs[at] = Some(result?);
    }
    Ok(tocs
        .into_iter()
        .map(|toc| toc.expect("what is missing was read, or an error was returned"))
        .collect())
}

/// Reads a layer to its end, and keeps its table.
fn read(
    blob: &Descriptor,
    diff_id: &DiffId,
    source: &dyn Source,
    reading: Reading<'_>,
    read_bytes: &AtomicU64,
) -> Result<Arc<Toc>, InspectError> {
    let input = Counted {
        inner: stream(blob, source, reading)?,
        read_bytes,
        cancel: reading.cancel,
    };
    let scanned = scan(input, WhiteoutNames::Oci, MAX_UNPACKED_BYTES).map_err(|source| {
        InspectError::Layer {
            digest: blob.digest,
            source: Box::new(source),
        }
    })?;
    verify(blob, diff_id, &scanned)?;
    let toc = Arc::new(scanned.toc);
    if let Some(store) = reading.store {
        store.put_toc(diff_id, Arc::clone(&toc))?;
    }
    Ok(toc)
}

/// The members of the layer that `blob` gives.
pub(super) fn members(blob: impl Read) -> Result<TarReader<impl BufRead>, LayerError> {
    let decoder = Decoder::new(blob, MAX_UNPACKED_BYTES).map_err(unreadable)?;
    let buffered = BufReader::with_capacity(BUFFER_BYTES, decoder);
    Ok(TarReader::new(buffered, WhiteoutNames::Oci))
}

/// Why a layer cannot be read, wherever in it.
pub(super) fn unreadable(source: io::Error) -> LayerError {
    LayerError::Input {
        offset_bytes: 0,
        source,
    }
}

/// A layer's blob: the store's, if it has it.
pub(super) fn stream(
    blob: &Descriptor,
    source: &dyn Source,
    reading: Reading<'_>,
) -> Result<Box<dyn Read + Send>, InspectError> {
    Ok(match reading.store.filter(|s| s.has_blob(blob)) {
        Some(store) => Box::new(store.open_blob(blob)?),
        None => source.blob(blob)?,
    })
}

/// Whether it was what its image says.
fn verify(blob: &Descriptor, diff_id: &DiffId, scanned: &Scanned) -> Result<(), InspectError> {
    let comparable = scanned.digest.algorithm() == blob.digest.algorithm();
    let same_blob =
        scanned.size_bytes == blob.size && (!comparable || scanned.digest == blob.digest);
    if same_blob && scanned.diff_id == *diff_id {
        return Ok(());
    }
    Err(InspectError::WrongLayer {
        digest: blob.digest,
        expected: Box::new(*diff_id),
        actual: Box::new(scanned.diff_id),
    })
}

/// Counts what goes through, and ends when the user wants that.
struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    read_bytes: &'a AtomicU64,
    cancel: &'a AtomicBool,
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let count = self.inner.read(out)?;
        self.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
