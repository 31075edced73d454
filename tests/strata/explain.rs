//! `build --explain` and `--expect-cached`: a build, a change, and the same build again must name what changed, and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, said, succeed};
use crate::registry::Answer;

/// What happens between two builds. Paths are below the case's folder; the context is its folder `c`.
enum Do {
    /// A file is written, its folders too.
    Write(&'static str, &'static str),
    /// A text is replaced in a file.
    Sub(&'static str, &'static str, &'static str),
    /// A mode is set.
    Mode(&'static str, u32),
    /// A file or folder is removed.
    Remove(&'static str),
    /// A link is made in place of what is there.
    Link(&'static str, &'static str),
    /// A folder gets another name.
    Rename(&'static str, &'static str),
    /// The times of all files of the context become others.
    Touch,
    /// So many files `PATH/N` are written.
    Many(&'static str, usize),
    /// `strata` is run on the store.
    Strata(&'static [&'static str]),
    /// All layers' blobs vanish from the store.
    LoseLayers,
    /// What is in `web/repo` is committed to the repository `web/repo.git`.
    Commit,
}
use Do::*;

/// A case: its name, the files, flags of the first build, what happens, flags of the second, and each step that it may run with
/// why: `INSTRUCTION: REASON`, in order.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
    &'static [Do],
    &'static [&'static str],
    &'static [&'static str],
);

/// A folder of a case, with what it stands on.
struct Place<'l> {
    lab: &'l Lab,
    folder: PathBuf,
    store: PathBuf,
}

impl Place<'_> {
    fn strata(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.strata_on(&self.store, arguments);
        command.current_dir(&self.folder).env("FLAVOUR", "held");
        command
    }

    fn build(&self, flags: &[&str]) -> Command {
        let mut all = vec!["build", "--progress", "plain", "--jobs", "1"];
        // A context of its own, if the flags end in one.
        let (flags, context) = match flags.split_last() {
            Some((last, flags)) if last.starts_with("./") => (flags, *last),
            _ => (flags, "c"),
        };
        all.extend(flags);
        all.push(context);
        self.strata(&all)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("make a folder");
        fs::write(path, text.replace("@REG@", &self.lab.registry.host())).expect("write a file");
    }

    fn git(&self, folder: &str, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.current_dir(self.folder.join(folder))
            .args(["-c", "user.name=a", "-c", "user.email=a@example.test"])
            .args(arguments)
            .env("HOME", &self.folder);
        succeed(&mut git);
    }

    fn happen(&self, what: &Do) {
        let at = |path: &str| self.folder.join(path);
        match what {
            Write(path, text) => self.write(path, text),
            Sub(path, from, to) => {
                let text = fs::read_to_string(at(path)).expect("read it");
                assert!(text.contains(from), "{path} has no {from:?}");
                self.write(path, &text.replacen(from, to, 1));
            }
            Mode(path, mode) => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)).expect("chmod");
            }
            Remove(path) => remove(&at(path)),
            Link(path, target) => {
                if at(path).symlink_metadata().is_ok() {
                    remove(&at(path));
                }
                symlink(target, at(path)).expect("make a link");
            }
            Rename(from, to) => fs::rename(at(from), at(to)).expect("rename it"),
            Touch => succeed_in(&at("c"), "find . -exec touch -d @1000000000 {} +"),
            Many(path, count) => {
                for number in 0..*count {
                    self.write(&format!("{path}/{number:02}"), "x");
                }
            }
            Strata(arguments) => drop(succeed(&mut self.strata(arguments))),
            LoseLayers => {
                for blob in fs::read_dir(self.store.join("blobs/sha256")).expect("list it") {
                    let path = blob.expect("list it").path();
                    if fs::read(&path).expect("read it").starts_with(b"\x1f\x8b") {
                        remove(&path);
                    }
                }
            }
            Commit => {
                if !at("web/repo.git").exists() {
                    fs::create_dir_all(at("web/repo")).expect("make a folder");
                    self.git("web/repo", &["init", "-q", "-b", "main"]);
                    self.git("web", &["init", "-q", "--bare", "-b", "main", "repo.git"]);
                }
                self.git("web/repo", &["add", "-A"]);
                self.git("web/repo", &["commit", "-q", "-m", "work"]);
                self.git("web/repo", &["push", "-q", "../repo.git", "main"]);
                self.git("web/repo.git", &["update-server-info"]);
            }
        }
    }
}

