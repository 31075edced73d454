//! Rules as data: what there is, what each takes, and how it is written.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::dockerfile::glob::Pattern;

/// What a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Bytes that the image does not show.
    Wasted,
    /// Seen bytes of all bytes.
    Efficiency,
    /// The contents of all files of all layers.
    Size,
    /// The blobs of all layers.
    Compressed,
    /// How many layers.
    Layers,
    /// The contents of the files of one layer.
    Layer,
    /// The content of one file of any layer.
    File,
    /// Files that run as another user or group.
    Setuid,
    /// Files that run with powers of root.
    Capability,
    /// What every user may change.
    WorldWritable,
    /// The user that the image runs as.
    RootUser,
    /// Files that look like credentials.
    SecretLike,
}

/// What a kind of rule is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// Nothing: any occurrence breaks it.
    Nothing,
    /// Bytes.
    Bytes,
    /// Bytes, or a part of the image's.
    BytesOrShare,
    /// A part, that has to be reached.
    Share,
    /// A number.
    Count,
}

impl Kind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Kind; 12] = [
        Kind::Wasted,
        Kind::Efficiency,
        Kind::Size,
        Kind::Compressed,
        Kind::Layers,
        Kind::Layer,
        Kind::File,
        Kind::Setuid,
        Kind::Capability,
        Kind::WorldWritable,
        Kind::RootUser,
        Kind::SecretLike,
    ];

    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Wasted => "wasted",
            Kind::Efficiency => "efficiency",
            Kind::Size => "size",
            Kind::Compressed => "compressed",
            Kind::Layers => "layers",
            Kind::Layer => "layer",
            Kind::File => "file",
            Kind::Setuid => "setuid",
            Kind::Capability => "capability",
            Kind::WorldWritable => "world-writable",
            Kind::RootUser => "root-user",
            Kind::SecretLike => "secret-like",
        }
    }

    /// The kind of this name, in whatever case.
    pub fn named(name: &str) -> Option<Kind> {
        let same = |kind: &Kind| kind.name().eq_ignore_ascii_case(name);
        Kind::ALL.into_iter().find(same)
    }

    /// What it is compared with.
    pub fn takes(self) -> Takes {
        match self {
            Kind::Wasted => Takes::BytesOrShare,
            Kind::Efficiency => Takes::Share,
            Kind::Size | Kind::Compressed | Kind::Layer | Kind::File => Takes::Bytes,
            Kind::Layers => Takes::Count,
            Kind::Setuid
            | Kind::Capability
            | Kind::WorldWritable
            | Kind::RootUser
            | Kind::SecretLike => Takes::Nothing,
        }
    }

    /// A rule of it, as an example.
    pub fn example(self) -> &'static str {
        match self {
            Kind::Wasted => "wasted>50MB",
            Kind::Efficiency => "efficiency<95%",
            Kind::Size => "size>500MB",
            Kind::Compressed => "compressed>200MB",
            Kind::Layers => "layers>20",
            Kind::Layer => "layer>300MB",
            Kind::File => "file>100MB",
            _ => self.name(),
        }
    }

    /// What breaks it, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::Wasted => {
                "Bytes that the layers hold and the image does not show, because a later layer overwrites or deletes them."
            }
            Kind::Efficiency => "The part of all bytes that the image shows.",
            Kind::Size => "The image unpacked: the contents of all files of all layers.",
            Kind::Compressed => "What is pushed and pulled: the blobs of all layers.",
            Kind::Layers => "The number of layers.",
            Kind::Layer => "One layer unpacked: the contents of its files.",
            Kind::File => "One file of any layer, also if a later layer deletes it.",
            Kind::Setuid => {
                "A file that runs as its owner or its group, whoever starts it (setuid, setgid)."
            }
            Kind::Capability => {
                "A file that runs with capabilities, whoever starts it (security.capability)."
            }
            Kind::WorldWritable => {
                "A file, or a directory without the sticky bit, that every user may change."
            }
            Kind::RootUser => "The image's user is root: USER is not set, 0 or root.",
            Kind::SecretLike => {
                "A file of any layer that looks like a credential: by its name, and by its content where that can be had. Also if a later layer deletes it."
            }
        }
    }

    /// What keeps it, in general.
    pub fn remedy(self) -> &'static str {
        match self {
            Kind::Wasted | Kind::Efficiency => {
                "Delete in the instruction that makes it, give permissions with COPY --chmod and --chown, and merge instructions that write the same files. `strata dedup` names each change."
            }
            Kind::Size | Kind::Compressed | Kind::Layer => {
                "Take a smaller base, do in another stage what only makes things and COPY --from the result, and keep files out with .dockerignore."
            }
            Kind::Layers => "Merge instructions that belong together.",
            Kind::File => {
                "Keep it out with .dockerignore, or delete it in the instruction that makes it."
            }
            Kind::Setuid => "chmod u-s,g-s in the instruction that makes the file.",
            Kind::Capability => "setcap -r in the instruction that makes the file.",
            Kind::WorldWritable => "chmod o-w in the instruction that makes the file.",
            Kind::RootUser => "End the Dockerfile with USER and a user that is not root.",
            Kind::SecretLike => {
                "Keep it out with .dockerignore, and give it to a RUN with --mount=type=secret. Who had the image has it: replace it."
            }
        }
    }

    /// Whether it is about paths, of which some may be excepted.
    pub fn has_paths(self) -> bool {
        matches!(
            self,
            Kind::File | Kind::Setuid | Kind::Capability | Kind::WorldWritable | Kind::SecretLike
        )
    }

    /// Whether it can be about the Dockerfile's own layers alone.
    pub fn has_layers(self) -> bool {
        self != Kind::RootUser
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// When a rule with a bound is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

impl Comparison {
    /// How it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Comparison::Above => ">",
            Comparison::AtLeast => ">=",
            Comparison::Below => "<",
            Comparison::AtMost => "<=",
        }
    }

    /// Whether `value` is so, compared with `bound`.
    pub(super) fn holds(self, value: u128, bound: u128) -> bool {
        match self {
            Comparison::Above => value > bound,
            Comparison::AtLeast => value >= bound,
            Comparison::Below => value < bound,
            Comparison::AtMost => value <= bound,
        }
    }
}

