//! The gate of `strata layers --fail-on`: rules that an image has to keep, and where it breaks them.
//!
//! ```text
//! text ─ Rules::parse ─► Rules ─┐
//! Contents ─────────────────────┼─ judge ─► Verdict: for each rule what was measured, and its Violations
//! Secrets (names, contents) ────┘
//! ```
//!
//! A rule is `NAME [BOUND] [own] [except PATH…]`. [`Kind`] has all names with what they mean; [`Rules::parse`] the grammar. A rule
//! is broken where it is true: `size>500MB` by an image of 500,000,001 bytes. Numbers are compared as whole numbers.
//!
//! Rules on what a container could use (setuid, capability, world-writable) look at what the image shows. Rules on what who has
//! the image gets (file, secret-like) look at every layer: what a later layer deletes is still there.
//!
//! Invariants: a rule that cannot be judged is an error, not a pass. No content of a file is in a verdict. One image and one set of
//! rules give one verdict, in the order of the rules, then of layers, then of paths.

mod judge;
mod parse;
mod rule;
mod secrets;
#[cfg(test)]
mod tests;
mod verdict;

pub use judge::{judge, layers_of_base};
pub use parse::{RuleError, RuleProblem};
pub use rule::{Bound, Comparison, Exception, Kind, Measure, Rule, Rules, Takes};
pub use secrets::{Evidence, Secrets};
pub use verdict::{Fate, GateBase, GateLayer, Outcome, Part, Verdict, Violation};
