//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::image::VerifyError;
use crate::layer::LayerError;
use crate::oci::{DiffId, Digest, ManifestError, ReferenceError};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// `read`, `create`, `rename`, …
        action: &'static str,
        /// What it was to be done to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The folder holds something else.
    #[error("{path} is not empty and not a strata store", path = .0.display())]
    NotAStore(PathBuf),
    /// The store was made by a later strata.
    #[error("the store {path} has format {found}; this strata reads format {supported}", path = path.display())]
    Format {
        /// The store's root.
        path: PathBuf,
        /// What `strata.json` says.
        found: u32,
        /// What this program knows.
        supported: u32,
    },
    /// A file of the store that cannot be understood.
    #[error("{path} is damaged", path = path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A name of the index that is no reference.
    #[error("{text:?} is no image name")]
    Name {
        /// What was given.
        text: String,
        /// Why not.
        #[source]
        source: ReferenceError,
    },
    /// A blob that is needed and not there.
    #[error("blob {0} is not in the store")]
    MissingBlob(Digest),
    /// A blob whose bytes are not what its name says.
    #[error(transparent)]
    Verify(Box<VerifyError>),
    /// What was to be stored could not be read to its end, for the reason that its source gives.
    #[error(transparent)]
    Incoming(std::io::Error),
    /// A document longer than any real one.
    #[error("blob {digest} is too long for a document: {size_bytes} bytes, at most {limit_bytes}")]
    TooLong {
        /// Which blob.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// The most that is read into memory.
        limit_bytes: u64,
    },
    /// A manifest or index that cannot be understood.
    #[error("cannot understand the manifest {digest}")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// A configuration that cannot be understood.
    #[error("cannot understand the image configuration {digest}")]
    Config {
        /// Which.
        digest: Digest,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Nothing goes by that name.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// No failed step goes by that id.
    #[error("no failed step {0:?} is kept")]
    NoSuchFailedStep(String),
    /// Several images or failed steps go by that short identity.
    #[error("{text:?} is ambiguous: {}", matches.join(", "))]
    Ambiguous {
        /// What was given.
        text: String,
        /// What it could mean.
        matches: Vec<String>,
    },
    /// A table of contents that cannot be understood.
    #[error("the table of contents {path} is damaged", path = path.display())]
    Toc {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<LayerError>,
    },
    /// A layer that cannot be unpacked.
    #[error("cannot unpack the layer {digest}")]
    Unpack {
        /// The blob.
        digest: Digest,
        /// Why not.
        #[source]
        source: Box<LayerError>,
    },
    /// A layer that is not the one its image promises.
    #[error(transparent)]
    DiffId(Box<DiffIdError>),
    /// A layer that was there unpacked only, and is not any more.
    #[error(
        "the unpacked layer {0} is gone from the store; build again, and its step is made anew"
    )]
    MissingLayer(DiffId),
    /// A file system is mounted where something was to be removed.
    #[error("cannot remove {path}: something is mounted there", path = .0.display())]
    Mounted(PathBuf),
    /// The store cannot be cleaned by someone who is using it.
    #[error("the store {path} is in use by this process", path = .0.display())]
    InUse(PathBuf),
    /// The caller gave up waiting.
    #[error("cancelled while waiting for {0}")]
    Cancelled(&'static str),
}

/// A layer that is not the one its image promises.
#[derive(Debug, thiserror::Error)]
#[error(
    "the layer {digest} does not have the diffID its image says: expected {expected}, got {actual}"
)]
pub struct DiffIdError {
    /// The blob.
    pub digest: Digest,
    /// What the configuration says.
    pub expected: DiffId,
    /// What its content hashes to.
    pub actual: DiffId,
}

impl From<VerifyError> for StoreError {
    fn from(error: VerifyError) -> StoreError {
        StoreError::Verify(Box::new(error))
    }
}

impl StoreError {
    /// For `map_err`: what was tried, on what.
    pub(super) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::File {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// The same for system calls made directly.
    pub(super) fn call(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(rustix::io::Errno) -> StoreError {
        move |errno| StoreError::file(action, path)(errno.into())
    }
}
