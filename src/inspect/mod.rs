//! Reports on images and the store, as plain data.
//!
//! For: the listings and descriptions that `strata images`, `history`, `inspect`, `layers`, `files`, `diff` and `why` show.
//! Every report derives `Serialize`; its JSON says in `schema` which version of the form it has, and `schema/` has the form as JSON
//! Schema. The command line renders it as text or JSON.
//!
//! ```text
//! Source ─► Documents ─► Contents (tables of contents, lineage) ─► Timeline ─► LayersReport, FilesReport, WhyReport, DiffReport
//! ```
//!
//! [`gate`] holds an image to rules; it takes the words of `dockerfile` for its patterns and suggestions.
//!
//! [`images()`] lists a store; [`Documents`] is one image, in whatever medium; [`Contents`] adds what its layers hold; a
//! [`Timeline`] puts the layers on one another and says what each does; [`Paths`] has all of that by path, for whoever looks at one
//! layer after another. What the store costs on disk is
//! [`crate::store::Store::df`].
//!
//! Invariants: nothing of an image is changed; a report is computed from manifests, configurations and tables of contents. A layer
//! without a table is read once, and its table kept in the store, if there is one. Paths are bytes: text in JSON, and base64 beside
//! it where text would lose some. Numbers are exact; an estimate says that it is one. What cannot be read is an error, not a gap.
//!
//! Words: an image *shows* what an overlay of its layers does. Bytes are those of the contents of files; a file with several
//! names (hard links of one layer) has them once. They are *wasted* where no path that the image shows has them. Layers are counted
//! from 1, bottom first.

mod bytes;
mod contents;
mod dedup;
mod diff;
mod error;
mod files;
mod folder;
pub mod gate;
mod image;
mod images;
mod instruction;
mod layers;
mod paths;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod testing;
mod timeline;
mod why;

pub use bytes::{Exact, Mode, PathText, TargetText, Text, escaped};
pub use contents::{Contents, LayerContents, Reading};
pub use dedup::{
    Chunks, ContentSums, DEDUP_SCHEMA, DedupReport, Estimate, Finding, FindingKind, ImageWaste,
    LayerPart, LayerSums, Needless, Survey,
};
pub use diff::{
    ConfigChange, DIFF_SCHEMA, DiffFiles, DiffReport, DiffRow, DiffState, DiffTotals, Side,
};
pub use error::InspectError;
pub use files::{FILES_SCHEMA, FileRow, FileRows, FilesReport, SourceRow};
pub use folder::folder;
pub use image::{Documents, HistoryRow};
pub use images::{ImageRow, images};
pub use instruction::instruction;
pub use layers::{
    Blame, ChangeKind, ChangeRow, FileType, ImageHead, LAYERS_SCHEMA, LayerRow, LayersReport,
    Lines, Totals,
};
pub use paths::{PathStep, Paths, StepKind, Stored};
pub use timeline::{Event, Place, Timeline};
pub use why::{WHY_SCHEMA, WhyReport, WhyState, WhyStep};
