//! An OCI archive as another implementation reads it: every digest, size and diff id held against the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Why an archive cannot be read as an image at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadImage {
    /// A named blob is not in the archive.
    #[error("blob missing: {0}")]
    BlobMissing(String),
    /// A field that a document must have.
    #[error("{0} is missing or has another type")]
    Field(&'static str),
    /// No index, or an index without an image.
    #[error("the archive holds no image")]
    Empty,
    /// A document is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A tar, gzip or zstd stream does not read to its end, or the archive is not there.
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

/// One image of an archive.
pub(crate) struct Image {
    /// As `os/architecture[/variant]`.
    pub(crate) platform: String,
    pub(crate) config: Value,
    /// The manifest's digest.
    pub(crate) digest: String,
    /// Those of the indexes above, the descriptor and the manifest together.
    pub(crate) annotations: Map<String, Value>,
    /// As plain tars.
    pub(crate) layers: Vec<Vec<u8>>,
    /// Everything a secret could be in: config and manifest (the layers are above).
    pub(crate) documents: [Vec<u8>; 2],
}

impl Image {
    /// Whether the bytes occur in any layer, the config or the manifest.
    pub(crate) fn contains(&self, needle: &str) -> bool {
        let all = self.layers.iter().chain(&self.documents);
        all.into_iter()
            .any(|bytes| memchr::memmem::find(bytes, needle.as_bytes()).is_some())
    }
}

/// An archive's images, and what does not verify.
pub(crate) struct Archive {
    pub(crate) images: Vec<Image>,
    pub(crate) problems: Vec<String>,
    members: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads and verifies the OCI archive at `path`. Attestations are left out.
    pub(crate) fn read(path: &Path) -> Result<Archive, BadImage> {
        let mut members = BTreeMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(path)?);
        for entry in tar.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = String::from_utf8_lossy(&entry.path_bytes())
                    .trim_start_matches("./")
                    .to_owned();
                let mut data = Vec::new();
                entry.read_to_end(&mut data)?;
                members.insert(name, data);
            }
        }
        let mut archive = Archive {
            images: Vec::new(),
            problems: Vec::new(),
            members,
        };
        let index: Value =
            serde_json::from_slice(archive.members.get("index.json").ok_or(BadImage::Empty)?)?;
        let layout = archive
            .members
            .get("oci-layout")
            .map_or(&b"{}"[..], Vec::as_slice);
        if serde_json::from_slice::<Value>(layout)?["imageLayoutVersion"] != "1.0.0" {
            archive.problem("oci-layout missing or without version 1.0.0");
        }
        let above = annotations(&index);
        for descriptor in list(&index["manifests"]) {
            archive.walk(descriptor, &above)?;
        }
        match archive.images.is_empty() {
            true => Err(BadImage::Empty),
            false => Ok(archive),
        }
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// A descriptor's bytes; wrong ones are a problem, missing ones an error.
    fn blob(&mut self, descriptor: &Value) -> Result<Vec<u8>, BadImage> {
        let digest = descriptor["digest"]
            .as_str()
            .ok_or(BadImage::Field("a descriptor's digest"))?;
        let data = self
            .members
            .get(&format!("blobs/{}", digest.replacen(':', "/", 1)));
        let data = data
            .cloned()
            .ok_or_else(|| BadImage::BlobMissing(digest.to_owned()))?;
        if digest != format!("sha256:{}", sha256(&data)) || descriptor["size"] != data.len() {
            self.problem(format!(
                "digest or size wrong: {digest}, {} bytes",
                descriptor["size"]
            ));
        }
        Ok(data)
    }

    fn walk(&mut self, descriptor: &Value, above: &Map<String, Value>) -> Result<(), BadImage> {
        if annotations(descriptor).contains_key("vnd.docker.reference.type") {
            return Ok(());
        }
        let document = self.blob(descriptor)?;
        let manifest: Value = serde_json::from_slice(&document)?;
        let mut above = above.clone();
        if manifest.get("manifests").is_some() {
            above.append(&mut annotations(&manifest));
            return list(&manifest["manifests"])
                .iter()
                .try_for_each(|sub| self.walk(sub, &above));
        }
        above.append(&mut annotations(descriptor));
        above.append(&mut annotations(&manifest));
        let config_bytes = self.blob(&manifest["config"])?;
        let config: Value = serde_json::from_slice(&config_bytes)?;
        let mut layers = Vec::new();
        for layer in list(&manifest["layers"]) {
            layers.push(decompress(self.blob(layer)?)?);
        }
        self.verify(&config, &layers)?;
        let parts =
            ["os", "architecture", "variant"].map(|key| config[key].as_str().unwrap_or_default());
        let platform: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.images.push(Image {
            platform: platform.join("/"),
            digest: descriptor["digest"].as_str().unwrap_or_default().to_owned(),
            annotations: above,
            layers,
            documents: [config_bytes, document],
            config,
        });
        Ok(())
    }

    fn verify(&mut self, config: &Value, layers: &[Vec<u8>]) -> Result<(), BadImage> {
        let diffs: Vec<Value> = layers
            .iter()
            .map(|layer| format!("sha256:{}", sha256(layer)).into())
            .collect();
        if list(&config["rootfs"]["diff_ids"]) != diffs {
            self.problem("diff_ids do not match the layers");
        }
        let history = list(&config["history"]);
        let full = history
            .iter()
            .filter(|entry| entry["empty_layer"] != true)
            .count();
        if !history.is_empty() && full != layers.len() {
            self.problem(format!(
                "history has {full} non-empty entries for {} layers",
                layers.len()
            ));
        }
        for layer in layers {
            let mut names = BTreeSet::new();
            for entry in tar::Archive::new(&layer[..]).entries()? {
                let name = entry?.path_bytes().into_owned();
                let name = name.strip_suffix(b"/").unwrap_or(&name).to_vec();
                if name.split(|&byte| byte == b'/').any(|part| part == b"..") {
                    self.problem("a layer names a path with ..");
                }
                if !names.insert(name) {
                    self.problem("a layer names a path twice");
                }
            }
        }
        Ok(())
    }
}

/// The hexadecimal SHA-256 of the bytes.
pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A JSON list's items; none for anything else.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn annotations(document: &Value) -> Map<String, Value> {
    document["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default()
}

fn decompress(data: Vec<u8>) -> Result<Vec<u8>, BadImage> {
    let mut plain = Vec::new();
    match data.get(..4) {
        Some([0x1f, 0x8b, ..]) => {
            flate2::read::MultiGzDecoder::new(&data[..]).read_to_end(&mut plain)?;
        }
        Some([0x28, 0xb5, 0x2f, 0xfd]) => zstd::stream::copy_decode(&data[..], &mut plain)?,
        _ => plain = data,
    }
    Ok(plain)
}
