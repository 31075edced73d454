//! Text to logical lines: directives read, comments dropped, continuations joined.
//!
//! A logical line knows for each of its bytes where it stands in the source. Where a here-document ends depends on the
//! instruction, so the parser drives: it takes a line, then the bodies of the here-documents that the line opens.

use std::ops::Range;

use super::ast::{Directives, Span, Word};
use super::diagnostic::{BOM, Diagnostic};

/// Bytes in a line without its newline. BuildKit's scanner has a buffer of 64 KiB with the newline in it.
pub(super) const MAX_LINE_BYTES: usize = 65535;

/// What separates the words of a line. Not all that Unicode calls white space: a no-break space is part of a name.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0b' | '\x0c' | '\r')
}

/// A logical line.
#[derive(Debug)]
pub(super) struct Line {
    /// Its text, continuations joined, blanks at the start of the first line removed.
    pub(super) text: String,
    /// Where runs of `text` come from: place in `text`, place in the source; ascending.
    pieces: Vec<(usize, usize)>,
    /// From the first byte to the last.
    pub(super) span: Span,
    /// Source lines from 1, end exclusive.
    pub(super) lines: Range<u32>,
    /// The comment directly above.
    pub(super) comment: String,
    /// Where the first empty line inside the continuation is.
    pub(super) empty_continuation: Option<Span>,
}

impl Line {
    /// The whole of it.
    pub(super) fn slice(&self) -> Slice<'_> {
        Slice {
            line: self,
            range: (0, self.text.len()),
        }
    }

    fn source_of(&self, at: usize) -> usize {
        let index = self.pieces.partition_point(|piece| piece.0 <= at);
        let (text, source) = self.pieces[index.saturating_sub(1)];
        source + (at - text)
    }
}

/// A part of a logical line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice<'l> {
    line: &'l Line,
    range: (usize, usize),
}

impl<'l> Slice<'l> {
    /// Its text.
    pub(super) fn text(&self) -> &'l str {
        &self.line.text[self.range.0..self.range.1]
    }

    /// A part of it, by byte offsets into [`Slice::text`].
    pub(super) fn sub(&self, range: Range<usize>) -> Slice<'l> {
        Slice {
            line: self.line,
            range: (self.range.0 + range.start, self.range.0 + range.end),
        }
    }

    /// What follows a byte offset.
    pub(super) fn from(&self, start: usize) -> Slice<'l> {
        self.sub(start..self.text().len())
    }

    /// Without white space at both ends.
    pub(super) fn trim(&self) -> Slice<'l> {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.sub(start..start + text.trim().len())
    }

    /// Where it stands; an empty one stands between two bytes.
    pub(super) fn span(&self) -> Span {
        let start = self.line.source_of(self.range.0);
        let end = if self.range.0 == self.range.1 {
            start
        } else {
            // The last byte's place, not the next piece's start: a word must not reach over a continuation.
            self.line.source_of(self.range.1 - 1) + 1
        };
        span(start, end)
    }

    /// Text and place.
    pub(super) fn word(&self) -> Word {
        Word {
            text: self.text().to_string(),
            span: self.span(),
        }
    }

    /// The words between blanks.
    pub(super) fn words(&self) -> Vec<Slice<'l>> {
        let text = self.text();
        let mut words = Vec::new();
        let mut start = None;
        for (at, c) in text.char_indices() {
            match (is_blank(c), start) {
                (true, Some(from)) => {
                    words.push(self.sub(from..at));
                    start = None;
                }
                (false, None) => start = Some(at),
                _ => {}
            }
        }
        if let Some(from) = start {
            words.push(self.sub(from..text.len()));
        }
        words
    }
}

/// The body of a here-document.
pub(super) struct Body {
    /// As written, with its last newline.
    pub(super) raw: String,
    /// Without the terminator.
    pub(super) span: Span,
}

/// Reads a source line by line.
pub(super) struct Lexer<'s> {
    source: &'s str,
    /// The first byte not yet read.
    at: usize,
    /// Lines read so far.
    line: u32,
    /// The comment lines just read, for the instruction that may follow.
    comment: Vec<&'s str>,
    escape: char,
}

/// A physical line without its line end.
struct Physical<'s> {
    text: &'s str,
    start: usize,
}

