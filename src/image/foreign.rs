//! What other tools make of what is written here, and what is made here of what they write.

use std::path::Path;
use std::process::Command;

use super::archive::{Archive, ArchiveWriter, Form};
use super::layout::Layout;
use super::testing::{self, Memory};
use super::{CopyOptions, Name, Silent, Sink, Source, copy};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is installed: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn put(sink: &dyn Sink) -> Memory {
    let image = testing::gzip_image();
    copy(&image, sink, &CopyOptions::default(), &Silent).unwrap();
    image
}

fn get(source: &dyn Source) -> Memory {
    let memory = Memory::default();
    copy(source, &memory, &CopyOptions::default(), &Silent).unwrap();
    memory
}

fn names() -> Vec<Name> {
    vec![Name::Reference("example.com/app:1".parse().unwrap())]
}

fn file(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn layouts_go_to_skopeo_and_umoci_and_back() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("layout");
    let image = put(&Layout::create(&dir, vec![Name::Plain("v1".to_owned())]).unwrap());
    let bundle = file(temp.path(), "bundle");
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:v1", dir.display()),
            &bundle,
        ],
    );
    let hello = std::fs::read(temp.path().join("bundle/rootfs/hello")).unwrap();
    assert_eq!(hello, b"hello\n");
    let back = file(temp.path(), "back");
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci:{}:v1", dir.display()),
            &format!("oci:{back}:v2"),
        ],
    );
    assert_eq!(
        get(&Layout::open(Path::new(&back), Some("v2")).unwrap()),
        image
    );
    // What skopeo adds to a layout of ours, and what stays there.
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci:{back}:v2"),
            &format!("oci:{}:v3", dir.display()),
        ],
    );
    assert_eq!(Layout::open(&dir, None).unwrap().images().unwrap().len(), 2);
}

#[test]
fn archives_go_to_skopeo_and_back() {
    let temp = tempfile::tempdir().unwrap();
    let (oci, docker) = (
        file(temp.path(), "oci.tar"),
        file(temp.path(), "docker.tar"),
    );
    let image = put(&ArchiveWriter::create(Path::new(&oci), Form::Oci, names()).unwrap());
    put(&ArchiveWriter::create(Path::new(&docker), Form::Docker, names()).unwrap());
    for (source, scheme) in [
        (format!("oci-archive:{oci}"), "oci-archive"),
        (format!("docker-archive:{docker}"), "docker-archive"),
    ] {
        let back = file(temp.path(), scheme);
        run(
            "skopeo",
            &[
                "copy",
                &source,
                &format!("{scheme}:{back}:example.com/app:2"),
            ],
        );
        let archive = Archive::open(Path::new(&back), Some("example.com/app:2")).unwrap();
        let read = get(&archive);
        if scheme == "oci-archive" {
            assert_eq!(read, image);
        } else {
            // Docker's archives hold layers without their compression, so the manifest is another one.
            assert_eq!(read.blob_count(), image.blob_count());
        }
    }
}

#[test]
fn podman_loads_both_archives() {
    let temp = tempfile::tempdir().unwrap();
    for (form, name) in [(Form::Oci, "oci.tar"), (Form::Docker, "docker.tar")] {
        let path = file(temp.path(), name);
        let image = put(&ArchiveWriter::create(Path::new(&path), form, names()).unwrap());
        let root = temp.path().join("podman").join(name);
        // podman wants less than 50 characters for the second one.
        let sockets = tempfile::tempdir_in("/tmp").unwrap();
        let (graph, state) = (file(&root, "root"), file(sockets.path(), "run"));
        let podman = |words: &[&str]| {
            let common = [
                "--root",
                &graph,
                "--runroot",
                &state,
                "--storage-driver",
                "vfs",
                "--cgroup-manager",
                "cgroupfs",
            ];
            run("podman", &[&common, words].concat())
        };
        podman(&["load", "-q", "-i", &path]);
        let id = podman(&[
            "image",
            "inspect",
            "--format",
            "{{.Id}}",
            "example.com/app:1",
        ]);
        let manifest = super::resolve(
            &image,
            &image.root().unwrap(),
            &crate::oci::Platform::host(),
        );
        assert_eq!(id.trim(), manifest.unwrap().manifest.config.digest.hex());
    }
}
