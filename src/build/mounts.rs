//! The mounts of a RUN: what they add to its key, and what the sandbox is given for them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::dockerfile::ast::Sharing;
use crate::plan::graph::{Origin, RunMount, RunOp, SecretMount, SshMount, TmpfsMount, VertexId};
use crate::sandbox::{Bind, FileMount, Mount, SandboxError, overlay};
use crate::store::{self, CacheMount};

use super::copy::{as_changes, below_as_changes};
use super::engine::{Engine, Layers, Outcome, make_layer_dir, open_dir};
use super::key::Key;
use super::listing;
use super::run::by_descriptor;
use super::transfer::Part;
use super::tree::Tree;
use super::{BuildError, select, ssh};

/// What a command's mounts come to.
pub(super) struct Mounted {
    /// In the order in which they are made.
    pub(super) mounts: Vec<Mount>,
    /// Variables that come with them.
    pub(super) env: Vec<(String, OsString)>,
    /// What has to live while the command runs.
    pub(super) guards: Guards,
    /// What the mounts stand on, should the step fail.
    pub(super) shown: Vec<Shown>,
    /// The secrets among them.
    pub(super) secrets: Vec<Vec<u8>>,
}

/// What one mount of a command showed it, for whoever wants to see the same later.
pub(super) enum Shown {
    /// As the plan says it.
    Plain(RunMount),
    /// A cache, and its directory in the store.
    Cache(RunMount, String),
    /// A path of layers, and of directories of this build's above them.
    Bind {
        target: String,
        read_only: bool,
        path: Vec<u8>,
        layers: Option<Layers>,
        copies: Vec<PathBuf>,
    },
}

/// What mounts stand on: dropped, sockets lead nowhere and caches are another step's.
#[derive(Default)]
pub(super) struct Guards {
    forwards: Vec<ssh::Forward>,
    caches: Vec<CacheMount>,
}

