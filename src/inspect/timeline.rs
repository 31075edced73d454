//! How an image's tree grows, layer by layer.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use crate::layer::entry::{is_below, path_order};
use crate::layer::{EntryRef, KindRef, Toc};

/// How many hard links are followed to the bytes of a file. Builders link to the name that has them, so one hop a layer is usual; a
/// hostile layer may link in a circle.
const MAX_HOPS: usize = 1024;

/// An entry of a layer: the layer's place in the image, and the entry's in its table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// From 0, bottom first.
    pub layer: usize,
    /// From 0, in the order of the table.
    pub index: usize,
}

/// What a layer does to one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// There was nothing.
    Added {
        /// What is there now.
        now: Place,
    },
    /// There was something. Directories that only got another time are [`Event::Touched`].
    Changed {
        /// What was there.
        was: Place,
        /// What is there now.
        now: Place,
    },
    /// A directory is there again, and but for its time it is the same.
    Touched {
        /// What was there.
        was: Place,
        /// What is there now.
        now: Place,
    },
    /// It is gone.
    Removed {
        /// What was there.
        was: Place,
        /// The entry that removes it: a whiteout of it or of a directory above, an opaque directory above, or what is no directory
        /// in the place of one.
        by: EntryRef<'a>,
    },
}

/// The tree of an image while its layers are put on one another. It sees what an overlay of the layers shows.
#[derive(Clone, Debug)]
pub struct Timeline {
    tocs: Vec<Arc<Toc>>,
    /// What is seen, in [`path_order`].
    seen: Vec<Place>,
    done: usize,
    /// Of each layer that is on: hard links to files of lower layers, by their entries, and where these files are.
    outside: Vec<HashMap<usize, Place>>,
    /// Of each layer that was [put on](Timeline::put_on): what it did to `seen`.
    edits: Vec<Vec<Edit>>,
}

/// What a layer did to the list of what is seen.
#[derive(Clone, Copy, Debug)]
struct Edit {
    /// Where in the new list.
    at: usize,
    /// Whether something of the layer is there.
    now: bool,
    /// What of the old list is not in the new one.
    was: Option<Place>,
}

impl Timeline {
    /// An empty tree, before the first of these layers (bottom first).
    pub fn new(tocs: Vec<Arc<Toc>>) -> Timeline {
        Timeline {
            tocs,
            seen: Vec::new(),
            done: 0,
            outside: Vec::new(),
            edits: Vec::new(),
        }
    }

    /// Puts one more layer on top, and says what it does. [`Timeline::take_off`] takes it away again.
    pub fn put_on(&mut self, toc: Arc<Toc>, mut on: impl FnMut(&Timeline, Event<'_>)) {
        debug_assert_eq!(self.done, self.tocs.len(), "no layer waits below it");
        self.tocs.push(toc);
        let mut edits = Vec::new();
        self.advance(|timeline, at, event| {
            let (now, was) = match event {
                Event::Added { .. } => (true, None),
                Event::Changed { was, .. } | Event::Touched { was, .. } => (true, Some(was)),
                Event::Removed { was, .. } => (false, Some(was)),
            };
            edits.push(Edit {
                at: at - usize::from(now),
                now,
                was,
            });
            on(timeline, event);
        });
        self.edits.push(edits);
    }

    /// Takes away the layer that was [put on](Timeline::put_on) last; without one, nothing happens.
    pub fn take_off(&mut self) {
        let Some(edits) = self.edits.pop() else {
            return;
        };
        let after = std::mem::take(&mut self.seen);
        let mut before = Vec::with_capacity(after.len() + edits.len());
        let mut from = 0;
        for edit in edits {
            before.extend_from_slice(&after[from..edit.at]);
            before.extend(edit.was);
            from = edit.at + usize::from(edit.now);
        }
        before.extend_from_slice(&after[from..]);
        self.seen = before;
        self.tocs.pop();
        self.outside.pop();
        self.done -= 1;
    }

    /// The layers' tables, bottom first.
    pub fn tocs(&self) -> &[Arc<Toc>] {
        &self.tocs
    }

    /// The entry at a place.
    pub fn entry(&self, place: Place) -> EntryRef<'_> {
        self.tocs[place.layer].at(place.index)
    }

