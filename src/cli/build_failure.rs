//! Why a build has no result, in words: what was shown, what was meant, what to do.

use std::collections::BTreeSet;

use strata::build::{BuildError, KeptStep};
use strata::dockerfile::{Diagnostic, Severity, Span, diagnostic};
use strata::plan::PlanError;

use super::build::Build;
use super::dockerfile::Text;
use super::error::{CliError, SolveFailure};
use super::failure;
use super::output::note;
use super::progress::ProgressMode;

/// Why there is no result, before it is put into words.
pub(super) enum Failure {
    /// The Dockerfile cannot be read.
    Parse(Text, Vec<Diagnostic>),
    /// Rules that its author made binding are broken.
    Lint(Text, Vec<Diagnostic>, Box<str>),
    /// `--strict` refuses what was found.
    Strict(Text, Vec<Diagnostic>),
    /// It cannot be planned.
    Plan(Text, Box<PlanError>),
    /// It cannot be built.
    Engine(Text, Box<BuildError>),
    /// Anything else.
    Other(CliError),
}

impl Failure {
    /// What is kept of the step that failed.
    pub(super) fn kept(&self) -> Option<&KeptStep> {
        match self {
            Failure::Engine(_, error) => match error.step() {
                Some(BuildError::Step { kept, .. }) => kept.as_deref(),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Failure {
        Failure::Other(error)
    }
}

impl Build<'_> {
    /// Shows what the user needs to see of a failure, and gives the error that ends the command.
    pub(super) fn explain(&self, failure: Failure) -> CliError {
        let quiet = self.request.progress == ProgressMode::Rawjson;
        match failure {
            Failure::Other(error) => {
                if let (CliError::Differ { .. }, true) = (&error, self.progress.is_live())
                    && let Some(failed) = self.progress.failed()
                {
                    note(String::from_utf8_lossy(&failure::log_tail(&failed)).trim_end());
                }
                error
            }
            Failure::Parse(text, errors) => {
                for error in &errors {
                    note(&diagnostic::render(error, &text.name, &text.text));
                }
                build_error(ParseFailure::new(&text, &errors), None)
            }
            Failure::Lint(text, found, violation) => {
                let errors = found.iter().filter(|d| d.severity == Severity::Error);
                for error in errors {
                    note(&diagnostic::render(error, &text.name, &text.text));
                }
                build_error(Violation(violation.into()), None)
            }
            Failure::Strict(text, mut found) => {
                found.sort_by_key(|d| d.span.start);
                for one in &found {
                    note(&diagnostic::render(one, &text.name, &text.text));
                }
                build_error(StrictFailure::new(&found), None)
            }
            Failure::Plan(text, error) => {
                self.show_warnings(&text);
                if let Some(found) = error.diagnostic() {
                    note(&diagnostic::render(&found, &text.name, &text.text));
                }
                // Where the Dockerfile was shown, the hint was too.
                let hint = error.span().is_none().then(|| error.hint()).flatten();
                CliError::Build {
                    source: error,
                    hint,
                }
            }
            Failure::Engine(text, error) => {
                self.show_warnings(&text);
                if let Some(failed) = self.progress.failed().filter(|f| !f.tail.is_empty())
                    && !quiet
                {
                    note(String::from_utf8_lossy(&failure::log_tail(&failed)).trim_end());
                }
                let place = match (error.step(), error.cause()) {
                    (Some(BuildError::Step { lines, span, .. }), _) => {
                        Some((lines.clone(), Some(*span)))
                    }
                    (_, BuildError::Footgun(found)) if found.span != Span::default() => {
                        let (line, _) = diagnostic::position(&text.text, found.span.start);
                        Some((line..line + 1, Some(found.span)))
                    }
                    _ => None,
                };
                if let Some((lines, span)) = place {
                    let excerpt = failure::excerpt(&text.name, &text.text, &lines, span);
                    if !excerpt.is_empty() && !quiet {
                        note(excerpt.trim_end());
                    }
                }
                // Where a state was kept, a look into it says more than anything else could.
                let hint = match error.step() {
                    Some(BuildError::Step {
                        kept: Some(kept), ..
                    }) => Some(self.debug_hint(kept)),
                    _ => error.hint(),
                };
                build_error(
                    SolveFailure {
                        source: error,
                        hint,
                    },
                    None,
                )
            }
        }
    }

    /// What can be done about a step that failed.
    fn debug_hint(&self, kept: &KeptStep) -> String {
        let strata = self.session.again();
        let (id, log) = (&kept.id, kept.log.display());
        let shell = match kept.has_files {
            true => format!("{strata} debug {id} opens a shell where it failed\nhint: "),
            false => String::new(),
        };
        format!("{shell}{strata} debug --log {id} prints its whole output ({log})")
    }
}

/// A Dockerfile with mistakes, in BuildKit's words.
#[derive(Debug, thiserror::Error)]
#[error("dockerfile parse error on line {line}: {message}")]
pub(super) struct ParseFailure {
    line: u32,
    message: String,
}

impl ParseFailure {
    pub(super) fn new(text: &Text, errors: &[Diagnostic]) -> ParseFailure {
        let (line, message) = errors.first().map_or((1, String::new()), |e| {
            let (line, _) = diagnostic::position(&text.text, e.span.start);
            (line, e.message.clone())
        });
        ParseFailure { line, message }
    }
}

fn build_error(
    source: impl std::error::Error + Send + Sync + 'static,
    hint: Option<String>,
) -> CliError {
    CliError::Build {
        source: Box::new(source),
        hint,
    }
}

/// What a strict build refuses.
#[derive(Debug, thiserror::Error)]
#[error("--strict refuses {0}")]
struct StrictFailure(String);

impl StrictFailure {
    fn new(found: &[Diagnostic]) -> StrictFailure {
        let names: BTreeSet<&str> = found.iter().filter_map(|d| d.rule).collect();
        let names: Vec<&str> = names.into_iter().collect();
        StrictFailure(names.join(", "))
    }
}

/// Findings that end the build.
#[derive(Debug, thiserror::Error)]
#[error("failed to solve: {0}")]
struct Violation(String);
