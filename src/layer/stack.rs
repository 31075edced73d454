//! What several layers say together, resolved as overlayfs resolves its lower directories.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::entry::{join, push_parts};
use super::error::text;
use super::{Entry, EntryRef, Kind, KindRef, LayerError, Meta, Toc};

/// As many links as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Layers, bottom first.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    layers: Vec<Arc<Toc>>,
}

/// What is seen at a path, and which layer it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The entry; never a whiteout.
    pub entry: Entry,
    /// The layer's place in [`Stack::layers`].
    pub layer: usize,
}

/// Which of a stack's tables has an entry, and where: a [`Found`] in eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Spot {
    layer: u32,
    at: u32,
}

impl Spot {
    // No memory holds four billion entries.
    fn new(layer: usize, at: usize) -> Spot {
        let small = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Spot {
            layer: small(layer),
            at: small(at),
        }
    }

    /// The layer's place in [`Stack::layers`].
    pub(crate) fn layer(self) -> usize {
        self.layer as usize
    }

    /// The entry's place in the layer's table.
    pub(crate) fn at(self) -> usize {
        self.at as usize
    }
}

/// Where a path leads once its links are followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// Clean and without links as far as it exists; what does not exist follows as it was given.
    pub path: Vec<u8>,
    /// What is there; the root is always a directory.
    pub found: Option<Found>,
}

/// A path as the merged tree has it.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    /// What is seen; `None` for a root that no layer has a header for.
    pub(crate) entry: Option<EntryRef<'a>>,
    /// Which layer it comes from.
    pub(crate) layer: usize,
    /// Where in the layer's table.
    at: usize,
    path: Vec<u8>,
    /// For a directory, the layers that have a share in its content, top first, and where it is.
    shares: Vec<(usize, Range<usize>)>,
}

impl Stack {
    /// A stack of these layers, bottom first.
    pub fn new(layers: Vec<Arc<Toc>>) -> Stack {
        Stack { layers }
    }

    /// Puts a layer on top.
    pub fn push(&mut self, layer: Arc<Toc>) {
        self.layers.push(layer);
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> &[Arc<Toc>] {
        &self.layers
    }

    /// What is seen at `path`; no link is followed, so what is below a link is not there. The root is always there.
    pub fn lookup(&self, path: &[u8]) -> Option<Found> {
        self.node(path).map(Node::into_found)
    }

    /// What is seen directly in `dir`, in order.
    pub fn children(&self, dir: &[u8]) -> Vec<Found> {
        let node = self.node(dir);
        let nodes = node.map(|n| self.child_nodes(&n)).unwrap_or_default();
        nodes.into_values().map(Node::into_found).collect()
    }

    /// `path` and everything seen below it, in order.
    pub fn walk(&self, path: &[u8]) -> impl Iterator<Item = Found> + '_ {
        let mut open: Vec<Node> = self.node(path).into_iter().collect();
        std::iter::from_fn(move || {
            let node = open.pop()?;
            open.extend(self.child_nodes(&node).into_values().rev());
            Some(node.into_found())
        })
    }

    /// The entry that is seen at `path`; none for a root that no layer has a header for.
    pub(crate) fn spot(&self, path: &[u8]) -> Option<Spot> {
        let node = self.node(path)?;
        node.entry.map(|_| Spot::new(node.layer, node.at))
    }

    /// Everything seen below `path`, in order.
    pub(crate) fn spots_below(&self, path: &[u8]) -> Vec<Spot> {
        if let [toc] = &self.layers[..] {
            let there = |at: &usize| toc.at(*at).kind != KindRef::Whiteout;
            let below = toc.content_of(path).filter(there);
            return below.map(|at| Spot::new(0, at)).collect();
        }
        let mut spots = Vec::new();
        let Some(top) = self.node(path) else {
            return spots;
        };
        let mut open: Vec<Node> = self.child_nodes(&top).into_values().rev().collect();
        while let Some(node) = open.pop() {
            spots.push(Spot::new(node.layer, node.at));
            if node.is_dir() {
                open.extend(self.child_nodes(&node).into_values().rev());
            }
        }
        spots
    }

