//! What is searched for: a part of a name, or a pattern with `*` and `?`.

/// A search. Without a slash it is held against names, with one against whole paths; without a capital letter, capitals are as small
/// ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    text: Vec<u8>,
    is_glob: bool,
    of_paths: bool,
    any_case: bool,
}

impl Pattern {
    /// Of what was typed; none of nothing.
    pub(super) fn new(typed: &str) -> Option<Pattern> {
        if typed.is_empty() {
            return None;
        }
        let is_glob = typed.contains(['*', '?']);
        let of_paths = typed.contains('/');
        let any_case = !typed.chars().any(char::is_uppercase);
        // A relative pattern begins at any folder.
        let lead = if is_glob && of_paths && !typed.starts_with('/') {
            "*/"
        } else {
            ""
        };
        Some(Pattern {
            text: format!("{lead}{typed}").into_bytes(),
            is_glob,
            of_paths,
            any_case,
        })
    }

    /// Whether a path (without a slash at its beginning) is one of those.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        if self.of_paths {
            let whole = [b"/", path].concat();
            return self.holds(&whole);
        }
        let name = path.rsplit(|c| *c == b'/').next().unwrap_or_default();
        self.holds(name)
    }

    fn same(&self, a: u8, b: u8) -> bool {
        a == b || self.any_case && a.eq_ignore_ascii_case(&b)
    }

    fn holds(&self, text: &[u8]) -> bool {
        if self.is_glob {
            return self.glob(text);
        }
        text.windows(self.text.len())
            .any(|part| part.iter().zip(&self.text).all(|(a, b)| self.same(*a, *b)))
    }

    /// `*` is any bytes, `?` one character. Only the last star is ever tried again, so it takes no longer than the product of both
    /// lengths, whatever the pattern.
    fn glob(&self, text: &[u8]) -> bool {
        let pattern = &self.text;
        let (mut at, mut in_pattern) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            match pattern.get(in_pattern) {
                Some(b'*') => {
                    star = Some((in_pattern + 1, at));
                    in_pattern += 1;
                }
                Some(b'?') => {
                    at += character(&text[at..]);
                    in_pattern += 1;
                }
                Some(c) if self.same(*c, text[at]) => {
                    at += 1;
                    in_pattern += 1;
                }
                _ => {
                    let Some((after, taken)) = star else {
                        return false;
                    };
                    star = Some((after, taken + 1));
                    (in_pattern, at) = (after, taken + 1);
                }
            }
        }
        pattern[in_pattern..].iter().all(|c| *c == b'*')
    }
}

/// The length of the first character; a byte that is no text counts as one.
fn character(text: &[u8]) -> usize {
    let first = text.utf8_chunks().next();
    let valid = first.and_then(|chunk| chunk.valid().chars().next());
    valid.map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        for (typed, path, want) in [
            ("lib", "usr/lib/x", false),
            ("lib", "usr/lib", true),
            ("ib/x", "usr/lib/x", true),
            ("/usr", "usr", true),
            ("/lib", "usr/lib", true),
            ("LIB", "usr/lib", false),
            ("lib", "usr/LIBC", true),
            ("*.so", "a/libc.so", true),
            ("*.so", "a/libc.so.6", false),
            ("*.so*", "a/libc.so.6", true),
            ("lib?.so", "libc.so", true),
            ("lib?.so", "libé.so", true),
            ("lib?.so", "lib.so", false),
            ("usr/*.so", "usr/lib/c.so", true),
            ("lib/*.so", "usr/lib/c.so", true),
            ("ib/*.so", "usr/lib/c.so", false),
            ("/lib/*.so", "usr/lib/c.so", false),
            ("/usr/*", "usr/lib/c.so", true),
            ("**a**", "bab", true),
            ("*", "", true),
            ("?", "\u{1f600}", true),
        ] {
            let pattern = Pattern::new(typed).unwrap();
            assert_eq!(pattern.matches(path.as_bytes()), want, "{typed} {path}");
        }
        assert!(Pattern::new("").is_none());
        assert!(Pattern::new("?b").unwrap().matches(b"\xffb"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::new(&"*a".repeat(200)).unwrap();
        assert!(!pattern.matches(&b"ab".repeat(150)));
        assert!(!pattern.matches(&[b'a'; 199]));
        assert!(pattern.matches(&[b'a'; 4000]));
    }
}
