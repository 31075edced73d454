//! "Did you mean": the known name nearest to what was written.

/// The candidate at fewest edits from `word`, if below three. `None` too when one is equal: then the name was not the
/// mistake. Letters of both cases are the same; the answer has the case of its candidate.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Three edits turn any short word into any other.
    const TOO_FAR: usize = 3;
    // Names are short; a long word is not a mistyped one, and the distance is quadratic.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let mut best = None;
    for candidate in candidates {
        if candidate.len() > LONGEST {
            continue;
        }
        let distance = distance(&word, &candidate.to_lowercase());
        if distance == 0 {
            return None;
        }
        if distance < best.map_or(TOO_FAR, |(least, _)| least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The text of a suggestion, with a blank before it; empty without one.
pub(super) fn did_you_mean<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> String {
    match nearest(word, candidates) {
        Some(name) => format!(" (did you mean {name}?)"),
        None => String::new(),
    }
}

/// Insertions, deletions and replacements from one to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("frm", "from", 1),
            ("RUNN", "RUN", 1),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn nearest_name() {
        assert_eq!(nearest("COPPY", ["RUN", "COPY"]), Some("COPY"));
        assert_eq!(nearest("coppy", ["RUN", "COPY"]), Some("COPY"));
        assert_eq!(nearest("whatever", ["RUN", "COPY"]), None);
        assert_eq!(nearest("run", ["RUNS", "RUN"]), None);
    }
}
