//! What several images hold, put together one image after another.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::layers::own_bytes;
use super::super::timeline::Place;
use super::super::{Contents, LayerContents};
use super::advice::{Matter, advice};
use super::report::{
    ContentSums, DEDUP_SCHEMA, DedupReport, Estimate, Finding, FindingKind, ImageWaste, LayerPart,
    LayerSums, Needless as Rest, shown,
};
use super::waste::{Needless, Waste};
use crate::layer::entry::parent;
use crate::layer::{EntryRef, KindRef, Toc};
use crate::oci::{DiffId, Digest};

/// How many paths of a finding are named.
const EXAMPLES: usize = 5;

/// What is known of the images so far. It holds no table of contents: memory grows with the number of different contents, not with
/// that of images.
#[derive(Default)]
pub struct Survey {
    images: Vec<ImageWaste>,
    /// The places of an image's layers in `layers`, each with the bytes that the image needs of it.
    stacks: Vec<Vec<(usize, u64)>>,
    layers: Vec<Layer>,
    by_diff_id: HashMap<DiffId, usize>,
    contents: HashMap<Digest, Copies>,
    /// Files whose content no table knows: like no other.
    unknown: ContentSums,
    findings: BTreeMap<Key, Finding>,
}

/// A layer that some image has.
struct Layer {
    part: LayerPart,
    /// Without its table.
    contents: LayerContents,
    number: usize,
    stored_bytes: u64,
    images: Vec<usize>,
}

/// Where a content is, over different layers.
struct Copies {
    size_bytes: u64,
    count: u64,
    /// The first, in `Survey::layers`, and the entry there.
    first: (usize, usize),
    /// Further layers that have it, each once.
    more: Vec<usize>,
}

/// What makes two findings one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: FindingKind,
    layer: DiffId,
    by: DiffId,
    /// What else decides which bytes are needless.
    wasted_bytes: u64,
    path: String,
}

/// Needless copies with one kind, one layer, and one other layer.
#[derive(Default)]
struct Group<'a> {
    files: Vec<(u64, EntryRef<'a>)>,
    bytes: u64,
    /// Before and after, while all have the same.
    meta: Option<(EntryRef<'a>, EntryRef<'a>)>,
    uniform: bool,
}

impl Survey {
    /// Adds an image.
    pub fn add(&mut self, contents: &Contents) {
        let image = self.images.len();
        let name = contents.documents.name.clone();
        let mut stack = Vec::with_capacity(contents.layers.len());
        for (at, layer) in contents.layers.iter().enumerate() {
            let place = match self.by_diff_id.get(&layer.diff_id) {
                Some(place) => *place,
                None => self.add_layer(&name, at, layer),
            };
            if self.layers[place].images.last() != Some(&image) {
                self.layers[place].images.push(image);
            }
            stack.push(place);
        }
        let waste = Waste::of(contents);
        let mut sums = ImageWaste {
            name,
            digest: contents.documents.descriptor.digest,
            size_bytes: contents.layers.iter().map(|l| l.blob.size).sum(),
            own_size_bytes: 0,
            stored_bytes: waste.stored_bytes,
            distinct_bytes: waste.distinct_bytes,
            shared_bytes: 0,
            overwritten_bytes: 0,
            deleted_bytes: 0,
            recopied_bytes: 0,
            duplicate_bytes: 0,
        };
        let mut needed: Vec<u64> = stack
            .iter()
            .map(|at| self.layers[*at].stored_bytes)
            .collect();
        for needless in &waste.needless {
            let bytes = own_bytes(waste.timeline.entry(needless.place));
            let of_layer = &mut needed[needless.place.layer];
            *of_layer = of_layer.saturating_sub(bytes);
            match needless.kind {
                FindingKind::Overwritten => sums.overwritten_bytes += bytes,
                FindingKind::Deleted => sums.deleted_bytes += bytes,
                FindingKind::Metadata | FindingKind::Moved => sums.recopied_bytes += bytes,
                FindingKind::Duplicate | FindingKind::AcrossImages => sums.duplicate_bytes += bytes,
            }
        }
        self.find(contents, &waste.needless, &sums.name, &stack);
        self.images.push(sums);
        self.stacks.push(stack.into_iter().zip(needed).collect());
    }