/// A number with its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Bytes.
    Bytes(u64),
    /// Of a whole, in millionths: `10%` is 100,000.
    Millionths(u64),
    /// Things.
    Count(u64),
}

impl fmt::Display for Measure {
    /// As a rule has it, and exactly that: `50MB`, `10%`, `1.5GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Measure::Count(count) => write!(f, "{count}"),
            Measure::Millionths(part) => {
                write!(f, "{}", part / 10_000)?;
                let rest = format!("{:04}", part % 10_000);
                let rest = rest.trim_end_matches('0');
                if !rest.is_empty() {
                    write!(f, ".{rest}")?;
                }
                f.write_str("%")
            }
            Measure::Bytes(bytes) => {
                let exact = |unit: &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(unit.1);
                match super::parse::UNITS.iter().filter(exact).max_by_key(|u| u.1) {
                    Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
                    None => write!(f, "{bytes}B"),
                }
            }
        }
    }
}

/// What a rule compares with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// When it is broken.
    pub comparison: Comparison,
    /// The number.
    pub limit: Measure,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.comparison.sign(), self.limit)
    }
}

/// Paths that a rule does not judge.
#[derive(Clone, Debug)]
pub struct Exception {
    text: String,
    pattern: Pattern,
}

impl Exception {
    pub(super) fn new(text: &str, pattern: Pattern) -> Exception {
        Exception {
            text: text.to_owned(),
            pattern,
        }
    }

    /// Whether it is about a path of a layer, which has no slash at its beginning.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.pattern.matches(path)
    }
}

impl PartialEq for Exception {
    fn eq(&self, other: &Exception) -> bool {
        self.text == other.text
    }
}

impl Eq for Exception {}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What it is about.
    pub kind: Kind,
    /// What it compares with; a kind that [`Takes::Nothing`] has none, every other one.
    pub bound: Option<Bound>,
    /// Whether it judges only the layers that the Dockerfile made.
    pub own: bool,
    /// What it does not judge.
    pub except: Vec<Exception>,
}

impl Rule {
    /// Whether a path is excepted.
    pub(super) fn excepts(&self, path: &[u8]) -> bool {
        self.except.iter().any(|e| e.matches(path))
    }

    /// What is broken where it is, without the exceptions: `wasted>50MB own`.
    pub fn condition(&self) -> String {
        let own = if self.own { " own" } else { "" };
        match self.bound {
            Some(bound) => format!("{}{bound}{own}", self.kind.name()),
            None => format!("{}{own}", self.kind.name()),
        }
    }
}

impl fmt::Display for Rule {
    /// In the language of [`Rules::parse`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.condition())?;
        if !self.except.is_empty() {
            f.write_str(" except")?;
        }
        for exception in &self.except {
            let text = &exception.text;
            if super::parse::is_plain(text) {
                write!(f, " {text}")?;
            } else {
                write!(f, " \"{text}\"")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Rules, each once, in the order in which they were given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// The rules.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a rule, if it is not there.
    pub fn add(&mut self, rule: Rule) {
        if !self.0.contains(&rule) {
            self.0.push(rule);
        }
    }

    /// Adds what others there are.
    pub fn extend(&mut self, other: Rules) {
        other.0.into_iter().for_each(|rule| self.add(rule));
    }
}
