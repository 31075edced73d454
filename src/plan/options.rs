//! What a plan needs besides the Dockerfile: the command line's choices, and images' configurations.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use crate::dockerfile::ast::Network;
use crate::dockerfile::ignore::Ignore;
use crate::oci::{Descriptor, ImageConfig, Platform, Reference};

/// A limit of resources (getrlimit(2)); the largest number is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ulimit {
    /// As shells and docker know it: `nofile`.
    pub name: String,
    /// What counts.
    pub soft: u64,
    /// How far a process may raise it.
    pub hard: u64,
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, self.soft, self.hard)
    }
}

/// The choices of the command line that change the plan.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How messages and history call the file: `Dockerfile`.
    pub dockerfile_name: String,
    /// `--target`: a stage's name or number.
    pub target: Option<String>,
    /// `--build-arg`, with values.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, applied last.
    pub labels: BTreeMap<String, String>,
    /// `--build-context NAME=…`, by lower-cased name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--platform`; empty for the host's.
    pub platforms: Vec<Platform>,
    /// `--no-cache`
    pub no_cache: bool,
    /// `--no-cache-filter`: stage names.
    pub no_cache_filter: Vec<String>,
    /// `--network`
    pub network: Option<Network>,
    /// `--add-host`: name and address, in order.
    pub add_hosts: Vec<(String, String)>,
    /// `--ulimit`
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size`, bytes.
    pub shm_size_bytes: Option<u64>,
    /// `--allow`
    pub entitlements: Vec<String>,
    /// Every stage is planned where no target is named: a check looks at all of them.
    pub all_stages: bool,
    /// What the build context leaves out, so that a COPY of it can be warned of.
    pub ignore: Option<Ignore>,
}

/// What `--build-context NAME=VALUE` points to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NamedContext {
    /// A folder.
    Local(PathBuf),
    /// `docker-image://REF`
    Image(Reference),
    /// `oci-layout://PATH[:TAG][@DIGEST]`: the path and what follows it.
    Layout {
        /// The layout's folder.
        path: PathBuf,
        /// A tag or a digest; none for the only image.
        reference: Option<String>,
    },
    /// A git URL with `#ref:subdir`.
    Git(String),
    /// An archive by http or https.
    Http(String),
}

/// An image that was found.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolvedImage {
    /// What was asked for, for messages: `docker.io/library/debian:bookworm`, `oci-layout://lay`.
    pub name: String,
    /// The manifest.
    pub manifest: Descriptor,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers' blobs, bottom first, as many as `config.rootfs.diff_ids`.
    pub layers: Vec<Descriptor>,
}

/// Why an image could not be had; the message of the source is shown to the user.
#[derive(Debug, thiserror::Error)]
#[error("{name}")]
pub struct ResolveError {
    /// What was asked for.
    pub name: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
    /// Why not.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Finds images. `Ok` means: the manifest and configuration were read and verified; layers need not be there yet.
pub trait Resolve: Sync {
    /// An image of a registry (or of the store).
    fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError>;

    /// An image of a layout on disk.
    fn layout(
        &self,
        path: &std::path::Path,
        reference: Option<&str>,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError>;
}
