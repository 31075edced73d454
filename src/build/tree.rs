//! Files to copy or to mount: a folder of the host, or the stacked layers of a vertex.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::layer::{Entry, EntryRef, Found, Kind, KindRef, Source, Spot, Stack, Toc};
use crate::oci::Digest;
use crate::store::{Store, StoreError};

use super::BuildError;
use super::copy::CopyError;
use super::draft;
use super::folder::Folder;

/// A bound for what is read into memory from a tree (`/etc/passwd`).
pub(super) const SMALL_FILE_BYTES: u64 = 4 << 20;

/// Entries, and where their bytes are.
pub(super) struct Tree {
    stack: Stack,
    files: Files,
}

enum Files {
    /// A folder: one table, contents hashed on demand.
    Folder(Arc<Folder>),
    /// A descriptor of each layer's directory, as the stack's tables; empty when nobody reads contents.
    Layers(Vec<Arc<OwnedFd>>),
}

/// Names of one file share this.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum LinkId {
    Inode(u64, u64),
    Layer(usize, Vec<u8>),
}

impl Tree {
    pub(super) fn of_folder(folder: Arc<Folder>, toc: Toc) -> Tree {
        Tree {
            stack: Stack::new(vec![Arc::new(toc)]),
            files: Files::Folder(folder),
        }
    }

    pub(super) fn of_layers(stack: Stack, roots: Vec<Arc<OwnedFd>>) -> Tree {
        Tree {
            stack,
            files: Files::Layers(roots),
        }
    }

    pub(super) fn empty() -> Tree {
        Tree {
            stack: Stack::new(Vec::new()),
            files: Files::Layers(Vec::new()),
        }
    }

    /// Whether contents can be read: false for layers of which only the tables were opened.
    pub(super) fn reads_contents(&self) -> bool {
        match &self.files {
            Files::Folder(_) => true,
            Files::Layers(roots) => roots.len() == self.stack.layers().len(),
        }
    }

    pub(super) fn folder(&self) -> Option<&Arc<Folder>> {
        match &self.files {
            Files::Folder(folder) => Some(folder),
            Files::Layers(_) => None,
        }
    }

    /// Keeps what a folder's contents were hashed to for the next build.
    pub(super) fn save_hashes(&self, store: &Store) -> Result<(), StoreError> {
        match (&self.files, self.stack.layers()) {
            (Files::Folder(folder), [toc]) => folder.save_hashes(toc, store),
            _ => Ok(()),
        }
    }

    /// What is at `path`, no link followed. The root is always there.
    pub(super) fn lookup(&self, path: &[u8]) -> Option<Found> {
        match self.stack.lookup(path) {
            None if path.is_empty() => {
                let meta = crate::layer::Meta {
                    mode: 0o755,
                    ..Default::default()
                };
                let kind = Kind::Directory {
                    opaque: false,
                    implied: true,
                };
                Some(Found {
                    entry: Entry {
                        path: Vec::new(),
                        meta,
                        kind,
                    },
                    layer: 0,
                })
            }
            found => found,
        }
    }

    /// The members of a directory, sorted.
    pub(super) fn children(&self, dir: &[u8]) -> Vec<Found> {
        self.stack.children(dir)
    }

