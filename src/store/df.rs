//! What the store costs on disk.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::cache::read_record;
use super::gc::Marks;
use super::{Freed, Store, StoreError, list};

/// Files with several links that were counted already: device and inode.
#[derive(Debug, Default)]
pub(super) struct Inodes(HashSet<(u64, u64)>);

/// What one part of the store costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Share {
    /// How many blobs, layers, records, mounts or work directories there are.
    pub count: u64,
    /// Bytes on disk: allocated blocks, hard links once, as `du` counts.
    pub bytes: u64,
    /// How many of these bytes a prune of this part frees, without touching a named image.
    pub reclaimable_bytes: u64,
}

/// What the store costs on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DiskUsage {
    /// How many images the index has, each counted once.
    pub images: u64,
    /// Compressed layers, configurations, manifests. Reclaimable: what no named image needs.
    pub blobs: Share,
    /// Unpacked layers. Reclaimable: those that come back from blobs.
    pub layers: Share,
    /// The build cache's records and hints, and how images came to be. Reclaimable: all but the latter.
    pub cache: Share,
    /// Directories of cache mounts. Reclaimable: all.
    pub mounts: Share,
    /// What failed steps left. Reclaimable: all.
    pub failed: Share,
    /// What running processes are writing. Not reclaimable: what dead ones left went when the store was opened.
    pub work: Share,
    /// The sum of all and of the few files beside them.
    pub total_bytes: u64,
}

/// What a file or tree costs. Links are not followed, mounts not entered; what is not there costs nothing, nor does what vanishes meanwhile.
pub(super) fn disk_usage(path: &Path, inodes: &mut Inodes) -> Result<Freed, StoreError> {
    let mut sum = Freed::default();
    let mut pending = vec![path.to_owned()];
    let mut device = None;
    let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    while let Some(path) = pending.pop() {
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if missing(&e) => continue,
            Err(e) => return Err(StoreError::file("stat", &path)(e)),
        };
        // What is mounted there costs the store nothing.
        if *device.get_or_insert(meta.dev()) != meta.dev() {
            continue;
        }
        sum.entries += 1;
        if meta.is_dir() {
            match std::fs::read_dir(&path) {
                Ok(entries) => {
                    for entry in entries {
                        pending.push(entry.map_err(StoreError::file("read", &path))?.path());
                    }
                }
                Err(e) if missing(&e) => {}
                Err(e) => return Err(StoreError::file("read", &path)(e)),
            }
        } else if meta.nlink() > 1 && !inodes.0.insert((meta.dev(), meta.ino())) {
            continue;
        }
        sum.bytes += meta.blocks() * 512;
    }
    Ok(sum)
}

