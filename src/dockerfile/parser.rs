//! Logical lines to stages of instructions.

use super::ast::{Dockerfile, Heredoc, Instruction, Span, Stage, Statement, Word};
use super::diagnostic::Diagnostic;
use super::instructions::{self, From, Parts};
use super::lexer::{Lexer, Line};
use super::{heredoc, lint};

/// A Dockerfile, and what its text alone gives to complain about.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// What it says.
    pub dockerfile: Dockerfile,
    /// Findings of the rule `NoEmptyContinuation`; the other rules are [`lint::check()`].
    pub warnings: Vec<Diagnostic>,
}

/// Reads a Dockerfile. The errors are those of different statements, in order, and never none.
pub fn parse(text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    if u32::try_from(text.len()).is_err() {
        return Err(vec![Diagnostic::error(
            Span::default(),
            "dockerfile is 4 GiB or longer",
        )]);
    }
    let (mut lexer, directives) = Lexer::new(text).map_err(|error| vec![error])?;
    let mut dockerfile = Dockerfile {
        directives,
        global_args: Vec::new(),
        stages: Vec::new(),
    };
    let escape = dockerfile.directives.escape;
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    let mut any = false;
    // After a broken FROM its instructions must not be called homeless.
    let mut from_failed = false;
    loop {
        let line = match lexer.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                errors.push(error);
                break;
            }
        };
        any = true;
        if let Some(span) = line.empty_continuation {
            warnings.push(lint::no_empty_continuation(span));
        }
        match statement(line, &mut lexer, escape) {
            Ok(Parsing::From(from)) => {
                let index = dockerfile.stages.len();
                dockerfile.stages.push(stage(index, *from));
            }
            Ok(Parsing::Statement(statement)) => match dockerfile.stages.last_mut() {
                Some(stage) => stage.instructions.push(*statement),
                None if matches!(statement.instruction, Instruction::Arg(_)) => {
                    dockerfile.global_args.push(*statement);
                }
                None if from_failed => {}
                None => errors.push(
                    Diagnostic::error(statement.span, "no build stage in current context")
                        .with_hint("start with FROM; only ARG may come before it"),
                ),
            },
            Err(failure) => {
                from_failed |= failure.is_from;
                errors.push(failure.error);
                // What follows a here-document without end is its body.
                if failure.at_end {
                    break;
                }
            }
        }
    }
    if !any && errors.is_empty() {
        errors.push(Diagnostic::error(
            Span::default(),
            "file with no instructions",
        ));
    } else if dockerfile.stages.is_empty() && errors.is_empty() {
        let end = lexer.end();
        errors.push(
            Diagnostic::error(
                Span { start: end, end },
                "dockerfile contains no stages to build",
            )
            .with_hint("add a FROM"),
        );
    }
    if errors.is_empty() {
        Ok(Parsed {
            dockerfile,
            warnings,
        })
    } else {
        Err(errors)
    }
}

/// Reads a trigger as `ONBUILD` stored it: one instruction, the bodies of its here-documents in the lines after it. Spans
/// are into this text.
pub fn parse_trigger(text: &str, escape: char) -> Result<Statement, Vec<Diagnostic>> {
    let fail = |error| Err(vec![error]);
    if u32::try_from(text.len()).is_err() {
        return fail(Diagnostic::error(
            Span::default(),
            "trigger is 4 GiB or longer",
        ));
    }
    let mut lexer = Lexer::plain(text, escape);
    let line = match lexer.next_line() {
        Ok(Some(line)) => line,
        Ok(None) => {
            return fail(Diagnostic::error(
                Span::default(),
                "ONBUILD requires at least one argument",
            ));
        }
        Err(error) => return fail(error),
    };
    let parts = Parts::split(line.slice());
    if let Err(error) = check_trigger(&parts) {
        return fail(error);
    }
    drop(parts);
    let statement = match statement(line, &mut lexer, escape) {
        Ok(Parsing::Statement(statement)) => *statement,
        Ok(Parsing::From(from)) => {
            return fail(Diagnostic::error(
                from.statement.span,
                "FROM isn't allowed as an ONBUILD trigger",
            ));
        }
        Err(failure) => return fail(failure.error),
    };
    match lexer.next_line() {
        Ok(None) => Ok(statement),
        Ok(Some(line)) => fail(Diagnostic::error(
            line.span,
            "onbuild trigger should be a single expression",
        )),
        Err(error) => fail(error),
    }
}

