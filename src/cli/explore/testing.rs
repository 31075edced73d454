//! Images for tests, from a few words.

use std::sync::Arc;

use strata::inspect::{Contents, Documents, LayerContents};
use strata::layer::{Entry, Kind, Meta, Toc};
use strata::oci::{
    Descriptor, DiffId, Digest, History, ImageConfig, Manifest, MediaType, Platform, to_pretty_json,
};
use strata::store::Made;

/// A table from lines: `f PATH SIZE [MODE]`, `d PATH`, `o PATH` (opaque), `w PATH` (whiteout), `l PATH TARGET`, `s PATH TARGET`.
fn toc(lines: &str) -> Toc {
    Toc::from_entries(lines.lines().map(|l| entry(l.trim())).collect())
}

fn entry(line: &str) -> Entry {
    let words: Vec<&str> = line.split(' ').collect();
    let dir = |opaque| Kind::Directory {
        opaque,
        implied: false,
    };
    let (kind, mode) = match words[0] {
        "f" => (
            Kind::File {
                size_bytes: words[2].parse().unwrap(),
                content: Some(Digest::of(words[2].as_bytes())),
            },
            *words.get(3).unwrap_or(&"644"),
        ),
        "d" => (dir(false), "755"),
        "o" => (dir(true), "755"),
        "w" => (Kind::Whiteout, "0"),
        "l" => (
            Kind::HardLink {
                target: words[2].into(),
            },
            "644",
        ),
        "s" => (
            Kind::Symlink {
                target: words[2].into(),
            },
            "777",
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

/// An image of layers as [`toc`] has them.
pub(super) fn image(layers: &[&str]) -> Contents {
    of_tables(layers.iter().map(|lines| toc(lines)).collect())
}

/// An image of one layer with files of these paths.
pub(super) fn of_files(paths: impl Iterator<Item = Vec<u8>>) -> Contents {
    let entries = paths.map(|path| Entry {
        path,
        meta: Meta {
            mode: 0o644,
            ..Meta::default()
        },
        kind: Kind::File {
            size_bytes: 1000,
            content: None,
        },
    });
    of_tables(vec![Toc::from_entries(entries.collect())])
}

/// An image of these tables; `RUN step N` of line N + 1 made layer N, the first is a base's.
pub(super) fn of_tables(tables: Vec<Toc>) -> Contents {
    let mut config = ImageConfig::scratch(&Platform::new("linux", "amd64", None));
    let mut layers = Vec::new();
    for (at, toc) in tables.into_iter().enumerate() {
        let number = at + 1;
        let instruction = format!("RUN step {number} && echo of some length");
        let blob = Descriptor::of(MediaType::OciLayerGzip, toc.as_bytes());
        let diff_id = DiffId(Digest::of(instruction.as_bytes()));
        config.rootfs.diff_ids.push(diff_id);
        config.history.push(History {
            created_by: Some(instruction.clone()),
            ..History::default()
        });
        let line = u32::try_from(number + 1).unwrap();
        layers.push(LayerContents {
            diff_id,
            blob,
            toc: Arc::new(toc),
            created_by: Some(instruction.clone()),
            instruction: Some(instruction),
            made: (at > 0).then(|| Made {
                dockerfile: "Dockerfile".to_owned(),
                line,
                end_line: line,
                stage: "stage-0".to_owned(),
                copied: Vec::new(),
            }),
        });
    }
    let config_bytes = config.to_bytes();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: None,
        config: Descriptor::of(MediaType::OciConfig, &config_bytes),
        layers: layers.iter().map(|l| l.blob.clone()).collect(),
        subject: None,
        annotations: Default::default(),
    };
    let descriptor = Descriptor::of(MediaType::OciManifest, &to_pretty_json(&manifest));
    Contents {
        documents: Documents {
            name: "app".to_owned(),
            root: descriptor.clone(),
            index: None,
            descriptor,
            manifest,
            config,
            config_bytes,
        },
        layers,
        origin: None,
        read_bytes: 0,
    }
}
