//! What can go wrong between a [`Spec`](super::Spec) and its exit status.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// A situation in which no command ran, or no mount could be made. Paths of `Target` variants are inside the root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The process may not make namespaces at all.
    #[error("no permission to make {what}: {hint}")]
    Unprivileged {
        /// What was to be made.
        what: &'static str,
        /// What is missing, in words.
        hint: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// [`enter`](super::userns::enter) came too late.
    #[error("a user namespace can be entered only before any thread is started")]
    ManyThreads,
    /// A step of becoming the root of a user namespace failed.
    #[error("cannot set up the user namespace: {step}")]
    UserNamespace {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused an overlay mount.
    #[error("cannot mount an overlay of {lowers} folders ({step}){}{log}", if log.is_empty() { "" } else { ": " })]
    Overlay {
        /// How many lower directories were asked for.
        lowers: usize,
        /// The parameter or step that was refused.
        step: String,
        /// The kernel's own words, if it has any.
        log: String,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// A path of outside could not be mounted.
    #[error("cannot bind {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A mount, or the file or folder it needs, could not be made.
    #[error("cannot mount {what} at {}", target.display())]
    Mount {
        /// What was mounted.
        what: &'static str,
        /// Where in the root filesystem.
        target: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A mount's place is one that the sandbox keeps for itself.
    #[error("{} is inside /proc, where nothing can be mounted", target.display())]
    TargetInProc {
        /// Where it was to be mounted.
        target: PathBuf,
    },
    /// A folder for the command could not be made or entered.
    #[error("cannot use the working directory {}", path.display())]
    WorkingDirectory {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The command, an argument or a variable holds a zero byte.
    #[error("{what} holds a zero byte")]
    ZeroByte {
        /// Which kind of text.
        what: &'static str,
    },
    /// There is no first word.
    #[error("no command to run")]
    NoCommand,
    /// The command was not found. Shells report this as 127.
    #[error("exec: {command:?}: executable file not found in $PATH")]
    CommandNotFound {
        /// The first word of the command.
        command: OsString,
    },
    /// The command was found but cannot be executed. Shells report this as 126.
    #[error("exec: {command:?}")]
    CommandNotExecutable {
        /// The first word of the command.
        command: OsString,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A resource limit has no such name.
    #[error("unknown resource limit {name:?}")]
    UnknownLimit {
        /// The name.
        name: String,
    },
    /// A resource limit was refused.
    #[error("cannot set the limit {name} to {soft}:{hard}{}", if *raises { "; raising a hard limit needs CAP_SYS_RESOURCE" } else { "" })]
    ResourceLimit {
        /// The name.
        name: String,
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
        /// Whether the hard limit is above strata's own.
        raises: bool,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A control group limit was asked for and cannot be held.
    #[error("cannot limit {controller}: {reason}")]
    ControlGroup {
        /// `memory`, `cpu` or `pids`.
        controller: &'static str,
        /// Why, in words.
        reason: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another step of starting the command failed.
    #[error("cannot start the sandbox: {step}")]
    Start {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The state of the command could not be read or changed.
    #[error("cannot {action} the command")]
    Control {
        /// `signal`, `wait for`.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Removing the stubs of mounts failed.
    #[error("cannot remove the mount point {}", path.display())]
    Stub {
        /// The stub, relative to the root filesystem.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The terminal could not be used.
    #[error("cannot use the terminal: {step}")]
    Terminal {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl SandboxError {
    /// A step of [`SandboxError::Start`] as a function for `map_err`.
    pub(super) fn start<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Start {
            step,
            source: source.into(),
        }
    }
}
