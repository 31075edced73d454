//! Why a step was not cached: the inputs in which it differs from the nearest earlier record.
//!
//! A record keeps the labelled inputs of its key and the [`Place`] of its step. The nearest record is, of those that were there
//! when the build began and that no other step of this build stands for, one of the same build (context and Dockerfile),
//! platform and instruction rather than another, then the one that shares the most inputs, then the one last of use. A record of
//! the same instruction counts wherever it stood, one of another instruction only at the same place.
//!
//! Nothing here decides what is built. Values of variables are in no record: a variable is told by its name, and by its value of
//! today unless the name is a secret's.

mod compare;
mod nearest;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::oci::Digest;
use crate::plan::graph::{Vertex, VertexId};
use crate::store::Record;

use super::BuildError;
use super::engine::{Engine, Outcome};
use super::event::{EventKind, StepId};
use super::listing::Listing;
use super::transfer::Part;

pub(super) use nearest::{History, place, step_text};

/// How much of a line or a value is shown, characters.
const MAX_SHOWN: usize = 120;

/// What a build does about steps that are not cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Explain {
    /// Runs them.
    #[default]
    No,
    /// Says why, and runs them.
    Tell,
    /// Fails before the first of them, and says why.
    Expect,
}

/// What became of something since the nearest earlier record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputChange {
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
    /// It is another.
    Changed,
}

/// One reason why a step ran. `Display` is a line for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// A flag forbade the cache.
    NoCache {
        /// `--no-cache`, or `--no-cache-filter` and the stage.
        flag: String,
    },
    /// There is nothing to compare with.
    NoRecord {
        /// Whether the store has records of this Dockerfile and context for this platform.
        known_build: bool,
        /// When a collection last took records away; RFC 3339, UTC.
        pruned: Option<String>,
    },
    /// The record is there, its layer is not.
    ResultGone,
    /// An earlier strata made the record, and counted other inputs.
    Version,
    /// A step that this one stands on ran.
    Step {
        /// Its name.
        step: String,
    },
    /// This step stands on something else, which is cached.
    Below {
        /// What was below, if that is known.
        was: Option<String>,
        /// What is.
        now: String,
    },
    /// The base image is another.
    Base {
        /// The reference and digest that were, if known.
        was: Option<String>,
        /// The reference and digest that are.
        now: String,
    },
    /// The text of the instruction, or of a here-document of it.
    Instruction {
        /// The here-document; `None` for the instruction itself.
        heredoc: Option<String>,
        /// The first line that differs, from 1, where there are several.
        line: Option<usize>,
        /// What it was; `None` if nothing, or if it may hold a secret.
        was: Option<String>,
        /// What it is; `None` if nothing, or if it may hold a secret.
        now: Option<String>,
    },
    /// The shell that runs the command.
    Shell {
        /// What it was.
        was: String,
        /// What it is.
        now: String,
    },
    /// A build argument.
    BuildArgument {
        /// Its name.
        name: String,
        /// What became of it.
        change: InputChange,
        /// Its value now, unless its name is a secret's.
        now: Option<String>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
        /// What became of it.
        change: InputChange,
        /// Its value now, unless its name is a secret's.
        now: Option<String>,
    },
    /// The same inputs in another order.
    Order {
        /// Of what.
        of: String,
    },
    /// A file that is read.
    File {
        /// Where it is: a path of the build context, or of what `from` says.
        path: String,
        /// Whose path it is, if not the build context's: `stage build`, `context docs`.
        from: Option<String>,
        /// What became of it.
        change: InputChange,
        /// In what it changed: `content`, `mode 0644 → 0755`, `type`, `target`, `owner`.
        what: Vec<String>,
    },
    /// More files than are told.
    MoreFiles {
        /// How many.
        count: usize,
    },
    /// Files of which no listing was kept.
    Files {
        /// The source, as written.
        source: String,
    },
    /// What a URL leads to.
    Url {
        /// Without credentials.
        url: String,
    },
    /// The commit that a git URL leads to.
    Commit {
        /// Without credentials.
        url: String,
        /// What it was.
        was: String,
        /// What it is.
        now: String,
    },
    /// A mount.
    Mount {
        /// Its type and target or id: `cache /root/.cache`.
        mount: String,
        /// Whether it is new or gone.
        change: InputChange,
    },
    /// Another input.
    Input {
        /// What it is called: `--chown`, `USER`, `cache /c sharing`.
        name: String,
        /// What it was.
        was: Option<String>,
        /// What it is.
        now: Option<String>,
    },
}

