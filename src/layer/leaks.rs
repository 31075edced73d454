//! Looking for secrets in contents as they are packed.
//!
//! A secret is looked for as it is, in base64 (both alphabets, wherever in the encoded bytes it stands) and URL-encoded. Line ends
//! count for nothing, in the secret and in the contents: encoders break lines, and editors change how they end. Contents come in
//! pieces of any size; what stands across their borders is found.
//!
//! Nothing here keeps or gives away a secret: what is found is said by the secret's name.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::{Entry, Kind};

/// The shortest secret that is looked for, in bytes without white space around it. Shorter ones (`admin`, `1234`) are words that
/// layers are full of; eight bytes of base64 or of a password are in no file by chance.
pub const MIN_SECRET_BYTES: usize = 8;

/// How a secret is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Form {
    /// As it is.
    Raw,
    /// In base64.
    Base64,
    /// With `%XX`.
    Url,
}

/// Secrets, ready to be looked for.
pub struct Needles {
    names: Vec<String>,
    automaton: AhoCorasick,
    /// Of each pattern, its bytes, the secret it is of and how it is written.
    patterns: Vec<(Vec<u8>, usize, Form)>,
    longest: usize,
}

/// A secret was found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Leak {
    /// The secret's name.
    pub secret: String,
    /// How it is written.
    pub form: Form,
    /// The file it is in; `None` if it is in a name or a link's target, which are not to be shown.
    pub path: Option<Vec<u8>>,
}

impl Needles {
    /// Prepares secrets, by name. `None` if none can be looked for. Also the names of those that are too short, or one
    /// character over and over.
    pub fn new(
        secrets: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> (Option<Needles>, Vec<String>) {
        let (mut names, mut left_out) = (Vec::new(), Vec::new());
        let mut patterns: Vec<(Vec<u8>, usize, Form)> = Vec::new();
        for (name, value) in secrets {
            let value = value.trim_ascii();
            let plain = without_line_ends(value);
            if plain.len() < MIN_SECRET_BYTES || plain.iter().all(|byte| *byte == plain[0]) {
                // A secret that is empty is none.
                if !value.is_empty() {
                    left_out.push(name);
                }
                continue;
            }
            let mut add = |bytes: Vec<u8>, form| {
                let known =
                    |(have, of, _): &(Vec<u8>, usize, Form)| *have == bytes && *of == names.len();
                if !patterns.iter().any(known) {
                    patterns.push((bytes, names.len(), form));
                }
            };
            add(plain, Form::Raw);
            for text in url_encoded(value) {
                add(text, Form::Url);
            }
            // As a file holds it, with its last line end, and as a variable does: the bytes that both begin with are the same.
            for text in base64_encoded(value) {
                add(text, Form::Base64);
            }
            names.push(name);
        }
        if names.is_empty() {
            return (None, left_out);
        }
        let bytes = patterns.iter().map(|(bytes, _, _)| bytes);
        let longest = bytes.clone().map(Vec::len).max().unwrap_or(0);
        // Only patterns too large for its tables are refused: then nothing could be looked for.
        let built = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(bytes);
        let Ok(automaton) = built else {
            left_out.extend(names);
            return (None, left_out);
        };
        let needles = Needles {
            names,
            automaton,
            patterns,
            longest,
        };
        (Some(needles), left_out)
    }

    /// The secrets in a text: name and how it is written.
    pub fn find(&self, text: &[u8]) -> Vec<(&str, Form)> {
        let mut scanner = Scanner::new(self);
        scanner.feed(text);
        let found = scanner.end();
        found
            .into_iter()
            .map(|(index, form)| (self.names[index].as_str(), form))
            .collect()
    }

    /// The secrets that the name of an entry, or where it leads to, holds.
    pub(super) fn in_names(&self, entry: &Entry) -> Vec<Leak> {
        let target: &[u8] = match &entry.kind {
            Kind::Symlink { target } => target,
            _ => &[],
        };
        let found = [entry.path.as_slice(), target];
        found
            .iter()
            .flat_map(|text| self.find(text))
            .map(|(secret, form)| Leak {
                secret: secret.to_owned(),
                form,
                path: None,
            })
            .collect()
    }

    /// The name of a secret.
    pub(super) fn name(&self, index: usize) -> &str {
        &self.names[index]
    }
}

/// Looks through contents, one after another, each in pieces.
pub(super) struct Scanner<'a> {
    needles: &'a Needles,
    /// The end of what came, as long as a pattern could begin in it, then the newest piece; without line ends.
    window: Vec<u8>,
    found: BTreeSet<(usize, Form)>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(needles: &'a Needles) -> Scanner<'a> {
        Scanner {
            needles,
            window: Vec::new(),
            found: BTreeSet::new(),
        }
    }

    /// Looks at the next piece of a content.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        push_without_line_ends(&mut self.window, piece);
        let mut at = 0;
        while let Some(hit) = self
            .needles
            .automaton
            .find(Input::new(&self.window).range(at..))
        {
            // Several secrets may begin here, one in another.
            let rest = &self.window[hit.start()..];
            for (bytes, secret, form) in &self.needles.patterns {
                if rest.starts_with(bytes) {
                    self.found.insert((*secret, *form));
                }
            }
            at = hit.start() + 1;
        }
        let keep = self.window.len().min(self.needles.longest - 1);
        self.window.drain(..self.window.len() - keep);
    }

