//! What keeps a report from being made.

use crate::image::{ConfigError, CopyError, ImageError};
use crate::layer::LayerError;
use crate::oci::{DiffId, Digest, ManifestError};
use crate::store::StoreError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The medium could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no image for the platform, or its manifest cannot be read.
    #[error(transparent)]
    Resolve(Box<CopyError>),
    /// The root is neither a manifest nor an index.
    #[error("cannot understand the manifest of {image}")]
    Document {
        /// How the image is called.
        image: String,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// A configuration longer than any real one.
    #[error(
        "the configuration of {image} is too long: {size_bytes} bytes, at most {limit_bytes} are read"
    )]
    TooLong {
        /// How the image is called.
        image: String,
        /// What the manifest says.
        size_bytes: u64,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// A table of contents that the report was made from is there no longer.
    #[error(
        "the table of contents of layer {diff_id} is gone; run the command again to make it anew"
    )]
    NoTable {
        /// Which layer.
        diff_id: Box<DiffId>,
    },
    /// The configuration could not be read to its end.
    #[error("cannot read the configuration {digest} of {image}")]
    Read {
        /// How the image is called.
        image: String,
        /// Which blob.
        digest: Digest,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The configuration is not the one of its manifest, or no configuration.
    #[error("cannot understand the configuration of {image}")]
    Config {
        /// How the image is called.
        image: String,
        /// Why not.
        #[source]
        source: Box<ConfigError>,
    },
    /// A layer could not be read to its end.
    #[error("cannot read the layer {digest}")]
    Layer {
        /// Its blob.
        digest: Digest,
        /// Why not.
        #[source]
        source: Box<LayerError>,
    },
    /// A layer is not the one of its manifest and configuration.
    #[error(
        "the layer {digest} is not what the image says: its diffID should be {expected}, what was read has {actual}"
    )]
    WrongLayer {
        /// Its blob.
        digest: Digest,
        /// What the configuration says.
        expected: Box<DiffId>,
        /// What it is.
        actual: Box<DiffId>,
    },
    /// A rule on the Dockerfile's own layers, of an image whose base nobody knows.
    #[error("cannot judge {rule:?}: it is not known which layers of {image} its base brought")]
    NoBase {
        /// How the image is called.
        image: String,
        /// The rule.
        rule: String,
    },
    /// A folder that was to be compared could not be read.
    #[error("cannot read {}", .path.display())]
    Folder {
        /// What of it.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}
