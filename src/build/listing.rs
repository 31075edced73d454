//! What COPY, ADD and bind mounts read, file by file: the bytes that an input's digest is made of.
//!
//! ```text
//! item   'I' length name                                           a source; its entries follow, itself first, as the empty path
//! entry  TYPE length path mode uid gid                             TYPE: F file, D directory, L link, C and B devices, P fifo,
//!                                                                  H hard link, W whiteout
//!          F: size, 1 byte of length, digest of the content · L, H: length target · C, B: major minor
//! after  'X' length value                                          security.capability of the entry before
//! ```
//!
//! A here-document's listing is its text. Numbers are little-endian, of 4 bytes; sizes and device numbers of 8. Times and other attributes are not in it. A key takes
//! the digest; a step that is not cached leaves the bytes in the store, and the explanation of a later miss compares them.

use std::collections::BTreeMap;

use crate::layer::{Entry, Kind, Meta};
use crate::oci::{Digest, Hasher};

/// Writes a listing, line by line.
pub(super) struct Listing<'a> {
    sink: &'a mut dyn FnMut(&[u8]),
    line: Vec<u8>,
}

/// The digest of what `write` lists.
pub(super) fn digest<E>(
    write: impl FnOnce(&mut Listing<'_>) -> Result<(), E>,
) -> Result<Digest, E> {
    let mut hasher = Hasher::sha256();
    let mut sink = |bytes: &[u8]| hasher.update(bytes);
    write(&mut Listing::new(&mut sink))?;
    Ok(hasher.finish())
}

impl<'a> Listing<'a> {
    /// A listing whose bytes go to `sink`.
    pub(super) fn new(sink: &'a mut dyn FnMut(&[u8])) -> Listing<'a> {
        Listing {
            sink,
            line: Vec::new(),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // No path, target or attribute that Linux can hold is longer.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.line.extend_from_slice(&length.to_le_bytes());
        self.line.extend_from_slice(bytes);
    }

    fn end(&mut self) {
        (self.sink)(&self.line);
        self.line.clear();
    }

    /// The text of a here-document, which is all there is in its listing.
    pub(super) fn text(&mut self, text: &[u8]) {
        (self.sink)(text);
    }

    /// Begins a source.
    pub(super) fn item(&mut self, name: &[u8]) {
        self.line.push(b'I');
        self.bytes(name);
        self.end();
    }

    /// Adds an entry at `path`; `content` is a regular file's.
    pub(super) fn entry(&mut self, path: &[u8], entry: &Entry, content: Option<Digest>) {
        self.parts(path, &entry.meta, &entry.kind, content);
    }

    /// Adds what is at `path`.
    pub(super) fn parts(&mut self, path: &[u8], meta: &Meta, kind: &Kind, content: Option<Digest>) {
        self.line.push(match kind {
            Kind::File { .. } => b'F',
            Kind::Directory { .. } => b'D',
            Kind::Symlink { .. } => b'L',
            Kind::HardLink { .. } => b'H',
            Kind::CharDevice { .. } => b'C',
            Kind::BlockDevice { .. } => b'B',
            Kind::Fifo => b'P',
            Kind::Whiteout => b'W',
        });
        self.bytes(path);
        for number in [meta.mode, meta.uid, meta.gid] {
            self.line.extend_from_slice(&number.to_le_bytes());
        }
        match kind {
            Kind::File { size_bytes, .. } => {
                self.line.extend_from_slice(&size_bytes.to_le_bytes());
                let digest = content.as_ref().map_or(&[][..], Digest::bytes);
                self.line.push(u8::try_from(digest.len()).unwrap_or(0));
                self.line.extend_from_slice(digest);
            }
            Kind::Symlink { target } | Kind::HardLink { target } => self.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                for number in [*major, *minor] {
                    self.line
                        .extend_from_slice(&u64::from(number).to_le_bytes());
                }
            }
            Kind::Directory { .. } | Kind::Fifo | Kind::Whiteout => {}
        }
        for (_, value) in (meta.xattrs.iter()).filter(|(name, _)| name == b"security.capability") {
            self.line.push(b'X');
            self.bytes(value);
        }
        self.end();
    }
}

/// What a path came to be since an earlier listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PathChange {
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
    /// It is another, in these ways.
    Changed(Vec<String>),
}

/// A path that differs between two listings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Difference {
    /// The source's name.
    pub(super) item: Vec<u8>,
    /// Below the source; empty for the source itself.
    pub(super) path: Vec<u8>,
    /// What became of it.
    pub(super) change: PathChange,
    is_dir: bool,
}

/// An entry as it was listed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Listed<'a> {
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    /// A size and digest, a target, or a device's numbers.
    content: &'a [u8],
    capability: Option<&'a [u8]>,
}

