//! Rules against an image.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::super::bytes::{Mode, PathText};
use super::super::layers::{Blame, LayersReport, Lines, own_bytes};
use super::super::timeline::{Event, Place, Timeline};
use super::super::{Contents, FindingKind, InspectError, Survey};
use super::rule::{Kind, Measure, Rule, Rules};
use super::secrets::{Evidence, Secrets};
use super::verdict::{Fate, GateBase, GateLayer, Outcome, Part, Verdict, Violation};
use crate::layer::{EntryRef, KindRef};
use crate::oci::DiffId;
use crate::store::CopyOrigin;

/// How many places a rule lists. Nobody mends more at once, and a hostile image may have millions; all are counted.
const MAX_VIOLATIONS: usize = 1000;

/// How many parts of a sum are told.
const MAX_PARTS: usize = 5;

/// Holds an image to rules. `report` is the one of `contents`; `base_layers` says how many layers the base brought, if it is known.
pub fn judge<'a>(
    contents: &'a Contents,
    report: &LayersReport<'_>,
    rules: &'a Rules,
    secrets: &Secrets,
    base_layers: Option<usize>,
) -> Result<Verdict<'a>, InspectError> {
    if let Some(rule) = rules.iter().find(|rule| rule.own)
        && base_layers.is_none()
    {
        return Err(InspectError::NoBase {
            image: contents.documents.name.clone(),
            rule: rule.condition(),
        });
    }
    let mut bench = Bench {
        contents,
        report,
        secrets,
        base_layers,
        timeline: Timeline::new(contents.tocs()),
        fates: HashMap::new(),
        waste: OnceCell::new(),
    };
    let hits: Vec<Hits> = rules.iter().map(|rule| bench.in_layers(rule)).collect();
    bench.follow(&hits);
    let mut outcomes = Vec::with_capacity(rules.len());
    for (rule, hits) in rules.iter().zip(hits) {
        outcomes.push(bench.outcome(rule, hits));
    }
    Ok(Verdict {
        passed: outcomes.iter().all(|outcome| outcome.passed),
        base: base_layers.map(|layers| GateBase {
            layers,
            from: from(contents),
        }),
        rules: outcomes,
    })
}

/// The `FROM`, where the image was built here on one.
fn from(contents: &Contents) -> Option<Lines<'_>> {
    let origin = contents.origin.as_ref()?;
    let from = origin.from.as_ref()?;
    Some(Lines {
        file: &origin.dockerfile,
        line: from.line,
        end_line: from.end_line,
        stage: &from.stage,
    })
}

/// A path that breaks a rule.
#[derive(Clone, Copy)]
struct Hit {
    place: Place,
    evidence: Option<Evidence>,
}

/// Those of one rule, as many as are listed.
#[derive(Default)]
struct Hits {
    list: Vec<Hit>,
    more: u64,
    largest: u64,
}

impl Hits {
    fn add(&mut self, place: Place, evidence: Option<Evidence>) {
        if self.list.len() < MAX_VIOLATIONS {
            self.list.push(Hit { place, evidence });
        } else {
            self.more += 1;
        }
    }
}

/// What all rules look at.
struct Bench<'a, 'r> {
    contents: &'a Contents,
    report: &'r LayersReport<'r>,
    secrets: &'r Secrets,
    base_layers: Option<usize>,
    timeline: Timeline,
    /// What became of the paths of hits: the layer, and whether it deletes them.
    fates: HashMap<Place, (usize, bool)>,
    /// What is wasted, by layer; made when it is asked for.
    waste: OnceCell<Vec<Waste>>,
}

/// A finding of `strata dedup` that adds to what the image does not show.
struct Waste {
    layer: usize,
    bytes: u64,
    path: String,
    change: String,
}

