//! A step held against an earlier record, input by input.

use std::collections::BTreeMap;

use crate::build::BuildError;
use crate::build::copy::join;
use crate::build::engine::Engine;
use crate::build::listing::{self, Listing, PathChange};
use crate::build::select::Content;
use crate::build::transfer::Part;
use crate::dockerfile::lint::is_secret_name;
use crate::oci::Digest;
use crate::plan::graph::{CopySource, Op, Origin, RunMount, Vertex};
use crate::plan::redacted;
use crate::store::{Place, Record};

use super::nearest::step_text;
use super::{InputChange, MAX_SHOWN, Missed, Reason, listed_with_labels, quoted, shown};

/// How many paths of one source are told; the rest is counted.
const MAX_PATHS: usize = 20;

/// How many characters are shown before the first difference of two long lines.
const BEFORE: usize = 40;

impl Engine<'_> {
    /// What a step stands on, which is not what it was.
    pub(super) fn below(&self, missed: &Missed<'_>, vertex: &Vertex, was: Option<&str>) -> Reason {
        let Some(base) = vertex.base else {
            return Reason::Base {
                was: was.map(|text| shown(text.as_bytes())),
                now: "scratch".to_owned(),
            };
        };
        let below = self.vertex_of(base);
        if let Some(ran) = missed.below.and_then(|outcome| outcome.ran) {
            return Reason::Step {
                step: self.vertex_of(ran).name.clone(),
            };
        }
        let now = step_text(below);
        match &below.op {
            // A reference and two digests are longer than lines of a file need be.
            Op::Image(_) => Reason::Base {
                was: was.map(str::to_owned),
                now,
            },
            _ => Reason::Below {
                was: was.map(|text| shown(plain(text).as_bytes())),
                now: shown(plain(&now).as_bytes()),
            },
        }
    }

    /// In what a step differs from a record.
    pub(super) fn compare(
        &self,
        missed: &Missed<'_>,
        vertex: &Vertex,
        place: &Place,
        record: &Record,
    ) -> Result<Vec<Reason>, BuildError> {
        let (was, now) = (ByLabel::new(&record.inputs), ByLabel::new(missed.inputs));
        let earlier = record.place.as_ref();
        let mut reasons = Vec::new();
        let mut below = None;
        let mut text_differs = false;
        let mut mounts: Vec<(String, InputChange)> = Vec::new();
        for label in was.labels_with(&now) {
            let (old, new) = (was.get(label), now.get(label));
            if old == new {
                continue;
            }
            let (first, rest) = label.split_once(' ').unwrap_or((label, ""));
            let change = match (old.is_empty(), new.is_empty()) {
                (true, _) => InputChange::New,
                (_, true) => InputChange::Gone,
                _ => InputChange::Changed,
            };
            match (first, change) {
                // Of another version all the rest may be named otherwise.
                ("kind", _) => return Ok(vec![Reason::Version]),
                ("base", InputChange::Changed) => {
                    let was = earlier.and_then(|p| p.below.as_deref());
                    below = Some(self.below(missed, vertex, was.or(Some("scratch"))));
                }
                // A linked layer has no base; the flag itself says so.
                ("base", _) => {}
                ("command", _) => reasons.push(command(old, new)),
                ("script", _) => reasons.push(heredoc(rest, old.first(), new.first())),
                ("environment", _) => {
                    reasons.push(environment(vertex, earlier, rest, change));
                }
                ("heredoc", InputChange::Changed) => {
                    let kept = |value: Option<&&str>| -> Result<Option<Vec<u8>>, BuildError> {
                        match value.and_then(|v| v.parse::<Digest>().ok()) {
                            Some(digest) => Ok(self.store.listing(&digest)?),
                            None => Ok(None),
                        }
                    };
                    let old = kept(old.first())?;
                    let old = old.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    let new = inline(vertex, rest);
                    reasons.push(match (&old, new) {
                        (Some(old), Some(new)) => heredoc(rest, Some(&old.as_str()), Some(&new)),
                        _ => heredoc(rest, None, None),
                    });
                }
                ("files" | "file", InputChange::Changed) => {
                    self.files(missed, vertex, label, old, &mut reasons)?;
                }
                ("bind", _) if rest.ends_with(" read-only") && change == InputChange::Changed => {
                    reasons.push(input(label, old, new));
                }
                ("bind", InputChange::Changed) => {
                    self.files(missed, vertex, label, old, &mut reasons)?;
                }
                ("repository", InputChange::Changed) => {
                    let commit = |value: Option<&&str>| {
                        let text = value.map_or("", |v| v.split(' ').next().unwrap_or_default());
                        shown(text.as_bytes())
                    };
                    let (was, now) = (commit(old.first()), commit(new.first()));
                    reasons.push(match was == now {
                        true => input(label, &[], &[]),
                        false => Reason::Commit {
                            url: shown(rest.as_bytes()),
                            was,
                            now,
                        },
                    });
                }
                ("bind", _) if rest.ends_with(" read-only") => {}
                ("bind", _) => mounts.push((label.to_owned(), change)),
                ("cache" | "tmpfs" | "secret" | "ssh", InputChange::New | InputChange::Gone) => {
                    let mount = label.rsplit_once(' ').map_or(label, |(mount, _)| mount);
                    // A mount that is there in both has gained or lost a field only.
                    let in_both = was.has_mount(mount) && now.has_mount(mount);
                    if in_both {
                        reasons.push(input(label, old, new));
                    } else if !mounts.iter().any(|(known, _)| known == mount) {
                        mounts.push((mount.to_owned(), change));
                    }
                }
                (
                    "destination" | "path" | "files" | "file" | "heredoc" | "repository" | "add",
                    _,
                ) => text_differs = true,
                _ => reasons.push(input(label, old, new)),
            }
        }
        let told = mounts.into_iter();
        reasons.extend(told.map(|(mount, change)| Reason::Mount { mount, change }));
        if text_differs {
            reasons.insert(
                0,
                lines(
                    None,
                    Some(plain(&record.step)),
                    Some(plain(&step_text(vertex))),
                ),
            );
        }
        if let Some(earlier) = earlier
            && earlier.platform != place.platform
            && now.get("platform").is_empty()
        {
            let (was, now) = (Some(earlier.platform.clone()), Some(place.platform.clone()));
            reasons.push(Reason::Input {
                name: "platform".to_owned(),
                was,
                now,
            });
        }
        reasons.extend(below);
        if reasons.is_empty() {
            reasons.push(Reason::Order {
                of: order(&record.inputs, missed.inputs),
            });
        }
        Ok(reasons)
    }

    // The files of a source that differ.
    fn files(
        &self,
        missed: &Missed<'_>,
        vertex: &Vertex,
        label: &str,
        old: &[&str],
        reasons: &mut Vec<Reason>,
    ) -> Result<(), BuildError> {
        let source = label.split_once(' ').map_or(label, |(_, source)| source);
        if label.starts_with("file ") {
            let url = shown(source.as_bytes());
            reasons.push(Reason::Url { url });
            return Ok(());
        }
        // A source that is named twice is compared once with each.
        let of_label = || listed_with_labels(missed.inputs, missed.parts).filter(|l| l.0 == label);
        for (at, (_, digest, part)) in of_label().enumerate() {
            let earlier = old.get(at).and_then(|value| value.parse::<Digest>().ok());
            if earlier == Some(digest) {
                continue;
            }
            let was = match &earlier {
                Some(digest) => self.store.listing(digest)?,
                None => None,
            };
            let mut now = Vec::new();
            part.list(&mut Listing::new(&mut |bytes| now.extend_from_slice(bytes)))?;
            let found = was.and_then(|was| listing::differences(&was, &now));
            let Some(found) = found.filter(|found| !found.is_empty()) else {
                reasons.push(Reason::Files {
                    source: shown(source.as_bytes()),
                });
                continue;
            };
            let whose = self.whose(vertex, label);
            let roots = roots(part);
            let count = found.len();
            for difference in found.into_iter().take(MAX_PATHS) {
                let root = roots
                    .iter()
                    .find(|(name, _)| *name == difference.item)
                    .map_or_else(
                        || beside(&whose.source, &difference.item),
                        |(_, path)| path.clone(),
                    );
                let path = join(&root, &difference.path);
                let path = match (whose.absolute, path.is_empty()) {
                    (true, _) => format!("/{}", shown(&path)),
                    (false, true) => ".".to_owned(),
                    (false, false) => shown(&path),
                };
                let (change, what) = match difference.change {
                    PathChange::New => (InputChange::New, Vec::new()),
                    PathChange::Gone => (InputChange::Gone, Vec::new()),
                    PathChange::Changed(what) => (InputChange::Changed, what),
                };
                reasons.push(Reason::File {
                    path,
                    from: whose.name.clone(),
                    change,
                    what,
                });
            }
            if count > MAX_PATHS {
                reasons.push(Reason::MoreFiles {
                    count: count - MAX_PATHS,
                });
            }
        }
        Ok(())
    }

    // Whose files a label is about.
    fn whose(&self, vertex: &Vertex, label: &str) -> Whose {
        let (_, of) = label.split_once(' ').unwrap_or((label, ""));
        let (origin, source) = match &vertex.op {
            Op::Copy(copy) => (&copy.origin, of),
            Op::Run(run) => {
                let mut mounts = run.mounts.iter();
                let found = mounts.find_map(|mount| match mount {
                    RunMount::Bind {
                        target,
                        origin,
                        source,
                        ..
                    } if target == of => Some((origin, source.as_str())),
                    _ => None,
                });
                found.unwrap_or((&Origin::Context, of))
            }
            Op::Image(_) | Op::Workdir(_) => (&Origin::Context, of),
        };
        let graph = self.request.graph;
        let name = match origin {
            Origin::Context => None,
            Origin::Named(name) => Some(format!("context {name}")),
            Origin::Vertex(None) => Some("scratch".to_owned()),
            Origin::Vertex(Some(id)) => Some(match &graph.vertex(*id).op {
                Op::Image(image) => image.name.clone(),
                _ => format!("stage {}", graph.vertex(*id).stage),
            }),
        };
        Whose {
            name,
            absolute: matches!(origin, Origin::Vertex(_)),
            source: source.as_bytes().to_vec(),
        }
    }
}

