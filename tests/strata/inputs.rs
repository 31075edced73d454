//! Layers that no output has: they are in the store unpacked only, and become the same blobs as ever when an output wants them.

use std::path::PathBuf;

use crate::lab::{Lab, Running, labs_with_one_id, processes, said, succeed, wait_for};

/// A stage with something of everything, and an image that takes one file of it. What the steps of `runs` write has the same time
/// every time; COPY gives folders the time at which it runs, and needs `rewrite-timestamp` to be the same. `rm` makes whiteouts and
/// `mkdir` an opaque directory; the file that is only opened for writing is copied up and is no part of the layer.
const DOCKERFILE: &str = r#"FROM @REG@/modes AS other
FROM @REG@/whiteout AS runs
RUN mkdir -p /opt/t /added/d && echo c >/added/d/c && echo b >/opt/b && touch -d @1500000000 /added/d/c /opt/b /added/d /added /opt/t /opt
RUN echo tool >/opt/t/tool && chmod 4755 /opt/t/tool && ln -s tool /opt/t/link && ln /opt/t/tool /opt/t/hard \
 && mkfifo /opt/t/pipe && rm -rf /var/www && rm -rf /added/d && mkdir /added/d && echo new >/added/d/new && : >>/opt/b \
 && head -c 3000000 /dev/zero | tr '\0' x >/opt/large && for i in $(seq 300); do echo $i >/opt/t/$i; done \
 && touch -h -d @1500000000 /opt/t/* /opt/large /added/d/new && touch -d @1500000000 /opt /opt/t /added /added/d /var
FROM runs AS made
WORKDIR /w/x
COPY --chown=7:8 --chmod=0640 a.txt d/ ./
COPY --link a.txt /linked/
ADD tree.tar.gz /added/
COPY --from=other /m /m
RUN echo more >>/w/x/a.txt && rm /opt/t/1* && chmod 700 /opt/t && touch -d @1500000000 /w/x/a.txt /opt/t
FROM @REG@/busybox
COPY --from=made /opt/t/tool /tool
RUN @LAST@
"#;

/// How many records it makes.
const STEPS: usize = 10;
/// How many of them are of no output.
const INPUTS: usize = 8;

/// A result that is the same whenever it is made.
const SAME: &str = "-o type=image,rewrite-timestamp=true";

fn context(lab: &Lab, last: &str) {
    lab.write("Dockerfile", &DOCKERFILE.replace("@LAST@", last));
    lab.write("a.txt", "a\n");
    lab.write("d/b.txt", "b\n");
    let script = "chmod 755 . d; chmod 644 a.txt d/b.txt; touch -d @1400000000 a.txt d/b.txt d
         mkdir -p tree/d; echo c >tree/d/c; ln tree/d/c tree/hard
         tar --sort=name --mtime=@1300000000 --owner=33 --group=33 --numeric-owner -czf tree.tar.gz -C tree .; rm -r tree";
    succeed(&mut lab.shell(script));
}

/// The arguments of a build into `store` that is the same whenever it is made.
fn arguments(store: &str, flags: &str) -> String {
    format!(
        "strata --root {store} build -q --build-arg SOURCE_DATE_EPOCH=1700000000 --metadata-file m.json {flags} ."
    )
}

/// Builds, and gives the digest of what is built.
#[track_caller]
fn digest(lab: &Lab, store: &str, flags: &str) -> String {
    succeed(&mut lab.shell(&arguments(store, flags)));
    let text = std::fs::read(lab.folder.join("m.json")).expect("it was written");
    let metadata: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    metadata["containerimage.digest"].to_string()
}

/// The records of a store, and how many of them have no blob.
fn records(lab: &Lab, store: &str) -> (usize, usize) {
    let folder = lab.folder.join(store).join("cache/records");
    let records: Vec<serde_json::Value> = std::fs::read_dir(folder)
        .expect("there are records")
        .map(|entry| {
            let bytes = std::fs::read(entry.expect("it is there").path()).expect("a record");
            serde_json::from_slice(&bytes).expect("it is JSON")
        })
        .collect();
    let without = records.iter().filter(|r| r["blob"].is_null()).count();
    (records.len(), without)
}

fn sound(lab: &Lab, store: &str) {
    succeed(&mut lab.shell(&format!("strata --root {store} check --full")));
}

#[test]
fn a_stage_that_was_an_input_is_the_same_image() {
    for lab in labs_with_one_id() {
        context(&lab, "true");
        for (number, (stage, output)) in [
            ("runs", ""),
            ("runs", "-o type=image,compression=zstd"),
            ("runs", "-o type=image,compression=uncompressed"),
            ("made", SAME),
        ]
        .into_iter()
        .enumerate()
        {
            let (late, fresh) = (format!("late{number}"), format!("fresh{number}"));
            digest(&lab, &late, &format!("{output} -t app"));
            assert_eq!(records(&lab, &late), (STEPS, INPUTS), "{output}");
            // Nothing else is made than blobs.
            succeed(&mut lab.shell(&arguments(
                &late,
                &format!("{output} --expect-cached -t app"),
            )));
            let target = format!("{output} --target {stage} -t made");
            let want = digest(&lab, &fresh, &target);
            let got = digest(&lab, &late, &format!("--expect-cached {target}"));
            assert_eq!(got, want, "{output}");
            let left = if stage == "made" { 0 } else { INPUTS - 2 };
            assert_eq!(records(&lab, &late), (STEPS, left), "{output}");
            // And again, from the blobs, with the directories gone.
            succeed(&mut lab.shell(&format!(
                "strata --root {late} prune -f --images-only --unpacked; ls -d {late}/layers/*/fs | wc -l | grep -qx {left}"
            )));
            assert_eq!(
                digest(&lab, &late, &format!("--expect-cached {target}")),
                want
            );
            sound(&lab, &late);
        }
    }
}

