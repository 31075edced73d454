//! Trees to be packed, unpacked and compared: the same on every machine, compressible as real files are.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata::layer::{Changes, DiffOptions, Stack, diff};
use tempfile::TempDir;

/// How many files share a directory: what package managers leave.
const FILES_A_DIRECTORY: usize = 40;

/// Every this many KiB one is noise: a third of its size is what gzip makes of the whole, as of a Debian root file system.
const NOISE_EVERY: usize = 5;

/// Many small files or few big ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// 4,000 files of 7 KiB on average: `node_modules`. Opening and naming them is what costs.
    Small,
    /// 4 files of 16 MiB: a compiler's output. Hashing and compressing them is what costs.
    Big,
}

impl Shape {
    /// The lengths of its files, bytes.
    fn lengths(self) -> Vec<usize> {
        match self {
            Shape::Small => (0..4_000).map(|n| 512 + (n * 7_919) % 13_312).collect(),
            Shape::Big => vec![16 << 20; 4],
        }
    }
}

/// A tree on disk, gone when it is dropped.
pub(crate) struct Tree {
    _dir: TempDir,
    /// Its root.
    pub(crate) root: Arc<OwnedFd>,
    /// What is in all its files together.
    pub(crate) bytes: usize,
    /// How many files it has.
    pub(crate) files: usize,
}

impl Tree {
    /// Writes one.
    pub(crate) fn new(shape: Shape) -> Tree {
        let dir = folder();
        let lengths = shape.lengths();
        let mut noise = Noise(1);
        for (number, length) in lengths.iter().enumerate() {
            let folder = dir
                .path()
                .join(format!("d{:03}", number / FILES_A_DIRECTORY));
            fs::create_dir_all(&folder).expect("a folder");
            let file = folder.join(format!("file-{number:05}.js"));
            fs::write(file, noise.content(*length)).expect("a file");
        }
        Tree {
            root: Arc::new(File::open(dir.path()).expect("its root").into()),
            _dir: dir,
            bytes: lengths.iter().sum(),
            files: lengths.len(),
        }
    }

    /// All of it, as a layer on nothing.
    pub(crate) fn changes(&self) -> Changes {
        diff(&self.root, &Stack::default(), &DiffOptions::default())
            .expect("a tree that can be read")
    }
}

/// A folder to work in, below `$STRATA_TEST_DIR` if that is set.
pub(crate) fn folder() -> TempDir {
    let parent = std::env::var_os("STRATA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let made = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in(Path::new(&parent));
    made.expect("a folder to work in")
}

/// A generator of numbers (xorshift64*), so that the trees are the same everywhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Words, few of them often and most rarely, with a KiB of noise now and then.
    fn content(&mut self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 1024);
        while out.len() < length {
            if (out.len() >> 10) % NOISE_EVERY == 1 {
                (0..128).for_each(|_| out.extend(self.next().to_le_bytes()));
                continue;
            }
            let number = self.next();
            let rank = (number & 0xfff) >> (number >> 60);
            out.extend(format!("w{:x} ", rank.wrapping_mul(0x9e37_79b9) & 0xff_ffff).bytes());
        }
        out.truncate(length);
        out
    }
}
