//! What is shown when a build fails: the end of the step's log, and the lines of the Dockerfile to blame.

use std::fmt::Write as _;
use std::ops::Range;

use super::progress::steps::FailedStep;

/// How many lines are shown before and after the failing ones.
const AROUND: u32 = 2;

/// The log's end between rules, as BuildKit shows it; empty for a step that wrote nothing.
pub(crate) fn log_tail(failed: &FailedStep) -> Vec<u8> {
    let mut out = format!("------\n > {}:\n", failed.name).into_bytes();
    for line in &failed.tail {
        out.extend_from_slice(format!("{:.3} ", line.at.as_secs_f64()).as_bytes());
        out.extend_from_slice(&line.bytes);
        out.push(b'\n');
    }
    out.extend_from_slice(b"------\n");
    out
}

/// The lines `lines` (from 1, end exclusive) of a Dockerfile with some around them, `>>>` marking them; empty if there are none.
pub(crate) fn excerpt(name: &str, source: &str, lines: &Range<u32>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let first = lines.start.saturating_sub(AROUND).max(1);
    let end = lines.end.saturating_add(AROUND);
    let mut out = format!("{name}:{}\n--------------------\n", lines.start);
    for (number, text) in (1u32..).zip(source.lines()) {
        if number < first || number >= end {
            continue;
        }
        let mark = if lines.contains(&number) {
            ">>>"
        } else {
            "   "
        };
        // A String takes any text.
        let _ = writeln!(out, "{}", format!("{number:>4} | {mark} {text}").trim_end());
    }
    out.push_str("--------------------\n");
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use strata::build::StepId;

    use super::super::progress::steps::Line;
    use super::*;

    #[test]
    fn the_failing_lines_are_marked() {
        let source = "FROM busybox\n\nRUN exit \\\n  3\nCMD x\nUSER a\nUSER b\n";
        insta::assert_snapshot!(excerpt("Dockerfile", source, &(3..5)), @r"
        Dockerfile:3
        --------------------
           1 |     FROM busybox
           2 |
           3 | >>> RUN exit \
           4 | >>>   3
           5 |     CMD x
           6 |     USER a
        --------------------
        ");
        assert_eq!(excerpt("Dockerfile", source, &(0..0)), "");
        assert!(excerpt("D", source, &(1..2)).starts_with("D:1\n"));
        assert!(excerpt("D", source, &(u32::MAX - 1..u32::MAX)).ends_with("-\n"));
    }

    #[test]
    fn a_log_ends_between_rules() {
        let failed = FailedStep {
            id: StepId(0),
            name: "[stage-0 2/2] RUN exit 3".to_owned(),
            tail: vec![Line {
                at: Duration::from_millis(123),
                bytes: b"before".to_vec(),
            }],
        };
        insta::assert_snapshot!(String::from_utf8(log_tail(&failed)).unwrap(), @r"
        ------
         > [stage-0 2/2] RUN exit 3:
        0.123 before
        ------
        ");
    }
}
