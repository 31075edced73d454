//! What is needed of an image is fetched once, by steps and by processes, and said to be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, Running, labs, said, wait_for};

/// How often each blob was asked for, by digest.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<BTreeMap<String, u32>>>);

impl Asked {
    /// Counts from now on.
    fn of(lab: &Lab) -> Asked {
        let asked = Asked::default();
        let counts = asked.clone();
        lab.registry.fault(move |request| {
            if request.method == "GET"
                && let Some((_, digest)) = request.path.split_once("/blobs/")
            {
                let mut counts = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
                *counts.entry(digest.to_owned()).or_default() += 1;
            }
            None
        });
        asked
    }

    fn counts(&self) -> BTreeMap<String, u32> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[test]
fn stages_on_one_base_fetch_it_once_and_show_it() {
    let lab = Lab::new();
    let asked = Asked::of(&lab);
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox AS a\nRUN echo a >/a\n\
         FROM @REG@/busybox AS b\nRUN echo b >/b\n\
         FROM @REG@/busybox AS c\nRUN echo c >/c\n\
         FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\n",
    );
    let output = lab
        .strata(&["build", "--progress=plain", "."])
        .output()
        .unwrap();
    let words = said(&output);
    assert!(output.status.success(), "{words}");
    let asked = asked.counts();
    assert!(
        !asked.is_empty() && asked.values().all(|count| *count == 1),
        "{asked:?}"
    );
    let from = words
        .lines()
        .find_map(|line| {
            line.split_once(" [")
                .filter(|(_, name)| name.contains("FROM "))
        })
        .map(|(number, _)| number.to_owned())
        .unwrap_or_else(|| panic!("no step is a FROM:\n{words}"));
    assert!(
        words
            .lines()
            .any(|line| line.starts_with(&format!("{from} sha256:")) && line.ends_with(" done")),
        "{words}"
    );
}

// A file that a step opens for writing is copied up; when it stays as it was, the layer does not have it, but the layer's
// directory did, and `check` called the store damaged.
#[test]
fn what_was_copied_up_and_not_changed_is_in_no_layer() {
    let lab = Lab::new();
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox\nRUN mkdir /d && echo a >/d/f\nRUN : >>/d/f; echo x >/y\nRUN cat /d/f /y\n",
    );
    lab.ok(&["build", "."]);
    lab.assert_sound();
}

/// The digest of the one layer of busybox.
fn busybox_layer(lab: &Lab) -> String {
    let manifest = lab.ok(&["inspect", "--raw", "docker://@REG@/busybox"]);
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let digest = manifest["layers"][0]["digest"].as_str();
    digest.expect("it has a layer").to_owned()
}

/// A build that needs the files of busybox, of which no step is another build's.
fn build(lab: &Lab, name: &str) -> Running {
    let text = format!("FROM @REG@/busybox\nRUN echo {name}\n");
    lab.write(&format!("{name}.Dockerfile"), &text);
    let file = format!("{name}.Dockerfile");
    Running::start(lab.strata(&["build", "--progress=plain", "-f", &file, "."]))
}

// Each process fetched what it did not find, also what another was fetching just then.
#[test]
fn a_layer_that_two_processes_want_is_fetched_once() {
    for lab in labs() {
        let layer = busybox_layer(&lab);
        let asked = Asked::of(&lab);
        lab.registry.hold("GET", String::leak(layer.clone()));
        let mut first = build(&lab, "first");
        lab.registry.wait_held();
        let mut second = build(&lab, "second");
        second.hear("being fetched already");
        // Who waits can be ended, and nobody else is by that.
        let mut ended = build(&lab, "ended");
        ended.hear("being fetched already");
        ended.signal(Signal::INT);
        assert!(!ended.wait().success());
        assert_eq!(asked.counts()[&layer], 1);
        lab.registry.release();
        assert!(first.wait().success(), "{}", first.heard());
        assert!(second.wait().success(), "{}", second.heard());
        assert_eq!(asked.counts()[&layer], 1);
        lab.assert_sound();
    }
}

#[test]
fn a_layer_whose_fetcher_was_killed_is_fetched_by_who_waited() {
    for lab in labs() {
        let layer = busybox_layer(&lab);
        let asked = Asked::of(&lab);
        lab.registry.hold("GET", String::leak(layer.clone()));
        let killed = build(&lab, "killed");
        lab.registry.wait_held();
        let mut waiters = ["one", "two"].map(|name| build(&lab, name));
        for waiter in &waiters {
            waiter.hear("being fetched already");
        }
        killed.kill();
        wait_for("a waiter to fetch", || {
            (asked.counts()[&layer] == 2).then_some(())
        });
        lab.registry.release();
        for waiter in &mut waiters {
            assert!(waiter.wait().success(), "{}", waiter.heard());
        }
        assert_eq!(asked.counts()[&layer], 2);
        lab.assert_sound();
    }
}

#[test]
fn pulls_at_once_fetch_each_blob_once() {
    for lab in labs() {
        let asked = Asked::of(&lab);
        let mut pulls: Vec<Running> = ["busybox", "whiteout", "busybox", "whiteout"]
            .iter()
            .flat_map(|name| {
                let name = format!("@REG@/{name}");
                [&["pull", "-q"][..], &["pull", "-q", "--unpack"]]
                    .map(|pull| Running::start(lab.strata(&[pull, &[name.as_str()][..]].concat())))
            })
            .collect();
        for pull in &mut pulls {
            assert!(pull.wait().success(), "{}", pull.heard());
        }
        let counts = asked.counts();
        assert!(
            counts.len() > 2 && counts.values().all(|count| *count == 1),
            "{counts:?}"
        );
        lab.assert_sound();
    }
}
