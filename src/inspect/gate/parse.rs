//! The language of rules.
//!
//! ```text
//! rules  = rule, separated by commas or line ends; `#` after a blank or at the beginning of a line begins a comment,
//!          a backslash at the end of a line joins it with the next
//! rule   = NAME [BOUND] ["own"] ["except" PATH…]
//! bound  = (">" | ">=" | "<" | "<=") NUMBER UNIT
//! unit   = B kB MB GB TB PB KiB MiB GiB TiB PiB, in any case, or %; none for what is counted
//! path   = "/…" or "**/…" with the wildcards of .dockerignore; between double quotes it may hold blanks and commas
//! ```

use std::ops::Range;

use super::rule::{Bound, Comparison, Exception, Kind, Measure, Rule, Rules, Takes};
use crate::dockerfile::glob::{GlobError, Pattern};
use crate::dockerfile::nearest;

/// The units of sizes, bytes: those of strata's reports, and the binary ones.
pub(super) const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
];

/// The most digits of a number; more are no size that exists, and would not fit the arithmetic.
const MAX_DIGITS: usize = 18;

/// Why a text is no rules, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}")]
pub struct RuleError {
    /// The bytes of the text that are to blame; empty at its end.
    pub span: Range<usize>,
    /// What is wrong.
    pub problem: RuleProblem,
}

/// What is wrong with a text of rules.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleProblem {
    /// There is none.
    #[error("there is no rule")]
    Empty,
    /// Something else stands where a rule begins.
    #[error("expected the name of a rule")]
    Name,
    /// No rule has this name.
    #[error("unknown rule {name:?}{}", did_you_mean(.nearest))]
    Unknown {
        /// As written.
        name: String,
        /// The name that is closest.
        nearest: Option<&'static str>,
    },
    /// The rule compares with something.
    #[error("{} needs a bound", .0.name())]
    NoBound(Kind),
    /// The rule compares with nothing.
    #[error("{} has no bound", .0.name())]
    Bound(Kind),
    /// No comparison, or the other direction.
    #[error("{} does not take {sign:?}", .kind.name())]
    Sign {
        /// The rule.
        kind: Kind,
        /// As written.
        sign: String,
    },
    /// No number follows.
    #[error("expected a number")]
    Number,
    /// Too many digits, or too large.
    #[error("the number is too large")]
    TooLarge,
    /// Less than the smallest unit.
    #[error("the number is too precise: {0}")]
    Precise(&'static str),
    /// A number alone.
    #[error("a unit is missing")]
    NoUnit(Kind),
    /// A unit that is none, or not one for this rule.
    #[error("{} is not measured in {unit:?}", .kind.name())]
    Unit {
        /// The rule.
        kind: Kind,
        /// As written.
        unit: String,
    },
    /// `m`: elsewhere on the command line 1024², in reports a million.
    #[error("the unit {0:?} could mean two things")]
    Ambiguous(String),
    /// More than all.
    #[error("more than 100% is never reached")]
    MoreThanAll,
    /// A word that belongs nowhere.
    #[error("unexpected {0:?}")]
    Word(String),
    /// `own` where there are no layers to choose from.
    #[error("{} is about the image, not about its layers", .0.name())]
    NoLayers(Kind),
    /// `except` where there are no paths.
    #[error("{} is not about paths: nothing can be excepted", .0.name())]
    NoPaths(Kind),
    /// Nothing after `except`.
    #[error("no path follows except")]
    NoException,
    /// A path that does not begin at the root.
    #[error("the path {0:?} begins neither with / nor with **/")]
    Path(String),
    /// A path's pattern is broken.
    #[error("the path {path:?} is no pattern")]
    Pattern {
        /// As written.
        path: String,
        /// Why not.
        #[source]
        source: GlobError,
    },
    /// A quote that does not end on its line, or stands in a word.
    #[error("a quote is not closed, or stands inside a word")]
    Quote,
}

fn did_you_mean(name: &Option<&'static str>) -> String {
    name.map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

impl RuleProblem {
    /// What to write instead.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            RuleProblem::Empty | RuleProblem::Name | RuleProblem::Unknown { .. } => {
                let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                format!("the rules are {}", names.join(", "))
            }
            RuleProblem::NoBound(kind) | RuleProblem::Sign { kind, .. } => {
                format!("for example {}", kind.example())
            }
            RuleProblem::Bound(kind) => format!(
                "write {0}, or {0} except /a/path for what may be so",
                kind.name()
            ),
            RuleProblem::NoUnit(kind) | RuleProblem::Unit { kind, .. } => match kind.takes() {
                Takes::Share => format!("write a percentage, as in {}", kind.example()),
                Takes::Count => format!("write a number alone, as in {}", kind.example()),
                Takes::BytesOrShare => {
                    "write MB (1000000 bytes), MiB (1048576), or the like, or %".to_owned()
                }
                _ => "write MB (1000000 bytes), MiB (1048576), or the like".to_owned(),
            },
            RuleProblem::Ambiguous(unit) => {
                let letter = unit.to_ascii_uppercase();
                let small = if letter == "K" { "k" } else { &letter };
                format!("write {small}B for powers of 1000, as reports do, or {letter}iB for those of 1024")
            }
            RuleProblem::Word(_) => {
                "a rule is NAME [BOUND] [own] [except PATH...]; the next one follows a comma or a line end"
                    .to_owned()
            }
            RuleProblem::Path(path) => format!("write /{path}, or **/{path} for any directory"),
            RuleProblem::NoException => "as in setuid except /usr/bin/su".to_owned(),
            _ => return None,
        })
    }
}

