//! RUN: a command in a sandbox over the layers below, and what it changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{PipeReader, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dockerfile::ast::{Network, Security, Sharing};
use crate::layer::Kind;
use crate::plan::graph::{Origin, RunMount, RunOp, Vertex, VertexId};
use crate::sandbox::{
    self, Bind, FileMount, Limits, Mount, SandboxError, Spec, Status, Stdio, overlay,
};

use super::engine::{Engine, Layers, Made, Outcome, make_layer_dir, open_dir};
use super::event::{EventKind, StepId};
use super::key::{FilesHash, Key};
use super::transfer::hash_files;
use super::{BuildError, ssh, tree, users};

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

// Things that a mount needs while the command runs.
#[derive(Default)]
struct Guards {
    _forwards: Vec<ssh::Forward>,
    _caches: Vec<crate::store::CacheMount>,
}

impl Engine<'_> {
    /// Adds what a RUN depends on to its key.
    pub(super) fn run_key(
        &self,
        op: &RunOp,
        vertex: &Vertex,
        inputs: &BTreeMap<VertexId, Outcome>,
        key: &mut Key,
    ) -> Result<(), BuildError> {
        op.args.iter().for_each(|arg| key.add("command", arg));
        op.env
            .iter()
            .for_each(|(name, value)| key.add_hidden(&format!("environment {name}"), value));
        key.add("directory", &op.cwd);
        key.add("user", &op.user);
        key.add("platform", &vertex.platform.to_string());
        key.add("hostname", &op.hostname);
        key.add("network", &format!("{:?}", op.network));
        key.add("security", &format!("{:?}", op.security));
        op.add_hosts
            .iter()
            .for_each(|(name, _)| key.add("extra host", name));
        op.ulimits.iter().for_each(|limit| key.add("ulimit", limit));
        key.add(
            "shm size",
            &op.shm_size_bytes.unwrap_or(SHM_BYTES).to_string(),
        );
        op.scripts
            .iter()
            .for_each(|(name, text)| key.add(&format!("script {name}"), text));
        for mount in &op.mounts {
            match mount {
                RunMount::Bind {
                    target,
                    origin,
                    source,
                    read_only,
                } => {
                    let tree = self.origin(origin, inputs, false)?;
                    let at = tree.resolve(source.as_bytes())?;
                    if tree.lookup(&at).is_none() {
                        return Err(BuildError::MountSource {
                            path: source.clone(),
                        });
                    }
                    let files: Vec<_> = tree
                        .walk(&at)
                        .into_iter()
                        .map(|found| {
                            (
                                found
                                    .entry
                                    .path
                                    .get(at.len()..)
                                    .unwrap_or_default()
                                    .to_vec(),
                                found,
                            )
                        })
                        .collect();
                    let mut hash = FilesHash::new();
                    hash_files(&mut hash, &tree, &files)?;
                    key.add(&format!("bind {target}"), &hash.finish().to_string());
                    key.add(&format!("bind {target} read-only"), &read_only.to_string());
                }
                // What a cache holds is not in the key, nor what a secret is: only that there is one, and where.
                RunMount::Cache {
                    target,
                    id,
                    from,
                    sharing,
                    read_only,
                    mode,
                    uid,
                    gid,
                } => {
                    let from = from.as_ref().map(|(_, path)| path);
                    key.add(
                        &format!("cache {target}"),
                        &format!("{id} {from:?} {sharing:?} {read_only} {mode:o} {uid} {gid}"),
                    );
                }
                RunMount::Tmpfs { target, size_bytes } => {
                    key.add(&format!("tmpfs {target}"), &format!("{size_bytes:?}"))
                }
                RunMount::Secret {
                    id,
                    target,
                    env,
                    mode,
                    uid,
                    gid,
                    required,
                } => key.add(
                    &format!("secret {id}"),
                    &format!("{target:?} {env:?} {mode:o} {uid} {gid} {required}"),
                ),
                RunMount::Ssh {
                    id,
                    target,
                    mode,
                    uid,
                    gid,
                    required,
                } => {
                    key.add(
                        &format!("ssh {id}"),
                        &format!("{target} {mode:o} {uid} {gid} {required}"),
                    );
                }
            }
        }
        Ok(())
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
        let lowers = self.directories(below)?;
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
        let mut guards = Guards::default();
        let mut mounts = self.standard_files(op)?;
        let mut agents = 0;
        for mount in &op.mounts {
            match mount {
                RunMount::Secret {
                    id,
                    target,
                    env,
                    mode,
                    uid,
                    gid,
                    required,
                } => {
                    let Some(secret) = self.request.secrets.read(id)? else {
                        if *required {
                            return Err(BuildError::NoSecret { id: id.clone() });
                        }
                        continue;
                    };
                    if let Some(name) = env {
                        use std::os::unix::ffi::OsStringExt;
                        set(name, OsString::from_vec(secret.clone()));
                    }
                    if let Some(target) = target {
                        mounts.push(file(target, secret, *mode, *uid, *gid));
                    }
                }
                RunMount::Ssh {
                    id,
                    target,
                    mode,
                    uid,
                    gid,
                    required,
                } => {
                    let Some(socket) = self.request.ssh.socket(id) else {
                        if *required {
                            return Err(BuildError::NoSsh { id: id.clone() });
                        }
                        continue;
                    };
                    let dir = self.work.directory("ssh")?;
                    let forward = ssh::Forward::start(id, socket, &dir, *mode, *uid, *gid)?;
                    if agents == 0 {
                        set("SSH_AUTH_SOCK", target.into());
                    }
                    agents += 1;
                    mounts.push(bind(open_path(&forward.path)?, target, false));
                    guards._forwards.push(forward);
                }
                RunMount::Tmpfs { target, size_bytes } => {
                    mounts.push(Mount::Tmpfs {
                        target: target.into(),
                        size_bytes: *size_bytes,
                        mode: 0o1777,
                    });
                }
                RunMount::Bind {
                    target,
                    origin,
                    source,
                    read_only,
                } => {
                    let source = self.bind_source(origin, source, *read_only, inputs)?;
                    mounts.push(bind(source, target, *read_only));
                }
                RunMount::Cache {
                    target, read_only, ..
                } => {
                    let cache = self.cache_mount(id, mount, inputs)?;
                    mounts.push(bind(open_path(cache.path())?, target, *read_only));
                    guards._caches.push(cache);
                }
            }
        }
        let (out, stdout) = std::io::pipe().map_err(pipe_error)?;
        let (err, stderr) = std::io::pipe().map_err(pipe_error)?;
        let spec = Spec {
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
                .filter_map(|limit| rlimit(limit))
                .collect(),
            limits: Limits::default(),
            shm_size_bytes: op.shm_size_bytes.unwrap_or(SHM_BYTES),
            read_only: false,
            stdio: Stdio::Capture {
                stdout: stdout.into(),
                stderr: stderr.into(),
            },
        };
        let tail = Mutex::new(Tail::default());
        let done = std::sync::atomic::AtomicBool::new(false);
        let (status, created) = std::thread::scope(|scope| {
            let child = sandbox::spawn(spec)?;
            let (killer, created) = (child.killer(), child.created().clone());
            let readers = [(out, false), (err, true)].map(|(stream, stderr)| {
                let tail = &tail;
                scope.spawn(move || self.forward(StepId(id.0), stream, stderr, tail))
            });
            let watched = &done;
            let watcher = scope.spawn(move || {
                while !watched.load(std::sync::atomic::Ordering::Relaxed) {
                    if self.is_canceled() {
                        return killer.kill();
                    }
                    std::thread::park_timeout(POLL);
                }
                Ok(())
            });
            let ended = child.wait();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            watcher.thread().unpark();
            let watched = watcher.join();
            for reader in readers {
                drop(reader.join());
            }
            if let Ok(Err(error)) = watched {
                return Err(error);
            }
            ended.map(|status| (status, created))
        })?;
        drop(guards);
        let failed = |code| {
            let command = op.args.join(" ");
            BuildError::ExitCode { command, code }
        };
        *log_tail = tail.into_inner().unwrap_or_default().lines();
        if self.is_canceled() && status != Status::Exited(0) {
            return Err(BuildError::Canceled);
        }
        match status {
            Status::Exited(0) => {}
            Status::Exited(code) => return Err(failed(code)),
            Status::Signaled(signal) => return Err(failed(128 + signal)),
        }
        let root = open_dir(&upper)?;
        created.remove_stubs(std::os::fd::AsFd::as_fd(&root))?;
        Ok(Made::Upper { dir: upper })
    }

    /// The layers below with an upper directory on top, as a mount that no one else sees.
    fn overlay(
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
        // No step of a build changes the root itself, so only an image's layers say anything about it. The others may still
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

    // Name resolution, and the scripts of here-documents.
    fn standard_files(&self, op: &RunOp) -> Result<Vec<Mount>, BuildError> {
        let mut hosts = format!(
            "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            op.hostname
        );
        for (name, address) in &op.add_hosts {
            // The host's network is the step's own: its gateway to the host is the loopback.
            let address = match address.as_str() {
                "host-gateway" => "127.0.0.1".to_owned(),
                other => other
                    .parse::<IpAddr>()
                    .map_or_else(|_| other.to_owned(), |a| a.to_string()),
            };
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        let resolv = match std::fs::read("/etc/resolv.conf") {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(BuildError::Host {
                    action: "read",
                    path: "/etc/resolv.conf".into(),
                    source,
                });
            }
        };
        let mut mounts = vec![
            file("/etc/hosts", hosts.into_bytes(), 0o644, 0, 0),
            file("/etc/resolv.conf", resolv, 0o644, 0, 0),
        ];
        for (name, text) in &op.scripts {
            mounts.push(file(
                &format!("/dev/pipes/{name}"),
                text.clone().into_bytes(),
                0o755,
                0,
                0,
            ));
        }
        Ok(mounts)
    }

    // What a bind mount shows. Writes, where they are allowed, go to a layer that is thrown away.
    fn bind_source(
        &self,
        origin: &Origin,
        source: &str,
        read_only: bool,
        inputs: &BTreeMap<VertexId, Outcome>,
    ) -> Result<Arc<OwnedFd>, BuildError> {
        let tree = self.origin(origin, inputs, true)?;
        let at = tree.resolve(source.as_bytes())?;
        let missing = || BuildError::MountSource {
            path: source.to_owned(),
        };
        let found = tree.lookup(&at).ok_or_else(missing)?;
        let copied = || -> Result<Arc<OwnedFd>, BuildError> {
            let dir = self.work.directory("bind")?.join("fs");
            make_layer_dir(&dir)?;
            self.materialise(super::copy::as_changes(&tree, &at)?, &dir)?;
            Ok(Arc::new(open_dir(&dir)?))
        };
        let lowers = match origin {
            Origin::Vertex(Some(id)) => self.directories(&inputs[id].layers)?,
            Origin::Vertex(None) => Vec::new(),
            Origin::Context | Origin::Named(_) => {
                // A copy: what is excluded must not be seen, and owners are the image's, not the host's.
                let copy = copied()?;
                if found.entry.is_dir() && read_only {
                    return Ok(Arc::new(inside(&copy, &at).map_err(|_| missing())?));
                }
                vec![copy]
            }
        };
        let mount = if read_only {
            let options = overlay::Options {
                userxattr: self.request.privilege.userxattr(),
                volatile: false,
            };
            overlay::mount(&by_descriptor(&lowers), None, options)?
        } else {
            let dir = self.work.directory("bind")?;
            let upper = dir.join("fs");
            make_layer_dir(&upper)?;
            self.overlay(&lowers, &upper, &dir)?
        };
        if at.is_empty() {
            return Ok(Arc::new(mount));
        }
        // The part becomes a mount of its own while the whole is still one.
        let part = Arc::new(inside(&mount, &at).map_err(|_| missing())?);
        match overlay::bind(
            &by_descriptor(std::slice::from_ref(&part))[0],
            false,
            read_only,
        ) {
            Ok(bound) => Ok(Arc::new(bound)),
            // Before Linux 6.15 no part of a detached mount can be mounted.
            Err(SandboxError::Bind { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) && read_only =>
            {
                Ok(Arc::new(inside(&*copied()?, &at).map_err(|_| missing())?))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn cache_mount(
        &self,
        vertex: VertexId,
        mount: &RunMount,
        inputs: &BTreeMap<VertexId, Outcome>,
    ) -> Result<crate::store::CacheMount, BuildError> {
        let RunMount::Cache {
            id,
            from,
            sharing,
            mode,
            uid,
            gid,
            ..
        } = mount
        else {
            return Err(BuildError::MountSource {
                path: String::new(),
            });
        };
        // A build that trusts no earlier result starts with empty caches, too.
        let fresh = format!("{id}\0{}", self.work.path().display());
        let id = if self.vertex_of(vertex).no_cache {
            &fresh
        } else {
            id
        };
        let sharing = match sharing {
            Sharing::Shared => crate::store::Sharing::Shared,
            Sharing::Private => crate::store::Sharing::Private,
            Sharing::Locked => crate::store::Sharing::Locked,
        };
        let fill = |dir: &Path| -> Result<(), BuildError> {
            use std::os::unix::fs::PermissionsExt;
            let failed = |source| BuildError::Host {
                action: "prepare the cache",
                path: dir.to_owned(),
                source,
            };
            if let Some((origin, path)) = from {
                let tree = self.origin(origin, inputs, true)?;
                let at = tree.resolve(path.as_bytes())?;
                if tree.lookup(&at).is_none() {
                    return Err(BuildError::MountSource { path: path.clone() });
                }
                let changes = super::copy::below_as_changes(&tree, &at)?;
                self.materialise(changes, dir)?;
            }
            if (*uid, *gid) != (0, 0) && self.request.privilege.can_chown() {
                std::os::unix::fs::chown(dir, Some(*uid), Some(*gid)).map_err(failed)?;
            }
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(*mode)).map_err(failed)
        };
        let fill = |dir: &Path| fill(dir).map_err(std::io::Error::other);
        Ok(self.store.cache_mount(id, sharing, &fill, self.cancel)?)
    }

    // Passes a stream of the command's on until its end.
    fn forward(&self, step: StepId, mut stream: PipeReader, stderr: bool, tail: &Mutex<Tail>) {
        let mut buffer = vec![0; CHUNK_BYTES];
        // A broken pipe of a command that was killed is its end.
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let data = buffer[..n].to_vec();
            if let Ok(mut tail) = tail.lock() {
                tail.push(&data);
            }
            self.events.event(EventKind::Output { step, stderr, data });
        }
    }
}

// Paths that stay right while a commit moves the directories.
fn by_descriptor(directories: &[Arc<OwnedFd>]) -> Vec<PathBuf> {
    use std::os::fd::AsRawFd;
    directories
        .iter()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()).into())
        .collect()
}

