//! Two layers that were to be the same: which paths differ, and in what.

use std::fs::File;
use std::io::{BufReader, Read};

use serde::Serialize;

use super::record::{EntryRef, KindRef};
use super::tar::{Data, Member, TarReader, WhiteoutNames};
use super::{Decoder, LayerError, Root, Times, Toc};

/// How much of two files is shown from where they differ, bytes.
const SHOWN_BYTES: usize = 24;

/// The longest files that are held against each other line by line.
const LINES_BYTES: u64 = 1 << 20;

/// What is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A path that is not the same in two layers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathDifference {
    /// Which.
    pub path: Vec<u8>,
    /// In what: never empty.
    pub how: Vec<Difference>,
}

/// In what a path differs; `one` is the first layer's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Difference {
    /// Only the first layer has it.
    OnlyInFirst,
    /// Only the second layer has it.
    OnlyInSecond,
    /// It is another type of file.
    Type {
        /// In words.
        one: &'static str,
        /// In words.
        two: &'static str,
    },
    /// The mode.
    Mode {
        /// The low 12 bits.
        one: u32,
        /// The low 12 bits.
        two: u32,
    },
    /// User and group.
    Owner {
        /// Ids.
        one: (u32, u32),
        /// Ids.
        two: (u32, u32),
    },
    /// The target of a link.
    Target {
        /// What is not UTF-8 replaced.
        one: String,
        /// What is not UTF-8 replaced.
        two: String,
    },
    /// The number of a device.
    Device {
        /// Major and minor.
        one: (u32, u32),
        /// Major and minor.
        two: (u32, u32),
    },
    /// An extended attribute.
    Xattr {
        /// Its name.
        name: String,
    },
    /// The length of a file.
    Size {
        /// Bytes.
        one: u64,
        /// Bytes.
        two: u64,
    },
    /// The bytes of a file: nothing is known but that they differ.
    Content,
    /// The bytes of a file, from the first that differs.
    ContentAt {
        /// Bytes from the beginning.
        offset_bytes: u64,
        /// A few, what is not printable escaped.
        one: String,
        /// A few, what is not printable escaped.
        two: String,
    },
    /// The same lines in another order.
    Order {
        /// The first line that is another, from 1.
        line: u64,
    },
    /// When it was changed.
    Mtime {
        /// Seconds since 1970.
        one: i64,
        /// Seconds since 1970.
        two: i64,
    },
}

impl Difference {
    /// Whether it is a time, which options can make the same.
    pub fn is_time(&self) -> bool {
        matches!(self, Difference::Mtime { .. })
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::OnlyInFirst => write!(f, "only in the first build"),
            Difference::OnlyInSecond => write!(f, "only in the second build"),
            Difference::Type { one, two } => write!(f, "type: {one}, then {two}"),
            Difference::Mode { one, two } => write!(f, "mode: {one:04o}, then {two:04o}"),
            Difference::Owner { one, two } => {
                write!(f, "owner: {}:{}, then {}:{}", one.0, one.1, two.0, two.1)
            }
            Difference::Target { one, two } => write!(f, "link target: {one}, then {two}"),
            Difference::Device { one, two } => {
                write!(f, "device: {}:{}, then {}:{}", one.0, one.1, two.0, two.1)
            }
            Difference::Xattr { name } => write!(f, "extended attribute {name}"),
            Difference::Size { one, two } => write!(f, "size: {one} bytes, then {two}"),
            Difference::Content => write!(f, "content"),
            Difference::ContentAt {
                offset_bytes,
                one,
                two,
            } => write!(
                f,
                "content at offset {offset_bytes}: \"{one}\", then \"{two}\""
            ),
            Difference::Order { line } => {
                write!(f, "order: the same lines, another one is line {line}")
            }
            Difference::Mtime { one, two } => {
                let time = |seconds: &i64| {
                    jiff::Timestamp::from_second(*seconds)
                        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
                };
                write!(f, "mtime: {}, then {}", time(one), time(two))
            }
        }
    }
}

/// The paths that differ, in the order of paths, with times as `times` makes them. Of a file's content it is said only that it
/// differs: see [`content_difference`].
pub fn compare(one: &Toc, two: &Toc, times: Times) -> Vec<PathDifference> {
    let mut found = Vec::new();
    let (mut ones, mut twos) = (one.refs().peekable(), two.refs().peekable());
    loop {
        let order = match (ones.peek(), twos.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(one), Some(two)) => super::entry::path_order(one.path, two.path),
        };
        let only = |entry: Option<EntryRef<'_>>, how| {
            entry.map(|entry| PathDifference {
                path: entry.path.to_vec(),
                how: vec![how],
            })
        };
        match order {
            std::cmp::Ordering::Less => found.extend(only(ones.next(), Difference::OnlyInFirst)),
            std::cmp::Ordering::Greater => {
                found.extend(only(twos.next(), Difference::OnlyInSecond));
            }
            std::cmp::Ordering::Equal => {
                if let (Some(one), Some(two)) = (ones.next(), twos.next()) {
                    let how = entry_differences(&one, &two, times);
                    if !how.is_empty() {
                        let path = one.path.to_vec();
                        found.push(PathDifference { path, how });
                    }
                }
            }
        }
    }
}

