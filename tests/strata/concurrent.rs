//! Several processes on one store: everything succeeds, equal steps run once, nothing is lost, nothing is left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::lab::{Lab, labs, said};
use crate::registry::Answer;

const BUILDERS: usize = 8;

/// Counts how often a step says that it runs: it asks the registry for `/ran/NAME`.
fn count(lab: &Lab) -> Arc<Mutex<BTreeMap<String, usize>>> {
    let counts = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = Arc::clone(&counts);
    lab.registry.fault(move |asked| {
        let name = asked.path.strip_prefix("/ran/")?;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(name.to_owned()).or_insert(0) += 1;
        Some(Answer::new(200, *b"ok\n"))
    });
    counts
}

/// A Dockerfile with a step and a stage that all have, and steps that only `own` have.
fn dockerfile(own: &str) -> String {
    format!(
        "FROM @REG@/busybox AS shared\n\
         RUN wget -q -O /shared http://@REG@/ran/shared && head -c 3000000 /dev/urandom >/data\n\
         RUN --mount=type=cache,target=/c echo x >>/c/log && wget -q -O /second http://@REG@/ran/second\n\
         FROM @REG@/whiteout\n\
         RUN wget -q -O /own http://@REG@/ran/{own} && echo {own} >/name\n\
         COPY --from=shared /shared /data /here/\n\
         COPY {own}.txt /there/\n"
    )
}

/// Runs all commands at the same time; panics unless all succeed.
fn all_at_once(commands: Vec<std::process::Command>) {
    let failures: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for mut command in commands {
            let failures = &failures;
            scope.spawn(move || {
                let output = command.output().expect("start the command");
                if !output.status.success() {
                    let text = format!("{command:?}: {}", said(&output));
                    failures
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(text);
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The builders, two of each Dockerfile, with these names for what they make.
fn builds(lab: &Lab, round: usize) -> Vec<std::process::Command> {
    (0..BUILDERS)
        .map(|i| {
            let own = format!("own{}", i / 2);
            lab.write(&format!("{own}.txt"), &own);
            lab.write(&format!("{own}.Dockerfile"), &dockerfile(&own));
            let (file, name) = (format!("{own}.Dockerfile"), format!("made{i}:r{round}"));
            lab.strata(&["build", "-f", &file, "-t", &name, "."])
        })
        .collect()
}

#[test]
fn equal_steps_run_once() {
    for lab in labs() {
        let counts = count(&lab);
        all_at_once(builds(&lab, 0));
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let want: Vec<(String, usize)> = ["own0", "own1", "own2", "own3", "second", "shared"]
            .map(|name| (name.to_owned(), 1))
            .into();
        assert_eq!(counts.clone().into_iter().collect::<Vec<_>>(), want);
        drop(counts);
        let images = lab.images();
        for i in 0..BUILDERS {
            assert!(images.contains(&format!("made{i}")), "{images}");
            let name = lab.ok(&["run", &format!("made{i}:r0"), "cat", "/name"]);
            assert_eq!(name, format!("own{}\n", i / 2));
        }
        lab.assert_sound();
    }
}

#[test]
fn builds_and_prune_and_rmi_lose_nothing() {
    for lab in labs() {
        let counts = count(&lab);
        let running = AtomicUsize::new(1);
        let pruned = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for arguments in [
                &["prune", "-f"][..],
                &["prune", "-f", "--images-only"],
                &["prune", "-f", "--unpacked", "--images-only"],
            ] {
                let (lab, running, pruned) = (&lab, &running, &pruned);
                scope.spawn(move || {
                    while running.load(Ordering::SeqCst) > 0 {
                        lab.ok(arguments);
                        pruned.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let _done = Done(&running);
            for round in 1..=3 {
                all_at_once(builds(&lab, round));
                if round > 1 {
                    let names: Vec<String> = (0..BUILDERS)
                        .map(|i| format!("made{i}:r{}", round - 1))
                        .collect();
                    let names = names.iter().map(|name| lab.strata(&["rmi", name]));
                    let mut together: Vec<_> = names.collect();
                    together.extend(builds(&lab, round));
                    all_at_once(together);
                }
            }
        });
        assert!(pruned.into_inner() > 2, "the pruners had no turn");
        for i in 0..BUILDERS {
            let name = lab.ok(&[
                "run",
                &format!("made{i}:r3"),
                "cat",
                "/name",
                "/there/own0.txt",
            ][..if i < 2 { 5 } else { 4 }]);
            assert!(name.starts_with(&format!("own{}\n", i / 2)), "{name}");
        }
        let images = lab.images();
        assert!(
            !images.contains("\"r1\"") && !images.contains("\"r2\""),
            "{images}"
        );
        drop(counts);
        lab.assert_sound();
    }
}

/// Counts down, also when its thread fails.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
