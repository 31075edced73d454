//! The fuzzer's dictionaries: `"…"` a line, with `\\`, `\"` and `\xAB`.

/// The words; a line that is neither one nor a comment is refused.
pub(crate) fn words(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| word(line).unwrap_or_else(|| panic!("{line}")))
        .collect()
}

fn word(line: &str) -> Option<Vec<u8>> {
    let inner = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut out = Vec::new();
    let mut rest = inner;
    while let Some((first, tail)) = rest.split_first() {
        (out, rest) = match (first, tail.first()) {
            (b'\\', Some(b'x')) => {
                let digits = std::str::from_utf8(tail.get(1..3)?).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                (out, &tail[3..])
            }
            (b'\\', Some(c @ (b'\\' | b'"'))) => {
                out.push(*c);
                (out, &tail[1..])
            }
            (b'\\' | b'"', _) => return None,
            (c, _) => {
                out.push(*c);
                (out, tail)
            }
        };
    }
    Some(out)
}

#[test]
fn escapes() {
    assert_eq!(words("# x\n\"a\\x0a\\\\b\\\"\"\n"), [b"a\n\\b\""]);
}
