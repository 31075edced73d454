//! What the instructions say that nobody means, as far as the plan shows it.

use crate::dockerfile::ast::{CommandLine, Healthcheck, Run, Transfer};
use crate::dockerfile::{Instruction, Span, Statement, footgun};

use super::graph::Origin;
use super::lower::{Current, Lowering};
use super::paths;

impl Lowering<'_, '_> {
    /// Lists that are no JSON.
    pub(super) fn look_at_forms(&mut self, current: &Current, statement: &Statement) {
        let text = match &statement.instruction {
            Instruction::Run(Run {
                command: CommandLine::Shell(word),
                ..
            })
            | Instruction::Cmd(CommandLine::Shell(word))
            | Instruction::Entrypoint(CommandLine::Shell(word))
            | Instruction::Healthcheck(Healthcheck::Check {
                command: CommandLine::Shell(word),
                ..
            }) => Some((word.text.clone(), word.span)),
            Instruction::Copy(transfer) | Instruction::Add(transfer) => {
                let words = transfer.sources.iter().chain([&transfer.destination]);
                joined(words)
            }
            Instruction::Volume(words) => joined(words.iter()),
            _ => None,
        };
        if let Some((text, span)) = text
            && footgun::is_broken_json(&text)
        {
            let name = statement.keyword.text.to_uppercase();
            let span = current.span(span);
            self.weave.warn(footgun::broken_json_form(span, &name));
        }
    }

    /// Scripts that go on after errors.
    pub(super) fn look_at_script(&mut self, current: &Current, run: &Run) {
        let (CommandLine::Shell(line), [doc]) = (&run.command, &run.heredocs[..]) else {
            return;
        };
        let shell = &current.state.config.config.shell;
        let command = line.text.trim();
        let exits = if command != doc.word.text {
            // `bash <<EOF`; what any other program makes of its input is its own affair.
            let words = command.split_whitespace().filter(|w| *w != doc.word.text);
            let words: Vec<&str> = words.collect();
            let plain = words
                .iter()
                .all(|w| !w.contains(['|', ';', '&', '<', '>', '$']));
            if plain {
                footgun::shell_exits_early(words.into_iter())
            } else {
                None
            }
        } else if let Some(program) = doc.content.strip_prefix("#!") {
            let program = program.lines().next().unwrap_or_default();
            footgun::shell_exits_early(program.split_whitespace())
        } else if shell.is_empty() {
            Some(false)
        } else {
            footgun::shell_exits_early(shell.iter().map(String::as_str))
        };
        if exits == Some(false) && footgun::script_goes_on(&doc.content) {
            let span = current.span(doc.word.span);
            self.weave.warn(footgun::heredoc_without_errexit(span));
        }
    }

    /// Sources above the root of what they are in.
    pub(super) fn look_at_source(&mut self, span: Span, path: &str, origin: &Origin) {
        if paths::leads_out(path) {
            let root = match origin {
                Origin::Context | Origin::Named(_) => "the build context",
                Origin::Vertex(_) => "the image it is copied from",
            };
            let taken = paths::clean(path);
            let taken = taken
                .strip_prefix('/')
                .filter(|t| !t.is_empty())
                .unwrap_or(".");
            self.weave
                .warn(footgun::path_clamped(span, path, root, taken));
        }
    }

    /// Destinations above the root, and owners with half a group.
    pub(super) fn look_at_destination(
        &mut self,
        current: &Current,
        transfer: &Transfer,
        destination: &str,
        chown: Option<&str>,
    ) {
        let workdir = &current.state.config.config.working_dir;
        let whole = match destination.starts_with('/') {
            true => destination.to_owned(),
            false => format!("{workdir}/{destination}"),
        };
        if paths::leads_out(&whole) {
            let span = current.span(transfer.destination.span);
            let taken = paths::clean(&whole);
            let found = footgun::path_clamped(span, destination, "the image", &taken);
            self.weave.warn(found);
        }
        if let (Some(word), Some(user)) = (&transfer.chown, chown.and_then(|c| c.strip_suffix(':')))
            && !user.is_empty()
        {
            let span = current.span(word.span);
            self.weave.warn(footgun::chown_without_group(span, user));
        }
    }
}

