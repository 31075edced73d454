//! Real sandboxes around Debian's static busybox, as root and as ordinary users.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::overlay::{self, Options, Upper};
use super::*;

mod lives;
mod rootless;

/// A root filesystem of busybox below an empty upper directory.
struct World {
    _scratch: Option<tempfile::TempDir>,
    path: PathBuf,
    overlay: Arc<OwnedFd>,
}

/// How a command ended, and what it said.
struct Outcome {
    status: Status,
    stdout: String,
    stderr: String,
    created: Created,
}

fn populate(path: &Path) {
    for directory in [
        "lower/bin",
        "lower/etc",
        "lower/tmp",
        "lower/root",
        "lower/usr/bin",
        "upper",
        "work",
    ] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("lower/bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "true", "false", "ls", "id", "sleep", "chown", "mknod", "stat", "su",
    ] {
        symlink("busybox", path.join("lower/bin").join(applet)).unwrap();
    }
}

impl World {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().to_owned();
        populate(&path);
        let overlay = Self::overlay(&path);
        Self {
            _scratch: Some(scratch),
            path,
            overlay,
        }
    }

    fn overlay(path: &Path) -> Arc<OwnedFd> {
        let upper = Upper {
            changes: &path.join("upper"),
            work: &path.join("work"),
        };
        let options = Options {
            userxattr: userns::current().userxattr(),
            volatile: true,
        };
        Arc::new(overlay::mount(&[path.join("lower")], Some(upper), options).unwrap())
    }

    fn spec(&self, args: &[&str]) -> Spec {
        let (_, stdout) = std::io::pipe().unwrap();
        let (_, stderr) = std::io::pipe().unwrap();
        Spec {
            rootfs: self.overlay.clone(),
            args: args.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
            hostname: "sandbox".into(),
            mounts: vec![],
            network: Network::Host,
            security: Security::Default,
            rlimits: vec![],
            limits: Limits::default(),
            shm_size_bytes: 64 << 20,
            read_only: false,
            stdio: Stdio::Capture {
                stdout: stdout.into(),
                stderr: stderr.into(),
            },
        }
    }

    fn try_run(
        &self,
        args: &[&str],
        edit: impl FnOnce(&mut Spec),
    ) -> Result<Outcome, SandboxError> {
        let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut spec = self.spec(args);
        spec.stdio = Stdio::Capture {
            stdout: out.try_clone().unwrap().into(),
            stderr: err.try_clone().unwrap().into(),
        };
        edit(&mut spec);
        let child = spawn(spec)?;
        let created = child.created().clone();
        let status = child.wait()?;
        let text = |file: &mut File| {
            let mut text = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        };
        Ok(Outcome {
            status,
            stdout: text(&mut out),
            stderr: text(&mut err),
            created,
        })
    }

    fn run(&self, args: &[&str], edit: impl FnOnce(&mut Spec)) -> Outcome {
        self.try_run(args, edit).unwrap()
    }

    fn shell(&self, script: &str) -> String {
        self.shell_with(script, |_| {})
    }

    fn shell_with(&self, script: &str, edit: impl FnOnce(&mut Spec)) -> String {
        let outcome = self.run(&["sh", "-c", script], edit);
        assert_eq!(
            outcome.status,
            Status::Exited(0),
            "{script}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
        outcome.stdout
    }

    /// Everything in the upper directory, sorted.
    fn changes(&self) -> Vec<String> {
        fn walk(base: &Path, path: &Path, names: &mut Vec<String>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                names.push(path.strip_prefix(base).unwrap().display().to_string());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(base, &path, names);
                }
            }
        }
        let (upper, mut names) = (self.path.join("upper"), Vec::new());
        walk(&upper, &upper, &mut names);
        names.sort();
        names
    }

    fn remove_stubs(&self, outcome: &Outcome) -> usize {
        let upper = File::open(self.path.join("upper")).unwrap();
        outcome.created.remove_stubs(upper.as_fd()).unwrap()
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    let source = Arc::new(File::open(source).unwrap().into());
    Mount::Bind(Bind {
        source,
        target: target.into(),
        read_only,
        recursive: true,
    })
}

