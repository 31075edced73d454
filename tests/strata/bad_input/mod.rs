//! Input that strata must refuse: with words that say what is wrong, an exit code, and nothing half done.
//!
//! A case is a line of a table: its name, a shell script that sets the scene, the command, the exit code, and expressions that
//! must match what the command writes to standard error. Besides, for every case: there is no panic and no path of strata's
//! own scratch files in the words, the folder is as it was, the store's names are as they were, and `check` finds it clean.
//!
//! Both scripts run in an empty folder of the case; `$FIX` holds prepared files, `$SPARE` is a path where nothing is, for stores
//! that are to be broken, and `busybox` is in the store `$STRATA_ROOT`.

mod archives;
mod commands;
mod dockerfiles;
mod registries;
mod stores;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use regex_lite::{Regex, RegexBuilder};

use crate::image::sha256;
use crate::lab::{Lab, files, said, succeed};

/// One case.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    scene: &'static str,
    command: &'static str,
    code: i32,
    /// Expressions, whatever the case of letters.
    says: &'static [&'static str],
}

/// A line of a table.
const fn case(
    name: &'static str,
    scene: &'static str,
    command: &'static str,
    code: i32,
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        scene,
        command,
        code,
        says,
    }
}

/// What no message may hold: a panic's words, and names of strata's own scratch files.
const NEVER: &[&str] = &[
    "panicked",
    "RUST_BACKTRACE",
    "/store/work/",
    "/store/(layers|cache|mounts|locks)/",
    "/proc/self/fd",
    "(lower|upper|work)dir=",
    "(^|[^:0-9a-f])[0-9a-f]{64}",
    "os error [0-9]",
    "\\.tmp[A-Za-z0-9]{6}",
    "Os \\{",
    "Error\\(",
];

/// How many cases of a table run at the same time, each on a store of its own.
const JOBS: usize = 2;

/// Runs all cases of a table; panics with what is wrong about them.
fn check(cases: &[Case], prepare: impl Fn(&Lab) + Sync) {
    let filter = std::env::var("STRATA_CASES").ok();
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|globs| globs.split(',').any(|g| crate::pattern::matches(name, g)))
    };
    let queue = Mutex::new(cases.iter().rev().filter(|c| wanted(c.name)));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                let lab = Lab::new();
                let fixtures = lab.beside("fix");
                archives::prepare(&fixtures);
                succeed(&mut lab.shell(
                    "strata copy -q docker://@REG@/busybox busybox
                     strata copy -q docker://@REG@/busybox oci:../fix/layout:good
                     strata save -o ../fix/docker.tar busybox
                     strata save --format oci-archive -o ../fix/oci.tar busybox",
                ));
                prepare(&lab);
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(case) = next() {
                    if let Err(why) = judge(&lab, &fixtures, case) {
                        let text = format!("{}: {why}\n", case.name);
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push(text);
                    }
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// What is wrong with one case.
fn judge(lab: &Lab, fixtures: &Path, case: &Case) -> Result<(), String> {
    let here = lab.beside(&format!("case-{}", case.name));
    let spare = lab.folder.with_file_name(format!("spare-{}", case.name));
    let shell = |script: &str| {
        let mut command = lab.shell(script);
        command.current_dir(&here);
        command.env("FIX", fixtures).env("SPARE", &spare);
        command
    };
    let set = shell(case.scene).output().expect("start a shell");
    if !set.status.success() {
        return Err(format!("the scene cannot be set: {}", said(&set)));
    }
    let (folder, images) = (fingerprint(&here), lab.images());
    let mut command = shell(case.command);
    let done = command.stdout(Stdio::piped()).output().expect("start it");
    let words = String::from_utf8_lossy(&done.stderr);
    let mut wrong = Vec::new();
    if done.status.code() != Some(case.code) {
        wrong.push(format!("not exit code {}", case.code));
    }
    let matches = |expression: &str, text: &str| {
        let built = RegexBuilder::new(expression)
            .case_insensitive(true)
            .multi_line(true)
            .build();
        built.expect("the tables hold expressions").is_match(text)
    };
    for expression in case.says.iter().chain(&["^error: "]) {
        if !matches(expression, &words) {
            wrong.push(format!("does not say {expression:?}"));
        }
    }
    // Which files of the store are damaged is what `check` is asked.
    let words = match case.command.contains(" check") {
        true => Regex::new("(?m)^(error|warning): /[^ ]*: ")
            .expect("it is an expression")
            .replace_all(&words, "error: "),
        false => words,
    };
    for expression in NEVER.iter().filter(|e| matches(e, &words)) {
        wrong.push(format!("says {expression:?}"));
    }
    let after = fingerprint(&here);
    if after != folder {
        let differ = |(path, mark): &(&PathBuf, &String)| folder.get(*path) != Some(mark);
        let new: Vec<_> = after.iter().filter(differ).map(|(path, _)| path).collect();
        wrong.push(format!("leaves {new:?} in its folder, or takes files away"));
    }
    if lab.images() != images {
        wrong.push("changes the images".to_owned());
    }
    let checked = lab.strata(&["check"]).output().expect("run it");
    if !checked.status.success() {
        wrong.push(format!("check: {}", said(&checked)));
    }
    let left = files(&lab.root.join("work"));
    if !left.is_empty() {
        wrong.push(format!("left in work/: {left:?}"));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{}", wrong.join("; "), said(&done))),
    }
}

/// Every path of a folder, with what tells whether it changed.
fn fingerprint(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mark = |path: &PathBuf| {
        let full = folder.join(path);
        let meta = full.symlink_metadata().expect("it was listed");
        let content = match meta.is_file() {
            true => sha256(&std::fs::read(&full).expect("it can be read")),
            false => String::new(),
        };
        format!("{:o} {} {content}", meta.mode(), meta.len())
    };
    files(folder)
        .into_iter()
        .filter(|path| folder.join(path).symlink_metadata().is_ok())
        .map(|path| (path.clone(), mark(&path)))
        .collect()
}

/// Writes a file of the prepared ones.
fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), bytes).expect("write a file");
}

#[test]
fn dockerfile() {
    let cases: Vec<Case> = dockerfiles::CASES
        .iter()
        .map(|(name, text, says)| {
            let scene = format!("cat >Dockerfile <<'END'\n{text}\nEND\necho x >here");
            // Leaked: a table's text lives as long as the program.
            case(name, scene.leak(), "strata build -t made .", 1, says)
        })
        .collect();
    check(&cases, |_| ());
}

#[test]
fn context() {
    check(commands::CONTEXTS, |lab| {
        symlink("/nowhere", lab.beside("fix").join("dangling")).expect("make a link");
    });
}

#[test]
fn flags() {
    check(commands::FLAGS, |_| ());
}

#[test]
fn references() {
    check(commands::REFERENCES, |_| ());
}

#[test]
fn archives() {
    check(archives::CASES, |_| ());
}

#[test]
fn registries() {
    check(registries::CASES, |lab| {
        lab.registry.fault(registries::fault)
    });
}

#[test]
fn stores() {
    check(stores::CASES, |_| ());
}

/// A table that lost its cases would pass.
#[test]
fn there_are_enough_cases() {
    let tables = [
        commands::CONTEXTS,
        commands::FLAGS,
        commands::REFERENCES,
        archives::CASES,
        registries::CASES,
        stores::CASES,
    ];
    let count = dockerfiles::CASES.len() + tables.iter().map(|t| t.len()).sum::<usize>();
    assert!(count >= 250, "{count}");
}
