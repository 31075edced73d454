//! What the gate says, as data: the `gate` of `strata layers --format json`.

use serde::Serialize;

use super::super::bytes::PathText;
use super::super::layers::{Blame, Lines};
use super::rule::{Measure, Rule};
use super::secrets::Evidence;
use crate::oci::{DiffId, Digest};

/// What the rules say of an image.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict<'a> {
    /// Whether no rule is broken.
    pub passed: bool,
    /// What the Dockerfile began with, if that is known.
    pub base: Option<GateBase<'a>>,
    /// One for each rule, in the order in which they were given.
    pub rules: Vec<Outcome<'a>>,
}

/// What a Dockerfile began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct GateBase<'a> {
    /// How many layers it brought.
    pub layers: usize,
    /// The `FROM`, where the image was built here: the line to blame for these layers.
    pub from: Option<Lines<'a>>,
}

/// What became of a rule.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome<'a> {
    /// The rule, as it can be written.
    pub rule: &'a Rule,
    /// Its name, [`Kind::name`](super::Kind::name).
    pub name: &'static str,
    /// Whether it is kept.
    pub passed: bool,
    /// What was compared: the sum for a rule on the whole image, the largest for one on layers or files; none for a rule without
    /// a bound.
    pub measured: Option<Measure>,
    /// What it was compared with.
    pub limit: Option<Measure>,
    /// Where it is broken.
    pub violations: Vec<Violation<'a>>,
    /// How many more places there are than are listed.
    pub more_violations: u64,
}

impl Outcome<'_> {
    /// All places, listed or not.
    pub fn violation_count(&self) -> u64 {
        self.violations.len() as u64 + self.more_violations
    }
}

/// Where a rule is broken.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Violation<'a> {
    /// What was compared; none for a rule without a bound.
    pub measured: Option<Measure>,
    /// The layer; none for the configuration, and for an image without layers. Of a rule on the whole image, the one that adds most.
    pub layer: Option<GateLayer<'a>>,
    /// The path, of a rule on paths.
    #[serde(flatten)]
    pub path: Option<PathText<'a>>,
    /// Its permissions, of a rule on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<super::super::bytes::Mode>,
    /// Why it counts as a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What a later layer does to the path. The bytes stay in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fate: Option<Fate<'a>>,
    /// Of a rule on the whole image, what adds most, the most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part<'a>>,
    /// What to do.
    pub change: String,
}

/// A layer, and who made it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct GateLayer<'a> {
    /// Where it came from.
    #[serde(flatten)]
    pub blame: Blame<'a>,
    /// Its blob.
    pub digest: Digest,
    /// Its identity, uncompressed.
    pub diff_id: DiffId,
    /// Whether the base brought it; none if that is not known.
    pub of_base: Option<bool>,
}

/// What became of a path.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Fate<'a> {
    /// Whether it is gone; else something else is in its place.
    pub deleted: bool,
    /// The layer that does it.
    #[serde(flatten)]
    pub by: Blame<'a>,
}

/// A layer's part of a sum.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Part<'a> {
    /// Bytes of the sum.
    pub bytes: u64,
    /// The layer.
    pub layer: GateLayer<'a>,
    /// The path that has most of it, or the folder; without a slash at its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What would save it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}
