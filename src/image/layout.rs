//! An image layout in a folder (image-spec image-layout.md).
//!
//! ```text
//! <dir>/oci-layout             {"imageLayoutVersion":"1.0.0"}
//!       index.json             the images by name
//!       blobs/<algorithm>/<hex>
//! ```
//!
//! Writers lock the folder itself (`flock`), so that two of them lose no name; readers need no lock, since every file
//! appears whole. A crash leaves blobs without a name and files that begin with `.tmp`.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::name::{self, Name};
use super::{ImageError, MAX_MANIFEST_BYTES, Put, Sink, Source, VerifyReader, read_verified};
use crate::oci::{Descriptor, Digest, Document, Index, Reference, to_pretty_json};

/// What the file `oci-layout` holds.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The largest `index.json`, bytes: some 50,000 images.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// How much is read and written at once, bytes: past 128 KiB a system call costs nothing beside its copying.
const CHUNK_BYTES: usize = 256 << 10;

/// An image layout, and which image of it is meant.
pub struct Layout {
    dir: PathBuf,
    wanted: Option<String>,
    names: Vec<Name>,
    /// What must be on disk before a name points to it.
    unsynced: Mutex<Vec<PathBuf>>,
    /// Whether the folder was made here: it goes again if no image is finished in it.
    made: bool,
}

impl Layout {
    /// Opens a layout to read the image `wanted` (a name, a reference or a digest) or the only one.
    pub fn open(dir: &Path, wanted: Option<&str>) -> Result<Layout, ImageError> {
        let layout = Layout {
            dir: dir.to_owned(),
            wanted: wanted.map(str::to_owned),
            names: Vec::new(),
            unsynced: Mutex::new(Vec::new()),
            made: false,
        };
        layout.check()?;
        Ok(layout)
    }

    /// Opens a layout to write an image under `names`; makes the folder if there is none, and removes it again when it is
    /// dropped without an image.
    pub fn create(dir: &Path, names: Vec<Name>) -> Result<Layout, ImageError> {
        let layout = Layout {
            dir: dir.to_owned(),
            wanted: None,
            names,
            unsynced: Mutex::new(Vec::new()),
            made: !dir.exists(),
        };
        fs::create_dir_all(dir.join("blobs/sha256"))
            .map_err(|e| layout.failed("create", dir, e))?;
        if dir.join("oci-layout").exists() {
            layout.check()?;
        } else {
            layout.replace("oci-layout", OCI_LAYOUT)?;
        }
        Ok(layout)
    }

    /// Every image and the name it goes by, in the order of the index.
    pub fn images(&self) -> Result<Vec<(String, Descriptor)>, ImageError> {
        let index = self.index()?;
        Ok(index
            .manifests
            .into_iter()
            .map(|entry| (name::shown(&entry), entry))
            .collect())
    }

    fn medium(&self) -> String {
        format!("oci:{}", self.dir.display())
    }

    fn failed(&self, action: &'static str, path: &Path, error: io::Error) -> ImageError {
        ImageError::from_io(action, &path.display().to_string(), error)
    }

