//! The patterns of `${name#pattern}` and its kin: `*`, `?`, and characters that an escape makes plain.

/// A pattern.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Char(char),
    Any,
    Star,
}

impl Token {
    /// Like a regular expression's dot, no wildcard matches a newline.
    fn takes(self, c: char) -> bool {
        match self {
            Token::Char(own) => own == c,
            Token::Any | Token::Star => c != '\n',
        }
    }
}

impl Pattern {
    /// The error says what is wrong.
    pub(super) fn new(text: &str) -> Result<Pattern, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    // The brace and the slash are escaped for the syntax around the pattern.
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(c),
                    Some(c) => return Err(format!("invalid escape '\\{c}'")),
                    None => return Err("escape at the end".to_string()),
                },
                c => Token::Char(c),
            });
        }
        Ok(Pattern(tokens))
    }

    /// The value without its shortest or longest beginning that matches.
    pub(super) fn without_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match matching(&self.0, &chars, longest) {
            Some(length) => chars[length..].iter().collect(),
            None => value.to_string(),
        }
    }

    /// The value without its shortest or longest end that matches.
    pub(super) fn without_suffix(&self, value: &str, longest: bool) -> String {
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        let chars: Vec<char> = value.chars().rev().collect();
        match matching(&tokens, &chars, longest) {
            Some(length) => chars[length..].iter().rev().collect(),
            None => value.to_string(),
        }
    }

    /// The value with the first or every match replaced, each the longest from the leftmost place. An empty match
    /// counts unless it touches the match before it. `None` if that were longer than `limit` bytes.
    pub(super) fn replace(
        &self,
        value: &str,
        with: &str,
        all: bool,
        limit: usize,
    ) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::with_capacity(value.len());
        let mut at = 0;
        let mut last_end = None;
        while at <= chars.len() {
            match matching(&self.0, &chars[at..], true) {
                Some(length) if length > 0 || last_end != Some(at) => {
                    if out.len() + with.len() > limit {
                        return None;
                    }
                    out.push_str(with);
                    at += length;
                    last_end = Some(at);
                    if !all {
                        break;
                    }
                    if length > 0 {
                        continue;
                    }
                    out.extend(chars.get(at));
                    at += 1;
                }
                None if self.0.first() == Some(&Token::Star) => {
                    // A star would have reached every match on this line.
                    let line = chars[at..].iter().position(|c| *c == '\n');
                    let end = line.map_or(chars.len(), |newline| at + newline + 1);
                    out.extend(&chars[at..end]);
                    if line.is_none() {
                        return Some(out);
                    }
                    at = end;
                }
                _ => {
                    out.extend(chars.get(at));
                    at += 1;
                }
            }
        }
        out.extend(chars.get(at..).unwrap_or_default());
        (out.len() <= limit).then_some(out)
    }
}

/// How many characters at the start the tokens match: fewest or most. All ways are followed at once, so that no pattern
/// takes more than tokens times characters.
fn matching(tokens: &[Token], chars: &[char], longest: bool) -> Option<usize> {
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    let mut found = None;
    for length in 0..=chars.len() {
        // A star may match nothing.
        for (index, token) in tokens.iter().enumerate() {
            if states[index] && *token == Token::Star {
                states[index + 1] = true;
            }
        }
        if states[tokens.len()] {
            found = Some(length);
            if !longest {
                return found;
            }
        }
        let Some(c) = chars.get(length) else {
            break;
        };
        let mut alive = false;
        states[tokens.len()] = false;
        for index in (0..tokens.len()).rev() {
            let stays = std::mem::take(&mut states[index]) && tokens[index].takes(*c);
            if stays {
                alive = true;
                if tokens[index] == Token::Star {
                    states[index] = true;
                } else {
                    states[index + 1] = true;
                }
            }
        }
        if !alive {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_suffixes() {
        for (pattern, value, shortest, longest) in [
            ("*", "abc", "abc", ""),
            ("a*", "abc", "bc", ""),
            ("a*b", "aXbXb", "Xb", ""),
            ("?", "abc", "bc", "bc"),
            ("x", "abc", "abc", "abc"),
            ("", "abc", "abc", "abc"),
            ("\\*", "*a", "a", "a"),
            ("\\*", "ba", "ba", "ba"),
            ("*-", "a-b-c", "b-c", "c"),
            ("*x*y", "xxyzy", "zy", ""),
            ("é*", "éa", "a", ""),
            ("*", "a\nb", "a\nb", "\nb"),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(
                compiled.without_prefix(value, false),
                shortest,
                "{pattern} {value}"
            );
            assert_eq!(
                compiled.without_prefix(value, true),
                longest,
                "{pattern} {value}"
            );
        }
        for (pattern, value, shortest, longest) in [
            (".*", "a.b.c", "a.b", "a"),
            ("*", "abc", "abc", ""),
            ("\\*?", "a*b", "a", "a"),
            ("c", "abc", "ab", "ab"),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(
                compiled.without_suffix(value, false),
                shortest,
                "{pattern} {value}"
            );
            assert_eq!(
                compiled.without_suffix(value, true),
                longest,
                "{pattern} {value}"
            );
        }
    }

    #[test]
    fn replacements() {
        for (pattern, value, first, every) in [
            ("red", "red-red", "X-red", "X-X"),
            ("r?d", "rad rod", "X rod", "X X"),
            ("r*d", "rad rod", "X", "X"),
            ("", "ab", "Xab", "XaXbX"),
            ("*", "ab", "X", "X"),
            ("*", "", "X", "X"),
            ("*b", "aa\nab", "aa\nX", "aa\nX"),
            ("\\/", "a/b/", "aXb/", "aXbX"),
            ("nope", "abc", "abc", "abc"),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(
                compiled.replace(value, "X", false, 99).as_deref(),
                Some(first),
                "{pattern} {value}"
            );
            assert_eq!(
                compiled.replace(value, "X", true, 99).as_deref(),
                Some(every),
                "{pattern} {value}"
            );
        }
    }

    #[test]
    fn refuses_unknown_escapes() {
        assert_eq!(Pattern::new("\\a").unwrap_err(), "invalid escape '\\a'");
        assert_eq!(Pattern::new("a\\").unwrap_err(), "escape at the end");
    }
}