#[test]
fn the_exit_status_is_the_commands() {
    let world = World::new();
    for (script, expected) in [
        ("exit 0", Status::Exited(0)),
        ("exit 3", Status::Exited(3)),
        ("kill -9 $$; exit 5", Status::Exited(5)),
        ("sh -c 'kill -9 $$'; exit $?", Status::Exited(137)),
        ("sh -c 'kill -TERM $$'; exit $?", Status::Exited(143)),
    ] {
        assert_eq!(
            world.run(&["sh", "-c", script], |_| {}).status,
            expected,
            "{script}"
        );
    }
    assert_eq!(
        (Status::Signaled(9).code(), Status::Exited(3).code()),
        (137, 3)
    );
}

#[test]
fn the_command_is_pid_1_and_sees_only_its_own_world() {
    let world = World::new();
    for (script, expected) in [
        ("echo $$", "1\n"),
        ("hostname", "sandbox\n"),
        ("set -- /proc/[0-9]*; echo $#", "1\n"),
        ("umask", "0022\n"),
        ("env | sort", "PATH=/usr/bin:/bin\nPWD=/\nSHLVL=1\n"),
        ("cat", ""),
        ("readlink /proc/self/fd/0", "/dev/null\n"),
        ("ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3 "),
        (
            "ls /dev | tr '\\n' ' '",
            "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
        ),
        ("ls /dev/pts", "ptmx\n"),
        ("head -c 3 /dev/zero | od -An -tx1", " 00 00 00\n"),
        ("stat -c %a /dev/null /dev/shm", "666\n1777\n"),
        ("df -k /dev/shm | awk 'NR==2 {print $2}'", "65536\n"),
        ("cat /proc/kcore /proc/timer_list /proc/keys | wc -c", "0\n"),
        ("ls /sys/firmware | wc -l", "0\n"),
        ("touch /sys/x 2>/dev/null || echo no", "no\n"),
        (
            "echo 1 2>/dev/null > /proc/sys/kernel/panic || echo no",
            "no\n",
        ),
        ("grep -c ' / / ' /proc/self/mountinfo", "1\n"),
        ("ls -d /sys/class", "/sys/class\n"),
        (
            "cat /proc/self/sessionid >/dev/null; ps -o sid,pid | awk '$2==1 {print $1}'",
            "1\n",
        ),
    ] {
        assert_eq!(world.shell(script), expected, "{script}");
    }
}

#[test]
fn capabilities_and_seccomp_are_dockers() {
    let world = World::new();
    let status = |edit: fn(&mut Spec)| world.run(&["cat", "/proc/self/status"], edit).stdout;
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value[1..].trim().to_owned())
            .unwrap()
    };
    let root = status(|_| {});
    let user = status(|spec| (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![5, 6]));
    let insecure = status(|spec| spec.security = Security::Insecure);
    for (name, as_root, as_user) in [
        ("CapEff", "00000000a80425fb", "0000000000000000"),
        ("CapPrm", "00000000a80425fb", "0000000000000000"),
        ("CapBnd", "00000000a80425fb", "00000000a80425fb"),
        ("CapInh", "0000000000000000", "0000000000000000"),
        ("CapAmb", "0000000000000000", "0000000000000000"),
        ("Seccomp", "2", "2"),
        ("NoNewPrivs", "0", "0"),
        ("Uid", "0\t0\t0\t0", "1000\t1000\t1000\t1000"),
        ("Gid", "0\t0\t0\t0", "1001\t1001\t1001\t1001"),
        ("Groups", "", "5 6"),
        ("SigBlk", "0000000000000000", "0000000000000000"),
        ("SigIgn", "0000000000000000", "0000000000000000"),
    ] {
        assert_eq!(field(&root, name), as_root, "{name} of root");
        assert_eq!(field(&user, name), as_user, "{name} of a user");
    }
    assert_eq!(field(&insecure, "Seccomp"), "0");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(field(&insecure, "CapEff"), field(&own, "CapEff"));
    assert_eq!(
        world.shell("mount -t tmpfs x /tmp 2>/dev/null || echo refused"),
        "refused\n"
    );
    assert_eq!(
        world.shell("unshare -m true 2>/dev/null || echo refused"),
        "refused\n"
    );
    assert_eq!(
        world.shell_with("mount -t tmpfs x /tmp && echo ok", |spec| spec.security =
            Security::Insecure),
        "ok\n"
    );
}

