//! A layer while COPY, ADD or WORKDIR writes it: new entries over the stack they will lie on.
//!
//! No file system is involved: the stack is known from its tables of contents, the new entries are held here, and links in
//! destinations are resolved against both. That is the same rule an overlay follows, without mounting one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::layer::entry::{is_below, parent, path_order};
use crate::layer::{Change, Changes, Entry, Kind, KindRef, Meta, Source, Spot, Stack};
use crate::oci::Digest;

use super::BuildError;
use super::copy::{CopyError, Manner, join};
use super::tree::Tree;

/// The most links followed in one path, as the kernel has it.
const MAX_LINKS: usize = 40;

/// A path as a key that sorts as tables of contents do.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Key(Vec<u8>);

impl Ord for Key {
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        path_order(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The layer and what is below it.
pub(super) struct Draft<'a> {
    base: &'a Stack,
    /// What was put one by one.
    changes: BTreeMap<Key, Change>,
    /// What was put by the folder. A path is in one of them, or in `changes`, or in none.
    runs: Vec<Run>,
    /// The further names of files of this layer that have several, by the name that has the content.
    links: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// The time of directories that are made on the way, or that get a new member.
    now: i64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a Stack, now: i64) -> Draft<'a> {
        Draft {
            base,
            changes: BTreeMap::new(),
            runs: Vec::new(),
            links: HashMap::new(),
            now,
        }
    }

    /// What is at `path`, no link followed.
    pub(super) fn lookup(&self, path: &[u8]) -> Option<Entry> {
        if let Some(entry) = self.put_at(path) {
            return Some(entry);
        }
        // A new entry on the way that is no directory hides what the stack has below it.
        let mut above = parent(path);
        while let Some(dir) = above {
            if let Some(entry) = self.put_at(dir) {
                if !entry.is_dir() {
                    return None;
                }
                break;
            }
            above = parent(dir);
        }
        if path.is_empty() {
            let kind = Kind::Directory {
                opaque: false,
                implied: false,
            };
            let meta = Meta {
                mode: 0o755,
                ..Meta::default()
            };
            return Some(Entry {
                path: Vec::new(),
                meta,
                kind,
            });
        }
        self.base.lookup(path).map(|found| found.entry)
    }

    // What this layer has at `path`.
    fn put_at(&self, path: &[u8]) -> Option<Entry> {
        if let Some(change) = self.changes.get(&Key(path.to_vec())) {
            return Some(change.entry.clone());
        }
        let mut runs = self.runs.iter();
        runs.find_map(|run| run.find(path).map(|at| run.entry(at)))
    }

    /// Whether neither this layer nor the stack has anything below `dir` (resolved).
    pub(super) fn is_bare(&self, dir: &[u8]) -> bool {
        let first = Key([dir, b"/"].concat());
        let next = match dir.is_empty() {
            true => self.changes.keys().find(|key| !key.0.is_empty()),
            false => self.changes.range(first..).next().map(|(key, _)| key),
        };
        let meets = |run: &Run| {
            run.target == dir || is_below(dir, &run.target) || is_below(&run.target, dir)
        };
        !next.is_some_and(|key| is_below(dir, &key.0))
            && !self.runs.iter().any(meets)
            && self.base.children(dir).is_empty()
    }

    /// Puts entries of a tree, which are below `from` there and in order, below `target`, which is a directory here. Nothing that
    /// is in their way is of another kind, and none of them is another name of something.
    pub(super) fn put_below(
        &mut self,
        target: &[u8],
        tree: &Arc<Tree>,
        from: &[u8],
        spots: Vec<Spot>,
        manner: &Manner,
    ) {
        let run = Run {
            bare: self.is_bare(target),
            target: target.to_vec(),
            tree: Arc::clone(tree),
            from: from.to_vec(),
            spots,
            gone: BTreeSet::new(),
            manner: manner.clone(),
        };
        if run.spots.is_empty() {
            return;
        }
        self.touch(target);
        if !run.bare {
            for at in 0..run.spots.len() {
                self.remove(&run.path(at));
            }
        }
        self.runs.push(run);
    }

    // Takes what this layer has at `path` out.
    fn take(&mut self, path: &[u8]) -> Option<Change> {
        if let Some(change) = self.changes.remove(&Key(path.to_vec())) {
            return Some(change);
        }
        self.runs.iter_mut().find_map(|run| {
            let at = run.find(path)?;
            run.gone.insert(at);
            // A content that cannot be read is told of by who packs it.
            let content = run.tree.digest_at(run.spots[at]).ok();
            Some(run.change(at, content))
        })
    }

    /// `path` with all links followed inside the root; what does not exist stays as written.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        resolve(path, &|at| {
            self.lookup(at).and_then(|entry| match entry.kind {
                Kind::Symlink { target } => Some(target),
                _ => None,
            })
        })
    }

    /// Puts an entry at its path; its parent must be there as a directory.
    pub(super) fn put(&mut self, change: Change) {
        if let Some(dir) = change.entry.parent() {
            let dir = dir.to_vec();
            self.touch(&dir);
        }
        self.remove(&change.entry.path);
        if let Kind::HardLink { target } = &change.entry.kind {
            let names = self.links.entry(target.clone()).or_default();
            names.push(change.entry.path.clone());
        }
        self.changes.insert(Key(change.entry.path.clone()), change);
    }

    // Takes a new entry out. If other names lead to its content, they keep it.
    fn remove(&mut self, path: &[u8]) {
        if let Some(change) = self.take(path)
            && let Some(names) = self.links.remove(path)
        {
            self.hand_over(path, names, change);
        }
    }

    // Gives the content of what was at `path` to the first of `names`, links the others to that, and says which it is.
    fn hand_over(
        &mut self,
        path: &[u8],
        mut names: Vec<Vec<u8>>,
        mut change: Change,
    ) -> Option<Vec<u8>> {
        names.retain(|name| self.leads(name, path));
        let first = names.iter().min_by(|a, b| path_order(a, b)).cloned()?;
        names.retain(|name| *name != first);
        for name in &names {
            if let Some(link) = self.changes.get_mut(&Key(name.clone())) {
                link.entry.kind = Kind::HardLink {
                    target: first.clone(),
                };
            }
        }
        change.entry.path.clone_from(&first);
        self.changes.insert(Key(first.clone()), change);
        self.links.insert(first.clone(), names);
        Some(first)
    }

    // Whether `name` is, still, a new link to `path`.
    fn leads(&self, name: &[u8], path: &[u8]) -> bool {
        let link = self.changes.get(&Key(name.to_vec()));
        link.is_some_and(|c| matches!(&c.entry.kind, Kind::HardLink { target } if target == path))
    }

    /// Removes new entries below `path`, for an archive that replaces a directory by a file.
    pub(super) fn drop_below(&mut self, path: &[u8]) {
        let below = |key: &&Key| {
            key.0.len() > path.len() && key.0.starts_with(path) && key.0[path.len()] == b'/'
        };
        let gone: Vec<Key> = self.changes.keys().filter(below).cloned().collect();
        for Key(path) in gone {
            self.remove(&path);
        }
        let runs = self.runs.iter().flat_map(Run::paths);
        let gone: Vec<Vec<u8>> = runs.filter(|at| is_below(path, at)).collect();
        for path in gone {
            self.remove(&path);
        }
    }

    // A directory that gets a new member is written again: its time changes.
    fn touch(&mut self, dir: &[u8]) {
        if dir.is_empty() || self.put_at(dir).is_some() {
            return;
        }
        if let Some(mut entry) = self.lookup(dir).filter(Entry::is_dir) {
            entry.kind = Kind::Directory {
                opaque: false,
                implied: false,
            };
            entry.meta.mtime = self.now;
            self.changes.insert(
                Key(dir.to_vec()),
                Change {
                    entry,
                    source: Source::None,
                },
            );
        }
    }

    /// Makes `path` (resolved) and its missing parents directories with `meta`; those that exist stay as they are.
    pub(super) fn make_dirs(
        &mut self,
        path: &[u8],
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<(), CopyError> {
        let mut missing = Vec::new();
        let mut at = path;
        loop {
            match self.lookup(at) {
                Some(entry) if entry.is_dir() => break,
                Some(_) => return Err(CopyError::NotADirectory { path: display(at) }),
                None => missing.push(at.to_vec()),
            }
            match parent(at) {
                Some(above) => at = above,
                None => break,
            }
        }
        for dir in missing.into_iter().rev() {
            let meta = Meta {
                mode,
                uid,
                gid,
                mtime: self.now,
                xattrs: Vec::new(),
            };
            let kind = Kind::Directory {
                opaque: false,
                implied: false,
            };
            self.put(Change {
                entry: Entry {
                    path: dir,
                    meta,
                    kind,
                },
                source: Source::None,
            });
        }
        Ok(())
    }

    /// Gives a directory of this layer, or one below it, a time.
    pub(super) fn set_time(&mut self, dir: &[u8], mtime: i64) {
        self.touch(dir);
        // Out of the folder that it came with, if it did.
        if let Some(mut change) = self.take(dir) {
            change.entry.meta.mtime = mtime;
            self.changes.insert(Key(dir.to_vec()), change);
        }
    }

    /// The time of what is made on the way.
    pub(super) fn now(&self) -> i64 {
        self.now
    }

    /// The layer, in order, without files that are what the stack has already.
    pub(super) fn finish(mut self) -> Result<Changes, BuildError> {
        self.order_links();
        let Draft {
            base,
            changes,
            runs,
            links,
            ..
        } = self;
        let mut single = changes.into_values().peekable();
        let mut lines: Vec<Line> = runs.iter().map(Line::new).collect();
        let mut finished = Changes::default();
        // Directories that are as below but for their time, which is no change: they are kept if they lead to something that is
        // one. Each is in the one before.
        let mut pending: Vec<Change> = Vec::new();
        loop {
            let mut first = single.peek().map(|change| change.entry.path.as_slice());
            let mut from = None;
            for (at, line) in lines.iter().enumerate() {
                if let Some(path) = &line.next
                    && first.is_none_or(|first| path_order(path, first).is_lt())
                {
                    (first, from) = (Some(path.as_slice()), Some(at));
                }
            }
            let bare = from.is_some_and(|at| lines[at].run.bare);
            let change = match from {
                Some(at) => lines[at].take()?,
                None => single.next(),
            };
            let Some(change) = change else {
                return Ok(finished);
            };
            let entry = &change.entry;
            if !bare && !links.contains_key(&entry.path) && is_same(base, entry) {
                continue;
            }
            pending.truncate(
                pending
                    .iter()
                    .take_while(|dir| is_below(&dir.entry.path, &entry.path))
                    .count(),
            );
            if !bare && is_only_touched(base, entry) {
                pending.push(change);
            } else {
                pending.drain(..).for_each(|dir| finished.push(dir));
                finished.push(change);
            }
        }
    }

    // In a layer a file comes before the links to it: of all its names, the first has the content.
    fn order_links(&mut self) {
        let late: Vec<Vec<u8>> = self
            .links
            .iter()
            .filter(|(path, names)| {
                names
                    .iter()
                    .any(|name| path_order(name, path).is_lt() && self.leads(name, path))
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in late {
            // Links to a file of the stack below have their content there.
            let Some(mut change) = self.take(&path) else {
                continue;
            };
            let names = self.links.remove(&path).unwrap_or_default();
            if let Some(first) = self.hand_over(&path, names, change.clone()) {
                change.entry.kind = Kind::HardLink {
                    target: first.clone(),
                };
                change.source = Source::None;
                self.links.entry(first).or_default().push(path.clone());
            }
            self.changes.insert(Key(path), change);
        }
    }
}

/// Entries of a tree that go below one directory.
struct Run {
    /// The directory.
    target: Vec<u8>,
    tree: Arc<Tree>,
    /// What they are below in their tree.
    from: Vec<u8>,
    /// In order.
    spots: Vec<Spot>,
    /// The places of those that were replaced since.
    gone: BTreeSet<usize>,
    manner: Manner,
    /// Whether nothing was below the directory before.
    bare: bool,
}

impl Run {
    // The path of an entry below `from`.
    fn rest(&self, at: usize) -> &[u8] {
        let path = self.tree.at(self.spots[at]).path;
        let rest = path.strip_prefix(&self.from[..]).unwrap_or(path);
        rest.strip_prefix(b"/").unwrap_or(rest)
    }

    fn path(&self, at: usize) -> Vec<u8> {
        join(&self.target, self.rest(at))
    }

    fn paths(&self) -> impl Iterator<Item = Vec<u8>> {
        let there = (0..self.spots.len()).filter(|at| !self.gone.contains(at));
        there.map(|at| self.path(at))
    }

    // The place of what is at a path.
    fn find(&self, path: &[u8]) -> Option<usize> {
        if !is_below(&self.target, path) {
            return None;
        }
        let rest = &path[self.target.len()..];
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let (mut low, mut high) = (0, self.spots.len());
        while low < high {
            let middle = low.midpoint(high);
            match path_order(self.rest(middle), rest) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return (!self.gone.contains(&middle)).then_some(middle);
                }
            }
        }
        None
    }

    // What becomes of an entry; a content that its tree does not know is not known.
    fn entry(&self, at: usize) -> Entry {
        let entry = self.tree.at(self.spots[at]);
        let mut kind = entry.kind.to_kind();
        // Where it is copied to, nothing below speaks for it.
        if let Kind::Directory { implied, .. } = &mut kind {
            *implied = false;
        }
        Entry {
            path: self.path(at),
            meta: self.manner.meta_of(entry.meta(), &kind),
            kind,
        }
    }

    fn change(&self, at: usize, content: Option<Digest>) -> Change {
        let mut entry = self.entry(at);
        let mut source = Source::None;
        if let Kind::File { content: known, .. } = &mut entry.kind {
            *known = content.or(*known);
            source = self.tree.source_at(self.spots[at]);
        }
        Change { entry, source }
    }
}

