//! What many strata processes share: blobs, names, unpacked layers, the build cache, and their end.
//!
//! ```text
//! <root>/                    an OCI image layout (image-spec image-layout.md), read in place by other tools
//!   oci-layout index.json    every named image; org.opencontainers.image.ref.name = its full reference; image ID and size
//!                            as annotations dev.strata.image.id and dev.strata.image.size, so that a listing reads no more
//!   blobs/sha256/<hex>       manifests, configs, layers as they are pushed and pulled
//!   layers/<diffID>/         an unpacked layer; chain-<chainID>/ for one that leans on those below it
//!     fs/                    the unpacked changeset, an overlay lower directory, immutable; its files may be further names of
//!                            another layer's that are the same; may be pruned, unless a record or failed step has the
//!                            layer without a blob: then it is all there is of it
//!     toc                    its table of contents; stays when fs/ is pruned
//!     boot                   the boot that wrote it, until it is flushed: it counts in no other
//!   cache/records/<key>      build cache: key ► layer, with the labelled inputs of the key; mtime = last use
//!   cache/layers/<diffID>    empty: some record has this layer
//!   cache/blobs/<diffID>     which blobs hold a layer
//!   cache/origins/<digest>   which repositories have a blob
//!   cache/files/<context>    what the contents of context files hash to, by device, inode, size and times
//!   cache/steps/<step>       what a step made last, for the next making of it to take from
//!   cache/listings/<digest>  what the inputs of records held, file by file: read only to explain a miss
//!   cache/pruned             empty; mtime = when a collection last took records away
//!   lineage/<manifest>       which lines of which Dockerfile made an image's layers, and its base; goes with the image
//!   mounts/<id>/             RUN --mount=type=cache directories
//!   failed/<id>/             what a failed step left, for `strata debug`: its files, its output, what it was
//!   work/<name>/             what a running process is writing; locked while it lives
//!   locks/<kind>-<id>        see Concurrency
//!   lock gate                see Concurrency
//!   strata.json              format version
//! ```
//!
//! Invariants: a blob's name is its digest and its bytes were verified when it was written; `layers/<id>` appears whole, by
//! one rename, and its files are never written to again (a collection may take them away, and [`Store::dedup`] exchange the
//! tree for an equal one); `index.json` is replaced whole; a name appears after everything it needs is on disk
//! ([`Store::barrier`], one flush of the file system). `kill -9` at any instant leaves a store in which [`Store::check`] finds nothing, save for directories in `work/` that the next process removes. A power loss may leave,
//! besides, blobs of a wrong length that nothing names (such a blob is absent, and replaced by the next that writes it),
//! layers that do not count because of their `boot`, and lost or torn cache records, which are misses: `check` calls them
//! leftovers, and the store clean.
//!
//! Concurrency: whoever uses the store holds `lock` shared ([`Store::open`]); [`Store::prune`], [`Store::rmi`],
//! [`Store::dedup`] and [`Store::repair`] take it exclusively, behind `gate`, so that they are not starved and wait for running builds (`rmi` does
//! not wait, and leaves the content to `prune`). `index.json` changes under `locks/index`. One step is built once
//! ([`Store::cache_lock`]), one blob brought from elsewhere once ([`Store::blob_lock`]) and one layer unpacked once; these locks
//! die with their holders. Lock order: a step's, a blob's, a layer's, `links` or `index`; nobody waits for an earlier one, or for
//! another of the same kind, while it holds a later one.
//!
//! Knows no Dockerfile and no registry.

