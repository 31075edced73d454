//! The build graph: what to do, to what, and what comes of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dockerfile::ast::{Network, Security, Sharing};
use crate::dockerfile::{Diagnostic, Span};
use crate::oci::{ImageConfig, Platform};

use super::options::{ResolvedImage, Ulimit};
use super::outline::Outline;

/// A vertex's place in [`Graph::vertices`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VertexId(pub usize);

/// What to do. Vertices come after everything they read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    /// In topological order.
    pub vertices: Vec<Vertex>,
    /// One for each platform, in the order asked for.
    pub outputs: Vec<Output>,
    /// What the linter found on the way.
    pub warnings: Vec<Diagnostic>,
    /// What the target takes.
    pub outline: Outline,
}

/// One instruction (or one base image) on one stack of layers.
#[derive(Clone, PartialEq, Debug)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// The vertex whose root filesystem it starts from; `None` is an empty one.
    pub base: Option<VertexId>,
    /// As BuildKit shows it: `[build 2/5] RUN make`.
    pub name: String,
    /// The stage's name, or `stage-N`.
    pub stage: String,
    /// The lines of the Dockerfile, from 1, end exclusive; empty for what no line says.
    pub lines: std::ops::Range<u32>,
    /// Where its words stand.
    pub spans: Spans,
    /// The history entry's `created_by`, without its base's entries; empty for base images.
    pub created_by: String,
    /// Where it runs.
    pub platform: Platform,
    /// Whether an earlier result must not be used.
    pub no_cache: bool,
    /// The build arguments that are declared here, whether or not it uses them; only explanations look at it.
    pub arguments: Vec<String>,
}

/// The places of an instruction's words in the Dockerfile; of a trigger, all are its `FROM`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spans {
    /// The instruction's name.
    pub instruction: Span,
    /// Sources of a COPY or an ADD, as many as it has.
    pub sources: Vec<Span>,
    /// The destination of a COPY or an ADD, the path of a WORKDIR.
    pub target: Option<Span>,
    /// `--chown`
    pub chown: Option<Span>,
    /// Mounts of a RUN, as many as it has.
    pub mounts: Vec<Span>,
}

/// What a vertex does.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Layers of an image; no `base`.
    Image(Arc<ResolvedImage>),
    /// A command in a sandbox; always a layer.
    Run(RunOp),
    /// COPY or ADD; always a layer.
    Copy(CopyOp),
    /// WORKDIR of a path other than `/`; always a layer, maybe an empty one.
    Workdir(WorkdirOp),
}

/// Where files of a COPY or a bind mount come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// The build context.
    Context,
    /// A folder, git repository or archive given by `--build-context`, by its name.
    Named(String),
    /// The root filesystem of another vertex; `None` is an empty one (`scratch`).
    Vertex(Option<VertexId>),
}

/// A RUN.
#[derive(Clone, PartialEq, Debug)]
pub struct RunOp {
    /// The command, shell included.
    pub args: Vec<String>,
    /// The environment without proxies: the image's, then arguments that ENV does not override. `HOME` is not in it unless set.
    pub env: Vec<(String, String)>,
    /// Proxy variables, both cases; in the environment but never in a key or an image.
    pub proxies: Vec<(String, String)>,
    /// The working directory, absolute.
    pub cwd: String,
    /// `USER`, unresolved; empty for root.
    pub user: String,
    /// The mounts, in order.
    pub mounts: Vec<RunMount>,
    /// Scripts of here-documents with `#!`: name below `/dev/pipes/`, and content.
    pub scripts: Vec<(String, String)>,
    /// Which network.
    pub network: Network,
    /// Which restrictions.
    pub security: Security,
    /// The host name.
    pub hostname: String,
    /// More lines for `/etc/hosts`: name and address (or `host-gateway`).
    pub add_hosts: Vec<(String, String)>,
    /// `NAME=SOFT:HARD`
    pub ulimits: Vec<Ulimit>,
    /// The size of `/dev/shm` in bytes; `None` for 64 MiB.
    pub shm_size_bytes: Option<u64>,
}

/// A mount of a RUN, expanded. Targets are absolute and clean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunMount {
    /// Files of elsewhere; writes are allowed unless read-only, and dropped.
    Bind {
        /// Where it appears.
        target: String,
        /// Whose files.
        origin: Origin,
        /// Which path there.
        source: String,
        /// Whether it can be written to.
        read_only: bool,
    },
    /// A folder that outlives the build.
    Cache {
        /// Where it appears.
        target: String,
        /// Its identity, namespace included.
        id: String,
        /// What a new one starts from: nothing, or this origin and path.
        from: Option<(Origin, String)>,
        /// Who else may use it now.
        sharing: Sharing,
        /// Whether it can be written to.
        read_only: bool,
        /// The mode of a new one.
        mode: u32,
        /// The owner of a new one.
        uid: u32,
        /// The group of a new one.
        gid: u32,
    },
    /// A folder in memory.
    Tmpfs(TmpfsMount),
    /// A secret.
    Secret(SecretMount),
    /// An ssh agent's socket; `SSH_AUTH_SOCK` of the first one.
    Ssh(SshMount),
}

