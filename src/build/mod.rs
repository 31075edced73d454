//! The engine: from a graph to committed layers and a named image.
//!
//! For: contexts (folders, archives, git, http), the scheduler, cache keys, RUN in a sandbox, COPY and ADD, the commit in the
//! background, and the assembly of configuration, history, manifest and index. Who asked for the build names the result.
//!
//! ```text
//! plan::Graph ► engine ─► key ─hit─► layer
//!                          └miss─► run: a sandbox over an overlay ► commit (diff, pack) ► layer
//!                          └miss─► transfer: select, draft ► commit (pack) ────────────► layer ► assemble ► manifest, index
//! ```
//!
//! Invariants: a result depends on the graph, the contexts' content and the base images only; a cache key lists its inputs by
//! label (see `key`) and holds no secret; nothing is published before it is whole; what ends a build early leaves no process,
//! mount or file behind but what the store's next user removes.
//!
//! Which layers become blobs: those of the steps that an output is made of (its target's stack down to the base image, known from
//! the graph before anything runs) are packed at once, in the background, since an image is mostly pushed or saved next. All others
//! are only read by other stages: of them the store keeps the files, the table of contents and the diffID, which is the key of what is
//! stacked on them, and no blob. They are hashed and searched for secrets all the same. When a later build has one in an output
//! (`Engine::blob_of`), it is packed from table and files, verified against the diffID, and the bytes are the ones that packing it
//! at once would have made.
//!
//! What a RUN stands on: the directories of all layers below, where sixteen small ones on each other are merged into one for as long as
//! the build takes (`lowers`), so that a step high up costs what one low down does.
//!
//! Concurrency: as many workers as the options say, each taking the first vertex whose inputs are there; equal keys are built
//! once, in this process and in others; a commit has a thread of its own and works while the next step runs.
//!
//! What a failed RUN leaves is kept in the store, with what it takes to see it as the step did ([`debug`]).
//!
//! Emits [`Event`]s and never prints. Reaches registries only through the trait it is given ([`Fetch`]); files and repositories
//! that ADD and contexts name by URL it fetches itself.

mod archive;
mod assemble;
mod commit;
mod context;
mod copy;
mod debug;
mod draft;
mod engine;
mod error;
pub mod event;
mod explain;
mod failed;
mod fetch;
mod folder;
mod footguns;
pub mod git;
mod key;
mod lineage;
mod listing;
mod log;
mod lowers;
mod mode;
mod mounts;
mod poll;
mod pull;
mod run;
mod secrets;
mod select;
mod snapshot;
mod ssh;
mod strays;
mod transfer;
mod tree;
mod turns;
mod users;
mod verify;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

pub use assemble::{Built, BuiltFiles, BuiltImage, BuiltStep};
pub use context::{Context, ContextSource};
pub use copy::CopyError;
pub use debug::{DebugCommand, DebugRequest, DebugSession, debug};
pub use error::BuildError;
pub use event::{Event, EventKind, Events, StepId};
pub use explain::{Explain, Explanation, InputChange, Reason};
pub use failed::{FailedRun, How, KeptStep};
pub use mode::ModeError;
pub use secrets::{SecretSource, Secrets};
pub use ssh::SshAgents;
pub use verify::{Copied, Found, Verdict, verify};

use crate::dockerfile::Diagnostic;
use crate::layer::{Compression, Times};
use crate::oci::Digest;
use crate::plan::{Graph, ResolvedImage};
use crate::sandbox::Privilege;
use crate::store::{FailedBounds, Store};
use engine::Wanted;

