//! The bare git repositories that cases add and build from, served as plain files (git's "dumb" protocol).
//!
//! `repo.git`: `main` has two commits, the first tagged v1.0 (annotated); `dev` adds the submodule `sub.git`. They are made
//! by `git fast-import` with fixed authors and times, so every run has the same commit ids.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::EPOCH;

/// The commits that cases name.
pub(crate) struct Heads {
    /// `repo.git`, branch `main`.
    pub(crate) main: String,
    /// `repo.git`, branch `dev`.
    pub(crate) dev: String,
}

/// Makes `repo.git` and `sub.git` in `folder`.
pub(crate) fn repositories(folder: &Path) -> Heads {
    let sub = repository(
        &folder.join("sub.git"),
        &commit("main", 0, &[("sub.txt", "100644", "sub\n")], None),
    );
    let mut heads = repository(&folder.join("repo.git"), &history(&sub["main"]));
    let mut take = |branch: &str| heads.remove(branch).expect("fast-import made the branch");
    Heads {
        main: take("main"),
        dev: take("dev"),
    }
}

fn history(sub: &str) -> String {
    let first = commit(
        "main",
        0,
        &[
            ("README.md", "100644", "hello, git!\n"),
            ("bin/tool.sh", "100755", "#!/bin/sh\necho hi\n"),
            ("docs/guide/page.txt", "100644", "page\n"),
            ("latest.md", "120000", "README.md"),
            (
                "Dockerfile",
                "100644",
                "FROM scratch\nCOPY README.md docs/guide/page.txt /\n",
            ),
            (
                "docs/Dockerfile",
                "100644",
                "FROM scratch\nCOPY guide /g/\n",
            ),
        ],
        None,
    );
    let tag = format!(
        "tag v1.0\nfrom refs/heads/main\ntagger A <a@example.test> {EPOCH} +0000\ndata 4\nv1.0\n"
    );
    let second = commit("main", 1, &[("CHANGES", "100644", "changed\n")], None);
    let dev = commit(
        "dev",
        2,
        &[
            ("dev.txt", "100644", "dev\n"),
            ("sub", "160000", sub),
            (
                ".gitmodules",
                "100644",
                "[submodule \"sub\"]\npath = sub\nurl = ../sub.git\n",
            ),
        ],
        Some("refs/heads/main"),
    );
    [first, tag, second, dev].concat()
}

/// One commit in fast-import's language; a file is (path, mode, text), where a submodule's text is its commit.
fn commit(branch: &str, second: i64, files: &[(&str, &str, &str)], parent: Option<&str>) -> String {
    let who = format!("A <a@example.test> {} +0000", EPOCH + second);
    let mut text =
        format!("commit refs/heads/{branch}\nauthor {who}\ncommitter {who}\ndata 4\nwork\n");
    if let Some(parent) = parent {
        writeln!(text, "from {parent}").expect("a String takes all");
    }
    for (path, mode, data) in files {
        match *mode {
            "160000" => writeln!(text, "M {mode} {data} {path}"),
            _ => writeln!(text, "M {mode} inline {path}\ndata {}\n{data}", data.len()),
        }
        .expect("a String takes all");
    }
    text
}

/// Makes a bare repository from a fast-import stream; its branches and their commits.
fn repository(path: &Path, stream: &str) -> BTreeMap<String, String> {
    std::fs::create_dir_all(path).expect("make the repository's folder");
    git(path, &["init", "--bare", "-b", "main"], "");
    git(path, &["fast-import", "--quiet"], stream);
    git(path, &["update-server-info"], "");
    git(path, &["show-ref", "--heads"], "")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(commit, name)| {
            (
                name.trim_start_matches("refs/heads/").to_owned(),
                commit.to_owned(),
            )
        })
        .collect()
}

fn git(folder: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start git");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(input.as_bytes()).expect("write to git");
    drop(stdin);
    let done = child.wait_with_output().expect("wait for git");
    assert!(
        done.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).expect("git prints names and hashes")
}

#[test]
fn commits_are_the_same_in_every_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let heads = repositories(folder.path());
    assert_eq!((heads.main.len(), heads.dev.len()), (40, 40));
    assert_ne!(heads.main, heads.dev);
}