fn remove(path: &Path) {
    match path.symlink_metadata().expect("it is there").is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
    .expect("remove it");
}

fn succeed_in(folder: &Path, script: &str) {
    succeed(
        Command::new("sh")
            .args(["-euc", script])
            .current_dir(folder),
    );
}

/// Digests, commits, times and addresses are others in every run.
fn steady(text: &str, lab: &Lab) -> String {
    let text = text.replace(&lab.registry.host(), "@REG@");
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || c == '-' {
            word.push(c);
            continue;
        }
        let is_hex = word.len() >= 40 && word.bytes().all(|b| b.is_ascii_hexdigit());
        out += if is_hex { "HEX" } else { &word };
        word.clear();
        out.push(c);
    }
    out.pop();
    match out.find("pruned at ") {
        Some(at) => format!("{}pruned at TIME", &out[..at]),
        None => out,
    }
}

/// `[stage-0 2/3] COPY a /` without the bracket.
fn instruction(name: &str) -> &str {
    name.split_once("] ").map_or(name, |(_, text)| text)
}

fn explained(metadata: &Value, lab: &Lab) -> Vec<String> {
    let steps = metadata["strata.explain"].as_array().expect("it was asked");
    let told = |step: &Value| -> Vec<String> {
        let name = instruction(step["name"].as_str().expect("it has a name")).to_owned();
        let reasons = step["reasons"].as_array().expect("it has reasons");
        assert!(!reasons.is_empty(), "{name} has no reason");
        let line = |reason: &Value| {
            assert!(reason["kind"].is_string(), "{reason}");
            let message = reason["message"].as_str().expect("in words");
            steady(&format!("{name}: {message}"), lab)
        };
        reasons.iter().map(line).collect()
    };
    steps.iter().flat_map(told).collect()
}

fn check(lab: &Lab, (name, files, first, happens, second, want): &Case) {
    let folder = lab.beside(name);
    let store = folder.join("store");
    let place = Place { lab, folder, store };
    fs::create_dir_all(place.folder.join("c")).expect("make a folder");
    let web = place.folder.join("web");
    lab.registry.fault(move |asked| {
        let path = asked.path.split('?').next()?.strip_prefix("/web/")?;
        Some(match fs::read(web.join(path)) {
            Ok(bytes) => Answer::new(200, bytes),
            Err(_) => Answer::new(404, *b""),
        })
    });
    for (path, text) in *files {
        place.write(path, text);
    }
    if files.iter().any(|(path, _)| path.starts_with("web/repo/")) {
        place.happen(&Commit);
    }
    succeed(&mut place.build(first));
    happens.iter().for_each(|what| place.happen(what));

    let expect = |flags: &[&str]| {
        let flags = [&["--expect-cached"], flags].concat();
        place.build(&flags).output().expect("run it")
    };
    let refused = expect(second);
    let told = steady(&said(&refused), lab);
    match want.first() {
        None => assert!(refused.status.success(), "{name}: {told}"),
        Some(reason) => {
            assert_eq!(refused.status.code(), Some(1), "{name}: {told}");
            let (step, reason) = reason.split_once(": ").expect("STEP: REASON");
            let words = [step, "to be cached: ", reason];
            assert!(words.iter().all(|w| told.contains(w)), "{name}: {told}");
        }
    }

    let flags = [&["--explain", "--metadata-file", "m.json"], *second].concat();
    let built = place.build(&flags).output().expect("run it");
    assert!(built.status.success(), "{name}: {}", said(&built));
    let metadata = fs::read(place.folder.join("m.json")).expect("it was written");
    let metadata = serde_json::from_slice(&metadata).expect("it is JSON");
    assert_eq!(explained(&metadata, lab), *want, "{name}: {}", said(&built));
    let plain = steady(&said(&built), lab);
    let lines = plain
        .lines()
        .filter(|l| l.contains(" not cached: "))
        .count();
    assert_eq!(lines, want.len(), "{name}: {plain}");
    for line in *want {
        let (_, reason) = line.split_once(": ").expect("STEP: REASON");
        assert!(
            plain.contains(&format!(" not cached: {reason}")),
            "{name}: {plain}"
        );
    }

    let again = expect(second);
    let may_run = second.iter().any(|flag| flag.starts_with("--no-cache"));
    assert_eq!(again.status.success(), !may_run, "{name}: {}", said(&again));
    let sound = place.strata(&["check"]).output().expect("run it");
    assert!(sound.status.success(), "{name}: {}", said(&sound));
    assert!(said(&sound).contains(": clean"), "{name}: {}", said(&sound));
}

