//! What failed steps left, kept for a while for somebody to look at: their files, where that costs no copy, and their output.
//!
//! `failed/<id>/`: `step.json` (a [`FailedStep`]), `log` (standard output and error as they came), and directories of the
//! writer's (`fs`, the changes the step made before it failed). It appears whole, by one rename, is for its owner only, and is
//! never flushed: one that a power loss tore is removed. Whoever looks at it holds it shared, by a lock on the directory; the
//! oldest that nobody holds go when there are too many, or too much in them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::df::{Inodes, disk_usage};
use super::gc::Marks;
use super::lock::{self, Hold};
use super::remove::{Freed, remove_tree};
use super::work::open_directory;
use super::{LayerId, StackLayer, Store, StoreError, Usage, list};
use crate::oci::{ChainId, Digest};

/// The folder of the store.
const FOLDER: &str = "failed";
/// The file that says what a failed step was.
const STEP: &str = "step.json";
/// The file with its output.
const LOG: &str = "log";
/// The version of [`STEP`]. One of another version is none.
const VERSION: u32 = 1;
/// How long an id is, in hexadecimal digits: short enough to type, far too many for those of one store to meet.
const ID_DIGITS: usize = 8;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailedBounds {
    /// How many steps.
    pub count: usize,
    /// Bytes on disk, of all together.
    pub bytes: u64,
    /// Seconds since the failure.
    pub age_seconds: u64,
}

impl Default for FailedBounds {
    /// A day's work of failures, no more than a large image, and no longer than anybody remembers what failed.
    fn default() -> FailedBounds {
        FailedBounds {
            count: 10,
            bytes: 8 << 30,
            age_seconds: 7 * 24 * 3600,
        }
    }
}

/// What a failed step was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FailedStep {
    version: u32,
    /// Its name in the store.
    pub id: String,
    /// When it failed, nanoseconds since 1970, UTC.
    pub failed_ns: i64,
    /// The step, as progress names it.
    pub name: String,
    /// What it costs on disk.
    pub bytes: u64,
    /// The bytes of its files if these were too many to be kept.
    #[serde(default)]
    pub left_out_bytes: Option<u64>,
    /// The stacks of layers, bottom first, that its files need to be of use: they stay while this does.
    pub stacks: Vec<Vec<StackLayer>>,
    /// What the writer says of it.
    pub details: serde_json::Value,
}

/// A failed step to be looked at; it stays while this lives.
#[derive(Debug)]
pub struct Failed {
    /// What it was.
    pub step: FailedStep,
    path: PathBuf,
    _lock: File,
    _usage: Arc<Usage>,
}

impl Failed {
    /// One of the writer's directories or files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The file with its output.
    pub fn log(&self) -> PathBuf {
        self.path(LOG)
    }
}

impl FailedStep {
    /// When it failed, seconds since 1970, UTC.
    pub fn failed_seconds(&self) -> i64 {
        self.failed_ns.div_euclid(1_000_000_000)
    }

    /// Marks what it needs.
    pub(super) fn mark(&self, marks: &mut Marks) {
        for stack in &self.stacks {
            let mut below: Option<ChainId> = None;
            for (blob, diff_id) in stack {
                match blob {
                    Some(blob) => drop(marks.blobs.insert(blob.digest)),
                    None => marks.only_unpacked(diff_id),
                }
                let chain = super::layers::chain(*diff_id, below);
                for id in [LayerId::Diff(*diff_id), LayerId::Chain(chain)] {
                    marks.layers.insert(id.file_name());
                }
                below = Some(chain);
            }
        }
    }
}

/// What is to be kept of a failed step.
#[derive(Debug)]
pub struct FailedDraft {
    /// A directory of a [`Work`](super::Work), with the writer's files; it is taken.
    pub dir: PathBuf,
    /// See [`FailedStep::name`].
    pub name: String,
    /// See [`FailedStep::stacks`].
    pub stacks: Vec<Vec<StackLayer>>,
    /// See [`FailedStep::details`].
    pub details: serde_json::Value,
}

