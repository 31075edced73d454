//! What several images hold, put together one image after another.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::super::layers::own_bytes;
use super::super::{Contents, LayerContents};
use super::ledger::{Copy, Ledger};
use super::report::{
    ContentSums, DEDUP_SCHEMA, DedupReport, Finding, FindingKind, ImageWaste, LayerPart, LayerSums,
    Needless as Rest,
};
use super::waste::{Chain, ContentId, Needless, Turn};
use crate::layer::{KindRef, Toc};
use crate::oci::{Descriptor, DiffId};

/// What is known of the images so far. Of tables of contents it holds those of the last image, and those only: memory grows with the
/// number of different contents and of needless copies, not with that of images.
///
/// Images may come in any order. In the order of their layers' diffIDs, what images share at their bottom is looked at once.
#[derive(Default)]
pub struct Survey {
    pub(super) images: Vec<Image>,
    pub(super) layers: Vec<Layer>,
    by_diff_id: HashMap<DiffId, usize>,
    /// By the SHA-256 of the content; the numbers start at 1.
    ids: HashMap<[u8; 32], ContentId>,
    pub(super) contents: Vec<Copies>,
    /// Files whose content no table knows: like no other.
    unknown: ContentSums,
    pub(super) ledger: Ledger,
    /// The last image's layers, by their places in `layers`, and which occurrence of the layer in the image each is.
    stack: Vec<(usize, u32)>,
    chain: Chain,
}

/// An image of the survey.
pub(super) struct Image {
    /// Where it stands in the report.
    pub(super) rank: usize,
    pub(super) waste: ImageWaste,
    /// Its layers, bottom first.
    pub(super) layers: Vec<Held>,
}

/// A layer of an image.
#[derive(Clone, Copy)]
pub(super) struct Held {
    /// Its place in the survey.
    pub(super) layer: usize,
    /// Which of the layer's origins is this image's.
    origin: usize,
    /// The bytes that the image needs of it.
    needed_bytes: u64,
}

/// A layer that some image has.
pub(super) struct Layer {
    pub(super) diff_id: DiffId,
    pub(super) blob: Descriptor,
    /// Where images say that it came from, without its table: mostly they agree.
    origins: Vec<LayerContents>,
    pub(super) stored_bytes: u64,
    pub(super) images: Vec<usize>,
    /// The content of each entry, while it is in the chain.
    entries: Arc<[ContentId]>,
}

/// Where a content is, over different layers.
pub(super) struct Copies {
    pub(super) size_bytes: u64,
    count: u64,
    /// The first, in `Survey::layers`, and the entry there.
    pub(super) first: (u32, u32),
    /// Further layers that have it, each once.
    pub(super) more: Vec<u32>,
}

/// A place in a list of the survey. Tables are read whole into memory, so what is counted here stays far below.
pub(super) fn number(place: usize) -> u32 {
    u32::try_from(place).expect("fewer than four billion of anything fit into memory")
}

impl Survey {
    /// Adds an image; it stands behind those that were added before.
    pub fn add(&mut self, contents: &Contents) {
        self.add_ranked(self.images.len(), contents);
    }

    /// Adds an image that stands at place `rank` of the report, whenever it is added.
    pub fn add_ranked(&mut self, rank: usize, contents: &Contents) {
        let image = self.images.len();
        let common = self.stack.iter().zip(&contents.layers);
        let common = common.take_while(|(at, layer)| self.layers[at.0].diff_id == layer.diff_id);
        let common = common.count();
        self.take_off(common);
        for layer in &contents.layers[common..] {
            self.put_on(layer);
        }
        self.ledger.image();
        let mut layers = Vec::with_capacity(contents.layers.len());
        for (at, layer) in contents.layers.iter().enumerate() {
            let place = self.stack[at].0;
            let held = &mut self.layers[place];
            if held.images.last() != Some(&image) {
                held.images.push(image);
            }
            layers.push(Held {
                layer: place,
                origin: held.origin(layer),
                needed_bytes: held.stored_bytes - self.chain.needless_bytes(at),
            });
        }
        let sums = self.chain.sums;
        self.images.push(Image {
            rank,
            layers,
            waste: ImageWaste {
                name: contents.documents.name.clone(),
                digest: contents.documents.descriptor.digest,
                size_bytes: contents.layers.iter().map(|l| l.blob.size).sum(),
                own_size_bytes: 0,
                stored_bytes: sums.stored,
                distinct_bytes: sums.distinct,
                shared_bytes: 0,
                overwritten_bytes: sums.overwritten,
                deleted_bytes: sums.deleted,
                recopied_bytes: sums.recopied,
                duplicate_bytes: sums.duplicate,
            },
        });
    }

