//! Descriptors, manifests and indexes (image-spec descriptor.md, manifest.md, image-index.md), and docker's equals.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Digest, Platform};

/// A media type. The ones strata understands are named; any other is kept as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MediaType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.oci.image.config.v1+json`
    OciConfig,
    /// `application/vnd.oci.image.layer.v1.tar`
    OciLayer,
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    OciLayerGzip,
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    OciLayerZstd,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerManifestList,
    /// `application/vnd.docker.container.image.v1+json`
    DockerConfig,
    /// `application/vnd.docker.image.rootfs.diff.tar`
    DockerLayer,
    /// `application/vnd.docker.image.rootfs.diff.tar.gzip`
    DockerLayerGzip,
    /// Anything else.
    Other(String),
}

const MEDIA_TYPES: [(MediaType, &str); 11] = [
    (
        MediaType::OciManifest,
        "application/vnd.oci.image.manifest.v1+json",
    ),
    (
        MediaType::OciIndex,
        "application/vnd.oci.image.index.v1+json",
    ),
    (
        MediaType::OciConfig,
        "application/vnd.oci.image.config.v1+json",
    ),
    (
        MediaType::OciLayer,
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        MediaType::OciLayerGzip,
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        MediaType::OciLayerZstd,
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        MediaType::DockerManifest,
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    (
        MediaType::DockerManifestList,
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
    (
        MediaType::DockerConfig,
        "application/vnd.docker.container.image.v1+json",
    ),
    (
        MediaType::DockerLayer,
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        MediaType::DockerLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
];

impl MediaType {
    /// The type as it is written.
    pub fn as_str(&self) -> &str {
        match self {
            MediaType::Other(text) => text,
            known => MEDIA_TYPES
                .iter()
                .find(|(m, _)| m == known)
                .map_or("", |(_, text)| text),
        }
    }

    /// Whether it is a manifest of one image.
    pub fn is_manifest(&self) -> bool {
        matches!(self, MediaType::OciManifest | MediaType::DockerManifest)
    }

    /// Whether it is an index (docker: manifest list).
    pub fn is_index(&self) -> bool {
        matches!(self, MediaType::OciIndex | MediaType::DockerManifestList)
    }

    /// Whether it is an image configuration.
    pub fn is_config(&self) -> bool {
        matches!(self, MediaType::OciConfig | MediaType::DockerConfig)
    }

    /// Whether it is a layer that strata can unpack.
    pub fn is_layer(&self) -> bool {
        matches!(
            self,
            MediaType::OciLayer
                | MediaType::OciLayerGzip
                | MediaType::OciLayerZstd
                | MediaType::DockerLayer
                | MediaType::DockerLayerGzip
        )
    }
}

impl From<&str> for MediaType {
    fn from(text: &str) -> MediaType {
        let known = MEDIA_TYPES.iter().find(|(_, t)| *t == text);
        known.map_or_else(|| MediaType::Other(text.to_owned()), |(m, _)| m.clone())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MediaType, D::Error> {
        Ok(MediaType::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// A typed, sized, digested pointer to content (image-spec descriptor.md).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the content is.
    #[serde(rename = "mediaType", default = "unknown_media_type")]
    pub media_type: MediaType,
    /// Its identity.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where else it can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free key/value pairs.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The content itself in base64, if embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Where it runs, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact it is.
    #[serde(
        rename = "artifactType",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub artifact_type: Option<String>,
}

fn unknown_media_type() -> MediaType {
    MediaType::Other(String::new())
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    /// A descriptor with nothing but the three fields that every one has.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// An image manifest (image-spec manifest.md).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// OCI's or docker's manifest type.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What kind of artifact it is, where the config does not say.
    #[serde(
        rename = "artifactType",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub artifact_type: Option<String>,
    /// The configuration; its digest is the image ID.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free key/value pairs.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An image index (image-spec image-index.md), or docker's manifest list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u32,
    /// OCI's or docker's index type.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What kind of artifact it is.
    #[serde(
        rename = "artifactType",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub artifact_type: Option<String>,
    /// The manifests, in order.
    #[serde(deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free key/value pairs.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the shape.
    #[error("malformed manifest")]
    Json(#[source] serde_json::Error),
    /// Docker's first schema, which has neither a config nor diffIDs.
    #[error(
        "unsupported manifest schema version {0}: expected 2; push the image again with a current client"
    )]
    Schema(u64),
    /// A document of another kind, or one that claims to be both kinds.
    #[error("not an image manifest or index: media type {0:?}")]
    Kind(String),
}

/// What a root descriptor points to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are never many of them")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, by platform.
    Index(Index),
}

impl Document {
    /// Parses a manifest or an index. The media type inside wins; without one, the shape decides.
    pub fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(rename = "schemaVersion")]
            schema_version: u64,
            #[serde(rename = "mediaType")]
            media_type: Option<MediaType>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if shape.schema_version != 2 {
            return Err(ManifestError::Schema(shape.schema_version));
        }
        let kind = || {
            ManifestError::Kind(
                shape
                    .media_type
                    .as_ref()
                    .map(|m| m.to_string())
                    .unwrap_or_default(),
            )
        };
        let single = shape.config.is_some() || shape.layers.is_some();
        // A document with both shapes can mean two images to two readers (CVE-2021-41190): refused.
        let index = match &shape.media_type {
            _ if single && shape.manifests.is_some() => return Err(kind()),
            Some(m) if m.is_index() => true,
            Some(m) if m.is_manifest() => false,
            Some(_) => return Err(kind()),
            None => shape.manifests.is_some(),
        };
        if index {
            serde_json::from_slice(bytes)
                .map(Document::Index)
                .map_err(ManifestError::Json)
        } else {
            serde_json::from_slice(bytes)
                .map(Document::Manifest)
                .map_err(ManifestError::Json)
        }
    }
}

/// JSON as BuildKit writes manifests and indexes: two blanks of indent, no newline at the end.
pub fn to_pretty_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("maps have string keys and no field fails to serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_round_trip_keeps_key_order() {
        let d = Digest::of(b"x");
        let text = format!(
            "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n  \"config\": {{\n    \
             \"mediaType\": \"application/vnd.oci.image.config.v1+json\",\n    \"digest\": \"{d}\",\n    \"size\": 1\n  }},\n  \
             \"layers\": []\n}}"
        );
        let Document::Manifest(manifest) = Document::parse(text.as_bytes()).unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!(String::from_utf8(to_pretty_json(&manifest)).unwrap(), text);
    }

    #[test]
    fn ambiguous_and_foreign_documents_are_refused() {
        let desc = format!(
            "{{\"mediaType\":\"x\",\"digest\":\"{}\",\"size\":1}}",
            Digest::of(b"x")
        );
        for bad in [
            "[]".to_owned(),
            "{\"schemaVersion\":1}".to_owned(),
            format!("{{\"schemaVersion\":2,\"config\":{desc},\"layers\":[],\"manifests\":[]}}"),
            "{\"schemaVersion\":2,\"mediaType\":\"text/plain\"}".to_owned(),
            format!(
                "{{\"schemaVersion\":2,\"config\":{desc},\"layers\":[{{\"digest\":\"sha256:0\"}}]}}"
            ),
        ] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_implementation_reads_it() {
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config: Descriptor::of(MediaType::OciConfig, b"{}"),
            layers: vec![Descriptor::of(MediaType::OciLayerZstd, b"layer")],
            subject: None,
            annotations: [
                ("b".to_owned(), "2".to_owned()),
                ("a".to_owned(), "1".to_owned()),
            ]
            .into(),
        };
        let read =
            oci_spec::image::ImageManifest::from_reader(to_pretty_json(&manifest).as_slice())
                .unwrap();
        assert_eq!(
            read.layers()[0].digest().to_string(),
            manifest.layers[0].digest.to_string()
        );
        assert_eq!(
            read.layers()[0].media_type(),
            &oci_spec::image::MediaType::ImageLayerZstd
        );
    }
}
