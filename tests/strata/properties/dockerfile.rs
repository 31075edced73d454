//! The lexer, the parser and the rules: everything said about a Dockerfile has a place in it, and what was read can be
//! written again.

use strata::dockerfile::ast::{
    CommandLine, Healthcheck, Heredoc, Instruction, KeyValues, Mount, Run, Transfer,
};
use strata::dockerfile::{
    Dockerfile, Parsed, Span, Statement, Word, lint, parse, parse_trigger, position,
};

use super::places;

/// The longest line that the lexer takes.
const MAX_LINE_BYTES: usize = 65_535;

/// `data` is a Dockerfile.
pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = parse(&text);
    assert_eq!(read, parse(&text), "equal text gives equal values");
    match read {
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                places::diagnostic(&text, error);
            }
        }
        Ok(parsed) => {
            let found = lint::check(&parsed);
            for warning in parsed.warnings.iter().chain(&found) {
                places::diagnostic(&text, warning);
            }
            stands_in(&text, &parsed.dockerfile);
            triggers_can_be_read(&parsed.dockerfile);
            reads_again(&parsed);
        }
    }
}

fn stands_in(text: &str, dockerfile: &Dockerfile) {
    assert!(!dockerfile.stages.is_empty());
    let directives = [&dockerfile.directives.syntax, &dockerfile.directives.check];
    for word in directives.into_iter().flatten() {
        assert_eq!(places::slice(text, word.span), word.text);
    }
    let mut end = 0;
    let mut follows = |span: Span, lines: &std::ops::Range<u32>| {
        assert!(span.start >= end, "statements follow each other: {span:?}");
        end = span.end;
        assert_eq!(position(text, span.start).0, lines.start, "{span:?}");
        assert!(lines.start < lines.end);
        assert!(position(text, span.end).0 <= lines.end, "{span:?}");
    };
    let args = dockerfile.global_args.iter();
    for arg in args {
        follows(arg.span, &arg.lines);
        statement_stands_in(text, arg);
    }
    for (index, stage) in dockerfile.stages.iter().enumerate() {
        assert_eq!(stage.index, index);
        follows(stage.from.span, &stage.from.lines);
        let from = &stage.from;
        let words = [Some(&stage.base), Some(&from.keyword)].into_iter();
        let words = words.chain([stage.name_word.as_ref(), from.as_keyword.as_ref()]);
        for word in words.chain([stage.platform.as_ref()]).flatten() {
            word_stands_in(text, word, from.span);
        }
        for statement in &stage.instructions {
            follows(statement.span, &statement.lines);
            statement_stands_in(text, statement);
        }
    }
}

fn statement_stands_in(text: &str, statement: &Statement) {
    let mut words = vec![&statement.keyword];
    let mut heredocs: &[Heredoc] = &[];
    match &statement.instruction {
        Instruction::Arg(args) => {
            for arg in args {
                words.push(&arg.name);
                words.extend(&arg.default);
            }
        }
        Instruction::Add(transfer) | Instruction::Copy(transfer) => {
            words.extend(words_of_transfer(transfer));
            heredocs = &transfer.heredocs;
        }
        Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
            words.extend(words_of_command(command));
        }
        Instruction::Env(KeyValues { pairs, .. }) | Instruction::Label(KeyValues { pairs, .. }) => {
            words.extend(pairs.iter().flat_map(|(key, value)| [key, value]));
        }
        Instruction::Expose(list) | Instruction::Volume(list) => words.extend(list),
        Instruction::Healthcheck(Healthcheck::None) | Instruction::Shell(_) => {}
        Instruction::Healthcheck(Healthcheck::Check { command, .. }) => {
            words.extend(words_of_command(command));
        }
        Instruction::Maintainer(word)
        | Instruction::Stopsignal(word)
        | Instruction::User(word)
        | Instruction::Workdir(word)
        | Instruction::Onbuild(word) => words.push(word),
        Instruction::Run(run) => {
            words.extend(words_of_run(run));
            heredocs = &run.heredocs;
        }
    }
    for heredoc in heredocs {
        words.push(&heredoc.word);
        assert_eq!(places::slice(text, heredoc.span), heredoc.raw);
        assert!(within(heredoc.span, statement.span));
    }
    for word in words {
        word_stands_in(text, word, statement.span);
    }
}

fn words_of_command(command: &CommandLine) -> Option<&Word> {
    match command {
        CommandLine::Shell(word) => Some(word),
        CommandLine::Exec(_) => None,
    }
}

fn words_of_transfer(transfer: &Transfer) -> Vec<&Word> {
    let flags = [
        &transfer.from,
        &transfer.chown,
        &transfer.chmod,
        &transfer.checksum,
    ];
    let paths = transfer.sources.iter().chain(&transfer.excludes);
    paths
        .chain([&transfer.destination])
        .chain(flags.into_iter().flatten())
        .collect()
}

fn words_of_run(run: &Run) -> Vec<&Word> {
    let mount = |mount: &'_ Mount| -> Vec<_> {
        let Mount {
            target,
            source,
            from,
            id,
            mode,
            uid,
            gid,
            size,
            env,
            ..
        } = mount.clone();
        let all = [target, source, from, id, mode, uid, gid, size, env];
        all.into_iter().flatten().map(|word| word.span).collect()
    };
    for each in &run.mounts {
        // An option stands in its flag; one that is missing stands nowhere.
        for span in mount(each) {
            assert!(within(span, each.word.span), "{each:?}");
        }
    }
    let mounts = run.mounts.iter().map(|mount| &mount.word);
    words_of_command(&run.command)
        .into_iter()
        .chain(mounts)
        .collect()
}