/// Why a step was not cached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// The step, as events name it.
    pub step: String,
    /// At least one; the step's own before those of the steps it stands on.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for InputChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InputChange::New => "is new",
            InputChange::Gone => "is gone",
            InputChange::Changed => "changed",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoCache { flag } => write!(f, "{flag} was given"),
            Reason::NoRecord {
                known_build,
                pruned,
            } => {
                f.write_str(match known_build {
                    true => "no earlier result of this step",
                    false => "first build of this Dockerfile and context in this store",
                })?;
                match (pruned, known_build) {
                    (Some(at), true) => write!(f, " (new, or pruned at {at})"),
                    (Some(at), false) => write!(f, ", or pruned at {at}"),
                    (None, true) => f.write_str(": it is new"),
                    (None, false) => Ok(()),
                }
            }
            Reason::ResultGone => f.write_str("the layer of the earlier result is gone"),
            Reason::Version => f.write_str("the earlier result is of another version of strata"),
            Reason::Step { step } => write!(f, "because {step} ran"),
            Reason::Below {
                was: Some(was),
                now,
            } if was != now => {
                write!(f, "it now follows {now} (was {was})")
            }
            Reason::Below { now, .. } => {
                write!(f, "{now} has another result than this step was built on")
            }
            Reason::Base { was, now } => match was {
                Some(was) => write!(f, "base image changed: {was} → {now}"),
                None => write!(f, "base image changed, to {now}"),
            },
            Reason::Instruction {
                heredoc,
                line,
                was,
                now,
            } => {
                match heredoc {
                    Some(name) => write!(f, "here-document {name} changed")?,
                    None => f.write_str("instruction changed")?,
                }
                if let Some(line) = line {
                    write!(f, " in line {line}")?;
                }
                match (was, now) {
                    (Some(was), Some(now)) => write!(f, ": {was} → {now}"),
                    (Some(was), None) => write!(f, ": {was} is gone"),
                    (None, Some(now)) => write!(f, ": {now} is new"),
                    (None, None) => Ok(()),
                }
            }
            Reason::Shell { was, now } => write!(f, "shell changed: {was} → {now}"),
            Reason::BuildArgument { name, change, now } => {
                variable(f, "build argument", name, *change, now)
            }
            Reason::Environment { name, change, now } => {
                variable(f, "environment variable", name, *change, now)
            }
            Reason::Order { of } => write!(f, "order of {of} changed"),
            Reason::File {
                path,
                from,
                change,
                what,
            } => {
                f.write_str(path)?;
                if let Some(from) = from {
                    write!(f, " of {from}")?;
                }
                write!(f, " {change}")?;
                match what.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {}", what.join(", ")),
                }
            }
            Reason::MoreFiles { count: 1 } => f.write_str("1 more file"),
            Reason::MoreFiles { count } => write!(f, "{count} more files"),
            Reason::Files { source } => write!(
                f,
                "files of {source} changed; which is not known, their earlier listing is gone"
            ),
            Reason::Url { url } => write!(f, "{url} changed: content"),
            Reason::Commit { url, was, now } => write!(f, "{url} moved: commit {was} → {now}"),
            Reason::Mount { mount, change } => write!(f, "mount {mount} {change}"),
            Reason::Input { name, was, now } => match (was, now) {
                (Some(was), Some(now)) => write!(f, "{name} changed: {was} → {now}"),
                (Some(was), None) => write!(f, "{name} is gone (was {was})"),
                (None, Some(now)) => write!(f, "{name} is new: {now}"),
                (None, None) => write!(f, "{name} changed"),
            },
        }
    }
}

fn variable(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    name: &str,
    change: InputChange,
    now: &Option<String>,
) -> fmt::Result {
    write!(f, "{what} {name} {change}")?;
    match (change, now) {
        (InputChange::Changed, Some(now)) => write!(f, ", to {now}"),
        (InputChange::New, Some(now)) => write!(f, ": {now}"),
        _ => Ok(()),
    }
}

/// Bytes as a terminal can take them: what is not UTF-8 replaced, control characters escaped, cut where it is long.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == MAX_SHOWN {
            shown.push('…');
            break;
        }
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

