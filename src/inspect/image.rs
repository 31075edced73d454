//! One image: its documents, and the history they tell of.

use std::io::Read;

use serde::Serialize;

use super::InspectError;
use crate::image::{Source, check_config, resolve};
use crate::oci::{Descriptor, DiffId, Digest, Document, ImageConfig, Index, Manifest, Platform};

/// The longest configuration that is read: BuildKit's are a few KiB, the longest known a few hundred.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The documents of an image for one platform.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Documents {
    /// How messages call it.
    pub name: String,
    /// What the name points to: the manifest, or an index.
    pub root: Descriptor,
    /// The index, if the name points to one.
    pub index: Option<Index>,
    /// The manifest of the platform.
    pub descriptor: Descriptor,
    /// The same, parsed.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
    /// The configuration as it is.
    #[serde(skip)]
    pub config_bytes: Vec<u8>,
}

/// A step of an image's history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HistoryRow {
    /// The image ID, of the last step only: the others' images are not kept.
    pub id: Option<Digest>,
    /// When, RFC 3339.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// The length of the layer's blob, bytes; 0 for a step without one.
    pub size_bytes: u64,
    /// Which builder.
    pub comment: String,
    /// Whether it made no layer.
    pub empty_layer: bool,
    /// The layer it made.
    pub diff_id: Option<DiffId>,
}

impl Documents {
    /// Reads the documents of an image wherever it is, every byte verified. No layer is read.
    pub fn read(source: &dyn Source, platform: &Platform) -> Result<Documents, InspectError> {
        let image = source.name();
        let root = source.root()?;
        let mut index = None;
        if root.media_type.is_index() {
            let bytes = source.manifest(&root)?;
            let document = Document::parse(&bytes).map_err(|source| InspectError::Document {
                image: image.clone(),
                source,
            })?;
            if let Document::Index(parsed) = document {
                index = Some(parsed);
            }
        }
        let resolved = resolve(source, &root, platform)
            .map_err(|error| InspectError::Resolve(Box::new(error)))?;
        let wanted = &resolved.manifest.config;
        if wanted.size > MAX_CONFIG_BYTES {
            return Err(InspectError::TooLong {
                image,
                size_bytes: wanted.size,
                limit_bytes: MAX_CONFIG_BYTES,
            });
        }
        let mut config_bytes = Vec::new();
        source
            .blob(wanted)?
            .take(wanted.size + 1)
            .read_to_end(&mut config_bytes)
            .map_err(|source| InspectError::Read {
                image: image.clone(),
                digest: wanted.digest,
                source,
            })?;
        let config = check_config(&resolved.manifest, &config_bytes);
        Ok(Documents {
            config: config.map_err(|source| InspectError::Config {
                image: image.clone(),
                source: Box::new(source),
            })?,
            name: image,
            root,
            index,
            descriptor: resolved.descriptor,
            manifest: resolved.manifest,
            config_bytes,
        })
    }

    /// The steps that made the image, newest first. Layers that the history does not tell of come before all steps it tells.
    pub fn history(&self) -> Vec<HistoryRow> {
        let mut layers = self.manifest.layers.iter().zip(self.diff_ids());
        let mut rows = Vec::new();
        for step in &self.config.history {
            let layer = if step.empty_layer {
                None
            } else {
                layers.next()
            };
            rows.push(HistoryRow {
                id: None,
                created: step.created.clone(),
                created_by: step.created_by.clone().unwrap_or_default(),
                size_bytes: layer.map_or(0, |(blob, _)| blob.size),
                comment: step.comment.clone().unwrap_or_default(),
                empty_layer: step.empty_layer,
                diff_id: layer.map(|(_, diff_id)| *diff_id),
            });
        }
        rows.extend(layers.map(|(blob, diff_id)| HistoryRow {
            id: None,
            created: None,
            created_by: String::new(),
            size_bytes: blob.size,
            comment: String::new(),
            empty_layer: false,
            diff_id: Some(*diff_id),
        }));
        rows.reverse();
        if let Some(newest) = rows.first_mut() {
            newest.id = Some(self.manifest.config.digest);
        }
        rows
    }

    fn diff_ids(&self) -> &[DiffId] {
        &self.config.rootfs.diff_ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{History, MediaType, to_pretty_json};
    use crate::store::{Store, StoreOptions};

    fn step(text: &str, empty_layer: bool) -> History {
        History {
            created_by: Some(text.to_owned()),
            empty_layer,
            ..History::default()
        }
    }

    #[test]
    fn documents_and_history_of_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let layers: Vec<Descriptor> = [&b"1"[..], b"22", b"333"]
            .iter()
            .map(|text| store.put_bytes(MediaType::OciLayer, text).unwrap())
            .collect();
        let mut config = ImageConfig::scratch(&Platform::host());
        config.rootfs.diff_ids = layers.iter().map(|l| DiffId(l.digest)).collect();
        config.history = vec![step("COPY", false), step("ENV", true), step("RUN", false)];
        let bytes = config.to_bytes();
        let config = store.put_bytes(MediaType::OciConfig, &bytes).unwrap();
        let mut manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config: config.clone(),
            layers: layers.clone(),
            subject: None,
            annotations: Default::default(),
        };
        let root = store
            .put_bytes(MediaType::OciManifest, &to_pretty_json(&manifest))
            .unwrap();
        let source = store.source("app", root);
        let documents = Documents::read(&source, &Platform::host()).unwrap();

        let history = documents.history();
        let shown: Vec<_> = history
            .iter()
            .map(|r| (r.created_by.as_str(), r.size_bytes))
            .collect();
        assert_eq!(shown, [("", 3), ("RUN", 2), ("ENV", 0), ("COPY", 1)]);
        assert_eq!(history[0].id, Some(config.digest));

        // A configuration that tells of another number of layers is not believed.
        manifest.layers.pop();
        let root = store
            .put_bytes(MediaType::OciManifest, &to_pretty_json(&manifest))
            .unwrap();
        let source = store.source("app", root);
        let error = Documents::read(&source, &Platform::host()).unwrap_err();
        assert!(matches!(error, InspectError::Config { .. }), "{error:?}");
    }
}
