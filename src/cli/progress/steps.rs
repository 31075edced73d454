//! What is known of a build's steps, from its events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use strata::build::{EventKind, Explanation, StepId};

/// How many lines of a step's output are kept for the message of its failure.
const TAIL_LINES: usize = 20;

/// The longest line that is kept whole; a longer one is shown in pieces, so that memory stays flat whatever a step writes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// How a step is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// It ended well.
    Done,
    /// An earlier result was used.
    Cached,
    /// It failed, with the first line of why.
    Failed(String),
    /// It was given up.
    Canceled,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    /// Its place in the order of beginnings, from 1.
    pub(crate) number: usize,
    /// As people see it.
    pub(crate) name: String,
    /// When it began, since the build did.
    pub(crate) started: Duration,
    /// When it ended.
    pub(crate) ended: Option<Duration>,
    /// How it is.
    pub(crate) state: State,
    /// The last lines of its output, with the time since its beginning.
    pub(crate) tail: VecDeque<Line>,
    /// Why it was not cached, as far as that was asked.
    pub(crate) why: Option<Arc<Explanation>>,
    /// Transfers: bytes done, and of how many.
    pub(crate) parts: BTreeMap<String, (u64, Option<u64>)>,
    /// The beginnings of lines, of standard output and standard error.
    partial: [Vec<u8>; 2],
}

/// A line of output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    /// Since its step began.
    pub(crate) at: Duration,
    /// Without the newline.
    pub(crate) bytes: Vec<u8>,
}

/// The step that made a build fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FailedStep {
    /// Which.
    pub(crate) id: StepId,
    /// As people see it.
    pub(crate) name: String,
    /// The last lines of its output.
    pub(crate) tail: Vec<Line>,
}

/// What an event changed, for the views.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// A step began.
    Started(StepId),
    /// A step wrote whole lines.
    Lines(StepId, Vec<Line>),
    /// A part of a step got on: its name, and whether it is whole now.
    Part(StepId, String, bool),
    /// It is known why a step runs.
    NotCached(StepId),
    /// A step ended; the lines are what it had not finished.
    Ended(StepId, Vec<Line>),
    /// A word to the user.
    Notice(String),
    /// Nothing to see.
    Nothing,
}

/// All steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    steps: BTreeMap<StepId, Step>,
    failed: Option<StepId>,
}

impl Steps {
    /// The step; every id in a [`Change`] is known.
    pub(crate) fn get(&self, id: StepId) -> Option<&Step> {
        self.steps.get(&id)
    }

    /// The steps that run, oldest first.
    pub(crate) fn running(&self) -> Vec<&Step> {
        let mut running: Vec<&Step> = self
            .steps
            .values()
            .filter(|s| s.state == State::Running)
            .collect();
        running.sort_by_key(|s| s.number);
        running
    }

    /// How many ended, and how many there are so far.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let ended = self.steps.values().filter(|s| s.ended.is_some()).count();
        (ended, self.steps.len())
    }

    /// Why steps were not cached, in the order in which they began.
    pub(crate) fn explanations(&self) -> Vec<Arc<Explanation>> {
        let mut told: Vec<(usize, &Arc<Explanation>)> = self
            .steps
            .values()
            .filter_map(|s| Some((s.number, s.why.as_ref()?)))
            .collect();
        told.sort_by_key(|(number, _)| *number);
        told.into_iter().map(|(_, why)| why.clone()).collect()
    }

    /// The first step that failed.
    pub(crate) fn failed(&self) -> Option<FailedStep> {
        let id = self.failed?;
        let step = self.get(id)?;
        Some(FailedStep {
            id,
            name: step.name.clone(),
            tail: step.tail.iter().cloned().collect(),
        })
    }

    /// Applies an event that came `at` after the build began. Events of steps that never began are dropped.
    pub(crate) fn apply(&mut self, at: Duration, kind: &EventKind) -> Change {
        match kind {
            EventKind::Started { step, name } => {
                let number = self.steps.len() + 1;
                let entry = self.steps.entry(*step).or_insert_with(|| Step {
                    number,
                    name: name.clone(),
                    started: at,
                    ended: None,
                    state: State::Running,
                    tail: VecDeque::new(),
                    why: None,
                    parts: BTreeMap::new(),
                    partial: Default::default(),
                });
                entry.state = State::Running;
                entry.ended = None;
                Change::Started(*step)
            }
            EventKind::Output { step, stderr, data } => match self.steps.get_mut(step) {
                Some(s) => {
                    let lines = s.output(at, usize::from(*stderr), data);
                    if lines.is_empty() {
                        Change::Nothing
                    } else {
                        Change::Lines(*step, lines)
                    }
                }
                None => Change::Nothing,
            },
            EventKind::Progress {
                step,
                part,
                done_bytes,
                total_bytes,
            } => match self.steps.get_mut(step) {
                Some(s) => {
                    let whole = total_bytes.is_some_and(|t| *done_bytes >= t);
                    let before = s.parts.insert(part.clone(), (*done_bytes, *total_bytes));
                    // A part is reported whole once.
                    let again = before.is_some_and(|(d, t)| t.is_some_and(|t| d >= t));
                    Change::Part(*step, part.clone(), whole && !again)
                }
                None => Change::Nothing,
            },
            EventKind::NotCached { step, why } => match self.steps.get_mut(step) {
                Some(s) => {
                    s.why = Some(why.clone());
                    Change::NotCached(*step)
                }
                None => Change::Nothing,
            },
            EventKind::Finished { step, cached } => {
                let state = if *cached { State::Cached } else { State::Done };
                self.end(at, *step, state)
            }
            EventKind::Failed { step, message } => {
                self.failed.get_or_insert(*step);
                self.end(at, *step, State::Failed(message.clone()))
            }
            EventKind::Canceled { step } => self.end(at, *step, State::Canceled),
            EventKind::Notice(text) => Change::Notice(text.clone()),
            // Shown when the build has ended, with their lines.
            EventKind::Warning(_) => Change::Nothing,
        }
    }

    fn end(&mut self, at: Duration, id: StepId, state: State) -> Change {
        match self.steps.get_mut(&id) {
            Some(step) => {
                step.state = state;
                step.ended = Some(at);
                Change::Ended(id, step.flush(at))
            }
            None => Change::Nothing,
        }
    }
}