fn quoted(text: &str) -> String {
    match text.is_empty() {
        true => "\"\"".to_owned(),
        false => shown(text.as_bytes()),
    }
}

/// A step that is not cached, and what its key was made of.
pub(super) struct Missed<'m> {
    pub(super) id: VertexId,
    pub(super) key: &'m Digest,
    pub(super) inputs: &'m [(String, String)],
    pub(super) below: Option<&'m Outcome>,
    pub(super) parts: &'m [Part],
}

impl Engine<'_> {
    /// Keeps what the inputs of a step held, for later explanations.
    pub(super) fn keep_listings(
        &self,
        inputs: &[(String, String)],
        parts: &[Part],
    ) -> Result<(), BuildError> {
        for (digest, part) in listed(inputs, parts) {
            self.store
                .keep_listing(&digest, |sink| part.list(&mut Listing::new(sink)))?;
        }
        Ok(())
    }

    /// Says why a step is not cached, if anybody wants to know; fails if it was expected to be.
    pub(super) fn tell(&self, missed: &Missed<'_>) -> Result<(), BuildError> {
        let why = match self.request.explain {
            Explain::No => return Ok(()),
            Explain::Tell | Explain::Expect => self.explain(missed)?,
        };
        if self.request.explain == Explain::Expect {
            return Err(BuildError::NotCached(why));
        }
        let (step, why) = (StepId(missed.id.0), Arc::new(why));
        self.events.event(EventKind::NotCached { step, why });
        Ok(())
    }

    // Reads the earlier records, before this build adds its own to them.
    fn explain(&self, missed: &Missed<'_>) -> Result<Explanation, BuildError> {
        let vertex = self.vertex_of(missed.id);
        let records = self.history.records(self)?;
        Ok(Explanation {
            step: vertex.name.clone(),
            reasons: self.reasons(missed, vertex, &records)?,
        })
    }

    fn reasons(
        &self,
        missed: &Missed<'_>,
        vertex: &Vertex,
        records: &[Record],
    ) -> Result<Vec<Reason>, BuildError> {
        if vertex.no_cache {
            let flag = match self.request.no_cache {
                true => "--no-cache".to_owned(),
                false => format!("--no-cache-filter {}", vertex.stage),
            };
            return Ok(vec![Reason::NoCache { flag }]);
        }
        if self.store.cache_is_hollow(missed.key)? {
            return Ok(vec![Reason::ResultGone]);
        }
        if records.iter().any(|r| r.key == *missed.key) {
            // All inputs are the same, but the layers below are others: a step there ran again, and made something else.
            return Ok(vec![self.below(missed, vertex, None)]);
        }
        let place = place(self.request.graph, missed.id, self.request.build);
        match self.nearest(missed, vertex, &place, records) {
            Some(record) => self.compare(missed, vertex, &place, record),
            None => {
                let pruned = self.store.pruned()?;
                let known_build = records.iter().any(|r| {
                    let of = r.place.as_ref();
                    of.is_some_and(|p| p.build == place.build && p.platform == place.platform)
                });
                let pruned = pruned
                    .and_then(|at| jiff::Timestamp::try_from(at).ok())
                    .and_then(|at| jiff::Timestamp::from_second(at.as_second()).ok())
                    .map(|at| at.to_string());
                Ok(vec![Reason::NoRecord {
                    known_build,
                    pruned,
                }])
            }
        }
    }
}

// The inputs that have listings: label, digest and files. Parts come in the order of their labels.
fn listed_with_labels<'i>(
    inputs: &'i [(String, String)],
    parts: &'i [Part],
) -> impl Iterator<Item = (&'i str, Digest, &'i Part)> {
    let labels = inputs.iter().filter(|(label, _)| {
        let first = label.split(' ').next().unwrap_or_default();
        matches!(first, "files" | "file" | "heredoc" | "repository")
            || (first == "bind" && !label.ends_with(" read-only"))
    });
    labels.zip(parts).filter_map(|((label, value), part)| {
        let digest = part.is_listed().then(|| value.parse::<Digest>().ok())??;
        Some((label.as_str(), digest, part))
    })
}

fn listed<'i>(
    inputs: &'i [(String, String)],
    parts: &'i [Part],
) -> impl Iterator<Item = (Digest, &'i Part)> {
    listed_with_labels(inputs, parts).map(|(_, digest, part)| (digest, part))
}
