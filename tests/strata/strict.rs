//! What nobody means: told in a build, refused by `--strict`; and secrets in what is built.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Output;

use crate::lab::{Lab, files, said};

/// A lab with a context: files `a`, `b` and `sub/c`, and the Dockerfile.
fn lab(dockerfile: &str) -> Lab {
    let lab = Lab::new();
    lab.write("ctx/Dockerfile", dockerfile);
    for name in ["a", "b", "sub/c"] {
        lab.write(&format!("ctx/{name}"), name);
    }
    lab
}

fn build(lab: &Lab, flags: &[&str]) -> Output {
    let all: Vec<&str> = ["build", "-t", "made"]
        .iter()
        .chain(flags)
        .copied()
        .collect();
    let done = lab.strata(&all).arg("ctx").output().expect("run it");
    assert!(!said(&done).contains("panicked"), "{}", said(&done));
    done
}

/// What a build that works says.
#[track_caller]
fn warned(lab: &Lab, flags: &[&str]) -> String {
    let done = build(lab, flags);
    assert!(done.status.success(), "{}", said(&done));
    String::from_utf8(done.stderr).expect("text")
}

/// What a build that fails says.
#[track_caller]
fn refused(lab: &Lab, flags: &[&str]) -> String {
    let done = build(lab, flags);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    String::from_utf8(done.stderr).expect("text")
}

/// What is found: its name, the instruction, its line's place, what is said, what is to be done.
const FOUND: &[(&str, &str, &str, &str, &str)] = &[
    (
        "WildcardWithoutMatch",
        "COPY a *.none /x/",
        "2:8",
        "\"*.none\" matches nothing",
        "look at .dockerignore",
    ),
    (
        "SourcesToOneFile",
        "COPY a b /x",
        "2:10",
        "several sources are copied to \"/x\" and only the last one stays",
        "write \"/x/\"",
    ),
    (
        "SourcesToOneFile",
        "COPY [ab] /x",
        "2:11",
        "several sources",
        "write \"/x/\"",
    ),
    (
        "UnknownOwner",
        "COPY --chown=ada:wheel a /x",
        "2:14",
        "no user or group \"ada\"",
        "give numbers",
    ),
    (
        "UnknownOwner",
        "USER ada\nWORKDIR /new",
        "3:9",
        "no user or group \"ada\"",
        "give numbers",
    ),
    (
        "ChownWithoutGroup",
        "COPY --chown=root: a /x",
        "2:14",
        "to the group root",
        "--chown=root:0",
    ),
    (
        "BrokenJSONForm",
        "CMD [\"echo\" \"x\"]",
        "2:5",
        "the list of CMD is no JSON: the shell gets it as text",
        "[\"a\", \"b\"]",
    ),
    (
        "BrokenJSONForm",
        "ENTRYPOINT ['echo', 'x']",
        "2:12",
        "the list of ENTRYPOINT is no JSON",
        "double quotes",
    ),
    (
        "HeredocWithoutErrexit",
        "RUN <<EOT\nfalse\ntrue\nEOT",
        "2:5",
        "the script goes on after a command that fails",
        "set -e",
    ),
    (
        "PathClamped",
        "COPY ../../a /x",
        "2:6",
        "\"../../a\" leads out of the build context: \"a\" is taken",
        "--build-context",
    ),
    (
        "PathClamped",
        "WORKDIR /w\nCOPY a ../../x",
        "3:8",
        "\"../../x\" leads out of the image: \"/x\" is taken",
        "write \"/x\"",
    ),
];

