//! The plan of any Dockerfile that parses: the same each time, in topological order, and blaming places that are there.

use std::path::{Path, PathBuf};

use strata::dockerfile::parse;
use strata::oci::{Descriptor, DiffId, Digest, ImageConfig, MediaType, Platform, Reference};
use strata::plan::{NamedContext, Options, Resolve, ResolveError, ResolvedImage, VertexId, lower};

use super::places;

/// `data` is a Dockerfile, then settings, each after a NUL: `arg NAME=VALUE`, `target NAME`, `platform P`, `context NAME`,
/// `image NAME REFERENCE`, `label NAME=VALUE`, and `onbuild TRIGGER`, which every image then has.
pub(crate) fn check(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let text = parts.next().unwrap_or_default();
    let Ok(parsed) = parse(&text) else {
        return;
    };
    let mut options = Options {
        dockerfile_name: "Dockerfile".to_owned(),
        platforms: vec![Platform::new("linux", "amd64", None)],
        ..Options::default()
    };
    let mut images = Images::default();
    for setting in parts {
        let Some((word, rest)) = setting.split_once(' ') else {
            continue;
        };
        let pair = rest
            .split_once('=')
            .map(|(a, b)| (a.to_owned(), b.to_owned()));
        match word {
            "arg" => options.build_args.extend(pair),
            "label" => options.labels.extend(pair),
            "target" => options.target = Some(rest.to_owned()),
            "platform" => options.platforms.extend(rest.parse::<Platform>()),
            "context" => {
                let folder = NamedContext::Local(PathBuf::from("/context"));
                options.contexts.insert(rest.to_lowercase(), folder);
            }
            "image" => {
                if let Some((name, reference)) = rest.split_once(' ')
                    && let Ok(reference) = reference.parse()
                {
                    let image = NamedContext::Image(reference);
                    options.contexts.insert(name.to_lowercase(), image);
                }
            }
            "onbuild" => images.triggers.push(rest.to_owned()),
            _ => {}
        }
    }
    let read = lower(&parsed.dockerfile, &options, &images);
    let again = lower(&parsed.dockerfile, &options, &images);
    match (read, again) {
        (Ok(graph), Ok(again)) => {
            assert_eq!(graph, again, "equal input gives equal plans");
            assert_eq!(graph.to_string(), again.to_string());
            for index in 0..graph.vertices.len() {
                let inputs = graph.inputs(VertexId(index));
                assert!(
                    inputs.iter().all(|input| input.0 < index),
                    "inputs come before"
                );
            }
            let there =
                |vertex: Option<VertexId>| vertex.is_none_or(|v| v.0 < graph.vertices.len());
            assert!(!graph.outputs.is_empty());
            for output in &graph.outputs {
                assert!(there(output.vertex));
                assert!(output.history.iter().all(|step| there(step.vertex)));
            }
            for warning in &graph.warnings {
                places::diagnostic(&text, warning);
            }
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.to_string(), again.to_string());
            if let Some(diagnostic) = error.diagnostic() {
                places::diagnostic(&text, &diagnostic);
            }
        }
        (one, other) => panic!("{one:?} and {other:?} for the same input"),
    }
}

/// Every image is there, but those that are called so.
#[derive(Default)]
struct Images {
    triggers: Vec<String>,
}

impl Images {
    fn find(&self, name: String, platform: &Platform) -> Result<ResolvedImage, ResolveError> {
        if name.contains("missing") {
            let source = "not found".into();
            return Err(ResolveError {
                name,
                hint: None,
                source,
            });
        }
        let mut config = ImageConfig::scratch(platform);
        config.config.env = vec!["PATH=/bin".to_owned(), "BASE=1".to_owned()];
        config.config.on_build = self.triggers.clone();
        let layer = Digest::of(name.as_bytes());
        config.rootfs.diff_ids = vec![DiffId(layer)];
        Ok(ResolvedImage {
            manifest: Descriptor::of(MediaType::OciManifest, name.as_bytes()),
            layers: vec![Descriptor::new(MediaType::OciLayerGzip, layer, 1)],
            config,
            name,
        })
    }
}

impl Resolve for Images {
    fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        self.find(reference.to_string(), platform)
    }

    fn layout(
        &self,
        path: &Path,
        reference: Option<&str>,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let name = format!("{} {}", path.display(), reference.unwrap_or_default());
        self.find(name, platform)
    }
}