fn all(cases: &[Case]) {
    let lab = Lab::new();
    for case in cases {
        check(&lab, case);
    }
}

const COPY: &[(&str, &str)] = &[
    ("c/Dockerfile", "FROM scratch\nCOPY d /d\n"),
    ("c/d/a", "a\n"),
    ("c/d/b", "b\n"),
];

#[test]
fn files() {
    all(&[
        ("same", COPY, &[], &[], &[], &[]),
        ("times", COPY, &[], &[Touch], &[], &[]),
        (
            "content",
            COPY,
            &[],
            &[Write("c/d/a", "A\n")],
            &[],
            &["COPY d /d: d/a changed: content"],
        ),
        (
            "mode",
            COPY,
            &[],
            &[Mode("c/d/b", 0o755)],
            &[],
            &["COPY d /d: d/b changed: mode 0644 → 0755"],
        ),
        (
            "content-and-mode",
            COPY,
            &[],
            &[Write("c/d/a", "A\n"), Mode("c/d/a", 0o600)],
            &[],
            &["COPY d /d: d/a changed: content, mode 0644 → 0600"],
        ),
        (
            "new-and-gone",
            COPY,
            &[],
            &[Rename("c/d/a", "c/d/z")],
            &[],
            &["COPY d /d: d/a is gone", "COPY d /d: d/z is new"],
        ),
        (
            "type",
            COPY,
            &[],
            &[Link("c/d/a", "b")],
            &[],
            &["COPY d /d: d/a changed: type file → symbolic link"],
        ),
        (
            "target",
            COPY,
            &[],
            &[
                Link("c/d/l", "a"),
                Strata(&["build", "-q", "c"]),
                Link("c/d/l", "b"),
            ],
            &[],
            &["COPY d /d: d/l changed: target a → b"],
        ),
        (
            "many",
            COPY,
            &[],
            &[Many("c/d/m", 23), Remove("c/d/b")],
            &[],
            &[
                "COPY d /d: d/b is gone",
                "COPY d /d: d/m/00 is new",
                "COPY d /d: d/m/01 is new",
                "COPY d /d: d/m/02 is new",
                "COPY d /d: d/m/03 is new",
                "COPY d /d: d/m/04 is new",
                "COPY d /d: d/m/05 is new",
                "COPY d /d: d/m/06 is new",
                "COPY d /d: d/m/07 is new",
                "COPY d /d: d/m/08 is new",
                "COPY d /d: d/m/09 is new",
                "COPY d /d: d/m/10 is new",
                "COPY d /d: d/m/11 is new",
                "COPY d /d: d/m/12 is new",
                "COPY d /d: d/m/13 is new",
                "COPY d /d: d/m/14 is new",
                "COPY d /d: d/m/15 is new",
                "COPY d /d: d/m/16 is new",
                "COPY d /d: d/m/17 is new",
                "COPY d /d: d/m/18 is new",
                "COPY d /d: 4 more files",
            ],
        ),
        (
            "ignored-no-more",
            &[
                ("c/Dockerfile", "FROM scratch\nCOPY . /d\n"),
                ("c/.dockerignore", "Dockerfile\n.dockerignore\n*.log\n"),
                ("c/a", "a\n"),
                ("c/x.log", "x\n"),
            ],
            &[],
            &[Sub("c/.dockerignore", "*.log\n", "")],
            &[],
            &["COPY . /d: x.log is new"],
        ),
        (
            "wildcard",
            &[
                ("c/Dockerfile", "FROM scratch\nCOPY t/*.txt /d/\n"),
                ("c/t/a.txt", "a\n"),
                ("c/t/b.txt", "b\n"),
                ("c/t/c.md", "c\n"),
            ],
            &[],
            &[Remove("c/t/b.txt"), Write("c/t/c.md", "C\n")],
            &[],
            &["COPY t/*.txt /d/: t/b.txt is gone"],
        ),
        (
            "other-stage",
            &[
                (
                    "c/Dockerfile",
                    "FROM scratch AS one\nCOPY d /d\nFROM scratch\nCOPY --from=one /d/a /a\nCOPY --from=one /d/b /b\n",
                ),
                ("c/d/a", "a\n"),
                ("c/d/b", "b\n"),
            ],
            &[],
            &[Write("c/d/b", "B\n")],
            &[],
            &[
                "COPY d /d: d/b changed: content",
                "COPY --from=one /d/b /b: /d/b of stage one changed: content",
            ],
        ),
        (
            "named-context",
            &[
                ("c/Dockerfile", "FROM scratch\nCOPY --from=docs p /p\n"),
                ("docs/p/q", "q\n"),
            ],
            &["--build-context", "docs=docs"],
            &[Write("docs/p/q", "Q\n")],
            &["--build-context", "docs=docs"],
            &["COPY --from=docs p /p: p/q of context docs changed: content"],
        ),
        (
            "another-named-context",
            &[
                ("c/Dockerfile", "FROM scratch\nCOPY --from=docs . /p\n"),
                ("one/q", "q\n"),
                ("two/r", "r\n"),
            ],
            &["--build-context", "docs=one"],
            &[],
            &["--build-context", "docs=two"],
            &[
                "COPY --from=docs . /p: q of context docs is gone",
                "COPY --from=docs . /p: r of context docs is new",
            ],
        ),
        (
            "moved-checkout",
            COPY,
            &[],
            &[Rename("c", "e"), Write("e/d/a", "A\n")],
            &["./e"],
            &["COPY d /d: d/a changed: content"],
        ),
    ]);
}

