//! `build --verify`: the second build, and what is said of two that differ.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use strata::build::{
    self, BuildError, Built, EventKind, Events, Fetch, Found, Request, StepId, Verdict,
};
use strata::store::Store;

use super::failure;
use super::resolve::FIRST_STEP;
use super::session::Session;

/// The steps of a second build are counted from here: past those of the first, before those that are no vertices.
const AGAIN: usize = 1 << 30;

/// The events of a second build: its steps are others than those of the first.
struct Again<'a>(&'a dyn Events);

impl Events for Again<'_> {
    fn event(&self, kind: EventKind) {
        let other = |step: StepId| match step.0 {
            vertex if vertex < FIRST_STEP => StepId(vertex + AGAIN),
            other => StepId(other),
        };
        self.0.event(match kind {
            EventKind::Started { step, name } => EventKind::Started {
                step: other(step),
                name: match name.strip_prefix('[') {
                    Some(rest) => format!("[again: {rest}"),
                    None => format!("[again] {name}"),
                },
            },
            EventKind::Output { step, stderr, data } => EventKind::Output {
                step: other(step),
                stderr,
                data,
            },
            EventKind::Progress {
                step,
                part,
                done_bytes,
                total_bytes,
            } => EventKind::Progress {
                step: other(step),
                part,
                done_bytes,
                total_bytes,
            },
            EventKind::Finished { step, cached } => EventKind::Finished {
                step: other(step),
                cached,
            },
            EventKind::Failed { step, message } => EventKind::Failed {
                step: other(step),
                message,
            },
            EventKind::Canceled { step } => EventKind::Canceled { step: other(step) },
            // Said already.
            EventKind::Warning(_) | EventKind::Notice(_) => return,
            kind => kind,
        });
    }
}

/// Builds once more in other conditions: in a later second of the clock, independent steps in the other order and another
/// number of them at once, on one processor fewer, in other folders.
pub(super) fn again(
    store: &Store,
    request: &mut Request<'_>,
    fetch: &dyn Fetch,
    events: &dyn Events,
    session: &Session,
) -> Result<Built, BuildError> {
    let jobs = request.jobs;
    request.jobs = if jobs == 1 { 2 } else { 1 };
    request.last_first = true;
    // Steps write whole seconds: none of this build may be of one that a step of the first saw.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.subsec_nanos());
    std::thread::sleep(Duration::from_secs(1) - Duration::from_nanos(u64::from(nanos)));
    let before = fewer_processors();
    let built = build::build(store, request, fetch, &Again(events), session.cancel());
    if let Some(before) = before
        && let Err(error) = sched_setaffinity(None, &before)
    {
        tracing::warn!(%error, "cannot use all processors again");
    }
    request.jobs = jobs;
    request.last_first = false;
    built
}

/// Leaves one processor to others, from which threads and commands take their number; gives what was before.
fn fewer_processors() -> Option<CpuSet> {
    let before = sched_getaffinity(None).ok()?;
    let mut fewer = before;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| before.is_set(*cpu))?;
    fewer.unset(last);
    (fewer.count() > 0).then_some(())?;
    sched_setaffinity(None, &fewer).ok().map(|()| before)
}

/// Compares two builds, shown as a step of its own.
pub(super) fn compare(
    store: &Store,
    request: &Request<'_>,
    events: &dyn Events,
    builds: [&Built; 2],
    dockerfile: (&str, &str),
) -> Result<Verdict, BuildError> {
    // Before the first that is no vertex, after all that are.
    let step = StepId(FIRST_STEP - 1);
    let name = "comparing the two builds".to_owned();
    events.event(EventKind::Started { step, name });
    let verdict = build::verify(store, request.graph, &request.image, builds);
    let failed = |message| EventKind::Failed { step, message };
    events.event(match &verdict {
        Ok(verdict) if verdict.reproducible => EventKind::Finished {
            step,
            cached: false,
        },
        Ok(verdict) => {
            let data = words(verdict, dockerfile.0, dockerfile.1).into_bytes();
            events.event(EventKind::Output {
                step,
                stderr: false,
                data,
            });
            failed(short(verdict, dockerfile.0))
        }
        Err(error) => failed(error.to_string()),
    });
    verdict
}

/// What differs, in words: the Dockerfile's lines, the path, and how.
fn words(verdict: &Verdict, name: &str, source: &str) -> String {
    let mut text = String::new();
    match &verdict.first {
        Some(Found::Path {
            step,
            lines,
            path,
            how,
            copied,
        }) => {
            text.push_str(&failure::excerpt(name, source, lines, None));
            text.push_str(&format!("{step}\n  {path}\n"));
            for one in how {
                text.push_str(&format!("    {one}\n"));
            }
            if let Some(copied) = copied {
                text.push_str(&format!(
                    "  in the image it is {}, by {}\n",
                    copied.path, copied.step
                ));
            }
        }
        Some(Found::Config { field, one, two }) => {
            text.push_str(&format!(
                "the image's configuration\n  {field}: {one}, then {two}\n"
            ));
        }
        Some(Found::Manifest) | None => text.push_str("the image's manifest\n"),
    }
    if verdict.count > 1 {
        let times = if verdict.only_times {
            ", in times only"
        } else {
            ""
        };
        text.push_str(&format!("and {} more{times}\n", verdict.count - 1));
    }
    text
}

/// The step, the path and how in a line, for an error.
pub(super) fn short(verdict: &Verdict, name: &str) -> String {
    match &verdict.first {
        Some(Found::Path {
            lines, path, how, ..
        }) => {
            // Whatever differs was written at two times, too.
            let said = how
                .iter()
                .filter(|one| verdict.only_times || !one.is_time());
            let how: Vec<String> = said.map(ToString::to_string).collect();
            format!(
                "two builds differ: {name}:{}: {path}: {}",
                lines.start,
                how.join("; ")
            )
        }
        Some(Found::Config { field, .. }) => {
            format!("two builds differ: {field} of the configuration")
        }
        Some(Found::Manifest) | None => "two builds differ: the manifest".to_owned(),
    }
}
