//! What the text alone shows.

use std::collections::HashSet;

use super::super::ast::{ArgDef, CommandLine, Instruction, KeyValues, Stage, Statement, Word};
use super::super::diagnostic::Diagnostic;
use super::super::parser::Parsed;
use super::{
    consistent_instruction_casing, duplicate_stage_name, from_as_casing,
    from_platform_flag_const_disallowed, invalid_definition_description, json_args_recommended,
    legacy_key_value_format, maintainer_deprecated, multiple_instructions_disallowed,
    redundant_target_platform, reserved_stage_name, secrets_used_in_arg_or_env, stage_name_casing,
};

/// The findings of the rules that need nothing but the text, the parser's among them, in the order of the text.
///
/// Not found here: `UndefinedArgInFrom`, `WorkdirRelativePath`, `UndefinedVar`, `InvalidBaseImagePlatform`,
/// `InvalidDefaultArgInFrom`, `CopyIgnoredFile`, `ExposeProtoCasing`, `ExposeInvalidFormat`.
pub fn check(parsed: &Parsed) -> Vec<Diagnostic> {
    let mut found = parsed.warnings.clone();
    let dockerfile = &parsed.dockerfile;
    casing(parsed, &mut found);
    for statement in &dockerfile.global_args {
        if let Instruction::Arg(args) = &statement.instruction {
            arguments(statement, args, &mut found);
        }
    }
    let mut names: HashSet<&str> = HashSet::new();
    // Whether each stage so far, or one below it, sets SHELL: then a shell form is meant.
    let mut shells: Vec<bool> = Vec::new();
    for stage in &dockerfile.stages {
        from(stage, &mut found);
        if let (Some(name), Some(word)) = (&stage.name, &stage.name_word)
            && !names.insert(name)
        {
            found.push(duplicate_stage_name(word.span, name));
        }
        let base = stage.base.text.to_lowercase();
        let below = dockerfile.stages[..stage.index]
            .iter()
            .rposition(|other| other.name.as_deref() == Some(base.as_str()));
        let mut shell = below.is_some_and(|index| shells[index]);
        instructions(stage, &mut shell, &mut found);
        shells.push(shell);
    }
    found.sort_by_key(|diagnostic| diagnostic.span.start);
    found
}

fn casing(parsed: &Parsed, found: &mut Vec<Diagnostic>) {
    let dockerfile = &parsed.dockerfile;
    let keywords = || {
        let stages = dockerfile.stages.iter().flat_map(|stage| {
            let own = stage
                .instructions
                .iter()
                .map(|statement| &statement.keyword);
            std::iter::once(&stage.from.keyword).chain(own)
        });
        let globals = dockerfile
            .global_args
            .iter()
            .map(|statement| &statement.keyword);
        globals.chain(stages)
    };
    let lower = keywords().filter(|word| is_lower(&word.text)).count();
    let upper = keywords().filter(|word| is_upper(&word.text)).count();
    for word in keywords() {
        if lower > upper && !is_lower(&word.text) {
            found.push(consistent_instruction_casing(
                word.span,
                &word.text,
                "lowercase",
            ));
        } else if lower <= upper && !is_upper(&word.text) {
            found.push(consistent_instruction_casing(
                word.span,
                &word.text,
                "uppercase",
            ));
        }
    }
}

fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase)
}

fn is_upper(text: &str) -> bool {
    !text.chars().any(char::is_lowercase)
}

fn from(stage: &Stage, found: &mut Vec<Diagnostic>) {
    let keyword = &stage.from.keyword.text;
    if let Some(word) = &stage.from.as_keyword
        && (is_lower(keyword) && !is_lower(&word.text)
            || is_upper(keyword) && !is_upper(&word.text))
    {
        found.push(from_as_casing(word.span, keyword, &word.text));
    }
    let name = stage.name.as_deref().unwrap_or_default();
    if let Some(word) = &stage.name_word {
        if !is_lower(&word.text) {
            found.push(stage_name_casing(word.span, &word.text));
        }
        if matches!(name, "scratch" | "context") {
            found.push(reserved_stage_name(word.span, name));
        }
        description(
            "FROM",
            &stage.from.keyword,
            &stage.from.comment,
            &[&word.text],
            found,
        );
    }
    if let Some(platform) = &stage.platform {
        match platform.text.as_str() {
            text @ ("$TARGETPLATFORM" | "${TARGETPLATFORM}") => {
                found.push(redundant_target_platform(platform.span, text));
            }
            text if text.contains('$') => {}
            // A stage for one platform may say so in its name.
            text if text
                .split('/')
                .take(2)
                .any(|part| !part.is_empty() && name.contains(part)) => {}
            text => found.push(from_platform_flag_const_disallowed(platform.span, text)),
        }
    }
}