#[test]
fn instructions() {
    all(&[
        (
            "destination",
            COPY,
            &[],
            &[Sub("c/Dockerfile", "/d", "/e")],
            &[],
            &["COPY d /e: instruction changed: COPY d /d → COPY d /e"],
        ),
        (
            "source",
            COPY,
            &[],
            &[Sub("c/Dockerfile", "d /d", "d/a /d")],
            &[],
            &["COPY d/a /d: instruction changed: COPY d /d → COPY d/a /d"],
        ),
        (
            "chown",
            COPY,
            &[],
            &[Sub("c/Dockerfile", "COPY", "COPY --chown=1:2")],
            &[],
            &["COPY --chown=1:2 d /d: --chown is new: 1:2"],
        ),
        (
            "chmod",
            &[
                ("c/Dockerfile", "FROM scratch\nCOPY --chmod=600 a /d\n"),
                ("c/a", "a\n"),
            ],
            &[],
            &[Sub("c/Dockerfile", "600", "640")],
            &[],
            &["COPY --chmod=640 a /d: --chmod changed: 600 → 640"],
        ),
        (
            "link",
            COPY,
            &[],
            &[Sub("c/Dockerfile", "COPY", "COPY --link")],
            &[],
            &["COPY --link d /d: --link is new: true"],
        ),
        (
            "exclude",
            COPY,
            &[],
            &[Sub("c/Dockerfile", "COPY", "COPY --exclude=b")],
            &[],
            &[
                "COPY --exclude=b d /d: --exclude is new: b",
                "COPY --exclude=b d /d: d/b is gone",
            ],
        ),
        (
            "heredoc",
            &[(
                "c/Dockerfile",
                "FROM scratch\nCOPY <<E /d\none\ntwo\nthree\nE\n",
            )],
            &[],
            &[Sub("c/Dockerfile", "two", "2")],
            &[],
            &["COPY <<E /d: here-document E changed in line 2: two → 2"],
        ),
        (
            "heredoc-with-a-secret",
            &[(
                "c/Dockerfile",
                "FROM scratch\nARG NPM_TOKEN\nCOPY <<E /d\nnpm_token=$NPM_TOKEN\nE\n",
            )],
            &["--build-arg", "NPM_TOKEN=hunter1"],
            &[],
            &["--build-arg", "NPM_TOKEN=hunter2"],
            &["COPY <<E /d: here-document E changed in line 1"],
        ),
        (
            "nothing-that-counts",
            COPY,
            &[],
            &[
                Sub(
                    "c/Dockerfile",
                    "FROM",
                    "# syntax=docker/dockerfile:1\n\n# comment\nFROM",
                ),
                Sub("c/Dockerfile", "COPY d", "LABEL a=b\nCOPY   d"),
            ],
            &[],
            &[],
        ),
        (
            "workdir",
            &[("c/Dockerfile", "FROM scratch\nWORKDIR /a\nWORKDIR /w\n")],
            &[],
            &[Sub("c/Dockerfile", "/w", "/v")],
            &[],
            &["WORKDIR /v: instruction changed: WORKDIR /w → WORKDIR /v"],
        ),
        (
            "steps-above",
            &[
                (
                    "c/Dockerfile",
                    "FROM scratch\nCOPY d /d\nCOPY --link d /e\nWORKDIR /w\nCOPY d/b /b\n",
                ),
                ("c/d/a", "a\n"),
                ("c/d/b", "b\n"),
            ],
            &[],
            &[Sub("c/Dockerfile", "d /d", "d /f")],
            &[],
            &[
                "COPY d /f: instruction changed: COPY d /d → COPY d /f",
                "WORKDIR /w: because [1/4] COPY d /f ran",
                "COPY d/b /b: because [3/4] WORKDIR /w ran",
            ],
        ),
        (
            "inserted",
            COPY,
            &[],
            &[Sub("c/Dockerfile", "COPY", "WORKDIR /w\nCOPY")],
            &[],
            &[
                "WORKDIR /w: no earlier result of this step: it is new",
                "COPY d /d: because [1/2] WORKDIR /w ran",
            ],
        ),
        (
            "removed",
            &[
                (
                    "c/Dockerfile",
                    "FROM scratch\nWORKDIR /a\nWORKDIR /b\nCOPY d /d\n",
                ),
                ("c/d/a", "a\n"),
            ],
            &[],
            &[Sub("c/Dockerfile", "WORKDIR /b\n", "")],
            &[],
            &["COPY d /d: it now follows WORKDIR /a (was WORKDIR /b)"],
        ),
        (
            "first",
            COPY,
            &[],
            &[
                Write("e/Dockerfile", "FROM scratch\nCOPY z /d\n"),
                Write("e/z", "z\n"),
            ],
            &["./e"],
            &["COPY z /d: first build of this Dockerfile and context in this store"],
        ),
    ]);
}