/// Whether a path can be written without quotes.
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| ends_word(c) || c == '"')
}

fn ends_word(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | ',')
}

impl Rules {
    /// Reads rules. The first mistake is the error.
    pub fn parse(text: &str) -> Result<Rules, RuleError> {
        let mut reader = Reader { text, at: 0 };
        let mut rules = Rules::default();
        loop {
            reader.skip(|c| matches!(c, ' ' | '\t' | '\r' | '\n' | ','));
            if reader.peek().is_none() {
                break;
            }
            rules.add(reader.rule()?);
        }
        match rules.is_empty() {
            true => Err(RuleError {
                span: text.len()..text.len(),
                problem: RuleProblem::Empty,
            }),
            false => Ok(rules),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error<T>(&self, from: usize, problem: RuleProblem) -> Result<T, RuleError> {
        Err(RuleError {
            span: from..self.at,
            problem,
        })
    }

    /// Takes characters while they are so.
    fn take(&mut self, is: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let length = rest.find(|c| !is(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Goes over these characters, joined lines and comments.
    fn skip(&mut self, blank: impl Fn(char) -> bool) {
        loop {
            let begins = self.at == 0 || self.text[..self.at].ends_with(ends_word);
            let rest = self.rest();
            if let Some(joined) = ["\\\n", "\\\r\n"].iter().find(|j| rest.starts_with(**j)) {
                self.at += joined.len();
            } else if begins && rest.starts_with('#') {
                self.take(|c| c != '\n');
            } else if self.take(&blank).is_empty() {
                return;
            }
        }
    }

    fn skip_blanks(&mut self) {
        self.skip(|c| matches!(c, ' ' | '\t' | '\r'));
    }

    /// Whether the rule ends here.
    fn ends(&self) -> bool {
        matches!(self.peek(), None | Some(',' | '\n'))
    }

    fn rule(&mut self) -> Result<Rule, RuleError> {
        let from = self.at;
        let name = self.take(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
        if name.is_empty() {
            self.at += self.peek().map_or(0, char::len_utf8);
            return self.error(from, RuleProblem::Name);
        }
        let Some(kind) = Kind::named(name) else {
            let names = Kind::ALL.map(Kind::name);
            return self.error(
                from,
                RuleProblem::Unknown {
                    name: name.to_owned(),
                    nearest: nearest(name, names),
                },
            );
        };
        self.skip_blanks();
        let mut rule = Rule {
            kind,
            bound: self.bound(kind, from)?,
            own: false,
            except: Vec::new(),
        };
        self.skip_blanks();
        while !self.ends() {
            let from = self.at;
            match self.word()? {
                word if word.eq_ignore_ascii_case("own") && kind.has_layers() => rule.own = true,
                word if word.eq_ignore_ascii_case("own") => {
                    return self.error(from, RuleProblem::NoLayers(kind));
                }
                word if !word.eq_ignore_ascii_case("except") => {
                    return self.error(from, RuleProblem::Word(word.to_owned()));
                }
                _ if !kind.has_paths() => return self.error(from, RuleProblem::NoPaths(kind)),
                _ => {
                    self.skip_blanks();
                    if self.ends() {
                        return self.error(from, RuleProblem::NoException);
                    }
                    while !self.ends() {
                        rule.except.push(self.exception()?);
                        self.skip_blanks();
                    }
                }
            }
            self.skip_blanks();
        }
        Ok(rule)
    }

    fn bound(&mut self, kind: Kind, name_at: usize) -> Result<Option<Bound>, RuleError> {
        let name_end = self.at;
        let from = self.at;
        let sign = self.take(|c| matches!(c, '<' | '>' | '=' | '!' | '≤' | '≥'));
        let takes = kind.takes();
        if sign.is_empty() {
            return match takes {
                Takes::Nothing => Ok(None),
                _ => Err(RuleError {
                    span: name_at..self.text[..name_end].trim_end().len(),
                    problem: RuleProblem::NoBound(kind),
                }),
            };
        }
        if takes == Takes::Nothing {
            return self.error(from, RuleProblem::Bound(kind));
        }
        let comparison = match (sign, takes) {
            // What is to be reached is broken below, everything else above.
            ("<", Takes::Share) => Comparison::Below,
            ("<=", Takes::Share) => Comparison::AtMost,
            (">", _) if takes != Takes::Share => Comparison::Above,
            (">=", _) if takes != Takes::Share => Comparison::AtLeast,
            _ => {
                let sign = sign.to_owned();
                return self.error(from, RuleProblem::Sign { kind, sign });
            }
        };
        self.skip_blanks();
        let limit = self.measure(kind)?;
        Ok(Some(Bound { comparison, limit }))
    }

    fn measure(&mut self, kind: Kind) -> Result<Measure, RuleError> {
        let from = self.at;
        let text = self.take(|c| c.is_ascii_digit() || c == '.');
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() || text.ends_with('.') || part.contains('.') {
            return self.error(from, RuleProblem::Number);
        }
        let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
        if whole.len() + part.len() > MAX_DIGITS {
            return self.error(from, RuleProblem::TooLarge);
        }
        let number: u128 = format!("0{whole}{part}")
            .parse()
            .expect("at most 19 digits are a number of 128 bits");
        let decimals = part.len();
        let end = self.at;
        self.skip_blanks();
        let unit_at = self.at;
        let unit = self.take(|c| c.is_alphabetic() || c == '%');
        // `layers>20 own`: what stands apart and is no unit is the next word.
        let is_word = ["own", "except"]
            .iter()
            .any(|w| unit.eq_ignore_ascii_case(w));
        let unit = if is_word && unit_at > end { "" } else { unit };
        if unit.is_empty() {
            self.at = end;
        }
        let takes = kind.takes();
        let wrong = || RuleProblem::Unit {
            kind,
            unit: unit.to_owned(),
        };
        let sized = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit));
        match (unit, sized, takes) {
            ("", _, Takes::Count) => match scaled(number, 1, decimals) {
                Some(count) => Ok(Measure::Count(count)),
                None => self.error(from, RuleProblem::Precise("a count is a whole number")),
            },
            ("", ..) => self.error(from, RuleProblem::NoUnit(kind)),
            ("%", _, Takes::Share | Takes::BytesOrShare) => {
                match scaled(number, 10_000, decimals) {
                    Some(part @ ..=1_000_000) => Ok(Measure::Millionths(part)),
                    Some(_) => self.error(from, RuleProblem::MoreThanAll),
                    None => self.error(
                        from,
                        RuleProblem::Precise("a percentage has at most four decimals"),
                    ),
                }
            }
            (_, Some((_, factor)), Takes::Bytes | Takes::BytesOrShare) => {
                match scaled(number, *factor, decimals) {
                    Some(bytes) => Ok(Measure::Bytes(bytes)),
                    None if is_whole(number, *factor, decimals) => {
                        self.error(from, RuleProblem::TooLarge)
                    }
                    None => self.error(from, RuleProblem::Precise("a byte is not divided")),
                }
            }
            (_, None, Takes::Bytes | Takes::BytesOrShare)
                if matches!(
                    unit,
                    "k" | "K" | "m" | "M" | "g" | "G" | "t" | "T" | "p" | "P"
                ) =>
            {
                self.error(unit_at, RuleProblem::Ambiguous(unit.to_owned()))
            }
            _ => self.error(unit_at, wrong()),
        }
    }

    /// The next word, which is not empty.
    fn word(&mut self) -> Result<&'t str, RuleError> {
        let from = self.at;
        if self.peek() == Some('"') {
            self.at += 1;
            let word = self.take(|c| !matches!(c, '"' | '\n'));
            if self.peek() != Some('"') {
                return self.error(from, RuleProblem::Quote);
            }
            self.at += 1;
            // What follows directly would be a part of the word that is not quoted.
            if !self.ends() && !self.peek().is_some_and(ends_word) {
                return self.error(from, RuleProblem::Quote);
            }
            return Ok(word);
        }
        // The backslash that joins lines is no part of a word.
        let rest = self.rest();
        let end = rest.find(ends_word).unwrap_or(rest.len());
        let joined = rest[end..].starts_with(['\n', '\r']) && rest[..end].ends_with('\\');
        let word = &rest[..end - usize::from(joined && end > 1)];
        self.at += word.len();
        if word.contains('"') {
            return self.error(from, RuleProblem::Quote);
        }
        Ok(word)
    }

    fn exception(&mut self) -> Result<Exception, RuleError> {
        let from = self.at;
        let word = self.word()?;
        let below = match word.strip_prefix('/') {
            Some(below) => below,
            None if word.starts_with("**/") => word,
            None => return self.error(from, RuleProblem::Path(word.to_owned())),
        };
        match Pattern::deep(below) {
            Ok(pattern) => Ok(Exception::new(word, pattern)),
            Err(source) => self.error(
                from,
                RuleProblem::Pattern {
                    path: word.to_owned(),
                    source,
                },
            ),
        }
    }
}

/// `number` has so many decimals and is to be multiplied; `None` if that is no whole number that fits.
fn scaled(number: u128, factor: u64, decimals: usize) -> Option<u64> {
    let product = number * u128::from(factor);
    let divisor = 10u128.pow(u32::try_from(decimals).ok()?);
    let whole = is_whole(number, factor, decimals);
    whole.then(|| u64::try_from(product / divisor).ok())?
}

fn is_whole(number: u128, factor: u64, decimals: usize) -> bool {
    let product = number * u128::from(factor);
    (0..decimals)
        .try_fold(product, |left, _| {
            left.is_multiple_of(10).then_some(left / 10)
        })
        .is_some()
}
