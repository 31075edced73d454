//! The scheduler: vertices in the order their inputs allow, each looked up in the cache before it is executed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::layer::{MIN_SECRET_BYTES, Needles, Stack, Toc, Twins};
use crate::oci::{ChainId, DiffId, Digest};
use crate::plan::graph::{CopyOp, Op, Origin, RunMount, RunOp, Vertex, VertexId, WorkdirOp};
use crate::store::{Store, Work};

use super::assemble::{Built, BuiltFiles};
use super::commit::{Made, PendingRecord};
use super::context::Contexts;
use super::event::{EventKind, Events, StepId};
use super::explain::{History, Missed, place, step_text};
use super::failed::Failure;
use super::key::Key;
use super::lineage::Taken;
use super::lowers::Lowers;
use super::pull::Pulls;
use super::snapshot::{Committed, Snapshot};
use super::transfer::{Part, Prepared};
use super::tree::Tree;
use super::turns::Turns;
use super::{BuildError, Fetch, Request, footguns};

/// How many layers are packed at once in the background. Each takes some 16 MiB for its buffers and keeps all cores busy alone;
/// the second one works where the first waits for the disk.
const PACKED_AT_ONCE: usize = 2;

/// Layers, bottom first.
pub(super) type Layers = Arc<[Arc<Snapshot>]>;

/// A build under way.
pub(super) struct Engine<'a> {
    pub(super) store: &'a Store,
    pub(super) request: &'a Request<'a>,
    pub(super) events: &'a dyn Events,
    pub(super) cancel: &'a AtomicBool,
    pub(super) work: Work,
    pub(super) contexts: Contexts<'a>,
    pub(super) fetch: &'a dyn Fetch,
    pub(super) pulls: Pulls,
    pub(super) packing: Turns,
    /// The blocks of the layers that were packed.
    pub(super) twins: Arc<Twins>,
    /// The secrets to look for in what is made; `None` if there are none.
    pub(super) needles: Option<Needles>,
    /// Layers whose directories hold more than they do: published when no step stands on them any more.
    pub(super) late: Mutex<Vec<(PathBuf, Arc<Toc>, DiffId)>>,
    /// What failed, to be kept when the build has ended.
    pub(super) failures: Mutex<Vec<Failure>>,
    /// Set when a step failed: nothing new begins.
    failed: AtomicBool,
    /// Vertices whose layer's files somebody will read.
    pub(super) needs_files: BTreeSet<VertexId>,
    /// Vertices whose layer is in an output.
    pub(super) in_outputs: BTreeSet<VertexId>,
    pub(super) history: History,
    /// What COPY and ADD took.
    pub(super) taken: Taken,
    pub(super) lowers: Lowers,
}

/// What a vertex came to.
#[derive(Clone)]
pub(super) struct Outcome {
    pub(super) layers: Layers,
    pub(super) key: Digest,
    /// The topmost step of the stack that was not cached, if what is above it could not be the same without it.
    pub(super) ran: Option<VertexId>,
}

/// A vertex that makes a layer.
enum Step<'a> {
    /// With the files that its bind mounts show.
    Run(&'a RunOp, Vec<Part>),
    Copy(&'a CopyOp, Prepared),
    Workdir(&'a WorkdirOp),
}

impl Step<'_> {
    fn parts(&self) -> &[Part] {
        match self {
            Step::Run(_, parts) | Step::Copy(_, Prepared(parts)) => parts,
            Step::Workdir(_) => &[],
        }
    }
}

struct Board {
    outcomes: BTreeMap<VertexId, Outcome>,
    waiting: Vec<VertexId>,
    error: Option<BuildError>,
}

/// Ends the wait of the other workers when one panics; the panic itself goes on.
struct Unwound<'b> {
    board: &'b Mutex<Board>,
    changed: &'b Condvar,
}

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
            board.error.get_or_insert(BuildError::Canceled);
            self.changed.notify_all();
        }
    }
}

/// What a build is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Images: their layers as blobs.
    Images,
    /// Their files: no layer is compressed.
    Files,
}