    fn check(&self) -> Result<(), ImageError> {
        let form = |why: &str| ImageError::Form {
            medium: self.medium(),
            why: why.to_owned(),
        };
        let path = self.dir.join("oci-layout");
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => file.take(MAX_MANIFEST_BYTES).read_to_string(&mut text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(form("not an OCI image layout: it has no file oci-layout"));
            }
            Err(e) => Err(e),
        }
        .map_err(|e| self.failed("read", &path, e))?;
        let version = serde_json::from_str::<serde_json::Value>(&text).ok();
        match version
            .as_ref()
            .and_then(|v| v["imageLayoutVersion"].as_str())
        {
            Some(version) if version.starts_with("1.") => Ok(()),
            _ => Err(form(
                "unsupported version of the OCI image layout: expected 1.0.0",
            )),
        }
    }

    fn index(&self) -> Result<Index, ImageError> {
        let path = self.dir.join("index.json");
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(name::empty_index()),
            other => other.map_err(|e| self.failed("read", &path, e))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_INDEX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| self.failed("read", &path, e))?;
        parse_index(&bytes, &path.display().to_string())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.dir.join("blobs");
        path.push(digest.algorithm().name());
        path.push(digest.hex());
        path
    }

    /// Puts a file of the folder in place, whole and on disk.
    fn replace(&self, file_name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.dir.join(file_name);
        let write = || {
            let mut temp = temp_in(&self.dir)?;
            temp.write_all(bytes)?;
            temp.as_file().sync_all()?;
            temp.persist(&path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| self.failed("write", &path, e))
    }

    fn put(&self, descriptor: &Descriptor, reader: impl Read) -> Result<(), ImageError> {
        let path = self.blob_path(&descriptor.digest);
        let dir = path.parent().expect("a blob lies in a folder");
        let write = || {
            fs::create_dir_all(dir)?;
            let mut temp = temp_in(dir)?;
            // The buffer is the reader's: what comes in large pieces goes on in large pieces.
            let mut reader = io::BufReader::with_capacity(CHUNK_BYTES, reader);
            io::copy(&mut reader, temp.as_file_mut())?;
            temp.persist(&path)?;
            Ok(())
        };
        write()
            .map_err(|e| ImageError::from_io("write", &format!("blob {}", descriptor.digest), e))?;
        self.unsynced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path);
        Ok(())
    }

    /// Brings every new blob and the folders' entries to disk.
    fn sync(&self) -> Result<(), ImageError> {
        let paths =
            std::mem::take(&mut *self.unsynced.lock().unwrap_or_else(PoisonError::into_inner));
        let mut dirs: Vec<&Path> = Vec::new();
        for path in &paths {
            let synced = File::open(path).and_then(|f| f.sync_all());
            synced.map_err(|e| self.failed("write", path, e))?;
            if let Some(dir) = path.parent()
                && !dirs.contains(&dir)
            {
                dirs.push(dir);
            }
        }
        for dir in dirs {
            let synced = File::open(dir).and_then(|f| f.sync_all());
            synced.map_err(|e| self.failed("write", dir, e))?;
        }
        Ok(())
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if self.made
            && self.dir.exists()
            && !self.dir.join("index.json").exists()
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot remove an unfinished layout");
        }
    }
}

/// A temporary file that becomes a file everyone may read.
pub(super) fn temp_in(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Opened here, for an error that is the system's own: the crate's names the temporary file, which nobody asked for.
    let open = |path: &Path| {
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
    };
    tempfile::Builder::new().prefix(".tmp").make_in(dir, open)
}

/// Parses an `index.json`.
pub(super) fn parse_index(bytes: &[u8], what: &str) -> Result<Index, ImageError> {
    if bytes.len() as u64 > MAX_INDEX_BYTES {
        return Err(ImageError::Form {
            medium: what.to_owned(),
            why: format!("larger than {MAX_INDEX_BYTES} bytes"),
        });
    }
    match Document::parse(bytes) {
        Ok(Document::Index(index)) => Ok(index),
        Ok(Document::Manifest(_)) => Err(ImageError::Form {
            medium: what.to_owned(),
            why: "a manifest where an index must be".to_owned(),
        }),
        Err(source) => Err(ImageError::Document {
            what: what.to_owned(),
            source,
        }),
    }
}

impl Source for Layout {
    fn name(&self) -> String {
        match &self.wanted {
            Some(wanted) => format!("{}:{wanted}", self.medium()),
            None => self.medium(),
        }
    }

    fn root(&self) -> Result<Descriptor, ImageError> {
        name::find(&self.index()?, self.wanted.as_deref(), &self.medium())
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let reader = self.blob(descriptor)?;
        read_verified(reader, descriptor)
            .map_err(|e| ImageError::from_io("read", &format!("manifest {}", descriptor.digest), e))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let path = self.blob_path(&descriptor.digest);
        match File::open(&path) {
            Ok(file) => Ok(Box::new(VerifyReader::new(file, descriptor))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ImageError::NotFound {
                what: format!("blob {}", descriptor.digest),
                medium: self.medium(),
            }),
            Err(e) => Err(self.failed("read", &path, e)),
        }
    }
}

impl Sink for Layout {
    fn name(&self) -> String {
        match self.names.first() {
            Some(Name::Plain(words)) => format!("{}:{words}", self.medium()),
            Some(Name::Reference(reference)) => format!("{}:{reference}", self.medium()),
            None => self.medium(),
        }
    }

