//! From stages and arguments to a graph of what to do.
//!
//! For: everything of a build that can be decided without touching a file: scopes of ARG and ENV, expansion, bases,
//! ONBUILD triggers, which stages the target needs, what each instruction reads, the final configuration and its history.
//!
//! Invariants: a [`Graph`] is pure data, in topological order (a vertex's inputs come before it); vertices that do the same
//! to the same inputs are one vertex, whichever platform asks for them; no clock and no host name is in it.
//!
//! Files: [`lower()`] goes through `stages` (what stands on what, what the target needs) and does each instruction:
//! `instruct` those that only change the configuration, `run` with `mounts`, and `copy`. `scope` and `args` say what a
//! name means, `bases` and `images` find what is built on and copied from, `weave` joins equal vertices. Texts of history follow Go's formats (`gotext`).
//!
//! The one effect it needs, an image's configuration by reference, is the trait [`Resolve`].
//!
//! Does no I/O of its own, runs nothing, and knows no cache.

mod args;
mod bases;
mod chmod;
mod copy;
mod error;
mod footguns;
mod gotext;
pub mod graph;
mod images;
mod instruct;
mod lower;
mod mounts;
mod names;
mod options;
mod outline;
mod paths;
mod ports;
mod print;
mod redact;
mod run;
mod scope;
mod signals;
mod stages;
mod weave;

#[cfg(test)]
mod lint_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::PlanError;
pub use graph::{Graph, Op, Origin, Output, Vertex, VertexId};
pub use lower::{lower, lower_noting};
pub use options::{NamedContext, Options, Resolve, ResolveError, ResolvedImage, Ulimit};
pub use outline::{Outline, OutlineArg, OutlineMount, described};
pub use ports::PortError;
pub use redact::redacted;