fn entry_differences(one: &EntryRef<'_>, two: &EntryRef<'_>, times: Times) -> Vec<Difference> {
    let mut how = Vec::new();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (&one.kind, &two.kind) {
        (
            KindRef::File {
                size_bytes: a,
                content: x,
            },
            KindRef::File {
                size_bytes: b,
                content: y,
            },
        ) => {
            if x != y {
                how.push(Difference::Content);
            }
            if a != b {
                how.push(Difference::Size { one: *a, two: *b });
            }
        }
        (KindRef::Symlink { target: a }, KindRef::Symlink { target: b })
        | (KindRef::HardLink { target: a }, KindRef::HardLink { target: b })
            if a != b =>
        {
            let (one, two) = (lossy(a), lossy(b));
            how.push(Difference::Target { one, two });
        }
        (
            KindRef::CharDevice { major: a, minor: b },
            KindRef::CharDevice { major: x, minor: y },
        )
        | (
            KindRef::BlockDevice { major: a, minor: b },
            KindRef::BlockDevice { major: x, minor: y },
        ) if (a, b) != (x, y) => how.push(Difference::Device {
            one: (*a, *b),
            two: (*x, *y),
        }),
        (a, b) if type_name(a) != type_name(b) => how.push(Difference::Type {
            one: type_name(a),
            two: type_name(b),
        }),
        _ => {}
    }
    if one.mode != two.mode {
        how.push(Difference::Mode {
            one: one.mode,
            two: two.mode,
        });
    }
    if (one.uid, one.gid) != (two.uid, two.gid) {
        how.push(Difference::Owner {
            one: (one.uid, one.gid),
            two: (two.uid, two.gid),
        });
    }
    let names: std::collections::BTreeSet<&[u8]> =
        one.xattrs().chain(two.xattrs()).map(|(n, _)| n).collect();
    for name in names {
        if one.xattr(name) != two.xattr(name) {
            how.push(Difference::Xattr { name: lossy(name) });
        }
    }
    let (a, b) = (times.of(one.mtime), times.of(two.mtime));
    if a != b {
        how.push(Difference::Mtime { one: a, two: b });
    }
    how
}

