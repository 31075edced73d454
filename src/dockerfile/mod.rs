//! The Dockerfile language: text in, typed stages and diagnostics out.
//!
//! For: everything that can be said about a Dockerfile (and a `.dockerignore`) without a context, a registry or a clock.
//! [`parse`] gives the [`Dockerfile`] with its words *unexpanded*; [`words`] expands them when the scopes are known, and
//! [`mounts`] then reads the options of `RUN --mount` again; [`ignore`] and [`glob`] match paths; [`lint`] holds the rules
//! of `build --check`; [`render`] shows a [`Diagnostic`] with its source.
//!
//! ```text
//! text ── lexer ──► logical lines ── instructions (flags, split, heredoc, mounts) ──► parser ──► stages
//! ```
//!
//! Invariants: every word, statement and diagnostic has a [`Span`] into the source text; parsing never panics and never
//! reads beyond its input; equal text gives equal values.
//!
//! Format: BuildKit's Dockerfile 1.x, as in its `frontend/dockerfile`.
//!
//! Does no I/O, resolves no image, and knows nothing of layers.

pub mod ast;
pub mod diagnostic;
pub mod footgun;
pub mod glob;
pub mod ignore;
pub mod lint;
pub mod mounts;
pub mod words;

mod duration;
mod expander;
mod flags;
mod heredoc;
mod instructions;
mod lexer;
mod parser;
mod pattern;
mod prefilter;
mod split;
mod suggest;

pub use ast::{Dockerfile, Instruction, Span, Stage, Statement, Word};
pub use diagnostic::{Diagnostic, Severity, position, render, with_causes};
pub use parser::{Parsed, parse, parse_trigger};
pub use suggest::nearest;
pub use words::WordError;
