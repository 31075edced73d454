//! What steps need of an image is fetched once, and said to be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::lab::{Lab, said};

#[test]
fn stages_on_one_base_fetch_it_once_and_show_it() {
    let lab = Lab::new();
    let asked: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let counts = Arc::clone(&asked);
    lab.registry.fault(move |request| {
        if request.method == "GET" && request.path.contains("/blobs/") {
            let mut counts = counts.lock().unwrap();
            *counts.entry(request.path.clone()).or_default() += 1;
        }
        None
    });
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
    let asked = asked.lock().unwrap();
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
