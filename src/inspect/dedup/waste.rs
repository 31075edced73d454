//! What an image stores in vain or twice, layer by layer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::layers::own_bytes;
use super::super::timeline::{Event, Place, Timeline};
use super::report::FindingKind;
use crate::layer::Toc;

/// A content, by a number for each digest; 0 is a content that no table knows the digest of, which is like no other.
pub(super) type ContentId = u32;

/// A needless copy of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Needless {
    pub(super) kind: FindingKind,
    /// Where the needless bytes are.
    pub(super) place: Place,
    /// The entry that overwrites, re-copies or shows them; of what is deleted, only its layer counts.
    pub(super) by: Place,
    pub(super) bytes: u64,
}

/// What of a layer becomes needless or needed.
pub(super) enum Turn {
    Needless(Needless),
    Needed(Needless),
}

/// The waste of the layers that are on one another. Layers are put on and taken off at the top, and either costs about what that
/// layer changes: images on the same base share the work on the base.
pub(super) struct Chain {
    timeline: Timeline,
    frames: Vec<Frame>,
    /// The copies of each content that some path shows, in the order of the layers: the first is the one that counts.
    copies: HashMap<ContentId, Vec<Place>>,
    pub(super) sums: Sums,
}

/// The sums of a chain, bytes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sums {
    pub(super) stored: u64,
    pub(super) distinct: u64,
    pub(super) overwritten: u64,
    pub(super) deleted: u64,
    pub(super) recopied: u64,
    pub(super) duplicate: u64,
}

/// A layer, and what it takes to take it off again.
struct Frame {
    /// How many paths show the bytes of each entry.
    names: Vec<u32>,
    contents: Arc<[ContentId]>,
    needless_bytes: u64,
    /// As they were before.
    sums: Sums,
    renamed: Vec<(Place, u32)>,
    recopied: Vec<(ContentId, Vec<Place>)>,
    /// What the layer hides.
    hidden: Vec<Needless>,
}

/// A file's bytes that the last path that showed them has just lost.
struct Lost {
    content: Place,
    /// What is at the path now, if something is.
    now: Option<Place>,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain {
            timeline: Timeline::new(Vec::new()),
            frames: Vec::new(),
            copies: HashMap::new(),
            sums: Sums::default(),
        }
    }
}

impl Chain {
    /// How many layers are on.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// How many bytes of a layer are needless.
    pub(super) fn needless_bytes(&self, layer: usize) -> u64 {
        self.frames[layer].needless_bytes
    }

    /// Puts a layer on. `contents` has the content of each entry; `turn` hears of all that changes.
    pub(super) fn put_on(
        &mut self,
        toc: &Arc<Toc>,
        contents: Arc<[ContentId]>,
        turn: &mut impl FnMut(Turn),
    ) {
        let layer = self.frames.len();
        let mut lost: Vec<Lost> = Vec::new();
        let mut named: Vec<Place> = Vec::new();
        self.timeline.put_on(Arc::clone(toc), |t, event| {
            let (was, now) = match event {
                Event::Added { now } => (None, Some(now)),
                Event::Changed { was, now } => (Some(was), Some(now)),
                Event::Removed { was, .. } => (Some(was), None),
                Event::Touched { .. } => (None, None),
            };
            named.extend(now.and_then(|now| t.content(now)));
            lost.extend(was.and_then(|was| t.content(was)).map(|content| Lost {
                content,
                now: now.map(|now| t.content(now).unwrap_or(now)),
            }));
        });
        self.frames.push(Frame {
            names: vec![0; toc.len()],
            contents,
            needless_bytes: 0,
            sums: self.sums,
            renamed: Vec::new(),
            recopied: Vec::new(),
            hidden: Vec::new(),
        });
        for content in &named {
            self.name(*content, u32::saturating_add);
        }
        // A lost content that the layer stores, too, was moved.
        let mut stored: HashSet<ContentId> = HashSet::new();
        if !lost.is_empty() {
            let own = named.iter().filter(|p| p.layer == layer);
            stored.extend(own.map(|p| self.content(*p)));
        }
        let mut copies: BTreeMap<ContentId, Vec<Place>> = BTreeMap::new();
        for Lost { content, now } in lost {
            if self.name(content, u32::saturating_sub) > 0 {
                continue;
            }
            let bytes = self.bytes(content);
            if bytes == 0 {
                continue;
            }
            let id = self.content(content);
            let kind = match now {
                Some(now) if id > 0 && self.content(now) == id => FindingKind::Metadata,
                _ if id > 0 && stored.contains(&id) => FindingKind::Moved,
                Some(_) => FindingKind::Overwritten,
                None => FindingKind::Deleted,
            };
            if id > 0 {
                copies.entry(id).or_default();
            } else {
                self.sums.distinct -= bytes;
            }
            let needless = Needless {
                kind,
                place: content,
                by: now.unwrap_or(Place { layer, index: 0 }),
                bytes,
            };
            self.needless(needless, turn);
            self.frames[layer].hidden.push(needless);
        }
        for index in 0..toc.len() {
            let place = Place { layer, index };
            let bytes = self.bytes(place);
            self.sums.stored += bytes;
            // What no path shows is wasted in another way.
            if bytes > 0 && self.frames[layer].names[index] > 0 {
                match self.content(place) {
                    0 => self.sums.distinct += bytes,
                    id => copies.entry(id).or_default().push(place),
                }
            }
        }
        for (id, new) in copies {
            let old = self.copies.remove(&id).unwrap_or_default();
            let shown = |p: &Place| self.frames[p.layer].names[p.index] > 0;
            let now: Vec<Place> = old.iter().copied().filter(shown).chain(new).collect();
            self.duplicates(&old, turn, Turn::Needed);
            self.duplicates(&now, turn, Turn::Needless);
            if let (None, Some(gone)) = (now.first(), old.first()) {
                self.sums.distinct -= self.bytes(*gone);
            } else if let (Some(come), None) = (now.first(), old.first()) {
                self.sums.distinct += self.bytes(*come);
            }
            if !now.is_empty() {
                self.copies.insert(id, now);
            }
            self.frames[layer].recopied.push((id, old));
        }
    }

