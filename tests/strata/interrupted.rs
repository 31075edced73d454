//! Ctrl-C ends a command in under a second and leaves nothing; what `kill -9` leaves, the next command removes.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::{Lab, Running, labs, processes, wait_for};

/// What Ctrl-C may take.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How often it is tried: other tests keep the machine busy.
const TRIES: usize = 3;

/// A word for command lines that no other test has.
fn word(lab: &Lab, name: &str) -> String {
    format!(
        "mark-{name}-{}",
        lab.registry.host().replace([':', '.'], "")
    )
}

/// A command that says `begun` and ends in a thousand seconds, with `word` in its command line.
fn endless(word: &str) -> String {
    format!(": {word}; echo be''gun; sleep 1000; true")
}

/// Waits until nothing runs with the word in its command line.
#[track_caller]
fn assert_gone(word: &str) {
    wait_for("the end of the sandbox", || {
        processes(word).is_empty().then_some(())
    });
}

/// The cgroups of a process's sandboxes.
fn groups(pid: u32) -> Vec<String> {
    let prefix = format!("strata-{pid}-");
    crate::lab::files("/sys/fs/cgroup".as_ref())
        .into_iter()
        .map(|path| path.display().to_string())
        .filter(|path| path.contains(&prefix))
        .collect()
}

/// Interrupts what `start` gives once it says `begun`, and asserts that it ends as it must.
#[track_caller]
fn interrupt(lab: &Lab, word: &str, start: impl Fn() -> Running) {
    let mut fastest = Duration::MAX;
    for _ in 0..TRIES {
        let mut running = start();
        running.hear("begun");
        let pid = running.child.id();
        let begun = Instant::now();
        running.signal(Signal::INT);
        let status = running.wait();
        fastest = fastest.min(begun.elapsed());
        assert_eq!(status.code(), Some(130), "{}", running.heard());
        assert!(!running.heard().contains("panicked"), "{}", running.heard());
        assert_eq!(processes(word), Vec::<u32>::new(), "processes are left");
        assert_eq!(groups(pid), Vec::<String>::new(), "cgroups are left");
        lab.assert_sound();
        if fastest < AT_ONCE {
            return;
        }
    }
    panic!("it takes {fastest:?} to end");
}

#[test]
fn a_build_by_ctrl_c() {
    for lab in labs() {
        let (one, two) = (word(&lab, "int"), word(&lab, "int"));
        // Two at once; one of them ignores what it can ignore.
        let text = format!(
            "FROM @REG@/busybox AS one\nRUN trap '' INT TERM HUP; {}\nFROM @REG@/busybox\nRUN {}\nCOPY --from=one /etc /e\n",
            endless(&one),
            endless(&two)
        );
        lab.write("Dockerfile", &text);
        interrupt(&lab, &one, || {
            Running::start(lab.strata(&["build", "-t", "app", "."]))
        });
        assert!(!lab.images().contains("\"app\""), "{}", lab.images());
    }
}

#[test]
fn a_run_gets_the_signal() {
    for lab in labs() {
        lab.ok(&["copy", "-q", "docker://@REG@/busybox", "busybox"]);
        let word = word(&lab, "run");
        // It ends by the third signal, as it likes.
        let command = format!(
            ": {word}; n=0; trap 'n=$((n+1)); echo got-$n >&2; test $n = 3 && exit 7' TERM
             echo begun >&2; sleep 1000 & while true; do wait; done"
        );
        let mut arguments = vec!["run", "busybox", "sh", "-c", &command];
        // An ordinary user has no control groups, unless they are delegated.
        if lab.user.is_none() {
            arguments.splice(1..1, ["--memory", "64m", "--pids-limit", "50"]);
        }
        let mut running = Running::start(lab.strata(&arguments));
        running.hear("begun");
        let pid = running.child.id();
        for said in ["got-1", "got-2", "got-3"] {
            running.signal(Signal::TERM);
            running.hear(said);
        }
        let status = running.wait();
        assert_eq!(status.code(), Some(7), "{}", running.heard());
        assert_gone(&word);
        assert_eq!(groups(pid), Vec::<String>::new(), "cgroups are left");
        lab.assert_sound();
    }
}

#[test]
fn a_transfer_by_ctrl_c() {
    let lab = Lab::new();
    lab.write("Dockerfile", "FROM @REG@/busybox\nRUN true\n");
    for arguments in [&["pull", "@REG@/busybox"][..], &["build", "-t", "app", "."]] {
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            // A registry that says nothing any more, in the middle of a blob.
            lab.registry.hold("GET", "/blobs/");
            let mut running = Running::start(lab.strata(arguments));
            lab.registry.wait_held();
            let begun = Instant::now();
            running.signal(Signal::INT);
            assert_eq!(running.wait().code(), Some(130), "{}", running.heard());
            fastest = fastest.min(begun.elapsed());
            lab.registry.release();
            lab.assert_sound();
            assert!(!lab.images().contains("busybox"));
            if fastest < AT_ONCE {
                break;
            }
        }
        assert!(fastest < AT_ONCE, "{arguments:?} takes {fastest:?} to end");
    }
}

#[test]
fn a_build_killed_in_run() {
    for lab in labs() {
        let word = word(&lab, "kill");
        let text = format!("FROM @REG@/busybox\nRUN {}\n", endless(&word));
        lab.write("Dockerfile", &text);
        let running = Running::start(lab.strata(&["build", "."]));
        running.hear("begun");
        let pid = running.child.id();
        running.kill();
        assert_gone(&word);
        // A command that does not become root of a user namespace cannot remove what is left, and does not mind.
        lab.images();
        lab.write("Dockerfile", "FROM @REG@/busybox\nRUN echo again >/a\n");
        lab.ok(&["build", "-t", "app", "."]);
        lab.assert_sound();
        assert_eq!(groups(pid), Vec::<String>::new(), "cgroups are left");
        assert_eq!(lab.ok(&["run", "app", "cat", "/a"]), "again\n");
    }
}

