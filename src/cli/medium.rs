//! Places of images as things to copy from and to: the store, layouts, archives.

use std::io::Read;

use strata::image::archive::{Archive, ArchiveWriter, Form};
use strata::image::layout::Layout;
use strata::image::{ImageError, Name, Put, Sink, Source, VerifyReader};
use strata::oci::{Descriptor, Reference};
use strata::store::{Store, StoreError};

use super::error::{CliError, Doing as _};
use super::session::Session;
use super::transport::Location;

/// An image of the store, to be read.
pub(crate) struct StoreSource {
    store: Store,
    name: String,
    root: Descriptor,
}

/// The store, to write an image into under names. Without names it is stored and nothing points to it.
pub(crate) struct StoreSink {
    store: Store,
    names: Vec<Reference>,
}

/// A store's failure as a medium's.
fn failed(action: &'static str, what: &dyn ToString) -> impl FnOnce(StoreError) -> ImageError {
    let what = what.to_string();
    move |source| match source {
        StoreError::MissingBlob(digest) => ImageError::NotFound {
            what: format!("blob {digest}"),
            medium: "the store".to_owned(),
        },
        source => ImageError::Medium {
            action,
            what,
            source: Box::new(source),
        },
    }
}

impl StoreSource {
    /// The image behind a descriptor that the store has.
    pub(crate) fn new(store: Store, name: String, root: Descriptor) -> StoreSource {
        StoreSource { store, name, root }
    }

    /// The image that `text` names.
    pub(crate) fn find(store: Store, text: &str) -> Result<StoreSource, CliError> {
        let image = store.find(text).doing(|| format!("use {text}"))?;
        Ok(StoreSource::new(store, text.to_owned(), image.descriptor))
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
            .map_err(failed("read", &descriptor.digest))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let file = self
            .store
            .open_blob(descriptor)
            .map_err(failed("read", &descriptor.digest))?;
        Ok(Box::new(VerifyReader::new(file, descriptor)))
    }
}

impl StoreSink {
    /// A sink that names what it gets.
    pub(crate) fn new(store: Store, names: Vec<Reference>) -> StoreSink {
        StoreSink { store, names }
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
        if !self.store.has_blob(descriptor) {
            return Ok(None);
        }
        self.note_origin(descriptor, origin)?;
        Ok(Some(Put::Present))
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        self.store
            .put_stream(descriptor, open()?)
            .map(drop)
            .map_err(failed("write", &descriptor.digest))
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        self.store
            .put_bytes(descriptor.media_type.clone(), bytes)
            .map(drop)
            .map_err(failed("write", &descriptor.digest))
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        self.names.iter().try_for_each(|name| {
            self.store
                .tag(name, root)
                .map_err(failed("name", &name.familiar()))
        })
    }
}

impl StoreSink {
    /// Remembers that a repository has a blob, so that a later push to its registry can mount it from there.
    fn note_origin(
        &self,
        descriptor: &Descriptor,
        origin: Option<&Reference>,
    ) -> Result<(), ImageError> {
        let Some(origin) = origin else {
            return Ok(());
        };
        let repository = format!("{}/{}", origin.registry(), origin.repository());
        self.store
            .add_origin(&descriptor.digest, &repository)
            .map_err(failed("note the origin of", &descriptor.digest))
    }
}

/// Opens a location to read an image.
pub(crate) fn source(session: &Session, location: &Location) -> Result<Box<dyn Source>, CliError> {
    let doing = || format!("open {location}");
    Ok(match location {
        Location::Store(name) => Box::new(StoreSource::find(session.store()?, name)?),
        Location::Layout { path, reference } => {
            Box::new(Layout::open(path, reference.as_deref()).doing(doing)?)
        }
        Location::OciArchive { path, reference } => {
            Box::new(Archive::open(path, reference.as_deref()).doing(doing)?)
        }
        Location::DockerArchive { path, reference } => {
            let wanted = reference.as_ref().map(ToString::to_string);
            Box::new(Archive::open(path, wanted.as_deref()).doing(doing)?)
        }
        Location::Registry(reference) => super::registry::source(session, reference)?,
    })
}

/// Opens a location to write an image.
pub(crate) fn sink(session: &Session, location: &Location) -> Result<Box<dyn Sink>, CliError> {
    let doing = || format!("open {location}");
    let plain = |name: &Option<String>| name.iter().cloned().map(Name::Plain).collect();
    Ok(match location {
        Location::Store(name) => {
            let name = super::values::reference("DST", name)?;
            Box::new(StoreSink::new(session.store()?, vec![name]))
        }
        Location::Layout { path, reference } => {
            Box::new(Layout::create(path, plain(reference)).doing(doing)?)
        }
        Location::OciArchive { path, reference } => {
            Box::new(ArchiveWriter::create(path, Form::Oci, plain(reference)).doing(doing)?)
        }
        Location::DockerArchive { path, reference } => {
            let names = reference.iter().cloned().map(Name::Reference).collect();
            Box::new(ArchiveWriter::create(path, Form::Docker, names).doing(doing)?)
        }
        Location::Registry(reference) => super::registry::sink(session, reference)?,
    })
}
