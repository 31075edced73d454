//! Which stage stands on which, what each copies from, and which the target needs.

use std::collections::BTreeMap;

use crate::dockerfile::ast::MountKind;
use crate::dockerfile::{Diagnostic, Dockerfile, Instruction, Span, Stage, Statement, Word};
use crate::dockerfile::{lint, nearest};
use crate::oci::{Platform, Reference};

use super::error::PlanError;
use super::options::{NamedContext, Options};
use super::scope::Scope;

/// What a stage starts from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// What `--build-context` gives, by its name there.
    Context(String),
    /// An image: the reference as expanded.
    Image(String),
}

/// Whose files a copy or a mount takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Files {
    /// Those of a stage.
    Stage(usize),
    /// Those of what [`Base`] would be, but a stage.
    Elsewhere(Base),
}

/// A stage with its `FROM` understood.
#[derive(Debug)]
pub(super) struct PlannedStage<'a> {
    /// As parsed.
    pub(super) stage: &'a Stage,
    /// What it starts from.
    pub(super) base: Base,
    /// `--platform`.
    pub(super) platform: Option<Platform>,
    /// Whether `--build-context` puts something else in its place: then its instructions do not count.
    pub(super) replaced: bool,
    /// The arguments that its `FROM` uses.
    pub(super) uses: Vec<String>,
}

impl<'a> PlannedStage<'a> {
    /// Its name, or `stage-N`.
    pub(super) fn label(&self) -> String {
        match &self.stage.name {
            Some(name) => name.clone(),
            None => format!("stage-{}", self.stage.index),
        }
    }

    /// The instructions that count.
    pub(super) fn instructions(&self) -> &'a [Statement] {
        if self.replaced {
            &[]
        } else {
            &self.stage.instructions
        }
    }
}

/// All stages, for one platform.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    /// In order.
    pub(super) all: Vec<PlannedStage<'a>>,
    options: &'a Options,
}

