//! What BuildKit does without a word though nobody means it: warnings of a build, errors with `--strict`.
//!
//! They look like findings of the linter, and a `# check=skip=NAME` silences them in the same way, but they are none of its rules:
//! `check=skip=all` and `check=error=true` are about BuildKit's. That a secret was found cannot be silenced.

use super::ast::Span;
use super::diagnostic::Diagnostic;

/// A kind of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footgun {
    /// Its name.
    pub name: &'static str,
    /// What happens.
    pub description: &'static str,
}

/// A pattern of COPY or ADD matches nothing.
pub const WILDCARD_WITHOUT_MATCH: &str = "WildcardWithoutMatch";
/// Several sources are written to one path.
pub const SOURCES_TO_ONE_FILE: &str = "SourcesToOneFile";
/// A user or group that the image does not know.
pub const UNKNOWN_OWNER: &str = "UnknownOwner";
/// `USER:` without a group.
pub const CHOWN_WITHOUT_GROUP: &str = "ChownWithoutGroup";
/// What looks like an exec form and is none.
pub const BROKEN_JSON_FORM: &str = "BrokenJSONForm";
/// A script that goes on after errors.
pub const HEREDOC_WITHOUT_ERREXIT: &str = "HeredocWithoutErrexit";
/// `..` above a root.
pub const PATH_CLAMPED: &str = "PathClamped";
/// A secret is in a layer.
pub const SECRET_IN_LAYER: &str = "SecretInLayer";
/// A secret is in a configuration.
pub const SECRET_IN_CONFIG: &str = "SecretInConfig";

/// All of them.
pub const FOOTGUNS: [Footgun; 9] = [
    footgun(
        WILDCARD_WITHOUT_MATCH,
        "A pattern that matches nothing copies nothing, and the destination is not made",
    ),
    footgun(
        SOURCES_TO_ONE_FILE,
        "Of several sources to a path without a slash at its end, only the last one stays",
    ),
    footgun(
        UNKNOWN_OWNER,
        "A user or group that the image does not know counts as root",
    ),
    footgun(
        CHOWN_WITHOUT_GROUP,
        "--chown=USER: gives the files to the group root, not to the user's own",
    ),
    footgun(
        BROKEN_JSON_FORM,
        "A list that is not JSON is not an exec form: the shell gets it, brackets and all",
    ),
    footgun(
        HEREDOC_WITHOUT_ERREXIT,
        "Of a script without `set -e` only the last command's failure counts",
    ),
    footgun(
        PATH_CLAMPED,
        "`..` does not lead out of a context or an image: it is left out",
    ),
    footgun(
        SECRET_IN_LAYER,
        "A secret of the build is in a layer of the result",
    ),
    footgun(
        SECRET_IN_CONFIG,
        "A secret of the build is in the configuration or the history of the result",
    ),
];

const fn footgun(name: &'static str, description: &'static str) -> Footgun {
    Footgun { name, description }
}

impl Footgun {
    /// The one of that name.
    pub fn named(name: &str) -> Option<&'static Footgun> {
        FOOTGUNS.iter().find(|footgun| footgun.name == name)
    }

    /// Whether `# check=skip=` cannot silence it.
    pub fn is_binding(&self) -> bool {
        matches!(self.name, SECRET_IN_LAYER | SECRET_IN_CONFIG)
    }
}

/// A pattern matches nothing.
pub fn wildcard_without_match(span: Span, pattern: &str) -> Diagnostic {
    Diagnostic::warning(
        WILDCARD_WITHOUT_MATCH,
        span,
        format!("{pattern:?} matches nothing, so nothing is copied"),
    )
    .with_hint("correct the pattern, look at .dockerignore, or leave the source out")
}

/// Several sources are written to one path.
pub fn sources_to_one_file(span: Span, destination: &str) -> Diagnostic {
    Diagnostic::warning(
        SOURCES_TO_ONE_FILE,
        span,
        format!("several sources are copied to {destination:?} and only the last one stays"),
    )
    .with_hint(format!(
        "for a folder, write {:?}",
        format!("{destination}/")
    ))
}

