//! What has to hold for any input, a file a target: each has one function that takes bytes and panics where it does not.
//!
//! The fuzz targets of `fuzz/` include these very files. Here the same functions run on the stable toolchain: over the seeds
//! (`fuzz/seeds/TARGET`, where a finding leaves its input), over every Dockerfile and ignore file of `testdata/`, and over
//! what proptest makes of both with the words of the dictionaries.

mod dictionary;
mod dockerfile;
mod documents;
mod ignore;
mod places;
mod plan;
mod reference;
mod rules;
mod tar;
mod toc;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Where the fuzz targets are.
fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The seeds of a target, those of `testdata/` too. Fewer than that many files would mean that they were not found.
fn seeds(target: &str, at_least: usize) -> Vec<Vec<u8>> {
    let mut files = files_below(&fuzz().join("seeds").join(target));
    let testdata = || files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata"));
    let named = |end: &str| {
        let ends = |path: &PathBuf| path.to_string_lossy().ends_with(end);
        testdata().into_iter().filter(ends).collect::<Vec<_>>()
    };
    match target {
        "dockerfile" | "plan" => files.extend(named("Dockerfile")),
        "ignore" => files.extend(named(".dockerignore")),
        _ => {}
    }
    assert!(files.len() >= at_least, "{target}: {} seeds", files.len());
    let read = |path: &PathBuf| fs::read(path).expect("read a seed");
    files.iter().map(read).collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.map(|entry| entry.expect("an entry")) {
            match entry.file_type().expect("a kind of file") {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// A change of an input.
#[derive(Clone, Debug)]
enum Change {
    /// A word of the dictionary goes in.
    Insert(Index, Index),
    /// A stretch goes out.
    Remove(Index, usize),
    /// A stretch comes again, elsewhere.
    Repeat(Index, usize, Index),
    /// A byte is another.
    Set(Index, u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let index = any::<Index>;
    let one = prop_oneof![
        4 => (index(), index()).prop_map(|(at, word)| Change::Insert(at, word)),
        1 => (index(), 1usize..40).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (index(), 1usize..40, index()).prop_map(|(at, length, to)| Change::Repeat(at, length, to)),
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
    ];
    proptest::collection::vec(one, 0..12)
}

fn apply(input: &mut Vec<u8>, changes: &[Change], words: &[Vec<u8>]) {
    for change in changes {
        let place = |index: &Index, input: &[u8]| index.index(input.len() + 1);
        match change {
            Change::Insert(at, word) => {
                let at = place(at, input);
                input.splice(at..at, word.get(words).iter().copied());
            }
            Change::Remove(at, length) => {
                let at = place(at, input);
                input.drain(at..input.len().min(at + length));
            }
            Change::Repeat(at, length, to) => {
                let (at, to) = (place(at, input), place(to, input));
                let stretch = input[at..input.len().min(at + length)].to_vec();
                input.splice(to..to, stretch);
            }
            Change::Set(at, byte) => {
                let at = place(at, input);
                if let Some(old) = input.get_mut(at) {
                    *old = *byte;
                }
            }
        }
    }
}

/// Runs a property over its seeds, then over changed ones.
fn holds(target: &str, dictionary: &str, at_least: usize, property: fn(&[u8])) {
    let seeds = seeds(target, at_least);
    for seed in &seeds {
        property(seed);
    }
    let text = fs::read_to_string(fuzz().join(dictionary)).expect("read the dictionary");
    let words = dictionary::words(&text);
    assert!(words.len() >= 10, "{dictionary}");
    let config = Config {
        cases: 512,
        // A finding goes to the seeds, where the fuzzer has it too.
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (any::<Index>(), changes());
    let run = TestRunner::new(config).run(&strategy, |(seed, changes)| {
        let mut input = seed.get(&seeds).clone();
        apply(&mut input, &changes, &words);
        let shown = String::from_utf8_lossy(&input).into_owned();
        let caught = std::panic::catch_unwind(|| property(&input));
        caught.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(format!("{}\n{shown:?}", text.unwrap_or_default()))
        })
    });
    if let Err(error) = run {
        panic!("{target}: {error}");
    }
}

#[test]
fn dockerfiles() {
    holds("dockerfile", "dockerfile.dict", 250, dockerfile::check);
}

#[test]
fn words_of_dockerfiles() {
    holds("words", "words.dict", 10, words::check);
}

#[test]
fn ignore_files() {
    holds("ignore", "ignore.dict", 14, ignore::check);
}

#[test]
fn references() {
    holds("reference", "reference.dict", 10, reference::check);
}

#[test]
fn rules_of_gates() {
    holds("rules", "rules.dict", 4, rules::check);
}

#[test]
fn plans() {
    holds("plan", "dockerfile.dict", 250, plan::check);
}

#[test]
fn archives_of_layers() {
    holds("tar", "tar.dict", 5, tar::check);
}

#[test]
fn tables_of_contents() {
    holds("toc", "tar.dict", 3, toc::check);
}

#[test]
fn documents_of_images() {
    holds("documents", "documents.dict", 5, documents::check);
}

/// Every target of the fuzzer is one of the tests above, and the other way round.
#[test]
fn targets_are_tests() {
    let own = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file!())).unwrap();
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let mut seen = 0;
    for path in files_below(&fuzz().join("fuzz_targets")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(own.contains(&format!("holds(\"{name}\",")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("properties/{name}.rs")), "{name}");
        assert!(fuzz().join("seeds").join(&name).is_dir(), "{name}");
        seen += 1;
    }
    // The call in `holds` is not one.
    assert_eq!(seen, own.matches("    holds(\"").count());
}
