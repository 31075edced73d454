//! What a failed step leaves: its world again by `debug`, its output, on a terminal and without, as root and as an ordinary user.

use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, Running, labs_with_one_id, processes, said, wait_for};
use crate::terminal::OnTerminal;

/// A step with everything a step can have, that fails.
const DOCKERFILE: &str = r#"FROM @REG@/busybox AS tools
RUN mkdir -m 777 /opt; echo tool >/opt/tool
FROM @REG@/busybox
ARG WORD=argued
ENV NAME=value
RUN echo 'joe:x:1000:1000::/home/joe:/bin/sh' >>/etc/passwd && mkdir -m 777 /made && echo below >/made/below
WORKDIR /made
USER joe
RUN --mount=type=bind,target=/ctx --mount=type=bind,from=tools,source=/opt,target=/t,rw \
  --mount=type=cache,target=/cache,mode=0777 --mount=type=tmpfs,target=/mem \
  --mount=type=secret,id=tok,required=true,mode=0444,target=/run/tok --mount=type=secret,id=other,env=OTHER --network=none <<END
echo failed >/made/step; rm /made/below; echo cached >/cache/file; echo lost >/mem/file; echo dropped >/t/dropped
cat /run/tok; echo "$OTHER"
exit 3
END
"#;

/// Builds what must fail.
#[track_caller]
fn fail(lab: &Lab, arguments: &[&str]) -> Output {
    let all = [&["build", "--progress", "plain"], arguments].concat();
    let built = lab.strata(&all).output().expect("start it");
    assert_eq!(built.status.code(), Some(1), "{}", said(&built));
    built
}

fn debug(lab: &Lab, arguments: &[&str]) -> Output {
    let all = [&["debug"], arguments].concat();
    lab.strata(&all).output().expect("start it")
}

/// What a command in the last failed step says; it must end well.
#[track_caller]
fn inside(lab: &Lab, flags: &[&str], script: &str) -> String {
    let done = debug(lab, &[flags, &["--", "sh", "-euc", script]].concat());
    assert!(done.status.success(), "{script}: {}", said(&done));
    String::from_utf8(done.stdout).expect("it is text")
}

fn list(lab: &Lab) -> Vec<Value> {
    let text = lab.ok(&["debug", "--list", "--format", "json"]);
    serde_json::from_str(&text).expect("it is a list")
}

/// A lab whose last build failed in [`DOCKERFILE`].
fn failed(lab: Lab) -> Lab {
    lab.write("Dockerfile", DOCKERFILE);
    lab.write("file", "of the context\n");
    lab.write("hidden", "not for the step\n");
    lab.write(".dockerignore", "hidden\nsecret\n");
    lab.write("secret", "t0ps3cret\n");
    let secrets = [
        "--secret",
        "id=tok,src=secret",
        "--secret",
        "id=other,src=file",
    ];
    let built = fail(&lab, &[&secrets[..], &["."]].concat());
    let said = said(&built);
    let id = list(&lab)[0]["id"].as_str().expect("text").to_owned();
    for hint in [
        format!("debug {id} opens a shell where it failed"),
        format!("debug --log {id} prints its whole output ("),
    ] {
        assert!(said.contains(&hint), "{hint}: {said}");
    }
    lab
}