/// A user or group is not in the image.
pub fn unknown_owner(span: Span, name: &str) -> Diagnostic {
    Diagnostic::warning(
        UNKNOWN_OWNER,
        span,
        format!("the image has no user or group {name:?}, so root owns what is made"),
    )
    .with_hint("make it in a RUN before, copy /etc/passwd and /etc/group, or give numbers")
}

/// `--chown=USER:`.
pub fn chown_without_group(span: Span, user: &str) -> Diagnostic {
    Diagnostic::warning(
        CHOWN_WITHOUT_GROUP,
        span,
        format!("--chown={user}: gives the files to the group root"),
    )
    .with_hint(format!(
        "--chown={user} for the group of {user}, --chown={user}:0 for root's"
    ))
}

/// What looks like a JSON array is none.
pub fn broken_json_form(span: Span, instruction: &str) -> Diagnostic {
    let taken = match instruction {
        "ADD" | "COPY" | "VOLUME" => "it is taken as words",
        _ => "the shell gets it as text",
    };
    Diagnostic::warning(
        BROKEN_JSON_FORM,
        span,
        format!("the list of {instruction} is no JSON: {taken}"),
    )
    .with_hint("double quotes around each string, commas between them: [\"a\", \"b\"]")
}

/// A script does not end at its first failure.
pub fn heredoc_without_errexit(span: Span) -> Diagnostic {
    Diagnostic::warning(
        HEREDOC_WITHOUT_ERREXIT,
        span,
        "the script goes on after a command that fails: only the last one's status counts",
    )
    .with_hint("begin it with set -e")
}

/// `..` leads above a root.
pub fn path_clamped(span: Span, path: &str, root: &str, taken: &str) -> Diagnostic {
    Diagnostic::warning(
        PATH_CLAMPED,
        span,
        format!("{path:?} leads out of {root}: {taken:?} is taken"),
    )
    .with_hint(format!(
        "write {taken:?}, or give what is outside with --build-context"
    ))
}

/// A secret is in a file of a layer; `place` is the file as people write it.
pub fn secret_in_layer(span: Span, secret: &str, place: &str) -> Diagnostic {
    Diagnostic::warning(
        SECRET_IN_LAYER,
        span,
        format!("secret {secret} is in {place}"),
    )
    .with_hint(
        "a later step cannot take it back: do not write it in this one; if the image was pushed, change the secret",
    )
}

/// A secret is in what an instruction leaves in the configuration.
pub fn secret_in_config(span: Span, secret: &str, place: &str) -> Diagnostic {
    Diagnostic::warning(
        SECRET_IN_CONFIG,
        span,
        format!("secret {secret} is in {place}"),
    )
    .with_hint("whoever has the image can read it: give it to the RUN that needs it with --mount=type=secret")
}

/// Whether a text that is no JSON array was meant as one: a quote directly after the bracket, or a quoted string and a comma.
/// `[ "$a" = b ]` is a command of the shell.
pub fn is_broken_json(text: &str) -> bool {
    let Some(inside) = text.trim_start().strip_prefix('[') else {
        return false;
    };
    if serde_json::from_str::<Vec<String>>(text.trim()).is_ok() {
        return false;
    }
    const QUOTES: [char; 6] = ['"', '\'', '“', '”', '‘', '’'];
    if inside.starts_with(QUOTES) {
        return true;
    }
    let inside = inside.trim_start();
    let Some(quote) = inside.chars().next().filter(|c| QUOTES.contains(c)) else {
        return false;
    };
    let rest = &inside[quote.len_utf8()..];
    rest.find(QUOTES).is_some_and(|end| {
        rest[end..]
            .chars()
            .skip(1)
            .find(|c| !c.is_whitespace())
            .is_some_and(|c| c == ',')
    })
}

/// Shells, by the names of their programs.
const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "ksh", "zsh"];