    /// Takes layers off until so many are left.
    fn take_off(&mut self, left: usize) {
        while self.chain.len() > left {
            let (stack, ledger) = (&self.stack, &mut self.ledger);
            self.chain.take_off(&mut |turn| enter(stack, ledger, turn));
            if let Some((layer, 0)) = self.stack.pop() {
                self.layers[layer].entries = Arc::from([]);
            }
        }
    }

    fn put_on(&mut self, layer: &LayerContents) {
        let known = self.by_diff_id.get(&layer.diff_id).copied();
        let place = known.unwrap_or_else(|| self.add_layer(layer));
        let occurrence = self.stack.iter().filter(|(at, _)| *at == place).count();
        if self.layers[place].entries.is_empty() {
            let id = |entry| content(entry).and_then(|sum| self.ids.get(&sum));
            let entries = layer.toc.refs().map(|e| id(e).copied().unwrap_or(0));
            self.layers[place].entries = entries.collect();
        }
        self.stack.push((place, number(occurrence)));
        let entries = Arc::clone(&self.layers[place].entries);
        let (stack, ledger) = (&self.stack, &mut self.ledger);
        self.chain
            .put_on(&layer.toc, entries, &mut |turn| enter(stack, ledger, turn));
    }

    fn add_layer(&mut self, layer: &LayerContents) -> usize {
        let place = self.layers.len();
        let mut stored_bytes = 0;
        for (index, entry) in layer.toc.refs().enumerate() {
            let size_bytes = own_bytes(entry);
            stored_bytes += size_bytes;
            if size_bytes == 0 {
                continue;
            }
            let Some(sum) = content(entry) else {
                self.unknown.add(size_bytes, 1);
                continue;
            };
            let next = number(self.contents.len() + 1);
            let id = *self.ids.entry(sum).or_insert(next);
            if id == next {
                self.contents.push(Copies {
                    size_bytes,
                    count: 0,
                    first: (number(place), number(index)),
                    more: Vec::new(),
                });
            }
            let copies = &mut self.contents[id as usize - 1];
            copies.count += 1;
            let here = number(place);
            if copies.first.0 != here && copies.more.last() != Some(&here) {
                copies.more.push(here);
            }
        }
        self.layers.push(Layer {
            diff_id: layer.diff_id,
            blob: layer.blob.clone(),
            origins: Vec::new(),
            stored_bytes,
            images: Vec::new(),
            entries: Arc::from([]),
        });
        self.by_diff_id.insert(layer.diff_id, place);
        place
    }

    /// The report on one image alone, with all findings.
    pub fn of_image(contents: &Contents) -> DedupReport {
        let mut survey = Survey::default();
        survey.add(contents);
        let toc = |id: &DiffId| {
            let layer = contents.layers.iter().find(|layer| layer.diff_id == *id);
            let layer = layer.expect("a survey asks for tables of layers that it was given");
            Ok::<_, Infallible>(Arc::clone(&layer.toc))
        };
        let Ok(report) = survey.finish(1, toc);
        report
    }

