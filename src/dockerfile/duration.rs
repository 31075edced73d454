//! Durations as Go writes them: `1m30s`, `500ms`, `-1.5h`.

/// Nanoseconds; `None` if the text is no duration or out of range.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let length = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = &rest[..length];
        rest = &rest[length..];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, tail) = UNITS
            .iter()
            .find_map(|(name, nanoseconds)| Some((*nanoseconds, rest.strip_prefix(name)?)))?;
        rest = tail;
        let mut value = if whole.is_empty() {
            0
        } else {
            whole.parse::<i64>().ok().map(i128::from)? * unit
        };
        let mut place = unit;
        for digit in fraction.chars() {
            place /= 10;
            value += place * i128::from(digit.to_digit(10)?);
        }
        // The next unit must not be mistaken for more of the number, nor the sum overflow.
        total += value;
        if total > i128::from(i64::MAX) {
            return None;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Nanoseconds in a unit; `ms` before `m`, so that the longer name is found.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5m", Some(300_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("3us", Some(3_000)),
            ("3\u{b5}s", Some(3_000)),
            ("-2s", Some(-2_000_000_000)),
            ("+2s", Some(2_000_000_000)),
            ("", None),
            ("-", None),
            ("5", None),
            ("often", None),
            ("5 s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("9999999999999h", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
