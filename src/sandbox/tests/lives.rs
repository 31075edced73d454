//! How commands live beside each other and beside strata, and how they end.

use super::*;

#[test]
fn killing_ends_everything_inside() {
    let world = World::new();
    let (mut read, write) = std::io::pipe().unwrap();
    let mut spec = world.spec(&["sh", "-c", "sleep 1000 & sleep 1000 & echo started; wait"]);
    let stderr = write.try_clone().unwrap().into();
    spec.stdio = Stdio::Capture {
        stdout: write.into(),
        stderr,
    };
    let mut child = spawn(spec).unwrap();
    let mut line = [0; 8];
    read.read_exact(&mut line).unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    let killer = child.killer();
    let other = std::thread::spawn(move || killer.kill());
    other.join().unwrap().unwrap();
    // The pipe ends when the last process that has it is gone.
    assert_eq!(read.read(&mut line).unwrap(), 0);
    let killer = child.killer();
    assert_eq!(child.wait().unwrap(), Status::Signaled(9));
    killer.kill().unwrap();
}

#[test]
fn a_dropped_child_is_gone() {
    let world = World::new();
    let child = spawn(world.spec(&["sleep", "1000"])).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.pid()));
    assert!(proc.exists());
    drop(child);
    assert!(!proc.exists());
}

#[test]
fn a_signal_reaches_a_command_that_handles_it() {
    let world = World::new();
    let (mut read, write) = std::io::pipe().unwrap();
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done",
    ]);
    let stderr = write.try_clone().unwrap().into();
    spec.stdio = Stdio::Capture {
        stdout: write.into(),
        stderr,
    };
    let child = spawn(spec).unwrap();
    read.read_exact(&mut [0; 6]).unwrap();
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap(), Status::Exited(7));
}

#[test]
fn many_run_at_once() {
    let world = World::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let world = &world;
            scope.spawn(move || {
                assert_eq!(
                    world.shell(&format!("echo {number}")),
                    format!("{number}\n")
                )
            });
        }
    });
}

/// Until it executes the command, the child uses this process's memory.
#[test]
fn what_the_child_changes_is_its_own() {
    let own = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let of_it = |line: &&str| {
            [
                "Uid", "Gid", "Groups", "Cap", "Seccomp", "SigBlk", "SigIgn", "SigCgt",
            ]
            .iter()
            .any(|name| line.starts_with(name))
        };
        let status: Vec<String> = status.lines().filter(of_it).map(str::to_owned).collect();
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        (status, files, std::env::current_dir().unwrap())
    };
    let before = own();
    let world = World::new();
    let all_ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (world, all_ended) = (&world, &all_ended);
        let other = scope.spawn(move || {
            for round in 0_u64.. {
                // What has just been freed is what is written to next.
                let lists: Vec<Vec<u64>> = (1..64).map(|size| vec![round; size * 16]).collect();
                assert!(lists.iter().flatten().all(|&number| number == round));
                if all_ended.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        let runs: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || {
                    for _ in 0..10 {
                        let user = |spec: &mut Spec| {
                            (spec.uid, spec.gid, spec.groups) = (1000 + number, 7, vec![8]);
                            spec.rlimits = vec![("nofile".to_owned(), 99, 99)];
                            spec.cwd = "/tmp".into();
                        };
                        assert_eq!(
                            world.shell_with("id -u; ulimit -n; pwd", user),
                            format!("{}\n99\n/tmp\n", 1000 + number)
                        );
                        let missing = world.try_run(&["/no/such"], |_| {}).err();
                        assert!(matches!(
                            missing,
                            Some(SandboxError::CommandNotFound { .. })
                        ));
                    }
                })
            })
            .collect();
        let ended: Vec<_> = runs.into_iter().map(|run| run.join()).collect();
        all_ended.store(true, std::sync::atomic::Ordering::Relaxed);
        other.join().unwrap();
        assert!(ended.iter().all(Result::is_ok));
    });
    assert_eq!(own(), before);
}