    /// What is seen now, in order of the paths; a root that no layer speaks of is not there.
    pub fn seen(&self) -> &[Place] {
        &self.seen
    }

    /// What is seen at a path now.
    pub fn find(&self, path: &[u8]) -> Option<Place> {
        let found = self
            .seen
            .binary_search_by(|p| path_order(self.entry(*p).path, path));
        found.ok().map(|at| self.seen[at])
    }

    /// Where the bytes of a file or of one of its further names are. `None` for anything else, and for a link that leads nowhere.
    pub fn content(&self, place: Place) -> Option<Place> {
        let mut at = place;
        for _ in 0..MAX_HOPS {
            match self.entry(at).kind {
                KindRef::File { .. } => return Some(at),
                KindRef::HardLink { target } => {
                    let toc = &self.tocs[at.layer];
                    at = match toc.index_in(target, 0..toc.len()) {
                        Some(index) => Place {
                            layer: at.layer,
                            index,
                        },
                        None => *self.outside.get(at.layer)?.get(&at.index)?,
                    };
                }
                _ => return None,
            }
        }
        None
    }

    /// Puts the next layer on, and says what it does, in order of the paths. `None`: there is none left.
    pub fn step(&mut self, mut on: impl FnMut(&Timeline, Event<'_>)) -> Option<usize> {
        self.advance(|timeline, _, event| on(timeline, event))
    }

    /// The same, with how long the new list of what is seen is then.
    fn advance(&mut self, mut on: impl FnMut(&Timeline, usize, Event<'_>)) -> Option<usize> {
        let layer = self.done;
        let toc = Arc::clone(self.tocs.get(layer)?);
        let before = std::mem::take(&mut self.seen);
        let mut outside = HashMap::new();
        for index in 0..toc.len() {
            if let KindRef::HardLink { target } = toc.at(index).kind
                && toc.find(target).is_none()
            {
                let order = |p: &Place| path_order(self.entry(*p).path, target);
                if let Ok(at) = before.binary_search_by(order) {
                    outside.insert(index, before[at]);
                }
            }
        }
        self.outside.push(outside);
        let mut after = Vec::with_capacity(before.len() + toc.len());
        let mut rest = &before[..];
        // What hides all that was below its path.
        let mut hides: Option<EntryRef<'_>> = None;
        for (index, entry) in toc.refs().enumerate() {
            let now = Place { layer, index };
            // A layer changes little of what is there: most of it is taken over in long stretches.
            let count = gallop(rest, |p| {
                path_order(self.entry(*p).path, entry.path) == Ordering::Less
            });
            let (passed, remaining) = rest.split_at(count);
            rest = remaining;
            self.pass(passed, &mut hides, &mut after, &mut on);
            if hides.is_some_and(|h| !is_below(h.path, entry.path)) {
                hides = None;
            }
            let was = rest
                .first()
                .copied()
                .filter(|p| self.entry(*p).path == entry.path);
            if was.is_some() {
                rest = &rest[1..];
            }
            let is_whiteout = matches!(entry.kind, KindRef::Whiteout);
            match was {
                None if is_whiteout => {}
                None => {
                    after.push(now);
                    on(self, after.len(), Event::Added { now });
                }
                Some(was) if is_whiteout => {
                    on(self, after.len(), Event::Removed { was, by: entry });
                }
                Some(was) => {
                    let old = self.entry(was);
                    let implied = matches!(entry.kind, KindRef::Directory { implied: true, .. });
                    if implied && old.is_dir() && hides.is_none() {
                        // Without a header it looks as it did.
                        after.push(was);
                    } else {
                        after.push(now);
                        let event = if is_touched(old, entry) {
                            Event::Touched { was, now }
                        } else {
                            Event::Changed { was, now }
                        };
                        on(self, after.len(), event);
                    }
                }
            }
            let covers = !matches!(entry.kind, KindRef::Directory { opaque: false, .. });
            if covers && hides.is_none() {
                hides = Some(entry);
            }
        }
        self.pass(rest, &mut hides, &mut after, &mut on);
        self.seen = after;
        self.done += 1;
        Some(layer)
    }

    /// Takes over what the layer says nothing about, but for what it hides.
    fn pass<'a>(
        &self,
        passed: &[Place],
        hides: &mut Option<EntryRef<'a>>,
        after: &mut Vec<Place>,
        on: &mut impl FnMut(&Timeline, usize, Event<'_>),
    ) {
        let mut passed = passed;
        if let Some(by) = *hides {
            let gone = gallop(passed, |p| is_below(by.path, self.entry(*p).path));
            for was in &passed[..gone] {
                on(self, after.len(), Event::Removed { was: *was, by });
            }
            passed = &passed[gone..];
            if !passed.is_empty() {
                *hides = None;
            }
        }
        after.extend_from_slice(passed);
    }
}

/// How many of the first items are so, where none is after one that is not; by doubling steps, because it is few or many.
fn gallop<T>(items: &[T], is: impl Fn(&T) -> bool) -> usize {
    let mut step = 1;
    while step < items.len() && is(&items[step - 1]) {
        step *= 2;
    }
    let (low, high) = (step / 2, step.min(items.len()));
    low + items[low..high].partition_point(is)
}

/// Whether a directory is there again with nothing new but its time: builders write the parents of what they change.
fn is_touched(old: EntryRef<'_>, new: EntryRef<'_>) -> bool {
    let owner = |e: EntryRef<'_>| (e.mode, e.uid, e.gid);
    old.is_dir() && new.is_dir() && owner(old) == owner(new) && old.xattrs().eq(new.xattrs())
}

#[cfg(test)]
mod tests {
    use super::super::testing::toc;
    use super::*;
    use crate::layer::Stack;

    /// That a layer which is taken off leaves no trace.
    fn assert_undone(tocs: &[Arc<Toc>]) {
        let mut timeline = Timeline::new(Vec::new());
        let mut seen = Vec::new();
        for toc in tocs {
            seen.push(timeline.seen().to_vec());
            timeline.put_on(Arc::clone(toc), |_, _| {});
        }
        let mut whole = Timeline::new(tocs.to_vec());
        while whole.step(|_, _| {}).is_some() {}
        assert_eq!(timeline.seen(), whole.seen());
        for before in seen.iter().rev() {
            timeline.take_off();
            assert_eq!(timeline.seen(), before, "{tocs:?}");
        }
        timeline.take_off();
        assert!(timeline.tocs().is_empty() && timeline.outside.is_empty());
    }

    /// What the layers do, a word each, and what is seen in the end.
    fn run(layers: &[&str]) -> (Vec<String>, Vec<String>) {
        let tocs: Vec<_> = layers.iter().map(|l| toc(l)).collect();
        assert_undone(&tocs);
        let mut timeline = Timeline::new(tocs.clone());
        let mut events = Vec::new();
        while let Some(layer) = timeline.step(|t, event| {
            let path = |p: Place| String::from_utf8(t.entry(p).path.to_vec()).unwrap();
            events.push(match event {
                Event::Added { now } => format!("+{}", path(now)),
                Event::Changed { now, .. } => format!("~{}", path(now)),
                Event::Touched { now, .. } => format!("={}", path(now)),
                Event::Removed { was, by } => {
                    format!("-{}<{}", path(was), String::from_utf8_lossy(by.path))
                }
            });
        }) {
            events.push(format!("|{layer}"));
        }
        let seen: Vec<(Vec<u8>, usize)> = timeline
            .seen()
            .iter()
            .map(|p| (timeline.entry(*p).path.to_vec(), p.layer))
            .collect();
        let stack = Stack::new(tocs);
        let mut want: Vec<_> = stack.walk(b"").map(|f| (f.entry.path, f.layer)).collect();
        if !timeline.seen().is_empty() && seen[0].0.is_empty() {
            assert_eq!(seen, want);
        } else {
            want.remove(0);
            assert_eq!(seen, want);
        }
        let seen = seen
            .into_iter()
            .map(|(p, l)| format!("{}@{l}", String::from_utf8(p).unwrap()))
            .collect();
        (events, seen)
    }

    #[test]
    fn layers_do_what_an_overlay_shows() {
        for (layers, events, seen) in [
            (&["f a 1", "f a 2"][..], "+a |0 ~a |1", "a@1"),
            (&["f a 1", "w a"], "+a |0 -a<a |1", ""),
            (&["f a 1", "w b"], "+a |0 |1", "a@0"),
            (
                &["d d\nf d/x 1\nf d-e 1", "w d"],
                "+d +d/x +d-e |0 -d<d -d/x<d |1",
                "d-e@0",
            ),
            (
                &["d d\nf d/x 1\nf d/y 1", "o d\nf d/y 2\nf d/z 1"],
                "+d +d/x +d/y |0 =d -d/x<d ~d/y +d/z |1",
                "d@1 d/y@1 d/z@1",
            ),
            (
                &["d d\nd d/e\nf d/e/x 1\nf d/y 1", "f d 1"],
                "+d +d/e +d/e/x +d/y |0 ~d -d/e<d -d/e/x<d -d/y<d |1",
                "d@1",
            ),
            (
                &["d d\nf d/x 1", "i d\nf d/y 1"],
                "+d +d/x |0 +d/y |1",
                "d@0 d/x@0 d/y@1",
            ),
            (
                &["d d\nd d/e\nf d/e/x 1", "o d\ni d/e\nf d/e/y 1"],
                "+d +d/e +d/e/x |0 =d =d/e -d/e/x<d +d/e/y |1",
                "d@1 d/e@1 d/e/y@1",
            ),
            (&["f a 1", "d a\nf a/b 1"], "+a |0 ~a +a/b |1", "a@1 a/b@1"),
            (
                &["d d\nf d/x 1", "w d", "d d\nf d/y 1"],
                "+d +d/x |0 -d<d -d/x<d |1 +d +d/y |2",
                "d@2 d/y@2",
            ),
        ] {
            let (done, left) = run(layers);
            assert_eq!(done.join(" "), events, "{layers:?}");
            assert_eq!(left.join(" "), seen, "{layers:?}");
        }
    }

    #[test]
    fn links_lead_to_the_bytes_they_had() {
        let tocs = vec![toc("f a 1\nl b a\nl b2 b"), toc("l c a"), toc("f a 2")];
        let mut timeline = Timeline::new(tocs);
        while timeline.step(|_, _| {}).is_some() {}
        let place = |layer, index| Place { layer, index };
        assert_eq!(timeline.content(place(0, 1)), Some(place(0, 0)));
        assert_eq!(timeline.content(place(0, 2)), Some(place(0, 0)));
        assert_eq!(timeline.content(place(1, 0)), Some(place(0, 0)));
        assert_eq!(timeline.content(place(2, 0)), Some(place(2, 0)));
        let mut nowhere = Timeline::new(vec![toc("l a b\nl b a")]);
        while nowhere.step(|_, _| {}).is_some() {}
        assert_eq!(nowhere.content(place(0, 0)), None);
    }

    #[test]
    fn galloping_counts() {
        for length in 0..20 {
            let items: Vec<usize> = (0..length).collect();
            for limit in 0..=length {
                assert_eq!(gallop(&items, |i| *i < limit), limit);
            }
        }
    }
}