/// What a logical line turned out to be.
enum Parsing {
    From(Box<From>),
    Statement(Box<Statement>),
}

struct Failure {
    error: Diagnostic,
    is_from: bool,
    at_end: bool,
}

fn stage(index: usize, from: From) -> Stage {
    Stage {
        index,
        name: from.name_word.as_ref().map(|word| word.text.to_lowercase()),
        name_word: from.name_word,
        base: from.base,
        platform: from.platform,
        from: from.statement,
        instructions: Vec::new(),
    }
}

fn statement(line: Line, lexer: &mut Lexer, escape: char) -> Result<Parsing, Failure> {
    let parts = Parts::split(line.slice());
    let failure = |error| Failure {
        error,
        is_from: parts.name == "FROM",
        at_end: false,
    };
    // Before anything else can fail: the bodies must not be read as instructions.
    let heredocs = if parts.takes_heredocs() {
        heredoc::read(line.slice(), lexer).map_err(|error| Failure {
            at_end: true,
            ..failure(error)
        })?
    } else {
        Vec::new()
    };
    let mut span = line.span;
    let mut lines = line.lines.clone();
    if !heredocs.is_empty() {
        span.end = lexer.end();
        lines.end = lexer.line_count() + 1;
    }
    if parts.name == "FROM" {
        let from = instructions::from(&parts, span, line.lines.clone(), line.comment.clone())
            .map_err(failure)?;
        return Ok(Parsing::From(Box::new(from)));
    }
    let instruction = if parts.name == "ONBUILD" {
        onbuild(&parts, escape, &heredocs).map(Instruction::Onbuild)
    } else {
        instructions::instruction(&parts, escape, heredocs)
    };
    Ok(Parsing::Statement(Box::new(Statement {
        span,
        lines,
        keyword: parts.keyword.word(),
        original: line.text.trim().to_string(),
        comment: line.comment.clone(),
        instruction: instruction.map_err(failure)?,
    })))
}

/// The trigger with the bodies of its here-documents, checked.
fn onbuild(parts: &Parts, escape: char, heredocs: &[Heredoc]) -> Result<Word, Diagnostic> {
    let rest = parts.after_keyword;
    if rest.text().is_empty() {
        return Err(Diagnostic::error(
            parts.keyword.span(),
            "ONBUILD requires at least one argument",
        ));
    }
    let inner = Parts::split(rest);
    check_trigger(&inner)?;
    instructions::instruction(&inner, escape, heredocs.to_vec())?;
    let mut word = rest.word();
    for heredoc in heredocs {
        word.text.push('\n');
        word.text.push_str(&heredoc.raw);
        word.text.push_str(&heredoc.name);
    }
    Ok(word)
}

fn check_trigger(parts: &Parts) -> Result<(), Diagnostic> {
    let message = match parts.name.as_str() {
        "ONBUILD" => "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_string(),
        name @ ("FROM" | "MAINTAINER") => format!("{name} isn't allowed as an ONBUILD trigger"),
        _ => return Ok(()),
    };
    Err(Diagnostic::error(parts.keyword.span(), message))
}

#[cfg(test)]
mod tests {
    use super::super::ast::CommandLine;
    use super::*;
    use proptest::prelude::*;

    fn ok(text: &str) -> Dockerfile {
        match parse(text) {
            Ok(parsed) => parsed.dockerfile,
            Err(errors) => panic!("{text}: {errors:?}"),
        }
    }

    fn only(text: &str) -> Statement {
        let mut dockerfile = ok(&format!("FROM scratch\n{text}"));
        dockerfile.stages[0].instructions.remove(0)
    }

