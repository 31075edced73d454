//! Every path that any layer of an image has, as one tree, and what each layer does to it.

use std::collections::HashMap;

use super::Contents;
use super::layers::own_bytes;
use super::timeline::{Event, Place, Timeline};
use super::why::{WhyState, state};
use crate::layer::KindRef;
use crate::layer::entry::{is_below, path_order};

/// The paths of all layers in one tree, numbered in order: a directory before what is in it, the root is 0. What a path is after a
/// layer is the last of its steps up to that layer, so that any layer is looked at without putting the layers on one another again.
pub struct Paths<'a> {
    contents: &'a Contents,
    timeline: Timeline,
    nodes: Vec<Node>,
    steps: Vec<PathStep>,
    files: Vec<Stored>,
}

/// A path.
struct Node {
    /// An entry that has it; the root needs none.
    named: Option<Place>,
    parent: usize,
    /// After the last path below it.
    end: usize,
    /// Where its steps begin; they end where the next path's do.
    first_step: usize,
}

/// What one layer does to one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathStep {
    /// The layer, from 0.
    pub layer: usize,
    /// What it does.
    pub kind: StepKind,
    /// What is there now; of a removed path, what was.
    pub place: Place,
    /// The bytes behind it, of a file and of its further names: for [`Paths::stored`].
    pub content: Option<usize>,
}

/// What is done to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// There was nothing.
    Added,
    /// There was something else.
    Changed,
    /// A directory is there again, and only its time is another.
    Touched,
    /// It is gone.
    Removed,
}

/// The bytes of a file in a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Where.
    pub place: Place,
    /// How many.
    pub bytes: u64,
    /// Whether a path that the image shows has them; they are wasted otherwise.
    pub live: bool,
    /// The layer that takes the last path that had them.
    pub hidden_by: Option<usize>,
}

impl<'a> Paths<'a> {
    /// Of an image.
    pub fn new(contents: &'a Contents) -> Paths<'a> {
        let mut timeline = Timeline::new(contents.tocs());
        // The root is there whether or not a layer speaks of it.
        let mut found: Vec<(&'a [u8], Option<Place>)> = vec![(b"", None)];
        let mut numbers: HashMap<&'a [u8], usize> = HashMap::from([(&b""[..], 0)]);
        let mut drafts: Vec<(usize, PathStep)> = Vec::new();
        let mut files: Vec<Stored> = Vec::new();
        let mut file_numbers: HashMap<Place, usize> = HashMap::new();
        // How many names the bytes have that are seen.
        let mut names: Vec<usize> = Vec::new();
        for (layer, layer_contents) in contents.layers.iter().enumerate() {
            for (index, entry) in layer_contents.toc.refs().enumerate() {
                if let KindRef::File { .. } = entry.kind {
                    let place = Place { layer, index };
                    file_numbers.insert(place, files.len());
                    files.push(Stored {
                        place,
                        bytes: own_bytes(entry),
                        live: false,
                        hidden_by: None,
                    });
                }
            }
            names.resize(files.len(), 0);
            let mut lost: Vec<usize> = Vec::new();
            timeline.step(|t, event| {
                let content = |place: Place| {
                    let at = t.content(place)?;
                    file_numbers.get(&at).copied()
                };
                let (place, kind) = match event {
                    Event::Added { now } => (now, StepKind::Added),
                    Event::Changed { was, now } => {
                        lost.extend(content(was));
                        (now, StepKind::Changed)
                    }
                    Event::Touched { now, .. } => (now, StepKind::Touched),
                    Event::Removed { was, .. } => {
                        lost.extend(content(was));
                        (was, StepKind::Removed)
                    }
                };
                let step = PathStep {
                    layer,
                    kind,
                    place,
                    content: content(place),
                };
                if let (StepKind::Added | StepKind::Changed, Some(content)) = (kind, step.content) {
                    names[content] += 1;
                }
                let path = contents.layers[place.layer].toc.at(place.index).path;
                let number = *numbers.entry(path).or_insert_with(|| {
                    found.push((path, Some(place)));
                    found.len() - 1
                });
                drafts.push((number, step));
            });
            for content in lost {
                names[content] = names[content].saturating_sub(1);
                if names[content] == 0 {
                    files[content].hidden_by = Some(layer);
                }
            }
        }
        for place in timeline.seen() {
            let stored = timeline.content(*place).and_then(|p| file_numbers.get(&p));
            if let Some(number) = stored {
                files[*number].live = true;
            }
        }
        drop((numbers, file_numbers, names));
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_unstable_by(|a, b| path_order(found[*a].0, found[*b].0));
        let (steps, first_steps) = sorted_steps(&order, &drafts);
        Paths {
            contents,
            timeline,
            nodes: nodes(&order, &found, &first_steps),
            steps,
            files,
        }
    }

    /// The image.
    pub fn contents(&self) -> &'a Contents {
        self.contents
    }

    /// How many paths there are; one at least, the root.
    #[expect(clippy::len_without_is_empty, reason = "the root is always there")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The path, without a slash at its beginning; the root is empty.
    pub fn path(&self, at: usize) -> &'a [u8] {
        let named = self.nodes[at].named;
        named.map_or(b"", |p| self.contents.layers[p.layer].toc.at(p.index).path)
    }

