//! URLs as messages, records and history may show them.

/// What stands for a user and a password.
const HIDDEN: &str = "xxxxx";

/// `text` without the user and password of any URL in it.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#'));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(at) => {
                shown.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_every_url_are_hidden() {
        for (text, want) in [
            ("https://u:p@h/x.git", "https://xxxxx@h/x.git"),
            ("https://u:p@q@h", "https://xxxxx@h"),
            ("https://h/x@y", "https://h/x@y"),
            ("https://h?a@b", "https://h?a@b"),
            ("git@h:x/y", "git@h:x/y"),
            ("://@", "://xxxxx@"),
            (
                "ADD http://a@h/x https://b:c@i/y /z@ # é",
                "ADD http://xxxxx@h/x https://xxxxx@i/y /z@ # é",
            ),
        ] {
            assert_eq!(redacted(text), want, "{text}");
        }
    }
}