#[test]
fn a_step_is_seen_as_it_was_and_left() {
    for lab in labs_with_one_id().into_iter().map(failed) {
        let seen = inside(
            &lab,
            &[],
            "id -u; pwd; echo $NAME $WORD $HOME $0; cat step; ls /made; cat /ctx/file; ls /ctx; cat /t/tool /t/dropped /cache/file
             ls /mem; ls /run/tok || true; echo secret: ${OTHER:-none}; ls /sys/class/net",
        );
        // With a single id nobody can switch: the user stays root.
        let uid = if seen.starts_with('0') { "0" } else { "1000" };
        assert_eq!(
            seen,
            format!(
                "{uid}\n/made\nvalue argued /home/joe sh\nfailed\nstep\nof the context\nDockerfile\nfile\ntool\ndropped\ncached\nsecret: none\nlo\n"
            )
        );
        // Secrets are said to be missing, and given again.
        let without = debug(&lab, &["--", "true"]);
        let words = String::from_utf8_lossy(&without.stderr);
        assert!(
            words.contains(
                "not here: secret tok: secrets are not kept; give it with --secret id=tok"
            ) && !words.contains("other"),
            "{words}"
        );
        let flags = [
            "--secret",
            "id=tok,src=secret",
            "--secret",
            "id=other,env=GIVEN",
        ];
        let command = [
            &["debug"],
            &flags[..],
            &["--", "sh", "-c", "cat /run/tok; echo $OTHER"],
        ];
        let given = lab.strata(&command.concat()).env("GIVEN", "again").output();
        let given = given.expect("start it");
        let (words, text) = (String::from_utf8_lossy(&given.stdout), said(&given));
        assert_eq!(words, "t0ps3cret\nagain\n", "{text}");
        assert!(!text.contains("not here"), "{text}");
        // What is changed is dropped, in files, in mounts and in caches.
        inside(
            &lab,
            &["--user", "root"],
            "echo more >>step; echo x >/new; rm /cache/file /t/tool; echo y >/cache/new",
        );
        let again = "ls / | grep -c '^new$' || true; cat step /t/tool; ls /cache";
        assert_eq!(inside(&lab, &[], again), "0\nfailed\ntool\nfile\n");
        // Before the step, another user, folder, variable.
        assert_eq!(inside(&lab, &["--before"], "ls /made"), "below\n");
        assert_eq!(
            inside(
                &lab,
                &["-u", "0", "-w", "/etc", "-e", "NAME=else"],
                "id -u; pwd; echo $NAME"
            ),
            "0\n/etc\nelse\n"
        );
        // The step's own command once more, on what it left and before.
        let rerun = debug(&lab, &["--rerun"]);
        assert_eq!(rerun.status.code(), Some(3), "{}", said(&rerun));
        assert!(said(&rerun).contains("below"), "{}", said(&rerun));
        let rerun = debug(&lab, &["--rerun", "--before"]);
        assert_eq!(rerun.status.code(), Some(3), "{}", said(&rerun));
        assert!(!said(&rerun).contains("below"), "{}", said(&rerun));
        lab.assert_sound();
    }
}

