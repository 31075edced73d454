//! `WWW-Authenticate` (RFC 9110, section 11.6.1): how a server wants to be asked.

/// A challenge strata can answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    /// A name and a password with each request.
    Basic,
    /// A token from another server (distribution's token specification).
    Bearer {
        realm: String,
        service: Option<String>,
        /// What the server says the request needed.
        scope: Option<String>,
    },
}

/// Finds the best challenge in the values of the header: a token is worth more than a password with each request.
pub(super) fn best<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in values.flat_map(parse) {
        let get = |name: &str| {
            let found = parameters
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            return Some(Challenge::Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            });
        }
    }
    basic
}

type Parsed = (String, Vec<(String, String)>);

/// `scheme [token68 | name=value, …], scheme …`. What cannot be understood is skipped.
fn parse(text: &str) -> Vec<Parsed> {
    let mut parsed: Vec<Parsed> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return parsed;
        }
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            // No token starts here: on to the next element of the list.
            rest = rest.split_once(',').map_or("", |(_, after)| after);
            continue;
        }
        let (word, after) = rest.split_at(end);
        let trimmed = after.trim_start_matches([' ', '\t']);
        match trimmed.strip_prefix('=') {
            Some(value) if !parsed.is_empty() => {
                let (value, after) = parse_value(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = parsed.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            Some(value) => rest = value,
            None => {
                parsed.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn header_table() {
        for (header, want) in [
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://auth/token",service="reg",scope="repository:a/b:pull,push""#,
                bearer(
                    "https://auth/token",
                    Some("reg"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (
                r#"bearer Realm=x , SERVICE="a\"b""#,
                bearer("x", Some("a\"b"), None),
            ),
            (
                r#"Negotiate, Basic realm="x", Bearer realm="y""#,
                bearer("y", None, None),
            ),
            (
                r#"Negotiate dG9rZW4=, Basic realm="x""#,
                Some(Challenge::Basic),
            ),
            (r#"Bearer service="no realm""#, None),
            ("Digest qop=auth", None),
            ("", None),
            (",,= \"", None),
        ] {
            assert_eq!(best([header].into_iter()), want, "{header}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            best([text.as_str()].into_iter());
        }

        #[test]
        fn arbitrary_lists_end(text in "[a \",=\\\\]*") {
            best([text.as_str()].into_iter());
        }
    }
}
