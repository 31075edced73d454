//! Removing what nothing needs any more.
//!
//! Mark and sweep, alone in the store: the marks are the images of the index, the records of the build cache and the failed
//! steps; everything else goes. A collection that is interrupted has removed some of it; what it leaves is a store like any other.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::cache::read_record;
use super::df::{Inodes, disk_usage};
use super::failed::{FailedStep, read_step};
use super::listing::of_record;
use super::names::Named;
use super::remove::remove_tree;
use super::{Freed, LayerId, Record, Store, StoreError, list, work};
use crate::oci::{ChainId, Descriptor, DiffId, Digest, Document, Reference};

/// Which images a prune takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PruneImages {
    /// None.
    Keep,
    /// Those without a name.
    #[default]
    Dangling,
    /// All.
    All,
}

/// What to prune besides what nothing refers to, which always goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PruneOptions {
    /// Images.
    pub images: PruneImages,
    /// The build cache, with the layers that only it holds.
    pub build_cache: bool,
    /// Unpacked layers that come back from their blobs. Those without one, which only other stages read, stay with their records.
    pub unpacked: bool,
    /// Directories of cache mounts.
    pub cache_mounts: bool,
    /// What failed steps left.
    pub failed: bool,
    /// Only images made, layers unpacked, steps failed, and records and mounts last used before this time (seconds since 1970,
    /// UTC).
    pub until: Option<i64>,
    /// Take the least recently used records of the build cache away until blobs and layers use no more than this, bytes.
    pub keep_storage_bytes: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What a prune took away.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PruneReport {
    /// The names that are gone.
    pub untagged: Vec<Reference>,
    /// The manifests and indexes of the images that are gone.
    pub images: Vec<Digest>,
    /// How many records of the build cache are gone.
    pub records: u64,
    /// Blobs.
    pub blobs: Freed,
    /// Unpacked layers and tables of contents.
    pub layers: Freed,
    /// The build cache's own files.
    pub cache: Freed,
    /// Cache mounts.
    pub mounts: Freed,
    /// What failed steps left.
    pub failed: Freed,
    /// What dead processes left.
    pub work: Freed,
    /// The sum, bytes on disk.
    pub freed_bytes: u64,
    /// Whether everything is still there: a dry run, or (of [`Store::rmi`]) the store was in use and the content is left to
    /// the next prune.
    pub deferred: bool,
}

impl PruneReport {
    pub(super) fn add_up(mut self) -> PruneReport {
        let parts = [
            self.blobs,
            self.layers,
            self.cache,
            self.mounts,
            self.failed,
            self.work,
        ];
        self.freed_bytes = parts.iter().map(|f| f.bytes).sum();
        self
    }
}

/// Everything that something refers to.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) blobs: HashSet<Digest>,
    /// Names in `layers/`.
    pub(super) layers: HashSet<String>,
    /// Names in `layers/` of those that have no blob to come back from.
    pub(super) only_unpacked: HashSet<String>,
}

impl Marks {
    fn layer(&mut self, id: LayerId) {
        self.layers.insert(id.file_name());
    }

    /// Marks a layer that is there as a directory alone.
    pub(super) fn only_unpacked(&mut self, layer: &DiffId) {
        self.only_unpacked.insert(LayerId::Diff(*layer).file_name());
    }

    pub(super) fn record(&mut self, record: &Record) {
        match &record.blob {
            Some(blob) => drop(self.blobs.insert(blob.digest)),
            None => self.only_unpacked(&record.diff_id),
        }
        self.layer(LayerId::Diff(record.diff_id));
        let chain = super::layers::chain(record.diff_id, record.below);
        self.layer(LayerId::Chain(chain));
    }
}

/// A record, its file, and when it was last of use.
struct Kept {
    record: Record,
    path: PathBuf,
    used: i64,
}

/// How a sweep treats what it found.
pub(super) struct Sweep {
    pub(super) dry_run: bool,
    /// For a dry run: hard links are counted once.
    pub(super) inodes: Inodes,
    /// Where trees are moved before they are removed, so that none is ever seen half gone.
    pub(super) aside: Arc<work::Work>,
}

