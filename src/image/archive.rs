//! Images in one file: a tar of an image layout, and docker's form of it.
//!
//! ```text
//! OCI      blobs/sha256/<hex>… index.json oci-layout                 (skopeo's oci-archive:, podman, containerd)
//! docker   the same and manifest.json                                (docker load, podman load)
//! docker   manifest.json <hex>.json <id>/layer.tar… repositories     (docker save before 25: read only)
//! ```
//!
//! [`Archive`] reads all three, also compressed and from a pipe (through a temporary file, for members are read in any
//! order). [`ArchiveWriter`] writes the first two as a stream: sorted, without times and owners, so that equal images give
//! equal bytes.

mod docker;
mod fresh;
mod reader;
mod tar;
mod writer;

pub use reader::Archive;
pub use writer::{ArchiveWriter, Form};

#[cfg(test)]
mod tests;
