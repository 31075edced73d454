//! `strata layers`: a row for each layer of an image.

use std::collections::HashSet;

use serde::Serialize;

use super::bytes::PathText;
use super::gate::Verdict;
use super::timeline::{Event, Place, Timeline};
use super::{Contents, LayerContents};
use crate::layer::{EntryRef, KindRef};
use crate::oci::{DiffId, Digest, MediaType, Platform};

/// The version of the form of [`LayersReport`].
pub const LAYERS_SCHEMA: &str = "strata.layers.v1";

/// An image, layer by layer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LayersReport<'a> {
    /// [`LAYERS_SCHEMA`].
    pub schema: &'static str,
    /// Which image.
    pub image: ImageHead<'a>,
    /// All layers together.
    pub totals: Totals,
    /// Bottom first.
    pub layers: Vec<LayerRow<'a>>,
    /// What rules say of it, if some were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Verdict<'a>>,
}

/// Which image a report is about.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ImageHead<'a> {
    /// How it is called.
    pub name: &'a str,
    /// The manifest of the platform.
    pub digest: Digest,
    /// The image ID: the digest of the configuration.
    pub id: Digest,
    /// Where it runs.
    pub platform: Platform,
    /// When it was made, RFC 3339.
    pub created: Option<&'a str>,
    /// How many bytes of layers (compressed) were read for the report; 0 where tables of contents were at hand.
    pub read_bytes: u64,
}

impl<'a> ImageHead<'a> {
    /// Of an image.
    pub fn new(contents: &'a Contents) -> ImageHead<'a> {
        let documents = &contents.documents;
        ImageHead {
            name: &documents.name,
            digest: documents.descriptor.digest,
            id: documents.manifest.config.digest,
            platform: documents.config.platform(),
            created: documents.config.created.as_deref(),
            read_bytes: contents.read_bytes,
        }
    }
}

/// Sums over all layers. `unpacked_bytes` = `seen_bytes` + `wasted_bytes`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Totals {
    /// The layers' blobs, bytes.
    pub size_bytes: u64,
    /// The contents of all files in all layers, bytes; hard links once.
    pub unpacked_bytes: u64,
    /// What of them the image shows, bytes.
    pub seen_bytes: u64,
    /// What of them it does not: overwritten, or deleted by a later layer.
    pub wasted_bytes: u64,
    /// `seen_bytes` / `unpacked_bytes`, 0..=1; 1 for an image without files.
    pub efficiency_ratio: f64,
    /// Paths that the image shows, without directories.
    pub files: u64,
    /// Directories that it shows.
    pub directories: u64,
}

/// Where a layer came from.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Blame<'a> {
    /// The layer's number, from 1, bottom first.
    pub layer: usize,
    /// The instruction, in the words of a Dockerfile, where the history tells.
    pub instruction: Option<&'a str>,
    /// The Dockerfile's lines, where the image was built here.
    pub dockerfile: Option<Lines<'a>>,
}

/// Lines of a Dockerfile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Lines<'a> {
    /// Its name.
    pub file: &'a str,
    /// The first line, from 1.
    pub line: u32,
    /// The last.
    pub end_line: u32,
    /// The stage's name, or `stage-N`.
    pub stage: &'a str,
}

impl<'a> Blame<'a> {
    /// Of the layer at this place, from 0.
    pub fn new(layer: usize, contents: &'a LayerContents) -> Blame<'a> {
        Blame {
            layer: layer + 1,
            instruction: contents.instruction.as_deref(),
            dockerfile: contents.made.as_ref().map(|made| Lines {
                file: &made.dockerfile,
                line: made.line,
                end_line: made.end_line,
                stage: &made.stage,
            }),
        }
    }
}

/// A layer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LayerRow<'a> {
    /// Where it came from.
    #[serde(flatten)]
    pub blame: Blame<'a>,
    /// The history's `created_by`, as it is.
    pub created_by: Option<&'a str>,
    /// Its blob.
    pub digest: Digest,
    /// Its identity, uncompressed.
    pub diff_id: DiffId,
    /// The type of its blob.
    pub media_type: MediaType,
    /// The length of its blob, bytes.
    pub size_bytes: u64,
    /// What its files hold, bytes; hard links once.
    pub unpacked_bytes: u64,
    /// Paths that were not there before.
    pub added: u64,
    /// Paths that were there before, and are something else now. Directories that only got another time do not count.
    pub changed: u64,
    /// Paths that were there before, and are gone: all that was in a removed directory counts.
    pub removed: u64,
    /// What of its own `unpacked_bytes` the image does not show.
    pub wasted_bytes: u64,
    /// What of the layers below it hides, bytes: the waste that this layer is the cause of.
    pub hidden_bytes: u64,
    /// Each path, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<ChangeRow<'a>>>,
}

/// What a layer does to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ChangeRow<'a> {
    /// The path, without a slash at its beginning.
    #[serde(flatten)]
    pub path: PathText<'a>,
    /// What is done to it.
    pub change: ChangeKind,
    /// What it is; of a removed path, what it was.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// The content's length, bytes; of a removed path, what it was. 0 for what is no file.
    pub size_bytes: u64,
    /// Whether the layer holds these bytes in vain: a later layer overwrites or deletes them.
    pub wasted: bool,
}

/// What is done to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was something else.
    Changed,
    /// It is gone.
    Removed,
}

/// What is at a path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A further name of a file.
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// What a layer says of a path that it removes; no tree shows one.
    Whiteout,
}

