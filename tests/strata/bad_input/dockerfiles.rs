//! Dockerfiles that cannot be built: name, text, what is said. The store has `busybox`, the context a file `here`.

pub(super) const CASES: &[(&str, &str, &[&str])] = &[
    ("empty", "", &["no instructions"]),
    ("only-comments", "# nothing\n", &["no instructions"]),
    (
        "no-from",
        "RUN true",
        &["line 1", "no build stage", "start with FROM"],
    ),
    ("no-stage", "ARG A=1", &["no stages to build"]),
    (
        "unknown-word",
        "FROM scratch\nCOYP here /",
        &["line 2", "COYP", "did you mean COPY"],
    ),
    (
        "unknown-flag",
        "FROM scratch\nCOPY --form=x here /",
        &["line 2", "form", "did you mean"],
    ),
    (
        "copy-one-word",
        "FROM scratch\nCOPY here",
        &["line 2", "COPY requires at least two"],
    ),
    (
        "copy-missing",
        "FROM scratch\nCOPY there /",
        &["\"?/?there\"?: not found", ">>> COPY there"],
    ),
    (
        "copy-unknown-stage",
        "FROM scratch\nCOPY --from=nowhere.invalid/x here /",
        &["nowhere\\.invalid"],
    ),
    (
        "copy-bad-chmod",
        "FROM scratch\nCOPY --chmod=9z here /",
        &["9z", "chmod|mode"],
    ),
    ("copy-bad-pattern", "FROM scratch\nCOPY [a /", &["\\[a"]),
    (
        "add-bad-checksum",
        "FROM scratch\nADD --checksum=sha256:12 http://@REG@/x /",
        &["sha256:12"],
    ),
    (
        "add-not-there",
        "FROM scratch\nADD http://127.0.0.1:1/x /",
        &["cannot fetch http://127\\.0\\.0\\.1:1/x"],
    ),
    (
        "add-bad-git",
        "FROM scratch\nADD http://127.0.0.1:1/x.git /",
        &["127\\.0\\.0\\.1:1/x\\.git"],
    ),
    (
        "from-empty-name",
        "FROM ${NOTHING}",
        &[
            "base name \\(\\$\\{NOTHING\\}\\) should not be blank",
            "line 1|:1",
        ],
    ),
    ("from-upper-case", "FROM BusyBox", &["must be lowercase"]),
    (
        "from-no-such-host",
        "FROM 127.0.0.1:1/app",
        &["127\\.0\\.0\\.1:1", "cannot connect"],
    ),
    (
        "from-unknown-flag",
        "FROM --platfrom=x scratch",
        &["platform"],
    ),
    (
        "from-bad-platform",
        "FROM --platform=a/b/c/d busybox",
        &["a/b/c/d"],
    ),
    ("from-bad-alias", "FROM scratch AS 1x!", &["1x!"]),
    (
        "from-too-many-words",
        "FROM scratch AS a b",
        &["FROM requires"],
    ),
    (
        "cycle",
        "FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nCOPY --from=a x /",
        &["circular|b.*not|b"],
    ),
    (
        "run-fails",
        "FROM busybox\nRUN echo before; exit 3",
        &["exit code: 3", "^ *2 \\| >>> RUN", "before"],
    ),
    (
        "run-not-there",
        "FROM busybox\nRUN [\"/nothing\"]",
        &["/nothing", "no such file|not found"],
    ),
    (
        "run-killed",
        "FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?",
        &["exit code: 137"],
    ),
    (
        "run-bad-mount",
        "FROM busybox\nRUN --mount=type=magic true",
        &["magic", "expected|unsupported|must be|invalid"],
    ),
    (
        "run-bad-mount-key",
        "FROM busybox\nRUN --mount=type=cache,traget=/x true",
        &["traget"],
    ),
    (
        "run-no-secret",
        "FROM busybox\nRUN --mount=type=secret,id=tok,required true",
        &["tok", "--secret id=tok"],
    ),
    (
        "run-no-ssh",
        "FROM busybox\nRUN --mount=type=ssh,required true",
        &["ssh"],
    ),
    (
        "run-bind-missing",
        "FROM busybox\nRUN --mount=type=bind,source=nope,target=/m true",
        &["nope"],
    ),
    (
        "run-bad-network",
        "FROM busybox\nRUN --network=mars true",
        &["mars"],
    ),
    (
        "run-insecure",
        "FROM busybox\nRUN --security=insecure true",
        &["security\\.insecure", "not allowed"],
    ),
    ("run-no-shell", "FROM scratch\nRUN true", &["/bin/sh"]),
    (
        "bad-user",
        "FROM busybox\nUSER stranger\nRUN true",
        &["stranger"],
    ),
    ("bad-json", "FROM busybox\nSHELL sh -c", &["SHELL", "JSON"]),
    ("bad-env", "FROM busybox\nENV", &["line 2", "ENV"]),
    (
        "bad-substitution",
        "FROM busybox\nENV A=${B",
        &["line 2|:2", "\\$\\{B|syntax|missing|unclosed|unterminated"],
    ),
    (
        "required-variable",
        "FROM busybox\nENV A=${B:?must be given}",
        &["must be given"],
    ),
    (
        "bad-expose",
        "FROM busybox\nEXPOSE many",
        &["EXPOSE", "many"],
    ),
    ("bad-port", "FROM busybox\nEXPOSE 70000", &["70000"]),
    (
        "bad-signal",
        "FROM busybox\nSTOPSIGNAL SIGNOPE",
        &["SIGNOPE"],
    ),
    (
        "bad-healthcheck",
        "FROM busybox\nHEALTHCHECK --interval=fast CMD true",
        &["fast"],
    ),
    ("heredoc-open", "FROM busybox\nRUN <<EOT\necho", &["EOT"]),
    (
        "onbuild-from",
        "FROM busybox\nONBUILD FROM x",
        &["FROM isn't allowed"],
    ),
    ("volume-empty", "FROM busybox\nVOLUME [\"\"]", &["VOLUME"]),
    (
        "label-half",
        "FROM busybox\nLABEL a=b c",
        &["line 2|:2", "LABEL|c"],
    ),
    ("escape-directive", "# escape=x\nFROM scratch", &["escape"]),
    (
        "workdir-on-file",
        "FROM busybox\nWORKDIR /bin/busybox/x",
        &["/bin/busybox|not a directory"],
    ),
    (
        "copy-onto-folder",
        "FROM busybox\nCOPY here /f\nCOPY here /f/g",
        &["/f"],
    ),
];
