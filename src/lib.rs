//! strata builds OCI images from Dockerfiles and keeps them in a layered, content-addressed store.
//!
//! ```text
//! Dockerfile text
//!   │ dockerfile::lexer        logical lines, each with its span
//!   │ dockerfile::parser       typed instructions, words still unexpanded
//!   ▼
//! plan::lower                  ARG/ENV scopes applied, bases resolved, unreachable stages dropped
//!   ▼
//! plan::Graph                  vertices and edges; pure data
//!   ▼
//! build::engine                ready vertices in parallel; equal vertices once
//!   │ build::key               cache key ──hit──► store::cache ► committed layer
//!   │ build::run               on a miss: RUN in a sandbox over an overlay; its upper directory is the layer
//!   │ build::transfer          on a miss: COPY, ADD, WORKDIR; a layer drafted over the tables of those below
//!   ▼
//! commit (in build::engine)    layer::diff ► layer::pack ► store::blobs   while the next step runs
//!   ▼
//! build::assemble              config, history, manifest ► blobs in the store; the command line names them
//!   ▼
//! image::copy                  store ► image layout | archive | registry, and back
//!
//! store ──read only──► inspect ► report (plain data) ► cli renders text or JSON
//! ```
//!
//! Where a lower room needs a higher one, it owns a trait that the higher one fulfils: [`plan::Resolve`] (a reference to a
//! configuration), [`image::Source`] and [`image::Sink`] (any medium), [`build::Fetch`] (a base's layers), and the
//! [`build::Event`]s that the command line shows.
//!
//! A room imports only rooms on lower floors; `tests/` holds the sources against that table:
//!
//! | floor | rooms |
//! |---|---|
//! | 0 | [`oci`], [`dockerfile`], [`sandbox`] |
//! | 1 | [`layer`], [`plan`] |
//! | 2 | [`image`] |
//! | 3 | [`registry`], [`store`] |
//! | 4 | [`build`], [`inspect`] |
//! | 5 | `cli`, a module of the binary |

pub mod build;
pub mod dockerfile;
pub mod image;
pub mod inspect;
pub mod layer;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod sandbox;
pub mod store;
