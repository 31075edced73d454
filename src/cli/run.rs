//! `run`: a command over an image's layers, in the foreground.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use strata::image::Platforms;
use strata::inspect::Documents;
use strata::sandbox::{
    self, Bind, FileMount, Limits, Mount, Network, SandboxError, Security, Signal, Spec, Stdio,
    overlay, terminal,
};
use strata::store::{Store, StoreError};

use super::build_values::ulimit;
use super::error::{CliError, Doing as _, exit};
use super::inspect::{self, wanted_platform};
use super::medium;
use super::run_args::{RunArgs, command, environment, volume};
use super::session::Session;
use super::transfer;
use super::transport::Location;
use super::users;
use super::values::bytes;

/// The largest user database that is read.
const MAX_DATABASE_BYTES: u64 = 16 << 20;

/// Signals that go to the command: what a terminal or a supervisor sends to end or steer it.
const FORWARDED: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

impl RunArgs {
    /// Runs `run`. The command's own code is the exit code.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        match self.attempt(session) {
            Ok(0) => Ok(()),
            Ok(code) => Err(CliError::Exit(code)),
            // Whatever keeps the command from beginning is 125, but for the command itself.
            Err(e @ (CliError::Run { .. } | CliError::Interrupted)) => Err(e),
            Err(e) if e.exit_code() == exit::USAGE => Err(e),
            Err(e) => Err(CliError::Run {
                command: self.image.clone(),
                code: exit::RUN_FAILED,
                source: Box::new(e),
            }),
        }
    }

    fn attempt(&self, session: &Session) -> Result<u8, CliError> {
        let limits = self.limits()?;
        let rlimits = self
            .ulimits
            .iter()
            .map(|text| ulimit(text).map(|limit| (limit.name, limit.soft, limit.hard)))
            .collect::<Result<Vec<_>, _>>()?;
        let shm_size_bytes = bytes("--shm-size", &self.shm_size)?;
        let volumes = self
            .volumes
            .iter()
            .map(|text| volume(text))
            .collect::<Result<Vec<_>, _>>()?;
        let store = session.store()?;
        let documents = self.image(session, &store)?;
        let lowers = lowers(&store, &documents)?;
        let work = store
            .work()
            .doing(|| "make a temporary folder".to_owned())?;
        let rootfs = Arc::new(mount(session, &work, &lowers)?);

        let config = &documents.config.config;
        let args = command(config, self.entrypoint.as_deref(), &self.command);
        let Some(program) = args.first().cloned() else {
            return Err(CliError::Refused(format!(
                "no command: {} has neither CMD nor ENTRYPOINT",
                self.image
            )));
        };
        let user_text = self.user.as_deref().unwrap_or(&config.user);
        let user = users::resolve(
            user_text,
            &database(&rootfs, "etc/passwd")?,
            &database(&rootfs, "etc/group")?,
        )
        .map_err(|why| CliError::Refused(format!("cannot be user {user_text:?}: {why}")))?;
        let hostname = self
            .hostname
            .clone()
            .unwrap_or_else(|| documents.manifest.config.digest.short());
        let mut defaults = vec![
            ("HOSTNAME", hostname.as_str()),
            ("HOME", user.home.as_str()),
        ];
        if self.tty {
            defaults.push(("TERM", "xterm"));
        }
        let env = environment(config, &self.env, |n| std::env::var(n).ok(), &defaults);
        let mut mounts = standard_files(&hostname)?;
        for volume in &volumes {
            mounts.push(Mount::Bind(Bind {
                source: Arc::new(open_path(Path::new(&volume.source))?),
                target: volume.target.clone().into(),
                read_only: volume.read_only,
                recursive: true,
            }));
        }
        let cwd = self.workdir.as_deref().unwrap_or(&config.working_dir);
        let spec = Spec {
            rootfs,
            args: args.into_iter().map(OsString::from).collect(),
            env: env
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            cwd: if cwd.is_empty() { "/" } else { cwd }.into(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            hostname,
            mounts,
            network: if self.network == "none" {
                Network::None
            } else {
                Network::Host
            },
            security: Security::Default,
            rlimits,
            limits,
            shm_size_bytes,
            read_only: self.read_only,
            stdio: if self.tty {
                Stdio::Terminal(terminal::size())
            } else {
                Stdio::Inherit {
                    stdin: self.interactive,
                }
            },
        };
        execute(session, spec, &program)
    }

    fn limits(&self) -> Result<Limits, CliError> {
        let memory = self.memory.as_deref().map(|t| bytes("--memory", t));
        if self.cpus.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
            return Err(CliError::Usage(
                "invalid value for --cpus: expected a number above 0, for example 1.5".to_owned(),
            ));
        }
        Ok(Limits {
            memory_bytes: memory.transpose()?,
            cpus: self.cpus,
            // docker's -1 is no limit, and so is 0.
            pids: self
                .pids_limit
                .and_then(|p| u64::try_from(p).ok())
                .filter(|p| *p > 0),
        })
    }

    /// The image's documents; an image that is not in the store is pulled.
    fn image(&self, session: &Session, store: &Store) -> Result<Documents, CliError> {
        let platform = wanted_platform(self.platform.as_deref())?;
        let location = Location::parse("IMAGE", &self.image)?;
        let reference = match &location {
            Location::Registry(reference) => Some(reference.clone()),
            Location::Store(name) => match store.find(name) {
                Ok(_) => None,
                Err(StoreError::NoSuchImage(_)) => Some(super::values::reference("IMAGE", name)?),
                Err(e) => return Err(e).doing(|| format!("use {name}")),
            },
            // Into the store first: a sandbox needs the layers unpacked.
            other => {
                let source = medium::source(session, other)?;
                let sink = store.sink(Vec::new()).unpacking();
                let platforms = Platforms::One(platform.clone());
                transfer::copy(session, source.as_ref(), &sink, platforms, false)?;
                return inspect::read(source.as_ref(), &platform);
            }
        };
        match reference {
            Some(reference) => {
                let platforms = Platforms::One(platform.clone());
                let root = transfer::pull(session, store, &reference, platforms, true, false)?;
                let source = store.source(&reference.familiar(), root);
                inspect::read(&source, &platform)
            }
            None => {
                let image = store
                    .find(&self.image)
                    .doing(|| format!("use {}", self.image))?;
                let source = store.source(&self.image, image.descriptor);
                inspect::read(&source, &platform)
            }
        }
    }
}

