//! Which rules speak, and how loudly: `# check=skip=A,B;error=true;experimental=C`.

use std::collections::BTreeSet;

use super::super::ast::{Dockerfile, Span};
use super::super::diagnostic::{Diagnostic, Severity};
use super::super::footgun::Footgun;
use super::Rule;

/// What a `check` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Rules that are silent.
    pub skip: BTreeSet<String>,
    /// All are.
    pub skip_all: bool,
    /// Findings end the build.
    pub error: bool,
    /// Experimental rules that speak.
    pub experimental: BTreeSet<String>,
    /// All do.
    pub experimental_all: bool,
}

/// What is wrong with a `check`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field without an equals sign or of an unknown name.
    #[error("invalid check option {option:?}")]
    Option {
        /// As written.
        option: String,
    },
    /// `error=` something else than true or false.
    #[error("failed to parse check option {option:?}: not true or false")]
    Error {
        /// As written.
        option: String,
    },
}

impl Config {
    /// Reads what follows `check=`, also the build argument `BUILDKIT_DOCKERFILE_CHECK`.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        for field in text.split(';') {
            let option = || field.trim().to_string();
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| ConfigError::Option { option: option() })?;
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_string());
            match key.trim() {
                "skip" if value == "all" => config.skip_all = true,
                "skip" => config.skip.extend(names()),
                "experimental" if value == "all" => config.experimental_all = true,
                "experimental" => config.experimental.extend(names()),
                "error" => {
                    config.error = match value {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(ConfigError::Error { option: option() }),
                    };
                }
                _ => return Err(ConfigError::Option { option: option() }),
            }
        }
        Ok(config)
    }

    fn speaks(&self, rule: &str) -> bool {
        if let Some(footgun) = Footgun::named(rule) {
            return footgun.is_binding() || !self.skip.contains(rule);
        }
        let experimental = Rule::named(rule).is_some_and(|rule| rule.experimental);
        let asked = !experimental || self.experimental_all || self.experimental.contains(rule);
        asked && !self.skip_all && !self.skip.contains(rule)
    }

    fn merged(&self, other: &Config) -> Config {
        let mut merged = self.clone();
        merged.skip.extend(other.skip.iter().cloned());
        merged.skip_all |= other.skip_all;
        merged.error |= other.error;
        merged
            .experimental
            .extend(other.experimental.iter().cloned());
        merged.experimental_all |= other.experimental_all;
        merged
    }
}

/// The `# check=` directive of a Dockerfile; nothing said without one.
pub fn config(dockerfile: &Dockerfile) -> Result<Config, Diagnostic> {
    match &dockerfile.directives.check {
        None => Ok(Config::default()),
        Some(word) => Config::parse(&word.text)
            .map_err(|error| Diagnostic::error(word.span, error.to_string())),
    }
}

/// The findings that are not skipped, by the configuration or by a `# check=` directly above the instruction that they are
/// about; errors where the configuration says so. What is no finding of a rule is kept as it is.
pub fn apply(config: &Config, dockerfile: &Dockerfile, found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let exceptions = exceptions(config, dockerfile);
    found
        .into_iter()
        .filter_map(|mut diagnostic| {
            let Some(rule) = diagnostic.rule else {
                return Some(diagnostic);
            };
            let start = diagnostic.span.start;
            let config = exceptions
                .iter()
                .find(|(span, _)| span.start <= start && start < span.end)
                .map_or(config, |(_, config)| config);
            if config.error && Footgun::named(rule).is_none() {
                diagnostic.severity = Severity::Error;
            }
            config.speaks(rule).then_some(diagnostic)
        })
        .collect()
}

/// Whether a finding is not skipped: [`apply`] for one.
pub fn speaks(config: &Config, dockerfile: &Dockerfile, found: &Diagnostic) -> bool {
    !apply(config, dockerfile, vec![found.clone()]).is_empty()
}

/// The sentence that ends a build when findings are errors; `None` if none is one.
pub fn violation(found: &[Diagnostic]) -> Option<String> {
    let rules: BTreeSet<&str> = found
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .filter_map(|diagnostic| diagnostic.rule)
        .collect();
    if rules.is_empty() {
        return None;
    }
    let names: Vec<&str> = rules.into_iter().collect();
    Some(format!(
        "lint violation found for rules: {}",
        names.join(", ")
    ))
}

