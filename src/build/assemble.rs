//! From layers to an image: configuration, history, manifest and index.

use std::collections::BTreeMap;

use crate::layer::{Compression, Times};
use crate::oci::{
    Descriptor, DiffId, History, Index, Manifest, MediaType, Platform, to_pretty_json,
};
use crate::plan::graph::{Op, Output, VertexId};
use crate::store::StackLayer;

use super::BuildError;
use super::engine::{Engine, Outcome, none, now};
use super::event::{EventKind, StepId};
use super::failed::stack;
use super::snapshot::Committed;

/// What a build came to.
#[derive(Clone, Debug)]
pub struct Built {
    /// The manifest, or the index of several.
    pub root: Descriptor,
    /// One for each platform.
    pub images: Vec<BuiltImage>,
    /// The time written in it, RFC 3339.
    pub created: String,
    /// What each step made, in the order of the graph; base images are no steps.
    pub steps: Vec<BuiltStep>,
}

/// The layer of one step, before its times are changed.
#[derive(Clone, Debug)]
pub struct BuiltStep {
    /// Which.
    pub vertex: VertexId,
    /// Its layer.
    pub diff_id: DiffId,
    /// The layer's blob; `None` of one that is in no output: it is in the store unpacked.
    pub blob: Option<Descriptor>,
}

/// The files of one platform.
#[derive(Clone, Debug)]
pub struct BuiltFiles {
    /// Where they run.
    pub platform: Platform,
    /// The layers they are in, bottom first.
    pub layers: Vec<StackLayer>,
}

/// The image of one platform.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// Where it runs.
    pub platform: Platform,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its configuration; the digest is the image ID.
    pub config: Descriptor,
    /// Its layers' blobs, bottom first.
    pub layers: Vec<Descriptor>,
    /// Its layers' diffIDs, bottom first.
    pub diff_ids: Vec<DiffId>,
}

/// Who made the history entries: the frontend whose language this is.
const COMMENT: &str = "buildkit.dockerfile.v0";

fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |t| t.to_string())
}