/// A run on its way into the layer.
struct Line<'r> {
    run: &'r Run,
    at: usize,
    /// The path of the next entry.
    next: Option<Vec<u8>>,
}

impl Line<'_> {
    fn new(run: &Run) -> Line<'_> {
        let mut line = Line {
            run,
            at: 0,
            next: None,
        };
        line.find_next();
        line
    }

    fn find_next(&mut self) {
        while self.run.gone.contains(&self.at) {
            self.at += 1;
        }
        self.next = (self.at < self.run.spots.len()).then(|| self.run.path(self.at));
    }

    fn take(&mut self) -> Result<Option<Change>, BuildError> {
        if self.next.is_none() {
            return Ok(None);
        }
        let spot = self.run.spots[self.at];
        let is_file = matches!(self.run.tree.at(spot).kind, KindRef::File { .. });
        let content = is_file.then(|| self.run.tree.digest_at(spot)).transpose()?;
        let change = self.run.change(self.at, content);
        self.at += 1;
        self.find_next();
        Ok(Some(change))
    }
}

/// Follows links in `path` by what `link` says is a link, never above the root.
pub(super) fn resolve(
    path: &[u8],
    link: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, CopyError> {
    let mut todo: Vec<Vec<u8>> = path
        .split(|c| *c == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect();
    let mut done: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => done.truncate(done.iter().rposition(|c| *c == b'/').unwrap_or(0)),
            name => {
                let mut next = done.clone();
                if !next.is_empty() {
                    next.push(b'/');
                }
                next.extend_from_slice(name);
                match link(&next) {
                    None => done = next,
                    Some(target) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(CopyError::TooManyLinks {
                                path: display(path),
                            });
                        }
                        if target.first() == Some(&b'/') {
                            done.clear();
                        }
                        todo.extend(target.split(|c| *c == b'/').rev().map(<[u8]>::to_vec));
                    }
                }
            }
        }
    }
    Ok(done)
}