/// The statements with a `# check=` of their own. One that cannot be read is only a comment.
fn exceptions(config: &Config, dockerfile: &Dockerfile) -> Vec<(Span, Config)> {
    let statements = dockerfile
        .global_args
        .iter()
        .map(|statement| (statement.span, &statement.comment));
    let stages = dockerfile.stages.iter().flat_map(|stage| {
        let own = stage
            .instructions
            .iter()
            .map(|statement| (statement.span, &statement.comment));
        std::iter::once((stage.from.span, &stage.from.comment)).chain(own)
    });
    statements
        .chain(stages)
        .filter_map(|(span, comment)| {
            let text = comment
                .lines()
                .rev()
                .find_map(|line| line.trim().strip_prefix("check="))?;
            Some((span, config.merged(&Config::parse(text).ok()?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::parser::parse;
    use super::super::check;
    use super::*;

    #[test]
    fn configurations() {
        let config = Config::parse("skip=A, B;error=true;experimental=C").unwrap();
        assert!(config.skip.contains("A") && config.skip.contains("B") && config.error);
        assert!(config.experimental.contains("C") && !config.skip_all);
        assert!(Config::parse("skip=all").unwrap().skip_all);
        assert!(Config::parse("experimental=all").unwrap().experimental_all);
        assert_eq!(Config::parse(" ").unwrap(), Config::default());
        for (text, want) in [
            ("skip", "invalid check option \"skip\""),
            ("skpi=all", "invalid check option \"skpi=all\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": not true or false",
            ),
        ] {
            assert_eq!(Config::parse(text).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn findings_are_skipped() {
        let bad = "FROM a\nMAINTAINER x\nENV y z\n# other\nARG z\n";
        for (head, want) in [
            ("", &["MaintainerDeprecated", "LegacyKeyValueFormat"][..]),
            ("# check=skip=all\n", &[]),
            (
                "# check=skip=MaintainerDeprecated\n",
                &["LegacyKeyValueFormat"],
            ),
            (
                "# check=experimental=all;error=true\n",
                &[
                    "MaintainerDeprecated",
                    "LegacyKeyValueFormat",
                    "InvalidDefinitionDescription",
                ],
            ),
        ] {
            let parsed = parse(&format!("{head}{bad}")).unwrap();
            let config = config(&parsed.dockerfile).unwrap();
            let found = apply(&config, &parsed.dockerfile, check(&parsed));
            let rules: Vec<&str> = found
                .iter()
                .filter_map(|diagnostic| diagnostic.rule)
                .collect();
            assert_eq!(rules, want, "{head}");
            assert_eq!(violation(&found).is_some(), config.error, "{head}");
        }
    }

    #[test]
    fn one_statement_may_have_its_own() {
        let parsed =
            parse("FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y\n")
                .unwrap();
        let found = apply(&Config::default(), &parsed.dockerfile, check(&parsed));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn footguns_are_silenced_by_name_and_secrets_never() {
        use super::super::super::footgun;
        let at = |text: &str| Span {
            start: u32::try_from(text.find("RUN").unwrap()).unwrap(),
            end: u32::try_from(text.len()).unwrap(),
        };
        for (head, above, heard) in [
            ("", "", true),
            ("# check=skip=all;error=true\n", "", true),
            ("# check=skip=HeredocWithoutErrexit\n", "", false),
            ("", "# check=skip=HeredocWithoutErrexit\n", false),
            ("", "# check=skip=PathClamped,SecretInLayer\n", true),
        ] {
            let text = format!("{head}FROM a\n{above}RUN x");
            let parsed = parse(&text).unwrap();
            let config = config(&parsed.dockerfile).unwrap();
            let found = footgun::heredoc_without_errexit(at(&text));
            let all = apply(&config, &parsed.dockerfile, vec![found]);
            assert_eq!(!all.is_empty(), heard, "{text}");
            assert!(all.iter().all(|d| d.severity == Severity::Warning));
            let leak = footgun::secret_in_layer(at(&text), "s", "/f");
            assert!(speaks(&config, &parsed.dockerfile, &leak), "{text}");
        }
    }

    #[test]
    fn a_broken_directive_is_an_error() {
        let parsed = parse("# check=nope\nFROM a").unwrap();
        let error = config(&parsed.dockerfile).unwrap_err();
        assert_eq!(error.span, Span { start: 8, end: 12 });
    }
}
