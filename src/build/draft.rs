//! A layer while COPY, ADD or WORKDIR writes it: new entries over the stack they will lie on.
//!
//! No file system is involved: the stack is known from its tables of contents, the new entries are held here, and links in
//! destinations are resolved against both. That is the same rule an overlay follows, without mounting one.

use std::collections::BTreeMap;

use crate::layer::entry::{parent, path_order};
use crate::layer::{Change, Entry, Kind, Meta, Source, Stack};

use super::copy::CopyError;

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
    changes: BTreeMap<Key, Change>,
    /// The time of directories that are made on the way, or that get a new member.
    now: i64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a Stack, now: i64) -> Draft<'a> {
        Draft {
            base,
            changes: BTreeMap::new(),
            now,
        }
    }

    /// What is at `path`, no link followed.
    pub(super) fn lookup(&self, path: &[u8]) -> Option<Entry> {
        if let Some(change) = self.changes.get(&Key(path.to_vec())) {
            return Some(change.entry.clone());
        }
        // A new entry on the way that is no directory hides what the stack has below it.
        let mut above = parent(path);
        while let Some(dir) = above {
            if let Some(change) = self.changes.get(&Key(dir.to_vec())) {
                if !change.entry.is_dir() {
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
        self.changes.insert(Key(change.entry.path.clone()), change);
    }

    /// Removes new entries below `path`, for an archive that replaces a directory by a file.
    pub(super) fn drop_below(&mut self, path: &[u8]) {
        self.changes.retain(|key, _| {
            !(key.0.len() > path.len() && key.0.starts_with(path) && key.0[path.len()] == b'/')
        });
    }

    // A directory that gets a new member is written again: its time changes.
    fn touch(&mut self, dir: &[u8]) {
        if dir.is_empty() || self.changes.contains_key(&Key(dir.to_vec())) {
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
        if let Some(change) = self.changes.get_mut(&Key(dir.to_vec())) {
            change.entry.meta.mtime = mtime;
        }
    }

    /// The time of what is made on the way.
    pub(super) fn now(&self) -> i64 {
        self.now
    }

    /// The layer, in order, without files that are what the stack has already.
    pub(super) fn finish(self) -> Vec<Change> {
        let base = self.base;
        let same = |entry: &Entry| -> bool {
            let Kind::File {
                size_bytes,
                content: Some(content),
            } = &entry.kind
            else {
                return false;
            };
            base.lookup(&entry.path).is_some_and(|below| {
                below.entry.meta == entry.meta
                    && below.entry.kind
                        == Kind::File {
                            size_bytes: *size_bytes,
                            content: Some(*content),
                        }
            })
        };
        let mut linked: Vec<&Vec<u8>> = Vec::new();
        for change in self.changes.values() {
            if let Kind::HardLink { target } = &change.entry.kind {
                linked.push(target);
            }
        }
        let linked: std::collections::HashSet<Vec<u8>> = linked.into_iter().cloned().collect();
        self.changes
            .into_values()
            .filter(|change| linked.contains(&change.entry.path) || !same(&change.entry))
            .collect()
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
}
