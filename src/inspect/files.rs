//! `strata files`: the tree that an image shows, and where each path came from.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::{Serialize, Serializer};

use super::Contents;
use super::bytes::{Mode, PathText, TargetText};
use super::layers::{Blame, FileType, ImageHead, own_bytes};
use super::timeline::{Event, Place, Timeline};
use crate::layer::entry::is_below;
use crate::layer::{EntryRef, KindRef};
use crate::oci::Digest;
use crate::store::CopyOrigin;

/// The version of the form of [`FilesReport`].
pub const FILES_SCHEMA: &str = "strata.files.v1";

/// The tree of an image.
#[derive(Clone, Debug, Serialize)]
pub struct FilesReport<'a> {
    /// [`FILES_SCHEMA`].
    pub schema: &'static str,
    /// Which image.
    pub image: ImageHead<'a>,
    /// The layers that rows refer to, bottom first.
    pub layers: Vec<Blame<'a>>,
    /// What is seen, a directory before what is in it.
    pub files: FileRows<'a>,
}

/// The rows of a tree. Each is made when it is asked for: a hundred thousand take far more room than the tables that they are made
/// from.
#[derive(Clone, Debug)]
pub struct FileRows<'a> {
    contents: &'a Contents,
    timeline: Timeline,
    sources: HashMap<Place, usize>,
    /// In order of the paths, each with the `tree_bytes` of its row.
    places: Vec<(Place, u64)>,
}

/// A path of the tree.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FileRow<'a> {
    /// The path, without a slash at its beginning; the root is empty.
    #[serde(flatten)]
    pub path: PathText<'a>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Permissions.
    pub mode: Mode,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds since 1970, UTC.
    pub mtime: i64,
    /// The length of a file, of all its names; 0 for what is none.
    pub size_bytes: u64,
    /// Of a directory: the lengths of all files in and below it; hard links of one layer once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_bytes: Option<u64>,
    /// The digest of a file's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// Of a link, where it leads.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetText<'a>>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// The number of the layer it comes from, from 1: see [`FilesReport::layers`].
    pub layer: usize,
    /// What COPY or ADD made it from, where the image was built here. A layer that stores the same bytes at the same path again (chmod,
    /// chown, touch) changes nothing about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceRow<'a>>,
}

/// What a path was copied from.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SourceRow<'a> {
    /// `context`, `named`, `stage`, `inline` or `url`.
    pub origin: &'static str,
    /// The context's, the stage's or the image's name, or the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// The path there; what is not UTF-8 is replaced.
    pub path: Cow<'a, str>,
}

impl<'a> SourceRow<'a> {
    pub(super) fn new(path: Vec<u8>, origin: &'a CopyOrigin) -> SourceRow<'a> {
        let (origin, name) = match origin {
            CopyOrigin::Context => ("context", None),
            CopyOrigin::Named(name) => ("named", Some(name.as_str())),
            CopyOrigin::Stage(name) => ("stage", Some(name.as_str())),
            CopyOrigin::Inline => ("inline", None),
            CopyOrigin::Url(url) => ("url", Some(url.as_str())),
        };
        SourceRow {
            origin,
            name,
            path: Cow::Owned(String::from_utf8_lossy(&path).into_owned()),
        }
    }
}

/// Puts all layers on. Of each entry that stores again what was at its path, and that its own layer copied from nowhere: the layer that
/// the bytes came with.
fn sources(contents: &Contents, timeline: &mut Timeline) -> HashMap<Place, usize> {
    let mut sources: HashMap<Place, usize> = HashMap::new();
    let digest = |t: &Timeline, place: Place| match t.entry(t.content(place)?).kind {
        KindRef::File { content, .. } => content,
        _ => None,
    };
    while timeline
        .step(|t, event| {
            let Event::Changed { was, now } = event else {
                return;
            };
            let made = contents.layers[now.layer].made.as_ref();
            let path = t.entry(now).path;
            let copied = made.is_some_and(|m| m.source_of(path).is_some());
            let bytes = digest(t, now);
            if !copied && bytes.is_some() && bytes == digest(t, was) {
                let first = sources.get(&was).copied().unwrap_or(was.layer);
                sources.insert(now, first);
            }
        })
        .is_some()
    {}
    sources
}

impl<'a> FilesReport<'a> {
    /// The report on the path `top` and what is below it (no link is followed); the empty path is all.
    pub fn new(contents: &'a Contents, top: &[u8]) -> FilesReport<'a> {
        let mut timeline = Timeline::new(contents.tocs());
        let sources = sources(contents, &mut timeline);
        let seen = || timeline.seen().iter().copied();
        // Contents that have several names, which are few; those that were counted, of these.
        let further = |place| timeline.content(place).filter(|content| *content != place);
        let shared: HashSet<Place> = seen().filter_map(further).collect();
        let mut counted = HashSet::new();
        let mut places: Vec<(Place, u64)> = Vec::new();
        // The directories that are above the current path, with their places in the list.
        let mut above: Vec<(&[u8], usize)> = Vec::new();
        for place in seen() {
            let entry = contents.layers[place.layer].toc.at(place.index);
            if entry.path != top && !is_below(top, entry.path) {
                continue;
            }
            while let Some((dir, _)) = above.last()
                && !is_below(dir, entry.path)
            {
                above.pop();
            }
            if let Some(content) = timeline.content(place)
                && (!shared.contains(&content) || counted.insert(content))
            {
                let size_bytes = own_bytes(timeline.entry(content));
                for (_, at) in &above {
                    places[*at].1 += size_bytes;
                }
            }
            if entry.is_dir() {
                above.push((entry.path, places.len()));
            }
            places.push((place, 0));
        }
        let files = FileRows {
            contents,
            sources,
            places,
            timeline,
        };
        let layers = contents.layers.iter().enumerate();
        FilesReport {
            schema: FILES_SCHEMA,
            image: ImageHead::new(contents),
            layers: layers.map(|(at, layer)| Blame::new(at, layer)).collect(),
            files,
        }
    }
}

impl<'a> FileRows<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The path of the row at this place, which is below [`FileRows::len`].
    pub fn path(&self, at: usize) -> &'a [u8] {
        self.entry(self.places[at].0).path
    }