    fn add_layer(&mut self, image: &str, at: usize, layer: &LayerContents) -> usize {
        let place = self.layers.len();
        let mut stored_bytes = 0;
        for (index, entry) in layer.toc.refs().enumerate() {
            let size_bytes = own_bytes(entry);
            stored_bytes += size_bytes;
            if size_bytes == 0 {
                continue;
            }
            let KindRef::File {
                content: Some(digest),
                ..
            } = entry.kind
            else {
                self.unknown.add(size_bytes, 1);
                continue;
            };
            let copies = self.contents.entry(digest).or_insert_with(|| Copies {
                size_bytes,
                count: 0,
                first: (place, index),
                more: Vec::new(),
            });
            copies.count += 1;
            if copies.first.0 != place && copies.more.last() != Some(&place) {
                copies.more.push(place);
            }
        }
        let made = layer.made.as_ref();
        self.layers.push(Layer {
            part: LayerPart {
                image: image.to_owned(),
                layer: at + 1,
                diff_id: layer.diff_id,
                instruction: layer.instruction.clone(),
                file: made.map(|m| m.dockerfile.clone()),
                line: made.map(|m| m.line),
            },
            contents: LayerContents {
                toc: Arc::new(Toc::from_entries(Vec::new())),
                ..layer.clone()
            },
            number: at,
            stored_bytes,
            images: Vec::new(),
        });
        self.by_diff_id.insert(layer.diff_id, place);
        place
    }

