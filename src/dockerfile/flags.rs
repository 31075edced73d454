//! The `--flags` between an instruction's name and its words.

use super::ast::{Span, Word};
use super::diagnostic::Diagnostic;
use super::lexer::Slice;
use super::suggest::did_you_mean;

/// How often a flag may be given, and what it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nothing, or `=true` or `=false`.
    Switch,
    /// A value, once.
    Value,
    /// A value, any number of times.
    Values,
}

/// A flag as given.
#[derive(Debug)]
struct Flag {
    name: String,
    value: Option<Word>,
    span: Span,
}

/// The flags of one instruction.
#[derive(Debug)]
pub(super) struct Flags(Vec<Flag>);

impl Flags {
    /// Takes the flags off the front. Their quotes and escapes are removed, by backslash whatever the escape character is.
    pub(super) fn take<'l>(mut rest: Slice<'l>) -> (Flags, Slice<'l>) {
        let mut flags = Vec::new();
        loop {
            let text = rest.text();
            rest = rest.from(text.len() - text.trim_start().len());
            if !rest.text().starts_with("--") {
                return (Flags(flags), rest);
            }
            let (word, length) = unquoted(rest.text());
            let flag = rest.sub(0..length);
            rest = rest.from(length);
            if word == "--" {
                return (Flags(flags), rest);
            }
            let body = &word[2..];
            let (name, value) = match body.split_once('=') {
                None => (body, None),
                Some((name, value)) => {
                    let equals = flag.text().find('=').map_or(0, |at| at + 1);
                    let value = Word {
                        text: value.to_string(),
                        span: flag.from(equals).span(),
                    };
                    (name, Some(value))
                }
            };
            flags.push(Flag {
                name: name.to_string(),
                value,
                span: flag.span(),
            });
        }
    }

    /// Holds them against those that the instruction has.
    pub(super) fn check(&self, known: &[(&'static str, Kind)]) -> Result<(), Diagnostic> {
        for (index, flag) in self.0.iter().enumerate() {
            let name = &flag.name;
            let fail = |message: String| Err(Diagnostic::error(flag.span, message));
            let Some((_, kind)) = known.iter().find(|(known, _)| known == name) else {
                let suggestion = did_you_mean(name, known.iter().map(|(known, _)| *known));
                return fail(format!("unknown flag: --{name}{suggestion}"));
            };
            if *kind != Kind::Values && self.0[..index].iter().any(|other| other.name == *name) {
                return fail(format!("duplicate flag specified: --{name}"));
            }
            match (&flag.value, kind) {
                (None, Kind::Value | Kind::Values) => {
                    return fail(format!("missing a value on flag: --{name}"));
                }
                (Some(value), Kind::Switch) if value.text.is_empty() => {
                    return fail(format!("missing a value on flag: --{name}"));
                }
                (Some(value), Kind::Switch) if truth(&value.text).is_none() => {
                    let value = &value.text;
                    return fail(format!(
                        "expecting boolean value for flag --{name}, not: {value}"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The value of a flag; none too if it is empty.
    pub(super) fn value(&self, name: &str) -> Option<Word> {
        self.values(name)
            .into_iter()
            .next()
            .filter(|word| !word.text.is_empty())
    }

    /// The values of a flag.
    pub(super) fn values(&self, name: &str) -> Vec<Word> {
        let given = self.0.iter().filter(|flag| flag.name == name);
        given.filter_map(|flag| flag.value.clone()).collect()
    }

    /// Whether a switch is on; `None` if it is not given.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let flag = self.0.iter().find(|flag| flag.name == name)?;
        Some(
            flag.value
                .as_ref()
                .is_none_or(|value| truth(&value.text) == Some(true)),
        )
    }
}

fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The first word without quotes and escapes, and how many bytes it has with them.
fn unquoted(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if quote == Some(c) => quote = None,
            '\\' => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ if quote.is_some() => word.push(c),
            '\'' | '"' => quote = Some(c),
            _ if c.is_whitespace() => return (word, at),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Lexer;
    use super::*;

    const KNOWN: &[(&str, Kind)] = &[
        ("from", Kind::Value),
        ("link", Kind::Switch),
        ("exclude", Kind::Values),
    ];

    fn taken(text: &str) -> (Result<Flags, String>, String) {
        let line = Lexer::plain(text, '\\').next_line().unwrap().unwrap();
        let (flags, rest) = Flags::take(line.slice());
        let checked = flags.check(KNOWN);
        (
            checked.map(|()| flags).map_err(|error| error.message),
            rest.text().to_string(),
        )
    }

    #[test]
    fn values_and_rest() {
        let (flags, rest) = taken("--from=a --link --exclude='x y' --exclude=\\-z a b");
        let flags = flags.unwrap();
        assert_eq!(rest, "a b");
        assert_eq!(flags.value("from").unwrap().text, "a");
        assert_eq!(flags.switch("link"), Some(true));
        let excludes: Vec<String> = flags
            .values("exclude")
            .into_iter()
            .map(|word| word.text)
            .collect();
        assert_eq!(excludes, ["x y", "-z"]);
        assert_eq!(
            taken("--link=FALSE x").0.unwrap().switch("link"),
            Some(false)
        );
        assert_eq!(taken("--link -- --x").1, " --x");
        assert_eq!(taken("a --link").1, "a --link");
        assert_eq!(taken("-x").1, "-x");
        assert_eq!(
            taken("--\"from\"=x y")
                .0
                .unwrap()
                .value("from")
                .unwrap()
                .text,
            "x"
        );
    }

    #[test]
    fn refusals() {
        for (text, want) in [
            ("--frm=x a", "unknown flag: --frm (did you mean from?)"),
            ("--wherefrom=x a", "unknown flag: --wherefrom"),
            ("--from=a --from=b", "duplicate flag specified: --from"),
            ("--from a", "missing a value on flag: --from"),
            ("--link= a", "missing a value on flag: --link"),
            (
                "--link=yes a",
                "expecting boolean value for flag --link, not: yes",
            ),
            ("--exclude a", "missing a value on flag: --exclude"),
        ] {
            assert_eq!(taken(text).0.unwrap_err(), want, "{text}");
        }
    }
}
