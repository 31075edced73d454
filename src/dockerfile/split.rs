//! An instruction's text to words: blanks, quotes, JSON.

use super::ast::Word;
use super::diagnostic::Diagnostic;
use super::lexer::Slice;

/// Words between white space that no quote and no escape protects. Quotes and escapes stay in them; an escape at the very
/// end is dropped. Empty words need quotes.
pub(super) fn quoted(slice: Slice, escape: char) -> Vec<Word> {
    let text = slice.text();
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = 0;
    let mut in_word = false;
    let mut quote = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !in_word {
            if c.is_whitespace() {
                continue;
            }
            in_word = true;
            start = at;
        } else if quote.is_none() && c.is_whitespace() {
            in_word = false;
            words.extend(finish(&mut word, slice, start, at));
            continue;
        }
        match quote {
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        // Nothing can be escaped between single quotes.
        if c == escape && quote != Some('\'') {
            if let Some((_, escaped)) = chars.next() {
                word.push(c);
                word.push(escaped);
            }
            continue;
        }
        word.push(c);
    }
    if in_word {
        words.extend(finish(&mut word, slice, start, text.len()));
    }
    words
}

fn finish(word: &mut String, slice: Slice, start: usize, end: usize) -> Option<Word> {
    let text = std::mem::take(word);
    (!text.is_empty()).then(|| Word {
        text,
        span: slice.sub(start..end).span(),
    })
}

/// The strings of a JSON array. `None` if the text is no JSON array: then it is words or a command. An array of anything
/// but strings is an error.
pub(super) fn json(slice: Slice) -> Result<Option<Vec<Word>>, Diagnostic> {
    let text = slice.text();
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(items) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(text) else {
        return Ok(None);
    };
    let mut words = Vec::with_capacity(items.len());
    for item in items {
        let raw = item.get();
        // A raw value is a part of the text it was read from.
        let start = raw.as_ptr().addr() - text.as_ptr().addr();
        let span = slice.sub(start..start + raw.len()).span();
        if !raw.starts_with('"') {
            return Err(Diagnostic::error(
                span,
                "when using JSON array syntax, arrays must be comprised of strings only",
            ));
        }
        match serde_json::from_str(raw) {
            Ok(text) => words.push(Word { text, span }),
            // Half of a surrogate pair.
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(words))
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Lexer;
    use super::*;

    #[test]
    fn quoted_words() {
        for (text, want) in [
            ("a b  c", &["a", "b", "c"][..]),
            ("a=\"b c\" d='e f'", &["a=\"b c\"", "d='e f'"]),
            ("a=b\\ c d", &["a=b\\ c", "d"]),
            ("a\\\"b c", &["a\\\"b", "c"]),
            ("'a\\' b", &["'a\\'", "b"]),
            ("\"a\\\" b\" c", &["\"a\\\" b\"", "c"]),
            ("a\\", &["a"]),
            ("\"\" x", &["\"\"", "x"]),
            ("\"open x", &["\"open x"]),
            ("a b\\", &["a", "b"]),
        ] {
            let line = Lexer::plain(text, '`').next_line().unwrap().unwrap();
            let words: Vec<String> = quoted(line.slice(), '\\')
                .into_iter()
                .map(|word| word.text)
                .collect();
            assert_eq!(words, want, "{text}");
        }
    }

    #[test]
    fn json_arrays() {
        let list = |text: &str| {
            let line = Lexer::plain(text, '`').next_line().unwrap().unwrap();
            let words = json(line.slice()).map_err(|error| error.message)?;
            Ok::<_, String>(words.map(|words| {
                words
                    .into_iter()
                    .map(|word| {
                        let span = word.span;
                        (
                            word.text,
                            text[span.start as usize..span.end as usize].to_string(),
                        )
                    })
                    .collect::<Vec<_>>()
            }))
        };
        let pair = |text: &str, raw: &str| (text.to_string(), raw.to_string());
        assert_eq!(
            list("[ \"sh\" ,\t\"q\\\"uote\", \"\\u0041\" ]"),
            Ok(Some(vec![
                pair("sh", "\"sh\""),
                pair("q\"uote", "\"q\\\"uote\""),
                pair("A", "\"\\u0041\"")
            ]))
        );
        assert_eq!(list("[]"), Ok(Some(vec![])));
        for text in [
            "[\"a\"",
            "['a']",
            "[echo hi]",
            "[\"a\"] b",
            "[\"a\",]",
            "{\"a\":1}",
            "a",
            "[ -f x ]",
        ] {
            assert_eq!(list(text), Ok(None), "{text}");
        }
        for text in ["[1]", "[\"a\", [\"b\"]]", "[null]"] {
            assert!(list(text).unwrap_err().contains("strings only"), "{text}");
        }
    }
}
