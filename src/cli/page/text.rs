//! Texts that may be no text: names in layers are bytes.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Bytes that are mostly UTF-8. In JSON each byte that is none becomes a lone surrogate, U+DC80 for 0x80 to U+DCFF for 0xFF,
/// so that nothing is lost: no UTF-8 gives one (RFC 3629, section 3).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Text(Vec<u8>);

impl Text {
    /// For where a wrong character does no harm.
    pub(crate) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Text {
        Text(bytes.to_vec())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.as_bytes().to_vec())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = String::new();
        quote(&mut json, &self.0);
        raw(json)?.serialize(serializer)
    }
}

/// JSON that is made already.
pub(super) fn raw<E: serde::ser::Error>(json: String) -> Result<Box<RawValue>, E> {
    RawValue::from_string(json).map_err(E::custom)
}

/// Appends bytes as a JSON string.
pub(super) fn quote(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                c if c < ' ' => escape(out, u32::from(c)),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            escape(out, 0xdc00 + u32::from(*byte));
        }
    }
    out.push('"');
}

fn escape(out: &mut String, unit: u32) {
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        let digit = char::from_digit(unit >> shift & 0xf, 16);
        out.push(digit.expect("four bits are a digit"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept() {
        for (bytes, want) in [
            (&b"plain"[..], r#""plain""#),
            ("\u{fc}/\u{1f980}".as_bytes(), "\"\u{fc}/\u{1f980}\""),
            (b"a\xff\xc3b\xc3\xa9", "\"a\\udcff\\udcc3b\u{e9}\""),
            (
                b"\"\\\n\x00\x1f\x7f",
                "\"\\\"\\\\\\u000a\\u0000\\u001f\x7f\"",
            ),
            // What would be a surrogate in UTF-8 is three bytes that are none.
            (b"\xed\xb2\x80", r#""\udced\udcb2\udc80""#),
        ] {
            let text = serde_json::to_string(&Text::from(bytes)).unwrap();
            assert_eq!(text, want);
        }
    }
}