#[test]
fn what_nobody_means_is_told_or_refused() {
    let lab = lab("");
    for (rule, line, at, message, mend) in FOUND {
        lab.write("ctx/Dockerfile", &format!("FROM @REG@/busybox\n{line}\n"));
        let number = at.split(':').next().unwrap();
        // The second build takes it from the cache, and tells it all the same.
        for _ in 0..2 {
            let heard = warned(&lab, &["-q", "--progress", "plain"]);
            let heard = match heard.is_empty() {
                true => warned(&lab, &[]),
                false => heard,
            };
            assert!(heard.contains(&format!(" - {rule}: ")), "{line}\n{heard}");
            assert!(heard.contains(message), "{line}\n{heard}");
            assert!(
                heard.contains(&format!("(line {number})")),
                "{line}\n{heard}"
            );
        }
        for flags in [&["--strict"][..], &["--strict", "--no-cache"]] {
            let images = lab.images();
            let heard = refused(&lab, flags);
            assert!(
                heard.contains(&format!("Dockerfile:{at}")),
                "{line}\n{heard}"
            );
            assert!(heard.contains("^"), "{line}\n{heard}");
            assert!(heard.contains(rule), "{line}\n{heard}");
            assert!(heard.contains(message), "{line}\n{heard}");
            let hints: Vec<&str> = heard.lines().filter(|l| l.contains("hint: ")).collect();
            assert!(hints.iter().any(|l| l.contains(mend)), "{line}\n{heard}");
            assert_eq!(lab.images(), images, "{line}");
        }
    }
    // Whoever knows better may say so.
    lab.write(
        "ctx/Dockerfile",
        "FROM @REG@/busybox\n# check=skip=SourcesToOneFile\nCOPY a b /x\n",
    );
    let heard = warned(&lab, &["--strict"]);
    assert!(!heard.contains("SourcesToOneFile"), "{heard}");
    // None of it is BuildKit's, so a check that is not strict says nothing.
    lab.write("ctx/Dockerfile", "FROM scratch\nCOPY ../a /\n");
    let check = |flags: &[&str]| {
        let all: Vec<&str> = ["build", "--check"].iter().chain(flags).copied().collect();
        let done = lab.strata(&all).arg("ctx").output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    assert_eq!(check(&[]).0, Some(0));
    let (code, text) = check(&["--strict"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("WARNING: PathClamped\n"), "{text}");
}

#[test]
fn what_is_meant_is_not_refused() {
    let lab = lab(
        "FROM @REG@/busybox\nRUN <<EOT\nset -eu\ntrue\ntrue\nEOT\nRUN [ -d /bin ] || false\nRUN mkdir /there\n\
         COPY a b /there\nCOPY a b ./\nCOPY a /one\nCOPY sub /two\nCOPY --chown=root:root a /y\nCOPY * /all/\nCMD [\"x\"]\n",
    );
    let heard = warned(&lab, &["--strict"]);
    assert!(!heard.contains("found"), "{heard}");
    lab.assert_sound();
}

/// Its base64 has all of `+`, `/` and `=`, and its URL form escapes.
const SECRET: &str = "~?>hunter2 + 31/~?>";

fn everything(lab: &Lab) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| {
        let full = lab.root.join(&path);
        let bytes = full
            .is_file()
            .then(|| std::fs::read(&full).ok())
            .flatten()?;
        Some((path, bytes))
    };
    files(&lab.root).into_iter().filter_map(read).collect()
}

fn blobs(lab: &Lab) -> BTreeSet<PathBuf> {
    files(&lab.root.join("blobs"))
}

#[test]
fn secrets_in_layers_are_found_however_they_are_written() {
    let run = "RUN --mount=type=secret,id=tok";
    let at = "/run/secrets/tok";
    let lab = lab("");
    lab.write("tok", &format!("{SECRET}\n"));
    lab.write("ctx/holds", &format!("before{SECRET}after"));
    let secret = &["--secret", "id=tok,src=tok"][..];
    for (line, place) in [
        (format!("{run} cp {at} /leak"), "/leak"),
        (
            format!("{run} (echo x; cat {at}) | base64 > /etc/leak"),
            "/etc/leak, in base64",
        ),
        (
            format!("{run} (echo -n xx; cat {at}) | base64 -w 7 > /leak"),
            "/leak, in base64",
        ),
        (
            format!("{run} cat {at} | base64 | tr +/ -_ > /leak"),
            "/leak, in base64",
        ),
        (
            "RUN (echo -n h/?q=%7E%3F%3Ehunter2%20; echo %2B%2031%2F%7E%3F%3E) > /leak".to_owned(),
            "/leak, URL-encoded",
        ),
        // The blocks of a layer are 1 MiB: it lies across their border.
        (
            format!(
                "{run} (head -c 1048058 /dev/zero; cat {at}; head -c 3000000 /dev/zero) > /leak"
            ),
            "/leak",
        ),
        (
            format!("{run} ln -s \"/$(cat {at})\" /link"),
            "a file's name",
        ),
        ("COPY holds /etc/".to_owned(), "/etc/holds"),
        ("ADD holds /x".to_owned(), "/x"),
        (format!("COPY <<EOT /doc\nx {SECRET}\nEOT"), "/doc"),
    ] {
        lab.write("ctx/Dockerfile", &format!("FROM @REG@/busybox\n{line}\n"));
        let told = format!("SecretInLayer: secret tok is in {place} (line 2)");
        for compression in ["gzip", "zstd"] {
            let output = format!("type=oci,dest=out.tar,compression={compression}");
            let flags = [secret, &["-o", &output, "--no-cache"]].concat();
            let heard = warned(&lab, &flags);
            assert!(heard.contains(&told), "{line}\n{heard}");
        }
        // A strict build leaves nothing: neither what the cache had counts, nor is what it made kept.
        let cached = refused(&lab, &[secret, &["--strict"]].concat());
        assert!(
            cached.contains(&format!("secret tok is in {place} [SecretInLayer]")),
            "{cached}"
        );
        let before = (blobs(&lab), lab.images());
        let heard = refused(&lab, &[secret, &["--strict", "--no-cache"]].concat());
        for words in [
            &format!("secret tok is in {place} [SecretInLayer]"),
            "Dockerfile:2:1",
            "2 | >>> ",
            "hint: a later step cannot take it back",
        ] {
            assert!(heard.contains(words), "{line}\n{heard}");
        }
        assert_eq!((blobs(&lab), lab.images()), before, "{line}");
    }
    lab.assert_sound();
}

#[test]
fn a_strict_failure_is_not_cached() {
    let lab = lab(
        "FROM @REG@/busybox\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /leak\nRUN touch /after\n",
    );
    lab.write("tok", SECRET);
    let flags = &["--secret", "id=tok,src=tok", "--strict"][..];
    for _ in 0..2 {
        let heard = refused(&lab, flags);
        assert!(!heard.contains("CACHED"), "{heard}");
        assert!(!heard.contains("[3/3]"), "nothing comes after it: {heard}");
    }
    for (path, bytes) in everything(&lab) {
        let here = memchr::memmem::find(&bytes, SECRET.as_bytes()).is_some();
        assert!(!here, "{}", path.display());
    }
    lab.assert_sound();
}

#[test]
fn a_cached_layer_is_told_of_and_nothing_of_the_secret_is_kept() {
    use base64::Engine as _;
    let lab = lab("FROM @REG@/busybox\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /leak\n");
    lab.write("tok", SECRET);
    let told = "SecretInLayer: secret tok is in /leak (line 2)";
    let secret = &["--secret", "id=tok,src=tok"][..];
    assert!(warned(&lab, secret).contains(told));
    // Also by a build that was given no secret.
    for flags in [secret, &[]] {
        let heard = warned(&lab, flags);
        assert!(heard.contains(told) && heard.contains("CACHED"), "{heard}");
    }
    let heard = refused(&lab, &["--strict"]);
    assert!(heard.contains("secret tok is in /leak"), "{heard}");
    let digest = crate::image::sha256(SECRET.as_bytes());
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    for (path, bytes) in everything(&lab)
        .into_iter()
        .filter(|(p, _)| p.starts_with("cache"))
    {
        for trace in [SECRET, &encoded[..12], digest.trim_start_matches("sha256:")] {
            let here = memchr::memmem::find(&bytes, trace.as_bytes()).is_some();
            assert!(!here, "{} in {}", trace, path.display());
        }
    }
}

#[test]
fn secrets_in_configurations_are_found() {
    let lab = lab("");
    lab.write("tok", SECRET);
    let secret = &["--secret", "id=tok,src=tok"][..];
    for (lines, at, place) in [
        (
            format!("ENV TOKEN=\"{SECRET}\""),
            2,
            "the image's history, by this ENV",
        ),
        (
            format!("LABEL token='{SECRET}'"),
            2,
            "the image's history, by this LABEL",
        ),
        (
            "ARG TOKEN\nRUN true".to_owned(),
            2,
            "the image's history, by this ARG",
        ),
        (
            format!("RUN echo '{SECRET}' >/dev/null"),
            2,
            "the image's history, by this RUN",
        ),
        (
            "ENV A=b\nCMD [\"--url\", \"h/%7E%3F%3Ehunter2+%2B+31%2F%7E%3F%3E\"]".to_owned(),
            3,
            "the image's history, by this CMD, URL-encoded",
        ),
    ] {
        lab.write("ctx/Dockerfile", &format!("FROM @REG@/busybox\n{lines}\n"));
        let argument = format!("TOKEN={SECRET}");
        let flags = [secret, &["--build-arg", &argument]].concat();
        let heard = warned(&lab, &flags);
        let told = format!("SecretInConfig: secret tok is in {place} (line {at})");
        assert!(heard.contains(&told), "{lines}\n{heard}");
        let heard = refused(&lab, &[&flags[..], &["--strict"]].concat());
        assert!(heard.contains(&format!("Dockerfile:{at}:1")), "{heard}");
        assert!(
            heard.contains("hint: whoever has the image can read it"),
            "{heard}"
        );
        assert!(!heard.contains("DONE 0.0s\n\n#3 [2/2]"), "{heard}");
    }
    lab.write("ctx/Dockerfile", "FROM @REG@/busybox\nRUN true\n");
    let label = format!("note={SECRET}");
    let heard = warned(&lab, &[secret, &["--label", &label]].concat());
    assert!(
        heard.contains("secret tok is in the label note of the image"),
        "{heard}"
    );
}

#[test]
fn what_cannot_be_looked_for_is_said() {
    let lab = lab(
        "FROM @REG@/busybox\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /leak || true\n",
    );
    lab.write("tok", "1234567\n");
    let heard = warned(&lab, &["--secret", "id=tok,src=tok", "--strict"]);
    assert!(
        heard.contains("note: secret tok is not looked for in layers: it is shorter than 8 bytes"),
        "{heard}"
    );
    let heard = warned(&lab, &["--strict", "--no-cache"]);
    assert!(!heard.contains("looked for"), "{heard}");
}

#[test]
fn a_secret_from_a_pipe_reaches_the_step_and_the_search() {
    let lab = lab("FROM @REG@/busybox\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /leak\n");
    let script = format!("echo '{SECRET}' | strata build --secret id=tok,src=/dev/stdin ctx");
    let done = lab.shell(&script).output().expect("run it");
    assert!(done.status.success(), "{}", said(&done));
    assert!(
        said(&done).contains("secret tok is in /leak"),
        "{}",
        said(&done)
    );
}

#[test]
fn warnings_reach_programs() {
    let lab = lab("FROM scratch\nCOPY none* /x/\n");
    let raw = warned(
        &lab,
        &["--progress", "rawjson", "--metadata-file", "meta.json"],
    );
    let text = std::fs::read_to_string(lab.folder.join("meta.json")).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = &meta["buildx.build.warnings"][0];
    assert_eq!(
        one["range"][0]["start"],
        serde_json::json!({ "line": 2, "character": 5 })
    );
    let told: Vec<serde_json::Value> = raw
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|value| value["warnings"].is_array())
        .collect();
    assert_eq!(told.len(), 1, "{raw}");
    assert_eq!(&told[0]["warnings"][0], one);
}
