//! What can end a build.

use std::path::PathBuf;
use std::sync::Arc;

use crate::dockerfile::{Diagnostic, Span};
use crate::layer::LayerError;
use crate::oci::DiffId;
use crate::plan::graph::{CopySource, Op, RunMount, SecretMount, SshMount, Vertex};
use crate::sandbox::SandboxError;
use crate::store::StoreError;

use super::Explanation;
use super::copy::CopyError;
use super::failed::KeptStep;
use super::mode::ModeError;

/// Why a build ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed.
    #[error("{source}")]
    Step {
        /// As events and the plan name it: `[build 2/5] RUN make`.
        name: String,
        /// The lines of the Dockerfile, from 1, end exclusive; empty for what no line says.
        lines: std::ops::Range<u32>,
        /// The place in them that is to blame.
        span: Span,
        /// The last lines of its output.
        log_tail: Vec<String>,
        /// What is kept of it, if anything is.
        kept: Option<Box<KeptStep>>,
        /// Why.
        source: Arc<BuildError>,
    },
    /// A step that was expected to be cached is not.
    #[error("expected {} to be cached: {}", .0.step, reasons(.0))]
    NotCached(Explanation),
    /// What BuildKit would do without a word, in a strict build.
    #[error("{}{}", .0.message, .0.rule.map_or_else(String::new, |rule| format!(" [{rule}]")))]
    Footgun(Box<Diagnostic>),
    /// The user ended it.
    #[error("build canceled")]
    Canceled,
    /// A command ended with a status other than 0.
    #[error("process \"{command}\" did not complete successfully: exit code: {code}")]
    ExitCode {
        /// The command, shell included.
        command: String,
        /// Its status; 128 + N when signal N ended it.
        code: i32,
    },
    /// A COPY, ADD or WORKDIR that cannot be done.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A `--chmod` that is none.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// A source that is in the context but hidden by `.dockerignore`.
    #[error("{path:?}: not found in the build context: excluded by line {line} of {file}")]
    Ignored {
        /// As written.
        path: String,
        /// The line of the ignore file, from 1.
        line: usize,
        /// The ignore file.
        file: String,
    },
    /// A file of a context that cannot be read.
    #[error("cannot read {} in the build context", path.display())]
    Context {
        /// On the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A context that the build does not have.
    #[error("no build context named {name:?}: give one with --build-context {name}=PATH")]
    NoContext {
        /// Its name.
        name: String,
    },
    /// Files are asked for in a build of a Dockerfile alone.
    #[error(
        "there are no files to copy: the Dockerfile came without a build context; give a folder as CONTEXT and the Dockerfile with -f -"
    )]
    NoFiles,
    /// A context that is not a folder.
    #[error("the build context {} is not a directory", path.display())]
    NotAFolder {
        /// On the host.
        path: PathBuf,
    },
    /// A graph without a target.
    #[error("nothing to build: the plan has no output")]
    NoOutput,
    /// A context that should be an archive.
    #[error("the build context is no tar archive (plain, gzip, bzip2, xz or zstd)")]
    NotAnArchive,
    /// A file of the image that a step needs and cannot read.
    #[error("cannot read {path} of the image")]
    ReadRootfs {
        /// In the image.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A layer's table that says nothing about a file's content.
    #[error(
        "the table of contents does not know the content of {path}; run `strata check --repair`"
    )]
    NoDigest {
        /// In the image.
        path: String,
    },
    /// A layer that is in the store unpacked only, and whose files are not what they were.
    #[error(
        "the unpacked layer {layer} is damaged{}; run `strata check --full --repair` and build again",
        if source.is_some() { "" } else { ": it has another diffID now" }
    )]
    DamagedLayer {
        /// Which.
        layer: DiffId,
        /// What does not fit; `None` if all files do.
        #[source]
        source: Option<Box<LayerError>>,
    },
    /// `USER` names nobody that the image knows.
    #[error("unable to find user {user}: no matching entries in passwd file")]
    NoUser {
        /// As written.
        user: String,
    },
    /// `USER` names no group that the image knows.
    #[error("unable to find group {group}: no matching entries in group file")]
    NoGroup {
        /// As written.
        group: String,
    },
    /// A secret that a step requires.
    #[error(
        "secret {id}: not found: give it with --secret id={id},src=FILE or id={id},env=VARIABLE"
    )]
    NoSecret {
        /// Its id.
        id: String,
    },
    /// A secret that cannot be read.
    #[error("cannot read secret {id} from {from}")]
    ReadSecret {
        /// Its id.
        id: String,
        /// The file or variable.
        from: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A secret that is larger than any secret should be.
    #[error("secret {id} is too big: at most 500 KiB")]
    SecretSize {
        /// Its id.
        id: String,
    },
    /// An agent that a step requires.
    #[error("no ssh agent {id:?} was forwarded: give it with --ssh {id}")]
    NoSsh {
        /// Its id.
        id: String,
    },
    /// An agent that cannot be reached.
    #[error("cannot forward the ssh agent {id:?} at {path}")]
    Ssh {
        /// Its id.
        id: String,
        /// The socket.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A mount whose source is not there.
    #[error(
        "mount source {path:?}: not found{}",
        .nearest.as_ref().map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
    )]
    MountSource {
        /// As written.
        path: String,
        /// What is there instead, if a name comes near.
        nearest: Option<String>,
    },
    /// A download failed.
    #[error("cannot fetch {url}: {why}")]
    Fetch {
        /// Without credentials.
        url: String,
        /// The server's or the network's answer.
        why: String,
    },
    /// A download with other content than `--checksum` says.
    #[error("digest mismatch for {url}: expected {expected}, got {actual}")]
    Checksum {
        /// Without credentials.
        url: String,
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// A git operation failed.
    #[error("git: cannot {action} {url}: {why}")]
    Git {
        /// What was tried.
        action: &'static str,
        /// Without credentials.
        url: String,
        /// git's own words.
        why: String,
    },
    /// An address of a repository that cannot be understood.
    #[error("invalid git URL {url}: {why}")]
    GitUrl {
        /// Without credentials.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A host file that a step needs.
    #[error("cannot {action} {}", path.display())]
    Host {
        /// What was tried.
        action: &'static str,
        /// On the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `host-gateway` without a network to have a gateway.
    #[error("unable to derive the address of host-gateway for {name}")]
    HostGateway {
        /// The host's name.
        name: String,
    },
    /// An image's layers cannot be had.
    #[error("cannot get layer {layer} of {image}")]
    Fetching {
        /// The image.
        image: String,
        /// Its digest.
        layer: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer cannot be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// What is kept of a failed step, from another version of strata.
    #[error("what is kept of the failed step {id} cannot be understood")]
    FailedStep {
        /// Its id.
        id: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A failed step whose files were too many to be kept.
    #[error("the files of the failed step {id} were not kept: they were too many ({bytes} bytes)")]
    NoFailedFiles {
        /// Its id.
        id: String,
        /// How many they were.
        bytes: u64,
    },
    /// Nothing to open a failed step with.
    #[error("there is no shell in the image: looked for {}", tried.join(", "))]
    NoShell {
        /// What was looked for.
        tried: Vec<String>,
    },
    /// Another step's error, which ended this one too.
    #[error(transparent)]
    Shared(#[from] Arc<BuildError>),
}

fn reasons(why: &Explanation) -> String {
    let reasons: Vec<String> = why.reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

impl BuildError {
    /// The error of a step, if it is one, looked for through what wraps it.
    pub fn step(&self) -> Option<&BuildError> {
        match self {
            BuildError::Step { .. } => Some(self),
            BuildError::Shared(inner) => inner.step(),
            _ => None,
        }
    }

    /// The cause itself, of a step's error and of one that is shared.
    pub fn cause(&self) -> &BuildError {
        match self {
            BuildError::Step { source, .. } | BuildError::Shared(source) => source.cause(),
            other => other,
        }
    }

    /// The word of `vertex` that is to blame.
    pub(super) fn place(&self, vertex: &Vertex) -> Span {
        let spans = &vertex.spans;
        let source = |wanted: &str| {
            let Op::Copy(copy) = &vertex.op else {
                return None;
            };
            let is_it = |s: &CopySource| match s {
                CopySource::Path(path) => path == wanted,
                CopySource::Http { url, .. } | CopySource::Git { url, .. } => {
                    crate::plan::redacted(url) == wanted
                }
                CopySource::Inline { .. } => false,
            };
            let at = copy.sources.iter().position(is_it)?;
            spans.sources.get(at)
        };
        let mount = |is_it: &dyn Fn(&RunMount) -> bool| {
            let Op::Run(run) = &vertex.op else {
                return None;
            };
            spans.mounts.get(run.mounts.iter().position(is_it)?)
        };
        let span = match self.cause() {
            BuildError::Footgun(found) => Some(&found.span),
            BuildError::Copy(CopyError::NotFound { path, .. })
            | BuildError::Copy(CopyError::Pattern { pattern: path })
            | BuildError::Copy(CopyError::TooManyLinks { path })
            | BuildError::Ignored { path, .. } => source(path).or_else(|| {
                mount(&|m| matches!(m, RunMount::Bind { source, .. } if source == path))
            }),
            BuildError::Fetch { url, .. }
            | BuildError::Git { url, .. }
            | BuildError::GitUrl { url, .. }
            | BuildError::Checksum { url, .. } => source(url),
            BuildError::Copy(
                CopyError::NotADirectory { .. }
                | CopyError::FileOverDirectory { .. }
                | CopyError::DirectoryOverFile { .. },
            ) => spans.target.as_ref(),
            BuildError::NoFiles => spans.sources.first(),
            BuildError::MountSource { path, .. } => {
                mount(&|m| matches!(m, RunMount::Bind { source, .. } if source == path))
            }
            BuildError::NoSecret { id }
            | BuildError::SecretSize { id }
            | BuildError::ReadSecret { id, .. } => {
                mount(&|m| matches!(m, RunMount::Secret(SecretMount { id: own, .. }) if own == id))
            }
            BuildError::NoSsh { id } | BuildError::Ssh { id, .. } => {
                mount(&|m| matches!(m, RunMount::Ssh(SshMount { id: own, .. }) if own == id))
            }
            _ => None,
        };
        span.copied().unwrap_or(spans.instruction)
    }

    /// What to do about it, where that is known and not said already.
    pub fn hint(&self) -> Option<String> {
        Some(match self.cause() {
            BuildError::Footgun(found) => return found.hint.clone(),
            BuildError::Copy(CopyError::NotFound { .. }) => {
                "paths are counted from the root of the build context; with --from, from the root of the image".to_owned()
            }
            BuildError::Ignored { file, line, path } => format!(
                "change line {line} of {file}, or bring it back with a line !{}",
                path.trim_start_matches("./").trim_start_matches('/')
            ),
            BuildError::Copy(CopyError::NotADirectory { .. } | CopyError::DirectoryOverFile { .. }) => {
                "there is a file already: choose another destination, or remove it in a RUN before".to_owned()
            }
            BuildError::Copy(CopyError::FileOverDirectory { .. }) => {
                "there is a folder already: end the destination in a slash to copy into it, or remove it in a RUN before".to_owned()
            }
            BuildError::Copy(CopyError::Pattern { .. }) => {
                "a [ that is meant as it is, is written [[]".to_owned()
            }
            BuildError::NoUser { .. } | BuildError::NoGroup { .. } => {
                "make it in a RUN before, or give a number".to_owned()
            }
            BuildError::Git { why, .. } if why.contains("(publickey") => {
                "--ssh default lends the build your ssh agent; ssh-add -l shows its keys".to_owned()
            }
            BuildError::Git { why, .. } if why.contains("Host key verification failed") => {
                "the host's key is another one than ~/.ssh/known_hosts has: ssh-keygen -R HOST forgets it, if that is right".to_owned()
            }
            BuildError::Checksum { actual, .. } => {
                format!("if what came is what you want, --checksum={actual}")
            }
            _ => return None,
        })
    }

    /// Whether the user's own request ended the build.
    pub fn is_canceled(&self) -> bool {
        match self {
            BuildError::Canceled => true,
            BuildError::Step { source, .. } | BuildError::Shared(source) => source.is_canceled(),
            _ => false,
        }
    }
}
