//! Quotes, escapes and variables of a word.
//!
//! The rules are those of BuildKit's `shell/lex.go`: near the shell's, but unset variables are empty, and a pattern knows
//! `*` and `?` only. Which names are set is the caller's to say; a name it has no value for was used undefined.

use std::ops::Range;

use super::ast::Word;
use super::diagnostic::Diagnostic;
use super::lexer::span;
use super::pattern::Pattern;

/// How deep `${…}` may nest. Recursion is bounded by it; no one writes more than a few.
const MAX_DEPTH: usize = 50;

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
        let mut place = span(start, start + 1);
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

/// The value of a variable; `None` if it is not set.
type Lookup<'f> = dyn FnMut(&str) -> Option<String> + 'f;

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

/// What is left in place.
#[derive(Clone, Copy, Default)]
struct Mode {
    /// Quotes are shown in the result.
    keep_quotes: bool,
    /// Escapes are shown in the result.
    keep_escapes: bool,
    /// Variables without a value stay as they are written.
    keep_unset: bool,
    /// Quotes mean nothing.
    plain_quotes: bool,
}

#[derive(Default)]
struct Output {
    text: String,
    words: Vec<(String, Range<usize>)>,
    word: String,
    word_start: usize,
    in_word: bool,
}

impl Output {
    /// A character that may end a word, at a place in the source.
    fn push(&mut self, c: char, at: usize) {
        if !c.is_whitespace() {
            self.push_word(c.encode_utf8(&mut [0; 4]), at);
        } else if self.in_word && !self.word.is_empty() {
            self.end_word(at);
        }
    }

    /// Text that is part of a word whatever it is.
    fn push_word(&mut self, text: &str, at: usize) {
        if !self.in_word {
            self.word_start = at;
            self.in_word = true;
        }
        self.word.push_str(text);
    }

    fn end_word(&mut self, at: usize) {
        if !self.word.is_empty() {
            let word = std::mem::take(&mut self.word);
            self.words.push((word, self.word_start..at));
        }
        self.in_word = false;
    }
}

struct Expander<'w, 'l> {
    source: &'w str,
    at: usize,
    escape: char,
    mode: Mode,
    keep_escapes: bool,
    depth: usize,
    lookup: &'l mut Lookup<'l>,
}

impl<'w, 'l> Expander<'w, 'l> {
    fn new(source: &'w str, escape: char, mode: Mode, lookup: &'l mut Lookup<'l>) -> Self {
        Expander {
            source,
            at: 0,
            escape,
            mode,
            keep_escapes: mode.keep_escapes,
            depth: 0,
            lookup,
        }
    }

    fn run(mut self) -> Result<Output, WordError> {
        self.until(None, self.mode.keep_escapes)
    }

