//! Reading an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::super::layout::parse_index;
use super::super::name;
use super::super::{ImageError, Source, VerifyReader, read_verified};
use super::docker::{self, Converted};
use super::tar::{Extent, MemberReader, Members};
use crate::oci::{Descriptor, Digest, Index};

/// How much is read at once from a stream, bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// An archive, and which image of it is meant.
pub struct Archive {
    medium: String,
    file: Arc<File>,
    members: Members,
    index: Index,
    converted: Vec<Converted>,
    /// The blobs of converted images, which do not lie under their digests.
    blobs: HashMap<Digest, Extent>,
    wanted: Option<String>,
}

impl Archive {
    /// Opens an archive to read the image `wanted` (a name, a reference or a digest) or the only one. A compressed one is
    /// inflated into a temporary file first.
    pub fn open(path: &Path, wanted: Option<&str>) -> Result<Archive, ImageError> {
        let medium = path.display().to_string();
        let open = || {
            let file = File::open(path)?;
            if file.metadata()?.is_file() && compression(&magic(&file)?).is_none() {
                return Ok(file);
            }
            spool(file, path.parent())
        };
        let file = open().map_err(|e: io::Error| ImageError::from_io("read", &medium, e))?;
        Archive::from_file(file, medium, wanted)
    }

    /// Reads an archive from a stream into a temporary file in `temp_dir` (the system's, without one); `medium` is how
    /// messages call it.
    pub fn from_stream(
        stream: impl Read,
        medium: &str,
        temp_dir: Option<&Path>,
        wanted: Option<&str>,
    ) -> Result<Archive, ImageError> {
        let file = spool(stream, temp_dir).map_err(|e| ImageError::from_io("read", medium, e))?;
        Archive::from_file(file, medium.to_owned(), wanted)
    }

    fn from_file(file: File, medium: String, wanted: Option<&str>) -> Result<Archive, ImageError> {
        let members = file
            .metadata()
            .and_then(|meta| Members::read(&file, meta.len()))
            .map_err(|e| ImageError::from_io("read", &medium, e))?;
        let file = Arc::new(file);
        let mut archive = Archive {
            medium,
            file,
            members,
            index: name::empty_index(),
            converted: Vec::new(),
            blobs: HashMap::new(),
            wanted: wanted.map(str::to_owned),
        };
        if archive.members.find("index.json").is_some() {
            let bytes = docker::small(
                &archive.file,
                &archive.members,
                "index.json",
                &archive.medium,
            )?;
            archive.index = parse_index(&bytes, &format!("index.json of {}", archive.medium))?;
        } else if archive.members.find("manifest.json").is_some() {
            archive.convert()?;
        } else {
            return Err(ImageError::Form {
                medium: archive.medium,
                why: "not an image archive: it has neither index.json nor manifest.json".to_owned(),
            });
        }
        Ok(archive)
    }

    fn convert(&mut self) -> Result<(), ImageError> {
        self.converted = docker::convert(&self.file, &self.members, &self.medium)?;
        for image in &self.converted {
            let names: Vec<_> = image.names.iter().cloned().map(name::Name::Plain).collect();
            name::insert(&mut self.index, &image.root, &names);
            self.blobs.extend(image.blobs.iter().copied());
        }
        Ok(())
    }

    /// Every image and the name it goes by: a full reference where the archive has one.
    pub fn images(&self) -> Vec<(String, Descriptor)> {
        let entries = self.index.manifests.iter();
        entries.map(|e| (name::shown(e), e.clone())).collect()
    }

    /// The same archive, for another of its images.
    pub fn with_image(self, wanted: &str) -> Archive {
        Archive {
            wanted: Some(wanted.to_owned()),
            ..self
        }
    }
}

impl Source for Archive {
    fn name(&self) -> String {
        match &self.wanted {
            Some(wanted) => format!("{}:{wanted}", self.medium),
            None => self.medium.clone(),
        }
    }

    fn root(&self) -> Result<Descriptor, ImageError> {
        name::find(&self.index, self.wanted.as_deref(), &self.medium)
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let made = self
            .converted
            .iter()
            .find(|c| c.root.digest == descriptor.digest);
        if let Some(made) = made {
            return Ok(made.manifest.clone());
        }
        read_verified(self.blob(descriptor)?, descriptor)
            .map_err(|e| ImageError::from_io("read", &format!("manifest {}", descriptor.digest), e))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let digest = &descriptor.digest;
        let path = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let extent = self
            .blobs
            .get(digest)
            .copied()
            .or_else(|| self.members.find(&path));
        let extent = extent.ok_or_else(|| ImageError::NotFound {
            what: format!("blob {digest}"),
            medium: self.medium.clone(),
        })?;
        let reader = MemberReader::new(&self.file, extent);
        Ok(Box::new(VerifyReader::new(reader, descriptor)))
    }
}

#[derive(Clone, Copy)]
enum Compression {
    Gzip,
    Zstd,
}

fn compression(magic: &[u8]) -> Option<Compression> {
    match magic {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd] => Some(Compression::Zstd),
        _ => None,
    }
}

fn magic(file: &File) -> io::Result<Vec<u8>> {
    let mut magic = [0; 4];
    let n = file.read_at(&mut magic, 0)?;
    Ok(magic[..n].to_vec())
}

/// Brings a stream into a file without a name, inflated.
fn spool(mut stream: impl Read, dir: Option<&Path>) -> io::Result<File> {
    let mut file = match dir {
        Some(dir) if !dir.as_os_str().is_empty() => {
            tempfile::tempfile_in(dir).or_else(|_| tempfile::tempfile())?
        }
        _ => tempfile::tempfile()?,
    };
    let mut magic = Vec::new();
    (&mut stream).take(4).read_to_end(&mut magic)?;
    let kind = compression(&magic);
    let whole = io::Cursor::new(magic).chain(stream);
    match kind {
        None => copy_all(whole, &mut file)?,
        Some(Compression::Gzip) => {
            let buffered = io::BufReader::with_capacity(CHUNK_BYTES, whole);
            copy_all(flate2::bufread::MultiGzDecoder::new(buffered), &mut file)?;
        }
        Some(Compression::Zstd) => copy_all(zstd::Decoder::new(whole)?, &mut file)?,
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn copy_all(reader: impl Read, file: &mut File) -> io::Result<()> {
    io::copy(&mut io::BufReader::with_capacity(CHUNK_BYTES, reader), file).map(drop)
}
