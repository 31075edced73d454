//! The whole plan: for each platform, the stages that the target needs, one after the other.

use std::sync::Arc;

use crate::dockerfile::{
    self, Diagnostic, Dockerfile, Instruction, Span, Statement, Word, WordError, lint,
};
use crate::oci::{ImageConfig, Platform};

use super::args;
use super::error::PlanError;
use super::graph::{Graph, HistoryStep, Output, VertexId};
use super::images::Images;
use super::names::Namer;
use super::options::{Options, Resolve, ResolvedImage};
use super::outline::described;
use super::scope::{Scope, Uses};
use super::stages::{self, Base, Files, Stages};
use super::weave::Weave;

/// Where programs are, unless the base or the Dockerfile says so.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Plans the build of `dockerfile`. Images are asked for by `resolve`: those of stages that the target needs, no other.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &Options,
    resolve: &dyn Resolve,
) -> Result<Graph, PlanError> {
    lower_noting(dockerfile, options, resolve, &mut Vec::new())
}

/// [`lower()`], where what the linter found until there is no plan is told all the same, in `found`.
pub fn lower_noting(
    dockerfile: &Dockerfile,
    options: &Options,
    resolve: &dyn Resolve,
    found: &mut Vec<Diagnostic>,
) -> Result<Graph, PlanError> {
    let mut weave = Weave::default();
    let planned = plan(dockerfile, options, resolve, &mut weave);
    let graph = weave.finish();
    match planned {
        Ok(()) => Ok(graph),
        Err(error) => {
            found.extend(graph.warnings);
            Err(error)
        }
    }
}

