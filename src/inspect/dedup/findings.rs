//! What is worth telling of a survey, each needless byte once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::layers::own_bytes;
use super::advice::{Matter, advice};
use super::ledger::{Copy, SetId};
use super::report::{Estimate, Finding, FindingKind, Needless as Rest, shown};
use super::survey::{Layer, Survey};
use crate::layer::entry::parent;
use crate::layer::{EntryRef, KindRef, Toc};
use crate::oci::DiffId;

/// How many paths of a finding are named.
const EXAMPLES: usize = 5;

/// Contents that just these layers have.
#[derive(Default)]
struct Shared {
    bytes: u64,
    files: u64,
    /// The largest: size, layer, entry.
    largest: Vec<(u64, u32, u32)>,
}

impl Survey {
    /// The findings within images: one for all images that have the same copies in the same two layers.
    pub(super) fn within<E>(
        &self,
        min_bytes: u64,
        toc: &impl Fn(&DiffId) -> Result<Arc<Toc>, E>,
        small: &mut Rest,
    ) -> Result<Vec<Finding>, E> {
        let copies = self.ledger.copies();
        let group = |(copy, set): &(Copy, SetId)| {
            (
                copy.kind,
                copy.layer,
                copy.occurrence,
                copy.by,
                copy.by_occurrence,
                *set,
            )
        };
        let mut findings = Vec::new();
        // Groups of a kind and a layer follow one another.
        let mut last: Option<(u32, Arc<Toc>)> = None;
        for copies in copies.chunk_by(|a, b| group(a) == group(b)) {
            let [(first, set), ..] = copies else {
                continue;
            };
            let table = match &last {
                Some((layer, table)) if *layer == first.layer => Arc::clone(table),
                _ => toc(&self.layers[first.layer as usize].diff_id)?,
            };
            last = Some((first.layer, Arc::clone(&table)));
            let entry = |copy: &Copy| table.at(copy.index as usize);
            let bytes = copies.iter().map(|(c, _)| own_bytes(entry(c))).sum();
            if is_small(bytes, min_bytes, small) {
                continue;
            }
            let by_table = match first.kind {
                FindingKind::Metadata => Some(toc(&self.layers[first.by as usize].diff_id)?),
                _ => None,
            };
            let metas = by_table.as_ref().map(|by| {
                let pairs = copies
                    .iter()
                    .map(|(c, _)| (entry(c), by.at(c.by_index as usize)));
                pairs.collect::<Vec<_>>()
            });
            let mut files: Vec<EntryRef<'_>> = copies.iter().map(|(c, _)| entry(c)).collect();
            let folder = common(files.iter().map(|entry| entry.path));
            let order = |e: &EntryRef<'_>| std::cmp::Reverse(own_bytes(*e));
            files.sort_by(|a, b| (order(a), a.path).cmp(&(order(b), b.path)));
            let what = called(&table, &folder, &files);
            let images = self.ledger.images(*set);
            let image = self.first(&images);
            let here = self.held(image, first.layer as usize, first.occurrence);
            let there = self.held(image, first.by as usize, first.by_occurrence);
            let matter = Matter {
                kind: first.kind,
                layer: here,
                by: there,
                path: &folder,
                what,
                meta: metas.and_then(|pairs| uniform(&pairs)),
            };
            let mut layers = vec![self.part(image, here)];
            if there.0 != here.0 {
                layers.push(self.part(image, there));
            }
            findings.push(Finding {
                kind: first.kind,
                images: self.names(images),
                wasted_bytes: bytes,
                compressed: self.layers[first.layer as usize].estimate(bytes),
                files: files.len() as u64,
                path: shown(&folder),
                examples: files.iter().take(EXAMPLES).map(|e| shown(e.path)).collect(),
                layers,
                change: advice(&matter),
            });
        }
        Ok(findings)
    }