#[test]
fn flags_and_the_store() {
    all(&[
        (
            "no-cache",
            COPY,
            &[],
            &[],
            &["--no-cache"],
            &["COPY d /d: --no-cache was given"],
        ),
        (
            "no-cache-filter",
            &[
                (
                    "c/Dockerfile",
                    "FROM scratch AS one\nCOPY d /d\nFROM scratch AS two\nCOPY d /e\n",
                ),
                ("c/d/a", "a\n"),
            ],
            &[],
            &[Sub("c/Dockerfile", "COPY d /e", "COPY --from=one /d /e")],
            &["--no-cache-filter", "one"],
            &[
                "COPY d /d: --no-cache-filter one was given",
                "COPY --from=one /d /e: instruction changed: COPY d /e → COPY /d /e",
            ],
        ),
        (
            "pruned",
            COPY,
            &[],
            &[Strata(&["prune", "--force"])],
            &[],
            &[
                "COPY d /d: first build of this Dockerfile and context in this store, or pruned at TIME",
            ],
        ),
        (
            "layer-lost",
            COPY,
            &["-o", "type=cacheonly"],
            &[LoseLayers],
            &["-o", "type=cacheonly"],
            &["COPY d /d: the layer of the earlier result is gone"],
        ),
        (
            "url",
            &[
                ("c/Dockerfile", "FROM scratch\nADD http://@REG@/web/f /f\n"),
                ("web/f", "f\n"),
            ],
            &[],
            &[Write("web/f", "F\n")],
            &[],
            &["ADD http://@REG@/web/f /f: http://@REG@/web/f changed: content"],
        ),
        (
            "git",
            &[
                (
                    "c/Dockerfile",
                    "FROM scratch\nADD http://@REG@/web/repo.git#main /r\n",
                ),
                ("web/repo/f", "f\n"),
            ],
            &[],
            &[Write("web/repo/f", "F\n"), Commit],
            &[],
            &[
                "ADD http://@REG@/web/repo.git#main /r: http://@REG@/web/repo.git#main moved: commit HEX → HEX",
            ],
        ),
        (
            "platform",
            &[
                ("c/Dockerfile", "FROM @REG@/multi\nCOPY d /d\n"),
                ("c/d/a", "a\n"),
            ],
            &["--platform", "linux/amd64"],
            &[],
            &["--platform", "linux/arm64"],
            &[
                "COPY d /d: platform changed: linux/amd64 → linux/arm64",
                "COPY d /d: base image changed: @REG@/multi:latest@sha256:HEX → @REG@/multi:latest@sha256:HEX",
            ],
        ),
        (
            "platform-that-does-not-count",
            COPY,
            &["--platform", "linux/amd64"],
            &[],
            &["--platform", "linux/arm64"],
            &[],
        ),
        (
            "base-moved",
            &[(
                "c/Dockerfile",
                "FROM @REG@/busybox\nRUN --network=none true\n",
            )],
            &[
                "--build-context",
                "@REG@/busybox=docker-image://@REG@/busybox",
            ],
            &[],
            &[
                "--build-context",
                "@REG@/busybox=docker-image://@REG@/symlinks",
            ],
            &[
                "RUN --network=none true: base image changed: @REG@/busybox:latest@sha256:HEX → @REG@/symlinks:latest@sha256:HEX",
            ],
        ),
        (
            "base-tagged-anew",
            &[
                ("b/Dockerfile", "FROM scratch\nCOPY f /f\n"),
                ("b/f", "f\n"),
                ("c/Dockerfile", "ARG BASE=scratch\nFROM $BASE\nCOPY d /d\n"),
                ("c/d/a", "a\n"),
            ],
            &[],
            &[
                Strata(&["build", "-q", "-t", "mine", "b"]),
                Strata(&["build", "-q", "--build-arg", "BASE=mine", "c"]),
                Write("b/f", "F\n"),
                Strata(&["build", "-q", "-t", "mine", "b"]),
            ],
            &["--build-arg", "BASE=mine"],
            &[
                "COPY d /d: base image changed: docker.io/library/mine:latest@sha256:HEX → docker.io/library/mine:latest@sha256:HEX",
            ],
        ),
    ]);
}

