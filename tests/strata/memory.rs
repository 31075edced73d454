//! Memory stays flat whatever the size of context and image: the peak of each command on a tree of 600 MB.
//!
//! The peak is the largest resident set of the command and of what it waited for (`ru_maxrss`).

use crate::daemon::Daemon;
use crate::lab::{Lab, succeed};

/// What any command may take, KiB: issue 2 asks for less than 100 MiB.
const LIMIT_KIB: u64 = 100 << 10;

/// Runs what follows and writes its peak, KiB.
const PEAK: &str = "import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=2)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)";

#[test]
fn every_command_on_a_big_tree() {
    let lab = Lab::new();
    let daemon = Daemon::start();
    // Six files that do not compress, and many small ones.
    succeed(&mut lab.shell(
        "mkdir big; cd big
         for i in 1 2 3 4 5 6; do head -c 100000000 /dev/urandom >$i; done
         for i in $(seq 60); do mkdir d$i; for j in $(seq 50); do echo $i $j >d$i/$j; done; done
         printf 'FROM scratch\\nCOPY . /\\n' >Dockerfile",
    ));
    let name = format!("{}/big", daemon.host);
    lab.write(
        "Dockerfile",
        &format!("FROM {name}\nCOPY Dockerfile /added\nWORKDIR /d1/w\n"),
    );
    let mut report = Vec::new();
    for line in [
        &["build", "-t", &name, "big"][..],
        &["push", &name],
        &["save", "-o", "big.tar", &name],
        &["rmi", &name],
        &["prune", "-f"],
        &["pull", &name],
        &["build", "-t", "on-top", "."],
        &["check", "--full"],
        &["rmi", &name, "on-top"],
        &["prune", "-f"],
        &["load", "-i", "big.tar"],
        &["unpack", &name, "out"],
    ] {
        let mut command = lab.shell("exec python3 -c \"$0\" strata \"$@\"");
        command.arg(PEAK).args(line);
        let peak: u64 = succeed(&mut command).trim().parse().expect("a number");
        println!("{:>6} KiB  {}", peak, line[0]);
        report.push((line[0], peak));
    }
    let over: Vec<_> = report
        .iter()
        .filter(|(_, peak)| *peak >= LIMIT_KIB)
        .collect();
    assert!(over.is_empty(), "more than {LIMIT_KIB} KiB: {over:?}");
}