    /// The report, with findings of `min_bytes` and more. `toc` gives the table of a layer again, to name paths.
    pub fn finish<E>(
        mut self,
        min_bytes: u64,
        toc: impl Fn(&DiffId) -> Result<Arc<Toc>, E>,
    ) -> Result<DedupReport, E> {
        self.take_off(0);
        let mut needless = Rest::default();
        let mut findings = self.within(min_bytes, &toc, &mut needless)?;
        findings.extend(self.across(min_bytes, &toc, &mut needless)?);
        findings.sort_by(|a, b| {
            let first = |f: &Finding| f.layers.first().map(|l| (l.layer, l.diff_id));
            b.wasted_bytes
                .cmp(&a.wasted_bytes)
                .then_with(|| a.kind.cmp(&b.kind))
                .then_with(|| first(a).cmp(&first(b)))
                .then_with(|| a.path.cmp(&b.path))
        });
        let layers = self.sums();
        let mut contents = self.unknown;
        for copies in &self.contents {
            contents.add(copies.size_bytes, copies.count);
        }
        self.images.sort_by_key(|image| image.rank);
        Ok(DedupReport {
            schema: DEDUP_SCHEMA,
            images: self.images.into_iter().map(|image| image.waste).collect(),
            layers,
            contents,
            chunks: None,
            findings,
            needless,
        })
    }

    /// The sums by layer; each image's share of them is told to it.
    fn sums(&mut self) -> LayerSums {
        let mut sums = LayerSums::default();
        for layer in &self.layers {
            let size_bytes = layer.blob.size;
            sums.count += 1;
            sums.stored_bytes += size_bytes;
            match &layer.images[..] {
                [only] => {
                    sums.unique_bytes += size_bytes;
                    self.images[*only].waste.own_size_bytes += size_bytes;
                }
                _ => {
                    sums.shared_count += 1;
                    sums.shared_bytes += size_bytes;
                }
            }
        }
        for image in &mut self.images {
            let shared = image
                .layers
                .iter()
                .filter(|held| self.layers[held.layer].images.len() > 1);
            image.waste.shared_bytes = shared.map(|held| held.needed_bytes).sum();
            sums.referenced_bytes += image.waste.size_bytes;
        }
        sums
    }

    /// The image of these that stands first in the report.
    pub(super) fn first(&self, images: &[usize]) -> usize {
        let first = images.iter().min_by_key(|at| self.images[**at].rank);
        *first.expect("a layer and a copy are some image's")
    }

    /// The names of images, as they stand in the report.
    pub(super) fn names(&self, mut images: Vec<usize>) -> Vec<String> {
        images.sort_by_key(|at| self.images[*at].rank);
        images.dedup();
        let name = |at: usize| self.images[at].waste.name.clone();
        images.into_iter().map(name).collect()
    }

    /// The place of a layer in an image, and what the image says of it.
    pub(super) fn held(
        &self,
        image: usize,
        layer: usize,
        occurrence: u32,
    ) -> (usize, &LayerContents) {
        let all = self.images[image].layers.iter().enumerate();
        let mut same = all.filter(|(_, held)| held.layer == layer);
        let (at, held) = same
            .nth(occurrence as usize)
            .expect("the image was counted while the layer was on");
        (at, &self.layers[layer].origins[held.origin])
    }

    /// A layer of an image for a report.
    pub(super) fn part(&self, image: usize, (at, layer): (usize, &LayerContents)) -> LayerPart {
        let made = layer.made.as_ref();
        LayerPart {
            image: self.images[image].waste.name.clone(),
            layer: at + 1,
            diff_id: layer.diff_id,
            instruction: layer.instruction.clone(),
            file: made.map(|m| m.dockerfile.clone()),
            line: made.map(|m| m.line),
        }
    }
}

/// The SHA-256 of a file's content.
fn content(entry: crate::layer::EntryRef<'_>) -> Option<[u8; 32]> {
    match entry.kind {
        KindRef::File { content, .. } => content.and_then(|digest| digest.bytes().try_into().ok()),
        _ => None,
    }
}

