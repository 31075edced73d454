//! Where things stand in a text: what holds for every span and every diagnostic.

use strata::dockerfile::{Diagnostic, Span, render};

/// The text of a span. It lies within the source, ends after its start, and cuts no character.
pub(crate) fn slice(source: &str, span: Span) -> &str {
    let range = span.start as usize..span.end as usize;
    source
        .get(range)
        .unwrap_or_else(|| panic!("{span:?} is no place in {source:?}"))
}

/// A diagnostic stands in the source, is one line, and can be shown.
pub(crate) fn diagnostic(source: &str, diagnostic: &Diagnostic) {
    slice(source, diagnostic.span);
    assert!(!diagnostic.message.is_empty(), "{diagnostic:?}");
    let shown = render(diagnostic, "Dockerfile", source);
    assert!(shown.starts_with("Dockerfile:"), "{shown}");
    assert!(shown.contains(&diagnostic.message), "{shown}");
}