/// Starts the command, passes signals on, and waits for its end.
pub(super) fn execute(session: &Session, spec: Spec, program: &str) -> Result<u8, CliError> {
    let failed = |error: SandboxError| {
        let code = match &error {
            SandboxError::CommandNotFound { .. } => exit::RUN_NOT_FOUND,
            SandboxError::CommandNotExecutable { .. } => exit::RUN_NOT_EXECUTABLE,
            _ => exit::RUN_FAILED,
        };
        CliError::Run {
            command: program.to_owned(),
            code,
            source: Box::new(error),
        }
    };
    let mut signals = Signals::new(FORWARDED).doing(|| "pass signals to the command".to_owned())?;
    let handle = signals.handle();
    let mut child = sandbox::spawn(spec).map_err(failed)?;
    let killer = child.killer();
    let asked = session.cancel_flag();
    let forwarder = std::thread::spawn(move || {
        for number in signals.forever() {
            // It is the command's to end or not: a second signal must not end strata.
            asked.store(false, Ordering::Relaxed);
            if let Some(signal) = Signal::from_named_raw(number)
                && let Err(error) = killer.signal(signal)
            {
                tracing::warn!(%error, number, "cannot pass a signal on");
            }
        }
    });
    let attached = match child.take_terminal() {
        Some(master) => terminal::attach(&master),
        None => Ok(()),
    };
    let status = child.wait();
    handle.close();
    // It has nothing to say beyond its log lines.
    let _ = forwarder.join();
    attached.map_err(failed)?;
    let code = status.map_err(failed)?.code();
    // A status has eight bits, and 128 + a signal fits them.
    Ok(u8::try_from(code & 0xff).unwrap_or(exit::FAILED))
}

/// The unpacked layers of an image, bottom first; what is not unpacked is.
pub(crate) fn lowers(store: &Store, documents: &Documents) -> Result<Vec<PathBuf>, CliError> {
    let layers: Vec<_> = documents
        .manifest
        .layers
        .iter()
        .cloned()
        .zip(documents.config.rootfs.diff_ids.iter().copied())
        .collect();
    let unpacked = store
        .unpack_image(&layers, &|_| ())
        .doing(|| format!("unpack {}", documents.name))?;
    Ok(unpacked.iter().map(|l| l.fs().to_owned()).collect())
}

/// The layers with a scratch layer on top, which goes when the command ends.
fn mount(
    session: &Session,
    work: &strata::store::Work,
    lowers: &[PathBuf],
) -> Result<OwnedFd, CliError> {
    let doing = || "make the root filesystem".to_owned();
    let upper = work.directory("upper").doing(doing)?;
    let scratch = work.directory("work").doing(doing)?;
    std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .doing(doing)?;
    overlay::mount(
        lowers,
        Some(overlay::Upper {
            changes: &upper,
            work: &scratch,
        }),
        overlay::Options {
            userxattr: session.privilege().userxattr(),
            volatile: true,
        },
    )
    .doing(doing)
}

/// A file of the root filesystem; empty where there is none. Links in it are followed inside it.
fn database(rootfs: &OwnedFd, path: &str) -> Result<String, CliError> {
    let opened = rustix::fs::openat2(
        rootfs,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let doing = || format!("read /{path} of the image");
    match opened {
        Ok(fd) => {
            let mut bytes = Vec::new();
            File::from(fd)
                .take(MAX_DATABASE_BYTES)
                .read_to_end(&mut bytes)
                .doing(doing)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(String::new()),
        Err(e) => Err(io::Error::from(e)).doing(doing),
    }
}

/// Names and addresses as every command needs them.
fn standard_files(hostname: &str) -> Result<Vec<Mount>, CliError> {
    let resolv = match std::fs::read("/etc/resolv.conf") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.doing(|| "read /etc/resolv.conf".to_owned())?,
    };
    let hosts =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let file = |target: &str, content: Vec<u8>| {
        Mount::File(FileMount {
            target: target.into(),
            content,
            mode: 0o644,
            uid: 0,
            gid: 0,
        })
    };
    Ok(vec![
        file("/etc/hosts", hosts.into_bytes()),
        file("/etc/resolv.conf", resolv),
        file("/etc/hostname", format!("{hostname}\n").into_bytes()),
    ])
}

fn open_path(path: &Path) -> Result<OwnedFd, CliError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .doing(|| format!("use the volume {}", path.display()))
}