mod alone;
mod blobs;
mod cache;
mod check;
#[cfg(test)]
mod crash;
mod dedup;
mod df;
mod error;
mod failed;
mod files;
mod gc;
mod index;
mod last;
mod layers;
mod lineage;
mod linked;
mod links;
mod listing;
mod lock;
mod merged;
mod mounts;
mod names;
mod remove;
mod rmi;
mod sink;
#[cfg(test)]
mod testing;
mod unpack;
mod work;

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use blobs::{Blob, Ingest, Prehashed};
pub use cache::{Place, Record, Remark};
pub use check::{CheckDepth, CheckReport, Finding, Problem, Severity};
pub use dedup::DedupApplied;
pub use df::{DiskUsage, Share};
pub use error::{DiffIdError, StoreError};
pub use failed::{Failed, FailedBounds, FailedDraft, FailedStep};
pub use files::FileHashes;
pub use gc::{PruneImages, PruneOptions, PruneReport};
pub use last::LastLayer;
pub use layers::{Layer, LayerId};
pub use lineage::{Copied, CopyOrigin, FromLine, Lineage, Made, Origin, PathBytes};
pub use lock::KeyLock;
pub use merged::{is_small_layer, merge_layers};
pub use mounts::{CacheMount, Sharing};
pub use names::{Image, Named};
pub use remove::Freed;
pub use sink::{StoreSink, StoreSource};
pub use unpack::{OnBytes, StackLayer};
pub use work::Work;

use crate::layer::Toc;
use crate::oci::DiffId;
use lock::Hold;

/// The version of everything below the root. A change that an earlier strata would misread raises it.
const FORMAT: u32 = 1;

/// The directories of a store, with the mode each is made with. What only strata reads is for its owner alone: unpacked layers
/// hold set-id programs, and cache mounts whatever a build left there.
const DIRECTORIES: [(&str, u32); 14] = [
    ("blobs", 0o755),
    ("blobs/sha256", 0o755),
    ("layers", 0o700),
    ("cache", 0o700),
    ("cache/records", 0o700),
    ("cache/layers", 0o700),
    ("cache/blobs", 0o700),
    ("cache/origins", 0o700),
    ("cache/files", 0o700),
    ("cache/steps", 0o700),
    ("cache/listings", 0o700),
    ("mounts", 0o700),
    ("locks", 0o700),
    ("work", 0o700),
];

/// What the caller may do on this machine, which decides how layers are unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// Overlay attributes are `user.overlay.*` (mounts in a user namespace), not `trusted.overlay.*`.
    pub user_xattrs: bool,
    /// There is one user id only: every file of a layer belongs to it.
    pub single_id: bool,
    /// Device nodes can be made (other than overlay whiteouts, which always can).
    pub can_mknod: bool,
}

impl Default for StoreOptions {
    /// Real root's.
    fn default() -> StoreOptions {
        StoreOptions {
            user_xattrs: false,
            single_id: false,
            can_mknod: true,
        }
    }
}

/// An open store. Clones are the same store; while one lives, and while anything it gave out lives that writes
/// ([`Work`], [`Ingest`]), nothing is collected.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    options: StoreOptions,
    usage: Arc<Usage>,
    scratch: Mutex<Option<Arc<Work>>>,
    index: Mutex<Option<index::Cached>>,
    layers: Mutex<HashMap<LayerId, Arc<Layer>>>,
    tocs: Mutex<HashMap<DiffId, Arc<Toc>>>,
    /// Directories of layers with a mark that the next flush makes needless.
    unflushed: Mutex<Vec<PathBuf>>,
    /// Which boot of the machine this is.
    boot: String,
}

/// The shared lock: held as long as anything of this process uses the store.
#[derive(Debug)]
struct Usage {
    lock: File,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
}

impl Store {
    /// Opens the store at `root`, made there if the folder is empty or missing; an OCI image layout becomes a store. Waits
    /// while a collection runs. Removes what dead processes left in `work/`.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        // Absolute, so that a later change of the working directory cannot move it.
        let root = std::path::absolute(root).map_err(StoreError::file("find", root))?;
        let gate_path = root.join("gate");
        // Nothing is written into a folder that is something else's.
        if !gate_path.exists() {
            create_root(&root)?;
        }
        let gate = lock::open(&gate_path)?;
        // The gate is held for a moment only, except by a collection: it keeps newcomers out while it waits for the users.
        lock::take(&gate, Hold::Exclusive, &gate_path)?;
        let usage_path = root.join("lock");
        let usage = lock::open(&usage_path)?;
        lock::take(&usage, Hold::Shared, &usage_path)?;
        initialise(&root)?;
        drop(gate);
        work::reap(&root.join("work"))?;
        Ok(Store {
            inner: Arc::new(Inner {
                root,
                options,
                usage: Arc::new(Usage { lock: usage }),
                scratch: Mutex::new(None),
                index: Mutex::new(None),
                layers: Mutex::default(),
                tocs: Mutex::default(),
                unflushed: Mutex::default(),
                boot: this_boot(),
            }),
        })
    }

    /// The folder it is in, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// What it was opened with.
    pub fn options(&self) -> StoreOptions {
        self.inner.options
    }

    /// `Ok` means: everything written to the store before the call stays after a power loss.
    ///
    /// One flush of the file system, where a flush of every file would cost a thousand times as much.
    pub fn barrier(&self) -> Result<(), StoreError> {
        let root = self.root();
        // What is marked from here on may miss the flush.
        let flushed = std::mem::take(&mut *locked(&self.inner.unflushed));
        let dir = File::open(root).map_err(StoreError::file("open", root))?;
        rustix::fs::syncfs(&dir).map_err(StoreError::call("flush", root))?;
        self.unmark(&flushed)
    }

    fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.inner.usage)
    }

    fn key_lock_path(&self, kind: &str, id: &str) -> PathBuf {
        self.root().join("locks").join(format!("{kind}-{id}"))
    }
}