    /// Ends a content: the secrets in it, each once, in the plainest form.
    pub(super) fn end(&mut self) -> Vec<(usize, Form)> {
        self.window.clear();
        let mut found: Vec<(usize, Form)> = std::mem::take(&mut self.found).into_iter().collect();
        found.dedup_by_key(|(secret, _)| *secret);
        found
    }
}

fn without_line_ends(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    push_without_line_ends(&mut out, text);
    out
}

fn push_without_line_ends(out: &mut Vec<u8>, text: &[u8]) {
    let mut start = 0;
    for at in memchr::memchr2_iter(b'\n', b'\r', text) {
        out.extend_from_slice(&text[start..at]);
        start = at + 1;
    }
    out.extend_from_slice(&text[start..]);
}

/// What is sure to be in base64 of anything that holds `secret`: for each of the three ways it can be aligned, the digits that
/// no byte around it has a part in.
fn base64_encoded(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for before in 0..3 {
        let bytes = [&[0; 2][..before], secret].concat();
        let first = (before * 8).div_ceil(6);
        let end = bytes.len() * 8 / 6;
        for alphabet in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            out.push(alphabet.encode(&bytes).as_bytes()[first..end].to_vec());
        }
    }
    out
}

/// What encoders make of a secret in a URL or a form. They differ in what they leave as it is.
fn url_encoded(secret: &[u8]) -> Vec<Vec<u8>> {
    // RFC 3986's unreserved characters, then what JavaScript, Python, Go's paths and HTML forms leave besides.
    const KEPT: [&str; 5] = ["-_.~", "-_.~!*'()", "-_.~/", "-_.~$&+=:@", "-_.*"];
    let mut out = Vec::new();
    for kept in KEPT {
        for upper in [true, false] {
            for plus in [true, false] {
                let mut text = Vec::with_capacity(secret.len() * 3);
                for byte in secret {
                    match byte {
                        b' ' if plus => text.push(b'+'),
                        byte if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(byte) => {
                            text.push(*byte);
                        }
                        byte if upper => text.extend(format!("%{byte:02X}").bytes()),
                        byte => text.extend(format!("%{byte:02x}").bytes()),
                    }
                }
                out.push(text);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    const SECRET: &[u8] = b"s3cr/t+?>~ key=1";

    fn needles(secrets: &[&[u8]]) -> Needles {
        let named = secrets.iter().enumerate();
        let named = named.map(|(i, s)| (format!("s{i}"), s.to_vec()));
        Needles::new(named).0.unwrap()
    }

    fn forms(needles: &Needles, text: &[u8]) -> Vec<Form> {
        needles.find(text).into_iter().map(|(_, f)| f).collect()
    }

    #[test]
    fn every_way_of_writing_it_is_found() {
        let needles = needles(&[SECRET]);
        assert_eq!(
            forms(&needles, &[b"a=", SECRET, b"\n"].concat()),
            [Form::Raw]
        );
        for before in 0..8 {
            for after in 0..4 {
                let text = [&vec![b'x'; before], SECRET, &vec![0xff; after]].concat();
                for engine in [&STANDARD, &URL_SAFE, &STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                    let encoded = format!("prefix {} suffix", engine.encode(&text));
                    assert_eq!(
                        forms(&needles, encoded.as_bytes()),
                        [Form::Base64],
                        "{encoded}"
                    );
                }
            }
        }
        for text in [
            "s3cr%2Ft%2B%3F%3E~%20key%3D1",
            "s3cr%2ft%2b%3f%3e~%20key%3d1",
            "s3cr%2Ft%2B%3F%3E~+key%3D1",
            "s3cr/t%2B%3F%3E~%20key%3D1",
            "s3cr%2Ft+%3F%3E~%20key=1",
            "s3cr%2Ft%2B%3F%3E%7E+key%3D1",
        ] {
            let url = format!("https://h/?q={text}&x=y");
            assert_eq!(forms(&needles, url.as_bytes()), [Form::Url], "{url}");
        }
        for text in ["", "s3cr/t+?>~ key=", "3cr/t+?>~ key=1", "czNjci90"] {
            assert_eq!(forms(&needles, text.as_bytes()), [], "{text}");
        }
    }

    #[test]
    fn line_ends_hide_nothing() {
        let key: Vec<u8> = (0..300u32).map(|i| b'!' + (i * 7 % 90) as u8).collect();
        let lines: Vec<u8> = key.chunks(64).collect::<Vec<_>>().join(&b'\n');
        let needles = needles(&[&lines]);
        let dos: Vec<u8> = key.chunks(64).collect::<Vec<_>>().join(&b"\r\n"[..]);
        assert_eq!(forms(&needles, &dos), [Form::Raw]);
        let encoded = STANDARD.encode(&lines);
        let wrapped: Vec<u8> = encoded
            .as_bytes()
            .chunks(76)
            .collect::<Vec<_>>()
            .join(&b'\n');
        assert_eq!(forms(&needles, &wrapped), [Form::Base64]);
    }

    #[test]
    fn borders_of_pieces_hide_nothing() {
        let needles = needles(&[SECRET, b"another one"]);
        let encoded = STANDARD.encode(SECRET);
        for hidden in [SECRET, encoded.as_bytes()] {
            let text = [b"before ", hidden, b" after another one."].concat();
            for cut in 0..text.len() {
                for second in [cut, cut + 1, cut + 5, text.len()] {
                    let second = second.min(text.len());
                    let mut scanner = Scanner::new(&needles);
                    for piece in [&text[..cut], &text[cut..second], &text[second..]] {
                        scanner.feed(piece);
                    }
                    let found: Vec<usize> = scanner.end().into_iter().map(|(s, _)| s).collect();
                    assert_eq!(found, [0, 1], "{cut} {second}");
                }
            }
            let mut scanner = Scanner::new(&needles);
            text.iter()
                .for_each(|byte| scanner.feed(std::slice::from_ref(byte)));
            assert_eq!(scanner.end().len(), 2);
            // What one content ends with and the next begins with is in neither.
            scanner.feed(&SECRET[..9]);
            assert_eq!(scanner.end(), []);
            scanner.feed(&SECRET[9..]);
            assert_eq!(scanner.end(), []);
        }
    }

    #[test]
    fn one_secret_may_be_in_another() {
        let needles = needles(&[b"password", b"password-of-ada", b"sword-of-"]);
        let found = needles.find(b"x password-of-ada x");
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["s0", "s1", "s2"]);
        let nested = self::needles(&[b"the-inner-secret-of", b"inner-secret"]);
        assert_eq!(nested.find(b"the-inner-secret-of").len(), 2);
    }

    #[test]
    fn short_secrets_are_left_out() {
        let named = |text: &str| (text.to_owned(), text.as_bytes().to_vec());
        let all = ["1234567", " 1234567\n", "aaaaaaaaaaaa", "", "12345678"].map(named);
        let (needles, left_out) = Needles::new(all);
        assert_eq!(left_out, ["1234567", " 1234567\n", "aaaaaaaaaaaa"]);
        assert_eq!(needles.unwrap().find(b"x12345678").len(), 1);
        assert!(Needles::new([named("short")]).0.is_none());
    }
}
