//! What a build leaves on the disk, by what went into it: each content once, unpacked, and once more as a compressed blob.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::lab::{Lab, files, labs, said};

/// Bytes that a folder takes, as `du` counts: blocks, hard links once.
fn disk_bytes(folder: &Path) -> u64 {
    let mut inodes = HashSet::new();
    let mut sum = 0;
    for path in files(folder) {
        let meta = folder.join(path).symlink_metadata().expect("it stays");
        if inodes.insert(meta.ino()) {
            sum += meta.blocks() * 512;
        }
    }
    sum
}

/// Text that compresses to a fifth or so, another for each seed.
fn text(seed: u64, length: usize) -> String {
    let mut state = seed;
    let mut text = String::new();
    while text.len() < length {
        // Knuth's constants of a linear congruential generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let words = [
            "layer", "blob", "digest", "image", "index", "name", "root", "copy",
        ];
        let word = words[usize::try_from(state >> 61).expect("three bits")];
        write!(text, "{word} ").expect("a string takes all");
    }
    text.truncate(length);
    text
}

/// Builds in a store, and gives what it takes after that, and after `prune --unpacked`.
fn taken(lab: &Lab, store: &str, dockerfile: &str) -> (u64, u64) {
    let store = lab.beside(store);
    let run = |arguments: &[&str]| {
        let output = lab.strata_on(&store, arguments).output().expect("run it");
        assert!(output.status.success(), "{}", said(&output));
    };
    lab.write("ctx/Dockerfile", dockerfile);
    run(&[
        "build",
        "-t",
        "app",
        "-o",
        "type=image",
        "-o",
        "type=oci,dest=out.tar",
        "ctx",
    ]);
    let built = disk_bytes(&store);
    run(&["prune", "-f", "--unpacked"]);
    (built, disk_bytes(&store))
}

#[test]
fn a_build_takes_half_as_much_again_as_its_input() {
    for lab in labs() {
        // Whole blocks, so that they count the same in the context and in a layer.
        let mut input_bytes = 0;
        for number in 0..64usize {
            let length = 4096 * (1 + number % 16) * 2;
            lab.write(&format!("ctx/data/{number}"), &text(number as u64, length));
            input_bytes += length as u64;
        }
        let base = "FROM @REG@/busybox\nRUN true\n";
        // What the RUN writes is input, too: as much again.
        let whole = "FROM @REG@/busybox\nCOPY data /data\n\
                     RUN for f in /data/*; do tr a-z b-za <$f >/other-${f##*/}; done\n";
        let input_bytes = 2 * input_bytes;
        let (base_built, base_pruned) = taken(&lab, "base", base);
        let (built, pruned) = taken(&lab, "whole", whole);
        let ratio = |with: u64, without: u64| (with - without) as f64 / input_bytes as f64;
        let (built, pruned) = (ratio(built, base_built), ratio(pruned, base_pruned));
        assert!((1.0..1.5).contains(&built), "after the build {built:.2}");
        assert!(pruned < 0.5, "after prune --unpacked {pruned:.2}");
    }
}
