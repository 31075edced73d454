//! `build --check`, `--call` and warnings of a build, as programs and people get them.

use serde_json::{Value, json};

use crate::lab::{Lab, said};

/// Standard output of a `build` in the folder, and its exit code.
fn build(lab: &Lab, flags: &[&str]) -> (String, Option<i32>) {
    let all: Vec<&str> = ["build"].iter().chain(flags).copied().collect();
    let done = lab.strata(&all).output().expect("run it");
    let out = String::from_utf8(done.stdout.clone()).expect("text");
    assert!(!said(&done).contains("panicked"), "{}", said(&done));
    (out, done.status.code())
}

const DOCKERFILE: &str = "ARG UNUSED=1\n# app is the application\nFROM scratch AS App\nCOPY seen hidden.log /x/\n\
     FROM app\n# PORT is where it listens\nARG PORT=80/UDP\nEXPOSE $PORT\nCMD run\n";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("ctx/Dockerfile", DOCKERFILE);
    lab.write("ctx/.dockerignore", "*.log\n");
    lab.write("ctx/seen", "x");
    lab.write("ctx/hidden.log", "x");
    lab
}

#[test]
fn a_check_in_text() {
    let (text, code) = build(&lab(), &["--check", "ctx"]);
    insta::assert_snapshot!(text, @r#"
    Check complete, 4 warnings have been found!

    WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
    Stage name 'App' should be lowercase
    Dockerfile:3:17
    --------------------
       1 |     ARG UNUSED=1
       2 |     # app is the application
       3 | >>> FROM scratch AS App
         |                     ^^^
       4 |     COPY seen hidden.log /x/
       5 |     FROM app
    --------------------

    WARNING: CopyIgnoredFile - https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/
    Attempting to Copy file "hidden.log" that is excluded by .dockerignore
    Dockerfile:4:11
    --------------------
       2 |     # app is the application
       3 |     FROM scratch AS App
       4 | >>> COPY seen hidden.log /x/
         |               ^^^^^^^^^^
       5 |     FROM app
       6 |     # PORT is where it listens
    --------------------

    WARNING: ExposeProtoCasing - https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/
    Defined port '80/UDP' in EXPOSE instruction should be in lowercase
    Dockerfile:8:8
    --------------------
       6 |     # PORT is where it listens
       7 |     ARG PORT=80/UDP
       8 | >>> EXPOSE $PORT
         |            ^^^^^
       9 |     CMD run
    --------------------

    WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
    JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
    Dockerfile:9:1
    --------------------
       7 |     ARG PORT=80/UDP
       8 |     EXPOSE $PORT
       9 | >>> CMD run
         |     ^^^
    --------------------
    "#);
    assert_eq!(code, Some(1));
}

#[test]
fn a_check_in_json() {
    let lab = lab();
    let (text, code) = build(&lab, &["--call", "check,format=json", "ctx"]);
    assert_eq!(code, Some(1));
    let value: Value = serde_json::from_str(&text).unwrap();
    let at = |line, from, to| {
        json!({ "ranges": [{
            "start": { "line": line, "character": from },
            "end": { "line": line, "character": to },
        }] })
    };
    assert_eq!(
        value["warnings"],
        json!([
            {
                "ruleName": "StageNameCasing",
                "description": "Stage names should be lowercase",
                "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
                "detail": "Stage name 'App' should be lowercase",
                "location": at(3, 16, 19),
            },
            {
                "ruleName": "CopyIgnoredFile",
                "description": "Attempting to Copy file that is excluded by .dockerignore",
                "url": "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/",
                "detail": "Attempting to Copy file \"hidden.log\" that is excluded by .dockerignore",
                "location": at(4, 10, 20),
            },
            {
                "ruleName": "ExposeProtoCasing",
                "description": "Protocol in EXPOSE instruction should be lowercase",
                "url": "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/",
                "detail": "Defined port '80/UDP' in EXPOSE instruction should be in lowercase",
                "location": at(8, 7, 12),
            },
            {
                "ruleName": "JSONArgsRecommended",
                "description": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
                "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
                "detail": "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
                "location": at(9, 0, 3),
            },
        ])
    );
    assert_eq!(value["sources"][0]["filename"], "Dockerfile");
    assert_eq!(value["buildError"], Value::Null);
    let (_, code) = build(&lab, &["--call=check,ignorestatus", "ctx"]);
    assert_eq!(code, Some(0));
}

#[test]
fn a_check_of_what_cannot_be_built() {
    let lab = lab();
    for (text, message, line) in [
        (
            "FROM scratch\nCOPPY a b\n",
            "dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)",
            2,
        ),
        (
            "FROM scratch\nEXPOSE many\n",
            "invalid EXPOSE \"many\": invalid containerPort: many",
            2,
        ),
        (
            "# check=error=true\nFROM scratch\nCMD x\n",
            "lint violation found for rules: JSONArgsRecommended",
            3,
        ),
    ] {
        lab.write("bad/Dockerfile", text);
        let (out, code) = build(&lab, &["--check", "--call", "check,format=json", "bad"]);
        assert_eq!(code, Some(1), "{text}");
        // The shorthand is for people.
        let (json, code) = build(&lab, &["--call", "check,format=json", "bad"]);
        assert_eq!(code, Some(1), "{text}");
        assert_eq!(out, json, "{text}");
        let value: Value = serde_json::from_str(&json).unwrap();
        let error = &value["buildError"];
        assert_eq!(error["message"], message, "{text}");
        assert_eq!(
            error["location"]["ranges"][0]["start"]["line"], line,
            "{text}"
        );
        let (out, code) = build(&lab, &["--check", "bad"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(out.contains(&format!("ERROR: {message}\n")), "{out}");
        assert!(out.contains(&format!("{line} | >>> ")), "{out}");
    }
    lab.write("good/Dockerfile", "FROM scratch\nCMD [\"x\"]\n");
    let (out, code) = build(&lab, &["--check", "good"]);
    assert_eq!(
        (out.as_str(), code),
        ("Check complete, no warnings found.\n", Some(0))
    );
}

#[test]
fn stages_and_what_they_take() {
    let lab = lab();
    let text = |flags: &[&str]| {
        let (text, code) = build(&lab, flags);
        assert_eq!(code, Some(0), "{flags:?}");
        text
    };
    insta::assert_snapshot!(text(&["--call", "targets", "ctx"]), @r"
    TARGET      DESCRIPTION
    app         is the application
    (default)
    ");
    insta::assert_snapshot!(text(&["--call", "outline", "ctx"]), @r"
    TARGET:      (default)

    BUILD ARG   VALUE    DESCRIPTION
    PORT        80/UDP   is where it listens
    ");
    let json = |flags: &[&str]| -> Value { serde_json::from_str(&text(flags)).unwrap() };
    let targets = json(&["--call", "targets,format=json", "ctx"]);
    let first = &targets["targets"][0];
    assert_eq!(first["name"], "app");
    assert_eq!(first["description"], "is the application");
    assert_eq!(first["base"], "scratch");
    assert_eq!(first["default"], Value::Null);
    assert_eq!(targets["targets"][1]["default"], true);
    let outline = json(&[
        "--call",
        "outline,format=json",
        "--build-arg",
        "PORT=81",
        "ctx",
    ]);
    assert_eq!(
        outline["args"],
        json!([{
            "name": "PORT",
            "value": "81",
            "description": "is where it listens",
            "location": { "ranges": [{
                "start": { "line": 7, "character": 4 },
                "end": { "line": 7, "character": 8 },
            }] },
        }])
    );
    let outline = json(&["--call", "outline,format=json", "--target", "app", "ctx"]);
    assert_eq!(
        (&outline["name"], &outline["args"]),
        (&json!("app"), &Value::Null)
    );
    let all = json(&["--call", "subrequests.describe,format=json", "ctx"]);
    assert_eq!(all[0]["name"], "frontend.lint");
    assert_eq!(lab.images(), "[]\n", "nothing was built");
}

#[test]
fn a_build_tells_of_what_it_found() {
    let lab = lab();
    lab.write("ctx/Dockerfile", "FROM scratch AS App\nCOPY seen /\n");
    let heard = |flags: &[&str]| {
        let all: Vec<&str> = ["build"].iter().chain(flags).copied().collect();
        let done = lab.strata(&all).output().expect("run it");
        assert!(done.status.success(), "{}", said(&done));
        String::from_utf8(done.stderr).expect("text")
    };
    let plain = heard(&["--metadata-file", "meta.json", "ctx"]);
    assert!(
        plain.contains(
            " 1 warning found (see strata build --check):\n - StageNameCasing: Stage name 'App' should be lowercase (line 1)"
        ),
        "{plain}"
    );
    let raw = heard(&["--progress", "rawjson", "ctx"]);
    let found: Vec<Value> = raw
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|value| value["warnings"].is_array())
        .collect();
    let [one] = &found[..] else {
        panic!("{raw}");
    };
    let one = &one["warnings"][0];
    use base64::Engine as _;
    let decode = |value: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(value.as_str().unwrap())
            .unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(
        decode(&one["short"]),
        "StageNameCasing: Stage name 'App' should be lowercase (line 1)"
    );
    assert_eq!(decode(&one["detail"][0]), "Stage names should be lowercase");
    assert_eq!(
        one["range"][0]["start"],
        json!({ "line": 1, "character": 16 })
    );
    assert_eq!(one["sourceInfo"]["filename"], "Dockerfile");
    let text = std::fs::read_to_string(lab.folder.join("meta.json")).unwrap();
    let meta: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(&meta["buildx.build.warnings"][0], one);
    let quiet = heard(&["--progress", "quiet", "ctx"]);
    assert_eq!(quiet, "");
}
