//! The machine behind [`words`](super::words): one pass over a word, with recursion for what `${…}` holds.

use std::ops::Range;

use super::pattern::Pattern;
use super::words::WordError;

/// How deep `${…}` may nest. Recursion is bounded by it; no one writes more than a few.
const MAX_DEPTH: usize = 50;

/// By how many bytes a text may grow. Replacements in replacements multiply, and so do variables made of variables: a few
/// lines could ask for more than any memory. Linux takes no argument and no variable beyond 128 KiB; this is enough for
/// several of them in one text.
const MAX_GROWTH_BYTES: usize = 1 << 20;

/// The value of a variable; `None` if it is not set.
pub(super) type Lookup<'f> = dyn FnMut(&str) -> Option<String> + 'f;

/// What is left in place.
#[derive(Clone, Copy, Default)]
pub(super) struct Mode {
    /// Quotes are shown in the result.
    pub(super) keep_quotes: bool,
    /// Escapes are shown in the result.
    pub(super) keep_escapes: bool,
    /// Variables without a value stay as they are written.
    pub(super) keep_unset: bool,
    /// Quotes mean nothing.
    pub(super) plain_quotes: bool,
}

/// A text, and the same as words.
#[derive(Default)]
pub(super) struct Output {
    /// All of it.
    pub(super) text: String,
    /// Its words, and where in the source they began and ended.
    pub(super) words: Vec<(String, Range<usize>)>,
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

/// Reads a word from front to back.
pub(super) struct Expander<'w, 'l> {
    source: &'w str,
    at: usize,
    escape: char,
    mode: Mode,
    keep_escapes: bool,
    depth: usize,
    lookup: &'l mut Lookup<'l>,
}

impl<'w, 'l> Expander<'w, 'l> {
    /// At the start of a word.
    pub(super) fn new(
        source: &'w str,
        escape: char,
        mode: Mode,
        lookup: &'l mut Lookup<'l>,
    ) -> Self {
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

    /// The length no text of this word may have.
    fn limit(&self) -> usize {
        self.source.len() + MAX_GROWTH_BYTES
    }

    fn too_long<T>(&self, start: usize) -> Result<T, WordError> {
        self.error(
            start,
            format!(
                "the variables in it make it longer than {} bytes",
                self.limit()
            ),
        )
    }

    /// The whole word.
    pub(super) fn run(mut self) -> Result<Output, WordError> {
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
                    if out.text.len() > self.limit() {
                        return self.too_long(at);
                    }
                }
                '\'' | '"' if !self.mode.plain_quotes => {
                    let quoted = if c == '"' {
                        self.double_quote()?
                    } else {
                        self.single_quote()?
                    };
                    out.push_word(&quoted, at);
                    out.text.push_str(&quoted);
                    if out.text.len() > self.limit() {
                        return self.too_long(at);
                    }
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
                Some('$') => {
                    let start = self.at;
                    text.push_str(&self.dollar()?);
                    if text.len() > self.limit() {
                        return self.too_long(start);
                    }
                }
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
                let value = value.unwrap_or_default();
                match pattern.replace(&value, &with, all, self.limit()) {
                    Some(text) => Ok(text),
                    None => self.too_long(start),
                }
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