/// A folder in memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Where it appears.
    pub target: String,
    /// Its size in bytes; `None` is the kernel's default.
    pub size_bytes: Option<u64>,
}

/// Where a command finds a secret; not the secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecretMount {
    /// Which.
    pub id: String,
    /// The file's path, unless it is a variable only.
    pub target: Option<String>,
    /// The variable's name.
    pub env: Option<String>,
    /// The file's mode.
    pub mode: u32,
    /// The file's owner.
    pub uid: u32,
    /// The file's group.
    pub gid: u32,
    /// Whether the step fails without it.
    pub required: bool,
}

/// Where a command finds an ssh agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SshMount {
    /// Which.
    pub id: String,
    /// The socket's path.
    pub target: String,
    /// The socket's mode.
    pub mode: u32,
    /// The socket's owner.
    pub uid: u32,
    /// The socket's group.
    pub gid: u32,
    /// Whether the step fails without it.
    pub required: bool,
}

/// A COPY or an ADD.
#[derive(Clone, PartialEq, Debug)]
pub struct CopyOp {
    /// Whether it is an ADD: archives are unpacked and URLs fetched.
    pub add: bool,
    /// Whose files the paths are.
    pub origin: Origin,
    /// What to copy, in order.
    pub sources: Vec<CopySource>,
    /// Where to, absolute; a slash at the end says a folder.
    pub destination: String,
    /// `--chown`: `USER[:GROUP]`, names looked up in the base's files.
    pub chown: Option<String>,
    /// `--chmod`: octal or symbolic, checked.
    pub chmod: Option<String>,
    /// `--link` (never with `--chmod`): a layer that does not look at the base.
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub excludes: Vec<String>,
    /// `--unpack`; `None` for the rule of the source's kind.
    pub unpack: Option<bool>,
}

/// One source of a COPY or an ADD.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum CopySource {
    /// A path, or a pattern, of the origin.
    Path(String),
    /// A here-document.
    Inline {
        /// The file's name.
        name: String,
        /// Its bytes.
        content: String,
    },
    /// A file by http or https.
    Http {
        /// The URL.
        url: String,
        /// `--checksum`
        checksum: Option<crate::oci::Digest>,
    },
    /// A git repository.
    Git {
        /// The URL, as given: a fragment or query may name ref and folder.
        url: String,
        /// `--keep-git-dir`
        keep_git_dir: bool,
        /// `--checksum`: a commit or its beginning.
        checksum: Option<String>,
    },
}

/// A WORKDIR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkdirOp {
    /// The absolute, clean path.
    pub path: String,
    /// `USER` at this point, who owns what is made; unresolved.
    pub user: String,
}

/// What comes out for one platform.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Which.
    pub platform: Platform,
    /// The vertex with the image's layers; `None` for no layers at all.
    pub vertex: Option<VertexId>,
    /// The base image's configuration with all instructions applied; `rootfs` and `history` are the base's, `created` unset.
    pub config: ImageConfig,
    /// The history to append, in order.
    pub history: Vec<HistoryStep>,
}

/// A history entry to be dated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryStep {
    /// As BuildKit writes it.
    pub created_by: String,
    /// The vertex that made its layer; `None` for an `empty_layer`.
    pub vertex: Option<VertexId>,
    /// The instruction.
    pub span: Span,
}

impl Graph {
    /// The vertex.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// The vertices whose layers are in an output.
    pub fn in_outputs(&self) -> BTreeSet<VertexId> {
        let mut found = BTreeSet::new();
        for output in &self.outputs {
            let mut at = output.vertex;
            while let Some(id) = at.filter(|id| found.insert(*id)) {
                at = self.vertex(id).base;
            }
        }
        found
    }

    /// Everything a vertex reads: its base first, then the origins of its files, each once.
    pub fn inputs(&self, id: VertexId) -> Vec<VertexId> {
        let vertex = self.vertex(id);
        let mut inputs: Vec<VertexId> = vertex.base.into_iter().collect();
        for origin in vertex.op.origins() {
            if let Origin::Vertex(Some(from)) = origin
                && !inputs.contains(from)
            {
                inputs.push(*from);
            }
        }
        inputs
    }
}

impl Op {
    /// Where it reads files.
    pub fn origins(&self) -> Vec<&Origin> {
        match self {
            Op::Image(_) | Op::Workdir(_) => Vec::new(),
            Op::Copy(copy) => vec![&copy.origin],
            Op::Run(run) => (run.mounts.iter())
                .filter_map(|mount| match mount {
                    RunMount::Bind { origin, .. } => Some(origin),
                    RunMount::Cache { from, .. } => from.as_ref().map(|(origin, _)| origin),
                    _ => None,
                })
                .collect(),
        }
    }
}
