//! Here-documents: the words that open them, and their bodies.

use super::ast::{Heredoc, Word};
use super::diagnostic::Diagnostic;
use super::lexer::{Lexer, Slice};
use super::words;

/// What a word like `3<<-"EOF"` says.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Opening {
    /// The delimiter, unquoted.
    pub(super) name: String,
    /// The number before `<<`; 0 if none.
    fd: u32,
    /// No part of the delimiter is quoted.
    expand: bool,
    /// `<<-`
    strip_tabs: bool,
}

impl Opening {
    /// `None` if the word opens nothing.
    pub(super) fn parse(word: &str) -> Option<Opening> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let rest = word[digits..].strip_prefix("<<")?;
        let (strip_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start();
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        let mut names = words::unquote(rest).ok()?;
        let name = names.pop()?;
        if !names.is_empty() {
            return None;
        }
        let quotes = |text: &str| text.bytes().filter(|b| matches!(b, b'\'' | b'"')).count();
        Some(Opening {
            // Quotes that are still there stand for themselves.
            expand: quotes(&name) == quotes(rest),
            name,
            // A number too large for a file descriptor is none.
            fd: word[..digits].parse().unwrap_or(0),
            strip_tabs,
        })
    }
}

/// Reads the bodies of the here-documents that a line opens, in order.
pub(super) fn read(line: Slice, lexer: &mut Lexer) -> Result<Vec<Heredoc>, Diagnostic> {
    let mut heredocs = Vec::new();
    if !line.text().contains("<<") {
        return Ok(heredocs);
    }
    // A line that is no sequence of words, say for a lone quote in a comment, opens nothing.
    let Ok(words) = words::split_raw(line.text()) else {
        return Ok(heredocs);
    };
    for (text, range) in words {
        let Some(opening) = Opening::parse(&text) else {
            continue;
        };
        let word = Word {
            text,
            span: line.sub(range).span(),
        };
        let Some(body) = lexer.body(&opening.name, opening.strip_tabs)? else {
            return Err(
                Diagnostic::error(word.span, "unterminated heredoc").with_hint(format!(
                    "end it with a line that is {:?} and nothing else",
                    opening.name
                )),
            );
        };
        heredocs.push(Heredoc {
            content: if opening.strip_tabs {
                strip_tabs(&body.raw)
            } else {
                body.raw.clone()
            },
            name: opening.name,
            word,
            fd: opening.fd,
            expand: opening.expand,
            strip_tabs: opening.strip_tabs,
            raw: body.raw,
            span: body.span,
        });
    }
    Ok(heredocs)
}

/// Without the tabs at the start of every line.
fn strip_tabs(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings() {
        for (word, name, fd, expand, strip_tabs) in [
            ("<<EOF", "EOF", 0, true, false),
            ("<<-EOF", "EOF", 0, true, true),
            ("3<<EOF", "EOF", 3, true, false),
            ("<<\"EOF\"", "EOF", 0, false, false),
            ("<<-'EOF'", "EOF", 0, false, true),
            ("<<E\"O\"F", "EOF", 0, false, false),
            ("<<\\'x", "'x", 0, true, false),
            ("<<file.txt", "file.txt", 0, true, false),
            ("<<$X", "$X", 0, true, false),
            ("99999999999<<E", "E", 0, true, false),
        ] {
            let want = Opening {
                name: name.to_string(),
                fd,
                expand,
                strip_tabs,
            };
            assert_eq!(Opening::parse(word), Some(want), "{word}");
        }
        for word in [
            "<<", "<<-", "<EOF", "<<<EOF", "x<<EOF", "<<a<b", "EOF", "<<\"EOF", "",
        ] {
            assert_eq!(Opening::parse(word), None, "{word}");
        }
    }

    #[test]
    fn tabs_are_stripped() {
        assert_eq!(strip_tabs("\ta\n\t\tb\n \tc\n\n"), "a\nb\n \tc\n\n");
    }
}