/// Says of the copy at a place of the stack that it is needless now, or not.
fn enter(stack: &[(usize, u32)], ledger: &mut Ledger, turn: Turn) {
    let copy = |needless: Needless| {
        let (layer, occurrence) = stack[needless.place.layer];
        let (by, by_occurrence) = stack[needless.by.layer];
        Copy {
            kind: needless.kind,
            layer: number(layer),
            occurrence,
            by: number(by),
            by_occurrence,
            index: number(needless.place.index),
            by_index: match needless.kind {
                FindingKind::Metadata => number(needless.by.index),
                _ => 0,
            },
        }
    };
    match turn {
        Turn::Needless(needless) => ledger.needless(copy(needless)),
        Turn::Needed(needless) => ledger.needed(copy(needless)),
    }
}

impl Layer {
    /// Which origin is the one that this image tells of.
    fn origin(&mut self, layer: &LayerContents) -> usize {
        let same = |known: &LayerContents| {
            (&known.instruction, &known.made) == (&layer.instruction, &layer.made)
        };
        self.origins.iter().position(same).unwrap_or_else(|| {
            self.origins.push(LayerContents {
                toc: Arc::new(Toc::from_entries(Vec::new())),
                ..layer.clone()
            });
            self.origins.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::super::testing::image;
    use super::*;

    /// Images with layers in common, one of them twice in an image, and the same layers in another order.
    fn images() -> Vec<Contents> {
        let base = "d d\nf d/a A*10\nf d/b A*10\nf x X*7";
        let chmod = "f x X*7 755\nf y X*7";
        let gone = "w d\nf z A*10";
        let link = "l h d/a\nf d/a B*3";
        [
            &[base][..],
            &[base, chmod],
            &[base, chmod, gone],
            &[base, gone, base],
            &[base, gone, base, gone, base],
            &[base, link, gone],
            &[chmod, base],
            &[link],
            &[],
            &[base, link],
            &[base, chmod, gone, "w z"],
        ]
        .iter()
        .map(|layers| image(layers))
        .collect()
    }

    fn report(images: &[Contents], order: &[usize]) -> DedupReport {
        let mut survey = Survey::default();
        for at in order {
            survey.add_ranked(*at, &images[*at]);
        }
        let toc = |id: &DiffId| {
            let mut layers = images.iter().flat_map(|image| &image.layers);
            let layer = layers.find(|l| l.diff_id == *id).unwrap();
            Ok::<_, Infallible>(Arc::clone(&layer.toc))
        };
        let Ok(report) = survey.finish(1, toc);
        report
    }

    #[test]
    fn an_image_wastes_the_same_whatever_came_before_it() {
        let images = images();
        let all: Vec<usize> = (0..images.len()).collect();
        let together = report(&images, &all);
        for (at, sums) in together.images.iter().enumerate() {
            let alone = report(&images, &[at]);
            let of = |image: &ImageWaste| {
                [
                    image.stored_bytes,
                    image.distinct_bytes,
                    image.overwritten_bytes,
                    image.deleted_bytes,
                    image.recopied_bytes,
                    image.duplicate_bytes,
                ]
            };
            assert_eq!(of(sums), of(&alone.images[0]), "image {at}");
            assert_eq!(sums.stored_bytes, sums.distinct_bytes + sums.wasted_bytes());
            let found: u64 = alone.findings.iter().map(|f| f.wasted_bytes).sum();
            assert_eq!(found, sums.wasted_bytes(), "image {at}");
        }
    }

    #[test]
    fn the_order_of_adding_changes_no_sum() {
        let images = images();
        let all: Vec<usize> = (0..images.len()).collect();
        let want = report(&images, &all);
        for step in [1, 3, 7] {
            let mut order: Vec<usize> = all.iter().map(|at| at * step % all.len()).collect();
            order.reverse();
            let got = report(&images, &order);
            assert_eq!(got.images, want.images);
            assert_eq!(
                (got.layers, got.contents, got.needless),
                (want.layers, want.contents, want.needless)
            );
            let told = |report: &DedupReport| {
                let of = |f: &Finding| (f.kind, f.wasted_bytes, f.files, f.layers.len());
                let mut all: Vec<_> = report.findings.iter().map(of).collect();
                all.sort();
                all
            };
            assert_eq!(told(&got), told(&want), "{order:?}");
        }
    }
}
