//! Which images each needless copy is in.

use std::collections::HashMap;

use super::report::FindingKind;

/// A needless copy, wherever its layer is. Copies of one layer that differ in nothing but `index` and `by_index` are told of together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Copy {
    pub(super) kind: FindingKind,
    /// The layer that has it, by its place in the survey.
    pub(super) layer: u32,
    /// Which of them, where an image has the same layer several times.
    pub(super) occurrence: u32,
    /// The layer that overwrites, deletes, re-copies or shows it.
    pub(super) by: u32,
    /// Which of them.
    pub(super) by_occurrence: u32,
    /// The entry.
    pub(super) index: u32,
    /// The entry that re-copies it; 0 where only its layer counts.
    pub(super) by_index: u32,
}

/// A set of images, by its number here. Equal sets have equal numbers.
pub(super) type SetId = u32;

/// The set without images.
const EMPTY: SetId = 0;

/// Images `from..to`, and those of another set, which all come before.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Span {
    rest: SetId,
    from: u32,
    to: u32,
}

/// The images of each copy. Images come in the order of their chains, so those with a copy are few spans, however many they are.
pub(super) struct Ledger {
    images: u32,
    copies: HashMap<Copy, State>,
    sets: Vec<Span>,
    known: HashMap<Span, SetId>,
}

struct State {
    set: SetId,
    /// The first of the images that have it since then; `None` while it is needed.
    since: Option<u32>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        let empty = Span {
            rest: EMPTY,
            from: 0,
            to: 0,
        };
        Ledger {
            images: 0,
            copies: HashMap::new(),
            sets: vec![empty],
            known: HashMap::new(),
        }
    }
}

impl Ledger {
    /// Counts an image, with all copies that are needless now.
    pub(super) fn image(&mut self) {
        self.images += 1;
    }

    /// From the next image on, the copy is needless.
    pub(super) fn needless(&mut self, copy: Copy) {
        let state = self.copies.entry(copy).or_insert(State {
            set: EMPTY,
            since: None,
        });
        let last = &self.sets[state.set as usize];
        // No image came between: the span goes on.
        state.since = Some(if last.to == self.images && last.from < last.to {
            state.set = last.rest;
            last.from
        } else {
            self.images
        });
    }

    /// From the next image on, it is not.
    pub(super) fn needed(&mut self, copy: Copy) {
        let Some(state) = self.copies.get_mut(&copy) else {
            return;
        };
        if let Some(from) = state.since.take()
            && from < self.images
        {
            let span = Span {
                rest: state.set,
                from,
                to: self.images,
            };
            state.set = *self.known.entry(span.clone()).or_insert_with(|| {
                self.sets.push(span);
                SetId::try_from(self.sets.len() - 1).expect("fewer sets than four billion copies")
            });
        }
        if state.set == EMPTY {
            self.copies.remove(&copy);
        }
    }

    /// All copies that some image has, sorted, and their images. To be asked when no layer is on.
    pub(super) fn copies(&self) -> Vec<(Copy, SetId)> {
        let mut all: Vec<_> = self.copies.iter().map(|(c, s)| (*c, s.set)).collect();
        // Copies that are told of together follow one another.
        all.sort_unstable_by_key(|(c, set)| {
            let group = (c.kind, c.layer, c.occurrence, c.by, c.by_occurrence);
            (group, *set, c.index, c.by_index)
        });
        all
    }

    /// The images of a set, ascending.
    pub(super) fn images(&self, set: SetId) -> Vec<usize> {
        let mut images = Vec::new();
        let mut at = set;
        while at != EMPTY {
            let span = &self.sets[at as usize];
            images.extend((span.from as usize..span.to as usize).rev());
            at = span.rest;
        }
        images.reverse();
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(index: u32) -> Copy {
        Copy {
            kind: FindingKind::Duplicate,
            layer: 0,
            occurrence: 0,
            by: 0,
            by_occurrence: 0,
            index,
            by_index: 0,
        }
    }

    #[test]
    fn equal_sets_of_images_are_one() {
        let mut ledger = Ledger::default();
        // 0: 0 1 4 · 1: the same, with a turn that no image saw · 2: none · 3: 1
        ledger.needless(copy(0));
        ledger.needless(copy(1));
        ledger.needless(copy(2));
        ledger.needed(copy(2));
        ledger.image();
        ledger.needed(copy(1));
        ledger.needless(copy(1));
        ledger.needless(copy(3));
        ledger.image();
        (0..4).for_each(|at| ledger.needed(copy(at)));
        ledger.image();
        ledger.image();
        (0..2).for_each(|at| ledger.needless(copy(at)));
        ledger.image();
        (0..4).for_each(|at| ledger.needed(copy(at)));
        let copies = ledger.copies();
        let said: Vec<_> = copies.iter().map(|(c, s)| (c.index, *s)).collect();
        assert_eq!(said.len(), 3);
        let images = |index| {
            let found = copies.iter().find(|(c, _)| c.index == index);
            ledger.images(found.unwrap().1)
        };
        assert_eq!(images(0), [0, 1, 4]);
        assert_eq!(images(1), [0, 1, 4]);
        assert_eq!(images(3), [1]);
        let set = |index| said.iter().find(|(i, _)| *i == index).unwrap().1;
        assert_eq!(set(0), set(1));
    }
}