impl<'s> Lexer<'s> {
    /// Reads the directives. The text must be shorter than 2^32 bytes.
    pub(super) fn new(source: &'s str) -> Result<(Lexer<'s>, Directives), Diagnostic> {
        let mut lexer = Lexer::plain(source, '\\');
        let mut directives = Directives {
            syntax: None,
            escape: '\\',
            check: None,
        };
        if source[lexer.at..].starts_with("#!") {
            lexer.physical()?;
        }
        let mut escape_seen = false;
        loop {
            let (at, line) = (lexer.at, lexer.line);
            let Some(physical) = lexer.physical()? else {
                break;
            };
            let Some((key, value)) = directive(&physical) else {
                // Not a directive: it is read again as what it is.
                (lexer.at, lexer.line) = (at, line);
                break;
            };
            let repeated = match key.as_str() {
                "syntax" => directives.syntax.replace(value).is_some(),
                "check" => directives.check.replace(value).is_some(),
                _ => {
                    lexer.escape = match value.text.as_str() {
                        "\\" => '\\',
                        "`" => '`',
                        other => {
                            return Err(Diagnostic::error(
                                value.span,
                                format!("invalid escape token '{other}' does not match ` or \\"),
                            ));
                        }
                    };
                    directives.escape = lexer.escape;
                    std::mem::replace(&mut escape_seen, true)
                }
            };
            if repeated {
                let end = physical.start + physical.text.len();
                return Err(Diagnostic::error(
                    span(physical.start, end),
                    format!("only one {key} parser directive can be used"),
                ));
            }
        }
        Ok((lexer, directives))
    }

    /// Reads without looking for directives.
    pub(super) fn plain(source: &'s str, escape: char) -> Lexer<'s> {
        Lexer {
            source,
            at: if source.starts_with(BOM) {
                BOM.len_utf8()
            } else {
                0
            },
            line: 0,
            comment: Vec::new(),
            escape,
        }
    }

    /// The number of lines read so far.
    pub(super) fn line_count(&self) -> u32 {
        self.line
    }

    /// The next logical line; `None` at the end.
    pub(super) fn next_line(&mut self) -> Result<Option<Line>, Diagnostic> {
        let first = loop {
            let Some(physical) = self.physical()? else {
                return Ok(None);
            };
            let text = physical.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                let comment = comment.strip_prefix(' ').unwrap_or(comment).trim_end();
                if comment.is_empty() {
                    self.comment.clear();
                } else {
                    self.comment.push(comment);
                }
            } else if text.is_empty() {
                self.comment.clear();
            } else {
                break Physical {
                    start: physical.start + (physical.text.len() - text.len()),
                    text,
                };
            }
        };
        let first_line = self.line;
        let (kept, mut continues) = self.cut_continuation(first.text);
        let mut text = kept.to_string();
        let mut pieces = vec![(0, first.start)];
        let mut end = first.start + first.text.len();
        let mut empty_continuation = None;
        while continues {
            let Some(physical) = self.physical()? else {
                break;
            };
            let trimmed = physical.text.trim_start();
            end = physical.start + physical.text.len();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_continuation.get_or_insert(span(physical.start, end));
                continue;
            }
            let kept;
            (kept, continues) = self.cut_continuation(physical.text);
            pieces.push((text.len(), physical.start));
            text.push_str(kept);
        }
        Ok(Some(Line {
            text,
            pieces,
            span: span(first.start, end),
            lines: first_line..self.line + 1,
            comment: std::mem::take(&mut self.comment).join("\n"),
            empty_continuation,
        }))
    }

    /// The lines up to the one that is `name`, which is read too; `None` if there is no such line. A line longer than
    /// the limit is an error.
    pub(super) fn body(
        &mut self,
        name: &str,
        strip_tabs: bool,
    ) -> Result<Option<Body>, Diagnostic> {
        let start = self.at;
        loop {
            let before = self.at;
            let Some(physical) = self.physical()? else {
                return Ok(None);
            };
            let mut text = physical.text;
            if strip_tabs {
                text = text.trim_start_matches('\t');
            }
            if text == name {
                return Ok(Some(Body {
                    raw: self.source[start..before].to_string(),
                    span: span(start, before),
                }));
            }
        }
    }

    /// The end of what was read, without line ends.
    pub(super) fn end(&self) -> u32 {
        span(
            0,
            self.source[..self.at].trim_end_matches(['\r', '\n']).len(),
        )
        .end
    }

    fn physical(&mut self) -> Result<Option<Physical<'s>>, Diagnostic> {
        if self.at >= self.source.len() {
            return Ok(None);
        }
        let start = self.at;
        let rest = &self.source[start..];
        let length = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        self.at = (start + length + 1).min(self.source.len());
        self.line += 1;
        if length > MAX_LINE_BYTES {
            return Err(Diagnostic::error(
                span(start, start + length),
                format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}"),
            ));
        }
        Ok(Some(Physical {
            text: rest[..length].trim_end_matches('\r'),
            start,
        }))
    }

    /// The text without the escape that makes it go on in the next line, and whether there is one. An escaped escape is
    /// none.
    fn cut_continuation<'t>(&self, text: &'t str) -> (&'t str, bool) {
        match text.trim_end_matches([' ', '\t']).strip_suffix(self.escape) {
            Some(kept) if !kept.ends_with(self.escape) => (kept, true),
            _ => (text, false),
        }
    }
}

