//! The graph while it grows: a vertex that does what another does to the same files is that one.

use std::collections::HashMap;

use crate::dockerfile::Diagnostic;

use super::graph::{Graph, Op, Vertex, VertexId};

/// A graph, and where to look for equal vertices.
#[derive(Default)]
pub(super) struct Weave {
    graph: Graph,
    /// Vertices by their base: few enough each to compare one by one.
    by_base: HashMap<Option<VertexId>, Vec<VertexId>>,
}

impl Weave {
    /// The vertex, new or one equal to it. Name, stage and lines are those of the first.
    pub(super) fn add(&mut self, vertex: Vertex) -> VertexId {
        let siblings = self.by_base.entry(vertex.base).or_default();
        let equal = siblings
            .iter()
            .find(|id| is_equal(&self.graph.vertices[id.0], &vertex));
        if let Some(id) = equal {
            return *id;
        }
        let id = VertexId(self.graph.vertices.len());
        siblings.push(id);
        self.graph.vertices.push(vertex);
        id
    }

    /// Notes what the linter found, once.
    pub(super) fn warn(&mut self, warning: Diagnostic) {
        if !self.graph.warnings.contains(&warning) {
            self.graph.warnings.push(warning);
        }
    }

    /// The graph itself.
    pub(super) fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// The finished graph.
    pub(super) fn finish(self) -> Graph {
        self.graph
    }
}

// Copied files are the same on every platform; an image is what its manifest says; a command may ask where it runs.
fn is_equal(a: &Vertex, b: &Vertex) -> bool {
    let same_op = match (&a.op, &b.op) {
        (Op::Image(a), Op::Image(b)) => {
            a.manifest.digest == b.manifest.digest && a.layers == b.layers
        }
        (Op::Run(_), Op::Run(_)) => a.platform == b.platform && a.op == b.op,
        (a, b) => a == b,
    };
    same_op && a.base == b.base && a.no_cache == b.no_cache
}
