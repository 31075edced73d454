//! The rules of `build --check`, by BuildKit's names and in its words.
//!
//! [`check()`] finds what the text alone shows, in every stage. Rules that need the values of variables, base images or the
//! context, and those that count only in stages that are built, have their messages here: the planner knows, and calls
//! [`undefined_var`] and its like. [`apply`] then drops what the Dockerfile says to skip; every finding must go through it, so
//! nothing else looks at [`Config`].

mod check;
mod config;

pub use check::{check, is_secret_name};
pub use config::{Config, ConfigError, apply, config, speaks, violation};

use super::ast::Span;
use super::diagnostic::Diagnostic;

/// A rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// BuildKit's name.
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// Whether it is silent unless asked for.
    pub experimental: bool,
}

/// All of them.
pub const RULES: [Rule; 22] = [
    rule("StageNameCasing", "Stage names should be lowercase"),
    rule(
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    rule(
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
    ),
    rule(
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    rule("DuplicateStageName", "Stage names should be unique"),
    rule(
        "ReservedStageName",
        "Reserved words should not be used as stage names",
    ),
    rule(
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    rule(
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    rule("UndefinedArgInFrom", "FROM command must use declared ARGs"),
    rule(
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the \
         base image changes",
    ),
    rule(
        "UndefinedVar",
        "Variables should be defined before their use",
    ),
    rule(
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    rule(
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    rule(
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
    ),
    rule(
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
    ),
    rule(
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    rule(
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    rule(
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a \
         future release",
    ),
    Rule {
        name: "InvalidDefinitionDescription",
        description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. \
                      If this is not intended to be a description comment, add an empty line or comment between the \
                      instruction and the comment.",
        experimental: true,
    },
];

const fn rule(name: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        description,
        experimental: false,
    }
}

impl Rule {
    /// The rule of that name.
    pub fn named(name: &str) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.name == name)
    }

    /// The page that explains it; one rule has none.
    pub fn url(&self) -> Option<String> {
        if self.name == "InvalidBaseImagePlatform" {
            return None;
        }
        Some(format!(
            "https://docs.docker.com/go/dockerfile/rule/{}/",
            kebab(self.name)
        ))
    }
}

/// `JSONArgsRecommended` as `json-args-recommended`.
fn kebab(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 8);
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && letters[at - 1].is_lowercase();
        let before_lower = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && at > 0 && (after_lower || before_lower) {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// A stage's name has capitals.
pub fn stage_name_casing(span: Span, name: &str) -> Diagnostic {
    Diagnostic::warning(
        "StageNameCasing",
        span,
        format!("Stage name '{name}' should be lowercase"),
    )
}

/// `FROM` and `as` differ in case.
pub fn from_as_casing(span: Span, from: &str, as_keyword: &str) -> Diagnostic {
    Diagnostic::warning(
        "FromAsCasing",
        span,
        format!("'{as_keyword}' and '{from}' keywords' casing do not match"),
    )
}

/// An empty line inside a continuation.
pub fn no_empty_continuation(span: Span) -> Diagnostic {
    Diagnostic::warning("NoEmptyContinuation", span, "Empty continuation line")
}

/// An instruction's name is not in the case of most; `casing` is `lowercase` or `uppercase`.
pub fn consistent_instruction_casing(span: Span, keyword: &str, casing: &str) -> Diagnostic {
    Diagnostic::warning(
        "ConsistentInstructionCasing",
        span,
        format!("Command '{keyword}' should match the case of the command majority ({casing})"),
    )
}

/// Two stages have one name.
pub fn duplicate_stage_name(span: Span, name: &str) -> Diagnostic {
    Diagnostic::warning(
        "DuplicateStageName",
        span,
        format!("Duplicate stage name {name:?}, stage names should be unique"),
    )
}

/// A stage's name means something else.
pub fn reserved_stage_name(span: Span, name: &str) -> Diagnostic {
    Diagnostic::warning(
        "ReservedStageName",
        span,
        format!("Stage name should not use the same name as reserved stage {name:?}"),
    )
}

/// `CMD` or `ENTRYPOINT` in shell form.
pub fn json_args_recommended(span: Span, instruction: &str) -> Diagnostic {
    Diagnostic::warning(
        "JSONArgsRecommended",
        span,
        format!(
            "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
        ),
    )
}

/// `MAINTAINER`
pub fn maintainer_deprecated(span: Span) -> Diagnostic {
    Diagnostic::warning(
        "MaintainerDeprecated",
        span,
        "Maintainer instruction is deprecated in favor of using label",
    )
    .with_hint("LABEL org.opencontainers.image.authors=\"…\"")
}

/// `FROM` uses an argument that no `ARG` before it declares.
pub fn undefined_arg_in_from(span: Span, name: &str, suggestion: Option<&str>) -> Diagnostic {
    let mut message = format!("FROM argument '{name}' is not declared");
    if let Some(suggestion) = suggestion {
        message.push_str(&format!(" (did you mean {suggestion}?)"));
    }
    Diagnostic::warning("UndefinedArgInFrom", span, message)
}

/// `WORKDIR` is relative to whatever the base image has.
pub fn workdir_relative_path(span: Span, path: &str) -> Diagnostic {
    Diagnostic::warning(
        "WorkdirRelativePath",
        span,
        format!("Relative workdir {path:?} can have unexpected results if the base image changes"),
    )
}

/// A variable is used that nothing defines.
pub fn undefined_var(span: Span, name: &str, suggestion: Option<&str>) -> Diagnostic {
    let mut message = format!("Usage of undefined variable '${name}'");
    if let Some(suggestion) = suggestion {
        message.push_str(&format!(" (did you mean ${suggestion}?)"));
    }
    Diagnostic::warning("UndefinedVar", span, message)
}

/// An instruction is made useless by a later one.
pub fn multiple_instructions_disallowed(span: Span, instruction: &str) -> Diagnostic {
    Diagnostic::warning(
        "MultipleInstructionsDisallowed",
        span,
        format!(
            "Multiple {instruction} instructions should not be used in the same stage because only the last one will \
             be used"
        ),
    )
}

/// `ENV KEY VALUE` or `LABEL KEY VALUE`
pub fn legacy_key_value_format(span: Span, instruction: &str) -> Diagnostic {
    Diagnostic::warning(
        "LegacyKeyValueFormat",
        span,
        format!(
            "\"{instruction} key=value\" should be used instead of legacy \"{instruction} key value\" format"
        ),
    )
}

/// A base image is not for the platform that was asked for.
pub fn invalid_base_image_platform(
    span: Span,
    image: &str,
    expected: &str,
    actual: &str,
) -> Diagnostic {
    Diagnostic::warning(
        "InvalidBaseImagePlatform",
        span,
        format!(
            "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
        ),
    )
}

/// `--platform` asks for what is the default; `variable` with its dollar sign.
pub fn redundant_target_platform(span: Span, variable: &str) -> Diagnostic {
    Diagnostic::warning(
        "RedundantTargetPlatform",
        span,
        format!(
            "Setting platform to predefined {variable} in FROM is redundant as this is the default behavior"
        ),
    )
}

/// A variable's name sounds like a secret's.
pub fn secrets_used_in_arg_or_env(span: Span, instruction: &str, name: &str) -> Diagnostic {
    Diagnostic::warning(
        "SecretsUsedInArgOrEnv",
        span,
        format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"),
    )
    .with_hint("RUN --mount=type=secret,id=…,env=…")
}

/// Without `--build-arg` the base image's name is none.
pub fn invalid_default_arg_in_from(span: Span, base: &str) -> Diagnostic {
    Diagnostic::warning(
        "InvalidDefaultArgInFrom",
        span,
        format!("Default value for ARG {base} results in empty or invalid base image name"),
    )
}

/// `--platform` is fixed.
pub fn from_platform_flag_const_disallowed(span: Span, platform: &str) -> Diagnostic {
    Diagnostic::warning(
        "FromPlatformFlagConstDisallowed",
        span,
        format!("FROM --platform flag should not use constant value {platform:?}"),
    )
}

/// A source that the ignore file leaves out; `instruction` is `Copy` or `Add`.
pub fn copy_ignored_file(span: Span, instruction: &str, file: &str) -> Diagnostic {
    Diagnostic::warning(
        "CopyIgnoredFile",
        span,
        format!("Attempting to {instruction} file {file:?} that is excluded by .dockerignore"),
    )
}

/// A port's protocol has capitals.
pub fn expose_proto_casing(span: Span, port: &str) -> Diagnostic {
    Diagnostic::warning(
        "ExposeProtoCasing",
        span,
        format!("Defined port '{port}' in EXPOSE instruction should be in lowercase"),
    )
}

/// A port has an address or a host's port before it.
pub fn expose_invalid_format(span: Span, port: &str) -> Diagnostic {
    Diagnostic::warning(
        "ExposeInvalidFormat",
        span,
        format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        ),
    )
}

/// The comment above a stage or an argument does not begin with its name.
pub fn invalid_definition_description(span: Span, instruction: &str, name: &str) -> Diagnostic {
    Diagnostic::warning(
        "InvalidDefinitionDescription",
        span,
        format!("Comment for {instruction} should follow the format: `# {name} <description>`"),
    )
}
