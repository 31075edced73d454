//! Which images there are, and what they are called.

use std::collections::{BTreeMap, BTreeSet};

use super::blobs::MAX_DOCUMENT_BYTES;
use super::index::{Entry, IndexFile, OWN};
use super::{Store, StoreError, locked};
use crate::image::select;
use crate::oci::{Descriptor, Digest, Document, ImageConfig, MediaType, Platform, Reference};

/// An image of the index. One that has several names is there several times.
#[derive(Clone, PartialEq, Debug)]
pub struct Named {
    /// What it is called; `None`: kept by its digest alone.
    pub reference: Option<Reference>,
    /// What another tool calls it, where that is no reference.
    pub foreign_name: Option<String>,
    /// Its manifest or index, without the annotations that say what is in the other fields.
    pub descriptor: Descriptor,
    /// The digest of its configuration; of an index, that of the image for this machine, if it is there.
    pub image_id: Option<Digest>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// The sum of its blobs that are there, each counted once.
    pub size_bytes: Option<u64>,
}

impl Named {
    /// Whether nothing calls it by a name.
    pub fn is_dangling(&self) -> bool {
        self.reference.is_none() && self.foreign_name.is_none()
    }
}

/// An image with all its names.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// The digest of its configuration, as in [`Named`].
    pub image_id: Option<Digest>,
    /// What it is called, sorted; empty for one kept by its digest alone.
    pub names: Vec<Reference>,
}

