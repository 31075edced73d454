//! Changesets: what a layer holds, as streams and as trees.
//!
//! For: reading and writing layer tars (image-spec layer.md), compressing and inflating them, unpacking one into an overlay
//! lower directory, finding what an overlay upper directory changed, and the table of contents that answers questions about
//! a layer without opening it again.
//!
//! Concepts: an [`Entry`] is one path with its metadata; a [`Toc`] is a layer's entries, sorted by [`entry::path_order`]; a
//! [`Stack`] is what several tables say together, resolved as the kernel resolves an overlay; a [`Change`] is an entry and
//! where its bytes are, [`Changes`] are many of them, held as the table that they become; [`pack()`] turns them into a tar, its
//! diffID, a compressed blob and a `Toc` in one pass, and [`unpack()`] a blob into a tree and a `Toc`, [`scan()`] into a
//! `Toc` alone; [`diff()`] finds the changes of an overlay upper directory; a [`Root`] is the only way to a tree's files; a
//! [`FileStamp`] tells that a file is still what was hashed; [`Earlier`] and [`Twins`] have compressed blocks that are made no
//! second time.
//!
//! ```text
//! upper ─diff(Stack)─► Change… ─pack─► blob, Toc          blob ─unpack─► tree, Toc          Toc… ─► Stack ─► what is where
//!                                 └──► tree
//! ```
//!
//! Invariants: paths are bytes, relative, without `.`, `..`, empty parts or a slash at either end (the root is the empty
//! path); equal changes give equal bytes, whatever the clock, locale, umask, thread count, directory order or user; nothing
//! is ever written, read or followed outside the root it was told, whatever a tar or a tree holds.
//!
//! Concurrency: a `Toc` is immutable and shared; packing and unpacking use threads of their own, bounded, and give the same
//! bytes for any number of them.
//!
//! Does not know registries, names or builds, and mounts nothing.

mod blocks;
mod changes;
mod compare;
mod compress;
mod diff;
mod dirfd;
pub mod entry;
mod error;
mod leaks;
mod look;
mod pack;
mod pipe;
mod record;
mod records;
mod repack;
mod reuse;
mod root;
mod scan;
mod stack;
mod stamp;
pub mod tar;
mod toc;
mod tree;
mod twins;
mod unpack;

pub use changes::Changes;
pub use compare::{Difference, PathDifference, Stored, compare, content_difference};
pub use compress::{Compression, Decoder, Format, Level};
pub use diff::{DiffOptions, diff, remove_unchanged_directories};
pub use entry::{Change, Entry, Kind, Meta, Source};
pub use error::{LayerError, TarFault};
pub use leaks::{Form, Leak, MIN_SECRET_BYTES, Needles};
pub use pack::{Materialise, PackOptions, Packed, Times, pack, pack_after, pack_tree};
pub use record::{EntryRef, KindRef};
pub use records::Records as TocBuilder;
pub use repack::{Repacked, repack};
pub use reuse::{BlockTable, Earlier};
pub use root::{Root, open_beneath, open_file_read};
pub use scan::{Scanned, scan};
pub(crate) use stack::Spot;
pub use stack::{Found, Resolved, Stack};
pub use stamp::FileStamp;
pub(crate) use stamp::times;
pub use toc::Toc;
pub use tree::{Devices, Note, Ownership, TreeOptions, Whiteouts};
pub use twins::Twins;
pub use unpack::{Below, UnpackOptions, Unpacked, unpack};
