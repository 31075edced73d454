//! Reports on images and the store, as plain data.
//!
//! For: the listings and descriptions that `strata images`, `history` and `inspect` show. Everything here
//! derives `Serialize`; the command line renders it as text or JSON.
//!
//! Invariants: read only; a report is computed from manifests, configurations and tables of contents, never by opening a
//! layer that has a table; what cannot be read is an error, not a gap.
//!
//! [`images()`] lists a store; [`Documents`] is one image, in whatever medium, and gives its history and layers. What the store
//! costs on disk is [`crate::store::Store::df`].

mod error;
mod image;
mod images;

pub use error::InspectError;
pub use image::{Documents, HistoryRow, LayerRow};
pub use images::{ImageRow, images};