#[test]
fn a_run_killed_with_limits() {
    let lab = Lab::new();
    lab.ok(&["copy", "-q", "docker://@REG@/busybox", "busybox"]);
    let word = word(&lab, "limits");
    let command = format!("{{ {}; }} >&2", endless(&word));
    let arguments = ["run", "--memory", "64m", "busybox", "sh", "-c", &command];
    let running = Running::start(lab.strata(&arguments));
    running.hear("begun");
    let pid = running.child.id();
    running.kill();
    assert_gone(&word);
    // A next sandbox with limits removes what is left, once the kernel has let go of the processes that were in it.
    wait_for("the control groups to go", || {
        lab.ok(&["run", "--memory", "64m", "busybox", "true"]);
        groups(pid).is_empty().then_some(())
    });
    lab.assert_sound();
}

#[test]
fn a_build_killed_while_it_commits() {
    for lab in labs() {
        let word = word(&lab, "commit");
        let text = format!(
            "FROM @REG@/busybox\nRUN head -c 150000000 /dev/urandom >/big\nRUN {}\n",
            endless(&word)
        );
        lab.write("Dockerfile", &text);
        let running = Running::start(lab.strata(&["build", "."]));
        // The first step's layer is packed while the second runs.
        running.hear("begun");
        running.kill();
        assert_gone(&word);
        lab.assert_sound();
        let text = text.replace(&endless(&word), "ls -l /big | grep -c 150000000 >/size");
        lab.write("Dockerfile", &text);
        lab.ok(&["build", "-t", "app", "."]);
        assert_eq!(lab.ok(&["run", "app", "cat", "/size"]), "1\n");
        lab.assert_sound();
    }
}

#[test]
fn a_pull_killed() {
    let lab = Lab::new();
    lab.registry.hold("GET", "/blobs/");
    let running = Running::start(lab.strata(&["pull", "@REG@/whiteout"]));
    lab.registry.wait_held();
    running.kill();
    lab.registry.release();
    lab.assert_sound();
    assert!(!lab.images().contains("whiteout"));
    lab.ok(&["pull", "@REG@/whiteout"]);
    lab.assert_sound();
}

#[test]
fn a_push_killed() {
    let lab = Lab::new();
    lab.write("Dockerfile", "FROM @REG@/busybox\nRUN echo pushed >/file\n");
    lab.ok(&["build", "-t", "@REG@/new/app", "."]);
    for (method, part) in [
        ("POST", "/blobs/uploads/"),
        ("PUT", "/blobs/uploads/"),
        ("PUT", "/manifests/"),
    ] {
        lab.registry.hold(method, part);
        let running = Running::start(lab.strata(&["push", "@REG@/new/app"]));
        lab.registry.wait_held();
        running.kill();
        lab.registry.release();
        lab.assert_sound();
    }
    lab.ok(&["push", "@REG@/new/app"]);
    assert!(lab.registry.has_tag("new/app", "latest"));
}

#[test]
fn a_save_killed() {
    let lab = Lab::new();
    lab.ok(&["copy", "-q", "docker://@REG@/busybox", "busybox"]);
    let mut command = lab.strata(&["save", "busybox"]);
    command.stdout(Stdio::piped());
    let mut running = Running::start(command);
    let mut out = running.child.stdout.take().expect("it is a pipe");
    // It writes more than a pipe holds.
    out.read_exact(&mut [0; 4096]).expect("an archive comes");
    running.kill();
    lab.assert_sound();
    // Into a file, from a registry that stops in the middle: the file is not there.
    lab.registry.hold("GET", "/blobs/");
    let arguments = ["copy", "docker://@REG@/busybox", "oci-archive:out.tar"];
    let running = Running::start(lab.strata(&arguments));
    lab.registry.wait_held();
    running.kill();
    lab.registry.release();
    let left = crate::lab::files(&lab.folder);
    assert!(left.is_empty(), "{left:?}");
    lab.ok(&arguments);
    assert!(lab.folder.join("out.tar").exists());
}

#[test]
fn an_import_and_a_load_killed() {
    let lab = Lab::new();
    lab.ok(&["copy", "-q", "docker://@REG@/busybox", "busybox"]);
    lab.ok(&["save", "-o", "all.tar", "busybox"]);
    lab.ok(&["unpack", "busybox", "rootfs"]);
    crate::lab::succeed(&mut lab.shell("tar cf rootfs.tar -C rootfs ."));
    for (arguments, file) in [
        (&["import", "-t", "new", "-"][..], "rootfs.tar"),
        (&["load"], "all.tar"),
    ] {
        let bytes = std::fs::read(lab.folder.join(file)).expect("it was made above");
        let mut command = lab.strata(arguments);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut input = running.child.stdin.take().expect("it is a pipe");
        // The rest never comes. When this is written, all but a pipe's fill has been read.
        input
            .write_all(&bytes[..bytes.len() / 2])
            .expect("it is read");
        running.kill();
        lab.assert_sound();
        assert!(!lab.images().contains("\"new\""));
    }
    lab.ok(&["import", "-t", "new", "rootfs.tar"]);
    lab.ok(&["load", "-i", "all.tar"]);
    lab.assert_sound();
}
