//! `strata diff`: what is other in one tree than in another.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::bytes::PathText;
use super::layers::{Blame, own_bytes};
use super::timeline::{Place, Timeline};
use super::why::{WhyState, differences, state};
use super::{ChangeKind, Contents, LayerContents};
use crate::layer::entry::path_order;
use crate::layer::{EntryRef, KindRef, Toc};

/// The version of the form of [`DiffReport`].
pub const DIFF_SCHEMA: &str = "strata.diff.v1";

/// One side of a comparison.
#[derive(Clone, Debug)]
pub enum Side {
    /// All that an image shows.
    Image(Box<Contents>),
    /// What one layer of an image brings and removes, by its place from 0.
    Layer(Box<Contents>, usize),
    /// A folder of the host. Who owns its files and when they were changed says nothing, and is not compared.
    Folder(String, Arc<Toc>),
}

/// What is other in B than in A.
#[derive(Clone, Debug, Serialize)]
pub struct DiffReport<'a> {
    /// [`DIFF_SCHEMA`].
    pub schema: &'static str,
    /// How A is called.
    pub a: String,
    /// How B is called.
    pub b: String,
    /// Fields of the configuration that differ, sorted. Only of two images.
    pub config: Vec<ConfigChange>,
    /// Sums over `files`.
    pub totals: DiffTotals,
    /// Paths that differ, in order.
    pub files: DiffFiles<'a>,
}

/// The rows of a comparison. Each is made when it is asked for: a hundred thousand take far more room than the tables that they are
/// made from.
#[derive(Clone, Debug)]
pub struct DiffFiles<'a> {
    one: Tree<'a>,
    other: Tree<'a>,
    with_folder: bool,
    /// What is in A and in B at paths that differ, in order; something is in one of them.
    pairs: Vec<(Option<Place>, Option<Place>)>,
}

/// Sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DiffTotals {
    /// Paths only in B.
    pub added: u64,
    /// Paths that differ.
    pub changed: u64,
    /// Paths only in A.
    pub removed: u64,
    /// Bytes of files only in B, and of changed files in B.
    pub added_bytes: u64,
    /// Bytes of files only in A, and of changed files in A.
    pub removed_bytes: u64,
}

/// A field of the configuration.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConfigChange {
    /// Which: `config.Env.PATH`, `architecture`.
    pub field: String,
    /// In A; null where it is not set.
    pub a: Value,
    /// In B.
    pub b: Value,
}

/// A path that differs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DiffRow<'a> {
    /// The path, without a slash at its beginning.
    #[serde(flatten)]
    pub path: PathText<'a>,
    /// What it is: `added` is only in B, `removed` only in A.
    pub change: ChangeKind,
    /// In what it differs: as in [`super::WhyStep::what`].
    pub what: Vec<&'static str>,
    /// In A.
    pub a: Option<DiffState<'a>>,
    /// In B.
    pub b: Option<DiffState<'a>>,
}

/// What a side has at a path.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DiffState<'a> {
    /// What is there.
    #[serde(flatten)]
    pub state: WhyState<'a>,
    /// Which layer it is from, of an image.
    pub from: Option<Blame<'a>>,
}

/// A side with what is to be compared.
#[derive(Clone, Debug)]
struct Tree<'a> {
    timeline: Timeline,
    /// In order of the paths.
    places: Vec<Place>,
    tocs: Vec<&'a Toc>,
    /// The layers of the places, the first one's number from 0.
    layers: &'a [LayerContents],
    first: usize,
}

impl Side {
    /// How messages call it.
    pub fn name(&self) -> String {
        match self {
            Side::Image(contents) => contents.documents.name.clone(),
            Side::Layer(contents, at) => format!("{}#{}", contents.documents.name, at + 1),
            Side::Folder(name, _) => name.clone(),
        }
    }

    fn tree(&self) -> Tree<'_> {
        let (layers, tocs, first): (&[LayerContents], Vec<&Arc<Toc>>, usize) = match self {
            Side::Image(contents) => {
                let tocs = contents.layers.iter().map(|l| &l.toc).collect();
                (&contents.layers, tocs, 0)
            }
            Side::Layer(contents, at) => {
                let layers = contents.layers.get(*at..=*at).unwrap_or_default();
                (layers, layers.iter().map(|l| &l.toc).collect(), *at)
            }
            Side::Folder(_, toc) => (&[], vec![toc], 0),
        };
        let mut timeline = Timeline::new(tocs.iter().map(|t| Arc::clone(t)).collect());
        let places = match self {
            Side::Image(_) => {
                while timeline.step(|_, _| {}).is_some() {}
                timeline.seen().to_vec()
            }
            // A whiteout is something that a layer says, and a tree does not show.
            _ => {
                let said = tocs.iter().flat_map(|toc| toc.refs().enumerate());
                let said = said.filter(|(_, e)| !is_implied(e.kind));
                said.map(|(index, _)| Place { layer: 0, index }).collect()
            }
        };
        Tree {
            timeline,
            places,
            tocs: tocs.into_iter().map(|toc| &**toc).collect(),
            layers,
            first,
        }
    }

    fn config(&self) -> Option<Value> {
        match self {
            Side::Image(contents) => serde_json::from_slice(&contents.documents.config_bytes).ok(),
            _ => None,
        }
    }
}

