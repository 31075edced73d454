//! The engine: from a graph to committed layers and a named image.
//!
//! For: contexts (folders, archives, git, http), the scheduler, cache keys, RUN in a sandbox, COPY and ADD, the commit in the
//! background, and the assembly of configuration, history, manifest and index.
//!
//! ```text
//! plan::Graph ► schedule ─► key ─hit─► layer
//!                            └miss─► run | copy | workdir ► commit (diff, pack) ► layer
//!                                                                └► assemble ► manifest, name
//! ```
//!
//! Invariants: a result depends on the graph, the contexts' content and the base images only; a cache key lists its inputs by
//! label (see `key`) and holds no secret; nothing is published before it is whole; what ends a build early leaves no process,
//! mount or file behind but what the store's next user removes.
//!
//! Concurrency: a thread for each vertex that runs, bounded by the options; equal keys are built once, in this process and
//! in others; a commit works while the next step runs.
//!
//! Emits [`Event`]s and never prints. Reaches registries only through the traits it is given.

pub mod event;

pub use event::{Event, EventKind, Events, StepId};
