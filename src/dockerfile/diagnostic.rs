//! What there is to say about a place in a Dockerfile.

use std::fmt::Write as _;

use super::ast::Span;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// It does not.
    Error,
}

/// A message about a place in the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The lint rule, by BuildKit's name; none for errors of the language.
    pub rule: Option<&'static str>,
    /// One line: what is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// One line: what to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error of the language.
    pub fn error(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            span,
            hint: None,
        }
    }

    /// A finding of a lint rule.
    pub fn warning(rule: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            rule: Some(rule),
            message: message.into(),
            span,
            hint: None,
        }
    }

    /// The same, with what to do about it.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = Some(hint.into());
        self
    }
}

/// Line and column of a byte offset, both from 1; the column counts characters. A byte order mark has no column. An
/// offset past the end, or inside a character, is taken back to the nearest place before it.
pub fn position(source: &str, offset: u32) -> (u32, u32) {
    let mut offset = (offset as usize).min(source.len());
    while !source.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &source[..offset];
    let line = memchr::memchr_iter(b'\n', before.as_bytes()).count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before[start..].trim_start_matches(BOM).chars().count() + 1;
    (clamp(line), clamp(column))
}

/// The message with file, line and column, the source around it and a marker:
///
/// ```text
/// Dockerfile:3:1: unknown instruction: COPPY (did you mean COPY?)
///    2 | WORKDIR /x
///    3 | COPPY a b
///      | ^^^^^
/// ```
///
/// The line before is shown too; a span over several lines is marked on its first. The rule's name and the hint follow
/// where there are any. There is no newline at the end.
pub fn render(diagnostic: &Diagnostic, file_name: &str, source: &str) -> String {
    let (line, column) = position(source, diagnostic.span.start);
    let mut out = format!("{file_name}:{line}:{column}: {}", diagnostic.message);
    if let Some(rule) = diagnostic.rule {
        // Writing to a string cannot fail.
        let _ = write!(out, " [{rule}]");
    }
    let mut lines = source
        .split('\n')
        .map(|text| text.trim_end_matches('\r').trim_start_matches(BOM))
        .zip(1u32..)
        .skip(line.saturating_sub(2) as usize);
    for (text, number) in lines.by_ref().take(if line > 1 { 2 } else { 1 }) {
        // A final newline leaves an empty last line: nothing to show.
        if number == line && text.is_empty() {
            break;
        }
        let _ = write!(out, "\n{number:>4} | {text}");
        if number == line {
            let (end_line, end_column) = position(source, diagnostic.span.end);
            let width = text.chars().count() + 1;
            let end = if end_line > line {
                width
            } else {
                (end_column as usize).min(width)
            };
            let start = column as usize;
            // Tabs stay tabs, so that the marker stands below what it marks whatever their width.
            let indent: String = text
                .chars()
                .take(start - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let marker = "^".repeat(end.saturating_sub(start).max(1));
            let _ = write!(out, "\n     | {indent}{marker}");
        }
    }
    if let Some(hint) = &diagnostic.hint {
        let _ = write!(out, "\n     = hint: {hint}");
    }
    out
}

/// The mark that editors put at the start of a file.
pub(super) const BOM: char = '\u{feff}';

/// Counts are below 2^32 because offsets are.
fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// An error and its causes on one line, outermost first. What another of them says in more words is left out, and so is the
/// object that is named already: "cannot pull X", "cannot read X", "X not found" is "cannot pull X: not found".
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let mut message = plain(&error.to_string());
        if let Some((_, object)) = said.iter().rev().find_map(|text| attempt(text)) {
            if attempt(&message).is_some_and(|(_, again)| again == object) {
                message.clear();
            } else if let Some(rest) = message
                .strip_prefix(object)
                .and_then(|rest| rest.strip_prefix([' ', ':']))
            {
                message = rest.trim_start().to_owned();
            }
        }
        let message = message;
        if said
            .last()
            .is_some_and(|last| message.contains(last.as_str()))
        {
            said.pop();
        }
        let lower = message.to_lowercase();
        let is_said = |last: &String| last.to_lowercase().contains(&lower);
        if !message.is_empty() && !said.last().is_some_and(is_said) {
            said.push(message);
        }
        next = error.source();
    }
    said.join(": ")
}

