//! One JSON object a line, of the shape of BuildKit's `SolveStatus`, so that programs made for `--progress rawjson` read it:
//!
//! ```text
//! vertexes  [{digest, name, started, completed, cached, error}]   a step began or ended
//! statuses  [{id, vertex, name, current, total, timestamp}]       a transfer got on
//! logs      [{vertex, stream, data, timestamp}]                   output: 1 standard output, 2 standard error, data in base64
//! warnings  [{level, short, detail, url, sourceInfo, range}]     a message, in base64; where it is
//! explanations [{vertex, name, reasons: [{kind, message, …}]}]    why a step is not cached; not BuildKit's, with --explain only
//! ```
//!
//! `digest` and `vertex` name a step within this build. Times are RFC 3339, UTC.

use std::time::SystemTime;

use base64::Engine as _;
use serde_json::{Value, json};
use strata::build::{EventKind, Explanation, StepId};
use strata::oci::Digest;

use super::steps::{State, Steps};
use crate::cli::calls::{self, Source};

/// The view for programs.
pub(crate) struct Raw;

impl Raw {
    /// The line for an event that came at `now`.
    pub(crate) fn change(
        &mut self,
        now: SystemTime,
        steps: &Steps,
        source: Option<Source<'_>>,
        kind: &EventKind,
    ) -> Vec<u8> {
        let time = |t: SystemTime| {
            jiff::Timestamp::try_from(t).map_or_else(|_| String::new(), |t| t.to_string())
        };
        let stamp = time(now);
        let vertex = |id: StepId| -> Value {
            let Some(step) = steps.get(id) else {
                return Value::Null;
            };
            let ran = step.ended.unwrap_or(step.started) - step.started;
            let started = if step.ended.is_some() {
                now.checked_sub(ran).unwrap_or(now)
            } else {
                now
            };
            let mut value = json!({
                "digest": digest(id),
                "name": step.name,
                "started": time(started),
            });
            if step.ended.is_some() {
                value["completed"] = json!(stamp);
            }
            match &step.state {
                State::Cached => value["cached"] = json!(true),
                State::Failed(why) => value["error"] = json!(why),
                State::Canceled => value["error"] = json!("canceled"),
                State::Running | State::Done => {}
            }
            value
        };
        let value = match kind {
            EventKind::Started { step, .. }
            | EventKind::Finished { step, .. }
            | EventKind::Failed { step, .. }
            | EventKind::Canceled { step } => json!({ "vertexes": [vertex(*step)] }),
            EventKind::Output { step, stderr, data } => json!({ "logs": [{
                "vertex": digest(*step),
                "stream": if *stderr { 2 } else { 1 },
                "data": base64::engine::general_purpose::STANDARD.encode(data),
                "timestamp": stamp,
            }] }),
            EventKind::Progress {
                step,
                part,
                done_bytes,
                total_bytes,
            } => json!({ "statuses": [{
                "id": part,
                "vertex": digest(*step),
                "name": part,
                "current": done_bytes,
                "total": total_bytes.unwrap_or(0),
                "timestamp": stamp,
            }] }),
            EventKind::NotCached { step, why } => json!({ "explanations": [{
                "vertex": digest(*step),
                "name": why.step,
                "reasons": reasons(why),
            }] }),
            EventKind::Warning(warning) => {
                json!({ "warnings": [calls::build_warning(source, warning)] })
            }
            EventKind::Notice(text) => json!({ "warnings": [{
                "vertex": "",
                "level": 1,
                "short": base64::engine::general_purpose::STANDARD.encode(text),
            }] }),
        };
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// What was told of a step, for programs: each reason's fields, and its words.
pub(crate) fn reasons(why: &Explanation) -> Vec<Value> {
    let reason = |reason: &strata::build::Reason| {
        let mut value = json!(reason);
        value["message"] = json!(reason.to_string());
        value
    };
    why.reasons.iter().map(reason).collect()
}

/// A name for a step in the form that readers of BuildKit's stream expect.
fn digest(id: StepId) -> String {
    Digest::of(format!("step {}", id.0).as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_step_from_start_to_end() {
        let (mut steps, mut out) = (Steps::default(), Vec::new());
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (ms, kind) in [
            (
                0,
                EventKind::Started {
                    step: StepId(0),
                    name: "a".to_owned(),
                },
            ),
            (
                5,
                EventKind::Output {
                    step: StepId(0),
                    stderr: true,
                    data: b"hi".to_vec(),
                },
            ),
            (
                1000,
                EventKind::Finished {
                    step: StepId(0),
                    cached: true,
                },
            ),
        ] {
            let at = Duration::from_millis(ms);
            steps.apply(at, &kind);
            out.extend(Raw.change(begin + at, &steps, None, &kind));
        }
        let text = String::from_utf8(out).unwrap();
        let short = text.replace(&digest(StepId(0)), "ID");
        insta::assert_snapshot!(short, @r#"
        {"vertexes":[{"digest":"ID","name":"a","started":"2023-11-14T22:13:20Z"}]}
        {"logs":[{"data":"aGk=","stream":2,"timestamp":"2023-11-14T22:13:20.005Z","vertex":"ID"}]}
        {"vertexes":[{"cached":true,"completed":"2023-11-14T22:13:21Z","digest":"ID","name":"a","started":"2023-11-14T22:13:20Z"}]}
        "#);
    }
}
