//! Why a Dockerfile cannot be planned.

use crate::dockerfile::words::WordError;
use crate::dockerfile::{Diagnostic, Severity, Span, with_causes};
use crate::oci::{DigestError, PlatformError, ReferenceError};

use super::options::ResolveError;
use super::ports::PortError;

/// A situation in which there is no plan. Where a place in the Dockerfile is to blame, `span` is it; what comes from the
/// trigger of a base image is blamed on the `FROM`.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A word's variables cannot be expanded.
    #[error("failed to process {text:?}")]
    Word {
        /// The word as written.
        text: String,
        /// Where it stands.
        span: Span,
        /// Why not.
        #[source]
        source: WordError,
    },
    /// The base of a stage is nothing once expanded.
    #[error("base name ({word}) should not be blank")]
    BlankBase {
        /// The word as written.
        word: String,
        /// Where it stands.
        span: Span,
        /// A declared argument with a name like it.
        meant: Option<String>,
    },
    /// The base of a stage, or the source of a copy or mount, is no image reference.
    #[error("failed to parse stage name {name:?}")]
    Reference {
        /// The name, expanded.
        name: String,
        /// Where it stands.
        span: Span,
        /// Why not.
        #[source]
        source: Box<ReferenceError>,
        /// A stage with a name like it.
        meant: Option<String>,
    },
    /// `FROM --platform` is nothing once expanded.
    #[error("empty platform value from expression {word}")]
    BlankPlatform {
        /// The word as written.
        word: String,
        /// Where it stands.
        span: Span,
        /// A declared argument with a name like it.
        meant: Option<String>,
    },
    /// `FROM --platform` is no platform.
    #[error("failed to parse platform {word}")]
    Platform {
        /// The word as written.
        word: String,
        /// Where it stands.
        span: Span,
        /// Why not.
        #[source]
        source: PlatformError,
    },
    /// `--target` names no stage.
    #[error("target stage {target:?} could not be found{}", did_you_mean(.meant))]
    UnknownTarget {
        /// What was asked for.
        target: String,
        /// A stage with a name like it.
        meant: Option<String>,
        /// All stages: names, or numbers of those that have none.
        stages: Vec<String>,
    },
    /// A stage needs itself.
    #[error("circular dependency detected on stage: {stage}")]
    Circular {
        /// Its name, or `stage-N`.
        stage: String,
        /// The word that closes the circle.
        span: Span,
    },
    /// `COPY --from` names a stage that comes later.
    #[error(
        "cannot copy from stage {from:?}, it needs to be defined before current stage {stage:?}"
    )]
    CopyFromLater {
        /// What was asked for.
        from: String,
        /// The stage that asks.
        stage: String,
        /// Where.
        span: Span,
    },
    /// `RUN --mount=from=` names a stage that comes later.
    #[error(
        "cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current command"
    )]
    MountFromLater {
        /// What was asked for.
        from: String,
        /// The mount's target.
        target: String,
        /// Where.
        span: Span,
    },
    /// `--from=NUMBER` beyond the last stage.
    #[error("invalid stage index {index}")]
    StageIndex {
        /// The number.
        index: String,
        /// How many stages there are.
        count: usize,
        /// Where.
        span: Span,
    },
    /// A variable in `--from`.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    FromExpansion {
        /// Where.
        span: Span,
    },
    /// An image cannot be had.
    #[error("{name}")]
    Image {
        /// The image as the Dockerfile names it.
        name: String,
        /// Where.
        span: Span,
        /// Why not.
        #[source]
        source: Box<ResolveError>,
        /// A stage with a name like it.
        meant: Option<String>,
        /// All stages, if the name could be one's.
        stages: Vec<String>,
    },
    /// An `ONBUILD` trigger of the base is no instruction.
    #[error("failed to parse the ONBUILD trigger {trigger:?} of the base: {}", first(.diagnostics))]
    Trigger {
        /// Its text.
        trigger: String,
        /// The `FROM`.
        span: Span,
        /// What is wrong with it; the spans are in the trigger.
        diagnostics: Vec<Diagnostic>,
    },
    /// `EXPOSE` of what is no port.
    #[error("invalid EXPOSE {word:?}")]
    Port {
        /// The word, expanded.
        word: String,
        /// Where.
        span: Span,
        /// Why not.
        #[source]
        source: PortError,
    },
    /// `STOPSIGNAL` of what is no signal.
    #[error("invalid signal: {signal}")]
    Signal {
        /// The word, expanded.
        signal: String,
        /// Where.
        span: Span,
    },
    /// An empty word in `VOLUME`.
    #[error("VOLUME specified can not be an empty string")]
    BlankVolume {
        /// Where.
        span: Span,
    },
    /// `WORKDIR` is nothing once expanded.
    #[error("WORKDIR specified can not be an empty string")]
    BlankWorkdir {
        /// Where.
        span: Span,
    },
    /// `--chmod` of what is no mode.
    #[error(
        "invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777, or symbolic like u=rwX,go=rX"
    )]
    Chmod {
        /// The word, expanded.
        mode: String,
        /// Where.
        span: Span,
    },
    /// `--checksum` where none can be.
    #[error("{reason}")]
    ChecksumUse {
        /// Why none can be.
        reason: &'static str,
        /// Where.
        span: Span,
    },
    /// `--checksum` of what is no digest.
    #[error("invalid checksum {checksum:?} of {url}")]
    Checksum {
        /// The word, expanded.
        checksum: String,
        /// What is to be fetched.
        url: String,
        /// Where.
        span: Span,
        /// Why not.
        #[source]
        source: DigestError,
    },
    /// `COPY` of a URL.
    #[error("source can't be a {kind} for COPY: {url}")]
    CopyRemote {
        /// `URL` or `git ref`.
        kind: &'static str,
        /// Which.
        url: String,
        /// Where.
        span: Span,
    },
    /// The options of a mount are wrong once expanded.
    #[error("{message}")]
    Mount {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Where.
        span: Span,
    },
    /// A mount over the root, or without a target.
    #[error("invalid mount target {target:?}")]
    MountTarget {
        /// The target, expanded.
        target: String,
        /// Where.
        span: Span,
    },
    /// `mode=`, `uid=`, `gid=` or `size=` of what is no number of that kind.
    #[error("invalid value {value:?} for mount option {option}")]
    MountNumber {
        /// Which option.
        option: &'static str,
        /// Its value, expanded.
        value: String,
        /// Where.
        span: Span,
    },
    /// A secret mount that names no secret.
    #[error("a secret mount needs an id, source or target")]
    SecretWithoutId {
        /// Where.
        span: Span,
    },
    /// A script's here-document whose delimiter cannot be a file's name.
    #[error("the here-document {name:?} is a script: its delimiter must be a file name")]
    ScriptName {
        /// The delimiter.
        name: String,
        /// Where.
        span: Span,
    },
    /// A RUN wants what `--allow` has not granted.
    #[error("{entitlement} is not allowed")]
    Entitlement {
        /// `network.host` or `security.insecure`.
        entitlement: &'static str,
        /// Where.
        span: Span,
    },
}

