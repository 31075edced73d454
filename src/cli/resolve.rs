//! Base images for a build: from the store where a name is there, else from their registry.
//!
//! A tag that is no name of the store is asked for at its registry in each build, as docker does; what was found is remembered for the
//! length of the build. Manifests and configurations go into the store at once, layers when a step needs them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use strata::build::{EventKind, Events, Fetch, StepId};
use strata::dockerfile::with_causes;
use strata::image::layout::Layout;
use strata::image::{ImageError, Source, check_config, read_verified, resolve};
use strata::oci::{Digest, Platform, Reference};
use strata::plan::{Resolve, ResolveError, ResolvedImage};
use strata::registry::RegistryError;
use strata::store::Store;

use super::error::{BoxError, CliError};
use super::session::Session;

/// A place of an image that several threads read.
type SharedSource = Arc<dyn Source + Send + Sync>;

/// Steps that are no vertices of a graph are counted from here, past any real one.
pub(crate) const FIRST_STEP: usize = 1 << 40;

/// The largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Finds images and brings their layers.
pub(crate) struct Images<'a> {
    session: &'a Session,
    store: &'a Store,
    events: &'a dyn Events,
    /// `--pull`: names of the store do not count.
    pull: bool,
    found: Mutex<BTreeMap<(String, Platform), ResolvedImage>>,
    /// Where the layers of a manifest come from.
    sources: Mutex<BTreeMap<Digest, SharedSource>>,
    next_step: AtomicUsize,
}

/// A configuration that is too large to be one.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is said to have {0} bytes, at most {MAX_CONFIG_BYTES} are read")]
struct ConfigTooLarge(u64);

/// An image of which nobody knows where it came from.
#[derive(Debug, thiserror::Error)]
#[error("blob {0} is not in the store, and the image has no other place")]
struct NoSource(Digest);

impl<'a> Images<'a> {
    /// Images for one build.
    pub(crate) fn new(
        session: &'a Session,
        store: &'a Store,
        events: &'a dyn Events,
        pull: bool,
    ) -> Images<'a> {
        Images {
            session,
            store,
            events,
            pull,
            found: Mutex::default(),
            sources: Mutex::default(),
            next_step: AtomicUsize::new(FIRST_STEP),
        }
    }

    /// Tells of a step of its own while `work` runs.
    pub(crate) fn step<T>(
        &self,
        name: String,
        work: impl FnOnce() -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        self.step_saying(name, |e| with_causes(e), work)
    }

    /// The same, where `say` puts the error into words.
    fn step_saying<T, E>(
        &self,
        name: String,
        say: impl FnOnce(&E) -> String,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let step = StepId(self.next_step.fetch_add(1, Ordering::Relaxed));
        self.events.event(EventKind::Started { step, name });
        let result = work();
        self.events.event(match &result {
            Ok(_) => EventKind::Finished {
                step,
                cached: false,
            },
            Err(error) => EventKind::Failed {
                step,
                message: say(error),
            },
        });
        result
    }

    /// The image in `source`, for a platform; its documents are in the store then.
    fn read(
        &self,
        name: &str,
        source: SharedSource,
        platform: &Platform,
    ) -> Result<ResolvedImage, BoxError> {
        let root = source.root()?;
        let resolved = resolve(source.as_ref(), &root, platform)?;
        let config = &resolved.manifest.config;
        if config.size > MAX_CONFIG_BYTES {
            return Err(Box::new(ConfigTooLarge(config.size)));
        }
        let bytes = if self.store.has_blob(config) {
            self.store.read_blob(config)?
        } else {
            read_verified(source.blob(config)?, config)?
        };
        let parsed = check_config(&resolved.manifest, &bytes)?;
        self.store.put_bytes(config.media_type.clone(), &bytes)?;
        self.store
            .put_bytes(resolved.descriptor.media_type.clone(), &resolved.bytes)?;
        self.sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(resolved.descriptor.digest, source);
        Ok(ResolvedImage {
            name: name.to_owned(),
            manifest: resolved.descriptor,
            config: parsed,
            layers: resolved.manifest.layers,
        })
    }

    /// Looks an image up once a build.
    fn once(
        &self,
        name: String,
        platform: &Platform,
        find: impl FnOnce(&str) -> Result<ResolvedImage, BoxError>,
    ) -> Result<ResolvedImage, ResolveError> {
        let key = (name.clone(), platform.clone());
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = known.get(&key) {
            return Ok(image.clone());
        }
        drop(known);
        let shown = format!("[internal] load metadata for {name}");
        let image = self
            .step_saying(
                shown,
                |e: &BoxError| with_causes(e.as_ref()),
                || find(&name),
            )
            .map_err(|source| ResolveError {
                name: name.clone(),
                hint: None,
                source,
            })?;
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, image.clone());
        Ok(image)
    }
}

