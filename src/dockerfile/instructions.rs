//! What each instruction takes.

use std::ops::Range;

use super::ast::{
    ArgDef, CommandLine, FromStatement, Healthcheck, Heredoc, Instruction, KeyValues, Network, Run,
    Security, Span, Transfer, Word,
};
use super::diagnostic::Diagnostic;
use super::flags::{Flags, Kind};
use super::heredoc::Opening;
use super::lexer::{Slice, is_blank, span};
use super::suggest::did_you_mean;
use super::{duration, mounts, split};

/// The instructions, as they are written in messages.
pub(super) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// An instruction's name, flags and the rest of its line.
pub(super) struct Parts<'l> {
    /// As written.
    pub(super) keyword: Slice<'l>,
    /// In capitals.
    pub(super) name: String,
    flags: Flags,
    /// After the flags, trimmed.
    pub(super) rest: Slice<'l>,
    /// After the name, trimmed.
    pub(super) after_keyword: Slice<'l>,
}

impl<'l> Parts<'l> {
    /// Takes a line apart.
    pub(super) fn split(line: Slice<'l>) -> Parts<'l> {
        let line = line.trim();
        let text = line.text();
        let end = text.find(is_blank).unwrap_or(text.len());
        let keyword = line.sub(0..end);
        let after_keyword = line.from(end).trim();
        let (flags, rest) = Flags::take(after_keyword);
        Parts {
            name: keyword.text().to_uppercase(),
            keyword,
            flags,
            rest: rest.trim(),
            after_keyword,
        }
    }

    /// Whether here-documents may follow the line.
    pub(super) fn takes_heredocs(&self) -> bool {
        match self.name.as_str() {
            "RUN" | "COPY" | "ADD" => !matches!(split::json(self.rest), Ok(Some(_))),
            "ONBUILD" => {
                let inner = Parts::split(self.rest);
                inner.name != "ONBUILD" && inner.takes_heredocs()
            }
            _ => false,
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Diagnostic> {
        Err(Diagnostic::error(self.span(), message))
    }

    /// The whole line, for errors that are not one word's.
    fn span(&self) -> Span {
        Span {
            start: self.keyword.span().start,
            end: self.rest.span().end.max(self.keyword.span().end),
        }
    }

    /// The rest as one argument.
    fn one(&self) -> Result<Word, Diagnostic> {
        if self.rest.text().is_empty() {
            return self.fail(format!("{} requires exactly one argument", self.name));
        }
        Ok(self.rest.word())
    }

    fn at_least_one<T>(&self) -> Result<T, Diagnostic> {
        self.fail(format!("{} requires at least one argument", self.name))
    }
}

/// A `FROM` line.
pub(super) struct From {
    pub(super) statement: FromStatement,
    pub(super) base: Word,
    pub(super) platform: Option<Word>,
    pub(super) name_word: Option<Word>,
}

/// `FROM [--platform=P] IMAGE [AS NAME]`
pub(super) fn from(
    parts: &Parts,
    span: Span,
    lines: Range<u32>,
    comment: String,
) -> Result<From, Diagnostic> {
    parts.flags.check(&[("platform", Kind::Value)])?;
    let mut words = parts.rest.words().into_iter();
    let (base, as_keyword, name) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(base), None, None, None) => (base, None, None),
        (Some(base), Some(keyword), Some(name), None)
            if keyword.text().eq_ignore_ascii_case("as") =>
        {
            (base, Some(keyword.word()), Some(name.word()))
        }
        _ => return parts.fail("FROM requires either one or three arguments"),
    };
    if let Some(name) = &name
        && !is_stage_name(&name.text.to_lowercase())
    {
        return Err(Diagnostic::error(
            name.span,
            format!(
                "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                name.text
            ),
        ));
    }
    Ok(From {
        statement: FromStatement {
            span,
            lines,
            keyword: parts.keyword.word(),
            as_keyword,
            comment,
        },
        base: base.word(),
        platform: parts.flags.value("platform"),
        name_word: name,
    })
}

/// `[a-z][a-z0-9-_.]*`
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

/// Any instruction but `FROM` and `ONBUILD`.
pub(super) fn instruction(
    parts: &Parts,
    escape: char,
    heredocs: Vec<Heredoc>,
) -> Result<Instruction, Diagnostic> {
    match parts.name.as_str() {
        "ADD" => parts.flags.check(ADD_FLAGS)?,
        "COPY" => parts.flags.check(COPY_FLAGS)?,
        "RUN" => parts.flags.check(RUN_FLAGS)?,
        "HEALTHCHECK" => parts.flags.check(HEALTHCHECK_FLAGS)?,
        name if NAMES.contains(&name) => parts.flags.check(&[])?,
        _ => {
            let keyword = parts.keyword.text();
            let mut suggestion = did_you_mean(keyword, NAMES);
            if !keyword.chars().any(char::is_uppercase) {
                suggestion = suggestion.to_lowercase();
            }
            return Err(Diagnostic::error(
                parts.keyword.span(),
                format!("unknown instruction: {keyword}{suggestion}"),
            ));
        }
    }
    Ok(match parts.name.as_str() {
        "ADD" => Instruction::Add(transfer(parts, heredocs)?),
        "COPY" => Instruction::Copy(transfer(parts, heredocs)?),
        "ARG" => Instruction::Arg(arg(parts, escape)?),
        "CMD" => Instruction::Cmd(command(parts.rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(command(parts.rest)?),
        "ENV" => Instruction::Env(key_values(parts, escape)?),
        "LABEL" => Instruction::Label(key_values(parts, escape)?),
        "EXPOSE" => match words(parts.rest) {
            words if words.is_empty() => return parts.at_least_one(),
            words => Instruction::Expose(words),
        },
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(parts)?),
        "MAINTAINER" => Instruction::Maintainer(parts.one()?),
        "RUN" => Instruction::Run(run(parts, heredocs)?),
        "SHELL" => match split::json(parts.rest)? {
            Some(words) if !words.is_empty() => {
                Instruction::Shell(words.into_iter().map(|word| word.text).collect())
            }
            None if !parts.rest.text().is_empty() => {
                return parts.fail("SHELL requires the arguments to be in JSON form");
            }
            _ => return parts.at_least_one(),
        },
        "STOPSIGNAL" => Instruction::Stopsignal(parts.one()?),
        "USER" => Instruction::User(parts.one()?),
        "VOLUME" => Instruction::Volume(volume(parts)?),
        "WORKDIR" => Instruction::Workdir(parts.one()?),
        name => return parts.fail(format!("{name} is not allowed here")),
    })
}

const ADD_FLAGS: &[(&str, Kind)] = &[
    ("chown", Kind::Value),
    ("chmod", Kind::Value),
    ("link", Kind::Switch),
    ("keep-git-dir", Kind::Switch),
    ("checksum", Kind::Value),
    ("unpack", Kind::Switch),
    ("exclude", Kind::Values),
];

const COPY_FLAGS: &[(&str, Kind)] = &[
    ("chown", Kind::Value),
    ("from", Kind::Value),
    ("chmod", Kind::Value),
    ("link", Kind::Switch),
    ("parents", Kind::Switch),
    ("exclude", Kind::Values),
];

const RUN_FLAGS: &[(&str, Kind)] = &[
    ("mount", Kind::Values),
    ("network", Kind::Value),
    ("security", Kind::Value),
];

const HEALTHCHECK_FLAGS: &[(&str, Kind)] = &[
    ("interval", Kind::Value),
    ("timeout", Kind::Value),
    ("start-period", Kind::Value),
    ("start-interval", Kind::Value),
    ("retries", Kind::Value),
];

fn words(rest: Slice) -> Vec<Word> {
    rest.words().iter().map(Slice::word).collect()
}

fn words_or_json(rest: Slice) -> Result<Vec<Word>, Diagnostic> {
    Ok(split::json(rest)?.unwrap_or_else(|| words(rest)))
}

fn command(rest: Slice) -> Result<CommandLine, Diagnostic> {
    Ok(match split::json(rest)? {
        Some(words) => CommandLine::Exec(words.into_iter().map(|word| word.text).collect()),
        None => CommandLine::Shell(rest.word()),
    })
}

fn transfer(parts: &Parts, mut heredocs: Vec<Heredoc>) -> Result<Transfer, Diagnostic> {
    let flags = &parts.flags;
    let name = &parts.name;
    let mut args = words_or_json(parts.rest)?;
    let Some(destination) = args.pop().filter(|_| !args.is_empty()) else {
        return parts.fail(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ));
    };
    if let Some(from) = flags.value("from")
        && from.text.contains('$')
    {
        return Err(Diagnostic::error(
            from.span,
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope \
             as a workaround",
        ));
    }
    let json = matches!(split::json(parts.rest), Ok(Some(_)));
    if !json && Opening::parse(&destination.text).is_some() {
        return Err(Diagnostic::error(
            destination.span,
            format!("{name} cannot accept a heredoc as a destination"),
        ));
    }
    let mut sources = Vec::new();
    let mut inline = Vec::new();
    for word in args {
        match Opening::parse(&word.text).filter(|_| !json) {
            None => sources.push(word),
            Some(opening) => match heredocs.iter().position(|doc| doc.name == opening.name) {
                Some(index) => inline.push(heredocs.remove(index)),
                // The line as a whole is no sequence of words, so no body was read.
                None => {
                    return Err(Diagnostic::error(
                        word.span,
                        "heredoc in a line with unbalanced quotes",
                    ));
                }
            },
        }
    }
    Ok(Transfer {
        sources,
        heredocs: inline,
        destination,
        from: flags.value("from"),
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        excludes: flags.values("exclude"),
        checksum: flags.value("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    })
}

fn arg(parts: &Parts, escape: char) -> Result<Vec<ArgDef>, Diagnostic> {
    let words = split::quoted(parts.rest, escape);
    if words.is_empty() {
        return parts.at_least_one();
    }
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        let arg = match cut(&word) {
            Some((name, _)) if name.text.is_empty() => {
                return Err(Diagnostic::error(word.span, "ARG names can not be blank"));
            }
            Some((name, default)) => ArgDef {
                name,
                default: Some(default),
            },
            None => ArgDef {
                name: word,
                default: None,
            },
        };
        args.push(arg);
    }
    Ok(args)
}

/// A word at its first equals sign. Where the source has more than the text, a continuation, both stand where the word does.
fn cut(word: &Word) -> Option<(Word, Word)> {
    let (name, value) = word.text.split_once('=')?;
    if (word.span.end - word.span.start) as usize != word.text.len() {
        let part = |text: &str| Word {
            text: text.to_string(),
            span: word.span,
        };
        return Some((part(name), part(value)));
    }
    let middle = word
        .span
        .start
        .saturating_add(u32::try_from(name.len()).unwrap_or(u32::MAX));
    let middle = middle.min(word.span.end);
    let part = |text: &str, start, end| Word {
        text: text.to_string(),
        span: Span { start, end },
    };
    Some((
        part(name, word.span.start, middle),
        part(value, (middle + 1).min(word.span.end), word.span.end),
    ))
}

fn key_values(parts: &Parts, escape: char) -> Result<KeyValues, Diagnostic> {
    let name = &parts.name;
    let words = split::quoted(parts.rest, escape);
    let Some(first) = words.first() else {
        return parts.at_least_one();
    };
    let blank = |span| {
        Err(Diagnostic::error(
            span,
            format!("{name} names can not be blank"),
        ))
    };
    if !first.text.contains('=') {
        let text = parts.rest.text();
        let Some(end) = text.find(is_blank) else {
            return parts.fail(format!("{name} must have two arguments"));
        };
        let value = parts
            .rest
            .from(end + text[end..].len() - text[end..].trim_start_matches(is_blank).len());
        return Ok(KeyValues {
            pairs: vec![(parts.rest.sub(0..end).word(), value.word())],
            legacy: true,
        });
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        let Some((key, value)) = cut(&word) else {
            return Err(Diagnostic::error(
                word.span,
                format!(
                    "Syntax error - can't find = in {:?}. Must be of the form: name=value",
                    word.text
                ),
            ));
        };
        if key.text.is_empty() {
            return blank(word.span);
        }
        pairs.push((key, value));
    }
    Ok(KeyValues {
        pairs,
        legacy: false,
    })
}

fn healthcheck(parts: &Parts) -> Result<Healthcheck, Diagnostic> {
    let text = parts.rest.text();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = text[..end].to_uppercase();
    let rest = parts.rest.from(end).trim();
    match kind.as_str() {
        "" => return parts.at_least_one(),
        "NONE" if rest.text().is_empty() => return Ok(Healthcheck::None),
        "NONE" => return parts.fail("HEALTHCHECK NONE takes no arguments"),
        "CMD" => {}
        _ => {
            return Err(Diagnostic::error(
                parts.rest.sub(0..end).span(),
                format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"),
            ));
        }
    }
    let command = command(rest)?;
    let empty = match &command {
        CommandLine::Shell(word) => word.text.is_empty(),
        CommandLine::Exec(args) => args.is_empty(),
    };
    if empty {
        return parts.fail("Missing command after HEALTHCHECK CMD");
    }
    Ok(Healthcheck::Check {
        command,
        interval_ns: interval(parts, "interval")?,
        timeout_ns: interval(parts, "timeout")?,
        start_period_ns: interval(parts, "start-period")?,
        start_interval_ns: interval(parts, "start-interval")?,
        retries: retries(parts)?,
    })
}

/// The runtime's clock for health checks ticks no faster: docker refuses less.
const LEAST_INTERVAL_NS: i64 = 1_000_000;

fn interval(parts: &Parts, flag: &str) -> Result<i64, Diagnostic> {
    let Some(word) = parts.flags.value(flag) else {
        return Ok(0);
    };
    match duration::parse(&word.text) {
        None => Err(Diagnostic::error(
            word.span,
            format!("time: invalid duration {:?}", word.text),
        )
        .with_hint("a duration is like 500ms, 30s or 1m30s")),
        Some(duration) if duration != 0 && duration < LEAST_INTERVAL_NS => Err(Diagnostic::error(
            word.span,
            format!("Interval {flag:?} cannot be less than 1ms"),
        )),
        Some(duration) => Ok(duration),
    }
}

fn retries(parts: &Parts) -> Result<i64, Diagnostic> {
    let Some(word) = parts.flags.value("retries") else {
        return Ok(0);
    };
    match word.text.parse::<i32>() {
        Err(_) => Err(Diagnostic::error(
            word.span,
            format!("--retries must be a whole number, not {:?}", word.text),
        )),
        Ok(retries) if retries < 0 => Err(Diagnostic::error(
            word.span,
            format!("--retries cannot be negative ({retries})"),
        )),
        Ok(retries) => Ok(retries.into()),
    }
}

fn run(parts: &Parts, heredocs: Vec<Heredoc>) -> Result<Run, Diagnostic> {
    let mounts = parts.flags.values("mount");
    let network = match parts.flags.value("network") {
        None => None,
        Some(word) => Some(match word.text.as_str() {
            "default" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            other => {
                let suggestion = did_you_mean(other, ["default", "none", "host"]);
                return Err(Diagnostic::error(
                    word.span,
                    format!("invalid network mode {other:?}{suggestion}"),
                ));
            }
        }),
    };
    let security = match parts.flags.value("security") {
        None => Security::Sandbox,
        Some(word) => match word.text.as_str() {
            "sandbox" => Security::Sandbox,
            "insecure" => Security::Insecure,
            other => {
                let suggestion = did_you_mean(other, ["sandbox", "insecure"]);
                return Err(Diagnostic::error(
                    word.span,
                    format!("security {other:?} is not valid{suggestion}"),
                ));
            }
        },
    };
    Ok(Run {
        command: command(parts.rest)?,
        heredocs,
        mounts: mounts.iter().map(mounts::parse).collect::<Result<_, _>>()?,
        network,
        security,
    })
}

fn volume(parts: &Parts) -> Result<Vec<Word>, Diagnostic> {
    let mut words = words_or_json(parts.rest)?;
    if words.is_empty() {
        return parts.at_least_one();
    }
    for word in &mut words {
        let text = word.text.trim();
        if text.is_empty() {
            return Err(Diagnostic::error(
                word.span,
                "VOLUME specified can not be an empty string",
            ));
        }
        // Where the text stands as it is, without quotes and continuations, its place is trimmed too: a blank of another
        // script is part of the word until here.
        let (start, end) = (word.span.start as usize, word.span.end as usize);
        if end - start == word.text.len() {
            let start = start + (word.text.len() - word.text.trim_start().len());
            word.span = span(start, start + text.len());
        }
        word.text = text.to_string();
    }
    Ok(words)
}
