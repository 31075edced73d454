//! What can go wrong with a layer.

use std::io;

/// A failure of this room; paths are shown with what is not UTF-8 replaced.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The kernel refused something about a path of the tree.
    #[error("cannot {action} /{path}")]
    File {
        /// What was tried: `open`, `create`, …
        action: &'static str,
        /// The path below the root.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The bytes of the layer could not be had: the reader failed, or they do not decompress.
    #[error("cannot read the archive after {offset_bytes} uncompressed bytes")]
    Input {
        /// How far it went.
        offset_bytes: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    Output(#[source] io::Error),
    /// The archive is malformed, or says something that is not to be done.
    #[error("bad archive at byte {offset_bytes}, entry {name:?}")]
    Archive {
        /// Where the entry's header starts in the uncompressed archive.
        offset_bytes: u64,
        /// The entry, as far as its name is known.
        name: String,
        /// What is wrong.
        #[source]
        fault: TarFault,
    },
    /// An entry cannot be put into an archive.
    #[error("cannot archive /{path}")]
    Unrepresentable {
        /// The entry's path.
        path: String,
        /// What is wrong.
        #[source]
        fault: TarFault,
    },
    /// The layer is larger than the caller allows.
    #[error("the layer unpacks to more than {limit_bytes} bytes")]
    Limit {
        /// What the caller allows.
        limit_bytes: u64,
    },
    /// A file was written to while its bytes were taken.
    #[error("/{path} changed while it was read: expected {expected_bytes} bytes")]
    Changed {
        /// The file.
        path: String,
        /// The length it had.
        expected_bytes: u64,
    },
    /// A hard link whose first name is in a lower layer, unpacked without the layers below.
    #[error("/{path} is a hard link to /{target}, which this layer does not hold")]
    LinkTarget {
        /// The link.
        path: String,
        /// The first name.
        target: String,
    },
    /// More symbolic links in one path than the kernel would follow.
    #[error("too many levels of symbolic links in /{path}")]
    Loop {
        /// The path that was resolved.
        path: String,
    },
    /// A path goes through something that is no directory.
    #[error("/{path} is not a directory")]
    NotDirectory {
        /// The part of the path that is none.
        path: String,
    },
    /// Bytes that are no table of contents of this version.
    #[error("bad table of contents: {0}")]
    Toc(&'static str),
    /// A compression level outside the compressor's range.
    #[error("compression level {level} of {codec} is out of range: expected {min} to {max}")]
    Level {
        /// Which compressor.
        codec: &'static str,
        /// What was asked for.
        level: i64,
        /// The lowest level.
        min: i64,
        /// The highest level.
        max: i64,
    },
}

/// What is wrong with an archive's entry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TarFault {
    /// The archive ends inside of it.
    #[error("the archive is truncated")]
    Truncated,
    /// The header's checksum does not match.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A numeric field holds no number, or one out of range.
    #[error("malformed or out of range: {0}")]
    Number(&'static str),
    /// An extended header breaks its grammar.
    #[error("malformed extended header")]
    Pax,
    /// An extended header or long name larger than any real one.
    #[error("{what} of {size_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// What the archive says.
        size_bytes: u64,
        /// What is allowed.
        limit_bytes: u64,
    },
    /// A name with `..` in it, which could lead outside.
    #[error("the name leads upwards: {0:?}")]
    Upwards(String),
    /// A name that no file system can hold.
    #[error("the name is empty, holds a NUL byte, or is longer than 4095 bytes")]
    Name,
    /// A link without a target.
    #[error("a link without a target")]
    NoTarget,
    /// The root itself is something else than a directory.
    #[error("the root is not a directory")]
    Root,
    /// A whiteout that names no file.
    #[error("a whiteout that names no file")]
    Whiteout,
    /// A type flag that means nothing here.
    #[error("unknown entry type {0:?}")]
    Type(char),
    /// A sparse map that is malformed or does not fit its file.
    #[error("malformed sparse map")]
    Sparse,
}

impl LayerError {
    /// A failed system call on `path`.
    pub(crate) fn file(
        action: &'static str,
        path: &[u8],
        source: impl Into<io::Error>,
    ) -> LayerError {
        LayerError::File {
            action,
            path: text(path),
            source: source.into(),
        }
    }
}

/// A path as people see it in messages.
pub(crate) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
