//! Configurations, manifests and indexes: what is understood is written and understood the same.

use strata::oci::{Document, ImageConfig, to_pretty_json};

/// `data` is a JSON document of an image.
pub(crate) fn check(data: &[u8]) {
    if let Ok(config) = ImageConfig::parse(data) {
        let bytes = config.to_bytes();
        let again = ImageConfig::parse(&bytes).expect("what was written can be read");
        assert_eq!(again, config);
        assert_eq!(again.to_bytes(), bytes);
        assert!(!bytes.contains(&b'<') && !bytes.contains(&b'>') && !bytes.contains(&b'&'));
        let platform = config.platform();
        assert!(platform.serves(&platform).is_some());
    }
    if let Ok(document) = Document::parse(data) {
        let bytes = match &document {
            Document::Manifest(manifest) => to_pretty_json(manifest),
            Document::Index(index) => to_pretty_json(index),
        };
        let again = Document::parse(&bytes).expect("what was written can be read");
        assert_eq!(again, document);
    }
}