#[test]
fn nothing_secret_is_kept() {
    let lab = failed(Lab::new());
    let log = lab.ok(&["debug", "--log"]);
    assert_eq!(log, "***\n***\n\n");
    let mut kept = 0;
    for path in crate::lab::files(&lab.root) {
        if let Ok(bytes) = std::fs::read(lab.root.join(&path)) {
            kept += 1;
            let found = memchr::memmem::find(&bytes, b"t0ps3cret").is_some();
            assert!(!found, "in {}", path.display());
        }
    }
    assert!(kept > 10, "the store has files");
    let step = lab.root.join("failed");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&step.metadata().expect("there").permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn the_whole_output_is_kept() {
    for lab in labs_with_one_id() {
        lab.write(
            "Dockerfile",
            "FROM @REG@/busybox\nRUN seq 1 40000; echo last words; exit 1\n",
        );
        let built = fail(&lab, &["."]);
        assert!(
            said(&built).contains("last words\n------"),
            "{}",
            said(&built)
        );
        let log = lab.ok(&["debug", "--log"]);
        assert_eq!(
            log.lines().filter(|line| *line != "last words").count(),
            40_000
        );
        assert!(log.contains("last words\n") && log.starts_with("1\n2\n"));
        lab.assert_sound();
        // Nothing of a step that succeeds.
        lab.write("Dockerfile", "FROM @REG@/busybox\nRUN seq 1 40000\n");
        lab.ok(&["debug", "--rm", "last"]);
        lab.ok(&["build", "-q", "."]);
        assert_eq!(list(&lab).len(), 0);
        lab.assert_sound();
    }
}

#[test]
fn exit_codes_and_errors() {
    let lab = Lab::new();
    let none = debug(&lab, &[]);
    assert_eq!(none.status.code(), Some(1));
    let words = "no failed step \"last\" is kept\nhint: strata debug --list shows what is kept";
    assert!(said(&none).contains(words), "{}", said(&none));
    lab.write(
        "Dockerfile",
        "FROM scratch\nCOPY --from=@REG@/busybox /bin/busybox /busybox\nRUN [\"/busybox\", \"false\"]\n",
    );
    fail(&lab, &["."]);
    let shell = debug(&lab, &[]);
    assert_eq!(shell.status.code(), Some(125), "{}", said(&shell));
    for words in [
        "there is no shell in the image: looked for /bin/bash, ",
        "hint: give a program that the image has: strata debug ID -- PROGRAM",
    ] {
        assert!(said(&shell).contains(words), "{}", said(&shell));
    }
    for (command, code) in [
        (&["/busybox", "true"][..], 0),
        (&["/busybox", "sh", "-c", "exit 9"], 9),
        (
            &[
                "/busybox",
                "sh",
                "-c",
                "kill -TERM $$; /busybox sleep 1; exit 4",
            ],
            4,
        ),
        (&["/none"], 127),
        (&["/dev/null"], 126),
    ] {
        let done = debug(&lab, &[&["--"], command].concat());
        assert_eq!(
            done.status.code(),
            Some(code),
            "{command:?}: {}",
            said(&done)
        );
    }
    // What never began is kept, too; and what is on standard input goes to a shell.
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox\nRUN [\"/no/such\", \"x\"]\n",
    );
    fail(&lab, &["."]);
    let how = &list(&lab)[0]["how"];
    assert!(how["not-started"].is_string(), "{how}");
    let piped = lab.shell("echo 'echo from $((1+1)); exit 8' | strata debug || echo code $?");
    let piped = { piped }.output().expect("start it");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "from 2\ncode 8\n");
    for bad in [
        &["--list", "--log"][..],
        &["--rerun", "--", "x"],
        &["--secret", "nonsense=1"],
        &["-e", "=x"],
    ] {
        let refused = debug(&lab, bad);
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{bad:?}: {}",
            said(&refused)
        );
    }
    lab.assert_sound();
}

#[test]
fn a_shell_on_a_terminal() {
    for lab in labs_with_one_id() {
        lab.write(
            "Dockerfile",
            "FROM @REG@/busybox\nRUN echo left >/left; exit 6\n",
        );
        fail(&lab, &["."]);
        let mut shell = OnTerminal::start(lab.strata(&["debug"]));
        shell.see(
            "as it left it; it ended with exit code 6. What is changed here is dropped at the end.",
        );
        shell.see("Its command: echo left >/left; exit 6");
        shell.see("/ # ");
        shell.type_in("cat /left; test -t 0 && echo 'a '$TERM; stty size\r");
        shell.see("\r\nleft\r\na vt100\r\n24 80\r\n");
        shell.resize(33, 99);
        // The size goes across when strata has got the signal.
        wait_for("the new size", || {
            shell.type_in("stty size\r");
            shell.seen().contains("33 99").then_some(())
        });
        // Ctrl-C is for what runs in it.
        // Said by what the terminal's keys go to by then, not by the shell that starts it.
        shell.type_in("sh -c \"echo be''gun; exec sleep 1000\"\r");
        shell.see("begun");
        shell.type_in("\x03");
        shell.type_in("echo code $?\r");
        shell.see("code 130");
        shell.type_in("exit 5\r");
        assert_eq!(shell.wait().code(), Some(5), "{}", shell.seen());
        lab.assert_sound();
    }
}