fn is_implied(kind: KindRef<'_>) -> bool {
    matches!(kind, KindRef::Directory { implied: true, .. })
}

impl<'a> Tree<'a> {
    fn entry(&self, place: Place) -> EntryRef<'a> {
        self.tocs[place.layer].at(place.index)
    }

    fn state(&self, place: Place) -> DiffState<'a> {
        let layer = self.layers.get(place.layer);
        let made = layer.and_then(|l| l.made.as_ref());
        DiffState {
            state: state(&|p| self.entry(p), made, &self.timeline, place),
            from: layer.map(|l| Blame::new(self.first + place.layer, l)),
        }
    }
}

impl<'a> DiffReport<'a> {
    /// Compares two sides.
    pub fn new(a: &'a Side, b: &'a Side) -> DiffReport<'a> {
        let with_folder = matches!(a, Side::Folder(..)) || matches!(b, Side::Folder(..));
        let config = match (a.config(), b.config()) {
            (Some(a), Some(b)) => config_changes(&a, &b),
            _ => Vec::new(),
        };
        let mut files = DiffFiles {
            one: a.tree(),
            other: b.tree(),
            with_folder,
            pairs: Vec::new(),
        };
        let totals = files.compare();
        DiffReport {
            schema: DIFF_SCHEMA,
            a: a.name(),
            b: b.name(),
            config,
            totals,
            files,
        }
    }

    /// Whether nothing is other.
    pub fn is_same(&self) -> bool {
        self.config.is_empty() && self.files.is_empty()
    }
}

impl<'a> DiffFiles<'a> {
    /// Finds what differs.
    fn compare(&mut self) -> DiffTotals {
        let (one, other) = (&self.one, &self.other);
        let mut totals = DiffTotals::default();
        let (mut left, mut right) = (one.places.iter().peekable(), other.places.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(p), Some(q)) => path_order(one.entry(**p).path, other.entry(**q).path),
            };
            let was = left.next_if(|_| order != Ordering::Greater).copied();
            let now = right.next_if(|_| order != Ordering::Less).copied();
            let what = self.what(was, now);
            let change = kind(was, now);
            let skipped = match (was, now) {
                // The time of a directory is that of its members' coming and going.
                (Some(was), Some(now)) => {
                    let is_dir = one.entry(was).is_dir() && other.entry(now).is_dir();
                    what.is_empty() || is_dir && what == ["time"]
                }
                // The root is in every tree, whether anything speaks of it or not.
                _ => self.path(was, now).is_empty(),
            };
            if skipped {
                continue;
            }
            if change != ChangeKind::Changed || what.contains(&"content") {
                totals.removed_bytes += was.map_or(0, |was| own_bytes(one.entry(was)));
                totals.added_bytes += now.map_or(0, |now| own_bytes(other.entry(now)));
            }
            match change {
                ChangeKind::Added => totals.added += 1,
                ChangeKind::Changed => totals.changed += 1,
                ChangeKind::Removed => totals.removed += 1,
            }
            self.pairs.push((was, now));
        }
        totals
    }

    // In what two things at a path differ; nothing where one of them is none.
    fn what(&self, was: Option<Place>, now: Option<Place>) -> Vec<&'static str> {
        let (Some(was), Some(now)) = (was, now) else {
            return Vec::new();
        };
        let mut what = differences(&self.one.timeline, was, &self.other.timeline, now);
        if self.with_folder {
            what.retain(|w| !matches!(*w, "owner" | "time" | "attributes"));
        }
        what
    }

    fn path(&self, was: Option<Place>, now: Option<Place>) -> &'a [u8] {
        was.map_or_else(
            || now.map_or(&b""[..], |now| self.other.entry(now).path),
            |was| self.one.entry(was).path,
        )
    }

    fn row(&self, was: Option<Place>, now: Option<Place>) -> DiffRow<'a> {
        DiffRow {
            path: PathText::new(self.path(was, now)),
            change: kind(was, now),
            what: self.what(was, now),
            a: was.map(|was| self.one.state(was)),
            b: now.map(|now| self.other.state(now)),
        }
    }

    /// The rows, in order of the paths.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DiffRow<'a>> {
        self.pairs.iter().map(|(was, now)| self.row(*was, *now))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl Serialize for DiffFiles<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

