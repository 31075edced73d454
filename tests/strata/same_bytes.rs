//! One build, one digest: whoever builds, wherever, with whatever surroundings.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::image::Archive;
use crate::lab::{Lab, labs_with_one_id, succeed};
use crate::user::User;
use crate::world::EPOCH;

/// Without what an ordinary user's kernel does otherwise: writing to a set-id file takes its bits away unless the real root
/// writes, and with a single id nothing can be given to another owner (`chown`, `mv` between layers).
const DOCKERFILE: &str = r#"FROM @REG@/busybox AS tools
RUN mkdir -p /opt/t && echo tool >/opt/t/tool && chmod 4755 /opt/t/tool && ln -s tool /opt/t/link && ln /opt/t/tool /opt/t/hard
WORKDIR /w/x
COPY --chmod=0640 a.txt dir/ ./

FROM @REG@/modes AS modes
RUN chmod 4711 /m/suid && rm /m/sgid

FROM @REG@/busybox
LABEL z=1 a=2
ENV B=2 A=1
COPY --from=tools /opt/t /opt/t
COPY --from=tools /w /w
COPY --from=modes /m /m
COPY --chown=1000:1000 dir /owned
COPY --link a.txt /linked/
ADD tree.tar.gz /added/
COPY <<END /etc/made
made of $A
END
RUN <<END
rm -rf /var/www
echo changed >/etc/os-release
mkdir -m 700 /secret
touch /secret/f
chmod 2755 /home/app
cp -r /added/d /copied
ln /opt/t/tool /opt/t/another
END
RUN umask 077; echo x >/private; mkdir /private.d
WORKDIR /made/here
VOLUME /v2 /v1
EXPOSE 90 80/udp
CMD ["sh"]
"#;

/// Makes the context, whatever the tests' own umask is.
fn context(lab: &Lab) {
    lab.write("Dockerfile", DOCKERFILE);
    lab.write("a.txt", "a\n");
    lab.write("dir/b.txt", "b\n");
    lab.write("dir/sub/run.sh", "#!/bin/sh\n");
    succeed(&mut lab.shell(
        "chmod 755 . dir; chmod 644 Dockerfile a.txt dir/b.txt; chmod 711 dir/sub; chmod 755 dir/sub/run.sh
         ln -s ../a.txt dir/link
         mkdir tree; mkdir tree/d; echo c >tree/d/c; chmod 755 tree/d; chmod 600 tree/d/c
         tar --sort=name --mtime=@1600000000 --owner=33 --group=33 --numeric-owner -czf tree.tar.gz -C tree .
         rm -r tree",
    ));
}

/// What differs from one build to the next.
#[derive(Default)]
struct Surroundings {
    user: Option<User>,
    /// What runs before the build, in its shell.
    before: &'static str,
    flags: &'static str,
}

/// The digest of what a build makes, in a lab of its own.
fn digest(surroundings: Surroundings) -> (String, Lab) {
    let lab = Lab::of(surroundings.user);
    context(&lab);
    let script = format!(
        "{}\nstrata build {} -t app --no-cache --build-arg SOURCE_DATE_EPOCH=1700000000 --metadata-file m.json \
         -o type=oci,dest=out.tar,rewrite-timestamp=true .",
        surroundings.before, surroundings.flags
    );
    // The registry's address is in no byte of the result, so every lab may have its own.
    succeed(&mut lab.shell(&script));
    let text = std::fs::read(lab.folder.join("m.json")).expect("it was written");
    let metadata: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).expect("it is JSON");
    let digest = &metadata["containerimage.digest"];
    (digest.as_str().expect("a digest is text").to_owned(), lab)
}

