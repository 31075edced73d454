//! The distribution protocol: images from and to registries.
//!
//! For: a client for distribution-spec 1.1 ([`Client`]), its authentication (basic, bearer tokens, credential files and
//! helpers), and registries as a [`crate::image::Source`] and a [`crate::image::Sink`].
//!
//! Invariants: every body is bounded, and verified against its digest while it streams; a credential goes to the host it is
//! for and is in no message, log or error; an answer of a registry is data to be checked, never trusted for its length, its
//! type or its redirects.
//!
//! Concurrency: one client serves many threads and keeps its connections and tokens; blocking, no async runtime.
//!
//! Knows no store and no build.

mod auth;
mod challenge;
mod client;
mod credentials;
mod download;
mod error;
mod exchange;
mod helper;
mod network;
mod remote;
mod secret;
#[cfg(test)]
mod tests;
mod upload;

pub use client::{Client, ClientOptions};
pub use credentials::{CredentialError, Credentials};
pub use error::RegistryError;
pub use network::Proxies;
pub use remote::Remote;
pub use secret::{Login, Secret};