/// By source (two may have one name), then path.
type Entries<'a> = BTreeMap<(&'a [u8], usize, &'a [u8]), Listed<'a>>;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    // `None` for bytes that are no listing.
    fn entries(mut self) -> Option<Entries<'a>> {
        let mut entries = Entries::new();
        let mut items: BTreeMap<&[u8], usize> = BTreeMap::new();
        let (mut item, mut nth): (&[u8], usize) = (b"", 0);
        let mut last = None;
        while let Some(kind) = self.take(1) {
            match kind[0] {
                b'I' => {
                    item = self.bytes()?;
                    let count = items.entry(item).or_default();
                    nth = *count;
                    *count += 1;
                }
                b'X' => {
                    let value = self.bytes()?;
                    entries.get_mut(&last?)?.capability = Some(value);
                }
                kind => {
                    let path = self.bytes()?;
                    let mode = self.number()?;
                    let owner = (self.number()?, self.number()?);
                    let content = match kind {
                        b'F' => {
                            let length = usize::from(*self.0.get(8)?);
                            self.take(9 + length)?
                        }
                        b'L' | b'H' => self.bytes()?,
                        b'C' | b'B' => self.take(16)?,
                        b'D' | b'P' | b'W' => b"",
                        _ => return None,
                    };
                    let listed = Listed {
                        kind,
                        mode,
                        owner,
                        content,
                        capability: None,
                    };
                    last = Some((item, nth, path));
                    entries.insert((item, nth, path), listed);
                }
            }
        }
        Some(entries)
    }
}

/// Where two listings differ, in the order of paths; `None` if one is no listing. A directory that came or went with what is
/// in it is not told beside that.
pub(super) fn differences(was: &[u8], now: &[u8]) -> Option<Vec<Difference>> {
    let (was, now) = (Reader(was).entries()?, Reader(now).entries()?);
    let keys: std::collections::BTreeSet<_> = was.keys().chain(now.keys()).copied().collect();
    let mut found: Vec<Difference> = Vec::new();
    for key in keys {
        let (item, _, path) = key;
        let (change, kind) = match (was.get(&key), now.get(&key)) {
            (Some(was), Some(now)) if was == now => continue,
            (Some(was), Some(now)) => (PathChange::Changed(aspects(was, now)), now.kind),
            (None, Some(now)) => (PathChange::New, now.kind),
            (Some(was), None) => (PathChange::Gone, was.kind),
            (None, None) => continue,
        };
        let (item, path) = (item.to_vec(), path.to_vec());
        let is_dir = kind == b'D';
        found.push(Difference {
            item,
            path,
            change,
            is_dir,
        });
    }
    let inside = |dir: &Difference, other: &Difference| {
        dir.item == other.item
            && dir.path.len() < other.path.len()
            && other.path.starts_with(&dir.path)
            && (dir.path.is_empty() || other.path[dir.path.len()] == b'/')
            && dir.change == other.change
    };
    // In the order of paths, what is in a directory comes after it, if not at once: "a", "a-b", "a/b".
    let told: Vec<bool> = (0..found.len())
        .map(|at| {
            let dir = &found[at];
            let moved = matches!(dir.change, PathChange::New | PathChange::Gone);
            let mut after = found[at + 1..]
                .iter()
                .take_while(|other| other.item == dir.item && other.path.starts_with(&dir.path));
            !(dir.is_dir && moved && after.any(|other| inside(dir, other)))
        })
        .collect();
    let mut told = told.into_iter();
    found.retain(|_| told.next().unwrap_or(true));
    Some(found)
}

fn type_name(kind: u8) -> &'static str {
    match kind {
        b'F' => "file",
        b'D' => "directory",
        b'L' => "symbolic link",
        b'H' => "hard link",
        b'C' => "character device",
        b'B' => "block device",
        b'P' => "fifo",
        _ => "whiteout",
    }
}

