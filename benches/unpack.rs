//! Unpacking a layer: a blob to an overlay lower directory with its table of contents, in bytes of content a second.
//!
//! This is what a base image costs before the first step that needs its files. The directory is new for each run, and its
//! removal is not counted. The floor is `zstd -d | tar x` (or `gzip -d`), which computes none of the three digests.

use std::fs::File;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use strata::layer::tar::WhiteoutNames;
use strata::layer::{
    Compression, Devices, Ownership, PackOptions, Root, TreeOptions, UnpackOptions, Whiteouts,
    pack, unpack,
};

mod tree;
use tree::{Shape, Tree};

const WAYS: [(Shape, &str); 6] = [
    (Shape::Small, "none"),
    (Shape::Small, "gzip"),
    (Shape::Small, "zstd"),
    (Shape::Big, "none"),
    (Shape::Big, "gzip"),
    (Shape::Big, "zstd"),
];

/// An ordinary user keeps owners in attributes, as strata does for one.
fn tree_options() -> TreeOptions {
    let (ownership, whiteouts) = if rustix::process::geteuid().is_root() {
        (Ownership::Real, Whiteouts::OverlayTrusted)
    } else {
        (Ownership::Xattr, Whiteouts::OverlayUser)
    };
    TreeOptions {
        ownership,
        whiteouts,
        devices: Devices::Skip,
    }
}

fn main() {
    divan::main();
}

/// Shape and compression.
#[divan::bench(args = WAYS, sample_count = 5, sample_size = 1)]
fn blob(bencher: Bencher, (shape, codec): (Shape, &str)) {
    let tree = Tree::new(shape);
    let compression = match codec {
        "gzip" => Compression::gzip(None),
        "zstd" => Compression::zstd(None),
        _ => Ok(Compression::None),
    };
    let options = PackOptions {
        compression: compression.expect("its usual level"),
        ..PackOptions::default()
    };
    let mut blob = Vec::new();
    pack(tree.changes(), &mut blob, &options, None).expect("a blob");
    let options = UnpackOptions {
        tree: tree_options(),
        names: WhiteoutNames::Oci,
        limit_bytes: u64::MAX,
        below: None,
    };
    bencher
        .counter(BytesCount::new(tree.bytes))
        .counter(ItemsCount::new(tree.files))
        .with_inputs(tree::folder)
        .bench_local_values(|folder| {
            let root = Arc::new(File::open(folder.path()).expect("its root").into());
            let done = unpack(blob.as_slice(), &Root::new(root), &options).expect("it unpacks");
            (folder, done.toc)
        });
}
