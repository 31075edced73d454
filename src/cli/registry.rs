//! Registries as the commands use them: one client for the process, with the flags that concern it.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use strata::image::{ImageError, Put, Sink, Source};
use strata::oci::{Descriptor, Digest, Reference};
use strata::registry::{Client, ClientOptions, Remote};
use strata::store::Store;

use super::error::{BoxError, CliError};
use super::session::Session;

/// The flags of every command that talks to registries.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct RegistryArgs {
    /// Trust this CA certificate, or the folder's, for registries; may be repeated
    #[arg(
        long = "tls-ca",
        global = true,
        value_name = "PEM",
        hide_short_help = true
    )]
    tls_ca: Vec<PathBuf>,
    /// Talk to this registry without checking its certificate, or without TLS; loopback needs no flag
    #[arg(
        long = "insecure-registry",
        global = true,
        value_name = "HOST[:PORT]",
        hide_short_help = true
    )]
    insecure: Vec<String>,
}

impl RegistryArgs {
    /// A client with these flags and the environment's proxies and credentials.
    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::new(Client::new(ClientOptions {
            insecure: self.insecure.clone(),
            certificates: self.tls_ca.clone(),
            user_agent: concat!("strata/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..ClientOptions::from_env()
        }))
    }
}

/// An image of a registry, to be shared by threads.
pub(crate) fn remote(
    session: &Session,
    reference: &Reference,
) -> Result<Arc<dyn Source + Send + Sync>, BoxError> {
    Ok(Arc::new(session.client().remote(reference)))
}

/// An image of a registry, to be read.
pub(crate) fn source(
    session: &Session,
    reference: &Reference,
) -> Result<Box<dyn Source>, CliError> {
    Ok(Box::new(session.client().remote(reference)))
}

/// A name on a registry, to be written. Blobs that the store knows from another repository of that registry are mounted from there.
pub(crate) fn sink(session: &Session, reference: &Reference) -> Result<Box<dyn Sink>, CliError> {
    Ok(Box::new(MountingSink {
        remote: session.client().remote(reference),
        reference: reference.clone(),
        store: session.store_if_there()?,
    }))
}

/// A registry that is offered the repositories the store remembers.
struct MountingSink {
    remote: Remote,
    reference: Reference,
    store: Option<Store>,
}

impl MountingSink {
    /// Repositories of the same registry that have a blob, the newest first.
    fn origins(&self, digest: &Digest) -> Vec<Reference> {
        // What cannot be read here costs an upload, nothing else.
        let known = self.store.as_ref().and_then(|s| s.origins(digest).ok());
        let mut origins: Vec<Reference> = known
            .unwrap_or_default()
            .iter()
            .filter_map(|o| o.parse().ok())
            .filter(|o: &Reference| {
                o.registry() == self.reference.registry()
                    && o.repository() != self.reference.repository()
            })
            .collect();
        origins.reverse();
        origins
    }

    /// Remembers that the repository has a blob now.
    fn note(&self, descriptor: &Descriptor) {
        let repository = format!(
            "{}/{}",
            self.reference.registry(),
            self.reference.repository()
        );
        if let Some(store) = &self.store
            && store.has_blob(descriptor)
            && let Err(error) = store.add_origin(&descriptor.digest, &repository)
        {
            tracing::warn!(%error, digest = %descriptor.digest, "cannot note where a blob is");
        }
    }
}

impl Sink for MountingSink {
    fn name(&self) -> String {
        self.remote_name()
    }

    fn reuse(
        &self,
        descriptor: &Descriptor,
        origin: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError> {
        let known = self.origins(&descriptor.digest);
        let put = self.remote.reuse(descriptor, origin.or(known.first()))?;
        if put.is_some() {
            self.note(descriptor);
        }
        Ok(put)
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        self.remote.put_blob(descriptor, open)?;
        self.note(descriptor);
        Ok(())
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        self.remote.put_manifest(descriptor, bytes)
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        self.remote.finish(root)
    }

    fn ordered(&self) -> bool {
        self.remote.ordered()
    }

    fn current(&self) -> Result<Option<Digest>, ImageError> {
        self.remote.current()
    }
}

impl MountingSink {
    fn remote_name(&self) -> String {
        Sink::name(&self.remote)
    }
}
