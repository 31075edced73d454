//! Finding what a step changed: an overlay upper directory against the layers below, in files a second.
//!
//! Every file of upper costs a look; one that is below too, with equal size, time and owner, also a read and a hash, because
//! only its content says whether it changed (`chown -R` and back, a reinstalled package). The floor of the first is
//! `find -printf`, that of the second `sha256sum` of the same files.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use strata::layer::{Compression, DiffOptions, PackOptions, Stack, Toc, diff, pack};
use strata::layer::{Entry, Kind, entry::Meta};

mod tree;
use tree::{Shape, Tree};

/// What is below the upper directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Below {
    /// Nothing: all is new.
    Nothing,
    /// 100 layers of other files: all is new, and 100 tables say so.
    OtherFiles,
    /// The same files: nothing is new.
    SameFiles,
}

fn main() {
    divan::main();
}

const WAYS: [(Shape, Below); 4] = [
    (Shape::Small, Below::Nothing),
    (Shape::Small, Below::OtherFiles),
    (Shape::Small, Below::SameFiles),
    (Shape::Big, Below::SameFiles),
];

#[divan::bench(args = WAYS, sample_count = 10, sample_size = 1)]
fn upper(bencher: Bencher, (shape, below): (Shape, Below)) {
    let tree = Tree::new(shape);
    let stack = match below {
        Below::Nothing => Stack::default(),
        Below::OtherFiles => Stack::new((0..100).map(|n| Arc::new(others(n))).collect()),
        Below::SameFiles => {
            let options = PackOptions {
                compression: Compression::None,
                ..PackOptions::default()
            };
            let packed = pack(tree.changes(), std::io::sink(), &options, None).expect("a layer");
            Stack::new(vec![packed.toc])
        }
    };
    let changed = |stack| diff(&tree.root, stack, &DiffOptions::default()).expect("a diff");
    assert_eq!(changed(&stack).is_empty(), below == Below::SameFiles);
    bencher
        .counter(ItemsCount::new(tree.files))
        .counter(BytesCount::new(tree.bytes))
        .bench_local(|| changed(&stack));
}

/// A layer of a hundred files in a directory that every layer has, and in one of its own.
fn others(number: usize) -> Toc {
    let entry = |path: String, kind| Entry {
        path: path.into_bytes(),
        meta: Meta {
            mode: 0o755,
            ..Meta::default()
        },
        kind,
    };
    let directory = || Kind::Directory {
        opaque: false,
        implied: false,
    };
    let mut entries = vec![
        entry("usr".to_owned(), directory()),
        entry(format!("usr/{number}"), directory()),
    ];
    entries.extend((0..100).map(|file| {
        let kind = Kind::File {
            size_bytes: 1,
            content: None,
        };
        entry(format!("usr/{number}/{file}"), kind)
    }));
    Toc::from_entries(entries)
}
