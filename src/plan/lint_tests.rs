//! Every rule of the linter, found and not found: with its place, its words and its page.

use crate::dockerfile::ignore::Ignore;
use crate::dockerfile::{self, Diagnostic, lint, position};
use crate::oci::Platform;

use super::testing::{Fake, options};
use super::{Options, lower_noting};

/// What is found in a text: rule, line and column, the text of the span, message.
fn found(text: &str, options: &Options) -> Vec<(String, String, String, String)> {
    let parsed = dockerfile::parse(text).unwrap();
    let rules = lint::config(&parsed.dockerfile).unwrap();
    let mut all = lint::check(&parsed);
    match lower_noting(&parsed.dockerfile, options, &Fake::new(), &mut all) {
        Ok(graph) => all.extend(graph.warnings),
        Err(error) => assert!(text.contains("many"), "{text}: {error}"),
    }
    let shown = |found: Diagnostic| {
        let (line, column) = position(text, found.span.start);
        let spanned = &text[found.span.start as usize..found.span.end as usize];
        let rule = found.rule.unwrap().to_owned();
        (
            rule,
            format!("{line}:{column}"),
            spanned.to_owned(),
            found.message,
        )
    };
    lint::apply(&rules, &parsed.dockerfile, all)
        .into_iter()
        .map(shown)
        .collect()
}

fn for_check() -> Options {
    Options {
        all_stages: true,
        ignore: Some(Ignore::parse("*.log\nhidden\nall\n!all/but\n").unwrap()),
        ..options()
    }
}