impl Store {
    /// What the store costs on disk now. Running builds change it meanwhile.
    pub fn df(&self) -> Result<DiskUsage, StoreError> {
        let root = self.root();
        let mut inodes = Inodes::default();
        let mut usage = DiskUsage::default();
        let names = self.names()?;
        let mut marks = Marks::default();
        for named in names.iter().filter(|n| !n.is_dangling()) {
            self.mark_image(&named.descriptor, &mut marks)?;
        }
        let images: HashSet<_> = names.iter().map(|n| n.descriptor.digest).collect();
        usage.images = images.len() as u64;
        for directory in list(&root.join("blobs"))? {
            for path in list(&directory)? {
                let cost = disk_usage(&path, &mut inodes)?;
                let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
                let digest = name(&directory).zip(name(&path));
                let digest = digest.and_then(|(a, h)| format!("{a}:{h}").parse().ok());
                let needed = digest.is_some_and(|d| marks.blobs.contains(&d));
                usage.blobs.count += 1;
                usage.blobs.bytes += cost.bytes;
                usage.blobs.reclaimable_bytes += if needed { 0 } else { cost.bytes };
            }
        }
        let mut pinned = Marks::default();
        for path in list(&root.join("cache/records"))? {
            if let Some(record) = read_record(&path)? {
                pinned.record(&record);
            }
        }
        for step in self.failed_steps()? {
            step.mark(&mut pinned);
        }
        for path in list(&root.join("layers"))? {
            // A table of contents alone is no unpacked layer.
            usage.layers.count += u64::from(path.join("fs").exists());
            let bytes = disk_usage(&path, &mut inodes)?.bytes;
            usage.layers.bytes += bytes;
            let name = path.file_name().and_then(|n| n.to_str());
            if !name.is_some_and(|name| pinned.only_unpacked.contains(name)) {
                usage.layers.reclaimable_bytes += bytes;
            }
        }
        usage.cache.count = list(&root.join("cache/records"))?.len() as u64;
        usage.cache.bytes = disk_usage(&root.join("cache"), &mut inodes)?.bytes;
        usage.mounts.count = list(&root.join("mounts"))?.len() as u64;
        usage.mounts.bytes = disk_usage(&root.join("mounts"), &mut inodes)?.bytes;
        usage.failed.count = self.failed_paths()?.len() as u64;
        usage.failed.bytes = disk_usage(&root.join("failed"), &mut inodes)?.bytes;
        usage.work.count = list(&root.join("work"))?.len() as u64;
        usage.work.bytes = disk_usage(&root.join("work"), &mut inodes)?.bytes;
        for share in [&mut usage.cache, &mut usage.mounts, &mut usage.failed] {
            share.reclaimable_bytes = share.bytes;
        }
        usage.cache.bytes += disk_usage(&root.join("lineage"), &mut inodes)?.bytes;
        let mut rest = 0;
        for path in list(root)?.iter().chain([&root.to_owned()]) {
            let name = path.strip_prefix(root).unwrap_or(path);
            if ["cache", "lineage", "mounts", "failed", "work"]
                .iter()
                .any(|n| name == Path::new(n))
            {
                continue;
            }
            let meta = std::fs::symlink_metadata(path).map_err(StoreError::file("stat", path))?;
            rest += meta.blocks() * 512;
            if name == Path::new("blobs") {
                for directory in list(path)? {
                    rest += std::fs::symlink_metadata(&directory)
                        .map_err(StoreError::file("stat", &directory))?
                        .blocks()
                        * 512;
                }
            }
        }
        let parts = [
            &usage.blobs,
            &usage.layers,
            &usage.cache,
            &usage.mounts,
            &usage.failed,
            &usage.work,
        ];
        usage.total_bytes = rest + parts.iter().map(|p| p.bytes).sum::<u64>();
        Ok(usage)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::testing::{image_of, layer, name, record};
    use super::super::{Lineage, StoreOptions};
    use super::*;
    use crate::oci::MediaType;

    /// A store with something of everything, and with files of several links.
    fn fill(root: &Path) -> Store {
        let store = Store::open(root, StoreOptions::default()).unwrap();
        let image = image_of(&store, &["base", "a"]);
        store.tag(&name("a"), &image).unwrap();
        store
            .put_lineage(&image.digest, &Lineage::default())
            .unwrap();
        store.cache_put(&record(&store, "cached")).unwrap();
        for size in [1, 5000, 700_000, 3_000_000] {
            let bytes = vec![7; size];
            store.put_bytes(MediaType::OciLayer, &bytes).unwrap();
        }
        let (one, other) = (layer(&store, "base"), layer(&store, "a"));
        let file = one.fs().join("large");
        std::fs::write(&file, vec![1; 2_000_000]).unwrap();
        std::fs::hard_link(&file, other.fs().join("large")).unwrap();
        store.barrier().unwrap();
        store
    }

    fn close(a: u64, b: u64) -> bool {
        a.abs_diff(b) * 100 <= a.max(b)
    }

    #[test]
    fn df_says_what_du_says() {
        let dir = tempfile::tempdir().unwrap();
        let store = fill(dir.path());
        let output = Command::new("du")
            .args(["-s", "-B1"])
            .arg(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let du: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let df = store.df().unwrap().total_bytes;
        assert!(close(df, du), "df {df}, du {du}");
    }

    #[test]
    fn df_says_what_the_file_system_says() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mount = |args: &[&str]| {
            let status = Command::new("mount").args(args).arg(dir.path()).status();
            status.is_ok_and(|s| s.success())
        };
        assert!(mount(&["-t", "tmpfs", "-o", "size=64m", "strata-test"]));
        let used = || {
            let space = rustix::fs::statvfs(dir.path()).unwrap();
            (space.f_blocks - space.f_bfree) * space.f_frsize
        };
        let before = used();
        let store = fill(dir.path());
        let (df, taken) = (store.df().unwrap().total_bytes, used() - before);
        drop(store);
        let unmounted = Command::new("umount").arg(dir.path()).status();
        assert!(unmounted.is_ok_and(|s| s.success()));
        assert!(close(df, taken), "df {df}, statvfs {taken}");
    }
}
