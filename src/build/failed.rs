//! What is kept of a RUN that failed: the directory it changed, its output, and all that made its world but secrets.

use std::path::PathBuf;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use crate::dockerfile::ast::{Network, Security};
use crate::plan::Ulimit;
use crate::plan::graph::{Op, RunMount, RunOp, SecretMount, SshMount, TmpfsMount, VertexId};
use crate::store::{FailedDraft, FailedStep, StackLayer};

use super::BuildError;
use super::engine::{Engine, Layers};
use super::log::Log;
use super::mounts::Shown;

/// The directory with what the step changed.
pub(super) const FILES: &str = "fs";

/// What a build that failed says of its step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptStep {
    /// Its name in the store.
    pub id: String,
    /// The file with its whole output.
    pub log: PathBuf,
    /// Whether its files are there, too.
    pub has_files: bool,
}

/// How a command failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It ended with this status; 128 + N when signal N ended it.
    Exited(i32),
    /// It could not be started.
    NotStarted(String),
}

/// A failure, until its build has ended and what is below it is in the store.
pub(super) struct Failure {
    pub(super) vertex: VertexId,
    pub(super) how: How,
    pub(super) below: Layers,
    pub(super) upper: PathBuf,
    pub(super) shown: Vec<Shown>,
    pub(super) log: Log,
}

/// What the store keeps of a failed RUN. Values of variables are in it, build arguments' too; secrets and proxies are not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FailedRun {
    /// How it failed.
    pub how: How,
    /// What was built: the Dockerfile's path.
    pub about: String,
    /// Its lines of the Dockerfile, from 1, end exclusive.
    pub lines: std::ops::Range<u32>,
    /// The command, shell included.
    pub command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Names of proxy variables: their values may hold passwords.
    pub(super) proxies: Vec<String>,
    pub(super) cwd: String,
    pub(super) user: String,
    pub(super) scripts: Vec<(String, String)>,
    pub(super) no_network: bool,
    /// Whether it ran with `--security=insecure`.
    pub insecure: bool,
    pub(super) hostname: String,
    pub(super) add_hosts: Vec<(String, String)>,
    pub(super) ulimits: Vec<(String, u64, u64)>,
    pub(super) shm_size_bytes: Option<u64>,
    pub(super) mounts: Vec<KeptMount>,
}

/// A mount of a failed RUN.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KeptMount {
    Bind {
        target: String,
        read_only: bool,
        /// In what follows.
        path: Vec<u8>,
        /// Which of the stacks.
        stack: Option<usize>,
        /// Directories beside the step's files, bottom first, above the stack.
        copies: Vec<String>,
    },
    Cache {
        target: String,
        id: String,
        /// See [`crate::store::CacheMount::name`].
        name: String,
        read_only: bool,
    },
    Tmpfs(TmpfsMount),
    Secret(SecretMount),
    Ssh(SshMount),
}

impl FailedRun {
    /// What a failed step of the store was.
    pub fn of(step: &FailedStep) -> Result<FailedRun, BuildError> {
        FailedRun::deserialize(&step.details).map_err(|source| BuildError::FailedStep {
            id: step.id.clone(),
            source,
        })
    }

    /// The ids of the secrets and of the ssh agents that it used.
    pub fn credentials(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut secrets, mut agents) = (Vec::new(), Vec::new());
        for mount in &self.mounts {
            match mount {
                KeptMount::Secret(SecretMount { id, .. }) => secrets.push(id.as_str()),
                KeptMount::Ssh(SshMount { id, .. }) => agents.push(id.as_str()),
                _ => {}
            }
        }
        (secrets, agents)
    }

    /// The names of the proxy variables that it had.
    pub fn proxies(&self) -> &[String] {
        &self.proxies
    }

    /// The step as a plan has it; its mounts apart.
    pub(super) fn op(&self) -> RunOp {
        RunOp {
            args: self.command.clone(),
            env: self.env.clone(),
            proxies: Vec::new(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            mounts: Vec::new(),
            scripts: self.scripts.clone(),
            network: if self.no_network {
                Network::None
            } else {
                Network::Default
            },
            security: if self.insecure {
                Security::Insecure
            } else {
                Security::Sandbox
            },
            hostname: self.hostname.clone(),
            add_hosts: self.add_hosts.clone(),
            ulimits: self
                .ulimits
                .iter()
                .map(|(name, soft, hard)| Ulimit {
                    name: name.clone(),
                    soft: *soft,
                    hard: *hard,
                })
                .collect(),
            shm_size_bytes: self.shm_size_bytes,
        }
    }
}

