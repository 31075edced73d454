//! Path patterns: `*`, `?`, `[a-z]`, `[^a]`, `\x`, as Go's `filepath.Match` reads them.
//!
//! A pattern is compiled once; matching follows all ways at once, so its time is at most that of pattern times path. `*`
//! and `?` do not match a slash. Paths are bytes; a byte that is no UTF-8 is a character of its own.

use super::prefilter::Bytes;

const SLASH: u32 = '/' as u32;

const SLASH_TOKEN: Token = Token::Is(SLASH);

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Program);

impl Pattern {
    /// Compiles a pattern.
    pub fn new(text: &str) -> Result<Pattern, GlobError> {
        Program::new(text, Stars::Single).map(Pattern)
    }

    /// The same with `**`: before a slash any number of directories, at the end anything.
    pub fn deep(text: &str) -> Result<Pattern, GlobError> {
        Program::new(text, Stars::Double).map(Pattern)
    }

    /// Whether it matches the whole path, or the whole name.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        self.0.matches(path.as_ref())
    }
}

/// Whether the text has a wildcard that is not escaped, so that [`Pattern`] could match another name than its own.
pub fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GlobError {
    /// `[` without `]`, or nothing between them, or half a range.
    #[error("syntax error in pattern: broken character class")]
    Class,
    /// A backslash with nothing after it.
    #[error("syntax error in pattern: nothing follows the last backslash")]
    Escape,
}

/// What two stars in a row are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stars {
    /// The same as one.
    Single,
    /// Any number of directories, as in ignore files.
    Double,
}

/// One step of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    /// This character.
    Is(u32),
    /// One character but a slash.
    Any,
    /// Characters but slashes.
    Star,
    /// One of [`Program::classes`].
    Class(usize),
    /// `**` before something: nothing, or [`Token::DirsLoop`].
    Dirs,
    /// Anything that ends in a slash. Always after [`Token::Dirs`].
    DirsLoop,
    /// Anything.
    Everything,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Class {
    negated: bool,
    ranges: Vec<(u32, u32)>,
}

impl Class {
    fn takes(&self, unit: u32) -> bool {
        self.ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&unit))
            != self.negated
    }
}

/// How to match without stepping through the tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    /// `prefix` is all of it.
    Exact,
    /// `prefix`, then anything.
    Prefix,
    /// `suffix`, after nothing or a slash.
    Name,
    /// `suffix`, after anything.
    Suffix,
    /// Between `prefix` and `suffix` the tokens decide.
    General,
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Program {
    tokens: Vec<Token>,
    classes: Vec<Class>,
    shape: Shape,
    /// The literal text at the start, which most paths do not have.
    prefix: Vec<u8>,
    /// The literal text at the end.
    suffix: Vec<u8>,
}