    /// The entry at a spot of this stack.
    pub(crate) fn entry_at(&self, spot: Spot) -> EntryRef<'_> {
        self.layers[spot.layer()].at(spot.at())
    }

    /// Follows the links in all parts of `path`, the last included, without leaving the root: `..` stops there and an absolute
    /// target starts there. A missing part is no error; going on from what is neither a directory nor missing is.
    pub fn resolve(&self, path: &[u8]) -> Result<Resolved, LayerError> {
        self.follow(path, true)
    }

    /// As [`Stack::resolve`], but a link in the last part stays: where an entry of that name would be written.
    pub fn resolve_parent(&self, path: &[u8]) -> Result<Resolved, LayerError> {
        self.follow(path, false)
    }

    fn follow(&self, path: &[u8], last: bool) -> Result<Resolved, LayerError> {
        // The parts still to go, the next one at the end.
        let mut todo: Vec<Vec<u8>> = Vec::new();
        push_parts(&mut todo, path);
        let mut way: Vec<Node> = vec![self.root()];
        // Parts that do not exist, below the end of the way.
        let mut missing: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                if missing.pop().is_none() && way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way.last().expect("the root stays on the way");
            if !missing.is_empty() {
                missing.push(part);
                continue;
            }
            if !here.is_dir() {
                return Err(LayerError::NotDirectory {
                    path: text(&here.path),
                });
            }
            let Some(next) = self.child(here, &part) else {
                missing.push(part);
                continue;
            };
            match next.entry.map(|e| e.kind) {
                Some(KindRef::Symlink { target }) if last || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(LayerError::Loop { path: text(path) });
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    push_parts(&mut todo, target);
                }
                _ => way.push(next),
            }
        }
        let here = way.pop().expect("the root stays on the way");
        if !missing.is_empty() && !here.is_dir() {
            return Err(LayerError::NotDirectory {
                path: text(&here.path),
            });
        }
        let mut clean = here.path.clone();
        for part in &missing {
            join(&mut clean, part);
        }
        Ok(Resolved {
            path: clean,
            found: missing.is_empty().then(|| here.into_found()),
        })
    }

    /// The root, which is there even without a layer.
    pub(crate) fn root(&self) -> Node<'_> {
        let mut shares = Vec::new();
        let mut seen = None;
        for (layer, toc) in self.layers.iter().enumerate().rev() {
            let root = toc.find(b"");
            shares.push((layer, toc.content_of(b"")));
            let Some(entry) = root else { continue };
            if seen.is_none_or(|(e, _)| is_implied(e)) {
                seen = Some((entry, layer));
            }
            if is_opaque(entry) {
                break;
            }
        }
        Node {
            entry: seen.map(|(entry, _)| entry),
            layer: seen.map_or(0, |(_, layer)| layer),
            // Before the root comes nothing.
            at: 0,
            path: Vec::new(),
            shares,
        }
    }

    /// What is seen at a path; no link is followed.
    pub(crate) fn node(&self, path: &[u8]) -> Option<Node<'_>> {
        let parts = path.split(|c| *c == b'/').filter(|p| !p.is_empty());
        let mut node = self.root();
        for part in parts {
            node = self.child(&node, part)?;
        }
        Some(node)
    }

    /// What is seen in a directory under one name.
    pub(crate) fn child<'a>(&'a self, dir: &Node<'a>, name: &[u8]) -> Option<Node<'a>> {
        let mut path = dir.path.clone();
        join(&mut path, name);
        let layers = dir.shares.iter().filter_map(|(layer, range)| {
            let at = self.layers[*layer].index_in(&path, range.clone())?;
            Some((*layer, at, range.end))
        });
        self.merge(layers)
    }

    /// What is seen in a directory, by name.
    pub(crate) fn child_nodes<'a>(&'a self, dir: &Node<'a>) -> BTreeMap<&'a [u8], Node<'a>> {
        let mut by_name: BTreeMap<&[u8], Vec<(usize, usize, usize)>> = BTreeMap::new();
        for (layer, range) in &dir.shares {
            let toc = &self.layers[*layer];
            let mut at = range.start;
            while at < range.end {
                let end = toc.end_of(at, range.end);
                let layers = by_name.entry(toc.at(at).name()).or_default();
                layers.push((*layer, at, end));
                at = end;
            }
        }
        let merged = by_name.into_iter();
        merged
            .filter_map(|(name, layers)| Some((name, self.merge(layers.into_iter())?)))
            .collect()
    }

    /// One name in all the layers that have it, top first, each with its place and the limit of its subtree.
    fn merge<'a>(
        &'a self,
        layers: impl Iterator<Item = (usize, usize, usize)>,
    ) -> Option<Node<'a>> {
        let mut seen: Option<Node> = None;
        for (layer, at, limit) in layers {
            let toc = &self.layers[layer];
            let entry = toc.at(at);
            if !entry.is_dir() {
                // It hides what is below; a directory above it hides it.
                return seen.or_else(|| {
                    (entry.kind != KindRef::Whiteout).then(|| Node {
                        entry: Some(entry),
                        layer,
                        at,
                        path: entry.path.to_vec(),
                        shares: Vec::new(),
                    })
                });
            }
            let node = seen.get_or_insert_with(|| Node {
                entry: Some(entry),
                layer,
                at,
                path: entry.path.to_vec(),
                shares: Vec::new(),
            });
            // A directory without a header looks like the one that it was made over.
            if node.entry.is_some_and(is_implied) {
                (node.entry, node.layer, node.at) = (Some(entry), layer, at);
            }
            node.shares.push((layer, at + 1..toc.end_of(at, limit)));
            if is_opaque(entry) {
                break;
            }
        }
        seen
    }
}

