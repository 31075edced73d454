//! `--chmod`: octal numbers and symbolic clauses (POSIX chmod), applied without a umask.

use std::str::FromStr;

/// A change of permissions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// These twelve bits, for files and directories alike.
    Octal(u32),
    /// Clause by clause.
    Symbolic(Vec<Clause>),
}

/// `[ugoa]*([-+=][rwxXst]*|[-+=][ugo])+`, one operator of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Clause {
    who: u32,
    operator: char,
    permissions: String,
}

// What a class may set; the sticky bit is nobody's own, and BuildKit gives it for every class but others.
const USER: u32 = 0o5700;
const GROUP: u32 = 0o3070;
const OTHERS: u32 = 0o0007;
/// What an equals sign takes first: never the sticky bit.
const REPLACED: u32 = 0o6777;

/// A text that is no mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "invalid chmod parameter {0:?}: expected an octal number up to 7777 or clauses like u=rwX,go=rX"
)]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Mode, ModeError> {
        let bad = || ModeError(text.to_owned());
        if text.bytes().all(|c| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Mode::Octal(mode)),
                _ => Err(bad()),
            };
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let operators = clause.find(['+', '-', '=']).ok_or_else(bad)?;
            let mut who = 0;
            for c in clause[..operators].chars() {
                who |= match c {
                    'u' => USER,
                    'g' => GROUP,
                    'o' => OTHERS,
                    'a' => 0o7777,
                    _ => return Err(bad()),
                };
            }
            let who = if who == 0 { 0o7777 } else { who };
            let mut rest = &clause[operators..];
            while let Some(operator) = rest.chars().next() {
                let end = rest[1..]
                    .find(['+', '-', '='])
                    .map_or(rest.len(), |at| at + 1);
                let permissions = &rest[1..end];
                let copies = matches!(permissions, "u" | "g" | "o");
                if !copies && !permissions.chars().all(|c| "rwxXst".contains(c)) {
                    return Err(bad());
                }
                clauses.push(Clause {
                    who,
                    operator,
                    permissions: permissions.to_owned(),
                });
                rest = &rest[end..];
            }
        }
        Ok(Mode::Symbolic(clauses))
    }
}

impl Mode {
    /// The permissions that come of `mode`.
    pub(super) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Mode::Octal(octal) => *octal,
            Mode::Symbolic(clauses) => clauses
                .iter()
                .fold(mode, |done, clause| clause.apply(done, mode, directory)),
        }
    }
}

impl Clause {
    /// `before` is the mode that the first clause saw: BuildKit asks it, not `mode`, whether anybody may execute.
    fn apply(&self, mode: u32, before: u32, directory: bool) -> u32 {
        let spread = |three: u32| three | three << 3 | three << 6;
        let mut bits = 0;
        for c in self.permissions.chars() {
            bits |= match c {
                'r' => spread(4),
                'w' => spread(2),
                'x' => spread(1),
                'X' if directory || before & 0o111 != 0 => spread(1),
                's' => 0o6000,
                't' => 0o1000,
                'u' => spread(mode >> 6 & 7),
                'g' => spread(mode >> 3 & 7),
                'o' => spread(mode & 7),
                _ => 0,
            };
        }
        let bits = bits & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !(self.who & REPLACED) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_table() {
        for (text, file, directory) in [
            ("640", 0o640, 0o640),
            ("0", 0, 0),
            ("7777", 0o7777, 0o7777),
            ("u=rwX,go=rX", 0o644, 0o755),
            ("+x", 0o755, 0o755),
            ("a-r", 0o200, 0o311),
            ("u=rwx,g=rx,o=", 0o750, 0o750),
            ("g=u", 0o664, 0o775),
            ("u+s", 0o4644, 0o4755),
            ("o+t", 0o644, 0o755),
            ("u+t", 0o1644, 0o1755),
            ("a-x,+X", 0o644, 0o755),
            ("u+x,a+X", 0o744, 0o755),
            ("u-w+x", 0o544, 0o555),
        ] {
            let mode: Mode = text.parse().unwrap();
            assert_eq!(
                (mode.apply(0o644, false), mode.apply(0o755, true)),
                (file, directory),
                "{text}"
            );
        }
        for (text, want) in [
            ("u=rw", 0o3677),
            ("g=r", 0o5747),
            ("o=r", 0o7774),
            ("a=r", 0o1444),
            ("u-t", 0o6777),
            ("o-t", 0o7777),
            ("g=", 0o5707),
        ] {
            let mode: Mode = text.parse().unwrap();
            for directory in [false, true] {
                assert_eq!(mode.apply(0o7777, directory), want, "{text}");
            }
        }
        for bad in ["8", "77777", "u+rr+q", "x", "u", "z=r", "u=rwx,"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }
}