/// Whose files an input is about.
struct Whose {
    /// `None` for the build context.
    name: Option<String>,
    /// Whether paths are a root filesystem's.
    absolute: bool,
    /// As written.
    source: Vec<u8>,
}

// A source that is not there any more, beside those that a pattern still finds.
fn beside(pattern: &[u8], name: &[u8]) -> Vec<u8> {
    let clean = pattern.strip_prefix(b"/").unwrap_or(pattern);
    let dir = clean.iter().rposition(|c| *c == b'/').unwrap_or(0);
    join(&clean[..dir], name)
}

// Where the sources of a part are in its tree, by name.
fn roots(part: &Part) -> Vec<(Vec<u8>, Vec<u8>)> {
    let items = part.items.iter();
    items
        .filter_map(|item| match &item.content {
            Content::Files(files) => Some((item.name.clone(), files.top().entry.path.clone())),
            Content::Bytes { .. } => None,
        })
        .collect()
}

/// Inputs by label; a label may have several values.
struct ByLabel<'i> {
    order: Vec<&'i str>,
    values: BTreeMap<&'i str, Vec<&'i str>>,
}

impl<'i> ByLabel<'i> {
    fn new(inputs: &'i [(String, String)]) -> ByLabel<'i> {
        let mut by = ByLabel {
            order: Vec::new(),
            values: BTreeMap::new(),
        };
        for (label, value) in inputs {
            let values = by.values.entry(label).or_default();
            if values.is_empty() {
                by.order.push(label);
            }
            values.push(value);
        }
        by
    }

    fn get(&self, label: &str) -> &[&'i str] {
        self.values.get(label).map_or(&[], Vec::as_slice)
    }

    // The labels of the other in their order, then those that only this one has.
    fn labels_with<'o>(&'o self, other: &'o ByLabel<'i>) -> impl Iterator<Item = &'i str> + 'o {
        let gone = self.order.iter().filter(|l| other.get(l).is_empty());
        other.order.iter().chain(gone).copied()
    }

