//! Tables of contents: loading one of 100,000 entries, and asking one, or a stack of a hundred, for a path.
//!
//! A COPY resolves its paths in tables instead of mounting anything, and a cached build loads no table at all, so these decide
//! what a step costs that touches few files of a large base. Loading is in entries a second (the floor is reading the file);
//! asking is the time of one question, which should depend on the number of layers and not on their size.

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use strata::layer::{Entry, Kind, Stack, Toc, entry::Meta};
use strata::oci::Digest;

/// Entries of the table that stands for a large base image.
const ENTRIES: usize = 100_000;

fn main() {
    divan::main();
}

fn entry(path: String, kind: Kind) -> Entry {
    Entry {
        path: path.into_bytes(),
        meta: Meta {
            mode: 0o755,
            mtime: 1_700_000_000,
            ..Meta::default()
        },
        kind,
    }
}

fn directory(path: String) -> Entry {
    let kind = Kind::Directory {
        opaque: false,
        implied: false,
    };
    entry(path, kind)
}

/// `files` files, a hundred to a directory, and a link `lib` to `usr/lib`.
fn entries(files: usize) -> Vec<Entry> {
    let mut all = vec![directory("usr".to_owned()), directory("usr/lib".to_owned())];
    let target = b"usr/lib".to_vec();
    all.push(entry("lib".to_owned(), Kind::Symlink { target }));
    for number in 0..files {
        let folder = format!("usr/lib/package-{:04}", number / 100);
        if number % 100 == 0 {
            all.push(directory(folder.clone()));
        }
        let kind = Kind::File {
            size_bytes: 4_096,
            content: Some(Digest::of(&number.to_le_bytes())),
        };
        all.push(entry(format!("{folder}/module-{number:06}.js"), kind));
    }
    all
}

/// A stack whose lowest layer is the large table; each of the others has a thousand entries of the same tree.
fn stack(layers: usize) -> Stack {
    let upper = Arc::new(Toc::from_entries(entries(1_000)));
    let base = Arc::new(Toc::from_entries(entries(ENTRIES)));
    Stack::new(
        std::iter::once(base)
            .chain((1..layers).map(|_| upper.clone()))
            .collect(),
    )
}

#[divan::bench(sample_count = 10)]
fn make(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(|| entries(ENTRIES))
        .bench_local_values(Toc::from_entries);
}

#[divan::bench(sample_count = 20)]
fn load(bencher: Bencher) {
    let bytes = Toc::from_entries(entries(ENTRIES)).to_bytes();
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .counter(BytesCount::new(bytes.len()))
        .with_inputs(|| bytes.clone())
        .bench_local_values(|bytes| Toc::parse(bytes).expect("a table"));
}

#[divan::bench]
fn find(bencher: Bencher) {
    let toc = Toc::from_entries(entries(ENTRIES));
    let path = b"usr/lib/package-0700/module-070042.js";
    assert!(toc.find(path).is_some());
    bencher.bench_local(|| toc.find(black_box(path)).is_some());
}

#[divan::bench(args = [1, 10, 100])]
fn stack_lookup(bencher: Bencher, layers: usize) {
    let stack = stack(layers);
    let path = b"usr/lib/package-0700/module-070042.js";
    assert!(stack.lookup(path).is_some());
    bencher.bench_local(|| stack.lookup(black_box(path)));
}

/// As a COPY destination is: through a link.
#[divan::bench(args = [1, 10, 100])]
fn stack_resolve(bencher: Bencher, layers: usize) {
    let stack = stack(layers);
    let path = b"lib/package-0700/new/file";
    let leads = stack.resolve(path).expect("a path");
    assert_eq!(leads.path, b"usr/lib/package-0700/new/file");
    bencher.bench_local(|| stack.resolve(black_box(path)));
}

/// As `COPY --from=base /` does.
#[divan::bench(args = [1, 100], sample_count = 5, sample_size = 1)]
fn stack_walk(bencher: Bencher, layers: usize) {
    let stack = stack(layers);
    let seen = stack.walk(b"").count();
    assert!(seen > ENTRIES);
    bencher
        .counter(ItemsCount::new(seen))
        .bench_local(|| stack.walk(b"").count());
}
