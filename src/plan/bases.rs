//! What stages start from, and whose files are copied or mounted: images, stages and named contexts.

use std::sync::Arc;

use crate::dockerfile::{Span, Word, lint};
use crate::oci::{ImageConfig, Platform, Reference};

use super::error::PlanError;
use super::graph::{CopyOp, CopySource, HistoryStep, Op, Origin, Spans, Vertex, VertexId};
use super::images::ImageKey;
use super::lower::{Current, DEFAULT_PATH, Lowering, State};
use super::names::Namer;
use super::options::ResolvedImage;
use super::stages::{Base, Files};

/// Where a base image is named, for its vertex.
struct Place<'p> {
    stage: &'p str,
    /// The named context that it is.
    context: Option<&'p str>,
    lines: std::ops::Range<u32>,
    span: Span,
    platform: &'p Platform,
}

impl Lowering<'_, '_> {
    /// The platform that a stage is for.
    pub(super) fn platform_of(&self, index: usize) -> Platform {
        let own = self.stages.all[index].platform.as_ref();
        own.unwrap_or(&self.target).clone()
    }

    /// The image that a base is, if it is one that can be named.
    pub(super) fn key(&self, base: &Base) -> Option<ImageKey> {
        match base {
            Base::Scratch | Base::Stage(_) => None,
            Base::Context(name) => ImageKey::of_context(&self.options.contexts[name]),
            Base::Image(name) => name.parse().ok().map(ImageKey::Reference),
        }
    }

    /// The image that a base is; none for scratch, stages and contexts of files.
    pub(super) fn image(
        &mut self,
        base: &Base,
        platform: &Platform,
        span: Span,
    ) -> Result<Option<Arc<ResolvedImage>>, PlanError> {
        if let Base::Image(name) = base
            && let Err(source) = name.parse::<Reference>()
        {
            return Err(PlanError::Reference {
                name: name.clone(),
                span,
                source: Box::new(source),
                meant: self.stages.meant(name),
            });
        }
        let Some(key) = self.key(base) else {
            return Ok(None);
        };
        match self.images.get(&key, platform) {
            Ok(image) => Ok(Some(image)),
            Err(source) => {
                let name = match base {
                    Base::Image(name) | Base::Context(name) => name.clone(),
                    Base::Scratch | Base::Stage(_) => String::new(),
                };
                // A name with a host, a tag or a digest is none of a stage.
                let like_a_stage = !name.contains(['/', ':', '@', '.']);
                Err(PlanError::Image {
                    meant: self.stages.meant(&name),
                    stages: match like_a_stage && self.stages.any_named() {
                        true => self.stages.names(),
                        false => Vec::new(),
                    },
                    name,
                    span,
                    source: Box::new(source),
                })
            }
        }
    }

    /// The layers of an image as a vertex; none if it has none.
    fn image_vertex(
        &mut self,
        image: &Arc<ResolvedImage>,
        place: Place<'_>,
        name: impl FnOnce(&str) -> String,
    ) -> Option<VertexId> {
        if image.layers.is_empty() {
            return None;
        }
        let pinned = match image.name.contains('@') {
            true => image.name.clone(),
            false => format!("{}@{}", image.name, image.manifest.digest),
        };
        let name = match place.context {
            Some(context) => format!("[context {context}] {pinned}"),
            None => name(&format!("FROM {pinned}")),
        };
        Some(self.weave.add(Vertex {
            op: Op::Image(image.clone()),
            base: None,
            name,
            stage: place.stage.to_owned(),
            lines: place.lines,
            spans: Spans {
                instruction: place.span,
                ..Spans::default()
            },
            created_by: String::new(),
            platform: place.platform.clone(),
            no_cache: false,
            arguments: Vec::new(),
        }))
    }