impl Step {
    /// How long it has run.
    pub(crate) fn duration(&self, at: Duration) -> Duration {
        self.ended.unwrap_or(at).saturating_sub(self.started)
    }

    fn output(&mut self, at: Duration, stream: usize, data: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = data;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let mut bytes = std::mem::take(&mut self.partial[stream]);
            bytes.extend_from_slice(&rest[..end]);
            lines.push(self.line(at, bytes));
            rest = &rest[end + 1..];
        }
        self.partial[stream].extend_from_slice(rest);
        if self.partial[stream].len() > MAX_LINE_BYTES {
            let bytes = std::mem::take(&mut self.partial[stream]);
            lines.push(self.line(at, bytes));
        }
        lines
    }

    fn flush(&mut self, at: Duration) -> Vec<Line> {
        let mut lines = Vec::new();
        for stream in 0..self.partial.len() {
            let bytes = std::mem::take(&mut self.partial[stream]);
            if !bytes.is_empty() {
                lines.push(self.line(at, bytes));
            }
        }
        lines
    }

    fn line(&mut self, at: Duration, mut bytes: Vec<u8>) -> Line {
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let line = Line {
            at: at.saturating_sub(self.started),
            bytes,
        };
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(data: &[u8], stderr: bool) -> EventKind {
        EventKind::Output {
            step: StepId(0),
            stderr,
            data: data.to_vec(),
        }
    }

    fn started() -> Steps {
        let mut steps = Steps::default();
        steps.apply(
            Duration::ZERO,
            &EventKind::Started {
                step: StepId(0),
                name: "a".to_owned(),
            },
        );
        steps
    }

    fn texts(change: Change) -> Vec<Vec<u8>> {
        match change {
            Change::Lines(_, lines) | Change::Ended(_, lines) => {
                lines.into_iter().map(|l| l.bytes).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn lines_are_joined_from_pieces_and_streams_do_not_mix() {
        let mut steps = started();
        let at = Duration::from_secs(1);
        assert!(texts(steps.apply(at, &output(b"one", false))).is_empty());
        assert!(texts(steps.apply(at, &output(b"err", true))).is_empty());
        assert_eq!(
            texts(steps.apply(at, &output(b" more\r\ntwo\n", false))),
            [b"one more".to_vec(), b"two".to_vec()]
        );
        let end = EventKind::Finished {
            step: StepId(0),
            cached: false,
        };
        assert_eq!(texts(steps.apply(at, &end)), [b"err".to_vec()]);
    }

    #[test]
    fn a_line_without_an_end_does_not_grow_for_ever() {
        let mut steps = started();
        let lines = texts(steps.apply(Duration::ZERO, &output(&[b'x'; MAX_LINE_BYTES + 1], false)));
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn the_first_failure_is_kept_with_its_tail() {
        let mut steps = started();
        for n in 0..30 {
            steps.apply(Duration::ZERO, &output(format!("{n}\n").as_bytes(), false));
        }
        steps.apply(
            Duration::ZERO,
            &EventKind::Failed {
                step: StepId(0),
                message: "no".to_owned(),
            },
        );
        let failed = steps.failed().unwrap();
        assert_eq!(failed.tail.len(), TAIL_LINES);
        assert_eq!(failed.tail.last().unwrap().bytes, b"29");
    }

    #[test]
    fn events_of_unknown_steps_are_dropped() {
        let mut steps = Steps::default();
        assert_eq!(
            steps.apply(Duration::ZERO, &output(b"x\n", false)),
            Change::Nothing
        );
    }
}