impl<'a> Bench<'a, '_> {
    /// Whether a rule looks at a layer.
    fn judges(&self, rule: &Rule, layer: usize) -> bool {
        !rule.own || self.base_layers.is_some_and(|base| layer >= base)
    }

    /// The hits of rules on what layers hold, whether or not the image shows it.
    fn in_layers(&self, rule: &Rule) -> Hits {
        let mut hits = Hits::default();
        match rule.kind {
            Kind::File => {
                for (layer, contents) in self.contents.layers.iter().enumerate() {
                    if !self.judges(rule, layer) {
                        continue;
                    }
                    for (index, entry) in contents.toc.refs().enumerate() {
                        let size_bytes = own_bytes(entry);
                        let is_file = matches!(entry.kind, KindRef::File { .. });
                        if !is_file || rule.excepts(entry.path) {
                            continue;
                        }
                        hits.largest = hits.largest.max(size_bytes);
                        if breaks(rule, Measure::Bytes(size_bytes)) {
                            hits.add(Place { layer, index }, None);
                        }
                    }
                }
            }
            Kind::SecretLike => {
                for (place, evidence) in self.secrets.found() {
                    let path = self.timeline.entry(*place).path;
                    if self.judges(rule, place.layer) && !rule.excepts(path) {
                        hits.add(*place, Some(*evidence));
                    }
                }
            }
            _ => {}
        }
        hits
    }

    /// Puts all layers on one another, and notes what becomes of the hits.
    fn follow(&mut self, hits: &[Hits]) {
        let all = hits.iter().flat_map(|hits| &hits.list);
        let hits: std::collections::HashSet<Place> = all.map(|hit| hit.place).collect();
        let fates = &mut self.fates;
        let mut layer = 0;
        while self
            .timeline
            .step(|_, event| {
                let (was, deleted) = match event {
                    Event::Changed { was, .. } => (was, false),
                    Event::Removed { was, .. } => (was, true),
                    _ => return,
                };
                if hits.contains(&was) {
                    fates.insert(was, (layer, deleted));
                }
            })
            .is_some()
        {
            layer += 1;
        }
    }

    /// The hits of rules on what the image shows.
    fn shown(&self, rule: &Rule) -> Hits {
        let breaks = |entry: EntryRef<'_>| {
            let is_file = matches!(entry.kind, KindRef::File { .. });
            match rule.kind {
                Kind::Setuid => is_file && entry.mode & 0o6000 != 0,
                Kind::Capability => is_file && entry.xattr(b"security.capability").is_some(),
                _ => {
                    let open = match entry.kind {
                        KindRef::File { .. } => true,
                        KindRef::Directory { implied, .. } => !implied && entry.mode & 0o1000 == 0,
                        _ => false,
                    };
                    open && entry.mode & 0o002 != 0
                }
            }
        };
        let mut places: Vec<Place> = Vec::new();
        for place in self.timeline.seen() {
            let entry = self.timeline.entry(*place);
            // A second name has the permissions of the file.
            let content = self.timeline.content(*place).unwrap_or(*place);
            if self.judges(rule, place.layer)
                && breaks(self.timeline.entry(content))
                && !rule.excepts(entry.path)
            {
                places.push(*place);
            }
        }
        // What is seen is in the order of paths; within a layer so are its entries.
        places.sort();
        let mut hits = Hits::default();
        places.into_iter().for_each(|place| hits.add(place, None));
        hits
    }

    fn outcome(&self, rule: &'a Rule, hits: Hits) -> Outcome<'a> {
        let (measured, violations, more) = match rule.kind {
            Kind::Setuid | Kind::Capability | Kind::WorldWritable => {
                let hits = self.shown(rule);
                (None, self.paths(rule, &hits), hits.more)
            }
            Kind::SecretLike => (None, self.paths(rule, &hits), hits.more),
            Kind::File => {
                let largest = Measure::Bytes(hits.largest);
                (Some(largest), self.paths(rule, &hits), hits.more)
            }
            Kind::RootUser => (None, self.user(), 0),
            Kind::Layer => self.each_layer(rule),
            Kind::Layers => self.layer_count(rule),
            Kind::Size | Kind::Compressed | Kind::Wasted | Kind::Efficiency => self.sum(rule),
        };
        Outcome {
            rule,
            name: rule.kind.name(),
            passed: violations.is_empty(),
            measured,
            limit: rule.bound.map(|bound| bound.limit),
            violations,
            more_violations: more,
        }
    }

    /// The layer at a place, from 0.
    fn layer(&self, at: usize) -> GateLayer<'a> {
        let layer = &self.contents.layers[at];
        GateLayer {
            blame: Blame::new(at, layer),
            digest: layer.blob.digest,
            diff_id: layer.diff_id,
            of_base: self.base_layers.map(|base| at < base),
        }
    }

    /// A violation in a layer, if it is in one.
    fn violation(&self, layer: Option<usize>, change: String) -> Violation<'a> {
        Violation {
            measured: None,
            layer: layer.map(|at| self.layer(at)),
            path: None,
            mode: None,
            evidence: None,
            fate: None,
            parts: Vec::new(),
            change,
        }
    }

    fn paths(&self, rule: &Rule, hits: &Hits) -> Vec<Violation<'a>> {
        let violation = |hit: &Hit| {
            let entry = self.contents.layers[hit.place.layer]
                .toc
                .at(hit.place.index);
            let content = self.timeline.content(hit.place).unwrap_or(hit.place);
            let mode = match rule.kind {
                Kind::Setuid | Kind::WorldWritable => Some(Mode(self.timeline.entry(content).mode)),
                _ => None,
            };
            let fate = self.fates.get(&hit.place);
            Violation {
                measured: (rule.kind == Kind::File).then(|| Measure::Bytes(own_bytes(entry))),
                path: Some(PathText::new(entry.path)),
                mode,
                evidence: hit.evidence,
                fate: fate.map(|(by, deleted)| Fate {
                    deleted: *deleted,
                    by: Blame::new(*by, &self.contents.layers[*by]),
                }),
                ..self.violation(
                    Some(hit.place.layer),
                    self.change_of_path(rule, hit.place, entry, mode),
                )
            }
        };
        hits.list.iter().map(violation).collect()
    }

    /// What to do about a path.
    fn change_of_path(
        &self,
        rule: &Rule,
        place: Place,
        entry: EntryRef<'_>,
        mode: Option<Mode>,
    ) -> String {
        let layer = &self.contents.layers[place.layer];
        let path = format!("/{}", super::super::escaped(entry.path));
        let copied = layer.made.as_ref().and_then(|m| m.source_of(entry.path));
        let context = copied.as_ref().and_then(|(from, origin)| match origin {
            CopyOrigin::Context | CopyOrigin::Named(_) => Some(super::super::escaped(from)),
            _ => None,
        });
        let of_base = self.base_layers.is_some_and(|base| place.layer < base);
        let excuse = format!("write {} except {path}", rule.kind.name());
        match rule.kind {
            Kind::File => match context {
                Some(from) => format!("add {from:?} to .dockerignore, or --exclude it in the COPY"),
                None if of_base => "take a base without it".to_owned(),
                None => "delete it in the instruction that makes it, or make it in a RUN --mount=type=cache or another stage".to_owned(),
            },
            Kind::SecretLike => {
                let keep = match context {
                    Some(from) => format!("add {from:?} to .dockerignore"),
                    None if of_base => "take a base without it".to_owned(),
                    None => "do not write it".to_owned(),
                };
                format!(
                    "{keep}; a RUN that needs it gets it with --mount=type=secret. Who had the image has it: replace it. If it is none, {excuse}"
                )
            }
            Kind::Setuid if of_base => format!("RUN chmod u-s,g-s {path}; if it has to be, {excuse}"),
            Kind::Setuid => {
                let mode = mode.map_or(0, |mode| mode.0 & 0o1777);
                match copied {
                    Some(_) => format!("COPY --chmod={mode:04o}; if it has to be, {excuse}"),
                    None => format!("chmod u-s,g-s {path} in the RUN that makes it; if it has to be, {excuse}"),
                }
            }
            Kind::Capability => format!("setcap -r {path} in the RUN that makes it; if it has to be, {excuse}"),
            _ => {
                let mode = mode.map_or(0, |mode| mode.0 & 0o7775);
                match copied {
                    Some(_) => format!("COPY --chmod={mode:04o}; if it has to be, {excuse}"),
                    None => format!("chmod o-w {path} in the RUN that makes it; if it has to be, {excuse}"),
                }
            }
        }
    }

    fn user(&self) -> Vec<Violation<'a>> {
        if !is_root(&self.contents.documents.config.config.user) {
            return Vec::new();
        }
        let change =
            "end the Dockerfile with USER and a user of the image, or a number as in USER 1000";
        vec![self.violation(None, change.to_owned())]
    }

    fn each_layer(&self, rule: &Rule) -> (Option<Measure>, Vec<Violation<'a>>, u64) {
        let (mut violations, mut largest, mut more) = (Vec::new(), 0, 0);
        for (at, row) in self.report.layers.iter().enumerate() {
            if !self.judges(rule, at) {
                continue;
            }
            largest = largest.max(row.unpacked_bytes);
            let measured = Measure::Bytes(row.unpacked_bytes);
            if !breaks(rule, measured) {
                continue;
            }
            if violations.len() == MAX_VIOLATIONS {
                more += 1;
                continue;
            }
            let change = match self.base_layers.is_some_and(|base| at < base) {
                true => "take a smaller base",
                false => {
                    "delete in the instruction what is not needed after it, or do it in another stage and COPY --from the result"
                }
            };
            violations.push(Violation {
                measured: Some(measured),
                ..self.violation(Some(at), change.to_owned())
            });
        }
        (Some(Measure::Bytes(largest)), violations, more)
    }

    fn layer_count(&self, rule: &Rule) -> (Option<Measure>, Vec<Violation<'a>>, u64) {
        let judged: Vec<usize> = (0..self.contents.layers.len())
            .filter(|at| self.judges(rule, *at))
            .collect();
        let measured = Measure::Count(judged.len() as u64);
        let mut violations = Vec::new();
        if breaks(rule, measured) {
            // The first one that is too many.
            let first = (1..=judged.len())
                .find(|count| breaks(rule, Measure::Count(*count as u64)))
                .and_then(|count| judged.get(count - 1));
            let change = "merge instructions that belong together, or do them in another stage and COPY --from the result";
            violations.push(Violation {
                measured: Some(measured),
                ..self.violation(first.copied(), change.to_owned())
            });
        }
        (Some(measured), violations, 0)
    }

    /// The rules on the image as a whole.
    fn sum(&self, rule: &Rule) -> (Option<Measure>, Vec<Violation<'a>>, u64) {
        let of = |row: &super::super::LayerRow<'_>| match rule.kind {
            Kind::Compressed => row.size_bytes,
            Kind::Size => row.unpacked_bytes,
            _ => row.wasted_bytes,
        };
        let rows = self.report.layers.iter().enumerate();
        let judged: Vec<_> = rows.filter(|(at, _)| self.judges(rule, *at)).collect();
        let bytes: u64 = judged.iter().map(|(_, row)| of(row)).sum();
        let whole: u64 = judged.iter().map(|(_, row)| row.unpacked_bytes).sum();
        let (measured, broken) = match (rule.kind, rule.bound.map(|bound| bound.limit)) {
            (Kind::Efficiency, _) => {
                let seen = whole - bytes;
                // Of nothing, all is seen.
                let (seen, whole) = if whole == 0 { (1, 1) } else { (seen, whole) };
                let share = ratio_millionths(seen, whole);
                (Measure::Millionths(share), breaks_share(rule, seen, whole))
            }
            (_, Some(Measure::Millionths(_))) => {
                let share = ratio_millionths(bytes, whole);
                (Measure::Millionths(share), breaks_share(rule, bytes, whole))
            }
            _ => (Measure::Bytes(bytes), breaks(rule, Measure::Bytes(bytes))),
        };
        if !broken {
            return (Some(measured), Vec::new(), 0);
        }
        let is_waste = matches!(rule.kind, Kind::Wasted | Kind::Efficiency);
        let mut parts = match is_waste {
            true => self.wasted_parts(rule),
            false => Vec::new(),
        };
        if parts.is_empty() {
            let mut layers: Vec<(usize, u64)> =
                judged.iter().map(|(at, row)| (*at, of(row))).collect();
            layers.retain(|(_, bytes)| *bytes > 0);
            layers.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            let part = |(at, bytes)| Part {
                bytes,
                layer: self.layer(at),
                path: None,
                change: None,
            };
            parts = layers.into_iter().take(MAX_PARTS).map(part).collect();
        }
        let change = match is_waste {
            true => match parts.first().and_then(|part| part.change.as_deref()) {
                Some(change) => change.to_owned(),
                None => "strata dedup names what would save it".to_owned(),
            },
            false => "take a smaller base, do in another stage what only makes things and COPY --from the result, or keep files out with .dockerignore".to_owned(),
        };
        let first = parts.first().map(|part| part.layer.blame.layer - 1);
        let violation = Violation {
            measured: Some(measured),
            parts,
            ..self.violation(first, change)
        };
        (Some(measured), vec![violation], 0)
    }

    /// What adds most to the waste, as `strata dedup` finds it.
    fn wasted_parts(&self, rule: &Rule) -> Vec<Part<'a>> {
        let waste = self.waste.get_or_init(|| waste(self.contents)).iter();
        waste
            .filter(|waste| self.judges(rule, waste.layer))
            .take(MAX_PARTS)
            .map(|waste| Part {
                bytes: waste.bytes,
                layer: self.layer(waste.layer),
                path: Some(waste.path.clone()),
                change: Some(waste.change.clone()),
            })
            .collect()
    }
}