impl Resolve for Images<'_> {
    fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let found = self.once(reference.to_string(), platform, |name| {
            if !self.pull
                && let Some(root) = self.store.resolve(reference)?
            {
                let local = self.store.source(name, root);
                match self.read(name, Arc::new(local), platform) {
                    Ok(image) => return Ok(image),
                    // The name is there, but not for this platform: the registry may have it. A reference that pins what
                    // is here cannot become another thing there.
                    Err(error) => {
                        let remote = super::registry::remote(self.session, reference)
                            .and_then(|r| self.read(name, r, platform));
                        return remote.map_err(|_| error);
                    }
                }
            }
            let remote = super::registry::remote(self.session, reference)?;
            self.read(name, remote, platform)
        });
        found.map_err(|mut error| {
            error.hint = registry_hint(error.source.as_ref());
            if self.pull && matches!(self.store.resolve(reference), Ok(Some(_))) {
                error.hint = Some("the store has it: build without --pull".to_owned());
            }
            error
        })
    }

    fn layout(
        &self,
        path: &Path,
        reference: Option<&str>,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let mark = match reference {
            None => String::new(),
            Some(digest) if digest.starts_with("sha256:") => format!("@{digest}"),
            Some(tag) => format!(":{tag}"),
        };
        let name = format!("oci-layout://{}{mark}", path.display());
        self.once(name, platform, |name| {
            let layout = Layout::open(path, reference)?;
            self.read(name, Arc::new(layout), platform)
        })
    }
}

impl Fetch for Images<'_> {
    fn layer(
        &self,
        image: &ResolvedImage,
        index: usize,
        unpack: bool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), BoxError> {
        let layer = &image.layers[index];
        if self.store.has_blob(layer) {
            return Ok(());
        }
        let source = self
            .sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&image.manifest.digest)
            .cloned()
            .ok_or(NoSource(layer.digest))?;
        let on_wait = || self.events.event(super::transfer::waiting(&layer.digest));
        let cancel = self.session.cancel();
        let _alone = self.store.blob_lock(&layer.digest, cancel, &on_wait)?;
        if self.store.has_blob(layer) {
            return Ok(());
        }
        let stream = Counted {
            inner: source.unverified_blob(layer)?,
            done_bytes: 0,
            progress,
            session: self.session,
        };
        if unpack && layer.media_type.is_layer() {
            self.store.put_layer(layer, stream)?;
        } else {
            self.store.put_stream(layer, stream)?;
        }
        if let Some(origin) = source.origin() {
            let repository = format!("{}/{}", origin.registry(), origin.repository());
            self.store.add_origin(&layer.digest, &repository)?;
        }
        Ok(())
    }
}

/// What to do about an image that a registry does not give.
fn registry_hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(ImageError::NotFound { medium: host, .. }) = error.downcast_ref() {
            return Some(format!(
                "look at the name and the tag; a private repository needs strata login {host} first"
            ));
        }
        match error.downcast_ref::<RegistryError>() {
            Some(RegistryError::NotFound { host, .. }) => {
                return Some(format!(
                    "look at the name and the tag; a private repository needs strata login {host} first"
                ));
            }
            Some(RegistryError::Denied { repository, .. }) => {
                let host = repository.split('/').next().unwrap_or(repository);
                return Some(format!(
                    "look at the name; if it is right, strata login {host} first"
                ));
            }
            _ => cause = error.source(),
        }
    }
    None
}

/// A stream that tells how far it is, and ends when the user wants it to.
struct Counted<'a, R> {
    inner: R,
    done_bytes: u64,
    progress: &'a (dyn Fn(u64) + Sync),
    session: &'a Session,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.session.is_canceled() {
            return Err(io::Error::other("canceled"));
        }
        let n = self.inner.read(buffer)?;
        self.done_bytes += n as u64;
        (self.progress)(self.done_bytes);
        Ok(n)
    }
}
