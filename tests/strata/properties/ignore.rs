//! Ignore files against a second, naive reading of their rules: a table of pattern times path a rule, and a walk from the
//! root that keeps a flag a rule.

use strata::dockerfile::glob::Pattern;
use strata::dockerfile::ignore::{Ignore, State};

/// More would make the tables large, and finds nothing that less does not.
const MAX_BYTES: usize = 2048;

/// `data` is an ignore file, then paths, each after a NUL.
pub(crate) fn check(data: &[u8]) {
    if data.len() > MAX_BYTES {
        return;
    }
    let mut parts = data.split(|byte| *byte == 0);
    let file = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let naive = naive_rules(&file);
    let ignore = match (Ignore::parse(&file), naive) {
        (Ok(ignore), Some(rules)) => (ignore, rules),
        (Err(_), None) => return,
        (read, naive) => panic!("{file:?}: {read:?}, naively {naive:?}"),
    };
    let (ignore, rules) = ignore;
    assert_eq!(ignore.is_empty(), rules.is_empty());
    for path in parts.filter(|path| is_clean(path)).take(16) {
        let mut state = State::default();
        let mut flags: Option<Vec<bool>> = None;
        let mut never_below: Option<usize> = None;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in ends.map(|(at, _)| at).chain([path.len()]) {
            let part = &path[..end];
            let (excluded, next) = ignore.verdict(part, &state);
            let (naively, line, next_flags) = decide(&rules, part, flags.as_deref());
            let shown = || format!("{:?} in {file:?}", String::from_utf8_lossy(part));
            assert_eq!(excluded, naively, "{}", shown());
            assert_eq!(excluded, ignore.excludes(part, &state), "{}", shown());
            assert_eq!(excluded, ignore.matches(part), "{}", shown());
            assert_eq!(ignore.deciding_line(part), line, "{}", shown());
            if let Some(above) = never_below {
                assert!(excluded, "{}, below byte {above}", shown());
            }
            if excluded && !ignore.may_reinclude_below(part) {
                never_below.get_or_insert(end);
            }
            (state, flags) = (next, Some(next_flags));
        }
    }
    assert!(!ignore.matches(b""), "the root is never left out");
    // The patterns of COPY: without `**`, one star as good as two.
    for line in file.lines().filter(|line| !line.contains("**")) {
        let naive = pieces(line, false);
        let read = Pattern::new(line);
        assert_eq!(read.is_ok(), naive.is_some(), "{line:?}");
        if let (Ok(pattern), Some(naive)) = (read, naive) {
            for path in data.split(|byte| *byte == 0).skip(1).take(16) {
                assert_eq!(pattern.matches(path), naive_match(&naive, path), "{line:?}");
            }
        }
    }
}

fn is_clean(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/')
        .all(|part| !matches!(part, b"" | b"." | b".."))
}

/// A step of a pattern; a character is its number, a byte that is none comes after all of them.
#[derive(Debug)]
enum Piece {
    Is(u32),
    NoSlash,
    Star,
    OneOf(bool, Vec<(u32, u32)>),
    /// Nothing, or anything that ends in a slash.
    Folders,
    Anything,
}

#[derive(Debug)]
struct NaiveRule {
    pieces: Vec<Piece>,
    back: bool,
    line: usize,
}

fn naive_rules(file: &str) -> Option<Vec<NaiveRule>> {
    let mut rules = Vec::new();
    let file = file.strip_prefix('\u{feff}').unwrap_or(file);
    for (index, line) in file.split('\n').enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let back = line.starts_with('!');
        let pattern = line[usize::from(back)..].trim();
        if pattern.is_empty() {
            if back {
                return None;
            }
            continue;
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in pattern.split('/').filter(|part| !matches!(*part, "" | ".")) {
            let climbs = part == ".." && !matches!(parts.last(), None | Some(&".."));
            if climbs {
                parts.pop();
            } else if part != ".." || !pattern.starts_with('/') {
                parts.push(part);
            }
        }
        let cleaned = match (parts.join("/"), pattern.starts_with('/')) {
            (none, true) if none.is_empty() => "/".to_owned(),
            (none, false) if none.is_empty() => ".".to_owned(),
            (some, _) => some,
        };
        rules.push(NaiveRule {
            pieces: pieces(&cleaned, true)?,
            back,
            line: index + 1,
        });
    }
    Some(rules)
}

