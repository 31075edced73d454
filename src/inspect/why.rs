//! `strata why`: what the layers of an image did to one path.

use serde::Serialize;

use super::bytes::{Mode, PathText, TargetText};
use super::files::SourceRow;
use super::layers::{Blame, FileType, ImageHead, own_bytes};
use super::timeline::{Event, Place, Timeline};
use super::{ChangeKind, Contents};
use crate::layer::{EntryRef, KindRef};
use crate::oci::Digest;
use crate::store::Made;

/// The version of the form of [`WhyReport`].
pub const WHY_SCHEMA: &str = "strata.why.v1";

/// The history of a path.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WhyReport<'a> {
    /// [`WHY_SCHEMA`].
    pub schema: &'static str,
    /// Which image.
    pub image: ImageHead<'a>,
    /// Which path.
    #[serde(flatten)]
    pub path: PathText<'a>,
    /// Whether the image shows something there.
    pub present: bool,
    /// What was done to it, the first layer first. Empty: the path was never there.
    pub steps: Vec<WhyStep<'a>>,
}

/// What a layer did to the path.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WhyStep<'a> {
    /// Which layer, and what made it.
    #[serde(flatten)]
    pub blame: Blame<'a>,
    /// What it did.
    pub change: ChangeKind,
    /// What of it is other than before, where something was there: `content`, `type`, `target`, `mode`, `owner`, `time`, `attributes`,
    /// `device`. Empty where it was only written again.
    pub what: Vec<&'static str>,
    /// Of a path that is removed with a folder above it, that folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_with: Option<String>,
    /// What is there now; nothing where it is removed.
    pub now: Option<WhyState<'a>>,
}

/// What is at a path.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WhyState<'a> {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Permissions.
    pub mode: Mode,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds since 1970, UTC.
    pub mtime: i64,
    /// The length of a file.
    pub size_bytes: u64,
    /// The digest of a file's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// Where a link leads.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetText<'a>>,
    /// What COPY or ADD made it from, where the image was built here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceRow<'a>>,
}

impl<'a> WhyReport<'a> {
    /// The report on `path` (clean; no link in it is followed).
    pub fn new(contents: &'a Contents, path: &'a [u8]) -> WhyReport<'a> {
        let mut timeline = Timeline::new(contents.tocs());
        let mut steps = Vec::new();
        loop {
            let mut event_here = None;
            let layer = timeline.step(|t, event| {
                let here = |place: Place| t.entry(place).path == path;
                let found = match event {
                    Event::Added { now } if here(now) => Some((ChangeKind::Added, None, Some(now))),
                    Event::Changed { was, now } | Event::Touched { was, now } if here(now) => {
                        Some((ChangeKind::Changed, Some(was), Some(now)))
                    }
                    Event::Removed { was, by } if here(was) => {
                        event_here =
                            Some((ChangeKind::Removed, Some(was), None, Some(by.path.to_vec())));
                        None
                    }
                    _ => None,
                };
                if let Some((change, was, now)) = found {
                    event_here = Some((change, was, now, None));
                }
            });
            let Some(layer) = layer else { break };
            let Some((change, was, now, by)) = event_here else {
                continue;
            };
            let what = match (was, now) {
                (Some(was), Some(now)) => differences(&timeline, was, &timeline, now),
                _ => Vec::new(),
            };
            steps.push(WhyStep {
                blame: Blame::new(layer, &contents.layers[layer]),
                change,
                what,
                removed_with: by
                    .filter(|by| by != path)
                    .map(|by| String::from_utf8_lossy(&by).into_owned()),
                now: now.map(|now| {
                    let at = |p: Place| contents.layers[p.layer].toc.at(p.index);
                    let made = contents.layers[now.layer].made.as_ref();
                    state(&at, made, &timeline, now)
                }),
            });
        }
        WhyReport {
            schema: WHY_SCHEMA,
            image: ImageHead::new(contents),
            path: PathText::new(path),
            present: timeline.find(path).is_some(),
            steps,
        }
    }
}

/// What is at a place; `at` is the entry, `made` what made the layer.
pub(super) fn state<'a>(
    at: &dyn Fn(Place) -> EntryRef<'a>,
    made: Option<&'a Made>,
    timeline: &Timeline,
    place: Place,
) -> WhyState<'a> {
    let entry = at(place);
    let bytes = timeline.content(place).map(at);
    let meta = bytes.unwrap_or(entry);
    let source = made
        .filter(|_| !entry.is_dir())
        .and_then(|m| m.source_of(entry.path));
    WhyState {
        kind: FileType::of(entry),
        mode: Mode(meta.mode),
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        size_bytes: bytes.map_or(0, own_bytes),
        content: bytes.and_then(|e| match e.kind {
            KindRef::File { content, .. } => content,
            _ => None,
        }),
        target: TargetText::of(entry),
        source: source.map(|(path, origin)| SourceRow::new(path, origin)),
    }
}

/// In what two things at a path differ. A further name of a file is the file.
pub(super) fn differences(
    one: &Timeline,
    was: Place,
    other: &Timeline,
    now: Place,
) -> Vec<&'static str> {
    let resolve = |t: &Timeline, p: Place| t.content(p).unwrap_or(p);
    let old = one.entry(resolve(one, was));
    let new = other.entry(resolve(other, now));
    let mut what = Vec::new();
    match (old.kind, new.kind) {
        (
            KindRef::File {
                size_bytes: a,
                content: x,
            },
            KindRef::File {
                size_bytes: b,
                content: y,
            },
        ) if a != b || x != y => what.push("content"),
        (KindRef::Directory { .. }, KindRef::Directory { .. }) => {}
        (KindRef::Symlink { target: a }, KindRef::Symlink { target: b }) if a != b => {
            what.push("target");
        }
        // All else differs with it.
        (a, b) if std::mem::discriminant(&a) != std::mem::discriminant(&b) => return vec!["type"],
        (a, b) if a != b => what.push("device"),
        _ => {}
    }
    let is_link = matches!(new.kind, KindRef::Symlink { .. });
    if old.mode != new.mode && !is_link {
        what.push("mode");
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        what.push("owner");
    }
    if !old.xattrs().eq(new.xattrs()) {
        what.push("attributes");
    }
    if old.mtime != new.mtime {
        what.push("time");
    }
    what
}

#[cfg(test)]
mod tests {
    use super::super::testing::image;
    use super::*;

    #[test]
    fn the_history_of_a_path() {
        let image = image(&[
            "d d\nf d/a 1*5",
            "d d\nf d/a 1*5 600",
            "f other 1",
            "w d",
            "d d\nf d/a 2",
        ]);
        let report = WhyReport::new(&image, b"d/a");
        let steps: Vec<String> = report
            .steps
            .iter()
            .map(|s| {
                let with = s.removed_with.clone().unwrap_or_default();
                format!(
                    "{} {:?} {}{with}",
                    s.blame.layer,
                    s.change,
                    s.what.join(",")
                )
            })
            .collect();
        let want = ["1 Added ", "2 Changed mode", "4 Removed d", "5 Added "];
        assert_eq!(steps, want);
        assert!(report.present);
        assert_eq!(report.steps[1].now.as_ref().unwrap().mode, Mode(0o600));
        let gone = WhyReport::new(&image, b"never");
        assert!(gone.steps.is_empty() && !gone.present);
    }
}
