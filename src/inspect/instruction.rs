//! What a history entry says, as the Dockerfile said it.

/// The instruction in the words of a Dockerfile, on one line, from the `created_by` that docker, BuildKit, buildah or strata wrote.
pub fn instruction(created_by: &str) -> String {
    let text = created_by.trim();
    let text = text.strip_suffix("# buildkit").unwrap_or(text).trim_end();
    let text = match text.strip_prefix("/bin/sh -c ") {
        Some(rest) => match rest.trim_start().strip_prefix("#(nop)") {
            // Docker's older builder: what is no command is a comment of the shell.
            Some(said) => said.trim_start().to_owned(),
            None => format!("RUN {rest}"),
        },
        None => without_arguments(text),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// `RUN |2 A=1 B=2 /bin/sh -c make` as `RUN make`: the values of build arguments are not the instruction's.
fn without_arguments(text: &str) -> String {
    let (run, rest) = match text.strip_prefix("RUN ") {
        Some(rest) => ("RUN ", rest),
        None => ("", text),
    };
    let counted = rest.strip_prefix('|').and_then(|r| {
        let (count, rest) = r.split_once(' ')?;
        Some((count.parse::<usize>().ok()?, rest))
    });
    let command = match counted {
        // Values may hold blanks: the shell is a surer end than a count of words.
        Some((_, rest)) => match rest.split_once("/bin/sh -c ") {
            Some((_, command)) => Some(command),
            None => Some(rest),
        },
        None => rest.strip_prefix("/bin/sh -c "),
    };
    match command {
        Some(command) if run.is_empty() && counted.is_none() => command.to_owned(),
        Some(command) => format!("RUN {command}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_in_the_words_of_a_dockerfile() {
        for (created_by, want) in [
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            (
                "RUN |2 A=1 B=x y /bin/sh -c make all # buildkit",
                "RUN make all",
            ),
            (
                "RUN |1 A=1 /bin/bash -c make # buildkit",
                "RUN A=1 /bin/bash -c make",
            ),
            ("/bin/sh -c #(nop)  CMD [\"sh\"]", "CMD [\"sh\"]"),
            ("/bin/sh -c #(nop) ADD file:5a in / ", "ADD file:5a in /"),
            ("/bin/sh -c apt-get update", "RUN apt-get update"),
            ("|1 V=2 /bin/sh -c make", "RUN make"),
            ("COPY a /b # buildkit", "COPY a /b"),
            ("RUN echo a\n  echo b", "RUN echo a echo b"),
            ("strata import x.tar", "strata import x.tar"),
            ("# debian.sh --arch 'amd64'", "# debian.sh --arch 'amd64'"),
            ("", ""),
            ("RUN |", "RUN |"),
        ] {
            assert_eq!(instruction(created_by), want, "{created_by}");
        }
    }
}