impl Store {
    /// What a name stands for. A reference with a digest finds that content under any name, and in an index that has a name.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let index = self.index()?;
        if let Some(digest) = reference.digest() {
            let entry = index
                .entries
                .iter()
                .find(|e| e.named.descriptor.digest == *digest);
            return match entry {
                Some(entry) => Ok(Some(entry.named.descriptor.clone())),
                None => self.document(digest),
            };
        }
        let found = index.position(reference);
        Ok(found.map(|at| index.entries[at].named.descriptor.clone()))
    }

    /// The descriptor of a manifest or index that is in the store as a blob.
    fn document(&self, digest: &Digest) -> Result<Option<Descriptor>, StoreError> {
        let path = self.blob_path(digest);
        let size = match std::fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::file("stat", &path)(e)),
        };
        if size > MAX_DOCUMENT_BYTES {
            return Ok(None);
        }
        let mut descriptor = Descriptor::new(MediaType::OciManifest, *digest, size);
        let bytes = self.read_blob(&descriptor)?;
        let stated = match Document::parse(&bytes) {
            Ok(Document::Manifest(manifest)) => {
                manifest.media_type.unwrap_or(MediaType::OciManifest)
            }
            Ok(Document::Index(index)) => index.media_type.unwrap_or(MediaType::OciIndex),
            // Some other blob.
            Err(_) => return Ok(None),
        };
        descriptor.media_type = stated;
        Ok(Some(descriptor))
    }

    /// Gives an image a name, which it takes from any other. `Ok` means: the name and everything the image needs stay after
    /// a power loss. Its blobs are in the store already; an index may lack the manifests of other platforms.
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor) -> Result<(), StoreError> {
        self.enter(Some(reference), descriptor)
    }

    /// Keeps an image that has no name.
    pub fn keep(&self, descriptor: &Descriptor) -> Result<(), StoreError> {
        self.enter(None, descriptor)
    }

    fn enter(
        &self,
        reference: Option<&Reference>,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        let index = self.index()?;
        let is_there = |index: &IndexFile| match reference {
            Some(reference) => index
                .position(reference)
                .is_some_and(|at| index.entries[at].named.descriptor.digest == descriptor.digest),
            None => index.holds(&descriptor.digest),
        };
        if is_there(&index) {
            return Ok(());
        }
        let mut named = self.describe(descriptor)?;
        named.reference = reference.cloned();
        // What the index holds already was flushed when it was entered.
        if !index.holds(&descriptor.digest) {
            self.barrier()?;
        }
        let entry = Entry::new(named);
        self.change_index(|index| {
            if is_there(index) {
                return (false, ());
            }
            match reference.and_then(|r| index.position(r)) {
                Some(at) => index.entries[at] = entry,
                None => index.entries.push(entry),
            }
            if reference.is_some() {
                // It has a name now.
                index.entries.retain(|e| {
                    e.written.is_some() || e.named.descriptor.digest != descriptor.digest
                });
            }
            (true, ())
        })
    }

    /// Takes a name away; what it stood for, if there was such a name.
    pub fn untag(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        self.change_index(|index| match index.position(reference) {
            Some(at) => {
                let entry = index.entries.remove(at);
                (true, Some(entry.named.descriptor))
            }
            None => (false, None),
        })
    }

    /// Takes an image away that is kept by its digest, and all its names.
    pub fn forget(&self, digest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.change_index(|index| {
            let is_it = |e: &Entry| e.named.descriptor.digest == *digest;
            let names = index.entries.iter().filter(|e| is_it(e));
            let names: Vec<_> = names.filter_map(|e| e.named.reference.clone()).collect();
            let before = index.entries.len();
            index.entries.retain(|e| !is_it(e));
            (index.entries.len() != before, names)
        })
    }

    /// Takes every entry away that `gone` chooses. `Ok` means: they stay away after a power loss.
    pub(super) fn drop_entries(&self, gone: &dyn Fn(&Named) -> bool) -> Result<(), StoreError> {
        self.change_index(|index| {
            let before = index.entries.len();
            index.entries.retain(|e| !gone(&e.named));
            (index.entries.len() != before, ())
        })
    }

    /// All images of the index, in its order (the order in which they came).
    pub fn names(&self) -> Result<Vec<Named>, StoreError> {
        let index = self.index()?;
        let entries = index.entries.iter();
        entries.map(|entry| self.completed(&entry.named)).collect()
    }

    /// An image of the index with what another tool, that entered it, did not say.
    fn completed(&self, named: &Named) -> Result<Named, StoreError> {
        if named.image_id.is_some() || !named.descriptor.media_type.is_manifest() {
            return Ok(named.clone());
        }
        match self.describe(&named.descriptor) {
            Ok(described) => Ok(Named {
                reference: named.reference.clone(),
                foreign_name: named.foreign_name.clone(),
                ..described
            }),
            Err(StoreError::MissingBlob(_)) => Ok(named.clone()),
            Err(error) => Err(error),
        }
    }

    /// The entries of the image with this name, if they can be had without reading the whole index.
    fn quickly(&self, reference: &Reference) -> Result<Option<Vec<Named>>, StoreError> {
        if reference.digest().is_some() || locked(&self.inner.index).is_some() {
            return Ok(None);
        }
        let path = self.index_path();
        let bytes = std::fs::read(&path).map_err(StoreError::file("read", &path))?;
        let Some(entries) = IndexFile::lines_of(&bytes, reference) else {
            return Ok(None);
        };
        let named = entries.iter().map(|entry| self.completed(&entry.named));
        named.collect::<Result<_, _>>().map(Some)
    }

    /// The image that someone means: a name, or the first digits of an image ID or of a manifest's digest.
    pub fn find(&self, text: &str) -> Result<Image, StoreError> {
        let image_among = |names: &[Named], descriptor: Descriptor| {
            let same = names
                .iter()
                .filter(|n| n.descriptor.digest == descriptor.digest);
            let found: BTreeSet<Reference> =
                same.clone().filter_map(|n| n.reference.clone()).collect();
            Image {
                image_id: same.clone().find_map(|n| n.image_id),
                names: found.into_iter().collect(),
                descriptor,
            }
        };
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let parsed = text.parse::<Reference>();
        if let Ok(reference) = &parsed
            && let Some(named) = self.quickly(reference)?
            && let Some(first) = named
                .iter()
                .find(|n| n.reference.as_ref() == Some(reference))
        {
            return Ok(image_among(&named, first.descriptor.clone()));
        }
        let names = self.names()?;
        let image = |descriptor| image_among(&names, descriptor);
        if let Ok(reference) = &parsed
            && let Some(descriptor) = self.resolve(reference)?
        {
            return Ok(image(descriptor));
        }
        let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(is_hex) {
            return match parsed {
                Err(source) if digits.len() == text.len() => Err(StoreError::Name {
                    text: text.to_owned(),
                    source,
                }),
                _ => Err(StoreError::NoSuchImage(text.to_owned())),
            };
        }
        let fits = |d: &Digest| d.hex().starts_with(digits);
        let found: BTreeMap<Digest, &Named> = names
            .iter()
            .filter(|n| fits(&n.descriptor.digest) || n.image_id.as_ref().is_some_and(fits))
            // Two manifests of one configuration are one image.
            .map(|n| (n.image_id.unwrap_or(n.descriptor.digest), n))
            .collect();
        match found.len() {
            0 => Err(StoreError::NoSuchImage(text.to_owned())),
            1 => Ok(image(
                found[found.keys().next().expect("it has one")]
                    .descriptor
                    .clone(),
            )),
            _ => Err(StoreError::Ambiguous {
                text: text.to_owned(),
                matches: found.keys().map(Digest::to_string).collect(),
            }),
        }
    }

    /// What the index says of an image, from its manifest and configuration. Fails if a blob of it is missing.
    fn describe(&self, descriptor: &Descriptor) -> Result<Named, StoreError> {
        let mut named = Named {
            reference: None,
            foreign_name: None,
            descriptor: descriptor.clone(),
            image_id: None,
            created: None,
            size_bytes: None,
        };
        let annotations = &mut named.descriptor.annotations;
        for own in OWN {
            annotations.remove(own);
        }
        let mut blobs = BTreeMap::new();
        let main = self.measure(descriptor, Need::All, &mut blobs)?;
        named.size_bytes = Some(blobs.values().sum());
        if let Some(config) = main {
            named.image_id = Some(config.digest);
            if let Some(config) = self.read_config(&config)? {
                named.created = config.created.clone();
                if descriptor.media_type.is_manifest() {
                    named
                        .descriptor
                        .platform
                        .get_or_insert_with(|| config.platform());
                }
            }
        }
        Ok(named)
    }

    /// The configuration behind a descriptor; `None` if it is something else (an artifact's).
    pub(super) fn read_config(
        &self,
        descriptor: &Descriptor,
    ) -> Result<Option<ImageConfig>, StoreError> {
        if !descriptor.media_type.is_config() {
            return Ok(None);
        }
        let bytes = self.read_blob(descriptor)?;
        let config = ImageConfig::parse(&bytes).map_err(|source| StoreError::Config {
            digest: descriptor.digest,
            source,
        })?;
        Ok(Some(config))
    }

    /// The document behind a descriptor.
    pub(super) fn read_document(&self, descriptor: &Descriptor) -> Result<Document, StoreError> {
        let bytes = self.read_blob(descriptor)?;
        Document::parse(&bytes).map_err(|source| StoreError::Manifest {
            digest: descriptor.digest,
            source,
        })
    }

    /// Adds up the blobs below a descriptor; gives the configuration of the image for this machine.
    fn measure(
        &self,
        descriptor: &Descriptor,
        need: Need,
        blobs: &mut BTreeMap<Digest, u64>,
    ) -> Result<Option<Descriptor>, StoreError> {
        let document = match self.read_document(descriptor) {
            Err(StoreError::MissingBlob(_)) if need == Need::Present => return Ok(None),
            result => result?,
        };
        // An index that refers to itself cannot exist, short of a broken hash; one met again adds nothing.
        if blobs.insert(descriptor.digest, descriptor.size).is_some() {
            return Ok(None);
        }
        match document {
            Document::Manifest(manifest) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    if self.has_blob(blob) {
                        blobs.insert(blob.digest, blob.size);
                    } else if blob.urls.is_empty() && need == Need::All {
                        return Err(StoreError::MissingBlob(blob.digest));
                    }
                }
                Ok(Some(manifest.config))
            }
            Document::Index(index) => {
                let chosen = select(&index, &Platform::host()).ok();
                let chosen = chosen.map(|s| s.descriptor.digest);
                let mut main = None;
                for child in &index.manifests {
                    if !child.media_type.is_manifest() && !child.media_type.is_index() {
                        continue;
                    }
                    let config = self.measure(child, Need::Present, blobs)?;
                    if Some(child.digest) == chosen {
                        main = config.filter(|c| self.has_blob(c));
                    }
                }
                Ok(main)
            }
        }
    }
}

