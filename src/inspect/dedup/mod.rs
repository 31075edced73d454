//! `strata dedup`: what is in images twice, or in vain, and what would save it.
//!
//! ```text
//! Contents of one image ─ Survey::add ─► waste within it (Timeline) ─► findings, sums
//!                                   └──► what its layers hold ───────► sums over all, findings across images
//! ```
//!
//! Within an image every stored byte is counted once: `stored = distinct + wasted`, where distinct are the contents that some path
//! shows, each once, and the findings of the image add up to what is wasted. Across images each layer counts once, however many
//! images have it; what is wasted there is `(copies - 1) × size` of every content.

mod advice;
mod chunks;
#[cfg(test)]
mod corpus;
mod report;
mod survey;
mod waste;

pub use chunks::Chunks;
pub use report::{
    ContentSums, DEDUP_SCHEMA, DedupReport, Estimate, Finding, FindingKind, ImageWaste, LayerPart,
    LayerSums, Needless,
};
pub use survey::Survey;