/// `# key=value` with a key that is a directive's, lower-cased.
fn directive(physical: &Physical) -> Option<(String, Word)> {
    let text = physical.text;
    let body = text.trim_start().strip_prefix('#')?.trim_start();
    let (key, value) = body.split_once('=')?;
    let key = key.trim_end().to_ascii_lowercase();
    if !matches!(key.as_str(), "syntax" | "escape" | "check") {
        return None;
    }
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    let start = physical.start + (text.trim_end().len() - value.len());
    Some((
        key,
        Word {
            text: value.to_string(),
            span: span(start, start + value.len()),
        },
    ))
}

/// Offsets as a span. The parser refuses texts of 2^32 bytes, so nothing is lost.
pub(super) fn span(start: usize, end: usize) -> Span {
    let clamp = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
    Span {
        start: clamp(start),
        end: clamp(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<Line> {
        let (mut lexer, _) = Lexer::new(source).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = lexer.next_line().unwrap() {
            lines.push(line);
        }
        lines
    }

    #[test]
    fn joins_lines() {
        for (source, want) in [
            ("A\nB", &["A", "B"][..]),
            ("  A  \n\n\n B", &["A  ", "B"]),
            ("A \\\nB", &["A B"]),
            ("A \\  \t\n  B \\\n", &["A   B "]),
            ("A\\\n# c\n  # c\n\n  \nB", &["AB"]),
            ("A \\\\\nB", &["A \\\\", "B"]),
            ("A \\\\\\\nB", &["A \\\\\\", "B"]),
            ("A \\x\nB", &["A \\x", "B"]),
            ("A \\\r\nB\r\nC\r\n", &["A B", "C"]),
            ("# escape=`\nA `\nB \\\nC", &["A B \\", "C"]),
            ("# x\n# escape=`\nA `\nB", &["A `", "B"]),
            ("\n# escape=`\nA `\nB", &["A `", "B"]),
            ("#!/bin/x\n#escape = `\nA `\nB", &["A B"]),
            ("\u{feff}A", &["A"]),
            ("\\\nA", &["A"]),
            ("A \\\n\\\nB", &["A B"]),
            ("A # no comment", &["A # no comment"]),
            ("", &[]),
        ] {
            let texts: Vec<String> = lines(source).into_iter().map(|line| line.text).collect();
            assert_eq!(texts, want, "{source:?}");
        }
    }

    #[test]
    fn spans_lead_back() {
        let source = "\u{feff}# c\n  COPY one \\\n  # x\n  two\\\nthree # y\n";
        let lines = lines(source);
        let words = lines[0].slice().words();
        let spans: Vec<&str> = words
            .iter()
            .map(|word| {
                let span = word.span();
                &source[span.start as usize..span.end as usize]
            })
            .collect();
        assert_eq!(spans, ["COPY", "one", "two\\\nthree", "#", "y"]);
        assert_eq!(lines[0].lines, 2..6);
    }

    #[test]
    fn comments_stand_directly_above() {
        for (source, want) in [
            ("# a\n# b\nX", "a\nb"),
            ("# a\n#\n# b\nX", "b"),
            ("# a\n\nX", ""),
            ("  #a  \nX", "a"),
            ("#  a\nX", " a"),
            ("# syntax=x\n# a\nX", "a"),
        ] {
            assert_eq!(lines(source)[0].comment, want, "{source:?}");
        }
    }

    #[test]
    fn directives() {
        let (_, directives) =
            Lexer::new("# SYNTAX = a/b:c  \n#check=skip=all;error=true\nX").unwrap();
        assert_eq!(directives.syntax.as_ref().unwrap().text, "a/b:c");
        assert_eq!(directives.syntax.unwrap().span, Span { start: 11, end: 16 });
        assert_eq!(directives.check.unwrap().text, "skip=all;error=true");
        for (source, want) in [
            (
                "# escape=x",
                "invalid escape token 'x' does not match ` or \\",
            ),
            (
                "# syntax=a\n# syntax=b",
                "only one syntax parser directive can be used",
            ),
            (
                "# escape=`\n# escape=`",
                "only one escape parser directive can be used",
            ),
        ] {
            assert_eq!(Lexer::new(source).err().unwrap().message, want);
        }
    }

    #[test]
    fn long_lines_are_refused() {
        let fits = "x".repeat(MAX_LINE_BYTES);
        assert_eq!(lines(&fits).len(), 1);
        let mut lexer = Lexer::plain("", '\\');
        let long = format!("{fits}x\n");
        lexer.source = &long;
        let error = lexer.next_line().unwrap_err();
        assert_eq!(
            error.message,
            "dockerfile line greater than max allowed size of 65535"
        );
    }

    #[test]
    fn empty_continuations_are_kept_in_mind() {
        assert!(lines("A \\\n\nB")[0].empty_continuation.is_some());
        assert!(lines("A \\\n#\nB")[0].empty_continuation.is_none());
    }
}
