//! A command from its [`Spec`] to its exit status.

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use rustix::thread::{Gid, ThreadNameSpaceType, Uid, UnshareFlags, move_into_thread_name_spaces};

use super::cgroup::Group;
use super::child::{self, Program, Report, Step, Streams};
use super::error::SandboxError;
use super::mounts::{self, Sources};
use super::seccomp;
use super::spec::{Security, Spec, Stdio};
use super::stubs::Created;
use super::sys;
use super::userns::{self, Privilege};

/// Where a command is looked for if its environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl Status {
    /// Whether the command says that all is well.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The code as a shell reports it: 128 and the signal's number for a signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// Ends or signals a command from any thread.
#[derive(Clone, Debug)]
pub struct Killer {
    pidfd: Arc<OwnedFd>,
}

impl Killer {
    /// Kills the command and with it everything in its PID namespace. A command that has ended already is none the worse.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Control`].
    pub fn kill(&self) -> Result<(), SandboxError> {
        self.signal(Signal::KILL)
    }

    /// Sends a signal to the command; as PID 1 it gets only what it has a handler for, SIGKILL and SIGSTOP apart.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Control`].
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(SandboxError::Control {
                action: "signal",
                source: error.into(),
            }),
        }
    }
}

/// A running command. Dropping it kills the command and waits for its end.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    killer: Killer,
    created: Created,
    terminal: Option<OwnedFd>,
    /// The thread that started the command: the kernel kills the command when it ends. `None` once waited for.
    keeper: Option<JoinHandle<Result<Status, SandboxError>>>,
}

impl Child {
    /// The command's number outside of the sandbox.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// A handle for other threads.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// What was made in the root filesystem to mount on; see [`Created::remove_stubs`].
    pub fn created(&self) -> &Created {
        &self.created
    }

    /// strata's end of the command's terminal, if it has one and nobody took it yet.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// See [`Killer::kill`].
    ///
    /// # Errors
    ///
    /// [`SandboxError::Control`].
    pub fn kill(&self) -> Result<(), SandboxError> {
        self.killer.kill()
    }

