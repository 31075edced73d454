//! The rules of `build --check`, by BuildKit's names.

use super::ast::Span;
use super::diagnostic::Diagnostic;

/// An empty line inside a continuation.
pub fn no_empty_continuation(span: Span) -> Diagnostic {
    Diagnostic::warning("NoEmptyContinuation", span, "Empty continuation line")
}