#[test]
fn a_network_of_its_own_has_a_loopback() {
    let world = World::new();
    let script =
        "ls /sys/class/net; cat /sys/class/net/lo/flags; ip addr show lo | grep -c 127.0.0.1";
    assert_eq!(
        world.shell_with(script, |spec| spec.network = Network::None),
        "lo\n0x9\n1\n"
    );
}

#[test]
fn errors_say_what_failed() {
    let world = World::new();
    fs::write(world.path.join("lower/bin/data"), "\u{1}").unwrap();
    fs::write(world.path.join("lower/bin/noise"), "\u{1}").unwrap();
    fs::set_permissions(
        world.path.join("lower/bin/noise"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let error = |args: &[&str], edit: fn(&mut Spec)| world.try_run(args, edit).err().unwrap();
    let words = |args: &[&str]| error(args, |_| {}).to_string();
    assert_eq!(
        words(&["nosuch"]),
        "exec: \"nosuch\": executable file not found in $PATH"
    );
    assert_eq!(
        words(&[""]),
        "exec: \"\": executable file not found in $PATH"
    );
    assert_eq!(
        words(&["/no/such"]),
        "exec: \"/no/such\": executable file not found in $PATH"
    );
    assert!(matches!(
        error(&["data"], |_| {}),
        SandboxError::CommandNotExecutable { .. }
    ));
    assert!(matches!(
        error(&["noise"], |_| {}),
        SandboxError::CommandNotExecutable { .. }
    ));
    assert!(matches!(error(&[], |_| {}), SandboxError::NoCommand));
    assert!(matches!(
        error(&["a\0b"], |_| {}),
        SandboxError::ZeroByte { .. }
    ));
    assert!(matches!(
        error(&["true"], |spec| spec.cwd = "/bin/true".into()),
        SandboxError::WorkingDirectory { .. }
    ));
    assert!(matches!(
        error(&["true"], |spec| spec.mounts =
            vec![bind(Path::new("/etc"), "//proc/./x", true)]),
        SandboxError::TargetInProc { .. }
    ));
    assert!(matches!(
        error(&["true"], |spec| spec.rlimits =
            vec![("files".to_owned(), 1, 1)]),
        SandboxError::UnknownLimit { .. }
    ));
    let limit = error(&["true"], |spec| {
        spec.rlimits = vec![("nofile".to_owned(), 9, 3)]
    });
    assert_eq!(limit.to_string(), "cannot set the limit nofile to 9:3");
}

#[test]
fn limits_hold() {
    let world = World::new();
    let nofile = |spec: &mut Spec| spec.rlimits = vec![("nofile".to_owned(), 1062, 1063)];
    assert_eq!(
        world.shell_with("ulimit -n; ulimit -Hn", nofile),
        "1062\n1063\n"
    );
    assert_eq!(
        world.shell_with("df -k /dev/shm | awk 'NR==2 {print $2}'", |spec| spec
            .shm_size_bytes =
            128 << 20),
        "131072\n"
    );

    let pids = world.run(
        &[
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6; do sleep 5 & done; kill -9 -1",
        ],
        |spec| {
            spec.limits.pids = Some(4);
        },
    );
    assert!(pids.stderr.contains("fork"), "{}", pids.stderr);
    let memory = world.run(
        &[
            "sh",
            "-c",
            "head -c 200000000 /dev/zero | tail -c 199999999 | wc -c; exit $?",
        ],
        |spec| {
            spec.limits.memory_bytes = Some(32 << 20);
        },
    );
    assert_ne!(
        memory.stdout, "199999999\n",
        "{:?} {}",
        memory.status, memory.stderr
    );
    let cpu = world.run(&["true"], |spec| spec.limits.cpus = Some(0.5));
    assert_eq!(cpu.status, Status::Exited(0));
    let own = format!("strata-{}-", std::process::id());
    for folder in ["memory", "pids", "cpu", "."] {
        let Ok(entries) = fs::read_dir(Path::new("/sys/fs/cgroup").join(folder)) else {
            continue;
        };
        let left: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn mounts_appear_in_order_and_leave_nothing() {
    let world = World::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "text\n").unwrap();
    // As systemd's distributions have it: a link to a file that is not there.
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        world.path.join("lower/etc/resolv.conf"),
    )
    .unwrap();
    symlink("/etc", world.path.join("lower/usr/bin/config")).unwrap();
    symlink("../../../../..", world.path.join("lower/up")).unwrap();
    let before = fs::metadata(world.path.join("lower/etc")).unwrap();
    let mounts = |spec: &mut Spec| {
        let file = outside.path().join("file");
        spec.mounts = vec![
            bind(&file, "/etc/hosts", true),
            bind(&file, "/etc/resolv.conf", true),
            bind(&file, "/usr/bin/config/deep/er/file", true),
            bind(&file, "/up/escape/file", true),
            bind(outside.path(), "/cache", false),
            Mount::Tmpfs {
                target: "/cache/scratch".into(),
                size_bytes: Some(1 << 20),
                mode: 0o1777,
            },
            Mount::Device(Device {
                source: "/dev/zero".into(),
                target: "/dev/fuse".into(),
            }),
        ];
    };
    let script = "cat /etc/hosts /etc/resolv.conf /etc/deep/er/file /escape/file
        touch /etc/hosts 2>/dev/null || echo read-only
        echo new > /cache/new; echo x > /cache/scratch/x; df -k /cache/scratch | awk 'NR==2 {print $2}'
        head -c 1 /dev/fuse | wc -c";
    let outcome = world.run(&["sh", "-c", script], mounts);
    assert_eq!(
        outcome.stdout, "text\ntext\ntext\ntext\nread-only\n1024\n1\n",
        "{}",
        outcome.stderr
    );
    assert_eq!(
        fs::read_to_string(outside.path().join("new")).unwrap(),
        "new\n"
    );
    assert!(!outside.path().join("scratch/x").exists());
    let mut paths: Vec<_> = outcome
        .created
        .paths()
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    let expected = [
        "cache",
        "escape",
        "escape/file",
        "etc/deep",
        "etc/deep/er",
        "etc/deep/er/file",
        "etc/hosts",
        "run",
        "run/systemd",
        "run/systemd/resolve",
        "run/systemd/resolve/stub-resolv.conf",
    ];
    assert_eq!(paths, expected);
    assert_eq!(world.remove_stubs(&outcome), expected.len());
    assert_eq!(world.changes(), ["dev", "proc", "sys"]);
    assert_eq!(
        world.remove_stubs(&outcome),
        0,
        "a second time does nothing"
    );
    let _ = before;
}

#[test]
fn stubs_leave_what_the_command_did() {
    let world = World::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let at = |target: &str| bind(file.path(), target, true);
    let lower_etc = fs::metadata(world.path.join("lower/etc")).unwrap();
    let outcome = world.run(
        &[
            "sh",
            "-c",
            "echo x > /etc/mine; chmod 700 /tmp; echo y > /new/y; sleep 0.02",
        ],
        |spec| {
            spec.mounts = vec![
                at("/etc/stub"),
                at("/tmp/stub"),
                at("/root/stub"),
                at("/new/stub"),
            ];
        },
    );
    assert_eq!(outcome.status, Status::Exited(0), "{}", outcome.stderr);
    world.remove_stubs(&outcome);
    assert_eq!(
        world.changes(),
        [
            "dev", "etc", "etc/mine", "new", "new/y", "proc", "sys", "tmp"
        ]
    );
    let etc = fs::metadata(world.path.join("upper/etc")).unwrap();
    assert_ne!(
        etc.mtime_nsec(),
        lower_etc.mtime_nsec(),
        "the command changed it"
    );
    let tmp = fs::metadata(world.path.join("upper/tmp")).unwrap();
    let lower_tmp = fs::metadata(world.path.join("lower/tmp")).unwrap();
    assert_eq!(
        (tmp.mtime(), tmp.mtime_nsec()),
        (lower_tmp.mtime(), lower_tmp.mtime_nsec()),
        "only the stub came and went"
    );
    assert_eq!(tmp.mode() & 0o7777, 0o700);
}

#[test]
fn a_command_that_changes_nothing_leaves_the_mount_points() {
    let world = World::new();
    assert_eq!(
        world.shell_with("pwd", |spec| spec.cwd = "/w/x".into()),
        "/w/x\n"
    );
    assert_eq!(world.changes(), ["dev", "proc", "sys", "w", "w/x"]);
    for directory in ["dev", "proc", "sys", "w/x"] {
        let metadata = fs::metadata(world.path.join("upper").join(directory)).unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid()),
            (0o755, 0),
            "{directory}"
        );
    }
}

