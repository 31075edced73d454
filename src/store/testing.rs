//! Stores, images and layers for the tests of this room.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Layer, Record, Store, StoreOptions};
use crate::layer::{Entry, Kind, Meta, Toc};
use crate::oci::{
    Descriptor, DiffId, Digest, ImageConfig, Manifest, MediaType, Platform, Reference,
    to_pretty_json,
};

/// An empty store.
pub(super) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    (dir, store)
}

pub(super) fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// An image of one layer whose "tar" is `text`.
pub(super) fn image(store: &Store, text: &str) -> Descriptor {
    image_of(store, &[text])
}

/// An image of such layers.
pub(super) fn image_of(store: &Store, texts: &[&str]) -> Descriptor {
    let put = |text: &&str| {
        store
            .put_bytes(MediaType::OciLayer, text.as_bytes())
            .unwrap()
    };
    let layers: Vec<Descriptor> = texts.iter().map(put).collect();
    let mut config = ImageConfig::scratch(&Platform::host());
    config.created = Some("2024-01-02T03:04:05Z".to_owned());
    config.rootfs.diff_ids = layers.iter().map(|l| DiffId(l.digest)).collect();
    let config = store
        .put_bytes(MediaType::OciConfig, &config.to_bytes())
        .unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = to_pretty_json(&manifest);
    store.put_bytes(MediaType::OciManifest, &bytes).unwrap()
}

/// A record of a step that made the layer `text`, whose blob is stored.
pub(super) fn record(store: &Store, text: &str) -> Record {
    let blob = store
        .put_bytes(MediaType::OciLayer, text.as_bytes())
        .unwrap();
    Record {
        below: None,
        key: Digest::of(format!("key of {text}").as_bytes()),
        diff_id: DiffId(blob.digest),
        blob: Some(blob),
        created: 1_700_000_000,
        inputs: vec![("instruction".to_owned(), text.to_owned())],
        step: format!("RUN {text}"),
        place: None,
        copied_to: Vec::new(),
        remarks: Vec::new(),
    }
}

/// The unpacked layer `text`: one file with that content.
pub(super) fn layer(store: &Store, text: &str) -> Arc<Layer> {
    let work = store.work().unwrap();
    let fs = work.directory("fs").unwrap();
    std::fs::write(fs.join("file"), text).unwrap();
    let directory = Entry {
        path: Vec::new(),
        meta: Meta {
            mode: 0o755,
            ..Meta::default()
        },
        kind: Kind::Directory {
            opaque: false,
            implied: false,
        },
    };
    let content = Digest::of(text.as_bytes());
    let file = Entry {
        path: b"file".to_vec(),
        meta: Meta {
            mode: 0o644,
            ..Meta::default()
        },
        kind: Kind::File {
            size_bytes: text.len() as u64,
            content: Some(content),
        },
    };
    let toc = Arc::new(Toc::from_entries(vec![directory, file]));
    store.publish_layer(&fs, toc, &DiffId(content)).unwrap()
}