/// The identity of this boot of the machine. Where the kernel does not say, one of this process alone: what others have not
/// flushed does not count then.
fn this_boot() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) => text.trim().to_owned(),
        Err(_) => format!("process {} {:?}", std::process::id(), SystemTime::now()),
    }
}

/// The content of a lock between threads. None of them is held while its content is half changed, so a panic spoils none.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn create_root(root: &Path) -> Result<(), StoreError> {
    let missing = !root.exists();
    if missing {
        // What a build leaves may be for its owner only; whoever wants to share a store makes the folder first.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(StoreError::file("create", root))?;
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(StoreError::file("read", root))? {
        let entry = entry.map_err(StoreError::file("read", root))?;
        names.push(entry.file_name());
    }
    let is_empty = names.iter().all(|n| n == "lost+found");
    // Another process may be at the same work, and the gate is the first that it makes.
    let layout = names
        .iter()
        .any(|n| n == "oci-layout" || n == "strata.json" || n == "gate");
    if is_empty || layout {
        Ok(())
    } else {
        Err(StoreError::NotAStore(root.to_owned()))
    }
}

/// Completes a new store, or checks the format of one that is there. Called with the gate held.
fn initialise(root: &Path) -> Result<(), StoreError> {
    let path = root.join("strata.json");
    match std::fs::read(&path) {
        Ok(bytes) => {
            let header: Header =
                serde_json::from_slice(&bytes).map_err(|source| StoreError::Json {
                    path: path.clone(),
                    source,
                })?;
            if header.format == FORMAT {
                return Ok(());
            }
            return Err(StoreError::Format {
                path: root.to_owned(),
                found: header.format,
                supported: FORMAT,
            });
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(StoreError::file("read", &path)(e)),
    }
    for (name, mode) in DIRECTORIES {
        let dir = root.join(name);
        match DirBuilder::new().mode(mode).create(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::file("create", &dir)(e)),
        }
    }
    // Whoever could take it for a dead process's waits at the gate.
    let temporary = root.join("work/new");
    let put = |name: &str, bytes: &[u8]| replace(root, name, bytes, &temporary);
    let absent = |name: &str| !root.join(name).exists();
    if absent("oci-layout") {
        put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    }
    if absent("index.json") {
        put("index.json", index::EMPTY_INDEX)?;
    }
    // Last, so that an interrupted start is taken up again.
    let header = serde_json::to_vec(&Header { format: FORMAT })
        .expect("a number in a struct can be written");
    put("strata.json", &header)
}

/// Replaces a file of the root by way of `temporary`: after a crash at any instant it is the old one or the new one, whole. The
/// caller excludes other writers of the same file.
fn replace(root: &Path, name: &str, bytes: &[u8], temporary: &Path) -> Result<(), StoreError> {
    let path = root.join(name);
    let write = || {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(temporary, &path)?;
        File::open(root)?.sync_all()
    };
    write().map_err(StoreError::file("write", &path))
}

/// The paths in a directory, sorted.
fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let error = || StoreError::file("read", dir);
    let entries = std::fs::read_dir(dir).map_err(error())?;
    let paths = entries.map(|e| e.map(|e| e.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(error())?;
    paths.sort();
    Ok(paths)
}