impl Sweep {
    pub(super) fn remove(&mut self, path: &Path) -> Result<Freed, StoreError> {
        if self.dry_run {
            return disk_usage(path, &mut self.inodes);
        }
        let meta = std::fs::symlink_metadata(path).map_err(StoreError::file("stat", path))?;
        if !meta.is_dir() {
            return remove_tree(path);
        }
        let aside = self.aside.unique("removed");
        std::fs::rename(path, &aside).map_err(StoreError::file("remove", path))?;
        remove_tree(&aside)
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn modified(path: &Path) -> Result<i64, StoreError> {
    let meta = std::fs::symlink_metadata(path).and_then(|m| m.modified());
    Ok(seconds(meta.map_err(StoreError::file("stat", path))?))
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("")
}

impl Store {
    /// Removes what nothing needs. Waits until nobody else uses the store; `on_wait` is called once if that takes time.
    /// While it waits and works, nobody else gets in. Fails if this process still holds work, mounts or clones of the store.
    pub fn prune(
        &mut self,
        options: &PruneOptions,
        on_wait: &dyn Fn(),
    ) -> Result<PruneReport, StoreError> {
        self.alone(on_wait, |store| store.collect(options))
    }

    fn collect(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let root = self.root();
        let mut report = PruneReport {
            deferred: options.dry_run,
            ..PruneReport::default()
        };
        if !options.dry_run {
            report.work = work::reap(&root.join("work"))?;
        }
        let mut sweep = Sweep {
            dry_run: options.dry_run,
            inodes: Inodes::default(),
            aside: self.scratch()?,
        };

        let (gone, stay): (Vec<_>, Vec<_>) =
            self.names()?.into_iter().partition(|n| options.takes(n));
        for named in &gone {
            report.untagged.extend(named.reference.clone());
            if !report.images.contains(&named.descriptor.digest) {
                report.images.push(named.descriptor.digest);
            }
        }
        // First from the index, which is flushed, and only then from the disk.
        if !gone.is_empty() && !options.dry_run {
            let identity = |n: &Named| {
                let name = (n.reference.clone(), n.foreign_name.clone());
                (n.descriptor.digest, name)
            };
            let gone: HashSet<_> = gone.iter().map(identity).collect();
            self.drop_entries(&|n| gone.contains(&identity(n)))?;
        }
        let mut marks = Marks::default();
        for named in &stay {
            self.mark_image(&named.descriptor, &mut marks)?;
        }
        for path in self.failed_paths()? {
            let old = |s: &FailedStep| options.until.is_none_or(|until| s.failed_seconds() < until);
            match read_step(&path)? {
                Some(step) if !(options.failed && old(&step)) => step.mark(&mut marks),
                // One that is torn is of no use to anybody.
                _ => report.failed += sweep.remove(&path)?,
            }
        }
        let records = self.prune_records(options, &marks, &mut sweep, &mut report)?;
        for kept in &records {
            marks.record(&kept.record);
        }
        if report.records > 0 && !options.dry_run {
            self.note_pruning()?;
        }
        report.blobs = self.sweep_blobs(&marks, &mut sweep)?;
        // An unpacked layer comes back from its blob, if it has one.
        let unpacked = |path: &Path| {
            let chosen = options.unpacked && !marks.only_unpacked.contains(file_name(path));
            match options.until.filter(|_| chosen) {
                Some(until) => modified(path).map(|made| made < until),
                None => Ok(chosen),
            }
        };
        report.layers = self.sweep_layers(&marks, &unpacked, &mut sweep)?;
        report.cache += self.sweep_hints(&marks, &records, options, &mut sweep)?;
        if options.cache_mounts {
            for path in list(&root.join("mounts"))? {
                let mut used = modified(&path)?;
                for inside in list(&path)? {
                    used = used.max(modified(&inside)?);
                }
                if options.until.is_none_or(|until| used < until) {
                    report.mounts += sweep.remove(&path)?;
                }
            }
        }
        if !options.dry_run {
            // Nobody holds or waits for any of them.
            for path in list(&root.join("locks"))? {
                remove_tree(&path)?;
            }
        }
        Ok(report.add_up())
    }

    /// Marks an image: its documents, configuration, blobs, and its layers as they may be unpacked. Another platform's
    /// manifest need not be there.
    pub(super) fn mark_image(
        &self,
        descriptor: &Descriptor,
        marks: &mut Marks,
    ) -> Result<(), StoreError> {
        if !marks.blobs.insert(descriptor.digest) || !self.has_blob(descriptor) {
            return Ok(());
        }
        let is_document = descriptor.media_type.is_manifest() || descriptor.media_type.is_index();
        if !is_document {
            return Ok(());
        }
        match self.read_document(descriptor)? {
            Document::Index(index) => {
                for child in index.manifests.iter().chain(&index.subject) {
                    self.mark_image(child, marks)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    marks.blobs.insert(blob.digest);
                }
                if !self.has_blob(&manifest.config) {
                    return Ok(());
                }
                let Some(config) = self.read_config(&manifest.config)? else {
                    return Ok(());
                };
                let mut below: Option<ChainId> = None;
                for diff_id in config.rootfs.diff_ids {
                    marks.layer(LayerId::Diff(diff_id));
                    let chain = below.map_or(ChainId(diff_id.0), |b| b.push(diff_id));
                    marks.layer(LayerId::Chain(chain));
                    below = Some(chain);
                }
            }
        }
        Ok(())
    }

    /// Takes records away; gives those that stay.
    fn prune_records(
        &self,
        options: &PruneOptions,
        images: &Marks,
        sweep: &mut Sweep,
        report: &mut PruneReport,
    ) -> Result<Vec<Kept>, StoreError> {
        let mut stay = Vec::new();
        for path in list(&self.root().join("cache/records"))? {
            let used = modified(&path)?;
            // One that cannot be read, or whose blob is gone, is of no use to anybody.
            let record = read_record(&path)?;
            let record = match record {
                Some(record) if self.has_result(&record)? => Some(record),
                _ => None,
            };
            let old = options.build_cache && options.until.is_none_or(|until| used < until);
            match record {
                Some(record) if !old => stay.push(Kept { record, path, used }),
                _ => {
                    report.records += 1;
                    report.cache += sweep.remove(&path)?;
                }
            }
        }
        let Some(limit) = options.keep_storage_bytes else {
            return Ok(stay);
        };
        stay.sort_by_key(|k| std::cmp::Reverse(k.used));
        let mut budget = Budget::new(self, images, &stay)?;
        while budget.total > limit {
            let Some(oldest) = stay.pop() else { break };
            budget.drop_record(&oldest.record);
            report.records += 1;
            report.cache += sweep.remove(&oldest.path)?;
        }
        Ok(stay)
    }

    fn sweep_blobs(&self, marks: &Marks, sweep: &mut Sweep) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();
        for directory in list(&self.root().join("blobs"))? {
            for path in list(&directory)? {
                let text = format!("{}:{}", file_name(&directory), file_name(&path));
                let live = text
                    .parse::<Digest>()
                    .is_ok_and(|d| marks.blobs.contains(&d));
                if !live {
                    freed += sweep.remove(&path)?;
                }
            }
        }
        Ok(freed)
    }

    fn sweep_layers(
        &self,
        marks: &Marks,
        unpacked: &dyn Fn(&Path) -> Result<bool, StoreError>,
        sweep: &mut Sweep,
    ) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();
        for path in list(&self.root().join("layers"))? {
            let name = file_name(&path);
            let fs = path.join("fs");
            if !marks.layers.contains(name)
                || !self.is_sound(&path)?
                || (name.starts_with(super::layers::CHAIN) && unpacked(&path)?)
            {
                freed += sweep.remove(&path)?;
            } else if fs.exists() && unpacked(&path)? {
                freed += sweep.remove(&fs)?;
            }
        }
        Ok(freed)
    }

