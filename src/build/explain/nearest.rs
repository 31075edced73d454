//! The earlier record that a step comes nearest to.

use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::Digest;
use crate::plan::graph::{Graph, Op, Vertex, VertexId};
use crate::store::{Place, Record};

use super::Missed;
use crate::build::BuildError;
use crate::build::engine::Engine;

/// The records that were there when the build began; read when the first step is not cached.
#[derive(Default)]
pub(in crate::build) struct History(Mutex<Option<Arc<Vec<Record>>>>);

/// The first word of a key's kind: `run`, `copy`, `workdir`.
fn kind(inputs: &[(String, String)]) -> Option<&str> {
    let (label, value) = inputs.first()?;
    (label == "kind").then(|| value.split(' ').next().unwrap_or_default())
}

/// The text of a vertex as records have it.
pub(in crate::build) fn step_text(vertex: &Vertex) -> String {
    match &vertex.op {
        // History shows a RUN with the values of its build arguments, and they are not a record's business.
        Op::Run(run) => format!("RUN {}", run.args.join(" ")),
        Op::Image(image) => pinned(&image.name, &image.manifest.digest),
        Op::Copy(_) | Op::Workdir(_) => vertex.created_by.clone(),
    }
}

fn pinned(name: &str, digest: &Digest) -> String {
    match name.contains('@') {
        true => name.to_owned(),
        false => format!("{name}@{digest}"),
    }
}

/// Where a vertex stands.
pub(in crate::build) fn place(graph: &Graph, id: VertexId, build: Digest) -> Place {
    let vertex = graph.vertex(id);
    let before = graph.vertices[..id.0].iter();
    let position = before
        .filter(|v| {
            v.stage == vertex.stage
                && v.platform == vertex.platform
                && !matches!(v.op, Op::Image(_))
        })
        .count();
    Place {
        build,
        stage: vertex.stage.clone(),
        position,
        platform: vertex.platform.to_string(),
        below: vertex.base.map(|base| step_text(graph.vertex(base))),
        arguments: vertex.arguments.clone(),
    }
}

fn same_spot(a: &Place, b: &Place) -> bool {
    a.stage == b.stage && a.position == b.position
}

impl History {
    pub(super) fn records(&self, engine: &Engine<'_>) -> Result<Arc<Vec<Record>>, BuildError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(records) = &*slot {
            return Ok(records.clone());
        }
        let records = Arc::new(engine.store.cache_records()?);
        *slot = Some(records.clone());
        Ok(records)
    }
}

impl Engine<'_> {
    /// The nearest of the records, which come in the order in which they were last of use.
    pub(super) fn nearest<'r>(
        &self,
        missed: &Missed<'_>,
        vertex: &Vertex,
        place: &Place,
        records: &'r [Record],
    ) -> Option<&'r Record> {
        let graph = self.request.graph;
        let text = step_text(vertex);
        let others: Vec<(String, Place)> = (0..graph.vertices.len())
            .map(VertexId)
            .filter(|id| *id != missed.id)
            .map(|id| {
                let of = self::place(graph, id, place.build);
                (step_text(graph.vertex(id)), of)
            })
            .collect();
        let eligible = |record: &Record, of: &Place| {
            let (same_build, same_text) = (of.build == place.build, record.step == text);
            let here = same_spot(of, place);
            let claimed = others.iter().any(|(other, stands)| {
                *other == record.step
                    && stands.stage == of.stage
                    && stands.platform == of.platform
                    && (!same_text || stands.position == of.position)
            });
            kind(&record.inputs) == kind(missed.inputs)
                && !claimed
                && match same_build {
                    true => same_text || here,
                    false => same_text && here,
                }
        };
        // Of equals the last counts.
        records
            .iter()
            .filter_map(|record| Some((record, record.place.as_ref()?)))
            .filter(|(record, of)| eligible(record, of))
            .max_by_key(|(record, of)| {
                (
                    of.build == place.build,
                    of.platform == place.platform,
                    record.step == text,
                    shared(&record.inputs, missed.inputs),
                    same_spot(of, place),
                )
            })
            .map(|(record, _)| record)
    }
}

// How many inputs two lists have in common.
fn shared(a: &[(String, String)], b: &[(String, String)]) -> usize {
    let mut rest: Vec<&(String, String)> = b.iter().collect();
    a.iter()
        .filter(|input| match rest.iter().position(|r| r == input) {
            Some(at) => {
                rest.swap_remove(at);
                true
            }
            None => false,
        })
        .count()
}
