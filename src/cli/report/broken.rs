//! What rules of `layers --fail-on` say, in words: the list on standard error, and the sentences of the documents.

use strata::inspect::gate::{
    Evidence, Fate, GateLayer, Kind, Measure, Outcome, Part, Verdict, Violation,
};
use strata::inspect::{Blame, Lines, escaped};

use super::blamed;
use super::dedup::wrapped;
use super::screen::{Screen, right};
use crate::cli::output::{human_size, truncate};

/// How many places of a broken rule are shown.
const MAX_SHOWN: usize = 10;

/// How wide advice is, characters: with its indent 80.
const ADVICE_COLUMNS: usize = 80;

/// A number for people: bytes as reports have them, and exactly.
pub(super) fn shown(measure: Measure) -> String {
    match measure {
        Measure::Bytes(bytes) if bytes < 1000 => format!("{bytes} bytes"),
        Measure::Bytes(bytes) => format!("{} ({bytes} bytes)", human_size(bytes)),
        other => other.to_string(),
    }
}

/// The path of a violation, as text that steers no terminal; empty if it has none.
pub(super) fn path(violation: &Violation<'_>) -> String {
    let path = violation.path.as_ref();
    path.map_or_else(String::new, |path| format!("/{}", escaped(path.bytes())))
}

/// How a rule is broken, in a sentence without its end.
pub(super) fn sentence(outcome: &Outcome<'_>, violation: &Violation<'_>) -> String {
    let measured = violation.measured.map(shown).unwrap_or_default();
    let path = path(violation);
    let own = if outcome.rule.own {
        "own layers of "
    } else {
        ""
    };
    let mut text = match outcome.rule.kind {
        Kind::Wasted => format!("{measured} of the {own}image is wasted"),
        Kind::Efficiency => format!("only {measured} of the bytes of the {own}image is shown"),
        Kind::Size => format!("the {own}image is {measured} unpacked"),
        Kind::Compressed => format!("the {own}image is {measured} compressed"),
        Kind::Layers if outcome.rule.own => format!("the Dockerfile makes {measured} layers"),
        Kind::Layers => format!("the image has {measured} layers"),
        Kind::Layer => format!("the layer is {measured} unpacked"),
        Kind::File => format!("{path} is {measured}"),
        Kind::Setuid => {
            let bits = match violation.mode.map_or(0, |mode| mode.0 & 0o6000) {
                0o4000 => "setuid",
                0o2000 => "setgid",
                _ => "setuid and setgid",
            };
            format!("{path} is {bits}")
        }
        Kind::Capability => format!("{path} has capabilities"),
        Kind::WorldWritable => format!("every user may write {path}"),
        Kind::RootUser => "the image runs as root".to_owned(),
        Kind::SecretLike => {
            let by = match violation.evidence {
                Some(Evidence::Content) => "content",
                _ => "name",
            };
            format!("{path} looks like a credential by its {by}")
        }
    };
    if let Some(fate) = &violation.fate {
        text.push_str(&format!("; {}", what_became(fate)));
    }
    text
}

fn what_became(fate: &Fate<'_>) -> String {
    let by = &fate.by;
    let does = if fate.deleted { "deletes" } else { "replaces" };
    format!(
        "layer {} ({}) {does} it, and it is still in the image",
        by.layer,
        escaped(short(by).as_bytes())
    )
}

/// Where a layer came from, in very few words.
fn short(blame: &Blame<'_>) -> String {
    match blame.dockerfile {
        Some(lines) => format!("{}:{}", lines.file, lines.line),
        None => {
            let words = blame.instruction.unwrap_or("of unknown origin");
            truncate(words, 32)
        }
    }
}

/// Where it is: `layer 3  Dockerfile:4 RUN make`. `from` is the line to blame for the base.
pub(super) fn place(layer: &GateLayer<'_>, from: Option<&Lines<'_>>) -> String {
    let base = match (layer.of_base, from) {
        (Some(true), Some(from)) => {
            let file = escaped(from.file.as_bytes());
            format!(" (base, {file}:{})", from.line)
        }
        (Some(true), None) => " (base)".to_owned(),
        _ => String::new(),
    };
    let blamed = escaped(blamed(&layer.blame).as_bytes());
    format!("layer {}{base}  {blamed}", layer.blame.layer)
}

fn heading(outcome: &Outcome<'_>) -> String {
    let condition = outcome.rule.condition();
    match (outcome.measured, outcome.rule.kind) {
        (Some(_), Kind::Layer | Kind::File) | (None, _) => {
            let things = match (outcome.rule.kind, outcome.violation_count()) {
                (Kind::RootUser, _) => return format!("{condition}  the image runs as root"),
                (Kind::Layer, 1) => "1 layer".to_owned(),
                (Kind::Layer, count) => format!("{count} layers"),
                (_, 1) => "1 path".to_owned(),
                (_, count) => format!("{count} paths"),
            };
            format!("{condition}  {things}")
        }
        (Some(measured), _) => format!("{condition}  {}", shown(measured)),
    }
}

