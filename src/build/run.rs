//! RUN: a command in a sandbox over the layers below, and what it changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dockerfile::ast::{Network, Security};
use crate::layer::Kind;
use crate::plan::graph::{RunOp, Vertex, VertexId};
use crate::sandbox::{self, Limits, Mount, SandboxError, Spec, Status, Stdio, overlay};
use crate::store::Work;

use super::commit::Made;
use super::engine::{Engine, Layers, Outcome, make_layer_dir, open_dir};
use super::event::{EventKind, StepId};
use super::failed::{Failure, How};
use super::key::Key;
use super::log::Log;
use super::mounts::Mounted;
use super::transfer::Part;
use super::{BuildError, tree, users};

/// docker's size of /dev/shm.
const SHM_BYTES: u64 = 64 << 20;

/// How much of a step's output is kept for the message of its failure.
const TAIL_BYTES: usize = 16 * 1024;

/// How many lines of it are shown.
const TAIL_LINES: usize = 20;

/// What output is read in.
const CHUNK_BYTES: usize = 16 * 1024;

/// How often a running step looks whether the build was canceled.
const POLL: std::time::Duration = std::time::Duration::from_millis(25);

impl Engine<'_> {
    /// Adds what a RUN depends on to its key; gives the files of its bind mounts.
    pub(super) fn run_key(
        &self,
        op: &RunOp,
        vertex: &Vertex,
        inputs: &BTreeMap<VertexId, Outcome>,
        key: &mut Key,
    ) -> Result<Vec<Part>, BuildError> {
        op.args.iter().for_each(|arg| key.add("command", arg));
        op.env
            .iter()
            .for_each(|(name, value)| key.add_hidden(&format!("environment {name}"), value));
        key.add("directory", &op.cwd);
        key.add("user", &op.user);
        key.add("platform", &vertex.platform.to_string());
        key.add("hostname", &op.hostname);
        let network = match op.network {
            Network::Default => "default",
            Network::None => "none",
            Network::Host => "host",
        };
        key.add("network", network);
        let security = match op.security {
            Security::Sandbox => "sandbox",
            Security::Insecure => "insecure",
        };
        key.add("security", security);
        op.add_hosts
            .iter()
            .for_each(|(name, _)| key.add("extra host", name));
        op.ulimits
            .iter()
            .for_each(|limit| key.add("ulimit", &limit.to_string()));
        key.add(
            "shm size",
            &op.shm_size_bytes.unwrap_or(SHM_BYTES).to_string(),
        );
        op.scripts
            .iter()
            .for_each(|(name, text)| key.add(&format!("script {name}"), text));
        self.mounts_key(op, inputs, key)
    }

    /// Runs the command. `Ok` means: it ended with status 0, and what it changed is in the upper directory.
    pub(super) fn run(
        &self,
        id: VertexId,
        op: &RunOp,
        below: &Layers,
        inputs: &BTreeMap<VertexId, Outcome>,
        log_tail: &mut Vec<String>,
    ) -> Result<Made, BuildError> {
        let lowers = self.lowers(below)?;
        let dir = self.work.directory("run")?;
        let upper = dir.join("fs");
        make_layer_dir(&upper)?;
        self.copy_root_attributes(below, &upper)?;
        let rootfs = self.overlay(&lowers, &upper, &dir)?;
        let user = users::resolve(&op.user, &|path| read_inside(&rootfs, path))?;

        let mut env: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &str, value: OsString| match env.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => env.push((name.into(), value)),
        };
        op.env
            .iter()
            .chain(&op.proxies)
            .for_each(|(name, value)| set(name, value.into()));
        if !op.env.iter().any(|(name, _)| name == "HOME") {
            set("HOME", user.home.clone().into());
        }
        let Mounted {
            mounts,
            env: more,
            guards,
            shown,
            secrets,
        } = self.mounts(self.vertex_of(id).no_cache, op, inputs)?;
        more.into_iter().for_each(|(name, value)| set(&name, value));
        let (out, stdout) = std::io::pipe().map_err(pipe_error)?;
        let (err, stderr) = std::io::pipe().map_err(pipe_error)?;
        let stdio = Stdio::Capture {
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let spec = spec(op, rootfs, user, env, mounts, stdio);
        let tail = Mutex::new(Tail {
            last: Vec::new(),
            log: Log::new(&secrets),
        });
        let done = AtomicBool::new(false);
        let ran = std::thread::scope(|scope| {
            let child = sandbox::spawn(spec)?;
            let (killer, created) = (child.killer(), child.created().clone());
            // They end with the last process that could write, and the scope with them.
            for (stream, stderr) in [(out, false), (err, true)] {
                let tail = &tail;
                scope.spawn(move || self.forward(StepId(id.0), stream, stderr, tail));
            }
            let ended = &done;
            let watcher = scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    if self.is_canceled() {
                        return killer.kill();
                    }
                    std::thread::park_timeout(POLL);
                }
                Ok(())
            });
            let status = child.wait();
            done.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            watcher.join().expect("the watcher does not panic")?;
            status.map(|status| (status, created))
        });
        drop(guards);
        let failed = |code| {
            let command = op.args.join(" ");
            BuildError::ExitCode { command, code }
        };
        let tail = tail
            .into_inner()
            .expect("adding to the tail does not panic");
        *log_tail = tail.lines();
        let failure = |how| Failure {
            vertex: id,
            how,
            below: below.clone(),
            upper: upper.clone(),
            shown,
            log: tail.log,
        };
        let (status, created) = match ran {
            Ok(ran) => ran,
            Err(
                error @ (SandboxError::CommandNotFound { .. }
                | SandboxError::CommandNotExecutable { .. }),
            ) => {
                self.remember(failure(How::NotStarted(error.to_string())));
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        if self.is_canceled() && status != Status::Exited(0) {
            return Err(BuildError::Canceled);
        }
        let cleared = open_dir(&upper)
            .and_then(|root| Ok(created.remove_stubs(std::os::fd::AsFd::as_fd(&root))?));
        if !status.success() {
            // What the command said counts, not what is left of mount points.
            self.remember(failure(How::Exited(status.code())));
            return Err(failed(status.code()));
        }
        cleared?;
        // Before anything stands on it. What is left of these where a layer below is not packed yet, its publication deals with.
        if below.iter().all(|layer| layer.is_known()) {
            let ownership = self.store.tree_options().ownership;
            let root = Arc::new(open_dir(&upper)?);
            crate::layer::remove_unchanged_directories(&root, &self.stack(below)?, ownership)?;
        }
        Ok(Made::Upper { dir: upper })
    }

    /// The layers below with an upper directory on top, as a mount that no one else sees.
    pub(super) fn overlay(
        &self,
        lowers: &[Arc<OwnedFd>],
        upper: &Path,
        dir: &Path,
    ) -> Result<OwnedFd, BuildError> {
        let work = dir.join("work");
        std::fs::create_dir(&work).map_err(|source| BuildError::Host {
            action: "create",
            path: work.clone(),
            source,
        })?;
        // A crash throws the upper directory away, so syncing it would be for nobody.
        let options = overlay::Options {
            userxattr: self.request.privilege.userxattr(),
            volatile: true,
        };
        let upper = overlay::Upper {
            changes: upper,
            work: &work,
        };
        Ok(overlay::mount(
            &by_descriptor(lowers),
            Some(upper),
            options,
        )?)
    }

    // The root directory belongs to the layers below; an overlay shows its upper directory's.
    fn copy_root_attributes(&self, below: &Layers, upper: &Path) -> Result<(), BuildError> {
        // No layer that a build makes holds the root itself, so only an image's layers say anything about it. The others may still
        // be on their way into the store, and are not waited for.
        let image: Layers = below.iter().take_while(|l| l.is_image()).cloned().collect();
        let stack = self.stack(&image)?;
        let Some(root) = stack
            .lookup(b"")
            .filter(|f| !matches!(f.entry.kind, Kind::Directory { implied: true, .. }))
        else {
            return Ok(());
        };
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| BuildError::Host {
            action: "change",
            path: upper.to_owned(),
            source,
        };
        let meta = &root.entry.meta;
        if (meta.uid, meta.gid) != (0, 0) && self.request.privilege.can_chown() {
            std::os::unix::fs::chown(upper, Some(meta.uid), Some(meta.gid)).map_err(failed)?;
        }
        std::fs::set_permissions(upper, std::fs::Permissions::from_mode(meta.mode)).map_err(failed)
    }

    // Passes a stream of the command's on until its end.
    fn forward(&self, step: StepId, mut stream: PipeReader, stderr: bool, tail: &Mutex<Tail>) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let n = match stream.read(&mut buffer) {
                Ok(n @ 1..) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                // A pipe that cannot be read has no more to say than one at its end.
                Ok(0) | Err(_) => return,
            };
            let data = buffer[..n].to_vec();
            tail.lock()
                .expect("adding to the tail does not panic")
                .push(stderr, &data, &self.work);
            self.events.event(EventKind::Output { step, stderr, data });
        }
    }
}

