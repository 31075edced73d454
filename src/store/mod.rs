//! What many strata processes share: blobs, names, unpacked layers, the build cache, and their end.
//!
//! ```text
//! <root>/                    an OCI image layout (image-spec image-layout.md), read in place by other tools
//!   oci-layout index.json    every named image; org.opencontainers.image.ref.name = its full reference
//!   blobs/sha256/<hex>       manifests, configs, layers as they are pushed and pulled
//!   layers/<hex>/            by diffID (by chainID where a layer leans on those below it)
//!     fs/                    the unpacked changeset, an overlay lower directory, immutable
//!     toc                    its table of contents
//!   cache/records/<key>      build cache: key ► layer, with the labelled inputs of the key
//!   cache/blobs/<diffID>     which blobs hold a layer, and which repositories have them
//!   cache/files              what the contents of context files hash to, by device, inode, size and times
//!   mounts/<id>/             RUN --mount=type=cache directories
//!   work/<name>/             what a running process is writing; locked while it lives
//!   lock gate                see Concurrency
//!   strata.json              format version
//! ```
//!
//! Invariants: a blob's name is its digest and its bytes were verified when it was written; `layers/<id>` appears whole, by
//! one rename, and is never written to again; `index.json` is replaced whole; a name appears after everything it needs is on
//! disk. Power loss or `kill -9` at any instant leaves a store that [`check`] calls clean, save for files in `work/` that the
//! next process removes.
//!
//! Concurrency: whoever uses the store holds `lock` shared ([`Store::open`]); [`gc`] takes it exclusively, behind `gate`, so
//! that it is not starved and waits for running builds. `index.json` changes under its own lock. One key is built once:
//! [`cache`] has a lock for each key, which dies with its holder.
//!
//! Knows no Dockerfile and no registry.
