//! Writing an archive as a stream.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::super::layout::OCI_LAYOUT;
use super::super::name::{self, Name};
use super::super::{ImageError, Put, Sink};
use super::fresh::Fresh;
use super::tar;
use crate::oci::{Descriptor, Digest, Document, Manifest, Reference, to_pretty_json};

/// How much is collected before it is written, bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// What an archive is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A tar of an image layout.
    Oci,
    /// The same with docker's `manifest.json`. Holds images, not indexes: of an index just its one image is taken.
    Docker,
}

/// An archive that is being written. Takes an image by [`super::super::copy()`]; its name is there when that is done.
pub struct ArchiveWriter {
    medium: String,
    form: Form,
    names: Vec<Name>,
    state: Mutex<State>,
}

struct State {
    out: Out,
    /// What the tar holds already.
    written: BTreeMap<Digest, u64>,
    manifests: BTreeMap<Digest, Vec<u8>>,
    /// Set while a member is half written: nothing can follow it.
    broken: bool,
    begun: bool,
}

enum Out {
    /// A file that appears under its name when it is whole.
    File {
        temp: io::BufWriter<Fresh>,
        path: PathBuf,
    },
    Stream(io::BufWriter<Box<dyn Write + Send>>),
    Done,
}

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Out::File { temp, .. } => temp.write(buf),
            Out::Stream(stream) => stream.write(buf),
            Out::Done => Err(io::Error::other("the archive is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::File { temp, .. } => temp.flush(),
            Out::Stream(stream) => stream.flush(),
            Out::Done => Ok(()),
        }
    }
}