#[test]
fn a_shell_at_once() {
    for lab in labs_with_one_id() {
        lab.write("Dockerfile", DOCKERFILE);
        lab.write("secret", "t0ps3cret\n");
        let flags = [
            "build",
            "--on-error",
            "shell",
            "--secret",
            "id=tok,src=secret",
            ".",
        ];
        let mut build = OnTerminal::start(lab.strata(&flags));
        build.see("as it left it; it ended with exit code 3.");
        // With a single id the user is root, too.
        wait_for("the prompt", || {
            let seen = build.seen();
            (seen.contains("/made $ ") || seen.contains("/made # ")).then_some(())
        });
        build.type_in("pwd; cat step /run/tok; exit 42\r");
        build.see("/made\r\nfailed\r\nt0ps3cret\r\n");
        build.see("ERROR: failed to build: failed to solve: process");
        assert_eq!(build.wait().code(), Some(1), "{}", build.seen());
        lab.assert_sound();
        // Without a terminal it says so, and fails as any other.
        let built = fail(
            &lab,
            &["--on-error=shell", "--secret", "id=tok,src=secret", "."],
        );
        let words = "note: --on-error=shell needs a terminal, and there is none";
        assert!(said(&built).contains(words), "{}", said(&built));
        assert_eq!(list(&lab).len(), 2);
        // Who wants nothing kept gets nothing.
        let built = fail(
            &lab,
            &["--on-error=discard", "--secret", "id=tok,src=secret", "."],
        );
        assert!(!said(&built).contains("hint: "), "{}", said(&built));
        assert_eq!(list(&lab).len(), 2);
    }
}

#[test]
fn a_debug_killed() {
    for lab in labs_with_one_id() {
        let word = format!("mark-debug-{}", lab.registry.host().replace([':', '.'], ""));
        lab.write("Dockerfile", "FROM @REG@/busybox\nRUN echo x >/x; exit 1\n");
        fail(&lab, &["."]);
        let script = format!(": {word}; echo changed >/x; echo begun >&2; sleep 1000; true");
        for signal in [Signal::KILL, Signal::TERM] {
            // The shell must not end by itself with strata's end.
            let script = format!("trap 'exit 4' TERM; {{ {script}; }} & wait");
            let mut running = Running::start(lab.strata(&["debug", "--", "sh", "-c", &script]));
            running.hear("begun");
            // What somebody looks at is not removed.
            let busy = debug(&lab, &["--rm"]);
            assert!(
                said(&busy).contains("is being looked at"),
                "{}",
                said(&busy)
            );
            running.signal(signal);
            let status = running.wait();
            assert_eq!(status.code(), (signal == Signal::TERM).then_some(4));
            wait_for("the end of the sandbox", || {
                processes(&word).is_empty().then_some(())
            });
            assert_eq!(inside(&lab, &[], "cat /x"), "x\n");
            lab.assert_sound();
        }
    }
}

#[test]
fn they_are_bounded_and_pruned() {
    for lab in labs_with_one_id() {
        for step in 0..12 {
            let text = format!("FROM @REG@/busybox\nRUN echo {step} >/step; exit 1\n");
            lab.write("Dockerfile", &text);
            fail(&lab, &["."]);
        }
        let kept = list(&lab);
        assert_eq!(kept.len(), 10);
        assert_eq!(inside(&lab, &[], "cat /step"), "11\n");
        let oldest = kept[9]["id"].as_str().expect("text");
        let done = debug(&lab, &[oldest, "--", "cat", "/step"]);
        assert_eq!(
            String::from_utf8_lossy(&done.stdout),
            "2\n",
            "{}",
            said(&done)
        );
        let usage: Value =
            serde_json::from_str(&lab.ok(&["df", "--format", "json"])).expect("JSON");
        assert_eq!(usage["failed"]["count"], 10);
        lab.ok(&["prune", "-f", "--images-only"]);
        assert_eq!(inside(&lab, &[], "cat /step"), "11\n", "its layers stay");
        lab.ok(&["prune", "-f", "--until", "1h"]);
        assert_eq!(list(&lab).len(), 10);
        lab.ok(&["prune", "-f"]);
        assert_eq!(list(&lab).len(), 0);
        let left = crate::lab::files(&lab.root.join("failed"));
        assert!(left.is_empty(), "{left:?}");
        lab.assert_sound();
    }
}