/// What is overwritten, deleted or stored again, the most first.
fn waste(contents: &Contents) -> Vec<Waste> {
    let findings = Survey::of_image(contents).findings.into_iter();
    let hidden = findings.filter(|finding| {
        !matches!(
            finding.kind,
            FindingKind::Duplicate | FindingKind::AcrossImages
        )
    });
    hidden
        .filter_map(|finding| {
            Some(Waste {
                layer: finding.layers.first()?.layer.checked_sub(1)?,
                bytes: finding.wasted_bytes,
                // The root says nothing; the largest of its files does.
                path: match finding.path.is_empty() {
                    true => finding.examples.into_iter().next()?,
                    false => finding.path,
                },
                change: finding.change,
            })
        })
        .collect()
}

/// Whether a measure breaks a rule with a bound of its unit.
fn breaks(rule: &Rule, measured: Measure) -> bool {
    let Some(bound) = rule.bound else {
        return false;
    };
    match (measured, bound.limit) {
        (Measure::Bytes(value), Measure::Bytes(limit))
        | (Measure::Count(value), Measure::Count(limit)) => {
            bound.comparison.holds(value.into(), limit.into())
        }
        _ => false,
    }
}

/// A part of a whole in millionths, rounded down; 0 of nothing.
fn ratio_millionths(part: u64, whole: u64) -> u64 {
    let millionths = u128::from(part) * 1_000_000 / u128::from(whole.max(1));
    u64::try_from(millionths).unwrap_or(u64::MAX)
}

/// The same of a part of a whole, without rounding: part / whole ⋛ limit / 10⁶.
fn breaks_share(rule: &Rule, part: u64, whole: u64) -> bool {
    let Some(bound) = rule.bound else {
        return false;
    };
    let Measure::Millionths(limit) = bound.limit else {
        return false;
    };
    // A part of nothing is nothing.
    let whole = u128::from(whole.max(1));
    bound
        .comparison
        .holds(u128::from(part) * 1_000_000, u128::from(limit) * whole)
}

/// Whether a container runs as root, as far as the configuration tells: names that `/etc/passwd` gives the number 0 are not looked up.
fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default().trim();
    name.is_empty() || name == "root" || name.parse() == Ok(0u64)
}

/// How many of the layers of an image another one has, too, as its own: all of them, at the bottom. `None` if it is not its base.
pub fn layers_of_base(image: &Contents, base: &[DiffId]) -> Option<usize> {
    let own = image.layers.iter().map(|layer| layer.diff_id);
    let fits = base.len() <= image.layers.len() && own.zip(base).all(|(a, b)| a == *b);
    fits.then_some(base.len())
}