    /// The rows, in order of the paths.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = FileRow<'a>> {
        let places = self.places.iter();
        places.map(|(place, tree_bytes)| self.row(*place, *tree_bytes))
    }

    /// Leaves out rows by their paths.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        let contents = self.contents;
        let path = |place: Place| contents.layers[place.layer].toc.at(place.index).path;
        self.places.retain(|(place, _)| keep(path(*place)));
    }

    /// Whether something comes from the layer with this number, from 1.
    pub fn has_layer(&self, number: usize) -> bool {
        let mut places = self.places.iter();
        places.any(|(place, _)| place.layer + 1 == number)
    }

    fn entry(&self, place: Place) -> EntryRef<'a> {
        self.contents.layers[place.layer].toc.at(place.index)
    }

    fn row(&self, place: Place, tree_bytes: u64) -> FileRow<'a> {
        let entry = self.entry(place);
        let of_content = self.timeline.content(place).map(|c| self.entry(c));
        // The metadata of a file is one, whatever its names say.
        let meta = of_content.unwrap_or(entry);
        let from = self.sources.get(&place).copied().unwrap_or(place.layer);
        let made = self.contents.layers[from].made.as_ref();
        let source = made.filter(|_| !entry.is_dir());
        let source = source.and_then(|m| m.source_of(entry.path));
        FileRow {
            path: PathText::new(entry.path),
            kind: FileType::of(entry),
            mode: Mode(meta.mode),
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            size_bytes: of_content.map_or(0, own_bytes),
            tree_bytes: entry.is_dir().then_some(tree_bytes),
            content: of_content.and_then(|e| match e.kind {
                KindRef::File { content, .. } => content,
                _ => None,
            }),
            target: TargetText::of(entry),
            device: match entry.kind {
                KindRef::CharDevice { major, minor } | KindRef::BlockDevice { major, minor } => {
                    Some((major, minor))
                }
                _ => None,
            },
            layer: place.layer + 1,
            source: source.map(|(path, origin)| SourceRow::new(path, origin)),
        }
    }
}

impl Serialize for FileRows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::image;
    use super::*;
    use crate::store::{Copied, Made, PathBytes};

    #[test]
    fn bytes_that_are_stored_again_come_from_where_they_came_from() {
        let mut contents = image(&[
            "d d\nf d/same A*9\nf d/other A*9\nf d/again A*9",
            "f d/same A*9 755\nf d/other B*9",
            "f d/same A*9 700\nf d/again A*9",
        ]);
        let made = |line, from: &[u8]| Made {
            dockerfile: "Dockerfile".to_owned(),
            line,
            end_line: line,
            stage: "stage-0".to_owned(),
            copied: match from {
                b"" => Vec::new(),
                from => vec![Copied {
                    to: PathBytes(b"d/again".to_vec()),
                    from: PathBytes(from.to_vec()),
                    origin: CopyOrigin::Context,
                }],
            },
        };
        let mut first = made(2, b"src");
        first.copied[0].to = PathBytes(b"d".to_vec());
        contents.layers[0].made = Some(first);
        contents.layers[1].made = Some(made(3, b""));
        contents.layers[2].made = Some(made(4, b"late"));
        let report = FilesReport::new(&contents, b"");
        let files = report.files.iter();
        let files = files.filter(|row| row.kind == FileType::File);
        let told: Vec<_> = files
            .map(|row| (row.layer, row.source.map(|s| s.path.into_owned())))
            .collect();
        let from = |path: &str| Some(path.to_owned());
        let want = [(3, from("late")), (2, None), (3, from("src/same"))];
        assert_eq!(told, want);
    }
}