    /// Whose files a `--from` or `from=` names, as vertices.
    pub(super) fn origin(
        &mut self,
        current: &Current,
        from: &Word,
        lines: std::ops::Range<u32>,
    ) -> Result<Origin, PlanError> {
        let span = current.span(from.span);
        let base = match self.stages.files(from, span)? {
            Files::Stage(index) => {
                let state = self.done[index]
                    .as_ref()
                    .expect("stages that are needed come before who needs them, and were lowered");
                return Ok(Origin::Vertex(state.vertex));
            }
            Files::Elsewhere(base) => base,
        };
        let platform = self.target.clone();
        let context = match &base {
            Base::Context(name) => Some(name.as_str()),
            _ => None,
        };
        match (self.image(&base, &platform, span)?, context) {
            (Some(image), context) => {
                let place = Place {
                    stage: &current.label,
                    context,
                    lines,
                    span,
                    platform: &platform,
                };
                let vertex = self.image_vertex(&image, place, str::to_owned);
                Ok(Origin::Vertex(vertex))
            }
            (None, Some(name)) => Ok(Origin::Named(name.to_owned())),
            (None, None) => Ok(Origin::Vertex(None)),
        }
    }

    /// What a stage has come to before its first instruction; `image` is its base, if that is one.
    pub(super) fn start(
        &mut self,
        index: usize,
        image: Option<&Arc<ResolvedImage>>,
        namer: &mut Namer,
    ) -> State {
        let planned = &self.stages.all[index];
        let (stage, base, label) = (planned.stage, planned.base.clone(), planned.label());
        let from_lines = stage.from.lines.clone();
        let wanted = self.platform_of(index);
        match (&base, image) {
            (Base::Stage(base), _) => {
                let below = self.done[*base]
                    .as_ref()
                    .expect("a stage's base comes before it and was lowered");
                let mut state = below.clone();
                state.config.config.on_build.clear();
                state
            }
            (_, Some(image)) => {
                let config = image.config.clone();
                self.lint_base_platform(&stage.base, &wanted, &config);
                let place = Place {
                    stage: &label,
                    context: match &base {
                        Base::Context(name) => Some(name),
                        _ => None,
                    },
                    lines: from_lines.clone(),
                    span: stage.base.span,
                    platform: &wanted,
                };
                let vertex = self.image_vertex(image, place, |text| namer.base(text));
                State::new(config, vertex, wanted)
            }
            (Base::Context(name), None) => {
                let mut state = State::new(scratch(&wanted), None, wanted);
                // The folder's files are the first layer.
                let created_by = format!("FROM {name}");
                let vertex = self.weave.add(Vertex {
                    op: Op::Copy(whole_context(name)),
                    base: None,
                    name: format!("[context {name}] {created_by}"),
                    stage: label.clone(),
                    lines: from_lines.clone(),
                    spans: Spans {
                        instruction: stage.base.span,
                        ..Spans::default()
                    },
                    created_by: created_by.clone(),
                    platform: state.platform.clone(),
                    no_cache: false,
                    arguments: Vec::new(),
                });
                state.vertex = Some(vertex);
                state.history.push(HistoryStep {
                    created_by,
                    vertex: state.vertex,
                    span: stage.from.span,
                });
                state
            }
            // `--platform` says nothing about nothing.
            _ => State::new(scratch(&self.target), None, self.target.clone()),
        }
    }

    fn lint_base_platform(&mut self, base: &Word, wanted: &Platform, config: &ImageConfig) {
        let got = config.platform();
        if got.os != wanted.os || got.architecture != wanted.architecture {
            self.weave.warn(lint::invalid_base_image_platform(
                base.span,
                &base.text,
                &wanted.to_string(),
                &got.to_string(),
            ));
        }
    }
}

/// The configuration of nothing.
fn scratch(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig::scratch(platform);
    config.config.set_env("PATH", DEFAULT_PATH);
    "/".clone_into(&mut config.config.working_dir);
    config
}

/// All files of a named context.
fn whole_context(name: &str) -> CopyOp {
    CopyOp {
        add: false,
        origin: Origin::Named(name.to_owned()),
        sources: vec![CopySource::Path("/".to_owned())],
        destination: "/".to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        excludes: Vec::new(),
        unpack: None,
    }
}
