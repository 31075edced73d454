//! A failed RUN's world once more: its layers with what it changed, its mounts, environment and user; changes are thrown away.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::plan::graph::{SecretMount, SshMount, TmpfsMount};
use crate::sandbox::{Mount, Privilege, Spec, Stdio, overlay};
use crate::store::{CacheMount, Failed, Store, Work};

use super::engine::{make_layer_dir, open_dir};
use super::failed::{FILES, FailedRun, KeptMount};
use super::mounts::{bind, file, inside, open_path, standard_files};
use super::run::{by_descriptor, read_inside, spec};
use super::{BuildError, Secrets, SshAgents, ssh, users};

/// The shells that are looked for, the most comfortable first.
const SHELLS: [&str; 5] = [
    "/bin/bash",
    "/usr/bin/bash",
    "/bin/sh",
    "/bin/ash",
    "/busybox/sh",
];

/// What is to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DebugCommand {
    /// The step's shell, if it had one of its own, else the first that the image has.
    Shell,
    /// This.
    Command(Vec<OsString>),
    /// What failed.
    Again,
}

/// How a failed step is to be seen again.
#[derive(Debug)]
pub struct DebugRequest<'a> {
    /// The step.
    pub failed: &'a Failed,
    /// What to run.
    pub command: DebugCommand,
    /// Its files as they were before it ran.
    pub before: bool,
    /// Secrets by id: none is kept.
    pub secrets: Secrets,
    /// Agents by id.
    pub ssh: SshAgents,
    /// Variables besides the step's, and in their place.
    pub env: Vec<(String, OsString)>,
    /// Another user than the step's.
    pub user: Option<String>,
    /// Another working directory than the step's.
    pub cwd: Option<String>,
    /// What strata may do.
    pub privilege: Privilege,
}

/// A failed step's world, ready to run. What it stands on goes with it.
#[derive(Debug)]
pub struct DebugSession {
    /// The command and its world.
    pub spec: Spec,
    /// What the step had and this has not, in words.
    pub missing: Vec<String>,
    /// What has to live while the command runs.
    pub guards: DebugGuards,
}

/// What a session stands on.
#[derive(Debug)]
pub struct DebugGuards {
    _forwards: Vec<ssh::Forward>,
    _caches: Vec<CacheMount>,
    _work: Work,
}

/// Directories stacked for one mount of a session.
struct Debugger<'a> {
    store: &'a Store,
    request: &'a DebugRequest<'a>,
    work: Work,
}

