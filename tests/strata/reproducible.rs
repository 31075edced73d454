//! Twenty Dockerfiles, one digest each, whoever builds them; and `build --verify`, which says what is not so.

use std::process::Output;

use serde_json::Value;
use strata::oci::Digest;

use crate::lab::{Lab, said, succeed};
use crate::user::User;

/// What a step can do, each by itself and some together. All bases are of the tests' registry.
const DOCKERFILES: [(&str, &str); 20] = [
    ("copy", "FROM @REG@/busybox\nCOPY dir /d\nCOPY a.txt /d/\n"),
    (
        "copy-as",
        "FROM @REG@/busybox\nCOPY --chown=7:8 --chmod=0640 dir /d\n",
    ),
    (
        "copy-link",
        "FROM @REG@/busybox\nCOPY --link dir /made/d\nCOPY --link --chown=1:1 a.txt /made/\n",
    ),
    (
        "copy-parents",
        "# syntax=docker/dockerfile:1-labs\nFROM @REG@/busybox\nCOPY --parents dir/sub /p/\nCOPY --exclude=*.sh dir /q\n",
    ),
    (
        "add",
        "FROM @REG@/busybox\nADD tree.tar.gz /t/\nADD a.txt /t/\n",
    ),
    (
        "heredoc",
        "FROM @REG@/busybox\nCOPY <<one <<two /h/\n1\none\n2\ntwo\nRUN <<EOF\nset -e\necho run >/h/run\nEOF\n",
    ),
    (
        "run",
        "FROM @REG@/busybox\nRUN mkdir -p /a/b/c; echo x >/a/b/f; ln -s b/f /a/s; ln /a/b/f /a/h; mkfifo /a/p\n",
    ),
    (
        "run-modes",
        "FROM @REG@/busybox\nRUN mkdir -m 700 /m; touch /m/f; chmod 4711 /m/f; umask 027; touch /m/g; mkdir /m/d; chmod 1777 /m/d\n",
    ),
    (
        "run-removes",
        "FROM @REG@/busybox\nRUN rm -rf /var /home; mkdir /home; touch /home/new\nRUN rm /etc/passwd\n",
    ),
    (
        "run-user",
        "FROM @REG@/busybox\nRUN echo 'u:x:99:99::/u:/bin/sh' >>/etc/passwd; mkdir -m 777 /u\nUSER u\nWORKDIR /u/w\nRUN id -u >/u/id\n",
    ),
    (
        "run-big",
        "FROM @REG@/busybox\nRUN seq 1 1500000 >/big; yes zeros | head -c 9000000 >/two\n",
    ),
    (
        "run-many",
        "FROM @REG@/busybox\nRUN for i in $(seq 1 300); do mkdir -p /n/$((i % 7)); echo $i >/n/$((i % 7))/$i; done\n",
    ),
    (
        "run-nothing",
        "FROM @REG@/busybox\nRUN true\nRUN touch /etc/passwd\n",
    ),
    (
        "mounts",
        "FROM @REG@/busybox\nRUN --mount=type=bind,target=/c --mount=type=cache,target=/k --mount=type=tmpfs,target=/t cp -r /c/dir /k/; cp -r /k/dir /out; echo x >/t/x\n",
    ),
    (
        "stages",
        "FROM @REG@/busybox AS a\nRUN seq 1 100 >/a\nFROM @REG@/busybox AS b\nRUN seq 1 100 | tac >/b\nFROM @REG@/busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    ),
    (
        "scratch",
        "FROM --platform=$BUILDPLATFORM @REG@/busybox AS b\nRUN mkdir /r; echo x >/r/x\nFROM scratch\nCOPY --from=b /r /\nENTRYPOINT [\"/x\"]\n",
    ),
    (
        "config",
        "FROM @REG@/busybox\nLABEL z=1 a=2\nENV B=2 A=1\nEXPOSE 90 80/udp\nVOLUME /v2 /v1\nUSER 5\nHEALTHCHECK CMD true\nSTOPSIGNAL INT\nCMD [\"sh\"]\n",
    ),
    (
        "arguments",
        "ARG TAG=latest\nFROM @REG@/busybox:$TAG\nARG SOURCE_DATE_EPOCH\nARG WORD=w\nRUN echo $SOURCE_DATE_EPOCH $WORD >/args\n",
    ),
    (
        "onbuild",
        "FROM @REG@/busybox AS base\nONBUILD RUN echo on >/on\nFROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nWORKDIR /x/y\nRUN pwd >where\n",
    ),
    (
        "times",
        "FROM @REG@/busybox\nRUN mkdir /t; touch /t/now; touch -d '1999-01-02 03:04:05' /t/old; touch -d '2030-01-02 03:04:05' /t/new; date +%s >/dev/null\n",
    ),
];

/// Who builds, and in what surroundings: a shell's words before the builds, a command before `strata`, and flags.
struct Surroundings {
    user: Option<User>,
    before: &'static str,
    prefix: &'static str,
    flags: &'static str,
}

/// The digests of all Dockerfiles, built in both ways that fix times.
fn digests(surroundings: Surroundings) -> Vec<(String, String)> {
    let lab = Lab::of(surroundings.user);
    for (name, text) in DOCKERFILES {
        lab.write(&format!("Dockerfile.{name}"), text);
    }
    lab.write("a.txt", "a\n");
    lab.write("dir/b.txt", "b\n");
    lab.write("dir/sub/run.sh", "#!/bin/sh\n");
    succeed(&mut lab.shell(
        "chmod 755 . dir; chmod 644 a.txt dir/b.txt Dockerfile.*; chmod 711 dir/sub; chmod 755 dir/sub/run.sh
         ln -s ../a.txt dir/link; mkdir -p tree/d; echo c >tree/d/c; chmod 755 tree/d; chmod 600 tree/d/c
         tar --sort=name --mtime=@1600000000 --owner=33 --group=33 --numeric-owner -czf tree.tar.gz -C tree .
         rm -r tree; printf 'Dockerfile.*\\n*.json\\n*.tar\\n' >.dockerignore; chmod 644 .dockerignore",
    ));
    let mut all = Vec::new();
    for (name, _) in DOCKERFILES {
        // The one whose base is nobody's: an index of two platforms.
        let platforms = match name {
            "scratch" => "--platform linux/amd64,linux/arm64",
            _ => "",
        };
        for (way, flags) in [
            (
                "epoch",
                "--build-arg SOURCE_DATE_EPOCH=1700000000 -o type=oci,dest=out.tar,rewrite-timestamp=true",
            ),
            (
                "timestamp",
                "--timestamp 1700000000 -o type=oci,dest=out.tar",
            ),
        ] {
            succeed(&mut lab.shell(&format!(
                "{}\n{} strata build -q --no-cache {} {flags} {platforms} --metadata-file m.json -f Dockerfile.{name} .",
                surroundings.before, surroundings.prefix, surroundings.flags
            )));
            let text = std::fs::read(lab.folder.join("m.json")).expect("it was written");
            let metadata: Value = serde_json::from_slice(&text).expect("it is JSON");
            let digest = metadata["containerimage.digest"].as_str();
            let digest = digest.expect("a digest is text").to_owned();
            all.push((format!("{name} by {way}"), digest));
            let archive = std::fs::read(lab.folder.join("out.tar")).expect("it was written");
            let archive = Digest::of(&archive).to_string();
            all.push((format!("the archive of {name} by {way}"), archive));
        }
    }
    all
}

#[test]
fn twenty_dockerfiles_have_one_digest_each() {
    let plain = digests(Surroundings {
        user: None,
        before: "",
        prefix: "",
        flags: "",
    });
    assert_eq!(plain.len(), 80);
    let is_root = rustix::process::geteuid().is_root();
    let others = digests(Surroundings {
        user: is_root.then(User::ordinary),
        // Another day's checkout, another place's clock and words, one processor.
        before: "umask 077; export TZ=Asia/Kathmandu LC_ALL=tr_TR.UTF-8 LANG=C HOSTNAME=other
                 find . -exec touch -h -d '2024-03-04 05:06:07' {} +",
        prefix: "taskset -c 0",
        flags: "--jobs 1",
    });
    let wrong: Vec<_> = plain.iter().zip(&others).filter(|(a, b)| a != b).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn verify(lab: &Lab, flags: &[&str]) -> Output {
    let all = [&["build", "--verify", "--progress", "plain"], flags, &["."]].concat();
    lab.strata(&all).output().expect("start it")
}

#[test]
fn what_is_not_reproducible_is_named() {
    let now = "$(date +%s)";
    let cases = [
        // Steps that make a file that is never the same: the path, and how it differs.
        ("date >/f", "/f: content at offset "),
        (
            "head -c 12 /dev/urandom | base64 >/f",
            "/f: content at offset 0: \"",
        ),
        (
            "seq 1 500 | shuf >/d/f",
            "/d/f: order: the same lines, another one is line ",
        ),
        ("ls -lc --full-time / >/f", "/f: content at offset "),
        ("touch /f; chown NOW /f", "/f: owner: "),
        (
            "touch /f; chmod $(printf %o $((NOW % 4096))) /f",
            "/f: mode: ",
        ),
        ("ln -s NOW /f", "/f: link target: "),
        ("touch /f-NOW", ": only in the first build"),
        ("head -c $((NOW % 100000)) /dev/zero >/f", "; size: "),
        (
            "mkdir /e; echo same >/e/a; echo NOW >/e/b",
            "/e/b: content at offset ",
        ),
    ];
    let mut labs = vec![(Lab::new(), cases.len())];
    if rustix::process::geteuid().is_root() {
        labs.push((Lab::of(Some(User::ordinary())), 3));
    }
    for (lab, count) in &labs {
        for (step, words) in &cases[..*count] {
            let step = step.replace("NOW", now);
            let text =
                format!("FROM @REG@/busybox\nRUN mkdir /d\n\nRUN {step}\nRUN echo fine >/fine\n");
            lab.write("Dockerfile", &text);
            let done = verify(lab, &["--timestamp", "0", "-t", "app"]);
            assert_eq!(done.status.code(), Some(1), "{step}: {}", said(&done));
            let text = said(&done);
            let error = text
                .lines()
                .find(|l| l.starts_with("error: two builds differ: "));
            let error = error.unwrap_or_else(|| panic!("{step}: {text}"));
            assert!(
                error.contains(": Dockerfile:4: /") && error.contains(words),
                "{step}: {text}"
            );
            let marked = format!(">>> RUN {step}");
            assert!(text.contains(&marked) && !text.contains("hint: "), "{text}");
            assert!(!lab.images().contains("app"), "nothing is named");
        }
        lab.assert_sound();
    }
}

#[test]
fn where_a_difference_comes_from() {
    let lab = Lab::new();
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox AS make\nRUN echo unused $(date +%s) >/unused\nRUN mkdir /out; date +%s >/out/made\nFROM @REG@/busybox\nCOPY --from=make /out /app\n",
    );
    let flags = ["--timestamp", "0", "--metadata-file", "m.json"];
    let done = verify(&lab, &flags);
    let text = said(&done);
    for words in [
        "error: two builds differ: Dockerfile:3: /out/made: content at offset ",
        "in the image it is /app/made, by [stage-1 2/2] COPY --from=make /out /app",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let metadata = std::fs::read(lab.folder.join("m.json")).expect("it was written");
    let metadata: Value = serde_json::from_slice(&metadata).expect("it is JSON");
    let verdict = &metadata["strata.verify"][0];
    assert_eq!(verdict["reproducible"], false);
    let first = &verdict["first"]["path"];
    assert_eq!(
        (&first["path"], &first["lines"]["start"]),
        (&"/out/made".into(), &3.into())
    );
    assert_eq!(first["how"][0]["what"], "content-at");

    // As JSON lines it is the output of a step, and that step's error.
    let raw = lab.strata(&[
        "build",
        "--verify",
        "--progress",
        "rawjson",
        "--timestamp",
        "0",
        ".",
    ]);
    let raw = { raw }.output().expect("start it");
    let lines = String::from_utf8_lossy(&raw.stderr).into_owned();
    let failed = lines
        .lines()
        .filter(|line| line.starts_with('{'))
        .any(|line| {
            let value: Value = serde_json::from_str(line).expect("it is JSON");
            let vertexes = value["vertexes"].as_array().cloned().unwrap_or_default();
            vertexes.iter().any(|vertex| {
                vertex["name"] == "comparing the two builds"
                    && vertex["error"]
                        .as_str()
                        .is_some_and(|e| e.contains("/out/made"))
            })
        });
    assert!(failed, "{lines}");
}

#[test]
fn times_alone_have_a_hint() {
    let lab = Lab::new();
    for (text, words) in [
        (
            "FROM @REG@/busybox\nRUN touch /f\n",
            "Dockerfile:2: /f: mtime: ",
        ),
        (
            "FROM @REG@/busybox\nLABEL a=b\n",
            "created of the configuration",
        ),
    ] {
        lab.write("Dockerfile", text);
        let done = verify(&lab, &[]);
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        assert!(said(&done).contains(words), "{}", said(&done));
        let hint = "hint: only times differ: --timestamp SECONDS gives all files and the image one";
        assert!(said(&done).contains(hint), "{}", said(&done));
        let done = verify(
            &lab,
            &[
                "--timestamp",
                "1700000000",
                "-t",
                "app",
                "--metadata-file",
                "m.json",
            ],
        );
        assert!(done.status.success(), "{}", said(&done));
        assert!(said(&done).contains("two builds gave the same result: sha256:"));
        let metadata = std::fs::read(lab.folder.join("m.json")).expect("it was written");
        let metadata: Value = serde_json::from_slice(&metadata).expect("it is JSON");
        assert_eq!(metadata["strata.verify"][0]["reproducible"], true);
        assert!(lab.images().contains("app"));
    }
    // Without the flag: what the environment says is the image's time, and rewrite-timestamp the files'.
    let script =
        "SOURCE_DATE_EPOCH=5 strata build --verify -o type=oci,dest=o.tar,rewrite-timestamp=true .";
    succeed(&mut lab.shell(script));
    lab.assert_sound();
}