fn within(inner: Span, outer: Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// A word lies in its statement, and where nothing had to be joined or unquoted its text is what stands there.
fn word_stands_in(text: &str, word: &Word, statement: Span) {
    let written = places::slice(text, word.span);
    assert!(within(word.span, statement), "{word:?} in {statement:?}");
    if !written.contains(['\n', '"', '\'', '\\', '`']) {
        // Behind its line a trigger has the bodies of its here-documents.
        let line = word.text.split('\n').next().unwrap_or_default();
        assert_eq!(written, line, "{word:?}");
    }
}

fn statements(dockerfile: &Dockerfile) -> impl Iterator<Item = &Statement> {
    let all = dockerfile.stages.iter().flat_map(|s| &s.instructions);
    dockerfile.global_args.iter().chain(all)
}

/// What `ONBUILD` stores is what the parser of triggers takes.
fn triggers_can_be_read(dockerfile: &Dockerfile) {
    for statement in statements(dockerfile) {
        if let Instruction::Onbuild(word) = &statement.instruction {
            let read = parse_trigger(&word.text, dockerfile.directives.escape);
            let read = read.unwrap_or_else(|errors| panic!("{:?}: {errors:?}", word.text));
            // The line as it was stored; here-documents come after it.
            let line = word.text.split('\n').next().unwrap_or_default();
            assert_eq!(read.original, line.trim());
        }
    }
}

/// The file written anew, a logical line a line, says the same.
fn reads_again(parsed: &Parsed) {
    let Some(text) = written(&parsed.dockerfile) else {
        return;
    };
    match parse(&text) {
        Ok(again) => assert_eq!(
            without_places(&again.dockerfile),
            without_places(&parsed.dockerfile),
            "{text:?}"
        ),
        Err(errors) => panic!("{text:?}: {errors:?}"),
    }
}

/// `None` where one line cannot say it: too long, or it would go on in the next.
fn written(dockerfile: &Dockerfile) -> Option<String> {
    let mut out = String::new();
    let escape = dockerfile.directives.escape;
    for (key, word) in [
        ("syntax", &dockerfile.directives.syntax),
        ("check", &dockerfile.directives.check),
    ] {
        if let Some(word) = word {
            out.push_str(&format!("# {key}={}\n", word.text));
        }
    }
    out.push_str(&format!("# escape={escape}\n\n"));
    let mut line = |comment: &str, text: &str, bodies: &str| {
        let goes_on = text.trim_end_matches([' ', '\t']).ends_with(escape);
        if goes_on || text.len() > MAX_LINE_BYTES {
            return None;
        }
        for comment in comment.lines() {
            out.push_str(&format!("# {comment}\n"));
        }
        out.push_str(text);
        out.push('\n');
        out.push_str(bodies);
        // A comment belongs to the statement directly below it.
        out.push('\n');
        Some(())
    };
    let mut statement = |statement: &Statement| {
        let mut bodies = String::new();
        let heredocs: &[Heredoc] = match &statement.instruction {
            Instruction::Add(transfer) | Instruction::Copy(transfer) => &transfer.heredocs,
            Instruction::Run(run) => &run.heredocs,
            Instruction::Onbuild(word) => {
                if let Some((_, rest)) = word.text.split_once('\n') {
                    bodies = format!("{rest}\n");
                }
                &[]
            }
            _ => &[],
        };
        for heredoc in heredocs {
            bodies.push_str(&heredoc.raw);
            bodies.push_str(&heredoc.name);
            bodies.push('\n');
        }
        line(&statement.comment, &statement.original, &bodies)
    };
    for each in &dockerfile.global_args {
        statement(each)?;
    }
    for stage in &dockerfile.stages {
        let mut from = vec![stage.from.keyword.text.clone()];
        from.extend(
            stage
                .platform
                .as_ref()
                .map(|p| format!("--platform={}", p.text)),
        );
        from.push(stage.base.text.clone());
        if let (Some(keyword), Some(name)) = (&stage.from.as_keyword, &stage.name_word) {
            from.extend([keyword.text.clone(), name.text.clone()]);
        }
        let as_statement = Statement {
            span: stage.from.span,
            lines: stage.from.lines.clone(),
            keyword: stage.from.keyword.clone(),
            original: from.join(" "),
            comment: stage.from.comment.clone(),
            instruction: Instruction::Volume(Vec::new()),
        };
        statement(&as_statement)?;
        for each in &stage.instructions {
            statement(each)?;
        }
    }
    Some(out)
}

/// The values as text, spans and lines left out.
fn without_places(dockerfile: &Dockerfile) -> String {
    let text = format!("{dockerfile:#?}");
    let place = |line: &&str| {
        let line = line.trim();
        let number = |text: &str| {
            text.trim_end_matches(',')
                .bytes()
                .all(|c| c.is_ascii_digit())
        };
        let labelled = |label| line.strip_prefix(label).is_some_and(number);
        !(labelled("start: ") || labelled("end: ") || line.starts_with("lines: "))
    };
    text.lines().filter(place).collect::<Vec<_>>().join("\n")
}