/// ` (did you mean X?)`, or nothing.
pub(super) fn did_you_mean(meant: &Option<String>) -> String {
    meant
        .as_ref()
        .map_or_else(String::new, |m| format!(" (did you mean {m}?)"))
}

fn list(stages: &[String]) -> Option<String> {
    (!stages.is_empty()).then(|| format!("the stages are: {}", stages.join(", ")))
}

fn first(diagnostics: &[Diagnostic]) -> &str {
    diagnostics.first().map_or("", |d| d.message.as_str())
}

impl PlanError {
    /// The place in the Dockerfile to blame.
    pub fn span(&self) -> Option<Span> {
        use PlanError as E;
        match self {
            E::UnknownTarget { .. } => None,
            E::Word { span, .. }
            | E::BlankBase { span, .. }
            | E::Reference { span, .. }
            | E::BlankPlatform { span, .. }
            | E::Platform { span, .. }
            | E::Circular { span, .. }
            | E::CopyFromLater { span, .. }
            | E::MountFromLater { span, .. }
            | E::StageIndex { span, .. }
            | E::FromExpansion { span }
            | E::Image { span, .. }
            | E::Trigger { span, .. }
            | E::Port { span, .. }
            | E::Signal { span, .. }
            | E::BlankVolume { span }
            | E::BlankWorkdir { span }
            | E::Chmod { span, .. }
            | E::ChecksumUse { span, .. }
            | E::Checksum { span, .. }
            | E::CopyRemote { span, .. }
            | E::Mount { span, .. }
            | E::MountTarget { span, .. }
            | E::MountNumber { span, .. }
            | E::SecretWithoutId { span }
            | E::ScriptName { span, .. }
            | E::Entitlement { span, .. } => Some(*span),
        }
    }

    /// The error with its causes in one line, at its place; `None` where the Dockerfile is not to blame.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        Some(Diagnostic {
            severity: Severity::Error,
            rule: None,
            message: with_causes(self),
            span: self.span()?,
            hint: self.hint(),
        })
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            PlanError::Image {
                meant: None,
                stages,
                source,
                ..
            } => source.hint.clone().or_else(|| list(stages)),
            PlanError::UnknownTarget { stages, .. } => list(stages),
            PlanError::StageIndex { count, .. } => Some(match count {
                1 => "there is one stage, number 0".to_owned(),
                count => format!("the stages are numbered 0 to {}", count - 1),
            }),
            PlanError::CopyFromLater { from, .. } | PlanError::MountFromLater { from, .. } => {
                Some(format!("move the stage {from} up"))
            }
            PlanError::Reference {
                meant: None, name, ..
            } if name.chars().any(char::is_uppercase)
                && name.to_lowercase().parse::<crate::oci::Reference>().is_ok() =>
            {
                Some(format!("did you mean {}?", name.to_lowercase()))
            }
            PlanError::Reference { meant, .. }
            | PlanError::Image { meant, .. }
            | PlanError::BlankBase { meant, .. }
            | PlanError::BlankPlatform { meant, .. } => {
                meant.as_ref().map(|m| format!("did you mean {m}?"))
            }
            PlanError::Entitlement { entitlement, .. } => {
                Some(format!("allow it with --allow {entitlement}"))
            }
            PlanError::Mount { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}