impl<'a> Engine<'a> {
    pub(super) fn new(
        store: &'a Store,
        request: &'a Request<'a>,
        fetch: &'a dyn Fetch,
        events: &'a dyn Events,
        cancel: &'a AtomicBool,
        wanted: Wanted,
    ) -> Result<Engine<'a>, BuildError> {
        let graph = request.graph;
        let mut needs_files = BTreeSet::new();
        let mut chain = |mut at: Option<VertexId>| {
            while let Some(id) = at {
                if !needs_files.insert(id) {
                    break;
                }
                at = graph.vertex(id).base;
            }
        };
        for vertex in &graph.vertices {
            match &vertex.op {
                Op::Run(run) => {
                    chain(vertex.base);
                    for mount in &run.mounts {
                        if let RunMount::Bind {
                            origin: Origin::Vertex(from),
                            ..
                        }
                        | RunMount::Cache {
                            from: Some((Origin::Vertex(from), _)),
                            ..
                        } = mount
                        {
                            chain(*from);
                        }
                    }
                }
                Op::Copy(copy) => {
                    if let Origin::Vertex(from) = copy.origin {
                        chain(from);
                    }
                }
                Op::Image(_) | Op::Workdir(_) => {}
            }
        }
        let in_outputs = match wanted {
            Wanted::Images => graph.in_outputs(),
            Wanted::Files => {
                for output in &graph.outputs {
                    chain(output.vertex);
                }
                BTreeSet::new()
            }
        };
        let contexts = Contexts::new(store, request, events, graph.vertices.len());
        let work = store.work()?;
        let failed = AtomicBool::new(false);
        let (needles, left_out) = footguns::needles(request);
        for id in left_out {
            events.event(EventKind::Notice(format!(
                "secret {id} is not looked for in layers: it is shorter than {MIN_SECRET_BYTES} bytes, all one character, or cannot be read"
            )));
        }
        Ok(Engine {
            needles,
            store,
            request,
            events,
            cancel,
            work,
            contexts,
            fetch,
            pulls: Pulls::default(),
            packing: Turns::new(PACKED_AT_ONCE),
            twins: Arc::new(Twins::new(request.image.compression)),
            late: Mutex::default(),
            failures: Mutex::default(),
            failed,
            needs_files,
            in_outputs,
            history: History::default(),
            taken: Taken::default(),
            lowers: Lowers::default(),
        })
    }

    /// Runs the graph and puts the images together.
    pub(super) fn build(&self) -> Result<Built, BuildError> {
        let outcomes = self.outcomes()?;
        let step = StepId(self.request.graph.vertices.len() + self.contexts.len());
        self.assemble(&outcomes, step)
    }

    /// Runs the graph and finds what the files of the images are made of.
    pub(super) fn build_files(&self) -> Result<Vec<BuiltFiles>, BuildError> {
        self.made_of(&self.outcomes()?)
    }

    // Runs the graph.
    fn outcomes(&self) -> Result<BTreeMap<VertexId, Outcome>, BuildError> {
        self.look_at_configs()?;
        let graph = self.request.graph;
        let board = Mutex::new(Board {
            outcomes: BTreeMap::new(),
            waiting: (0..graph.vertices.len()).map(VertexId).collect(),
            error: None,
        });
        let changed = Condvar::new();
        std::thread::scope(|scope| {
            let workers = self.request.jobs.clamp(1, graph.vertices.len().max(1));
            for _ in 1..workers {
                scope.spawn(|| self.work_off(scope, &board, &changed));
            }
            self.work_off(scope, &board, &changed);
        });
        self.publish_late()?;
        let board = board
            .into_inner()
            .expect("no worker panics while it holds the board");
        if let Some(mut error) = board.error {
            self.keep_failures(&mut error);
            return Err(error);
        }
        Ok(board.outcomes)
    }

    // A worker: takes the first vertex whose inputs are there, until none is left.
    fn work_off<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        board: &Mutex<Board>,
        changed: &Condvar,
    ) {
        let graph = self.request.graph;
        let mut held = board
            .lock()
            .expect("no worker panics while it holds the board");
        loop {
            if held.error.is_some() || held.waiting.is_empty() {
                break;
            }
            let is_ready = |id: &VertexId| {
                let inputs = graph.inputs(*id);
                inputs.iter().all(|input| held.outcomes.contains_key(input))
            };
            let ready = match self.request.last_first {
                false => held.waiting.iter().position(is_ready),
                true => held.waiting.iter().rposition(is_ready),
            };
            let Some(at) = ready else {
                held = changed
                    .wait(held)
                    .expect("no worker panics while it holds the board");
                continue;
            };
            let id = held.waiting.remove(at);
            let base = graph
                .vertex(id)
                .base
                .map(|base| held.outcomes[&base].clone());
            let inputs: BTreeMap<VertexId, Outcome> = graph
                .inputs(id)
                .into_iter()
                .map(|input| (input, held.outcomes[&input].clone()))
                .collect();
            drop(held);
            let unwound = Unwound { board, changed };
            let result = self.vertex(scope, id, base, &inputs);
            drop(unwound);
            held = board
                .lock()
                .expect("no worker panics while it holds the board");
            match result {
                Ok(outcome) => drop(held.outcomes.insert(id, outcome)),
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    // What the user did not ask to end counts more than what ended because of it.
                    if held.error.as_ref().is_none_or(BuildError::is_canceled) {
                        held.error = Some(error);
                    }
                }
            }
            changed.notify_all();
        }
        changed.notify_all();
    }

    /// Whether the build is being given up.
    pub(super) fn is_canceled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    fn vertex<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        id: VertexId,
        base: Option<Outcome>,
        inputs: &BTreeMap<VertexId, Outcome>,
    ) -> Result<Outcome, BuildError> {
        let vertex = self.request.graph.vertex(id);
        let step = StepId(id.0);
        if self.is_canceled() {
            return Err(BuildError::Canceled);
        }
        self.events.event(EventKind::Started {
            step,
            name: vertex.name.clone(),
        });
        let mut log_tail = Vec::new();
        match self.evaluate(scope, id, base, inputs, &mut log_tail) {
            Ok((outcome, cached)) => {
                self.events.event(EventKind::Finished { step, cached });
                Ok(outcome)
            }
            Err(error) if error.is_canceled() => {
                self.events.event(EventKind::Canceled { step });
                Err(error)
            }
            Err(error) => {
                self.events.event(EventKind::Failed {
                    step,
                    message: crate::dockerfile::with_causes(&error),
                });
                let (name, lines) = (vertex.name.clone(), vertex.lines.clone());
                let span = error.place(vertex);
                Err(BuildError::Step {
                    name,
                    lines,
                    span,
                    log_tail,
                    kept: None,
                    source: Arc::new(error),
                })
            }
        }
    }

    fn evaluate<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        id: VertexId,
        base: Option<Outcome>,
        inputs: &BTreeMap<VertexId, Outcome>,
        log_tail: &mut Vec<String>,
    ) -> Result<(Outcome, bool), BuildError> {
        let vertex = self.request.graph.vertex(id);
        let below = base.as_ref().map_or_else(none, |b| b.layers.clone());
        let below_key = base
            .as_ref()
            .map_or_else(|| "scratch".to_owned(), |b| b.key.to_string());
        let linked = matches!(&vertex.op, Op::Copy(copy) if copy.link);
        let start = |kind| {
            let mut key = Key::new(kind);
            match linked {
                true => key.add("link", "true"),
                false => key.add("base", &below_key),
            }
            key
        };
        let (key, step) = match &vertex.op {
            Op::Image(image) => return Ok((image_outcome(image), false)),
            Op::Run(run) => {
                let mut key = start("run 2");
                let parts = self.run_key(run, vertex, inputs, &mut key)?;
                (key, Step::Run(run, parts))
            }
            Op::Copy(copy) => {
                let mut key = start("copy 3");
                let prepared = self.prepare_copy(id, copy, &below, inputs, &mut key)?;
                (key, Step::Copy(copy, prepared))
            }
            Op::Workdir(workdir) => {
                let mut key = start("workdir 1");
                key.add("path", &workdir.path);
                key.add("user", &workdir.user);
                (key, Step::Workdir(workdir))
            }
        };
        let (key, labels) = key.finish();
        // A layer that does not look at the base has a key of its own; what is above it depends on both.
        let outcome_key = if linked {
            Digest::of(format!("{below_key} {key}").as_bytes())
        } else {
            key
        };
        // A result that was found lies on the layers that it was made on, unless it looks at none.
        let ran = base.as_ref().filter(|_| linked).and_then(|b| b.ran);
        let mut lock = None;
        if !vertex.no_cache {
            if let Some(hit) = self.hit(id, &key, &below, linked, &step)? {
                self.contexts.leave(&vertex.op)?;
                return Ok((
                    Outcome {
                        layers: push(&below, hit),
                        key: outcome_key,
                        ran,
                    },
                    true,
                ));
            }
            lock = Some(self.store.cache_lock(&key, self.cancel)?);
            // Whoever held the lock may have done the work.
            if let Some(hit) = self.hit(id, &key, &below, linked, &step)? {
                self.contexts.leave(&vertex.op)?;
                return Ok((
                    Outcome {
                        layers: push(&below, hit),
                        key: outcome_key,
                        ran,
                    },
                    true,
                ));
            }
        }
        let missed = Missed {
            id,
            key: &key,
            inputs: &labels,
            below: base.as_ref(),
            parts: step.parts(),
        };
        self.tell(&missed)?;
        self.keep_listings(&labels, step.parts())?;
        let last = match &step {
            Step::Copy(..) | Step::Run(..) if !vertex.no_cache => Some(self.last_key(vertex)),
            _ => None,
        };
        let mut copied_to = Vec::new();
        let mut remarks = Vec::new();
        let made = match step {
            Step::Run(run, parts) => {
                drop(parts);
                self.run(id, run, &below, inputs, log_tail)?
            }
            Step::Copy(copy, prepared) => {
                let (changes, to) = self.copy(id, copy, &below, prepared, inputs, &mut remarks)?;
                copied_to = to;
                Made::Changes(changes)
            }
            Step::Workdir(workdir) => {
                Made::Changes(self.workdir(id, workdir, &below, &mut remarks)?)
            }
        };
        self.contexts.leave(&vertex.op)?;
        let record = PendingRecord {
            key,
            labels,
            linked,
            step: step_text(vertex),
            place: place(self.request.graph, id, self.request.build),
            copied_to,
            lock,
            last,
            remarks,
        };
        let snapshot = self.commit(scope, id, made, &below, record)?;
        // A step of a strict build has not succeeded before its layer was looked through.
        if self.request.strict && self.needles.is_some() {
            snapshot.wait()?;
        }
        Ok((
            Outcome {
                layers: push(&below, snapshot),
                key: outcome_key,
                ran: Some(id),
            },
            false,
        ))
    }

    // What a step is known by from build to build, whatever it reads.
    fn last_key(&self, vertex: &Vertex) -> Digest {
        let mut key = Key::new("last 1");
        key.add("instruction", &vertex.created_by);
        key.add("platform", &vertex.platform.to_string());
        if let Some(context) = &self.request.context {
            key.add("context", &context.folder().to_string_lossy());
        }
        key.finish().0
    }

    // An earlier result, if it lies on the same layers and is still there.
    fn hit(
        &self,
        id: VertexId,
        key: &Digest,
        below: &Layers,
        linked: bool,
        step: &Step<'_>,
    ) -> Result<Option<Arc<Snapshot>>, BuildError> {
        let Some(record) = self.store.cache_get(key)? else {
            return Ok(None);
        };
        let below = chain(below)?;
        if !linked && record.below != below {
            return Ok(None);
        }
        if let Step::Copy(op, prepared) = step {
            self.found(id, op, prepared, record.copied_to);
        }
        self.warn_again(self.vertex_of(id), &record.remarks)?;
        let diff_id = record.diff_id;
        let chain = below.map_or(ChainId(diff_id.0), |b| b.push(diff_id));
        let committed = Committed {
            diff_id,
            chain,
            below,
            blob: record.blob,
            key: Some(*key),
            created: record.created,
            image: None,
        };
        Ok(Some(Snapshot::committed(committed)))
    }

    /// The tables of contents of a stack; layers that have none yet are waited for or unpacked.
    pub(super) fn stack(&self, layers: &Layers) -> Result<Stack, BuildError> {
        let mut stack = Stack::new(Vec::new());
        for (at, snapshot) in layers.iter().enumerate() {
            let toc = match snapshot.wait_toc()? {
                Some(toc) => toc,
                None => self.toc(&layers[..=at])?,
            };
            stack.push(toc);
        }
        Ok(stack)
    }

    // The table of the topmost of `layers`, which is committed.
    fn toc(&self, layers: &[Arc<Snapshot>]) -> Result<Arc<Toc>, BuildError> {
        let Some(top) = layers.last() else {
            return Ok(Arc::new(Toc::from_entries(Vec::new())));
        };
        let committed = top.wait()?;
        if let Some(toc) = self.store.toc(&committed.diff_id)? {
            top.set_toc(toc.clone());
            return Ok(toc);
        }
        self.directories(layers)?;
        top.toc().ok_or_else(|| BuildError::NoDigest {
            path: committed.diff_id.to_string(),
        })
    }

    /// The files of a stack.
    pub(super) fn tree(&self, layers: &Layers) -> Result<Tree, BuildError> {
        let roots = self.directories(layers)?;
        Ok(Tree::of_layers(self.stack(layers)?, roots))
    }

    /// What an origin's files are, for looking; contents of layers can be read only if `files`.
    pub(super) fn origin(
        &self,
        origin: &Origin,
        inputs: &BTreeMap<VertexId, Outcome>,
        files: bool,
    ) -> Result<Arc<Tree>, BuildError> {
        match origin {
            Origin::Context => self.contexts.tree(None),
            Origin::Named(name) => self.contexts.tree(Some(name)),
            Origin::Vertex(None) => Ok(Arc::new(Tree::empty())),
            Origin::Vertex(Some(id)) => {
                let layers = &inputs[id].layers;
                Ok(Arc::new(if files {
                    self.tree(layers)?
                } else {
                    Tree::of_layers(self.stack(layers)?, Vec::new())
                }))
            }
        }
    }

    /// The vertex, for messages.
    pub(super) fn vertex_of(&self, id: VertexId) -> &'a Vertex {
        self.request.graph.vertex(id)
    }
}

