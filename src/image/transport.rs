//! Where images come from and go to.

use std::any::Any;
use std::error::Error;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use crate::oci::{Descriptor, Digest, Reference};

/// What went wrong in a medium; the source's message is the medium's own.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such image or blob.
    #[error("{what} not found in {medium}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where.
        medium: String,
    },
    /// The medium failed.
    #[error("cannot {action} {what}")]
    Medium {
        /// `read`, `write`, …
        action: &'static str,
        /// What was asked for.
        what: String,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Bytes that are not what their descriptor says.
    #[error(transparent)]
    Verify(Box<super::VerifyError>),
    /// A name is needed to know which image is meant.
    #[error("{medium} holds several images ({}); say which", .names.join(", "))]
    Ambiguous {
        /// Where.
        medium: String,
        /// Their names.
        names: Vec<String>,
    },
    /// A medium that is not what it is said to be.
    #[error("{medium}: {why}")]
    Form {
        /// Which.
        medium: String,
        /// What is wrong with it.
        why: String,
    },
    /// A document that cannot be understood.
    #[error("cannot understand {what}")]
    Document {
        /// Which.
        what: String,
        /// Why not.
        #[source]
        source: crate::oci::ManifestError,
    },
}

impl From<super::VerifyError> for ImageError {
    fn from(error: super::VerifyError) -> ImageError {
        ImageError::Verify(Box::new(error))
    }
}

impl ImageError {
    /// What an I/O error means; one that carries a [`super::VerifyError`] through a reader is that.
    pub fn from_io(action: &'static str, what: &str, error: io::Error) -> ImageError {
        let carries = error
            .get_ref()
            .is_some_and(|e| e.is::<super::VerifyError>());
        if carries {
            let verify = error.into_inner().and_then(|e| e.downcast().ok());
            return ImageError::Verify(verify.expect("it was one a line above"));
        }
        ImageError::Medium {
            action,
            what: what.to_owned(),
            source: error.into(),
        }
    }
}

/// A medium to read an image from.
pub trait Source: Sync {
    /// How messages call it: `docker://127.0.0.1:5000/app:1`.
    fn name(&self) -> String;

    /// The image's root: the descriptor of its manifest or index.
    fn root(&self) -> Result<Descriptor, ImageError>;

    /// The bytes of a manifest or index, verified against the descriptor.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError>;

    /// The bytes of a blob as a stream. Verified by the reader: a wrong byte is an error before the end is reported.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError>;

    /// The same for a sink that holds the bytes against their descriptor itself ([`Sink::verifies`]): they may be wrong.
    fn unverified_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        self.blob(descriptor)
    }

    /// The repository a blob of this source can be mounted from, if it is a registry: host/repository.
    fn origin(&self) -> Option<&Reference> {
        None
    }
}

/// How a blob came to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It was there already.
    Present,
    /// It was linked from another repository of the same registry.
    Mounted,
    /// Its bytes were written.
    Written,
}

/// The right to bring a blob to a medium, until it is dropped.
pub type Claim = Box<dyn Any + Send>;

/// A medium to write an image to.
pub trait Sink: Sync {
    /// How messages call it.
    fn name(&self) -> String;

    /// Makes the blob present without its bytes if that can be done: it is there, or `origin` (host/repository on the same
    /// registry) has it. `None`: send the bytes.
    fn reuse(
        &self,
        descriptor: &Descriptor,
        origin: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError>;

    /// Where other processes write to the medium, the right to bring a blob that [`Sink::reuse`] did not have, so that it comes
    /// once. Waits while another has it, after a call of `on_wait`, and until `stop`; whoever gets it looks again whether the
    /// blob is there.
    fn claim(
        &self,
        descriptor: &Descriptor,
        stop: &AtomicBool,
        on_wait: &dyn Fn(),
    ) -> Result<Option<Claim>, ImageError> {
        let _ = (descriptor, stop, on_wait);
        Ok(None)
    }

    /// Stores a blob. `Ok` means: all bytes matched the descriptor and are there (durable after [`Sink::finish`]).
    /// `open` gives the bytes from the start, and may be called again for another try. Unless the sink [`Sink::verifies`],
    /// its reader has verified them, as [`Source::blob`] does, when it reports their end: a sink reads up to there and need
    /// not hash them again.
    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError>;

    /// Whether [`Sink::put_blob`] holds the bytes against their descriptor itself, so that hashing them before is for nothing.
    fn verifies(&self) -> bool {
        false
    }

    /// Stores a manifest or index by digest; what it refers to is there already.
    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError>;

    /// Names the image. `Ok` means: the image is there under its name, whole, and stays there after a power loss.
    fn finish(&self, root: &Descriptor) -> Result<(), ImageError>;

    /// Whether blobs must come one at a time, sorted by digest: a stream that cannot go back, and is to be reproducible.
    fn ordered(&self) -> bool {
        false
    }

    /// Which digest to look for under a tag, where a sink can tell without writing.
    fn current(&self) -> Result<Option<Digest>, ImageError> {
        Ok(None)
    }
}