/// Whether the words of a command start a shell that ends at the first failure; `None` if they start no shell.
pub fn shell_exits_early<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<bool> {
    let mut program = words.next()?;
    if program.ends_with("/env") || program == "env" {
        program = words.next()?;
    }
    if program.rsplit('/').next() == Some("busybox") {
        program = words.next()?;
    }
    let name = program.rsplit('/').next()?;
    if !SHELLS.contains(&name) {
        return None;
    }
    let mut before = "";
    Some(words.any(|word| {
        let exits = sets_errexit(before, word);
        before = word;
        exits
    }))
}

/// Whether a word of `set` or of a shell's command line, after another, sets errexit: `-e`, `-eux`, `-o errexit`.
fn sets_errexit(before: &str, word: &str) -> bool {
    let short = |text: &str| {
        text.strip_prefix('-')
            .is_some_and(|letters| !letters.starts_with('-') && letters.contains('e'))
    };
    let flag = |text: &str| text.starts_with('-') && text.ends_with('o');
    (word == "errexit" && flag(before)) || (short(word) && !word.contains("errexit"))
}

/// Whether a shell's script goes on after a failure: it has several commands, and does not begin with `set -e`.
pub fn script_goes_on(script: &str) -> bool {
    let mut commands = 0;
    let mut continues = false;
    for line in script.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split([' ', '\t', ';']).filter(|w| !w.is_empty());
        if !continues && words.next() == Some("set") {
            let mut before = "";
            let exits = words.any(|word| {
                let exits = sets_errexit(before, word);
                before = word;
                exits
            });
            if exits && commands == 0 {
                return false;
            }
            // It cannot fail, and another may follow.
            continue;
        }
        if !continues {
            commands += 1;
        }
        continues = ["\\", "&&", "||", "|"]
            .iter()
            .any(|end| line.ends_with(end));
    }
    commands > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_no_json() {
        for text in [
            "[\"a\" \"b\"]",
            "[\"a\", \"b\"",
            "['a', 'b']",
            "[\"a\",]",
            "[“a”, “b”]",
            "[ 'a', 'b' ]",
            "[ \"a\" , b ]",
            "[\"a\", \"b\"] && c",
        ] {
            assert!(is_broken_json(text), "{text}");
        }
        for text in [
            "",
            "a",
            "[\"a\", \"b\"]",
            " [ \"a\" ] ",
            "[]",
            "[ -f /x ] && y",
            "[ \"$A\" = b ] || exit 1",
            "[ 'a' ]",
            "[[ \"a\" ]]",
            "[abc]*.txt",
            "echo [\"a\"",
        ] {
            assert!(!is_broken_json(text), "{text}");
        }
    }

    #[test]
    fn scripts_that_go_on() {
        for script in [
            "a\nb\n",
            "# set -e\na\nb\n",
            "a\nset -e\nb\n",
            "set -x; set +e\na\nset -e\nb\n",
            "set -x\na\nb\n",
            "set +e\na\nb\n",
            "set -o pipefail\na\nb",
            "a &&\n b\nc\n",
        ] {
            assert!(script_goes_on(script), "{script}");
        }
        for script in [
            "",
            "a\n",
            "\n# word\n  a\n",
            "set -e\na\nb\n",
            "set -eux; a\nb\n",
            "set -euo pipefail\na\nb\n",
            "set -o errexit\na\nb\n",
            "set -x\nset -e\na\nb\n",
            "a && \\\n b\n",
            "a &&\n b ||\n c\n",
        ] {
            assert!(!script_goes_on(script), "{script}");
        }
    }

    #[test]
    fn shells_by_their_command_lines() {
        for (words, want) in [
            ("/bin/sh -c", Some(false)),
            ("/bin/sh -ec", Some(true)),
            ("/bin/bash -euo pipefail -c", Some(true)),
            ("/bin/bash -o errexit -c", Some(true)),
            ("/usr/bin/env bash", Some(false)),
            ("/usr/bin/env -S", None),
            ("/bin/busybox sh -e", Some(true)),
            ("python3 -c", None),
            ("/bin/sh --posix", Some(false)),
            ("", None),
        ] {
            assert_eq!(shell_exits_early(words.split_whitespace()), want, "{words}");
        }
    }
}
