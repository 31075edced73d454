//! The paths of an image as they are after one layer, with what changed and what is wasted, added up by folder.

use strata::inspect::{PathStep, Paths, StepKind};

/// Which layers' changes are marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Span {
    /// The selected layer's.
    One,
    /// Those of all layers after the first, up to the selected one.
    UpTo,
}

/// What the layers of the span did to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    /// It was not there before.
    Added,
    /// It was something else.
    Changed,
    /// It is gone.
    Removed,
    /// It is as it was.
    Same,
}

impl Mark {
    /// All of them.
    pub(super) const ALL: [Mark; 4] = [Mark::Added, Mark::Changed, Mark::Removed, Mark::Same];

    /// A bit for each kind of path: a filter is a set of them, and so is what is in a folder.
    fn class(self, wasted: bool) -> u8 {
        let bit = match self {
            Mark::Added => 1,
            Mark::Changed => 2,
            Mark::Removed => 4,
            Mark::Same => 8,
        };
        if wasted { bit << 4 } else { bit }
    }
}

/// Which paths are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    hidden: u8,
    /// Only those that have bytes in vain.
    pub(super) only_wasted: bool,
}

impl Filter {
    /// Everything.
    pub(super) const ALL: Filter = Filter {
        hidden: 0,
        only_wasted: false,
    };

    /// Hides what has the mark, or shows it again.
    pub(super) fn toggle(&mut self, mark: Mark) {
        self.hidden ^= mark.class(false);
    }

    /// Whether what has the mark is shown.
    pub(super) fn shows(&self, mark: Mark) -> bool {
        self.hidden & mark.class(false) == 0
    }

    fn classes(&self) -> u8 {
        let shown = !self.hidden & 0xf;
        if self.only_wasted {
            shown << 4
        } else {
            shown << 4 | shown
        }
    }
}

/// A path after the layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// What happened to it.
    pub(super) mark: Mark,
    /// The last step that was taken: which of [`Paths::steps`]. The root may have none.
    step: usize,
    /// The length of a file, of each of its names; of all files in and below a folder, hard links once. Of what is removed, what it
    /// had.
    pub(super) bytes: u64,
    /// What of the span's layers is in vain here and below. [`Span::One`]: what the layer holds and the image does not show, and what
    /// the layer hides of those below it. [`Span::UpTo`]: what all layers hold in vain.
    pub(super) wasted_bytes: u64,
    /// Whether that is so of the path itself.
    pub(super) wasted: bool,
    /// The classes of the path and of all below it; 0 where nothing is and nothing was removed.
    classes: u8,
}

/// What is there after a layer; a [`Seen`] for each of [`Paths`].
pub(super) struct Tree {
    seen: Vec<Seen>,
}

impl Tree {
    /// After a layer (from 0). It takes one pass over the paths and no look into tables of contents.
    pub(super) fn new(paths: &Paths<'_>, layer: usize, span: Span) -> Tree {
        let mut counted = Counted {
            kept: vec![false; paths.stored_count()],
            removed: vec![false; paths.stored_count()],
            hidden: vec![false; paths.stored_count()],
        };
        // What each path adds to the folders it is in.
        let mut adds = Vec::with_capacity(paths.len());
        let mut seen: Vec<Seen> = (0..paths.len())
            .map(|at| {
                let steps = paths.steps(at);
                let done = steps.partition_point(|s| s.layer <= layer);
                let mark = match span {
                    Span::One => mark_of_one(&steps[..done], layer),
                    Span::UpTo => mark_up_to(&steps[..done]),
                };
                // The root is there in any case.
                let mark = mark.or((at == 0).then_some(Mark::Same));
                let (seen, bytes) = counted.look(paths, &steps[..done], (layer, span), mark);
                adds.push(bytes);
                seen
            })
            .collect();
        for at in (1..seen.len()).rev() {
            let below = seen[at];
            if let (Some(parent), true) = (paths.parent(at), below.classes != 0) {
                let above = &mut seen[parent];
                above.classes |= below.classes;
                above.wasted_bytes = above.wasted_bytes.saturating_add(below.wasted_bytes);
                if (above.mark == Mark::Removed) == (below.mark == Mark::Removed) {
                    adds[parent] = u64::saturating_add(adds[parent], adds[at]);
                }
            }
            // A file that took the place of a folder is as long as it is.
            if below.bytes == 0 {
                seen[at].bytes = adds[at];
            }
        }
        seen[0].bytes = adds[0];
        Tree { seen }
    }

    /// A path.
    pub(super) fn at(&self, at: usize) -> &Seen {
        &self.seen[at]
    }

    /// Whether the path, or something below it, is to be shown.
    pub(super) fn shows(&self, at: usize, filter: Filter) -> bool {
        at == 0 || self.seen[at].classes & filter.classes() != 0
    }