fn pieces(pattern: &str, two_stars: bool) -> Option<Vec<Piece>> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        at += 1;
        match c {
            '*' if two_stars && chars.get(at) == Some(&'*') => {
                at += 1;
                let plain = !chars[at..].iter().any(|c| "*?[]\\".contains(*c));
                let first = at == 2;
                let slash = chars.get(at) == Some(&'/');
                at += usize::from(slash);
                if at == chars.len() || (first && !slash && plain) {
                    out.push(Piece::Anything);
                } else {
                    out.push(Piece::Folders);
                }
            }
            '*' => out.push(Piece::Star),
            '?' => out.push(Piece::NoSlash),
            '[' => {
                let negated = chars.get(at) == Some(&'^');
                at += usize::from(negated);
                let one = |at: &mut usize| {
                    let c = *chars.get(*at)?;
                    *at += 1;
                    match c {
                        '-' | ']' => None,
                        '\\' => {
                            *at += 1;
                            chars.get(*at - 1).copied()
                        }
                        c => Some(c),
                    }
                };
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.get(at) != Some(&']') {
                    let low = one(&mut at)?;
                    let mut high = low;
                    if chars.get(at) == Some(&'-') {
                        at += 1;
                        high = one(&mut at)?;
                    }
                    ranges.push((u32::from(low), u32::from(high)));
                }
                at += 1;
                out.push(Piece::OneOf(negated, ranges));
            }
            '\\' => {
                out.push(Piece::Is((*chars.get(at)?).into()));
                at += 1;
            }
            c => out.push(Piece::Is(c.into())),
        }
    }
    Some(out)
}

fn naive_match(pieces: &[Piece], path: &[u8]) -> bool {
    let mut units: Vec<u32> = Vec::new();
    for chunk in path.utf8_chunks() {
        units.extend(chunk.valid().chars().map(u32::from));
        units.extend(
            chunk
                .invalid()
                .iter()
                .map(|byte| 0x11_0000 + u32::from(*byte)),
        );
    }
    const SLASH: u32 = b'/' as u32;
    // Whether the pieces from the current one on match the units from each place on; the last piece first.
    let mut after: Vec<bool> = (0..=units.len()).map(|at| at == units.len()).collect();
    for piece in pieces.iter().rev() {
        let mut here = vec![false; units.len() + 1];
        for at in (0..=units.len()).rev() {
            let unit = units.get(at);
            let one = |fits: bool| fits && after[at + 1];
            here[at] = match piece {
                Piece::Is(own) => unit.is_some_and(|unit| one(unit == own)),
                Piece::NoSlash => unit.is_some_and(|unit| one(*unit != SLASH)),
                Piece::OneOf(negated, ranges) => unit.is_some_and(|unit| {
                    let inside = ranges.iter().any(|(low, high)| low <= unit && unit <= high);
                    one(inside != *negated)
                }),
                Piece::Star => after[at] || unit.is_some_and(|unit| *unit != SLASH && here[at + 1]),
                Piece::Anything => after[at..].contains(&true),
                Piece::Folders => {
                    let behind = (at..units.len()).any(|to| units[to] == SLASH && after[to + 1]);
                    after[at] || behind
                }
            };
        }
        after = here;
    }
    after[0]
}

/// Whether a path is left out, by which line, and which rules matched it or a folder above.
fn decide(
    rules: &[NaiveRule],
    path: &[u8],
    above: Option<&[bool]>,
) -> (bool, Option<usize>, Vec<bool>) {
    let mut excluded = false;
    let mut line = None;
    let mut flags = vec![false; rules.len()];
    for (index, rule) in rules.iter().enumerate() {
        let inherited = above.is_some_and(|above| above[index]);
        let would_change = rule.back == excluded;
        if inherited || (would_change && naive_match(&rule.pieces, path)) {
            excluded = !rule.back;
            flags[index] = true;
            line = Some(rule.line);
        }
    }
    (excluded, line, flags)
}