impl Engine<'_> {
    /// Notes a failure, to be kept when the build ends.
    pub(super) fn remember(&self, failure: Failure) {
        // A panic of another holder leaves a list that is whole.
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(failure);
    }

    /// Keeps what failed, when all layers below are in the store. A failure to do so takes nothing from the build's own error.
    pub(super) fn keep_failures(&self, error: &mut BuildError) {
        let failures = {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *failures)
        };
        // No bound, no step: who wants nothing kept is not made to wait.
        if self.request.keep_failed.count == 0 {
            return;
        }
        for failure in failures {
            let vertex = self.vertex_of(failure.vertex);
            match self.keep_failure(failure) {
                Ok(step) => {
                    if let BuildError::Step { name, kept, .. } = error
                        && *name == vertex.name
                    {
                        *kept = Some(Box::new(step));
                    }
                }
                Err(why) => {
                    let why = crate::dockerfile::with_causes(&why);
                    tracing::warn!(step = vertex.name, why, "cannot keep the failed step");
                }
            }
        }
    }

    fn keep_failure(&self, failure: Failure) -> Result<KeptStep, BuildError> {
        let vertex = self.vertex_of(failure.vertex);
        let Op::Run(op) = &vertex.op else {
            return Err(BuildError::NoOutput);
        };
        let dir = self.work.directory("failed")?;
        let moved = |from: &PathBuf, to: &str| {
            std::fs::rename(from, dir.join(to)).map_err(|source| BuildError::Host {
                action: "keep",
                path: from.clone(),
                source,
            })
        };
        moved(&failure.upper, FILES)?;
        let mut stacks = vec![stack(&failure.below)?];
        let mut mounts = Vec::new();
        let mut copied = 0;
        for shown in failure.shown {
            mounts.push(match shown {
                Shown::Bind {
                    target,
                    read_only,
                    path,
                    layers,
                    copies,
                } => {
                    let mut names = Vec::new();
                    for copy in &copies {
                        let name = format!("bind.{copied}");
                        copied += 1;
                        moved(copy, &name)?;
                        names.push(name);
                    }
                    let stack = match layers {
                        None => None,
                        Some(layers) => {
                            stacks.push(stack(&layers)?);
                            Some(stacks.len() - 1)
                        }
                    };
                    KeptMount::Bind {
                        target,
                        read_only,
                        path,
                        stack,
                        copies: names,
                    }
                }
                Shown::Cache(mount, name) => match mount {
                    RunMount::Cache {
                        target,
                        id,
                        read_only,
                        ..
                    } => KeptMount::Cache {
                        target,
                        id,
                        name,
                        read_only,
                    },
                    _ => continue,
                },
                Shown::Plain(mount) => match plain(mount) {
                    Some(mount) => mount,
                    None => continue,
                },
            });
        }
        let run = FailedRun {
            how: failure.how,
            about: self.request.about.clone(),
            lines: vertex.lines.clone(),
            command: op.args.clone(),
            env: op.env.clone(),
            proxies: op.proxies.iter().map(|(name, _)| name.clone()).collect(),
            cwd: op.cwd.clone(),
            user: op.user.clone(),
            scripts: op.scripts.clone(),
            no_network: op.network == Network::None,
            insecure: op.security == Security::Insecure,
            hostname: op.hostname.clone(),
            add_hosts: op.add_hosts.clone(),
            ulimits: op
                .ulimits
                .iter()
                .map(|limit| (limit.name.clone(), limit.soft, limit.hard))
                .collect(),
            shm_size_bytes: op.shm_size_bytes,
            mounts,
        };
        let details = serde_json::to_value(&run).map_err(|source| BuildError::FailedStep {
            id: vertex.name.clone(),
            source,
        })?;
        let draft = FailedDraft {
            dir,
            name: vertex.name.clone(),
            stacks,
            details,
        };
        let log = draft.log();
        failure
            .log
            .finish(&log, &self.work)
            .map_err(|source| BuildError::Host {
                action: "write",
                path: log,
                source,
            })?;
        let step = self.store.keep_failed(draft, &self.request.keep_failed)?;
        let kept = self.store.failed_step(&step.id)?;
        Ok(KeptStep {
            log: kept.log(),
            has_files: step.left_out_bytes.is_none(),
            id: step.id,
        })
    }
}

/// The layers of a stack as the store knows them; waits for their commits.
pub(super) fn stack(layers: &Layers) -> Result<Vec<StackLayer>, BuildError> {
    let committed = layers.iter().map(|snapshot| snapshot.wait());
    committed
        .map(|committed| committed.map(|c| (c.blob.clone(), c.diff_id)))
        .collect()
}

/// A mount that is given again as the plan has it.
fn plain(mount: RunMount) -> Option<KeptMount> {
    Some(match mount {
        RunMount::Tmpfs(mount) => KeptMount::Tmpfs(mount),
        RunMount::Secret(mount) => KeptMount::Secret(mount),
        RunMount::Ssh(mount) => KeptMount::Ssh(mount),
        RunMount::Bind { .. } | RunMount::Cache { .. } => return None,
    })
}
