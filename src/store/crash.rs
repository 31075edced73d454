//! Tests that kill: a process that writes to a store dies at any instant, and the store is clean.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::testing::{image_of, layer, name, record};
use super::{CheckDepth, PruneOptions, Store, StoreOptions};

const ROOT: &str = "STRATA_TEST_CRASH_ROOT";

/// Not a test: what the tests below start again and again. Writes to the store until it is killed.
#[test]
#[ignore = "runs until it is killed, by the tests below"]
fn writer() {
    let Ok(root) = std::env::var(ROOT) else {
        return;
    };
    let mut number = u64::from(std::process::id()) << 20;
    loop {
        let mut store = Store::open(root.as_ref(), StoreOptions::default()).unwrap();
        // The first line tells that the store is open; the others, which image has its name.
        eprintln!("open");
        for _ in 0..4 {
            number += 1;
            let texts = [format!("{number}"), format!("shared {}", number % 3)];
            layer(&store, &texts[0]);
            store.cache_put(&record(&store, &texts[0])).unwrap();
            let image = image_of(&store, &[&texts[0], &texts[1]]);
            store.tag(&name(&format!("app:{number}")), &image).unwrap();
            eprintln!("app:{number}");
        }
        store.untag(&name(&format!("app:{number}"))).unwrap();
        store.prune(&PruneOptions::default(), &|| ()).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_a_clean_store() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..25u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "store::crash::writer",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(ROOT, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It dies after so many lines and a moment that no two runs share.
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut last = None;
        for line in lines.take(1 + (round % 7) as usize) {
            last = Some(line.unwrap()).filter(|l| l.starts_with("app:"));
        }
        for _ in 0..round * 2000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let report = store.check(CheckDepth::Full).unwrap();
        assert_eq!(report.findings, [], "round {round}");
        let work = std::fs::read_dir(dir.path().join("work")).unwrap();
        assert_eq!(work.count(), 0, "round {round}");
        for named in store.names().unwrap() {
            assert!(store.has_blob(&named.descriptor));
        }
        if let Some(last) = last.filter(|l| !l.is_empty()) {
            // Named when it said so, unless it had time to take the name away again (the fourth of each turn).
            let number: u64 = last["app:".len()..].parse().unwrap();
            if !number.is_multiple_of(4) {
                assert!(store.resolve(&name(&last)).unwrap().is_some(), "{last}");
            }
        }
    }
}

#[test]
fn processes_that_write_and_collect_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "store::crash::writer",
                    "--exact",
                    "--ignored",
                    "--nocapture",
                ])
                .env(ROOT, dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut named = Vec::new();
    for child in &mut children {
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Two turns and a bit: each of them has collected twice.
        let lines: Vec<String> = lines.take(12).map(Result::unwrap).collect();
        assert!(
            lines.iter().all(|l| l == "open" || l.starts_with("app:")),
            "{lines:?}"
        );
        named.extend(lines.into_iter().filter(|l| l.starts_with("app:")));
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.check(CheckDepth::Full).unwrap().findings, []);
    for text in named {
        let number: u64 = text["app:".len()..].parse().unwrap();
        if !number.is_multiple_of(4) {
            assert!(store.resolve(&name(&text)).unwrap().is_some(), "{text}");
        }
    }
}