/// How much of an image must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    All,
    Present,
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::super::testing::{image, name, store};
    use super::*;

    #[test]
    fn tag_resolve_untag() {
        let (dir, store) = store();
        let (a, b) = (image(&store, "a"), image(&store, "b"));
        store.tag(&name("app"), &a).unwrap();
        store.tag(&name("app:2"), &a).unwrap();
        store.tag(&name("app"), &b).unwrap();
        let digest = |r: &str| store.resolve(&name(r)).unwrap().map(|d| d.digest);
        assert_eq!(digest("docker.io/library/app:latest"), Some(b.digest));
        assert_eq!(digest("app:2"), Some(a.digest));
        assert_eq!(digest("app:3"), None);
        assert_eq!(digest(&format!("other@{}", a.digest)), Some(a.digest));

        let names = store.names().unwrap();
        assert_eq!(names.len(), 2);
        assert_eq!(names[0].created.as_deref(), Some("2024-01-02T03:04:05Z"));
        assert!(names[0].descriptor.annotations.is_empty());
        assert!(names[0].size_bytes > Some(b.size));

        // Another process sees the same.
        let other = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(other.names().unwrap(), names);
        assert_eq!(
            other.untag(&name("app:2")).unwrap().map(|d| d.digest),
            Some(a.digest)
        );
        assert_eq!(other.untag(&name("app:2")).unwrap(), None);
        assert_eq!(digest("app:2"), None);
        // Without a name, its content is still there.
        assert_eq!(digest(&format!("other@{}", a.digest)), Some(a.digest));
    }

    #[test]
    fn an_image_that_is_not_whole_gets_no_name() {
        let (_dir, store) = store();
        let image = image(&store, "a");
        std::fs::remove_file(store.blob_path(&Digest::of(b"a"))).unwrap();
        let error = store.tag(&name("app"), &image).unwrap_err();
        assert!(matches!(error, StoreError::MissingBlob(d) if d == Digest::of(b"a")));
        assert_eq!(store.names().unwrap(), []);
    }

    #[test]
    fn kept_by_digest_until_named() {
        let (_dir, store) = store();
        let a = image(&store, "a");
        store.keep(&a).unwrap();
        store.keep(&a).unwrap();
        assert_eq!(store.names().unwrap().len(), 1);
        assert_eq!(store.names().unwrap()[0].reference, None);
        store.tag(&name("app"), &a).unwrap();
        assert_eq!(store.names().unwrap().len(), 1);
        assert_eq!(store.forget(&a.digest).unwrap(), [name("app")]);
        assert_eq!(store.names().unwrap(), []);
    }

    #[test]
    fn a_name_is_found_in_its_line_as_in_the_whole() {
        let (dir, store) = store();
        let (a, b) = (image(&store, "a"), image(&store, "b"));
        for (text, of) in [("app", &a), ("app:10", &b), ("app:1", &a), ("b", &b)] {
            store.tag(&name(text), of).unwrap();
        }
        let again = || Store::open(dir.path(), store.options()).unwrap();
        let path = dir.path().join("index.json");
        let compact = std::fs::read(&path).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&compact).unwrap();
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        for (bytes, quick) in [(compact, true), (pretty, false)] {
            std::fs::write(&path, &bytes).unwrap();
            for text in ["app", "app:1", "app:10", "b"] {
                let lines = IndexFile::lines_of(&bytes, &name(text));
                assert_eq!(lines.is_some(), quick, "{text}");
                let whole = again();
                whole.names().unwrap();
                let found = again().find(text).unwrap();
                assert_eq!(found, whole.find(text).unwrap(), "{text}");
                assert_eq!(found.names.len(), 2, "{text}");
            }
            assert!(IndexFile::lines_of(&bytes, &name("ap")).is_none());
        }
    }

    #[test]
    fn find_table() {
        let (_dir, store) = store();
        let (a, b) = (image(&store, "a"), image(&store, "b"));
        store.tag(&name("app"), &a).unwrap();
        store.tag(&name("app:1"), &a).unwrap();
        store.keep(&b).unwrap();
        let named = store.names().unwrap();
        let id = named[0].image_id.unwrap();
        for text in [
            "app".to_owned(),
            "app:1".to_owned(),
            id.short(),
            id.to_string(),
            a.digest.hex(),
            format!("app@{}", a.digest),
        ] {
            let found = store.find(&text).unwrap();
            assert_eq!(found.descriptor.digest, a.digest, "{text}");
            assert_eq!(found.names, [name("app:1"), name("app")], "{text}");
        }
        assert!(matches!(
            store.find("nothing"),
            Err(StoreError::NoSuchImage(_))
        ));
        assert!(matches!(
            store.find("ffffffffffffffff"),
            Err(StoreError::NoSuchImage(_))
        ));
        assert!(matches!(store.find("A B"), Err(StoreError::Name { .. })));
        // Some digit begins two of four digests, unless these four are unlucky.
        let mut seen = BTreeMap::new();
        let identities = named
            .iter()
            .flat_map(|n| n.image_id.into_iter().chain([n.descriptor.digest]));
        for identity in identities {
            seen.entry(identity.hex()[..1].to_owned())
                .or_insert_with(BTreeSet::new)
                .insert(identity);
        }
        for (digit, identities) in seen {
            let images: BTreeSet<_> = identities
                .iter()
                .filter_map(|i| {
                    named
                        .iter()
                        .find(|n| n.descriptor.digest == *i || n.image_id == Some(*i))
                })
                .map(|n| n.descriptor.digest)
                .collect();
            let result = store.find(&digit);
            assert_eq!(
                matches!(result, Err(StoreError::Ambiguous { .. })),
                images.len() > 1
            );
        }
    }

    #[test]
    fn what_other_tools_wrote_is_kept() {
        let (dir, store) = store();
        let a = image(&store, "a");
        let foreign = format!(
            r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{0}","size":{1},
              "annotations":{{"org.opencontainers.image.ref.name":"short"}},"x-new":{{"deep":[1]}}}},
            {{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{0}","size":{1},
              "annotations":{{"org.opencontainers.image.ref.name":"NOT a name"}}}}],
            "annotations":{{"k":"v"}}, "x-top":1.50}}"#,
            a.digest, a.size
        );
        std::fs::write(dir.path().join("index.json"), foreign).unwrap();
        assert_eq!(
            store.resolve(&name("short")).unwrap().map(|d| d.digest),
            Some(a.digest)
        );
        let names = store.names().unwrap();
        assert!(names[0].image_id.is_some() && names[0].size_bytes.is_some());
        store.tag(&name("mine"), &a).unwrap();
        store.untag(&name("mine")).unwrap();
        let text = std::fs::read_to_string(dir.path().join("index.json")).unwrap();
        for kept in [
            r#""x-new":{"deep":[1]}"#,
            "NOT a name",
            "1.50",
            r#"{"k":"v"}"#,
        ] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        store.untag(&name("short")).unwrap();
        assert_eq!(store.names().unwrap().len(), 1);
    }

    #[test]
    fn threads_lose_no_name() {
        let (dir, _store) = store();
        std::thread::scope(|scope| {
            for t in 0..8 {
                let root = dir.path();
                scope.spawn(move || {
                    let store = Store::open(root, StoreOptions::default()).unwrap();
                    for i in 0..10 {
                        let image = image(&store, &format!("{t}-{i}"));
                        store.tag(&name(&format!("n{t}:{i}")), &image).unwrap();
                    }
                });
            }
        });
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.names().unwrap().len(), 80);
    }
}