    #[test]
    fn refusals() {
        for (text, want) in [
            ("", "file with no instructions"),
            ("# only a comment\n", "file with no instructions"),
            ("ARG A=1\n", "dockerfile contains no stages to build"),
            ("RUN true", "no build stage in current context"),
            (
                "FROM a\nRUNN x",
                "unknown instruction: RUNN (did you mean RUN?)",
            ),
            (
                "FROM a\nrunn x",
                "unknown instruction: runn (did you mean run?)",
            ),
            ("FROM a\nFROBNICATE x", "unknown instruction: FROBNICATE"),
            (
                "FROM a BUILD x",
                "FROM requires either one or three arguments",
            ),
            ("FROM", "FROM requires either one or three arguments"),
            (
                "FROM a AS 1x",
                "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
            ),
            (
                "FROM --platfrom=x a",
                "unknown flag: --platfrom (did you mean platform?)",
            ),
            (
                "FROM a\nCOPY --frm=x a /",
                "unknown flag: --frm (did you mean from?)",
            ),
            (
                "FROM a\nCOPY onlyone",
                "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            ),
            (
                "FROM a\nADD",
                "ADD requires at least two arguments, but only one was provided. Destination could not be determined",
            ),
            (
                "FROM a\nCOPY --from=$X a /",
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
                 scope as a workaround",
            ),
            (
                "FROM a\nCOPY a <<EOF\nEOF",
                "COPY cannot accept a heredoc as a destination",
            ),
            ("FROM a\nCOPY <<EOF /x\nnever", "unterminated heredoc"),
            ("FROM a\nRUN <<EOF\nRUN x\nEOFF", "unterminated heredoc"),
            ("FROM a\nENV ALONE", "ENV must have two arguments"),
            ("FROM a\nENV", "ENV requires at least one argument"),
            ("FROM a\nENV =x", "ENV names can not be blank"),
            (
                "FROM a\nENV a=b c",
                "Syntax error - can't find = in \"c\". Must be of the form: name=value",
            ),
            ("FROM a\nLABEL x", "LABEL must have two arguments"),
            ("FROM a\nARG", "ARG requires at least one argument"),
            ("FROM a\nARG =x", "ARG names can not be blank"),
            ("FROM a\nEXPOSE", "EXPOSE requires at least one argument"),
            ("FROM a\nUSER", "USER requires exactly one argument"),
            ("FROM a\nWORKDIR  ", "WORKDIR requires exactly one argument"),
            (
                "FROM a\nSTOPSIGNAL",
                "STOPSIGNAL requires exactly one argument",
            ),
            (
                "FROM a\nMAINTAINER",
                "MAINTAINER requires exactly one argument",
            ),
            ("FROM a\nVOLUME", "VOLUME requires at least one argument"),
            (
                "FROM a\nVOLUME [\" \"]",
                "VOLUME specified can not be an empty string",
            ),
            (
                "FROM a\nSHELL /bin/sh -c",
                "SHELL requires the arguments to be in JSON form",
            ),
            ("FROM a\nSHELL []", "SHELL requires at least one argument"),
            (
                "FROM a\nCMD [\"a\", 1]",
                "when using JSON array syntax, arrays must be comprised of strings only",
            ),
            (
                "FROM a\nHEALTHCHECK",
                "HEALTHCHECK requires at least one argument",
            ),
            (
                "FROM a\nHEALTHCHECK NONE x",
                "HEALTHCHECK NONE takes no arguments",
            ),
            (
                "FROM a\nHEALTHCHECK true",
                "Unknown type \"TRUE\" in HEALTHCHECK (try CMD)",
            ),
            (
                "FROM a\nHEALTHCHECK CMD",
                "Missing command after HEALTHCHECK CMD",
            ),
            (
                "FROM a\nHEALTHCHECK CMD []",
                "Missing command after HEALTHCHECK CMD",
            ),
            (
                "FROM a\nHEALTHCHECK --interval=often CMD x",
                "time: invalid duration \"often\"",
            ),
            (
                "FROM a\nHEALTHCHECK --timeout=1us CMD x",
                "Interval \"timeout\" cannot be less than 1ms",
            ),
            (
                "FROM a\nHEALTHCHECK --retries=-1 CMD x",
                "--retries cannot be negative (-1)",
            ),
            (
                "FROM a\nHEALTHCHECK --retries=x CMD x",
                "--retries must be a whole number, not \"x\"",
            ),
            ("FROM a\nONBUILD", "ONBUILD requires at least one argument"),
            (
                "FROM a\nONBUILD FROM scratch",
                "FROM isn't allowed as an ONBUILD trigger",
            ),
            (
                "FROM a\nONBUILD maintainer x",
                "MAINTAINER isn't allowed as an ONBUILD trigger",
            ),
            (
                "FROM a\nONBUILD ONBUILD RUN x",
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ),
            (
                "FROM a\nONBUILD RUNN x",
                "unknown instruction: RUNN (did you mean RUN?)",
            ),
            (
                "FROM a\nRUN --network=hots x",
                "invalid network mode \"hots\" (did you mean host?)",
            ),
            (
                "FROM a\nRUN --security=none x",
                "security \"none\" is not valid",
            ),
            (
                "FROM a\nRUN --mount=type=cache,id=x true",
                "mount type 'cache' requires a target",
            ),
            (
                "# escape=x\nFROM a",
                "invalid escape token 'x' does not match ` or \\",
            ),
        ] {
            let errors = parse(text).unwrap_err();
            let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
            assert_eq!(messages, [want], "{text:?}");
        }
    }

    #[test]
    fn every_broken_statement_is_reported() {
        let text = "FROM a b\nRUN x\nCOPPY a b\nFROM c\nENV\nRUN y\n";
        let errors = parse(text).unwrap_err();
        let starts: Vec<&str> = errors
            .iter()
            .map(|error| &text[error.span.start as usize..])
            .collect();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(starts[1].starts_with("COPPY"));
    }

    #[test]
    fn stages() {
        let dockerfile = ok(
            "ARG A=1\nFROM --platform=linux/amd64 one AS First\nRUN x\n# base image\nfrom $A\nRUN y\nRUN z\n",
        );
        assert_eq!(dockerfile.global_args.len(), 1);
        let [first, second] = &dockerfile.stages[..] else {
            panic!("{dockerfile:?}");
        };
        assert_eq!(first.name.as_deref(), Some("first"));
        assert_eq!(first.name_word.as_ref().unwrap().text, "First");
        assert_eq!(first.platform.as_ref().unwrap().text, "linux/amd64");
        assert_eq!(first.base.text, "one");
        assert_eq!(first.instructions.len(), 1);
        assert_eq!((second.index, second.name.as_deref()), (1, None));
        assert_eq!(second.from.comment, "base image");
        assert_eq!(second.instructions.len(), 2);
    }

    #[test]
    fn pairs() {
        for (text, legacy, want) in [
            (
                "ENV a=b c=\"d e\" f='g h' i=j\\ k",
                false,
                &[("a", "b"), ("c", "\"d e\""), ("f", "'g h'"), ("i", "j\\ k")][..],
            ),
            ("ENV a= b=\"\"", false, &[("a", ""), ("b", "\"\"")]),
            ("ENV a=b=c", false, &[("a", "b=c")]),
            (
                "ENV ONE two three = four",
                true,
                &[("ONE", "two three = four")],
            ),
            ("ENV TWO   spaced   out  ", true, &[("TWO", "spaced   out")]),
            (
                "LABEL \"quoted key\"=\"v 1\"",
                false,
                &[("\"quoted key\"", "\"v 1\"")],
            ),
            (
                "ENV ONE=1 \\\n  # note\n  TWO=2",
                false,
                &[("ONE", "1"), ("TWO", "2")],
            ),
            (
                "LABEL multi=\"one \\\ntwo\"",
                false,
                &[("multi", "\"one two\"")],
            ),
        ] {
            let (Instruction::Env(pairs) | Instruction::Label(pairs)) = only(text).instruction
            else {
                panic!("{text}");
            };
            assert_eq!(pairs.legacy, legacy, "{text}");
            let got: Vec<(&str, &str)> = pairs
                .pairs
                .iter()
                .map(|(key, value)| (key.text.as_str(), value.text.as_str()))
                .collect();
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn command_forms() {
        for (text, want) in [
            ("CMD echo  hi ", Ok("echo  hi")),
            ("CMD [\"echo\", \"a b\"]", Err(vec!["echo", "a b"])),
            ("CMD ['echo', 'hi']", Ok("['echo', 'hi']")),
            ("CMD [echo hi]", Ok("[echo hi]")),
            ("CMD []", Err(vec![])),
            ("CMD", Ok("")),
            ("CMD [\"a\"] # x", Ok("[\"a\"] # x")),
        ] {
            let Instruction::Cmd(command) = only(text).instruction else {
                panic!("{text}");
            };
            match (command, want) {
                (CommandLine::Shell(word), Ok(want)) => assert_eq!(word.text, want, "{text}"),
                (CommandLine::Exec(args), Err(want)) => assert_eq!(args, want, "{text}"),
                (command, _) => panic!("{text}: {command:?}"),
            }
        }
    }

    #[test]
    fn here_documents() {
        let text = "FROM a\nCOPY <<one.txt plain <<-\"two\" /docs/\n\tfirst\r\none.txt\n\tsecond\n\ttwo\nRUN x\n";
        let dockerfile = ok(text);
        let [copy, run] = &dockerfile.stages[0].instructions[..] else {
            panic!("{dockerfile:?}");
        };
        let Instruction::Copy(transfer) = &copy.instruction else {
            panic!("{copy:?}");
        };
        assert_eq!(transfer.sources.len(), 1);
        assert_eq!(transfer.heredocs[0].content, "\tfirst\r\n");
        assert_eq!(transfer.heredocs[1].content, "second\n");
        assert_eq!(transfer.heredocs[1].raw, "\tsecond\n");
        assert!(transfer.heredocs[0].expand && !transfer.heredocs[1].expand);
        assert_eq!(copy.lines, 2..7);
        assert_eq!(copy.original, "COPY <<one.txt plain <<-\"two\" /docs/");
        assert_eq!(
            &text[copy.span.end as usize - 3..copy.span.end as usize],
            "two"
        );
        assert_eq!(run.lines, 7..8);
        // No here-document in a JSON form, an unknown place or a shell's here-string.
        for text in [
            "RUN [\"<<EOF\"]",
            "CMD <<EOF",
            "RUN cat <<<EOF",
            "RUN echo $((1 << 2))",
        ] {
            only(text);
        }
    }

    #[test]
    fn triggers() {
        let statement = only("ONBUILD   RUN <<EOF cat \\\n && x\nbody\nEOF\n");
        let Instruction::Onbuild(word) = &statement.instruction else {
            panic!("{statement:?}");
        };
        assert_eq!(word.text, "RUN <<EOF cat  && x\nbody\nEOF");
        let trigger = parse_trigger(&word.text, '\\').unwrap();
        let Instruction::Run(run) = trigger.instruction else {
            panic!("{trigger:?}");
        };
        assert_eq!(run.heredocs[0].content, "body\n");
        for (text, want) in [
            ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            (
                "ONBUILD RUN x",
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ),
            (
                "MAINTAINER x",
                "MAINTAINER isn't allowed as an ONBUILD trigger",
            ),
            (
                "RUN x\nRUN y",
                "onbuild trigger should be a single expression",
            ),
            ("", "ONBUILD requires at least one argument"),
        ] {
            assert_eq!(
                parse_trigger(text, '\\').unwrap_err()[0].message,
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn empty_continuations_warn() {
        let parsed = parse("FROM a\nRUN x \\\n\n y").unwrap();
        assert_eq!(parsed.warnings.len(), 1);
        assert_eq!(parsed.warnings[0].rule, Some("NoEmptyContinuation"));
    }

    #[test]
    fn deep_triggers_do_not_overflow() {
        let text = format!("FROM a\n{}RUN x", "ONBUILD ".repeat(8000));
        assert!(parse(&text).is_err());
    }

    /// Text in which the language's own characters are frequent.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("FROM a AS b\n".to_string()),
            Just("RUN <<EOF\n".to_string()),
            Just("EOF\n".to_string()),
            Just("COPY --from=x ".to_string()),
            Just("ENV a=".to_string()),
            Just("HEALTHCHECK --interval=1s CMD ".to_string()),
            Just("RUN --mount=type=cache,target=/x ".to_string()),
            Just("ONBUILD ".to_string()),
            Just("\\\n".to_string()),
            "[\\\\`\"'$\\[\\]{}<\\-=# \t\r\né]{0,6}",
            "\\PC{0,6}",
        ];
        proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn never_panics_and_spans_are_inside(text in texts()) {
            let first = parse(&text);
            prop_assert_eq!(&first, &parse(&text));
            let inside = |span: Span| {
                span.start <= span.end && text.get(span.start as usize..span.end as usize).is_some()
            };
            match first {
                Ok(parsed) => {
                    for statement in parsed.dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
                        prop_assert!(inside(statement.span), "{:?}", statement);
                        prop_assert!(inside(statement.keyword.span), "{:?}", statement);
                    }
                }
                Err(errors) => {
                    for error in errors {
                        prop_assert!(inside(error.span), "{:?}", error);
                    }
                }
            }
            let _ = parse_trigger(&text, '`');
        }
    }
}
