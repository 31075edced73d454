//! Quotes, escapes and variables of a word.
//!
//! The rules are those of BuildKit's `shell/lex.go`: near the shell's, but unset variables are empty, and a pattern knows
//! `*` and `?` only. Which names are set is the caller's to say; a name it has no value for was used undefined.

use std::ops::Range;

use super::ast::Word;
use super::diagnostic::Diagnostic;
use super::expander::{Expander, Mode};
use super::lexer::span;

/// What is wrong with a word.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct WordError {
    /// Where in the word, in bytes.
    pub offset: usize,
    /// One line.
    pub message: String,
}

impl WordError {
    /// The error at its place in the source.
    pub fn at(&self, word: &Word) -> Diagnostic {
        let start = word.span.start as usize + self.offset;
        let rest = word.text.get(self.offset..).unwrap_or_default();
        let mut place = span(start, start + rest.chars().next().map_or(1, char::len_utf8));
        // Elsewhere than in ASCII a place that is not exact could cut a character.
        if !word.text.is_ascii() && (word.span.end - word.span.start) as usize != word.text.len() {
            place = word.span;
        }
        // Quotes that the parser removed and continuations make the word longer than its text: stay inside it.
        if place.end > word.span.end {
            place = word.span;
        }
        Diagnostic::error(
            place,
            format!("failed to process {:?}: {}", word.text, self.message),
        )
    }
}