impl ArchiveWriter {
    /// Writes to a file, which replaces the one that may be at `path` when it is whole.
    pub fn create(path: &Path, form: Form, names: Vec<Name>) -> Result<ArchiveWriter, ImageError> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let what = path.display().to_string();
        if path.is_dir() {
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(ImageError::from_io("write", &what, error));
        }
        // A device or a pipe is written to, not replaced.
        if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(path);
            let file = file.map_err(|e| ImageError::from_io("write", &what, e))?;
            return Ok(ArchiveWriter::stream(Box::new(file), &what, form, names));
        }
        let temp = Fresh::create(dir).map_err(|e| ImageError::from_io("write", &what, e))?;
        let out = Out::File {
            temp: io::BufWriter::with_capacity(BUFFER_BYTES, temp),
            path: path.to_owned(),
        };
        Ok(ArchiveWriter::new(out, what, form, names))
    }

    /// Writes to a stream, a standard output for example; `medium` is how messages call it.
    pub fn stream(
        out: Box<dyn Write + Send>,
        medium: &str,
        form: Form,
        names: Vec<Name>,
    ) -> ArchiveWriter {
        let out = Out::Stream(io::BufWriter::with_capacity(BUFFER_BYTES, out));
        ArchiveWriter::new(out, medium.to_owned(), form, names)
    }

    fn new(out: Out, medium: String, form: Form, names: Vec<Name>) -> ArchiveWriter {
        ArchiveWriter {
            medium,
            form,
            names,
            state: Mutex::new(State {
                out,
                written: BTreeMap::new(),
                manifests: BTreeMap::new(),
                broken: false,
                begun: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, descriptor: &Descriptor, mut reader: impl Read) -> Result<(), ImageError> {
        let mut state = self.state();
        if state.written.contains_key(&descriptor.digest) {
            return Ok(());
        }
        let what = format!("blob {} to {}", descriptor.digest, self.medium);
        state
            .member(&blob_path(&descriptor.digest), descriptor.size, &mut reader)
            .map_err(|e| ImageError::from_io("write", &what, e))?;
        state.written.insert(descriptor.digest, descriptor.size);
        Ok(())
    }

    /// The image that docker's `manifest.json` names: the root, or the only image of an index.
    fn single(&self, state: &State, root: &Descriptor) -> Result<Manifest, ImageError> {
        let form = |why: &str| ImageError::Form {
            medium: format!("docker-archive:{}", self.medium),
            why: why.to_owned(),
        };
        let bytes = state.manifests.get(&root.digest);
        let bytes = bytes.ok_or_else(|| form("the image's manifest was not written"))?;
        let document = Document::parse(bytes).map_err(|source| ImageError::Document {
            what: format!("manifest {}", root.digest),
            source,
        })?;
        match document {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(index) => {
                let mut images = index
                    .manifests
                    .iter()
                    .filter(|d| d.platform.as_ref().is_none_or(|p| p.os != "unknown"));
                match (images.next(), images.next()) {
                    (Some(only), None) => self.single(state, only),
                    _ => Err(form(
                        "it can hold one platform only: choose one with --platform, or write an OCI archive",
                    )),
                }
            }
        }
    }

    /// Docker's list of the images in the archive (moby, `image/tarexport`).
    fn docker_manifest(&self, state: &State, root: &Descriptor) -> Result<Vec<u8>, ImageError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Item {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }
        let manifest = self.single(state, root)?;
        let tags: Vec<String> = self
            .names
            .iter()
            .filter_map(|name| match name {
                Name::Reference(reference) => Some(reference.familiar()),
                Name::Plain(words) => words.parse::<Reference>().ok().map(|r| r.familiar()),
            })
            .collect();
        let item = Item {
            config: blob_path(&manifest.config.digest),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: manifest
                .layers
                .iter()
                .map(|l| blob_path(&l.digest))
                .collect(),
        };
        Ok(serde_json::to_vec(&[item]).expect("strings and lists serialise"))
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl State {
    fn member(&mut self, path: &str, size: u64, reader: &mut dyn Read) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier member was not written whole"));
        }
        self.broken = true;
        if !self.begun {
            tar::write_header(&mut self.out, "blobs/", 0, 0o755)?;
            tar::write_header(&mut self.out, "blobs/sha256/", 0, 0o755)?;
            self.begun = true;
        }
        tar::write_header(&mut self.out, path, size, 0o644)?;
        // To the end, past what is expected: there the reader says whether the bytes were right.
        let copied = io::copy(reader, &mut self.out)?;
        if copied != size {
            return Err(io::Error::other(format!(
                "expected {size} bytes, got {copied}"
            )));
        }
        tar::write_padding(&mut self.out, size)?;
        self.broken = false;
        Ok(())
    }

    fn small(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.member(path, bytes.len() as u64, &mut &*bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        tar::write_end(&mut self.out)?;
        match std::mem::replace(&mut self.out, Out::Done) {
            Out::File { temp, path } => {
                let temp = temp.into_inner().map_err(io::IntoInnerError::into_error)?;
                temp.persist(&path)?;
                match path.parent() {
                    Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
                    _ => File::open(".")?.sync_all(),
                }
            }
            Out::Stream(mut stream) => stream.flush(),
            Out::Done => Ok(()),
        }
    }
}

impl Sink for ArchiveWriter {
    fn name(&self) -> String {
        let scheme = match self.form {
            Form::Oci => "oci-archive",
            Form::Docker => "docker-archive",
        };
        format!("{scheme}:{}", self.medium)
    }

    fn reuse(
        &self,
        descriptor: &Descriptor,
        _origin: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError> {
        let there = self.state().written.contains_key(&descriptor.digest);
        Ok(there.then_some(Put::Present))
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        self.put(descriptor, open()?)
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        self.put(descriptor, bytes)?;
        self.state()
            .manifests
            .insert(descriptor.digest, bytes.to_owned());
        Ok(())
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        let mut state = self.state();
        let mut index = name::empty_index();
        name::insert(&mut index, root, &self.names);
        let docker = match self.form {
            Form::Docker => Some(self.docker_manifest(&state, root)?),
            Form::Oci => None,
        };
        let mut write = || {
            state.small("index.json", &to_pretty_json(&index))?;
            if let Some(docker) = &docker {
                state.small("manifest.json", docker)?;
            }
            state.small("oci-layout", OCI_LAYOUT)?;
            state.end()
        };
        write().map_err(|e| ImageError::from_io("write", &self.medium, e))
    }

    fn ordered(&self) -> bool {
        true
    }
}