    /// Whether something below the path is other than it was, though the path itself is not.
    pub(super) fn changed_below(&self, at: usize) -> bool {
        let seen = &self.seen[at];
        let same = Mark::Same.class(false) | Mark::Same.class(true);
        seen.mark == Mark::Same && seen.classes & !same != 0
    }

    /// The step that made the path what it is; of a removed one, the removal.
    pub(super) fn step<'p>(&self, paths: &'p Paths<'_>, at: usize) -> Option<&'p PathStep> {
        paths.steps(at).get(self.seen[at].step)
    }
}

fn mark_of_one(done: &[PathStep], layer: usize) -> Option<Mark> {
    let last = done.last()?;
    match last.kind {
        StepKind::Removed => (last.layer == layer).then_some(Mark::Removed),
        StepKind::Added if last.layer == layer => Some(Mark::Added),
        StepKind::Changed if last.layer == layer => Some(Mark::Changed),
        _ => Some(Mark::Same),
    }
}

fn mark_up_to(done: &[PathStep]) -> Option<Mark> {
    let (first, last) = (done.first()?, done.last()?);
    if last.kind == StepKind::Removed {
        return Some(Mark::Removed);
    }
    let is_changed = done
        .iter()
        .any(|s| s.layer > 0 && s.kind != StepKind::Touched);
    Some(match (first.layer, is_changed) {
        (_, false) => Mark::Same,
        (0, true) => Mark::Changed,
        (_, true) => Mark::Added,
    })
}

/// Which bytes are counted already: they are counted at the first path that has them.
struct Counted {
    kept: Vec<bool>,
    removed: Vec<bool>,
    hidden: Vec<bool>,
}

impl Counted {
    /// A path by itself, with nothing of what is below it, and how many bytes it adds to what is above it.
    fn look(
        &mut self,
        paths: &Paths<'_>,
        done: &[PathStep],
        (layer, span): (usize, Span),
        mark: Option<Mark>,
    ) -> (Seen, u64) {
        let mut seen = Seen {
            mark: mark.unwrap_or(Mark::Same),
            step: done.len().saturating_sub(1),
            bytes: 0,
            wasted_bytes: 0,
            wasted: false,
            classes: 0,
        };
        let (Some(mark), Some(last)) = (mark, done.last()) else {
            seen.classes = mark.map_or(0, |m| m.class(false));
            return (seen, 0);
        };
        let mut adds = 0;
        if let Some(content) = last.content {
            let counted = match mark {
                Mark::Removed => &mut self.removed,
                _ => &mut self.kept,
            };
            seen.bytes = paths.stored(content).bytes;
            if !std::mem::replace(&mut counted[content], true) {
                adds = seen.bytes;
            }
        }
        // Bytes that are wasted where they are: not at a further name of theirs.
        let own = |step: &PathStep| {
            let stored = paths.stored(step.content?);
            let is_own = stored.place == step.place && step.kind != StepKind::Removed;
            (is_own && !stored.live).then_some(stored.bytes)
        };
        match span {
            Span::UpTo => {
                let wasted = done.iter().filter_map(own);
                seen.wasted_bytes = wasted.fold(0, u64::saturating_add);
                seen.wasted = seen.wasted_bytes > 0;
            }
            Span::One if last.layer == layer => {
                let before = done.len().checked_sub(2).and_then(|at| done.get(at));
                let lost = match last.kind {
                    StepKind::Removed => last.content,
                    StepKind::Changed => before.and_then(|s| s.content),
                    StepKind::Added | StepKind::Touched => None,
                };
                let hidden = lost.filter(|c| paths.stored(*c).hidden_by == Some(layer));
                if let Some(content) = hidden {
                    seen.wasted = paths.stored(content).bytes > 0;
                    if !std::mem::replace(&mut self.hidden[content], true) {
                        seen.wasted_bytes = paths.stored(content).bytes;
                    }
                }
                let own = own(last).unwrap_or_default();
                seen.wasted |= own > 0;
                seen.wasted_bytes = seen.wasted_bytes.saturating_add(own);
            }
            Span::One => {}
        }
        seen.classes = mark.class(seen.wasted);
        (seen, adds)
    }
}

#[cfg(test)]
mod tests {
    use strata::inspect::{FilesReport, LayersReport};

    use super::super::testing::image;
    use super::*;

    const LAYERS: [&str; 5] = [
        "d d\nf d/a 10\nl d/b d/a\nf d/c 20\nd e\nf e/x 30\nf e/y 40",
        "d d\nf d/a 11\nf n 5",
        "w e\nl m n",
        "w n\nf d/c 20 600\nd e\nf e/x 30",
        "w m",
    ];

