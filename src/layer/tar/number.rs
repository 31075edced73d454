//! Numbers in headers: octal text, base-256, decimal text.

/// A header's number: octal between blanks and NULs, or big-endian two's complement where the first bit is set. `None`: it is
/// neither, or does not fit.
pub(in crate::layer) fn parse(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return parse_binary(field);
    }
    let digits = trim(field);
    if digits.is_empty() {
        return Some(0);
    }
    digits.iter().try_fold(0i64, |value, c| match c {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(c - b'0')),
        _ => None,
    })
}

fn parse_binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let start = if negative { -1i64 } else { 0 };
    let first = if negative {
        field[0] | 0x80
    } else {
        field[0] & 0x7f
    };
    let bytes = std::iter::once(&first).chain(&field[1..]);
    bytes.enumerate().try_fold(start, |value, (at, byte)| {
        // The first byte of a negative number is the end of its sign.
        let value = if at == 0 && negative {
            i64::from(byte.cast_signed())
        } else {
            value.checked_mul(256)? | i64::from(*byte)
        };
        Some(value)
    })
}

/// Without blanks and NULs at both ends.
fn trim(field: &[u8]) -> &[u8] {
    let blank = |c: &u8| *c == 0 || *c == b' ';
    let start = field.iter().position(|c| !blank(c)).unwrap_or(field.len());
    let rest = &field[start..];
    // What follows the first NUL or blank after the digits is not part of the number.
    let end = rest.iter().position(blank).unwrap_or(rest.len());
    let tail_is_blank = rest[end..].iter().all(blank);
    if tail_is_blank { &rest[..end] } else { rest }
}

/// Writes octal digits and a NUL if the number fits; otherwise says so and leaves zeros.
pub(super) fn put_octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = digits * 3 >= 64 || value < 1 << (digits * 3);
    let mut rest = if fits { value } else { 0 };
    for slot in field[..digits].iter_mut().rev() {
        *slot = b"01234567"[(rest & 7) as usize];
        rest >>= 3;
    }
    field[digits] = 0;
    fits
}

/// A decimal number of a pax record, without sign.
pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The whole seconds of a pax time, rounded down.
pub(super) fn parse_seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|c| c.is_ascii_digit()) || whole.starts_with('+') {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let down = whole.starts_with('-') && fraction.bytes().any(|c| c != b'0');
    seconds.checked_sub(i64::from(down))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_numbers() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0\0\0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777\0", Some(0o77777777777)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"64 4\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\x00", Some(-256)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(parse(field), want, "{field:?}");
        }
    }

    #[test]
    fn octal_round_trip() {
        for value in [0, 1, 0o644, 0o7777777] {
            let mut field = [b'x'; 8];
            assert!(put_octal(&mut field, value));
            assert_eq!(parse(&field), i64::try_from(value).ok());
        }
        assert!(!put_octal(&mut [0; 8], 0o10000000));
    }

    #[test]
    fn pax_numbers() {
        for (text, want) in [
            ("0", Some(0)),
            ("1700000000", Some(1700000000)),
            ("1700000000.999", Some(1700000000)),
            ("-1.0", Some(-1)),
            ("-1.5", Some(-2)),
            ("-0.5", Some(-1)),
            ("1.", Some(1)),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("+1", None),
            ("1e3", None),
        ] {
            assert_eq!(parse_seconds(text.as_bytes()), want, "{text}");
        }
        assert_eq!(parse_decimal(b"12"), Some(12));
        for bad in ["", "-1", "+1", " 1", "99999999999999999999999"] {
            assert_eq!(parse_decimal(bad.as_bytes()), None, "{bad}");
        }
    }
}
