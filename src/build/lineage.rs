//! Which lines of the Dockerfile made the layers of the result, and what COPY and ADD took: for reports, never for results.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::plan::graph::{CopyOp, CopySource, Op, Origin, Output, VertexId};
use crate::plan::redacted;
use crate::store::{
    Copied, CopyOrigin, FromLine, Lineage, Made, Origin as LineageOrigin, PathBytes,
};

use super::BuildError;
use super::engine::Engine;
use super::transfer::Prepared;

/// What the COPYs and ADDs of a build took, as far as they are done.
#[derive(Default)]
pub(super) struct Taken(Mutex<BTreeMap<VertexId, Vec<Copied>>>);

impl Taken {
    /// Remembers what a step took.
    pub(super) fn set(&self, id: VertexId, copied: Vec<Copied>) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(id, copied);
    }

    fn get(&self, id: VertexId) -> Vec<Copied> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get(&id).cloned().unwrap_or_default()
    }
}

impl Engine<'_> {
    /// The sources of a step, in order, and where each goes: nowhere yet.
    pub(super) fn sources(&self, op: &CopyOp, prepared: &Prepared) -> Vec<Copied> {
        let mut copied = Vec::new();
        for (source, part) in op.sources.iter().zip(&prepared.0) {
            let origin = match source {
                CopySource::Inline { .. } => CopyOrigin::Inline,
                CopySource::Http { url, .. } | CopySource::Git { url, .. } => {
                    CopyOrigin::Url(redacted(url))
                }
                CopySource::Path(_) => self.origin_of(&op.origin),
            };
            copied.extend(part.items.iter().map(|item| Copied {
                to: PathBytes(Vec::new()),
                from: PathBytes(item.from.clone()),
                origin: origin.clone(),
            }));
        }
        copied
    }

    fn origin_of(&self, origin: &Origin) -> CopyOrigin {
        match origin {
            Origin::Context => CopyOrigin::Context,
            Origin::Named(name) => CopyOrigin::Named(name.clone()),
            Origin::Vertex(None) => CopyOrigin::Stage("scratch".to_owned()),
            Origin::Vertex(Some(id)) => {
                let vertex = self.vertex_of(*id);
                CopyOrigin::Stage(match &vertex.op {
                    Op::Image(image) => image.name.clone(),
                    _ => vertex.stage.clone(),
                })
            }
        }
    }

    /// What a step took whose result was found: the record says where it put things, and the sources what they are called now.
    pub(super) fn found(
        &self,
        id: VertexId,
        op: &CopyOp,
        prepared: &Prepared,
        recorded: Vec<PathBytes>,
    ) {
        let mut copied = self.sources(op, prepared);
        // A record of an earlier strata does not say.
        if copied.len() == recorded.len() {
            for (copied, to) in copied.iter_mut().zip(recorded) {
                copied.to = to;
            }
            self.taken.set(id, copied);
        }
    }

    /// Remembers how an image came to be.
    pub(super) fn keep_lineage(
        &self,
        output: &Output,
        manifest: &crate::oci::Digest,
    ) -> Result<(), BuildError> {
        let mut layers = Vec::new();
        let (mut base_layers, mut from) = (0, None);
        let mut next = output.vertex;
        while let Some(id) = next {
            let vertex = self.vertex_of(id);
            next = vertex.base;
            if let Op::Image(image) = &vertex.op {
                // What was built here earlier keeps its own lines.
                let known = self.store.lineage(&image.manifest.digest)?;
                let mut known = known.unwrap_or_default().layers;
                known.resize(image.layers.len(), None);
                base_layers = image.layers.len();
                from = (!vertex.lines.is_empty()).then(|| FromLine {
                    image: image.name.clone(),
                    line: vertex.lines.start,
                    end_line: vertex.lines.end - 1,
                    stage: vertex.stage.clone(),
                });
                layers.extend(known.into_iter().rev());
                continue;
            }
            let lines = !vertex.lines.is_empty();
            layers.push(lines.then(|| Made {
                dockerfile: self.request.dockerfile.clone(),
                line: vertex.lines.start,
                end_line: vertex.lines.end - 1,
                stage: vertex.stage.clone(),
                copied: self.taken.get(id),
            }));
        }
        layers.reverse();
        let lineage = Lineage {
            layers,
            origin: Some(LineageOrigin {
                dockerfile: self.request.dockerfile.clone(),
                path: self.request.dockerfile_path.clone().map(PathBytes),
                base_layers,
                from,
            }),
        };
        if self.store.lineage(manifest)?.as_ref() != Some(&lineage) {
            self.store.put_lineage(manifest, &lineage)?;
        }
        Ok(())
    }
}