    fn reuse(
        &self,
        descriptor: &Descriptor,
        _origin: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError> {
        let path = self.blob_path(&descriptor.digest);
        match fs::metadata(&path) {
            // A file of another length is one that another tool did not finish: it is written anew.
            Ok(meta) => {
                Ok((meta.is_file() && meta.len() == descriptor.size).then_some(Put::Present))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("read", &path, e)),
        }
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        self.put(descriptor, open()?)
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        if self.reuse(descriptor, None)?.is_some() {
            return Ok(());
        }
        self.put(descriptor, bytes)
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        self.sync()?;
        let lock = File::open(&self.dir).map_err(|e| self.failed("lock", &self.dir, e))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| self.failed("lock", &self.dir, e.into()))?;
        let mut index = self.index()?;
        name::insert(&mut index, root, &self.names);
        self.replace("index.json", &to_pretty_json(&index))
    }

    fn current(&self) -> Result<Option<Digest>, ImageError> {
        let wanted = match self.names.first() {
            Some(Name::Plain(words)) => words.clone(),
            Some(Name::Reference(reference)) => reference.to_string(),
            None => return Ok(None),
        };
        match name::find(&self.index()?, Some(&wanted), &self.medium()) {
            Ok(found) => Ok(Some(found.digest)),
            Err(ImageError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Memory};
    use super::super::{CopyOptions, Silent, copy};
    use super::*;

    fn named(words: &str) -> Vec<Name> {
        vec![Name::Plain(words.to_owned())]
    }

    #[test]
    fn a_round_trip_keeps_every_byte() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("new/layout");
        let memory = testing::index_image();
        let sink = Layout::create(&dir, named("v1")).unwrap();
        let copied = copy(&memory, &sink, &CopyOptions::default(), &Silent).unwrap();
        assert_eq!((copied.present, copied.written), (0, memory.blob_count()));
        assert_eq!(sink.current().unwrap(), Some(copied.root.digest));

        let back = Memory::default();
        let source = Layout::open(&dir, Some("v1")).unwrap();
        copy(&source, &back, &CopyOptions::default(), &Silent).unwrap();
        assert_eq!(back, memory);

        // The second name costs nothing and takes nothing from the first.
        let sink = Layout::create(&dir, named("v2")).unwrap();
        let copied = copy(&memory, &sink, &CopyOptions::default(), &Silent).unwrap();
        assert_eq!((copied.present, copied.written), (memory.blob_count(), 0));
        assert_eq!(sink.images().unwrap().len(), 2);
        let left: Vec<_> = fs::read_dir(dir.join("blobs/sha256"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .filter(|n| n.to_string_lossy().starts_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn what_is_no_layout_is_said_so() {
        let temp = tempfile::tempdir().unwrap();
        let error = Layout::open(temp.path(), None).err().unwrap().to_string();
        assert!(error.ends_with("it has no file oci-layout"), "{error}");
        fs::write(
            temp.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"2.0"}"#,
        )
        .unwrap();
        assert!(Layout::open(temp.path(), None).is_err());
        fs::write(temp.path().join("oci-layout"), OCI_LAYOUT).unwrap();
        let layout = Layout::open(temp.path(), None).unwrap();
        assert!(matches!(layout.root(), Err(ImageError::NotFound { .. })));
        fs::write(temp.path().join("index.json"), "[]").unwrap();
        assert!(matches!(layout.root(), Err(ImageError::Document { .. })));
    }

    #[test]
    fn a_damaged_blob_is_not_passed_on() {
        let temp = tempfile::tempdir().unwrap();
        let sink = Layout::create(temp.path(), named("x")).unwrap();
        let memory = testing::image(&[b"layer"]);
        copy(&memory, &sink, &CopyOptions::default(), &Silent).unwrap();
        let blob = sink.blob_path(&Digest::of(b"layer"));
        fs::write(&blob, b"other").unwrap();
        let target = Memory::default();
        let source = Layout::open(temp.path(), None).unwrap();
        let error = copy(&source, &target, &CopyOptions::default(), &Silent).unwrap_err();
        assert!(testing::chain(&error).contains("does not match its digest"));
        assert_eq!(target.named(), None);
    }

    #[test]
    fn names_written_at_the_same_time_all_stay() {
        let temp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let dir = temp.path();
                scope.spawn(move || {
                    let memory = testing::image(&[format!("layer {i}").as_bytes()]);
                    let sink = Layout::create(dir, named(&i.to_string())).unwrap();
                    copy(&memory, &sink, &CopyOptions::default(), &Silent).unwrap();
                });
            }
        });
        let layout = Layout::open(temp.path(), Some("7")).unwrap();
        assert_eq!(layout.images().unwrap().len(), 8);
    }
}