    /// Its last part.
    pub fn name(&self, at: usize) -> &'a [u8] {
        let path = self.path(at);
        path.rsplit(|c| *c == b'/').next().unwrap_or_default()
    }

    /// The directory it is in.
    pub fn parent(&self, at: usize) -> Option<usize> {
        (at > 0).then(|| self.nodes[at].parent)
    }

    /// After the last path below it; `at + 1` where there is none.
    pub fn end(&self, at: usize) -> usize {
        self.nodes[at].end
    }

    /// What the layers do to it, the lowest first, at most one step a layer.
    pub fn steps(&self, at: usize) -> &[PathStep] {
        let end = match self.nodes.get(at + 1) {
            Some(next) => next.first_step,
            None => self.steps.len(),
        };
        &self.steps[self.nodes[at].first_step..end]
    }

    /// The bytes of a file.
    pub fn stored(&self, content: usize) -> &Stored {
        &self.files[content]
    }

    /// How many files' bytes all layers have: [`Paths::stored`] takes what is less.
    pub fn stored_count(&self) -> usize {
        self.files.len()
    }

    /// What a step leaves; of a removed path, what was there.
    pub fn state(&self, step: &PathStep) -> WhyState<'a> {
        let contents = self.contents;
        let at = |p: Place| contents.layers[p.layer].toc.at(p.index);
        let made = contents.layers[step.place.layer].made.as_ref();
        state(&at, made, &self.timeline, step.place)
    }
}

/// The steps path by path, each path's in the order of the layers, and where those of each path of `order` begin.
fn sorted_steps(order: &[usize], drafts: &[(usize, PathStep)]) -> (Vec<PathStep>, Vec<usize>) {
    let mut rank = vec![0; order.len()];
    for (at, number) in order.iter().enumerate() {
        rank[*number] = at;
    }
    let mut next = vec![0; order.len() + 1];
    for (number, _) in drafts {
        next[rank[*number] + 1] += 1;
    }
    for at in 0..order.len() {
        next[at + 1] += next[at];
    }
    let first_steps = next.clone();
    let Some((_, any)) = drafts.first() else {
        return (Vec::new(), first_steps);
    };
    let mut steps = vec![*any; drafts.len()];
    for (number, step) in drafts {
        let slot = &mut next[rank[*number]];
        steps[*slot] = *step;
        *slot += 1;
    }
    (steps, first_steps)
}