fn pipe_error(source: std::io::Error) -> BuildError {
    BuildError::Host {
        action: "open a pipe to",
        path: PathBuf::from("the step"),
        source,
    }
}

fn file(target: &str, content: Vec<u8>, mode: u32, uid: u32, gid: u32) -> Mount {
    Mount::File(FileMount {
        target: target.into(),
        content,
        mode,
        uid,
        gid,
    })
}

fn bind(source: Arc<OwnedFd>, target: &str, read_only: bool) -> Mount {
    Mount::Bind(Bind {
        source,
        target: target.into(),
        read_only,
        recursive: false,
    })
}

fn open_path(path: &Path) -> Result<Arc<OwnedFd>, BuildError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map(Arc::new)
        .map_err(|e| BuildError::Host {
            action: "open",
            path: path.to_owned(),
            source: e.into(),
        })
}

// A path of a tree, links already resolved; none is followed again.
fn inside(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

// A small file as the command will see it.
fn read_inside(root: &OwnedFd, path: &str) -> Result<Option<Vec<u8>>, BuildError> {
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

// `NAME=SOFT:HARD`, as the command line's parser leaves it.
fn rlimit(text: &str) -> Option<(String, u64, u64)> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        other => other.parse().ok(),
    };
    Some((name.to_owned(), number(soft)?, number(hard)?))
}

// The last of a step's output.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        if self.0.len() > 2 * TAIL_BYTES {
            self.0.drain(..self.0.len() - TAIL_BYTES);
        }
    }

    fn lines(self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0);
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
    fn limits() {
        assert_eq!(rlimit("nofile=1:2"), Some(("nofile".to_owned(), 1, 2)));
        assert_eq!(
            rlimit("core=-1"),
            Some(("core".to_owned(), u64::MAX, u64::MAX))
        );
        assert_eq!(rlimit("nofile"), None);
    }

    #[test]
    fn the_tail_is_bounded_and_whole_lines() {
        let mut tail = Tail::default();
        for i in 0..10_000 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        let lines = tail.lines();
        assert_eq!(
            (lines.len(), lines[TAIL_LINES - 1].as_str()),
            (TAIL_LINES, "line 9999")
        );
    }
}
