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
//! Concurrency: any number of sandboxes at once; between fork and exec only async-signal-safe calls are made.
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
pub use spec::{Bind, Device, Limits, Mount, Network, Security, Spec, Stdio, Terminal};
pub use stubs::Created;
pub use userns::Privilege;

#[cfg(test)]
mod tests;