fn nodes(order: &[usize], found: &[(&[u8], Option<Place>)], first_steps: &[usize]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::with_capacity(order.len());
    let mut above: Vec<usize> = Vec::new();
    for (at, number) in order.iter().enumerate() {
        let (path, named) = found[*number];
        while let Some(dir) = above.pop_if(|dir| !is_below(found[order[*dir]].0, path)) {
            nodes[dir].end = at;
        }
        nodes.push(Node {
            named,
            parent: above.last().copied().unwrap_or_default(),
            end: order.len(),
            first_step: first_steps[at],
        });
        above.push(at);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::super::testing::image;
    use super::super::{ChangeKind, LayersReport};
    use super::*;

    fn words(paths: &Paths<'_>) -> Vec<String> {
        let sign = |kind| match kind {
            StepKind::Added => '+',
            StepKind::Changed => '~',
            StepKind::Touched => '=',
            StepKind::Removed => '-',
        };
        (0..paths.len())
            .map(|at| {
                let steps = paths.steps(at).iter();
                let steps: Vec<String> = steps
                    .map(|s| format!("{}{}", sign(s.kind), s.layer + 1))
                    .collect();
                let path = String::from_utf8_lossy(paths.path(at)).into_owned();
                format!("/{path} {}", steps.join(""))
            })
            .collect()
    }

    #[test]
    fn all_paths_with_what_each_layer_does() {
        let image = image(&[
            "d d\nf d/a 1\nf d-e 1",
            "d d\nf d/a 22\nf d/b 1",
            "w d",
            "f d 333",
            "d d\nd d/x\nf d/x/y 1",
        ]);
        let paths = Paths::new(&image);
        let want = [
            "/ ",
            "/d +1=2-3+4~5",
            "/d/a +1~2-3",
            "/d/b +2-3",
            "/d/x +5",
            "/d/x/y +5",
            "/d-e +1",
        ];
        assert_eq!(words(&paths), want);
        let ends: Vec<usize> = (0..7).map(|at| paths.end(at)).collect();
        assert_eq!(ends, [7, 6, 3, 4, 6, 6, 7]);
        let parents: Vec<Option<usize>> = (0..7).map(|at| paths.parent(at)).collect();
        assert_eq!(
            parents,
            [None, Some(0), Some(1), Some(1), Some(1), Some(4), Some(0)]
        );
        assert_eq!(paths.name(5), b"y");
        assert_eq!(paths.state(&paths.steps(1)[3]).size_bytes, 3);
    }

    #[test]
    fn no_layers_are_a_root() {
        let image = image(&[]);
        let paths = Paths::new(&image);
        assert_eq!(words(&paths), ["/ "]);
        assert_eq!((paths.end(0), paths.stored_count()), (1, 0));
    }

    #[test]
    fn bytes_and_steps_are_those_of_the_layers() {
        let image = image(&[
            "f a 1*10\nl b a\nf c 2*20\nd d\nf d/x 3*30",
            "l e a\nw a\nf c 4*40",
            "w b\no d\nf d/x 5*50",
            "w e\nf f 6*60",
        ]);
        let paths = Paths::new(&image);
        let report = LayersReport::new(&image, true);
        for (layer, row) in report.layers.iter().enumerate() {
            let stored = (0..paths.stored_count()).map(|n| paths.stored(n));
            let wasted = stored
                .clone()
                .filter(|s| s.place.layer == layer && !s.live)
                .map(|s| s.bytes);
            assert_eq!(wasted.sum::<u64>(), row.wasted_bytes, "layer {layer}");
            let hidden = stored
                .filter(|s| s.hidden_by == Some(layer))
                .map(|s| s.bytes);
            assert_eq!(hidden.sum::<u64>(), row.hidden_bytes, "layer {layer}");
            let mut own: Vec<(&[u8], StepKind)> = Vec::new();
            for at in 0..paths.len() {
                let here = paths.steps(at).iter().filter(|s| s.layer == layer);
                own.extend(here.map(|s| (paths.path(at), s.kind)));
            }
            own.retain(|(_, kind)| *kind != StepKind::Touched);
            let want: Vec<(&[u8], StepKind)> = row
                .files
                .iter()
                .flatten()
                .map(|f| {
                    let kind = match f.change {
                        ChangeKind::Added => StepKind::Added,
                        ChangeKind::Changed => StepKind::Changed,
                        ChangeKind::Removed => StepKind::Removed,
                    };
                    (f.path.bytes(), kind)
                })
                .collect();
            assert_eq!(own, want, "layer {layer}");
        }
    }
}