fn image_outcome(image: &Arc<crate::plan::ResolvedImage>) -> Outcome {
    let mut key = Key::new("image 1");
    for id in &image.config.rootfs.diff_ids {
        key.add("layer", &id.to_string());
    }
    Outcome {
        layers: image_layers(image),
        key: key.finish().0,
        ran: None,
    }
}

fn image_layers(image: &Arc<crate::plan::ResolvedImage>) -> Layers {
    let mut below = None;
    let layers = image
        .layers
        .iter()
        .zip(&image.config.rootfs.diff_ids)
        .enumerate()
        .map(|(index, (blob, diff_id))| {
            let chain = below.map_or(ChainId(diff_id.0), |b: ChainId| b.push(*diff_id));
            let image = Some((image.clone(), index));
            let committed = Committed {
                diff_id: *diff_id,
                chain,
                below,
                blob: Some(blob.clone()),
                key: None,
                created: 0,
                image,
            };
            below = Some(chain);
            Snapshot::committed(committed)
        });
    layers.collect()
}

/// An empty stack.
pub(super) fn none() -> Layers {
    Arc::new([])
}

fn push(below: &Layers, top: Arc<Snapshot>) -> Layers {
    below.iter().cloned().chain([top]).collect()
}

/// The identity of a stack; waits for its commits.
pub(super) fn chain(layers: &Layers) -> Result<Option<ChainId>, BuildError> {
    layers
        .last()
        .map(|top| top.wait().map(|committed| committed.chain))
        .transpose()
}

/// A directory, to look into.
pub(super) fn open_dir(path: &std::path::Path) -> Result<OwnedFd, BuildError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| BuildError::Host {
        action: "open",
        path: path.to_owned(),
        source: e.into(),
    })
}

/// An empty directory that will be a layer: the root's permissions count, whatever the umask.
pub(super) fn make_layer_dir(path: &std::path::Path) -> Result<(), BuildError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| BuildError::Host {
        action: "create",
        path: path.to_owned(),
        source,
    };
    std::fs::create_dir(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(failed)
}

/// Now, in seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
