//! `build --output` in all its forms, and what else a build says of its result.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::image::Archive;
use crate::lab::{Lab, said, succeed};

const DOCKERFILE: &str = "FROM @REG@/busybox AS base\n\
    RUN echo hi >/hi && chown 1000:1000 /hi && chmod 4755 /hi && ln -s hi /link && ln /hi /hard\n\
    FROM base AS last\n\
    COPY f /f\n\
    RUN echo there >/there\n";

/// A lab with a context `ctx`.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("ctx/Dockerfile", DOCKERFILE);
    lab.write("ctx/f", "file\n");
    lab
}

/// Another lab's context: two platforms of one file.
fn platforms(lab: &Lab) {
    lab.write("two/Dockerfile", "FROM scratch\nCOPY f /\n");
    lab.write("two/f", "file\n");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The manifest that skopeo reads at a place.
fn manifest(lab: &Lab, place: &str) -> Value {
    let mut skopeo = Command::new("skopeo");
    skopeo
        .args(["inspect", "--raw", "--tls-verify=false", place])
        .current_dir(&lab.folder);
    json(&succeed(&mut skopeo))
}

fn media_types(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().expect("it has layers");
    layers
        .iter()
        .map(|l| l["mediaType"].as_str().expect("a text").to_owned())
        .collect()
}

#[test]
fn archives_and_folders_are_the_same_image() {
    let lab = lab();
    let id = lab.ok(&[
        "build",
        "-q",
        "-t",
        "app",
        "-t",
        "app:2",
        "-o",
        "type=oci,dest=o.tar",
        "-o",
        "type=oci,dest=dir,tar=false",
        "-o",
        "type=docker,dest=d.tar",
        "-o",
        "type=cacheonly",
        "--iidfile",
        "iid",
        "--metadata-file",
        "md",
        "ctx",
    ]);
    let id = id.trim();
    assert_eq!(fs::read_to_string(lab.folder.join("iid")).unwrap(), id);
    // A name each: the tag in a layout, the reference in docker's.
    for place in [
        "oci-archive:o.tar:2",
        "oci:dir:latest",
        "docker-archive:d.tar:app:latest",
    ] {
        let read = manifest(&lab, place);
        assert_eq!(read["config"]["digest"], id, "{place}");
    }
    let archive = Archive::read(&lab.folder.join("o.tar")).unwrap();
    assert_eq!(archive.problems, [""; 0]);
    let metadata = json(&fs::read_to_string(lab.folder.join("md")).unwrap());
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(
        metadata["containerimage.digest"],
        metadata["containerimage.descriptor"]["digest"]
    );
    assert_eq!(
        metadata["image.name"],
        "docker.io/library/app:latest,docker.io/library/app:2"
    );
    // Nothing was said to go into the store.
    assert_eq!(json(&lab.images()), Value::Array(Vec::new()));
}

#[test]
fn standard_output_is_the_archive_and_nothing_else() {
    let lab = lab();
    let bytes = |output: &str| {
        let done = lab
            .strata(&["build", "-q", "-o", output, "ctx"])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", said(&done));
        done.stdout
    };
    lab.ok(&["build", "-q", "-o", "type=oci,dest=o.tar", "ctx"]);
    let file = fs::read(lab.folder.join("o.tar")).unwrap();
    assert!(bytes("type=oci,dest=-") == file);
    assert!(bytes("type=oci") == file);
    let mut names = Vec::new();
    let tar = bytes("-");
    let mut tar = tar::Archive::new(&tar[..]);
    for entry in tar.entries().unwrap() {
        names.push(entry.unwrap().path().unwrap().display().to_string());
    }
    assert!(names.contains(&"there".to_owned()), "{names:?}");

    let two = lab
        .strata(&["build", "-o", "type=oci", "-o", "type=tar", "ctx"])
        .output()
        .unwrap();
    assert_eq!(two.status.code(), Some(2), "{}", said(&two));
    assert!(two.stdout.is_empty());
    assert!(said(&two).contains("only one --output can go to standard output"));
}

#[test]
fn files_keep_owners_modes_and_links() {
    let lab = lab();
    lab.ok(&[
        "build",
        "-q",
        "-o",
        "out",
        "-o",
        "type=tar,dest=t.tar",
        "ctx",
    ]);
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    lab.ok(&["unpack", "app", "unpacked"]);
    let tar = lab.beside("tar");
    let packed = lab.folder.join("t.tar");
    succeed(
        Command::new("tar")
            .args(["--numeric-owner", "-xpf"])
            .arg(packed)
            .arg("-C")
            .arg(&tar),
    );
    let listing = |folder: &std::path::Path| {
        let mut find = Command::new("find");
        find.args([
            ".",
            "-mindepth",
            "1",
            "-printf",
            "%p %y %m %U %G %l %n %s\n",
        ])
        .current_dir(folder);
        let mut lines: Vec<String> = succeed(&mut find)
            .lines()
            // The size and number of links of a folder are the file system's affair.
            .map(|l| {
                if l.contains(" d ") {
                    l.rsplitn(3, ' ').last().unwrap_or(l)
                } else {
                    l
                }
            })
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let files = listing(&lab.folder.join("out"));
    assert_eq!(files, listing(&lab.folder.join("unpacked")));
    assert_eq!(files, listing(&tar));
    let hi = fs::metadata(lab.folder.join("out/hi")).unwrap();
    assert_eq!(
        (hi.mode() & 0o7777, hi.uid(), hi.gid(), hi.nlink()),
        (0o4755, 1000, 1000, 2)
    );

    // umoci and strata unpack the same files from the store, by the full reference.
    let image = format!("{}:docker.io/library/app:latest", lab.root.display());
    let bundle = lab.folder.with_file_name("bundle");
    succeed(
        Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle),
    );
    assert_eq!(files, listing(&bundle.join("rootfs")));
    let place = format!("oci:{image}");
    assert_eq!(
        manifest(&lab, &place)["layers"].as_array().unwrap().len(),
        4
    );
    let own = json(&lab.ok(&["inspect", &place]));
    assert_eq!(own[0]["Id"], json(&lab.ok(&["inspect", "app"]))[0]["Id"]);
}

#[test]
fn several_platforms_are_an_index_and_a_folder_each() {
    let lab = Lab::new();
    platforms(&lab);
    lab.ok(&[
        "build",
        "-q",
        "--platform",
        "linux/amd64,linux/arm64",
        "-o",
        "type=oci,dest=o.tar",
        "-o",
        "split",
        "-o",
        "type=tar,dest=t.tar",
        "--metadata-file",
        "md",
        "two",
    ]);
    for platform in ["linux_amd64", "linux_arm64"] {
        assert!(lab.folder.join("split").join(platform).join("f").is_file());
    }
    let index = Archive::read(&lab.folder.join("o.tar")).unwrap();
    assert_eq!((index.images.len(), index.problems.len()), (2, 0));
    let metadata = json(&fs::read_to_string(lab.folder.join("md")).unwrap());
    let kind = metadata["containerimage.descriptor"]["mediaType"]
        .as_str()
        .unwrap();
    assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
    let flags = ["build", "-q", "--platform", "linux/amd64,linux/arm64", "-o"];
    lab.ok(&[
        &flags[..],
        &["type=local,dest=merged,platform-split=false", "two"],
    ]
    .concat());
    assert!(lab.folder.join("merged/f").is_file());
    let docker = [&flags[..], &["type=docker,dest=d.tar", "two"]].concat();
    let refused = lab.strata(&docker).output().unwrap();
    assert!(
        said(&refused).contains("one platform"),
        "{}",
        said(&refused)
    );
    assert!(!lab.folder.join("d.tar").exists());
}

#[test]
fn layers_are_compressed_as_asked() {
    let lab = lab();
    let types = |attributes: &str| {
        let output = format!("type=oci,dest=x.tar,{attributes}");
        lab.ok(&["build", "-q", "-o", &output, "ctx"]);
        let archive = Archive::read(&lab.folder.join("x.tar")).unwrap();
        assert_eq!(archive.problems, [""; 0], "{attributes}");
        media_types(&manifest(&lab, "oci-archive:x.tar"))
    };
    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
    assert_eq!(types("compression=gzip,compression-level=9"), [GZIP; 4]);
    // The base's layer stays as it is, unless all are forced.
    assert_eq!(types("compression=zstd"), [GZIP, ZSTD, ZSTD, ZSTD]);
    assert_eq!(
        types("compression=zstd,compression-level=19,force-compression=true"),
        [ZSTD; 4]
    );
    assert_eq!(
        types("compression=uncompressed,force-compression=true"),
        [PLAIN; 4]
    );
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    assert_eq!(types("oci-mediatypes=false"), [docker; 4]);
    // Docker has no name for zstd.
    assert_eq!(
        types("oci-mediatypes=false,compression=zstd,force-compression=true"),
        [ZSTD; 4]
    );
}

#[test]
fn annotations_and_labels_are_where_they_were_asked_for() {
    let lab = lab();
    lab.ok(&[
        "build",
        "-q",
        "--label",
        "l=1",
        "--label",
        "bare",
        "--annotation",
        "m=1",
        "--annotation",
        "index-descriptor:i=2",
        "-o",
        "type=oci,dest=x.tar,annotation.o=3,annotation-manifest-descriptor.d=4",
        "ctx",
    ]);
    let read = manifest(&lab, "oci-archive:x.tar");
    assert_eq!(read["annotations"], serde_json::json!({"m": "1", "o": "3"}));
    let archive = Archive::read(&lab.folder.join("x.tar")).unwrap();
    let image = &archive.images[0];
    assert_eq!(
        image.config["config"]["Labels"],
        serde_json::json!({"l": "1", "bare": ""})
    );
    assert_eq!(
        (&image.annotations["i"], &image.annotations["d"]),
        (&"2".into(), &"4".into())
    );
}

#[test]
fn a_build_goes_straight_to_a_registry() {
    let lab = lab();
    lab.ok(&["build", "-q", "-t", "@REG@/app:a", "--push", "ctx"]);
    lab.ok(&[
        "build",
        "-q",
        "-o",
        "type=image,name=@REG@/app:b,push=true",
        "ctx",
    ]);
    lab.ok(&[
        "build",
        "-q",
        "-o",
        "type=registry,name=@REG@/app:c",
        "-o",
        "type=oci,dest=o.tar",
        "ctx",
    ]);
    for tag in ["a", "b", "c"] {
        assert!(lab.registry.has_tag("app", tag), "{tag}");
    }
    let place = format!("docker://{}/app:c", lab.registry.host());
    assert_eq!(manifest(&lab, &place), manifest(&lab, "oci-archive:o.tar"));
}

#[test]
fn raw_progress_is_a_json_object_a_line() {
    let lab = lab();
    let done = lab
        .strata(&["build", "--progress", "rawjson", "-t", "app", "ctx"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let text = String::from_utf8(done.stderr).unwrap();
    let lines: Vec<Value> = text.lines().map(json).collect();
    let names: Vec<&str> = lines
        .iter()
        .flat_map(|l| l["vertexes"].as_array().into_iter().flatten())
        .filter_map(|v| v["name"].as_str())
        .collect();
    assert!(names.iter().any(|n| n.contains("COPY f /f")), "{names:?}");
    assert!(
        lines
            .iter()
            .any(|l| l["vertexes"][0]["completed"].is_string())
    );
}

#[test]
fn only_the_stages_named_are_built_again() {
    let lab = lab();
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    let cached = |flags: &[&str]| {
        let all = [&["build", "--progress", "plain"], flags, &["ctx"]].concat();
        let done = lab.strata(&all).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        String::from_utf8(done.stderr)
            .unwrap()
            .matches(" CACHED")
            .count()
    };
    // Two RUNs and a COPY.
    assert_eq!(cached(&[]), 3);
    assert_eq!(cached(&["--no-cache"]), 0);
    assert_eq!(cached(&["--no-cache-filter", "last"]), 1);
    assert_eq!(cached(&["--target", "base"]), 1);
}

#[test]
fn contexts_come_from_everywhere() {
    let lab = lab();
    let id = lab.ok(&["build", "-q", "ctx"]);
    succeed(
        Command::new("tar")
            .args(["-C", "ctx", "-cJf", "c.tar.xz", "."])
            .current_dir(&lab.folder),
    );
    lab.write(
        "plain/Dockerfile",
        "FROM @REG@/busybox\nRUN echo alone >/alone\n",
    );
    let alone = lab.ok(&["build", "-q", "plain"]);
    let dockerfile = fs::read(lab.folder.join("plain/Dockerfile")).unwrap();
    let archive = fs::read(lab.folder.join("c.tar.xz")).unwrap();
    let text = fs::read(lab.folder.join("ctx/Dockerfile")).unwrap();
    // A server of two files.
    let (served, at) = (archive.clone(), dockerfile.clone());
    lab.registry.fault(move |asked| match asked.path.as_str() {
        "/c.tar.xz" => Some(crate::registry::Answer::new(200, served.clone())),
        "/Dockerfile" => Some(crate::registry::Answer::new(200, at.clone())),
        _ => None,
    });
    let piped = |arguments: &[&str], input: &[u8]| {
        let mut child = lab
            .strata(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(lab.ok(&["build", "-q", "c.tar.xz"]), id);
    assert_eq!(lab.ok(&["build", "-q", "http://@REG@/c.tar.xz"]), id);
    assert_eq!(piped(&["build", "-q", "-"], &archive), id);
    assert_eq!(piped(&["build", "-q", "-f", "-", "ctx"], &text), id);
    assert_eq!(piped(&["build", "-q", "-"], &dockerfile), alone);
    assert_eq!(lab.ok(&["build", "-q", "http://@REG@/Dockerfile"]), alone);
    assert_eq!(
        lab.ok(&["build", "-q", "-f", "http://@REG@/Dockerfile", "ctx"]),
        alone
    );
    let both = lab
        .strata(&["build", "-f", "http://@REG@/c.tar.xz", "ctx"])
        .output()
        .unwrap();
    assert!(said(&both).contains("is an archive"), "{}", said(&both));
}

#[test]
fn named_contexts_take_the_place_of_images_and_stages() {
    let lab = lab();
    lab.write("other/f", "other\n");
    lab.write("n/Dockerfile", "FROM scratch\nCOPY --from=other /f /f\n");
    lab.ok(&[
        "build",
        "-q",
        "-t",
        "app",
        "-o",
        "type=oci,dest=lay,tar=false",
        "-o",
        "type=image",
        "ctx",
    ]);
    let layout = "other=oci-layout://lay".to_owned();
    for (context, expected) in [
        ("other=other", "other\n"),
        ("other=docker-image://app", "file\n"),
        (&layout, "file\n"),
    ] {
        lab.ok(&["build", "-q", "--build-context", context, "-o", "out", "n"]);
        assert_eq!(
            fs::read_to_string(lab.folder.join("out/f")).unwrap(),
            expected,
            "{context}"
        );
    }
}

#[test]
fn checks_only_look() {
    let lab = lab();
    assert!(lab.ok(&["build", "--check", "ctx"]).contains("no warnings"));
    lab.write("bad/Dockerfile", "from scratch\nMAINTAINER me\n");
    let found = lab
        .strata(&["build", "--call=check", "bad"])
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(1));
    assert!(
        said(&found).contains("MaintainerDeprecated"),
        "{}",
        said(&found)
    );
    // A comment that describes nothing is no finding unless the experimental rules are asked for.
    lab.write(
        "said/Dockerfile",
        "# check=skip=MaintainerDeprecated\nFROM scratch\nMAINTAINER me\n# a word\nARG X=1\n",
    );
    assert!(
        lab.ok(&["build", "--check", "said"])
            .contains("no warnings")
    );
    lab.write(
        "strict/Dockerfile",
        "# check=error=true\nFROM scratch\nMAINTAINER me\n",
    );
    let refused = lab.strata(&["build", "strict"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("lint violation found for rules: MaintainerDeprecated"),
        "{}",
        said(&refused)
    );
    for flag in ["--cache-from", "--cache-to"] {
        let refused = lab
            .strata(&["build", flag, "type=local,src=x", "ctx"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let said = said(&refused);
        assert!(
            said.contains(flag) && said.contains("not yet supported"),
            "{said}"
        );
    }
}