fn kind(was: Option<Place>, now: Option<Place>) -> ChangeKind {
    match (was, now) {
        (Some(_), Some(_)) => ChangeKind::Changed,
        (None, _) => ChangeKind::Added,
        (_, None) => ChangeKind::Removed,
    }
}

/// Fields that say what the layers are, and so differ wherever these do.
const OF_LAYERS: [&str; 2] = ["history", "rootfs"];

/// What is other in two configurations, variables of the environment by name.
fn config_changes(a: &Value, b: &Value) -> Vec<ConfigChange> {
    let (mut one, mut other) = (BTreeMap::new(), BTreeMap::new());
    fields("", a, &mut one);
    fields("", b, &mut other);
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let value = |side: &BTreeMap<String, Value>, name| side.get(name).cloned().unwrap_or_default();
    let changes = names.into_iter().map(|field| ConfigChange {
        a: value(&one, field),
        b: value(&other, field),
        field: field.clone(),
    });
    changes.filter(|c| c.a != c.b).collect()
}

/// The fields of an object by name; lists are values.
fn fields(prefix: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    let Value::Object(object) = value else {
        out.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (name, value) in object {
        if prefix.is_empty() && OF_LAYERS.contains(&name.as_str()) {
            continue;
        }
        let full = match prefix {
            "" => name.clone(),
            prefix => format!("{prefix}.{name}"),
        };
        match (full.as_str(), value) {
            ("config.Env", Value::Array(variables)) => {
                for text in variables.iter().filter_map(Value::as_str) {
                    let (name, value) = text.split_once('=').unwrap_or((text, ""));
                    out.insert(format!("{full}.{name}"), value.into());
                }
            }
            _ => fields(&full, value, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{image, toc};
    use super::*;

    fn shown(report: &DiffReport<'_>) -> Vec<String> {
        let row = |row: DiffRow<'_>| {
            let sign = match row.change {
                ChangeKind::Added => '+',
                ChangeKind::Changed => '~',
                ChangeKind::Removed => '-',
            };
            let path = String::from_utf8_lossy(row.path.bytes()).into_owned();
            format!("{sign}{path} {}", row.what.join(","))
        };
        report.files.iter().map(row).collect()
    }

    #[test]
    fn images_layers_and_folders_are_compared() {
        let one = image(&["d d\nf d/a 1\nf d/b 1\nf x 1*10", "f y 1\nw d/b"]);
        let other = image(&["d d 700\nf d/a 2\nf x 1*10 755\nl z x"]);
        let a = Side::Image(Box::new(one.clone()));
        let b = Side::Image(Box::new(other.clone()));
        let report = DiffReport::new(&a, &b);
        let want = ["~d mode", "~d/a content", "~x mode", "-y ", "+z "];
        assert_eq!(shown(&report), want);
        let totals = report.totals;
        assert_eq!((totals.added, totals.changed, totals.removed), (1, 3, 1));
        assert_eq!((totals.added_bytes, totals.removed_bytes), (1, 2));
        assert!(DiffReport::new(&a, &a).is_same());
        let (first, second) = (
            Side::Layer(Box::new(one.clone()), 0),
            Side::Layer(Box::new(one.clone()), 1),
        );
        let report = DiffReport::new(&first, &second);
        assert_eq!(shown(&report), ["-d ", "-d/a ", "~d/b type", "-x ", "+y "]);
        assert_eq!(
            report
                .files
                .iter()
                .nth(4)
                .unwrap()
                .b
                .unwrap()
                .from
                .unwrap()
                .layer,
            2
        );
        let folder = Side::Folder("dir".to_owned(), toc("d d\nf d/a 1\nf x 1*10\nf y 2"));
        assert_eq!(shown(&DiffReport::new(&a, &folder)), ["~y content"]);
    }

    #[test]
    fn configurations_are_compared_by_field() {
        let a = serde_json::json!({
            "os": "linux", "history": [1],
            "config": {"Env": ["A=1", "B=2"], "Cmd": ["a"], "Labels": {"x": "1"}},
        });
        let b = serde_json::json!({
            "os": "linux", "history": [2],
            "config": {"Env": ["B=3", "A=1"], "Cmd": ["a", "b"], "Labels": {}, "User": "u"},
        });
        let names: Vec<String> = config_changes(&a, &b)
            .into_iter()
            .map(|c| c.field)
            .collect();
        assert_eq!(
            names,
            [
                "config.Cmd",
                "config.Env.B",
                "config.Labels.x",
                "config.User"
            ]
        );
    }
}
