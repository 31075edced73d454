//! The file `index.json`: its entries, and how it is read and changed by many.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::lock::{self, Hold};
use super::names::Named;
use super::{Store, StoreError, locked, replace};
use crate::oci::{Descriptor, Digest, Reference};

/// The index of a store without images.
pub(super) const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// image-spec annotations.md.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// image-spec annotations.md: RFC 3339.
const CREATED: &str = "org.opencontainers.image.created";
/// The image ID (digest of the configuration), so that a listing needs no manifest.
const IMAGE_ID: &str = "dev.strata.image.id";
/// The sum of the sizes of all blobs of the image, for the same reason.
const IMAGE_SIZE: &str = "dev.strata.image.size";

/// The annotations that an entry has as fields.
pub(super) const OWN: [&str; 4] = [REF_NAME, CREATED, IMAGE_ID, IMAGE_SIZE];

/// The index as last read, and the file it was read from.
#[derive(Debug)]
pub(super) struct Cached {
    stamp: (u64, u64, i64, i64),
    file: Arc<IndexFile>,
}

/// What tells one version of the file from another. Every change makes a new file, so that a change within one tick of the
/// clock shows in the inode.
fn stamp(meta: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec())
}

/// The index as it is in the file: what strata does not know of is kept.
#[derive(Clone, Debug)]
pub(super) struct IndexFile {
    /// Everything but the list of manifests.
    rest: BTreeMap<String, Box<RawValue>>,
    pub(super) entries: Vec<Entry>,
}

/// A line of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its bytes.
    raw: Box<RawValue>,
    pub(super) named: Named,
    /// The name as it is written, which another tool may not have normalised.
    pub(super) written: Option<String>,
}

impl Entry {
    fn parse(raw: Box<RawValue>) -> Result<Entry, serde_json::Error> {
        let mut descriptor: Descriptor = serde_json::from_str(raw.get())?;
        let mut take = |key| descriptor.annotations.remove(key);
        let written = take(REF_NAME);
        let created = take(CREATED);
        let image_id = take(IMAGE_ID).and_then(|t| t.parse().ok());
        let size_bytes = take(IMAGE_SIZE).and_then(|t| t.parse().ok());
        // A name by another tool that is no reference keeps its image, and nothing more.
        let reference = written.as_deref().and_then(|t| t.parse().ok());
        Ok(Entry {
            raw,
            named: Named {
                foreign_name: written.clone().filter(|_| reference.is_none()),
                reference,
                descriptor,
                image_id,
                created,
                size_bytes,
            },
            written,
        })
    }

    pub(super) fn new(named: Named) -> Entry {
        let mut full = named.descriptor.clone();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                full.annotations.insert(key.to_owned(), value);
            }
        };
        let written = named.reference.as_ref().map(Reference::to_string);
        put(REF_NAME, written.clone());
        put(CREATED, named.created.clone());
        put(IMAGE_ID, named.image_id.map(|d| d.to_string()));
        put(IMAGE_SIZE, named.size_bytes.map(|s| s.to_string()));
        let raw = serde_json::value::to_raw_value(&full)
            .expect("maps have string keys and no field fails to serialise");
        Entry {
            raw,
            named,
            written,
        }
    }

    /// Whether it is the entry strata would write for `reference`, rather than another spelling of it.
    fn is_exactly(&self, full: &str) -> bool {
        self.written.as_deref() == Some(full)
    }
}

