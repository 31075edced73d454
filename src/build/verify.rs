//! Two builds of one graph, held against each other: which path of which instruction is not the same, and in what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::layer::{self, Difference, PathDifference, Root, Stored, Toc};
use crate::oci::{Descriptor, Digest};
use crate::plan::Graph;
use crate::plan::graph::VertexId;
use crate::store::{LayerId, Store, StoreError};

use super::assemble::{Built, BuiltStep};
use super::engine::open_dir;
use super::{BuildError, ImageOptions};

/// What two builds of one graph came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// Whether the results are the same, byte by byte.
    pub reproducible: bool,
    /// The digests of the two results.
    pub digests: [Digest; 2],
    /// The first path or field that differs: first in the order of instructions, and times after everything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Found>,
    /// How many paths of the image's layers and fields differ.
    pub count: u64,
    /// Whether they differ in times only.
    pub only_times: bool,
}

/// Something that differs.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// A path that a step made.
    Path {
        /// The step, as progress names it.
        step: String,
        /// Its lines of the Dockerfile, from 1, end exclusive.
        lines: std::ops::Range<u32>,
        /// The path in the image, what is not UTF-8 replaced.
        path: String,
        /// In what.
        how: Vec<Difference>,
        /// Where it came into the image, if that was another step.
        #[serde(skip_serializing_if = "Option::is_none")]
        copied: Option<Copied>,
    },
    /// A field of the configuration.
    Config {
        /// Which: `config.Env[2]`.
        field: String,
        /// The first build's, as JSON; `null` where it has none.
        one: serde_json::Value,
        /// The second build's.
        two: serde_json::Value,
    },
    /// Something else of the manifest or the index.
    Manifest,
}

impl Found {
    /// Whether it is a time, which options can make the same.
    pub fn is_time(&self) -> bool {
        match self {
            Found::Path { how, .. } => how.iter().all(Difference::is_time),
            Found::Config { field, .. } => field.ends_with("created"),
            Found::Manifest => false,
        }
    }
}

/// The step by which a path of another stage came into the image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Copied {
    /// The step, as progress names it.
    pub step: String,
    /// The path in the image, what is not UTF-8 replaced.
    pub path: String,
}

/// One step of both builds.
struct Pair<'a> {
    vertex: VertexId,
    steps: [&'a BuiltStep; 2],
    differences: Vec<PathDifference>,
    tocs: [Arc<Toc>; 2],
}

/// Compares two builds of `graph` that were made with `options`; their layers are in the store.
pub fn verify(
    store: &Store,
    graph: &Graph,
    options: &ImageOptions,
    builds: [&Built; 2],
) -> Result<Verdict, BuildError> {
    let [one, two] = builds;
    let mut verdict = Verdict {
        reproducible: one.root.digest == two.root.digest,
        digests: [one.root.digest, two.root.digest],
        first: None,
        count: 0,
        only_times: false,
    };
    if verdict.reproducible {
        return Ok(verdict);
    }
    let pairs = pairs(store, options, builds)?;
    let in_image = graph.in_outputs();
    let mut found: Vec<Found> = Vec::new();
    for is_time in [false, true] {
        let wanted = |d: &&PathDifference| d.how.iter().all(Difference::is_time) == is_time;
        for pair in pairs.iter().filter(|pair| in_image.contains(&pair.vertex)) {
            let mut differences = pair.differences.iter().filter(wanted);
            verdict.count += differences.clone().count() as u64;
            if found.is_empty()
                && let Some(difference) = differences.next()
            {
                found.push(path(store, graph, &pairs, pair, difference)?);
            }
        }
        for (a, b) in one.images.iter().zip(&two.images) {
            let fields = config_differences(store, [&a.config, &b.config])?;
            let fields = fields.into_iter().filter(|f| f.is_time() == is_time);
            for field in fields {
                verdict.count += 1;
                if found.is_empty() {
                    found.push(field);
                }
            }
        }
    }
    verdict.first = Some(found.pop().unwrap_or(Found::Manifest));
    verdict.only_times = verdict.first.as_ref().is_some_and(Found::is_time);
    Ok(verdict)
}

/// The steps whose layers are not the same, in the order of the graph.
fn pairs<'a>(
    store: &Store,
    options: &ImageOptions,
    [one, two]: [&'a Built; 2],
) -> Result<Vec<Pair<'a>>, BuildError> {
    let others: BTreeMap<VertexId, &BuiltStep> =
        two.steps.iter().map(|step| (step.vertex, step)).collect();
    let mut pairs = Vec::new();
    for step in &one.steps {
        let Some(other) = others.get(&step.vertex) else {
            continue;
        };
        if step.diff_id == other.diff_id {
            continue;
        }
        let toc = |of: &BuiltStep| -> Result<Arc<Toc>, BuildError> {
            store.toc(&of.diff_id)?.ok_or_else(|| BuildError::NoDigest {
                path: of.diff_id.to_string(),
            })
        };
        let tocs = [toc(step)?, toc(other)?];
        let differences = layer::compare(&tocs[0], &tocs[1], options.times());
        pairs.push(Pair {
            vertex: step.vertex,
            steps: [step, other],
            differences,
            tocs,
        });
    }
    Ok(pairs)
}

impl Pair<'_> {
    /// The contents of a regular file in the two builds.
    fn contents(&self, path: &[u8]) -> Option<[Digest; 2]> {
        let content = |toc: &Arc<Toc>| match toc.find(path)?.kind {
            layer::KindRef::File { content, .. } => content,
            _ => None,
        };
        Some([content(&self.tocs[0])?, content(&self.tocs[1])?])
    }
}

