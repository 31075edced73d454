//! Removing one image.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::alone::Patience;
use super::df::Inodes;
use super::gc::{Marks, PruneReport, Sweep};
use super::remove::remove_tree;
use super::{Freed, LayerId, Store, StoreError};
use crate::oci::{ChainId, Descriptor, Digest, Document, Reference};

impl Store {
    /// Takes a name away and, if it was the image's last, what only that image needed. If others are using the store, the
    /// content stays for the next prune ([`PruneReport::deferred`]).
    pub fn rmi(&mut self, reference: &Reference) -> Result<PruneReport, StoreError> {
        let Some(descriptor) = self.untag(reference)? else {
            return Err(StoreError::NoSuchImage(reference.familiar()));
        };
        self.remove_content(&descriptor, vec![reference.clone()])
    }

    /// Takes an image away with all its names, as [`Store::rmi`].
    pub fn rmi_image(&mut self, digest: &Digest) -> Result<PruneReport, StoreError> {
        let named = self.names()?;
        let Some(named) = named.into_iter().find(|n| n.descriptor.digest == *digest) else {
            return Err(StoreError::NoSuchImage(digest.to_string()));
        };
        let names = self.forget(digest)?;
        self.remove_content(&named.descriptor, names)
    }

    fn remove_content(
        &mut self,
        descriptor: &Descriptor,
        untagged: Vec<Reference>,
    ) -> Result<PruneReport, StoreError> {
        let mut report = PruneReport {
            untagged,
            ..PruneReport::default()
        };
        let others = self.index()?;
        if others.holds(&descriptor.digest) {
            return Ok(report);
        }
        report.images.push(descriptor.digest);
        match self.exclusive(Patience::Now) {
            Ok(Some(alone)) => {
                let (blobs, layers) = alone.store.remove_unshared(descriptor)?;
                report.blobs = blobs;
                report.layers = layers;
            }
            Ok(None) | Err(StoreError::InUse(_)) => report.deferred = true,
            Err(error) => return Err(error),
        }
        Ok(report.add_up())
    }

    /// Removes what an image had for itself. The manifests of the other images are searched for its digests as text: that is
    /// exact (a digest occurs as it is or not at all) and many times as fast as reading them one by one.
    fn remove_unshared(&self, descriptor: &Descriptor) -> Result<(Freed, Freed), StoreError> {
        let mut mine = Marks::default();
        self.mark_image(descriptor, &mut mine)?;
        let layers_of = self.layers_by_blob(descriptor)?;
        let hexes: HashMap<Vec<u8>, Digest> = mine
            .blobs
            .iter()
            .map(|d| (d.hex().into_bytes(), *d))
            .collect();
        let mut failed = Marks::default();
        for step in self.failed_steps()? {
            step.mark(&mut failed);
        }
        let mut shared: HashSet<Digest> = failed.blobs;
        let mut seen = HashSet::new();
        let mut pending: Vec<Descriptor> = self.index()?.descriptors().cloned().collect();
        while let Some(other) = pending.pop() {
            if !seen.insert(other.digest) {
                continue;
            }
            shared.insert(other.digest);
            let path = self.blob_path(&other.digest);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::file("read", &path)(e)),
            };
            shared.extend(mentioned(&bytes, &hexes));
            if !other.media_type.is_manifest() {
                let document = Document::parse(&bytes);
                if let Ok(Document::Index(index)) = document {
                    pending.extend(index.manifests);
                }
            }
        }
        let mut sweep = Sweep {
            dry_run: false,
            inodes: Inodes::default(),
            aside: self.scratch()?,
        };
        let (mut blobs, mut layers) = (Freed::default(), Freed::default());
        for digest in mine.blobs.difference(&shared) {
            let path = self.blob_path(digest);
            let unpacked = layers_of.get(digest);
            let cached = unpacked.is_some_and(|ids| {
                let cached = |id: &LayerId| match id {
                    LayerId::Diff(diff) => self.cached_layer_path(diff).exists(),
                    LayerId::Chain(_) => false,
                };
                ids.iter().any(cached)
            });
            if cached {
                continue;
            }
            blobs += remove_tree(&path)?;
            blobs += remove_tree(&self.lineage_path(digest))?;
            for id in unpacked.into_iter().flatten() {
                let dir = self.layer_dir(id);
                if dir.exists() {
                    layers += sweep.remove(&dir)?;
                }
            }
        }
        Ok((blobs, layers))
    }

    /// The layers that the blobs of an image hold, as they may be unpacked.
    fn layers_by_blob(
        &self,
        descriptor: &Descriptor,
    ) -> Result<BTreeMap<Digest, Vec<LayerId>>, StoreError> {
        let mut layers: BTreeMap<Digest, Vec<LayerId>> = BTreeMap::new();
        let mut pending = vec![descriptor.clone()];
        while let Some(descriptor) = pending.pop() {
            let is_document =
                descriptor.media_type.is_manifest() || descriptor.media_type.is_index();
            if !is_document || !self.has_blob(&descriptor) {
                continue;
            }
            let manifest = match self.read_document(&descriptor)? {
                Document::Index(index) => {
                    pending.extend(index.manifests);
                    continue;
                }
                Document::Manifest(manifest) => manifest,
            };
            if !self.has_blob(&manifest.config) {
                continue;
            }
            let Some(config) = self.read_config(&manifest.config)? else {
                continue;
            };
            let mut below: Option<ChainId> = None;
            for (blob, diff_id) in manifest.layers.iter().zip(config.rootfs.diff_ids) {
                let chain = below.map_or(ChainId(diff_id.0), |b| b.push(diff_id));
                below = Some(chain);
                let ids = layers.entry(blob.digest).or_default();
                ids.extend([LayerId::Diff(diff_id), LayerId::Chain(chain)]);
            }
        }
        Ok(layers)
    }
}