impl IndexFile {
    fn parse(bytes: &[u8]) -> Result<IndexFile, serde_json::Error> {
        let mut rest: BTreeMap<String, &RawValue> = serde_json::from_slice(bytes)?;
        let manifests: Option<Vec<&RawValue>> = match rest.remove("manifests") {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => None,
        };
        let entries = manifests.unwrap_or_default().into_iter();
        let rest = rest.into_iter();
        Ok(IndexFile {
            rest: rest.map(|(key, raw)| (key, raw.to_owned())).collect(),
            entries: entries
                .map(|raw| Entry::parse(raw.to_owned()))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The entries of the image that is called `reference`, in their order, where all of them are lines as [`IndexFile::to_bytes`]
    /// writes them; `None` is no answer. Many times as fast as parsing an index of thousands.
    pub(super) fn lines_of(bytes: &[u8], reference: &Reference) -> Option<Vec<Entry>> {
        let full = reference.to_string();
        let parse = |at: usize| {
            let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
            let line = std::str::from_utf8(&bytes[start..end]).ok()?;
            let line = line.strip_suffix(',').unwrap_or(line);
            Entry::parse(serde_json::from_str::<&RawValue>(line).ok()?.to_owned()).ok()
        };
        let named = format!("\"{REF_NAME}\":\"{full}\"");
        let first = parse(memchr::memmem::find(bytes, named.as_bytes())?)?;
        if !first.is_exactly(&full) {
            return None;
        }
        let digest = first.named.descriptor.digest;
        let hex = digest.hex();
        let entries = memchr::memmem::find_iter(bytes, hex.as_bytes()).map(parse);
        let mut entries = entries.collect::<Option<Vec<Entry>>>()?;
        // A digest may be somewhere else in a line, or twice in one.
        entries.retain(|entry| entry.named.descriptor.digest == digest);
        entries.dedup_by(|a, b| a.raw.get() == b.raw.get());
        Some(entries)
    }

    /// One line a manifest: readable, and small enough.
    fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::from("{");
        let known = [
            ("schemaVersion", "2"),
            ("mediaType", "\"application/vnd.oci.image.index.v1+json\""),
        ];
        for (key, default) in known {
            let value = self.rest.get(key).map_or(default, |v| v.get());
            text.push_str(&format!("\"{key}\":{value},"));
        }
        text.push_str("\"manifests\":[");
        for (i, entry) in self.entries.iter().enumerate() {
            text.push_str(if i == 0 { "\n" } else { ",\n" });
            text.push_str(entry.raw.get());
        }
        text.push_str("\n]");
        for (key, value) in &self.rest {
            if !known.iter().any(|(k, _)| k == key) {
                let key = serde_json::to_string(key).expect("a string can be written");
                text.push_str(&format!(",{key}:{}", value.get()));
            }
        }
        text.push_str("}\n");
        text.into_bytes()
    }

    /// The entry of a name: its own spelling before another tool's.
    pub(super) fn position(&self, reference: &Reference) -> Option<usize> {
        let full = reference.to_string();
        let exact = self.entries.iter().position(|e| e.is_exactly(&full));
        exact.or_else(|| {
            self.entries
                .iter()
                .position(|e| e.named.reference.as_ref() == Some(reference))
        })
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.entries.iter().map(|e| &e.named.descriptor)
    }

    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.entries
            .iter()
            .any(|e| e.named.descriptor.digest == *digest)
    }
}

impl Store {
    pub(super) fn index_path(&self) -> PathBuf {
        self.root().join("index.json")
    }

    /// The index as it is now; parsed again only when the file is another.
    pub(super) fn index(&self) -> Result<Arc<IndexFile>, StoreError> {
        let path = self.index_path();
        let mut file = std::fs::File::open(&path).map_err(StoreError::file("open", &path))?;
        let meta = file.metadata().map_err(StoreError::file("stat", &path))?;
        let stamp = stamp(&meta);
        let mut slot = locked(&self.inner.index);
        if let Some(cached) = slot.as_ref().filter(|c| c.stamp == stamp) {
            return Ok(Arc::clone(&cached.file));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        std::io::Read::read_to_end(&mut file, &mut bytes)
            .map_err(StoreError::file("read", &path))?;
        let parsed =
            IndexFile::parse(&bytes).map_err(|source| StoreError::Json { path, source })?;
        let file = Arc::new(parsed);
        *slot = Some(Cached {
            stamp,
            file: Arc::clone(&file),
        });
        Ok(file)
    }

    /// Changes the index under its lock. `change` says whether it changed anything; if so, `Ok` means that the change stays
    /// after a power loss.
    pub(super) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut IndexFile) -> (bool, T),
    ) -> Result<T, StoreError> {
        let path = self.root().join("locks/index");
        let guard = lock::open(&path)?;
        lock::take(&guard, Hold::Exclusive, &path)?;
        let index = self.index()?;
        // Read again if the change fails.
        *locked(&self.inner.index) = None;
        let mut index = Arc::try_unwrap(index).unwrap_or_else(|shared| IndexFile::clone(&shared));
        let (changed, result) = change(&mut index);
        if changed {
            let temporary = self.scratch()?.unique("index");
            replace(self.root(), "index.json", &index.to_bytes(), &temporary)?;
        }
        // Nobody else has changed it since: the lock is still held.
        let path = self.index_path();
        let meta = std::fs::metadata(&path).map_err(StoreError::file("stat", &path))?;
        *locked(&self.inner.index) = Some(Cached {
            stamp: stamp(&meta),
            file: Arc::new(index),
        });
        Ok(result)
    }
}
