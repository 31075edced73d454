//! How Go prints values: the history of an image holds `%q` of commands and `%+v` of health checks.

use std::fmt::Write;

use crate::oci::Healthcheck;

/// `%q` of a slice: quoted words, a blank between them.
pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
    format!("[{}]", words.join(" "))
}

/// `%v` of a slice: words, a blank between them.
pub(super) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => push(&mut out, format_args!("\\x{:02x}", u32::from(c))),
            // Go escapes what it does not call printable: controls and every space but the ASCII one.
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                push(&mut out, format_args!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a String cannot fail");
}

/// `%+v` of a health check.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// `%v` of a `time.Duration` of `ns` nanoseconds: `1m30s`, `500ms`, `0s`.
fn duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    const US: u64 = 1_000;
    const MS: u64 = 1_000 * US;
    const S: u64 = 1_000 * MS;
    let decimal = |unit: u64| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", ns % unit);
        match fraction.trim_end_matches('0') {
            "" => String::new(),
            fraction => format!(".{fraction}"),
        }
    };
    match ns {
        0 => "0s".to_owned(),
        _ if ns < US => format!("{sign}{ns}ns"),
        _ if ns < MS => format!("{sign}{}{}µs", ns / US, decimal(US)),
        _ if ns < S => format!("{sign}{}{}ms", ns / MS, decimal(MS)),
        _ => {
            let (seconds, fraction) = (ns / S, decimal(S));
            let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{rest}{fraction}s"),
                (0, _) => format!("{sign}{minutes}m{rest}{fraction}s"),
                _ => format!("{sign}{hours}h{minutes}m{rest}{fraction}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ns, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (3_000_000_000, "3s"),
            (90_000_000_000, "1m30s"),
            (300_000_000_000, "5m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_050_000_000, "1.05s"),
            (-2_000_000, "-2ms"),
        ] {
            assert_eq!(duration(ns), want);
        }
    }

    #[test]
    fn quotes() {
        for (text, want) in [
            ("a b", r#""a b""#),
            ("q\"u\\", r#""q\"u\\""#),
            ("\n\t\u{1}\u{7f}", r#""\n\t\x01\x7f""#),
            ("é\u{a0}\u{85}", "\"é\\u00a0\\u0085\""),
        ] {
            assert_eq!(quoted(text), want);
        }
    }
}