    /// `path` and all below it, in order.
    pub(super) fn walk(&self, path: &[u8]) -> impl Iterator<Item = Found> + '_ {
        self.stack.walk(path)
    }

    /// What is at `path`, as [`Tree::lookup`] says; a root that no layer speaks of has no spot.
    pub(super) fn spot(&self, path: &[u8]) -> Option<Spot> {
        self.stack.spot(path)
    }

    /// All below `path`, in order.
    pub(super) fn spots_below(&self, path: &[u8]) -> Vec<Spot> {
        self.stack.spots_below(path)
    }

    /// The entry at a spot.
    pub(super) fn at(&self, spot: Spot) -> EntryRef<'_> {
        self.stack.entry_at(spot)
    }

    /// The same, to keep.
    pub(super) fn found(&self, spot: Spot) -> Found {
        Found {
            entry: self.at(spot).to_entry(),
            layer: spot.layer(),
        }
    }

    /// `path` with all links followed inside the tree.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        draft::resolve(path, &|at| {
            self.stack
                .lookup(at)
                .and_then(|found| match found.entry.kind {
                    Kind::Symlink { target } => Some(target),
                    _ => None,
                })
        })
    }

    /// The first name of the file that a hard link of a layer stands for; anything else is itself.
    pub(super) fn follow_hard_link(&self, found: &Found) -> Option<Found> {
        let Kind::HardLink { target } = &found.entry.kind else {
            return Some(found.clone());
        };
        let mut layer = found.layer;
        let mut target = target.clone();
        // A chain of links is no longer than the layer; each step is to another path or a layer below.
        for _ in 0..MAX_CHAIN {
            let entry = match self.stack.layers()[layer].get(&target) {
                Some(entry) => entry,
                None if layer > 0 => {
                    layer -= 1;
                    continue;
                }
                None => return None,
            };
            match entry.kind {
                Kind::HardLink { target: next } => target = next,
                _ => return Some(Found { entry, layer }),
            }
        }
        None
    }

    /// What all names of a file have in common; `None` for one that has no others that are known of.
    pub(super) fn link_id(&self, spot: Spot) -> Option<LinkId> {
        match &self.files {
            Files::Folder(folder) => folder
                .link(spot.at())
                .map(|(dev, ino)| LinkId::Inode(dev, ino)),
            Files::Layers(_) => {
                let first = self.follow_hard_link(&self.found(spot))?;
                Some(LinkId::Layer(first.layer, first.entry.path))
            }
        }
    }

    /// Where a regular file's bytes are, and what vouches for them if they were hashed.
    pub(super) fn source(&self, found: &Found) -> Source {
        let path = &found.entry.path;
        match &self.files {
            Files::Folder(folder) => {
                let place = self.spot(path).map(|spot| spot.at());
                let size_bytes = match found.entry.kind {
                    Kind::File { size_bytes, .. } => size_bytes,
                    _ => 0,
                };
                folder.source(place, path, size_bytes)
            }
            Files::Layers(roots) => source_in(roots, found.layer, path),
        }
    }

    /// The same for the file at a spot.
    pub(super) fn source_at(&self, spot: Spot) -> Source {
        let EntryRef { path, kind, .. } = self.at(spot);
        let size_bytes = match kind {
            KindRef::File { size_bytes, .. } => size_bytes,
            _ => 0,
        };
        match &self.files {
            Files::Folder(folder) => folder.source(Some(spot.at()), path, size_bytes),
            Files::Layers(roots) => source_in(roots, spot.layer(), path),
        }
    }

    /// What a regular file's content hashes to.
    pub(super) fn digest(&self, found: &Found) -> Result<Digest, BuildError> {
        match found.entry.kind {
            Kind::File {
                content: Some(digest),
                ..
            } => Ok(digest),
            _ => {
                let at = self.spot(&found.entry.path);
                at.map_or_else(
                    || self.no_digest(&found.entry.path),
                    |at| self.digest_at(at),
                )
            }
        }
    }

    /// The same of the file at a spot.
    pub(super) fn digest_at(&self, spot: Spot) -> Result<Digest, BuildError> {
        let entry = self.at(spot);
        match (&self.files, entry.kind) {
            (
                _,
                KindRef::File {
                    content: Some(digest),
                    ..
                },
            ) => Ok(digest),
            (Files::Folder(folder), _) => folder.digest(spot.at(), entry.path),
            (Files::Layers(_), _) => self.no_digest(entry.path),
        }
    }

    fn no_digest(&self, path: &[u8]) -> Result<Digest, BuildError> {
        Err(BuildError::NoDigest {
            path: draft::display(path),
        })
    }

    /// A small file, links followed; `None` if there is none.
    pub(super) fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>, BuildError> {
        let Ok(path) = self.resolve(path) else {
            return Ok(None);
        };
        let Some(found) = self
            .lookup(&path)
            .as_ref()
            .and_then(|found| self.follow_hard_link(found))
        else {
            return Ok(None);
        };
        let Source::File { root, path, .. } = self.source(&found) else {
            return Ok(None);
        };
        let failed = |source: std::io::Error| BuildError::ReadRootfs {
            path: draft::display(&path),
            source,
        };
        if !matches!(found.entry.kind, Kind::File { .. }) {
            return Ok(None);
        }
        let file = crate::layer::open_file_read(&root, &path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(SMALL_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(Some(bytes))
    }
}

// A file of a layer. Nothing vouches for it: what a power loss left of an unpacked layer is found by hashing it.
fn source_in(roots: &[Arc<OwnedFd>], layer: usize, path: &[u8]) -> Source {
    let root = roots.get(layer).cloned();
    root.map_or(Source::None, |root| Source::File {
        root,
        path: path.to_vec(),
        stamp: None,
    })
}

/// The longest chain of hard links that is followed: far above what any archiver writes.
const MAX_CHAIN: usize = 1 << 16;