fn plan(
    dockerfile: &Dockerfile,
    options: &Options,
    resolve: &dyn Resolve,
    weave: &mut Weave,
) -> Result<(), PlanError> {
    let mut platforms = Vec::with_capacity(options.platforms.len().max(1));
    for platform in &options.platforms {
        if !platforms.contains(platform) {
            platforms.push(platform.clone());
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    let shows_platform =
        platforms.len() > 1 || args::is_set(&options.build_args, "BUILDKIT_MULTI_PLATFORM");
    let mut images = Images::new(resolve);
    for target in platforms {
        let last_stage = dockerfile.stages.last().and_then(|s| s.name.as_deref());
        let automatic = args::automatic(
            &Platform::host(),
            &target,
            options.target.as_deref().or(last_stage),
            &options.build_args,
        );
        let mut warn = |warning| weave.warn(warning);
        let defaults = args::with_globals(automatic.clone(), dockerfile, &Default::default());
        // A default that cannot be expanded may never be needed: whether it is, the real arguments decide.
        if let Ok(defaults) = defaults {
            stages::lint_defaults(dockerfile, &defaults, &mut warn);
        }
        let globals = args::with_globals(automatic, dockerfile, &options.build_args)?;
        let stages = Stages::new(dockerfile, options, &globals, &mut warn)?;
        let mut lowering = Lowering {
            dockerfile,
            escape: dockerfile.directives.escape,
            options,
            globals,
            done: vec![None; stages.all.len()],
            stages,
            target,
            shows_platform,
            images: &mut images,
            weave: &mut *weave,
        };
        let output = lowering.output()?;
        weave.graph().outputs.push(output);
    }
    weave.graph().outline.finish();
    Ok(())
}

/// What a stage has come to.
#[derive(Clone)]
pub(super) struct State {
    /// The layers so far.
    pub(super) vertex: Option<VertexId>,
    /// The configuration so far.
    pub(super) config: ImageConfig,
    /// Where its commands run.
    pub(super) platform: Platform,
    /// The variables in force.
    pub(super) scope: Scope,
    /// The history after the base image's.
    pub(super) history: Vec<HistoryStep>,
    /// Whether a WORKDIR was met, in this stage or one it stands on.
    pub(super) workdir_set: bool,
}

/// The stage being lowered.
pub(super) struct Current {
    /// What it has come to.
    pub(super) state: State,
    /// Its name, or `stage-N`.
    pub(super) label: String,
    /// Names its steps.
    pub(super) namer: Namer,
    /// The instruction being lowered.
    pub(super) here: Span,
    /// Where CMD was met in this very stage.
    pub(super) cmd: Option<Span>,
    /// Where ENTRYPOINT was.
    pub(super) entrypoint: Option<Span>,
    /// Where HEALTHCHECK was.
    pub(super) healthcheck: Option<Span>,
    /// Whether earlier results must not be used.
    pub(super) no_cache: bool,
    /// While triggers of the base run: the place of the `FROM` and its lines, which stand for theirs.
    pub(super) trigger: Option<(Span, std::ops::Range<u32>)>,
}

impl Current {
    /// The place to blame: the word's, or the `FROM` of a trigger.
    pub(super) fn span(&self, own: Span) -> Span {
        self.trigger.as_ref().map_or(own, |(span, _)| *span)
    }

    /// An error of a word: at its place in the word, where that place is in this file.
    pub(super) fn word_error(&self, word: &Word, source: WordError) -> PlanError {
        let own = source.at(word).span;
        PlanError::Word {
            text: word.text.clone(),
            span: self.span(own),
            source,
        }
    }

    /// The lines to show.
    pub(super) fn lines(&self, statement: &Statement) -> std::ops::Range<u32> {
        match &self.trigger {
            Some((_, lines)) => lines.clone(),
            None => statement.lines.clone(),
        }
    }

    /// Adds to the history.
    pub(super) fn record(&mut self, created_by: String, vertex: Option<VertexId>) {
        let span = self.here;
        self.state.history.push(HistoryStep {
            created_by,
            vertex,
            span,
        });
    }
}

/// The plan for one platform, being made.
pub(super) struct Lowering<'a, 'r> {
    /// The whole file.
    dockerfile: &'a Dockerfile,
    /// What escapes in words.
    pub(super) escape: char,
    /// The command line's choices.
    pub(super) options: &'a Options,
    /// The arguments before the first `FROM`, and the automatic ones.
    pub(super) globals: Scope,
    /// All stages.
    pub(super) stages: Stages<'a>,
    /// What the stages came to.
    pub(super) done: Vec<Option<State>>,
    /// The platform that is built for.
    pub(super) target: Platform,
    /// Whether names of steps say the platform.
    shows_platform: bool,
    /// The images asked for so far.
    pub(super) images: &'a mut Images<'r>,
    /// The graph.
    pub(super) weave: &'a mut Weave,
}

/// What a needed stage was found to start from.
#[derive(Default)]
struct Start {
    image: Option<Arc<ResolvedImage>>,
    triggers: Vec<Statement>,
}

impl Lowering<'_, '_> {
    fn output(&mut self) -> Result<Output, PlanError> {
        let target = self.stages.target()?;
        self.stages.check()?;
        self.prefetch(target);
        let starts = self.needed(target)?;
        self.outline_stages(target, &starts);
        for (index, start) in starts.iter().enumerate() {
            if let Some(start) = start {
                let state = self.stage(index, start)?;
                self.done[index] = Some(state);
            }
        }
        let state = self.done[target]
            .take()
            .expect("the target is needed, and what is needed was lowered above");
        let mut config = state.config;
        config.config.labels.extend(
            self.options
                .labels
                .iter()
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        config.created = None;
        if !self.options.platforms.is_empty() {
            set_platform(&mut config, &self.target);
        }
        let normal = config.platform();
        config.architecture = normal.architecture;
        config.variant = normal.variant;
        Ok(Output {
            platform: self.target.clone(),
            vertex: state.vertex,
            config,
            history: state.history,
        })
    }

    /// Notes the arguments before the first `FROM`, and who uses them.
    fn outline_stages(&mut self, target: usize, starts: &[Option<Start>]) {
        let outline = &mut self.weave.graph().outline;
        let stage = self.stages.all[target].stage;
        outline.name = stage.name.clone().unwrap_or_default();
        outline.description = described(&stage.from.comment, &outline.name);
        for statement in &self.dockerfile.global_args {
            if let Instruction::Arg(defs) = &statement.instruction {
                for def in defs {
                    let value = self.globals.get(&def.name.text);
                    outline.declare(statement, &def.name, value, def.name.span);
                }
            }
        }
        let needed = self.stages.all.iter().zip(starts);
        for (planned, _) in needed.filter(|(_, start)| start.is_some()) {
            planned.uses.iter().for_each(|name| outline.use_name(name));
        }
    }

    fn wants_all(&self) -> bool {
        self.options.all_stages && self.options.target.is_none()
    }

    /// Asks for the images that the target needs as far as the Dockerfile alone tells: waiting for one after the other
    /// would take as many round trips.
    fn prefetch(&mut self, target: usize) {
        let mut needed = vec![self.wants_all(); target + 1];
        needed[target] = true;
        let mut wanted = Vec::new();
        for index in (0..=target).rev() {
            if !needed[index] {
                continue;
            }
            let planned = &self.stages.all[index];
            match &planned.base {
                Base::Stage(base) => needed[*base] = true,
                base => wanted.extend(self.key(base).zip(Some(self.platform_of(index)))),
            }
            for from in planned.instructions().iter().flat_map(stages::origins) {
                match self.stages.files(from, from.span) {
                    Ok(Files::Stage(other)) if other < index => needed[other] = true,
                    Ok(Files::Elsewhere(base)) => {
                        wanted.extend(self.key(&base).zip(Some(self.target.clone())));
                    }
                    // Both are errors, told where the stage is lowered.
                    Ok(Files::Stage(_)) | Err(_) => {}
                }
            }
        }
        self.images.prefetch(wanted);
    }

    /// The stages that the target needs, each with what it starts from. Triggers of bases may need more stages, so an
    /// image is looked at before the stages below it are judged.
    fn needed(&mut self, target: usize) -> Result<Vec<Option<Start>>, PlanError> {
        let mut starts: Vec<Option<Start>> = Vec::new();
        starts.resize_with(target + 1, || None);
        if self.wants_all() {
            starts.iter_mut().for_each(|s| *s = Some(Start::default()));
        }
        starts[target] = Some(Start::default());
        for index in (0..=target).rev() {
            if starts[index].is_none() {
                continue;
            }
            let planned = &self.stages.all[index];
            let (stage, base) = (planned.stage, planned.base.clone());
            let mut start = Start::default();
            let mut texts = Vec::new();
            let mut needs = Vec::new();
            if let Base::Stage(base) = base {
                needs.push(base);
                texts.extend(self.stages.all[base].instructions().iter().filter_map(|s| {
                    match &s.instruction {
                        Instruction::Onbuild(word) => Some(word.text.clone()),
                        _ => None,
                    }
                }));
            } else {
                start.image = self.image(&base, &self.platform_of(index), stage.base.span)?;
                if let Some(image) = &start.image {
                    texts.clone_from(&image.config.config.on_build);
                }
            }
            let span = stage.from.span;
            for text in texts {
                let statement =
                    dockerfile::parse_trigger(&text, self.escape).map_err(|diagnostics| {
                        PlanError::Trigger {
                            trigger: text.clone(),
                            span,
                            diagnostics,
                        }
                    })?;
                for from in stages::origins(&statement) {
                    needs.extend(self.earlier(from, &statement, index, Some(span))?);
                }
                start.triggers.push(statement);
            }
            for statement in self.stages.all[index].instructions() {
                for from in stages::origins(statement) {
                    needs.extend(self.earlier(from, statement, index, None)?);
                }
            }
            for needed in needs {
                starts[needed].get_or_insert_default();
            }
            starts[index] = Some(start);
        }
        Ok(starts)
    }

    /// The stage that a `--from` or `from=` names, if it is one; it must come before stage `index`.
    fn earlier(
        &self,
        from: &Word,
        statement: &Statement,
        index: usize,
        blame: Option<Span>,
    ) -> Result<Option<usize>, PlanError> {
        let span = blame.unwrap_or(from.span);
        let other = match self.stages.files(from, span)? {
            Files::Stage(other) => other,
            Files::Elsewhere(_) => return Ok(None),
        };
        if other < index {
            return Ok(Some(other));
        }
        let stage = &self.stages.all[index];
        if other == index {
            return Err(PlanError::Circular {
                stage: stage.label(),
                span,
            });
        }
        let from = from.text.clone();
        Err(match &statement.instruction {
            Instruction::Run(run) => PlanError::MountFromLater {
                target: run
                    .mounts
                    .iter()
                    .find(|m| m.from.as_ref().is_some_and(|f| f.text == from))
                    .and_then(|m| m.target.as_ref())
                    .map_or_else(String::new, |t| t.text.clone()),
                from,
                span,
            },
            _ => PlanError::CopyFromLater {
                from,
                stage: stage.label(),
                span,
            },
        })
    }

    fn stage(&mut self, index: usize, start: &Start) -> Result<State, PlanError> {
        let planned = &self.stages.all[index];
        let (stage, base, label) = (planned.stage, planned.base.clone(), planned.label());
        let instructions = planned.instructions();
        let from_lines = stage.from.lines.clone();
        let is_step = |s: &&Statement| {
            matches!(
                s.instruction,
                Instruction::Run(_)
                    | Instruction::Copy(_)
                    | Instruction::Add(_)
                    | Instruction::Workdir(_)
            )
        };
        let has_base_step = matches!(base, Base::Image(_))
            && start.image.as_ref().is_some_and(|i| !i.layers.is_empty());
        let mut namer = Namer {
            platform: None,
            stage: match self.stages.is_single() {
                true => String::new(),
                false => label.clone(),
            },
            total: usize::from(has_base_step)
                + start.triggers.iter().filter(is_step).count()
                + instructions.iter().filter(is_step).count(),
            index: 0,
        };
        let wanted = self.platform_of(index);
        let shows_platform = self.shows_platform;
        let show = |platform: &Platform| shows_platform.then(|| platform.clone());
        namer.platform = show(&wanted);
        let state = self.start(index, start.image.as_ref(), &mut namer);
        namer.platform = show(&state.platform);
        let no_cache = self.options.no_cache
            || stage.name.as_ref().is_some_and(|name| {
                let mut filters = self.options.no_cache_filter.iter();
                filters.any(|f| f.eq_ignore_ascii_case(name))
            });
        let mut current = Current {
            state,
            label,
            namer,
            here: stage.from.span,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
            no_cache,
            trigger: None,
        };
        current.state.inherit();
        current.trigger = Some((stage.from.span, from_lines));
        for statement in &start.triggers {
            self.instruction(&mut current, statement)?;
        }
        current.trigger = None;
        for statement in instructions {
            self.instruction(&mut current, statement)?;
        }
        Ok(current.state)
    }

    /// Expands a word of the current stage; what is not defined is noted.
    pub(super) fn expand(&mut self, current: &Current, word: &Word) -> Result<String, PlanError> {
        let (text, uses) = current
            .state
            .scope
            .expand(&word.text, self.escape)
            .map_err(|source| current.word_error(word, source))?;
        self.lint_undefined(current, &uses, word.span);
        Ok(text)
    }

    /// [`Lowering::expand`] of a word that may not be there; one that comes to nothing counts as not there.
    pub(super) fn expand_optional(
        &mut self,
        current: &Current,
        word: Option<&Word>,
    ) -> Result<Option<String>, PlanError> {
        let text = word.map(|w| self.expand(current, w)).transpose()?;
        Ok(text.filter(|t| !t.is_empty()))
    }

    /// Notes which names are used, and warns of those that are neither set nor declared.
    pub(super) fn lint_undefined(&mut self, current: &Current, uses: &Uses, span: Span) {
        self.weave.graph().outline.uses(uses);
        let scope = &current.state.scope;
        for name in uses.missing.iter().filter(|n| !scope.is_declared(n)) {
            let meant = dockerfile::nearest(name, scope.names());
            self.weave
                .warn(lint::undefined_var(current.span(span), name, meant));
        }
    }
}

impl State {
    /// A stage without instructions.
    pub(super) fn new(config: ImageConfig, vertex: Option<VertexId>, platform: Platform) -> State {
        State {
            vertex,
            config,
            platform,
            scope: Scope::default(),
            history: Vec::new(),
            workdir_set: false,
        }
    }

    /// What every stage starts with: a PATH, the base's variables in force, its triggers taken.
    fn inherit(&mut self) {
        let config = &mut self.config.config;
        config.on_build.clear();
        if config.env_value("PATH").is_none() && self.platform.os != "windows" {
            config.set_env("PATH", DEFAULT_PATH);
        }
        for entry in &config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            self.scope.set(name, value);
        }
    }
}

/// The configuration says the platform that was asked for, whatever the base says. A variant stays unless contradicted.
fn set_platform(config: &mut ImageConfig, platform: &Platform) {
    let same = config.os == platform.os && config.architecture == platform.architecture;
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    if platform.variant.is_some() || !same {
        config.variant.clone_from(&platform.variant);
    }
    if platform.os_version.is_some() || !same {
        config.os_version.clone_from(&platform.os_version);
    }
    if !platform.os_features.is_empty() {
        config.os_features.clone_from(&platform.os_features);
    }
}
