//! `layers --junit`: the verdict as JUnit XML, as Jenkins and GitLab read it: a test case a rule.

use std::fmt::Write as _;

use strata::inspect::LayersReport;
use strata::inspect::gate::{Outcome, Verdict, Violation};

use super::broken::sentence;
use super::sarif::Paths;

/// The document. Without times: one image and one set of rules give one document.
pub(super) fn render(
    report: &LayersReport<'_>,
    verdict: &Verdict<'_>,
    paths: &Paths<'_>,
) -> String {
    let tests = verdict.rules.len();
    let failures = verdict.rules.iter().filter(|rule| !rule.passed).count();
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\"");
    let image = xml(report.image.name);
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // A String takes any text.
    let _ = writeln!(text, "<testsuites name=\"strata layers\" {counts}>");
    let _ = writeln!(text, "  <testsuite name=\"{image}\" {counts}>");
    let _ = writeln!(text, "    <properties>");
    for (name, value) in [
        ("digest", report.image.digest.to_string()),
        ("id", report.image.id.to_string()),
        ("platform", report.image.platform.to_string()),
    ] {
        let value = xml(&value);
        let _ = writeln!(text, "      <property name=\"{name}\" value=\"{value}\"/>");
    }
    let _ = writeln!(text, "    </properties>");
    for outcome in &verdict.rules {
        case(&mut text, &image, outcome, paths);
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

fn case(text: &mut String, image: &str, outcome: &Outcome<'_>, paths: &Paths<'_>) {
    let name = xml(&outcome.rule.condition());
    let _ = write!(text, "    <testcase name=\"{name}\" classname=\"{image}\"");
    let Some(first) = outcome.violations.first() else {
        text.push_str("/>\n");
        return;
    };
    if let Some(spot) = paths.dockerfile(first) {
        let file = xml(&spot.path);
        let _ = write!(text, " file=\"{file}\" line=\"{}\"", spot.line);
    }
    let mut message = sentence(outcome, first);
    let more = outcome.violation_count() - 1;
    if more > 0 {
        let _ = write!(message, "; and {more} more");
    }
    let kind = outcome.name;
    let _ = write!(
        text,
        ">\n      <failure message=\"{}\" type=\"{kind}\">",
        xml(&message)
    );
    for violation in &outcome.violations {
        text.push_str(&xml(&told(outcome, violation, paths)));
    }
    if outcome.more_violations > 0 {
        let _ = writeln!(text, "and {} more", outcome.more_violations);
    }
    text.push_str("</failure>\n    </testcase>\n");
}

/// A violation in lines: where, what, what to do.
fn told(outcome: &Outcome<'_>, violation: &Violation<'_>, paths: &Paths<'_>) -> String {
    let mut text = String::new();
    if let Some(spot) = paths.dockerfile(violation) {
        let _ = write!(text, "{}:{}: ", spot.path, spot.line);
    }
    let _ = writeln!(text, "{}", sentence(outcome, violation));
    if violation.parts.is_empty() {
        if let Some(layer) = &violation.layer {
            let _ = writeln!(text, "  {}", paths.place(layer));
        }
        let _ = writeln!(text, "  > {}", violation.change);
    }
    for part in &violation.parts {
        let _ = write!(text, "  {} bytes: {}", part.bytes, paths.place(&part.layer));
        if let Some(path) = &part.path {
            let _ = write!(text, ", /{}", path.trim_start_matches('/'));
        }
        let change = part.change.as_deref().unwrap_or(&violation.change);
        let _ = writeln!(text, "\n    > {change}");
    }
    text
}

/// Text for content and attributes. What XML 1.0 cannot hold (section 2.2) is written as an escape.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_an_escape() {
        for (text, want) in [
            ("plain é\n\t", "plain é\n\t"),
            (
                "<a b=\"c\" d='e'>&]]>",
                "&lt;a b=&quot;c&quot; d=&apos;e&apos;&gt;&amp;]]&gt;",
            ),
            (
                "\0\u{1b}[31m\r\u{7f}\u{85}",
                "\\x00\\x1b[31m\\x0d\\x7f\\x85",
            ),
            ("\u{fffe}\u{ffff}", "\\u{fffe}\\u{ffff}"),
        ] {
            assert_eq!(xml(text), want);
        }
    }
}