/// Words as a text, and where they stand.
fn joined<'w>(words: impl Iterator<Item = &'w crate::dockerfile::Word>) -> Option<(String, Span)> {
    let words: Vec<_> = words.collect();
    let (first, last) = (words.first()?, words.last()?);
    // A JSON array's words are its strings: their places are inside the brackets.
    let texts: Vec<&str> = words.iter().map(|w| w.text.as_str()).collect();
    let span = Span {
        start: first.span.start,
        end: last.span.end.max(first.span.end),
    };
    Some((texts.join(" "), span))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{options, plan};

    /// The names of what is found, with the spanned text.
    fn found(text: &str) -> Vec<(String, String)> {
        let graph = plan(text, &options()).unwrap();
        let footguns = graph.warnings.into_iter().filter(|d| {
            let rule = d.rule.unwrap();
            crate::dockerfile::footgun::Footgun::named(rule).is_some()
        });
        footguns
            .map(|d| {
                assert!(d.hint.is_some(), "{}", d.message);
                let spanned = &text[d.span.start as usize..d.span.end as usize];
                (d.rule.unwrap().to_owned(), spanned.to_owned())
            })
            .collect()
    }

    #[test]
    fn what_nobody_means() {
        for (line, rule, spanned) in [
            ("RUN [\"a\" \"b\"]", "BrokenJSONForm", "[\"a\" \"b\"]"),
            ("CMD ['a', 'b']", "BrokenJSONForm", "['a', 'b']"),
            ("ENTRYPOINT [\"a\"", "BrokenJSONForm", "[\"a\""),
            ("HEALTHCHECK CMD ['a']", "BrokenJSONForm", "['a']"),
            ("COPY ['a', '/b']", "BrokenJSONForm", "['a', '/b']"),
            ("VOLUME ['/a']", "BrokenJSONForm", "['/a']"),
            ("RUN <<E\na\nb\nE", "HeredocWithoutErrexit", "<<E"),
            ("RUN bash <<E\na\nb\nE", "HeredocWithoutErrexit", "<<E"),
            (
                "RUN <<E\n#!/bin/bash -x\na\nb\nE",
                "HeredocWithoutErrexit",
                "<<E",
            ),
            ("COPY ../a /", "PathClamped", "../a"),
            ("COPY a/../../b /", "PathClamped", "a/../../b"),
            ("COPY a ../../b", "PathClamped", "../../b"),
            ("COPY --from=multi /../a /", "PathClamped", "/../a"),
            (
                "RUN --mount=source=../a,target=/a true",
                "PathClamped",
                "source=../a,target=/a",
            ),
            ("COPY --chown=bob: a /", "ChownWithoutGroup", "bob:"),
        ] {
            let text = format!("FROM busybox\nWORKDIR /w\n{line}\n");
            let want = (rule.to_owned(), spanned.to_owned());
            assert_eq!(found(&text), [want], "{line}");
        }
        for line in [
            "RUN [\"a\", \"b\"]",
            "RUN [ -f /x ] || true",
            "CMD []",
            "COPY [\"a\", \"/b\"]",
            "COPY [ab]c /",
            "SHELL [\"/bin/sh\", \"-ec\"]\nRUN <<E\na\nb\nE",
            "RUN <<E\nset -e\na\nb\nE",
            "RUN <<E\na\nE",
            "RUN python3 <<E\na\nb\nE",
            "RUN cat <<E | sh\na\nb\nE",
            "RUN sh -e <<E\na\nb\nE",
            "RUN <<E\n#!/usr/bin/env python3\na\nb\nE",
            "COPY <<E /x\na\nb\nE",
            "COPY a/../b ../c",
            "COPY --chown=bob:0 a /",
            "COPY --chown=:0 a /",
        ] {
            let text = format!("FROM busybox\nWORKDIR /w\n{line}\n");
            assert_eq!(found(&text), [], "{line}");
        }
    }
}
