//! An image in memory, for tests: a source and a sink without a medium's troubles.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::Mutex;

use super::{ImageError, Put, Sink, Source, VerifyReader, read_verified};
use crate::oci::{
    Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, MediaType, Platform, Reference,
    to_pretty_json,
};

#[derive(Default, PartialEq, Debug, Clone)]
struct Content {
    blobs: BTreeMap<Digest, Vec<u8>>,
    manifests: BTreeMap<Digest, Vec<u8>>,
    root: Option<Descriptor>,
}

/// An image in memory.
#[derive(Default, Debug)]
pub(crate) struct Memory(Mutex<Content>);

impl PartialEq for Memory {
    fn eq(&self, other: &Memory) -> bool {
        let (one, two) = (
            self.0.lock().unwrap().clone(),
            other.0.lock().unwrap().clone(),
        );
        one.blobs == two.blobs
            && one.manifests == two.manifests
            && one.root.map(|r| r.digest) == two.root.map(|r| r.digest)
    }
}

impl Memory {
    pub(crate) fn blob_count(&self) -> usize {
        self.0.lock().unwrap().blobs.len()
    }

    pub(crate) fn manifest_count(&self) -> usize {
        self.0.lock().unwrap().manifests.len()
    }

    pub(crate) fn named(&self) -> Option<Digest> {
        self.0.lock().unwrap().root.as_ref().map(|r| r.digest)
    }

    pub(crate) fn set_root(&self, root: Descriptor) {
        self.0.lock().unwrap().root = Some(root);
    }

    pub(crate) fn corrupt(&self, digest: &Digest) {
        self.0.lock().unwrap().blobs.get_mut(digest).unwrap()[0] ^= 1;
    }

    pub(crate) fn add_blob(&self, bytes: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .blobs
            .insert(Digest::of(bytes), bytes.to_owned());
    }

    pub(crate) fn add_manifest(&self, media_type: MediaType, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut content = self.0.lock().unwrap();
        content.manifests.insert(descriptor.digest, bytes);
        content.root = Some(descriptor.clone());
        descriptor
    }
}

fn missing(what: &Digest) -> ImageError {
    ImageError::NotFound {
        what: what.to_string(),
        medium: "memory".to_owned(),
    }
}

impl Source for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn root(&self) -> Result<Descriptor, ImageError> {
        let content = self.0.lock().unwrap();
        content
            .root
            .clone()
            .ok_or_else(|| missing(&Digest::of(b"")))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let content = self.0.lock().unwrap();
        let bytes = content.manifests.get(&descriptor.digest);
        let bytes = bytes.ok_or_else(|| missing(&descriptor.digest))?;
        Ok(read_verified(bytes.as_slice(), descriptor).unwrap())
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let content = self.0.lock().unwrap();
        let bytes = content.blobs.get(&descriptor.digest);
        let bytes = bytes.ok_or_else(|| missing(&descriptor.digest))?.clone();
        Ok(Box::new(VerifyReader::new(Cursor::new(bytes), descriptor)))
    }
}

impl Sink for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn reuse(
        &self,
        descriptor: &Descriptor,
        _: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError> {
        let content = self.0.lock().unwrap();
        Ok(content
            .blobs
            .contains_key(&descriptor.digest)
            .then_some(Put::Present))
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        let mut bytes = Vec::new();
        let read = open()?.read_to_end(&mut bytes);
        read.map_err(|e| ImageError::from_io("read", "blob", e))?;
        self.0
            .lock()
            .unwrap()
            .blobs
            .insert(descriptor.digest, bytes);
        Ok(())
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        self.0
            .lock()
            .unwrap()
            .manifests
            .insert(descriptor.digest, bytes.to_owned());
        Ok(())
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        self.set_root(root.clone());
        Ok(())
    }
}

/// Adds an image of uncompressed layers; its root becomes the memory's.
fn add(memory: &Memory, arch: &str, layers: &[&[u8]]) -> Descriptor {
    let mut config = ImageConfig::scratch(&Platform::new("linux", arch, None));
    config.rootfs.diff_ids = layers.iter().map(|l| DiffId(Digest::of(l))).collect();
    layers.iter().for_each(|l| memory.add_blob(l));
    let descriptors = layers
        .iter()
        .map(|l| Descriptor::of(MediaType::OciLayer, l));
    add_manifest(memory, &config.to_bytes(), descriptors.collect())
}

fn add_manifest(memory: &Memory, config: &[u8], layers: Vec<Descriptor>) -> Descriptor {
    memory.add_blob(config);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: None,
        config: Descriptor::of(MediaType::OciConfig, config),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    memory.add_manifest(MediaType::OciManifest, to_pretty_json(&manifest))
}

fn add_index(memory: &Memory, manifests: Vec<Descriptor>) -> Descriptor {
    let index = Index {
        manifests,
        ..super::name::empty_index()
    };
    memory.add_manifest(MediaType::OciIndex, to_pretty_json(&index))
}

/// An image for linux/amd64 with uncompressed layers.
pub(crate) fn image(layers: &[&[u8]]) -> Memory {
    let memory = Memory::default();
    add(&memory, "amd64", layers);
    memory
}

/// A tar with one file.
pub(crate) fn tar_layer(path: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content).unwrap();
    builder.into_inner().unwrap()
}

/// An image that tools can unpack: one gzip layer with the file `hello`.
pub(crate) fn gzip_image() -> Memory {
    use std::io::Write as _;
    let memory = Memory::default();
    let layer = tar_layer("hello", b"hello\n");
    let mut config = ImageConfig::scratch(&Platform::host());
    config.rootfs.diff_ids = vec![DiffId(Digest::of(&layer))];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&layer).unwrap();
    let blob = gzip.finish().unwrap();
    memory.add_blob(&blob);
    let descriptor = Descriptor::of(MediaType::OciLayerGzip, &blob);
    add_manifest(&memory, &config.to_bytes(), vec![descriptor]);
    memory
}

/// An image with just these layers and a configuration of nothing in particular; their blobs are not there.
pub(crate) fn image_of(layers: Vec<Descriptor>) -> Memory {
    let memory = Memory::default();
    add_manifest(&memory, b"{\"a\":1}", layers);
    memory
}

/// An index for amd64 and arm64 with a shared layer and an attestation, in another index's place for arm64.
pub(crate) fn index_image() -> Memory {
    let memory = Memory::default();
    let on = |arch: &str, descriptor: Descriptor| Descriptor {
        platform: Some(Platform::new("linux", arch, None)),
        ..descriptor
    };
    let amd64 = on("amd64", add(&memory, "amd64", &[b"shared", b"amd64 only"]));
    let arm64 = add(&memory, "arm64", &[b"shared", b"arm64 only"]);
    let nested = on("arm64", add_index(&memory, vec![on("arm64", arm64)]));
    let mut attestation = add_manifest(&memory, b"{}", Vec::new());
    attestation.platform = Some(Platform {
        os: "unknown".to_owned(),
        ..Platform::new("unknown", "unknown", None)
    });
    attestation.annotations.insert(
        "vnd.docker.reference.type".to_owned(),
        "attestation-manifest".to_owned(),
    );
    add_index(&memory, vec![amd64, nested, attestation]);
    memory
}

/// An image in `depth` indexes.
pub(crate) fn nested(depth: usize) -> Memory {
    let memory = image(&[b"deep"]);
    for _ in 0..depth {
        let inner = memory.root().unwrap();
        add_index(&memory, vec![inner]);
    }
    memory
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