    /// The files around the records and images: which layers and blobs they are about must be there.
    fn sweep_hints(
        &self,
        marks: &Marks,
        records: &[Kept],
        options: &PruneOptions,
        sweep: &mut Sweep,
    ) -> Result<Freed, StoreError> {
        let cache = self.root().join("cache");
        let mut freed = Freed::default();
        let cached: HashSet<String> = records.iter().map(|k| k.record.diff_id.0.hex()).collect();
        let blobs: HashSet<String> = marks.blobs.iter().map(Digest::hex).collect();
        for (name, live) in [
            ("layers", &cached),
            ("blobs", &marks.layers),
            ("origins", &blobs),
        ] {
            for path in list(&cache.join(name))? {
                if !live.contains(file_name(&path)) {
                    freed += sweep.remove(&path)?;
                }
            }
        }
        for path in self.stale_last_layers(&|name| marks.layers.contains(name))? {
            freed += sweep.remove(&path)?;
        }
        let listings: HashSet<String> = records.iter().flat_map(|k| of_record(&k.record)).collect();
        for path in self.listings()? {
            if !listings.contains(file_name(&path)) {
                freed += sweep.remove(&path)?;
            }
        }
        let lineage = self.root().join("lineage");
        if lineage.exists() {
            for path in list(&lineage)? {
                if !blobs.contains(file_name(&path)) {
                    freed += sweep.remove(&path)?;
                }
            }
        }
        if options.build_cache {
            for path in list(&cache.join("files"))? {
                let used = modified(&path)?;
                if options.until.is_none_or(|until| used < until) {
                    freed += sweep.remove(&path)?;
                }
            }
        }
        Ok(freed)
    }
}