#[test]
fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    let world = World::new();
    let outcome = world.run(
        &[
            "sh",
            "-c",
            "touch /x 2>/dev/null || echo no; touch /t/x && echo yes",
        ],
        |spec| {
            spec.read_only = true;
            spec.mounts = vec![Mount::Tmpfs {
                target: "/t".into(),
                size_bytes: None,
                mode: 0o755,
            }];
        },
    );
    assert_eq!(outcome.stdout, "no\nyes\n", "{}", outcome.stderr);
}

#[test]
fn a_plain_directory_can_be_the_root() {
    let world = World::new();
    let lower = Arc::new(OwnedFd::from(File::open(world.path.join("lower")).unwrap()));
    for _ in 0..2 {
        assert_eq!(
            world.shell_with("echo ok > /made; cat /made", |spec| spec.rootfs =
                lower.clone()),
            "ok\n"
        );
    }
    assert_eq!(
        fs::read_to_string(world.path.join("lower/made")).unwrap(),
        "ok\n"
    );
}

#[test]
fn a_user_can_reopen_captured_output() {
    let world = World::new();
    let (mut read, write) = std::io::pipe().unwrap();
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "echo one > /dev/stdout; echo two > /proc/self/fd/1",
    ]);
    (spec.uid, spec.gid) = (1000, 1000);
    let stderr = write.try_clone().unwrap().into();
    spec.stdio = Stdio::Capture {
        stdout: write.into(),
        stderr,
    };
    let child = spawn(spec).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(
        (child.wait().unwrap(), text.as_str()),
        (Status::Exited(0), "one\ntwo\n")
    );
}

