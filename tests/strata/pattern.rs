//! Shell patterns over whole paths, as the cases' `ignore` and `mtime` lists use them: `*` and `?` match a slash too.

/// Whether `pattern` matches all of `text`; a pattern that ends in `/**` also matches everything below.
pub(crate) fn matches(text: &str, pattern: &str) -> bool {
    let below = pattern.ends_with("/**") && {
        let folder = pattern.trim_end_matches('*').trim_end_matches('/');
        text.strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    below || whole(&text, &pattern)
}

/// `*`, `?`, `[set]`, `[!set]`; a bracket that is never closed stands for itself.
fn whole(text: &[char], pattern: &[char]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    match first {
        '*' => (0..=text.len()).any(|skip| whole(&text[skip..], rest)),
        _ if text.is_empty() => false,
        '?' => whole(&text[1..], rest),
        '[' => match set_end(rest) {
            Some(end) => in_set(text[0], &rest[..end]) && whole(&text[1..], &rest[end + 1..]),
            None => text[0] == '[' && whole(&text[1..], rest),
        },
        literal => text[0] == literal && whole(&text[1..], rest),
    }
}

/// Where the set's `]` is; directly after `[` or `[!` it is a member.
fn set_end(set: &[char]) -> Option<usize> {
    let from = 1 + usize::from(set.first() == Some(&'!'));
    set.iter()
        .skip(from)
        .position(|&c| c == ']')
        .map(|at| at + from)
}

fn in_set(c: char, set: &[char]) -> bool {
    let (negated, mut set) = match set.split_first() {
        Some(('!', rest)) => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    while let Some((&low, rest)) = set.split_first() {
        (found, set) = match rest {
            ['-', high, rest @ ..] => (found || (low..=*high).contains(&c), rest),
            _ => (found || low == c, rest),
        };
    }
    found != negated
}

#[test]
fn patterns_match_as_the_cases_mean_them() {
    for (text, pattern, want) in [
        ("/src/.git/x/y", "/src/.git/**", true),
        ("/src/.git", "/src/.git/**", false),
        ("/src/.gitx", "/src/.git/**", false),
        ("/a/b", "/*", true),
        ("/a", "/?", true),
        ("/", "/?", false),
        ("/b", "/[a-c]", true),
        ("/b", "/[!a-c]", false),
        ("/]", "/[]]", true),
        ("/[x", "/[x", true),
        ("copy-dot", "copy-*", true),
    ] {
        assert_eq!(matches(text, pattern), want, "{text} {pattern}");
    }
}