/// What was attempted, with what: `cannot read X` is `read` and `X`.
fn attempt(message: &str) -> Option<(&str, &str)> {
    let (verb, object) = message.strip_prefix("cannot ")?.split_once(' ')?;
    (!object.contains(' ')).then_some((verb, object))
}

/// A message without what only programmers want: the kind of an I/O error, its number.
fn plain(message: &str) -> String {
    let message = message.strip_prefix("io: ").unwrap_or(message);
    let numberless = message
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once(" (os error "))
        .filter(|(_, number)| number.bytes().all(|b| b.is_ascii_digit()));
    numberless.map_or(message, |(text, _)| text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let chain = |texts: &[&'static str]| {
            let inner = texts
                .iter()
                .rev()
                .fold(None, |below, text| Some(Box::new(Layer(text, below))));
            with_causes(&*inner.unwrap())
        };
        assert_eq!(
            chain(&["x", "cannot read x", "cannot read x", "refused"]),
            "cannot read x: refused"
        );
        assert_eq!(
            chain(&["step failed: no file", "no file"]),
            "step failed: no file"
        );
        assert_eq!(chain(&["a", "", "b"]), "a: b");
        assert_eq!(
            chain(&[
                "cannot pull h:1/x",
                "cannot read h:1/x",
                "cannot connect to h:1: connection refused",
                "io: Connection refused (os error 111)"
            ]),
            "cannot pull h:1/x: cannot connect to h:1: connection refused"
        );
        assert_eq!(
            chain(&["cannot pull h/x", "h/x not found in h"]),
            "cannot pull h/x: not found in h"
        );
        assert_eq!(
            chain(&[
                "cannot read a",
                "cannot read b",
                "No such file (os error 2)"
            ]),
            "cannot read a: cannot read b: No such file"
        );
    }

    #[test]
    fn positions_count_characters() {
        let source = "\u{feff}FROM x\nRUN é\u{1F600}z\n";
        let at =
            |needle: &str| position(source, u32::try_from(source.find(needle).unwrap()).unwrap());
        assert_eq!(at("FROM"), (1, 1));
        assert_eq!(at("x"), (1, 6));
        assert_eq!(at("RUN"), (2, 1));
        assert_eq!(at("z"), (2, 7));
        assert_eq!(position(source, 1), (1, 1), "inside the byte order mark");
        assert_eq!(position(source, 9999), (3, 1));
        assert_eq!(position("", 0), (1, 1));
    }

    #[test]
    fn renders_with_a_marker() {
        let source = "FROM scratch\nWORKDIR /x\n\tCOPPY a b\n";
        let start = u32::try_from(source.find("COPPY").unwrap()).unwrap();
        let diagnostic = Diagnostic::error(
            Span {
                start,
                end: start + 5,
            },
            "unknown instruction: COPPY (did you mean COPY?)",
        );
        assert_eq!(
            render(&diagnostic, "Dockerfile", source),
            "Dockerfile:3:2: unknown instruction: COPPY (did you mean COPY?)\n   2 | WORKDIR /x\n   3 | \tCOPPY a b\n     | \t^^^^^"
        );
        let first =
            Diagnostic::warning("StageNameCasing", Span { start: 0, end: 99 }, "m").with_hint("do");
        assert_eq!(
            render(&first, "D", source),
            "D:1:1: m [StageNameCasing]\n   1 | FROM scratch\n     | ^^^^^^^^^^^^\n     = hint: do"
        );
    }

    #[test]
    fn renders_at_the_end_of_an_empty_file() {
        let diagnostic = Diagnostic::error(Span::default(), "file with no instructions");
        assert_eq!(
            render(&diagnostic, "Dockerfile", ""),
            "Dockerfile:1:1: file with no instructions"
        );
    }
}