    fn peek(&self) -> Option<char> {
        self.source[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error<T>(&self, offset: usize, message: impl Into<String>) -> Result<T, WordError> {
        Err(WordError {
            offset,
            message: message.into(),
        })
    }

    /// Everything up to `stop`, which is eaten, or to the end.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<Output, WordError> {
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let result = self.until_inner(stop);
        self.keep_escapes = outer;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<Output, WordError> {
        let mut out = Output::default();
        while let Some(c) = self.peek() {
            let at = self.at;
            match c {
                _ if stop == Some(c) => {
                    self.next();
                    out.end_word(at);
                    return Ok(out);
                }
                '$' => {
                    let value = self.dollar()?;
                    for c in value.chars() {
                        out.push(c, at);
                    }
                    out.text.push_str(&value);
                }
                '\'' | '"' if !self.mode.plain_quotes => {
                    let quoted = if c == '"' {
                        self.double_quote()?
                    } else {
                        self.single_quote()?
                    };
                    out.push_word(&quoted, at);
                    out.text.push_str(&quoted);
                }
                _ if c == self.escape => {
                    self.next();
                    if self.keep_escapes {
                        out.push_word(c.encode_utf8(&mut [0; 4]), at);
                        out.text.push(c);
                    }
                    // At the end there is nothing to escape.
                    if let Some(escaped) = self.next() {
                        out.push_word(escaped.encode_utf8(&mut [0; 4]), at);
                        out.text.push(escaped);
                    }
                }
                _ => {
                    self.next();
                    out.push(c, at);
                    out.text.push(c);
                }
            }
        }
        if let Some(stop) = stop {
            return self.error(
                self.at,
                format!("unexpected end of statement while looking for matching {stop}"),
            );
        }
        out.end_word(self.at);
        Ok(out)
    }

    fn single_quote(&mut self) -> Result<String, WordError> {
        let open = self.at;
        self.next();
        let Some(length) = self.source[self.at..].find('\'') else {
            return self.error(
                open,
                "unexpected end of statement while looking for matching single-quote",
            );
        };
        let inner = &self.source[self.at..self.at + length];
        self.at += length + 1;
        Ok(if self.mode.keep_quotes {
            format!("'{inner}'")
        } else {
            inner.to_string()
        })
    }

    fn double_quote(&mut self) -> Result<String, WordError> {
        let open = self.at;
        let mut text = String::new();
        self.next();
        if self.mode.keep_quotes {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    return self.error(
                        open,
                        "unexpected end of statement while looking for matching double-quote",
                    );
                }
                Some('"') => {
                    self.next();
                    if self.mode.keep_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.escape => {
                    self.next();
                    if self.keep_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        // The missing quote is found in the next turn.
                        None => {}
                        Some(escaped)
                            if escaped == '"' || escaped == '$' || escaped == self.escape =>
                        {
                            self.next();
                            text.push(escaped);
                        }
                        // Before anything else an escape is text; it was written above where escapes are kept, and
                        // BuildKit writes it again.
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, WordError> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_string());
            }
            return Ok(match (self.lookup)(name) {
                Some(value) => value,
                None if self.mode.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        if self.depth == MAX_DEPTH {
            return self.error(
                start,
                format!("variables are nested more than {MAX_DEPTH} deep"),
            );
        }
        self.depth += 1;
        let result = self.braced(start);
        self.depth -= 1;
        result
    }

    /// What follows `${`.
    fn braced(&mut self, start: usize) -> Result<String, WordError> {
        match self.peek() {
            None => return self.error(start, "syntax error: missing '}'"),
            Some('{' | '}' | ':') => {
                return self.error(start, "syntax error: bad substitution");
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        let Some(mut modifier) = self.next() else {
            return self.error(start, "syntax error: missing '}'");
        };
        let empty_is_unset = modifier == ':';
        if empty_is_unset {
            match self.next() {
                None => return self.error(start, "syntax error: missing '}'"),
                Some(second) => modifier = second,
            }
        }
        let modifier_text = &self.source[modifier_at..self.at];
        match modifier {
            '}' if !empty_is_unset => Ok(match (self.lookup)(name) {
                Some(value) => value,
                None if self.mode.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            '/' if !empty_is_unset => self.replace(start, name),
            '-' | '+' | '?' | '#' | '%' => {
                // A pattern needs its escapes to tell `\*` from `*`.
                let is_pattern = matches!(modifier, '#' | '%');
                let word = self.operand(start, '}', is_pattern, "syntax error: missing '}'")?;
                let value = (self.lookup)(name);
                if value.is_none() && self.mode.keep_unset {
                    return Ok(format!("${{{name}{modifier_text}{word}}}"));
                }
                self.apply(start, name, modifier, empty_is_unset, value, word)
            }
            _ => self.error(
                modifier_at,
                format!("unsupported modifier ({modifier_text}) in substitution"),
            ),
        }
    }

    fn operand(
        &mut self,
        start: usize,
        stop: char,
        keep_escapes: bool,
        missing: &str,
    ) -> Result<String, WordError> {
        match self.until(Some(stop), keep_escapes) {
            Ok(out) => Ok(out.text),
            Err(_) if self.peek().is_none() => self.error(start, missing),
            Err(error) => Err(error),
        }
    }

    fn apply(
        &self,
        start: usize,
        name: &str,
        modifier: char,
        empty_is_unset: bool,
        value: Option<String>,
        word: String,
    ) -> Result<String, WordError> {
        let missing = match &value {
            None => Some("is not allowed to be unset"),
            Some(value) if empty_is_unset && value.is_empty() => Some("is not allowed to be empty"),
            Some(_) => None,
        };
        let value = value.unwrap_or_default();
        match (modifier, missing) {
            ('-', Some(_)) | ('+', None) => Ok(word),
            ('+', Some(_)) => Ok(String::new()),
            ('?', Some(default)) => {
                let message = if word.is_empty() { default } else { &word };
                self.error(start, format!("{name}: {message}"))
            }
            ('#' | '%', _) => {
                // A second `#` or `%` asks for the longest match.
                let (longest, text) = match word.strip_prefix(modifier) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let pattern = self.pattern(start, text)?;
                Ok(if modifier == '#' {
                    pattern.without_prefix(&value, longest)
                } else {
                    pattern.without_suffix(&value, longest)
                })
            }
            _ => Ok(value),
        }
    }

    /// What follows `${name/`.
    fn replace(&mut self, start: usize, name: &str) -> Result<String, WordError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let text = self.operand(start, '/', true, "syntax error: missing '/' in ${}")?;
        let with = self.operand(start, '}', true, "syntax error: missing '}'")?;
        match (self.lookup)(name) {
            None if self.mode.keep_unset => Ok(format!("${{{name}/{text}/{with}}}")),
            value => {
                let pattern = self.pattern(start, &text)?;
                // As in the pattern, the escape was for the syntax around it.
                let with = with.replace("\\}", "}").replace("\\/", "/");
                Ok(pattern.replace(&value.unwrap_or_default(), &with, all))
            }
        }
    }

    fn pattern(&self, start: usize, text: &str) -> Result<Pattern, WordError> {
        Pattern::new(text).or_else(|reason| {
            self.error(
                start,
                format!("invalid pattern ({text}) in substitution: {reason}"),
            )
        })
    }

    /// A variable's name: letters, digits and underscores; only digits if it starts with one; or one special character.
    fn name(&mut self) -> &'w str {
        let start = self.at;
        let rest = &self.source[start..];
        let length = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
        };
        self.at = start + length.unwrap_or(rest.len());
        &rest[..self.at - start]
    }
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