impl Program {
    pub(super) fn new(text: &str, stars: Stars) -> Result<Program, GlobError> {
        let mut tokens = Vec::new();
        let mut classes = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if stars == Stars::Double && chars.next_if_eq(&'*').is_some() => {
                    let slash = chars.next_if_eq(&'/').is_some();
                    if chars.peek().is_none() {
                        tokens.push(Token::Everything);
                    } else if tokens.is_empty() && !slash && is_plain(&text[2..]) {
                        // `**name` of plain characters is the end of any path, with other wildcards it is not:
                        // moby's matcher has a short cut here that means more than its regular expression.
                        tokens.push(Token::Everything);
                    } else {
                        tokens.extend([Token::Dirs, Token::DirsLoop]);
                    }
                }
                '*' if tokens.last() == Some(&Token::Star) => {}
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                '[' => {
                    tokens.push(Token::Class(classes.len()));
                    classes.push(class(&mut chars)?);
                }
                '\\' => tokens.push(Token::Is(chars.next().ok_or(GlobError::Escape)?.into())),
                c => tokens.push(Token::Is(c.into())),
            }
        }
        let is = |token: &Token| match token {
            Token::Is(unit) => char::from_u32(*unit),
            _ => None,
        };
        let prefix: String = tokens.iter().map_while(is).collect();
        let literal_end = tokens.iter().rev().map_while(is).count();
        let suffix: String = tokens[tokens.len() - literal_end..]
            .iter()
            .filter_map(is)
            .collect();
        let shape = match &tokens[..tokens.len() - literal_end] {
            [] => Shape::Exact,
            // Whatever comes before, its directories are the stars' and the rest of a name is the star's.
            [Token::Everything] | [Token::Dirs, Token::DirsLoop, Token::Star] => Shape::Suffix,
            [Token::Dirs, Token::DirsLoop] => Shape::Name,
            [head @ .., Token::Everything]
                if literal_end == 0 && head.iter().all(|t| is(t).is_some()) =>
            {
                Shape::Prefix
            }
            _ => Shape::General,
        };
        Ok(Program {
            tokens,
            classes,
            shape,
            prefix: prefix.into_bytes(),
            suffix: suffix.into_bytes(),
        })
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self.shape {
            Shape::Exact => path == self.prefix,
            Shape::Prefix => path.starts_with(&self.prefix),
            Shape::Suffix => path.ends_with(&self.suffix),
            Shape::Name => path
                .strip_suffix(&self.suffix[..])
                .is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/")),
            Shape::General => {
                path.starts_with(&self.prefix)
                    && path.ends_with(&self.suffix)
                    && self.run(&[path]).contains(self.tokens.len())
            }
        }
    }

    /// Whether some path below the directory could match.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        match self.shape {
            Shape::Suffix | Shape::Name => true,
            _ => {
                let states = self.run(&[directory, b"/"]);
                (0..self.tokens.len()).any(|index| states.contains(index))
            }
        }
    }

    /// What a path that it matches can begin with.
    pub(super) fn first_bytes(&self) -> Bytes {
        self.token_bytes(self.tokens.first(), |text| text.first())
    }

    /// What a path that it matches can end with.
    pub(super) fn last_bytes(&self) -> Bytes {
        self.token_bytes(self.tokens.last(), |text| text.last())
    }

    /// What the last name of a path that it matches can begin with.
    pub(super) fn name_bytes(&self) -> Bytes {
        let boundary = |t: &Token| *t == SLASH_TOKEN || *t == Token::DirsLoop;
        let before = self.tokens.iter().rposition(boundary);
        let name = &self.tokens[before.map_or(0, |at| at + 1)..];
        // The stars in `a**/b` may be nothing, and then the name begins with `a`.
        let whole = before.is_none_or(|at| {
            self.tokens[at] == SLASH_TOKEN || at < 2 || self.tokens[at - 2] == SLASH_TOKEN
        });
        if !whole || name.iter().any(|token| self.takes_slash(token)) {
            return Bytes::ALL;
        }
        self.token_bytes(name.first(), |text| text.first())
    }

    /// Which byte of its character a token can be; all bytes if it may be none or several characters.
    fn token_bytes(&self, token: Option<&Token>, end: fn(&[u8]) -> Option<&u8>) -> Bytes {
        let mut bytes = Bytes::NONE;
        match token {
            Some(Token::Is(unit)) => {
                let text = char::from_u32(*unit).map(String::from).unwrap_or_default();
                let Some(byte) = end(text.as_bytes()) else {
                    return Bytes::ALL;
                };
                bytes.insert(*byte);
            }
            Some(Token::Class(class)) => {
                bytes = Bytes::HIGH;
                for byte in 0..=0x7f {
                    if self.classes[*class].takes(byte.into()) {
                        bytes.insert(byte);
                    }
                }
            }
            _ => return Bytes::ALL,
        }
        bytes
    }

    fn takes_slash(&self, token: &Token) -> bool {
        match token {
            Token::Is(_) => *token == SLASH_TOKEN,
            Token::Any | Token::Star => false,
            Token::Class(class) => self.classes[*class].takes(SLASH),
            Token::Dirs | Token::DirsLoop | Token::Everything => true,
        }
    }

    /// The places in the pattern where one can be after the bytes.
    fn run(&self, parts: &[&[u8]]) -> States {
        let mut states = States::new(self.tokens.len() + 1);
        let mut next = states.clone();
        self.add(&mut states, 0);
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                if states.is_empty() {
                    return states;
                }
                let (unit, length) = decode(rest);
                rest = &rest[length..];
                next.clear();
                states.each(|index| self.step(&mut next, index, unit));
                std::mem::swap(&mut states, &mut next);
            }
        }
        states
    }

    /// Enters a place, and those that are reached from it by nothing.
    fn add(&self, states: &mut States, mut index: usize) {
        loop {
            states.insert(index);
            match self.tokens.get(index) {
                Some(Token::Star | Token::Everything) => index += 1,
                Some(Token::Dirs) => {
                    states.insert(index + 1);
                    index += 2;
                }
                _ => return,
            }
        }
    }

    fn step(&self, next: &mut States, index: usize, unit: u32) {
        let Some(token) = self.tokens.get(index) else {
            return;
        };
        match *token {
            Token::Is(own) if own == unit => self.add(next, index + 1),
            Token::Any if unit != SLASH => self.add(next, index + 1),
            Token::Class(class) if self.classes[class].takes(unit) => self.add(next, index + 1),
            Token::Star if unit != SLASH => self.add(next, index),
            Token::Everything => self.add(next, index),
            Token::DirsLoop => {
                next.insert(index);
                if unit == SLASH {
                    self.add(next, index + 1);
                }
            }
            _ => {}
        }
    }
}

