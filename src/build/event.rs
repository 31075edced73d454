//! What a build says while it runs.

use std::sync::Arc;
use std::time::SystemTime;

use crate::dockerfile::Diagnostic;

use super::Explanation;

/// A step as events name it: vertices of the graph first, then what the engine does besides (`[internal] load build
/// context`, `exporting to image`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct StepId(pub usize);

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A step began.
    Started {
        /// Which.
        step: StepId,
        /// As people see it: `[build 2/5] RUN make`.
        name: String,
    },
    /// A step wrote something.
    Output {
        /// Which.
        step: StepId,
        /// Whether to its standard error.
        stderr: bool,
        /// What, as it came; may end inside a line or a character.
        data: Vec<u8>,
    },
    /// A part of a step got on: a transfer, an unpacking.
    Progress {
        /// Which step.
        step: StepId,
        /// Which part: `sha256:0123456789ab`.
        part: String,
        /// How many bytes are done.
        done_bytes: u64,
        /// Of how many, if known.
        total_bytes: Option<u64>,
    },
    /// A step is not cached, and this is why; it runs now.
    NotCached {
        /// Which.
        step: StepId,
        /// Why.
        why: Arc<Explanation>,
    },
    /// A step ended well.
    Finished {
        /// Which.
        step: StepId,
        /// Whether an earlier result was used.
        cached: bool,
    },
    /// A step failed.
    Failed {
        /// Which.
        step: StepId,
        /// The first line of why.
        message: String,
    },
    /// A step was given up because another failed or the user ended the build.
    Canceled {
        /// Which.
        step: StepId,
    },
    /// Something the user should know.
    Warning(Diagnostic),
    /// Something the user should know that no line of the Dockerfile says.
    Notice(String),
}

/// Takes events, from any thread.
pub trait Events: Sync {
    /// Called in the order in which things happen in each step.
    fn event(&self, kind: EventKind);
}