#[test]
fn files_alone_need_no_blobs() {
    for lab in labs_with_one_id() {
        context(&lab, "true");
        for stage in ["runs", "made"] {
            let store = format!("files-{stage}");
            // Not as `arguments` has it: whoever asks what the image is has one made.
            let build = |flags: &str| {
                succeed(&mut lab.shell(&format!(
                    "strata --root {store} build --progress plain --build-arg SOURCE_DATE_EPOCH=1700000000 \
                     --target {stage} {flags} ."
                )))
            };
            build(&format!("-o type=tar,dest=alone.tar -o alone-{stage}"));
            let (steps, without) = records(&lab, &store);
            assert!(steps > 1 && without == steps, "{without} of {steps}");
            // The same files from blobs, which are packed now, and are those of a build that packed them at once.
            let flags = format!("{SAME} --target {stage} -t made");
            let want = digest(&lab, &format!("fresh-{stage}"), &flags);
            let got = digest(&lab, &store, &format!("--expect-cached {flags}"));
            assert_eq!(got, want, "{stage}");
            build("--expect-cached -o type=image -o type=tar,dest=packed.tar");
            assert_eq!(records(&lab, &store), (steps, 0), "{stage}");
            // A folder that no layer of the base tells of has the time at which it was unpacked.
            succeed(&mut lab.shell(
                &format!(
                    "for name in alone packed; do
                         tar --full-time --numeric-owner -tvf $name.tar | grep -v ' data/$' >$name.txt
                         tar -xOf $name.tar >>$name.txt
                     done
                     cmp alone.txt packed.txt; test -d alone-{stage}/opt"
                ),
            ));
            sound(&lab, &store);
        }
    }
}

#[test]
fn pruning_takes_no_layer_that_has_no_blob() {
    for lab in labs_with_one_id() {
        context(&lab, "true");
        let want = digest(&lab, "fresh", &format!("{SAME} --target made -t made"));
        digest(&lab, "late", "-t app");
        let prune = |flags: &str| {
            succeed(&mut lab.shell(&format!("strata --root late prune -f {flags}")));
            sound(&lab, "late");
        };
        prune("--images-only --unpacked");
        succeed(&mut lab.shell(&arguments("late", "--expect-cached -t app")));
        succeed(&mut lab.shell("strata --root late dedup --apply"));
        // Its image, which it did not have its layers for.
        succeed(&mut lab.shell("strata --root late rmi app"));
        assert_eq!(
            digest(
                &lab,
                "late",
                &format!("{SAME} --expect-cached --target made -t made")
            ),
            want
        );
        // What the records held goes with them.
        succeed(&mut lab.shell("strata --root late rmi made"));
        prune("--all");
        let left = crate::lab::files(&lab.folder.join("late/layers"));
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(
            digest(&lab, "late", &format!("{SAME} --target made -t made")),
            want
        );
    }
}

