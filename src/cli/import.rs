//! `import`: a root filesystem in a tar becomes an image of one layer.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::sync::Arc;

use strata::dockerfile;
use strata::layer::tar::WhiteoutNames;
use strata::layer::{self, Change, Kind, PackOptions, Root, Source, UnpackOptions};
use strata::oci::{
    Descriptor, History, ImageConfig, Manifest, MediaType, Platform, Reference, to_pretty_json,
};
use strata::plan::{self, Resolve, ResolveError, ResolvedImage};
use strata::store::Store;

use super::error::{CliError, Doing as _};
use super::inspect::wanted_platform;
use super::output::{note, print_line};
use super::session::Session;
use super::values::reference;

/// The most that a root filesystem may unpack to: 1 TiB.
const MAX_BYTES: u64 = 1 << 40;

/// Make an image of a root filesystem
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata import rootfs.tar -t base
  mmdebstrap --variant=minbase bookworm - | strata import - -t debian:bookworm
  strata import https://example.org/rootfs.tar.xz -t base
  strata import rootfs.tar -t base --change 'CMD [\"/bin/sh\"]' --change 'ENV LANG=C.UTF-8'

The tar may be compressed with gzip, bzip2, xz or zstd.")]
pub(crate) struct ImportArgs {
    /// A file, `-` for standard input, or a URL
    #[arg(value_name = "ROOTFS.tar")]
    source: String,
    /// Name the image; may be repeated
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Apply a Dockerfile instruction to the configuration: CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, EXPOSE, VOLUME …
    #[arg(short = 'c', long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Say something in the history
    #[arg(short = 'm', long, value_name = "TEXT")]
    message: Option<String>,
    /// The platform that the files are for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

/// No image can be asked for: the base is always `scratch`.
struct NoImages;

/// Why an instruction of `--change` is refused.
#[derive(Debug, thiserror::Error)]
#[error("images cannot be used here")]
struct NoImage;

impl Resolve for NoImages {
    fn image(&self, name: &Reference, _: &Platform) -> Result<ResolvedImage, ResolveError> {
        Err(ResolveError {
            name: name.to_string(),
            hint: None,
            source: Box::new(NoImage),
        })
    }

    fn layout(
        &self,
        path: &std::path::Path,
        _: Option<&str>,
        _: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        Err(ResolveError {
            name: path.display().to_string(),
            hint: None,
            source: Box::new(NoImage),
        })
    }
}

/// The configuration that the instructions make of an empty image.
fn configuration(changes: &[String], platform: &Platform) -> Result<ImageConfig, CliError> {
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let bad = |why: String| CliError::Usage(format!("invalid --change: {why}"));
    let parsed = dockerfile::parse(&text).map_err(|errors| {
        bad(errors
            .first()
            .map_or_else(String::new, |e| e.message.clone()))
    })?;
    let options = plan::Options {
        platforms: vec![platform.clone()],
        ..plan::Options::default()
    };
    let mut graph =
        plan::lower(&parsed.dockerfile, &options, &NoImages).map_err(|e| bad(e.to_string()))?;
    if !graph.vertices.is_empty() || parsed.dockerfile.stages.len() != 1 {
        return Err(bad(
            "only instructions that change no file are possible".to_owned()
        ));
    }
    graph
        .outputs
        .pop()
        .map(|o| o.config)
        .ok_or_else(|| bad("nothing comes of it".to_owned()))
}

impl ImportArgs {
    /// Runs `import`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let platform = wanted_platform(self.platform.as_deref())?;
        let names = self
            .tags
            .iter()
            .map(|t| reference("--tag", t))
            .collect::<Result<Vec<_>, _>>()?;
        let config = configuration(&self.changes, &platform)?;
        let stream = self.open()?;
        let store = session.store()?;
        let root = self.image(&store, stream, config)?;
        if names.is_empty() {
            store
                .keep(&root)
                .doing(|| format!("keep {}", root.digest))?;
        }
        for name in &names {
            store
                .tag(name, &root)
                .doing(|| format!("name the image {}", name.familiar()))?;
        }
        print_line(&root.digest.to_string())
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, CliError> {
        let doing = || format!("read {}", self.source);
        match self.source.as_str() {
            "-" if io::stdin().is_terminal() => Err(CliError::Usage(
                "standard input is a terminal: give a file, or send a tar".to_owned(),
            )),
            "-" => Ok(Box::new(io::stdin())),
            url if url.starts_with("http://") || url.starts_with("https://") => {
                let answer = ureq::get(url).call().doing(doing)?;
                Ok(Box::new(answer.into_body().into_reader()))
            }
            path => Ok(Box::new(File::open(path).doing(doing)?)),
        }
    }