fn instructions(stage: &Stage, shell: &mut bool, found: &mut Vec<Diagnostic>) {
    let (mut command, mut entrypoint, mut healthcheck) = (None, None, None);
    for statement in &stage.instructions {
        let span = statement.keyword.span;
        let last = match &statement.instruction {
            Instruction::Cmd(line) => {
                shell_form(statement, line, "CMD", *shell, found);
                Some((&mut command, "CMD"))
            }
            Instruction::Entrypoint(line) => {
                shell_form(statement, line, "ENTRYPOINT", *shell, found);
                Some((&mut entrypoint, "ENTRYPOINT"))
            }
            Instruction::Healthcheck(_) => Some((&mut healthcheck, "HEALTHCHECK")),
            Instruction::Shell(_) => {
                *shell = true;
                None
            }
            Instruction::Maintainer(_) => {
                found.push(maintainer_deprecated(span));
                None
            }
            Instruction::Arg(args) => {
                arguments(statement, args, found);
                None
            }
            Instruction::Env(pairs) => {
                legacy(statement, pairs, "ENV", found);
                for (key, _) in &pairs.pairs {
                    secret(key, "ENV", found);
                }
                None
            }
            Instruction::Label(pairs) => {
                legacy(statement, pairs, "LABEL", found);
                None
            }
            _ => None,
        };
        if let Some((earlier, name)) = last
            && let Some(earlier) = earlier.replace(span)
        {
            // The one that is ignored is the earlier one.
            found.push(multiple_instructions_disallowed(earlier, name));
        }
    }
}

fn shell_form(
    statement: &Statement,
    line: &CommandLine,
    name: &str,
    shell: bool,
    found: &mut Vec<Diagnostic>,
) {
    if matches!(line, CommandLine::Shell(_)) && !shell {
        found.push(json_args_recommended(statement.keyword.span, name));
    }
}

fn legacy(statement: &Statement, pairs: &KeyValues, name: &str, found: &mut Vec<Diagnostic>) {
    if pairs.legacy {
        found.push(legacy_key_value_format(statement.keyword.span, name));
    }
}

fn arguments(statement: &Statement, args: &[ArgDef], found: &mut Vec<Diagnostic>) {
    for arg in args {
        secret(&arg.name, "ARG", found);
    }
    let names: Vec<&str> = args.iter().map(|arg| arg.name.text.as_str()).collect();
    description("ARG", &statement.keyword, &statement.comment, &names, found);
}

/// A name with one of these parts, parts being between underscores, is a secret's; with one of the others it is not.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const PUBLIC: [&str; 3] = ["public", "file", "version"];

fn secret(name: &Word, instruction: &str, found: &mut Vec<Diagnostic>) {
    let lower = name.text.to_lowercase();
    let has = |list: &[&str]| lower.split('_').any(|part| list.contains(&part));
    if has(&SECRET) && !has(&PUBLIC) {
        found.push(secrets_used_in_arg_or_env(
            name.span,
            instruction,
            &name.text,
        ));
    }
}

fn description(
    instruction: &str,
    keyword: &Word,
    comment: &str,
    names: &[&str],
    found: &mut Vec<Diagnostic>,
) {
    let Some(first) = comment
        .lines()
        .last()
        .and_then(|line| line.split_whitespace().next())
    else {
        return;
    };
    if first.starts_with("check=") || names.contains(&first) {
        return;
    }
    let name = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    found.push(invalid_definition_description(
        keyword.span,
        instruction,
        name,
    ));
}