/// A Dockerfile of a RUN.
macro_rules! run {
    ($($line:expr),+) => {
        &[("c/Dockerfile", concat!("FROM @REG@/busybox AS below\n", $($line, "\n"),+))]
    };
}

#[test]
fn commands() {
    all(&[
        (
            "text",
            run!("RUN --network=none true \\", "  && echo one"),
            &[],
            &[Sub("c/Dockerfile", "echo one", "echo two")],
            &[],
            &[
                "RUN --network=none true   && echo two: instruction changed: RUN true   && echo one → RUN true   && echo two",
            ],
        ),
        (
            "long-text",
            run!(
                "RUN --network=none true 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 one"
            ),
            &[],
            &[Sub("c/Dockerfile", "9 one", "9 two")],
            &[],
            &[
                "RUN --network=none true 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 two: instruction changed: …456789 0123456789 0123456789 0123456789 one → …456789 0123456789 0123456789 0123456789 two",
            ],
        ),
        (
            "below-made-anew",
            run!(
                "RUN --network=none cat /proc/sys/kernel/random/uuid > /u",
                "FROM below",
                "RUN --network=none true"
            ),
            &[],
            &[Strata(&[
                "build",
                "-q",
                "--no-cache",
                "--target",
                "below",
                "c",
            ])],
            &[],
            &[
                "RUN --network=none true: RUN /bin/sh -c cat /proc/sys/kernel/random/uuid > /u has another result than this step was built on",
            ],
        ),
        (
            "below-run-again",
            run!(
                "RUN --network=none cat /proc/sys/kernel/random/uuid > /u",
                "FROM below",
                "RUN --network=none true"
            ),
            &[],
            &[],
            &["--no-cache-filter", "below"],
            &[
                "RUN --network=none cat /proc/sys/kernel/random/uuid > /u: --no-cache-filter below was given",
                "RUN --network=none true: because [below 2/2] RUN --network=none cat /proc/sys/kernel/random/uuid > /u ran",
            ],
        ),
        (
            "run-heredoc",
            run!("RUN --network=none <<E", "echo a", "echo b", "E"),
            &[],
            &[Sub("c/Dockerfile", "echo b", "echo c")],
            &[],
            &["RUN --network=none <<E (echo a...): instruction changed in line 2: echo b → echo c"],
        ),
        (
            "script",
            run!("RUN --network=none <<E", "#!/bin/sh", "echo b", "E"),
            &[],
            &[Sub("c/Dockerfile", "echo b", "echo c")],
            &[],
            &[
                "RUN --network=none <<E (#!/bin/sh...): here-document E changed in line 2: echo b → echo c",
            ],
        ),
        (
            "shell",
            run!("SHELL [\"/bin/sh\", \"-c\"]", "RUN --network=none true"),
            &[],
            &[Sub("c/Dockerfile", "\"-c\"", "\"-ec\"")],
            &[],
            &["RUN --network=none true: shell changed: /bin/sh -c → /bin/sh -ec"],
        ),
        (
            "user-and-directory",
            run!("RUN --network=none true"),
            &[],
            &[Sub("c/Dockerfile", "RUN", "USER 5\nRUN")],
            &[],
            &["RUN --network=none true: USER changed: \"\" → 5"],
        ),
        (
            "network",
            run!("RUN true"),
            &[],
            &[Sub("c/Dockerfile", "RUN", "RUN --network=none")],
            &[],
            &["RUN --network=none true: --network changed: default → none"],
        ),
        (
            "limits",
            run!("RUN --network=none true"),
            &["--ulimit", "nofile=1000", "--shm-size", "1m"],
            &[],
            &[
                "--ulimit",
                "nofile=2000",
                "--shm-size",
                "2m",
                "--add-host",
                "h:1.2.3.4",
            ],
            &[
                "RUN --network=none true: --add-host is new: h",
                "RUN --network=none true: --ulimit changed: nofile=1000:1000 → nofile=2000:2000",
                "RUN --network=none true: --shm-size changed: 1048576 → 2097152",
            ],
        ),
        (
            "argument",
            run!("ARG V=1", "RUN --network=none echo $V"),
            &[],
            &[],
            &["--build-arg", "V=2"],
            &["RUN --network=none echo 2: build argument V changed, to 2"],
        ),
        (
            "argument-of-the-environment",
            run!("ARG FLAVOUR", "RUN --network=none true"),
            &[],
            &[],
            &["--build-arg", "FLAVOUR"],
            &["RUN --network=none true: build argument FLAVOUR is new: held"],
        ),
        (
            "argument-used-later",
            run!(
                "RUN --network=none true",
                "ARG V=1",
                "RUN --network=none echo x",
                "WORKDIR /w"
            ),
            &[],
            &[],
            &["--build-arg", "V=2"],
            &[
                "RUN --network=none echo x: build argument V changed, to 2",
                "WORKDIR /w: because [3/4] RUN --network=none echo x ran",
            ],
        ),
        (
            "argument-gone",
            run!("ARG V=1", "RUN --network=none true"),
            &[],
            &[Sub("c/Dockerfile", "ARG V=1\n", "")],
            &[],
            &["RUN --network=none true: build argument V is gone"],
        ),
        (
            "secret-argument",
            run!("ARG NPM_TOKEN", "RUN --network=none true"),
            &["--build-arg", "NPM_TOKEN=hunter1"],
            &[],
            &["--build-arg", "NPM_TOKEN=hunter2"],
            &["RUN --network=none true: build argument NPM_TOKEN changed"],
        ),
        (
            "environment",
            run!("ENV A=1", "RUN --network=none true"),
            &[],
            &[Sub("c/Dockerfile", "A=1", "A=https://u:p@h/")],
            &[],
            &["RUN --network=none true: environment variable A changed, to https://xxxxx@h/"],
        ),
        (
            "environment-in-another-order",
            run!("ENV A=1 B=2", "RUN --network=none true"),
            &[],
            &[Sub("c/Dockerfile", "A=1 B=2", "B=2 A=1")],
            &[],
            &["RUN --network=none true: order of variables changed"],
        ),
        (
            "source-date-epoch",
            run!(
                "RUN --network=none true",
                "ARG SOURCE_DATE_EPOCH",
                "RUN --network=none echo x"
            ),
            &["--build-arg", "SOURCE_DATE_EPOCH=1"],
            &[],
            &["--build-arg", "SOURCE_DATE_EPOCH=2"],
            &["RUN --network=none echo x: build argument SOURCE_DATE_EPOCH changed, to 2"],
        ),
        (
            "proxies-and-secret-values",
            &[
                (
                    "c/Dockerfile",
                    "FROM @REG@/busybox\nRUN --network=none --mount=type=secret,id=s true\n",
                ),
                ("s", "one"),
            ],
            &[
                "--secret",
                "id=s,src=s",
                "--build-arg",
                "HTTP_PROXY=http://a",
            ],
            &[Write("s", "two")],
            &[
                "--secret",
                "id=s,src=s",
                "--build-arg",
                "HTTP_PROXY=http://b",
            ],
            &[],
        ),
    ]);
}