/// Prepares a failed step's world. Changes that are made in it go with the session.
pub fn debug(
    store: &Store,
    request: &DebugRequest<'_>,
    stdio: Stdio,
) -> Result<DebugSession, BuildError> {
    let step = &request.failed.step;
    let run = FailedRun::of(step)?;
    if let Some(bytes) = step.left_out_bytes.filter(|_| !request.before) {
        return Err(BuildError::NoFailedFiles {
            id: step.id.clone(),
            bytes,
        });
    }
    let debugger = Debugger {
        store,
        request,
        work: store.work()?,
    };
    let files = request.failed.path(FILES);
    let mut lowers = debugger.stack(Some(0))?;
    if !request.before {
        lowers.push(Arc::new(open_dir(&files)?));
    }
    // The root directory's attributes are the upper directory's.
    let like = if files.exists() { Some(&*files) } else { None };
    let rootfs = debugger.writable(&lowers, like)?;

    let mut op = run.op();
    op.user = request.user.clone().unwrap_or(op.user);
    op.cwd = request.cwd.clone().unwrap_or(op.cwd);
    let user = users::resolve(&op.user, &|path| read_inside(&rootfs, path))?;
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |name: &str, value: OsString| match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => env.push((name.into(), value)),
    };
    op.env
        .iter()
        .for_each(|(name, value)| set(name, value.into()));
    if !op.env.iter().any(|(name, _)| name == "HOME") {
        set("HOME", user.home.clone().into());
    }
    let mut mounts = standard_files(&op)?;
    let mut missing = Vec::new();
    let (mut forwards, mut caches) = (Vec::new(), Vec::new());
    for mount in &run.mounts {
        match mount {
            KeptMount::Tmpfs(TmpfsMount { target, size_bytes }) => mounts.push(Mount::Tmpfs {
                target: target.into(),
                size_bytes: *size_bytes,
                mode: 0o1777,
            }),
            KeptMount::Secret(SecretMount {
                id,
                target,
                env,
                mode,
                uid,
                gid,
                required,
            }) => {
                let Some(secret) = request.secrets.read(id)? else {
                    if *required {
                        missing.push(format!(
                            "secret {id}: secrets are not kept; give it with --secret id={id},src=FILE or id={id},env=VARIABLE"
                        ));
                    } else if let Some(name) = env {
                        set(name, OsString::new());
                    }
                    continue;
                };
                if let Some(name) = env {
                    set(name, OsString::from_vec(secret.clone()));
                }
                if let Some(target) = target {
                    mounts.push(file(target, secret, *mode, *uid, *gid));
                }
            }
            KeptMount::Ssh(SshMount {
                id,
                target,
                mode,
                uid,
                gid,
                required,
            }) => {
                let Some(socket) = request.ssh.socket(id) else {
                    if *required {
                        missing.push(format!("ssh agent {id}: forward it with --ssh {id}"));
                    }
                    continue;
                };
                let dir = debugger.work.directory("ssh")?;
                let forward = ssh::Forward::start(id, socket, &dir, *mode, *uid, *gid)?;
                if forwards.is_empty() {
                    set("SSH_AUTH_SOCK", target.into());
                }
                mounts.push(bind(open_path(&forward.path)?, target, false));
                forwards.push(forward);
            }
            KeptMount::Bind {
                target,
                read_only,
                path,
                stack,
                copies,
            } => {
                let mut lowers = debugger.stack(*stack)?;
                for name in copies {
                    lowers.push(Arc::new(open_dir(&request.failed.path(name))?));
                }
                let source = debugger.part(&lowers, path, *read_only)?;
                mounts.push(bind(source, target, *read_only));
            }
            KeptMount::Cache {
                target,
                id,
                name,
                read_only,
            } => {
                let cache = store.cache_mount_again(name)?;
                let mut lowers = Vec::new();
                match &cache {
                    Some(cache) => lowers.push(Arc::new(open_dir(cache.path())?)),
                    None => missing.push(format!(
                        "cache {id}: it was removed, or a build is using it; {target} is empty here"
                    )),
                }
                let source = debugger.writable(&lowers, cache.as_ref().map(CacheMount::path))?;
                mounts.push(bind(Arc::new(source), target, *read_only));
                caches.extend(cache);
            }
        }
    }
    for name in &run.proxies {
        if !request.env.iter().any(|(given, _)| given == name) {
            missing.push(format!(
                "proxy {name}: proxies are not kept; give it with -e {name}=URL"
            ));
        }
    }
    request
        .env
        .iter()
        .for_each(|(name, value)| set(name, value.clone()));
    let args = match &request.command {
        DebugCommand::Again => op.args.iter().map(OsString::from).collect(),
        DebugCommand::Command(args) => args.clone(),
        DebugCommand::Shell => vec![OsString::from(shell(&rootfs, &op.args)?)],
    };
    let mut spec = spec(&op, rootfs, user, env, mounts, stdio);
    spec.args = args;
    Ok(DebugSession {
        spec,
        missing,
        guards: DebugGuards {
            _forwards: forwards,
            _caches: caches,
            _work: debugger.work,
        },
    })
}

