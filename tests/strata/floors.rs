//! The floors of the house: a room imports only rooms on lower floors, only `sandbox` is unsafe, only `cli` prints.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

/// Every room and what it may import. A new room gets a row here and in the table of `src/lib.rs`.
const ROOMS: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("dockerfile", &[]),
    ("sandbox", &[]),
    ("layer", &["oci"]),
    ("plan", &["oci", "dockerfile"]),
    ("image", &["oci", "layer"]),
    ("registry", &["oci", "image"]),
    ("store", &["oci", "layer", "image"]),
    (
        "build",
        &[
            "oci",
            "dockerfile",
            "sandbox",
            "layer",
            "plan",
            "image",
            "store",
        ],
    ),
    ("inspect", &["oci", "dockerfile", "layer", "image", "store"]),
    (
        "cli",
        &[
            "oci",
            "dockerfile",
            "sandbox",
            "layer",
            "plan",
            "image",
            "registry",
            "store",
            "build",
            "inspect",
        ],
    ),
];

fn is_room(name: &str) -> bool {
    ROOMS.iter().any(|(room, _)| *room == name)
}

/// Code without its comments; string literals stay, and none of them looks like an import.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines
        .map(|line| line.split(" // ").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The rooms that code names by a path from the crate's root: `crate::room`, `crate::{room::x, other}`, `super::super::room`
/// (and, in the binary, the same after `strata::`).
fn imports(code: &str) -> BTreeSet<String> {
    let path = Regex::new(r"\b(?:crate|strata|super(?:::super)+)::(\w+|\{)").expect("well formed");
    let mut found = BTreeSet::new();
    for at in path.captures_iter(code) {
        let name = at.get(1).expect("the group is not optional");
        if name.as_str() == "{" {
            found.extend(group(&code[name.end()..]));
        } else {
            found.insert(name.as_str().to_owned());
        }
    }
    found.retain(|name| is_room(name));
    found
}

/// The first words of a brace group's members, up to its closing brace.
fn group(code: &str) -> Vec<String> {
    let (mut depth, mut members, mut word) = (0_usize, Vec::new(), String::new());
    for c in code.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    members.push(word);
    members
        .iter()
        .map(|member| {
            member
                .trim()
                .split("::")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

/// Every source file with the room it is in; `cli` for the binary's own.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the sources are readable") {
            let path = entry.expect("the sources are readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("found below it").to_owned();
                let first = below
                    .iter()
                    .next()
                    .expect("has a name")
                    .to_string_lossy()
                    .into_owned();
                let room = match first.as_str() {
                    "main.rs" => "cli".to_owned(),
                    "lib.rs" => continue,
                    _ => first,
                };
                if is_only_tests(&path) {
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("sources are text");
                found.push((room, below, code(&text)));
            }
        }
    }
    found
}

/// Whether the `mod.rs` beside a file has it for tests alone.
fn is_only_tests(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    std::fs::read_to_string(path.with_file_name("mod.rs"))
        .is_ok_and(|text| text.contains(&format!("#[cfg(test)]\nmod {name};")))
}

#[test]
fn rooms_import_only_lower_floors() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!(
                "{}: {room} is no room of the house",
                path.display()
            ));
            continue;
        };
        let above = imports(&code)
            .into_iter()
            .filter(|name| *name != room && !allowed.contains(&name.as_str()));
        wrong.extend(above.map(|name| format!("{}: {room} may not import {name}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_sandbox_is_unsafe() {
    let marker = Regex::new(r"\bunsafe\s+(\{|fn|impl|extern|trait)").expect("well formed");
    let found = sources()
        .into_iter()
        .filter(|(room, _, code)| room != "sandbox" && marker.is_match(code));
    let files: Vec<PathBuf> = found.map(|(_, path, _)| path).collect();
    assert!(files.is_empty(), "unsafe outside the sandbox: {files:?}");
}

#[test]
fn only_the_command_line_prints() {
    let printing = Regex::new(r"\be?print(ln)?!|\bdbg!|\bio::std(out|err)\(").expect("well formed");
    let found = sources()
        .into_iter()
        .filter(|(room, _, code)| room != "cli" && printing.is_match(code));
    let files: Vec<PathBuf> = found.map(|(_, path, _)| path).collect();
    assert!(
        files.is_empty(),
        "prints outside the command line: {files:?}"
    );
}

#[test]
fn imports_are_seen_in_every_form() {
    for (text, want) in [
        ("use crate::oci::Digest;", &["oci"][..]),
        (
            "use crate::{layer::{Entry, toc}, store};",
            &["layer", "store"],
        ),
        ("fn f(d: crate::image::Blob) {}", &["image"]),
        ("use super::super::build::Engine;", &["build"]),
        ("use strata::plan;", &["plan"]),
        ("use super::store;", &[]),
        ("//! See [`crate::store`].\nlet a = 1; // crate::store", &[]),
        ("use std::io;", &[]),
    ] {
        assert_eq!(
            imports(&code(text))
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            want,
            "{text}"
        );
    }
}