#[test]
fn a_build_killed_leaves_them_for_the_next() {
    for lab in labs_with_one_id() {
        let word = format!(
            "mark-inputs-{}",
            lab.registry.host().replace([':', '.'], "")
        );
        context(&lab, &format!(": {word}; echo be''gun; sleep 1000; true"));
        let want = digest(&lab, "fresh", &format!("{SAME} --target made -t made"));
        let running = Running::start(
            lab.shell(
                &arguments("late", "--progress plain -t app")
                    .replace(" -q ", " ")
                    .replace("strata --root", "exec strata --root"),
            ),
        );
        running.hear("begun");
        running.kill();
        wait_for("the end of the sandbox", || {
            processes(&word).is_empty().then_some(())
        });
        sound(&lab, "late");
        assert_eq!(
            digest(
                &lab,
                "late",
                &format!("{SAME} --expect-cached --target made -t made")
            ),
            want
        );
        sound(&lab, "late");
    }
}

#[test]
fn two_builds_want_them_differently() {
    for lab in labs_with_one_id() {
        context(&lab, "true");
        let want = digest(&lab, "fresh", &format!("{SAME} --target made -t made"));
        for round in 0..3 {
            let store = format!("late{round}");
            let [one, two] = ["one", "two"].map(|name| format!("{SAME} --target made -t {name}"));
            let all = ["-t app", &one, &two, "-t other"];
            let script: String = all
                .iter()
                .enumerate()
                .map(|(at, flags)| {
                    let one = arguments(&store, flags).replace("m.json", &format!("m{at}.json"));
                    format!("{one} & p{at}=$!\n")
                })
                .collect();
            succeed(&mut lab.shell(&format!("{script} wait $p0; wait $p1; wait $p2; wait $p3")));
            for at in [1, 2] {
                let text = std::fs::read_to_string(lab.folder.join(format!("m{at}.json")));
                let text = text.expect("it was written");
                assert!(text.contains(want.trim_matches('"')), "{want}: {text}");
            }
            sound(&lab, &store);
        }
    }
}

/// The unpacked layer that has a path.
fn layer_with(lab: &Lab, store: &str, path: &str) -> PathBuf {
    let layers = std::fs::read_dir(lab.folder.join(store).join("layers")).expect("layers");
    let fs = layers.map(|entry| entry.expect("it is there").path().join("fs"));
    let mut with = fs.filter(|fs| fs.join(path).exists());
    with.next().expect("some layer has it")
}

#[test]
fn what_was_changed_behind_our_back_becomes_no_image() {
    let lab = Lab::new();
    context(&lab, "true");
    let want = digest(&lab, "fresh", &format!("{SAME} --target made -t made"));
    digest(&lab, "late", "-t app");
    let fs = layer_with(&lab, "late", "opt/large");
    // What the table has not is not in the layer.
    std::fs::write(fs.join("opt/added"), "x").expect("write");
    std::fs::write(fs.join("opt/t/2"), "y\n").expect("write");
    let done = lab
        .shell(&arguments("late", &format!("{SAME} --target made -t made")))
        .output();
    let done = done.expect("run it");
    assert!(!done.status.success());
    let words = said(&done);
    assert!(
        words.contains("is damaged")
            && words.contains("opt/t/2")
            && words.contains("check --full --repair"),
        "{words}"
    );
    succeed(
        &mut lab
            .shell("! strata --root late inspect made; strata --root late check --full --repair"),
    );
    assert_eq!(
        digest(&lab, "late", &format!("{SAME} --target made -t made")),
        want
    );
    sound(&lab, "late");
}

#[test]
fn a_secret_in_them_is_told_each_time() {
    let lab = Lab::new();
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox AS made\nRUN --mount=type=secret,id=key cp /run/secrets/key /kept\nFROM @REG@/busybox\nCOPY --from=made /etc /e\n",
    );
    lab.write("key.txt", "correct-horse-battery");
    let build = |flags: &str| {
        let script = format!("strata build --secret id=key,src=key.txt {flags} -t app .");
        let done = lab.shell(&script).output().expect("run it");
        (done.status.success(), said(&done))
    };
    for flags in ["", "", "--target made", "--target made"] {
        let (fine, words) = build(flags);
        assert!(fine && words.contains("/kept"), "{flags}: {words}");
    }
    for flags in ["--strict", "--strict --no-cache", "--strict --target made"] {
        let (fine, words) = build(flags);
        assert!(!fine && words.contains("/kept"), "{flags}: {words}");
    }
}
