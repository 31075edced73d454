//! The specifications' types: what an image is, as data.
//!
//! For: digests, references, platforms, descriptors, manifests, indexes and image configurations (OCI image-spec 1.1,
//! distribution-spec 1.1, and docker's fields that BuildKit keeps in OCI configurations).
//!
//! Invariants: a [`Digest`] of the compressed bytes, a [`DiffId`] of an uncompressed layer and a [`ChainId`] of a stack
//! are three types; what parses is valid; what is written has one byte form (keys in the order of the specification,
//! maps sorted, Go's HTML escaping in configurations), so that equal content has equal digests.
//!
//! The crate `oci-spec` is the oracle of the tests and not the base of these types: it keeps annotations in hash maps,
//! so that its bytes change from run to run, and has no place for `Healthcheck`, `OnBuild`, `Shell` and `ArgsEscaped`.
//!
//! Does no I/O and knows no store.

mod config;
mod digest;
mod manifest;
mod platform;
mod reference;

pub use config::{Config, Empty, Healthcheck, History, ImageConfig, RootFs};
pub use digest::{Algorithm, ChainId, DiffId, Digest, DigestError, HashState, Hasher};
pub use manifest::{
    Descriptor, Document, Index, Manifest, ManifestError, MediaType, to_pretty_json,
};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
