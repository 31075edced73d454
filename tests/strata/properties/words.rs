//! Words and their variables.

use strata::dockerfile::words::{WordError, expand, expand_heredoc, expand_list};

/// The first byte says which escape, the rest is a word.
pub(crate) fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let escape = if first & 1 == 0 { '\\' } else { '`' };
    let word = String::from_utf8_lossy(rest);
    let whole = fine(&word, expand(&word, escape, &mut lookup));
    let list = fine(&word, expand_list(&word, escape, &mut lookup));
    let body = fine(&word, expand_heredoc(&word, escape, &mut lookup));
    assert_eq!(whole, fine(&word, expand(&word, escape, &mut lookup)));
    match (&whole, &list) {
        (Ok(text), Ok(words)) => {
            let dense =
                |text: &str| -> String { text.chars().filter(|c| !c.is_whitespace()).collect() };
            assert_eq!(dense(text), dense(&words.concat()), "{word:?}");
            assert!(words.iter().all(|word| !word.is_empty()), "{words:?}");
        }
        (one, other) => assert_eq!(one.as_ref().err(), other.as_ref().err(), "{word:?}"),
    }
    if !word.contains(['$', escape]) {
        assert_eq!(body.as_deref(), Ok(&*word), "nothing in it is special");
        if !word.contains(['"', '\'']) {
            assert_eq!(whole.as_deref(), Ok(&*word), "nothing in it is special");
        }
    }
    if !word.contains('\'') {
        let quoted = expand(&format!("'{word}'"), escape, &mut lookup);
        assert_eq!(
            quoted.as_deref(),
            Ok(&*word),
            "single quotes keep everything"
        );
    }
}

/// An error has a place in the word.
fn fine<T>(word: &str, result: Result<T, WordError>) -> Result<T, WordError> {
    if let Err(error) = &result {
        assert!(word.is_char_boundary(error.offset), "{word:?}: {error:?}");
        assert!(!error.message.is_empty());
    }
    result
}

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "SET" | "A" => "value",
        "EMPTY" | "E" => "",
        "BLANKS" | "B" => " a  b ",
        "V" => "red-green-red-blue",
        "P" => "srv/data/dump.sql.xz",
        "STAR" => "a*b?c",
        "QUOTE" | "Q" => "a'b\"\\",
        "LINES" | "L" => "one\ntwo\n",
        _ => return None,
    };
    Some(value.to_owned())
}