impl FailedDraft {
    /// Where the step's output belongs.
    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }
}

impl Store {
    /// Keeps a failed step; others go if that makes it too many. Files that are more than `bounds` allow, or than the file
    /// system has left, are not kept, the output is.
    pub fn keep_failed(
        &self,
        draft: FailedDraft,
        bounds: &FailedBounds,
    ) -> Result<FailedStep, StoreError> {
        let folder = self.failed_folder();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::file("create", &folder)(e));
            }
            _ => {}
        }
        let mut bytes = disk_usage(&draft.dir, &mut Inodes::default())?.bytes;
        let mut left_out_bytes = None;
        if bytes > bounds.bytes || bytes > self.available_bytes()? {
            let mut freed = Freed::default();
            for path in list(&draft.dir)? {
                if path.file_name().is_some_and(|name| name != LOG) {
                    freed += remove_tree(&path)?;
                }
            }
            left_out_bytes = Some(freed.bytes);
            bytes = bytes.saturating_sub(freed.bytes);
        }
        let failed_ns = now_ns();
        let step = FailedStep {
            version: VERSION,
            id: new_id(failed_ns),
            failed_ns,
            name: draft.name,
            bytes,
            left_out_bytes,
            stacks: draft.stacks,
            details: draft.details,
        };
        let path = draft.dir.join(STEP);
        let text = serde_json::to_vec(&step).map_err(|source| StoreError::Json {
            path: path.clone(),
            source,
        })?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&text))
            .map_err(StoreError::file("write", &path))?;
        let kept = folder.join(&step.id);
        std::fs::rename(&draft.dir, &kept).map_err(StoreError::file("create", &kept))?;
        self.bound_failed(bounds)?;
        Ok(step)
    }

    /// Removes failed steps that are too old, and the oldest while there are too many. What somebody looks at stays.
    pub fn bound_failed(&self, bounds: &FailedBounds) -> Result<(), StoreError> {
        let oldest = now_ns().saturating_sub(
            i64::try_from(bounds.age_seconds)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000_000_000),
        );
        let (mut count, mut bytes) = (0, 0u64);
        for step in self.failed_steps()? {
            count += 1;
            bytes = bytes.saturating_add(step.bytes);
            if count > bounds.count || bytes > bounds.bytes || step.failed_ns < oldest {
                self.remove_failed(&step.id)?;
            }
        }
        Ok(())
    }

    /// All failed steps that are kept, the latest first.
    pub fn failed_steps(&self) -> Result<Vec<FailedStep>, StoreError> {
        let mut steps = Vec::new();
        for path in self.failed_paths()? {
            steps.extend(read_step(&path)?);
        }
        steps.sort_by(|a, b| (b.failed_ns, &b.id).cmp(&(a.failed_ns, &a.id)));
        Ok(steps)
    }

    /// The failed step whose id begins with `text`; the latest for `last`.
    pub fn failed_step(&self, text: &str) -> Result<Failed, StoreError> {
        let steps = self.failed_steps()?;
        let none = || StoreError::NoSuchFailedStep(text.to_owned());
        let mut found = match text {
            "last" => steps.into_iter().take(1).collect(),
            "" => Vec::new(),
            _ => steps
                .into_iter()
                .filter(|step| step.id.starts_with(text))
                .collect::<Vec<_>>(),
        };
        if found.len() > 1 {
            return Err(StoreError::Ambiguous {
                text: text.to_owned(),
                matches: found.into_iter().map(|step| step.id).collect(),
            });
        }
        let step = found.pop().ok_or_else(none)?;
        let path = self.failed_folder().join(&step.id);
        let lock = open_directory(&path)?.ok_or_else(none)?;
        // Whoever holds it alone is removing it.
        if !lock::try_take(&lock, Hold::Shared, &path)? || !path.exists() {
            return Err(none());
        }
        Ok(Failed {
            step,
            path,
            _lock: lock,
            _usage: self.usage(),
        })
    }

    /// Removes a failed step, unless somebody looks at it. `Ok(None)`: somebody does, or it is gone.
    pub fn remove_failed(&self, id: &str) -> Result<Option<Freed>, StoreError> {
        let path = self.failed_folder().join(id);
        let Some(lock) = open_directory(&path)? else {
            return Ok(None);
        };
        if !lock::try_take(&lock, Hold::Exclusive, &path)? {
            return Ok(None);
        }
        let aside = self.scratch()?.unique("failed");
        match std::fs::rename(&path, &aside) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::file("remove", &path)(e)),
            Ok(()) => remove_tree(&aside).map(Some),
        }
    }

    /// The directories of failed steps, whole or not.
    pub(super) fn failed_paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let folder = self.failed_folder();
        match list(&folder) {
            // It is made with the first of them.
            Err(StoreError::File { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    fn failed_folder(&self) -> PathBuf {
        self.root().join(FOLDER)
    }

    /// What the file system has left for this user.
    fn available_bytes(&self) -> Result<u64, StoreError> {
        let root = self.root();
        let stat = rustix::fs::statvfs(root).map_err(StoreError::call("measure", root))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// What a failed step was; `None` if it is torn, of another version, or gone.
pub(super) fn read_step(path: &Path) -> Result<Option<FailedStep>, StoreError> {
    let file = path.join(STEP);
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(StoreError::file("read", &file)(e)),
    };
    let step = serde_json::from_slice::<FailedStep>(&bytes).ok();
    Ok(step.filter(|step| {
        step.version == VERSION && path.file_name().is_some_and(|name| *name == *step.id)
    }))
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

fn new_id(now_ns: i64) -> String {
    // Two failures of one process in one nanosecond of the clock are two.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let seed = format!("{now_ns} {} {number}", std::process::id());
    let mut id = Digest::of(seed.as_bytes()).hex();
    id.truncate(ID_DIGITS);
    id
}

#[cfg(test)]
mod tests {
    use super::super::testing::{image, name, record, store};
    use super::super::{CheckDepth, PruneOptions, Severity};
    use super::*;

    fn draft(store: &Store, text: &str, size: usize) -> (super::super::Work, FailedDraft) {
        let work = store.work().unwrap();
        let dir = work.directory("failed").unwrap();
        std::fs::create_dir(dir.join("fs")).unwrap();
        std::fs::write(dir.join("fs/file"), vec![b'x'; size]).unwrap();
        let draft = FailedDraft {
            dir,
            name: text.to_owned(),
            stacks: Vec::new(),
            details: serde_json::json!({"exit": 1}),
        };
        std::fs::write(draft.log(), format!("output of {text}\n")).unwrap();
        (work, draft)
    }

    fn keep(store: &Store, text: &str, size: usize, bounds: &FailedBounds) -> FailedStep {
        let (_work, draft) = draft(store, text, size);
        store.keep_failed(draft, bounds).unwrap()
    }

    fn names(store: &Store) -> Vec<String> {
        let steps = store.failed_steps().unwrap();
        steps.into_iter().map(|step| step.name).collect()
    }

    #[test]
    fn the_latest_is_found_first_and_by_a_part_of_its_id() {
        let (dir, store) = store();
        let bounds = FailedBounds::default();
        assert!(store.failed_steps().unwrap().is_empty());
        assert!(matches!(
            store.failed_step("last"),
            Err(StoreError::NoSuchFailedStep(_))
        ));
        let one = keep(&store, "one", 10, &bounds);
        let two = keep(&store, "two", 10, &bounds);
        assert_eq!(names(&store), ["two", "one"]);
        assert_eq!(store.failed_step("last").unwrap().step, two);
        let found = store.failed_step(&one.id[..7]).unwrap();
        assert_eq!(found.step, one);
        assert_eq!(std::fs::read(found.log()).unwrap(), b"output of one\n");
        assert!(found.path("fs/file").exists());
        assert!(store.failed_step("").is_err() && store.failed_step("../x").is_err());
        // One of these that is torn is none.
        std::fs::write(dir.path().join("failed").join(&two.id).join(STEP), b"{").unwrap();
        assert_eq!(names(&store), ["one"]);
    }

    #[test]
    fn they_are_bounded_by_count_bytes_and_age() {
        let (_dir, store) = store();
        let bounds = FailedBounds {
            count: 3,
            bytes: 1 << 20,
            age_seconds: 1000,
        };
        for text in ["a", "b", "c", "d"] {
            keep(&store, text, 10, &bounds);
        }
        assert_eq!(names(&store), ["d", "c", "b"]);
        keep(&store, "half", 600 << 10, &bounds);
        keep(&store, "other half", 600 << 10, &bounds);
        assert_eq!(names(&store), ["other half"]);
        let big = keep(&store, "too big", 2 << 20, &bounds);
        assert!(big.left_out_bytes.is_some_and(|bytes| bytes >= 2 << 20));
        let found = store.failed_step(&big.id).unwrap();
        assert!(!found.path("fs").exists() && found.log().exists());
        // What somebody looks at stays.
        store
            .bound_failed(&FailedBounds {
                age_seconds: 0,
                ..bounds
            })
            .unwrap();
        assert_eq!(names(&store), ["too big"]);
        drop(found);
        store
            .bound_failed(&FailedBounds { count: 0, ..bounds })
            .unwrap();
        assert_eq!(names(&store), [""; 0]);
    }

    #[test]
    fn they_keep_their_layers_until_they_are_pruned() {
        let (_dir, mut store) = store();
        let named = image(&store, "named");
        store.tag(&name("app"), &named).unwrap();
        let needed = record(&store, "needed");
        let blob = needed.blob.clone().unwrap();
        let (work, mut draft) = draft(&store, "step", 4096);
        draft.stacks = vec![vec![(Some(blob.clone()), needed.diff_id)]];
        let step = store.keep_failed(draft, &FailedBounds::default()).unwrap();
        drop(work);
        let usage = store.df().unwrap();
        assert_eq!((usage.failed.count, usage.failed.bytes > 4096), (1, true));
        assert_eq!(usage.failed.reclaimable_bytes, usage.failed.bytes);

        let keep = PruneOptions::default();
        store.prune(&keep, &|| ()).unwrap();
        assert!(store.has_blob(&blob) && store.failed_step(&step.id).is_ok());
        store.rmi(&name("app")).unwrap();
        assert!(store.has_blob(&blob));
        let prune = |dry_run, until| PruneOptions {
            failed: true,
            dry_run,
            until,
            ..PruneOptions::default()
        };
        // It failed after this.
        store.prune(&prune(false, Some(1_000_000)), &|| ()).unwrap();
        assert!(store.failed_step("last").is_ok());
        let foreseen = store.prune(&prune(true, None), &|| ()).unwrap();
        assert!(store.failed_step("last").is_ok());
        let report = store.prune(&prune(false, None), &|| ()).unwrap();
        assert_eq!(foreseen.failed.bytes, report.failed.bytes);
        assert!(report.failed.bytes > 4096 && report.freed_bytes > report.failed.bytes);
        assert!(!store.has_blob(&blob) && store.failed_steps().unwrap().is_empty());
        assert_eq!(store.df().unwrap().failed.count, 0);
    }

    #[test]
    fn torn_ones_are_leftovers() {
        let (dir, mut store) = store();
        let step = keep(&store, "step", 1, &FailedBounds::default());
        assert!(store.check(CheckDepth::Full).unwrap().findings.is_empty());
        std::fs::write(dir.path().join("failed").join(&step.id).join(STEP), b"").unwrap();
        let report = store.check(CheckDepth::Full).unwrap();
        assert_eq!(report.findings[0].severity, Severity::Leftover);
        assert!(report.is_clean());
        // A prune of anything takes it away.
        store.prune(&PruneOptions::default(), &|| ()).unwrap();
        assert!(store.failed_paths().unwrap().is_empty());
    }
}