#[test]
fn a_terminal_is_the_commands_own() {
    let world = World::new();
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "tty; stty size; test -c /dev/console && echo console; read x; echo got $x",
    ]);
    spec.stdio = Stdio::Terminal(Terminal {
        rows: 31,
        columns: 77,
    });
    let mut child = spawn(spec).unwrap();
    let master = File::from(child.take_terminal().unwrap());
    rustix::io::write(&master, b"line\n").unwrap();
    let mut text = Vec::new();
    // The end of a terminal is an error (EIO).
    let _ = (&master).read_to_end(&mut text);
    assert_eq!(child.wait().unwrap(), Status::Exited(0));
    let text = String::from_utf8(text).unwrap().replacen("line\r\n", "", 1);
    assert_eq!(text, "/dev/pts/0\r\n31 77\r\nconsole\r\ngot line\r\n");
}

#[test]
fn nothing_stays_mounted_here() {
    let mounts = || {
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count()
    };
    let before = mounts();
    let world = World::new();
    world.shell("true");
    assert_eq!(mounts(), before);
}

#[test]
fn the_name_of_a_command_is_bytes() {
    let world = World::new();
    let name = OsStr::from_bytes(b"/bin/\xff");
    symlink(
        "busybox",
        world
            .path
            .join("lower/bin")
            .join(OsStr::from_bytes(b"\xff")),
    )
    .unwrap();
    let outcome = world.run(&["true"], |spec| spec.args = vec![name.to_owned()]);
    // busybox does not know itself by this name, but it was started.
    assert_eq!(outcome.status, Status::Exited(127));
}