impl Node<'_> {
    /// Whether things can be in it.
    pub(crate) fn is_dir(&self) -> bool {
        self.entry.is_none_or(|e| e.is_dir())
    }

    fn into_found(self) -> Found {
        let entry = self.entry.map_or_else(bare_root, |e| e.to_entry());
        Found {
            entry,
            layer: self.layer,
        }
    }
}

fn is_implied(entry: EntryRef) -> bool {
    matches!(entry.kind, KindRef::Directory { implied: true, .. })
}

fn is_opaque(entry: EntryRef) -> bool {
    matches!(entry.kind, KindRef::Directory { opaque: true, .. })
}

/// The root of layers that do not speak of it.
fn bare_root() -> Entry {
    Entry {
        path: Vec::new(),
        meta: Meta {
            mode: 0o755,
            ..Meta::default()
        },
        kind: Kind::Directory {
            opaque: false,
            implied: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::is_below;
    use super::*;

    /// A table from lines: `f PATH`, `d PATH`, `o PATH` (opaque), `i PATH` (implied), `w PATH`, `l PATH TARGET`.
    fn toc(lines: &str) -> Arc<Toc> {
        let entries = lines.lines().map(str::trim).filter(|l| !l.is_empty());
        let entry = |line: &str| {
            let mut words = line.split(' ');
            let (letter, path) = (words.next().unwrap(), words.next().unwrap_or_default());
            let dir = |opaque, implied| Kind::Directory { opaque, implied };
            let kind = match letter {
                "f" => Kind::File {
                    size_bytes: 0,
                    content: None,
                },
                "d" => dir(false, false),
                "o" => dir(true, false),
                "i" => dir(false, true),
                "w" => Kind::Whiteout,
                "l" => Kind::Symlink {
                    target: words.next().unwrap().into(),
                },
                other => panic!("{other}"),
            };
            Entry::bare(path, kind)
        };
        Arc::new(Toc::from_entries(entries.map(entry).collect()))
    }

    fn seen(stack: &Stack, path: &str) -> Vec<String> {
        let line = |f: Found| format!("{}@{}", String::from_utf8(f.entry.path).unwrap(), f.layer);
        stack.walk(path.as_bytes()).map(line).collect()
    }

    fn stack() -> Stack {
        Stack::new(vec![
            toc("d a
                 f a/one
                 f a/two
                 d a/sub
                 f a/sub/x
                 d b
                 f b/y
                 d c
                 f c/z
                 f over
                 d under
                 f under/q"),
            toc("i a
                 w a/one
                 f a/three
                 o b
                 f b/new
                 w c
                 d over
                 f over/in
                 f under"),
        ])
    }

    #[test]
    fn layers_merge_as_overlayfs_does() {
        assert_eq!(
            seen(&stack(), ""),
            [
                "@0",
                "a@0",
                "a/sub@0",
                "a/sub/x@0",
                "a/three@1",
                "a/two@0",
                "b@1",
                "b/new@1",
                "over@1",
                "over/in@1",
                "under@1"
            ]
        );
        assert_eq!(seen(&stack(), "a/sub"), ["a/sub@0", "a/sub/x@0"]);
        assert_eq!(seen(&stack(), "c"), [""; 0]);
    }

    #[test]
    fn lookup_agrees_with_walk() {
        let stack = stack();
        let all: Vec<Found> = stack.walk(b"").collect();
        for found in &all {
            assert_eq!(stack.lookup(&found.entry.path).as_ref(), Some(found));
        }
        for hidden in ["a/one", "b/y", "c", "c/z", "under/q", "none", "a/two/x"] {
            assert_eq!(stack.lookup(hidden.as_bytes()), None, "{hidden}");
        }
        for path in [&b""[..], b"a", b"a/sub", b"over", b"c"] {
            let spots = stack.spots_below(path).into_iter();
            let spots: Vec<Found> = spots
                .map(|spot| Found {
                    entry: stack.entry_at(spot).to_entry(),
                    layer: spot.layer(),
                })
                .collect();
            let below = all.iter().filter(|f| is_below(path, &f.entry.path));
            assert!(spots.iter().eq(below));
        }
        let children = stack.children(b"a");
        let names: Vec<&[u8]> = children.iter().map(|f| f.entry.name()).collect();
        assert_eq!(names, [&b"sub"[..], b"three", b"two"]);
    }

    #[test]
    fn a_whiteout_in_the_middle_cuts_the_bottom_off() {
        let stack = Stack::new(vec![toc("d a\nf a/old"), toc("w a"), toc("d a\nf a/new")]);
        assert_eq!(seen(&stack, ""), ["@0", "a@2", "a/new@2"]);
        assert_eq!(stack.lookup(b"a/old"), None);
    }

    #[test]
    fn resolve_table() {
        let stack = Stack::new(vec![
            toc("d usr
                 d usr/bin
                 f usr/bin/sh
                 l bin usr/bin
                 l abs /usr/bin
                 l up ../../../usr
                 l dang nowhere/at/all
                 l loop loop
                 l chain bin"),
            toc("d usr\nd usr/lib\nl usr/lib/self ../lib"),
        ]);
        for (path, last, want, there) in [
            ("", true, "", true),
            ("/", true, "", true),
            ("bin/sh", true, "usr/bin/sh", true),
            ("/abs/sh", true, "usr/bin/sh", true),
            ("up/bin/sh", true, "usr/bin/sh", true),
            ("chain", true, "usr/bin", true),
            ("chain", false, "chain", true),
            ("chain/sh", false, "usr/bin/sh", true),
            ("dang", true, "nowhere/at/all", false),
            ("dang/more", true, "nowhere/at/all/more", false),
            ("../../usr/./bin//sh", true, "usr/bin/sh", true),
            ("usr/none/../bin", true, "usr/bin", true),
            ("usr/lib/self/self/x", true, "usr/lib/x", false),
            ("bin/../x", true, "usr/x", false),
        ] {
            let got = match last {
                true => stack.resolve(path.as_bytes()),
                false => stack.resolve_parent(path.as_bytes()),
            }
            .unwrap();
            let got = (String::from_utf8(got.path).unwrap(), got.found.is_some());
            assert_eq!(got, (want.to_owned(), there), "{path}");
        }
        assert!(matches!(
            stack.resolve(b"loop/x"),
            Err(LayerError::Loop { .. })
        ));
        assert!(matches!(
            stack.resolve(b"bin/sh/x"),
            Err(LayerError::NotDirectory { .. })
        ));
    }

    #[test]
    fn an_empty_stack_has_a_root() {
        let stack = Stack::default();
        assert!(stack.lookup(b"").is_some_and(|f| f.entry.is_dir()));
        assert_eq!(stack.children(b""), []);
        assert_eq!(stack.resolve(b"x").unwrap().path, b"x");
    }
}