    fn has_mount(&self, mount: &str) -> bool {
        self.order
            .iter()
            .any(|label| label.rsplit_once(' ').is_some_and(|(m, _)| m == mount))
    }
}

// Of what the order differs in two lists of the same inputs.
fn order(was: &[(String, String)], now: &[(String, String)]) -> String {
    let first = was.iter().zip(now).find(|(a, b)| a != b);
    let label = first.map_or("", |(_, (label, _))| label);
    match label.split(' ').next().unwrap_or_default() {
        "environment" => "variables",
        "files" | "file" | "heredoc" | "repository" => "sources",
        "bind" | "cache" | "tmpfs" | "secret" | "ssh" => "mounts",
        _ => "options",
    }
    .to_owned()
}

// A command that differs: in its shell, if only that does.
fn command(old: &[&str], new: &[&str]) -> Reason {
    let shell = |args: &[&str]| -> String { shown(args.join(" ").as_bytes()) };
    if let (Some((old_last, old_shell)), Some((new_last, new_shell))) =
        (old.split_last(), new.split_last())
        && old_shell != new_shell
        && old_last == new_last
    {
        return Reason::Shell {
            was: shell(old_shell),
            now: shell(new_shell),
        };
    }
    let same = old.len().saturating_sub(1);
    let is_shell = old.len() == new.len() && old[..same] == new[..same];
    match (is_shell, old.last(), new.last()) {
        (true, Some(old), Some(new)) => lines(
            None,
            Some(&format!("RUN {old}")),
            Some(&format!("RUN {new}")),
        ),
        _ => {
            let text = |args: &[&str]| format!("RUN {}", args.join(" "));
            lines(None, Some(&text(old)), Some(&text(new)))
        }
    }
}