/// The word with quotes and escapes removed and variables replaced. `lookup` is called once for every use of a name.
pub fn expand(
    word: &str,
    escape: char,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, WordError> {
    Expander::new(word, escape, Mode::default(), lookup)
        .run()
        .map(|out| out.text)
}

/// The same, split at the blanks that are not quoted, also those that came out of a variable. Empty words are left out,
/// quoted or not.
pub fn expand_list(
    word: &str,
    escape: char,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Vec<String>, WordError> {
    let out = Expander::new(word, escape, Mode::default(), lookup).run()?;
    Ok(out.words.into_iter().map(|(text, _)| text).collect())
}

/// The body of a here-document: quotes are text, an escape makes the next character one.
pub fn expand_heredoc(
    body: &str,
    escape: char,
    lookup: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, WordError> {
    let mode = Mode {
        plain_quotes: true,
        ..Mode::default()
    };
    Expander::new(body, escape, mode, lookup)
        .run()
        .map(|out| out.text)
}

/// The words of a line with quotes and escapes as written and variables untouched, each with its place.
pub(super) fn split_raw(line: &str) -> Result<Vec<(String, Range<usize>)>, WordError> {
    let mode = Mode {
        keep_quotes: true,
        keep_escapes: true,
        keep_unset: true,
        plain_quotes: false,
    };
    let mut none = |_: &str| None;
    let out = Expander::new(line, '\\', mode, &mut none).run()?;
    Ok(out.words)
}

/// The words of a text with quotes removed and variables untouched.
pub(super) fn unquote(text: &str) -> Result<Vec<String>, WordError> {
    let mode = Mode {
        keep_unset: true,
        ..Mode::default()
    };
    let mut none = |_: &str| None;
    let out = Expander::new(text, '\\', mode, &mut none).run()?;
    Ok(out.words.into_iter().map(|(text, _)| text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "SET" => "value",
            "EMPTY" => "",
            "BLANKS" => " a  b ",
            "V" => "red-green-red-blue",
            "P" => "srv/data/dump.sql.xz",
            "STAR" => "a*b?c",
            "QUOTE" => "a'b",
            "W\u{e9}" => "unicode",
            _ => return None,
        };
        Some(value.to_string())
    }

    fn one(word: &str) -> Result<String, String> {
        expand(word, '\\', &mut lookup).map_err(|error| error.message)
    }

    #[test]
    fn variables_and_quotes() {
        for (word, want) in [
            ("", ""),
            ("plain", "plain"),
            ("a b", "a b"),
            // Variables.
            ("$SET", "value"),
            ("${SET}", "value"),
            ("x${SET}y", "xvaluey"),
            ("$SET$SET", "valuevalue"),
            ("${SET}_$SET", "value_value"),
            ("$SET-x", "value-x"),
            ("$UNSET", ""),
            ("${UNSET}x", "x"),
            ("$SET_", ""),
            ("$", "$"),
            ("a$", "a$"),
            ("$.", "$."),
            ("$ SET", "$ SET"),
            ("$1a", "a"),
            ("$12", ""),
            ("$@x", "x"),
            ("$$", ""),
            ("$W\u{e9}", "unicode"),
            // Quotes.
            ("\"a b\"", "a b"),
            ("'a b'", "a b"),
            ("mid\"dle \"quo'ted'", "middle quoted"),
            ("\"it's\"", "it's"),
            ("'say \"hi\"'", "say \"hi\""),
            ("\"\"", ""),
            ("'$SET'", "$SET"),
            ("\"$SET\"", "value"),
            ("\"'$SET'\"", "'value'"),
            // Escapes.
            ("\\$SET", "$SET"),
            ("\"\\$SET\"", "$SET"),
            ("a\\ b", "a b"),
            ("back\\\\slash", "back\\slash"),
            ("a\\", "a"),
            ("\\a", "a"),
            ("\"\\a\"", "\\a"),
            ("\"a\\\"b\"", "a\"b"),
            ("'a\\'", "a\\"),
            ("\"a\\\\b\"", "a\\b"),
            // Defaults and alternatives.
            ("${SET:-d}", "value"),
            ("${EMPTY:-d}", "d"),
            ("${UNSET:-d}", "d"),
            ("${SET-d}", "value"),
            ("${EMPTY-d}", ""),
            ("${UNSET-d}", "d"),
            ("${SET:+alt}", "alt"),
            ("${EMPTY:+alt}", ""),
            ("${UNSET:+alt}", ""),
            ("${EMPTY+alt}", "alt"),
            ("${UNSET+alt}", ""),
            ("${UNSET:-}", ""),
            ("${UNSET:-a b}", "a b"),
            ("${UNSET:-\"a}\"}", "a}"),
            ("${UNSET:-\\}}", "}"),
            ("${UNSET:-$SET}", "value"),
            ("${UNSET:-${SET}}", "value"),
            ("${UNSET:-pre-$SET-post}", "pre-value-post"),
            ("${UNSET:-${UNSET:-${UNSET:-deep}}}", "deep"),
            ("${SET:+${SET}2}", "value2"),
            ("${SET:?needed}", "value"),
            ("${EMPTY?needed}", ""),
            ("\"${UNSET:-a b}\"", "a b"),
            // Patterns.
            ("${V#r*-}", "green-red-blue"),
            ("${V##r*-}", "blue"),
            ("${V%-*}", "red-green-red"),
            ("${V%%-*}", "red"),
            ("${P##*/}", "dump.sql.xz"),
            ("${P%%.*}", "srv/data/dump"),
            ("${P%.xz}", "srv/data/dump.sql"),
            ("${P#*/}", "data/dump.sql.xz"),
            ("${P#nope}", "srv/data/dump.sql.xz"),
            ("${STAR#a\\*}", "b?c"),
            ("${STAR%\\?c}", "a*b"),
            ("${UNSET#x}", ""),
            ("${V#${UNSET:-red}}", "-green-red-blue"),
            // Replacements.
            ("${V/red/RED}", "RED-green-red-blue"),
            ("${V//red/RED}", "RED-green-RED-blue"),
            ("${V/absent/x}", "red-green-red-blue"),
            ("${V//-/}", "redgreenredblue"),
            ("${P/\\//:}", "srv:data/dump.sql.xz"),
            ("${P//\\//:}", "srv:data:dump.sql.xz"),
            ("${V/r*n/$SET}", "value-red-blue"),
            ("${SET/l/\\}}", "va}ue"),
            ("${SET/l/\\/}", "va/ue"),
            ("${SET/l/a\\b}", "vaa\\bue"),
            ("${UNSET/a/b}", ""),
        ] {
            assert_eq!(one(word).as_deref(), Ok(want), "{word}");
        }
    }

    #[test]
    fn refusals() {
        let deep = "${A:-".repeat(100);
        for (word, want) in [
            (
                "\"open",
                "unexpected end of statement while looking for matching double-quote",
            ),
            (
                "'open",
                "unexpected end of statement while looking for matching single-quote",
            ),
            ("${", "syntax error: missing '}'"),
            ("${SET", "syntax error: missing '}'"),
            ("${SET:", "syntax error: missing '}'"),
            ("${SET:-x", "syntax error: missing '}'"),
            ("${SET/a}", "syntax error: missing '/' in ${}"),
            ("${SET/a/b", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${:x}", "syntax error: bad substitution"),
            ("${{x}}", "syntax error: bad substitution"),
            ("${SET=x}", "unsupported modifier (=) in substitution"),
            ("${SET:=x}", "unsupported modifier (:=) in substitution"),
            ("${SET:/a/b}", "unsupported modifier (:/) in substitution"),
            (
                "${SET#\\a}",
                "invalid pattern (\\a) in substitution: invalid escape '\\a'",
            ),
            ("${MUST:?has to be set}", "MUST: has to be set"),
            ("${MUST?}", "MUST: is not allowed to be unset"),
            ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
            (&deep, "variables are nested more than 50 deep"),
        ] {
            assert_eq!(one(word).unwrap_err(), want, "{word}");
        }
    }

    /// Each replacement takes the one before it for every character: 18 to the power of 40 bytes.
    #[test]
    fn replacements_in_replacements_are_bounded() {
        let word = "${V//?/".repeat(40) + "x" + &"}".repeat(40);
        let message = "the variables in it make it longer than 1048897 bytes";
        assert_eq!(one(&word).unwrap_err(), message);
        let long = |_: &str| Some("x".repeat(700_000));
        for word in ["$A$B", "\"$A$B\"", "\"$A\"\"$B\"", "${N:-$A$B}"] {
            let error = expand(word, '\\', &mut { long }).unwrap_err();
            assert!(error.message.ends_with("bytes"), "{word}: {error}");
        }
        assert_eq!(expand("$A", '\\', &mut { long }).unwrap().len(), 700_000);
    }

    #[test]
    fn errors_have_a_place() {
        let error = expand("a${b:=c}", '\\', &mut lookup).unwrap_err();
        assert_eq!(error.offset, 4);
        let word = Word {
            text: "a${b:=c}".to_string(),
            span: span(10, 18),
        };
        let diagnostic = error.at(&word);
        assert_eq!(diagnostic.span, span(14, 15));
        assert_eq!(
            diagnostic.message,
            "failed to process \"a${b:=c}\": unsupported modifier (:=) in substitution"
        );
    }

    /// A place that cuts a character is none.
    #[test]
    fn errors_stand_at_whole_characters() {
        let word = Word {
            text: "${\u{fc}x".to_string(),
            span: span(10, 15),
        };
        let error = WordError {
            offset: 2,
            message: String::new(),
        };
        assert_eq!(error.at(&word).span, span(12, 14));
    }

    #[test]
    fn the_other_escape() {
        assert_eq!(
            expand("C:\\dir`$x`\"", '`', &mut lookup).unwrap(),
            "C:\\dir$x\""
        );
    }

    #[test]
    fn lists() {
        for (word, want) in [
            ("a  b", &["a", "b"][..]),
            ("\"a b\" c", &["a b", "c"]),
            ("a\\ b c", &["a b", "c"]),
            ("$BLANKS", &["a", "b"]),
            ("\"$BLANKS\"x", &[" a  b x"]),
            ("x$BLANKS", &["x", "a", "b"]),
            ("\"\" a", &["a"]),
            ("$UNSET", &[]),
            ("8080/udp ${UNSET:-1 2}", &["8080/udp", "1", "2"]),
            ("'$BLANKS'", &["$BLANKS"]),
            ("$QUOTE", &["a'b"]),
        ] {
            assert_eq!(
                expand_list(word, '\\', &mut lookup).unwrap(),
                want,
                "{word}"
            );
        }
    }

    #[test]
    fn here_document_bodies() {
        for (body, want) in [
            (
                "hello $SET, ${SET}, ${UNSET:-default}, \\$SET\n",
                "hello value, value, default, $SET\n",
            ),
            ("it's \"$SET\"\n", "it's \"value\"\n"),
            ("a\\\\b\n", "a\\b\n"),
        ] {
            assert_eq!(
                expand_heredoc(body, '\\', &mut lookup).unwrap(),
                want,
                "{body}"
            );
        }
    }

    #[test]
    fn every_use_is_looked_up() {
        let mut used = Vec::new();
        let mut note = |name: &str| {
            used.push(name.to_string());
            None
        };
        expand("$A ${B:-$C} '$D' \"$E\" ${F/x/$G}", '\\', &mut note).unwrap();
        assert_eq!(used, ["A", "C", "B", "E", "G", "F"]);
    }

    #[test]
    fn raw_words() {
        let words = split_raw("RUN <<\"A B\" cat \\ x  $V${W}").unwrap();
        let texts: Vec<&str> = words.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["RUN", "<<\"A B\"", "cat", "\\ x", "$V${W}"]);
        assert_eq!(words[1].1, 4..11);
        assert!(split_raw("it's").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(word in "(\\$\\{[AV]?|[-:+?#%/}$\"'\\\\`*? ab\u{e9}]){0,24}") {
            for escape in ['\\', '`'] {
                let _ = expand(&word, escape, &mut lookup);
                let _ = expand_list(&word, escape, &mut lookup);
                let _ = expand_heredoc(&word, escape, &mut lookup);
            }
            let _ = split_raw(&word);
        }

        /// What has nothing special in it stays as it is.
        #[test]
        fn plain_text_is_kept(word in "[a-z/.:=-]{0,24}") {
            prop_assert_eq!(one(&word), Ok(word));
        }
    }
}