impl<'a> Stages<'a> {
    /// Understands every `FROM`.
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a Options,
        globals: &Scope,
        warn: &mut dyn FnMut(Diagnostic),
    ) -> Result<Stages<'a>, PlanError> {
        let mut stages = Stages {
            all: Vec::with_capacity(dockerfile.stages.len()),
            options,
        };
        for stage in &dockerfile.stages {
            let planned = stages.plan(stage, dockerfile.directives.escape, globals, warn)?;
            stages.all.push(planned);
        }
        Ok(stages)
    }

    fn plan(
        &self,
        stage: &'a Stage,
        escape: char,
        globals: &Scope,
        warn: &mut dyn FnMut(Diagnostic),
    ) -> Result<PlannedStage<'a>, PlanError> {
        let mut expand = |word: &Word| -> Result<(String, super::scope::Uses), PlanError> {
            let (text, uses) =
                globals
                    .expand(&word.text, escape)
                    .map_err(|source| PlanError::Word {
                        text: word.text.clone(),
                        span: source.at(word).span,
                        source,
                    })?;
            for name in uses.missing.iter().filter(|n| !globals.is_declared(n)) {
                let meant = nearest(name, globals.names());
                warn(lint::undefined_arg_in_from(word.span, name, meant));
            }
            Ok((text, uses))
        };
        let meant = |uses: &super::scope::Uses| {
            uses.missing
                .iter()
                .find_map(|name| nearest(name, globals.names().chain(globals.declared())))
                .map(str::to_owned)
        };
        let word = &stage.base;
        let (name, uses) = expand(word)?;
        let mut used = uses.found.clone();
        if name.is_empty() {
            return Err(PlanError::BlankBase {
                word: word.text.clone(),
                span: word.span,
                meant: meant(&uses),
            });
        }
        let mut platform = None;
        if let Some(word) = &stage.platform {
            let (text, uses) = expand(word)?;
            if text.is_empty() {
                return Err(PlanError::BlankPlatform {
                    word: word.text.clone(),
                    span: word.span,
                    meant: meant(&uses),
                });
            }
            let parsed: Platform = text.parse().map_err(|source| PlanError::Platform {
                word: word.text.clone(),
                span: word.span,
                source,
            })?;
            used.extend(uses.found.iter().cloned());
            lint_platform(stage, word, &text, &parsed, &uses, warn);
            platform = Some(parsed);
        }
        let override_of = stage.name.as_deref().and_then(|n| self.context(n));
        let (base, replaced) = match override_of {
            Some((key, _)) => (Base::Context(key.to_owned()), true),
            None => match self.by_name(&name) {
                Some(index) => (Base::Stage(index), false),
                None => (self.outside(&name), false),
            },
        };
        Ok(PlannedStage {
            stage,
            base,
            platform,
            replaced,
            uses: used,
        })
    }

    /// The last of the stages so far with that name.
    fn by_name(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.all
            .iter()
            .rposition(|s| s.stage.name.as_deref() == Some(name.as_str()))
    }

    /// What a name means that is no stage's.
    fn outside(&self, name: &str) -> Base {
        if name == "scratch" {
            return Base::Scratch;
        }
        match self.context(name) {
            Some((key, _)) => Base::Context(key.to_owned()),
            None => Base::Image(name.to_owned()),
        }
    }

    /// The named context of that name, however the reference is spelled: `docker.io/library/alpine:latest` is `alpine`.
    pub(super) fn context(&self, name: &str) -> Option<(&'a str, &'a NamedContext)> {
        let contexts: &'a BTreeMap<String, NamedContext> = &self.options.contexts;
        if contexts.is_empty()
            || name.eq_ignore_ascii_case("scratch")
            || name.eq_ignore_ascii_case("context")
        {
            return None;
        }
        let lower = name.to_lowercase();
        let familiar = |text: &str| {
            let reference: Reference = text.parse().ok()?;
            let familiar = reference.familiar();
            Some(
                familiar
                    .strip_suffix(":latest")
                    .unwrap_or(&familiar)
                    .to_owned(),
            )
        };
        let entry = contexts.get_key_value(&lower).or_else(|| {
            let wanted = familiar(&lower)?;
            contexts
                .iter()
                .find(|(key, _)| familiar(key).as_ref() == Some(&wanted))
        })?;
        Some((entry.0.as_str(), entry.1))
    }

    /// Whose files `--from` or `from=` names, for an instruction of any stage.
    pub(super) fn files(&self, from: &Word, span: Span) -> Result<Files, PlanError> {
        let text = &from.text;
        if text.contains('$') {
            return Err(PlanError::FromExpansion { span });
        }
        let index = if text.bytes().all(|c| c.is_ascii_digit()) && !text.is_empty() {
            match text.parse::<usize>() {
                Ok(index) if index < self.all.len() => Some(index),
                _ => {
                    return Err(PlanError::StageIndex {
                        index: text.clone(),
                        count: self.all.len(),
                        span,
                    });
                }
            }
        } else {
            self.by_name(text)
        };
        Ok(match index {
            // What replaces a stage is not a root filesystem to go through, but the folder itself.
            Some(index) if self.all[index].replaced => {
                Files::Elsewhere(self.all[index].base.clone())
            }
            Some(index) => Files::Stage(index),
            None => Files::Elsewhere(self.outside(text)),
        })
    }

    /// The stage that `--target` names, else the last.
    pub(super) fn target(&self) -> Result<usize, PlanError> {
        let Some(target) = &self.options.target else {
            return Ok(self.all.len().saturating_sub(1));
        };
        let by_number = || target.parse::<usize>().ok().filter(|n| *n < self.all.len());
        self.by_name(target).or_else(by_number).ok_or_else(|| {
            let labels: Vec<String> = self.all.iter().map(PlannedStage::label).collect();
            PlanError::UnknownTarget {
                target: target.clone(),
                stages: self.names(),
                meant: nearest(target, labels.iter().map(String::as_str)).map(str::to_owned),
            }
        })
    }

    /// Whether a stage has a name.
    pub(super) fn any_named(&self) -> bool {
        self.all.iter().any(|s| s.stage.name.is_some())
    }

    /// The stages as `--target` and `--from` name them: by their names, those without one by their numbers.
    pub(super) fn names(&self) -> Vec<String> {
        let name = |s: &PlannedStage<'_>| match &s.stage.name {
            Some(name) => name.clone(),
            None => s.stage.index.to_string(),
        };
        self.all.iter().map(name).collect()
    }

    /// The name nearest to one that is no stage and no image.
    pub(super) fn meant(&self, name: &str) -> Option<String> {
        let names = self.all.iter().filter_map(|s| s.stage.name.as_deref());
        nearest(name, names).map(str::to_owned)
    }

    /// Whether messages can do without stage names: there is one stage, and nothing is taken from elsewhere.
    pub(super) fn is_single(&self) -> bool {
        let takes = |statement: &Statement| {
            let caches = match &statement.instruction {
                Instruction::Run(run) => run.mounts.iter().any(|m| m.kind == MountKind::Cache),
                _ => false,
            };
            caches || !origins(statement).is_empty()
        };
        self.all.len() == 1 && !self.all[0].instructions().iter().any(takes)
    }

    /// Refuses stages that need themselves, whether the target needs them or not, and sources that cannot be named.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        let mut needs: Vec<Vec<(usize, Span)>> = Vec::with_capacity(self.all.len());
        for planned in &self.all {
            let mut edges = Vec::new();
            if let Base::Stage(base) = planned.base {
                edges.push((base, planned.stage.base.span));
            }
            for statement in planned.instructions() {
                for from in origins(statement) {
                    if let Files::Stage(index) = self.files(from, from.span)? {
                        edges.push((index, from.span));
                    }
                }
            }
            needs.push(edges);
        }
        match circle(&needs) {
            Some((stage, span)) => Err(PlanError::Circular {
                stage: self.all[stage].label(),
                span,
            }),
            None => Ok(()),
        }
    }
}

