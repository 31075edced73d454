use std::io::Write as _;
use std::sync::{Arc, Mutex};

use super::super::testing::{self, Memory};
use super::super::{CopyOptions, Name, Silent, Sink as _, Source as _, copy};
use super::*;
use crate::oci::{DiffId, Digest, ImageConfig, Platform};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(image: &Memory, form: Form) -> Vec<u8> {
    let out = Shared::default();
    let names = vec![Name::Reference("busybox:1".parse().unwrap())];
    let sink = ArchiveWriter::stream(Box::new(out.clone()), "-", form, names);
    copy(image, &sink, &CopyOptions::default(), &Silent).unwrap();
    out.0.lock().unwrap().clone()
}

fn read(bytes: &[u8], wanted: Option<&str>) -> Memory {
    let archive = Archive::from_stream(bytes, "-", None, wanted).unwrap();
    let memory = Memory::default();
    copy(&archive, &memory, &CopyOptions::default(), &Silent).unwrap();
    memory
}

#[test]
fn a_round_trip_keeps_every_byte_and_is_reproducible() {
    let image = testing::index_image();
    let bytes = write(&image, Form::Oci);
    assert_eq!(bytes, write(&testing::index_image(), Form::Oci));
    for wanted in [None, Some("1"), Some("busybox:1")] {
        assert_eq!(read(&bytes, wanted), image);
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    assert_eq!(read(&gzip.finish().unwrap(), None), image);
    assert_eq!(
        read(&zstd::encode_all(bytes.as_slice(), 1).unwrap(), None),
        image
    );
}

#[test]
fn dockers_form_has_its_list_and_no_index() {
    let image = testing::image(&[b"one", b"two"]);
    let bytes = write(&image, Form::Docker);
    assert_eq!(read(&bytes, None), image);
    let mut archive = ::tar::Archive::new(bytes.as_slice());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(
        names[names.len() - 3..],
        ["index.json", "manifest.json", "oci-layout"]
    );

    let sink = ArchiveWriter::stream(Box::new(std::io::sink()), "-", Form::Docker, Vec::new());
    let error = copy(
        &testing::index_image(),
        &sink,
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap_err();
    assert!(testing::chain(&error).contains("one platform only"));
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("image.tar");
    let image = testing::image(&[b"one", b"two"]);
    image.corrupt(&Digest::of(b"two"));
    let sink = ArchiveWriter::create(&path, Form::Oci, Vec::new()).unwrap();
    assert!(copy(&image, &sink, &CopyOptions::default(), &Silent).is_err());
    drop(sink);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    image.corrupt(&Digest::of(b"two"));
    let sink = ArchiveWriter::create(&path, Form::Oci, Vec::new()).unwrap();
    copy(&image, &sink, &CopyOptions::default(), &Silent).unwrap();
    let back = Memory::default();
    copy(
        &Archive::open(&path, None).unwrap(),
        &back,
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap();
    assert_eq!(back, image);
}

/// What `docker save` wrote before version 25; the second layer is a link to the first.
fn old_docker(config: &[u8], tags: &str) -> Vec<u8> {
    let mut tar = ::tar::Builder::new(Vec::new());
    let mut file = |path: &str, bytes: &[u8]| {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    file("c.json", config);
    file("a/layer.tar", b"one");
    let list = format!(
        r#"[{{"Config":"c.json","RepoTags":{tags},"Layers":["a/layer.tar","b/layer.tar"]}}]"#
    );
    file("manifest.json", list.as_bytes());
    let mut link = ::tar::Header::new_ustar();
    link.set_entry_type(::tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "b/layer.tar", "../a/layer.tar")
        .unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn the_old_form_gets_a_manifest() {
    let mut config = ImageConfig::scratch(&Platform::new("linux", "amd64", None));
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"one")); 2];
    let bytes = old_docker(&config.to_bytes(), r#"["app:1","app:2"]"#);
    assert_eq!(
        read(&bytes, Some("app:2")),
        testing::image(&[b"one", b"one"])
    );
    let archive = Archive::from_stream(bytes.as_slice(), "-", None, None).unwrap();
    let names: Vec<_> = archive.images().into_iter().map(|(n, _)| n).collect();
    assert_eq!(
        names,
        ["docker.io/library/app:1", "docker.io/library/app:2"]
    );
    assert!(archive.root().is_ok());

    config.rootfs.diff_ids.pop();
    let few = old_docker(&config.to_bytes(), "null");
    let error = Archive::from_stream(few.as_slice(), "-", None, None)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "-: the image has 2 layers, but its configuration lists 1"
    );
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"other")); 2];
    let wrong = old_docker(&config.to_bytes(), "null");
    let archive = Archive::from_stream(wrong.as_slice(), "-", None, None).unwrap();
    let error = copy(
        &archive,
        &Memory::default(),
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap_err();
    assert!(
        testing::chain(&error).contains("does not match its digest")
            || testing::chain(&error).contains("wrong size")
    );
}

#[test]
fn what_is_no_archive_is_said_so() {
    for (bytes, want) in [
        (&b""[..], "it has neither index.json nor manifest.json"),
        (&[0; 1024], "it has neither index.json nor manifest.json"),
        (&[7; 1024], "a header has a wrong checksum"),
        (b"short", "it ends inside a header"),
    ] {
        let error = Archive::from_stream(bytes, "-", None, None).err().unwrap();
        let text = testing::chain(&error);
        assert!(text.contains(want), "{text}");
    }
    let whole = write(&testing::image(&[b"one"]), Form::Oci);
    let error = Archive::from_stream(&whole[..1600], "-", None, None)
        .err()
        .unwrap();
    assert!(
        testing::chain(&error).contains("not a valid tar archive"),
        "{}",
        testing::chain(&error)
    );
    let sink = ArchiveWriter::create(std::path::Path::new("/"), Form::Oci, Vec::new());
    assert!(sink.is_err());
    assert!(ArchiveWriter::stream(Box::new(std::io::sink()), "-", Form::Oci, Vec::new()).ordered());
}
