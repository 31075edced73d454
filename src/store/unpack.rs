//! Layers from their blobs.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::DiffIdError;
use super::remove::remove_tree;
use super::{Blob, Layer, LayerId, Store, StoreError, locked};
use crate::image::{VerifyError, VerifyReader};
use crate::layer::{
    self, Below, Devices, Ownership, Root, Stack, Toc, TreeOptions, UnpackOptions, Unpacked,
    Whiteouts,
};
use crate::oci::{Algorithm, ChainId, Descriptor, DiffId};

/// The most one layer may unpack to, holes of sparse files included: more than any real one, less than what a few kilobytes of
/// a hostile one could ask for.
const MAX_UNPACKED_BYTES: u64 = 1 << 40;

/// A layer of a stack: its blob, and what it is unpacked as; without a blob it is there unpacked.
pub type StackLayer = (Option<Descriptor>, DiffId);

/// Who hears how much of a blob was read: called with the bytes since the last call, from several threads.
pub type OnBytes<'a> = &'a (dyn Fn(u64) + Sync);

/// Counts what goes through.
struct Counted<'a, R> {
    inner: R,
    on_bytes: OnBytes<'a>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        (self.on_bytes)(n as u64);
        Ok(n)
    }
}

/// Whether the bytes that were unpacked are the described ones.
fn verify(descriptor: &Descriptor, unpacked: &Unpacked) -> Result<(), StoreError> {
    if unpacked.size_bytes != descriptor.size {
        return Err(VerifyError::Size {
            digest: descriptor.digest,
            expected: descriptor.size,
            actual: unpacked.size_bytes,
        }
        .into());
    }
    // A digest of another algorithm was verified when the blob was stored; the diffID holds in any case.
    let comparable = unpacked.digest.algorithm() == descriptor.digest.algorithm();
    if comparable && unpacked.digest != descriptor.digest {
        return Err(VerifyError::Digest {
            expected: descriptor.digest,
            actual: unpacked.digest,
        }
        .into());
    }
    Ok(())
}

/// A stream that is written to a file as it is read.
struct Kept<'a, R> {
    inner: R,
    file: &'a File,
    failed: Option<Side>,
}

/// What failed of a [`Kept`].
enum Side {
    Read(io::Error),
    Write(io::Error),
}

impl<R: Read> Read for Kept<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // The error itself is for the caller of the unpacking; who reads is told no more than that there is one.
        let mut failed = |side: fn(io::Error) -> Side, error: io::Error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(side(error));
            }
            io::Error::from(kind)
        };
        let count = self.inner.read(buf).map_err(|e| failed(Side::Read, e))?;
        let written = self.file.write_all(&buf[..count]);
        written.map_err(|e| failed(Side::Write, e))?;
        Ok(count)
    }
}

/// What came of unpacking a layer without those below it.
enum Alone {
    Done(Arc<Layer>),
    Leans,
}

impl Store {
    /// The unpacked layers of an image given bottom first, those that are missing unpacked from their blobs, several at a time.
    /// `Ok` means: each has its diffID.
    pub fn unpack_image(
        &self,
        layers: &[(Descriptor, DiffId)],
        on_bytes: OnBytes<'_>,
    ) -> Result<Vec<Arc<Layer>>, StoreError> {
        let layers = layers.iter().cloned();
        let layers: Vec<_> = layers.map(|(blob, id)| (Some(blob), id)).collect();
        self.unpack_stack(&layers, on_bytes)
    }