/// The step, before `pair`, and the path at which two contents were first.
fn origin<'p, 'a>(
    pairs: &'p [Pair<'a>],
    pair: &Pair<'a>,
    path: &[u8],
) -> Option<(&'p Pair<'a>, &'p PathDifference)> {
    let contents = pair.contents(path)?;
    let before = pairs.iter().take_while(|other| other.vertex < pair.vertex);
    before
        .flat_map(|other| other.differences.iter().map(move |d| (other, d)))
        .find(|(other, d)| {
            d.how.contains(&Difference::Content) && other.contents(&d.path) == Some(contents)
        })
}

/// A path of a step of the image, or of where that step has it from, with what can be said of its content.
fn path(
    store: &Store,
    graph: &Graph,
    pairs: &[Pair<'_>],
    pair: &Pair<'_>,
    difference: &PathDifference,
) -> Result<Found, BuildError> {
    let shown = |path: &[u8]| format!("/{}", String::from_utf8_lossy(path));
    let from = match difference.how.contains(&Difference::Content) {
        true => origin(pairs, pair, &difference.path),
        false => None,
    };
    let copied = from.map(|_| Copied {
        step: graph.vertex(pair.vertex).name.clone(),
        path: shown(&difference.path),
    });
    let (pair, difference) = from.unwrap_or((pair, difference));
    let mut how = Vec::new();
    for one in &difference.how {
        how.push(match one {
            Difference::Content => {
                let found = layer::content_difference(
                    stored(store, pair.steps[0])?,
                    stored(store, pair.steps[1])?,
                    &difference.path,
                    unpacked_limit(&pair.tocs),
                )?;
                found.unwrap_or(Difference::Content)
            }
            other => other.clone(),
        });
    }
    let vertex = graph.vertex(pair.vertex);
    Ok(Found::Path {
        step: vertex.name.clone(),
        lines: vertex.lines.clone(),
        path: shown(&difference.path),
        how,
        copied,
    })
}

/// Where a step's files are.
fn stored(store: &Store, step: &BuiltStep) -> Result<Stored, BuildError> {
    if let Some(blob) = &step.blob {
        return Ok(Stored::Blob(store.open_blob(blob)?));
    }
    let layer = store.layer(&LayerId::Diff(step.diff_id))?;
    let layer = layer.ok_or(StoreError::MissingLayer(step.diff_id))?;
    Ok(Stored::Tree(Root::new(Arc::new(open_dir(layer.fs())?))))
}

/// More than either layer unpacks to: files with their padding, and some blocks of headers for each entry.
fn unpacked_limit(tocs: &[Arc<Toc>; 2]) -> u64 {
    const HEADERS_BYTES: u64 = 1 << 20;
    let bytes = |toc: &Arc<Toc>| {
        let sizes = toc.refs().map(|entry| match entry.kind {
            layer::KindRef::File { size_bytes, .. } => size_bytes,
            _ => 0,
        });
        let files: u64 = sizes.fold(0, u64::saturating_add);
        files.saturating_add((toc.len() as u64 + 1).saturating_mul(HEADERS_BYTES))
    };
    bytes(&tocs[0]).max(bytes(&tocs[1]))
}

/// The fields of two configurations that differ; layers are told by their paths.
fn config_differences(store: &Store, configs: [&Descriptor; 2]) -> Result<Vec<Found>, BuildError> {
    let read = |config: &Descriptor| -> Result<serde_json::Value, BuildError> {
        let bytes = store.read_blob(config)?;
        let mut value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|source| BuildError::FailedStep {
                id: config.digest.to_string(),
                source,
            })?;
        if let Some(object) = value.as_object_mut() {
            object.remove("rootfs");
        }
        Ok(value)
    };
    let mut found = Vec::new();
    differ(&read(configs[0])?, &read(configs[1])?, "", &mut found);
    Ok(found)
}

fn differ(one: &serde_json::Value, two: &serde_json::Value, at: &str, found: &mut Vec<Found>) {
    use serde_json::Value;
    match (one, two) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let field = match at {
                    "" => name.clone(),
                    at => format!("{at}.{name}"),
                };
                let of = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or(Value::Null)
                };
                differ(&of(a), &of(b), &field, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, &format!("{at}[{index}]"), found);
            }
        }
        (a, b) if a != b => found.push(Found::Config {
            field: at.to_owned(),
            one: a.clone(),
            two: b.clone(),
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_have_names() {
        let fields = |one, two| {
            let mut found = Vec::new();
            differ(&one, &two, "", &mut found);
            let names = found.iter().map(|f| match f {
                Found::Config { field, .. } => (field.clone(), f.is_time()),
                _ => unreachable!("only fields are found"),
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            fields(
                json!({"created": 1, "config": {"Env": ["a", "b"]}, "history": [{"created": 1}], "same": {}}),
                json!({"created": 2, "config": {"Env": ["a", "c"], "User": "x"}, "history": [{"created": 2}], "same": {}}),
            ),
            [
                ("config.Env[1]".to_owned(), false),
                ("config.User".to_owned(), false),
                ("created".to_owned(), true),
                ("history[0].created".to_owned(), true),
            ]
        );
        assert_eq!(fields(json!([1]), json!([1, 2])), [(String::new(), false)]);
    }
}
