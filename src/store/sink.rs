//! The store as a medium that images are copied from and to.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::{Store, StoreError, locked};
use crate::image::{Claim, ImageError, Put, Sink, Source, VerifyReader};
use crate::oci::{Descriptor, Digest, Document, Reference};

/// Writes an image into the store.
#[derive(Debug)]
pub struct StoreSink {
    store: Store,
    names: Vec<Reference>,
    /// Whether layers are unpacked while they come.
    unpacks: bool,
    /// Where the image comes from, if that is a registry: later pushes there can mount its blobs.
    origin: Mutex<Option<String>>,
}

/// Reads an image of the store.
#[derive(Debug)]
pub struct StoreSource {
    store: Store,
    name: String,
    root: Descriptor,
    origin: Option<Reference>,
}

impl Store {
    /// A sink for an image that will have these names; without any, it is kept by its digest.
    pub fn sink(&self, names: Vec<Reference>) -> StoreSink {
        StoreSink {
            store: self.clone(),
            names,
            unpacks: false,
            origin: Mutex::new(None),
        }
    }

    /// A source for the image at `root`; `name` is what messages call it.
    pub fn source(&self, name: &str, root: Descriptor) -> StoreSource {
        StoreSource {
            store: self.clone(),
            name: name.to_owned(),
            root,
            origin: None,
        }
    }
}

fn medium(action: &'static str, what: impl ToString) -> impl FnOnce(StoreError) -> ImageError {
    move |error| match error {
        StoreError::Verify(error) => ImageError::Verify(error),
        StoreError::MissingBlob(digest) => ImageError::NotFound {
            what: digest.to_string(),
            medium: "the store".to_owned(),
        },
        error => ImageError::Medium {
            action,
            what: what.to_string(),
            source: Box::new(error),
        },
    }
}

fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

impl StoreSink {
    /// Unpacks layers while they come. A blob that is there already stays as it is.
    pub fn unpacking(self) -> StoreSink {
        StoreSink {
            unpacks: true,
            ..self
        }
    }
}

impl Sink for StoreSink {
    fn name(&self) -> String {
        match self.names.first() {
            Some(name) => name.familiar(),
            None => "the store".to_owned(),
        }
    }

    fn reuse(
        &self,
        descriptor: &Descriptor,
        origin: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError> {
        if let Some(origin) = origin {
            let origin = repository(origin);
            self.store
                .add_origin(&descriptor.digest, &origin)
                .map_err(medium("write", descriptor.digest))?;
            *locked(&self.origin) = Some(origin);
        }
        Ok(self.store.has_blob(descriptor).then_some(Put::Present))
    }

    fn claim(
        &self,
        descriptor: &Descriptor,
        stop: &AtomicBool,
        on_wait: &dyn Fn(),
    ) -> Result<Option<Claim>, ImageError> {
        let lock = self.store.blob_lock(&descriptor.digest, stop, on_wait);
        let lock = lock.map_err(medium("write", descriptor.digest))?;
        Ok(Some(Box::new(lock)))
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        let stream = open()?;
        let stored = if self.unpacks && descriptor.media_type.is_layer() {
            self.store.put_layer(descriptor, stream)
        } else {
            self.store.put_stream(descriptor, stream)
        };
        stored.map_err(medium("write", descriptor.digest))?;
        Ok(())
    }

    fn verifies(&self) -> bool {
        true
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        self.store
            .put_stream(descriptor, bytes)
            .map_err(medium("write", descriptor.digest))?;
        Ok(())
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        if self.names.is_empty() {
            return self.store.keep(root).map_err(medium("keep", root.digest));
        }
        self.names
            .iter()
            .try_for_each(|name| self.store.tag(name, root).map_err(medium("name", name)))
    }

    fn current(&self) -> Result<Option<Digest>, ImageError> {
        let Some(name) = self.names.first() else {
            return Ok(None);
        };
        let found = self.store.resolve(name).map_err(medium("read", name))?;
        Ok(found.map(|d| d.digest))
    }
}

impl StoreSource {
    /// Lets a push to registry `host` mount blobs: finds the repository there that has most of the image's layers.
    pub fn with_origin_on(mut self, host: &str) -> Result<StoreSource, StoreError> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut pending = vec![self.root.clone()];
        while let Some(descriptor) = pending.pop() {
            if !self.store.has_blob(&descriptor) {
                continue;
            }
            match self.store.read_document(&descriptor)? {
                Document::Index(index) => pending.extend(
                    index
                        .manifests
                        .into_iter()
                        .filter(|d| d.media_type.is_manifest() || d.media_type.is_index()),
                ),
                Document::Manifest(manifest) => {
                    for layer in &manifest.layers {
                        for origin in self.store.origins(&layer.digest)? {
                            if origin.split('/').next() == Some(host) {
                                *counts.entry(origin).or_default() += 1;
                            }
                        }
                    }
                }
            }
        }
        let best = counts.into_iter().max_by_key(|(_, count)| *count);
        self.origin = best.and_then(|(origin, _)| origin.parse().ok());
        Ok(self)
    }
}

impl Source for StoreSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn root(&self) -> Result<Descriptor, ImageError> {
        Ok(self.root.clone())
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        self.store
            .read_blob(descriptor)
            .map_err(medium("read", descriptor.digest))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let file = self
            .store
            .open_blob(descriptor)
            .map_err(medium("read", descriptor.digest))?;
        Ok(Box::new(VerifyReader::new(file, descriptor)))
    }

    fn unverified_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let file = self
            .store
            .open_blob(descriptor)
            .map_err(medium("read", descriptor.digest))?;
        Ok(Box::new(file))
    }

    fn origin(&self) -> Option<&Reference> {
        self.origin.as_ref()
    }
}