    /// The findings within an image, a group for each two layers.
    fn find(&mut self, contents: &Contents, needless: &[Needless], name: &str, stack: &[usize]) {
        let entry = |place: Place| contents.layers[place.layer].toc.at(place.index);
        let mut groups: BTreeMap<(FindingKind, usize, usize), Group<'_>> = BTreeMap::new();
        for one in needless {
            let key = (one.kind, one.place.layer, one.by.layer);
            let group = groups.entry(key).or_insert_with(|| Group {
                uniform: true,
                ..Group::default()
            });
            let here = entry(one.place);
            group.bytes += own_bytes(here);
            group.files.push((own_bytes(here), here));
            if one.kind == FindingKind::Metadata {
                let pair = (here, entry(one.by));
                let of = |(a, b): (EntryRef<'_>, EntryRef<'_>)| {
                    [(a.mode, a.uid, a.gid), (b.mode, b.uid, b.gid)]
                };
                group.uniform &= group.meta.is_none_or(|known| of(known) == of(pair));
                group.meta = Some(pair);
            }
        }
        for ((kind, layer, by), mut group) in groups {
            let folder = common(group.files.iter().map(|(_, entry)| entry.path));
            let matter = Matter {
                kind,
                layer: (layer, &contents.layers[layer]),
                by: (by, &contents.layers[by]),
                path: &folder,
                meta: group.meta.filter(|_| group.uniform),
            };
            let key = Key {
                kind,
                layer: contents.layers[layer].diff_id,
                by: contents.layers[by].diff_id,
                wasted_bytes: group.bytes,
                path: shown(&folder),
            };
            if let Some(known) = self.findings.get_mut(&key) {
                known.images.push(name.to_owned());
                continue;
            }
            group
                .files
                .sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.path.cmp(b.1.path)));
            let held = &self.layers[stack[layer]];
            let part = |at: usize| LayerPart {
                image: name.to_owned(),
                layer: at + 1,
                ..self.layers[stack[at]].part.clone()
            };
            let mut layers = vec![part(layer)];
            if by != layer {
                layers.push(part(by));
            }
            let examples = group.files.iter().take(EXAMPLES);
            let finding = Finding {
                kind,
                images: vec![name.to_owned()],
                wasted_bytes: group.bytes,
                compressed: held.estimate(group.bytes),
                files: group.files.len() as u64,
                path: key.path.clone(),
                examples: examples.map(|(_, entry)| shown(entry.path)).collect(),
                layers,
                change: advice(&matter),
            };
            self.findings.insert(key, finding);
        }
    }

    /// The report, with findings of `min_bytes` and more. `toc` gives the table of a layer again, if it can be had: to name paths.
    pub fn finish(
        mut self,
        min_bytes: u64,
        toc: &dyn Fn(&DiffId) -> Option<Arc<Toc>>,
    ) -> DedupReport {
        let mut layers = LayerSums::default();
        for layer in &self.layers {
            let size_bytes = layer.contents.blob.size;
            layers.count += 1;
            layers.stored_bytes += size_bytes;
            match &layer.images[..] {
                [only] => {
                    layers.unique_bytes += size_bytes;
                    self.images[*only].own_size_bytes += size_bytes;
                }
                _ => {
                    layers.shared_count += 1;
                    layers.shared_bytes += size_bytes;
                }
            }
        }
        for (image, stack) in self.images.iter_mut().zip(&self.stacks) {
            let shared = stack
                .iter()
                .filter(|(at, _)| self.layers[*at].images.len() > 1);
            image.shared_bytes = shared.map(|(_, needed)| needed).sum();
        }
        layers.referenced_bytes = self.images.iter().map(|i| i.size_bytes).sum();
        let mut contents = self.unknown;
        for copies in self.contents.values() {
            contents.add(copies.size_bytes, copies.count);
        }
        let mut findings: Vec<Finding> = std::mem::take(&mut self.findings).into_values().collect();
        findings.extend(self.across(toc));
        let mut needless = Rest::default();
        findings.retain(|finding| {
            let small = finding.wasted_bytes < min_bytes;
            if small {
                needless.findings += 1;
                needless.wasted_bytes += finding.wasted_bytes;
            }
            !small
        });
        findings.sort_by(|a, b| {
            let rank = |f: &Finding| (f.kind, f.layers.first().map(|l| l.layer));
            b.wasted_bytes
                .cmp(&a.wasted_bytes)
                .then_with(|| rank(a).cmp(&rank(b)))
                .then_with(|| a.path.cmp(&b.path))
        });
        DedupReport {
            schema: DEDUP_SCHEMA,
            images: self.images,
            layers,
            contents,
            chunks: None,
            findings,
            needless,
        }
    }

    /// Contents that layers of images have that share none of them.
    fn across(&self, toc: &dyn Fn(&DiffId) -> Option<Arc<Toc>>) -> Vec<Finding> {
        /// Contents that just these layers have.
        #[derive(Default)]
        struct Shared {
            bytes: u64,
            files: u64,
            /// The largest: size, layer, entry.
            largest: Vec<(u64, usize, usize)>,
        }
        let mut groups: BTreeMap<Vec<usize>, Shared> = BTreeMap::new();
        for copies in self.contents.values().filter(|c| !c.more.is_empty()) {
            let mut places = vec![copies.first.0];
            places.extend(&copies.more);
            let group = groups.entry(places).or_default();
            group.bytes += copies.size_bytes;
            group.files += 1;
            group
                .largest
                .push((copies.size_bytes, copies.first.0, copies.first.1));
            if group.largest.len() > EXAMPLES * 8 {
                group.largest.sort_by(|a, b| b.cmp(a));
                group.largest.truncate(EXAMPLES);
            }
        }
        let mut findings = Vec::new();
        for (places, mut group) in groups {
            let apart = self.apart(&places);
            let [first, second, ..] = apart[..] else {
                continue;
            };
            group.largest.sort_by(|a, b| b.cmp(a));
            group.largest.truncate(EXAMPLES);
            let mut paths: Vec<Vec<u8>> = Vec::new();
            if let Some(toc) = toc(&self.layers[places[0]].part.diff_id) {
                let known = group.largest.iter().filter(|l| l.2 < toc.len());
                paths.extend(known.map(|l| toc.at(l.2).path.to_vec()));
            }
            let folder = common(paths.iter().map(Vec::as_slice));
            let more = u64::try_from(apart.len() - 1).unwrap_or(u64::MAX);
            let (one, other) = (&self.layers[first], &self.layers[second]);
            let wasted_bytes = group.bytes * more;
            let matter = Matter {
                kind: FindingKind::AcrossImages,
                layer: (other.number, &other.contents),
                by: (one.number, &one.contents),
                path: &folder,
                meta: None,
            };
            let change = if self.is_all(&apart, group.bytes) {
                format!(
                    "{}; they differ in times or owners only: built on the same base, in the same order and with SOURCE_DATE_EPOCH and rewrite-timestamp, they are one layer",
                    advice(&matter)
                )
            } else {
                advice(&matter)
            };
            let mut images: Vec<String> = Vec::new();
            for place in &apart {
                let names = self.layers[*place].images.iter();
                images.extend(names.map(|i| self.images[*i].name.clone()));
            }
            findings.push(Finding {
                kind: FindingKind::AcrossImages,
                images,
                wasted_bytes,
                compressed: other.estimate(wasted_bytes),
                files: group.files * more,
                path: shown(&folder),
                examples: paths.iter().map(|p| shown(p)).collect(),
                layers: apart.iter().map(|p| self.layers[*p].part.clone()).collect(),
                change,
            });
        }
        findings
    }

    /// Whether the contents that the layers share are all that each of them holds.
    fn is_all(&self, places: &[usize], shared_bytes: u64) -> bool {
        places
            .iter()
            .all(|p| self.layers[*p].stored_bytes == shared_bytes)
    }

    /// One layer for each set of layers that images join: within an image, two copies are its own waste.
    fn apart(&self, places: &[usize]) -> Vec<usize> {
        let mut of_image: HashMap<usize, usize> = HashMap::new();
        let mut joined: Vec<usize> = (0..places.len()).collect();
        fn top(joined: &mut [usize], mut at: usize) -> usize {
            while joined[at] != at {
                joined[at] = joined[joined[at]];
                at = joined[at];
            }
            at
        }
        for (at, place) in places.iter().enumerate() {
            for image in &self.layers[*place].images {
                let other = *of_image.entry(*image).or_insert(at);
                let (a, b) = (top(&mut joined, at), top(&mut joined, other));
                let (low, high) = (a.min(b), a.max(b));
                joined[high] = low;
            }
        }
        let firsts = (0..places.len()).filter(|at| joined[*at] == *at);
        firsts.map(|at| places[at]).collect()
    }
}

