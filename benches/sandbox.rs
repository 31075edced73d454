//! A command in a sandbox: from nothing to the exit of `busybox true`, the time of one.
//!
//! This is what strata adds to a RUN, before the layer is packed: an overlay, namespaces, all mounts, docker's capabilities and
//! seccomp profile. The goal is under 15 ms for a RUN, of which this is the most; the floor is `fork` and `exec` alone.
//! Needs root, or a user who may make user namespaces, and Debian's `busybox-static`.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use divan::Bencher;
use strata::sandbox::overlay::{self, Upper};
use strata::sandbox::{Limits, Network, Security, Spec, Stdio, spawn, userns};
use tempfile::TempDir;

/// Static, so that a root file system is one file.
const BUSYBOX: &str = "/bin/busybox";

fn main() {
    // Before there are threads: an ordinary user becomes root of a namespace.
    userns::enter().expect("what a sandbox needs");
    divan::main();
}

/// Layers, with `true` in the lowest, and room for upper directories.
struct World {
    folder: TempDir,
    lowers: Vec<PathBuf>,
}

impl World {
    fn new(layers: usize) -> World {
        let parent =
            std::env::var_os("STRATA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new()
            .prefix("strata-bench-")
            .tempdir_in(parent)
            .expect("a folder to work in");
        let lower = |n: usize| folder.path().join(n.to_string());
        let lowers: Vec<PathBuf> = (0..layers).map(lower).collect();
        for lower in &lowers {
            fs::create_dir_all(lower.join("bin")).expect("a layer");
        }
        fs::copy(BUSYBOX, lowers[0].join("bin/true")).expect("Debian's busybox-static");
        World { folder, lowers }
    }

    /// A new upper directory on the layers, as every RUN has it.
    fn mount(&self) -> OwnedFd {
        let step = tempfile::Builder::new().tempdir_in(self.folder.path());
        // Removed with the world, outside of what is timed.
        let step = step.expect("a folder").keep();
        let (changes, work) = (step.join("upper"), step.join("work"));
        for made in [&changes, &work] {
            fs::create_dir(made).expect("a folder");
        }
        let upper = Upper {
            changes: &changes,
            work: &work,
        };
        let options = overlay::Options {
            userxattr: userns::current().userxattr(),
            volatile: true,
        };
        overlay::mount(&self.lowers, Some(upper), options).expect("an overlay")
    }

    /// Runs `true` on it.
    fn run(&self, network: Network) {
        let null = || {
            let opened = File::options().write(true).open("/dev/null");
            OwnedFd::from(opened.expect("/dev/null"))
        };
        let spec = Spec {
            rootfs: Arc::new(self.mount()),
            args: vec!["/bin/true".into()],
            env: vec![("PATH".into(), "/bin".into())],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: "bench".into(),
            mounts: Vec::new(),
            network,
            security: Security::Default,
            rlimits: Vec::new(),
            limits: Limits::default(),
            shm_size_bytes: 64 << 20,
            read_only: false,
            stdio: Stdio::Capture {
                stdout: null(),
                stderr: null(),
            },
        };
        let child = spawn(spec).expect("a sandbox");
        assert!(child.wait().expect("its end").success());
    }
}

/// Everything, on so many layers.
#[divan::bench(args = [1, 10, 100])]
fn run(bencher: Bencher, layers: usize) {
    let world = World::new(layers);
    bencher.bench_local(|| world.run(Network::Host));
}

/// The same with `--network=none`, which makes a network namespace.
#[divan::bench]
fn run_without_network(bencher: Bencher) {
    let world = World::new(1);
    bencher.bench_local(|| world.run(Network::None));
}

/// The overlay alone.
#[divan::bench(args = [1, 10, 100])]
fn mount(bencher: Bencher, layers: usize) {
    let world = World::new(layers);
    bencher.bench_local(|| world.mount());
}

/// The floor: the command without any of it.
#[divan::bench]
fn fork_and_exec() {
    let status = Command::new(BUSYBOX).arg("true").status();
    assert!(status.expect("Debian's busybox-static").success());
}