    /// Stores the layer, its unpacked form (the first build on it needs that), the configuration and the manifest.
    fn image(
        &self,
        store: &Store,
        stream: Box<dyn Read + Send>,
        mut config: ImageConfig,
    ) -> Result<Descriptor, CliError> {
        let doing = || format!("import {}", self.source);
        let work = store.work().doing(doing)?;
        let folder = work.directory("fs").doing(doing)?;
        let options = UnpackOptions {
            tree: store.tree_options(),
            // A file tree is no layer: a file named .wh.x is a file.
            names: WhiteoutNames::Literal,
            limit_bytes: MAX_BYTES,
            below: None,
        };
        let root = Root::open(&folder).doing(doing)?;
        let unpacked = layer::unpack(stream, &root, &options).doing(doing)?;
        if unpacked.toc.is_empty() {
            return Err(CliError::Refused(format!(
                "cannot import {}: it holds no files",
                self.source
            )));
        }
        for text in &unpacked.notes {
            note(&format!("note: {text}"));
        }
        let mut blob = store.ingest().doing(doing)?;
        let packed = layer::pack(
            changes(&unpacked.toc, &root),
            &mut blob,
            &PackOptions::default(),
            None,
        )
        .doing(doing)?;
        let blob = blob.commit(None).doing(doing)?;
        let layer = Descriptor::new(packed.media_type.clone(), blob.digest, blob.size);
        store
            .publish_layer(&folder, packed.toc, &packed.diff_id)
            .doing(doing)?;
        store.add_blob_of(&packed.diff_id, &layer).doing(doing)?;

        let created = now();
        config.created = Some(created.clone());
        config.rootfs.diff_ids = vec![packed.diff_id];
        config.history = vec![History {
            created: Some(created),
            created_by: Some(created_by(&self.source)),
            comment: self.message.clone(),
            ..History::default()
        }];
        let config = store
            .put_bytes(MediaType::OciConfig, &config.to_bytes())
            .doing(doing)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers: vec![layer],
            subject: None,
            annotations: Default::default(),
        };
        store
            .put_bytes(MediaType::OciManifest, &to_pretty_json(&manifest))
            .doing(doing)
    }
}

/// Everything of a tree as changes to nothing. Device nodes come from the table: an ordinary user cannot make them, and the layer
/// has them all the same. Parents that the tar left out get a header, so that the layer leans on nothing.
fn changes(toc: &layer::Toc, root: &Root) -> layer::Changes {
    toc.entries()
        .filter(|e| !e.path.is_empty())
        .map(|mut entry| {
            if let Kind::Directory { implied, .. } = &mut entry.kind {
                *implied = false;
            }
            let source = match entry.kind {
                Kind::File { .. } => Source::File {
                    root: Arc::clone(root.fd()),
                    path: entry.path.clone(),
                    stamp: None,
                },
                _ => Source::None,
            };
            Change { entry, source }
        })
        .collect()
}

/// What the history says: the file's name, not the folders of the machine that it was on.
fn created_by(source: &str) -> String {
    let name = source.rsplit('/').find(|n| !n.is_empty());
    format!("strata import {}", name.unwrap_or(source))
}

/// The time of the result: `SOURCE_DATE_EPOCH`, else now; RFC 3339.
fn now() -> String {
    std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|t| t.parse().ok())
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .unwrap_or_else(jiff::Timestamp::now)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_become_a_configuration() {
        let changes = [
            "CMD [\"/bin/sh\"]",
            "ENV A=b",
            "LABEL k=v",
            "USER 1:2",
            "WORKDIR /",
            "EXPOSE 80",
        ]
        .map(str::to_owned);
        let config = configuration(&changes, &Platform::host()).unwrap();
        assert_eq!(config.config.cmd, Some(vec!["/bin/sh".to_owned()]));
        assert!(config.config.env.contains(&"A=b".to_owned()));
        assert_eq!(config.config.user, "1:2");
        assert_eq!(config.config.labels["k"], "v");
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
    }

    #[test]
    fn the_history_tells_nothing_of_the_host() {
        for (source, said) in [
            ("rootfs.tar", "strata import rootfs.tar"),
            ("/home/me/secret/rootfs.tar", "strata import rootfs.tar"),
            (
                "https://me:word@example.org/a/b.tar.xz",
                "strata import b.tar.xz",
            ),
            ("-", "strata import -"),
        ] {
            assert_eq!(created_by(source), said);
        }
    }

    #[test]
    fn what_changes_files_is_refused() {
        for change in [
            "RUN true",
            "COPY a b",
            "FROM busybox",
            "NONSENSE",
            "WORKDIR /x",
        ] {
            let error = configuration(&[change.to_owned()], &Platform::host());
            assert!(
                matches!(error, Err(CliError::Usage(_))),
                "{change}: {error:?}"
            );
        }
    }
}
