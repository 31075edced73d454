//! How a tree is to be written, and what of it could not be had.

use std::{fmt, io};

use super::super::error::text;

/// How owners are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// As the files' own (root, or a user namespace with ranges of ids).
    Real,
    /// In the attribute `user.strata.owner` of files and directories; for a user with a single id.
    Xattr,
}

/// What becomes of whiteouts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whiteouts {
    /// An overlay lower directory for mounts by root: char 0:0 and `trusted.overlay.opaque`.
    OverlayTrusted,
    /// An overlay lower directory for mounts with `userxattr`: char 0:0 and `user.overlay.opaque`.
    OverlayUser,
    /// They remove what earlier layers left: the tree becomes a plain root file system.
    Apply,
}

/// What becomes of device nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Devices {
    /// They are made.
    Create,
    /// They are left out, with a note: nobody but root may make them.
    Skip,
}

/// How a tree is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeOptions {
    /// How owners are kept.
    pub ownership: Ownership,
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// What becomes of device nodes.
    pub devices: Devices,
}

/// Something about a path that could not be had and does not make the layer wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// An extended attribute that the file system or the kernel refused.
    Xattr {
        /// The path.
        path: Vec<u8>,
        /// The attribute's name.
        name: Vec<u8>,
        /// The kernel's answer.
        errno: i32,
    },
    /// An extended attribute that would steer overlayfs or strata.
    Reserved {
        /// The path.
        path: Vec<u8>,
        /// The attribute's name.
        name: Vec<u8>,
    },
    /// A device node that was left out.
    Device {
        /// The path.
        path: Vec<u8>,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Xattr { path, name, errno } => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(
                    f,
                    "/{}: attribute {} not set: {error}",
                    text(path),
                    text(name)
                )
            }
            Note::Reserved { path, name } => {
                write!(f, "/{}: attribute {} left out", text(path), text(name))
            }
            Note::Device { path } => write!(f, "/{}: device left out", text(path)),
        }
    }
}