/// Which of the digests occur in a document.
fn mentioned<'a>(
    bytes: &'a [u8],
    hexes: &'a HashMap<Vec<u8>, Digest>,
) -> impl Iterator<Item = Digest> + 'a {
    let colons = memchr::memchr_iter(b':', bytes)
        .filter(|at| bytes[..*at].ends_with(b"sha256") || bytes[..*at].ends_with(b"sha512"));
    colons.flat_map(move |colon| {
        // SHA-256 and SHA-512 have 64 and 128 digits.
        [64, 128].into_iter().filter_map(move |length| {
            let digits = bytes.get(colon + 1..colon + 1 + length)?;
            hexes.get(digits).copied()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{image_of, layer, name, record, store};
    use super::super::{CheckDepth, StoreOptions};
    use super::*;
    use crate::oci::{DiffId, MediaType};

    fn blob(text: &str) -> Descriptor {
        Descriptor::of(MediaType::OciLayer, text.as_bytes())
    }

    #[test]
    fn only_what_nobody_shares_goes() {
        let (_dir, mut store) = store();
        let a = image_of(&store, &["base", "a", "cached"]);
        let b = image_of(&store, &["base", "b"]);
        store.cache_put(&record(&store, "cached")).unwrap();
        for text in ["base", "a"] {
            layer(&store, text);
        }
        store.tag(&name("a:1"), &a).unwrap();
        store.tag(&name("a:2"), &a).unwrap();
        store.tag(&name("b"), &b).unwrap();
        let report = store.rmi(&name("a:1")).unwrap();
        assert_eq!((report.images.len(), report.freed_bytes), (0, 0));
        let report = store.rmi(&name("a:2")).unwrap();
        assert_eq!(report.images, [a.digest]);
        // Manifest, configuration, layer "a"; its unpacked layer: directory, fs, file, table.
        assert_eq!((report.blobs.entries, report.layers.entries), (3, 4));
        for (text, there) in [("base", true), ("a", false), ("b", true), ("cached", true)] {
            assert_eq!(store.has_blob(&blob(text)), there, "{text}");
        }
        let base = LayerId::Diff(DiffId(blob("base").digest));
        assert!(store.layer(&base).unwrap().is_some());
        assert!(matches!(
            store.rmi(&name("a:2")),
            Err(StoreError::NoSuchImage(_))
        ));
        assert_eq!(store.check(CheckDepth::Full).unwrap().findings, []);
        let report = store.rmi_image(&b.digest).unwrap();
        assert_eq!(report.untagged, [name("b")]);
        assert!(!store.has_blob(&blob("base")));
    }

    #[test]
    fn content_that_may_be_in_use_is_left() {
        let (dir, mut store) = store();
        let a = image_of(&store, &["a"]);
        store.tag(&name("a"), &a).unwrap();
        let other = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let report = store.rmi(&name("a")).unwrap();
        assert!(report.deferred && report.freed_bytes == 0);
        assert!(other.has_blob(&a) && other.names().unwrap().is_empty());
    }
}
