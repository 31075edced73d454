//! Hashing: bytes a second through one SHA-256, and what the digest of a small document takes.
//!
//! Every byte of a layer passes through it three times (diffID, content of files, blob), so this is the floor of packing and
//! unpacking. Compare with `openssl speed -evp sha256`: both are as fast as the processor's instructions for it. Without LTO the
//! crate's is a fifth slower: a loader of blocks is not inlined.

use divan::Bencher;
use divan::counter::BytesCount;
use strata::oci::{Digest, Hasher};

fn main() {
    divan::main();
}

/// A stream, a buffer at a time, of so many bytes each.
#[divan::bench(args = [4 << 10, 256 << 10, 1 << 20])]
fn stream(bencher: Bencher, buffer_bytes: usize) {
    let buffer = vec![7; buffer_bytes];
    let buffers = (64 << 20) / buffer_bytes;
    bencher
        .counter(BytesCount::new(buffers * buffer_bytes))
        .bench(|| {
            let mut hasher = Hasher::sha256();
            for _ in 0..buffers {
                hasher.update(&buffer);
            }
            hasher.finish()
        });
}

/// A document of so many bytes.
#[divan::bench(args = [100, 4_096])]
fn document(bencher: Bencher, bytes: usize) {
    let document = vec![7; bytes];
    bencher.bench(|| Digest::of(divan::black_box(&document)));
}