/// A sandbox for a command.
pub(super) fn spec(
    op: &RunOp,
    rootfs: OwnedFd,
    user: users::User,
    env: Vec<(OsString, OsString)>,
    mounts: Vec<Mount>,
    stdio: Stdio,
) -> Spec {
    Spec {
        rootfs: Arc::new(rootfs),
        args: op.args.iter().map(OsString::from).collect(),
        env,
        cwd: op.cwd.clone().into(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        hostname: op.hostname.clone(),
        mounts,
        network: if op.network == Network::None {
            sandbox::Network::None
        } else {
            sandbox::Network::Host
        },
        security: match op.security {
            Security::Sandbox => sandbox::Security::Default,
            Security::Insecure => sandbox::Security::Insecure,
        },
        rlimits: op
            .ulimits
            .iter()
            .map(|limit| (limit.name.clone(), limit.soft, limit.hard))
            .collect(),
        limits: Limits::default(),
        shm_size_bytes: op.shm_size_bytes.unwrap_or(SHM_BYTES),
        read_only: false,
        stdio,
    }
}

/// Paths that stay right while a commit moves the directories.
pub(super) fn by_descriptor(directories: &[Arc<OwnedFd>]) -> Vec<PathBuf> {
    directories.iter().map(|fd| place(fd)).collect()
}

/// A path that leads to a descriptor's directory, wherever that has been moved.
pub(super) fn place(directory: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}

fn pipe_error(source: std::io::Error) -> BuildError {
    BuildError::Host {
        action: "open a pipe to",
        path: PathBuf::from("the step"),
        source,
    }
}

/// A small file as the command will see it.
pub(super) fn read_inside(root: &OwnedFd, path: &str) -> Result<Option<Vec<u8>>, BuildError> {
    let failed = |source| BuildError::ReadRootfs {
        path: format!("/{path}"),
        source,
    };
    // A pipe or a device there must not be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(tree::SMALL_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

// A step's output: the last of it for the message of a failure, and all of it.
struct Tail {
    last: Vec<u8>,
    log: Log,
}

impl Tail {
    fn push(&mut self, stderr: bool, data: &[u8], work: &Work) {
        self.last.extend_from_slice(data);
        if self.last.len() > 2 * TAIL_BYTES {
            self.last.drain(..self.last.len() - TAIL_BYTES);
        }
        self.log.push(stderr, data, work);
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.last);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_bounded_and_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(dir.path(), Default::default()).unwrap();
        let work = store.work().unwrap();
        let mut tail = Tail {
            last: Vec::new(),
            log: Log::new(&[]),
        };
        for i in 0..10_000 {
            tail.push(false, format!("line {i}\n").as_bytes(), &work);
        }
        let lines = tail.lines();
        assert_eq!(
            (lines.len(), lines[TAIL_LINES - 1].as_str()),
            (TAIL_LINES, "line 9999")
        );
    }
}
