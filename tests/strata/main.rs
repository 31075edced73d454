//! The integration tests of strata, one binary.
//!
//! ```text
//! conformance   the cases of testdata/conformance/cases, each area a test, as root and as an ordinary user
//!   │ world     what the cases stand on: bases (base images), server (registry, files, git), git, agent
//!   │ case      one case: its data, and one build of it by the binary under test
//!   │ image     the OCI archive a build wrote, read and verified; tree: its layers, flattened
//!   ▼ compare   expected against got
//! concurrent    many processes, one store
//! interrupted   Ctrl-C and kill -9
//! sharing       dedup --apply on ext4, xfs and btrfs, killed, beside builds, without root
//! inputs        layers that no output has; steps: many, one on the other
//! debug         what failed steps leave, under a terminal; terminal: one for a test
//! same_bytes    one build, one digest, whoever builds; reproducible: twenty more, and build --verify
//! foreign       RUN for another machine, under qemu-user
//! pull          what is needed of an image is fetched once, by steps and by processes
//! disk          what a build leaves on the disk
//! memory        peaks on a big tree; daemon: Debian's docker-registry
//! bad_input     tables of input that must be refused: with clear words, an exit code, and nothing half done
//!   │ lab       a folder, a store and a registry for one test; registry: one that can be pushed to, lies, and waits
//! outputs       every form of a build's result; commands: what there is beside build; page: a report as HTML; gate: layers --fail-on
//! explore       explore, on a screen of tmux
//! ssh           which agent git and RUN get
//! lint          build --check and the other calls
//! properties    what holds for any input; the fuzz targets of fuzz/ include the same files
//! explain       why a step was not cached, case by case
//! floors        the sources keep the floors of the house
//! ```
//!
//! | variable | |
//! |---|---|
//! | `STRATA_CASES` | only these cases: globs, comma-separated (`copy-*,run-mount-*`) |
//! | `STRATA_TEST_DIR` | where the tests work, instead of the folder for temporary files |
//! | `STRATA_KEEP` | set: leave the tests' folders, logs and images behind, and say where |
//! | `STRATA_BUILDER` | a command prefix that takes the place of `strata --root STATE build` (to test the tests) |

mod agent;
mod bad_input;
mod bases;
mod case;
mod commands;
mod compare;
mod concurrent;
mod conformance;
mod daemon;
mod debug;
mod disk;
mod explain;
mod explore;
mod floors;
mod foreign;
mod gate;
mod git;
mod image;
mod inputs;
mod interrupted;
mod lab;
mod lint;
mod memory;
mod outputs;
mod page;
mod pattern;
mod properties;
mod pull;
mod registry;
mod reproducible;
mod same_bytes;
mod server;
mod sharing;
mod situations;
mod ssh;
mod steps;
mod strict;
mod terminal;
mod tree;
mod user;
mod world;
