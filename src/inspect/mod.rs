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

mod bytes;
mod contents;
mod error;
mod files;
mod image;
mod images;
mod instruction;
mod layers;
#[cfg(test)]
mod testing;
mod timeline;

pub use bytes::{Exact, Mode, PathText, TargetText, Text, escaped};
pub use contents::{Contents, LayerContents, Reading};
pub use error::InspectError;
pub use files::{FILES_SCHEMA, FileRow, FilesReport, SourceRow};
pub use image::{Documents, HistoryRow};
pub use images::{ImageRow, images};
pub use instruction::instruction;
pub use layers::{
    Blame, ChangeKind, ChangeRow, FileType, ImageHead, LAYERS_SCHEMA, LayerRow, LayersReport,
    Lines, Totals,
};
pub use timeline::{Event, Place, Timeline};
