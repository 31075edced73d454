//! What must agree between the parts of an image.

use super::{VerifyError, read_verified};
use crate::oci::{ImageConfig, Manifest};

/// Why a configuration is not that of an image.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Bytes that are not those the manifest names.
    #[error(transparent)]
    Verify(Box<VerifyError>),
    /// An artifact, or a kind of image that is unknown.
    #[error("not a container image: its configuration has the media type {0:?}")]
    MediaType(String),
    /// Not JSON, or not of the shape.
    #[error("malformed image configuration")]
    Json(#[source] serde_json::Error),
    /// Layers and their identities do not pair up.
    #[error("the image has {layers} layers, but its configuration lists {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A root filesystem of another kind than layers.
    #[error(
        "unsupported root filesystem type {0:?} in the image configuration: expected \"layers\""
    )]
    RootFs(String),
}

/// Parses an image's configuration and holds it against its manifest. `Ok` means: these are the bytes the manifest names,
/// and there is one diffID for each layer.
pub fn check_config(manifest: &Manifest, bytes: &[u8]) -> Result<ImageConfig, ConfigError> {
    if let Err(error) = read_verified(bytes, &manifest.config) {
        let verify = error.into_inner().and_then(|e| e.downcast().ok());
        let verify = verify.expect("reading from memory fails only when the bytes are wrong");
        return Err(ConfigError::Verify(verify));
    }
    if !manifest.config.media_type.is_config() {
        return Err(ConfigError::MediaType(
            manifest.config.media_type.to_string(),
        ));
    }
    let config = ImageConfig::parse(bytes).map_err(ConfigError::Json)?;
    if config.rootfs.kind != "layers" {
        return Err(ConfigError::RootFs(config.rootfs.kind));
    }
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(ConfigError::Layers { layers, diff_ids });
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, DiffId, Digest, MediaType, Platform};

    #[test]
    fn a_configuration_must_fit_its_manifest() {
        let mut config = ImageConfig::scratch(&Platform::new("linux", "amd64", None));
        config.rootfs.diff_ids.push(DiffId(Digest::of(b"layer")));
        let bytes = config.to_bytes();
        let mut manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config: Descriptor::of(MediaType::OciConfig, &bytes),
            layers: vec![Descriptor::of(MediaType::OciLayer, b"layer")],
            subject: None,
            annotations: Default::default(),
        };
        assert_eq!(check_config(&manifest, &bytes).unwrap(), config);
        assert!(matches!(
            check_config(&manifest, b"{}"),
            Err(ConfigError::Verify(_))
        ));
        manifest.layers.clear();
        let counts = check_config(&manifest, &bytes).unwrap_err();
        assert!(matches!(
            counts,
            ConfigError::Layers {
                layers: 0,
                diff_ids: 1
            }
        ));
        manifest.config.media_type = MediaType::Other("text/plain".to_owned());
        assert!(matches!(
            check_config(&manifest, &bytes),
            Err(ConfigError::MediaType(_))
        ));
        manifest.config = Descriptor::of(MediaType::OciConfig, b"[]");
        assert!(matches!(
            check_config(&manifest, b"[]"),
            Err(ConfigError::Json(_))
        ));
    }
}