impl Engine<'_> {
    /// Puts the images together and stores their manifests.
    pub(super) fn assemble(
        &self,
        outcomes: &BTreeMap<VertexId, Outcome>,
        step: StepId,
    ) -> Result<Built, BuildError> {
        self.events.event(EventKind::Started {
            step,
            name: "exporting to image".to_owned(),
        });
        let result = self.assemble_all(outcomes);
        match &result {
            Ok(_) => self.events.event(EventKind::Finished {
                step,
                cached: false,
            }),
            Err(error) if error.is_canceled() => self.events.event(EventKind::Canceled { step }),
            Err(error) => self.events.event(EventKind::Failed {
                step,
                message: error.to_string(),
            }),
        }
        result
    }

    /// What the files of the outputs are made of.
    pub(super) fn made_of(
        &self,
        outcomes: &BTreeMap<VertexId, Outcome>,
    ) -> Result<Vec<BuiltFiles>, BuildError> {
        let mut files = Vec::new();
        for output in &self.request.graph.outputs {
            let layers = output
                .vertex
                .map_or_else(none, |id| outcomes[&id].layers.clone());
            let committed: Result<Vec<_>, BuildError> = layers.iter().map(|s| s.wait()).collect();
            self.fetch_blobs(&committed?)?;
            files.push(BuiltFiles {
                platform: output.config.platform(),
                layers: stack(&layers)?,
            });
        }
        Ok(files)
    }

    fn assemble_all(&self, outcomes: &BTreeMap<VertexId, Outcome>) -> Result<Built, BuildError> {
        let graph = self.request.graph;
        let options = &self.request.image;
        let mut images = Vec::new();
        let mut created = String::new();
        for output in &graph.outputs {
            let (image, time) = self.image(output, outcomes)?;
            images.push(image);
            created = time;
        }
        let root = if options.index || images.len() > 1 {
            let manifests = images.iter().map(|image| Descriptor {
                platform: Some(image.platform.clone()),
                annotations: options.annotations.manifest_descriptor.clone(),
                ..image.manifest.clone()
            });
            let media_type = if options.oci_media_types {
                MediaType::OciIndex
            } else {
                MediaType::DockerManifestList
            };
            let index = Index {
                schema_version: 2,
                media_type: Some(media_type.clone()),
                artifact_type: None,
                manifests: manifests.collect(),
                subject: None,
                annotations: options.annotations.index.clone(),
            };
            self.store.put_bytes(media_type, &to_pretty_json(&index))?
        } else {
            match images.first() {
                Some(image) => Descriptor {
                    platform: Some(image.platform.clone()),
                    annotations: options.annotations.manifest_descriptor.clone(),
                    ..image.manifest.clone()
                },
                None => return Err(BuildError::NoOutput),
            }
        };
        Ok(Built {
            root,
            images,
            created,
            steps: self.steps(outcomes)?,
        })
    }

    fn steps(&self, outcomes: &BTreeMap<VertexId, Outcome>) -> Result<Vec<BuiltStep>, BuildError> {
        let mut steps = Vec::new();
        for (vertex, outcome) in outcomes {
            let image = matches!(self.vertex_of(*vertex).op, Op::Image(_));
            let Some(top) = outcome.layers.last().filter(|_| !image) else {
                continue;
            };
            let committed = top.wait()?;
            steps.push(BuiltStep {
                vertex: *vertex,
                diff_id: committed.diff_id,
                blob: committed.blob.clone(),
            });
        }
        Ok(steps)
    }

    fn image(
        &self,
        output: &Output,
        outcomes: &BTreeMap<VertexId, Outcome>,
    ) -> Result<(BuiltImage, String), BuildError> {
        let options = &self.request.image;
        let layers = output
            .vertex
            .map_or_else(none, |id| outcomes[&id].layers.clone());
        let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
        let committed: Result<Vec<_>, BuildError> = layers.iter().map(|s| s.wait()).collect();
        let committed = committed?;
        self.fetch_blobs(&committed)?;
        for committed in &committed {
            let (blob, diff_id) = self.shaped(committed)?;
            blobs.push(blob);
            diff_ids.push(diff_id);
        }
        let mut config = output.config.clone();
        let step_time = |id: VertexId| -> Result<Option<i64>, BuildError> {
            outcomes[&id]
                .layers
                .last()
                .map(|top| top.wait().map(|c| c.created))
                .transpose()
        };
        let mut times = Vec::new();
        for entry in &output.history {
            times.push(entry.vertex.map(step_time).transpose()?.flatten());
        }
        let times = dated(&times).unwrap_or_else(|| vec![now(); output.history.len()]);
        let epoch = options.source_date_epoch;
        let clamp = |time: i64| match options.times() {
            Times::Exactly(time) => time,
            _ => epoch.map_or(time, |epoch| time.min(epoch)),
        };
        for (entry, time) in output.history.iter().zip(&times) {
            config.history.push(History {
                created: Some(rfc3339(clamp(*time))),
                created_by: Some(entry.created_by.clone()),
                author: config.author.clone(),
                comment: Some(COMMENT.to_owned()),
                empty_layer: entry.vertex.is_none(),
            });
        }
        let created = rfc3339(epoch.unwrap_or_else(|| times.last().copied().unwrap_or_else(now)));
        config.created = Some(created.clone());
        config.rootfs.diff_ids.clone_from(&diff_ids);
        let (config_type, manifest_type) = if options.oci_media_types {
            (MediaType::OciConfig, MediaType::OciManifest)
        } else {
            (MediaType::DockerConfig, MediaType::DockerManifest)
        };
        let config_blob = self.store.put_bytes(config_type, &config.to_bytes())?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(manifest_type.clone()),
            artifact_type: None,
            config: config_blob.clone(),
            layers: blobs.clone(),
            subject: None,
            annotations: options.annotations.manifest.clone(),
        };
        let manifest = self
            .store
            .put_bytes(manifest_type, &to_pretty_json(&manifest))?;
        self.keep_lineage(output, &manifest.digest)?;
        let platform = config.platform();
        Ok((
            BuiltImage {
                platform,
                manifest,
                config: config_blob,
                layers: blobs,
                diff_ids,
            },
            created,
        ))
    }

    // A layer's blob as the options want it: compression, times, media type.
    fn shaped(&self, committed: &Committed) -> Result<(Descriptor, DiffId), BuildError> {
        let options = &self.request.image;
        let ours = committed.image.is_none();
        let times = if ours { options.times() } else { Times::Keep };
        let have = self.blob_of(committed)?;
        let kind = compression_of(&have.media_type);
        let other_compression = kind.is_some_and(|kind| !same_kind(kind, options.compression));
        let (blob, diff_id) =
            if times != Times::Keep || (other_compression && (ours || options.force_compression)) {
                self.repacked(committed, &have, times)?
            } else {
                (have, committed.diff_id)
            };
        Ok((
            Descriptor {
                media_type: layer_type(&blob.media_type, options.oci_media_types),
                ..blob
            },
            diff_id,
        ))
    }

    fn repacked(
        &self,
        committed: &Committed,
        have: &Descriptor,
        times: Times,
    ) -> Result<(Descriptor, DiffId), BuildError> {
        let compression = self.request.image.compression;
        let wanted = compression.media_type();
        if times == Times::Keep {
            for blob in self.store.blobs_of(&committed.diff_id)? {
                if blob.media_type == wanted && self.store.has_blob(&blob) {
                    return Ok((blob, committed.diff_id));
                }
            }
        }
        let input = self.store.open_blob(have)?;
        let mut ingest = self.store.ingest_prehashed()?;
        let options = crate::layer::PackOptions {
            compression,
            times,
            ..Default::default()
        };
        let repacked = crate::layer::repack(input, &mut ingest, &options, u64::MAX)?;
        ingest.commit_as(repacked.digest, repacked.size_bytes)?;
        let blob = Descriptor::new(wanted, repacked.digest, repacked.size_bytes);
        self.store.add_blob_of(&repacked.diff_id, &blob)?;
        Ok((blob, repacked.diff_id))
    }
}