#[test]
fn mounts() {
    all(&[
        (
            "bind",
            &[
                (
                    "c/Dockerfile",
                    "FROM @REG@/busybox\nRUN --network=none --mount=type=bind,source=d,target=/d true\n",
                ),
                ("c/d/a", "a\n"),
            ],
            &[],
            &[Write("c/d/a", "A\n"), Write("c/d/b", "b\n")],
            &[],
            &[
                "RUN --network=none --mount=type=bind,source=d,target=/d true: d/a changed: content",
                "RUN --network=none --mount=type=bind,source=d,target=/d true: d/b is new",
            ],
        ),
        (
            "bind-of-a-stage",
            &[
                (
                    "c/Dockerfile",
                    "FROM scratch AS s\nCOPY d /d\nFROM @REG@/busybox\nRUN --network=none --mount=from=s,target=/s true\n",
                ),
                ("c/d/a", "a\n"),
            ],
            &[],
            &[Mode("c/d/a", 0o600)],
            &[],
            &[
                "COPY d /d: d/a changed: mode 0644 → 0600",
                "RUN --network=none --mount=from=s,target=/s true: /d/a of stage s changed: mode 0644 → 0600",
            ],
        ),
        (
            "cache-sharing-and-id",
            run!("RUN --network=none --mount=type=cache,target=/x,id=one true"),
            &[],
            &[Sub("c/Dockerfile", "id=one", "id=two,sharing=locked")],
            &[],
            &[
                "RUN --network=none --mount=type=cache,target=/x,id=two,sharing=locked true: cache /x id changed: one → two",
                "RUN --network=none --mount=type=cache,target=/x,id=two,sharing=locked true: cache /x sharing changed: shared → locked",
            ],
        ),
        (
            "cache-new",
            run!("RUN --network=none true"),
            &[],
            &[Sub(
                "c/Dockerfile",
                "=none",
                "=none --mount=type=cache,target=/x",
            )],
            &[],
            &["RUN --network=none --mount=type=cache,target=/x true: mount cache /x is new"],
        ),
        (
            "secret-required",
            &[
                (
                    "c/Dockerfile",
                    "FROM @REG@/busybox\nRUN --network=none --mount=type=secret,id=s true\n",
                ),
                ("s", "one"),
            ],
            &["--secret", "id=s,src=s"],
            &[Sub("c/Dockerfile", "id=s", "id=s,required")],
            &["--secret", "id=s,src=s"],
            &[
                "RUN --network=none --mount=type=secret,id=s,required true: secret s required changed: false → true",
            ],
        ),
        (
            "ssh-and-tmpfs",
            run!("RUN --network=none --mount=type=tmpfs,target=/t true"),
            &[],
            &[Sub("c/Dockerfile", "type=tmpfs,target=/t", "type=ssh")],
            &[],
            &[
                "RUN --network=none --mount=type=ssh true: mount ssh default is new",
                "RUN --network=none --mount=type=ssh true: mount tmpfs /t is gone",
            ],
        ),
    ]);
}

