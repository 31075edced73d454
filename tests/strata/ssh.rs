//! `--ssh`: which agent git and RUN get, and that agents which hold keys from files are gone afterwards.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::git::repositories;
use crate::lab::{Lab, Running, processes, said, succeed, wait_for};

/// Stands for ssh: tells how it was run and which keys it may use, and runs git's side of the host here.
const SSH: &str = "#!/bin/sh
echo \"agent=$SSH_AUTH_SOCK $*\" >>\"$TOLD\"
[ -n \"$SSH_AUTH_SOCK\" ] || { echo 'git@host: Permission denied (publickey).' >&2; exit 255; }
[ -z \"$KEYS\" ] || ssh-add -l >>\"$KEYS\"
[ -z \"$HANG\" ] || { touch \"$HANG\"; while [ -e \"$HANG\" ]; do sleep 0.1; done; exit 1; }
for word; do command=$word; done
exec sh -c \"$command\"
";

/// A lab with a repository behind the ssh that is none.
struct Host {
    lab: Lab,
    /// The repository's address.
    address: String,
}

impl Host {
    fn new() -> Host {
        let lab = Lab::new();
        repositories(&lab.folder.join("served"));
        let program = lab.beside("fake").join("ssh");
        std::fs::create_dir_all(lab.beside("fake")).expect("make a folder");
        std::fs::write(&program, SSH).expect("write the ssh");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, executable).expect("make it a program");
        std::fs::create_dir(lab.folder.join("tmp")).expect("make a folder");
        let repository = lab.folder.join("served/repo.git");
        let address = format!("ssh://git@host{}", repository.display());
        lab.write(
            "c/Dockerfile",
            &format!("FROM scratch\nADD {address} /r/\n"),
        );
        Host { lab, address }
    }

    fn strata(&self, arguments: &[&str]) -> Command {
        std::fs::write(self.lab.folder.join("told"), "").expect("begin anew");
        let mut command = self.lab.strata(arguments);
        let path = std::env::var("PATH").expect("there is a PATH");
        let path = format!("{}:{path}", self.lab.beside("fake").display());
        command
            .env("PATH", path)
            .env("TMPDIR", self.lab.folder.join("tmp"))
            .env("TOLD", self.lab.folder.join("told"));
        command
    }

    /// How ssh was run since.
    fn heard(&self) -> String {
        std::fs::read_to_string(self.lab.folder.join("told")).expect("ssh was run")
    }

    /// Waits until agents that strata started have ended, which they are told to and not waited for.
    fn wait_for_no_agent(&self) {
        wait_for("the agents to end", || {
            self.agents().is_empty().then_some(())
        });
    }

    /// Agents that strata started.
    fn agents(&self) -> Vec<u32> {
        processes(&format!("{}/", self.lab.folder.join("tmp").display()))
    }
}

#[test]
fn git_has_the_agent_that_was_lent_and_no_configuration() {
    let host = Host::new();
    let socket = host.lab.folder.join("agent.sock");
    let _agent = UnixListener::bind(&socket).expect("listen");
    let strata = |arguments: &[&str]| {
        let mut command = host.strata(arguments);
        command.env("SSH_AUTH_SOCK", &socket);
        command
    };
    let lent = format!("agent={} ", socket.display());
    // The store is in somebody's repository, which says that addresses mean something else.
    succeed(
        &mut host
            .lab
            .shell("cd ..; git init -q .; git config url.file:///nowhere.insteadOf ssh://git@host"),
    );

    // A Dockerfile gets no agent by itself.
    let refused = strata(&["build", "c"]).output().expect("run strata");
    assert!(!refused.status.success());
    assert!(host.heard().starts_with("agent= "), "{}", host.heard());
    let words = said(&refused);
    assert!(
        words.contains("Permission denied (publickey)")
            && words.contains("hint: --ssh default lends the build your ssh agent"),
        "{words}"
    );

    let built = strata(&["build", "--ssh", "default", "-t", "r", "c"]).output();
    let words = said(&built.expect("run strata"));
    // The user of the address is no secret that could be looked for.
    assert!(!words.contains("secret of"), "{words}");
    assert!(host.lab.ok(&["files", "r"]).contains("/r/README.md"));
    for line in host.heard().lines() {
        assert!(
            line.starts_with(&lent)
                && line.contains(" -F none ")
                && line.contains("IdentityFile=none")
                && line.contains("UserKnownHostsFile=/dev/null ~/.ssh/known_hosts"),
            "{line}"
        );
    }

    // The context is what the user asked for: buildx, too, lends the agent for it.
    succeed(&mut strata(&["build", "-t", "c", &host.address]));
    let heard = host.heard();
    assert!(heard.lines().all(|line| line.starts_with(&lent)), "{heard}");
}

#[test]
fn keys_from_files_are_in_an_agent_as_long_as_the_build_runs() {
    let host = Host::new();
    let lab = &host.lab;
    succeed(&mut lab.shell(
        "ssh-keygen -q -t ed25519 -N '' -C first -f one; ssh-keygen -q -t ed25519 -N '' -C second -f two
         chmod 644 one; echo nonsense >three",
    ));
    let keys = lab.folder.join("keys");
    succeed(
        host.strata(&["build", "--ssh", "default=one,two", "-t", "r", "c"])
            .env("KEYS", &keys),
    );
    let keys = std::fs::read_to_string(keys).expect("the ssh was run");
    assert!(
        keys.contains(" first (") && keys.contains(" second ("),
        "{keys}"
    );
    host.wait_for_no_agent();

    // A RUN is given the same agent, by a socket of its own.
    lab.write(
        "run/Dockerfile",
        "FROM @REG@/busybox\nRUN --mount=type=ssh,id=k,required test -S $SSH_AUTH_SOCK\n",
    );
    succeed(&mut host.strata(&["build", "--ssh", "k=two", "run"]));
    host.wait_for_no_agent();

    let refused = host.strata(&["build", "--ssh", "k=three", "run"]).output();
    let words = said(&refused.expect("run strata"));
    assert!(
        words.contains("--ssh k: three is no key that ssh-add takes"),
        "{words}"
    );
    host.wait_for_no_agent();
}

#[test]
fn an_agent_goes_with_a_build_that_is_killed() {
    let host = Host::new();
    succeed(&mut host.lab.shell("ssh-keygen -q -t ed25519 -N '' -f one"));
    let hangs = host.lab.folder.join("hangs");
    let mut command = host.strata(&["build", "--ssh", "default=one", "c"]);
    command.env("HANG", &hangs);
    let build = Running::start(command);
    wait_for("the ssh", || hangs.exists().then_some(()));
    assert!(!host.agents().is_empty());
    build.kill();
    host.wait_for_no_agent();
    // git goes when its ssh does.
    std::fs::remove_file(&hangs).expect("it is there");
    let folder = host.lab.folder.display().to_string();
    wait_for("git to end", || processes(&folder).is_empty().then_some(()));
}
