//! What the room's tests stand on: images that exist only as configurations.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use crate::dockerfile;
use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, MediaType, Platform, Reference};

use super::options::{Options, Resolve, ResolveError, ResolvedImage};
use super::{Graph, PlanError, lower};

/// Images by `REPOSITORY` or `ARCHITECTURE REPOSITORY`, and what was asked for.
pub(super) struct Fake {
    images: BTreeMap<String, ImageConfig>,
    pub(super) asked: Mutex<Vec<String>>,
}

#[derive(Debug, thiserror::Error)]
#[error("not found")]
struct NotFound;

impl Fake {
    /// The images that most tests need.
    pub(super) fn new() -> Fake {
        let mut fake = Fake {
            images: BTreeMap::new(),
            asked: Mutex::default(),
        };
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let settings = [
            (
                "busybox",
                1,
                format!(r#"{{"Env":["{path}"],"Cmd":["sh"]}}"#),
            ),
            ("no-path", 1, "{}".to_owned()),
            ("empty", 0, "{}".to_owned()),
            (
                "onbuild",
                1,
                format!(
                    r#"{{"Env":["{path}"],"OnBuild":["RUN first","COPY --from=assets /a /b","ENV TRIGGERED=yes","WORKDIR /onbuild"]}}"#
                ),
            ),
            (
                "config",
                2,
                format!(
                    r#"{{"User":"app","Env":["{path}","BASE=1"],"Entrypoint":["/bin/sh","-c"],"Cmd":["echo base"],
                    "WorkingDir":"/srv/home","Labels":{{"base":"yes"}},"Shell":["/bin/sh","-ec"]}}"#
                ),
            ),
        ];
        for (name, layers, config) in settings {
            fake.add(
                name,
                &Platform::new("linux", "amd64", None),
                layers,
                &config,
            );
        }
        for arch in ["amd64", "arm64"] {
            let config = format!(r#"{{"Env":["{path}","BASE_ARCH={arch}"]}}"#);
            fake.add("multi", &Platform::new("linux", arch, None), 1, &config);
        }
        fake
    }

    /// Adds an image of `layers` layers with docker's JSON of a configuration.
    pub(super) fn add(&mut self, name: &str, platform: &Platform, layers: usize, config: &str) {
        let mut image = ImageConfig::scratch(platform);
        image.config = serde_json::from_str(config).unwrap();
        image.author = (name == "config").then(|| "fixture author".to_owned());
        image.rootfs.diff_ids = (0..layers)
            .map(|i| DiffId(Digest::of(format!("{name} {platform} {i}").as_bytes())))
            .collect();
        let key = match name {
            "multi" => format!("{} {name}", platform.architecture),
            name => name.to_owned(),
        };
        self.images.insert(key, image);
    }

    fn find(
        &self,
        name: &str,
        short: &str,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("{name} {platform}"));
        let by_arch = format!("{} {short}", platform.architecture);
        let Some(config) = self.images.get(&by_arch).or(self.images.get(short)) else {
            return Err(ResolveError {
                name: name.to_owned(),
                hint: None,
                source: Box::new(NotFound),
            });
        };
        let descriptor = |what: String| Descriptor::of(MediaType::OciManifest, what.as_bytes());
        Ok(ResolvedImage {
            name: name.to_owned(),
            manifest: descriptor(format!("{short} {}", config.platform())),
            config: config.clone(),
            layers: config
                .rootfs
                .diff_ids
                .iter()
                .map(|id| descriptor(id.0.to_string()))
                .collect(),
        })
    }
}

impl Resolve for Fake {
    fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let repository = reference.repository();
        let short = repository.strip_prefix("library/").unwrap_or(repository);
        self.find(&reference.to_string(), short, platform)
    }

    fn layout(
        &self,
        path: &Path,
        reference: Option<&str>,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let name = format!("oci-layout://{}", path.display());
        self.find(&name, reference.unwrap_or("busybox"), platform)
    }
}

/// Options for amd64, wherever the tests run.
pub(super) fn options() -> Options {
    Options {
        dockerfile_name: "Dockerfile".to_owned(),
        platforms: vec![Platform::new("linux", "amd64", None)],
        ..Options::default()
    }
}

/// The plan of a text that parses.
pub(super) fn plan(text: &str, options: &Options) -> Result<Graph, PlanError> {
    let parsed = dockerfile::parse(text).unwrap();
    lower(&parsed.dockerfile, options, &Fake::new())
}

/// The plan as text, digests cut to `@`.
pub(super) fn printed(text: &str, options: &Options) -> String {
    let text = match plan(text, options) {
        Ok(graph) => graph.to_string(),
        Err(error) => error
            .diagnostic()
            .map_or_else(|| error.to_string(), |d| d.message),
    };
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("@sha256:") {
        out.push_str(&rest[..=at]);
        rest = &rest[at + "@sha256:".len() + 64..];
    }
    out.push_str(rest);
    out
}
