//! The manifests and indexes of an image, read from a source.

use std::collections::HashSet;

use super::copy::CopyError;
use super::{ImageError, Source, select};
use crate::oci::{Descriptor, Digest, Document, Manifest, MediaType, Platform};

/// The largest manifest or index, bytes: what registries accept (distribution-spec asks for 4 MiB at least).
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// How deep indexes may lie in indexes; two is the deepest seen in the wild (an index of an index by platform).
const MAX_DEPTH: usize = 8;

/// How many bytes of manifests one image may have, so that no index can fill the memory.
const MAX_TREE_BYTES: u64 = 32 << 20;

/// Which images of an index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Platforms {
    /// The index as it is, with everything in it.
    #[default]
    All,
    /// The one that serves this platform best.
    One(Platform),
}

/// The manifest that an image's root leads to for one platform.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
    /// Whether it was chosen as just the platform asked for; `None` where there was no choice: the root is the manifest.
    pub exact: Option<bool>,
}

/// Goes from `root` to the manifest for `platform`, through indexes where there are any.
pub fn resolve(
    source: &dyn Source,
    root: &Descriptor,
    platform: &Platform,
) -> Result<Resolved, CopyError> {
    let mut descriptor = root.clone();
    let mut exact = None;
    for _ in 0..MAX_DEPTH {
        let (bytes, document) = read_document(source, &descriptor)?;
        match document {
            Document::Manifest(manifest) => {
                return Ok(Resolved {
                    descriptor,
                    bytes,
                    manifest,
                    exact,
                });
            }
            Document::Index(index) => {
                let selection = select(&index, platform).map_err(|error| CopyError::Platform {
                    image: source.name(),
                    source: error,
                })?;
                exact = Some(selection.exact);
                descriptor = selection.descriptor.clone();
            }
        }
    }
    Err(CopyError::TooDeep {
        image: source.name(),
        digest: descriptor.digest,
    })
}

/// One manifest or index of an image.
pub(super) struct Node {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
}

/// All there is to copy of an image.
pub(super) struct Tree {
    pub(super) root: Descriptor,
    /// Children before parents; the root is the last.
    pub(super) documents: Vec<Node>,
    /// Each digest once, in the order of the walk.
    pub(super) blobs: Vec<Descriptor>,
}

impl Tree {
    /// Reads the manifests of an image. Nothing is written before all of them are known.
    pub(super) fn read(source: &dyn Source, platforms: &Platforms) -> Result<Tree, CopyError> {
        let read = |error| CopyError::Read {
            image: source.name(),
            source: error,
        };
        let mut root = source.root().map_err(read)?;
        if let Platforms::One(platform) = platforms {
            root = resolve(source, &root, platform)?.descriptor;
        }
        let mut walk = Walk {
            source,
            seen: HashSet::new(),
            bytes: 0,
            documents: Vec::new(),
            blobs: Vec::new(),
        };
        walk.visit(&root, 0)?;
        Ok(Tree {
            root,
            documents: walk.documents,
            blobs: walk.blobs,
        })
    }
}

struct Walk<'a> {
    source: &'a dyn Source,
    seen: HashSet<Digest>,
    bytes: u64,
    documents: Vec<Node>,
    blobs: Vec<Descriptor>,
}

impl Walk<'_> {
    fn visit(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(), CopyError> {
        if !self.seen.insert(descriptor.digest) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(CopyError::TooDeep {
                image: self.source.name(),
                digest: descriptor.digest,
            });
        }
        self.bytes = self.bytes.saturating_add(descriptor.size);
        if self.bytes > MAX_TREE_BYTES {
            return Err(CopyError::TooMuch {
                image: self.source.name(),
                limit_bytes: MAX_TREE_BYTES,
            });
        }
        let (bytes, document) = read_document(self.source, descriptor)?;
        match document {
            Document::Manifest(manifest) => {
                for blob in manifest.layers.into_iter().chain([manifest.config]) {
                    self.blob(blob);
                }
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    // Build caches list layers in an index; what is no manifest is copied as it is.
                    match &child.media_type {
                        MediaType::Other(other) if !other.is_empty() => self.blob(child.clone()),
                        m if m.is_manifest() || m.is_index() => self.visit(child, depth + 1)?,
                        MediaType::Other(_) => self.visit(child, depth + 1)?,
                        _ => self.blob(child.clone()),
                    }
                }
            }
        }
        self.documents.push(Node {
            descriptor: descriptor.clone(),
            bytes,
        });
        Ok(())
    }

    fn blob(&mut self, descriptor: Descriptor) {
        if self.seen.insert(descriptor.digest) {
            self.blobs.push(descriptor);
        }
    }
}

/// Reads and parses a manifest or index; its size is checked before a byte is asked for.
fn read_document(
    source: &dyn Source,
    descriptor: &Descriptor,
) -> Result<(Vec<u8>, Document), CopyError> {
    if descriptor.size > MAX_MANIFEST_BYTES {
        return Err(CopyError::TooLarge {
            image: source.name(),
            digest: descriptor.digest,
            size_bytes: descriptor.size,
            limit_bytes: MAX_MANIFEST_BYTES,
        });
    }
    let read = |error| CopyError::Read {
        image: source.name(),
        source: error,
    };
    let bytes = source.manifest(descriptor).map_err(read)?;
    let document = Document::parse(&bytes).map_err(|error| {
        read(ImageError::Document {
            what: format!("manifest {}", descriptor.digest),
            source: error,
        })
    })?;
    Ok((bytes, document))
}
