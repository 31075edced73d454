//! Arguments that exist without being declared: platforms, proxies, and BuildKit's own.

use std::collections::BTreeMap;

use crate::dockerfile::Dockerfile;
use crate::oci::Platform;

use super::error::PlanError;
use super::scope::Scope;

/// The proxies that reach every RUN, by their lower-case names.
const PROXIES: [&str; 5] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

/// `ARG`s that speak to the builder and are not in the environment of RUN.
pub(super) fn is_internal(name: &str) -> bool {
    matches!(
        name,
        "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE"
    )
}

/// The arguments that say where the build runs and what it is for. `--build-arg` overrides them.
pub(super) fn automatic(
    build: &Platform,
    target: &Platform,
    stage: Option<&str>,
    build_args: &BTreeMap<String, String>,
) -> Scope {
    let mut scope = Scope::default();
    for (kind, platform) in [("BUILD", build), ("TARGET", target)] {
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        for (part, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", optional(&platform.os_version)),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", optional(&platform.variant)),
        ] {
            scope.set(&format!("{kind}{part}"), &value);
        }
    }
    scope.set("TARGETSTAGE", stage.unwrap_or("default"));
    let known: Vec<String> = scope.names().map(str::to_owned).collect();
    for name in known {
        if let Some(value) = build_args.get(&name) {
            scope.set(&name, value);
        }
    }
    scope
}

/// `scope` with the arguments before the first `FROM` in it.
pub(super) fn with_globals(
    mut scope: Scope,
    dockerfile: &Dockerfile,
    build_args: &BTreeMap<String, String>,
) -> Result<Scope, PlanError> {
    let escape = dockerfile.directives.escape;
    for statement in &dockerfile.global_args {
        let crate::dockerfile::Instruction::Arg(defs) = &statement.instruction else {
            continue;
        };
        for def in defs {
            let name = &def.name.text;
            let value = match (build_args.get(name), &def.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(word)) => {
                    let (value, _) =
                        scope
                            .expand(&word.text, escape)
                            .map_err(|source| PlanError::Word {
                                text: word.text.clone(),
                                span: source.at(word).span,
                                source,
                            })?;
                    Some(value)
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                scope.set(name, value);
            }
            scope.declare(name, None);
        }
    }
    Ok(scope)
}

/// The proxy variables, in both cases. Of two spellings the lower-case one counts.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in PROXIES {
        let value = build_args
            .iter()
            .rfind(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value);
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            found.push((name.to_ascii_uppercase(), value.clone()));
            found.push((name.to_owned(), value.clone()));
        }
    }
    found
}

/// A build argument that is a switch, in Go's spellings of true.
pub(super) fn is_set(build_args: &BTreeMap<String, String>, name: &str) -> bool {
    build_args
        .get(name)
        .is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_arguments() {
        let build = Platform::new("linux", "amd64", None);
        let target = Platform::new("linux", "arm", Some("v7"));
        let overrides = BTreeMap::from([("TARGETOS".to_owned(), "plan9".to_owned())]);
        let scope = automatic(&build, &target, None, &overrides);
        for (name, want) in [
            ("BUILDPLATFORM", "linux/amd64"),
            ("BUILDVARIANT", ""),
            ("TARGETPLATFORM", "linux/arm/v7"),
            ("TARGETOS", "plan9"),
            ("TARGETVARIANT", "v7"),
            ("TARGETOSVERSION", ""),
            ("TARGETSTAGE", "default"),
        ] {
            assert_eq!(scope.get(name), Some(want), "{name}");
        }
    }

    #[test]
    fn proxies_come_in_both_cases() {
        let args = [
            ("http_proxy", "a"),
            ("HTTP_PROXY", "b"),
            ("NO_PROXY", "c"),
            ("X", "d"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let got: Vec<String> = proxies(&args)
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            got,
            ["HTTP_PROXY=a", "http_proxy=a", "NO_PROXY=c", "no_proxy=c"]
        );
    }
}
