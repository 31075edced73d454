//! A line for everything that happens, as BuildKit's `--progress plain`: for logs, and for `grep`.

use std::io::Write as _;
use std::time::Duration;

use super::steps::{Change, Line, State, Steps};
use crate::cli::output::human_size;

/// The plain view. Lines of several steps may follow each other in any order: the number in front says whose they are.
#[derive(Default)]
pub(crate) struct Plain {
    /// Whether anything was written, so that a blank line stands between steps and not in front of the first.
    begun: bool,
}

impl Plain {
    /// What `change` adds to the log.
    pub(crate) fn change(&mut self, at: Duration, steps: &Steps, change: &Change) -> Vec<u8> {
        let mut out = Vec::new();
        match change {
            Change::Started(id) => {
                if let Some(step) = steps.get(*id) {
                    if self.begun {
                        out.push(b'\n');
                    }
                    self.begun = true;
                    put(&mut out, format_args!("#{} {}", step.number, step.name));
                }
            }
            Change::Lines(id, lines) => {
                if let Some(step) = steps.get(*id) {
                    put_lines(&mut out, step.number, lines);
                }
            }
            Change::Part(id, part, true) => {
                if let Some(step) = steps.get(*id)
                    && let Some((done, _)) = step.parts.get(part)
                {
                    let size = human_size(*done);
                    let seconds = step.duration(at).as_secs_f64();
                    put(
                        &mut out,
                        format_args!("#{} {part} {size} {seconds:.1}s done", step.number),
                    );
                }
            }
            Change::NotCached(id) => {
                if let Some(step) = steps.get(*id)
                    && let Some(why) = &step.why
                {
                    for reason in &why.reasons {
                        put(
                            &mut out,
                            format_args!("#{} not cached: {reason}", step.number),
                        );
                    }
                }
            }
            Change::Ended(id, lines) => {
                if let Some(step) = steps.get(*id) {
                    put_lines(&mut out, step.number, lines);
                    let number = step.number;
                    let seconds = step.duration(at).as_secs_f64();
                    match &step.state {
                        State::Running => {}
                        State::Done => put(&mut out, format_args!("#{number} DONE {seconds:.1}s")),
                        State::Cached => put(&mut out, format_args!("#{number} CACHED")),
                        State::Failed(why) => {
                            put(&mut out, format_args!("#{number} ERROR: {why}"));
                        }
                        State::Canceled => put(&mut out, format_args!("#{number} CANCELED")),
                    }
                }
            }
            Change::Notice(text) => put(&mut out, format_args!("note: {text}")),
            Change::Part(_, _, false) | Change::Nothing => {}
        }
        out
    }
}

fn put(out: &mut Vec<u8>, line: std::fmt::Arguments<'_>) {
    // A Vec takes any bytes.
    let _ = writeln!(out, "{line}");
}

fn put_lines(out: &mut Vec<u8>, number: usize, lines: &[Line]) {
    for line in lines {
        let _ = write!(out, "#{number} {:.3} ", line.at.as_secs_f64());
        out.extend_from_slice(&line.bytes);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use strata::build::{EventKind, StepId};

    use super::*;

    fn render(events: &[(u64, EventKind)]) -> String {
        let (mut steps, mut plain, mut out) = (Steps::default(), Plain::default(), Vec::new());
        for (ms, kind) in events {
            let at = Duration::from_millis(*ms);
            let change = steps.apply(at, kind);
            out.extend(plain.change(at, &steps, &change));
        }
        String::from_utf8(out).unwrap()
    }

    fn started(step: usize, name: &str) -> EventKind {
        EventKind::Started {
            step: StepId(step),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_build_that_fails() {
        let log = render(&[
            (0, started(7, "[internal] load build context")),
            (
                10,
                EventKind::Progress {
                    step: StepId(7),
                    part: "sha256:00".to_owned(),
                    done_bytes: 2_000_000,
                    total_bytes: Some(2_000_000),
                },
            ),
            (
                40,
                EventKind::Finished {
                    step: StepId(7),
                    cached: false,
                },
            ),
            (50, started(0, "[stage-0 1/2] FROM busybox")),
            (
                50,
                EventKind::Finished {
                    step: StepId(0),
                    cached: true,
                },
            ),
            (100, started(1, "[stage-0 2/2] RUN exit 3")),
            (
                223,
                EventKind::Output {
                    step: StepId(1),
                    stderr: false,
                    data: b"before\nunfinished".to_vec(),
                },
            ),
            (
                1300,
                EventKind::Failed {
                    step: StepId(1),
                    message:
                        "process \"/bin/sh -c exit 3\" did not complete successfully: exit code: 3"
                            .to_owned(),
                },
            ),
            (1300, EventKind::Notice("a word".to_owned())),
        ]);
        insta::assert_snapshot!(log, @r#"
        #1 [internal] load build context
        #1 sha256:00 2MB 0.0s done
        #1 DONE 0.0s

        #2 [stage-0 1/2] FROM busybox
        #2 CACHED

        #3 [stage-0 2/2] RUN exit 3
        #3 0.123 before
        #3 1.200 unfinished
        #3 ERROR: process "/bin/sh -c exit 3" did not complete successfully: exit code: 3
        note: a word
        "#);
    }
}