// When undated entries were made: those before the first layer when it was, all others when the layer before them was.
fn dated(times: &[Option<i64>]) -> Option<Vec<i64>> {
    let first = times.iter().flatten().next()?;
    let mut last = *first;
    Some(
        times
            .iter()
            .map(|time| {
                last = time.unwrap_or(last);
                last
            })
            .collect(),
    )
}

fn compression_of(media_type: &MediaType) -> Option<Compression> {
    match media_type {
        MediaType::OciLayer | MediaType::DockerLayer => Some(Compression::None),
        MediaType::OciLayerGzip | MediaType::DockerLayerGzip => Compression::gzip(None).ok(),
        MediaType::OciLayerZstd => Compression::zstd(None).ok(),
        _ => None,
    }
}

fn same_kind(a: Compression, b: Compression) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

// A layer's type in the family of the manifest it is in. Docker has no zstd layers: those stay OCI's.
fn layer_type(have: &MediaType, oci: bool) -> MediaType {
    match (have, oci) {
        (MediaType::DockerLayer, true) => MediaType::OciLayer,
        (MediaType::DockerLayerGzip, true) => MediaType::OciLayerGzip,
        (MediaType::OciLayer, false) => MediaType::DockerLayer,
        (MediaType::OciLayerGzip, false) => MediaType::DockerLayerGzip,
        (other, _) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undated_entries_take_their_neighbours_time() {
        assert_eq!(
            dated(&[None, None, Some(5), None, Some(3), None]),
            Some(vec![5, 5, 5, 5, 3, 3])
        );
        assert_eq!(dated(&[None, None]), None);
        assert_eq!(dated(&[Some(1)]), Some(vec![1]));
    }
}
