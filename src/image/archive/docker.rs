//! The form `docker save` wrote before version 25: a configuration, layers, and a list that binds them.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;

use super::super::{ImageError, MAX_MANIFEST_BYTES};
use super::tar::{Extent, MemberReader, Members};
use crate::oci::{
    Algorithm, Descriptor, Digest, Hasher, ImageConfig, Manifest, MediaType, Reference,
    to_pretty_json,
};

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// An image of which a manifest was made: the archive has none.
pub(super) struct Converted {
    pub(super) names: Vec<String>,
    pub(super) root: Descriptor,
    pub(super) manifest: Vec<u8>,
    /// Where its configuration and its layers are.
    pub(super) blobs: Vec<(Digest, Extent)>,
}

/// Reads `manifest.json` and gives every image the manifest it would have in an image layout: the same archive gives the
/// same manifest.
pub(super) fn convert(
    file: &Arc<File>,
    members: &Members,
    medium: &str,
) -> Result<Vec<Converted>, ImageError> {
    let form = |why: String| ImageError::Form {
        medium: medium.to_owned(),
        why,
    };
    let list = small(file, members, "manifest.json", medium)?;
    let items: Vec<Item> =
        serde_json::from_slice(&list).map_err(|e| form(format!("malformed manifest.json: {e}")))?;
    let mut images = Vec::new();
    for item in items {
        let bytes = small(file, members, &item.config, medium)?;
        let config = ImageConfig::parse(&bytes).map_err(|e| {
            form(format!(
                "malformed image configuration {}: {e}",
                item.config
            ))
        })?;
        let layers = item.layers.unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if layers.len() != diff_ids.len() {
            return Err(form(format!(
                "the image has {} layers, but its configuration lists {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let config = Descriptor::of(MediaType::OciConfig, &bytes);
        let config_extent = members.find(&item.config).expect("it was read above");
        let mut blobs = vec![(config.digest, config_extent)];
        let mut descriptors = Vec::new();
        for (path, diff_id) in layers.iter().zip(diff_ids) {
            let extent = members
                .find(path)
                .ok_or_else(|| form(format!("the layer {path} is missing")))?;
            let layer = layer(file, extent, path, &diff_id.0, medium)?;
            blobs.push((layer.digest, extent));
            descriptors.push(layer);
        }
        let manifest = to_pretty_json(&Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers: descriptors,
            subject: None,
            annotations: Default::default(),
        });
        let names = item
            .repo_tags
            .unwrap_or_default()
            .into_iter()
            .map(|tag| tag.parse::<Reference>().map_or(tag, |r| r.to_string()));
        images.push(Converted {
            names: names.collect(),
            root: Descriptor::of(MediaType::OciManifest, &manifest),
            manifest,
            blobs,
        });
    }
    Ok(images)
}

/// The descriptor of a layer. One that is not compressed has its diffID for a digest, which whoever reads it will check;
/// a compressed one must be hashed, unless its name is its digest.
fn layer(
    file: &Arc<File>,
    extent: Extent,
    path: &str,
    diff_id: &Digest,
    medium: &str,
) -> Result<Descriptor, ImageError> {
    let read = |e| ImageError::from_io("read", &format!("layer {path} of {medium}"), e);
    let mut magic = Vec::new();
    MemberReader::new(file, extent)
        .take(4)
        .read_to_end(&mut magic)
        .map_err(read)?;
    let media_type = match magic.as_slice() {
        [0x1f, 0x8b, ..] => MediaType::OciLayerGzip,
        [0x28, 0xb5, 0x2f, 0xfd] => MediaType::OciLayerZstd,
        _ => return Ok(Descriptor::new(MediaType::OciLayer, *diff_id, extent.size)),
    };
    let named = path
        .strip_prefix("blobs/sha256/")
        .and_then(|hex| format!("sha256:{hex}").parse().ok());
    let digest = match named {
        Some(digest) => digest,
        None => {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut reader = MemberReader::new(file, extent);
            let mut chunk = vec![0; 128 << 10];
            loop {
                match reader.read(&mut chunk).map_err(read)? {
                    0 => break,
                    n => hasher.update(&chunk[..n]),
                }
            }
            hasher.finish()
        }
    };
    Ok(Descriptor::new(media_type, digest, extent.size))
}

/// A document of an archive, bounded.
pub(super) fn small(
    file: &Arc<File>,
    members: &Members,
    path: &str,
    medium: &str,
) -> Result<Vec<u8>, ImageError> {
    let form = |why: String| ImageError::Form {
        medium: medium.to_owned(),
        why,
    };
    let extent = members
        .find(path)
        .ok_or_else(|| form(format!("the file {path} is missing")))?;
    if extent.size > MAX_MANIFEST_BYTES {
        return Err(form(format!(
            "the file {path} is larger than {MAX_MANIFEST_BYTES} bytes"
        )));
    }
    let mut bytes = Vec::new();
    MemberReader::new(file, extent)
        .read_to_end(&mut bytes)
        .map_err(|e| ImageError::from_io("read", &format!("{path} of {medium}"), e))?;
    Ok(bytes)
}
