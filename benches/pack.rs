//! Packing a layer: a tree to a blob with its diffID, digest and table of contents, in bytes of content a second.
//!
//! This is what a step costs after its command has ended. `Small` shows the price of a file, `Big` that of a byte; without
//! compression what remains is reading and hashing twice, of which the floor is one `sha256` of the same bytes. One thread
//! against one a core shows what the pipeline makes of the second core: the blob is the same.

use divan::Bencher;
use divan::counter::BytesCount;
use strata::layer::{Compression, PackOptions, pack};

mod tree;
use tree::{Shape, Tree};

const WAYS: [(Shape, &str, usize); 12] = [
    (Shape::Small, "none", 1),
    (Shape::Small, "none", 0),
    (Shape::Small, "gzip", 1),
    (Shape::Small, "gzip", 0),
    (Shape::Small, "zstd", 1),
    (Shape::Small, "zstd", 0),
    (Shape::Big, "none", 1),
    (Shape::Big, "none", 0),
    (Shape::Big, "gzip", 1),
    (Shape::Big, "gzip", 0),
    (Shape::Big, "zstd", 1),
    (Shape::Big, "zstd", 0),
];

fn main() {
    divan::main();
}

/// Shape, compression, threads that compress (0: one a core).
#[divan::bench(args = WAYS, sample_count = 5, sample_size = 1)]
fn blob(bencher: Bencher, (shape, codec, threads): (Shape, &str, usize)) {
    let tree = Tree::new(shape);
    let changes = tree.changes();
    assert_eq!(
        changes.iter().filter(|c| !c.entry.is_dir()).count(),
        tree.files
    );
    let compression = match codec {
        "gzip" => Compression::gzip(None),
        "zstd" => Compression::zstd(None),
        _ => Ok(Compression::None),
    };
    let options = PackOptions {
        compression: compression.expect("its usual level"),
        threads,
        ..PackOptions::default()
    };
    bencher
        .counter(BytesCount::new(tree.bytes))
        .with_inputs(|| changes.clone())
        .bench_local_values(|changes| pack(changes, std::io::sink(), &options, None));
}