impl Layer {
    /// What so many of the layer's bytes take in its blob, if they compress as the rest does.
    fn estimate(&self, bytes: u64) -> Estimate {
        let blob = self.contents.blob.size;
        let share = u128::from(bytes) * u128::from(blob) / u128::from(self.stored_bytes.max(1));
        Estimate {
            // Headers of a layer of small files are not those files' bytes.
            estimated_bytes: u64::try_from(share).unwrap_or(u64::MAX).min(bytes),
        }
    }
}

/// The folder that has all the paths; the path itself, if it is one.
fn common<'a>(mut paths: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let Some(first) = paths.next() else {
        return Vec::new();
    };
    let mut folder = first;
    for path in paths {
        while path != folder && !crate::layer::entry::is_below(folder, path) {
            folder = parent(folder).unwrap_or_default();
        }
    }
    folder.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_all() {
        for (paths, want) in [
            (&["a/b"][..], "a/b"),
            (&["a/b", "a/c"], "a"),
            (&["a/b/c", "a/bc"], "a"),
            (&["a", "b"], ""),
            (&["a", "a/b"], "a"),
            (&[], ""),
        ] {
            let paths = paths.iter().map(|p| p.as_bytes());
            assert_eq!(common(paths), want.as_bytes());
        }
    }
}