    /// See [`Killer::signal`].
    ///
    /// # Errors
    ///
    /// [`SandboxError::Control`].
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        self.killer.signal(signal)
    }

    /// Waits for the end of the command. Then no process of its PID namespace is left, and its mounts are gone.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Control`].
    pub fn wait(mut self) -> Result<Status, SandboxError> {
        self.join()
    }

    /// Whether the command has ended, so that [`Child::wait`] returns at once.
    pub fn has_ended(&self) -> bool {
        self.keeper.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How the command ended, if it has; the child is then done with.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Control`].
    pub fn try_wait(&mut self) -> Result<Option<Status>, SandboxError> {
        if self.has_ended() && self.keeper.is_some() {
            self.join().map(Some)
        } else {
            Ok(None)
        }
    }

    fn join(&mut self) -> Result<Status, SandboxError> {
        let lost = || SandboxError::Control {
            action: "wait for",
            source: io::Error::other("its thread is gone"),
        };
        let keeper = self.keeper.take().ok_or_else(lost)?;
        keeper.join().map_err(|_| lost())?
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            // Nothing to be done about a failure here; the thread's end would kill the command as well.
            let _ = self.killer.kill();
            let _ = self.join();
        }
    }
}

/// Starts a command. Returns when it has been executed.
///
/// A thread of its own builds the sandbox and then waits for the command, which dies with it: at the latest when strata ends, for
/// whatever reason. (The exception is a command that is itself a set-user-id program and is not started as root: the kernel
/// then takes the death signal away.)
///
/// # Errors
///
/// Which step failed and why; no process, mount or control group is left then.
pub fn spawn(spec: Spec) -> Result<Child, SandboxError> {
    let privilege = userns::current();
    let text = Text::new(&spec)?;
    let limits = limits(&spec.rlimits)?;
    // In the caller's mount namespace, where the sources are.
    let sources = Sources::take(&spec)?;
    let group = Group::new(&spec.limits)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let keeper = std::thread::Builder::new()
        .name("sandbox".to_owned())
        .spawn(move || {
            let started = start(spec, &text, &limits, sources, privilege, &group);
            let pid = match started {
                Ok((pid, started)) => {
                    let unheard = sender.send(Ok(started)).is_err();
                    drop(sender);
                    debug_assert!(!unheard, "spawn waits for this message");
                    pid
                }
                Err(error) => {
                    // Sent, not returned: the caller is waiting for this message. It is there, so this cannot fail.
                    let _ = sender.send(Err(error));
                    return Ok(Status::Exited(127));
                }
            };
            let status = wait_for(pid);
            drop(group);
            status
        })
        .map_err(SandboxError::start("a thread"))?;
    match receiver.recv() {
        Ok(Ok(started)) => Ok(Child {
            pid: started.pid,
            killer: Killer {
                pidfd: Arc::new(started.pidfd),
            },
            created: started.created,
            terminal: started.terminal,
            keeper: Some(keeper),
        }),
        Ok(Err(error)) => {
            // Its namespaces and groups go with it.
            let _ = keeper.join();
            Err(error)
        }
        Err(_) => {
            let _ = keeper.join();
            Err(SandboxError::Start {
                step: "building the sandbox",
                source: io::Error::other("the thread panicked"),
            })
        }
    }
}

struct Started {
    pid: Pid,
    pidfd: OwnedFd,
    created: Created,
    terminal: Option<OwnedFd>,
}

fn start(
    spec: Spec,
    text: &Text,
    limits: &[(Resource, Rlimit)],
    sources: Sources,
    privilege: &Privilege,
    group: &Group,
) -> Result<(Pid, Started), SandboxError> {
    let start = SandboxError::start::<Errno>;
    let outside = pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    )
    .map_err(start("a pidfd"))?;
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if mounts::own_network(&spec) {
        namespaces |= UnshareFlags::NEWNET;
    }
    sys::unshare(namespaces).map_err(|error| SandboxError::Unprivileged {
        what: "namespaces",
        hint: "CAP_SYS_ADMIN is missing".to_owned(),
        source: error.into(),
    })?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(start("setting the host name"))?;
    if mounts::own_network(&spec) {
        sys::loopback_up().map_err(start("the loopback interface"))?;
    }
    let world = mounts::build(&spec, sources, privilege)?;
    let (master, slave) = world.terminal.unzip();
    if let (Stdio::Terminal(terminal), Some(slave)) = (&spec.stdio, &slave) {
        super::terminal::resize(slave, terminal.rows, terminal.columns)?;
    }

    let groups: Vec<Gid> = spec
        .groups
        .iter()
        .map(|&group| Gid::from_raw(group))
        .collect();
    let single = !privilege.can_chown();
    let restricted = spec.security == Security::Default;
    let mut filters = Vec::new();
    if restricted {
        filters.push(seccomp::default_filter());
    }
    if single {
        filters.push(seccomp::single_id_filter());
    }
    filters.retain(|filter| !filter.is_empty());
    let mut streams = Streams {
        no_input: !matches!(spec.stdio, Stdio::Inherit { stdin: true }),
        stdout: None,
        stderr: None,
        terminal: slave,
        chown: false,
    };
    if let Stdio::Capture { stdout, stderr } = spec.stdio {
        (streams.stdout, streams.stderr, streams.chown) = (Some(stdout), Some(stderr), true);
    }
    let keeper = sys::this_thread().map_err(start("a pidfd"))?;
    let candidates: Vec<_> = text.candidates.iter().map(CString::as_c_str).collect();
    let program = Program {
        candidates: &candidates,
        arguments: &child::pointers(&text.arguments),
        environment: &child::pointers(&text.environment),
        cwd: &text.cwd,
        // With a single id there is no other user to become.
        uid: if single {
            Uid::ROOT
        } else {
            Uid::from_raw(spec.uid)
        },
        gid: if single {
            Gid::ROOT
        } else {
            Gid::from_raw(spec.gid)
        },
        groups: if single { None } else { Some(&groups) },
        limits,
        restricted,
        filters: &filters,
        streams: &streams,
        groups_to_join: group.processes(),
        keeper: keeper.as_fd(),
        report: Cell::new(None),
    };
    let (pid, pidfd) = begin(&program).map_err(start("a process"))?;
    let not_started = program
        .report
        .get()
        .map(|report| text.explain(report, &spec.rlimits, group));
    // The child alone keeps the mounts, so that they are gone when it is.
    let left = move_into_thread_name_spaces(outside.as_fd(), ThreadNameSpaceType::MOUNT);
    match not_started.map_or(left.map_err(start("leaving the sandbox")), Err) {
        Ok(()) => Ok((
            pid,
            Started {
                pid,
                pidfd,
                created: world.created,
                terminal: master,
            },
        )),
        Err(error) => {
            // If it has not ended by itself. The error is what is to be told.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            wait_for(pid)?;
            Err(error)
        }
    }
}

#[expect(unsafe_code, reason = "vfork")]
fn begin(program: &Program<'_>) -> Result<(Pid, OwnedFd), Errno> {
    // No handler of strata's may run in the child: what it touches is strata's.
    let signals = sys::block_signals();
    // SAFETY: `child::run` keeps to system calls and ends in exec or exit. It gets the program that it wants: its lists are
    // null-terminated by `child::pointers`, and their strings live in `text`.
    let begun =
        unsafe { sys::start_in_pid_namespace(child::run, (&raw const *program).cast_mut().cast()) };
    sys::restore_signals(&signals);
    begun
}

fn wait_for(pid: Pid) -> Result<Status, SandboxError> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(code) = status.exit_status() {
                    return Ok(Status::Exited(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Status::Signaled(signal));
                }
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(SandboxError::Control {
                    action: "wait for",
                    source: error.into(),
                });
            }
        }
    }
}

/// The texts of a spec in the form that exec wants.
struct Text {
    command: OsString,
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    cwd: CString,
}

impl Text {
    fn new(spec: &Spec) -> Result<Self, SandboxError> {
        let c_string =
            |what, bytes: Vec<u8>| CString::new(bytes).map_err(|_| SandboxError::ZeroByte { what });
        let command = spec.args.first().ok_or(SandboxError::NoCommand)?;
        let path = spec
            .env
            .iter()
            .rev()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.as_os_str());
        let candidates = candidates(command, path.unwrap_or(OsStr::from_bytes(DEFAULT_PATH)));
        Ok(Self {
            command: command.clone(),
            candidates: candidates
                .into_iter()
                .map(|path| c_string("the command", path))
                .collect::<Result<_, _>>()?,
            arguments: spec
                .args
                .iter()
                .map(|argument| c_string("an argument", argument.clone().into_vec()))
                .collect::<Result<_, _>>()?,
            environment: spec
                .env
                .iter()
                .map(|(name, value)| {
                    c_string(
                        "a variable",
                        [name.as_bytes(), b"=", value.as_bytes()].concat(),
                    )
                })
                .collect::<Result<_, _>>()?,
            cwd: c_string("the working directory", spec.cwd.clone().into_vec())?,
        })
    }

    /// The child's numbers in words.
    fn explain(
        &self,
        report: Report,
        rlimits: &[(String, u64, u64)],
        group: &Group,
    ) -> SandboxError {
        let source = io::Error::from(report.errno);
        let command = || self.command.clone();
        match report.step {
            Step::Exec if report.errno == Errno::NOENT => {
                SandboxError::CommandNotFound { command: command() }
            }
            Step::Exec => SandboxError::CommandNotExecutable {
                command: command(),
                source,
            },
            Step::WorkingDirectory => SandboxError::WorkingDirectory {
                path: PathBuf::from(OsStr::from_bytes(self.cwd.as_bytes())),
                source,
            },
            Step::ControlGroup => group.refusal(report.index, source),
            Step::Limit => match rlimits.get(report.index) {
                Some((name, soft, hard)) => {
                    let own = resource(name)
                        .and_then(|resource| rustix::process::getrlimit(resource).maximum);
                    let raises = own.is_some_and(|own| *hard > own);
                    SandboxError::ResourceLimit {
                        name: name.clone(),
                        soft: *soft,
                        hard: *hard,
                        raises,
                        source,
                    }
                }
                None => SandboxError::Start {
                    step: report.step.what(),
                    source,
                },
            },
            step => SandboxError::Start {
                step: step.what(),
                source,
            },
        }
    }
}

/// The paths that a command may be, in order: itself if it has a slash, else in each folder of `PATH`.
fn candidates(command: &OsStr, path: &OsStr) -> Vec<Vec<u8>> {
    let command = command.as_bytes();
    if command.contains(&b'/') {
        return vec![command.to_vec()];
    }
    if command.is_empty() {
        return Vec::new();
    }
    let folders = path.as_bytes().split(|&byte| byte == b':');
    folders
        .map(|folder| [if folder.is_empty() { b"." } else { folder }, b"/", command].concat())
        .collect()
}

fn limits(named: &[(String, u64, u64)]) -> Result<Vec<(Resource, Rlimit)>, SandboxError> {
    let value = |number: u64| (number != u64::MAX).then_some(number);
    named
        .iter()
        .map(|(name, soft, hard)| {
            let resource =
                resource(name).ok_or_else(|| SandboxError::UnknownLimit { name: name.clone() })?;
            Ok((
                resource,
                Rlimit {
                    current: value(*soft),
                    maximum: value(*hard),
                },
            ))
        })
        .collect()
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
