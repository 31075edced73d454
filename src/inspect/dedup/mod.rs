//! `strata dedup`: what is in images twice, or in vain, and what would save it.
//!
//! ```text
//! Contents of one image ─ Survey::add ─► Chain: its layers on one another ─► sums of the image
//!                         │               └─► Ledger: needless copies, and the images that have them ─► findings within images
//!                         └─► contents of each layer, once ─► sums over all ─► findings across images
//! ```
//!
//! The layers of the image before stay on one another as far as the next one has them, too: of images in the order of their chains,
//! each base is looked at once.
//!
//! Within an image every stored byte is counted once: `stored = distinct + wasted`, where distinct are the contents that some path
//! shows, each once, and the findings of the image add up to what is wasted. A needless copy in a layer is in one finding, which
//! names all images that have it so. Across images each layer counts once, however many
//! images have it; what is wasted there is `(copies - 1) × size` of every content.

mod advice;
mod chunks;
#[cfg(test)]
mod corpus;
mod findings;
mod ledger;
mod report;
mod survey;
mod waste;

pub use chunks::Chunks;
pub use report::{
    ContentSums, DEDUP_SCHEMA, DedupReport, Estimate, Finding, FindingKind, ImageWaste, LayerPart,
    LayerSums, Needless,
};
pub use survey::Survey;
