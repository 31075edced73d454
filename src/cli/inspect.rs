//! `inspect`: an image's documents, in the store or elsewhere, without pulling it.

use serde::Serialize;
use serde_json::{Value, json};
use strata::image::Source;
use strata::inspect::Documents;
use strata::oci::{Descriptor, Platform};

use super::error::{CliError, Doing as _};
use super::medium;
use super::output::{print, print_json};
use super::session::Session;
use super::transport::Location;
use super::values::platforms;

/// Show what an image is, as JSON
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata inspect app | jq '.[0].Config.Env'
  strata inspect docker://docker.io/library/debian:bookworm      without pulling it
  strata inspect --raw docker://docker.io/library/debian         the manifest or index, byte for byte
  strata inspect --config oci-archive:app.tar                    the configuration, byte for byte")]
pub(crate) struct InspectArgs {
    /// Names or IDs in the store, or docker://, oci:, oci-archive:, docker-archive:
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The platform, where an image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// The bytes of the manifest or index, as they are
    #[arg(long)]
    raw: bool,
    /// The bytes of the configuration, as they are
    #[arg(long, conflicts_with = "raw")]
    config: bool,
    /// How it is shown; there is one form
    #[arg(long, value_name = "FORM", value_parser = ["json"], default_value = "json")]
    format: String,
}

/// The platform that is asked for, or this machine's.
pub(crate) fn wanted_platform(text: Option<&str>) -> Result<Platform, CliError> {
    let texts: Vec<String> = text.iter().map(|t| (*t).to_owned()).collect();
    let mut parsed = platforms("--platform", &texts)?;
    match parsed.len() {
        0 => Ok(Platform::host()),
        1 => Ok(parsed.remove(0)),
        _ => Err(CliError::Usage(
            "--platform takes one platform here".to_owned(),
        )),
    }
}

/// Reads an image's documents from wherever it is.
pub(crate) fn documents(
    session: &Session,
    text: &str,
    platform: Option<&str>,
) -> Result<Documents, CliError> {
    let location = Location::parse("IMAGE", text)?;
    let source = medium::source(session, &location)?;
    read(source.as_ref(), &wanted_platform(platform)?)
}

/// Reads the documents of a source's image.
pub(crate) fn read(source: &dyn Source, platform: &Platform) -> Result<Documents, CliError> {
    Documents::read(source, platform).doing(|| format!("inspect {}", source.name()))
}

/// docker's report, with what an OCI image has beyond it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    /// Digest of the configuration.
    id: String,
    name: String,
    repo_tags: Vec<String>,
    /// Digest of the manifest.
    digest: String,
    media_type: String,
    created: Option<String>,
    author: Option<String>,
    architecture: String,
    variant: Option<String>,
    os: String,
    /// Of all blobs.
    size: u64,
    config: Value,
    #[serde(rename = "RootFS")]
    root_fs: Value,
    layers: Vec<Descriptor>,
    annotations: Value,
    /// All platforms of an index, and the index's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Value>,
}

fn report(documents: &Documents, tags: Vec<String>) -> Report {
    let (manifest, config) = (&documents.manifest, &documents.config);
    let layers: u64 = manifest.layers.iter().map(|l| l.size).sum();
    Report {
        id: manifest.config.digest.to_string(),
        name: documents.name.clone(),
        repo_tags: tags,
        digest: documents.descriptor.digest.to_string(),
        media_type: documents.descriptor.media_type.to_string(),
        created: config.created.clone(),
        author: config.author.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        size: layers + manifest.config.size + documents.descriptor.size,
        config: json!(config.config),
        root_fs: json!({ "Type": "layers", "Layers": config.rootfs.diff_ids }),
        layers: manifest.layers.clone(),
        annotations: json!(manifest.annotations),
        index: documents.index.as_ref().map(|index| {
            json!({
                "Digest": documents.root.digest,
                "Annotations": index.annotations,
                "Manifests": index.manifests,
            })
        }),
    }
}

impl InspectArgs {
    /// Runs `inspect`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let platform = wanted_platform(self.platform.as_deref())?;
        let mut reports = Vec::new();
        for text in &self.images {
            let location = Location::parse("IMAGE", text)?;
            let (source, tags): (Box<dyn Source>, _) = match &location {
                Location::Store(name) => {
                    let store = session.store()?;
                    let image = store.find(name).doing(|| format!("use {name}"))?;
                    let tags = image.names.iter().map(|n| n.familiar()).collect();
                    (Box::new(store.source(name, image.descriptor)), tags)
                }
                other => (medium::source(session, other)?, Vec::new()),
            };
            if self.raw {
                let doing = || format!("inspect {}", source.name());
                let root = source.root().doing(doing)?;
                print(source.manifest(&root).doing(doing)?)?;
                continue;
            }
            let documents = read(source.as_ref(), &platform)?;
            if self.config {
                print(&documents.config_bytes)?;
                continue;
            }
            reports.push(report(&documents, tags));
        }
        if self.raw || self.config {
            return Ok(());
        }
        print_json(&reports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_platform_or_this_machines() {
        assert_eq!(wanted_platform(None).unwrap(), Platform::host());
        let arm = wanted_platform(Some("linux/aarch64")).unwrap();
        assert_eq!(arm.to_string(), "linux/arm64");
        assert!(wanted_platform(Some("linux/amd64,linux/arm64")).is_err());
        assert!(wanted_platform(Some("lin/ux/a/b")).is_err());
    }
}
