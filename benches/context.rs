//! A build context that did not change: files a second of a whole `strata build` that finds everything cached.
//!
//! This is what every build of a large project pays before it can say that there is nothing to do: the walk of the folder,
//! `.dockerignore`, the known hashes of contents, the key of the COPY and its look-up. The floor is `stat_all`, a walk with a
//! `stat` of every file; the goal is under twice that. `one_file` is what remains where the context is nothing: the start of
//! the process, the store, the plan. `known_hashes` and `sha256` are the parts that grow: contents vouched for by their stat,
//! and contents that are new.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use strata::layer::FileStamp;
use strata::oci::{Digest, Hasher};
use strata::store::{FileHashes, Store, StoreOptions};

fn main() {
    divan::main();
}

/// A folder to work in, below `$STRATA_TEST_DIR` if that is set.
fn folder() -> tempfile::TempDir {
    let parent = std::env::var_os("STRATA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let made = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in(parent);
    made.expect("a folder to work in")
}

/// A store, and a folder of small files.
struct World(tempfile::TempDir);

impl World {
    /// After the build that makes everything.
    fn built(files: usize) -> World {
        let world = World(folder());
        let context = world.0.path().join("context");
        for number in 0..files {
            let dir = context.join(format!("package-{:04}/lib", number / 25));
            if number % 25 == 0 {
                fs::create_dir_all(&dir).expect("a folder");
            }
            let text = format!("module {number}\n").repeat(1 + number % 20);
            fs::write(dir.join(format!("m{number:06}.js")), text).expect("a file");
        }
        let put = |name: &str, text: &str| fs::write(context.join(name), text).expect("a file");
        put("Dockerfile", "FROM scratch\nCOPY . /app\n");
        put(
            ".dockerignore",
            "**/.git\n**/*.log\n!kept.log\n**/tmp/*.swp\n",
        );
        // What changed just now is not vouched for by its times.
        std::thread::sleep(std::time::Duration::from_millis(200));
        world.build();
        world
    }

    fn build(&self) {
        let done = Command::new(env!("CARGO_BIN_EXE_strata"))
            .arg("--root")
            .arg(self.0.path().join("store"))
            .args(["build", "-q"])
            .arg(self.0.path().join("context"))
            .output()
            .expect("the binary");
        assert!(done.status.success(), "{done:?}");
    }
}

/// All cached, in so many files.
#[divan::bench(args = [2_500, 25_000], sample_count = 20)]
fn cached(bencher: Bencher, files: usize) {
    let world = World::built(files);
    bencher
        .counter(ItemsCount::new(files))
        .bench_local(|| world.build());
}

/// All cached, and nearly nothing to look at.
#[divan::bench]
fn one_file(bencher: Bencher) {
    let world = World::built(1);
    bencher.bench_local(|| world.build());
}

/// The floor: every file of a folder is looked at.
#[divan::bench(args = [2_500, 25_000], sample_count = 20)]
fn stat_all(bencher: Bencher, files: usize) {
    fn walk(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).expect("a folder");
        let sizes = entries.map(|entry| {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("a file");
            if meta.is_dir() {
                walk(&entry.path())
            } else {
                meta.len()
            }
        });
        sizes.sum()
    }
    let world = World::built(files);
    let context = world.0.path().join("context");
    bencher
        .counter(ItemsCount::new(files))
        .bench_local(|| walk(&context));
}

/// Loading what 100,000 files hash to, and asking for all of them.
#[divan::bench(sample_count = 20)]
fn known_hashes(bencher: Bencher) {
    const FILES: u64 = 100_000;
    let dir = folder();
    let store = Store::open(&dir.path().join("store"), StoreOptions::default()).expect("a store");
    let stamp = |inode: u64| FileStamp {
        device: 1,
        inode,
        size: inode % 10_000,
        mtime_ns: 1_700_000_000_000_000_001,
        ctime_ns: 1_700_000_000_000_000_001,
    };
    let hashes = FileHashes::load(&store, "/context").expect("none yet");
    let known = (0..FILES).map(|inode| {
        let sum = Digest::of(&inode.to_le_bytes());
        let sum = sum.bytes().try_into().expect("a SHA-256");
        (stamp(inode), sum)
    });
    hashes.save(&store, known).expect("they are written");
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        let hashes = FileHashes::load(&store, "/context").expect("they are there");
        let mut found = 0;
        let stamps = (0..FILES).map(|inode| (stamp(inode), ()));
        let recalled = hashes.recall(stamps, |(), _| found += 1);
        recalled.expect("they can be read");
        assert_eq!(found, FILES);
    });
}

/// The floor of everything that reads contents.
#[divan::bench]
fn sha256(bencher: Bencher) {
    let bytes = vec![7; 16 << 20];
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| {
            let mut hasher = Hasher::sha256();
            hasher.update(&bytes);
            hasher.finish()
        });
}
