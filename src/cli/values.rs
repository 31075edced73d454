//! Values of flags as text: lists, pairs, sizes and platforms, with errors that name the flag, the value and what is expected.

use strata::oci::{Platform, Reference};

/// A flag's value that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid value {value:?} for {flag}: {problem}")]
pub(crate) struct FlagError {
    /// The flag with its dashes, or the variable.
    pub(crate) flag: String,
    /// What was given.
    pub(crate) value: String,
    /// What is wrong with it, or what is expected.
    pub(crate) problem: String,
}

impl FlagError {
    /// An error about `value` of `flag`.
    pub(crate) fn new(flag: &str, value: &str, problem: impl Into<String>) -> FlagError {
        FlagError {
            flag: flag.to_owned(),
            value: value.to_owned(),
            problem: problem.into(),
        }
    }
}

/// The fields of one CSV record: `a,"b,c",d`. A field that begins with a quote ends with one, and `""` in it is a quote.
pub(crate) fn csv(flag: &str, text: &str) -> Result<Vec<String>, FlagError> {
    let bad = |problem: &str| FlagError::new(flag, text, problem);
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut field = String::new();
                let mut quoted = quoted;
                loop {
                    let (piece, tail) = quoted
                        .split_once('"')
                        .ok_or_else(|| bad("a quote is not closed"))?;
                    field.push_str(piece);
                    match tail.strip_prefix('"') {
                        Some(more) => {
                            field.push('"');
                            quoted = more;
                        }
                        None => {
                            quoted = tail;
                            break;
                        }
                    }
                }
                fields.push(field);
                quoted
            }
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    return Err(bad("a quote inside an unquoted field"));
                }
                fields.push(field.to_owned());
                after
            }
        };
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err(bad("text after a closing quote")),
        }
    }
}

/// The fields of a CSV record as pairs: `type=oci,dest=x`. Keys are lower-cased and trimmed, as docker does.
pub(crate) fn attributes(flag: &str, text: &str) -> Result<Vec<(String, String)>, FlagError> {
    csv(flag, text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.to_owned())),
            None => Err(FlagError::new(
                flag,
                text,
                format!("field {field:?} is not of the form KEY=VALUE"),
            )),
        })
        .collect()
}

/// `KEY=VALUE`; the key may not be empty.
pub(crate) fn pair(flag: &str, text: &str) -> Result<(String, String), FlagError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(FlagError::new(flag, text, "expected KEY=VALUE")),
    }
}

/// A truth value as Go's `strconv.ParseBool` reads it, which docker's flags use.
pub(crate) fn boolean(flag: &str, text: &str) -> Result<bool, FlagError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(FlagError::new(flag, text, "expected true or false")),
    }
}

/// A number of bytes with an optional binary unit: `64m`, `1.5GiB`, `1024`, `10kb`.
pub(crate) fn bytes(flag: &str, text: &str) -> Result<u64, FlagError> {
    let bad = || {
        FlagError::new(
            flag,
            text,
            "expected a number of bytes with an optional unit b, k, m, g, t or p, for example 64m",
        )
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" if unit == "ib" => return Err(bad()),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * 2f64.powi(shift);
    // 2^63: beyond it no kernel limit and no file is, and the conversion below would not be exact.
    if !(0.0..9_223_372_036_854_775_808.0).contains(&bytes) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in 0..2^63 above; a fraction of a byte is dropped"
    )]
    let bytes = bytes as u64;
    Ok(bytes)
}

/// Comma lists of platforms, each once, in the order given.
pub(crate) fn platforms(flag: &str, texts: &[String]) -> Result<Vec<Platform>, FlagError> {
    let mut platforms = Vec::new();
    for text in texts.iter().flat_map(|t| t.split(',')) {
        let platform: Platform = text
            .trim()
            .parse()
            .map_err(|e| FlagError::new(flag, text, format!("{e}")))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// An image's name.
pub(crate) fn reference(flag: &str, text: &str) -> Result<Reference, FlagError> {
    text.parse()
        .map_err(|e| FlagError::new(flag, text, format!("{e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_table() {
        for (text, want) in [
            ("", vec![""]),
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            ("a,", vec!["a", ""]),
            ("\"a,b\",c", vec!["a,b", "c"]),
            ("\"name=a,b\",type=oci", vec!["name=a,b", "type=oci"]),
            ("\"say \"\"hi\"\"\"", vec!["say \"hi\""]),
            ("\"\"", vec![""]),
        ] {
            assert_eq!(csv("--x", text).unwrap(), want, "{text}");
        }
        for bad in ["\"a", "a\"b", "\"a\"b", "a,\"b"] {
            assert!(csv("--x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_want_pairs() {
        assert_eq!(
            attributes("-o", "Type=oci,dest=a=b").unwrap(),
            [
                ("type".to_owned(), "oci".to_owned()),
                ("dest".to_owned(), "a=b".to_owned())
            ]
        );
        assert_eq!(
            attributes("-o", "type=oci,dest").unwrap_err().to_string(),
            "invalid value \"type=oci,dest\" for -o: field \"dest\" is not of the form KEY=VALUE"
        );
    }

    #[test]
    fn bytes_table() {
        for (text, want) in [
            ("0", 0),
            ("134217728", 134_217_728),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("1 k", 1024),
            ("7b", 7),
            ("2t", 2 << 40),
        ] {
            assert_eq!(bytes("--shm-size", text).unwrap(), want, "{text}");
        }
        for bad in [
            "",
            "m",
            "-1",
            "1x",
            "1..2",
            "64mm",
            "1e3",
            "99999999p",
            "ib",
        ] {
            assert!(bytes("--shm-size", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms_are_listed_once_in_order() {
        let texts = [
            "linux/arm64,linux/aarch64".to_owned(),
            "linux/amd64".to_owned(),
        ];
        let platforms = platforms("--platform", &texts).unwrap();
        let shown: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["linux/arm64", "linux/amd64"]);
    }

    #[test]
    fn a_bad_platform_names_flag_and_value() {
        let error = platforms("--platform", &["lin/ux/a/b".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with(
            "invalid value \"lin/ux/a/b\" for --platform: invalid platform \"lin/ux/a/b\""
        ));
    }

    #[test]
    fn booleans_are_gos() {
        assert!(boolean("--x", "1").unwrap());
        assert!(!boolean("--x", "False").unwrap());
        assert!(boolean("--x", "yes").is_err());
    }
}