fn is_plain(text: &str) -> bool {
    !text.contains(['*', '?', '[', ']', '\\'])
}

/// What follows `[`, its `]` included.
fn class(chars: &mut std::iter::Peekable<std::str::Chars>) -> Result<Class, GlobError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() {
            class_char(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars>) -> Result<u32, GlobError> {
    match chars.next() {
        None | Some('-' | ']') => Err(GlobError::Class),
        Some('\\') => chars.next().map(u32::from).ok_or(GlobError::Class),
        Some(c) => Ok(c.into()),
    }
}

/// The first character and its length; a byte that starts none becomes a number that no character has.
fn decode(bytes: &[u8]) -> (u32, usize) {
    const NO_CHAR: u32 = 0x11_0000;
    let first = bytes[0];
    if first.is_ascii() {
        return (first.into(), 1);
    }
    for length in 2..=bytes.len().min(4) {
        if let Ok(text) = std::str::from_utf8(&bytes[..length])
            && let Some(c) = text.chars().next()
        {
            return (c.into(), length);
        }
    }
    (NO_CHAR + u32::from(first), 1)
}

/// A set of places in a pattern: a number for all but the longest patterns.
#[derive(Clone, Debug)]
enum States {
    Few(u128),
    Many(Vec<bool>),
}

impl States {
    fn new(count: usize) -> States {
        if count <= 128 {
            States::Few(0)
        } else {
            States::Many(vec![false; count])
        }
    }

    fn insert(&mut self, index: usize) {
        match self {
            States::Few(bits) => *bits |= 1 << index,
            States::Many(flags) => flags[index] = true,
        }
    }

    fn contains(&self, index: usize) -> bool {
        match self {
            States::Few(bits) => bits >> index & 1 == 1,
            States::Many(flags) => flags[index],
        }
    }

    fn clear(&mut self) {
        match self {
            States::Few(bits) => *bits = 0,
            States::Many(flags) => flags.fill(false),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            States::Few(bits) => *bits == 0,
            States::Many(flags) => !flags.contains(&true),
        }
    }

    fn each(&self, mut visit: impl FnMut(usize)) {
        match self {
            States::Few(bits) => {
                let mut rest = *bits;
                while rest != 0 {
                    visit(rest.trailing_zeros() as usize);
                    rest &= rest - 1;
                }
            }
            States::Many(flags) => (0..flags.len())
                .filter(|index| flags[*index])
                .for_each(visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_match() {
        for (pattern, name, want) in [
            ("name", "name", true),
            ("name", "nam", false),
            ("*", "name", true),
            ("*", "", true),
            ("*e", "name", true),
            ("n*", "n", true),
            ("n*", "name", true),
            ("n*", "name/x", false),
            ("n*/x", "name/x", true),
            ("n*/x", "n/ame/x", false),
            ("l*b*-*.so*/x", "libc-2.so.6/x", true),
            ("l*b*-*.so*/x", "lib-b-x.so/x", true),
            ("l*b*-*.so*/x", "libc-2.so/6/x", false),
            ("l*b*-*.so*/x", "libc-2.so/xx", false),
            ("t*-?-*z", "tar--1-gz", true),
            ("t*-?-*z", "tar-11-gz", false),
            ("m[k]v", "mkv", true),
            ("m[i-l]v", "mkv", true),
            ("m[l-n]v", "mkv", false),
            ("m[^k]v", "mkv", false),
            ("m[^i-l]v", "mkv", false),
            ("m[^l-n]v", "mkv", true),
            ("x\\*y", "x*y", true),
            ("x\\*y", "xy", false),
            ("x?y", "xñy", true),
            ("x[^x]y", "xñy", true),
            ("x??y", "xñy", false),
            ("x[^x][^x]y", "xñy", false),
            ("[a-я]*", "ж", true),
            ("*[a-я]", "Z", false),
            ("x?y", "x/y", false),
            ("x*y", "x/y", false),
            ("x[/]y", "x/y", true),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[p\\-]", "p", true),
            ("[p\\-]", "-", true),
            ("[p\\-]", "q", false),
            ("[z-a]", "m", false),
            ("*oo", "ooooo", true),
            ("**", "a", true),
            ("a**b", "axxb", true),
            ("**/b", "a/b", true),
            ("**/b", "a/a/b", false),
            ("", "", true),
            ("", "a", false),
            ("a]", "a]", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).unwrap().matches(name),
                want,
                "{pattern} {name}"
            );
        }
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "[]", "[^]", "[\\",
        ] {
            assert_eq!(
                Pattern::new(pattern).unwrap_err(),
                GlobError::Class,
                "{pattern}"
            );
        }
        assert_eq!(Pattern::new("a\\").unwrap_err(), GlobError::Escape);
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert!(Pattern::new("a?b").unwrap().matches(b"a\xffb"));
        assert!(Pattern::new("[^x]").unwrap().matches(b"\xff"));
        assert!(!Pattern::new("\u{ff}").unwrap().matches(b"\xff"));
    }

    #[test]
    fn wildcards() {
        for (text, want) in [
            ("a*", true),
            ("a\\*", false),
            ("[", true),
            ("\\", false),
            ("a\\\\?", true),
        ] {
            assert_eq!(has_wildcards(text), want, "{text}");
        }
    }

    #[test]
    fn long_patterns_match_too() {
        let pattern = Pattern::new(&"a*".repeat(200)).unwrap();
        assert!(pattern.matches("a".repeat(300)));
        assert!(!pattern.matches("a".repeat(199)));
    }

    proptest! {
        #[test]
        fn escaped_names_match_themselves(name in "\\PC{0,12}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(Pattern::new(&escaped).unwrap().matches(&name));
            prop_assert!(!has_wildcards(&escaped));
        }

        #[test]
        fn never_panics(pattern in "[a*?\\[\\]^\\\\/-]{0,12}", path in proptest::collection::vec(any::<u8>(), 0..12)) {
            for stars in [Stars::Single, Stars::Double] {
                if let Ok(program) = Program::new(&pattern, stars)
                    && program.matches(&path)
                    && let Some(slash) = path.iter().rposition(|b| *b == b'/')
                    && slash + 1 < path.len()
                {
                    prop_assert!(program.may_match_below(&path[..slash]));
                }
            }
        }

        /// The short cuts say what the tokens say.
        #[test]
        fn shapes_agree_with_tokens(pattern in "[ab*?/]{0,8}", path in "[ab/]{0,8}") {
            let program = Program::new(&pattern, Stars::Double).unwrap();
            let slow = program.run(&[path.as_bytes()]).contains(program.tokens.len());
            prop_assert_eq!(program.matches(path.as_bytes()), slow);
        }
    }
}