/// A stage that needs itself, and the word that closes the circle. Depth first, without recursion: a file may have any
/// number of stages.
fn circle(needs: &[Vec<(usize, Span)>]) -> Option<(usize, Span)> {
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        Not,
        Under,
        Done,
    }
    let mut visits = vec![Visit::Not; needs.len()];
    for start in 0..needs.len() {
        if visits[start] != Visit::Not {
            continue;
        }
        visits[start] = Visit::Under;
        let mut path = vec![(start, 0)];
        while let Some((stage, next)) = path.last_mut() {
            match needs[*stage].get(*next) {
                None => {
                    visits[*stage] = Visit::Done;
                    path.pop();
                }
                Some((needed, span)) => {
                    *next += 1;
                    match visits[*needed] {
                        Visit::Under => return Some((*needed, *span)),
                        Visit::Done => {}
                        Visit::Not => {
                            visits[*needed] = Visit::Under;
                            path.push((*needed, 0));
                        }
                    }
                }
            }
        }
    }
    None
}

/// The `--from` and `from=` words of an instruction.
pub(super) fn origins(statement: &Statement) -> Vec<&Word> {
    match &statement.instruction {
        Instruction::Copy(copy) => copy.from.iter().collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter(|m| matches!(m.kind, MountKind::Bind | MountKind::Cache))
            .filter_map(|m| m.from.as_ref())
            .collect(),
        _ => Vec::new(),
    }
}

fn lint_platform(
    stage: &Stage,
    word: &Word,
    text: &str,
    parsed: &Platform,
    uses: &super::scope::Uses,
    warn: &mut dyn FnMut(Diagnostic),
) {
    // The value of TARGETPLATFORM is a normalised platform: only then is it that one and nothing around it.
    if uses.found == ["TARGETPLATFORM"] && uses.missing.is_empty() && text == parsed.to_string() {
        warn(lint::redundant_target_platform(word.span, &word.text));
    }
    let name = stage.name.as_deref().unwrap_or_default();
    let said_by_name = name.contains(&parsed.os) || name.contains(&parsed.architecture);
    if uses.found.is_empty() && uses.missing.is_empty() && !said_by_name {
        warn(lint::from_platform_flag_const_disallowed(word.span, text));
    }
}

/// Warns of bases that are no references when no `--build-arg` is given.
pub(super) fn lint_defaults(
    dockerfile: &Dockerfile,
    defaults: &Scope,
    warn: &mut dyn FnMut(Diagnostic),
) {
    for stage in &dockerfile.stages {
        let escape = dockerfile.directives.escape;
        // What cannot be expanded is an error elsewhere.
        let Ok((name, _)) = defaults.expand(&stage.base.text, escape) else {
            return;
        };
        if name.to_lowercase().parse::<Reference>().is_err() {
            warn(lint::invalid_default_arg_in_from(
                stage.base.span,
                &stage.base.text,
            ));
        }
    }
}