// In which ways two entries differ; those of another type in nothing else.
fn aspects(was: &Listed<'_>, now: &Listed<'_>) -> Vec<String> {
    if was.kind != now.kind {
        let (was, now) = (type_name(was.kind), type_name(now.kind));
        return vec![format!("type {was} → {now}")];
    }
    let mut aspects = Vec::new();
    if was.content != now.content {
        aspects.push(match now.kind {
            b'L' | b'H' => {
                let text = |target: &[u8]| super::explain::shown(target);
                format!("target {} → {}", text(was.content), text(now.content))
            }
            b'C' | b'B' => "device number".to_owned(),
            _ => "content".to_owned(),
        });
    }
    if was.mode != now.mode {
        aspects.push(format!("mode {:04o} → {:04o}", was.mode, now.mode));
    }
    if was.owner != now.owner {
        let text = |(uid, gid): (u32, u32)| format!("{uid}:{gid}");
        aspects.push(format!("owner {} → {}", text(was.owner), text(now.owner)));
    }
    if was.capability != now.capability {
        aspects.push("capabilities".to_owned());
    }
    aspects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Meta;

    // `d/` is a directory, `l>t` a link, `x!` a device, `f=text` a file that holds the text; `:MODE` is the mode.
    fn listing(items: &[(&str, &[&str])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sink = |more: &[u8]| bytes.extend_from_slice(more);
        let mut listing = Listing::new(&mut sink);
        for (name, entries) in items {
            listing.item(name.as_bytes());
            for text in *entries {
                let (text, mode) = text.split_once(':').unwrap_or((text, "644"));
                let mut meta = Meta {
                    mode: u32::from_str_radix(mode, 8).unwrap(),
                    ..Meta::default()
                };
                let (path, kind, content) = if let Some(path) = text.strip_suffix('/') {
                    let kind = Kind::Directory {
                        opaque: false,
                        implied: false,
                    };
                    (path, kind, None)
                } else if let Some((path, target)) = text.split_once('>') {
                    let target = target.as_bytes().to_vec();
                    (path, Kind::Symlink { target }, None)
                } else if let Some(path) = text.strip_suffix('!') {
                    let kind = Kind::CharDevice { major: 1, minor: 3 };
                    (path, kind, None)
                } else if let Some(path) = text.strip_suffix('^') {
                    meta.xattrs = vec![(b"security.capability".to_vec(), b"cap".to_vec())];
                    (path, Kind::Fifo, None)
                } else {
                    let (path, content) = text.split_once('=').unwrap_or((text, ""));
                    let kind = Kind::File {
                        size_bytes: content.len() as u64,
                        content: None,
                    };
                    (path, kind, Some(Digest::of(content.as_bytes())))
                };
                let entry = Entry {
                    path: Vec::new(),
                    meta,
                    kind,
                };
                listing.entry(path.as_bytes(), &entry, content);
            }
        }
        bytes
    }

    fn told(was: &[(&str, &[&str])], now: &[(&str, &[&str])]) -> Vec<String> {
        let found = differences(&listing(was), &listing(now)).unwrap();
        let tell = |d: Difference| {
            let at = format!(
                "{}/{}",
                String::from_utf8_lossy(&d.item),
                String::from_utf8_lossy(&d.path)
            );
            match d.change {
                PathChange::New => format!("+{at}"),
                PathChange::Gone => format!("-{at}"),
                PathChange::Changed(aspects) => format!("{at} {}", aspects.join(", ")),
            }
        };
        found.into_iter().map(tell).collect()
    }

    #[test]
    fn differences_table() {
        type Items<'a> = &'a [(&'a str, &'a [&'a str])];
        let table: &[(Items<'_>, Items<'_>, &[&str])] = &[
            (&[("s", &["/", "a=1"])], &[("s", &["/", "a=1"])], &[]),
            (
                &[("s", &["/", "a=1"])],
                &[("s", &["/", "a=2"])],
                &["s/a content"],
            ),
            (
                &[("s", &["a=1:644"])],
                &[("s", &["a=2:755"])],
                &["s/a content, mode 0644 → 0755"],
            ),
            (&[("s", &["a=1"])], &[("s", &["b=1"])], &["-s/a", "+s/b"]),
            (
                &[("s", &["a>x"])],
                &[("s", &["a>y"])],
                &["s/a target x → y"],
            ),
            (
                &[("s", &["a=1"])],
                &[("s", &["a/", "a/b=1"])],
                &["s/a type file → directory", "+s/a/b"],
            ),
            // A directory goes without saying, unless it is empty; its neighbour is not in it.
            (
                &[("s", &["/"])],
                &[("s", &["/", "d/", "d-e=1", "d/f=1", "e/"])],
                &["+s/d-e", "+s/d/f", "+s/e"],
            ),
            // Two sources of one name.
            (
                &[("s", &["=1"]), ("s", &["=1"])],
                &[("s", &["=1"]), ("s", &["=2"])],
                &["s/ content"],
            ),
            (
                &[("s", &["a^", "b!"])],
                &[("s", &["a!", "b^"])],
                &[
                    "s/a type fifo → character device",
                    "s/b type character device → fifo",
                ],
            ),
        ];
        for (was, now, want) in table {
            assert_eq!(told(was, now), *want, "{was:?} {now:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_listing() {
        let whole = listing(&[("s", &["/", "a=1", "l>x", "d!", "p^"])]);
        assert!(differences(&whole, &whole).is_some());
        let mut read = 0;
        for end in 0..whole.len() {
            read += usize::from(differences(&whole[..end], &whole).is_some());
        }
        // Cut between lines it is a shorter listing; the capability of `p` is a line.
        assert_eq!(read, 7);
        assert!(differences(b"?\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"").is_none());
    }
}
