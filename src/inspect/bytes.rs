//! Paths and link targets in reports: bytes, that JSON wants as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use crate::layer::{EntryRef, KindRef};

/// Bytes as text; what is not UTF-8 is replaced by U+FFFD.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Text<'a>(pub &'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

/// The same bytes in base64, where [`Text`] loses some of them; nothing otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exact<'a>(pub &'a [u8]);

impl Exact<'_> {
    /// Whether the text says it all.
    pub fn is_text(&self) -> bool {
        std::str::from_utf8(self.0).is_ok()
    }
}

impl Serialize for Exact<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

/// A path: `path`, and `path_base64` where that is not all of it. To be flattened into its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct PathText<'a> {
    path: Text<'a>,
    #[serde(skip_serializing_if = "Exact::is_text")]
    path_base64: Exact<'a>,
}

impl<'a> PathText<'a> {
    /// Of these bytes.
    pub fn new(path: &'a [u8]) -> PathText<'a> {
        PathText {
            path: Text(path),
            path_base64: Exact(path),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.path.0
    }
}

/// A link's target, in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct TargetText<'a> {
    target: Text<'a>,
    #[serde(skip_serializing_if = "Exact::is_text")]
    target_base64: Exact<'a>,
}

impl<'a> TargetText<'a> {
    /// Of these bytes.
    pub fn new(target: &'a [u8]) -> TargetText<'a> {
        TargetText {
            target: Text(target),
            target_base64: Exact(target),
        }
    }

    /// Of a link; `None` of anything else.
    pub(super) fn of(entry: EntryRef<'a>) -> Option<TargetText<'a>> {
        match entry.kind {
            KindRef::Symlink { target } | KindRef::HardLink { target } => {
                Some(TargetText::new(target))
            }
            _ => None,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.target.0
    }
}

/// Bytes for a terminal: what would steer it, hide or turn text around, or is not UTF-8, is written as an escape; so is a backslash.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                // Controls; marks of direction; what has no width; line and paragraph separators.
                c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}' => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Permissions as four octal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(pub u32);

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_bytes_are_kept() {
        for (bytes, want) in [
            (&b"a/\xc3\xa9 <\"\n"[..], r#"{"path":"a/é <\"\n"}"#),
            (
                b"a\xff",
                "{\"path\":\"a\u{fffd}\",\"path_base64\":\"Yf8=\"}",
            ),
        ] {
            let json = serde_json::to_string(&PathText::new(bytes)).unwrap();
            assert_eq!(json, want);
        }
        for (bytes, want) in [
            (&b"plain \xc3\xa9"[..], "plain é"),
            (b"a\x1b[31m\n\t\\", "a\\x1b[31m\\n\\t\\\\"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("x\u{202e}y\u{9b}".as_bytes(), "x\\u{202e}y\\x9b"),
        ] {
            assert_eq!(escaped(bytes), want);
        }
        assert_eq!(serde_json::to_string(&Mode(0o4755)).unwrap(), "\"4755\"");
        assert_eq!(serde_json::to_string(&Mode(5)).unwrap(), "\"0005\"");
    }
}