/// What is broken, in 80 columns; only paths, and elsewhere than on a terminal instructions, may be longer.
pub(super) fn render(verdict: &Verdict<'_>, screen: &Screen) -> String {
    let broken = || verdict.rules.iter().filter(|outcome| !outcome.passed);
    let of = match verdict.rules.len() {
        1 => "1 rule is".to_owned(),
        count => format!("{count} rules are"),
    };
    let mut list = List {
        text: format!(
            "\n{}\n",
            screen.red(&format!("{} of {of} broken", broken().count()))
        ),
        screen,
        from: verdict.base.and_then(|base| base.from),
        told: None,
    };
    for outcome in broken() {
        list.outcome(outcome);
    }
    list.text
}

struct List<'s, 'v> {
    text: String,
    screen: &'s Screen,
    from: Option<Lines<'v>>,
    /// The parts of the sum that was told last.
    told: Option<&'v [Part<'v>]>,
}

impl<'v> List<'_, 'v> {
    fn line(&mut self, indent: usize, words: &str) {
        let words = self.screen.fit(words, indent);
        self.text
            .push_str(&format!("{}{words}\n", " ".repeat(indent)));
    }

    fn advice(&mut self, indent: usize, change: &str) {
        let width = self.screen.width(indent + 2, ADVICE_COLUMNS - indent - 2);
        for line in wrapped(&escaped(change.as_bytes()), width) {
            let line = format!("{}> {line}", " ".repeat(indent));
            self.text.push_str(&self.screen.green(&line));
            self.text.push('\n');
        }
    }

    fn outcome(&mut self, outcome: &'v Outcome<'v>) {
        let heading = self.screen.bold(&heading(outcome));
        self.text.push_str(&format!("\n{heading}\n"));
        let shown = &outcome.violations[..outcome.violations.len().min(MAX_SHOWN)];
        let layer = |v: &Violation<'_>| v.layer.as_ref().map(|layer| layer.blame.layer);
        // What follows one another in a layer has the layer, and an example of what to do, in common.
        for group in shown.chunk_by(|a, b| layer(a) == layer(b)) {
            self.group(group);
        }
        let more = outcome.violation_count() - shown.len() as u64;
        if more > 0 {
            self.line(2, &format!("and {more} more; --format json lists them"));
        }
    }

    fn group(&mut self, group: &'v [Violation<'v>]) {
        let Some(first) = group.first() else {
            return;
        };
        if !first.parts.is_empty() {
            return self.parts(first);
        }
        if let Some(layer) = &first.layer {
            self.place(2, layer);
        } else if let Some(from) = self.from {
            self.line(
                2,
                &format!("{}:{} FROM", escaped(from.file.as_bytes()), from.line),
            );
        }
        for violation in group {
            let what = match (violation.measured, violation.mode, violation.evidence) {
                (_, Some(mode), _) => format!("{:04o}", mode.0),
                (_, _, Some(Evidence::Content)) => "by its content".to_owned(),
                (_, _, Some(Evidence::Name)) => "by its name".to_owned(),
                (Some(Measure::Bytes(bytes)), ..) => right(&human_size(bytes), 7),
                _ => String::new(),
            };
            let path = path(violation);
            if !path.is_empty() || !what.is_empty() {
                self.line(4, format!("{what}  {path}").trim());
            }
            if let Some(fate) = &violation.fate {
                self.line(6, &what_became(fate));
            }
        }
        self.advice(2, &first.change);
    }

    fn place(&mut self, indent: usize, layer: &GateLayer<'_>) {
        let place = place(layer, self.from.as_ref());
        self.line(indent, &place);
    }

    /// What a sum is made of.
    fn parts(&mut self, violation: &'v Violation<'v>) {
        if self.told == Some(&violation.parts) {
            return self.line(2, "as above");
        }
        self.told = Some(&violation.parts);
        for part in &violation.parts {
            let size = right(&human_size(part.bytes), 7);
            match &part.path {
                Some(path) => {
                    let path = escaped(path.as_bytes());
                    self.line(2, &format!("{size}  /{}", path.trim_start_matches('/')));
                    self.place(11, &part.layer);
                }
                None => {
                    let place = place(&part.layer, self.from.as_ref());
                    self.line(2, &format!("{size}  {place}"));
                }
            }
            if let Some(change) = &part.change {
                self.advice(11, change);
            }
        }
        if violation.parts.iter().all(|part| part.change.is_none()) {
            self.advice(2, &violation.change);
        }
    }
}
