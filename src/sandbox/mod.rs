//! One process, isolated over a root filesystem.
//!
//! For: namespaces, id maps, mounts, cgroups, capabilities, seccomp, standard streams, signals and exit status of a single
//! command. [`overlay`] stacks directories into a mount that has no place in the file system until a sandbox attaches it;
//! [`userns`] makes an ordinary user the root of a user namespace; [`spawn`] runs a [`Spec`].
//!
//! Invariants: an overlay is a detached mount owned by a file descriptor, and a sandbox's mounts live in its own mount
//! namespace, so that nothing is left mounted whatever ends the process; the command is PID 1 of its own PID namespace and is
//! killed with the thread that started it, so that nothing is left running; no mount point, file or device is created
//! outside the root filesystem, whatever links it holds.
//!
//! How a command starts:
//!
//! ```text
//! caller's thread    copies of the root filesystem and of bind sources (detached mounts), control groups
//!   │ a thread
//!   ▼
//! sandbox thread     leaves mount, IPC, UTS (and network) namespaces; builds the mounts in ordinary code; pivot_root
//!   │ vfork into a PID namespace            ▲ why it failed, or nothing: it was executed
//!   ▼                                       │
//! child              joins its control groups; /proc, masks; limits, capabilities, seccomp, ids; exec
//! ```
//!
//! The thread then waits for the command, and the kernel kills the command when the thread ends, at the latest with strata.
//!
//! Restrictions ([`Security::Default`]) are docker's: 14 capabilities, its seccomp profile (also for 32-bit programs), masked and
//! read-only parts of /proc and /sys. `no_new_privs` is off, as there.
//!
//! Rootless: in a user namespace devices are bind mounts of the host's, and /sys is a read-only copy of the host's unless the
//! network is the sandbox's own. With a *single id* ([`Privilege::Single`]) every user is 0: a filter answers success, and does
//! nothing, when a program gives a file or itself to another id or makes a device, so that tar, dpkg and rpm get on. What
//! a program reads back is the truth (0), so one that checks, as apt does for its sandbox user, must be told not to switch.
//!
//! Concurrency: any number of sandboxes at once; before exec the child only makes system calls.
//!
//! Needs Linux 5.12; before 6.5 overlays are mounted another way, and before 6.15 a detached root filesystem or bind source can
//! be used by one sandbox only.
//!
//! Knows no image words (layer, config, Dockerfile). The only room with `unsafe`.

pub mod cgroup;
mod child;
mod error;
mod mounts;
pub mod overlay;
mod process;
mod resolve;
mod seccomp;
pub mod spec;
mod stubs;
mod sys;
mod syscalls;
pub mod terminal;
pub mod userns;

pub use error::SandboxError;
pub use process::{Child, Killer, Status, spawn};
pub use rustix::process::Signal;
pub use spec::{Bind, Device, FileMount, Limits, Mount, Network, Security, Spec, Stdio, Terminal};
pub use stubs::Created;
pub use userns::Privilege;

#[cfg(test)]
mod tests;