/// Every layer of an archive as its entries, for a report of what differs.
fn entries(lab: &Lab) -> Vec<String> {
    let path = lab.folder.join("out.tar");
    let archive = Archive::read(&path).expect("an archive was written");
    let mut lines = vec![archive.images[0].config.to_string()];
    for (number, layer) in archive.images[0].layers.iter().enumerate() {
        let mut tar = tar::Archive::new(&layer[..]);
        for entry in tar.entries().expect("a tar") {
            let mut entry = entry.expect("a whole entry");
            let pax: Vec<String> = entry
                .pax_extensions()
                .expect("readable")
                .into_iter()
                .flatten()
                .flatten()
                .map(|p| format!("{:?}={:?}", p.key(), p.value_bytes()))
                .collect();
            let header = entry.header();
            lines.push(format!(
                "{number} {:?} {:?} {:o} {:?}:{:?} {} {:?} {:?} {pax:?}",
                entry.path_bytes(),
                header.entry_type(),
                header.mode().expect("a number"),
                header.uid(),
                header.gid(),
                header.size().expect("a number"),
                header.mtime(),
                entry.link_name_bytes(),
            ));
        }
    }
    lines
}

#[test]
fn whoever_builds_it() {
    let is_root = rustix::process::geteuid().is_root();
    let plain = Surroundings::default;
    let with = |before, flags| Surroundings {
        before,
        flags,
        ..plain()
    };
    let mut all = vec![
        ("again", plain()),
        ("umask", with("umask 077", "")),
        (
            "clock",
            with("export TZ=Asia/Kathmandu LC_ALL=tr_TR.UTF-8 LANG=C", ""),
        ),
        ("one job", with("", "--jobs 1")),
        ("many jobs", with("", "--jobs 8")),
        (
            "environment",
            with("export SOURCE_DATE_EPOCH=5 HOSTNAME=other", ""),
        ),
    ];
    if is_root {
        let user = |user| Surroundings {
            user: Some(user),
            ..plain()
        };
        all.push(("ordinary user", user(User::ordinary())));
        all.push(("single id", user(User::unknown())));
        all.push((
            "single id, umask",
            Surroundings {
                before: "umask 027",
                ..user(User::unknown())
            },
        ));
    }
    let (want, lab) = digest(plain());
    let expected = entries(&lab);
    let mut wrong = Vec::new();
    for (name, surroundings) in all {
        let (got, other) = digest(surroundings);
        if got != want {
            let entries = entries(&other);
            let differ = |one: &[String], two: &[String], mark: char| {
                let only = one.iter().filter(|line| !two.contains(line));
                only.map(|line| format!("{mark} {line}\n"))
                    .collect::<String>()
            };
            wrong.push(format!(
                "{name}: {got}, not {want}\n{}{}",
                differ(&expected, &entries, '-'),
                differ(&entries, &expected, '+')
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_mode_of_results_follows_the_umask() {
    let (_, lab) = digest(Surroundings {
        before: "umask 022",
        ..Surroundings::default()
    });
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&lab.folder.join("out.tar")), 0o644);
    assert_eq!(mode(&lab.folder.join("m.json")), 0o644);
}

/// Directories of a base that no entry of it describes, and those that a later layer of it writes to without saying so, have
/// no time of unpacking: a tar of them, and a copy, is the same from every store.
#[test]
fn whenever_its_base_was_unpacked() {
    let mut all: Vec<Vec<Vec<u8>>> = Vec::new();
    for lab in labs_with_one_id() {
        lab.write(
            "Dockerfile",
            "FROM @REG@/bare AS files\n\
             FROM scratch AS copied\nCOPY --from=files /bare /bare\nCOPY --from=files / /whole/\n\
             FROM @REG@/multi AS platforms\n",
        );
        succeed(&mut lab.shell(
            "strata build -q --target files -o type=tar,dest=files.tar .
             strata build -q --target copied -o type=oci,dest=copied.oci -o type=tar,dest=copied.tar .
             strata build -q --target platforms --platform linux/amd64,linux/arm64 -o type=tar,dest=platforms.tar .",
        ));
        let file = |name: &str| std::fs::read(lab.folder.join(name)).expect("it was written");
        let mut tars = ["files.tar", "copied.tar", "platforms.tar"]
            .map(file)
            .to_vec();
        let archive = Archive::read(&lab.folder.join("copied.oci")).expect("it was written");
        tars.extend_from_slice(&archive.images[0].layers);
        all.push(tars);
    }
    for bytes in &all[0] {
        for entry in tar::Archive::new(&bytes[..]).entries().expect("a tar") {
            let entry = entry.expect("a whole entry");
            let path = entry.path().expect("a path").into_owned();
            let time = entry.header().mtime().expect("a number");
            let implied = ["bare", "deep", "emptied", "hidden", "linux_arm64"];
            if implied.iter().any(|name| path.ends_with(name)) {
                assert_eq!(time, 0, "{}", path.display());
            }
            assert!(
                i64::try_from(time).is_ok_and(|time| time <= EPOCH),
                "{}: {time}",
                path.display()
            );
        }
    }
    let copy = all[0].last().expect("the layer of the second COPY");
    let mut copy = tar::Archive::new(&copy[..]);
    let names = copy.entries().expect("a tar").map(|entry| {
        let entry = entry.expect("a whole entry");
        entry.path().expect("a path").into_owned()
    });
    assert!(
        names
            .into_iter()
            .any(|name| name.ends_with("whole/emptied")),
        "a copy has the directories that its source has, described or not"
    );
    for other in &all[1..] {
        assert_eq!(all[0].len(), other.len());
        let same = all[0].iter().zip(other).all(|(one, two)| one == two);
        assert!(same, "another user's tars are others");
    }
}

/// A store in the context is no part of it: it would be in the image, and no step that copies it would ever be cached.
#[test]
fn wherever_the_store_is() {
    for lab in labs_with_one_id() {
        lab.write(
            "c/Dockerfile",
            "FROM @REG@/busybox\nCOPY . /c\nRUN find /c >/found\n",
        );
        lab.write("c/a/b", "");
        let digest = |store: &str, flags: &str| {
            succeed(&mut lab.shell(&format!(
                "strata --root {store} build {flags} --build-arg SOURCE_DATE_EPOCH=1700000000 --metadata-file m.json \
                 -o type=image,rewrite-timestamp=true c"
            )));
            let text = std::fs::read(lab.folder.join("m.json")).expect("it was written");
            let metadata: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&text).expect("it is JSON");
            metadata["containerimage.digest"].clone()
        };
        let beside = digest("store", "");
        assert_eq!(digest("c/a/store", ""), beside);
        assert_eq!(digest("c/a/store", "--expect-cached"), beside);
    }
}

/// A build after a change takes what it can from the one before it; no byte of the result, and of no earlier one, shows that.
#[test]
fn whatever_was_built_before() {
    let lab = Lab::new();
    lab.write(
        "Dockerfile",
        "FROM @REG@/busybox\nCOPY d /d\nRUN echo spoilt >>/d/7 && chmod 600 /d/8 && touch -d @1600000000 /d/7\n",
    );
    succeed(&mut lab.shell(
        "mkdir d; for i in $(seq 60); do echo file $i >d/$i; done; seq 400000 >d/big; ln d/1 d/one
         touch -d @1600000000 d/* d",
    ));
    let build = |store: &str, name: &str| {
        succeed(&mut lab.shell(&format!(
            "strata --root {store} build --build-arg SOURCE_DATE_EPOCH=1700000000 --metadata-file {name}.json -t app:{name} ."
        )));
        let text = std::fs::read(lab.folder.join(format!("{name}.json"))).expect("it was written");
        let metadata: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
        metadata["containerimage.digest"].to_string()
    };
    let first = build("one", "first");
    succeed(&mut lab.shell("echo changed >>d/50; touch -d @1600000000 d/50"));
    let second = build("one", "second");
    assert_ne!(first, second);
    let shares = "set -- one/layers/*/fs/d/20; test $# = 2 && test $1 -ef $2; set -- one/layers/*/fs/d/50; test $# = 2 && ! test $1 -ef $2";
    succeed(&mut lab.shell(shares));
    assert_eq!(build("two", "second"), second);
    // A step that wrote to what two layers share wrote to neither.
    succeed(&mut lab.shell("! grep -r spoilt one/layers/*/fs/d/1*"));
    succeed(&mut lab.shell("strata --root one check --full; strata --root two check --full"));
    succeed(&mut lab.shell("sed -i /changed/d d/50; touch -d @1600000000 d/50 d"));
    assert_eq!(build("three", "first"), first);
}
