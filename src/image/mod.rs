//! An image in any medium, and the one way to move it.
//!
//! For: the traits [`Source`] and [`Sink`], the function [`copy()`] between any two of them, the OCI image layout (which is
//! also the store's own format), archives of OCI and of docker, and the choice of a platform from an index.
//!
//! ```text
//! Source (layout, archive, registry, store) ── tree ── copy ──► Sink (layout, archive, registry, store)
//!                                               └ select: one platform of an index
//! ```
//!
//! Invariants: bytes are kept as they are (a manifest is never written anew unless something in it had to change); content
//! is put before what refers to it; every byte read is held against its descriptor's digest and size before it counts.
//!
//! Format: image-spec image-layout.md; docker's archive (`manifest.json`, `RepoTags`).
//!
//! Concurrency: blobs of an image are copied by several threads; sources and sinks are `Sync`.
//!
//! Knows no network protocol and no store.

pub mod archive;
mod copy;
#[cfg(test)]
mod foreign;
pub mod layout;
mod name;
mod select;
#[cfg(test)]
pub(crate) mod testing;
mod transport;
mod tree;
mod validate;
mod verify;

pub use copy::{Copied, CopyError, CopyOptions, Progress, Silent, copy};
pub use name::Name;
pub use select::{SelectError, Selection, select};
pub use transport::{Claim, ImageError, Put, Sink, Source};
pub use tree::{MAX_MANIFEST_BYTES, Platforms, Resolved, resolve};
pub use validate::{ConfigError, check_config};
pub use verify::{VerifyError, VerifyReader, read_verified};
