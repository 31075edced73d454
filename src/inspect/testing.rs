//! Tables and images for tests, from a few words.

use std::sync::Arc;

use super::{Contents, Documents, LayerContents};
use crate::layer::{Entry, Kind, Meta, Toc};
use crate::oci::{Descriptor, DiffId, Digest, History, ImageConfig, Manifest, MediaType, Platform};

/// A table from lines: `f PATH CONTENT [MODE]`, `d PATH [MODE]`, `o PATH` (opaque), `i PATH` (implied), `w PATH`, `l PATH TARGET`,
/// `s PATH TARGET`. A content `WORD*N` is N bytes long.
pub(crate) fn toc(lines: &str) -> Arc<Toc> {
    let lines = lines.lines().map(str::trim).filter(|l| !l.is_empty());
    Arc::new(Toc::from_entries(lines.map(entry).collect()))
}

fn entry(line: &str) -> Entry {
    let words: Vec<&str> = line.split(' ').collect();
    let dir = |opaque, implied| Kind::Directory { opaque, implied };
    let (kind, mode) = match words[0] {
        "f" => {
            let (text, size) = words[2].split_once('*').unwrap_or((words[2], ""));
            let size_bytes = size.parse().unwrap_or(text.len() as u64);
            let content = Some(Digest::of(words[2].as_bytes()));
            (
                Kind::File {
                    size_bytes,
                    content,
                },
                words.get(3).unwrap_or(&"644"),
            )
        }
        "d" => (dir(false, false), words.get(2).unwrap_or(&"755")),
        "o" => (dir(true, false), &"755"),
        "i" => (dir(false, true), &"755"),
        "w" => (Kind::Whiteout, &"0"),
        "l" => (
            Kind::HardLink {
                target: words[2].into(),
            },
            &"644",
        ),
        "s" => (
            Kind::Symlink {
                target: words[2].into(),
            },
            &"777",
        ),
        other => panic!("{other}"),
    };
    Entry {
        path: words[1].into(),
        meta: Meta {
            mode: u32::from_str_radix(mode, 8).unwrap(),
            ..Meta::default()
        },
        kind,
    }
}

/// An image of layers as [`toc`] has them; `RUN N` made layer N. Blobs are as long as their tables, and equal lines are equal layers.
pub(crate) fn image(layers: &[&str]) -> Contents {
    let mut config = ImageConfig::scratch(&Platform::new("linux", "amd64", None));
    let mut all = Vec::new();
    for (at, lines) in layers.iter().enumerate() {
        let toc = toc(lines);
        let instruction = format!("RUN {}", at + 1);
        let blob = Descriptor::of(MediaType::OciLayerGzip, toc.as_bytes());
        let diff_id = DiffId(Digest::of(lines.as_bytes()));
        config.rootfs.diff_ids.push(diff_id);
        config.history.push(History {
            created_by: Some(instruction.clone()),
            ..History::default()
        });
        all.push(LayerContents {
            diff_id,
            blob,
            toc,
            created_by: Some(instruction.clone()),
            instruction: Some(instruction),
            made: None,
        });
    }
    let config_bytes = config.to_bytes();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: None,
        config: Descriptor::of(MediaType::OciConfig, &config_bytes),
        layers: all.iter().map(|l| l.blob.clone()).collect(),
        subject: None,
        annotations: Default::default(),
    };
    let bytes = crate::oci::to_pretty_json(&manifest);
    let descriptor = Descriptor::of(MediaType::OciManifest, &bytes);
    Contents {
        documents: Documents {
            name: "test".to_owned(),
            root: descriptor.clone(),
            index: None,
            descriptor,
            manifest,
            config,
            config_bytes,
        },
        layers: all,
        origin: None,
        read_bytes: 0,
    }
}