impl Engine<'_> {
    /// Adds what a command's mounts show it to its key; gives the files of bind mounts.
    pub(super) fn mounts_key(
        &self,
        op: &RunOp,
        inputs: &BTreeMap<VertexId, Outcome>,
        key: &mut Key,
    ) -> Result<Vec<Part>, BuildError> {
        let mut parts = Vec::new();
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
                    let Some(files) = select::Files::of(&tree, &at) else {
                        return Err(self.no_mount_source(source, origin, &tree));
                    };
                    let part = Part::seen(tree, files);
                    let digest = listing::digest(|listing| part.list(listing))?;
                    key.add(&format!("bind {target}"), &digest.to_string());
                    key.add(&format!("bind {target} read-only"), &read_only.to_string());
                    parts.push(part);
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
                    let mut add = |field: &str, value: &dyn std::fmt::Display| {
                        key.add(&format!("cache {target} {field}"), &value.to_string());
                    };
                    add("id", id);
                    if let Some((_, path)) = from {
                        add("source", path);
                    }
                    let sharing = match sharing {
                        Sharing::Shared => "shared",
                        Sharing::Private => "private",
                        Sharing::Locked => "locked",
                    };
                    add("sharing", &sharing);
                    add("read-only", read_only);
                    add("mode", &format_args!("{mode:04o}"));
                    add("owner", &format_args!("{uid}:{gid}"));
                }
                RunMount::Tmpfs(TmpfsMount { target, size_bytes }) => {
                    let size = size_bytes.map_or_else(String::new, |bytes| bytes.to_string());
                    key.add(&format!("tmpfs {target} size"), &size);
                }
                RunMount::Secret(SecretMount {
                    id,
                    target,
                    env,
                    mode,
                    uid,
                    gid,
                    required,
                }) => {
                    let mut add = |field: &str, value: &dyn std::fmt::Display| {
                        key.add(&format!("secret {id} {field}"), &value.to_string());
                    };
                    if let Some(target) = target {
                        add("target", target);
                    }
                    if let Some(env) = env {
                        add("env", env);
                    }
                    add("mode", &format_args!("{mode:04o}"));
                    add("owner", &format_args!("{uid}:{gid}"));
                    add("required", required);
                }
                RunMount::Ssh(SshMount {
                    id,
                    target,
                    mode,
                    uid,
                    gid,
                    required,
                }) => {
                    let mut add = |field: &str, value: &dyn std::fmt::Display| {
                        key.add(&format!("ssh {id} {field}"), &value.to_string());
                    };
                    add("target", target);
                    add("mode", &format_args!("{mode:04o}"));
                    add("owner", &format_args!("{uid}:{gid}"));
                    add("required", required);
                }
            }
        }
        Ok(parts)
    }

    /// Prepares what the sandbox mounts for a command.
    pub(super) fn mounts(
        &self,
        no_cache: bool,
        op: &RunOp,
        inputs: &BTreeMap<VertexId, Outcome>,
    ) -> Result<Mounted, BuildError> {
        let mut mounts = standard_files(op)?;
        let mut env: Vec<(String, OsString)> = Vec::new();
        let mut guards = Guards::default();
        let (mut shown, mut secrets) = (Vec::new(), Vec::new());
        for mount in &op.mounts {
            match mount {
                RunMount::Secret(_) | RunMount::Ssh(_) | RunMount::Tmpfs(_) => {
                    shown.push(Shown::Plain(mount.clone()));
                }
                RunMount::Bind { .. } | RunMount::Cache { .. } => {}
            }
            match mount {
                RunMount::Secret(SecretMount {
                    id,
                    target,
                    env: variable,
                    mode,
                    uid,
                    gid,
                    required,
                }) => {
                    let Some(secret) = self.request.secrets.read(id)? else {
                        if *required {
                            return Err(BuildError::NoSecret { id: id.clone() });
                        }
                        // The variable is there all the same, as BuildKit has it.
                        env.extend(variable.clone().map(|name| (name, OsString::new())));
                        continue;
                    };
                    secrets.push(secret.clone());
                    if let Some(name) = variable {
                        env.push((name.clone(), OsString::from_vec(secret.clone())));
                    }
                    if let Some(target) = target {
                        mounts.push(file(target, secret, *mode, *uid, *gid));
                    }
                }
                RunMount::Ssh(SshMount {
                    id,
                    target,
                    mode,
                    uid,
                    gid,
                    required,
                }) => {
                    let Some(socket) = self.request.ssh.socket(id) else {
                        if *required {
                            return Err(BuildError::NoSsh { id: id.clone() });
                        }
                        continue;
                    };
                    let dir = self.work.directory("ssh")?;
                    let forward = ssh::Forward::start(id, socket, &dir, *mode, *uid, *gid)?;
                    // Of several agents the first is the one that programs find by themselves.
                    if guards.forwards.is_empty() {
                        env.push(("SSH_AUTH_SOCK".to_owned(), target.into()));
                    }
                    mounts.push(bind(open_path(&forward.path)?, target, false));
                    guards.forwards.push(forward);
                }
                RunMount::Tmpfs(TmpfsMount { target, size_bytes }) => {
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
                    let (source, bound) = self.bind_source(origin, source, *read_only, inputs)?;
                    mounts.push(bind(source, target, *read_only));
                    shown.push(Shown::Bind {
                        target: target.clone(),
                        read_only: *read_only,
                        path: bound.path,
                        layers: bound.layers,
                        copies: bound.copies,
                    });
                }
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
                    // A build that trusts no earlier result starts with empty caches, too.
                    let id = match no_cache {
                        true => format!("{id}\0{}", self.work.path().display()),
                        false => id.clone(),
                    };
                    let fill = |dir: &Path| {
                        let filled =
                            self.fill_cache(dir, from.as_ref(), *mode, (*uid, *gid), inputs);
                        filled.map_err(std::io::Error::other)
                    };
                    let sharing = match sharing {
                        Sharing::Shared => store::Sharing::Shared,
                        Sharing::Private => store::Sharing::Private,
                        Sharing::Locked => store::Sharing::Locked,
                    };
                    let cache = self.store.cache_mount(&id, sharing, &fill, self.cancel)?;
                    mounts.push(bind(open_path(cache.path())?, target, *read_only));
                    shown.push(Shown::Cache(mount.clone(), cache.name()));
                    guards.caches.push(cache);
                }
            }
        }
        Ok(Mounted {
            mounts,
            env,
            guards,
            shown,
            secrets,
        })
    }

    fn no_mount_source(&self, path: &str, origin: &Origin, tree: &Tree) -> BuildError {
        let hidden = match origin {
            Origin::Context => self.contexts.explain(path),
            _ => None,
        };
        hidden.unwrap_or_else(|| BuildError::MountSource {
            path: path.to_owned(),
            nearest: select::near(path, tree),
        })
    }

    // What a bind mount shows. Writes, where they are allowed, go to a layer that is thrown away.
    fn bind_source(
        &self,
        origin: &Origin,
        source: &str,
        read_only: bool,
        inputs: &BTreeMap<VertexId, Outcome>,
    ) -> Result<(Arc<OwnedFd>, Bound), BuildError> {
        let tree = self.origin(origin, inputs, true)?;
        let at = tree.resolve(source.as_bytes())?;
        let missing = || BuildError::MountSource {
            path: source.to_owned(),
            nearest: None,
        };
        let found = tree.lookup(&at).ok_or_else(missing)?;
        let copied = || -> Result<(Arc<OwnedFd>, PathBuf), BuildError> {
            let dir = self.work.directory("bind")?.join("fs");
            make_layer_dir(&dir)?;
            self.materialise(as_changes(&tree, &at)?, &dir)?;
            Ok((Arc::new(open_dir(&dir)?), dir))
        };
        let mut bound = Bound {
            path: at.clone(),
            layers: None,
            copies: Vec::new(),
        };
        let lowers = match origin {
            Origin::Vertex(Some(id)) => {
                bound.layers = Some(inputs[id].layers.clone());
                self.directories(&inputs[id].layers)?
            }
            Origin::Vertex(None) => Vec::new(),
            Origin::Context | Origin::Named(_) => {
                // A copy: what is excluded must not be seen, and owners are the image's, not the host's.
                let (copy, dir) = copied()?;
                bound.copies.push(dir);
                if found.entry.is_dir() && read_only {
                    let part = Arc::new(inside(&copy, &at).map_err(|_| missing())?);
                    return Ok((part, bound));
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
            bound.copies.push(upper.clone());
            self.overlay(&lowers, &upper, &dir)?
        };
        if at.is_empty() {
            return Ok((Arc::new(mount), bound));
        }
        // The part becomes a mount of its own while the whole is still one.
        let part = Arc::new(inside(&mount, &at).map_err(|_| missing())?);
        match overlay::bind(
            &by_descriptor(std::slice::from_ref(&part))[0],
            false,
            read_only,
        ) {
            Ok(part) => Ok((Arc::new(part), bound)),
            // Before Linux 6.15 no part of a detached mount can be mounted.
            Err(SandboxError::Bind { source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) && read_only =>
            {
                let (copy, dir) = copied()?;
                bound.layers = None;
                bound.copies = vec![dir];
                let part = Arc::new(inside(&copy, &at).map_err(|_| missing())?);
                Ok((part, bound))
            }
            Err(error) => Err(error.into()),
        }
    }

    // What a new cache begins with.
    fn fill_cache(
        &self,
        dir: &Path,
        from: Option<&(Origin, String)>,
        mode: u32,
        (uid, gid): (u32, u32),
        inputs: &BTreeMap<VertexId, Outcome>,
    ) -> Result<(), BuildError> {
        let failed = |source| BuildError::Host {
            action: "prepare the cache",
            path: dir.to_owned(),
            source,
        };
        if let Some((origin, path)) = from {
            let tree = self.origin(origin, inputs, true)?;
            let at = tree.resolve(path.as_bytes())?;
            if tree.lookup(&at).is_none() {
                return Err(self.no_mount_source(path, origin, &tree));
            }
            self.materialise(below_as_changes(&tree, &at)?, dir)?;
        }
        if (uid, gid) != (0, 0) && self.request.privilege.can_chown() {
            std::os::unix::fs::chown(dir, Some(uid), Some(gid)).map_err(failed)?;
        }
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).map_err(failed)
    }
}

/// What a bind mount's source stands on: see [`Shown::Bind`].
struct Bound {
    path: Vec<u8>,
    layers: Option<Layers>,
    copies: Vec<PathBuf>,
}

/// Name resolution, and the scripts of here-documents.
pub(super) fn standard_files(op: &RunOp) -> Result<Vec<Mount>, BuildError> {
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

pub(super) fn file(target: &str, content: Vec<u8>, mode: u32, uid: u32, gid: u32) -> Mount {
    Mount::File(FileMount {
        target: target.into(),
        content,
        mode,
        uid,
        gid,
    })
}

pub(super) fn bind(source: Arc<OwnedFd>, target: &str, read_only: bool) -> Mount {
    Mount::Bind(Bind {
        source,
        target: target.into(),
        read_only,
        recursive: false,
    })
}

pub(super) fn open_path(path: &Path) -> Result<Arc<OwnedFd>, BuildError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map(Arc::new)
        .map_err(|e| BuildError::Host {
            action: "open",
            path: path.to_owned(),
            source: e.into(),
        })
}

// A path of a tree, links already resolved; none is followed again.
pub(super) fn inside(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
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
