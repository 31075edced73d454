//! What there is to say about a place in a Dockerfile.

use super::ast::Span;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// It does not.
    Error,
}

/// A message about a place in the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The lint rule, by BuildKit's name; none for errors of the language.
    pub rule: Option<&'static str>,
    /// One line: what is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// One line: what to do.
    pub hint: Option<String>,
}
