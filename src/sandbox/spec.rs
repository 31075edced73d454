//! What to run and how it is isolated.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A command and the world it sees.
#[derive(Debug)]
pub struct Spec {
    /// The root filesystem: a detached mount (see [`super::overlay`]) or an O_PATH descriptor of a directory.
    pub rootfs: Arc<OwnedFd>,
    /// The command; the first word is looked up in `PATH` of `env` inside the root filesystem.
    pub args: Vec<OsString>,
    /// The whole environment, in order.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, absolute; made (0755, 0:0) if it is not there.
    pub cwd: OsString,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The host name.
    pub hostname: String,
    /// Mounts beyond the standard ones (/proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys), in order.
    pub mounts: Vec<Mount>,
    /// Which network.
    pub network: Network,
    /// Which restrictions.
    pub security: Security,
    /// Resource limits as `setrlimit` names them: `nofile`, soft, hard.
    pub rlimits: Vec<(String, u64, u64)>,
    /// Limits of a control group; none makes no group.
    pub limits: Limits,
    /// The size of /dev/shm.
    pub shm_size_bytes: u64,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// Standard streams.
    pub stdio: Stdio,
}

/// A mount of the sandbox. Targets are absolute paths inside the root filesystem; links in them are followed inside it.
#[derive(Debug)]
pub enum Mount {
    /// A file or folder of outside.
    Bind(Bind),
    /// A folder in memory, mode 1777.
    Tmpfs {
        /// Where.
        target: OsString,
        /// Its size; `None` is the kernel's default.
        size_bytes: Option<u64>,
        /// Its mode.
        mode: u32,
    },
    /// A device of the host.
    Device(Device),
    /// A file that is nowhere but in the sandbox's memory.
    File(FileMount),
}

/// A bind mount.
#[derive(Debug)]
pub struct Bind {
    /// A descriptor of what is mounted (O_PATH will do); a detached mount is moved.
    pub source: Arc<OwnedFd>,
    /// Where.
    pub target: OsString,
    /// Whether it can be written to.
    pub read_only: bool,
    /// Whether mounts inside the source come along.
    pub recursive: bool,
}

/// A read-only file made for the sandbox: name resolution, secrets, scripts. It never touches a disk.
#[derive(Clone)]
pub struct FileMount {
    /// Where.
    pub target: OsString,
    /// What it holds.
    pub content: Vec<u8>,
    /// Its mode.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

// What a file holds may be a secret.
impl std::fmt::Debug for FileMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileMount")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// A device node of the host to be seen inside.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its path outside.
    pub source: PathBuf,
    /// Its path inside.
    pub target: OsString,
}

/// Which network the command sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// The one strata is in.
    Host,
    /// A loopback of its own and nothing else.
    None,
}

/// Which restrictions hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// docker's default capabilities and seccomp profile, masked and read-only paths of /proc and /sys.
    Default,
    /// All capabilities that strata has, no seccomp, nothing masked.
    Insecure,
}

/// Limits of a control group.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// CPUs, as 1.5.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// Whether no limit is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// Standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// Input from /dev/null; output and errors each to a descriptor.
    Capture {
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// strata's own streams; input only if asked for.
    Inherit {
        /// Whether strata's standard input is passed on.
        stdin: bool,
    },
    /// A terminal of its own, connected to strata's.
    Terminal(Terminal),
}

/// A new pseudo-terminal for the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terminal {
    /// Rows at the start.
    pub rows: u16,
    /// Columns at the start.
    pub columns: u16,
}
