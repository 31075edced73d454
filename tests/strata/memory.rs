//! Memory stays flat whatever the size of context and image: the peak of each command on a tree of 600 MB, and what a file costs.
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
        let peak = peak_kib(&lab, line);
        println!("{:>6} KiB  {}", peak, line[0]);
        report.push((line[0], peak));
    }
    let over: Vec<_> = report
        .iter()
        .filter(|(_, peak)| *peak >= LIMIT_KIB)
        .collect();
    assert!(over.is_empty(), "more than {LIMIT_KIB} KiB: {over:?}");
}

/// The peak of a command.
fn peak_kib(lab: &Lab, line: &[&str]) -> u64 {
    let mut command = lab.shell("exec python3 -c \"$0\" strata \"$@\"");
    command.arg(PEAK).args(line);
    succeed(&mut command).trim().parse().expect("a number")
}

/// Makes `$1` files below `$0`, a hundred to a folder, whose paths are as long as those of packages are.
const MAKE_FILES: &str = "import os, sys
for i in range(int(sys.argv[2])):
    folder = f'{sys.argv[1]}/node_modules/package-{i // 100:05}/dist'
    if i % 100 == 0: os.makedirs(folder)
    with open(f'{folder}/module-{i:07}.js', 'w') as f: f.write(f'export default {i}')";

/// What each command takes at its peak for a context and an image of so many files, KiB.
fn with_files(count: u64) -> Vec<(&'static str, u64)> {
    let lab = Lab::new();
    let daemon = Daemon::start();
    let name = format!("{}/many", daemon.host);
    succeed(lab.shell("exec python3 -c \"$0\" \"$@\"").args([
        MAKE_FILES,
        "many",
        &count.to_string(),
    ]));
    // A step after the COPY makes the build write its files.
    lab.write(
        "many/Dockerfile",
        "FROM @REG@/busybox\nCOPY . /app\nRUN true\n",
    );
    lab.write(
        "touch/Dockerfile",
        &format!("FROM {name}\nRUN find /app -type f | xargs touch -d @1000000000\n"),
    );
    lab.write(
        "from/Dockerfile",
        &format!("FROM {name} AS one\nFROM scratch\nCOPY --from=one /app /b\n"),
    );
    lab.write("none/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let mut peaks = Vec::new();
    let mut measure = |what, line: &[&str]| peaks.push((what, peak_kib(&lab, line)));
    measure("cold", &["build", "-t", &name, "many"]);
    measure("nothing changed", &["build", "-t", &name, "many"]);
    lab.write("many/node_modules/package-00000/dist/new.js", "new");
    measure("one file changed", &["build", "-t", &name, "many"]);
    measure("push", &["push", &name]);
    measure("RUN that touches all", &["build", "-t", "touch", "touch"]);
    measure("COPY --from", &["build", "-t", "from", "from"]);
    measure("files", &["files", &name]);
    measure("files --tree", &["files", "--tree", &name]);
    measure("files as JSON", &["files", "--format=json", &name]);
    succeed(&mut lab.shell("strata build -t none none"));
    measure("diff, all gone", &["diff", &name, "none"]);
    measure("diff as JSON", &["diff", "--format=json", &name, "none"]);
    measure("diff with a folder", &["diff", "none", "./many"]);
    let clear = "strata rmi touch from none $0; strata prune -f";
    succeed(lab.shell(clear).arg(&name));
    measure("pull --unpack", &["pull", "--unpack", &name]);
    peaks
}

/// The most bytes that one more file may cost: half as much again as it does, and far less than where each path is held once more.
const BYTES_A_FILE: [(&str, u64); 13] = [
    ("cold", 400),
    ("nothing changed", 240),
    ("one file changed", 400),
    ("push", 60),
    ("RUN that touches all", 450),
    ("COPY --from", 450),
    ("files", 290),
    ("files --tree", 270),
    ("files as JSON", 280),
    ("diff, all gone", 350),
    ("diff as JSON", 350),
    ("diff with a folder", 390),
    ("pull --unpack", 240),
];

#[test]
fn a_file_costs_a_few_hundred_bytes() {
    const FEW: u64 = 3_000;
    const MANY: u64 = 30_000;
    let mut over = Vec::new();
    let peaks = with_files(FEW).into_iter().zip(with_files(MANY));
    for (((what, few), (_, many)), (named, limit)) in peaks.zip(BYTES_A_FILE) {
        assert_eq!(what, named);
        let bytes = many.saturating_sub(few) * 1024 / (MANY - FEW);
        println!("{few:>6} KiB  {many:>6} KiB  {bytes:>4} bytes a file  {what}");
        if bytes > limit {
            over.push((what, bytes, limit));
        }
    }
    assert!(
        over.is_empty(),
        "more bytes a file than the limit: {over:?}"
    );
}
