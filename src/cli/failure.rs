//! What is shown when a build fails: the end of the step's log, and the lines of the Dockerfile to blame.

use std::fmt::Write as _;
use std::ops::Range;

use strata::dockerfile::{Span, position};

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

/// The lines of a place, marked.
pub(crate) fn marked(name: &str, source: &str, span: Span) -> String {
    let (first, last) = (position(source, span.start).0, position(source, span.end).0);
    excerpt(name, source, &(first..last.saturating_add(1)), Some(span))
}

/// The lines `lines` (from 1, end exclusive) of a Dockerfile with some around them, `>>>` marking them, and `^^^` below the
/// place among them that is to blame, if it is known; empty if there are no lines.
pub(crate) fn excerpt(name: &str, source: &str, lines: &Range<u32>, place: Option<Span>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let place = place.map(|span| (position(source, span.start), position(source, span.end)));
    let at = match place {
        Some(((line, column), _)) => format!("{line}:{column}"),
        None => lines.start.to_string(),
    };
    let first = lines.start.saturating_sub(AROUND).max(1);
    let end = lines.end.saturating_add(AROUND);
    let mut out = format!("{name}:{at}\n--------------------\n");
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
        if let Some(((line, column), (end_line, end_column))) = place
            && line == number
        {
            let width = text.trim_start_matches('\u{feff}').chars().count() + 1;
            let start = column as usize;
            let end = match end_line > line {
                true => width,
                false => (end_column as usize).min(width),
            };
            // Tabs stay tabs, so that the marker stands below what it marks whatever their width.
            let indent: String = text
                .chars()
                .take(start - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let marker = "^".repeat(end.saturating_sub(start).max(1));
            let _ = writeln!(out, "     |     {indent}{marker}");
        }
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
        insta::assert_snapshot!(excerpt("Dockerfile", source, &(3..5), None), @r"
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
        assert_eq!(excerpt("Dockerfile", source, &(0..0), None), "");
        assert!(excerpt("D", source, &(1..2), None).starts_with("D:1\n"));
        assert!(excerpt("D", source, &(u32::MAX - 1..u32::MAX), None).ends_with("-\n"));
        insta::assert_snapshot!(marked("Dockerfile", source, Span { start: 18, end: 22 }), @r"
        Dockerfile:3:5
        --------------------
           1 |     FROM busybox
           2 |
           3 | >>> RUN exit \
             |         ^^^^
           4 |       3
           5 |     CMD x
        --------------------
        ");
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
