//! Places of images as things to copy from and to: the store, layouts, archives.

use strata::image::archive::{Archive, ArchiveWriter, Form};
use strata::image::layout::Layout;
use strata::image::{Name, Sink, Source};

use super::error::{CliError, Doing as _};
use super::session::Session;
use super::transport::Location;

/// Opens a location to read an image.
pub(crate) fn source(session: &Session, location: &Location) -> Result<Box<dyn Source>, CliError> {
    let doing = || format!("open {location}");
    Ok(match location {
        Location::Store(name) => {
            let store = session.store()?;
            let image = store.find(name).doing(|| format!("use {name}"))?;
            Box::new(store.source(name, image.descriptor))
        }
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
            Box::new(session.store()?.sink(vec![name]))
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
