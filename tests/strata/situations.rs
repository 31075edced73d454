//! What a user reads when a build fails: where, what, why, and what to do. All of it, to the letter.

use regex_lite::Regex;

use crate::lab::Lab;

/// A situation: name, Dockerfile (none where it is empty), flags.
const SITUATIONS: &[(&str, &str, &str)] = &[
    ("missing-dockerfile", "", "-f Dockerfiel"),
    ("missing-path", "", "-f nowhere/Dockerfile"),
    (
        "unknown-target",
        "FROM scratch AS one\nFROM scratch\n",
        "--target onee",
    ),
    (
        "no-such-target",
        "FROM scratch AS one\nFROM scratch\n",
        "--target zebra",
    ),
    ("unknown-flag", "FROM scratch\nCOPY --frm=x here /\n", ""),
    ("unknown-instruction", "FROM scratch\nCOPPY here /\n", ""),
    (
        "bad-reference",
        "FROM scratch AS build\nFROM Build/App\n",
        "",
    ),
    ("bad-tag", "FROM @REG@/busybox:a:b\n", ""),
    ("no-such-image", "FROM @REG@/nothing-here\n", ""),
    ("no-registry", "FROM 127.0.0.1:1/app AS app\n", ""),
    (
        "later-stage",
        "FROM scratch AS one\nCOPY --from=two /x /\nFROM scratch AS two\nFROM one\n",
        "",
    ),
    ("stage-number", "FROM scratch\nCOPY --from=7 /x /\n", ""),
    (
        "misspelled-source",
        "FROM scratch\nCOPY here sr/mian.rs /x/\n",
        "",
    ),
    ("source-elsewhere", "FROM scratch\nCOPY main.rs /\n", ""),
    ("source-nowhere", "FROM scratch\nCOPY quagga /\n", ""),
    (
        "ignored-source",
        "FROM scratch\nCOPY here \\\n  src/hidden.log /x/\n",
        "",
    ),
    (
        "source-in-stage",
        "FROM @REG@/busybox AS a\nFROM scratch\nCOPY --from=a /bin/busyboxx /\n",
        "",
    ),
    (
        "bind-source",
        "FROM @REG@/busybox\nRUN --mount=type=bind,source=nope,target=/m true\n",
        "",
    ),
    (
        "required-secret",
        "FROM @REG@/busybox\nRUN --mount=type=tmpfs,target=/t --mount=type=secret,id=tok,required true\n",
        "",
    ),
    (
        "required-agent",
        "FROM @REG@/busybox\nRUN --mount=type=ssh,required true\n",
        "",
    ),
    (
        "folder-over-file",
        "FROM scratch\nCOPY here /x\nCOPY src /x\n",
        "",
    ),
    (
        "file-over-folder",
        "FROM scratch\nCOPY src /x/here\nCOPY here /x/\n",
        "",
    ),
    (
        "unknown-user",
        "FROM @REG@/busybox\nUSER ada\nRUN true\n",
        "",
    ),
    (
        "wrong-checksum",
        "FROM scratch\nADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 http://@REG@/v2/ /x\n",
        "",
    ),
    (
        "failed-step",
        "FROM @REG@/busybox\nRUN echo one; \\\n  echo two; exit 3\n",
        "",
    ),
    ("empty-base", "ARG BASE\nFROM ${BSAE}\n", ""),
    (
        "unset-variable",
        "FROM scratch\nENV A=\"${B:?give B}\"\n",
        "",
    ),
    (
        "entitlement",
        "FROM @REG@/busybox\nRUN --network=host true\n",
        "",
    ),
];

/// What is said after the steps, with what differs from run to run left out.
fn said_at_the_end(lab: &Lab, flags: &str) -> String {
    let host = lab.registry.host();
    let script = format!("strata build --progress plain {flags} ctx");
    let done = lab.shell(&script).output().expect("run it");
    let root = lab.root.display().to_string();
    let text = String::from_utf8_lossy(&done.stderr).replace(&host, "REG");
    let text = text.replace(&root, "STORE");
    let id = Regex::new("(debug (?:--log )?|failed/)[0-9a-f]{8}").expect("an expression");
    let text = id.replace_all(&text, "${1}ID").into_owned();
    let code = done.status.code().unwrap_or(-1);
    let mut out = Vec::new();
    for line in text.lines() {
        let is_step = line.starts_with('#') || line.is_empty();
        if !is_step || !out.is_empty() {
            // The time of a line of a log.
            let words = line.split_once(' ').filter(|(time, _)| {
                time.len() == 5 && time.as_bytes()[1] == b'.' && time.starts_with('0')
            });
            out.push(words.map_or(line.to_owned(), |(_, rest)| format!("TIME {rest}")));
        }
    }
    out.push(format!("exit code {code}"));
    out.join("\n")
}

#[test]
fn every_situation_has_its_words() {
    let lab = Lab::new();
    let mut all = String::new();
    for (name, dockerfile, flags) in SITUATIONS {
        lab.write("ctx/here", "x");
        lab.write("ctx/src/main.rs", "x");
        lab.write("ctx/src/hidden.log", "x");
        lab.write("ctx/.dockerignore", "# what tools leave\n\n**/*.log\n");
        let path = lab.folder.join("ctx/Dockerfile");
        match dockerfile.is_empty() {
            true => {
                lab.write("ctx/build.dockerfile", "FROM scratch\n");
                let _ = std::fs::remove_file(&path);
            }
            false => lab.write("ctx/Dockerfile", dockerfile),
        }
        let said = said_at_the_end(&lab, flags);
        all.push_str(&format!("=== {name}\n{said}\n\n"));
    }
    insta::assert_snapshot!(all);
}
