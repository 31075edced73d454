//! What one image stores in vain or twice.

use std::collections::HashMap;

use super::super::Contents;
use super::super::layers::own_bytes;
use super::super::timeline::{Event, Place, Timeline};
use super::report::FindingKind;
use crate::layer::{EntryRef, KindRef};
use crate::oci::Digest;

/// A needless copy of a content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needless {
    pub(super) kind: FindingKind,
    /// Where the needless bytes are.
    pub(super) place: Place,
    /// The entry that overwrites, re-copies or shows them; of what is deleted, only its layer counts.
    pub(super) by: Place,
}

/// The waste of an image.
pub(super) struct Waste {
    pub(super) timeline: Timeline,
    pub(super) needless: Vec<Needless>,
    pub(super) stored_bytes: u64,
    pub(super) distinct_bytes: u64,
}

/// The content's identity; a file of which it is not known is like no other.
fn identity(entry: EntryRef<'_>) -> Option<Digest> {
    match entry.kind {
        KindRef::File { content, .. } => content,
        _ => None,
    }
}

/// A file's bytes that the last path that showed them has just lost.
struct Lost {
    content: Place,
    /// What is at the path now, if something is.
    now: Option<Place>,
}

impl Waste {
    /// Of an image. What has no bytes wastes none.
    pub(super) fn of(contents: &Contents) -> Waste {
        let mut timeline = Timeline::new(contents.tocs());
        let mut needless = Vec::new();
        // How many paths show each file.
        let mut names: HashMap<Place, u32> = HashMap::new();
        loop {
            let mut lost: Vec<Lost> = Vec::new();
            let mut brought: Vec<Place> = Vec::new();
            let layer = timeline.step(|t, event| {
                let (was, now) = match event {
                    Event::Added { now } => (None, Some(now)),
                    Event::Changed { was, now } => (Some(was), Some(now)),
                    Event::Removed { was, .. } => (Some(was), None),
                    Event::Touched { .. } => (None, None),
                };
                if let Some(content) = now.and_then(|now| t.content(now)) {
                    *names.entry(content).or_default() += 1;
                    brought.push(content);
                }
                lost.extend(was.and_then(|was| t.content(was)).map(|content| Lost {
                    content,
                    now: now.map(|now| t.content(now).unwrap_or(now)),
                }));
            });
            let Some(layer) = layer else { break };
            // Contents that the layer stores, each with its place: a lost one among them was moved.
            let mut stored: HashMap<Digest, Place> = HashMap::new();
            if !lost.is_empty() {
                for place in brought.into_iter().filter(|p| p.layer == layer) {
                    if let Some(digest) = identity(timeline.entry(place)) {
                        stored.entry(digest).or_insert(place);
                    }
                }
            }
            for Lost { content, now } in lost {
                let count = names.entry(content).or_default();
                *count = count.saturating_sub(1);
                let entry = timeline.entry(content);
                if *count > 0 || own_bytes(entry) == 0 {
                    continue;
                }
                let digest = identity(entry);
                let same =
                    |place: &Place| digest.is_some() && identity(timeline.entry(*place)) == digest;
                let moved = digest.and_then(|d| stored.get(&d)).copied();
                let (kind, by) = match (now.filter(same), moved, now) {
                    (Some(again), ..) => (FindingKind::Metadata, again),
                    (None, Some(there), _) => (FindingKind::Moved, there),
                    (None, None, Some(other)) => (FindingKind::Overwritten, other),
                    (None, None, None) => (FindingKind::Deleted, Place { layer, index: 0 }),
                };
                needless.push(Needless {
                    kind,
                    place: content,
                    by,
                });
            }
        }
        let mut waste = Waste {
            timeline,
            needless,
            stored_bytes: 0,
            distinct_bytes: 0,
        };
        waste.duplicates(&names);
        waste
    }

    /// What paths show twice: the lowest layer's copy, and in it the first, is the one that counts.
    fn duplicates(&mut self, names: &HashMap<Place, u32>) {
        let mut first: HashMap<Digest, Place> = HashMap::new();
        for (layer, toc) in self.timeline.tocs().iter().enumerate() {
            for (index, entry) in toc.refs().enumerate() {
                let size_bytes = own_bytes(entry);
                if size_bytes == 0 {
                    continue;
                }
                self.stored_bytes += size_bytes;
                let place = Place { layer, index };
                if names.get(&place).is_none_or(|count| *count == 0) {
                    // No path shows it: it is wasted in another way.
                    continue;
                }
                let earlier = identity(entry).and_then(|digest| match first.entry(digest) {
                    std::collections::hash_map::Entry::Occupied(there) => Some(*there.get()),
                    std::collections::hash_map::Entry::Vacant(slot) => {
                        slot.insert(place);
                        None
                    }
                });
                match earlier {
                    None => self.distinct_bytes += size_bytes,
                    Some(by) => self.needless.push(Needless {
                        kind: FindingKind::Duplicate,
                        place,
                        by,
                    }),
                }
            }
        }
    }
}