#[cfg(test)]
mod tests {
    use super::super::super::parser::parse;
    use super::*;

    fn found(text: &str) -> Vec<(&'static str, String)> {
        let parsed = parse(text).unwrap();
        check(&parsed)
            .into_iter()
            .filter_map(|diagnostic| Some((diagnostic.rule?, diagnostic.message)))
            .collect()
    }

    #[test]
    fn each_rule_has_a_bad_and_a_good_case() {
        for (text, rule, message) in [
            (
                "FROM a AS Bad",
                "StageNameCasing",
                "Stage name 'Bad' should be lowercase",
            ),
            (
                "FROM a as b",
                "FromAsCasing",
                "'as' and 'FROM' keywords' casing do not match",
            ),
            (
                "from a AS b",
                "FromAsCasing",
                "'AS' and 'from' keywords' casing do not match",
            ),
            (
                "FROM a\nRUN x \\\n\n y",
                "NoEmptyContinuation",
                "Empty continuation line",
            ),
            (
                "FROM a\nrun x\nRUN y",
                "ConsistentInstructionCasing",
                "Command 'run' should match the case of the command majority (uppercase)",
            ),
            (
                "from a\nRun x\nrun y",
                "ConsistentInstructionCasing",
                "Command 'Run' should match the case of the command majority (lowercase)",
            ),
            (
                "FROM a AS x\nFROM b AS x",
                "DuplicateStageName",
                "Duplicate stage name \"x\", stage names should be unique",
            ),
            (
                "FROM a AS context",
                "ReservedStageName",
                "Stage name should not use the same name as reserved stage \"context\"",
            ),
            (
                "FROM a\nCMD x",
                "JSONArgsRecommended",
                "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            ),
            (
                "FROM a\nMAINTAINER x",
                "MaintainerDeprecated",
                "Maintainer instruction is deprecated in favor of using label",
            ),
            (
                "FROM a\nENTRYPOINT [\"x\"]\nENTRYPOINT [\"y\"]",
                "MultipleInstructionsDisallowed",
                "Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will \
                 be used",
            ),
            (
                "FROM a\nENV a b",
                "LegacyKeyValueFormat",
                "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ),
            (
                "FROM --platform=$TARGETPLATFORM a",
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            (
                "FROM --platform=linux/amd64 a",
                "FromPlatformFlagConstDisallowed",
                "FROM --platform flag should not use constant value \"linux/amd64\"",
            ),
            (
                "FROM a\nARG DB_PASSWORD",
                "SecretsUsedInArgOrEnv",
                "Do not use ARG or ENV instructions for sensitive data (ARG \"DB_PASSWORD\")",
            ),
            (
                "FROM a\nENV x=1 token=2",
                "SecretsUsedInArgOrEnv",
                "Do not use ARG or ENV instructions for sensitive data (ENV \"token\")",
            ),
            (
                "# other\nFROM a AS x",
                "InvalidDefinitionDescription",
                "Comment for FROM should follow the format: `# x <description>`",
            ),
            (
                "# other\nARG x y\nFROM a",
                "InvalidDefinitionDescription",
                "Comment for ARG should follow the format: `# <arg_key> <description>`",
            ),
        ] {
            assert_eq!(found(text), [(rule, message.to_string())], "{text}");
            assert!(super::super::Rule::named(rule).is_some(), "{rule}");
        }
        for text in [
            "FROM a AS b",
            "from a as b\nrun x",
            "FROM a\nSHELL [\"x\"]\nCMD y",
            "FROM a AS one\nSHELL [\"x\"]\nFROM One\nCMD y",
            "FROM a\nCMD [\"x\"]\nFROM b\nCMD [\"y\"]",
            "FROM --platform=$BUILDPLATFORM a",
            "FROM --platform=linux/amd64 a AS build-amd64",
            "FROM a\nARG TOKEN_FILE\nENV MONKEY=1 PUBLIC_KEY=2 TOKENS=3",
            "# x the stage\nFROM a AS x\n# other\n\nARG y",
            "# other\nFROM a",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