    fn marks(layer: usize, span: Span) -> String {
        let image = image(&LAYERS);
        let paths = Paths::new(&image);
        let tree = Tree::new(&paths, layer, span);
        let rows = (0..paths.len()).filter(|at| tree.shows(*at, Filter::ALL));
        let rows: Vec<String> = rows
            .map(|at| {
                let seen = tree.at(at);
                let sign = match seen.mark {
                    Mark::Added => "+",
                    Mark::Changed => "~",
                    Mark::Removed => "-",
                    Mark::Same if tree.changed_below(at) => "*",
                    Mark::Same => "=",
                };
                let wasted = if seen.wasted { "!" } else { "" };
                let path = String::from_utf8_lossy(paths.path(at)).into_owned();
                format!("{sign}{wasted}/{path}:{}:{}", seen.bytes, seen.wasted_bytes)
            })
            .collect();
        rows.join(" ")
    }

    #[test]
    fn what_a_layer_did() {
        for (layer, want) in [
            // d/a is overwritten, but d/b still has its bytes.
            (
                1,
                "*/:116:5 */d:41:0 ~/d/a:11:0 =/d/b:10:0 =/d/c:20:0 =/e:70:0 =/e/x:30:0 =/e/y:40:0 +!/n:5:5",
            ),
            (
                2,
                "*/:46:70 =/d:41:0 =/d/a:11:0 =/d/b:10:0 =/d/c:20:0 -/e:70:70 -!/e/x:30:30 -!/e/y:40:40 +/m:5:0 =/n:5:0",
            ),
            (
                3,
                "*/:76:20 */d:41:20 =/d/a:11:0 =/d/b:10:0 ~!/d/c:20:20 +/e:30:0 +/e/x:30:0 =/m:5:0 -/n:5:0",
            ),
            (
                4,
                "*/:71:5 =/d:41:0 =/d/a:11:0 =/d/b:10:0 =/d/c:20:0 =/e:30:0 =/e/x:30:0 -!/m:5:5",
            ),
        ] {
            assert_eq!(marks(layer, Span::One), want);
        }
    }

    #[test]
    fn what_all_layers_did() {
        assert_eq!(
            marks(4, Span::UpTo),
            "*/:71:95 */d:41:20 ~/d/a:11:0 =/d/b:10:0 ~!/d/c:20:20 ~/e:30:70 ~!/e/x:30:30 -!/e/y:40:40 -/m:5:0 -!/n:5:5"
        );
    }

    #[test]
    fn sums_are_those_of_the_reports() {
        let image = image(&LAYERS);
        let paths = Paths::new(&image);
        let layers = LayersReport::new(&image, false).layers;
        let mut wasted = 0;
        for (layer, row) in layers.iter().enumerate() {
            let one = Tree::new(&paths, layer, Span::One);
            assert_eq!(one.at(0).wasted_bytes, row.wasted_bytes + row.hidden_bytes);
            wasted += row.wasted_bytes;
            let all = Tree::new(&paths, layer, Span::UpTo);
            assert_eq!(all.at(0).wasted_bytes, wasted);
            assert_eq!(all.at(0).bytes, one.at(0).bytes);
        }
        let tree = Tree::new(&paths, layers.len() - 1, Span::One);
        for file in FilesReport::new(&image, b"").files.iter() {
            let at = (0..paths.len()).find(|at| paths.path(*at) == file.path.bytes());
            let bytes = tree.at(at.unwrap()).bytes;
            if let Some(want) = file.tree_bytes {
                assert_eq!(bytes, want, "{file:?}");
            }
        }
    }

    #[test]
    fn a_filter_keeps_the_folders_of_what_it_shows() {
        let image = image(&LAYERS);
        let paths = Paths::new(&image);
        let tree = Tree::new(&paths, 3, Span::One);
        let shown = |filter: Filter| -> Vec<String> {
            let all = (0..paths.len()).filter(|at| tree.shows(*at, filter));
            all.map(|at| String::from_utf8_lossy(paths.path(at)).into_owned())
                .collect()
        };
        let without = |marks: &[Mark]| {
            let mut filter = Filter::ALL;
            marks.iter().for_each(|m| filter.toggle(*m));
            filter
        };
        use Mark::{Added, Changed, Removed, Same};
        assert_eq!(shown(without(&[Same])), ["", "d", "d/c", "e", "e/x", "n"]);
        assert_eq!(shown(without(&[Same, Added])), ["", "d", "d/c", "n"]);
        assert_eq!(shown(without(&[Same, Added, Changed])), ["", "n"]);
        assert_eq!(shown(without(&[Same, Added, Changed, Removed])), [""]);
        let mut wasted = Filter::ALL;
        wasted.only_wasted = true;
        assert_eq!(shown(wasted), ["", "d", "d/c"]);
        wasted.toggle(Changed);
        assert_eq!(shown(wasted), [""]);
        let mut twice = without(&[Same]);
        twice.toggle(Same);
        assert_eq!(twice, Filter::ALL);
    }
}
