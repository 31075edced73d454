//! What the text alone shows.

use std::collections::HashSet;

use super::super::ast::{ArgDef, Instruction, KeyValues, Stage, Statement, Word};
use super::super::diagnostic::Diagnostic;
use super::super::parser::Parsed;
use super::{
    consistent_instruction_casing, duplicate_stage_name, from_as_casing,
    invalid_definition_description, legacy_key_value_format, maintainer_deprecated,
    reserved_stage_name, secrets_used_in_arg_or_env, stage_name_casing,
};

/// The findings of the rules that need nothing but the text and count in every stage, the parser's among them, in the order
/// of the text. The others are the planner's.
pub fn check(parsed: &Parsed) -> Vec<Diagnostic> {
    let mut found = parsed.warnings.clone();
    let dockerfile = &parsed.dockerfile;
    casing(parsed, &mut found);
    for statement in &dockerfile.global_args {
        if let Instruction::Arg(args) = &statement.instruction {
            for arg in args {
                if is_secret_name(&arg.name.text) {
                    found.push(secrets_used_in_arg_or_env(
                        arg.name.span,
                        "ARG",
                        &arg.name.text,
                    ));
                }
            }
            describe(statement, args, &mut found);
        }
    }
    let mut names: HashSet<&str> = HashSet::new();
    for stage in &dockerfile.stages {
        from(stage, &mut found);
        if let (Some(name), Some(word)) = (&stage.name, &stage.name_word)
            && !names.insert(name)
        {
            found.push(duplicate_stage_name(word.span, name));
        }
        instructions(stage, &mut found);
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
}

fn instructions(stage: &Stage, found: &mut Vec<Diagnostic>) {
    for statement in &stage.instructions {
        match &statement.instruction {
            Instruction::Maintainer(_) => found.push(maintainer_deprecated(statement.keyword.span)),
            Instruction::Arg(args) => describe(statement, args, found),
            Instruction::Env(pairs) => legacy(statement, pairs, "ENV", found),
            Instruction::Label(pairs) => legacy(statement, pairs, "LABEL", found),
            _ => {}
        }
    }
}

fn legacy(statement: &Statement, pairs: &KeyValues, name: &str, found: &mut Vec<Diagnostic>) {
    if pairs.legacy {
        found.push(legacy_key_value_format(statement.keyword.span, name));
    }
}

fn describe(statement: &Statement, args: &[ArgDef], found: &mut Vec<Diagnostic>) {
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

/// Whether a variable's name sounds like a secret's.
pub fn is_secret_name(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |list: &[&str]| lower.split('_').any(|part| list.contains(&part));
    has(&SECRET) && !has(&PUBLIC)
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