/// A path of an image as people write it.
pub(super) fn display(path: &[u8]) -> String {
    format!(
        "/{}",
        String::from_utf8_lossy(path.strip_prefix(b"/").unwrap_or(path))
    )
}

// Whether an entry is a file that the stack below has already.
fn is_same(base: &Stack, entry: &Entry) -> bool {
    matches!(
        entry.kind,
        Kind::File {
            content: Some(_),
            ..
        }
    ) && base
        .lookup(&entry.path)
        .is_some_and(|below| below.entry.meta == entry.meta && below.entry.kind == entry.kind)
}

// Whether an entry is a directory that the stack below has with the same mode, owner and attributes.
fn is_only_touched(base: &Stack, entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Directory { opaque: false, .. })
        && base.lookup(&entry.path).is_some_and(|below| {
            let (old, new) = (&below.entry.meta, &entry.meta);
            below.entry.is_dir()
                && (old.mode, old.uid, old.gid, &old.xattrs)
                    == (new.mode, new.uid, new.gid, &new.xattrs)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let links: &[(&str, &str)] = &[
            ("abs", "/real/dir"),
            ("up", "../../real"),
            ("chain", "abs"),
            ("loop", "loop"),
            ("nest/inner", "../real"),
            ("dangling", "/made/later"),
        ];
        let link = |path: &[u8]| {
            links
                .iter()
                .find(|(from, _)| from.as_bytes() == path)
                .map(|(_, to)| to.as_bytes().to_vec())
        };
        for (path, want) in [
            ("/abs/x", "real/dir/x"),
            ("up/u", "real/u"),
            ("chain/c", "real/dir/c"),
            ("nest/inner/i", "real/i"),
            ("dangling/", "made/later"),
            ("a/../../b/./c//", "b/c"),
            ("/", ""),
        ] {
            assert_eq!(
                resolve(path.as_bytes(), &link).unwrap(),
                want.as_bytes(),
                "{path}"
            );
        }
        assert!(matches!(
            resolve(b"loop/x", &link),
            Err(CopyError::TooManyLinks { .. })
        ));
    }
    fn stack(paths: &[(&str, Kind)]) -> Stack {
        let entries = paths.iter().map(|(path, kind)| entry(path, kind.clone()));
        let toc = crate::layer::Toc::from_entries(entries.collect());
        Stack::new(vec![std::sync::Arc::new(toc)])
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        let meta = Meta {
            mode: 0o644,
            ..Meta::default()
        };
        Entry {
            path: path.as_bytes().to_vec(),
            meta,
            kind,
        }
    }

    fn file(content: &str) -> Kind {
        Kind::File {
            size_bytes: content.len() as u64,
            content: Some(crate::oci::Digest::of(content.as_bytes())),
        }
    }

    fn link(target: &str) -> Kind {
        Kind::HardLink {
            target: target.as_bytes().to_vec(),
        }
    }

    const DIRECTORY: Kind = Kind::Directory {
        opaque: false,
        implied: false,
    };

    fn put(draft: &mut Draft<'_>, path: &str, kind: Kind) {
        draft.put(Change {
            entry: entry(path, kind),
            source: Source::None,
        });
    }

    fn finished(draft: Draft<'_>) -> Vec<(String, Kind)> {
        let changes = draft.finish().unwrap();
        changes
            .iter()
            .map(|c| (String::from_utf8(c.entry.path).unwrap(), c.entry.kind))
            .collect()
    }

    fn expected(entries: &[(&str, Kind)]) -> Vec<(String, Kind)> {
        let entries = entries.iter();
        entries
            .map(|(path, kind)| ((*path).to_owned(), kind.clone()))
            .collect()
    }

    #[test]
    fn what_the_stack_has_already_is_left_out() {
        let base = stack(&[("a", file("1")), ("b", file("2")), ("c", link("a"))]);
        let mut draft = Draft::new(&base, 7);
        put(&mut draft, "a", file("1"));
        put(&mut draft, "b", file("3"));
        assert_eq!(finished(draft), expected(&[("b", file("3"))]));
    }

    #[test]
    fn the_first_name_of_a_file_has_its_content() {
        let base = stack(&[]);
        let mut draft = Draft::new(&base, 7);
        put(&mut draft, "m", file("1"));
        put(&mut draft, "z", link("m"));
        put(&mut draft, "a", link("m"));
        assert_eq!(
            finished(draft),
            expected(&[("a", file("1")), ("m", link("a")), ("z", link("a"))])
        );
    }

    #[test]
    fn a_replaced_file_keeps_its_content_under_its_other_names() {
        let base = stack(&[]);
        let mut draft = Draft::new(&base, 7);
        put(&mut draft, "a", file("1"));
        put(&mut draft, "b", link("a"));
        put(&mut draft, "c", link("a"));
        put(&mut draft, "a", file("2"));
        assert_eq!(
            finished(draft),
            expected(&[("a", file("2")), ("b", file("1")), ("c", link("b"))])
        );
        let mut draft = Draft::new(&base, 7);
        put(&mut draft, "d", DIRECTORY);
        put(&mut draft, "d/a", file("1"));
        put(&mut draft, "d/b", link("d/a"));
        put(&mut draft, "e", link("d/a"));
        draft.drop_below(b"d");
        put(&mut draft, "d", file("2"));
        assert_eq!(
            finished(draft),
            expected(&[("d", file("2")), ("e", file("1"))])
        );
    }

    #[test]
    fn a_new_file_hides_what_was_below_a_directory() {
        let base = stack(&[("d", DIRECTORY), ("d/x", file("1"))]);
        let mut draft = Draft::new(&base, 7);
        assert!(draft.lookup(b"d/x").is_some());
        put(&mut draft, "d", file("2"));
        assert!(draft.lookup(b"d/x").is_none());
    }

    #[test]
    fn directories_on_the_way_are_made_once_and_get_the_time() {
        let base = stack(&[("d", DIRECTORY), ("f", file("1"))]);
        let mut draft = Draft::new(&base, 7);
        draft.make_dirs(b"d/e/f", 0o750, 1, 2).unwrap();
        draft.make_dirs(b"d/e", 0o700, 3, 4).unwrap();
        let made = draft.lookup(b"d/e").unwrap().meta;
        assert_eq!(
            (made.mode, made.uid, made.gid, made.mtime),
            (0o750, 1, 2, 7)
        );
        let above = draft.lookup(b"d").unwrap().meta;
        assert_eq!((above.mode, above.mtime), (0o644, 7));
        assert!(matches!(
            draft.make_dirs(b"f/x", 0o755, 0, 0),
            Err(CopyError::NotADirectory { path }) if path == "/f"
        ));
    }
}