#[test]
fn for_programs() {
    let lab = Lab::new();
    lab.write("c/Dockerfile", "FROM scratch\nCOPY a /\n");
    lab.write("c/a", "a\n");
    lab.ok(&["build", "-q", "c"]);
    lab.write("c/a", "b\n");
    let flags = ["build", "--explain", "--progress", "rawjson", "c"];
    let built = lab.strata(&flags).output().expect("run it");
    let text = String::from_utf8(built.stderr).expect("it is text");
    let lines = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("it is JSON"));
    let told: Vec<Value> = lines.filter(|l| l["explanations"].is_array()).collect();
    let [told] = &told[..] else {
        panic!("{text}");
    };
    let told = &told["explanations"][0];
    assert!(
        text.contains(&format!("\"digest\":{}", told["vertex"])),
        "{text}"
    );
    let reason = serde_json::json!({
        "kind": "file", "path": "a", "from": null, "change": "changed", "what": ["content"],
        "message": "a changed: content",
    });
    assert_eq!(told["reasons"], serde_json::json!([reason]));
    // Without the flag nothing is said, and nothing is looked for.
    lab.write("c/a", "c\n");
    let built = lab.strata(&["build", "--metadata-file", "m", "--progress", "plain", "c"]);
    let said = said(&{ built }.output().expect("run it"));
    assert!(!said.contains("not cached"), "{said}");
    let metadata = fs::read_to_string(lab.folder.join("m")).expect("it was written");
    assert!(!metadata.contains("explain"), "{metadata}");
}