fn type_name(kind: &KindRef<'_>) -> &'static str {
    match kind {
        KindRef::File { .. } => "file",
        KindRef::Directory { opaque: true, .. } => "directory that hides what is below",
        KindRef::Directory { .. } => "directory",
        KindRef::Symlink { .. } => "symbolic link",
        KindRef::HardLink { .. } => "hard link",
        KindRef::CharDevice { .. } => "character device",
        KindRef::BlockDevice { .. } => "block device",
        KindRef::Fifo => "pipe",
        KindRef::Whiteout => "whiteout",
    }
}

/// A layer to read a file of.
pub enum Stored {
    /// Its blob.
    Blob(File),
    /// Its files.
    Tree(Root),
}

/// How the content of the file at `path` differs between two layers; `None` where it does not. Neither may unpack to more than
/// `limit_bytes`.
pub fn content_difference(
    one: Stored,
    two: Stored,
    path: &[u8],
    limit_bytes: u64,
) -> Result<Option<Difference>, LayerError> {
    let (mut one, mut two) = (
        FileOf::find(one, path, limit_bytes)?,
        FileOf::find(two, path, limit_bytes)?,
    );
    let short = one.size_bytes <= LINES_BYTES && two.size_bytes <= LINES_BYTES;
    if short {
        let (a, b) = (one.rest(usize::MAX)?, two.rest(usize::MAX)?);
        return Ok(difference(&a, &b));
    }
    let mut offset_bytes = 0;
    loop {
        let (a, b) = (one.rest(BUFFER_BYTES)?, two.rest(BUFFER_BYTES)?);
        if a.is_empty() && b.is_empty() {
            return Ok(None);
        }
        if let Some(at) = first_difference(&a, &b) {
            return Ok(Some(content_at(&a, &b, at, offset_bytes)));
        }
        offset_bytes += a.len() as u64;
    }
}

fn difference(one: &[u8], two: &[u8]) -> Option<Difference> {
    let at = first_difference(one, two)?;
    let lines = |bytes: &[u8]| {
        let mut lines: Vec<Vec<u8>> = bytes
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        lines.sort_unstable();
        lines
    };
    if one.len() == two.len() && lines(one) == lines(two) {
        let before = one.iter().take(at).filter(|byte| **byte == b'\n').count();
        return Some(Difference::Order {
            line: before as u64 + 1,
        });
    }
    Some(content_at(one, two, at, 0))
}

fn first_difference(one: &[u8], two: &[u8]) -> Option<usize> {
    let same = one.iter().zip(two).take_while(|(a, b)| a == b).count();
    (same < one.len() || same < two.len()).then_some(same)
}

fn content_at(one: &[u8], two: &[u8], at: usize, before_bytes: u64) -> Difference {
    let some = |bytes: &[u8]| {
        let some = bytes.iter().skip(at).take(SHOWN_BYTES).copied();
        some.flat_map(std::ascii::escape_default)
            .map(char::from)
            .collect()
    };
    Difference::ContentAt {
        offset_bytes: before_bytes + at as u64,
        one: some(one),
        two: some(two),
    }
}

/// A file of a layer, opened where its content begins.
struct FileOf {
    content: Content,
    size_bytes: u64,
}

enum Content {
    Tar(Box<TarReader<BufReader<Decoder<BufReader<File>>>>>),
    File(File, Vec<u8>),
}

impl FileOf {
    fn find(layer: Stored, path: &[u8], limit_bytes: u64) -> Result<FileOf, LayerError> {
        let blob = match layer {
            Stored::Blob(blob) => blob,
            Stored::Tree(root) => {
                let failed = |e| LayerError::file("open", path, e);
                let file = root.open_file(path).map_err(failed)?;
                return Ok(FileOf {
                    size_bytes: file.metadata().map_err(failed)?.len(),
                    content: Content::File(file, path.to_vec()),
                });
            }
        };
        let input = BufReader::with_capacity(BUFFER_BYTES, blob);
        let tar = Decoder::new(input, limit_bytes).map_err(|source| LayerError::Input {
            offset_bytes: 0,
            source,
        })?;
        let tar = BufReader::with_capacity(BUFFER_BYTES, tar);
        let mut tar = TarReader::new(tar, WhiteoutNames::Oci);
        while let Some(member) = tar.next_member()? {
            if let Member::Entry(entry) = member
                && entry.path == path
                && let super::Kind::File { size_bytes, .. } = entry.kind
            {
                let content = Content::Tar(Box::new(tar));
                return Ok(FileOf {
                    content,
                    size_bytes,
                });
            }
        }
        Ok(FileOf {
            content: Content::Tar(Box::new(tar)),
            size_bytes: 0,
        })
    }

    /// So much of what is left, or all.
    fn rest(&mut self, bytes: usize) -> Result<Vec<u8>, LayerError> {
        let mut out = Vec::new();
        let tar = match &mut self.content {
            Content::Tar(tar) => tar,
            Content::File(file, path) => {
                let read = file.take(bytes as u64).read_to_end(&mut out);
                read.map_err(|e| LayerError::file("read", path, e))?;
                return Ok(out);
            }
        };
        while out.len() < bytes {
            let room = bytes - out.len();
            match tar.data()? {
                Data::Bytes(data) => {
                    let count = data.len().min(room);
                    out.extend_from_slice(&data[..count]);
                    tar.consume(count);
                }
                Data::Hole(count) => {
                    let count = usize::try_from(count).map_or(room, |count| count.min(room));
                    out.resize(out.len() + count, 0);
                }
                Data::End => break,
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, Kind, Meta};
    use super::*;
    use crate::oci::Digest;

    fn entry(path: &str, kind: Kind) -> Entry {
        let meta = Meta {
            mode: 0o644,
            ..Meta::default()
        };
        let path = path.as_bytes().to_vec();
        Entry { path, meta, kind }
    }

    fn file(path: &str, text: &str) -> Entry {
        let kind = Kind::File {
            size_bytes: text.len() as u64,
            content: Some(Digest::of(text.as_bytes())),
        };
        entry(path, kind)
    }

    fn words(one: Vec<Entry>, two: Vec<Entry>, times: Times) -> Vec<String> {
        let (one, two) = (Toc::from_entries(one), Toc::from_entries(two));
        let found = compare(&one, &two, times).into_iter();
        let words = found.map(|d| {
            let how: Vec<String> = d.how.iter().map(ToString::to_string).collect();
            format!("{}: {}", String::from_utf8_lossy(&d.path), how.join("; "))
        });
        words.collect()
    }

    #[test]
    fn every_way_to_differ_has_words() {
        let with = |change: &dyn Fn(&mut Meta)| {
            let mut entry = file("f", "x");
            change(&mut entry.meta);
            entry
        };
        let link = |target: &str| {
            let target = target.as_bytes().to_vec();
            entry("f", Kind::Symlink { target })
        };
        let plain = || file("f", "x");
        for (one, two, want) in [
            (plain(), file("f", "y"), "f: content"),
            (
                plain(),
                file("f", "xy"),
                "f: content; size: 1 bytes, then 2",
            ),
            (
                plain(),
                with(&|m| m.mode = 0o4755),
                "f: mode: 0644, then 4755",
            ),
            (plain(), with(&|m| m.gid = 7), "f: owner: 0:0, then 0:7"),
            (
                plain(),
                with(&|m| m.mtime = 9),
                "f: mtime: 1970-01-01T00:00:00Z, then 1970-01-01T00:00:09Z",
            ),
            (
                plain(),
                with(&|m| m.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec())]),
                "f: extended attribute user.a",
            ),
            (plain(), link("t"), "f: type: file, then symbolic link"),
            (link("s"), link("t"), "f: link target: s, then t"),
            (
                entry("f", Kind::CharDevice { major: 1, minor: 3 }),
                entry("f", Kind::CharDevice { major: 1, minor: 5 }),
                "f: device: 1:3, then 1:5",
            ),
        ] {
            assert_eq!(words(vec![one], vec![two], Times::Keep), [want]);
        }
        let (a, b) = (file("a", ""), file("b", ""));
        assert_eq!(
            words(vec![a.clone(), plain()], vec![b, plain()], Times::Keep),
            ["a: only in the first build", "b: only in the second build"]
        );
        let late = with(&|m| m.mtime = 9);
        for (times, same) in [
            (Times::Keep, false),
            (Times::AtMost(5), false),
            (Times::AtMost(0), true),
            (Times::Exactly(5), true),
        ] {
            let found = words(vec![plain()], vec![late.clone()], times);
            assert_eq!(found.is_empty(), same, "{times:?}");
        }
    }

    #[test]
    fn contents_by_offset_and_by_order() {
        let words = |one: &str, two: &str| {
            difference(one.as_bytes(), two.as_bytes()).map(|d| d.to_string())
        };
        assert_eq!(words("same", "same"), None);
        assert_eq!(
            words("at 12:00:01\n", "at 12:00:02\n").unwrap(),
            r#"content at offset 10: "1\n", then "2\n""#
        );
        assert_eq!(
            words("a", "ab").unwrap(),
            r#"content at offset 1: "", then "b""#
        );
        assert_eq!(
            words("a\nb\nc\n", "a\nc\nb\n").unwrap(),
            "order: the same lines, another one is line 2"
        );
    }

    #[test]
    fn files_are_found_in_blobs_and_trees() {
        let blob = |texts: &[(&str, Vec<u8>)]| {
            let mut tar = tar::Builder::new(Vec::new());
            for (path, data) in texts {
                let mut header = tar::Header::new_gnu();
                header.set_size(data.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, path, &data[..]).unwrap();
            }
            tar.into_inner().unwrap()
        };
        let big = |last: u8| {
            let mut data = vec![b'x'; 3 << 20];
            data.push(last);
            data
        };
        let one = [
            ("a", b"1".to_vec()),
            ("d/big", big(b'a')),
            ("z", Vec::new()),
        ];
        let two = [
            ("a", b"1".to_vec()),
            ("d/big", big(b'b')),
            ("z", b"!".to_vec()),
        ];
        let dir = tempfile::tempdir().unwrap();
        let stored = |name: &str, texts: &[(&str, Vec<u8>)], tree: bool| {
            let top = dir.path().join(name);
            std::fs::create_dir_all(top.join("d")).unwrap();
            if tree {
                for (path, data) in texts {
                    std::fs::write(top.join(path), data).unwrap();
                }
                return Stored::Tree(Root::open(&top).unwrap());
            }
            std::fs::write(top.join("blob"), blob(texts)).unwrap();
            Stored::Blob(File::open(top.join("blob")).unwrap())
        };
        let differ = |path: &str| {
            let found = [(false, false), (false, true), (true, true)].map(|(a, b)| {
                let (one, two) = (stored("one", &one, a), stored("two", &two, b));
                let found = content_difference(one, two, path.as_bytes(), 1 << 30);
                found.unwrap().map(|d| d.to_string())
            });
            assert!(found[0] == found[1] && found[1] == found[2], "{found:?}");
            found[0].clone()
        };
        assert_eq!(differ("a"), None);
        assert_eq!(
            differ("d/big").unwrap(),
            r#"content at offset 3145728: "a", then "b""#
        );
        assert_eq!(differ("z").unwrap(), r#"content at offset 0: "", then "!""#);
    }
}