    /// Contents that layers of images have that share none of them.
    pub(super) fn across<E>(
        &self,
        min_bytes: u64,
        toc: &impl Fn(&DiffId) -> Result<Arc<Toc>, E>,
        small: &mut Rest,
    ) -> Result<Vec<Finding>, E> {
        let mut groups: BTreeMap<Vec<u32>, Shared> = BTreeMap::new();
        for copies in self.contents.iter().filter(|c| !c.more.is_empty()) {
            let mut places = vec![copies.first.0];
            places.extend(&copies.more);
            let group = groups.entry(places).or_default();
            group.bytes += copies.size_bytes;
            group.files += 1;
            let (layer, index) = copies.first;
            group.largest.push((copies.size_bytes, layer, index));
            if group.largest.len() > EXAMPLES * 8 {
                group.largest.sort_by(|a, b| b.cmp(a));
                group.largest.truncate(EXAMPLES);
            }
        }
        let mut findings = Vec::new();
        for (places, mut group) in groups {
            let places: Vec<usize> = places.iter().map(|at| *at as usize).collect();
            let apart = self.apart(&places);
            let [first, second, ..] = apart[..] else {
                continue;
            };
            let more = u64::try_from(apart.len() - 1).unwrap_or(u64::MAX);
            let wasted_bytes = group.bytes * more;
            if is_small(wasted_bytes, min_bytes, small) {
                continue;
            }
            group.largest.sort_by(|a, b| b.cmp(a));
            group.largest.truncate(EXAMPLES);
            let table = toc(&self.layers[places[0]].diff_id)?;
            let paths = group.largest.iter();
            let paths: Vec<&[u8]> = paths.map(|l| table.at(l.2 as usize).path).collect();
            let folder = common(paths.iter().copied());
            let held = |layer: usize| {
                let image = self.first(&self.layers[layer].images);
                (image, self.held(image, layer, 0))
            };
            let matter = Matter {
                kind: FindingKind::AcrossImages,
                layer: held(second).1,
                by: held(first).1,
                path: &folder,
                what: format!("/{}", shown(&folder)),
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
            let images = apart.iter().flat_map(|p| &self.layers[*p].images);
            findings.push(Finding {
                kind: FindingKind::AcrossImages,
                images: self.names(images.copied().collect()),
                wasted_bytes,
                compressed: self.layers[second].estimate(wasted_bytes),
                files: group.files * more,
                path: shown(&folder),
                examples: paths.iter().map(|p| shown(p)).collect(),
                layers: apart
                    .iter()
                    .map(|p| held(*p))
                    .map(|(image, held)| self.part(image, held))
                    .collect(),
                change,
            });
        }
        Ok(findings)
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
        let blob = self.blob.size;
        let share = u128::from(bytes) * u128::from(blob) / u128::from(self.stored_bytes.max(1));
        Estimate {
            // Headers of a layer of small files are not those files' bytes.
            estimated_bytes: u64::try_from(share).unwrap_or(u64::MAX).min(bytes),
        }
    }
}

/// Whether a finding is too small to be told; then it is counted.
fn is_small(wasted_bytes: u64, min_bytes: u64, small: &mut Rest) -> bool {
    let is = wasted_bytes < min_bytes;
    if is {
        small.findings += 1;
        small.wasted_bytes += wasted_bytes;
    }
    is
}

/// The metadata before and after, where all have the same.
fn uniform<'a>(pairs: &[(EntryRef<'a>, EntryRef<'a>)]) -> Option<(EntryRef<'a>, EntryRef<'a>)> {
    let of =
        |(a, b): &(EntryRef<'_>, EntryRef<'_>)| [(a.mode, a.uid, a.gid), (b.mode, b.uid, b.gid)];
    let first = pairs.first()?;
    let same = pairs.iter().all(|pair| of(pair) == of(first));
    same.then_some(*first)
}

/// What the files of a finding are called: by their folder only if the layer has nothing else there, so that no advice is to
/// delete what was not meant.
fn called(table: &Toc, folder: &[u8], files: &[EntryRef<'_>]) -> String {
    let is_file = |e: &EntryRef<'_>| matches!(e.kind, KindRef::File { .. });
    let inside = |e: &EntryRef<'_>| crate::layer::entry::is_below(folder, e.path) && is_file(e);
    match files {
        [largest, others @ ..] if !others.is_empty() => {
            if !folder.is_empty() && table.refs().filter(inside).count() == files.len() {
                format!("/{}", shown(folder))
            } else {
                format!("/{} and {} more", shown(largest.path), others.len())
            }
        }
        _ => format!("/{}", shown(folder)),
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