    /// The same of a stack of which some layers may have no blob.
    pub fn unpack_stack(
        &self,
        layers: &[StackLayer],
        on_bytes: OnBytes<'_>,
    ) -> Result<Vec<Arc<Layer>>, StoreError> {
        let mut chains = Vec::with_capacity(layers.len());
        let mut below = None;
        for (_, diff_id) in layers {
            chains.push(below);
            below = Some(below.map_or(ChainId(diff_id.0), |b: ChainId| b.push(*diff_id)));
        }
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        results
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .resize_with(layers.len(), || None);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((descriptor, diff_id)) = layers.get(at) else {
                    return;
                };
                let result = match descriptor {
                    Some(blob) => self.unpack_alone(blob, diff_id, chains[at], on_bytes),
                    None => self.unpacked(diff_id, chains[at]).map(Alone::Done),
                };
                if result.is_err() {
                    // Nobody starts another.
                    next.store(layers.len(), Ordering::Relaxed);
                }
                locked(&results)[at] = Some(result);
            }
        };
        std::thread::scope(|scope| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            for _ in 1..cores.min(layers.len()) {
                scope.spawn(work);
            }
            work();
        });
        let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
        if let Some(at) = results.iter().position(|r| matches!(r, Some(Err(_)))) {
            let Some(Err(error)) = results.swap_remove(at) else {
                unreachable!("the position was found by this pattern");
            };
            return Err(error);
        }
        let mut done: Vec<Arc<Layer>> = Vec::with_capacity(layers.len());
        for (at, (result, (descriptor, diff_id))) in results.into_iter().zip(layers).enumerate() {
            let layer = match (result, descriptor) {
                (Some(Ok(Alone::Done(layer))), _) => layer,
                (_, None) => self.unpacked(diff_id, chains[at])?,
                // Those below it are there now.
                (_, Some(blob)) => self.unpack_on(blob, diff_id, chains[at], &done, on_bytes)?,
            };
            done.push(layer);
        }
        Ok(done)
    }

    /// The unpacked layer `diff_id` on top of `below` (bottom first, unpacked; their chainID is `parent_chain`), unpacked from
    /// its blob if it is not there. One process at a time unpacks a layer; the others wait and find it.
    pub fn unpack_layer(
        &self,
        descriptor: &Descriptor,
        diff_id: &DiffId,
        parent_chain: Option<ChainId>,
        below: &[Arc<Layer>],
        on_bytes: OnBytes<'_>,
    ) -> Result<Arc<Layer>, StoreError> {
        match self.unpack_alone(descriptor, diff_id, parent_chain, on_bytes)? {
            Alone::Done(layer) => Ok(layer),
            Alone::Leans => self.unpack_on(descriptor, diff_id, parent_chain, below, on_bytes),
        }
    }

    /// Stores the blob of a layer from a stream, and unpacks it while it comes. `Ok` means: the blob is there, every byte
    /// verified, and the layer is unpacked unless it leans on those below it.
    pub fn put_layer(
        &self,
        descriptor: &Descriptor,
        stream: impl Read + Send,
    ) -> Result<Blob, StoreError> {
        if descriptor.digest.algorithm() != Algorithm::Sha256 {
            return self.put_stream(descriptor, stream);
        }
        let ingest = self.ingest_prehashed()?;
        let work = self.scratch()?;
        let target = work.directory("layer")?;
        let fs = target.join("fs");
        let mut input = Kept {
            // One byte more than expected shows that there is more, and no stream can fill the disk.
            inner: stream.take(descriptor.size.saturating_add(1)),
            file: ingest.file(),
            failed: None,
        };
        let result = self.unpack_new(&fs, &mut input, None, descriptor);
        let result = match (result, input.failed.take()) {
            (_, Some(side)) => Err(self.side(side, descriptor)),
            (Ok(unpacked), None) => verify(descriptor, &unpacked).map(|()| Some(unpacked)),
            // It leans on those below it, or its bytes are wrong: the digest says which.
            (Err(StoreError::Unpack { .. }), None) => {
                self.keep_rest(&mut input, descriptor).map(|()| None)
            }
            (Err(error), None) => Err(error),
        };
        let result = result.and_then(|unpacked| {
            let blob = ingest.commit_as(descriptor.digest, descriptor.size)?;
            if let Some(unpacked) = unpacked {
                let (diff_id, toc) = (unpacked.diff_id, Arc::new(unpacked.toc));
                let _lock = self.layer_lock(&diff_id)?;
                if toc.leans_on_lower() {
                    self.publish(LayerId::Diff(diff_id), None, &toc)?;
                } else {
                    self.publish_as(LayerId::Diff(diff_id), &diff_id, &fs, toc)?;
                }
            }
            Ok(blob)
        });
        remove_tree(&target)?;
        result
    }

    // A layer that has no blob.
    fn unpacked(&self, diff_id: &DiffId, below: Option<ChainId>) -> Result<Arc<Layer>, StoreError> {
        self.layer_on(diff_id, below)?
            .ok_or(StoreError::MissingLayer(*diff_id))
    }

    fn side(&self, failed: Side, descriptor: &Descriptor) -> StoreError {
        match failed {
            Side::Read(error) => Self::incoming_error(error),
            Side::Write(error) => {
                StoreError::file("write", self.blob_path(&descriptor.digest))(error)
            }
        }
    }

    /// Writes the rest of a stream, and holds what the file has then against the descriptor.
    fn keep_rest<R: Read>(
        &self,
        input: &mut Kept<'_, R>,
        descriptor: &Descriptor,
    ) -> Result<(), StoreError> {
        let copied = io::copy(input, &mut io::sink());
        if let Some(side) = input.failed.take() {
            return Err(self.side(side, descriptor));
        }
        let failed = |error| self.read_error(&descriptor.digest, error);
        copied.map_err(failed)?;
        input.file.rewind().map_err(failed)?;
        let mut whole = VerifyReader::new(input.file, descriptor);
        io::copy(&mut whole, &mut io::sink()).map_err(failed)?;
        Ok(())
    }

    fn unpack_alone(
        &self,
        descriptor: &Descriptor,
        diff_id: &DiffId,
        parent_chain: Option<ChainId>,
        on_bytes: OnBytes<'_>,
    ) -> Result<Alone, StoreError> {
        let there = || self.layer_on(diff_id, parent_chain);
        if let Some(layer) = there()? {
            return Ok(Alone::Done(layer));
        }
        let _lock = self.layer_lock(diff_id)?;
        if let Some(layer) = there()? {
            return Ok(Alone::Done(layer));
        }
        let leans = |toc: &Toc| toc.leans_on_lower() && parent_chain.is_some();
        if self.toc(diff_id)?.is_some_and(|toc| leans(&toc)) {
            return Ok(Alone::Leans);
        }
        let work = self.scratch()?;
        let target = work.directory("layer")?;
        let fs = target.join("fs");
        let result = self.unpack_into(&fs, descriptor, diff_id, None, on_bytes);
        let result = match result {
            // A hard link to a file of a layer below, most likely; if it is something else, it shows again.
            Err(StoreError::Unpack { .. }) if parent_chain.is_some() => Ok(Alone::Leans),
            Err(error) => Err(error),
            Ok(unpacked) => {
                let toc = Arc::new(unpacked.toc);
                if leans(&toc) {
                    self.publish(LayerId::Diff(*diff_id), None, &toc)?;
                    Ok(Alone::Leans)
                } else {
                    let id = LayerId::of(&toc, *diff_id, parent_chain);
                    self.publish_as(id, diff_id, &fs, toc).map(Alone::Done)
                }
            }
        };
        remove_tree(&target)?;
        result
    }

    fn unpack_on(
        &self,
        descriptor: &Descriptor,
        diff_id: &DiffId,
        parent_chain: Option<ChainId>,
        below: &[Arc<Layer>],
        on_bytes: OnBytes<'_>,
    ) -> Result<Arc<Layer>, StoreError> {
        let _lock = self.layer_lock(diff_id)?;
        if let Some(layer) = self.layer_on(diff_id, parent_chain)? {
            return Ok(layer);
        }
        let mut tocs = Vec::with_capacity(below.len());
        let mut roots = Vec::with_capacity(below.len());
        for layer in below {
            tocs.push(layer.toc()?);
            let root = Root::open(layer.fs()).map_err(StoreError::file("open", layer.fs()))?;
            roots.push(root);
        }
        let stack = Stack::new(tocs);
        let below = Below {
            stack: &stack,
            roots: &roots,
        };
        let work = self.scratch()?;
        let target = work.directory("layer")?;
        let fs = target.join("fs");
        let unpacked = self.unpack_into(&fs, descriptor, diff_id, Some(below), on_bytes);
        let result = unpacked.and_then(|unpacked| {
            let id = LayerId::Chain(super::layers::chain(*diff_id, parent_chain));
            self.publish_as(id, diff_id, &fs, Arc::new(unpacked.toc))
        });
        remove_tree(&target)?;
        result
    }

    /// Unpacks a blob of the store into the new directory `fs`. `Ok` means: it had its digest, size and diffID.
    fn unpack_into(
        &self,
        fs: &std::path::Path,
        descriptor: &Descriptor,
        diff_id: &DiffId,
        below: Option<Below<'_>>,
        on_bytes: OnBytes<'_>,
    ) -> Result<Unpacked, StoreError> {
        let input = Counted {
            inner: self.open_blob(descriptor)?,
            on_bytes,
        };
        let unpacked = self.unpack_new(fs, input, below, descriptor)?;
        verify(descriptor, &unpacked)?;
        if unpacked.diff_id != *diff_id {
            return Err(StoreError::DiffId(Box::new(DiffIdError {
                digest: descriptor.digest,
                expected: *diff_id,
                actual: unpacked.diff_id,
            })));
        }
        Ok(unpacked)
    }

    /// Unpacks what comes into the new directory `fs`.
    fn unpack_new(
        &self,
        fs: &std::path::Path,
        input: impl Read + Send,
        below: Option<Below<'_>>,
        descriptor: &Descriptor,
    ) -> Result<Unpacked, StoreError> {
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(fs)
            .map_err(StoreError::file("create", fs))?;
        let root = Root::open(fs).map_err(StoreError::file("open", fs))?;
        let options = UnpackOptions {
            tree: self.tree_options(),
            names: layer::tar::WhiteoutNames::Oci,
            limit_bytes: MAX_UNPACKED_BYTES,
            below,
        };
        let unpacked =
            layer::unpack(input, &root, &options).map_err(|source| StoreError::Unpack {
                digest: descriptor.digest,
                source: Box::new(source),
            })?;
        for note in &unpacked.notes {
            tracing::warn!(layer = %unpacked.diff_id, "{note}");
        }
        Ok(unpacked)
    }

    /// How trees are written that overlays of this user can use.
    pub fn tree_options(&self) -> TreeOptions {
        let options = self.options();
        TreeOptions {
            ownership: if options.single_id {
                Ownership::Xattr
            } else {
                Ownership::Real
            },
            whiteouts: if options.user_xattrs {
                Whiteouts::OverlayUser
            } else {
                Whiteouts::OverlayTrusted
            },
            devices: if options.can_mknod {
                Devices::Create
            } else {
                Devices::Skip
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;
    use std::sync::atomic::AtomicU64;

    use super::super::testing::{image_of, name, store};
    use super::super::{CheckDepth, PruneOptions, StoreOptions};
    use super::*;
    use crate::image::{CopyOptions, Silent, Source as _, copy};
    use crate::oci::{Digest, MediaType};

    enum Member<'a> {
        File(&'a str, &'a str),
        Directory(&'a str, u32),
        HardLink(&'a str, &'a str),
    }
    use Member::{Directory, File, HardLink};

    /// Stores a layer with these members, and nothing that they do not say.
    fn blob(store: &Store, members: &[Member<'_>]) -> (Descriptor, DiffId) {
        let mut tar = tar::Builder::new(Vec::new());
        for member in members {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            let (path, content) = match member {
                File(path, content) => (path, *content),
                Directory(path, mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    (path, "")
                }
                HardLink(path, target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_link_name(target).unwrap();
                    (path, "")
                }
            };
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let descriptor = store.put_bytes(MediaType::OciLayer, &bytes).unwrap();
        let diff_id = DiffId(descriptor.digest);
        (descriptor, diff_id)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_table_is_held_once() {
        let (dir, store) = store();
        let (descriptor, diff_id) = blob(&store, &[File("a", "a")]);
        store
            .unpack_image(&[(descriptor, diff_id)], &|_| ())
            .unwrap();
        for layer_first in [true, false] {
            // As a later process finds it.
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            let layer = || store.layer(&LayerId::Diff(diff_id)).unwrap().unwrap();
            let held = layer_first.then(|| layer().toc().unwrap());
            let toc = store.toc(&diff_id).unwrap().unwrap();
            assert!(held.is_none_or(|held| Arc::ptr_eq(&held, &toc)));
            assert!(Arc::ptr_eq(&layer().toc().unwrap(), &toc));
        }
    }

    #[test]
    fn layers_that_lean_are_unpacked_on_those_below() {
        let (_dir, mut store) = store();
        let base = [Directory("etc", 0o711), File("etc/a", "a")];
        let base = blob(&store, &base);
        let other = [Directory("etc", 0o700), File("etc/a", "other")];
        let other = blob(&store, &other);
        let leans = blob(&store, &[File("etc/b", "b"), HardLink("etc/c", "etc/a")]);
        let implied = blob(&store, &[File("etc/d", "d")]);
        for (bottom, content, wanted) in [(&base, "a", 0o711), (&other, "other", 0o700)] {
            let image = [bottom.clone(), leans.clone(), implied.clone()];
            let layers = store.unpack_image(&image, &|_| ()).unwrap();
            assert!(matches!(layers[0].id(), LayerId::Diff(_)));
            for leaning in &layers[1..] {
                assert!(matches!(leaning.id(), LayerId::Chain(_)));
                assert_eq!(mode(&leaning.fs().join("etc")), wanted);
            }
            let linked = std::fs::read_to_string(layers[1].fs().join("etc/c")).unwrap();
            assert_eq!(linked, content);
            assert!(layers[2].toc().unwrap().find(b"etc/d").is_some());
            let again = store.unpack_image(&image, &|_| ()).unwrap();
            assert!(layers.iter().zip(&again).all(|(a, b)| a.fs() == b.fs()));
        }
        // The same layer, alone at the bottom, is a third thing.
        let alone = store.unpack_image(&[implied], &|_| ()).unwrap();
        assert_eq!(mode(&alone[0].fs().join("etc")), 0o755);
        assert_eq!(store.check(CheckDepth::Full).unwrap().findings, []);
        drop(alone);
        store.prune(&PruneOptions::default(), &|| ()).unwrap();
        assert_eq!(store.df().unwrap().layers.bytes, 0);
    }

    #[test]
    fn a_layer_is_unpacked_once_by_all() {
        let (dir, first) = store();
        let members: Vec<String> = (0..200).map(|i| format!("f{i}")).collect();
        let files: Vec<Member<'_>> = members.iter().map(|m| File(m, m)).collect();
        let layer = blob(&first, &files);
        let read = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
                    let count = |n| {
                        read.fetch_add(n, Ordering::Relaxed);
                    };
                    let image = [layer.clone(), layer.clone()];
                    let layers = store.unpack_image(&image, &count).unwrap();
                    assert!(layers[1].fs().join("f199").exists());
                });
            }
        });
        assert_eq!(read.into_inner(), layer.0.size);
    }

    #[test]
    fn layers_are_unpacked_while_they_come() {
        let (_origin, origin) = store();
        let plain = [Directory("etc", 0o711), File("etc/a", "a")];
        let (plain, plain_id) = blob(&origin, &plain);
        let (leans, leans_id) = blob(&origin, &[File("etc/b", "b"), HardLink("etc/c", "etc/a")]);
        let bytes = |d: &Descriptor| std::fs::read(origin.blob_path(&d.digest)).unwrap();
        let (_dir, store) = store();
        for layer in [&plain, &leans] {
            store.put_layer(layer, &bytes(layer)[..]).unwrap();
            assert!(store.has_blob(layer));
            assert_eq!(
                std::fs::read(store.blob_path(&layer.digest)).unwrap(),
                bytes(layer)
            );
        }
        let there = |id| store.layer(&LayerId::Diff(id)).unwrap().is_some();
        assert!(there(plain_id) && !there(leans_id));
        // Nothing is read again but what leans.
        let read = AtomicU64::new(0);
        let count = |n| {
            read.fetch_add(n, Ordering::Relaxed);
        };
        let image = [(plain.clone(), plain_id), (leans.clone(), leans_id)];
        let layers = store.unpack_image(&image, &count).unwrap();
        assert!(layers[1].fs().join("etc/c").exists());
        assert!(read.into_inner() >= leans.size);
        // Twice is once.
        store.put_layer(&plain, &bytes(&plain)[..]).unwrap();
        assert_eq!(store.check(CheckDepth::Full).unwrap().findings, []);
    }

    #[test]
    fn wrong_layers_leave_nothing() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("the line is dead"));
                }
                let count = self.0.min(buf.len());
                self.0 -= count;
                buf[..count].fill(0);
                Ok(count)
            }
        }
        let (_dir, store) = store();
        let files = [Directory("d", 0o755), File("d/f", "content")];
        let (right, id) = blob(&store, &files);
        let bytes = std::fs::read(store.blob_path(&right.digest)).unwrap();
        std::fs::remove_file(store.blob_path(&right.digest)).unwrap();
        let mut flipped = bytes.clone();
        flipped[520] ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        let garbage = vec![b'x'; bytes.len()];
        for wrong in [&flipped[..], &longer, &bytes[..700], &garbage, b""] {
            let error = store.put_layer(&right, wrong).unwrap_err();
            assert!(matches!(error, StoreError::Verify(_)), "{error:?}");
        }
        let error = store.put_layer(&right, Broken(1000)).unwrap_err();
        let text = crate::image::testing::chain(&error);
        assert!(text.contains("the line is dead"), "{text}");
        assert!(!store.has_blob(&right));
        assert!(store.layer(&LayerId::Diff(id)).unwrap().is_none());
        let scratch = store.scratch().unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        assert_eq!(store.check(CheckDepth::Full).unwrap().findings, []);
    }

    #[test]
    fn a_layer_that_is_not_what_its_image_says_is_not_kept() {
        let (_dir, store) = store();
        let (descriptor, diff_id) = blob(&store, &[File("a", "a")]);
        let wrong = DiffId(Digest::of(b"another"));
        let image = [(descriptor.clone(), wrong)];
        let error = store.unpack_image(&image, &|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::DiffId(e) if e.actual == diff_id));
        let path = store.blob_path(&descriptor.digest);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[513] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = store.unpack_image(&[(descriptor, diff_id)], &|_| ());
        assert!(matches!(error, Err(StoreError::Verify(_))), "{error:?}");
        let garbage = store.put_bytes(MediaType::OciLayer, &[7; 2000]).unwrap();
        let id = DiffId(garbage.digest);
        let error = store.unpack_image(&[(garbage, id)], &|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Unpack { .. }), "{error:?}");
        assert_eq!(
            std::fs::read_dir(store.root().join("layers"))
                .unwrap()
                .count(),
            0
        );
        let scratch = store.scratch().unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_boot_left_unflushed_is_unpacked_again() {
        let (_dir, store) = store();
        let image = [blob(&store, &[File("a", "a")])];
        let fs = store.unpack_image(&image, &|_| ()).unwrap()[0]
            .fs()
            .to_owned();
        let before = std::fs::metadata(&fs).unwrap().ino();
        let boot = fs.with_file_name("boot");
        assert!(boot.exists());
        std::fs::write(&boot, "another boot").unwrap();
        let later = Store::open(store.root(), StoreOptions::default()).unwrap();
        assert!(later.layer(&LayerId::Diff(image[0].1)).unwrap().is_none());
        assert!(later.toc(&image[0].1).unwrap().is_none());
        later.unpack_image(&image, &|_| ()).unwrap();
        assert_ne!(std::fs::metadata(&fs).unwrap().ino(), before);
        later.barrier().unwrap();
        assert!(!boot.exists());
    }

    #[test]
    fn an_image_is_copied_from_store_to_store() {
        let ((_a, from), (_b, to)) = (store(), store());
        let image = image_of(&from, &["one", "two"]);
        from.tag(&name("app"), &image).unwrap();
        from.add_origin(&Digest::of(b"one"), "localhost:5000/mine")
            .unwrap();
        let root = from.resolve(&name("app")).unwrap().unwrap();
        let source = from
            .source("app", root)
            .with_origin_on("localhost:5000")
            .unwrap();
        let origin = source.origin().map(|o| o.familiar_name());
        assert_eq!(origin.as_deref(), Some("localhost:5000/mine"));
        let sink = to.sink(vec![name("copy:1"), name("copy:2")]);
        for present in [0, 3] {
            let options = CopyOptions::default();
            let copied = copy(&source, &sink, &options, &Silent).unwrap();
            assert_eq!(
                (copied.root.digest, copied.present),
                (image.digest, present)
            );
        }
        let names = to.names().unwrap();
        assert_eq!(names.len(), 2);
        assert_eq!(names[1].descriptor.digest, image.digest);
        assert_eq!(
            to.origins(&Digest::of(b"two")).unwrap(),
            ["localhost:5000/mine"]
        );
        let mut bytes = Vec::new();
        let layer = Descriptor::of(MediaType::OciLayer, b"two");
        let copy = to.source("copy", image);
        copy.blob(&layer).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"two");
        assert_eq!(to.check(CheckDepth::Full).unwrap().findings, []);
    }
}
