//! All images of a store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::InspectError;
use crate::oci::{Digest, Platform, Reference};
use crate::store::Store;

/// An image of the store with all its names.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ImageRow {
    /// What it is called, sorted; empty for one kept by its digest.
    pub names: Vec<Reference>,
    /// The digest of its configuration.
    pub id: Option<Digest>,
    /// The digest of its manifest or index.
    pub digest: Digest,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// The sum of its blobs, bytes.
    pub size_bytes: Option<u64>,
    /// Where it runs; of an index, that is several.
    pub platform: Option<Platform>,
}

/// The images of a store, newest first; what has no time of making comes last, in the order of the index. Reads the index
/// alone (manifests only of images that another tool entered), so it is quick for thousands.
pub fn images(store: &Store) -> Result<Vec<ImageRow>, InspectError> {
    let mut rows: Vec<ImageRow> = Vec::new();
    let mut places: BTreeMap<Digest, usize> = BTreeMap::new();
    for named in store.names()? {
        let digest = named.descriptor.digest;
        let place = *places.entry(digest).or_insert_with(|| {
            rows.push(ImageRow {
                names: Vec::new(),
                id: named.image_id,
                digest,
                created: named.created,
                size_bytes: named.size_bytes,
                platform: named.descriptor.platform,
            });
            rows.len() - 1
        });
        rows[place].names.extend(named.reference);
    }
    rows.iter_mut().for_each(|r| r.names.sort());
    // RFC 3339 in UTC, as builders write it, sorts as text.
    rows.sort_by(|a, b| b.created.cmp(&a.created));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{ImageConfig, Manifest, MediaType, to_pretty_json};
    use crate::store::StoreOptions;

    #[test]
    fn an_image_is_one_row_and_the_newest_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        for (created, names) in [
            (Some("2024-01-01T00:00:00Z"), vec!["old"]),
            (None, vec!["undated"]),
            (Some("2025-01-01T00:00:00Z"), vec!["new:2", "new:1"]),
        ] {
            let mut config = ImageConfig::scratch(&Platform::host());
            config.created = created.map(str::to_owned);
            let config = config.to_bytes();
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(MediaType::OciManifest),
                artifact_type: None,
                config: store.put_bytes(MediaType::OciConfig, &config).unwrap(),
                layers: Vec::new(),
                subject: None,
                annotations: Default::default(),
            };
            let bytes = to_pretty_json(&manifest);
            let root = store.put_bytes(MediaType::OciManifest, &bytes).unwrap();
            for name in names {
                store.tag(&name.parse().unwrap(), &root).unwrap();
            }
        }
        let rows = images(&store).unwrap();
        let names: Vec<Vec<String>> = rows
            .iter()
            .map(|r| r.names.iter().map(Reference::familiar).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec!["new:1", "new:2"],
                vec!["old:latest"],
                vec!["undated:latest"]
            ]
        );
        assert!(
            rows.iter()
                .all(|r| r.id.is_some() && r.platform == Some(Platform::host()))
        );
    }
}