/// A build to be done.
pub struct Request<'a> {
    /// What to do.
    pub graph: &'a Graph,
    /// The build context; `None` where the Dockerfile came alone.
    pub context: Option<Context>,
    /// Contexts given by name that are folders, repositories or archives.
    pub contexts: BTreeMap<String, Context>,
    /// Secrets by id.
    pub secrets: Secrets,
    /// Whether what BuildKit does without a word is an error rather than a warning.
    pub strict: bool,
    /// Whether the Dockerfile lets a warning be told.
    pub speaks: &'a (dyn Fn(&Diagnostic) -> bool + Sync),
    /// Agents by id.
    pub ssh: SshAgents,
    /// How many steps run at once, at most.
    pub jobs: usize,
    /// Of the steps that can begin, take the last first rather than the first.
    pub last_first: bool,
    /// What strata may do.
    pub privilege: Privilege,
    /// How files are fetched by http.
    pub http: ureq::Agent,
    /// What the result looks like.
    pub image: ImageOptions,
    /// How reports call the Dockerfile.
    pub dockerfile: String,
    /// Where it is, if it is a file of this machine: absolute. Reports find its folder by it.
    pub dockerfile_path: Option<Vec<u8>>,
    /// Which Dockerfile and context this is, among all that the store's records are of: a digest of what they are called.
    /// Explanations look there first.
    pub build: Digest,
    /// Whether all steps are to run again; only explanations look at it, the graph says it of each step.
    pub no_cache: bool,
    /// What to do about steps that are not cached.
    pub explain: Explain,
    /// How much of failed steps is kept.
    pub keep_failed: FailedBounds,
    /// What is built, for who finds a failed step of it: the Dockerfile's path.
    pub about: String,
}

/// What the resulting manifests and layers look like.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// How new layers are compressed.
    pub compression: Compression,
    /// Whether layers of the base are compressed anew when they are not so.
    pub force_compression: bool,
    /// Whether times in new layers are cut off at `source_date_epoch`.
    pub rewrite_timestamp: bool,
    /// Whether all times in new layers become `source_date_epoch`, earlier ones too.
    pub exact_timestamp: bool,
    /// The time of the result, seconds since 1970; `None` is now.
    pub source_date_epoch: Option<i64>,
    /// OCI's media types rather than docker's.
    pub oci_media_types: bool,
    /// Annotations of manifests.
    pub annotations: Annotations,
    /// The number that is written where an image has several platforms asked for.
    pub index: bool,
}

impl ImageOptions {
    /// What becomes of times in new layers.
    pub fn times(&self) -> Times {
        match self.source_date_epoch {
            Some(time) if self.exact_timestamp => Times::Exactly(time),
            Some(time) if self.rewrite_timestamp => Times::AtMost(time),
            _ => Times::Keep,
        }
    }
}

/// Annotations, by what they are put on.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    /// On each manifest.
    pub manifest: BTreeMap<String, String>,
    /// On a manifest's descriptor in the index.
    pub manifest_descriptor: BTreeMap<String, String>,
    /// On the index.
    pub index: BTreeMap<String, String>,
}

/// Brings layers of images that the plan resolved into the store.
pub trait Fetch: Sync {
    /// `Ok` means: the blob of layer `index` of `image` is in the store, verified. With `unpack` its files are needed, too, and
    /// may be unpacked while they come.
    fn layer(
        &self,
        image: &ResolvedImage,
        index: usize,
        unpack: bool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Builds what `request` asks for. `Ok` means: every blob of the result is in the store; it has no name yet. Giving it one
/// ([`Store::tag`], [`Store::keep`]) makes it durable, with one flush for all of it.
pub fn build(
    store: &Store,
    request: &Request<'_>,
    fetch: &dyn Fetch,
    events: &dyn Events,
    cancel: &AtomicBool,
) -> Result<Built, BuildError> {
    request.secrets.check()?;
    engine::Engine::new(store, request, fetch, events, cancel, Wanted::Images)?.build()
}

/// Builds what `request` asks for, where only the files of the result are wanted. `Ok` means: they are in the store, layer by
/// layer, unpacked or in a blob. There is no image, and no step's layer is compressed; a later [`build`] finds all steps cached.
pub fn build_files(
    store: &Store,
    request: &Request<'_>,
    fetch: &dyn Fetch,
    events: &dyn Events,
    cancel: &AtomicBool,
) -> Result<Vec<BuiltFiles>, BuildError> {
    request.secrets.check()?;
    engine::Engine::new(store, request, fetch, events, cancel, Wanted::Files)?.build_files()
}