// A here-document that differs.
fn heredoc(name: &str, old: Option<&&str>, new: Option<&&str>) -> Reason {
    match (old, new) {
        (None, None) => Reason::Instruction {
            heredoc: Some(shown(name.as_bytes())),
            line: None,
            was: None,
            now: None,
        },
        _ => lines(Some(name), old.copied(), new.copied()),
    }
}

// The first line in which two texts differ.
fn lines(heredoc: Option<&str>, old: Option<&str>, new: Option<&str>) -> Reason {
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let (mut old_lines, mut new_lines) = (old.split('\n'), new.split('\n'));
    let several = old.contains('\n') || new.contains('\n');
    let mut line = 0;
    let (was, now) = loop {
        line += 1;
        match (old_lines.next(), new_lines.next()) {
            (Some(was), Some(now)) if was == now => {}
            pair => break pair,
        }
    };
    // An expanded here-document may hold what a build argument does.
    let hides = |text: &str| {
        let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        heredoc.is_some() && words.any(is_secret_name)
    };
    let hidden = was.is_some_and(hides) || now.is_some_and(hides);
    let is_said = |line: &&str| !hidden && !line.trim().is_empty();
    let was = was.filter(is_said).map(redacted);
    let now = now.filter(is_said).map(redacted);
    let from = match (&was, &now) {
        (Some(was), Some(now)) => context(was, now),
        _ => 0,
    };
    let text = |line: Option<String>| line.map(|line| part(&line, from));
    Reason::Instruction {
        heredoc: heredoc.map(|name| shown(name.as_bytes())),
        line: several.then_some(line),
        was: text(was),
        now: text(now),
    }
}

// Where to begin, in characters, so that the first difference of two long lines is seen.
fn context(was: &str, now: &str) -> usize {
    let same = was.chars().zip(now.chars()).take_while(|(a, b)| a == b);
    match same.count().checked_sub(BEFORE) {
        Some(from) if was.chars().count().max(now.chars().count()) > MAX_SHOWN => from,
        _ => 0,
    }
}

fn part(line: &str, from: usize) -> String {
    let rest: String = line.trim_end().chars().skip(from).collect();
    let before = if from > 0 { "…" } else { "" };
    format!("{before}{}", shown(rest.as_bytes()))
}

// The text of a COPY, ADD or WORKDIR without what history adds to it.
fn plain(text: &str) -> &str {
    text.strip_suffix(" # buildkit").unwrap_or(text)
}

fn environment(
    vertex: &Vertex,
    earlier: Option<&Place>,
    name: &str,
    change: InputChange,
) -> Reason {
    let now = match &vertex.op {
        Op::Run(run) => run.env.iter().find(|(n, _)| n == name).map(|(_, v)| v),
        _ => None,
    };
    let now = now
        .filter(|_| !is_secret_name(name))
        .map(|value| quoted(&redacted(value)));
    let declared = |arguments: &[String]| arguments.iter().any(|a| a == name);
    let is_argument = match change {
        InputChange::Gone => earlier.is_some_and(|place| declared(&place.arguments)),
        _ => declared(&vertex.arguments),
    };
    let name = shown(name.as_bytes());
    match is_argument {
        true => Reason::BuildArgument { name, change, now },
        false => Reason::Environment { name, change, now },
    }
}

// The text of a here-document of a COPY.
fn inline<'v>(vertex: &'v Vertex, wanted: &str) -> Option<&'v str> {
    let Op::Copy(copy) = &vertex.op else {
        return None;
    };
    copy.sources.iter().find_map(|source| match source {
        CopySource::Inline { name, content } if name == wanted => Some(content.as_str()),
        _ => None,
    })
}

fn input(label: &str, old: &[&str], new: &[&str]) -> Reason {
    let name = match label {
        "user" => "USER",
        "directory" => "WORKDIR",
        "network" => "--network",
        "security" => "--security",
        "extra host" => "--add-host",
        "ulimit" => "--ulimit",
        "shm size" => "--shm-size",
        "chown" => "--chown",
        "owner" => "owner that --chown names",
        "chmod" => "--chmod",
        "link" => "--link",
        "parents" => "--parents",
        "unpack" => "--unpack",
        "exclude" => "--exclude",
        other => other,
    };
    let only = |these: &[&str], others: &[&str]| {
        let kept = these.iter().filter(|value| !others.contains(value));
        let kept: Vec<String> = kept.map(|value| quoted(value)).collect();
        (!kept.is_empty()).then(|| kept.join(", "))
    };
    Reason::Input {
        name: shown(name.as_bytes()),
        was: only(old, new),
        now: only(new, old),
    }
}