    /// Takes off the layer on top, if there is one.
    pub(super) fn take_off(&mut self, turn: &mut impl FnMut(Turn)) {
        let Some(layer) = self.frames.len().checked_sub(1) else {
            return;
        };
        for (id, old) in std::mem::take(&mut self.frames[layer].recopied) {
            let now = self.copies.remove(&id).unwrap_or_default();
            self.duplicates(&now, turn, Turn::Needed);
            self.duplicates(&old, turn, Turn::Needless);
            if !old.is_empty() {
                self.copies.insert(id, old);
            }
        }
        for needless in std::mem::take(&mut self.frames[layer].hidden) {
            self.needed(needless, turn);
        }
        if let Some(frame) = self.frames.pop() {
            for (place, count) in frame.renamed.into_iter().rev() {
                self.frames[place.layer].names[place.index] = count;
            }
            self.sums = frame.sums;
        }
        self.timeline.take_off();
    }

    fn bytes(&self, place: Place) -> u64 {
        own_bytes(self.timeline.entry(place))
    }

    fn content(&self, place: Place) -> ContentId {
        self.frames[place.layer].contents[place.index]
    }

    /// Counts a path that shows a file, or no longer does, and says how many there are.
    fn name(&mut self, content: Place, count: fn(u32, u32) -> u32) -> u32 {
        let top = self.frames.len() - 1;
        let names = &mut self.frames[content.layer].names[content.index];
        let was = *names;
        *names = count(was, 1);
        let is = *names;
        if content.layer < top {
            self.frames[top].renamed.push((content, was));
        }
        is
    }

    /// All copies but the first turn needless, or needed.
    fn duplicates(
        &mut self,
        copies: &[Place],
        turn: &mut impl FnMut(Turn),
        to: fn(Needless) -> Turn,
    ) {
        let Some((by, more)) = copies.split_first() else {
            return;
        };
        for place in more {
            let needless = Needless {
                kind: FindingKind::Duplicate,
                place: *place,
                by: *by,
                bytes: self.bytes(*place),
            };
            match to(needless) {
                Turn::Needless(needless) => self.needless(needless, turn),
                Turn::Needed(needless) => self.needed(needless, turn),
            }
        }
    }

    fn needless(&mut self, needless: Needless, turn: &mut impl FnMut(Turn)) {
        *self.sums.of(needless.kind) += needless.bytes;
        self.frames[needless.place.layer].needless_bytes += needless.bytes;
        turn(Turn::Needless(needless));
    }

    fn needed(&mut self, needless: Needless, turn: &mut impl FnMut(Turn)) {
        *self.sums.of(needless.kind) -= needless.bytes;
        self.frames[needless.place.layer].needless_bytes -= needless.bytes;
        turn(Turn::Needed(needless));
    }
}

impl Sums {
    fn of(&mut self, kind: FindingKind) -> &mut u64 {
        match kind {
            FindingKind::Overwritten => &mut self.overwritten,
            FindingKind::Deleted => &mut self.deleted,
            FindingKind::Metadata | FindingKind::Moved => &mut self.recopied,
            FindingKind::Duplicate | FindingKind::AcrossImages => &mut self.duplicate,
        }
    }
}
