//! Rules of `layers --fail-on`.

use strata::inspect::gate::Rules;

/// Any text is rules or has a place that is wrong; rules mean what they are written as.
pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Rules::parse(&text) {
        Ok(rules) => {
            assert!(!rules.is_empty());
            for rule in rules.iter() {
                let written = rule.to_string();
                let again = Rules::parse(&written).unwrap_or_else(|e| panic!("{written:?}: {e}"));
                assert_eq!(again.iter().collect::<Vec<_>>(), [rule], "{written:?}");
            }
        }
        Err(error) => {
            assert!(text.get(error.span.clone()).is_some(), "{error:?}");
            assert!(!error.to_string().is_empty());
        }
    }
}