impl FileType {
    /// Of an entry.
    pub(super) fn of(entry: EntryRef<'_>) -> FileType {
        match entry.kind {
            KindRef::File { .. } => FileType::File,
            KindRef::Directory { .. } => FileType::Directory,
            KindRef::Symlink { .. } => FileType::Symlink,
            KindRef::HardLink { .. } => FileType::HardLink,
            KindRef::CharDevice { .. } => FileType::CharDevice,
            KindRef::BlockDevice { .. } => FileType::BlockDevice,
            KindRef::Fifo => FileType::Fifo,
            KindRef::Whiteout => FileType::Whiteout,
        }
    }
}

/// The length of an entry's content; 0 for what has none of its own.
pub(super) fn own_bytes(entry: EntryRef<'_>) -> u64 {
    match entry.kind {
        KindRef::File { size_bytes, .. } => size_bytes,
        _ => 0,
    }
}

/// The files whose bytes some path shows.
pub(super) fn live(timeline: &Timeline) -> HashSet<Place> {
    let seen = timeline.seen().iter();
    seen.filter_map(|p| timeline.content(*p)).collect()
}

/// A path of a layer, until all layers are on.
#[derive(Clone, Copy)]
struct Draft {
    change: ChangeKind,
    place: Place,
}

#[derive(Clone, Default)]
struct Counts {
    added: u64,
    changed: u64,
    removed: u64,
    hidden_bytes: u64,
    files: Vec<Draft>,
}

impl<'a> LayersReport<'a> {
    /// The report on an image; with `files`, every path of every layer.
    pub fn new(contents: &'a Contents, files: bool) -> LayersReport<'a> {
        let mut timeline = Timeline::new(contents.tocs());
        let mut counts = vec![Counts::default(); contents.layers.len()];
        // How many names each file has that are seen; the layer that takes the last is who hides its bytes.
        let mut names: std::collections::HashMap<Place, u32> = Default::default();
        for layer in &mut counts {
            let mut lost: Vec<Place> = Vec::new();
            timeline.step(|t, event| {
                let mut draft = |change, place| {
                    if files {
                        layer.files.push(Draft { change, place });
                    }
                };
                match event {
                    Event::Added { now } => {
                        layer.added += 1;
                        draft(ChangeKind::Added, now);
                    }
                    Event::Changed { was, now } => {
                        layer.changed += 1;
                        draft(ChangeKind::Changed, now);
                        lost.extend(t.content(was));
                    }
                    Event::Touched { .. } => {}
                    Event::Removed { was, .. } => {
                        layer.removed += 1;
                        draft(ChangeKind::Removed, was);
                        lost.extend(t.content(was));
                    }
                }
                if let Event::Added { now } | Event::Changed { now, .. } = event
                    && let Some(content) = t.content(now)
                {
                    *names.entry(content).or_default() += 1;
                }
            });
            for content in lost {
                let count = names.entry(content).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    layer.hidden_bytes += own_bytes(timeline.entry(content));
                }
            }
        }
        LayersReport::assemble(contents, &timeline, counts, files)
    }

    fn assemble(
        contents: &'a Contents,
        timeline: &Timeline,
        counts: Vec<Counts>,
        files: bool,
    ) -> LayersReport<'a> {
        let live = live(timeline);
        let mut totals = Totals::default();
        for place in timeline.seen() {
            if timeline.entry(*place).is_dir() {
                totals.directories += 1;
            } else {
                totals.files += 1;
            }
        }
        let mut rows = Vec::with_capacity(contents.layers.len());
        for (at, (layer, counts)) in contents.layers.iter().zip(counts).enumerate() {
            let (mut unpacked_bytes, mut wasted_bytes) = (0, 0);
            for (index, entry) in layer.toc.refs().enumerate() {
                let size_bytes = own_bytes(entry);
                unpacked_bytes += size_bytes;
                if size_bytes > 0 && !live.contains(&Place { layer: at, index }) {
                    wasted_bytes += size_bytes;
                }
            }
            totals.size_bytes += layer.blob.size;
            totals.unpacked_bytes += unpacked_bytes;
            totals.wasted_bytes += wasted_bytes;
            let change = |draft: Draft| {
                let entry = contents.layers[draft.place.layer].toc.at(draft.place.index);
                ChangeRow {
                    path: PathText::new(entry.path),
                    change: draft.change,
                    kind: FileType::of(entry),
                    size_bytes: own_bytes(entry),
                    wasted: draft.change != ChangeKind::Removed
                        && matches!(entry.kind, KindRef::File { .. })
                        && !live.contains(&draft.place),
                }
            };
            rows.push(LayerRow {
                blame: Blame::new(at, layer),
                created_by: layer.created_by.as_deref(),
                digest: layer.blob.digest,
                diff_id: layer.diff_id,
                media_type: layer.blob.media_type.clone(),
                size_bytes: layer.blob.size,
                unpacked_bytes,
                added: counts.added,
                changed: counts.changed,
                removed: counts.removed,
                wasted_bytes,
                hidden_bytes: counts.hidden_bytes,
                files: files.then(|| counts.files.into_iter().map(change).collect()),
            });
        }
        totals.seen_bytes = totals.unpacked_bytes - totals.wasted_bytes;
        totals.efficiency_ratio = ratio(totals.seen_bytes, totals.unpacked_bytes);
        LayersReport {
            schema: LAYERS_SCHEMA,
            image: ImageHead::new(contents),
            totals,
            layers: rows,
            gate: None,
        }
    }
}

/// A part of a whole, 0..=1; 1 where the whole is nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio is shown with three digits; a double has fifteen"
)]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}
