//! The form of a report on duplication.

use serde::Serialize;

use crate::oci::{DiffId, Digest};

/// The version of the form of [`DedupReport`].
pub const DEDUP_SCHEMA: &str = "strata.dedup.v1";

/// What is in images twice, or in vain.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DedupReport {
    /// [`DEDUP_SCHEMA`].
    pub schema: &'static str,
    /// Which images, in the order they were given.
    pub images: Vec<ImageWaste>,
    /// By layer.
    pub layers: LayerSums,
    /// By file content, over all layers, each once.
    pub contents: ContentSums,
    /// By content-defined chunk, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<ContentSums>,
    /// What was found, the most wasteful first.
    pub findings: Vec<Finding>,
    /// Findings that are too small to be listed, together.
    pub needless: Needless,
}

/// Findings that are not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Needless {
    /// How many.
    pub findings: u64,
    /// What they waste, bytes.
    pub wasted_bytes: u64,
}

/// An image's sums. `stored_bytes` = `distinct_bytes` + the four kinds of waste.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImageWaste {
    /// How it is called.
    pub name: String,
    /// The manifest of the platform.
    pub digest: Digest,
    /// The layers' blobs, bytes.
    pub size_bytes: u64,
    /// What of them no other image of the report has.
    pub own_size_bytes: u64,
    /// The contents of all files in all layers, bytes; hard links once.
    pub stored_bytes: u64,
    /// The contents that some path of the image shows, each once.
    pub distinct_bytes: u64,
    /// What of them lies in layers that other images of the report have, too.
    pub shared_bytes: u64,
    /// Overwritten by other content.
    pub overwritten_bytes: u64,
    /// Deleted by a later layer.
    pub deleted_bytes: u64,
    /// Stored again with the same content: chmod, chown, touch, mv.
    pub recopied_bytes: u64,
    /// The same content at several paths that are shown.
    pub duplicate_bytes: u64,
}

impl ImageWaste {
    /// All that is stored in vain or twice.
    pub fn wasted_bytes(&self) -> u64 {
        self.overwritten_bytes + self.deleted_bytes + self.recopied_bytes + self.duplicate_bytes
    }
}

/// Blobs of layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct LayerSums {
    /// Different layers.
    pub count: u64,
    /// Of them, those that several images have.
    pub shared_count: u64,
    /// The blobs of all images, each image's counted: what they would take without sharing, bytes.
    pub referenced_bytes: u64,
    /// The blobs of the different layers, bytes.
    pub stored_bytes: u64,
    /// Of them, those that only one image has.
    pub unique_bytes: u64,
    /// Of them, those that several images have.
    pub shared_bytes: u64,
}

/// Contents, or pieces of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ContentSums {
    /// How many there are.
    pub count: u64,
    /// How many different ones.
    pub distinct_count: u64,
    /// All, bytes.
    pub stored_bytes: u64,
    /// The different ones, bytes.
    pub distinct_bytes: u64,
    /// The different ones that are there once, bytes.
    pub unique_bytes: u64,
    /// The different ones that are there several times, each once, bytes.
    pub shared_bytes: u64,
    /// (copies - 1) × size, bytes: stored - distinct.
    pub wasted_bytes: u64,
}

impl ContentSums {
    /// Counts something that is there so many times.
    pub(super) fn add(&mut self, size_bytes: u64, copies: u64) {
        self.count += copies;
        self.distinct_count += 1;
        self.stored_bytes += size_bytes * copies;
        self.distinct_bytes += size_bytes;
        if copies > 1 {
            self.shared_bytes += size_bytes;
        } else {
            self.unique_bytes += size_bytes;
        }
        self.wasted_bytes += size_bytes * (copies - 1);
    }
}

/// What kind of waste it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A later layer has other content at the path.
    Overwritten,
    /// A later layer deletes it.
    Deleted,
    /// A later layer stores the same content at the same path again: chmod, chown, touch.
    Metadata,
    /// A later layer deletes it and stores the same content at another path.
    Moved,
    /// The image shows the same content at several paths.
    Duplicate,
    /// Different layers of different images have the same contents.
    AcrossImages,
}

/// Something that is wasted.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The images that it is so in.
    pub images: Vec<String>,
    /// How many bytes: (copies - 1) × size.
    pub wasted_bytes: u64,
    /// The same compressed, by the layer's own ratio: an estimate.
    pub compressed: Estimate,
    /// How many copies of files are needless.
    pub files: u64,
    /// The folder that has them all, or the one path.
    pub path: String,
    /// Some of the paths, the largest first.
    pub examples: Vec<String>,
    /// The layers: the one that has the needless bytes first, then what overwrites, deletes, or has them, too.
    pub layers: Vec<LayerPart>,
    /// What would save it.
    pub change: String,
}

impl Finding {
    /// The path for people, with its slash: the root says nothing of what is in it, so the largest file stands for the others.
    pub fn place(&self) -> String {
        match self.examples.first() {
            Some(largest) if self.path.is_empty() && self.files > 1 => {
                format!("/{largest} and {} more", self.files - 1)
            }
            _ => format!("/{}", self.path),
        }
    }
}

/// A number that is no measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Estimate {
    /// Bytes, about.
    pub estimated_bytes: u64,
}

/// A layer of a finding.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct LayerPart {
    /// An image that has the layer.
    pub image: String,
    /// Its number there, from 1, bottom first.
    pub layer: usize,
    /// The layer.
    pub diff_id: DiffId,
    /// The instruction, in the words of a Dockerfile.
    pub instruction: Option<String>,
    /// The Dockerfile, where the image was built here.
    pub file: Option<String>,
    /// The first line of the instruction there, from 1.
    pub line: Option<u32>,
}

/// A path of a report, as text for people: reports of waste name paths, and `strata files` has their bytes.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