/// Rule, text, place, the spanned text, message.
const FOUND: &[(&str, &str, &str, &str, &str)] = &[
    (
        "StageNameCasing",
        "FROM busybox AS Bad",
        "1:17",
        "Bad",
        "Stage name 'Bad' should be lowercase",
    ),
    (
        "FromAsCasing",
        "FROM busybox as b",
        "1:14",
        "as",
        "'as' and 'FROM' keywords' casing do not match",
    ),
    (
        "FromAsCasing",
        "from busybox AS b",
        "1:14",
        "AS",
        "'AS' and 'from' keywords' casing do not match",
    ),
    (
        "NoEmptyContinuation",
        "FROM busybox\nRUN x \\\n\n  y",
        "3:1",
        "",
        "Empty continuation line",
    ),
    (
        "ConsistentInstructionCasing",
        "FROM busybox\nrun x\nRUN y",
        "2:1",
        "run",
        "Command 'run' should match the case of the command majority (uppercase)",
    ),
    (
        "ConsistentInstructionCasing",
        "from busybox\nRun x\nrun y",
        "2:1",
        "Run",
        "Command 'Run' should match the case of the command majority (lowercase)",
    ),
    (
        "DuplicateStageName",
        "FROM busybox AS x\nFROM busybox AS x",
        "2:17",
        "x",
        "Duplicate stage name \"x\", stage names should be unique",
    ),
    (
        "ReservedStageName",
        "FROM busybox AS context",
        "1:17",
        "context",
        "Stage name should not use the same name as reserved stage \"context\"",
    ),
    (
        "JSONArgsRecommended",
        "FROM busybox\nCMD x",
        "2:1",
        "CMD",
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
    ),
    (
        "JSONArgsRecommended",
        "FROM config AS a\nFROM busybox\n\tENTRYPOINT x",
        "3:2",
        "ENTRYPOINT",
        "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
    ),
    (
        "MaintainerDeprecated",
        "FROM busybox\nMAINTAINER x",
        "2:1",
        "MAINTAINER",
        "Maintainer instruction is deprecated in favor of using label",
    ),
    (
        "UndefinedArgInFrom",
        "ARG VERSION=1\nFROM busybox:1$VERSOIN",
        "2:6",
        "busybox:1$VERSOIN",
        "FROM argument 'VERSOIN' is not declared (did you mean VERSION?)",
    ),
    (
        "UndefinedArgInFrom",
        "FROM busybox:1${unheard}",
        "1:6",
        "busybox:1${unheard}",
        "FROM argument 'unheard' is not declared",
    ),
    (
        "WorkdirRelativePath",
        "FROM busybox\nWORKDIR app\nWORKDIR more",
        "2:9",
        "app",
        "Relative workdir \"app\" can have unexpected results if the base image changes",
    ),
    (
        "UndefinedVar",
        "FROM busybox\nARG FOLDER=/x\nCOPY a $FODLER",
        "3:8",
        "$FODLER",
        "Usage of undefined variable '$FODLER' (did you mean $FOLDER?)",
    ),
    (
        "UndefinedVar",
        "FROM busybox\nENV A=${unheard}",
        "2:7",
        "${unheard}",
        "Usage of undefined variable '$unheard'",
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM busybox\nENTRYPOINT [\"x\"]\nENTRYPOINT [\"y\"]",
        "2:1",
        "ENTRYPOINT",
        "Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used",
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM busybox\nCMD [\"x\"]\nCMD [\"y\"]",
        "2:1",
        "CMD",
        "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM busybox\nHEALTHCHECK NONE\nHEALTHCHECK CMD x",
        "2:1",
        "HEALTHCHECK",
        "Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used",
    ),
    (
        "LegacyKeyValueFormat",
        "FROM busybox\nENV a b",
        "2:1",
        "ENV",
        "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
    ),
    (
        "LegacyKeyValueFormat",
        "FROM busybox\nLABEL a b",
        "2:1",
        "LABEL",
        "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
    ),
    (
        "InvalidBaseImagePlatform",
        "FROM --platform=$OTHER busybox",
        "1:24",
        "busybox",
        "Base image busybox was pulled with platform \"linux/amd64\", expected \"linux/s390x\" for current build",
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM busybox",
        "1:17",
        "$TARGETPLATFORM",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=${TARGETPLATFORM} busybox",
        "1:17",
        "${TARGETPLATFORM}",
        "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM busybox\nARG DB_PASSWORD",
        "2:5",
        "DB_PASSWORD",
        "Do not use ARG or ENV instructions for sensitive data (ARG \"DB_PASSWORD\")",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM busybox\nENV x=1 token=2",
        "2:9",
        "token",
        "Do not use ARG or ENV instructions for sensitive data (ENV \"token\")",
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG BASE\nFROM $BASE",
        "2:6",
        "$BASE",
        "Default value for ARG $BASE results in empty or invalid base image name",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/amd64 busybox",
        "1:17",
        "linux/amd64",
        "FROM --platform flag should not use constant value \"linux/amd64\"",
    ),
    (
        "CopyIgnoredFile",
        "FROM busybox\nCOPY a ./hidden/x /",
        "2:8",
        "./hidden/x",
        "Attempting to Copy file \"./hidden/x\" that is excluded by .dockerignore",
    ),
    (
        "CopyIgnoredFile",
        "FROM busybox\nADD b.log /",
        "2:5",
        "b.log",
        "Attempting to Add file \"b.log\" that is excluded by .dockerignore",
    ),
    (
        "CopyIgnoredFile",
        "FROM busybox\nCOPY *.log /logs/",
        "2:6",
        "*.log",
        "Attempting to Copy file \"*.log\" that is excluded by .dockerignore",
    ),
    (
        "ExposeProtoCasing",
        "FROM busybox\nEXPOSE 80/Udp 81/tcp",
        "2:8",
        "80/Udp",
        "Defined port '80/Udp' in EXPOSE instruction should be in lowercase",
    ),
    (
        "ExposeInvalidFormat",
        "FROM busybox\nEXPOSE 80 127.0.0.1:81:82",
        "2:11",
        "127.0.0.1:81:82",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:81:82'",
    ),
    (
        "ExposeInvalidFormat",
        "FROM busybox\nEXPOSE 81:82",
        "2:8",
        "81:82",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '81:82'",
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=all\n\n# other\nFROM busybox AS x",
        "4:1",
        "FROM",
        "Comment for FROM should follow the format: `# x <description>`",
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=InvalidDefinitionDescription\n# other\nARG x y\nFROM busybox",
        "3:1",
        "ARG",
        "Comment for ARG should follow the format: `# <arg_key> <description>`",
    ),
];

/// Rule, and a text in which it finds nothing, though little is missing.
const NOT_FOUND: &[(&str, &str)] = &[
    ("StageNameCasing", "FROM busybox AS good-1.x"),
    ("FromAsCasing", "from busybox as b\nrun x"),
    (
        "NoEmptyContinuation",
        "FROM busybox\nRUN x \\\n  # why\n  y\n\nRUN z",
    ),
    ("ConsistentInstructionCasing", "from busybox\nrun x\nrun y"),
    (
        "DuplicateStageName",
        "FROM busybox AS x\nFROM busybox AS y\nFROM x",
    ),
    ("ReservedStageName", "FROM busybox AS contexts"),
    (
        "JSONArgsRecommended",
        "FROM busybox\nCMD [\"x\"]\nENTRYPOINT [\"y\"]",
    ),
    ("JSONArgsRecommended", "FROM busybox\nSHELL [\"x\"]\nCMD y"),
    (
        "JSONArgsRecommended",
        "FROM busybox AS one\nSHELL [\"x\"]\nFROM One\nCMD y",
    ),
    // The base image has a SHELL.
    ("JSONArgsRecommended", "FROM config\nCMD y"),
    ("MaintainerDeprecated", "FROM busybox\nLABEL maintainer=x"),
    (
        "UndefinedArgInFrom",
        "ARG V=1\nFROM busybox:1$V\nFROM ${W:-busybox}",
    ),
    (
        "WorkdirRelativePath",
        "FROM busybox\nWORKDIR /app\nWORKDIR more",
    ),
    (
        "WorkdirRelativePath",
        "FROM busybox AS a\nWORKDIR /app\nFROM a\nWORKDIR more",
    ),
    (
        "UndefinedVar",
        "FROM busybox\nARG A\nENV B=$A C=${D:-e} E='$F' G=\\$H\nRUN echo $I",
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM busybox AS a\nCMD [\"x\"]\nFROM a\nCMD [\"y\"]",
    ),
    ("LegacyKeyValueFormat", "FROM busybox\nENV a=b\nLABEL c=d"),
    (
        "InvalidBaseImagePlatform",
        "FROM --platform=$BUILDPLATFORM multi",
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$BUILDPLATFORM busybox",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "FROM busybox\nARG TOKEN_FILE\nENV MONKEY=1 PUBLIC_KEY=2 TOKENS=3 KEY_VERSION=4",
    ),
    ("InvalidDefaultArgInFrom", "ARG BASE=busybox\nFROM $BASE"),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/amd64 busybox AS build-amd64",
    ),
    (
        "CopyIgnoredFile",
        "FROM busybox AS a\nCOPY . /\nCOPY seen hidden.x /x/\nADD all /all\nFROM scratch\nCOPY --from=a /hidden /",
    ),
    (
        "ExposeProtoCasing",
        "FROM busybox\nEXPOSE 80/udp 81 82/sctp",
    ),
    ("ExposeInvalidFormat", "FROM busybox\nEXPOSE 80-90 91/tcp"),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=all\n# x is the stage\nFROM busybox AS x\n# why\n\nARG y\n# y says\nARG y",
    ),
    // Not asked for.
    (
        "InvalidDefinitionDescription",
        "# other\n\n# more\nFROM busybox AS x",
    ),
];

#[test]
fn every_rule_is_found_where_it_is() {
    for (rule, text, at, spanned, message) in FOUND {
        let mut options = for_check();
        if let Some(given) = text.contains("$OTHER").then_some("linux/s390x") {
            let text = format!("ARG OTHER={given}\n{text}");
            options.platforms = vec![Platform::new("linux", "amd64", None)];
            let got = found(&text, &options);
            let want = (
                (*rule).to_owned(),
                format!("2{}", &at[1..]),
                (*spanned).to_owned(),
                (*message).to_owned(),
            );
            assert_eq!(got, [want], "{text}");
            continue;
        }
        if *rule == "InvalidDefaultArgInFrom" {
            let base = ("BASE".to_owned(), "busybox".to_owned());
            options.build_args = [base].into();
        }
        let want = (
            (*rule).to_owned(),
            (*at).to_owned(),
            (*spanned).to_owned(),
            (*message).to_owned(),
        );
        assert_eq!(found(text, &options), [want], "{text}");
    }
}

#[test]
fn no_rule_is_found_where_it_is_not() {
    for (rule, text) in NOT_FOUND {
        assert_eq!(found(text, &for_check()), [], "{rule}: {text}");
    }
}

#[test]
fn every_rule_has_cases_and_a_page() {
    for rule in &lint::RULES {
        let mut cases = FOUND.iter().map(|case| case.0);
        assert!(cases.any(|name| name == rule.name), "{}", rule.name);
        let mut cases = NOT_FOUND.iter().map(|case| case.0);
        assert!(cases.any(|name| name == rule.name), "{}", rule.name);
    }
    let page = |rule| lint::Rule::named(rule).unwrap().url().unwrap_or_default();
    for (rule, want) in [
        ("StageNameCasing", "stage-name-casing"),
        ("FromAsCasing", "from-as-casing"),
        ("NoEmptyContinuation", "no-empty-continuation"),
        (
            "ConsistentInstructionCasing",
            "consistent-instruction-casing",
        ),
        ("DuplicateStageName", "duplicate-stage-name"),
        ("ReservedStageName", "reserved-stage-name"),
        ("JSONArgsRecommended", "json-args-recommended"),
        ("MaintainerDeprecated", "maintainer-deprecated"),
        ("UndefinedArgInFrom", "undefined-arg-in-from"),
        ("WorkdirRelativePath", "workdir-relative-path"),
        ("UndefinedVar", "undefined-var"),
        (
            "MultipleInstructionsDisallowed",
            "multiple-instructions-disallowed",
        ),
        ("LegacyKeyValueFormat", "legacy-key-value-format"),
        ("RedundantTargetPlatform", "redundant-target-platform"),
        ("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env"),
        ("InvalidDefaultArgInFrom", "invalid-default-arg-in-from"),
        (
            "FromPlatformFlagConstDisallowed",
            "from-platform-flag-const-disallowed",
        ),
        ("CopyIgnoredFile", "copy-ignored-file"),
        ("ExposeProtoCasing", "expose-proto-casing"),
        ("ExposeInvalidFormat", "expose-invalid-format"),
        (
            "InvalidDefinitionDescription",
            "invalid-definition-description",
        ),
    ] {
        let want = format!("https://docs.docker.com/go/dockerfile/rule/{want}/");
        assert_eq!(page(rule), want);
    }
    assert_eq!(page("InvalidBaseImagePlatform"), "");
}

#[test]
fn rules_of_steps_count_where_steps_are_built() {
    let text = "FROM busybox AS other\nCMD x\nFROM busybox\nRUN y";
    assert_eq!(found(text, &for_check()).len(), 1);
    assert_eq!(found(text, &options()), []);
    let last = Options {
        target: Some("other".to_owned()),
        ..for_check()
    };
    assert_eq!(found(text, &last).len(), 1);
}

#[test]
fn what_was_found_before_an_error_is_told() {
    let text = "FROM busybox\nCMD x\nEXPOSE many";
    assert_eq!(found(text, &for_check())[0].0, "JSONArgsRecommended");
}