impl PruneOptions {
    fn takes(&self, named: &Named) -> bool {
        let chosen = match self.images {
            PruneImages::Keep => false,
            PruneImages::Dangling => named.is_dangling(),
            PruneImages::All => true,
        };
        let Some(until) = self.until.filter(|_| chosen) else {
            return chosen;
        };
        // An image of unknown age is not known to be old enough.
        let made = named
            .created
            .as_deref()
            .and_then(|t| t.parse::<jiff::Timestamp>().ok());
        made.is_some_and(|t| t.as_second() < until)
    }
}

/// What blobs and layers cost, and what falls away with a record.
struct Budget {
    total: u64,
    /// By record-held item: bytes, and how many records hold it.
    blobs: HashMap<Digest, (u64, usize)>,
    layers: HashMap<DiffId, (u64, usize)>,
}

impl Budget {
    fn new(store: &Store, images: &Marks, records: &[Kept]) -> Result<Budget, StoreError> {
        let mut inodes = Inodes::default();
        let mut blobs: HashMap<Digest, (u64, usize)> = HashMap::new();
        let mut layers: HashMap<DiffId, (u64, usize)> = HashMap::new();
        let mut total = 0;
        for digest in &images.blobs {
            total += disk_usage(&store.blob_path(digest), &mut inodes)?.bytes;
        }
        for name in &images.layers {
            let path = store.root().join("layers").join(name);
            total += disk_usage(&path, &mut inodes)?.bytes;
        }
        for kept in records {
            let blob = kept.record.blob.as_ref().map(|b| b.digest);
            if let Some(digest) = blob.filter(|d| !images.blobs.contains(d)) {
                let (_, holders) = match blobs.entry(digest) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        let bytes = disk_usage(&store.blob_path(&digest), &mut inodes)?.bytes;
                        total += bytes;
                        entry.insert((bytes, 0))
                    }
                };
                *holders += 1;
            }
            let id = LayerId::Diff(kept.record.diff_id);
            if !images.layers.contains(&id.file_name()) {
                let (_, holders) = match layers.entry(kept.record.diff_id) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        let bytes = disk_usage(&store.layer_dir(&id), &mut inodes)?.bytes;
                        total += bytes;
                        entry.insert((bytes, 0))
                    }
                };
                *holders += 1;
            }
        }
        Ok(Budget {
            total,
            blobs,
            layers,
        })
    }

    fn drop_record(&mut self, record: &Record) {
        let blob = record
            .blob
            .as_ref()
            .and_then(|b| self.blobs.get_mut(&b.digest));
        let layer = self.layers.get_mut(&record.diff_id);
        for (bytes, holders) in blob.into_iter().chain(layer) {
            *holders -= 1;
            if *holders == 0 {
                self.total -= *bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::super::testing::{image, image_of, layer, name, record, store};
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    fn prune(store: &mut Store, options: PruneOptions) -> PruneReport {
        store.prune(&options, &|| ()).unwrap()
    }

    /// Bytes on disk of everything below the root.
    fn cost(store: &Store) -> u64 {
        let usage = disk_usage(store.root(), &mut Inodes::default());
        usage.unwrap().bytes
    }

    #[test]
    fn what_is_named_or_cached_stays() {
        let (_dir, mut store) = store();
        let named = image(&store, "named");
        let cached = record(&store, "cached");
        let dangling = image(&store, "dangling");
        let unnamed = image(&store, "unnamed");
        store.tag(&name("app"), &named).unwrap();
        store.keep(&dangling).unwrap();
        store.cache_put(&cached).unwrap();
        for text in ["named", "cached", "dangling", "unnamed"] {
            layer(&store, text);
        }
        let before = store.df().unwrap();
        let options = PruneOptions::default();
        let dry = PruneOptions {
            dry_run: true,
            ..options
        };
        let foreseen = prune(&mut store, dry);
        assert_eq!(store.df().unwrap(), before);
        let report = prune(&mut store, options);
        assert_eq!(
            (foreseen.blobs, foreseen.layers, foreseen.images),
            (report.blobs, report.layers, report.images.clone())
        );
        assert_eq!(report.images, [dangling.digest]);
        // Two images: manifest, configuration, layer each.
        assert_eq!(report.blobs.entries, 6);
        let after = store.df().unwrap();
        let freed = before.total_bytes - after.total_bytes;
        assert!(
            freed >= report.freed_bytes,
            "{before:?} {after:?} {report:?}"
        );
        assert_eq!(store.cache_get(&cached.key).unwrap(), Some(cached));
        for (text, there) in [
            ("named", true),
            ("cached", true),
            ("dangling", false),
            ("unnamed", false),
        ] {
            let id = LayerId::Diff(DiffId(Digest::of(text.as_bytes())));
            assert_eq!(store.layer(&id).unwrap().is_some(), there, "{text}");
        }
        assert!(!store.has_blob(&unnamed));
        assert_eq!(prune(&mut store, options).freed_bytes, 0);
        assert!(
            store
                .check(super::super::CheckDepth::Full)
                .unwrap()
                .findings
                .is_empty()
        );
    }

    #[test]
    fn listings_go_with_the_last_record_that_names_them() {
        let (dir, mut store) = store();
        let keep = |store: &Store, text: &str| {
            let digest = Digest::of(text.as_bytes());
            let kept = store.keep_listing(&digest, |sink| {
                sink(text.as_bytes());
                Ok::<(), StoreError>(())
            });
            kept.unwrap();
            digest
        };
        let (shared, orphan) = (keep(&store, "shared"), keep(&store, "orphan"));
        for text in ["a", "b"] {
            let mut record = record(&store, text);
            record.inputs = vec![("files .".to_owned(), shared.to_string())];
            store.cache_put(&record).unwrap();
        }
        assert_eq!(store.pruned().unwrap(), None);
        prune(&mut store, PruneOptions::default());
        assert!(store.listing(&shared).unwrap().is_some());
        assert!(store.listing(&orphan).unwrap().is_none());
        assert_eq!(store.pruned().unwrap(), None, "no record has gone");
        let path = dir.path().join("cache/listings").join(shared.hex());
        std::fs::write(&path, b"torn").unwrap();
        let report = store.check(super::super::CheckDepth::Quick).unwrap();
        assert!(
            report.is_clean() && report.findings.len() == 1,
            "{report:?}"
        );
        let options = PruneOptions {
            build_cache: true,
            ..PruneOptions::default()
        };
        assert_eq!(prune(&mut store, options).records, 2);
        assert!(!path.exists());
        assert!(store.pruned().unwrap().is_some());
    }

    #[test]
    fn everything_can_go() {
        let (_dir, mut store) = store();
        let empty = cost(&store);
        store.tag(&name("app"), &image(&store, "a")).unwrap();
        store.cache_put(&record(&store, "b")).unwrap();
        layer(&store, "a");
        let never = AtomicBool::new(false);
        let mount = store
            .cache_mount("id", super::super::Sharing::Shared, &|_| Ok(()), &never)
            .unwrap();
        let all = PruneOptions {
            images: PruneImages::All,
            build_cache: true,
            unpacked: true,
            cache_mounts: true,
            ..PruneOptions::default()
        };
        let in_use = store.prune(&all, &|| ()).unwrap_err();
        assert!(matches!(in_use, StoreError::InUse(_)));
        drop(mount);
        let old = PruneOptions {
            until: Some(1),
            ..all
        };
        assert_eq!(prune(&mut store, old), PruneReport::default());
        let before = cost(&store);
        let report = prune(&mut store, all);
        assert_eq!(report.untagged, [name("app")]);
        assert_eq!((report.records, report.mounts.entries), (1, 4));
        let after = cost(&store);
        // The index has shrunk too, and work/ has a directory for this process.
        assert!(before - after + 8192 >= report.freed_bytes);
        assert!(after <= empty + 8192, "{after} {empty}");
    }

    #[test]
    fn unpacked_layers_go_and_their_tables_stay() {
        let (_dir, mut store) = store();
        store.tag(&name("app"), &image(&store, "a")).unwrap();
        let diff_id = DiffId(Digest::of(b"a"));
        layer(&store, "a");
        let mut only = record(&store, "only unpacked");
        only.blob = None;
        layer(&store, "only unpacked");
        store.cache_put(&only).unwrap();
        let unpacked = PruneOptions {
            unpacked: true,
            ..PruneOptions::default()
        };
        prune(&mut store, unpacked);
        assert!(store.layer(&LayerId::Diff(diff_id)).unwrap().is_none());
        assert_eq!(store.toc(&diff_id).unwrap().map(|t| t.len()), Some(2));
        assert_eq!(store.cache_get(&only.key).unwrap(), Some(only));
        // And it can come back.
        assert!(layer(&store, "a").fs().join("file").exists());
        assert!(store.layer(&LayerId::Diff(diff_id)).unwrap().is_some());
    }

    #[test]
    fn the_least_recently_used_records_go_first() {
        let (_dir, mut store) = store();
        let records: Vec<_> = (0..4)
            .map(|i| record(&store, &i.to_string().repeat(100_000)))
            .collect();
        for (age, record) in records.iter().enumerate() {
            store.cache_put(record).unwrap();
            let path = store.root().join("cache/records").join(record.key.hex());
            let time = UNIX_EPOCH + std::time::Duration::from_secs(1000 + age as u64);
            std::fs::File::open(path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        // A use makes the oldest the newest.
        store.cache_get(&records[0].key).unwrap().unwrap();
        let options = PruneOptions {
            keep_storage_bytes: Some(250_000),
            ..PruneOptions::default()
        };
        let report = prune(&mut store, options);
        assert_eq!(report.records, 2);
        let there = |i: usize| store.cache_get(&records[i].key).unwrap().is_some();
        assert_eq!([0, 1, 2, 3].map(there), [true, false, false, true]);
    }

    #[test]
    fn a_collection_waits_for_users_and_newcomers_for_it() {
        let (dir, mut store) = store();
        let user = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let blob = user
            .put_bytes(crate::oci::MediaType::OciLayer, b"not named yet")
            .unwrap();
        let waited = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let waited = &waited;
            let collection = scope.spawn(move || {
                let on_wait = || {
                    waited.store(true, Ordering::SeqCst);
                    tell.send(()).unwrap();
                };
                store.prune(&PruneOptions::default(), &on_wait).unwrap()
            });
            told.recv().unwrap();
            // It waits behind the gate. What this user stores is safe until it is done.
            assert!(user.has_blob(&blob));
            drop(user);
            assert_eq!(collection.join().unwrap().blobs.entries, 1);
        });
        assert!(waited.into_inner());
    }

    /// Counts down, also when its thread fails.
    struct Done<'a>(&'a AtomicU32);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn eight_taggers_and_a_collector_lose_nothing() {
        let (dir, store) = store();
        drop(store);
        let running = AtomicU32::new(8);
        std::thread::scope(|scope| {
            for t in 0..8 {
                let (root, running) = (dir.path(), &running);
                scope.spawn(move || {
                    let _done = Done(running);
                    for i in 0..6 {
                        let store = Store::open(root, StoreOptions::default()).unwrap();
                        let texts = [format!("{t}-{i}"), format!("shared {i}")];
                        let image = image_of(&store, &[&texts[0], &texts[1]]);
                        store.cache_put(&record(&store, &texts[0])).unwrap();
                        store.tag(&name(&format!("n{t}:{i}")), &image).unwrap();
                        assert!(store.has_blob(&image));
                    }
                });
            }
            let (root, running) = (dir.path(), &running);
            scope.spawn(move || {
                while running.load(Ordering::SeqCst) > 0 {
                    let mut store = Store::open(root, StoreOptions::default()).unwrap();
                    store.prune(&PruneOptions::default(), &|| ()).unwrap();
                }
            });
        });
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.names().unwrap().len(), 48);
        assert_eq!(store.cache_records().unwrap().len(), 48);
        let report = store.check(super::super::CheckDepth::Full).unwrap();
        assert_eq!(report.findings, []);
        assert_eq!(report.blobs, 48 * 3 + 6);
    }
}
