//! What a step's inputs held, as explanations of later misses need it: the bytes that an input's digest was made of.
//!
//! `cache/listings/<hex>` is compressed (zstd); its name is the digest of what it decompresses to. A record's inputs name its
//! listings by their values, so equal inputs share one, and a listing that no record names is collected. Nothing but an
//! explanation reads one: a listing that is lost or torn costs words, never a result.

use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Record, Store, StoreError, list};
use crate::oci::{Digest, Hasher};

/// zstd's fastest ordinary level: digests do not compress, and paths do at any level.
const LEVEL: i32 = 1;

/// What is gathered before it is compressed: fewer calls, still in the cache of a core.
const BUFFER_BYTES: usize = 64 << 10;

/// The most that is read back, bytes: some three million files. What is longer is not explained file by file.
const MAX_BYTES: u64 = 512 << 20;

/// A listing in the making.
struct Output {
    encoder: zstd::stream::write::Encoder<'static, std::fs::File>,
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl Output {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        match self.buffer.len() < BUFFER_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.encoder.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<Digest> {
        self.flush()?;
        self.encoder.finish()?;
        Ok(self.hasher.finish())
    }
}

impl Store {
    fn listings_path(&self) -> PathBuf {
        self.root().join("cache/listings")
    }

    /// Keeps the listing of an input whose value is `digest`: what `fill` gives, unless it is there already. What turns out to be
    /// another's (a file changed since it was hashed) is not kept. `Ok` means: it is there whole, or will be missed by nobody.
    pub fn keep_listing<E: From<StoreError>>(
        &self,
        digest: &Digest,
        fill: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<(), E> {
        let dir = self.listings_path();
        let path = dir.join(digest.hex());
        if path.exists() {
            return Ok(());
        }
        let work = self.scratch()?;
        let (file, temporary) = work.file("listing")?;
        let failed = StoreError::file("write", &temporary);
        let encoder = zstd::stream::write::Encoder::new(file, LEVEL);
        let mut output = match encoder {
            Ok(encoder) => Output {
                encoder,
                hasher: Hasher::sha256(),
                buffer: Vec::with_capacity(BUFFER_BYTES),
            },
            Err(e) => return Err(failed(e).into()),
        };
        let mut written = Ok(());
        let filled = fill(&mut |bytes| {
            if written.is_ok() {
                written = output.add(bytes);
            }
        });
        let finished = written.and_then(|()| output.finish());
        let remove = || std::fs::remove_file(&temporary);
        if let Err(error) = filled {
            remove().map_err(StoreError::file("remove", &temporary))?;
            return Err(error);
        }
        match finished {
            Ok(actual) if actual == *digest => {}
            Ok(_) => {
                return Ok(remove().map_err(StoreError::file("remove", &temporary))?);
            }
            Err(e) => return Err(failed(e).into()),
        }
        // A store that an earlier strata made has no such folder.
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::file("create", &dir)(e).into());
            }
            _ => {}
        }
        Ok(std::fs::rename(&temporary, &path).map_err(StoreError::file("write", &path))?)
    }

    /// The listing of an input whose value is `digest`; `None` if there is none, or it is torn.
    pub fn listing(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        read_listing(&self.listings_path().join(digest.hex()), digest)
    }

    /// The files of all listings; none in a store that has had none.
    pub(super) fn listings(&self) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.listings_path();
        match dir.exists() {
            true => list(&dir),
            false => Ok(Vec::new()),
        }
    }
}

/// The names of the listings that a record has.
pub(super) fn of_record(record: &Record) -> impl Iterator<Item = String> {
    let values = record.inputs.iter();
    values.filter_map(|(_, value)| value.parse::<Digest>().ok().map(|digest| digest.hex()))
}

/// Whether a listing is what its name says.
pub(super) fn is_whole(path: &Path) -> Result<bool, StoreError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    match format!("sha256:{name}").parse::<Digest>() {
        Ok(digest) => Ok(read_listing(path, &digest)?.is_some()),
        Err(_) => Ok(false),
    }
}

fn read_listing(path: &Path, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::file("open", path)(e)),
    };
    let mut bytes = Vec::new();
    // A torn file is one that cannot be decompressed, or that is another's.
    let read = zstd::stream::read::Decoder::new(file)
        .and_then(|decoder| decoder.take(MAX_BYTES).read_to_end(&mut bytes));
    Ok((read.is_ok() && Digest::of(&bytes) == *digest).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    fn keep(store: &Store, digest: &Digest, bytes: &[u8]) {
        let kept = store.keep_listing(digest, |sink| {
            bytes.chunks(3).for_each(sink);
            Ok::<(), StoreError>(())
        });
        kept.unwrap();
    }

    #[test]
    fn what_was_kept_comes_back_and_nothing_else() {
        let (_dir, store) = store();
        let long = vec![7; 3 * BUFFER_BYTES];
        for bytes in [&b""[..], b"a listing", &long] {
            let digest = Digest::of(bytes);
            assert_eq!(store.listing(&digest).unwrap(), None);
            keep(&store, &digest, bytes);
            assert_eq!(store.listing(&digest).unwrap().as_deref(), Some(bytes));
        }
        assert_eq!(store.listings().unwrap().len(), 3);
        let wrong = Digest::of(b"what was hashed");
        keep(&store, &wrong, b"what is there now");
        assert_eq!(store.listing(&wrong).unwrap(), None);
        assert_eq!(store.listings().unwrap().len(), 3);
        let work = std::fs::read_dir(store.scratch().unwrap().path()).unwrap();
        assert_eq!(work.count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_store_without_the_folder_gets_it() {
        let (dir, store) = store();
        std::fs::remove_dir(dir.path().join("cache/listings")).unwrap();
        assert!(store.listings().unwrap().is_empty());
        keep(&store, &Digest::of(b"x"), b"x");
        assert!(store.listing(&Digest::of(b"x")).unwrap().is_some());
    }

    #[test]
    fn a_torn_listing_is_none() {
        let (dir, store) = store();
        let digest = Digest::of(b"a listing");
        keep(&store, &digest, b"a listing");
        let path = dir.path().join("cache/listings").join(digest.hex());
        let whole = std::fs::read(&path).unwrap();
        assert!(is_whole(&path).unwrap());
        let other = zstd::encode_all(&b"another"[..], 1).unwrap();
        for torn in [&b""[..], &whole[..whole.len() / 2], &[0; 40], &other] {
            std::fs::write(&path, torn).unwrap();
            assert!(!is_whole(&path).unwrap());
            assert_eq!(store.listing(&digest).unwrap(), None);
        }
    }
}