impl Debugger<'_> {
    /// The directories of one of the step's stacks, each unpacked if it was not.
    fn stack(&self, stack: Option<usize>) -> Result<Vec<Arc<OwnedFd>>, BuildError> {
        let stacks = &self.request.failed.step.stacks;
        let layers = stack.and_then(|at| stacks.get(at)).map_or(&[][..], |s| s);
        let unpacked = self.store.unpack_stack(layers, &|_| ())?;
        unpacked
            .iter()
            .map(|layer| open_dir(layer.fs()).map(Arc::new))
            .collect()
    }

    /// An overlay whose changes go with the session; its root is as that of `like`.
    fn writable(
        &self,
        lowers: &[Arc<OwnedFd>],
        like: Option<&Path>,
    ) -> Result<OwnedFd, BuildError> {
        let dir = self.work.directory("debug")?;
        let (upper, work) = (dir.join("fs"), dir.join("work"));
        make_layer_dir(&upper)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Host {
                action: "create",
                path,
                source,
            }
        };
        std::fs::create_dir(&work).map_err(failed(&work))?;
        if let Some(like) = like {
            let meta = std::fs::metadata(like).map_err(failed(like))?;
            if self.request.privilege.can_chown() {
                std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
                    .map_err(failed(&upper))?;
            }
            let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777);
            std::fs::set_permissions(&upper, mode).map_err(failed(&upper))?;
        }
        let upper = overlay::Upper {
            changes: &upper,
            work: &work,
        };
        let mount = overlay::mount(&by_descriptor(lowers), Some(upper), self.options(true))?;
        Ok(mount)
    }

    fn options(&self, volatile: bool) -> overlay::Options {
        overlay::Options {
            userxattr: self.request.privilege.userxattr(),
            volatile,
        }
    }

    /// A path in stacked directories, as a mount.
    fn part(
        &self,
        lowers: &[Arc<OwnedFd>],
        path: &[u8],
        read_only: bool,
    ) -> Result<Arc<OwnedFd>, BuildError> {
        let missing = || BuildError::MountSource {
            path: String::from_utf8_lossy(path).into_owned(),
            nearest: None,
        };
        if let ([one], true) = (lowers, read_only) {
            return Ok(Arc::new(inside(one, path).map_err(|_| missing())?));
        }
        let mount = if read_only {
            overlay::mount(&by_descriptor(lowers), None, self.options(false))?
        } else {
            self.writable(lowers, None)?
        };
        if path.is_empty() {
            return Ok(Arc::new(mount));
        }
        // The part becomes a mount of its own while the whole is still one.
        let part = Arc::new(inside(&mount, path).map_err(|_| missing())?);
        let bound = overlay::bind(
            &by_descriptor(std::slice::from_ref(&part))[0],
            false,
            read_only,
        )?;
        Ok(Arc::new(bound))
    }
}

/// The shell to look around with: that of the step's SHELL, unless that is the ordinary one; then the best there is.
fn shell(rootfs: &OwnedFd, args: &[String]) -> Result<String, BuildError> {
    let own = args.first().filter(|first| {
        let name = first.rsplit('/').next().unwrap_or(first);
        first.starts_with('/') && name.ends_with("sh") && *first != "/bin/sh"
    });
    let tried: Vec<String> = own
        .cloned()
        .into_iter()
        .chain(SHELLS.map(str::to_owned))
        .collect();
    match tried.iter().find(|path| is_program(rootfs, path)) {
        Some(shell) => Ok(shell.clone()),
        None => Err(BuildError::NoShell { tried }),
    }
}

fn is_program(rootfs: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat2(rootfs.as_fd(), path, flags, Mode::empty(), resolve);
    let stat = opened.and_then(|fd| rustix::fs::fstat(&fd));
    stat.is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
            && stat.st_mode & 0o111 != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("bin")).unwrap();
        let choose = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            shell(&open_dir(root).unwrap(), &args)
        };
        let put = |path: &str, mode: u32| {
            let path = root.join(path);
            std::fs::write(&path, b"#!").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let none = choose(&["/opt/zsh", "-c", "x"]).unwrap_err().to_string();
        assert!(
            none.contains("no shell in the image: looked for /opt/zsh, /bin/bash"),
            "{none}"
        );
        put("bin/sh", 0o644);
        assert!(choose(&[]).is_err(), "what cannot be executed is none");
        put("bin/busybox", 0o755);
        std::fs::remove_file(root.join("bin/sh")).unwrap();
        std::os::unix::fs::symlink("/bin/busybox", root.join("bin/sh")).unwrap();
        assert_eq!(choose(&["/bin/sh", "-c", "x"]).unwrap(), "/bin/sh");
        put("bin/zsh", 0o755);
        put("bin/bash", 0o755);
        assert_eq!(choose(&["/bin/zsh", "-c", "x"]).unwrap(), "/bin/zsh");
        for args in [
            &["/bin/sh", "-c", "x"][..],
            &["zsh"],
            &["/usr/bin/make"],
            &[],
        ] {
            assert_eq!(choose(args).unwrap(), "/bin/bash", "{args:?}");
        }
    }
}
